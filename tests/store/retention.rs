//! Removing what ended long ago.

use std::time::Duration;

use sawmill::clock::Timestamp;
use sawmill::ids::{CompletionId, JobId, WorkerId};
use sawmill::job::{LogChunk, OutcomeClass, Stream};
use sawmill::store::{Refusal, Store, StoreError, Swept, WorkerPhase, WorkerReport};

use super::workers::report;
use super::{LONG, Queue, ask, asking, completion, delivered, finish, on_both};

/// Moves everything that is on record so far into the past, far beyond [`AGE`].
const LONG_AGO: &str = "UPDATE jobs SET finished_at = finished_at - 100000000 WHERE finished_at IS NOT NULL; \
    UPDATE completions SET ended_at = ended_at - 100000000 WHERE ended_at IS NOT NULL";
const AGE: Duration = Duration::from_secs(3600);

/// Sweeps to the end, and counts what went.
async fn sweep(store: &Store) -> u64 {
    let mut sweep = store.sweep(AGE);
    let mut removed = 0;
    loop {
        match store.sweep_once(&mut sweep).await.expect("swept") {
            Swept::Some(count) => removed += count,
            Swept::All => return removed,
            Swept::NotOurs => panic!("nobody else sweeps"),
        }
    }
}

async fn ended(queue: &Queue, class: OutcomeClass) -> JobId {
    queue.enqueue().await;
    let claimed = queue.claim("w").await;
    queue.store.finish(&claimed.claim, finish(class)).await.expect("finished").id
}

/// A job with a completion, which is then in the hands of the caller.
async fn delivered_one(queue: &Queue) -> (JobId, CompletionId) {
    queue.enqueue().await;
    let claimed = queue.claim("w").await;
    let written = completion(&claimed);
    let id = written.id;
    let end = sawmill::store::Finish { completion: Some(written), ..delivered(&claimed) };
    (queue.store.finish(&claimed.claim, end).await.expect("finished").id, id)
}

