//! The terms of a job on the command line: what it may use, what is told beside the instruction, how it is judged, what becomes of it.
//!
//! The one rule: a word that stands for a field is the field's own (`tokens`, `weakened_tests`), and a refusal names those there are.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::de::value::{Error, F64Deserializer, StrDeserializer};
use serde::de::{Deserialize, IntoDeserializer};
use serde_json::Value;

use super::enqueue_args::{read, text};
use super::error::CliError;
use crate::gates;
use crate::job::budget::{Budget, MicroUsd};
use crate::job::checks::{Checks, Response};
use crate::job::counts::TestFormat;
use crate::job::spec::{Command, Gate, Keep};

/// The arguments of `enqueue` that say on which terms.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Terms {
    /// When it counts as done, in words; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub acceptance: Vec<String>,
    /// Something else that the backend's program understands, as text; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub input: Vec<(String, String)>,
    /// As --input, from a text file; - for standard input
    #[arg(long, value_name = "NAME=FILE", value_parser = pair)]
    pub input_file: Vec<(String, String)>,
    /// As --input, in JSON, such as 'depth=3' or 'only=["a", "b"]'
    #[arg(long, value_name = "NAME=JSON", value_parser = json)]
    pub input_json: Vec<(String, Value)>,
    /// What all of its attempts together may use, such as tokens=200000,cost_usd=2.50
    #[arg(long, value_name = "LIMITS", value_parser = budget)]
    pub budget: Option<Budget>,
    /// What all jobs of its --execution together may use before it is not started any more
    #[arg(long, value_name = "LIMITS", value_parser = budget, requires = "execution")]
    pub execution_budget: Option<Budget>,
    /// A command that judges the commit, such as 'lint=make lint'; one that runs tests says how it counts them, as in
    /// 'unit:cargo=cargo test'; may be given several times
    #[arg(long, value_name = "NAME[:TESTS]=CMD", value_parser = gate)]
    pub gate: Vec<Gate>,
    /// A file of gates before those, with all that can be said of them, in the form of .sawmill/gates.toml; - for standard input
    #[arg(long, value_name = "FILE")]
    pub gates: Option<PathBuf>,
    /// What the change must look like, such as 'allow=src/**', files=20 or weakened_tests=reject; may be given several times
    #[arg(long, value_name = "RULE=VALUE", value_parser = check)]
    pub check: Vec<Checked>,
    /// Leave the commit with the worker, and push nothing
    #[arg(long)]
    pub no_push: bool,
    /// When the workspace is kept for a person to look at: never, on_failure or always [default: as the worker is configured]
    #[arg(long, value_name = "WHEN", value_parser = word::<Keep>)]
    pub keep: Option<Keep>,
}

/// One rule of `--check`.
#[derive(Debug, Clone)]
pub enum Checked {
    /// A pattern of what may change.
    Allow(String),
    /// A pattern of what may not.
    Forbid(String),
    /// Any other rule, in a set of its own.
    Rule(Box<Checks>),
}

impl Terms {
    /// How many of the arguments are standard input, which is there once.
    pub(super) fn stdin_uses(&self) -> usize {
        let files = self.input_file.iter().map(|(_, path)| Path::new(path)).chain(self.gates.as_deref());
        files.filter(|path| *path == Path::new("-")).count()
    }

    /// Everything that the backend's program is told beside the instruction.
    pub(super) fn inputs(&self) -> Result<BTreeMap<String, Value>, CliError> {
        let mut inputs: BTreeMap<String, Value> = self.input_json.iter().cloned().collect();
        inputs.extend(self.input.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))));
        for (name, path) in &self.input_file {
            inputs.insert(name.clone(), text(Path::new(path))?.into());
        }
        Ok(inputs)
    }

    /// The gates, those of the file first.
    pub(super) fn gates(&self) -> Result<Vec<Gate>, CliError> {
        let mut all = match &self.gates {
            None => Vec::new(),
            Some(path) => gates::own(&read(path)?).map_err(|why| {
                let path = path.display();
                CliError::Usage(format!("{path} is no list of gates ({why}); write each as [[gates]] with a name and a command"))
            })?,
        };
        all.extend(self.gate.iter().cloned());
        Ok(all)
    }

    /// The one set of checks that the rules make; none without any.
    pub(super) fn checks(&self) -> Vec<Checks> {
        let mut checks = Checks::default();
        for rule in &self.check {
            match rule {
                Checked::Allow(pattern) => checks.allow.push(pattern.clone()),
                Checked::Forbid(pattern) => checks.forbid.push(pattern.clone()),
                // The patterns of a set without any stay, and of two rules alike the last one counts.
                Checked::Rule(rule) => checks = rule.over(&checks),
            }
        }
        if checks.is_default() { Vec::new() } else { vec![checks] }
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a name and a \"=\" are needed before what it stands for".to_owned()),
    }
}

