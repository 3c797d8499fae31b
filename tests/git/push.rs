//! A branch on the remote is made, or left alone.

use std::fs;
use std::path::Path;

use sawmill::git::{Change, Config, GitError, Pushed, SalvagePush};
use sawmill::ids::{AttemptNo, ClaimToken, JobId, WorkerId};
use sawmill::job::{Claim, OutcomeClass};

use super::fixture::{Place, branch, committed, config, id, make_executable, run, write};
use crate::delivery::remote::{find_git, write_program};

#[tokio::test]
async fn a_push_makes_the_branch_once() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    write(worktree.tree(), "new", "new\n");
    let made = committed(&worktree).await;
    let name = branch("sawmill/plan/fixer/new");
    assert_eq!(worktree.push(&made.commit, &name).await.expect("pushed"), Pushed::New);
    assert_eq!(worktree.push(&made.commit, &name).await.expect("pushed"), Pushed::Already);
    let remote = place.remote_dir();
    assert_eq!(id(&remote, "refs/heads/sawmill/plan/fixer/new"), made.commit);
    assert_eq!(
        run(&remote, ["log", "-1", "--format=%an <%ae> %cn %s", made.commit.as_str()]),
        "Sawmill <sawmill@example.com> Sawmill A change"
    );
    assert_eq!(id(&remote, &format!("{}^", made.commit)), *worktree.base());
    run(&remote, ["fsck", "--strict"]);
    run(place.mirror.directory(), ["fsck", "--strict"]);
}

#[tokio::test]
async fn a_branch_that_is_somewhere_else_is_left_alone() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    write(worktree.tree(), "new", "new\n");
    let made = committed(&worktree).await;
    // Even at an ancestor, from which it could be moved forward without force.
    let base = worktree.base().clone();
    run(&place.remote_dir(), ["branch", "taken", base.as_str()]);
    let error = worktree.push(&made.commit, &branch("taken")).await.expect_err("it is taken");
    let GitError::BranchMoved { found, .. } = &error else { panic!("{error}") };
    assert_eq!((found, error.class()), (&base, OutcomeClass::Conflict));
    assert_eq!(id(&place.remote_dir(), "refs/heads/taken"), base);
}

/// As an earlier push has one whose git was ended here, and which the remote goes on with.
#[tokio::test]
async fn a_lock_on_the_remotes_ref_is_waited_for() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    write(worktree.tree(), "new", "new\n");
    let made = committed(&worktree).await;
    let lock = place.remote_dir().join("refs/heads/busy.lock");
    write(&place.remote_dir(), "refs/heads/busy.lock", "");
    let error = worktree.push(&made.commit, &branch("busy")).await.expect_err("it stays locked");
    assert_eq!(error.class(), OutcomeClass::Infrastructure, "it may well be gone later");
    let text = error.to_string().replace(&place.root.path().display().to_string(), "<root>");
    insta::assert_snapshot!(text, @"cannot push busy to <root>/remote.git: <root>/remote.git/./refs/heads/busy.lock is there; if no git runs there that holds it, an earlier push has left it: remove the file on the remote's host");

    // It goes when the second try arrives.
    let hook = place.remote_dir().join("hooks/pre-receive");
    fs::write(&hook, "#!/bin/sh\n[ ! -e tried ] || rm refs/heads/busy.lock\ntouch tried\n").expect("a hook");
    make_executable(&hook);
    assert_eq!(worktree.push(&made.commit, &branch("busy")).await.expect("pushed"), Pushed::New);
    assert!(!lock.exists());
}

