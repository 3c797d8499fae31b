//! The life of jobs in such worktrees: made, judged, taken up, salvaged, kept.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use sawmill::ids::JobId;
use sawmill::job::{JobState, LogVerdict, Stream};
use serde_json::json;

use super::{NOBODY, Scene};
use crate::delivery::host::until;
use crate::delivery::remote::{git, git_command, refs};
use crate::git::fixture::mounts_below;

/// A lease that does not run out within a test, and one that is waited out.
const LONG: Duration = Duration::from_secs(30);
pub(super) const SHORT: Duration = Duration::from_secs(4);

/// What can be done to the files of a base, and what a job there finds.
const EVERYTHING: &str = "set -e
grep -E '^Cap(Inh|Prm|Eff|Amb):' /proc/self/status
id -u
grep -c \" $PWD rw,.* overlay sawmill .*userxattr\" /proc/self/mountinfo
test -z \"$(git status --porcelain)\"
rm gone.txt
rm -r docs && mkdir docs && echo new > docs/new.md
if git mv src other 2>/dev/null; then echo 'git moves it'; else echo 'git does not move it'; fi
mv src moved
echo more >> README.md
chmod 755 README.md
ln -s README.md link
echo left > x.tmp";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_delivers_whatever_it_did_and_is_judged_on_clean_ground() {
    let scene = Scene::set(LONG).await;
    let gate = "set -e
