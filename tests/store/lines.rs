//! The lines in which completions wait their turn.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sawmill::ids::CompletionId;
use sawmill::job::{ClaimedJob, Completion, CompletionEntry, CompletionState};
use sawmill::store::{CompletionAsk, CompletionFilter, Finish, HeldCompletion, Refusal, Store, StoreError};

use super::{LONG, Queue, asking, completion, delivered, object, on_both};

const AGAIN: Refusal = Refusal::Retry { after: Duration::ZERO };

async fn started(queue: &Queue) -> ClaimedJob {
    queue.enqueue().await;
    queue.claim("w").await
}

async fn write(store: &Store, claimed: &ClaimedJob, completion: Completion) -> CompletionId {
    let id = completion.id;
    store.finish(&claimed.claim, Finish { completion: Some(completion), ..delivered(claimed) }).await.expect("finished");
    id
}

/// Delivers on a branch; every such result begins at the same commit and delivers another.
async fn deliver_on(queue: &Queue, branch: &str) -> CompletionId {
    let claimed = started(queue).await;
    write(&queue.store, &claimed, Completion { branch: Some(branch.to_owned()), ..completion(&claimed) }).await
}

async fn take(queue: &Queue, limit: u32) -> Vec<HeldCompletion> {
    queue.store.claim_completions(&asking("i", limit, None)).await.expect("answered")
}

fn ids(held: &[HeldCompletion]) -> Vec<CompletionId> {
    held.iter().map(|held| held.entry.completion.id).collect()
}

async fn entry(queue: &Queue, id: CompletionId) -> CompletionEntry {
    let all = CompletionFilter { limit: 100, ..CompletionFilter::default() };
    let page = queue.store.completions(&all).await.expect("listed");
    page.items.into_iter().find(|entry| entry.completion.id == id).expect("there")
}

