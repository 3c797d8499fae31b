//! Commands against the router in this process: what they write, and how they end.

use sawmill::cli::Exit;
use sawmill::job::{OutcomeClass, Stream};
use serde_json::Value;

use super::world::{FIRST, World, chunk, on_both};

on_both! {
async fn a_job_is_enqueued_watched_and_shown_by_command(world: &World) {
    let (ended, written) = world.cli(&["enqueue", "--project", "app", "--execution", "plan-7", "--", "make test"]).await;
    assert_eq!(ended.expect("it is enqueued"), Exit::Done);
    let id = written.trim().to_owned();
    let (_, shown) = world.cli(&["--json", "job", "show", &id]).await;
    let job: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!((&job["spec"]["task"]["command"], &job["spec"]["execution"]["id"]), (&"make test".into(), &"plan-7".into()));
    let (_, listed) = world.cli(&["jobs", "--execution", "plan-7"]).await;
    let row = listed.lines().nth(1).expect("a row");
    assert!(row.starts_with(&id) && row.contains("queued") && row.ends_with("make test"), "{listed}");

    // Waiting begins before the work does, and learns of its end.
    let line = ["job", "wait", id.as_str()];
    let (waited, ()) = tokio::join!(world.cli(&line), async {
        let claim = world.claim().await;
        world.store.append_log(&claim, &[chunk(0, 0, Stream::Stdout, b"one\ntwo\n")]).await.expect("the log grows");
        world.finish(&claim, OutcomeClass::Succeeded, "done").await;
    });
    assert_eq!(waited.0.expect("it ended"), Exit::Done);
    assert!(waited.1.starts_with(&format!("{id} succeeded: done")), "{}", waited.1);

    assert_eq!(world.cli(&["logs", &id]).await.1, "one\ntwo\n");
    assert_eq!(world.cli(&["logs", &id, "-f", "--since", "4"]).await.1, "two\n");
    assert_eq!(world.cli(&["logs", &id, "--stream", "stderr"]).await.1, "");
    assert_eq!(
        world.cli(&["logs", &id, "-t"]).await.1,
        "2023-11-14T22:13:20.000Z one\n2023-11-14T22:13:20.000Z two\n"
    );
    let (_, attempts) = world.cli(&["job", "attempts", &id]).await;
    assert!(attempts.lines().nth(1).is_some_and(|row| row.starts_with(&format!("{FIRST}  ")) && row.contains("succeeded")), "{attempts}");
    let (_, diff) = world.cli(&["job", "diff", &id]).await;
    insta::allow_duplicates! {
        insta::assert_snapshot!(diff, @r#"
        FILE       LINES
        README.md  +3 -1
        1 file changed, 3 insertions, 1 deletion
        "#);
    }
}
}

on_both! {
async fn the_exit_status_says_how_it_went(world: &World) {
    let (ended, _) = world.cli(&["job", "show", "018f0000-0000-7000-8000-000000000000"]).await;
    assert_eq!(ended.expect_err("there is none").exit(), Exit::NotFound);
    let (ended, _) = world.cli(&["enqueue", "--project", "ap", "--", "true"]).await;
    let error = ended.expect_err("there is no such project");
    assert_eq!((error.exit(), error.sentence().as_str()), (Exit::Usage, "project: there is no project \"ap\"; did you mean \"app\"?"));
    let (ended, _) = world.cli(&["enqueue", "--repo", "/r"]).await;
    assert_eq!(ended.expect_err("there is nothing to do").exit(), Exit::Usage);

    let id = world.enqueue("false").await.to_string();
    let (ended, _) = world.cli(&["job", "retry", &id]).await;
    assert_eq!(ended.expect_err("it is queued").exit(), Exit::Conflict);
    let (ended, _) = world.cli(&["job", "wait", &id, "--timeout", "1ms"]).await;
    assert_eq!(ended.expect_err("nobody works").exit(), Exit::Failed);
    let (ended, _) = world.cli(&["job", "cancel", &id, "--reason", "enough"]).await;
    assert_eq!(ended.expect("it waits"), Exit::Done);
    let (ended, written) = world.cli(&["job", "wait", &id]).await;
    assert_eq!(ended.expect("it has ended"), Exit::Failed);
    assert!(written.contains("cancelled"), "{written}");
}
}

on_both! {
async fn completions_and_workers_are_handled_by_command(world: &World) {
    world.report_worker().await;
    world.enqueue("true").await;
    let claim = world.claim().await;
    world.finish(&claim, OutcomeClass::Succeeded, "done").await;
    let (_, claimed) = world.cli(&["--json", "completions", "claim", "--consumer", "ci"]).await;
    let page: Value = serde_json::from_str(&claimed).expect("JSON");
    let text = |key: &str| page["items"][0][key].as_str().expect("text").to_owned();
    let (id, token) = (text("id"), text("token"));
    let (_, renewed) = world.cli(&["completions", "renew", &id, "--token", &token, "--lease", "10m"]).await;
    assert!(renewed.starts_with(&format!("{id} is claimed until ")), "{renewed}");
    let (_, back) = world.cli(&["completions", "nack", &id, "--token", &token, "--reason", "main is red"]).await;
    assert_eq!(back, format!("{id} is pending\n"));
    let (ended, _) = world.cli(&["completions", "ack", &id, "--token", &token]).await;
    assert_eq!(ended.expect_err("it was given back").exit(), Exit::Conflict);
    let (_, list) = world.cli(&["completions", "list"]).await;
    assert!(list.lines().nth(1).is_some_and(|row| row.starts_with(&id) && row.contains("pending")), "{list}");
    let (_, workers) = world.cli(&["workers", "list"]).await;
    assert!(workers.lines().nth(1).is_some_and(|row| row.starts_with("w1      running")), "{workers}");
    let (_, configuration) = world.cli(&["config", "show", "--origin"]).await;
    insta::allow_duplicates! {
        insta::assert_snapshot!(configuration, @r#"
        KEY          ORIGIN              VALUE
        queue.lease  built-in            "30s"
        queue.url    SAWMILL_QUEUE__URL  "(hidden)"
        "#);
    }
}
}
