//! The fence: what a worker that lost its claim can do, which is nothing.

use std::slice;

use sawmill::clock::Timestamp;
use sawmill::ids::{ClaimToken, WorkerId};
use sawmill::job::attempt::RunsOn;
use sawmill::job::{AttemptRecord, Claim, ClaimedJob, Job, LogChunk, OutcomeClass, Stage, StageRecord, Stream};
use sawmill::store::{CompletionFilter, LogPage, Renewal, StopRequest, Store, StoreError};

use super::{LONG, Queue, completion, finish, object, on_both};

/// Every write that is fenced by a claim.
#[derive(Debug, Clone, Copy)]
enum Write {
    Renew,
    Check,
    Base,
    RunsOn,
    Stages,
    Log,
    EmptyLog,
    Place,
    Artifacts,
    Finish,
}

const WRITES: [Write; 10] = [
    Write::Renew,
    Write::Check,
    Write::Base,
    Write::RunsOn,
    Write::Stages,
    Write::Log,
    Write::EmptyLog,
    Write::Place,
    Write::Artifacts,
    Write::Finish,
];

fn stage(seq: u32, stage: Stage) -> StageRecord {
    StageRecord { seq, stage, started_at: Timestamp(1), ended_at: None, outcome: None, detail: Some("a\0b".to_owned()) }
}

fn chunk() -> LogChunk {
    LogChunk { seq: 0, stream: Stream::Stdout, offset: 0, spool_end: 3, at: Timestamp(1), data: b"abc".to_vec() }
}

/// Does the write. A renewal says in its own way that the claim is lost.
async fn attempt(store: &Store, write: Write, claimed: &ClaimedJob, claim: &Claim) -> Result<(), StoreError> {
    match write {
        Write::Renew => match store.renew(&claim.worker, slice::from_ref(claim), LONG).await?.renewals.as_slice() {
            [Renewal::Held { .. }] => Ok(()),
            [Renewal::Lost] => Err(StoreError::LeaseLost),
            other => panic!("one renewal was asked for: {other:?}"),
        },
        Write::Check => store.check_claim(claim).await.map(drop),
        Write::Base => store.record_base(claim, &object('e')).await,
        Write::RunsOn => store.record_runs_on(claim, &RunsOn::Host).await,
        Write::Stages => store.record_stages(claim, &[stage(0, Stage::Prepare)]).await,
        Write::Log => store.append_log(claim, &[chunk()]).await,
        Write::EmptyLog => store.append_log(claim, &[]).await,
        Write::Place => store.open_artifacts(claim, "p").await,
        Write::Artifacts => store.record_artifacts(claim, &[]).await,
        Write::Finish => {
            let mut completion = completion(claimed);
            (completion.job, completion.attempt) = (claim.job, claim.attempt);
            let mut end = finish(OutcomeClass::Succeeded);
            end.completion = Some(completion);
            end.stages = vec![stage(1, Stage::Complete)];
            store.finish(claim, end).await.map(drop)
        }
    }
}

/// Everything that a fenced write could change.
async fn everything(queue: &Queue, claimed: &ClaimedJob) -> (Job, Vec<AttemptRecord>, LogPage, usize) {
    let id = claimed.claim.job;
    let filter = CompletionFilter { limit: 10, ..CompletionFilter::default() };
    (
        queue.store.job(id).await.expect("there"),
        queue.store.attempts(id).await.expect("there"),
        queue.store.read_log(id, claimed.claim.attempt, 0, 1_000).await.expect("there"),
        queue.store.completions(&filter).await.expect("listed").items.len(),
    )
}

async fn changes_nothing(queue: &Queue, claimed: &ClaimedJob, claim: &Claim, why: &str) {
    let before = everything(queue, claimed).await;
    for write in WRITES {
        let result = attempt(&queue.store, write, claimed, claim).await;
        assert!(matches!(result, Err(StoreError::LeaseLost)), "{write:?} with {why}: {result:?}");
        assert_eq!(everything(queue, claimed).await, before, "{write:?} with {why}");
    }
}

