//! `/v1/budget`: what was used of models, and how much may be.

use axum::Json;
use axum::extract;
use serde::Deserialize;
use utoipa::IntoParams;

use super::State;
use super::input::Params;
use super::problem::{Kind, Problem};
use super::wire::Page;
use crate::ids::JobId;
use crate::job::budget::BudgetUse;

/// Whose budget to show: one of the two, or all projects'.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct BudgetQuery {
    /// This job's, and all others that concern it.
    job: Option<JobId>,
    /// This execution's.
    execution: Option<String>,
}

/// Shows what was used and how much may be: by a job, by an execution, or by each project.
#[utoipa::path(
    get, path = "/v1/budget", tag = "budget", operation_id = "show_budget", params(BudgetQuery),
    responses(
        (status = 200, description = "What was used of which budgets", body = Page<BudgetUse>),
        (status = 404, description = "There is no such job, or the execution has used nothing", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn show(
    extract::State(state): extract::State<State>,
    Params(query): Params<BudgetQuery>,
) -> Result<Json<Page<BudgetUse>>, Problem> {
    let items = match (query.job, query.execution) {
        (Some(_), Some(_)) => {
            return Err(Problem::new(Kind::InvalidParameter, "job and execution do not go together; name one of them"));
        }
        (Some(job), None) => state.store.budget_of_job(job).await?,
        (None, Some(execution)) => vec![state.store.budget_of_execution(&execution).await?],
        (None, None) => state.store.budgets_of_projects().await?,
    };
    Ok(Json(Page { items, next: None }))
}
