//! Budgets: how many tokens and how much money jobs may use, and when that is used up. Pure.
//!
//! The one rule: once a budget is used up nothing is started that it concerns, and what runs is ended when, by what it and all others have
//! said so far, more was used than may be.

use std::fmt;

use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize, Serializer};
use utoipa::ToSchema;

use super::completion::Usage;
use crate::clock::Timestamp;

const DAY_MS: i64 = 24 * 3600 * 1000;
/// The most that one attempt is believed to have used, in tokens of either kind: sums of it stay far from what a number can be.
const TOKENS_MAX: u64 = 10_000_000_000;
/// The most that it is believed to have cost.
const COST_MAX: MicroUsd = MicroUsd(1_000_000_000_000);

/// Money, in millionths of a US dollar, so that sums are exact. Written as a number of dollars.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, ToSchema)]
#[schema(value_type = f64)]
pub struct MicroUsd(pub u64);

impl MicroUsd {
    /// What so many dollars are, to the next millionth. Less than nothing, and what is no number, is nothing.
    #[must_use]
    pub fn from_dollars(dollars: f64) -> Self {
        Self((dollars.max(0.0) * 1e6).round() as u64)
    }

    /// The same in dollars.
    #[must_use]
    pub fn dollars(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

impl fmt::Display for MicroUsd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Cents, rounded; what is less than one is shown as it is.
        if self.0 == 0 || self.0 >= 10_000 { write!(f, "${:.2}", self.dollars()) } else { write!(f, "${}", self.dollars()) }
    }
}

impl Serialize for MicroUsd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.dollars())
    }
}

impl<'de> Deserialize<'de> for MicroUsd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let dollars = f64::deserialize(deserializer)?;
        if dollars.is_finite() && (0.0..=1e9).contains(&dollars) {
            return Ok(Self::from_dollars(dollars));
        }
        Err(D::Error::custom(format!("{dollars} is not between 0 and 1000000000 dollars")))
    }
}

/// How much may be used; what is absent is not limited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Tokens, read and written together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Cost in US dollars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub cost_usd: Option<MicroUsd>,
}

impl Budget {
    /// Whether nothing is limited.
    #[must_use]
    pub const fn is_unlimited(&self) -> bool {
        self.tokens.is_none() && self.cost_usd.is_none()
    }

    /// The lower of both limits, of either kind.
    #[must_use]
    pub fn or_less(&self, other: &Self) -> Self {
        fn lower<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
            one.into_iter().chain(other).min()
        }
        Self { tokens: lower(self.tokens, other.tokens), cost_usd: lower(self.cost_usd, other.cost_usd) }
    }
}

/// `budget` of a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectBudget {
    /// Tokens, read and written together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Cost in US dollars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<MicroUsd>,
    /// For how long that is.
    pub per: Period,
}

impl ProjectBudget {
    /// How much may be used in one period.
    #[must_use]
    pub const fn budget(&self) -> Budget {
        Budget { tokens: self.tokens, cost_usd: self.cost_usd }
    }
}

/// For how long a project's budget is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    /// A day of UTC.
    Day,
    /// A calendar month of UTC.
    Month,
    /// For ever.
    All,
}

impl Period {
    /// The word used in the configuration and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
            Self::All => "all",
        }
    }

    /// The first day of the period that `now` is in, as [`day_of`] counts days.
    #[must_use]
    pub fn first_day(self, now: Timestamp) -> i64 {
        match self {
            Self::Day => day_of(now),
            Self::Month => month_of(now, 0).map_or_else(|| day_of(now), day_of),
            Self::All => i64::MIN,
        }
    }

    /// When the next period begins.
    #[must_use]
    pub fn next(self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Day => Some(Timestamp((day_of(now) + 1) * DAY_MS)),
            Self::Month => month_of(now, 1),
            Self::All => None,
        }
    }
}

