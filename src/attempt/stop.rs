//! Stopping an attempt, with a reason.

use tokio::sync::watch;

/// Why an attempt is to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// Somebody asked for the job's end, with these words.
    Cancelled(String),
    /// Somebody asked for the job to be given back to the queue, with these words.
    Requeued(String),
    /// The claim is lost: nothing more may be written, committed or pushed.
    LeaseLost,
    /// The worker goes down: the job is given back.
    Shutdown,
}

/// What was asked for so far.
#[derive(Debug, Clone, Default)]
struct Asked {
    reason: Option<StopReason>,
    /// The worker goes down, whatever the attempt is stopped for.
    leaving: bool,
}

/// The end that stops.
#[derive(Debug, Clone)]
pub struct StopHandle {
    sender: watch::Sender<Asked>,
}

/// The end that hears.
#[derive(Debug, Clone)]
pub struct Stop {
    receiver: watch::Receiver<Asked>,
}

impl StopHandle {
    /// A pair that has not been stopped.
    #[must_use]
    pub fn new() -> (Self, Stop) {
        let (sender, receiver) = watch::channel(Asked::default());
        (Self { sender }, Stop { receiver })
    }

    /// Asks for the stop. The first reason stands, except that a lost lease outranks every other. Says whether this one does.
    pub fn stop(&self, reason: StopReason) -> bool {
        let mut takes = false;
        self.sender.send_if_modified(|asked| {
            let leaves = reason == StopReason::Shutdown && !asked.leaving;
            asked.leaving |= leaves;
            takes = asked.reason.is_none() || (reason == StopReason::LeaseLost && asked.reason != Some(StopReason::LeaseLost));
            if takes {
                asked.reason = Some(reason);
            }
            takes || leaves
        });
        takes
    }

    /// Whether the lease is lost.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.sender.borrow().reason == Some(StopReason::LeaseLost)
    }
}

impl Stop {
    /// The reason, once there is one.
    #[must_use]
    pub fn reason(&self) -> Option<StopReason> {
        self.receiver.borrow().reason.clone()
    }

    /// Waits until there is a reason. Never, when the other end is gone without having given one.
    pub async fn stopped(&self) -> StopReason {
        self.wait_for(|asked| asked.reason.is_some()).await;
        match self.reason() {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }

    /// Waits until the lease is lost, whatever was asked for before.
    pub async fn lease_lost(&self) {
        self.wait_for(|asked| asked.reason == Some(StopReason::LeaseLost)).await;
    }

    /// Waits until the worker is to be gone, whatever was asked for before.
    pub async fn leaving(&self) {
        self.wait_for(|asked| asked.leaving).await;
    }

    async fn wait_for(&self, is_so: impl Fn(&Asked) -> bool) {
        let mut receiver = self.receiver.clone();
        let heard = receiver.wait_for(is_so).await.is_ok();
        if !heard {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_stands_but_a_lost_lease_outranks_it() {
        let (handle, stop) = StopHandle::new();
        assert_eq!(stop.reason(), None);
        handle.stop(StopReason::Shutdown);
        handle.stop(StopReason::Cancelled("no longer wanted".to_owned()));
        assert_eq!(stop.reason(), Some(StopReason::Shutdown));
        handle.stop(StopReason::LeaseLost);
        handle.stop(StopReason::Shutdown);
        assert_eq!(stop.reason(), Some(StopReason::LeaseLost));
    }

    #[tokio::test]
    async fn a_worker_that_goes_down_is_heard_by_an_attempt_that_was_stopped_before() {
        let (handle, stop) = StopHandle::new();
        assert!(handle.stop(StopReason::Cancelled("no longer wanted".to_owned())));
        assert!(!handle.stop(StopReason::Shutdown));
        stop.leaving().await;
        assert_eq!(stop.reason(), Some(StopReason::Cancelled("no longer wanted".to_owned())));
    }
}
