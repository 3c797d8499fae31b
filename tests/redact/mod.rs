//! What the redactor masks, what it leaves alone, and that borders make no difference.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod borders;
mod shapes;

use sawmill::redact::Redactor;

/// Redacts a text and gives it back as text.
fn redacted(secrets: &[&str], text: &str) -> String {
    String::from_utf8_lossy(&Redactor::new(secrets).redact(text.as_bytes())).into_owned()
}
