//! Limits on what runs at once: under a concurrency key, and in a project.
//!
//! The one rule: whoever starts jobs that are under a limit first takes the limit's lock, then counts what runs, and keeps the
//! lock until its own starts are committed; so a limit holds exactly, whoever claims. There is no counter that could go wrong:
//! what runs is counted from an index that has it alone. SQLite's one writer is alone already.
//!
//! A job whose limit has no room leaves the order of claims (`held` says why), so that it costs the next claim nothing; when
//! something ends under the limit, the next one comes back. Whoever lets one back takes the same lock, so that none is held
//! after the last one that could have let it back is gone. One that came back and ends before it has started lets the next one back, too.
//! One that came back for the room of one limit, and finds that another has none, hands that room on in the claim that finds it
//! ([`hand_on`]). Should room be left all the same (a limit that was raised, say, or one that came back and that no worker suits),
//! [`Store::relieve_once`] sees it.

use std::collections::{BTreeMap, BTreeSet};

use super::error::StoreError;
use super::rows::number;
use super::spending::ProjectRow;
use super::statement::{Arg, args, tuples};
use super::tx::{Lock, Tx};
use super::{Store, turn};
use crate::job::Hold;
use crate::job::budget::ProjectBudget;

const PROJECT_LIMIT: &str = "SELECT l.project, l.running, l.budget_tokens, l.budget_micro_usd, l.budget_per FROM project_limits l \
    WHERE l.project IN ";
const ALL_LIMITS: &str = "SELECT l.project, l.running, l.budget_tokens, l.budget_micro_usd, l.budget_per FROM project_limits l";
const SET_LIMIT: &str = "INSERT INTO project_limits (project, running) VALUES ($1, $2) \
    ON CONFLICT (project) DO UPDATE SET running = excluded.running";
const SET_BUDGET: &str = "INSERT INTO project_limits (project, budget_tokens, budget_micro_usd, budget_per) VALUES ($1, $2, $3, $4) \
    ON CONFLICT (project) DO UPDATE SET budget_tokens = excluded.budget_tokens, \
    budget_micro_usd = excluded.budget_micro_usd, budget_per = excluded.budget_per";
const DELETE_ROWS: [&str; 2] = [
    "DELETE FROM project_limits WHERE project = $1 AND budget_per IS NULL",
    "DELETE FROM project_limits WHERE project = $1 AND running IS NULL",
];
const DROP_LIMIT: &str = "UPDATE project_limits SET running = NULL WHERE project = $1 AND budget_per IS NOT NULL";
const DROP_BUDGET: &str = "UPDATE project_limits SET budget_tokens = NULL, budget_micro_usd = NULL, budget_per = NULL \
    WHERE project = $1 AND running IS NOT NULL";
pub(super) const RUNNING_UNDER_KEY: &str =
    "SELECT count(*) AS running FROM jobs WHERE concurrency_key = $1 AND token IS NOT NULL";
/// In the words of the index, which has no other rows. Who runs has a worker, and none is called nothing.
pub(super) const RUNNING_IN_PROJECT: &str =
    "SELECT count(*) AS running FROM jobs WHERE share = $1 AND share <> '' AND worker > '' AND finished_at IS NULL";
const HOLD: &str = "UPDATE jobs SET held = $1 WHERE id IN ";
/// The highest limit below another that a held job of a key names.
const LIMIT_BELOW: &str = "SELECT concurrency_limit AS running FROM jobs WHERE held = 'key' AND concurrency_key = $1 \
    AND concurrency_limit < $2 ORDER BY concurrency_limit DESC LIMIT 1";
const HELD_BY_KEY: &str = "SELECT j.id FROM jobs j WHERE j.held = 'key' AND j.concurrency_key = $1 AND j.concurrency_limit = $2 \
    ORDER BY j.priority, j.position, j.id LIMIT $3";
const HELD_BY_PROJECT: &str = "SELECT j.id FROM jobs j WHERE j.held = 'project' AND j.share = $1 \
    ORDER BY j.priority, j.position, j.id LIMIT $2";
const LET_BACK: &str = concat!("UPDATE jobs SET held = NULL, position = ", turn::back!(), " WHERE id IN ");
const NEXT_KEY: &str = "SELECT concurrency_key AS name FROM jobs WHERE held = 'key' AND concurrency_key > $1 \
    ORDER BY concurrency_key LIMIT 1";
const NEXT_PROJECT: &str = "SELECT share AS name FROM jobs WHERE held = 'project' AND share > $1 ORDER BY share LIMIT 1";

