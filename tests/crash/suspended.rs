//! A worker that sleeps through the end of its lease and wakes up when another has done its job.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Held, Record, SHORT, Scene, WriteLock, each};
use crate::delivery::daemon::{Daemon, Seat, stop};
use crate::delivery::host::{On, until};
use crate::delivery::remote::refs;

each! { writes_nothing:
    a_worker_that_wakes_up_too_late_writes_nothing(Sqlite, Execute)
    a_worker_that_wakes_up_too_late_in_a_push_writes_nothing(Sqlite, Publish)
    a_worker_that_wakes_up_too_late_writes_nothing_on_postgres(Postgres, Execute)
    a_worker_that_wakes_up_too_late_in_a_push_writes_nothing_on_postgres(Postgres, Publish)
}

/// The daemon alone sleeps: its supervisors end the job.
async fn writes_nothing(on: On, held: Held) {
    let scene = Scene::set(on, held, SHORT).await;
    let first = scene.host.start("a").await;
    scene.latch.reached().await;
    scene.latch.lift();
    let quiet = quiet(&scene, on).await;
    first.stop();
    release(quiet).await;
    until("the first worker's supervisors end", async || scene.host.processes("__supervise").is_empty()).await;
    changes_nothing(scene, first, &[]).await;
}

each! { host_writes_nothing:
    a_host_that_wakes_up_too_late_in_prepare_writes_nothing(Sqlite, Prepare)
    a_host_that_wakes_up_too_late_in_execute_writes_nothing(Sqlite, Execute)
    a_host_that_wakes_up_too_late_in_commit_writes_nothing(Sqlite, Commit)
    a_host_that_wakes_up_too_late_in_judge_writes_nothing(Sqlite, Judge)
    a_host_that_wakes_up_too_late_in_a_push_writes_nothing(Sqlite, Publish)
    a_host_that_wakes_up_too_late_in_execute_writes_nothing_on_postgres(Postgres, Execute)
    a_host_that_wakes_up_too_late_in_a_push_writes_nothing_on_postgres(Postgres, Publish)
}

/// The whole host sleeps, with the job and git in it: nothing but the fence is left to hold them.
async fn host_writes_nothing(on: On, held: Held) {
    let (scene, first, processes) = asleep(on, held).await;
    changes_nothing(scene, first, &processes).await;
}

/// A worker whose host was stopped when its job was in a stage, and all that runs there.
async fn asleep(on: On, held: Held) -> (Scene, Daemon, Vec<Pid>) {
    let scene = Scene::set(on, held, SHORT).await;
    let worker = scene.host.start("a").await;
    scene.latch.reached().await;
    scene.latch.lift();
    let quiet = quiet(&scene, on).await;
    let mut processes = Vec::new();
    loop {
        let found = scene.host.processes_of("a");
        if found == processes {
            break;
        }
        // One that ends at this moment, and those that it began before it was stopped, are found in the next round.
        found.iter().copied().for_each(stop);
        processes = found;
    }
    assert!(processes.contains(&worker.pid()) && processes.len() >= 3, "daemon and supervisors are on that host");
    release(quiet).await;
    (scene, worker, processes)
}

/// SQLite's lock is one of the kernel's on the file: a process that is stopped while it writes holds everybody up until it wakes
/// or ends, and nobody can take the lock from it. So it is to be stopped while it does not write.
async fn quiet(scene: &Scene, on: On) -> Option<WriteLock> {
    match on {
        On::Sqlite => Some(WriteLock::take(&scene.host).await),
        On::Postgres => None,
    }
}

async fn release(quiet: Option<WriteLock>) {
    if let Some(lock) = quiet {
        lock.release().await;
    }
}

/// Lets another worker do the job, then wakes the first one, and proves that row, log, completion and branch stay as they
/// are.
async fn changes_nothing(scene: Scene, first: Daemon, asleep: &[Pid]) {
    let host = &scene.host;
    let second = host.start("b").await;
    scene.assert_delivered_once(2).await;

    let before = scene.record().await;
    // What was held is let go at the worst moment: it goes on as soon as it is awake.
    scene.latch.let_go();
    for pid in asleep {
        // The daemon may be awake by now, and may have ended it.
        kill(*pid, Signal::SIGCONT).ok();
    }
    first.signal(Signal::SIGCONT);
    scene.latch.let_go();
    until("the first worker notices", async || first.log().contains("lost its claim")).await;
    until("the first worker's slot is clear", async || {
        !host.state_dir("a").join("slots/1/run").exists() && !host.state_dir("a").join("slots/0/run").exists()
    })
    .await;
    let after = scene.record().await;
    assert_eq!(after.rows, before.rows, "{}", first.log());
    // A host that slept keeps what it was about to lose, under the attempt's own name.
    let salvage = format!("refs/sawmill/salvage/{}/1", scene.job);
    let kept = |name: &str| !asleep.is_empty() && name == salvage;
    let others = |refs: &[(String, String)]| refs.iter().filter(|(name, _)| !kept(name)).cloned().collect::<Vec<_>>();
    assert_eq!(others(&after.refs), others(&before.refs), "{}", first.log());
    scene.assert_delivered_once(2).await;
    scene.close(vec![first, second]).await;
}

