//! A short list of kinds of containers: those that a slot wants ready, or that a worker has had last.

use serde::{Deserialize, Serialize};

use super::recipe::Recipe;

/// The most recent first, and none twice.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Recipes(Vec<Recipe>);

impl Recipes {
    /// Has this one be the most recent, and keeps no more than the last `keep`.
    pub(super) fn want(&mut self, recipe: &Recipe, keep: usize) {
        self.0.retain(|other| other != recipe);
        self.0.insert(0, recipe.clone());
        self.0.truncate(keep);
    }

    /// Has this one be the oldest, where it is not there and there are fewer than `keep`.
    pub(super) fn add_behind(&mut self, recipe: Recipe, keep: usize) {
        if self.0.len() < keep && !self.0.contains(&recipe) {
            self.0.push(recipe);
        }
    }

    pub(super) fn as_slice(&self) -> &[Recipe] {
        &self.0
    }

    /// Drops those that are no longer of use; says whether there were any.
    pub(super) fn forget(&mut self, goes: impl Fn(&Recipe) -> bool) -> bool {
        let before = self.0.len();
        self.0.retain(|recipe| !goes(recipe));
        self.0.len() < before
    }

    /// Hears what image a name means now. Says whether there was one of another.
    pub(super) fn renew(&mut self, name: &str, digest: &str) -> bool {
        let mut renewed = false;
        for mut recipe in std::mem::take(&mut self.0) {
            if recipe.asked == name && recipe.image != digest {
                digest.clone_into(&mut recipe.image);
                renewed = true;
            }
            if !self.0.contains(&recipe) {
                self.0.push(recipe);
            }
        }
        renewed
    }
}
