//! Git: absent, too old, and every one that this host has.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::site::{SEARCH_PATH, Site};
use crate::git::fixture;

#[test]
fn a_host_without_git_is_told_so() {
    let site = Site::new().with("SAWMILL_GIT__PROGRAM", "no-such-git");
    insta::assert_snapshot!(site.says(&["worker"]), @r#"
    exit 2
    error: cannot start no-such-git: it is nowhere in the search path /usr/local/bin:/usr/bin:/bin; install git, or set git.program
    "#);
    let site = Site::new().with("SAWMILL_GIT__PROGRAM", "/nowhere/git");
    insta::assert_snapshot!(site.says(&["worker"]), @r#"
    exit 2
    error: cannot start /nowhere/git: No such file or directory (os error 2); install git, or set git.program
    "#);
    let doctor = site.says(&["doctor"]);
    let git = doctor.lines().find(|line| line.starts_with("git ")).expect("a finding").to_owned();
    assert!(doctor.starts_with("exit 1\n") && git.contains("failed") && git.contains("git.program"), "{doctor}");
}

#[test]
fn a_git_that_is_too_old_is_told_so() {
    let site = Site::new();
    let old = site.path("old-git");
    fs::write(&old, "#!/bin/sh\necho git version 2.20.1\n").expect("a script");
    fixture::make_executable(&old);
    let program = old.display().to_string();
    insta::assert_snapshot!(site.with("SAWMILL_GIT__PROGRAM", &program).says(&["worker"]), @r#"
    exit 2
    error: cannot use [site]/old-git: it reports "git version 2.20.1", and git 2.32 or later is needed
    "#);
}

/// Every git of this host: Debian's own is older than the one that many put beside it, and both must do.
#[test]
fn every_git_of_this_host_delivers() {
    let mut gits = BTreeMap::new();
    for path in SEARCH_PATH.split(':').map(|directory| Path::new(directory).join("git")).filter(|path| path.exists()) {
        let version = Command::new(&path).arg("--version").output().expect("git runs").stdout;
        gits.entry(String::from_utf8_lossy(&version).trim().to_owned()).or_insert(path);
    }
    assert!(!gits.is_empty(), "there is no git in {SEARCH_PATH}");
    for (version, program) in gits {
        let site = Site::new().with("SAWMILL_GIT__PROGRAM", &program.display().to_string());
        let worker = site.worker();
        let fate =
            site.fate(&["--project", "app", "--slug", "more", "--", "echo more >> README.md; git add -A; git status --short"]);
        drop(worker);
        assert!(fate.contains("succeeded: delivered"), "{version}: {fate}");
        let remote = site.path("app.git");
        fixture::run(&remote, ["fsck", "--strict"]);
        let delivered = fixture::show(&remote, "sawmill/adhoc/job/more:README.md");
        assert_eq!(String::from_utf8_lossy(&delivered), "# An application\nmore\n", "{version}");
    }
}
