//! Claims of jobs that limits concern: they are looked at first, and then started, held, or passed by.
//!
//! The one rule: a job that has no room is held once, and is in nobody's way from then on. Where very many of them stand in front of one
//! that has room, that one does not wait until all of them are held (see `beside`).

use std::collections::BTreeMap;

use super::Store;
use super::beside::Full;
use super::claims::{CLAIMED, Claiming, Wanted, set_started};
use super::error::StoreError;
use super::limits::{self, Limited, Room, UnderLimits};
use super::rows::ClaimedRow;
use super::spending::Budgets;
use super::statement::{Arg, args, tuples};
use super::tx::{Lock, Tx};
use super::types::ClaimRequest;
use super::walk::Place;
use super::writer::Durability;
use crate::clock::Timestamp;
use crate::ids::{ClaimToken, JobId};
use crate::job::budget::BudgetScope;
use crate::job::{ClaimedJob, Hold};

const PICK: &str = "SELECT j.id, j.share, j.budgeted, j.concurrency_key, j.concurrency_limit FROM jobs j \
    WHERE j.state = 'queued' AND j.held IS NULL AND j.route = $1 AND (j.start_by IS NULL OR j.start_by > $2)";
/// The rows are locked, and a row without a token does not run. Naming state and `held` again would let PostgreSQL look for the
/// rows by walking all of `jobs_claim`.
const START: &str = concat!(
    " UPDATE jobs /*! INDEXED BY sqlite_autoindex_jobs_1 */ SET ",
    set_started!("$1", "$2", "$3", "picked_token"),
    " FROM picked WHERE id = picked_job AND token IS NULL"
);
const ADD_ATTEMPTS: &str =
    "INSERT INTO attempts (job, attempt, worker, started_at) SELECT id, attempt, worker, $1 FROM jobs WHERE id IN ";

/// How many jobs are looked at for one that no limit holds, after the first ones were held: each is held once, so what this
/// costs is shared by the claims that follow. All limits of a page are locked at once.
const HELD_PAGE: usize = 64;
/// How often in one round.
const PAGES_MAX: usize = 16;

#[derive(sqlx::FromRow)]
struct Picked {
    id: uuid::Uuid,
    budgeted: i64,
    #[sqlx(flatten)]
    under: UnderLimits,
}

impl Limited for Picked {
    fn under(&self) -> &UnderLimits {
        &self.under
    }
}

/// What is left of those that had no room, where jobs were claimed that limits may concern.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Left {
    /// All had room.
    #[default]
    Nothing,
    /// What had none is out of the way now.
    Aside,
    /// There may be more of it than was taken out of the way.
    InFront,
}

/// How many jobs are looked at, from the front or from a place on, and how many of them are claimed at most.
#[derive(Debug, Clone, Copy)]
pub(super) struct Page {
    pub(super) from: Option<Place>,
    pub(super) length: usize,
    pub(super) most: usize,
}

/// What one look at the queue came to.
#[derive(Default)]
struct Look {
    claimed: Vec<ClaimedJob>,
    /// What had no room for some of what was looked at.
    full: Full,
    left: Left,
    /// Whether others came back in the place of those that were held: perhaps of another route, whose workers are to hear of it.
    let_back: bool,
}

impl Store {
    /// Claims at most as many jobs of a part as are wanted, takes those out of the way whose limits have no room, and notes these. What comes
    /// instead of them the next round decides, because it may be of another route.
    pub(super) async fn claim_under_limits(&self, part: Wanted, claiming: &mut Claiming<'_>) -> Result<Left, StoreError> {
        let before = claiming.claimed.len();
        let mut left = self.look(part, Page { from: None, length: part.count, most: part.count }, claiming).await?;
        for _ in 0..PAGES_MAX {
            if left != Left::InFront || claiming.claimed.len() == before + part.count {
                break;
            }
            // Those before it were held.
            left = self.look(part, Page { from: None, length: HELD_PAGE, most: 0 }, claiming).await?.max(Left::Aside);
        }
        Ok(left)
    }

    /// Looks at a page of a part, claims what it may of it, and holds those whose limits have no room, up to the first one that could be
    /// claimed as well.
    pub(super) async fn look(&self, part: Wanted, page: Page, claiming: &mut Claiming<'_>) -> Result<Left, StoreError> {
        // Whoever has the file has its host too: where a claim is undone, nobody is left who holds it.
        let mut tx = self.db().begin_with(Durability::Nothing).await?;
        match look_within(&mut tx, part, page, claiming.ask, self.now()).await {
            Ok(mut look) => {
                if look.let_back {
                    self.commit_change(tx).await?;
                } else {
                    tx.commit().await?;
                }
                claiming.claimed.append(&mut look.claimed);
                claiming.full.add(look.full);
                Ok(look.left)
            }
            Err(error) => {
                tx.rollback().await;
                Err(error)
            }
        }
    }
}

