//! What dead daemons leave on a host: listed with the reason, removed when nobody needs it, and nothing else touched.

mod containers;
mod inodes;
mod plant;
mod reconcile;
mod room;

use serde_json::Value;

use crate::delivery::daemon::Seat;
use crate::delivery::host::Host;

/// What `sawmill reconcile` answers for a worker's directory.
fn reconcile(host: &Host, worker: &str, args: &[&str]) -> Vec<Value> {
    reconcile_at(host, &Seat::of(worker), args)
}

/// The same, asked by whoever is in that place.
pub(crate) fn reconcile_at(host: &Host, seat: &Seat, args: &[&str]) -> Vec<Value> {
    let found = answer_at(host, seat, &[&["reconcile"], args].concat());
    assert_eq!(found["unseen"], serde_json::json!([]), "{found:#}");
    found["findings"].as_array().expect("a list").clone()
}

/// What a command answers that succeeds.
pub(crate) fn answer_at(host: &Host, seat: &Seat, args: &[&str]) -> Value {
    let said = host.command(seat, args).arg("--json").output().expect("the program runs");
    let heard = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success(), "{args:?}: {}\n{}\n{heard}", said.status, String::from_utf8_lossy(&said.stderr));
    serde_json::from_str(&heard).expect("JSON")
}

/// The finding about what has this in its name.
pub(crate) fn about<'a>(findings: &'a [Value], kind: &str, part: &str) -> &'a Value {
    let is_it = |finding: &&Value| finding["kind"] == kind && text(finding, "name").contains(part);
    findings.iter().find(is_it).unwrap_or_else(|| panic!("no {kind} with {part:?} in {findings:#?}"))
}

pub(crate) fn text<'a>(finding: &'a Value, key: &str) -> &'a str {
    finding[key].as_str().unwrap_or_else(|| panic!("no {key} in {finding:#}"))
}

/// Kind and name of what has this fate.
pub(crate) fn with_fate(findings: &[Value], fate: &str) -> Vec<(String, String)> {
    let found = findings.iter().filter(|finding| finding["fate"] == fate);
    found.map(|finding| (text(finding, "kind").to_owned(), text(finding, "name").to_owned())).collect()
}
