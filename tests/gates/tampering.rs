//! Jobs that prepare the ground for their gates: the gates see the commit that will be delivered, and nothing else.

use sawmill::job::Stream;
use serde_json::json;

use super::{delivered, host, installed, job, rejected, remote};
use crate::delivery::host::{Host, Lodging, lodging};
use crate::delivery::remote::{git, refs};

/// What a job does beside its work: everything in it is left out of a commit.
const PLANTED: &str = "echo work > work.txt; mv dir moved; rm old.txt; chmod +x tool; ln -s tool link; \
    mkdir -p ignored \"$HOME/bin\"; printf '#!/bin/sh\\nexit 0\\n' > ignored/unit; cp ignored/unit \"$HOME/bin/test\"; \
    echo planted > \"$TMPDIR/planted\"; echo planted > \"$HOME/.profile\"; \
    mkdir -p .git/hooks; cp ignored/unit .git/hooks/post-index-change; chmod +x ignored/unit .git/hooks/*; \
    git config core.hooksPath ignored; git config core.fsmonitor ignored/unit; git config user.name Mallory; \
    printf 'work.txt filter=x\\n' > .git/info/attributes; printf '*\\n' > .git/info/exclude; \
    rm \"$SAWMILL_SPEC\"; (setsid sh -c 'while :; do echo bad >> ticking; done' > /dev/null 2>&1 &)";

/// What holds where nothing of that is left.
const CLEAN: &str = "set -e; test \"$(cat work.txt)\" = work; test -e moved/file; test ! -e dir; test ! -e old.txt; test -x tool; \
    test \"$(readlink link)\" = tool; test ! -e ignored; test -z \"$(ls -A \"$HOME\")\"; test -z \"$(ls -A \"$TMPDIR\")\"; \
    test -z \"$(git status --porcelain --ignored)\"; git diff --quiet HEAD; test ! -e .git/hooks/post-index-change; \
    test \"$(git config user.name)\" = Sawmill; test -z \"$(git config core.hooksPath || :)\"; \
    test ! -s .git/info/exclude; test ! -e .git/info/attributes; test -s \"$SAWMILL_SPEC\"; \
    echo \"judged $(git rev-parse 'HEAD^{tree}') in $PWD\"";

