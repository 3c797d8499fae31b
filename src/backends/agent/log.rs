//! What a person reads of an agent's work: what it ran, what came back in short, and what it says.
//!
//! The one rule: whatever an agent prints, the log gets a bounded number of lines of bounded length for it, and they say what was left
//! out. The whole is in the raw events.

use std::fmt::Write as _;

use anstream::adapter::strip_str;

/// The longest line, in characters.
const LINE: usize = 400;

/// How many lines of what it says are shown, how many of a command, and how many from the beginning and the end of what came back.
const SAID: usize = 60;
const COMMAND: usize = 12;
const HEAD: usize = 6;
const TAIL: usize = 4;

/// Lines that are not yet written.
#[derive(Debug, Default)]
pub(in crate::backends) struct Log {
    text: String,
}

impl Log {
    /// Something about the agent itself.
    pub(in crate::backends) fn note(&mut self, text: &str) {
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        self.line(&format!("[{}]", cut(&line)));
    }

    /// What it says.
    pub(in crate::backends) fn said(&mut self, text: &str) {
        self.lines("", text.trim(), SAID, 0);
    }

    /// A command that it runs.
    pub(in crate::backends) fn ran(&mut self, command: &str) {
        let mut lines = command.trim().lines();
        self.line(&format!("$ {}", cut(lines.next().unwrap_or(""))));
        self.lines("> ", &lines.collect::<Vec<_>>().join("\n"), COMMAND, 0);
    }

    /// Another tool that it uses, and on what.
    pub(in crate::backends) fn used(&mut self, tool: &str, on: &str) {
        self.line(&cut(format!("* {tool} {}", on.lines().next().unwrap_or("")).trim_end()));
    }

    /// What a command or a tool gave back, without what is meant for a terminal.
    pub(in crate::backends) fn came_back(&mut self, text: &str, failed: bool) {
        let text = strip_str(text).to_string();
        self.lines(if failed { "  ! " } else { "  | " }, text.trim_end(), HEAD, TAIL);
    }

    /// A line that is no event.
    pub(super) fn plain(&mut self, text: &str) {
        self.line(&cut(strip_str(text).to_string().trim_end()));
    }

    /// Takes what was written since the last time.
    pub(super) fn take(&mut self) -> String {
        std::mem::take(&mut self.text)
    }

    fn lines(&mut self, before: &str, text: &str, head: usize, tail: usize) {
        let lines: Vec<&str> = text.lines().collect();
        let left_out = lines.len().saturating_sub(head + tail);
        // One line that says that one was left out would be no shorter.
        let left_out = if left_out == 1 { 0 } else { left_out };
        for (at, line) in lines.iter().enumerate() {
            if left_out == 0 || at < head || at >= head + left_out {
                self.line(&format!("{before}{}", cut(line)));
            } else if at == head {
                self.line(&format!("{before}… {left_out} more lines"));
            }
        }
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }
}

/// A line within bounds, without what would move a reader's cursor.
fn cut(line: &str) -> String {
    let mut kept: String = line.chars().take(LINE).map(|c| if c.is_control() && c != '\t' { '·' } else { c }).collect();
    let left_out = line.chars().count().saturating_sub(LINE);
    if left_out > 0 {
        // Writing to a string cannot fail.
        write!(kept, " … {left_out} more characters").ok();
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_is_told_in_short_with_what_was_left_out() {
        let mut log = Log::default();
        log.ran("cat <<E\none\nE");
        log.came_back(&(1..=30).map(|n| n.to_string()).collect::<Vec<_>>().join("\n"), false);
        log.came_back("1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11", true);
        log.came_back("", false);
        log.used("Edit", "/a\nb");
        log.note("two\nlines");
        insta::assert_snapshot!(log.take(), @r"
        $ cat <<E
        > one
        > E
          | 1
          | 2
          | 3
          | 4
          | 5
          | 6
          | … 20 more lines
          | 27
          | 28
          | 29
          | 30
          ! 1
          ! 2
          ! 3
          ! 4
          ! 5
          ! 6
          ! 7
          ! 8
          ! 9
          ! 10
          ! 11
        * Edit /a
        [two lines]
        ");
        log.said(&"x".repeat(1000));
        assert_eq!(log.take(), format!("{} … 600 more characters\n", "x".repeat(400)));
        log.said("red: \u{1b}[31mno");
        assert_eq!(log.take(), "red: ·[31mno\n");
        log.said(&"line\n".repeat(10_000));
        assert_eq!(log.take().lines().count(), SAID + 1);
    }
}
