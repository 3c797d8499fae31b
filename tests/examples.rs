//! The examples of the documentation, run as they stand there: only paths are others.

use std::fs;
use std::path::Path;
use std::time::Duration;

use sawmill::job::{Job, Stream};
use serde_json::{Value, json};

use crate::delivery::host::{Host, Lodging, On};
use crate::delivery::remote::{git, publish, write_program};

/// The first block in this language after a heading or a word.
fn block<'a>(page: &'a str, after: &str, language: &str) -> &'a str {
    let (_, rest) = page.split_once(after).unwrap_or_else(|| panic!("the page has no {after:?}"));
    let (_, rest) = rest.split_once(&format!("\n```{language}\n")).unwrap_or_else(|| panic!("no {language} after {after:?}"));
    rest.split_once("\n```\n").unwrap_or_else(|| panic!("it has no end")).0
}

/// The program of which the page says what it does.
const SPDX: &str = "#!/bin/sh\nlicence=$1; shift\nfor file; do\n    \
    printf '# SPDX-License-Identifier: %s\\n' \"$licence\" | cat - \"$file\" > \"$file.new\" && mv \"$file.new\" \"$file\" && echo \"$file: added\"\n\
done\n";

/// A host whose configuration has the section of the example, by the variables that say the same.
async fn host(section: &str, dir: &Path) -> Host {
    let mut host = Host::new(On::Sqlite, Duration::from_secs(600), 1).await.lodge(Lodging::OnTheHost).await;
    let section: toml::Table = section.replace("/opt/spdx", dir.to_str().expect("UTF-8")).parse().expect("it is TOML");
    let backend = section["backends"]["spdx"].as_table().expect("a section");
    let names: Vec<&str> = backend.keys().map(String::as_str).collect();
    assert_eq!(names, ["command", "kind", "timeout"], "this test sets these");
    host.set("SAWMILL_BACKENDS__SPDX__KIND", backend["kind"].as_str().expect("text"));
    host.set("SAWMILL_BACKENDS__SPDX__COMMAND", &backend["command"].to_string());
    host.set("SAWMILL_BACKENDS__SPDX__TIMEOUT", backend["timeout"].as_str().expect("text"));
    host
}

/// What the page shows of a job's log is in it, but for the ids of commits.
async fn check_log(host: &Host, job: &Job, shown: &str) {
    let (ours, programs): (Vec<&str>, Vec<&str>) = shown.lines().partition(|line| line.starts_with("sawmill: "));
    assert_eq!(host.log(job.id, 1, Stream::Stdout).await.lines().collect::<Vec<_>>(), programs);
    let id = regex::Regex::new("[0-9a-f]{10}").expect("a pattern");
    let said = host.log(job.id, 1, Stream::System).await;
    let said: Vec<_> = said.lines().map(|line| id.replace_all(line, "ID")).collect();
    for line in ours {
        let line = id.replace_all(line, "ID");
        assert!(said.contains(&line), "{line} is not in {said:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_is_not_in_the_registry_is_added_as_the_page_says() {
    let page = include_str!("../docs/backends.md");
    let dir = tempfile::tempdir().expect("a directory");
    let place = dir.path().to_str().expect("UTF-8");
    let heading = "## Adding one in twenty minutes";
    write_program(&dir.path().join("spdx"), SPDX);
    write_program(&dir.path().join("backend.py"), &format!("{}\n", block(page, heading, "python").replace("/opt/spdx", place)));
    let host = host(block(page, heading, "toml"), dir.path()).await;
    let seed = host.root().join("seed");
    fs::create_dir(&seed).expect("a directory");
    for name in ["hello.py", "x.py"] {
        fs::write(seed.join(name), "print('hello')\n").expect("a file");
    }
    let remote = publish(&seed, &host.root().join("app.git"));
    let worker = host.start("a").await;

    // The command line of the page, word by word.
    let line =
        page.lines().find_map(|line| line.strip_prefix("$ sawmill enqueue --repo app.git -b spdx ")).expect("a command line");
    let (instruction, rest) = line.strip_prefix("-i \"").and_then(|rest| rest.split_once('"')).expect("an instruction");
    assert_eq!(rest, " --follow");
    let answer = host.sawmill(&["enqueue", "--repo", "app.git", "-b", "spdx", "-i", instruction]);
    let job = host.succeeded(answer["id"].as_str().expect("an id").parse().expect("an id")).await;
    let (_, told) = page.split_once("--follow\n…\n").expect("what it prints");
    check_log(&host, &job, told.split_once("\n```").expect("it ends").0).await;
    assert_eq!(git(&remote, &["show", &format!("{}:x.py", job.branch)]), "# SPDX-License-Identifier: MIT\nprint('hello')");

    // What is not on the command line.
    let inputs = page.split('`').find(|text| text.starts_with("\"task\": {") && text.contains("\"inputs\"")).expect("the inputs");
    let mut spec: Value = serde_json::from_str(&format!("{{{inputs}}}")).expect("JSON");
    spec["repo"] = json!(remote);
    spec["backend"] = json!("spdx");
    let job = host.succeeded(host.enqueue(&spec)).await;
    let message = git(&remote, &["log", "-1", "--format=%s", job.branch.as_str()]);
    assert_eq!(message, "Add Apache-2.0 headers");
    host.close(vec![worker]).await;
}
