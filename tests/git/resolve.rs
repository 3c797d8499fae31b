//! Finding the base commit, and what is said when there is none.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use sawmill::git::{Git, GitError, Remote};
use sawmill::job::OutcomeClass;

use super::fixture::{Place, config, id, run, sawmill, write};

#[tokio::test]
async fn a_branch_a_tag_a_commit_and_the_default_branch_are_found() {
    let place = Place::new();
    let first = id(&place.seed_dir(), "HEAD");
    run(&place.seed_dir(), ["tag", "-a", "v1", "-m", "one"]);
    run(&place.seed_dir(), ["push", "--quiet", place.remote_dir().to_str().expect("UTF-8"), "v1"]);
    let second = place.seed(|seed| write(seed, "a", "a"));
    let mirror = &place.mirror;
    for (base, expected) in [
        ("main", &second),
        ("", &second),
        ("HEAD", &second),
        ("refs/heads/main", &second),
        ("v1", &first),
        ("refs/tags/v1", &first),
        (first.as_str(), &first),
        (&first.as_str()[..10], &first),
    ] {
        assert_eq!(mirror.resolve(base).await.expect(base), *expected, "{base}");
    }
}

#[tokio::test]
async fn a_ref_is_always_fresh_and_a_known_commit_needs_no_remote() {
    let place = Place::new();
    let first = place.mirror.resolve("main").await.expect("main");
    let second = place.seed(|seed| write(seed, "b", "b"));
    assert_eq!(place.mirror.resolve("main").await.expect("main moved"), second);
    fs::rename(place.remote_dir(), place.root.path().join("away.git")).expect("renamed");
    assert_eq!(place.mirror.resolve(first.as_str()).await.expect("it is in the mirror"), first);
    assert!(matches!(place.mirror.resolve("main").await, Err(GitError::RemoteMissing { .. })));
}

#[tokio::test]
async fn a_commit_that_only_a_new_branch_has_is_fetched_by_its_id() {
    let place = Place::new();
    place.mirror.resolve("main").await.expect("main");
    write(&place.seed_dir(), "c", "c");
    run(&place.seed_dir(), ["add", "-A"]);
    run(&place.seed_dir(), ["commit", "--quiet", "-m", "side"]);
    run(
        &place.seed_dir(),
        ["push", "--quiet", place.remote_dir().to_str().expect("UTF-8"), "HEAD:refs/heads/main/../side"]
            .map(|a| a.replace("main/../", "")),
    );
    let side = id(&place.seed_dir(), "HEAD");
    assert_eq!(place.mirror.resolve(side.as_str()).await.expect("fetched"), side);
}

#[tokio::test]
async fn a_branch_that_takes_the_place_of_a_directory_of_branches_is_fetched() {
    let place = Place::new();
    let url = place.remote_dir().display().to_string();
    run(&place.seed_dir(), ["push", "--quiet", &url, "HEAD:refs/heads/x/y"]);
    place.mirror.resolve("x/y").await.expect("cloned");
    run(&place.seed_dir(), ["push", "--quiet", &url, ":refs/heads/x/y"]);
    run(&place.seed_dir(), ["commit", "--quiet", "--allow-empty", "-m", "x"]);
    run(&place.seed_dir(), ["push", "--quiet", &url, "HEAD:refs/heads/x"]);
    assert_eq!(place.mirror.resolve("x").await.expect("fetched"), id(&place.seed_dir(), "HEAD"));
}

