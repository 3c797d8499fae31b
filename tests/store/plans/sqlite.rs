//! How SQLite goes about it, by its plans: it has no counters that would tell what was read.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use sawmill::clock::Timestamp;
use sawmill::job::{JobState, OutcomeClass, Stage, StageRecord};
use sawmill::store::{AuditCursor, Change, Finish, RelieveCursor, Run, Selection};
use sqlx::{AssertSqlSafe, Connection, Row, SqliteConnection};

use super::super::{LONG, Place, Queue, ask, asking, delivered, finish};
use super::{concerned, said, whole_lives};

/// The order of the hot statements, and the index that each goes by.
const PLANS: [(&str, &str); 41] = [
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
    (
        "WITH RECURSIVE ending (id, needs) AS (SELECT d.job, d.needs FROM dependencies d CROSS JOIN jobs j ON j.id = d.job \
         WHERE d.met = 0 AND d.cascade = 1 AND j.held = 'dependency' AND d.needs IN (x'00', x'01') \
         UNION SELECT d.job, d.needs FROM ending CROSS JOIN dependencies d ON d.needs = ending.id CROSS JOIN jobs j ON j.id = d.job \
         WHERE d.met = 0 AND d.cascade = 1 AND j.held = 'dependency') SELECT id, needs FROM ending",
        "SEARCH j USING INDEX sqlite_autoindex_jobs_1 (id=?)",
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
        "SEARCH jobs USING INDEX sqlite_autoindex_jobs_1 (id=?)",
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
        "SCAN jobs USING COVERING INDEX jobs_queued",
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
        "SELECT * FROM (SELECT route, priority, position, id FROM jobs INDEXED BY jobs_claim WHERE state = 'queued' AND held IS NULL \
         AND route = 3 AND (start_by IS NULL OR start_by > 5) AND (concurrency_key IS NULL OR concurrency_key <> 'k' \
         OR concurrency_limit > 1) AND share NOT IN ('p') ORDER BY priority, position, id LIMIT 1) AS h1",
        "SEARCH jobs USING INDEX jobs_claim (route=?)",
    ),
    (
        "SELECT j.id FROM jobs j INDEXED BY jobs_queued WHERE j.state = 'queued' AND j.held IS NULL AND j.id < x'00' \
         ORDER BY j.held DESC, j.id DESC LIMIT 7",
        "SEARCH j USING COVERING INDEX jobs_queued (held=? AND id<?)",
    ),
    (
        "SELECT j.id FROM jobs j INDEXED BY jobs_ended WHERE j.state IN ('succeeded', 'failed', 'cancelled') AND j.state = 'failed' \
         AND j.id > x'00' ORDER BY j.id LIMIT 7",
        "SEARCH j USING COVERING INDEX jobs_ended (state=? AND id>?)",
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

/// All that wait for one, and a chain behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cascade_asks_for_many_at_a_time_whatever_its_shape() {
    const MANY: usize = 150;
    said::listen();
    let queue = Queue::on_sqlite().await;
    let Place::File { directory } = &queue.place else { panic!("a file") };
    let file = directory.path().join("new/queue.db").display().to_string();
    let first = queue.enqueue().await.id;
    let mut last = first;
    for _ in 0..MANY {
        last = queue.enqueue_as(|new| new.spec.after = vec![last]).await.id;
        queue.enqueue_as(|new| new.spec.after = vec![first]).await;
    }
    let before = said::count(&file);
    queue.store.cancel(first, "").await.expect("cancelled");
    let asked = said::count(&file) - before;
    assert!(asked < 80, "{asked} statements for the ends of {} jobs", MANY * 2);
    let left = queue.store.counts().await.expect("counted").jobs;
    assert!(left.contains(&(JobState::Cancelled, MANY as u64 * 2 + 1)), "{left:?}");
    queue.end().await;
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
    queue.place.tamper("UPDATE routes SET used_at = 1").await;
    let mut walk = queue.store.walk_routes().await.expect("answered").expect("due");
    assert!(queue.store.walk_routes_once(&mut walk).await.expect("looked at").is_some());
}

/// What is read from its beginning to its end all the same.
const READ_WHOLE: [&str; 16] = [
    // Few rows.
    "SCAN pragma_synchronous VIRTUAL TABLE INDEX 0:",
    "SCAN routes",
    "SCAN routes USING COVERING INDEX sqlite_autoindex_routes_1",
    "SCAN sqlite_master",
    "SCAN l",
    "SCAN project_limits",
    "SCAN p LEFT-JOIN",
    "SCAN j USING INDEX sqlite_autoindex_pauses_1",
    "SCAN sawmill_migrations USING INDEX sqlite_autoindex_sawmill_migrations_1",
    "SCAN w USING INDEX sqlite_autoindex_workers_1",
    // Lists: their readers go on from page to page.
    "SCAN j USING INDEX sqlite_autoindex_completions_1",
    "SCAN j USING COVERING INDEX sqlite_autoindex_jobs_1",
    "SEARCH j USING INDEX completions_state (state=?)",
    // What reads those that a job waits for, which were found before.
    "SCAN r",
    // Counts that somebody asked for.
    "SCAN j USING COVERING INDEX jobs_queued",
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
            format!("), {name} AS MATERIALIZED ("),
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
    concerned::lives(&queue).await;
    concerned::lists(&queue).await;
    let mut connection = SqliteConnection::connect(&queue.place.url()).await.expect("the file can be opened");
    let mut read = BTreeMap::new();
    let Place::File { directory } = &queue.place else { panic!("a file") };
    let said = said::statements(&directory.path().join("new/queue.db").display().to_string());
    assert!(said.len() > 60, "{said:#?}");
    for statement in said {
        let of_trigger = statement.contains(" OLD.");
        if of_trigger || !["SELECT", "WITH", "INSERT", "UPDATE", "DELETE"].iter().any(|verb| statement.starts_with(verb)) {
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
    let idle: Vec<&str> = READ_WHOLE.into_iter().filter(|step| read.remove(*step).is_none()).collect();
    assert!(idle.is_empty() && read.is_empty(), "read whole as well: {read:#?}; nothing reads these any more: {idle:?}");
    queue.end().await;
}
