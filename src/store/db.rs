//! The connections: one file or one server behind one set of methods, so that a statement is written once.
//!
//! SQLite has one connection that writes and a few that only read. PostgreSQL has one pool for both. Every wait has a
//! deadline: [`ACQUIRE`] for a connection, [`ANSWER`] for each answer of the database.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::AccessFlags;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection, Executor, Postgres, Sqlite, SqliteConnection, Transaction};
use tracing::instrument::WithSubscriber as _;
use tracing::subscriber::NoSubscriber;

use super::address::Address;
use super::error::StoreError;
use super::kept::Kept;
use super::lease_clock::LeaseClock;
use super::statement::{Arg, Row, for_postgres, for_sqlite, text_for_sqlite};
use super::writer::{Durability, Turn, Writer};
use crate::clock::Timestamp;

/// How long a caller waits for a connection.
const ACQUIRE: Duration = Duration::from_secs(10);
/// How long a caller waits for one answer: longer than any statement takes, SQLite's wait for its lock included.
const ANSWER: Duration = Duration::from_secs(20);
/// The first half of our locks' numbers, by which they are told apart from those of others in the same database.
const LOCKS: i32 = 0x5a77_0000_u32.cast_signed();
/// What a server says that starts, recovers or shuts down: `cannot_connect_now`.
const LETS_NOBODY_IN: &str = "57P03";
/// How long it may take to hear that no server is there.
const PROBE: Duration = Duration::from_secs(2);
/// How long SQLite waits for another process to end its write.
const BUSY: Duration = Duration::from_secs(10);
/// Connections to PostgreSQL, for each process.
const SERVER_CONNECTIONS: u32 = 10;
/// Of these, kept between statements.
const SERVER_KEPT: usize = 3;
/// Statements that each connection to PostgreSQL keeps prepared: more than there are, with their lists of common lengths.
const STATEMENTS: usize = 256;
/// Forgets what was counted of a SQLite file (`ANALYZE`, `PRAGMA optimize`). Where it knows that a queue is one long row of jobs that are
/// all alike it reads them all to find the first, and no more goes by the index whose end that is; without, it always does.
const FORGET: &str = "DROP TABLE IF EXISTS sqlite_stat1; DROP TABLE IF EXISTS sqlite_stat4";

/// So many pages are written into SQLite's log before they go into the file, which waits for the disk twice. Each job writes some twenty, most of
/// them the same as the job before: the more are gathered, the less is written twice. What is in the log is safe as it is.
const CHECKPOINT: &str = "4000";
/// What the connection that writes keeps of the file, in KiB with a minus sign.
const WRITER_CACHE: &str = "-8192";
/// Connections that read a SQLite file, for each process.
const FILE_READERS: u32 = 4;
/// Of these, kept between statements.
const FILE_KEPT: usize = 2;
/// A connection that was idle for so long is tried before it is used.
const TRUSTED_IDLE: Duration = Duration::from_secs(5);

/// What each connection to PostgreSQL is told. Every statement of this room has an index to go by, but after a burst the
/// planner's statistics are those of an empty table, for which it prefers to read all of it; these make it see no merit in
/// that. Since there is one way to go then, a statement is planned once for each connection, and not five times as usual. The timeouts
/// keep a lost client from holding a row.
const SESSION: &str = "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; \
     SET jit = off; SET plan_cache_mode = force_generic_plan; SET lock_timeout = '10s'; SET statement_timeout = '15s'; SET idle_in_transaction_session_timeout = '30s'";

/// A database.
#[derive(Debug, Clone)]
pub(super) struct Db {
    pools: Pools,
    label: Arc<str>,
}

#[derive(Debug, Clone)]
enum Pools {
    Sqlite { writer: Arc<Writer>, readers: SqlitePool, kept: Arc<Kept<Sqlite>> },
    Postgres { pool: PgPool, kept: Arc<Kept<Postgres>> },
}

