//! Reads `system.log`: lines with the places that they belong to.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use super::spool::LONGEST_LINE;
use crate::redact::Redactor;

/// How much is read at once: a few of the longest lines.
const WINDOW: usize = 8 * LONGEST_LINE;

/// The reading end of `system.log`.
#[derive(Debug)]
pub(super) struct SystemLines {
    file: File,
    position: u64,
}

/// A line, redacted, and where it belongs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SystemLine {
    /// How long standard output and standard error were when it was said.
    pub after: [u64; 2],
    /// The line with its line end.
    pub text: Vec<u8>,
    /// Where it ends in the file.
    pub end: u64,
}

impl SystemLines {
    pub(super) const fn new(file: File, position: u64) -> Self {
        Self { file, position }
    }

    /// How far the file has been taken.
    pub(super) const fn position(&self) -> u64 {
        self.position
    }

    /// How much has not been taken yet.
    pub(super) fn unread(&self) -> u64 {
        self.file.metadata().map_or(0, |metadata| metadata.len()).saturating_sub(self.position)
    }

    /// The whole lines that are there now, up to a window of them; they are taken one by one.
    pub(super) fn lines(&self, redactor: &Redactor) -> Vec<SystemLine> {
        let mut window = vec![0; WINDOW];
        // What cannot be read now is read the next time; this file is only ours, and it only grows.
        let length = self.file.read_at(&mut window, self.position).unwrap_or(0);
        let mut end = self.position;
        let mut lines = Vec::new();
        for line in window[..length].split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            end += line.len() as u64;
            let (after, text) = parse(line);
            lines.push(SystemLine { after, text: redactor.redact(text), end });
        }
        lines
    }

    pub(super) const fn take(&mut self, line: &SystemLine) {
        self.position = line.end;
    }
}

/// Splits the places off. A line that has none belongs where it is found.
fn parse(line: &[u8]) -> ([u64; 2], &[u8]) {
    let mut rest = line;
    let mut after = [0; 2];
    for place in &mut after {
        let Some(blank) = rest.iter().position(|byte| *byte == b' ') else { return ([0; 2], line) };
        let Some(number) = std::str::from_utf8(&rest[..blank]).ok().and_then(|text| text.parse().ok()) else {
            return ([0; 2], line);
        };
        *place = number;
        rest = &rest[blank + 1..];
    }
    (after, rest)
}
