//! How much of the code a gate's tests covered: read from the reports that it wrote on its ground, beside what was seen before.
//!
//! The one rule: a report has no say in whether the gate passes, unless the gate requires it. Why there is none is on record all the same.

use std::io::Read;
use std::path::Path;

use super::counted;
use super::ground;
use super::halt::Halt;
use super::open::Attempt;
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
    let measuring = tokio::task::spawn_blocking(move || read(&tree, &wish)).await;
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

fn read(tree: &Path, wish: &CoverageWish) -> Result<CoveredLines, String> {
    let found = counted::matching(tree, std::slice::from_ref(&wish.path));
    if found.is_empty() {
        return Err(format!("the gate wrote no file {}", wish.path));
    }
    let mut reports = Vec::new();
    for path in found {
        let failed = |why: String| format!("{}: {why}", path.display());
        let file = counted::open(&tree.join(&path)).map_err(|error| failed(error.to_string()))?;
        let mut bytes = Vec::new();
        file.take(REPORT_MAX + 1).read_to_end(&mut bytes).map_err(|error| failed(error.to_string()))?;
        if bytes.len() as u64 > REPORT_MAX {
            return Err(failed(format!("it has more than {REPORT_MAX} bytes")));
        }
        reports.push(String::from_utf8_lossy(&bytes).into_owned());
        // Each by itself first: so that it is known which one is wrong.
        gates::coverage(&reports[reports.len() - 1..]).map_err(failed)?;
    }
    gates::coverage(&reports)
}
