//! Keeping files of an attempt beyond its workspace: the change, the agent's events and transcript, and what job and backend name.
//!
//! The one rule: where files are kept has no say in how an attempt ends, except where the job requires a file. Whatever is not
//! kept is on record with the reason. The place is on record before the first object is written, and all of it before a completion names it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tracing::warn;

use super::backend;
use super::halt::{Halt, chain};
use super::journal::Phase;
use super::open::Attempt;
use super::prepare::within;
use super::stop::StopReason;
use super::transcript;
use crate::artifacts::{self, Artifacts, Draft, Found, Place, Refusal};
use crate::git::{Committed, Worktree};
use crate::ids::ObjectId;
use crate::job::artifact::{NAME_MAX, NamedFile};
use crate::job::{Artifact, ArtifactKind, ArtifactState, ArtifactWish, DiffSummary, Globs, KeptObject, OutcomeClass};
use crate::redact::Redactor;

/// Something to keep.
struct Item {
    name: String,
    kind: ArtifactKind,
    source: Source,
    required: bool,
}

impl Item {
    /// Whether it is kept of every attempt.
    const fn is_ours(&self) -> bool {
        !matches!(self.kind, ArtifactKind::Declared | ArtifactKind::Named)
    }
}

/// Where it comes from.
enum Source {
    Bytes(Vec<u8>),
    /// A file that the job cannot reach any more.
    Ours(PathBuf),
    /// One below the worktree.
    Tree(String),
    Refused(Refusal),
}

impl Source {
    fn is(&self, path: &str) -> bool {
        matches!(self, Self::Tree(own) if own == path)
    }
}

/// How far keeping is.
struct Keeping {
    when: When,
    begun: Instant,
    home: Home,
}

/// Where the attempt keeps its files, once it is known that it may.
enum Home {
    Unknown,
    Open(Place),
    Away(String),
}

/// What keeping is done for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    /// The attempt goes on, and may be told to stop.
    Judging,
    /// It is over, by whatever cause, and has a time of its own to close.
    Closing,
}

/// Keeps what there is once the work is a commit, unless it is kept already. Where a required file is not there, or may not
/// be kept, it says so: that is to be judged as a gate.
///
/// # Errors
/// The place is away, and a file is required.
pub(super) async fn kept(attempt: &mut Attempt, commit: Option<&Committed>) -> Result<Option<String>, Halt> {
    if attempt.journal.artifacts.is_none() {
        let change = commit.map(|committed| (&committed.commit, Some(&committed.diff)));
        keep_all(attempt, When::Judging, change).await?;
    }
    let Some(short) = attempt.journal.artifacts.iter().flatten().find(|one| one.required && one.kept.is_none()) else {
        return Ok(None);
    };
    let message = format!("required artifact {} is not kept: {}", short.name, short.reason.as_deref().unwrap_or_default());
    if short.state == ArtifactState::Failed {
        Err(Halt::failed(OutcomeClass::Infrastructure, message))
    } else {
        Ok(Some(message))
    }
}

/// Whether what there is is kept before anything else is done with the work: where a file is required, where gates or critics take their
/// time, and of an agent's work, whose transcript is the log up to here. So it is where nothing changed, and there is nothing to push.
pub(super) fn comes_first(attempt: &Attempt, commit: Option<&Committed>) -> bool {
    let spec = &attempt.claimed.job.spec;
    let required = spec.artifacts.iter().any(|wish| wish.required);
    let judged = !attempt.gates().is_empty() || !spec.critics.is_empty();
    commit.is_none() || required || judged || attempt.backend.is_agent()
}

