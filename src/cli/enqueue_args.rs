//! The arguments of `sawmill enqueue`, and the job document that they ask for.
//!
//! The one rule: what a document can say with `--spec`, arguments say in the words of the document; whether it can be is judged by
//! the server.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::enqueue_terms::Terms;
use super::error::CliError;
use crate::clock::{Timestamp, human};
use crate::ids::JobId;
use crate::job::spec::{Changes, Command, ContainerMode, Deliver, Execution, Priority, SCHEMA, Task, WorkspacePolicy};
use crate::job::{AfterFailure, ArtifactWish, BranchName, Concurrency, JobSpec, RetryFrom};

/// The arguments of `enqueue`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  sawmill enqueue --repo /srv/git/app.git --wait -- cargo fmt
  sawmill enqueue --project app --instruction 'Fix the flaky test in parser.rs' --follow
  sawmill enqueue --project app --file task.md --gate 'unit:cargo=cargo test' --check 'allow=src/**' --budget cost_usd=2.50
  sawmill enqueue --spec job.json")]
pub struct EnqueueArgs {
    /// The project, which names repository and policy
    #[arg(long, short, value_name = "PROJECT", conflicts_with = "repo")]
    pub project: Option<String>,
    /// The repository: any URL that git accepts, or a path
    #[arg(long, value_name = "REPO")]
    pub repo: Option<String>,
    /// The branch, tag or commit to start from [default: the project's, or the remote's default branch]
    #[arg(long, value_name = "REF")]
    pub base: Option<String>,
    /// The backend that does the work [default: the project's, or the configured one]
    #[arg(long, short, value_name = "BACKEND")]
    pub backend: Option<String>,
    /// What to do, in words
    #[arg(long, short, value_name = "TEXT", conflicts_with = "file")]
    pub instruction: Option<String>,
    /// A file that says what to do, in words; - for standard input
    #[arg(long, short, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Whether the work must change files: required, optional or none [default: required]
    #[arg(long, value_name = "CHANGES", value_parser = parse_changes)]
    pub changes: Option<Changes>,
    /// How urgent it is: interactive, normal or background [default: normal]
    #[arg(long, value_name = "PRIORITY")]
    pub priority: Option<Priority>,
    /// A variable for the environment of the work; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_variable)]
    pub env: Vec<(String, String)>,
    /// The branch to deliver on [default: as the configured template has it]
    #[arg(long, value_name = "BRANCH")]
    pub branch: Option<BranchName>,
    /// A key of yours: enqueuing again under the same key gives the job that is there
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// The plan that the job is part of
    #[arg(long, value_name = "ID")]
    pub execution: Option<String>,
    /// The part that it plays there
    #[arg(long, value_name = "ROLE")]
    pub role: Option<String>,
    /// A few words for the branch's name [default: from the instruction]
    #[arg(long, value_name = "SLUG")]
    pub slug: Option<String>,
    /// Not before this moment, such as 2026-01-31T08:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_moment, conflicts_with = "in")]
    pub at: Option<Timestamp>,
    /// Not before this long from now, such as 90s or 1h30m
    #[arg(long, value_name = "DURATION", value_parser = human::parse)]
    pub r#in: Option<Duration>,
    /// It fails unless it has started by this moment, or this long from now
    #[arg(long, value_name = "TIME|DURATION", value_parser = parse_limit)]
    pub start_by: Option<StartBy>,
    /// A label of a worker, or a capability of its backend, that it needs; may be given several times
    #[arg(long, value_name = "LABEL")]
    pub require: Vec<String>,
    /// A job whose end it waits for; may be given several times
    #[arg(long, value_name = "JOB")]
    pub after: Vec<JobId>,
    /// What becomes of it when one of those fails: cascade (it is cancelled) or ignore (it runs) [default: cascade]
    #[arg(long, value_name = "POLICY", value_parser = parse_policy)]
    pub after_failure: Option<AfterFailure>,
    /// A job that it waits for, and from whose commit it starts
    #[arg(long, value_name = "JOB")]
    pub base_from: Option<JobId>,
    /// A name under which only LIMIT jobs run at once [default limit: 1]
    #[arg(long, value_name = "NAME[:LIMIT]", value_parser = parse_key)]
    pub key: Option<Concurrency>,
    /// How long an attempt may take [default: the project's, or the configured one]
    #[arg(long, value_name = "DURATION", value_parser = human::parse)]
    pub timeout: Option<Duration>,
    /// How many attempts may fail [default: the project's, or the configured number]
    #[arg(long, value_name = "N")]
    pub attempts: Option<u32>,
    /// What an attempt after the first one begins with: clean (the base) or salvage (what the one before it left) [default: the
    /// project's, or as the worker is configured]
    #[arg(long, value_name = "FROM")]
    pub retry_from: Option<RetryFrom>,
    /// How often the backend hears within one attempt what was wrong with its work [default: the project's, the backend's, or the
    /// configured number]
    #[arg(long, value_name = "N")]
    pub revisions: Option<u32>,
    /// Whether it runs in a container: auto, on or off [default: as the worker is configured]
    #[arg(long, value_name = "MODE")]
    pub container: Option<ContainerMode>,
    /// The image of that container [default: the worker's]
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// Files of the worktree to keep, by a pattern such as 'target/**/junit.xml'; may be given several times
    #[arg(long, value_name = "PATTERN")]
    pub artifact: Vec<String>,
    /// As --artifact, and an attempt is rejected that leaves none; may be given several times
    #[arg(long, value_name = "PATTERN")]
    pub required_artifact: Vec<String>,
    /// A model that is asked about the commit, after those of the project; may be given several times
    #[arg(long, value_name = "CRITIC")]
    pub critic: Vec<String>,
    /// What it may use, what is told beside the instruction, how it is judged.
    #[command(flatten)]
    pub terms: Terms,
    /// A whole job document in JSON; - for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "project", "repo", "base", "backend", "instruction", "file", "changes", "priority", "env", "branch", "idempotency_key",
        "execution", "role", "slug", "at", "in", "start_by", "require", "after", "after_failure", "base_from", "key", "timeout",
        "attempts", "retry_from", "revisions", "container", "image", "artifact", "required_artifact", "critic", "acceptance",
        "input", "input_file", "input_json", "budget", "execution_budget", "gate", "gates", "check", "no_push", "keep", "command",
    ])]
    pub spec: Option<PathBuf>,
    /// Where the queue is full, try again for so long
    #[arg(long, value_name = "DURATION", value_parser = human::parse)]
    pub wait_for_room: Option<Duration>,
    /// Wait for the end; exit status 0 when the job succeeded, 1 when not
    #[arg(long, short)]
    pub wait: bool,
    /// Write the log while waiting for the end
    #[arg(long)]
    pub follow: bool,
    /// The command to run: a single argument is a line for the shell, several are a program and its arguments
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

