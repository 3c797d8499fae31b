//! `/v1/counts`: how many jobs and completions are in which state.

use axum::Json;
use axum::extract;

use super::State;
use super::problem::Problem;
use super::wire::CountsAnswer;

/// Counts jobs and completions by state. It costs the more the more are on record: a look every few seconds is enough.
#[utoipa::path(
    get, path = "/v1/counts", tag = "jobs", operation_id = "show_counts",
    responses((status = 200, description = "How many there are", body = CountsAnswer))
)]
pub(super) async fn show(extract::State(state): extract::State<State>) -> Result<Json<CountsAnswer>, Problem> {
    let counts = state.store.counts().await?;
    Ok(Json(CountsAnswer { jobs: counts.jobs.into_iter().collect(), completions: counts.completions.into_iter().collect() }))
}
