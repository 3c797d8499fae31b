//! The daemon's connections: who may connect, frames in, frames out.
//!
//! A peer that is another user's, breaks the format or goes away loses its connection; nobody else notices.

use std::io::{ErrorKind, IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{ControlMessage, MsgFlags, getsockopt, sendmsg, sockopt};
use nix::unistd::geteuid;

use super::super::kernel;
use super::super::note::note;
use super::super::protocol::{self, Request, Response};

/// More than a daemon, its heartbeat and some curious commands need at once.
const CONNECTIONS_MAX: usize = 64;

/// Output, error output, input.
const DESCRIPTORS_MAX: usize = 3;

/// One connection.
pub(super) struct Connection {
    stream: UnixStream,
    arrived: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    leaving: Vec<u8>,
    /// The command whose end it waits for; nothing else is read from it until then.
    pub(super) waits_for: Option<String>,
    open: bool,
}

/// A request, and what came with it.
pub(super) struct Asked {
    pub(super) request: Request,
    pub(super) descriptors: Vec<OwnedFd>,
}

/// Takes the connections that have come, of our own user only, and says whether there was one. The oldest that waits
/// for nothing makes room.
pub(super) fn accept(listener: &UnixListener, connections: &mut Vec<Connection>) -> bool {
    let mut some = false;
    while let Ok((stream, _)) = listener.accept() {
        let ours = getsockopt(&stream, sockopt::PeerCredentials).is_ok_and(|peer| peer.uid() == geteuid().as_raw());
        if !ours || stream.set_nonblocking(true).is_err() {
            continue;
        }
        if connections.len() >= CONNECTIONS_MAX {
            let idle = connections.iter().position(|connection| connection.waits_for.is_none());
            connections.remove(idle.unwrap_or(0));
        }
        connections.push(Connection::new(stream));
        some = true;
    }
    some
}

impl Connection {
    fn new(stream: UnixStream) -> Self {
        Self { stream, arrived: Vec::new(), descriptors: Vec::new(), leaving: Vec::new(), waits_for: None, open: true }
    }

    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// What to poll for. A peer that hangs up is always reported.
    pub(super) fn interest(&self) -> PollFlags {
        if !self.leaving.is_empty() {
            PollFlags::POLLOUT
        } else if self.waits_for.is_some() {
            PollFlags::empty()
        } else {
            PollFlags::POLLIN
        }
    }

    /// Does what the poll says is possible, and returns the request that is complete now.
    pub(super) fn turn(&mut self, events: PollFlags) -> Option<Asked> {
        if events.contains(PollFlags::POLLOUT) {
            self.flush();
        }
        let gone = PollFlags::POLLERR | PollFlags::POLLNVAL;
        let gone = if self.waits_for.is_some() { gone | PollFlags::POLLHUP } else { gone };
        if events.intersects(gone) {
            self.open = false;
        } else if self.waits_for.is_none() && events.intersects(PollFlags::POLLIN | PollFlags::POLLHUP) {
            self.read();
        }
        self.take()
    }

    /// The next request that has arrived whole, when the last one is answered.
    pub(super) fn take(&mut self) -> Option<Asked> {
        if !self.open || self.waits_for.is_some() || !self.leaving.is_empty() {
            return None;
        }
        match protocol::decode(&mut self.arrived) {
            Ok(Some(request)) => Some(Asked { request, descriptors: std::mem::take(&mut self.descriptors) }),
            Ok(None) => None,
            Err(error) => {
                note(format_args!("a connection is closed: {error}"));
                self.open = false;
                None
            }
        }
    }

    pub(super) fn answer(&mut self, response: &Response) {
        self.waits_for = None;
        match protocol::encode(response) {
            Ok(frame) => {
                self.leaving.extend(frame);
                self.flush();
            }
            Err(error) => {
                note(format_args!("a connection is closed: {error}"));
                self.open = false;
            }
        }
    }

    /// Answers with a descriptor, which goes with the first byte.
    pub(super) fn answer_with(&mut self, response: &Response, descriptor: impl AsFd) {
        let sent = protocol::encode(response).map_err(|error| error.to_string()).and_then(|frame| {
            let rights = [descriptor.as_fd().as_raw_fd()];
            let rights = [ControlMessage::ScmRights(&rights)];
            let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
            let sent = sendmsg::<()>(self.stream.as_raw_fd(), &[IoSlice::new(&frame)], &rights, flags, None);
            sent.map(|sent| self.leaving.extend(&frame[sent..])).map_err(|error| error.to_string())
        });
        match sent {
            Ok(()) => self.flush(),
            Err(error) => {
                note(format_args!("a connection is closed: {error}"));
                self.open = false;
            }
        }
    }

    fn read(&mut self) {
        let mut buffer = [0; 16 * 1024];
        match kernel::receive(&self.stream, &mut buffer) {
            Ok((0, _)) => self.open = false,
            Ok((length, descriptors)) => {
                self.arrived.extend_from_slice(&buffer[..length]);
                self.descriptors.extend(descriptors);
                self.open &= self.descriptors.len() <= DESCRIPTORS_MAX;
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => self.open = false,
        }
    }

    fn flush(&mut self) {
        while !self.leaving.is_empty() {
            match self.stream.write(&self.leaving) {
                Ok(length) => drop(self.leaving.drain(..length)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.open = false;
                    return;
                }
            }
        }
    }
}
