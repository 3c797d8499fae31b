//! How many tests a gate ran: read from what it printed, and from the reports that it wrote on its ground.
//!
//! The one rule: what is read is bounded, and no link is followed. Of a long output the beginning and the end are read; what the log
//! has given back to the disk by then reads as nothing.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::ground;
use super::halt::Halt;
use super::open::Attempt;
use super::written::{self, Written};
use crate::gates;
use crate::job::counts::TestCounts;
use crate::job::spec::Gate;
use crate::plain_file;

/// How much is read of the beginning of an output, and as much of its end.
const PART_MAX: u64 = 4 * 1024 * 1024;
/// How large a report may be.
const REPORT_MAX: u64 = 16 * 1024 * 1024;

/// What was counted of a gate.
#[derive(Debug, Default)]
pub(super) struct Counted {
    /// Nothing where it is not to run any tests, or nothing says how many it ran.
    pub(super) tests: Option<TestCounts>,
    /// How many reports were not read because they were there before it began.
    pub(super) older: usize,
}

/// Counts the tests of the gate that was last begun.
///
/// # Errors
/// What it printed cannot be read.
pub(super) async fn count(attempt: &Attempt, gate: &Gate) -> Result<Counted, Halt> {
    let (Some(format), Some(ground)) = (gate.tests, attempt.journal.ground) else { return Ok(Counted::default()) };
    let outputs = [(attempt.spool.stdout(), ground.stdout_from), (attempt.spool.stderr(), ground.stderr_from)];
    let (tree, wanted) = (ground::files(attempt, ground).tree(), gate.reports.clone());
    let counting = move || -> io::Result<(Counted, Option<String>)> {
        let mut printed = String::new();
        for (path, from) in &outputs {
            printed.push_str(&read_output(path, *from)?);
            printed.push('\n');
        }
        // Each is read when it is its turn.
        let Written { paths, cut, older } = written::find(&tree, &wanted, ground.since);
        let tests = gates::count(format, &printed, paths.iter().filter_map(|path| read_report(&tree.join(path))));
        Ok((Counted { tests, older }, cut))
    };
    let failed = |error: &dyn std::error::Error| Halt::infrastructure("cannot count the tests of a gate", error);
    let counted = tokio::task::spawn_blocking(counting).await;
    let (counted, cut) = counted.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    if let Some(cut) = cut {
        attempt.say(&format!("warning: not every report of gate {} may be counted: {cut}", gate.name));
    }
    Ok(counted)
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
