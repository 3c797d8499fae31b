//! Jobs that wait: for something of their own, for a worker, or for their turn.

use super::cause::{Cause, Kept};
use super::facts::{Count, Facts, LimitInUse};
use super::obstacle::{Obstacle, obstacles};
use super::{Explanation, WorkerAnswer, in_one_sentence};
use crate::clock::Timestamp;
use crate::ids::WorkerId;
use crate::job::Hold;
use crate::job::budget::BudgetUse;
use crate::job::worker_record::WorkerRecord;

/// At most so many workers are named in one sentence.
const NAMED_MAX: usize = 3;

/// A worker, with all that keeps it from running the job.
struct Look<'a> {
    worker: &'a WorkerRecord,
    obstacles: Vec<Obstacle>,
}

impl Look<'_> {
    fn id(&self) -> &WorkerId {
        &self.worker.report.id
    }

    fn is_there(&self) -> bool {
        !self.obstacles.iter().any(Obstacle::is_absence)
    }

    fn suits(&self) -> bool {
        self.lacks().is_none()
    }

    fn has_backend(&self) -> bool {
        !self.obstacles.iter().any(|obstacle| matches!(obstacle, Obstacle::Backend { .. }))
    }

    /// What the job asks for and the worker does not offer, if anything.
    fn lacks(&self) -> Option<Vec<String>> {
        let lacking: Vec<&[String]> = self.obstacles.iter().filter_map(Obstacle::lacks).collect();
        (!lacking.is_empty()).then(|| lacking.concat())
    }

    /// How far the worker is from running the job.
    fn distance(&self) -> (bool, bool, usize, usize) {
        (!self.is_there(), !self.has_backend(), self.lacks().map_or(0, |lacking| lacking.len()), self.obstacles.len())
    }

    fn answer(&self, own: &[Cause], now: Timestamp) -> WorkerAnswer {
        let report = &self.worker.report;
        let kept: Vec<String> = self.obstacles.iter().map(|obstacle| obstacle.text(now)).collect();
        let answer = match own.first() {
            _ if !kept.is_empty() => kept.join("; "),
            Some(Cause::Next { .. }) => "it is about to claim the job".to_owned(),
            Some(cause) => format!("it could take the job, but {}", cause.brief(now)),
            None => "it could take the job".to_owned(),
        };
        WorkerAnswer {
            worker: report.id.clone(),
            host: report.host.clone(),
            state: self.worker.state,
            seen_at: report.seen_at,
            suits: self.suits(),
            free_slots: u32::try_from(self.worker.free_slots()).unwrap_or(u32::MAX),
            answer,
            obstacles: self.obstacles.clone(),
            changes: self.changes().collect(),
        }
    }

    /// What would change it there.
    fn changes(&self) -> impl Iterator<Item = String> {
        self.obstacles.iter().map(|obstacle| obstacle.change(self.worker))
    }
}

/// Why a queued job does not run.
pub(super) fn explain(facts: &Facts) -> Explanation {
    let mut looks: Vec<Look<'_>> =
        facts.workers.iter().map(|worker| Look { worker, obstacles: obstacles(worker, &facts.job.spec) }).collect();
    looks.sort_by_key(Look::distance);
    let mut causes = own(facts);
    causes.extend(of_workers(&looks));
    causes.extend(of_turn(facts, &looks, causes.is_empty()));
    let workers = looks.iter().map(|look| look.answer(&causes, facts.now)).collect();
    let changes = changes(facts, &causes, &looks);
    let answer = format!("waits: {}", in_one_sentence(&causes, facts.now, "; also, "));
    Explanation::new(facts, answer, causes, workers, changes)
}

/// What keeps it from being claimed by anybody.
fn own(facts: &Facts) -> Vec<Cause> {
    let mut causes = Vec::new();
    if let Some(start_by) = facts.start_by.filter(|start_by| *start_by <= facts.now) {
        causes.push(Cause::Expired { start_by });
    }
    causes.extend(facts.needs.iter().map(|need| Cause::Dependency {
        job: need.job,
        state: need.state,
        worker: need.worker.clone(),
        since: need.since,
    }));
    causes.extend(of_time(facts));
    causes.extend(of_limit(facts, Hold::Key));
    causes.extend(of_limit(facts, Hold::Project));
    let spent = facts.budgets.iter().filter(|budget| budget.is_spent());
    causes.extend(spent.map(|budget| Cause::Budget { budget: budget.clone() }));
    if facts.job.held == Some(Hold::Budget) && !facts.budgets.iter().any(BudgetUse::is_spent) {
        causes.push(Cause::Room { limit: "its budget".to_owned() });
    }
    causes
}

