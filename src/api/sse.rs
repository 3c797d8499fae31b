//! Answering with a stream of server-sent events.
//!
//! The one rule: a stream ends when the server stops, and is never silent for so long that somebody between takes it for dead.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::problem::Problem;

/// How often a comment is sent when there is nothing else to send.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// An event named `name` with a JSON document as its data.
pub(super) fn event<T: Serialize>(name: &str, document: &T) -> Event {
    let data = serde_json::to_string(document).expect("a document of the API is made of strings, numbers and maps");
    Event::default().event(name).data(data)
}

/// The last event of a stream that cannot go on. The client should not simply ask again.
pub(super) fn problem(problem: &Problem) -> Event {
    event("problem", problem)
}

/// The response for a stream of events, which ends at `shutdown` at the latest.
pub(super) fn respond(events: impl Stream<Item = Event> + Send + 'static, shutdown: CancellationToken) -> Response {
    let until = events.map(Ok::<_, Infallible>).take_until(shutdown.cancelled_owned());
    Sse::new(until).keep_alive(KeepAlive::new().interval(KEEP_ALIVE).text("keep-alive")).into_response()
}
