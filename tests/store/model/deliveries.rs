//! What integrators do.

use std::time::Duration;

use sawmill::clock::Timestamp;
use sawmill::job::CompletionState;
use sawmill::store::{Expired, Refusal, StoreError};

use super::super::{LONG, asking};
use super::drive::Driver;

impl Driver {
    pub(super) fn is_held(&self, at: usize) -> bool {
        self.world.deliveries[at].state == CompletionState::Claimed
    }

    pub(super) async fn claim_completions(&mut self, limit: u32) {
        let offered = self.world.offered();
        let held = self.queue.store.claim_completions(&asking("i", limit, Some(LONG))).await.expect("answered");
        assert_eq!(held.len(), offered.len().min(limit as usize), "{offered:?}");
        for one in held {
            let id = one.entry.completion.id;
            let at = self.world.deliveries.iter().position(|other| other.id == id).expect("one that the model knows");
            assert!(offered.contains(&at), "{at} of {offered:?}");
            let delivery = &mut self.world.deliveries[at];
            delivery.state = CompletionState::Claimed;
            delivery.deliveries += 1;
            self.tokens[at] = one.token;
        }
    }

    pub(super) async fn ack(&mut self, at: usize) {
        let delivery = &self.world.deliveries[at];
        let answer = self.queue.store.ack_completion(delivery.id, self.tokens[at]).await;
        // Saying so again is no mistake.
        let accepted = matches!(delivery.state, CompletionState::Claimed | CompletionState::Acked);
        assert_eq!(answer.is_ok(), accepted, "{answer:?}: {delivery:?}");
        if accepted {
            self.world.deliveries[at].state = CompletionState::Acked;
        }
    }

    pub(super) async fn nack(&mut self, at: usize, dead: bool) {
        let refusal = if dead { Refusal::Dead } else { Refusal::Retry { after: Duration::ZERO } };
        let id = self.world.deliveries[at].id;
        let answer = self.queue.store.nack_completion(id, self.tokens[at], "not so", refusal).await;
        assert_eq!(answer.is_ok(), self.is_held(at), "{answer:?}");
        if self.is_held(at) {
            self.world.give_back(at, dead);
        }
    }

    pub(super) async fn expire_completion(&mut self, at: usize) {
        if !self.is_held(at) {
            return;
        }
        let id = self.world.deliveries[at].id;
        self.pass("completions", "lease_until", id.as_uuid(), Timestamp(1)).await;
        let expired = self.expire_once().await;
        self.world.give_back(at, false);
        let state = self.world.deliveries[at].state;
        assert_eq!(expired, [Expired::Completion { id, consumer: "i".to_owned(), state }]);
    }

    pub(super) async fn requeue_completion(&mut self, at: usize) {
        let delivery = &mut self.world.deliveries[at];
        let answer = self.queue.store.requeue_completion(delivery.id).await;
        match delivery.state {
            CompletionState::Dead => {
                assert_eq!(answer.expect("brought back").deliveries, 0);
                (delivery.state, delivery.deliveries) = (CompletionState::Pending, 0);
            }
            CompletionState::Pending => drop(answer.expect("it waits already")),
            _ => assert!(matches!(answer, Err(StoreError::NotDead { .. })), "{answer:?}"),
        }
    }
}