/// What an earlier attempt has pushed is taken back by its worker at the two moments between a push and a look, as a git does it that is told
/// when, push by push; and in the middle of one, as a hook of the remote does it. Each push is one of this process, which changes nothing where the
/// branch is not as it is expected, and then one of git.
#[tokio::test]
async fn a_branch_that_is_in_the_way_and_goes_is_made_anew() {
    let scratch = tempfile::tempdir().expect("a directory");
    let (program, moments) = (scratch.path().join("git"), scratch.path().join("moments"));
    let (git, said) = (find_git(), moments.display().to_string());
    let text = format!(
        "#!/bin/sh\ncase \" $* \" in *' push '* | *' receive-pack '*) ;; *) exec {git} \"$@\" ;; esac\nread -r moment branch < {said}\nsed -i 1d {said}\n\
         if [ \"$moment\" = before ]; then rm \"$branch\"; fi\n{git} \"$@\"\nstatus=$?\nif [ \"$moment\" = after ]; then rm \"$branch\"; fi\n\
         exit $status\n",
        git = git.display(),
    );
    write_program(&program, &text);
    let place = Place::with_config(&Config { program, ..config() });
    place.seed(|seed| write(seed, "README.md", "# A project\n"));
    let (remote, name) = (place.remote_dir(), branch("taken"));
    let file = remote.join("refs/heads/taken").display().to_string();
    let says = |pushes: &[&str]| {
        let lines: Vec<String> = pushes.iter().map(|moment| format!("{moment} {file}\n")).collect();
        write(scratch.path(), "moments", lines.concat());
    };
    let worktree = place.worktree("1").await;
    write(worktree.tree(), "new", "new\n");
    let job = JobId::generate();
    let attempt = async |number| {
        write(worktree.tree(), "new", format!("{number}\n"));
        let made = worktree.commit(&format!("A change\n\nSawmill-Job: {job}\nSawmill-Attempt: {number}\n")).await;
        let Ok(Change::Commit(made)) = made else { panic!("no commit: {made:?}") };
        let claim = Claim { job, attempt: AttemptNo(number), token: ClaimToken::generate(), worker: WorkerId::new("w") };
        (made.commit, claim)
    };

    let (first, _) = attempt(1).await;
    says(&["leaves"]);
    worktree.push(&first, &name).await.expect("pushed");
    let check = async |number, moments: &[&str], pushed, when: &str| {
        let (commit, claim) = attempt(number).await;
        says(moments);
        assert_eq!(worktree.deliver(&commit, &name, &claim).await.expect("pushed"), pushed, "{when}");
        assert_eq!(id(&remote, "refs/heads/taken"), commit, "{when}");
    };
    check(2, &["leaves", "after", "leaves"], Pushed::New, "gone before it was looked at").await;
    check(3, &["leaves", "leaves", "before", "leaves", "leaves"], Pushed::Superseded, "gone before it could make way").await;
    write_program(&remote.join("hooks/pre-receive"), "#!/bin/sh\nif [ -e once ]; then rm once refs/heads/taken; fi\n");
    write(&remote, "once", "");
    check(
        4,
        &["leaves", "leaves", "leaves", "leaves", "leaves"],
        Pushed::Superseded,
        "gone while the remote was about to change it",
    )
    .await;
    assert_eq!(fs::read_to_string(&moments).expect("there"), "", "each push was one of those");
}

#[tokio::test]
async fn a_branch_is_taken_back_although_the_mirror_is_gone() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    write(worktree.tree(), "new", "new\n");
    let made = committed(&worktree).await;
    worktree.push(&made.commit, &branch("late")).await.expect("pushed");
    let mirror = place.mirror.directory();
    fs::remove_dir_all(mirror).expect("removed");
    assert!(place.mirror.withdraw(&made.commit, &branch("late")).await.expect("the remote is there"));
    assert!(!place.remote_dir().join("refs/heads/late").exists());
    let beside = fs::read_dir(mirror.parent().expect("it is in a directory")).expect("there").flatten();
    let dirs: Vec<_> = beside.filter(|entry| entry.path().is_dir() && entry.file_name() != ".home").collect();
    assert!(dirs.is_empty(), "nothing is cloned for that: {dirs:?}");
}

#[tokio::test]
async fn of_many_pushes_of_one_branch_one_wins() {
    let place = Place::new();
    let mut pushes = tokio::task::JoinSet::new();
    for number in 0..6 {
        let worktree = place.worktree(&number.to_string()).await;
        write(worktree.tree(), "new", number.to_string());
        let made = committed(&worktree).await;
        pushes.spawn(async move { worktree.push(&made.commit, &branch("race")).await });
    }
    let results = pushes.join_all().await;
    assert_eq!(results.iter().filter(|result| matches!(result, Ok(Pushed::New))).count(), 1, "{results:?}");
    assert_eq!(results.iter().filter(|result| matches!(result, Err(GitError::BranchMoved { .. }))).count(), 5, "{results:?}");
}

