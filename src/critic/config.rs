//! `[critics.X]` of the configuration.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use crate::clock::human;

/// A model that is asked about commits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CriticConfig {
    /// How its server is spoken to.
    pub kind: Kind,
    /// The model, by the server's name for it.
    pub model: String,
    /// The base URL of the server; the provider's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Url>,
    /// The name of the variable of the worker's environment that has the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The file that has the key, instead of a variable; it is read each time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// How long asking may take, with a second try, within the attempt's deadline; two minutes when absent.
    #[serde(default, with = "human::option", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// The least score that passes, of 100; any will do when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_score: Option<u8>,
    /// Whether nothing is delivered that it did not judge.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    /// What it is to look for beside what every critic is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// What its tokens cost, for budgets; a server that says what an answer has cost is believed before this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
}

/// What a million tokens cost, in US dollars.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Read.
    pub prompt_usd: f64,
    /// Written.
    pub completion_usd: f64,
}

/// How a server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// As OpenAI's chat completions, which many servers have: `ENDPOINT/chat/completions`.
    #[serde(rename = "openai")]
    OpenAi,
    /// As Anthropic's messages: `ENDPOINT/v1/messages`.
    Anthropic,
}

impl Kind {
    /// The provider's own server.
    pub(super) const fn usual_endpoint(self) -> &'static str {
        match self {
            Self::OpenAi => "https://api.openai.com/v1",
            Self::Anthropic => "https://api.anthropic.com",
        }
    }
}
