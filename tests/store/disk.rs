//! What somebody was told survives a crash of the server.

use sawmill::store::Store;

use super::{LONG, ask, config, new_job};
use crate::torture::server::{Server, Stop, free_port};

/// Those that come after a pause are told of with the statement that adds them, whose own commit does not wait for the disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_job_that_is_in_the_queue_by_its_answer_outlives_a_crash_of_the_server() {
    let port = free_port();
    // Nobody else brings to the disk what is not on it yet.
    let server = Server::with_options("127.0.0.1", port, &[], "-c wal_writer_delay=10s -c autovacuum=off");
    let config = config(server.socket_url(port));
    let mut jobs = Vec::new();
    for round in 0..3 {
        let store = Store::connect(&config).await.expect("a store");
        for _ in 0..4 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            jobs.push(store.enqueue(new_job()).await.expect("enqueued").into_job().id);
        }
        server.stop(Stop::Immediate);
        drop(store);
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
