//! `kind = "shell"`: the job's own command.

use super::adapter::{Abilities, Plain};
use super::config::{BackendConfig, ResultFrom};
use crate::job::spec::Task;

pub(super) struct Shell;

impl Plain for Shell {
    fn abilities(&self, _config: &BackendConfig) -> Abilities {
        Abilities { edits: false, revises: false, resumes: false, reports_usage: false }
    }

    fn result_from(&self) -> ResultFrom {
        ResultFrom::ExitCode
    }

    fn flaw(&self, config: &BackendConfig) -> Option<&'static str> {
        config.revises.then_some("revises is for kind \"command\": the job's own command knows nothing of revisions")
    }

    fn argv(&self, _config: &BackendConfig, task: &Task) -> Result<Vec<String>, &'static str> {
        let command = task.command.as_ref();
        command.map(crate::job::spec::Command::argv).ok_or("runs the job's own command, and the job has none: set task.command")
    }

    fn explain(&self, status: i32) -> Option<&'static str> {
        (status == 127).then_some("a command that it names was not found, and the log says which")
    }
}
