//! Turns the spool into the pieces of one log, in order, and applies the cap.
//!
//! All of it blocks on files and none of it on the database; the shipper calls it from a blocking thread.

use super::error::LogsError;
use super::journal::{Journal, TailPlan};
use super::source::{PartLine, Piece, Read, Source};
use super::spool::Spool;
use super::system::{SystemLine, SystemLines};
use super::{Config, reclaim};
use crate::job::{LogVerdict, Stream};
use crate::redact::Redactor;
use crate::store::LogPosition;

/// The most that one round reads: what is in memory at once is a small multiple of it.
const ROUND_BYTES: u64 = 1024 * 1024;

/// Chunks outside of these bounds cost more than they give, whatever is configured.
const SHORTEST_CHUNK: usize = 1024;
const LONGEST_CHUNK: usize = 512 * 1024;

/// The spool of one attempt, being read.
#[derive(Debug)]
pub(super) struct Feed {
    pub(super) spool: Spool,
    pub(super) sources: [Source; 2],
    system: SystemLines,
    pub(super) journal: Journal,
    redactor: Redactor,
    pub(super) limits: Limits,
    /// The length of the log with everything that has been given out.
    offset: u64,
    part: Part,
    /// Whether the line about what is left out has been given out.
    left_out: LeftOut,
    pub(super) holes: reclaim::Holes,
}

/// Whether a round came as far as it was to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reached {
    Wholly,
    NotYet,
}

/// Which part of the log is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Up to where the head ends.
    Head,
    /// All that is left.
    Tail,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LeftOut {
    Unsaid,
    Said,
}

/// The configured sizes, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub chunk: usize,
    pub head: u64,
    pub tail: u64,
    pub spool: u64,
}

impl Limits {
    pub(super) fn of(config: &Config) -> Self {
        let tail = config.tail.as_u64().min(config.cap.as_u64());
        let chunk = usize::try_from(config.chunk_bytes.as_u64()).unwrap_or(LONGEST_CHUNK).clamp(SHORTEST_CHUNK, LONGEST_CHUNK);
        Self { chunk, head: config.cap.as_u64() - tail, tail, spool: config.spool_cap.as_u64() }
    }
}

/// What a look at the spool found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    /// Bytes that can be read and have not been.
    pub unread: u64,
    /// Bytes that were read and are held back by the redactor.
    pub held: usize,
}

impl Feed {
    /// Goes on where the store's log ends.
    pub(super) fn open(spool: &Spool, redactor: &Redactor, config: &Config, from: LogPosition) -> Result<Self, LogsError> {
        let mut journal = Journal::read(spool.dir());
        let said = journal.tail.and_then(|tail| tail.said_at).is_some_and(|at| from.offset > at);
        if let Some(tail) = &mut journal.tail
            && !said
        {
            // It did not get into the log, and what gets there first now may be something else.
            tail.said_at = None;
            journal.write(spool.dir());
        }
        let source = |stream, index: usize| -> Result<Source, LogsError> {
            let tail = journal.tail.map_or(0, |tail| tail.from[index]);
            let at = from.spool_end[index].max(tail);
            Ok(Source::new(stream, index, spool.open_to_read(stream)?, redactor, at, journal.shift[index]))
        };
        Ok(Self {
            part: Part::Head,
            left_out: if said { LeftOut::Said } else { LeftOut::Unsaid },
            sources: [source(Stream::Stdout, 0)?, source(Stream::Stderr, 1)?],
            system: SystemLines::new(spool.open_to_read(Stream::System)?, from.spool_end[2]),
            spool: spool.clone(),
            journal,
            redactor: redactor.clone(),
            limits: Limits::of(config),
            offset: from.offset,
            holes: reclaim::Holes::default(),
        })
    }