async fn is_there(queue: &Queue, id: JobId) -> bool {
    match queue.store.job(id).await {
        Ok(_) => true,
        Err(StoreError::NotFound { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

/// Rows of every table that belong to jobs.
async fn rows(queue: &Queue) -> Vec<String> {
    let tables = ["jobs", "job_specs", "attempts", "attempt_stages", "log_chunks", "completions", "outbox"];
    let counts: Vec<String> = tables.iter().map(|table| format!("SELECT CAST(count(*) AS TEXT) FROM {table}")).collect();
    queue.place.texts(&counts.join(" UNION ALL ")).await
}

/// A hundred thousand jobs would do; these are enough for several batches.
fn many(count: usize) -> String {
    format!(
        "INSERT INTO routes (id, backend, requires, used_at) VALUES (900, 'shell', '[\"old\"]', 0) ON CONFLICT DO NOTHING; WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {count}) \
         INSERT INTO jobs (id, repo, base, branch, route, priority, position, share, state, ready_at, attempts_max, created_at, finished_at, \
         outcome_class, outcome_message) SELECT NEW_ID, 'r', 'b', 'old-' || n, 900, 1, 0, '', 'failed', 0, 1, 0, n, 'backend', 'm' FROM n; \
         INSERT INTO job_specs (job, digest, document) SELECT id, 'd', '{{\"task\":{{}}}}' FROM jobs WHERE repo = 'r'; \
         INSERT INTO attempts (job, attempt, worker, started_at, ended_at, outcome_class, outcome_message, log_verdict) \
         SELECT id, 1, 'w', 0, 1, 'backend', 'm', '{{\"verdict\":\"complete\"}}' FROM jobs WHERE repo = 'r'; \
         UPDATE jobs SET attempt = 1 WHERE repo = 'r'"
    )
}

async fn make_many(queue: &Queue, count: usize) {
    let id = match queue.place {
        super::Place::File { .. } => "randomblob(16)",
        super::Place::Schema { .. } => "gen_random_uuid()",
    };
    queue.place.tamper(&many(count).replace("NEW_ID", id)).await;
}

on_both! {
    async fn what_ended_long_ago_goes_with_all_that_is_on_record_of_it(queue) {
        let old = ended(queue, OutcomeClass::Backend).await;
        queue.enqueue().await;
        let claimed = queue.claim("w").await;
        let stream = Stream::Stdout;
        let chunk = LogChunk { seq: 0, stream, offset: 0, spool_end: 1, at: claimed.claimed_at, data: vec![b'x'] };
        queue.store.append_log(&claimed.claim, &[chunk]).await.expect("appended");
        queue.store.finish(&claimed.claim, delivered(&claimed)).await.expect("finished");
        let held = queue.store.claim_completions(&asking("i", 1, None)).await.expect("answered").remove(0);
        queue.store.ack_completion(held.entry.completion.id, held.token).await.expect("acknowledged");
        queue.place.tamper(LONG_AGO).await;
        let recent = ended(queue, OutcomeClass::Backend).await;
        let waiting = queue.enqueue().await.id;

        assert_eq!(sweep(&queue.store).await, 2);
        assert!(!is_there(queue, old).await && !is_there(queue, claimed.claim.job).await);
        assert!(is_there(queue, recent).await && is_there(queue, waiting).await);
        assert_eq!(rows(queue).await, ["2", "2", "1", "0", "0", "0", "1"]);
        assert_eq!(sweep(&queue.store).await, 0);
    }

    async fn a_job_stays_while_its_completion_is_not_done_with(queue) {
        let (pending, _) = delivered_one(queue).await;
        let (held, held_id) = delivered_one(queue).await;
        let (acked, acked_id) = delivered_one(queue).await;
        let (dead, dead_id) = delivered_one(queue).await;
        queue.place.tamper("UPDATE completions SET visible_at = visible_at - 1000").await;
        for one in queue.store.claim_completions(&asking("i", 4, None)).await.expect("answered") {
            let id = one.entry.completion.id;
            if id == acked_id {
                queue.store.ack_completion(id, one.token).await.expect("acknowledged");
            } else if id == dead_id {
                queue.store.nack_completion(id, one.token, "no", Refusal::Dead).await.expect("refused");
            } else if id != held_id {
                let later = Refusal::Retry { after: LONG };
                queue.store.nack_completion(id, one.token, "later", later).await.expect("given back");
            }
        }
        queue.place.tamper("UPDATE jobs SET finished_at = 1").await;
        assert_eq!(sweep(&queue.store).await, 0, "what was done with is not old enough");
        queue.place.tamper(LONG_AGO).await;
        assert_eq!(sweep(&queue.store).await, 2);
        assert!(is_there(queue, pending).await && is_there(queue, held).await);
        assert!(!is_there(queue, acked).await && !is_there(queue, dead).await);
        assert!(matches!(queue.store.requeue_completion(dead_id).await, Err(StoreError::NotFound { .. })));
    }

    async fn a_job_whose_log_is_long_goes_in_pieces(queue) {
        queue.enqueue().await;
        let claimed = queue.claim("w").await;
        let chunk = |seq: u64| LogChunk {
            seq, stream: Stream::Stdout, offset: seq, spool_end: seq + 1, at: claimed.claimed_at, data: vec![b'x'],
        };
        let chunks: Vec<LogChunk> = (0..1_000).map(chunk).collect();
        queue.store.append_log(&claimed.claim, &chunks).await.expect("appended");
        queue.store.finish(&claimed.claim, finish(OutcomeClass::Backend)).await.expect("finished");
        ended(queue, OutcomeClass::Backend).await;
        queue.place.tamper(LONG_AGO).await;
        let mut steps = Vec::new();
        let mut sweep = queue.store.sweep(AGE);
        loop {
            let step = queue.store.sweep_once(&mut sweep).await.expect("swept");
            steps.push(step);
            if step == Swept::All {
                break;
            }
        }
        assert_eq!(steps, [Swept::Some(0), Swept::Some(0), Swept::Some(2), Swept::All]);
        assert_eq!(rows(queue).await, ["0"; 7]);
    }

    async fn workers_that_have_long_been_silent_are_forgotten_unless_a_job_is_theirs(queue) {
        let now = queue.store.now();
        let say = async |id: &str, phase, seen_at| {
            let report = WorkerReport { id: WorkerId::new(id), phase, seen_at, ..report(now) };
            queue.store.report_worker(&report).await.expect("reported");
        };
        say("stopped", WorkerPhase::Stopped, Timestamp(2)).await;
        say("lost", WorkerPhase::Running, Timestamp(2)).await;
        say("holds", WorkerPhase::Running, Timestamp(2)).await;
        say("lives", WorkerPhase::Running, now).await;
        say("drained", WorkerPhase::Running, Timestamp(2)).await;
        queue.store.drain_worker(&WorkerId::new("drained"), "me", "soon").await.expect("asked");
        say("left", WorkerPhase::Stopped, now).await;
        queue.enqueue().await;
        queue.claim("holds").await;
        sweep(&queue.store).await;
        let left: Vec<String> = queue.store.workers().await.expect("listed").into_iter().map(|worker| worker.report.id.to_string()).collect();
        assert_eq!(left, ["drained", "holds", "left", "lives"]);
    }

    async fn one_process_sweeps_at_a_time_and_another_takes_over_where_it_has_gone(queue) {
        make_many(queue, 120).await;
        let other = queue.other(|_| ()).await;
        let (mut ours, mut theirs) = (queue.store.sweep(AGE), other.sweep(AGE));
        assert_eq!(queue.store.sweep_once(&mut ours).await.expect("swept"), Swept::Some(50));
        assert_eq!(other.sweep_once(&mut theirs).await.expect("answered"), Swept::NotOurs);
        assert_eq!(queue.store.sweep_once(&mut ours).await.expect("swept"), Swept::Some(50));
        // It says no more, for longer than the duty stays with it.
        queue.place.tamper("UPDATE duties SET until = 1").await;
        assert_eq!(other.sweep_once(&mut theirs).await.expect("swept"), Swept::Some(20));
        assert_eq!(queue.store.sweep_once(&mut ours).await.expect("answered"), Swept::NotOurs);
        assert_eq!(rows(queue).await[..3], ["0", "0", "0"]);
        other.close().await;
    }

    async fn killed_at_any_moment_it_leaves_whole_jobs_and_goes_on(queue) {
        make_many(queue, 1_000).await;
        for millis in 0..12 {
            let store = queue.other(|_| ()).await;
            queue.place.tamper("DELETE FROM duties").await;
            let sweeper = store.clone();
            let mut sweeping = tokio::spawn(async move { sweep(&sweeper).await });
            // However far it is by then: the moment is what the test varies.
            drop(tokio::time::timeout(Duration::from_millis(millis), &mut sweeping).await);
            sweeping.abort();
            store.close().await;
            let left = rows(queue).await;
            assert_eq!((&left[0], &left[0]), (&left[1], &left[2]), "document and attempt go with the job");
        }
        queue.place.tamper("DELETE FROM duties").await;
        sweep(&queue.store).await;
        assert_eq!(rows(queue).await, ["0"; 7]);
    }

    async fn jobs_are_claimed_and_ended_while_two_sweep(queue) {
        make_many(queue, 2_000).await;
        let other = queue.other(|_| ()).await;
        let sweepers: Vec<_> = [queue.store.clone(), other.clone()].into_iter().map(|store| tokio::spawn(async move {
            let mut sweep = store.sweep(AGE);
            let mut removed = 0;
            loop {
                match store.sweep_once(&mut sweep).await.expect("swept") {
                    Swept::Some(count) => removed += count,
                    Swept::All | Swept::NotOurs => return removed,
                }
            }
        })).collect();
        for _ in 0..20 {
            queue.enqueue().await;
            let claimed = queue.store.claim(&ask("w", 1, LONG)).await.expect("claimed").remove(0);
            queue.store.finish(&claimed.claim, finish(OutcomeClass::Backend)).await.expect("finished");
        }
        let mut removed = 0;
        for sweeper in sweepers {
            removed += sweeper.await.expect("no panic");
        }
        assert_eq!(removed, 2_000);
        assert_eq!(rows(queue).await[0], "20");
        other.close().await;
    }
}

/// Figures for a person to read: `cargo nextest run --run-ignored only -E 'test(what_removing)' --no-capture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn what_removing_a_hundred_thousand_jobs_costs_those_who_claim() {
    for queue in [Queue::on_sqlite().await, Queue::on_postgres().await] {
        let kind = if matches!(queue.place, super::Place::File { .. }) { "SQLite" } else { "PostgreSQL" };
        fill(&queue).await;
        let full = size(&queue);
        let idle = claims_while(&queue, async {
            tokio::time::timeout(Duration::from_secs(5), std::future::pending()).await.unwrap_or(0)
        })
        .await;
        let began = std::time::Instant::now();
        let store = queue.store.clone();
        let busy = claims_while(&queue, async move {
            let (mut sweep, mut removed) = (store.sweep(AGE), 0);
            loop {
                let batch = std::time::Instant::now();
                match store.sweep_once(&mut sweep).await.expect("swept") {
                    Swept::Some(count) => removed += count,
                    _ => return removed,
                }
                // As the worker does it.
                tokio::time::sleep(batch.elapsed().max(Duration::from_millis(20))).await;
            }
        })
        .await;
        println!("{kind}: 100000 jobs in {:?}; claims without: {idle}; with: {busy}", began.elapsed());
        let emptied = size(&queue);
        fill(&queue).await;
        println!("{kind}: file when full {full}, emptied {emptied}, full again {} bytes", size(&queue));
        queue.end().await;
    }
}

/// A hundred thousand ended jobs, each with one attempt and a piece of log.
async fn fill(queue: &Queue) {
    make_many(queue, 100_000).await;
    let bytes = match queue.place {
        super::Place::File { .. } => "randomblob(2000)",
        super::Place::Schema { .. } => "decode(repeat('ab', 2000), 'hex')",
    };
    let chunks = format!(
        "INSERT INTO log_chunks (job, attempt, seq, stream, start_offset, end_offset, spool_end, at, crc, data) \
         SELECT id, 1, 0, 'stdout', 0, 1, 1, 0, 0, {bytes} FROM jobs WHERE repo = 'r'; \
         UPDATE attempts SET log_next_seq = 1 WHERE job IN (SELECT id FROM jobs WHERE repo = 'r')"
    );
    queue.place.tamper(&chunks).await;
}

fn size(queue: &Queue) -> u64 {
    match &queue.place {
        super::Place::File { directory } => std::fs::metadata(directory.path().join("new/queue.db")).expect("the file").len(),
        super::Place::Schema { .. } => 0,
    }
}

/// Enqueues, claims and ends jobs one after the other for as long as `other` takes, and says how long the claims took.
async fn claims_while(queue: &Queue, other: impl Future<Output = u64> + Send + 'static) -> String {
    let other = tokio::spawn(other);
    let mut took = Vec::new();
    while !other.is_finished() {
        queue.enqueue().await;
        let began = std::time::Instant::now();
        let claimed = queue.claim("w").await;
        took.push(began.elapsed());
        queue.store.finish(&claimed.claim, finish(OutcomeClass::Backend)).await.expect("finished");
    }
    other.await.expect("no panic");
    took.sort_unstable();
    format!(
        "p50 {:?}, p99 {:?}, max {:?} of {}",
        took[took.len() / 2],
        took[took.len() * 99 / 100],
        took[took.len() - 1],
        took.len()
    )
}
