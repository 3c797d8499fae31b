//! Containers that wait for jobs: there before the first job of each slot, and well when the next one comes.

use std::fs;
use std::sync::Arc;

use bollard::query_parameters::{KillContainerOptionsBuilder, RemoveImageOptionsBuilder, TagImageOptionsBuilder};
use sawmill::sandbox::container::{Images, Start};
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{LONG, Yard, directory, image, owned, until, until_ready};
use crate::crash;
use crate::delivery::host::{Host, Lodging, On};
use crate::delivery::remote::small_remote;

/// A yard whose waiting containers are looked after, as a daemon does.
struct Tended {
    yard: Yard,
    ended: CancellationToken,
    tending: JoinHandle<()>,
}

impl Tended {
    async fn open(root: Arc<TempDir>, slots: u32, image: &str) -> Self {
        let yard = Yard::again(root, LONG, |config| image.clone_into(&mut config.image)).await;
        let slots = (0..slots).map(|slot| (slot, yard.wish(slot).job_dir)).collect();
        let ended = CancellationToken::new();
        let tending = tokio::spawn(yard.containers.clone().tend_loop(slots, ended.clone()));
        Self { yard, ended, tending }
    }

    /// Waits until so many are ready.
    async fn ready(&self, count: usize) {
        until_ready("each", async || self.yard.all().await.len() == count && self.yard.answering() == count).await;
    }

    async fn close(self) {
        self.ended.cancel();
        self.tending.await.expect("it does not panic");
        self.yard.close().await;
    }
}

#[tokio::test]
async fn the_first_job_of_a_slot_finds_a_container_of_the_kind_that_the_worker_had_last() {
    let (root, tools) = (directory(), image::with_git().await);
    let tended = Tended::open(root.clone(), 3, &tools).await;
    let first = tended.yard.take(0).await;
    assert_eq!(first.lodging.start, Start::Cold, "nobody knew what jobs there would be");
    tended.ready(4).await;
    let second = tended.yard.take(1).await;
    assert_eq!((second.lodging.start, second.run("echo here").await.1.as_str()), (Start::Warm, "here\n"));
    first.leave();
    second.leave();
    tended.close().await;

    // The next daemon knows from the start.
    let tended = Tended::open(root, 3, &tools).await;
    tended.ready(3).await;
    for slot in 0..3 {
        let guest = tended.yard.take(slot).await;
        assert_eq!(guest.lodging.start, Start::Warm, "slot {slot}");
        guest.leave();
    }
    tended.close().await;
}

#[tokio::test]
async fn a_container_that_dies_while_it_waits_is_replaced_before_a_job_comes() {
    let tended = Tended::open(directory(), 1, &image::with_git().await).await;
    tended.yard.take(0).await.leave();
    tended.ready(1).await;
    let before = tended.yard.all().await;
    let docker = image::docker().await;
    let options = KillContainerOptionsBuilder::default().signal("KILL").build();
    docker.kill_container(before.first().expect("one"), Some(options)).await.expect("killed");
    until("another one waits", async || tended.yard.all().await.is_disjoint(&before)).await;
    tended.ready(1).await;
    let next = tended.yard.take(0).await;
    assert_eq!(next.lodging.start, Start::Warm);
    next.leave();
    tended.close().await;
}

#[tokio::test]
async fn a_container_whose_image_is_another_one_by_now_is_replaced_before_a_job_comes() {
    let (docker, tag) = (image::docker().await, Uuid::new_v4().simple().to_string());
    let name = format!("sawmill-test:{tag}");
    let call_it_so = async |image: &str| {
        let options = TagImageOptionsBuilder::default().repo("sawmill-test").tag(&tag).build();
        docker.tag_image(image, Some(options)).await.expect("tagged");
    };
    let (tools, bare) = (image::with_git().await, image::bare().await);
    call_it_so(&tools).await;
    let tended = Tended::open(directory(), 1, &name).await;
    tended.yard.take(0).await.leave();
    tended.ready(1).await;
    let before = tended.yard.all().await;
    call_it_so(&bare).await;
    until("another one waits", async || tended.yard.all().await.is_disjoint(&before)).await;
    tended.ready(1).await;
    let next = tended.yard.take(0).await;
    let images = Images::connect(&image::socket()).await.expect("the engine answers");
    let digest = images.find(&bare).await.expect("an answer").expect("the image");
    assert_eq!((next.lodging.start, next.lodging.container.image()), (Start::Warm, digest.as_str()));
    next.leave();
    tended.close().await;
    let options = RemoveImageOptionsBuilder::default().build();
    docker.remove_image(&name, Some(options), None).await.expect("removed");
}

#[tokio::test]
async fn a_container_that_comes_back_is_not_replaced_while_a_job_has_it() {
    let root = directory();
    let yard = Yard::again(root, LONG, |config| config.reuse = 3).await;
    let (ended, slots) = (CancellationToken::new(), vec![(0, yard.wish(0).job_dir)]);
    let guest = yard.take(0).await;
    let tending = tokio::spawn(yard.containers.clone().tend_loop(slots, ended.clone()));
    // Longer than it takes to make one.
    guest.run("sleep 2").await;
    assert_eq!(yard.all().await.len(), 1);
    ended.cancel();
    tending.await.expect("it does not panic");
    guest.leave();
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_slots_leave_that_are_none_any_more_goes_with_the_next_start() {
    let mut host = Host::new(On::Sqlite, crash::LONG, 2).await.lodge(Lodging::InContainers).await;
    let remote = small_remote(host.root(), "remote.git");
    let (worker, state) = (host.start("a").await, host.state_dir("a"));
    host.succeeded(host.enqueue(&json!({ "repo": remote, "task": { "command": "echo more > more" } }))).await;
    let of_slot = async |slot: u32| {
        let all = owned(&state).await;
        all.into_iter().filter(|name| name.starts_with(&format!("sawmill-a-{slot}-"))).collect::<Vec<_>>()
    };
    until_ready("one of each slot", async || {
        let dirs = fs::read_dir(state.join("containers")).into_iter().flatten().flatten();
        let answering = dirs.filter(|dir| dir.path().join("sock").exists()).count();
        answering == 2 && of_slot(0).await.len() == 1 && of_slot(1).await.len() == 1
    })
    .await;
    assert!(state.join("slots/1").is_dir());
    let stays = of_slot(0).await;
    worker.kill();

    host.set("SAWMILL_WORKER__SLOTS", "1");
    let worker = host.start("a").await;
    until("the container of the other slot is removed", async || of_slot(1).await.is_empty()).await;
    assert!(!state.join("slots/1").exists());
    assert_eq!(of_slot(0).await, stays, "the one of the slot that is still there");
    host.close(vec![worker]).await;
}
