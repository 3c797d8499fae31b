//! Which jobs a list or a change is about.
//!
//! The one rule: whatever is asked for, its ids are read along an index that has such jobs alone and in the order of the ids, so that a page
//! costs what a page costs, whatever waits and whatever has ended. Two are not in that order: what runs, which is as few as there are slots;
//! and of a project or an execution that is asked for by state, all of its own are looked at from one end.

use super::jobs::Conditions;
use super::statement::Arg;
use crate::ids::JobId;
use crate::job::{Hold, JobState};

/// From which end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Newest,
    Oldest,
}

/// Jobs that have all of this, in the order of their ids.
#[derive(Debug)]
pub(super) struct Which<'a> {
    pub(super) state: Option<JobState>,
    pub(super) held: Option<Hold>,
    pub(super) project: Option<&'a String>,
    pub(super) execution: Option<&'a String>,
    /// Those that come after this one.
    pub(super) beyond: Option<JobId>,
    pub(super) order: Order,
    pub(super) limit: u32,
}

/// An index by which they are found, and what is to be said of `jobs j` besides.
struct Arm {
    index: &'static str,
    such: String,
}

impl Arm {
    fn new(index: &'static str, such: impl Into<String>) -> Self {
        Self { index, such: such.into() }
    }
}

impl Which<'_> {
    /// `WITH … picked (picked_job)`, the ids of one more than `limit`: it tells whether there are more. A statement goes on from there.
    pub(super) fn picked(&self) -> (String, Vec<Arg>) {
        let (beyond, order) = match self.order {
            Order::Newest => ("j.id <", "DESC"),
            Order::Oldest => ("j.id >", "ASC"),
        };
        let most = u64::from(self.limit) + 1;
        let mut also = Conditions::default();
        also.only("j.project =", self.project.map(Arg::from));
        also.only("j.execution =", self.execution.map(Arg::from));
        also.only(beyond, self.beyond.map(Arg::from));
        let arm = |(number, Arm { index, such }): (usize, Arm)| {
            let ids = format!("SELECT j.id FROM jobs j /*! INDEXED BY {index} */ WHERE {}", also.and(&such));
            // All of them before the order of their ids: PostgreSQL might go through all jobs in that order until it has met enough that run.
            if index == RUNNING {
                return ids;
            }
            format!("SELECT a{number}.id FROM ({ids} ORDER BY j.id {order} LIMIT {most}) AS a{number}")
        };
        let arms: Vec<String> = self.arms().into_iter().enumerate().map(arm).collect();
        let sql = format!(
            "WITH found (picked_job) AS MATERIALIZED ({}), \
             picked AS MATERIALIZED (SELECT picked_job FROM found ORDER BY picked_job {order} LIMIT {most}) ",
            arms.join(" UNION ALL ")
        );
        (sql, also.args)
    }

    fn arms(&self) -> Vec<Arm> {
        let own = match (self.execution, self.project) {
            (Some(_), _) => Some("jobs_execution"),
            (None, Some(_)) => Some("jobs_project"),
            (None, None) => None,
        };
        match (self.state, self.held) {
            (Some(JobState::Running), None) => vec![Arm::new(RUNNING, "j.worker IS NOT NULL")],
            (None, None) => vec![Arm::new(own.unwrap_or(ANY), "1 = 1")],
            (None | Some(JobState::Queued), Some(held)) => vec![Arm::new(own.unwrap_or(QUEUED), waiting(Some(held)))],
            // What has ended or runs is not held: nobody.
            (Some(_), Some(_)) => vec![Arm::new(ANY, "j.id = NULL")],
            (Some(JobState::Queued), None) => match own {
                Some(own) => vec![Arm::new(own, "j.state = 'queued'")],
                None => {
                    let reasons = Hold::ALL.into_iter().map(Some).chain([None]);
                    reasons.map(|held| Arm::new(QUEUED, waiting(held))).collect()
                }
            },
            (Some(ended), None) => {
                vec![Arm::new(own.unwrap_or(ENDED), format!("j.finished_at IS NOT NULL AND j.state = '{ended}'"))]
            }
        }
    }
}

const ANY: &str = "sqlite_autoindex_jobs_1";
const QUEUED: &str = "jobs_queued";
const RUNNING: &str = "jobs_worker";
const ENDED: &str = "jobs_ended";

/// That a job waits, for this reason or for none.
fn waiting(held: Option<Hold>) -> String {
    match held {
        Some(held) => format!("j.state = 'queued' AND j.held = '{held}'"),
        None => "j.state = 'queued' AND j.held IS NULL".to_owned(),
    }
}
