//! `/v1/jobs/{id}/explain`: why a job does not run.

use axum::Json;
use axum::extract;

use super::State;
use super::input::Id;
use super::problem::Problem;
use crate::ids::JobId;
use crate::job::Explanation;

/// Says why a job does not run, for each worker, and what would change that; or where it is.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/explain", tag = "jobs", operation_id = "explain_job",
    params(("id" = JobId, Path, description = "The job")),
    responses(
        (status = 200, description = "Why, as of now", body = Explanation),
        (status = 404, description = "There is no such job", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn show(extract::State(state): extract::State<State>, Id(id): Id<JobId>) -> Result<Json<Explanation>, Problem> {
    Ok(Json(state.store.explain(id).await?))
}
