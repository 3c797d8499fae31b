//! What the queue's statements cost: no more with a hundred thousand jobs waiting than with one, also right after a burst, when
//! the statistics are still those of an empty table.

use sqlx::{AssertSqlSafe, Connection, PgConnection, Row, SqliteConnection};

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;

use super::{LONG, Place, Queue, ask, asking, delivered, finish, said};
use sawmill::clock::Timestamp;
use sawmill::job::{LogChunk, OutcomeClass, Stage, StageRecord, Stream};
use sawmill::store::{AuditCursor, Change, CompletionFilter, Finish, JobFilter, RelieveCursor, Run, Selection, Swept};

const BACKLOG: usize = 20_000;

/// The order of the hot statements, and the index that each goes by. SQLite has no counters that would tell what was read.
const PLANS: [(&str, &str); 37] = [
    (
        "SELECT j.id FROM jobs j WHERE j.state = 'queued' AND j.held IS NULL AND j.route = 1 AND (j.start_by IS NULL OR j.start_by > 1) \
         ORDER BY j.priority, j.position, j.id LIMIT 1",
        "SEARCH j USING INDEX jobs_claim (route=?)",
    ),
    (
        "UPDATE jobs SET state = 'running' WHERE id IN (SELECT j.id FROM jobs j INDEXED BY jobs_claim WHERE j.state = 'queued' AND j.held IS NULL \
         AND j.route = 1 ORDER BY j.priority, j.position, j.id LIMIT 3) AND concurrency_key IS NULL",
        "SEARCH jobs USING INDEX sqlite_autoindex_jobs_1 (id=?)",
    ),
    (
        "SELECT id FROM jobs WHERE worker = 'w' AND hex(substr(token, 1, 8)) = '00'",
        "SEARCH jobs USING INDEX jobs_worker (worker=?)",
    ),
    (
        "SELECT t.position FROM jobs t WHERE t.state = 'queued' AND t.held IS NULL AND t.route = 1 AND t.priority = 2 AND t.share = 's' \
         ORDER BY t.position DESC LIMIT 1",
        "SEARCH t USING INDEX jobs_turn (route=? AND priority=? AND share=?)",
    ),
    (
        "SELECT b.id FROM jobs b WHERE b.state = 'queued' AND b.held IS NULL AND b.route = 1 AND (b.priority, b.position, b.id) < (1, 2, x'00') \
         ORDER BY b.priority, b.position, b.id LIMIT 1001",
        "SEARCH b USING INDEX jobs_claim (route=? AND (priority,position,id)<(?,?,?))",
    ),
    (
        "SELECT j.id FROM jobs j WHERE j.held = 'scheduled' AND j.held IN ('scheduled', 'backoff', 'budget', 'answer') \
         AND j.ready_at <= 1 ORDER BY j.ready_at LIMIT 1",
        "SEARCH j USING COVERING INDEX jobs_held (held=? AND ready_at<?)",
    ),
    (
        "SELECT j.id, j.share FROM jobs j WHERE j.held = 'budget' AND j.held IN ('scheduled', 'backoff', 'budget', 'answer') \
         AND (j.ready_at, j.id) > (1, x'00') ORDER BY j.ready_at, j.id LIMIT 1",
        "SEARCH j USING INDEX jobs_held (held=? AND (ready_at,id)>(?,?))",
    ),
    (
        "SELECT count(*) FROM jobs WHERE concurrency_key = 'k' AND token IS NOT NULL",
        "SEARCH jobs USING INDEX jobs_running_key (concurrency_key=?)",
    ),
    (
        "SELECT concurrency_key FROM jobs WHERE held = 'key' AND concurrency_key > 'k' ORDER BY concurrency_key LIMIT 1",
        "SEARCH jobs USING COVERING INDEX jobs_held_by_key (concurrency_key>?)",
    ),
    (
        "SELECT concurrency_limit FROM jobs WHERE held = 'key' AND concurrency_key = 'k' AND concurrency_limit < 9 \
         ORDER BY concurrency_limit DESC LIMIT 1",
        "SEARCH jobs USING COVERING INDEX jobs_held_by_key (concurrency_key=? AND concurrency_limit<?)",
    ),
    (
        "SELECT j.id FROM jobs j WHERE j.held = 'key' AND j.concurrency_key = 'k' AND j.concurrency_limit = 2 \
         ORDER BY j.priority, j.position, j.id LIMIT 3",
        "SEARCH j USING COVERING INDEX jobs_held_by_key (concurrency_key=? AND concurrency_limit=?)",
    ),
    (
        "SELECT min((SELECT h.position FROM jobs h WHERE h.state = 'queued' AND h.held IS NULL AND h.route = r.id AND h.priority = 1 \
         ORDER BY h.position, h.id LIMIT 1)) FROM routes r",
        "SEARCH h USING INDEX jobs_claim (route=? AND priority=?)",
    ),
    (
        "WITH RECURSIVE reached (id) AS (SELECT d.job FROM dependencies d WHERE d.met = 0 AND d.needs IN (x'00', x'01') \
         UNION SELECT d.job FROM reached r JOIN dependencies d ON d.needs = r.id WHERE d.met = 0) SELECT id FROM reached",
        "SEARCH d USING INDEX dependencies_needs (needs=?)",
    ),
    ("SELECT j.id FROM jobs j WHERE j.worker > '' AND j.lease_until <= 1", "SEARCH j USING INDEX jobs_worker (worker>?)"),
    (
        "SELECT j.id FROM jobs j WHERE j.id = x'00' AND j.attempt = 1 AND j.token = x'00' AND j.worker IS NOT DISTINCT FROM 'w' AND j.state = 'running'",
        "SEARCH j USING INDEX sqlite_autoindex_jobs_1 (id=?)",
    ),
    (
        "SELECT j.id FROM completions j WHERE j.visible_at <= 1 ORDER BY j.visible_at, j.id LIMIT 1",
        "SEARCH j USING COVERING INDEX completions_claim (visible_at<?)",
    ),
    (
        "SELECT j.id FROM completions j WHERE j.project = 'p' AND j.visible_at <= 1 ORDER BY j.visible_at, j.id LIMIT 1",
        "SEARCH j USING COVERING INDEX completions_claim_project (project=? AND visible_at<?)",
    ),
    (
        "SELECT j.id FROM completions j WHERE j.repo = 'r' AND j.visible_at <= 1 ORDER BY j.visible_at, j.id LIMIT 1",
        "SEARCH j USING COVERING INDEX completions_claim_repo (repo=? AND visible_at<?)",
    ),
    (
        "SELECT id, state, visible_at FROM completions WHERE repo = 'r' AND line = 'l' AND ended_at IS NULL \
         ORDER BY created_at, id LIMIT 1",
        "SEARCH completions USING INDEX completions_line (repo=? AND line=?)",
    ),
    (
        "SELECT id, state, visible_at FROM completions WHERE repo = 'r' AND line = 'l' \
         AND (visible_at IS NOT NULL OR lease_until IS NOT NULL)",
        "SEARCH completions USING INDEX completions_head (repo=? AND line=?)",
    ),
    (
        "SELECT line FROM completions WHERE repo = 'r' AND branch = 'b' AND ended_at IS NULL LIMIT 1",
        "SEARCH completions USING INDEX completions_branch (repo=? AND branch=?)",
    ),
    (
        "SELECT line FROM completions WHERE repo = 'r' AND commit_id = 'c' AND ended_at IS NULL LIMIT 1",
        "SEARCH completions USING INDEX completions_commit (repo=? AND commit_id=?)",
    ),
    (
        "SELECT j.id, j.finished_at FROM jobs j WHERE j.finished_at <= 9 AND (j.finished_at, j.id) > (1, x'00') \
         ORDER BY j.finished_at, j.id LIMIT 50",
        "SEARCH j USING COVERING INDEX jobs_finished ((finished_at,id)>(?,?) AND finished_at<?)",
    ),
    (
        "SELECT data FROM log_chunks WHERE job = x'00' AND attempt = 1 AND end_offset > 3 AND start_offset < 9 ORDER BY end_offset, seq",
        "SEARCH log_chunks USING INDEX log_chunks_offset (job=? AND attempt=? AND end_offset>?)",
    ),
    (
        "WITH picked (picked_job, picked_token) AS (VALUES (x'00', x'01')) UPDATE jobs SET state = 'running', token = picked_token \
         FROM picked WHERE id = picked_job AND token IS NULL",
        "SEARCH jobs USING INDEX sqlite_autoindex_jobs_1 (id=?)",
    ),
    (
        "WITH asked (asked_job, asked_attempt, asked_token) AS (VALUES (x'00', 1, x'01')) UPDATE jobs SET lease_until = 2 FROM asked \
         WHERE id = asked_job AND attempt = asked_attempt AND token = asked_token AND worker IS NOT DISTINCT FROM 'w' AND state = 'running'",
        "SEARCH jobs USING INDEX jobs_state (state=? AND id=?)",
    ),
    (
        "UPDATE jobs SET state = 'queued' WHERE id = x'00' AND attempt = 1 AND state = 'running'",
        "SEARCH jobs USING INDEX sqlite_autoindex_jobs_1 (id=?)",
    ),
    (
        "UPDATE jobs SET held = NULL WHERE held IN ('scheduled', 'backoff') AND id IN (x'00', x'01')",
        "SEARCH jobs USING INDEX sqlite_autoindex_jobs_1 (id=?)",
    ),
    (
        "SELECT j.id, a.deadline_at FROM jobs j JOIN attempts a ON a.job = j.id AND a.attempt = j.attempt \
         WHERE j.worker = 'w' AND (j.cancel_requested_at IS NOT NULL OR a.deadline_at IS NOT NULL)",
        "SEARCH j USING INDEX jobs_worker (worker=?)",
    ),
    (
        "SELECT (SELECT count(*) FROM jobs j WHERE j.worker = w.id) FROM workers w",
        "SEARCH j USING COVERING INDEX jobs_worker (worker=?)",
    ),
    (
        "SELECT count(*) FROM (SELECT 1 AS one FROM jobs WHERE state = 'queued' LIMIT 7) AS w",
        "SEARCH jobs USING COVERING INDEX jobs_state (state=?)",
    ),
    (
        "SELECT count(*) FROM (SELECT 1 AS one FROM jobs WHERE share = 's' AND share <> '' AND worker IS NULL AND finished_at IS NULL \
         LIMIT 7) AS w",
        "SEARCH jobs USING INDEX jobs_share (share=? AND worker=?)",
    ),
    (
        "SELECT count(*) FROM jobs WHERE share = 's' AND share <> '' AND worker > '' AND finished_at IS NULL",
        "SEARCH jobs USING INDEX jobs_share (share=? AND worker>?)",
    ),
    (
        "SELECT a.job, j.route FROM attempts a JOIN jobs j ON j.id = a.job WHERE a.started_at <= 7 ORDER BY a.started_at DESC LIMIT 5",
        "SEARCH a USING INDEX attempts_started (started_at<?)",
    ),
    (
        "SELECT 1 AS one FROM jobs WHERE state = 'queued' AND held IS NULL AND (priority, position, id) < (1, 2, x'00') AND route = 3 \
         ORDER BY priority, position, id LIMIT 7",
        "SEARCH jobs USING INDEX jobs_claim (route=? AND (priority,position,id)<(?,?,?))",
    ),
    (
        "SELECT 1 AS one FROM jobs WHERE held = 'key' AND (priority, position, id) < (1, 2, x'00') AND concurrency_key = 'k' \
         AND concurrency_limit = 1 ORDER BY priority, position, id LIMIT 7",
        "SEARCH jobs USING COVERING INDEX jobs_held_by_key (concurrency_key=? AND concurrency_limit=? AND (priority,position,id)<(?,?,?))",
    ),
    (
        "SELECT j.id, j.route FROM jobs j WHERE j.project = 'p' AND j.id < x'00' ORDER BY j.id DESC LIMIT 7",
        "SEARCH j USING INDEX jobs_project (project=? AND id<?)",
    ),
];

