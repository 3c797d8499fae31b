//! The API and the client half of the command line, against the real router over SQLite and PostgreSQL.

mod arguments;
mod artifacts;
mod completions;
mod explain;
mod fates;
mod jobs;
mod logs;
mod problems;
mod reconnect;
mod schedule;
mod tables;
mod workers;
mod world;
