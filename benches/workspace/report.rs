//! What was measured, in words, and beside what it is to be.

use std::collections::BTreeMap;

use crate::{Figures, apart};

/// What a worktree goes through.
pub(crate) const STEPS: [&str; 4] = ["ready", "first status", "commit", "removed"];
const WAYS: [&str; 9] = [
    "overlay",
    apart::NAME,
    "snapshot",
    "recycled",
    "checkout",
    "git worktree",
    "git clone --shared",
    "cp --reflink",
    "bare writing",
];

/// All steps, each against `git worktree add` and what goes with it.
pub(crate) fn print(figures: &mut Figures) {
    let [ready, status, commit, removed] = STEPS;
    println!("    {:<20}{ready:>11}{status:>14}{commit:>11}{removed:>11}   × git worktree", "");
    let git = STEPS.map(|step| of(figures, "git worktree", step));
    for way in WAYS {
        let found = STEPS.map(|step| of(figures, way, step));
        if found.iter().all(Option::is_none) {
            continue;
        }
        let cell = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
        let ratio = |at: usize| found[at].zip(git[at]).map_or_else(|| "-".to_owned(), |(ours, git)| format!("{:.3}", ours / git));
        println!(
            "    {way:<20}{:>11}{:>14}{:>11}{:>11}   {}",
            cell(found[0]),
            cell(found[1]),
            cell(found[2]),
            cell(found[3]),
            [0, 1, 2, 3].map(ratio).join("  ")
        );
    }
}

/// What one filesystem's figures come to.
#[derive(Debug, Default)]
pub(crate) struct Targets {
    /// By size, way and step.
    found: BTreeMap<(&'static str, &'static str, &'static str), f64>,
}

impl Targets {
    pub(crate) fn note(&mut self, size: &'static str, figures: &mut Figures) {
        for way in WAYS {
            for step in STEPS {
                self.found.extend(of(figures, way, step).map(|value| ((size, way, step), value)));
            }
        }
    }

    /// Says of each target whether it is reached, where it was measured.
    pub(crate) fn print(&self) {
        println!("\n  targets, as ratios to git worktree add, git add -A with git commit, and git worktree remove");
        for way in ["overlay", apart::NAME, "snapshot"] {
            self.say(way, "ready", "large", 0.02);
            self.say(way, "ready", "small", 0.2);
            self.say(way, "removed", "large", 0.02);
        }
        for way in ["overlay", apart::NAME] {
            for size in ["middle", "large"] {
                self.say(way, "commit", size, 0.1);
            }
        }
        for size in ["small", "middle", "large"] {
            self.say("checkout", "ready", size, 0.7);
            self.say("recycled", "ready", size, 0.7);
        }
        for way in ["recycled", "checkout"] {
            self.say(way, "removed", "large", 0.02);
        }
        for way in ["overlay", apart::NAME, "snapshot"] {
            let ready = |size| self.found.get(&(size, way, "ready"));
            if let (Some(large), Some(small)) = (ready("large"), ready("small")) {
                line(&format!("{way}: ready on the large one, as a ratio to the small one"), large / small, 2.0);
            }
        }
    }

    fn say(&self, way: &'static str, step: &'static str, size: &'static str, most: f64) {
        let of = |way| self.found.get(&(size, way, step));
        if let (Some(ours), Some(git)) = (of(way), of("git worktree")) {
            line(&format!("{way}: {step} on the {size} one"), ours / git, most);
        }
    }
}

fn line(what: &str, found: f64, most: f64) {
    let verdict = if found <= most { "reached" } else { "MISSED" };
    println!("    {what:<62}{found:>8.4}   ≤ {most:<5} {verdict}");
}

fn of(figures: &mut Figures, way: &'static str, step: &'static str) -> Option<f64> {
    figures.get_mut(&(way, step)).map(|values| median(values))
}

/// The middle one of some values.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
