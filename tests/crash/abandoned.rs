//! A worker that is killed and stays away: another one runs its job after the lease.

use sawmill::job::{OutcomeClass, Stream};

use super::{Held, SHORT, Scene, each, told};
use crate::delivery::host::{On, until};
use crate::delivery::remote::refs;

each! { is_run_by_another:
    in_prepare(Sqlite, Prepare)
    in_execute(Sqlite, Execute)
    in_commit(Sqlite, Commit)
    in_judge(Sqlite, Judge)
    in_publish(Sqlite, Publish)
    in_complete(Sqlite, Complete)
    in_prepare_on_postgres(Postgres, Prepare)
    in_execute_on_postgres(Postgres, Execute)
    in_commit_on_postgres(Postgres, Commit)
    in_judge_on_postgres(Postgres, Judge)
    in_publish_on_postgres(Postgres, Publish)
    in_complete_on_postgres(Postgres, Complete)
}

async fn is_run_by_another(on: On, held: Held) {
    let scene = Scene::set(on, held, SHORT).await;
    let host = &scene.host;
    scene.kill_in_stage().await;
    until("the supervisors and the job of the worker that was killed end", async || {
        host.processes("__supervise").is_empty() && host.processes("SAWMILL_JOB=").is_empty()
    })
    .await;
    let salvaged = refs(&scene.remote, "refs/sawmill/salvage/");
    let expected = match held {
        // There was no work yet, or it had been delivered.
        Held::Prepare | Held::Complete => Vec::new(),
        Held::Execute | Held::Commit | Held::Judge | Held::Publish => vec![format!("refs/sawmill/salvage/{}/1", scene.job)],
    };
    assert_eq!(salvaged.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(), expected, "{}", host.logs());

    let second = host.start("b").await;
    let job = scene.assert_delivered_once(2).await;
    assert_eq!(job.resets, 1);
    let attempts = host.attempts(scene.job).await;
    let classes: Vec<_> = attempts.iter().map(|attempt| attempt.outcome.as_ref().expect("it has ended").class).collect();
    assert_eq!(classes, [OutcomeClass::LeaseLost, OutcomeClass::Succeeded]);
    let told = told(&host.log(scene.job, 2, Stream::Stderr).await);
    assert_eq!(told["previous"]["attempt"], 1);
    assert_eq!(told["previous"]["salvage"].as_str(), salvaged.first().map(|(_, commit)| commit.as_str()));

    // What the first worker had to say to a remote ended with it. What it did on its own disk may go on, and is too late.
    match held {
        Held::Prepare | Held::Publish => {}
        Held::Execute | Held::Commit | Held::Judge | Held::Complete => drop(scene.latch.let_go()),
    }
    until("nothing of the first worker is left", async || host.processes("/a/").is_empty()).await;
    scene.assert_delivered_once(2).await;
    let first = host.start("a").await;
    scene.close(vec![first, second]).await;
}
