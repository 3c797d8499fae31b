//! The raw events of a run, in a file beside the job's documents.
//!
//! The one rule: the file has a limit, and says where it was reached. What is lost there is only the record: the events are read all the
//! same.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// The most that is kept, in bytes: what `artifacts.file_size` lets through where it is not set.
const KEPT: u64 = 64 * 1024 * 1024;

/// The line that says that there is no more. There is room for it in what is kept.
const FULL: &[u8] = b"{\"type\":\"sawmill\",\"full\":true}\n";

/// The file of the events.
#[derive(Debug)]
pub(super) struct Events {
    file: File,
    left: u64,
    full: bool,
}

impl Events {
    /// Begins a file, in the place of one that is there.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        Self::bounded(path, KEPT)
    }

    fn bounded(path: &Path, most: u64) -> io::Result<Self> {
        Ok(Self { file: File::create(path)?, left: most.saturating_sub(FULL.len() as u64), full: false })
    }

    /// Keeps a line, which comes without its end.
    pub(super) fn keep(&mut self, line: &[u8]) -> io::Result<()> {
        let needed = line.len() as u64 + 1;
        if self.full {
            return Ok(());
        }
        if needed > self.left {
            self.full = true;
            return self.file.write_all(FULL);
        }
        self.left -= needed;
        self.file.write_all(&[line, b"\n"].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_full_says_so_once_within_its_limit_and_grows_no_more() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("events.jsonl");
        let most = 10 + FULL.len() as u64;
        let mut events = Events::bounded(&path, most).expect("a file");
        for line in ["{\"a\":1}", "{\"b\":2}", "{\"c\":3}", "{}"] {
            events.keep(line.as_bytes()).expect("written");
        }
        let text = std::fs::read_to_string(path).expect("text");
        assert_eq!(text, "{\"a\":1}\n{\"type\":\"sawmill\",\"full\":true}\n");
        assert!(text.len() as u64 <= most, "{}", text.len());
    }
}
