//! The registry of workers, and what a worker hears with every renewal.

use std::slice;
use std::time::Duration;

use sawmill::clock::Timestamp;
use sawmill::ids::{AttemptNo, JobId, WorkerId};
use sawmill::job::{JobState, OutcomeClass, Stage};
use sawmill::store::{
    ClaimFailure, Claiming, JobOrder, NoEngine, OfferedBackend, Pressure, PressureLimits, Renewal, Resource, Shortage,
    SlotContent, SlotRecord, StopRequest, StoreError, WorkerPhase, WorkerReport, WorkerState,
};

use super::{LONG, Queue, finish, on_both};

pub(super) fn report(now: Timestamp) -> WorkerReport {
    let label = |text: &str| text.parse().expect("a label");
    WorkerReport {
        id: WorkerId::new("w"),
        host: "build-1".to_owned(),
        version: "0.1.0".to_owned(),
        pid: u32::MAX,
        boot_id: "b".to_owned(),
        labels: vec![label("gpu=a100"), label("linux")],
        backends: vec![OfferedBackend {
            name: "shell".to_owned(),
            credential: "shell".to_owned(),
            capabilities: vec![label("vision")],
        }],
        slots: vec![
            SlotRecord { number: 0, content: SlotContent::Free },
            SlotRecord {
                number: 1,
                content: SlotContent::Busy {
                    job: JobId::generate(),
                    attempt: AttemptNo(2),
                    stage: Some(Stage::Execute),
                    since: Timestamp(3),
                },
            },
            SlotRecord { number: 7, content: SlotContent::Broken { reason: "no supervisor".to_owned(), since: Timestamp(4) } },
        ],
        pressure: Pressure {
            memory_available_bytes: Some(1 << 40),
            memory_stalled_percent: None,
            disk_free_bytes: Some(0),
            inodes_free: Some(7),
            limits: PressureLimits { disk_free_bytes: 1, ..PressureLimits::default() },
            shortage: Some(Shortage { of: [Resource::Disk].into(), reason: "no disk".to_owned(), since: Timestamp(5) }),
        },
        claiming: Claiming {
            asked_at: Some(Timestamp(6)),
            claimed_at: None,
            failure: Some(ClaimFailure { reason: "no database".to_owned(), since: Timestamp(5) }),
            no_engine: Some(NoEngine { reason: "no Docker".to_owned(), since: Timestamp(4), leaves_all: true }),
        },
        phase: WorkerPhase::Running,
        report_ms: 1_000,
        started_at: Timestamp(1),
        seen_at: now,
    }
}

async fn state(queue: &Queue) -> WorkerState {
    queue.store.worker(&WorkerId::new("w")).await.expect("there").state
}

