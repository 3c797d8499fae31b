//! What probes ask for: `/healthz` says that the process answers, `/readyz` that the database does.

use axum::extract;

use super::State;
use super::problem::Problem;
use crate::store::JobFilter;

/// Says that the process answers.
#[utoipa::path(
    get, path = "/healthz", tag = "health", operation_id = "alive",
    responses((status = 200, description = "The process answers", body = String, content_type = "text/plain"))
)]
pub(super) async fn alive() -> &'static str {
    "ok\n"
}

/// Says that the database answers.
#[utoipa::path(
    get, path = "/readyz", tag = "health", operation_id = "ready",
    responses(
        (status = 200, description = "The database answers", body = String, content_type = "text/plain"),
        (status = 503, description = "It does not", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn ready(extract::State(state): extract::State<State>) -> Result<&'static str, Problem> {
    state.store.jobs(&JobFilter { limit: 1, ..JobFilter::default() }).await?;
    Ok("ok\n")
}
