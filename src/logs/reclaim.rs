//! Gives disk back while a job floods: holes are punched into the spool files where nothing will be read again, so that
//! offsets stay true.
//!
//! Three parts of a file are never given back: its first page (by which a file that was cut is known), what may still be
//! shipped of the head, and what may become the tail. So the spool of an attempt takes about `spool_cap`, or twice the log's
//! cap where that is more.

use std::os::unix::fs::MetadataExt as _;

use nix::fcntl::{FallocateFlags, fallocate};

use super::feed::Feed;

const PAGE: u64 = 4096;
/// Kept before and after what may be read again, for context and for finding line ends.
const MARGIN: u64 = 256 * 1024;

/// What has been given back.
#[derive(Debug, Default)]
pub(super) struct Holes {
    /// How far each file has been given back from its beginning.
    until: [u64; 2],
    /// The same of what lies between head and tail.
    middle_until: [u64; 2],
    support: Support,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Support {
    #[default]
    Assumed,
    /// The file system cannot do it, and that was said.
    Missing,
}

impl Feed {
    /// Gives back what will not be read again, if the files take too much disk. `stored` is how much of each stream is
    /// known to be in the store.
    pub(super) fn reclaim(&mut self, stored: [u64; 2]) {
        if self.holes.support == Support::Missing || self.allocated() <= self.limits.spool {
            return;
        }
        for (index, stored) in stored.into_iter().enumerate() {
            let source = &self.sources[index];
            let behind = source.position().saturating_sub(source.logical().saturating_sub(stored));
            let ahead = if self.head_is_full() { self.tail_floor(index) } else { 0 };
            self.punch(index, behind.saturating_sub(MARGIN).max(ahead));
        }
        if !self.head_is_full() && self.allocated() > self.limits.spool {
            self.give_middle_back();
        }
    }

    /// The database is away, and the job floods: what lies beyond any head and before any tail is given back unread.
    fn give_middle_back(&mut self) {
        for index in 0..2 {
            let source = &self.sources[index];
            // A head may take more of the file than of the log, where secrets are masked by something shorter.
            let end = source.position() + 2 * self.limits.head + MARGIN;
            let floor = self.tail_floor(index);
            if floor <= end + PAGE {
                continue;
            }
            let (position, logical) = (source.position(), source.logical());
            let kept = *self.journal.head_ends[index].get_or_insert(logical + (end - position));
            self.journal.write(self.spool.dir());
            let from = position + kept.saturating_sub(logical);
            self.punch_range(index, from.max(self.holes.middle_until[index]), floor);
            self.holes.middle_until[index] = floor / PAGE * PAGE;
        }
    }

    /// Where the tail will begin at the earliest.
    fn tail_floor(&self, index: usize) -> u64 {
        self.sources[index].length().saturating_sub(self.limits.tail + MARGIN)
    }

    fn punch(&mut self, index: usize, until: u64) {
        let from = self.holes.until[index].max(PAGE);
        if until > from + PAGE && self.punch_range(index, from, until) {
            self.holes.until[index] = until / PAGE * PAGE;
        }
    }

    /// Gives the whole pages between two places back.
    fn punch_range(&mut self, index: usize, from: u64, until: u64) -> bool {
        let (from, until) = (from.next_multiple_of(PAGE), until / PAGE * PAGE);
        if until <= from {
            return false;
        }
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let (offset, length) = (i64::try_from(from).unwrap_or(i64::MAX), i64::try_from(until - from).unwrap_or(i64::MAX));
        match fallocate(&self.sources[index].file, flags, offset, length) {
            Ok(()) => true,
            Err(error) => {
                let path = self.spool.path(self.sources[index].stream);
                tracing::warn!(%error, path = %path.display(), "cannot give back disk that a job's output takes");
                self.holes.support = Support::Missing;
                false
            }
        }
    }

    fn allocated(&self) -> u64 {
        // A file that cannot be looked at takes no disk that could be given back.
        self.sources.iter().map(|source| source.file.metadata().map_or(0, |metadata| metadata.blocks() * 512)).sum()
    }
}