/// At most so many come back at once, of those of a key that name the same number; and of no further number once so many have.
const BACK_MAX: i64 = 100;
/// As many come back at least where those that came back before have left room: they may be many that cannot start, and each that
/// is too many is held again by the claim that comes to it.
const BACK_AGAIN: i64 = 64;

/// What limits a job: a concurrency key, a project.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Limit {
    Key(String),
    Project(String),
}

/// What the row of a job says of the limits that it is under.
#[derive(Debug, Clone, Default, PartialEq, Eq, sqlx::FromRow)]
pub(super) struct UnderLimits {
    /// Its project, or the empty word.
    share: String,
    concurrency_key: Option<String>,
    concurrency_limit: Option<i64>,
}

/// A job that is under limits, or not.
pub(super) trait Limited {
    /// What its row says of them.
    fn under(&self) -> &UnderLimits;

    /// Its concurrency key with the limit that it names.
    fn key(&self) -> Option<(&str, i64)> {
        let under = self.under();
        under.concurrency_key.as_deref().zip(under.concurrency_limit)
    }

    /// Its project, or the empty word.
    fn share(&self) -> &str {
        &self.under().share
    }
}

impl<L: Limited> Limited for &L {
    fn under(&self) -> &UnderLimits {
        (*self).under()
    }
}

/// How much room the limits have that this transaction has locked.
#[derive(Debug, Default)]
pub(super) struct Room {
    running: BTreeMap<Limit, i64>,
    projects: BTreeMap<String, i64>,
    /// The budgets of these projects, which are no locks.
    budgets: Vec<ProjectRow>,
}

#[derive(sqlx::FromRow)]
struct ProjectLimit {
    project: String,
    running: Option<i64>,
    budget_tokens: Option<i64>,
    budget_micro_usd: Option<i64>,
    budget_per: Option<String>,
}

impl ProjectLimit {
    fn budget(self) -> Option<ProjectRow> {
        let Self { project, budget_tokens, budget_micro_usd, budget_per, .. } = self;
        budget_per.map(|budget_per| ProjectRow { project, budget_tokens, budget_micro_usd, budget_per })
    }
}

#[derive(sqlx::FromRow)]
struct Running {
    running: i64,
}

#[derive(sqlx::FromRow)]
struct HeldJob {
    id: uuid::Uuid,
}

#[derive(sqlx::FromRow)]
struct Name {
    name: String,
}

impl Limit {
    fn name(&self) -> &str {
        match self {
            Self::Key(name) | Self::Project(name) => name,
        }
    }

    /// The lock's number; limits that happen to share one only wait for each other.
    fn number(&self) -> i32 {
        let kind = match self {
            Self::Key(_) => "key:",
            Self::Project(_) => "project:",
        };
        crc32fast::hash(format!("{kind}{}", self.name()).as_bytes()).cast_signed()
    }

    async fn running(&self, tx: &mut Tx) -> Result<i64, StoreError> {
        let sql = match self {
            Self::Key(_) => RUNNING_UNDER_KEY,
            Self::Project(_) => RUNNING_IN_PROJECT,
        };
        Ok(tx.first::<Running>(sql, args![self.name()]).await?.map_or(0, |row| row.running))
    }
}

impl Room {
    /// Locks the limits that these jobs are under, and counts what runs.
    pub(super) async fn of<J: Limited>(tx: &mut Tx, jobs: &[J]) -> Result<Self, StoreError> {
        let rows = limits_of(tx, jobs).await?;
        let projects = rows.iter().filter_map(|row| Some((row.project.clone(), row.running?))).collect();
        let budgets = rows.into_iter().filter_map(ProjectLimit::budget).collect();
        let mut room = Self { running: BTreeMap::new(), projects, budgets };
        let mut limits: Vec<Limit> = jobs.iter().filter_map(|job| job.key()).map(|(key, _)| Limit::Key(key.to_owned())).collect();
        limits.extend(room.projects.keys().cloned().map(Limit::Project));
        limits.sort_unstable();
        limits.dedup();
        tx.lock_names(limits.iter().map(Limit::number).collect()).await?;
        for limit in limits {
            let running = limit.running(tx).await?;
            room.running.insert(limit, running);
        }
        Ok(room)
    }

    /// The budgets of the projects that were looked at.
    pub(super) fn take_budgets(&mut self) -> Vec<ProjectRow> {
        std::mem::take(&mut self.budgets)
    }

    /// How many run under a key, with those that took room.
    pub(super) fn running_under(&self, key: &str) -> i64 {
        self.running.get(&Limit::Key(key.to_owned())).copied().unwrap_or_default()
    }

