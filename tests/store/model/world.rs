//! The model: what a queue is, in memory. It knows the rules and nothing of how they are kept.

use std::collections::{BTreeMap, BTreeSet};

use sawmill::ids::{CompletionId, JobId};
use sawmill::job::spec::Priority;
use sawmill::job::{Claim, CompletionState, JobState, OutcomeClass};
use sawmill::store::Change;

/// How often infrastructure may fail a job, as the tests configure it.
const RESETS: u32 = 2;
/// How often a completion is handed out, as the tests configure it.
const DELIVERIES: u32 = 3;

/// Why a queued job cannot be claimed, as far as it is not for a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    No,
    Scheduled,
    Backoff,
    Dependency,
    Answer,
}

#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) id: JobId,
    pub(super) priority: Priority,
    pub(super) project: Option<u8>,
    pub(super) key: Option<(u8, u32)>,
    pub(super) picky: bool,
    pub(super) needs: BTreeSet<usize>,
    pub(super) base_from: Option<usize>,
    pub(super) cascade: bool,
    pub(super) idempotency: Option<(u8, u8)>,
    pub(super) attempts_max: u32,
    pub(super) state: JobState,
    pub(super) wait: Wait,
    /// Whether its `run_at` is to come, whatever else it waits for.
    pub(super) scheduled: bool,
    pub(super) start_by: bool,
    /// What it waits for still.
    pub(super) unmet: BTreeSet<usize>,
    pub(super) base: String,
    pub(super) delivered: Option<String>,
    pub(super) attempt: u32,
    pub(super) used: u32,
    pub(super) resets: u32,
    pub(super) cancel_asked: bool,
    pub(super) requeue_asked: bool,
    pub(super) outcome: Option<OutcomeClass>,
    /// How it ended, each time that it did.
    pub(super) ends: Vec<JobState>,
    /// What each of its attempts has used, by the most that it said.
    pub(super) said: BTreeMap<u32, u8>,
}

#[derive(Debug, Clone)]
pub(super) struct Delivery {
    pub(super) id: CompletionId,
    pub(super) line: Option<u8>,
    pub(super) state: CompletionState,
    pub(super) deliveries: u32,
}

/// What a change of fate comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Done,
    Asked,
    Already,
    Refused,
    /// One that it needs has not succeeded.
    Needs(usize),
}

#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) jobs: Vec<Job>,
    /// All that there ever were, with the job of each; those of attempts that are over are worth nothing.
    pub(super) claims: Vec<(usize, Claim)>,
    pub(super) limits: BTreeMap<u8, u32>,
    pub(super) deliveries: Vec<Delivery>,
    /// Whether the one credential is paused.
    pub(super) paused: bool,
}

impl World {
    pub(super) fn is_live(&self, claim: usize) -> bool {
        let (job, claim) = &self.claims[claim];
        let job = &self.jobs[*job];
        job.state == JobState::Running && job.attempt == claim.attempt.0
    }

    /// Adds a job, and says whether it is there: it is not where one of the same key is.
    pub(super) fn enqueue(&mut self, mut job: Job) {
        let failed = job.needs.iter().copied().find(|needed| self.forbids(&job, *needed));
        job.unmet = job.needs.iter().copied().filter(|needed| !self.jobs[*needed].state.is_final()).collect();
        self.take_base(&mut job);
        job.wait = if job.unmet.is_empty() { waits_for_time(&job) } else { Wait::Dependency };
        self.jobs.push(job);
        if failed.is_some() {
            self.end(self.jobs.len() - 1, JobState::Cancelled, OutcomeClass::Dependency);
        }
    }

    fn take_base(&self, job: &mut Job) {
        if let Some(from) = job.base_from.map(|from| &self.jobs[from])
            && from.state == JobState::Succeeded
        {
            job.base = from.delivered.clone().unwrap_or_else(|| from.base.clone());
        }
    }

    /// Whether the end of one that a job needs is one after which it cannot run.
    fn forbids(&self, job: &Job, needed: usize) -> bool {
        let binding = job.cascade || job.base_from == Some(needed);
        binding && matches!(self.jobs[needed].state, JobState::Failed | JobState::Cancelled)
    }

    /// Whether a worker may start it, as far as limits let it.
    pub(super) fn is_claimable(&self, job: &Job, picky: bool) -> bool {
        job.state == JobState::Queued && job.wait == Wait::No && (picky || !job.picky)
    }

