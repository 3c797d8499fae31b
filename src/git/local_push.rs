//! A push of little to a remote on this host's own file systems, of which git would start six processes: three for this half of the talk.
//!
//! The one rule: what takes the push is git itself, with the remote's own hooks and configuration, and it decides. This half reads what the
//! remote has, says what it expects and what it has made, and reads the answer. It knows three: that the ref is taken, that a hook does not
//! want it, and that there is a lock on it. With any other git pushes, which finds out what is there and says what is wrong; a remote that
//! has a reason of its own may then have run its hooks twice.
//!
//! The format is that of gitprotocol-pack(5): the remote's refs, a command, a pack, a report.

use std::path::Path;

use git2::Repository;

use super::diagnose;
use super::error::GitError;
use super::mirror::Mirror;
use super::novelty;
use super::push::{Answer, Expected, Pushed};
use super::running::{Finished, Running};
use crate::ids::ObjectId;

/// How many bytes the objects of a push of little have at most.
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// What a remote says where a hook of it does not want the ref.
const DECLINED: &str = "hook declined";
/// What a remote is told where it has no such ref.
const ABSENT: &str = "0000000000000000000000000000000000000000";
/// What a remote is to be able to do, and does.
const ASKED: [&str; 2] = ["report-status", "atomic"];
/// What stands between the parts of a talk, and at its end.
const FLUSH: &[u8] = b"0000";

/// Pushes `commit` as `target`; nothing where git is to do it.
///
/// # Errors
/// The remote cannot be talked to, or takes too long.
pub(super) async fn push(
    mirror: &Mirror,
    commit: &ObjectId,
    target: &str,
    expected: Expected<'_>,
) -> Result<Option<(Answer, Finished)>, GitError> {
    let Some(path) = mirror.remote.path().filter(|_| commit.as_str().len() == ABSENT.len()) else { return Ok(None) };
    let action = format!("push {target} to {}", mirror.remote);
    let mut serving = mirror.git.far_end(action, &mirror.remote).arg("receive-pack").arg(path).converse()?;
    let (dir, made) = (mirror.dir.clone(), commit.clone());
    let packing = super::blocking(move || pack(&dir, &made));
    let (offer, packed) = tokio::join!(hear_offer(&mut serving, target), packing);
    let offer = match offer {
        Ok(offer) => offer,
        Err(error @ GitError::Timeout { .. }) => return Err(error),
        Err(error) => return Ok(left_to_git(mirror, &error.to_string())),
    };
    let old = expected.commit();
    let pack = match packed {
        _ if !offer.is_able => Err("it is not able to do what is asked".to_owned()),
        _ if offer.found.as_deref() != old.map(ObjectId::as_str) => Err("the ref is not as expected".to_owned()),
        _ if old == Some(commit) => Err("the ref is there".to_owned()),
        Ok(Some(pack)) => Ok(pack),
        Ok(None) => Err("it is no push of little".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    let (input, declined) = match pack {
        Ok(pack) => {
            let old = old.map_or(ABSENT, ObjectId::as_str);
            (vec![line(&format!("{old} {commit} {target}\0 {}", ASKED.join(" "))), FLUSH.to_vec(), pack], None)
        }
        // Nothing is to be changed.
        Err(why) => (vec![FLUSH.to_vec()], Some(why)),
    };
    let mut finished = match serving.finish(input.concat()).await {
        Ok(finished) => finished,
        Err(error @ GitError::Timeout { .. }) => return Err(error),
        Err(error) => return Ok(left_to_git(mirror, &error.to_string())),
    };
    if let Some(why) = declined {
        return Ok(left_to_git(mirror, &why));
    }
    // As git marks what a remote says.
    finished.stderr = finished.stderr.lines().map(|line| format!("remote: {line}\n")).collect();
    match report(&finished, target) {
        Some(answer) => Ok(Some((answer, finished))),
        None => Ok(left_to_git(mirror, &format!("the remote says {:?}", diagnose::detail(&finished.stderr)))),
    }
}

fn left_to_git(mirror: &Mirror, why: &str) -> Option<(Answer, Finished)> {
    tracing::debug!(remote = %mirror.remote, why, "git itself pushes");
    None
}

/// What a remote has, and can do.
struct Offer {
    /// At what it has the ref.
    found: Option<String>,
    /// Whether it does what is asked of it.
    is_able: bool,
}

/// A line of the talk, with its length before it.
fn line(text: &str) -> Vec<u8> {
    format!("{:04x}{text}", text.len() + 4).into_bytes()
}

/// Reads the refs that the remote has.
async fn hear_offer(serving: &mut Running, target: &str) -> Result<Offer, GitError> {
    let mut offer = Offer { found: None, is_able: false };
    let mut line = Vec::new();
    loop {
        let mut length = [0; 4];
        serving.hear(&mut length).await?;
        match length_of(&length) {
            Some(0) => return Ok(offer),
            Some(length) => line.resize(length.saturating_sub(FLUSH.len()), 0),
            None => {
                let detail = "it names its refs in another way".to_owned();
                return Err(GitError::Command { action: "read the refs of a remote".to_owned(), detail });
            }
        }
        serving.hear(&mut line).await?;
        let text = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(&line));
        // Behind the first name stands what the remote is able to do.
        let (text, able) = text.split_once('\0').unwrap_or((&text, ""));
        offer.is_able |= ASKED.iter().all(|asked| able.split(' ').any(|able| able == *asked));
        if let Some((id, name)) = text.split_once(' ')
            && name == target
        {
            offer.found = Some(id.to_owned());
        }
    }
}

/// How long a line of the talk is with its length; nothing for what is no line.
fn length_of(bytes: &[u8]) -> Option<usize> {
    let digits = std::str::from_utf8(bytes).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    usize::from_str_radix(digits, 16).ok()
}

/// What a remote says of the ref, where it has taken it, a hook does not want it, or somebody has a lock on it.
fn report(finished: &Finished, target: &str) -> Option<Answer> {
    let mut lines = lines(&finished.stdout);
    lines.next().filter(|unpacked| *unpacked == b"unpack ok")?;
    let said = String::from_utf8_lossy(lines.next()?);
    match said.strip_prefix("ng ") {
        None => (said.strip_prefix("ok ")? == target).then_some(Answer::Done(Pushed::New)),
        Some(refused) => {
            let reason = refused.strip_prefix(target)?.strip_prefix(' ')?;
            let known = reason.ends_with(DECLINED) || diagnose::lock_in_the_way(&finished.stderr).is_some();
            known.then(|| Answer::Rejected(format!("[remote rejected] ({reason})")))
        }
    }
}

/// The lines of a talk up to the end of its part, without their ends.
fn lines(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = length_of(rest.get(..4)?)?;
        let line = rest.get(4..length)?;
        rest = &rest[length..];
        Some(line.strip_suffix(b"\n").unwrap_or(line))
    })
}

