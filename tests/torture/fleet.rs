//! The workers, and what is done to them. A worker that is down comes back when its time has come, on the same state
//! directory; one that ends by itself is started again, as an init system would.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::task::JoinHandle;

use super::proxy::{Link, Proxy};
use super::schedule::Event;
use super::server::{Server, restart};
use crate::delivery::daemon::{Daemon, Seat};
use crate::delivery::host::{Host, until_within};

/// After how long a worker is started again that ended by itself.
const INIT_WAITS: Duration = Duration::from_millis(300);

/// One worker.
struct Worker {
    seat: Seat,
    link: Option<Proxy>,
    state: State,
    /// When its link is open again.
    heals: Option<Instant>,
}

enum State {
    Up(Daemon),
    /// Signals have stopped these processes.
    Still {
        daemon: Daemon,
        processes: Vec<Pid>,
        until: Instant,
    },
    /// It was asked to stop, and is to be started again so long after it has.
    Leaving {
        daemon: Daemon,
        /// When it is asked a second time, unless it was.
        insist: Option<Instant>,
        back: Duration,
    },
    Down {
        until: Instant,
    },
}

/// All workers, and the server that they use.
pub(super) struct Fleet<'a> {
    host: &'a Host,
    server: Option<Arc<Server>>,
    restarting: Option<JoinHandle<()>>,
    workers: Vec<Worker>,
    counts: BTreeMap<&'static str, u32>,
    /// What daemons said that ended by themselves.
    ends: Vec<String>,
}

impl<'a> Fleet<'a> {
    /// `count` workers, each with a link of its own to the server, or on the host's file. None is started yet.
    pub(super) async fn new(host: &'a Host, server: Option<(Arc<Server>, SocketAddr)>, count: usize) -> Self {
        let mut workers = Vec::new();
        for number in 0..count {
            // The machine's other tests go first.
            let prefix = ["nice", "-n", "10"].map(str::to_owned).to_vec();
            let mut seat = Seat { worker: format!("w{number}"), url: None, prefix };
            let mut link = None;
            if let Some((_, address)) = &server {
                let proxy = Proxy::to(*address).await;
                seat.url = Some(format!("postgres://postgres@{}/postgres", proxy.address()));
                link = Some(proxy);
            }
            let state = State::Down { until: Instant::now() };
            workers.push(Worker { seat, link, state, heals: None });
        }
        let server = server.map(|(server, _)| server);
        Self { host, server, restarting: None, workers, counts: BTreeMap::new(), ends: Vec::new() }
    }

