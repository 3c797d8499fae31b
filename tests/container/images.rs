//! Images: built once, known by what went into them, and gone when somebody removes them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, Uri};
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{BuildImageOptionsBuilder, RemoveImageOptionsBuilder, TagImageOptionsBuilder};
use futures_util::StreamExt;
use sawmill::clock::Timestamp;
use sawmill::janitor::{Fate, Mode};
use sawmill::job::attempt::RunsOn;
use sawmill::sandbox::container::{ContainerError, Images, Plan, Start};
use serde_json::json;
use tokio::net::TcpListener;
use uuid::Uuid;

use super::engine::Engine;
use super::{LONG, Yard, image, until};
use crate::delivery::daemon::Seat;
use crate::delivery::host::{Host, Lodging, On};
use crate::delivery::remote::small_remote;

async fn remove(name: &str) {
    let options = RemoveImageOptionsBuilder::default().force(true).build();
    image::docker().await.remove_image(name, Some(options), None).await.expect("removed");
}

#[tokio::test]
async fn an_image_is_built_once_and_a_changed_one_is_another() {
    let images = Images::connect(&image::socket()).await.expect("the engine answers");
    let name = format!("sawmill-test-{}", Uuid::new_v4().simple());
    let base = image::with_git().await;
    let plan = |line: &str| Plan {
        name: name.clone(),
        dockerfile: format!("ARG BASE\nFROM ${{BASE}}\nENV KIND={line}\nWORKDIR /workspace\n"),
        base: base.clone(),
        certificates: None,
    };
    let mut steps = Vec::new();
    let first = images.build(&plan("one"), |step| steps.push(step.to_owned())).await.expect("built");
    assert!(!first.was_there);
    assert!(steps.iter().any(|step| step.contains("ENV KIND=one")), "{steps:?}");
    let again = images.build(&plan("one"), |step| panic!("nothing is to be done: {step}")).await.expect("it is there");
    assert!(again.was_there);
    assert_eq!((&again.tag, &again.digest), (&first.tag, &first.digest));
    let changed = images.build(&plan("two"), |_| ()).await.expect("built");
    assert_ne!(changed.digest, first.digest);
    assert_eq!(images.find(&format!("{name}:latest")).await.expect("an answer"), Some(changed.digest.clone()));

    let listed = images.list().await.expect("a list");
    let of = |digest: &str| listed.iter().find(|image| image.digest == digest).expect("it is listed").fingerprint.clone();
    let base_digest = images.find(&base).await.expect("an answer").expect("the base");
    assert_eq!(of(&first.digest), plan("one").fingerprint(&base_digest));
    assert_ne!(of(&changed.digest), of(&first.digest), "the first is stale by that");

    // What the later one has replaced goes, once it has for long enough, unless there is a container of it.
    let clear = async |ttl: Duration, mode: Mode| {
        let found = images.clear_superseded(&name, &changed.tag, ttl, mode).await.expect("an answer");
        assert_eq!(found.len(), 2, "of that name only");
        let of_first = found.into_iter().find(|one| one.name == first.tag).expect("listed");
        (of_first.fate, of_first.why)
    };
    let (fate, why) = clear(Duration::from_secs(3600), Mode::Apply).await;
    assert!(fate == Fate::Stays && why.ends_with("(container.image_ttl)"), "{why}");
    let docker = image::docker().await;
    let body = ContainerCreateBody { image: Some(first.tag.clone()), cmd: Some(vec!["none".to_owned()]), ..Default::default() };
    let container = docker.create_container(None, body).await.expect("made").id;
    assert_eq!(clear(Duration::ZERO, Mode::Apply).await, (Fate::Stays, "there are containers of it".to_owned()));
    docker.remove_container(&container, None).await.expect("removed");
    assert_eq!(clear(Duration::ZERO, Mode::List).await.0, Fate::Goes);
    assert_eq!(clear(Duration::ZERO, Mode::Apply).await.0, Fate::Removed);
    assert_eq!(images.find(&first.tag).await.expect("an answer"), None);
    assert!(images.find(&changed.tag).await.expect("an answer").is_some());

    let failed = Plan { dockerfile: "ARG BASE\nFROM ${BASE}\nRUN exit 7\n".to_owned(), ..plan("") };
    let error = images.build(&failed, |_| ()).await.expect_err("a step fails");
    assert!(matches!(&error, ContainerError::Engine { why, .. } if why.contains("exit 7")), "{error}");
    remove(&changed.digest).await;
}

