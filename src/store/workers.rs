//! The registry of workers: what they say of themselves, and what operators ask of them.
//!
//! The one rule: a worker writes what it says and operators write what they ask, each their own columns, so that neither ever
//! undoes the other. No lease rests on any of it.

use super::error::StoreError;
use super::rows::{json, number, word};
use super::statement::{Arg, args};
use super::tx::Tx;
use super::{Store, pauses};
use crate::clock::Timestamp;
use crate::ids::WorkerId;
use crate::job::Pause;
use crate::job::worker_record::{Drain, WorkerRecord, WorkerReport};

const PUT: &str = "INSERT INTO workers (id, host, version, pid, boot_id, labels, backends, slots, pressure, claiming, phase, \
    report_ms, started_at, seen_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) \
    ON CONFLICT (id) DO UPDATE SET host = excluded.host, version = excluded.version, pid = excluded.pid, \
    boot_id = excluded.boot_id, labels = excluded.labels, backends = excluded.backends, slots = excluded.slots, \
    pressure = excluded.pressure, claiming = excluded.claiming, phase = excluded.phase, report_ms = excluded.report_ms, started_at = excluded.started_at, \
    seen_at = excluded.seen_at RETURNING drain_asked_at, drain_asked_by, drain_reason";
const GET: &str = "SELECT w.id, w.host, w.version, w.pid, w.boot_id, w.labels, w.backends, w.slots, w.pressure, w.claiming, w.phase, w.report_ms, \
    w.started_at, w.seen_at, w.drain_asked_at, w.drain_asked_by, w.drain_reason, \
    (SELECT count(*) FROM jobs j WHERE j.worker = w.id) AS jobs FROM workers w";
const BY_NAME: &str = " ORDER BY w.id";
const DRAIN: &str = "UPDATE workers SET drain_asked_at = $2, drain_asked_by = $3, drain_reason = $4 \
    WHERE id = $1 AND drain_asked_at IS NULL";
const RESUME: &str = "UPDATE workers SET drain_asked_at = NULL, drain_asked_by = NULL, drain_reason = NULL \
    WHERE id = $1 AND drain_asked_at IS NOT NULL";

#[derive(sqlx::FromRow)]
pub(super) struct DrainRow {
    drain_asked_at: Option<i64>,
    drain_asked_by: Option<String>,
    drain_reason: Option<String>,
}

impl DrainRow {
    pub(super) fn drain(self) -> Option<Drain> {
        let (asked_at, asked_by) = (Timestamp(self.drain_asked_at?), self.drain_asked_by?);
        Some(Drain { asked_at, asked_by, reason: self.drain_reason? })
    }
}

#[derive(sqlx::FromRow)]
struct WorkerRow {
    id: String,
    host: String,
    version: String,
    pid: i64,
    boot_id: String,
    labels: String,
    backends: String,
    slots: String,
    pressure: String,
    claiming: String,
    phase: String,
    report_ms: i64,
    started_at: i64,
    seen_at: i64,
    #[sqlx(flatten)]
    drain: DrainRow,
    jobs: i64,
}

impl WorkerRow {
    fn record(self, pauses: &[Pause], now: Timestamp) -> Result<WorkerRecord, StoreError> {
        let what = || format!("worker {}", self.id);
        let report = WorkerReport {
            pid: number(self.pid, what)?,
            labels: json(&self.labels, what)?,
            backends: json(&self.backends, what)?,
            slots: json(&self.slots, what)?,
            pressure: json(&self.pressure, what)?,
            claiming: json(&self.claiming, what)?,
            phase: word(&self.phase, what)?,
            report_ms: self.report_ms,
            started_at: Timestamp(self.started_at),
            seen_at: Timestamp(self.seen_at),
            host: self.host,
            version: self.version,
            boot_id: self.boot_id,
            id: WorkerId::new(self.id.clone()),
        };
        Ok(WorkerRecord::new(report, self.drain.drain(), pauses, number(self.jobs, what)?, now))
    }
}

impl Store {
    /// Records what a worker says of itself, in place of what it said before, and tells it whether somebody asked for its
    /// drain.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn report_worker(&self, report: &WorkerReport) -> Result<Option<Drain>, StoreError> {
        let args = args![
            &report.id,
            &report.host,
            &report.version,
            report.pid,
            &report.boot_id,
            &document(&report.labels)?,
            &document(&report.backends)?,
            &document(&report.slots)?,
            &document(&report.pressure)?,
            &document(&report.claiming)?,
            report.phase.as_str(),
            report.report_ms,
            report.started_at,
            report.seen_at,
        ];
        let mut tx = self.db().begin().await?;
        let row: Option<DrainRow> = tx.first(PUT, args).await?;
        tx.commit().await?;
        Ok(row.and_then(DrainRow::drain))
    }

    /// All workers that ever reported, by name.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn workers(&self) -> Result<Vec<WorkerRecord>, StoreError> {
        let rows: Vec<WorkerRow> = self.db().all(&format!("{GET}{BY_NAME}"), args![]).await?;
        let pauses = self.pauses().await?;
        rows.into_iter().map(|row| row.record(&pauses, self.now())).collect()
    }

    /// A worker.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn worker(&self, id: &WorkerId) -> Result<WorkerRecord, StoreError> {
        let row: Option<WorkerRow> = self.db().first(&format!("{GET} WHERE w.id = $1"), args![id]).await?;
        row.ok_or_else(|| StoreError::not_found("worker", id))?.record(&self.pauses().await?, self.now())
    }

    /// Asks a worker to take no more jobs, and to leave when those that it runs have ended. The request stands until
    /// [`Store::resume_worker`], also for daemons of that name that start later. Asking again changes nothing.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn drain_worker(&self, id: &WorkerId, by: &str, reason: &str) -> Result<WorkerRecord, StoreError> {
        self.ask_worker(id, DRAIN, args![id, self.now(), by, reason]).await
    }

    /// Withdraws a request to drain; where there is none, nothing changes.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn resume_worker(&self, id: &WorkerId) -> Result<WorkerRecord, StoreError> {
        self.ask_worker(id, RESUME, args![id]).await
    }

    async fn ask_worker(&self, id: &WorkerId, sql: &str, args: Vec<Arg>) -> Result<WorkerRecord, StoreError> {
        let mut tx = self.db().begin().await?;
        let result = match tx.run(sql, args).await {
            Ok(_) => worker_within(&mut tx, id, self.now()).await,
            Err(error) => Err(error),
        };
        self.conclude(tx, result).await
    }
}

/// All workers that ever reported, by name, as this transaction sees them.
pub(super) async fn all(tx: &mut Tx, now: Timestamp) -> Result<Vec<WorkerRecord>, StoreError> {
    let rows: Vec<WorkerRow> = tx.all(&format!("{GET}{BY_NAME}"), args![]).await?;
    let pauses = pauses::all(tx).await?;
    rows.into_iter().map(|row| row.record(&pauses, now)).collect()
}

async fn worker_within(tx: &mut Tx, id: &WorkerId, now: Timestamp) -> Result<WorkerRecord, StoreError> {
    let row: Option<WorkerRow> = tx.first(&format!("{GET} WHERE w.id = $1"), args![id]).await?;
    let row = row.ok_or_else(|| StoreError::not_found("worker", id))?;
    row.record(&pauses::all(tx).await?, now)
}

fn document<T: serde::Serialize + ?Sized>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::corrupt("a worker's report", error))
}
