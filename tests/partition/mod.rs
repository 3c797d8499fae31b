//! Two workers on hosts of their own and the database on a third, and the network between them fails.
//!
//! The repository stays in reach of both: a worker that is cut off from the database alone could still push.

mod network;

use std::sync::Arc;
use std::time::Duration;

use sawmill::job::{JobState, LogVerdict, OutcomeClass, Stream};
use serde_json::json;

use self::network::Network;
use crate::crash::{Held, Scene};
use crate::delivery::daemon::{Daemon, Seat};
use crate::delivery::host::{GitProgram, Host, Terms, until};
use crate::delivery::remote::refs;
use crate::torture::alone::Alone;
use crate::torture::server::{Server, free_port};

/// Three hosts, and a job whose first attempt is held on the first worker.
struct Hosts {
    network: Network,
    scene: Scene,
    /// The first worker and the second.
    workers: [Daemon; 2],
    _server: Arc<Server>,
    _alone: Alone,
}

impl Hosts {
    async fn set(held: Held, lease: Duration) -> Self {
        let alone = Alone::on_this_machine().await;
        let network = Network::of(&["db", "a", "b"]);
        let (address, port, prefix) = (network.address("db").to_string(), free_port(), network.prefix("db"));
        let listen = address.clone();
        let server = tokio::task::spawn_blocking(move || Arc::new(Server::new(&listen, port, &prefix))).await.expect("a server");
        let own = server.socket_url(port);
        let terms = Terms { lease, slots: 2, resets: 5, git: GitProgram::Latched };
        let scene = Scene::on(Host::at(|_| own, terms).await, held);
        let url = format!("postgres://postgres@{address}:{port}/postgres");
        let seat = |name: &str| Seat { worker: name.to_owned(), url: Some(url.clone()), prefix: network.prefix(name) };
        let first = scene.host.start_at(&seat("a")).await;
        scene.latch.reached().await;
        let second = scene.host.start_at(&seat("b")).await;
        Self { workers: [first, second], network, scene, _server: server, _alone: alone }
    }

    async fn close(self) {
        let Self { scene, workers, .. } = self;
        scene.close(workers.into()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_cut_off_stops_its_job_and_another_does_it() {
    is_done_by_the_other(Held::Execute).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_cut_off_in_a_push_delivers_nothing_more() {
    is_done_by_the_other(Held::Publish).await;
}

async fn is_done_by_the_other(held: Held) {
    let hosts = Hosts::set(held, Duration::from_secs(10)).await;
    let (scene, host) = (&hosts.scene, &hosts.scene.host);
    scene.latch.lift();
    hosts.network.cut("a");
    until("the other worker has the job", async || host.attempts(scene.job).await.len() == 2).await;
    assert_eq!(host.processes("SAWMILL_ATTEMPT=1"), [], "the first attempt had ended by its own clock\n{}", host.logs());
    until("the first worker has given the job up", async || hosts.workers[0].log().contains("lost its claim")).await;
    let salvage = format!("refs/sawmill/salvage/{}/1", scene.job);
    until("its work is salvaged", async || refs(&scene.remote, "refs/sawmill/").iter().any(|(name, _)| *name == salvage)).await;
    scene.assert_delivered_once(2).await;

    let before = scene.record().await;
    hosts.network.heal("a");
    // What its git was held at is let go when the network is there again.
    scene.latch.let_go();
    // Only the first one is there for the next job, the same process as ever.
    hosts.workers[1].signal(nix::sys::signal::Signal::SIGTERM);
    until("the second worker drains", async || hosts.workers[1].log().contains("draining")).await;
    let next = host.enqueue(&json!({ "repo": scene.remote, "task": { "command": "echo next > next.txt" } }));
    host.succeeded(next).await;
    let attempts = host.attempts(next).await;
    assert!(attempts.len() == 1 && attempts[0].worker.as_str() == "a", "{attempts:#?}\n{}", host.logs());
    let after = scene.record().await;
    let of_the_next = host.job(next).await.branch.to_ref();
    let without_the_next: String =
        after.refs.iter().filter(|(name, _)| *name != of_the_next).map(|one| format!("{one:?}")).collect();
    assert_eq!(without_the_next, before.refs.iter().map(|one| format!("{one:?}")).collect::<String>());
    assert_eq!(after.rows, before.rows, "{}", host.logs());
    hosts.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_that_is_shorter_than_the_lease_loses_nothing_and_restarts_nothing() {
    let lease = Duration::from_secs(20);
    let hosts = Hosts::set(Held::Execute, lease).await;
    let (scene, host) = (&hosts.scene, &hosts.scene.host);
    scene.latch.lift();
    hosts.network.cut("a");
    // The job goes on, and comes to its end while nobody can be told.
    scene.latch.release().await;
    tokio::time::sleep(lease / 3).await;
    let job = host.job(scene.job).await;
    assert_eq!((job.state, job.attempt.map(|attempt| attempt.0)), (JobState::Running, Some(1)));
    hosts.network.heal("a");
    let job = scene.assert_delivered_once(1).await;
    assert_eq!((job.resets, job.attempts_used), (0, 1));
    let attempts = host.attempts(scene.job).await;
    assert_eq!(attempts.len(), 1);
    assert_eq!(attempts[0].outcome.as_ref().map(|outcome| outcome.class), Some(OutcomeClass::Succeeded));
    assert_eq!(attempts[0].log_verdict, Some(LogVerdict::Complete));
    assert_eq!(host.log(scene.job, 1, Stream::Stdout).await, "before\nafter\n");
    assert_eq!(refs(&scene.remote, "refs/sawmill/"), []);
    hosts.close().await;
}
