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

/// The end that stops.
#[derive(Debug, Clone)]
pub struct StopHandle {
    sender: watch::Sender<Option<StopReason>>,
}

/// The end that hears.
#[derive(Debug, Clone)]
pub struct Stop {
    receiver: watch::Receiver<Option<StopReason>>,
}

impl StopHandle {
    /// A pair that has not been stopped.
    #[must_use]
    pub fn new() -> (Self, Stop) {
        let (sender, receiver) = watch::channel(None);
        (Self { sender }, Stop { receiver })
    }

    /// Asks for the stop. The first reason stands, except that a lost lease outranks every other. Says whether this one does.
    pub fn stop(&self, reason: StopReason) -> bool {
        self.sender.send_if_modified(|current| {
            let takes = current.is_none() || (reason == StopReason::LeaseLost && *current != Some(StopReason::LeaseLost));
            if takes {
                *current = Some(reason);
            }
            takes
        })
    }
}

impl Stop {
    /// The reason, once there is one.
    #[must_use]
    pub fn reason(&self) -> Option<StopReason> {
        self.receiver.borrow().clone()
    }

    /// Waits until there is a reason. Never, when the other end is gone without having given one.
    pub async fn stopped(&self) -> StopReason {
        let mut receiver = self.receiver.clone();
        let heard = receiver.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        match heard {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }

    /// Waits until the lease is lost, whatever was asked for before.
    pub async fn lease_lost(&self) {
        let mut receiver = self.receiver.clone();
        let heard = receiver.wait_for(|reason| *reason == Some(StopReason::LeaseLost)).await.is_ok();
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
}