async fn look_within(tx: &mut Tx, part: Wanted, page: Page, ask: &ClaimRequest, now: Timestamp) -> Result<Look, StoreError> {
    let mut args = args![part.route, now];
    let mut narrower = part.of_priority();
    if let Some(Place { priority, position, id }) = page.from {
        narrower += " AND (j.priority, j.position, j.id) >= ($3, $4, $5)";
        args.extend(args![priority, position, id]);
    }
    // A literal limit: the planner has no generic plan for it that reads the whole table.
    let sql = format!("{PICK}{narrower} ORDER BY j.priority, j.position, j.id LIMIT {}", page.length);
    let picked: Vec<Picked> = tx.all_locked(&sql, Lock::ChangeFree, args).await?;
    if picked.is_empty() {
        return Ok(Look::default());
    }
    let mut room = Room::of(tx, &picked).await?;
    let budgeted = picked.iter().filter(|job| job.budgeted == 1).map(|job| job.id).collect();
    let budgets = Budgets::of(tx, budgeted, room.take_budgets(), now).await?;
    let (mut chosen, mut held) = (Vec::new(), BTreeMap::<&str, (Hold, Vec<&Picked>)>::new());
    let (mut full, mut over) = (Full::default(), false);
    for job in &picked {
        let mut spent = budgets.spent(job.id, job.share()).peekable();
        let room_for_it = if spent.peek().is_some() { Err(Hold::Budget) } else { room.take(job) };
        match room_for_it {
            Ok(()) if chosen.len() == page.most => {
                over = true;
                break;
            }
            Ok(()) => chosen.push(JobId::from_uuid(job.id)),
            Err(why) => {
                held.entry(why.as_str()).or_insert_with(|| (why, Vec::new())).1.push(job);
                match (why, job.key()) {
                    (Hold::Key, Some((key, _))) => full.key(key, room.running_under(key)),
                    (Hold::Budget, _) if !spent.any(|budget| budget.scope == BudgetScope::Project) => full.budget(),
                    _ => full.project(job.share()),
                }
            }
        }
    }
    let left = match (held.is_empty(), picked.len() == page.length && !over) {
        (true, _) => Left::Nothing,
        (false, true) => Left::InFront,
        (false, false) => Left::Aside,
    };
    for (why, jobs) in held.values() {
        limits::hold(tx, &jobs.iter().map(|job| job.id).collect::<Vec<_>>(), *why).await?;
    }
    let mut let_back = false;
    for (_, jobs) in held.values() {
        let_back |= limits::hand_on(tx, &room, jobs).await? > 0;
    }
    let claimed = if chosen.is_empty() { Vec::new() } else { start(tx, &chosen, ask, now).await? };
    Ok(Look { claimed, full, left, let_back })
}

/// Turns the picked rows, which nobody else can change, into claims.
async fn start(tx: &mut Tx, ids: &[JobId], ask: &ClaimRequest, now: Timestamp) -> Result<Vec<ClaimedJob>, StoreError> {
    // Who asks may have been paused, or may have waited for the locks of limits.
    let now = tx.now(now).await?;
    let mut args = args![&ask.worker, now, now + ask.lease];
    args.extend(ids.iter().flat_map(|id| [Arg::from(*id), Arg::from(ClaimToken::generate())]));
    let sql = format!("WITH picked (picked_job, picked_token) AS (VALUES {}){START}", tuples(4, ids.len(), 2));
    let started = tx.run(&sql, args).await?;
    if started != ids.len() as u64 {
        return Err(StoreError::corrupt("the queue", format!("{started} of {} picked jobs could be started", ids.len())));
    }
    let listed = |first| tuples(first, 1, ids.len());
    let mut args = args![now];
    args.extend(ids.iter().copied().map(Arg::from));
    tx.run(&format!("{ADD_ATTEMPTS}{}", listed(2)), args).await?;
    let args = ids.iter().copied().map(Arg::from).collect();
    let sql = format!("{CLAIMED} j.id IN {} ORDER BY j.priority, j.position, j.id", listed(1));
    let rows: Vec<ClaimedRow> = tx.all(&sql, args).await?;
    rows.into_iter().map(ClaimedJob::try_from).collect()
}
