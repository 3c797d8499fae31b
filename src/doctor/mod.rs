//! `sawmill doctor`: what Sawmill needs of this host, checked, with what to do about what is missing; and `sawmill backends`.

mod agents;
mod backends;
mod checks;
mod containers;
mod limits;
mod probe;
mod slots;
mod stop;

pub use backends::backends;
pub use stop::Stop;

use crate::cli::{Cell, CliError, Exit, Output};
use crate::daemon::Composition;
use serde::Serialize;

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was checked.
    pub check: &'static str,
    /// How it is.
    pub state: State,
    /// What was seen.
    pub seen: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

/// How a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As it must be.
    #[serde(rename = "ready")]
    Good,
    /// Good enough, with a drawback.
    Warning,
    /// Nothing works until it is mended.
    #[serde(rename = "failed")]
    Bad,
}

impl State {
    /// The word that people and programs see.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "ready",
            Self::Warning => "warning",
            Self::Bad => "failed",
        }
    }
}

/// Checks everything. Nothing is changed, except that a SQLite database and the directory of artifacts are made when they are not there.
/// Nothing comes of it where it is to stop before; then nothing is left of it either.
pub async fn examine(composition: &Composition, stop: &Stop) -> Option<Vec<Finding>> {
    stop.unless_asked(all(composition, stop)).await
}

async fn all(composition: &Composition, stop: &Stop) -> Vec<Finding> {
    let config = composition.config();
    let mut findings = vec![checks::git(config), checks::git_lfs(config), checks::worktrees(composition)];
    findings.push(checks::state_directory(config));
    findings.push(checks::disk(config));
    findings.push(checks::offer(config));
    findings.push(checks::admission(config));
    findings.extend(checks::database(config).await);
    findings.push(checks::artifacts(composition).await);
    findings.push(checks::supervisor(config).await);
    findings.push(limits::check(config));
    findings.push(containers::check(config, stop).await);
    findings.extend(backends::check(composition, stop).await);
    findings.extend(agents::check(config, stop).await);
    findings.extend(checks::critics(composition));
    findings
}

/// Writes what was found; the exit status is 1 when something is bad.
///
/// # Errors
/// The output cannot be written.
pub fn report(out: &Output, findings: &[Finding]) -> Result<Exit, CliError> {
    if out.is_json() {
        out.document(&findings)?;
    } else {
        let rows: Vec<Vec<Cell>> = findings
            .iter()
            .map(|finding| {
                vec![
                    Cell::new(finding.check),
                    Cell::state(finding.state.as_str()),
                    Cell::new(&finding.seen),
                    Cell::maybe(finding.remedy.as_ref()),
                ]
            })
            .collect();
        out.rows(&["CHECK", "STATE", "SEEN", "WHAT TO DO"], &rows)?;
    }
    let bad = findings.iter().any(|finding| finding.state == State::Bad);
    Ok(if bad { Exit::Failed } else { Exit::Done })
}
