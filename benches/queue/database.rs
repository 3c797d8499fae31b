//! Where the queues live: a database on the server, or a file, for each queue and load. It is filled by SQL, since a million jobs
//! enqueued one by one would take longer than everything else.

use std::path::{Path, PathBuf};

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, SqliteConnection};

/// A database of its own.
#[derive(Debug, Clone)]
pub(crate) enum Database {
    Server(String),
    File(PathBuf),
}

impl Database {
    /// Makes an empty database on the server that `server` names, in place of one that an earlier run left.
    pub(crate) async fn on_server(server: &str, name: &str) -> Self {
        let mut connection = PgConnection::connect(server).await.expect("the server answers");
        for sql in [format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"), format!("CREATE DATABASE {name}")] {
            connection.execute(AssertSqlSafe(sql)).await.expect("a database can be made");
        }
        let mut url = url::Url::parse(server).expect("a URL");
        url.set_path(name);
        Self::Server(url.into())
    }

    /// A file that does not exist yet.
    pub(crate) fn in_file(directory: &Path, name: &str) -> Self {
        Self::File(directory.join(format!("{name}.db")))
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Self::Server(url) => url.clone(),
            Self::File(path) => format!("sqlite:{}", path.display()),
        }
    }

    pub(crate) fn is_server(&self) -> bool {
        matches!(self, Self::Server(_))
    }

    /// Runs statements, one after the other.
    pub(crate) async fn run(&self, sql: &str) {
        let done = match self {
            Self::Server(url) => {
                let mut connection = PgConnection::connect(url).await.expect("the server answers");
                connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.map(drop)
            }
            Self::File(_) => {
                let mut connection = SqliteConnection::connect(&self.url()).await.expect("the file opens");
                connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.map(drop)
            }
        };
        done.unwrap_or_else(|error| panic!("{error}: {sql}"));
    }

    /// The texts in the first column of what a query yields.
    pub(crate) async fn texts(&self, sql: &str) -> Vec<String> {
        let query = sqlx::query_scalar(AssertSqlSafe(sql));
        let found = match self {
            Self::Server(url) => {
                let mut connection = PgConnection::connect(url).await.expect("the server answers");
                query.fetch_all(&mut connection).await
            }
            Self::File(_) => {
                let mut connection = SqliteConnection::connect(&self.url()).await.expect("the file opens");
                sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut connection).await
            }
        };
        found.unwrap_or_else(|error| panic!("{error}: {sql}"))
    }

    /// The number that a query yields.
    pub(crate) async fn number(&self, sql: &str) -> u64 {
        self.texts(&format!("SELECT CAST(({sql}) AS TEXT)")).await[0].parse().expect("a number")
    }

    /// Brings the planner's statistics up to date, as the server does by itself some time after a load; `counted` says whether those of a file
    /// are to be there.
    pub(crate) async fn settle(&self, counted: bool) {
        match self {
            Self::Server(_) => {
                self.run("VACUUM ANALYZE").await;
                self.run("CHECKPOINT").await;
            }
            Self::File(_) if counted => self.run("ANALYZE; PRAGMA wal_checkpoint(TRUNCATE)").await,
            Self::File(_) => self.run("PRAGMA wal_checkpoint(TRUNCATE)").await,
        }
    }

    /// Takes the database away.
    pub(crate) async fn remove(&self, server: &str) {
        let Self::Server(url) = self else { return };
        let name = url.rsplit('/').next().expect("a name").to_owned();
        let mut connection = PgConnection::connect(server).await.expect("the server answers");
        let sql = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
        connection.execute(AssertSqlSafe(sql)).await.expect("a database can be dropped");
    }
}
