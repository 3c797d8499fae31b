//! The path of a cache, as it is configured: below the worktree, or below the home directory of a job.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Where a job finds a cache: `target`, or `~/.cargo/registry`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CachePath {
    /// What it is relative to, in a job's directory.
    above: Above,
    /// Plain names.
    below: PathBuf,
}

/// What of a slot a cache is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Above {
    Tree,
    Home,
}

impl Above {
    /// Its name in what a job sees of its slot.
    const fn name(self) -> &'static str {
        match self {
            Self::Tree => "tree",
            Self::Home => "home",
        }
    }
}

impl TryFrom<String> for CachePath {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let refused = |why: &str| Err(format!("{text:?} {why}; write a path below the worktree, as \"target\", or below ~/"));
        let (above, rest) = match text.strip_prefix("~/") {
            Some(rest) => (Above::Home, rest),
            None => (Above::Tree, text.as_str()),
        };
        if rest.starts_with('/') {
            return refused("is an absolute path");
        }
        if rest.contains(['\0', '\n']) || rest.starts_with('~') {
            return refused("is no path");
        }
        let mut below = PathBuf::new();
        for part in Path::new(rest).components() {
            match part {
                Component::Normal(name) if name.eq_ignore_ascii_case(".git") => return refused("is within .git"),
                Component::Normal(name) => below.push(name),
                Component::CurDir => {}
                Component::ParentDir | Component::RootDir | Component::Prefix(_) => return refused("leads upwards"),
            }
        }
        if below.as_os_str().is_empty() {
            return refused("is all of it");
        }
        Ok(Self { above, below })
    }
}

impl From<CachePath> for String {
    fn from(path: CachePath) -> Self {
        path.to_string()
    }
}

impl fmt::Display for CachePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let home = if self.above == Above::Home { "~/" } else { "" };
        write!(f, "{home}{}", self.below.display())
    }
}

impl CachePath {
    /// Whether one is the other, or in it.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.above == other.above && (self.below.starts_with(&other.below) || other.below.starts_with(&self.below))
    }

    /// Where it is in the worktree, if it is there.
    pub(super) fn within_tree(&self) -> Option<&Path> {
        (self.above == Above::Tree).then_some(&self.below)
    }

    /// The directories of the worktree that it is in, from the uppermost on, as a repository names them; the first is the root.
    pub(super) fn directories(&self) -> Vec<String> {
        if self.above == Above::Home {
            return vec![String::new()];
        }
        let mut found: Vec<String> = self.below.ancestors().skip(1).map(|dir| dir.to_string_lossy().into_owned()).collect();
        found.reverse();
        found
    }

    /// Where it is in what a job sees of its slot, `job`; the directories above it are made where they are not there.
    ///
    /// # Errors
    /// Something else is in the place of one of them: no link is followed.
    pub(super) fn place_in(&self, job: &Path) -> io::Result<PathBuf> {
        let mut at = job.join(self.above.name());
        let parent = self.below.parent().unwrap_or(Path::new(""));
        for name in std::iter::once(None).chain(parent.components().map(Some)) {
            at.extend(name);
            let meta = match fs::symlink_metadata(&at) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    fs::create_dir(&at)?;
                    continue;
                }
                found => found?,
            };
            if !meta.is_dir() {
                let within = at.strip_prefix(job).unwrap_or(&at).display();
                return Err(io::Error::other(format!("{within} is no directory, and no link is followed")));
            }
        }
        Ok(job.join(self.above.name()).join(&self.below))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_below_the_tree_or_the_home_directory() {
        let check = |text: &str, expected: Result<&str, &str>| {
            let read = CachePath::try_from(text.to_owned()).map(String::from);
            let why = read.as_deref().map_err(|why| why.split(';').next().expect("a first part"));
            assert_eq!(why, expected);
        };
        check("target/", Ok("target"));
        check("./web/node_modules", Ok("web/node_modules"));
        check("~/.cargo/registry", Ok("~/.cargo/registry"));
        check("/var/cache", Err("\"/var/cache\" is an absolute path"));
        check("~//var", Err("\"~//var\" is an absolute path"));
        check("~", Err("\"~\" is no path"));
        check("~root/x", Err("\"~root/x\" is no path"));
        check("../x", Err("\"../x\" leads upwards"));
        check("a/../../x", Err("\"a/../../x\" leads upwards"));
        check("", Err("\"\" is all of it"));
        check("~/", Err("\"~/\" is all of it"));
        check(".", Err("\".\" is all of it"));
        check("sub/.GIT/hooks", Err("\"sub/.GIT/hooks\" is within .git"));
    }

    #[test]
    fn no_link_is_followed_on_the_way_to_a_cache() {
        let (dir, outside) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        fs::create_dir(dir.path().join("tree")).expect("made");
        std::os::unix::fs::symlink(outside.path(), dir.path().join("tree/web")).expect("linked");
        let path = |text: &str| CachePath::try_from(text.to_owned()).expect("a path");
        let refused = path("web/a/node_modules").place_in(dir.path()).expect_err("a link is in the way");
        assert_eq!(refused.to_string(), "tree/web is no directory, and no link is followed");
        assert_eq!(fs::read_dir(outside.path()).expect("read").count(), 0);
        assert_eq!(path("a/b/c").place_in(dir.path()).expect("made"), dir.path().join("tree/a/b/c"));
        assert!(dir.path().join("tree/a/b").is_dir());
    }
}
