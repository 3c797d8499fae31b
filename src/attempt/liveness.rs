//! Whether a backend still does something: what it says, computes and writes, and when it last did.
//!
//! The one rule: who is ended shows no sign of any kind that counts. What it says and computes is looked at often, which costs next to
//! nothing; files are walked only when everything else has been quiet for too long, since what writes files computes too, if little.
//!
//! What git ignores is no edit: who runs tests again and again writes caches and build output each time, and changes nothing.
//!
//! A daemon that takes an attempt up counts from then on: it does not know what the one before it has seen.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, warn};

use super::environment;
use super::halt::chain;
use super::open::Attempt;
use crate::backends::Stall;
use crate::clock::human;
use crate::git::{Ignored, Worktree};
use crate::janitor::{Way, is_dir, walk};
use crate::sandbox::Activity;

/// It is looked twenty times within the shortest time that there is to meet, and not more or less often than that.
const LOOKS: u32 = 20;
const LOOK_EVERY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));

/// Who takes less between two looks than one part in so many of a processor's time waits, and looks at a clock now and then; so does who
/// takes less than this, which is a few ticks of the system.
const COMPUTING: u32 = 100;
const COMPUTING_MIN: Duration = Duration::from_millis(50);

/// What tools write beside their work wherever they run, for repositories that do not say themselves that git is to ignore it. Of a file that
/// the base has none of this is true.
const CACHES: [&str; 14] = [
    "__pycache__/",
    "*.pyc",
    ".pytest_cache/",
    ".mypy_cache/",
    ".ruff_cache/",
    ".hypothesis/",
    ".coverage",
    ".tox/",
    ".nox/",
    ".venv/",
    "node_modules/",
    ".gradle/",
    ".cache/",
    "/target/",
];

/// How much of a process's command line is told.
const LINE_CHARACTERS: usize = 120;

/// What was seen of the backend's command, and when each sign was last new.
#[derive(Debug)]
struct Signs {
    began: Instant,
    output: u64,
    cpu_ms: u64,
    spoke_at: Option<Instant>,
    computed_at: Instant,
    looked_at: Instant,
    /// The last change of a file, so far as files were walked.
    wrote_at: Instant,
    edited_at: Instant,
}

