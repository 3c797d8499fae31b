//! Tables: aligned columns, and colour where a person looks.
//!
//! The one rule: a value is on one line and cannot move the cursor, whatever a job wrote into it.

use anstyle::{AnsiColor, Style};
use comfy_table::{Table, presets};

use crate::clock::Timestamp;

/// Whether states are coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    On,
    Off,
}

/// A text on one line and without control characters: what a job says does not move the cursor.
#[must_use]
pub fn plain(text: impl ToString) -> String {
    text.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A value in a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    text: String,
    mood: Mood,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Plain,
    Good,
    Bad,
    Busy,
    Quiet,
}

impl Cell {
    /// A value as it is, made [`plain`].
    #[must_use]
    pub fn new(text: impl ToString) -> Self {
        Self { text: plain(text), mood: Mood::Plain }
    }

    /// A value that may be absent.
    #[must_use]
    pub fn maybe(text: Option<impl ToString>) -> Self {
        text.map_or_else(|| Self { text: "-".to_owned(), mood: Mood::Quiet }, Self::new)
    }

    /// The word for a state, in the colour that goes with it.
    #[must_use]
    pub fn state(word: impl ToString) -> Self {
        let text = word.to_string();
        let mood = match text.as_str() {
            "succeeded" | "acked" | "ready" => Mood::Good,
            "failed" | "dead" | "lost" | "offline" => Mood::Bad,
            "running" | "claimed" | "draining" | "paused" | "asks" => Mood::Busy,
            "cancelled" | "stopped" => Mood::Quiet,
            _ => Mood::Plain,
        };
        Self { text, mood }
    }

    pub(super) fn paint(&self, colour: Colour) -> String {
        let style = match self.mood {
            _ if colour == Colour::Off => return self.text.clone(),
            Mood::Plain => return self.text.clone(),
            Mood::Good => AnsiColor::Green.on_default(),
            Mood::Bad => AnsiColor::Red.on_default(),
            Mood::Busy => AnsiColor::Cyan.on_default(),
            Mood::Quiet => Style::new().dimmed(),
        };
        format!("{style}{}{style:#}", self.text)
    }
}

/// Aligned columns. Colour is put in after the columns are laid out, so that it takes no room.
pub(super) fn render(header: &[&str], rows: &[Vec<Cell>], colour: Colour) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.to_vec());
    table.add_rows(rows.iter().map(|row| row.iter().map(|cell| cell.text.clone()).collect::<Vec<_>>()));
    let columns = table.column_count();
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if index + 1 == columns { 0 } else { 2 }));
    }
    let mut text = String::new();
    for (number, line) in table.lines().enumerate() {
        let line = line.trim_end();
        match number.checked_sub(1).and_then(|row| rows.get(row)) {
            Some(row) => text.push_str(&paint_line(line, row, colour)),
            None if colour == Colour::On => text.push_str(&format!("{0}{line}{0:#}", Style::new().bold())),
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

/// Paints the cells of a line one after the other, from left to right.
fn paint_line(line: &str, row: &[Cell], colour: Colour) -> String {
    let mut painted = String::new();
    let mut rest = line;
    for cell in row {
        let Some(at) = rest.find(&cell.text) else { continue };
        let (before, tail) = rest.split_at(at);
        painted.push_str(before);
        painted.push_str(&cell.paint(colour));
        rest = &tail[cell.text.len()..];
    }
    painted + rest
}

/// How long ago a moment is, in one unit: what `kubectl get` has taught people to read.
#[must_use]
pub fn age(moment: Timestamp, now: Timestamp) -> String {
    let seconds = now.since(moment).as_secs();
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// How long something took, as precisely as a person cares for.
#[must_use]
pub fn span(from: Timestamp, to: Timestamp) -> String {
    let ms = to.since(from).as_millis();
    match ms {
        0..=9_999 => format!("{}.{:02}s", ms / 1_000, ms % 1_000 / 10),
        10_000..=119_999 => format!("{}s", ms / 1_000),
        120_000..=7_199_999 => format!("{}m {}s", ms / 60_000, ms % 60_000 / 1_000),
        _ => format!("{}h {}m", ms / 3_600_000, ms % 3_600_000 / 60_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Vec<Cell>> {
        vec![
            vec![Cell::new("0dead0"), Cell::state("dead"), Cell::new("one\ttwo")],
            vec![Cell::new("1"), Cell::state("succeeded"), Cell::maybe(None::<String>)],
        ]
    }

    #[test]
    fn columns_are_aligned_and_plain_for_programs() {
        insta::assert_snapshot!(render(&["ID", "STATE", "TITLE"], &rows(), Colour::Off), @r"
        ID      STATE      TITLE
        0dead0  dead       one two
        1       succeeded  -
        ");
    }

    #[test]
    fn colour_takes_no_room_and_falls_on_the_state_alone() {
        let coloured = render(&["ID", "STATE", "TITLE"], &rows(), Colour::On);
        assert!(coloured.contains("0dead0  \u{1b}[31mdead\u{1b}[0m       one two"), "{coloured:?}");
        assert_eq!(anstream::adapter::strip_str(&coloured).to_string(), render(&["ID", "STATE", "TITLE"], &rows(), Colour::Off));
    }

    #[test]
    fn times_read_in_one_unit() {
        let check = |ms: i64, age_text: &str, span_text: &str| {
            assert_eq!(
                (age(Timestamp(0), Timestamp(ms)).as_str(), span(Timestamp(0), Timestamp(ms)).as_str()),
                (age_text, span_text)
            );
        };
        check(40, "0s", "0.04s");
        check(9_990, "9s", "9.99s");
        check(119_000, "119s", "119s");
        check(125_000, "2m", "2m 5s");
        check(8_000_000, "2h", "2h 13m");
        check(900_000_000, "10d", "250h 0m");
    }
}
