//! The proxy itself: HTTP's CONNECT for everything that is encrypted, and plain HTTP.
//!
//! The one rule: nothing is connected to that [`Rules`] did not let through as the very address that is connected to. What is refused is
//! answered with 403 and the reason, and told to whoever opened the proxy.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, warn};
use url::Host;

use super::rule::{Rules, plain};

/// How many connections a job has at once; further ones wait. Each takes two descriptors of the daemon's.
const AT_ONCE: usize = 64;

/// How long a job may take to say what it wants, and a host to take a connection.
const ASKED_WITHIN: Duration = Duration::from_secs(30);
const REACHED_WITHIN: Duration = Duration::from_secs(30);

/// The most that one connection keeps of what has not been passed on.
const BUFFER: usize = 64 * 1024;

/// How long to wait when the daemon has no descriptor left.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// What concerns one connection alone, and is not passed on: RFC 9110, 7.6.1.
const OF_THE_CONNECTION: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
];

type Body = BoxBody<Bytes, hyper::Error>;

/// A proxy at work; it ends, with all its connections, when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    _ended: DropGuard,
}

/// Something that a job was not let reach.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{host}:{port}: {why}")]
pub struct Refused {
    /// The host, as the job named it.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Why.
    pub why: Why,
}

/// Why a job does not reach something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Why {
    /// Nothing lists it.
    #[error("it is not listed in container.egress")]
    NotListed,
    /// The name is listed, and means an address that is private, special, or this host's own.
    #[error("it means {0}, which is not public and not listed in container.egress by its address")]
    NotPublic(IpAddr),
}

/// What the connections of a proxy share.
struct Desk {
    rules: Rules,
    heard: Box<dyn Fn(&Refused) + Send + Sync>,
    ended: CancellationToken,
}

/// A connection through which bytes go as they are, once the answer to CONNECT is out.
type Tunnel = Arc<Mutex<Option<(OnUpgrade, TcpStream)>>>;

impl Proxy {
    /// Begins to serve at a listener. `heard` is told of everything that is refused.
    ///
    /// # Errors
    /// It is not a listener.
    pub fn open(
        listener: std::net::TcpListener,
        rules: Rules,
        heard: impl Fn(&Refused) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let (address, ended) = (listener.local_addr()?, CancellationToken::new());
        let desk = Arc::new(Desk { rules, heard: Box::new(heard), ended: ended.clone() });
        tokio::spawn(ended.clone().run_until_cancelled_owned(accept_loop(listener, desk)));
        Ok(Self { address, _ended: ended.drop_guard() })
    }

    /// Where it listens, as the job sees it.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn accept_loop(listener: TcpListener, desk: Arc<Desk>) {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    while let Ok(place) = room.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let connection = serve(stream, desk.clone());
                let ended = desk.ended.clone();
                tokio::spawn(async move {
                    ended.run_until_cancelled(connection).await;
                    drop(place);
                });
            }
            Err(error) => {
                warn!("cannot take a connection of a job's: {error}; it is tried again");
                tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, desk: Arc<Desk>) {
    let tunnel = Tunnel::default();
    let answer = service_fn(|request| answer(request, desk.clone(), tunnel.clone()));
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(ASKED_WITHIN).max_buf_size(BUFFER);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), answer).with_upgrades().await {
        debug!("a connection of a job's to its proxy broke: {error}");
    }
    let through = tunnel.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some((upgrade, mut upstream)) = through
        && let Ok(upgraded) = upgrade.await
    {
        // How it ends is between the two.
        copy_bidirectional(&mut TokioIo::new(upgraded), &mut upstream).await.ok();
    }
}