on_both! {
    async fn every_write_of_the_holder_goes_through(queue) {
        let job = queue.enqueue().await;
        let claimed = queue.claim("w").await;
        for write in WRITES {
            attempt(&queue.store, write, &claimed, &claimed.claim).await.unwrap_or_else(|error| panic!("{write:?}: {error}"));
        }
        let attempts = queue.store.attempts(job.id).await.expect("there");
        assert_eq!(attempts[0].base, Some(object('e')));
        assert_eq!(attempts[0].stages.iter().map(|stage| stage.stage).collect::<Vec<_>>(), [Stage::Prepare, Stage::Complete]);
        assert_eq!(attempts[0].stages[0].detail.as_deref(), Some("a\u{fffd}b"));
        assert_eq!(attempts[0].log_bytes, 3);
    }

    async fn a_stale_claim_changes_nothing_whatever_it_writes(queue) {
        queue.enqueue().await;
        let stale = queue.claim_for("w", std::time::Duration::ZERO).await;
        queue.store.expire_once(10).await.expect("expired");
        changes_nothing(queue, &stale, &stale.claim, "an expired claim").await;
        let current = queue.claim("w").await;
        changes_nothing(queue, &stale, &stale.claim, "the claim of the attempt before").await;
        changes_nothing(queue, &current, &stale.claim, "the claim of the attempt before").await;
        let forged = |edit: fn(&mut Claim)| {
            let mut claim = current.claim.clone();
            edit(&mut claim);
            claim
        };
        changes_nothing(queue, &current, &forged(|claim| claim.token = ClaimToken::generate()), "another token").await;
        changes_nothing(queue, &current, &forged(|claim| claim.attempt.0 += 1), "another attempt").await;
        changes_nothing(queue, &current, &forged(|claim| claim.worker = WorkerId::new("v")), "another worker").await;
        queue.store.finish(&current.claim, finish(OutcomeClass::Backend)).await.expect("finished");
        changes_nothing(queue, &current, &current.claim, "a finished claim").await;
    }

    async fn a_claim_that_a_crash_of_the_database_undid_gives_no_right_beside_the_next_one(queue) {
        let job = queue.enqueue().await;
        let undone = queue.claim("w").await;
        // As after a crash before the claim was on the disk: its holder goes on, and the same attempt begins once more.
        let before = "UPDATE jobs SET state = 'queued', attempt = 0, worker = NULL, token = NULL, lease_until = NULL, started_at = NULL";
        queue.place.tamper(&format!("DELETE FROM attempts; {before}")).await;
        let renewed = queue.store.renew(&undone.claim.worker, slice::from_ref(&undone.claim), LONG).await.expect("answered");
        assert_eq!(renewed.renewals, [Renewal::Lost]);
        let current = queue.claim("w").await;
        assert_eq!((current.claim.job, current.claim.attempt), (job.id, undone.claim.attempt));
        changes_nothing(queue, &current, &undone.claim, "a claim that was undone").await;
        queue.store.finish(&current.claim, finish(OutcomeClass::Succeeded)).await.expect("finished");
    }

    async fn a_renewal_answers_for_each_claim_in_its_place(queue) {
        for _ in 0..3 {
            queue.enqueue().await;
        }
        let (first, second, third) = (queue.claim("w").await, queue.claim("w").await, queue.claim("w").await);
        queue.store.finish(&second.claim, finish(OutcomeClass::Succeeded)).await.expect("finished");
        queue.store.cancel(third.claim.job, "enough").await.expect("asked");
        let worker = WorkerId::new("w");
        let claims = [third.claim.clone(), second.claim, first.claim];
        let renewals = queue.store.renew(&worker, &claims, LONG * 2).await.expect("answered").renewals;
        let Renewal::Held { lease_until, stop, .. } = &renewals[0] else { panic!("{renewals:?}") };
        let asked = StopRequest::Cancel("cancelled by request: enough".to_owned());
        assert_eq!((stop, &renewals[1]), (&Some(asked), &Renewal::Lost));
        assert_eq!(renewals[2], Renewal::Held { lease_until: *lease_until, stop: None, deadline: None });
        assert_eq!(queue.store.check_claim(&third.claim).await.expect("held"), *lease_until);
        assert!(*lease_until > queue.store.now() + LONG);
        assert!(queue.store.renew(&worker, &[], LONG).await.expect("answered").renewals.is_empty());
        let foreign = queue.store.renew(&WorkerId::new("v"), &claims, LONG).await;
        assert!(matches!(foreign, Err(StoreError::ForeignClaim { .. })), "{foreign:?}");
    }

    async fn a_lease_that_ran_out_unnoticed_can_be_renewed_but_nothing_is_published_under_it(queue) {
        queue.enqueue().await;
        let late = queue.claim_for("w", std::time::Duration::ZERO).await.claim;
        assert!(matches!(queue.store.check_claim(&late).await, Err(StoreError::LeaseLost)));
        let renewed = queue.store.renew(&late.worker, slice::from_ref(&late), LONG).await.expect("answered");
        assert!(matches!(renewed.renewals[0], Renewal::Held { .. }));
        queue.store.check_claim(&late).await.expect("it holds again");
        assert!(queue.store.expire_once(10).await.expect("done").is_empty());
    }

    async fn a_stage_recorded_again_replaces_the_one_before(queue) {
        let job = queue.enqueue().await;
        let claim = queue.claim("w").await.claim;
        let mut ended = stage(0, Stage::Prepare);
        queue.store.record_stages(&claim, &[ended.clone(), stage(1, Stage::Execute)]).await.expect("recorded");
        ended.ended_at = Some(Timestamp(9));
        ended.outcome = Some(OutcomeClass::Succeeded);
        queue.store.record_stages(&claim, &[stage(0, Stage::Prepare), ended.clone()]).await.expect("recorded");
        let stages = queue.store.attempts(job.id).await.expect("there").remove(0).stages;
        assert_eq!((stages.len(), stages[0].ended_at, stages[0].outcome), (2, ended.ended_at, ended.outcome));
    }
}
