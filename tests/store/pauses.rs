//! Credentials whose usage limit was met: for how long they are paused, who waits for that, and who hears of it.

use std::time::Duration;

use sawmill::clock::Timestamp;
use sawmill::ids::WorkerId;
use sawmill::job::explain::Obstacle;
use sawmill::job::{Hold, Job, JobState, OutcomeClass, Pause};
use sawmill::store::{CredentialNews, Finish, StoreError};

use super::{LONG, Queue, completion, finish, on_both, workers};

/// The first pause of the tests' queue where no reset is told.
const FIRST: Duration = Duration::from_secs(60);

fn limited(retry_at: Option<Timestamp>) -> Finish {
    let credential = Some(CredentialNews::Limited { credential: "team".to_owned(), retry_at });
    Finish { credential, ..finish(OutcomeClass::UsageLimit) }
}

fn works(class: OutcomeClass) -> Finish {
    Finish { credential: Some(CredentialNews::Works { credential: "team".to_owned() }), ..finish(class) }
}

async fn pause(queue: &Queue) -> Option<Pause> {
    queue.store.pauses().await.expect("answered").pop()
}

/// Claims a job as of now, has it meet the limit, and says what is paused then.
async fn meet(queue: &Queue, retry_at: Option<Timestamp>) -> (Job, Pause) {
    queue.enqueue().await;
    let claimed = queue.claim("w").await;
    let job = queue.store.finish(&claimed.claim, limited(retry_at)).await.expect("finished");
    (job, pause(queue).await.expect("a pause"))
}

/// Has the pause be over, as time would.
async fn pass(queue: &Queue) {
    queue.place.tamper(&format!("UPDATE pauses SET until = {}", queue.store.now().0 - 1)).await;
}

fn about(moment: Timestamp, expected: Timestamp) -> bool {
    moment.since(expected).max(expected.since(moment)) < Duration::from_secs(20)
}

