//! The jobs of the torture: what each does, and what must have become of it.
//!
//! Everything about a job follows from the seed and its number, so that the end can be judged without trusting the queue.

use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sawmill::job::{JobState, OutcomeClass};
use serde_json::{Value, json};

/// What kind of job it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It changes a file.
    Change,
    /// It changes nothing, and need not.
    Quiet,
    /// It changes a file and then fails.
    Fails,
    /// It fails in every attempt of an odd number, and may do so as often as it likes.
    FailsAtFirst,
    /// It changes a file that its gate looks at.
    Gated,
    /// It changes a file that its gate refuses.
    Refused,
    /// It changes a file and leaves processes behind.
    Strays,
    /// It changes a file and goes on until it is cancelled.
    Endless,
    /// It changes a file, and is cancelled at any moment.
    Raced,
}

/// One job.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) number: u32,
    pub(super) kind: Kind,
    remote: PathBuf,
    /// Lines before and after the pause.
    lines: [u32; 2],
    pause_ms: u32,
}

impl Order {
    pub(super) fn new(seed: u64, number: u32, remotes: &[PathBuf]) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ (u64::from(number) << 32) ^ 0x6f72_6465_7273);
        let kind = match rng.random_range(0..100) {
            0..60 => Kind::Change,
            60..68 => Kind::Quiet,
            68..76 => Kind::Fails,
            76..80 => Kind::FailsAtFirst,
            80..84 => Kind::Gated,
            84..87 => Kind::Refused,
            87..90 => Kind::Strays,
            90..94 => Kind::Endless,
            _ => Kind::Raced,
        };
        // Now and then a log that takes several chunks.
        let most = if rng.random_bool(0.03) { 4_000 } else { 40 };
        let lines = [rng.random_range(1..most), rng.random_range(1..most)];
        let pause_ms = if rng.random_bool(0.3) { rng.random_range(20..1_500) } else { 0 };
        let remote = remotes[number as usize % remotes.len()].clone();
        Self { number, kind, remote, lines, pause_ms }
    }

    pub(super) fn remote(&self) -> &Path {
        &self.remote
    }

    /// The planner's own key: a request that is made again asks for the same job.
    pub(super) fn key(&self) -> String {
        format!("torture-{}", self.number)
    }

    pub(super) fn branch(&self) -> String {
        format!("sawmill/torture/worker/job-{}", self.number)
    }

    /// The file that it makes.
    pub(super) fn path(&self) -> String {
        format!("by-{}.txt", self.number)
    }

    pub(super) fn content(&self) -> String {
        format!("made by job {}\n", self.number)
    }

    /// Each third line goes to the error output.
    fn loop_over(number: u32, from: u32, to: u32) -> String {
        format!(
            "i={from}; while [ $i -lt {to} ]; do if [ $((i % 3)) = 0 ]; then echo \"job {number} err $i\" >&2; \
             else echo \"job {number} out $i\"; fi; i=$((i + 1)); done"
        )
    }

    fn command(&self) -> String {
        let [before, after] = self.lines;
        let pause = if self.pause_ms > 0 { format!("sleep {:.3}", f64::from(self.pause_ms) / 1_000.0) } else { ":".to_owned() };
        let first = Self::loop_over(self.number, 0, before);
        let second = Self::loop_over(self.number, before, before + after);
        let edit = format!("printf '%s' '{}' > {}", self.content(), self.path());
        let edit = if self.kind == Kind::Quiet { ":".to_owned() } else { edit };
        let end = match self.kind {
            Kind::Change | Kind::Quiet | Kind::Gated | Kind::Refused | Kind::Raced => ":",
            Kind::Fails => "exit 3",
            Kind::FailsAtFirst => "[ $((SAWMILL_ATTEMPT % 2)) = 0 ]",
            Kind::Strays => "setsid sleep 1000 & (sleep 1001 &)",
            Kind::Endless => "sleep 1002",
        };
        format!("{first}\n{edit}\n{pause}\n{second}\n{end}\n")
    }

    /// The document for the API.
    pub(super) fn spec(&self) -> Value {
        let gates = match self.kind {
            Kind::Gated => json!([{ "name": "made", "command": format!("test -s {}", self.path()) }]),
            Kind::Refused => json!([{ "name": "never", "command": "exit 1" }]),
            _ => json!([]),
        };
        json!({
            "repo": self.remote,
            "task": { "command": self.command() },
            "changes": if self.kind == Kind::Quiet { "optional" } else { "required" },
            "attempts": if self.kind == Kind::FailsAtFirst { 100 } else { 1 },
            "idempotency_key": self.key(),
            "execution": { "id": "torture", "role": "worker", "slug": format!("job-{}", self.number) },
            "gates": gates,
        })
    }

    /// All that it writes to standard output and error, when it comes to its end.
    pub(super) fn output(&self) -> [String; 2] {
        let mut output = [String::new(), String::new()];
        for i in 0..self.lines.iter().sum() {
            let (of, word) = if i % 3 == 0 { (1, "err") } else { (0, "out") };
            output[of].push_str(&format!("job {} {word} {i}\n", self.number));
        }
        output
    }

    /// The ends that it may have come to.
    pub(super) fn ends(&self) -> &'static [(JobState, OutcomeClass)] {
        use {JobState as State, OutcomeClass as Class};
        match self.kind {
            Kind::Change | Kind::Quiet | Kind::FailsAtFirst | Kind::Gated | Kind::Strays => {
                &[(State::Succeeded, Class::Succeeded)]
            }
            Kind::Fails => &[(State::Failed, Class::Backend)],
            Kind::Refused => &[(State::Failed, Class::Gate)],
            Kind::Endless => &[(State::Cancelled, Class::Cancelled)],
            Kind::Raced => &[(State::Succeeded, Class::Succeeded), (State::Cancelled, Class::Cancelled)],
        }
    }

    /// Whether somebody cancels it.
    pub(super) fn is_cancelled(&self) -> bool {
        matches!(self.kind, Kind::Endless | Kind::Raced)
    }
}
