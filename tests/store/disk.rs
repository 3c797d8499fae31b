//! What somebody was told survives a crash of the server.

use sawmill::store::{Config, Enqueued, Store};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::{LONG, ask, config, new_job};
use crate::torture::server::{Server, Stop, free_port};

/// A server on which nobody else brings to the disk what is not on it yet.
fn slow_server() -> (Server, Config) {
    let port = free_port();
    let server = Server::with_options("127.0.0.1", port, &[], "-c wal_writer_delay=10s -c autovacuum=off");
    let config = config(server.socket_url(port));
    (server, config)
}

/// The first one of a process is told of with the statement that adds it, whose own commit does not wait for the disk. (So is each that comes
/// after a pause.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_job_that_is_in_the_queue_by_its_answer_outlives_a_crash_of_the_server() {
    let (server, config) = slow_server();
    let mut jobs = Vec::new();
    for round in 0..3 {
        let mut stores = Vec::new();
        for _ in 0..4 {
            let store = Store::connect(&config).await.expect("a store");
            jobs.push(store.enqueue(new_job()).await.expect("enqueued").into_job().id);
            // One that is closed might write still.
            stores.push(store);
        }
        server.stop(Stop::Immediate);
        drop(stores);
        server.start();
        let store = Store::connect(&config).await.expect("a store");
        for (at, job) in jobs.iter().enumerate() {
            assert!(store.job(*job).await.is_ok(), "in round {round}, job {at} of {} is gone", jobs.len());
        }
        store.close().await;
    }
    let store = Store::connect(&config).await.expect("a store");
    let claimed = store.claim(&ask("w", 100, LONG)).await.expect("answered");
    assert_eq!(claimed.len(), jobs.len());
    store.close().await;
}

/// The one who enqueued it first was not answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_somebody_was_told_is_there_already_outlives_a_crash_of_the_server_too() {
    let (server, config) = slow_server();
    let store = Store::connect(&config).await.expect("a store");
    store.enqueue(new_job()).await.expect("enqueued");
    let mut wanted = new_job();
    wanted.spec.idempotency_key = Some("key".to_owned());
    let first = format!(
        "SET synchronous_commit = off; BEGIN; INSERT INTO jobs (id, repo, base, branch, route, priority, position, share, idempotency_key, state, \
         ready_at, attempts_max, created_at) SELECT gen_random_uuid(), repo, base, 'another', route, priority, position, share, 'key', state, \
         ready_at, attempts_max, created_at FROM jobs; INSERT INTO job_specs (job, digest, document) \
         SELECT j.id, '{}', s.document FROM jobs j CROSS JOIN job_specs s WHERE j.idempotency_key = 'key'; COMMIT",
        wanted.digest
    );
    let mut other = PgConnection::connect(&config.url).await.expect("the server answers");
    sqlx::raw_sql(AssertSqlSafe(first)).execute(&mut other).await.expect("another's statements run");
    let Enqueued::Existing(job) = store.enqueue(wanted).await.expect("answered") else { panic!("it was there") };
    server.stop(Stop::Immediate);
    drop((store, other));
    server.start();
    let store = Store::connect(&config).await.expect("a store");
    assert!(store.job(job.id).await.is_ok(), "it is gone");
    store.close().await;
}
