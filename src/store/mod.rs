//! The queue in its database: jobs and claims, attempts, logs, completions, workers.
//!
//! The one rule is the fence: every write for a running job names job, attempt, token and worker, and either finds exactly
//! that row running or reports [`StoreError::LeaseLost`] and changes nothing. It holds on SQLite and on PostgreSQL alike; each
//! statement is written once, and where the two must differ a comment says why.
//!
//! This is the only room that holds SQL. One call is one statement or one transaction. Dropping a call's future rolls its
//! transaction back, but a future that is kept without being polled keeps its transaction open (on SQLite: everybody else's
//! writes waiting), so a call that may be abandoned belongs into a task of its own. What the ends of attempts lead to is
//! decided in `job::retry`; how often the `…_once` duties run is up to the worker.

mod address;
mod answers;
mod artifacts;
mod at_once;
mod attempts;
mod beside;
mod broken;
mod claims;
mod completions;
mod config;
mod counts;
mod coverage;
mod db;
mod deadline;
mod dependencies;
mod depth;
mod driver;
mod duty;
mod enqueue;
mod error;
mod expire;
mod explain;
mod fate;
mod fence;
mod finish;
mod forecast;
mod hints;
mod history;
mod jobs;
mod kept;
mod learn;
mod lease_clock;
mod ledger;
mod limits;
mod line;
mod listener;
mod logs;
mod look;
mod migrate;
mod notifier;
mod one_call;
mod outbox;
mod pauses;
mod promote;
mod rejections;
mod renew;
mod retention;
mod routes;
mod rows;
mod settle;
mod spending;
mod statement;
mod steps;
mod together;
mod turn;
mod tx;
mod types;
mod unused_routes;
mod verdict;
mod walk;
mod watcher;
mod which;
mod workers;
mod writer;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use self::address::Address;
use self::db::Db;
use self::depth::Depth;
use self::hints::Hinter;
use self::history::Recent;
use self::learn::Learnt;
use self::lease_clock::LeaseClock;
use self::listener::Listener;
use self::notifier::Notifier;
use self::routes::Routes;
use self::statement::args;
use self::steps::{Seen, Steps};
use self::together::Together;
use self::tx::Tx;
use self::walk::Walks;
use crate::clock::{HostClock, Timestamp};

pub use self::config::{Config, ProjectLimits, Retention};
pub use self::counts::Counts;
pub use self::deadline::MovedDeadline;
pub use self::error::StoreError;
pub use self::hints::Hints;
pub use self::limits::RelieveCursor;
pub use self::migrate::{MIGRATIONS, Migrated, Migration};
pub use self::renew::{Heard, JobOrder, Orders, Renewed};
pub use self::retention::{Sweep, Swept};
pub use self::spending::AuditCursor;
pub use self::types::{
    Because, Cancel, Change, ChangedJobs, ClaimRequest, CompletionAsk, CompletionFilter, CredentialNews, Enqueued, Expired,
    Finish, HeldCompletion, JobFilter, LogPage, LogPosition, NewJob, Page, Refusal, Renewal, Requeue, Rooms, Run, Selection,
    SelectionCursor, StopRequest, UnchangedJob,
};
pub use self::unused_routes::RouteWalk;
pub use crate::job::worker_record::{
    ClaimFailure, Claiming, Drain, NoEngine, OfferedBackend, Pressure, PressureLimits, Resource, Shortage, SlotContent,
    SlotRecord, WorkerPhase, WorkerRecord, WorkerReport, WorkerState,
};

