//! From a layer to the paths that it changes.
//!
//! What git calls tracked is what the base has at the very path: for everything else ignore rules count, which is asked in
//! rounds (see [`Walk::unasked`]), so that nothing below an ignored directory is ever looked at.
//!
//! The one rule: an error here is the reason why git itself must look at the tree. Nothing is refused here, and nothing that is
//! not known is guessed at.

use std::path::Path;
use std::rc::Rc;

use git2::{FileMode, ObjectType, Oid, Repository, Tree};

use super::read::{Below, Directory, Entry};
use super::reason::Reason;
use crate::git::attributes::{self, Effect};
use crate::git::marks::Marks;

/// The most paths that are taken from a layer.
const PATHS_MAX: usize = 20_000;
/// How deep directories may lie in each other: each takes a descriptor, and some of the stack.
pub(in crate::git) const DEPTH_MAX: usize = 256;
/// The largest file that is taken in process.
pub(super) const FILE_MAX: u64 = 8 * 1024 * 1024;

/// Something that is at a path now.
pub(super) struct Put {
    pub(super) path: Vec<u8>,
    pub(super) source: Source,
    /// Whether the base has a file at this path: ignore rules do not count then.
    pub(super) tracked: bool,
}

/// Where the contents of a path are.
pub(super) enum Source {
    /// In a file of the layer.
    File { dir: Rc<Directory>, executable: bool },
    /// In a link of the layer.
    Link { dir: Rc<Directory> },
    /// In the base, at another path.
    Base { id: Oid, mode: FileMode },
}

/// What a layer changes, as far as it was walked.
pub(super) struct Walk<'a> {
    repository: &'a Repository,
    base: &'a Tree<'a>,
    /// The largest file that a commit may change.
    maximum: u64,
    pub(super) puts: Vec<Put>,
    /// Paths at which the base's own does not count any more.
    pub(super) gone: Vec<Vec<u8>>,
    /// Directories that the base does not have, which may be ignored.
    new: Vec<(Vec<u8>, Rc<Directory>)>,
    /// The most that attributes in the layer do.
    pub(super) attributes: Effect,
    /// Whether the layer has ignore rules.
    pub(super) ignores: bool,
}

/// The tree of the base that shows through a directory.
enum Lower<'a> {
    /// That of the same path, which counts unless something says otherwise.
    Same(Tree<'a>),
    /// That of another path, whose files are all at new ones.
    Other(Tree<'a>),
    Nothing,
}

impl<'a> Lower<'a> {
    fn tree(&self) -> Option<&Tree<'a>> {
        match self {
            Self::Same(tree) | Self::Other(tree) => Some(tree),
            Self::Nothing => None,
        }
    }
}

impl<'a> Walk<'a> {
    /// Walks what is at directories of the base.
    pub(super) fn begin(
        repository: &'a Repository,
        base: &'a Tree<'a>,
        maximum: u64,
        (upper, marks): (&Path, Marks),
    ) -> Result<Self, Reason> {
        let (puts, gone, new, attributes, ignores) = (Vec::new(), Vec::new(), Vec::new(), Effect::None, false);
        let mut walk = Self { repository, base, maximum, puts, gone, new, attributes, ignores };
        let root = Rc::new(Directory::open(upper, marks).map_err(|error| format!("the layer cannot be read: {error}"))?);
        walk.directory(&root, &[], &Lower::Same(base.clone()), Descend::IntoKnown)?;
        Ok(walk)
    }

    /// Directories that the base does not have: the caller asks whether they are ignored.
    pub(super) fn unasked(&self) -> Vec<Vec<u8>> {
        self.new.iter().map(|(path, _)| path.clone()).collect()
    }

    /// Walks all new directories but those that are ignored.
    pub(super) fn go_on(&mut self, ignored: impl Fn(&[u8]) -> bool) -> Result<(), Reason> {
        for (path, dir) in std::mem::take(&mut self.new) {
            if !ignored(&path) {
                self.directory(&dir, &path, &Lower::Nothing, Descend::IntoAll)?;
            }
        }
        Ok(())
    }

