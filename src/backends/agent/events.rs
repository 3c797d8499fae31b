//! The raw events of a run, in a file beside the job's documents.
//!
//! The one rule: the file has a limit, and says where it was reached. What is lost there is only the record: the events are read all the
//! same.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// The most that is kept, in bytes.
const KEPT: u64 = 64 * 1024 * 1024;

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

    fn bounded(path: &Path, left: u64) -> io::Result<Self> {
        Ok(Self { file: File::create(path)?, left, full: false })
    }

    /// Keeps a line, which comes without its end.
    pub(super) fn keep(&mut self, line: &[u8]) -> io::Result<()> {
        let needed = line.len() as u64 + 1;
        if self.full {
            return Ok(());
        }
        if needed > self.left {
            self.full = true;
            return self.file.write_all(b"{\"type\":\"sawmill\",\"full\":true}\n");
        }
        self.left -= needed;
        self.file.write_all(&[line, b"\n"].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_full_says_so_once_and_grows_no_more() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("events.jsonl");
        let mut events = Events::bounded(&path, 10).expect("a file");
        for line in ["{\"a\":1}", "{\"b\":2}", "{\"c\":3}", "{}"] {
            events.keep(line.as_bytes()).expect("written");
        }
        assert_eq!(std::fs::read_to_string(path).expect("text"), "{\"a\":1}\n{\"type\":\"sawmill\",\"full\":true}\n");
    }
}
