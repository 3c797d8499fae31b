//! What is said, for every state and every reason.

use std::time::Duration;

use super::facts::{CompletionPlace, Count, LatestAttempt, LimitInUse, Need, Runner};
use super::*;
use crate::ids::AttemptNo;
use crate::job::spec::ContainerMode;
use crate::job::worker_record::{
    ClaimFailure, Claiming, Drain, NoEngine, OfferedBackend, Pressure, PressureLimits, Resource, Shortage, SlotContent,
    SlotRecord, WorkerPhase, WorkerRecord, WorkerReport,
};
use crate::job::{CompletionState, Hold, Job, JobSpec, Label, Outcome, OutcomeClass, Stage};

const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn ago(seconds: u64) -> Timestamp {
    NOW - Duration::from_secs(seconds)
}

fn later(seconds: u64) -> Timestamp {
    NOW + Duration::from_secs(seconds)
}

fn id(digit: u8) -> JobId {
    format!("0000000{digit:x}-0000-7000-8000-000000000000").parse().expect("an id")
}

fn labels(words: &[&str]) -> Vec<Label> {
    words.iter().map(|word| word.parse().expect("a label")).collect()
}

/// A job for the backend `shell` that nothing keeps, and no worker.
fn waiting() -> Facts {
    let job = Job {
        id: id(1),
        spec: JobSpec { backend: Some("shell".to_owned()), ..JobSpec::default() },
        repo: "r".to_owned(),
        base: "main".to_owned(),
        branch: "b".parse().expect("a branch"),
        state: JobState::Queued,
        held: None,
        ready_at: ago(60),
        attempt: None,
        attempts_used: 0,
        attempts_max: 3,
        resets: 0,
        worker: None,
        cancel_requested_at: None,
        requeue_requested_at: None,
        outcome: None,
        commit: None,
        created_at: ago(60),
        started_at: None,
        finished_at: None,
    };
    Facts {
        now: NOW,
        job,
        start_by: None,
        cancel_reason: None,
        requeue_reason: None,
        lease_until: None,
        attempt: None,
        needs: Vec::new(),
        key: None,
        project: None,
        budgets: Vec::new(),
        ahead: Some(Count::NONE),
        workers: Vec::new(),
        completion: None,
    }
}

/// A worker on host `h` with two free slots and the backend `shell`, as `edit` has it.
fn worker(name: &str, edit: impl FnOnce(&mut WorkerReport, &mut Option<Drain>)) -> WorkerRecord {
    let mut report = WorkerReport {
        id: WorkerId::new(name),
        host: "h".to_owned(),
        version: String::new(),
        pid: 1,
        boot_id: String::new(),
        labels: Vec::new(),
        backends: vec![OfferedBackend { name: "shell".to_owned(), credential: "shell".to_owned(), capabilities: Vec::new() }],
        slots: vec![SlotRecord { number: 0, content: SlotContent::Free }, SlotRecord { number: 1, content: SlotContent::Free }],
        pressure: Pressure::default(),
        claiming: Claiming { asked_at: Some(ago(1)), ..Claiming::default() },
        phase: WorkerPhase::Running,
        report_ms: 10_000,
        started_at: ago(9_000),
        seen_at: ago(2),
    };
    let mut drain = None;
    edit(&mut report, &mut drain);
    let busy = report.slots.iter().filter(|slot| matches!(slot.content, SlotContent::Busy { .. })).count();
    WorkerRecord::new(report, drain, &[], u32::try_from(busy).expect("few"), NOW)
}

fn free(name: &str) -> WorkerRecord {
    worker(name, |_, _| ())
}

fn busy(report: &mut WorkerReport) {
    for (slot, digit) in report.slots.iter_mut().zip(2..) {
        slot.content = SlotContent::Busy { job: id(digit), attempt: AttemptNo(1), stage: None, since: ago(180) };
    }
}

fn limit(name: &str, limit: u64, running: u64) -> LimitInUse {
    let runner = |digit| Runner { job: id(digit), worker: WorkerId::new("w"), since: ago(180) };
    LimitInUse {
        name: name.to_owned(),
        limit,
        running,
        runners: (2..).take(running.min(8) as usize).map(runner).collect(),
        before: Count::NONE,
    }
}

