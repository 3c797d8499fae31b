//! An attempt after the first one: it hears what the one before it tried, and begins clean or with what that left.

use std::fs;

use sawmill::ids::JobId;
use sawmill::job::{JobState, Stream};
use serde_json::{Value, json};

use super::revisions::{job, scripted, told, with_agent};
use super::{delivered, host};
use crate::delivery::host::{Host, Lodging, lodging};
use crate::delivery::remote::git;
use crate::git::seed::lose;

/// What the first attempt does: it adds, changes and removes, and is rejected.
const FIRST: &str = "if [ \"$SAWMILL_ATTEMPT\" = 1 ]; then\n\
    mkdir dir; echo half > dir/half.txt; echo changed > kept.txt; chmod +x kept.txt; rm gone.txt\n";

/// A job with two attempts of one round each, whose gate wants what the second one adds.
fn twice(remote: &std::path::Path, from: Option<&str>) -> Value {
    let mut spec = job(remote, "echo looking; test -e whole.txt", 0);
    spec["attempts"] = json!(2);
    spec["retry_from"] = json!(from);
    spec
}

async fn second(host: &Host, spec: &Value) -> (Value, String, Vec<String>) {
    let id = host.enqueue(spec);
    let completion = delivered(host, id).await;
    let mut told = told(host, id, 2).await;
    let previous = told.remove(0).1["previous"].take();
    let salvage = host.attempts(id).await.remove(0).salvage.expect("what the first one left");
    assert_eq!(previous["salvage"], json!(salvage));
    let paths = completion.diff.per_file.iter().map(|file| file.path.clone()).collect();
    let remote = std::path::PathBuf::from(completion.repo);
    let commit = completion.commit.expect("a commit");
    let parents = git(&remote, &["log", "-1", "--format=%P", commit.as_str()]);
    assert_eq!(parents, completion.base.as_str(), "one commit on the base");
    (previous, host.log(id, 2, Stream::System).await, paths)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_attempt_hears_what_the_last_one_tried_and_begins_clean() {
    let host = with_agent(host(lodging()).await);
    let rounds = format!("{FIRST}else test -z \"$(git status --porcelain)\" || exit 9; echo whole > whole.txt; fi");
    let remote = scripted(host.root(), &rounds);
    let worker = host.start("a").await;
    let (previous, _, paths) = second(&host, &twice(&remote, None)).await;
    assert_eq!((&previous["attempt"], &previous["taken_over"]), (&json!(1), &json!(false)));
    assert_eq!(previous["outcome"]["message"], "gate unit exited with status 1");
    let rejection = &previous["rejections"][0];
    assert_eq!((&rejection["summary"], &rejection["output"]), (&json!("Round 0"), &json!("looking")));
    assert_eq!((&rejection["gates"][0]["name"], &rejection["gates"][0]["exit"]), (&json!("unit"), &json!(1)));
    assert_eq!(paths, ["whole.txt"]);
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_what_the_last_one_left_all_of_it_is_delivered_as_one_commit() {
    let host = with_agent(host(lodging()).await);
    let rounds = format!(
        "{FIRST}else set -e; test -x kept.txt; test ! -e gone.txt; test \"$(cat dir/half.txt)\" = half; echo whole > whole.txt; fi"
    );
    let remote = scripted(host.root(), &rounds);
    let worker = host.start("a").await;
    let (previous, log, paths) = second(&host, &twice(&remote, Some("salvage"))).await;
    assert_eq!(previous["taken_over"], json!(true));
    assert!(log.contains("begins with what attempt 1 left, "), "{log}");
    assert_eq!(paths, ["dir/half.txt", "gone.txt", "kept.txt", "whole.txt"]);
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_base_moved_it_begins_clean_and_says_why() {
    // Its job moves the branch of the remote, which it does not reach from a container.
    let mut host = with_agent(host(Lodging::OnTheHost).await);
    host.set("SAWMILL_ATTEMPT__RETRY_FROM", "salvage");
    let bare = host.root().join("remote.git");
    let (git, bare) = (crate::delivery::remote::find_git(), bare.display());
    let move_main = format!(
        "g='{} -C {bare} -c user.name=a -c user.email=a@b'; \
         $g update-ref refs/heads/main $($g commit-tree -p main -m moved 'main^{{tree}}')\n",
        git.display()
    );
    let rounds = format!("{FIRST}{move_main}else test -e gone.txt || exit 9; echo whole > whole.txt; fi");
    let remote = scripted(host.root(), &rounds);
    let worker = host.start("a").await;
    let (previous, log, paths) = second(&host, &twice(&remote, None)).await;
    assert_eq!(previous["taken_over"], json!(false));
    assert!(log.contains("begins clean, and not with what attempt 1 left: that was made from "), "{log}");
    assert_eq!(paths, ["whole.txt"]);
    host.close(vec![worker]).await;
}

/// Two jobs that fail, and are asked for again when what the first one left is gone, and a file of what the other left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_what_was_left_is_gone_or_damaged_it_begins_clean_and_says_why() {
    let host = with_agent(host(lodging()).await);
    let rounds = format!("{FIRST}else test -z \"$(git status --porcelain)\" || exit 9; echo whole > whole.txt; fi");
    let remote = scripted(host.root(), &rounds);
    let mut spec = twice(&remote, Some("salvage"));
    spec["attempts"] = json!(1);
    let [gone, damaged] = [host.enqueue(&spec), host.enqueue(&spec)];
    let worker = host.start("a").await;
    for id in [gone, damaged] {
        assert_eq!(host.ended(id).await.state, JobState::Failed);
    }
    host.end(vec![worker]).await;

    let mirrors = fs::read_dir(host.state_dir("a").join("mirrors")).expect("mirrors").flatten().map(|entry| entry.path());
    let mirror = mirrors.into_iter().find(|path| path.join("objects").is_dir()).expect("a mirror");
    let salvage = async |id: JobId| host.attempts(id).await.remove(0).salvage.expect("what it left");
    let name = format!("refs/sawmill/salvage/{gone}/1");
    for repository in [&mirror, &remote] {
        git(repository, &["update-ref", "-d", &name]);
    }
    lose(&mirror, &salvage(gone).await);
    let half = git(&mirror, &["rev-parse", &format!("{}:dir/half.txt", salvage(damaged).await)]);
    lose(&mirror, &half.parse().expect("an object"));

    let worker = host.start("a").await;
    for (id, why) in [(gone, "is not there any more"), (damaged, "dir/half.txt")] {
        host.sawmill(&["job", "retry", &id.to_string()]);
        let completion = delivered(&host, id).await;
        let paths: Vec<_> = completion.diff.per_file.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["whole.txt"]);
        assert_eq!(told(&host, id, 2).await[0].1["previous"]["taken_over"], json!(false));
        let log = host.log(id, 2, Stream::System).await;
        let line = log.lines().find(|line| line.contains("begins clean, and not with what attempt 1 left: ")).unwrap_or_default();
        assert!(line.contains(why), "{log}");
    }
    host.close(vec![worker]).await;
}
