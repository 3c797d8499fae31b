//! Whose jobs leave something to others.

use sawmill::git::Strategy;
use sawmill::job::JobState;
use serde_json::json;

use super::Scene;
use crate::delivery::host::Lodging;
use crate::delivery::remote::git;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_succeeds_at_the_projects_own_base_saves_and_for_that_project_only() {
    let scene = Scene::set(Strategy::Overlay, Lodging::OnTheHost, r#"["target"]"#).await;
    git(&scene.remote, &["branch", "feature", "main"]);
    let worker = scene.host.start("a").await;
    let failed = scene.enqueue("echo failed > target/failed; exit 1", &json!({}));
    assert_eq!(scene.host.ended(failed).await.state, JobState::Failed);
    scene.emptied().await;
    let gates = json!([{ "name": "never", "command": "false" }]);
    let rejected =
        scene.enqueue("echo rejected > target/rejected; echo work > work.txt", &json!({ "gates": gates, "revisions": 0 }));
    assert_eq!(scene.host.ended(rejected).await.state, JobState::Failed);
    scene.emptied().await;
    let elsewhere = scene.run_with("echo feature > target/feature", json!({ "base": "feature" })).await;
    assert!(
        scene
            .said(elsewhere)
            .await
            .contains("cache target is not saved: the job began at feature, and only those that begin at HEAD save")
    );
    // The very commit of the base, by another name.
    let commit = git(&scene.remote, &["rev-parse", "main"]);
    scene.run_with("echo commit > target/commit", json!({ "base": commit })).await;
    assert_eq!(scene.saved(), [] as [std::path::PathBuf; 0]);
    scene.run("test -z \"$(ls -A target)\"; echo good > target/good").await;
    assert_eq!(scene.saved().len(), 1);
    scene.run_with("test -z \"$(ls -A target)\"", json!({ "project": "other" })).await;
    // Others read what they may not save.
    scene.run_with("test \"$(ls target)\" = good; echo feature > target/feature", json!({ "base": "feature" })).await;
    scene.run("test \"$(ls target)\" = good").await;
    scene.host.close(vec![worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_is_saved_by_the_backends_that_may_and_not_again_while_it_is_young() {
    let mut scene = Scene::set(Strategy::Overlay, Lodging::OnTheHost, r#"[{ path = "target", save_by = ["warm"] }]"#).await;
    scene.host.set("SAWMILL_CACHES__REFRESH", "1h");
    scene.host.set("SAWMILL_BACKENDS__WARM__KIND", "command");
    scene.host.set("SAWMILL_BACKENDS__WARM__COMMAND", r#"["sh", "-c", "date +%s%N > target/warm"]"#);
    scene.host.set("SAWMILL_BACKENDS__WARM__RESULT", "exit_code");
    let worker = scene.host.start("a").await;
    let by_shell = scene.run("echo poison > target/poison").await;
    let said = scene.said(by_shell).await;
    assert!(said.contains("cache target is not saved: shell is none of the backends that save it (warm)"), "{said}");
    scene.run_with("true", json!({ "backend": "warm", "task": { "instruction": "fill" } })).await;
    scene.run("test \"$(ls target)\" = warm").await;
    let again = scene.run_with("true", json!({ "backend": "warm", "task": { "instruction": "fill" } })).await;
    let said = scene.said(again).await;
    assert!(
        said.contains("cache target is not saved: the one that is saved for its key is younger than 1h (caches.refresh)"),
        "{said}"
    );
    scene.host.close(vec![worker]).await;
}
