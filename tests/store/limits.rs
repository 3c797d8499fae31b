//! Limits on what runs at once: exact under many claimers, and nobody held while there is room.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sawmill::ids::JobId;
use sawmill::job::spec::Priority;
use sawmill::job::{ClaimedJob, Concurrency, Hold, JobState, OutcomeClass};
use sawmill::store::{Cancel, Change, NewJob, RelieveCursor, Run, Selection, Store};
use tokio::sync::Barrier;

use super::{LONG, Queue, ask, finish, new_job, on_both};

/// How long many who work at once may take, on a busy host.
const PATIENCE: Duration = Duration::from_secs(90);

fn under(key: &str, limit: u32) -> impl FnOnce(&mut NewJob) {
    let key = key.to_owned();
    move |new| new.spec.concurrency = Some(Concurrency { key, limit })
}

fn of_project(project: &str) -> impl FnOnce(&mut NewJob) {
    let project = project.to_owned();
    move |new| new.spec.project = Some(project)
}

/// More than one round takes out of the way.
const FULL: usize = 2_500;

/// Enqueues so many that are alike.
async fn fill(store: &Store, count: usize, shape: impl FnOnce(&mut NewJob) + Copy + Send + 'static) {
    let next = Arc::new(AtomicUsize::new(0));
    let enqueuers = (0..64).map(|_| {
        let (store, next) = (store.clone(), Arc::clone(&next));
        tokio::spawn(async move {
            while next.fetch_add(1, Ordering::Relaxed) < count {
                let mut new = new_job();
                shape(&mut new);
                store.enqueue(new).await.expect("enqueued");
            }
        })
    });
    for enqueuer in enqueuers.collect::<Vec<_>>() {
        enqueuer.await.expect("it does not panic");
    }
}

async fn claim_all(queue: &Queue) -> Vec<ClaimedJob> {
    queue.store.claim(&ask("w", 100, LONG)).await.expect("answered")
}

async fn limit(store: &Store, limits: &[(&str, u32)]) {
    let limits: BTreeMap<String, u32> = limits.iter().map(|(project, running)| ((*project).to_owned(), *running)).collect();
    store.set_project_limits(&limits).await.expect("written");
}

async fn held(queue: &Queue, id: JobId) -> Option<Hold> {
    queue.store.job(id).await.expect("there").held
}

/// Ends a running job in one of the ways in which that can come about. Only some of them end the job for good.
async fn end(store: &Store, claimed: &ClaimedJob, way: u32) {
    let claim = &claimed.claim;
    let class = match way % 7 {
        0 => OutcomeClass::Released,
        1 => {
            store.requeue(claim.job, "elsewhere").await.expect("asked");
            OutcomeClass::Released
        }
        2 => {
            store.cancel(claim.job, "enough").await.expect("asked");
            OutcomeClass::Cancelled
        }
        3 => OutcomeClass::Backend,
        // Its lease runs out: see `claim_short`.
        4 => return drop(store.expire_once(100).await.expect("done")),
        _ => OutcomeClass::Succeeded,
    };
    store.finish(claim, finish(class)).await.expect("it is held");
}

