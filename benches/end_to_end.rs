//! What a job costs beyond the git commands that a script would run for the same result, stage by stage, and what an idle
//! worker costs. Real processes, a local bare remote; on the host, in warm containers and by the script, by turns in one run, each when
//! all is done that the one before left to do. Then, in containers, jobs of one slot that follow each other at once.
//!
//! `tests/with-services.sh cargo bench --bench end_to_end` (rounds: `SAWMILL_BENCH_ROUNDS`, 40 by default, a quarter of them on the
//! largest repository). Medians, in milliseconds. As root everything is on an ext4 of its own with a journal (see `workspace/disk.rs`).

#[path = "workspace/disk.rs"]
#[expect(dead_code, reason = "the bench of worktrees uses more of it")]
mod disk;
#[path = "../tests/container/image.rs"]
#[expect(dead_code, reason = "tests use more of it")]
mod image;
#[path = "server/mod.rs"]
mod server;
#[path = "server/settled.rs"]
mod settled;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use sawmill::api::wire::Page;
use sawmill::cli::Client;
use sawmill::job::spec::{self, Deliver, Task};
use sawmill::job::{AttemptRecord, Job, JobSpec};

use disk::{Disk, Kind};
use server::Server;

/// What the job does: it changes one file.
const CHANGE: &str = "echo changed >> CHANGED.txt";
/// What is compared with the script.
const WHOLE: &str = "0 from enqueue to end";
/// So many jobs follow each other at once.
const IN_A_ROW: usize = 10;
/// The configuration of a worker whose jobs run on the host.
const HOST: &str = "[container]\nmode = \"off\"\n";

