//! Reading the database's URL.
//!
//! The one rule: the label, by which everything names the database, never has a password in it.

use std::path::PathBuf;
use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;

use super::error::StoreError;

/// Where a database is.
#[derive(Debug, Clone)]
pub(super) enum Address {
    /// A file on this host.
    Sqlite(PathBuf),
    /// A server.
    Postgres(Box<PgConnectOptions>),
}

/// Reads `url`, and returns with the address the label by which messages name the database.
pub(super) fn parse(url: &str) -> Result<(Address, String), StoreError> {
    let bad = |why: &str| StoreError::BadUrl { url: redacted(url), why: why.to_owned() };
    if let Some(path) = url.strip_prefix("sqlite:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.is_empty() || path.ends_with('/') {
            return Err(bad("it names no file"));
        }
        if path.contains(":memory:") {
            return Err(bad("several connections, and often several processes, share the queue: it needs a file"));
        }
        if path.contains('?') {
            return Err(bad("a SQLite file takes no parameters"));
        }
        return Ok((Address::Sqlite(PathBuf::from(path)), format!("sqlite:{path}")));
    }
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        let parsed = url::Url::parse(url).map_err(|error| bad(&error.to_string()))?;
        let options = PgConnectOptions::from_str(url).map_err(|error| bad(&error.to_string()))?;
        let named = parsed.query_pairs().any(|(key, _)| key == "application_name");
        let options = if named { options } else { options.application_name("sawmill") };
        return Ok((Address::Postgres(Box::new(options)), label(&parsed)));
    }
    Err(bad("it begins neither with \"sqlite:\" nor with \"postgres://\""))
}

/// Server and database, without user, password and parameters, any of which may be secret.
fn label(url: &url::Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("postgres://{}{port}{}", url.host_str().unwrap_or_default(), url.path())
}

/// `url` as it may be shown: everything between the scheme and the last `@` is left out, and so are parameters. It must work
/// for what is no URL at all.
fn redacted(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (&url[..scheme.len() + 3], rest));
    // A password with an unescaped "?" must not survive either, so the credentials go first.
    let shown = match rest.rsplit_once('@') {
        Some((_, place)) => format!("{scheme}***@{place}"),
        None => format!("{scheme}{rest}"),
    };
    if url.starts_with("sqlite:") {
        return shown;
    }
    shown.split_once('?').map(|(before, _)| format!("{before}?***")).unwrap_or(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(url: &str) -> String {
        match parse(url) {
            Ok((_, label)) => label,
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_url_names_a_file_or_a_server() {
        let check = |url: &str, expected: &str| assert_eq!(shown(url), expected);
        check("sqlite:/var/lib/sawmill/queue.db", "sqlite:/var/lib/sawmill/queue.db");
        check("sqlite:queue.db", "sqlite:queue.db");
        check("sqlite:///abs/queue.db", "sqlite:/abs/queue.db");
        check("postgres://u:secret@db.example:5433/q?options=-c%20search_path%3Dx", "postgres://db.example:5433/q");
        check("postgresql://localhost/q", "postgres://localhost/q");
        check("sqlite:", r#"cannot use database url "sqlite:": it names no file"#);
        check("sqlite:q.db?mode=ro", r#"cannot use database url "sqlite:q.db?mode=ro": a SQLite file takes no parameters"#);
        check(
            "mysql://root:hunter2@h/q?password=hunter2",
            r#"cannot use database url "mysql://***@h/q?***": it begins neither with "sqlite:" nor with "postgres://""#,
        );
        check("queue.db", r#"cannot use database url "queue.db": it begins neither with "sqlite:" nor with "postgres://""#);
    }

    #[test]
    fn no_message_shows_a_password() {
        for url in [
            "postgres://u:hunter2@h:notaport/q",
            "postgres://u:hunter2@h/q?sslmode=wrong",
            "postgres://u:hunter2@",
            "postgres://u:hunt?er2@h:x/q",
            "postgres://h:x/q?password=hunter2",
            "psql://u:hunter2@h/q",
        ] {
            let text = shown(url);
            assert!(!text.contains("hunt") && !text.contains("er2"), "{text}");
        }
    }
}
