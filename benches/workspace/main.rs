//! What a worktree costs: made, first looked at, committed from and removed, as an overlay (root's, and one in a namespace of users,
//! as a worker that is not root mounts it) and as a checkout, against git's own
//! commands and against the bare writing of the same files. All by turns in one run, on three sizes of repository.
//!
//! `cargo bench --bench workspace` (`SAWMILL_BENCH_ROUNDS`: rounds on the small one, 30 by default; the large one gets a sixth).
//! As root it makes an ext4 with a journal on a loop device and measures there: without a journal ext4 creates files many times
//! slower soon after many were deleted. Medians, in milliseconds.

mod apart;
mod disk;
mod repository;
mod ways;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use apart::Apart;
use repository::Sample;
use ways::Ours;

/// What was measured, by way and step.
type Figures = BTreeMap<(&'static str, &'static str), Vec<f64>>;

/// What a worktree goes through.
const STEPS: [&str; 4] = ["ready", "first status", "commit", "removed"];

fn main() {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == apart::ARGUMENT) {
        return apart::serve(args);
    }
    let rounds: usize = std::env::var("SAWMILL_BENCH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(30);
    let disk = disk::Disk::make();
    println!("{}", disk.description());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let mut ready = Vec::new();
    for (name, files, rounds) in
        [("small", 237, rounds), ("middle", 3_072, rounds.div_ceil(2)), ("large", 56_970, rounds.div_ceil(6))]
    {
        let sample = Sample::make(&disk.path().join(name), files);
        let mut figures = Figures::new();
        let overlay = Ours::open(&sample, sawmill::git::Strategy::Overlay);
        let checkout = Ours::open(&sample, sawmill::git::Strategy::Checkout);
        println!("\n{name}: {files} files, {:.1} MB; {rounds} rounds", sample.bytes() as f64 / 1e6);
        let first = runtime.block_on(overlay.warm_up());
        println!("  the base checkout, once: {first:.1}");
        runtime.block_on(checkout.warm_up());
        let mut apart = Apart::open(&sample);
        for round in 0..rounds {
            for ours in [&overlay, &checkout] {
                runtime.block_on(ours.round(round, &mut figures));
            }
            apart.round(round, &mut figures);
            ways::worktree_add(&sample, round, &mut figures);
            ways::clone_shared(&sample, round, &mut figures);
            ways::bare_writing(&sample, round, &mut figures);
        }
        apart.close();
        print(&mut figures);
        ready.push(median(figures.get_mut(&("overlay", "ready")).expect("measured")));
        runtime.block_on(many(&sample, &overlay, rounds));
    }
    println!("\nready on the large one ≤ 2 × ready on the small: {:.2}", ready[2] / ready[0]);
}

/// All steps, each against `git worktree add` and what goes with it.
fn print(figures: &mut Figures) {
    let steps = STEPS;
    println!("  {:<22}{:>12}{:>14}{:>12}{:>12}   × git worktree", "", steps[0], steps[1], steps[2], steps[3]);
    let git = steps.map(|step| figures.get_mut(&("git worktree", step)).map(|values| median(values)));
    for way in ["overlay", apart::NAME, "checkout", "git worktree", "git clone --shared", "bare writing"] {
        let found = steps.map(|step| figures.get_mut(&(way, step)).map(|values| median(values)));
        let cell = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
        let ratio = |at: usize| found[at].zip(git[at]).map_or_else(|| "-".to_owned(), |(ours, git)| format!("{:.3}", ours / git));
        println!(
            "  {way:<22}{:>12}{:>14}{:>12}{:>12}   {}",
            cell(found[0]),
            cell(found[1]),
            cell(found[2]),
            cell(found[3]),
            [0, 1, 2, 3].map(ratio).join("  ")
        );
    }
}

/// Eight at a time: each must succeed.
async fn many(sample: &Sample, overlay: &Ours, rounds: usize) {
    let mut took = Vec::new();
    let rounds = (rounds * 4).max(20);
    for _ in 0..rounds {
        took.push(overlay.eight_at_once().await);
    }
    println!("  eight at once, {rounds} times, as overlays, none failed: {:.2}", median(&mut took));
    let started = Instant::now();
    let failed = ways::eight_worktree_adds(sample);
    let text = format!("{:.1}, {failed} of 8 failed", started.elapsed().as_secs_f64() * 1e3);
    println!("  eight at once, once, by git worktree add: {text}");
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Runs git as an ordinary user would.
fn git(dir: &Path, args: &[&str]) {
    let output = git_command(dir, args).output().expect("git runs");
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn git_command(dir: &Path, args: &[&str]) -> std::process::Command {
    let mut command = std::process::Command::new("git");
    command.args(["-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "gc.auto=0"]).args(args).current_dir(dir);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    command
}
