//! The server, the worker's place, and commands about jobs that are not in the right state.

use std::fs;
use std::net::TcpListener;

use super::site::{Site, wait_until};

const NOBODY: &str = "00000000-0000-7000-8000-000000000000";

#[test]
fn an_address_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let site = Site::new().with("SAWMILL_SERVER__LISTEN", &address);
    insta::assert_snapshot!(site.says(&["serve"]), @r#"
    exit 4
    error: cannot listen on 127.0.0.1:[port]; set server.listen to another port, or stop what uses this one
      because: Address already in use (os error 98)
    "#);
    insta::assert_snapshot!(site.says(&["up"]), @r#"
    exit 4
    error: cannot listen on 127.0.0.1:[port]; set server.listen to another port, or stop what uses this one
      because: Address already in use (os error 98)
    "#);
    insta::assert_snapshot!(Site::new().with("SAWMILL_SERVER__LISTEN", "0.0.0.0:7400").says(&["serve"]), @r#"
    exit 2
    error: cannot listen on 0.0.0.0:7400: other hosts could reach it and there are no tokens yet; set server.listen to a loopback address such as 127.0.0.1:[port]
    "#);
}

#[test]
fn a_server_that_is_not_there_is_named_with_the_next_step() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").to_string();
    let site = Site::new();
    insta::assert_snapshot!(site.says(&["--server", &format!("http://{free}"), "jobs"]), @r#"
    exit 5
    error: cannot reach the server at http://127.0.0.1:[port]; check --server, or start it with: sawmill serve
      because: Connection refused (os error 111)
    "#);
    insta::assert_snapshot!(Site::new().with("SAWMILL_SERVER", &free).says(&["jobs"]), @r#"
    exit 5
    error: cannot reach the server at http://127.0.0.1:[port]; check --server, or start it with: sawmill serve
      because: Connection refused (os error 111)
    "#);
    insta::assert_snapshot!(site.says(&["--server", &free, "logs", "-f", NOBODY]), @r#"
    exit 5
    error: cannot reach the server at http://127.0.0.1:[port]; check --server, or start it with: sawmill serve
      because: Connection refused (os error 111)
    "#);
    insta::assert_snapshot!(site.says(&["--server", "ftp://host", "jobs"]), @r#"
    exit 2
    error: "ftp://host" is not the address of a server (it does not begin with http:// or https://); give one such as http://127.0.0.1:[port]
    "#);
}

#[test]
fn a_job_that_is_not_there_is_named() {
    let site = Site::new();
    for line in [&["job", "show", NOBODY][..], &["logs", NOBODY], &["job", "cancel", NOBODY], &["job", "wait", NOBODY]] {
        insta::allow_duplicates! {
            insta::assert_snapshot!(site.says(line), @r#"
            exit 3
            error: there is no job [job]; check the id against the list
            "#);
        }
    }
    insta::assert_snapshot!(site.says(&["job", "show", "7"]), @r#"
    exit 2
    error: invalid value '7' for '<ID>': "7" is not a job id

    For more information, try '--help'.
    "#);
}

#[test]
fn a_state_directory_has_one_worker() {
    let site = Site::new();
    let _first = site.worker();
    insta::assert_snapshot!(site.says(&["worker"]), @r#"
    exit 4
    error: another worker uses the state directory [site]/worker; give each worker its own worker.state_dir
    "#);
}

#[test]
fn a_name_has_one_worker_and_its_jobs_stay_with_it() {
    let site = Site::new();
    let _first = site.worker();
    let id = site.enqueue(&["--project", "app", "--changes", "none", "--", "sleep 3"]);
    wait_until("the job runs", || site.says(&["job", "show", &id]).contains("state          running"));
    let configuration = fs::read_to_string(site.path("workers.toml")).expect("a configuration").replace("/worker\"", "/other\"");
    fs::write(site.path("other.toml"), configuration).expect("a configuration");
    let other = site.says(&["--config", "other.toml", "worker"]);
    assert!(other.starts_with("exit 4\nerror: another worker is named w: process "), "{other}");
    assert!(other.contains("give each worker its own worker.name, or none"), "{other}");
    insta::assert_snapshot!(site.fate_of(&id), @r#"
    exit 0
    [job] succeeded: done without a change
    "#);
    assert!(site.says(&["job", "show", &id]).contains("attempt        1\n"), "it went on where it was");
}

#[test]
fn a_running_job_is_not_retried_and_an_ended_one_is_not_cancelled() {
    let site = Site::new();
    let _worker = site.worker();
    let id = site.enqueue(&["--project", "app", "--", "sleep 60"]);
    let shows = |state: &str| site.says(&["job", "show", &id]).contains(state);
    wait_until("the job runs", || shows("state          running"));
    insta::assert_snapshot!(site.says(&["job", "retry", &id]), @r#"
    exit 4
    error: cannot retry job [job]: it is running, and only a failed or cancelled job can be retried
    "#);
    insta::assert_snapshot!(site.says(&["job", "cancel", &id, "--reason", "enough"]), @r#"
    exit 0
    [job] is running; its worker will end it (wait for that with: sawmill job wait [job])
    "#);
    insta::assert_snapshot!(site.fate_of(&id), @r#"
    exit 1
    [job] cancelled: by request: enough
    "#);
    let done = site.enqueue(&["--project", "app", "--changes", "none", "--", "true"]);
    insta::assert_snapshot!(site.fate_of(&done), @r#"
    exit 0
    [job] succeeded: done without a change
    "#);
    insta::assert_snapshot!(site.says(&["job", "cancel", &done]), @r#"
    exit 4
    error: job [job] has succeeded already; there is nothing left to cancel
    "#);
}

#[test]
fn who_is_new_is_told_what_is_missing() {
    let site = Site::new();
    insta::assert_snapshot!(site.says(&["jobs"]), @r#"
    exit 0
    there is no such job; ask for one with: sawmill enqueue
    "#);
    insta::assert_snapshot!(site.says(&["workers", "list"]), @r#"
    exit 0
    no worker has ever reported; start one with: sawmill up
    "#);
    insta::assert_snapshot!(site.says(&["completions", "list"]), @r#"
    exit 0
    there is no such completion; a job that succeeds makes one
    "#);
    insta::assert_snapshot!(site.says(&["enqueue", "--project", "app", "--", "true"]), @r#"
    exit 0
    [job]
    on branch sawmill/adhoc/job/true; watch it with: sawmill logs -f [job]
    no worker is there to take it; start one with: sawmill up
    "#);
    insta::assert_snapshot!(site.says(&["enqueue", "--project", "app"]), @r#"
    exit 2
    error: there is nothing to do; say it with --instruction TEXT, --file FILE, --spec FILE, or a command after --
    "#);
    insta::assert_snapshot!(site.says(&["enqueue", "--", "true"]), @r#"
    exit 2
    error: there is no repository to do it in; name one with --repo REPO or --project PROJECT
    "#);
}

#[test]
fn who_enqueues_what_does_not_start_at_once_is_told_why() {
    let site = Site::new();
    let _worker = site.worker();
    insta::assert_snapshot!(site.says(&["enqueue", "--project", "app", "--require", "gpu", "--", "true"]), @r#"
    exit 0
    [job]
    on branch sawmill/adhoc/job/true; watch it with: sawmill logs -f [job]
    nothing is before it; when it starts is not known: no live worker has its backend and all that it requires; see: sawmill job explain [job]
    "#);
    insta::assert_snapshot!(site.says(&["enqueue", "--project", "app", "--slug", "later", "--at", "2100-01-01T00:00:00Z", "--", "true"]), @r#"
    exit 0
    [job]
    on branch sawmill/adhoc/job/later; watch it with: sawmill logs -f [job]
    when it starts is not known: it has no place in the queue before 2100-01-01T00:00:00.000Z; see: sawmill job explain [job]
    "#);
}

#[test]
fn who_waits_for_a_job_that_asks_something_is_told_how_to_answer() {
    let site = Site::new();
    let script =
        r#"echo '{"schema": 1, "ok": false, "summary": "a question", "clarification": "which one?"}' > "$SAWMILL_RESULT""#;
    fs::write(site.path("ask.sh"), script).expect("a program");
    let mut configuration = fs::read_to_string(site.path("workers.toml")).expect("a configuration");
    configuration += &format!("[backends.ask]\nkind = \"command\"\ncommand = [\"sh\", {:?}]\n", site.path("ask.sh"));
    fs::write(site.path("workers.toml"), configuration).expect("a configuration");
    let _worker = site.worker();
    let id = site.enqueue(&["--project", "app", "--backend", "ask", "--instruction", "Do it"]);
    wait_until("it has asked", || site.says(&["job", "show", &id]).contains("held           answer"));
    insta::assert_snapshot!(site.says(&["job", "wait", &id, "--timeout", "1s"]), @r#"
    exit 1
    [job] waits for an answer (sawmill job answer [job] TEXT): which one?
    error: job [job] has not ended after 1s; it goes on, see: sawmill job explain [job]
    "#);
}

#[test]
fn the_version_is_told_in_every_way_that_people_ask_for_it() {
    let site = Site::new();
    let version = site.says(&["--version"]);
    assert!(version.starts_with(&format!("exit 0\nsawmill {} (", env!("CARGO_PKG_VERSION"))), "{version}");
    assert_eq!(site.says(&["-V"]), version);
    assert_eq!(site.says(&["version"]), version);
    assert!(site.says(&["version", "--json"]).contains("\"version\": \""));
    let help = site.says(&[]);
    assert!(help.starts_with("exit 2\n") && help.contains("Usage: sawmill") && help.contains("--version"), "{help}");
}
