//! Reading a stream of events, through lost connections.
//!
//! The one rule: after a lost connection the server is asked to go on after the last event that was *handled*, so that nothing
//! is lost and nothing is seen twice.

use std::time::Duration;

use futures_util::StreamExt as _;
use sse_stream::{Sse, SseByteStream};
use tokio::time::{Instant, sleep};

use super::client::{Cause, Client, Pieces};
use super::error::CliError;
use super::output::talk;
use crate::api::Problem;

/// How soon a lost connection is made again at first; each failure doubles it, up to [`BACKOFF_MAX`].
const BACKOFF: Duration = Duration::from_millis(250);
/// The longest time between two tries.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// How long a server may stay away.
const PATIENCE: Duration = Duration::from_secs(120);

/// A stream of events.
pub(super) struct Events<'a> {
    client: &'a Client,
    path: String,
    last: Option<String>,
    open: SseByteStream<Pieces>,
}

impl<'a> Events<'a> {
    /// Asks for the events at `path`.
    pub(super) async fn open(client: &'a Client, path: String) -> Result<Self, CliError> {
        let open = SseByteStream::new(client.open_events(&path, None).await?);
        Ok(Self { client, path, last: None, open })
    }

    /// The next event that carries data. There is always one: who reads knows which is the last.
    pub(super) async fn next(&mut self) -> Result<Sse, CliError> {
        loop {
            match self.open.next().await {
                Some(Ok(event)) if event.event.as_deref() == Some("problem") => return Err(self.problem(&event)),
                Some(Ok(event)) if event.data.is_some() => {
                    if event.id.is_some() {
                        self.last.clone_from(&event.id);
                    }
                    return Ok(event);
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => self.reconnect(error.into()).await?,
                None => self.reconnect("the server ended the stream".into()).await?,
            }
        }
    }

    fn problem(&self, event: &Sse) -> CliError {
        match serde_json::from_str::<Problem>(event.data.as_deref().unwrap_or_default()) {
            Ok(problem) => problem.into(),
            Err(error) => self.client.unreadable(error.to_string()),
        }
    }

    async fn reconnect(&mut self, cause: Cause) -> Result<(), CliError> {
        let server = self.client.server();
        if !self.client.reconnects() {
            return Err(CliError::Lost { server, source: cause });
        }
        talk(&format!("lost the connection to {server}; connecting again"));
        let until = Instant::now() + PATIENCE;
        let mut pause = BACKOFF;
        loop {
            sleep(pause).await;
            match self.client.open_events(&self.path, self.last.as_deref()).await {
                Ok(pieces) => {
                    self.open = SseByteStream::new(pieces);
                    return Ok(());
                }
                Err(CliError::Unreachable { source, .. }) if Instant::now() >= until => {
                    return Err(CliError::Lost { server, source });
                }
                Err(CliError::Refused(problem)) if problem.status < 500 => return Err(CliError::Refused(problem)),
                Err(error) if Instant::now() >= until => return Err(error),
                Err(_) => pause = (pause * 2).min(BACKOFF_MAX),
            }
        }
    }
}
