//! What a worker knows of paused credentials.
//!
//! The one rule: this is what the worker has heard, and may be behind the database by a moment. It keeps jobs from being claimed in
//! vain; nothing rests on it.

use tokio::sync::watch;
use tracing::{info, warn};

use crate::clock::Timestamp;
use crate::job::Pause;

/// The pauses that a worker has heard of. All clones are the same.
#[derive(Debug, Clone, Default)]
pub struct KnownPauses {
    known: watch::Sender<Vec<Pause>>,
}

impl KnownPauses {
    /// Takes note of what the database says, as of `now`.
    pub fn hear(&self, pauses: Vec<Pause>, now: Timestamp) {
        self.known.send_if_modified(|known| {
            let changed = *known != pauses;
            if changed {
                tell(known, &pauses, now);
                *known = pauses;
            }
            changed
        });
    }

    /// Whether a pause of the credential is on record, in force or over.
    #[must_use]
    pub fn has(&self, credential: &str) -> bool {
        self.known.borrow().iter().any(|pause| pause.credential == credential)
    }

    /// Whether the credential is paused.
    #[must_use]
    pub fn is_paused(&self, credential: &str, now: Timestamp) -> bool {
        self.known.borrow().iter().any(|pause| pause.credential == credential && pause.is_on(now))
    }

    /// When the next of those in force is over.
    #[must_use]
    pub fn next_end(&self, now: Timestamp) -> Option<Timestamp> {
        self.known.borrow().iter().filter(|pause| pause.is_on(now)).map(|pause| pause.until).min()
    }

    /// Hears of changes from now on.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Vec<Pause>> {
        self.known.subscribe()
    }
}

fn tell(before: &[Pause], after: &[Pause], now: Timestamp) {
    for pause in after.iter().filter(|pause| pause.is_on(now) && !before.contains(pause)) {
        let Pause { credential, until, reason, .. } = pause;
        warn!("credential {credential} is paused until {until}, and no job that needs it is claimed: {reason}");
    }
    let lifted = |pause: &&Pause| pause.is_on(now) && !after.iter().any(|other| other.credential == pause.credential);
    for pause in before.iter().filter(lifted) {
        info!("credential {} is paused no more", pause.credential);
    }
}
