//! Bringing a database to this build's schema.
//!
//! The one rule: all of it happens in one transaction that only one process is in at a time, so that a database is at one
//! version or at another and never between. The scripts are embedded in the binary, in pairs with the same name; they go
//! forward only. sqlx's own migrator is not used: it takes no lock on SQLite, where two processes may well meet a new file
//! at once, and one transaction for each script.

use super::db::{Db, Kind};
use super::error::{Driver, StoreError};
use super::statement::args;
use super::tx::Tx;
use crate::clock::Timestamp;

/// A step from one version of the schema to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migration {
    /// The version that it leads to.
    pub version: i64,
    /// The name of its two files.
    pub name: &'static str,
    /// What SQLite runs.
    pub sqlite: &'static str,
    /// What PostgreSQL runs.
    pub postgres: &'static str,
}

macro_rules! migration {
    ($version:literal, $name:literal) => {
        Migration {
            version: $version,
            name: $name,
            sqlite: include_str!(concat!("../../migrations/sqlite/", $name, ".sql")),
            postgres: include_str!(concat!("../../migrations/postgres/", $name, ".sql")),
        }
    };
}

/// All migrations, in order. The version is the number that the name begins with.
pub const MIGRATIONS: &[Migration] = &[migration!(1, "0001_queue"), migration!(2, "0002_judgement")];

/// What a migration of the database did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    /// The names of the migrations applied now; none when there was nothing to do.
    pub applied: Vec<&'static str>,
    /// The version that the schema is at.
    pub version: i64,
}

/// What is recorded of an applied migration.
#[derive(sqlx::FromRow)]
struct Applied {
    version: i64,
    crc: i64,
}

#[derive(sqlx::FromRow)]
struct Found {
    found: i64,
}

const CREATE: &str = "CREATE TABLE IF NOT EXISTS sawmill_migrations (
    version BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL, crc BIGINT NOT NULL, applied_at BIGINT NOT NULL)";
const APPLIED: &str = "SELECT version, crc FROM sawmill_migrations ORDER BY version";
const RECORD: &str = "INSERT INTO sawmill_migrations (version, name, crc, applied_at) VALUES ($1, $2, $3, $4)";

/// The newest version that this build knows.
pub(super) const fn known() -> i64 {
    MIGRATIONS[MIGRATIONS.len() - 1].version
}

/// Applies what is missing.
pub(super) async fn run(db: &Db, now: Timestamp) -> Result<Migrated, StoreError> {
    // Looked at without a lock first: this is what nearly every start finds.
    if version(db).await? == known() {
        check_applied(db.label(), db.kind(), &db.all(APPLIED, args![]).await?)?;
        return Ok(Migrated { applied: Vec::new(), version: known() });
    }
    let mut tx = db.begin().await?;
    lock(db, &mut tx).await?;
    tx.run(CREATE, args![]).await?;
    let applied: Vec<Applied> = tx.all(APPLIED, args![]).await?;
    check_applied(db.label(), db.kind(), &applied)?;
    let at = applied.last().map_or(0, |newest| newest.version);
    let mut names = Vec::new();
    for migration in MIGRATIONS.iter().filter(|migration| migration.version > at) {
        let name = migration.name;
        tx.script(script(db.kind(), migration)).await.map_err(|source| StoreError::Migration {
            name,
            database: db.label().to_owned(),
            source: Driver(source),
        })?;
        tx.run(RECORD, args![migration.version, name, crc(db.kind(), migration), now]).await?;
        names.push(name);
    }
    tx.commit().await?;
    Ok(Migrated { applied: names, version: known() })
}

/// Fails where the database is not at this build's version.
pub(super) async fn check(db: &Db) -> Result<(), StoreError> {
    let found = version(db).await?;
    let database = db.label().to_owned();
    match found.cmp(&known()) {
        std::cmp::Ordering::Less => Err(StoreError::OlderSchema { database, found, known: known() }),
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(StoreError::NewerSchema { database, found, known: known() }),
    }
}

/// The version that the database is at; 0 when it has none.
pub(super) async fn version(db: &Db) -> Result<i64, StoreError> {
    // Each has its own catalogue.
    let table = match db.kind() {
        Kind::Sqlite => "SELECT count(*) AS found FROM sqlite_master WHERE name = 'sawmill_migrations'",
        Kind::Postgres => {
            "SELECT count(*) AS found FROM pg_class WHERE relname = 'sawmill_migrations' AND relnamespace = to_regnamespace(quote_ident(current_schema()))"
        }
    };
    let there = db.first::<Found>(table, args![]).await?.is_some_and(|row| row.found > 0);
    if !there {
        return Ok(0);
    }
    Ok(db.all::<Applied>(APPLIED, args![]).await?.last().map_or(0, |newest| newest.version))
}

/// Keeps other processes out until the end of the transaction. SQLite's has the file's lock from its beginning.
async fn lock(db: &Db, tx: &mut Tx) -> Result<(), StoreError> {
    #[derive(sqlx::FromRow)]
    struct Locked {
        #[expect(dead_code, reason = "a statement that yields a row needs a row to put it in")]
        locked: i64,
    }
    // One lock for each schema: tests, and queues that share a database, do not wait for each other.
    const LOCK: &str =
        "SELECT 1::BIGINT AS locked FROM (SELECT pg_advisory_xact_lock(hashtext('sawmill migrate ' || current_schema()))) AS l";
    if db.kind() == Kind::Postgres {
        // A migration of a large table takes longer than any other statement may.
        tx.script("SET LOCAL statement_timeout = 0").await.map_err(|error| StoreError::from_driver(db.label(), error))?;
        tx.first::<Locked>(LOCK, args![]).await?;
    }
    Ok(())
}

fn check_applied(label: &str, kind: Kind, applied: &[Applied]) -> Result<(), StoreError> {
    if let Some(newest) = applied.last().filter(|newest| newest.version > known()) {
        return Err(StoreError::NewerSchema { database: label.to_owned(), found: newest.version, known: known() });
    }
    for migration in MIGRATIONS {
        let changed = |row: &&Applied| row.version == migration.version && row.crc != crc(kind, migration);
        if applied.iter().find(changed).is_some() {
            let why = format!("migration {} was applied in another form than this build has", migration.name);
            return Err(StoreError::corrupt(format!("the schema of {label}"), why));
        }
    }
    Ok(())
}

const fn script(kind: Kind, migration: &Migration) -> &'static str {
    match kind {
        Kind::Sqlite => migration.sqlite,
        Kind::Postgres => migration.postgres,
    }
}

fn crc(kind: Kind, migration: &Migration) -> i64 {
    i64::from(crc32fast::hash(script(kind, migration).as_bytes()))
}