/// The answer, a line for each worker with what would change it there alone, and what would change it.
fn told(facts: &Facts) -> String {
    let found = explain(facts);
    let workers = found.workers.iter().map(|worker| {
        let changes = worker.changes.iter().filter(|change| !found.changes.contains(change));
        let changes: String = changes.map(|change| format!(" [{change}]")).collect();
        format!("\n{} {}: {}{changes}", worker.worker, worker.state, worker.answer)
    });
    let changes = found.changes.iter().map(|change| format!("\n- {change}"));
    found.answer + &workers.chain(changes).collect::<String>()
}

fn with(edit: impl FnOnce(&mut Facts)) -> Facts {
    let mut facts = waiting();
    facts.workers = vec![free("w1")];
    edit(&mut facts);
    facts
}

#[test]
fn one_that_nothing_keeps_is_about_to_be_claimed_or_has_others_before_it() {
    insta::assert_snapshot!(told(&with(|_| ())), @r#"
    waits: nothing keeps it, and w1 has a free slot for it; it last looked at the queue 1s ago
    w1 running: it is about to claim the job
    "#);
    insta::assert_snapshot!(told(&with(|facts| facts.ahead = Some(Count::bounded(12, 1_000)))), @r#"
    waits: 12 jobs come before it
    w1 running: it could take the job, but 12 jobs come before it
    "#);
    insta::assert_snapshot!(told(&with(|facts| facts.ahead = Some(Count::bounded(1_001, 1_000)))), @r#"
    waits: more than 1000 jobs come before it
    w1 running: it could take the job, but more than 1000 jobs come before it
    "#);
}

#[test]
fn one_without_any_worker_is_told_how_to_start_one() {
    insta::assert_snapshot!(told(&waiting()), @r#"
    waits: no worker has ever reported
    - a worker: sawmill worker, or sawmill up for API and worker in one
    "#);
    insta::assert_snapshot!(told(&with(|facts| facts.workers = vec![
        worker("w1", |report, _| report.seen_at = ago(3_600)),
        worker("w2", |report, _| (report.seen_at, report.phase) = (ago(300), WorkerPhase::Stopped)),
    ])), @r#"
    waits: no worker is there; the last one, w2, reported 5m ago
    w1 offline: it last reported 1h ago
    w2 stopped: it ended 5m ago
    - a worker: sawmill worker, or sawmill up for API and worker in one
    - w1, once it runs on h again and reaches the database
    - w2, once it is started on h again
    "#);
}

#[test]
fn a_key_or_project_at_its_limit_is_named_with_who_runs_under_it() {
    insta::assert_snapshot!(told(&with(|facts| facts.key = Some(limit("deploy", 1, 1)))), @r#"
    waits: key "deploy" is at its limit of 1: job 00000002-0000-7000-8000-000000000000 has run on w for 3m
    w1 running: it could take the job, but key "deploy" is at its limit of 1
    - the end of job 00000002-0000-7000-8000-000000000000, which has run longest, or of any job under the key "deploy"
    "#);
    insta::assert_snapshot!(told(&with(|facts| {
        facts.job.held = Some(Hold::Project);
        facts.ahead = None;
        facts.project = Some(LimitInUse { before: Count::bounded(7, 1_000), ..limit("app", 20, 20) });
    })), @r#"
    waits: project "app" is at its limit of 20: job 00000002-0000-7000-8000-000000000000 has run on w for 3m, job 00000003-0000-7000-8000-000000000000 has run on w for 3m, job 00000004-0000-7000-8000-000000000000 has run on w for 3m and 17 others; 7 jobs it holds come first
    w1 running: it could take the job, but project "app" is at its limit of 20
    - the end of job 00000002-0000-7000-8000-000000000000, which has run longest, or of any job of project "app", or a higher limit of the project
    "#);
    // Both at once, and no worker either.
    insta::assert_snapshot!(told(&with(|facts| {
        facts.key = Some(limit("deploy", 1, 1));
        facts.project = Some(limit("app", 1, 1));
        facts.workers.clear();
    })), @r#"
    waits: key "deploy" is at its limit of 1: job 00000002-0000-7000-8000-000000000000 has run on w for 3m; also, project "app" is at its limit of 1: job 00000002-0000-7000-8000-000000000000 has run on w for 3m; also, no worker has ever reported
    - the end of job 00000002-0000-7000-8000-000000000000, which has run longest, or of any job under the key "deploy"
    - the end of job 00000002-0000-7000-8000-000000000000, which has run longest, or of any job of project "app", or a higher limit of the project
    - a worker: sawmill worker, or sawmill up for API and worker in one
    "#);
    // What the queue last noted is not what is true now.
    insta::assert_snapshot!(told(&with(|facts| {
        facts.job.held = Some(Hold::Key);
        facts.ahead = None;
        facts.key = Some(limit("deploy", 1, 0));
    })), @r#"
    waits: key "deploy" has room again, and a worker lets it in when it next looks
    w1 running: it could take the job, but key "deploy" has room again, and a worker lets it in when it next looks
    "#);
}

#[test]
fn jobs_that_it_waits_for_are_named() {
    let need =
        |digit, state, worker: Option<&str>| Need { job: id(digit), state, worker: worker.map(WorkerId::new), since: ago(180) };
    insta::assert_snapshot!(told(&with(|facts| {
        facts.job.held = Some(Hold::Dependency);
        facts.ahead = None;
        facts.needs = vec![need(2, JobState::Running, Some("w9")), need(3, JobState::Queued, None), need(4, JobState::Queued, None)];
    })), @r#"
    waits: job 00000002-0000-7000-8000-000000000000, which it waits for, has run on w9 for 3m (and 2 more jobs)
    w1 running: it could take the job, but it waits for job 00000002-0000-7000-8000-000000000000
    - the end of job 00000002-0000-7000-8000-000000000000; see: sawmill job explain 00000002-0000-7000-8000-000000000000
    - the end of job 00000003-0000-7000-8000-000000000000; see: sawmill job explain 00000003-0000-7000-8000-000000000000
    - the end of job 00000004-0000-7000-8000-000000000000; see: sawmill job explain 00000004-0000-7000-8000-000000000000
    "#);
}

#[test]
fn its_time_is_told_with_why_it_was_put_off() {
    insta::assert_snapshot!(told(&with(|facts| {
        (facts.job.held, facts.job.ready_at, facts.ahead) = (Some(Hold::Scheduled), later(7_380), None);
    })), @r#"
    waits: its time comes in 2h 3m, at 2023-11-15T00:16:20.000Z
    w1 running: it could take the job, but its time comes in 2h 3m
    - time, until 2023-11-15T00:16:20.000Z
    "#);
    insta::assert_snapshot!(told(&with(|facts| {
        (facts.job.held, facts.job.ready_at, facts.ahead) = (Some(Hold::Backoff), later(8), None);
        facts.job.attempt = Some(AttemptNo(2));
        facts.job.outcome = Some(Outcome::new(OutcomeClass::Gate, "gate unit exited with 1"));
    })), @r#"
    waits: it is tried again in 8s, at 2023-11-14T22:13:28.000Z; attempt 2 ended as gate: gate unit exited with 1
    w1 running: it could take the job, but it is tried again in 8s
    - time, until 2023-11-14T22:13:28.000Z; sawmill job requeue 00000001-0000-7000-8000-000000000000 tries it at once
    "#);
    insta::assert_snapshot!(told(&with(|facts| {
        (facts.job.held, facts.job.ready_at, facts.ahead) = (Some(Hold::Scheduled), ago(1), None);
        facts.workers.clear();
    })), @r#"
    waits: its time came 1s ago, and a worker lets it in when it next looks; also, no worker has ever reported
    - a worker: sawmill worker, or sawmill up for API and worker in one
    "#);
    insta::assert_snapshot!(told(&with(|facts| facts.start_by = Some(ago(2)))), @r#"
    waits: it had to start by 2023-11-14T22:13:18.000Z, which was 2s ago, and fails once a worker looks
    w1 running: it could take the job, but it had to start by 2023-11-14T22:13:18.000Z, which was 2s ago, and fails once a worker looks
    "#);
    assert_eq!(explain(&with(|facts| facts.start_by = Some(later(9)))).start_by, Some(later(9)));
}

#[test]
fn what_nobody_offers_is_told_with_who_comes_nearest() {
    insta::assert_snapshot!(told(&with(|facts| facts.job.spec.backend = Some("codex".to_owned()))), @r#"
    waits: no worker that is there has the backend "codex"
    w1 running: it does not have the backend "codex"; it has shell [[backends.codex] in the configuration of w1, and its restart]
    - [backends.codex] in the configuration of a worker that is there, or another worker
    "#);
    let requiring = |workers: Vec<WorkerRecord>| {
        with(|facts| {
            facts.job.spec.requires = vec!["gpu=a100".to_owned(), "vision".to_owned(), "linux".to_owned()];
            facts.workers = workers;
        })
    };
    let offering = |name, words: &'static [&str]| worker(name, |report, _| report.labels = labels(words));
    insta::assert_snapshot!(told(&requiring(vec![
        free("w1"),
        offering("w2", &["linux", "vision"]),
        worker("w3", |report, _| {
            report.labels = labels(&["linux", "gpu=a100"]);
            report.backends[0].name = "codex".to_owned();
        }),
        worker("w4", |report, _| {
            (report.labels, report.seen_at) = (labels(&["linux", "gpu=a100", "vision"]), ago(600));
        }),
    ])), @r#"
    waits: no worker that is there offers all that it requires; w2 comes nearest, and lacks gpu=a100; w4, which would suit it, is away
    w2 running: it does not offer gpu=a100 [gpu=a100 among worker.labels of w2, where that is true, and its restart]
    w1 running: it does not offer gpu=a100, linux and vision [gpu=a100, linux and vision among worker.labels of w1, where that is true, and its restart]
    w3 running: it does not have the backend "shell"; it has codex [[backends.shell] in the configuration of w3, and its restart]
    w4 offline: it last reported 10m ago
    - gpu=a100 among worker.labels of w2 or its backend's capabilities, where that is true, or another worker
    - w4, once it runs on h again and reaches the database
    "#);
    // What another backend of the worker can do does not help.
    insta::assert_snapshot!(told(&requiring(vec![worker("w1", |report, _| {
        report.labels = labels(&["linux", "gpu=a100"]);
        report.backends.push(OfferedBackend { name: "codex".to_owned(), credential: "codex".to_owned(), capabilities: labels(&["vision"]) });
    })])), @r#"
    waits: no worker that is there offers all that it requires; w1 comes nearest, and lacks vision
    w1 running: it offers vision with the backend "codex" only [vision among its backend's capabilities on w1, where that is true, and its restart]
    - vision among worker.labels of w1 or its backend's capabilities, where that is true, or another worker
    "#);
}

#[test]
fn a_worker_without_an_engine_is_kept_from_jobs_that_need_a_container_and_from_no_others() {
    let asks = |container, leaves_all| {
        told(&with(|facts| {
            facts.job.spec.container = Some(container);
            facts.workers = vec![worker("bare", |report, _| {
                let reason = "cannot reach Docker or Podman at /run/docker.sock".to_owned();
                report.claiming.no_engine = Some(NoEngine { reason, since: ago(60), leaves_all });
            })];
        }))
    };
    insta::assert_snapshot!(asks(ContainerMode::On, false), @r"
    waits: bare, the only worker there that suits it, has no container for it
    bare running: the job is to run in a container, and for 1m there was none: cannot reach Docker or Podman at /run/docker.sock
    - Docker or Podman on h; bare looks for it by itself
    ");
    assert_eq!(asks(ContainerMode::Auto, true), asks(ContainerMode::On, true));
    assert!(!asks(ContainerMode::Auto, false).contains("container"));
    assert!(!asks(ContainerMode::Off, true).contains("container"));
}

#[test]
fn each_worker_that_cannot_take_it_now_says_why() {
    let gib = 1 << 30;
    insta::assert_snapshot!(told(&with(|facts| facts.workers = vec![
        worker("busy", |report, _| busy(report)),
        worker("drained", |_, drain| {
            *drain = Some(Drain { asked_at: ago(300), asked_by: "op@desk".to_owned(), reason: "new kernel".to_owned() });
        }),
        worker("leaving", |report, _| report.phase = WorkerPhase::Draining),
        worker("full-disk", |report, _| {
            let of = [Resource::Memory, Resource::Disk].into();
            let limits = PressureLimits { disk_free_bytes: gib, memory_available_bytes: gib, ..PressureLimits::default() };
            let shortage = Some(Shortage { of, reason: "less than 1.0 GiB is free on the disk".to_owned(), since: ago(60) });
            let (memory_available_bytes, disk_free_bytes) = (Some(gib / 4), Some(gib / 2));
            report.pressure = Pressure { limits, shortage, memory_available_bytes, disk_free_bytes, ..Pressure::default() };
        }),
        worker("broken", |report, _| {
            for slot in &mut report.slots {
                slot.content = SlotContent::Broken { reason: "slot has no supervisor".to_owned(), since: ago(60) };
            }
        }),
        worker("deaf", |report, _| {
            report.claiming.failure = Some(ClaimFailure { reason: "no answer in time".to_owned(), since: ago(30) });
        }),
        worker("away", |report, _| report.seen_at = ago(7_200)),
    ])), @r#"
    waits: none of the 6 workers that suit it can take a job now: busy has no free slot, drained is drained, leaving is about to stop and 3 others cannot either
    busy running: none of its 2 slots is free: job 00000002-0000-7000-8000-000000000000 for 3m and job 00000003-0000-7000-8000-000000000000 for 3m
    drained draining: op@desk asked for its drain 5m ago: new kernel
    leaving draining: it was told to end, and takes no more jobs
    full-disk paused: it has claimed nothing for 1m: less than 1.0 GiB is free on the disk (measured: 256.0 MiB of memory and 512.0 MiB of disk) [more free memory and more room on the disk of its state directory on h; full-disk goes on by itself]
    broken running: none of its 2 slots is free; 2 are broken: slot has no supervisor [broken, which tries its broken slots again every few seconds; its log says why they are]
    deaf running: it has not been able to claim for 30s: no answer in time [what sawmill doctor on h finds]
    away offline: it last reported 2h ago [away, once it runs on h again and reaches the database]
    - the end of a job on busy, a higher worker.slots there, or one more worker
    - sawmill workers resume drained
    - leaving, once it is started on h again
    "#);
}

#[test]
fn the_only_worker_that_suits_is_named_with_what_keeps_it() {
    insta::assert_snapshot!(told(&with(|facts| {
        facts.ahead = Some(Count::bounded(1, 1_000));
        facts.workers = vec![
            worker("w1", |report, _| {
                busy(report);
                report.slots[1].content = SlotContent::Broken { reason: "slot 1 has no supervisor".to_owned(), since: ago(60) };
            }),
            worker("w2", |report, _| report.backends.clear()),
        ];
    })), @r#"
    waits: w1, the only worker there that suits it, has no free slot; also, one job comes before it
    w1 running: none of its 2 slots is free: job 00000002-0000-7000-8000-000000000000 for 3m; one is broken: slot 1 has no supervisor
    w2 running: it does not have the backend "shell", nor any other [[backends.shell] in the configuration of w2, and its restart]
    - the end of a job on w1, a higher worker.slots there, or one more worker
    "#);
}

#[test]
fn what_the_queue_says_of_a_workers_slots_outranks_its_last_report() {
    let mut record = free("w1");
    record.jobs = 2;
    let found = explain(&with(|facts| facts.workers = vec![record]));
    assert!(matches!(found.workers[0].obstacles[..], [Obstacle::NoSlot { slots: 2, .. }]), "{found:#?}");
}

fn running(edit: impl FnOnce(&mut Facts)) -> Facts {
    with(|facts| {
        (facts.job.state, facts.ahead, facts.lease_until) = (JobState::Running, None, Some(later(25)));
        facts.attempt = Some(LatestAttempt {
            attempt: AttemptNo(2),
            worker: WorkerId::new("w1"),
            started_at: ago(200),
            stage: Some((Stage::Execute, ago(190))),
            log_bytes: 12_300,
            logged_at: Some(ago(4)),
        });
        edit(facts);
    })
}

#[test]
fn one_that_runs_is_told_with_where_it_is() {
    insta::assert_snapshot!(told(&running(|_| ())), @"runs: attempt 2 on w1 for 3m 20s, in execute for 3m 10s; its log has 12.0 KiB and last grew 4s ago; its lease holds for 25s");
    insta::assert_snapshot!(told(&running(|facts| {
        facts.job.cancel_requested_at = Some(ago(1));
        facts.cancel_reason = Some("enough".to_owned());
    })), @r#"
    is being ended: its end was asked for 1s ago (enough), and its worker has not ended it yet; attempt 2 on w1 for 3m 20s, in execute for 3m 10s; its log has 12.0 KiB and last grew 4s ago; its lease holds for 25s
    - its worker, once it hears of it: within a second or with the next renewal
    "#);
    insta::assert_snapshot!(told(&running(|facts| facts.job.requeue_requested_at = Some(ago(1)))), @r#"
    is being given back: its return to the queue was asked for 1s ago, and its worker has not given it back yet; attempt 2 on w1 for 3m 20s, in execute for 3m 10s; its log has 12.0 KiB and last grew 4s ago; its lease holds for 25s
    - its worker, once it hears of it: within a second or with the next renewal
    "#);
    insta::assert_snapshot!(told(&running(|facts| {
        facts.lease_until = Some(ago(5));
        facts.workers = vec![worker("w1", |report, _| report.seen_at = ago(50))];
        facts.attempt.as_mut().expect("one").logged_at = None;
    })), @r#"
    runs: attempt 2 on w1 for 3m 20s, in execute for 3m 10s; nothing in its log yet; its lease ran out 5s ago, and a worker that looks puts it back into the queue; w1, which runs it, last reported 50s ago
    - any worker that runs; start one with: sawmill worker
    - w1, once it reaches the database again; else the end of its lease, after which another takes the job
    "#);
}

#[test]
fn one_that_has_ended_is_told_with_how_and_what_to_do_next() {
    let ended = |state, class, message: &str, completion: Option<CompletionPlace>| {
        with(|facts| {
            (facts.job.state, facts.job.finished_at, facts.ahead) = (state, Some(ago(180)), None);
            facts.job.outcome = Some(Outcome::new(class, message));
            (facts.job.attempts_used, facts.workers) = (u32::from(state == JobState::Failed), Vec::new());
            facts.completion = completion;
        })
    };
    insta::assert_snapshot!(told(&ended(JobState::Failed, OutcomeClass::Backend, "the command exited with 1", None)), @r#"
    failed 3m ago, after 1 of 3 attempts: backend: the command exited with 1
    - sawmill job retry 00000001-0000-7000-8000-000000000000 gives it another round of attempts; sawmill logs 00000001-0000-7000-8000-000000000000 has what it said
    "#);
    insta::assert_snapshot!(told(&ended(JobState::Cancelled, OutcomeClass::Cancelled, "cancelled by request: enough", None)), @r#"
    was cancelled 3m ago: cancelled by request: enough
    - sawmill job retry 00000001-0000-7000-8000-000000000000 gives it another round of attempts
    "#);
    let place = |state, consumer: Option<&str>| CompletionPlace {
        state,
        consumer: consumer.map(str::to_owned),
        lease_until: consumer.map(|_| later(60)),
        visible_at: Some(ago(180)),
        behind: None,
        created_at: ago(180),
        last_error: None,
    };
    let delivered = |place| told(&ended(JobState::Succeeded, OutcomeClass::Succeeded, "delivered abc on b", Some(place)));
    insta::assert_snapshot!(delivered(place(CompletionState::Pending, None)), @r#"
    succeeded 3m ago: delivered abc on b; its completion has waited for an integrator for 3m
    - an integrator that takes it: sawmill completions claim --consumer NAME
    "#);
    insta::assert_snapshot!(delivered(CompletionPlace {
        visible_at: Some(later(9)), last_error: Some("main is red".to_owned()), ..place(CompletionState::Pending, None)
    }), @r#"
    succeeded 3m ago: delivered abc on b; its completion is handed out again in 9s, at 2023-11-14T22:13:29.000Z (last given back: main is red)
    - an integrator that takes it: sawmill completions claim --consumer NAME
    "#);
    insta::assert_snapshot!(delivered(CompletionPlace {
        visible_at: None, behind: Some(id(2)), ..place(CompletionState::Pending, None)
    }), @r#"
    succeeded 3m ago: delivered abc on b; its completion has waited for 3m behind that of job 00000002-0000-7000-8000-000000000000
    - an integrator that is done with that of job 00000002-0000-7000-8000-000000000000; see: sawmill job explain 00000002-0000-7000-8000-000000000000
    "#);
    insta::assert_snapshot!(delivered(CompletionPlace {
        visible_at: None, last_error: Some("never".to_owned()), ..place(CompletionState::Dead, None)
    }), @r#"
    succeeded 3m ago: delivered abc on b; its completion was set aside (last given back: never)
    - sawmill completions requeue, with its id from: sawmill completions list --state dead
    "#);
    insta::assert_snapshot!(delivered(place(CompletionState::Claimed, Some("ci"))), @"succeeded 3m ago: delivered abc on b; ci holds its completion for 1m more");
    insta::assert_snapshot!(delivered(place(CompletionState::Acked, Some("ci"))), @"succeeded 3m ago: delivered abc on b; ci took its completion");
}

#[test]
fn an_explanation_reads_back_as_it_was_written() {
    let found = explain(&with(|facts| {
        facts.key = Some(limit("deploy", 1, 1));
        facts.workers.push(worker("w2", |report, _| busy(report)));
    }));
    let json = serde_json::to_value(&found).expect("JSON");
    assert_eq!(json["reasons"][0]["kind"], "key");
    assert_eq!(json["workers"][1]["obstacles"][0]["kind"], "no_slot");
    assert_eq!(serde_json::from_value::<Explanation>(json).expect("the same"), found);
}