/// What an image says of its environment is what its jobs have; what it is told to start is not started.
#[tokio::test]
async fn an_image_that_is_removed_under_way_ends_no_job_and_starts_no_other() {
    let own = format!("sawmill-test-gone:{}", Uuid::new_v4().simple());
    let (repo, tag) = own.split_once(':').expect("a tag");
    let options = TagImageOptionsBuilder::default().repo(repo).tag(tag).build();
    image::docker().await.tag_image(&image::with_git().await, Some(options)).await.expect("tagged");
    let yard = Yard::with(|config| config.image = own.clone()).await;
    let guest = yard.take(0).await;
    guest.start("echo ready; sleep 1000").await;
    remove(&own).await;
    let command = guest.script("echo on");
    assert!(guest.supervisor.start(&command).await.is_err(), "it still runs the first one");
    // What was known of the tag holds for a moment.
    let mut refused = None;
    until("jobs are refused", async || match yard.containers.take(&yard.wish(1)).await {
        Ok(lodging) => {
            assert_eq!(lodging.start, if refused.is_none() { lodging.start } else { Start::Cold });
            yard.containers.give_back(1, lodging.container, sawmill::sandbox::container::Use::Clean);
            false
        }
        Err(error) => {
            refused = Some(error.to_string());
            true
        }
    })
    .await;
    assert!(refused.expect("refused").starts_with(&format!("there is no image {own};")));
    assert!(!guest.processes().await.is_empty(), "the job goes on");
    guest.leave();
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_record_says_whether_an_attempt_ran_on_the_host_or_in_which_image() {
    let host = Host::new(On::Sqlite, LONG, 1).await.lodge(Lodging::InContainers).await;
    let remote = small_remote(host.root(), "remote.git");
    let images = Images::connect(&image::socket()).await.expect("the engine answers");
    let digest = images.find(&image::with_git().await).await.expect("an answer").expect("the image");
    let worker = host.start("a").await;
    for (mode, expected, words) in [
        ("on", RunsOn::Container { image: digest.clone() }, format!("container of {digest}")),
        ("off", RunsOn::Host, "host".to_owned()),
    ] {
        let command = json!({ "command": format!("echo {mode} > {mode}") });
        let job = host.enqueue(&json!({ "repo": remote, "container": mode, "task": command }));
        host.succeeded(job).await;
        assert_eq!(host.attempts(job).await[0].runs_on, Some(expected.clone()));
        let id = job.to_string();
        assert_eq!(host.sawmill(&["job", "show", &id])["runs_on"], json!(expected));
        assert_eq!(host.sawmill(&["job", "attempts", &id])["items"][0]["runs_on"], json!(expected));
        assert_eq!(host.completions(Some(job)).await.remove(0).completion.runs_on, Some(expected.clone()));
        let completions = host.sawmill(&["completions", "list"]);
        let of_job = completions["items"].as_array().expect("a list").iter().find(|entry| entry["job"] == json!(id));
        assert_eq!(of_job.expect("it is listed")["runs_on"], json!(expected));
        let shown = host.command(&Seat::of("client"), &["job", "show", &id]).output().expect("it runs");
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(shown.lines().any(|line| line.starts_with("runs on") && line.ends_with(&words)), "{shown}");
    }
    host.close(vec![worker]).await;
}

/// An image as one is that was built here of this, on that.
async fn built_of(fingerprint: &str, base: &str, from: &str) -> String {
    let name = format!("sawmill-test-built:{}", Uuid::new_v4().simple());
    built_at(&image::socket(), &name, fingerprint, base, from).await;
    name
}

/// The same by a name, at an engine.
async fn built_at(socket: &Path, name: &str, fingerprint: &str, base: &str, from: &str) {
    let dockerfile = format!("FROM {from}\nENV NAME={name}\n");
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(dockerfile.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, "Dockerfile", dockerfile.as_bytes()).expect("an archive");
    let labels = HashMap::from([("sawmill.image", fingerprint), ("sawmill.image.base", base)]);
    let options = BuildImageOptionsBuilder::default().t(name).labels(&labels).build();
    let context = bollard::body_full(archive.into_inner().expect("an archive").into());
    let docker = image::docker_at(socket).await;
    let steps: Vec<_> = docker.build_image(options, None, Some(context)).collect().await;
    assert!(steps.iter().all(|step| step.as_ref().is_ok_and(|step| step.error_detail.is_none())), "{steps:?}");
}

/// A worker whose disk is short of room, beside an engine of its own: nobody else's images are at stake.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_that_were_replaced_go_where_the_disk_lacks_room() {
    let engine = Engine::start(None).await;
    let socket = engine.socket();
    let tools = image::image_at(&socket, "tools", image::TOOLS).await;
    let images = Images::connect(&socket).await.expect("the engine answers");
    for fingerprint in ["0123", "4567", "89ab"] {
        built_at(&socket, &format!("sawmill-agent:{fingerprint}"), fingerprint, "", &tools).await;
    }
    let options = TagImageOptionsBuilder::default().repo("sawmill-agent").tag("latest").build();
    image::docker_at(&socket).await.tag_image("sawmill-agent:89ab", Some(options)).await.expect("tagged");
    let mut host = Host::new(On::Sqlite, LONG, 1).await.lodge(Lodging::InContainers).await;
    host.set("SAWMILL_CONTAINER__SOCKET", socket.to_str().expect("UTF-8"));
    host.set("SAWMILL_CONTAINER__IMAGE", "sawmill-agent:4567");
    host.set("SAWMILL_CONTAINER__IMAGE_TTL", "0s");
    let worker = host.start("a").await;
    let remote = small_remote(host.root(), "remote.git");
    host.succeeded(host.enqueue(&json!({ "repo": remote, "task": { "command": "echo work > work" } }))).await;
    assert!(images.find("sawmill-agent:0123").await.expect("an answer").is_some(), "there is room");
    worker.kill();
    let took = json!([{ "at": Timestamp::now(), "bytes": 1_u64 << 60 }]);
    std::fs::write(host.state_dir("a").join("costs.json"), json!({ "app-0": took }).to_string()).expect("written");
    let worker = host.start("a").await;
    until("it is gone", async || images.find("sawmill-agent:0123").await.expect("an answer").is_none()).await;
    for left in ["sawmill-agent:4567", "sawmill-agent:89ab", "sawmill-agent:latest"] {
        assert!(images.find(left).await.expect("an answer").is_some(), "{left}");
    }
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_stale_that_would_be_built_otherwise_today_on_the_base_that_it_was_built_on() {
    let images = Images::connect(&image::socket()).await.expect("the engine answers");
    let (tools, bare) = (image::with_git().await, image::bare().await);
    let base = format!("sawmill-test-base:{}", Uuid::new_v4().simple());
    let call_it_so = async |image: &str| {
        let (repo, tag) = base.split_once(':').expect("a tag");
        let options = TagImageOptionsBuilder::default().repo(repo).tag(tag).build();
        image::docker().await.tag_image(image, Some(options)).await.expect("tagged");
    };
    call_it_so(&tools).await;
    let digest = images.find(&base).await.expect("an answer").expect("the base");
    let today = built_of(&Plan::of_jobs(base.clone()).fingerprint(&digest), &base, &tools).await;
    let before = built_of("0123", &base, &tools).await;
    let lost = built_of("0123", "sawmill-test-base:no-such", &tools).await;

    let mut host = Host::new(On::Sqlite, LONG, 1).await.lodge(Lodging::InContainers).await;
    let states = |host: &Host| {
        let listed = host.sawmill(&["images", "list"]);
        [&today, &before, &lost].map(|name| {
            let rows = listed.as_array().expect("a list");
            let row = rows.iter().find(|row| row["tags"].as_array().is_some_and(|tags| tags.contains(&json!(name))));
            row.unwrap_or_else(|| panic!("{name} is not in {listed}"))["state"].as_str().expect("a state").to_owned()
        })
    };
    assert_eq!(states(&host), ["current", "stale", "unknown"]);
    let found = |host: &Host| {
        let doctor = host.sawmill_at("a", &["doctor"]);
        let finding = doctor.as_array().expect("a list").iter().find(|one| one["check"] == "containers").cloned();
        finding.expect("it is checked")
    };
    host.set("SAWMILL_CONTAINER__IMAGE", &today);
    assert_eq!(found(&host)["state"], json!("ready"));

    call_it_so(&bare).await;
    assert_eq!(states(&host), ["stale", "stale", "unknown"]);
    let finding = found(&host);
    let command = format!("sawmill images build --base {base}");
    assert_eq!((&finding["state"], &finding["remedy"]), (&json!("warning"), &json!(format!("build it anew with {command}"))));
    let worker = host.start("a").await;
    until("the worker says so", async || worker.log().contains(&format!("is stale: `{command}` would build"))).await;
    host.close(vec![worker]).await;
    for name in [&today, &before, &lost, &base] {
        remove(name).await;
    }
}

/// A registry that has nothing, and hears what it is asked for.
async fn registry() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let (at, heard) = (listener.local_addr().expect("an address").to_string(), Arc::<Mutex<Vec<String>>>::default());
    let into = heard.clone();
    let answer = async move |uri: Uri| {
        into.lock().expect("no panic").push(uri.path().to_owned());
        if uri.path() == "/v2/" { StatusCode::OK } else { StatusCode::NOT_FOUND }
    };
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
    (at, heard)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_fetched_from_a_registry_with_a_port_and_by_its_digest() {
    let images = Images::connect(&image::socket()).await.expect("the engine answers");
    let (at, heard) = registry().await;
    let digest = format!("sha256:{}", "0a".repeat(32));
    for (name, asked) in [
        (format!("{at}/team/tool"), "/v2/team/tool/manifests/latest".to_owned()),
        (format!("{at}/tool:2"), "/v2/tool/manifests/2".to_owned()),
        (format!("{at}/tool@{digest}"), format!("/v2/tool/manifests/{digest}")),
    ] {
        images.pull(&name, |_| ()).await.expect_err("it is not there");
        let heard = heard.lock().expect("no panic").clone();
        assert!(heard.contains(&asked), "{name}: {heard:?}");
    }
}
