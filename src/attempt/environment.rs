//! What a job's processes find in their environment, and which values in it are secrets.

use std::collections::BTreeMap;
use std::path::Path;

use super::egress::Egress;
use super::open::Attempt;
use super::place::{Paths, Place};
use super::tools::Tools;
use crate::backends::Backend;
use crate::job::Job;
use crate::redact::Redactor;

/// Where programs are in an image that does not say, as Docker has it.
const IMAGE_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Ends of variables' names whose values are taken for secrets when a job sets them.
const SECRET_NAMES: [&str; 7] = ["TOKEN", "SECRET", "PASSWORD", "PASSWD", "KEY", "CREDENTIAL", "CREDENTIALS"];

/// The environment of the backend's command, which knows its files by `paths`: what the allow-list for every job lets through of the
/// daemon's own, and then the backend's, what the job sets, and what Sawmill sets, each over the one before. Nothing else is inherited.
/// In a container the image's environment is in the place of what is for every job on the host: that has the host's paths in it.
pub(super) fn for_backend(attempt: &Attempt, paths: &Paths) -> BTreeMap<String, String> {
    with(attempt, paths, attempt.backend.env())
}

/// That of a gate: the backend's without what is let through for the backend alone. A gate runs what the job wrote, which is to find no
/// key of a model.
pub(super) fn for_gate(attempt: &Attempt, paths: &Paths) -> BTreeMap<String, String> {
    with(attempt, paths, &[])
}

fn with(attempt: &Attempt, paths: &Paths, more: &[String]) -> BTreeMap<String, String> {
    let tools = &attempt.tools;
    let let_through = |name: &String| Some((name.clone(), tools.environment.get(name)?.clone()));
    let mut env: BTreeMap<String, String> = match &attempt.journal.place {
        Some(Place::Container { env, .. }) => {
            [("PATH".to_owned(), IMAGE_PATH.to_owned())].into_iter().chain(env.iter().cloned()).collect()
        }
        Some(Place::Host) | None => tools.sandbox.env_allow.iter().filter_map(let_through).collect(),
    };
    env.extend(more.iter().filter_map(let_through));
    env.extend(attempt.claimed.job.spec.env.clone());

    let claim = &attempt.claimed.claim;
    let path = |path: &Path| path.to_string_lossy().into_owned();
    env.extend([
        ("HOME".to_owned(), path(&paths.home)),
        ("TMPDIR".to_owned(), path(&paths.tmp)),
        ("PWD".to_owned(), path(&paths.tree)),
        ("GIT_TERMINAL_PROMPT".to_owned(), "0".to_owned()),
        ("SAWMILL_JOB".to_owned(), claim.job.to_string()),
        ("SAWMILL_ATTEMPT".to_owned(), claim.attempt.to_string()),
        ("SAWMILL_SPEC".to_owned(), path(&paths.spec)),
        ("SAWMILL_RESULT".to_owned(), path(&paths.result)),
        ("SAWMILL_USAGE".to_owned(), path(&paths.usage)),
    ]);
    env.extend(attempt.egress.iter().flat_map(Egress::variables));
    env
}

/// What takes the attempt's secrets out of its log, and of all else that leaves it: the values that the backend is let have, those that the job sets under
/// names of secrets, and the password in the remote's URL.
pub(super) fn redactor(tools: &Tools, job: &Job, backend: &Backend) -> Redactor {
    let of_backend = backend.env().iter().filter_map(|name| tools.environment.get(name).cloned());
    let of_job = job.spec.env.iter().filter(|(name, _)| is_secret(name)).map(|(_, value)| value.clone());
    let of_remote = url::Url::parse(&job.repo).ok().and_then(|url| url.password().map(str::to_owned));
    let secrets: Vec<String> = of_backend.chain(of_job).chain(of_remote).collect();
    Redactor::new(&secrets)
}

/// The command line of a process of the job's, as it may be told: without the attempt's secrets, and then at most so many characters.
pub(super) fn told(attempt: &Attempt, line: &str, most: usize) -> String {
    attempt.redactor.redact_text(line).chars().take(most).collect()
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    SECRET_NAMES.iter().any(|end| name.ends_with(end))
}
