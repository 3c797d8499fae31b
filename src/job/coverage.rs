//! How much of the code the tests of a gate covered, and how that has changed.
//!
//! The one rule: what is compared with is named (the job, its commit, and when), so that nobody takes a change of what was measured for one
//! of how well it is tested.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::clock::Timestamp;
use crate::ids::{JobId, ObjectId};

/// A report on coverage that a gate writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CoverageWish {
    /// A pattern of its path below the gate's directory, such as `coverage/lcov.info`, in the form of lcov or of Cobertura. Several files
    /// are added up.
    pub path: String,
    /// Whether the gate fails without one that can be read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
}

/// What such a report says, or why it says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Coverage {
    /// The lines; absent where it says nothing that can be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<CoveredLines>,
    /// Why it says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flaw: Option<String>,
    /// What the same gate saw last in something that was delivered from the same base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<CoverageBefore>,
    /// How much more is covered than then, in hundredths of a percent; less, where negative.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta_basis_points: Option<i64>,
}

/// Lines of code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CoveredLines {
    /// Those that tests ran.
    pub covered: u64,
    /// Those that could be.
    pub total: u64,
}

/// An earlier measurement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CoverageBefore {
    /// What it said.
    pub lines: CoveredLines,
    /// The job whose result it was about.
    pub job: JobId,
    /// The commit that this delivered, where it delivered one.
    pub commit: Option<ObjectId>,
    /// When that was.
    pub measured_at: Timestamp,
}

impl CoveredLines {
    /// None.
    pub const NONE: Self = Self { covered: 0, total: 0 };

    /// These and others; nothing where they are too many to count.
    #[must_use]
    pub fn and(self, others: Self) -> Option<Self> {
        Some(Self { covered: self.covered.checked_add(others.covered)?, total: self.total.checked_add(others.total)? })
    }

    /// How much of them is covered, of 1; all of nothing is.
    #[must_use]
    pub fn share(self) -> f64 {
        if self.total == 0 { 1.0 } else { self.covered as f64 / self.total as f64 }
    }
}

impl Coverage {
    /// What a report says, beside what was seen before.
    #[must_use]
    pub fn measured(lines: CoveredLines, before: Option<CoverageBefore>) -> Self {
        let delta = before.as_ref().map(|before| ((lines.share() - before.lines.share()) * 10_000.0).round() as i64);
        Self { lines: Some(lines), flaw: None, before, delta_basis_points: delta }
    }

    /// No report that can be used.
    #[must_use]
    pub fn flawed(why: impl Into<String>) -> Self {
        Self { flaw: Some(why.into()), ..Self::default() }
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(lines) = self.lines else { return write!(f, "not known: {}", self.flaw.as_deref().unwrap_or("no report")) };
        write!(f, "{:.2} % of {} lines", lines.share() * 100.0, lines.total)?;
        match (self.delta_basis_points, &self.before) {
            (Some(delta), Some(before)) => {
                let of =
                    before.commit.as_ref().map_or_else(|| format!("job {}", before.job), |commit| commit.short().to_string());
                write!(f, ", {:+.2} points against {of}", delta as f64 / 100.0)
            }
            _ => f.write_str(", the first that is on record for its base"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_is_told_with_what_it_is_a_difference_to() {
        let lines = |covered, total| CoveredLines { covered, total };
        let before = |covered, total| CoverageBefore {
            lines: lines(covered, total),
            job: JobId::generate(),
            commit: Some("1a2b3c4d5e".repeat(4).parse().expect("an id")),
            measured_at: Timestamp(5),
        };
        let check = |now: CoveredLines, before: Option<CoverageBefore>, delta: Option<i64>, told: &str| {
            let coverage = Coverage::measured(now, before);
            assert_eq!((coverage.delta_basis_points, coverage.to_string().as_str()), (delta, told));
        };
        check(lines(875, 1_000), Some(before(870, 1_000)), Some(50), "87.50 % of 1000 lines, +0.50 points against 1a2b3c4d5e");
        check(lines(1, 3), Some(before(2, 3)), Some(-3_333), "33.33 % of 3 lines, -33.33 points against 1a2b3c4d5e");
        check(lines(0, 0), Some(before(1, 1)), Some(0), "100.00 % of 0 lines, +0.00 points against 1a2b3c4d5e");
        check(lines(1, 2), None, None, "50.00 % of 2 lines, the first that is on record for its base");
        assert_eq!(Coverage::flawed("it is empty").to_string(), "not known: it is empty");
    }
}
