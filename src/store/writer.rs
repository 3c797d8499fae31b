//! The one connection that writes to a SQLite file, and whose turn it is to write.
//!
//! The one rule: a turn ends without a transaction. SQLite works in a thread of its own, and each call to it wakes somebody there and
//! somebody here, which takes longer than most statements. So the connection is not tried between two turns, as a pool's is; and what
//! is known beforehand goes there in one call.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqlitePool, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, Sqlite, SqliteConnection};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::driver::in_time;
use super::statement::{Arg, Row};

/// What a commit waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// The disk.
    Disk,
    /// Nothing: when the host loses its power, but not when a process is killed, it may be undone, with all that came after it. What is
    /// committed with [`Durability::Disk`] afterwards makes it last too.
    Nothing,
}

impl Durability {
    /// SQLite obeys this when it reads the statement, and not when it runs it, so it cannot be part of one that is kept prepared.
    const fn pragma(self) -> &'static str {
        match self {
            Self::Disk => "PRAGMA synchronous = FULL",
            Self::Nothing => "PRAGMA synchronous = NORMAL",
        }
    }

    /// Ends a transaction. It fails as a whole where the commit would not wait for the disk and is to: what is said then is no path in JSON.
    const fn commit(self) -> &'static str {
        match self {
            Self::Disk => {
                "SELECT json_extract('{}', 'the disk is not waited for at level ' || synchronous) FROM pragma_synchronous \
                 WHERE synchronous < 2; COMMIT"
            }
            Self::Nothing => "COMMIT",
        }
    }
}

/// IMMEDIATE takes the lock at once: a transaction that reads first and takes it later can fail with BUSY_SNAPSHOT.
const BEGIN: &str = "BEGIN IMMEDIATE";
/// The connection, for who has his turn.
#[derive(Debug)]
pub(super) struct Writer {
    pool: SqlitePool,
    turns: Arc<Semaphore>,
    /// Between two turns.
    idle: Mutex<Option<Held>>,
    patience: Duration,
}

#[derive(Debug)]
struct Held {
    connection: PoolConnection<Sqlite>,
    /// What its commits wait for, as far as it was told.
    durability: Option<Durability>,
}

impl Writer {
    /// Opens the connection. Whose turn does not come within `patience` gives up.
    pub(super) async fn open(
        options: SqlitePoolOptions,
        connect: sqlx::sqlite::SqliteConnectOptions,
        patience: Duration,
    ) -> Result<Self, sqlx::Error> {
        let pool = in_time(options.max_connections(1).connect_with(connect)).await?;
        Ok(Self { pool, turns: Arc::new(Semaphore::new(1)), idle: Mutex::new(None), patience })
    }

    /// Begins a transaction when its turn comes.
    pub(super) async fn begin(self: &Arc<Self>, durability: Durability) -> Result<Turn, sqlx::Error> {
        let mut turn = self.turn().await?;
        turn.begin(durability).await?;
        Ok(turn)
    }

    /// Runs several statements in one transaction, and answers with the rows that they yield: all of them have happened then, or none has.
    pub(super) async fn all<R: Row>(
        self: &Arc<Self>,
        durability: Durability,
        sql: &str,
        args: Vec<Arg>,
    ) -> Result<Vec<R>, sqlx::Error> {
        self.turn().await?.all(durability, sql, args).await
    }

    /// Runs statements without arguments, in no transaction.
    pub(super) async fn script(self: &Arc<Self>, sql: &'static str) -> Result<(), sqlx::Error> {
        let mut turn = self.turn().await?;
        in_time(sqlx::raw_sql(sql).execute(turn.connection()?)).await.map(drop)
    }

    /// What changes with every commit of another process.
    pub(super) async fn data_version(self: &Arc<Self>) -> Result<i64, sqlx::Error> {
        let mut turn = self.turn().await?;
        in_time(sqlx::query_scalar("PRAGMA data_version").fetch_one(turn.connection()?)).await
    }

    /// Waits for a turn.
    async fn turn(self: &Arc<Self>) -> Result<Turn, sqlx::Error> {
        let turn = tokio::time::timeout(self.patience, self.turns.clone().acquire_owned()).await;
        let permit = turn.map_err(|_| sqlx::Error::PoolTimedOut)?.map_err(|_| sqlx::Error::PoolClosed)?;
        let idle = self.idle().take();
        let held = match idle {
            Some(held) => held,
            None => Held { connection: in_time(self.pool.acquire()).await?, durability: None },
        };
        Ok(Turn { held: Some(held), writer: self.clone(), in_transaction: false, permit: Some(permit) })
    }

    /// Has the connection tried before the next turn, and made again where it is broken, unless it is somebody's turn: then that has its own end.
    pub(super) fn distrust(&self) {
        let idle = self.idle().take();
        drop(idle);
    }

    /// Closes it after the turn that is under way. No other comes.
    pub(super) async fn close(&self) {
        let closing = self.pool.close();
        self.distrust();
        closing.await;
    }