#[tokio::test]
async fn a_hook_on_the_remote_has_its_say() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    write(worktree.tree(), "new", "new\n");
    let made = committed(&worktree).await;
    let hook = place.remote_dir().join("hooks/pre-receive");
    fs::write(&hook, "#!/bin/sh\necho 'no pushes on Fridays' >&2\nexit 1\n").expect("a hook");
    make_executable(&hook);
    let error = worktree.push(&made.commit, &branch("b")).await.expect_err("refused");
    assert_eq!(error.class(), OutcomeClass::Invalid);
    let text = error.to_string().replace(&place.root.path().display().to_string(), "<root>");
    insta::assert_snapshot!(text, @"cannot push b to <root>/remote.git: it refuses: [remote rejected] (pre-receive hook declined): no pushes on Fridays");
}

/// Of little this process speaks git's half, of much git does: what the remote's hooks are given is the same, but for the
/// names and values of settings whose number git does not hand on, so that they say nothing.
#[tokio::test]
async fn a_hook_on_the_remote_sees_no_difference_between_little_and_much() {
    let place = Place::new();
    let remote = place.remote_dir();
    let script = r#"#!/bin/sh
name=$(sed 's|.* refs/heads/||')
env | sed -n '/^GIT_CONFIG_\(KEY\|VALUE\)_/d; s/tmp_objdir-incoming-[A-Za-z0-9]*/<new>/; /^\(GIT_\|LC_ALL\|HOME\|PWD\)/p' | sort > "$name.env"
pid=$PPID
until grep -q __tether /proc/$pid/cmdline; do
    tr '\0' ' ' < /proc/$pid/cmdline
    pid=$(sed 's/.*) . //; s/ .*//' /proc/$pid/stat)
done > "$name.started-by"
"#;
    let hook = remote.join("hooks/pre-receive");
    fs::write(&hook, script).expect("a hook");
    make_executable(&hook);
    let seen = |name: &str, what: &str| fs::read_to_string(remote.join(format!("{name}.{what}"))).expect("seen");
    for (name, files) in [("little", 1), ("much", 1_000)] {
        let worktree = place.worktree(name).await;
        for number in 0..files {
            write(worktree.tree(), &format!("new/{number}"), number.to_string());
        }
        let made = committed(&worktree).await;
        assert_eq!(worktree.push(&made.commit, &branch(name)).await.expect("pushed"), Pushed::New);
        assert_eq!(id(&remote, &format!("refs/heads/{name}")), made.commit);
        let of_git = seen(name, "started-by").contains("git push ");
        assert_eq!(of_git, name == "much", "{}", seen(name, "started-by"));
    }
    assert_eq!(seen("little", "env"), seen("much", "env"));
    assert!(seen("little", "env").contains("GIT_QUARANTINE_PATH"));
    run(&remote, ["fsck", "--strict"]);
}

/// A place whose git does not push: what is pushed all the same is by this process.
fn place_without_pushes(scratch: &Path) -> Place {
    let program = scratch.join("git");
    let text = "#!/bin/sh\ncase \" $* \" in *' push '*) echo 'fatal: git itself pushes' >&2; exit 1 ;; esac\nexec {git} \"$@\"\n";
    write_program(&program, &text.replace("{git}", &find_git().display().to_string()));
    Place::with_config(&Config { program, ..config() })
}

