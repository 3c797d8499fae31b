//! Images: built once, known by what went into them, and gone when somebody removes them.

use std::time::Duration;

use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{RemoveImageOptionsBuilder, TagImageOptionsBuilder};
use sawmill::janitor::Lease;
use sawmill::job::attempt::RunsOn;
use sawmill::sandbox::container::{ContainerError, Images, Plan, Start};
use serde_json::json;
use uuid::Uuid;

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
    let superseded = async |ttl: Duration| images.superseded(&name, &changed.tag, ttl).await.expect("an answer");
    let of_first =
        async |ttl: Duration| superseded(ttl).await.into_iter().find(|(tag, _, _)| *tag == first.tag).expect("listed").2;
    assert_eq!(superseded(Duration::ZERO).await.len(), 2, "of that name only");
    assert!(matches!(of_first(Duration::from_secs(3600)).await, Lease::Held(why) if why.ends_with("(container.image_ttl)")));
    let docker = image::docker().await;
    let body = ContainerCreateBody { image: Some(first.tag.clone()), cmd: Some(vec!["none".to_owned()]), ..Default::default() };
    let container = docker.create_container(None, body).await.expect("made").id;
    assert!(matches!(of_first(Duration::ZERO).await, Lease::Held(why) if why == "there are containers of it"));
    docker.remove_container(&container, None).await.expect("removed");
    assert!(matches!(of_first(Duration::ZERO).await, Lease::Over(_)));
    images.remove(&first.tag).await.expect("removed");
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
