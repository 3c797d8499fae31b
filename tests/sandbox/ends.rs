//! How commands end, and that nothing of them is left then.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sawmill::clock::Timestamp;
use sawmill::sandbox::{Cause, End, Refusal, SandboxError};

use super::{Slot, until};

#[tokio::test]
async fn exit_statuses_and_signals_are_reported() {
    let slot = Slot::open().await;
    let check = async |script: &str, expected: End| {
        let report = slot.run(script).await;
        assert_eq!((report.end, report.cause, report.stragglers.len()), (expected, Cause::Itself, 0), "{script}");
        assert!(report.ended_at >= report.started_at);
    };
    check("exit 0", End::Exited(0)).await;
    check("exit 1", End::Exited(1)).await;
    check("exit 255", End::Exited(255)).await;
    check("kill -TERM $$", End::Signalled(15)).await;
    check("kill -KILL $$", End::Signalled(9)).await;
    check("kill -PIPE $$", End::Signalled(13)).await;
    check("exec 0<&- 1>&- 2>&-; exit 3", End::Exited(3)).await;
}

#[tokio::test]
async fn a_stopped_job_gets_term_first() {
    let slot = Slot::open().await;
    let command = slot.script("polite", "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.01; done");
    slot.supervisor.start(&command).await.unwrap();
    until("it is ready", || slot.output() == "ready\n").await;
    slot.supervisor.stop("polite").await.unwrap();
    let report = slot.supervisor.wait("polite").await.unwrap();
    assert_eq!((report.end, report.cause), (End::Exited(5), Cause::Stopped));
    assert_eq!(slot.output(), "ready\nbye\n");
    slot.supervisor.stop("polite").await.unwrap();
}

#[tokio::test]
async fn a_job_that_ignores_term_is_killed_after_its_grace() {
    let slot = Slot::open().await;
    let mut command = slot.script("deaf", "trap '' TERM; echo ready; while :; do sleep 0.01; done");
    command.grace = Duration::from_millis(300);
    slot.supervisor.start(&command).await.unwrap();
    until("it is ready", || slot.output() == "ready\n").await;
    let asked = Timestamp::now();
    slot.supervisor.stop("deaf").await.unwrap();
    let report = slot.supervisor.wait("deaf").await.unwrap();
    assert_eq!((report.end, report.cause), (End::Signalled(9), Cause::Stopped));
    assert!(report.ended_at.since(asked) >= command.grace, "it had its grace");
    assert!(!report.out_of_memory, "we killed it ourselves");
    slot.assert_ended();
}

#[tokio::test]
async fn a_deadline_is_moved_both_ways_while_the_command_runs() {
    let slot = Slot::open().await;
    let mut command = slot.script("later", "echo ready; sleep 6; echo done");
    command.deadline = Some(Timestamp::now() + Duration::from_secs(5));
    slot.supervisor.start(&command).await.unwrap();
    slot.supervisor.move_deadline("later", Timestamp::now() + Duration::from_secs(60)).await.unwrap();
    let report = slot.supervisor.wait("later").await.unwrap();
    assert_eq!((report.end, report.cause), (End::Exited(0), Cause::Itself));
    slot.supervisor.move_deadline("later", Timestamp::now()).await.unwrap();

    slot.supervisor.start(&slot.script("sooner", "sleep 1000")).await.unwrap();
    let (other, report) = tokio::join!(slot.supervisor.move_deadline("other", Timestamp::now()), async {
        slot.supervisor.move_deadline("sooner", Timestamp::now() - Duration::from_secs(5)).await.unwrap();
        slot.supervisor.wait("sooner").await.unwrap()
    });
    assert!(matches!(other, Err(SandboxError::Refused { refusal: Refusal::Unknown { .. }, .. })), "{other:?}");
    assert_eq!(report.cause, Cause::Deadline);
    slot.assert_ended();
}

#[tokio::test]
async fn a_deadline_ends_the_job() {
    let slot = Slot::open().await;
    let mut command = slot.script("late", "exec sleep 1000");
    command.deadline = Some(Timestamp::now() + Duration::from_millis(200));
    let report = slot.run_command(&command).await;
    assert_eq!((report.end, report.cause), (End::Signalled(15), Cause::Deadline));
    assert!(Some(report.ended_at) >= command.deadline);

    let mut command = slot.script("over", "exec sleep 1000");
    command.deadline = Some(Timestamp::now() - Duration::from_secs(5));
    assert_eq!(slot.run_command(&command).await.cause, Cause::Deadline);
}

#[tokio::test]
async fn a_process_that_was_suspended_is_ended_too() {
    let slot = Slot::open().await;
    let command = slot.script("asleep", "(trap '' TERM; kill -STOP $(sh -c 'echo $PPID')) & echo ready; kill -STOP $$");
    slot.supervisor.start(&super::CommandSpec { grace: Duration::from_millis(200), ..command }).await.unwrap();
    until("it is ready", || slot.output() == "ready\n").await;
    slot.supervisor.stop("asleep").await.unwrap();
    let report = slot.supervisor.wait("asleep").await.unwrap();
    assert_eq!((report.end, report.cause), (End::Signalled(15), Cause::Stopped));
    slot.assert_ended();
}

#[tokio::test]
async fn daemons_that_a_stopped_job_has_made_are_ended_with_it() {
    let slot = Slot::open().await;
    let script = "for i in 1 2 3; do (trap '' TERM; setsid sh -c 'sh -c \"echo up >> ups; exec sleep 1000\" & exit 0' &) ; done; sleep 1000";
    let mut command = slot.script("parent", script);
    command.grace = Duration::from_millis(100);
    slot.supervisor.start(&command).await.unwrap();
    until("three daemons are up", || fs::read_to_string(slot.path("ups")).is_ok_and(|ups| ups.lines().count() == 3)).await;
    // One that is just becoming another program is not seen.
    until("they are seen", || slot.job_processes().len() >= 4).await;
    slot.supervisor.stop("parent").await.unwrap();
    assert_eq!(slot.supervisor.wait("parent").await.unwrap().cause, Cause::Stopped);
    slot.assert_ended();
}

