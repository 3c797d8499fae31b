//! Claims of jobs that limits concern: they are looked at first, and then started, held, or passed by.
//!
//! The one rule: a job that has no room is held once, and is in nobody's way from then on. Where very many of them stand in front of one
//! that has room, that one does not wait until all of them are held: it is looked for behind them, which reads them and changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::Store;
use super::claims::{ARMS_MAX, CLAIMED, Wanted, set_started};
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
    WHERE j.state = 'queued' AND j.held IS NULL AND (j.start_by IS NULL OR j.start_by > $1) AND j.route = $2";
const NEXT: &str = "SELECT j.route, j.priority, j.position, j.id FROM jobs j /*! INDEXED BY jobs_claim */ \
    WHERE j.state = 'queued' AND j.held IS NULL AND (j.start_by IS NULL OR j.start_by > $1)";
const IN_ORDER: &str = " ORDER BY j.priority, j.position, j.id LIMIT ";
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
/// How often one is looked for behind those that are held, where what was found has no room either.
const PASSES_MAX: usize = 4;
/// So many keys and so many projects that are full are told to who looks behind them, since each is compared with each job there; of what
/// others hold it learns when it comes there.
const FULL_MAX: usize = 16;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// All had room.
    Nothing,
    /// What had none is out of the way now.
    Aside,
    /// There is more of it than was taken out of the way.
    InFront,
}

/// How many jobs are looked at, from the front or from a place on, and how many of them are claimed at most.
#[derive(Debug, Clone, Copy)]
struct Page {
    from: Option<Place>,
    length: usize,
    most: usize,
}

/// What one look at the queue came to.
#[derive(Default)]
struct Look {
    claimed: Vec<ClaimedJob>,
    /// What had no room for some of what was looked at; nothing where there was room for all of it.
    full: Full,
    held: bool,
    /// Whether there may be more to hold behind what was looked at.
    more: bool,
    /// Whether others came back in the place of those that were held: perhaps of another route, whose workers are to hear of it.
    let_back: bool,
}

/// Limits that had no room for jobs that were looked at.
#[derive(Debug, Default)]
pub(super) struct Full {
    /// The keys, with how many run.
    keys: BTreeMap<String, i64>,
    projects: BTreeSet<String>,
    /// Whether jobs were among them of which the budget of their own, or that of their execution, is used up.
    budgeted: bool,
}

impl Full {
    fn add(&mut self, mut other: Self) {
        self.keys.append(&mut other.keys);
        self.projects.append(&mut other.projects);
        self.budgeted |= other.budgeted;
    }

    /// What a job is that none of these concerns, in SQL, with its arguments in the places from `first` on.
    fn others(&self, first: usize) -> (String, Vec<Arg>) {
        let (mut sql, mut args) = (String::new(), Vec::new());
        for (key, running) in self.keys.iter().take(FULL_MAX) {
            let at = first + args.len();
            sql +=
                &format!(" AND (j.concurrency_key IS NULL OR j.concurrency_key <> ${at} OR j.concurrency_limit > ${})", at + 1);
            args.extend(args![key, *running]);
        }
        let projects: Vec<Arg> = self.projects.iter().take(FULL_MAX).map(Arg::from).collect();
        if !projects.is_empty() {
            sql += &format!(" AND j.share NOT IN {}", tuples(first + args.len(), 1, projects.len()));
            args.extend(projects);
        }
        if self.budgeted {
            sql += " AND j.budgeted = 0";
        }
        (sql, args)
    }
}

/// The next one of a route, and where it stands.
#[derive(sqlx::FromRow)]
struct Next {
    route: i64,
    #[sqlx(flatten)]
    place: Place,
}

impl Store {
    /// Claims at most as many jobs of a part as are wanted, takes those out of the way whose limits have no room, and notes these. What comes
    /// instead of them the next round decides, because it may be of another route.
    pub(super) async fn claim_under_limits(
        &self,
        part: Wanted,
        ask: &ClaimRequest,
        claimed: &mut Vec<ClaimedJob>,
        full: &mut Full,
    ) -> Result<Left, StoreError> {
        let all = claimed.len() + part.count;
        let mut look = self.look(part, Page { from: None, length: part.count, most: part.count }, ask).await?;
        claimed.append(&mut look.claimed);
        let left = if look.held { Left::Aside } else { Left::Nothing };
        full.add(look.full);
        for _ in 0..PAGES_MAX {
            if claimed.len() == all || !look.more {
                return Ok(left);
            }
            look = self.look(part, Page { from: None, length: HELD_PAGE, most: 0 }, ask).await?;
            full.add(std::mem::take(&mut look.full));
        }
        Ok(if look.more { Left::InFront } else { left })
    }

