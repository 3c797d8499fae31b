//! Starting the program of a command, and saying in a person's words why that did not work.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use super::super::kernel;
use super::detach::User;

/// The open files of a command.
pub(super) struct Files {
    /// None is `/dev/null`.
    pub(super) input: Option<OwnedFd>,
    pub(super) output: OwnedFd,
    pub(super) errors: OwnedFd,
}

/// Starts it and returns its process id, after the new program has taken over.
///
/// The standard library reports a failed `exec` through a close-on-exec pipe, looks the program up in the `PATH` that
/// is given here, and hands over the environment exactly.
pub(super) fn start(
    argv: &[String],
    env: &BTreeMap<String, String>,
    cwd: &Path,
    files: Files,
    user: Option<User>,
) -> Result<i32, String> {
    let Some((program, arguments)) = argv.split_first().filter(|(program, _)| !program.is_empty()) else {
        return Err("the command is empty".to_owned());
    };
    match fs::metadata(cwd) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Err(format!("the working directory {} is not a directory", cwd.display())),
        Err(error) => return Err(format!("the working directory {} cannot be used: {error}", cwd.display())),
    }
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(env).current_dir(cwd);
    command.stdin(files.input.map_or_else(Stdio::null, Stdio::from)).stdout(files.output).stderr(files.errors);
    kernel::isolate(&mut command, user);
    match command.spawn() {
        Ok(child) => Ok(child.id().cast_signed()),
        Err(error) => Err(explain(program, env, cwd, &error)),
    }
}

fn explain(program: &str, env: &BTreeMap<String, String>, cwd: &Path, error: &io::Error) -> String {
    let is_path = program.contains('/');
    match error.kind() {
        ErrorKind::NotFound if is_path && cwd.join(program).exists() => {
            format!("the interpreter that {program} names was not found")
        }
        ErrorKind::NotFound if is_path => format!("the program {program} was not found"),
        ErrorKind::NotFound => match env.get("PATH") {
            Some(path) => format!("the program {program} was not found in PATH ({path})"),
            None => format!("the program {program} was not found, and the command has no PATH"),
        },
        ErrorKind::PermissionDenied => format!("the program {program} is not executable"),
        ErrorKind::ArgumentListTooLong => "the arguments and the environment are too long together".to_owned(),
        _ => format!("the program {program} cannot be started: {error}"),
    }
}
