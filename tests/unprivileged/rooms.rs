//! What the git room promises, promised in a namespace too: its tests once more, in a process that may mount there only.

use std::process::Command;

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
