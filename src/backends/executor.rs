//! Backends by name: what each is, and the command that it starts for a job.

use std::collections::BTreeMap;
use std::time::Duration;

use super::adapter::{Abilities, Adapter, Agent};
use super::agent::Order;
use super::config::{BackendConfig, Kind, Stall};
use super::prompt::{self, Questions};
use super::protocol::SpecDocument;
use crate::job::Label;

/// When agents are taken for hung: a model may think for long, and says so sooner or later. A command may wait for something that
/// nobody but its job knows of.
const AGENT_STALL: Stall =
    Stall { start: Some(Duration::from_secs(600)), silence: Some(Duration::from_secs(1800)), no_edit: None };

/// The backends of this worker, by name.
#[derive(Debug, Clone)]
pub struct Registry {
    backends: BTreeMap<String, Backend>,
}

impl Registry {
    /// A registry of what is configured.
    ///
    /// # Errors
    /// A backend whose configuration cannot work.
    pub fn new(configured: &BTreeMap<String, BackendConfig>) -> Result<Self, BackendError> {
        let mut backends = BTreeMap::new();
        for (name, config) in configured {
            let backend = Backend { name: name.clone(), config: config.clone() };
            if let Some(why) = backend.flaw() {
                return Err(BackendError::Flaw { backend: name.clone(), why });
            }
            backends.insert(name.clone(), backend);
        }
        Ok(Self { backends })
    }

    /// The names, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.backends.keys().cloned().collect()
    }

    /// All of them, by name.
    pub fn all(&self) -> impl Iterator<Item = &Backend> {
        self.backends.values()
    }

    /// The backend of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Backend> {
        self.backends.get(name)
    }
}

/// One backend.
#[derive(Debug, Clone)]
pub struct Backend {
    pub(super) name: String,
    pub(super) config: BackendConfig,
}

/// Why a backend cannot take a job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// The configuration cannot work.
    #[error("backends.{backend}: {why}")]
    Flaw {
        /// The backend.
        backend: String,
        /// What is wrong.
        why: String,
    },
    /// There is none of that name.
    #[error("there is no backend {name:?}; there are {}", .known.join(", "))]
    Unknown {
        /// The name.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// The job lacks what the backend needs.
    #[error("backend {backend} {why}")]
    Lacks {
        /// The backend.
        backend: String,
        /// What is missing.
        why: String,
    },
}

/// How a backend is started for a job.
#[derive(Debug, Clone, PartialEq)]
pub enum Started {
    /// By this command.
    By(Vec<String>),
    /// By this very program within the slot, which is given this document.
    Inside(Box<Order>),
}

impl Backend {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How long an attempt may take, where the backend has its own idea of that.
    #[must_use]
    pub const fn timeout(&self) -> Option<Duration> {
        self.config.timeout
    }

    /// When it is taken for hung: what is absent is never.
    #[must_use]
    pub fn stall(&self) -> Stall {
        let usual = match self.config.kind.adapter() {
            Adapter::Plain(_) => Stall::NEVER,
            Adapter::Agent(_) => AGENT_STALL,
        };
        self.config.stall.or(usual)
    }

    /// Names of variables of the daemon's environment that it gets beyond those that every job gets.
    #[must_use]
    pub fn env(&self) -> &[String] {
        &self.config.env
    }

    /// The name of what it draws on: what is paused when its usage limit is met.
    #[must_use]
    pub fn credential(&self) -> &str {
        self.config.credential.as_deref().unwrap_or(&self.name)
    }

