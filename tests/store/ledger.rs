//! The ledger while attempts run: what they have said so far counts for all whom a budget concerns, once, however they end.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use sawmill::job::budget::{Account, Budget, BudgetScope, BudgetUse, MicroUsd, Period, ProjectBudget, Spent};
use sawmill::job::completion::Usage;
use sawmill::job::{ClaimedJob, Hold, Job, JobState, OutcomeClass};
use sawmill::store::{Expired, Finish, NewJob, StoreError};
use sqlx::{Connection, Executor, PgConnection};

use super::{LONG, Queue, ask, delivered, finish, on_both};

fn tokens(most: u64) -> Option<Budget> {
    Some(Budget { tokens: Some(most), cost_usd: None })
}

fn usage(tokens: u64) -> Usage {
    Usage { prompt_tokens: tokens, completion_tokens: 1, cost_usd: Some(0.25), model: Some("m".to_owned()) }
}

/// One of the execution `plan`, which may use 100 tokens, and of the project `app`.
fn part(new: &mut NewJob) {
    new.spec.execution.id = Some("plan".to_owned());
    new.spec.execution.budget = tokens(100);
    new.spec.project = Some("app".to_owned());
    new.attempts_max = 3;
}

/// So many of those that run.
async fn parts(queue: &Queue, count: u32) -> Vec<ClaimedJob> {
    for _ in 0..count {
        queue.enqueue_as(part).await;
    }
    let claimed = queue.store.claim(&ask("w", count, LONG)).await.expect("answered");
    assert_eq!(claimed.len(), count as usize);
    claimed
}

async fn says(queue: &Queue, claimed: &ClaimedJob, tokens: u64) {
    queue.store.record_usage(&claimed.claim, &usage(tokens)).await.expect("it is held");
}

async fn account(queue: &Queue, claimed: &ClaimedJob) -> Account {
    queue.store.account(&claimed.claim, &claimed.job.spec).await.expect("answered")
}

/// What of the execution, and of the project if that has a budget, is used once the attempt has used so much.
async fn once_used(queue: &Queue, claimed: &ClaimedJob, tokens: u64) -> Vec<(BudgetScope, u64, u64)> {
    let account = account(queue, claimed).await;
    account.once_used(Some(&usage(tokens))).map(|one| (one.scope, one.spent.attempts, one.spent.tokens())).collect()
}

/// What is on record for the job, for the execution and for the project: the same for all where there is one job.
async fn sums(queue: &Queue, job: &Job) -> [Spent; 3] {
    let of_job = queue.store.budget_of_job(job.id).await.expect("there").remove(0);
    let of_execution = queue.store.budget_of_execution("plan").await.expect("something was used");
    let of_projects = queue.store.budgets_of_projects().await.expect("answered");
    let [of_project] = of_projects.as_slice() else { panic!("{of_projects:?}") };
    [of_job.spent, of_execution.spent, of_project.spent]
}

/// Attempts, prompt tokens, completion tokens, and the millionths of a dollar.
fn spent(attempts: u64, prompt: u64) -> Spent {
    let cost_usd = MicroUsd(attempts * 250_000);
    Spent { attempts, prompt_tokens: prompt, completion_tokens: attempts, cost_usd }
}

async fn expire(queue: &Queue) -> Vec<Expired> {
    queue.place.tamper("UPDATE jobs SET lease_until = 1 WHERE lease_until IS NOT NULL").await;
    loop {
        let expired = queue.store.expire_once(10).await.expect("answered");
        if !expired.is_empty() {
            return expired;
        }
        tokio::task::yield_now().await;
    }
}

async fn project_budget(queue: &Queue, most: u64, per: Period) {
    let budget = ProjectBudget { tokens: Some(most), cost_usd: None, per };
    queue.store.set_project_budgets(&BTreeMap::from([("app".to_owned(), budget)])).await.expect("written");
}