/// Waits until the backend's command is to be taken for hung, and says what was seen: for ever where it may do nothing for as long as it
/// wants.
pub(super) async fn stalled(attempt: &Attempt, command: &str) -> String {
    let stall = attempt.backend.stall();
    let Some(shortest) = [stall.start, stall.silence, stall.no_edit].into_iter().flatten().min() else {
        return std::future::pending().await;
    };
    let mut ticks = interval((shortest / LOOKS).clamp(LOOK_EVERY.0, LOOK_EVERY.1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut signs = Signs::at(Instant::now(), attempt.journal.said_before);
    loop {
        ticks.tick().await;
        let activity = match attempt.runner().look(command).await {
            Ok(activity) => activity,
            // Whoever waits for the command hears of that, and does what is to be done.
            Err(error) => {
                debug!("cannot look at what job {} does: {error}", attempt.claimed.claim.job);
                continue;
            }
        };
        signs.look(Instant::now(), said(attempt), activity.cpu_ms);
        if let Some(why) = verdict(attempt, stall, &mut signs).await {
            return why + &running(attempt, &activity);
        }
    }
}

/// What is to be said of the command if it hangs.
async fn verdict(attempt: &Attempt, stall: Stall, signs: &mut Signs) -> Option<String> {
    if let Some(limit) = stall.start
        && signs.spoke_at.is_none()
        && signs.quiet_since(signs.began) >= limit
    {
        return Some(format!("it had not said a word {} after its start", human::format(limit)));
    }
    if let Some(limit) = stall.silence
        && signs.quiet_since(signs.last_sign()) >= limit
    {
        signs.wrote_at = signs.at_age(written(attempt).await).max(signs.wrote_at);
        if signs.quiet_since(signs.last_sign()) >= limit {
            let cpu = human::format(Duration::from_millis(signs.cpu_ms));
            let limit = human::format(limit);
            return Some(format!(
                "for {limit} it said nothing, computed nothing ({cpu} of processor time in all) and changed no file"
            ));
        }
    }
    if let Some(limit) = stall.no_edit
        && signs.quiet_since(signs.edited_at) >= limit
    {
        signs.edited_at = signs.at_age(edited(attempt).await).max(signs.edited_at);
        if signs.quiet_since(signs.edited_at) >= limit {
            return Some(format!("it changed no file of its worktree for {}", human::format(limit)));
        }
    }
    None
}

fn running(attempt: &Attempt, activity: &Activity) -> String {
    let lines: Vec<String> = activity.processes.iter().map(|line| environment::told(attempt, line, LINE_CHARACTERS)).collect();
    if lines.is_empty() { String::new() } else { format!("; running: {}", lines.join(" | ")) }
}

/// How much it has said so far: to its log and, for an agent, in events.
pub(super) fn said(attempt: &Attempt) -> u64 {
    let places = [attempt.spool.stdout(), attempt.spool.stderr(), attempt.slot.events()];
    places.iter().filter_map(|path| fs::symlink_metadata(path).ok()).map(|about| about.len()).sum()
}

/// What it says where a file was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    /// Somebody is at work on it, and on what is in it.
    Work,
    /// Nothing of itself: it is a directory that changes by what does not count.
    WorkWithin,
    /// Nothing.
    Nothing,
}

/// How long ago a file was changed last: in the job's worktree, its home, and its temporary files where they are on the disk.
async fn written(attempt: &Attempt) -> Option<Duration> {
    newest(attempt.slot.written(), |_, _| Says::Work).await
}

/// How long ago a file of its worktree was changed last that may come to be in a commit.
async fn edited(attempt: &Attempt) -> Option<Duration> {
    let ignored = match Worktree::open(&attempt.tools.git, attempt.slot_root()) {
        Ok(worktree) => worktree.ignored(&CACHES).await,
        Err(error) => Err(error),
    };
    let ignored = ignored.unwrap_or_else(|error| {
        // Then every file counts: nobody is ended by what is not known.
        warn!("cannot tell what job {} edits from what git ignores: {}", attempt.claimed.claim.job, chain(&error));
        Ignored::default()
    });
    let says = move |path: &Path, is_dir: bool| match path {
        path if path == Path::new(".git") || ignored.has(path) => Says::Nothing,
        path if is_dir && ignored.is_in(path) => Says::WorkWithin,
        _ => Says::Work,
    };
    newest(vec![attempt.slot.tree()], says).await
}

/// How deep is looked for files that were changed: paths are put together for each.
const DEEP: usize = 127;

/// How long ago a file was changed last, of those that say something; none where there is none. A path is below its place.
async fn newest(places: Vec<PathBuf>, says: impl Fn(&Path, bool) -> Says + Send + 'static) -> Option<Duration> {
    let walked = tokio::task::spawn_blocking(move || {
        let mut newest = None;
        for place in &places {
            if let Some(about) = fs::symlink_metadata(place).ok().filter(|_| says(Path::new(""), true) == Says::Work) {
                newest = newest.max(Some((about.ctime(), about.ctime_nsec())));
            }
            let mut path: Vec<OsString> = Vec::new();
            walk(place, |depth, name, about| {
                path.truncate(depth);
                path.push(OsStr::from_bytes(name.to_bytes()).to_owned());
                let says = says(&path.iter().collect::<PathBuf>(), is_dir(about));
                if says == Says::Work {
                    // Unlike that of its content, nobody can set the time of its last change of any kind.
                    newest = newest.max(Some((about.st_ctime, about.st_ctime_nsec)));
                }
                if says == Says::Nothing || depth >= DEEP { Way::Past } else { Way::Into }
            });
        }
        newest
    });
    let (seconds, nanoseconds) = walked.await.ok().flatten()?;
    let since = Duration::new(u64::try_from(seconds).ok()?, u32::try_from(nanoseconds).ok()?);
    Some(SystemTime::UNIX_EPOCH.checked_add(since)?.elapsed().unwrap_or_default())
}

impl Signs {
    fn at(now: Instant, output: u64) -> Self {
        Self { began: now, output, cpu_ms: 0, spoke_at: None, computed_at: now, looked_at: now, wrote_at: now, edited_at: now }
    }

    fn look(&mut self, now: Instant, output: u64, cpu_ms: u64) {
        if output != self.output {
            self.spoke_at = Some(now);
        }
        let used = Duration::from_millis(cpu_ms.saturating_sub(self.cpu_ms));
        if used >= COMPUTING_MIN && used * COMPUTING > now.duration_since(self.looked_at) {
            self.computed_at = now;
        }
        (self.output, self.cpu_ms, self.looked_at) = (output, cpu_ms, now);
    }

    fn last_sign(&self) -> Instant {
        self.spoke_at.unwrap_or(self.began).max(self.computed_at).max(self.wrote_at)
    }

    /// By the last look.
    fn quiet_since(&self, sign: Instant) -> Duration {
        self.looked_at.saturating_duration_since(sign)
    }

    /// When it was that something changed so long ago; nothing before the beginning counts.
    fn at_age(&self, age: Option<Duration>) -> Instant {
        age.and_then(|age| Instant::now().checked_sub(age)).unwrap_or(self.began).max(self.began)
    }
}
