//! The command line: what can be said, before anything is done.
//!
//! The one rule: [`HostCommand`] has what works on this host and its database, [`ClientCommand`] what any client of the API
//! could do. Where a client command goes (a server, or the router in this process) is decided once, in [`super::run`].

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use super::completions_args::CompletionsCommand;
use super::enqueue_args::EnqueueArgs;
use crate::clock::human;
use crate::ids::{JobId, WorkerId};
use crate::job::spec::ContainerMode;
use crate::job::{Hold, JobState, Stream};

/// Turns queued tasks into commits
#[derive(Debug, Parser)]
#[command(name = "sawmill", max_term_width = 110)]
pub struct Args {
    /// What holds for every command.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// What holds for every command.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Global {
    /// The configuration [default: SAWMILL_CONFIG, ./workers.toml or /etc/sawmill/workers.toml, the first there is]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub config: Option<PathBuf>,
    /// Ask the server at this address, instead of the configured database [default: SAWMILL_SERVER, where it is set]
    #[arg(long, global = true, value_name = "URL", help_heading = "Global options")]
    pub server: Option<String>,
    /// Write JSON instead of tables
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// Say more of what is done; twice for even more
    #[arg(long, short, global = true, action = clap::ArgAction::Count, help_heading = "Global options")]
    pub verbose: u8,
}

/// All commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Those that work on this host.
    #[command(flatten)]
    Host(HostCommand),
    /// Those that are clients of the API.
    #[command(flatten)]
    Client(ClientCommand),
    /// Write the completion script of a shell
    #[command(display_order = 90)]
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Commands that work on this host and its database; they are carried out by whoever calls [`super::run`].
#[derive(Debug, Clone, Subcommand)]
pub enum HostCommand {
    /// Show everything at once, on a scratch directory with a sample repository
    #[command(display_order = 1)]
    Demo(DemoArgs),
    /// Run the API and one worker in one process
    #[command(display_order = 2)]
    Up,
    /// Run the API
    #[command(display_order = 3)]
    Serve,
    /// Run a worker
    #[command(display_order = 4)]
    Worker,
    /// Check what Sawmill needs of this host, and say what to do about what is missing
    #[command(display_order = 60)]
    Doctor,
    /// Build the image that jobs run in, and list those that were built
    #[command(display_order = 58, subcommand)]
    Images(ImagesCommand),
    /// List the backends: what they can do, and which version of each is there
    #[command(display_order = 57, subcommand)]
    Backends(BackendsCommand),
    /// List what daemons that are dead left on this host, and remove it
    #[command(display_order = 62)]
    Reconcile {
        /// Remove what nobody needs and whose owner is proven dead
        #[arg(long)]
        apply: bool,
    },
    /// Show what a worker takes on this host's disk, and what a further job is expected to
    #[command(display_order = 63)]
    Disk,
    /// Make room on this host's disk, as a worker does by itself
    #[command(display_order = 64)]
    Gc {
        /// Only say what would go and what stays, and why
        #[arg(long)]
        dry_run: bool,
    },
    /// Bring the database to this version's schema
    #[command(display_order = 61)]
    Migrate,
    /// Write the version of this build
    #[command(display_order = 91)]
    Version,
}

/// The arguments of `demo`.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// Work on a copy of this repository instead of the sample
    #[arg(long, value_name = "PATH")]
    pub repo: Option<PathBuf>,
    /// How many jobs
    #[arg(long, value_name = "N")]
    pub jobs: Option<u32>,
    /// Whether they run in containers: auto, on or off
    #[arg(long, value_name = "MODE", default_value = "off")]
    pub container: ContainerMode,
    /// Keep the scratch directory
    #[arg(long)]
    pub keep: bool,
}

/// Commands that work on images.
#[derive(Debug, Clone, Subcommand)]
pub enum ImagesCommand {
    /// Build the image of jobs, unless it is there
    Build {
        /// What it is built on: an image of the engine's or of a registry's [default: debian:trixie-slim or, where that cannot be had,
        /// a base made of Debian packages]
        #[arg(long, value_name = "IMAGE")]
        base: Option<String>,
    },
    /// List the images that were built, and which of them are stale
    List,
}

