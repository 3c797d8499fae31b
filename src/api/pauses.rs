//! `/v1/pauses`: credentials that are used up for now.

use axum::Json;
use axum::extract;

use super::State;
use super::input::Id;
use super::problem::Problem;
use super::wire::Page;
use crate::job::Pause;

/// Lists the credentials that are paused.
#[utoipa::path(
    get, path = "/v1/pauses", tag = "pauses", operation_id = "list_pauses",
    responses((status = 200, description = "All pauses in force", body = Page<Pause>))
)]
pub(super) async fn list(extract::State(state): extract::State<State>) -> Result<Json<Page<Pause>>, Problem> {
    let mut items = state.store.pauses().await?;
    items.retain(|pause| pause.is_on(state.store.now()));
    Ok(Json(Page { items, next: None }))
}

/// Ends the pause of a credential: jobs of backends that draw on it are started again at once.
#[utoipa::path(
    post, path = "/v1/pauses/{credential}/lift", tag = "pauses", operation_id = "lift_pause",
    params(("credential" = String, Path, description = "The credential")),
    responses(
        (status = 200, description = "The pause, which is over", body = Pause),
        (status = 404, description = "The credential is not paused", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn lift(
    extract::State(state): extract::State<State>,
    Id(credential): Id<String>,
) -> Result<Json<Pause>, Problem> {
    Ok(Json(state.store.lift_pause(&credential).await?))
}
