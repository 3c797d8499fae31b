//! The shape of a private key block: PEM or PGP, with real line ends, with `\n` in their place, or with blanks.

use super::shapes::{Candidate, Hold, More, Verdict, run};

const LONGEST_LABEL: usize = 48;
const LONGEST_HEADER_LINE: usize = 200;
const END: &[u8] = b"-----END ";

/// A body begins with a word at least this long, and goes on with such words but for the last: prose does not.
const LONG_WORD: usize = 32;

/// Looks at what follows `-----BEGIN `. When the end mark is missing, everything up to the last line that can belong to
/// the key is secret.
pub(super) fn judge(candidate: &Candidate<'_>, body: usize) -> Verdict {
    let text = candidate.text;
    let open = |at: usize| at >= text.len() && candidate.more == More::MayFollow;
    let label = run(text, body, LONGEST_LABEL, |byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b' ');
    let dashes = run(text, label, 5, |byte| byte == b'-');
    if open(dashes) {
        return Verdict::Open(Hold::Weak);
    }
    let name = &text[body..label];
    if dashes - label != 5 || !(name.ends_with(b"PRIVATE KEY") || name.ends_with(b"PRIVATE KEY BLOCK")) {
        return Verdict::Clean;
    }
    let limit = candidate.at + super::LONGEST_SHAPE;
    let (mut at, mut end) = (skip_headers(text, dashes), None);
    if open(header_name(text, at)) {
        return Verdict::Open(Hold::Weak);
    }
    loop {
        at = skip_separators(text, at);
        let word = run(text, at, super::LONGEST_SHAPE, |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'='));
        if open(word) && word < limit {
            return Verdict::Open(if end.is_some() || word - at >= super::SHORTEST_SECRET { Hold::Strong } else { Hold::Weak });
        }
        let length = word - at;
        if length > 0 && (end.is_some() || length >= LONG_WORD) {
            end = Some(word.min(limit));
            at = word;
        }
        if length < LONG_WORD || word >= limit {
            break;
        }
    }
    let Some(end) = end else { return Verdict::Clean };
    let closing = skip_separators(text, at);
    let present = text[closing..].iter().zip(END).take_while(|(a, b)| a == b).count();
    let tail = run(text, closing + present, LONGEST_LABEL, |byte| byte.is_ascii_uppercase() || byte == b' ' || byte == b'-');
    if open(closing + present) || (present == END.len() && open(tail)) {
        return Verdict::Open(Hold::Strong);
    }
    Verdict::Secret { mask: candidate.at, end: if present == END.len() { tail } else { end } }
}

/// Passes over `Proc-Type: 4,ENCRYPTED` and the like.
fn skip_headers(text: &[u8], from: usize) -> usize {
    let mut at = from;
    loop {
        let colon = header_name(text, at);
        if colon == at || text.get(colon) != Some(&b':') {
            return at;
        }
        at = run(text, colon, LONGEST_HEADER_LINE, |byte| byte != b'\n' && byte != b'\\');
    }
}

/// Where the header's name that follows ends.
fn header_name(text: &[u8], from: usize) -> usize {
    run(text, skip_separators(text, from), 40, |byte| byte.is_ascii_alphabetic() || byte == b'-')
}

/// Passes over white space, and over `\n`, `\r` and `\t` with any number of backslashes. A backslash at the very end is
/// passed over too, since what follows may make it one of these.
fn skip_separators(text: &[u8], from: usize) -> usize {
    let mut at = from;
    loop {
        at = run(text, at, usize::MAX - at, |byte| byte.is_ascii_whitespace());
        let slashes = run(text, at, 8, |byte| byte == b'\\');
        if slashes == at {
            return at;
        }
        match text.get(slashes) {
            Some(b'n' | b'r' | b't') => at = slashes + 1,
            Some(_) => return at,
            None => return slashes,
        }
    }
}
