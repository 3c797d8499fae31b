//! What a job finds in its caches, and what of them gets out of there.

use std::process::Command;

use nix::sys::signal::Signal;
use sawmill::git::Strategy;
use sawmill::sandbox::container::propagates;
use serde_json::json;

use super::{Scene, each_way};
use crate::delivery::host::{Lodging, until};
use crate::delivery::remote::git;

each_way! { found_by_the_next_job:
    found_by_the_next_job_over_a_layer(Overlay, OnTheHost)
    found_by_the_next_job_as_a_copy(Checkout, OnTheHost)
    found_by_the_next_job_over_a_layer_in_a_container(Overlay, InContainers)
    found_by_the_next_job_as_a_copy_in_a_container(Checkout, InContainers)
}

/// Three jobs after each other, each of which leaves to the next what it was left and what it made of that: nothing is ignored by the
/// repository, and nothing of it is delivered.
async fn found_by_the_next_job(strategy: Strategy, lodging: Lodging) {
    let scene = Scene::set(strategy, lodging, r#"["target", "web/node_modules", "~/.tool/registry"]"#).await;
    let worker = scene.host.start("a").await;
    let first = scene
        .run(
            "test -d target; test -z \"$(ls -A target)\"; mkdir -p target/deep/er; echo one > target/deep/er/file; \
             ln target/deep/er/file target/linked; ln -s deep target/link; mkfifo target/pipe; echo gone > target/gone; chmod 755 target/gone; \
             echo module > web/node_modules/module; echo registry > ~/.tool/registry/index; echo not > ~/.tool/not; echo work > work.txt",
        )
        .await;
    let second = scene
        .run(
            "test \"$(cat target/deep/er/file target/linked target/link/er/file)\" = \"$(printf 'one\\none\\none')\"; \
             test target/linked -ef target/deep/er/file; test -x target/gone; test ! -e target/pipe; \
             test \"$(cat web/node_modules/module ~/.tool/registry/index)\" = \"$(printf 'module\\nregistry')\"; test ! -e ~/.tool/not; \
             mv target/deep target/renamed; rm target/gone; echo two > target/renamed/two; rm -r web/node_modules/*; \
             mkdir target/deep; echo new > target/deep/new; echo more >> ~/.tool/registry/index; echo work > other.txt",
        )
        .await;
    let third = scene
        .run(
            "test \"$(cat target/renamed/er/file target/renamed/two target/deep/new)\" = \"$(printf 'one\\ntwo\\nnew')\"; \
             test ! -e target/gone; test ! -e target/deep/er; test -z \"$(ls -A web/node_modules)\"; \
             test \"$(tail -1 ~/.tool/registry/index)\" = more",
        )
        .await;
    let said = scene.said(first).await;
    assert!(said.contains("cache target: empty: none is saved for key") && said.contains("(of no lock file)"), "{said}");
    assert!(said.contains("cache ~/.tool/registry is to be saved for key"), "{said}");
    let said = scene.said(second).await;
    assert!(said.contains(&format!("ago by job {first} for key")), "{said}");
    let said = scene.said(third).await;
    assert!(said.contains(&format!("ago by job {second} for key")), "{said}");
    let delivered = scene.delivered();
    assert!(delivered.contains("work.txt") && delivered.contains("other.txt"), "{delivered}");
    for part in ["target", "node_modules", "registry"] {
        assert!(!delivered.contains(part), "{delivered}");
    }
    assert_eq!(scene.saved().len(), 3, "one of each path, since none stands on the older ones: {:?}", scene.saved());
    scene.host.close(vec![worker]).await;
}

/// In the other tests a container is shown what is mounted, since mounts of the host of the tests propagate nowhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn caches_come_and_go_with_the_hosts_mounts_where_those_propagate_to_containers() {
    let scene = Scene::set(Strategy::Overlay, Lodging::InContainers, r#"["target", "~/.tool"]"#).await;
    let state = scene.state();
    std::fs::create_dir_all(&state).expect("made");
    let path = state.to_str().expect("UTF-8");
    for args in [vec!["--bind", path, path], vec!["--make-shared", path]] {
        assert!(Command::new("mount").args(&args).status().expect("mount runs").success(), "run the tests as root: {args:?}");
    }
    assert!(propagates(&state));
    let mut worker = scene.host.start("a").await;
    scene.run("echo one > target/one; echo one > ~/.tool/one; echo work > work.txt").await;
    let gates = json!([{ "name": "unit", "command": "test \"$(ls target ~/.tool | grep -c one)\" = 2" }]);
    scene
        .run_with(
            "test -e target/one; test -e ~/.tool/one; echo two > target/two; echo work > more.txt",
            json!({ "gates": gates }),
        )
        .await;
    scene.run("test \"$(echo $(ls target))\" = 'one two'").await;
    assert!(!scene.delivered().contains("target"));
    worker.signal(Signal::SIGTERM);
    assert!(worker.exit().await.success());
    assert!(Command::new("umount").arg(path).status().expect("umount runs").success(), "nothing is mounted in it any more");
    scene.host.close(Vec::new()).await;
}

each_way! { gates_find_what_the_attempt_began_with:
    gates_find_what_the_attempt_began_with_over_a_layer(Overlay, OnTheHost)
    gates_find_what_the_attempt_began_with_as_a_copy(Checkout, OnTheHost)
    gates_find_what_the_attempt_began_with_in_a_container(Overlay, InContainers)
}

async fn gates_find_what_the_attempt_began_with(strategy: Strategy, lodging: Lodging) {
    let scene = Scene::set(strategy, lodging, r#"["target", { path = "~/.tool", gates = false }]"#).await;
    let worker = scene.host.start("a").await;
    scene.run("echo one > target/one; echo one > ~/.tool/one").await;
    let gate = "test \"$(ls target)\" = one && test ! -e ~/.tool && echo gate > target/gate";
    let gates = json!([{ "name": "first", "command": gate }, { "name": "again", "command": gate }]);
    scene.run_with("test -e ~/.tool/one; echo two > target/two; echo work > work.txt", json!({ "gates": gates })).await;
    scene.run("test \"$(echo $(ls target))\" = 'one two'").await;
    assert!(!scene.delivered().contains("target"));
    scene.host.close(vec![worker]).await;
}

each_way! { what_was_built_can_be_kept:
    what_was_built_can_be_kept_and_gone_on_with_over_a_layer(Overlay, OnTheHost)
    what_was_built_can_be_kept_and_gone_on_with_as_a_copy(Checkout, OnTheHost)
}

/// The tree has its caches again once its commit is made.
async fn what_was_built_can_be_kept(strategy: Strategy, lodging: Lodging) {
    let scene = Scene::set(strategy, lodging, r#"["target"]"#).await;
    let worker = scene.host.start("a").await;
    let artifacts = json!([{ "path": "target/report.txt", "required": true }]);
    let job = scene.run_with("echo report > target/report.txt; echo work > work.txt", json!({ "artifacts": artifacts })).await;
    let kept = scene.host.completions(Some(job)).await.remove(0).completion.artifacts;
    assert!(kept.iter().any(|artifact| artifact.name == "target/report.txt"), "{kept:?}");
    // Nor is it in the salvage of one that fails.
    let failing = scene.enqueue("echo more > target/more; echo work > salvaged.txt; exit 1", &json!({}));
    scene.host.ended(failing).await;
    scene.emptied().await;
    let delivered = scene.delivered();
    assert!(delivered.contains("salvaged.txt") && !delivered.contains("target"), "{delivered}");
    scene.run("test \"$(ls target)\" = report.txt").await;
    scene.host.close(vec![worker]).await;
}

each_way! { what_is_found_is_older_than_any_source:
    what_is_found_is_older_than_any_source_over_a_layer(Overlay, OnTheHost)
    what_is_found_is_older_than_any_source_as_a_copy(Checkout, OnTheHost)
}

async fn what_is_found_is_older_than_any_source(strategy: Strategy, lodging: Lodging) {
    let scene = Scene::set(strategy, lodging, r#"["target"]"#).await;
    let worker = scene.host.start("a").await;
    // The sources are as old as their checkout, and what is built of them is younger.
    scene
        .run(
            "echo built > target/built; test ! README.md -nt target/built; second=$(date +%s); \
             touch -d @$second.01 target/first; touch -d @$second.02 target/second; touch -d 2006-07-24 target/ancient",
        )
        .await;
    let older = "test README.md -nt target/built; test README.md -nt target/second; test target/second -nt target/first; \
                 test \"$(date -r target/ancient +%Y)\" = 2006";
    scene.run(&format!("{older}; echo more > target/more")).await;
    scene.run(&format!("{older}; test target/more -nt target/second")).await;
    scene.host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_lock_file_takes_the_newest_of_the_path_where_that_will_do() {
    let caches =
        r#"["target", { path = "~/.tool", fallback = false }, { path = "~/.own", key = ["own.txt"], toolchain = ["echo 1.2"] }]"#;
    let scene = Scene::set(Strategy::Overlay, Lodging::OnTheHost, caches).await;
    scene.push("Cargo.lock", "one");
    let worker = scene.host.start("a").await;
    let first = scene.run("echo one > target/one; echo one > ~/.tool/one; echo one > ~/.own/one").await;
    let said = scene.said(first).await;
    assert!(said.contains("cache ~/.own: the base commit has no own.txt, which its key names"), "{said}");
    scene.push("Cargo.lock", "two");
    let second = scene.run("test -e target/one; test ! -e ~/.tool/one; test -e ~/.own/one; echo two > ~/.tool/two").await;
    let said = scene.said(second).await;
    assert!(
        said.lines()
            .any(|line| line.contains("cache target: ") && line.ends_with(" ms") && line.contains("; none is saved for key")),
        "{said}"
    );
    assert!(said.contains("cache ~/.own is not saved: nothing was written to it"), "{said}");
    // What comes back to the first is found there again.
    scene.push("Cargo.lock", "one");
    scene.run("test -e ~/.tool/one; test ! -e ~/.tool/two").await;
    scene.host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_had_is_left_out_and_said() {
    let caches = r#"["src", "way/target", "large", { path = "~/.tool", toolchain = ["echo broken >&2; exit 3"] }]"#;
    let mut scene = Scene::set(Strategy::Checkout, Lodging::OnTheHost, caches).await;
    let clone = scene.host.root().join("clone");
    git(scene.host.root(), &["clone", "--quiet", "remote.git", "clone"]);
    std::os::unix::fs::symlink("/etc", clone.join("way")).expect("linked");
    git(&clone, &["add", "--all"]);
    git(&clone, &["commit", "--quiet", "-m", "a way out"]);
    git(&clone, &["push", "--quiet", "origin", "HEAD:main"]);
    let mut worker = scene.host.start("a").await;
    let job = scene.run("test -s src/lib.rs; test ! -e /etc/target; head -c 100000 /dev/zero | tr '\\0' x > large/file").await;
    let said = scene.said(job).await;
    for line in [
        "cache src: none: src is there already: a cache has a place of its own, in which a commit has no files",
        "cache way/target: none: tree/way is no directory, and no link is followed",
        "cache ~/.tool: none: its toolchain cannot be told: `echo broken >&2; exit 3` ended with exit status: 3: broken",
    ] {
        assert!(said.contains(line), "{said}");
    }
    assert_eq!(scene.saved().len(), 1);
    worker.signal(Signal::SIGTERM);
    assert!(worker.exit().await.success());
    scene.host.set("SAWMILL_CACHES__COPY", "4 KiB");
    let worker = scene.host.start("a").await;
    let job = scene.run("test ! -e large/file; echo small > large/small").await;
    let said = scene.said(job).await;
    assert!(said.contains("4.0 KiB is the most that is copied for a job (caches.copy)"), "{said}");
    // What is too large to be copied is in nobody's way, nor is it saved.
    scene.run("test \"$(ls large)\" = small; head -c 100000 /dev/zero | tr '\\0' x > large/file").await;
    until("the worker says so", async || worker.log().contains("it takes more than is copied for a job, 4.0 KiB (caches.copy)"))
        .await;
    scene.run("test \"$(ls large)\" = small").await;
    scene.host.close(vec![worker]).await;
}
