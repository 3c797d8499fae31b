//! What of a worker nobody needs any more, gathered from the rooms, judged, and removed: by the daemon itself, and for a person.
//!
//! The one rule: whoever looks knows the leases. A daemon knows its own; a visitor holds the directory's lock, so that no daemon
//! starts meanwhile, and asks the database which claims still hold. While a daemon lives, its directory is that daemon's affair.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::identity::{IdentityError, Visit};
use super::leases::Leases;
use super::reclaim::Reclaim;
use super::slots::Slots;
use crate::attempt::{Journal, Place, Tools, vacate};
use crate::caches::Shelf;
use crate::clock::Timestamp;
use crate::git::{Git, GitError, Keepsake};
use crate::janitor::{Explained, Fate, Finding, Kind, Lease, Master, Mode, Owned, Owner, judge, measure};
use crate::job::Claim;
use crate::sandbox::container::Containers;
use crate::sandbox::{self, Roster};
use crate::store::{Retention, Store, StoreError};
use crate::workspace::{SlotDir, StateDir};

/// How much of a slot is counted.
const ENTRIES_MAX: u64 = 20_000;
/// How often `workspace.salvage_ttl` has to pass until a ref goes though its remote cannot be reached.
const GIVEN_UP_AFTER: u32 = 2;

/// What came of a look.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Reconciled {
    /// Every owned thing, with the judgement on it.
    pub findings: Vec<Finding>,
    /// What could not be looked at, and why.
    pub unseen: Vec<String>,
}

/// What a look without a daemon takes.
pub struct Visitor {
    /// `worker.state_dir`.
    pub state: StateDir,
    /// git, with the mirrors there.
    pub git: Git,
    /// The saved caches there.
    pub caches: Shelf,
    /// The engine, with the containers of that directory.
    pub containers: Containers,
    /// The database, or why it cannot be asked.
    pub store: Result<Store, String>,
    /// This program.
    pub executable: PathBuf,
    /// `workspace.salvage_ttl`.
    pub salvage_ttl: Retention,
}

/// Looks at a state directory once, and with [`Mode::Apply`] removes what goes. Where there is something to `reclaim` by, room is made
/// on the disk as well.
///
/// # Errors
/// The directory cannot be used.
pub async fn reconcile(visitor: &Visitor, reclaim: Option<Reclaim>, mode: Mode) -> Result<Reconciled, IdentityError> {
    let visit = Visit::pay(&visitor.state)?;
    let Visitor { state, git, caches, containers, store, executable, salvage_ttl } = visitor;
    let salvage_ttl = *salvage_ttl;
    let standing = Standing::Visitor(visit.master.clone());
    let reclaim = reclaim.as_ref();
    let look = Look { state, git, caches, containers, executable, salvage_ttl, reclaim, away: Mutex::default() };
    let store = store.as_ref().map_err(String::as_str);
    Ok(look.once(&standing, store, mode).await)
}

/// The daemon's own looks.
pub(super) struct Reconciler {
    pub(super) tools: Arc<Tools>,
    pub(super) slots: Slots,
    pub(super) leases: Leases,
    pub(super) roster: Roster,
    pub(super) every: Duration,
}

impl Reconciler {
    /// Looks now and then until the token is cancelled. A look that has begun is finished.
    pub(super) async fn reconcile_loop(self, ended: CancellationToken) {
        let standing = Standing::Daemon { slots: self.slots.clone(), leases: self.leases.clone(), roster: self.roster.clone() };
        loop {
            self.reconcile_once(&standing).await;
            if ended.run_until_cancelled(tokio::time::sleep(self.every)).await.is_none() {
                return;
            }
        }
    }

    async fn reconcile_once(&self, standing: &Standing) {
        let Tools { state, git, caches, containers, executable, workspace, store, .. } = &*self.tools;
        let (salvage_ttl, reclaim) = (workspace.salvage_ttl, None);
        let look = Look { state, git, caches, containers, executable, salvage_ttl, reclaim, away: Mutex::default() };
        let found = look.once(standing, Ok(store), Mode::Apply).await;
        for Finding { kind, name, why, .. } in found.findings.iter().filter(|finding| finding.fate == Fate::Removed) {
            match kind {
                // Every attempt that ends leaves one, until its slot's next worktree stands on the same base.
                Kind::BaseLease => debug!("removed {kind} {name}: {why}"),
                _ => info!("removed {kind} {name}: {why}"),
            }
        }
        for Finding { kind, name, why, .. } in found.findings.iter().filter(|finding| finding.fate == Fate::Failed) {
            warn!("cannot remove {kind} {name}: {why}");
        }
        found.unseen.iter().for_each(|what| debug!("not looked at: {what}"));
    }
}

