//! Space on a disk: room for bytes, and inodes, of which many filesystems have only so many.
//!
//! The one rule: neither makes up for the other. Who lacks one of them lacks space, however much of the other there is.

use std::fmt;

use bytesize::ByteSize;
use serde::Serialize;

/// Bytes and inodes: what something takes, what is free, or what is lacking.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Space {
    /// Bytes.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

impl Space {
    /// That many bytes, and no inodes.
    #[must_use]
    pub const fn of_bytes(bytes: u64) -> Self {
        Self { bytes, inodes: 0 }
    }

    /// Whether it is none of either.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.bytes == 0 && self.inodes == 0
    }

    /// Both together.
    #[must_use]
    pub const fn and(self, more: Self) -> Self {
        Self { bytes: self.bytes.saturating_add(more.bytes), inodes: self.inodes.saturating_add(more.inodes) }
    }

    /// What of it `part` leaves.
    #[must_use]
    pub const fn without(self, part: Self) -> Self {
        Self { bytes: self.bytes.saturating_sub(part.bytes), inodes: self.inodes.saturating_sub(part.inodes) }
    }
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = ByteSize(self.bytes);
        match *self {
            Self { inodes: 0, .. } => write!(f, "{bytes}"),
            Self { bytes: 0, inodes } => write!(f, "{inodes} inodes"),
            Self { inodes, .. } => write!(f, "{bytes} and {inodes} inodes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_makes_up_for_the_other() {
        let lacking = Space { bytes: 1 << 20, inodes: 7 };
        assert_eq!(lacking.without(Space::of_bytes(1 << 30)), Space { bytes: 0, inodes: 7 });
        assert!(!lacking.without(Space::of_bytes(1 << 30)).is_none());
        let check = |bytes: u64, inodes: u64, expected: &str| assert_eq!(Space { bytes, inodes }.to_string(), expected);
        check(1 << 20, 7, "1.0 MiB and 7 inodes");
        check(1 << 20, 0, "1.0 MiB");
        check(0, 7, "7 inodes");
        check(0, 0, "0 B");
    }
}
