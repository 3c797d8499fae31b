//! `/v1/config`: the effective configuration, as whoever built the router gave it to us.

use axum::Json;
use axum::extract;

use super::State;
use super::wire::Configuration;

/// Shows the effective configuration with the layer that each value came from; secrets are hidden.
#[utoipa::path(
    get, path = "/v1/config", tag = "configuration", operation_id = "show_configuration",
    responses((status = 200, description = "The configuration", body = Configuration))
)]
pub(super) async fn show(extract::State(state): extract::State<State>) -> Json<Configuration> {
    Json(Configuration { version: state.policy.version.clone(), settings: state.policy.configuration.clone() })
}