/// Who looks.
enum Standing {
    Daemon { slots: Slots, leases: Leases, roster: Roster },
    Visitor(Master),
}

struct Look<'a> {
    state: &'a StateDir,
    git: &'a Git,
    caches: &'a Shelf,
    containers: &'a Containers,
    executable: &'a PathBuf,
    salvage_ttl: Retention,
    /// The daemon makes room on a clock of its own: see [`super::janitor`].
    reclaim: Option<&'a Reclaim>,
    /// The mirrors whose remotes could not be reached in this look.
    away: Mutex<BTreeSet<PathBuf>>,
}

impl Look<'_> {
    async fn once(&self, standing: &Standing, store: Result<&Store, &str>, mode: Mode) -> Reconciled {
        let master = match standing {
            Standing::Daemon { .. } => Master::Own,
            Standing::Visitor(master) => master.clone(),
        };
        let mut unseen = Vec::new();
        let slots = self.state.slots().unwrap_or_else(|error| {
            unseen.push(format!("slots: {error}"));
            Vec::new()
        });
        let explained = self.explain(standing, &slots, store).await;
        let mut all = Vec::new();
        let (state, git, known) = (self.state.clone(), self.git.clone(), explained.clone());
        match tokio::task::spawn_blocking(move || on_disk(&state, &git, &slots, &known)).await {
            Ok((found, mounts)) => {
                all.extend(found);
                unseen.extend(mounts);
            }
            Err(_) => unseen.push("what is on the disk: looking panicked; please report it as a defect".to_owned()),
        }
        let caches = self.caches.clone();
        match tokio::task::spawn_blocking(move || caches.leftovers()).await {
            Ok(found) => all.extend(found),
            Err(_) => unseen.push("saved caches: looking panicked; please report it as a defect".to_owned()),
        }
        if self.containers.were_used() {
            match self.containers.leftovers(&explained).await {
                Ok(found) => all.extend(found),
                Err(error) => unseen.push(format!("containers: {error}")),
            }
        }
        let keepsakes = self.git.keepsakes().await.unwrap_or_else(|error| {
            unseen.push(format!("refs: {error}"));
            Vec::new()
        });
        for keepsake in &keepsakes {
            all.push(self.keepsake(keepsake, store).await);
        }
        if let Some(reclaim) = self.reclaim {
            match reclaim.list(self.state) {
                Ok(found) => all.extend(found),
                Err(error) => unseen.push(format!("what takes room: {error:#}")),
            }
        }
        all.sort_by_key(|owned| owned.kind);
        let mut findings = Vec::new();
        for owned in all {
            let mut finding = judge(&owned, &master);
            if finding.fate == Fate::Goes && mode == Mode::Apply {
                match self.remove(&owned, standing, &keepsakes).await {
                    Ok(None) => finding.fate = Fate::Removed,
                    Ok(Some(why)) => (finding.fate, finding.why) = (Fate::Stays, why),
                    Err(why) => (finding.fate, finding.why) = (Fate::Failed, why),
                }
            }
            findings.push(finding);
        }
        Reconciled { findings, unseen }
    }

    /// What is in use below the state directory.
    async fn explain(&self, standing: &Standing, slots: &[SlotDir], store: Result<&Store, &str>) -> Explained {
        let mut explained = Explained::default();
        if let Standing::Daemon { roster, .. } = standing {
            for dir in roster.all() {
                explained.add(dir, Lease::Held("it is a supervisor of the daemon that runs".to_owned()));
            }
        }
        for slot in slots {
            let journal = Journal::read(&slot.journal());
            let lease = match (standing, &journal) {
                (Standing::Daemon { .. }, Ok(Some(Journal { end: Some(_), claim, .. }))) => Some(ended(claim)),
                (Standing::Daemon { slots, leases, .. }, journal) => {
                    let claim = journal.as_ref().ok().and_then(Option::as_ref).map(|journal| &journal.claim);
                    let held = claim.is_some_and(|claim| leases.claims().contains(claim));
                    let taken = slots.has(slot.number()) && !slots.is_free(slot.number());
                    (held || taken).then(|| Lease::Held("an attempt of the daemon that runs is in it".to_owned()))
                }
                (Standing::Visitor(_), Ok(Some(journal))) => claimed(journal, store).await,
                (Standing::Visitor(_), Ok(None)) => None,
                (Standing::Visitor(_), Err(error)) => Some(Lease::Unknown(error.to_string())),
            };
            let Some(lease) = lease else { continue };
            if let Ok(Some(Journal { place: Some(Place::Container { container, .. }), .. })) = &journal {
                explained.add(container.dir.clone(), lease.clone());
            }
            explained.add(slot.root().to_owned(), lease);
        }
        explained
    }

    async fn keepsake(&self, keepsake: &Keepsake, store: Result<&Store, &str>) -> Owned {
        Owned {
            kind: Kind::Ref,
            name: name_of(keepsake),
            owner: Owner::Directory,
            lease: needed(keepsake, self.salvage_ttl, store).await,
            bytes: None,
        }
    }

    /// Removes a thing; says why not where it came into use meanwhile.
    async fn remove(&self, owned: &Owned, standing: &Standing, keepsakes: &[Keepsake]) -> Result<Option<String>, String> {
        // In hand while it is cleared, so that no job comes into it.
        let _held = match (standing, self.slot_of(owned)) {
            (Standing::Daemon { slots, .. }, Some(number)) if slots.has(number) => match slots.take_number(number) {
                Some(held) => Some(held),
                None => return Ok(Some("an attempt came into its slot meanwhile".to_owned())),
            },
            _ => None,
        };
        let said = |error: &dyn std::error::Error| error.to_string();
        match owned.kind {
            Kind::Slot => {
                let slot = SlotDir::at(PathBuf::from(&owned.name));
                vacate(&slot, self.state, self.executable).await.map_err(|error| said(&error))?;
                self.git.forget_leases(slot.root()).map_err(|error| said(&error))?;
            }
            Kind::Process | Kind::Socket => {
                sandbox::remove_left(self.state.root(), owned).await.map_err(|error| said(&error))?;
            }
            Kind::Container | Kind::Network | Kind::Volume | Kind::ContainerDir => {
                self.containers.remove_left(owned).await.map_err(|error| said(&error))?;
            }
            Kind::Unfinished if self.caches.owns(owned) => {
                let (caches, owned) = (self.caches.clone(), owned.clone());
                let removed = tokio::task::spawn_blocking(move || caches.remove_left(&owned)).await;
                removed.map_err(|panic| said(&panic))?.map_err(|error| said(&error))?;
            }
            Kind::Mount | Kind::BaseLease | Kind::Unfinished => {
                let (git, owned) = (self.git.clone(), owned.clone());
                let removed = tokio::task::spawn_blocking(move || git.remove_left(&owned)).await;
                removed.map_err(|panic| said(&panic))?.map_err(|error| said(&error))?;
            }
            // Nobody lists one here.
            Kind::Image => {}
            Kind::Ref => {
                if let Some(keepsake) = keepsakes.iter().find(|keepsake| name_of(keepsake) == owned.name) {
                    return self.forget(keepsake).await.map_err(|error| said(&error));
                }
            }
            Kind::Kept | Kind::Recycled | Kind::Base | Kind::Cache | Kind::Mirror | Kind::Trash => {
                if let Some(reclaim) = self.reclaim {
                    reclaim.remove(self.state, owned).map_err(|error| format!("{error:#}"))?;
                }
            }
        }
        Ok(None)
    }

    /// Removes a ref, on the remote first: where it cannot be reached, the ref here is how it is known what to remove there. Some day that
    /// is given up.
    async fn forget(&self, keepsake: &Keepsake) -> Result<Option<String>, GitError> {
        let away = || self.away.lock().unwrap_or_else(PoisonError::into_inner);
        let remembered = match self.salvage_ttl {
            Retention::For(ttl) => keepsake.made_at + ttl * GIVEN_UP_AFTER > Timestamp::now(),
            Retention::Forever => true,
        };
        if remembered && away().contains(&keepsake.mirror) {
            return Ok(Some("its remote is away, where it is to be removed first".to_owned()));
        }
        match self.git.forget_on_remote(keepsake).await {
            Err(error) if remembered => {
                // One that refuses this ref may take another.
                if !matches!(error, GitError::PushRefused { .. } | GitError::RemoteLocked { .. }) {
                    away().insert(keepsake.mirror.clone());
                }
                Ok(Some(format!("it cannot be removed on the remote, which is to be first: {error}")))
            }
            _ => self.git.forget_keepsake(keepsake).await.map(|()| None),
        }
    }

    /// The slot that a thing is in.
    fn slot_of(&self, owned: &Owned) -> Option<u32> {
        let below = Path::new(&owned.name).strip_prefix(self.state.root().join("slots")).ok()?;
        below.components().next()?.as_os_str().to_str()?.parse().ok()
    }
}

