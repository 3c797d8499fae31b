//! What is to be expected of a job, in a sentence.

use std::time::Duration;

use super::table::span;
use crate::clock::Timestamp;
use crate::job::Forecast;

/// Where a job stands and when it may start.
pub(super) fn sentence(forecast: &Forecast, now: Timestamp) -> String {
    let place = match (forecast.ahead, forecast.or_more) {
        (None, _) => String::new(),
        (Some(0), false) => "nothing is before it; ".to_owned(),
        (Some(1), false) => "1 job is before it; ".to_owned(),
        (Some(ahead), false) => format!("{ahead} jobs are before it; "),
        (Some(ahead), true) => format!("more than {ahead} jobs are before it; "),
    };
    let Some(start) = forecast.expected_start else {
        return format!("{place}when it starts is not known: {}", forecast.unknown.as_deref().unwrap_or("no reason was given"));
    };
    if start.since(now) < Duration::from_secs(1) {
        return format!("{place}it should start at once");
    }
    let slots = if forecast.slots == 1 { "1 slot".to_owned() } else { format!("{} slots", forecast.slots) };
    let mean =
        forecast.mean_ms.map(|mean| format!(", attempts take {}", about(now, Timestamp(now.0 + mean)))).unwrap_or_default();
    let least = if forecast.or_more { "in more than" } else { "in about" };
    format!("{place}it should start {least} {} ({slots}{mean})", about(now, start))
}

/// How long it is, in whole seconds at the most precise.
fn about(from: Timestamp, to: Timestamp) -> String {
    match to.since(from).as_millis() {
        ms @ 0..=9_499 => format!("{}s", (ms + 500) / 1_000),
        _ => span(from, to),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forecast_is_a_sentence() {
        let line = |ahead: u64, or_more: bool, start: Option<i64>| {
            let unknown = start.is_none().then(|| "nobody has tried".to_owned());
            let start = start.map(Timestamp);
            sentence(
                &Forecast { ahead: Some(ahead), or_more, expected_start: start, unknown, slots: 4, mean_ms: Some(60_000) },
                Timestamp(0),
            )
        };
        let said = [
            line(0, false, Some(0)),
            line(1, false, Some(90_000)),
            line(1, false, Some(7_730)),
            line(10_000, true, Some(9_000_000)),
            line(3, false, None),
            sentence(&Forecast::unknown("it waits for the end of other jobs"), Timestamp(0)),
        ];
        insta::assert_snapshot!(said.join("\n"), @r#"
        nothing is before it; it should start at once
        1 job is before it; it should start in about 90s (4 slots, attempts take 60s)
        1 job is before it; it should start in about 8s (4 slots, attempts take 60s)
        more than 10000 jobs are before it; it should start in more than 2h 30m (4 slots, attempts take 60s)
        3 jobs are before it; when it starts is not known: nobody has tried
        when it starts is not known: it waits for the end of other jobs
        "#);
    }
}
