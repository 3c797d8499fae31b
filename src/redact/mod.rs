//! Takes secrets out of byte streams: values that are known, and the shapes that tokens have.
//!
//! The one rule: what is masked depends on the text alone, never on where a read happened to cut it. A byte leaves a
//! [`RedactStream`] only when nothing that follows can still make it part of a secret.
//!
//! One pass of an automaton over short anchors (the first bytes of every known secret in all its forms, and the
//! prefixes of the shapes) finds the places worth a look; only there is anything compared. Which values are secret is
//! decided elsewhere, and so is what happens to the text.

mod forms;
mod private_key;
mod scan;
mod shapes;
mod stream;

use std::fmt;
use std::sync::Arc;

pub use stream::RedactStream;

/// What stands in the place of a secret, whatever it was.
pub const MARK: &[u8] = b"[redacted]";

/// Known secrets shorter than this many bytes are not looked for: they would be found everywhere.
pub const SHORTEST_SECRET: usize = 6;

/// The longest text that a shape covers. A known secret may be longer.
pub const LONGEST_SHAPE: usize = 16 * 1024;

/// Knows the secrets. Made once, shared by every stream that they are to be kept out of; cloning is cheap.
#[derive(Clone)]
pub struct Redactor {
    scanner: Arc<scan::Scanner>,
}

impl Redactor {
    /// Prepares for these secret values, each of which is also found in base64 (at any alignment, in both alphabets,
    /// wrapped or not), URL-encoded, JSON-escaped and in hexadecimal, and line by line when it has several.
    ///
    /// White space around a value does not count. A value shorter than [`SHORTEST_SECRET`] is ignored.
    #[must_use]
    pub fn new<I>(secrets: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<[u8]>,
    {
        let mut literals = Vec::new();
        for secret in secrets {
            forms::of_secret(secret.as_ref(), &mut literals);
        }
        Self { scanner: Arc::new(scan::Scanner::new(literals)) }
    }

    /// Redacts a text that is there as a whole.
    #[must_use]
    pub fn redact(&self, text: &[u8]) -> Vec<u8> {
        let mut stream = RedactStream::new(self);
        let mut out = Vec::with_capacity(text.len());
        stream.push(text, &mut out);
        stream.finish(&mut out);
        out
    }

    /// As [`Redactor::redact`], of text that stays text.
    #[must_use]
    pub fn redact_text(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.redact(text.as_bytes())).into_owned()
    }

    /// How many bytes before a place can matter to what is masked after it: the longest secret or shape.
    #[must_use]
    pub fn reach(&self) -> usize {
        self.scanner.longest_literal().max(LONGEST_SHAPE)
    }
}

impl fmt::Debug for Redactor {
    /// Says how many forms it knows, and none of them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redactor").field("forms", &self.scanner.literals()).finish_non_exhaustive()
    }
}