/// Which of the two, for the few places where they must differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Sqlite,
    Postgres,
}

impl Db {
    /// Opens the database at `address`. Nothing is migrated yet.
    pub(super) async fn open(address: &Address, label: &str) -> Result<Self, StoreError> {
        let pools = match address {
            Address::Sqlite(path) => {
                if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
                    tokio::fs::create_dir_all(directory)
                        .await
                        .map_err(|source| StoreError::Directory { path: directory.to_owned(), source })?;
                }
                make_private(path).await.map_err(|source| StoreError::File { path: path.clone(), source })?;
                open_file(SqliteConnectOptions::new().filename(path)).await
            }
            Address::Postgres(options) => open_server(PgConnectOptions::clone(options)).await,
        };
        Ok(Self { pools: pools.map_err(|error| StoreError::from_driver(label, error))?, label: label.into() })
    }

    pub(super) fn kind(&self) -> Kind {
        match self.pools {
            Pools::Sqlite { .. } => Kind::Sqlite,
            Pools::Postgres { .. } => Kind::Postgres,
        }
    }

    pub(super) fn label(&self) -> &str {
        &self.label
    }

    /// What the driver reports, as we sort it. Where a connection broke others may have too, so none is kept.
    fn failure(&self, error: sqlx::Error) -> StoreError {
        let error = StoreError::from_driver(&self.label, error);
        if error.is_transient() {
            match &self.pools {
                Pools::Sqlite { writer, kept, .. } => {
                    writer.distrust();
                    kept.clear();
                }
                Pools::Postgres { kept, .. } => kept.clear(),
            }
        }
        error
    }

    /// Begins a transaction that may write.
    pub(super) async fn begin(&self) -> Result<Tx, StoreError> {
        self.begin_with(Durability::Disk).await
    }

    /// Begins a transaction that may write. On PostgreSQL its commit waits for the disk whatever is asked.
    pub(super) async fn begin_with(&self, durability: Durability) -> Result<Tx, StoreError> {
        let inner = match &self.pools {
            Pools::Sqlite { writer, .. } => begin_turn(writer, durability).await.map(AnyTx::Write),
            Pools::Postgres { pool, .. } => in_time(begin_whole(pool.clone(), "BEGIN")).await.map(AnyTx::Postgres),
        };
        let inner = inner.map_err(|error| self.failure(error))?;
        Ok(Tx { inner, db: self.clone() })
    }

    /// Runs several statements in one transaction on a file, in one call, and answers with the rows that they yield: all of them have
    /// happened then, or none has. No server takes several with arguments.
    pub(super) async fn in_one_call<R: Row>(
        &self,
        durability: Durability,
        sql: &str,
        args: Vec<Arg>,
    ) -> Result<Vec<R>, StoreError> {
        let rows = match &self.pools {
            Pools::Sqlite { writer, .. } => match writer.turn().await {
                Ok(turn) => turn.all(durability, sql, args).await,
                Err(error) => Err(error),
            },
            Pools::Postgres { .. } => Err(sqlx::Error::InvalidArgument("several statements in one call".to_owned())),
        };
        rows.map_err(|error| self.failure(error))
    }

    /// Begins a transaction that only reads, and sees one moment throughout. It waits for nobody, and nobody for it.
    pub(super) async fn snapshot(&self) -> Result<Tx, StoreError> {
        let inner = match &self.pools {
            // The moment is that of the first read.
            Pools::Sqlite { readers, .. } => in_time(readers.begin_with("BEGIN DEFERRED")).await.map(AnyTx::Read),
            Pools::Postgres { pool, .. } => {
                let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
                in_time(begin_whole(pool.clone(), begin)).await.map(AnyTx::Postgres)
            }
        };
        let inner = inner.map_err(|error| self.failure(error))?;
        Ok(Tx { inner, db: self.clone() })
    }

    /// All rows that a query yields, outside of a transaction.
    pub(super) async fn all<R: Row>(&self, sql: &str, args: Vec<Arg>) -> Result<Vec<R>, StoreError> {
        let rows = match &self.pools {
            Pools::Sqlite { readers, kept, .. } => {
                in_time(kept.with(readers, TRUSTED_IDLE, async |connection| sqlite_all(connection, sql, args).await)).await
            }
            Pools::Postgres { pool, kept } => {
                in_time(kept.with(pool, TRUSTED_IDLE, async |connection| postgres_all(connection, sql, args).await)).await
            }
        };
        rows.map_err(|error| self.failure(error))
    }

    /// The first row that a query yields, outside of a transaction.
    pub(super) async fn first<R: Row>(&self, sql: &str, args: Vec<Arg>) -> Result<Option<R>, StoreError> {
        Ok(self.all(sql, args).await?.into_iter().next())
    }

    /// Reads the clock by which leases run.
    pub(super) async fn server_clock(&self) -> Result<LeaseClock, StoreError> {
        match &self.pools {
            Pools::Sqlite { .. } => Ok(LeaseClock::Host),
            Pools::Postgres { pool, .. } => LeaseClock::of_server(pool).await.map_err(|error| self.failure(error)),
        }
    }

    /// Reads it again.
    pub(super) async fn sample(&self, clock: &LeaseClock) -> Result<(), StoreError> {
        match &self.pools {
            Pools::Sqlite { .. } => Ok(()),
            Pools::Postgres { pool, .. } => clock.sample(pool).await.map_err(|error| self.failure(error)),
        }
    }

    /// Whether the server's host says that no server is there, or the server that it lets nobody in yet: then nobody else can reach it
    /// either. Silence says nothing.
    pub(super) async fn is_down(&self) -> bool {
        let Pools::Postgres { pool, .. } = &self.pools else { return false };
        match tokio::time::timeout(PROBE, sqlx::PgConnection::connect_with(&pool.connect_options())).await {
            // The second: the socket of a server on this host.
            Ok(Err(sqlx::Error::Io(error))) => {
                matches!(error.kind(), std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::NotFound)
            }
            Ok(Err(sqlx::Error::Database(error))) => error.code().as_deref() == Some(LETS_NOBODY_IN),
            Ok(Ok(connection)) => {
                // It answers; that this connection ends well is not what was asked.
                drop(connection.close().await);
                false
            }
            _ => false,
        }
    }

    /// When the server was started, by its own clock; none for a file.
    pub(super) async fn started_at(&self) -> Result<Option<Timestamp>, StoreError> {
        #[derive(sqlx::FromRow)]
        struct Started {
            at: i64,
        }
        if self.kind() == Kind::Sqlite {
            return Ok(None);
        }
        let sql = "SELECT (extract(epoch FROM pg_postmaster_start_time()) * 1000)::BIGINT AS at";
        Ok(self.first::<Started>(sql, Vec::new()).await?.map(|started| Timestamp(started.at)))
    }

    /// What changes with every commit of another process to a SQLite file; none for a server, which tells of itself.
    pub(super) async fn data_version(&self) -> Result<Option<i64>, StoreError> {
        let Pools::Sqlite { writer, .. } = &self.pools else { return Ok(None) };
        version_of(writer).await.map(Some).map_err(|error| self.failure(error))
    }

    /// Closes all connections, waiting for those in use.
    pub(super) async fn close(&self) {
        match &self.pools {
            Pools::Sqlite { writer, readers, kept } => {
                let closing = readers.close();
                kept.clear();
                closing.await;
                writer.close().await;
            }
            Pools::Postgres { pool, kept } => {
                let closing = pool.close();
                kept.clear();
                closing.await;
            }
        }
    }
}

