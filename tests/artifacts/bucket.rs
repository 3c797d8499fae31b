//! Artifacts in a bucket: what goes there and comes back, and what holds while it is missing, closed, or away.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use sawmill::ids::JobId;
use sawmill::job::{Artifact, ArtifactState, JobState, OutcomeClass};
use serde_json::{Value, json};

use super::server::{BUCKET, SECRET, Server};
use super::{LONG, artifacts, download, everything_in, job, named};
use crate::delivery::daemon::{Daemon, Seat};
use crate::delivery::host::{Host, On, until};
use crate::delivery::remote::{hold_pushes, refs, small_remote};
use crate::torture::server::free_port;

/// More than is sent as one piece: such an object comes in parts.
const LARGE: usize = 11 * 1024 * 1024;

async fn scene() -> (Host, Server) {
    let mut host = Host::new(On::Sqlite, LONG, 1).await;
    let server = Server::start(&host.root().join("shed")).await;
    server.configure(&mut host);
    (host, server)
}

/// The API, as another process than the worker's.
async fn serve(host: &Host) -> (Daemon, String) {
    let address = format!("127.0.0.1:{}", free_port());
    let listen = format!("SAWMILL_SERVER__LISTEN={address}");
    let seat = Seat { worker: "api".to_owned(), url: None, prefix: vec!["env".to_owned(), listen] };
    let api = host.spawn_at(&seat, &["serve"]);
    until("the API is served", async || api.log().contains("serving the API")).await;
    (api, format!("http://{address}"))
}

fn finding(host: &Host) -> Value {
    let output = host.command(&Seat::of("a"), &["doctor", "--json"]).output().expect("it runs");
    let all: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    all.as_array().and_then(|all| all.iter().find(|one| one["check"] == "artifacts").cloned()).expect("a finding")
}

fn check_flawed(host: &Host, expected: &str) {
    let found = finding(host);
    let seen = found["seen"].as_str().unwrap_or_default();
    assert!(found["state"] == "failed" && seen.contains(expected), "{found}");
    assert!(seen.starts_with(&format!("cannot use s3://{BUCKET}/kept: ")) && seen.len() < 400, "{seen}");
    assert!(!found.to_string().contains(SECRET), "{found}");
}

