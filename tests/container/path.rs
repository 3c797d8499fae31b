//! The way of a job through a container, and of containers through a slot.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use sawmill::janitor::{Explained, Fate, Kind, Lease, Master, judge};
use sawmill::sandbox::container::{ContainerError, Start, Use};
use sawmill::sandbox::{Cause, End};

use super::{LONG, Yard, own_ids, refilled, until};

#[tokio::test]
async fn a_job_runs_in_its_slot_and_its_output_goes_straight_to_the_hosts_files() {
    let yard = Yard::open().await;
    let guest = yard.take(0).await;
    assert_eq!(guest.lodging.start, Start::Cold);
    let (report, said) = guest.run("pwd; echo \"$(id -u) $(id -g)\"; echo made > file; seq 1 20000 | tail -1; exit 3").await;
    assert_eq!((report.end, report.cause), (End::Exited(3), Cause::Itself));
    assert_eq!(said, format!("/workspace/tree\n{}\n20000\n", own_ids()));
    let made = yard.job_dir(0).join("tree/file");
    assert_eq!(fs::read_to_string(&made).expect("the file"), "made\n");
    assert_eq!(fs::metadata(&made).expect("the file").uid(), nix::unistd::getuid().as_raw());
    guest.leave();
    yard.close().await;
}

#[tokio::test]
async fn each_job_gets_a_container_of_its_own_that_was_ready_before() {
    let yard = Yard::open().await;
    let first = yard.take(0).await;
    first.run("echo secret > /tmp/left; mkdir /workspace/left").await;
    refilled(&yard, 1).await;
    let name = first.name().to_owned();
    first.leave();
    until("the first container is removed", async || !yard.all().await.contains(&name)).await;

    let second = yard.take(0).await;
    assert_eq!(second.lodging.start, Start::Warm);
    assert_ne!(second.name(), name);
    let (report, said) = second.run("ls -A /tmp; touch /tmp/mine; ls /tmp").await;
    assert_eq!((report.end, said.as_str()), (End::Exited(0), "mine\n"));
    second.leave();
    yard.close().await;
}

#[tokio::test]
async fn a_container_is_used_again_only_where_that_is_asked_for_and_nothing_runs_in_it() {
    let yard = Yard::with(|config| config.reuse = 2).await;
    let first = yard.take(0).await;
    // For as long as it would take to make another ready.
    first.run("touch /tmp/left; sleep 1").await;
    assert_eq!(yard.all().await.len(), 1, "no other is made ready for one that comes back");
    let name = first.name().to_owned();
    first.leave();
    let second = yard.take(0).await;
    assert_eq!((second.lodging.start, second.name()), (Start::Warm, name.as_str()));
    assert_eq!(second.run("ls /tmp").await.1, "left\n", "which is why it is not the default");
    second.leave();
    until("a container that had its jobs is removed", async || !yard.all().await.contains(&name)).await;

    let third = yard.take(0).await;
    let name = third.name().to_owned();
    third.run("true").await;
    yard.containers.give_back(0, third.lodging.container, Use::Spoilt);
    until("a spoilt container is removed", async || !yard.all().await.contains(&name)).await;
    yard.close().await;
}

#[tokio::test]
async fn without_warm_containers_each_is_made_when_its_job_comes() {
    let yard = Yard::with(|config| config.warm = 0).await;
    for _ in 0..2 {
        let guest = yard.take(0).await;
        assert_eq!(guest.lodging.start, Start::Cold);
        assert_eq!(guest.run("echo here").await.1, "here\n");
        guest.leave();
        until("it is removed", async || yard.all().await.is_empty()).await;
    }
    yard.close().await;
}

#[tokio::test]
async fn what_cannot_be_had_is_said_with_the_next_step() {
    let yard = Yard::with(|config| config.image = "sawmill-test:no-such".to_owned()).await;
    let error = yard.containers.take(&yard.wish(0)).await.expect_err("there is no such image");
    assert_eq!(
        error.to_string(),
        "there is no image sawmill-test:no-such; build it with sawmill images build, or set container.image"
    );
    yard.close().await;

    let yard = Yard::with(|config| config.socket = "/nowhere/docker.sock".into()).await;
    let error = yard.containers.take(&yard.wish(0)).await.expect_err("nobody is there");
    assert!(matches!(error, ContainerError::Unreachable { .. }), "{error}");
    assert!(error.to_string().ends_with("start it, or set container.socket"), "{error}");
}

