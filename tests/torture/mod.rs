//! The torture: workers in processes of their own, on a database that is restarted, over links that are cut, killed and
//! stopped at random, and the account at the end.
//!
//! `SAWMILL_TORTURE_SECONDS` is how long the chaos lasts, `SAWMILL_TORTURE_JOBS` how many jobs there are, and
//! `SAWMILL_TORTURE_SEED` makes the decisions of an earlier run again, which a test that fails names.

mod account;
pub(crate) mod alone;
mod audit;
mod fleet;
mod orders;
mod planner;
pub(crate) mod proxy;
mod schedule;
pub(crate) mod server;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sawmill::ids::JobId;

use self::account::Account;
use self::alone::Alone;
use self::fleet::Fleet;
use self::orders::Order;
use self::planner::Planner;
use self::schedule::{Schedule, Victims};
use self::server::{Server, free_port};
use crate::delivery::host::{GitProgram, Host, Terms};
use crate::delivery::remote::{git, small_remote};

const LEASE: Duration = Duration::from_secs(3);
const REMOTES: usize = 4;
/// How long all that is left of the jobs may take when nothing is in their way any more.
const CALM: Duration = Duration::from_secs(15 * 60);

/// How much of it.
struct Measure {
    workers: usize,
    slots: u32,
    jobs: u32,
    chaos: Duration,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_jobs_survive_anything_on_postgres() {
    let _alone = Alone::on_this_machine().await;
    let seconds = setting("SECONDS", 180);
    let measure = Measure { workers: 8, slots: 3, jobs: setting("JOBS", 2_000), chaos: Duration::from_secs(seconds) };
    let port = free_port();
    let server = tokio::task::spawn_blocking(move || Arc::new(Server::new("127.0.0.1", port, &[]))).await.expect("a server");
    let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
    let terms = Terms { lease: LEASE, slots: measure.slots, resets: 1_000, git: GitProgram::Plain };
    let host = Host::at(|_| url, terms).await;
    torture(host, Some((server, SocketAddr::from(([127, 0, 0, 1], port)))), measure).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_jobs_survive_anything_on_one_file() {
    let _alone = Alone::on_this_machine().await;
    let seconds = setting("SECONDS", 180_u64) / 4;
    let jobs = setting("JOBS", 2_000) * 3 / 20;
    let measure = Measure { workers: 4, slots: 3, jobs, chaos: Duration::from_secs(seconds) };
    let terms = Terms { lease: LEASE, slots: measure.slots, resets: 1_000, git: GitProgram::Plain };
    let host = Host::at(|root| format!("sqlite:{}/queue.db", root.display()), terms).await;
    torture(host, None, measure).await;
}

fn setting<T: FromStr>(name: &str, default: T) -> T {
    let name = format!("SAWMILL_TORTURE_{name}");
    let Ok(text) = std::env::var(&name) else { return default };
    text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, which is not a number"))
}

async fn torture(host: Host, server: Option<(Arc<Server>, SocketAddr)>, measure: Measure) {
    let seed = setting("SEED", rand::random::<u32>().into());
    println!("SAWMILL_TORTURE_SEED={seed}");
    audit::begin(host.url()).await;
    std::fs::create_dir(host.root().join("remotes")).expect("a directory");
    let remotes: Vec<PathBuf> =
        (0..REMOTES).map(|number| small_remote(&host.root().join("remotes"), &format!("{number}.git"))).collect();
    // A remote is another machine's. What it does for its own upkeep is not to die with this one.
    for remote in &remotes {
        git(remote, &["config", "receive.autogc", "false"]);
    }
    let orders: Vec<Order> = (0..measure.jobs).map(|number| Order::new(seed, number, &remotes)).collect();
    let victims = Victims { workers: measure.workers, lease: LEASE, server: server.is_some() };
    let planner = Planner::start(&host).await;
    // It is asked for the account when the fleet is gone.
    let _server = server.clone();
    let mut fleet = Fleet::new(&host, server, measure.workers).await;

    let began = Instant::now();
    let (asked, in_chaos) = tokio::join!(plan(&host, &planner, orders, measure.chaos), async {
        torment(&mut fleet, Schedule::new(seed, victims), measure.chaos).await;
        fleet.heal().await;
        ended(&host).await
    });
    let chaos = began.elapsed();
    let about = format!("SAWMILL_TORTURE_SEED={seed}; {:?}", fleet.counts());
    finish(&host, &planner, &asked, &mut fleet, &about).await;
    let calm = began.elapsed() - chaos;

    let (counts, ends) = (fleet.counts().clone(), fleet.ends().to_vec());
    let daemons = fleet.into_daemons().into_iter().chain([planner.into_daemon()]).collect();
    host.end(daemons).await;
    let closed = began.elapsed();
    let mut account = Account::take(&host, &asked, &remotes).await;
    for fault in audit::faults(host.url()).await.into_iter().chain(defects(&host, &ends)) {
        account.fault(None, fault);
    }
    account.assert_clean(&host, &about).await;
    let accounted = began.elapsed() - closed;
    println!(
        "{} jobs; {in_chaos} ended in {chaos:.1?} of chaos ({:.1}/s), the rest in {calm:.1?} of calm ({:.1}/s), the account took {accounted:.1?}\n\
         {counts:?}\nworkers that ended by themselves: {}\njobs: {:?}\nattempts: {:?}\njobs by attempts: {:?}\n\
         {} bytes of log; {} salvages; {} of delivered attempts; {} branches of cancelled jobs\n\
         infrastructure: {:#?}",
        asked.len(),
        f64::from(in_chaos) / chaos.as_secs_f64(),
        f64::from(measure.jobs - in_chaos) / calm.as_secs_f64(),
        ends.len(),
        account.states,
        account.classes,
        account.attempts,
        account.log_bytes,
        account.salvages,
        account.needless_salvages,
        account.orphaned_branches,
        account.failures,
    );
}

/// Asks for all jobs, a quarter of them at once and the others over the first three quarters of the chaos, and cancels some.
async fn plan(host: &Host, planner: &Planner, orders: Vec<Order>, chaos: Duration) -> BTreeMap<JobId, Order> {
    let (began, count) = (Instant::now(), orders.len());
    let at_once = count / 4;
    let each = chaos.mul_f64(0.75) / u32::try_from(count - at_once).expect("few").max(1);
    let (mut asked, mut seen) = (BTreeMap::new(), BTreeMap::new());
    let mut cancel = Instant::now();
    for (number, order) in orders.into_iter().enumerate() {
        let due = each * u32::try_from(number.saturating_sub(at_once)).expect("few");
        tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
        let id = planner.enqueue(&order).await;
        assert!(asked.insert(id, order).is_none(), "two requests were answered with job {id}");
        if cancel.elapsed() > Duration::from_millis(300) {
            planner.cancel_once(host, &asked, &mut seen).await;
            cancel = Instant::now();
        }
    }
    asked
}

/// Carries out the schedule for so long.
async fn torment(fleet: &mut Fleet<'_>, schedule: Schedule, chaos: Duration) {
    let began = Instant::now();
    for (wait, event) in schedule {
        let due = Instant::now() + wait;
        while Instant::now() < due {
            fleet.bring_back_once();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if began.elapsed() > chaos {
            return;
        }
        fleet.carry_out(event);
    }
}

/// Waits until all jobs have ended, cancelling those that end in no other way.
async fn finish(host: &Host, planner: &Planner, asked: &BTreeMap<JobId, Order>, fleet: &mut Fleet<'_>, about: &str) {
    let (began, mut seen) = (Instant::now(), BTreeMap::new());
    while (ended(host).await as usize) < asked.len() {
        assert!(began.elapsed() < CALM, "not all jobs have ended after {CALM:?}; {about}\n{}", host.logs());
        planner.cancel_once(host, asked, &mut seen).await;
        fleet.bring_back_once();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// How many jobs have ended.
async fn ended(host: &Host) -> u32 {
    let counts = host.store.counts().await.expect("the database answers");
    let ended = counts.jobs.into_iter().filter(|(state, _)| state.is_final()).map(|(_, count)| count);
    u32::try_from(ended.sum::<u64>()).expect("few")
}

/// What daemons say that none should ever say, and ends of theirs that nobody caused.
fn defects(host: &Host, ends: &[String]) -> Vec<String> {
    let logs = host.logs();
    let said = logs.lines().filter(|line| ["panicked", "as a defect"].iter().any(|word| line.contains(word)));
    let ends = ends.iter().filter(|end| !end.contains("exit status: 5"));
    said.map(str::to_owned).chain(ends.map(|end| format!("a worker ended by itself: {end}"))).collect()
}
