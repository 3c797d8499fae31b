//! What a job asks for when it wants a container, and what it is given.

use std::path::PathBuf;

use super::workshop::Container;

/// What a job needs of a container.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Its slot.
    pub slot: u32,
    /// What it sees of the slot.
    pub job_dir: PathBuf,
    /// Its worktree, which is in that, and may be a mount.
    pub tree: PathBuf,
    /// Its image; the configured one when absent.
    pub image: Option<String>,
    /// Directories of git objects that its view borrows.
    pub objects: Vec<PathBuf>,
}

/// A container for a job.
#[derive(Debug)]
pub struct Lodging {
    /// The container.
    pub container: Container,
    /// What the image sets in the environment of its programs.
    pub env: Vec<(String, String)>,
    /// Whether it was ready.
    pub start: Start,
}

/// Whether a container was there before its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// It was.
    Warm,
    /// It was made for the job.
    Cold,
}

/// What became of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// No process is left in it.
    Clean,
    /// It is not known what is in it.
    Spoilt,
}
