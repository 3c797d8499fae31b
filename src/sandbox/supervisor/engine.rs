//! The supervisor's life: wait for something to happen, do what follows, until there is nothing left to stay for.
//!
//! A turn reads what the daemon said before it looks at the clock, so that a daemon that spoke in time is heard even by
//! a supervisor that was itself held up.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use super::super::command::Cause;
use super::super::kernel;
use super::super::note::note;
use super::super::protocol::{Refusal, Request, Response, SOCKET, VERSION};
use super::connections::{self, Asked, Connection};
use super::desk::Desk;
use super::detach::Post;
use super::held;

/// A supervisor at work.
pub(super) struct Engine {
    post: Post,
    connections: Vec<Connection>,
    desk: Desk,
    /// Where the job's connections come in that the daemon takes, once it has asked for that. It is kept, so that they wait for the
    /// next daemon when this one goes.
    outlet: Option<TcpListener>,
    heard: Instant,
    stay: Stay,
}

/// Whether it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stay {
    Serving,
    /// It was told to end.
    Dismissed,
    /// Its daemon stayed away: the job is ended, then the will is done.
    Orphaned,
    /// The will is being done, or there was none.
    WillDone,
}

impl Engine {
    pub(super) fn open(post: Post) -> io::Result<Self> {
        let desk = Desk::open(Path::new("."), post.user)?;
        Ok(Self { post, connections: Vec::new(), desk, outlet: None, heard: Instant::now(), stay: Stay::Serving })
    }

    /// Works until it is dismissed or orphaned and no process of any command is left.
    pub(super) fn run(mut self) -> io::Result<()> {
        // A host has a supervisor for each slot, and most of the time most of them wait.
        kernel::give_back_code();
        loop {
            self.turn()?;
            if self.stay != Stay::Serving && !self.desk.is_busy() {
                if self.stay == Stay::Orphaned {
                    self.stay = Stay::WillDone;
                    if self.desk.do_will() {
                        continue;
                    }
                }
                break;
            }
        }
        // The lock goes last: who takes it finds no socket.
        std::fs::remove_file(SOCKET)?;
        self.post.lock.unlock().map_err(|(_, error)| error.into()).map(drop)
    }

    fn turn(&mut self) -> io::Result<()> {
        let ready = self.wait()?;
        if ready.signals {
            self.take_signals()?;
        }
        for (index, events) in ready.connections {
            let mut asked = self.connections[index].turn(events);
            while let Some(question) = asked {
                self.hear(index, question);
                asked = self.connections[index].take();
            }
        }
        self.connections.retain(Connection::is_open);
        // Who connects is alive, even when what it says is read only in the next turn.
        if ready.listener && connections::accept(&self.post.listener, &mut self.connections) {
            self.heard = Instant::now();
        }
        self.look_after_children();
        self.look_at_the_clock();
        Ok(())
    }

