//! How much of the code tests covered in what was delivered last, for whoever delivers next.
//!
//! The one rule: it is written with the completion that it comes from, in its transaction, and there is one row for each repository,
//! base and gate. A base that is a commit by its id has none: there is no last one of those.

use super::Store;
use super::error::StoreError;
use super::rows::{number, parse};
use super::statement::args;
use super::tx::Tx;
use crate::clock::Timestamp;
use crate::ids::{JobId, ObjectId};
use crate::job::coverage::{CoverageBefore, CoveredLines};
use crate::job::{Completion, Job};

const BEFORE: &str =
    "SELECT job, commit_id, covered, total, measured_at FROM coverage WHERE repo = $1 AND base = $2 AND gate = $3";
const BASE_OF: &str = "SELECT j.base FROM jobs j WHERE j.id = $1";
/// Of two that are delivered at once, the later one stays.
const PUT: &str = "INSERT INTO coverage (repo, base, gate, job, commit_id, covered, total, measured_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
    ON CONFLICT (repo, base, gate) DO UPDATE SET job = excluded.job, commit_id = excluded.commit_id, covered = excluded.covered, \
    total = excluded.total, measured_at = excluded.measured_at WHERE excluded.measured_at >= coverage.measured_at";

#[derive(sqlx::FromRow)]
struct Row {
    job: uuid::Uuid,
    commit_id: Option<String>,
    covered: i64,
    total: i64,
    measured_at: i64,
}

#[derive(sqlx::FromRow)]
struct BaseOf {
    base: String,
}

impl Store {
    /// What a gate of that name saw last in a result that was delivered in the same repository from the same branch or tag as the job
    /// begins at; nothing where there is none yet.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn coverage_before(&self, job: &Job, gate: &str) -> Result<Option<CoverageBefore>, StoreError> {
        let row: Option<Row> = self.db().first(BEFORE, args![&job.repo, &job.base, gate]).await?;
        let what = || format!("coverage of {} at {}", job.repo, job.base);
        row.map(|row| {
            Ok(CoverageBefore {
                lines: CoveredLines { covered: number(row.covered, what)?, total: number(row.total, what)? },
                job: JobId::from_uuid(row.job),
                commit: row.commit_id.as_deref().map(|text| parse(text, what)).transpose()?,
                measured_at: Timestamp(row.measured_at),
            })
        })
        .transpose()
    }
}

/// Writes down what gates measured in these results. In the order of the rows, because two may write several at once.
pub(super) async fn record(tx: &mut Tx, completions: &[&Completion]) -> Result<(), StoreError> {
    let mut rows: Vec<(&str, String, &str, &Completion, CoveredLines)> = Vec::new();
    for completion in completions {
        let measured = completion.gates.iter().filter_map(|gate| Some((gate.name.as_str(), gate.coverage.as_ref()?.lines?)));
        let measured: Vec<_> = measured.collect();
        if measured.is_empty() {
            continue;
        }
        let Some(BaseOf { base }) = tx.first(BASE_OF, args![completion.job]).await? else { continue };
        if base.parse::<ObjectId>().is_ok() {
            continue;
        }
        rows.extend(measured.into_iter().map(|(gate, lines)| (completion.repo.as_str(), base.clone(), gate, *completion, lines)));
    }
    rows.sort_by(|a, b| (a.0, &a.1, a.2, a.3.created_at).cmp(&(b.0, &b.1, b.2, b.3.created_at)));
    for (repo, base, gate, completion, CoveredLines { covered, total }) in rows {
        let args = args![repo, &base, gate, completion.job, completion.commit.as_ref(), covered, total, completion.created_at,];
        tx.run(PUT, args).await?;
    }
    Ok(())
}