fn key(artifact: &Artifact) -> &str {
    artifact.kept.as_ref().map_or_else(|| panic!("{artifact:#?}"), |object| object.key.as_str())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_in_a_bucket_is_had_from_every_host_and_goes_with_its_job() {
    let (mut host, server) = scene().await;
    server.make_bucket();
    let remote = small_remote(host.root(), "remote.git");
    let worker = host.start("a").await;
    let does = format!(
        "printf 'out\\n' > .gitignore; mkdir -p out/deep; echo '<ok/>' > out/deep/junit.xml; head -c {LARGE} /dev/zero > out/core"
    );
    let wanted = json!([{ "path": "out/**", "required": true }]);
    let id = host.enqueue(&job(&remote, &does, &wanted, &json!([])));
    host.succeeded(id).await;

    let all = artifacts(&host, id).await;
    assert!(all.len() == 4 && all.iter().all(|artifact| artifact.state == ArtifactState::Kept), "{all:#?}");
    let objects = everything_in(&server.object(&id.to_string()));
    assert_eq!(objects.len(), 4, "one for each: {objects:?}");
    assert_eq!(fs::read(server.object(key(named(&all, "out/deep/junit.xml")))).expect("an object"), b"<ok/>\n");
    assert_eq!(fs::metadata(server.object(key(named(&all, "out/core")))).expect("an object").len(), LARGE as u64);

    // Each of these has a state directory of its own, as on a host of its own.
    let listed = host.sawmill(&["job", "artifacts", &id.to_string()]);
    let core = listed["items"].as_array().and_then(|all| all.iter().find(|one| one["name"] == "out/core")).expect("listed");
    assert_eq!((&core["kept"]["bytes"], &core["kept"]["at"]), (&json!(LARGE), &json!(format!("s3://{BUCKET}/kept"))), "{listed}");
    let got = download(&host, id, &["out/core"]).stdout;
    assert!(got.len() == LARGE && got.iter().all(|byte| *byte == 0), "{} bytes", got.len());
    let api = by_the_api(&host, id).await;

    // One who is configured otherwise says where it is.
    host.set("SAWMILL_ARTIFACTS__STORE", "s3://another");
    let elsewhere = download(&host, id, &["out/core"]);
    let said = String::from_utf8_lossy(&elsewhere.stderr).into_owned();
    assert!(elsewhere.status.code() == Some(4) && said.contains(&format!("s3://{BUCKET}/kept")), "{said}");
    server.configure(&mut host);

    host.end(vec![worker, api]).await;
    let claimed = host.sawmill(&["completions", "claim", "--consumer", "ci"]);
    let of = |key: &str| claimed["items"][0][key].as_str().expect("text").to_owned();
    host.sawmill(&["completions", "ack", &of("id"), "--token", &of("token")]);
    host.set("SAWMILL_QUEUE__RETENTION", "1s");
    let other = host.start("b").await;
    until("the job is gone", async || host.store.job(id).await.is_err()).await;
    until("its objects are gone", async || everything_in(&server.object(&id.to_string())).is_empty()).await;
    host.close(vec![other]).await;
}

async fn by_the_api(host: &Host, id: JobId) -> Daemon {
    let (api, url) = serve(host).await;
    let line = ["--server", &url, "job", "artifacts", &id.to_string(), "out/deep/junit.xml"];
    let got = host.command(&Seat::of("client"), &line).output().expect("it runs");
    assert_eq!((got.status.code(), got.stdout.as_slice()), (Some(0), b"<ok/>\n".as_slice()), "{}", api.log());
    drop(rustls::crypto::ring::default_provider().install_default());
    let asked = reqwest::Client::new().get(format!("{url}/v1/jobs/{id}/artifacts/out%2Fdeep%2Fjunit.xml"));
    let part = asked.header("range", "bytes=1-2").send().await.expect("an answer");
    assert_eq!((part.status().as_u16(), part.text().await.expect("text").as_str()), (206, "ok"));
    api
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_is_missing_closed_or_away_is_told_of_and_loses_no_work() {
    let (mut host, mut server) = scene().await;
    let remote = small_remote(host.root(), "remote.git");
    check_flawed(&host, "NoSuchBucket");
    let worker = host.start("a").await;
    loses_what_nobody_requires(&host, &remote).await;

    server.make_bucket();
    assert_eq!(finding(&host)["state"], "ready", "{}", finding(&host));
    assert_eq!(everything_in(&server.object("")).len(), 0, "it leaves nothing");
    host.set("AWS_SECRET_ACCESS_KEY", "of-another-shed-0123456789");
    check_flawed(&host, "SignatureDoesNotMatch");
    server.configure(&mut host);

    delivers_once_it_is_back(&host, &mut server, &remote).await;
    host.close(vec![worker]).await;
}

/// The server says no: that costs the files, each with the reason, and nothing else.
async fn loses_what_nobody_requires(host: &Host, remote: &Path) {
    let id = host.enqueue(&job(remote, "true", &json!([{ "path": "README.md" }]), &json!([])));
    host.succeeded(id).await;
    let all = artifacts(host, id).await;
    assert!(all.len() == 3 && all.iter().all(|artifact| artifact.state == ArtifactState::Failed), "{all:#?}");
    let reason = named(&all, "README.md").reason.clone().expect("a reason");
    assert!(reason.starts_with(&format!("cannot use s3://{BUCKET}/kept: ")) && reason.contains("NoSuchBucket"), "{reason}");
    let said = download(host, id, &["README.md"]);
    assert!(String::from_utf8_lossy(&said.stderr).contains("NoSuchBucket"), "{said:?}");
}

/// The server goes away under a job that requires a file.
async fn delivers_once_it_is_back(host: &Host, server: &mut Server, remote: &Path) {
    let working = host.job_latch("working");
    working.close();
    let does = format!("echo work >> work.txt; {}", working.here());
    let id = host.enqueue(&job(remote, &does, &json!([{ "path": "work.txt", "required": true }]), &json!([])));
    working.reached().await;
    working.lift();
    server.go_away().await;
    working.release().await;
    until("an attempt ends", async || host.attempts(id).await.first().is_some_and(|attempt| attempt.outcome.is_some())).await;
    let first = host.attempts(id).await.remove(0);
    let outcome = first.outcome.expect("it has ended");
    assert_eq!(outcome.class, OutcomeClass::Infrastructure, "{}", outcome.message);
    let why = "required artifact work.txt is not kept: cannot use s3://shed/kept: ";
    assert!(outcome.message.starts_with(why) && outcome.message.contains("onnect"), "{}", outcome.message);
    assert!(!refs(remote, "refs/sawmill/salvage/").is_empty() && first.salvage.is_some(), "what it did is kept");
    assert_ne!(host.job(id).await.state, JobState::Failed, "it is tried again");

    server.come_back().await;
    let ended = host.succeeded(id).await;
    assert_eq!(ended.attempts_used, 1, "what the server did is charged to nobody");
    assert_eq!(download(host, id, &["work.txt"]).stdout, b"work\n");
}

/// Its files are kept while it is pushed, and what keeps them waits for a server that says nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_that_comes_while_the_work_is_pushed_costs_it_neither_its_end_nor_the_record_of_its_files() {
    let (mut host, mut server) = scene().await;
    server.make_bucket();
    host.set("SAWMILL_ARTIFACTS__TIMEOUT", "10s");
    let remote = small_remote(host.root(), "remote.git");
    let pushing = host.latch("pushing");
    hold_pushes(&remote, &pushing);
    pushing.close();
    let worker = host.start("a").await;
    let port = server.port();
    server.go_away().await;
    // Somebody may have it for a moment, as the end of a connection of his own.
    let mut silent = None;
    until("its port is free", async || {
        silent = TcpListener::bind(("127.0.0.1", port)).ok();
        silent.is_some()
    })
    .await;
    let id = host.enqueue(&job(&remote, "true", &json!([]), &json!([])));
    pushing.reached().await;
    assert_eq!(artifacts(&host, id).await, [], "the push did not wait for them");
    // The worker hears of it long before the server's time is over.
    host.store.cancel(id, "enough").await.expect("asked");
    pushing.release().await;
    host.succeeded(id).await;
    let all = artifacts(&host, id).await;
    assert!(all.len() == 2 && all.iter().all(|artifact| artifact.state == ArtifactState::Failed), "{all:#?}");
    host.close(vec![worker]).await;
}
