//! A `sawmill up` for a benchmark.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A daemon with its API and a database of its own. It ends when this goes.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) address: String,
}

impl Server {
    /// Starts one in a directory of its own, with more in its configuration.
    pub(crate) fn start(dir: &Path, slots: u32, more: &str) -> Self {
        fs::create_dir_all(dir).expect("made");
        let config = dir.join("workers.toml");
        let text = format!(
            "[queue]\nurl = \"sqlite:{0}/queue.db\"\n[worker]\nstate_dir = \"{0}/worker\"\nslots = {slots}\n[server]\nlisten = \"127.0.0.1:0\"\n{more}",
            dir.display(),
        );
        fs::write(&config, text).expect("written");
        let mut child = Command::new(env!("CARGO_BIN_EXE_sawmill"))
            .arg("--config")
            .arg(&config)
            .arg("up")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("sawmill starts");
        let mut lines = BufReader::new(child.stderr.take().expect("its log")).lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                line.split("serving the API on ").nth(1).map(|rest| rest.split_whitespace().next().unwrap_or(rest).to_owned())
            })
            .expect("it serves");
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("told to stop");
        self.child.wait().expect("stopped");
    }
}
