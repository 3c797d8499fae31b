//! Budgets: what of them is used, and which are used up.
//!
//! The one rule: what was used is what the ledger says (see `ledger`), in which an attempt that runs is with what it has said so far. Budgets
//! are looked at when a job that has one is about to start: it leaves the order of claims (`held` says so) where one is used up, and costs
//! the next claim nothing; and for workers: while a backend that says what it uses runs for a project, which may be given a budget at any
//! time, and before a revision or a critic. No claim of a job without a budget looks at a sum.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::dependencies;
use super::error::StoreError;
use super::rows::{held_until, number, word};
use super::statement::{Arg, args, tuples};
use super::tx::Tx;
use super::{Store, ledger, turn};
use crate::clock::Timestamp;
use crate::ids::JobId;
use crate::job::budget::{Account, Budget, BudgetScope, BudgetUse, MicroUsd, Period, Spent};
use crate::job::{Claim, JobSpec, OutcomeClass};

const BY_SCOPE: &str = "SELECT count(*) AS rows_there, CAST(coalesce(sum(attempts), 0) AS BIGINT) AS attempts, \
    CAST(coalesce(sum(prompt_tokens), 0) AS BIGINT) AS prompt_tokens, \
    CAST(coalesce(sum(completion_tokens), 0) AS BIGINT) AS completion_tokens, \
    CAST(coalesce(sum(cost_micro_usd), 0) AS BIGINT) AS cost_micro_usd FROM spending WHERE scope = $1 AND name = $2 AND day >= $3";
const BY_JOB: &str = "SELECT count(*) AS rows_there, count(*) AS attempts, \
    CAST(coalesce(sum(prompt_tokens), 0) AS BIGINT) AS prompt_tokens, \
    CAST(coalesce(sum(completion_tokens), 0) AS BIGINT) AS completion_tokens, \
    CAST(coalesce(sum(cost_micro_usd), 0) AS BIGINT) AS cost_micro_usd FROM attempts WHERE job = $1 AND prompt_tokens IS NOT NULL";
const PROJECT_BUDGETS: &str =
    "SELECT project, budget_tokens, budget_micro_usd, budget_per FROM project_limits WHERE budget_per IS NOT NULL";
const PROJECT_BUDGET: &str = "SELECT project, budget_tokens, budget_micro_usd, budget_per FROM project_limits WHERE project = $1 AND budget_per IS NOT NULL";
const SPECS: &str = "SELECT job, document FROM job_specs WHERE job IN ";
const SPENDERS: &str = "SELECT DISTINCT name FROM spending WHERE scope = 'project' ORDER BY name LIMIT 1000";
const HELD: &str = concat!(
    "SELECT j.id, j.ready_at, j.share, j.budgeted FROM jobs j WHERE j.held = 'budget' AND ",
    held_until!(),
    " AND (j.ready_at, j.id) > ($1, $2) ORDER BY j.ready_at, j.id LIMIT $3"
);
const LET_BACK: &str = concat!("UPDATE jobs SET held = NULL, position = ", turn::back!(), " WHERE held = 'budget' AND id IN ");
/// It may have ended before it was locked.
const END: &str = "UPDATE jobs SET state = 'failed', held = NULL, finished_at = $2, outcome_class = $3, outcome_message = $4 \
    WHERE id = $1 AND held = 'budget'";

/// After so many batches in a row of which all stay held the rest waits for the next pass.
const LOOKS_IN_VAIN: u32 = 10;

#[derive(sqlx::FromRow)]
struct SumRow {
    rows_there: i64,
    attempts: i64,
    prompt_tokens: i64,
    completion_tokens: i64,
    cost_micro_usd: i64,
}

/// A project's budget.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(super) struct ProjectRow {
    pub(super) project: String,
    pub(super) budget_tokens: Option<i64>,
    pub(super) budget_micro_usd: Option<i64>,
    pub(super) budget_per: String,
}

#[derive(sqlx::FromRow)]
struct SpecRow {
    job: Uuid,
    document: String,
}

#[derive(sqlx::FromRow)]
struct Name {
    name: String,
}

