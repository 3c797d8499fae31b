//! Where a job stands, and when it may start.

use std::collections::BTreeMap;
use std::time::Duration;

use sawmill::clock::Timestamp;
use sawmill::ids::WorkerId;
use sawmill::job::spec::Priority;
use sawmill::job::{Concurrency, Forecast, Job, OutcomeClass};
use sawmill::store::{Claiming, NewJob, OfferedBackend, Pressure, SlotContent, SlotRecord, Store, WorkerPhase, WorkerReport};

use super::{LONG, Queue, ask, finish, on_both, priority};

/// A worker with two slots reports.
async fn worker(queue: &Queue, edit: impl FnOnce(&mut WorkerReport)) {
    let now = queue.store.now();
    let mut report = WorkerReport {
        id: WorkerId::new("w"),
        host: "builder".to_owned(),
        version: "0.1.0".to_owned(),
        pid: 4711,
        boot_id: "b".to_owned(),
        labels: vec!["linux".parse().expect("a label")],
        backends: vec![OfferedBackend { name: "shell".to_owned(), credential: "shell".to_owned(), capabilities: Vec::new() }],
        slots: (0..2).map(|number| SlotRecord { number, content: SlotContent::Free }).collect(),
        pressure: Pressure::default(),
        claiming: Claiming::default(),
        phase: WorkerPhase::Running,
        report_ms: 3_600_000,
        started_at: now,
        seen_at: now,
    };
    edit(&mut report);
    queue.store.report_worker(&report).await.expect("reported");
}

/// As a process that has looked at no history yet.
async fn forecast(queue: &Queue, job: &Job) -> Forecast {
    let store: Store = queue.other(|_| ()).await;
    let forecast = store.forecast(job.id).await.expect("the queue answers").expect("the job waits");
    store.close().await;
    forecast
}

/// Both slots are taken, and one attempt before took a minute.
async fn busy(queue: &Queue) {
    worker(queue, |_| ()).await;
    for _ in 0..3 {
        queue.enqueue().await;
    }
    let done = queue.claim("w").await;
    queue.store.finish(&done.claim, finish(OutcomeClass::Invalid)).await.expect("finished");
    queue.place.tamper("UPDATE attempts SET started_at = started_at - 60000").await;
    assert_eq!(queue.store.claim(&ask("w", 2, LONG)).await.expect("claimed").len(), 2);
}

fn in_seconds(queue: &Queue, forecast: &Forecast) -> u64 {
    forecast.expected_start.expect("an expected start").since(queue.store.now()).as_secs()
}

on_both! {
    async fn a_job_that_a_free_slot_can_take_starts_at_once(queue) {
        worker(queue, |_| ()).await;
        let job = queue.enqueue().await;
        let told = forecast(queue, &job).await;
        assert_eq!((told.ahead, told.or_more, told.slots), (Some(0), false, 2));
        assert_eq!(in_seconds(queue, &told), 0);
        queue.claim("w").await;
        assert!(queue.store.forecast(job.id).await.expect("answered").is_none(), "it waits no more");
    }

    async fn a_job_behind_others_starts_when_enough_slots_have_become_free(queue) {
        busy(queue).await;
        let mut waiting = Vec::new();
        for _ in 0..4 {
            waiting.push(queue.enqueue().await);
        }
        let told = forecast(queue, &waiting[3]).await;
        assert_eq!((told.ahead, told.slots), (Some(3), 2));
        // One of a minute, and what the two that run have taken so far: in all a little more than a minute each.
        let mean = Duration::from_millis(told.mean_ms.expect("a mean").cast_unsigned());
        assert!((60..70).contains(&mean.as_secs()), "{mean:?}");
        let wait = in_seconds(queue, &told);
        assert!((115..=141).contains(&wait), "four ends on two slots: {wait} s");
        let urgent = queue.enqueue_as(priority(Priority::Interactive)).await;
        assert_eq!(forecast(queue, &urgent).await.ahead, Some(0));
        let late = queue.enqueue_as(priority(Priority::Background)).await;
        assert_eq!(forecast(queue, &late).await.ahead, Some(5));
    }

    async fn only_what_the_same_workers_take_is_before_a_job(queue) {
        worker(queue, |_| ()).await;
        let linux = queue.enqueue_as(|new| new.spec.requires = vec!["linux".to_owned()]).await;
        queue.enqueue_as(|new| new.spec.requires = vec!["gpu".to_owned()]).await;
        let job = queue.enqueue().await;
        assert_eq!(forecast(queue, &job).await.ahead, Some(1), "of another route, and for the same worker");
        assert_eq!(forecast(queue, &linux).await.ahead, Some(0));
    }

    async fn what_is_not_known_is_said_with_the_reason(queue) {
        let why = |told: &Forecast| {
            assert_eq!(told.expected_start, None, "{told:?}");
            told.unknown.clone().expect("a reason")
        };
        let first = queue.enqueue().await;
        assert_eq!(why(&forecast(queue, &first).await), "no live worker has its backend and all that it requires");
        worker(queue, |report| report.seen_at = Timestamp(1)).await;
        assert_eq!(why(&forecast(queue, &first).await), "no live worker has its backend and all that it requires");
        worker(queue, |report| report.phase = WorkerPhase::Draining).await;
        assert_eq!(why(&forecast(queue, &first).await), "the one worker that could take it takes no jobs now");
        worker(queue, |report| report.slots.truncate(1)).await;
        let second = queue.enqueue().await;
        assert_eq!(why(&forecast(queue, &second).await), "no attempt at a job like those before it is known to have ended lately");
        let after = queue.enqueue_as(|new| new.spec.after = vec![first.id]).await;
        assert_eq!(why(&forecast(queue, &after).await), "it waits for the end of other jobs");
        let later = queue.enqueue_as(|new| new.spec.run_at = Some(Timestamp(4_922_899_200_000))).await;
        assert_eq!(why(&forecast(queue, &later).await), "it has no place in the queue before 2126-01-01T00:00:00.000Z");
    }

    async fn a_limit_makes_the_wait_longer_than_the_slots_do(queue) {
        busy(queue).await;
        let under_key = |new: &mut NewJob| new.spec.concurrency = Some(Concurrency { key: "k".to_owned(), limit: 1 });
        queue.store.set_project_limits(&BTreeMap::from([("app".to_owned(), 1)])).await.expect("set");
        let of_project = |new: &mut NewJob| new.spec.project = Some("app".to_owned());
        queue.enqueue_as(under_key).await;
        queue.enqueue_as(under_key).await;
        queue.enqueue_as(of_project).await;
        let (key, project) = (queue.enqueue_as(under_key).await, queue.enqueue_as(of_project).await);
        let other = super::ask("other", 4, LONG);
        assert_eq!(queue.store.claim(&other).await.expect("claimed").len(), 2, "one under each limit");
        let held = forecast(queue, &key).await;
        assert_eq!((held.ahead, held.slots), (Some(1), 1), "the one that the key holds");
        assert!((115..=141).contains(&in_seconds(queue, &held)), "{held:?}");
        let alone = forecast(queue, &project).await;
        assert_eq!((alone.ahead, alone.slots), (Some(0), 1));
        assert!((55..=71).contains(&in_seconds(queue, &alone)), "{alone:?}");
    }
}