/// Keeps what there is while the commit is pushed, unless it is kept already: neither waits for the other, and both come to their end unless
/// the claim is lost.
///
/// # Errors
/// It could not be pushed, or the claim is lost. What is pushed is not to be late any more, nor stopped, whatever becomes of its files.
pub(super) async fn beside(
    attempt: &mut Attempt,
    committed: &Committed,
    push: impl AsyncFnOnce(&Attempt) -> Result<(), Halt>,
) -> Result<(), Halt> {
    if attempt.journal.artifacts.is_some() {
        return push(attempt).await;
    }
    let (begun, change) = (Instant::now(), Some((&committed.commit, Some(&committed.diff))));
    let pushing = async { unless_lost(push(attempt).await) };
    let keeping = async { unless_lost(gather(attempt, When::Judging, begun, change).await) };
    let (pushed, mut kept) = tokio::try_join!(pushing, keeping)?;
    if pushed.is_ok() && kept.is_err() {
        kept = unless_lost(gather(attempt, When::Closing, begun, change).await)?;
    }
    let recorded = match kept {
        Ok(done) => {
            attempt.journal.artifacts = Some(done);
            attempt.enter(attempt.journal.phase.clone())
        }
        Err(halt) => Err(halt),
    };
    pushed?;
    if let Err(halt) = recorded {
        tell_of_none(attempt, &halt.why());
    }
    Ok(())
}

/// What a step came to; a lost claim ends those beside it.
fn unless_lost<T>(result: Result<T, Halt>) -> Result<Result<T, Halt>, Halt> {
    match result {
        Err(halt @ Halt::Stopped(StopReason::LeaseLost)) => Err(halt),
        other => Ok(other),
    }
}

fn tell_of_none(attempt: &Attempt, why: &str) {
    warn!("the files of job {} are not kept: {why}", attempt.claimed.claim.job);
    attempt.say(&format!("no files are kept: {why}"));
}

/// Keeps what an attempt leaves that came to no commit. Nothing is required of it any more.
pub(super) async fn left(attempt: &mut Attempt, class: OutcomeClass, salvage: Option<&ObjectId>) {
    let begun = !matches!(attempt.journal.phase, Phase::Preparing | Phase::Prepared { .. });
    let given_back = matches!(class, OutcomeClass::LeaseLost | OutcomeClass::Released | OutcomeClass::OutOfDisk);
    if !begun || given_back || attempt.journal.artifacts.is_some() {
        return;
    }
    backend::keep_events(attempt);
    let (limit, change) = (attempt.tools.config.close_timeout, salvage.map(|commit| (commit, None)));
    let why = match tokio::time::timeout(limit, keep_all(attempt, When::Closing, change)).await {
        Ok(Ok(())) => return,
        Ok(Err(halt)) => halt.why(),
        Err(_) => "it took longer than attempt.close_timeout".to_owned(),
    };
    tell_of_none(attempt, &why);
}

/// Keeps everything, and puts it on record and into the journal.
async fn keep_all(attempt: &mut Attempt, when: When, change: Option<(&ObjectId, Option<&DiffSummary>)>) -> Result<(), Halt> {
    attempt.journal.artifacts = Some(gather(attempt, when, Instant::now(), change).await?);
    attempt.enter(attempt.journal.phase.clone())
}

