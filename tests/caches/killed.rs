//! A worker that is killed while a job has caches: nothing is lost, nothing half made is used, nothing is left.

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use sawmill::git::{Strategy, mounts_below, take_off};
use serde_json::json;

use super::{Scene, each_way};
use crate::crash::stop_quietly;
use crate::delivery::host::{Lodging, until};
use crate::delivery::remote::hold_pushes;

each_way! { taken_up_with_its_caches:
    taken_up_with_its_caches_over_a_layer(Overlay, OnTheHost)
    taken_up_with_its_caches_as_a_copy(Checkout, OnTheHost)
    taken_up_with_its_caches_in_a_container(Overlay, InContainers)
}

/// Killed while the job runs, while its commit is made, while a gate runs, and while it is pushed, one after the other.
async fn taken_up_with_its_caches(strategy: Strategy, lodging: Lodging) {
    let scene = Scene::set(strategy, lodging, r#"["target", "~/.tool"]"#).await;
    let mut worker = scene.host.start("a").await;
    scene.run("echo one > target/one; echo one > ~/.tool/one").await;
    let (running, judging) = (scene.host.job_latch("running"), scene.host.job_latch("judging"));
    let (committing, pushing) = (scene.host.latch("git-commit-tree"), scene.host.latch("pushing"));
    let all = [(&running, true), (&committing, false), (&judging, true), (&pushing, false)];
    all.iter().for_each(|(latch, _)| latch.close());
    hold_pushes(&scene.remote, &pushing);
    // git itself makes the commit, where it can be held, of a tree whose attributes say how files are taken.
    let command = format!(
        "echo 'work.txt filter=none' > .gitattributes; echo before > target/before; {}; test -e target/one; echo after > target/after; \
         echo work > work.txt",
        running.here()
    );
    let gate = format!("test \"$(ls target)\" = one && {}", judging.here());
    let job = scene.enqueue(&command, &json!({ "gates": [{ "name": "unit", "command": gate }] }));
    for (latch, lives) in all {
        latch.reached().await;
        latch.lift();
        worker.kill();
        worker = scene.host.start("a").await;
        if lives {
            // The command itself was held.
            latch.release().await;
        }
    }
    scene.host.succeeded(job).await;
    scene.emptied().await;
    assert_eq!(scene.host.attempts(job).await.len(), 1);
    scene.run("test \"$(echo $(ls target))\" = 'after before one'; test -e ~/.tool/one").await;
    let delivered = scene.delivered();
    assert!(delivered.contains("work.txt") && !delivered.contains("target"), "{delivered}");
    // What git of a worker that was killed was held may be held still.
    committing.let_go();
    pushing.let_go();
    scene.host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_nobody_goes_on_with_leaves_no_mount_and_nothing_saved() {
    let scene = Scene::set(Strategy::Overlay, Lodging::OnTheHost, r#"["target", "~/.tool"]"#).await;
    let worker = scene.host.start("a").await;
    let held = scene.host.latch("held");
    held.close();
    let job =
        scene.enqueue(&format!("mkdir ~/moved; echo half > target/half; echo work > work.txt; {}", held.here()), &json!({}));
    held.reached().await;
    held.lift();
    worker.kill();
    // Cancelled while no worker is there: the next one finds a slot whose claim is over, and salvages it.
    scene.host.sawmill(&["job", "cancel", &job.to_string()]);
    let worker = scene.host.start("a").await;
    scene.host.ended(job).await;
    scene.emptied().await;
    assert_eq!(scene.saved(), [] as [std::path::PathBuf; 0]);
    assert!(!scene.delivered().contains("target"), "{}", scene.delivered());
    scene.run("test -z \"$(ls -A target)\"").await;
    scene.host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_half_saved_is_never_found_and_goes() {
    let scene = Scene::set(Strategy::Overlay, Lodging::OnTheHost, r#"["target"]"#).await;
    let worker = scene.host.start("a").await;
    scene.run("echo good > target/good").await;
    worker.kill();
    let saved = scene.saved().pop().expect("one is saved");
    // As a kill leaves it in the middle of saving, and one that has a name without a record.
    let path = saved.parent().expect("the directory of its path");
    let [half, named] = [".new-0123", "zzzz-0123-00000000"].map(|name| path.join(name));
    for dir in [&half, &named] {
        fs::create_dir_all(dir.join("files")).expect("made");
        fs::write(dir.join("files/poison"), "half").expect("written");
        fs::write(dir.join("lock"), "").expect("written");
    }
    let worker = scene.host.start("a").await;
    until("it is removed", async || !half.exists()).await;
    until("it says so", async || worker.log().contains(&format!("removed unfinished {}", half.display()))).await;
    scene.run("test \"$(ls target)\" = good").await;
    scene.host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_killed_while_it_saves_leaves_all_of_a_cache_or_none() {
    let scene = Scene::set(Strategy::Overlay, Lodging::OnTheHost, r#"["target"]"#).await;
    let worker = scene.host.start("a").await;
    let job = scene.enqueue("seq 1 40000 | split -l 1 -a 4 - target/f", &json!({}));
    let below = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>();
    let begun = || {
        let paths = below(&scene.state().join("caches")).into_iter().flat_map(|project| below(&project));
        paths.flat_map(|path| below(&path)).any(|dir| dir.is_dir())
    };
    until("it saves", async || begun()).await;
    worker.kill();
    scene.host.succeeded(job).await;
    let saved = scene.saved().len();
    let worker = scene.host.start("a").await;
    until("nothing half made is left", async || scene.saved().len() == saved && begun() == (saved == 1)).await;
    let files = 40_000 * saved;
    scene
        .run(&format!("test \"$(ls target | wc -l)\" = {files}; test \"$(cat target/* | wc -l)\" = {files} || test {files} = 0"))
        .await;
    scene.host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_start_of_the_host_a_job_delivers_and_nothing_of_its_caches_is_saved() {
    let scene = Scene::set(Strategy::Overlay, Lodging::OnTheHost, r#"["target", "~/.tool"]"#).await;
    let worker = scene.host.start("a").await;
    let pushing = scene.host.latch("pushing");
    pushing.close();
    hold_pushes(&scene.remote, &pushing);
    let job = scene.enqueue("echo half > target/half; echo work > work.txt", &json!({}));
    pushing.reached().await;
    pushing.lift();
    worker.kill();
    // As it is found afterwards.
    let (slot, boot) = (scene.state().join("slots/0"), fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("an id"));
    for at in mounts_below(&slot).expect("the list of mounts").iter().rev() {
        take_off(at).expect("taken off");
    }
    let record = slot.join("caches/carried.json");
    let text = fs::read_to_string(&record).expect("the record");
    assert!(text.contains(boot.trim()));
    fs::write(&record, text.replace(boot.trim(), "11111111-0000-0000-0000-000000000000")).expect("written");
    let worker = scene.host.start("a").await;
    scene.host.succeeded(job).await;
    scene.emptied().await;
    let said = scene.said(job).await;
    assert!(said.contains("cache target is not saved: it is of an earlier boot of the host"), "{said}");
    assert_eq!(scene.saved(), [] as [std::path::PathBuf; 0]);
    scene.run("test -z \"$(ls -A target)\"").await;
    pushing.let_go();
    scene.host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_process_of_the_job_may_still_write_to_is_not_saved() {
    let scene = Scene::set(Strategy::Overlay, Lodging::OnTheHost, r#"["target"]"#).await;
    let worker = scene.host.start("a").await;
    let pushing = scene.host.latch("pushing");
    pushing.close();
    hold_pushes(&scene.remote, &pushing);
    let job = scene.enqueue("echo one > target/one; echo work > work.txt", &json!({}));
    pushing.reached().await;
    pushing.lift();
    for supervisor in scene.host.processes("__supervise") {
        kill(supervisor, Signal::SIGKILL).expect("killed");
    }
    pushing.release().await;
    scene.host.succeeded(job).await;
    scene.emptied().await;
    let said = scene.said(job).await;
    assert!(said.contains("cache target is not saved: it is not known whether all processes of the job have ended"), "{said}");
    assert_eq!(scene.saved(), [] as [std::path::PathBuf; 0]);
    scene.run("test -z \"$(ls -A target)\"").await;
    scene.host.close(vec![worker]).await;
}

each_way! { not_salvaged_where_it_is_not_taken_out:
    not_salvaged_where_it_is_not_taken_out_over_a_layer(Overlay, OnTheHost)
    not_salvaged_where_it_is_not_taken_out_as_a_copy(Checkout, OnTheHost)
}

/// A supervisor that was killed has left what it ran, which could lead elsewhere what is moved.
async fn not_salvaged_where_it_is_not_taken_out(strategy: Strategy, lodging: Lodging) {
    let scene = Scene::set(strategy, lodging, r#"["target", "web/node_modules"]"#).await;
    let worker = scene.host.start("a").await;
    let held = scene.host.latch("held");
    held.close();
    let job = scene.enqueue(
        &format!(
            "echo half > target/half; git init --quiet web; echo half > web/node_modules/half; echo work > web/work.txt; {}",
            held.here()
        ),
        &json!({}),
    );
    held.reached().await;
    held.lift();
    worker.kill();
    for supervisor in scene.host.processes("__supervise") {
        kill(supervisor, Signal::SIGKILL).expect("killed");
    }
    scene.host.sawmill(&["job", "cancel", &job.to_string()]);
    let worker = scene.host.start("a").await;
    scene.host.ended(job).await;
    scene.emptied().await;
    let delivered = scene.delivered();
    assert!(delivered.contains("web/work.txt"), "{delivered}");
    assert!(!delivered.contains("half"), "{delivered}");
    held.let_go();
    scene.host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_made_for_a_place_that_is_not_on_record_is_made_anew() {
    let caches = r#"[{ path = "target", toolchain = ["cat ask"] }]"#;
    let scene = Scene::set(Strategy::Checkout, Lodging::OnTheHost, caches).await;
    let ask = scene.state().join("ask");
    fs::create_dir_all(scene.state()).expect("made");
    nix::unistd::mkfifo(&ask, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let worker = scene.host.start("a").await;
    let job = scene.enqueue("test -z \"$(ls -A target)\"", &json!({}));
    let slot = scene.state().join("slots/0");
    let journal = || fs::read_to_string(slot.join("run/attempt.json")).unwrap_or_default();
    until("the worktree stands", async || journal().contains("\"phase\":\"prepared\"")).await;
    assert!(journal().contains("\"place\":null"), "{}", journal());
    until("it asks for the toolchain", async || !scene.host.processes("cat ask").is_empty()).await;
    worker.kill();
    // What a daemon has done that was killed a moment later.
    let shelf = super::shelf::shelf(&scene.state(), 1 << 30);
    super::shelf::attempt(&shelf, &slot, &super::shelf::cache("target"), "another", "stale", 10);
    // Whom it had asked is left, and waits to be told.
    fs::write(&ask, "a toolchain").expect("written");
    fs::remove_file(&ask).expect("removed");
    fs::write(&ask, "a toolchain").expect("written");
    let worker = scene.host.start("a").await;
    scene.host.succeeded(job).await;
    scene.host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_cancelled_does_not_wait_for_its_caches() {
    let scene = Scene::set(Strategy::Checkout, Lodging::OnTheHost, r#"["target"]"#).await;
    let worker = scene.host.start("a").await;
    scene.run("seq 1 60000 | split -l 1 -a 4 - target/f").await;
    let job = scene.enqueue("true", &json!({}));
    let copying = scene.state().join("slots/0/caches/0/files");
    until("it is copied", async || copying.exists()).await;
    // However long the command takes, copying is not done before it.
    stop_quietly(&scene.host, &worker).await;
    scene.host.sawmill(&["job", "cancel", &job.to_string()]);
    worker.signal(Signal::SIGCONT);
    scene.host.ended(job).await;
    let said = scene.said(job).await;
    assert!(!said.contains("ago by job"), "it was copied to the end: {said}");
    scene.emptied().await;
    scene.host.close(vec![worker]).await;
}
