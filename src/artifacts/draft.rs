//! Copying what is to be kept out of the job's reach, with its secrets taken out.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::tree::Refusal;
use crate::job::artifact::content_type;
use crate::redact::{RedactStream, Redactor};

/// How much is read at once. Whether a file is text is told by the first of it.
const PIECE: usize = 64 * 1024;

/// A copy that is ready to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// Its size, in bytes.
    pub bytes: u64,
    /// Its SHA-256, in hexadecimal digits.
    pub sha256: String,
    /// Its media type.
    pub content_type: &'static str,
    /// Whether secrets were taken out.
    pub redacted: bool,
}

/// Copies a file to `to`, in place of what is there. Of a text the secrets are taken out, as they are of the log: a file without a NUL
/// byte at its beginning is text. `limit` is how many bytes there may be, and what limits that. Blocks.
///
/// # Errors
/// It is too large, cannot be read, or is not text and has a secret in it.
pub fn draft(
    mut from: impl Read,
    to: &Path,
    name: &str,
    limit: (u64, &'static str),
    redactor: &Redactor,
) -> Result<Draft, Refusal> {
    let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(to)?;
    let mut piece = vec![0; PIECE];
    let (mut stream, mut masked) = (RedactStream::new(redactor), Vec::new());
    let (mut before, mut after) = (Sha256::new(), Sha256::new());
    let (mut read, mut written, mut text) = (0, 0, None);
    loop {
        let length = match from.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        let raw = &piece[..length];
        read += length as u64;
        if read > limit.0 {
            return Err(Refusal::TooLarge { bytes: read, limit: limit.0, of: limit.1 });
        }
        let text = *text.get_or_insert(!raw.contains(&0));
        masked.clear();
        if length == 0 {
            stream.finish(&mut masked)
        } else {
            stream.push(raw, &mut masked)
        }
        before.update(raw);
        after.update(&masked);
        let kept = if text { masked.as_slice() } else { raw };
        out.write_all(kept)?;
        written += kept.len() as u64;
        if length == 0 {
            break;
        }
    }
    let (before, after) = (hex(&before.finalize()), hex(&after.finalize()));
    let (text, redacted) = (text.unwrap_or(true), before != after);
    if redacted && !text {
        return Err(Refusal::Secret);
    }
    Ok(Draft { bytes: written, sha256: after, content_type: content_type(name, text), redacted })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn check(contents: &[u8], limit: u64, expected: Result<(&[u8], bool), &str>) {
        let dir = tempfile::tempdir().expect("a directory");
        let to = dir.path().join("draft");
        let redactor = Redactor::new(["correct-horse"]);
        match (draft(contents, &to, "a.txt", (limit, "x"), &redactor), expected) {
            (Ok(made), Ok((kept, redacted))) => {
                assert_eq!(fs::read(&to).expect("written"), kept);
                assert_eq!((made.bytes, made.redacted), (kept.len() as u64, redacted));
                assert_eq!(made.sha256, hex(&Sha256::digest(kept)));
            }
            (Err(refusal), Err(text)) => assert_eq!(refusal.to_string(), text),
            (made, expected) => panic!("{made:?} is not {expected:?}"),
        }
    }

    #[test]
    fn secrets_are_taken_out_of_text_and_nothing_is_longer_than_its_limit() {
        check(b"one two", 7, Ok((b"one two", false)));
        check(b"", 7, Ok((b"", false)));
        check(b"a correct-horse b", 99, Ok((b"a [redacted] b", true)));
        check(b"one two", 6, Err("it has 7 bytes or more, and 6 are left of x"));
        check(b"\0\x01\x02", 99, Ok((b"\0\x01\x02", false)));
        check(b"\0 correct-horse b", 99, Err("it is not text and has a secret in it, which cannot be taken out"));
        let long = [b"x".repeat(PIECE - 4).as_slice(), b"correct-horse"].concat();
        check(&long, 1 << 20, Ok(([b"x".repeat(PIECE - 4).as_slice(), b"[redacted]"].concat().as_slice(), true)));
    }
}
