//! The end of what a gate printed, for whoever has to make its work better.
//!
//! The one rule: secrets are taken out before it is cut, so that no part of one is left at the cut.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::halt::Halt;
use super::open::Attempt;

/// How much is read of the end of each stream.
const READ: u64 = 256 * 1024;
/// How much of that is told, in characters.
const TOLD: usize = 6_000;

/// The end of what the gate printed that was last begun: of its output, and of its error output. None where that is nothing.
///
/// # Errors
/// It cannot be read.
pub(super) async fn end(attempt: &Attempt) -> Result<Option<String>, Halt> {
    let Some(ground) = attempt.journal.ground else { return Ok(None) };
    let streams = [(attempt.spool.stdout(), ground.stdout_from), (attempt.spool.stderr(), ground.stderr_from)];
    let redactor = attempt.redactor.clone();
    let reading = move || -> io::Result<String> {
        let mut told = String::new();
        for (path, from) in &streams {
            told.push_str(&last(&redactor.redact(&read(path, *from)?)));
        }
        Ok(told)
    };
    let failed = |error: &dyn std::error::Error| Halt::infrastructure("cannot read what a gate printed", error);
    let told = tokio::task::spawn_blocking(reading).await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    Ok(Some(told.trim_end().to_owned()).filter(|told| !told.is_empty()))
}

fn read(path: &Path, from: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let to = file.metadata()?.len();
    file.seek(SeekFrom::Start(from.max(to.saturating_sub(READ))))?;
    let mut bytes = Vec::new();
    file.take(READ).read_to_end(&mut bytes)?;
    // What the log has given back to the disk reads as zeroes.
    bytes.retain(|byte| *byte != 0);
    Ok(bytes)
}

/// The last lines, and their end.
fn last(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end();
    let Some((cut, _)) = text.char_indices().rev().nth(TOLD) else {
        return if text.is_empty() { String::new() } else { format!("{text}\n") };
    };
    let whole = text[cut..].find('\n').map_or(cut, |line| cut + line + 1);
    format!("…\n{}\n", &text[whole..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_is_cut_before_a_line() {
        assert_eq!(last(b"one\ntwo\n\n"), "one\ntwo\n");
        assert_eq!(last(b" \n"), "");
        let long = format!("{}\nend\n", "first line\n".repeat(1000));
        let told = last(long.as_bytes());
        assert!(told.starts_with("…\nfirst line\n") && told.ends_with("\nend\n"), "{told}");
        assert!(told.len() <= TOLD + 8, "{}", told.len());
    }
}
