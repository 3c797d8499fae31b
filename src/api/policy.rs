//! What the server knows of the configuration, and how a job document becomes the job that is run.
//!
//! The one rule: nothing is read here. Whoever builds the router (`config` and `cli`) fills in these plain types.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::time::Duration;

use crate::fingerprint;
use crate::git::Remote;
use crate::ids::JobId;
use crate::job::checks::Checks;
use crate::job::spec::Gate;
use crate::job::{BranchTemplate, JobSpec, RetryFrom};
use crate::store::{NewJob, ProjectLimits};

use super::document::nearest;
use super::problem::{Kind, Problem};
use super::wire::Setting;

/// What the rules for accepting jobs depend on.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The projects by name.
    pub projects: BTreeMap<String, Project>,
    /// The names of the backends.
    pub backends: BTreeSet<String>,
    /// The backend of a job that names none.
    pub default_backend: String,
    /// The attempts of a job that names no number.
    pub attempts: u32,
    /// What every result must look like, unless its project says otherwise.
    pub checks: Checks,
    /// The names of the critics.
    pub critics: BTreeSet<String>,
    /// The critics of what belongs to no project, and of projects that do not say.
    pub default_critics: Vec<String>,
    /// How branches are named.
    pub branch: BranchTemplate,
    /// The version of this build, with its git revision.
    pub version: String,
    /// The effective configuration, for `GET /v1/config`: secrets are hidden already.
    pub configuration: Vec<Setting>,
}

/// A repository with its policy.
#[derive(Debug, Clone, Default)]
pub struct Project {
    /// The remote.
    pub repo: String,
    /// The branch, tag or commit to start from; the remote's default branch when absent.
    pub base: Option<String>,
    /// The backend, instead of the default one.
    pub backend: Option<String>,
    /// The timeout, instead of the default one.
    pub timeout: Option<Duration>,
    /// The number of attempts, instead of the default one.
    pub attempts: Option<u32>,
    /// What a further attempt begins with, instead of what the worker has it begin with.
    pub retry_from: Option<RetryFrom>,
    /// The number of revisions, instead of the backend's.
    pub revisions: Option<u32>,
    /// Commands that judge every result, before those of the job.
    pub gates: Vec<Gate>,
    /// The critics of its results, before those of the job, instead of the default ones.
    pub critics: Option<Vec<String>>,
    /// What its results must look like, over what is for all.
    pub checks: Checks,
    /// What its jobs may take of the queue.
    pub limits: ProjectLimits,
}

/// What a job starts from when neither it nor its project says.
const DEFAULT_BASE: &str = "HEAD";

impl Policy {
    /// The job that a document asks for, with project and defaults filled in.
    ///
    /// # Errors
    /// An invalid document, a project or a backend that is not known.
    pub fn accept(&self, sent: JobSpec) -> Result<NewJob, Problem> {
        sent.validate().map_err(|fault| invalid(&fault.to_string()))?;
        let digest = digest(&sent);
        let project = self.project(&sent)?;
        let repo = repository(&sent, project)?;
        repo.parse::<Remote>().map_err(|error| invalid(&format!("repo: {error}")))?;
        let mut spec = sent;
        let base = spec.base.clone().or_else(|| project.and_then(|p| p.base.clone())).unwrap_or_else(|| DEFAULT_BASE.to_owned());
        let backend = spec.backend.take().or_else(|| project.and_then(|p| p.backend.clone()));
        let backend = backend.unwrap_or_else(|| self.default_backend.clone());
        self.check_backend(&backend)?;
        let attempts = spec.attempts.or_else(|| project.and_then(|p| p.attempts)).unwrap_or(self.attempts);
        spec.repo = Some(repo.clone());
        spec.base = Some(base.clone());
        spec.backend = Some(backend);
        spec.attempts = Some(attempts);
        spec.timeout = spec.timeout.or_else(|| project.and_then(|p| p.timeout));
        spec.retry_from = spec.retry_from.or_else(|| project.and_then(|p| p.retry_from));
        spec.revisions = spec.revisions.or_else(|| project.and_then(|p| p.revisions));
        let own_gates = std::mem::take(&mut spec.gates);
        spec.gates = project.map(|p| p.gates.clone()).unwrap_or_default();
        spec.gates.extend(own_gates);
        spec.critics = self.critics_of(project, &spec.critics)?;
        let operators = project.map_or_else(|| self.checks.clone(), |project| project.checks.over(&self.checks));
        spec.checks.insert(0, operators);
        spec.checks.retain(|checks| !checks.is_empty());
        let id = JobId::generate();
        let branch = spec.deliver.branch.clone().unwrap_or_else(|| self.branch.render(id, &spec));
        let weight = project.map_or(1, |project| project.limits.weight());
        let waiting_max = project.and_then(|project| project.limits.waiting).map(NonZeroU32::get);
        Ok(NewJob { id, spec, repo, base, branch, attempts_max: attempts, weight, waiting_max, digest })
    }

