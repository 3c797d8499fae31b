//! Trouble, through the real binary: every bad input and fault has a clear answer and the exit status that goes with it.

mod configuration;
mod database;
pub(crate) mod disk;
mod git_program;
mod jobs;
mod layers;
mod logs;
mod server;
mod site;
