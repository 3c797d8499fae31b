//! What ran out of its lease.

use std::time::{Duration, Instant};

use sawmill::job::{CompletionState, JobState, LogVerdict, OutcomeClass, Stage, StageRecord};
use sawmill::store::{Cancel, Expired};

use super::{LONG, Place, ask, asking, delivered, on_both};

on_both! {
    async fn an_expired_lease_requeues_without_burning_and_ends_as_a_poison_pill(queue) {
        let job = queue.enqueue().await;
        for (resets, state) in [(1, JobState::Queued), (2, JobState::Queued), (3, JobState::Failed)] {
            let claimed = queue.claim_for("w", Duration::ZERO).await;
            let expired = queue.store.expire_once(10).await.expect("done");
            let expected =
                Expired::Claim { job: job.id, attempt: claimed.claim.attempt, worker: claimed.claim.worker, state };
            assert_eq!(expired, [expected]);
            let now = queue.store.job(job.id).await.expect("there");
            assert_eq!((now.state, now.attempts_used, now.resets, now.worker), (state, 0, resets, None));
        }
        assert!(queue.nothing_to_claim().await);
        let outcome = queue.store.job(job.id).await.expect("there").outcome.expect("an outcome");
        assert_eq!(outcome.class, OutcomeClass::LeaseLost);
        assert!(outcome.message.starts_with("given up after 3 attempts that infrastructure failed"), "{outcome}");
        let attempts = queue.store.attempts(job.id).await.expect("there");
        assert_eq!(attempts.len(), 3);
        for attempt in attempts {
            assert_eq!(attempt.outcome.expect("closed").class, OutcomeClass::LeaseLost);
            assert_eq!(attempt.log_verdict, Some(LogVerdict::Gap { from: 0, to: 0 }));
        }
    }

    async fn a_stage_that_ran_when_the_lease_ran_out_is_closed(queue) {
        let job = queue.enqueue().await;
        let claimed = queue.claim_for("w", Duration::from_millis(300)).await;
        let now = queue.store.now();
        let stage = StageRecord { seq: 0, stage: Stage::Execute, started_at: now, ended_at: None, outcome: None, detail: None };
        queue.store.record_stages(&claimed.claim, &[stage]).await.expect("it holds");
        while queue.store.expire_once(10).await.expect("done").is_empty() {
            tokio::task::yield_now().await;
        }
        let attempts = queue.store.attempts(job.id).await.expect("there");
        let stage = &attempts[0].stages[0];
        assert_eq!((stage.ended_at, stage.outcome), (attempts[0].ended_at, Some(OutcomeClass::LeaseLost)));
    }

    async fn a_lease_that_holds_is_left_alone(queue) {
        queue.enqueue().await;
        queue.enqueue().await;
        let held = queue.claim("w").await;
        assert_eq!(queue.store.expire_once(10).await.expect("done"), []);
        queue.store.check_claim(&held.claim).await.expect("it holds");
    }

    async fn a_job_whose_end_was_asked_for_ends_when_its_worker_is_lost(queue) {
        let job = queue.enqueue_as(|new| new.attempts_max = 5).await;
        queue.claim_for("w", Duration::ZERO).await;
        assert!(matches!(queue.store.cancel(job.id, "enough").await, Ok(Cancel::Requested(_))));
        queue.store.expire_once(10).await.expect("done");
        assert_eq!(queue.store.job(job.id).await.expect("there").state, JobState::Cancelled);
    }

    async fn several_that_expire_at_once_take_each_claim_once(queue) {
        const JOBS: usize = 40;
        for _ in 0..JOBS {
            queue.enqueue().await;
        }
        let claimed = queue.store.claim(&ask("w", 100, Duration::ZERO)).await.expect("claimed");
        queue.runs_out(&claimed[0]).await;
        assert_eq!(claimed.len(), JOBS);
        let tasks: Vec<_> = (0..4).map(|_| {
            let store = queue.store.clone();
            tokio::spawn(async move {
                let mut taken = 0;
                loop {
                    match store.expire_once(3).await.expect("done").len() {
                        0 => return taken,
                        some => taken += some,
                    }
                }
            })
        }).collect();
        let mut taken = 0;
        for task in tasks {
            taken += task.await.expect("no panic");
        }
        assert_eq!(taken, JOBS);
        let again = queue.store.claim(&ask("w", 100, Duration::ZERO)).await.expect("claimed");
        assert!(again.len() == JOBS && again.iter().all(|claimed| claimed.job.resets == 1));
    }

    async fn an_expired_completion_is_pending_again_until_it_is_dead(queue) {
        queue.enqueue().await;
        let claimed = queue.claim("w").await;
        queue.store.finish(&claimed.claim, delivered(&claimed)).await.expect("finished");
        for state in [CompletionState::Pending, CompletionState::Pending, CompletionState::Dead] {
            let held = queue.store.claim_completions(&asking("i", 1, Some(Duration::ZERO))).await.expect("handed out").remove(0);
            let expired = queue.store.expire_once(10).await.expect("done");
            let id = held.entry.completion.id;
            assert_eq!(expired, [Expired::Completion { id, consumer: "i".to_owned(), state }]);
        }
        assert!(queue.store.claim_completions(&asking("i", 1, None)).await.expect("answered").is_empty());
    }

    async fn who_looks_for_all_of_it_is_one_at_a_time_and_is_followed_by_another(queue) {
        let other = queue.other(|_| ()).await;
        let short = Duration::from_millis(300);
        assert!(queue.store.take_reaping(LONG).await.expect("asked"));
        // Who shares a file looks by himself.
        let shared = matches!(queue.place, Place::File { .. });
        assert_eq!(other.take_reaping(LONG).await.expect("asked"), shared);
        assert!(queue.store.take_reaping(short).await.expect("asked"), "who has it takes it again");
        let begun = Instant::now();
        while !other.take_reaping(LONG).await.expect("asked") {
            assert!(begun.elapsed() < LONG, "nobody follows");
        }
        assert_eq!(queue.store.take_reaping(LONG).await.expect("asked"), shared);
        other.close().await;
    }
}
