//! `/v1/workers`: the workers by their own account.

use axum::Json;
use axum::extract;

use super::State;
use super::input::Id;
use super::problem::{Kind, Problem};
use super::wire::Page;
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
    let found = state.store.workers().await?.into_iter().find(|worker| worker.id.as_str() == id);
    let unknown = || Problem::new(Kind::NotFound, format!("no worker {id:?} has ever reported; check the name against the list"));
    found.map(Json).ok_or_else(unknown)
}