on_both! {
    async fn a_later_one_of_a_branch_waits_until_the_earlier_one_is_done_with(queue) {
        let first = deliver_on(queue, "a").await;
        let second = deliver_on(queue, "a").await;
        let other = deliver_on(queue, "b").await;
        let third = deliver_on(queue, "a").await;
        assert_eq!(entry(queue, second).await.ready_at, None, "it is not its turn");
        let held = take(queue, 9).await;
        assert_eq!(ids(&held), [first, other], "of each branch the first");
        assert!(take(queue, 9).await.is_empty());

        // Waiting for its retry it keeps its turn.
        queue.store.nack_completion(first, held[0].token, "main moved", Refusal::Retry { after: LONG }).await.expect("given back");
        assert!(take(queue, 9).await.is_empty());
        queue.place.tamper("UPDATE completions SET visible_at = 1 WHERE visible_at IS NOT NULL").await;
        let held = take(queue, 9).await;
        assert_eq!(ids(&held), [first]);
        queue.store.ack_completion(first, held[0].token).await.expect("acknowledged");
        let held = take(queue, 9).await;
        assert_eq!(ids(&held), [second]);
        // A dead one is in nobody's way.
        queue.store.nack_completion(second, held[0].token, "never", Refusal::Dead).await.expect("refused");
        assert_eq!(ids(&take(queue, 9).await), [third]);
    }

    async fn another_remote_and_no_branch_are_other_lines(queue) {
        let first = deliver_on(queue, "a").await;
        let claimed = started(queue).await;
        let elsewhere = Completion { branch: Some("a".to_owned()), repo: "/srv/git/other.git".to_owned(), ..completion(&claimed) };
        let second = write(&queue.store, &claimed, elsewhere).await;
        let mut unchanged = Vec::new();
        for _ in 0..2 {
            let claimed = started(queue).await;
            let none = Completion { branch: None, commit: None, tree: None, ..completion(&claimed) };
            unchanged.push(write(&queue.store, &claimed, none).await);
        }
        assert_eq!(ids(&take(queue, 9).await), [first, second, unchanged[0], unchanged[1]]);
    }

    async fn what_begins_at_a_delivered_commit_waits_for_the_one_who_delivered_it(queue) {
        let claimed = started(queue).await;
        let below = Completion { branch: Some("a".to_owned()), commit: Some(object('1')), ..completion(&claimed) };
        let below = write(&queue.store, &claimed, below).await;
        let stacked = async |branch: &str, base, commit| {
            let claimed = started(queue).await;
            let above = Completion { branch: Some(branch.to_owned()), base: object(base), commit: Some(object(commit)), ..completion(&claimed) };
            write(&queue.store, &claimed, above).await
        };
        let above = stacked("b", '1', '2').await;
        let top = stacked("c", '2', '3').await;
        let same = deliver_on(queue, "b").await;
        for expected in [below, above, top, same] {
            let held = take(queue, 9).await;
            assert_eq!(ids(&held), [expected]);
            queue.store.ack_completion(expected, held[0].token).await.expect("acknowledged");
        }
        let late = stacked("d", '1', '4').await;
        let free = deliver_on(queue, "e").await;
        assert_eq!(ids(&take(queue, 9).await), [late, free], "nobody waits for what is done with");
    }

    async fn a_dead_one_is_brought_back_to_its_place(queue) {
        let first = deliver_on(queue, "a").await;
        let held = take(queue, 1).await;
        queue.store.nack_completion(first, held[0].token, "broken", Refusal::Dead).await.expect("refused");
        let second = deliver_on(queue, "a").await;
        let dead = entry(queue, first).await;
        assert_eq!((dead.state, dead.deliveries, dead.last_error.as_deref()), (CompletionState::Dead, 1, Some("broken")));

        let back = queue.store.requeue_completion(first).await.expect("brought back");
        assert_eq!((back.state, back.deliveries, back.last_error.as_deref()), (CompletionState::Pending, 0, Some("broken")));
        assert!(back.ready_at.is_some(), "it is before the one that was offered");
        assert_eq!(entry(queue, second).await.ready_at, None);
        queue.store.requeue_completion(first).await.expect("saying it again is no mistake");
        let held = take(queue, 9).await;
        assert_eq!(ids(&held), [first]);
        assert!(matches!(
            queue.store.requeue_completion(first).await,
            Err(StoreError::NotDead { state: CompletionState::Claimed, .. })
        ));
        queue.store.nack_completion(first, held[0].token, "still broken", Refusal::Dead).await.expect("refused");

        // While a later one is held, the earlier one waits for its end.
        let later = take(queue, 9).await;
        assert_eq!(ids(&later), [second]);
        let back = queue.store.requeue_completion(first).await.expect("brought back");
        assert_eq!((back.state, back.ready_at), (CompletionState::Pending, None));
        queue.store.nack_completion(second, later[0].token, "needs the first", AGAIN).await.expect("given back");
        let held = take(queue, 9).await;
        assert_eq!(ids(&held), [first]);
        queue.store.ack_completion(first, held[0].token).await.expect("acknowledged");
        assert!(matches!(
            queue.store.requeue_completion(first).await,
            Err(StoreError::NotDead { state: CompletionState::Acked, .. })
        ));
        assert!(matches!(queue.store.requeue_completion(CompletionId::generate()).await, Err(StoreError::NotFound { .. })));
        assert_eq!(ids(&take(queue, 9).await), [second]);
    }

    async fn a_consumer_who_never_answers_ends_with_a_dead_completion_and_the_next_has_its_turn(queue) {
        let first = deliver_on(queue, "a").await;
        let second = deliver_on(queue, "a").await;
        for _ in 0..3 {
            let held = queue.store.claim_completions(&asking("i", 9, Some(Duration::ZERO))).await.expect("answered");
            assert_eq!(ids(&held), [first]);
            queue.store.expire_once(10).await.expect("done");
        }
        let dead = entry(queue, first).await;
        assert_eq!((dead.state, dead.deliveries), (CompletionState::Dead, 3));
        assert_eq!(dead.last_error.as_deref(), Some("given up after 3 deliveries; the last one: consumer i let its lease run out"));
        assert_eq!(ids(&take(queue, 9).await), [second]);
    }

    async fn a_consumer_gets_only_what_it_asks_for(queue) {
        let mut made = Vec::new();
        for (project, repo) in [(Some("app"), "/r/1"), (None, "/r/1"), (Some("site"), "/r/2")] {
            let claimed = started(queue).await;
            let one = Completion { project: project.map(str::to_owned), repo: repo.to_owned(), ..completion(&claimed) };
            made.push(write(&queue.store, &claimed, one).await);
        }
        let take = async |project: Option<&str>, repo: Option<&str>| {
            let (project, repo) = (project.map(str::to_owned), repo.map(str::to_owned));
            let ask = CompletionAsk { project, repo, ..asking("i", 9, Some(Duration::ZERO)) };
            let taken = ids(&queue.store.claim_completions(&ask).await.expect("answered"));
            queue.store.expire_once(10).await.expect("done");
            taken
        };
        assert_eq!(take(Some("site"), None).await, made[2..]);
        assert_eq!(take(None, Some("/r/1")).await, made[..2]);
        assert_eq!(take(Some("app"), Some("/r/1")).await, made[..1]);
        assert_eq!(take(Some("app"), Some("/r/2")).await, []);
    }

    async fn however_many_deliver_and_take_at_once_each_branch_goes_in_order_and_one_at_a_time(queue) {
        const LINES: usize = 4;
        const EACH: usize = 12;
        let order: Arc<Mutex<BTreeMap<String, Vec<CompletionId>>>> = Arc::default();
        let mut claims = Vec::new();
        for _ in 0..LINES * EACH {
            claims.push(started(queue).await);
        }
        let mut deliverers = Vec::new();
        for (line, claims) in claims.chunks(EACH).enumerate() {
            // Two who deliver on each branch at once.
            for half in claims.chunks(EACH / 2) {
                let (store, half, branch) = (queue.store.clone(), half.to_vec(), format!("line-{line}"));
                deliverers.push(tokio::spawn(async move {
                    for claimed in half {
                        write(&store, &claimed, Completion { branch: Some(branch.clone()), ..completion(&claimed) }).await;
                    }
                }));
            }
        }
        let held: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        let consumers: Vec<_> = (0..8_usize).map(|number| {
            let (store, held, order) = (queue.store.clone(), held.clone(), order.clone());
            tokio::spawn(async move { consume(store, number, &held, &order, LINES * EACH).await })
        }).collect();
        for task in deliverers.into_iter().chain(consumers) {
            task.await.expect("no panic");
        }
        let written = queue.place.texts("SELECT CAST(count(*) AS TEXT) FROM completions WHERE state = 'acked'").await;
        assert_eq!(written, [(LINES * EACH).to_string()]);
        let order = std::mem::take(&mut *order.lock().expect("no panic"));
        for (line, acked) in order {
            let sql = format!("SELECT body FROM completions WHERE line = '{line}' ORDER BY created_at, id");
            let expected: Vec<CompletionId> = queue.place.texts(&sql).await.iter()
                .map(|body| serde_json::from_str::<Completion>(body).expect("a completion").id).collect();
            assert_eq!(acked, expected, "{line}");
        }
    }
}