on_both! {
    async fn a_worker_is_what_it_last_said(queue) {
        let first = report(queue.store.now());
        queue.store.report_worker(&first).await.expect("reported");
        let found = queue.store.worker(&first.id).await.expect("there");
        assert_eq!((&found.report, found.state, found.jobs, found.free_slots()), (&first, WorkerState::Paused, 0, 1));
        let last = WorkerReport { phase: WorkerPhase::Draining, slots: Vec::new(), labels: Vec::new(), ..first.clone() };
        queue.store.report_worker(&last).await.expect("reported");
        let listed = queue.store.workers().await.expect("listed");
        assert_eq!((listed.len(), &listed[0].report, listed[0].state), (1, &last, WorkerState::Draining));
        let silent = WorkerReport { seen_at: queue.store.now() - Duration::from_secs(4), ..last.clone() };
        queue.store.report_worker(&silent).await.expect("reported");
        assert_eq!(state(queue).await, WorkerState::Offline, "it has missed three reports");
        queue.store.report_worker(&WorkerReport { phase: WorkerPhase::Stopped, ..silent }).await.expect("reported");
        assert_eq!(state(queue).await, WorkerState::Stopped, "it is not missed");
        assert!(matches!(queue.store.worker(&WorkerId::new("v")).await, Err(StoreError::NotFound { what: "worker", .. })));
    }

    async fn a_drain_stands_whatever_the_worker_reports_until_it_is_resumed(queue) {
        let said = WorkerReport { pressure: Pressure::default(), ..report(queue.store.now()) };
        let id = said.id.clone();
        assert!(matches!(queue.store.drain_worker(&id, "op", "").await, Err(StoreError::NotFound { .. })));
        assert_eq!(queue.store.report_worker(&said).await.expect("reported"), None);
        let drain = queue.store.drain_worker(&id, "op@host", "new kernel").await.expect("asked").drain.expect("a drain");
        assert_eq!((drain.asked_by.as_str(), drain.reason.as_str()), ("op@host", "new kernel"));
        let again = queue.store.drain_worker(&id, "another", "").await.expect("asked");
        assert_eq!((again.drain.as_ref(), again.state), (Some(&drain), WorkerState::Draining), "the first request stands");
        assert_eq!(queue.store.report_worker(&said).await.expect("reported"), Some(drain.clone()));
        let restarted = WorkerReport { pid: 2, started_at: queue.store.now(), ..said.clone() };
        assert_eq!(queue.store.report_worker(&restarted).await.expect("reported"), Some(drain));
        let resumed = queue.store.resume_worker(&id).await.expect("resumed");
        assert_eq!((resumed.drain, resumed.state), (None, WorkerState::Running));
        assert_eq!(queue.store.resume_worker(&id).await.expect("nothing to do").state, WorkerState::Running);
        assert_eq!(queue.store.report_worker(&said).await.expect("reported"), None);
    }

    async fn a_drain_is_over_when_no_job_is_left_and_the_worker_has_heard(queue) {
        let said = report(queue.store.now());
        queue.store.report_worker(&said).await.expect("reported");
        queue.enqueue().await;
        let claimed = queue.claim("w").await;
        let drained = queue.store.drain_worker(&said.id, "op", "").await.expect("asked");
        assert_eq!((drained.jobs, drained.is_drained()), (1, false));
        queue.store.finish(&claimed.claim, finish(OutcomeClass::Backend)).await.expect("finished");
        let found = queue.store.worker(&said.id).await.expect("there");
        assert_eq!((found.jobs, found.is_drained()), (0, false), "it may be claiming another");
        let heard = WorkerReport { phase: WorkerPhase::Draining, ..said };
        queue.store.report_worker(&heard).await.expect("reported");
        assert!(queue.store.worker(&heard.id).await.expect("there").is_drained());
    }

    async fn the_answer_to_a_renewal_has_all_that_a_worker_must_hear(queue) {
        let said = report(queue.store.now());
        queue.store.report_worker(&said).await.expect("reported");
        for _ in 0..3 {
            queue.enqueue().await;
        }
        let (cancelled, moved, lost) = (queue.claim("w").await.claim, queue.claim("w").await.claim, queue.claim("w").await.claim);
        let quiet = queue.store.orders(&said.id).await.expect("answered");
        assert_eq!((quiet.jobs.len(), quiet.heard.drain), (0, None));
        queue.store.cancel(cancelled.job, "enough").await.expect("asked");
        let at = queue.store.now() + LONG;
        let answer = queue.store.move_deadline(moved.job, at).await.expect("moved");
        assert_eq!((answer.job, answer.attempt, answer.deadline_at), (moved.job, moved.attempt, at));
        queue.store.finish(&lost, finish(OutcomeClass::Backend)).await.expect("finished");
        let drain = queue.store.drain_worker(&said.id, "op", "").await.expect("asked").drain;

        let claims = [lost, moved.clone(), cancelled.clone()];
        let renewed = queue.store.renew(&said.id, &claims, LONG).await.expect("answered");
        assert_eq!((&renewed.renewals[0], &renewed.heard.drain), (&Renewal::Lost, &drain));
        let Renewal::Held { stop: None, deadline: Some(found), .. } = &renewed.renewals[1] else { panic!("{renewed:?}") };
        assert_eq!(*found, at);
        let Renewal::Held { stop: Some(why), deadline: None, .. } = &renewed.renewals[2] else { panic!("{renewed:?}") };
        assert_eq!(*why, StopRequest::Cancel("cancelled by request: enough".to_owned()));

        let orders = queue.store.orders(&said.id).await.expect("answered");
        let order = |claim: &sawmill::job::Claim, stop, deadline| JobOrder { job: claim.job, attempt: claim.attempt, stop, deadline };
        let expected = [order(&cancelled, Some(why.clone()), None), order(&moved, None, Some(at))];
        assert_eq!((orders.jobs.len(), &orders.heard.drain), (2, &drain));
        assert!(expected.iter().all(|order| orders.jobs.contains(order)), "{orders:?}");
        let nobody = queue.store.renew(&said.id, &[], LONG).await.expect("answered");
        assert_eq!(nobody.heard.drain, drain, "also without a claim");
    }

    async fn a_deadline_is_that_of_the_attempt_that_runs(queue) {
        let job = queue.enqueue_as(|new| new.attempts_max = 2).await;
        let waiting = queue.store.move_deadline(job.id, Timestamp(7)).await;
        assert!(matches!(waiting, Err(StoreError::NotRunning { state: JobState::Queued, .. })), "{waiting:?}");
        let first = queue.claim("w").await.claim;
        queue.store.move_deadline(job.id, Timestamp(7)).await.expect("moved");
        queue.store.move_deadline(job.id, Timestamp(9)).await.expect("moved again");
        queue.store.finish(&first, finish(OutcomeClass::Timeout)).await.expect("finished");
        queue.store.promote_once(1).await.expect("done");
        let second = queue.claim("w").await.claim;
        let renewed = queue.store.renew(&second.worker, slice::from_ref(&second), LONG).await.expect("answered");
        assert!(matches!(renewed.renewals[0], Renewal::Held { deadline: None, .. }), "{renewed:?}");
        let attempts = queue.store.attempts(job.id).await.expect("there");
        assert_eq!([attempts[0].deadline_at, attempts[1].deadline_at], [Some(Timestamp(9)), None]);
        queue.store.finish(&second, finish(OutcomeClass::Invalid)).await.expect("finished");
        let ended = queue.store.move_deadline(job.id, Timestamp(7)).await;
        assert!(matches!(ended, Err(StoreError::NotRunning { state: JobState::Failed, .. })), "{ended:?}");
        let unknown = queue.store.move_deadline(JobId::generate(), Timestamp(7)).await;
        assert!(matches!(unknown, Err(StoreError::NotFound { .. })), "{unknown:?}");
    }
}
