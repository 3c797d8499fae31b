//! A database that is not there, says no, or is not ours.

use sqlx::{Connection as _, Executor as _, SqliteConnection};

use super::site::Site;

fn at(url: &str) -> String {
    Site::new().with("SAWMILL_QUEUE__URL", url).says(&["jobs"])
}

/// The address of the tests' PostgreSQL, with another user or database.
fn server(edit: impl FnOnce(&mut url::Url)) -> String {
    let address = std::env::var("SAWMILL_TEST_POSTGRES")
        .expect("SAWMILL_TEST_POSTGRES is not set: run the tests with `make test`, which starts a PostgreSQL for them");
    let mut url = url::Url::parse(&address).expect("a URL");
    edit(&mut url);
    url.to_string()
}

#[test]
fn a_url_that_names_no_database_is_refused() {
    insta::assert_snapshot!(at("mysql://root:hunter2@127.0.0.1/queue"), @r#"
    exit 2
    error: cannot use database url "mysql://***@127.0.0.1/queue": it begins neither with "sqlite:" nor with "postgres://"
    "#);
    insta::assert_snapshot!(at("sqlite:"), @r#"
    exit 2
    error: cannot use database url "sqlite:": it names no file
    "#);
}

#[test]
fn a_server_that_refuses_connections_is_named_with_the_next_step() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    insta::assert_snapshot!(at(&format!("postgres://app:hunter2@{free}/queue")), @r#"
    exit 5
    error: cannot reach database postgres://127.0.0.1:[port]/queue: Connection refused (os error 111); check that it runs, and [queue] url
    "#);
}

#[test]
fn the_configuration_is_shown_all_the_same() {
    let site = Site::new().with("SAWMILL_QUEUE__URL", "postgres://app:hunter2@127.0.0.1:1/queue");
    let said = site.says(&["config", "show"]);
    assert!(
        said.starts_with("exit 0\n") && said.contains("queue.url = \"postgres://app:hidden@127.0.0.1:[port]/queue\""),
        "{said}"
    );
    // A server answers for itself.
    assert!(site.says(&["--server", "127.0.0.1:1", "config", "show"]).starts_with("exit 5\n"));
}

#[test]
fn what_was_migrated_is_told_to_programs_too() {
    let site = Site::new();
    for applied in [2, 0] {
        let said: serde_json::Value = serde_json::from_slice(&site.run(&["migrate", "--json"], "").stdout).expect("JSON");
        assert_eq!((said["schema"].as_i64(), said["applied"].as_array().map(Vec::len)), (Some(2), Some(applied)), "{said}");
    }
}

#[test]
fn a_server_that_says_no_is_quoted() {
    insta::assert_snapshot!(at(&server(|url| url.set_path("/no_such_database"))), @r#"
    exit 5
    error: cannot open database postgres://127.0.0.1:[port]/no_such_database: database "no_such_database" does not exist; check [queue] url
    "#);
    insta::assert_snapshot!(at(&server(|url| {
        url.set_username("nobody_we_know").expect("a user");
        url.set_password(Some("hunter2")).expect("a password");
    })), @r#"
    exit 5
    error: cannot open database postgres://127.0.0.1:[port]/sawmill: role "nobody_we_know" does not exist; check [queue] url
    "#);
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    insta::assert_snapshot!(at("sqlite:/proc/nowhere/queue.db"), @r#"
    exit 5
    error: cannot create directory /proc/nowhere for the database; check [queue] url
      because: No such file or directory (os error 2)
    "#);
    insta::assert_snapshot!(at("sqlite:/proc/queue.db"), @r#"
    exit 5
    error: cannot open the database file /proc/queue.db for writing; check its owner and rights, or [queue] url
      because: No such file or directory (os error 2)
    "#);
    let site = Site::new();
    std::fs::write(site.path("text.db"), "This is no database, and long enough to be taken for one.".repeat(100))
        .expect("a file");
    let url = format!("sqlite:{}", site.path("text.db").display());
    insta::assert_snapshot!(site.with("SAWMILL_QUEUE__URL", &url).says(&["jobs"]), @r#"
    exit 5
    error: cannot read database sqlite:[site]/text.db: file is not a database
    "#);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_is_newer_than_the_program_is_left_alone() {
    let site = Site::new();
    insta::assert_snapshot!(site.says(&["migrate"]), @r#"
    exit 0
    sqlite:[site]/queue.db is now at schema 2: applied 0001_queue, 0002_judgement
    "#);
    let mut file =
        SqliteConnection::connect(&format!("sqlite:{}", site.path("queue.db").display())).await.expect("the file opens");
    file.execute("INSERT INTO sawmill_migrations VALUES (999, '0999_future', 0, 0)").await.expect("a row");
    file.close().await.expect("closed");
    insta::assert_snapshot!(site.says(&["jobs"]), @r#"
    exit 5
    error: cannot use database sqlite:[site]/queue.db: its schema is version 999, and this build of sawmill knows versions up to 2; run a newer sawmill, or point [queue] url at another database
    "#);
    insta::assert_snapshot!(site.says(&["worker"]), @r#"
    exit 5
    error: cannot use database sqlite:[site]/queue.db: its schema is version 999, and this build of sawmill knows versions up to 2; run a newer sawmill, or point [queue] url at another database
    "#);
    insta::assert_snapshot!(site.says(&["migrate"]), @r#"
    exit 5
    error: cannot use database sqlite:[site]/queue.db: its schema is version 999, and this build of sawmill knows versions up to 2; run a newer sawmill, or point [queue] url at another database
    "#);
    let doctor = site.says(&["doctor"]);
    let database = doctor.lines().find(|line| line.starts_with("database")).expect("a finding").to_owned();
    assert!(
        doctor.starts_with("exit 1\n") && database.contains("failed") && database.contains("run a newer sawmill"),
        "{doctor}"
    );
}
