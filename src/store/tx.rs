//! Transactions, on a file and on a server.
//!
//! The one rule: a statement is written once. What SQLite's one writer has no need of, or no syntax for, is left out here.

use sqlx::{Postgres, Sqlite, Transaction};
use tracing::instrument::WithSubscriber as _;
use tracing::subscriber::NoSubscriber;

use super::db::{Db, Kind};
use super::driver::{in_time, postgres_all, postgres_run, sqlite_all, sqlite_run};
use super::error::StoreError;
use super::lease_clock::CLOCK;
use super::statement::{Arg, Row};
use super::writer::Turn;
use crate::clock::Timestamp;

/// The first half of our locks' numbers, by which they are told apart from those of others in the same database.
const LOCKS: i32 = 0x5a77_0000_u32.cast_signed();

/// A transaction. Dropped without an end it is rolled back too, but only some time later; until then its rows stay locked, and a
/// claim passes them over. So whoever gives up after locking something calls [`Tx::rollback`].
pub(super) struct Tx {
    inner: AnyTx,
    db: Db,
}

pub(super) enum AnyTx {
    Write(Turn),
    Read(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
}

impl AnyTx {
    async fn run(&mut self, sql: &str, args: Vec<Arg>) -> Result<u64, sqlx::Error> {
        match self {
            Self::Write(turn) => sqlite_run(turn.connection()?, sql, args).await,
            Self::Read(tx) => sqlite_run(&mut **tx, sql, args).await,
            Self::Postgres(tx) => postgres_run(&mut **tx, sql, args).await,
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
    pub(super) const fn new(inner: AnyTx, db: Db) -> Self {
        Self { inner, db }
    }

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

    /// The time by which leases run, as the database has it at this moment: a server is asked; of a file it is `ours`.
    pub(super) async fn now(&mut self, ours: Timestamp) -> Result<Timestamp, StoreError> {
        #[derive(sqlx::FromRow)]
        struct Now {
            now: i64,
        }
        match self.db.kind() {
            Kind::Sqlite => Ok(ours),
            Kind::Postgres => Ok(self.first::<Now>(CLOCK, Vec::new()).await?.map_or(ours, |row| Timestamp(row.now))),
        }
    }

    /// For what is said again should it be lost: has the server commit it without a wait for the disk, so that its locks are held for as much
    /// shorter, and give it up where it waits long for a lock, so that nobody waits long for those that it has. A crash of the server may
    /// undo it, and then whole. A file is told when the transaction begins (see `Durability`).
    pub(super) async fn in_passing(&mut self) -> Result<(), StoreError> {
        match self.db.kind() {
            Kind::Postgres => {
                let sql = "SELECT set_config('synchronous_commit', 'off', TRUE), set_config('lock_timeout', '1s', TRUE)";
                self.run(sql, Vec::new()).await.map(drop)
            }
            Kind::Sqlite => Ok(()),
        }
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
            tracing::debug!(database = %self.db.label(), %error, "could not roll back");
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
