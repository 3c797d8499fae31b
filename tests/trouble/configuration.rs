//! What is wrong with a configuration is said with the layer, the key and the next step.

use std::fs;

use super::site::Site;

fn with_file(text: &str) -> String {
    let site = Site::new();
    fs::write(site.path("own.toml"), text).expect("a configuration");
    site.says(&["--config", "own.toml", "config", "show"])
}

fn with_variable(name: &str, value: &str) -> String {
    Site::new().with(name, value).says(&["config", "show"])
}

#[test]
fn a_key_of_a_file_that_is_not_known_is_answered_with_the_nearest() {
    insta::assert_snapshot!(with_file("[worker]\nslot = 3\n"), @r#"
    exit 2
    error: own.toml:2: unknown key worker.slot; did you mean worker.slots?
    "#);
    insta::assert_snapshot!(with_file("[wroker]\nslots = 3\n"), @r#"
    exit 2
    error: own.toml:1: unknown key wroker; did you mean worker?
    "#);
    insta::assert_snapshot!(with_file("[backends.agent]\nkind = \"command\"\ncomand = [\"agent\"]\n"), @r#"
    exit 2
    error: own.toml:3: unknown key backends.agent.comand; did you mean backends.agent.command?
    "#);
    insta::assert_snapshot!(with_file("[projects.app]\nbase = \"main\"\n"), @r#"
    exit 2
    error: own.toml:1: projects.app: missing field `repo`
    "#);
}

#[test]
fn a_variable_that_is_not_known_is_answered_with_the_nearest() {
    insta::assert_snapshot!(with_variable("SAWMILL_WORKER__SLOT", "3"), @r#"
    exit 2
    error: SAWMILL_WORKER__SLOT: unknown key worker.slot; did you mean worker.slots?
    "#);
    insta::assert_snapshot!(with_variable("SAWMILL_QUEU__LEASE", "90s"), @r#"
    exit 2
    error: SAWMILL_QUEU__LEASE: unknown key queu; did you mean queue?
    "#);
}

#[test]
fn a_value_that_cannot_be_is_answered_with_what_would_do() {
    insta::assert_snapshot!(with_variable("SAWMILL_QUEUE__LEASE", "90"), @r#"
    exit 2
    error: SAWMILL_QUEUE__LEASE: queue.lease: "90" is not a duration such as "90s", "15m" or "1h 30m"
    "#);
    insta::assert_snapshot!(with_file("[queue]\nlease = \"90\"\n"), @r#"
    exit 2
    error: own.toml:2: queue.lease: "90" is not a duration such as "90s", "15m" or "1h 30m"
    "#);
    insta::assert_snapshot!(with_file("[queue]\nlease = 90\n"), @r#"
    exit 2
    error: own.toml:2: queue.lease: invalid type: found the number `90`, expected a duration such as "90s", "15m" or "1h 30m"
    "#);
    insta::assert_snapshot!(with_file("[worker]\nslots = \"many\"\n"), @r#"
    exit 2
    error: own.toml:2: worker.slots: invalid type: found string "many", expected a whole number of zero or more
    "#);
    insta::assert_snapshot!(with_file("[worker]\nslots = -1\n"), @r#"
    exit 2
    error: own.toml:2: worker.slots: invalid value of the number `-1`, expected a whole number of zero or more
    "#);
    insta::assert_snapshot!(with_file("[workspace]\nkeep = \"sometimes\"\n"), @r#"
    exit 2
    error: own.toml:2: workspace.keep: "sometimes" is none of never, on_failure, always
    "#);
    insta::assert_snapshot!(with_file("[logs]\ncap = \"much\"\n"), @r#"
    exit 2
    error: own.toml:2: logs.cap: invalid value string "much", expected a size such as "64 KiB" or "2 GiB"
    "#);
    let caches = |caches: &str| with_file(&format!("[projects.app]\nrepo = \"/r\"\ncaches = [{caches}]\n"));
    insta::assert_snapshot!(caches("\"target\", \"/var/cache\""), @r#"
    exit 2
    error: own.toml:3: projects.app.caches.1: "/var/cache" is an absolute path; write a path below the worktree, as "target", or below ~/
    "#);
    insta::assert_snapshot!(caches("\"target\", \"target/debug\""), @r#"
    exit 2
    error: own.toml:3: projects.app.caches: target and target/debug are in one another; list the outer one alone
    "#);
    insta::assert_snapshot!(caches("{ path = \"target\", keys = [\"a\"] }"), @r#"
    exit 2
    error: own.toml:3: unknown key projects.app.caches.0.keys; did you mean projects.app.caches.0.key?
    "#);
    insta::assert_snapshot!(with_file("[checks]\nforbid = [\"*.key\", \"[z-a]*.pem\"]\n"), @r#"
    exit 2
    error: own.toml:2: checks.forbid.1: "[z-a]*.pem" is no pattern: what is in its [] is no class of characters, such as [a-z] or [!0-9]
    "#);
    let gate = "{ name = \"unit\", command = \"make\", reports = [\"out/./*.xml\"] }";
    insta::assert_snapshot!(with_file(&format!("[projects.app]\nrepo = \"/r\"\ngates = [{gate}]\n")), @r#"
    exit 2
    error: own.toml:3: projects.app.gates.0.reports.0: "out/./*.xml" matches no path: paths from the root of the repository have no part "."
    "#);
    let limits = |limits: &str| with_file(&format!("[projects.app]\nrepo = \"/r\"\nlimits = {{ {limits} }}\n"));
    insta::assert_snapshot!(limits("running = 0"), @r#"
    exit 2
    error: own.toml:3: projects.app.limits.running: invalid value of the number `0`, expected a whole number of one or more
    "#);
    insta::assert_snapshot!(limits("weight = 1001"), @r#"
    exit 2
    error: own.toml:3: projects.app.limits.weight: invalid value of the number `1001`, expected a whole number from 1 to 1000
    "#);
    insta::assert_snapshot!(limits("runing = 1"), @r#"
    exit 2
    error: own.toml:3: unknown key projects.app.limits.runing; did you mean projects.app.limits.running?
    "#);
    insta::assert_snapshot!(with_file("[server]\nlisten = \"localhost\"\n"), @r#"
    exit 2
    error: own.toml:2: server.listen: expected an address such as "127.0.0.1:[port]"
    "#);
}

#[test]
fn a_file_that_is_no_toml_is_answered_with_the_place() {
    insta::assert_snapshot!(with_file("[queue\nlease = \"90s\"\n"), @r#"
    exit 2
    error: own.toml: TOML parse error at line 1, column 7
      |
    1 | [queue
      |       ^
    invalid table header
    expected `.`, `]`
    "#);
}

#[test]
fn a_file_that_is_not_there_is_named() {
    insta::assert_snapshot!(Site::new().says(&["--config", "missing.toml", "jobs"]), @r#"
    exit 2
    error: cannot find the configuration file missing.toml; check --config and SAWMILL_CONFIG
    "#);
    insta::assert_snapshot!(with_variable("SAWMILL_CONFIG", "/nowhere/workers.toml"), @r#"
    exit 2
    error: cannot find the configuration file /nowhere/workers.toml; check --config and SAWMILL_CONFIG
    "#);
}

#[test]
fn a_branch_template_that_yields_illegal_names_is_refused_before_any_job() {
    insta::assert_snapshot!(with_file("[workspace]\nbranch = \"work of {slug}\"\n"), @r#"
    exit 2
    error: own.toml:2: workspace.branch: branch template "work of {slug}" yields illegal names: "work of example" is not a branch name: it has a space, a control character or one of ~^:?*[\
    "#);
    insta::assert_snapshot!(with_file("[workspace]\nbranch = \"sawmill/{plan}/{slug}\"\n"), @r#"
    exit 2
    error: own.toml:2: workspace.branch: branch template "sawmill/{plan}/{slug}" has "{plan}"; it may have {execution}, {role}, {slug}, {job} and {project}
    "#);
}

#[test]
fn a_name_that_nothing_has_is_refused_where_it_is_written() {
    insta::assert_snapshot!(with_file("default_backend = \"shall\"\n"), @r#"
    exit 2
    error: own.toml:1: default_backend: there is no backend "shall"; there are: shell
    "#);
    insta::assert_snapshot!(with_file("[projects.app]\nrepo = \"/r\"\nbackend = \"agent\"\n"), @r#"
    exit 2
    error: own.toml:3: projects.app.backend: there is no backend "agent"; there are: shell
    "#);
    insta::assert_snapshot!(with_file("[projects.app]\nrepo = \"/r\"\ncritics = [\"second\"]\n"), @r#"
    exit 2
    error: own.toml:3: projects.app.critics: there is no critic "second", and none at all: add [critics.second]
    "#);
    insta::assert_snapshot!(with_variable("SAWMILL_DEFAULT_CRITICS", "[\"second\"]"), @r#"
    exit 2
    error: SAWMILL_DEFAULT_CRITICS: default_critics: there is no critic "second", and none at all: add [critics.second]
    "#);
}

#[test]
fn a_backend_that_is_not_there_is_not_found() {
    insta::assert_snapshot!(Site::new().says(&["backends", "show", "agent"]), @r#"
    exit 3
    error: there is no backend "agent"; there are shell
    "#);
}

#[test]
fn a_directory_is_no_configuration() {
    insta::assert_snapshot!(Site::new().says(&["--config", ".", "jobs"]), @r#"
    exit 2
    error: the configuration . is not a plain file; check --config and SAWMILL_CONFIG
    "#);
}

#[test]
fn a_backend_without_a_program_is_refused_by_the_worker() {
    let site = Site::new();
    fs::write(site.path("own.toml"), "[backends.agent]\nkind = \"command\"\n").expect("a configuration");
    insta::assert_snapshot!(site.says(&["--config", "own.toml", "worker"]), @r#"
    exit 2
    error: backends.agent: kind "command" needs command = ["program", …]
    "#);
}
