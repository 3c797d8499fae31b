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
use super::types::{ClaimRequest, Rooms};
use crate::job::JobSpec;

/// What is required of a worker by a job that runs in a container or not at all, and by one that runs on the host. No label is
/// written so.
const CONTAINERS: &str = "(containers)";
const HOST: &str = "(host)";

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
        let place = spec.needs_container().then_some(CONTAINERS).or(spec.needs_host().then_some(HOST));
        let requires = own.chain(place).map(str::to_owned).collect();
        Self { backend: spec.backend.clone().unwrap_or_default(), requires }
    }

    /// Whether who asks has the backend, a place where the job may run, and between its labels and that backend's capabilities all
    /// that is required.
    pub(super) fn suits(&self, ask: &ClaimRequest) -> bool {
        let fits = match (self.requires.contains(CONTAINERS), self.requires.contains(HOST)) {
            (true, _) => ask.rooms == Rooms::All,
            (_, true) => true,
            (false, false) => ask.rooms != Rooms::HostWhereAsked,
        };
        let mut words = self.requires.iter().filter(|word| ![CONTAINERS, HOST].contains(&word.as_str()));
        let capabilities = ask.backends.get(&self.backend);
        fits && capabilities.is_some_and(|own| words.all(|word| ask.labels.contains(word) || own.contains(word)))
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
    use crate::job::spec::ContainerMode;

    #[test]
    fn a_route_suits_who_has_the_backend_and_all_that_is_required() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<BTreeSet<String>>();
        let ask = ClaimRequest {
            worker: WorkerId::new("w"),
            backends: [("codex".to_owned(), words(&["edits"])), ("shell".to_owned(), words(&[]))].into(),
            labels: words(&["gpu", "os=linux"]),
            rooms: Rooms::All,
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
    }

    #[test]
    fn a_job_goes_where_it_may_run_and_one_that_does_not_say_as_the_worker_has_it() {
        let spec = |container| JobSpec { backend: Some("shell".to_owned()), container, ..JobSpec::default() };
        let [unsaid, on, off] = [None, Some(ContainerMode::On), Some(ContainerMode::Off)].map(|mode| Route::of(&spec(mode)));
        let image = Route::of(&JobSpec { image: Some("i".to_owned()), ..spec(None) });
        let check = |rooms, expected: [bool; 4]| {
            let ask = ClaimRequest {
                worker: WorkerId::new("w"),
                backends: [("shell".to_owned(), BTreeSet::new())].into(),
                labels: BTreeSet::new(),
                rooms,
                limit: 1,
                lease: Duration::from_secs(1),
            };
            assert_eq!([&unsaid, &on, &off, &image].map(|route| route.suits(&ask)), expected, "{rooms:?}");
        };
        check(Rooms::All, [true, true, true, true]);
        check(Rooms::Host, [true, false, true, false]);
        check(Rooms::HostWhereAsked, [false, false, true, false]);
        for word in [CONTAINERS, HOST] {
            assert!(word.parse::<crate::job::Label>().is_err(), "nobody can ask for it otherwise, or offer it");
        }
    }
}
