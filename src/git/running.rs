//! A git command that runs: what it is told, what it says, and its end.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdout};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::command::Reach;
use super::error::GitError;
use super::{Remote, diagnose};

/// How much of git's complaints is kept.
const STDERR_MAX: usize = 256 * 1024;

/// What a command is run for, and how far that may go.
#[derive(Debug)]
pub(super) struct Purpose {
    /// What is attempted, in words.
    pub(super) action: String,
    /// What is run.
    pub(super) program: PathBuf,
    /// Whom it talks to, whose secrets it may tell.
    pub(super) remote: Option<Remote>,
    /// How much of its answer is kept, in bytes.
    pub(super) stdout_max: usize,
    /// How long it may take.
    pub(super) limit: Duration,
}

/// A git command that runs. Dropping it kills the command and everything that it started; where that talks to a remote, it has a few seconds
/// to remove its locks there.
pub(super) struct Running {
    group: Group,
    said: Option<BufReader<ChildStdout>>,
    /// Its complaints are read all the while: it waits where nobody does.
    complaints: AbortOnDropHandle<io::Result<Kept>>,
    purpose: Purpose,
    until: Instant,
}

impl Running {
    pub(super) fn new(mut group: Group, purpose: Purpose) -> Self {
        let (said, until) = (group.child.stdout.take().map(BufReader::new), Instant::now() + purpose.limit);
        let complaints = AbortOnDropHandle::new(tokio::spawn(keep(group.child.stderr.take(), STDERR_MAX)));
        Self { group, said, complaints, purpose, until }
    }

    /// The next bytes of its answer, so many as there is room for.
    ///
    /// # Errors
    /// It says less before it ends, or takes too long.
    pub(super) async fn hear(&mut self, bytes: &mut [u8]) -> Result<(), GitError> {
        let Self { said: Some(said), .. } = self else { return Err(self.broken_off()) };
        match timeout_at(self.until, said.read_exact(bytes)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Err(self.broken_off()),
            Ok(Err(error)) => Err(self.failed(error)),
            Err(_) => Err(self.late()),
        }
    }

    /// Tells it the last that it is to know, and waits for the rest of its answer and its end.
    ///
    /// # Errors
    /// As [`super::command::Invocation::finish`].
    pub(super) async fn finish(mut self, input: Vec<u8>) -> Result<Finished, GitError> {
        let Ok(result) = timeout_at(self.until, self.talk(input)).await else { return Err(self.late()) };
        let (code, stdout, stderr) = result.map_err(|source| self.failed(source))?;
        let Purpose { action, remote, stdout_max, .. } = self.purpose;
        if stdout.cut {
            return Err(GitError::Command { action, detail: format!("git answers more than {stdout_max} bytes") });
        }
        let stderr = String::from_utf8_lossy(&stderr.bytes);
        let stderr = remote.as_ref().map_or_else(|| stderr.to_string(), |remote| remote.scrub(&stderr));
        Ok(Finished { action, code, stdout: stdout.bytes, stderr })
    }

    async fn talk(&mut self, input: Vec<u8>) -> io::Result<(Option<i32>, Kept, Kept)> {
        let child = &mut self.group.child;
        let stdin = child.stdin.take();
        let feed = async {
            if let Some(mut pipe) = stdin {
                match pipe.write_all(&input).await {
                    // A command that stops reading has its reason, which its status tells.
                    Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
                    _ => {}
                }
            }
            Ok(())
        };
        let answer = keep(self.said.take(), self.purpose.stdout_max);
        let complaints = async { (&mut self.complaints).await? };
        let ((), stdout, stderr) = tokio::try_join!(feed, answer, complaints)?;
        Ok((child.wait().await?.code(), stdout, stderr))
    }

    fn broken_off(&self) -> GitError {
        GitError::Command { action: self.purpose.action.clone(), detail: "it ended before it had said all".to_owned() }
    }

    fn late(&self) -> GitError {
        GitError::Timeout { action: self.purpose.action.clone(), after: self.purpose.limit }
    }

    fn failed(&self, source: io::Error) -> GitError {
        GitError::Program { program: self.purpose.program.clone(), source }
    }
}

/// What a git command left.
#[derive(Debug)]
pub(super) struct Finished {
    /// What was attempted, in words.
    pub(super) action: String,
    /// Its exit status; absent where a signal ended it.
    pub(super) code: Option<i32>,
    /// What it answered.
    pub(super) stdout: Vec<u8>,
    /// What it complained about, secrets taken out.
    pub(super) stderr: String,
}

impl Finished {
    /// This, unless the command failed: then what its complaint means.
    pub(super) fn success(self) -> Result<Self, GitError> {
        if self.code == Some(0) { Ok(self) } else { Err(self.error()) }
    }

    /// What the complaint means where no remote is concerned.
    pub(super) fn error(&self) -> GitError {
        diagnose::local(&self.action, self.code, &self.stderr)
    }

    /// The one line that it answered.
    pub(super) fn line(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }
}

/// A command in a process group of its own, which ends with this.
pub(super) struct Group {
    child: Child,
    reach: Reach,
}

struct Kept {
    bytes: Vec<u8>,
    cut: bool,
}

impl Group {
    pub(super) fn new(child: Child, reach: Reach) -> Self {
        Self { child, reach }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The id is absent once the child was waited for, so that it cannot name a stranger.
        let Some(pid) = self.child.id().and_then(|id| i32::try_from(id).ok()) else { return };
        let ended = match self.reach {
            Reach::Local => killpg(Pid::from_raw(pid), Signal::SIGKILL),
            // The tether sees to the rest.
            Reach::Network => kill(Pid::from_raw(pid), Signal::SIGTERM),
        };
        if let Err(error) = ended {
            tracing::warn!(pid, %error, "a git command could not be ended");
        }
    }
}

/// Reads a pipe to its end and keeps the first `max` bytes.
async fn keep(pipe: Option<impl AsyncRead + Unpin>, max: usize) -> io::Result<Kept> {
    let mut kept = Kept { bytes: Vec::new(), cut: false };
    let Some(mut pipe) = pipe else { return Ok(kept) };
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = pipe.read(&mut buffer).await?;
        if read == 0 {
            return Ok(kept);
        }
        let room = max - kept.bytes.len();
        kept.bytes.extend_from_slice(&buffer[..read.min(room)]);
        kept.cut |= read > room;
    }
}