/// Makes the file unless it is there. Jobs' environments are in it, so only its owner may read it; SQLite gives its journals
/// the same mode.
async fn make_private(path: &Path) -> std::io::Result<()> {
    match tokio::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).await {
        // SQLite does not say why a file that is there cannot be opened. Asked without opening it: closing it again would take
        // away the locks of every connection that this process has to it (<https://www.sqlite.org/howtocorrupt.html>, 2.2).
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            Ok(nix::unistd::access(path, AccessFlags::R_OK | AccessFlags::W_OK)?)
        }
        made => made.map(drop),
    }
}

async fn open_file(options: SqliteConnectOptions) -> Result<Pools, sqlx::Error> {
    // Set per connection, not once through a pool that has several.
    let options = options.busy_timeout(BUSY).foreign_keys(true).synchronous(SqliteSynchronous::Full);
    // Where somebody lists the threads of a process.
    let name = options.get_filename().display().to_string();
    let options = options.thread_name(move |number| format!("sqlite-{number} {name}"));
    let pool =
        || SqlitePoolOptions::new().acquire_timeout(ACQUIRE).idle_timeout(None).max_lifetime(None).test_before_acquire(false);
    let writing = options
        .clone()
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .pragma("journal_size_limit", "67108864")
        .pragma("wal_autocheckpoint", CHECKPOINT)
        .pragma("cache_size", WRITER_CACHE);
    let writer = Arc::new(Writer::open(pool(), writing, ACQUIRE).await?);
    in_time(sqlx::raw_sql(FORGET).execute(writer.turn().await?.connection()?)).await?;
    // Opened for writing all the same: a connection opened read-only cannot recover the log of a process that died.
    let readers = pool().max_connections(FILE_READERS).connect_lazy_with(options.pragma("query_only", "on"));
    Ok(Pools::Sqlite { writer, readers, kept: Arc::new(Kept::new(FILE_KEPT)) })
}

