//! Images that later ones have replaced: they go where the disk lacks room and nothing else is left to go.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::janitor::{Fate, Finding, Mode};
use crate::sandbox::container::{AGENT_IMAGE, Config, ContainerError, Images};

/// How often an engine is asked for them, and how long it may take: a disk that is full makes it slow, and jobs wait to be told.
const EVERY: Duration = Duration::from_secs(60);
const WITHIN: Duration = Duration::from_secs(10);

/// Those of the engine that a worker is configured with. All clones are the same.
#[derive(Debug, Clone)]
pub(super) struct ReplacedImages {
    engine: Config,
    asked: Arc<Mutex<Option<Instant>>>,
}

impl ReplacedImages {
    pub(super) fn of(engine: &Config) -> Self {
        Self { engine: engine.clone(), asked: Arc::default() }
    }

    /// Removes all that have been replaced for long, and says whether any went: what room the engine gets by each is not known, nor whether
    /// its disk is the worker's.
    pub(super) async fn evict_once(&self) -> bool {
        if !self.may_ask() {
            return false;
        }
        let Config { socket, image, image_ttl, .. } = &self.engine;
        let cleared = async {
            let images = Images::connect(socket).await?;
            images.clear_superseded(AGENT_IMAGE, image, *image_ttl, Mode::Apply).await
        };
        let found = match tokio::time::timeout(WITHIN, cleared).await {
            Ok(Ok(found)) => found,
            // Without an engine there is nothing of it to go.
            Ok(Err(ContainerError::Unreachable { .. })) => return false,
            Ok(Err(error)) => {
                warn!("cannot make room by evicting images: {error}");
                return false;
            }
            Err(_) => {
                warn!("the engine is slow in removing images, which would make room; it may go on with it");
                return false;
            }
        };
        for Finding { name, fate, why, .. } in &found {
            match fate {
                Fate::Removed => info!("evicted image {name} to make room on the disk: {why}"),
                Fate::Failed => warn!("cannot make room by evicting image {name}: {why}"),
                Fate::Goes | Fate::Stays => {}
            }
        }
        found.iter().any(|one| one.fate == Fate::Removed)
    }

    fn may_ask(&self) -> bool {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.is_some_and(|asked| asked.elapsed() < EVERY) {
            return false;
        }
        *asked = Some(Instant::now());
        true
    }
}
