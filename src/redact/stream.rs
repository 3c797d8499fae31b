//! A byte stream with its secrets taken out, however it was cut.

use super::scan::Found;
use super::shapes::{LOOK_BEHIND, More};
use super::{MARK, Redactor};

/// Redacts a stream piece by piece.
///
/// What could still become a secret is held back: at most a secret's length, or [`super::LONGEST_SHAPE`]. Ordinary
/// text passes at once, and so does every line end unless a known secret goes on after it.
#[derive(Debug)]
pub struct RedactStream {
    redactor: Redactor,
    /// A little context, then what is held back.
    buffer: Vec<u8>,
    /// What begins before this place in the buffer is known to be secret or not.
    decided: usize,
    /// What stands before this place in the buffer has gone out.
    emitted: usize,
    settled: u64,
}

impl RedactStream {
    /// Begins at the beginning of a stream.
    #[must_use]
    pub fn new(redactor: &Redactor) -> Self {
        Self { redactor: redactor.clone(), buffer: Vec::new(), decided: 0, emitted: 0, settled: 0 }
    }

    /// Goes on after `context`, the last bytes before (as many as [`Redactor::reach`] are enough): a secret that began
    /// there is still recognised, and what is left of it masked. Nothing of the context is given out.
    #[must_use]
    pub fn after(redactor: &Redactor, context: &[u8]) -> Self {
        Self { redactor: redactor.clone(), buffer: context.to_vec(), decided: 0, emitted: context.len(), settled: 0 }
    }

    /// Takes the next bytes and appends to `out` what can go.
    pub fn push(&mut self, raw: &[u8], out: &mut Vec<u8>) {
        self.buffer.extend_from_slice(raw);
        let found = self.scan(More::MayFollow);
        let limit = found.cut_at_or_before(found.open.unwrap_or(self.buffer.len()));
        self.emit(limit, &found, out);
        self.decided = self.decided.max(limit);
        let keep = self.decided.saturating_sub(LOOK_BEHIND);
        self.buffer.drain(..keep);
        self.decided -= keep;
        self.emitted -= keep;
    }

    /// Appends what is held back only because it might be the first few bytes of a secret: called when nothing followed
    /// for a while, so that a prompt is not cut short. Should it become a secret after all, the rest of it is masked.
    /// What shows six or more bytes of a secret stays until it is known.
    pub fn release(&mut self, out: &mut Vec<u8>) {
        if self.held() > 0 {
            let found = self.scan(More::MayFollow);
            let limit = found.cut_at_or_before(found.open_strongly.unwrap_or(self.buffer.len()));
            self.emit(limit, &found, out);
        }
    }

    /// Appends the rest: the stream has ended.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        let found = self.scan(More::No);
        self.emit(self.buffer.len(), &found, out);
        self.buffer.clear();
        (self.decided, self.emitted) = (0, 0);
    }

    /// How many raw bytes have gone out, masked or not. A stream that goes on [`after`](Self::after) them gives what
    /// this one would have given next.
    #[must_use]
    pub const fn settled(&self) -> u64 {
        self.settled
    }

    /// How many raw bytes are held back.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.buffer.len() - self.emitted
    }

    fn scan(&self, more: More) -> Found {
        self.redactor.scanner.scan(&self.buffer, self.decided, more)
    }

    fn emit(&mut self, limit: usize, found: &Found, out: &mut Vec<u8>) {
        if limit <= self.emitted {
            return;
        }
        let mut at = self.emitted;
        for mask in found.runs.iter().flat_map(|run| &run.masks) {
            if mask.end > at && mask.start < limit {
                out.extend_from_slice(&self.buffer[at..mask.start.max(at)]);
                out.extend_from_slice(MARK);
                at = mask.end;
            }
        }
        out.extend_from_slice(&self.buffer[at..limit]);
        self.settled += (limit - self.emitted) as u64;
        self.emitted = limit;
    }
}
