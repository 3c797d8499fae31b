//! The containers that a slot has ready, and those that it wants ready: one for each kind of job that it has had last.

use super::recipe::Recipe;
use super::recipes::Recipes;
use super::workshop::Container;

/// The shelf of one slot.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    ready: Vec<Container>,
    wanted: Recipes,
}

impl Shelf {
    /// Takes a container of this recipe, if one is ready. The recipe is wanted from now on, and of those before it the last `keep`.
    pub(super) fn take(&mut self, recipe: &Recipe, keep: usize) -> Option<Container> {
        self.want(recipe, keep);
        let at = self.ready.iter().position(|container| container.recipe == *recipe)?;
        Some(self.ready.remove(at))
    }

    /// Wants a container of this recipe ready.
    pub(super) fn want(&mut self, recipe: &Recipe, keep: usize) {
        self.wanted.want(recipe, keep);
    }

    /// Wants those no more that are no longer of use.
    pub(super) fn forget(&mut self, goes: impl Fn(&Recipe) -> bool) {
        self.wanted.forget(goes);
    }

    /// Hears what image a name means now. Says whether another was wanted under it.
    pub(super) fn renew(&mut self, name: &str, digest: &str) -> bool {
        self.wanted.renew(name, digest)
    }

    /// What is wanted, the most recent kind first.
    pub(super) fn wanted(&self) -> &[Recipe] {
        self.wanted.as_slice()
    }

    /// Those that are ready.
    pub(super) fn ready(&self) -> &[Container] {
        &self.ready
    }

    /// Takes out the one of this name, where it is there still.
    pub(super) fn take_out(&mut self, name: &str) -> Option<Container> {
        let at = self.ready.iter().position(|container| container.name == name)?;
        Some(self.ready.remove(at))
    }

    /// Puts a container there.
    pub(super) fn put(&mut self, container: Container) {
        self.ready.push(container);
    }

    /// Whether a container of this recipe is wanted and not there.
    pub(super) fn lacks(&self, recipe: &Recipe) -> bool {
        self.wanted().contains(recipe) && !self.ready.iter().any(|container| container.recipe == *recipe)
    }

    /// The recipes of which one is wanted and none is there.
    pub(super) fn lacking(&self) -> Vec<Recipe> {
        self.wanted().iter().filter(|recipe| self.lacks(recipe)).cloned().collect()
    }

    /// Takes out what is not wanted any more.
    pub(super) fn unwanted(&mut self) -> Vec<Container> {
        let mut out = Vec::new();
        for container in std::mem::take(&mut self.ready) {
            if self.lacks(&container.recipe) { self.ready.push(container) } else { out.push(container) }
        }
        out
    }

    /// Takes out everything, for good.
    pub(super) fn clear(&mut self) -> Vec<Container> {
        self.wanted = Recipes::default();
        std::mem::take(&mut self.ready)
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::Network;
    use super::super::program::Linkage;
    use super::super::recipe::Limits;
    use super::*;
    use crate::sandbox::egress::Rules;

    fn recipe(image: &str) -> Recipe {
        let limits = Limits { memory_bytes: 1, nano_cpus: 1, pids: 1, tmp_bytes: 1, cpu_shares: 0 };
        let (asked, image, egress) = (format!("{image}:latest"), image.to_owned(), Rules::default());
        let (objects, build, linkage) = (Vec::new(), String::new(), Linkage::Static);
        Recipe { asked, image, network: Network::None, egress, limits, objects, objects_inodes: Vec::new(), build, linkage }
    }

    fn container(name: &str, image: &str) -> Container {
        Container { name: name.to_owned(), dir: name.into(), recipe: recipe(image), jobs: 0, mounted: false }
    }

    #[test]
    fn a_container_is_given_only_for_its_own_recipe() {
        let mut shelf = Shelf::default();
        assert_eq!(shelf.take(&recipe("a"), 1), None);
        assert_eq!(shelf.lacking(), [recipe("a")]);
        shelf.put(container("1", "a"));
        assert!(shelf.lacking().is_empty());
        assert_eq!(shelf.take(&recipe("b"), 1), None, "of another recipe");
        assert_eq!(shelf.lacking(), [recipe("b")]);
        assert_eq!(shelf.unwanted(), [container("1", "a")], "one kind is kept ready, and it is another now");
        shelf.put(container("2", "b"));
        assert_eq!(shelf.take(&recipe("b"), 1), Some(container("2", "b")));
    }

    #[test]
    fn with_room_for_two_kinds_the_last_two_stay_and_nothing_stays_twice() {
        let mut shelf = Shelf::default();
        for name in ["a", "b", "c"] {
            shelf.want(&recipe(name), 2);
            shelf.put(container(name, name));
        }
        shelf.put(container("again", "c"));
        assert_eq!(shelf.unwanted(), [container("a", "a"), container("again", "c")]);
        shelf.forget(|recipe| recipe.image == "b");
        assert_eq!(shelf.unwanted(), [container("b", "b")]);
    }

    #[test]
    fn a_name_that_means_another_image_has_the_containers_of_the_one_before_replaced() {
        let mut shelf = Shelf::default();
        for name in ["a", "b"] {
            shelf.want(&recipe(name), 2);
            shelf.put(container(name, name));
        }
        assert!(!shelf.renew("a:latest", "a"));
        assert!(shelf.unwanted().is_empty());
        assert!(shelf.renew("a:latest", "new"));
        let renewed = Recipe { image: "new".to_owned(), ..recipe("a") };
        assert_eq!(shelf.lacking(), std::slice::from_ref(&renewed));
        assert_eq!(shelf.unwanted(), [container("a", "a")]);
        // The next job has asked for it already.
        shelf.want(&recipe("a"), 3);
        assert!(shelf.renew("a:latest", "new"));
        assert_eq!(shelf.wanted(), [renewed, recipe("b")]);
        shelf.forget(|recipe| recipe.asked == "b:latest");
        assert_eq!(shelf.take_out("b"), Some(container("b", "b")));
        assert_eq!(shelf.take_out("b"), None);
        assert!(shelf.ready().is_empty());
    }
}
