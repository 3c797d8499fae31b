//! The HTTP interface: jobs, their logs, completions, workers, what a probe or a scraper asks for, and the operators' console.
//!
//! The one rule: handlers are thin. A request is read in `input`, judged in `policy` or by the store's own rules, and answered
//! with a record of `job`, a document of `wire`, or a [`Problem`]. Nothing here reads configuration, and nothing here knows
//! of a worker: both meet only in the database. The command line uses the same router, over HTTP or in its own process.

mod answers;
mod artifacts;
mod budget;
mod completions;
mod configuration;
mod console;
mod counts;
mod deadline;
mod document;
mod events;
mod explain;
mod fates;
mod follow;
mod guard;
mod health;
mod input;
mod jobs;
mod logs;
mod metrics;
mod pauses;
mod policy;
mod problem;
mod refusal;
mod serve;
mod sse;
pub mod wire;
mod workers;

use std::any::Any;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{Method, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, middleware};
use tokio_util::sync::CancellationToken;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::trace::TraceLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use completions::WAIT_MAX;
pub use configuration::configuration_alone;
pub use input::{BODY_MAX, LIST_MAX};
pub use logs::SLICE_MAX;
pub use policy::{Policy, Project};
pub use problem::{Kind, Problem};
pub use serve::{Config, ServeError, listen, serve};

use crate::artifacts::Artifacts;
use crate::store::Store;

/// What the handlers work with.
#[derive(Clone)]
pub struct State {
    /// The database.
    pub store: Store,
    /// The rules for accepting jobs.
    pub policy: Arc<Policy>,
    /// Where artifacts are kept.
    pub artifacts: Artifacts,
    /// Cancelled when the server stops: streams, which would never end by themselves, end then.
    pub shutdown: CancellationToken,
}

/// The description of the API, but for the paths, which each handler carries itself.
#[derive(OpenApi)]
#[openapi(info(
    title = "Sawmill",
    description = "Turns queued tasks into commits. Times are milliseconds since 1970-01-01 UTC. Every refusal is a problem (RFC 9457) with a stable type."
))]
struct Description;

/// The whole API.
///
/// The in-process client sends its requests to `http://localhost`, as every request must come under a loopback name.
pub fn router(state: State) -> axum::Router {
    let (router, mut description) = OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(jobs::enqueue, jobs::list))
        .routes(routes!(jobs::show))
        .routes(routes!(explain::show))
        .routes(routes!(jobs::cancel))
        .routes(routes!(jobs::retry))
        .routes(routes!(answers::give))
        .routes(routes!(deadline::set))
        .routes(routes!(fates::requeue))
        .routes(routes!(fates::cancel_many))
        .routes(routes!(fates::retry_many))
        .routes(routes!(fates::requeue_many))
        .routes(routes!(jobs::attempts))
        .routes(routes!(jobs::diff))
        .routes(routes!(artifacts::list))
        .routes(routes!(artifacts::read))
        .routes(routes!(logs::read))
        .routes(routes!(events::stream))
        .routes(routes!(completions::list))
        .routes(routes!(completions::claim))
        .routes(routes!(completions::ack))
        .routes(routes!(completions::nack))
        .routes(routes!(completions::renew))
        .routes(routes!(completions::requeue))
        .routes(routes!(workers::list))
        .routes(routes!(workers::show))
        .routes(routes!(workers::drain))
        .routes(routes!(workers::resume))
        .routes(routes!(budget::show))
        .routes(routes!(pauses::list))
        .routes(routes!(pauses::lift))
        .routes(routes!(counts::show))
        .routes(routes!(configuration::show))
        .routes(routes!(health::alive))
        .routes(routes!(health::ready))
        .routes(routes!(metrics::expose))
        .split_for_parts();
    description.info.version.clone_from(&state.policy.version);
    let description = Arc::new(description);
    let layers = ServiceBuilder::new()
        .layer(TraceLayer::new_for_http().make_span_with(span))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn(guard::loopback_only))
        .layer(DefaultBodyLimit::max(BODY_MAX));
    router
        .route("/", get(console::page))
        .route("/console/{file}", get(console::file))
        .route("/openapi.json", get(|| async move { Json((*description).clone()) }))
        .fallback(no_such_route)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(layers)
        .with_state(state)
}

fn span(request: &Request) -> tracing::Span {
    tracing::debug_span!("request", http.method = %request.method(), http.path = request.uri().path())
}

fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let what = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    let what = what.unwrap_or("no message");
    tracing::error!(panic = what, "a handler panicked: {what}");
    Problem::new(Kind::Internal, "the server made a mistake, which is in its log; please report it").into_response()
}

async fn no_such_route(uri: Uri) -> Problem {
    Problem::new(Kind::NoSuchRoute, format!("there is nothing at {}; /openapi.json has all that there is", uri.path()))
}

async fn method_not_allowed(method: Method, uri: Uri) -> Problem {
    let detail = format!("{} does not answer to {method}; /openapi.json says what it answers to", uri.path());
    Problem::new(Kind::MethodNotAllowed, detail)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::StatusCode;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn a_handler_that_panics_is_answered_as_a_problem() {
        async fn broken() -> &'static str {
            panic!("on purpose")
        }
        let router = axum::Router::new().route("/", get(broken)).layer(CatchPanicLayer::custom(panicked));
        let response = router.oneshot(Request::new(Body::empty())).await.expect("a router always answers");
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        let problem: Problem = serde_json::from_slice(&body).expect("a problem");
        assert!(problem.is(Kind::Internal));
        assert!(!problem.detail.contains("on purpose"), "what went wrong inside is for the log");
    }
}
