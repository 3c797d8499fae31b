//! A daemon that stays away.

use std::fs;
use std::time::Duration;

use sawmill::sandbox::{Cause, End, Supervisor, Will, recorded};
use tokio::time::timeout;

use super::{Slot, until};

/// Long enough for a busy machine to get from launch to start within it.
const SHORT: Duration = Duration::from_secs(2);

fn will(slot: &Slot, script: &str) -> Will {
    let command = slot.script("will", script);
    Will { argv: command.argv, env: command.env, cwd: command.cwd }
}

#[tokio::test]
async fn an_orphan_is_ended_then_the_will_is_done_then_the_supervisor_leaves() {
    let slot = Slot::open_with(SHORT).await;
    let mut command = slot.script("job", "trap '' TERM; echo running; while :; do sleep 0.05; done");
    command.grace = Duration::from_millis(100);
    command.will = Some(will(&slot, "ps -e -o args= | grep -c '[t]rap .* TERM; echo running' > seen; echo done here"));
    slot.supervisor.start(&command).await.unwrap();
    until("all is gone", || slot.all_processes().is_empty()).await;

    let report = recorded(&slot.sup(), "job").unwrap().expect("a report");
    assert_eq!((report.end, report.cause), (End::Signalled(9), Cause::Orphaned));
    assert!(slot.path("seen").exists(), "the will was done");
    assert_eq!(fs::read_to_string(slot.sup().join("will.log")).unwrap(), "done here\n");
    assert!(!slot.sup().join("sock").exists());
    assert!(Supervisor::attach(&slot.sup()).await.unwrap().is_none());

    let next = Supervisor::launch(&slot.launch()).await.unwrap();
    assert_eq!(next.wait("job").await.unwrap().cause, Cause::Orphaned, "the next daemon is told");
}

#[tokio::test]
async fn the_will_is_done_for_a_job_that_ended_and_was_never_collected() {
    let slot = Slot::open_with(SHORT).await;
    let mut command = slot.script("job", "exit 0");
    command.will = Some(will(&slot, "echo salvaged > salvage; setsid sleep 1000 & exit 0"));
    assert_eq!(slot.run_command(&command).await.cause, Cause::Itself);
    until("all is gone", || slot.all_processes().is_empty()).await;
    assert_eq!(fs::read_to_string(slot.path("salvage")).unwrap(), "salvaged\n");
    assert_eq!(recorded(&slot.sup(), "job").unwrap().map(|report| report.cause), Some(Cause::Itself));
}

#[tokio::test]
async fn a_collected_job_has_no_will_any_more_and_an_idle_supervisor_just_leaves() {
    let slot = Slot::open_with(SHORT).await;
    let mut command = slot.script("job", "exit 0");
    command.will = Some(will(&slot, "echo salvaged > salvage"));
    slot.run_command(&command).await;
    slot.supervisor.collect("job").await.unwrap();
    until("it is gone", || slot.all_processes().is_empty()).await;
    assert!(!slot.path("salvage").exists());
}

#[tokio::test]
async fn a_daemon_that_comes_back_waits_for_the_will_that_is_being_done() {
    let slot = Slot::open_with(SHORT).await;
    let mut command = slot.script("job", "exit 0");
    command.will = Some(will(&slot, "echo begun > begun; sleep 1; echo done > done"));
    slot.run_command(&command).await;
    until("its will is begun", || slot.path("begun").exists()).await;
    assert!(!slot.path("done").exists(), "it takes a second");
    slot.supervisor.let_leave().await.unwrap();
    assert_eq!(fs::read_to_string(slot.path("done")).unwrap(), "done\n");
    assert!(Supervisor::attach(&slot.sup()).await.unwrap().is_none());
    // One that is gone, and one that serves, are not waited for.
    slot.supervisor.let_leave().await.unwrap();
    let next = Supervisor::launch(&slot.launch()).await.unwrap();
    next.let_leave().await.unwrap();
    next.keep_alive().await.unwrap();
}

#[tokio::test]
async fn a_heartbeat_from_another_runtime_keeps_the_job() {
    let slot = Slot::open_with(SHORT).await;
    slot.supervisor.start(&slot.script("job", "sleep 4; exit 7")).await.unwrap();
    let sup = slot.sup();
    let (end, mut ended) = tokio::sync::oneshot::channel();
    let beating = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            while timeout(SHORT / 10, &mut ended).await.is_err() {
                Supervisor::at(&sup).keep_alive().await.unwrap();
            }
        });
    });
    // Only the heartbeat speaks: a wait that is open says nothing about who opened it.
    let report = slot.supervisor.wait("job").await.unwrap();
    end.send(()).unwrap();
    beating.join().unwrap();
    assert_eq!((report.end, report.cause), (End::Exited(7), Cause::Itself));
}

#[tokio::test]
async fn an_open_wait_is_no_sign_of_life() {
    let slot = Slot::open_with(SHORT).await;
    slot.supervisor.start(&slot.script("job", "exec sleep 1000")).await.unwrap();
    assert_eq!(slot.supervisor.wait("job").await.unwrap().cause, Cause::Orphaned);
    until("all is gone", || slot.all_processes().is_empty()).await;
}

#[tokio::test]
async fn a_later_launch_says_anew_how_long_it_may_stay_away() {
    let slot = Slot::open().await;
    let launch = sawmill::sandbox::Launch { orphan_after: Duration::from_millis(50), ..slot.launch() };
    Supervisor::launch(&launch).await.unwrap();
    until("it is gone", || slot.all_processes().is_empty()).await;
}
