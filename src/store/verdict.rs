//! What a request to change a job's fate does, by the job as it is. Pure.
//!
//! The one rule: a request that finds what it asks for changes nothing and is no mistake; one that can do nothing says why.

use super::limits::{Limited, UnderLimits};
use super::types::{Change, StopRequest};
use crate::ids::{AttemptNo, JobId};
use crate::job::{JobState, Outcome, OutcomeClass};

/// A job as its fate is decided by.
#[derive(Debug, Clone)]
pub(super) struct Fate {
    pub(super) id: JobId,
    pub(super) state: JobState,
    pub(super) held: Option<String>,
    pub(super) attempt: Option<AttemptNo>,
    pub(super) cancel_asked: Asked,
    pub(super) requeue_asked: Asked,
    pub(super) ties: Ties,
    pub(super) under: UnderLimits,
}

impl Limited for Fate {
    fn under(&self) -> &UnderLimits {
        &self.under
    }
}

/// What binds a job to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Ties {
    /// Others wait for it, or have waited.
    pub(super) needed: bool,
    /// It waits for others, or has waited.
    pub(super) waits: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Yes,
    No,
}

impl From<Option<i64>> for Asked {
    fn from(at: Option<i64>) -> Self {
        if at.is_some() { Self::Yes } else { Self::No }
    }
}

/// What a request does to a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It waits, and ends here.
    End,
    /// It runs, and its worker is asked to end it.
    AskToEnd,
    /// It has ended, and gets another round.
    NewRound,
    /// It runs, and its worker is asked to give it back.
    AskToGiveBack,
    /// It waits for a retry, and need not any more.
    MakeReady,
    /// It is as is wanted.
    Already(&'static str),
    /// It is not in a state for that.
    Not(&'static str),
    /// It waits for the success of one that has ended otherwise.
    Needs(JobId),
}

pub(super) fn judge(change: &Change, fate: &Fate) -> Verdict {
    match (change, fate.state) {
        (Change::Cancel { .. }, JobState::Queued) => Verdict::End,
        (Change::Cancel { .. }, JobState::Running) if fate.cancel_asked == Asked::Yes => {
            Verdict::Already("its end has been asked for")
        }
        (Change::Cancel { .. }, JobState::Running) => Verdict::AskToEnd,
        (Change::Cancel { .. }, JobState::Cancelled) => Verdict::Already("it is cancelled"),
        (Change::Cancel { .. }, JobState::Succeeded | JobState::Failed) => {
            Verdict::Not("it has ended; there is nothing left to cancel")
        }
        (Change::Retry, JobState::Failed | JobState::Cancelled) => Verdict::NewRound,
        (Change::Retry, _) => Verdict::Not("only a failed or cancelled job can be retried"),
        (Change::Requeue { .. }, JobState::Running) => match (fate.cancel_asked, fate.requeue_asked) {
            (Asked::Yes, _) => Verdict::Not("its end has been asked for"),
            (Asked::No, Asked::Yes) => Verdict::Already("it has been asked for"),
            (Asked::No, Asked::No) => Verdict::AskToGiveBack,
        },
        (Change::Requeue { .. }, JobState::Queued) => match fate.held.as_deref() {
            None => Verdict::Already("it is queued, and ready"),
            Some("backoff") => Verdict::MakeReady,
            Some(_) => Verdict::Not("it does not wait for a retry; `run_at`, or what else it waits for, stands"),
        },
        (Change::Requeue { .. }, JobState::Succeeded | JobState::Failed | JobState::Cancelled) => {
            Verdict::Not("it has ended; a failed or cancelled job can be retried")
        }
    }
}

impl Change {
    /// The states in which a job can be changed so, in the order in which a filter goes through them: what the change itself
    /// brings about is behind it.
    #[must_use]
    pub const fn states(&self) -> [JobState; 2] {
        match self {
            Self::Cancel { .. } => [JobState::Queued, JobState::Running],
            Self::Retry => [JobState::Failed, JobState::Cancelled],
            Self::Requeue { .. } => [JobState::Running, JobState::Queued],
        }
    }
}

/// What an end by request is called.
pub(super) fn cancelled(reason: &str) -> Outcome {
    Outcome::new(OutcomeClass::Cancelled, by_request("cancelled", reason))
}

fn by_request(what: &str, reason: &str) -> String {
    match reason.trim() {
        "" => format!("{what} by request"),
        reason => format!("{what} by request: {reason}"),
    }
}

/// What a worker is asked for, by what is on record beside its claim. An end outranks a return to the queue.
pub(super) fn stop_request(cancel: Option<&str>, requeue: Option<&str>) -> Option<StopRequest> {
    let cancel = cancel.map(|reason| StopRequest::Cancel(cancelled(reason).message));
    cancel.or_else(|| requeue.map(|reason| StopRequest::Requeue(by_request("given back", reason))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fate(state: JobState, held: Option<&str>, cancel_asked: Asked, requeue_asked: Asked) -> Fate {
        Fate {
            id: JobId::generate(),
            state,
            held: held.map(str::to_owned),
            attempt: None,
            cancel_asked,
            requeue_asked,
            ties: Ties::default(),
            under: UnderLimits::default(),
        }
    }

    #[test]
    fn what_a_request_does_follows_from_the_state() {
        use Asked::{No, Yes};
        use JobState::{Cancelled, Failed, Queued, Running, Succeeded};
        let reason = String::new;
        let check = |change: &Change, fate: Fate, expected: &str| {
            let found = match judge(change, &fate) {
                Verdict::Already(_) => "already".to_owned(),
                Verdict::Not(_) => "not".to_owned(),
                verdict => format!("{verdict:?}"),
            };
            assert_eq!(found, expected, "{change:?} of {fate:?}");
        };
        let cancel = Change::Cancel { reason: reason() };
        check(&cancel, fate(Queued, Some("backoff"), No, No), "End");
        check(&cancel, fate(Running, None, No, Yes), "AskToEnd");
        check(&cancel, fate(Running, None, Yes, No), "already");
        check(&cancel, fate(Cancelled, None, Yes, No), "already");
        check(&cancel, fate(Succeeded, None, No, No), "not");
        check(&cancel, fate(Failed, None, No, No), "not");
        check(&Change::Retry, fate(Failed, None, No, No), "NewRound");
        check(&Change::Retry, fate(Cancelled, None, Yes, No), "NewRound");
        for state in [Queued, Running, Succeeded] {
            check(&Change::Retry, fate(state, None, No, No), "not");
        }
        let requeue = Change::Requeue { reason: reason() };
        check(&requeue, fate(Running, None, No, No), "AskToGiveBack");
        check(&requeue, fate(Running, None, No, Yes), "already");
        check(&requeue, fate(Running, None, Yes, No), "not");
        check(&requeue, fate(Queued, None, No, No), "already");
        check(&requeue, fate(Queued, Some("backoff"), No, No), "MakeReady");
        check(&requeue, fate(Queued, Some("scheduled"), No, No), "not");
        for state in [Succeeded, Failed, Cancelled] {
            check(&requeue, fate(state, None, No, No), "not");
        }
    }

    #[test]
    fn an_end_outranks_a_return_to_the_queue() {
        let check = |cancel, requeue, expected| assert_eq!(stop_request(cancel, requeue), expected);
        let end = || Some(StopRequest::Cancel("cancelled by request: enough".to_owned()));
        check(Some("enough"), Some("move"), end());
        check(Some(" enough "), None, end());
        check(None, Some(""), Some(StopRequest::Requeue("given back by request".to_owned())));
        check(None, None, None);
    }
}
