//! A host whose clock stood still, as a suspended host's and a paused virtual machine's does: the server's has gone on.

use std::collections::BTreeMap;
use std::slice;
use std::time::{Duration, Instant};

use sawmill::clock::Timestamp;
use sawmill::store::{Renewal, Store, StoreError};

use super::{LONG, Place, Queue, ask, asking, config, delivered, new_job};
use crate::delivery::host::until;

const LEASE: Duration = Duration::from_secs(30);

/// A queue whose server's clock can be set: it is asked for one of the same name in the queue's own schema.
async fn queue_with_a_clock() -> Queue {
    let place = Place::schema().await;
    place
        .tamper(
            "CREATE TABLE went (ms BIGINT); INSERT INTO went VALUES (0); \
             CREATE FUNCTION clock_timestamp() RETURNS TIMESTAMPTZ LANGUAGE sql VOLATILE AS \
             $$ SELECT pg_catalog.clock_timestamp() + (SELECT ms FROM went) * INTERVAL '1 millisecond' $$",
        )
        .await;
    let Place::Schema { schema, .. } = &place else { panic!("a schema") };
    let url = place.url().replace(&format!("search_path%3D{schema}"), &format!("search_path%3D{schema},pg_catalog"));
    let config = config(url);
    let store = Store::connect(&config).await.expect("a new database can be opened");
    let queue = Queue { store, config, place };
    // It reads the clock twice at its beginning, and then not for half a minute.
    go_on(&queue, LEASE).await;
    until("the clock is read again", async || queue.store.now() + LEASE / 2 >= server_now(&queue).await).await;
    queue
}

/// Looks again and again for so long, as a reaper does.
async fn nothing_expires_for(span: Duration, reaper: &Store) {
    let begun = Instant::now();
    until("the time is over", async || {
        assert_eq!(reaper.expire_once(10).await.expect("done"), []);
        begun.elapsed() >= span
    })
    .await;
}

async fn go_on(queue: &Queue, by: Duration) {
    queue.place.tamper(&format!("UPDATE went SET ms = ms + {}", by.as_millis())).await;
}

/// What the server takes for the time.
async fn server_now(queue: &Queue) -> Timestamp {
    let sql = "SELECT (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000 + ms)::BIGINT::TEXT FROM went";
    Timestamp(queue.place.texts(sql).await[0].parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_host_was_paused_renews_from_the_server_s_time_on() {
    let queue = queue_with_a_clock().await;
    queue.enqueue().await;
    let claim = queue.claim_for("w", LEASE).await.claim;
    queue.store.check_claim(&claim).await.expect("it holds");
    go_on(&queue, LEASE * 2).await;
    let now = server_now(&queue).await;
    assert!(queue.store.now() + LEASE < now, "this host does not know yet");
    assert!(matches!(queue.store.check_claim(&claim).await, Err(StoreError::LeaseLost)), "nothing is published under it");
    let renewed = queue.store.renew(&claim.worker, slice::from_ref(&claim), LEASE).await.expect("answered");
    let Renewal::Held { lease_until, .. } = renewed.renewals[0] else { panic!("{renewed:?}") };
    assert!(lease_until >= now + LEASE, "{lease_until}");
    assert_eq!(queue.store.check_claim(&claim).await.expect("it holds again"), lease_until);
    queue.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_under_a_limit_by_a_host_that_was_paused_is_for_a_whole_lease() {
    let queue = queue_with_a_clock().await;
    queue.store.set_project_limits(&BTreeMap::from([("p".to_owned(), 1)])).await.expect("written");
    let mut new = new_job();
    new.spec.project = Some("p".to_owned());
    queue.store.enqueue(new).await.expect("enqueued");
    // Less than what makes a claim read the clock again.
    go_on(&queue, LONG / 8).await;
    let now = server_now(&queue).await;
    let claimed = queue.store.claim(&ask("w", 1, LONG)).await.expect("claimed").remove(0);
    assert!(claimed.lease_until >= now + LONG, "{}", claimed.lease_until);
    queue.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_integrator_that_is_served_by_such_a_host_has_a_whole_lease_too() {
    let queue = queue_with_a_clock().await;
    queue.enqueue().await;
    let claimed = queue.claim("w").await;
    queue.store.finish(&claimed.claim, delivered(&claimed)).await.expect("finished");
    go_on(&queue, LONG).await;
    let now = server_now(&queue).await;
    let held = queue.store.claim_completions(&asking("i", 1, Some(LEASE))).await.expect("answered").remove(0);
    assert!(held.entry.lease_until >= Some(now + LEASE), "{:?}", held.entry.lease_until);
    let renewed = queue.store.renew_completion(held.entry.completion.id, held.token, Some(LONG)).await.expect("renewed");
    assert!(renewed.lease_until >= Some(now + LONG), "{:?}", renewed.lease_until);
    queue.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_clock_is_set_ahead_takes_no_lease_from_who_can_renew() {
    let short = Duration::from_secs(3);
    let queue = queue_with_a_clock().await;
    let reaper = queue.other(|config| config.lease = short).await;
    queue.enqueue().await;
    let claim = queue.claim_for("w", LEASE).await.claim;
    // Until it has reached the database for long enough to say that anybody's lease is over.
    nothing_expires_for(short + Duration::from_millis(500), &reaper).await;
    go_on(&queue, LONG).await;
    // A claim that comes too late has it read the clock again.
    queue.enqueue().await;
    assert!(reaper.claim(&ask("w", 1, LEASE)).await.expect("answered").is_empty());
    assert!(reaper.now() + LEASE > server_now(&queue).await, "it knows");
    assert_eq!(
        reaper.expire_once(10).await.expect("done"),
        [],
        "it was over a moment ago, by this clock, and nobody could renew"
    );
    queue.store.renew(&claim.worker, slice::from_ref(&claim), LONG).await.expect("renewed");
    nothing_expires_for(short, &reaper).await;
    reaper.close().await;
    queue.end().await;
}
