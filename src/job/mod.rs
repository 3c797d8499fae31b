//! What a job is: its specification, its states and ends, and the rules about them.
//!
//! Everything here is pure: no I/O, no clock of its own, no randomness. Storing, running and delivering are elsewhere.

pub mod artifact;
pub mod attempt;
pub mod branch;
pub mod budget;
pub mod check;
pub mod checks;
pub mod claim;
pub mod completion;
pub mod counts;
pub mod coverage;
pub mod critique;
pub mod deadline;
pub mod explain;
pub mod forecast;
pub mod globs;
pub mod label;
pub mod log;
pub mod message;
pub mod outcome;
pub mod pause;
pub mod record;
pub mod rejection;
pub mod retry;
pub mod schedule;
pub mod spec;
pub mod stage;
pub mod state;
pub mod time_limit;
pub mod worker_record;

pub use artifact::{Artifact, ArtifactKind, ArtifactState, ArtifactWish, DeliveredArtifact, KeptObject};
pub use attempt::{AttemptRecord, StageRecord};
pub use branch::{BranchName, BranchTemplate};
pub use claim::{Answer, Claim, ClaimedJob, PreviousAttempt};
pub use completion::{Completion, CompletionEntry, CompletionState, DiffSummary, FileChange, GateEvidence};
pub use coverage::{Coverage, CoverageWish};
pub use critique::{Critique, CritiqueVerdict};
pub use deadline::Deadline;
pub use explain::Explanation;
pub use forecast::Forecast;
pub use globs::Globs;
pub use label::{Label, LabelError};
pub use log::{LogChunk, LogVerdict, Stream};
pub use outcome::{Outcome, OutcomeClass};
pub use pause::{LimitMet, Pause, PausePolicy};
pub use record::Job;
pub use rejection::Rejection;
pub use retry::{NextStep, RetryFrom, RetryPolicy};
pub use schedule::{AfterFailure, Concurrency, Hold};
pub use spec::JobSpec;
pub use stage::Stage;
pub use state::JobState;
pub use time_limit::TimeLimit;
