//! Calls that nobody waits for to their end.

use std::pin::pin;
use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};

use super::{Place, Queue};

/// A transaction that stayed open would keep its connection from the pool, or be met by whoever gets it next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_given_up_at_any_moment_leaves_no_transaction_open() {
    let queue = Queue::on_postgres().await;
    queue.enqueue().await;
    let claim = queue.claim("w").await.claim;
    for micros in (0..4_000_u16).step_by(10).rev() {
        let mut call = pin!(queue.store.record_stages(&claim, &[]));
        let given_up = pin!(after(Duration::from_micros(micros.into())));
        tokio::select! {
            biased;
            done = call.as_mut() => done.expect("recorded"),
            () = given_up => {}
        }
    }
    let give_up = Instant::now() + Duration::from_secs(10);
    while open_transactions(&queue).await > 0 {
        assert!(Instant::now() < give_up, "{} transactions are open", open_transactions(&queue).await);
        tokio::task::yield_now().await;
    }
    queue.end().await;
}

/// The runtime's own timers count in milliseconds.
async fn after(span: Duration) {
    let began = Instant::now();
    while began.elapsed() < span {
        tokio::task::yield_now().await;
    }
}

async fn open_transactions(queue: &Queue) -> i64 {
    let Place::Schema { server, schema } = &queue.place else { panic!("only a server has sessions") };
    let mut connection = PgConnection::connect(server).await.expect("the test server answers");
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND state LIKE 'idle in transaction%'";
    sqlx::query_scalar(sql).bind(schema).fetch_one(&mut connection).await.expect("a number")
}
