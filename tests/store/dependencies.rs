//! Jobs that wait for the end of others.

use sawmill::ids::JobId;
use sawmill::job::{AfterFailure, Hold, Job, JobState, OutcomeClass};
use sawmill::store::{Change, ChangedJobs, Enqueued, NewJob, Run, Selection, Store, StoreError};

use super::{LONG, Place, Queue, ask, delivered, finish, new_job, object, on_both};

fn after(needs: &[JobId]) -> impl FnOnce(&mut NewJob) {
    let needs = needs.to_vec();
    move |new| new.spec.after = needs
}

fn regardless(needs: &[JobId]) -> impl FnOnce(&mut NewJob) {
    let needs = needs.to_vec();
    move |new| {
        new.spec.after = needs;
        new.spec.after_failure = AfterFailure::Ignore;
    }
}

fn from(needed: JobId) -> impl FnOnce(&mut NewJob) {
    move |new| new.spec.base_from = Some(needed)
}

async fn job(queue: &Queue, id: JobId) -> Job {
    queue.store.job(id).await.expect("there")
}

async fn states(queue: &Queue, ids: &[JobId]) -> Vec<JobState> {
    let mut states = Vec::new();
    for id in ids {
        states.push(job(queue, *id).await.state);
    }
    states
}

/// Writes as many jobs like one that waits for another as one statement has not the arguments for, on either database.
fn many_like(queue: &Queue, job: JobId, needed: JobId) -> String {
    let (made, literal): (_, fn(JobId) -> String) = match queue.place {
        Place::File { .. } => ("randomblob(16)", |id| format!("X'{}'", id.as_uuid().simple())),
        Place::Schema { .. } => ("gen_random_uuid()", |id| format!("'{id}'")),
    };
    let (name, job, needed) = (job, literal(job), literal(needed));
    format!(
        "INSERT INTO jobs (id, repo, base, branch, route, priority, position, share, state, held, ready_at, attempts_max, created_at) \
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 14000) \
         SELECT {made}, repo, base, 'like/{name}/' || i, route, priority, position, share, state, held, ready_at, attempts_max, created_at \
         FROM n CROSS JOIN jobs WHERE id = {job}; \
         INSERT INTO dependencies (job, needs, cascade, gives_base, met) \
         SELECT id, {needed}, 1, 0, 0 FROM jobs WHERE held = 'dependency' AND id NOT IN (SELECT job FROM dependencies); \
         INSERT INTO job_specs (job, digest, document) \
         SELECT id, 'd', '{{\"task\":{{}}}}' FROM jobs WHERE id NOT IN (SELECT job FROM job_specs)"
    )
}

/// Claims the one job that can be claimed, which is this one, and ends it.
async fn run(queue: &Queue, id: JobId, class: OutcomeClass) -> Job {
    let claimed = queue.claim("w").await;
    assert_eq!(claimed.claim.job, id);
    assert!(queue.nothing_to_claim().await);
    let end = if class == OutcomeClass::Succeeded { delivered(&claimed) } else { finish(class) };
    queue.store.finish(&claimed.claim, end).await.expect("finished")
}

async fn retry_all(queue: &Queue, ids: Option<&[JobId]>) -> ChangedJobs {
    let filter = Selection::Filter { project: None, execution: None, state: None, after: None };
    let selection = ids.map_or(filter, |ids| Selection::Ids(ids.to_vec()));
    queue.store.change_jobs(&Change::Retry, &selection, 100, Run::Real).await.expect("done")
}

async fn events(queue: &Queue) -> usize {
    queue.place.texts("SELECT state FROM outbox").await.len()
}