    /// Sleeps until somebody speaks, a child ends, or the next timer is due; for ever when there is none.
    fn wait(&self) -> io::Result<Ready> {
        let mut fds = vec![
            PollFd::new(self.post.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.post.listener.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(self.connections.iter().map(|connection| PollFd::new(connection.fd(), connection.interest())));
        match poll(&mut fds, self.timeout()) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let events = |fd: &PollFd<'_>| fd.revents().unwrap_or(PollFlags::empty());
        let happened = fds[2..].iter().map(events).enumerate().filter(|(_, events)| !events.is_empty());
        Ok(Ready { signals: !events(&fds[0]).is_empty(), listener: !events(&fds[1]).is_empty(), connections: happened.collect() })
    }

    fn timeout(&self) -> PollTimeout {
        let orphaned = (self.stay == Stay::Serving).then(|| self.heard + self.post.orphan_after);
        let Some(next) = self.desk.next().into_iter().chain(orphaned).min() else { return PollTimeout::NONE };
        // Rounded up, so that it does not wake a fraction of a millisecond early and find nothing to do.
        let left = next.saturating_duration_since(Instant::now()).as_micros().div_ceil(1000);
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    }

    fn take_signals(&mut self) -> io::Result<()> {
        while let Some(signal) = self.post.signals.read_signal()? {
            let signal = Signal::try_from(signal.ssi_signo.cast_signed());
            if matches!(signal, Ok(Signal::SIGTERM | Signal::SIGINT)) {
                self.dismiss();
            }
        }
        Ok(())
    }

    fn hear(&mut self, index: usize, Asked { request, descriptors }: Asked) {
        self.heard = Instant::now();
        let response = match request {
            Request::KeepAlive { orphan_after_ms } => {
                if let Some(ms) = orphan_after_ms {
                    self.post.orphan_after = Duration::from_millis(ms);
                }
                let leaving = self.stay != Stay::Serving;
                Ok(Response::Alive { version: VERSION, leaving })
            }
            Request::Start(order) => match self.stay {
                Stay::Serving => self.desk.start(*order, descriptors).map(Response::Started),
                _ => Err(Refusal::Leaving),
            },
            Request::Look { id } => self.desk.look(&id).map(Response::Seen),
            Request::Held { below } => Ok(Response::Held(held::below(&below))),
            Request::Status => Ok(Response::Status(self.desk.status())),
            Request::Wait { id } => match self.desk.report(&id) {
                Ok(Some(report)) => Ok(Response::Report(report)),
                Ok(None) => {
                    self.connections[index].waits_for = Some(id);
                    return;
                }
                Err(refusal) => Err(refusal),
            },
            Request::Stop { id } => self.desk.stop(&id).map(|()| Response::Done),
            Request::Deadline { id, at } => self.desk.move_deadline(&id, at).map(|()| Response::Done),
            Request::Collect { id } => self.desk.collect(&id).map(|()| Response::Done),
            Request::Bequeath { id, will } => match self.stay {
                Stay::Serving => self.desk.bequeath(id, will).map(|()| Response::Done),
                _ => Err(Refusal::Leaving),
            },
            Request::Listen => match self.outlet() {
                Ok(listener) => return self.connections[index].answer_with(&Response::Listening, &listener),
                Err(refusal) => Err(refusal),
            },
            Request::Shutdown => {
                self.dismiss();
                Ok(Response::Done)
            }
        };
        self.connections[index].answer(&response.unwrap_or_else(Response::Refused));
    }

    /// The listener for the job's connections, made when it is first asked for.
    fn outlet(&mut self) -> Result<OwnedFd, Refusal> {
        let invalid = |why: String| Refusal::Invalid { why };
        if self.post.user.is_none() {
            return Err(invalid("the loopback device here is the host's, and not the job's own".to_owned()));
        }
        let kept = match self.outlet.take() {
            Some(listener) => Ok(listener),
            None => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)),
        };
        let given = kept.and_then(|listener| self.outlet.insert(listener).try_clone());
        given.map(OwnedFd::from).map_err(|error| invalid(format!("it cannot listen for the job: {error}")))
    }

    fn dismiss(&mut self) {
        if self.stay == Stay::Serving {
            self.stay = Stay::Dismissed;
        }
        self.desk.stop_any(Cause::Stopped);
    }

    /// Takes in those that have ended. A report is told only after the kernel has said that no child is left.
    fn look_after_children(&mut self) {
        // Bounded, so that a job that forks without end cannot keep the supervisor from its timers.
        const AT_A_TIME: usize = 4096;
        if !self.desk.is_busy() {
            return;
        }
        for _ in 0..AT_A_TIME {
            match kernel::reap() {
                Ok(Some(reaped)) => self.desk.reaped(&reaped),
                Ok(None) | Err(Errno::EINTR) => return,
                Err(_) => {
                    self.desk.finish();
                    self.tell();
                    return kernel::give_back_code();
                }
            }
        }
    }

    /// Answers those that waited for what is known now.
    fn tell(&mut self) {
        for connection in &mut self.connections {
            let Some(id) = &connection.waits_for else { continue };
            match self.desk.report(id) {
                Ok(Some(report)) => connection.answer(&Response::Report(report)),
                Ok(None) => {}
                Err(refusal) => connection.answer(&Response::Refused(refusal)),
            }
        }
        self.connections.retain(Connection::is_open);
    }

    fn look_at_the_clock(&mut self) {
        let now = Instant::now();
        if self.stay == Stay::Serving && now.saturating_duration_since(self.heard) >= self.post.orphan_after {
            note(format_args!("no daemon for {:?}: ending", self.post.orphan_after));
            self.stay = Stay::Orphaned;
            self.desk.stop_any(Cause::Orphaned);
        }
        self.desk.advance(now);
    }
}

/// What the poll found.
struct Ready {
    signals: bool,
    listener: bool,
    connections: Vec<(usize, PollFlags)>,
}