/// The day of UTC, counted from 1970-01-01.
#[must_use]
pub const fn day_of(moment: Timestamp) -> i64 {
    moment.0.div_euclid(DAY_MS)
}

/// When the month begins that `now` is in, or one so many later.
fn month_of(now: Timestamp, later: i64) -> Option<Timestamp> {
    let date = jiff::Timestamp::from_millisecond(now.0).ok()?.to_zoned(jiff::tz::TimeZone::UTC).date().first_of_month();
    let date = date.checked_add(jiff::Span::new().months(later)).ok()?;
    Some(Timestamp(date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_millisecond()))
}

/// What was used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Spent {
    /// How many attempts said what they used.
    pub attempts: u64,
    /// Tokens read.
    pub prompt_tokens: u64,
    /// Tokens written.
    pub completion_tokens: u64,
    /// Cost in US dollars, as far as it was told.
    #[schema(value_type = f64)]
    pub cost_usd: MicroUsd,
}

impl Spent {
    /// What one attempt used.
    #[must_use]
    pub fn of(usage: &Usage) -> Self {
        Self {
            attempts: 1,
            prompt_tokens: usage.prompt_tokens.min(TOKENS_MAX),
            completion_tokens: usage.completion_tokens.min(TOKENS_MAX),
            cost_usd: usage.cost_usd.map(MicroUsd::from_dollars).unwrap_or_default().min(COST_MAX),
        }
    }

    /// Adds what others used.
    pub fn add(&mut self, other: &Self) {
        self.attempts += other.attempts;
        self.prompt_tokens = self.prompt_tokens.saturating_add(other.prompt_tokens);
        self.completion_tokens = self.completion_tokens.saturating_add(other.completion_tokens);
        self.cost_usd = MicroUsd(self.cost_usd.0.saturating_add(other.cost_usd.0));
    }

    /// What was used by the one or the other that says more of it.
    fn or_more(self, other: &Self) -> Self {
        Self {
            attempts: self.attempts.max(other.attempts),
            prompt_tokens: self.prompt_tokens.max(other.prompt_tokens),
            completion_tokens: self.completion_tokens.max(other.completion_tokens),
            cost_usd: self.cost_usd.max(other.cost_usd),
        }
    }

    /// Takes off what is counted otherwise.
    fn take(&mut self, other: &Self) {
        self.attempts = self.attempts.saturating_sub(other.attempts);
        self.prompt_tokens = self.prompt_tokens.saturating_sub(other.prompt_tokens);
        self.completion_tokens = self.completion_tokens.saturating_sub(other.completion_tokens);
        self.cost_usd = MicroUsd(self.cost_usd.0.saturating_sub(other.cost_usd.0));
    }

    /// Tokens, read and written together.
    #[must_use]
    pub const fn tokens(&self) -> u64 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }
}

/// Whose budget it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BudgetScope {
    /// One job's, over all of its attempts.
    Job,
    /// All jobs' of one execution.
    Execution,
    /// All jobs' of one project.
    Project,
}

impl fmt::Display for BudgetScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Job => "job",
            Self::Execution => "execution",
            Self::Project => "project",
        })
    }
}

/// How much of a budget is used up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BudgetUse {
    /// Whose it is.
    pub scope: BudgetScope,
    /// The job, the execution or the project.
    pub name: String,
    /// For how long it is.
    pub per: Period,
    /// How much may be used.
    pub budget: Budget,
    /// What was used.
    pub spent: Spent,
    /// When the next period begins.
    pub again_at: Option<Timestamp>,
}