    /// Claims those that are next in turn of all that none of these limits concerns, wherever they stand. What it costs grows with what stands
    /// before them, which is read and not changed, and nobody waits for it; so where that takes too long there are none.
    pub(super) async fn claim_beside(
        &self,
        mut full: Full,
        routes: &[i64],
        ask: &ClaimRequest,
        count: usize,
        claimed: &mut Vec<ClaimedJob>,
    ) -> Result<(), StoreError> {
        let all = claimed.len() + count;
        for _ in 0..PASSES_MAX {
            let next = match self.next_beside(&full, routes).await {
                Ok(next) => next,
                Err(error) => {
                    tracing::debug!(%error, "could not look for jobs behind those that have no room");
                    break;
                }
            };
            let Some(Next { route, place }) = next else { break };
            let missing = all - claimed.len();
            let part = Wanted { route, priority: None, count: missing };
            let mut look = self.look(part, Page { from: Some(place), length: missing, most: missing }, ask).await?;
            claimed.append(&mut look.claimed);
            if claimed.len() == all {
                break;
            }
            full.add(look.full);
        }
        Ok(())
    }

    /// The next job in turn of these routes that is under none of these limits.
    async fn next_beside(&self, full: &Full, routes: &[i64]) -> Result<Option<Next>, StoreError> {
        let mut first: Option<Next> = None;
        for routes in routes.chunks(ARMS_MAX) {
            let (others, mut arguments) = full.others(2);
            let mut args = args![self.now()];
            args.append(&mut arguments);
            let before = args.len();
            let arm =
                |number| format!("SELECT * FROM ({NEXT}{others} AND j.route = ${}{IN_ORDER}1) AS h{number}", before + number);
            let arms: Vec<String> = (1..=routes.len()).map(arm).collect();
            args.extend(routes.iter().copied().map(Arg::from));
            let found: Vec<Next> = self.db().all(&arms.join(" UNION ALL "), args).await?;
            first = found.into_iter().chain(first).min_by_key(|next| (next.place.priority, next.place.position, next.place.id));
        }
        Ok(first)
    }

    /// Looks at a page of a part, claims what it may of it, and holds those whose limits have no room, up to the first one that could be
    /// claimed as well.
    async fn look(&self, part: Wanted, page: Page, ask: &ClaimRequest) -> Result<Look, StoreError> {
        // Whoever has the file has its host too: where a claim is undone, nobody is left who holds it.
        let mut tx = self.db().begin_with(Durability::Nothing).await?;
        match look_within(&mut tx, part, page, ask, self.now()).await {
            Ok(look) => {
                if look.let_back {
                    self.commit_change(tx).await?;
                } else {
                    tx.commit().await?;
                }
                Ok(look)
            }
            Err(error) => {
                tx.rollback().await;
                Err(error)
            }
        }
    }
}

async fn look_within(tx: &mut Tx, part: Wanted, page: Page, ask: &ClaimRequest, now: Timestamp) -> Result<Look, StoreError> {
    let mut args = args![now, part.route];
    let mut narrower = part.of_priority();
    if let Some(Place { priority, position, id }) = page.from {
        narrower += " AND (j.priority, j.position, j.id) >= ($3, $4, $5)";
        args.extend(args![priority, position, id]);
    }
    // A literal limit: the planner has no generic plan for it that reads the whole table.
    let sql = format!("{PICK}{narrower}{IN_ORDER}{}", page.length);
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
                if why == Hold::Project || spent.any(|budget| budget.scope == BudgetScope::Project) {
                    full.projects.insert(job.share().to_owned());
                } else if let Some((key, _)) = job.key().filter(|_| why == Hold::Key) {
                    full.keys.insert(key.to_owned(), room.running_under(key));
                } else {
                    full.budgeted |= why == Hold::Budget;
                }
            }
        }
    }
    let some_held = !held.is_empty();
    let more = some_held && picked.len() == page.length && !over;
    for (why, jobs) in held.values() {
        limits::hold(tx, &jobs.iter().map(|job| job.id).collect::<Vec<_>>(), *why).await?;
    }
    let mut let_back = false;
    for (_, jobs) in held.values() {
        let_back |= limits::hand_on(tx, &room, jobs).await? > 0;
    }
    let claimed = if chosen.is_empty() { Vec::new() } else { start(tx, &chosen, ask, now).await? };
    Ok(Look { claimed, full, held: some_held, more, let_back })
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
