//! The ledger of what was used of models, and budgets that are used up.

use std::collections::BTreeMap;

use sawmill::job::budget::{Budget, BudgetScope, BudgetUse, MicroUsd, Period, ProjectBudget};
use sawmill::job::completion::Usage;
use sawmill::job::explain::Cause;
use sawmill::job::{Hold, Job, JobState, OutcomeClass};
use sawmill::store::{Finish, NewJob, StoreError};

use sqlx::{Connection, Executor, PgConnection, SqliteConnection};

use super::{LONG, Place, Queue, ask, completion, finish, on_both};

fn used(class: OutcomeClass, tokens: u64, dollars: Option<f64>) -> Finish {
    let model = Some("m".to_owned());
    let usage = Usage { prompt_tokens: tokens, completion_tokens: 1, cost_usd: dollars, model };
    Finish { usage: Some(usage), ..finish(class) }
}

fn tokens(most: u64) -> Option<Budget> {
    Some(Budget { tokens: Some(most), cost_usd: None })
}

fn of(project: &str) -> impl FnOnce(&mut NewJob) {
    let project = Some(project.to_owned());
    move |new| new.spec.project = project
}

async fn budget(queue: &Queue, project: &str, tokens: Option<u64>, per: Period) {
    let budget = ProjectBudget { tokens, cost_usd: tokens.is_none().then_some(MicroUsd(500_000)), per };
    queue.store.set_project_budgets(&BTreeMap::from([(project.to_owned(), budget)])).await.expect("written");
}

async fn audit(queue: &Queue) -> u64 {
    queue.store.audit_once(&mut sawmill::store::AuditCursor::default(), 100).await.expect("done")
}

async fn job(queue: &Queue, of: &Job) -> Job {
    queue.store.job(of.id).await.expect("there")
}

async fn spent_of(queue: &Queue, of: &Job) -> Option<BudgetUse> {
    let told = queue.store.explain(of.id).await.expect("answered");
    told.reasons.into_iter().find_map(|reason| match reason.cause {
        Cause::Budget { budget } => Some(budget),
        _ => None,
    })
}

