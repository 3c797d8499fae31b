//! The way out of an attempt's container, where it has one: open for as long as the attempt's commands may run.
//!
//! The one rule: what was refused is said. The job's log names each host and port once, the daemon's too, and all are counted.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::{Span, warn};

use super::halt::Halt;
use super::open::Attempt;
use super::place::Place;
use crate::sandbox::SandboxError;
use crate::sandbox::egress::{Proxy, Refused};

/// How many different ones are said; a job that tries every port of the world is not to fill its log with that.
const SAID_MAX: usize = 100;

/// An open way out.
#[derive(Debug)]
pub(super) struct Egress {
    proxy: Proxy,
    refusals: Arc<Refusals>,
}

#[derive(Debug, Default)]
struct Refusals {
    count: AtomicU64,
    said: Mutex<BTreeSet<(String, u16)>>,
}

/// Opens the way out of the container that the attempt is in, unless it is open or there is none.
pub(super) async fn open(attempt: &mut Attempt) -> Result<(), Halt> {
    let Some(Place::Container { container, .. }) = &attempt.journal.place else { return Ok(()) };
    if attempt.egress.is_some() {
        return Ok(());
    }
    let refusals = Arc::new(Refusals::default());
    let heard = {
        let (refusals, spool, span, job) = (refusals.clone(), attempt.spool.clone(), Span::current(), attempt.claimed.claim.job);
        move |refused: &Refused| {
            if refusals.is_news(refused) {
                spool.say(&format!("the job was not let reach {refused}"));
                span.in_scope(|| warn!(host = refused.host, port = refused.port, "job {job} was not let reach {refused}"));
            }
        }
    };
    match attempt.tools.containers.open_egress(container, heard).await {
        Ok(proxy) => attempt.egress = proxy.map(|proxy| Egress { proxy, refusals }),
        // What asks for the commands in it finds out, and says so.
        Err(SandboxError::Gone { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

impl Egress {
    /// What tells programs of it. Some read the one, some the other.
    pub(super) fn variables(&self) -> [(String, String); 6] {
        let (proxy, none) = (url(self.proxy.address()), "localhost,127.0.0.1,::1".to_owned());
        [
            ("HTTP_PROXY", &proxy),
            ("HTTPS_PROXY", &proxy),
            ("NO_PROXY", &none),
            ("http_proxy", &proxy),
            ("https_proxy", &proxy),
            ("no_proxy", &none),
        ]
        .map(|(name, value)| (name.to_owned(), value.clone()))
    }

    /// Closes it, and says how much was refused where anything was.
    pub(super) fn close(self) -> Option<String> {
        let count = self.refusals.count.load(Ordering::Relaxed);
        (count > 0)
            .then(|| format!("{count} connections of the job were refused: container.egress does not list what they were for"))
    }
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

impl Refusals {
    /// Counts it, and says whether it is to be said: each host and port once.
    fn is_news(&self, refused: &Refused) -> bool {
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.len() < SAID_MAX && said.insert((refused.host.clone(), refused.port))
    }
}