    fn keep(&self, held: Held) {
        let mut idle = self.idle();
        // A pool that is being closed waits for it.
        if !self.pool.is_closed() {
            *idle = Some(held);
        }
    }

    fn idle(&self) -> MutexGuard<'_, Option<Held>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody's turn. What is not committed when it is dropped is undone before the next one's.
#[derive(Debug)]
pub(super) struct Turn {
    /// Always there until it is dropped.
    held: Option<Held>,
    writer: Arc<Writer>,
    /// Whether a transaction may have begun.
    in_transaction: bool,
    permit: Option<OwnedSemaphorePermit>,
}

impl Turn {
    async fn begin(&mut self, durability: Durability) -> Result<(), sqlx::Error> {
        self.tell(durability).await?;
        self.in_transaction = true;
        in_time(sqlx::query(BEGIN).execute(self.connection()?)).await?;
        Ok(())
    }

    async fn all<R: Row>(mut self, durability: Durability, sql: &str, args: Vec<Arg>) -> Result<Vec<R>, sqlx::Error> {
        self.tell(durability).await?;
        self.in_transaction = true;
        let commit = durability.commit();
        let rows = super::driver::sqlite_all(self.connection()?, &format!("{BEGIN}; {sql}; {commit}"), args).await?;
        self.in_transaction = false;
        Ok(rows)
    }

    /// Commits what was begun.
    pub(super) async fn commit(mut self) -> Result<(), sqlx::Error> {
        let commit = self.held.as_ref().and_then(|held| held.durability).unwrap_or(Durability::Disk).commit();
        in_time(sqlx::query(commit).execute(self.connection()?)).await?;
        self.in_transaction = false;
        Ok(())
    }

    /// Undoes what was begun, and waits until that is done.
    pub(super) async fn rollback(mut self) -> Result<(), sqlx::Error> {
        undo(self.connection()?).await?;
        self.in_transaction = false;
        Ok(())
    }

    /// The connection, for statements, which whoever has his turn has.
    pub(super) fn connection(&mut self) -> Result<&mut SqliteConnection, sqlx::Error> {
        self.held.as_mut().map(|held| &mut *held.connection).ok_or(sqlx::Error::WorkerCrashed)
    }

    /// Has the connection told what its commits wait for, and does not wait until it has heard: what it is sent it does in that order. So
    /// the commit makes sure of it.
    async fn tell(&mut self, durability: Durability) -> Result<(), sqlx::Error> {
        let Some(held) = self.held.as_mut().filter(|held| held.durability != Some(durability)) else { return Ok(()) };
        held.durability = None;
        let mut telling = pin!(sqlx::raw_sql(AssertSqlSafe(durability.pragma())).execute(&mut *held.connection));
        if let Poll::Ready(told) = poll_fn(|context| Poll::Ready(telling.as_mut().poll(context))).await {
            told?;
        }
        held.durability = Some(durability);
        Ok(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(mut held) = self.held.take() else { return };
        if !self.in_transaction {
            return self.writer.keep(held);
        }
        // Should it have failed because it had not heard.
        held.durability = None;
        // With no runtime left nobody writes any more, and a file that is closed undoes by itself.
        let Ok(runtime) = Handle::try_current() else { return drop(held.connection.leak()) };
        let (writer, permit) = (self.writer.clone(), self.permit.take());
        runtime.spawn(async move {
            match undo(&mut held.connection).await {
                Ok(()) => writer.keep(held),
                Err(error) => {
                    tracing::debug!(%error, "could not roll back; the connection is made again");
                    drop(held.connection.close().await);
                }
            }
            drop(permit);
        });
    }
}

/// Undoes a transaction, should one be open: a failure may have undone it, and a beginning or an end may have gone unheard.
async fn undo(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    if in_time(sqlx::query("ROLLBACK").execute(&mut *connection)).await.is_ok() {
        return Ok(());
    }
    // A transaction can only begin where none is open.
    in_time(sqlx::raw_sql("BEGIN; ROLLBACK").execute(connection)).await.map(drop)
}

#[cfg(test)]
mod tests {
    use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};
    use tempfile::TempDir;

    use super::super::statement::args;
    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    #[derive(Debug, sqlx::FromRow)]
    struct Seen {
        n: i64,
    }

    async fn a_writer(patience: Duration) -> (TempDir, Arc<Writer>) {
        let dir = tempfile::tempdir().expect("a directory");
        let file = SqliteConnectOptions::new().filename(dir.path().join("file.db")).create_if_missing(true);
        let file = file.journal_mode(SqliteJournalMode::Wal);
        let writer = Writer::open(SqlitePoolOptions::new(), file, patience).await.expect("it opens");
        let writer = Arc::new(writer);
        all(&writer, Durability::Disk, "CREATE TABLE t (n INTEGER NOT NULL UNIQUE)").await.expect("made");
        (dir, writer)
    }

