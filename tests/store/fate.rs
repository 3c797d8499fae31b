//! Changing the fate of one job and of many.

use std::time::Duration;

use sawmill::ids::JobId;
use sawmill::job::{JobState, OutcomeClass};
use sawmill::store::{
    Because, Change, ChangedJobs, JobOrder, Renewal, Requeue, Run, Selection, SelectionCursor, StopRequest, StoreError,
};

use super::{LONG, Queue, finish, on_both};

fn cancel() -> Change {
    Change::Cancel { reason: "enough".to_owned() }
}

fn requeue() -> Change {
    Change::Requeue { reason: "wrong host".to_owned() }
}

fn filter(project: Option<&str>, state: Option<JobState>, after: Option<SelectionCursor>) -> Selection {
    Selection::Filter { project: project.map(str::to_owned), execution: None, state, after }
}

async fn of_project(queue: &Queue, project: &str) -> JobId {
    queue.enqueue_as(|new| new.spec.project = Some(project.to_owned())).await.id
}

async fn change(queue: &Queue, change: &Change, selection: &Selection) -> ChangedJobs {
    queue.store.change_jobs(change, selection, 100, Run::Real).await.expect("done")
}

async fn state(queue: &Queue, id: JobId) -> JobState {
    queue.store.job(id).await.expect("there").state
}

async fn events(queue: &Queue) -> Vec<String> {
    queue.place.texts("SELECT state || ' ' || coalesce(attempt, 0) FROM outbox ORDER BY created_at, id").await
}