    /// What was done, by name.
    pub(super) fn counts(&self) -> &BTreeMap<&'static str, u32> {
        &self.counts
    }

    /// What daemons said that ended by themselves.
    pub(super) fn ends(&self) -> &[String] {
        &self.ends
    }

    /// Does what an event says, where that can be done now.
    pub(super) fn carry_out(&mut self, event: Event) {
        let done = match event {
            Event::Kill { worker, back } => self.kill(worker, back).then_some("killed"),
            Event::Crash { worker, back } => self.crash(worker, back).then_some("host crashed"),
            Event::Terminate { worker, back } => self.terminate(worker, back).then_some("terminated"),
            Event::Suspend { worker, span } => self.still(worker, span, Scope::Daemon).then_some("suspended"),
            Event::Freeze { worker, span } => self.still(worker, span, Scope::Host).then_some("host frozen"),
            Event::Cut { worker, span } => self.link(worker, Link::Cut, span).then_some("connections cut"),
            Event::Silence { worker, span } => self.link(worker, Link::Silent, span).then_some("connections silenced"),
            Event::Slow { worker, delay, span } => self.link(worker, Link::Slow(delay), span).then_some("connections slowed"),
            Event::Restart { how, down } => self.restart(how, down).then_some("database restarted"),
        };
        *self.counts.entry(done.unwrap_or("could not be done")).or_default() += 1;
    }

    /// Brings back what is due: workers, links.
    pub(super) fn bring_back_once(&mut self) {
        let now = Instant::now();
        for at in 0..self.workers.len() {
            let worker = &mut self.workers[at];
            if worker.heals.is_some_and(|heals| heals <= now) {
                worker.heals = None;
                set(worker, Link::Open);
            }
            match std::mem::replace(&mut worker.state, State::Down { until: now }) {
                State::Up(mut daemon) => {
                    if let Some(status) = daemon.ended() {
                        let log = daemon.log();
                        self.ends.push(format!("{} {status}: {}", worker.seat.worker, log.lines().last().unwrap_or_default()));
                        worker.state = State::Down { until: now + INIT_WAITS };
                    } else {
                        worker.state = State::Up(daemon);
                    }
                }
                State::Still { daemon, processes, until } if until <= now => {
                    wake(&daemon, &processes);
                    worker.state = State::Up(daemon);
                }
                State::Leaving { mut daemon, mut insist, back } => {
                    if insist.take_if(|at| *at <= now).is_some() {
                        daemon.signal(Signal::SIGTERM);
                    }
                    let left = daemon.ended().is_some();
                    worker.state = if left { State::Down { until: now + back } } else { State::Leaving { daemon, insist, back } };
                }
                State::Down { until } if until <= now => {
                    worker.state = State::Up(self.host.spawn_at(&worker.seat, &["worker"]));
                }
                other => worker.state = other,
            }
        }
    }

    /// Ends the torture: everything is open, awake and up when this returns.
    pub(super) async fn heal(&mut self) {
        if let Some(restarting) = self.restarting.take() {
            restarting.await.expect("the database is restarted");
        }
        let now = Instant::now();
        for worker in &mut self.workers {
            worker.heals = Some(now);
            match &mut worker.state {
                State::Still { until, .. } | State::Down { until } => *until = now,
                State::Up(_) | State::Leaving { .. } => {}
            }
        }
        until_within(Duration::from_secs(120), "all workers are up again", async || {
            self.bring_back_once();
            self.workers.iter().all(|worker| matches!(&worker.state, State::Up(daemon) if daemon.log().contains("runs with")))
        })
        .await;
    }

    /// The daemons, to be ended in good order.
    pub(super) fn into_daemons(self) -> Vec<Daemon> {
        let up = self.workers.into_iter().filter_map(|worker| match worker.state {
            State::Up(daemon) => Some(daemon),
            State::Still { .. } | State::Leaving { .. } | State::Down { .. } => None,
        });
        up.collect()
    }

    /// Takes the daemon of a worker that is up.
    fn take(&mut self, worker: usize) -> Option<Daemon> {
        let state = &mut self.workers[worker].state;
        match std::mem::replace(state, State::Down { until: Instant::now() }) {
            State::Up(daemon) => Some(daemon),
            other => {
                *state = other;
                None
            }
        }
    }

    fn kill(&mut self, worker: usize, back: Duration) -> bool {
        let Some(daemon) = self.take(worker) else { return false };
        daemon.kill();
        self.workers[worker].state = State::Down { until: Instant::now() + back };
        true
    }

    fn crash(&mut self, worker: usize, back: Duration) -> bool {
        let Some(daemon) = self.take(worker) else { return false };
        daemon.kill();
        // All at once, as a host goes: none is left to say how another ended. So they are stopped before any is killed; and some may
        // be starting others.
        let (host, name) = (self.host, self.workers[worker].seat.worker.clone());
        let each = |signal| {
            let processes = host.processes_of(&name);
            for pid in &processes {
                // It may have ended.
                kill(*pid, signal).ok();
            }
            processes
        };
        let (mut stopped, mut ever) = (Vec::new(), BTreeSet::new());
        loop {
            let processes = each(Signal::SIGSTOP);
            if processes == stopped {
                break;
            }
            ever.extend(processes.iter().copied());
            stopped = processes;
        }
        while !each(Signal::SIGKILL).is_empty() {}
        // What went over to a remote before it stopped is on another host, which goes on.
        for pid in ever {
            kill(pid, Signal::SIGCONT).ok();
        }
        self.workers[worker].state = State::Down { until: Instant::now() + back };
        true
    }

    fn terminate(&mut self, worker: usize, back: Duration) -> bool {
        let Some(daemon) = self.take(worker) else { return false };
        daemon.signal(Signal::SIGTERM);
        self.workers[worker].state = State::Leaving { daemon, insist: Some(Instant::now() + back), back };
        true
    }

    fn still(&mut self, worker: usize, span: Duration, scope: Scope) -> bool {
        let Some(daemon) = self.take(worker) else { return false };
        daemon.signal(Signal::SIGSTOP);
        let name = &self.workers[worker].seat.worker;
        let processes = if scope == Scope::Host { self.host.processes_of(name) } else { Vec::new() };
        for pid in &processes {
            // It may have ended.
            kill(*pid, Signal::SIGSTOP).ok();
        }
        self.workers[worker].state = State::Still { daemon, processes, until: Instant::now() + span };
        true
    }

    fn link(&mut self, worker: usize, link: Link, span: Duration) -> bool {
        let worker = &mut self.workers[worker];
        if worker.link.is_none() || worker.heals.is_some() {
            return false;
        }
        set(worker, link);
        worker.heals = Some(Instant::now() + span);
        true
    }

    fn restart(&mut self, how: super::server::Stop, down: Duration) -> bool {
        let Some(server) = &self.server else { return false };
        if self.restarting.as_ref().is_some_and(|restarting| !restarting.is_finished()) {
            return false;
        }
        let server = server.clone();
        self.restarting = Some(tokio::task::spawn_blocking(move || restart(&server, how, down)));
        true
    }
}

/// How much is stopped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Daemon,
    Host,
}

fn set(worker: &Worker, link: Link) {
    if let Some(proxy) = &worker.link {
        proxy.set(link);
    }
}

/// The daemon comes last: what it finds is awake.
fn wake(daemon: &Daemon, processes: &[Pid]) {
    for pid in processes {
        // It may have been killed.
        kill(*pid, Signal::SIGCONT).ok();
    }
    daemon.signal(Signal::SIGCONT);
}
