//! What operators do.

use std::collections::BTreeMap;

use sawmill::ids::JobId;
use sawmill::job::JobState;
use sawmill::store::{Cancel, Change, RelieveCursor, Requeue, Run, Selection, StoreError};

use super::drive::Driver;
use super::world::{Answer, Wait};

impl Driver {
    pub(super) async fn change(&mut self, at: usize, change: &Change) {
        let (id, store) = (self.world.jobs[at].id, &self.queue.store);
        let found = match change {
            Change::Cancel { reason } => match store.cancel(id, reason).await.expect("answered") {
                Cancel::Done(_) => Answer::Done,
                Cancel::Requested(_) if self.world.jobs[at].cancel_asked => Answer::Already,
                Cancel::Requested(_) => Answer::Asked,
                Cancel::AlreadyEnded(job) if job.state == JobState::Cancelled => Answer::Already,
                Cancel::AlreadyEnded(_) => Answer::Refused,
            },
            Change::Retry => match store.retry(id).await {
                Ok(_) => Answer::Done,
                Err(StoreError::NotRetryable { .. }) => Answer::Refused,
                Err(StoreError::DependencyFailed { needs, .. }) => Answer::Needs(self.at(needs)),
                Err(error) => panic!("{error}"),
            },
            Change::Requeue { reason } => match store.requeue(id, reason).await {
                Ok(Requeue::Requested(_)) if self.world.jobs[at].requeue_asked => Answer::Already,
                Ok(Requeue::Requested(_)) => Answer::Asked,
                Ok(Requeue::Ready(_)) if self.world.jobs[at].wait == Wait::No => Answer::Already,
                Ok(Requeue::Ready(_)) => Answer::Done,
                // What a limit holds is not made ready, which the model cannot know.
                Err(StoreError::NotRequeuable { state: JobState::Queued, .. }) if self.world.jobs[at].wait == Wait::No => {
                    Answer::Already
                }
                Err(StoreError::NotRequeuable { .. }) => Answer::Refused,
                Err(error) => panic!("{error}"),
            },
        };
        assert_eq!(found, self.world.change(at, change));
        self.relieve().await;
    }

    /// What workers do now and then: a limit was raised, or one that it had let back is gone without having started.
    pub(super) async fn relieve(&self) {
        self.queue.store.relieve_once(&mut RelieveCursor::default(), 10).await.expect("done");
    }

    pub(super) async fn change_many(&mut self, change: &Change, project: Option<u8>) {
        let named = project.map(|project| format!("p{project}"));
        let selection = Selection::Filter { project: named, execution: None, state: None, after: None };
        let changed = self.queue.store.change_jobs(change, &selection, 1000, Run::Real).await.expect("done");
        let mut all = Vec::new();
        for at in 0..self.world.jobs.len() {
            let job = &self.world.jobs[at];
            if change.states().contains(&job.state) && (project.is_none() || job.project == project) {
                all.push(at);
            }
        }
        let done: Vec<usize> = match change {
            Change::Cancel { .. } => self.world.cancel_all(&all, change),
            _ => all.into_iter().filter(|at| self.world.change(*at, change) == Answer::Done).collect(),
        };
        let mut expected: Vec<JobId> = done.into_iter().map(|at| self.world.jobs[at].id).collect();
        expected.sort_unstable();
        let mut found = changed.changed;
        found.sort_unstable();
        assert_eq!(found, expected, "{:?}", changed.unchanged);
        self.relieve().await;
    }

    pub(super) async fn limit(&mut self, project: u8, running: Option<u32>) {
        match running {
            Some(running) => drop(self.world.limits.insert(project, running)),
            None => drop(self.world.limits.remove(&project)),
        }
        let named: BTreeMap<String, u32> =
            self.world.limits.iter().map(|(project, running)| (format!("p{project}"), *running)).collect();
        self.queue.store.set_project_limits(&named).await.expect("written");
        self.relieve().await;
    }
}
