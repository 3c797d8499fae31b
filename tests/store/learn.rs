//! How long an attempt may take, learnt from those like it.

use std::time::Duration;

use sawmill::job::time_limit::{LimitMode, LimitRule, TaskSize};
use sawmill::job::{Job, OutcomeClass, TimeLimit};
use sawmill::store::{NewJob, Store, StoreError};

use super::{Queue, finish, on_both};

fn rule() -> LimitRule {
    let (floor, ceiling) = (Duration::from_secs(10), Duration::from_secs(10_000));
    LimitRule { mode: LimitMode::On, samples: 3, percent: 100, factor: 2.0, floor, ceiling }
}

fn of_project(project: &str) -> impl FnOnce(&mut NewJob) + use<> {
    let project = project.to_owned();
    move |new| new.spec.project = Some(project)
}

/// An attempt that ended so after so many seconds. The job is ended with it, unless it waits for another one.
async fn attempt(queue: &Queue, edit: impl FnOnce(&mut NewJob), class: OutcomeClass, seconds: u32) -> Job {
    let job = queue.enqueue_as(edit).await;
    again(queue, &job, class, seconds).await;
    job
}

async fn again(queue: &Queue, job: &Job, class: OutcomeClass, seconds: u32) {
    let claimed = queue.claim("w").await;
    assert_eq!(claimed.claim.job, job.id);
    queue.store.finish(&claimed.claim, finish(class)).await.expect("finished");
    // Of all attempts this is the one that took no time at all.
    let sql = format!("UPDATE attempts SET started_at = ended_at - {} WHERE ended_at - started_at < 1000", seconds * 1000);
    queue.place.tamper(&sql).await;
}

/// As a process that has read nothing yet.
async fn learnt(queue: &Queue, job: &Job) -> Option<TimeLimit> {
    let store: Store = queue.other(|_| ()).await;
    let limit = store.learn_limit(job, &rule()).await.expect("the queue answers");
    store.close().await;
    limit
}

on_both! {
    async fn a_limit_is_learnt_of_attempts_like_it_and_of_no_others(queue) {
        use OutcomeClass::{Backend, Gate, Invalid, Succeeded, Timeout};
        let app = || of_project("app");
        let large = |new: &mut NewJob| {
            new.spec.project = Some("app".to_owned());
            new.spec.task.instruction = Some("x".repeat(6_000));
        };
        attempt(queue, app(), Succeeded, 20).await;
        attempt(queue, app(), Gate, 30).await;
        let waits = queue.enqueue_as(app()).await;
        queue.store.cancel(waits.id, "no longer wanted").await.expect("cancelled");
        // Of another project, at a task of another size, without an end of the work, by another backend, and of no project.
        attempt(queue, of_project("site"), Succeeded, 500).await;
        attempt(queue, large, Succeeded, 500).await;
        attempt(queue, app(), Backend, 500).await;
        attempt(queue, app(), Invalid, 500).await;
        attempt(queue, |_| (), Succeeded, 500).await;
        let job = queue.enqueue_as(app()).await;
        assert_eq!(learnt(queue, &job).await, None, "two are too few");
        assert_eq!(queue.claim("w").await.claim.job, job.id);

        attempt(queue, app(), Timeout, 40).await;
        let job = queue.enqueue_as(app()).await;
        let limit = learnt(queue, &job).await.expect("three are enough");
        assert_eq!((limit.samples, limit.size, limit.took_ms, limit.limit_ms), (3, TaskSize::Small, 40_000, 80_000));
        assert_eq!(limit.timed_out_ms, None);
        let other = queue.enqueue_as(|new| { of_project("app")(new); new.spec.backend = Some("other".to_owned()); }).await;
        assert_eq!(learnt(queue, &other).await, None, "nothing is known of that backend");
    }

    async fn a_job_that_met_its_deadline_gets_twice_as_long(queue) {
        for _ in 0..3 {
            attempt(queue, of_project("app"), OutcomeClass::Succeeded, 20).await;
        }
        let job = queue.enqueue_as(|new| { of_project("app")(new); new.attempts_max = 3; }).await;
        assert_eq!(learnt(queue, &job).await.expect("learnt").limit_ms, 40_000);
        again(queue, &job, OutcomeClass::Timeout, 40).await;
        let limit = learnt(queue, &job).await.expect("learnt");
        assert_eq!((limit.limit_ms, limit.timed_out_ms), (80_000, Some(40_000)));
        // Its own attempt is no sample of what it may take.
        assert_eq!(limit.samples, 3);
        // Another failure after that takes nothing of it back.
        queue.place.tamper("UPDATE jobs SET ready_at = 0").await;
        queue.store.promote_once(10).await.expect("promoted");
        again(queue, &job, OutcomeClass::Backend, 5).await;
        assert_eq!(learnt(queue, &job).await.expect("learnt").limit_ms, 80_000);
    }

    async fn what_was_learnt_is_on_record_with_the_attempt_and_only_under_its_claim(queue) {
        for _ in 0..3 {
            attempt(queue, of_project("app"), OutcomeClass::Succeeded, 20).await;
        }
        let job = queue.enqueue_as(of_project("app")).await;
        let claimed = queue.claim("w").await;
        let limit = learnt(queue, &job).await.expect("learnt");
        queue.store.record_time_limit(&claimed.claim, &limit).await.expect("recorded");
        assert_eq!(queue.store.attempts(job.id).await.expect("attempts")[0].time_limit.as_ref(), Some(&limit));
        queue.store.finish(&claimed.claim, finish(OutcomeClass::Succeeded)).await.expect("finished");
        let stale = queue.store.record_time_limit(&claimed.claim, &limit).await;
        assert!(matches!(stale, Err(StoreError::LeaseLost)), "{stale:?}");
    }
}
