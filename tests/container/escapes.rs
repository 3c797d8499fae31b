//! Escapes, tried by jobs and by whoever swaps files under the host: each has a stated result, and harms neither the worker nor another
//! job, the mirror or the remote. Those that need more room are tried where the wall is proven; `docs/isolation.md` lists all.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use sawmill::git::{Change, GitError};
use sawmill::job::Stream;
use serde_json::json;

use super::LONG;
use crate::delivery::host::{Host, Lodging, On, until};
use crate::delivery::remote::{git, refs, small_remote};
use crate::git::fixture::{Place, committed, list_tree, refused, try_run, write};

async fn host() -> Host {
    Host::new(On::Sqlite, LONG, 1).await.lodge(Lodging::InContainers).await
}

/// The files of what a job delivered to a remote.
fn delivered(remote: &Path, branch: &str) -> Vec<String> {
    let text = git(remote, &["ls-tree", "-r", "--name-only", &format!("refs/heads/{branch}")]);
    text.lines().map(str::to_owned).collect()
}

/// All that git obeys in a repository, rewritten by the job; the job's file is delivered, and nothing that it configured runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_rewrites_its_git_directory_delivers_its_files_and_runs_nothing_on_the_host() {
    let host = host().await;
    let remote = small_remote(host.root(), "remote.git");
    let proof = host.root().join("proof");
    let before = refs(&remote, "refs/");
    let command = format!(
        "cat > .git/evil <<'END'\n#!/bin/sh\ntouch {proof}\nEND\n\
         chmod +x .git/evil; \
         for key in core.fsmonitor core.sshCommand core.editor filter.evil.clean filter.evil.smudge filter.evil.process gpg.program \
            diff.evil.textconv credential.helper uploadpack.packObjectsHook; do git config $key /workspace/tree/.git/evil; done; \
         git config commit.gpgSign true; git config core.worktree /; git config include.path /etc/passwd; \
         git config url.file:///nowhere.insteadOf /; git config core.hooksPath .git; \
         for hook in pre-commit post-commit pre-push reference-transaction post-index-change; do cp .git/evil .git/$hook; done; \
         mkdir -p .git/objects/info; echo /nowhere/objects >> .git/objects/info/alternates; echo /etc >> .git/objects/info/alternates; \
         echo '* filter=evil diff=evil merge=evil' > .gitattributes; echo mine > mine",
        proof = proof.display()
    );
    let worker = host.start("a").await;
    let job = host.enqueue(&json!({ "repo": remote, "task": { "command": command } }));
    let job = host.succeeded(job).await;
    assert!(!proof.exists(), "something of the job's ran on the host");
    let files = delivered(&remote, job.branch.as_str());
    assert!(files.contains(&"mine".to_owned()) && files.contains(&".gitattributes".to_owned()), "{files:?}");
    assert_eq!(refs(&remote, "refs/").len(), before.len() + 1, "one branch more, and nothing else");
    // The mirror is whole, and the next job works from it.
    let mirrors = fs::read_dir(host.state_dir("a").join("mirrors")).expect("mirrors").flatten().map(|entry| entry.path());
    for mirror in mirrors.filter(|path| path.extension().is_some_and(|end| end == "git")) {
        git(&mirror, &["fsck", "--no-dangling"]);
    }
    let next = host.enqueue(&json!({ "repo": remote, "task": { "command": "git status && echo next > next" } }));
    host.succeeded(next).await;
    host.close(vec![worker]).await;
}

/// Links that lead out of the tree are delivered as links, and what they lead to is neither read nor written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_out_of_the_tree_are_delivered_as_links() {
    let host = host().await;
    let remote = small_remote(host.root(), "remote.git");
    let secret = host.root().join("secret");
    fs::create_dir(&secret).expect("a directory");
    fs::write(secret.join("key"), "SECRET").expect("a file");
    let command = format!(
        "ln -s {secret}/key file; ln -s {secret} dir; ln -s ../../../../../../..{secret} up; ln -s /proc/self/environ environ; \
         rm -rf $HOME && ln -s {secret} $HOME; ls -R > listing",
        secret = secret.display()
    );
    let worker = host.start("a").await;
    let job = host.enqueue(&json!({ "repo": remote, "task": { "command": command } }));
    let job = host.succeeded(job).await;
    let branch = format!("refs/heads/{}", job.branch);
    let modes = git(&remote, &["ls-tree", "-r", "--format=%(objectmode) %(path)", &branch]);
    for link in ["file", "dir", "up", "environ"] {
        assert!(modes.contains(&format!("120000 {link}")), "{modes}");
    }
    assert!(!try_run(&remote, ["grep", "-q", "SECRET", &branch]).status.success(), "it was read");
    let command = format!("echo more > more; ln -s {}/key \"$SAWMILL_RESULT\"", secret.display());
    let job = host.enqueue(&json!({ "repo": remote, "task": { "command": command } }));
    let outcome = host.ended(job).await.outcome.expect("an outcome");
    assert!(outcome.message.ends_with("the result is not a plain file"), "{}", outcome.message);
    assert_eq!(fs::read_to_string(secret.join("key")).expect("it is there"), "SECRET");
    assert_eq!(fs::read_dir(&secret).expect("it is there").count(), 1);
    host.close(vec![worker]).await;
}

