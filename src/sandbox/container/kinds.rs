//! The kinds of jobs that a worker has had last, in whichever slot: what a slot wants ready that has had none.
//!
//! The one rule: they outlive the daemon, in a file that is of use and never missed. What is in it is as trusted as the state directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::recipe::Recipe;
use super::recipes::Recipes;

const FILE: &str = "kinds.json";

/// The last kinds of jobs.
#[derive(Debug)]
pub(super) struct Kinds {
    path: PathBuf,
    /// How many are kept.
    keep: usize,
    known: Mutex<Known>,
    /// Held while the file is written.
    saving: Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    recipes: Recipes,
    /// Whether the file has something else.
    changed: bool,
}

impl Kinds {
    /// Those of which the file is in this directory. It is not read yet.
    pub(super) fn below(dir: &Path, keep: usize) -> Self {
        Self { path: dir.join(FILE), keep, known: Mutex::default(), saving: Mutex::default() }
    }

    /// Notes that a job is of this kind.
    pub(super) fn note(&self, recipe: &Recipe) {
        let mut known = lock(&self.known);
        if known.recipes.as_slice().first() != Some(recipe) && self.keep > 0 {
            known.recipes.want(recipe, self.keep);
            known.changed = true;
        }
    }

    /// All of them, the most recent first.
    pub(super) fn all(&self) -> Vec<Recipe> {
        lock(&self.known).recipes.as_slice().to_vec()
    }

    /// Knows those no more that are no longer of use.
    pub(super) fn forget(&self, goes: impl Fn(&Recipe) -> bool) {
        let mut known = lock(&self.known);
        known.changed |= known.recipes.forget(goes);
    }

    /// Hears what image a name means now.
    pub(super) fn renew(&self, name: &str, digest: &str) {
        let mut known = lock(&self.known);
        known.changed |= known.recipes.renew(name, digest);
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
        let mut known = lock(&self.known);
        before.into_iter().filter(of_use).for_each(|recipe| known.recipes.add_behind(recipe, self.keep));
        Ok(())
    }

    /// Writes them for a later daemon, where they have changed. Blocks.
    ///
    /// # Errors
    /// The file cannot be written; it has what it had, and the next call tries again.
    pub(super) fn save(&self) -> io::Result<()> {
        let _alone = lock(&self.saving);
        let recipes = {
            let mut known = lock(&self.known);
            if !std::mem::take(&mut known.changed) {
                return Ok(());
            }
            known.recipes.clone()
        };
        let written = self.write(&recipes);
        if written.is_err() {
            lock(&self.known).changed = true;
        }
        written
    }

    fn write(&self, recipes: &Recipes) -> io::Result<()> {
        let new = self.path.with_extension("new");
        fs::write(&new, serde_json::to_vec(recipes)?)?;
        fs::rename(new, &self.path)
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
