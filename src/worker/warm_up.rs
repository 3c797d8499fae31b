//! Has what backends load at each start read from the disk once, so that no job waits for that.
//!
//! The one rule: no job waits for this, and none meets what it leaves. It is done behind all jobs in line for the processors, where jobs
//! that do not say run: in a container that no job gets, or on the host; and what does not work is said, and nothing more. It is done once
//! as the daemon starts, and once for each image that comes to be the image of jobs.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::attempt::Tools;
use crate::clock::human;
use crate::job::spec::ContainerMode;
use crate::sandbox::container::{Containers, Lodging};
use crate::sandbox::{Cause, End};

/// How often it is looked whether the image is another one. Nobody says so, and the engine is asked little by that.
const EVERY: Duration = Duration::from_secs(10);

/// How long the command of one backend may take.
const WITHIN: Duration = Duration::from_secs(120);

/// How much is told of what one said last that failed, in characters.
const TOLD: usize = 200;

/// How much of what it printed that is looked for in, in bytes.
const LAST: u64 = 4096;

/// What is warmed up, and where.
pub(super) struct WarmUp {
    /// Backends by their names, and their commands.
    commands: Vec<(String, Vec<String>)>,
    containers: Containers,
    /// What the commands find in the host's environment: no secrets.
    env: BTreeMap<String, String>,
    /// A directory for what they print, and for what they see as their own.
    dir: PathBuf,
    ended: CancellationToken,
}

/// Where jobs run that do not say.
#[derive(Debug, PartialEq, Eq)]
enum Ground {
    Host,
    /// In containers of the image with this digest.
    Image(String),
}

impl WarmUp {
    /// That of a worker, until it has ended.
    pub(super) fn of(tools: &Tools, ended: CancellationToken) -> Self {
        let let_through = |name: &String| Some((name.clone(), tools.environment.get(name)?.clone()));
        Self {
            commands: tools.backends.all().filter_map(|backend| Some((backend.name().to_owned(), backend.warmup()?))).collect(),
            containers: tools.containers.clone(),
            env: tools.sandbox.env_allow.iter().filter_map(let_through).collect(),
            dir: tools.state.root().join("warm-up"),
            ended,
        }
    }

    /// Warms up whatever was not yet, again and again until the worker ends.
    pub(super) async fn warm_loop(self) {
        let mut warm = Vec::new();
        while !self.commands.is_empty() && !self.ended.is_cancelled() {
            if let Some(Some(ground)) = self.ended.run_until_cancelled(self.ground()).await
                && !warm.contains(&ground)
            {
                self.warm_once(&ground).await;
                warm.push(ground);
            }
            self.ended.run_until_cancelled(tokio::time::sleep(EVERY)).await;
        }
    }

    /// Nothing where there is no place for jobs that do not say.
    async fn ground(&self) -> Option<Ground> {
        let mode = self.containers.mode();
        if mode == ContainerMode::Off {
            return Some(Ground::Host);
        }
        match self.containers.image_digest().await {
            Ok(digest) => Some(Ground::Image(digest)),
            Err(_) => (mode == ContainerMode::Auto).then_some(Ground::Host),
        }
    }

    async fn warm_once(&self, ground: &Ground) {
        let home = self.dir.join("home");
        if let Err(error) = emptied(&home) {
            warn!("no backend is warmed up: cannot make {}: {error}", home.display());
            return;
        }
        match ground {
            Ground::Host => {
                for (name, argv) in &self.commands {
                    let begun = Instant::now();
                    tell(name, "on the host", begun, self.on_host(argv, &home).await);
                }
            }
            Ground::Image(digest) => self.in_image(digest, home).await,
        }
        // The next one empties it first.
        fs::remove_dir_all(&self.dir).ok();
    }

    async fn in_image(&self, digest: &str, home: PathBuf) {
        let (commands, out) = (self.commands.clone(), self.dir.join("out"));
        let place = format!("in image {digest}");
        let warmed = self.containers.aside(home, move |lodging| async move {
            for (name, argv) in &commands {
                let begun = Instant::now();
                tell(name, &place, begun, in_container(&lodging, argv, &out).await);
            }
        });
        if let Some(Err(error)) = self.ended.run_until_cancelled(warmed).await {
            warn!("no backend is warmed up in image {digest}: {error}");
        }
    }

    async fn on_host(&self, argv: &[String], home: &Path) -> Result<(), String> {
        let failed = |error: io::Error| format!("it cannot be started: {error}");
        let out = self.dir.join("out");
        let printed = File::create(&out).map_err(failed)?;
        let mut command = tokio::process::Command::new("nice");
        command.args(["-n", "19"]).args(argv).env_clear().envs(&self.env).env("HOME", home).current_dir(home);
        command.stdin(Stdio::null()).stdout(printed.try_clone().map_err(failed)?).stderr(printed).process_group(0);
        let mut child = command.spawn().map_err(failed)?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        let status = tokio::select! {
            status = child.wait() => Some(status.map_err(failed)?),
            () = tokio::time::sleep(WITHIN) => None,
            () = self.ended.cancelled() => None,
        };
        // Whatever it has left, too; it may have left nothing.
        if let Some(group) = group {
            killpg(group, Signal::SIGKILL).ok();
        }
        match status {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(with_last_words(told(status), &out)),
            None => {
                child.wait().await.map_err(failed)?;
                Err(late())
            }
        }
    }
}

async fn in_container(lodging: &Lodging, argv: &[String], out: &Path) -> Result<(), String> {
    // The supervisor appends to it.
    fs::remove_file(out).ok();
    let report = lodging.run("warm-up", argv, (out, out), WITHIN).await.map_err(|error| error.to_string())?;
    match report.end {
        End::Exited(0) => Ok(()),
        _ if report.cause == Cause::Deadline => Err(late()),
        End::Exited(status) => Err(with_last_words(format!("it exited with status {status}"), out)),
        End::Signalled(signal) => Err(format!("it was ended by signal {signal}")),
        End::NotStarted(why) => Err(format!("it cannot be started: {why}")),
    }
}

fn tell(backend: &str, place: &str, begun: Instant, warmed: Result<(), String>) {
    match warmed {
        Ok(()) => info!("backend {backend} is warmed up {place}: that took {} ms", begun.elapsed().as_millis()),
        Err(why) => warn!("backend {backend} cannot be warmed up {place}: {why}; its first job loads more from the disk"),
    }
}

fn emptied(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::create_dir_all(dir)
}

fn late() -> String {
    format!("it did not end within {}", human::format(WITHIN))
}

fn told(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it exited with status {code}"),
        (None, signal) => format!("it was ended by signal {}", signal.unwrap_or(0)),
    }
}

fn with_last_words(how: String, out: &Path) -> String {
    let printed = end_of(out).unwrap_or_default();
    let printed = String::from_utf8_lossy(&printed).into_owned();
    let last = printed.lines().rev().map(str::trim).find(|line| !line.is_empty());
    last.map_or_else(|| how.clone(), |line| format!("{how}: {}", line.chars().take(TOLD).collect::<String>()))
}

fn end_of(path: &Path) -> io::Result<Vec<u8>> {
    let (mut file, mut end) = (File::open(path)?, Vec::new());
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LAST)))?;
    file.take(LAST).read_to_end(&mut end)?;
    Ok(end)
}
