//! How much of the code a gate's tests covered: read from the reports that it wrote on its ground, beside what was seen before.
//!
//! The one rule: a report has no say in whether the gate passes, unless the gate requires it. Why there is none is on record all the same.

use std::io::Read;
use std::path::Path;

use super::counted;
use super::ground;
use super::halt::Halt;
use super::open::Attempt;
use super::written::{self, Moment, Written};
use crate::gates;
use crate::job::coverage::{Coverage, CoverageWish, CoveredLines};
use crate::job::spec::Gate;

/// How large a report may be.
const REPORT_MAX: u64 = 64 * 1024 * 1024;

/// Measures what the gate covered that was last begun; nothing where it is not to say that.
///
/// # Errors
/// The database cannot be asked for what was before.
pub(super) async fn measure(attempt: &Attempt, gate: &Gate) -> Result<Option<Coverage>, Halt> {
    let (Some(wish), Some(ground)) = (gate.coverage.clone(), attempt.journal.ground) else { return Ok(None) };
    let tree = ground::files(attempt, ground).tree();
    let measuring = tokio::task::spawn_blocking(move || read(&tree, &wish, ground.since)).await;
    let measured = measuring.map_err(|error| Halt::infrastructure("cannot measure what a gate covered", &error))?;
    let job = &attempt.claimed.job;
    Ok(Some(match measured {
        Ok(lines) => {
            let before = attempt.insist(|| attempt.tools.store.coverage_before(job, &gate.name)).await?;
            Coverage::measured(lines, before)
        }
        Err(why) => Coverage::flawed(why),
    }))
}

/// Adds up what the reports say. Each is let go when it has been read: there may be many, and large ones.
fn read(tree: &Path, wish: &CoverageWish, since: Option<Moment>) -> Result<CoveredLines, String> {
    let Written { paths: found, cut, older } = written::find(tree, std::slice::from_ref(&wish.path), since);
    if let Some(cut) = cut {
        return Err(format!("what matches {} is not known: {cut}", wish.path));
    }
    if found.is_empty() {
        let older = written::say_older(older).map_or_else(String::new, |said| format!(": {said}"));
        return Err(format!("the gate wrote no file {}{older}", wish.path));
    }
    found.iter().try_fold(CoveredLines::NONE, |sum, path| {
        let lines = read_one(&tree.join(path)).map_err(|why| format!("{}: {why}", path.display()))?;
        sum.and(lines).ok_or_else(|| format!("{}: its numbers are too large", path.display()))
    })
}

fn read_one(path: &Path) -> Result<CoveredLines, String> {
    let said = |error: std::io::Error| error.to_string();
    let file = counted::open(path).map_err(said)?;
    let mut bytes = Vec::new();
    file.take(REPORT_MAX + 1).read_to_end(&mut bytes).map_err(said)?;
    if bytes.len() as u64 > REPORT_MAX {
        return Err(format!("it has more than {REPORT_MAX} bytes"));
    }
    gates::coverage(&String::from_utf8_lossy(&bytes))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn reports_are_added_up_and_one_that_is_wrong_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("written");
        let wish = CoverageWish { path: "*.info".to_owned(), required: false };
        assert_eq!(read(dir.path(), &wish, None).expect_err("none"), "the gate wrote no file *.info");
        write("a.info", "SF:a\nLF:3\nLH:2\nend_of_record\n");
        write("b.info", "SF:b\nLF:10\nLH:7\nend_of_record\n");
        assert_eq!(read(dir.path(), &wish, None), Ok(CoveredLines { covered: 9, total: 13 }));
        let since = Moment::take(dir.path()).expect("a moment");
        let old = read(dir.path(), &wish, Some(since)).expect_err("old");
        assert!(old.starts_with("the gate wrote no file *.info: 2 reports were there before it began"), "{old}");
        write("c.info", &format!("SF:c\nLF:{0}\nLH:{0}\nend_of_record\n", u64::MAX));
        assert_eq!(read(dir.path(), &wish, None).expect_err("too large"), "c.info: its numbers are too large");
        write("b.info", "SF:b\n");
        assert_eq!(read(dir.path(), &wish, None).expect_err("cut"), "b.info: it is cut off in the middle of a record");
    }
}
