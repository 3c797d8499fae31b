//! How many tests a gate ran: read from what it printed, and from the reports that it wrote on its ground.
//!
//! The one rule: what is read is bounded, and no link is followed. Of a long output the beginning and the end are read; what the log
//! has given back to the disk by then reads as nothing.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::ground;
use super::halt::Halt;
use super::open::Attempt;
use crate::gates::{self, Globs};
use crate::job::counts::TestCounts;
use crate::job::spec::Gate;
use crate::plain_file;

/// How much is read of the beginning of an output, and as much of its end.
const PART_MAX: u64 = 4 * 1024 * 1024;
/// How large a report may be, how many are read, and among how many files they are looked for.
const REPORT_MAX: u64 = 16 * 1024 * 1024;
const REPORTS_MAX: usize = 200;
const FILES_MAX: usize = 200_000;

/// Counts the tests of the gate that was last begun; nothing where it is not to run any, or nothing says how many it ran.
///
/// # Errors
/// What it printed cannot be read.
pub(super) async fn count(attempt: &Attempt, gate: &Gate) -> Result<Option<TestCounts>, Halt> {
    let (Some(format), Some(ground)) = (gate.tests, attempt.journal.ground) else { return Ok(None) };
    let outputs = [(attempt.spool.stdout(), ground.stdout_from), (attempt.spool.stderr(), ground.stderr_from)];
    let (tree, wanted) = (ground::files(attempt, ground).tree(), gate.reports.clone());
    let counting = move || -> io::Result<Option<TestCounts>> {
        let mut printed = String::new();
        for (path, from) in &outputs {
            printed.push_str(&read_output(path, *from)?);
            printed.push('\n');
        }
        Ok(gates::count(format, &printed, read_reports(&tree, &wanted)))
    };
    let failed = |error: &dyn std::error::Error| Halt::infrastructure("cannot count the tests of a gate", error);
    tokio::task::spawn_blocking(counting).await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
}

fn read_output(path: &Path, from: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let to = file.metadata()?.len();
    let mut bytes = Vec::new();
    let mut read = |from: u64, length: u64| -> io::Result<()> {
        file.seek(SeekFrom::Start(from))?;
        (&mut file).take(length).read_to_end(&mut bytes).map(drop)
    };
    if to.saturating_sub(from) <= 2 * PART_MAX {
        read(from, to.saturating_sub(from))?;
    } else {
        read(from, PART_MAX)?;
        read(to - PART_MAX, PART_MAX)?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The files below a directory that match one of these patterns, as far as they can be read; each is read when it is asked for.
fn read_reports(tree: &Path, wanted: &[String]) -> impl Iterator<Item = String> {
    matching(tree, wanted).into_iter().filter_map(|path| read_report(&tree.join(path)))
}

/// The paths of plain files below a directory that match one of these patterns.
pub(super) fn matching(tree: &Path, wanted: &[String]) -> Vec<PathBuf> {
    if wanted.is_empty() {
        return Vec::new();
    }
    let globs = Globs::new(wanted);
    let (mut ahead, mut seen, mut reports) = (vec![PathBuf::new()], 0, Vec::new());
    while let Some(dir) = ahead.pop() {
        for entry in fs::read_dir(tree.join(&dir)).into_iter().flatten().flatten() {
            seen += 1;
            let path = dir.join(entry.file_name());
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() && path != Path::new(".git") {
                ahead.push(path);
            } else if kind.is_file() && globs.matching(&path.to_string_lossy()).is_some() {
                reports.push(path);
            }
            if seen > FILES_MAX || reports.len() >= REPORTS_MAX {
                return reports;
            }
        }
    }
    reports
}

/// Opens a report that a gate wrote; a link, or what is no file, is not waited for.
pub(super) fn open(path: &Path) -> io::Result<File> {
    plain_file::open(path)?.ok_or_else(|| io::Error::other("it is no plain file"))
}

fn read_report(path: &Path) -> Option<String> {
    let file = open(path).ok()?;
    let mut bytes = Vec::new();
    file.take(REPORT_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