on_both! {
    async fn what_runs_at_once_sees_what_the_others_have_said_and_itself_once(queue) {
        project_budget(queue, 200, Period::Day).await;
        let running = parts(queue, 2).await;
        let [one, other] = running.as_slice() else { panic!("{running:?}") };
        let both = |attempts, tokens| [(BudgetScope::Execution, attempts, tokens), (BudgetScope::Project, attempts, tokens)];
        assert_eq!(once_used(queue, one, 10).await, both(1, 11), "nobody has said anything");
        says(queue, one, 10).await;
        assert_eq!(once_used(queue, one, 10).await, both(1, 11));
        assert_eq!(once_used(queue, one, 15).await, both(1, 16));
        assert_eq!(once_used(queue, other, 60).await, both(2, 72));
        says(queue, one, 40).await;
        says(queue, one, 40).await;
        says(queue, other, 60).await;
        assert_eq!(once_used(queue, one, 41).await, both(2, 103));
        assert_eq!(account(queue, one).await.on_record, spent(1, 40));
        let over: Vec<BudgetUse> = account(queue, one).await.once_used(Some(&usage(41))).filter(BudgetUse::is_exceeded).collect();
        let [over] = over.as_slice() else { panic!("{over:?}") };
        let told = "the budget of execution plan: 103 of 100 tokens used, of which this attempt used 42 tokens";
        assert_eq!(over.told_to(&usage(41)), told);
        let attempts = queue.store.attempts(one.claim.job).await.expect("there");
        assert_eq!((attempts[0].usage.as_ref(), attempts[0].ended_at), (Some(&usage(40)), None), "it is shown while it runs");
    }

    async fn nothing_more_is_started_once_what_runs_has_used_a_budget_up(queue) {
        let running = parts(queue, 1).await;
        says(queue, &running[0], 99).await;
        let next = queue.enqueue_as(part).await;
        assert!(queue.nothing_to_claim().await);
        assert_eq!(queue.store.job(next.id).await.expect("there").held, Some(Hold::Budget));
        let mut cursor = sawmill::store::AuditCursor::default();
        assert_eq!(queue.store.audit_once(&mut cursor, 10).await.expect("done"), 1);
        let ended = queue.store.job(next.id).await.expect("there");
        assert_eq!(ended.outcome.map(|outcome| outcome.class), Some(OutcomeClass::Budget));

        project_budget(queue, 100, Period::All).await;
        let of_project = queue.enqueue_as(|new| new.spec.project = Some("app".to_owned())).await;
        assert!(queue.nothing_to_claim().await);
        assert_eq!(queue.store.job(of_project.id).await.expect("there").held, Some(Hold::Budget));
    }

    async fn what_an_attempt_had_said_is_on_record_once_when_its_lease_is_over(queue) {
        let lost = parts(queue, 1).await.remove(0);
        says(queue, &lost, 40).await;
        assert_eq!(expire(queue).await.len(), 1);
        assert_eq!(sums(queue, &lost.job).await, [spent(1, 40); 3]);
        let answer = queue.store.record_usage(&lost.claim, &usage(50)).await;
        assert!(matches!(answer, Err(StoreError::LeaseLost)), "{answer:?}");
        let answer = queue.store.finish(&lost.claim, Finish { usage: Some(usage(60)), ..finish(OutcomeClass::Gate) }).await;
        assert!(matches!(answer, Err(StoreError::LeaseLost)), "{answer:?}");
        assert_eq!(sums(queue, &lost.job).await, [spent(1, 40); 3], "nothing of what came too late");

        queue.store.promote_once(10).await.expect("done");
        let again = queue.claim("w").await;
        assert_eq!((again.claim.job, again.claim.attempt.0), (lost.claim.job, 2));
        let answer = queue.store.record_usage(&lost.claim, &usage(50)).await;
        assert!(matches!(answer, Err(StoreError::LeaseLost)), "another attempt runs: {answer:?}");
        assert_eq!(once_used(queue, &again, 5).await, [(BudgetScope::Execution, 2, 47)]);
        says(queue, &again, 5).await;
        assert_eq!(sums(queue, &lost.job).await, [spent(2, 45); 3]);
    }

    async fn the_end_adds_what_came_since_and_takes_nothing_back(queue) {
        let cases = [
            (Finish { usage: Some(usage(30)), ..finish(OutcomeClass::Gate) }, 30),
            // The last word was lost.
            (Finish { usage: Some(usage(15)), ..finish(OutcomeClass::Backend) }, 20),
            (finish(OutcomeClass::Released), 20),
            // By the short way.
            (finish(OutcomeClass::Succeeded), 20),
        ];
        let mut all = 0;
        for (number, (end, expected)) in (1..).zip(cases) {
            queue.enqueue_as(|new| {
                part(new);
                new.attempts_max = 1;
            }).await;
            let claimed = queue.claim("w").await;
            says(queue, &claimed, 20).await;
            let class = end.outcome.class;
            queue.store.finish(&claimed.claim, end).await.expect("finished");
            all += expected;
            let [of_job, of_execution, of_project] = sums(queue, &claimed.job).await;
            assert_eq!((of_job, of_execution, of_project), (spent(1, expected), spent(number, all), spent(number, all)), "{class}");
            if class == OutcomeClass::Released {
                // It is given up, so that the next one is claimed.
                queue.store.cancel(claimed.claim.job, "").await.expect("cancelled");
            }
        }
    }

    async fn what_is_delivered_without_a_word_on_usage_keeps_what_was_said(queue) {
        let claimed = parts(queue, 1).await.remove(0);
        says(queue, &claimed, 20).await;
        let done = queue.store.finish(&claimed.claim, delivered(&claimed)).await.expect("finished");
        assert_eq!(done.state, JobState::Succeeded);
        assert_eq!(sums(queue, &claimed.job).await, [spent(1, 20); 3]);
    }

    async fn each_day_has_what_was_used_on_it(queue) {
        project_budget(queue, 100, Period::Day).await;
        let running = parts(queue, 2).await;
        says(queue, &running[0], 50).await;
        says(queue, &running[1], 9).await;
        queue.place.tamper("UPDATE spending SET day = day - 1").await;
        let of_project = |found: Vec<(BudgetScope, u64, u64)>| found.into_iter().find(|one| one.0 == BudgetScope::Project).map(|one| one.2);
        assert_eq!(of_project(once_used(queue, &running[0], 70).await), Some(20));
        says(queue, &running[0], 70).await;
        assert_eq!(of_project(once_used(queue, &running[0], 71).await), Some(21));
        assert_eq!(of_project(once_used(queue, &running[1], 9).await), Some(20));
        // Nothing is taken back of what was said, on whichever day.
        for (claimed, tokens) in running.iter().zip([20, 0]) {
            let end = Finish { usage: Some(usage(tokens)), ..finish(OutcomeClass::Backend) };
            queue.store.finish(&claimed.claim, end).await.expect("finished");
        }
        let of_projects = queue.store.budgets_of_projects().await.expect("answered");
        assert_eq!(of_projects[0].spent.tokens(), 20);
        assert_eq!(queue.store.budget_of_execution("plan").await.expect("there").spent, spent(2, 70 + 9));
    }

    async fn the_sums_are_exact_however_many_say_and_end_at_once(queue) {
        const MANY: u32 = 12;
        let running = parts(queue, MANY).await;
        for step in 1..4 {
            join_all(running.iter().map(|claimed| says(queue, claimed, step))).await;
        }
        let (ended, left) = running.split_at(6);
        let ends = ended.iter().map(|claimed| async {
            let end = Finish { usage: Some(usage(9)), ..finish(OutcomeClass::Backend) };
            queue.store.finish(&claimed.claim, end).await.expect("finished");
        });
        tokio::join!(join_all(ends), join_all(left.iter().map(|claimed| says(queue, claimed, 5))));
        let [_, of_execution, of_project] = sums(queue, &running[0].job).await;
        assert_eq!((of_execution, of_project), (spent(12, 6 * 9 + 6 * 5), spent(12, 6 * 9 + 6 * 5)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_waits_for_a_sum_keeps_nobody_from_its_job_and_is_said_again() {
    let queue = Queue::on_postgres().await;
    let claimed = parts(&queue, 1).await.remove(0);
    says(&queue, &claimed, 1).await;
    let mut other = PgConnection::connect(&queue.place.url()).await.expect("the test server answers");
    other.execute(sqlx::raw_sql("BEGIN; SELECT 1 FROM spending FOR UPDATE")).await.expect("the sums are locked");
    let (store, claim) = (queue.store.clone(), claimed.claim.clone());
    let saying = tokio::spawn(async move {
        while let Err(error) = store.record_usage(&claim, &usage(2)).await {
            assert!(error.is_transient(), "{error}");
        }
    });
    let waiting = "SELECT application_name FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
        AND application_name = current_setting('application_name')";
    while queue.place.texts(waiting).await.is_empty() {
        tokio::task::yield_now().await;
    }
    let free = sqlx::query("SELECT 1 FROM jobs FOR UPDATE SKIP LOCKED").fetch_all(&mut other).await.expect("answered");
    assert_eq!(free.len(), 1, "who renews would wait");
    other.execute("ROLLBACK").await.expect("the sums are free");
    saying.await.expect("it was said");
    assert_eq!(sums(&queue, &claimed.job).await, [spent(1, 2); 3]);
    queue.end().await;
}
