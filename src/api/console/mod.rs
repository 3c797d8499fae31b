//! `/`: the operators' console, a page that is a client of this API like any other.
//!
//! The one rule: what jobs, workers and people wrote is text to it, never markup, and the browser is told so: nothing runs but these
//! files, nothing is asked but this server, and no other page may frame it. It can do what the routes of the API can, and no more.

use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::problem::{Kind, Problem};

/// The files of the page, by their names below `/console/`.
const FILES: [(&str, &str, &str); 14] = [
    ("console.css", CSS, include_str!("page/console.css")),
    ("icon.svg", SVG, include_str!("page/icon.svg")),
    ("app.js", JS, include_str!("page/app.js")),
    ("api.js", JS, include_str!("page/api.js")),
    ("dom.js", JS, include_str!("page/dom.js")),
    ("format.js", JS, include_str!("page/format.js")),
    ("parts.js", JS, include_str!("page/parts.js")),
    ("overview.js", JS, include_str!("page/overview.js")),
    ("jobs.js", JS, include_str!("page/jobs.js")),
    ("job.js", JS, include_str!("page/job.js")),
    ("log.js", JS, include_str!("page/log.js")),
    ("workers.js", JS, include_str!("page/workers.js")),
    ("completions.js", JS, include_str!("page/completions.js")),
    ("usage.js", JS, include_str!("page/usage.js")),
];
const PAGE: &str = include_str!("page/index.html");

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// What the browser lets the page do (<https://www.w3.org/TR/CSP3/>).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page.
pub(super) async fn page() -> Response {
    answer(HTML, PAGE)
}

/// One of its files.
pub(super) async fn file(Path(name): Path<String>) -> Result<Response, Problem> {
    let found = FILES.iter().find(|(known, _, _)| *known == name);
    let (_, kind, text) = found.ok_or_else(|| {
        Problem::new(Kind::NoSuchRoute, format!("the console has no file {name:?}; /openapi.json has all that there is"))
    })?;
    Ok(answer(kind, text))
}

fn answer(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // Another version's page would speak to this one's API.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text).into_response()
}
