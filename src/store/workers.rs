//! What workers say of themselves. For people: no decision rests on it, and no lease.

use super::Store;
use super::error::StoreError;
use super::rows::{json, number, word};
use super::statement::args;
use super::types::WorkerRecord;
use crate::clock::Timestamp;
use crate::ids::WorkerId;

const PUT: &str = "INSERT INTO workers (id, host, version, pid, boot_id, slots, labels, backends, state, started_at, seen_at) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) \
    ON CONFLICT (id) DO UPDATE SET host = excluded.host, version = excluded.version, pid = excluded.pid, \
    boot_id = excluded.boot_id, slots = excluded.slots, labels = excluded.labels, backends = excluded.backends, \
    state = excluded.state, started_at = excluded.started_at, seen_at = excluded.seen_at";
const LIST: &str =
    "SELECT id, host, version, pid, boot_id, slots, labels, backends, state, started_at, seen_at FROM workers ORDER BY id";

#[derive(sqlx::FromRow)]
struct WorkerRow {
    id: String,
    host: String,
    version: String,
    pid: i64,
    boot_id: String,
    slots: i64,
    labels: String,
    backends: String,
    state: String,
    started_at: i64,
    seen_at: i64,
}

impl TryFrom<WorkerRow> for WorkerRecord {
    type Error = StoreError;

    fn try_from(row: WorkerRow) -> Result<Self, StoreError> {
        let what = || format!("worker {}", row.id);
        Ok(Self {
            pid: number(row.pid, what)?,
            slots: number(row.slots, what)?,
            labels: json(&row.labels, what)?,
            backends: json(&row.backends, what)?,
            state: word(&row.state, what)?,
            started_at: Timestamp(row.started_at),
            seen_at: Timestamp(row.seen_at),
            host: row.host,
            version: row.version,
            boot_id: row.boot_id,
            id: WorkerId::new(row.id),
        })
    }
}

impl Store {
    /// Records what a worker says of itself, in place of what it said before.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn report_worker(&self, row: &WorkerRecord) -> Result<(), StoreError> {
        let list =
            |words: &[String]| serde_json::to_string(words).map_err(|error| StoreError::corrupt("a worker's record", error));
        let args = args![
            &row.id,
            &row.host,
            &row.version,
            row.pid,
            &row.boot_id,
            row.slots,
            &list(&row.labels)?,
            &list(&row.backends)?,
            row.state.as_str(),
            row.started_at,
            row.seen_at,
        ];
        let mut tx = self.db().begin().await?;
        tx.run(PUT, args).await?;
        tx.commit().await
    }

    /// All workers that ever reported, by name.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn workers(&self) -> Result<Vec<WorkerRecord>, StoreError> {
        let rows: Vec<WorkerRow> = self.db().all(LIST, args![]).await?;
        rows.into_iter().map(WorkerRecord::try_from).collect()
    }
}
