//! One of the two files that the job writes: where it has been read to, and what to do when the job fights back.
//!
//! A job can cut its own output file, and many do without meaning to: `echo x > /dev/stderr` in a shell opens the file
//! behind the descriptor and cuts it to nothing. The first bytes of the file are remembered to tell a file that was begun
//! anew from one that lost its end.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use super::journal::Journal;
use crate::job::Stream;
use crate::redact::{RedactStream, Redactor};

/// How many bytes at the file's beginning are remembered.
const HEAD: usize = 64;
/// How far a line end is looked for when the tail is to begin with a whole line.
const ALIGN: usize = 4 * 1024;

/// The reading end of a stream's spool file.
#[derive(Debug)]
pub(super) struct Source {
    pub stream: Stream,
    /// Its place in arrays of two.
    pub index: usize,
    pub file: File,
    redactor: Redactor,
    redact: RedactStream,
    /// Where `redact` began, in the logical stream.
    base: u64,
    /// How far the file has been read.
    position: u64,
    head: Vec<u8>,
}

/// A redacted piece of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub stream: Stream,
    pub data: Vec<u8>,
    /// How far the stream has been read with it.
    pub spool_end: u64,
}

/// What to do with the beginning of a line at the end of what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PartLine {
    /// Leave it until its end is there.
    Leave,
    /// Take it.
    Take,
}

/// What the file looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub length: u64,
    /// Disk that it takes.
    pub allocated: u64,
}

impl Source {
    /// Goes on at the logical position `at`, after a cut of `shift` bytes.
    pub(super) fn new(stream: Stream, index: usize, file: File, redactor: &Redactor, at: u64, shift: i64) -> Self {
        let mut source = Self {
            stream,
            index,
            file,
            redactor: redactor.clone(),
            redact: RedactStream::new(redactor),
            base: at,
            position: at.saturating_add_signed(-shift),
            head: Vec::new(),
        };
        source.resume_at(source.position, at);
        source.remember_head();
        source
    }

    /// Where the file has been read to, in the logical stream.
    pub(super) const fn logical(&self) -> u64 {
        self.settled() + self.redact.held() as u64
    }

    /// How far what was read has come out again, in the logical stream.
    pub(super) const fn settled(&self) -> u64 {
        self.base + self.redact.settled()
    }

    /// How long the file is; one that cannot be looked at is empty.
    pub(super) fn length(&self) -> u64 {
        self.file.metadata().map_or(0, |metadata| metadata.len())
    }

    /// Where the file has been read to.
    pub(super) const fn position(&self) -> u64 {
        self.position
    }

    pub(super) const fn held(&self) -> usize {
        self.redact.held()
    }

    /// Looks at the file, and finds out whether it was cut: then what can still come out of what was read is returned too.
    /// A file that cannot be looked at is like an empty one.
    pub(super) fn look(&mut self, journal: &mut Journal) -> (Extent, Option<Piece>) {
        let extent = self.file.metadata().map_or(Extent { length: 0, allocated: 0 }, |metadata| Extent {
            length: metadata.len(),
            allocated: metadata.blocks() * 512,
        });
        if extent.length == self.position && extent.length >= self.head.len() as u64 {
            return (extent, None);
        }
        let same = self.begins_as_before();
        if extent.length >= self.position && same {
            return (extent, None);
        }
        let piece = self.finish();
        let read = self.logical();
        let at = if same { extent.length } else { 0 };
        let lost = if same { self.position.saturating_sub(extent.length).min(read) } else { self.position.min(read) };
        journal.lose(read - lost, read);
        journal.shift[self.index] = i64::try_from(read).unwrap_or(i64::MAX).saturating_sub_unsigned(at);
        self.redact = RedactStream::new(&self.redactor);
        self.base = read;
        self.position = at;
        self.head.clear();
        self.remember_head();
        (extent, piece)
    }

