//! The transcript of an agent's work, to be kept beside its events: the log of the attempt, as people read it, up to then.
//!
//! The one rule: it is what the log has, so it is redacted and bounded as that is. A log longer than a transcript may be is its beginning and
//! its end.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use super::halt::Halt;
use super::open::Attempt;

/// What it is called.
pub(super) const NAME: &str = "transcript.txt";

/// How much of the beginning of a long log is kept, and how much of its end, in bytes.
const HEAD: u64 = 15 * 1024 * 1024;
const TAIL: u64 = 1024 * 1024;

/// How much is read at once.
const PIECE: usize = 1024 * 1024;

/// How long what the agent has said may take to reach the store.
const SETTLE: Duration = Duration::from_secs(2);

/// Writes it, where the backend is an agent: out of the job's reach.
///
/// # Errors
/// The database does not answer, or the attempt is to stop. That the file cannot be written is an answer.
pub(super) async fn write(attempt: &Attempt) -> Result<Option<io::Result<PathBuf>>, Halt> {
    if !attempt.backend.is_agent() {
        return Ok(None);
    }
    let path = attempt.slot.run().join(NAME);
    let mut file = match File::create(&path) {
        Ok(file) => file,
        Err(error) => return Ok(Some(Err(error))),
    };
    let end = attempt.shipper.settle(SETTLE).await;
    for (from, to) in parts(end) {
        if from > 0
            && let Err(error) = writeln!(file, "\n… {} bytes of the log are left out", from - HEAD)
        {
            return Ok(Some(Err(error)));
        }
        if let Err(error) = copy(attempt, (from, to), &mut file).await? {
            return Ok(Some(Err(error)));
        }
    }
    Ok(Some(Ok(path)))
}

/// What is kept of a log of that length: from where, to where.
fn parts(end: u64) -> Vec<(u64, u64)> {
    if end <= HEAD + TAIL { vec![(0, end)] } else { vec![(0, HEAD), (end - TAIL, end)] }
}

async fn copy(attempt: &Attempt, (mut from, to): (u64, u64), file: &mut File) -> Result<io::Result<()>, Halt> {
    let claim = &attempt.claimed.claim;
    while from < to {
        let most = usize::try_from(to - from).unwrap_or(PIECE).min(PIECE);
        let page = attempt.insist(|| attempt.tools.store.read_log(claim.job, claim.attempt, from, most)).await?;
        if page.chunks.is_empty() {
            break;
        }
        for chunk in &page.chunks {
            if let Err(error) = file.write_all(&chunk.data) {
                return Ok(Err(error));
            }
        }
        from = page.next_offset(from);
    }
    Ok(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_log_the_beginning_and_the_end_are_kept() {
        assert_eq!(parts(0), [(0, 0)]);
        assert_eq!(parts(HEAD + TAIL), [(0, HEAD + TAIL)]);
        assert_eq!(parts(HEAD + TAIL + 7), [(0, HEAD), (HEAD + 7, HEAD + TAIL + 7)]);
    }
}