on_both! {
    async fn what_attempts_used_is_on_record_and_summed_up_whatever_became_of_them(queue) {
        let asked = queue.enqueue_as(|new| {
            new.attempts_max = 3;
            new.spec.project = Some("app".to_owned());
            new.spec.execution.id = Some("plan".to_owned());
        }).await;
        for end in [used(OutcomeClass::Gate, 10, Some(0.25)), used(OutcomeClass::Timeout, 20, None), finish(OutcomeClass::Released)] {
            let claimed = queue.claim("w").await;
            queue.store.finish(&claimed.claim, end).await.expect("finished");
            queue.store.promote_once(1).await.expect("done");
        }
        let last = queue.claim("w").await;
        let end = Finish { completion: Some(completion(&last)), ..used(OutcomeClass::Succeeded, 30, Some(1.0)) };
        queue.store.finish(&last.claim, end).await.expect("finished");
        let attempts = queue.store.attempts(asked.id).await.expect("there");
        let found: Vec<Option<u64>> = attempts.iter().map(|one| Some(one.usage.as_ref()?.prompt_tokens)).collect();
        assert_eq!(found, [Some(10), Some(20), None, Some(30)]);
        assert_eq!(attempts[0].usage.as_ref().map(|usage| (usage.cost_usd, usage.model.as_deref())), Some((Some(0.25), Some("m"))));
        assert_eq!(attempts[1].usage.as_ref().and_then(|usage| usage.cost_usd), None);
        let of_job = queue.store.budget_of_job(asked.id).await.expect("there");
        let of_execution = queue.store.budget_of_execution("plan").await.expect("there");
        let of_projects = queue.store.budgets_of_projects().await.expect("there");
        for found in [&of_job[0], &of_execution, &of_projects[0]] {
            let spent = found.spent;
            let figures = (spent.attempts, spent.prompt_tokens, spent.completion_tokens, spent.cost_usd);
            assert_eq!(figures, (3, 60, 3, MicroUsd(1_250_000)), "{found}");
        }
        assert_eq!((of_projects.len(), of_projects[0].name.as_str()), (1, "app"));
        assert!(matches!(queue.store.budget_of_execution("none").await, Err(StoreError::NotFound { .. })));
    }

    async fn who_has_lost_its_lease_has_used_nothing(queue) {
        queue.enqueue_as(of("app")).await;
        let lost = queue.claim("w").await;
        queue.place.tamper("UPDATE jobs SET lease_until = 1").await;
        while queue.store.expire_once(10).await.expect("answered").is_empty() {
            tokio::task::yield_now().await;
        }
        let answer = queue.store.finish(&lost.claim, used(OutcomeClass::Gate, 10, None)).await;
        assert!(matches!(answer, Err(StoreError::LeaseLost)));
        assert_eq!(queue.store.budgets_of_projects().await.expect("answered"), []);
    }

    async fn a_project_whose_budget_is_used_up_starts_nothing_until_it_has_another(queue) {
        budget(queue, "app", Some(100), Period::Day).await;
        let (first, second) = (queue.enqueue_as(of("app")).await, queue.enqueue_as(of("app")).await);
        let free = queue.enqueue_as(of("site")).await;
        let claimed = queue.claim("w").await;
        assert_eq!(claimed.claim.job, first.id);
        queue.store.finish(&claimed.claim, used(OutcomeClass::Backend, 120, None)).await.expect("finished");
        assert!(spent_of(queue, &second).await.is_some(), "before anybody has looked");
        assert_eq!(queue.claim("w").await.claim.job, free.id, "others go on");
        assert!(queue.nothing_to_claim().await);
        assert_eq!(job(queue, &second).await.held, Some(Hold::Budget));
        let told = spent_of(queue, &second).await.expect("told");
        assert_eq!((told.scope, told.spent.tokens(), told.per), (BudgetScope::Project, 121, Period::Day));
        assert!(told.again_at.is_some_and(|at| at > queue.store.now()));
        assert_eq!(audit(queue).await, 0);

        // The next day, as far as the ledger knows.
        queue.place.tamper("UPDATE spending SET day = day - 1").await;
        assert_eq!(audit(queue).await, 1);
        let claimed = queue.claim("w").await;
        assert_eq!(claimed.claim.job, second.id);
        queue.store.finish(&claimed.claim, used(OutcomeClass::Backend, 1, Some(0.5))).await.expect("finished");
        budget(queue, "app", None, Period::All).await;
        let third = queue.enqueue_as(of("app")).await;
        assert!(queue.nothing_to_claim().await, "by what it cost");
        assert!(spent_of(queue, &third).await.is_some());
        queue.store.set_project_budgets(&BTreeMap::new()).await.expect("written");
        assert_eq!(audit(queue).await, 1);
        assert_eq!(queue.claim("w").await.claim.job, third.id);
    }

    async fn all_that_a_budget_held_come_back_in_one_pass_when_it_is_raised(queue) {
        let day = |tokens| ProjectBudget { tokens: Some(tokens), cost_usd: None, per: Period::Day };
        let budgets = |site, app| BTreeMap::from([("site".to_owned(), day(site)), ("app".to_owned(), day(app))]);
        queue.store.set_project_budgets(&budgets(100, 100)).await.expect("written");
        for project in ["site", "app"] {
            queue.enqueue_as(of(project)).await;
            let claimed = queue.claim("w").await;
            queue.store.finish(&claimed.claim, used(OutcomeClass::Backend, 120, None)).await.expect("finished");
        }
        for (project, count) in [("site", 20), ("app", 30)] {
            for _ in 0..count {
                queue.enqueue_as(of(project)).await;
            }
        }
        assert!(queue.nothing_to_claim().await);
        queue.store.set_project_budgets(&budgets(100, 500)).await.expect("written");
        // Behind others that stay, and far more than one look is for.
        let back = queue.store.audit_once(&mut sawmill::store::AuditCursor::default(), 4).await.expect("done");
        assert_eq!(back, 30);
        assert_eq!(queue.store.claim(&ask("w", 100, LONG)).await.expect("answered").len(), 30);
    }

    async fn a_look_at_what_a_budget_holds_waits_for_nobody_who_writes(queue) {
        budget(queue, "app", Some(100), Period::Day).await;
        queue.enqueue_as(of("app")).await;
        let claimed = queue.claim("w").await;
        queue.store.finish(&claimed.claim, used(OutcomeClass::Backend, 120, None)).await.expect("finished");
        queue.enqueue_as(of("app")).await;
        assert!(queue.nothing_to_claim().await);
        let looked = match &queue.place {
            Place::File { .. } => {
                let mut other = SqliteConnection::connect(&queue.place.url()).await.expect("the file can be opened");
                other.execute("BEGIN IMMEDIATE").await.expect("nobody writes");
                tokio::time::timeout(std::time::Duration::from_secs(5), audit(queue)).await
            }
            Place::Schema { .. } => {
                let mut other = PgConnection::connect(&queue.place.url()).await.expect("the server answers");
                other.execute(sqlx::raw_sql("BEGIN; LOCK TABLE jobs IN EXCLUSIVE MODE")).await.expect("nobody writes");
                tokio::time::timeout(std::time::Duration::from_secs(5), audit(queue)).await
            }
        };
        assert_eq!(looked, Ok(0));
    }

    async fn limits_and_budgets_of_a_project_do_not_know_each_other(queue) {
        let limits = BTreeMap::from([("app".to_owned(), 1)]);
        queue.store.set_project_limits(&limits).await.expect("written");
        budget(queue, "app", Some(100), Period::Day).await;
        queue.store.set_project_limits(&BTreeMap::new()).await.expect("written");
        let one = queue.enqueue_as(of("app")).await;
        queue.enqueue_as(of("app")).await;
        let claimed = queue.store.claim(&ask("w", 10, LONG)).await.expect("answered");
        assert_eq!(claimed.len(), 2, "no limit is left");
        for claimed in &claimed {
            queue.store.finish(&claimed.claim, used(OutcomeClass::Backend, 60, None)).await.expect("finished");
        }
        queue.store.set_project_limits(&limits).await.expect("written");
        queue.store.set_project_budgets(&BTreeMap::new()).await.expect("written");
        queue.store.retry(one.id).await.expect("again");
        queue.enqueue_as(of("app")).await;
        let claimed = queue.store.claim(&ask("w", 10, LONG)).await.expect("answered");
        assert_eq!(claimed.len(), 1, "no budget is left, and a limit is");
    }

    async fn a_job_whose_own_budget_is_used_up_is_not_tried_again(queue) {
        let asked = queue.enqueue_as(|new| (new.attempts_max, new.spec.budget) = (5, tokens(100))).await;
        let waits = queue.enqueue_as(|new| new.spec.after = vec![asked.id]).await;
        for _ in 0..2 {
            let claimed = queue.claim("w").await;
            queue.store.finish(&claimed.claim, used(OutcomeClass::Gate, 60, None)).await.expect("finished");
            queue.store.promote_once(10).await.expect("done");
        }
        assert!(queue.nothing_to_claim().await);
        assert_eq!(audit(queue).await, 1);
        let ended = job(queue, &asked).await;
        let outcome = ended.outcome.expect("an outcome");
        assert_eq!((ended.state, outcome.class, ended.attempts_used), (JobState::Failed, OutcomeClass::Budget, 2));
        assert!(outcome.message.contains("122 of 100 tokens used"), "{outcome}");
        assert_eq!(job(queue, &waits).await.state, JobState::Cancelled);
        queue.store.retry(asked.id).await.expect("again");
        assert!(queue.nothing_to_claim().await, "another round does not make it cheaper");
    }

    async fn an_execution_stops_when_its_jobs_have_used_up_what_they_may(queue) {
        let part = |new: &mut NewJob| {
            new.spec.execution.id = Some("plan".to_owned());
            new.spec.execution.budget = tokens(50);
        };
        let (first, second) = (queue.enqueue_as(part).await, queue.enqueue_as(part).await);
        let claimed = queue.claim("w").await;
        assert_eq!(claimed.claim.job, first.id);
        queue.store.finish(&claimed.claim, used(OutcomeClass::Backend, 50, None)).await.expect("finished");
        let richer = queue.enqueue_as(|new| {
            part(new);
            new.spec.execution.budget = tokens(500);
        }).await;
        assert_eq!(queue.claim("w").await.claim.job, richer.id, "each job has its own word for it");
        assert_eq!(audit(queue).await, 1);
        assert_eq!(job(queue, &second).await.outcome.map(|outcome| outcome.class), Some(OutcomeClass::Budget));
    }
}
