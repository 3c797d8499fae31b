//! What the database itself notes while the torture goes on: every end of a job, and every change to what had ended.
//!
//! Triggers do it, within the transactions of the workers, so that nothing that was undone later on goes unseen.

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row, SqliteConnection};

const TABLE: &str = "CREATE TABLE audit (what TEXT NOT NULL, job TEXT NOT NULL, attempt BIGINT)";

const ON_POSTGRES: &str = "
    CREATE FUNCTION audit_jobs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO audit VALUES (CASE WHEN OLD.finished_at IS NULL THEN 'ended' ELSE 'a job was changed after its end' END,
            NEW.id::TEXT, NEW.attempt);
        RETURN NULL;
    END $$;
    CREATE TRIGGER audit_jobs AFTER UPDATE ON jobs FOR EACH ROW
        WHEN (OLD.finished_at IS NOT NULL OR NEW.finished_at IS NOT NULL) EXECUTE FUNCTION audit_jobs();
    CREATE FUNCTION audit_attempts() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO audit VALUES ('an attempt was changed after its end', NEW.job::TEXT, NEW.attempt);
        RETURN NULL;
    END $$;
    CREATE TRIGGER audit_attempts AFTER UPDATE ON attempts FOR EACH ROW
        WHEN (OLD.ended_at IS NOT NULL) EXECUTE FUNCTION audit_attempts();
    CREATE FUNCTION audit_logs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF TG_OP <> 'INSERT' THEN
            INSERT INTO audit VALUES ('a log was changed', OLD.job::TEXT, OLD.attempt);
        ELSIF EXISTS (SELECT 1 FROM attempts a WHERE a.job = NEW.job AND a.attempt = NEW.attempt AND a.ended_at IS NOT NULL) THEN
            INSERT INTO audit VALUES ('a log grew after its end', NEW.job::TEXT, NEW.attempt);
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER audit_logs AFTER INSERT OR UPDATE OR DELETE ON log_chunks FOR EACH ROW EXECUTE FUNCTION audit_logs();
    CREATE FUNCTION audit_completions() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO audit VALUES ('a completion was changed', OLD.job::TEXT, OLD.attempt);
        RETURN NULL;
    END $$;
    CREATE TRIGGER audit_completions AFTER UPDATE OR DELETE ON completions FOR EACH ROW EXECUTE FUNCTION audit_completions();
";

const ON_SQLITE: &str = "
    CREATE TRIGGER audit_jobs AFTER UPDATE ON jobs WHEN OLD.finished_at IS NOT NULL OR NEW.finished_at IS NOT NULL BEGIN
        INSERT INTO audit VALUES (CASE WHEN OLD.finished_at IS NULL THEN 'ended' ELSE 'a job was changed after its end' END,
            hex(NEW.id), NEW.attempt);
    END;
    CREATE TRIGGER audit_attempts AFTER UPDATE ON attempts WHEN OLD.ended_at IS NOT NULL BEGIN
        INSERT INTO audit VALUES ('an attempt was changed after its end', hex(NEW.job), NEW.attempt);
    END;
    CREATE TRIGGER audit_log_grows AFTER INSERT ON log_chunks
        WHEN EXISTS (SELECT 1 FROM attempts a WHERE a.job = NEW.job AND a.attempt = NEW.attempt AND a.ended_at IS NOT NULL) BEGIN
        INSERT INTO audit VALUES ('a log grew after its end', hex(NEW.job), NEW.attempt);
    END;
    CREATE TRIGGER audit_log_changes AFTER UPDATE ON log_chunks BEGIN
        INSERT INTO audit VALUES ('a log was changed', hex(OLD.job), OLD.attempt);
    END;
    CREATE TRIGGER audit_completions AFTER UPDATE ON completions BEGIN
        INSERT INTO audit VALUES ('a completion was changed', hex(OLD.job), OLD.attempt);
    END;
";

/// Jobs that have not ended once, and rows that something still holds.
const QUESTIONS: [(&str, &str); 4] = [
    (
        "jobs that ended more than once",
        "SELECT count(*) FROM (SELECT job FROM audit WHERE what = 'ended' GROUP BY job HAVING count(*) > 1) AS twice",
    ),
    (
        "ends that were not noted, or of no job",
        "SELECT abs((SELECT count(*) FROM jobs) - (SELECT count(*) FROM audit WHERE what = 'ended'))",
    ),
    (
        "jobs that are held, or have not ended",
        "SELECT count(*) FROM jobs WHERE state NOT IN ('succeeded', 'failed', 'cancelled') \
         OR worker IS NOT NULL OR token IS NOT NULL OR lease_until IS NOT NULL",
    ),
    ("attempts that have not ended", "SELECT count(*) FROM attempts WHERE ended_at IS NULL"),
];
const LATE: &str =
    "SELECT what || ': job ' || job || ' attempt ' || coalesce(attempt, 0) FROM audit WHERE what <> 'ended' LIMIT 50";

/// A connection of the test's own.
enum Database {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Database {
    async fn open(url: &str) -> Self {
        if url.starts_with("sqlite:") {
            Self::Sqlite(SqliteConnection::connect(url).await.expect("the file can be opened"))
        } else {
            Self::Postgres(PgConnection::connect(url).await.expect("the server answers"))
        }
    }

    async fn run(&mut self, sql: &'static str) {
        match self {
            Self::Sqlite(connection) => connection.execute(sqlx::raw_sql(sql)).await.map(drop).expect("run"),
            Self::Postgres(connection) => connection.execute(sqlx::raw_sql(sql)).await.map(drop).expect("run"),
        }
    }

    async fn number(&mut self, sql: &'static str) -> i64 {
        match self {
            Self::Sqlite(connection) => connection.fetch_one(AssertSqlSafe(sql)).await.expect("a row").get(0),
            Self::Postgres(connection) => connection.fetch_one(AssertSqlSafe(sql)).await.expect("a row").get(0),
        }
    }

    async fn texts(&mut self, sql: &'static str) -> Vec<String> {
        match self {
            Self::Sqlite(connection) => {
                connection.fetch_all(AssertSqlSafe(sql)).await.expect("rows").iter().map(|row| row.get(0)).collect()
            }
            Self::Postgres(connection) => {
                connection.fetch_all(AssertSqlSafe(sql)).await.expect("rows").iter().map(|row| row.get(0)).collect()
            }
        }
    }
}

/// Has the database take notes from now on.
pub(super) async fn begin(url: &str) {
    let mut database = Database::open(url).await;
    database.run(TABLE).await;
    database.run(if url.starts_with("sqlite:") { ON_SQLITE } else { ON_POSTGRES }).await;
}

/// What the notes say that should not be.
pub(super) async fn faults(url: &str) -> Vec<String> {
    let mut database = Database::open(url).await;
    let mut faults = database.texts(LATE).await;
    for (what, question) in QUESTIONS {
        let count = database.number(question).await;
        if count != 0 {
            faults.push(format!("{what}: {count}"));
        }
    }
    faults
}