/// Keeps everything, and puts it on record. What a place may take is counted from `begun`.
async fn gather(
    attempt: &Attempt,
    when: When,
    begun: Instant,
    change: Option<(&ObjectId, Option<&DiffSummary>)>,
) -> Result<Vec<Artifact>, Halt> {
    let items = items(attempt, when, change).await?;
    let mut keeping = Keeping { when, begun, home: Home::Unknown };
    let limits = attempt.tools.artifacts.config().clone();
    let redactor = attempt.redactor.clone();
    let (mut left, mut names) = (limits.attempt_size.as_u64(), BTreeSet::new());
    let ours = taken(&items);
    let mut done: Vec<Artifact> = Vec::new();
    for (number, item) in items.into_iter().enumerate() {
        // A claim that is lost, or a job that is cancelled, is not to be waited for.
        if when == When::Judging {
            attempt.check_stop()?;
        }
        let is_taken = names.contains(&item.name) || (!item.is_ours() && ours.contains(&item.name));
        let Item { name, kind, source, required } = item;
        let limit = (limits.file_size.as_u64(), "artifacts.file_size");
        let limit = if left < limit.0 { (left, "artifacts.attempt_size") } else { limit };
        let drafted = if is_taken {
            Err((ArtifactState::Refused, "another artifact of the attempt has this name".to_owned()))
        } else if names.len() >= limits.files {
            Err((ArtifactState::Refused, format!("artifacts.files allows {}", limits.files)))
        } else if name.is_empty() || name.len() > NAME_MAX || name.chars().any(char::is_control) {
            let reason = format!("its name is empty, longer than {NAME_MAX} bytes, or has control characters");
            Err((ArtifactState::Refused, reason))
        } else {
            draft(attempt, source, &name, limit, &redactor).await?.map_err(|refusal| match refusal {
                Refusal::Missing => (ArtifactState::Missing, refusal.to_string()),
                other => (ArtifactState::Refused, other.to_string()),
            })
        };
        let kept = match drafted {
            Ok(drafted) => {
                put(attempt, &mut keeping, (number, &name), drafted).await?.map_err(|why| (ArtifactState::Failed, why))
            }
            Err(not) => Err(not),
        };
        let (state, reason, kept) = match kept {
            Ok(object) => {
                left -= object.bytes.min(left);
                names.insert(name.clone());
                (ArtifactState::Kept, None, Some(object))
            }
            Err((state, reason)) => {
                let what = if required { "required artifact" } else { "artifact" };
                attempt.say(&format!("{what} {name} is not kept: {reason}"));
                (state, Some(reason), None)
            }
        };
        done.push(Artifact { attempt: attempt.claimed.claim.attempt, name, kind, state, required, reason, kept });
    }
    let kept: Vec<u64> = done.iter().filter_map(|artifact| Some(artifact.kept.as_ref()?.bytes)).collect();
    // What is kept of every attempt is no news.
    if done.iter().any(|artifact| matches!(artifact.kind, ArtifactKind::Declared | ArtifactKind::Named)) {
        let bytes = bytesize::ByteSize(kept.iter().sum());
        attempt.say(&format!("{} files are kept ({bytes}), in {} ms", kept.len(), keeping.begun.elapsed().as_millis()));
    }
    attempt.insist(|| attempt.tools.store.record_artifacts(&attempt.claimed.claim, &done)).await?;
    Ok(done)
}

/// The names that are taken by ours, also by those whose turn has not come. That of a transcript gives way to a file that the job requires:
/// jobs may have had one of that name before there were transcripts.
fn taken(items: &[Item]) -> BTreeSet<String> {
    let required = |name: &str| items.iter().any(|item| item.required && item.name == name);
    let gives_way = |item: &Item| matches!(item.kind, ArtifactKind::Transcript) && required(&item.name);
    items.iter().filter(|item| item.is_ours() && !gives_way(item)).map(|item| item.name.clone()).collect()
}

/// What there is to keep: what the job requires, for limits are for the rest; then ours, what else the job asks for, and what the backend
/// names.
async fn items(attempt: &Attempt, when: When, change: Option<(&ObjectId, Option<&DiffSummary>)>) -> Result<Vec<Item>, Halt> {
    let mut items = Vec::new();
    let ours = |name: &str, kind, source| Item { name: name.to_owned(), kind, source, required: false };
    if let Some((commit, diff)) = change {
        let worktree = Worktree::open(&attempt.tools.git, attempt.slot_root())?;
        let patch = match when {
            When::Judging => within(attempt, worktree.patch(commit)).await?,
            When::Closing => worktree.patch(commit).await?,
        };
        let source = match patch {
            Some(patch) => Source::Bytes(patch),
            None => Source::Refused(Refusal::TooLarge { bytes: 64 << 20, limit: 64 << 20, of: "what a patch may have to read" }),
        };
        items.push(ours(if diff.is_some() { "changes.patch" } else { "salvage.patch" }, ArtifactKind::Patch, source));
        if let Some(diff) = diff {
            let json =
                serde_json::to_vec_pretty(diff).map_err(|error| Halt::infrastructure("cannot write the diff as JSON", &error))?;
            items.push(ours("changes.json", ArtifactKind::Diff, Source::Bytes(json)));
        }
    }
    for (name, path) in backend::kept_events(attempt) {
        items.push(ours(&name, ArtifactKind::Events, Source::Ours(path)));
    }
    if let Some(written) = transcript::write(attempt).await? {
        let source = written.map_or_else(|error| Source::Refused(Refusal::Io(error)), Source::Ours);
        items.push(ours(transcript::NAME, ArtifactKind::Transcript, source));
    }
    items.extend(wanted(attempt).await?);
    let named = backend::read(attempt, |backend, slot, redactor| backend.artifacts(&slot.result(), redactor)).await?.into_iter();
    let known = |named: &NamedFile| items.iter().any(|item| item.name == named.name && item.source.is(&named.path));
    let named: Vec<NamedFile> = named.filter(|named| !known(named)).collect();
    items.extend(named.into_iter().map(|NamedFile { name, path }| Item {
        name,
        kind: ArtifactKind::Named,
        source: Source::Tree(path),
        required: false,
    }));
    items.sort_by_key(|item| !item.required);
    // So many that not even refusing them is of use to anybody.
    items.truncate(attempt.tools.artifacts.config().files.saturating_mul(2).max(8));
    Ok(items)
}

