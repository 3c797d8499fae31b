//! Claims of jobs that stand behind very many whose limits have no room.
//!
//! The one rule: those in front are read over and not changed, in no transaction, so that nobody waits for that; taking them out of the way
//! is for the rounds of a claim (see `look`).

use std::collections::{BTreeMap, BTreeSet};

use super::Store;
use super::claims::{Claiming, Such, Wanted};
use super::error::StoreError;
use super::look::Page;
use super::statement::{Arg, args, tuples};
use super::walk::Place;

/// How often one is looked for in one claim, where what was found has no room either.
const LOOKS_MAX: usize = 4;
/// So many keys and so many projects that are full are told to who looks, since each is compared with each job in front; of what others hold
/// it learns when it comes there.
const FULL_MAX: usize = 16;

/// Limits that had no room for jobs that were looked at.
#[derive(Debug, Default)]
pub(super) struct Full {
    /// The keys, with how many run.
    keys: BTreeMap<String, i64>,
    projects: BTreeSet<String>,
    /// Whether jobs were among them of which the budget of their own, or that of their execution, is used up.
    budgets: bool,
}

impl Full {
    pub(super) fn key(&mut self, key: &str, running: i64) {
        self.keys.insert(key.to_owned(), running);
    }

    pub(super) fn project(&mut self, project: &str) {
        self.projects.insert(project.to_owned());
    }

    pub(super) const fn budget(&mut self) {
        self.budgets = true;
    }

    pub(super) fn add(&mut self, mut other: Self) {
        self.keys.append(&mut other.keys);
        self.projects.append(&mut other.projects);
        self.budgets |= other.budgets;
    }

    /// Jobs that none of these concerns.
    fn others(&self) -> Such {
        let (mut sql, mut args) = (String::new(), Vec::new());
        for (key, running) in self.keys.iter().take(FULL_MAX) {
            args.extend(args![key, *running]);
            let (key, running) = (args.len() - 1, args.len());
            sql += &format!(" AND (concurrency_key IS NULL OR concurrency_key <> ${key} OR concurrency_limit > ${running})");
        }
        let projects: Vec<Arg> = self.projects.iter().take(FULL_MAX).map(Arg::from).collect();
        if !projects.is_empty() {
            sql += &format!(" AND share NOT IN {}", tuples(args.len() + 1, 1, projects.len()));
            args.extend(projects);
        }
        if self.budgets {
            sql += " AND budgeted = 0";
        }
        Such { sql, args }
    }
}

impl Store {
    /// Claims those that are next in turn of all that no limit concerns that was found full, of any route and wherever they stand. What it
    /// costs grows with what stands before them; where that takes too long there are none.
    pub(super) async fn claim_beside(&self, claiming: &mut Claiming<'_>) -> Result<(), StoreError> {
        let routes = self.suitable(claiming.ask);
        for _ in 0..LOOKS_MAX {
            let heads = match self.heads(&routes, &claiming.full.others(), 1).await {
                Ok(heads) => heads,
                Err(error) => {
                    tracing::debug!(%error, "could not look for jobs behind those that have no room");
                    break;
                }
            };
            let Some(next) = heads.into_iter().min_by_key(|head| (head.priority, head.position, head.id)) else { break };
            let count = claiming.missing();
            let part = Wanted { route: next.route, priority: None, count };
            let from = Place { priority: next.priority, position: next.position, id: next.id };
            self.look(part, Page { from: Some(from), length: count, most: count }, claiming).await?;
            if claiming.missing() == 0 {
                break;
            }
        }
        Ok(())
    }
}
