//! Surface.
#![expect(clippy::unimplemented, reason = "surface")]
#![allow(unused_variables, missing_docs, clippy::allow_attributes, clippy::unused_async)]
use super::*;
use crate::clock::Timestamp;
use crate::ids::*;
use crate::job::*;
use std::time::Duration;

pub struct Hints;
impl Hints {
    pub async fn next(&mut self) { unimplemented!() }
    pub async fn next_change(&mut self) { unimplemented!() }
}
#[derive(Clone)] pub struct Store;
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated { pub applied: Vec<&'static str>, pub version: i64 }
impl Store {
    pub async fn connect(config: &Config) -> Result<Store, StoreError> { unimplemented!() }
    pub async fn connect_unmigrated(config: &Config) -> Result<Store, StoreError> { unimplemented!() }
    pub async fn migrate(&self) -> Result<Migrated, StoreError> { unimplemented!() }
    pub async fn schema_version(&self) -> Result<i64, StoreError> { unimplemented!() }
    pub fn label(&self) -> &str { unimplemented!() }
    pub fn now(&self) -> Timestamp { unimplemented!() }
    pub fn hints(&self) -> Hints { unimplemented!() }
    pub async fn enqueue(&self, new: NewJob) -> Result<Enqueued, StoreError> { unimplemented!() }
    pub async fn job(&self, id: JobId) -> Result<Job, StoreError> { unimplemented!() }
    pub async fn jobs(&self, filter: &JobFilter) -> Result<Page<Job>, StoreError> { unimplemented!() }
    pub async fn cancel(&self, id: JobId, reason: &str) -> Result<Cancel, StoreError> { unimplemented!() }
    pub async fn retry(&self, id: JobId) -> Result<Job, StoreError> { unimplemented!() }
    pub async fn attempts(&self, id: JobId) -> Result<Vec<AttemptRecord>, StoreError> { unimplemented!() }
    pub async fn claim(&self, ask: &ClaimRequest) -> Result<Vec<ClaimedJob>, StoreError> { unimplemented!() }
    pub async fn renew(&self, worker: &WorkerId, claims: &[Claim], lease: Duration) -> Result<Vec<Renewal>, StoreError> { unimplemented!() }
    pub async fn held_by(&self, worker: &WorkerId) -> Result<Vec<ClaimedJob>, StoreError> { unimplemented!() }
    pub async fn check_claim(&self, claim: &Claim) -> Result<Timestamp, StoreError> { unimplemented!() }
    pub async fn record_base(&self, claim: &Claim, base: &ObjectId) -> Result<(), StoreError> { unimplemented!() }
    pub async fn record_stages(&self, claim: &Claim, stages: &[StageRecord]) -> Result<(), StoreError> { unimplemented!() }
    pub async fn finish(&self, claim: &Claim, end: Finish) -> Result<Job, StoreError> { unimplemented!() }
    pub async fn expire_once(&self, limit: u32) -> Result<Vec<Expired>, StoreError> { unimplemented!() }
    pub async fn promote_once(&self, limit: u32) -> Result<u64, StoreError> { unimplemented!() }
    pub async fn next_ready_at(&self) -> Result<Option<Timestamp>, StoreError> { unimplemented!() }
    pub async fn append_log(&self, claim: &Claim, chunks: &[LogChunk]) -> Result<(), StoreError> { unimplemented!() }
    pub async fn log_position(&self, job: JobId, attempt: AttemptNo) -> Result<LogPosition, StoreError> { unimplemented!() }
    pub async fn read_log(&self, job: JobId, attempt: AttemptNo, from: u64, max_bytes: usize) -> Result<LogPage, StoreError> { unimplemented!() }
    pub async fn completions(&self, filter: &CompletionFilter) -> Result<Page<CompletionEntry>, StoreError> { unimplemented!() }
    pub async fn claim_completions(&self, consumer: &str, limit: u32, lease: Option<Duration>) -> Result<Vec<HeldCompletion>, StoreError> { unimplemented!() }
    pub async fn renew_completion(&self, id: CompletionId, token: ClaimToken, lease: Option<Duration>) -> Result<CompletionEntry, StoreError> { unimplemented!() }
    pub async fn ack_completion(&self, id: CompletionId, token: ClaimToken) -> Result<CompletionEntry, StoreError> { unimplemented!() }
    pub async fn nack_completion(&self, id: CompletionId, token: ClaimToken, reason: &str, refusal: Refusal) -> Result<CompletionEntry, StoreError> { unimplemented!() }
    pub async fn report_worker(&self, row: &WorkerRecord) -> Result<(), StoreError> { unimplemented!() }
    pub async fn workers(&self) -> Result<Vec<WorkerRecord>, StoreError> { unimplemented!() }
    pub async fn close(self) { unimplemented!() }
}
