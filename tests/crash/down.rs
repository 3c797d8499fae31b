//! A database that is down for everybody, for longer than a lease: nobody could take a claim, so no job is stopped for it.

use std::sync::Arc;

use nix::sys::signal::Signal;
use sawmill::job::{LogVerdict, OutcomeClass, Stream};

use super::{Held, OUTPUT, SHORT, Scene};
use crate::delivery::daemon::Seat;
use crate::delivery::host::{GitProgram, Host, Terms, until};
use crate::delivery::remote::refs;
use crate::torture::alone::Alone;
use crate::torture::server::{Server, Stop, free_port};

/// A server of its own for a job that is held.
async fn scene(held: Held) -> (Scene, Arc<Server>) {
    let port = free_port();
    let server = tokio::task::spawn_blocking(move || Arc::new(Server::new("127.0.0.1", port, &[]))).await.expect("a server");
    let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
    let terms = Terms { lease: SHORT, slots: 2, resets: 5, git: GitProgram::Latched };
    (Scene::on(Host::at(|_| url, terms).await, held), server)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_down_for_longer_than_the_lease_costs_no_job() {
    costs_no_job(|_| {}, Server::start).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_recovers_for_longer_than_the_lease_costs_no_job() {
    costs_no_job(Server::start_recovering, Server::end_recovery).await;
}

/// `meanwhile` is done to the server that was stopped, which lets nobody in before it is `back`.
async fn costs_no_job(meanwhile: fn(&Server), back: fn(&Server)) {
    let _alone = Alone::on_this_machine().await;
    let (scene, server) = scene(Held::Execute).await;
    let host = &scene.host;
    let first = host.start("a").await;
    scene.latch.reached().await;
    scene.latch.lift();
    // It would take the job over, if anybody would.
    let second = host.start("b").await;

    change(&server, |server| server.stop(Stop::Immediate)).await;
    change(&server, meanwhile).await;
    tokio::time::sleep(SHORT * 2).await;
    // The job comes to its end, and delivers, while nobody can be told.
    scene.latch.release().await;
    tokio::time::sleep(SHORT / 2).await;
    assert!(!first.log().contains("lost its claim"), "{}", first.log());
    change(&server, back).await;

    host.succeeded(scene.job).await;
    let attempts = host.attempts(scene.job).await;
    assert_eq!((attempts.len(), attempts[0].worker.as_str()), (1, "a"), "{attempts:#?}\n{}", host.logs());
    let job = scene.assert_delivered_once(1).await;
    assert_eq!((job.resets, job.attempts_used), (0, 1));
    assert_eq!(attempts[0].log_verdict, Some(LogVerdict::Complete));
    assert_eq!(host.log(scene.job, 1, Stream::Stdout).await, OUTPUT);
    assert_eq!(refs(&scene.remote, "refs/sawmill/"), []);
    scene.close(vec![first, second]).await;
}

/// Tells a worker twice to leave, whose database went down while it was held in its job. `release` says whether the job comes to its end
/// before.
async fn leaves(scene: &Scene, server: &Arc<Server>, release: bool) {
    let mut worker = scene.host.start("a").await;
    scene.latch.reached().await;
    scene.latch.lift();
    change(server, |server| server.stop(Stop::Immediate)).await;
    if release {
        scene.latch.release().await;
        until("the branch is pushed", async || scene.said("pushed")).await;
    }
    worker.signal(Signal::SIGTERM);
    until("it drains", async || worker.log().contains("draining")).await;
    worker.signal(Signal::SIGTERM);
    let status = worker.exit().await;
    assert!(status.success(), "{status}\n{}", worker.log());
    assert!(worker.log().contains("the next start of this worker tries again"), "{}", worker.log());
    scene.latch.let_go();
    change(server, Server::start).await;
    let found = scene.host.command(&Seat::of("a"), &["reconcile", "--apply"]).output().expect("it runs");
    let said = String::from_utf8_lossy(&found.stdout);
    assert!(found.status.success() && said.contains("waits in it"), "{said}{}", String::from_utf8_lossy(&found.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_leaves_without_its_database_and_records_at_the_next_start_what_it_delivered() {
    let _alone = Alone::on_this_machine().await;
    let (scene, server) = scene(Held::Publish).await;
    leaves(&scene, &server, true).await;

    let pushed = refs(&scene.remote, "refs/heads/");
    let worker = scene.host.start("a").await;
    let job = scene.assert_delivered_once(1).await;
    assert_eq!((job.resets, job.attempts_used), (0, 1));
    let attempts = scene.host.attempts(scene.job).await;
    assert_eq!((attempts.len(), attempts[0].log_verdict), (1, Some(LogVerdict::Complete)));
    assert_eq!(scene.host.log(scene.job, 1, Stream::Stdout).await, OUTPUT);
    assert_eq!(refs(&scene.remote, "refs/heads/"), pushed, "it is not done again");
    scene.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_leaves_without_its_database_and_gives_back_at_the_next_start_what_it_stopped() {
    let _alone = Alone::on_this_machine().await;
    let (scene, server) = scene(Held::Execute).await;
    leaves(&scene, &server, false).await;

    let worker = scene.host.start("a").await;
    let job = scene.assert_delivered_once(2).await;
    assert_eq!((job.resets, job.attempts_used), (0, 1));
    let attempts = scene.host.attempts(scene.job).await;
    let classes: Vec<_> = attempts.iter().map(|attempt| attempt.outcome.as_ref().map(|outcome| outcome.class)).collect();
    assert_eq!(classes, [Some(OutcomeClass::Released), Some(OutcomeClass::Succeeded)]);
    scene.close(vec![worker]).await;
}

/// What takes its time is done where it holds nobody up.
async fn change(server: &Arc<Server>, what: impl FnOnce(&Server) + Send + 'static) {
    let server = server.clone();
    tokio::task::spawn_blocking(move || what(&server)).await.expect("the server does as it is told");
}