/// What is found on this host without asking anybody, and why mounts could not be seen where that is so. Blocks.
fn on_disk(state: &StateDir, git: &Git, slots: &[SlotDir], explained: &Explained) -> (Vec<Owned>, Option<String>) {
    let mut found: Vec<Owned> = slots.iter().filter(|one| !one.is_empty()).map(|one| slot(one, explained)).collect();
    let dirs: Vec<PathBuf> = slots.iter().map(SlotDir::supervisor).collect();
    found.extend(sandbox::leftovers(state.root(), &dirs, explained));
    match git.leftovers(explained) {
        Ok(more) => found.extend(more),
        Err(error) => return (found, Some(format!("mounts and mirrors: {error}"))),
    }
    (found, None)
}

fn slot(slot: &SlotDir, explained: &Explained) -> Owned {
    let attempt = Journal::read(&slot.journal()).ok().flatten().map(|journal| journal.claim);
    let otherwise = attempt.map_or_else(
        || "no attempt is in it".to_owned(),
        |claim| format!("nobody holds the claim for attempt {} of job {} any more", claim.attempt, claim.job),
    );
    Owned {
        kind: Kind::Slot,
        name: slot.root().display().to_string(),
        owner: Owner::Directory,
        lease: explained.of(slot.root(), &otherwise),
        bytes: Some(measure(slot.root(), ENTRIES_MAX).bytes),
    }
}

