//! The queue of completions.

use std::time::Duration;

use sawmill::ids::{ClaimToken, CompletionId};
use sawmill::job::CompletionState;
use sawmill::store::{CompletionFilter, HeldCompletion, Refusal, StoreError};

use super::{LONG, Queue, asking, completion, delivered, on_both};

async fn deliver(queue: &Queue) -> CompletionId {
    queue.enqueue().await;
    let claimed = queue.claim("w").await;
    let end = delivered(&claimed);
    let id = end.completion.as_ref().expect("there is one").id;
    queue.store.finish(&claimed.claim, end).await.expect("finished");
    id
}

async fn take(queue: &Queue) -> Option<HeldCompletion> {
    queue.store.claim_completions(&asking("i", 1, None)).await.expect("answered").pop()
}

const AGAIN: Refusal = Refusal::Retry { after: Duration::ZERO };

on_both! {
    async fn a_completion_reads_back_as_it_was_delivered(queue) {
        queue.enqueue().await;
        let claimed = queue.claim("w").await;
        let written = completion(&claimed);
        let end = sawmill::store::Finish { completion: Some(written.clone()), ..delivered(&claimed) };
        queue.store.finish(&claimed.claim, end).await.expect("finished");
        let page = queue.store.completions(&CompletionFilter { limit: 5, ..CompletionFilter::default() }).await.expect("listed");
        assert_eq!((&page.items[0].completion, page.items[0].state), (&written, CompletionState::Pending));
    }

    async fn completions_are_handed_out_oldest_first_and_one_consumer_at_a_time(queue) {
        let ids = [deliver(queue).await, deliver(queue).await, deliver(queue).await];
        let now = queue.store.now();
        let first = queue.store.claim_completions(&asking("i", 2, None)).await.expect("handed out");
        assert_eq!(first.iter().map(|held| held.entry.completion.id).collect::<Vec<_>>(), ids[..2]);
        let entry = &first[0].entry;
        assert_eq!((entry.state, entry.consumer.as_deref(), entry.deliveries), (CompletionState::Claimed, Some("i"), 1));
        assert!(entry.lease_until.expect("a lease") >= now + LONG);
        let second = queue.store.claim_completions(&asking("j", 9, None)).await.expect("handed out");
        assert_eq!(second.iter().map(|held| held.entry.completion.id).collect::<Vec<_>>(), ids[2..]);
        assert!(take(queue).await.is_none());
        assert!(queue.store.claim_completions(&asking("i", 0, None)).await.expect("answered").is_empty());
    }

    async fn many_integrators_at_once_never_get_one_completion_twice(queue) {
        for _ in 0..20 {
            deliver(queue).await;
        }
        let tasks: Vec<_> = (0..8).map(|_| {
            let store = queue.store.clone();
            tokio::spawn(async move {
                let mut got = Vec::new();
                loop {
                    let held = store.claim_completions(&asking("i", 2, None)).await.expect("answered");
                    if held.is_empty() {
                        return got;
                    }
                    got.extend(held.into_iter().map(|held| held.entry.completion.id));
                }
            })
        }).collect();
        let mut ids = Vec::new();
        for task in tasks {
            ids.extend(task.await.expect("no panic"));
        }
        assert_eq!((ids.len(), ids.iter().collect::<std::collections::HashSet<_>>().len()), (20, 20));
    }

    async fn an_acknowledged_completion_is_done_and_saying_so_again_is_no_error(queue) {
        let id = deliver(queue).await;
        let held = take(queue).await.expect("there is one");
        let renewed = queue.store.renew_completion(id, held.token, Some(LONG * 2)).await.expect("renewed");
        assert!(renewed.lease_until > held.entry.lease_until);
        for _ in 0..2 {
            let entry = queue.store.ack_completion(id, held.token).await.expect("acknowledged");
            assert_eq!((entry.state, entry.lease_until), (CompletionState::Acked, None));
        }
        assert!(take(queue).await.is_none());
        let filter = |state| CompletionFilter { state: Some(state), limit: 5, ..CompletionFilter::default() };
        assert_eq!(queue.store.completions(&filter(CompletionState::Acked)).await.expect("listed").items.len(), 1);
        assert_eq!(queue.store.completions(&filter(CompletionState::Pending)).await.expect("listed").items.len(), 0);
    }

    async fn an_answer_that_is_not_the_holders_changes_nothing(queue) {
        let id = deliver(queue).await;
        let stale = queue.store.claim_completions(&asking("i", 1, Some(Duration::ZERO))).await.expect("handed out").remove(0).token;
        queue.store.expire_once(10).await.expect("expired");
        let held = take(queue).await.expect("there is one");
        for token in [stale, ClaimToken::generate()] {
            let lost = [
                queue.store.renew_completion(id, token, None).await,
                queue.store.ack_completion(id, token).await,
                queue.store.nack_completion(id, token, "", AGAIN).await,
                queue.store.nack_completion(id, token, "", Refusal::Dead).await,
            ];
            assert!(lost.iter().all(|answer| matches!(answer, Err(StoreError::LeaseLost))), "{lost:?}");
        }
        let page = queue.store.completions(&CompletionFilter { limit: 5, ..CompletionFilter::default() }).await.expect("listed");
        assert_eq!(page.items[0], held.entry);
        queue.store.ack_completion(id, held.token).await.expect("the holder's goes through");
        assert!(matches!(queue.store.nack_completion(id, held.token, "", AGAIN).await, Err(StoreError::LeaseLost)));
        assert!(matches!(queue.store.renew_completion(id, held.token, None).await, Err(StoreError::LeaseLost)));
        let none = queue.store.ack_completion(CompletionId::generate(), held.token).await;
        assert!(matches!(none, Err(StoreError::NotFound { .. })), "{none:?}");
    }

    async fn a_refused_completion_comes_again_as_often_as_is_allowed(queue) {
        let id = deliver(queue).await;
        for (delivery, state) in [(1, CompletionState::Pending), (2, CompletionState::Pending), (3, CompletionState::Dead)] {
            let held = take(queue).await.expect("there is one");
            assert_eq!(held.entry.deliveries, delivery);
            let entry = queue.store.nack_completion(id, held.token, "does not merge", AGAIN).await.expect("given back");
            assert_eq!((entry.state, entry.last_error.as_deref(), entry.consumer), (state, Some("does not merge"), None));
        }
        assert!(take(queue).await.is_none());
    }

    async fn a_refused_completion_waits_as_long_as_it_is_told_or_is_dead(queue) {
        let waits = deliver(queue).await;
        let held = take(queue).await.expect("there is one");
        queue.store.nack_completion(waits, held.token, "later", Refusal::Retry { after: LONG }).await.expect("given back");
        assert!(take(queue).await.is_none());
        let dead = deliver(queue).await;
        let held = take(queue).await.expect("there is one");
        let entry = queue.store.nack_completion(dead, held.token, "never", Refusal::Dead).await.expect("given back");
        assert_eq!(entry.state, CompletionState::Dead);
        assert!(take(queue).await.is_none());
    }
}