#[tokio::test]
async fn sqlite_finds_the_next_job_by_the_index_made_for_it() {
    let queue = Queue::on_sqlite().await;
    let mut connection = SqliteConnection::connect(&queue.place.url()).await.expect("the file can be opened");
    for (statement, expected) in PLANS {
        let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
        let rows = sqlx::query(explain).fetch_all(&mut connection).await.expect("the statement is legal");
        let plan: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
        assert!(plan.iter().any(|step| step == expected), "{statement}: {plan:?}");
        assert!(!plan.iter().any(|step| step.starts_with("SCAN jobs") && step != expected), "{statement}: {plan:?}");
        // Where two rows have the same place in the index their order may take a sort of these alone.
        assert!(!plan.iter().any(|step| step == "USE TEMP B-TREE FOR ORDER BY"), "{statement}: {plan:?}");
    }
    queue.end().await;
}

/// As many as one statement takes, of everything that comes in numbers.
async fn many_at_once(queue: &Queue) {
    const MANY: u32 = 70;
    join_all((0..MANY).map(|_| queue.enqueue())).await;
    let claimed = queue.store.claim(&ask("w", MANY, LONG)).await.expect("claimed");
    let claims: Vec<_> = claimed.iter().map(|claimed| claimed.claim.clone()).collect();
    queue.store.renew(&claims[0].worker, &claims, LONG).await.expect("renewed");
    let ends = claimed.iter().enumerate().map(|(number, claimed)| {
        let end = match number % 5 {
            0 | 1 => finish(OutcomeClass::Succeeded),
            2 | 3 => delivered(claimed),
            _ => finish(OutcomeClass::Released),
        };
        let stage = StageRecord {
            seq: 0,
            stage: Stage::Execute,
            started_at: claimed.claimed_at,
            ended_at: None,
            outcome: None,
            detail: None,
        };
        queue.store.finish(&claimed.claim, Finish { stages: vec![stage], ..end })
    });
    join_all(ends).await.into_iter().for_each(|ended| drop(ended.expect("finished")));
    let held = queue.store.claim_completions(&asking("i", MANY, None)).await.expect("answered");
    for held in &held {
        queue.store.ack_completion(held.entry.completion.id, held.token).await.expect("acknowledged");
    }
    assert!(held.len() > 16, "{} completions at once", held.len());
}

