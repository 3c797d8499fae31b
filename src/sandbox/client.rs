//! The daemon's end.
//!
//! Every request has a connection of its own, which costs some ten microseconds and makes all of this safe to cancel at
//! any `await`: what was asked either reached the supervisor whole or not at all, and a start can be asked again.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{OFlag, open};
use nix::sys::socket::{ControlMessage, MsgFlags, getsockopt, sendmsg, sockopt};
use nix::sys::stat::Mode;
use nix::unistd::geteuid;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::command::{Activity, CommandSpec, ExitReport, Held, Started, Status, Will};
use super::error::SandboxError;
use super::kernel;
use super::protocol::{self, Order, Refusal, Request, Response, SOCKET};
use crate::clock::Timestamp;

/// How long a living supervisor may take to answer anything but a wait. It answers at once; a host that is short of memory or of its
/// disk may not run it for a while, and that is no reason to fail a job.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// How long a supervisor may take to end its command and itself.
const LEAVE_WITHIN: Duration = Duration::from_secs(120);

/// A supervisor, by its directory.
///
/// A clone speaks to the same one. Nothing is held open between requests; dropping it changes nothing.
#[derive(Debug, Clone)]
pub struct Supervisor {
    dir: Arc<Path>,
}

impl Supervisor {
    /// The supervisor of a directory, whether or not one lives there.
    #[must_use]
    pub fn at(dir: &Path) -> Self {
        Self { dir: dir.into() }
    }

