//! The jobs of the demonstration, and what is to become of each.

use std::time::Duration;

use crate::job::spec::{Command, Deliver, Execution, Gate, Task};
use crate::job::{JobSpec, OutcomeClass};

/// A job with the fate that is meant for it.
#[derive(Debug, Clone)]
pub(super) struct Fate {
    pub(super) name: &'static str,
    pub(super) spec: JobSpec,
    pub(super) expected: OutcomeClass,
    /// How many attempts it is to take.
    pub(super) attempts: u32,
    /// Whether somebody changes his mind once it runs.
    pub(super) cancel: bool,
    /// Whether its log is to lose its middle.
    pub(super) floods: bool,
}

/// What the changing jobs do to the sample repository.
const SHOUT: &str = r#"
set -e
echo "adding an option to the program"
sed -i 's/^    -w) count_words ;;/    -w) count_words ;;\n    -u) tr "[:lower:]" "[:upper:]" ;;/' bin/wc.sh
printf '\n`-u` writes the text in capitals.\n' >> README.md
git diff --stat
"#;

const LONGEST: &str = r#"
set -e
echo "adding a function and its test"
printf '\n# The length of the longest line.\nlongest_line() {\n    awk "{ if (length > most) most = length } END { print most + 0 }"\n}\n' >> lib/count.sh
printf '\ncheck "the longest line" 11 "$(printf "one\\nhello world\\n" | longest_line)"\n' >> tests/run.sh
"#;

/// The same on any repository.
const NOTE: &str = r#"
set -e
echo "writing a note about $(git log --oneline | wc -l) commits"
git log -1 --format='The newest commit is %h, of %an.' > SAWMILL-NOTE.md
git status --short
"#;

impl Fate {
    /// Eight jobs of different fates, then as many plain ones as it takes to make `count`. Those for `foreign` repositories
    /// assume nothing about what is in them.
    pub(super) fn all(foreign: bool, count: u32) -> Vec<Self> {
        let tested = Gate {
            name: "unit".to_owned(),
            command: Command::Line(if foreign { "test -s SAWMILL-NOTE.md" } else { "sh tests/run.sh" }.to_owned()),
            tests: None,
            reports: Vec::new(),
            coverage: None,
            timeout: Some(Duration::from_secs(20)),
        };
        let (change, change_and_test) = if foreign { (NOTE, NOTE) } else { (SHOUT, LONGEST) };
        let mut fates = vec![
            Self::new("a change delivered", "Add an option for capitals", change, OutcomeClass::Succeeded),
            Self::new("a change with tests run", "Count the longest line", change_and_test, OutcomeClass::Succeeded)
                .with(|spec| spec.gates = vec![tested]),
            Self::new(
                "no change",
                "Look for open questions",
                "grep -rn 'FIXME' . || echo 'nothing to do'",
                OutcomeClass::NoChange,
            ),
            Self::new(
                "a failing command",
                "Build the release",
                "echo 'error: no rule to make release' >&2; exit 2",
                OutcomeClass::Backend,
            ),
            Self::new("a timeout", "Wait for the moon", "echo 'waiting'; sleep 600", OutcomeClass::Timeout)
                .with(|spec| spec.timeout = Some(Duration::from_millis(1_500))),
            Self::new(
                "cancelled",
                "Rewrite everything",
                "echo 'half a rewrite' > REWRITE.md; sleep 600",
                OutcomeClass::Cancelled,
            ),
            Self::new("retried to success", "Fix the flaky part", FLAKY, OutcomeClass::Succeeded)
                .with(|spec| spec.attempts = Some(3)),
            Self::new("a flood of log", "Print a lot", FLOOD, OutcomeClass::Succeeded),
        ];
        fates[5].cancel = true;
        fates[6].attempts = 2;
        fates[7].floods = true;
        let more = (8..count).map(|index| {
            Self::new("a change delivered", "Write a note", NOTE, OutcomeClass::Succeeded)
                .with(|spec| spec.execution.slug = Some(format!("note-{}", index + 1)))
        });
        fates.extend(more);
        fates.truncate(count as usize);
        fates
    }

    fn new(name: &'static str, instruction: &str, command: &str, expected: OutcomeClass) -> Self {
        let spec = JobSpec {
            schema: crate::job::spec::SCHEMA,
            task: Task {
                instruction: Some(instruction.to_owned()),
                command: Some(Command::Line(command.trim().to_owned())),
                ..Task::default()
            },
            execution: Execution { id: Some("demo".to_owned()), role: Some("worker".to_owned()), slug: None, budget: None },
            deliver: Deliver::default(),
            ..JobSpec::default()
        };
        Self { name, spec, expected, attempts: 1, cancel: false, floods: false }
    }

    fn with(mut self, edit: impl FnOnce(&mut JobSpec)) -> Self {
        edit(&mut self.spec);
        self
    }
}

/// Fails the first time, and finds then what the first attempt came to.
const FLAKY: &str = r#"
if [ "$SAWMILL_ATTEMPT" -lt 2 ]; then echo "the network is away" >&2; exit 1; fi
echo "second time lucky"
echo "retry with care" >> RETRIES.md
"#;

/// Far more log than is kept: its beginning and its end are.
const FLOOD: &str = r#"
seq 1 400000 | sed 's/$/ green bottles hanging on the wall/'
echo "counted" > BOTTLES.md
"#;