fn main() {
    let rounds: usize = std::env::var("SAWMILL_BENCH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(40);
    let disk = if nix::unistd::Uid::effective().is_root() { Disk::make(Kind::Ext4) } else { Disk::plain() };
    println!("rounds: {rounds}; {}", disk.description());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let sizes = [("small", 240, 0.3, rounds), ("middle", 3_000, 0.12, rounds), ("large", 57_000, 0.02, rounds.div_ceil(4))];
    for (name, files, reach, rounds) in sizes {
        let place = disk.path().join(name);
        let remote = make_remote(&place, files);
        runtime.block_on(compare(name, &place, &remote, rounds, reach));
    }
    runtime.block_on(idle(&disk.path().join("idle")));
}

/// Where jobs run, and what was measured there, stage by stage.
struct Way {
    name: &'static str,
    client: Client,
    /// The state directory, where it has a container, made ahead.
    containers: Option<PathBuf>,
    stages: BTreeMap<&'static str, Vec<f64>>,
    _server: Server,
}

impl Way {
    fn open(name: &'static str, place: &Path, settings: &str) -> Self {
        let dir = place.join(name);
        let server = Server::start(&dir, 1, settings);
        let client = Client::http(&server.address).expect("an address");
        let containers = (settings != HOST).then(|| dir.join("worker"));
        Self { name, client, containers, stages: BTreeMap::new(), _server: server }
    }

    /// Waits until nothing of what came before is to be done any more: neither what is to be written to the disk, nor a container.
    async fn settle(&self) {
        nix::unistd::sync();
        // Before the first job there is none.
        if let Some(state) = &self.containers
            && !(self.stages.is_empty() && settled::owned(state).is_empty())
        {
            settled::settled(state, 1).await;
        }
    }
}

/// Runs jobs and scripts by turns on one remote. A job is to take `reach` of the script's time at the most.
async fn compare(name: &str, place: &Path, remote: &Path, rounds: usize, reach: f64) {
    let image = image::with_git().await;
    let containers = format!("[container]\nmode = \"on\"\nimage = {image:?}\nsocket = {:?}\n", image::socket());
    let mut ways = [Way::open("host", place, HOST), Way::open("container", place, &containers)];
    let clone = place.join("clone");
    git(place, &["clone", "--quiet", "--bare", path(remote), path(&clone)]);

    let mut script = Vec::new();
    for round in 0..rounds + 3 {
        let mut jobs = Vec::new();
        for way in &ways {
            way.settle().await;
            jobs.push(run_job(way, remote, round).await);
        }
        nix::unistd::sync();
        let took = run_script(&clone, &place.join("script-tree"), round);
        if round < 3 {
            continue; // The first ones clone the mirror and warm the caches.
        }
        script.push(took);
        for (way, (job, attempt)) in ways.iter_mut().zip(&jobs) {
            record(&mut way.stages, job, attempt);
        }
    }
    let [_, containers] = &ways;
    containers.settle().await;
    let mut row = Vec::new();
    for number in 0..IN_A_ROW {
        row.push(enqueue(containers, remote, rounds + 3 + number).await);
    }
    let begun = row[0].created_at;
    let mut ended = begun;
    for job in row {
        ended = end_of(containers, &job).await.0.finished_at.expect("ended");
    }
    let row = ended.since(begun).as_secs_f64() * 1e3 / IN_A_ROW as f64;
    println!("\n{name}: {} files", git(remote, &["ls-tree", "-r", "--name-only", "HEAD"]).lines().count());
    let script = median(&mut script);
    println!("  {:<38} {script:>8.1}", "the git commands of a script");
    println!("  {:<38} {row:>8.1}", format!("each of {IN_A_ROW} jobs in a row, container"));
    for Way { name, stages, .. } in &mut ways {
        for (stage, values) in &mut *stages {
            println!("  {:<38} {:>8.1}", format!("job, {name}: {stage}"), median(values));
        }
        let whole = median(stages.get_mut(WHOLE).expect("measured"));
        let ratio = whole / script;
        let verdict = if ratio <= reach { "reached" } else { "not reached" };
        println!("  {:<38} {ratio:>8.3}  (to reach: {reach}; {verdict})", format!("job, {name}: it takes of the script"));
    }
}

fn record(stages: &mut BTreeMap<&'static str, Vec<f64>>, job: &Job, attempt: &AttemptRecord) {
    let ms = |from: sawmill::clock::Timestamp, to: sawmill::clock::Timestamp| to.since(from).as_secs_f64() * 1e3;
    let finished = job.finished_at.expect("ended");
    stages.entry(WHOLE).or_default().push(ms(job.created_at, finished));
    stages.entry("1 enqueue to claim").or_default().push(ms(job.created_at, attempt.started_at));
    let names = ["2 prepare", "3 execute", "4 commit", "5 judge", "6 publish", "7 cleanup", "8 complete"];
    for (name, stage) in names.into_iter().zip(&attempt.stages) {
        assert!(name.ends_with(stage.stage.as_str()), "stages are as expected");
        stages.entry(name).or_default().push(ms(stage.started_at, stage.ended_at.unwrap_or(finished)));
    }
}

async fn run_job(way: &Way, remote: &Path, round: usize) -> (Job, AttemptRecord) {
    end_of(way, &enqueue(way, remote, round).await).await
}

async fn enqueue(Way { name, client, .. }: &Way, remote: &Path, round: usize) -> Job {
    let spec = JobSpec {
        schema: spec::SCHEMA,
        repo: Some(path(remote).to_owned()),
        task: Task { command: Some(spec::Command::Line(CHANGE.to_owned())), ..Task::default() },
        deliver: Deliver { branch: Some(format!("{name}/{round}").parse().expect("a branch name")), ..Deliver::default() },
        ..JobSpec::default()
    };
    client.post("/v1/jobs", &spec).await.expect("enqueued")
}

async fn end_of(Way { client, .. }: &Way, job: &Job) -> (Job, AttemptRecord) {
    loop {
        let job: Job = client.get(&format!("/v1/jobs/{}", job.id)).await.expect("the job");
        if job.state.is_final() {
            assert!(job.commit.is_some(), "delivered: {:?}", job.outcome);
            let attempts: Page<AttemptRecord> = client.get(&format!("/v1/jobs/{}/attempts", job.id)).await.expect("attempts");
            return (job, attempts.items.into_iter().next().expect("one attempt"));
        }
        // Seldom: what it asks is work for those who are measured.
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// The git commands that a script would run for the same result, with the change between them.
fn run_script(clone: &Path, tree: &Path, round: usize) -> f64 {
    let branch = format!("script/{round}");
    let started = Instant::now();
    git(clone, &["fetch", "--quiet", "origin"]);
    git(clone, &["worktree", "add", "--quiet", "--no-track", "-b", &branch, path(tree), "HEAD"]);
    assert!(Command::new("sh").args(["-c", CHANGE]).current_dir(tree).status().expect("sh runs").success());
    git(tree, &["status", "--porcelain"]);
    git(tree, &["add", "-A"]);
    git(tree, &["diff", "--cached", "--numstat"]);
    git(tree, &["commit", "--quiet", "-m", "change"]);
    git(tree, &["push", "--quiet", "origin", &branch]);
    git(clone, &["worktree", "remove", "--force", path(tree)]);
    git(clone, &["worktree", "prune"]);
    started.elapsed().as_secs_f64() * 1e3
}

/// What a worker with four slots costs while it has nothing to do.
async fn idle(place: &Path) {
    let server = Server::start(place, 4, HOST);
    let client = Client::http(&server.address).expect("an address");
    let _: serde_json::Value = client.get("/v1/workers").await.expect("it answers");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = cpu_ticks(server.child.id());
    tokio::time::sleep(Duration::from_secs(10)).await;
    let ticks = cpu_ticks(server.child.id()) - before;
    println!("\nidle, with the API in the same process:");
    println!("  resident memory of the daemon {:>8.1} MB", resident_mb(server.child.id()));
    let supervisors = supervisors(place);
    for pid in &supervisors {
        println!("  resident memory of a supervisor {:>6.1} MB", resident_mb(*pid));
    }
    assert_eq!(supervisors.len(), 4, "one for each slot");
    // A tick is a hundredth of a second.
    println!("  processor time                {:>8.2} % of a core", ticks as f64 / 10.0);
}

/// A bare repository with about that many files of a few kilobytes, some 150 in a directory of the larger ones.
fn make_remote(place: &Path, files: usize) -> PathBuf {
    let (source, remote) = (place.join("source"), place.join("remote.git"));
    fs::create_dir_all(&source).expect("made");
    let dirs = (files / 150).max(40);
    for number in 0..files {
        let dir = source.join(format!("part-{:03}", number % dirs));
        fs::create_dir_all(&dir).expect("made");
        let line = format!("line of file {number} with some text that is not too regular: {}\n", number * 7919);
        fs::write(dir.join(format!("file-{number}.txt")), line.repeat(20 + number % 60)).expect("written");
    }
    git(&source, &["init", "--quiet", "-b", "main"]);
    git(&source, &["add", "-A"]);
    git(&source, &["commit", "--quiet", "-m", "files"]);
    git(place, &["clone", "--quiet", "--bare", path(&source), path(&remote)]);
    remote
}

fn git(dir: &Path, args: &[&str]) -> String {
    let identity = ["-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "gc.auto=0"];
    let output = Command::new("git").args(identity).args(args).current_dir(dir).output().expect("git runs");
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn resident_mb(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok()).expect("a number") / 1024.0
}

fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime")
}

/// The supervisors whose slots are below `place`.
fn supervisors(place: &Path) -> Vec<u32> {
    let below = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains("__supervise") && String::from_utf8_lossy(&line).contains(path(place))
    };
    let entries = fs::read_dir("/proc").expect("/proc").filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    entries.filter(below).collect()
}
