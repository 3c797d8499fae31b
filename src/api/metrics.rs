//! `/metrics`: the state of the queue in Prometheus' text format
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
//!
//! The one rule: what is exposed is counted by the database when asked for, never kept here, so that several servers agree.

use axum::extract;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::State;
use super::problem::Problem;
use crate::clock::Timestamp;
use crate::store::{Counts, WorkerRecord};

/// Counts jobs, completions and workers.
#[utoipa::path(
    get, path = "/metrics", tag = "health", operation_id = "metrics",
    responses((status = 200, description = "Prometheus' text format", body = String, content_type = "text/plain"))
)]
pub(super) async fn expose(extract::State(state): extract::State<State>) -> Result<Response, Problem> {
    let counts = state.store.counts().await?;
    let workers = state.store.workers().await?;
    let text = exposition(&state.policy.version, &counts, &workers, state.store.now());
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

fn exposition(version: &str, counts: &Counts, workers: &[WorkerRecord], now: Timestamp) -> String {
    let mut text = String::new();
    let mut family = |name: &str, help: &str, samples: Vec<(String, String)>| {
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} gauge\n"));
        for (labels, value) in samples {
            text.push_str(&format!("{name}{{{labels}}} {value}\n"));
        }
    };
    family("sawmill_build_info", "The build that answers.", vec![(label("version", version), "1".to_owned())]);
    let jobs = counts.jobs.iter().map(|(state, count)| (label("state", state.as_str()), count.to_string()));
    family("sawmill_jobs", "Jobs on record by state.", jobs.collect());
    let completions = counts.completions.iter().map(|(state, count)| (label("state", state.as_str()), count.to_string()));
    family("sawmill_completions", "Completions on record by state.", completions.collect());
    let of_workers = |value: fn(&WorkerRecord, Timestamp) -> String| {
        let labels = |w: &WorkerRecord| format!("{},{}", label("worker", w.report.id.as_str()), label("state", w.state.as_str()));
        workers.iter().map(|worker| (labels(worker), value(worker, now))).collect::<Vec<_>>()
    };
    let slots = of_workers(|worker, _| worker.report.slots.len().to_string());
    family("sawmill_worker_slots", "How many jobs a worker runs at once.", slots);
    let free = of_workers(|worker, _| worker.free_slots().to_string());
    family("sawmill_worker_slots_free", "How many slots of a worker are free, by its own account.", free);
    family(
        "sawmill_worker_silence_seconds",
        "How long ago a worker last reported.",
        of_workers(|worker, now| format!("{:.3}", now.since(worker.report.seen_at).as_secs_f64())),
    );
    text
}

/// One label, its value escaped as the format wants it.
fn label(name: &str, value: &str) -> String {
    format!("{name}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}
