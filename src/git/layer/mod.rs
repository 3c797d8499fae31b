//! A commit from the layer of an overlay: what was written is the change, so nothing else is read, and git is not started.
//!
//! The one rule: what is not known to be simple is not done here. Then the whole tree is added by git, and the reason is in the
//! log. So all refusals are git's own, with git's own words; nested repositories, submodules, filters, odd names, and files that
//! are large go that way. A property test (`tests/git/equality.rs`) holds the trees of both ways equal.
//!
//! [`read`] reads the layer ([`reason`] says why one is not taken), [`walk`] finds the paths, [`rules`] passes those that cannot be ignored, [`tree`] makes the tree,
//! [`count`] says what it changes.

mod count;
mod read;
mod reason;
mod rules;
mod tree;
mod walk;

use std::collections::BTreeSet;

use git2::{FileMode, Oid, Repository, Signature, Time};

use super::attributes::Effect;
use super::bases::{Base, Record};
use super::checkout::Checkout;
use super::commit::{Change, Committed};
use super::marks::Marks;
use super::stage::{LISTING, LISTING_MAX};
use super::worktree::Worktree;
use super::{Git, diff, place};
use crate::clock::Timestamp;
use crate::ids::ObjectId;
pub(super) use reason::Reason;
use rules::Rules;
use tree::Changes;
pub(super) use walk::DEPTH_MAX;
use walk::{Put, Source, Walk};

/// What is needed of a worktree, apart from it, since the work blocks.
struct Layer {
    git: Git,
    checkout: Checkout,
    mirror: std::path::PathBuf,
    upper: std::path::PathBuf,
    marks: Marks,
    record: Record,
    runtime: tokio::runtime::Handle,
}

/// A tree that was written, beside the base's.
struct Written {
    base: Oid,
    tree: Oid,
    /// The most that attributes do to it.
    effect: Effect,
}

/// What a layer comes to.
pub(super) struct Made {
    /// The tree.
    pub(super) tree: ObjectId,
    /// Whether it differs from the base's.
    pub(super) changed: bool,
}

impl Worktree {
    /// The tree that the layer comes to, now in the mirror. The error is the reason why it is not made so.
    pub(super) async fn tree_from_layer(&self) -> Result<Made, Reason> {
        let layer = self.layer()?;
        super::blocking(move || {
            let repository = layer.open()?;
            let written = layer.write_tree(&repository)?;
            Ok(Made { tree: to_id(written.tree)?, changed: written.base != written.tree })
        })
        .await
    }

    /// Commits what the layer comes to, as [`Worktree::commit`] does. The error is the reason why it is not done so.
    pub(super) async fn commit_from_layer(&self, message: &str) -> Result<Change, Reason> {
        let (layer, message) = (self.layer()?, message.replace('\0', ""));
        super::blocking(move || {
            let repository = layer.open()?;
            let Written { base, tree, effect } = layer.write_tree(&repository)?;
            if base == tree {
                return Ok(Change::None);
            }
            let counted = if effect < Effect::Counts { count::count(&repository, base, tree)? } else { None };
            let changes = counted.map_or_else(|| layer.ask_for_counts(base, tree), Ok)?;
            let commit = layer.write_commit(&repository, tree, &message)?;
            Ok(Change::Commit(Committed { commit: to_id(commit)?, tree: to_id(tree)?, diff: changes.summary }))
        })
        .await
    }

    fn layer(&self) -> Result<Layer, String> {
        let base = self.base_dir().ok_or("the worktree is no overlay")?;
        let base = Base::at(base);
        let record = base.record().map_err(|error| error.to_string())?;
        if !record.submodules.is_empty() {
            return Err("the base has submodules".to_owned());
        }
        Ok(Layer {
            git: self.mirror.git.clone(),
            checkout: self.checkout.clone(),
            mirror: self.mirror.dir.clone(),
            upper: place::layers(self.slot(), &base).upper,
            marks: self.journal.marks,
            record,
            runtime: tokio::runtime::Handle::current(),
        })
    }
}

impl Layer {
    fn open(&self) -> Result<Repository, String> {
        Repository::open_bare(&self.mirror).map_err(|error| error.message().to_owned())
    }