/// Works until every job has ended: at most 16 at once, with all kinds of ends, from several processes.
async fn work_through(queue: &Queue, stores: &[Store], jobs: usize) {
    const CLAIMERS: usize = 16;
    let barrier = Arc::new(Barrier::new(CLAIMERS));
    let deadline = Instant::now() + PATIENCE;
    let tasks: Vec<_> = (0..CLAIMERS)
        .map(|number| {
            let (store, barrier) = (stores[number % stores.len()].clone(), Arc::clone(&barrier));
            tokio::spawn(async move {
                barrier.wait().await;
                for round in 0_u32.. {
                    let way = round + u32::try_from(number).expect("few");
                    let lease = if way % 7 == 4 { Duration::ZERO } else { LONG };
                    let claimed = store.claim(&ask(&format!("w{number}"), 1 + way % 3, lease)).await.expect("answered");
                    for one in &claimed {
                        tokio::task::yield_now().await;
                        end(&store, one, way).await;
                    }
                    let counts = store.counts().await.expect("counted").jobs;
                    let open = counts.iter().filter(|(state, _)| !state.is_final()).map(|(_, count)| count).sum::<u64>();
                    if open == 0 {
                        return;
                    }
                    assert!(Instant::now() < deadline, "{open} jobs have not ended: {:?}", store.counts().await);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    let ended = queue.place.texts("SELECT CAST(count(*) AS TEXT) FROM jobs WHERE finished_at IS NOT NULL").await;
    assert_eq!(ended, [jobs.to_string()]);
    let told = queue.place.texts("SELECT CAST(count(*) AS TEXT) FROM outbox").await;
    assert_eq!(told, ended, "one event for each end");
}

/// Looks, for as long as `work` lasts, at how many run at once under each name, and returns the most that was seen.
async fn most_at_once(queue: &Queue, name: &str, work: impl Future<Output = ()>) -> BTreeMap<String, usize> {
    let over = AtomicBool::new(false);
    // One statement sees one state of the database, whatever goes on meanwhile.
    let sql = format!("SELECT {name} FROM jobs WHERE state = 'running' AND {name} IS NOT NULL");
    let look = async {
        let mut most = BTreeMap::new();
        while !over.load(Ordering::Relaxed) {
            let mut now: BTreeMap<String, usize> = BTreeMap::new();
            for name in queue.place.texts(&sql).await {
                *now.entry(name).or_default() += 1;
            }
            for (name, count) in now {
                let seen = most.entry(name).or_insert(0);
                *seen = count.max(*seen);
            }
        }
        most
    };
    let work = async {
        work.await;
        over.store(true, Ordering::Relaxed);
    };
    tokio::join!(look, work).0
}

on_both! {
    async fn a_key_is_never_exceeded_and_every_job_gets_done(queue) {
        const JOBS: usize = 90;
        let keys = [("one", 1), ("two", 2), ("five", 5)];
        for number in 0..JOBS {
            let (key, most) = keys[number % keys.len()];
            queue.enqueue_as(|new| { new.attempts_max = 2; under(key, most)(new) }).await;
        }
        let others = [queue.store.clone(), queue.other(|_| ()).await, queue.other(|_| ()).await];
        let most = most_at_once(queue, "concurrency_key", work_through(queue, &others, JOBS)).await;
        for (key, limit) in keys {
            assert!(most.get(key).is_none_or(|most| *most <= limit as usize), "{most:?}");
        }
        let [_, b, c] = others;
        b.close().await;
        c.close().await;
    }

    async fn a_project_s_limit_is_never_exceeded_and_every_job_gets_done(queue) {
        const JOBS: usize = 80;
        limit(&queue.store, &[("a", 1), ("b", 3)]).await;
        for number in 0..JOBS {
            // Under a key too, so that both locks are wanted at once, by jobs of several projects.
            let edit = |new: &mut NewJob| {
                new.attempts_max = 2;
                of_project(["a", "b", "free"][number % 3])(new);
                under(["x", "y"][number % 2], 2)(new);
            };
            queue.enqueue_as(edit).await;
        }
        let others = [queue.store.clone(), queue.other(|_| ()).await];
        let most = most_at_once(queue, "project", work_through(queue, &others, JOBS)).await;
        assert!(most.get("a").is_none_or(|most| *most == 1) && most.get("b").is_none_or(|most| *most <= 3), "{most:?}");
        let [_, other] = others;
        other.close().await;
    }

    async fn one_that_has_no_room_says_so_and_is_next_when_there_is(queue) {
        let mut ids = Vec::new();
        for level in [Priority::Normal, Priority::Background, Priority::Normal, Priority::Interactive] {
            ids.push(queue.enqueue_as(|new| { new.spec.priority = level; under("k", 1)(new) }).await.id);
        }
        let mut order = Vec::new();
        for _ in 0..4 {
            let claimed = claim_all(queue).await;
            assert_eq!(claimed.len(), 1);
            order.push(claimed[0].claim.job);
            for id in &ids {
                let expected = (!order.contains(id)).then_some(Hold::Key);
                assert_eq!(held(queue, *id).await, expected);
            }
            queue.store.finish(&claimed[0].claim, finish(OutcomeClass::Succeeded)).await.expect("finished");
        }
        assert_eq!(order, [ids[3], ids[0], ids[2], ids[1]]);
    }

    async fn whatever_ends_what_runs_makes_room(queue) {
        for _ in 0..6 {
            queue.enqueue_as(under("k", 1)).await;
        }
        for way in 0..5 {
            let lease = if way == 4 { Duration::ZERO } else { LONG };
            let claimed = queue.claim_for("w", lease).await;
            assert!(queue.nothing_to_claim().await, "{way}");
            end(&queue.store, &claimed, way).await;
            let next = queue.claim("w").await;
            queue.store.finish(&next.claim, finish(OutcomeClass::Released)).await.expect("given back");
        }
    }

    async fn a_held_job_that_is_cancelled_leaves_the_others_their_turn(queue) {
        let mut ids = Vec::new();
        for _ in 0..3 {
            ids.push(queue.enqueue_as(under("k", 1)).await.id);
        }
        let running = claim_all(queue).await.remove(0);
        assert!(matches!(queue.store.cancel(ids[1], "").await, Ok(Cancel::Done(_))));
        queue.store.finish(&running.claim, finish(OutcomeClass::Succeeded)).await.expect("finished");
        assert_eq!(queue.claim("w").await.claim.job, ids[2]);
    }

    async fn one_that_came_back_and_ends_before_it_starts_hands_its_room_on(queue) {
        limit(&queue.store, &[("a", 1)]).await;
        for number in 0..6 {
            // By a key and by a project's limit, each in three ways.
            let limited = |new: &mut NewJob| {
                if number % 2 == 0 { under("k", 1)(new) } else { of_project("a")(new) }
                new.spec.start_by = Some(queue.store.now() + LONG);
            };
            let mut ids = Vec::new();
            for _ in 0..3 {
                ids.push(queue.enqueue_as(limited).await.id);
            }
            let running = claim_all(queue).await.remove(0);
            queue.store.finish(&running.claim, finish(OutcomeClass::Succeeded)).await.expect("finished");
            assert_eq!(held(queue, ids[1]).await, None, "it came back");
            assert!(held(queue, ids[2]).await.is_some());
            match number / 2 {
                0 => drop(queue.store.cancel(ids[1], "").await.expect("cancelled")),
                1 => {
                    let (change, of) = (Change::Cancel { reason: String::new() }, Selection::Ids(vec![ids[1]]));
                    queue.store.change_jobs(&change, &of, 10, Run::Real).await.expect("cancelled");
                }
                _ => {
                    // Of those that may start one has been let back.
                    queue.place.tamper("UPDATE jobs SET start_by = 1 WHERE state = 'queued' AND held IS NULL").await;
                    assert_eq!(queue.store.expire_once(10).await.expect("done").len(), 1);
                }
            }
            assert_eq!(held(queue, ids[2]).await, None, "{number}");
            let next = queue.claim("w").await;
            assert_eq!(next.claim.job, ids[2]);
            queue.store.finish(&next.claim, finish(OutcomeClass::Succeeded)).await.expect("finished");
        }
    }

    async fn each_job_s_own_number_counts_under_a_shared_key(queue) {
        let mut wide = Vec::new();
        for _ in 0..4 {
            wide.push(queue.enqueue_as(under("k", 3)).await.id);
        }
        let narrow = queue.enqueue_as(|new| { new.spec.priority = Priority::Interactive; under("k", 1)(new) }).await.id;
        let first = claim_all(queue).await;
        // The narrow one starts first, and the wide ones beside it.
        assert_eq!(first.iter().map(|one| one.claim.job).collect::<Vec<_>>(), [narrow, wide[0], wide[1]]);
        queue.store.finish(&first[0].claim, finish(OutcomeClass::Released)).await.expect("given back");
        let second = claim_all(queue).await;
        assert_eq!(second.iter().map(|one| one.claim.job).collect::<Vec<_>>(), [wide[2]]);
        assert_eq!((held(queue, narrow).await, held(queue, wide[3]).await), (Some(Hold::Key), Some(Hold::Key)));
        // Room for a wide one, not for the narrow one before it.
        queue.store.finish(&first[1].claim, finish(OutcomeClass::Succeeded)).await.expect("finished");
        assert_eq!(held(queue, wide[3]).await, None);
        let third = claim_all(queue).await;
        assert_eq!(third.iter().map(|one| one.claim.job).collect::<Vec<_>>(), [wide[3]]);
        for one in [&first[2], &second[0], &third[0]] {
            assert!(queue.nothing_to_claim().await);
            queue.store.finish(&one.claim, finish(OutcomeClass::Succeeded)).await.expect("finished");
        }
        assert_eq!(claim_all(queue).await[0].claim.job, narrow);
    }

    async fn a_limit_that_is_raised_or_taken_away_makes_room_within_one_round(queue) {
        limit(&queue.store, &[("a", 1)]).await;
        for _ in 0..5 {
            queue.enqueue_as(of_project("a")).await;
        }
        let other = queue.enqueue_as(of_project("b")).await.id;
        let claimed = claim_all(queue).await;
        assert!(claimed.len() == 2 && claimed.iter().any(|one| one.claim.job == other), "{claimed:?}");
        let mut cursor = RelieveCursor::default();
        let relieve = async |cursor: &mut RelieveCursor| queue.store.relieve_once(cursor, 10).await.expect("done");
        assert_eq!(relieve(&mut cursor).await, 0);
        limit(&queue.store, &[("a", 3)]).await;
        // More than there is room for: some of them might not be able to start.
        assert_eq!(relieve(&mut cursor).await, 4);
        assert_eq!(claim_all(queue).await.len(), 2);
        limit(&queue.store, &[]).await;
        assert_eq!(relieve(&mut cursor).await, 2);
        assert_eq!(claim_all(queue).await.len(), 2);
    }

    async fn a_limit_that_is_lowered_lets_what_runs_run_and_starts_no_more(queue) {
        limit(&queue.store, &[("a", 3)]).await;
        for _ in 0..4 {
            queue.enqueue_as(of_project("a")).await;
        }
        let running = claim_all(queue).await;
        assert_eq!(running.len(), 3);
        limit(&queue.store, &[("a", 1)]).await;
        for one in &running {
            assert!(queue.nothing_to_claim().await);
            queue.store.finish(&one.claim, finish(OutcomeClass::Succeeded)).await.expect("finished");
        }
        assert_eq!(claim_all(queue).await.len(), 1);
    }

    async fn what_comes_back_at_once_is_bounded_however_many_numbers_are_named(queue) {
        for _ in 0..200 {
            queue.enqueue_as(under("k", 1)).await;
        }
        assert_eq!(claim_all(queue).await.len(), 1);
        queue.place.tamper("CREATE TEMP TABLE n AS SELECT id, row_number() OVER (ORDER BY id) AS i FROM jobs WHERE held = 'key'; \
            UPDATE jobs SET concurrency_limit = 1 + (SELECT i FROM n WHERE n.id = jobs.id) WHERE held = 'key'").await;
        let mut cursor = RelieveCursor::default();
        let back = queue.store.relieve_once(&mut cursor, 1).await.expect("done");
        assert_eq!(back, 100);
        assert_eq!(queue.store.relieve_once(&mut cursor, 1).await.expect("done"), 0, "the end of the keys");
        assert_eq!(queue.store.relieve_once(&mut cursor, 1).await.expect("done") + back, 199);
    }

    async fn many_that_are_held_in_front_do_not_hide_one_that_can_start(queue) {
        for _ in 0..150 {
            queue.enqueue_as(under("k", 1)).await;
        }
        let free = queue.enqueue().await.id;
        let claimed = queue.store.claim(&ask("w", 2, LONG)).await.expect("answered");
        assert_eq!((claimed.len(), claimed[1].claim.job), (2, free));
    }

    async fn one_that_has_room_does_not_wait_until_all_that_have_none_are_held(queue) {
        let store = &queue.store;
        fill(store, FULL, |new| under("k", 1)(new)).await;
        let behind = queue.enqueue().await.id;
        let elsewhere = queue.enqueue_as(|new| new.spec.backend = Some("other".to_owned())).await.id;
        let mut ask = ask("w", 3, LONG);
        ask.backends.insert("other".to_owned(), BTreeSet::new());
        let claimed = store.claim(&ask).await.expect("answered");
        let beside: BTreeSet<JobId> = claimed[1..].iter().map(|one| one.claim.job).collect();
        assert_eq!(beside, BTreeSet::from([behind, elsewhere]), "beside the one that the key has room for");
        let held = "SELECT CAST(count(*) AS TEXT) FROM jobs WHERE held = 'key'";
        let held: usize = queue.place.texts(held).await[0].parse().expect("a number");
        assert!((64..FULL - 1).contains(&held), "{held} were held for it");
        // The others follow while somebody asks.
        assert!(store.claim(&ask).await.expect("answered").is_empty());
        assert_eq!(queue.place.texts("SELECT held FROM jobs WHERE held IS NOT NULL").await.len(), FULL - 1);
    }

    async fn an_urgent_one_does_not_wait_for_old_ones_whose_turn_it_is_and_that_have_no_room(queue) {
        let first = queue.enqueue_as(under("k", 1)).await.id;
        assert_eq!(queue.claim("w").await.claim.job, first);
        fill(&queue.store, FULL, |new| {
            new.spec.priority = Priority::Background;
            under("k", 1)(new);
        })
        .await;
        let mut urgent = BTreeSet::new();
        for _ in 0..4 {
            urgent.insert(queue.enqueue().await.id);
        }
        // Of four that are claimed, one is old: all that wait are at once.
        let store = queue.other(|config| config.ageing = Duration::ZERO).await;
        let claimed = store.claim(&ask("w", 4, LONG)).await.expect("answered");
        assert_eq!(claimed.iter().map(|one| one.claim.job).collect::<BTreeSet<_>>(), urgent);
        let held = queue.place.texts("SELECT held FROM jobs WHERE held = 'key'").await;
        assert!((64..FULL).contains(&held.len()), "{} were held for it", held.len());
    }

    async fn room_that_one_cannot_take_for_another_limit_goes_to_who_can(queue) {
        limit(&queue.store, &[("a", 1), ("b", 1)]).await;
        let of_a = queue.enqueue_as(of_project("a")).await.id;
        let of_b = queue.enqueue_as(of_project("b")).await.id;
        let of_key = queue.enqueue_as(under("k", 1)).await.id;
        let running = claim_all(queue).await;
        let claim_of = |id: JobId| &running.iter().find(|one| one.claim.job == id).expect("it runs").claim;
        // More than come back at once, in front of one that could start.
        for _ in 0..150 {
            queue.enqueue_as(|new| { of_project("a")(new); under("k", 1)(new) }).await;
        }
        let next_of_a = queue.enqueue_as(of_project("a")).await.id;
        let next_of_key = queue.enqueue_as(under("k", 1)).await.id;
        assert!(queue.nothing_to_claim().await);
        queue.store.finish(claim_of(of_a), finish(OutcomeClass::Succeeded)).await.expect("finished");
        let claimed = claim_all(queue).await;
        assert_eq!(claimed.iter().map(|one| one.claim.job).collect::<Vec<_>>(), [next_of_a], "the key is full");
        queue.store.finish(claim_of(of_key), finish(OutcomeClass::Succeeded)).await.expect("finished");
        let claimed = claim_all(queue).await;
        assert_eq!(claimed.iter().map(|one| one.claim.job).collect::<Vec<_>>(), [next_of_key], "the project is full");
        queue.store.finish(claim_of(of_b), finish(OutcomeClass::Succeeded)).await.expect("finished");
        assert!(queue.nothing_to_claim().await);
    }

    async fn those_in_front_that_no_worker_suits_keep_room_from_nobody_for_long(queue) {
        limit(&queue.store, &[("a", 1)]).await;
        let first = queue.enqueue_as(of_project("a")).await.id;
        let running = claim_all(queue).await.remove(0);
        assert_eq!(running.claim.job, first);
        for _ in 0..100 {
            queue.enqueue_as(|new| { of_project("a")(new); new.spec.requires = vec!["gpu".to_owned()] }).await;
        }
        let plain = queue.enqueue_as(of_project("a")).await.id;
        let mut able = ask("able", 1, LONG);
        able.labels.insert("gpu".to_owned());
        assert!(queue.store.claim(&able).await.expect("answered").is_empty(), "the project is full");
        queue.store.finish(&running.claim, finish(OutcomeClass::Succeeded)).await.expect("finished");
        let mut cursor = RelieveCursor::default();
        for _ in 0..4 {
            queue.store.relieve_once(&mut cursor, 10).await.expect("done");
        }
        assert_eq!(queue.claim("w").await.claim.job, plain);
    }

    async fn those_who_cancel_and_add_while_limits_let_back_do_not_block_each_other(queue) {
        const JOBS: usize = 60;
        for _ in 0..JOBS {
            queue.enqueue_as(|new| { of_project("app")(new); under("k", 2)(new) }).await;
        }
        let stores = [queue.store.clone(), queue.other(|_| ()).await];
        let mut tasks = Vec::new();
        for number in 0..4 {
            let store = stores[number % 2].clone();
            tasks.push(tokio::spawn(async move {
                for _ in 0..20 {
                    for claimed in store.claim(&ask(&format!("w{number}"), 1, LONG)).await.expect("answered") {
                        store.finish(&claimed.claim, finish(OutcomeClass::Released)).await.expect("it is held");
                    }
                }
            }));
        }
        let ids: Vec<JobId> = {
            let filter = sawmill::store::JobFilter { limit: 100, ..Default::default() };
            queue.store.jobs(&filter).await.expect("listed").items.into_iter().map(|job| job.id).collect()
        };
        for store in &stores {
            let (store, ids) = (store.clone(), ids.clone());
            tasks.push(tokio::spawn(async move {
                for at in 0..10 {
                    let new = new_job();
                    let after = ids[at * 5..at * 5 + 5].to_vec();
                    let spec = sawmill::job::JobSpec { after, ..new.spec.clone() };
                    store.enqueue(NewJob { spec, ..new }).await.expect("enqueued");
                }
            }));
        }
        let (store, some) = (stores[1].clone(), ids[..30].to_vec());
        tasks.push(tokio::spawn(async move {
            for part in some.chunks(10) {
                let (cancel, some) = (sawmill::store::Change::Cancel { reason: String::new() }, part.to_vec());
                let selection = sawmill::store::Selection::Ids(some);
                store.change_jobs(&cancel, &selection, 100, sawmill::store::Run::Real).await.expect("done");
            }
        }));
        for task in tasks {
            task.await.expect("nobody failed");
        }
        let mut cursor = RelieveCursor::default();
        loop {
            queue.store.relieve_once(&mut cursor, 10).await.expect("done");
            let claimed = claim_all(queue).await;
            let states = queue.store.counts().await.expect("counted").jobs;
            if claimed.is_empty() {
                let open: u64 = states.iter().filter(|(state, _)| *state == JobState::Queued).map(|(_, count)| count).sum();
                assert_eq!(open, 0, "{states:?}");
                break;
            }
            for one in claimed {
                queue.store.finish(&one.claim, finish(OutcomeClass::Succeeded)).await.expect("it is held");
            }
        }
        let [_, other] = stores;
        other.close().await;
    }
}
