//! Rows that say what cannot be, such as a job that runs and has no lease.
//!
//! The one rule: nobody writes one. No statement of ours is checked for it while it is written: PostgreSQL would compile every check anew for
//! each statement, so there the checks are a view, and our writer of a SQLite file leaves its out. The tests of all statements look at them
//! afterwards, and `sawmill doctor`.

use super::Store;
use super::db::Kind;
use super::error::StoreError;
use super::statement::args;

const ON_POSTGRES: &str = "SELECT kept_in || ' ' || key AS row FROM broken_rows LIMIT 10";
/// Of the file only what a bug of ours, or a hand, could have broken: reading all of it would take long.
const ON_SQLITE: &str = "SELECT quick_check AS row FROM pragma_quick_check('jobs') WHERE quick_check <> 'ok' \
    UNION ALL SELECT quick_check FROM pragma_quick_check('attempts') WHERE quick_check <> 'ok' \
    UNION ALL SELECT quick_check FROM pragma_quick_check('outbox') WHERE quick_check <> 'ok' \
    UNION ALL SELECT quick_check FROM pragma_quick_check('completions') WHERE quick_check <> 'ok' \
    UNION ALL SELECT quick_check FROM pragma_quick_check('project_limits') WHERE quick_check <> 'ok' \
    UNION ALL SELECT 'jobs ' || hex(j.id) FROM jobs j WHERE NOT EXISTS (SELECT 1 FROM routes r WHERE r.id = j.route) \
    UNION ALL SELECT 'attempts ' || hex(a.job) FROM attempts a WHERE NOT EXISTS (SELECT 1 FROM jobs j WHERE j.id = a.job) \
    UNION ALL SELECT 'outbox ' || hex(o.job) FROM outbox o WHERE NOT EXISTS (SELECT 1 FROM jobs j WHERE j.id = o.job) LIMIT 10";

#[derive(sqlx::FromRow)]
struct Broken {
    row: String,
}

impl Store {
    /// Some of the rows of jobs, documents, attempts and events that break what must always be true of them, as the database calls them. Reads all
    /// of them.
    ///
    /// # Errors
    /// When the database cannot be asked, or takes too long.
    pub async fn broken_rows(&self) -> Result<Vec<String>, StoreError> {
        let sql = match self.db().kind() {
            Kind::Postgres => ON_POSTGRES,
            Kind::Sqlite => ON_SQLITE,
        };
        let broken: Vec<Broken> = self.db().all(sql, args![]).await?;
        Ok(broken.into_iter().map(|broken| broken.row).collect())
    }
}