async fn nothing_planted_is_there(host: Host, lodging: Lodging) {
    let files = [(".gitignore", "ignored/\n"), ("dir/file", "1\n"), ("old.txt", "1\n"), ("tool", "#!/bin/sh\n"), ("kept", "1\n")];
    let remote = remote(host.root(), &files);
    let worker = host.start("a").await;
    let id = host.enqueue(&job(&remote, PLANTED, &[CLEAN, CLEAN]));
    let completion = delivered(&host, id).await;
    let tree = completion.tree.expect("a change");
    assert!(completion.gates.iter().all(|gate| gate.passed && gate.tree == tree), "{:?}", completion.gates);
    let said = host.log(id, 1, Stream::Stdout).await;
    assert_eq!(said.matches(&format!("judged {tree} in ")).count(), 2, "{said}");
    if lodging == Lodging::InContainers {
        assert_eq!(said.matches(" in /workspace/tree\n").count(), 2, "the path is that which the job knew: {said}");
    }
    let said = host.log(id, 1, Stream::System).await;
    assert!(said.contains("background processes were left behind and ended"), "{said}");
    let branch = completion.branch.expect("a branch");
    assert_eq!(git(&remote, &["rev-parse", &format!("{branch}^{{tree}}")]), tree.as_str());
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_a_job_plants_beside_its_commit_is_there_when_gates_run() {
    nothing_planted_is_there(host(Lodging::OnTheHost).await, Lodging::OnTheHost).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_is_it_in_a_container_where_the_paths_stay() {
    nothing_planted_is_there(host(Lodging::InContainers).await, Lodging::InContainers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_is_it_in_a_container_whose_tmp_is_hidden_from_gates() {
    let host = installed().await;
    let remote = remote(host.root(), &[("kept", "1\n")]);
    let worker = host.start("a").await;
    let command = "echo planted > /tmp/planted; test \"$TMPDIR\" = /tmp && echo work > work.txt";
    let gate = "test \"$TMPDIR\" = /tmp && test -z \"$(ls -A /tmp)\" && echo of-a-gate > /tmp/gate";
    let completion = delivered(&host, host.enqueue(&job(&remote, command, &[gate, gate]))).await;
    assert!(completion.gates.iter().all(|gate| gate.passed), "{:?}", completion.gates);
    host.close(vec![worker]).await;
    nothing_planted_is_there(installed().await, Lodging::InContainers).await;
}

async fn no_key_is_there(lodging: Lodging) {
    let mut host = host(lodging).await;
    host.set("SAWMILL_BACKENDS__SHELL__ENV", r#"["MODEL_KEY", "SHARED"]"#);
    host.set("MODEL_KEY", "correct-horse-battery");
    host.set("SHARED", "of-the-worker");
    let remote = remote(host.root(), &[("kept", "1\n")]);
    let worker = host.start("a").await;
    let command = "test \"$MODEL_KEY\" = correct-horse-battery && test \"$SHARED\" = of-the-job && echo work > work.txt";
    let gate =
        "test -z \"${MODEL_KEY+set}\" && test \"$SHARED\" = of-the-job && test \"$OWN\" = own && ! env | grep -q correct-horse";
    let mut spec = job(&remote, command, &[gate]);
    spec["env"] = json!({ "SHARED": "of-the-job", "OWN": "own" });
    let completion = delivered(&host, host.enqueue(&spec)).await;
    assert!(completion.gates[0].passed, "{:?}", completion.gates);
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gate_finds_no_key_of_the_backends_and_what_its_job_sets() {
    no_key_is_there(Lodging::OnTheHost).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gate_in_a_container_finds_no_key_of_the_backends() {
    no_key_is_there(Lodging::InContainers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gate_in_a_container_keeps_its_ground_while_that_of_the_gate_before_is_deleted() {
    let host = host(Lodging::InContainers).await;
    let remote = remote(host.root(), &[("kept", "1\n")]);
    let worker = host.start("a").await;
    let slow = "for i in 1 2 3 4 5 6; do sleep 0.5; git status --porcelain && test -e work.txt && test -e kept || exit 1; done";
    let id = host.enqueue(&job(&remote, "echo work > work.txt", &["true", slow, slow]));
    let completion = delivered(&host, id).await;
    assert!(completion.gates.iter().all(|gate| gate.passed), "{:?}", completion.gates);
    let said = host.log(id, 1, Stream::System).await;
    assert!(!said.contains("gates run below the job's directory"), "{said}");
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_that_passes_with_ignored_files_only_rejects_and_the_jobs_own_tree_is_salvaged() {
    let host = host(lodging()).await;
    let files = [(".gitignore", "settings\n"), ("check.sh", "RESULT=bad; . ./settings; test \"$RESULT\" = good\n")];
    let remote = remote(host.root(), &files);
    let worker = host.start("a").await;
    let command = "echo RESULT=good > settings; echo work > work.txt; sh check.sh";
    let id = host.enqueue(&job(&remote, command, &["echo spoiled > work.txt; sh check.sh"]));
    let why = rejected(&host, id).await;
    assert!(why.starts_with("gate gate-0 exited with status "), "{why}");
    let salvage = refs(&remote, "refs/sawmill/salvage/");
    let [(name, _)] = salvage.as_slice() else { panic!("{salvage:?}") };
    assert_eq!(git(&remote, &["show", &format!("{name}:work.txt")]), "work", "it is of the job's tree, not of the gate's");
    assert_eq!(refs(&remote, "refs/heads/sawmill/"), []);
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_gate_sees_what_another_gate_wrote() {
    let host = host(lodging()).await;
    let remote = remote(host.root(), &[(".gitignore", "target/\n"), ("kept", "1\n")]);
    let worker = host.start("a").await;
    let spoil = "mkdir target; echo bad > target/unit; echo bad > work.txt; rm kept; echo bad > \"$HOME/.x\"; git config a.b c";
    let look =
        "test ! -e target && test \"$(cat work.txt)\" = work && test -e kept && test ! -e \"$HOME/.x\" && ! git config a.b";
    let id = host.enqueue(&job(&remote, "echo work > work.txt", &[spoil, look]));
    let completion = delivered(&host, id).await;
    assert_eq!(completion.diff.files, 1, "nor is it delivered");
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nothing_changed_gates_judge_the_base() {
    let host = host(lodging()).await;
    let remote = remote(host.root(), &[(".gitignore", "junk\n"), ("kept", "1\n")]);
    let worker = host.start("a").await;
    let mut spec = job(&remote, "echo > junk", &["test -e kept && test ! -e junk"]);
    spec["changes"] = "optional".into();
    let id = host.enqueue(&spec);
    let completion = delivered(&host, id).await;
    assert_eq!(completion.commit, None);
    assert_eq!(completion.gates[0].tree.as_str(), git(&remote, &["rev-parse", "main^{tree}"]));
    host.close(vec![worker]).await;
}
