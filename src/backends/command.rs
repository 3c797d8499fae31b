//! `kind = "command"`: the operator's program, which speaks the executor protocol.

use super::adapter::{Abilities, Plain};
use super::config::{BackendConfig, ResultFrom};
use crate::job::spec::Task;

pub(super) struct Command;

impl Plain for Command {
    fn abilities(&self, config: &BackendConfig) -> Abilities {
        Abilities { edits: true, revises: config.revises, resumes: false, reports_usage: true }
    }

    fn result_from(&self) -> ResultFrom {
        ResultFrom::File
    }

    fn flaw(&self, config: &BackendConfig) -> Option<&'static str> {
        let none = config.command.first().is_none_or(String::is_empty);
        none.then_some("kind \"command\" needs command = [\"program\", …]")
    }

    fn argv(&self, config: &BackendConfig, _task: &Task) -> Result<Vec<String>, &'static str> {
        Ok(config.command.clone())
    }

    fn explain(&self, _status: i32) -> Option<&'static str> {
        None
    }
}
