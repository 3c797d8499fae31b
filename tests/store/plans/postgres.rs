//! What PostgreSQL reads, by its own counters.

use sawmill::job::spec::Priority;
use sawmill::job::{Concurrency, JobState, OutcomeClass};
use sawmill::store::{Change, JobFilter, NewJob, Run, Selection, Swept};
use sqlx::{Connection, PgConnection, Row};

use super::super::{LONG, Place, Queue, ask, asking, delivered, finish};
use super::{concerned, whole_lives};

const BACKLOG: usize = 200_000;

/// A backlog, half of it waiting for later, made in one statement. Of the other half a third, or all, are for other workers.
fn backlog(others: &str) -> String {
    format!(
        "ANALYZE jobs; INSERT INTO routes (id, backend, requires, used_at) VALUES (100, 'other', '[]', 0), (101, 'shell', '[]', 0); \
         INSERT INTO jobs (id, repo, base, branch, route, priority, position, share, state, held, ready_at, attempts_max, created_at) \
         SELECT gen_random_uuid(), 'r', 'b', 'n' || n, CASE WHEN {others} THEN 100 ELSE 101 END, 1, n, '', 'queued', \
         CASE WHEN n % 2 = 0 THEN 'scheduled' END, 9000000000000 + n, 1, 0 FROM generate_series(1, {BACKLOG}) n; \
         INSERT INTO job_specs (job, digest, document) SELECT id, 'd', '{{\"task\":{{}}}}' FROM jobs"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_reads_no_table_from_end_to_end_and_few_rows_whatever_waits() {
    let queue = Queue::on_postgres().await;
    queue.place.tamper(&backlog("n % 3 = 0")).await;
    let Place::Schema { server, schema } = &queue.place else { panic!("a schema") };
    let mut connection = PgConnection::connect(server).await.expect("the test server answers");
    // A session's counters arrive with its end at the latest.
    let before = reads_with(&mut connection, schema, BACKLOG).await;
    whole_lives(&queue).await;
    queue.store.close().await;
    reads_at_most(&mut connection, schema, &before, 2_000).await;
    queue.place.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_reads_few_rows_for_jobs_that_others_concern_whatever_waits() {
    let queue = Queue::on_postgres().await;
    queue.place.tamper(&backlog("n % 2 = 1")).await;
    let Place::Schema { server, schema } = &queue.place else { panic!("a schema") };
    let mut connection = PgConnection::connect(server).await.expect("the test server answers");
    let before = reads_with(&mut connection, schema, BACKLOG).await;
    concerned::lives(&queue).await;
    concerned::lists(&queue).await;
    queue.store.close().await;
    reads_at_most(&mut connection, schema, &before, 20_000).await;
    queue.place.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_finds_one_behind_many_that_have_no_room_and_reads_only_those() {
    const FULL: i64 = 3_000;
    let queue = Queue::on_postgres().await;
    let full = format!(
        "INSERT INTO jobs (id, repo, base, branch, route, priority, position, share, concurrency_key, concurrency_limit, state, ready_at, \
         attempts_max, created_at) SELECT gen_random_uuid(), 'r', 'b', 'f' || n, 101, 1, n, '', 'k', 1, 'queued', 0, 1, 0 \
         FROM generate_series(1, {FULL}) n"
    );
    queue.place.tamper(&format!("{}; {full}", backlog("n % 2 = 1"))).await;
    let under_k = |new: &mut NewJob| {
        new.spec.priority = Priority::Interactive;
        new.spec.concurrency = Some(Concurrency { key: "k".to_owned(), limit: 1 });
    };
    let runs = queue.enqueue_as(under_k).await.id;
    assert_eq!(queue.claim("w").await.claim.job, runs);
    let behind = queue.enqueue_as(|new| new.spec.priority = Priority::Background).await.id;
    let Place::Schema { server, schema } = &queue.place else { panic!("a schema") };
    let mut connection = PgConnection::connect(server).await.expect("the test server answers");
    let before = reads_with(&mut connection, schema, BACKLOG).await;
    assert_eq!(queue.claim("w").await.claim.job, behind);
    queue.store.close().await;
    // Those that are held are passed over by each page after the one that held them, until the index forgets them.
    reads_at_most(&mut connection, schema, &before, 10 * FULL).await;
    queue.place.remove().await;
}

/// What the planner was told of the tables is that nothing is in them, and it plans each statement once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_finds_each_row_by_its_key_also_where_it_was_planned_for_empty_tables() {
    const JOBS: i64 = 150;
    let queue = Queue::on_postgres().await;
    let Place::Schema { server, schema } = &queue.place else { panic!("a schema") };
    let mut connection = PgConnection::connect(server).await.expect("the test server answers");
    // A route, without which nothing is claimed, and nothing else.
    let first = queue.enqueue().await;
    queue.place.tamper("TRUNCATE jobs, job_specs CASCADE; ANALYZE jobs, job_specs, attempts, outbox").await;
    // The first one looks for those that have waited too long, and finds that nothing waits.
    for _ in 0..3 {
        assert!(queue.store.claim(&ask("w", 1, LONG)).await.expect("claimed").is_empty(), "{} has gone", first.id);
    }
    for _ in 0..JOBS {
        queue.enqueue().await;
        let claimed = queue.claim("w").await;
        queue.store.finish(&claimed.claim, finish(OutcomeClass::Succeeded)).await.expect("finished");
    }
    queue.store.close().await;
    reads_once(&mut connection, schema, JOBS).await;
    for index in ["jobs_pkey", "job_specs_pkey", "attempts_pkey"] {
        let read = entries_read(&mut connection, schema, index).await;
        assert!(read < JOBS * 7, "{read} entries of {index} were read for {JOBS} jobs, one at a time");
    }
    queue.place.remove().await;
}

struct Reads {
    end_to_end: i64,
    jobs_from_index: i64,
    completions_from_index: i64,
}

/// What was read until so many jobs were there with their documents, once the counters tell of those.
async fn reads_with(connection: &mut PgConnection, schema: &str, jobs: usize) -> Reads {
    let sql = "SELECT min(n_tup_ins) FROM pg_stat_user_tables WHERE schemaname = $1 AND relname IN ('jobs', 'job_specs')";
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let added: i64 =
            sqlx::query(sql).bind(schema).fetch_one(&mut *connection).await.expect("the statistics are there").get(0);
        if added >= jobs as i64 {
            return reads(connection, schema).await;
        }
        assert!(std::time::Instant::now() < deadline, "the counters arrive: {added} of {jobs}");
        tokio::task::yield_now().await;
    }
}

/// What was read, once the counters are at least at `jobs_from_index`.
async fn reads_once(connection: &mut PgConnection, schema: &str, jobs_from_index: i64) -> Reads {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let now = reads(connection, schema).await;
        if now.jobs_from_index >= jobs_from_index {
            return now;
        }
        assert!(std::time::Instant::now() < deadline, "the counters arrive: {} of {jobs_from_index}", now.jobs_from_index);
        tokio::task::yield_now().await;
    }
}

/// That no table was read from end to end since then, and fewer entries of the indexes of jobs than `bound`.
async fn reads_at_most(connection: &mut PgConnection, schema: &str, before: &Reads, bound: i64) -> Reads {
    let after = reads_once(connection, schema, before.jobs_from_index + 1).await;
    assert_eq!(after.end_to_end, before.end_to_end, "rows read by going through a whole table");
    let read = after.jobs_from_index - before.jobs_from_index;
    assert!(read < bound, "{read} index entries of jobs were read for a few of very many");
    after
}

async fn reads(connection: &mut PgConnection, schema: &str) -> Reads {
    let sql = "SELECT (SELECT sum(seq_tup_read)::BIGINT FROM pg_stat_user_tables WHERE schemaname = $1 \
               AND relname IN ('jobs', 'job_specs', 'dependencies', 'attempts', 'attempt_stages', 'log_chunks', 'completions', 'outbox')) AS scans, \
               (SELECT sum(idx_tup_read)::BIGINT FROM pg_stat_user_indexes WHERE schemaname = $1 AND relname = 'jobs') AS tuples, \
               (SELECT sum(idx_tup_read)::BIGINT FROM pg_stat_user_indexes WHERE schemaname = $1 AND relname = 'completions') AS taken";
    let row = sqlx::query(sql).bind(schema).fetch_one(connection).await.expect("the statistics are there");
    Reads { end_to_end: row.get("scans"), jobs_from_index: row.get("tuples"), completions_from_index: row.get("taken") }
}

/// As much history as backlog: ended jobs that retention may remove, each with a completion, all of one line, that is not done with.
fn history(rows: usize) -> String {
    format!(
        "ANALYZE jobs; ANALYZE completions; INSERT INTO routes (id, backend, requires, used_at) VALUES (900, 'shell', '[\"old\"]', 0); \
         INSERT INTO jobs (id, repo, base, branch, route, priority, position, share, state, ready_at, attempt, attempts_max, created_at, finished_at, \
         outcome_class, outcome_message) SELECT gen_random_uuid(), 'r', 'b', 'n' || n, 900, 1, 0, '', 'failed', 0, 1, 1, 0, n, 'backend', 'm' \
         FROM generate_series(1, {rows}) n; \
         INSERT INTO attempts (job, attempt, worker, started_at, ended_at, outcome_class, outcome_message, log_verdict) \
         SELECT id, 1, 'w', 0, 1, 'backend', 'm', '{{}}' FROM jobs; \
         INSERT INTO completions (id, job, attempt, repo, branch, commit_id, line, state, visible_at, created_at, body) \
         SELECT md5('c' || finished_at)::UUID, id, 1, 'r', 'b', 'c' || finished_at, 'b', 'pending', CASE WHEN finished_at = 1 THEN 1 END, finished_at, \
         '{{\"id\":\"' || md5('c' || finished_at)::UUID || '\",\"job\":\"' || id || '\",\"attempt\":1,\"project\":null,\"repo\":\"r\",\"base\":\"' || repeat('a', 40) \
         || '\",\"commit\":null,\"tree\":null,\"branch\":\"b\",\"diff\":{{\"files\":0,\"insertions\":0,\"deletions\":0,\"per_file\":[]}},' \
         || '\"gates\":[],\"summary\":null,\"usage\":null,\"outcome\":{{\"class\":\"succeeded\",\"message\":\"m\"}},\"created_at\":5}}' FROM jobs"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_takes_completions_and_removes_old_jobs_by_index_whatever_there_is() {
    const ROWS: usize = 200_000;
    let queue = Queue::on_postgres().await;
    queue.place.tamper(&history(ROWS)).await;
    let Place::Schema { server, schema } = &queue.place else { panic!("a schema") };
    let mut connection = PgConnection::connect(server).await.expect("the test server answers");
    // Each completion has looked its attempt up.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while entries_read(&mut connection, schema, "attempts_pkey").await < ROWS as i64 {
        assert!(std::time::Instant::now() < deadline, "the counters arrive");
        tokio::task::yield_now().await;
    }
    let before = reads(&mut connection, schema).await;
    for _ in 0..5 {
        let held = queue.store.claim_completions(&asking("i", 9, None)).await.expect("answered");
        assert_eq!(held.len(), 1, "one of the line");
        queue.store.ack_completion(held[0].entry.completion.id, held[0].token).await.expect("acknowledged");
    }
    queue.enqueue().await;
    let claimed = queue.claim("w").await;
    queue.store.finish(&claimed.claim, delivered(&claimed)).await.expect("finished");
    queue.place.tamper("SET enable_seqscan = off; UPDATE completions SET ended_at = 1 WHERE state = 'acked'").await;
    let mut sweep = queue.store.sweep(LONG);
    assert_eq!(queue.store.sweep_once(&mut sweep).await.expect("swept"), Swept::Some(5));
    let failed = Selection::Filter { project: None, execution: None, state: None, after: None };
    let would = queue.store.change_jobs(&Change::Retry, &failed, 10, Run::Dry).await.expect("looked at");
    assert_eq!(would.changed.len(), 10);
    queue.store.close().await;
    let after = reads_at_most(&mut connection, schema, &before, 2_000).await;
    let read = after.completions_from_index - before.completions_from_index;
    assert!(read < 2_000, "{read} index entries of completions were read for a few of {ROWS}");
    queue.place.remove().await;
}

/// A long history before a long queue, as the planner has counted them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_lists_what_waits_without_a_look_at_what_ended_before() {
    const ROWS: usize = 100_000;
    let queue = Queue::on_postgres().await;
    let id = |first: &str| format!("('{first}0000000-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::UUID");
    let jobs = "INSERT INTO jobs (id, repo, base, branch, route, priority, position, share, project, state, ready_at, attempt, attempts_max, \
                created_at, finished_at, outcome_class, outcome_message)";
    queue
        .place
        .tamper(&format!(
            "INSERT INTO routes (id, backend, requires, used_at) VALUES (900, 'shell', '[\"old\"]', 0); \
             {jobs} SELECT {}, 'r', 'b', 'n' || n, 900, 1, 0, 'p', 'p', 'failed', 0, 1, 1, 0, n, 'backend', 'm' FROM generate_series(1, {ROWS}) n; \
             {jobs} SELECT {}, 'r', 'b', 'q' || n, 900, 1, n, CASE WHEN n < 100 THEN 'p' ELSE '' END, CASE WHEN n < 100 THEN 'p' END, 'queued', 0, \
             0, 1, 0, NULL, NULL, NULL FROM generate_series(1, {ROWS}) n; \
             INSERT INTO job_specs (job, digest, document) SELECT id, 'd', '{{\"task\":{{}}}}' FROM jobs; ANALYZE jobs; ANALYZE job_specs",
            id("0"),
            id("f")
        ))
        .await;
    queue.place.tamper("VACUUM jobs").await;
    let Place::Schema { server, schema } = &queue.place else { panic!("a schema") };
    let mut connection = PgConnection::connect(server).await.expect("the test server answers");
    let before = reads_with(&mut connection, schema, 2 * ROWS).await;
    let cancel = Change::Cancel { reason: String::new() };
    for project in [None, Some("p".to_owned())] {
        let all = Selection::Filter { project: project.clone(), execution: None, state: Some(JobState::Queued), after: None };
        let would = queue.store.change_jobs(&cancel, &all, 10, Run::Dry).await.expect("looked at");
        assert_eq!(would.changed.len(), 10);
        let waiting = JobFilter { state: Some(JobState::Queued), project, limit: 5, ..JobFilter::default() };
        assert_eq!(queue.store.jobs(&waiting).await.expect("listed").items.len(), 5);
    }
    queue.store.close().await;
    reads_at_most(&mut connection, schema, &before, 2_000).await;
    queue.place.remove().await;
}

/// How many entries of an index were read.
async fn entries_read(connection: &mut PgConnection, schema: &str, index: &str) -> i64 {
    let sql = "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE schemaname = $1 AND indexrelname = $2";
    sqlx::query(sql).bind(schema).bind(index).fetch_one(connection).await.expect("the statistics are there").get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_ends_a_job_without_a_look_at_all_that_the_worker_ever_ran() {
    const JOBS: usize = 150;
    let queue = Queue::on_postgres().await;
    let Place::Schema { server, schema } = &queue.place else { panic!("a schema") };
    let mut connection = PgConnection::connect(server).await.expect("the test server answers");
    // Nothing that goes out of an index can be cleared away while this is open.
    let mut other = PgConnection::connect(server).await.expect("the test server answers");
    for statement in ["BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT count(*) FROM pg_class"] {
        sqlx::raw_sql(statement).execute(&mut other).await.expect("a snapshot is taken");
    }
    for number in 0..JOBS {
        queue.enqueue().await;
        let claimed = queue.claim("w").await;
        let claim = &claimed.claim;
        queue.store.renew(&claim.worker, std::slice::from_ref(claim), LONG).await.expect("renewed");
        let end = if number % 2 == 0 { delivered(&claimed) } else { finish(OutcomeClass::Succeeded) };
        queue.store.finish(claim, end).await.expect("finished");
    }
    other.close().await.expect("the connection ends");
    queue.store.close().await;
    // Each was at least found by its id.
    reads_once(&mut connection, schema, JOBS as i64).await;
    let read = entries_read(&mut connection, schema, "jobs_worker").await;
    assert!(read < JOBS as i64 * 4, "{read} index entries were read to end {JOBS} jobs, one at a time");
    queue.place.remove().await;
}