/// The host commits when no process of the job is left; were one left, this is what it could do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_is_swapped_for_a_link_while_the_host_commits_lets_nothing_in() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    let tree = worktree.tree().to_owned();
    let outside = place.root.path().join("outside");
    fs::create_dir(&outside).expect("a directory");
    for name in 0..20 {
        fs::write(outside.join(name.to_string()), "SECRET").expect("a file");
        write(&tree, &format!("dir/{name}"), "mine");
    }
    symlink(&outside, tree.join("link")).expect("a link");
    let (ended, swaps) = (AtomicBool::new(false), AtomicU32::new(0));
    let mut made = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let turn = |from: &str, to: &str| fs::rename(tree.join(from), tree.join(to)).expect("renamed");
            while !ended.load(Ordering::Relaxed) {
                for (from, to) in [("dir", "aside"), ("link", "dir"), ("dir", "link"), ("aside", "dir")] {
                    turn(from, to);
                }
                swaps.fetch_add(1, Ordering::Relaxed);
            }
        });
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                for _ in 0..30 {
                    match worktree.commit("A change\n").await {
                        Ok(Change::Commit(commit)) => made.push(commit.commit),
                        // What goes while it is read may be refused, or be an error; it is never something else's.
                        Ok(Change::None) | Err(_) => {}
                    }
                }
            });
        });
        ended.store(true, Ordering::Relaxed);
    });
    assert!(swaps.load(Ordering::Relaxed) > 30, "the swapping was too slow to be a trial");
    for commit in &made {
        let found = try_run(place.mirror.directory(), ["grep", "-q", "SECRET", commit.as_str()]);
        assert!(!found.status.success(), "{commit} has what is outside");
    }
    // In peace it is committed as it is.
    let last = committed(&worktree).await;
    let listed = list_tree(place.mirror.directory(), &last.commit);
    assert!(listed.contains(&"100644 dir/0".to_owned()) && listed.contains(&"120000 link".to_owned()), "{listed:?}");
}

/// Only root can make one, and in a container not even root; on the host a job of a root worker can.
#[tokio::test]
async fn device_files_are_never_opened_and_never_delivered() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    let device = |name: &str, kind: SFlag, major, minor| {
        mknod(&worktree.tree().join(name), kind, Mode::S_IRWXU, makedev(major, minor)).expect("root can make one");
    };
    device("null", SFlag::S_IFCHR, 1, 3);
    device("disk", SFlag::S_IFBLK, 7, 200);
    assert_eq!(worktree.commit("x").await.expect("left out, as by git"), Change::None);
    fs::remove_file(worktree.tree().join("README.md")).expect("removed");
    device("README.md", SFlag::S_IFCHR, 1, 5);
    // /dev/zero has no end: who opened it would not come back.
    let (path, why) = refused(&worktree).await;
    assert_eq!((path.as_str(), why.as_str()), ("README.md", "it is neither a file, a link nor a directory"));
}

