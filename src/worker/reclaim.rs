//! Making room: the trash, kept workspaces whose time is over, trees that wait for jobs, and bases, saved caches and mirrors that are not
//! used, each with what explains it.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;

use crate::caches::Shelf;
use crate::clock::{Timestamp, human, millis};
use crate::git::{Bases, Git};
use crate::janitor::{Kind, Lease, Owned, Owner, Space, measure};
use crate::workspace::{Kept, SlotDir, StateDir};

/// How much of one thing is counted.
const ENTRIES_MAX: u64 = 200_000;

/// By what room is made.
#[derive(Debug)]
pub struct Reclaim {
    /// The base checkouts, with what they may take.
    pub bases: Bases,
    /// The saved caches, with what they may take.
    pub caches: Shelf,
    /// The mirrors.
    pub git: Git,
    /// How long a kept workspace stays.
    pub ttl: Duration,
    /// What the disk lacks.
    pub wanted: Space,
}

impl Reclaim {
    /// Everything that could make room, with what becomes of it. Blocks.
    pub(super) fn list(&self, state: &StateDir) -> anyhow::Result<Vec<Owned>> {
        let owned = |kind, path: &Path, lease, bytes| Owned {
            kind,
            name: path.display().to_string(),
            owner: Owner::Directory,
            lease,
            bytes: Some(bytes),
        };
        let mut found = Vec::new();
        for path in state.trash().list().context("cannot read the trash")? {
            let bytes = measure(&path, ENTRIES_MAX).bytes;
            found.push(owned(Kind::Trash, &path, Lease::Over("it was discarded".to_owned()), bytes));
        }
        for (place, until) in kept(state).list(self.ttl).context("cannot read the kept workspaces")? {
            let when = Timestamp(millis(until.duration_since(UNIX_EPOCH).unwrap_or_default()));
            let lease = if until < SystemTime::now() {
                Lease::Over(format!("it was kept for {} (workspace.ttl)", human::format(self.ttl)))
            } else {
                Lease::Held(format!("it is kept for a person until {when} (workspace.ttl)"))
            };
            found.push(owned(Kind::Kept, &place, lease, measure(&place, ENTRIES_MAX).bytes));
        }
        let mut wanted = self.wanted;
        for (path, space) in recycled(state)? {
            let lease = if !wanted.is_none() {
                Lease::Over(format!("the disk lacks {wanted}"))
            } else {
                Lease::Held("the next job in its slot may begin with it, and the disk has room".to_owned())
            };
            wanted = wanted.without(space);
            found.push(owned(Kind::Recycled, &path, lease, space.bytes));
        }
        for (base, lease) in self.bases.judged(wanted)? {
            if matches!(lease, Lease::Over(_)) {
                wanted = wanted.without(base.space());
            }
            found.push(owned(Kind::Base, &base.path, lease, base.bytes));
        }
        for (saved, lease) in self.caches.judged(wanted)? {
            if matches!(lease, Lease::Over(_)) {
                wanted = wanted.without(saved.space());
            }
            found.push(owned(Kind::Cache, &saved.dir, lease, saved.record.bytes));
        }
        for (mirror, lease) in self.git.judged_mirrors(wanted) {
            found.push(owned(Kind::Mirror, &mirror.path, lease, mirror.space.bytes));
        }
        Ok(found)
    }

    /// Removes what [`Reclaim::list`] listed; through the trash where it is large, and out of that at once. Blocks.
    pub(super) fn remove(&self, state: &StateDir, owned: &Owned) -> anyhow::Result<()> {
        let path = Path::new(&owned.name);
        match owned.kind {
            Kind::Trash => return state.trash().delete(path).with_context(|| format!("cannot delete {}", path.display())),
            Kind::Kept => kept(state).expire(path)?,
            Kind::Recycled => state.trash().take(path)?,
            Kind::Cache => {
                self.caches.evict(path)?;
            }
            Kind::Mirror => {
                self.git.evict_mirror(path)?;
            }
            _ => {
                self.bases.evict(path)?;
            }
        }
        state.trash().empty_once().map(drop).context("cannot empty the trash")
    }
}

/// The trees that wait in slots for their next jobs, with what each takes.
fn recycled(state: &StateDir) -> anyhow::Result<Vec<(PathBuf, Space)>> {
    let slots = state.slots().context("cannot read the slots")?;
    let there = slots.iter().map(SlotDir::recycled).filter(|path| path.exists());
    Ok(there.map(|path| (path.clone(), measure(&path, ENTRIES_MAX).space())).collect())
}

/// Moves trees that wait in slots to the trash, until that much came free or none is left; says how many went, and how much came
/// free. Blocks.
pub(super) fn evict_recycled(state: &StateDir, wanted: Space) -> anyhow::Result<(usize, Space)> {
    let (mut freed, mut gone) = (Space::default(), 0);
    for (path, space) in recycled(state)? {
        if wanted.without(freed).is_none() {
            break;
        }
        state.trash().take(&path)?;
        (freed, gone) = (freed.and(space), gone + 1);
    }
    Ok((gone, freed))
}

fn kept(state: &StateDir) -> Kept {
    Kept::new(state.kept(), state.trash())
}