#[tokio::test]
async fn processes_left_in_the_background_are_ended_and_named() {
    let slot = Slot::open().await;
    let script = "setsid sleep 1001 & (trap '' TERM; sleep 1002 &) ; sh -c 'echo $$ > up; exec sleep 1003' & \
                  while [ ! -s up ]; do sleep 0.01; done; exit 6";
    let mut command = slot.script("messy", script);
    command.grace = Duration::from_millis(200);
    let report = slot.run_command(&command).await;
    assert_eq!((&report.end, report.cause), (&End::Exited(6), Cause::Itself));
    let mut stragglers = report.stragglers.clone();
    stragglers.sort();
    assert_eq!(stragglers, ["sleep 1001", "sleep 1002", "sleep 1003"]);
    slot.assert_ended();
}

#[tokio::test]
async fn the_list_of_stragglers_is_bounded() {
    let slot = Slot::open().await;
    let long = "x".repeat(10_000);
    let report = slot.run(&format!("for i in $(seq 40); do sh -c 'sleep 1000; : {long}' & done; exit 0")).await;
    assert_eq!(report.stragglers.len(), 32);
    assert!(report.stragglers.iter().all(|line| line.chars().count() <= 4096), "the daemon cuts further what it tells");
    slot.assert_ended();
}

#[tokio::test]
async fn processes_that_are_just_about_to_end_are_no_stragglers() {
    let slot = Slot::open().await;
    let report = slot.run("sleep 0.01 & exit 0").await;
    assert_eq!((report.end, report.stragglers.len()), (End::Exited(0), 0));
}

#[tokio::test]
async fn processes_that_fork_as_fast_as_they_can_do_not_outrun_the_end() {
    let slot = Slot::open().await;
    let script = "for i in 1 2 3 4; do (trap '' TERM; while :; do (setsid sleep 0.02 &); done) & done; echo ready; wait";
    let mut command = slot.script("bomb", script);
    command.grace = Duration::ZERO;
    slot.supervisor.start(&command).await.unwrap();
    until("it forks", || slot.output() == "ready\n" && slot.job_processes().len() > 6).await;
    slot.supervisor.stop("bomb").await.unwrap();
    let report = tokio::time::timeout(super::PATIENCE, slot.supervisor.wait("bomb")).await.expect("it ends").unwrap();
    assert_eq!(report.cause, Cause::Stopped);
    slot.assert_ended();
}

#[tokio::test]
async fn time_and_memory_of_all_processes_are_added_up() {
    let slot = Slot::open().await;
    // Each holds its 30 MB until all have them and the supervisor has looked several times.
    let script = "for i in 1 2 3; do { head -c 30000000 /dev/zero; echo > up$i; while [ ! -e seen ]; do sleep 0.05; done; } \
                  | tail > /dev/null & done; while [ ! -e up1 ] || [ ! -e up2 ] || [ ! -e up3 ]; do sleep 0.05; done; sleep 5; echo > seen; wait";
    let report = slot.run(script).await;
    assert!(report.peak_memory_bytes > 85_000_000, "three times 30 MB at the same time: {report:?}");
    assert!(report.peak_memory_bytes < 200_000_000, "{report:?}");

    let count = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
    let one = slot.run(count).await;
    let both = slot.run(&format!("({count}) & ({count}) & wait")).await;
    assert!(one.cpu_ms > 0 && both.cpu_ms > one.cpu_ms * 5 / 4, "{} and {}", one.cpu_ms, both.cpu_ms);
    assert!(both.peak_memory_bytes < 80_000_000, "the account begins anew with each command: {both:?}");
}

#[tokio::test]
async fn a_job_that_the_kernel_ended_for_want_of_memory_is_told_apart() {
    let Some(cgroup) = Cgroup::with_memory("20000000") else {
        eprintln!("not shown: only root with a memory cgroup can let a job run out of memory");
        return;
    };
    let slot = Slot::open().await;
    let report = slot.run(&format!("echo $$ > {}; exec tail /dev/zero", cgroup.0.join("cgroup.procs").display())).await;
    assert_eq!((report.end, report.cause, report.out_of_memory), (End::Signalled(9), Cause::Itself, true));
    let script = format!("sh -c 'echo $$ > {}; exec tail /dev/zero'; exit $?", cgroup.0.join("cgroup.procs").display());
    let report = slot.run(&script).await;
    assert_eq!((report.end, report.out_of_memory), (End::Exited(137), true), "also when a shell stands between");
}

/// A memory cgroup, version 1 or 2, removed when dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    fn with_memory(bytes: &str) -> Option<Self> {
        let name = format!("sawmill-test-{}", std::process::id());
        let versions = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        // In version 2 a supervisor counts for its own group, and this one is beside it.
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let counts = own.lines().find_map(|line| line.strip_prefix("0::/")).filter(|path| !path.is_empty());
        let versions = if counts.is_some() { &versions[..1] } else { &versions[..] };
        versions.iter().find_map(|(root, limit)| {
            let cgroup = Path::new(root).join(&name);
            if !Path::new(root).join("cgroup.procs").exists() {
                return None;
            }
            fs::create_dir(&cgroup).ok()?;
            let cgroup = Self(cgroup);
            fs::write(cgroup.0.join(limit), bytes).ok().map(|()| cgroup)
        })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // One that is left is empty, and named after the test.
        fs::remove_dir(&self.0).ok();
    }
}