/// The commands of `backends`.
#[derive(Debug, Clone, Subcommand)]
pub enum BackendsCommand {
    /// List those that are configured
    List,
    /// Show one, with the template of what it is told
    Show {
        /// Its name
        name: String,
    },
}

/// Commands that are clients of the API.
#[derive(Debug, Clone, Subcommand)]
pub enum ClientCommand {
    /// Ask for a job
    #[command(display_order = 10)]
    Enqueue(Box<EnqueueArgs>),
    /// List jobs, newest first
    #[command(display_order = 11)]
    Jobs(JobsArgs),
    /// Look at a job, or change its fate
    #[command(display_order = 12, subcommand)]
    Job(JobCommand),
    /// Write the log of a job
    #[command(display_order = 13)]
    Logs(LogsArgs),
    /// Take delivered results from their queue
    #[command(display_order = 14, subcommand)]
    Completions(CompletionsCommand),
    /// Look at the workers, drain and resume them
    #[command(display_order = 15, subcommand)]
    Workers(WorkersCommand),
    /// Show what was used of models, and how much may be
    #[command(display_order = 17)]
    Budget(BudgetArgs),
    /// List the credentials that are used up for now, and try them again
    #[command(display_order = 16)]
    Pauses {
        /// What to do; they are listed where nothing is said
        #[command(subcommand)]
        command: Option<PausesCommand>,
    },
    /// Look at the effective configuration
    #[command(display_order = 59, subcommand)]
    Config(ConfigCommand),
}

/// The arguments of `jobs`.
#[derive(Debug, Clone, clap::Args)]
pub struct JobsArgs {
    /// Only those in this state: queued, running, succeeded, failed or cancelled
    #[arg(long, value_name = "STATE")]
    pub state: Option<JobState>,
    /// Only those that wait for this: scheduled, backoff, dependency, key, project, budget or answer
    #[arg(long, value_name = "WHAT")]
    pub held: Option<Hold>,
    /// Only those of this project
    #[arg(long, value_name = "PROJECT")]
    pub project: Option<String>,
    /// Only those of this execution
    #[arg(long, value_name = "ID")]
    pub execution: Option<String>,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub limit: u32,
}

