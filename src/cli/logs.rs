//! `sawmill logs`: the bytes of a log on standard output, as the job wrote them.

use super::args::LogsArgs;
use super::client::Client;
use super::error::{CliError, Exit};
use super::events::Events;
use super::output::{Output, talk};
use super::workers;
use crate::api::wire::{LogEnd, LogPiece, LogSlice};
use crate::ids::{AttemptNo, JobId};
use crate::job::{Job, JobState, LogVerdict, Stream};

/// Which part of a job's log, and in which form.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wanted {
    attempt: Option<AttemptNo>,
    stream: Option<Stream>,
    since: u64,
    lines: Lines,
}

/// Whether the time stands before every line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Lines {
    #[default]
    Bare,
    Timed,
}

/// Writes a log.
pub(super) async fn run(client: &Client, out: &Output, args: LogsArgs) -> Result<Exit, CliError> {
    let LogsArgs { id, follow: on, attempt, stream, since, timestamps } = args;
    let lines = if timestamps { Lines::Timed } else { Lines::Bare };
    let wanted = Wanted { attempt: attempt.map(AttemptNo), stream, since, lines };
    if on {
        follow(client, out, id, wanted).await?
    } else {
        write_all(client, out, id, wanted).await?
    }
    Ok(Exit::Done)
}

/// Writes what there is.
async fn write_all(client: &Client, out: &Output, id: JobId, mut wanted: Wanted) -> Result<(), CliError> {
    let mut writer = Writer::new(out, wanted.lines);
    loop {
        let slice: LogSlice = client.get(&address(id, wanted)).await?;
        for piece in slice.chunks {
            writer.write(client, piece)?;
        }
        // What comes after is of the same attempt, also when a new one has begun meanwhile.
        wanted.attempt = Some(slice.attempt);
        if slice.next >= slice.total || slice.next == wanted.since {
            return slice.log.map_or(Ok(()), |verdict| {
                warn_of(slice.attempt, verdict);
                Ok(())
            });
        }
        wanted.since = slice.next;
    }
}

/// Writes the log as it grows: to the end of the attempt when one was named, else to the end of the job.
pub(super) async fn follow(client: &Client, out: &Output, id: JobId, mut wanted: Wanted) -> Result<(), CliError> {
    let named = wanted.attempt.is_some();
    let job: Job = client.get(&format!("/v1/jobs/{id}")).await?;
    if job.state == JobState::Queued && !named {
        talk(&format!("job {id} is queued; its log begins when a worker takes it"));
        workers::hint_at_none(client).await;
    }
    let mut writer = Writer::new(out, wanted.lines);
    loop {
        let end = follow_attempt(client, &mut writer, id, wanted).await?;
        let Some(attempt) = end.attempt else {
            talk(&format!("job {id} ended without a further attempt: {}", end.state));
            return Ok(());
        };
        if let Some(verdict) = end.log {
            warn_of(attempt, verdict);
        }
        if named || end.state.is_final() {
            return Ok(());
        }
        let next = AttemptNo(attempt.0 + 1);
        let outcome = end.outcome.map_or_else(|| "no outcome".to_owned(), |outcome| outcome.to_string());
        talk(&format!("attempt {attempt} ended ({outcome}); waiting for attempt {next}"));
        wanted = Wanted { attempt: Some(next), since: 0, ..wanted };
    }
}

async fn follow_attempt(client: &Client, writer: &mut Writer<'_>, id: JobId, wanted: Wanted) -> Result<LogEnd, CliError> {
    let mut events = Events::open(client, address(id, wanted)).await?;
    loop {
        let event = events.next().await?;
        let data = event.data.unwrap_or_default();
        let unreadable = |error: serde_json::Error| client.unreadable(error.to_string());
        match event.event.as_deref() {
            Some("log") => writer.write(client, serde_json::from_str(&data).map_err(unreadable)?)?,
            Some("end") => return serde_json::from_str(&data).map_err(unreadable),
            // Events of a later version are not for us.
            _ => {}
        }
    }
}

fn address(id: JobId, wanted: Wanted) -> String {
    let mut address = format!("/v1/jobs/{id}/logs?from={}", wanted.since);
    if let Some(attempt) = wanted.attempt {
        address.push_str(&format!("&attempt={attempt}"));
    }
    if let Some(stream) = wanted.stream {
        address.push_str(&format!("&stream={stream}"));
    }
    address
}

fn warn_of(attempt: AttemptNo, verdict: LogVerdict) {
    if verdict != LogVerdict::Complete {
        talk(&format!("the log of attempt {attempt} is not whole: {verdict}"));
    }
}

/// Writes pieces of log: bytes as they are, or one JSON document on each line.
struct Writer<'a> {
    out: &'a Output,
    lines: Lines,
    at_start: bool,
}

impl<'a> Writer<'a> {
    const fn new(out: &'a Output, lines: Lines) -> Self {
        Self { out, lines, at_start: true }
    }

    fn write(&mut self, client: &Client, piece: LogPiece) -> Result<(), CliError> {
        if self.out.is_json() {
            return self.out.json_line(&piece);
        }
        let time = piece.at.to_string();
        let bytes = piece.bytes().map_err(|error| client.unreadable(error.to_string()))?;
        match self.lines {
            Lines::Bare => self.out.bytes(&bytes),
            Lines::Timed => self.out.bytes(&self.timed(&bytes, &time)),
        }
    }

    /// The same bytes with the time before every line that begins in them.
    fn timed(&mut self, bytes: &[u8], time: &str) -> Vec<u8> {
        let mut timed = Vec::with_capacity(bytes.len() + bytes.len() / 2);
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.at_start {
                timed.extend_from_slice(time.as_bytes());
                timed.push(b' ');
            }
            timed.extend_from_slice(line);
            self.at_start = line.ends_with(b"\n");
        }
        timed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Form;

    #[test]
    fn the_time_stands_before_every_line_also_where_a_piece_ends_in_the_middle_of_one() {
        let (out, _) = Output::captured(Form::Text);
        let mut writer = Writer::new(&out, Lines::Timed);
        let mut written = writer.timed(b"one\ntw", "T1");
        written.extend(writer.timed(b"o\nthree\n", "T2"));
        assert_eq!(String::from_utf8_lossy(&written), "T1 one\nT1 two\nT2 three\n");
    }
}
