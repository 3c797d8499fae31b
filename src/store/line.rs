//! The lines in which completions wait their turn.
//!
//! The one rule: of a line at most one completion is offered or held, and it is the earliest that is not done with. The unique
//! index `completions_head` holds the first half whoever writes; the second half is [`Store::arrange`]'s, which everything that takes
//! the turn from a completion, or gives it one back, calls under the line's lock before its transaction ends. So a claim looks
//! at no line at all: what waits behind another is not in the index that claims walk.
//!
//! A line is the branch that was delivered. A result that begins at a commit which another one delivered, and which nobody is
//! done with yet, joins the line of that one: whoever integrates them needs the first before the second.

use uuid::Uuid;

use super::Store;
use super::error::StoreError;
use super::statement::args;
use super::tx::Tx;
use crate::clock::Timestamp;
use crate::job::Completion;

/// What may decide about a new completion's line: the line of its branch, else that of the commit it begins at, else what
/// waits in the line of its own name; each of these at most once, so that a long line costs no more than a short one.
const NEIGHBOURS: &str = "SELECT * FROM (SELECT 0 AS preference, line FROM completions \
        WHERE repo = $1 AND branch = $2 AND ended_at IS NULL LIMIT 1) AS same_branch \
    UNION ALL SELECT * FROM (SELECT 1 AS preference, line FROM completions \
        WHERE repo = $1 AND commit_id = $3 AND ended_at IS NULL LIMIT 1) AS same_commit \
    UNION ALL SELECT * FROM (SELECT 2 AS preference, line FROM completions \
        WHERE repo = $1 AND line = $2 AND ended_at IS NULL LIMIT 1) AS same_name";
const LAST: &str = "SELECT created_at FROM completions WHERE repo = $1 AND line = $2 AND ended_at IS NULL \
    ORDER BY created_at DESC, id DESC LIMIT 1";
const FIRST: &str = "SELECT id, state, visible_at FROM completions WHERE repo = $1 AND line = $2 AND ended_at IS NULL \
    ORDER BY created_at, id LIMIT 1";
/// The condition is that of the index `completions_head`, word by word.
const HEAD: &str = "SELECT id, state, visible_at FROM completions WHERE repo = $1 AND line = $2 \
    AND (visible_at IS NOT NULL OR lease_until IS NOT NULL)";
const WITHDRAW: &str = "UPDATE completions SET visible_at = NULL WHERE id = $1 AND state = 'pending'";
const OFFER: &str = "UPDATE completions SET visible_at = $2 WHERE id = $1 AND state = 'pending'";

#[derive(sqlx::FromRow)]
struct Neighbour {
    preference: i32,
    line: Option<String>,
}

#[derive(sqlx::FromRow)]
struct Last {
    created_at: i64,
}

#[derive(sqlx::FromRow)]
struct Waiting {
    id: Uuid,
    state: String,
    visible_at: Option<i64>,
}

/// A line of a remote.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Line {
    pub(super) repo: String,
    pub(super) name: String,
}

/// Where a new completion stands.
pub(super) struct Place {
    /// Its line, where it concerns a branch.
    pub(super) line: Option<String>,
    /// Its place in the line: later than all that are not done with.
    pub(super) created_at: Timestamp,
    /// Since when it may be handed out; none where it waits behind another.
    pub(super) visible_at: Option<Timestamp>,
}

/// Keeps everybody else from arranging a line until the end of the transaction.
async fn lock_line(tx: &mut Tx, repo: &str, name: &str) -> Result<(), StoreError> {
    tx.lock_names(vec![crc32fast::hash(format!("line:{repo} {name}").as_bytes()).cast_signed()]).await
}

impl Store {
    /// Finds the place of a completion that is about to be written, and keeps it until the end of the transaction.
    pub(super) async fn place(&self, tx: &mut Tx, completion: &Completion) -> Result<Place, StoreError> {
        let (repo, Some(branch)) = (&completion.repo, &completion.branch) else {
            let now = self.now();
            return Ok(Place { line: None, created_at: now, visible_at: Some(now) });
        };
        lock_line(tx, repo, branch).await?;
        let found: Vec<Neighbour> = tx.all(NEIGHBOURS, args![repo, branch, &completion.base]).await?;
        let Some(nearest) = found.into_iter().min_by_key(|neighbour| neighbour.preference) else {
            let now = self.now();
            return Ok(Place { line: Some(branch.clone()), created_at: now, visible_at: Some(now) });
        };
        let line = nearest.line.unwrap_or_else(|| branch.clone());
        if line != *branch {
            lock_line(tx, repo, &line).await?;
        }
        let last: Option<Last> = tx.first(LAST, args![repo, &line]).await?;
        let now = self.now();
        Ok(match last {
            Some(last) => {
                Place { line: Some(line), created_at: Timestamp(last.created_at.saturating_add(1)).max(now), visible_at: None }
            }
            // The one that made it join has been done with since.
            None => Place { line: Some(line), created_at: now, visible_at: Some(now) },
        })
    }

    /// Gives the turn to the earliest of a line that nobody is done with, once nobody holds one of it.
    pub(super) async fn arrange(&self, tx: &mut Tx, line: &Line) -> Result<(), StoreError> {
        lock_line(tx, &line.repo, &line.name).await?;
        let Some(first) = tx.first::<Waiting>(FIRST, args![&line.repo, &line.name]).await? else { return Ok(()) };
        if first.visible_at.is_some() || first.state != "pending" {
            return Ok(());
        }
        if let Some(head) = tx.first::<Waiting>(HEAD, args![&line.repo, &line.name]).await? {
            // A later one has the turn: an earlier one was brought back. It loses the turn unless somebody holds it by now, whose
            // answer will arrange the line again.
            if head.state != "pending" || tx.run(WITHDRAW, args![head.id]).await? == 0 {
                return Ok(());
            }
        }
        tx.run(OFFER, args![first.id, self.now()]).await?;
        Ok(())
    }
}
