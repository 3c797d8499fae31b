//! Signals: the first one drains, the second one stops.

use nix::sys::signal::Signal;
use sawmill::job::{JobState, OutcomeClass, Stream};
use serde_json::json;

use super::{Held, LONG, OUTPUT, Scene, each, told};
use crate::delivery::host::{On, until};
use crate::delivery::remote::refs;

each! { the_first_drains:
    the_first_signal_lets_jobs_end_and_claims_no_more(Sqlite, Execute)
    the_first_signal_lets_jobs_end_and_claims_no_more_on_postgres(Postgres, Execute)
}

async fn the_first_drains(on: On, held: Held) {
    let scene = Scene::set(on, held, LONG).await;
    let host = &scene.host;
    let mut worker = host.start("a").await;
    scene.latch.reached().await;
    worker.signal(Signal::SIGTERM);
    until("the worker drains", async || worker.log().contains("draining")).await;
    // There is a free slot for it.
    let later = host.enqueue(&json!({ "repo": scene.remote, "task": { "command": "echo later > later.txt" } }));
    scene.latch.release().await;
    assert!(worker.exit().await.success(), "{}", worker.log());
    scene.assert_delivered_once(1).await;
    assert_eq!(host.log(scene.job, 1, Stream::Stdout).await, OUTPUT);
    let later = host.job(later).await;
    assert_eq!((later.state, later.attempt), (JobState::Queued, None));
    scene.close(Vec::new()).await;
}

each! { the_second_stops:
    the_second_signal_salvages_and_gives_the_job_back(Sqlite, Execute)
    the_second_signal_salvages_and_gives_the_job_back_on_postgres(Postgres, Execute)
    the_second_signal_gives_a_job_back_whose_push_hangs(Sqlite, Publish)
}

async fn the_second_stops(on: On, held: Held) {
    let scene = Scene::set(on, held, LONG).await;
    let host = &scene.host;
    let mut worker = host.start("a").await;
    scene.latch.reached().await;
    scene.latch.lift();
    worker.signal(Signal::SIGTERM);
    until("the worker drains", async || worker.log().contains("draining")).await;
    worker.signal(Signal::SIGINT);
    assert!(worker.exit().await.success(), "{}", worker.log());

    let job = host.job(scene.job).await;
    assert_eq!((job.state, job.attempts_used, job.resets), (JobState::Queued, 0, 0), "{}", worker.log());
    let attempt = host.attempts(scene.job).await.remove(0);
    assert_eq!(attempt.outcome.expect("it has ended").class, OutcomeClass::Released);
    let salvage = attempt.salvage.expect("what it left is salvaged").to_string();
    assert_eq!(refs(&scene.remote, "refs/sawmill/salvage/"), [(format!("refs/sawmill/salvage/{}/1", job.id), salvage.clone())]);
    scene.latch.let_go();
    until("nothing of the worker is left", async || host.processes("/a/").is_empty()).await;

    let worker = host.start("a").await;
    scene.assert_delivered_once(2).await;
    assert_eq!(told(&host.log(scene.job, 2, Stream::Stderr).await)["previous"]["salvage"], salvage);
    scene.close(vec![worker]).await;
}
