//! A base tree with changes becomes a new tree: only the directories on the way to a change are written.

use std::collections::BTreeMap;

use git2::{FileMode, ObjectType, Oid, Repository, Tree};

/// Changes of a directory.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Nothing of the base is left of it.
    emptied: bool,
    entries: BTreeMap<Vec<u8>, Change>,
}

#[derive(Debug)]
enum Change {
    Gone,
    Put(Oid, FileMode),
    Below(Changes),
}

impl Changes {
    /// What the base has at a path does not count any more, nor what it has below.
    pub(super) fn remove(&mut self, path: &[u8]) {
        self.at(path, |entry| match entry {
            Some(Change::Below(changes)) => changes.emptied = true,
            Some(Change::Put(..)) => {}
            Some(Change::Gone) | None => *entry = Some(Change::Gone),
        });
    }

    /// A file is at a path.
    pub(super) fn put(&mut self, path: &[u8], id: Oid, mode: FileMode) {
        self.at(path, |entry| *entry = Some(Change::Put(id, mode)));
    }

    fn at(&mut self, path: &[u8], set: impl FnOnce(&mut Option<Change>)) {
        let Some(slash) = path.iter().position(|byte| *byte == b'/') else {
            let mut entry = self.entries.remove(path);
            set(&mut entry);
            self.entries.extend(entry.map(|entry| (path.to_vec(), entry)));
            return;
        };
        let entry = self.entries.entry(path[..slash].to_vec()).or_insert_with(|| Change::Below(Self::default()));
        // A file, or nothing, that has something below it is a directory in its place.
        if !matches!(entry, Change::Below(_)) {
            *entry = Change::Below(Self { emptied: true, ..Self::default() });
        }
        if let Change::Below(changes) = entry {
            changes.at(&path[slash + 1..], set);
        }
    }

    /// Writes the new tree; nothing where it has no entry.
    pub(super) fn write(&self, repository: &Repository, base: Option<&Tree<'_>>) -> Result<Option<Oid>, git2::Error> {
        let base = base.filter(|_| !self.emptied);
        let mut builder = repository.treebuilder(base)?;
        for (name, change) in &self.entries {
            let before = base.and_then(|base| base.get_name_bytes(name));
            let now = match change {
                Change::Gone => None,
                Change::Put(id, mode) => Some((*id, *mode)),
                Change::Below(changes) => {
                    let tree = before.as_ref().filter(|entry| entry.kind() == Some(ObjectType::Tree));
                    let tree = tree.map(|entry| repository.find_tree(entry.id())).transpose()?;
                    changes.write(repository, tree.as_ref())?.map(|id| (id, FileMode::Tree))
                }
            };
            match now {
                Some((id, mode)) => drop(builder.insert(name.as_slice(), id, mode.into())?),
                None if before.is_some() => builder.remove(name.as_slice())?,
                None => {}
            }
        }
        if builder.is_empty() { Ok(None) } else { builder.write().map(Some) }
    }
}
