//! Daemons come and go; supervisors stay.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sawmill::sandbox::{Cause, End, Refusal, SandboxError, Status, Supervisor};
use tempfile::tempdir;

use super::{PATIENCE, Slot, copy_program, launch, private_dir, processes, script_in, status_of, until};

/// What a killed daemon leaves running, until the file `go` appears.
const PATIENT: &str = "echo started; while [ ! -e go ]; do sleep 0.01; done; echo went on; exit 9";

#[tokio::test]
async fn a_supervisor_is_detached_and_says_whose_it_is() {
    let slot = Slot::open().await;
    let pid = slot.supervisor_pid();
    let own = std::process::id().to_string();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    assert_ne!(fields[1], own, "it is not our child");
    assert_eq!(fields[3], pid.to_string(), "it leads a session of its own");
    let arguments = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    let mark = format!("worker={} slot=0 nonce=", slot.tag);
    assert!(arguments.contains("\0__supervise\0") && arguments.contains(&mark), "{arguments:?}");
    let environment = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
    assert!(environment.starts_with(&format!("SAWMILL_MARK={mark}")), "{environment:?}");
    assert_eq!(environment.split_terminator('\0').count(), 1, "nothing else is inherited");
    assert_eq!(status_of(pid)["Threads"], "1");
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(slot.sup()), mode(slot.sup().join("sock"))), (0o700, 0o700));
}

#[tokio::test]
async fn a_supervisor_holds_no_descriptor_of_its_starter() {
    // A pipe that is not close-on-exec, as a careless library in the daemon would make it.
    let (read, write) = nix::unistd::pipe().unwrap();
    let slot = Slot::open().await;
    let open = fs::read_dir(format!("/proc/{}/fd", slot.supervisor_pid())).unwrap().flatten();
    // One that it closes while they are looked at is none that it holds.
    let targets: Vec<String> = open.filter_map(|fd| Some(fs::read_link(fd.path()).ok()?.display().to_string())).collect();
    assert!(!targets.is_empty());
    assert!(!targets.iter().any(|target| target.starts_with("pipe:")), "{targets:?}");
    drop((read, write));
}

#[tokio::test]
async fn a_second_launch_attaches_to_the_first() {
    let slot = Slot::open().await;
    let pid = slot.supervisor_pid();
    let again = Supervisor::launch(&slot.launch()).await.unwrap();
    again.keep_alive().await.unwrap();
    assert_eq!(slot.supervisor_pid(), pid);
}

#[tokio::test]
async fn of_many_that_launch_at_once_one_starts_it() {
    let slot = Slot::open().await;
    slot.supervisor.clone().shutdown().await.unwrap();
    let mut racing = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let launch = slot.launch();
        racing.spawn(async move { Supervisor::launch(&launch).await });
    }
    for result in racing.join_all().await {
        result.unwrap().keep_alive().await.unwrap();
    }
    slot.supervisor_pid();
}

#[tokio::test]
async fn a_dropped_client_changes_nothing_and_the_report_is_still_there() {
    let slot = Slot::open().await;
    slot.supervisor.start(&slot.script("job", PATIENT)).await.unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(50), slot.supervisor.wait("job")).await;
    assert!(waiting.is_err(), "a wait that is cancelled");
    let other = Supervisor::attach(&slot.sup()).await.unwrap().expect("it lives");
    assert!(matches!(other.status().await.unwrap(), Status::Running { id, .. } if id == "job"));
    fs::write(slot.path("go"), "").unwrap();
    let report = other.wait("job").await.unwrap();
    assert_eq!((&report.end, report.cause), (&End::Exited(9), Cause::Itself));
    assert_eq!(slot.supervisor.wait("job").await.unwrap(), report, "and for everybody who asks again");
    assert_eq!(slot.output(), "started\nwent on\n");
}

#[tokio::test]
async fn a_job_outlives_the_kill_of_its_daemon_and_is_found_by_the_next() {
    let root = tempdir().unwrap();
    let tag = format!("test-{}", uuid::Uuid::new_v4().simple());
    let mut daemon = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "sandbox::daemon::be_a_daemon_until_killed", "--ignored", "--nocapture"])
        .env("SANDBOX_ROOT", root.path())
        .env("SANDBOX_TAG", &tag)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let out = root.path().join("out");
    until("the job of the other daemon runs", || fs::read_to_string(&out).is_ok_and(|text| text == "started\n")).await;
    daemon.kill().unwrap();
    daemon.wait().unwrap();

    // From here on this test is the restarted daemon; the slot cleans up.
    let supervisor = Supervisor::attach(&root.path().join("sup")).await.unwrap().expect("it survived");
    let slot = Slot { root, tag, orphan_after: PATIENCE, supervisor };
    assert!(matches!(slot.supervisor.status().await.unwrap(), Status::Running { id, ending: None, .. } if id == "job"));
    fs::write(slot.path("go"), "").unwrap();
    assert_eq!(slot.supervisor.wait("job").await.unwrap().end, End::Exited(9));
    assert_eq!(slot.output(), "started\nwent on\n");
}

