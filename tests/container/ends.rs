//! The end of a job in a container, and of the container itself: nothing outlives either.

use std::time::{Duration, Instant};

use bollard::query_parameters::KillContainerOptionsBuilder;
use sawmill::sandbox::container::{Start, Use};
use sawmill::sandbox::{Cause, End, SandboxError};

use super::{Yard, directory, image, refilled};

/// Whoever leaves its parent, session or group still ends with the job.
#[tokio::test]
async fn nobody_escapes_the_end_of_the_job() {
    let yard = Yard::open().await;
    let guest = yard.take(0).await;
    let escapes = "setsid sleep 1001 & (setsid sh -c 'sleep 1002 & exec sleep 1003' &) & (trap '' HUP; exec sleep 1004) & ";
    let sleeping =
        "n=0; for at in /proc/[0-9]*/comm; do name=; read name < $at; [ \"$name\" = sleep ] && n=$((n + 1)); done; [ $n -ge 4 ]";
    let (report, _) = guest.run(&format!("{escapes} until {sleeping}; do sleep 0.1; done 2> /dev/null; exit 0")).await;
    assert_eq!((report.end, report.cause), (End::Exited(0), Cause::Itself));
    assert!(report.stragglers.len() >= 4, "{:?}", report.stragglers);
    assert_eq!(guest.processes().await.len(), 1);

    let deaf = guest.start(&format!("trap '' TERM HUP INT; {escapes} echo ready; while true; do sleep 0.1; done")).await;
    guest.supervisor.stop(&deaf.id).await.expect("it lives");
    let report = guest.supervisor.wait(&deaf.id).await.expect("a report");
    assert_eq!((report.end, report.cause), (End::Signalled(9), Cause::Stopped));
    assert_eq!(guest.processes().await.len(), 1);
    guest.leave();
    yard.close().await;
}

#[tokio::test]
async fn a_job_that_kills_everything_it_can_kills_itself_only() {
    let yard = Yard::open().await;
    let guest = yard.take(0).await;
    let (report, _) = guest.run("kill -9 1; kill -9 -1; echo alive").await;
    assert!(matches!(report.end, End::Exited(0) | End::Signalled(9)), "{report:?}");
    assert!(!report.out_of_memory);
    let (report, said) = guest.run("kill -STOP 1; kill -TERM 1; kill -INT 1; echo alive").await;
    assert_eq!((report.end, said.lines().last()), (End::Exited(0), Some("alive")));
    guest.leave();
    yard.close().await;
}

#[tokio::test]
async fn a_container_that_is_killed_ends_its_job_and_costs_the_slot_nothing() {
    let yard = Yard::open().await;
    let guest = yard.take(0).await;
    let command = guest.start("echo ready; sleep 1000").await;
    refilled(&yard, 1).await;
    let (supervisor, name) = (guest.supervisor.clone(), guest.name().to_owned());
    let killed = async {
        let options = KillContainerOptionsBuilder::default().signal("KILL").build();
        image::docker().await.kill_container(&name, Some(options)).await.expect("killed");
    };
    let (waited, ()) = tokio::join!(supervisor.wait(&command.id), killed);
    assert!(matches!(waited, Err(SandboxError::Gone { .. })), "{waited:?}");
    assert!(yard.containers.destroy(&guest.lodging.container).await);
    assert!(!yard.all().await.contains(&name));

    // The one that is ready is killed too: a job finds that out before it is put there.
    let ready = yard.all().await.into_iter().next().expect("one is ready");
    let options = KillContainerOptionsBuilder::default().signal("KILL").build();
    image::docker().await.kill_container(&ready, Some(options)).await.expect("killed");
    let next = yard.take(0).await;
    assert_eq!(next.lodging.start, Start::Cold);
    assert_ne!(next.name(), ready);
    assert_eq!(next.run("echo well").await.1, "well\n");
    next.leave();
    yard.close().await;
}

#[tokio::test]
async fn a_container_whose_engine_does_not_know_it_any_more_is_as_good_as_removed() {
    let yard = Yard::with(|config| config.warm = 0).await;
    let guest = yard.take(0).await;
    let container = guest.lodging.container.clone();
    assert!(yard.containers.destroy(&container).await);
    assert!(yard.containers.destroy(&container).await, "there is nothing left to remove");
    assert!(container.wait_until_gone(Duration::from_secs(5)).await);
    yard.containers.give_back(0, container, Use::Spoilt);
    yard.close().await;
}

/// A daemon that never comes back: the supervisor ends the job, then itself, and with it the container.
#[tokio::test]
async fn without_a_daemon_a_container_ends_by_itself() {
    let silence = Duration::from_secs(10);
    let yard = Yard::again(directory(), silence, |config| config.warm = 0).await;
    let guest = yard.take(0).await;
    guest.start("echo ready; trap '' TERM; while true; do sleep 0.1; done").await;
    let begun = Instant::now();
    guest.supervisor.keep_alive().await.expect("it lives");
    assert!(guest.lodging.container.wait_until_gone(Duration::from_secs(30)).await);
    assert!(begun.elapsed() >= silence);
    yard.containers.give_back(0, guest.lodging.container, Use::Spoilt);
    yard.close().await;
}
