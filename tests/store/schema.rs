//! Migrations, and databases that cannot be used.

use std::collections::BTreeSet;
use std::path::Path;

use sqlx::{Connection, SqliteConnection};

use sawmill::store::{MIGRATIONS, Store, StoreError};

use super::{Place, Queue, config, on_both, server};

fn files(database: &str) -> BTreeSet<String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(database);
    let entries = std::fs::read_dir(directory).expect("the migrations are there");
    entries.map(|entry| entry.expect("readable").file_name().into_string().expect("UTF-8")).collect()
}

#[test]
fn both_databases_have_the_same_migrations_and_the_binary_has_them_all() {
    let embedded: BTreeSet<String> = MIGRATIONS.iter().map(|migration| format!("{}.sql", migration.name)).collect();
    assert_eq!(files("sqlite"), embedded);
    assert_eq!(files("postgres"), embedded);
    for (index, migration) in MIGRATIONS.iter().enumerate() {
        assert_eq!(migration.version, index as i64 + 1, "{}", migration.name);
        assert_eq!(migration.name.split('_').next(), Some(format!("{:04}", migration.version).as_str()));
    }
}

/// What a script creates: the names of tables with their columns, and of indexes. Not what becomes of them in the end.
fn created(script: &str) -> Vec<String> {
    let mut names = Vec::new();
    for line in script
        .lines()
        .take_while(|line| !["DO $$", "CREATE TRIGGER"].iter().any(|end| line.starts_with(end)))
        .filter(|line| !line.trim_start().starts_with("--"))
    {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["CREATE", "TABLE", name, ..] => names.push(format!("table {name}")),
            ["CREATE", ..] => names.push(line.to_owned()),
            ["CHECK" | "PRIMARY" | "UNIQUE" | "FOREIGN", ..] => names.push(line.to_owned()),
            [column, _, ..] if line.starts_with("    ") => names.push(format!("column {column}")),
            _ => {}
        }
    }
    names
}

#[test]
fn the_two_scripts_of_a_migration_create_the_same_tables_columns_constraints_and_indexes() {
    for migration in MIGRATIONS {
        assert_eq!(created(migration.sqlite), created(migration.postgres), "{}", migration.name);
        assert!(created(migration.sqlite).len() > 5, "{}", migration.name);
    }
}

on_both! {
    async fn migrating_a_database_that_is_in_use_leaves_what_is_in_it(queue) {
        let job = queue.enqueue().await;
        let claimed = queue.claim("w").await;
        let again = queue.store.migrate().await.expect("nothing to do");
        assert_eq!((again.applied.len(), again.version), (0, MIGRATIONS.len() as i64));
        queue.store.check_schema().await.expect("current");
        let other = queue.other(|_| ()).await;
        assert_eq!(other.job(job.id).await.expect("there"), claimed.job);
        other.close().await;
    }

    async fn rows_that_contradict_themselves_are_found(queue) {
        let job = queue.enqueue().await;
        let found = async || queue.store.broken_rows().await.expect("read");
        assert!(found().await.is_empty());
        let unchecked = matches!(queue.place, Place::File { .. }).then_some("PRAGMA ignore_check_constraints = on;").unwrap_or_default();
        queue.place.tamper(&format!("{unchecked} UPDATE jobs SET outcome_message = 'of no outcome'")).await;
        let broken = found().await;
        assert!(broken.len() == 1 && broken[0].contains("jobs"), "{broken:?}");
        if matches!(queue.place, Place::Schema { .. }) {
            assert_eq!(broken[0], format!("jobs {}", job.id));
        }
        queue.place.tamper(&format!("{unchecked} UPDATE jobs SET outcome_message = NULL")).await;
        let (id, nobody) = (uuid::Uuid::nil(), uuid::Uuid::max());
        let (values, named) = match queue.place {
            Place::Schema { .. } => (format!("'{id}', '{nobody}'"), format!("outbox {nobody} {id}")),
            Place::File { .. } => {
                (format!("x'{}', x'{}'", id.simple(), nobody.simple()), format!("outbox {:X}", nobody.simple()))
            }
        };
        queue.place.tamper(&format!("INSERT INTO outbox (id, job, state, created_at) VALUES ({values}, 'failed', 1)")).await;
        assert_eq!(found().await, [named]);
        queue.place.tamper("DELETE FROM outbox").await;
        // A file looks at these itself, when they are written.
        if matches!(queue.place, Place::Schema { .. }) {
            queue.place.tamper(&format!("INSERT INTO job_specs (job, digest, document) VALUES ('{nobody}', 'd', '{{}}')")).await;
            assert_eq!(found().await, [format!("job_specs {nobody}")]);
            queue.place.tamper(&format!("DELETE FROM job_specs WHERE job = '{nobody}'")).await;
        }
    }

    async fn a_newer_schema_is_refused_with_what_to_do(queue) {
        queue.place.tamper("INSERT INTO sawmill_migrations VALUES (999, '0999_future', 0, 0)").await;
        for answer in [Store::connect(&queue.config).await.map(drop), queue.store.check_schema().await] {
            let error = answer.expect_err("a newer schema");
            assert!(matches!(error, StoreError::NewerSchema { found: 999, .. }), "{error}");
            assert!(error.to_string().contains("run a newer sawmill"), "{error}");
            assert!(!error.is_transient());
        }
    }

    async fn a_migration_that_was_altered_afterwards_is_noticed(queue) {
        queue.place.tamper("UPDATE sawmill_migrations SET crc = crc + 1 WHERE version = 1").await;
        let error = queue.store.migrate().await.expect_err("altered");
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    }
}