#[tokio::test]
#[ignore = "the other half of a_job_outlives_the_kill_of_its_daemon_and_is_found_by_the_next"]
async fn be_a_daemon_until_killed() {
    let root = std::path::PathBuf::from(std::env::var_os("SANDBOX_ROOT").unwrap());
    let tag = std::env::var("SANDBOX_TAG").unwrap();
    let supervisor = Supervisor::launch(&launch(&root, &tag, PATIENCE)).await.unwrap();
    supervisor.start(&script_in(&root, &tag, "job", PATIENT)).await.unwrap();
    supervisor.wait("job").await.unwrap();
}

#[tokio::test]
async fn an_executable_that_was_replaced_does_not_matter_to_the_living() {
    let slot = Slot::open().await;
    slot.supervisor.clone().shutdown().await.unwrap();
    let copy = slot.path("sawmill");
    copy_program(env!("CARGO_BIN_EXE_sawmill").as_ref(), &copy);
    let launch = sawmill::sandbox::Launch { executable: copy.clone(), ..slot.launch() };
    let supervisor = Supervisor::launch(&launch).await.unwrap();
    fs::remove_file(&copy).unwrap();
    fs::write(&copy, "the next version").unwrap();
    let mut command = slot.script("job", "");
    command.argv = ["/proc/self/exe", "__supervise"].map(str::to_owned).into();
    supervisor.start(&command).await.unwrap();
    assert_eq!(supervisor.wait("job").await.unwrap().end, End::Exited(1));
    let said = fs::read_to_string(slot.path("err")).unwrap();
    assert!(said.contains("cannot read the supervisor's arguments"), "a will can run the same program: {said}");
}

#[tokio::test]
async fn a_directory_deeper_than_a_socket_address_works() {
    let root = tempdir().unwrap();
    let deep = (0..5).fold(root.path().to_owned(), |path, _| path.join("d".repeat(100)));
    private_dir(&deep);
    let tag = format!("test-{}", uuid::Uuid::new_v4().simple());
    let launch = launch(&deep, &tag, PATIENCE);
    let supervisor = Supervisor::launch(&launch).await.unwrap();
    let slot = Slot { root, tag, orphan_after: PATIENCE, supervisor };
    assert_eq!(slot.run("exit 8").await.end, End::Exited(8));
    Supervisor::at(&launch.dir).keep_alive().await.unwrap();
}

#[tokio::test]
async fn after_a_supervisor_was_killed_the_next_one_clears_up_and_says_what_is_lost() {
    let slot = Slot::open().await;
    let before = slot.run_command(&slot.script("before", "exit 3")).await;
    let command = slot.script("job", "(trap '' TERM; sh -c 'echo up; exec sleep 1000' & exec sleep 1001)");
    slot.supervisor.start(&command).await.unwrap();
    let noted = || fs::read_to_string(slot.sup().join("running.json")).unwrap_or_default();
    until("its lasting processes are written down", || noted().matches("\"began\"").count() >= 3).await;
    kill(Pid::from_raw(slot.supervisor_pid()), Signal::SIGKILL).unwrap();
    until("it is dead", || processes(&format!("SAWMILL_MARK=worker={} ", slot.tag)).is_empty()).await;

    assert!(Supervisor::attach(&slot.sup()).await.unwrap().is_none());
    assert!(matches!(Supervisor::at(&slot.sup()).keep_alive().await, Err(SandboxError::Gone { .. })));
    assert_eq!(sawmill::sandbox::recorded(&slot.sup(), "before").unwrap().as_ref(), Some(&before));
    assert_eq!(sawmill::sandbox::recorded(&slot.sup(), "job").unwrap(), None);

    let next = Supervisor::launch(&slot.launch()).await.unwrap();
    let lost = next.wait("job").await;
    assert!(matches!(&lost, Err(SandboxError::Refused { refusal: Refusal::Lost { .. }, .. })), "{lost:?}");
    slot.assert_ended();
    assert_eq!(next.wait("before").await.unwrap(), before);
    assert_eq!(slot.run("exit 0").await.end, End::Exited(0));
}

#[tokio::test]
async fn a_shutdown_ends_the_job_and_leaves_the_report() {
    let slot = Slot::open().await;
    slot.supervisor.start(&slot.script("job", "exec sleep 1000")).await.unwrap();
    slot.supervisor.clone().shutdown().await.unwrap();
    until("all is gone", || slot.all_processes().is_empty()).await;
    let report = sawmill::sandbox::recorded(&slot.sup(), "job").unwrap().expect("a report");
    assert_eq!((report.end, report.cause), (End::Signalled(15), Cause::Stopped));
    assert!(!slot.sup().join("sock").exists());
    let gone = slot.supervisor.status().await;
    assert!(matches!(gone, Err(SandboxError::Gone { .. })), "{gone:?}");
}