/// How far a look at the jobs that a budget holds has come.
#[derive(Debug, Clone, Copy, Default)]
pub struct AuditCursor(Option<(i64, Uuid)>);

#[derive(sqlx::FromRow)]
struct Candidate {
    id: Uuid,
    ready_at: i64,
    share: String,
    budgeted: i64,
}

/// The budgets that concern some jobs, and what of them is used.
#[derive(Debug, Default)]
pub(super) struct Budgets {
    projects: BTreeMap<String, BudgetUse>,
    jobs: BTreeMap<Uuid, Vec<BudgetUse>>,
}

impl Budgets {
    /// Those of these jobs, and of `projects`.
    pub(super) async fn of(
        tx: &mut Tx,
        budgeted: Vec<Uuid>,
        projects: Vec<ProjectRow>,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let mut budgets = Self::default();
        for row in projects {
            budgets.projects.insert(row.project.clone(), project(tx, row, now).await?);
        }
        if budgeted.is_empty() {
            return Ok(budgets);
        }
        let sql = format!("{SPECS}{}", tuples(1, 1, budgeted.len()));
        for SpecRow { job, document } in tx.all(&sql, budgeted.into_iter().map(Arg::from).collect()).await? {
            let spec: JobSpec =
                serde_json::from_str(&document).map_err(|error| StoreError::corrupt(format!("job {job}"), error))?;
            budgets.jobs.insert(job, of_spec(tx, JobId::from_uuid(job), &spec).await?);
        }
        Ok(budgets)
    }

    /// The budgets that are used up and keep a job from starting.
    pub(super) fn spent<'a>(&'a self, job: Uuid, share: &str) -> impl Iterator<Item = &'a BudgetUse> {
        let own = self.jobs.get(&job).into_iter().flatten();
        own.chain(self.projects.get(share)).filter(|one| one.is_spent())
    }
}

/// The budgets of a job and of its execution, with what of them is used.
async fn of_spec(tx: &mut Tx, job: JobId, spec: &JobSpec) -> Result<Vec<BudgetUse>, StoreError> {
    let mut all = Vec::new();
    let one = |scope, name: String, budget: &Budget, spent| BudgetUse {
        scope,
        name,
        per: Period::All,
        budget: budget.clone(),
        spent,
        again_at: None,
    };
    if let Some(budget) = &spec.budget {
        let (spent, _) = sum(tx, BY_JOB, args![job]).await?;
        all.push(one(BudgetScope::Job, job.to_string(), budget, spent));
    }
    if let Some((budget, name)) = spec.execution.budget.as_ref().zip(spec.execution.id.clone()) {
        let (spent, _) = sum(tx, BY_SCOPE, args!["execution", &name, i64::MIN]).await?;
        all.push(one(BudgetScope::Execution, name, budget, spent));
    }
    Ok(all)
}

async fn project(tx: &mut Tx, row: ProjectRow, now: Timestamp) -> Result<BudgetUse, StoreError> {
    let what = || format!("the budget of project {:?}", row.project);
    let per: Period = word(&row.budget_per, what)?;
    let (spent, _) = sum(tx, BY_SCOPE, args!["project", &row.project, per.first_day(now)]).await?;
    Ok(BudgetUse {
        scope: BudgetScope::Project,
        per,
        budget: Budget {
            tokens: row.budget_tokens.map(|tokens| number(tokens, what)).transpose()?,
            cost_usd: row.budget_micro_usd.map(|cost| number(cost, what)).transpose()?.map(MicroUsd),
        },
        spent,
        again_at: per.next(now),
        name: row.project,
    })
}

/// A sum, and whether there was anything to sum.
async fn sum(tx: &mut Tx, sql: &str, args: Vec<Arg>) -> Result<(Spent, bool), StoreError> {
    let what = || "a sum of what was used".to_owned();
    let Some(row) = tx.first::<SumRow>(sql, args).await? else { return Ok((Spent::default(), false)) };
    let spent = Spent {
        attempts: number(row.attempts, what)?,
        prompt_tokens: number(row.prompt_tokens, what)?,
        completion_tokens: number(row.completion_tokens, what)?,
        cost_usd: MicroUsd(number(row.cost_micro_usd, what)?),
    };
    Ok((spent, row.rows_there > 0))
}

