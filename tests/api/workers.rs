//! Workers through the API and the command line: what is shown of them, drains, and deadlines that are moved.

use std::time::Duration;

use axum::http::StatusCode;
use sawmill::cli::Exit;
use sawmill::clock::Timestamp;
use sawmill::ids::{AttemptNo, WorkerId};
use sawmill::job::{OutcomeClass, Stage};
use sawmill::store::{ClaimFailure, Pressure, PressureLimits, Resource, Shortage, SlotContent, WorkerPhase};
use serde_json::json;

use super::world::{World, on_both};

on_both! {
async fn a_worker_is_drained_and_resumed_by_request(world: &World) {
    let (status, problem) = world.post("/v1/workers/w1/drain", json!({})).await;
    assert_eq!((status, &problem["type"]), (StatusCode::NOT_FOUND, &json!("urn:sawmill:problem:not-found")));
    assert_eq!(world.post("/v1/workers/w1/resume", json!({})).await.0, StatusCode::NOT_FOUND);
    world.report_worker().await;
    let (status, worker) = world.post("/v1/workers/w1/drain", json!({"by": "ops", "reason": "kernel"})).await;
    assert_eq!((status, &worker["state"], &worker["phase"]), (StatusCode::OK, &json!("draining"), &json!("running")));
    assert_eq!((&worker["drain"]["asked_by"], &worker["drain"]["reason"]), (&json!("ops"), &json!("kernel")));
    let (_, again) = world.post_text("/v1/workers/w1/drain", "").await;
    assert_eq!(again["drain"], worker["drain"]);
    assert_eq!(world.post("/v1/workers/w1/drain", json!({"who": "ops"})).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    let (status, resumed) = world.post_text("/v1/workers/w1/resume", "").await;
    assert_eq!((status, &resumed["state"], &resumed["drain"]), (StatusCode::OK, &json!("running"), &json!(null)));
}
}

on_both! {
async fn a_deadline_is_moved_by_request_while_the_job_runs(world: &World) {
    let id = world.enqueue("true").await;
    let path = format!("/v1/jobs/{id}/deadline");
    let (status, problem) = world.post(&path, json!({"in": "1m"})).await;
    assert_eq!((status, &problem["type"]), (StatusCode::CONFLICT, &json!("urn:sawmill:problem:wrong-state")));
    let claim = world.claim().await;
    let before = world.store.now() + Duration::from_secs(60);
    let (status, moved) = world.post(&path, json!({"in": "1m"})).await;
    assert_eq!((status, &moved["attempt"], moved["job"].as_str()), (StatusCode::ACCEPTED, &json!(1), Some(id.to_string().as_str())));
    let at = moved["deadline_at"].as_i64().expect("a moment");
    assert!(at >= before.0 && at <= before.0 + 60_000, "{at}");
    let (_, moved) = world.post(&path, json!({"at": 7})).await;
    assert_eq!(moved["deadline_at"], 7);
    let (_, attempts) = world.get(&format!("/v1/jobs/{id}/attempts")).await;
    assert_eq!(attempts["items"][0]["deadline_at"], 7);
    for wrong in [json!({}), json!({"in": "1m", "at": 7}), json!({"in": "soon"}), json!({"by": "1m"})] {
        assert_eq!(world.post(&path, wrong.clone()).await.0, StatusCode::UNPROCESSABLE_ENTITY, "{wrong}");
    }
    world.finish(&claim, OutcomeClass::Timeout, "late").await;
    let (ended, _) = world.cli(&["job", "deadline", &id.to_string(), "--in", "1m"]).await;
    assert_eq!(ended.expect_err("it does not run").exit(), Exit::Conflict);
}
}

on_both! {
async fn a_list_of_workers_says_what_is_wrong_with_each(world: &World) {
    let moment = Timestamp(1_700_000_000_000);
    let named = |name: &'static str| WorkerId::new(name);
    world.report(|_| ()).await;
    world.report(|report| {
        report.id = named("w2");
        report.slots.truncate(2);
        report.slots[1].content = SlotContent::Broken { reason: "no supervisor".to_owned(), since: moment };
        report.pressure.shortage = Some(Shortage { of: [Resource::Disk].into(), reason: "less than 1.0 GiB is free".to_owned(), since: moment });
    }).await;
    world.report(|report| {
        report.id = named("w3");
        report.labels.clear();
    }).await;
    world.store.drain_worker(&named("w3"), "ops@desk", "new kernel").await.expect("asked");
    world.report(|report| {
        report.id = named("w4");
        report.seen_at = report.seen_at - Duration::from_secs(330);
    }).await;
    world.report(|report| {
        report.id = named("w6");
        report.claiming.failure = Some(ClaimFailure { reason: "no answer in time".to_owned(), since: moment });
    }).await;
    world.report(|report| {
        report.id = named("w5");
        report.phase = WorkerPhase::Stopped;
    }).await;
    world.enqueue("true").await;
    world.claim().await;
    let (_, list) = world.cli(&["workers", "list"]).await;
    let list = list.replace(" 1s ", " 0s ").replace(" 2s ", " 0s ");
    insta::allow_duplicates! {
        insta::assert_snapshot!(list, @r#"
        WORKER  STATE     SEEN  JOBS  SLOTS  HOST     BACKENDS  LABELS  VERSION  NOTE
        w1      running   0s    1     4      builder  shell     linux   0.1.0    -
        w2      paused    0s    0     2      builder  shell     linux   0.1.0    less than 1.0 GiB is free; 1 slot is broken
        w3      draining  0s    0     4      builder  shell     -       0.1.0    0 jobs left, drain asked by ops@desk: new kernel
        w4      offline   5m    0     4      builder  shell     linux   0.1.0    -
        w5      stopped   0s    0     4      builder  shell     linux   0.1.0    -
        w6      running   0s    0     4      builder  shell     linux   0.1.0    cannot claim jobs: no answer in time
        "#);
    }
}
}

on_both! {
async fn a_worker_is_shown_with_what_is_in_its_slots_and_what_it_measured(world: &World) {
    let moment = Timestamp(1_700_000_000_000);
    let job = "018f0000-0000-7000-8000-000000000000".parse().expect("an id");
    world.report(|report| {
        report.slots.truncate(3);
        report.slots[0].content = SlotContent::Busy { job, attempt: AttemptNo(2), stage: Some(Stage::Judge), since: moment };
        report.slots[2].content = SlotContent::Broken { reason: "no supervisor".to_owned(), since: moment };
        report.pressure = Pressure {
            memory_available_bytes: Some(3 << 30),
            memory_stalled_percent: None,
            disk_free_bytes: Some(512 << 20),
            inodes_free: Some(7),
            limits: PressureLimits { memory_available_bytes: 256 << 20, memory_stalled_percent: 40, disk_free_bytes: 1 << 30, ..PressureLimits::default() },
            shortage: Some(Shortage { of: [Resource::Disk].into(), reason: "less than 1.0 GiB is free".to_owned(), since: moment }),
        };
        (report.started_at, report.report_ms) = (moment, i64::MAX);
        report.seen_at = moment;
    }).await;
    let (_, shown) = world.cli(&["workers", "show", "w1"]).await;
    insta::allow_duplicates! {
        insta::assert_snapshot!(shown, @r#"
        worker         w1
        state          paused
        drain          -
        short of       less than 1.0 GiB is free, since 2023-11-14T22:13:20.000Z
        paused         -
        host           builder
        version        0.1.0
        process        4711
        boot           boot
        labels         linux
        backends       shell (context=200k)
        memory         3.0 GiB available (claims need at least 256.0 MiB)
        memory stalls  -
        disk           512.0 MiB free (claims need at least 1.0 GiB)
        inodes         7 free (no limit)
        jobs           0
        slot 0         job 018f0000-0000-7000-8000-000000000000, attempt 2 in judge, since 2023-11-14T22:13:20.000Z
        slot 1         free
        slot 2         broken since 2023-11-14T22:13:20.000Z: no supervisor
        started        2023-11-14T22:13:20.000Z
        seen           2023-11-14T22:13:20.000Z
        "#);
    }
    let (ended, line) = world.cli(&["workers", "drain", "w1", "--reason", "kernel"]).await;
    assert_eq!(ended.expect("asked"), Exit::Done);
    assert_eq!(line, "w1 drains, with 0 jobs left; it takes no more until: sawmill workers resume w1\n");
    let (_, line) = world.cli(&["workers", "resume", "w1"]).await;
    assert_eq!(line, "w1 is free to take jobs again\n");
    world.report(|report| report.phase = WorkerPhase::Stopped).await;
    let (_, line) = world.cli(&["workers", "drain", "w1"]).await;
    assert_eq!(line, "w1 is not running; it will take no jobs when it is started, until: sawmill workers resume w1\n");
    let (ended, line) = world.cli(&["workers", "drain", "w1", "--wait"]).await;
    assert_eq!((ended.expect("nothing to wait for"), line.as_str()), (Exit::Done, "w1 has no job left\n"));
    let (_, line) = world.cli(&["workers", "resume", "w1"]).await;
    assert_eq!(line, "w1 will take jobs again when it is started\n");
    let (ended, _) = world.cli(&["workers", "drain", "w9"]).await;
    assert_eq!(ended.expect_err("there is none").exit(), Exit::NotFound);
}
}