fn json(text: &str) -> Result<(String, Value), String> {
    let (name, value) = pair(text)?;
    let value =
        serde_json::from_str(&value).map_err(|error| format!("{value:?} is no JSON ({error}); for text there is --input"))?;
    Ok((name, value))
}

fn budget(text: &str) -> Result<Budget, String> {
    let mut budget = Budget::default();
    for limit in text.split(',') {
        let (name, value) = pair(limit)?;
        match name.trim() {
            "tokens" => budget.tokens = Some(number(&value)?),
            "cost_usd" => budget.cost_usd = Some(dollars(&value)?),
            other => return Err(format!("there is no limit {other:?}: there are tokens and cost_usd")),
        }
    }
    Ok(budget)
}

fn dollars(text: &str) -> Result<MicroUsd, String> {
    let dollars = F64Deserializer::<Error>::new(number(text)?);
    MicroUsd::deserialize(dollars).map_err(|error| error.to_string())
}

/// The name may have colons itself: what follows the last one is how tests are counted.
fn gate(text: &str) -> Result<Gate, String> {
    let (name, command) = pair(text)?;
    let (name, tests) = match name.rsplit_once(':') {
        Some((name, tests)) => (name.to_owned(), Some(word::<TestFormat>(tests)?)),
        None => (name, None),
    };
    if name.trim().is_empty() || command.trim().is_empty() {
        return Err("a gate has a name and a command, such as 'unit=make test'".to_owned());
    }
    Ok(Gate { name, command: Command::Line(command), tests, reports: Vec::new(), coverage: None, timeout: None })
}

fn check(text: &str) -> Result<Checked, String> {
    let (name, value) = pair(text)?;
    let mut rule = Checks::default();
    let response = || word::<Response>(&value).map(Some);
    match name.as_str() {
        "allow" => return Ok(Checked::Allow(value)),
        "forbid" => return Ok(Checked::Forbid(value)),
        "files" => rule.files = Some(number(&value)?),
        "lines" => rule.lines = Some(number(&value)?),
        "file_size" => rule.file_size = Some(value.parse().map_err(|_| format!("{value:?} is not a size such as 1MiB"))?),
        "conflict_markers" => rule.conflict_markers = response()?,
        "leaks" => rule.leaks = response()?,
        "weakened_tests" => rule.weakened_tests = response()?,
        "lock_files" => rule.lock_files = response()?,
        _ => {
            return Err(format!(
                "there is no rule {name:?}: there are allow, forbid, files, lines, file_size, conflict_markers, leaks, weakened_tests \
                 and lock_files"
            ));
        }
    }
    Ok(Checked::Rule(Box::new(rule)))
}

fn number<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.trim().parse().map_err(|error| format!("{text:?} is no number: {error}"))
}