/// All budgets that concern a job, used up or not.
pub(super) async fn of_job(tx: &mut Tx, job: JobId, spec: &JobSpec, now: Timestamp) -> Result<Vec<BudgetUse>, StoreError> {
    let mut all = of_spec(tx, job, spec).await?;
    if let Some(share) = &spec.project
        && let Some(row) = tx.first::<ProjectRow>(PROJECT_BUDGET, args![share]).await?
    {
        all.push(project(tx, row, now).await?);
    }
    Ok(all)
}

impl Store {
    /// What a job used, and every budget that concerns it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn budget_of_job(&self, id: JobId) -> Result<Vec<BudgetUse>, StoreError> {
        let spec = self.job(id).await?.spec;
        let mut tx = self.db().snapshot().await?;
        let found = async {
            let mut all = of_job(&mut tx, id, &spec, self.now()).await?;
            if spec.budget.is_none() {
                let (spent, _) = sum(&mut tx, BY_JOB, args![id]).await?;
                all.insert(0, unlimited(BudgetScope::Job, id.to_string(), Period::All, spent));
            }
            Ok(all)
        }
        .await;
        // There is nothing to undo, but a connection to give back.
        tx.rollback().await;
        found
    }

    /// What the attempt of a claim draws on: every budget that concerns its job, and what of them is its own. It is told whether the claim
    /// holds or not.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn account(&self, claim: &Claim, spec: &JobSpec) -> Result<Account, StoreError> {
        let mut tx = self.db().snapshot().await?;
        let found = async {
            let budgets = of_job(&mut tx, claim.job, spec, self.now()).await?;
            Ok(Account { budgets, on_record: ledger::of_attempt(&mut tx, claim).await? })
        }
        .await;
        tx.rollback().await;
        found
    }

    /// What an execution used. What may be used is what each of its jobs says.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] where none of its jobs has used anything.
    pub async fn budget_of_execution(&self, name: &str) -> Result<BudgetUse, StoreError> {
        let mut tx = self.db().snapshot().await?;
        let found = sum(&mut tx, BY_SCOPE, args!["execution", name, i64::MIN]).await;
        tx.rollback().await;
        match found? {
            (_, false) => Err(StoreError::not_found("anything that was used by execution", name)),
            (spent, true) => Ok(unlimited(BudgetScope::Execution, name.to_owned(), Period::All, spent)),
        }
    }

    /// What every project used that has a budget or has used anything: in the period of its budget, or in all.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn budgets_of_projects(&self) -> Result<Vec<BudgetUse>, StoreError> {
        let mut tx = self.db().snapshot().await?;
        let found = projects(&mut tx, self.now()).await;
        tx.rollback().await;
        found
    }

    /// Looks at the jobs that a budget holds, `limit` at a time, lets those back that may start again, and fails those whose own budget
    /// or execution's is used up: nothing can change that. Goes on to the end, unless so many in a row stay as they are that this would
    /// take long; then the next call goes on behind `cursor`, which begins again at the end.
    ///
    /// # Errors
    /// When the database cannot be asked; those that were let back or failed before stand.
    pub async fn audit_once(&self, cursor: &mut AuditCursor, limit: u32) -> Result<u64, StoreError> {
        let (mut changed, mut in_vain) = (0, 0);
        loop {
            let some = self.audit_some(cursor, limit).await?;
            changed += some;
            in_vain = if some == 0 { in_vain + 1 } else { 0 };
            if cursor.0.is_none() || in_vain == LOOKS_IN_VAIN {
                return Ok(changed);
            }
            // Each of these is a transaction of its own, and others have their turns between two.
            tokio::task::yield_now().await;
        }
    }

    async fn audit_some(&self, cursor: &mut AuditCursor, limit: u32) -> Result<u64, StoreError> {
        let (ready_at, id) = cursor.0.unwrap_or((i64::MIN, Uuid::nil()));
        // Outside of a transaction that writes: there is seldom something to do, and SQLite's writer is not to be bothered for nothing.
        let jobs: Vec<Candidate> = self.db().all(HELD, args![ready_at, id, limit]).await?;
        let next = if jobs.len() < limit as usize { None } else { jobs.last().map(|job| (job.ready_at, job.id)) };
        let mut changed = 0;
        if !jobs.is_empty() {
            let now = self.now();
            let mut snapshot = self.db().snapshot().await?;
            let judged = judge(&mut snapshot, &jobs, now).await;
            snapshot.rollback().await;
            let judged = judged?;
            if !judged.back.is_empty() || !judged.over.is_empty() {
                let mut tx = self.db().begin().await?;
                let result = apply(&mut tx, judged, now).await;
                changed = self.conclude(tx, result).await?;
            }
        }
        cursor.0 = next;
        Ok(changed)
    }
}