    fn project(&self, spec: &JobSpec) -> Result<Option<&Project>, Problem> {
        let Some(name) = &spec.project else { return Ok(None) };
        self.projects.get(name).map(Some).ok_or_else(|| {
            let hint = nearest(name, self.projects.keys().map(String::as_str))
                .unwrap_or_else(|| "none is configured: add [projects.X] to workers.toml, or give repo instead".to_owned());
            Problem::new(Kind::UnknownProject, format!("project: there is no project {name:?}; {hint}")).at("project")
        })
    }

    /// The operator's critics, and then those of the job, each once.
    fn critics_of(&self, project: Option<&Project>, own: &[String]) -> Result<Vec<String>, Problem> {
        let operators = project.and_then(|project| project.critics.as_ref()).unwrap_or(&self.default_critics);
        let mut critics: Vec<String> = Vec::new();
        for name in operators.iter().chain(own) {
            if !self.critics.contains(name) {
                let hint = nearest(name, self.critics.iter().map(String::as_str))
                    .unwrap_or_else(|| "none is configured: add [critics.X] to workers.toml".to_owned());
                return Err(invalid(&format!("critics: there is no critic {name:?}; {hint}")));
            }
            if !critics.contains(name) {
                critics.push(name.clone());
            }
        }
        Ok(critics)
    }

    fn check_backend(&self, name: &str) -> Result<(), Problem> {
        if self.backends.contains(name) {
            return Ok(());
        }
        let hint = nearest(name, self.backends.iter().map(String::as_str))
            .unwrap_or_else(|| "none is configured: add [backends.X] to workers.toml".to_owned());
        Err(Problem::new(Kind::UnknownBackend, format!("backend: there is no backend {name:?}; {hint}")).at("backend"))
    }
}

/// The remote: the project's, or the one that the document names. A document with both is taken when they agree, so that
/// the specification of an earlier job can be sent again as it is.
fn repository(spec: &JobSpec, project: Option<&Project>) -> Result<String, Problem> {
    match (&spec.repo, project) {
        (Some(repo), Some(project)) if *repo != project.repo => {
            Err(invalid("repo: the job names a project and another repo; name one of the two"))
        }
        (_, Some(project)) => Ok(project.repo.clone()),
        (Some(repo), None) => Ok(repo.clone()),
        (None, None) => Err(invalid("repo: a job needs a project or a repo")),
    }
}

/// A problem from a sentence that begins with the path to the field.
fn invalid(sentence: &str) -> Problem {
    let problem = Problem::new(Kind::InvalidDocument, sentence);
    match sentence.split_once(": ") {
        Some((path, _)) => problem.at(path),
        None => problem,
    }
}