each! { takes_its_branch_back:
    a_host_that_wakes_up_in_a_push_when_the_job_is_cancelled_takes_its_branch_back(Sqlite, Publish)
    a_host_that_wakes_up_in_a_push_when_the_job_is_cancelled_takes_its_branch_back_on_postgres(Postgres, Publish)
}

/// Nothing on the remote is in the way of such a push.
async fn takes_its_branch_back(on: On, held: Held) {
    let (scene, worker) = pushed_and_cancelled(on, held).await;
    let before = scene.record().await;
    worker.signal(Signal::SIGCONT);
    has_taken_its_branch_back(scene, worker, before).await;
}

each! { takes_the_branch_back_after_a_restart:
    a_worker_that_is_killed_before_it_can_take_its_branch_back_does_so_when_it_is_started_again(Sqlite, Publish)
    a_worker_that_is_killed_before_it_can_take_its_branch_back_does_so_when_it_is_started_again_on_postgres(Postgres, Publish)
}

async fn takes_the_branch_back_after_a_restart(on: On, held: Held) {
    let (scene, worker) = pushed_and_cancelled(on, held).await;
    let before = scene.record().await;
    worker.kill();
    let worker = scene.host.start("a").await;
    has_taken_its_branch_back(scene, worker, before).await;
}

each! { takes_the_branch_back_although_its_slot_was_cleared:
    a_worker_takes_its_branch_back_when_it_is_started_again_although_its_slot_was_cleared_meanwhile(Sqlite, Publish)
}

async fn takes_the_branch_back_although_its_slot_was_cleared(on: On, held: Held) {
    let (scene, worker) = pushed_and_cancelled(on, held).await;
    let before = scene.record().await;
    worker.kill();
    until("the slot is cleared", async || {
        let cleared = scene.host.command(&Seat::of("a"), &["reconcile", "--apply"]).output().expect("it runs");
        cleared.status.success() && !scene.host.state_dir("a").join("slots/1/run").exists()
    })
    .await;
    // What it cannot do then it does later.
    let away = scene.remote.with_extension("away");
    std::fs::rename(&scene.remote, &away).expect("moved");
    let worker = scene.host.start("a").await;
    until("it has tried", async || worker.log().contains("cannot take")).await;
    worker.kill();
    std::fs::rename(&away, &scene.remote).expect("moved back");
    let worker = scene.host.start("a").await;
    has_taken_its_branch_back(scene, worker, before).await;
}

/// A push that goes on and makes its branch when its job has been cancelled, while the daemon sleeps.
async fn pushed_and_cancelled(on: On, held: Held) -> (Scene, Daemon) {
    let (scene, worker, asleep) = asleep(on, held).await;
    let host = &scene.host;
    until("its lease is over", async || !host.store.expire_once(5).await.expect("done").is_empty()).await;
    host.store.cancel(scene.job, "no longer wanted").await.expect("cancelled");
    // git is awake first, and the daemon, which ends it, when it is through.
    scene.latch.let_go();
    for pid in asleep.iter().filter(|pid| **pid != worker.pid()) {
        kill(*pid, Signal::SIGCONT).ok();
    }
    scene.latch.let_go();
    until("the branch is there", async || refs(&scene.remote, "refs/heads/sawmill/").len() == 1).await;
    (scene, worker)
}

async fn has_taken_its_branch_back(scene: Scene, worker: Daemon, before: Record) {
    until("the worker has taken it back", async || worker.log().contains("took back")).await;
    until("the slot is clear", async || !scene.host.state_dir("a").join("slots/1/run").exists()).await;
    until("nothing is left to take back", async || scene.pushes("a").is_empty()).await;
    let after = scene.record().await;
    assert_eq!(after.rows, before.rows, "{}", worker.log());
    assert_eq!(refs(&scene.remote, "refs/heads/sawmill/"), [], "{}", worker.log());
    scene.close(vec![worker]).await;
}