async fn open_server(options: PgConnectOptions) -> Result<Pools, sqlx::Error> {
    let options = options.statement_cache_capacity(STATEMENTS);
    // The pool tries for as long as it may wait, and then says no more than that it waited; one connection made directly says why.
    in_time(sqlx::PgConnection::connect_with(&options)).await?.close().await?;
    let pool = PgPoolOptions::new()
        .max_connections(SERVER_CONNECTIONS)
        .acquire_timeout(ACQUIRE)
        .idle_timeout(Duration::from_secs(300))
        .test_before_acquire(false)
        .after_connect(|connection, _| {
            Box::pin(async move {
                connection.execute(SESSION).await?;
                Ok(())
            })
        })
        // Trying every time would cost a round trip each.
        .before_acquire(|connection, meta| {
            Box::pin(async move { if meta.idle_for < TRUSTED_IDLE { Ok(true) } else { Ok(connection.ping().await.is_ok()) } })
        })
        .connect_with(options)
        .await?;
    Ok(Pools::Postgres { pool, kept: Arc::new(Kept::new(SERVER_KEPT)) })
}

async fn version_of(writer: &Arc<Writer>) -> Result<i64, sqlx::Error> {
    let mut turn = writer.turn().await?;
    in_time(sqlx::query_scalar("PRAGMA data_version").fetch_one(turn.connection()?)).await
}

/// Begins a transaction on a file when its turn comes.
async fn begin_turn(writer: &Arc<Writer>, durability: Durability) -> Result<Turn, sqlx::Error> {
    let mut turn = writer.turn().await?;
    turn.begin(durability).await?;
    Ok(turn)
}

/// Begins a transaction in a task of its own, which comes to its end when nobody waits for it any more. The driver does not
/// undo a BEGIN whose answer nobody waits for: the connection would go back into the pool with a transaction open, and would
/// be ended by the server some time later, under somebody else.
async fn begin_whole(pool: PgPool, begin: &'static str) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    tokio::spawn(async move { pool.begin_with(begin).await }).await.unwrap_or_else(|_| Err(sqlx::Error::WorkerCrashed))
}

