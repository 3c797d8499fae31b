//! A PostgreSQL server under the test's control: it is stopped in any way, and started again on the same data.
//!
//! Unlike the server of the whole suite it keeps `fsync` on: a crash must lose nothing that was committed.

use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::unistd::{User, geteuid};
use tempfile::TempDir;

/// How a server is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Sessions are ended, then it shuts down in good order.
    Fast,
    /// Its processes are killed; the next start recovers from the log.
    Immediate,
}

impl Stop {
    const fn word(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Immediate => "immediate",
        }
    }
}

/// A server with a data directory of its own. It is ended when this goes.
pub(crate) struct Server {
    dir: TempDir,
    /// What its programs are started with: a network namespace, say.
    prefix: Vec<String>,
    options: String,
}

impl Server {
    /// Makes a new server that listens on `listen` and on a socket in its directory, and starts it.
    pub(crate) fn new(listen: &str, port: u16, prefix: &[String]) -> Self {
        Self::with_options(listen, port, prefix, "")
    }

    /// The same, with options of its own.
    pub(crate) fn with_options(listen: &str, port: u16, prefix: &[String], options: &str) -> Self {
        let dir = TempDir::with_prefix("sawmill-postgres-").expect("a temporary directory");
        if geteuid().is_root() {
            let user = User::from_name("postgres").expect("users can be looked up");
            let user = user.expect("there is no user postgres; install PostgreSQL's package, or run tests/prepare.sh");
            chown(dir.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("the directory is given away");
        }
        let options = format!(
            "-p {port} -k {} -c listen_addresses={listen} -c max_connections=400 -c fsync=on -c synchronous_commit=on {options}",
            dir.path().display()
        );
        let server = Self { dir, prefix: prefix.to_vec(), options };
        let trust = format!("host all all {listen}/8 trust\n");
        server.run("initdb", &["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync"]);
        let rules = server.data().join("pg_hba.conf");
        let before = std::fs::read_to_string(&rules).expect("rules of access");
        std::fs::write(&rules, before + trust.as_str()).expect("rules of access");
        server.start();
        server
    }

    /// The address at which this process finds it, wherever its network is.
    pub(crate) fn socket_url(&self, port: u16) -> String {
        format!("postgres://postgres@localhost:{port}/postgres?host={}", self.dir.path().display())
    }

    pub(crate) fn stop(&self, how: Stop) {
        self.run("pg_ctl", &["-m", how.word(), "-w", "-t", "60", "stop"]);
    }

    /// Starts it, and waits until it answers.
    pub(crate) fn start(&self) {
        self.start_with("");
    }

    fn start_with(&self, options: &str) {
        let log = self.dir.path().join("log");
        let log = log.to_str().expect("UTF-8");
        self.run("pg_ctl", &["-l", log, "-w", "-t", "60", "-o", &format!("{} {options}", self.options), "start"]);
    }

    /// Starts it so that it recovers without end: it answers, and lets nobody in.
    pub(crate) fn start_recovering(&self) {
        let signal = self.standby();
        std::fs::write(&signal, "").expect("a file in the server's directory");
        let owner = std::fs::metadata(self.data()).expect("the server's directory");
        chown(&signal, Some(owner.uid()), Some(owner.gid())).expect("the file is given away");
        self.start_with("-c hot_standby=off");
    }

    /// Has it done with recovering.
    pub(crate) fn end_recovery(&self) {
        self.stop(Stop::Immediate);
        std::fs::remove_file(self.standby()).expect("removed");
        self.start();
    }

    fn standby(&self) -> PathBuf {
        self.data().join("standby.signal")
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn run(&self, program: &str, args: &[&str]) {
        let status = self.command(program, args).status().expect("a program of PostgreSQL's runs");
        assert!(status.success(), "{program} {args:?}: {status}\n{}", self.log());
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut line = self.prefix.clone();
        if geteuid().is_root() {
            // It refuses to run as root.
            line.extend(["runuser", "-u", "postgres", "--"].map(str::to_owned));
        }
        line.push(programs().join(program).to_str().expect("UTF-8").to_owned());
        let mut command = Command::new(&line[0]);
        command.args(&line[1..]).arg("-D").arg(self.data()).args(args).current_dir(self.dir.path());
        // The server inherits them, and would hold a pipe open for ever.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// What the server has said, for a failed test.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be down.
        self.command("pg_ctl", &["-m", "immediate", "-w", "stop"]).status().ok();
    }
}

/// Where PostgreSQL's programs are: the newest of Debian's, or those on the path.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    let mut found: Vec<PathBuf> = versions.filter(|bin| bin.join("initdb").is_file()).collect();
    found.sort_by_key(|bin| bin.parent().and_then(Path::file_name).and_then(|name| name.to_str()?.parse::<u32>().ok()));
    let on_path = std::env::var_os("PATH").into_iter().flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    found.pop().or_else(|| on_path.into_iter().find(|dir| dir.join("initdb").is_file())).expect(
        "PostgreSQL's programs are not installed: run the tests with `make test`, which installs them or says what is missing",
    )
}

/// A port that was free a moment ago, and that the kernel gives nobody of itself: who listens there may be away for a while.
pub(crate) fn free_port() -> u16 {
    let mut ports = std::iter::repeat_with(|| rand::random_range(15_000..32_000));
    ports.find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("it is endless")
}

/// Stops the server, leaves it down for a while, and starts it again.
pub(crate) fn restart(server: &Server, how: Stop, down: Duration) {
    server.stop(how);
    std::thread::sleep(down);
    server.start();
}
