//! Statements with their arguments, in the form in which they are written once for both databases. What is in `/*! … */` is for SQLite,
//! and a comment to PostgreSQL.

use std::borrow::Cow;
use std::fmt::Write;

use sqlx::Arguments;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::ids::{AttemptNo, ClaimToken, CompletionId, JobId, ObjectId, WorkerId};

/// A value bound to a statement. These are all the column types that there are.
#[derive(Debug, Clone)]
pub(super) enum Arg {
    Int(Option<i64>),
    Text(Option<String>),
    Uuid(Option<Uuid>),
    Bytes(Vec<u8>),
}

/// Anything that [`Arg`] can be made from, as the arguments `$1`, `$2`, … of a statement.
macro_rules! args {
    ($($value:expr),* $(,)?) => { vec![$($crate::store::statement::Arg::from($value)),*] };
}
pub(super) use args;

macro_rules! arg_from {
    ($($source:ty => |$value:ident| $arg:expr;)*) => {
        $(impl From<$source> for Arg {
            fn from($value: $source) -> Self {
                $arg
            }
        })*
    };
}

arg_from! {
    i64 => |value| Self::Int(Some(value));
    i16 => |value| Self::Int(Some(i64::from(value)));
    i32 => |value| Self::Int(Some(i64::from(value)));
    u32 => |value| Self::Int(Some(i64::from(value)));
    // Lengths and counters: what does not fit into 63 bits does not occur, and saturates if it does.
    u64 => |value| Self::Int(Some(i64::try_from(value).unwrap_or(i64::MAX)));
    Timestamp => |value| Self::Int(Some(value.0));
    AttemptNo => |value| Self::Int(Some(i64::from(value.0)));
    &str => |value| Self::Text(Some(text(value)));
    &String => |value| Self::Text(Some(text(value)));
    &WorkerId => |value| Self::Text(Some(value.as_str().to_owned()));
    &ObjectId => |value| Self::Text(Some(value.as_str().to_owned()));
    JobId => |value| Self::Uuid(Some(value.as_uuid()));
    CompletionId => |value| Self::Uuid(Some(value.as_uuid()));
    ClaimToken => |value| Self::Uuid(Some(value.as_uuid()));
    Uuid => |value| Self::Uuid(Some(value));
    Option<i32> => |value| Self::Int(value.map(i64::from));
    Option<i64> => |value| Self::Int(value);
    Option<u64> => |value| Self::Int(value.map(|value| i64::try_from(value).unwrap_or(i64::MAX)));
    Option<Timestamp> => |value| Self::Int(value.map(|value| value.0));
    Option<&str> => |value| Self::Text(value.map(text));
    Option<&ObjectId> => |value| Self::Text(value.map(|value| value.as_str().to_owned()));
    Vec<u8> => |value| Self::Bytes(value);
}

/// PostgreSQL's text cannot hold a NUL, so neither database is given one.
fn text(value: &str) -> String {
    value.replace('\0', "\u{fffd}")
}

macro_rules! bind_all {
    ($arguments:ty, $args:expr) => {{
        let mut bound = <$arguments>::default();
        for arg in $args {
            match arg {
                Arg::Int(value) => bound.add(value),
                Arg::Text(value) => bound.add(value),
                Arg::Uuid(value) => bound.add(value),
                Arg::Bytes(value) => bound.add(value),
            }
            .map_err(sqlx::Error::Encode)?;
        }
        Ok(bound)
    }};
}

pub(super) fn for_sqlite(args: Vec<Arg>) -> Result<SqliteArguments, sqlx::Error> {
    bind_all!(SqliteArguments, args)
}

pub(super) fn for_postgres(args: Vec<Arg>) -> Result<PgArguments, sqlx::Error> {
    bind_all!(PgArguments, args)
}

/// The statement as SQLite has it.
pub(super) fn text_for_sqlite(statement: &str) -> Cow<'_, str> {
    if statement.contains(FOR_SQLITE) {
        Cow::Owned(statement.replace(FOR_SQLITE, "").replace("*/", ""))
    } else {
        Cow::Borrowed(statement)
    }
}

/// How that begins.
const FOR_SQLITE: &str = "/*!";

/// A row that both databases can yield.
pub(super) trait Row: Send + Unpin + for<'r> sqlx::FromRow<'r, SqliteRow> + for<'r> sqlx::FromRow<'r, PgRow> {}

impl<T> Row for T where T: Send + Unpin + for<'r> sqlx::FromRow<'r, SqliteRow> + for<'r> sqlx::FromRow<'r, PgRow> {}

/// `($2, $3), ($4, $5)`: the placeholders of `rows` rows of `columns` values, from number `first` on.
pub(super) fn tuples(first: usize, rows: usize, columns: usize) -> String {
    let mut text = String::with_capacity(rows * columns * 5);
    for row in 0..rows {
        text.push_str(if row == 0 { "(" } else { ", (" });
        for column in 0..columns {
            let comma = if column == 0 { "" } else { ", " };
            // Writing to a String cannot fail.
            write!(text, "{comma}${}", first + row * columns + column).unwrap_or_default();
        }
        text.push(')');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_numbered_through() {
        assert_eq!(tuples(1, 1, 1), "($1)");
        assert_eq!(tuples(3, 2, 2), "($3, $4), ($5, $6)");
    }

    #[test]
    fn what_is_for_sqlite_alone_is_uncovered_there() {
        assert_eq!(text_for_sqlite("SELECT 1 FROM a /*! INDEXED BY i */ WHERE b"), "SELECT 1 FROM a  INDEXED BY i  WHERE b");
        assert_eq!(text_for_sqlite("SELECT 1"), "SELECT 1");
    }
}