#[tokio::test]
async fn a_base_that_is_not_there_is_named_with_its_neighbours() {
    let place = Place::new();
    let message = |error: GitError| error.to_string().replace(&place.root.path().display().to_string(), "<root>");
    let check = async |base: &str| {
        let error = place.mirror.resolve(base).await.expect_err(base);
        assert_eq!(error.class(), OutcomeClass::Invalid);
        message(error)
    };
    insta::assert_snapshot!(check("mian").await, @r#"cannot find base "mian" in <root>/remote.git; did you mean main?"#);
    insta::assert_snapshot!(check("zzz").await, @r#"cannot find base "zzz" in <root>/remote.git"#);
    insta::assert_snapshot!(check("--upload-pack=touch x").await, @r#"cannot find base "--upload-pack=touch x" in <root>/remote.git"#);
    insta::assert_snapshot!(check("m*").await, @r#"cannot find base "m*" in <root>/remote.git"#);
    let unknown = "1".repeat(40);
    insta::assert_snapshot!(check(&unknown).await, @r#"cannot find base "1111111111111111111111111111111111111111" in <root>/remote.git"#);
}

#[tokio::test]
async fn a_remote_that_is_missing_or_empty_says_so() {
    let place = Place::with_config(&config());
    let root = place.root.path().display().to_string();
    let error = place.mirror.resolve("main").await.expect_err("nothing is there");
    insta::assert_snapshot!(error.to_string().replace(&root, "<root>"), @"cannot start from <root>/remote.git: the repository is empty; push a first commit to it");
    let missing: Remote = format!("{root}/missing.git").parse().expect("a path");
    let error = place.git.mirror(&missing).resolve("main").await.expect_err("no repository");
    insta::assert_snapshot!(error.to_string().replace(&root, "<root>"), @"cannot read <root>/missing.git: there is no repository; check the address, and that this worker may see it");
}

/// Answers every request as a forge does that wants a password.
fn serve_unauthorized() -> u16 {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut request = [0; 4096];
            let read = stream.read(&mut request).expect("a request");
            assert!(read > 0 || request[0] == 0);
            let answer = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            // The client may be gone already.
            drop(stream.write_all(answer.as_bytes()));
        }
    });
    port
}

#[tokio::test]
async fn a_remote_that_wants_a_password_says_so_without_asking_for_it() {
    let place = Place::with_config(&config());
    let port = serve_unauthorized();
    for address in [format!("http://127.0.0.1:{port}/a.git"), format!("http://bob:sesame@127.0.0.1:{port}/a.git")] {
        let remote: Remote = address.parse().expect("a URL");
        let error = place.git.mirror(&remote).resolve("main").await.expect_err("401");
        assert!(matches!(error, GitError::NeedsPassword { .. }), "{error}");
        assert!(!error.to_string().contains("sesame") && !format!("{error:?}").contains("sesame"), "{error:?}");
    }
}

#[tokio::test]
async fn a_remote_that_does_not_answer_is_infrastructure() {
    let place = Place::with_config(&config());
    let remote: Remote = "http://127.0.0.1:9/a.git".parse().expect("a URL");
    let error = place.git.mirror(&remote).resolve("main").await.expect_err("nobody listens");
    assert!(matches!(error, GitError::Unreachable { .. }), "{error}");
    assert_eq!(error.class(), OutcomeClass::Infrastructure);
}

#[tokio::test]
async fn a_remote_that_never_answers_is_given_up_and_its_processes_end() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let mut config = config();
    config.network_timeout = Duration::from_millis(300);
    let place = Place::with_config(&config);
    let remote: Remote = format!("http://127.0.0.1:{port}/a.git").parse().expect("a URL");
    let error = place.git.mirror(&remote).resolve("main").await.expect_err("it hangs");
    assert!(matches!(error, GitError::Timeout { .. }), "{error}");
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while processes_with(&format!("127.0.0.1:{port}")) {
        assert!(std::time::Instant::now() < until, "a helper of git still runs");
        tokio::task::yield_now().await;
    }
}

fn processes_with(needle: &str) -> bool {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    entries.into_iter().any(|entry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(needle)
    })
}

#[test]
fn a_git_that_is_missing_or_too_old_is_refused_at_once() {
    let root = tempfile::tempdir().expect("a directory");
    let mut config = config();
    config.program = "no-such-git".into();
    let error = Git::open(&config, sawmill(), &root.path().join("mirrors")).expect_err("missing");
    insta::assert_snapshot!(error, @"cannot start no-such-git: it is nowhere in the search path /usr/local/bin:/usr/bin:/bin; install git, or set git.program");
    let old = root.path().join("old-git");
    fs::write(&old, "#!/bin/sh\necho git version 2.30.2\n").expect("a script");
    fs::set_permissions(&old, fs::Permissions::from_mode(0o755)).expect("rights");
    config.program = old;
    let error = Git::open(&config, sawmill(), &root.path().join("mirrors")).expect_err("old").to_string();
    insta::assert_snapshot!(error.replace(&root.path().display().to_string(), "<root>"), @r#"cannot use <root>/old-git: it reports "git version 2.30.2", and git 2.32 or later is needed"#);
    config.author_name = "A <b>".to_owned();
    assert!(matches!(Git::open(&config, sawmill(), root.path()), Err(GitError::Identity(_))));
}
