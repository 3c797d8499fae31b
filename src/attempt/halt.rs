//! Why a pipeline does not go on, and what class of outcome that is.

use std::any::Any;

use super::stop::StopReason;
use crate::git::GitError;
use crate::job::{Outcome, OutcomeClass};
use crate::sandbox::SandboxError;
use crate::store::StoreError;

/// The end of a pipeline that delivered nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Halt {
    /// It failed.
    Failed(Outcome),
    /// It was told to stop.
    Stopped(StopReason),
}

impl Halt {
    pub(super) fn failed(class: OutcomeClass, message: impl Into<String>) -> Self {
        Self::Failed(Outcome::new(class, message))
    }

    pub(super) fn infrastructure(what: &str, error: &dyn std::error::Error) -> Self {
        Self::failed(OutcomeClass::Infrastructure, format!("{what}: {}", chain(error)))
    }

    /// What a panic in the pipeline is: ours, not the job's.
    pub(super) fn panicked(panic: &(dyn Any + Send)) -> Self {
        let what = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".to_owned());
        Self::failed(OutcomeClass::Infrastructure, format!("the worker panicked: {what}; please report it as a defect"))
    }

    /// Why, in words.
    pub(super) fn why(&self) -> String {
        self.outcome().map_or_else(|| "the claim is lost".to_owned(), |outcome| outcome.message)
    }

    /// The outcome to put on record; none where nothing may be written.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::Failed(outcome) => Some(outcome.clone()),
            Self::Stopped(StopReason::Cancelled(why)) => Some(Outcome::new(OutcomeClass::Cancelled, why.clone())),
            Self::Stopped(StopReason::Requeued(why)) => Some(Outcome::new(OutcomeClass::Released, why.clone())),
            Self::Stopped(StopReason::Shutdown) => {
                Some(Outcome::new(OutcomeClass::Released, "the worker was stopped and gave the job back"))
            }
            Self::Stopped(StopReason::LeaseLost) => None,
        }
    }
}

/// An error with its causes, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

impl From<GitError> for Halt {
    fn from(error: GitError) -> Self {
        Self::failed(error.class(), chain(&error))
    }
}

impl From<SandboxError> for Halt {
    fn from(error: SandboxError) -> Self {
        Self::failed(OutcomeClass::Infrastructure, chain(&error))
    }
}

impl From<StoreError> for Halt {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::LeaseLost => Self::Stopped(StopReason::LeaseLost),
            other => Self::failed(OutcomeClass::Infrastructure, chain(&other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_infrastructures_fault_and_says_what_it_was() {
        let check = |panic: Box<dyn Any + Send>, expected: &str| {
            let outcome = Halt::panicked(&*panic).outcome().expect("it goes on record");
            assert_eq!((outcome.class, outcome.message.as_str()), (OutcomeClass::Infrastructure, expected));
        };
        check(Box::new("index out of bounds"), "the worker panicked: index out of bounds; please report it as a defect");
        check(Box::new("owned".to_owned()), "the worker panicked: owned; please report it as a defect");
        check(Box::new(7), "the worker panicked: no message; please report it as a defect");
    }

    #[test]
    fn nothing_goes_on_record_once_the_lease_is_lost() {
        assert_eq!(Halt::Stopped(StopReason::LeaseLost).outcome(), None);
        let released = Halt::Stopped(StopReason::Shutdown).outcome().expect("it goes on record");
        assert_eq!(released.class, OutcomeClass::Released);
    }
}
