//! Overlays of a process that may mount in a namespace of users only: there root has no more rights than anybody. It is told of
//! each round, so that it takes its turn with all other ways, and answers what each step took.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use sawmill::git::Strategy;

use crate::Figures;
use crate::repository::Sample;
use crate::ways::Ours;

/// What the process is started with, before the sample's place and the file that is changed.
pub(crate) const ARGUMENT: &str = "--apart";
/// By which name its figures go.
pub(crate) const NAME: &str = "overlay, not root";
const END: &str = "end";

/// The process.
pub(crate) struct Apart {
    child: Child,
    ask: ChildStdin,
    answer: BufReader<ChildStdout>,
}

impl Apart {
    /// Starts it; it has cloned the mirror and made the base when this returns.
    pub(crate) fn open(sample: &Sample) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount"]).arg(std::env::current_exe().expect("this program"));
        command.arg(ARGUMENT).arg(&sample.place).arg(sample.changed()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("unshare is installed");
        let (ask, answer) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        let mut apart = Self { child, ask, answer: BufReader::new(answer) };
        apart.hear(&mut Figures::new());
        apart
    }

    /// One worktree there, from nothing to nothing.
    pub(crate) fn round(&mut self, round: usize, figures: &mut Figures) {
        writeln!(self.ask, "{round}").expect("it listens");
        self.hear(figures);
    }

    /// Ends it.
    pub(crate) fn close(mut self) {
        drop(self.ask);
        assert!(self.child.wait().expect("a child").success());
    }

    fn hear(&mut self, figures: &mut Figures) {
        loop {
            let mut line = String::new();
            assert_ne!(self.answer.read_line(&mut line).expect("text"), 0, "it has ended");
            if line.trim_end() == END {
                return;
            }
            let (step, ms) = line.trim_end().rsplit_once(' ').expect("a step and its time");
            let step = crate::report::STEPS.into_iter().find(|known| *known == step).expect("a step");
            figures.entry((NAME, step)).or_default().push(ms.parse().expect("a number"));
        }
    }
}

/// The process itself. `args` is what follows [`ARGUMENT`].
pub(crate) fn serve(mut args: impl Iterator<Item = std::ffi::OsString>) {
    let place = PathBuf::from(args.next().expect("the sample's place"));
    let changed = args.next().expect("a file").into_string().expect("UTF-8");
    let ours = Ours::at(&place, NAME, Strategy::Overlay, changed);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(ours.warm_up());
    println!("{END}");
    for line in std::io::stdin().lines() {
        let mut figures = Figures::new();
        runtime.block_on(ours.round(line.expect("text").parse().expect("a number"), &mut figures));
        for ((_, step), values) in figures {
            values.iter().for_each(|ms| println!("{step} {ms}"));
        }
        println!("{END}");
    }
}
