//! Hints within a process and between processes.

use std::collections::BTreeMap;
use std::time::Duration;

use sawmill::job::{Concurrency, OutcomeClass};
use sawmill::store::{Hints, NewJob, Store};

use super::{LONG, Queue, ask, finish, new_job, on_both};

async fn hinted(hints: &mut Hints) {
    tokio::time::timeout(Duration::from_secs(10), hints.next_change()).await.expect("a hint within ten seconds");
}

on_both! {
    async fn a_claim_that_hands_room_on_to_others_hints_at_them(queue) {
        queue.store.set_project_limits(&BTreeMap::from([("a".to_owned(), 1)])).await.expect("written");
        let under_key = |new: &mut NewJob| new.spec.concurrency = Some(Concurrency { key: "k".to_owned(), limit: 1 });
        let of_a = |new: &mut NewJob| new.spec.project = Some("a".to_owned());
        let running = queue.enqueue_as(under_key).await.id;
        queue.enqueue_as(of_a).await;
        let mut able = ask("able", 2, LONG);
        able.labels.insert("gpu".to_owned());
        let claimed = queue.store.claim(&able).await.expect("answered");
        let of_both = queue.enqueue_as(|new| { of_a(new); under_key(new) }).await.id;
        let elsewhere = queue.enqueue_as(|new| { under_key(new); new.spec.requires = vec!["gpu".to_owned()] }).await.id;
        assert!(queue.store.claim(&able).await.expect("answered").is_empty(), "the key is full");
        let of_key = claimed.iter().find(|one| one.claim.job == running).expect("it runs");
        queue.store.finish(&of_key.claim, finish(OutcomeClass::Succeeded)).await.expect("finished");
        assert_eq!(queue.store.job(of_both).await.expect("there").held, None, "it came back");

        let mut hints = queue.store.hints();
        while !quiet_for(&mut hints, Duration::from_millis(300)).await {}
        assert!(queue.nothing_to_claim().await, "the project is full, and the other one is for other workers");
        hinted(&mut hints).await;
        let claimed = queue.store.claim(&able).await.expect("answered");
        assert_eq!(claimed.iter().map(|one| one.claim.job).collect::<Vec<_>>(), [elsewhere]);
    }

    async fn a_change_in_this_process_is_hinted_at(queue) {
        let mut hints = queue.store.hints();
        queue.enqueue().await;
        hinted(&mut hints).await;
        let mut hints = queue.store.hints();
        let claim = queue.claim("w").await.claim;
        queue.store.finish(&claim, finish(OutcomeClass::Backend)).await.expect("finished");
        hinted(&mut hints).await;
        let job = queue.enqueue().await;
        let mut hints = queue.store.hints();
        queue.store.cancel(job.id, "").await.expect("cancelled");
        hinted(&mut hints).await;
        let mut hints = queue.store.hints();
        queue.store.retry(job.id).await.expect("retried");
        tokio::time::timeout(Duration::from_secs(10), hints.next()).await.expect("a hint within ten seconds");
    }
}

#[tokio::test]
async fn a_change_of_another_process_to_a_sqlite_file_is_hinted_at_and_our_own_is_not_hinted_at_twice() {
    let queue = Queue::on_sqlite().await;
    let other = queue.other(|_| ()).await;
    let (mut own, mut foreign) = (queue.store.hints(), other.hints());
    while !quiet_for(&mut own, Duration::from_millis(200)).await {}
    queue.enqueue().await;
    hinted(&mut foreign).await;
    hinted(&mut own).await;
    assert!(quiet_for(&mut own, Duration::from_millis(300)).await, "one hint for one change");
    other.close().await;
    queue.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_carries_hints_between_processes_and_after_its_connections_were_cut() {
    let queue = Queue::on_postgres().await;
    let other = queue.other(|_| ()).await;
    enqueue_until_hinted(&queue, &other).await;
    queue.place.cut_sessions().await;
    enqueue_until_hinted(&queue, &other).await;
    other.close().await;
    queue.end().await;
}

/// Waits until the listener of `other` is connected, which it announces with a hint, and all is quiet; then one job is enqueued
/// elsewhere, of which only a notification can tell `other`.
async fn enqueue_until_hinted(queue: &Queue, other: &Store) {
    let mut hints = other.hints();
    for _ in 0..100 {
        // Fails where its own connection was one of those that were cut.
        drop(queue.store.enqueue(new_job()).await);
        if quiet_for(&mut hints, Duration::from_millis(100)).await {
            continue;
        }
        while !quiet_for(&mut hints, Duration::from_millis(300)).await {}
        // Each of its connections that were cut fails once.
        let mut tries = 0;
        while let Err(error) = queue.store.enqueue(new_job()).await {
            tries += 1;
            assert!(error.is_transient() && tries < 20, "{error}");
        }
        return hinted(&mut hints).await;
    }
    panic!("no hint of a hundred arrived");
}

async fn quiet_for(hints: &mut Hints, time: Duration) -> bool {
    tokio::time::timeout(time, hints.next_change()).await.is_err()
}
