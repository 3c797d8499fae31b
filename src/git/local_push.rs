//! A push of little to a remote on this host's own file systems, of which git would start six processes: three for this half of the talk.
//!
//! The one rule: what takes the push is git itself, with the remote's own hooks and configuration, and it decides. This half says what it
//! expects, sends what the commit has and reads the answer. Two answers are known here, that the ref is taken and that a hook does not want it;
//! with any other nothing was changed there, and git pushes and says what is wrong.
//!
//! The format is that of gitprotocol-pack(5): a command, a pack, a report.

use std::path::Path;

use git2::{ObjectType, Oid, Repository};

use super::command::Finished;
use super::error::GitError;
use super::local_refs;
use super::mirror::Mirror;
use super::push::{Answer, Expected, Pushed};
use crate::ids::ObjectId;

/// How many objects a push of little has at most, and how many bytes they have.
const OBJECTS_MAX: usize = 1_000;
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// How much a remote may say: it names all its refs first.
const REFS_MAX: usize = 256 * 1024 * 1024;
/// What a remote says where a hook of it does not want the ref.
const DECLINED: &str = "hook declined";
/// What a remote is told where it has no such ref.
const ABSENT: &str = "0000000000000000000000000000000000000000";

/// Pushes `commit` as `target`; nothing where git is to do it.
pub(super) async fn push(
    mirror: &Mirror,
    commit: &ObjectId,
    target: &str,
    expected: Expected<'_>,
) -> Result<Option<(Answer, Finished)>, GitError> {
    let Some(path) = mirror.remote.path() else { return Ok(None) };
    let old = match expected {
        Expected::Absent => None,
        Expected::At(old) => Some(old.clone()),
    };
    let command = format!("{} {commit} {target}\0 report-status", old.as_ref().map_or(ABSENT, ObjectId::as_str));
    let (dir, made, name, there) = (mirror.dir.clone(), commit.clone(), target.to_owned(), path.clone());
    let packing = super::blocking(move || {
        let found = local_refs::read(&there, &[name])?;
        (found.first().map(|found| &found.commit) == old.as_ref()).then(|| pack(&dir, &made).ok()).flatten().flatten()
    });
    let Ok(Some(pack)) = tokio::time::timeout(local_refs::WITHIN, packing).await else { return Ok(None) };
    let asked = [line(&command).as_slice(), b"0000", &pack].concat();
    let serving = mirror.git.far_end(format!("push {target} to {}", mirror.remote), &mirror.remote);
    let finished = serving.arg("receive-pack").arg(path).stdin(asked).stdout_max(REFS_MAX).finish().await?;
    Ok(report(&finished.stdout, target).map(|answer| (answer, finished.said_by_remote())))
}

/// A line of the talk, with its length before it.
fn line(text: &str) -> Vec<u8> {
    format!("{:04x}{text}", text.len() + 4).into_bytes()
}

/// What a remote says of the ref, behind the refs that it has, where it has taken it or a hook does not want it.
fn report(answer: &[u8], target: &str) -> Option<Answer> {
    let mut lines = lines(answer);
    lines.by_ref().find(Option::is_none)?;
    lines.next().flatten().filter(|unpacked| *unpacked == b"unpack ok")?;
    let said = String::from_utf8_lossy(lines.next().flatten()?);
    match said.strip_prefix("ng ") {
        None => (said.strip_prefix("ok ")? == target).then_some(Answer::Done(Pushed::New)),
        Some(refused) => {
            let reason = refused.strip_prefix(target)?.strip_prefix(' ')?;
            reason.ends_with(DECLINED).then(|| Answer::Rejected(format!("[remote rejected] ({reason})")))
        }
    }
}

/// The lines of a talk, without their ends; nothing for what stands between its parts, and none behind what is no line.
fn lines(mut rest: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    std::iter::from_fn(move || {
        let length = usize::from_str_radix(std::str::from_utf8(rest.get(..4)?).ok()?, 16).ok()?;
        if length == 0 {
            rest = &rest[4..];
            return Some(None);
        }
        let line = rest.get(4..length)?;
        rest = &rest[length..];
        Some(Some(line.strip_suffix(b"\n").unwrap_or(line)))
    })
}

/// What a commit has that its parents have not at the same place, as a pack; nothing where that is much.
fn pack(mirror: &Path, commit: &ObjectId) -> Result<Option<Vec<u8>>, git2::Error> {
    let repository = Repository::open_bare(mirror)?;
    let commit = repository.find_commit(Oid::from_str(commit.as_str())?)?;
    let Ok(parent) = commit.parent(0) else { return Ok(None) };
    if commit.parent_count() > 1 {
        return Ok(None);
    }
    let mut new = vec![commit.id()];
    let mut ahead = vec![(commit.tree_id(), Some(parent.tree_id()))];
    while let Some((tree, old)) = ahead.pop() {
        new.push(tree);
        let old = old.map(|old| repository.find_tree(old)).transpose()?;
        for entry in &repository.find_tree(tree)? {
            let before = old.as_ref().and_then(|old| old.get_name_bytes(entry.name_bytes()));
            if before.as_ref().is_some_and(|before| before.id() == entry.id()) {
                continue;
            }
            match entry.kind() {
                Some(ObjectType::Tree) => {
                    let before = before.filter(|before| before.kind() == Some(ObjectType::Tree));
                    ahead.push((entry.id(), before.map(|before| before.id())));
                }
                Some(ObjectType::Blob) => new.push(entry.id()),
                // A submodule's commit is elsewhere.
                _ => {}
            }
        }
        if new.len() + ahead.len() > OBJECTS_MAX {
            return Ok(None);
        }
    }
    let objects = repository.odb()?;
    let mut bytes = 0;
    let mut builder = repository.packbuilder()?;
    for id in new {
        bytes += objects.read_header(id)?.0;
        if bytes > BYTES_MAX {
            return Ok(None);
        }
        builder.insert_object(id, None)?;
    }
    let mut pack = git2::Buf::new();
    builder.write_buf(&mut pack)?;
    Ok(Some(pack.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Option<String> {
        report(text.as_bytes(), "refs/heads/a").map(|answer| match answer {
            Answer::Done(_) => "done".to_owned(),
            Answer::Rejected(reason) => reason,
        })
    }

    #[test]
    fn only_what_a_remote_says_of_the_ref_is_an_answer() {
        let refs = "003d9115350698473ce010f6bcc2aac3310d7ac1b218 refs/heads/main\n";
        let talk = |report: &str| said(&format!("{refs}0000{report}0000"));
        assert_eq!(talk("000eunpack ok\n0014ok refs/heads/a\n").as_deref(), Some("done"));
        let declined = talk("000eunpack ok\n002eng refs/heads/a pre-receive hook declined\n");
        assert_eq!(declined.as_deref(), Some("[remote rejected] (pre-receive hook declined)"));
        for other in [
            "",
            "000eunpack ok\n",
            "000eunpack ok\n0014ok refs/heads/b\n",
            "000eunpack ok\n0029ng refs/heads/b update hook declined\n",
            "000eunpack ok\n0029ng refs/heads/a failed to update ref\n",
            "0013unpack index-pack\n0014ok refs/heads/a\n",
            "zzzz",
            "00ffunpack",
        ] {
            assert_eq!(talk(other), None, "{other:?}");
        }
        assert_eq!(said(""), None);
        assert_eq!(said("000eunpack ok\n0014ok refs/heads/a\n"), None, "those are no refs");
    }
}
