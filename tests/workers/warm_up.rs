//! What backends load at each start is read once in the background, before their jobs come.

use std::fs;

use bollard::query_parameters::{RemoveImageOptionsBuilder, TagImageOptionsBuilder};
use sawmill::job::Stream;
use serde_json::json;

use super::LEASE;
use crate::container::{image, owned};
use crate::delivery::host::{Host, Lodging, On, until};
use crate::delivery::remote::small_remote;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_warms_its_backends_up_once_and_what_does_not_work_delays_no_job() {
    let mut host = Host::new(On::Sqlite, LEASE, 1).await.lodge(Lodging::OnTheHost).await;
    let warm = host.root().join("warm");
    for (variable, value) in [
        ("SAWMILL_BACKENDS__BROKEN__KIND", "shell"),
        ("SAWMILL_BACKENDS__BROKEN__WARMUP", r#"["sh", "-c", "echo no such thing >&2; exit 3"]"#),
        ("SAWMILL_BACKENDS__MISSING__KIND", "shell"),
        ("SAWMILL_BACKENDS__MISSING__WARMUP", r#"["/nowhere/agent"]"#),
        ("SAWMILL_BACKENDS__OFF__KIND", "claude_code"),
        ("SAWMILL_BACKENDS__OFF__WARMUP", "[]"),
        // The last one by its name. It leaves a process, too; and how long it sleeps is written nowhere else.
        ("SAWMILL_BACKENDS__WAITS__KIND", "shell"),
        ("SAWMILL_BACKENDS__WAITS__WARMUP", r#"["sh", "-c", "sleep 600 & exec sleep $((61300000 + 613))"]"#),
    ] {
        host.set(variable, value);
    }
    host.set("SAWMILL_BACKENDS__SHELL__WARMUP", &format!(r#"["sh", "-c", "nice >> \"$0\"", {:?}]"#, warm.display()));
    let remote = small_remote(host.root(), "remote");
    let worker = host.start("a").await;
    until("the last one is begun", async || !host.processes("61300613").is_empty()).await;
    let log = worker.log();
    for said in [
        "backend broken cannot be warmed up on the host: it exited with status 3: no such thing; its first job loads more",
        "backend missing cannot be warmed up on the host: it exited with status 127: ",
        "backend shell is warmed up on the host: that took ",
    ] {
        assert!(log.contains(said), "{said:?} is not in {log}");
    }
    assert!(!log.contains("backend off"), "{log}");
    assert_eq!(fs::read_to_string(&warm).expect("it was begun"), "19\n", "once, behind all others");
    host.succeeded(host.enqueue(&json!({ "repo": remote, "task": { "command": "echo more > work.txt" } }))).await;
    assert!(!host.processes("61300613").is_empty(), "the job has not waited for it");
    let shown = host.sawmill(&["backends", "show", "off"]);
    assert_eq!(shown["warmup"], json!(null), "{shown}");
    // It ends with the worker: nothing is left.
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_image_of_jobs_is_warmed_up_once_in_a_container_that_no_job_gets() {
    let mut host = Host::new(On::Sqlite, LEASE, 1).await.lodge(Lodging::InContainers).await;
    let (docker, tag) = (image::docker().await, format!("w{}", uuid::Uuid::new_v4().simple()));
    let name = format!("sawmill-test:{tag}");
    let call_it_so = async |image: &str| {
        let options = TagImageOptionsBuilder::default().repo("sawmill-test").tag(&tag).build();
        docker.tag_image(image, Some(options)).await.expect("tagged");
    };
    call_it_so(&image::with_git().await).await;
    host.set("SAWMILL_CONTAINER__IMAGE", &name);
    host.set(
        "SAWMILL_BACKENDS__SHELL__WARMUP",
        r#"["sh", "-c", "touch /workspace/was-here /tmp/was-here; test -z \"$SECRET\""]"#,
    );
    host.set("SAWMILL_BACKENDS__SHELL__ENV", r#"["SECRET"]"#);
    host.set("SECRET", "hunter2");
    let remote = small_remote(host.root(), "remote");
    let worker = host.start("a").await;
    let warmed = |log: &str| log.matches("backend shell is warmed up in image sha256:").count();
    until("it is warm", async || warmed(&worker.log()) == 1).await;
    let command = "test ! -e /workspace/was-here && test ! -e /tmp/was-here && echo more > work.txt";
    let job = host.succeeded(host.enqueue(&json!({ "repo": remote, "task": { "command": command } }))).await;
    assert!(host.log(job.id, 1, Stream::System).await.contains("in container sawmill-a-0-"));

    call_it_so(&image::bare().await).await;
    until("the other image is warm", async || warmed(&worker.log()) == 2).await;
    until("only the one that is ready is left", async || owned(&host.state_dir("a")).await.len() <= 1).await;
    // The worker removes it after the container: whoever sees that gone may still see this.
    until("its directory is gone", async || !host.state_dir("a").join("warm-up").exists()).await;
    host.close(vec![worker]).await;
    docker.remove_image(&name, Some(RemoveImageOptionsBuilder::default().build()), None).await.expect("removed");
}
