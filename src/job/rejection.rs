//! What was wrong with a result that was not delivered: what the backend hears of it in the same attempt, or in the next one.
//!
//! The one rule: what a gate printed has its secrets taken out before it gets here. A rejection goes on record, into prompts and into
//! documents as it is.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::checks::{Finding, Response};
use super::completion::{GateEvidence, Usage};
use super::critique::Critique;
use super::outcome::OutcomeClass;
use crate::ids::ObjectId;

/// Why a result was rejected.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Rejection {
    /// The class of outcome that it is, unless another round delivers: `gate` or `no_change`; and `timeout` or `out_of_memory` of a gate
    /// that was ended by that, which no other round follows.
    pub class: OutcomeClass,
    /// The reason, in a sentence.
    pub message: String,
    /// The tree that was rejected; absent where nothing had changed.
    pub tree: Option<ObjectId>,
    /// What the gates saw. The last one did not pass, unless none was run.
    pub gates: Vec<GateEvidence>,
    /// What the checks found: flagged, and reasons for rejecting.
    pub findings: Vec<Finding>,
    /// What critics said of it. The last one rejected it, unless a gate or a check did, or the backend left too little.
    #[serde(default)]
    pub critiques: Vec<Critique>,
    /// The end of what that gate printed.
    pub output: Option<String>,
    /// What the backend said of its work.
    pub summary: Option<String>,
    /// What the backend said that it used of a model in this round.
    pub usage: Option<Usage>,
}

impl Rejection {
    /// Whether this is what was wrong before, too: the very same tree, or the same reasons. The time that a gate took, and the numbers
    /// in what it printed, are no difference; nor is the line of a finding.
    #[must_use]
    pub fn is_alike(&self, before: &Self) -> bool {
        (self.tree.is_some() && self.tree == before.tree) || self.reasons() == before.reasons()
    }

    fn reasons(&self) -> impl PartialEq + use<> {
        let gates: Vec<_> = self.gates.iter().map(|gate| (gate.name.clone(), gate.exit, gate.tests)).collect();
        let rejecting = self.findings.iter().filter(|finding| finding.response == Response::Reject);
        let mut findings: Vec<_> = rejecting.map(|found| (found.rule, found.path.clone(), found.message.clone())).collect();
        findings.sort();
        let said = if findings.is_empty() { self.message.clone() } else { String::new() };
        let output = self.output.as_deref().unwrap_or_default();
        let output: String = output.chars().filter(|c| !c.is_ascii_digit()).collect();
        (self.class, gates, findings, said, output)
    }
}

#[cfg(test)]
mod tests {
    use super::super::checks::Rule;
    use super::*;

    fn gate(exit: i32, duration_ms: i64) -> GateEvidence {
        GateEvidence {
            name: "unit".to_owned(),
            argv: vec!["make".to_owned()],
            tree: "1".repeat(40).parse().expect("an id"),
            exit: Some(exit),
            passed: exit == 0,
            tests: None,
            coverage: None,
            duration_ms,
            log_from: 0,
            log_to: duration_ms.unsigned_abs(),
        }
    }

    fn rejection(tree: &str, gates: Vec<GateEvidence>, output: &str) -> Rejection {
        Rejection {
            class: OutcomeClass::Gate,
            message: "gate unit exited with status 1".to_owned(),
            tree: Some(tree.repeat(40).parse().expect("an id")),
            gates,
            findings: Vec::new(),
            critiques: Vec::new(),
            output: Some(output.to_owned()),
            summary: None,
            usage: None,
        }
    }

    #[test]
    fn two_rounds_are_alike_by_their_tree_or_by_their_reasons() {
        let before = rejection("1", vec![gate(1, 5)], "one failed in 0.12 s");
        let check = |after: Rejection, expected: bool| assert_eq!(after.is_alike(&before), expected, "{after:?}");
        check(rejection("2", vec![gate(1, 9)], "one failed in 0.34 s"), true);
        check(rejection("1", vec![gate(3, 9)], "something else"), true);
        check(rejection("2", vec![gate(3, 5)], "one failed in 0.12 s"), false);
        check(rejection("2", vec![gate(1, 5)], "two failed in 0.12 s"), false);
    }

    #[test]
    fn a_finding_that_moved_is_the_same_finding() {
        let found = |path: &str, line: u32| Rejection {
            message: format!("rejected: {path}:{line}: a marker"),
            findings: vec![Finding {
                path: Some(path.to_owned()),
                line: Some(line),
                rule: Rule::ConflictMarker,
                response: Response::Reject,
                message: "a marker".to_owned(),
            }],
            ..rejection("1", Vec::new(), "")
        };
        let moved = Rejection { tree: None, ..found("a", 9) };
        assert!(moved.is_alike(&found("a", 1)));
        assert!(!moved.is_alike(&found("b", 9)));
    }
}
