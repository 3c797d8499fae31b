//! The shapes that tokens have: what follows an anchor, and how much of it is secret.
//!
//! Every shape needs more than its anchor, so that ordinary words that begin alike are left alone.

use super::private_key;

/// A place in a text where a shape may begin.
pub(super) struct Candidate<'a> {
    /// The text so far.
    pub text: &'a [u8],
    /// Where the anchor begins.
    pub at: usize,
    /// Whether more may follow.
    pub more: More,
}

/// Whether a text may still go on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum More {
    /// It may.
    MayFollow,
    /// This is all.
    No,
}

/// What a look at a candidate says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing secret.
    Clean,
    /// The bytes from `mask` to `end` are secret.
    Secret { mask: usize, end: usize },
    /// It depends on what follows.
    Open(Hold),
}

/// How much an open candidate already gives away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hold {
    /// Next to nothing: it may be let go when nothing follows for a while.
    Weak,
    /// Part of a secret: it is held until it is known.
    Strong,
}

/// The shapes, by what follows the anchor.
pub(super) enum Shape {
    /// A prefix and a run of characters.
    Token(Token),
    /// Three runs of base64url with dots between, of which the first begins with `{"`.
    Jwt,
    /// A header with a scheme and a value: the value is secret.
    Authorization,
    /// `user:password@` in a URL: the password is secret.
    Userinfo,
    /// A PEM or PGP block.
    PrivateKey,
}

/// A prefix and a run of characters.
pub(super) struct Token {
    before: Before,
    body: fn(u8) -> bool,
    shortest: usize,
    longest: usize,
    proof: fn(&[u8]) -> bool,
}

/// What may stand before an anchor.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// Anything: the anchor and its body are unmistakable.
    Anything,
    /// No character of a word, hyphen included: `task-` is no `sk-`.
    NoWord,
}

const fn token(before: Before, body: fn(u8) -> bool, shortest: usize, longest: usize, proof: fn(&[u8]) -> bool) -> Shape {
    Shape::Token(Token { before, body, shortest, longest, proof })
}

/// Anchors and shapes. Lengths and alphabets are those that the issuers document or were seen to issue; upper bounds
/// leave room for longer ones.
pub(super) const SHAPES: &[(&[u8], Shape)] = &[
    (b"ghp_", token(Before::Anything, alphanumeric, 36, 255, any)),
    (b"gho_", token(Before::Anything, alphanumeric, 36, 255, any)),
    (b"ghs_", token(Before::Anything, alphanumeric, 36, 255, any)),
    (b"ghu_", token(Before::Anything, alphanumeric, 36, 255, any)),
    (b"ghr_", token(Before::Anything, alphanumeric, 36, 255, any)),
    (b"github_pat_", token(Before::Anything, word, 40, 255, has_digit)),
    (b"glpat-", token(Before::Anything, base64url, 20, 300, has_digit)),
    (b"sk-", token(Before::NoWord, alphanumeric, 20, 255, has_digit_and_letter)),
    (b"sk-ant-", token(Before::NoWord, base64url, 24, 400, has_digit)),
    (b"sk-proj-", token(Before::NoWord, base64url, 24, 400, has_digit)),
    (b"sk-svcacct-", token(Before::NoWord, base64url, 24, 400, has_digit)),
    (b"sk-admin-", token(Before::NoWord, base64url, 24, 400, has_digit)),
    (b"sk-or-v1-", token(Before::NoWord, base64url, 24, 400, has_digit)),
    (b"sk_live_", token(Before::NoWord, alphanumeric, 20, 255, any)),
    (b"rk_live_", token(Before::NoWord, alphanumeric, 20, 255, any)),
    (b"npm_", token(Before::NoWord, alphanumeric, 36, 36, has_digit)),
    (b"AKIA", token(Before::NoWord, base32, 16, 16, any)),
    (b"ASIA", token(Before::NoWord, base32, 16, 16, any)),
    (b"xoxb-", token(Before::NoWord, alphanumeric_hyphen, 16, 255, has_digit)),
    (b"xoxa-", token(Before::NoWord, alphanumeric_hyphen, 16, 255, has_digit)),
    (b"xoxp-", token(Before::NoWord, alphanumeric_hyphen, 16, 255, has_digit)),
    (b"xoxr-", token(Before::NoWord, alphanumeric_hyphen, 16, 255, has_digit)),
    (b"xoxs-", token(Before::NoWord, alphanumeric_hyphen, 16, 255, has_digit)),
    (b"eyJ", Shape::Jwt),
    (b"uthorization", Shape::Authorization),
    (b"UTHORIZATION", Shape::Authorization),
    (b"://", Shape::Userinfo),
    (b"-----BEGIN ", Shape::PrivateKey),
];

