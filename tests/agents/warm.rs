//! What a warm-up gains: a first job after the host's start, with it and without. Its figures are in docs/backends.md; it is only for
//! root, and for who has the host alone.

use std::fs;
use std::time::Duration;

use sawmill::job::Stage;

use super::site::{CLAUDE, CODEX, LOOKS, MINISWE, OPENHANDS, Site, WORKS, Which, last};
use crate::delivery::host::until;

/// How long the agent's command took of a job on a worker that was started when nothing of the image was in memory.
async fn first_job(which: Which, warmup: Option<&'static str>) -> Duration {
    let site = Site::open_with(which, [LOOKS, WORKS, last(which)], &[("SAWMILL_BACKENDS__AGENT__WARMUP", "[]")]).await;
    // Its image is built, and its worker has done all that it does as it starts.
    let Site { mut host, which, server, remote, worker } = site;
    host.end(vec![worker]).await;
    fs::write("/proc/sys/vm/drop_caches", "3").expect("only root can");
    host.unset("SAWMILL_BACKENDS__AGENT__WARMUP");
    if let Some(value) = warmup {
        host.set("SAWMILL_BACKENDS__AGENT__WARMUP", value);
    }
    let worker = host.start("a").await;
    let site = Site { host, which, server, remote, worker };
    if warmup.is_none() {
        until("it is warm", async || site.worker.log().contains("backend agent is warmed up in image ")).await;
    }
    let job = site.host.succeeded(site.enqueue()).await;
    let stages = site.host.attempts(job.id).await.remove(0).stages;
    let execute = stages.into_iter().find(|stage| stage.stage == Stage::Execute).expect("it ran");
    let took = execute.ended_at.expect("it ended").since(execute.started_at);
    site.close().await;
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures, and has the kernel forget what it has read"]
async fn what_a_warm_up_gains() {
    for which in [CLAUDE, CODEX, MINISWE, OPENHANDS] {
        for _ in 0..2 {
            let (cold, warm) = (first_job(which, Some("[]")).await, first_job(which, None).await);
            println!("{}: without {} ms, with {} ms", which.kind, cold.as_millis(), warm.as_millis());
        }
    }
}
