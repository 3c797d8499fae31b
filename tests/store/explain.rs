//! Why a job does not run, from what is on record: both databases.

use std::time::Duration;

use sawmill::clock::Timestamp;
use sawmill::ids::{JobId, WorkerId};
use sawmill::job::explain::Cause;
use sawmill::job::explain::facts::Count;
use sawmill::job::spec::Priority;
use sawmill::job::{
    CompletionState, Concurrency, Explanation, Hold, JobState, LogChunk, OutcomeClass, Stage, StageRecord, Stream,
};
use sawmill::store::{
    Claiming, NewJob, OfferedBackend, Pressure, SlotContent, SlotRecord, StoreError, WorkerPhase, WorkerReport,
};
use sqlx::{Connection, Executor, PgConnection, SqliteConnection};

use super::{LONG, Place, Queue, asking, delivered, finish, on_both, priority};

/// Sooner than anybody gives up waiting for a lock.
const SOON: Duration = Duration::from_secs(8);

/// A worker with so many free slots and the backend `shell` says that it is there.
async fn report(queue: &Queue, name: &str, slots: u32) {
    let now = queue.store.now();
    let report = WorkerReport {
        id: WorkerId::new(name),
        host: "h".to_owned(),
        version: String::new(),
        pid: 1,
        boot_id: String::new(),
        labels: Vec::new(),
        backends: vec![OfferedBackend { name: "shell".to_owned(), credential: "shell".to_owned(), capabilities: Vec::new() }],
        slots: (0..slots).map(|number| SlotRecord { number, content: SlotContent::Free }).collect(),
        pressure: Pressure::default(),
        claiming: Claiming { asked_at: Some(now), ..Claiming::default() },
        phase: WorkerPhase::Running,
        report_ms: 3_600_000,
        started_at: now,
        seen_at: now,
    };
    queue.store.report_worker(&report).await.expect("reported");
}

async fn explain(queue: &Queue, job: JobId) -> Explanation {
    queue.store.explain(job).await.expect("answered")
}

async fn cause(queue: &Queue, job: JobId) -> Cause {
    explain(queue, job).await.reasons.remove(0).cause
}

fn under(key: &str, limit: u32) -> impl FnOnce(&mut NewJob) {
    let concurrency = Concurrency { key: key.to_owned(), limit };
    move |new| new.spec.concurrency = Some(concurrency)
}

