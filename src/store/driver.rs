//! Waiting for the database's answers.
//!
//! The one rule: every wait for one has an end.

use std::future::Future;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Executor, Postgres, Sqlite};

use super::statement::{Arg, Row, for_postgres, for_sqlite, text_for_sqlite};

/// How long a caller waits for one answer: longer than any statement takes, SQLite's wait for its lock included.
const ANSWER: Duration = Duration::from_secs(20);

/// Waits for one answer, and takes none in time for a lost connection.
pub(super) async fn in_time<T>(answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    match tokio::time::timeout(ANSWER, answer).await {
        Ok(result) => result,
        Err(_) => Err(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer in time"))),
    }
}

// The texts of all statements are constants of this room, put together from constants and placeholders; what comes from
// outside is bound. Hence `AssertSqlSafe`.

pub(super) async fn sqlite_run<'c>(
    executor: impl Executor<'c, Database = Sqlite>,
    sql: &str,
    args: Vec<Arg>,
) -> Result<u64, sqlx::Error> {
    let query = sqlx::query_with(AssertSqlSafe(&*text_for_sqlite(sql)), for_sqlite(args)?);
    Ok(in_time(query.execute(executor)).await?.rows_affected())
}

pub(super) async fn postgres_run<'c>(
    executor: impl Executor<'c, Database = Postgres>,
    sql: &str,
    args: Vec<Arg>,
) -> Result<u64, sqlx::Error> {
    let query = sqlx::query_with(AssertSqlSafe(sql), for_postgres(args)?);
    Ok(in_time(query.execute(executor)).await?.rows_affected())
}

pub(super) async fn sqlite_all<'c, R: Row>(
    executor: impl Executor<'c, Database = Sqlite>,
    sql: &str,
    args: Vec<Arg>,
) -> Result<Vec<R>, sqlx::Error> {
    in_time(sqlx::query_as_with(AssertSqlSafe(&*text_for_sqlite(sql)), for_sqlite(args)?).fetch_all(executor)).await
}

pub(super) async fn postgres_all<'c, R: Row>(
    executor: impl Executor<'c, Database = Postgres>,
    sql: &str,
    args: Vec<Arg>,
) -> Result<Vec<R>, sqlx::Error> {
    in_time(sqlx::query_as_with(AssertSqlSafe(sql), for_postgres(args)?).fetch_all(executor)).await
}