/// The commands of `job`.
#[derive(Debug, Clone, Subcommand)]
pub enum JobCommand {
    /// Show all that is on record of a job
    Show {
        /// The job
        id: JobId,
    },
    /// Say why a job does not run, for each worker, and what would change that
    Explain {
        /// The job
        id: JobId,
    },
    /// Ask for the end of jobs
    Cancel {
        /// Which
        #[command(flatten)]
        jobs: Selecting,
        /// Only say which jobs it would be
        #[arg(long)]
        dry_run: bool,
        /// Why, for people
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Give failed or cancelled jobs another round of attempts
    Retry {
        /// Which
        #[command(flatten)]
        jobs: Selecting,
        /// Only say which jobs it would be
        #[arg(long)]
        dry_run: bool,
    },
    /// Put jobs back into the queue at no charge: those that run, and those that wait for a retry
    Requeue {
        /// Which
        #[command(flatten)]
        jobs: Selecting,
        /// Only say which jobs it would be
        #[arg(long)]
        dry_run: bool,
        /// Why, for people
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Answer the question that a job waits for, which is then queued again
    Answer {
        /// The job
        id: JobId,
        /// The answer
        text: String,
    },
    /// Give a running job more time, or less
    Deadline {
        /// The job
        id: JobId,
        /// It must be over so long from now
        #[arg(long = "in", value_name = "DURATION", value_parser = human::parse)]
        within: Duration,
    },
    /// Wait for the end of a job; exit status 0 when it succeeded, 1 when not
    Wait {
        /// The job
        id: JobId,
        /// Give up after this long
        #[arg(long, value_name = "DURATION", value_parser = human::parse)]
        timeout: Option<Duration>,
    },
    /// Show what a job changed
    Diff {
        /// The job
        id: JobId,
    },
    /// List the files that are kept of a job, or write one of them
    Artifacts(ArtifactsArgs),
    /// List the attempts at a job with their stages
    Attempts {
        /// The job
        id: JobId,
    },
}

/// The arguments of `job artifacts`.
#[derive(Debug, Clone, clap::Args)]
pub struct ArtifactsArgs {
    /// The job
    pub id: JobId,
    /// Write this one
    pub name: Option<String>,
    /// The attempt [default: all of them, and the latest that has it for one file]
    #[arg(long, value_name = "N")]
    pub attempt: Option<u32>,
    /// Write it to this file instead of standard output
    #[arg(long, short, value_name = "FILE", requires = "name")]
    pub output: Option<PathBuf>,
}

/// Which jobs a change is for.
#[derive(Debug, Clone, clap::Args)]
#[group(required = true, multiple = true, args = ["ids", "execution", "project", "state", "all"])]
pub struct Selecting {
    /// The jobs
    #[arg(value_name = "ID", conflicts_with_all = ["execution", "project", "state", "all"])]
    pub ids: Vec<JobId>,
    /// All of this execution that it can be done to
    #[arg(long, value_name = "ID")]
    pub execution: Option<String>,
    /// All of this project
    #[arg(long, value_name = "PROJECT")]
    pub project: Option<String>,
    /// All in this state
    #[arg(long, value_name = "STATE")]
    pub state: Option<JobState>,
    /// All there are
    #[arg(long, conflicts_with_all = ["execution", "project", "state"])]
    pub all: bool,
}

/// The arguments of `logs`.
#[derive(Debug, Clone, clap::Args)]
pub struct LogsArgs {
    /// The job
    pub id: JobId,
    /// Go on until the job has ended
    #[arg(long, short)]
    pub follow: bool,
    /// The attempt [default: the latest]
    #[arg(long, value_name = "N")]
    pub attempt: Option<u32>,
    /// Only what came from there: stdout, stderr or system
    #[arg(long, value_name = "STREAM", value_parser = parse_stream)]
    pub stream: Option<Stream>,
    /// Begin at this offset, in bytes
    #[arg(long, value_name = "OFFSET", default_value_t = 0)]
    pub since: u64,
    /// Put the time before every line
    #[arg(long, short)]
    pub timestamps: bool,
}

fn parse_stream(text: &str) -> Result<Stream, String> {
    let known = Stream::ALL.into_iter().find(|stream| stream.as_str() == text);
    known.ok_or_else(|| "there are stdout, stderr and system".to_owned())
}

/// The commands of `workers`.
#[derive(Debug, Clone, Subcommand)]
pub enum WorkersCommand {
    /// List the workers that have ever reported
    List,
    /// Show all that is on record of a worker
    Show {
        /// The worker
        #[arg(value_parser = worker_id)]
        id: WorkerId,
    },
    /// Let a worker finish its jobs, take no more, and leave
    Drain {
        /// The worker
        #[arg(value_parser = worker_id)]
        id: WorkerId,
        /// Why, for people
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// Wait until it has no job left
        #[arg(long)]
        wait: bool,
    },
    /// Let a drained worker take jobs again
    Resume {
        /// The worker
        #[arg(value_parser = worker_id)]
        id: WorkerId,
    },
}

fn worker_id(text: &str) -> Result<WorkerId, std::convert::Infallible> {
    Ok(WorkerId::new(text))
}

/// The arguments of `budget`: whose, or every project's.
#[derive(Debug, Clone, clap::Args)]
pub struct BudgetArgs {
    /// Of this job, with all others that concern it
    #[arg(long, value_name = "ID", conflicts_with = "execution")]
    pub job: Option<JobId>,
    /// Of this execution
    #[arg(long, value_name = "ID")]
    pub execution: Option<String>,
}

/// The commands of `pauses`.
#[derive(Debug, Clone, Subcommand)]
pub enum PausesCommand {
    /// List the credentials that are paused
    List,
    /// Try a credential again, and start what waits for it
    Lift {
        /// The credential
        credential: String,
    },
}

/// The commands of `config`.
#[derive(Debug, Clone, Subcommand)]
pub enum ConfigCommand {
    /// Show every key with its value, secrets hidden
    Show {
        /// Also the layer that each value came from
        #[arg(long)]
        origin: bool,
    },
}