/// The queue. Cheap to clone; all clones share their connections.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    db: Db,
    config: Config,
    clock: LeaseClock,
    hinter: Hinter,
    /// Tells this store from those of other processes.
    process: Uuid,
    routes: Routes,
    depth: Depth,
    recent: Recent,
    learnt: Learnt,
    turns: AtomicU64,
    walks: Walks,
    /// Since when the database has answered whoever looks for what has expired.
    reached: Mutex<Option<Instant>>,
    steps: Mutex<Steps>,
    /// When it is next looked whether somebody has waited too long.
    aged_look: AtomicI64,
    /// Whether the last claim found all that it wanted, so that there is probably more.
    flowing: AtomicBool,
    /// None where processes see each other's changes by themselves.
    notifier: Option<Arc<Notifier>>,
    ends: Arc<Together<finish::Pending>>,
    arrivals: Arc<Together<enqueue::Pending>>,
    /// Hears of the changes of other processes; none where they are seen.
    listener: Option<Listener>,
    /// Ends what runs in the background when the last clone goes.
    background: DropGuard,
}

impl Store {
    /// Opens the database and brings it to this build's schema. A SQLite file is created with its directory.
    ///
    /// # Errors
    /// [`StoreError::BadUrl`], [`StoreError::Refused`] and [`StoreError::Unreachable`] for what cannot be opened,
    /// [`StoreError::NewerSchema`] for what a newer build has migrated.
    pub async fn connect(config: &Config) -> Result<Self, StoreError> {
        let store = Self::connect_unmigrated(config).await?;
        store.migrate().await?;
        Ok(store)
    }

