//! What a shipper must not forget when its daemon is killed, beyond what the spool and the store tell.
//!
//! It is written only at rare events: output was lost, the cap was met, the tail was chosen.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::job::LogVerdict;

/// Its file in the run directory.
pub(super) const FILE: &str = "log.json";

/// The journal of one attempt's log. Positions of streams are logical: what was ever read of the stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Journal {
    /// How much further each stream has been read than its file is long by now, because the file was cut.
    pub shift: [i64; 2],
    /// What was lost, over all streams.
    pub lost: Option<Lost>,
    /// Where each stream's head ends: the cap was met there, or what follows has been given back to the file system.
    pub head_ends: [Option<u64>; 2],
    /// Which tail is shipped.
    pub tail: Option<TailPlan>,
}

/// A range of a spool file that was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lost {
    pub from: u64,
    pub to: u64,
}

/// What is left out between head and tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TailPlan {
    /// Where each stream goes on.
    pub from: [u64; 2],
    /// How many bytes are left out.
    pub left_out: u64,
    /// The offset in the log at which that is said, once it is being said.
    pub said_at: Option<u64>,
}

impl Journal {
    /// Reads the journal; an attempt that has none yet, or an unreadable one, begins with an empty one.
    pub(super) fn read(run: &Path) -> Self {
        let path = run.join(FILE);
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(%error, path = %path.display(), "cannot read the journal of a log: starting with an empty one");
                Self::default()
            }),
            Err(error) => {
                if error.kind() != std::io::ErrorKind::NotFound {
                    tracing::warn!(%error, path = %path.display(), "cannot read the journal of a log: starting with an empty one");
                }
                Self::default()
            }
        }
    }

    /// Writes the journal in place of the last one. A failure goes to the daemon's log: what is at stake is what a daemon
    /// that is killed soon after will know.
    pub(super) fn write(&self, run: &Path) {
        if let Err(error) = self.try_write(run) {
            tracing::warn!(%error, path = %run.join(FILE).display(), "cannot write the journal of a log");
        }
    }

    fn try_write(&self, run: &Path) -> std::io::Result<()> {
        let fresh: PathBuf = run.join("log.json.new");
        std::fs::write(&fresh, serde_json::to_vec(self)?)?;
        std::fs::rename(&fresh, run.join(FILE))
    }

    /// Notes that a range was lost; further ones widen it.
    pub(super) fn lose(&mut self, from: u64, to: u64) {
        let lost = self.lost.unwrap_or(Lost { from, to });
        self.lost = Some(Lost { from: lost.from.min(from), to: lost.to.max(to) });
    }

    /// What is to be said of a log that is shipped to its end. That something was lost weighs more than that something was
    /// left out.
    pub(super) fn verdict(&self) -> LogVerdict {
        match (self.lost, self.tail) {
            (Some(Lost { from, to }), _) => LogVerdict::Gap { from, to },
            (None, Some(tail)) => LogVerdict::Truncated { bytes: tail.left_out },
            (None, None) => LogVerdict::Complete,
        }
    }
}
