//! Workers that run their jobs in containers, as processes of their own: killed, and their containers killed, in each stage.

use std::time::Duration;

use bollard::query_parameters::KillContainerOptionsBuilder;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sawmill::job::{JobState, OutcomeClass, Stream};
use serde_json::json;

use super::{image, owned};
use crate::crash::{Held, LONG, Scene};
use crate::delivery::daemon::Seat;
use crate::delivery::host::{Host, Lodging, On, until};
use crate::delivery::remote::{git, refs, small_remote};

async fn scene(held: Held) -> Scene {
    Scene::on(Host::new(On::Sqlite, LONG, 2).await.lodge(Lodging::InContainers).await, held)
}

/// A worker that is killed and started again takes the job up in its container: one delivery, and a log without a gap.
async fn is_taken_up(held: Held) {
    let scene = scene(held).await;
    let worker = scene.assert_taken_up(held).await;
    let said = scene.host.log(scene.job, 1, Stream::System).await;
    assert!(said.contains("in container sawmill-a-"), "{said}");
    scene.close(vec![worker]).await;
}

/// Containers that are killed: the job is delivered once all the same. Where it needed the container still, its attempt is made
/// again, and is not charged.
async fn survives_its_container(held: Held) {
    let scene = scene(held).await;
    let worker = scene.host.start("a").await;
    scene.latch.reached().await;
    let docker = image::docker().await;
    for name in owned(&scene.host.state_dir("a")).await {
        let options = KillContainerOptionsBuilder::default().signal("KILL").build();
        // One that was just being removed is as good as killed.
        docker.kill_container(&name, Some(options)).await.ok();
    }
    scene.latch.lift();
    if !matches!(held, Held::Execute | Held::Judge) {
        scene.latch.release().await;
    }
    let needed = matches!(held, Held::Execute | Held::Commit | Held::Judge);
    scene.assert_delivered_once(if needed { 2 } else { 1 }).await;
    let first = scene.host.attempts(scene.job).await.into_iter().find(|attempt| attempt.attempt.0 == 1).expect("it was made");
    assert_eq!(first.outcome.map(|outcome| outcome.class == OutcomeClass::Infrastructure), Some(needed));
    scene.close(vec![worker]).await;
}

macro_rules! in_each_stage {
    ($($name:ident($held:ident))*) => {
        mod taken_up { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::is_taken_up(crate::crash::Held::$held).await;
            }
        )* }
        mod container_killed { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::survives_its_container(crate::crash::Held::$held).await;
            }
        )* }
    };
}

in_each_stage! {
    in_prepare(Prepare)
    in_execute(Execute)
    in_commit(Commit)
    in_judge(Judge)
    in_publish(Publish)
    in_complete(Complete)
}

/// A worker that is killed and stays away: the container's supervisor ends the job, the one on the host salvages, and another worker's
/// attempt is told of what was saved.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_never_comes_back_leaves_salvage_and_no_container() {
    let host = Host::new(On::Sqlite, Duration::from_secs(6), 1).await.lodge(Lodging::InContainers).await;
    let scene = Scene::on(host, Held::Execute);
    scene.kill_in_stage().await;
    until("the container ends by itself", async || scene.host.processes_of("a").is_empty()).await;
    let salvaged = refs(&scene.remote, "refs/sawmill/salvage/");
    assert_eq!(salvaged.len(), 1, "{salvaged:?}");
    assert_eq!(git(&scene.remote, &["show", &format!("{}:work.txt", salvaged[0].1)]), "work");
    let other = scene.host.start("b").await;
    scene.assert_delivered_once(2).await;
    // The first one comes back after all, and clears up.
    let first = scene.host.start("a").await;
    scene.close(vec![first, other]).await;
}

/// Its first process, which is asked to end the job's, does not get done what it is asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_cannot_be_cleaned_up_is_removed_and_its_slot_goes_on() {
    let host = Host::new(On::Sqlite, LONG, 1).await.lodge(Lodging::InContainers).await;
    let remote = small_remote(host.root(), "remote.git");
    let latch = host.job_latch("held");
    latch.close();
    let worker = host.start("a").await;
    let job = host.enqueue(&json!({ "repo": remote, "task": { "command": format!("{}; echo work > work", latch.here()) } }));
    latch.reached().await;
    until("the log names it", async || host.log(job, 1, Stream::System).await.contains("in container ")).await;
    let (said, docker) = (host.log(job, 1, Stream::System).await, image::docker().await);
    let mut first = None;
    for name in owned(&host.state_dir("a")).await.into_iter().filter(|name| said.contains(name)) {
        let about = docker.inspect_container(&name, None).await.expect("it is there");
        let pid = about.state.and_then(|state| state.pid).expect("it runs");
        first = Some((name, Pid::from_raw(i32::try_from(pid).expect("a process id"))));
    }
    let (name, pid) = first.expect("the job's container");
    kill(pid, Signal::SIGSTOP).expect("it lives");
    host.sawmill(&["job", "cancel", &job.to_string()]);
    until("the job is cancelled", async || host.job(job).await.state == JobState::Cancelled).await;
    until("its container is removed", async || !owned(&host.state_dir("a")).await.contains(&name)).await;
    assert_eq!(refs(&remote, "refs/heads/sawmill/"), [], "a job that is cancelled leaves no branch");
    let next = host.enqueue(&json!({ "repo": remote, "task": { "command": "echo more > more" } }));
    host.succeeded(next).await;
    let said = host.log(next, 1, Stream::System).await;
    assert!(said.contains("in container ") && !said.contains(&name), "{said}");
    host.close(vec![worker]).await;
}

