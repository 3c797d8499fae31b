//! The one integration binary.

mod redact;
mod store;
