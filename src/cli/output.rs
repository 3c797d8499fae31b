//! Where commands write: data to standard output, talk to standard error.
//!
//! The one rule: what a program reads on standard output is the same whether or not there is a terminal, but for colour; and
//! a reader that goes away ends the command quietly.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};

use anstyle::AnsiColor;
use serde::Serialize;

use super::error::CliError;
use super::table::{Cell, Colour, render};

/// Where a command writes its data, and in which form.
#[derive(Debug, Clone)]
pub struct Output {
    form: Form,
    colour: Colour,
    sink: Sink,
}

/// The form of a command's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// JSON documents, for programs.
    Json,
    /// Tables and lines, for people.
    Text,
}

#[derive(Debug, Clone)]
enum Sink {
    Stdout,
    Memory(Captured),
}

/// What was written to an [`Output::captured`].
#[derive(Debug, Clone, Default)]
pub struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    /// Everything written so far.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Output {
    /// Standard output: coloured on a terminal unless `NO_COLOR` or its like says otherwise.
    #[must_use]
    pub fn new(form: Form) -> Self {
        let stdout = std::io::stdout();
        let choice = anstream::AutoStream::choice(&stdout);
        let colour = if stdout.is_terminal() && choice != anstream::ColorChoice::Never { Colour::On } else { Colour::Off };
        Self { form, colour, sink: Sink::Stdout }
    }

    /// An output that is kept in memory, without colour: for tests, and for commands that use others.
    #[must_use]
    pub fn captured(form: Form) -> (Self, Captured) {
        let captured = Captured::default();
        (Self { form, colour: Colour::Off, sink: Sink::Memory(captured.clone()) }, captured)
    }

    /// Whether JSON is wanted.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.form == Form::Json
    }

    /// Writes a document as indented JSON.
    ///
    /// # Errors
    /// A reader that has gone, or a full disk.
    pub fn document<T: Serialize>(&self, document: &T) -> Result<(), CliError> {
        let mut text = serde_json::to_string_pretty(document).map_err(std::io::Error::other)?;
        text.push('\n');
        self.bytes(text.as_bytes())
    }

    /// Writes a document as JSON on one line, for streams of them.
    ///
    /// # Errors
    /// A reader that has gone, or a full disk.
    pub fn json_line<T: Serialize>(&self, document: &T) -> Result<(), CliError> {
        let mut text = serde_json::to_string(document).map_err(std::io::Error::other)?;
        text.push('\n');
        self.bytes(text.as_bytes())
    }

    /// Writes one line.
    ///
    /// # Errors
    /// A reader that has gone, or a full disk.
    pub fn line(&self, line: &str) -> Result<(), CliError> {
        self.bytes(format!("{line}\n").as_bytes())
    }

    /// Writes bytes as they are, at once.
    ///
    /// # Errors
    /// A reader that has gone, or a full disk.
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), CliError> {
        match &self.sink {
            Sink::Stdout => {
                let mut out = std::io::stdout().lock();
                out.write_all(bytes)?;
                Ok(out.flush()?)
            }
            Sink::Memory(captured) => {
                captured.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// Writes rows under a header.
    ///
    /// # Errors
    /// A reader that has gone, or a full disk.
    pub fn rows(&self, header: &[&str], rows: &[Vec<Cell>]) -> Result<(), CliError> {
        self.bytes(render(header, rows, self.colour).as_bytes())
    }

    /// Writes names with their values, for one thing in detail.
    ///
    /// # Errors
    /// A reader that has gone, or a full disk.
    pub fn fields(&self, fields: &[(&str, Cell)]) -> Result<(), CliError> {
        let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut text = String::new();
        for (name, cell) in fields {
            text.push_str(&format!("{name:width$}  {}\n", cell.paint(self.colour)));
        }
        self.bytes(text.as_bytes())
    }
}

/// Says something to whoever looks, on standard error.
pub fn talk(line: &str) {
    // Who has closed standard error does not want to hear.
    drop(writeln!(std::io::stderr(), "{line}"));
}

/// Says why a command did not do what was asked.
pub(super) fn complain(sentence: &str) {
    let style = AnsiColor::Red.on_default().bold();
    // Who has closed standard error does not want to hear.
    drop(writeln!(anstream::stderr(), "{style}error{style:#}: {sentence}"));
}