/// What a push of this commit has to bring, as a pack; nothing where that is much.
fn pack(mirror: &Path, commit: &ObjectId) -> Result<Option<Vec<u8>>, git2::Error> {
    let repository = Repository::open_bare(mirror)?;
    let Some(new) = novelty::of(&repository, commit)? else { return Ok(None) };
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

    fn said(answer: &str, stderr: &str) -> Option<String> {
        let (action, stdout) = (String::new(), answer.as_bytes().to_vec());
        let finished = Finished { action, code: Some(0), stdout, stderr: stderr.to_owned() };
        report(&finished, "refs/heads/a").map(|answer| match answer {
            Answer::Done(_) => "done".to_owned(),
            Answer::Rejected(reason) => reason,
        })
    }

    #[test]
    fn only_what_a_remote_says_of_the_ref_is_an_answer() {
        assert_eq!(said("000eunpack ok\n0014ok refs/heads/a\n0000", "").as_deref(), Some("done"));
        let declined = said("000eunpack ok\n002eng refs/heads/a pre-receive hook declined\n0000", "");
        assert_eq!(declined.as_deref(), Some("[remote rejected] (pre-receive hook declined)"));
        let failed = "000eunpack ok\n0029ng refs/heads/a failed to update ref\n0000";
        let locked = said(failed, "remote: error: cannot lock ref: Unable to create '/r/refs/heads/a.lock': File exists.\n");
        assert_eq!(locked.as_deref(), Some("[remote rejected] (failed to update ref)"));
        for other in [
            "",
            "0000",
            failed,
            "000eunpack ok\n",
            "000eunpack ok\n0000",
            "000eunpack ok\n0014ok refs/heads/b\n0000",
            "000eunpack ok\n0029ng refs/heads/b update hook declined\n0000",
            "0013unpack index-pack\n0014ok refs/heads/a\n0000",
            "0001",
            "zzzz",
            "+00eunpack ok\n0014ok refs/heads/a\n0000",
            "00ffunpack",
        ] {
            assert_eq!(said(other, ""), None, "{other:?}");
        }
    }
}