/// Takes, gives back every fifth once, and acknowledges, until all are acknowledged. Notes what is held meanwhile, and the order.
async fn consume(
    store: Store,
    number: usize,
    held: &Mutex<BTreeSet<String>>,
    order: &Mutex<BTreeMap<String, Vec<CompletionId>>>,
    all: usize,
) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    let mut taken = number;
    loop {
        let limit = 1 + u32::try_from(number % 3).expect("small");
        for one in store.claim_completions(&asking("i", limit, None)).await.expect("answered") {
            let id = one.entry.completion.id;
            let line = one.entry.completion.branch.clone().expect("a branch");
            assert!(held.lock().expect("no panic").insert(line.clone()), "{line} is held by somebody else");
            tokio::task::yield_now().await;
            taken += 1;
            let again = taken.is_multiple_of(5) && one.entry.deliveries == 1;
            if !again {
                order.lock().expect("no panic").entry(line.clone()).or_default().push(id);
            }
            assert!(held.lock().expect("no panic").remove(&line));
            if again {
                store.nack_completion(id, one.token, "once more", AGAIN).await.expect("given back");
            } else {
                store.ack_completion(id, one.token).await.expect("acknowledged");
            }
        }
        if order.lock().expect("no panic").values().map(Vec::len).sum::<usize>() == all {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "all are taken in time");
        tokio::task::yield_now().await;
    }
}