    /// Reads on, up to `limit` in the file and at most `most` bytes.
    pub(super) fn read(&mut self, limit: u64, most: usize, part: PartLine) -> Read {
        let wanted = usize::try_from(limit.saturating_sub(self.position)).unwrap_or(usize::MAX).min(most);
        let mut buffer = vec![0; wanted];
        let length = match self.file.read_at(&mut buffer, self.position) {
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return Read::Nothing,
            Err(_) => return Read::Unreadable,
        };
        let mut taken = &buffer[..length];
        // Also where more is there: so that the streams meet at line ends.
        if part == PartLine::Leave || self.position + (length as u64) < limit {
            match taken.iter().rposition(|byte| *byte == b'\n') {
                Some(end) => taken = &taken[..=end],
                None if part == PartLine::Leave && length < most => return Read::Nothing,
                None => {}
            }
        }
        if taken.is_empty() {
            return Read::Nothing;
        }
        self.position += taken.len() as u64;
        let mut data = Vec::with_capacity(taken.len() + 64);
        self.redact.push(taken, &mut data);
        if self.head.len() < HEAD {
            self.remember_head();
        }
        Read::Taken(self.piece(data))
    }

    /// Passes over what cannot be read.
    pub(super) fn skip_unreadable(&mut self, to: u64, journal: &mut Journal) -> Option<Piece> {
        let piece = self.finish();
        let read = self.logical();
        let end = read + (to - self.position);
        journal.lose(read, end);
        (self.base, self.position) = (end, to);
        self.redact = RedactStream::new(&self.redactor);
        piece
    }

    /// What of the text held back shows next to nothing of a secret.
    pub(super) fn release(&mut self) -> Option<Piece> {
        let mut data = Vec::new();
        self.redact.release(&mut data);
        self.piece(data)
    }

    /// The rest: nothing follows.
    pub(super) fn finish(&mut self) -> Option<Piece> {
        let mut data = Vec::new();
        self.redact.finish(&mut data);
        self.piece(data)
    }

    /// Where a tail of at most `bytes` begins in the logical stream, when the file is `length` long: after a line end, if
    /// there is one near.
    pub(super) fn tail_start(&self, length: u64, bytes: u64) -> u64 {
        let mut at = length.saturating_sub(bytes).max(self.position);
        if at > self.position {
            let mut window = vec![0; ALIGN.min(usize::try_from(length - at).unwrap_or(ALIGN))];
            let read = self.file.read_at(&mut window, at).unwrap_or(0);
            at += window[..read].iter().position(|byte| *byte == b'\n').map_or(0, |end| end as u64 + 1);
        }
        self.logical() + (at - self.position)
    }

    /// Leaves out what lies before the logical position `at`, including what is held back.
    pub(super) fn jump(&mut self, at: u64) {
        if at > self.settled() {
            let position = self.position.saturating_add(at.saturating_sub(self.logical()));
            self.resume_at(position, at);
        }
    }

    /// Goes on at `position`, knowing what stands before it.
    fn resume_at(&mut self, position: u64, logical: u64) {
        let reach = (self.redactor.reach() as u64).min(position);
        let mut context = vec![0; usize::try_from(reach).unwrap_or(0)];
        // A context that cannot be read is one that knows of no secret.
        let length = self.file.read_at(&mut context, position - reach).unwrap_or(0);
        context.truncate(length);
        self.redact = RedactStream::after(&self.redactor, &context);
        (self.base, self.position) = (logical, position);
    }

    fn piece(&self, data: Vec<u8>) -> Option<Piece> {
        (!data.is_empty()).then(|| Piece { stream: self.stream, data, spool_end: self.settled() })
    }

    fn remember_head(&mut self) {
        self.head.resize(HEAD.min(usize::try_from(self.position).unwrap_or(HEAD)), 0);
        let length = self.file.read_at(&mut self.head, 0).unwrap_or(0);
        self.head.truncate(length);
    }

    fn begins_as_before(&self) -> bool {
        let mut now = [0; HEAD];
        let length = self.file.read_at(&mut now, 0).unwrap_or(0);
        let common = length.min(self.head.len());
        // Of an empty file nothing can be told; it is begun anew.
        (common > 0 || self.head.is_empty()) && now[..common] == self.head[..common]
    }
}

/// What reading on gave.
#[derive(Debug)]
pub(super) enum Read {
    /// Nothing that can be taken yet.
    Nothing,
    /// Something was read; what of it can go out, if anything.
    Taken(Option<Piece>),
    /// The disk refuses.
    Unreadable,
}