    /// Finds the living supervisor of a directory; none when there is none, whatever it has left behind.
    ///
    /// # Errors
    /// The socket is not that of a supervisor of this user and version, or nobody answers at it.
    pub async fn attach(dir: &Path) -> Result<Option<Self>, SandboxError> {
        match Self::greet(dir, None).await {
            Ok(_) => Ok(Some(Self { dir: dir.into() })),
            Err(SandboxError::Gone { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// As [`Supervisor::attach`], and tells it how long its daemon may stay silent from now on.
    pub(super) async fn attach_for(dir: &Path, orphan_after: Duration) -> Result<Option<(Self, Mood)>, SandboxError> {
        match Self::greet(dir, Some(orphan_after)).await {
            Ok(mood) => Ok(Some((Self { dir: dir.into() }, mood))),
            Err(SandboxError::Gone { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn greet(dir: &Path, orphan_after: Option<Duration>) -> Result<Mood, SandboxError> {
        let request = Request::KeepAlive { orphan_after_ms: orphan_after.map(milliseconds) };
        let line = Line { dir, asked: "say that the daemon lives" };
        let response = timeout(ANSWER_WITHIN, line.ask(&request, &[])).await.map_err(|_| line.silent())??;
        line.alive(response)
    }

    /// Its process, by its number on this host: [`SandboxError::Unseen`] where it has none for who is in another namespace.
    pub(super) async fn pid(&self) -> Result<i32, SandboxError> {
        let line = self.line("ask who it is");
        let door = Door::open(&self.dir)?;
        let stream = UnixStream::connect(door.path()).await.map_err(|error| line.broken(error))?;
        let peer = getsockopt(&stream, sockopt::PeerCredentials).map_err(|error| line.broken(error.into()))?;
        if peer.pid() > 0 { Ok(peer.pid()) } else { Err(SandboxError::Unseen { dir: self.dir.to_path_buf() }) }
    }

    /// The supervisor's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts a command. Its output files are opened here, and the supervisor gets them as descriptors.
    ///
    /// A program that cannot be started is not an error of this call: the answer has no `pid`, and the report says
    /// why. Cancelling leaves open whether it was started; ask again with the same id.
    ///
    /// # Errors
    /// A file cannot be opened; another command runs ([`Refusal::Busy`]); the supervisor is gone or leaving.
    pub async fn start(&self, command: &CommandSpec) -> Result<Started, SandboxError> {
        let mut files = vec![append(&command.stdout)?, append(&command.stderr)?];
        if let Some(path) = &command.stdin {
            files.push(File::open(path).map_err(|source| SandboxError::Open { path: path.clone(), source })?);
        }
        let order = Order {
            id: command.id.clone(),
            argv: command.argv.clone(),
            env: command.env.clone(),
            cwd: command.cwd.clone(),
            grace_ms: milliseconds(command.grace),
            deadline: command.deadline,
            will: command.will.clone(),
        };
        match self.ask("start a command", &Request::Start(Box::new(order)), &files).await? {
            Response::Started(started) => Ok(started),
            other => Err(self.line("start a command").unexpected(&other)),
        }
    }

    /// Says what it is doing.
    ///
    /// # Errors
    /// The supervisor is gone.
    pub async fn status(&self) -> Result<Status, SandboxError> {
        match self.ask("ask for the status", &Request::Status, &[]).await? {
            Response::Status(status) => Ok(status),
            other => Err(self.line("ask for the status").unexpected(&other)),
        }
    }

    /// Waits until no process of the command is left, for as long as that takes: who wants a limit gives the command a
    /// deadline. It can be cancelled and asked again, also by another daemon, until the report is collected.
    ///
    /// # Errors
    /// The supervisor goes away, does not know the command, or succeeded one that died while it ran.
    pub async fn wait(&self, id: &str) -> Result<ExitReport, SandboxError> {
        let line = self.line("wait for a command");
        match line.ask(&Request::Wait { id: id.to_owned() }, &[]).await? {
            Response::Report(report) => Ok(report),
            other => Err(line.unexpected(&other)),
        }
    }

    /// Asks for the end of the command: TERM to every process of it, KILL after its grace. Returns once that has begun.
    ///
    /// # Errors
    /// The supervisor is gone or does not know the command. A command that has ended is no error.
    pub async fn stop(&self, id: &str) -> Result<(), SandboxError> {
        self.done("stop a command", &Request::Stop { id: id.to_owned() }).await
    }

    /// What the processes of the command do at this moment.
    ///
    /// # Errors
    /// The supervisor is gone or does not know the command.
    pub async fn look(&self, id: &str) -> Result<Activity, SandboxError> {
        match self.ask("look at a command", &Request::Look { id: id.to_owned() }, &[]).await? {
            Response::Seen(activity) => Ok(activity),
            other => Err(self.line("look at a command").unexpected(&other)),
        }
    }

    /// What files take that were deleted below a directory, which is named as the job sees it, and that are held open.
    ///
    /// # Errors
    /// The supervisor is gone, or is of a release that does not know.
    pub async fn held(&self, below: &Path) -> Result<Held, SandboxError> {
        match self.ask("look for deleted files", &Request::Held { below: below.to_owned() }, &[]).await? {
            Response::Held(held) => Ok(held),
            other => Err(self.line("look for deleted files").unexpected(&other)),
        }
    }

    /// Moves the deadline of the command to `at`, by this host's clock; it ends at once where that has passed. A command that
    /// is being ended already, or has ended, is no error and stays as it is.
    ///
    /// # Errors
    /// The supervisor is gone or does not know the command.
    pub async fn move_deadline(&self, id: &str, at: Timestamp) -> Result<(), SandboxError> {
        self.done("move the deadline of a command", &Request::Deadline { id: id.to_owned(), at }).await
    }

    /// Lets it forget a report, and the will that came with the command.
    ///
    /// # Errors
    /// The supervisor is gone or does not know the command, or the command still runs ([`Refusal::Busy`]).
    pub async fn collect(&self, id: &str) -> Result<(), SandboxError> {
        self.done("collect a report", &Request::Collect { id: id.to_owned() }).await
    }

    /// Leaves it a will for a command that another supervisor runs, which cannot do it: that of a container. It is in force until
    /// [`Supervisor::collect`] of the same id, or until a command starts here.
    ///
    /// # Errors
    /// The supervisor is gone or leaving.
    pub async fn bequeath(&self, id: &str, will: &Will) -> Result<(), SandboxError> {
        self.done("leave a will", &Request::Bequeath { id: id.to_owned(), will: will.clone() }).await
    }

    /// A listener on the loopback device that the job in its container sees, which the daemon is to accept on: always the same one.
    ///
    /// # Errors
    /// The supervisor is gone, or is one of the host's.
    pub(super) async fn listen(&self) -> Result<TcpListener, SandboxError> {
        let line = self.line("listen for the job");
        let asked = async {
            let mut stream = line.send(&Request::Listen, &[]).await?;
            line.answer(&mut stream).await
        };
        match timeout(ANSWER_WITHIN, asked).await.map_err(|_| line.silent())?? {
            (Response::Listening, descriptors) => match descriptors.into_iter().next() {
                Some(listener) => Ok(listener.into()),
                None => Err(line.foreign("its listener did not come along".to_owned())),
            },
            (Response::Refused(refusal), _) => Err(line.refused(refusal)),
            (other, _) => Err(line.unexpected(&other)),
        }
    }

    /// Says that the daemon lives. Every other request says so too.
    ///
    /// # Errors
    /// The supervisor is gone.
    pub async fn keep_alive(&self) -> Result<(), SandboxError> {
        Self::greet(&self.dir, None).await.map(drop)
    }

    /// Where it is leaving, because it was told to or found its daemon gone, waits until it is gone; by then its will is done.
    ///
    /// # Errors
    /// It does not answer, or is not gone after two minutes.
    pub async fn let_leave(&self) -> Result<(), SandboxError> {
        match Self::greet(&self.dir, None).await {
            Ok(Mood::Leaving) => self.clone().shutdown().await,
            Ok(Mood::Serving) | Err(SandboxError::Gone { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Ends it, with its command if one runs, and waits until it is gone. Reports stay on disk.
    ///
    /// # Errors
    /// It is not gone after two minutes.
    pub async fn shutdown(self) -> Result<(), SandboxError> {
        let line = self.line("end it");
        let gone = timeout(LEAVE_WITHIN, async {
            let mut stream = line.send(&Request::Shutdown, &[]).await?;
            match line.answer(&mut stream).await?.0 {
                Response::Done => {}
                other => return Err(line.unexpected(&other)),
            }
            // It closes all connections as its last act.
            stream.read_to_end(&mut Vec::new()).await.map(drop).or(Ok(()))
        });
        match gone.await.map_err(|_| line.silent())? {
            Err(SandboxError::Gone { .. }) => Ok(()),
            result => result,
        }
    }

    async fn done(&self, asked: &'static str, request: &Request) -> Result<(), SandboxError> {
        match self.ask(asked, request, &[]).await? {
            Response::Done => Ok(()),
            other => Err(self.line(asked).unexpected(&other)),
        }
    }

    async fn ask(&self, asked: &'static str, request: &Request, files: &[File]) -> Result<Response, SandboxError> {
        let line = self.line(asked);
        timeout(ANSWER_WITHIN, line.ask(request, files)).await.map_err(|_| line.silent())?
    }

    fn line(&self, asked: &'static str) -> Line<'_> {
        Line { dir: &self.dir, asked }
    }
}

/// Whether a supervisor takes commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Serving,
    Leaving,
}

/// One question to the supervisor of a directory: who asks what, for the errors.
struct Line<'a> {
    dir: &'a Path,
    asked: &'static str,
}

impl Line<'_> {
    async fn ask(&self, request: &Request, files: &[File]) -> Result<Response, SandboxError> {
        let mut stream = self.send(request, files).await?;
        match self.answer(&mut stream).await?.0 {
            Response::Refused(refusal) => Err(self.refused(refusal)),
            response => Ok(response),
        }
    }

    async fn send(&self, request: &Request, files: &[File]) -> Result<UnixStream, SandboxError> {
        let frame = protocol::encode(request).map_err(|error| self.invalid(&error))?;
        let door = Door::open(self.dir)?;
        let mut stream = UnixStream::connect(door.path()).await.map_err(|error| self.broken(error))?;
        self.check_owner(&stream)?;
        let fds: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
        let sent = stream.async_io(Interest::WRITABLE, || send_with(&stream, &frame, &fds)).await;
        let sent = sent.map_err(|error| self.broken(error))?;
        stream.write_all(&frame[sent..]).await.map_err(|error| self.broken(error))?;
        Ok(stream)
    }

    /// The answer, with the descriptors that came along.
    async fn answer(&self, stream: &mut UnixStream) -> Result<(Response, Vec<OwnedFd>), SandboxError> {
        let (mut arrived, mut descriptors) = (Vec::new(), Vec::new());
        loop {
            if let Some(response) = protocol::decode(&mut arrived).map_err(|error| self.foreign(error.to_string()))? {
                return Ok((response, descriptors));
            }
            let mut buffer = [0; 4096];
            let read = || kernel::receive(&*stream, &mut buffer).map_err(io::Error::from);
            let (length, came) = stream.async_io(Interest::READABLE, read).await.map_err(|error| self.broken(error))?;
            if length == 0 {
                return Err(self.gone());
            }
            arrived.extend_from_slice(&buffer[..length]);
            descriptors.extend(came);
        }
    }

    fn check_owner(&self, stream: &impl AsFd) -> Result<(), SandboxError> {
        let peer = getsockopt(stream, sockopt::PeerCredentials).map_err(|error| self.broken(error.into()))?;
        let own = geteuid().as_raw();
        if peer.uid() == own { Ok(()) } else { Err(self.foreign(format!("it belongs to user {} and not to {own}", peer.uid()))) }
    }

    fn alive(&self, response: Response) -> Result<Mood, SandboxError> {
        match response {
            Response::Alive { version: protocol::VERSION, leaving: false } => Ok(Mood::Serving),
            Response::Alive { version: protocol::VERSION, leaving: true } => Ok(Mood::Leaving),
            Response::Alive { version, .. } => {
                Err(self.foreign(format!("it speaks version {version} of the protocol and not {}", protocol::VERSION)))
            }
            other => Err(self.unexpected(&other)),
        }
    }

    fn broken(&self, error: io::Error) -> SandboxError {
        use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotFound, TimedOut, WouldBlock};
        match error.kind() {
            NotFound | ConnectionRefused | ConnectionReset | BrokenPipe => self.gone(),
            TimedOut | WouldBlock => self.silent(),
            _ => SandboxError::Directory { path: self.dir.join(SOCKET), source: error },
        }
    }

    fn gone(&self) -> SandboxError {
        SandboxError::Gone { dir: self.dir.to_owned() }
    }

    fn silent(&self) -> SandboxError {
        SandboxError::Silent { asked: self.asked, dir: self.dir.to_owned() }
    }

    fn refused(&self, refusal: Refusal) -> SandboxError {
        SandboxError::Refused { asked: self.asked, dir: self.dir.to_owned(), refusal }
    }

    fn invalid(&self, error: &protocol::FrameError) -> SandboxError {
        self.refused(Refusal::Invalid { why: error.to_string() })
    }

    fn foreign(&self, why: String) -> SandboxError {
        SandboxError::Foreign { dir: self.dir.to_owned(), why }
    }

    fn unexpected(&self, response: &Response) -> SandboxError {
        self.foreign(format!("it gave an answer to another question: {response:?}"))
    }
}

/// The way to a socket whose path may be longer than the 108 bytes that an address can hold: through the open
/// directory.
struct Door(OwnedFd);

impl Door {
    fn open(dir: &Path) -> Result<Self, SandboxError> {
        match open(dir, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()) {
            Ok(fd) => Ok(Self(fd)),
            Err(nix::errno::Errno::ENOENT) => Err(SandboxError::Gone { dir: dir.to_owned() }),
            Err(error) => Err(SandboxError::Directory { path: dir.to_owned(), source: error.into() }),
        }
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", self.0.as_raw_fd()))
    }
}

fn send_with(stream: &UnixStream, frame: &[u8], fds: &[RawFd]) -> io::Result<usize> {
    let rights = [ControlMessage::ScmRights(fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    Ok(sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(frame)], control, MsgFlags::MSG_NOSIGNAL, None)?)
}

/// Opens a spool file. The standard library opens everything close-on-exec.
fn append(path: &Path) -> Result<File, SandboxError> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.map_err(|source| SandboxError::Open { path: path.to_owned(), source })
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
