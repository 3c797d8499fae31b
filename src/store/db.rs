//! The connections: one file or one server behind one set of methods, so that a statement is written once.
//!
//! SQLite has one connection that writes and a few that only read. PostgreSQL has one pool for both. Every wait has a
//! deadline: [`ACQUIRE`] for a connection, and one for each answer of the database (see `driver`).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::AccessFlags;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection, Executor, Postgres, Sqlite, Transaction};

use super::address::Address;
use super::driver::{in_time, postgres_all, sqlite_all};
use super::error::StoreError;
use super::kept::Kept;
use super::lease_clock::LeaseClock;
use super::statement::{Arg, Row};
use super::tx::{AnyTx, Tx};
use super::writer::{Durability, Writer};
use crate::clock::Timestamp;

/// How long a caller waits for a connection.
const ACQUIRE: Duration = Duration::from_secs(10);
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

/// So many pages are written into SQLite's log before they go into the file, which waits for the disk twice. Each job writes some sixteen, most of
/// them the same as the job before: the more are gathered, the less is written twice. What is in the log is safe as it is.
const CHECKPOINT: &str = "4000";
/// Bytes in a page of a new SQLite file. A commit writes whole pages, of which it changes a row each, and the disk takes the longer the more
/// they are: with half of SQLite's own 4096 a claim and an end take a twelfth less.
const PAGE: u32 = 2048;
/// What the connection that writes keeps of the file, in KiB with a minus sign.
const WRITER_CACHE: &str = "-8192";
/// What SQLite's thread may have answered before anybody takes it: all of one call, since it waits where there is no room, in the middle of a
/// transaction. Each statement has an answer beside its rows, so the longest is that of `MOST` ends (see `together`), five each.
const ANSWERS: usize = 1024;
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
    pub(super) fn failure(&self, error: sqlx::Error) -> StoreError {
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
            Pools::Sqlite { writer, .. } => writer.begin(durability).await.map(AnyTx::Write),
            Pools::Postgres { pool, .. } => in_time(begin_whole(pool.clone(), "BEGIN")).await.map(AnyTx::Postgres),
        };
        let inner = inner.map_err(|error| self.failure(error))?;
        Ok(Tx::new(inner, self.clone()))
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
            Pools::Sqlite { writer, .. } => writer.all(durability, sql, args).await,
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
        Ok(Tx::new(inner, self.clone()))
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
        writer.data_version().await.map(Some).map_err(|error| self.failure(error))
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
        .page_size(PAGE)
        .journal_mode(SqliteJournalMode::Wal)
        .pragma("journal_size_limit", "67108864")
        .pragma("wal_autocheckpoint", CHECKPOINT)
        .pragma("cache_size", WRITER_CACHE)
        .row_buffer_size(ANSWERS)
        // They took a seventh of the time of a claim and an end; see `broken`.
        .pragma("ignore_check_constraints", "on");
    let writer = Arc::new(Writer::open(pool(), writing, ACQUIRE).await?);
    writer.script(FORGET).await?;
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

/// Begins a transaction in a task of its own, which comes to its end when nobody waits for it any more. The driver does not
/// undo a BEGIN whose answer nobody waits for: the connection would go back into the pool with a transaction open, and would
/// be ended by the server some time later, under somebody else.
async fn begin_whole(pool: PgPool, begin: &'static str) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    tokio::spawn(async move { pool.begin_with(begin).await }).await.unwrap_or_else(|_| Err(sqlx::Error::WorkerCrashed))
}