on_both! {
    async fn what_is_not_there_is_not_explained(queue) {
        assert!(matches!(queue.store.explain(JobId::generate()).await, Err(StoreError::NotFound { what: "job", .. })));
    }

    async fn those_before_it_are_counted_in_the_order_of_claims(queue) {
        let first = queue.enqueue().await;
        assert!(matches!(cause(queue, first.id).await, Cause::NoWorker { last: None, .. }));
        report(queue, "w", 2).await;
        let second = queue.enqueue().await;
        let urgent = queue.enqueue_as(priority(Priority::Interactive)).await;
        queue.enqueue_as(|new| new.spec.requires = vec!["gpu".to_owned()]).await;
        assert!(matches!(cause(queue, urgent.id).await, Cause::Next { worker, .. } if worker.as_str() == "w"));
        assert_eq!(cause(queue, first.id).await, Cause::Turn { ahead: Count { jobs: 1, more: false } });
        assert_eq!(cause(queue, second.id).await, Cause::Turn { ahead: Count { jobs: 2, more: false } });
        queue.claim("w").await;
        assert!(matches!(cause(queue, first.id).await, Cause::Next { .. }));
    }

    async fn a_key_is_full_by_what_runs_whether_or_not_a_claim_has_looked(queue) {
        report(queue, "w", 9).await;
        let runs = queue.enqueue_as(under("deploy", 1)).await;
        let (one, two) = (queue.enqueue_as(under("deploy", 1)).await, queue.enqueue_as(under("deploy", 1)).await);
        queue.claim("w").await;
        let expect = async |before: u64| {
            let Cause::Key { key, limit: 1, running: 1, runners, before: counted } = cause(queue, two.id).await else {
                panic!("{:?}", cause(queue, two.id).await)
            };
            assert_eq!((key.as_str(), runners[0].job, runners[0].worker.as_str()), ("deploy", runs.id, "w"));
            assert_eq!(counted, Count { jobs: before, more: false });
        };
        assert_eq!(queue.store.job(two.id).await.expect("there").held, None);
        expect(0).await;
        assert!(queue.nothing_to_claim().await);
        assert_eq!(queue.store.job(two.id).await.expect("there").held, Some(Hold::Key));
        expect(1).await;
        assert!(explain(queue, two.id).await.answer.starts_with("waits: key \"deploy\" is at its limit of 1: job "));
        queue.place.tamper("UPDATE jobs SET concurrency_limit = 2").await;
        assert_eq!(cause(queue, one.id).await, Cause::Room { limit: "key \"deploy\"".to_owned() });
    }

    async fn a_projects_limit_is_told_and_only_that_of_its_own_project(queue) {
        report(queue, "w", 9).await;
        queue.store.set_project_limits(&[("app".to_owned(), 1)].into()).await.expect("set");
        let of = |project: &str| {
            let project = project.to_owned();
            move |new: &mut NewJob| new.spec.project = Some(project)
        };
        let runs = queue.enqueue_as(of("app")).await;
        queue.claim("w").await;
        let (waits, other) = (queue.enqueue_as(of("app")).await, queue.enqueue_as(of("web")).await);
        let Cause::ProjectLimit { project, limit: 1, runners, .. } = cause(queue, waits.id).await else { panic!("not held") };
        assert_eq!((project.as_str(), runners[0].job), ("app", runs.id));
        assert!(matches!(cause(queue, other.id).await, Cause::Turn { .. } | Cause::Next { .. }));
    }

    async fn jobs_that_have_not_ended_are_named_with_who_runs_them(queue) {
        report(queue, "w", 9).await;
        let (first, second) = (queue.enqueue().await, queue.enqueue().await);
        let waits = queue.enqueue_as(|new| new.spec.after = vec![first.id, second.id]).await;
        let claimed = queue.claim("w").await;
        let causes: Vec<Cause> = explain(queue, waits.id).await.reasons.into_iter().map(|reason| reason.cause).collect();
        let [Cause::Dependency { job: one, state: JobState::Running, worker: Some(worker), since }, Cause::Dependency { job: two, state: JobState::Queued, .. }] =
            &causes[..]
        else {
            panic!("{causes:?}")
        };
        assert_eq!((*one, *two, worker.as_str(), *since), (first.id, second.id, "w", claimed.claimed_at));
        queue.store.finish(&claimed.claim, finish(OutcomeClass::Succeeded)).await.expect("finished");
        assert_eq!(explain(queue, waits.id).await.reasons.len(), 1);
    }

    async fn a_time_to_come_is_told_with_the_failure_that_put_it_off(queue) {
        report(queue, "w", 9).await;
        let at = queue.store.now() + LONG;
        let later = queue.enqueue_as(|new| new.spec.run_at = Some(at)).await;
        assert_eq!(cause(queue, later.id).await, Cause::Scheduled { until: at });
        queue.enqueue_as(|new| new.attempts_max = 2).await;
        let claimed = queue.claim("w").await;
        let end = sawmill::store::Finish { not_before: Some(at), ..finish(OutcomeClass::Gate) };
        queue.store.finish(&claimed.claim, end).await.expect("finished");
        let Cause::Backoff { until, attempt: Some(attempt), class: OutcomeClass::Gate, message } =
            cause(queue, claimed.claim.job).await
        else {
            panic!("no backoff")
        };
        assert_eq!((until, attempt, message.as_str()), (at, claimed.claim.attempt, "as the test wants it"));
        let start_by = queue.store.now() - Duration::from_secs(1);
        let late = queue.enqueue_as(|new| new.spec.start_by = Some(start_by)).await;
        assert_eq!(cause(queue, late.id).await, Cause::Expired { start_by });
    }

    async fn what_runs_is_told_with_its_stage_its_log_and_a_request_to_end_it(queue) {
        report(queue, "w", 9).await;
        queue.enqueue().await;
        let claimed = queue.claim("w").await;
        let (claim, at) = (&claimed.claim, claimed.claimed_at);
        let stage = |seq, stage| StageRecord { seq, stage, started_at: at, ended_at: None, outcome: None, detail: None };
        queue.store.record_stages(claim, &[stage(0, Stage::Prepare), stage(1, Stage::Execute)]).await.expect("recorded");
        let chunk = LogChunk { seq: 0, stream: Stream::Stdout, offset: 0, spool_end: 3, at: Timestamp(7), data: b"one".to_vec() };
        queue.store.append_log(claim, &[chunk]).await.expect("appended");
        let Cause::Running { worker, since, stage: Some(stage), log_bytes, logged_at, lease_until, .. } = cause(queue, claim.job).await
        else {
            panic!("it runs")
        };
        assert_eq!((worker.as_str(), since, stage, log_bytes, logged_at), ("w", at, Stage::Execute, 3, Some(Timestamp(7))));
        assert_eq!(lease_until, claimed.lease_until);
        queue.store.requeue(claim.job, "wrong host").await.expect("asked");
        let told = explain(queue, claim.job).await;
        assert!(matches!(&told.reasons[0].cause, Cause::Requeueing { reason, .. } if reason == "wrong host"), "{told:?}");
        queue.store.cancel(claim.job, "enough").await.expect("asked");
        let told = explain(queue, claim.job).await;
        assert!(matches!(&told.reasons[0].cause, Cause::Cancelling { reason, .. } if reason == "enough"), "{told:?}");
        assert!(told.answer.starts_with("is being ended: "), "{}", told.answer);
    }

    async fn a_lease_that_ran_out_unnoticed_is_told(queue) {
        queue.enqueue().await;
        let claimed = queue.claim_for("gone", Duration::ZERO).await;
        let told = explain(queue, claimed.claim.job).await;
        let causes: Vec<Cause> = told.reasons.into_iter().map(|reason| reason.cause).collect();
        assert!(matches!(causes[..], [Cause::Running { .. }, Cause::LeaseOver { .. }, Cause::SilentWorker { seen_at: None, .. }]), "{causes:?}");
    }

    async fn what_has_ended_is_told_with_its_place_among_the_completions(queue) {
        queue.enqueue().await;
        let claimed = queue.claim("w").await;
        queue.store.finish(&claimed.claim, delivered(&claimed)).await.expect("finished");
        let place = async || match &explain(queue, claimed.claim.job).await.reasons[..] {
            [ended, place] => {
                assert!(matches!(ended.cause, Cause::Ended { state: JobState::Succeeded, .. }), "{ended:?}");
                let Cause::Completion { state, consumer, .. } = place.cause.clone() else { panic!("{place:?}") };
                (state, consumer)
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(place().await, (CompletionState::Pending, None));
        let held = queue.store.claim_completions(&asking("ci", 1, None)).await.expect("claimed").remove(0);
        assert_eq!(place().await, (CompletionState::Claimed, Some("ci".to_owned())));
        queue.store.ack_completion(held.entry.completion.id, held.token).await.expect("acknowledged");
        assert_eq!(place().await, (CompletionState::Acked, Some("ci".to_owned())));
    }

    async fn a_completion_that_waits_behind_another_names_the_job_of_that(queue) {
        let mut jobs = Vec::new();
        for _ in 0..3 {
            queue.enqueue().await;
            let claimed = queue.claim("w").await;
            let mut end = delivered(&claimed);
            if let Some(completion) = &mut end.completion {
                completion.branch = Some("a".to_owned());
            }
            queue.store.finish(&claimed.claim, end).await.expect("finished");
            jobs.push(claimed.claim.job);
        }
        let behind = async |job| match &explain(queue, job).await.reasons[1].cause {
            Cause::Completion { state: CompletionState::Pending, behind, .. } => *behind,
            other => panic!("{other:?}"),
        };
        assert_eq!([behind(jobs[0]).await, behind(jobs[1]).await, behind(jobs[2]).await], [None, Some(jobs[0]), Some(jobs[0])]);
        let held = queue.store.claim_completions(&asking("ci", 1, None)).await.expect("claimed").remove(0);
        assert_eq!(behind(jobs[1]).await, Some(jobs[0]), "held is not done with");
        queue.store.ack_completion(held.entry.completion.id, held.token).await.expect("acknowledged");
        assert_eq!([behind(jobs[1]).await, behind(jobs[2]).await], [None, Some(jobs[1])]);
    }

    async fn a_slot_counts_as_taken_as_soon_as_its_job_is_claimed(queue) {
        report(queue, "w", 1).await;
        queue.enqueue().await;
        let waits = queue.enqueue().await;
        queue.claim("w").await;
        assert!(matches!(cause(queue, waits.id).await, Cause::NobodyFree { workers: 1, .. }), "though its report says that it is free");
    }

    async fn explaining_waits_for_nobody_who_writes(queue) {
        report(queue, "w", 1).await;
        let job = queue.enqueue().await;
        let told = match &queue.place {
            Place::File { .. } => {
                let mut writer = SqliteConnection::connect(&queue.place.url()).await.expect("the file can be opened");
                writer.execute("BEGIN IMMEDIATE").await.expect("it writes alone");
                tokio::time::timeout(SOON, queue.store.explain(job.id)).await
            }
            Place::Schema { .. } => {
                let mut writer = PgConnection::connect(&queue.place.url()).await.expect("the server answers");
                writer.execute(sqlx::raw_sql("BEGIN; LOCK TABLE jobs, workers IN EXCLUSIVE MODE")).await.expect("it writes alone");
                tokio::time::timeout(SOON, queue.store.explain(job.id)).await
            }
        };
        let told = told.expect("it does not wait").expect("answered");
        assert!(matches!(told.reasons[0].cause, Cause::Next { .. }), "{told:?}");
    }
}