/// What daemons do from time to time, and operators ask.
async fn duties(queue: &Queue) {
    let job = queue.enqueue_as(|new| new.spec.start_by = Some(Timestamp(1))).await;
    queue.store.explain(job.id).await.expect("explained");
    queue.store.forecast(job.id).await.expect("told");
    queue.store.expire_once(5).await.expect("done");
    queue.store.relieve_once(&mut RelieveCursor::default(), 5).await.expect("done");
    queue.store.audit_once(&mut AuditCursor::default(), 5).await.expect("done");
    queue.store.counts().await.expect("counted");
    let ended = Selection::Filter { project: None, execution: None, state: None, after: None };
    queue.store.change_jobs(&Change::Retry, &ended, 10, Run::Dry).await.expect("looked at");
    let mut sweep = queue.store.sweep(Duration::ZERO);
    queue.store.sweep_once(&mut sweep).await.expect("swept");
}

/// What is read from its beginning to its end all the same.
const READ_WHOLE: [&str; 12] = [
    // Few rows.
    "SCAN routes",
    "SCAN sqlite_master",
    "SCAN p LEFT-JOIN",
    "SCAN j USING INDEX sqlite_autoindex_pauses_1",
    "SCAN sawmill_migrations USING INDEX sqlite_autoindex_sawmill_migrations_1",
    "SCAN w USING INDEX sqlite_autoindex_workers_1",
    // Lists: their readers go on from page to page.
    "SCAN j USING INDEX sqlite_autoindex_completions_1",
    "SCAN j USING INDEX sqlite_autoindex_jobs_1",
    "SEARCH j USING COVERING INDEX jobs_state (state=?)",
    // What reads those that a job waits for, which were found before.
    "SCAN r",
    // Counts that somebody asked for.
    "SCAN j USING COVERING INDEX jobs_state",
    "SCAN j USING COVERING INDEX completions_state",
];

