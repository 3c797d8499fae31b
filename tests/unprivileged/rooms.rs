//! What the git room promises, promised in a namespace too, and what containers promise, promised to an ordinary user's worker: their tests
//! once more, in a process that may mount there only, and in one of the user nobody.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::NOBODY;
use crate::container;

const TESTS: [&str; 6] = ["git::equality::", "git::commit::", "git::bases::", "git::view::", "git::salvage::", "git::marks::"];

/// What is otherwise there, and has tests of its own.
const DIFFERENT: [&str; 4] = [
    // A directory of the base is not renamed.
    "git::bases::worktrees_at_one_commit_share_a_base_and_see_nothing_of_each_other",
    "git::bases::after_a_start_of_the_host_a_worktree_is_mounted_again_with_all_that_was_written",
    // A worktree that is kept becomes a checkout.
    "git::bases::a_worktree_that_is_kept_stays_what_it_was_with_its_base",
    // There is no other user.
    "git::commit::what_cannot_be_read_is_refused_and_not_taken_for_deleted",
];

#[test]
fn what_the_git_room_promises_holds_in_a_namespace() {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount"]).arg(std::env::current_exe().expect("this program"));
    command.args(TESTS).arg("--test-threads=2");
    command.args(DIFFERENT.iter().flat_map(|name| ["--skip", name]));
    let output = command.output().expect("unshare is installed");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("git::equality::a_commits_tree_is_what_plain_git_makes ... ok"), "{said}");
}

/// Of containers: what a job in one sees, what ends with it, and what it may take.
const OF_CONTAINERS: [&str; 4] = ["container::walls::", "container::ends::", "container::limits::", "container::path::"];

const NOT_AGAIN: [&str; 3] = [
    // The engine sees to that, whoever asks it to.
    "container::limits::a_job_has_as_much_of_the_processors_as_it_may_and_no_more",
    // Only root mounts what the engine sees.
    "container::path::a_worktree_that_is_mounted_after_its_container_was_made_is_seen_in_it",
    // Whole jobs have tests of their own, with a worker that has what an installed one has.
    "container::limits::a_job_that_runs_out_of_memory_is_told_so_and_the_one_beside_it_is_delivered",
];

#[test]
fn what_containers_promise_holds_for_a_worker_that_is_not_root() {
    let root = TempDir::with_prefix("sawmill-nobody-").expect("a directory");
    let (tmp, built) = (root.path().join("tmp"), root.path().join("built"));
    for dir in [root.path(), &tmp, &built] {
        fs::create_dir_all(dir).expect("made");
        chown(dir, Some(NOBODY), Some(NOBODY)).expect("root gives it away");
    }
    let (this, program) = (std::env::current_exe().expect("this program"), root.path().join("tests"));
    fs::hard_link(&this, &program).or_else(|_| fs::copy(&this, &program).map(drop)).expect("linked or copied");
    // The user is to reach the program that is tested where it is: in a view of its own of the directories above.
    let ours = Path::new(env!("CARGO_BIN_EXE_sawmill")).parent().expect("a directory");
    let closed = ours.ancestors().filter(|dir| fs::metadata(dir).is_ok_and(|found| found.mode() & 0o1 == 0)).last();
    let view = |closed: &Path| {
        format!(
            "mount --bind {ours} {built}; mount -t tmpfs -o mode=755 none {closed}; mkdir -p {ours}; mount --bind {built} {ours}; ",
            ours = ours.display(),
            built = built.display(),
            closed = closed.display()
        )
    };
    let socket = fs::metadata(container::image::socket()).expect("the engine's socket");
    let become_nobody = format!("cd /; exec setpriv --reuid={NOBODY} --regid={NOBODY} --groups={} \"$@\"", socket.gid());
    let script = format!("{}{become_nobody}", closed.map_or_else(String::new, view));
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-ec", &script, "sh"]).arg(program);
    command.args(OF_CONTAINERS).arg("--test-threads=2").env("TMPDIR", &tmp).env("HOME", &tmp);
    command.args(NOT_AGAIN.iter().flat_map(|name| ["--skip", name]));
    let output = command.output().expect("unshare is installed");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("container::walls::a_job_sees_its_slot_and_nothing_else_of_the_host ... ok"), "{said}");
}
