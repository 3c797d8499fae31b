//! The command line, before anything is done.

use clap::{CommandFactory as _, Parser as _};
use sawmill::cli::Args;

fn refusal(line: &[&str]) -> String {
    let parsed = Args::try_parse_from(std::iter::once(&"sawmill").chain(line));
    parsed.expect_err("the command line is wrong").render().to_string()
}

#[test]
fn the_help_lists_every_command() {
    insta::assert_snapshot!(Args::command().version("0.1.0").term_width(100).render_help(), @r#"
    Turns queued tasks into commits

    Usage: sawmill [OPTIONS] <COMMAND>

    Commands:
      demo         Show everything at once, on a scratch directory with a sample repository
      up           Run the API and one worker in one process
      serve        Run the API
      worker       Run a worker
      enqueue      Ask for a job
      jobs         List jobs, newest first
      job          Look at a job, or change its fate
      logs         Write the log of a job
      completions  Take delivered results from their queue
      workers      Look at the workers, drain and resume them
      pauses       List the credentials that are used up for now, and try them again
      budget       Show what was used of models, and how much may be
      backends     List the backends: what they can do, and which version of each is there
      images       Build the image that jobs run in, and list those that were built
      config       Look at the effective configuration
      doctor       Check what Sawmill needs of this host, and say what to do about what is missing
      migrate      Bring the database to this version's schema
      reconcile    List what daemons that are dead left on this host, and remove it
      disk         Show what a worker takes on this host's disk, and what a further job is expected to
      gc           Make room on this host's disk, as a worker does by itself
      completion   Write the completion script of a shell
      version      Write the version of this build
      help         Print this message or the help of the given subcommand(s)

    Options:
      -h, --help     Print help
      -V, --version  Print version

    Global options:
          --config <FILE>  The configuration [default: SAWMILL_CONFIG, ./workers.toml or
                           /etc/sawmill/workers.toml, the first there is]
          --server <URL>   Ask the server at this address, instead of the configured database [default:
                           SAWMILL_SERVER, where it is set]
          --json           Write JSON instead of tables
      -v, --verbose...     Say more of what is done; twice for even more
    "#);
}

#[test]
fn the_definition_of_the_command_line_is_sound() {
    Args::command().debug_assert();
}

#[test]
fn a_command_line_that_means_nothing_is_explained() {
    let said: Vec<String> = [
        &["jbos"][..],
        &["jobs", "--state", "done"],
        &["job", "show", "7"],
        &["logs", "018f0000-0000-7000-8000-000000000000", "--stream", "stdin"],
        &["enqueue", "--timeout", "soon", "--", "true"],
        &["enqueue", "--spec", "job.json", "--repo", "/r"],
        &["enqueue", "--env", "PATH", "--", "true"],
        &["enqueue", "--start-by", "soon", "--", "true"],
        &["enqueue", "--after", "7", "--", "true"],
        &["enqueue", "--spec", "job.json", "--key", "deploy"],
        &["enqueue", "--spec", "job.json", "--gate", "unit=make test"],
        &["enqueue", "--budget", "dollars=5", "--", "true"],
        &["completions", "claim"],
        &["job", "cancel"],
        &["job", "retry", "--all", "--project", "app"],
    ]
    .into_iter()
    .map(refusal)
    .collect();
    insta::assert_snapshot!(said.join("----\n"), @r#"
    error: unrecognized subcommand 'jbos'

      tip: some similar subcommands exist: 'job', 'jobs'

    Usage: sawmill [OPTIONS] <COMMAND>

    For more information, try '--help'.
    ----
    error: invalid value 'done' for '--state <STATE>': "done" is not a job state (queued, running, succeeded, failed or cancelled)

    For more information, try '--help'.
    ----
    error: invalid value '7' for '<ID>': "7" is not a job id

    For more information, try '--help'.
    ----
    error: invalid value 'stdin' for '--stream <STREAM>': there are stdout, stderr and system

    For more information, try '--help'.
    ----
    error: invalid value 'soon' for '--timeout <DURATION>': "soon" is not a duration such as "90s", "15m" or "1h 30m"

    For more information, try '--help'.
    ----
    error: the argument '--spec <FILE>' cannot be used with '--repo <REPO>'

    Usage: sawmill enqueue --spec <FILE> [-- <CMD>...]

    For more information, try '--help'.
    ----
    error: invalid value 'PATH' for '--env <NAME=VALUE>': it has no "=": write NAME=VALUE

    For more information, try '--help'.
    ----
    error: invalid value 'soon' for '--start-by <TIME|DURATION>': "soon" is neither a moment such as 2026-01-31T08:00:00Z nor a duration such as 90s or 1h30m

    For more information, try '--help'.
    ----
    error: invalid value '7' for '--after <JOB>': "7" is not a job id

    For more information, try '--help'.
    ----
    error: the argument '--spec <FILE>' cannot be used with '--key <NAME[:LIMIT]>'

    Usage: sawmill enqueue --spec <FILE> [-- <CMD>...]

    For more information, try '--help'.
    ----
    error: the argument '--spec <FILE>' cannot be used with '--gate <NAME[:TESTS]=CMD>'

    Usage: sawmill enqueue --spec <FILE> [-- <CMD>...]

    For more information, try '--help'.
    ----
    error: invalid value 'dollars=5' for '--budget <LIMITS>': there is no limit "dollars": there are tokens and cost_usd

    For more information, try '--help'.
    ----
    error: the following required arguments were not provided:
      --consumer <NAME>

    Usage: sawmill completions claim --consumer <NAME>

    For more information, try '--help'.
    ----
    error: the following required arguments were not provided:
      <ID|--execution <ID>|--project <PROJECT>|--state <STATE>|--all>

    Usage: sawmill job cancel <ID|--execution <ID>|--project <PROJECT>|--state <STATE>|--all>

    For more information, try '--help'.
    ----
    error: the argument '--all' cannot be used with '--project <PROJECT>'

    Usage: sawmill job retry <ID|--execution <ID>|--project <PROJECT>|--state <STATE>|--all>

    For more information, try '--help'.
    "#);
}
