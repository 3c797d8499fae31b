//! `/v1/jobs/{id}/answer`: the answer to a question that a job waits for.

use axum::Json;
use axum::extract;

use super::State;
use super::input::{Document, Id};
use super::problem::{Kind, Problem};
use super::wire::AnswerRequest;
use crate::ids::JobId;
use crate::job::Job;

/// The longest answer, in bytes.
const ANSWER_MAX: usize = 64 * 1024;

/// Answers the question that a job waits for, and queues it again.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/answer", tag = "jobs", operation_id = "answer_job",
    params(("id" = JobId, Path, description = "The job")), request_body = AnswerRequest,
    responses(
        (status = 200, description = "The job, which is queued", body = Job),
        (status = 404, description = "There is no such job", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The job does not wait for an answer", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The answer is empty or too long", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn give(
    extract::State(state): extract::State<State>,
    Id(id): Id<JobId>,
    Document(request): Document<AnswerRequest>,
) -> Result<Json<Job>, Problem> {
    let text = request.text.trim();
    if text.is_empty() || text.len() > ANSWER_MAX {
        let why = format!("text: {} bytes are not between 1 and {ANSWER_MAX}", text.len());
        return Err(Problem::new(Kind::InvalidDocument, why).at("text"));
    }
    let by = request.by.unwrap_or_else(|| "an operator".to_owned());
    Ok(Json(state.store.answer_job(id, text, &by).await?))
}