fn of_time(facts: &Facts) -> Option<Cause> {
    let job = &facts.job;
    let until = job.ready_at;
    if job.held == Some(Hold::Answer) {
        let question = job.outcome.as_ref().map(|outcome| outcome.message.clone()).unwrap_or_default();
        return Some(Cause::Question { question, attempt: job.attempt, until });
    }
    if until <= facts.now {
        return matches!(job.held, Some(Hold::Scheduled | Hold::Backoff)).then_some(Cause::Due { since: until });
    }
    // One that failed and then waits for something else is held for that; how it failed is on record all the same.
    match &job.outcome {
        Some(outcome) => {
            Some(Cause::Backoff { until, attempt: job.attempt, class: outcome.class, message: outcome.message.clone() })
        }
        None => Some(Cause::Scheduled { until }),
    }
}

fn of_limit(facts: &Facts, which: Hold) -> Option<Cause> {
    let held = facts.job.held == Some(which);
    let (limit, name): (&Option<LimitInUse>, &str) = match which {
        Hold::Key => (&facts.key, "key"),
        _ => (&facts.project, "project"),
    };
    match (limit, which) {
        (Some(LimitInUse { name, limit, running, runners, before }), Hold::Key) if running >= limit => {
            Some(Cause::Key { key: name.clone(), limit: *limit, running: *running, runners: runners.clone(), before: *before })
        }
        (Some(LimitInUse { name, limit, running, runners, before }), _) if running >= limit => Some(Cause::ProjectLimit {
            project: name.clone(),
            limit: *limit,
            running: *running,
            runners: runners.clone(),
            before: *before,
        }),
        (Some(LimitInUse { name: of, .. }), _) if held => Some(Cause::Room { limit: format!("{name} {of:?}") }),
        // A project whose limit was taken away.
        (None, _) if held => Some(Cause::Room { limit: format!("its {name}") }),
        _ => None,
    }
}

/// What the workers together are to it, where none of them can take it.
fn of_workers(looks: &[Look<'_>]) -> Option<Cause> {
    let there: Vec<&Look<'_>> = looks.iter().filter(|look| look.is_there()).collect();
    let Some(nearest) = there.first() else {
        let last = looks.iter().max_by_key(|look| look.worker.report.seen_at);
        return Some(Cause::NoWorker {
            last: last.map(|look| look.id().clone()),
            seen_at: last.map(|look| look.worker.report.seen_at),
        });
    };
    let suiting: Vec<&&Look<'_>> = there.iter().filter(|look| look.suits()).collect();
    let away = || looks.iter().find(|look| look.suits() && !look.is_there()).map(|look| look.id().clone());
    if suiting.is_empty() {
        let backend = nearest.obstacles.iter().find_map(|obstacle| match obstacle {
            Obstacle::Backend { backend, .. } => Some(backend.clone()),
            _ => None,
        });
        return Some(match backend {
            Some(backend) => Cause::NoBackend { backend, away: away() },
            None => Cause::NoLabel { missing: nearest.lacks().unwrap_or_default(), nearest: nearest.id().clone(), away: away() },
        });
    }
    if suiting.iter().any(|look| look.obstacles.is_empty()) {
        return None;
    }
    let kept = suiting.iter().take(NAMED_MAX).map(|look| Kept {
        worker: look.id().clone(),
        why: look.obstacles.iter().map(Obstacle::brief).collect::<Vec<_>>().join(" and "),
    });
    Some(Cause::NobodyFree { kept: kept.collect(), workers: suiting.len() as u64 })
}

/// What is left to say of one that can be claimed.
fn of_turn(facts: &Facts, looks: &[Look<'_>], free: bool) -> Option<Cause> {
    match facts.ahead {
        None => None,
        Some(ahead) if ahead != Count::NONE => Some(Cause::Turn { ahead }),
        Some(_) if free => looks
            .iter()
            .find(|look| look.obstacles.is_empty())
            .map(|look| Cause::Next { worker: look.id().clone(), asked_at: look.worker.report.claiming.asked_at }),
        Some(_) => None,
    }
}

/// What would change it: first what is about the job, then what is about the workers that suit it.
fn changes(facts: &Facts, causes: &[Cause], looks: &[Look<'_>]) -> Vec<String> {
    let mut changes: Vec<String> = causes.iter().filter_map(|cause| cause.change(facts.job.id)).collect();
    if !looks.iter().any(|look| look.obstacles.is_empty()) {
        for look in looks.iter().filter(|look| look.suits()).take(NAMED_MAX) {
            changes.extend(look.changes());
        }
    }
    changes
}