    /// Takes up room for a job, or says what has none.
    pub(super) fn take(&mut self, job: &impl Limited) -> Result<(), Hold> {
        let key = job.key().map(|(key, limit)| (Limit::Key(key.to_owned()), limit));
        let project = self.projects.get(job.share()).map(|limit| (Limit::Project(job.share().to_owned()), *limit));
        let full = |limit: &Option<(Limit, i64)>| {
            limit.as_ref().is_some_and(|(of, most)| self.running.get(of).is_some_and(|now| now >= most))
        };
        if full(&key) {
            return Err(Hold::Key);
        }
        if full(&project) {
            return Err(Hold::Project);
        }
        for (of, _) in key.into_iter().chain(project) {
            *self.running.entry(of).or_default() += 1;
        }
        Ok(())
    }

    /// Lets back as many as these limits have room for, and counts them.
    async fn fill(&self, tx: &mut Tx, how: Back, these: impl Fn(&Limit) -> bool) -> Result<u64, StoreError> {
        let mut back = 0;
        for (limit, running) in self.running.iter().filter(|(limit, _)| these(limit)) {
            back += fill(tx, limit, *running, self.projects.get(limit.name()).copied(), how).await?;
        }
        Ok(back)
    }
}

/// How many a limit lets back that has room.
#[derive(Debug, Clone, Copy)]
enum Back {
    /// Those that there is room for.
    ToFit,
    /// More, where there is room for any: others came back before and did not take it.
    Again,
}

impl Back {
    fn of(self, most: i64, running: i64) -> i64 {
        match (self, (most - running).clamp(0, BACK_MAX)) {
            (Self::Again, room) if room > 0 => room.max(BACK_AGAIN),
            (_, room) => room,
        }
    }
}

/// The limits of the projects of these jobs.
async fn limits_of<J: Limited>(tx: &mut Tx, jobs: &[J]) -> Result<Vec<ProjectLimit>, StoreError> {
    let mut projects: Vec<&str> = jobs.iter().map(Limited::share).filter(|share| !share.is_empty()).collect();
    projects.sort_unstable();
    projects.dedup();
    if projects.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!("{PROJECT_LIMIT}{}", tuples(1, 1, projects.len()));
    tx.all(&sql, projects.into_iter().map(Arg::from).collect()).await
}

/// Takes jobs, which this transaction has locked, out of the order of claims.
pub(super) async fn hold(tx: &mut Tx, jobs: &[uuid::Uuid], why: Hold) -> Result<(), StoreError> {
    if jobs.is_empty() {
        return Ok(());
    }
    let mut args = args![why.as_str()];
    args.extend(jobs.iter().copied().map(Arg::from));
    tx.run(&format!("{HOLD}{}", tuples(2, 1, jobs.len())), args).await.map(drop)
}

/// Lets back those that the ends of `jobs`, which this transaction has written, leave room for: what they took, or came back for. Once, and
/// after all rows that a transaction waits for: whoever has a limit's lock waits for nothing but limits behind it in their order.
pub(super) async fn let_back<J: Limited>(tx: &mut Tx, jobs: &[J]) -> Result<(), StoreError> {
    let room = Room::of(tx, jobs).await?;
    room.fill(tx, Back::ToFit, |_| true).await.map(drop)
}

/// Lets back others in the place of `jobs`, which this transaction holds, and counts them: each of `jobs` may have come back for the room
/// of a limit that it does not take now, because another limit has none.
pub(super) async fn hand_on<J: Limited>(tx: &mut Tx, room: &Room, jobs: &[J]) -> Result<u64, StoreError> {
    let keys = jobs.iter().filter_map(Limited::key).map(|(key, _)| Limit::Key(key.to_owned()));
    let of_jobs: BTreeSet<Limit> = keys.chain(jobs.iter().map(|job| Limit::Project(job.share().to_owned()))).collect();
    room.fill(tx, Back::Again, |limit| of_jobs.contains(limit)).await
}

/// Lets back as many as a limit, which is locked, has room for.
async fn fill(tx: &mut Tx, limit: &Limit, running: i64, of_project: Option<i64>, how: Back) -> Result<u64, StoreError> {
    match limit {
        // A project whose limit was taken away holds nobody.
        Limit::Project(project) => {
            let room = how.of(of_project.unwrap_or(i64::MAX), running);
            if room == 0 { Ok(0) } else { back(tx, HELD_BY_PROJECT, args![project, room]).await }
        }
        // Each job names its own number: there may be room for one where there is none for the one before it.
        Limit::Key(key) => {
            let (mut relieved, mut most) = (0, i64::MAX);
            while relieved < BACK_MAX.unsigned_abs()
                && let Some(next) = tx.first::<Running>(LIMIT_BELOW, args![key, most]).await?
                && next.running > running
            {
                most = next.running;
                relieved += back(tx, HELD_BY_KEY, args![key, most, how.of(most, running)]).await?;
            }
            Ok(relieved)
        }
    }
}

