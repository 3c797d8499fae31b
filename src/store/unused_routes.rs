//! Routes that no job needs any more, which go.
//!
//! The one rule: a route goes only when every job was looked at and none has it, and when none can have come with it meanwhile: whoever
//! enqueues says that a route is used, once in [`USED`], so that one of which nobody has said so for [`UNUSED`] has no new jobs either.
//! Which one has it no index tells (each claim and each end would write it), so all jobs are gone through, once in [`EVERY`] by one process,
//! and only where there is a route to ask for.

use std::collections::BTreeSet;
use std::time::Duration;

use uuid::Uuid;

use super::error::StoreError;
use super::routes::USED;
use super::statement::{Arg, args, tuples};
use super::{Store, duty};
use crate::clock::Timestamp;

const CANDIDATES: &str = "SELECT id FROM routes WHERE used_at <= $1";
const JOBS: &str = "SELECT j.id, j.route FROM jobs j WHERE j.id > $1 ORDER BY j.id LIMIT ";
const REMOVE: &str = "DELETE FROM routes WHERE used_at <= $1 AND id IN ";

/// For so long nobody has used one that goes.
const UNUSED: Duration = Duration::from_secs(3 * USED.as_secs());
/// How often all jobs are looked at.
const EVERY: Duration = USED;
/// Jobs looked at in one step.
const STEP: u32 = 5_000;
/// How many routes go at once.
const BATCH: usize = 500;

/// A walk through all jobs, for the routes that they have.
#[derive(Debug, Clone)]
pub struct RouteWalk {
    /// Not used since then.
    unused_since: Timestamp,
    candidates: BTreeSet<i64>,
    after: Uuid,
}

#[derive(sqlx::FromRow)]
struct Candidate {
    id: i64,
}

#[derive(sqlx::FromRow)]
struct OfJob {
    id: Uuid,
    route: i64,
}

impl Store {
    /// Begins a walk through all jobs; none where all routes were used lately, or where some process has begun one lately.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn walk_routes(&self) -> Result<Option<RouteWalk>, StoreError> {
        let now = self.now();
        let unused_since = now - UNUSED;
        let candidates: Vec<Candidate> = self.db().all(CANDIDATES, args![unused_since]).await?;
        if candidates.is_empty() {
            return Ok(None);
        }
        let mut tx = self.db().begin().await?;
        // Nobody's own: who has begun one does not begin the next one sooner than others.
        let ours = duty::take(&mut tx, duty::ROUTES, Uuid::now_v7(), EVERY, now).await?;
        tx.commit().await?;
        let candidates = candidates.into_iter().map(|route| route.id).collect();
        Ok(ours.then_some(RouteWalk { unused_since, candidates, after: Uuid::nil() }))
    }

    /// Looks at the next jobs. At the end it removes the routes that none of all jobs has, and says how many went.
    ///
    /// # Errors
    /// When the database cannot be asked; the same call can be made again.
    pub async fn walk_routes_once(&self, walk: &mut RouteWalk) -> Result<Option<u64>, StoreError> {
        let jobs: Vec<OfJob> = self.db().all(&format!("{JOBS}{STEP}"), args![walk.after]).await?;
        for job in &jobs {
            walk.candidates.remove(&job.route);
            walk.after = job.id;
        }
        if jobs.len() == STEP as usize && !walk.candidates.is_empty() {
            return Ok(None);
        }
        let mut removed = 0;
        for batch in walk.candidates.iter().copied().collect::<Vec<_>>().chunks(BATCH) {
            let mut args = args![walk.unused_since];
            args.extend(batch.iter().copied().map(Arg::from));
            let mut tx = self.db().begin().await?;
            removed += tx.run(&format!("{REMOVE}{}", tuples(2, 1, batch.len())), args).await?;
            tx.commit().await?;
        }
        Ok(Some(removed))
    }
}