async fn an_empty_database_is_migrated_once_by_many(place: Place) {
    let config = config(place.url());
    let empty = Store::connect_unmigrated(&config).await.expect("opened");
    assert_eq!(empty.schema_version().await.expect("answered"), 0);
    let error = empty.check_schema().await.expect_err("it is empty");
    assert!(matches!(error, StoreError::OlderSchema { found: 0, .. }), "{error}");
    assert!(error.to_string().contains("sawmill migrate"), "{error}");
    let tasks: Vec<_> = (0..6)
        .map(|_| {
            let config = config.clone();
            tokio::spawn(async move {
                let store = Store::connect_unmigrated(&config).await.expect("opened");
                let applied = store.migrate().await.expect("migrated").applied.len();
                store.close().await;
                applied
            })
        })
        .collect();
    let mut applied = 0;
    for task in tasks {
        applied += task.await.expect("no panic");
    }
    assert_eq!(applied, MIGRATIONS.len());
    empty.check_schema().await.expect("current");
    empty.close().await;
    place.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_file_is_migrated_once_by_many_processes() {
    an_empty_database_is_migrated_once_by_many(Place::file()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_schema_is_migrated_once_by_many_processes() {
    an_empty_database_is_migrated_once_by_many(Place::schema().await).await;
}

/// What it has counted makes SQLite read whole tables for what is at the end of an index.
#[tokio::test]
async fn what_sqlite_has_counted_is_forgotten() {
    let queue = Queue::on_sqlite().await;
    queue.enqueue().await;
    queue.place.tamper("ANALYZE").await;
    let counted = async || {
        let mut file = SqliteConnection::connect(&queue.place.url()).await.expect("the file can be opened");
        let counted = sqlx::query("SELECT name FROM sqlite_schema WHERE name LIKE 'sqlite_stat%'").fetch_all(&mut file).await;
        file.close().await.expect("closed");
        counted.expect("answered").len()
    };
    assert_ne!(counted().await, 0);
    queue.other(|_| ()).await.close().await;
    assert_eq!(counted().await, 0);
    queue.end().await;
}

#[tokio::test]
async fn a_database_that_cannot_be_opened_says_why() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("file");
    std::fs::write(&file, "no database, but longer than a header of one would be, so that it cannot be taken for an empty one")
        .expect("written");
    let open = async |url: String| Store::connect(&config(url)).await.map(drop).expect_err("it cannot be opened");
    let text = open("queue.db".to_owned()).await.to_string();
    insta::assert_snapshot!(text, @r#"cannot use database url "queue.db": it begins neither with "sqlite:" nor with "postgres://""#);
    let not_one = open(format!("sqlite:{}", file.display())).await;
    assert!(matches!(not_one, StoreError::Corrupt { .. }), "{not_one}");
    let below_a_file = open(format!("sqlite:{}/queue.db", file.display())).await;
    assert!(matches!(below_a_file, StoreError::Directory { .. }), "{below_a_file}");
    let a_directory = open(format!("sqlite:{}", directory.path().display())).await;
    assert!(matches!(a_directory, StoreError::Refused { .. }), "{a_directory}");
    let nobody = open("postgres://u:hunter2@127.0.0.1:1/q".to_owned()).await;
    assert!(matches!(nobody, StoreError::Unreachable { .. }) && nobody.is_transient(), "{nobody}");
    assert!(nobody.to_string().starts_with("cannot reach database postgres://127.0.0.1:1/q: "), "{nobody}");
    assert!(!format!("{nobody} {nobody:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_server_without_the_database_or_the_schema_says_so() {
    let server = server();
    let (before, _) = server.rsplit_once('/').expect("a path");
    let none = Store::connect(&config(format!("{before}/no_such_database"))).await.map(drop).expect_err("there is none");
    assert!(matches!(none, StoreError::Refused { .. }) && !none.is_transient(), "{none}");
    assert!(none.to_string().contains("\"no_such_database\" does not exist"), "{none}");
    let schemaless = config(format!("{server}?options=-c%20search_path%3Dno_such_schema"));
    let none = Store::connect(&schemaless).await.map(drop).expect_err("there is none");
    assert!(matches!(none, StoreError::BadUrl { .. }), "{none}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_cut_every_connection_is_used_again() {
    let queue = Queue::on_postgres().await;
    let job = queue.enqueue().await;
    let claim = queue.claim("w").await;
    queue.place.cut_sessions().await;
    for _ in 0..20 {
        match queue.store.check_claim(&claim.claim).await {
            Ok(_) => break,
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
    }
    queue.store.check_claim(&claim.claim).await.expect("connected again");
    assert_eq!(queue.store.job(job.id).await.expect("there").id, job.id);
    queue.end().await;
}

#[tokio::test]
async fn only_its_owner_can_read_a_sqlite_file_and_its_journals() {
    use std::os::unix::fs::PermissionsExt;

    let queue = Queue::on_sqlite().await;
    queue.enqueue().await;
    let Place::File { directory } = &queue.place else { panic!("a file") };
    let mut seen = 0;
    for entry in std::fs::read_dir(directory.path().join("new")).expect("the database's directory") {
        let entry = entry.expect("readable");
        let mode = entry.metadata().expect("there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.file_name());
        seen += 1;
    }
    assert!(seen >= 2, "the database and its journal");
    queue.end().await;
}
