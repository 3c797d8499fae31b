//! `/v1/config`: the effective configuration, as whoever built the router gave it to us.

use axum::routing::get;
use axum::{Json, Router, extract};

use super::wire::Configuration;
use super::{Policy, State};

/// Shows the effective configuration with the layer that each value came from; secrets are hidden.
#[utoipa::path(
    get, path = "/v1/config", tag = "configuration", operation_id = "show_configuration",
    responses((status = 200, description = "The configuration", body = Configuration))
)]
pub(super) async fn show(extract::State(state): extract::State<State>) -> Json<Configuration> {
    Json(of(&state.policy))
}

/// The route of the configuration alone. It needs no database: who looks at the configuration may be about to find out why that
/// cannot be reached.
pub fn configuration_alone(policy: &Policy) -> Router {
    let configuration = of(policy);
    Router::new().route("/v1/config", get(async move || Json(configuration.clone())))
}

fn of(policy: &Policy) -> Configuration {
    Configuration { version: policy.version.clone(), settings: policy.configuration.clone() }
}
