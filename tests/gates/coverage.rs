//! Coverage that a gate measures: with its difference to what was delivered before, and never decisive unless it is required.

use std::path::Path;

use sawmill::job::{Completion, Coverage, Stream};
use serde_json::{Value, json};

use super::{delivered, host, rejected, remote};
use crate::delivery::host::{Host, Lodging};

/// A job that appends a line, and whose gate writes this as its report.
fn job(remote: &Path, report: &str, wish: &Value) -> Value {
    let gate = format!("printf '{report}' > lcov.info");
    json!({ "repo": remote, "base": "main", "task": { "command": "echo more >> work.txt" },
        "gates": [{ "name": "unit", "command": gate, "coverage": wish }] })
}

fn lcov(hit: u32) -> String {
    format!("SF:a.rs\\nLF:200\\nLH:{hit}\\nend_of_record\\n")
}

fn of(completion: &Completion) -> &Coverage {
    completion.gates[0].coverage.as_ref().expect("it was measured")
}

async fn of_job(host: &Host, spec: &Value) -> (Completion, Coverage) {
    let completion = delivered(host, host.enqueue(spec)).await;
    let coverage = of(&completion).clone();
    (completion, coverage)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gate_says_how_much_more_is_covered_than_in_what_was_delivered_before() {
    let host = host(Lodging::OnTheHost).await;
    let remote = remote(host.root(), &[("work.txt", "one\n")]);
    let worker = host.start("a").await;
    let wish = json!({ "path": "lcov.info" });
    let (first, coverage) = of_job(&host, &job(&remote, &lcov(100), &wish)).await;
    assert_eq!((coverage.lines.map(|lines| (lines.covered, lines.total)), &coverage.before), (Some((100, 200)), &None));

    let (second, coverage) = of_job(&host, &job(&remote, &lcov(103), &wish)).await;
    let before = coverage.before.clone().expect("there is one before it");
    assert_eq!((before.job, &before.commit, before.lines.covered), (first.job, &first.commit, 100));
    assert_eq!(coverage.delta_basis_points, Some(150));
    let shown = host.sawmill(&["job", "show", &second.job.to_string()]);
    assert_eq!(shown["coverage"]["unit"]["delta_basis_points"], json!(150), "{shown}");
    let log = host.log(second.job, 1, Stream::System).await;
    let said =
        format!("gate unit: coverage is 51.50 % of 200 lines, +1.50 points against {}", first.commit.expect("one").short());
    assert!(log.contains(&said), "{log}");

    // Another base, and a gate of another name, have a line of their own.
    let mut elsewhere = job(&remote, &lcov(1), &wish);
    elsewhere["base"] = json!("HEAD");
    assert_eq!(of_job(&host, &elsewhere).await.1.before, None);
    // What was rejected is no measure of anything.
    let mut bad = job(&remote, &lcov(2), &wish);
    bad["gates"].as_array_mut().expect("gates").push(json!({ "name": "no", "command": "false" }));
    rejected(&host, host.enqueue(&bad)).await;
    let (_, coverage) = of_job(&host, &job(&remote, &lcov(103), &wish)).await;
    assert_eq!((coverage.delta_basis_points, coverage.before.map(|before| before.job)), (Some(0), Some(second.job)));
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_that_cannot_be_used_is_said_and_rejects_only_where_it_is_required() {
    let host = host(Lodging::OnTheHost).await;
    let remote = remote(host.root(), &[("work.txt", "one\n")]);
    let worker = host.start("a").await;
    let cases = [
        ("SF:a.rs\\nDA:1,1\\n", "lcov.info", "lcov.info: it is cut off in the middle of a record"),
        ("<html/>", "lcov.info", "lcov.info: it is in the form neither of lcov nor of Cobertura"),
        ("", "coverage/*.xml", "the gate wrote no file coverage/*.xml"),
    ];
    for (report, path, flaw) in cases {
        let (completion, coverage) = of_job(&host, &job(&remote, report, &json!({ "path": path }))).await;
        assert_eq!((coverage.flaw.as_deref(), coverage.lines, completion.gates[0].passed), (Some(flaw), None, true));
        let why = rejected(&host, host.enqueue(&job(&remote, report, &json!({ "path": path, "required": true })))).await;
        assert_eq!(
            why,
            format!("gate unit exited with status 0, and its report on coverage, which is required, cannot be used: {flaw}")
        );
    }
    // Nor is one that the commit has the gate's: what the job wrote says nothing of what its tests cover.
    let mut planted = job(&remote, "", &json!({ "path": "planted.info" }));
    planted["task"]["command"] = json!("printf 'SF:a\\nLF:9\\nLH:9\\nend_of_record\\n' > planted.info");
    let flaw = of_job(&host, &planted).await.1.flaw.expect("a flaw");
    assert!(flaw.starts_with("the gate wrote no file planted.info: 1 report was there before it began"), "{flaw}");
    // A link is not followed.
    let mut linked = job(&remote, "", &json!({ "path": "link.info" }));
    linked["gates"][0]["command"] = json!("printf 'SF:a\\nLF:1\\nLH:1\\nend_of_record\\n' > real; ln -s real link.info");
    assert_eq!(of_job(&host, &linked).await.1.flaw.as_deref(), Some("the gate wrote no file link.info"));
    host.close(vec![worker]).await;
}
