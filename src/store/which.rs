//! Which jobs a list or a change is about.
//!
//! The one rule: whatever is asked for, its ids are read along an index that has such jobs alone and in the order of the ids, so that a page
//! costs what a page costs, whatever waits and whatever has ended. Three are not like that: of what runs, which is as few as there are slots,
//! and of what waits of a project, all are put in order first; and of an execution, and what has ended of a project, all jobs are looked at from one
//! end.

use super::jobs::Conditions;
use super::statement::Arg;
use crate::ids::JobId;
use crate::job::{Hold, JobState};

/// That a job has ended, in the words of the index that has these.
macro_rules! has_ended {
    () => {
        "j.state IN ('succeeded', 'failed', 'cancelled')"
    };
}
pub(super) use has_ended;

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
    /// The order in which the index has them; none where that is not the one of the ids.
    along: &'static [&'static str],
}

impl Arm {
    fn new(index: &'static str, such: impl Into<String>) -> Self {
        Self { index, such: such.into(), along: &["j.id"] }
    }

    /// Of those that wait, for this reason or for none. PostgreSQL does not know that all of them have the same reason where it is none.
    fn waiting(held: Option<Hold>) -> Self {
        let such = match held {
            Some(held) => format!("j.state = 'queued' AND j.held = '{held}'"),
            None => "j.state = 'queued' AND j.held IS NULL".to_owned(),
        };
        Self { index: "jobs_queued", such, along: &["j.held", "j.id"] }
    }

    fn unordered(index: &'static str, such: impl Into<String>) -> Self {
        Self { along: &[], ..Self::new(index, such) }
    }

    fn sql(&self, number: usize, also: &Conditions, order: &str, most: u64) -> String {
        let Self { index, such, along } = self;
        let ids = format!("SELECT j.id FROM jobs j /*! INDEXED BY {index} */ WHERE {}", also.and(such));
        if along.is_empty() {
            // PostgreSQL might otherwise go through all jobs in the order of their ids until it has met enough of these.
            return ids;
        }
        let along: Vec<String> = along.iter().map(|column| format!("{column} {order}")).collect();
        format!("SELECT a{number}.id FROM ({ids} ORDER BY {} LIMIT {most}) AS a{number}", along.join(", "))
    }
}

impl Which<'_> {
    /// `WITH … picked (picked_job)`, the ids of one more than `limit`: it tells whether there are more. A statement goes on from there.
    pub(super) fn picked(&self) -> (String, Vec<Arg>) {
        let (beyond, order) = match self.order {
            Order::Newest => ("j.id <", "DESC"),
            Order::Oldest => ("j.id >", "ASC"),
        };
        let mut also = Conditions::default();
        // In the words of `jobs_share` alone: PostgreSQL would go by the other index where it may.
        let of_project = if self.waits() && self.execution.is_none() { "j.share =" } else { "j.project =" };
        also.only(of_project, self.project.map(Arg::from));
        also.only("j.execution =", self.execution.map(Arg::from));
        also.only(beyond, self.beyond.map(Arg::from));
        let wanted = u64::from(self.limit) + 1;
        // A number in the text tells the planner that they are few; and few numbers occur, since each is a statement that has to be prepared.
        let most = wanted.next_power_of_two();
        let arms = self.arms();
        let arms: Vec<String> = arms.iter().enumerate().map(|(number, arm)| arm.sql(number, &also, order, most)).collect();
        also.args.push(wanted.into());
        let sql = format!(
            "WITH found (picked_job) AS MATERIALIZED ({}), \
             picked AS MATERIALIZED (SELECT picked_job FROM found ORDER BY picked_job {order} LIMIT ${}) ",
            arms.join(" UNION ALL "),
            also.args.len()
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
            (Some(JobState::Running), None) => vec![Arm::unordered("jobs_worker", "j.worker IS NOT NULL")],
            (None, None) => vec![Arm::new(own.unwrap_or("sqlite_autoindex_jobs_1"), "1 = 1")],
            (None | Some(JobState::Queued), held) => self.waiting(held),
            // What has ended or runs is not held: nobody.
            (Some(_), Some(_)) => vec![Arm::new("sqlite_autoindex_jobs_1", "j.id = NULL")],
            (Some(ended), None) => {
                vec![Arm::new(own.unwrap_or("jobs_ended"), format!("{} AND j.state = '{ended}'", has_ended!()))]
            }
        }
    }

    /// Whether it is about nobody but those that wait.
    fn waits(&self) -> bool {
        matches!((self.state, self.held), (Some(JobState::Queued), _) | (None, Some(_)))
    }

    fn waiting(&self, held: Option<Hold>) -> Vec<Arm> {
        let also = held.map(|held| format!(" AND j.held = '{held}'")).unwrap_or_default();
        match (self.execution, self.project, held) {
            (Some(_), _, _) => vec![Arm::new("jobs_execution", format!("j.state = 'queued'{also}"))],
            (None, Some(_), _) => {
                let of_projects = "j.share <> '' AND j.worker IS NULL AND j.finished_at IS NULL";
                vec![Arm::unordered("jobs_share", format!("{of_projects}{also}"))]
            }
            (None, None, Some(held)) => vec![Arm::waiting(Some(held))],
            (None, None, None) => Hold::ALL.into_iter().map(Some).chain([None]).map(Arm::waiting).collect(),
        }
    }
}
