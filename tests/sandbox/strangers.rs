//! Who breaks the format, and who has no business here.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use sawmill::sandbox::{End, Launch, Mark, SandboxError, Supervisor};

use super::{PATIENCE, Slot, copy_program, until};

/// Sends bytes and returns what comes back until the other end closes.
fn say(dir: &Path, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(dir.join("sock"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answer = Vec::new();
    match stream.write_all(bytes).and_then(|()| stream.read_to_end(&mut answer)) {
        Err(error) if !matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Err(error),
        _ => Ok(answer),
    }
}

fn frame(text: &str) -> Vec<u8> {
    let mut frame = u32::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    frame.extend(text.as_bytes());
    frame
}

#[tokio::test]
async fn a_malformed_frame_closes_its_connection_and_no_other() {
    let slot = Slot::open().await;
    slot.supervisor.start(&slot.script("job", "while [ ! -e go ]; do sleep 0.01; done")).await.unwrap();
    let waiting = tokio::spawn({
        let supervisor = slot.supervisor.clone();
        async move { supervisor.wait("job").await }
    });
    for bad in
        [vec![0xff; 64], frame("{"), frame("\"no such request\""), frame("{\"stop\":{}}"), b"GET / HTTP/1.1\r\n\r\n".to_vec()]
    {
        assert_eq!(say(&slot.sup(), &bad).unwrap(), b"", "{bad:?}");
    }
    drop(UnixStream::connect(slot.sup().join("sock")).unwrap());
    let halfway = UnixStream::connect(slot.sup().join("sock")).unwrap();
    (&halfway).write_all(&[0, 0, 0]).unwrap();
    fs::write(slot.path("go"), "").unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().end, End::Exited(0));
}

#[tokio::test]
async fn a_start_without_its_files_is_refused() {
    let slot = Slot::open().await;
    let start =
        "{\"start\":{\"id\":\"x\",\"argv\":[\"true\"],\"env\":{},\"cwd\":\"/\",\"grace_ms\":1,\"deadline\":null,\"will\":null}}";
    let mut stream = UnixStream::connect(slot.sup().join("sock")).unwrap();
    stream.write_all(&frame(start)).unwrap();
    let mut answer = vec![0; 512];
    let length = stream.read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    assert!(answer.contains("output and error output did not come with it"), "{answer}");
}

#[tokio::test]
async fn more_connections_than_it_takes_do_not_lock_the_daemon_out() {
    let slot = Slot::open().await;
    let idle: Vec<UnixStream> = (0..100).map(|_| UnixStream::connect(slot.sup().join("sock")).unwrap()).collect();
    slot.supervisor.keep_alive().await.unwrap();
    assert_eq!(slot.run("exit 0").await.end, End::Exited(0));
    drop(idle);
}

#[tokio::test]
async fn another_user_cannot_connect_even_when_the_files_would_let_him() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("not shown: only root can become another user");
        return;
    }
    let slot = Slot::open().await;
    // The test's own directory may be out of the other user's reach, so he gets a copy of this program.
    let program = slot.path("stranger");
    copy_program(&std::env::current_exe().unwrap(), &program);
    let open = |path: PathBuf, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    open(slot.root.path().to_owned(), 0o755);
    open(program.clone(), 0o755);
    let ask = || {
        let output = Command::new(&program)
            .args(["--exact", "sandbox::strangers::be_a_stranger", "--ignored", "--nocapture"])
            .env("SANDBOX_SUP", slot.sup())
            .current_dir("/")
            .uid(65534)
            .gid(65534)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let seen = ask();
    assert!(seen.contains("refused: Permission denied"), "{seen}");
    open(slot.sup(), 0o777);
    open(slot.sup().join("sock"), 0o777);
    let seen = ask();
    assert!(seen.contains("answer: []"), "the connection is closed unheard: {seen}");
    slot.supervisor.keep_alive().await.unwrap();
}

#[test]
#[ignore = "the other half of another_user_cannot_connect_even_when_the_files_would_let_him"]
fn be_a_stranger() {
    let dir = PathBuf::from(std::env::var_os("SANDBOX_SUP").unwrap());
    match say(&dir, &frame("\"status\"")) {
        Ok(answer) => println!("answer: {answer:?}"),
        Err(error) => println!("refused: {error}"),
    }
}

#[tokio::test]
async fn a_directory_that_others_could_enter_is_closed_first() {
    let slot = Slot::open().await;
    slot.supervisor.clone().shutdown().await.unwrap();
    fs::set_permissions(slot.sup(), fs::Permissions::from_mode(0o777)).unwrap();
    Supervisor::launch(&slot.launch()).await.unwrap();
    assert_eq!(fs::metadata(slot.sup()).unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn what_cannot_be_launched_says_why() {
    let root = tempfile::tempdir().unwrap();
    let launch = |executable: &str, dir: &str| Launch {
        executable: executable.into(),
        dir: root.path().join(dir),
        mark: Mark { worker: "w".to_owned(), slot: "0".to_owned() },
        orphan_after: PATIENCE,
    };
    let missing = Supervisor::launch(&launch("/no/such/program", "a")).await.unwrap_err();
    assert!(matches!(&missing, SandboxError::Launch { why, .. } if why.contains("/no/such/program")), "{missing:?}");
    let other = Supervisor::launch(&launch("/bin/false", "a")).await.unwrap_err();
    assert!(matches!(&other, SandboxError::Launch { why, .. } if why.contains("exit status: 1")), "{other:?}");
    fs::write(root.path().join("file"), "").unwrap();
    let file = Supervisor::launch(&launch(env!("CARGO_BIN_EXE_sawmill"), "file")).await.unwrap_err();
    assert!(matches!(&file, SandboxError::Directory { .. }), "{file:?}");
    until("nothing was started", || !root.path().join("a/sock").exists()).await;
}
