//! Noticing that the clock by which leases run went ahead of those who renew them.
//!
//! The one rule: a lease that was over because the clock was set, or went on while the host was suspended, costs no job: whoever looks for
//! leases that are over notices that by a clock of this host that nobody sets, and gives everybody one more. Who lives renews within a
//! third of that.

use std::time::{Duration, Instant};

use super::lease_clock::{DRIFT, LeaseClock};
use crate::clock::{Timestamp, human};

/// A clock that goes ahead by no more than this part of a lease takes no lease from anybody who renews at a third.
const TOLERANCE: u32 = 10;
/// Nor is less than this of any interest, however short leases are.
const TOLERANCE_LEAST: Duration = Duration::from_millis(500);

/// What a process has seen of the clock by which leases run.
#[derive(Debug)]
pub(super) struct Steps {
    last: Seen,
    /// When the clock last went ahead.
    ahead: Option<Instant>,
}

/// The clock, read between two moments of the host.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    before: Instant,
    pub(super) clock: Timestamp,
    after: Instant,
}

impl Seen {
    pub(super) fn now(clock: &LeaseClock) -> Self {
        let before = clock.beside().now();
        Self { clock: clock.now(), before, after: clock.beside().now() }
    }

    /// By how much the clock was set ahead of the host's since `earlier`, at least: a process may stand still between two readings, and two
    /// clocks drift apart.
    fn ahead_of(self, earlier: Self) -> Duration {
        let went = self.after.saturating_duration_since(earlier.before);
        self.clock.since(earlier.clock).saturating_sub(went + went / DRIFT)
    }
}

impl Steps {
    pub(super) const fn begin(seen: Seen) -> Self {
        Self { last: seen, ahead: None }
    }

    /// Takes note of the clock, and says whether a lease that is over by it may be taken for that.
    pub(super) fn may_expire(&mut self, seen: Seen, lease: Duration) -> bool {
        let ahead = seen.ahead_of(std::mem::replace(&mut self.last, seen));
        if ahead > (lease / TOLERANCE).max(TOLERANCE_LEAST) {
            let (by, pause) = (human::format(ahead), human::format(lease));
            tracing::warn!(
                "the clock by which leases run went ahead by {by}, as when a host was suspended; no lease is over for {pause}"
            );
            self.ahead = Some(seen.before);
        }
        self.ahead.is_none_or(|ahead| seen.before.saturating_duration_since(ahead) >= lease)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ClaimRequest, Config, Expired, NewJob, Retention, Rooms, Store};
    use super::*;
    use crate::ids::{JobId, WorkerId};
    use crate::job::spec::{Command, Task};
    use crate::job::{JobSpec, PausePolicy, RetryPolicy};

    const LEASE: Duration = Duration::from_secs(30);

    fn seen(start: Instant, host_s: u64, clock_s: i64) -> Seen {
        let at = start + Duration::from_secs(host_s);
        Seen { before: at, clock: Timestamp(clock_s * 1_000), after: at + Duration::from_millis(1) }
    }

    #[test]
    fn after_a_clock_went_ahead_everybody_has_one_lease_to_renew() {
        let start = Instant::now();
        let mut steps = Steps::begin(seen(start, 0, 1_000));
        assert!(steps.may_expire(seen(start, 5, 1_005), LEASE));
        // Suspended for ten minutes, or set.
        assert!(!steps.may_expire(seen(start, 10, 1_610), LEASE));
        assert!(!steps.may_expire(seen(start, 39, 1_639), LEASE));
        assert!(steps.may_expire(seen(start, 40, 1_640), LEASE));
        // Again before that is over.
        assert!(!steps.may_expire(seen(start, 41, 1_700), LEASE));
        assert!(!steps.may_expire(seen(start, 60, 1_800), LEASE));
        assert!(!steps.may_expire(seen(start, 80, 1_820), LEASE));
        assert!(steps.may_expire(seen(start, 90, 1_830), LEASE));
    }

    fn config(url: String) -> Config {
        let policy = (Duration::ZERO, LEASE);
        Config {
            url,
            lease: LEASE,
            poll: LEASE,
            ageing: LEASE,
            waiting_max: 0,
            retry: RetryPolicy { attempts: 1, resets: 2, backoff: policy.0, backoff_max: policy.1 },
            pause: PausePolicy { backoff: policy.0, backoff_max: policy.1, reset_max: LEASE },
            answer_within: LEASE,
            completion_lease: LEASE,
            completion_deliveries: 3,
            retention: Retention::Forever,
        }
    }

    fn job() -> NewJob {
        let task = Task { command: Some(Command::Line("true".to_owned())), ..Task::default() };
        NewJob {
            id: JobId::generate(),
            spec: JobSpec { schema: 1, backend: Some("shell".to_owned()), task, ..JobSpec::default() },
            repo: "r".to_owned(),
            base: "main".to_owned(),
            branch: "b".parse().expect("a branch name"),
            attempts_max: 1,
            weight: 1,
            waiting_max: None,
            digest: "d".to_owned(),
        }
    }

    fn ask() -> ClaimRequest {
        let backends = [("shell".to_owned(), std::collections::BTreeSet::new())].into();
        let labels = std::collections::BTreeSet::new();
        ClaimRequest { worker: WorkerId::new("w"), backends, labels, rooms: Rooms::All, limit: 1, lease: Duration::ZERO }
    }

    #[tokio::test]
    async fn a_file_s_leases_outlive_a_suspended_host() {
        let directory = tempfile::tempdir().expect("a directory");
        let config = config(format!("sqlite:{}/queue.db", directory.path().display()));
        let store = Store::connect(&config).await.expect("opened");
        store.enqueue(job()).await.expect("enqueued");
        assert_eq!(store.claim(&ask()).await.expect("claimed").len(), 1);
        // As if the wall's clock had gone on for an hour while the other stood still: its last reading was so much earlier.
        let hour = Duration::from_secs(3_600);
        let rewind = |steps: &mut Steps| steps.last.clock = steps.last.clock - hour;
        rewind(&mut store.inner.steps.lock().expect("nobody panics"));
        for _ in 0..2 {
            assert_eq!(store.expire_once(10).await.expect("looked"), []);
        }
        // When everybody has had a lease to renew, what is over is over.
        let before = |steps: &mut Steps| steps.ahead = steps.ahead.and_then(|ahead| ahead.checked_sub(LEASE));
        before(&mut store.inner.steps.lock().expect("nobody panics"));
        let expired = store.expire_once(10).await.expect("looked");
        assert!(matches!(expired[..], [Expired::Claim { .. }]), "{expired:?}");
        store.close().await;
    }

    #[test]
    fn a_clock_that_is_corrected_a_little_or_set_back_spares_nobody() {
        let start = Instant::now();
        let mut steps = Steps::begin(seen(start, 0, 1_000));
        assert!(steps.may_expire(seen(start, 5, 1_007), LEASE));
        assert!(steps.may_expire(seen(start, 10, 500), LEASE));
        assert!(steps.may_expire(seen(start, 15, 505), LEASE));
    }

    #[test]
    fn a_process_that_stood_still_between_two_readings_has_seen_no_step() {
        let start = Instant::now();
        let mut steps = Steps::begin(seen(start, 0, 1_000));
        let stopped = Seen { after: start + Duration::from_secs(65), ..seen(start, 5, 1_065) };
        assert!(steps.may_expire(stopped, LEASE));
        assert!(steps.may_expire(seen(start, 70, 1_070), LEASE));
    }
}
