//! Asking a model about the commit that is to be delivered: what it is told, over which protocol, and what counts as an answer.
//!
//! The one rule: only an answer in the very form that was asked for judges. Whatever else comes back (nothing, an error, prose) is a
//! reason for not having judged, and is told as that. What becomes of a verdict is the attempt's affair.

mod answer;
mod ask;
mod config;
mod prompt;
mod protocol;

pub use ask::{Asked, Critic, CriticError, Critics, Judged};
pub use config::{CriticConfig, Kind, Price};
pub use prompt::Question;
