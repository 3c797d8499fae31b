//! What planners and workers do, and what time does to it.

use std::collections::BTreeMap;

use sawmill::clock::Timestamp;
use sawmill::ids::{ClaimToken, JobId};
use sawmill::job::completion::Usage;
use sawmill::job::{self, AfterFailure, Completion, CompletionState, Concurrency, JobState, OutcomeClass};
use sawmill::store::{ClaimRequest, CredentialNews, Enqueued, Expired, Finish, NewJob, Renewal, StopRequest, StoreError};

use super::super::{LONG, ask, completion, finish, new_job};
use super::drive::Driver;
use super::operation::Ask;
use super::world::{Delivery, Job, Wait};

const BRANCHES: [&str; 2] = ["main-line", "side-line"];
const REPO: &str = "/srv/git/app.git";

fn usage(tokens: u8) -> Usage {
    Usage { prompt_tokens: tokens.into(), completion_tokens: 0, cost_usd: None, model: None }
}

impl Driver {
    pub(super) async fn enqueue(&mut self, ask: &Ask) {
        let store = &self.queue.store;
        let back = |number: &u8| self.world.jobs.len().checked_sub(1 + usize::from(*number));
        let base_from = ask.base_from.as_ref().and_then(back);
        let after: Vec<usize> = ask.after.iter().filter_map(back).collect();
        let mut new = NewJob { attempts_max: ask.attempts, ..new_job() };
        if ask.scheduled {
            new.spec.run_at = Some(store.now() + LONG);
        }
        let spec = &mut new.spec;
        spec.priority = ask.priority;
        spec.project = ask.project.map(|project| format!("p{project}"));
        spec.concurrency = ask.key.map(|(key, limit)| Concurrency { key: format!("k{key}"), limit });
        spec.requires = if ask.picky { vec!["gpu".to_owned()] } else { Vec::new() };
        spec.after = after.iter().map(|at| self.world.jobs[*at].id).collect();
        spec.base_from = base_from.map(|at| self.world.jobs[at].id);
        spec.after_failure = if ask.cascade { AfterFailure::Cascade } else { AfterFailure::Ignore };
        spec.start_by = ask.start_by.then(|| store.now() + 9 * LONG);
        spec.idempotency_key = ask.idempotency.map(|(key, _)| format!("i{key}"));
        new.digest = format!("{:?}", ask.idempotency.map(|(_, document)| document));
        let there = ask
            .idempotency
            .and_then(|(key, _)| self.world.jobs.iter().find(|job| job.idempotency.is_some_and(|(other, _)| other == key)));
        let (id, answer) = (new.id, store.enqueue(new).await);
        match there {
            Some(job) if job.idempotency == ask.idempotency => {
                assert!(matches!(&answer, Ok(Enqueued::Existing(existing)) if existing.id == job.id), "{answer:?}");
                return;
            }
            Some(job) => {
                assert!(matches!(&answer, Err(StoreError::KeyConflict { job: other, .. }) if *other == job.id), "{answer:?}");
                return;
            }
            None => assert!(matches!(&answer, Ok(Enqueued::Created(created)) if created.id == id), "{answer:?}"),
        }
        self.world.enqueue(Job {
            id,
            priority: ask.priority,
            project: ask.project,
            key: ask.key,
            picky: ask.picky,
            needs: after.into_iter().chain(base_from).collect(),
            base_from,
            cascade: ask.cascade,
            idempotency: ask.idempotency,
            attempts_max: ask.attempts,
            state: JobState::Queued,
            wait: Wait::No,
            scheduled: ask.scheduled,
            start_by: ask.start_by,
            unmet: [].into(),
            base: "main".to_owned(),
            delivered: None,
            attempt: 0,
            used: 0,
            resets: 0,
            cancel_asked: false,
            requeue_asked: false,
            outcome: None,
            ends: Vec::new(),
            said: BTreeMap::new(),
        });
    }

