//! Where somebody moved the deadline of an attempt that runs.
//!
//! The one rule: an attempt asks for its deadline whenever it needs it, and never keeps one; what waits for a deadline waits
//! for its being moved as well.

use tokio::sync::watch;

use crate::clock::Timestamp;

/// The end that moves.
#[derive(Debug, Clone)]
pub struct DeadlineMover {
    sender: watch::Sender<Option<Timestamp>>,
}

/// The end that hears.
#[derive(Debug, Clone)]
pub struct MovedDeadline {
    receiver: watch::Receiver<Option<Timestamp>>,
}

impl DeadlineMover {
    /// A pair; nobody has moved the deadline.
    #[must_use]
    pub fn new() -> (Self, MovedDeadline) {
        let (sender, receiver) = watch::channel(None);
        (Self { sender }, MovedDeadline { receiver })
    }

    /// Moves the deadline to `at`, by the database's clock. The same again is no news.
    pub fn move_to(&self, at: Timestamp) {
        self.sender.send_if_modified(|current| current.replace(at) != Some(at));
    }
}

impl MovedDeadline {
    /// When the attempt must be over, where that was moved.
    #[must_use]
    pub fn at(&self) -> Option<Timestamp> {
        *self.receiver.borrow()
    }

    /// Waits until it is another than `known`. Never, when the other end is gone.
    pub async fn moved_from(&self, known: Option<Timestamp>) -> Option<Timestamp> {
        let mut receiver = self.receiver.clone();
        let heard = receiver.wait_for(|at| *at != known).await.map(|at| *at);
        match heard {
            Ok(at) => at,
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_hears_of_a_move_also_of_one_that_came_before() {
        let (mover, moved) = DeadlineMover::new();
        assert_eq!(moved.at(), None);
        mover.move_to(Timestamp(7));
        mover.move_to(Timestamp(7));
        assert_eq!(moved.moved_from(None).await, Some(Timestamp(7)));
        let (heard, ()) = tokio::join!(moved.moved_from(Some(Timestamp(7))), async { mover.move_to(Timestamp(9)) });
        assert_eq!((heard, moved.at()), (Some(Timestamp(9)), Some(Timestamp(9))));
    }
}