    /// Writes the tree that the layer comes to.
    fn write_tree(&self, repository: &Repository) -> Result<Written, Reason> {
        let said = |error: git2::Error| error.message().to_owned();
        let commit = Oid::from_str(self.checkout.base.as_str()).and_then(|id| repository.find_commit(id)).map_err(said)?;
        let base = commit.tree().map_err(said)?;
        let maximum = self.git.host.config.maximum_file.as_u64();
        let mut walk = Walk::begin(repository, &base, maximum, (&self.upper, self.marks))?;
        let ignored = if self.record.ignores || walk.ignores { self.ask_ignored(walk.unasked())? } else { BTreeSet::new() };
        walk.go_on(|path| ignored.contains(path))?;

        let untracked: Vec<Vec<u8>> = walk.puts.iter().filter(|put| !put.tracked).map(|put| put.path.clone()).collect();
        let ignored = if self.record.ignores || walk.ignores { self.ask_ignored(untracked)? } else { BTreeSet::new() };
        let effect = self.record.attributes.max(walk.attributes);
        if effect == Effect::Contents {
            return Err("attributes say how files are taken".into());
        }
        let mut changes = Changes::default();
        walk.gone.iter().for_each(|path| changes.remove(path));
        for put in &walk.puts {
            if !put.tracked && ignored.contains(&put.path) {
                // What git finds of the base's files behind such a link depends on where it leads: nowhere, or in a circle.
                if matches!(put.source, Source::Link { .. }) && walk.gone.contains(&put.path) {
                    return Err(format!("{} is an ignored link over a directory of the base", walk::show(&put.path)).into());
                }
                continue;
            }
            let (id, mode) = take(repository, put, effect)?;
            changes.put(&put.path, id, mode);
        }
        let tree = changes.write(repository, Some(&base)).map_err(said)?;
        // Without an entry it is the empty tree, which is written like any other.
        let tree = match tree {
            Some(tree) => tree,
            None => repository.treebuilder(None).and_then(|empty| empty.write()).map_err(said)?,
        };
        Ok(Written { base: base.id(), tree, effect })
    }

    /// Which of the paths the tree's own rules ignore, as git says, without regard to what is tracked.
    fn ask_ignored(&self, paths: Vec<Vec<u8>>) -> Result<BTreeSet<Vec<u8>>, Reason> {
        let mut rules = Rules::of(&self.checkout.tree);
        let paths: Vec<Vec<u8>> = paths.into_iter().filter(|path| !rules.pass(path)).collect();
        if paths.is_empty() {
            return Ok(BTreeSet::new());
        }
        let mut input = paths.join(&0);
        input.push(0);
        let command = self.checkout.command(&self.git, "ask what is ignored").work_tree(&self.checkout.tree);
        let command = command.args(["check-ignore", "--no-index", "-z", "--stdin"]).stdin(input).stdout_max(usize::MAX);
        let finished = self.runtime.block_on(command.finish()).map_err(|error| error.to_string())?;
        // 1 says that none is.
        if !matches!(finished.code, Some(0 | 1)) || !finished.stderr.is_empty() {
            let why = finished.error().to_string();
            // None of them was one when they were found.
            let moved = finished.stderr.contains("beyond a symbolic link");
            return Err(if moved { Reason::Moved { path: ".".to_owned(), why } } else { why.into() });
        }
        Ok(finished.stdout.split(|byte| *byte == 0).filter(|path| !path.is_empty()).map(<[u8]>::to_vec).collect())
    }

    /// What differs between two trees, as git counts it.
    fn ask_for_counts(&self, before: Oid, after: Oid) -> Result<diff::Changes, String> {
        let command = self.checkout.command(&self.git, "compare with the base").work_tree(&self.checkout.tree);
        let command = command.args(["diff-tree", "-r"]).args(LISTING).args([before.to_string(), after.to_string()]);
        let finished = self.runtime.block_on(command.stdout_max(LISTING_MAX).run()).map_err(|error| error.to_string())?;
        Ok(diff::Changes::parse(&finished.stdout))
    }

    /// Writes a commit by the configured author, now, on the base.
    fn write_commit(&self, repository: &Repository, tree: Oid, message: &str) -> Result<Oid, String> {
        let config = &self.git.host.config;
        let write = || -> Result<Oid, git2::Error> {
            let now = Time::new(Timestamp::now().0 / 1000, 0);
            let author = Signature::new(&config.author_name, &config.author_email, &now)?;
            let base = repository.find_commit(Oid::from_str(self.checkout.base.as_str())?)?;
            let end = if message.ends_with('\n') { "" } else { "\n" };
            let message = format!("{message}{end}");
            repository.commit(None, &author, &author, &message, &repository.find_tree(tree)?, &[&base])
        };
        write().map_err(|error| error.message().to_owned())
    }
}

/// Writes what is at a path; answers it as a tree names it.
fn take(repository: &Repository, put: &Put, effect: Effect) -> Result<(Oid, FileMode), Reason> {
    let name = put.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let (contents, mode) = match &put.source {
        Source::Base { .. } if effect >= Effect::LineEndings => {
            return Err(format!("{} was renamed, and attributes may take it otherwise", walk::show(&put.path)).into());
        }
        Source::Base { id, mode } => return Ok((*id, *mode)),
        Source::Link { dir } => (dir.read_link(name), FileMode::Link),
        Source::File { dir, executable } => {
            (dir.read(name, walk::FILE_MAX), if *executable { FileMode::BlobExecutable } else { FileMode::Blob })
        }
    };
    let contents = contents.map_err(|error| Reason::unreadable(&put.path, &error))?;
    if effect >= Effect::LineEndings && mode != FileMode::Link && contents.contains(&b'\r') {
        return Err(format!("attributes may change the line endings of {}", walk::show(&put.path)).into());
    }
    let id = repository.blob(&contents).map_err(|error| error.message().to_owned())?;
    Ok((id, mode))
}

fn to_id(id: Oid) -> Result<ObjectId, String> {
    id.to_string().parse().map_err(|error: crate::ids::IdError| error.to_string())
}
