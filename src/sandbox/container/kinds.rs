//! The kinds of jobs that a worker has had last, in whichever slot: what a slot wants ready that has had none.
//!
//! The one rule: they outlive the daemon, in a file that is of use and never missed. What is in it is as trusted as the state directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::recipe::Recipe;

const FILE: &str = "kinds.json";

/// The last kinds of jobs.
#[derive(Debug)]
pub(super) struct Kinds {
    path: PathBuf,
    /// How many are kept.
    keep: usize,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// The most recent first.
    recipes: Vec<Recipe>,
    /// Whether the file has something else.
    changed: bool,
}

impl Kinds {
    /// Those of which the file is in this directory. It is not read yet.
    pub(super) fn below(dir: &Path, keep: usize) -> Self {
        Self { path: dir.join(FILE), keep, known: Mutex::default() }
    }

    /// Notes that a job is of this kind.
    pub(super) fn note(&self, recipe: &Recipe) {
        let mut known = self.known();
        if known.recipes.first() == Some(recipe) || self.keep == 0 {
            return;
        }
        known.recipes.retain(|other| other != recipe);
        known.recipes.insert(0, recipe.clone());
        known.recipes.truncate(self.keep);
        known.changed = true;
    }

    /// All of them, the most recent first.
    pub(super) fn all(&self) -> Vec<Recipe> {
        self.known().recipes.clone()
    }

    /// Knows those of one image no more.
    pub(super) fn forget_image(&self, digest: &str) {
        self.retain(|recipe| recipe.image != digest);
    }

    /// Knows those no more whose image was asked for by this name.
    pub(super) fn forget_name(&self, name: &str) {
        self.retain(|recipe| recipe.asked != name);
    }

    /// Hears what image a name means now.
    pub(super) fn renew(&self, name: &str, digest: &str) {
        let mut known = self.known();
        let old: Vec<&mut Recipe> =
            known.recipes.iter_mut().filter(|recipe| recipe.asked == name && recipe.image != digest).collect();
        if !old.is_empty() {
            old.into_iter().for_each(|recipe| digest.clone_into(&mut recipe.image));
            known.changed = true;
        }
    }

    /// Adds those that an earlier daemon has left which are `of_use`, behind what is known already. Blocks.
    ///
    /// # Errors
    /// There is a file, and it cannot be read.
    pub(super) fn recall(&self, of_use: impl Fn(&Recipe) -> bool) -> io::Result<()> {
        let text = match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            text => text?,
        };
        let before: Vec<Recipe> = serde_json::from_slice(&text)?;
        let mut known = self.known();
        for recipe in before.into_iter().filter(of_use) {
            if known.recipes.len() < self.keep && !known.recipes.contains(&recipe) {
                known.recipes.push(recipe);
            }
        }
        Ok(())
    }

    /// Writes them for a later daemon, where they have changed. Blocks.
    ///
    /// # Errors
    /// The file cannot be written; it has what it had.
    pub(super) fn save(&self) -> io::Result<()> {
        let recipes = {
            let mut known = self.known();
            if !std::mem::take(&mut known.changed) {
                return Ok(());
            }
            known.recipes.clone()
        };
        let new = self.path.with_extension("new");
        fs::write(&new, serde_json::to_vec(&recipes)?)?;
        fs::rename(new, &self.path)
    }

    fn retain(&self, stays: impl Fn(&Recipe) -> bool) {
        let mut known = self.known();
        let before = known.recipes.len();
        known.recipes.retain(stays);
        known.changed |= known.recipes.len() < before;
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
