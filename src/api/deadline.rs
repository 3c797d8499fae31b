//! `/v1/jobs/{id}/deadline`: more time for a running attempt, or less.

use axum::Json;
use axum::extract;

use super::State;
use super::input::{Document, Id};
use super::problem::{Kind, Problem};
use super::wire::DeadlineRequest;
use crate::ids::JobId;
use crate::store::MovedDeadline;

/// Moves the deadline of the attempt that runs. Its worker hears of it as of a request to cancel; further attempts have their
/// own time.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/deadline", tag = "jobs", operation_id = "move_deadline",
    params(("id" = JobId, Path, description = "The job")), request_body = DeadlineRequest,
    responses(
        (status = 202, description = "Its worker will hear of it", body = MovedDeadline),
        (status = 404, description = "There is no such job", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The job does not run", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The document names no moment, or two", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn set(
    extract::State(state): extract::State<State>,
    Id(id): Id<JobId>,
    Document(request): Document<DeadlineRequest>,
) -> Result<(axum::http::StatusCode, Json<MovedDeadline>), Problem> {
    let at = match (request.within, request.at) {
        (Some(within), None) => state.store.now() + within,
        (None, Some(at)) => at,
        _ => {
            let detail = "a deadline is either \"in\" a duration or \"at\" a moment; send one of them";
            return Err(Problem::new(Kind::InvalidDocument, detail));
        }
    };
    Ok((axum::http::StatusCode::ACCEPTED, Json(state.store.move_deadline(id, at).await?)))
}