    /// What it offers to its jobs, beside the labels of the worker.
    #[must_use]
    pub fn capabilities(&self) -> &[Label] {
        &self.config.capabilities
    }

    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.config.kind
    }

    /// What it can do.
    #[must_use]
    pub fn abilities(&self) -> Abilities {
        match self.config.kind.adapter() {
            Adapter::Plain(plain) => plain.abilities(&self.config),
            Adapter::Agent(agent) => agent.abilities(),
        }
    }

    /// Whether it is a coding agent, of which there are events, rather than a program that is started as it is.
    #[must_use]
    pub const fn is_agent(&self) -> bool {
        matches!(self.config.kind.adapter(), Adapter::Agent(_))
    }

    /// How often it may revise its work within one attempt, where the configuration says that of this backend.
    #[must_use]
    pub const fn revisions(&self) -> Option<u32> {
        self.config.revisions
    }

    /// The template of what an agent is told; none for what is no agent.
    #[must_use]
    pub fn template(&self) -> Option<&str> {
        match self.config.kind.adapter() {
            Adapter::Plain(_) => None,
            Adapter::Agent(agent) => Some(self.config.prompt.as_deref().unwrap_or_else(|| agent.template())),
        }
    }

    /// The command that makes an agent say its version, which also has its program read from the disk; none for what is no agent.
    #[must_use]
    pub fn probe(&self) -> Option<Vec<String>> {
        let Adapter::Agent(agent) = self.config.kind.adapter() else { return None };
        let mut argv = self.program(agent);
        argv.extend(agent.probe().iter().map(|argument| (*argument).to_owned()));
        Some(argv)
    }

    /// The command that has what its program loads at each start read from the disk; none where nothing is to be, or it is not known what.
    #[must_use]
    pub fn warmup(&self) -> Option<Vec<String>> {
        let usual = || match self.config.kind.adapter() {
            Adapter::Plain(_) => Vec::new(),
            Adapter::Agent(agent) => agent.warmup(self.program(agent)),
        };
        Some(self.config.warmup.clone().unwrap_or_else(usual)).filter(|argv| !argv.is_empty())
    }

    fn program(&self, agent: &dyn Agent) -> Vec<String> {
        if self.config.command.is_empty() { vec![agent.program().to_owned()] } else { self.config.command.clone() }
    }

    /// The version that the configuration expects of an agent.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.config.version.as_deref()
    }

    /// What is wrong with its configuration.
    fn flaw(&self) -> Option<String> {
        let config = &self.config;
        match config.kind.adapter() {
            Adapter::Plain(plain) => {
                let set = [
                    ("model", config.model.is_some()),
                    ("endpoint", config.endpoint.is_some()),
                    ("prompt", config.prompt.is_some()),
                    ("version", config.version.is_some()),
                    ("questions", config.questions),
                    ("extra_args", !config.extra_args.is_empty()),
                ];
                let idle = set.iter().find(|(_, is_set)| *is_set);
                let idle = idle.map(|(key, _)| format!("{key} is for agents, and kind {:?} is none", config.kind.to_string()));
                plain.flaw(config).map(str::to_owned).or(idle)
            }
            Adapter::Agent(_) if config.revises => {
                Some(format!("revises is for kind \"command\"; every kind {:?} does", config.kind.to_string()))
            }
            Adapter::Agent(_) if config.result.is_some() => {
                Some(format!("result is not for agents: what kind {:?} came to is in its events", config.kind.to_string()))
            }
            Adapter::Agent(agent) => {
                let template = config.prompt.as_deref().and_then(|template| prompt::check(template).err());
                agent.flaw(config).map(str::to_owned).or_else(|| template.map(|error| error.to_string()))
            }
        }
    }

    /// How to start it for the job of this document.
    ///
    /// # Errors
    /// The job lacks what this backend needs.
    pub fn start(&self, document: &SpecDocument) -> Result<Started, BackendError> {
        let lacks = |why: String| BackendError::Lacks { backend: self.name.clone(), why };
        match self.config.kind.adapter() {
            Adapter::Plain(plain) => {
                plain.argv(&self.config, &document.task).map(Started::By).map_err(|why| lacks(why.to_owned()))
            }
            Adapter::Agent(agent) => {
                let template = self.config.prompt.as_deref().unwrap_or_else(|| agent.template());
                let session = document.revision.as_ref().and_then(|revision| revision.session.clone());
                let session = session.filter(|_| agent.abilities().resumes);
                let questions = if self.config.questions { Questions::Asked } else { Questions::Refused };
                let prompt = match (&document.revision, &session) {
                    (None, _) => prompt::fill(template, document, questions),
                    (Some(_), Some(_)) => prompt::revise(document),
                    (Some(_), None) => prompt::begin_anew(template, document, questions),
                };
                let prompt = prompt.map_err(|error| lacks(format!("cannot be told the task: {error}")))?;
                let BackendConfig { kind, command, model, endpoint, extra_args, .. } = self.config.clone();
                Ok(Started::Inside(Box::new(Order {
                    backend: self.name.clone(),
                    kind,
                    command,
                    model,
                    endpoint,
                    extra_args,
                    session,
                    session_usage: document.revision.as_ref().and_then(|revision| revision.session_usage.clone()),
                    questions: self.config.questions,
                    cost_left: document.budget.as_ref().and_then(|budget| budget.cost_usd),
                    prompt,
                })))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::config::ResultFrom;
    use crate::clock::Timestamp;
    use crate::ids::AttemptNo;
    use crate::job::spec::{Command, Task};

    fn backend(kind: Kind) -> Backend {
        let config = BackendConfig { command: vec!["agent".to_owned()], ..BackendConfig::of(kind) };
        Backend { name: "b".to_owned(), config }
    }

    fn document(task: Task) -> SpecDocument {
        let job = "01a1fd92-9aff-72a5-a311-04340974bd74".parse().expect("an id");
        SpecDocument {
            schema: 1,
            job,
            attempt: AttemptNo(1),
            task,
            deadline_ms: Timestamp(0),
            budget: None,
            previous: None,
            revision: None,
            answers: vec![],
        }
    }

    #[test]
    fn the_shell_runs_the_jobs_own_command_and_says_when_there_is_none() {
        let with = Task { command: Some(Command::Line("make".to_owned())), ..Task::default() };
        let argv = ["sh", "-c", "make"].map(str::to_owned).to_vec();
        assert_eq!(backend(Kind::Shell).start(&document(with)), Ok(Started::By(argv)));
        let error = backend(Kind::Shell).start(&document(Task::default())).expect_err("it has no command");
        assert_eq!(error.to_string(), "backend b runs the job's own command, and the job has none: set task.command");
    }

    #[test]
    fn an_agent_is_started_within_the_slot_with_all_that_it_needs() {
        let config = BackendConfig {
            model: Some("m".to_owned()),
            prompt: Some("Please: {{ instruction }}".to_owned()),
            ..BackendConfig::of(Kind::Claude)
        };
        let backend = Backend { name: "b".to_owned(), config };
        let task = Task { instruction: Some("tidy up".to_owned()), ..Task::default() };
        let Ok(Started::Inside(order)) = backend.start(&document(task)) else { panic!("it is an agent") };
        assert_eq!((order.prompt.as_str(), order.model.as_deref()), ("Please: tidy up\n", Some("m")));
        assert_eq!(backend.probe(), Some(vec!["claude".to_owned(), "--version".to_owned()]));
    }

    #[test]
    fn what_is_to_be_warm_is_the_kinds_affair_unless_the_configuration_says() {
        let check = |kind: Kind, warmup: Option<&[&str]>, expected: Option<&str>| {
            let warmup = warmup.map(|argv| argv.iter().map(|word| (*word).to_owned()).collect());
            let config = BackendConfig { command: vec!["/opt/agent".to_owned()], warmup, ..BackendConfig::of(kind) };
            let found = Backend { name: "b".to_owned(), config }.warmup();
            assert_eq!(found.map(|argv| argv.join(" ")).as_deref(), expected, "{kind}");
        };
        check(Kind::Claude, None, Some("/opt/agent --version"));
        check(Kind::Claude, Some(&[]), None);
        check(Kind::Claude, Some(&["/opt/agent", "--help"]), Some("/opt/agent --help"));
        check(Kind::Command, None, None);
        check(Kind::Command, Some(&["/opt/agent", "--help"]), Some("/opt/agent --help"));
    }

    #[test]
    fn a_revision_is_told_in_the_session_of_the_work_where_the_agent_can_resume_it() {
        let rejection = serde_json::json!({ "class": "gate", "message": "gate unit exited with status 1", "tree": null, "gates": [],
            "findings": [], "output": "expected 1, found 2", "summary": null, "usage": null });
        let revision = |session: Option<&str>| {
            let text = serde_json::json!({ "number": 1, "of": 2, "rejection": rejection, "diff": "+one", "session": session,
                "session_usage": null });
            Some(serde_json::from_value::<super::super::Revision>(text).expect("a revision"))
        };
        let told = |kind: Kind, session: Option<&str>| {
            let task = Task { instruction: Some("tidy up".to_owned()), ..Task::default() };
            let document = SpecDocument { revision: revision(session), ..document(task) };
            let Ok(Started::Inside(order)) = backend(kind).start(&document) else { panic!("it is an agent") };
            let says = |text: &str| order.prompt.contains(text);
            assert!(says("gate unit exited with status 1") && says("expected 1, found 2") && says("revision 1 of 2"));
            (order.session.clone(), says("tidy up"), says("+one"))
        };
        assert_eq!(told(Kind::Claude, Some("s")), (Some("s".to_owned()), false, false));
        assert_eq!(told(Kind::Claude, None), (None, true, true));
        assert_eq!(told(Kind::MiniSwe, Some("s")), (None, true, true));
    }

    #[test]
    fn what_cannot_work_is_refused_before_a_job_meets_it() {
        let check = |config: BackendConfig, expected: &str| {
            let error = Registry::new(&[("b".to_owned(), config)].into()).expect_err("it cannot work");
            assert_eq!(error.to_string(), expected);
        };
        check(BackendConfig::of(Kind::Command), "backends.b: kind \"command\" needs command = [\"program\", …]");
        check(BackendConfig::of(Kind::MiniSwe), "backends.b: kind \"miniswe\" needs model = \"provider/name\"");
        let with = |kind| BackendConfig { model: Some("m".to_owned()), ..BackendConfig::of(kind) };
        check(with(Kind::Shell), "backends.b: model is for agents, and kind \"shell\" is none");
        let wrong = BackendConfig { prompt: Some("{% if %}".to_owned()), ..with(Kind::Claude) };
        check(wrong, "backends.b: the prompt template is wrong: syntax error in line 1: unexpected end of block");
        let wrong = BackendConfig { revises: true, ..with(Kind::Claude) };
        check(wrong, "backends.b: revises is for kind \"command\"; every kind \"claude_code\" does");
        let wrong = BackendConfig { result: Some(ResultFrom::ExitCode), ..with(Kind::Claude) };
        check(wrong, "backends.b: result is not for agents: what kind \"claude_code\" came to is in its events");
    }
}
