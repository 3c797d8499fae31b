//! The API from the client's side: over HTTP, or in this very process.
//!
//! The one rule: both ways take the same request and give the same response, so that nothing above can tell them apart.

use std::sync::Once;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tower::ServiceExt as _;
use url::Url;

use super::error::CliError;
use crate::api::Problem;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a server may be silent, in the middle of an answer too: a stream of events says something every 15 seconds.
const SILENCE: Duration = Duration::from_secs(45);
/// The name under which the router in this process is asked: it serves requests under loopback names only.
const HERE: HeaderValue = HeaderValue::from_static("localhost");

/// A cause, whatever it is.
pub(super) type Cause = Box<dyn std::error::Error + Send + Sync>;
/// The body of a response, piece by piece.
pub(super) type Pieces = BoxStream<'static, Result<Bytes, Broken>>;

/// The middle of a response did not arrive.
#[derive(Debug, thiserror::Error)]
#[error("the answer broke off: {0}")]
pub struct Broken(#[source] Cause);

/// Where the API is.
#[derive(Clone)]
pub enum Client {
    /// At a server.
    Http {
        /// What sends the requests.
        http: reqwest::Client,
        /// The server's address.
        base: Url,
    },
    /// In this process, over the configured database.
    InProcess(axum::Router),
}

impl Client {
    /// A client of the server at `url`. Nothing is sent yet.
    ///
    /// # Errors
    /// A text that is not the address of a server.
    pub fn http(url: &str) -> Result<Self, CliError> {
        let wrong = |why: String| CliError::ServerAddress { url: url.to_owned(), why };
        let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let base = Url::parse(&full).map_err(|cause| wrong(cause.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") || base.host().is_none() {
            return Err(wrong("it does not begin with http:// or https://".to_owned()));
        }
        install_tls();
        let mut builder = reqwest::Client::builder().connect_timeout(CONNECT).read_timeout(SILENCE);
        if is_here(&base) {
            builder = builder.no_proxy();
        }
        let http = builder.build();
        Ok(Self::Http { http: http.map_err(|cause| wrong(cause.to_string()))?, base })
    }

    /// What the server is called in messages.
    #[must_use]
    pub fn server(&self) -> String {
        match self {
            Self::Http { base, .. } => base.as_str().trim_end_matches('/').to_owned(),
            Self::InProcess(_) => "the API in this process".to_owned(),
        }
    }

    /// Whether a connection that broke can be made again.
    pub(super) fn reconnects(&self) -> bool {
        matches!(self, Self::Http { .. })
    }

    /// Asks for a document.
    ///
    /// # Errors
    /// A refusal, a server that cannot be reached, an answer that cannot be read.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.answer(self.send(request(Method::GET, path, None)).await?).await
    }

    /// Sends a document, and reads the one that comes back.
    ///
    /// # Errors
    /// A refusal, a server that cannot be reached, an answer that cannot be read.
    pub async fn post<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, CliError> {
        self.post_bytes(path, to_json(body)?).await
    }

    /// Sends bytes that are to be a JSON document, and reads the one that comes back.
    ///
    /// # Errors
    /// A refusal, a server that cannot be reached, an answer that cannot be read.
    pub async fn post_bytes<T: DeserializeOwned>(&self, path: &str, body: Vec<u8>) -> Result<T, CliError> {
        self.answer(self.send(request(Method::POST, path, Some(body))).await?).await
    }

    /// Asks for a stream of events, going on after the event `last`.
    pub(super) async fn open_events(&self, path: &str, last: Option<&str>) -> Result<Pieces, CliError> {
        let mut request = request(Method::GET, path, None);
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(last) = last.and_then(|id| HeaderValue::from_str(id).ok()) {
            request.headers_mut().insert("last-event-id", last);
        }
        let response = self.send(request).await?;
        if response.status().is_success() { Ok(response.into_body()) } else { Err(self.refusal(response).await) }
    }

    /// Asks for what is no document: its bytes, piece by piece.
    pub(super) async fn open_pieces(&self, path: &str) -> Result<Pieces, CliError> {
        let response = self.send(request(Method::GET, path, None)).await?;
        if response.status().is_success() { Ok(response.into_body()) } else { Err(self.refusal(response).await) }
    }

    /// What a broken answer is to whoever asked.
    pub(super) fn broken(&self, broken: Broken) -> CliError {
        CliError::Unreachable { server: self.server(), source: broken.into() }
    }

    /// Sends a request whose address is a path.
    async fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Pieces>, CliError> {
        match self {
            Self::Http { http, base } => {
                let unreachable = |cause: reqwest::Error| CliError::Unreachable { server: self.server(), source: cause.into() };
                let (mut parts, body) = request.into_parts();
                let full = format!("{}{}", base.as_str().trim_end_matches('/'), parts.uri);
                parts.uri = full.parse().map_err(|_| self.unreadable(format!("{full} is not an address")))?;
                let request = reqwest::Request::try_from(Request::from_parts(parts, body)).map_err(unreachable)?;
                let response = Response::<reqwest::Body>::from(execute(http, request).await.map_err(unreachable)?);
                let pieces = |body| Body::new(body).into_data_stream().map_err(|cause| Broken(cause.into())).boxed();
                Ok(response.map(pieces))
            }
            Self::InProcess(router) => {
                let mut request = request;
                request.headers_mut().insert(header::HOST, HERE);
                let Ok(response) = router.clone().oneshot(request.map(Body::from)).await;
                Ok(response.map(|body| body.into_data_stream().map_err(|cause| Broken(cause.into())).boxed()))
            }
        }
    }

    async fn answer<T: DeserializeOwned>(&self, response: Response<Pieces>) -> Result<T, CliError> {
        if !response.status().is_success() {
            return Err(self.refusal(response).await);
        }
        let bytes = self.whole(response.into_body()).await?;
        serde_json::from_slice(&bytes).map_err(|error| self.unreadable(error.to_string()))
    }

    async fn refusal(&self, response: Response<Pieces>) -> CliError {
        let status = response.status();
        match self.whole(response.into_body()).await {
            Ok(bytes) => match serde_json::from_slice::<Problem>(&bytes) {
                Ok(problem) => problem.into(),
                Err(_) => self.unreadable(format!("it is {status}, and no problem document{}", hint(status))),
            },
            Err(error) => error,
        }
    }

    async fn whole(&self, pieces: Pieces) -> Result<Vec<u8>, CliError> {
        let joined = pieces.try_fold(Vec::new(), |mut whole, piece| async move {
            whole.extend_from_slice(&piece);
            Ok(whole)
        });
        joined.await.map_err(|broken| self.broken(broken))
    }

    pub(super) fn unreadable(&self, why: String) -> CliError {
        CliError::Unreadable { server: self.server(), why }
    }
}

/// A document as it is sent.
pub(super) fn to_json<B: Serialize>(body: &B) -> Result<Vec<u8>, CliError> {
    serde_json::to_vec(body).map_err(|error| CliError::Usage(format!("cannot write the request as JSON: {error}")))
}

/// Sends a request; a GET once more where the connection was there and broke before the answer, as one does that was kept from
/// an earlier request and that the server has closed meanwhile.
async fn execute(http: &reqwest::Client, request: reqwest::Request) -> reqwest::Result<reqwest::Response> {
    let again = request.try_clone().filter(|request| request.method() == Method::GET);
    match (http.execute(request).await, again) {
        (Err(error), Some(again)) if error.is_request() && !error.is_connect() && !error.is_timeout() => {
            tracing::debug!("the connection broke before the answer, asking again: {error}");
            http.execute(again).await
        }
        (answered, _) => answered,
    }
}

/// Whether a server is on this host: a proxy for the way out has nothing to do with it.
fn is_here(base: &Url) -> bool {
    match base.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn hint(status: StatusCode) -> &'static str {
    match status {
        StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => "; a proxy between us does not reach it",
        _ => "",
    }
}

fn request(method: Method, path: &str, body: Option<Vec<u8>>) -> Request<Vec<u8>> {
    let mut builder = Request::builder().method(method).uri(path).header(header::ACCEPT, "application/json");
    if body.is_some() {
        builder = builder.header(header::CONTENT_TYPE, "application/json");
    }
    builder.body(body.unwrap_or_default()).expect("paths are made of our own words and escaped values")
}

/// Makes *ring* the implementation of TLS for this process; the first one wins, and all are the same.
fn install_tls() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error means that one is installed already.
        drop(rustls::crypto::ring::default_provider().install_default());
    });
}

/// A value for use in a path or a query string.
pub(super) fn escape(value: &str) -> String {
    percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC).to_string()
}