/// The files that the job asks for. A pattern that nothing matches is a missing file of its own name.
async fn wanted(attempt: &Attempt) -> Result<Vec<Item>, Halt> {
    let wishes = attempt.claimed.job.spec.artifacts.clone();
    if wishes.is_empty() {
        return Ok(Vec::new());
    }
    let (tree, most) = (attempt.slot.tree(), attempt.tools.artifacts.config().files + 1);
    let finding = tokio::task::spawn_blocking(move || look_for(&tree, &wishes, most));
    finding.await.map_err(|error| Halt::infrastructure("cannot look for artifacts", &error))
}

fn look_for(tree: &Path, wishes: &[ArtifactWish], most: usize) -> Vec<Item> {
    let item = |wish: &ArtifactWish, name: &str, source| Item {
        name: name.to_owned(),
        kind: ArtifactKind::Declared,
        source,
        required: wish.required,
    };
    let mut items = Vec::new();
    for wish in wishes {
        // What can be but one file is opened when it is its turn, however much else there is.
        if let Some(path) = Globs::path_of(&wish.path).filter(|path| !Path::new(path).starts_with(".git")) {
            items.push(item(wish, path, Source::Tree(path.to_owned())));
            continue;
        }
        let globs = Globs::new(std::slice::from_ref(&wish.path));
        let refused = match artifacts::find(tree, |path| globs.matching(path).is_some(), most) {
            Ok(Found { paths, among }) => {
                items.extend(paths.iter().map(|path| item(wish, path, Source::Tree(path.clone()))));
                // More may match among those that were not seen, and nobody knows.
                among.map(Refusal::NotFoundAmong).or_else(|| paths.is_empty().then_some(Refusal::Missing))
            }
            Err(refusal) => Some(refusal),
        };
        items.extend(refused.map(|refusal| item(wish, &wish.path, Source::Refused(refusal))));
    }
    // One that several patterns match is kept once, and required where one of them says so.
    items.sort_by(|a, b| (&a.name, !a.required).cmp(&(&b.name, !b.required)));
    items.dedup_by(|later, first| later.name == first.name);
    items
}