impl Shape {
    /// Looks at a candidate whose anchor of `anchor` bytes is there.
    pub(super) fn judge(&self, candidate: &Candidate<'_>, anchor: usize) -> Verdict {
        if !self.may_stand_after(candidate.text, candidate.at) {
            return Verdict::Clean;
        }
        let body = candidate.at + anchor;
        match self {
            Self::Token(token) => token.judge(candidate, body),
            Self::Jwt => judge_jwt(candidate),
            Self::Authorization => judge_authorization(candidate, body),
            Self::Userinfo => judge_userinfo(candidate, body),
            Self::PrivateKey => private_key::judge(candidate, body),
        }
    }

    /// Whether what stands before `at` allows an anchor there.
    pub(super) fn may_stand_after(&self, text: &[u8], at: usize) -> bool {
        match self {
            Self::Token(Token { before: Before::NoWord, .. }) | Self::Jwt => !follows_a_word(text, at),
            Self::Userinfo => at > 0 && (text[at - 1].is_ascii_alphanumeric() || matches!(text[at - 1], b'+' | b'.' | b'-')),
            Self::Token(_) | Self::Authorization | Self::PrivateKey => true,
        }
    }
}

impl Token {
    fn judge(&self, candidate: &Candidate<'_>, body: usize) -> Verdict {
        // One more than the longest, to see whether a token of fixed length ends there.
        let end = run(candidate.text, body, self.longest + 1, self.body);
        let length = end - body;
        if end == candidate.text.len() && candidate.more == More::MayFollow && length <= self.longest {
            return Verdict::Open(strength(length));
        }
        let fixed = self.shortest == self.longest;
        let fits = length >= self.shortest && (!fixed || length == self.longest);
        if fits && (self.proof)(&candidate.text[body..end]) {
            Verdict::Secret { mask: candidate.at, end }
        } else {
            Verdict::Clean
        }
    }
}

/// The longest JSON web token that is recognised: more than any server takes in a header.
const LONGEST_JWT: usize = super::LONGEST_SHAPE;
const SHORTEST_JWT_PART: usize = 10;

fn judge_jwt(candidate: &Candidate<'_>) -> Verdict {
    let limit = candidate.at + LONGEST_JWT;
    let mut from = candidate.at;
    for part in 0..3 {
        let end = run(candidate.text, from, limit.saturating_sub(from), base64url);
        if end == candidate.text.len() && end < limit && candidate.more == More::MayFollow {
            return Verdict::Open(strength(end - candidate.at));
        }
        if end - from < SHORTEST_JWT_PART && end < limit {
            return Verdict::Clean;
        }
        if part == 2 || (part == 1 && end == limit) {
            return Verdict::Secret { mask: candidate.at, end };
        }
        if candidate.text.get(end) != Some(&b'.') {
            return Verdict::Clean;
        }
        from = end + 1;
    }
    Verdict::Clean
}

const LONGEST_HEADER_VALUE: usize = 8 * 1024;