#[tokio::test]
async fn a_daemon_takes_up_containers_that_are_ready_and_knows_those_that_are_nobodys() {
    let yard = Yard::open().await;
    let (busy, other) = (yard.take(0).await, yard.take(1).await);
    until("both slots have one ready", async || yard.answering() == 4).await;
    let command = busy.start("echo ready; sleep 1000").await;
    other.start("echo ready; sleep 1000").await;
    let (busy_name, other_name) = (busy.name().to_owned(), other.name().to_owned());
    let busy_container = busy.lodging.container;
    // One whose job has ended looks like one that never had any.
    let done = yard.take(2).await;
    done.run("touch /tmp/left").await;
    until("the third slot has one ready", async || yard.answering() == 6).await;
    let done_name = done.name().to_owned();

    let yard = Yard::again(yard.crash(), LONG, |_| ()).await;
    yard.containers.take_up(&BTreeSet::from([busy_name.clone()]), &BTreeSet::from([0, 1, 2])).await;
    let left = yard.containers.leftovers(&Explained::default()).await.expect("the engine answers");
    let nobodys: Vec<_> = left.iter().filter(|owned| matches!(owned.lease, Lease::Over(_))).collect();
    let of_kind =
        |kind| nobodys.iter().filter(|owned| owned.kind == kind).map(|owned| owned.name.as_str()).collect::<BTreeSet<_>>();
    assert_eq!(of_kind(Kind::Container), BTreeSet::from([other_name.as_str(), done_name.as_str()]));
    assert_eq!((of_kind(Kind::ContainerDir).len(), nobodys.len()), (2, 4));
    for owned in nobodys {
        // This very process made it.
        assert_eq!(judge(owned, &Master::Own).fate, Fate::Stays);
        yard.containers.remove_left(owned).await.expect("removed");
    }
    let left = yard.containers.leftovers(&Explained::default()).await.expect("the engine answers");
    assert!(left.iter().all(|owned| matches!(owned.lease, Lease::Held(_))), "{left:?}");
    let left = yard.all().await;
    assert!(left.contains(&busy_name) && !left.contains(&other_name) && !left.contains(&done_name), "{left:?}");
    assert_eq!(left.len(), 4, "three are ready");
    let supervisor = busy_container.supervisor();
    supervisor.stop(&command.id).await.expect("it lives");
    assert_eq!(supervisor.wait(&command.id).await.expect("a report").cause, Cause::Stopped);
    let next = yard.take(1).await;
    assert_eq!(next.lodging.start, Start::Warm);
    next.leave();
    yard.containers.give_back(0, busy_container, Use::Spoilt);
    yard.close().await;
}

/// A worktree that is mounted on the host for each job, as overlays are: the job sees its own, and never the one before.
#[tokio::test]
async fn a_worktree_that_is_mounted_after_its_container_was_made_is_seen_in_it() {
    let yard = Yard::open().await;
    let mount = |what: &str| {
        let tree = yard.job_dir(0).join("tree");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&tree).status().expect("mount runs");
        assert!(mounted.success());
        fs::write(tree.join("mine"), what).expect("a file");
        tree
    };
    let unmount = |tree: &Path| assert!(Command::new("umount").arg(tree).status().expect("umount runs").success());
    yard.wish(0);
    // The second one's container is made while the first one's worktree is mounted.
    for what in ["first", "second"] {
        let tree = mount(what);
        let guest = yard.take(0).await;
        let (_, said) = guest.run("cat mine; echo made > new").await;
        assert_eq!((said.as_str(), fs::read_to_string(tree.join("new")).expect("on the host too").as_str()), (what, "made\n"));
        refilled(&yard, 1).await;
        unmount(&tree);
        let name = guest.name().to_owned();
        guest.leave();
        until("it is removed", async || !yard.all().await.contains(&name)).await;
    }
    // The last one's is a plain directory.
    let guest = yard.take(0).await;
    assert_eq!(guest.run("ls").await.1, "");
    guest.leave();
    yard.close().await;
}

#[tokio::test]
async fn containers_of_slots_that_are_none_any_more_are_nobodys() {
    let yard = Yard::open().await;
    for slot in [0, 1] {
        let guest = yard.take(slot).await;
        let name = guest.name().to_owned();
        until("another is ready", async || yard.answering() == 2 + slot as usize).await;
        guest.leave();
        until("it is removed", async || !yard.all().await.contains(&name)).await;
    }
    let yard = Yard::again(yard.crash(), LONG, |_| ()).await;
    yard.containers.take_up(&BTreeSet::new(), &BTreeSet::from([0])).await;
    let left = yard.containers.leftovers(&Explained::default()).await.expect("the engine answers");
    let (nobodys, held): (Vec<_>, Vec<_>) = left.iter().partition(|owned| matches!(owned.lease, Lease::Over(_)));
    assert_eq!((nobodys.len(), held.len()), (2, 2), "a container and its directory: {left:?}");
    for owned in nobodys {
        yard.containers.remove_left(owned).await.expect("removed");
    }
    yard.close().await;
}