/// Whether a step reads all rows of what the statement itself made: of what was asked for, or of a query with a limit of its own.
fn is_of_its_own(step: &str, statement: &str) -> bool {
    let name = step.strip_prefix("SCAN ").unwrap_or_default();
    name.contains("CONSTANT ROW")
        || name.contains("-ROW VALUES")
        || [
            format!(") AS {name}"),
            format!(") {name} "),
            format!("WITH {name} ("),
            format!("WITH RECURSIVE {name} ("),
            format!("), {name} ("),
        ]
        .iter()
        .any(|made| statement.contains(made))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_finds_each_row_by_its_key_or_place_however_many_are_asked_for() {
    said::listen();
    let queue = Queue::on_sqlite().await;
    many_at_once(&queue).await;
    whole_lives(&queue).await;
    duties(&queue).await;
    let mut connection = SqliteConnection::connect(&queue.place.url()).await.expect("the file can be opened");
    let mut read = BTreeMap::new();
    let Place::File { directory } = &queue.place else { panic!("a file") };
    let said = said::statements(&directory.path().join("new/queue.db").display().to_string());
    assert!(said.len() > 60, "{said:#?}");
    for statement in said {
        if !["SELECT", "WITH", "INSERT", "UPDATE", "DELETE"].iter().any(|verb| statement.starts_with(verb)) {
            continue;
        }
        let explain = sqlx::raw_sql(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}")));
        let rows = explain.fetch_all(&mut connection).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
        for step in rows.iter().map(|row| row.get::<String, _>("detail")) {
            if step.starts_with("SCAN") && !is_of_its_own(&step, &statement) || step.ends_with("_state (state=?)") {
                read.entry(step).or_insert_with(|| statement.clone());
            }
        }
    }
    for step in READ_WHOLE {
        assert!(read.remove(step).is_some(), "nothing reads this any more: {step}");
    }
    assert!(read.is_empty(), "{read:#?}");
    queue.end().await;
}

/// A backlog, most of it waiting for later, made in one statement.
fn backlog() -> String {
    format!(
        "ANALYZE jobs; INSERT INTO routes (id, backend, requires) VALUES (100, 'other', '[]'), (101, 'shell', '[]'); \
         INSERT INTO jobs (id, repo, base, branch, route, priority, position, share, state, held, ready_at, attempts_max, created_at) \
         SELECT gen_random_uuid(), 'r', 'b', 'n' || n, CASE WHEN n % 3 = 0 THEN 100 ELSE 101 END, 1, n, '', 'queued', \
         CASE WHEN n % 2 = 0 THEN 'scheduled' END, 9000000000000 + n, 1, 0 FROM generate_series(1, {BACKLOG}) n; \
         INSERT INTO job_specs (job, digest, document) SELECT id, 'd', '{{\"task\":{{}}}}' FROM jobs"
    )
}

async fn whole_lives(queue: &Queue) {
    let job = queue.enqueue().await;
    // It counts those before it up to a thousand.
    queue.store.explain(job.id).await.expect("explained");
    for _ in 0..5 {
        queue.store.promote_once(5).await.expect("done");
        queue.store.expire_once(5).await.expect("done");
        let claimed = queue.claim("w").await;
        let claim = &claimed.claim;
        queue.store.renew(&claim.worker, std::slice::from_ref(claim), LONG).await.expect("renewed");
        queue.store.held_by(&claim.worker).await.expect("answered");
        queue.store.move_deadline(claim.job, claimed.claimed_at + LONG).await.expect("moved");
        assert_eq!(queue.store.orders(&claim.worker).await.expect("answered").jobs.len(), 1);
        queue.store.workers().await.expect("listed");
        let stream = Stream::Stdout;
        let chunk = LogChunk { seq: 0, stream, offset: 0, spool_end: 1, at: claimed.claimed_at, data: vec![b'x'] };
        queue.store.append_log(claim, &[chunk]).await.expect("appended");
        queue.store.read_log(claim.job, claim.attempt, 0, 10).await.expect("read");
        queue.store.finish(claim, delivered(&claimed)).await.expect("finished");
        let held = queue.store.claim_completions(&asking("i", 1, None)).await.expect("answered").remove(0);
        queue.store.ack_completion(held.entry.completion.id, held.token).await.expect("acknowledged");
    }
    let released = queue.store.claim(&ask("w", 3, LONG)).await.expect("claimed");
    let (mut held, mut promoted) = (0, 0);
    for claimed in &released {
        let not_before = Some(queue.store.now() + std::time::Duration::from_millis(20));
        let end = sawmill::store::Finish { not_before, ..finish(OutcomeClass::Released) };
        // On a slow machine its moment has come by now.
        held += u64::from(queue.store.finish(&claimed.claim, end).await.expect("finished").held.is_some());
    }
    while promoted < held {
        promoted += queue.store.promote_once(5).await.expect("done");
    }
    queue.store.cancel(job.id, "").await.expect("cancelled");
    queue.store.jobs(&JobFilter { limit: 5, ..JobFilter::default() }).await.expect("listed");
    queue.store.completions(&CompletionFilter { limit: 5, ..CompletionFilter::default() }).await.expect("listed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_reads_no_table_from_end_to_end_and_few_rows_whatever_waits() {
    let queue = Queue::on_postgres().await;
    queue.place.tamper(&backlog()).await;
    let Place::Schema { server, schema } = &queue.place else { panic!("a schema") };
    let mut connection = PgConnection::connect(server).await.expect("the test server answers");
    // A session's counters arrive with its end at the latest.
    let before = reads_once(&mut connection, schema, BACKLOG as i64).await;
    whole_lives(&queue).await;
    queue.store.close().await;
    let after = reads_once(&mut connection, schema, before.jobs_from_index + 1).await;
    assert_eq!(after.end_to_end, before.end_to_end, "rows read by going through a whole table");
    let read = after.jobs_from_index - before.jobs_from_index;
    assert!(read < 2_000, "{read} index entries of jobs were read for a few of {BACKLOG}");
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
    queue.place.tamper("TRUNCATE jobs CASCADE; ANALYZE jobs, job_specs, attempts, outbox").await;
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
        assert!(read < JOBS * 8, "{read} entries of {index} were read for {JOBS} jobs, one at a time");
    }
    queue.place.remove().await;
}

struct Reads {
    end_to_end: i64,
    jobs_from_index: i64,
    completions_from_index: i64,
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

async fn reads(connection: &mut PgConnection, schema: &str) -> Reads {
    let sql = "SELECT (SELECT sum(seq_tup_read)::BIGINT FROM pg_stat_user_tables WHERE schemaname = $1 \
               AND relname IN ('jobs', 'job_specs', 'attempts', 'attempt_stages', 'log_chunks', 'completions')) AS scans, \
               (SELECT sum(idx_tup_read)::BIGINT FROM pg_stat_user_indexes WHERE schemaname = $1 AND relname = 'jobs') AS tuples, \
               (SELECT sum(idx_tup_read)::BIGINT FROM pg_stat_user_indexes WHERE schemaname = $1 AND relname = 'completions') AS taken";
    let row = sqlx::query(sql).bind(schema).fetch_one(connection).await.expect("the statistics are there");
    Reads { end_to_end: row.get("scans"), jobs_from_index: row.get("tuples"), completions_from_index: row.get("taken") }
}

/// As much history as backlog: ended jobs that retention may remove, each with a completion, all of one line, that is not done with.
fn history(rows: usize) -> String {
    format!(
        "ANALYZE jobs; ANALYZE completions; INSERT INTO routes (id, backend, requires) VALUES (900, 'shell', '[\"old\"]'); \
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
    let after = reads_once(&mut connection, schema, before.jobs_from_index + 1).await;
    assert_eq!(after.end_to_end, before.end_to_end, "rows read by going through a whole table");
    let read = after.jobs_from_index - before.jobs_from_index;
    assert!(read < 2_000, "{read} index entries of jobs were read for a few of {ROWS}");
    let read = after.completions_from_index - before.completions_from_index;
    assert!(read < 2_000, "{read} index entries of completions were read for a few of {ROWS}");
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