    pub(super) fn running(&self, which: impl Fn(&Job) -> bool) -> u32 {
        let count = self.jobs.iter().filter(|job| job.state == JobState::Running && which(job)).count();
        u32::try_from(count).expect("few")
    }

    pub(super) fn key_is_full(&self, job: &Job) -> bool {
        job.key.is_some_and(|(key, limit)| self.running(|other| other.key.is_some_and(|(name, _)| name == key)) >= limit)
    }

    pub(super) fn project_is_full(&self, job: &Job) -> bool {
        let limit = job.project.and_then(|project| self.limits.get(&project));
        limit.is_some_and(|limit| self.running(|other| other.project == job.project) >= *limit)
    }

    pub(super) fn start(&mut self, at: usize, claim: Claim) {
        let job = &mut self.jobs[at];
        job.state = JobState::Running;
        job.attempt += 1;
        job.start_by = false;
        job.scheduled = false;
        self.claims.push((at, claim));
    }

    /// What the running attempt of a job has used is this, or what it said before where that is more.
    pub(super) fn say(&mut self, at: usize, used: u8) {
        let job = &mut self.jobs[at];
        let said = job.said.entry(job.attempt).or_default();
        *said = used.max(*said);
    }

    /// How many attempts at jobs of each project have said what they used, and how much that is.
    pub(super) fn spent(&self) -> BTreeMap<u8, (usize, u64)> {
        let mut spent = BTreeMap::new();
        for job in self.jobs.iter().filter(|job| !job.said.is_empty()) {
            if let Some(project) = job.project {
                let (attempts, tokens) = spent.entry(project).or_insert((0, 0));
                *attempts += job.said.len();
                *tokens += job.said.values().copied().map(u64::from).sum::<u64>();
            }
        }
        spent
    }

    /// Ends the running attempt of a job.
    pub(super) fn settle(&mut self, at: usize, class: OutcomeClass, pause: bool) {
        use OutcomeClass as C;
        let job = &mut self.jobs[at];
        let (used, resets) = (job.used, job.resets);
        match class {
            C::Released | C::UsageLimit | C::Clarification => {}
            C::Infrastructure | C::LeaseLost => job.resets += 1,
            _ => job.used += 1,
        }
        job.outcome = Some(class);
        job.requeue_asked = false;
        self.paused |= class == C::UsageLimit;
        let again = match class {
            C::UsageLimit => Some(Wait::Backoff),
            C::Clarification => Some(Wait::Answer),
            C::Released => Some(if pause { Wait::Backoff } else { Wait::No }),
            C::Infrastructure | C::LeaseLost => (resets < RESETS).then_some(Wait::Backoff),
            C::NoChange | C::Backend | C::Gate | C::Timeout | C::OutOfMemory | C::OutOfDisk => {
                (used + 1 < job.attempts_max).then_some(Wait::Backoff)
            }
            _ => None,
        };
        if class == C::Succeeded {
            self.end(at, JobState::Succeeded, class);
        } else if job.cancel_asked || matches!(class, C::Cancelled | C::Dependency) {
            self.end(at, JobState::Cancelled, C::Cancelled);
        } else if let Some(wait) = again {
            job.state = JobState::Queued;
            job.wait = wait;
        } else {
            self.end(at, JobState::Failed, class);
        }
    }

    pub(super) fn end(&mut self, at: usize, state: JobState, class: OutcomeClass) {
        self.close(at, state, class);
        self.tell(at);
    }

    fn close(&mut self, at: usize, state: JobState, class: OutcomeClass) {
        let job = &mut self.jobs[at];
        job.state = state;
        job.wait = Wait::No;
        job.outcome = Some(class);
        job.ends.push(state);
    }

    /// Has those that wait for a job hear of its end.
    fn tell(&mut self, at: usize) {
        let waiting: Vec<usize> = (0..self.jobs.len())
            .filter(|other| {
                let other = &self.jobs[*other];
                other.state == JobState::Queued && other.wait == Wait::Dependency && other.unmet.contains(&at)
            })
            .collect();
        for other in waiting {
            if self.jobs[other].state != JobState::Queued {
                continue;
            }
            if self.forbids(&self.jobs[other], at) {
                self.end(other, JobState::Cancelled, OutcomeClass::Dependency);
                continue;
            }
            let mut job = self.jobs[other].clone();
            job.unmet.remove(&at);
            if job.base_from == Some(at) {
                self.take_base(&mut job);
            }
            if job.unmet.is_empty() {
                job.wait = waits_for_time(&job);
            }
            self.jobs[other] = job;
        }
    }

