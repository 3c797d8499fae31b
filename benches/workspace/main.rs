//! What a worktree costs: made, first looked at, committed from and removed, by each strategy (overlays as root makes them, and as a worker
//! that is not root does in a namespace), against git's own commands and against the bare writing of the same files. All by turns in one run, on three sizes of repository.
//!
//! `cargo bench --bench workspace`. `SAWMILL_BENCH_ROUNDS`: rounds on the small repository, 30 by default; the large one gets a sixth.
//! `SAWMILL_BENCH_AT_ONCE`: how often eight overlays are made at once there, 1,000 by default; other strategies and sizes get less.
//! As root it makes filesystems on loop devices and measures there: an ext4 with a journal, a Btrfs for snapshots, an XFS for copies by
//! reflink. Medians, in milliseconds. A provision that fails makes it end with an error; a target that is missed is said.

mod apart;
mod disk;
mod report;
mod repository;
mod ways;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use apart::Apart;
use disk::{Disk, Kind};
use report::{Targets, median};
use repository::Sample;
use sawmill::git::Strategy;
use tokio::runtime::Runtime;
use ways::Ours;

/// What was measured, by way and step.
type Figures = BTreeMap<(&'static str, &'static str), Vec<f64>>;

/// Sizes of repositories.
const SIZES: [(&str, usize, usize); 3] = [("small", 237, 1), ("middle", 3_072, 2), ("large", 56_970, 6)];

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == apart::ARGUMENT) {
        apart::serve(args);
        return ExitCode::SUCCESS;
    }
    let number = |name, otherwise| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise);
    let (rounds, at_once): (usize, usize) = (number("SAWMILL_BENCH_ROUNDS", 30), number("SAWMILL_BENCH_AT_ONCE", 1_000));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let root = nix::unistd::geteuid().is_root();
    let plans: Vec<(Disk, Vec<Strategy>)> = if root {
        vec![
            (Disk::make(Kind::Ext4), vec![Strategy::Overlay, Strategy::Recycled, Strategy::Checkout]),
            (Disk::make(Kind::Btrfs), vec![Strategy::Snapshot, Strategy::Recycled, Strategy::Checkout]),
            (Disk::make(Kind::Xfs), vec![Strategy::Overlay, Strategy::Recycled, Strategy::Checkout]),
        ]
    } else {
        vec![(Disk::plain(), vec![Strategy::Recycled, Strategy::Checkout])]
    };
    let mut failed = 0;
    for (place, (disk, strategies)) in plans.iter().enumerate() {
        println!("\n{}", disk.description());
        let mut targets = Targets::default();
        for (name, files, less) in SIZES {
            // The first filesystem is what is measured on; the others are for what only they can.
            let rounds = rounds.div_ceil(less * if place == 0 { 1 } else { 3 });
            let sample = Sample::make(&disk.path().join(name), files);
            println!("\n  {name}: {files} files, {:.1} MB; {rounds} rounds", sample.bytes() as f64 / 1e6);
            let ours: Vec<Ours> = strategies.iter().map(|strategy| Ours::open(&sample, *strategy)).collect();
            let reflinks = if root && place > 0 { Reflinks::Measured } else { Reflinks::None };
            // Where root's overlays are measured, those of others are too.
            let apart = (root && place == 0).then(|| Apart::open(&sample));
            let mut figures = measure(&runtime, &sample, &ours, apart, rounds, reflinks);
            report::print(&mut figures);
            targets.note(name, &mut figures);
            for (ours, strategy) in ours.iter().zip(strategies) {
                let fewer = if matches!(strategy, Strategy::Overlay) { 1 } else { 20 };
                let times = (at_once / (less * less * fewer * if place == 0 { 1 } else { 10 })).max(2);
                failed += many(&runtime, ours, times);
            }
            let (started, refused) = (Instant::now(), ways::eight_worktree_adds(&sample));
            let took = started.elapsed().as_secs_f64() * 1e3;
            println!("    eight at once, once, by git worktree add: {took:.1}, {refused} of 8 failed");
        }
        targets.print();
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Goes through all ways by turns.
fn measure(
    runtime: &Runtime,
    sample: &Sample,
    ours: &[Ours],
    mut apart: Option<Apart>,
    rounds: usize,
    reflinks: Reflinks,
) -> Figures {
    let mut figures = Figures::new();
    for ours in ours {
        println!("    the first one by {}: {:.1}", ours.name(), runtime.block_on(ours.warm_up()));
    }
    for round in 0..rounds {
        for ours in ours {
            runtime.block_on(ours.round(round, &mut figures));
        }
        if let Some(apart) = &mut apart {
            apart.round(round, &mut figures);
        }
        ways::worktree_add(sample, round, &mut figures);
        ways::clone_shared(sample, round, &mut figures);
        ways::bare_writing(sample, round, &mut figures);
        if reflinks == Reflinks::Measured {
            ways::reflinks(sample, &mut figures);
        }
    }
    if let Some(apart) = apart {
        apart.close();
    }
    figures
}

/// Whether the filesystem can share what is in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reflinks {
    Measured,
    None,
}

/// Eight at a time; how many failed.
fn many(runtime: &Runtime, ours: &Ours, times: usize) -> usize {
    let (mut took, mut failed) = (Vec::new(), 0);
    for _ in 0..times {
        let (time, more) = runtime.block_on(ours.eight_at_once());
        took.push(time);
        failed += more;
    }
    let (name, all) = (ours.name(), times * 8);
    println!("    eight at once, {times} times, by {name}: {:.2}, {failed} of {all} failed", median(&mut took));
    failed
}

/// Runs git as an ordinary user would.
fn git(dir: &std::path::Path, args: &[&str]) {
    let output = git_command(dir, args).output().expect("git runs");
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn git_command(dir: &std::path::Path, args: &[&str]) -> std::process::Command {
    let mut command = std::process::Command::new("git");
    command.args(["-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "gc.auto=0"]).args(args).current_dir(dir);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    command
}