/// What a job finds of git in a container is what it finds on the host: its branch, its base, and a clean tree.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn git_works_in_a_container() {
    let host = Host::new(On::Sqlite, LONG, 1).await.lodge(Lodging::InContainers).await;
    let remote = small_remote(host.root(), "remote.git");
    let worker = host.start("a").await;
    let command = "set -e; git status --porcelain; git log --format=%s; echo work > work.txt; git add -A; \
                   git commit -qm own; git log --format=%s; git fsck --no-dangling; git status --short --branch";
    // First in a container that was made for it, then, as soon as one is ready before its job, in such a one.
    let (mut round, mut how) = (0, ", made in ");
    loop {
        round += 1;
        let job = host.enqueue(&json!({
            "repo": remote, "task": { "command": command }, "deliver": { "branch": format!("round-{round}") },
        }));
        host.succeeded(job).await;
        let said = host.log(job, 1, Stream::Stdout).await;
        assert_eq!(said, format!("seed\nown\nseed\n## round-{round}\n"));
        let said = host.log(job, 1, Stream::System).await;
        if said.contains(how) {
            if how == ", ready before" {
                break;
            }
            how = ", ready before";
        }
        assert!(round < 50, "none was ever {how}: {said}");
        until("a container waits", async || !owned(&host.state_dir("a")).await.is_empty()).await;
    }
    host.close(vec![worker]).await;
}

/// As one is that runs in a container of its own, unless that is told to see the host's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_does_not_see_the_processes_of_containers_has_gates_all_the_same() {
    let mut host = Host::new(On::Sqlite, LONG, 1).await.lodge(Lodging::InContainers).await;
    // The engine would see no mount of a worker that has a view of its own.
    host.set("SAWMILL_WORKSPACE__STRATEGY", "checkout");
    let remote = small_remote(host.root(), "remote.git");
    let prefix = ["unshare", "--pid", "--fork", "--mount-proc", "--"].map(str::to_owned).to_vec();
    let worker = host.start_at(&Seat { prefix, ..Seat::of("a") }).await;
    let gates = json!([{ "name": "first", "command": "test -e work.txt" }, { "name": "second", "command": "test -e work.txt" }]);
    let job = host.enqueue(&json!({ "repo": remote, "task": { "command": "echo work > work.txt" }, "gates": gates }));
    host.succeeded(job).await;
    let said = host.log(job, 1, Stream::System).await;
    assert!(said.contains("gates run below the job's directory") && said.contains("needs pid: host"), "{said}");
    // Whoever has begun it only waits for its end.
    for pid in host.processes("/a.toml\0worker") {
        kill(pid, Signal::SIGTERM).expect("it is there");
    }
    host.close(vec![worker]).await;
}

/// The directory that a job sees is its slot's, for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_shuts_its_workspace_shuts_no_other_out() {
    let host = Host::new(On::Sqlite, LONG, 1).await.lodge(Lodging::InContainers).await;
    let remote = small_remote(host.root(), "remote.git");
    let worker = host.start("a").await;
    let enqueue = |command: &str| host.enqueue(&json!({ "repo": remote, "changes": "optional", "task": { "command": command } }));
    let shut = enqueue("chmod 000 /workspace");
    assert!(host.ended(shut).await.outcome.is_some());
    let next = enqueue("pwd");
    host.succeeded(next).await;
    assert_eq!(host.log(next, 1, Stream::Stdout).await, "/workspace/tree\n");
    host.close(vec![worker]).await;
}

/// By default a worker uses containers where it can; a job may ask for more, or for less.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_image_a_job_runs_on_the_host_and_says_why_unless_it_insists() {
    let mut host = Host::new(On::Sqlite, LONG, 1).await.lodge(Lodging::InContainers).await;
    host.set("SAWMILL_CONTAINER__MODE", "auto");
    host.set("SAWMILL_CONTAINER__IMAGE", "sawmill-test:no-such");
    let remote = small_remote(host.root(), "remote.git");
    let worker = host.start("a").await;
    let enqueue = |more: serde_json::Value| {
        let mut spec = json!({ "repo": remote, "changes": "optional", "task": { "command": "pwd" } });
        spec.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        host.enqueue(&spec)
    };
    let any = enqueue(json!({}));
    host.succeeded(any).await;
    let said = host.log(any, 1, Stream::System).await;
    assert!(said.contains("on the host, and not in a container: there is no image sawmill-test:no-such;"), "{said}");

    let own = enqueue(json!({ "image": image::with_git().await }));
    host.succeeded(own).await;
    assert_eq!(host.log(own, 1, Stream::Stdout).await, "/workspace/tree\n");

    let insists = enqueue(json!({ "container": "on" }));
    let ended = host.ended(insists).await;
    assert_eq!(ended.outcome.expect("it ended").class, OutcomeClass::Invalid);

    let refuses = enqueue(json!({ "container": "off" }));
    host.succeeded(refuses).await;
    assert!(!host.log(refuses, 1, Stream::System).await.contains("container"));
    host.close(vec![worker]).await;
}
