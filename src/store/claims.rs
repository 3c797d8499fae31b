//! Handing out jobs.
//!
//! The one rule: a claim is one transaction in which the job's row passes from queued to running, gets a token that no other
//! claim shares, and an attempt row; so that a crash at any point leaves a job that waits or a claim that expires. Its cost
//! does not depend on how many jobs wait, are held back or have ended: `jobs_claim` is exactly its order. (Where limits have no room for very
//! many in front, it reads over them until they are out of the way: see `beside`.)
//!
//! The order: the most urgent first, of equally urgent ones whose turn it is (see `turn`). So that nothing starves, every
//! [`AGED_TURN`]th job that a process claims is a less urgent one: of the routes and priorities of which one of the next jobs has waited for
//! `queue.ageing`, the next in turn where that one has waited longest.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Store;
use super::beside::Full;
use super::db::Kind;
use super::error::StoreError;
use super::look::Left;
use super::routes::all_routes;
use super::rows::{ClaimedRow, job_columns};
use super::statement::{Arg, args};
use super::types::ClaimRequest;
use crate::clock::Timestamp;
use crate::ids::WorkerId;
use crate::job::ClaimedJob;
use crate::job::spec::Priority;

/// What a claim makes of a row of `jobs`: worker, time, end of the lease, token.
macro_rules! set_started {
    ($worker:literal, $now:literal, $until:literal, $token:literal) => {
        concat!(
            "state = 'running', attempt = attempt + 1, worker = ",
            $worker,
            ", started_at = coalesce(started_at, ",
            $now,
            "), lease_until = ",
            $until,
            ", start_by = NULL, token = ",
            $token
        )
    };
}
pub(super) use set_started;

/// One arm for each route: a list of routes in one condition would not be read in the order of the index.
const HEADS: &str = concat!(
    "SELECT route, priority, position, id, ready_at, ",
    all_routes!(),
    " AS routes FROM jobs /*! INDEXED BY jobs_claim */ WHERE state = 'queued' AND held IS NULL AND route = "
);
const ROUTES: &str = concat!("SELECT ", all_routes!(), " AS routes");
pub(super) const CLAIMED: &str = concat!(
    "SELECT ",
    job_columns!(),
    ", j.token, j.lease_until, c.started_at AS claimed_at, p.attempt AS previous_attempt, p.outcome_class AS previous_class, \
     p.outcome_message AS previous_message, p.salvage AS previous_salvage \
     FROM jobs j JOIN job_specs s ON s.job = j.id JOIN attempts c ON c.job = j.id AND c.attempt = j.attempt \
     LEFT JOIN attempts p ON p.job = j.id AND p.attempt = j.attempt - 1 WHERE "
);

/// At most so many in one call, however many slots are free.
pub(super) const LIMIT_MAX: u32 = 256;
/// How many routes are looked at in one statement.
const ARMS_MAX: usize = 50;
/// Of so many claims, one goes to who has waited too long.
const AGED_TURN: u64 = 4;
/// Among how many of the next jobs of a route and a priority one is looked for that has waited too long: whoever comes late is let in level with
/// the first, and would hide those behind it.
const AGED_LOOK: usize = 16;
/// How long nobody is looked for who has waited too long, when there was nobody; less where `queue.ageing` is short.
const AGED_PAUSE: Duration = Duration::from_secs(1);
/// How often all routes are looked at in one call: each time but the last one, a route had nothing more to give.
const ROUNDS_MAX: usize = 16;

#[derive(Debug, sqlx::FromRow)]
pub(super) struct Head {
    pub(super) route: i64,
    pub(super) priority: i64,
    pub(super) position: i64,
    pub(super) id: uuid::Uuid,
    ready_at: i64,
    /// Which routes there are.
    routes: i64,
}

#[derive(sqlx::FromRow)]
struct AllRoutes {
    routes: i64,
}

/// So many jobs of a route, of one priority or of any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) route: i64,
    pub(super) priority: Option<i64>,
    pub(super) count: usize,
}

impl Wanted {
    /// Its priority as a condition on `jobs j`.
    pub(super) fn of_priority(&self) -> String {
        self.priority.map(|priority| format!(" AND j.priority = {priority}")).unwrap_or_default()
    }
}

/// A condition more on the jobs of a route, with its arguments, which are `$1` and those after it.
#[derive(Default)]
pub(super) struct Such {
    pub(super) sql: String,
    pub(super) args: Vec<Arg>,
}

/// A claim that is under way.
pub(super) struct Claiming<'a> {
    pub(super) ask: &'a ClaimRequest,
    pub(super) claimed: Vec<ClaimedJob>,
    /// The limits that were found to have no room.
    pub(super) full: Full,
}

impl Claiming<'_> {
    /// How many more are wanted.
    pub(super) fn missing(&self) -> usize {
        (self.ask.limit.min(LIMIT_MAX) as usize).saturating_sub(self.claimed.len())
    }
}

