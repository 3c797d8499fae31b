//! How many tests a gate ran, as its test runner says.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The form in which a test runner says how many tests it ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TestFormat {
    /// Whichever of the others is found; of several, the one with the most tests.
    Auto,
    /// What `cargo test` prints.
    Cargo,
    /// What `cargo nextest` prints.
    Nextest,
    /// What pytest prints.
    Pytest,
    /// What Jest prints.
    Jest,
    /// What Vitest prints.
    Vitest,
    /// What `go test` prints, with `-v` or `-json`; without either, packages are counted.
    Go,
    /// Files in the form of JUnit.
    Junit,
}

/// How many tests a gate ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TestCounts {
    /// Who says so; never [`TestFormat::Auto`].
    pub format: TestFormat,
    /// Those that passed.
    pub passed: u64,
    /// Those that failed, or could not be run.
    pub failed: u64,
    /// Those that were left out.
    pub skipped: u64,
    /// All of them.
    pub total: u64,
}

impl TestCounts {
    /// Counts of these tests.
    #[must_use]
    pub const fn new(format: TestFormat, passed: u64, failed: u64, skipped: u64) -> Self {
        Self { format, passed, failed, skipped, total: passed + failed + skipped }
    }

    /// How many were run.
    #[must_use]
    pub const fn run(&self) -> u64 {
        self.passed + self.failed
    }
}

impl fmt::Display for TestCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}