/// A ref, with the mirror that it is in.
fn name_of(keepsake: &Keepsake) -> String {
    format!("{} {}", keepsake.mirror.file_name().unwrap_or_default().to_string_lossy(), keepsake.name)
}

/// Whether a claim still holds, and with it the attempt that a slot's journal tells of. One that has come to its end is to be put on
/// record as long as nobody has taken note that its lease ran out.
async fn claimed(Journal { claim, end, .. }: &Journal, store: Result<&Store, &str>) -> Option<Lease> {
    let held = match store {
        Ok(store) => store.held_by(&claim.worker).await.map(|held| (held, store.now())).map_err(|error| error.to_string()),
        Err(why) => Err(why.to_owned()),
    };
    let (held, now) = match held {
        Ok(asked) => asked,
        Err(why) => return Some(Lease::Unknown(format!("the claim of job {} cannot be looked up: {why}", claim.job))),
    };
    let held = held.iter().find(|held| held.claim == *claim)?;
    if end.is_some() {
        return Some(ended(claim));
    }
    (held.lease_until > now).then(|| {
        Lease::Held(format!(
            "the claim of job {} holds until {}; a daemon that starts on this directory goes on with it",
            claim.job, held.lease_until
        ))
    })
}

fn ended(claim: &Claim) -> Lease {
    Lease::Held(format!("the end of job {} waits in it; a daemon that starts on this directory puts it on record", claim.job))
}

/// Whether a ref is still to be kept.
async fn needed(keepsake: &Keepsake, ttl: Retention, store: Result<&Store, &str>) -> Lease {
    let Retention::For(ttl) = ttl else { return Lease::Held("workspace.salvage_ttl is never".to_owned()) };
    let at_least = keepsake.made_at + ttl;
    if at_least > store.map_or_else(|_| Timestamp::now(), Store::now) {
        return Lease::Held(format!("it is kept until {at_least} at least (workspace.salvage_ttl)"));
    }
    let (store, job) = match (store, keepsake.job) {
        (Err(why), _) => return Lease::Unknown(format!("its job cannot be looked up: {why}")),
        (_, None) => return Lease::Unknown("its commit names no job".to_owned()),
        (Ok(store), Some(job)) => (store, job),
    };
    let since = match store.job(job).await {
        Ok(found) if !found.state.is_final() => return Lease::Held(format!("job {job} is not over")),
        Ok(_) if keepsake.is_result() => return Lease::Held(format!("it is the result of job {job}, which is on record")),
        Ok(found) => found.finished_at.unwrap_or(keepsake.made_at).max(keepsake.made_at),
        Err(StoreError::NotFound { .. }) => keepsake.made_at,
        Err(error) => return Lease::Unknown(format!("job {job} cannot be looked up: {error}")),
    };
    let until = since + ttl;
    if until > store.now() {
        return Lease::Held(format!("it is kept until {until} (workspace.salvage_ttl)"));
    }
    Lease::Over(format!("its time was over at {until} (workspace.salvage_ttl)"))
}