    /// Opens the database as it is. Before anything but [`Store::migrate`], [`Store::schema_version`] and
    /// [`Store::check_schema`] is called, one of the first and the last must have succeeded.
    ///
    /// # Errors
    /// Those of [`Store::connect`] that do not concern the schema.
    pub async fn connect_unmigrated(config: &Config) -> Result<Self, StoreError> {
        let (address, label) = address::parse(&config.url)?;
        let db = Db::open(&address, &label).await?;
        let hinter = Hinter::new();
        let stop = CancellationToken::new();
        let (clock, notifier, listener) = match address {
            Address::Sqlite(path) => {
                tokio::spawn(watcher::watch_loop(db.clone(), path, hinter.clone(), stop.clone()));
                (LeaseClock::Host, None, None)
            }
            Address::Postgres(options) => {
                let clock = db.server_clock().await?;
                let (channel, payload) = channel_of_schema(&db).await?;
                let listener = Listener {
                    options: *options,
                    label: label.as_str().into(),
                    channel: channel.clone(),
                    own_payload: payload.clone(),
                    hinter: hinter.clone(),
                    clock: clock.clone(),
                    stop: stop.clone(),
                    started: Arc::default(),
                };
                tokio::spawn(lease_clock::sample_loop(db.clone(), clock.clone(), stop.clone()));
                let notifier = Arc::new(Notifier::new(db.clone(), channel, payload));
                let (teller, stopped) = (notifier.clone(), stop.clone());
                tokio::spawn(async move { teller.tell_loop(stopped).await });
                (clock, Some(notifier), Some(listener))
            }
        };
        let steps = Mutex::new(Steps::begin(Seen::now(&clock)));
        let inner = Inner {
            db,
            config: config.clone(),
            clock,
            hinter,
            process: Uuid::new_v4(),
            routes: Routes::default(),
            depth: Depth::default(),
            recent: Recent::default(),
            learnt: Learnt::default(),
            turns: AtomicU64::new(0),
            walks: Walks::default(),
            reached: Mutex::new(Some(Instant::now())),
            steps,
            aged_look: AtomicI64::new(0),
            flowing: AtomicBool::new(false),
            notifier,
            ends: Arc::default(),
            arrivals: Arc::default(),
            listener,
            background: stop.drop_guard(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Brings the database to this build's schema. Safe while other processes do the same, or work with it.
    ///
    /// # Errors
    /// [`StoreError::NewerSchema`]; [`StoreError::Migration`], after which the database is as it was.
    pub async fn migrate(&self) -> Result<Migrated, StoreError> {
        migrate::run(&self.inner.db, self.now()).await
    }

    /// The version of the schema that the database is at; 0 for an empty one.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn schema_version(&self) -> Result<i64, StoreError> {
        migrate::version(&self.inner.db).await
    }

    /// Checks that the database is at this build's schema, and changes nothing.
    ///
    /// # Errors
    /// [`StoreError::OlderSchema`] or [`StoreError::NewerSchema`] when it is not.
    pub async fn check_schema(&self) -> Result<(), StoreError> {
        migrate::check(&self.inner.db).await
    }

    /// The name by which messages call the database: its URL without credentials and parameters.
    #[must_use]
    pub fn label(&self) -> &str {
        self.inner.db.label()
    }

    /// The time by which leases run: this host's for SQLite, the server's for PostgreSQL. It asks nobody.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    /// Whether the database is known to be down for everybody: its host refuses connections because no server is there. Until
    /// a full lease after its next start nothing expires (see [`Store::expire_once`]), so who hears this may go on under its
    /// leases. Silence, which can be a network that is cut only here, is no such thing. Takes at most two seconds.
    pub async fn is_down(&self) -> bool {
        self.inner.db.is_down().await
    }

    /// Hints from now on. Take them out before looking at what they are to be hints about. To be called within a runtime of tokio.
    #[must_use]
    pub fn hints(&self) -> Hints {
        self.inner.listen();
        self.inner.hinter.subscribe()
    }

    /// Closes all connections, for all clones, once the calls that use them are over.
    pub async fn close(self) {
        self.inner.background.token().cancel();
        self.inner.db.close().await;
    }

    fn db(&self) -> &Db {
        &self.inner.db
    }

    /// The clock of this host by which it is known, without asking anybody, how much of a lease is left: all who share a file are suspended
    /// with it, and a server goes on.
    #[must_use]
    pub fn host_clock(&self) -> HostClock {
        self.inner.clock.beside()
    }

    /// How long a claim holds without being renewed.
    #[must_use]
    pub fn lease(&self) -> Duration {
        self.config().lease
    }

    fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Ends a transaction as its result says: commits a change, or undoes everything.
    async fn conclude<T>(&self, tx: Tx, result: Result<T, StoreError>) -> Result<T, StoreError> {
        match result {
            Ok(value) => {
                self.commit_change(tx).await?;
                Ok(value)
            }
            Err(error) => {
                tx.rollback().await;
                Err(error)
            }
        }
    }

    /// Commits a transaction that changed a job or a completion, and hints at it: once, however much it changed.
    async fn commit_change(&self, tx: Tx) -> Result<(), StoreError> {
        tx.commit().await?;
        self.changed().await;
        Ok(())
    }

    /// As [`Store::changed`], for an end that makes nothing claimable: it can wait until others hear of it.
    fn ended(&self) {
        self.inner.hinter.job_ended();
        if let Some(notifier) = &self.inner.notifier {
            notifier.changed_soon();
        }
    }

    /// Hints at a change that is committed, here and in other processes.
    async fn changed(&self) {
        self.inner.hinter.job_changed();
        if let Some(notifier) = &self.inner.notifier {
            notifier.changed().await;
        }
    }
}

impl Inner {
    /// Hears of what other processes change from now on, if not soon after: what it misses by that is hinted at then.
    fn listen(&self) {
        if let Some(listener) = &self.listener {
            listener.start();
        }
    }
}

/// The channel of the current schema, so that queues that share a database do not wake each other, and the word by which this
/// process knows its own notifications.
async fn channel_of_schema(db: &Db) -> Result<(String, String), StoreError> {
    #[derive(sqlx::FromRow)]
    struct Current {
        schema: Option<String>,
    }
    let current = db.first::<Current>("SELECT current_schema()::TEXT AS schema", args![]).await?;
    let Some(schema) = current.and_then(|current| current.schema) else {
        let why = "its search_path names no schema that exists".to_owned();
        return Err(StoreError::BadUrl { url: db.label().to_owned(), why });
    };
    Ok((format!("sawmill_{:08x}", crc32fast::hash(schema.as_bytes())), format!("{:08x}", rand::random::<u32>())))
}
