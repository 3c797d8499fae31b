//! Comparing all that the store says with the model.

use sawmill::job::{self, Hold, JobState};
use sawmill::store::{CompletionFilter, JobFilter};

use super::drive::{Driver, Raw};
use super::world::{Job, Wait};

impl Driver {
    /// What the store says is what the model says, and every job is explained.
    pub(super) async fn compare(&mut self) {
        let filter = JobFilter { limit: 1000, ..JobFilter::default() };
        let mut found = self.queue.store.jobs(&filter).await.expect("listed").items;
        found.sort_unstable_by_key(|job| job.id);
        assert_eq!(found.len(), self.world.jobs.len());
        let free: Vec<&Job> =
            found.iter().zip(&self.world.jobs).filter(|(found, _)| found.held.is_none()).map(|(_, job)| job).collect();
        for (found, job) in found.iter().zip(&self.world.jobs) {
            self.compare_job(found, job, &free);
        }
        let filter = CompletionFilter { limit: 1000, ..CompletionFilter::default() };
        let mut entries = self.queue.store.completions(&filter).await.expect("listed").items;
        entries.sort_unstable_by_key(|entry| entry.completion.id);
        assert_eq!(entries.len(), self.world.deliveries.len());
        let offered = self.world.offered();
        for (at, (entry, delivery)) in entries.iter().zip(&self.world.deliveries).enumerate() {
            let found = (entry.completion.id, entry.state, entry.deliveries, entry.ready_at.is_some());
            assert_eq!(found, (delivery.id, delivery.state, delivery.deliveries, offered.contains(&at)), "{entry:?}");
        }
        let hexadecimal = match self.raw {
            Raw::Sqlite(_) => "lower(hex(job))",
            Raw::Postgres(_) => "replace(CAST(job AS TEXT), '-', '')",
        };
        let told = self.texts(&format!("SELECT {hexadecimal} || ' ' || state FROM outbox ORDER BY job, created_at, id")).await;
        let mut expected = Vec::new();
        for job in &self.world.jobs {
            expected.extend(job.ends.iter().map(|end| format!("{} {end}", job.id.as_uuid().simple())));
        }
        assert_eq!(told, expected, "one event for each end");
        let open = self.texts(&format!("SELECT {hexadecimal} FROM attempts WHERE ended_at IS NULL ORDER BY job")).await;
        let running = self.world.jobs.iter().filter(|job| job.state == JobState::Running);
        let running: Vec<String> = running.map(|job| job.id.as_uuid().simple().to_string()).collect();
        assert_eq!(open, running, "attempts that have not ended are those of running jobs");
        let sums = "SELECT name || ' ' || sum(attempts) || ' ' || sum(prompt_tokens) FROM spending GROUP BY name ORDER BY name";
        let expected = self.world.spent();
        let expected: Vec<String> =
            expected.iter().map(|(project, (attempts, tokens))| format!("p{project} {attempts} {tokens}")).collect();
        assert_eq!(self.texts(sums).await, expected, "each attempt counts once, with what it said last");
    }

    /// `free` are the jobs that nothing holds.
    fn compare_job(&self, found: &job::Job, job: &Job, free: &[&Job]) {
        let context = || format!("the store: {found:?}\nthe model: {job:?}");
        assert_eq!(found.id, job.id);
        assert_eq!(found.state, job.state, "{}", context());
        let numbers = (found.attempt.map_or(0, |attempt| attempt.0), found.attempts_used, found.resets);
        assert_eq!(numbers, (job.attempt, job.used, job.resets), "{}", context());
        let asked = (found.cancel_requested_at.is_some(), found.requeue_requested_at.is_some());
        assert_eq!(asked, (job.cancel_asked, job.requeue_asked), "{}", context());
        assert_eq!(found.outcome.as_ref().map(|outcome| outcome.class), job.outcome, "{}", context());
        assert_eq!(found.commit.as_ref().map(ToString::to_string), job.delivered, "{}", context());
        assert_eq!(found.base, job.base, "{}", context());
        assert_eq!(found.started_at.is_some(), job.attempt > 0, "{}", context());
        assert_eq!(found.finished_at.is_some(), job.state.is_final(), "{}", context());
        assert_eq!(found.worker.is_some(), job.state == JobState::Running, "{}", context());
        let explained = match (job.wait, found.held) {
            _ if job.state != JobState::Queued => found.held.is_none(),
            (Wait::No, None) => true,
            // What runs, or is the next to run, uses up the limit.
            (Wait::No, Some(Hold::Key)) => {
                let same = |other: &&&Job| other.key.map(|(key, _)| key) == job.key.map(|(key, _)| key);
                job.key.is_some_and(|(_, limit)| uses_up(free.iter().filter(same), limit))
            }
            (Wait::No, Some(Hold::Project)) => {
                let limit = job.project.and_then(|project| self.world.limits.get(&project));
                limit.is_some_and(|limit| uses_up(free.iter().filter(|other| other.project == job.project), *limit))
            }
            (Wait::Scheduled, held) => held == Some(Hold::Scheduled),
            (Wait::Backoff, held) => held == Some(Hold::Backoff),
            (Wait::Answer, held) => held == Some(Hold::Answer),
            (Wait::Dependency, held) => held == Some(Hold::Dependency),
            (Wait::No, Some(_)) => false,
        };
        assert!(explained, "it is held and need not be, or the reverse\n{}", context());
    }
}

fn uses_up<'a>(jobs: impl Iterator<Item = &'a &'a Job>, limit: u32) -> bool {
    jobs.filter(|job| !job.state.is_final()).count() >= limit as usize
}
