//! The one integration binary.

mod logs;
mod redact;
mod store;