    pub(super) async fn claim(&mut self, picky: bool, limit: u32) -> usize {
        let mut request: ClaimRequest = ask("w", limit, LONG);
        if picky {
            request.labels.insert("gpu".to_owned());
        }
        let claimed = self.queue.store.claim(&request).await.expect("answered");
        assert!(claimed.len() <= limit as usize);
        let before: Vec<usize> =
            (0..self.world.jobs.len()).filter(|at| self.world.is_claimable(&self.world.jobs[*at], picky)).collect();
        let mut started = Vec::new();
        for one in &claimed {
            let at = self.at(one.claim.job);
            assert!(before.contains(&at) && !started.contains(&at), "it could not be claimed: {:?}", self.world.jobs[at]);
            self.world.start(at, one.claim.clone());
            assert_eq!(self.world.jobs[at].attempt, one.claim.attempt.0);
            started.push(at);
        }
        let least_urgent = started.iter().map(|at| self.world.jobs[*at].priority).max();
        for at in &started {
            let job = &self.world.jobs[*at];
            let fits = |running: u32, limit: u32| running <= limit;
            if let Some(limit) = job.project.and_then(|project| self.world.limits.get(&project)) {
                let running = self.world.running(|other| other.project == job.project);
                assert!(fits(running, *limit), "project {:?} runs {running} of {limit}", job.project);
            }
            if let Some((key, _)) = job.key {
                // Those that started now may have started in any order: the one with the highest limit last.
                let of_key = |other: &Job| other.key.is_some_and(|(name, _)| name == key);
                let running = self.world.running(of_key);
                let now = started.iter().map(|at| &self.world.jobs[*at]).filter(|job| of_key(job));
                let most = now.filter_map(|job| job.key).map(|(_, limit)| limit).max().unwrap_or(0);
                assert!(fits(running, most), "key {key} runs {running} of {most}");
            }
        }
        for at in before.iter().filter(|at| !started.contains(at)) {
            let job = &self.world.jobs[*at];
            let could = !self.world.key_is_full(job) && !self.world.project_is_full(job);
            let entitled = claimed.len() < limit as usize || least_urgent.is_some_and(|least| job.priority < least);
            assert!(!(could && entitled), "of {limit} only {} were claimed, and not {job:?}", claimed.len());
        }
        claimed.len()
    }

    pub(super) fn at(&self, id: JobId) -> usize {
        self.world.jobs.iter().position(|job| job.id == id).expect("a job that the model knows")
    }

    pub(super) async fn finish(
        &mut self,
        number: usize,
        class: OutcomeClass,
        deliver: Option<Option<u8>>,
        pause: bool,
        used: Option<u8>,
    ) {
        let (at, claim) = self.world.claims[number].clone();
        let store = &self.queue.store;
        let mut end = Finish { not_before: pause.then(|| store.now() + 9 * LONG), usage: used.map(usage), ..finish(class) };
        if class == OutcomeClass::UsageLimit {
            let retry_at = Some(store.now() + LONG);
            end.credential = Some(CredentialNews::Limited { credential: "team".to_owned(), retry_at });
        }
        if let Some(line) = deliver.filter(|_| class == OutcomeClass::Succeeded) {
            let job = store.job(claim.job).await.expect("there");
            let claimed = job::ClaimedJob {
                claim: claim.clone(),
                job,
                claimed_at: Timestamp(0),
                lease_until: Timestamp(0),
                previous: None,
            };
            let branch = line.map(|line| BRANCHES[usize::from(line)].to_owned());
            let delivered = Completion { branch, repo: REPO.to_owned(), ..completion(&claimed) };
            // What changes nothing has no branch.
            end.completion = Some(match line {
                Some(_) => delivered,
                None => Completion { commit: None, tree: None, ..delivered },
            });
        }
        let (live, written) = (self.world.is_live(number), end.completion.clone());
        let answer = self.queue.store.finish(&claim, end).await;
        if !live {
            assert!(matches!(answer, Err(StoreError::LeaseLost)), "{answer:?}");
            return;
        }
        assert_eq!(answer.expect("it is held").id, claim.job);
        if let Some(written) = written {
            let line = deliver.flatten();
            self.world.deliveries.push(Delivery { id: written.id, line, state: CompletionState::Pending, deliveries: 0 });
            self.tokens.push(ClaimToken::generate());
            self.world.jobs[at].delivered = written.commit.map(|commit| commit.to_string());
        }
        if let Some(used) = used {
            self.world.say(at, used);
        }
        self.world.settle(at, class, pause);
    }