    /// Cancels several at once: none of them ends because another did. Says which were changed.
    pub(super) fn cancel_all(&mut self, all: &[usize], change: &Change) -> Vec<usize> {
        let waiting: Vec<usize> = all.iter().copied().filter(|at| self.jobs[*at].state == JobState::Queued).collect();
        for at in &waiting {
            self.jobs[*at].cancel_asked = true;
            self.close(*at, JobState::Cancelled, OutcomeClass::Cancelled);
        }
        for at in &waiting {
            self.tell(*at);
        }
        let running = all.iter().copied().filter(|at| !waiting.contains(at));
        let asked: Vec<usize> = running.filter(|at| self.change(*at, change) == Answer::Asked).collect();
        waiting.into_iter().chain(asked).collect()
    }

    pub(super) fn change(&mut self, at: usize, change: &Change) -> Answer {
        let job = &mut self.jobs[at];
        match (change, job.state) {
            (Change::Cancel { .. }, JobState::Queued) => {
                job.cancel_asked = true;
                self.end(at, JobState::Cancelled, OutcomeClass::Cancelled);
                Answer::Done
            }
            (Change::Cancel { .. }, JobState::Running) if job.cancel_asked => Answer::Already,
            (Change::Cancel { .. }, JobState::Running) => {
                job.cancel_asked = true;
                Answer::Asked
            }
            (Change::Cancel { .. }, JobState::Cancelled) => Answer::Already,
            (Change::Retry, JobState::Failed | JobState::Cancelled) => self.retry(at),
            (Change::Requeue { .. }, JobState::Running) if job.cancel_asked => Answer::Refused,
            (Change::Requeue { .. }, JobState::Running) if job.requeue_asked => Answer::Already,
            (Change::Requeue { .. }, JobState::Running) => {
                job.requeue_asked = true;
                Answer::Asked
            }
            (Change::Requeue { .. }, JobState::Queued) => match job.wait {
                Wait::Backoff => {
                    job.wait = Wait::No;
                    Answer::Done
                }
                // Held for a limit or not, which the model does not know.
                Wait::No => Answer::Already,
                Wait::Scheduled | Wait::Dependency | Wait::Answer => Answer::Refused,
            },
            _ => Answer::Refused,
        }
    }

    fn retry(&mut self, at: usize) -> Answer {
        let mut job = self.jobs[at].clone();
        if let Some(needed) = job.needs.iter().copied().find(|needed| self.forbids(&job, *needed)) {
            return Answer::Needs(needed);
        }
        job.unmet = job.needs.iter().copied().filter(|needed| !self.jobs[*needed].state.is_final()).collect();
        self.take_base(&mut job);
        job.state = JobState::Queued;
        job.wait = if job.unmet.is_empty() { Wait::No } else { Wait::Dependency };
        (job.scheduled, job.start_by, job.cancel_asked, job.delivered) = (false, false, false, None);
        (job.used, job.resets) = (0, 0);
        self.jobs[at] = job;
        Answer::Done
    }

    /// The completions that may be handed out: of each line the first that is not done with, while nobody holds one of it.
    pub(super) fn offered(&self) -> Vec<usize> {
        let open = |state| matches!(state, CompletionState::Pending | CompletionState::Claimed);
        let mut offered = Vec::new();
        for (at, one) in self.deliveries.iter().enumerate().filter(|(_, one)| one.state == CompletionState::Pending) {
            let line = || self.deliveries.iter().enumerate().filter(|(_, other)| other.line == one.line && open(other.state));
            let held = line().any(|(_, other)| other.state == CompletionState::Claimed);
            let first = line().next().is_some_and(|(first, _)| first == at);
            if one.line.is_none() || (first && !held) {
                offered.push(at);
            }
        }
        offered
    }

    /// A delivery that comes back.
    pub(super) fn give_back(&mut self, at: usize, dead: bool) {
        let one = &mut self.deliveries[at];
        let dead = dead || one.deliveries >= DELIVERIES;
        one.state = if dead { CompletionState::Dead } else { CompletionState::Pending };
    }
}

fn waits_for_time(job: &Job) -> Wait {
    if job.scheduled { Wait::Scheduled } else { Wait::No }
}