/// Waits for one answer, and takes none in time for a lost connection.
pub(super) async fn in_time<T>(answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    match tokio::time::timeout(ANSWER, answer).await {
        Ok(result) => result,
        Err(_) => Err(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer in time"))),
    }
}

/// A transaction. Dropped without an end it is rolled back too, but only some time later; until then its rows stay locked, and a
/// claim passes them over. So whoever gives up after locking something calls [`Tx::rollback`].
pub(super) struct Tx {
    inner: AnyTx,
    db: Db,
}

enum AnyTx {
    Write(Turn),
    Read(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
}

impl AnyTx {
    async fn run(&mut self, sql: &str, args: Vec<Arg>) -> Result<u64, sqlx::Error> {
        match self {
            Self::Write(turn) => sqlite_run(turn.connection()?, sql, args).await,
            Self::Read(tx) => sqlite_run(tx, sql, args).await,
            Self::Postgres(tx) => postgres_run(tx, sql, args).await,
        }
    }

    async fn all<R: Row>(&mut self, sql: &str, args: Vec<Arg>) -> Result<Vec<R>, sqlx::Error> {
        match self {
            Self::Write(turn) => sqlite_all(turn.connection()?, sql, args).await,
            Self::Read(tx) => sqlite_all(&mut **tx, sql, args).await,
            Self::Postgres(tx) => postgres_all(&mut **tx, sql, args).await,
        }
    }
}

impl Tx {
    /// Runs a statement and counts the rows that it changed.
    pub(super) async fn run(&mut self, sql: &str, args: Vec<Arg>) -> Result<u64, StoreError> {
        self.inner.run(sql, args).await.map_err(|error| self.db.failure(error))
    }

    /// All rows that a statement yields.
    pub(super) async fn all<R: Row>(&mut self, sql: &str, args: Vec<Arg>) -> Result<Vec<R>, StoreError> {
        self.inner.all(sql, args).await.map_err(|error| self.db.failure(error))
    }

    /// The first row that a statement yields.
    pub(super) async fn first<R: Row>(&mut self, sql: &str, args: Vec<Arg>) -> Result<Option<R>, StoreError> {
        Ok(self.all(sql, args).await?.into_iter().next())
    }

    /// Like [`Tx::all`], for a query that ends with the table whose rows it locks until the end of the transaction.
    pub(super) async fn all_locked<R: Row>(&mut self, sql: &str, lock: Lock, args: Vec<Arg>) -> Result<Vec<R>, StoreError> {
        match self.inner {
            // The one writer of a SQLite file is alone already, and the syntax is unknown there.
            AnyTx::Write(_) | AnyTx::Read(_) => self.all(sql, args).await,
            AnyTx::Postgres(_) => self.all(&format!("{sql}{}", lock.clause()), args).await,
        }
    }

    /// Like [`Tx::first`], locking.
    pub(super) async fn first_locked<R: Row>(&mut self, sql: &str, lock: Lock, args: Vec<Arg>) -> Result<Option<R>, StoreError> {
        Ok(self.all_locked(sql, lock, args).await?.into_iter().next())
    }

    /// Takes locks that are nothing but numbers, and holds them until the end of the transaction. Always in order, so that
    /// nobody waits in a circle. The one writer of a SQLite file is alone already.
    pub(super) async fn lock_names(&mut self, mut names: Vec<i32>) -> Result<(), StoreError> {
        if self.db.kind() == Kind::Sqlite {
            return Ok(());
        }
        names.sort_unstable();
        names.dedup();
        for name in names {
            self.run("SELECT pg_advisory_xact_lock($1::INT, $2::INT)", vec![Arg::from(LOCKS), Arg::from(name)]).await?;
        }
        Ok(())
    }

    /// Runs several statements without arguments, for as long as they take.
    ///
    /// It may take its time: the driver's warning of that would be pages of SQL.
    pub(super) async fn script(&mut self, sql: &'static str) -> Result<(), sqlx::Error> {
        let quiet = NoSubscriber::default();
        match &mut self.inner {
            AnyTx::Write(turn) => sqlx::raw_sql(sql).execute(turn.connection()?).with_subscriber(quiet).await.map(drop),
            AnyTx::Read(tx) => sqlx::raw_sql(sql).execute(&mut **tx).with_subscriber(quiet).await.map(drop),
            AnyTx::Postgres(tx) => sqlx::raw_sql(sql).execute(&mut **tx).with_subscriber(quiet).await.map(drop),
        }
    }

    /// Undoes it, and waits until that is done.
    pub(super) async fn rollback(self) {
        let done = match self.inner {
            AnyTx::Write(turn) => turn.rollback().await,
            AnyTx::Read(tx) => in_time(tx.rollback()).await,
            AnyTx::Postgres(tx) => in_time(tx.rollback()).await,
        };
        if let Err(error) = done {
            // The connection is gone, and with it the transaction.
            tracing::debug!(database = %self.db.label, %error, "could not roll back");
        }
    }

    /// Makes it last. When this fails as unreachable it is not known whether it did.
    pub(super) async fn commit(self) -> Result<(), StoreError> {
        let done = match self.inner {
            AnyTx::Write(turn) => turn.commit().await,
            AnyTx::Read(tx) => in_time(tx.commit()).await,
            AnyTx::Postgres(tx) => in_time(tx.commit()).await,
        };
        done.map_err(|error| self.db.failure(error))
    }
}

/// How often a transaction of somebody who asked, and is to get an answer, is tried that the server undoes because it and another
/// wait for each other. What locks several jobs keeps to the order of their ids where it can; where it cannot (ends that are
/// written together, and then those who wait for them), the server decides.
pub(super) const TRIES: u32 = 5;

/// How PostgreSQL locks the rows that a query names `j`. None of these is in the way of a foreign key's check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lock {
    /// To change them; waits for whoever else does.
    Change,
    /// To change those that nobody else is changing.
    ChangeFree,
    /// To keep others from changing them.
    Keep,
}

impl Lock {
    const fn clause(self) -> &'static str {
        match self {
            Self::Change => " FOR NO KEY UPDATE OF j",
            Self::ChangeFree => " FOR NO KEY UPDATE OF j SKIP LOCKED",
            Self::Keep => " FOR SHARE OF j",
        }
    }
}

