//! Jobs by the dozen, on real repositories, over several workers; and the harness that other proofs with daemons use.
#![expect(clippy::unwrap_used, reason = "what cannot be prepared has failed")]

pub(crate) mod host;
pub(crate) mod remote;
