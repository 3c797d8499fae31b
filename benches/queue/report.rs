//! The figures, and whether what is to be reached is reached.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection, SqliteConnection};

/// All values by database, measure and load, then by queue.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<(Row, BTreeMap<&'static str, Vec<f64>>)>,
}

type Row = (&'static str, String, &'static str);

/// The order of columns: ours, then the others.
const NAMES: [&str; 4] = ["sawmill", "graphile_worker", "apalis-postgres", "apalis-sqlite"];

impl Report {
    pub(crate) fn put(&mut self, (kind, what, load): (&'static str, &str, &'static str), name: &'static str, values: Vec<f64>) {
        let row = (kind, what.to_owned(), load);
        let at = self.rows.iter().position(|(known, _)| *known == row).unwrap_or_else(|| {
            self.rows.push((row, BTreeMap::new()));
            self.rows.len() - 1
        });
        self.rows[at].1.entry(name).or_default().extend(values);
    }

    pub(crate) fn print(&mut self) {
        self.rows.sort_by_key(|(row, _)| order(row));
        for kind in ["postgres", "sqlite"] {
            let rows: Vec<_> = self.rows.iter().filter(|((of, _, _), _)| *of == kind).collect();
            let names: Vec<&str> = NAMES.into_iter().filter(|name| rows.iter().any(|(_, by)| by.contains_key(name))).collect();
            if names.is_empty() {
                continue;
            }
            println!("\n{kind}: median (least to most); beside others, what ours is of theirs\n");
            print!("{:<48} {:<16}", "", "load");
            names.iter().for_each(|name| print!(" {name:>34}"));
            println!();
            for ((_, what, load), by) in rows {
                let parts: &[(&str, f64)] = if what.ends_with("ms") { &[(" p50", 0.5), (" p99", 0.99)] } else { &[("", 0.5)] };
                for (suffix, part) in parts {
                    print!("{:<48} {load:<16}", format!("{what}{suffix}"));
                    for name in &names {
                        print!(" {:>34}", cell(by, name, *part));
                    }
                    println!();
                }
            }
        }
        println!("\nto be reached (ratios of medians)");
        self.judge();
    }

    fn judge(&self) {
        let ours = |kind, what: &str, load| self.get(kind, what, load, "sawmill", 0.5);
        let slots = |slots| format!("claim + finish/s, {slots} slots");
        let pg = "postgres";
        for (count, least) in [(32, 1.0), (8, 0.5)] {
            for load in ["empty", "waiting"] {
                let theirs = self.get(pg, &slots(count), load, "graphile_worker", 0.5);
                at_least(
                    &format!("PostgreSQL, {count} slots, {load}: of graphile_worker"),
                    ours(pg, &slots(count), load),
                    theirs,
                    least,
                );
            }
        }
        for count in [1, 8, 32] {
            let theirs = self.get(pg, &slots(count), "waiting", "apalis-postgres", 0.5);
            at_least(
                &format!("PostgreSQL, {count} slots, waiting: of apalis-postgres"),
                ours(pg, &slots(count), "waiting"),
                theirs,
                20.0,
            );
        }
        for kind in [pg, "sqlite"] {
            for count in [1, 8, 32] {
                let (empty, full) = (ours(kind, &slots(count), "empty"), ours(kind, &slots(count), "million waiting"));
                at_most(
                    &format!("{kind}, {count} slots: cost with a million waiting, of that of an empty queue"),
                    empty,
                    full,
                    1.2,
                );
            }
        }
        let long = |suffix| ours(pg, &format!("claim + finish/s, 8 slots, long{suffix}"), "empty");
        at_least("PostgreSQL, under a snapshot held: of without", long(", a snapshot held"), long(""), 0.7);
        let delay = |name, part| self.get(pg, "enqueue to start, ms", "empty", name, part);
        at_most("PostgreSQL, enqueue to start p50 in ms", delay("sawmill", 0.5), Some(1.0), 1.5);
        at_most(
            "PostgreSQL, enqueue to start p99: of graphile_worker",
            delay("sawmill", 0.99),
            delay("graphile_worker", 0.99),
            1.0,
        );
        for count in [1, 8, 32] {
            for load in ["empty", "waiting", "finished"] {
                let theirs = self.get("sqlite", &slots(count), load, "apalis-sqlite", 0.5);
                at_least(
                    &format!("SQLite, {count} slots, {load}: of apalis-sqlite"),
                    ours("sqlite", &slots(count), load),
                    theirs,
                    3.0,
                );
            }
        }
    }

