//! What dead daemons leave on a host: listed with the reason, removed when nobody needs it, and nothing else touched.

mod containers;
mod plant;
mod reconcile;
mod room;

use std::process::Output;

use serde_json::Value;

use crate::delivery::daemon::Seat;
use crate::delivery::host::Host;

/// What `sawmill reconcile` answers for a worker's directory.
fn reconcile(host: &Host, worker: &str, args: &[&str]) -> Vec<Value> {
    let said = run(host, worker, &[&["reconcile"], args].concat());
    let heard = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success(), "{args:?}: {}\n{}\n{heard}", said.status, String::from_utf8_lossy(&said.stderr));
    let found: Value = serde_json::from_str(&heard).expect("JSON");
    assert_eq!(found["unseen"], serde_json::json!([]), "{found:#}");
    found["findings"].as_array().expect("a list").clone()
}

fn run(host: &Host, worker: &str, args: &[&str]) -> Output {
    host.command(&Seat::of(worker), args).arg("--json").output().expect("the program runs")
}

/// The finding about what has this in its name.
fn about<'a>(findings: &'a [Value], kind: &str, part: &str) -> &'a Value {
    let is_it = |finding: &&Value| finding["kind"] == kind && text(finding, "name").contains(part);
    findings.iter().find(is_it).unwrap_or_else(|| panic!("no {kind} with {part:?} in {findings:#?}"))
}

fn text<'a>(finding: &'a Value, key: &str) -> &'a str {
    finding[key].as_str().unwrap_or_else(|| panic!("no {key} in {finding:#}"))
}

/// Kind and name of what has this fate.
fn with_fate(findings: &[Value], fate: &str) -> Vec<(String, String)> {
    let found = findings.iter().filter(|finding| finding["fate"] == fate);
    found.map(|finding| (text(finding, "kind").to_owned(), text(finding, "name").to_owned())).collect()
}
