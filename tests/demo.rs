//! The demonstration, as a newcomer runs it.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The command, which leaves what it leaves in a directory.
fn in_directory(scratch: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sawmill"));
    command.arg("demo").current_dir(scratch).env("TMPDIR", scratch);
    command
}

fn demo(args: &[&str]) -> Output {
    let scratch = tempfile::tempdir().expect("a directory");
    let output = in_directory(scratch.path()).args(args).output().expect("it runs");
    let left: Vec<_> = std::fs::read_dir(scratch.path()).expect("readable").filter_map(Result::ok).map(|e| e.path()).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    output
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn eight_jobs_meet_eight_fates_and_nothing_is_left_behind() {
    let output = demo(&[]);
    assert!(output.status.success(), "{}", text(&output));
    let said = text(&output);
    assert!(said.contains("8 met the fate that was meant for them"), "{said}");
    assert_eq!(said.matches("fetched, acknowledged").count(), 4, "{said}");
    let graph = said.split("$ git log").nth(1).expect("the history is drawn");
    assert_eq!(graph.matches("(origin/sawmill/demo/").count(), 4, "{graph}");
}

#[test]
fn it_works_on_a_copy_of_the_callers_repository_and_leaves_that_alone() {
    let source = tempfile::tempdir().expect("a directory");
    let git = |args: &[&str]| {
        let identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"];
        let output = Command::new("git").args(identity).args(args).current_dir(source.path()).output().expect("git runs");
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    git(&["init", "--quiet", "-b", "trunk"]);
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"), source.path().join("Cargo.toml")).expect("copied");
    git(&["add", "-A"]);
    git(&["commit", "--quiet", "-m", "first"]);
    let before = git(&["for-each-ref"]);

    let output = demo(&["--repo", source.path().to_str().expect("a path in UTF-8"), "--jobs", "9"]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("9 met the fate that was meant for them"), "{}", text(&output));
    assert_eq!(git(&["for-each-ref"]), before);
}

#[test]
fn a_reader_who_has_seen_enough_ends_it_quietly() {
    let scratch = tempfile::tempdir().expect("a directory");
    let mut child = in_directory(scratch.path()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success() && !text(&output).contains("error"), "{}", text(&output));
    assert_eq!(std::fs::read_dir(scratch.path()).expect("readable").count(), 0, "left behind");
}

#[test]
fn ctrl_c_leaves_nothing_behind_whenever_it_comes() {
    for moment in ["the scene is being set", "jobs run"] {
        let scratch = tempfile::tempdir().expect("a directory");
        let mut child = in_directory(scratch.path()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs");
        let mut said = BufReader::new(child.stderr.take().expect("a pipe"));
        match moment {
            "jobs run" => drop(said.read_line(&mut String::new()).expect("it says where it works")),
            _ => {
                while std::fs::read_dir(scratch.path()).expect("readable").count() == 0 {
                    assert_eq!(child.try_wait().expect("its state"), None, "it ended by itself");
                }
            }
        }
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
        kill(pid, Signal::SIGINT).expect("it runs");
        assert_eq!(child.wait().expect("it ends").code(), Some(130), "{moment}");
        assert_eq!(std::fs::read_dir(scratch.path()).expect("readable").count(), 0, "left behind while {moment}");
    }
}