    fn get(&self, kind: &str, what: &str, load: &str, name: &str, part: f64) -> Option<f64> {
        let (_, by) = self.rows.iter().find(|((k, w, l), _)| *k == kind && w == what && *l == load)?;
        by.get(name).map(|values| quantile(values, part))
    }
}

fn order((_, what, load): &Row) -> (usize, String, usize) {
    let first = ["enqueue/s", "claim", "enqueue to"].iter().position(|start| what.starts_with(start)).unwrap_or(9);
    let second = ["1 ", "8 slots", "8 at", "32 "].iter().position(|part| what.contains(part)).unwrap_or(9);
    let load = ["empty", "waiting", "finished"].iter().position(|word| word == load).unwrap_or(9);
    (first * 10 + second, what.clone(), load)
}

fn cell(by: &BTreeMap<&'static str, Vec<f64>>, name: &str, part: f64) -> String {
    let Some(values) = by.get(name) else { return "-".to_owned() };
    let (value, least, most) = (quantile(values, part), quantile(values, 0.0), quantile(values, 1.0));
    let show = |value: f64| if value < 20.0 { format!("{value:.2}") } else { format!("{value:.0}") };
    let ratio = match by.get("sawmill") {
        Some(ours) if name != "sawmill" => format!(" {:>6}x", show(quantile(ours, part) / value)),
        _ => String::new(),
    };
    format!("{} ({} to {}){ratio}", show(value), show(least), show(most))
}

fn at_least(what: &str, ours: Option<f64>, theirs: Option<f64>, least: f64) {
    verdict(what, ours, theirs, &format!("at least {least}"), |ratio| ratio >= least);
}

fn at_most(what: &str, ours: Option<f64>, theirs: Option<f64>, most: f64) {
    verdict(what, ours, theirs, &format!("at most {most}"), |ratio| ratio <= most);
}

fn verdict(what: &str, ours: Option<f64>, theirs: Option<f64>, bound: &str, holds: impl Fn(f64) -> bool) {
    let (Some(ours), Some(theirs)) = (ours, theirs) else { return };
    let ratio = ours / theirs;
    println!("  {:<12} {what}: {ratio:.2} ({bound})", if holds(ratio) { "reached" } else { "NOT reached" });
}

fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index into few values")]
    let at = ((sorted.len() - 1) as f64 * part).round() as usize;
    sorted[at]
}

/// Says what the figures were measured on.
pub(crate) async fn machine(server: &str, scratch: &Path) {
    let model = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        model.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown").trim_start_matches(['\t', ':', ' ']);
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    println!("{cores} cores of {model}; files on {}", filesystem(scratch));
    let mut connection = PgConnection::connect(server).await.expect("the server answers");
    let mut settings = Vec::new();
    for name in ["server_version", "fsync", "synchronous_commit", "shared_buffers", "max_wal_size"] {
        let value: String =
            sqlx::query_scalar(AssertSqlSafe(format!("SHOW {name}"))).fetch_one(&mut connection).await.expect("a setting");
        settings.push(format!("{name} {value}"));
    }
    println!("PostgreSQL: {}", settings.join(", "));
    if settings[1].ends_with("off") {
        println!("  its commits are NOT durable: figures of writes are too good, for all queues on it");
    }
    let mut connection = SqliteConnection::connect("sqlite::memory:").await.expect("SQLite opens");
    let version: String = sqlx::query_scalar("SELECT sqlite_version()").fetch_one(&mut connection).await.expect("a version");
    println!("SQLite {version}, write-ahead log, synchronous FULL");
    println!("every answer waits for the disk, of all queues, but those to sawmill's claims");
}

fn filesystem(path: &Path) -> String {
    let output = Command::new("stat").args(["-f", "-c", "%T"]).arg(path).output().expect("stat runs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
