//! Reading jobs.

use std::collections::BTreeMap;

use super::Store;
use super::error::StoreError;
use super::rows::{JobRow, job_columns};
use super::statement::{Arg, args, tuples};
use super::tx::Tx;
use super::types::{JobFilter, Page};
use super::which::{Order, Which};
use crate::ids::JobId;
use crate::job::Job;

const GET: &str = concat!("SELECT ", job_columns!(), " FROM jobs j JOIN job_specs s ON s.job = j.id WHERE j.id = $1");
const BY_IDS: &str = concat!("SELECT ", job_columns!(), " FROM jobs j JOIN job_specs s ON s.job = j.id WHERE j.id IN ");
const PICKED: &str = concat!(
    "SELECT ",
    job_columns!(),
    " FROM picked /*! CROSS */ JOIN jobs j ON j.id = picked_job /*! CROSS */ JOIN job_specs s ON s.job = j.id ORDER BY picked_job DESC"
);

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
    let sql = format!("{BY_IDS}{}", tuples(1, 1, ids.len()));
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
        let which = Which {
            state: filter.state,
            held: filter.held,
            project: filter.project.as_ref(),
            execution: filter.execution.as_ref(),
            beyond: filter.before,
            order: Order::Newest,
            limit: filter.limit,
        };
        let (picked, args) = which.picked();
        page(self.db().all::<JobRow>(&format!("{picked}{PICKED}"), args).await?, filter.limit)
    }
}

/// What is said of rows, and the arguments in it.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    conditions: Vec<String>,
    pub(super) args: Vec<Arg>,
}

impl Conditions {
    /// Adds a condition where there is a value for it.
    pub(super) fn only(&mut self, condition: &'static str, value: Option<Arg>) {
        if let Some(value) = value {
            self.args.push(value);
            self.conditions.push(format!("{condition} ${}", self.args.len()));
        }
    }

    /// All of them, and that.
    pub(super) fn and(&self, that: &str) -> String {
        [&[that.to_owned()], &self.conditions[..]].concat().join(" AND ")
    }
}

/// A page of at most `limit` of the rows.
pub(super) fn page<R, T: TryFrom<R, Error = StoreError>>(rows: Vec<R>, limit: u32) -> Result<Page<T>, StoreError> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = rows.len() > limit;
    let items = rows.into_iter().take(limit).map(T::try_from).collect::<Result<_, _>>()?;
    Ok(Page { items, more })
}
