//! Figures as explanations write them.

use std::time::Duration;

use super::facts::Count;
use crate::clock::{Timestamp, human};

/// How long, as precisely as a person cares for: milliseconds below a second, then seconds, from ten minutes on minutes.
pub(super) fn long(duration: Duration) -> String {
    let ms = duration.as_millis();
    let unit: u128 = match ms {
        0..1_000 => 1,
        1_000..600_000 => 1_000,
        _ => 60_000,
    };
    human::format(Duration::from_millis(u64::try_from(ms / unit * unit).unwrap_or(u64::MAX)))
}

/// How long ago.
pub(super) fn ago(moment: Timestamp, now: Timestamp) -> String {
    format!("{} ago", long(now.since(moment)))
}

/// In how long, and when exactly.
pub(super) fn later(moment: Timestamp, now: Timestamp) -> String {
    format!("in {}, at {moment}", long(moment.since(now)))
}

/// `one job`, `3 jobs`.
pub(super) fn many(count: u64, one: &str, more: &str) -> String {
    if count == 1 { format!("one {one}") } else { format!("{count} {more}") }
}

/// A bounded number of jobs.
pub(super) fn jobs(count: Count) -> String {
    if count.more { format!("more than {} jobs", count.jobs) } else { many(count.jobs, "job", "jobs") }
}

/// `a`, `a and b`, `a, b and c`.
pub(super) fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let mut items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    match items.pop() {
        None => "nothing".to_owned(),
        Some(last) if items.is_empty() => last,
        Some(last) => format!("{} and {last}", items.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_the_precision_that_people_care_for() {
        let check = |ms: u64, expected: &str| assert_eq!(long(Duration::from_millis(ms)), expected);
        check(0, "0s");
        check(20, "20ms");
        check(1_999, "1s");
        check(192_500, "3m 12s");
        check(659_000, "10m");
        check(7_259_000, "2h");
        check(7_380_000, "2h 3m");
    }

    #[test]
    fn lists_read_as_a_sentence() {
        assert_eq!(list(["a"]), "a");
        assert_eq!(list(["a", "b", "c"]), "a, b and c");
        assert_eq!(list(Vec::<String>::new()), "nothing");
        assert_eq!(jobs(Count::bounded(1, 3)), "one job");
        assert_eq!(jobs(Count::bounded(4, 3)), "more than 3 jobs");
    }
}
