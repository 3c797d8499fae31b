//! Judging a result by what can be read: the difference between base and commit, and what test runners print and report.
//!
//! The one rule: everything here is a pure function of what was read elsewhere, and each finding names the file, the line where it has
//! one, the rule, and what to do about it. Running gates is the attempt's affair.

mod assertions;
mod content;
mod counts;
mod coverage;
mod languages;
mod locks;
mod manifests;
mod own;
mod scope;
mod weakened;

pub use counts::count;
pub use coverage::coverage;
pub use locks::NAMES as LOCK_NAMES;
pub use own::{OWN_GATES, OWN_GATES_SIZE, own};

use std::collections::BTreeMap;

use crate::git::Changeset;
use crate::job::DiffSummary;
use crate::job::checks::{Checks, Finding, Response, Rule};
use crate::redact::Redactor;

/// The most findings that are kept of one result.
pub const FINDINGS_MAX: usize = 100;

/// What is judged.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// What changed.
    pub changes: &'a Changeset,
    /// The same in numbers.
    pub diff: &'a DiffSummary,
    /// Knows the secrets of the job, and the shapes of others.
    pub redactor: &'a Redactor,
}

/// What a rule found, before it is known what becomes of it.
struct Found {
    path: Option<String>,
    line: Option<u32>,
    rule: Rule,
    message: String,
}

/// Applies sets of checks: all findings, in the order of files, each with the sternest response of any set; those beyond
/// [`FINDINGS_MAX`] are left out, milder ones first.
#[must_use]
pub fn check(sets: &[Checks], subject: Subject<'_>) -> Vec<Finding> {
    let mut found: BTreeMap<(Option<String>, Option<u32>, Rule, String), Response> = BTreeMap::new();
    for set in sets {
        for (response, one) in apply(set, subject) {
            let known = found.entry((one.path, one.line, one.rule, one.message)).or_insert(response);
            *known = (*known).max(response);
        }
    }
    let mut findings: Vec<Finding> = found
        .into_iter()
        .map(|((path, line, rule, message), response)| Finding { path, line, rule, response, message })
        .collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.response));
    findings.truncate(FINDINGS_MAX);
    findings
}

fn apply(set: &Checks, subject: Subject<'_>) -> Vec<(Response, Found)> {
    let asked = |response: Option<Response>| response.filter(|response| *response != Response::Off);
    let mut found: Vec<(Response, Found)> = scope::check(set, subject).into_iter().map(|one| (Response::Reject, one)).collect();
    let mut add = |response: Option<Response>, rule: &dyn Fn() -> Vec<Found>| {
        if let Some(response) = asked(response) {
            found.extend(rule().into_iter().map(|one| (response, one)));
        }
    };
    let files = &subject.changes.files;
    add(set.conflict_markers, &|| content::conflict_markers(files));
    add(set.leaks, &|| content::secrets(files, subject.redactor));
    // A large file is no offence: who wants none says how large one may be.
    add(asked(set.conflict_markers.max(set.leaks)).map(|_| Response::Flag), &|| content::unread(files));
    add(set.weakened_tests, &|| weakened::check(files));
    add(set.lock_files, &|| locks::check(subject.changes));
    found
}