/// Names that lead upwards cannot be made in a tree; a job can only claim them, in its own index.
#[tokio::test]
async fn names_that_lead_upwards_are_not_delivered() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    let tree = worktree.tree();
    write(tree, "blob", "evil\n");
    for name in ["../up", "a/../../up", ".git/hooks/pre-commit"] {
        let claimed = try_run(tree, ["update-index", "--add", "--cacheinfo", &format!("100644,{},{name}", "a".repeat(40))]);
        assert!(!claimed.status.success(), "git itself takes {name}");
    }
    // What git does not let into the index is written into it by hand; the host has an index of its own.
    let index = fs::read(tree.join(".git/index")).expect("an index");
    fs::write(tree.join(".git/index"), [&index[..], b"../up"].concat()).expect("written");
    let made = committed(&worktree).await;
    let listed = list_tree(place.mirror.directory(), &made.commit);
    assert!(listed.iter().all(|line| !line.contains("..") && !line.contains(".git/")), "{listed:?}");
    let long = tree.join("x".repeat(255));
    fs::create_dir(&long).expect("the longest name");
    fs::write(long.join("y".repeat(255)), "long").expect("a file");
    match worktree.commit("A change\n").await {
        Ok(Change::Commit(_)) | Err(GitError::Refused { .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_of_any_depth_is_refused_and_is_gone_afterwards() {
    let host = Host::new(On::Sqlite, LONG, 1).await.lodge(Lodging::OnTheHost).await;
    let remote = small_remote(host.root(), "remote.git");
    let worker = host.start("a").await;
    let command = "for (1 .. 6000) { mkdir 'd'; chdir 'd' or die } open my $file, '>', 'file' or die; print $file 'deep'";
    let job = host.enqueue(&json!({ "repo": remote, "task": { "command": ["perl", "-e", command] } }));
    let outcome = host.ended(job).await.outcome.expect("an outcome");
    assert!(outcome.message.contains("directories lie in each other 256 deep and more"), "{outcome}");
    let next = host.enqueue(&json!({ "repo": remote, "task": { "command": "echo next > next" } }));
    host.succeeded(next).await;
    let trash = host.state_dir("a").join("trash");
    until("the trash is empty", async || fs::read_dir(&trash).expect("it is there").next().is_none()).await;
    host.close(vec![worker]).await;
}

/// What a job of a worker that is root has mounted is taken off before the place of it is deleted, and nothing behind it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_job_of_root_s_has_mounted_is_not_deleted_with_its_place() {
    let host = Host::new(On::Sqlite, LONG, 1).await.lodge(Lodging::OnTheHost).await;
    let remote = small_remote(host.root(), "remote.git");
    let outside = host.root().join("outside");
    fs::create_dir(&outside).expect("a directory");
    fs::write(outside.join("kept"), "kept").expect("a file");
    let worker = host.start("a").await;
    let mounts = format!("mkdir \"$TMPDIR/m\" && mount --bind {} \"$TMPDIR/m\" && ls \"$TMPDIR/m\"", outside.display());
    let job = host.enqueue(&json!({ "repo": remote, "changes": "none", "task": { "command": mounts } }));
    host.succeeded(job).await;
    assert_eq!(host.log(job, 1, Stream::Stdout).await, "kept\n", "it was mounted");
    let next = host.enqueue(&json!({ "repo": remote, "changes": "none", "task": { "command": "true" } }));
    host.succeeded(next).await;
    let run = host.state_dir("a").join("slots/0/run");
    until("its slot is cleared, of which that goes last", async || !run.exists()).await;
    let trash = host.state_dir("a").join("trash");
    until("the trash is empty", async || fs::read_dir(&trash).expect("it is there").next().is_none()).await;
    assert_eq!(fs::read_to_string(outside.join("kept")).expect("it is there"), "kept");
    let mounted = fs::read_to_string("/proc/self/mounts").expect("the kernel's list");
    assert!(!mounted.contains(host.root().to_str().expect("UTF-8")), "{mounted}");
    host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_thousand_small_files_are_delivered_and_leave_nothing_behind() {
    let host = host().await;
    let remote = small_remote(host.root(), "remote.git");
    let worker = host.start("a").await;
    let command = "mkdir many && cd many && for i in $(seq 50000); do echo $i > $i; done";
    let job = host.enqueue(&json!({ "repo": remote, "task": { "command": command } }));
    let job = host.succeeded(job).await;
    let files = delivered(&remote, job.branch.as_str());
    assert_eq!(files.iter().filter(|file| file.starts_with("many/")).count(), 50_000);
    let next = host.enqueue(&json!({ "repo": remote, "task": { "command": "test ! -e many && echo next > next" } }));
    host.succeeded(next).await;
    host.close(vec![worker]).await;
}

/// With everything public open, what is not is closed: the database's server, its file, the engine, the metadata service.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_reaches_neither_the_database_nor_the_metadata_service() {
    let mut host = host().await;
    host.set("SAWMILL_CONTAINER__NETWORK", "allow-list");
    host.set("SAWMILL_CONTAINER__EGRESS", "[\"*:*\"]");
    let server = std::env::var("SAWMILL_TEST_POSTGRES").expect("make test starts one");
    let server = url::Url::parse(&server).expect("an address");
    let postgres = format!("{}:{}", server.host_str().expect("a host"), server.port().unwrap_or(5432));
    let remote = small_remote(host.root(), "remote.git");
    let ask = |place: &str| {
        let proxy = "$(echo ${http_proxy#http://} | tr : ' ')";
        format!("(printf 'CONNECT {place} HTTP/1.1\\r\\n\\r\\n'; sleep 1) | nc -w 9 {proxy} | head -n 1; ")
    };
    let (host_name, port) = postgres.split_once(':').expect("a port");
    let command = format!(
        "{}{}{}ls {root}/queue.db 2>&1; env | grep -c postgres; nc -w 3 {host_name} {port} < /dev/null && echo reached; echo done > done",
        ask(&postgres),
        ask("169.254.169.254:80"),
        ask("[fd00:ec2::254]:80"),
        root = host.root().display()
    );
    let worker = host.start("a").await;
    let job = host.enqueue(&json!({ "repo": remote, "task": { "command": command } }));
    host.succeeded(job).await;
    let said = host.log(job, 1, Stream::Stdout).await;
    assert_eq!(said.matches("HTTP/1.1 403 Forbidden").count(), 3, "{said}");
    assert!(said.contains("No such file") && !said.contains("reached") && said.lines().any(|line| line == "0"), "{said}");
    let told = host.log(job, 1, Stream::System).await;
    for refused in [postgres.as_str(), "169.254.169.254:80", "[fd00:ec2::254]:80"] {
        assert!(told.contains(&format!("was not let reach {refused}: ")), "{told}");
    }
    host.close(vec![worker]).await;
}