/// A fingerprint of a document as it was sent: equal for documents that say the same, in whatever order and spacing. It tells a
/// planner's own mistakes apart: who can enqueue under a key gains nothing by making two documents look alike.
fn digest(spec: &JobSpec) -> String {
    fingerprint::of(serde_json::to_vec(spec).expect("a job document is made of strings, numbers and maps with string keys"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        let command = crate::job::spec::Command::Line("make".to_owned());
        let gate = Gate { name: "unit".to_owned(), command, tests: None, reports: Vec::new(), coverage: None, timeout: None };
        let app = Project {
            repo: "/srv/app.git".to_owned(),
            base: Some("trunk".to_owned()),
            timeout: Some(Duration::from_secs(60)),
            gates: vec![gate],
            limits: ProjectLimits { weight: Some(7), ..ProjectLimits::default() },
            ..Project::default()
        };
        Policy {
            projects: BTreeMap::from([("app".to_owned(), app)]),
            backends: BTreeSet::from(["shell".to_owned()]),
            default_backend: "shell".to_owned(),
            attempts: 3,
            checks: Checks::default(),
            critics: BTreeSet::from(["first".to_owned(), "second".to_owned()]),
            default_critics: vec!["first".to_owned()],
            branch: "sawmill/{execution}/{role}/{slug}".parse().expect("a legal template"),
            version: "0.1.0".to_owned(),
            configuration: Vec::new(),
        }
    }

    fn accept(document: serde_json::Value) -> Result<NewJob, Problem> {
        policy().accept(serde_json::from_value(document).expect("a well-formed document"))
    }

    #[test]
    fn a_job_of_a_project_takes_what_it_does_not_say_from_there_and_then_from_the_defaults() {
        let job = accept(serde_json::json!({
            "project": "app", "task": {"command": "true"}, "gates": [{"name": "own", "command": "true"}], "run_at": 5,
        }))
        .expect("the document is valid");
        assert_eq!((job.repo.as_str(), job.base.as_str(), job.attempts_max), ("/srv/app.git", "trunk", 3));
        assert_eq!(job.spec.timeout, Some(Duration::from_secs(60)));
        assert_eq!(job.spec.gates.iter().map(|gate| gate.name.as_str()).collect::<Vec<_>>(), ["unit", "own"]);
        assert_eq!(job.branch.as_str(), "sawmill/adhoc/job/true");
        assert_eq!(job.weight, 7, "its project's turns are its own");
        let other = accept(serde_json::json!({"repo": "/r", "task": {"command": "true"}})).expect("the document is valid");
        assert_eq!(other.weight, 1);
    }

    #[test]
    fn checks_are_the_operators_before_the_jobs_own_and_none_is_lost() {
        use crate::job::checks::Response;
        let set = |leaks, files| Checks { leaks, files, ..Checks::default() };
        let mut policy = policy();
        policy.checks = set(Some(Response::Reject), None);
        policy.projects.get_mut("app").expect("a project").checks = set(None, Some(3));
        let job = |document| policy.accept(serde_json::from_value(document).expect("well-formed")).expect("valid").spec.checks;
        let task = serde_json::json!({"command": "true"});
        let sent =
            serde_json::json!({"project": "app", "task": task, "checks": [{"leaks": "off", "files": 9}, {"leaks": "off"}]});
        assert_eq!(job(sent), [set(Some(Response::Reject), Some(3)), set(Some(Response::Off), Some(9))]);
        assert_eq!(job(serde_json::json!({"repo": "/r", "task": task})), [set(Some(Response::Reject), None)]);
    }

    #[test]
    fn a_job_adds_critics_to_the_operators_and_takes_none_away() {
        let mut policy = policy();
        let task = serde_json::json!({"command": "true"});
        let critics = |policy: &Policy, document: serde_json::Value| {
            let accepted = policy.accept(serde_json::from_value(document).expect("well-formed"));
            accepted.map(|job| job.spec.critics).map_err(|problem| problem.detail)
        };
        let ok = |names: &[&str]| Ok(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        let own = serde_json::json!({"repo": "/r", "task": task, "critics": ["second", "first"]});
        assert_eq!(critics(&policy, own.clone()), ok(&["first", "second"]));
        let of_project = serde_json::json!({"project": "app", "task": task});
        assert_eq!(critics(&policy, of_project.clone()), ok(&["first"]));
        policy.projects.get_mut("app").expect("a project").critics = Some(Vec::new());
        assert_eq!(critics(&policy, of_project), ok(&[]));
        let why = "critics: there is no critic \"secnd\"; did you mean \"second\"?".to_owned();
        assert_eq!(critics(&policy, serde_json::json!({"repo": "/r", "task": task, "critics": ["secnd"]})), Err(why));
    }

    #[test]
    fn what_cannot_be_accepted_is_answered_with_the_field_and_the_next_step() {
        let check = |document: serde_json::Value, expected: &str| {
            let problem = accept(document).expect_err("the document cannot be accepted");
            assert_eq!(problem.detail, expected);
            assert_eq!(problem.path.as_deref(), expected.split(": ").next());
        };
        let task = serde_json::json!({"command": "true"});
        check(serde_json::json!({"project": "apq", "task": task}), "project: there is no project \"apq\"; did you mean \"app\"?");
        check(
            serde_json::json!({"repo": "/r", "backend": "shall", "task": task}),
            "backend: there is no backend \"shall\"; did you mean \"shell\"?",
        );
        check(
            serde_json::json!({"repo": "/r", "project": "app", "task": task}),
            "repo: the job names a project and another repo; name one of the two",
        );
        check(serde_json::json!({"repo": "/r", "task": {}}), "task: a job needs an instruction or a command");
    }

    #[test]
    fn the_digest_is_of_what_a_document_says_and_not_of_how_it_is_written() {
        let read = |text: &str| digest(&serde_json::from_str::<JobSpec>(text).expect("a well-formed document"));
        let one = read(r#"{"repo": "/r", "task": {"command": "true"}}"#);
        assert_eq!(one, read(r#"{ "task":{"command":"true"}, "priority":"normal", "repo":"/r" }"#));
        assert_ne!(one, read(r#"{"repo": "/r", "task": {"command": "false"}}"#));
    }
}
