//! The arguments of `completions`, by which an integrator takes what was delivered.

use std::time::Duration;

use clap::Subcommand;

use crate::clock::human;
use crate::ids::{ClaimToken, CompletionId, JobId};
use crate::job::CompletionState;

fn parse_completion_state(text: &str) -> Result<CompletionState, String> {
    let known = CompletionState::ALL.into_iter().find(|state| state.as_str() == text);
    known.ok_or_else(|| "there are pending, claimed, acked and dead".to_owned())
}

/// The commands of `completions`.
#[derive(Debug, Clone, Subcommand)]
pub enum CompletionsCommand {
    /// List completions, newest first
    List {
        /// Only those in this state: pending, claimed, acked or dead
        #[arg(long, value_name = "STATE", value_parser = parse_completion_state)]
        state: Option<CompletionState>,
        /// Only that of this job
        #[arg(long, value_name = "ID")]
        job: Option<JobId>,
        /// How many at most
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: u32,
    },
    /// Take the oldest pending completions under a lease
    Claim {
        /// Who takes them
        #[arg(long, value_name = "NAME")]
        consumer: String,
        /// How many at most
        #[arg(long, value_name = "N", default_value_t = 1)]
        limit: u32,
        /// For how long [default: as configured]
        #[arg(long, value_name = "DURATION", value_parser = human::parse)]
        lease: Option<Duration>,
        /// Only those of this project
        #[arg(long, value_name = "PROJECT")]
        project: Option<String>,
        /// Only those of this repository, as `completions list` has it
        #[arg(long, value_name = "REPO")]
        repo: Option<String>,
        /// Wait until there is one, at most for this long where it is given
        #[arg(long, value_name = "DURATION", num_args = 0..=1, value_parser = human::parse)]
        wait: Option<Option<Duration>>,
    },
    /// Bring completions back that were set aside as dead
    Requeue {
        /// Which
        #[arg(value_name = "ID", required = true)]
        ids: Vec<CompletionId>,
    },
    /// Say that a completion is done with
    Ack(Held),
    /// Give a completion back
    Nack {
        /// Which
        #[command(flatten)]
        held: Held,
        /// Why
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Not again before this long
        #[arg(long, value_name = "DURATION", value_parser = human::parse, conflicts_with = "dead")]
        retry_after: Option<Duration>,
        /// Refuse it for good
        #[arg(long)]
        dead: bool,
    },
    /// Hold a completion for longer
    Renew {
        /// Which
        #[command(flatten)]
        held: Held,
        /// For how long from now [default: as configured]
        #[arg(long, value_name = "DURATION", value_parser = human::parse)]
        lease: Option<Duration>,
    },
}

/// A completion that is held.
#[derive(Debug, Clone, clap::Args)]
pub struct Held {
    /// The completion
    pub id: CompletionId,
    /// The token that claiming it gave
    #[arg(long, value_name = "TOKEN")]
    pub token: ClaimToken,
}
