//! What jobs ask of workers, and that it goes when no job asks it any more.

use std::collections::BTreeSet;

use sawmill::job::JobState;
use sawmill::store::{ClaimRequest, Store};

use super::{LONG, Queue, ask, on_both};

const LONG_UNUSED: &str = "UPDATE routes SET used_at = 1";

/// What the routes require that are there.
async fn there(queue: &Queue) -> Vec<String> {
    queue.place.texts("SELECT requires FROM routes ORDER BY requires").await
}

async fn enqueue(queue: &Queue, store: &Store, label: &str) -> sawmill::job::Job {
    let mut new = super::new_job();
    new.spec.requires = vec![label.to_owned()];
    let job = store.enqueue(new).await.expect("enqueued").into_job();
    assert!(there(queue).await.iter().any(|requires| requires.contains(label)));
    job
}

fn ask_with(label: &str) -> ClaimRequest {
    ClaimRequest { labels: BTreeSet::from([label.to_owned()]), ..ask("w", 1, LONG) }
}

/// Walks through all jobs, and says how many routes went; none where it is not due.
async fn walk(store: &Store) -> Option<u64> {
    let mut walk = store.walk_routes().await.expect("answered")?;
    loop {
        if let Some(removed) = store.walk_routes_once(&mut walk).await.expect("looked at") {
            return Some(removed);
        }
    }
}

on_both! {
    async fn a_route_goes_when_no_job_has_it_and_is_made_again_when_one_asks_for_it(queue) {
        let worker = queue.other(|_| ()).await;
        enqueue(queue, &queue.store, "gone").await;
        enqueue(queue, &queue.store, "kept").await;
        assert_eq!(walk(&queue.store).await, None, "both were used just now");
        for label in ["gone", "gone"] {
            // So this worker knows the route, and then that nothing is left of it.
            worker.claim(&ask_with(label)).await.expect("answered");
        }
        queue.place.tamper("DELETE FROM jobs WHERE state = 'running'").await;
        queue.place.tamper(LONG_UNUSED).await;
        let (planner, knowing) = (queue.other(|_| ()).await, queue.other(|_| ()).await);
        enqueue(queue, &knowing, "kept").await;
        assert_eq!(walk(&queue.store).await, Some(1));
        assert_eq!(there(queue).await, [r#"["kept"]"#]);
        assert_eq!(walk(&queue.store).await, None, "once in a day");
        assert_eq!(walk(&worker).await, None, "whoever asks");
        // By one who has known it until now, and by one who never did.
        for store in [&knowing, &planner] {
            let job = enqueue(queue, store, "gone").await;
            let claimed = worker.claim(&ask_with("gone")).await.expect("answered");
            assert_eq!(claimed.iter().map(|claimed| claimed.claim.job).collect::<Vec<_>>(), [job.id]);
        }
        let kept = worker.claim(&ask_with("kept")).await.expect("answered");
        assert_eq!(kept.len(), 1);
        for store in [worker, planner, knowing] {
            store.close().await;
        }
    }

    async fn a_route_that_somebody_has_known_for_long_is_used_again_before_it_goes(queue) {
        let job = enqueue(queue, &queue.store, "seldom").await;
        queue.store.cancel(job.id, "").await.expect("cancelled");
        queue.place.tamper("DELETE FROM jobs").await;
        queue.place.tamper(LONG_UNUSED).await;
        // It reads what the route was used for last when it first enqueues one.
        let planner = queue.other(|_| ()).await;
        let mut begun = queue.store.walk_routes().await.expect("answered").expect("due");
        let job = enqueue(queue, &planner, "seldom").await;
        queue.place.tamper("DELETE FROM jobs").await;
        assert_eq!(queue.store.walk_routes_once(&mut begun).await.expect("looked at"), Some(0));
        assert_eq!(there(queue).await, [r#"["seldom"]"#], "of job {}", job.id);
        planner.close().await;
    }

    async fn a_walk_goes_through_all_jobs_in_steps_however_many(queue) {
        let job = enqueue(queue, &queue.store, "first").await;
        enqueue(queue, &queue.store, "none").await;
        queue.place.tamper("DELETE FROM jobs WHERE route > 1").await;
        enqueue(queue, &queue.store, "last").await;
        // Between the two, more than three steps of them.
        let columns = "repo, base, branch, route, priority, position, share, state, ready_at, attempts_max, created_at";
        let values = columns.replace("branch", "branch || n");
        let (id, numbers) = match &queue.place {
            crate::store::Place::File { .. } => (
                "unhex(substr(hex(id), 1, 16) || printf('%016X', n))",
                "(WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 16000) SELECT n FROM s) AS s",
            ),
            crate::store::Place::Schema { .. } => {
                ("(substr(id::TEXT, 1, 18) || '-' || lpad(to_hex(n), 16, '0'))::UUID", "generate_series(1, 16000) AS s (n)")
            }
        };
        let of_first = format!("INSERT INTO jobs (id, {columns}) SELECT {id}, {values} FROM jobs CROSS JOIN {numbers} WHERE branch = '{}'", job.branch);
        queue.place.tamper(&of_first).await;
        queue.place.tamper(LONG_UNUSED).await;
        let mut walk = queue.store.walk_routes().await.expect("answered").expect("due");
        let mut steps = 1;
        let removed = loop {
            match queue.store.walk_routes_once(&mut walk).await.expect("looked at") {
                Some(removed) => break removed,
                None => steps += 1,
            }
        };
        assert_eq!((steps, removed), (4, 1));
        assert_eq!(there(queue).await, [r#"["first"]"#, r#"["last"]"#]);
        assert_eq!(queue.store.job(job.id).await.expect("there").state, JobState::Queued);
    }
}
