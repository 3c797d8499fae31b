//! The spool: three files in the attempt's run directory, of which the job writes two through its own descriptors.
//!
//! `system.log` has, before each line, how long the other two were when it was said, so that it takes its place among their
//! lines however late it is shipped: `<stdout bytes> <stderr bytes> sawmill: <text>`.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::error::LogsError;
use crate::job::Stream;

/// The longest line that the system says, in bytes; what is longer is cut.
pub(super) const LONGEST_LINE: usize = 4 * 1024;
/// The most that the system says about one attempt, in bytes.
const SYSTEM_CAP: u64 = 1024 * 1024;
/// Room kept for the last word.
const LAST_WORD_ROOM: u64 = 256;

/// The spool of one attempt. Clones share it.
#[derive(Debug, Clone)]
pub struct Spool {
    dir: PathBuf,
    voice: Arc<Mutex<Voice>>,
}

#[derive(Debug)]
struct Voice {
    system: File,
    state: VoiceState,
}

#[derive(Debug, PartialEq, Eq)]
enum VoiceState {
    Speaking,
    /// The cap was met, and that was said.
    Silent,
}

impl Spool {
    /// Makes a new, empty spool in `run`, in place of any that is there.
    ///
    /// # Errors
    /// [`LogsError::Spool`] when a file cannot be made.
    pub fn create(run: &Path) -> Result<Self, LogsError> {
        for name in Stream::ALL.map(file_name).into_iter().chain([super::journal::FILE]) {
            let path = run.join(name);
            match std::fs::remove_file(&path) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => return Err(LogsError::Spool { path, source }),
                _ => {}
            }
        }
        Self::open(run)
    }

    /// Opens the spool that is in `run`. A file that is missing is made anew: if it was read before, the shipper finds it
    /// shorter than it was, and says so.
    ///
    /// # Errors
    /// [`LogsError::Spool`] when a file cannot be opened.
    pub fn open(run: &Path) -> Result<Self, LogsError> {
        let [stdout, stderr, system] = Stream::ALL.map(|stream| open_file(run, stream));
        let (_, _, system) = (stdout?, stderr?, system?);
        let voice = Voice { system, state: VoiceState::Speaking };
        Ok(Self { dir: run.to_owned(), voice: Arc::new(Mutex::new(voice)) })
    }

    /// Where the job's standard output goes. Writers append.
    #[must_use]
    pub fn stdout(&self) -> PathBuf {
        self.path(Stream::Stdout)
    }

    /// Where the job's standard error goes. Writers append.
    #[must_use]
    pub fn stderr(&self) -> PathBuf {
        self.path(Stream::Stderr)
    }

    /// Adds a line to the attempt's log, after all that the job has written so far: `sawmill: ` and the text, cut to 4 KiB;
    /// a text of several lines becomes as many. Beyond 1 MiB nothing more is said. It is on disk when this returns; a failure
    /// to write it goes to the daemon's own log.
    pub fn say(&self, text: &str) {
        let mut voice = self.voice.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = voice.say(text, self.length(Stream::Stdout), self.length(Stream::Stderr)) {
            tracing::warn!(%error, path = %self.path(Stream::System).display(), "cannot write a line to the log of an attempt");
        }
    }

    pub(super) fn path(&self, stream: Stream) -> PathBuf {
        self.dir.join(file_name(stream))
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Opens a file to read it and to give back what of it is no longer needed.
    pub(super) fn open_to_read(&self, stream: Stream) -> Result<File, LogsError> {
        open_file(&self.dir, stream)
    }

    fn length(&self, stream: Stream) -> u64 {
        // A file that cannot be looked at has nothing that the line would come after.
        std::fs::metadata(self.path(stream)).map_or(0, |metadata| metadata.len())
    }
}

impl Voice {
    fn say(&mut self, text: &str, stdout: u64, stderr: u64) -> std::io::Result<()> {
        let mut lines = String::new();
        for line in text.lines() {
            let end = line.floor_char_boundary(LONGEST_LINE);
            let line = &line[..end];
            lines.push_str(&format!("{stdout} {stderr} sawmill: {line}\n"));
        }
        if self.state == VoiceState::Silent {
            return Ok(());
        }
        let length = self.system.metadata()?.len();
        if length + lines.len() as u64 + LAST_WORD_ROOM > SYSTEM_CAP {
            self.state = VoiceState::Silent;
            if length + LAST_WORD_ROOM > SYSTEM_CAP {
                return Ok(());
            }
            lines = format!("{stdout} {stderr} sawmill: there is more to say than fits into the log; this is the last line\n");
        }
        self.system.write_all(lines.as_bytes())
    }
}

const fn file_name(stream: Stream) -> &'static str {
    match stream {
        Stream::Stdout => "stdout.log",
        Stream::Stderr => "stderr.log",
        Stream::System => "system.log",
    }
}

fn open_file(run: &Path, stream: Stream) -> Result<File, LogsError> {
    let path = run.join(file_name(stream));
    OpenOptions::new().read(true).append(true).create(true).open(&path).map_err(|source| LogsError::Spool { path, source })
}