    pub(super) async fn say(&mut self, number: usize, used: u8) {
        let (at, claim) = self.world.claims[number].clone();
        let answer = self.queue.store.record_usage(&claim, &usage(used)).await;
        if self.world.is_live(number) {
            answer.expect("it is held");
            self.world.say(at, used);
        } else {
            assert!(matches!(answer, Err(StoreError::LeaseLost)), "{answer:?}");
        }
    }

    pub(super) async fn renew(&mut self, number: usize) {
        let (at, claim) = &self.world.claims[number];
        let job = &self.world.jobs[*at];
        let renewed = self.queue.store.renew(&claim.worker, std::slice::from_ref(claim), LONG).await.expect("answered");
        match &renewed.renewals[0] {
            Renewal::Lost => assert!(!self.world.is_live(number), "{job:?}"),
            Renewal::Held { stop, .. } => {
                assert!(self.world.is_live(number), "{job:?}");
                let expected = match stop {
                    None => (false, job.cancel_asked || job.requeue_asked),
                    Some(StopRequest::Cancel(_)) => (false, !job.cancel_asked),
                    Some(StopRequest::Requeue(_)) => (false, job.cancel_asked || !job.requeue_asked),
                };
                assert_eq!(expected.0, expected.1, "{stop:?}: {job:?}");
            }
        }
        let checked = self.queue.store.check_claim(claim).await;
        assert_eq!(checked.is_ok(), self.world.is_live(number), "{checked:?}");
    }

    pub(super) async fn expire_once(&self) -> Vec<Expired> {
        self.queue.store.expire_once(100).await.expect("done")
    }

    pub(super) async fn expire(&mut self, number: usize) {
        let (at, claim) = self.world.claims[number].clone();
        if !self.world.is_live(number) {
            return;
        }
        self.pass("jobs", "lease_until", claim.job.as_uuid(), Timestamp(1)).await;
        let expired = self.expire_once().await;
        self.world.settle(at, OutcomeClass::LeaseLost, false);
        let state = self.world.jobs[at].state;
        assert_eq!(expired, [Expired::Claim { job: claim.job, attempt: claim.attempt, worker: claim.worker, state }]);
    }

    pub(super) async fn promote(&mut self, at: usize) {
        let (job, now) = (&self.world.jobs[at], self.queue.store.now());
        let id = job.id;
        let waits = matches!(job.wait, Wait::Scheduled | Wait::Backoff);
        if waits {
            self.pass("jobs", "ready_at", id.as_uuid(), now).await;
        }
        assert_eq!(self.queue.store.promote_once(100).await.expect("done"), u64::from(waits));
        if waits {
            (self.world.jobs[at].wait, self.world.jobs[at].scheduled) = (Wait::No, false);
        }
    }

    pub(super) async fn answer(&mut self, at: usize) {
        let answered = self.queue.store.answer_job(self.world.jobs[at].id, "so", "me").await;
        assert_eq!(answered.is_ok(), self.world.jobs[at].wait == Wait::Answer, "{answered:?}");
        if answered.is_ok() {
            self.world.jobs[at].wait = Wait::No;
        }
    }

    pub(super) async fn lift_pause(&mut self) {
        let lifted = self.queue.store.lift_pause("team").await;
        assert_eq!(lifted.is_ok(), std::mem::take(&mut self.world.paused), "{lifted:?}");
        if lifted.is_err() {
            return;
        }
        let waits = |job: &&mut Job| job.wait == Wait::Backoff && job.outcome == Some(OutcomeClass::UsageLimit);
        let let_go: Vec<&mut Job> = self.world.jobs.iter_mut().filter(waits).collect();
        assert_eq!(self.queue.store.promote_once(100).await.expect("done"), let_go.len() as u64);
        for job in let_go {
            (job.wait, job.scheduled) = (Wait::No, false);
        }
    }

    pub(super) async fn miss_start(&mut self, at: usize) {
        let job = &self.world.jobs[at];
        let late = job.state == JobState::Queued && job.start_by;
        let id = job.id;
        self.pass("jobs", "start_by", id.as_uuid(), Timestamp(1)).await;
        let expired = self.expire_once().await;
        if late {
            assert_eq!(expired, [Expired::Start { job: id }]);
            self.world.end(at, JobState::Failed, OutcomeClass::Expired);
            self.relieve().await;
        } else {
            assert_eq!(expired, []);
        }
    }
}