/// Lets back what a query yields, but not what somebody has locked: he may wait for a limit, or for one who does. Should it stay
/// held by that, [`Store::relieve_once`] sees it.
async fn back(tx: &mut Tx, held: &str, of: Vec<Arg>) -> Result<u64, StoreError> {
    let held: Vec<HeldJob> = tx.all_locked(held, Lock::ChangeFree, of).await?;
    if held.is_empty() {
        return Ok(0);
    }
    let listed = tuples(1, 1, held.len());
    tx.run(&format!("{LET_BACK}{listed}"), held.into_iter().map(|row| Arg::from(row.id)).collect()).await
}

impl Store {
    /// Says how many jobs of each project may run at once; projects that are not named have no limit.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn set_project_limits(&self, limits: &BTreeMap<String, u32>) -> Result<(), StoreError> {
        let rows: Vec<ProjectLimit> = self.db().all(ALL_LIMITS, args![]).await?;
        let read = |row: ProjectLimit| {
            let running = number::<u32>(row.running?, || "a project's limit".to_owned());
            Some(running.map(|running| (row.project, running)))
        };
        let there: BTreeMap<String, u32> = rows.into_iter().filter_map(read).collect::<Result<_, StoreError>>()?;
        if there == *limits {
            return Ok(());
        }
        let mut tx = self.db().begin().await?;
        for project in there.keys().filter(|project| !limits.contains_key(*project)) {
            tx.run(DELETE_ROWS[0], args![project]).await?;
            tx.run(DROP_LIMIT, args![project]).await?;
        }
        for (project, running) in limits {
            tx.run(SET_LIMIT, args![project, *running]).await?;
        }
        self.commit_change(tx).await
    }

    /// Says how much the jobs of each project may use; projects that are not named may use any amount.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn set_project_budgets(&self, budgets: &BTreeMap<String, ProjectBudget>) -> Result<(), StoreError> {
        let rows: Vec<ProjectLimit> = self.db().all(ALL_LIMITS, args![]).await?;
        let there: Vec<ProjectRow> = rows.into_iter().filter_map(ProjectLimit::budget).collect();
        if there.is_empty() && budgets.is_empty() {
            return Ok(());
        }
        let mut tx = self.db().begin().await?;
        for ProjectRow { project, .. } in there.iter().filter(|row| !budgets.contains_key(&row.project)) {
            tx.run(DELETE_ROWS[1], args![project]).await?;
            tx.run(DROP_BUDGET, args![project]).await?;
        }
        for (project, budget) in budgets {
            let cost = budget.cost_usd.map(|cost| cost.0);
            tx.run(SET_BUDGET, args![project, budget.tokens, cost, budget.per.as_str()]).await?;
        }
        self.commit_change(tx).await
    }

    /// Looks at most at `limit` keys and as many projects for whose sake jobs are held, lets back those that there is room for,
    /// and counts them. Goes on where `cursor`, empty at first, says, and begins again at the end.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn relieve_once(&self, cursor: &mut RelieveCursor, limit: u32) -> Result<u64, StoreError> {
        let mut relieved = 0;
        for (next, at, of) in
            [(NEXT_KEY, &mut cursor.key, Limit::Key as fn(String) -> Limit), (NEXT_PROJECT, &mut cursor.project, Limit::Project)]
        {
            for _ in 0..limit {
                let found: Option<Name> = self.db().first(next, args![at.as_str()]).await?;
                let Some(Name { name }) = found else {
                    at.clear();
                    break;
                };
                relieved += self.relieve(of(name.clone())).await?;
                *at = name;
            }
        }
        Ok(relieved)
    }

    async fn relieve(&self, limit: Limit) -> Result<u64, StoreError> {
        let mut tx = self.db().begin().await?;
        tx.lock_names(vec![limit.number()]).await?;
        let running = limit.running(&mut tx).await?;
        let of_project = match &limit {
            Limit::Key(_) => None,
            Limit::Project(project) => {
                let sql = format!("{PROJECT_LIMIT}($1)");
                tx.first::<ProjectLimit>(&sql, args![project]).await?.and_then(|row| row.running)
            }
        };
        let back = fill(&mut tx, &limit, running, of_project, Back::Again).await?;
        if back > 0 {
            self.commit_change(tx).await?
        } else {
            tx.commit().await?
        }
        Ok(back)
    }
}

/// Where [`Store::relieve_once`] goes on.
#[derive(Debug, Clone, Default)]
pub struct RelieveCursor {
    key: String,
    project: String,
}
