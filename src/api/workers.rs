//! `/v1/workers`: the workers by their own account, and what operators ask of them.

use axum::Json;
use axum::extract;

use super::State;
use super::input::{Id, OptionalDocument};
use super::problem::Problem;
use super::wire::{DrainRequest, Page};
use crate::ids::WorkerId;
use crate::store::WorkerRecord;

/// Lists the workers that have ever reported.
#[utoipa::path(
    get, path = "/v1/workers", tag = "workers", operation_id = "list_workers",
    responses((status = 200, description = "All workers", body = Page<WorkerRecord>))
)]
pub(super) async fn list(extract::State(state): extract::State<State>) -> Result<Json<Page<WorkerRecord>>, Problem> {
    Ok(Json(Page { items: state.store.workers().await?, next: None }))
}

/// Shows a worker.
#[utoipa::path(
    get, path = "/v1/workers/{id}", tag = "workers", operation_id = "show_worker",
    params(("id" = String, Path, description = "The worker's name")),
    responses(
        (status = 200, description = "The worker", body = WorkerRecord),
        (status = 404, description = "There is no such worker", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn show(
    extract::State(state): extract::State<State>,
    Id(id): Id<String>,
) -> Result<Json<WorkerRecord>, Problem> {
    Ok(Json(state.store.worker(&WorkerId::new(id)).await?))
}

/// Asks a worker to take no more jobs, and to leave when those that it runs have ended. The request stands until it is resumed.
#[utoipa::path(
    post, path = "/v1/workers/{id}/drain", tag = "workers", operation_id = "drain_worker",
    params(("id" = String, Path, description = "The worker's name")), request_body = Option<DrainRequest>,
    responses(
        (status = 200, description = "The worker, which hears of it within seconds", body = WorkerRecord),
        (status = 404, description = "There is no such worker", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn drain(
    extract::State(state): extract::State<State>,
    Id(id): Id<String>,
    OptionalDocument(request): OptionalDocument<DrainRequest>,
) -> Result<Json<WorkerRecord>, Problem> {
    let by = request.by.unwrap_or_else(|| "an operator".to_owned());
    let reason = request.reason.unwrap_or_default();
    Ok(Json(state.store.drain_worker(&WorkerId::new(id), &by, &reason).await?))
}

/// Withdraws a request to drain. One that has left takes jobs again when it is started.
#[utoipa::path(
    post, path = "/v1/workers/{id}/resume", tag = "workers", operation_id = "resume_worker",
    params(("id" = String, Path, description = "The worker's name")),
    responses(
        (status = 200, description = "The worker", body = WorkerRecord),
        (status = 404, description = "There is no such worker", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn resume(
    extract::State(state): extract::State<State>,
    Id(id): Id<String>,
) -> Result<Json<WorkerRecord>, Problem> {
    Ok(Json(state.store.resume_worker(&WorkerId::new(id)).await?))
}