/// How a round of claiming ended; the later one here is that of the round, where its parts ended in several ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Round {
    /// With all that was wanted, or all that was there.
    Done,
    /// With less, because limits have no room, or because there are routes that were not known. What limits hold is out of the
    /// way of the next round.
    Again,
    /// With less, because more have no room than one round takes out of the way: others of any route may stand behind them.
    Behind,
}

impl Store {
    /// Claims the most urgent jobs that who asks can run, of equally urgent ones those whose turn it is.
    ///
    /// Cancelling: either nothing was claimed, or (while it was being committed) claims exist that nobody knows of until they
    /// expire; so this belongs into a task of its own.
    ///
    /// # Errors
    /// When the database cannot be asked; nothing is claimed then, or, where the answer to the commit was lost, it expires.
    pub async fn claim(&self, ask: &ClaimRequest) -> Result<Vec<ClaimedJob>, StoreError> {
        let mut claiming = Claiming { ask, claimed: Vec::new(), full: Full::default() };
        let mut looked_beside = false;
        for _ in 0..ROUNDS_MAX {
            let mut round = self.claim_round(&mut claiming).await;
            if matches!(round, Ok(Round::Behind)) && !std::mem::replace(&mut looked_beside, true) {
                round = self.claim_beside(&mut claiming).await.map(|()| Round::Behind);
            }
            match round {
                // It was made unseen, and others may have made routes meanwhile.
                Ok(Round::Done) if claiming.missing() > 0 && self.inner.flowing.swap(false, Ordering::Relaxed) => {}
                Ok(Round::Done) => break,
                // Who has some asks again soon, and these need not wait until more are out of the way.
                Ok(Round::Behind) if !claiming.claimed.is_empty() => break,
                Ok(Round::Again | Round::Behind) => {}
                // What was claimed before is claimed, and would wait for its lease to run out.
                Err(error) if claiming.claimed.is_empty() => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "could not claim as many jobs as there are slots");
                    break;
                }
            }
        }
        if !claiming.claimed.is_empty() {
            self.inner.flowing.store(self.db().kind() == Kind::Sqlite && claiming.missing() == 0, Ordering::Relaxed);
            self.inner.turns.fetch_add(claiming.claimed.len() as u64, Ordering::Relaxed);
            self.inner.hinter.progressed();
        }
        Ok(claiming.claimed)
    }

    async fn claim_round(&self, claiming: &mut Claiming<'_>) -> Result<Round, StoreError> {
        let limit = claiming.missing();
        if limit == 0 || claiming.ask.backends.is_empty() {
            return Ok(Round::Done);
        }
        let mut round = Round::Done;
        for part in self.wanted(claiming.ask, limit).await? {
            // Where a limit kept some of a route from starting, other routes may have what there is room for.
            round = round.max(self.claim_part(part, claiming).await?);
        }
        Ok(round)
    }

    /// Claims what is wanted of a route, and says whether there was less of it because limits have no room. Those are out of the
    /// way then; what comes instead of them the next round decides, because it may be of another route.
    async fn claim_part(&self, part: Wanted, claiming: &mut Claiming<'_>) -> Result<Round, StoreError> {
        let mut missing = part.count;
        let mut unknown = Round::Done;
        if self.db().kind() == Kind::Postgres {
            let at_once = self.claim_at_once(part, claiming.ask).await?;
            missing -= at_once.jobs.len();
            claiming.claimed.extend(at_once.jobs);
            if self.learn_routes(at_once.routes).await? {
                unknown = Round::Again;
            }
            if missing == 0 || !at_once.limited {
                return Ok(if missing == 0 { Round::Done } else { unknown });
            }
        } else {
            let jobs = self.claim_in_one_call(part, claiming.ask).await?;
            missing -= jobs.len();
            claiming.claimed.extend(jobs);
            if missing == 0 {
                return Ok(Round::Done);
            }
        }
        let before = claiming.claimed.len();
        let left = self.claim_under_limits(Wanted { count: missing, ..part }, claiming).await?;
        Ok(match left {
            _ if claiming.claimed.len() == before + missing => Round::Done,
            Left::InFront => Round::Behind,
            Left::Aside => Round::Again,
            Left::Nothing => unknown,
        })
    }

    /// The claims that `worker` holds, with those that have run out and of which nobody has taken note yet.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn held_by(&self, worker: &WorkerId) -> Result<Vec<ClaimedJob>, StoreError> {
        let sql = format!("{CLAIMED} j.worker = $1 ORDER BY j.id");
        let rows: Vec<ClaimedRow> = self.db().all(&sql, args![worker]).await?;
        rows.into_iter().map(ClaimedJob::try_from).collect()
    }

    /// How many jobs of which route are the next ones. Others may take them first; then the ones after them are taken.
    async fn wanted(&self, ask: &ClaimRequest, limit: usize) -> Result<Vec<Wanted>, StoreError> {
        let mut routes = self.suitable(ask);
        let aged_look = self.now() >= Timestamp(self.inner.aged_look.load(Ordering::Relaxed));
        // A claim on PostgreSQL tells which routes there are. One on a file takes the lock of all who write, so it is made unseen only
        // where the last one found all that it wanted; a route that another process has made meanwhile waits until it does not, or
        // until the aged are looked for.
        let unseen = self.db().kind() == Kind::Postgres || self.inner.flowing.load(Ordering::Relaxed);
        if let ([route], true, false) = (&routes[..], unseen, aged_look) {
            return Ok(vec![Wanted { route: *route, priority: None, count: limit }]);
        }
        // Outside of a transaction, so that an idle worker takes no lock: on SQLite there is only one for all writers.
        let mut heads = self.heads(&routes, &Such::default(), limit).await?;
        let all_routes = match heads.first() {
            Some(head) => Some(head.routes),
            None => self.db().first::<AllRoutes>(ROUTES, args![]).await?.map(|all| all.routes),
        };
        if self.learn_routes(all_routes).await? {
            routes = self.suitable(ask);
            heads = self.heads(&routes, &Such::default(), limit).await?;
        }
        heads.sort_by_key(|head| (head.priority, head.position, head.id));
        heads.truncate(limit);
        let aged = if aged_look { self.aged_turns(&routes, &heads).await? } else { Vec::new() };
        // One that is next anyway is not to be wanted twice.
        heads.retain(|head| aged.iter().all(|other| other.id != head.id));
        heads.truncate(limit - aged.len());
        let mut wanted = Vec::new();
        for head in aged {
            add(&mut wanted, head.route, Some(head.priority));
        }
        for head in heads {
            add(&mut wanted, head.route, None);
        }
        Ok(wanted)
    }

    /// Those whose turn it is because they have waited too long, where `heads` are the next ones.
    async fn aged_turns(&self, routes: &[i64], heads: &[Head]) -> Result<Vec<Head>, StoreError> {
        let mut aged = match heads.first() {
            Some(first) => self.aged(routes, first.priority, heads.len()).await?,
            None => Vec::new(),
        };
        if aged.is_empty() {
            let pause = (self.config().ageing / 8).min(AGED_PAUSE);
            self.inner.aged_look.store((self.now() + pause).0, Ordering::Relaxed);
        }
        let turn = self.inner.turns.load(Ordering::Relaxed);
        aged.truncate((turn..turn + heads.len() as u64).filter(|turn| turn % AGED_TURN == AGED_TURN - 1).count());
        Ok(aged)
    }

    /// The routes that suit who asks, of those that are known.
    pub(super) fn suitable(&self, ask: &ClaimRequest) -> Vec<i64> {
        let known = self.inner.routes.known();
        known.iter().filter(|(_, route)| route.suits(ask)).map(|(id, _)| *id).collect()
    }

    /// The first jobs of each route that are such, at most `limit` each.
    pub(super) async fn heads(&self, routes: &[i64], such: &Such, limit: usize) -> Result<Vec<Head>, StoreError> {
        let Such { sql: such, args: before } = such;
        let now = before.len() + 1;
        let mut heads = Vec::new();
        for routes in routes.chunks(ARMS_MAX) {
            let arm = |number| {
                format!(
                    "SELECT * FROM ({HEADS}${} AND (start_by IS NULL OR start_by > ${now}){such} \
                     ORDER BY priority, position, id LIMIT {limit}) AS h{number}",
                    now + number
                )
            };
            let arms: Vec<String> = (1..=routes.len()).map(arm).collect();
            let mut args = before.clone();
            args.push(self.now().into());
            args.extend(routes.iter().copied().map(Arg::from));
            heads.extend(self.db().all::<Head>(&arms.join(" UNION ALL "), args).await?);
        }
        Ok(heads)
    }

    /// Of the next jobs less urgent than the very next that have waited too long, those that have waited longest. What they stand for is
    /// their route and priority, whose next in turn is claimed: shares take turns there too.
    async fn aged(&self, routes: &[i64], next: i64, count: usize) -> Result<Vec<Head>, StoreError> {
        let mut aged = Vec::new();
        for priority in Priority::ALL.map(|priority| i64::from(priority.rank())).into_iter().filter(|rank| *rank > next) {
            let such = Such { sql: format!(" AND priority = {priority}"), args: Vec::new() };
            aged.extend(self.heads(routes, &such, count.max(AGED_LOOK)).await?);
        }
        let ripe = self.now() - self.config().ageing;
        aged.retain(|head| Timestamp(head.ready_at) <= ripe);
        aged.sort_by_key(|head| (head.ready_at, head.id));
        aged.truncate(count);
        Ok(aged)
    }
}

fn add(wanted: &mut Vec<Wanted>, route: i64, priority: Option<i64>) {
    match wanted.iter_mut().find(|part| (part.route, part.priority) == (route, priority)) {
        Some(part) => part.count += 1,
        None => wanted.push(Wanted { route, priority, count: 1 }),
    }
}
