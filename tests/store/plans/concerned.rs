//! Jobs that others concern: under keys and limits of projects, that wait for others, for an answer, for a credential or for a budget,
//! and whose fate somebody changes.

use std::collections::BTreeMap;
use std::time::Duration;

use sawmill::clock::Timestamp;
use sawmill::ids::JobId;
use sawmill::job::budget::{Budget, Period, ProjectBudget};
use sawmill::job::completion::Usage;
use sawmill::job::{Concurrency, Hold, JobState, OutcomeClass};
use sawmill::store::{
    AuditCursor, Change, CompletionFilter, CredentialNews, Finish, JobFilter, Refusal, RelieveCursor, Run, Selection,
};

use super::super::{LONG, Queue, ask, asking, delivered, finish};

/// Those under limits: more than have room, of which some end in each way that makes room.
async fn under_limits(queue: &Queue) {
    let store = &queue.store;
    store.set_project_limits(&BTreeMap::from([("p".to_owned(), 3)])).await.expect("written");
    for number in 0..80 {
        queue
            .enqueue_as(|new| {
                new.spec.project = (number % 3 != 0).then(|| "p".to_owned());
                new.spec.concurrency = (number % 2 == 0).then(|| Concurrency { key: "k".to_owned(), limit: 2 });
            })
            .await;
    }
    let claimed = store.claim(&ask("w", 60, LONG)).await.expect("claimed");
    for (number, one) in claimed.iter().enumerate() {
        let class =
            [OutcomeClass::Succeeded, OutcomeClass::Released, OutcomeClass::Backend, OutcomeClass::Infrastructure][number % 4];
        store.finish(&one.claim, finish(class)).await.expect("finished");
    }
    store.relieve_once(&mut RelieveCursor::default(), 5).await.expect("done");
    queue.claim_for("w", Duration::ZERO).await;
    store.expire_once(5).await.expect("done");
}

/// Those that wait for others, of which one succeeds with a commit and one does not.
async fn that_wait_for_others(queue: &Queue) {
    let store = &queue.store;
    let project = |new: &mut sawmill::store::NewJob| new.spec.project = Some("waits".to_owned());
    for class in [OutcomeClass::Succeeded, OutcomeClass::Backend] {
        let first = queue.enqueue_as(|new| new.spec.priority = sawmill::job::spec::Priority::Interactive).await;
        for number in 0..20 {
            let next = queue
                .enqueue_as(|new| {
                    project(new);
                    new.spec.after = vec![first.id];
                    new.spec.base_from = (number % 2 == 0).then_some(first.id);
                })
                .await;
            queue.enqueue_as(|new| new.spec.after = vec![next.id, first.id]).await;
            store.explain(next.id).await.expect("explained");
        }
        let claimed = queue.claim("w").await;
        let end = if class == OutcomeClass::Succeeded { delivered(&claimed) } else { finish(class) };
        store.finish(&claimed.claim, end).await.expect("finished");
        store.retry(first.id).await.ok();
    }
}

/// Those that ask, meet a usage limit, or use up a budget.
async fn that_wait_for_somebody(queue: &Queue) {
    let store = &queue.store;
    let budget = ProjectBudget { tokens: Some(5), cost_usd: None, per: Period::All };
    store.set_project_budgets(&BTreeMap::from([("b".to_owned(), budget)])).await.expect("written");
    let urgent = |new: &mut sawmill::store::NewJob| {
        new.spec.priority = sawmill::job::spec::Priority::Interactive;
        new.attempts_max = 3;
        new.spec.execution.id = Some("e".to_owned());
        new.spec.execution.budget = Some(Budget { tokens: Some(1_000), cost_usd: None });
        new.spec.budget = Some(Budget { tokens: Some(1_000), cost_usd: None });
    };
    queue.enqueue_as(urgent).await;
    let claimed = queue.claim("w").await;
    let asks = claimed.claim.job;
    store.finish(&claimed.claim, finish(OutcomeClass::Clarification)).await.expect("finished");
    store.explain(asks).await.expect("explained");
    store.answer_job(asks, "so", "me").await.expect("answered");
    let claimed = queue.claim("w").await;
    let limited = CredentialNews::Limited { credential: "team".to_owned(), retry_at: Some(store.now() + LONG) };
    let end = Finish { credential: Some(limited), ..finish(OutcomeClass::UsageLimit) };
    store.finish(&claimed.claim, end).await.expect("finished");
    store.lift_pause("team").await.expect("lifted");
    store.promote_once(5).await.expect("done");
    for _ in 0..3 {
        queue
            .enqueue_as(|new| {
                urgent(new);
                new.spec.project = Some("b".to_owned())
            })
            .await;
    }
    for one in store.claim(&ask("w", 4, LONG)).await.expect("claimed") {
        let usage = Some(Usage { prompt_tokens: 10, completion_tokens: 1, cost_usd: Some(0.1), model: None });
        store.finish(&one.claim, Finish { usage, ..finish(OutcomeClass::Succeeded) }).await.expect("finished");
    }
    let held = queue
        .enqueue_as(|new| {
            urgent(new);
            new.spec.project = Some("b".to_owned())
        })
        .await;
    store.claim(&ask("w", 1, LONG)).await.expect("answered");
    store.explain(held.id).await.expect("explained");
    store.budget_of_job(held.id).await.expect("told");
    store.budget_of_execution("e").await.expect("told");
    store.budgets_of_projects().await.expect("told");
    store.audit_once(&mut AuditCursor::default(), 5).await.expect("done");
}

