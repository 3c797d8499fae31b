//! Which job is next: requirements, priorities and ageing, turns of projects, and times to start.

use std::collections::BTreeSet;
use std::time::Duration;

use sawmill::ids::{JobId, WorkerId};
use sawmill::job::spec::Priority;
use sawmill::job::{Concurrency, Hold, JobState, OutcomeClass};
use sawmill::store::{ClaimRequest, Expired, Finish, NewJob, Requeue, Store};

use super::{LONG, Queue, ask, finish, on_both, priority};

fn words(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn asking_with(backends: &[(&str, &[&str])], labels: &[&str], limit: u32) -> ClaimRequest {
    ClaimRequest {
        worker: WorkerId::new("w"),
        backends: backends.iter().map(|(name, capabilities)| ((*name).to_owned(), words(capabilities))).collect(),
        labels: words(labels),
        rooms: sawmill::store::Rooms::All,
        limit,
        lease: LONG,
    }
}

/// Claims so many, one after the other.
async fn in_turn(store: &Store, request: &ClaimRequest, count: usize) -> Vec<JobId> {
    let one = ClaimRequest { limit: 1, ..request.clone() };
    let mut order = Vec::new();
    for _ in 0..count {
        order.extend(store.claim(&one).await.expect("answered").into_iter().map(|claimed| claimed.claim.job));
    }
    order
}

async fn of_project(queue: &Queue, project: &str, count: usize) -> Vec<JobId> {
    of_weight(queue, project, 1, count).await
}

async fn of_weight(queue: &Queue, project: &str, weight: u32, count: usize) -> Vec<JobId> {
    let mut ids = Vec::new();
    for _ in 0..count {
        let edit = |new: &mut NewJob| {
            new.spec.project = Some(project.to_owned());
            new.weight = weight;
        };
        ids.push(queue.enqueue_as(edit).await.id);
    }
    ids
}

fn requiring(requires: &[&str]) -> impl FnOnce(&mut NewJob) {
    let requires = requires.iter().map(|word| (*word).to_owned()).collect();
    move |new| new.spec.requires = requires
}

fn keyed(key: &'static str, level: Priority) -> impl FnOnce(&mut NewJob) {
    move |new| {
        new.spec.concurrency = Some(Concurrency { key: key.to_owned(), limit: 1 });
        new.spec.priority = level;
    }
}

on_both! {
    async fn a_job_goes_only_to_who_has_all_that_it_requires(queue) {
        let job = queue.enqueue_as(requiring(&["gpu", "os=linux", "gpu"])).await.id;
        let claims = async |backends: &[(&str, &[&str])], labels: &[&str]| {
            in_turn(&queue.store, &asking_with(backends, labels, 1), 1).await
        };
        for (backends, labels) in [
            (&[("shell", &[] as &[&str])] as &[(&str, &[&str])], &[] as &[&str]),
            (&[("shell", &[])], &["gpu"]),
            (&[("shell", &["os=linux"])], &["os", "linux", "gpus"]),
            (&[("shell", &["os=linux"]), ("codex", &["gpu"])], &[]),
            (&[("codex", &["gpu", "os=linux"])], &["gpu", "os=linux"]),
        ] {
            assert_eq!(claims(backends, labels).await, [], "{backends:?} {labels:?}");
        }
        assert_eq!(claims(&[("shell", &["os=linux"])], &["gpu", "more"]).await, [job], "between labels and capabilities");
    }

    async fn what_a_worker_cannot_run_is_in_nobodys_way(queue) {
        queue.enqueue_as(requiring(&["gpu"])).await;
        let plain = queue.enqueue().await.id;
        assert_eq!(in_turn(&queue.store, &ask("w", 1, LONG), 2).await, [plain]);
    }

    async fn requirements_that_are_new_are_known_to_who_claimed_before(queue) {
        let other = queue.other(|_| ()).await;
        let all = asking_with(&[("shell", &[])], &["gpu", "big"], 9);
        assert_eq!(in_turn(&other, &all, 1).await, []);
        let first = queue.enqueue_as(requiring(&["gpu"])).await.id;
        assert_eq!(in_turn(&other, &all, 1).await, [first]);
        let second = queue.enqueue_as(requiring(&["gpu", "big"])).await.id;
        assert_eq!(in_turn(&other, &all, 1).await, [second]);
        other.close().await;
    }

    async fn what_a_limit_holds_leaves_its_slots_to_other_routes(queue) {
        for _ in 0..3 {
            queue.enqueue_as(keyed("k", Priority::Interactive)).await;
        }
        let mut expected = vec![];
        for _ in 0..3 {
            expected.push(queue.enqueue_as(|new| new.spec.backend = Some("codex".to_owned())).await.id);
        }
        let request = asking_with(&[("shell", &[]), ("codex", &[])], &[], 3);
        let first = queue.store.claim(&request).await.expect("answered");
        let got: Vec<_> = first.iter().map(|claimed| claimed.claim.job).collect();
        assert_eq!(got[1..], expected[..2], "one under the key, and as many as there are slots");
        let rest = queue.store.claim(&request).await.expect("answered");
        assert_eq!(rest.iter().map(|claimed| claimed.claim.job).collect::<Vec<_>>(), expected[2..]);
    }

    async fn what_a_limit_holds_leaves_its_slot_to_the_most_urgent_of_all_routes(queue) {
        for _ in 0..2 {
            queue.enqueue_as(keyed("k", Priority::Interactive)).await;
        }
        let later = queue.enqueue_as(priority(Priority::Background)).await.id;
        let sooner = queue.enqueue_as(|new| new.spec.backend = Some("codex".to_owned())).await.id;
        let request = asking_with(&[("shell", &[]), ("codex", &[])], &[], 1);
        in_turn(&queue.store, &request, 1).await;
        assert_eq!(in_turn(&queue.store, &request, 3).await, [sooner, later]);
    }

    async fn every_fourth_claim_is_of_who_has_waited_too_long(queue) {
        let store = queue.other(|config| config.ageing = Duration::ZERO).await;
        let (mut urgent, mut patient) = (Vec::new(), Vec::new());
        for level in [Priority::Background, Priority::Normal] {
            patient.push(queue.enqueue_as(priority(level)).await.id);
        }
        for _ in 0..12 {
            urgent.push(queue.enqueue_as(priority(Priority::Interactive)).await.id);
        }
        // The one that has waited longest, whatever its priority.
        queue.place.tamper("UPDATE jobs SET ready_at = ready_at - 1000 WHERE priority = 2").await;
        let one_by_one = in_turn(&store, &ask("w", 1, LONG), 5).await;
        assert_eq!(one_by_one, [urgent[0], urgent[1], urgent[2], patient[0], urgent[3]]);
        let at_once = store.claim(&ask("w", 4, LONG)).await.expect("answered");
        let at_once: BTreeSet<_> = at_once.into_iter().map(|claimed| claimed.claim.job).collect();
        assert_eq!(at_once, [urgent[4], urgent[5], urgent[6], patient[1]].into());
        assert_eq!(in_turn(&store, &ask("w", 1, LONG), 9).await, urgent[7..]);
        store.close().await;
    }

    async fn younger_ones_in_front_do_not_hide_one_that_has_waited_too_long(queue) {
        let store = queue.other(|config| config.ageing = Duration::from_secs(600)).await;
        let patient = queue.enqueue_as(priority(Priority::Background)).await.id;
        queue.place.tamper("UPDATE jobs SET ready_at = ready_at - 700000").await;
        let late = queue.enqueue_as(priority(Priority::Background)).await.id;
        queue.place.tamper("UPDATE jobs SET position = -1 WHERE ready_at = (SELECT max(ready_at) FROM jobs)").await;
        let mut urgent = Vec::new();
        for _ in 0..7 {
            urgent.push(queue.enqueue_as(priority(Priority::Interactive)).await.id);
        }
        let order = in_turn(&store, &ask("w", 1, LONG), 8).await;
        assert_eq!(order, [urgent[0], urgent[1], urgent[2], late, urgent[3], urgent[4], urgent[5], patient]);
        store.close().await;
    }

    async fn one_that_has_waited_too_long_and_is_next_anyway_is_counted_once(queue) {
        let store = queue.other(|config| config.ageing = Duration::ZERO).await;
        for number in 0..4 {
            let requires: &[&str] = if number == 0 { &["gpu"] } else { &[] };
            queue.enqueue_as(requiring(requires)).await;
        }
        queue.place.tamper("UPDATE jobs SET position = 0").await;
        let request = asking_with(&[("shell", &[])], &["gpu"], 4);
        assert_eq!(store.claim(&request).await.expect("answered").len(), 4, "as many as there are slots");
        store.close().await;
    }

    async fn nobody_gets_the_turns_of_the_more_urgent_before_having_waited_long(queue) {
        let patient = queue.enqueue_as(priority(Priority::Background)).await.id;
        for _ in 0..9 {
            queue.enqueue_as(priority(Priority::Interactive)).await;
        }
        let order = in_turn(&queue.store, &ask("w", 1, LONG), 10).await;
        assert_eq!(order[9], patient);
    }

    async fn projects_take_turns_and_within_one_the_oldest_is_first(queue) {
        let a = of_project(queue, "a", 5).await;
        let b = of_project(queue, "b", 2).await;
        let none = queue.enqueue().await.id;
        let order = in_turn(&queue.store, &ask("w", 1, LONG), 8).await;
        assert_eq!(order, [a[0], b[0], none, a[1], b[1], a[2], a[3], a[4]]);
    }

    async fn a_weight_is_so_many_turns_for_one_of_the_others(queue) {
        let heavy = of_weight(queue, "heavy", 3, 9).await;
        let light = of_project(queue, "light", 3).await;
        let order = in_turn(&queue.store, &ask("w", 1, LONG), 12).await;
        let at: Vec<usize> = light.iter().map(|id| order.iter().position(|other| other == id).expect("claimed")).collect();
        assert_eq!(at, [1, 5, 9], "{order:?}");
        assert_eq!(order.iter().filter(|id| heavy.contains(id)).count(), 9);
    }

    async fn a_project_that_comes_late_waits_for_one_round(queue) {
        let backlog = of_project(queue, "a", 10).await;
        assert_eq!(in_turn(&queue.store, &ask("w", 1, LONG), 5).await, backlog[..5]);
        let late = of_project(queue, "b", 3).await;
        let order = in_turn(&queue.store, &ask("w", 1, LONG), 6).await;
        assert_eq!(order, [backlog[5], late[0], backlog[6], late[1], backlog[7], late[2]]);
    }

    async fn a_project_that_comes_late_with_another_backend_waits_for_one_round_and_takes_no_more(queue) {
        let backlog = of_project(queue, "a", 10).await;
        let request = asking_with(&[("shell", &[]), ("codex", &[])], &[], 1);
        assert_eq!(in_turn(&queue.store, &request, 5).await, backlog[..5]);
        let mut late = Vec::new();
        for _ in 0..3 {
            let edit = |new: &mut NewJob| {
                new.spec.project = Some("b".to_owned());
                new.spec.backend = Some("codex".to_owned());
            };
            late.push(queue.enqueue_as(edit).await.id);
        }
        let order = in_turn(&queue.store, &request, 6).await;
        assert_eq!(order, [backlog[5], late[0], backlog[6], late[1], backlog[7], late[2]]);
    }

    async fn a_job_that_comes_back_is_next_and_lets_no_late_project_past_the_others(queue) {
        let backlog = of_project(queue, "a", 9).await;
        let first = queue.claim("w").await;
        in_turn(&queue.store, &ask("w", 1, LONG), 4).await;
        queue.store.finish(&first.claim, finish(OutcomeClass::Released)).await.expect("given back");
        let late = of_project(queue, "b", 3).await;
        let order = in_turn(&queue.store, &ask("w", 1, LONG), 6).await;
        assert_eq!(order, [backlog[0], backlog[5], late[0], backlog[6], late[1], backlog[7]]);
    }

    async fn a_failed_attempt_waits_for_its_backoff_and_for_what_its_worker_says(queue) {
        let store = queue.other(|config| config.retry.backoff = LONG).await;
        let job = queue.enqueue_as(|new| new.attempts_max = 3).await.id;
        let claimed = queue.claim("w").await;
        let before = store.now();
        let failed = store.finish(&claimed.claim, finish(OutcomeClass::Backend)).await.expect("finished");
        assert_eq!((failed.state, failed.held, failed.attempts_used), (JobState::Queued, Some(Hold::Backoff), 1));
        assert!((before + LONG / 2..=store.now() + LONG).contains(&failed.ready_at), "{failed:?}");
        assert_eq!(store.promote_once(9).await.expect("done"), 0);
        assert!(queue.nothing_to_claim().await);
        queue.place.tamper("UPDATE jobs SET ready_at = 1").await;
        assert!(queue.nothing_to_claim().await, "it is not in the order of claims until it is promoted");
        assert_eq!(store.promote_once(9).await.expect("done"), 1);

        let claimed = queue.claim("w").await;
        let end = Finish { not_before: Some(store.now() + 9 * LONG), ..finish(OutcomeClass::Released) };
        let paused = queue.store.finish(&claimed.claim, end.clone()).await.expect("finished");
        assert_eq!((paused.held, paused.attempts_used, Some(paused.ready_at)), (Some(Hold::Backoff), 1, end.not_before));
        assert!(matches!(queue.store.requeue(job, "").await, Ok(Requeue::Ready(job)) if job.held.is_none()));
        queue.claim("w").await;
        store.close().await;
    }

    async fn a_job_that_has_not_started_in_time_fails_with_the_reason(queue) {
        let until = queue.store.now() + LONG;
        let late = queue.enqueue_as(|new| new.spec.start_by = Some(until)).await.id;
        let after = queue.enqueue_as(|new| new.spec.after = vec![late]).await.id;
        let held = queue.enqueue_as(|new| {
            new.spec.run_at = Some(until);
            new.spec.start_by = Some(until + LONG);
        }).await.id;
        assert_eq!(queue.store.expire_once(9).await.expect("done"), []);
        queue.place.tamper("UPDATE jobs SET start_by = 1000 WHERE start_by IS NOT NULL").await;
        assert!(queue.nothing_to_claim().await, "nobody starts it, also while nobody has taken note");
        let mut expired = queue.store.expire_once(9).await.expect("done");
        expired.sort_by_key(|one| match one {
            Expired::Start { job } => *job,
            other => panic!("{other:?}"),
        });
        assert_eq!(expired, [Expired::Start { job: late }, Expired::Start { job: held }]);
        for id in [late, held] {
            let job = queue.store.job(id).await.expect("there");
            let outcome = job.outcome.expect("one");
            assert_eq!((job.state, outcome.class, job.held), (JobState::Failed, OutcomeClass::Expired, None));
            assert_eq!(outcome.message, "it had to start by 1970-01-01T00:00:01.000Z and had not");
        }
        let job = queue.store.job(after).await.expect("there");
        assert_eq!((job.state, job.outcome.expect("one").class), (JobState::Cancelled, OutcomeClass::Dependency));
        let events = queue.place.texts("SELECT state FROM outbox ORDER BY state").await;
        assert_eq!(events, ["cancelled", "failed", "failed"]);
    }

    async fn a_job_that_has_started_once_has_started_in_time(queue) {
        let until = queue.store.now() + LONG;
        let job = queue.enqueue_as(|new| new.spec.start_by = Some(until)).await.id;
        let claimed = queue.claim("w").await;
        queue.store.finish(&claimed.claim, finish(OutcomeClass::Released)).await.expect("given back");
        queue.place.tamper("UPDATE jobs SET start_by = 1 WHERE start_by IS NOT NULL").await;
        assert_eq!(queue.store.expire_once(9).await.expect("done"), []);
        assert_eq!(queue.claim("w").await.claim.job, job);
    }

    async fn a_retry_has_no_time_to_start_by(queue) {
        let until = queue.store.now() + LONG;
        let job = queue.enqueue_as(|new| new.spec.start_by = Some(until)).await.id;
        queue.place.tamper("UPDATE jobs SET start_by = 1").await;
        assert_eq!(queue.store.expire_once(9).await.expect("done").len(), 1);
        let again = queue.store.retry(job).await.expect("retried");
        assert_eq!((again.state, again.held), (JobState::Queued, None));
        assert_eq!(queue.store.expire_once(9).await.expect("done"), []);
        assert_eq!(queue.claim("w").await.claim.job, job);
    }
}
