//! All files of a commit, in the order of an index, with the shape of its trees.

use std::path::Path;

use git2::{ObjectType, Oid, Repository, Tree};

use crate::git::attributes;
use crate::ids::ObjectId;

/// The files of a commit.
pub(super) struct Listing {
    pub(super) files: Vec<File>,
    /// Their directories, each before what is in it, without the uppermost.
    pub(super) directories: Vec<Vec<u8>>,
    /// The trees, each before those in it, as an index has them.
    pub(super) trees: Vec<Shape>,
    pub(super) attributes: Vec<(Vec<u8>, ObjectId)>,
    pub(super) ignores: bool,
}

/// A file, or a link.
pub(super) struct File {
    pub(super) path: Vec<u8>,
    pub(super) id: Oid,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    Executable,
    Link,
}

/// A tree as an index has it.
pub(super) struct Shape {
    pub(super) name: Vec<u8>,
    pub(super) id: Oid,
    /// How many files are in and below it.
    pub(super) files: usize,
    /// How many trees are in it.
    pub(super) trees: usize,
}

impl Listing {
    /// The listing of a commit. The error is the reason why git must check it out.
    pub(super) fn of(mirror: &Path, commit: &str) -> Result<Self, String> {
        let said = |error: git2::Error| error.message().to_owned();
        let repository = Repository::open_bare(mirror).map_err(said)?;
        let commit = Oid::from_str(commit).and_then(|id| repository.find_commit(id)).map_err(said)?;
        let mut listing =
            Self { files: Vec::new(), directories: Vec::new(), trees: Vec::new(), attributes: Vec::new(), ignores: false };
        listing.add(&repository, &commit.tree().map_err(said)?, &[], Vec::new())?;
        Ok(listing)
    }

    fn add(&mut self, repository: &Repository, tree: &Tree<'_>, path: &[u8], name: Vec<u8>) -> Result<(), String> {
        let (at, before) = (self.trees.len(), self.files.len());
        self.trees.push(Shape { name, id: tree.id(), files: 0, trees: 0 });
        let mut trees = 0;
        for entry in tree {
            let name = entry.name_bytes();
            let whole = if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() };
            check_name(name, entry.kind(), &whole)?;
            if entry.kind() == Some(ObjectType::Tree) {
                trees += 1;
                self.directories.push(whole.clone());
                let inner = repository.find_tree(entry.id()).map_err(|error| error.message().to_owned())?;
                self.add(repository, &inner, &whole, name.to_vec())?;
                continue;
            }
            let kind = match entry.filemode() {
                0o100_644 => Kind::Plain,
                0o100_755 => Kind::Executable,
                0o120_000 => Kind::Link,
                _ => return Err(format!("{} is no plain file", String::from_utf8_lossy(&whole))),
            };
            match name {
                b".gitattributes" => self.note_attributes(repository, &whole, entry.id())?,
                b".gitignore" => self.ignores = true,
                _ => {}
            }
            self.files.push(File { path: whole, id: entry.id(), kind });
        }
        let shape = &mut self.trees[at];
        (shape.files, shape.trees) = (self.files.len() - before, trees);
        Ok(())
    }

    fn note_attributes(&mut self, repository: &Repository, path: &[u8], id: Oid) -> Result<(), String> {
        let blob = repository.find_blob(id).map_err(|error| error.message().to_owned())?;
        if attributes::touch_checkouts(blob.content()) {
            return Err(format!("{} says how files are checked out", String::from_utf8_lossy(path)));
        }
        let id = id.to_string().parse().map_err(|error: crate::ids::IdError| error.to_string())?;
        self.attributes.push((path.to_vec(), id));
        Ok(())
    }
}

/// Lets through what is certain to be a name like any other to git, which refuses to check some out.
fn check_name(name: &[u8], kind: Option<ObjectType>, whole: &[u8]) -> Result<(), String> {
    const KNOWN: [&[u8]; 4] = [b".gitignore", b".gitattributes", b".gitkeep", b".gitmodules"];
    let lower = name.to_ascii_lowercase();
    let known = match kind {
        Some(ObjectType::Blob) => KNOWN.contains(&name),
        _ => name == b".github",
    };
    let suspicious = lower.starts_with(b".git") || lower.starts_with(b"git~") || name.contains(&b'\\') || name.contains(&b'/');
    if matches!(name, b"" | b"." | b"..") || (suspicious && !known) {
        return Err(format!("{} may be more than a name to git", String::from_utf8_lossy(whole)));
    }
    Ok(())
}