#[tokio::test]
async fn whatever_became_of_files_arrives() {
    let scratch = tempfile::tempdir().expect("a directory");
    let place = place_without_pushes(scratch.path());
    place.seed(|seed| {
        for path in ["file", "directory/below", "moved", "script", "same/deep/file"] {
            write(seed, path, format!("{path}\n"));
        }
    });
    let remote = place.remote_dir();
    run(&remote, ["config", "receive.fsckObjects", "true"]);
    let worktree = place.worktree("1").await;
    let at = |path: &str| worktree.tree().join(path);
    fs::remove_file(at("file")).expect("removed");
    write(worktree.tree(), "file/below", "a file became a directory\n");
    fs::remove_dir_all(at("directory")).expect("removed");
    write(worktree.tree(), "directory", "a directory became a file\n");
    fs::create_dir(at("elsewhere")).expect("made");
    fs::rename(at("moved"), at("elsewhere/moved")).expect("moved");
    make_executable(&at("script"));
    std::os::unix::fs::symlink("script", at("link")).expect("a link");
    write(worktree.tree(), "same/deep/new", "");
    let made = committed(&worktree).await;
    assert_eq!(worktree.push(&made.commit, &branch("b")).await.expect("pushed"), Pushed::New);
    let hook = remote.join("hooks/update");
    write_program(&hook, "#!/bin/sh\necho 'not this one' >&2\nexit 1\n");
    let error = worktree.push(&made.commit, &branch("c")).await.expect_err("refused");
    let refused = matches!(&error, GitError::PushRefused { message, .. } if message.contains("not this one"));
    assert!(refused, "{error}");
    fs::remove_file(hook).expect("removed");
    let list = ["ls-tree", "-r", "--full-tree", made.commit.as_str()];
    assert_eq!(run(&remote, list), run(place.mirror.directory(), list));
    run(&remote, ["fsck", "--strict"]);
}

/// What this process sends stands on the parent, and the remote says that it has not.
#[tokio::test]
async fn a_remote_that_has_lost_the_base_gets_it_again() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    write(worktree.tree(), "new", "new\n");
    let made = committed(&worktree).await;
    let remote = place.remote_dir();
    run(&remote, ["update-ref", "-d", "HEAD"]);
    run(&remote, ["-c", "gc.reflogExpire=now", "gc", "--quiet", "--prune=now"]);
    assert_eq!(worktree.push(&made.commit, &branch("b")).await.expect("pushed"), Pushed::New);
    assert_eq!(run(&remote, ["rev-list", "--count", "refs/heads/b"]), "2");
    run(&remote, ["fsck", "--strict"]);
}

/// What the remote has is not sent again: its hooks would take it for news.
#[tokio::test]
async fn what_is_salvaged_twice_is_no_news_to_the_remote() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    write(worktree.tree(), "new", "new\n");
    let news = place.remote_dir().join("news");
    write_program(&place.remote_dir().join("hooks/post-receive"), "#!/bin/sh\ncat >> news\n");
    let (job, attempt) = (JobId::generate(), AttemptNo(1));
    for _ in 0..2 {
        worktree.salvage(job, attempt, SalvagePush::Remote).await.expect("salvaged").expect("there is something");
        assert_eq!(fs::read_to_string(&news).expect("told").lines().count(), 1);
    }
}

#[tokio::test]
async fn a_remote_that_went_away_is_told_from_one_that_refuses() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    write(worktree.tree(), "new", "new\n");
    let made = committed(&worktree).await;
    let remote = place.remote_dir();
    fs::rename(&remote, remote.with_extension("away")).expect("renamed");
    let error = worktree.push(&made.commit, &branch("b")).await.expect_err("gone");
    assert!(matches!(error, GitError::RemoteMissing { .. }), "{error}");
    fs::rename(remote.with_extension("away"), &remote).expect("renamed");
    run(&remote, ["branch", "dir/below", worktree.base().as_str()]);
    let error = worktree.push(&made.commit, &branch("dir")).await.expect_err("a directory is in the way");
    assert!(matches!(error, GitError::PushRefused { .. }), "{error}");
}

#[tokio::test]
async fn a_commit_that_is_not_pushed_is_kept_in_the_mirror() {
    let place = Place::new();
    let worktree = place.worktree("1").await;
    write(worktree.tree(), "new", "new\n");
    let made = committed(&worktree).await;
    worktree.keep(&made.commit, &branch("job/1")).await.expect("kept");
    assert_eq!(id(place.mirror.directory(), "refs/sawmill/kept/job/1"), made.commit);
}