async fn answer(request: Request<Incoming>, desk: Arc<Desk>, tunnel: Tunnel) -> Result<Response<Body>, hyper::Error> {
    let Some((host, port)) = wanted(&request) else {
        return Ok(say(StatusCode::BAD_REQUEST, "this is a proxy: ask for CONNECT host:port, or for a whole http:// address"));
    };
    let upstream = match desk.connect(&host, port).await {
        Ok(upstream) => upstream,
        Err(Unconnected::Refused(refused)) => {
            (desk.heard)(&refused);
            return Ok(say(StatusCode::FORBIDDEN, &refused.to_string()));
        }
        Err(Unconnected::Failed(why)) => return Ok(say(StatusCode::BAD_GATEWAY, &format!("{host}:{port}: {why}"))),
    };
    if request.method() == Method::CONNECT {
        let through = (hyper::upgrade::on(request), upstream);
        *tunnel.lock().unwrap_or_else(PoisonError::into_inner) = Some(through);
        return Ok(Response::new(Full::default().map_err(|never| match never {}).boxed()));
    }
    match forward(request, upstream, desk.ended.clone()).await {
        Ok(response) => Ok(response),
        Err(error) => Ok(say(StatusCode::BAD_GATEWAY, &format!("{host}:{port}: {error}"))),
    }
}

/// What a request is for: of CONNECT its authority, else a whole address of plain HTTP.
fn wanted(request: &Request<Incoming>) -> Option<(Host, u16)> {
    let uri = request.uri();
    let host = Host::parse(uri.host()?).ok()?;
    let port = match (request.method(), uri.scheme_str()) {
        (&Method::CONNECT, _) => uri.port_u16()?,
        (_, Some("http")) => uri.port_u16().unwrap_or(80),
        _ => return None,
    };
    Some((host, port))
}

/// Why nothing is connected to.
enum Unconnected {
    Refused(Refused),
    Failed(String),
}

impl Desk {
    async fn connect(&self, host: &Host, port: u16) -> Result<TcpStream, Unconnected> {
        let refused = |why| Unconnected::Refused(Refused { host: host.to_string(), port, why });
        let addresses = match host {
            Host::Ipv4(ip) => self.address(SocketAddr::from((*ip, port))).ok_or_else(|| refused(Why::NotListed))?,
            Host::Ipv6(ip) => self.address(SocketAddr::from((*ip, port))).ok_or_else(|| refused(Why::NotListed))?,
            Host::Domain(name) => {
                let name = plain(name);
                // A name that is not listed is not even looked up: that alone would tell somebody something.
                if !self.rules.list_name(&name, port) {
                    return Err(refused(Why::NotListed));
                }
                let found = timeout(REACHED_WITHIN, lookup_host((name, port))).await;
                let found = found.map_err(|_| Unconnected::Failed("no name server answers".to_owned()))?;
                let found: Vec<SocketAddr> = found.map_err(|error| Unconnected::Failed(error.to_string()))?.collect();
                let open: Vec<SocketAddr> = found.iter().copied().filter(|address| self.rules.let_mean(*address)).collect();
                match found.first() {
                    Some(closed) if open.is_empty() => return Err(refused(Why::NotPublic(closed.ip()))),
                    _ => open,
                }
            }
        };
        match timeout(REACHED_WITHIN, TcpStream::connect(&addresses[..])).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(Unconnected::Failed(error.to_string())),
            Err(_) => Err(Unconnected::Failed(format!("it does not answer within {REACHED_WITHIN:?}"))),
        }
    }

    fn address(&self, address: SocketAddr) -> Option<Vec<SocketAddr>> {
        self.rules.list_address(address).then(|| vec![address])
    }
}

/// Passes a request of plain HTTP on, and its answer back.
async fn forward(
    mut request: Request<Incoming>,
    upstream: TcpStream,
    ended: CancellationToken,
) -> Result<Response<Body>, hyper::Error> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(upstream)).await?;
    // It ends with the answer's body.
    tokio::spawn(ended.run_until_cancelled_owned(connection));
    // The host that was checked is the host that is asked for, whatever the job wrote into the header.
    let uri = request.uri();
    let authority = uri
        .authority()
        .map(|named| uri.port().map_or_else(|| named.host().to_owned(), |port| format!("{}:{port}", named.host())));
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    strip(request.headers_mut());
    if let Some(host) = authority.and_then(|authority| HeaderValue::from_str(&authority).ok()) {
        request.headers_mut().insert(header::HOST, host);
    }
    let mut response = sender.send_request(request).await?;
    strip(response.headers_mut());
    Ok(response.map(BodyExt::boxed))
}

fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&OF_THE_CONNECTION) {
        headers.remove(name);
    }
}

fn say(status: StatusCode, text: &str) -> Response<Body> {
    let body = Full::from(format!("sawmill: {text}\n")).map_err(|never| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
