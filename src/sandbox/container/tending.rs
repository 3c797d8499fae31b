//! Looking after the containers that wait: they are there before the first job of each slot, and are what they were when the next one comes.
//!
//! The one rule: no job waits for this. What has died, or has become stale, is replaced before a job meets it; the job that is faster finds
//! out itself.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::error::ContainerError;
use super::freshness::Freshness;
use super::images::Images;
use super::pool::Containers;
use super::stock::Stock;
use super::workshop::Container;
use crate::job::spec::ContainerMode;

/// How often it is looked after them. The engine tells of one that dies, and of a tag that means another image, to who listens at that
/// moment: who looks misses nothing.
const EVERY: Duration = Duration::from_secs(10);

impl Containers {
    /// Has containers wait in these slots, each with the directory of its jobs, for jobs of the kinds that the worker has had last; and
    /// looks after all that wait, until the token is cancelled. A look that has begun is finished.
    pub async fn tend_loop(self, slots: Vec<(u32, PathBuf)>, ended: CancellationToken) {
        for (slot, job_dir) in &slots {
            self.stock().has_jobs_in(*slot, job_dir);
        }
        self.stock().recall().await;
        // The image of jobs that name none, when it was last looked at whether it is stale.
        let mut judged = String::new();
        loop {
            let stock = self.stock().clone();
            let before = judged.clone();
            let look = self.spawn(async move { stock.tend_once(before).await });
            let looked = async {
                match look.await {
                    Ok(now) => judged = now,
                    Err(_) => warn!("looking after containers panicked; please report it as a defect"),
                }
                sleep(EVERY).await;
            };
            if ended.run_until_cancelled(looked).await.is_none() {
                return;
            }
        }
    }
}

impl Stock {
    /// Learns of what kinds the jobs of an earlier daemon were.
    async fn recall(&self) {
        let taken_up: Vec<_> = self.shelves().values().flat_map(|shelf| shelf.wanted().to_vec()).collect();
        taken_up.iter().for_each(|recipe| self.kinds.note(recipe));
        if let Err(error) = self.kinds.recall(|recipe| self.makes(recipe) && recipe.is_of_what_is_there()) {
            warn!(
                "the kinds of jobs that this worker had are not known, so that the first ones wait for their containers: {error}"
            );
        }
    }

    /// One look. `judged` is the image of jobs that was looked at before; answers which that is now.
    async fn tend_once(&self, judged: String) -> String {
        let judged = self.judge_default(judged).await;
        // Of a repository whose mirror is gone, or was cloned anew, no job can have one.
        self.forget(|recipe| !recipe.is_of_what_is_there());
        self.renew_images().await;
        for (slot, container) in self.waiting() {
            if self.closing.is_cancelled() {
                return judged;
            }
            self.replace_if_gone(slot, &container).await;
        }
        self.spread().await;
        let slots: Vec<u32> = self.job_dirs().keys().copied().collect();
        for slot in slots {
            if !self.lent().contains_key(&slot) {
                self.fill_once(slot).await;
            }
        }
        judged
    }

    /// Has slots that want nothing yet want what the worker has had last.
    pub(super) async fn spread(&self) {
        let kinds = self.kinds.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || kinds.save()).await {
            warn!("cannot note for a later daemon of what kinds the jobs are: {error}");
        }
        let (kinds, slots) = (self.kinds.all(), self.job_dirs().keys().copied().collect::<Vec<u32>>());
        for slot in slots {
            {
                let mut shelves = self.shelves();
                let shelf = shelves.entry(slot).or_default();
                if !shelf.wanted().is_empty() {
                    continue;
                }
                kinds.iter().rev().for_each(|recipe| shelf.want(recipe, self.config.warm as usize));
            }
            self.fill_once(slot).await;
        }
    }

    fn waiting(&self) -> Vec<(u32, Container)> {
        let shelves = self.shelves();
        shelves.iter().flat_map(|(slot, shelf)| shelf.ready().iter().map(|one| (*slot, one.clone()))).collect()
    }

    async fn replace_if_gone(&self, slot: u32, container: &Container) {
        if self.workshop.is_ready(container).await {
            return;
        }
        // A job may have it by now.
        let gone = self.shelves().entry(slot).or_default().take_out(&container.name);
        if let Some(gone) = gone {
            warn!("container {}, which waited for the next job of slot {slot}, is gone; another one is made", gone.name);
            self.workshop.destroy(&gone).await;
        }
    }

    /// Has what waits be of the images that their names mean now.
    async fn renew_images(&self) {
        let names: BTreeSet<String> = {
            let shelves = self.shelves();
            let wanted = shelves.values().flat_map(|shelf| shelf.wanted().iter().map(|recipe| recipe.asked.clone()));
            wanted.chain(self.kinds.all().into_iter().map(|recipe| recipe.asked)).collect()
        };
        for name in names {
            match self.look_up(&name).await {
                Ok(image) => {
                    self.kinds.renew(&name, &image.digest);
                    let mut shelves = self.shelves();
                    if shelves.values_mut().map(|shelf| shelf.renew(&name, &image.digest)).fold(false, |any, one| any | one) {
                        info!("image {name} is {} now: containers of the one before are replaced", image.digest);
                    }
                }
                Err(ContainerError::NoImage { .. }) => self.forget(|recipe| recipe.asked == name),
                // They stay as they are until the engine answers.
                Err(_) => {}
            }
        }
    }

    /// Says once of each image that comes to be the image of jobs whether it is stale. Answers of which that was said, or need not be.
    async fn judge_default(&self, judged: String) -> String {
        let name = &self.config.image;
        if self.config.mode == ContainerMode::Off {
            return judged;
        }
        let Ok(image) = self.look_up(name).await else { return judged };
        if image.digest == judged {
            return judged;
        }
        let freshness = async { Images::connect(&self.workshop.socket).await?.freshness(name).await };
        match freshness.await {
            Err(_) => return judged,
            Ok(Some(Freshness::Stale { base })) => {
                let again = Freshness::command(base.as_deref());
                warn!("image {name}, in which jobs run, is stale: `{again}` would build another one today");
            }
            Ok(_) => {}
        }
        image.digest
    }
}