async fn projects(tx: &mut Tx, now: Timestamp) -> Result<Vec<BudgetUse>, StoreError> {
    let mut all: BTreeMap<String, BudgetUse> = BTreeMap::new();
    for row in tx.all::<ProjectRow>(PROJECT_BUDGETS, args![]).await? {
        all.insert(row.project.clone(), project(tx, row, now).await?);
    }
    for Name { name } in tx.all::<Name>(SPENDERS, args![]).await? {
        if !all.contains_key(&name) {
            let (spent, _) = sum(tx, BY_SCOPE, args!["project", &name, i64::MIN]).await?;
            all.insert(name.clone(), unlimited(BudgetScope::Project, name, Period::All, spent));
        }
    }
    Ok(all.into_values().collect())
}

fn unlimited(scope: BudgetScope, name: String, per: Period, spent: Spent) -> BudgetUse {
    BudgetUse { scope, name, per, budget: Budget::default(), spent, again_at: None }
}

/// What becomes of jobs that a budget held.
struct Judged {
    /// Those that no budget concerns any more that is used up.
    back: Vec<Uuid>,
    /// Those for which no waiting changes anything, with the sentences of their ends.
    over: Vec<(JobId, String)>,
}

async fn judge(tx: &mut Tx, jobs: &[Candidate], now: Timestamp) -> Result<Judged, StoreError> {
    let budgeted = jobs.iter().filter(|job| job.budgeted == 1).map(|job| job.id).collect();
    let projects = tx.all::<ProjectRow>(PROJECT_BUDGETS, args![]).await?;
    let budgets = Budgets::of(tx, budgeted, projects, now).await?;
    let mut judged = Judged { back: Vec::new(), over: Vec::new() };
    for job in jobs {
        let mut spent = budgets.spent(job.id, &job.share).peekable();
        if spent.peek().is_none() {
            judged.back.push(job.id);
        } else if let Some(own) = spent.find(|one| one.scope != BudgetScope::Project) {
            judged.over.push((JobId::from_uuid(job.id), own.to_string()));
        }
    }
    Ok(judged)
}

/// Lets back, or ends, those of the jobs that a budget still holds, and counts them. Should the budget of one that comes back have been
/// used up since it was judged, the claim that comes to it holds it again.
async fn apply(tx: &mut Tx, Judged { back, over }: Judged, now: Timestamp) -> Result<u64, StoreError> {
    if !over.is_empty() {
        dependencies::lock_with_waiting(tx, &over.iter().map(|(job, _)| *job).collect::<Vec<_>>()).await?;
    }
    let mut ended = Vec::new();
    for (job, message) in over {
        if tx.run(END, args![job, now, OutcomeClass::Budget.as_str(), &message]).await? == 1 {
            ended.push(job);
        }
    }
    dependencies::tell_failed(tx, &ended, now).await?;
    let mut changed = ended.len() as u64;
    if !back.is_empty() {
        let sql = format!("{LET_BACK}{}", tuples(1, 1, back.len()));
        changed += tx.run(&sql, back.into_iter().map(Arg::from).collect()).await?;
    }
    Ok(changed)
}