    async fn all(writer: &Arc<Writer>, durability: Durability, sql: &str) -> Result<Vec<i64>, sqlx::Error> {
        let rows: Vec<Seen> = writer.all(durability, sql, args![]).await?;
        Ok(rows.into_iter().map(|row| row.n).collect())
    }

    async fn there(writer: &Arc<Writer>) -> Vec<i64> {
        all(writer, Durability::Nothing, "SELECT n FROM t ORDER BY n").await.expect("read")
    }

    #[tokio::test]
    async fn several_statements_happen_all_or_none_and_the_next_one_begins_afresh() {
        let (_dir, writer) = a_writer(LONG).await;
        let rows = all(&writer, Durability::Disk, "INSERT INTO t VALUES (1); INSERT INTO t VALUES (2); SELECT n FROM t").await;
        assert_eq!(rows.expect("written"), [1, 2]);
        all(&writer, Durability::Disk, "INSERT INTO t VALUES (3); INSERT INTO t VALUES (1)").await.expect_err("1 is there");
        assert_eq!(there(&writer).await, [1, 2]);
        all(&writer, Durability::Disk, "INSERT INTO t VALUES (3); NONSENSE").await.expect_err("no SQL");
        assert_eq!(there(&writer).await, [1, 2]);
    }

    #[tokio::test]
    async fn what_is_given_up_in_the_middle_is_undone_before_the_next_turn() {
        let (_dir, writer) = a_writer(LONG).await;
        for looks in 0..40 {
            let write = async {
                let mut turn = writer.begin(if looks % 2 == 0 { Durability::Disk } else { Durability::Nothing }).await?;
                sqlx::query("INSERT INTO t VALUES (1)").execute(turn.connection()?).await.map(drop)
            };
            given_up_after(looks, write).await;
            assert_eq!(there(&writer).await, [0; 0], "after {looks} looks");
        }
        // In one call it has happened or not, and nothing of it is open.
        for looks in 0..20 {
            let sql = format!("INSERT INTO t VALUES ({looks}); INSERT INTO t VALUES ({looks} + 100)");
            given_up_after(looks, all(&writer, Durability::Disk, &sql)).await;
            let there = there(&writer).await;
            assert_eq!(there.contains(&looks), there.contains(&(looks + 100)), "{there:?}");
        }
    }

    /// Polls it so many times, each when it has something new, and drops it, if it has not ended before.
    async fn given_up_after(looks: i64, write: impl Future) {
        let (mut write, mut left) = (Box::pin(write), looks);
        poll_fn(|context| {
            left -= 1;
            if left < 0 { Poll::Ready(()) } else { write.as_mut().poll(context).map(drop) }
        })
        .await;
    }

    #[tokio::test]
    async fn what_is_sent_in_one_call_waits_for_what_it_asks_for_or_fails() {
        let (_dir, writer) = a_writer(LONG).await;
        let level = "SELECT synchronous AS n FROM pragma_synchronous";
        for durability in [Durability::Nothing, Durability::Disk, Durability::Disk, Durability::Nothing, Durability::Disk] {
            let rows: Vec<(i64,)> = writer.all(durability, level, args![]).await.expect("done");
            assert_eq!(rows, [(if durability == Durability::Disk { 2 } else { 1 },)]);
        }
        // As when it had not heard.
        let mut turn = writer.turn().await.expect("its turn");
        sqlx::raw_sql("PRAGMA synchronous = NORMAL").execute(turn.connection().expect("there")).await.expect("done");
        drop(turn);
        let refused = writer.all::<(i64,)>(Durability::Disk, "INSERT INTO t VALUES (7)", args![]).await;
        assert!(refused.is_err(), "it would not wait for the disk");
        all(&writer, Durability::Disk, "INSERT INTO t VALUES (8)").await.expect("it is told again");
        assert_eq!(there(&writer).await, [8]);
    }

    #[tokio::test]
    async fn each_turn_waits_for_what_it_asks_for() {
        let (_dir, writer) = a_writer(LONG).await;
        for durability in [Durability::Disk, Durability::Nothing, Durability::Nothing, Durability::Disk] {
            let mut turn = writer.begin(durability).await.expect("begun");
            let pragma = sqlx::query_scalar("PRAGMA synchronous").fetch_one(turn.connection().expect("there"));
            let level: i64 = pragma.await.expect("told");
            assert_eq!(level, if durability == Durability::Disk { 2 } else { 1 });
            turn.rollback().await.expect("undone");
        }
    }

    #[tokio::test]
    async fn a_turn_that_does_not_come_is_given_up_and_one_that_has_ended_makes_room() {
        let (_dir, writer) = a_writer(Duration::from_millis(50)).await;
        let turn = writer.turn().await.expect("its turn");
        assert!(matches!(writer.turn().await, Err(sqlx::Error::PoolTimedOut)));
        drop(turn);
        writer.turn().await.expect("its turn");
    }
}
