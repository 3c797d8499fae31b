//! The `sawmill` command.

use std::ffi::OsString;
use std::process::ExitCode;

use sawmill::api::ServeError;
use sawmill::backends::BackendError;
use sawmill::cli::{self, Args, CliError, Command, Exit, Global, HostCommand, Needs};
use sawmill::config::{self, ConfigError, Environment};
use sawmill::daemon::{self, Audience, Composition, VERSION};
use sawmill::git::{self, GitError, Mounting};
use sawmill::janitor::Mode;
use sawmill::sandbox::container::ContainerError;
use sawmill::store::StoreError;
use sawmill::worker::{IdentityError, Shutdown, WorkerError};
use sawmill::workspace::SlotDir;
use sawmill::{attempt, backends, demo, doctor, images, sandbox, upkeep};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    // A supervisor is this executable again. It must stay small: nothing of the daemon may be set up before this line.
    match args.next() {
        Some(first) if first == sandbox::SUBCOMMAND => sandbox::supervise(args),
        Some(first) if first == sandbox::INSIDE_SUBCOMMAND => sandbox::supervise_inside(args),
        Some(first) if first == git::TETHER_SUBCOMMAND => git::tether(args),
        Some(first) if first == backends::AGENT_SUBCOMMAND => backends::run_agent(args, Environment::read().variables()),
        Some(first) if first == attempt::SALVAGE_SUBCOMMAND => in_runtime(salvage(args.next())),
        Some(first) if first == daemon::TRY_SUBCOMMAND => match daemon::try_mounting(args.next()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                cli::talk(&why);
                ExitCode::FAILURE
            }
        },
        _ => whole(),
    }
}

/// All that is no helper of a job's. On the stack of `main` it would be on that of each supervisor too.
#[inline(never)]
fn whole() -> ExitCode {
    let (args, environment) = (cli::parse(VERSION), Environment::read());
    // While this is the only thread: the runtime has more.
    let mounting = make_ready(&args, &environment);
    in_runtime(command(args, environment, mounting))
}

/// Makes the process ready to mount for what works in a state directory. A configuration that cannot be loaded is said by whoever
/// loads it to work by it.
fn make_ready(args: &Args, environment: &Environment) -> Mounting {
    let Command::Host(command) = &args.command else { return Ok(()) };
    let works = matches!(
        command,
        HostCommand::Up | HostCommand::Worker | HostCommand::Doctor | HostCommand::Reconcile { .. } | HostCommand::Gc { .. }
    );
    let loaded = works.then(|| config::load(args.global.config.as_deref(), environment, &[]));
    loaded.and_then(Result::ok).map_or(Ok(()), |loaded| daemon::make_ready(&loaded.config))
}

