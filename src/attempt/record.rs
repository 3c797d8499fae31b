//! Putting an attempt's end on record, with the rest of its log: across an outage of the database, and across a restart of the daemon
//! where that may not wait for the end of one.

use std::pin::pin;
use std::time::Duration;

use tracing::{error, warn};

use super::Ended;
use super::halt::chain;
use super::journal::Journal;
use super::open::Attempt;
use super::stop::Stop;
use crate::ids::ObjectId;
use crate::job::{Claim, Completion, LogVerdict, Outcome, OutcomeClass, Stage};
use crate::logs::{LogsError, Shipper, Spool};
use crate::store::{CredentialNews, Finish, Store, StoreError};
use crate::workspace::SlotDir;

/// The first wait before the end is written again to a database that is away, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// How long a worker that is to be gone waits for a database that does not take an end: longer than one takes to start again.
const PATIENCE: Duration = Duration::from_secs(10);

impl Attempt {
    /// Puts the end on record that the attempt has come to.
    pub(super) async fn record_end(self, outcome: Outcome, completion: Option<Completion>, salvage: Option<ObjectId>) -> Ended {
        let finish = Finish {
            resources: self.journal.resources,
            usage: self.journal.usage.clone(),
            credential: self.credential_news(&outcome),
            outcome,
            salvage,
            completion,
            not_before: None,
            // As they are when the log is shipped.
            stages: Vec::new(),
            log: LogVerdict::Complete,
        };
        self.put_on_record(finish).await
    }

    /// Ships the rest of the log, and writes the end under the claim. Where the worker is to be gone before the database takes it, it is
    /// in the journal, for the next daemon.
    pub(super) async fn put_on_record(self, mut finish: Finish) -> Ended {
        let Self { tools, claimed, journal, slot, mut stages, spool, shipper, stop, .. } = self;
        let (store, claim) = (&tools.store, &claimed.claim);
        let mut page = Page { journal, slot };
        let limited = matches!(finish.credential, Some(CredentialNews::Limited { .. }));
        stages.enter(Stage::Complete, store.now());
        finish.stages = stages.records().to_vec();
        let recorded = async {
            let away = shipper.answers();
            let log = tokio::select! {
                log = rest_of_log(claim, shipper, &spool, tools.config.close_timeout) => log,
                () = async { stop.leaving().await; away.away_for(PATIENCE).await } => return Ended::Unrecorded,
            };
            let Some(log) = log else { return Ended::Lost };
            stages.end(OutcomeClass::Succeeded, None, store.now());
            (finish.log, finish.stages) = (log, stages.records().to_vec());
            write(store, claim, &finish, &stop, Some(&mut page)).await
        };
        let ended = tokio::select! {
            ended = recorded => ended,
            () = stop.lease_lost() => Ended::Lost,
        };
        if matches!(ended, Ended::Unrecorded) {
            warn!(
                "the end of job {} is not on record: {} does not take it; the next start of this worker tries again",
                claim.job,
                store.label()
            );
            page.keep(&finish);
        }
        if limited && matches!(ended, Ended::Recorded(_)) {
            // Before the slot is free: or the next job would be claimed for the same credential.
            match store.pauses().await {
                Ok(pauses) => tools.pauses.hear(pauses, store.now()),
                Err(error) => warn!("cannot look for paused credentials yet: {}", chain(&error)),
            }
        }
        ended
    }

    /// What the attempt has found out about its backend's credential.
    fn credential_news(&self, outcome: &Outcome) -> Option<CredentialNews> {
        let credential = self.backend.credential().to_owned();
        match (outcome.class, self.limited) {
            (OutcomeClass::UsageLimit, Some(retry_at)) => Some(CredentialNews::Limited { credential, retry_at }),
            // Only where a pause is on record is there something to say.
            (class, _)
                if (self.journal.phase.is_executed() || class == OutcomeClass::Clarification)
                    && self.tools.pauses.has(&credential) =>
            {
                Some(CredentialNews::Works { credential })
            }
            _ => None,
        }
    }
}

/// The end of an attempt of which nothing is left, under its claim. The claim of one that is not recorded is given back by the next daemon.
pub(super) async fn refusal(store: &Store, claim: &Claim, finish: Finish, stop: &Stop) -> Ended {
    tokio::select! {
        ended = write(store, claim, &finish, stop, None) => ended,
        () = stop.lease_lost() => Ended::Lost,
    }
}

/// The journal of an attempt that has ended.
struct Page {
    journal: Journal,
    slot: SlotDir,
}

impl Page {
    /// Keeps the end for a daemon after this one.
    fn keep(&mut self, finish: &Finish) {
        self.journal.stages.clone_from(&finish.stages);
        self.journal.end = Some(Box::new(finish.clone()));
        if let Err(error) = self.journal.write(&self.slot.journal()) {
            error!("job {}: {}", self.journal.claim.job, chain(&error));
        }
    }
}

/// What is to be said of the log when the rest of it is shipped; nothing where the lease is lost.
async fn rest_of_log(claim: &Claim, shipper: Shipper, spool: &Spool, within: Duration) -> Option<LogVerdict> {
    let shipped = shipper.position();
    match shipper.drain(within).await {
        Ok(verdict) => Some(verdict),
        Err(LogsError::LeaseLost { .. }) => None,
        Err(error) => {
            warn!("the log of job {} is not whole: {}", claim.job, chain(&error));
            match error {
                LogsError::DrainDeadline { verdict, .. } => Some(verdict),
                _ => Some(LogVerdict::Gap { from: shipped, to: spool.written().max(shipped) }),
            }
        }
    }
}

/// Writes an attempt's end for as long as it takes: until it is written, the claim is lost, or the worker is to be gone. From the first
/// failure on it is in the journal.
async fn write(store: &Store, claim: &Claim, finish: &Finish, stop: &Stop, mut page: Option<&mut Page>) -> Ended {
    let (mut wait, mut tried) = (RETRY.0, false);
    // Begins with the first failure.
    let mut out_of_patience = pin!(async {
        stop.leaving().await;
        tokio::time::sleep(PATIENCE).await;
    });
    loop {
        match store.finish(claim, finish.clone()).await {
            Ok(job) => return Ended::Recorded(Box::new(job)),
            // The answer to an earlier try may be what was lost.
            Err(StoreError::LeaseLost) if tried && is_on_record(store, claim, &finish.outcome).await => {
                return store.job(claim.job).await.map_or(Ended::Lost, |job| Ended::Recorded(Box::new(job)));
            }
            Err(StoreError::LeaseLost) => return Ended::Lost,
            Err(error) if error.is_transient() => warn!("cannot record the end of job {} yet: {}", claim.job, chain(&error)),
            // Tried again all the same: the lease bounds it, and losing a result to an odd error would be worse.
            Err(error) => error!("cannot record the end of job {}: {}", claim.job, chain(&error)),
        }
        if let Some(page) = page.take() {
            page.keep(finish);
        }
        tried = true;
        tokio::select! {
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(RETRY.1),
            () = &mut out_of_patience => return Ended::Unrecorded,
        }
    }
}

/// Whether this very end of the attempt is on record already.
async fn is_on_record(store: &Store, claim: &Claim, outcome: &Outcome) -> bool {
    let attempts = store.attempts(claim.job).await.unwrap_or_default();
    attempts.iter().any(|found| found.attempt == claim.attempt && found.outcome.as_ref() == Some(outcome))
}
