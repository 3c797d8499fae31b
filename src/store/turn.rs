//! Whose turn it is: where a job comes in among those of the same route and priority.
//!
//! The one rule: shares take turns. A share's next job comes in one stride behind its last one that waits, and where none of its
//! jobs waits, level with the job that is next; so a share that comes late waits for one round and not for a backlog. (Start-time
//! fair queueing, Goyal, Vin and Cheng 1996, with the head of the queue for its virtual time.) Everything that is needed is
//! read from the ends of two indexes (of one for each route, where none of the job's own waits), so it costs the same whatever
//! waits, and nobody waits for a counter.
//!
//! SQLite is told which indexes those are: by what it may have counted it would read all that waits, where that is all alike.
//!
//! What comes back into the queue (a backoff that is over, a limit that has room) comes in level with the job that is next; the
//! older of two is first.

/// The stride of a share of weight 1.
const STRIDE: i64 = 1_000_000;

/// The highest weight.
pub(super) const WEIGHT_MAX: u32 = 1_000;

/// How far apart the jobs of a share of `weight` are: the higher its weight, the more often it is its turn.
pub(super) fn stride(weight: u32) -> i64 {
    STRIDE / i64::from(weight.clamp(1, WEIGHT_MAX))
}

/// Where the queue of a route and a priority has come to: the position of the job that is next, and where none waits that of the
/// job that is next of all routes, so that they keep pace. Each is the end of an index.
macro_rules! level {
    ($route:literal, $priority:literal) => {
        concat!(
            "(SELECT h.position FROM jobs h /*! INDEXED BY jobs_claim */ WHERE h.state = 'queued' AND h.held IS NULL AND h.route = ",
            $route,
            " AND h.priority = ",
            $priority,
            " ORDER BY h.position, h.id LIMIT 1), \
             (SELECT min((SELECT h.position FROM jobs h /*! INDEXED BY jobs_claim */ WHERE h.state = 'queued' AND h.held IS NULL AND h.route = r.id \
             AND h.priority = ",
            $priority,
            " ORDER BY h.position, h.id LIMIT 1)) FROM routes r)"
        )
    };
}
pub(super) use level;

/// The position of a new job: `$1` is its route, `$2` its priority, `$3` its share, `$4` the stride.
pub(super) const NEW: &str = concat!(
    "coalesce((SELECT t.position + $4 FROM jobs t /*! INDEXED BY jobs_turn */ WHERE t.state = 'queued' AND t.held IS NULL AND t.route = $1 \
     AND t.priority = $2 AND t.share = $3 ORDER BY t.position DESC LIMIT 1), ",
    level!("$1", "$2"),
    ", 0)"
);

/// The position with which a row of `jobs` comes back into the queue. Never its old one, which may be far before the others:
/// whoever comes in level with it would pass them.
macro_rules! back {
    () => {
        concat!("coalesce(", $crate::store::turn::level!("jobs.route", "jobs.priority"), ", jobs.position)")
    };
}
pub(super) use back;

#[cfg(test)]
mod tests {
    use sqlx::{AssertSqlSafe, Connection, Row, SqliteConnection};

    use super::super::enqueue::insert_job;
    use super::super::statement::{Arg, args, for_sqlite, text_for_sqlite};
    use super::STRIDE;

    #[tokio::test]
    async fn sqlite_reads_the_ends_of_two_indexes_whatever_it_has_counted() {
        let mut file = SqliteConnection::connect("sqlite::memory:").await.expect("a database");
        let backlog = "INSERT INTO routes (id, backend, requires, used_at) VALUES (1, 'shell', '', 0), (2, 'other', '', 0); \
            WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) INSERT INTO jobs (id, repo, base, branch, \
            route, priority, position, share, state, ready_at, attempts_max, created_at) \
            SELECT randomblob(16), 'r', 'b', 'n' || i, 1, 1, 0, '', 'queued', 1, 1, 1 FROM n; ANALYZE";
        for statements in [include_str!("../../migrations/sqlite/0001_queue.sql"), backlog] {
            sqlx::raw_sql(statements).execute(&mut file).await.expect("legal");
        }
        let insert = insert_job();
        for route in [1, 2] {
            let mut args = args![route, 1, "", STRIDE];
            args.resize(23, Arg::Int(Some(1)));
            let explain = format!("EXPLAIN QUERY PLAN {}", text_for_sqlite(&insert));
            let explain = sqlx::query_with(AssertSqlSafe(explain), for_sqlite(args).expect("bound"));
            let plan: Vec<String> =
                explain.fetch_all(&mut file).await.expect("explained").iter().map(|row| row.get("detail")).collect();
            assert!(plan.iter().any(|step| step.contains("INDEX jobs_turn (route=? AND priority=? AND share=?)")), "{plan:?}");
            assert!(!plan.iter().any(|step| step.starts_with("SCAN h") || step.contains("TEMP B-TREE")), "{plan:?}");
        }
    }
}