fn parse_changes(text: &str) -> Result<Changes, String> {
    match text {
        "required" => Ok(Changes::Required),
        "optional" => Ok(Changes::Optional),
        "none" => Ok(Changes::None),
        _ => Err("there are required, optional and none".to_owned()),
    }
}

fn parse_variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it has no \"=\": write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn parse_moment(text: &str) -> Result<Timestamp, String> {
    let moment: Result<jiff::Timestamp, _> = text.parse();
    moment.map(|moment| Timestamp(moment.as_millisecond())).map_err(|_| "write it like 2026-01-31T08:00:00Z".to_owned())
}

/// When a job must have started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartBy {
    /// By this moment.
    At(Timestamp),
    /// So long from now.
    Within(Duration),
}

fn parse_limit(text: &str) -> Result<StartBy, String> {
    let neither = || format!("{text:?} is neither a moment such as 2026-01-31T08:00:00Z nor a duration such as 90s or 1h30m");
    parse_moment(text).map(StartBy::At).or_else(|_| human::parse(text).map(StartBy::Within)).map_err(|_| neither())
}

fn parse_policy(text: &str) -> Result<AfterFailure, String> {
    match text {
        "cascade" => Ok(AfterFailure::Cascade),
        "ignore" => Ok(AfterFailure::Ignore),
        _ => Err("there are cascade and ignore".to_owned()),
    }
}

/// A name that may have colons itself: the limit is what follows the last one, where that is a number.
fn parse_key(text: &str) -> Result<Concurrency, String> {
    let limited = text.rsplit_once(':').filter(|(_, limit)| !limit.is_empty() && limit.bytes().all(|byte| byte.is_ascii_digit()));
    let (key, limit) = match limited {
        Some((key, limit)) => (key, limit.parse().map_err(|_| format!("{limit} is too high a limit"))?),
        None => (text, 1),
    };
    Ok(Concurrency { key: key.to_owned(), limit })
}