// The texts of all statements are constants of this room, put together from constants and placeholders; what comes from
// outside is bound. Hence `AssertSqlSafe`.

async fn sqlite_run(connection: &mut SqliteConnection, sql: &str, args: Vec<Arg>) -> Result<u64, sqlx::Error> {
    let query = sqlx::query_with(AssertSqlSafe(&*text_for_sqlite(sql)), for_sqlite(args)?);
    Ok(in_time(query.execute(connection)).await?.rows_affected())
}

async fn postgres_run(tx: &mut Transaction<'static, Postgres>, sql: &str, args: Vec<Arg>) -> Result<u64, sqlx::Error> {
    let query = sqlx::query_with(AssertSqlSafe(sql), for_postgres(args)?);
    Ok(in_time(query.execute(&mut **tx)).await?.rows_affected())
}

pub(super) async fn sqlite_all<'c, R: Row>(
    executor: impl Executor<'c, Database = Sqlite>,
    sql: &str,
    args: Vec<Arg>,
) -> Result<Vec<R>, sqlx::Error> {
    in_time(sqlx::query_as_with(AssertSqlSafe(&*text_for_sqlite(sql)), for_sqlite(args)?).fetch_all(executor)).await
}

async fn postgres_all<'c, R: Row>(
    executor: impl Executor<'c, Database = Postgres>,
    sql: &str,
    args: Vec<Arg>,
) -> Result<Vec<R>, sqlx::Error> {
    in_time(sqlx::query_as_with(AssertSqlSafe(sql), for_postgres(args)?).fetch_all(executor)).await
}