/// Runs a command to its end.
#[inline(never)]
fn in_runtime(command: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let exit = runtime.block_on(command);
            // What still blocks (a name being looked up, say) does not keep us.
            runtime.shutdown_background();
            exit
        }
        Err(error) => {
            cli::talk(&format!("error: cannot start: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn command(mut args: Args, environment: Environment, mounting: Mounting) -> ExitCode {
    args.global.server = args.global.server.or_else(|| environment.get("SAWMILL_SERVER").map(str::to_owned));
    let audience = match &args.command {
        Command::Host(HostCommand::Up | HostCommand::Serve | HostCommand::Worker) => Audience::Daemon,
        _ => Audience::Command,
    };
    daemon::init(audience, args.global.verbose, environment.get("RUST_LOG"));
    let for_host = environment.clone();
    let router = async move |global: &Global, needs: Needs| {
        let composition = compose(global, environment, Ok(()))?;
        if needs == Needs::Configuration {
            return Ok(composition.configuration_router());
        }
        let store = composition.store().await.map_err(failed)?;
        Ok(composition.router(store, CancellationToken::new()))
    };
    cli::run(args, router, async move |command, global: &Global| host(command, global, for_host, mounting).await).await.into()
}

async fn host(command: HostCommand, global: &Global, environment: Environment, mounting: Mounting) -> Result<Exit, CliError> {
    if let HostCommand::Demo(args) = &command {
        return demo::run(args, environment).await.map_err(failed);
    }
    let out = cli::Output::new(form_of(global));
    if matches!(command, HostCommand::Version) {
        return version(&out);
    }
    let composition = compose(global, environment, mounting)?;
    let shutdown = Shutdown::default();
    let done = match command {
        HostCommand::Up | HostCommand::Serve | HostCommand::Worker => {
            daemon::stop_on_signals(&shutdown).map_err(|error| failed(error.into()))?;
            match command {
                HostCommand::Up => composition.up(shutdown).await,
                HostCommand::Serve => composition.serve(shutdown).await,
                _ => composition.work(shutdown).await,
            }
        }
        HostCommand::Doctor => {
            let stop = doctor::Stop::on_signals().map_err(|error| failed(error.into()))?;
            return match doctor::examine(&composition, &stop).await {
                Some(findings) => doctor::report(&out, &findings),
                None => Ok(Exit::Interrupted),
            };
        }
        HostCommand::Backends(command) => {
            let stop = doctor::Stop::on_signals().map_err(|error| failed(error.into()))?;
            return doctor::backends(&command, &composition, &stop, &out).await.map_err(failed);
        }
        HostCommand::Images(command) => return images::run(&command, composition.config(), &out).await.map_err(failed),
        HostCommand::Reconcile { apply } => {
            let mode = if apply { Mode::Apply } else { Mode::List };
            return upkeep::reconcile(&composition, mode, &out).await.map_err(failed);
        }
        HostCommand::Disk => return upkeep::disk(&composition, &out).await.map_err(failed),
        HostCommand::Gc { dry_run } => {
            let mode = if dry_run { Mode::List } else { Mode::Apply };
            return upkeep::gc(&composition, mode, &out).await.map_err(failed);
        }
        HostCommand::Migrate => migrate(&composition, &out).await,
        HostCommand::Demo(_) | HostCommand::Version => Ok(()),
    };
    done.map(|()| Exit::Done).map_err(failed)
}

fn version(out: &cli::Output) -> Result<Exit, CliError> {
    if out.is_json() {
        out.document(&serde_json::json!({ "version": VERSION }))?;
    } else {
        out.line(&format!("sawmill {VERSION}"))?;
    }
    Ok(Exit::Done)
}

async fn migrate(composition: &Composition, out: &cli::Output) -> anyhow::Result<()> {
    let store = sawmill::store::Store::connect_unmigrated(&composition.config().queue).await?;
    let migrated = store.migrate().await?;
    match migrated.applied.as_slice() {
        applied if out.is_json() => {
            out.document(&serde_json::json!({ "database": store.label(), "schema": migrated.version, "applied": applied }))?
        }
        [] => out.line(&format!("{} is at schema {} already", store.label(), migrated.version))?,
        applied => {
            out.line(&format!("{} is now at schema {}: applied {}", store.label(), migrated.version, applied.join(", ")))?
        }
    }
    store.close().await;
    Ok(())
}

fn compose(global: &Global, environment: Environment, mounting: Mounting) -> Result<Composition, CliError> {
    let loaded = config::load(global.config.as_deref(), &environment, &[]).map_err(|error| failed(error.into()))?;
    Ok(Composition::new(loaded, environment, mounting))
}

/// The last act of a supervisor whose daemon is gone.
async fn salvage(slot: Option<OsString>) -> ExitCode {
    let Some(slot) = slot else { return ExitCode::from(2) };
    let salvaged = async { attempt::salvage_orphan(&SlotDir::at(slot.into()), &daemon::executable()?).await };
    match salvaged.await {
        Ok(found) => {
            cli::talk(&found.map_or_else(|| "nothing to salvage".to_owned(), |commit| format!("salvaged {commit}")));
            ExitCode::SUCCESS
        }
        Err(error) => {
            cli::talk(&format!("error: cannot salvage: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// The failure of a command of this host, with the exit status that goes with it.
fn failed(source: anyhow::Error) -> CliError {
    if source.chain().any(|error| matches!(error.downcast_ref(), Some(CliError::ReaderGone))) {
        return CliError::ReaderGone;
    }
    let exit = source.chain().find_map(exit_of).unwrap_or(Exit::Failed);
    CliError::Host { exit, source }
}

fn exit_of(error: &(dyn std::error::Error + 'static)) -> Option<Exit> {
    if let Some(error) = error.downcast_ref::<BackendError>() {
        return Some(if matches!(error, BackendError::Unknown { .. }) { Exit::NotFound } else { Exit::Usage });
    }
    if error.is::<ConfigError>() {
        return Some(Exit::Usage);
    }
    if let Some(error) = error.downcast_ref::<ContainerError>() {
        return matches!(error, ContainerError::Unreachable { .. }).then_some(Exit::Unreachable);
    }
    if let Some(error) = error.downcast_ref::<WorkerError>() {
        return match error {
            WorkerError::Identity(IdentityError::InUse(_)) | WorkerError::NameInUse { .. } => Some(Exit::Conflict),
            WorkerError::Git(error) => exit_of(error),
            WorkerError::Store(error) => exit_of(error),
            _ => None,
        };
    }
    match (error.downcast_ref::<StoreError>(), error.downcast_ref::<GitError>(), error.downcast_ref::<ServeError>()) {
        (Some(StoreError::BadUrl { .. }), _, _) => Some(Exit::Usage),
        (Some(_), _, _) => Some(Exit::Unreachable),
        (_, Some(GitError::Program { .. } | GitError::Version { .. } | GitError::Identity(_)), _) => Some(Exit::Usage),
        (_, _, Some(ServeError::Listen { source, .. })) if source.kind() == std::io::ErrorKind::AddrInUse => Some(Exit::Conflict),
        (_, _, Some(ServeError::Listen { .. } | ServeError::NotLoopback(_))) => Some(Exit::Usage),
        _ => None,
    }
}

const fn form_of(global: &Global) -> cli::Form {
    if global.json { cli::Form::Json } else { cli::Form::Text }
}
