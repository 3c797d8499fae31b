//! How long an attempt may take where nobody says: learnt from how long those like it took.
//!
//! The one rule: it is a number with its reason. What was learnt of, and how, goes on record with it, and where there is too little
//! to learn of there is no number.

use std::fmt;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::spec::Task;
use crate::clock::{human, millis};

/// `[attempt.adaptive]` of the configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitRule {
    /// Whether limits are learnt.
    pub mode: LimitMode,
    /// How many attempts like it must have ended.
    pub samples: u32,
    /// Of how many percent of them the longest counts.
    #[serde(deserialize_with = "percent")]
    pub percent: u8,
    /// How many times as long an attempt may take.
    #[serde(deserialize_with = "factor")]
    pub factor: f64,
    /// The least.
    #[serde(with = "human")]
    pub floor: Duration,
    /// The most.
    #[serde(with = "human")]
    pub ceiling: Duration,
}

/// Whether limits are learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitMode {
    /// They are, for jobs of projects.
    On,
    /// They are not.
    Off,
}

/// How large a task is, by its text: what is on record of every job before it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskSize {
    /// A few sentences.
    Small,
    /// A page.
    Medium,
    /// More.
    Large,
}

/// Below how many characters a task is small, and below how many it is not large.
const SIZES: (usize, usize) = (1_000, 5_000);

/// How long an attempt may take, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TimeLimit {
    /// The limit, in milliseconds.
    pub limit_ms: i64,
    /// How large the task is.
    pub size: TaskSize,
    /// How many attempts it was learnt of.
    pub samples: u32,
    /// How many percent of them ...
    pub percent: u8,
    /// ... took so long at most, in milliseconds.
    pub took_ms: i64,
    /// How long the longest attempt at the same job took that met its deadline, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timed_out_ms: Option<i64>,
}

impl TaskSize {
    /// That of a task: its instruction, command, acceptance and inputs.
    #[must_use]
    pub fn of(task: &Task) -> Self {
        let words = [task.instruction.as_deref().map(|text| text.chars().count())];
        let command = task.command.as_ref().map_or(0, |command| command.to_string().chars().count());
        let acceptance: usize = task.acceptance.iter().map(|sentence| sentence.chars().count()).sum();
        let inputs: usize = task.inputs.iter().map(|(name, value)| name.len() + value.to_string().len()).sum();
        match words.into_iter().flatten().sum::<usize>() + command + acceptance + inputs {
            characters if characters < SIZES.0 => Self::Small,
            characters if characters < SIZES.1 => Self::Medium,
            _ => Self::Large,
        }
    }
}

impl TimeLimit {
    /// What follows from how long attempts at tasks of that size took; nothing where these are too few. One at a job that has met its
    /// deadline before gets twice as long as it had then, at least.
    #[must_use]
    pub fn learn(rule: &LimitRule, size: TaskSize, mut took: Vec<Duration>, timed_out: Option<Duration>) -> Option<Self> {
        if took.is_empty() || took.len() < rule.samples as usize {
            return None;
        }
        took.sort_unstable();
        // The nearest rank: the shortest that so many percent of them do not exceed.
        let rank = (took.len() * usize::from(rule.percent)).div_ceil(100).clamp(1, took.len());
        let longest = took[rank - 1];
        let wanted = longest.mul_f64(rule.factor).max(timed_out.map_or(Duration::ZERO, |before| before * 2));
        // Nobody reads milliseconds here.
        let wanted = Duration::from_secs(wanted.as_secs_f64().ceil() as u64);
        Some(Self {
            limit_ms: millis(wanted.max(rule.floor).min(rule.ceiling)),
            size,
            samples: u32::try_from(took.len()).unwrap_or(u32::MAX),
            percent: rule.percent,
            took_ms: millis(longest),
            timed_out_ms: timed_out.map(millis),
        })
    }

    /// The limit.
    #[must_use]
    pub fn limit(&self) -> Duration {
        duration(self.limit_ms)
    }
}

fn duration(ms: i64) -> Duration {
    Duration::from_millis(ms.max(0).unsigned_abs())
}

impl fmt::Display for TaskSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Small => "small",
            Self::Medium => "medium",
            Self::Large => "large",
        })
    }
}

