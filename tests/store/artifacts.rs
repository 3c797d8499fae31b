//! What is on record of artifacts.

use std::time::Duration;

use sawmill::job::{Artifact, ArtifactKind, ArtifactState, OutcomeClass};
use sawmill::store::{StoreError, Swept};

use super::{finish, on_both};

fn artifact(attempt: u32, name: &str) -> Artifact {
    Artifact {
        attempt: sawmill::ids::AttemptNo(attempt),
        name: name.to_owned(),
        kind: ArtifactKind::Declared,
        state: ArtifactState::Refused,
        required: false,
        reason: Some("too large".to_owned()),
        kept: None,
    }
}

on_both! {
    async fn what_an_attempt_says_last_counts_and_nothing_of_it_is_written_without_the_claim(queue) {
        let id = queue.enqueue().await.id;
        assert_eq!(queue.store.artifacts(id).await.expect("there"), []);
        let claim = queue.claim("w").await.claim;
        queue.store.open_artifacts(&claim, "p").await.expect("held");
        queue.store.open_artifacts(&claim, "p").await.expect("said twice");
        let many: Vec<Artifact> = (0..250).map(|number| artifact(1, &format!("a{number}"))).collect();
        queue.store.record_artifacts(&claim, &many).await.expect("held");
        assert_eq!(queue.store.artifacts(id).await.expect("there"), many);
        queue.store.record_artifacts(&claim, &many[..2]).await.expect("held");
        assert_eq!(queue.store.artifacts(id).await.expect("there"), &many[..2]);
        queue.store.finish(&claim, finish(OutcomeClass::Backend)).await.expect("finished");
        assert!(matches!(queue.store.open_artifacts(&claim, "q").await, Err(StoreError::LeaseLost)));
        assert!(matches!(queue.store.record_artifacts(&claim, &many).await, Err(StoreError::LeaseLost)));
        assert_eq!(queue.store.artifacts(id).await.expect("there"), &many[..2]);
        let none = queue.store.artifacts(sawmill::ids::JobId::generate()).await;
        assert!(matches!(none, Err(StoreError::NotFound { .. })));
    }

    async fn objects_are_orphans_when_their_job_is_gone_or_their_attempt_ended_without_a_word(queue) {
        let orphans = async || {
            let long_ago = queue.store.now() - Duration::from_secs(3600);
            queue.store.orphaned_artifacts("p", long_ago).await.expect("listed")
        };
        queue.enqueue().await;
        let said = queue.claim("w").await.claim;
        queue.store.open_artifacts(&said, "p").await.expect("held");
        assert_eq!(orphans().await, [], "it runs");
        queue.store.record_artifacts(&said, &[artifact(1, "a")]).await.expect("held");
        queue.store.finish(&said, finish(OutcomeClass::Backend)).await.expect("finished");
        queue.enqueue().await;
        let unsaid = queue.claim("w").await.claim;
        queue.store.open_artifacts(&unsaid, "p").await.expect("held");
        queue.store.finish(&unsaid, finish(OutcomeClass::Backend)).await.expect("finished");
        assert_eq!(orphans().await, [], "its worker may still write");
        queue.place.tamper("UPDATE attempts SET ended_at = ended_at - 7200000").await;
        assert_eq!(orphans().await, [(unsaid.job, unsaid.attempt)]);
        queue.store.forget_artifacts(unsaid.job, unsaid.attempt, "p").await.expect("forgotten");
        assert_eq!(orphans().await, []);

        queue.place.tamper("UPDATE jobs SET finished_at = finished_at - 100000000 WHERE finished_at IS NOT NULL").await;
        let mut sweep = queue.store.sweep(Duration::from_secs(3600));
        while queue.store.sweep_once(&mut sweep).await.expect("swept") != Swept::All {}
        assert_eq!(orphans().await, [(said.job, said.attempt)], "its job is gone");
        assert_eq!(queue.store.orphaned_artifacts("q", queue.store.now()).await.expect("listed"), [], "of another place");
    }
}
