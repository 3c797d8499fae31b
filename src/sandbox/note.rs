//! What a supervisor says in its own log, which is its standard error.
//!
//! The one rule: nothing ends because it cannot be said. The macros of the standard library panic when standard error cannot be
//! written, and it cannot on a full disk, where a supervisor is needed most.

use std::fmt::Display;
use std::io::Write as _;

/// Says a line.
pub(super) fn note(line: impl Display) {
    // There is nowhere left to say that this failed.
    drop(writeln!(std::io::stderr(), "{line}"));
}