test -z \"$(git status --porcelain)\"
test ! -e gone.txt && test ! -e src && test ! -e docs/old.md && test ! -e docs/deep && test ! -e x.tmp
test -f docs/new.md && test -f moved/deep/mod.rs && test -x README.md
echo dirt > dirt.txt";
    let job = scene.enqueue(EVERYTHING, &json!({ "gates": [{ "name": "whole", "command": gate }] }));
    let worker = scene.start().await;
    let done = scene.host.succeeded(job).await;
    let said = scene.host.log(job, 1, Stream::Stdout).await;
    let none = "0000000000000000";
    let expected =
        format!("CapInh:\t{none}\nCapPrm:\t{none}\nCapEff:\t{none}\nCapAmb:\t{none}\n{NOBODY}\n1\ngit does not move it\n");
    assert_eq!(said, expected, "a job has no capability, and its worktree is an overlay");
    let commit = done.commit.expect("a commit").to_string();
    let tree = git(&scene.remote, &["ls-tree", "-r", "--format=%(objectmode) %(path)", &commit]);
    assert_eq!(
        tree.lines().collect::<Vec<_>>(),
        [
            "100644 .gitignore",
            "100755 README.md",
            "100644 docs/new.md",
            "120000 link",
            "100644 moved/deep/mod.rs",
            "100644 moved/lib.rs"
        ]
    );
    let system = scene.host.log(job, 1, Stream::System).await;
    assert!(system.contains(", as overlay, in "), "the gate's ground is an overlay too: {system}");
    assert!(!worker.log().contains("git itself adds the whole tree"), "{}", worker.log());
    scene.host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_taken_up_by_the_next_daemon_which_sees_what_it_sees() {
    let scene = Scene::set(LONG).await;
    let latch = scene.latch();
    let numbers = |from: u32, to: u32| (from..=to).map(|number| format!("{number}\n")).collect::<String>();
    let command = format!("seq 1 1000; echo before > before.txt; {}; rm -r docs; seq 1001 2000", latch.here());
    let job =
        scene.enqueue(&command, &json!({ "gates": [{ "name": "unit", "command": "test -f before.txt && test ! -e docs" }] }));
    let worker = scene.start().await;
    latch.reached().await;
    latch.lift();
    // Nobody else sees what is mounted.
    assert_eq!(mounts_below(scene.host.root()), [] as [&Path; 0]);
    assert_eq!(fs::read_dir(scene.slot().join("job/tree")).expect("it is there").count(), 0);
    worker.kill();
    let worker = scene.start().await;
    latch.release().await;
    scene.host.succeeded(job).await;
    let attempts = scene.host.attempts(job).await;
    assert_eq!((attempts.len(), attempts[0].log_verdict), (1, Some(LogVerdict::Complete)));
    assert_eq!(scene.host.log(job, 1, Stream::Stdout).await, numbers(1, 2000));
    assert_eq!(scene.host.completions(Some(job)).await.len(), 1);
    assert_eq!(refs(&scene.remote, "refs/heads/sawmill/").len(), 1);
    assert!(!worker.log().contains("was mounted again"), "it is the mount of the daemon before: {}", worker.log());
    scene.host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_stays_away_leaves_salvage_and_no_process() {
    let scene = Scene::set(SHORT).await;
    let latch = scene.latch();
    let job = scene.enqueue(&format!("rm -r docs; echo half > half.txt; {}", latch.here()), &json!({}));
    scene.abandon(&latch).await;
    let salvaged = refs(&scene.remote, "refs/sawmill/salvage/");
    assert_eq!(salvaged.len(), 1, "{}", scene.host.logs());
    assert_eq!(salvaged[0].0, format!("refs/sawmill/salvage/{job}/1"));
    let changed = git(&scene.remote, &["diff", "--name-status", "main", &salvaged[0].1]);
    assert_eq!(changed, "D\tdocs/deep/older.md\nD\tdocs/old.md\nA\thalf.txt");
    // Its namespace has gone with it; the next daemon has one of its own.
    let worker = scene.start().await;
    scene.host.succeeded(job).await;
    scene.host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_outlives_the_namespace_that_it_was_mounted_in() {
    let scene = Scene::set(LONG).await;
    let latch = scene.latch();
    let command = format!("rm -r docs; mkdir docs; echo half > docs/half.md; {}; exit 1", latch.here());
    let job = scene.enqueue(&command, &json!({}));
    let worker = scene.start().await;
    latch.reached().await;
    latch.lift();
    worker.kill();
    for pid in scene.host.processes_of("a") {
        // One may have ended with another.
        kill(pid, Signal::SIGKILL).ok();
    }
    until("nothing of the worker is left", async || scene.host.processes_of("a").is_empty()).await;
    let worker = scene.start().await;
    until("it is salvaged", async || !refs(&scene.remote, "refs/sawmill/salvage/").is_empty()).await;
    assert!(worker.log().contains("was mounted again"), "{}", worker.log());
    let (_, commit) = refs(&scene.remote, "refs/sawmill/salvage/").remove(0);
    let changed = git(&scene.remote, &["diff", "--name-status", "--no-renames", "main", &commit]);
    assert_eq!(changed, "D\tdocs/deep/older.md\nA\tdocs/half.md\nD\tdocs/old.md");
    scene.host.ended(job).await;
    scene.host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_workspace_is_there_for_everybody_whole_and_a_repository() {
    let scene = Scene::set(LONG).await;
    let command = "rm -r docs; mkdir docs; echo half > docs/half.md; mkfifo pipe; chmod 500 src; ln -s nowhere link; \
                   echo more >> README.md; chmod 755 README.md; git commit -q -am mine; exit 3";
    let job = scene.enqueue(command, &json!({ "workspace": { "keep": "always" } }));
    let worker = scene.start().await;
    assert_eq!(scene.host.ended(job).await.state, JobState::Failed);
    let kept = scene.host.state_dir("a").join(format!("kept/{job}-1"));
    until("it is kept", async || kept.join("host.git/worktree.json").exists()).await;
    let tree = kept.join("job/tree");
    assert_eq!(mounts_below(scene.host.root()), [] as [&Path; 0]);
    let in_it = |args: &[&str]| {
        let safe = format!("safe.directory={}", tree.display());
        let output = git_command(&tree, &[&["-c", safe.as_str()][..], args].concat()).output().expect("git runs");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    };
    assert_eq!(in_it(&["log", "--format=%s"]), "mine\nseed");
    assert_eq!(in_it(&["status", "--porcelain"]), "?? docs/\n?? link");
    assert_eq!(fs::read_to_string(tree.join("docs/half.md")).expect("a file"), "half\n");
    assert!(!tree.join("docs/old.md").exists());
    assert_eq!(fs::read_to_string(tree.join("src/deep/mod.rs")).expect("of the base"), "//! Less.\n");
    until("the slot is empty", async || !scene.slot().join("run").exists()).await;
    let dropped = scene.host.root().join("dropped");
    fs::rename(&kept, &dropped).expect("moved");
    scene.host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_workspace_that_cannot_be_copied_what_was_written_is_kept() {
    let scene = Scene::set(LONG).await;
    // Its path is longer than the kernel takes one.
    let command = "echo work > work.txt; name=$(printf 'd%.0s' $(seq 200)); \
                   for _ in $(seq 25); do mkdir $name && cd -P $name; done; echo deep > deep.txt; exit 3";
    let job = scene.enqueue(command, &json!({ "workspace": { "keep": "always" } }));
    let worker = scene.start().await;
    assert_eq!(scene.host.ended(job).await.state, JobState::Failed);
    let kept = scene.host.state_dir("a").join(format!("kept/{job}-1"));
    until("it is kept", async || kept.join("layer/upper").exists()).await;
    assert_eq!(fs::read_to_string(kept.join("layer/upper/work.txt")).expect("a file"), "work\n");
    let deep = Command::new("find").arg(&kept).args(["-name", "deep.txt"]).output().expect("it runs");
    assert_eq!(deep.stdout.iter().filter(|byte| **byte == b'\n').count(), 1, "{deep:?}");
    until("the slot is empty", async || !scene.slot().join("run").exists()).await;
    let log = worker.log();
    assert!(log.contains("a worktree cannot be copied; what was written is in layer/upper"), "{log}");
    fs::rename(&kept, scene.host.root().join("dropped")).expect("moved");
    scene.host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_closed_to_its_owner_is_refused_as_git_refuses_it() {
    let scene = Scene::set(LONG).await;
    let job = scene.enqueue("echo work > work.txt; echo s > secret; chmod 000 secret", &json!({}));
    let worker = scene.start().await;
    let outcome = scene.host.ended(job).await.outcome.expect("it has ended");
    assert!(outcome.message.contains("secret") && outcome.message.contains("cannot be read"), "{outcome:?}");
    assert!(worker.log().contains("secret is closed to its owner"), "{}", worker.log());
    scene.host.close(vec![worker]).await;
}

/// Has the jobs of project `app` have caches; answers what enqueues one of them.
fn with_caches(scene: &mut Scene, caches: &str) -> impl Fn(&Scene, &str) -> JobId + use<> {
    let remote = scene.remote.to_str().expect("UTF-8").to_owned();
    scene.host.set("SAWMILL_PROJECTS__APP__REPO", &remote);
    scene.host.set("SAWMILL_PROJECTS__APP__CACHES", caches);
    |scene, command| scene.host.enqueue(&json!({ "project": "app", "task": { "command": command } }))
}

/// A process that the daemon starts may not unmount, so the caches are still in the tree when the supervisor has it salvaged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_stays_away_leaves_salvage_without_its_jobs_caches() {
    let mut scene = Scene::set(SHORT).await;
    let enqueue = with_caches(&mut scene, r#"["target", "web/node_modules"]"#);
    let latch = scene.latch();
    let command = format!(
        "git init --quiet web; for dir in . target web web/node_modules; do echo half > $dir/half.txt; done; {}",
        latch.here()
    );
    let job = enqueue(&scene, &command);
    scene.abandon(&latch).await;
    let salvaged = refs(&scene.remote, "refs/sawmill/salvage/");
    assert_eq!(salvaged.len(), 1, "{}", scene.host.logs());
    let changed = git(&scene.remote, &["diff", "--name-status", "main", &salvaged[0].1]);
    assert_eq!(changed, "A\thalf.txt\nA\tweb/half.txt");
    let worker = scene.start().await;
    scene.host.ended(job).await;
    scene.host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_shuts_the_directory_of_its_cache_delivers_and_saves_nothing_of_it() {
    let mut scene = Scene::set(LONG).await;
    let enqueue = with_caches(&mut scene, r#"["web/node_modules"]"#);
    scene.host.set("SAWMILL_WORKSPACE__STRATEGY", "checkout");
    let worker = scene.host.start_at(&scene.seat).await;
    let job = enqueue(&scene, "echo work > web/work.txt; echo module > web/node_modules/module; chmod 500 web");
    let done = scene.host.succeeded(job).await;
    let changed = git(&scene.remote, &["diff", "--name-status", "main", &done.commit.expect("a commit").to_string()]);
    assert_eq!(changed, "A\tweb/work.txt");
    let said = scene.host.log(job, 1, Stream::System).await;
    assert!(said.contains("cache web/node_modules stays where the job has it"), "{said}");
    assert!(said.contains("cache web/node_modules is not saved: it cannot be taken out of the tree"), "{said}");
    let job = enqueue(&scene, "test -z \"$(ls -A web/node_modules)\"; echo more > more.txt");
    scene.host.succeeded(job).await;
    scene.host.close(vec![worker]).await;
}