    /// Looks at the files, which is cheap. Pieces come only from a file that turns out to have been cut.
    pub(super) fn look(&mut self, pieces: &mut Vec<Piece>) -> Look {
        // The system's lines first: what the job had written before one of them is then there as well.
        let mut unread = self.system.unread();
        let before = self.journal.lost;
        let full = self.head_is_full();
        for index in 0..2 {
            let (extent, piece) = self.sources[index].look(&mut self.journal);
            self.give(piece, pieces);
            if !full {
                unread += extent.length.saturating_sub(self.sources[index].position());
            }
        }
        if self.journal.lost != before {
            self.journal.write(self.spool.dir());
            if before.is_none() {
                self.spool.say("the job cut one of its output files (as `> /dev/stderr` does): some of its output is lost");
            }
        }
        Look { unread, held: self.sources.iter().map(Source::held).sum() }
    }

    /// How much the job has written.
    pub(super) fn length(&self) -> u64 {
        self.sources.iter().map(Source::length).sum()
    }

    /// Reads on, in the order in which things were written as far as that can be told: a line of the system comes after
    /// what the job had written by then. Bounded; what is left is for the next round.
    pub(super) fn round(&mut self, part: PartLine) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let lines = self.system.lines(&self.redactor);
        let lengths = self.lengths(&mut pieces);
        for line in &lines {
            let until = [line.after[0].min(lengths[0]), line.after[1].min(lengths[1])];
            if !self.head_is_full() && self.read_until(until, PartLine::Take, &mut pieces) == Reached::NotYet {
                return pieces;
            }
            self.take_line(line, &mut pieces);
        }
        if !self.head_is_full() {
            self.read_until(lengths, part, &mut pieces);
        }
        pieces
    }

    /// The same if there is a whole chunk to be read: what is less can wait until it is time for it.
    pub(super) fn round_if_much(&mut self, part: PartLine) -> Vec<Piece> {
        let mut pieces = Vec::new();
        if self.look(&mut pieces).unread >= self.limits.chunk as u64 {
            pieces.extend(self.round(part));
        }
        pieces
    }

    /// What is held back although it shows next to nothing of a secret.
    pub(super) fn release(&mut self, pieces: &mut Vec<Piece>) {
        for index in 0..2 {
            let piece = self.sources[index].release();
            self.give(piece, pieces);
        }
    }

    /// Goes over to the tail, once everything that was written has been read, except beyond a head that is full.
    pub(super) fn begin_tail(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let lengths = self.lengths(&mut pieces);
        self.part = Part::Tail;
        let rest = [0, 1].map(|index: usize| lengths[index].saturating_sub(self.sources[index].position()));
        if self.journal.tail.is_none() && self.head_is_full() && rest[0] + rest[1] > self.limits.tail {
            self.plan_tail(rest, lengths);
        }
        if let Some(mut tail) = self.journal.tail {
            if self.left_out == LeftOut::Unsaid {
                tail.said_at = Some(self.offset);
                self.journal.tail = Some(tail);
                self.journal.write(self.spool.dir());
                let data = format!("sawmill: … {} bytes left out …\n", tail.left_out).into_bytes();
                self.give(Some(Piece { stream: Stream::System, data, spool_end: self.system.position() }), &mut pieces);
                self.left_out = LeftOut::Said;
            }
            for source in &mut self.sources {
                source.jump(tail.from[source.index]);
            }
        }
        pieces
    }

    /// Reads the next round of the tail: nothing when all has been read.
    pub(super) fn tail_round(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let lengths = self.lengths(&mut pieces);
        self.read_until(lengths, PartLine::Take, &mut pieces);
        pieces
    }

    /// The last bytes of all: nothing follows.
    pub(super) fn finish(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for index in 0..2 {
            let piece = self.sources[index].finish();
            self.give(piece, &mut pieces);
        }
        pieces
    }

    /// What is to be said of the log, when all of it is in the store.
    pub(super) fn verdict(&self) -> LogVerdict {
        self.journal.verdict()
    }

    /// Whether no more of the job's output is shipped before the attempt's end.
    pub(super) fn head_is_full(&self) -> bool {
        let ends = self.sources.iter().zip(self.journal.head_ends);
        ends.into_iter().all(|(source, end)| end.is_some_and(|end| source.logical() >= end))
    }

    /// Shares the tail out: each stream may have half, and what the other does not need.
    fn plan_tail(&mut self, rest: [u64; 2], lengths: [u64; 2]) {
        let half = self.limits.tail / 2;
        let err = rest[1].min(half.max(self.limits.tail.saturating_sub(rest[0])));
        let shares = [rest[0].min(self.limits.tail - err), err];
        let mut plan = TailPlan { from: [0; 2], left_out: 0, said_at: None };
        for source in &self.sources {
            let from = source.tail_start(lengths[source.index], shares[source.index]);
            plan.from[source.index] = from;
            plan.left_out += from - source.settled();
        }
        self.journal.tail = Some(plan);
        self.journal.write(self.spool.dir());
    }

    fn lengths(&mut self, pieces: &mut Vec<Piece>) -> [u64; 2] {
        self.look(pieces);
        [self.sources[0].length(), self.sources[1].length()]
    }

    /// Reads both streams up to these places, but no more than a round's share of each.
    fn read_until(&mut self, until: [u64; 2], part: PartLine, pieces: &mut Vec<Piece>) -> Reached {
        let mut reached = Reached::Wholly;
        for (index, until) in until.into_iter().enumerate() {
            let enough = self.offset + ROUND_BYTES / 2;
            while self.sources[index].position() < until {
                if self.offset >= enough {
                    reached = Reached::NotYet;
                    break;
                }
                let room = self.room(index);
                if room == 0 {
                    self.end_head();
                    break;
                }
                match self.sources[index].read(until, self.limits.chunk.min(room), part) {
                    Read::Nothing => break,
                    Read::Taken(piece) => self.give(piece, pieces),
                    Read::Unreadable => {
                        let piece = self.sources[index].skip_unreadable(until, &mut self.journal);
                        self.give(piece, pieces);
                        self.journal.write(self.spool.dir());
                    }
                }
            }
        }
        reached
    }

    /// How much more may be read of a stream.
    fn room(&self, index: usize) -> usize {
        if self.part == Part::Tail {
            return usize::MAX;
        }
        let head = self.limits.head.saturating_sub(self.offset);
        let room = self.journal.head_ends[index].map_or(head, |end| end.saturating_sub(self.sources[index].logical()));
        usize::try_from(room).unwrap_or(usize::MAX)
    }

    /// The head ends for both streams where they have been read to. That is noted before it is in the store, so that a
    /// shipper after this one reads the same head.
    fn end_head(&mut self) {
        if self.journal.head_ends.iter().all(Option::is_some) {
            return;
        }
        for source in &self.sources {
            self.journal.head_ends[source.index].get_or_insert(source.logical());
        }
        self.journal.write(self.spool.dir());
        let head = bytesize::ByteSize(self.limits.head);
        let tail = bytesize::ByteSize(self.limits.tail);
        self.spool.say(&format!("the log has reached {head}: of what follows, only the last {tail} will be here, at the end"));
    }

    fn take_line(&mut self, line: &SystemLine, pieces: &mut Vec<Piece>) {
        self.system.take(line);
        self.offset += line.text.len() as u64;
        match pieces.last_mut() {
            Some(last) if last.stream == Stream::System && last.data.len() < self.limits.chunk => {
                last.data.extend_from_slice(&line.text);
                last.spool_end = line.end;
            }
            _ => pieces.push(Piece { stream: Stream::System, data: line.text.clone(), spool_end: line.end }),
        }
    }

    fn give(&mut self, piece: Option<Piece>, pieces: &mut Vec<Piece>) {
        if let Some(piece) = piece {
            self.offset += piece.data.len() as u64;
            pieces.push(piece);
        }
    }
}

/// What is to be said of a log of which the store has only so much: of the stream that lacks the most, what it lacks.
pub(super) fn verdict_without_rest(spool: &Spool, stored: LogPosition) -> LogVerdict {
    let journal = Journal::read(spool.dir());
    let missing =
        [Stream::Stdout, Stream::Stderr].into_iter().zip(journal.shift).zip(stored.spool_end).map(|((stream, shift), from)| {
            // A file that is gone has nothing that could still be shipped.
            let length = std::fs::metadata(spool.path(stream)).map_or(0, |metadata| metadata.len());
            (from, length.saturating_add_signed(shift).max(from))
        });
    match missing.max_by_key(|(from, to)| to - from) {
        Some((from, to)) if to > from => LogVerdict::Gap { from, to },
        _ => journal.verdict(),
    }
}