on_both! {
    async fn a_success_lets_go_who_waits_for_nothing_more(queue) {
        let (a, b) = (queue.enqueue().await.id, queue.enqueue().await.id);
        let both = queue.enqueue_as(after(&[a, b, a])).await;
        assert_eq!(both.held, Some(Hold::Dependency));
        let claimed = queue.store.claim(&ask("w", 9, LONG)).await.expect("answered");
        assert_eq!(claimed.len(), 2);
        queue.store.finish(&claimed[1].claim, finish(OutcomeClass::Succeeded)).await.expect("finished");
        assert!(queue.nothing_to_claim().await);
        queue.store.finish(&claimed[0].claim, finish(OutcomeClass::Succeeded)).await.expect("finished");
        assert_eq!(job(queue, both.id).await.held, None);
        run(queue, both.id, OutcomeClass::Succeeded).await;
    }

    async fn an_attempt_that_is_repeated_is_no_end(queue) {
        let needed = queue.enqueue_as(|new| new.attempts_max = 2).await.id;
        let waits = queue.enqueue_as(after(&[needed])).await.id;
        run(queue, needed, OutcomeClass::Backend).await;
        run(queue, needed, OutcomeClass::Released).await;
        assert_eq!(job(queue, waits).await.held, Some(Hold::Dependency));
        run(queue, needed, OutcomeClass::Succeeded).await;
        run(queue, waits, OutcomeClass::Succeeded).await;
    }

    async fn one_that_is_scheduled_too_waits_for_its_time_after_that(queue) {
        let needed = queue.enqueue().await.id;
        let at = queue.store.now() + LONG;
        let waits = queue.enqueue_as(|new| { new.spec.run_at = Some(at); after(&[needed])(new) }).await;
        assert_eq!(waits.held, Some(Hold::Dependency));
        run(queue, needed, OutcomeClass::Succeeded).await;
        assert_eq!(job(queue, waits.id).await.held, Some(Hold::Scheduled));
    }

    async fn a_failure_ends_all_that_wait_for_it_and_those_that_wait_for_them(queue) {
        let first = queue.enqueue().await.id;
        let second = queue.enqueue_as(after(&[first])).await.id;
        let third = queue.enqueue_as(after(&[second])).await.id;
        let diamond = queue.enqueue_as(after(&[first, third])).await.id;
        let careless = queue.enqueue_as(regardless(&[third])).await.id;
        let stranger = queue.enqueue_as(|new| new.spec.run_at = Some(queue.store.now() + LONG)).await.id;
        let failed = run(queue, first, OutcomeClass::Backend).await;
        assert_eq!(failed.state, JobState::Failed);
        let cancelled = [JobState::Cancelled; 3];
        assert_eq!(states(queue, &[second, third, diamond]).await, cancelled);
        let outcome = job(queue, third).await.outcome.expect("one");
        assert_eq!(outcome.class, OutcomeClass::Dependency);
        assert_eq!(outcome.message, format!("job {second}, which it waits for, did not succeed"));
        assert_eq!(states(queue, &[careless, stranger]).await, [JobState::Queued; 2]);
        assert_eq!(events(queue).await, 4, "one for each end");
        run(queue, careless, OutcomeClass::Succeeded).await;
    }

    async fn a_cancel_cascades_like_a_failure(queue) {
        let first = queue.enqueue().await.id;
        let second = queue.enqueue_as(after(&[first])).await.id;
        let careless = queue.enqueue_as(regardless(&[first])).await.id;
        queue.store.cancel(first, "").await.expect("cancelled");
        assert_eq!(states(queue, &[second, careless]).await, [JobState::Cancelled, JobState::Queued]);
        assert_eq!(events(queue).await, 2);
        run(queue, careless, OutcomeClass::Succeeded).await;
    }

    async fn one_that_is_enqueued_after_the_end_finds_what_it_would_have_heard(queue) {
        let failed = queue.enqueue().await.id;
        run(queue, failed, OutcomeClass::Backend).await;
        let done = queue.enqueue().await.id;
        run(queue, done, OutcomeClass::Succeeded).await;
        let late = queue.enqueue_as(after(&[done, failed])).await;
        assert_eq!((late.state, late.outcome.expect("one").class), (JobState::Cancelled, OutcomeClass::Dependency));
        let later = queue.enqueue_as(after(&[late.id])).await;
        assert_eq!(later.state, JobState::Cancelled);
        assert_eq!(events(queue).await, 4);
        let careless = queue.enqueue_as(regardless(&[failed, late.id])).await;
        assert_eq!((careless.state, careless.held), (JobState::Queued, None));
        run(queue, careless.id, OutcomeClass::Succeeded).await;
        let fine = queue.enqueue_as(after(&[done])).await.id;
        run(queue, fine, OutcomeClass::Succeeded).await;
    }

    async fn one_that_waits_for_nobody_known_is_refused(queue) {
        let nobody = JobId::generate();
        let mut new = new_job();
        new.spec.after = vec![nobody];
        let refused = queue.store.enqueue(new.clone()).await;
        assert!(matches!(refused, Err(StoreError::NoSuchDependency(id)) if id == nobody), "{refused:?}");
        new.spec.after = vec![new.id];
        assert!(matches!(queue.store.enqueue(new.clone()).await, Err(StoreError::NoSuchDependency(_))), "nor for itself");
        assert!(queue.nothing_to_claim().await);
        let elsewhere = queue.enqueue_as(|new| new.repo = "/srv/git/other.git".to_owned()).await.id;
        new.spec.after = Vec::new();
        new.spec.base_from = Some(elsewhere);
        assert!(matches!(queue.store.enqueue(new).await, Err(StoreError::ForeignBase { .. })));
    }

    async fn a_job_starts_from_the_commit_that_another_delivered(queue) {
        let first = queue.enqueue().await.id;
        let waiting = queue.enqueue_as(from(first)).await;
        assert_eq!((waiting.held, waiting.base.as_str()), (Some(Hold::Dependency), "main"));
        run(queue, first, OutcomeClass::Succeeded).await;
        let delivered = object('b').to_string();
        let late = queue.enqueue_as(from(first)).await;
        assert_eq!((job(queue, waiting.id).await.base, late.base), (delivered.clone(), delivered.clone()));

        // One that delivers nothing passes on what it started from.
        let claimed = queue.claim("w").await;
        assert_eq!(claimed.job.base, delivered);
        let above = queue.enqueue_as(from(claimed.claim.job)).await.id;
        queue.store.finish(&claimed.claim, finish(OutcomeClass::Succeeded)).await.expect("finished");
        assert_eq!(job(queue, above).await.base, delivered);
    }

    async fn without_a_base_there_is_no_job_whatever_the_policy(queue) {
        let first = queue.enqueue().await.id;
        let above = queue.enqueue_as(|new| { regardless(&[])(new); from(first)(new) }).await.id;
        run(queue, first, OutcomeClass::Backend).await;
        assert_eq!(job(queue, above).await.state, JobState::Cancelled);
        let late = queue.enqueue_as(|new| { regardless(&[])(new); from(first)(new) }).await;
        assert_eq!(late.state, JobState::Cancelled);
    }

    async fn a_retry_is_refused_while_what_it_needs_has_ended_otherwise(queue) {
        let first = queue.enqueue().await.id;
        let second = queue.enqueue_as(from(first)).await.id;
        run(queue, first, OutcomeClass::Backend).await;
        let refused = queue.store.retry(second).await;
        assert!(matches!(refused, Err(StoreError::DependencyFailed { job, needs }) if (job, needs) == (second, first)), "{refused:?}");
        let left = retry_all(queue, Some(&[second])).await;
        assert!(left.changed.is_empty() && left.unchanged[0].why.contains(&first.to_string()), "{left:?}");
        assert_eq!(job(queue, second).await.state, JobState::Cancelled, "nothing has changed");

        queue.store.retry(first).await.expect("retried");
        assert_eq!(queue.store.retry(second).await.expect("retried").held, Some(Hold::Dependency));
        run(queue, first, OutcomeClass::Succeeded).await;
        assert_eq!(job(queue, second).await.base, object('b').to_string());
        run(queue, second, OutcomeClass::Backend).await;
        assert_eq!(queue.store.retry(second).await.expect("what it needs is there").held, None);
        run(queue, second, OutcomeClass::Succeeded).await;
    }

    async fn a_retried_job_fails_again_with_what_it_needs(queue) {
        let first = queue.enqueue().await.id;
        let second = queue.enqueue_as(after(&[first])).await.id;
        run(queue, first, OutcomeClass::Backend).await;
        queue.store.retry(first).await.expect("retried");
        queue.store.retry(second).await.expect("retried");
        run(queue, first, OutcomeClass::Backend).await;
        assert_eq!(states(queue, &[first, second]).await, [JobState::Failed, JobState::Cancelled]);
        assert_eq!(events(queue).await, 4);
    }

    async fn a_chain_that_failed_is_retried_by_one_call_in_its_order(queue) {
        let root = queue.enqueue().await.id;
        let mut chain = vec![root];
        for _ in 0..4 {
            let last = *chain.last().expect("the root");
            chain.push(queue.enqueue_as(after(&[last])).await.id);
        }
        run(queue, root, OutcomeClass::Backend).await;
        // Failed ones come before cancelled ones in a filter, so the root is before those that wait for it.
        let did = retry_all(queue, None).await;
        assert_eq!((did.changed.len(), did.unchanged.len()), (5, 0), "{did:?}");
        for id in &chain {
            run(queue, *id, OutcomeClass::Succeeded).await;
        }
        // Named in whatever order.
        let root = queue.enqueue().await.id;
        let tail = queue.enqueue_as(after(&[root])).await.id;
        queue.store.cancel(root, "").await.expect("cancelled");
        let did = retry_all(queue, Some(&[tail, root])).await;
        assert_eq!((did.changed.len(), did.unchanged.len()), (2, 0), "{did:?}");
        assert_eq!((job(queue, root).await.held, job(queue, tail).await.held), (None, Some(Hold::Dependency)));
    }

    async fn a_chain_of_which_a_later_one_failed_is_retried_by_one_filter(queue) {
        // The first is cancelled, what waits for it (whatever its end) has failed: the filter meets failed ones first.
        let first = queue.enqueue().await.id;
        queue.store.cancel(first, "").await.expect("cancelled");
        let second = queue.enqueue_as(regardless(&[first])).await.id;
        run(queue, second, OutcomeClass::Backend).await;
        let third = queue.enqueue_as(after(&[second])).await.id;
        let did = retry_all(queue, None).await;
        assert_eq!((did.changed.len(), did.unchanged.len()), (3, 0), "{did:?}");
        assert_eq!(states(queue, &[first, second, third]).await, [JobState::Queued; 3]);
    }

    async fn an_end_and_one_who_begins_to_wait_for_it_never_miss_each_other(queue) {
        const ROUNDS: usize = 24;
        let other = queue.other(|_| ()).await;
        for round in 0..ROUNDS {
            let needed = queue.enqueue().await.id;
            let claimed = queue.claim("w").await;
            let class = if round % 2 == 0 { OutcomeClass::Succeeded } else { OutcomeClass::Backend };
            let ending = queue.store.finish(&claimed.claim, finish(class));
            let enqueue = async |store: &Store| {
                let mut new = new_job();
                new.spec.after = vec![needed];
                store.enqueue(new).await
            };
            let (ended, one, two) = tokio::join!(ending, enqueue(&other), enqueue(&queue.store));
            ended.expect("finished");
            for enqueued in [one, two] {
                let Ok(Enqueued::Created(created)) = enqueued else { panic!("{enqueued:?}") };
                let found = job(queue, created.id).await;
                match class {
                    OutcomeClass::Succeeded => assert_eq!((found.state, found.held), (JobState::Queued, None)),
                    _ => assert_eq!(found.state, JobState::Cancelled),
                }
            }
            for claimed in queue.store.claim(&ask("w", 9, LONG)).await.expect("answered") {
                queue.store.finish(&claimed.claim, finish(OutcomeClass::Succeeded)).await.expect("finished");
            }
        }
        assert_eq!(events(queue).await, ROUNDS * 3, "one for each end");
        other.close().await;
    }

    async fn one_that_was_enqueued_by_a_clock_that_is_ahead_is_let_go_all_the_same(queue) {
        let needed = queue.enqueue().await.id;
        let waiting = queue.enqueue_as(after(&[needed])).await.id;
        let later = queue.enqueue_as(|new| { after(&[needed])(new); new.spec.run_at = Some(queue.store.now() + LONG) }).await.id;
        queue.place.tamper("UPDATE jobs SET ready_at = ready_at + 5000, created_at = created_at + 5000 WHERE held = 'dependency'").await;
        run(queue, needed, OutcomeClass::Succeeded).await;
        assert_eq!(job(queue, waiting).await.held, None);
        assert_eq!(job(queue, later).await.held, Some(Hold::Scheduled));
    }

    async fn what_is_not_pushed_is_no_base(queue) {
        let kept = queue.enqueue_as(|new| new.spec.deliver.push = false).await.id;
        let mut new = new_job();
        new.spec.base_from = Some(kept);
        let refused = queue.store.enqueue(new).await;
        assert!(matches!(refused, Err(StoreError::UnpushedBase(job)) if job == kept), "{refused:?}");
        queue.enqueue_as(after(&[kept])).await;
    }

    async fn any_number_that_wait_for_one_end_with_it(queue) {
        for late in [false, true] {
            let needed = queue.enqueue_as(|new| new.spec.start_by = late.then(|| queue.store.now() + LONG)).await.id;
            let first = queue.enqueue_as(after(&[needed])).await.id;
            queue.place.tamper(&many_like(queue, first, needed)).await;
            if late {
                queue.place.tamper("UPDATE jobs SET start_by = 1 WHERE start_by IS NOT NULL").await;
                queue.store.expire_once(10).await.expect("done");
            } else {
                run(queue, needed, OutcomeClass::Backend).await;
            }
            assert_eq!(job(queue, first).await.state, JobState::Cancelled);
            let counts = queue.store.counts().await.expect("counted").jobs;
            assert!(counts.contains(&(JobState::Queued, 0)), "{counts:?}");
        }
    }

    async fn two_that_end_at_once_let_go_who_waits_for_both(queue) {
        const ROUNDS: usize = 12;
        let other = queue.other(|_| ()).await;
        for _ in 0..ROUNDS {
            let (a, b) = (queue.enqueue().await.id, queue.enqueue().await.id);
            let both = queue.enqueue_as(after(&[a, b])).await.id;
            let claimed = queue.store.claim(&ask("w", 9, LONG)).await.expect("answered");
            let end = async |store: &Store, at: usize| store.finish(&claimed[at].claim, finish(OutcomeClass::Succeeded)).await;
            let (first, second) = tokio::join!(end(&queue.store, 0), end(&other, 1));
            first.and(second).expect("finished");
            run(queue, both, OutcomeClass::Succeeded).await;
        }
        other.close().await;
    }

    async fn cascades_that_meet_do_not_block_each_other(queue) {
        const ROUNDS: usize = 15;
        let other = queue.other(|_| ()).await;
        for _ in 0..ROUNDS {
            // From both ends: what waits for `a` and `c` is locked by one in another order than by the other, unless all keep one.
            let a = queue.enqueue().await.id;
            let b = queue.enqueue_as(after(&[a])).await.id;
            let c = queue.enqueue_as(after(&[b])).await.id;
            let mut last = Vec::new();
            for _ in 0..3 {
                last.push(queue.enqueue_as(after(&[a, c])).await.id);
            }
            let claimed = queue.claim("w").await;
            let join = async {
                let mut new = new_job();
                new.spec.after = vec![c, last[0], last[2]];
                other.enqueue(new).await
            };
            let failing = queue.store.finish(&claimed.claim, finish(OutcomeClass::Backend));
            let (failed, cancelled, joined) = tokio::join!(failing, other.cancel(c, ""), join);
            failed.expect("nobody is in its way");
            cancelled.expect("nobody is in its way");
            let joined = joined.expect("nobody is in its way").into_job().id;
            let all: Vec<JobId> = [b, c, joined].into_iter().chain(last).collect();
            assert!(states(queue, &all).await.iter().all(|state| *state == JobState::Cancelled));
        }
        assert_eq!(events(queue).await, ROUNDS * 7, "one for each end");
        other.close().await;
    }
}
