//! Jobs that cannot be accepted, and jobs whose repository or command is not what it should be.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::site::{Site, wait_until};

#[test]
fn a_chain_of_jobs_said_on_the_command_line_builds_one_commit_on_the_other() {
    let site = Site::new();
    let first = site.enqueue(&["--project", "app", "--key", "app", "--", "echo one > one.txt"]);
    let line = ["--project", "app", "--key", "app", "--base-from", &first, "--", "cat one.txt > two.txt"];
    let second = site.enqueue(&line);
    let third = site.enqueue(&["--project", "app", "--require", "gpu", "--", "true"]);
    assert!(site.says(&["job", "show", &second, "--json"]).contains("\"held\": \"dependency\""));
    let _worker = site.worker();
    insta::assert_snapshot!(site.fate_of(&second), @r#"
    exit 0
    [job] succeeded: delivered [commit] on sawmill/adhoc/job/cat-one-txt-two-txt
    commit [commit] on branch sawmill/adhoc/job/cat-one-txt-two-txt
    "#);
    assert!(site.says(&["job", "show", &third]).contains("state          queued"), "no worker here has a gpu");
}

#[test]
fn the_limit_of_a_project_holds_for_all_daemons_until_one_starts_without_it() {
    let mut site = Site::new().with("SAWMILL_PROJECTS__APP__LIMITS__RUNNING", "1");
    let _worker = site.worker();
    let sleeping = || site.enqueue(&["--project", "app", "--", "sleep 60"]);
    let ids = [sleeping(), sleeping()];
    let shown = |id: &str, what: &str| site.says(&["job", "show", id, "--json"]).contains(what);
    let is_held = |id: &String| shown(id, "\"held\": \"project\"");
    wait_until("one of them is held for the sake of the project", || ids.iter().any(is_held));
    let [held, running] = if is_held(&ids[0]) { ids } else { [ids[1].clone(), ids[0].clone()] };
    wait_until("the other one runs", || shown(&running, "\"state\": \"running\""));
    assert!(shown(&held, "\"state\": \"queued\""));
    site = site.with("SAWMILL_PROJECTS__APP__LIMITS__RUNNING", "2");
    let _server = site.daemon("serve", "serving");
    let shown = |id: &str, what: &str| site.says(&["job", "show", id, "--json"]).contains(what);
    wait_until("both run", || [&running, &held].iter().all(|id| shown(id, "\"state\": \"running\"")));
    for id in [running, held] {
        site.says(&["job", "cancel", &id]);
    }
}

#[test]
fn a_malformed_document_is_answered_with_the_path_to_the_field() {
    let site = Site::new();
    let says = |document: &str| site.says_to(&["enqueue", "--spec", "-"], document);
    insta::assert_snapshot!(says("{\"project\": \"app\", "), @r#"
    exit 2
    error: standard input: the body is not JSON: EOF while parsing a value at line 1 column 19
    "#);
    insta::assert_snapshot!(says(r#"{"project": "app", "task": {"comand": "true"}}"#), @r#"
    exit 2
    error: standard input: task.comand: unknown field `comand`, expected one of `instruction`, `command`, `acceptance`, `inputs` at line 1 column 36; did you mean "command"?
    "#);
    insta::assert_snapshot!(says(r#"{"project": "app", "task": {"command": 5}}"#), @r#"
    exit 2
    error: standard input: task.command: a command is a line of text, or a list of a program and its arguments at line 1 column 41
    "#);
    insta::assert_snapshot!(says(r#"{"project": "app", "task": {"command": "true"}, "timeout": "90"}"#), @r#"
    exit 2
    error: standard input: timeout: "90" is not a duration such as "90s", "15m" or "1h 30m" at line 1 column 63
    "#);
    insta::assert_snapshot!(says(r#"{"project": "app", "task": {"command": "true"}, "timeout": 90}"#), @r#"
    exit 2
    error: standard input: timeout: invalid type: integer `90`, expected a duration such as "90s", "15m" or "1h 30m" at line 1 column 61
    "#);
    insta::assert_snapshot!(says(r#"{"project": "app", "task": {"command": "true"}, "gates": [{"name": "unit"}]}"#), @r#"
    exit 2
    error: standard input: gates[0].command: missing field `command` at line 1 column 74
    "#);
    insta::assert_snapshot!(says(r#"{"project": "app", "task": {"command": "true"}, "deliver": {"branch": "a b"}}"#), @r#"
    exit 2
    error: standard input: deliver.branch: "a b" is not a branch name: it has a space, a control character or one of ~^:?*[\ at line 1 column 76
    "#);
    std::fs::write(site.path("job.json"), r#"{"project": "app"}"#).expect("a document");
    insta::assert_snapshot!(site.says(&["enqueue", "--spec", "job.json"]), @r#"
    exit 2
    error: job.json: task: missing field `task` at line 1 column 18
    "#);
    insta::assert_snapshot!(site.says(&["enqueue", "--spec", "missing.json"]), @r#"
    exit 2
    error: cannot read missing.json
      because: No such file or directory (os error 2)
    "#);
}

#[test]
fn a_project_or_backend_that_is_not_known_is_answered_with_the_nearest() {
    let site = Site::new();
    insta::assert_snapshot!(site.says(&["enqueue", "--project", "ap", "--", "true"]), @r#"
    exit 2
    error: project: there is no project "ap"; did you mean "app"?
    "#);
    insta::assert_snapshot!(site.says(&["enqueue", "--project", "app", "--backend", "shall", "--", "true"]), @r#"
    exit 2
    error: backend: there is no backend "shall"; did you mean "shell"?
    "#);
    insta::assert_snapshot!(site.says(&["enqueue", "--project", "app", "--check", "forbid=[z-a]*.pem", "--", "true"]), @r#"
    exit 2
    error: checks[0].forbid[0]: "[z-a]*.pem" is no pattern: what is in its [] is no class of characters, such as [a-z] or [!0-9]
    "#);
    insta::assert_snapshot!(site.says(&["enqueue", "--project", "app", "--branch", "a..b", "--", "true"]), @r#"
    exit 2
    error: invalid value 'a..b' for '--branch <BRANCH>': "a..b" is not a branch name: it has ".." or "@{"

    For more information, try '--help'.
    "#);
}

#[test]
fn what_is_no_repository_is_refused_before_it_is_queued() {
    let site = Site::new();
    insta::assert_snapshot!(site.says(&["enqueue", "--repo", "missing.git", "--", "true"]), @r#"
    exit 2
    error: there is no directory "missing.git"; give the path of a repository, or any URL that git accepts
    "#);
    insta::assert_snapshot!(site.says(&["enqueue", "--repo", "ext::sh -c true", "--", "true"]), @r#"
    exit 2
    error: repo: cannot use "ext::sh -c true" as a repository: it is no URL, no user@host:path and no absolute path
    "#);
    insta::assert_snapshot!(site.says(&["enqueue", "--repo", "ftp://host/a.git", "--", "true"]), @r#"
    exit 2
    error: repo: cannot use a repository at ftp:// (https, http, ssh, git and file can be used)
    "#);
}

#[test]
fn a_repository_that_cannot_be_worked_on_fails_the_job_with_the_reason() {
    let site = Site::new();
    let _worker = site.worker();
    let missing = site.path("missing.git").display().to_string();
    insta::assert_snapshot!(site.fate(&["--repo", &missing, "--", "true"]), @r#"
    exit 1
    [job] failed: cannot read [site]/missing.git: there is no repository; check the address, and that this worker may see it
    "#);
    site.empty_remote("empty.git");
    insta::assert_snapshot!(site.fate(&["--repo", "empty.git", "--", "true"]), @r#"
    exit 1
    [job] failed: cannot start from [site]/empty.git: the repository is empty; push a first commit to it
    "#);
    insta::assert_snapshot!(site.fate(&["--project", "app", "--base", "mian", "--", "true"]), @r#"
    exit 1
    [job] failed: cannot find base "mian" in [site]/app.git; did you mean main?
    "#);
    insta::assert_snapshot!(site.fate(&["--project", "app", "--base", &"1".repeat(40), "--", "true"]), @r#"
    exit 1
    [job] failed: cannot find base "[commit]" in [site]/app.git
    "#);
    let guarded = Guarded::start();
    insta::assert_snapshot!(site.fate(&["--repo", &format!("http://{}/app.git", guarded.address), "--", "true"]), @r#"
    exit 1
    [job] failed: cannot read http://127.0.0.1:[port]/app.git: it wants credentials; use ssh, or put a token into the address as in https://USER:TOKEN@HOST/PATH (fatal: could not read Username for 'http://127.0.0.1:[port]': terminal prompts disabled)
    "#);
    let with_password = format!("http://app:hunter2@{}/app.git", guarded.address);
    let fate = site.fate(&["--repo", &with_password, "--", "true"]);
    assert!(!fate.contains("hunter2"), "{fate}");
}

#[test]
fn a_command_that_is_not_found_fails_the_job_with_its_name() {
    let site = Site::new();
    let _worker = site.worker();
    insta::assert_snapshot!(site.fate(&["--project", "app", "--", "no-such-program", "argument"]), @r#"
    exit 1
    [job] failed: shell cannot be started: the program no-such-program was not found in PATH (/usr/local/bin:/usr/bin:/bin)
    "#);
    insta::assert_snapshot!(site.fate(&["--project", "app", "--", "./no-such-script", "argument"]), @r#"
    exit 1
    [job] failed: shell cannot be started: the program ./no-such-script was not found
    "#);
    let id = site.enqueue(&["--project", "app", "--", "no-such-program argument"]);
    insta::assert_snapshot!(site.fate_of(&id), @r#"
    exit 1
    [job] failed: shell exited with status 127: a command that it names was not found, and the log says which
    "#);
    insta::assert_snapshot!(String::from_utf8_lossy(&site.log(&[&id, "--stream", "stderr"])), @"sh: 1: no-such-program: not found");
}

#[test]
fn a_change_of_fate_that_cannot_be_is_explained() {
    let site = Site::new();
    let id = site.enqueue(&["--project", "app", "--", "true"]);
    insta::assert_snapshot!(site.says(&["job", "cancel"]).lines().nth(2).expect("a line"), @"  <ID|--execution <ID>|--project <PROJECT>|--state <STATE>|--all>");
    insta::assert_snapshot!(site.says(&["job", "retry", &id]).replace(&id, "[job]"), @r#"
    exit 4
    error: cannot retry job [job]: it is queued, and only a failed or cancelled job can be retried
    "#);
    insta::assert_snapshot!(site.says(&["job", "cancel", "--state", "failed"]), @r#"
    exit 2
    error: state: failed jobs cannot be cancelled; those that are queued or running can
    "#);
    let nobody = "018f0000-0000-7000-8000-000000000000";
    let other = site.enqueue(&["--project", "app", "--", "true"]);
    insta::assert_snapshot!(site.says(&["job", "retry", &other, nobody]).replace(&other, "[job]"), @r#"
    exit 3
    0 jobs queued again
    [job], which is queued, is left as it is: only a failed or cancelled job can be retried
    [job] is left as it is: there is no such job
    "#);
    insta::assert_snapshot!(site.says(&["completions", "requeue", nobody]), @r#"
    exit 3
    error: there is no completion [job]; check the id against the list
    "#);
}

/// A server that asks everybody for a password.
struct Guarded {
    address: SocketAddr,
    closing: Arc<AtomicBool>,
    serving: Option<JoinHandle<()>>,
}

impl Guarded {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let closing = Arc::new(AtomicBool::new(false));
        let closed = Arc::clone(&closing);
        let serving = std::thread::spawn(move || {
            for connection in listener.incoming() {
                if closed.load(Ordering::SeqCst) {
                    return;
                }
                refuse(connection.expect("a connection"));
            }
        });
        Self { address, closing, serving: Some(serving) }
    }
}

fn refuse(mut connection: TcpStream) {
    let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match connection.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(read) => request.extend_from_slice(&buffer[..read]),
        }
    }
    let answer =
        "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"app\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    // A client that has gone has seen enough.
    drop(connection.write_all(answer.as_bytes()));
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        if let Some(serving) = self.serving.take() {
            serving.join().expect("the server ends");
        }
    }
}