impl fmt::Display for TimeLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limit_ms, size, samples, percent, took_ms, timed_out_ms } = self;
        // Of a minute and more the milliseconds are no news.
        let told = |ms: i64| human::format(if ms < 60_000 { duration(ms) } else { Duration::from_secs(duration(ms).as_secs()) });
        write!(
            f,
            "{}, learnt: of {samples} attempts at {size} tasks like it {percent} % took at most {}",
            told(*limit_ms),
            told(*took_ms)
        )?;
        match timed_out_ms {
            Some(before) => write!(f, "; one at this job met its deadline after {}", told(*before)),
            None => Ok(()),
        }
    }
}

fn percent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    let percent = u8::deserialize(deserializer)?;
    if (1..=100).contains(&percent) { Ok(percent) } else { Err(D::Error::custom("percent is a number from 1 to 100")) }
}

fn factor<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let factor = f64::deserialize(deserializer)?;
    if (1.0..=100.0).contains(&factor) { Ok(factor) } else { Err(D::Error::custom("factor is a number from 1 to 100")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> LimitRule {
        let (floor, ceiling) = (Duration::from_secs(60), Duration::from_secs(3_600));
        LimitRule { mode: LimitMode::On, samples: 10, percent: 90, factor: 2.0, floor, ceiling }
    }

    #[test]
    fn the_limit_follows_from_the_percentile_between_floor_and_ceiling() {
        let seconds = |all: std::ops::RangeInclusive<u64>| all.map(Duration::from_secs).collect::<Vec<_>>();
        let check = |took: Vec<Duration>, timed_out: Option<u64>, expected: Option<u64>| {
            let learnt = TimeLimit::learn(&rule(), TaskSize::Small, took, timed_out.map(Duration::from_secs));
            assert_eq!(learnt.map(|limit| limit.limit().as_secs()), expected);
        };
        check(seconds(1..=9), None, None);
        check(Vec::new(), None, None);
        // The ninth of ten: 109 s.
        check(seconds(101..=110), None, Some(218));
        check(seconds(1..=10), None, Some(60));
        check(seconds(3_001..=3_010), None, Some(3_600));
        // The outlier is not among the 90 %.
        check(seconds(101..=109).into_iter().chain([Duration::from_secs(9_999)]).collect(), None, Some(218));
        // What met its deadline does not meet the same one again.
        check(seconds(101..=110), Some(218), Some(436));
        check(seconds(101..=110), Some(50), Some(218));
        check(seconds(101..=110), Some(3_000), Some(3_600));
    }

    #[test]
    fn it_says_what_it_was_learnt_of() {
        let took = (101..=110).map(Duration::from_secs).collect();
        let learnt = TimeLimit::learn(&rule(), TaskSize::Medium, took, Some(Duration::from_millis(200_500))).expect("a limit");
        assert_eq!(
            learnt.to_string(),
            "6m 41s, learnt: of 10 attempts at medium tasks like it 90 % took at most 1m 49s; one at this job met its deadline after 3m 20s"
        );
    }

    #[test]
    fn the_size_is_that_of_all_that_the_task_says() {
        let task = |instruction: usize, acceptance: usize| Task {
            instruction: Some("ü".repeat(instruction)),
            acceptance: vec!["x".repeat(acceptance)],
            ..Task::default()
        };
        let check = |task: &Task, expected: TaskSize| assert_eq!(TaskSize::of(task), expected);
        check(&task(999, 0), TaskSize::Small);
        check(&task(999, 1), TaskSize::Medium);
        check(&task(1_000, 3_999), TaskSize::Medium);
        check(&task(1_000, 4_000), TaskSize::Large);
    }

    #[test]
    fn a_rule_that_cannot_be_is_refused() {
        let read = |percent: &str, factor: &str| {
            let text =
                format!("mode = \"on\"\nsamples = 1\npercent = {percent}\nfactor = {factor}\nfloor = \"1s\"\nceiling = \"1m\"");
            toml::from_str::<LimitRule>(&text).map_err(|error| error.to_string())
        };
        assert!(read("100", "1.0").is_ok());
        assert!(read("0", "1.0").expect_err("no percent").contains("from 1 to 100"));
        assert!(read("95", "0.5").expect_err("no factor").contains("factor is a number"));
    }
}
