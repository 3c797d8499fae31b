//! How many jobs may wait.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use sawmill::ids::JobId;
use sawmill::job::JobState;
use sawmill::store::{Enqueued, JobFilter, NewJob, Store, StoreError};

use super::{LONG, Queue, ask, new_job, on_both};

fn of_project(most: u32) -> NewJob {
    let mut new = new_job();
    new.spec.project = Some("app".to_owned());
    NewJob { waiting_max: Some(most), ..new }
}

/// Whether there was room.
async fn enqueues(store: &Store, new: NewJob) -> bool {
    match store.enqueue(new).await {
        Ok(_) => true,
        Err(StoreError::QueueFull { .. }) => false,
        Err(error) => panic!("the queue answers: {error}"),
    }
}

/// Enqueues until it is accepted: a process may take the queue for full a moment longer than it is.
async fn enqueues_soon(store: &Store, new: impl Fn() -> NewJob) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !enqueues(store, new()).await {
        assert!(Instant::now() < deadline, "there is room again");
        tokio::task::yield_now().await;
    }
}

async fn waiting(store: &Store) -> usize {
    let filter = JobFilter { state: Some(JobState::Queued), limit: 500, ..JobFilter::default() };
    store.jobs(&filter).await.expect("listed").items.len()
}

on_both! {
    async fn one_process_never_goes_beyond_the_limit_and_reaches_it(queue) {
        let store = queue.other(|config| config.waiting_max = 30).await;
        let mut at_once = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let store = store.clone();
            at_once.spawn(async move { enqueues(&store, new_job()).await });
        }
        let mut accepted = at_once.join_all().await.into_iter().filter(|accepted| *accepted).count();
        assert!((1..=30).contains(&accepted), "{accepted}");
        while accepted < 30 {
            enqueues_soon(&store, new_job).await;
            accepted += 1;
        }
        for _ in 0..20 {
            assert!(!enqueues(&store, new_job()).await, "the queue is full");
        }
        assert_eq!(waiting(&store).await, 30);
        // Without a limit, as another process may have it, there is always room.
        queue.enqueue().await;
        store.close().await;
    }

    async fn several_processes_keep_to_one_limit_nearly(queue) {
        const LIMIT: u32 = 200;
        let mut stores = Vec::new();
        for _ in 0..4 {
            stores.push(queue.other(|config| config.waiting_max = LIMIT).await);
        }
        // In turns, until each of them has been refused since anybody was let in.
        let mut refusals = 0;
        while refusals < stores.len() {
            for store in &stores {
                refusals = if enqueues(store, new_job()).await { 0 } else { refusals + 1 };
            }
        }
        // None goes by its own jobs alone: together they would go to four times the limit.
        let waiting = waiting(&queue.store).await;
        assert!((LIMIT as usize..=LIMIT as usize * 3 / 2).contains(&waiting), "{waiting}");
        for store in stores {
            store.close().await;
        }
    }

    async fn there_is_room_again_when_a_job_has_started_or_was_cancelled(queue) {
        let store = queue.other(|config| config.waiting_max = 2).await;
        let mut scheduled = new_job();
        scheduled.spec.run_at = Some(store.now() + LONG);
        let id = scheduled.id;
        assert!(enqueues(&store, scheduled).await && enqueues(&store, new_job()).await);
        assert!(!enqueues(&store, new_job()).await, "what is scheduled waits too");
        queue.store.cancel(id, "").await.expect("cancelled");
        enqueues_soon(&store, new_job).await;
        assert!(!enqueues(&store, new_job()).await);
        assert_eq!(queue.store.claim(&ask("w", 1, LONG)).await.expect("claimed").len(), 1);
        enqueues_soon(&store, new_job).await;
        store.close().await;
    }

    async fn a_job_that_is_there_is_answered_by_a_full_queue(queue) {
        let store = queue.other(|config| config.waiting_max = 1).await;
        let keyed = |digest: &str| {
            let mut new = NewJob { digest: digest.to_owned(), ..new_job() };
            new.spec.idempotency_key = Some("k".to_owned());
            new
        };
        let first = store.enqueue(keyed("d")).await.expect("there is room").into_job();
        let again = store.enqueue(keyed("d")).await.expect("it needs no room");
        assert!(matches!(again, Enqueued::Existing(job) if job.id == first.id));
        assert!(matches!(store.enqueue(keyed("other")).await, Err(StoreError::KeyConflict { .. })));
        assert!(!enqueues(&store, new_job()).await);
        store.close().await;
    }

    async fn a_project_has_a_limit_of_its_own(queue) {
        let store = &queue.store;
        for _ in 0..3 {
            assert!(enqueues(store, of_project(3)).await);
        }
        assert!(!enqueues(store, of_project(3)).await);
        assert!(enqueues(store, new_job()).await, "others have room");
        assert_eq!(queue.store.claim(&ask("w", 4, LONG)).await.expect("claimed").len(), 4);
        enqueues_soon(store, || of_project(3)).await;
        assert_eq!(waiting(store).await, 1);
    }

    async fn who_is_refused_is_told_when_to_come_back_by_the_pace_of_late(queue) {
        let refusal = |store: Store| async move {
            let refused = store.enqueue(of_project(2)).await.expect_err("it is full");
            store.close().await;
            let StoreError::QueueFull { retry_after, .. } = &refused else { panic!("{refused}") };
            (*retry_after, refused.to_string())
        };
        for _ in 0..2 {
            queue.store.enqueue(of_project(2)).await.expect("there is room");
        }
        let (unknown, sentence) = refusal(queue.other(|_| ()).await).await;
        assert_eq!(unknown, Duration::from_secs(60));
        assert_eq!(sentence, "cannot enqueue another job: 2 of project app wait already, and none has started in the last 10m; try again in 60 s");
        // Two start, two come; five minutes earlier, by the record, another two had.
        let mut started = BTreeSet::new();
        for _ in 0..2 {
            started.extend(queue.store.claim(&ask("w", 2, LONG)).await.expect("claimed").into_iter().map(|job| job.claim.job));
            for _ in 0..2 {
                enqueues_soon(&queue.store, || of_project(2)).await;
            }
        }
        assert_eq!(started.len(), 4);
        let early: Vec<JobId> = started.into_iter().take(2).collect();
        for job in early {
            let id = job.as_uuid().simple().to_string();
            queue.place.tamper(&format!("UPDATE attempts SET started_at = started_at - 300000 WHERE {}", by_job(queue, &id))).await;
        }
        let (known, sentence) = refusal(queue.other(|_| ()).await).await;
        assert!((74..=80).contains(&known.as_secs()), "four in 300 s: {known:?}");
        assert!(sentence.starts_with("cannot enqueue another job: 2 of project app wait already, and about 1 start in a minute; "), "{sentence}");
    }
}

/// The condition for the attempts at a job.
fn by_job(queue: &Queue, hex: &str) -> String {
    match queue.place {
        super::Place::File { .. } => format!("job = x'{hex}'"),
        super::Place::Schema { .. } => format!("job = '{hex}'"),
    }
}
