//! Keeps web pages out, while there are no tokens.
//!
//! The one rule: a request is served only under a loopback name, and only to a page that was served under the same name. A
//! server on loopback is within reach of every page that a browser on this host shows; without this, such a page could
//! enqueue a command, by a plain form or by a name of its own that it lets resolve to 127.0.0.1 (DNS rebinding).

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::{HeaderMap, header, uri::Authority};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::{Kind, Problem};

/// Answers a request that comes under a foreign name or from a foreign page itself, and passes on all others.
pub(super) async fn loopback_only(request: Request, next: Next) -> Response {
    match check(request.headers(), request.uri().authority()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn check(headers: &HeaderMap, target: Option<&Authority>) -> Result<(), Problem> {
    let text = |name| headers.get(name).and_then(|value: &axum::http::HeaderValue| value.to_str().ok());
    let host = text(header::HOST).or(target.map(Authority::as_str)).unwrap_or_default();
    if !is_loopback(host) {
        return Err(Problem::new(
            Kind::ForeignOrigin,
            format!("this server is for this host only, not for {host:?}; use its loopback address"),
        ));
    }
    match text(header::ORIGIN) {
        Some(origin) if origin.split_once("://").map(|(_, authority)| authority) != Some(host) => Err(Problem::new(
            Kind::ForeignOrigin,
            format!("a page of {origin} may not use this server; requests from other origins are refused"),
        )),
        _ => Ok(()),
    }
}

fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_host_and_its_own_pages_are_served() {
        let check = |host: &str, origin: Option<&str>, expected: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().expect("a header"));
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, origin.parse().expect("a header"));
            }
            assert_eq!(check(&headers, None).is_ok(), expected, "{host} {origin:?}");
        };
        check("127.0.0.1:7400", None, true);
        check("localhost", None, true);
        check("[::1]:7400", None, true);
        check("localhost:7400", Some("http://localhost:7400"), true);
        check("localhost:7400", Some("http://localhost:8080"), false);
        check("localhost:7400", Some("https://example.com"), false);
        check("localhost:7400", Some("null"), false);
        check("rebound.example.com:7400", None, false);
        check("127.0.0.1.example.com", None, false);
        check("", None, false);
    }
}
