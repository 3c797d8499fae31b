//! Reading jobs.

use std::collections::BTreeMap;

use super::Store;
use super::error::StoreError;
use super::rows::{JobRow, held_until, job_columns};
use super::statement::{Arg, args, tuples};
use super::tx::Tx;
use super::types::{JobFilter, Page};
use crate::ids::JobId;
use crate::job::{Hold, Job, JobState};

const GET: &str = concat!("SELECT ", job_columns!(), " FROM jobs j JOIN job_specs s ON s.job = j.id WHERE j.id = $1");
const LIST: &str = concat!("SELECT ", job_columns!(), " FROM jobs j JOIN job_specs s ON s.job = j.id WHERE ");

/// A job, as this transaction sees it.
pub(super) async fn get(tx: &mut Tx, id: JobId) -> Result<Job, StoreError> {
    let row: Option<JobRow> = tx.first(GET, args![id]).await?;
    row.ok_or_else(|| StoreError::not_found("job", id))?.try_into()
}

/// Jobs by their ids, as this transaction sees them.
pub(super) async fn get_all(tx: &mut Tx, ids: &[JobId]) -> Result<BTreeMap<JobId, Job>, StoreError> {
    if ids.is_empty() {
        return Ok(BTreeMap::new());
    }
    let sql = format!("{LIST}j.id IN {}", tuples(1, 1, ids.len()));
    let rows: Vec<JobRow> = tx.all(&sql, ids.iter().copied().map(Arg::from).collect()).await?;
    let jobs = rows.into_iter().map(|row| Job::try_from(row).map(|job| (job.id, job)));
    jobs.collect()
}

impl Store {
    /// A job.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn job(&self, id: JobId) -> Result<Job, StoreError> {
        let row: Option<JobRow> = self.db().first(GET, args![id]).await?;
        row.ok_or_else(|| StoreError::not_found("job", id))?.try_into()
    }

    /// Jobs, newest first.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn jobs(&self, filter: &JobFilter) -> Result<Page<Job>, StoreError> {
        let mut list = Listing::new();
        // What is held is queued: SQLite would go by that, and not by what it is held for.
        let state = filter.state.filter(|state| filter.held.is_none() || *state != JobState::Queued);
        list.only("j.state =", state.map(|state| state.as_str().into()));
        if let Some(held) = filter.held {
            list.that(held_for(held));
        }
        list.only("j.project =", filter.project.as_ref().map(Arg::from));
        list.only("j.execution =", filter.execution.as_ref().map(Arg::from));
        list.only("j.id <", filter.before.map(Arg::from));
        let (sql, args) = list.newest_first(LIST, filter.limit);
        page(self.db().all::<JobRow>(&sql, args).await?, filter.limit)
    }
}

/// That a job is held for a reason, in the words of the index that has these.
fn held_for(held: Hold) -> String {
    let of_index = match held {
        Hold::Scheduled | Hold::Backoff | Hold::Budget | Hold::Answer => held_until!(),
        Hold::Dependency | Hold::Key | Hold::Project => "j.state = 'queued'",
    };
    format!("{of_index} AND j.held = '{held}'")
}

/// The conditions of a listing of `j`.
pub(super) struct Listing {
    conditions: Vec<String>,
    args: Vec<Arg>,
}

impl Listing {
    pub(super) const fn new() -> Self {
        Self { conditions: Vec::new(), args: Vec::new() }
    }

    /// Adds a condition where there is a value for it.
    pub(super) fn only(&mut self, condition: &'static str, value: Option<Arg>) {
        if let Some(value) = value {
            self.args.push(value);
            self.conditions.push(format!("{condition} ${}", self.args.len()));
        }
    }

    /// Adds a condition.
    fn that(&mut self, condition: String) {
        self.conditions.push(condition);
    }

    /// The statement that begins with `select`, for one row more than `limit`: it tells whether there are more.
    pub(super) fn newest_first(self, select: &str, limit: u32) -> (String, Vec<Arg>) {
        self.ordered(select, "j.id DESC", limit)
    }

    /// The same from the other end.
    pub(super) fn oldest_first(self, select: &str, limit: u32) -> (String, Vec<Arg>) {
        self.ordered(select, "j.id", limit)
    }

    fn ordered(mut self, select: &str, order: &str, limit: u32) -> (String, Vec<Arg>) {
        let conditions = if self.conditions.is_empty() { "1 = 1".to_owned() } else { self.conditions.join(" AND ") };
        self.args.push(Arg::from(i64::from(limit) + 1));
        (format!("{select}{conditions} ORDER BY {order} LIMIT ${}", self.args.len()), self.args)
    }
}

/// A page of at most `limit` of the rows.
pub(super) fn page<R, T: TryFrom<R, Error = StoreError>>(rows: Vec<R>, limit: u32) -> Result<Page<T>, StoreError> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = rows.len() > limit;
    let items = rows.into_iter().take(limit).map(T::try_from).collect::<Result<_, _>>()?;
    Ok(Page { items, more })
}
