//! Routes: what jobs ask of a worker, told once for all jobs that ask the same.
//!
//! The one rule: a number is one route for ever, so a route that was read stays true; and what a look at them comes to tells whether there are
//! others than those that are known. Matching is done here and not by the database: there are few routes and many jobs. Those
//! that no job needs any more go (see `unused_routes`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Store;
use super::error::StoreError;
use super::statement::args;
use super::types::{ClaimRequest, Rooms};
use crate::clock::Timestamp;
use crate::job::JobSpec;

/// Which routes there are, in one number: how many, and the sum of their numbers. A new one has a higher number than all that there were, so as
/// many others do not come to the same.
macro_rules! all_routes {
    () => {
        "(SELECT count(*) * 4294967296 + CAST(coalesce(sum(id), 0) AS BIGINT) FROM routes)"
    };
}
pub(super) use all_routes;

/// What is required of a worker by a job that runs in a container or not at all, and by one that runs on the host. No label is
/// written so.
const CONTAINERS: &str = "(containers)";
const HOST: &str = "(host)";

const ADD: &str = "INSERT INTO routes (backend, requires, used_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
/// Never back, should a clock be set: what a process knows of it is then at most what is on record.
const USE: &str = "UPDATE routes SET used_at = CASE WHEN used_at < $2 THEN $2 ELSE used_at END WHERE id = $1";
const ALL: &str = concat!("SELECT id, backend, requires, used_at, ", all_routes!(), " AS routes FROM routes ORDER BY id");

/// For so long it is not said again that a route is used.
pub(super) const USED: Duration = Duration::from_secs(24 * 3600);

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
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    all: Arc<BTreeMap<i64, Route>>,
    /// Since when each is known to be used.
    used: BTreeMap<i64, Timestamp>,
    /// What a look at them came to when they were read.
    seen: i64,
    /// When that was begun.
    read_at: Option<Instant>,
}

#[derive(sqlx::FromRow)]
struct RouteRow {
    id: i64,
    backend: String,
    requires: String,
    used_at: i64,
    routes: i64,
}

impl Routes {
    pub(super) fn known(&self) -> Arc<BTreeMap<i64, Route>> {
        self.lock().all.clone()
    }

    /// A known route, and since when it is known to be used.
    fn find(&self, route: &Route) -> Option<(i64, Timestamp)> {
        let known = self.lock();
        let id = known.all.iter().find(|(_, other)| *other == route).map(|(id, _)| *id)?;
        Some((id, *known.used.get(&id)?))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Reads the routes again where a look at them came to something else than those that are known; says whether it did.
    pub(super) async fn learn_routes(&self, seen: Option<i64>) -> Result<bool, StoreError> {
        let others = seen.is_some_and(|seen| seen != self.inner.routes.lock().seen);
        if others {
            self.read_routes().await?;
        }
        Ok(others)
    }

    /// Reads all routes. What is known then is that, or newer.
    pub(super) async fn read_routes(&self) -> Result<Arc<BTreeMap<i64, Route>>, StoreError> {
        let read_at = Some(Instant::now());
        let rows: Vec<RouteRow> = self.db().all(ALL, args![]).await?;
        let mut read = Known { seen: rows.first().map_or(0, |row| row.routes), read_at, ..Known::default() };
        let mut all = BTreeMap::new();
        for RouteRow { id, backend, requires, used_at, .. } in rows {
            let requires = serde_json::from_str(&requires).map_err(|error| StoreError::corrupt(format!("route {id}"), error))?;
            all.insert(id, Route { backend, requires });
            read.used.insert(id, Timestamp(used_at));
        }
        read.all = Arc::new(all);
        let mut known = self.inner.routes.lock();
        if known.read_at < read_at {
            *known = read;
        }
        Ok(known.all.clone())
    }

    /// The number of a route, which is made where it is new. It stays for days from now on.
    pub(super) async fn route(&self, route: &Route) -> Result<i64, StoreError> {
        let now = self.now();
        let known = |(id, used): (i64, Timestamp)| (id, now.since(used) < USED);
        match self.inner.routes.find(route).map(known) {
            Some((id, true)) => return Ok(id),
            Some((id, false)) if self.use_route(id, now).await? => return Ok(id),
            // It has gone, or others may have made it.
            _ => self.read_routes().await?,
        };
        if let Some((id, lately)) = self.inner.routes.find(route).map(known)
            && (lately || self.use_route(id, now).await?)
        {
            return Ok(id);
        }
        let requires = serde_json::to_string(&route.requires).map_err(|error| StoreError::corrupt("requirements", error))?;
        // Not in the transaction of the job: others of the same route would wait for its end.
        let mut tx = self.db().begin().await?;
        tx.run(ADD, args![&route.backend, &requires, now]).await?;
        tx.commit().await?;
        self.read_routes().await?;
        let added = self.inner.routes.find(route).map(|(id, _)| id);
        added.ok_or_else(|| StoreError::corrupt("routes", "one that was added is not there"))
    }

    /// Says that a route is used; whether it is there.
    async fn use_route(&self, id: i64, now: Timestamp) -> Result<bool, StoreError> {
        let mut tx = self.db().begin().await?;
        let there = tx.run(USE, args![id, now]).await? == 1;
        tx.commit().await?;
        if there {
            self.inner.routes.lock().used.insert(id, now);
        }
        Ok(there)
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
