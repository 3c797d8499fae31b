//! `sawmill reconcile`: what of a worker's host nobody needs any more, as a person sees it and has it removed.
//!
//! What is whose, and what may go, is worked out by the worker; here is only how it is asked and shown.

mod reconcile;

pub use reconcile::reconcile;
