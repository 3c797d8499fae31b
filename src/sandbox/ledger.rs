//! What a supervisor writes down in its directory, so that it is known even when the supervisor itself has died.
//!
//! `running.json` names the command that runs and its long-lived processes; `reports/<id>.json` is how a command ended.
//! Both are moved into place. They hold no environment, and of command lines only those of stragglers.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::command::{ExitReport, Started};
use super::error::SandboxError;
use super::note::note;
pub(super) use crate::janitor::boot_id;

const RUNNING: &str = "running.json";
const REPORTS: &str = "reports";

/// How much is remembered for a daemon that never collects.
const REPORTS_MAX: usize = 64;

/// Reads the report that a supervisor, living or dead, has left in its directory; none when the command has not ended,
/// was not run there, or ended in a way that nobody saw.
///
/// # Errors
/// The directory cannot be read.
pub fn recorded(dir: &Path, id: &str) -> Result<Option<ExitReport>, SandboxError> {
    let path = dir.join(REPORTS).join(format!("{id}.json"));
    match read::<Record>(&path) {
        Ok(Some(Record::Ended { report, .. })) => Ok(Some(report)),
        Ok(_) => Ok(None),
        Err(source) => Err(SandboxError::Directory { path, source }),
    }
}

/// What runs, or ran when the supervisor of a directory died, as it wrote down.
pub(super) fn running(dir: &Path) -> Option<Running> {
    read(&dir.join(RUNNING)).ok().flatten()
}

/// A process, named so that no later one can be taken for it on this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct ProcessName {
    pub(super) pid: i32,
    /// When it began, in clock ticks since boot (field 22 of `/proc/<pid>/stat`).
    pub(super) began: u64,
}

/// The command that runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Running {
    pub(super) id: String,
    pub(super) started: Started,
    pub(super) boot_id: String,
    /// Processes that were seen at least twice.
    pub(super) processes: Vec<ProcessName>,
}

/// What is remembered of a command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Record {
    Ended {
        started: Started,
        report: ExitReport,
    },
    /// The supervisor died before the command ended.
    Lost {
        started: Started,
    },
}

impl Record {
    pub(super) fn started(&self) -> Started {
        match self {
            Self::Ended { started, .. } | Self::Lost { started } => *started,
        }
    }
}

/// The records of one supervisor, in memory and on disk.
///
/// A disk that cannot be written is said once in the supervisor's log; the records in memory hold all the same.
pub(super) struct Ledger {
    dir: PathBuf,
    records: BTreeMap<String, Record>,
    latest: Option<String>,
}

impl Ledger {
    /// Reads what an earlier supervisor has left, and what it was running when it died.
    pub(super) fn open(dir: &Path) -> io::Result<(Self, Option<Running>)> {
        let reports = dir.join(REPORTS);
        fs::create_dir_all(&reports)?;
        let mut records: BTreeMap<String, Record> = BTreeMap::new();
        for entry in fs::read_dir(&reports)? {
            let path = entry?.path();
            let Some(id) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".json")) else {
                continue;
            };
            records.extend(read(&path)?.map(|record| (id.to_owned(), record)));
        }
        let latest = records.iter().max_by_key(|(_, record)| record.started().started_at).map(|(id, _)| id.clone());
        let running = read(&dir.join(RUNNING))?;
        Ok((Self { dir: dir.to_owned(), records, latest }, running))
    }

    pub(super) fn get(&self, id: &str) -> Option<&Record> {
        self.records.get(id)
    }

    /// The last command that ended and has not been collected.
    pub(super) fn latest(&self) -> Option<(&str, &Record)> {
        let id = self.latest.as_deref()?;
        self.records.get(id).map(|record| (id, record))
    }

    /// Notes what runs.
    pub(super) fn begin(&self, running: &Running) {
        self.keep(&self.dir.join(RUNNING), running);
    }

    /// Notes how it ended. The oldest record makes room when there are too many.
    pub(super) fn end(&mut self, id: &str, record: Record) {
        while self.records.len() >= REPORTS_MAX {
            let Some(oldest) = self.records.iter().min_by_key(|(_, record)| record.started().started_at) else { break };
            let oldest = oldest.0.clone();
            self.forget(&oldest);
        }
        self.keep(&self.report_path(id), &record);
        self.records.insert(id.to_owned(), record);
        self.latest = Some(id.to_owned());
        remove(&self.dir.join(RUNNING));
    }

    /// Drops a record; false when there was none.
    pub(super) fn forget(&mut self, id: &str) -> bool {
        let known = self.records.remove(id).is_some();
        if known {
            remove(&self.report_path(id));
        }
        if self.latest.as_deref() == Some(id) {
            self.latest = None;
        }
        known
    }

    fn report_path(&self, id: &str) -> PathBuf {
        self.dir.join(REPORTS).join(format!("{id}.json"))
    }

    fn keep<T: Serialize>(&self, path: &Path, value: &T) {
        let draft = self.dir.join("draft.json");
        let written = serde_json::to_vec(value).map_err(io::Error::from).and_then(|text| fs::write(&draft, text));
        if let Err(error) = written.and_then(|()| fs::rename(&draft, path)) {
            note(format_args!("cannot write {}: {error}", path.display()));
        }
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => note(format_args!("cannot remove {}: {error}", path.display())),
        _ => {}
    }
}

/// Reads a file that was moved into place; none when it is not there, or is not ours to understand.
fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(text) => Ok(serde_json::from_slice(&text).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
