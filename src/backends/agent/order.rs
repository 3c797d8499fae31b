//! The document by which the program in the slot knows what to run.

use serde::{Deserialize, Serialize};

use crate::backends::config::Kind;
use crate::job::budget::MicroUsd;
use crate::job::completion::Usage;

/// What to run, complete: nothing of the configuration is read within the slot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// The backend's name, for what is said.
    pub backend: String,
    /// Its kind.
    pub kind: Kind,
    /// The program and its first arguments, where it is not the usual one.
    pub command: Vec<String>,
    /// The model.
    pub model: Option<String>,
    /// The base URL of the model's server.
    pub endpoint: Option<String>,
    /// Further arguments.
    pub extra_args: Vec<String>,
    /// The session to go on with.
    pub session: Option<String>,
    /// What that has used of a model.
    pub session_usage: Option<Usage>,
    /// Whether a last message that is a question is one.
    #[serde(default)]
    pub questions: bool,
    /// What it may cost before it is ended, where a budget says that.
    #[serde(default)]
    pub cost_left: Option<MicroUsd>,
    /// What it is told.
    pub prompt: String,
}

impl Order {
    /// The beginning of the command line.
    pub(in crate::backends) fn program(&self, usual: &str) -> Vec<String> {
        if self.command.is_empty() { vec![usual.to_owned()] } else { self.command.clone() }
    }
}