impl BudgetUse {
    /// Whether nothing more is started.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.budget.tokens.is_some_and(|most| self.spent.tokens() >= most)
            || self.budget.cost_usd.is_some_and(|most| self.spent.cost_usd >= most)
    }

    /// Whether more was used than may be: what runs is ended.
    #[must_use]
    pub fn is_exceeded(&self) -> bool {
        self.budget.tokens.is_some_and(|most| self.spent.tokens() > most)
            || self.budget.cost_usd.is_some_and(|most| self.spent.cost_usd > most)
    }

    /// What may still be used.
    #[must_use]
    pub fn left(&self) -> Budget {
        Budget {
            tokens: self.budget.tokens.map(|most| most.saturating_sub(self.spent.tokens())),
            cost_usd: self.budget.cost_usd.map(|most| MicroUsd(most.0.saturating_sub(self.spent.cost_usd.0))),
        }
    }

    /// The same in words to an attempt that has used `own` of it, which says what others used where they did.
    #[must_use]
    pub fn told_to(&self, own: &Usage) -> String {
        let own = Spent::of(own);
        let tokens = self.budget.tokens.map(|_| (own.tokens() < self.spent.tokens(), format!("{} tokens", own.tokens())));
        let cost = self.budget.cost_usd.map(|_| (own.cost_usd < self.spent.cost_usd, own.cost_usd.to_string()));
        let (others, parts): (Vec<bool>, Vec<String>) = tokens.into_iter().chain(cost).unzip();
        match others.contains(&true) {
            true => format!("{self}, of which this attempt used {}", parts.join(" and ")),
            false => self.to_string(),
        }
    }
}

/// What a running attempt draws on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// The budgets that concern its job, with all that is on record: also what is there of the attempt itself.
    pub budgets: Vec<BudgetUse>,
    /// What is on record of the attempt.
    pub on_record: Spent,
}

impl Account {
    /// The budgets once what the attempt has used in all is on record; as they are where that says no more than what is there.
    pub fn once_used(&self, used: Option<&Usage>) -> impl Iterator<Item = BudgetUse> {
        let used = used.map(|used| Spent::of(used).or_more(&self.on_record));
        self.budgets.iter().map(move |budget| {
            let mut budget = budget.clone();
            if let Some(used) = &used {
                // In this order: of a day's budget, some of what is on record may be of the day before.
                budget.spent.add(used);
                budget.spent.take(&self.on_record);
            }
            budget
        })
    }
}

