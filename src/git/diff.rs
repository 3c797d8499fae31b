//! What changed, from one listing of `git diff-index --raw --numstat -z`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::job::{DiffSummary, FileChange};

/// The changes of a stage against its base.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// The figures for the record.
    pub(super) summary: DiffSummary,
    /// Files that are new or have new contents.
    pub(super) written: Vec<PathBuf>,
    /// Paths that became a link to another repository, or moved to another commit of one.
    pub(super) gitlinks: Vec<PathBuf>,
}

impl Changes {
    /// Whether nothing changed, not even a mode.
    pub(super) fn is_empty(&self) -> bool {
        self.summary.files == 0
    }

    /// Reads the listing: for each file `:<old mode> <new mode> <old id> <new id> <status>` and its path, and further on
    /// `<added>\t<removed>\t<path>`, where a dash stands for a binary file.
    pub(super) fn parse(listing: &[u8]) -> Self {
        let mut changes = Self::default();
        let mut tokens = listing.split(|byte| *byte == 0).filter(|token| !token.is_empty());
        while let Some(token) = tokens.next() {
            match token.strip_prefix(b":") {
                Some(raw) => {
                    let Some(path) = tokens.next() else { break };
                    changes.note_raw(&String::from_utf8_lossy(raw), path);
                }
                None => changes.note_counts(token),
            }
        }
        changes
    }

    fn note_raw(&mut self, raw: &str, path: &[u8]) {
        let path = PathBuf::from(OsString::from_vec(path.to_vec()));
        match raw.split(' ').nth(1) {
            Some("160000") => self.gitlinks.push(path),
            Some("100644" | "100755") => self.written.push(path),
            _ => {}
        }
    }

    fn note_counts(&mut self, token: &[u8]) {
        let mut parts = token.splitn(3, |byte| *byte == b'\t');
        let (Some(added), Some(removed), Some(path)) = (parts.next(), parts.next(), parts.next()) else { return };
        let count = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<u64>().ok();
        let (added, removed) = (count(added), count(removed));
        let summary = &mut self.summary;
        summary.files += 1;
        summary.insertions += added.unwrap_or(0);
        summary.deletions += removed.unwrap_or(0);
        if summary.per_file.len() < DiffSummary::PER_FILE_MAX {
            summary.per_file.push(FileChange {
                path: String::from_utf8_lossy(path).into_owned(),
                insertions: added.unwrap_or(0),
                deletions: removed.unwrap_or(0),
                binary: added.is_none(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_read_whatever_the_names_are() {
        let listing = b":100644 100755 a b M\0x\ty\0:000000 160000 a b A\0sub\0:000000 120000 a b A\0:100644 1\0\
                        :100644 000000 a b D\0gone\x001\t2\tx\ty\x00-\t-\tbin\x000\t3\tgone\x00";
        let changes = Changes::parse(listing);
        assert_eq!(changes.written, [PathBuf::from("x\ty")]);
        assert_eq!(changes.gitlinks, [PathBuf::from("sub")]);
        assert_eq!((changes.summary.files, changes.summary.insertions, changes.summary.deletions), (3, 1, 5));
        assert_eq!(changes.summary.per_file[0].path, "x\ty");
        assert!(changes.summary.per_file[1].binary);
    }
}