/// `: Bearer …`, also within quotes, as in JSON, and escaped, as in JSON in JSON.
fn judge_authorization(candidate: &Candidate<'_>, body: usize) -> Verdict {
    let text = candidate.text;
    let colon = run(text, body, 8, |byte| matches!(byte, b' ' | b'"' | b'\'' | b'\\'));
    let scheme = if matches!(text.get(colon), Some(b':' | b'=' | b',')) {
        run(text, colon + 1, 8, |byte| matches!(byte, b' ' | b'"' | b'\'' | b'\\'))
    } else {
        colon
    };
    let space = run(text, scheme, 8, |byte| byte.is_ascii_alphabetic());
    let value = run(text, space, 8, |byte| byte == b' ');
    let end = run(text, value, LONGEST_HEADER_VALUE, |byte| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'~' | b'+' | b'/' | b'=' | b'-')
    });
    let known = ["bearer", "basic", "token"].iter().any(|name| name.as_bytes().eq_ignore_ascii_case(&text[scheme..space]));
    if (scheme == colon && colon < text.len()) || (!known && space < text.len()) {
        return Verdict::Clean;
    }
    if end == text.len() && candidate.more == More::MayFollow && end - value < LONGEST_HEADER_VALUE {
        let length = if known && value > space { end - value } else { 0 };
        return Verdict::Open(strength(length));
    }
    let secret = &text[value..end];
    let telling = (secret.len() >= 8 && has_digit(secret)) || secret.len() >= 24;
    if known && value > space && telling { Verdict::Secret { mask: value, end } } else { Verdict::Clean }
}

const LONGEST_USERINFO: usize = 1024;

/// A password, or a user name that looks like a token. What follows an image's tag (`:3.19@sha256:…`) is neither.
fn judge_userinfo(candidate: &Candidate<'_>, body: usize) -> Verdict {
    let end = run(candidate.text, body, LONGEST_USERINFO, |byte| {
        !byte.is_ascii_whitespace()
            && !byte.is_ascii_control()
            && !matches!(byte, b'/' | b'?' | b'#' | b'"' | b'\'' | b'<' | b'>' | b'`' | b'\\')
    });
    let authority = &candidate.text[body..end];
    let colon = authority.iter().position(|byte| *byte == b':');
    if end == candidate.text.len() && candidate.more == More::MayFollow && authority.len() < LONGEST_USERINFO {
        let port = colon.is_none_or(|colon| authority[colon + 1..].iter().all(u8::is_ascii_digit));
        return Verdict::Open(if port && authority.len() < 20 { Hold::Weak } else { Hold::Strong });
    }
    let Some(at) = authority.iter().rposition(|byte| *byte == b'@') else { return Verdict::Clean };
    if authority[at + 1..].starts_with(b"sha256:") {
        return Verdict::Clean;
    }
    match colon.filter(|colon| *colon < at) {
        Some(colon) if colon + 1 < at => Verdict::Secret { mask: body + colon + 1, end: body + at },
        None if at >= 20 && has_digit_and_letter(&authority[..at]) => Verdict::Secret { mask: body, end: body + at },
        _ => Verdict::Clean,
    }
}

/// Where the run of bytes of a class that begins at `from` ends, looking at no more than `longest` of them.
pub(super) fn run(text: &[u8], from: usize, longest: usize, class: impl Fn(u8) -> bool) -> usize {
    let from = from.min(text.len());
    let window = &text[from..text.len().min(from + longest)];
    from + window.iter().position(|byte| !class(*byte)).unwrap_or(window.len())
}

/// How strongly to hold on to what shows this many bytes of a secret.
pub(super) fn strength(shown: usize) -> Hold {
    if shown < super::SHORTEST_SECRET { Hold::Weak } else { Hold::Strong }
}

/// Whether the byte before `at` belongs to a word, rather than to an escape such as `\n` or `%3D`.
fn follows_a_word(text: &[u8], at: usize) -> bool {
    let before = &text[..at];
    let Some(last) = before.last() else { return false };
    let escaped = matches!(before, [.., b'\\', b'n' | b'r' | b't'])
        || matches!(before, [.., b'%', a, b] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit());
    base64url(*last) && !escaped
}

/// How many bytes before a place [`follows_a_word`] and its like look at.
pub(super) const LOOK_BEHIND: usize = 3;

fn alphanumeric(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

fn alphanumeric_hyphen(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-'
}

fn word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn base64url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

fn base32(byte: u8) -> bool {
    byte.is_ascii_uppercase() || (b'2'..=b'7').contains(&byte)
}

fn any(_: &[u8]) -> bool {
    true
}

fn has_digit(text: &[u8]) -> bool {
    text.iter().any(u8::is_ascii_digit)
}

fn has_digit_and_letter(text: &[u8]) -> bool {
    has_digit(text) && text.iter().any(u8::is_ascii_alphabetic)
}