/// A word of the document's, by its own spelling.
fn word<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, String> {
    let word: StrDeserializer<'_, Error> = text.into_deserializer();
    T::deserialize(word).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::{CommandFactory as _, Parser};
    use serde_json::json;

    use super::super::enqueue_args::{EnqueueArgs, document};
    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: EnqueueArgs,
    }

    fn parse(words: &[&str]) -> Result<EnqueueArgs, String> {
        let line = ["enqueue", "--project", "app", "-i", "x"].iter().chain(words);
        Line::try_parse_from(line).map(|line| line.args).map_err(|error| error.to_string())
    }

    /// The document that a command line asks for.
    fn asks(words: &[&str]) -> Value {
        let spec = document(parse(words).expect("it can be said")).expect("it can be sent");
        spec.validate().expect("it is accepted");
        serde_json::to_value(spec).expect("JSON")
    }

    #[test]
    fn the_terms_of_a_job_are_those_of_its_document() {
        let check = |words: &[&str], field: &str, expected: Value| {
            let found = asks(words);
            assert_eq!(found.pointer(field), Some(&expected), "{words:?}: {found}");
        };
        check(&["--budget", "tokens=200000,cost_usd=2.50"], "/budget", json!({ "tokens": 200_000, "cost_usd": 2.5 }));
        let plan = ["--execution", "plan-7", "--execution-budget", "cost_usd=5"];
        check(&plan, "/execution", json!({ "id": "plan-7", "budget": { "cost_usd": 5.0 } }));
        check(
            &["--acceptance", "it is fast", "--acceptance", "it is tested"],
            "/task/acceptance",
            json!(["it is fast", "it is tested"]),
        );
        let inputs = ["--input", "licence=A=B", "--input", "depth=3", "--input-json", "years=[2025, 2026]"];
        check(&inputs, "/task/inputs", json!({ "licence": "A=B", "depth": "3", "years": [2025, 2026] }));
        let gates = ["--gate", "lint=make lint X=1", "--gate", "unit:cargo=cargo test"];
        let unit = json!({ "name": "unit", "command": "cargo test", "tests": "cargo" });
        check(&gates, "/gates", json!([{ "name": "lint", "command": "make lint X=1" }, unit]));
        let rules =
            ["allow=src/**", "files=20", "allow={a,b}/**", "forbid=x", "file_size=1MiB", "weakened_tests=reject", "leaks=off"];
        let rules: Vec<&str> = rules.iter().flat_map(|rule| ["--check", *rule]).collect();
        check(&rules, "/checks/0/allow", json!(["src/**", "{a,b}/**"]));
        check(&rules, "/checks/0/forbid", json!(["x"]));
        check(&rules, "/checks/0/files", json!(20));
        check(&rules, "/checks/0/file_size", json!("1.0 MiB"));
        check(&rules, "/checks/0/weakened_tests", json!("reject"));
        check(&rules, "/checks/0/leaks", json!("off"));
        check(&["--no-push"], "/deliver/push", json!(false));
        check(&["--keep", "on_failure"], "/workspace/keep", json!("on_failure"));
    }

    #[test]
    fn gates_and_inputs_come_from_files_as_they_are() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str, content: &str| {
            fs::write(dir.path().join(name), content).expect("a file");
            dir.path().join(name).to_str().expect("UTF-8").to_owned()
        };
        let gates = at("gates.toml", "[[gates]]\nname = \"slow\"\ncommand = [\"make\", \"slow\"]\ntimeout = \"1h\"\n");
        let found = asks(&["--gate", "lint=make lint", "--gates", &gates]);
        let slow = json!({ "name": "slow", "command": ["make", "slow"], "timeout": "1h" });
        assert_eq!(found["gates"], json!([slow, { "name": "lint", "command": "make lint" }]));
        let input = format!("header={}", at("header", "one\ntwo\n"));
        assert_eq!(asks(&["--input-file", &input])["task"]["inputs"], json!({ "header": "one\ntwo\n" }));

        let refused =
            |words: &[&str]| document(parse(words).expect("it can be said")).expect_err("it cannot be meant").sentence();
        let wrong = refused(&["--gates", &at("wrong.toml", "[[gates]]\nname = \"a\"\n")]);
        assert!(wrong.contains("wrong.toml is no list of gates (") && wrong.contains("missing field `command`"), "{wrong}");
        assert!(refused(&["--input-file", "x=/nowhere/x"]).starts_with("cannot read /nowhere/x"));
        assert_eq!(
            refused(&["--gates", "-", "--input-file", "x=-"]),
            "standard input is there once; give all but one of the - as files"
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_what_can() {
        let check = |words: &[&str], expected: &str| {
            let said = parse(words).expect_err("it means nothing");
            assert!(said.contains(expected), "{words:?}: {said}");
        };
        check(&["--budget", "token=5"], "there is no limit \"token\": there are tokens and cost_usd");
        check(&["--budget", "tokens=many"], "\"many\" is no number");
        check(&["--budget", "cost_usd=-1"], "-1 is not between 0 and 1000000000 dollars");
        check(&["--execution-budget", "tokens=5"], "--execution <ID>");
        check(&["--gate", "cargo test"], "a name and a \"=\" are needed");
        check(&["--gate", "unit:mocha=npm test"], "unknown variant `mocha`, expected one of `auto`, `cargo`");
        check(&["--gate", "unit="], "a gate has a name and a command");
        check(&["--check", "path=src"], "there is no rule \"path\": there are allow, forbid");
        check(&["--check", "file_size=big"], "\"big\" is not a size such as 1MiB");
        check(&["--check", "leaks=maybe"], "unknown variant `maybe`, expected one of `off`, `flag`, `reject`");
        check(&["--input-json", "a=b"], "\"b\" is no JSON");
        check(&["--keep", "ever"], "unknown variant `ever`, expected one of `never`");
    }

    /// A document says everything itself.
    #[test]
    fn nothing_about_the_job_is_said_beside_a_document() {
        let command = Line::command();
        let of = |id: &str| command.get_arguments().find(|arg| arg.get_id() == id).expect("an argument");
        let refused: Vec<&str> = command.get_arg_conflicts_with(of("spec")).iter().map(|arg| arg.get_id().as_str()).collect();
        let beside = ["spec", "wait_for_room", "wait", "follow", "help"];
        let forgotten = command.get_arguments().map(|arg| arg.get_id().as_str());
        let forgotten: Vec<&str> = forgotten.filter(|id| !refused.contains(id) && !beside.contains(id)).collect();
        assert!(forgotten.is_empty(), "{forgotten:?} can be said beside --spec");
    }
}
