//! Time: milliseconds since the epoch, passed in as an argument wherever a rule depends on it.

use std::fmt;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A moment, in whole milliseconds since 1970-01-01 UTC: the form in which times are stored and sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Reads the system's clock.
    #[must_use]
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self(millis(since))
    }

    /// How long after `earlier` this is; zero when it is before.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }
}

impl std::ops::Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(millis(duration)))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC, with milliseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(moment) => write!(f, "{moment:.3}"),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}

/// A clock of this host that nobody sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HostClock {
    /// Stands still while the host is suspended, as [`Instant::now`] does.
    #[default]
    Awake,
    /// Goes on while the host is suspended, as the clocks of other hosts do. Its moments are to be compared with one another, and not with
    /// those of [`Instant::now`].
    Always,
}

impl HostClock {
    /// Reads it.
    #[must_use]
    pub fn now(self) -> Instant {
        static FIRST: OnceLock<(Duration, Instant)> = OnceLock::new();
        match self {
            Self::Awake => Instant::now(),
            Self::Always => {
                let read = since_boot();
                let (first, began) = *FIRST.get_or_init(|| (read, Instant::now()));
                began + read.saturating_sub(first)
            }
        }
    }
}

/// The time since the host was started, with those times when it was suspended.
fn since_boot() -> Duration {
    // Linux's monotonic clock stands still then, that of others does not.
    #[cfg(target_os = "linux")]
    const CLOCK: ClockId = ClockId::CLOCK_BOOTTIME;
    #[cfg(not(target_os = "linux"))]
    const CLOCK: ClockId = ClockId::CLOCK_MONOTONIC;
    clock_gettime(CLOCK).expect("every kernel that we run on has this clock").into()
}

/// A duration in whole milliseconds, saturating: the form in which durations are stored and sent.
#[must_use]
pub fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Durations as people write them (`30s`, `1h 30m`, `250ms`), for `#[serde(with = "crate::clock::human")]`.
pub mod human {
    use std::fmt;
    use std::time::Duration;

    use serde::de::{Deserializer, Error, Visitor};
    use serde::ser::Serializer;

    /// Reads a duration as people write it.
    ///
    /// # Errors
    /// A sentence that quotes the text and shows what one looks like.
    pub fn parse(text: &str) -> Result<Duration, String> {
        text.parse::<jiff::SignedDuration>()
            .ok()
            .and_then(|signed| Duration::try_from(signed).ok())
            .ok_or_else(|| format!("{text:?} is not a duration such as \"90s\", \"15m\" or \"1h 30m\""))
    }

    /// Writes a duration in the form that [`parse`] reads.
    #[must_use]
    pub fn format(duration: Duration) -> String {
        jiff::SignedDuration::try_from(duration).map_or_else(|_| format!("{}s", duration.as_secs()), |d| format!("{d:#}"))
    }

    /// The serializer half of `serde(with)`.
    ///
    /// # Errors
    /// What the serializer reports.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format(*duration))
    }

    /// The deserializer half of `serde(with)`.
    ///
    /// # Errors
    /// A text that is not a duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Duration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as \"90s\", \"15m\" or \"1h 30m\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
                parse(text).map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Text)
    }

    /// The same for a duration that may be absent.
    pub mod option {
        use std::time::Duration;

        use serde::{Deserialize, Deserializer, Serializer};

        /// The serializer half of `serde(with)`.
        ///
        /// # Errors
        /// What the serializer reports.
        pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
            match duration {
                Some(duration) => serializer.serialize_some(&super::format(*duration)),
                None => serializer.serialize_none(),
            }
        }

        /// The deserializer half of `serde(with)`.
        ///
        /// # Errors
        /// A text that is not a duration.
        pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
            #[derive(Deserialize)]
            struct Human(#[serde(with = "super")] Duration);

            Ok(Option::<Human>::deserialize(deserializer)?.map(|Human(duration)| duration))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(human::parse(text).ok().map(|d| d.as_millis()), expected.map(u128::from), "{text}");
        };
        check("250ms", Some(250));
        check("90s", Some(90_000));
        check("1h 30m", Some(5_400_000));
        check("-1s", None);
        check("90", None);
        check("soon", None);
    }

    #[test]
    fn what_is_written_can_be_read_again() {
        for ms in [0, 1, 250, 1_000, 90_000, 5_400_000, 86_400_000] {
            let duration = Duration::from_millis(ms);
            assert_eq!(human::parse(&human::format(duration)), Ok(duration));
        }
    }

    #[test]
    fn both_clocks_of_the_host_go_on_while_it_is_awake() {
        for clock in [HostClock::Awake, HostClock::Always] {
            let (before, begun) = (clock.now(), Instant::now());
            while begun.elapsed() < Duration::from_millis(20) {
                std::thread::yield_now();
            }
            let went = clock.now() - before;
            assert!(
                went >= Duration::from_millis(19) && went <= begun.elapsed() + Duration::from_millis(5),
                "{clock:?}: {went:?}"
            );
        }
    }

    #[test]
    fn a_timestamp_reads_as_rfc_3339() {
        assert_eq!(Timestamp(1_700_000_000_123).to_string(), "2023-11-14T22:13:20.123Z");
    }
}
