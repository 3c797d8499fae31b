//! What operators do to workers, and what workers do about their hosts: real daemons, both databases.

mod admission;
mod answers;
mod deadline;
mod drain;
mod explain;
mod labels;
mod pauses;
mod server;
mod slots;
mod time_limit;
mod warm_up;

use std::time::Duration;

use sawmill::ids::WorkerId;
use sawmill::store::WorkerRecord;

use crate::delivery::host::Host;

/// A lease that does not run out within a test.
const LEASE: Duration = Duration::from_secs(30);

impl Host {
    async fn worker(&self, name: &str) -> WorkerRecord {
        self.store.worker(&WorkerId::new(name)).await.expect("the worker is on record")
    }
}

/// A test for each database.
macro_rules! on_both {
    ($($name:ident)*) => { $(
        mod $name {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                super::$name(crate::delivery::host::On::Sqlite).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                super::$name(crate::delivery::host::On::Postgres).await;
            }
        }
    )* };
}
use on_both;
