//! Listening for requests, and stopping.
//!
//! The one rule: without tokens the server listens on loopback only, whatever it is told.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The section `[server]` of the configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The address that the API listens on: a loopback address.
    pub listen: SocketAddr,
    /// How long requests that are under way may take once the server is told to stop.
    #[serde(with = "crate::clock::human")]
    pub drain: Duration,
}

/// Why the server does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address can be reached from other hosts.
    #[error(
        "cannot listen on {0}: other hosts could reach it and there are no tokens yet; \
         set server.listen to a loopback address such as 127.0.0.1:{port}", port = .0.port()
    )]
    NotLoopback(SocketAddr),
    /// The address is taken, or is not ours.
    #[error("cannot listen on {address}; set server.listen to another port, or stop what uses this one")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: std::io::Error,
    },
    /// The listener broke.
    #[error("cannot serve requests")]
    Serve(#[source] std::io::Error),
}

/// Opens the address of the configuration.
///
/// # Errors
/// An address that is not loopback's, or that is taken.
pub async fn listen(config: &Config) -> Result<TcpListener, ServeError> {
    if !config.listen.ip().is_loopback() {
        return Err(ServeError::NotLoopback(config.listen));
    }
    TcpListener::bind(config.listen).await.map_err(|source| ServeError::Listen { address: config.listen, source })
}

/// Serves until `shutdown` is cancelled; then takes no further connection and gives those under way `drain` to end.
///
/// The router's own [`State::shutdown`](super::State) should be the same token, or a child of it, so that streams end at once.
///
/// # Errors
/// A listener that is not loopback's, or that broke.
pub async fn serve(
    listener: TcpListener,
    router: axum::Router,
    drain: Duration,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let address = listener.local_addr().map_err(ServeError::Serve)?;
    if !address.ip().is_loopback() {
        return Err(ServeError::NotLoopback(address));
    }
    tracing::info!(server.address = %address, "serving the API on http://{address}");
    let serving = axum::serve(listener, router).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let overdue = async {
        shutdown.cancelled().await;
        tokio::time::sleep(drain).await;
    };
    tokio::select! {
        ended = std::future::IntoFuture::into_future(serving) => ended.map_err(ServeError::Serve),
        () = overdue => {
            tracing::warn!(server.address = %address, "requests to {address} were still under way after {drain:?}; they are cut off");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_other_hosts_can_reach_is_refused() {
        let config = Config { listen: ([0, 0, 0, 0], 7400).into(), drain: Duration::ZERO };
        let refused = listen(&config).await.expect_err("the address is not loopback's").to_string();
        insta::assert_snapshot!(refused, @"cannot listen on 0.0.0.0:7400: other hosts could reach it and there are no tokens yet; set server.listen to a loopback address such as 127.0.0.1:7400");
        let open = TcpListener::bind("0.0.0.0:0").await.expect("a free port");
        let served = serve(open, axum::Router::new(), Duration::ZERO, CancellationToken::new()).await;
        assert!(matches!(served, Err(ServeError::NotLoopback(_))), "{served:?}");
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = taken.local_addr().expect("an address");
        let refused = listen(&Config { listen: address, drain: Duration::ZERO }).await.expect_err("the address is taken");
        assert_eq!(
            refused.to_string(),
            format!("cannot listen on {address}; set server.listen to another port, or stop what uses this one")
        );
    }
}
