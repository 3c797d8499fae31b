//! Doing operations to the store and to the model.

use sawmill::clock::Timestamp;
use sawmill::ids::ClaimToken;
use sawmill::job::OutcomeClass;
use sawmill::store::Change;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, SqliteConnection};

use super::super::{LONG, Place, Queue};
use super::operation::Operation;
use super::world::{Job, Wait, World};

/// A connection by which time is moved and rows are seen that the store does not show.
pub(super) enum Raw {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

pub(super) struct Driver {
    pub(super) queue: Queue,
    pub(super) raw: Raw,
    pub(super) world: World,
    /// Of the last time that each completion was handed out.
    pub(super) tokens: Vec<ClaimToken>,
}

impl Driver {
    pub(super) async fn new(queue: Queue) -> Self {
        let raw = match &queue.place {
            Place::File { .. } => {
                Raw::Sqlite(SqliteConnection::connect(&queue.place.url()).await.expect("the file can be opened"))
            }
            Place::Schema { .. } => {
                Raw::Postgres(PgConnection::connect(&queue.place.url()).await.expect("the test server answers"))
            }
        };
        Self { queue, raw, world: World::default(), tokens: Vec::new() }
    }

    pub(super) async fn end(self) {
        self.queue.end().await;
    }

    /// Does these operations to an empty queue, and then whatever is left to do.
    pub(super) async fn run(&mut self, operations: &[Operation]) {
        self.world = World::default();
        self.tokens.clear();
        self.tamper("DELETE FROM jobs; DELETE FROM project_limits; DELETE FROM pauses; DELETE FROM spending").await;
        for operation in operations {
            self.apply(operation).await;
            self.compare().await;
        }
        self.work_off().await;
    }

    pub(super) async fn tamper(&mut self, sql: &str) {
        let sql = sqlx::raw_sql(AssertSqlSafe(sql));
        match &mut self.raw {
            Raw::Sqlite(connection) => connection.execute(sql).await.map(drop),
            Raw::Postgres(connection) => connection.execute(sql).await.map(drop),
        }
        .expect("the statement runs");
    }

    pub(super) async fn texts(&mut self, sql: &str) -> Vec<String> {
        let query = AssertSqlSafe(sql.to_owned());
        match &mut self.raw {
            Raw::Sqlite(connection) => sqlx::query_scalar(query).fetch_all(connection).await,
            Raw::Postgres(connection) => sqlx::query_scalar(query).fetch_all(connection).await,
        }
        .expect("the query is answered")
    }

    /// An id as a literal.
    pub(super) fn literal(&self, id: uuid::Uuid) -> String {
        match self.raw {
            Raw::Sqlite(_) => format!("X'{}'", id.simple()),
            Raw::Postgres(_) => format!("'{id}'"),
        }
    }

    /// The time of something comes: a column of a job, or of a completion, is in the past.
    pub(super) async fn pass(&mut self, table: &str, column: &str, id: uuid::Uuid, to: Timestamp) {
        let (id, to) = (self.literal(id), to.0);
        self.tamper(&format!("UPDATE {table} SET {column} = {to} WHERE id = {id} AND {column} IS NOT NULL")).await;
    }

    async fn apply(&mut self, operation: &Operation) {
        use Operation as O;
        let job = |number: &u8| (usize::from(*number)).checked_rem(self.world.jobs.len());
        let claim = |number: &u8| (usize::from(*number)).checked_rem(self.world.claims.len());
        let delivery = |number: &u8| (usize::from(*number)).checked_rem(self.world.deliveries.len());
        let reason = || "enough".to_owned();
        match operation {
            O::Enqueue(ask) => self.enqueue(ask).await,
            O::Claim { picky, limit } => drop(self.claim(*picky, *limit).await),
            O::Finish { claim: number, class, deliver, pause, used } => {
                if let Some(at) = claim(number) {
                    self.finish(at, *class, *deliver, *pause, *used).await;
                }
            }
            O::Say { claim: number, used } => {
                if let Some(at) = claim(number) {
                    self.say(at, *used).await;
                }
            }
            O::Renew { claim: number } => {
                if let Some(at) = claim(number) {
                    self.renew(at).await;
                }
            }
            O::Expire { claim: number } => {
                if let Some(at) = claim(number) {
                    self.expire(at).await;
                }
            }
            O::Promote { job: number } => {
                if let Some(at) = job(number) {
                    self.promote(at).await;
                }
            }
            O::MissStart { job: number } => {
                if let Some(at) = job(number) {
                    self.miss_start(at).await;
                }
            }
            O::Cancel { job: number } => {
                if let Some(at) = job(number) {
                    self.change(at, &Change::Cancel { reason: reason() }).await;
                }
            }
            O::Retry { job: number } => {
                if let Some(at) = job(number) {
                    self.change(at, &Change::Retry).await;
                }
            }
            O::Requeue { job: number } => {
                if let Some(at) = job(number) {
                    self.change(at, &Change::Requeue { reason: reason() }).await;
                }
            }
            O::CancelProject { project } => self.change_many(&Change::Cancel { reason: reason() }, Some(*project)).await,
            O::LiftPause => self.lift_pause().await,
            O::Answer { job: number } => {
                if let Some(at) = job(number) {
                    self.answer(at).await;
                }
            }
            O::RetryAll => self.change_many(&Change::Retry, None).await,
            O::Limit { project, running } => self.limit(*project, *running).await,
            O::ClaimCompletions { limit } => self.claim_completions(*limit).await,
            O::Ack { completion } => {
                if let Some(at) = delivery(completion) {
                    self.ack(at).await;
                }
            }
            O::Nack { completion, dead } => {
                if let Some(at) = delivery(completion) {
                    self.nack(at, *dead).await;
                }
            }
            O::RenewCompletion { completion } => {
                if let Some(at) = delivery(completion) {
                    let (id, token) = (self.world.deliveries[at].id, self.tokens[at]);
                    let renewed = self.queue.store.renew_completion(id, token, Some(LONG)).await;
                    assert_eq!(renewed.is_ok(), self.is_held(at), "{renewed:?}");
                }
            }
            O::ExpireCompletion { completion } => {
                if let Some(at) = delivery(completion) {
                    self.expire_completion(at).await;
                }
            }
            O::RequeueCompletion { completion } => {
                if let Some(at) = delivery(completion) {
                    self.requeue_completion(at).await;
                }
            }
        }
    }

    /// Does what is left to do: no job is left behind.
    async fn work_off(&mut self) {
        loop {
            for at in 0..self.world.jobs.len() {
                if matches!(self.world.jobs[at].wait, Wait::Scheduled | Wait::Backoff) {
                    self.promote(at).await;
                }
                if self.world.jobs[at].wait == Wait::Answer {
                    self.answer(at).await;
                }
            }
            self.claim(true, 100).await;
            let live: Vec<usize> = (0..self.world.claims.len()).filter(|number| self.world.is_live(*number)).collect();
            if live.is_empty() {
                break;
            }
            for number in live {
                self.finish(number, OutcomeClass::Succeeded, None, false, None).await;
            }
        }
        self.compare().await;
        let open: Vec<&Job> = self.world.jobs.iter().filter(|job| !job.state.is_final()).collect();
        assert!(open.is_empty(), "left behind: {open:?}");
    }
}
