//! Finds what is secret in a text, and what might become so.

use std::ops::Range;

use aho_corasick::{AhoCorasick, AhoCorasickKind};

use super::shapes::{Candidate, Hold, More, SHAPES, Shape, Verdict};

/// How much of a literal goes into the automaton; the rest is compared when that was found. Long enough to be rare,
/// short enough to keep the automaton within the processor's caches.
const ANCHOR: usize = 16;

/// Where secrets overlap without end, as with `aaaaaa` in a long row of `a`, they are cut after this many bytes.
const LONGEST_RUN: usize = 4096;

/// Looks for known secrets and shapes.
pub(super) struct Scanner {
    automaton: AhoCorasick,
    /// In the order of their bytes; the index is the automaton's pattern.
    anchors: Vec<Anchor>,
    longest_literal: usize,
}

struct Anchor {
    bytes: Vec<u8>,
    kind: Kind,
}

enum Kind {
    /// A form of a known secret.
    Literal(Vec<u8>),
    Shape(&'static Shape),
}

/// What a pass over a text found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Parts of the text that overlapping secrets hold together, in order.
    pub runs: Vec<Run>,
    /// Where the first candidate begins that depends on what follows.
    pub open: Option<usize>,
    /// The same among those that are to be held until they are known.
    pub open_strongly: Option<usize>,
}

/// A part of the text that goes out as a whole, with what is secret in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// From the first anchor to the end of the last secret.
    pub extent: Range<usize>,
    /// What is masked, in order, without overlaps.
    pub masks: Vec<Range<usize>>,
}

struct Secret {
    anchor: usize,
    mask: usize,
    end: usize,
}

impl Scanner {
    pub(super) fn new(mut literals: Vec<Vec<u8>>) -> Self {
        literals.sort();
        literals.dedup();
        let longest_literal = literals.iter().map(Vec::len).max().unwrap_or(0);
        let known = literals
            .into_iter()
            .map(|literal| Anchor { bytes: literal[..literal.len().min(ANCHOR)].to_vec(), kind: Kind::Literal(literal) });
        let shapes = SHAPES.iter().map(|(anchor, shape)| Anchor { bytes: anchor.to_vec(), kind: Kind::Shape(shape) });
        let mut anchors: Vec<Anchor> = known.chain(shapes).collect();
        anchors.sort_by(|a, b| a.bytes.cmp(&b.bytes));
        let automaton = AhoCorasick::builder()
            .kind(Some(AhoCorasickKind::DFA))
            .build(anchors.iter().map(|anchor| &anchor.bytes))
            .expect("an automaton holds two thousand million states, and each secret needs a few hundred");
        Self { automaton, anchors, longest_literal }
    }

    pub(super) fn literals(&self) -> usize {
        self.anchors.len() - SHAPES.len()
    }

    pub(super) const fn longest_literal(&self) -> usize {
        self.longest_literal
    }

    /// Looks at every candidate that begins at `from` or later; what stands before is context.
    pub(super) fn scan(&self, text: &[u8], from: usize, more: More) -> Found {
        let mut found = Found::default();
        let mut secrets = Vec::new();
        for hit in self.automaton.find_overlapping_iter(text) {
            if hit.start() < from {
                continue;
            }
            let anchor = &self.anchors[hit.pattern().as_usize()];
            match anchor.judge(&Candidate { text, at: hit.start(), more }) {
                Verdict::Clean => {}
                Verdict::Secret { mask, end } => secrets.push(Secret { anchor: hit.start(), mask, end }),
                Verdict::Open(hold) => found.open_at(hit.start(), hold),
            }
        }
        if more == More::MayFollow {
            self.open_tail(text, from, &mut found);
        }
        found.runs = into_runs(secrets);
        found
    }

    /// Looks for anchors of which the text has only the beginning.
    fn open_tail(&self, text: &[u8], from: usize, found: &mut Found) {
        let longest = self.anchors.iter().map(|anchor| anchor.bytes.len()).max().unwrap_or(0);
        for at in text.len().saturating_sub(longest).max(from)..text.len() {
            let tail = &text[at..];
            let first = self.anchors.partition_point(|anchor| anchor.bytes.as_slice() < tail);
            for anchor in self.anchors[first..].iter().take_while(|anchor| anchor.bytes.starts_with(tail)) {
                match anchor.kind {
                    _ if anchor.bytes.len() == tail.len() => {}
                    Kind::Literal(_) => found.open_at(at, super::shapes::strength(tail.len())),
                    Kind::Shape(shape) if shape.may_stand_after(text, at) => found.open_at(at, Hold::Weak),
                    Kind::Shape(_) => {}
                }
            }
        }
    }
}

impl Anchor {
    fn judge(&self, candidate: &Candidate<'_>) -> Verdict {
        match &self.kind {
            Kind::Shape(shape) => shape.judge(candidate, self.bytes.len()),
            Kind::Literal(literal) => {
                let there = &candidate.text[candidate.at..];
                if there.starts_with(literal) {
                    Verdict::Secret { mask: candidate.at, end: candidate.at + literal.len() }
                } else if candidate.more == More::MayFollow && literal.starts_with(there) {
                    Verdict::Open(Hold::Strong)
                } else {
                    Verdict::Clean
                }
            }
        }
    }
}

impl Found {
    fn open_at(&mut self, at: usize, hold: Hold) {
        self.open = Some(self.open.map_or(at, |open| open.min(at)));
        if hold == Hold::Strong {
            self.open_strongly = Some(self.open_strongly.map_or(at, |open| open.min(at)));
        }
    }

    /// The last place at or before `limit` that is not inside of a run.
    pub(super) fn cut_at_or_before(&self, limit: usize) -> usize {
        let run = self.runs.iter().rev().find(|run| run.extent.start < limit);
        run.filter(|run| limit < run.extent.end).map_or(limit, |run| run.extent.start)
    }
}

/// Joins what overlaps. A run that has grown too long is cut where a secret begins that covers the rest of it.
fn into_runs(mut secrets: Vec<Secret>) -> Vec<Run> {
    secrets.sort_by_key(|secret| (secret.anchor, secret.end));
    let mut runs: Vec<Run> = Vec::new();
    for secret in secrets {
        match runs.last_mut() {
            Some(run) if secret.anchor < run.extent.end => {
                let long = secret.anchor - run.extent.start >= LONGEST_RUN;
                if long && secret.mask == secret.anchor && secret.end >= run.extent.end {
                    run.end_at(secret.anchor);
                    runs.push(Run::of(&secret));
                } else {
                    run.extent.end = run.extent.end.max(secret.end);
                    run.masks.push(secret.mask..secret.end);
                }
            }
            _ => runs.push(Run::of(&secret)),
        }
    }
    for run in &mut runs {
        run.join_masks();
    }
    runs
}

impl Run {
    fn of(secret: &Secret) -> Self {
        Self { extent: secret.anchor..secret.end, masks: std::iter::once(secret.mask..secret.end).collect() }
    }

    fn end_at(&mut self, end: usize) {
        self.extent.end = end;
        self.masks.retain(|mask| mask.start < end);
        for mask in &mut self.masks {
            mask.end = mask.end.min(end);
        }
    }

    fn join_masks(&mut self) {
        self.masks.sort_by_key(|mask| mask.start);
        self.masks.dedup_by(|next, last| {
            let joined = next.start < last.end;
            if joined {
                last.end = last.end.max(next.end);
            }
            joined
        });
    }
}
