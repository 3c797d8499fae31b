//! The store against a model: random operations on both, compared after each step.
//!
//! `operation` is what can be done, `world` is the model, in memory and with no idea of SQL. `drive` does each operation to both
//! and judges the answers (`work`, `fates`, `deliveries`); `compare` then looks at all that the store says. Every list of
//! operations means something (numbers are taken modulo what is there), so that one that fails can be cut down to the operations
//! that matter, which are printed. `PROPTEST_CASES` says how many lists are tried.

mod compare;
mod deliveries;
mod drive;
mod fates;
mod operation;
mod work;
mod world;

use std::cell::RefCell;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tokio::runtime::Runtime;

use self::drive::Driver;
use self::operation::operation;
use super::{LONG, Queue};

/// Lists of operations where nobody asks for more.
const CASES: u32 = 80;
/// The longest list.
const LENGTH: usize = 40;

#[test]
fn the_store_does_what_the_model_does_on_sqlite() {
    compare(Queue::on_sqlite());
}

#[test]
fn the_store_does_what_the_model_does_on_postgres() {
    compare(Queue::on_postgres());
}

fn compare(queue: impl Future<Output = Queue>) {
    let runtime = Runtime::new().expect("a runtime");
    let mut queue = runtime.block_on(queue);
    // A failed attempt waits until an operation says that its time has come.
    queue.store = runtime.block_on(queue.other(|config| config.retry.backoff = LONG));
    let driver = RefCell::new(runtime.block_on(Driver::new(queue)));
    let mut config = ProptestConfig { failure_persistence: None, max_shrink_iters: 600, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = CASES;
    }
    let lists = prop::collection::vec(operation(), 1..LENGTH);
    let result = TestRunner::new(config).run(&lists, |operations| {
        runtime.block_on(driver.borrow_mut().run(&operations));
        Ok(())
    });
    runtime.block_on(driver.into_inner().end());
    if let Err(error) = result {
        panic!("the store does not do what the model does: {error}");
    }
}
