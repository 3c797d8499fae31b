//! Handing out jobs.

use std::collections::BTreeSet;

use std::collections::HashSet;
use std::sync::Arc;

use sawmill::clock::Timestamp;
use sawmill::ids::WorkerId;
use sawmill::job::spec::Priority;
use sawmill::job::{JobState, OutcomeClass};
use sawmill::store::{ClaimRequest, Finish};
use tokio::sync::Barrier;

use super::{LONG, ask, finish, object, on_both, priority};

on_both! {
    async fn a_claim_is_a_running_job_with_an_attempt(queue) {
        let job = queue.enqueue().await;
        let before = queue.store.now();
        let claimed = queue.claim("w").await;
        assert_eq!((claimed.claim.job, claimed.claim.attempt.0, claimed.claim.worker.as_str()), (job.id, 1, "w"));
        assert_eq!((claimed.job.state, claimed.previous.as_ref()), (JobState::Running, None));
        assert_eq!(claimed.lease_until, claimed.claimed_at + LONG);
        // A server's clock is read over a connection, which may be slow.
        let slack = std::time::Duration::from_secs(1);
        assert!(claimed.claimed_at + slack >= before && claimed.claimed_at <= queue.store.now() + slack);
        assert_eq!(queue.store.job(job.id).await.expect("there"), claimed.job);
        let attempts = queue.store.attempts(job.id).await.expect("there");
        assert_eq!((attempts.len(), attempts[0].attempt.0, attempts[0].ended_at), (1, 1, None));
        assert!(queue.nothing_to_claim().await);
    }

    async fn urgent_jobs_come_first_and_equal_ones_in_the_order_of_enqueuing(queue) {
        let mut ids = Vec::new();
        for level in [Priority::Background, Priority::Normal, Priority::Interactive, Priority::Normal, Priority::Interactive] {
            ids.push(queue.enqueue_as(priority(level)).await.id);
        }
        let expected = [2, 4, 1, 3, 0].map(|index| ids[index]);
        let mut order = Vec::new();
        for limit in [2, 1, 9] {
            let claimed = queue.store.claim(&ask("w", limit, LONG)).await.expect("claimed");
            assert!(claimed.len() <= limit as usize);
            order.extend(claimed.into_iter().map(|claimed| claimed.claim.job));
        }
        assert_eq!(order, expected);
    }

    async fn a_worker_gets_only_jobs_of_its_backends_and_the_most_urgent_of_all_of_them(queue) {
        let of = |backend: &'static str, level| move |new: &mut sawmill::store::NewJob| {
            new.spec.backend = Some(backend.to_owned());
            new.spec.priority = level;
        };
        queue.enqueue_as(of("foreign", Priority::Interactive)).await;
        let normal = queue.enqueue_as(of("a", Priority::Normal)).await;
        let urgent = queue.enqueue_as(of("b", Priority::Interactive)).await;
        let later = queue.enqueue_as(of("a", Priority::Normal)).await;
        let request = |backends: &[&str], limit| ClaimRequest {
            worker: WorkerId::new("w"),
            backends: backends.iter().map(|name| ((*name).to_owned(), BTreeSet::new())).collect(),
            labels: BTreeSet::new(),
            rooms: sawmill::store::Rooms::All,
            limit,
            lease: LONG,
        };
        let claim = async |backends: &[&str], limit| {
            let claimed = queue.store.claim(&request(backends, limit)).await.expect("claimed");
            claimed.into_iter().map(|claimed| claimed.claim.job).collect::<Vec<_>>()
        };
        assert_eq!(claim(&[], 9).await, []);
        assert_eq!(claim(&["a", "b"], 0).await, []);
        assert_eq!(claim(&["a", "b", "a"], 2).await, [urgent.id, normal.id]);
        assert_eq!(claim(&["a", "b"], 9).await, [later.id]);
        assert_eq!(claim(&["a", "b"], 9).await, []);
    }

    async fn sixteen_claimers_at_once_never_get_one_job_twice(queue) {
        const CLAIMERS: usize = 16;
        const JOBS: usize = 80;
        for _ in 0..JOBS {
            queue.enqueue().await;
        }
        let barrier = Arc::new(Barrier::new(CLAIMERS));
        let others = [queue.other(|_| ()).await, queue.other(|_| ()).await];
        let tasks: Vec<_> = (0..CLAIMERS).map(|number| {
            let (store, barrier) = (others[number % others.len()].clone(), Arc::clone(&barrier));
            tokio::spawn(async move {
                barrier.wait().await;
                let mut got = Vec::new();
                loop {
                    let claimed = store.claim(&ask(&format!("w{number}"), 2, LONG)).await.expect("claimed");
                    if claimed.is_empty() {
                        return got;
                    }
                    assert!(claimed.len() <= 2);
                    got.extend(claimed.into_iter().map(|claimed| claimed.claim));
                }
            })
        }).collect();
        let mut claims = Vec::new();
        for task in tasks {
            claims.extend(task.await.expect("no panic"));
        }
        assert_eq!(claims.len(), JOBS);
        assert_eq!(claims.iter().map(|claim| claim.job).collect::<HashSet<_>>().len(), JOBS);
        assert_eq!(claims.iter().map(|claim| claim.token).collect::<HashSet<_>>().len(), JOBS);
        assert!(claims.iter().all(|claim| claim.attempt.0 == 1));
        for store in others {
            store.close().await;
        }
    }

    async fn a_claim_tells_of_the_attempt_before_it(queue) {
        queue.enqueue_as(|new| new.attempts_max = 2).await;
        let first = queue.claim("a").await;
        let end = Finish { salvage: Some(object('d')), ..finish(OutcomeClass::Gate) };
        queue.store.finish(&first.claim, end).await.expect("finished");
        let second = queue.claim("b").await;
        let previous = second.previous.expect("there was one");
        assert_eq!((previous.attempt.0, previous.salvage), (1, Some(object('d'))));
        assert_eq!(previous.outcome.expect("recorded").class, OutcomeClass::Gate);
        assert_eq!((second.job.attempts_used, second.claim.attempt.0), (1, 2));
    }

    async fn a_restarted_worker_finds_the_claims_that_it_holds(queue) {
        for _ in 0..3 {
            queue.enqueue().await;
        }
        let held = queue.claim("a").await;
        let run_out = queue.claim_for("a", std::time::Duration::ZERO).await;
        queue.claim("b").await;
        let found = queue.store.held_by(&WorkerId::new("a")).await.expect("answered");
        let claims: Vec<_> = found.iter().map(|found| &found.claim).collect();
        assert_eq!(claims, [&held.claim, &run_out.claim]);
        assert_eq!((&found[0].claim, found[0].lease_until), (&held.claim, held.lease_until));
        assert_eq!((found[0].claimed_at, &found[0].job), (held.claimed_at, &held.job));
        assert!(found[1].lease_until <= queue.store.now());
        queue.store.expire_once(10).await.expect("done");
        assert_eq!(queue.store.held_by(&WorkerId::new("a")).await.expect("answered").len(), 1);
    }

    async fn a_moment_that_is_past_means_now(queue) {
        let before = queue.store.now();
        let job = queue.enqueue_as(|new| new.spec.run_at = Some(Timestamp(1))).await;
        assert!(job.held.is_none() && job.ready_at >= before, "{job:?}");
        assert_eq!(queue.claim("w").await.claim.job, job.id);
    }

    async fn a_scheduled_job_is_claimed_once_it_is_promoted(queue) {
        assert_eq!(queue.store.next_ready_at().await.expect("answered"), None);
        let at = queue.store.now() + LONG;
        let job = queue.enqueue_as(|new| new.spec.run_at = Some(at)).await;
        queue.enqueue_as(|new| new.spec.run_at = Some(at + LONG)).await;
        assert_eq!(queue.store.next_ready_at().await.expect("answered"), Some(at));
        assert_eq!(queue.store.promote_once(10).await.expect("done"), 0);
        assert!(queue.nothing_to_claim().await);
        queue.place.tamper(&format!("UPDATE jobs SET ready_at = 1 WHERE ready_at = {}", at.0)).await;
        assert_eq!(queue.store.promote_once(0).await.expect("done"), 0);
        assert_eq!(queue.store.promote_once(10).await.expect("done"), 1);
        assert_eq!(queue.store.next_ready_at().await.expect("answered"), Some(at + LONG));
        let claimed = queue.claim("w").await;
        assert_eq!((claimed.claim.job, claimed.job.ready_at), (job.id, Timestamp(1)));
        assert!(queue.nothing_to_claim().await);
    }
}