/// Copies what is to be kept out of the job's reach.
async fn draft(
    attempt: &Attempt,
    source: Source,
    name: &str,
    limit: (u64, &'static str),
    redactor: &Redactor,
) -> Result<Result<Draft, Refusal>, Halt> {
    let (job, to) = (attempt.slot.job(), draft_path(attempt));
    let (name, redactor) = (name.to_owned(), redactor.clone());
    let drafting = move || -> Result<Draft, Refusal> {
        match source {
            Source::Bytes(bytes) => artifacts::draft(Cursor::new(bytes), &to, &name, limit, &redactor),
            Source::Ours(path) => artifacts::draft(File::open(path)?, &to, &name, limit, &redactor),
            Source::Tree(path) => artifacts::draft(artifacts::open(&job, "tree", &path)?, &to, &name, limit, &redactor),
            Source::Refused(refusal) => Err(refusal),
        }
    };
    tokio::task::spawn_blocking(drafting).await.map_err(|error| Halt::infrastructure("cannot copy an artifact", &error))
}

fn draft_path(attempt: &Attempt) -> PathBuf {
    attempt.slot.run().join("artifact.draft")
}

/// Writes a draft to the place; where that cannot be used, says why, and does not try again.
async fn put(
    attempt: &Attempt,
    keeping: &mut Keeping,
    (number, name): (usize, &str),
    drafted: Draft,
) -> Result<Result<KeptObject, String>, Halt> {
    let (tools, claim) = (&attempt.tools, &attempt.claimed.claim);
    if matches!(keeping.home, Home::Unknown) {
        keeping.home = match tools.artifacts.place() {
            Ok(place) => {
                attempt.insist(|| tools.store.open_artifacts(claim, &place.id)).await?;
                Home::Open(place)
            }
            Err(error) => Home::Away(chain(&error)),
        };
    }
    let place = match &keeping.home {
        Home::Open(place) => place,
        Home::Away(why) => return Ok(Err(why.clone())),
        Home::Unknown => return Ok(Err("nobody asked where to".to_owned())),
    };
    let key = Artifacts::key(claim.job, claim.attempt, number, name);
    let limit = tools.artifacts.config().timeout;
    let draft = draft_path(attempt);
    let putting = tools.artifacts.put(&key, &draft);
    let stopped = async {
        match keeping.when {
            When::Judging => attempt.stop.stopped().await,
            When::Closing => {
                attempt.stop.lease_lost().await;
                StopReason::LeaseLost
            }
        }
    };
    let why = tokio::select! {
        biased;
        reason = stopped => return Err(Halt::Stopped(reason)),
        put = tokio::time::timeout(limit.saturating_sub(keeping.begun.elapsed()), putting) => match put {
            Ok(Ok(())) => {
                let Draft { bytes, sha256, content_type, redacted } = drafted;
                let Place { id, at } = place.clone();
                return Ok(Ok(KeptObject { bytes, sha256, content_type: content_type.to_owned(), redacted, place: id, at, key }));
            }
            Ok(Err(error)) => chain(&error),
            Err(_) => format!("{} takes longer than artifacts.timeout", place.at),
        },
    };
    warn!("cannot keep {name} of job {}: {why}", claim.job);
    keeping.home = Home::Away(why.clone());
    Ok(Err(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_a_job_requires_has_the_name_of_a_transcript_and_no_other_of_ours() {
        let item = |name: &str, kind, required| Item { name: name.to_owned(), kind, source: Source::Bytes(Vec::new()), required };
        let check = |required: bool, expected: &[&str]| {
            let declared = |name: &str| item(name, ArtifactKind::Declared, required);
            let ours = [item("changes.json", ArtifactKind::Diff, false), item(transcript::NAME, ArtifactKind::Transcript, false)];
            let items: Vec<Item> = ["changes.json", transcript::NAME].map(declared).into_iter().chain(ours).collect();
            assert!(taken(&items).iter().eq(expected), "{:?}", taken(&items));
        };
        check(true, &["changes.json"]);
        check(false, &["changes.json", transcript::NAME]);
    }

    #[test]
    fn only_what_may_be_several_files_is_searched_for() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("a.xml"), "x").expect("written");
        let wish = |path: &str| ArtifactWish { path: path.to_owned(), required: true };
        let found = look_for(dir.path(), &["./out/b.xml", "*.xml", "*.txt", ".git/config"].map(wish), 9);
        let opened: Vec<&str> = found.iter().filter(|item| item.source.is(&item.name)).map(|item| item.name.as_str()).collect();
        assert_eq!(opened, ["a.xml", "out/b.xml"]);
        let refused: Vec<&str> =
            found.iter().filter(|item| matches!(item.source, Source::Refused(_))).map(|item| item.name.as_str()).collect();
        assert_eq!(refused, ["*.txt", ".git/config"]);
    }
}
