//! What a command is started with.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use sawmill::sandbox::{End, Refusal, SandboxError, Status};

use super::{Slot, status_of, until};

#[tokio::test]
async fn the_environment_is_exactly_what_was_given() {
    let slot = Slot::open().await;
    let mut command = slot.script("env", "");
    command.argv = vec!["env".to_owned(), "-0".to_owned()];
    let odd = [("EMPTY", ""), ("LINES", "a\nb=c"), ("UMLAUT", "zwölf"), ("PATH", super::PATH), ("SAWMILL_TEST", &slot.tag)];
    command.env = odd.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    assert_eq!(slot.run_command(&command).await.end, End::Exited(0));
    let output = slot.output();
    let seen: BTreeMap<String, String> = output
        .split_terminator('\0')
        .map(|line| line.split_once('=').unwrap())
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
    // By this a successor finds the command's processes when the supervisor dies.
    command.env.insert("SAWMILL_COMMAND".to_owned(), "env".to_owned());
    assert_eq!(seen, command.env);
}

#[tokio::test]
async fn without_an_input_file_the_input_is_empty() {
    let slot = Slot::open().await;
    let report = slot.run("cat; readlink /proc/self/fd/0").await;
    assert_eq!((report.end, slot.output().as_str()), (End::Exited(0), "/dev/null\n"));
}

#[tokio::test]
async fn the_input_file_is_read_from_its_beginning() {
    let slot = Slot::open().await;
    fs::write(slot.path("prompt"), "do it\n").unwrap();
    let mut command = slot.script("cat", "cat");
    command.stdin = Some(slot.path("prompt"));
    slot.run_command(&command).await;
    assert_eq!(slot.output(), "do it\n");
}

#[tokio::test]
async fn output_and_error_output_land_byte_for_byte_behind_what_was_there() {
    let slot = Slot::open().await;
    let bytes: Vec<u8> = (0..=255).cycle().take(3_000_001).collect();
    fs::write(slot.path("data"), &bytes).unwrap();
    fs::write(slot.path("out"), b"before\n").unwrap();
    let report = slot.run("cat data; printf 'e\\0\\377' >&2").await;
    assert_eq!(report.end, End::Exited(0));
    let out = fs::read(slot.path("out")).unwrap();
    assert!(out.strip_prefix(b"before\n").is_some_and(|rest| rest == bytes));
    assert_eq!(fs::read(slot.path("err")).unwrap(), b"e\0\xff");
}

#[tokio::test]
async fn a_job_has_a_session_of_its_own_and_nothing_of_the_supervisor() {
    let slot = Slot::open().await;
    let command = slot.script("self", "ls /proc/$$/fd; umask; ulimit -c; pwd; echo $$ > pid; read line < gate");
    let gate = slot.path("gate");
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let pid = slot.supervisor.start(&command).await.unwrap().pid.unwrap();
    let said = || fs::read_to_string(slot.path("pid")).unwrap_or_default();
    until("the job has said who it is", || said() == format!("{pid}\n")).await;

    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    assert_eq!(&fields[1..4], [slot.supervisor_pid().to_string(), pid.to_string(), pid.to_string()], "parent, group, session");
    let status = status_of(pid);
    for set in ["SigBlk", "SigIgn"] {
        assert_eq!(status[set], "0000000000000000", "{set}");
    }
    let score = |pid: i32| fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim().parse::<i32>().unwrap();
    assert!(score(pid) >= 500 && score(slot.supervisor_pid()) < score(pid));

    fs::write(&gate, "go\n").unwrap();
    assert_eq!(slot.supervisor.wait("self").await.unwrap().end, End::Exited(0));
    let here = fs::canonicalize(slot.root.path()).unwrap();
    assert_eq!(slot.output(), format!("0\n1\n2\n0022\n0\n{}\n", here.display()));
}

