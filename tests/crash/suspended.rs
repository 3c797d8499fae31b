//! A worker that sleeps through the end of its lease and wakes up when another has done its job.

use nix::sys::signal::Signal;
use sawmill::ids::AttemptNo;

use super::{Held, SHORT, Scene, each};
use crate::delivery::host::{On, until};
use crate::delivery::remote::refs;

each! { writes_nothing:
    a_worker_that_wakes_up_too_late_writes_nothing(Sqlite, Execute)
    a_worker_that_wakes_up_too_late_in_a_push_writes_nothing(Sqlite, Publish)
    a_worker_that_wakes_up_too_late_writes_nothing_on_postgres(Postgres, Execute)
}

async fn writes_nothing(on: On, held: Held) {
    let scene = Scene::set(on, held, SHORT).await;
    let host = &scene.host;
    let first = host.start("a").await;
    scene.latch.reached().await;
    scene.latch.lift();
    first.signal(Signal::SIGSTOP);
    until("the first worker's supervisors end", async || host.processes("__supervise").is_empty()).await;
    let second = host.start("b").await;
    scene.assert_delivered_once(2).await;

    let before = record(&scene).await;
    first.signal(Signal::SIGCONT);
    // What its git was held at is let go at the worst moment.
    scene.latch.let_go();
    until("the first worker notices", async || first.log().contains("lost its claim")).await;
    until("the first worker's slot is clear", async || {
        !host.state_dir("a").join("slots/1/run").exists() && !host.state_dir("a").join("slots/0/run").exists()
    })
    .await;
    assert_eq!(record(&scene).await, before, "{}", first.log());
    scene.assert_delivered_once(2).await;
    scene.close(vec![first, second]).await;
}

/// Everything that is on record of the job, and all refs of the remote.
async fn record(scene: &Scene) -> String {
    let (host, job) = (&scene.host, scene.job);
    let mut logs = Vec::new();
    for attempt in [1, 2] {
        let page = host.store.read_log(job, AttemptNo(attempt), 0, 1 << 20).await.expect("the log can be read");
        logs.push(format!("{page:?}"));
    }
    format!(
        "{:#?}\n{:#?}\n{:#?}\n{logs:#?}\n{:#?}",
        host.job(job).await,
        host.attempts(job).await,
        host.completions(None).await,
        refs(&scene.remote, "refs/")
    )
}
