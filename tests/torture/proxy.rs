//! A TCP proxy in the test, between one worker and the database, whose link can be cut, silenced and slowed.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the link does with what is sent over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    /// It passes it on.
    Open,
    /// It passes it on late.
    Slow(Duration),
    /// It takes it, and new connections too, and passes nothing on for as long as it is so.
    Silent,
    /// It resets every connection.
    Cut,
}

/// A proxy. It ends, with its connections, when this goes.
pub(crate) struct Proxy {
    address: SocketAddr,
    link: watch::Sender<State>,
    listening: JoinHandle<()>,
}

/// Counting the cuts lets a connection notice one that is over already.
#[derive(Debug, Clone, Copy)]
struct State {
    link: Link,
    cuts: u64,
}

impl Proxy {
    /// Listens on a free port of this host for what is to go to `server`.
    pub(crate) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (link, states) = watch::channel(State { link: Link::Open, cuts: 0 });
        let listening = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, server, states.clone()));
            }
        });
        Self { address, link, listening }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn set(&self, link: Link) {
        self.link.send_modify(|state| {
            state.cuts += u64::from(link == Link::Cut);
            state.link = link;
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// Carries one connection until either side ends it or the link is cut; then both sides see a reset.
async fn carry(client: TcpStream, server: SocketAddr, mut states: watch::Receiver<State>) {
    let cuts = states.borrow().cuts;
    let born = *states.borrow();
    let cut = async |states: &mut watch::Receiver<State>| {
        // An error says that the proxy is gone, which ends its connections too.
        states.wait_for(|state| state.cuts != cuts || born.link == Link::Cut).await.is_ok()
    };
    let mut watching = states.clone();
    let carried = async {
        open(&mut states).await?;
        let upstream = TcpStream::connect(server).await.ok()?;
        Some(upstream)
    };
    let upstream = tokio::select! {
        _ = cut(&mut watching) => None,
        upstream = carried => upstream,
    };
    let Some(upstream) = upstream else {
        reset(&client);
        return;
    };
    let (mut client, mut upstream) = (client, upstream);
    let ended = {
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), upstream.split());
        tokio::select! {
            _ = cut(&mut watching) => End::Cut,
            () = pump(from_client, to_server, states.clone()) => End::Closed,
            () = pump(from_server, to_client, states.clone()) => End::Closed,
        }
    };
    if ended == End::Cut {
        reset(&client);
        reset(&upstream);
    }
}

#[derive(PartialEq, Eq)]
enum End {
    Closed,
    Cut,
}

async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut states: watch::Receiver<State>) {
    let mut bytes = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if open(&mut states).await.is_none() || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

/// Waits until something may pass. None when the proxy is gone.
async fn open(states: &mut watch::Receiver<State>) -> Option<()> {
    let state = *states.wait_for(|state| state.link != Link::Silent).await.ok()?;
    if let Link::Slow(delay) = state.link {
        tokio::time::sleep(delay).await;
    }
    Some(())
}

/// Makes the end of a connection a reset. Without it the other side would see an orderly end.
fn reset(stream: &TcpStream) {
    // The other side may be gone.
    stream.set_zero_linger().ok();
}