/// Those whose fate somebody changes, and completions that come back.
async fn whose_fate_is_changed(queue: &Queue) {
    let store = &queue.store;
    let ids: Vec<_> = queue_many(queue, 20).await;
    for one in store.claim(&ask("w", 3, LONG)).await.expect("claimed") {
        store.cancel(one.claim.job, "enough").await.expect("asked");
        store.orders(&one.claim.worker).await.expect("told");
        store.finish(&one.claim, finish(OutcomeClass::Cancelled)).await.expect("finished");
    }
    for one in store.claim(&ask("w", 2, LONG)).await.expect("claimed") {
        store.requeue(one.claim.job, "elsewhere").await.expect("asked");
        store.finish(&one.claim, finish(OutcomeClass::Released)).await.expect("finished");
    }
    let of_project =
        |project: &str| Selection::Filter { project: Some(project.to_owned()), execution: None, state: None, after: None };
    let of_execution = Selection::Filter { project: None, execution: Some("e".to_owned()), state: None, after: None };
    let cancel = || Change::Cancel { reason: String::new() };
    store.change_jobs(&cancel(), &Selection::Ids(ids), 100, Run::Real).await.expect("done");
    store.change_jobs(&cancel(), &of_project("waits"), 100, Run::Real).await.expect("done");
    store.change_jobs(&Change::Retry, &of_project("waits"), 100, Run::Real).await.expect("done");
    store.change_jobs(&Change::Retry, &of_execution, 100, Run::Real).await.expect("done");
    store.change_jobs(&Change::Requeue { reason: String::new() }, &of_project("p"), 100, Run::Real).await.expect("done");
    let claimed = queue.claim("w").await;
    store.finish(&claimed.claim, delivered(&claimed)).await.expect("finished");
    for refusal in [Refusal::Retry { after: Duration::ZERO }, Refusal::Dead] {
        let held = store.claim_completions(&asking("i", 1, None)).await.expect("answered").remove(0);
        let id = held.entry.completion.id;
        store.renew_completion(id, held.token, Some(LONG)).await.expect("renewed");
        store.nack_completion(id, held.token, "not so", refusal).await.expect("given back");
    }
    let dead = CompletionFilter { state: Some(sawmill::job::CompletionState::Dead), limit: 1, ..CompletionFilter::default() };
    let dead = store.completions(&dead).await.expect("listed").items.remove(0);
    store.requeue_completion(dead.completion.id).await.expect("brought back");
    store.claim_completions(&asking("i", 1, Some(Duration::ZERO))).await.expect("answered");
    store.expire_once(5).await.expect("done");
}

async fn queue_many(queue: &Queue, count: usize) -> Vec<sawmill::ids::JobId> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(queue.enqueue_as(|new| new.spec.start_by = Some(Timestamp(i64::MAX / 2))).await.id);
    }
    ids
}

/// All of them.
pub(super) async fn lives(queue: &Queue) {
    under_limits(queue).await;
    that_wait_for_others(queue).await;
    that_wait_for_somebody(queue).await;
    whose_fate_is_changed(queue).await;
}

/// The lists of them, which grow with how many are held.
pub(super) async fn lists(queue: &Queue) {
    let own = [(None, None), (Some("b"), None), (None, Some("e")), (Some("b"), Some("e"))];
    for (project, execution) in own {
        let all = JobFilter {
            project: project.map(str::to_owned),
            execution: execution.map(str::to_owned),
            before: Some(JobId::generate()),
            limit: 5,
            ..JobFilter::default()
        };
        let mut filters = vec![all.clone()];
        filters.extend(Hold::ALL.map(|held| JobFilter { held: Some(held), ..all.clone() }));
        filters.extend(JobState::ALL.map(|state| JobFilter { state: Some(state), ..all.clone() }));
        filters.push(JobFilter { state: Some(JobState::Failed), held: Some(Hold::Key), ..all });
        for filter in filters {
            queue.store.jobs(&filter).await.expect("listed");
        }
    }
}