impl fmt::Display for BudgetUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tokens = self.budget.tokens.map(|most| format!("{} of {most} tokens", self.spent.tokens()));
        let cost = self.budget.cost_usd.map(|most| format!("{} of {most}", self.spent.cost_usd));
        let used: Vec<String> = tokens.into_iter().chain(cost).collect();
        let per = match self.per {
            Period::All => String::new(),
            per => format!(" for the {}", per.as_str()),
        };
        write!(f, "the budget of {} {}{per}: {} used", self.scope, self.name, used.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of 100 tokens, and 25 cents.
    fn used_of(tokens: Option<u64>, cost: Option<u64>) -> BudgetUse {
        BudgetUse {
            scope: BudgetScope::Job,
            name: "j".to_owned(),
            per: Period::All,
            budget: Budget { tokens, cost_usd: cost.map(MicroUsd) },
            spent: Spent::of(&usage(70, 30, 0.25)),
            again_at: None,
        }
    }

    fn usage(prompt_tokens: u64, completion_tokens: u64, dollars: f64) -> Usage {
        Usage { prompt_tokens, completion_tokens, cost_usd: Some(dollars), model: None }
    }

    #[test]
    fn a_budget_is_spent_when_either_limit_is_reached_and_exceeded_beyond() {
        let check = |tokens: Option<u64>, cost: Option<u64>, expected: (bool, bool)| {
            let found = used_of(tokens, cost);
            assert_eq!((found.is_spent(), found.is_exceeded()), expected, "{found}");
        };
        check(Some(101), Some(250_001), (false, false));
        check(Some(100), None, (true, false));
        check(Some(99), None, (true, true));
        check(None, Some(250_000), (true, false));
        check(Some(101), Some(249_999), (true, true));
        check(None, None, (false, false));
    }

    #[test]
    fn what_is_left_is_the_least_that_any_budget_leaves() {
        let left = used_of(Some(150), None).left().or_less(&used_of(Some(120), Some(300_000)).left());
        assert_eq!(left, Budget { tokens: Some(20), cost_usd: Some(MicroUsd(50_000)) });
        assert_eq!(used_of(Some(50), None).left(), Budget { tokens: Some(0), cost_usd: None });
        assert!(used_of(None, None).left().is_unlimited() && !left.is_unlimited());
    }

    #[test]
    fn what_an_attempt_has_used_replaces_what_is_on_record_of_it() {
        let check = |on_record: Option<Usage>, used: Option<Usage>, expected: (u64, u64, u64)| {
            let on_record = on_record.as_ref().map(Spent::of).unwrap_or_default();
            let account = Account { budgets: vec![used_of(Some(1), None)], on_record };
            let spent = account.once_used(used.as_ref()).next().expect("the one").spent;
            assert_eq!((spent.attempts, spent.tokens(), spent.cost_usd.0), expected);
        };
        check(None, None, (1, 100, 250_000));
        check(None, Some(usage(5, 1, 0.1)), (2, 106, 350_000));
        check(Some(usage(60, 20, 0.2)), Some(usage(70, 20, 0.3)), (1, 110, 350_000));
        check(Some(usage(60, 20, 0.2)), None, (1, 100, 250_000));
        check(Some(usage(60, 20, 0.2)), Some(usage(50, 20, 0.3)), (1, 100, 350_000));
        // Of what is on record of it, 20 tokens at the least are of a period before.
        check(Some(usage(90, 30, 0.2)), Some(usage(91, 30, 0.2)), (1, 101, 250_000));
    }

    #[test]
    fn an_attempt_is_told_what_others_used() {
        let told = |tokens, cost, own: Usage| used_of(tokens, cost).told_to(&own);
        assert_eq!(told(Some(90), None, usage(70, 30, 0.0)), "the budget of job j: 100 of 90 tokens used");
        let beside = "the budget of job j: 100 of 90 tokens used, of which this attempt used 60 tokens";
        assert_eq!(told(Some(90), None, usage(50, 10, 0.25)), beside);
        let beside =
            "the budget of job j: 100 of 90 tokens, $0.25 of $0.20 used, of which this attempt used 100 tokens and $0.15";
        assert_eq!(told(Some(90), Some(200_000), usage(70, 30, 0.15)), beside);
    }

    #[test]
    fn periods_are_those_of_the_calendar() {
        let at = |text: &str| Timestamp(text.parse::<jiff::Timestamp>().expect("a moment").as_millisecond());
        let now = at("2026-12-31T23:59:59.999Z");
        assert_eq!(Period::Day.next(now), Some(at("2027-01-01T00:00:00Z")));
        assert_eq!(Period::Month.next(now), Some(at("2027-01-01T00:00:00Z")));
        assert_eq!(Period::Month.first_day(now), day_of(at("2026-12-01T12:00:00Z")));
        assert_eq!(Period::Day.first_day(now), day_of(at("2026-12-31T00:00:00Z")));
        assert_eq!((Period::All.first_day(now), Period::All.next(now)), (i64::MIN, None));
    }

    #[test]
    fn money_is_written_in_dollars_and_read_exactly() {
        assert_eq!(serde_json::to_string(&MicroUsd(1_250_000)).ok().as_deref(), Some("1.25"));
        assert_eq!(serde_json::from_str::<MicroUsd>("0.1").ok(), Some(MicroUsd(100_000)));
        assert_eq!(serde_json::from_str::<MicroUsd>("5").ok(), Some(MicroUsd(5_000_000)));
        assert!(serde_json::from_str::<MicroUsd>("-1").is_err());
        assert_eq!((MicroUsd(12_345_678).to_string(), MicroUsd(1_230).to_string()), ("$12.35".to_owned(), "$0.00123".to_owned()));
        assert_eq!(MicroUsd::from_dollars(f64::NAN), MicroUsd(0));
    }
}
