//! The way of a log from a job's descriptors to a reader, on SQLite and on PostgreSQL.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod capped;
mod delivery;
mod harness;
mod interference;
mod outage;
mod readers;
mod resume;
mod spool;

use harness::{Attempt, Db, on_both, text};
