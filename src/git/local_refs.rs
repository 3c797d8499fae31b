//! The refs of a remote on this host's own file systems, read in process: git starts three processes for that.
//!
//! The one rule: where git might see something else there than what is read here, or is to say what is wrong, it is git that is asked.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use git2::{ErrorCode, ObjectType, Repository, RepositoryOpenFlags};
use nix::unistd::Uid;

use super::mirror::RemoteRef;

/// Those of these names that there are, each followed by what it leads to where that is a tag; nothing where that is to be asked of git.
pub(super) fn read(path: &Path, names: &[String]) -> Option<Vec<RemoteRef>> {
    let repository = Repository::open_ext(path, RepositoryOpenFlags::NO_SEARCH, &[] as &[&Path]).ok()?;
    // Of other users' repositories git reads those that it was told are safe.
    let is_ours = |path: &Path| fs::metadata(path).is_ok_and(|found| found.uid() == Uid::effective().as_raw());
    if !is_ours(path) || !is_ours(repository.path()) || hides_refs(&repository)? {
        return None;
    }
    let mut found = Vec::new();
    for name in names {
        let reference = match repository.find_reference(name).and_then(|reference| reference.resolve()) {
            Ok(reference) => reference,
            // Of HEAD this also says that its branch is not born.
            Err(error) if error.code() == ErrorCode::NotFound => continue,
            Err(_) => return None,
        };
        let id = reference.target()?;
        found.push(RemoteRef { name: name.clone(), commit: id.to_string().parse().ok()? });
        if name.starts_with("refs/heads/") {
            continue;
        }
        let object = repository.find_object(id, None).ok()?;
        if object.kind() == Some(ObjectType::Tag) {
            let peeled = object.peel(ObjectType::Any).ok()?;
            found.push(RemoteRef { name: format!("{name}^{{}}"), commit: peeled.id().to_string().parse().ok()? });
        }
    }
    Some(found)
}

/// Whether it keeps some of its refs from whoever fetches; nothing where its configuration cannot be read.
fn hides_refs(repository: &Repository) -> Option<bool> {
    let config = repository.config().ok()?;
    let mut hidden = config.entries(Some(r"\.hiderefs$")).ok()?;
    Some(hidden.next().is_some())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::git::plain::git;

    fn repository(format: &str) -> TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        git(dir.path(), &["init", "--quiet", "--initial-branch=main", &format!("--object-format={format}")]);
        git(dir.path(), &["commit", "--quiet", "--allow-empty", "-m", "first"]);
        dir
    }

    fn names() -> Vec<String> {
        ["HEAD", "refs/heads/main", "refs/heads/other", "refs/heads/none", "refs/tags/plain", "refs/tags/one", "refs/tags/two"]
            .map(str::to_owned)
            .to_vec()
    }

    #[test]
    fn what_is_read_is_what_git_says() {
        let dir = repository("sha1");
        let same = |what: &str| {
            let read = read(dir.path(), &names()).expect("read");
            let mut read: Vec<String> = read.into_iter().map(|found| format!("{}\t{}", found.commit, found.name)).collect();
            let asked = names().into_iter().flat_map(|name| [format!("{name}^{{}}"), name]).collect::<Vec<_>>();
            let mut args = vec!["ls-remote", "."];
            args.extend(asked.iter().map(String::as_str));
            let mut said: Vec<String> = git(dir.path(), &args).lines().map(str::to_owned).collect();
            read.sort();
            said.sort();
            assert_eq!(read, said, "{what}");
        };
        same("a branch");
        for args in [
            &["branch", "other"][..],
            &["tag", "plain"],
            &["tag", "-a", "one", "-m", "1"],
            &["tag", "-a", "two", "one", "-m", "2"],
        ] {
            git(dir.path(), args);
        }
        same("tags, one of them of a tag");
        git(dir.path(), &["pack-refs", "--all"]);
        git(dir.path(), &["commit", "--quiet", "--allow-empty", "-m", "second"]);
        same("packed, and one of them moved");
        git(dir.path(), &["symbolic-ref", "HEAD", "refs/heads/unborn"]);
        same("no default branch");
    }

    #[test]
    fn what_git_may_see_otherwise_is_left_to_it() {
        let hides = repository("sha1");
        git(hides.path(), &["config", "transfer.hideRefs", "refs/heads/other"]);
        assert_eq!(read(hides.path(), &names()), None);
        assert_eq!(read(repository("sha256").path(), &names()), None);
        let dir = repository("sha1");
        assert_eq!(read(&dir.path().join("elsewhere"), &names()), None);
        std::fs::create_dir(dir.path().join("below")).expect("made");
        assert_eq!(read(&dir.path().join("below"), &names()), None, "git does not look above either");
        assert_eq!(read(dir.path(), &["refs/heads/a..b".to_owned()]), None);
    }
}
