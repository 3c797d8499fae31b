//! Routes: what jobs ask of a worker, told once for all jobs that ask the same.
//!
//! The one rule: routes are only ever added, so a route that was read stays true, and the number of them tells whether there are
//! new ones. Matching is done here and not by the database: there are few routes and many jobs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::Store;
use super::db::Db;
use super::error::StoreError;
use super::statement::args;
use super::types::ClaimRequest;
use crate::job::JobSpec;

/// What is required of a worker by a job that runs in a container or not at all. No label is written so.
const CONTAINERS: &str = "(containers)";

const FIND: &str = "SELECT id, backend, requires FROM routes WHERE backend = $1 AND requires = $2";
const ADD: &str = "INSERT INTO routes (backend, requires) VALUES ($1, $2) ON CONFLICT DO NOTHING";
const ALL: &str = "SELECT id, backend, requires FROM routes ORDER BY id";

/// What a job asks of a worker.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Route {
    pub(super) backend: String,
    pub(super) requires: BTreeSet<String>,
}

impl Route {
    pub(super) fn of(spec: &JobSpec) -> Self {
        let own = spec.requirements().into_iter();
        let requires = own.chain(spec.needs_container().then_some(CONTAINERS)).map(str::to_owned).collect();
        Self { backend: spec.backend.clone().unwrap_or_default(), requires }
    }

    /// Whether who asks has the backend, and between its labels and that backend's capabilities all that is required.
    pub(super) fn suits(&self, ask: &ClaimRequest) -> bool {
        let has = |word: &String| if word == CONTAINERS { ask.containers } else { ask.labels.contains(word) };
        let capabilities = ask.backends.get(&self.backend);
        capabilities.is_some_and(|capabilities| self.requires.iter().all(|word| has(word) || capabilities.contains(word)))
    }
}

/// The routes that are known to this process.
#[derive(Debug, Default)]
pub(super) struct Routes {
    known: Mutex<Arc<BTreeMap<i64, Route>>>,
}

#[derive(sqlx::FromRow)]
struct RouteRow {
    id: i64,
    backend: String,
    requires: String,
}

impl Routes {
    pub(super) fn known(&self) -> Arc<BTreeMap<i64, Route>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads them all again.
    pub(super) async fn refresh(&self, db: &Db) -> Result<Arc<BTreeMap<i64, Route>>, StoreError> {
        let read = |row: RouteRow| {
            let requires = serde_json::from_str(&row.requires);
            let requires = requires.map_err(|error| StoreError::corrupt(format!("route {}", row.id), error))?;
            Ok((row.id, Route { backend: row.backend, requires }))
        };
        let rows: Vec<RouteRow> = db.all(ALL, args![]).await?;
        let all: BTreeMap<i64, Route> = rows.into_iter().map(read).collect::<Result<_, StoreError>>()?;
        let all = Arc::new(all);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < all.len() {
            *known = all;
        }
        Ok(known.clone())
    }
}

impl Store {
    /// The number of a route, which is made where it is new.
    pub(super) async fn route(&self, route: &Route) -> Result<i64, StoreError> {
        let find = |known: &BTreeMap<i64, Route>| known.iter().find(|(_, other)| *other == route).map(|(id, _)| *id);
        if let Some(id) = find(&self.inner.routes.known()) {
            return Ok(id);
        }
        let requires = serde_json::to_string(&route.requires).map_err(|error| StoreError::corrupt("requirements", error))?;
        let words = || args![&route.backend, &requires];
        // Not in the transaction of the job: others of the same route would wait for its end.
        if self.db().first::<RouteRow>(FIND, words()).await?.is_none() {
            let mut tx = self.db().begin().await?;
            tx.run(ADD, words()).await?;
            tx.commit().await?;
        }
        self.inner.routes.refresh(self.db()).await?;
        find(&self.inner.routes.known()).ok_or_else(|| StoreError::corrupt("routes", "one that was added is not there"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ids::WorkerId;

    #[test]
    fn a_route_suits_who_has_the_backend_and_all_that_is_required() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<BTreeSet<String>>();
        let ask = ClaimRequest {
            worker: WorkerId::new("w"),
            backends: [("codex".to_owned(), words(&["edits"])), ("shell".to_owned(), words(&[]))].into(),
            labels: words(&["gpu", "os=linux"]),
            containers: false,
            limit: 1,
            lease: Duration::from_secs(1),
        };
        let suits =
            |backend: &str, requires: &[&str]| Route { backend: backend.to_owned(), requires: words(requires) }.suits(&ask);
        assert!(suits("shell", &[]));
        assert!(suits("shell", &["gpu"]));
        assert!(suits("codex", &["edits", "os=linux"]));
        assert!(!suits("shell", &["edits"]), "a capability is that backend's own");
        assert!(!suits("shell", &["os"]));
        assert!(!suits("other", &[]));

        let needs = Route { backend: "shell".to_owned(), requires: words(&["gpu", CONTAINERS]) };
        assert!(!needs.suits(&ask), "it has no engine");
        assert!(needs.suits(&ClaimRequest { containers: true, ..ask }));
        assert!(CONTAINERS.parse::<crate::job::Label>().is_err(), "nobody can ask for it otherwise, or offer it");
    }
}
