//! The `[queue]` section of the configuration, and `limits` of a project.

use std::num::NonZeroU32;
use std::time::Duration;

use serde::de::{Deserializer, Error, Unexpected};
use serde::{Deserialize, Serialize, Serializer};

use super::turn::WEIGHT_MAX;
use crate::clock::human;
use crate::job::{PausePolicy, RetryPolicy};

/// Where the queue is, and how patient it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The database: `sqlite:PATH` (a path relative to the current directory, or absolute; created on first use) or
    /// `postgres://USER@HOST/DATABASE`.
    pub url: String,
    /// How long a claim holds without being renewed.
    #[serde(with = "human")]
    pub lease: Duration,
    /// How often the queue is looked at when no hint arrives.
    #[serde(with = "human")]
    pub poll: Duration,
    /// How long a job waits before it is counted as waiting too long, and gets some of the turns of more urgent ones.
    #[serde(with = "human")]
    pub ageing: Duration,
    /// How many jobs may wait; one that is enqueued beyond is refused. 0 for no limit.
    pub waiting_max: u32,
    /// How often and how soon jobs are tried again.
    pub retry: RetryPolicy,
    /// For how long credentials are paused whose usage limit was met.
    pub pause: PausePolicy,
    /// How long a question waits for its answer before its job fails for want of one.
    #[serde(with = "human")]
    pub answer_within: Duration,
    /// How long an integrator holds a completion without renewing it, unless it asks for another time.
    #[serde(with = "human")]
    pub completion_lease: Duration,
    /// How often a completion is handed out before it is set aside as dead.
    pub completion_deliveries: u32,
    /// How long jobs are kept after their end, with all that is on record of them.
    pub retention: Retention,
}

/// How long something is kept after its end: as text a duration, or `never` for what is never removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// For ever; zero is taken for it too.
    Forever,
    /// For so long.
    For(Duration),
}

impl Serialize for Retention {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Forever => serializer.serialize_str("never"),
            Self::For(age) => human::serialize(age, serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Retention {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "never" {
            return Ok(Self::Forever);
        }
        let age = human::parse(&text).map_err(|why| D::Error::custom(format!("{why}, nor \"never\"")))?;
        Ok(if age.is_zero() { Self::Forever } else { Self::For(age) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_for_no_time_is_kept_for_ever() {
        let check = |text: &str, expected: Option<Retention>| {
            let found = serde_json::from_value::<Retention>(text.into()).ok();
            assert_eq!(found, expected, "{text}");
        };
        check("720h", Some(Retention::For(Duration::from_secs(720 * 3600))));
        check("never", Some(Retention::Forever));
        check("0s", Some(Retention::Forever));
        check("soon", None);
        assert_eq!(serde_json::to_value(Retention::Forever).ok(), Some("never".into()));
        assert_eq!(serde_json::to_value(Retention::For(Duration::from_secs(3600))).ok(), Some("1h".into()));
    }
}

/// What a project's jobs may take of the queue; what is absent is not limited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectLimits {
    /// How many run at once, on all workers together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<NonZeroU32>,
    /// How many wait; one that is enqueued beyond is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<NonZeroU32>,
    /// How often it is the project's turn, against other projects' 1: from 1 to 1000.
    #[serde(default, deserialize_with = "weight", skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}

impl ProjectLimits {
    /// Whether nothing is said.
    #[must_use]
    pub fn are_none(&self) -> bool {
        *self == Self::default()
    }

    /// How often it is the project's turn, against other projects' 1.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.weight.unwrap_or(1)
    }
}

fn weight<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let weight = u32::deserialize(deserializer)?;
    if (1..=WEIGHT_MAX).contains(&weight) {
        return Ok(Some(weight));
    }
    Err(D::Error::invalid_value(Unexpected::Unsigned(weight.into()), &"a whole number from 1 to 1000"))
}