on_both! {
    async fn a_running_job_is_given_back_at_no_charge_by_the_attempt_that_was_meant(queue) {
        let id = queue.enqueue().await.id;
        let first = queue.claim("w").await;
        for _ in 0..2 {
            let Ok(Requeue::Requested(job)) = queue.store.requeue(id, "wrong host").await else { panic!("it runs") };
            assert!(job.requeue_requested_at.is_some());
        }
        let asked = StopRequest::Requeue("given back by request: wrong host".to_owned());
        let renewed = queue.store.renew(&first.claim.worker, std::slice::from_ref(&first.claim), LONG).await.expect("renewed");
        assert!(matches!(&renewed.renewals[0], Renewal::Held { stop: Some(stop), .. } if *stop == asked), "{renewed:?}");
        let orders = queue.store.orders(&first.claim.worker).await.expect("answered");
        assert_eq!(orders.jobs, [JobOrder { job: id, attempt: first.claim.attempt, stop: Some(asked), deadline: None }]);
        let job = queue.store.finish(&first.claim, finish(OutcomeClass::Released)).await.expect("given back");
        assert_eq!((job.state, job.attempts_used, job.resets, job.requeue_requested_at), (JobState::Queued, 0, 0, None));

        // The request went with the attempt.
        let second = queue.claim("w").await;
        assert_eq!(queue.store.orders(&second.claim.worker).await.expect("answered").jobs, []);
        queue.store.requeue(id, "").await.expect("asked");
        queue.store.cancel(id, "enough").await.expect("asked");
        let orders = queue.store.orders(&second.claim.worker).await.expect("answered");
        let end = StopRequest::Cancel("cancelled by request: enough".to_owned());
        assert_eq!(orders.jobs[0].stop.as_ref(), Some(&end), "an end outranks it");
        assert!(matches!(queue.store.requeue(id, "").await, Err(StoreError::NotRequeuable { state: JobState::Running, .. })));
        let job = queue.store.finish(&second.claim, finish(OutcomeClass::Released)).await.expect("ended");
        assert_eq!(job.state, JobState::Cancelled);
        assert!(matches!(queue.store.requeue(id, "").await, Err(StoreError::NotRequeuable { state: JobState::Cancelled, .. })));
        assert!(matches!(queue.store.requeue(JobId::generate(), "").await, Err(StoreError::NotFound { .. })));
    }

    async fn an_outcome_of_its_own_stands_where_the_request_came_too_late(queue) {
        let id = queue.enqueue().await.id;
        let claimed = queue.claim("w").await;
        queue.store.requeue(id, "").await.expect("asked");
        let job = queue.store.finish(&claimed.claim, finish(OutcomeClass::Backend)).await.expect("ended");
        assert_eq!((job.state, job.attempts_used, job.requeue_requested_at), (JobState::Failed, 1, None));
        let id = queue.enqueue().await.id;
        queue.claim_for("w", Duration::ZERO).await;
        queue.store.requeue(id, "").await.expect("asked");
        queue.store.expire_once(10).await.expect("done");
        let job = queue.store.job(id).await.expect("there");
        assert_eq!((job.state, job.resets, job.requeue_requested_at), (JobState::Queued, 1, None));
    }

    async fn a_job_that_waits_for_a_retry_is_ready_at_once_and_no_other_wait_is_cut_short(queue) {
        let store = queue.other(|config| config.retry.backoff = LONG).await;
        let waits = queue.enqueue_as(|new| new.attempts_max = 2).await.id;
        let claimed = queue.claim("w").await;
        store.finish(&claimed.claim, finish(OutcomeClass::Backend)).await.expect("finished");
        assert!(queue.nothing_to_claim().await);
        assert!(matches!(queue.store.requeue(waits, "").await, Ok(Requeue::Ready(job)) if job.attempts_used == 1));
        assert!(matches!(queue.store.requeue(waits, "").await, Ok(Requeue::Ready(_))), "it is ready already");
        assert_eq!(queue.claim("w").await.claim.job, waits);
        let later = queue.store.now() + LONG;
        let scheduled = queue.enqueue_as(|new| new.spec.run_at = Some(later)).await.id;
        assert!(matches!(queue.store.requeue(scheduled, "").await, Err(StoreError::NotRequeuable { .. })));
        store.close().await;
    }

    async fn a_filter_changes_what_can_be_changed_and_nothing_else(queue) {
        let running = of_project(queue, "app").await;
        queue.claim("w").await;
        let ended = of_project(queue, "app").await;
        let claimed = queue.claim("w").await;
        queue.store.finish(&claimed.claim, finish(OutcomeClass::Succeeded)).await.expect("finished");
        let (waiting, other) = (of_project(queue, "app").await, of_project(queue, "site").await);

        let would = queue.store.change_jobs(&cancel(), &filter(Some("app"), None, None), 100, Run::Dry).await.expect("looked at");
        assert_eq!(would.changed, [waiting, running]);
        assert_eq!((state(queue, waiting).await, state(queue, running).await), (JobState::Queued, JobState::Running));
        let did = change(queue, &cancel(), &filter(Some("app"), None, None)).await;
        assert_eq!((&did.changed, did.unchanged.len(), did.next), (&would.changed, 0, None));
        assert_eq!(state(queue, waiting).await, JobState::Cancelled);
        assert_eq!(queue.store.job(waiting).await.expect("there").outcome.expect("one").message, "cancelled by request: enough");
        assert!(queue.store.job(running).await.expect("there").cancel_requested_at.is_some());
        assert_eq!((state(queue, ended).await, state(queue, other).await), (JobState::Succeeded, JobState::Queued));

        let again = change(queue, &cancel(), &filter(Some("app"), None, None)).await;
        assert_eq!((again.changed.len(), again.unchanged[0].id, again.unchanged[0].because), (0, running, Because::Already));
        let back = change(queue, &Change::Retry, &filter(None, Some(JobState::Cancelled), None)).await;
        assert_eq!(back.changed, [waiting]);
        assert_eq!(state(queue, waiting).await, JobState::Queued);
    }

    async fn a_long_selection_goes_on_where_it_ended_and_meets_no_job_twice(queue) {
        let mut all = Vec::new();
        for _ in 0..7 {
            all.push(of_project(queue, "app").await);
        }
        for _ in 0..3 {
            queue.claim("w").await;
        }
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let part = queue.store.change_jobs(&cancel(), &filter(Some("app"), None, after), 2, Run::Real).await.expect("done");
            assert!(part.changed.len() <= 2 && part.unchanged.is_empty(), "{part:?}");
            seen.extend(part.changed);
            after = part.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen.len(), 7);
        seen.sort_unstable();
        assert_eq!(seen, all);
        assert_eq!(events(queue).await, ["cancelled 0"; 4], "the running ones have not ended");
    }

    async fn jobs_that_are_named_each_get_an_answer(queue) {
        let (done, none) = (queue.enqueue().await.id, JobId::generate());
        let claimed = queue.claim("w").await;
        queue.store.finish(&claimed.claim, finish(OutcomeClass::Backend)).await.expect("finished");
        let (running, ready) = (queue.enqueue().await.id, queue.enqueue().await.id);
        queue.claim("w").await;
        let did = change(queue, &requeue(), &Selection::Ids(vec![ready, none, done, running])).await;
        assert_eq!(did.changed, [running]);
        let mut why: Vec<_> = did.unchanged.iter().map(|job| (job.id, job.because)).collect();
        why.sort_by_key(|(id, _)| *id);
        let mut expected = vec![(done, Because::WrongState), (ready, Because::Already), (none, Because::NotFound)];
        expected.sort_by_key(|(id, _)| *id);
        assert_eq!(why, expected);
    }

    async fn every_end_of_a_job_is_one_event_and_what_is_not_an_end_is_none(queue) {
        let id = queue.enqueue_as(|new| new.attempts_max = 2).await.id;
        for class in [OutcomeClass::Released, OutcomeClass::Backend, OutcomeClass::Backend] {
            let claimed = queue.claim("w").await;
            queue.store.finish(&claimed.claim, finish(class)).await.expect("finished");
        }
        assert_eq!(events(queue).await, ["failed 3"]);
        queue.store.retry(id).await.expect("retried");
        queue.store.cancel(id, "").await.expect("cancelled");
        assert_eq!(events(queue).await, ["failed 3", "cancelled 3"]);
        queue.enqueue().await;
        for _ in 0..3 {
            queue.claim_for("w", Duration::ZERO).await;
            queue.store.expire_once(10).await.expect("done");
        }
        assert_eq!(events(queue).await, ["failed 3", "cancelled 3", "failed 3"]);
    }

    async fn many_who_cancel_finish_and_claim_at_once_end_every_job_once(queue) {
        const JOBS: usize = 60;
        for _ in 0..JOBS {
            of_project(queue, "app").await;
        }
        let mut tasks = Vec::new();
        for number in 0..3 {
            let store = queue.store.clone();
            tasks.push(tokio::spawn(async move {
                for _ in 0..15 {
                    let ask = crate::store::ask(&format!("w{number}"), 2, LONG);
                    for claimed in store.claim(&ask).await.expect("answered") {
                        store.finish(&claimed.claim, finish(OutcomeClass::Succeeded)).await.expect("it is held");
                    }
                }
            }));
            let store = queue.store.clone();
            tasks.push(tokio::spawn(async move {
                for _ in 0..4 {
                    store.change_jobs(&cancel(), &filter(Some("app"), None, None), 100, Run::Real).await.expect("done");
                }
            }));
        }
        for task in tasks {
            task.await.expect("no panic");
        }
        let ended = "SELECT CAST(count(*) AS TEXT) FROM jobs WHERE finished_at IS NOT NULL";
        assert_eq!(queue.place.texts(ended).await, [JOBS.to_string()]);
        assert_eq!(events(queue).await.len(), JOBS, "one event each");
    }
}
