//! What the queue's statements cost: no more with a hundred thousand jobs waiting than with one, also right after a burst, when
//! the statistics are still those of an empty table.

mod concerned;
mod postgres;
mod said;
mod sqlite;

use sawmill::job::budget::Budget;
use sawmill::job::completion::Usage;
use sawmill::job::{Hold, LogChunk, OutcomeClass, Stream};
use sawmill::store::{CompletionFilter, JobFilter};

use super::{LONG, Queue, ask, asking, delivered, finish};

/// Jobs from their first day to their last, one after the other, with all that is asked of them meanwhile.
async fn whole_lives(queue: &Queue) {
    let job = queue.enqueue().await;
    // It counts those before it up to a thousand.
    queue.store.explain(job.id).await.expect("explained");
    let used = Usage { prompt_tokens: 1, ..Usage::default() };
    let mut spec = job.spec.clone();
    spec.budget = Some(Budget { tokens: Some(9), cost_usd: None });
    (spec.execution.id, spec.execution.budget) = (Some("plan".to_owned()), spec.budget.clone());
    spec.project = Some("app".to_owned());
    for _ in 0..5 {
        queue.store.promote_once(5).await.expect("done");
        queue.store.expire_once(5).await.expect("done");
        let claimed = queue.claim("w").await;
        let claim = &claimed.claim;
        queue.store.renew(&claim.worker, std::slice::from_ref(claim), LONG).await.expect("renewed");
        queue.store.held_by(&claim.worker).await.expect("answered");
        queue.store.move_deadline(claim.job, claimed.claimed_at + LONG).await.expect("moved");
        assert_eq!(queue.store.orders(&claim.worker).await.expect("answered").jobs.len(), 1);
        queue.store.workers().await.expect("listed");
        queue.store.record_usage(claim, &used).await.expect("on record");
        queue.store.account(claim, &spec).await.expect("answered");
        let stream = Stream::Stdout;
        let chunk = LogChunk { seq: 0, stream, offset: 0, spool_end: 1, at: claimed.claimed_at, data: vec![b'x'] };
        queue.store.append_log(claim, &[chunk]).await.expect("appended");
        queue.store.read_log(claim.job, claim.attempt, 0, 10).await.expect("read");
        let end = sawmill::store::Finish { usage: Some(used.clone()), ..delivered(&claimed) };
        queue.store.finish(claim, end).await.expect("finished");
        let held = queue.store.claim_completions(&asking("i", 1, None)).await.expect("answered").remove(0);
        queue.store.ack_completion(held.entry.completion.id, held.token).await.expect("acknowledged");
    }
    let released = queue.store.claim(&ask("w", 3, LONG)).await.expect("claimed");
    let (mut held, mut promoted) = (0, 0);
    for claimed in &released {
        let not_before = Some(queue.store.now() + std::time::Duration::from_millis(20));
        let end = sawmill::store::Finish { not_before, ..finish(OutcomeClass::Released) };
        // On a slow machine its moment has come by now.
        held += u64::from(queue.store.finish(&claimed.claim, end).await.expect("finished").held.is_some());
    }
    while promoted < held {
        promoted += queue.store.promote_once(5).await.expect("done");
    }
    queue.store.cancel(job.id, "").await.expect("cancelled");
    let first = queue.enqueue().await.id;
    let second = queue.enqueue_as(|new| new.spec.after = vec![first]).await.id;
    for _ in 0..3 {
        queue.enqueue_as(|new| new.spec.after = vec![first, second]).await;
    }
    queue.store.cancel(first, "").await.expect("cancelled, with those that wait");
    queue.store.jobs(&JobFilter { limit: 5, ..JobFilter::default() }).await.expect("listed");
    queue.store.jobs(&JobFilter { held: Some(Hold::Answer), limit: 5, ..JobFilter::default() }).await.expect("listed");
    queue.store.completions(&CompletionFilter { limit: 5, ..CompletionFilter::default() }).await.expect("listed");
}
