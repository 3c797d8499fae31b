//! Enqueuing, reading, cancelling and retrying jobs.

use sawmill::ids::JobId;
use sawmill::job::{Concurrency, Hold, JobState, OutcomeClass};
use sawmill::store::{Cancel, Enqueued, JobFilter, StopRequest, StoreError};

use super::{LONG, ask, finish, new_job, on_both};

on_both! {
    async fn a_job_reads_back_as_it_was_enqueued(queue) {
        let mut new = new_job();
        new.spec.project = Some("app".to_owned());
        new.spec.execution.id = Some("plan-7".to_owned());
        new.attempts_max = 3;
        let job = queue.store.enqueue(new.clone()).await.expect("enqueued").into_job();
        assert_eq!(queue.store.job(new.id).await.expect("there"), job);
        assert_eq!((job.id, &job.spec, &job.branch, job.attempts_max), (new.id, &new.spec, &new.branch, 3));
        assert_eq!((job.state, job.attempt, job.worker, job.outcome), (JobState::Queued, None, None, None));
        let missing = queue.store.job(JobId::generate()).await.expect_err("there is none");
        assert!(matches!(missing, StoreError::NotFound { .. }), "{missing}");
        assert!(matches!(queue.store.attempts(JobId::generate()).await, Err(StoreError::NotFound { .. })));
        assert!(queue.store.attempts(new.id).await.expect("there").is_empty());
    }

    async fn the_same_key_is_the_same_job_and_another_document_is_a_conflict(queue) {
        let keyed = || {
            let mut new = new_job();
            new.spec.idempotency_key = Some("k".to_owned());
            new
        };
        let first = queue.store.enqueue(keyed()).await.expect("enqueued").into_job();
        match queue.store.enqueue(keyed()).await.expect("answered") {
            Enqueued::Existing(job) => assert_eq!(job.id, first.id),
            Enqueued::Created(job) => panic!("{} was created beside {}", job.id, first.id),
        }
        let mut other = keyed();
        other.digest = "d2".to_owned();
        let error = queue.store.enqueue(other).await.expect_err("a conflict");
        assert!(matches!(&error, StoreError::KeyConflict { key, job } if key == "k" && *job == first.id), "{error}");
    }

    async fn of_many_who_enqueue_one_key_at_once_one_creates_it(queue) {
        let tasks: Vec<_> = (0..12).map(|_| {
            let store = queue.store.clone();
            let mut new = new_job();
            new.spec.idempotency_key = Some("k".to_owned());
            tokio::spawn(async move { store.enqueue(new).await.expect("answered") })
        }).collect();
        let mut created = 0;
        let mut ids = std::collections::HashSet::new();
        for task in tasks {
            let answer = task.await.expect("no panic");
            created += usize::from(matches!(answer, Enqueued::Created(_)));
            ids.insert(answer.into_job().id);
        }
        assert_eq!((created, ids.len()), (1, 1));
    }

    async fn a_job_enqueued_twice_by_its_id_is_one(queue) {
        let new = new_job();
        queue.store.enqueue(new.clone()).await.expect("enqueued");
        assert!(matches!(queue.store.enqueue(new.clone()).await, Ok(Enqueued::Existing(_))));
        let mut other = new;
        other.digest = "d2".to_owned();
        assert!(matches!(queue.store.enqueue(other).await, Err(StoreError::IdConflict(_))));
    }

    async fn a_taken_branch_gets_a_suffix_unless_it_was_asked_for(queue) {
        let first = queue.enqueue_as(|new| new.branch = "topic".parse().expect("a name")).await;
        let mut second = new_job();
        second.branch = first.branch.clone();
        let job = queue.store.enqueue(second.clone()).await.expect("enqueued").into_job();
        assert_eq!(job.branch, first.branch.with_suffix(second.id));
        let mut third = new_job();
        third.branch = first.branch.clone();
        third.spec.deliver.branch = Some(first.branch.clone());
        let error = queue.store.enqueue(third.clone()).await.expect_err("it is taken");
        assert!(matches!(&error, StoreError::BranchTaken { job, .. } if *job == first.id), "{error}");
        assert!(matches!(queue.store.job(third.id).await, Err(StoreError::NotFound { .. })));
        third.repo = "/srv/git/other.git".to_owned();
        assert_eq!(queue.store.enqueue(third).await.expect("free on another remote").into_job().branch, first.branch);
    }

    async fn lists_are_filtered_and_paged_newest_first(queue) {
        let mut ids = Vec::new();
        for number in 0..5 {
            let job = queue.enqueue_as(|new| {
                new.spec.project = Some(if number % 2 == 0 { "even" } else { "odd" }.to_owned());
                new.spec.execution.id = Some("e".to_owned());
            }).await;
            ids.push(job.id);
        }
        ids.reverse();
        let list = async |filter: JobFilter| {
            let page = queue.store.jobs(&filter).await.expect("listed");
            (page.items.into_iter().map(|job| job.id).collect::<Vec<_>>(), page.more)
        };
        let all = JobFilter { limit: 10, ..JobFilter::default() };
        assert_eq!(list(all.clone()).await, (ids.clone(), false));
        assert_eq!(list(JobFilter { limit: 2, ..all.clone() }).await, (ids[..2].to_vec(), true));
        assert_eq!(list(JobFilter { limit: 3, before: Some(ids[1]), ..all.clone() }).await, (ids[2..].to_vec(), false));
        let odd = JobFilter { project: Some("odd".to_owned()), execution: Some("e".to_owned()), ..all.clone() };
        assert_eq!(list(odd).await, (vec![ids[1], ids[3]], false));
        queue.claim("w").await;
        assert_eq!(list(JobFilter { state: Some(JobState::Running), ..all.clone() }).await, (vec![ids[4]], false));
        assert_eq!(list(JobFilter { state: Some(JobState::Failed), ..all.clone() }).await, (vec![], false));
        let one = queue.enqueue_as(|new| {
            new.spec.concurrency = Some(Concurrency { key: "k".to_owned(), limit: 1 });
            new.spec.project = Some("full".to_owned());
        }).await;
        let other = queue.enqueue_as(|new| new.spec.concurrency = Some(Concurrency { key: "k".to_owned(), limit: 1 })).await;
        let after = queue.enqueue_as(|new| new.spec.after = vec![one.id]).await;
        let later = queue.enqueue_as(|new| new.spec.run_at = Some(queue.store.now() + LONG)).await;
        queue.store.claim(&ask("w", 100, LONG)).await.expect("answered");
        let held = async |hold| list(JobFilter { held: Some(hold), ..all.clone() }).await.0;
        assert_eq!(held(Hold::Key).await, [other.id]);
        assert_eq!(held(Hold::Dependency).await, [after.id]);
        assert_eq!(held(Hold::Scheduled).await, [later.id]);
        for none in [Hold::Backoff, Hold::Project, Hold::Budget, Hold::Answer] {
            assert_eq!(held(none).await, []);
        }
    }

    async fn cancelling_a_waiting_job_ends_it_at_once(queue) {
        let job = queue.enqueue().await;
        let Cancel::Done(ended) = queue.store.cancel(job.id, "no longer wanted").await.expect("cancelled") else {
            panic!("it did not wait");
        };
        assert_eq!(ended.state, JobState::Cancelled);
        assert_eq!(ended.outcome.expect("an outcome").message, "cancelled by request: no longer wanted");
        assert!(queue.nothing_to_claim().await);
        assert!(matches!(queue.store.cancel(job.id, "again").await, Ok(Cancel::AlreadyEnded(_))));
        assert!(matches!(queue.store.cancel(JobId::generate(), "").await, Err(StoreError::NotFound { .. })));
    }

    async fn cancelling_a_running_job_is_a_request_that_the_first_reason_keeps(queue) {
        let job = queue.enqueue().await;
        let claimed = queue.claim("w").await;
        for reason in ["first", "second"] {
            let answer = queue.store.cancel(job.id, reason).await.expect("answered");
            assert!(matches!(answer, Cancel::Requested(job) if job.cancel_requested_at.is_some()));
        }
        let renewed = queue.store.renew(&claimed.claim.worker, std::slice::from_ref(&claimed.claim), LONG).await.expect("renewed");
        assert!(matches!(&renewed.renewals[0], sawmill::store::Renewal::Held { stop: Some(StopRequest::Cancel(why)), .. } if why == "cancelled by request: first"));
        let ended = queue.store.finish(&claimed.claim, finish(OutcomeClass::Released)).await.expect("finished");
        assert_eq!(ended.state, JobState::Cancelled);
    }

    async fn a_refusal_leaves_no_lock_behind_that_a_claim_would_pass_over(queue) {
        let job = queue.enqueue().await;
        for _ in 0..30 {
            queue.store.retry(job.id).await.expect_err("it waits");
            let mut same = new_job();
            (same.id, same.digest) = (job.id, "d2".to_owned());
            queue.store.enqueue(same).await.expect_err("the id is taken");
            let claimed = queue.claim("w").await;
            queue.store.finish(&claimed.claim, finish(OutcomeClass::Released)).await.expect("released");
        }
    }

    async fn only_failed_and_cancelled_jobs_are_retried_with_another_round_of_attempts(queue) {
        let job = queue.enqueue().await;
        let not_yet = queue.store.retry(job.id).await.expect_err("it waits");
        assert!(matches!(not_yet, StoreError::NotRetryable { state: JobState::Queued, .. }), "{not_yet}");
        let claimed = queue.claim("w").await;
        assert!(matches!(queue.store.retry(job.id).await, Err(StoreError::NotRetryable { state: JobState::Running, .. })));
        let failed = queue.store.finish(&claimed.claim, finish(OutcomeClass::Backend)).await.expect("finished");
        assert_eq!((failed.state, failed.attempts_used, failed.attempts_max), (JobState::Failed, 1, 1));
        let again = queue.store.retry(job.id).await.expect("retried");
        assert_eq!((again.state, again.attempts_used, again.attempts_max, again.finished_at), (JobState::Queued, 0, 1, None));
        let second = queue.claim("w").await;
        assert_eq!(second.claim.attempt.0, 2);
        let done = queue.store.finish(&second.claim, finish(OutcomeClass::Succeeded)).await.expect("finished");
        assert_eq!(done.state, JobState::Succeeded);
        assert!(matches!(queue.store.retry(job.id).await, Err(StoreError::NotRetryable { state: JobState::Succeeded, .. })));
        let other = queue.enqueue_as(|new| new.attempts_max = 3).await;
        queue.store.cancel(other.id, "").await.expect("cancelled");
        let other = queue.store.retry(other.id).await.expect("retried");
        assert_eq!((other.state, other.attempts_max, other.cancel_requested_at), (JobState::Queued, 3, None));
        assert!(matches!(queue.store.retry(JobId::generate()).await, Err(StoreError::NotFound { .. })));
    }
}