/// The document that the arguments ask for.
pub(super) fn document(args: EnqueueArgs) -> Result<JobSpec, CliError> {
    if args.terms.stdin_uses() + usize::from(args.file.as_deref() == Some(Path::new("-"))) > 1 {
        return Err(CliError::Usage("standard input is there once; give all but one of the - as files".to_owned()));
    }
    let terms = args.terms;
    let instruction = match (args.instruction, args.file) {
        (Some(text), _) => Some(text),
        (None, Some(path)) => Some(text(&path)?),
        (None, None) => None,
    };
    let command = match args.command.len() {
        0 => None,
        1 => args.command.into_iter().next().map(Command::Line),
        _ => Some(Command::Argv(args.command)),
    };
    if instruction.is_none() && command.is_none() {
        return Err(CliError::Usage(
            "there is nothing to do; say it with --instruction TEXT, --file FILE, --spec FILE, or a command after --".to_owned(),
        ));
    }
    if args.project.is_none() && args.repo.is_none() {
        return Err(CliError::Usage(
            "there is no repository to do it in; name one with --repo REPO or --project PROJECT".to_owned(),
        ));
    }
    Ok(JobSpec {
        schema: SCHEMA,
        project: args.project,
        repo: args.repo.map(repository).transpose()?,
        base: args.base,
        backend: args.backend,
        task: Task { instruction, command, inputs: terms.inputs()?, acceptance: terms.acceptance.clone() },
        changes: args.changes.unwrap_or_default(),
        priority: args.priority.unwrap_or_default(),
        idempotency_key: args.idempotency_key,
        run_at: args.at.or_else(|| args.r#in.map(|wait| Timestamp::now() + wait)),
        start_by: args.start_by.map(|limit| match limit {
            StartBy::At(moment) => moment,
            StartBy::Within(wait) => Timestamp::now() + wait,
        }),
        requires: args.require,
        after: args.after,
        after_failure: args.after_failure.unwrap_or_default(),
        base_from: args.base_from,
        concurrency: args.key,
        timeout: args.timeout,
        attempts: args.attempts,
        retry_from: args.retry_from,
        revisions: args.revisions,
        budget: terms.budget.clone(),
        execution: Execution { id: args.execution, role: args.role, slug: args.slug, budget: terms.execution_budget.clone() },
        container: args.container,
        image: args.image,
        artifacts: wishes(args.required_artifact, true).chain(wishes(args.artifact, false)).collect(),
        gates: terms.gates()?,
        checks: terms.checks(),
        critics: args.critic,
        env: args.env.into_iter().collect::<BTreeMap<_, _>>(),
        deliver: Deliver { branch: args.branch, push: !terms.no_push },
        workspace: WorkspacePolicy { keep: terms.keep },
    })
}

fn wishes(patterns: Vec<String>, required: bool) -> impl Iterator<Item = ArtifactWish> {
    patterns.into_iter().map(move |path| ArtifactWish { path, required })
}

/// A repository as a worker will find it, wherever it runs: the path of a directory here becomes absolute. A text that can
/// only be a path must be that of a directory.
fn repository(repo: String) -> Result<String, CliError> {
    let path = Path::new(&repo);
    match path.canonicalize() {
        Ok(full) if path.is_dir() => Ok(full.to_str().map_or(repo.clone(), str::to_owned)),
        _ if repo.contains(':') || path.is_absolute() => Ok(repo),
        _ => Err(CliError::Usage(format!(
            "there is no directory {repo:?}; give the path of a repository, or any URL that git accepts"
        ))),
    }
}

/// A file, or standard input where it is called `-`.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().read_to_end(&mut bytes).map(|_| ())
    } else {
        std::fs::read(path).map(|content| bytes = content)
    };
    read.map(|()| bytes).map_err(|source| CliError::ReadFile { path: path.display().to_string(), source })
}

/// A file of text, or standard input.
pub(super) fn text(path: &Path) -> Result<String, CliError> {
    String::from_utf8(read(path)?).map_err(|error| CliError::ReadFile {
        path: path.display().to_string(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, error.utf8_error()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_a_key_is_what_follows_its_last_colon_where_that_is_a_number() {
        let check = |text: &str, key: &str, limit: u32| {
            assert_eq!(parse_key(text), Ok(Concurrency { key: key.to_owned(), limit }), "{text}");
        };
        check("deploy", "deploy", 1);
        check("deploy:3", "deploy", 3);
        check("db:main", "db:main", 1);
        check("db:main:2", "db:main", 2);
        check("db:", "db:", 1);
        assert!(parse_key("db:99999999999").is_err());
    }

    #[test]
    fn when_a_job_must_have_started_is_a_moment_or_a_duration() {
        assert_eq!(parse_limit("1970-01-01T00:00:05Z"), Ok(StartBy::At(Timestamp(5_000))));
        assert_eq!(parse_limit("1h 30m"), Ok(StartBy::Within(Duration::from_secs(5_400))));
        assert!(parse_limit("tomorrow").is_err());
    }
}
