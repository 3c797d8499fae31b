//! Why a tree is not made from its layer.

use std::io;

use nix::libc::{ELOOP, ENOENT, ENOTDIR, ESTALE};

/// Why not, and who may do it instead.
#[derive(Debug)]
pub(in crate::git) enum Reason {
    /// It is not known to be simple: git itself must look at the tree.
    NotSimple(String),
    /// It is deeper than anything that git or people could name, and nothing is to be lost without a word.
    TooDeep {
        /// The directory at which that was noticed.
        path: String,
    },
    /// Something changed while it was read, though no process of the job is left. git opens paths by their names, and would follow a link
    /// that comes in the place of a directory at that moment: so nobody may.
    Moved {
        /// Where that was noticed.
        path: String,
        /// How.
        why: String,
    },
}

impl Reason {
    /// What a failure to read what was just seen at a path means.
    pub(super) fn unreadable(path: &[u8], error: &io::Error) -> Self {
        let path = String::from_utf8_lossy(path).into_owned();
        match error.raw_os_error() {
            Some(ENOENT | ENOTDIR | ELOOP | ESTALE) => Self::Moved {
                path,
                why: format!("it changed while it was read ({error}): something writes to the worktree still"),
            },
            _ => Self::NotSimple(format!("{path} cannot be read: {error}")),
        }
    }
}

impl From<String> for Reason {
    fn from(why: String) -> Self {
        Self::NotSimple(why)
    }
}

impl From<&str> for Reason {
    fn from(why: &str) -> Self {
        Self::NotSimple(why.to_owned())
    }
}