on_both! {
    async fn a_usage_limit_pauses_its_credential_and_is_charged_to_nobody(queue) {
        let reset = queue.store.now() + LONG;
        let (job, pause) = meet(queue, Some(reset)).await;
        assert_eq!((job.state, job.held, job.ready_at), (JobState::Queued, Some(Hold::Backoff), reset));
        assert_eq!((job.attempts_used, job.resets), (0, 0));
        assert_eq!(job.outcome.map(|outcome| outcome.class), Some(OutcomeClass::UsageLimit));
        assert_eq!((pause.credential.as_str(), pause.until, pause.times, pause.reset_known), ("team", reset, 1, true));
        assert_eq!(pause.reason, "as the test wants it");
        assert!(queue.nothing_to_claim().await);
    }

    async fn without_a_reset_a_pause_doubles_each_time_until_the_credential_works(queue) {
        for (times, wait) in [(1, FIRST), (2, FIRST * 2), (3, FIRST * 4), (4, FIRST * 4)] {
            let (job, pause) = meet(queue, None).await;
            assert!(about(pause.until, queue.store.now() + wait), "{times}: {pause:?}");
            assert_eq!((pause.times, pause.reset_known, job.ready_at), (times, false, pause.until));
            pass(queue).await;
        }
        queue.enqueue().await;
        let claimed = queue.claim("w").await;
        queue.store.finish(&claimed.claim, works(OutcomeClass::Gate)).await.expect("finished");
        assert_eq!(pause(queue).await, None, "the backend did its work");
        assert_eq!(meet(queue, None).await.1.times, 1);
    }

    async fn what_ran_when_a_pause_began_neither_ends_nor_lengthens_it(queue) {
        for _ in 0..3 {
            queue.enqueue().await;
        }
        let (first, second, third) = (queue.claim("w").await, queue.claim("w").await, queue.claim("v").await);
        queue.store.finish(&first.claim, limited(None)).await.expect("finished");
        let begun = pause(queue).await.expect("a pause");
        let job = queue.store.finish(&second.claim, limited(None)).await.expect("finished");
        assert_eq!(job.ready_at, begun.until, "one limit, met by two");
        let delivered = Finish { completion: Some(completion(&third)), ..works(OutcomeClass::Succeeded) };
        let job = queue.store.finish(&third.claim, delivered).await.expect("finished");
        assert_eq!(job.state, JobState::Succeeded);
        assert_eq!(pause(queue).await, Some(begun));
    }

    async fn who_has_lost_its_lease_pauses_nothing(queue) {
        queue.enqueue().await;
        let lost = queue.claim_for("w", Duration::from_millis(1)).await;
        queue.place.tamper("UPDATE jobs SET lease_until = 1").await;
        while queue.store.expire_once(10).await.expect("answered").is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(matches!(queue.store.finish(&lost.claim, limited(None)).await, Err(StoreError::LeaseLost)));
        assert_eq!(pause(queue).await, None);
    }

    async fn a_job_that_is_to_end_ends_and_the_credential_is_paused_all_the_same(queue) {
        queue.enqueue().await;
        let claimed = queue.claim("w").await;
        queue.store.cancel(claimed.claim.job, "enough").await.expect("asked");
        let job = queue.store.finish(&claimed.claim, limited(None)).await.expect("finished");
        assert_eq!(job.state, JobState::Cancelled);
        assert!(pause(queue).await.is_some());
    }

    async fn a_pause_that_is_lifted_lets_go_who_waits_for_it_and_nobody_else(queue) {
        let reset = queue.store.now() + LONG;
        let (job, before) = meet(queue, Some(reset)).await;
        queue.enqueue().await;
        let other = queue.claim("w").await;
        let of_another = CredentialNews::Limited { credential: "solo".to_owned(), retry_at: Some(reset) };
        let end = Finish { credential: Some(of_another), ..finish(OutcomeClass::UsageLimit) };
        queue.store.finish(&other.claim, end).await.expect("finished");

        assert_eq!(queue.store.lift_pause("team").await.expect("lifted"), before);
        assert!(matches!(queue.store.lift_pause("team").await, Err(StoreError::NotFound { .. })));
        assert_eq!(queue.store.promote_once(10).await.expect("done"), 1);
        assert_eq!(queue.claim("w").await.claim.job, job.id);
        assert!(queue.nothing_to_claim().await);
        pass(queue).await;
        assert!(matches!(queue.store.lift_pause("solo").await, Err(StoreError::NotFound { .. })), "it is over");
    }

    async fn workers_hear_of_pauses_with_every_answer(queue) {
        let id = WorkerId::new("w");
        let quiet = queue.store.orders(&id).await.expect("answered").heard;
        assert_eq!((quiet.drain, quiet.pauses), (None, Vec::new()));
        let (_, paused) = meet(queue, None).await;
        let unknown = queue.store.orders(&WorkerId::new("new")).await.expect("answered").heard;
        assert_eq!(unknown.pauses, std::slice::from_ref(&paused), "also one that is not on record yet");
        let said = workers::report(queue.store.now());
        queue.store.report_worker(&said).await.expect("reported");
        let drain = queue.store.drain_worker(&said.id, "op", "").await.expect("asked").drain;
        queue.enqueue().await;
        let claim = queue.claim("w").await.claim;
        let renewed = queue.store.renew(&said.id, std::slice::from_ref(&claim), LONG).await.expect("answered");
        assert_eq!((renewed.heard.drain, renewed.heard.pauses), (drain, vec![paused]));
    }

    async fn a_paused_credential_is_what_keeps_a_job_from_the_workers_that_draw_on_it(queue) {
        let now = queue.store.now();
        let mut said = workers::report(now);
        said.backends[0].credential = "team".to_owned();
        queue.store.report_worker(&said).await.expect("reported");
        let (_, paused) = meet(queue, None).await;
        let waits = queue.enqueue().await.id;
        let record = queue.store.worker(&said.id).await.expect("there");
        assert_eq!(record.pauses, std::slice::from_ref(&paused));
        let told = queue.store.explain(waits).await.expect("answered");
        let found = told.workers[0].obstacles.iter().find(|obstacle| matches!(obstacle, Obstacle::Paused { .. }));
        let Some(Obstacle::Paused { backend, credential, until, reset_known: false, .. }) = found else { panic!("{told:?}") };
        assert_eq!((backend.as_str(), credential.as_str(), *until), ("shell", "team", paused.until));
        assert!(told.changes.iter().any(|change| change.contains("sawmill pauses lift team")), "{told:?}");
        pass(queue).await;
        let told = queue.store.explain(waits).await.expect("answered");
        assert!(!told.workers[0].obstacles.iter().any(|obstacle| matches!(obstacle, Obstacle::Paused { .. })), "{told:?}");
    }
}
