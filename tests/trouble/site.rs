//! A directory with a configuration, a database, a remote and a worker of its own, and the binary run in it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use regex::Regex;
use tempfile::TempDir;

use crate::git::fixture;

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The `PATH` of the binary, so that messages that name it are the same on every host.
pub(crate) const SEARCH_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

pub(crate) struct Site {
    root: TempDir,
    env: BTreeMap<String, String>,
}

/// What a command left.
pub(crate) struct Ended {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Site {
    /// A site whose remote, `app.git`, has one commit on `main`.
    pub(crate) fn new() -> Self {
        let root = TempDir::with_prefix("sawmill-trouble-").expect("a scratch directory");
        let home = root.path().display().to_string();
        let env = [("HOME", home.as_str()), ("PATH", SEARCH_PATH), ("LC_ALL", "C.UTF-8"), ("RUST_BACKTRACE", "1")];
        let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let site = Self { root, env };
        let configuration = format!(
            "[queue]\nurl = \"sqlite:{home}/queue.db\"\npoll = \"100ms\"\n\
             [queue.retry]\nresets = 1\nbackoff = \"10ms\"\n\
             [worker]\nstate_dir = \"{home}/worker\"\nname = \"w\"\nslots = 2\n\
             [server]\nlisten = \"127.0.0.1:0\"\n\
             [sandbox]\ngrace = \"1s\"\n[container]\nmode = \"off\"\n\
             [projects.app]\nrepo = \"{home}/app.git\"\n"
        );
        fs::write(site.path("workers.toml"), configuration).expect("a configuration");
        site.remote("app.git", |seed| fixture::write(seed, "README.md", "# An application\n"));
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The same site with a variable more in the environment.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// A bare repository with what `fill` writes as its first commit on `main`.
    pub(crate) fn remote(&self, name: &str, fill: impl FnOnce(&Path)) {
        self.empty_remote(name);
        let seed = self.path(&format!("{name}.seed"));
        fs::create_dir(&seed).expect("a directory");
        fixture::run(&seed, ["init", "--quiet", "--initial-branch=main"]);
        fill(&seed);
        fixture::run(&seed, ["add", "-A"]);
        fixture::run(&seed, ["commit", "--quiet", "-m", "First version"]);
        fixture::run(&seed, ["push", "--quiet", self.path(name).to_str().expect("UTF-8"), "HEAD:refs/heads/main"]);
    }

    pub(crate) fn empty_remote(&self, name: &str) {
        fixture::run(self.root.path(), ["init", "--quiet", "--bare", "--initial-branch=main", name]);
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sawmill"));
        command.args(args).current_dir(self.root.path()).env_clear().envs(&self.env);
        command
    }

    /// Runs the binary to its end.
    pub(crate) fn run(&self, args: &[&str], input: &str) -> Ended {
        let mut command = self.command(args);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let id = pid(&child);
        let mut stdin = child.stdin.take().expect("a pipe");
        // A command that does not read its input may be gone before it is written.
        drop(stdin.write_all(input.as_bytes()));
        drop(stdin);
        let (done, ended) = mpsc::channel();
        std::thread::spawn(move || done.send(child.wait_with_output()));
        let Ok(output) = ended.recv_timeout(PATIENCE) else {
            kill(id, Signal::SIGKILL).expect("it still runs");
            panic!("{args:?} did not end");
        };
        let output = output.expect("it ended");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Ended { status: output.status.code(), stdout: output.stdout, stderr }
    }

    /// What the binary says, with its exit status, in a form that is the same on every run.
    pub(crate) fn says(&self, args: &[&str]) -> String {
        self.says_to(args, "")
    }

    pub(crate) fn says_to(&self, args: &[&str], input: &str) -> String {
        let Ended { status, stdout, stderr } = self.run(args, input);
        let status = status.map_or_else(|| "signal".to_owned(), |status| status.to_string());
        self.normal(&format!("exit {status}\n{}{stderr}", String::from_utf8_lossy(&stdout)))
    }

    /// Enqueues a job, and gives its id.
    pub(crate) fn enqueue(&self, args: &[&str]) -> String {
        let line: Vec<&str> = std::iter::once("enqueue").chain(args.iter().copied()).collect();
        let Ended { status, stdout, stderr } = self.run(&line, "");
        assert_eq!(status, Some(0), "{stderr}");
        String::from_utf8_lossy(&stdout).trim().to_owned()
    }

    /// What becomes of a job, as `job wait` says it, with its exit status. A worker must run.
    pub(crate) fn fate_of(&self, id: &str) -> String {
        let Ended { status, stdout, stderr } = self.run(&["job", "wait", id, "--timeout", "50s"], "");
        assert!(!stdout.is_empty(), "{stderr}");
        self.normal(&format!("exit {}\n{}", status.expect("a status"), String::from_utf8_lossy(&stdout)))
    }

    pub(crate) fn fate(&self, args: &[&str]) -> String {
        self.fate_of(&self.enqueue(args))
    }

    /// The log of a job, byte by byte.
    pub(crate) fn log(&self, args: &[&str]) -> Vec<u8> {
        let line: Vec<&str> = std::iter::once("logs").chain(args.iter().copied()).collect();
        let Ended { status, stdout, stderr } = self.run(&line, "");
        assert_eq!(status, Some(0), "{stderr}");
        stdout
    }

    /// Starts a worker, and waits until it claims.
    pub(crate) fn worker(&self) -> Daemon {
        self.daemon("worker", "runs with")
    }

    /// Starts a daemon, and waits until its log has `sign`.
    pub(crate) fn daemon(&self, command: &str, sign: &str) -> Daemon {
        let path = self.path(&format!("{command}.log"));
        let log = File::create(&path).expect("a log");
        let child = self.command(&[command]).stdin(Stdio::null()).stderr(log).spawn().expect("the binary starts");
        let mut daemon = Daemon { child, log: path };
        daemon.await_sign(sign);
        daemon
    }

    fn normal(&self, text: &str) -> String {
        let text = text.replace(&*self.root.path().to_string_lossy(), "[site]");
        let replace = |text: String, pattern: &str, with: &str| {
            Regex::new(pattern).expect("a pattern").replace_all(&text, with).into_owned()
        };
        let text = replace(text, "[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", "[job]");
        let text = replace(text, r"\b[0-9a-f]{40}\b", "[commit]");
        let text = replace(text, r"\bdelivered [0-9a-f]{10}\b", "delivered [commit]");
        let text = replace(text, r"127\.0\.0\.1:\d+", "127.0.0.1:[port]");
        replace(text, r"(?m)^\d{4}-\d\d-\d\dT[0-9:.]+Z", "[time]")
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a process id"))
}

/// Looks at something until it is as it must be.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A daemon of the site's, which is told to end, and must end in good order, when this goes.
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.log).expect("its log")
    }

    fn await_sign(&mut self, sign: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.said().contains(sign) {
            let ended = self.child.try_wait().expect("its state");
            assert!(ended.is_none() && Instant::now() < until, "the daemon does not run: {ended:?}\n{}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let ended = |child: &mut Child, patience: Duration| {
            let until = Instant::now() + patience;
            while Instant::now() < until {
                if let Ok(Some(status)) = child.try_wait() {
                    return Some(status);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            None
        };
        for _ in 0..2 {
            // An error means that it has ended already.
            let _asked = kill(pid(&self.child), Signal::SIGTERM);
            if let Some(status) = ended(&mut self.child, Duration::from_secs(10)) {
                assert!(status.success() || std::thread::panicking(), "the daemon ended badly: {}", self.said());
                return;
            }
        }
        drop(self.child.kill());
        drop(self.child.wait());
        assert!(std::thread::panicking(), "the daemon does not end: {}", self.said());
    }
}