#[tokio::test]
async fn what_cannot_be_started_is_an_end_with_its_reason() {
    let slot = Slot::open().await;
    fs::write(slot.path("plain"), "no program").unwrap();
    fs::write(slot.path("orphan.sh"), "#!/no/such/shell\n").unwrap();
    fs::set_permissions(slot.path("orphan.sh"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let check = async |argv: &[&str], cwd: PathBuf, expected: &str| {
        let mut command = slot.script(&uuid::Uuid::new_v4().to_string(), "");
        command.argv = argv.iter().map(|&part| part.to_owned()).collect();
        command.cwd = cwd;
        let started = slot.supervisor.start(&command).await.unwrap();
        assert_eq!(started.pid, None, "{argv:?}");
        let report = slot.supervisor.wait(&command.id).await.unwrap();
        assert_eq!(report.end, End::NotStarted(expected.to_owned()), "{argv:?}");
    };
    let here = || slot.root.path().to_owned();
    check(&["no-such-program", "x"], here(), &format!("the program no-such-program was not found in PATH ({})", super::PATH))
        .await;
    check(&["./none"], here(), "the program ./none was not found").await;
    check(&["./plain"], here(), "the program ./plain is not executable").await;
    check(&["/"], here(), "the program / is not executable").await;
    check(&["./orphan.sh"], here(), "the interpreter that ./orphan.sh names was not found").await;
    check(&[], here(), "the command is empty").await;
    check(
        &["true"],
        "/no/such/place".into(),
        "the working directory /no/such/place cannot be used: No such file or directory (os error 2)",
    )
    .await;
    let file = slot.path("plain");
    check(&["true"], file.clone(), &format!("the working directory {} is not a directory", file.display())).await;
    assert_eq!(slot.run("exit 0").await.end, End::Exited(0), "and the supervisor goes on");
}

#[tokio::test]
async fn the_same_id_starts_once_while_it_runs_and_after_it_ended() {
    let slot = Slot::open().await;
    let command = slot.script("once", "echo started; while [ ! -e go ]; do sleep 0.01; done");
    let first = slot.supervisor.start(&command).await.unwrap();
    assert_eq!(slot.supervisor.start(&command).await.unwrap(), first);
    fs::write(slot.path("go"), "").unwrap();
    let report = slot.supervisor.wait("once").await.unwrap();
    assert_eq!(slot.supervisor.start(&command).await.unwrap(), first);
    assert_eq!(slot.supervisor.wait("once").await.unwrap(), report);
    assert_eq!(slot.output(), "started\n");
}

#[tokio::test]
async fn a_second_command_is_refused_while_one_runs() {
    let slot = Slot::open().await;
    slot.supervisor.start(&slot.script("first", "exec sleep 1000")).await.unwrap();
    let refused = slot.supervisor.start(&slot.script("second", "echo no")).await;
    let Err(SandboxError::Refused { refusal, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(refusal, Refusal::Busy { running: "first".to_owned() });
    assert!(matches!(slot.supervisor.status().await.unwrap(), Status::Running { id, ending: None, .. } if id == "first"));
    slot.supervisor.stop("first").await.unwrap();
    slot.supervisor.wait("first").await.unwrap();
    assert_eq!(slot.run("exit 0").await.end, End::Exited(0));
}

#[tokio::test]
async fn a_report_is_kept_until_it_is_collected() {
    let slot = Slot::open().await;
    assert_eq!(slot.supervisor.status().await.unwrap(), Status::Idle);
    for id in ["one", "two"] {
        slot.run_command(&slot.script(id, "exit 4")).await;
    }
    assert!(matches!(slot.supervisor.status().await.unwrap(), Status::Ended { id, .. } if id == "two"));
    for id in ["one", "two"] {
        let report = slot.supervisor.wait(id).await.unwrap();
        assert_eq!(sawmill::sandbox::recorded(&slot.sup(), id).unwrap(), Some(report));
        slot.supervisor.collect(id).await.unwrap();
        assert_eq!(sawmill::sandbox::recorded(&slot.sup(), id).unwrap(), None);
        let gone = slot.supervisor.wait(id).await;
        assert!(matches!(gone, Err(SandboxError::Refused { refusal: Refusal::Unknown { .. }, .. })), "{gone:?}");
    }
    assert_eq!(slot.supervisor.status().await.unwrap(), Status::Idle);
}

#[tokio::test]
async fn files_that_cannot_be_opened_and_ids_that_are_no_file_names_are_refused() {
    let slot = Slot::open().await;
    let mut command = slot.script("x", "");
    command.stdin = Some(slot.path("missing"));
    let result = slot.supervisor.start(&command).await;
    assert!(matches!(&result, Err(SandboxError::Open { path, .. }) if *path == slot.path("missing")), "{result:?}");
    let result = slot.supervisor.start(&slot.script("../x", "")).await;
    assert!(matches!(&result, Err(SandboxError::Refused { refusal: Refusal::Invalid { .. }, .. })), "{result:?}");
    let mut command = slot.script("large", "");
    command.argv.push("x".repeat(2 * 1024 * 1024));
    let result = slot.supervisor.start(&command).await;
    assert!(matches!(&result, Err(SandboxError::Refused { refusal: Refusal::Invalid { .. }, .. })), "{result:?}");
}
