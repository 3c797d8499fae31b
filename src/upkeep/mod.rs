//! `sawmill reconcile`, `gc` and `disk`: what a worker has on its host, as a person sees it and has it removed.
//!
//! What is whose, and what may go, is worked out by the worker; here is only how it is asked and shown.

mod disk;
mod reconcile;

pub use disk::disk;
pub use reconcile::{gc, reconcile};