    fn directory(&mut self, dir: &Rc<Directory>, path: &[u8], lower: &Lower<'a>, descend: Descend) -> Result<(), Reason> {
        let mut entries = dir.entries().map_err(|error| Reason::unreadable(path, &error))?;
        // In git's order, so that the same layer always comes to the same.
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        if let Lower::Other(tree) = lower {
            for entry in
                tree.iter().filter(|entry| entries.binary_search_by(|one| one.0.as_slice().cmp(entry.name_bytes())).is_err())
            {
                self.put_base(join(path, entry.name_bytes()), entry.id(), entry.filemode())?;
            }
        }
        for (name, entry) in entries {
            if path.is_empty() && name == b".git" {
                continue;
            }
            let at = join(path, &name);
            check_name(&name, entry, &at)?;
            self.entry(dir, &name, at, entry, lower, descend)?;
            if self.puts.len() + self.new.len() > PATHS_MAX {
                return Err(format!("more than {PATHS_MAX} paths changed").into());
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        dir: &Rc<Directory>,
        name: &[u8],
        at: Vec<u8>,
        entry: Entry,
        lower: &Lower<'a>,
        descend: Descend,
    ) -> Result<(), Reason> {
        let before = self.kind_in_base(&at)?;
        match entry {
            Entry::Whiteout => self.gone.push(at),
            Entry::Special if before == Some(ObjectType::Blob) => {
                return Err(format!("{} is neither a file, a link nor a directory", show(&at)).into());
            }
            // git passes over it.
            Entry::Special => self.gone.push(at),
            Entry::Link => self.put(at, Source::Link { dir: dir.clone() }, before),
            Entry::File { bytes, .. } if bytes > FILE_MAX.min(self.maximum) => {
                return Err(format!("{} is large", show(&at)).into());
            }
            Entry::File { executable, .. } => {
                self.note(dir, name, &at)?;
                self.put(at, Source::File { dir: dir.clone(), executable }, before);
            }
            Entry::Directory => return self.enter(dir, name, at, lower, descend, before),
        }
        Ok(())
    }

    fn enter(
        &mut self,
        dir: &Rc<Directory>,
        name: &[u8],
        at: Vec<u8>,
        lower: &Lower<'a>,
        descend: Descend,
        before: Option<ObjectType>,
    ) -> Result<(), Reason> {
        if at.iter().filter(|byte| **byte == b'/').count() >= DEPTH_MAX {
            return Err(Reason::TooDeep { path: show(&at[..at.len().min(200)]) });
        }
        let inner = Rc::new(dir.directory(name).map_err(|error| Reason::unreadable(&at, &error))?);
        let below = inner.below().map_err(|error| Reason::unreadable(&at, &error))?;
        let below = match below.ok_or_else(|| format!("{} has marks that are not known", show(&at)))? {
            Below::Nothing => Lower::Nothing,
            Below::Same => match (lower, lower.tree().map(|tree| self.subtree(tree, name)).transpose()?.flatten()) {
                (_, None) => Lower::Nothing,
                (Lower::Same(_), Some(tree)) => Lower::Same(tree),
                (_, Some(tree)) => Lower::Other(tree),
            },
            Below::Renamed(from) => {
                let found = match from.strip_prefix(b"/") {
                    Some(from) => self.tree_at(from)?,
                    None => lower.tree().map(|tree| self.subtree(tree, &from)).transpose()?.flatten(),
                };
                Lower::Other(found.ok_or_else(|| format!("{} came from what the base does not have", show(&at)))?)
            }
        };
        if !matches!(below, Lower::Same(_)) {
            self.gone.push(at.clone());
        }
        // A directory that the base has is one that git looks into whatever its rules say.
        if matches!(below, Lower::Nothing) && before != Some(ObjectType::Tree) && descend == Descend::IntoKnown {
            self.new.push((at, inner));
            return Ok(());
        }
        self.directory(&inner, &at, &below, descend)
    }

    fn put(&mut self, path: Vec<u8>, source: Source, before: Option<ObjectType>) {
        if before == Some(ObjectType::Tree) {
            self.gone.push(path.clone());
        }
        self.puts.push(Put { path, source, tracked: before == Some(ObjectType::Blob) });
    }

    /// Puts what the base has at another path, with all that is below it.
    fn put_base(&mut self, path: Vec<u8>, id: Oid, mode: i32) -> Result<(), String> {
        if self.puts.len() > PATHS_MAX {
            return Err(format!("more than {PATHS_MAX} paths changed"));
        }
        if mode != i32::from(FileMode::Tree) {
            let before = self.kind_in_base(&path)?;
            let mode = file_mode(mode).ok_or_else(|| format!("{} was renamed and is no file", show(&path)))?;
            self.put(path, Source::Base { id, mode }, before);
            return Ok(());
        }
        let tree = self.repository.find_tree(id).map_err(|error| error.message().to_owned())?;
        for entry in &tree {
            self.put_base(join(&path, entry.name_bytes()), entry.id(), entry.filemode())?;
        }
        Ok(())
    }

    /// Looks at a file that has a say about others.
    fn note(&mut self, dir: &Directory, name: &[u8], at: &[u8]) -> Result<(), Reason> {
        if name == b".gitignore" {
            self.ignores = true;
        } else if name == b".gitattributes" {
            let text = dir.read(name, FILE_MAX).map_err(|error| Reason::unreadable(at, &error))?;
            self.attributes = self.attributes.max(attributes::judge(&text));
        }
        Ok(())
    }

    /// What the base has at a path.
    fn kind_in_base(&self, path: &[u8]) -> Result<Option<ObjectType>, String> {
        use std::os::unix::ffi::OsStrExt;
        match self.base.get_path(Path::new(std::ffi::OsStr::from_bytes(path))) {
            Ok(entry) => Ok(entry.kind()),
            Err(error) if error.code() == git2::ErrorCode::NotFound => Ok(None),
            Err(error) => Err(error.message().to_owned()),
        }
    }

    fn tree_at(&self, path: &[u8]) -> Result<Option<Tree<'a>>, String> {
        let mut at = self.base.clone();
        for name in path.split(|byte| *byte == b'/') {
            match self.subtree(&at, name)? {
                Some(tree) => at = tree,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    fn subtree(&self, tree: &Tree<'a>, name: &[u8]) -> Result<Option<Tree<'a>>, String> {
        let found = tree.get_name_bytes(name).filter(|entry| entry.kind() == Some(ObjectType::Tree));
        let found = found.map(|entry| self.repository.find_tree(entry.id()));
        found.transpose().map_err(|error| error.message().to_owned())
    }
}

/// How far a walk goes before somebody is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Descend {
    /// Not into directories that the base does not have.
    IntoKnown,
    /// Everywhere.
    IntoAll,
}

fn file_mode(mode: i32) -> Option<FileMode> {
    [FileMode::Blob, FileMode::BlobExecutable, FileMode::Link].into_iter().find(|known| i32::from(*known) == mode)
}

/// Lets through what is certain to be a name like any other to git, which forbids some and gives others a meaning.
fn check_name(name: &[u8], entry: Entry, at: &[u8]) -> Result<(), String> {
    const KNOWN: [&[u8]; 4] = [b".gitignore", b".gitattributes", b".gitkeep", b".gitmodules"];
    let lower = name.to_ascii_lowercase();
    let known = match entry {
        Entry::File { .. } => KNOWN.contains(&name),
        Entry::Directory => name == b".github",
        Entry::Whiteout => true,
        Entry::Link | Entry::Special => false,
    };
    let suspicious = lower.starts_with(b".git") || lower.starts_with(b"git~") || name.contains(&b'\\');
    if suspicious && !known { Err(format!("{} may be more than a name to git", show(at))) } else { Ok(()) }
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

pub(super) fn show(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
