//! Ending attempts.

use futures_util::future::join_all;
use sawmill::clock::Timestamp;
use sawmill::ids::{AttemptNo, ClaimToken};
use sawmill::job::attempt::Resources;
use sawmill::job::{JobState, LogVerdict, Outcome, OutcomeClass, Stage, StageRecord};
use sawmill::store::{CompletionFilter, Finish, StoreError};

use super::{LONG, completion, delivered, finish, object, on_both};

on_both! {
    async fn the_end_and_the_completion_are_one_and_a_second_end_is_refused(queue) {
        let job = queue.enqueue().await;
        let claimed = queue.claim("w").await;
        let ended = queue.store.finish(&claimed.claim, delivered(&claimed)).await.expect("finished");
        assert_eq!((ended.state, ended.commit, ended.worker), (JobState::Succeeded, Some(object('b')), None));
        assert_eq!((ended.attempts_used, ended.finished_at.is_some()), (1, true));
        let second = queue.store.finish(&claimed.claim, delivered(&claimed)).await;
        assert!(matches!(second, Err(StoreError::LeaseLost)), "{second:?}");
        let filter = CompletionFilter { job: Some(job.id), limit: 10, ..CompletionFilter::default() };
        assert_eq!(queue.store.completions(&filter).await.expect("listed").items.len(), 1);
    }

    async fn of_many_who_end_one_attempt_at_once_one_does_and_there_is_one_completion(queue) {
        let job = queue.enqueue().await;
        let claimed = queue.claim("w").await;
        let tasks: Vec<_> = (0..8).map(|_| {
            let (store, claimed) = (queue.store.clone(), claimed.clone());
            tokio::spawn(async move { store.finish(&claimed.claim, delivered(&claimed)).await })
        }).collect();
        let mut ended = 0;
        for task in tasks {
            match task.await.expect("no panic") {
                Ok(_) => ended += 1,
                Err(error) => assert!(matches!(error, StoreError::LeaseLost), "{error}"),
            }
        }
        let filter = CompletionFilter { job: Some(job.id), limit: 10, ..CompletionFilter::default() };
        let written = queue.store.completions(&filter).await.expect("listed").items.len();
        let events = queue.place.texts("SELECT state FROM outbox").await;
        assert_eq!((ended, written, events), (1, 1, vec!["succeeded".to_owned()]));
    }

    async fn of_several_that_end_at_once_each_gets_its_own_end_and_one_that_is_lost_gets_none(queue) {
        let mut ends = Vec::new();
        for number in 0..5_u32 {
            queue.enqueue().await;
            let mut claimed = queue.claim("w").await;
            if number == 2 {
                claimed.claim.token = ClaimToken::generate();
            }
            let stages = (0..number).map(|seq| StageRecord {
                seq,
                stage: Stage::Execute,
                started_at: Timestamp(i64::from(seq)),
                ended_at: None,
                outcome: None,
                detail: Some(format!("stage {seq} of {number}")),
            });
            let outcome = Outcome::new(OutcomeClass::Succeeded, format!("end {number}"));
            let end = Finish { outcome, stages: stages.collect(), ..finish(OutcomeClass::Succeeded) };
            ends.push((number, claimed, end));
        }
        let ended = join_all(ends.iter().map(|(_, claimed, end)| queue.store.finish(&claimed.claim, end.clone()))).await;
        for ((number, claimed, _), ended) in ends.iter().zip(ended) {
            let attempt = queue.store.attempts(claimed.claim.job).await.expect("there").remove(0);
            let details: Vec<_> = attempt.stages.iter().filter_map(|stage| stage.detail.clone()).collect();
            if *number == 2 {
                assert!(matches!(ended, Err(StoreError::LeaseLost)), "{ended:?}");
                assert_eq!((attempt.outcome, details), (None, Vec::new()));
                continue;
            }
            let job = ended.expect("finished");
            assert_eq!((job.id, job.state), (claimed.claim.job, JobState::Succeeded));
            let outcomes = [job.outcome, attempt.outcome].map(|outcome| outcome.expect("it has ended").message);
            assert_eq!(outcomes, [format!("end {number}"), format!("end {number}")]);
            assert_eq!(details, (0..*number).map(|seq| format!("stage {seq} of {number}")).collect::<Vec<_>>());
        }
        let told = queue.place.texts("SELECT CAST(count(DISTINCT job) AS TEXT) FROM outbox").await;
        assert_eq!(told, ["4"]);
    }

    async fn when_the_completion_cannot_be_written_the_job_has_not_ended(queue) {
        queue.enqueue().await;
        queue.enqueue().await;
        let (first, second) = (queue.claim("w").await, queue.claim("w").await);
        let taken = completion(&first);
        let end = |completion| Finish { completion: Some(completion), ..finish(OutcomeClass::Succeeded) };
        queue.store.finish(&first.claim, end(taken.clone())).await.expect("finished");
        let mut same_id = completion(&second);
        same_id.id = taken.id;
        assert!(matches!(queue.store.finish(&second.claim, end(same_id)).await, Err(StoreError::Database { .. })));
        let job = queue.store.job(second.claim.job).await.expect("there");
        assert_eq!((job.state, job.outcome), (JobState::Running, None));
        let foreign = queue.store.finish(&second.claim, end(completion(&first))).await;
        assert!(matches!(foreign, Err(StoreError::ForeignCompletion(_))), "{foreign:?}");
        queue.store.finish(&second.claim, delivered(&second)).await.expect("the claim still holds");
    }

    async fn the_attempt_keeps_what_it_is_given(queue) {
        let job = queue.enqueue().await;
        let claimed = queue.claim("w").await;
        let resources =
            Resources { exit_code: Some(-1), signal: Some(9), peak_memory_bytes: Some(1 << 40), cpu_ms: Some(12) };
        let log = LogVerdict::Truncated { bytes: 7 };
        let end = Finish { resources, log, salvage: Some(object('d')), ..finish(OutcomeClass::OutOfMemory) };
        queue.store.finish(&claimed.claim, end).await.expect("finished");
        let attempt = queue.store.attempts(job.id).await.expect("there").remove(0);
        assert_eq!((attempt.resources, attempt.log_verdict, attempt.salvage), (resources, Some(log), Some(object('d'))));
        assert_eq!(attempt.outcome.expect("recorded").class, OutcomeClass::OutOfMemory);
        assert!(attempt.ended_at.is_some());
    }

    async fn a_job_that_fails_by_its_own_fault_waits_and_burns_its_attempts(queue) {
        let store = queue.other(|config| config.retry.backoff = LONG).await;
        let job = queue.enqueue_as(|new| new.attempts_max = 2).await;
        let first = queue.claim("w").await;
        let waits = store.finish(&first.claim, finish(OutcomeClass::Backend)).await.expect("finished");
        assert_eq!((waits.state, waits.attempts_used, waits.resets), (JobState::Queued, 1, 0));
        assert!(waits.ready_at >= store.now() + LONG / 3 && waits.ready_at <= store.now() + LONG);
        assert_eq!(store.next_ready_at().await.expect("answered"), Some(waits.ready_at));
        assert_eq!(waits.outcome.expect("that of the attempt").class, OutcomeClass::Backend);
        assert!(queue.nothing_to_claim().await);
        queue.place.tamper("UPDATE jobs SET ready_at = 1").await;
        assert_eq!(store.promote_once(10).await.expect("done"), 1);
        let second = queue.claim("w").await;
        let failed = store.finish(&second.claim, finish(OutcomeClass::Timeout)).await.expect("finished");
        assert_eq!((failed.id, failed.state, failed.attempts_used), (job.id, JobState::Failed, 2));
        store.close().await;
    }

    async fn a_released_job_is_back_at_once_and_nothing_is_charged(queue) {
        queue.enqueue().await;
        for attempt in 1..=5 {
            let claimed = queue.claim("w").await;
            assert_eq!(claimed.claim.attempt, AttemptNo(attempt));
            let back = queue.store.finish(&claimed.claim, finish(OutcomeClass::Released)).await.expect("released");
            assert_eq!((back.state, back.attempts_used, back.resets), (JobState::Queued, 0, 0));
        }
    }

    async fn infrastructure_burns_nothing_and_is_given_up_in_the_end(queue) {
        queue.enqueue().await;
        for (resets, state) in [(1, JobState::Queued), (2, JobState::Queued), (3, JobState::Failed)] {
            let claimed = queue.claim("w").await;
            let job = queue.store.finish(&claimed.claim, finish(OutcomeClass::Infrastructure)).await.expect("finished");
            assert_eq!((job.state, job.attempts_used, job.resets), (state, 0, resets));
        }
    }

    async fn a_usage_limit_holds_the_job_back_until_it_is_over(queue) {
        queue.enqueue_as(|new| new.attempts_max = 2).await;
        let claimed = queue.claim("w").await;
        let not_before = queue.store.now() + LONG;
        let end = Finish { not_before: Some(not_before), ..finish(OutcomeClass::Released) };
        let waits = queue.store.finish(&claimed.claim, end).await.expect("finished");
        assert_eq!((waits.state, waits.ready_at), (JobState::Queued, not_before));
        assert!(queue.nothing_to_claim().await);
    }
}
