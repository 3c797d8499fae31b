//! The image that is built for jobs here, and whether one of them is what would be built today.

use super::error::ContainerError;
use super::images::{AGENT_IMAGE, Images, Listed, Plan};

/// What the image of jobs is built of.
const DOCKERFILE: &str = include_str!("../../../docker/Dockerfile");

/// The base of a registry.
pub const BASE_OF_REGISTRY: &str = "debian:trixie-slim";

/// The base that is made here where no registry can be asked.
pub const BASE_OF_PACKAGES: &str = "sawmill-base:trixie";

/// The bases that are chosen when none is named, best first.
pub const KNOWN_BASES: [&str; 2] = [BASE_OF_REGISTRY, BASE_OF_PACKAGES];

/// How an image stands to the one that would be built in its place today.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Freshness {
    /// It is that very one.
    Current,
    /// It is another one.
    Stale {
        /// On what it was built, where that is known.
        base: Option<String>,
    },
    /// The engine does not have the base any more, so that nobody knows.
    Unknown {
        /// That base.
        base: String,
    },
}

impl Freshness {
    /// The command that builds an image on such a base anew.
    #[must_use]
    pub fn command(base: Option<&str>) -> String {
        match base {
            Some(base) if !KNOWN_BASES.contains(&base) => format!("sawmill images build --base {base}"),
            _ => "sawmill images build".to_owned(),
        }
    }
}

impl Plan {
    /// That of the image of jobs, on this base.
    #[must_use]
    pub fn of_jobs(base: String) -> Self {
        Self { name: AGENT_IMAGE.to_owned(), dockerfile: DOCKERFILE.to_owned(), base, certificates: None }
    }
}

impl Images {
    /// How an image stands that was built here; nothing where this one was not.
    ///
    /// # Errors
    /// The engine does not say, or has no such image.
    pub async fn freshness(&self, name: &str) -> Result<Option<Freshness>, ContainerError> {
        match self.made_of(name).await? {
            Some((fingerprint, base)) => self.judge(&fingerprint, base).await.map(Some),
            None => Ok(None),
        }
    }

    /// How one of those that are listed stands.
    ///
    /// # Errors
    /// The engine does not say.
    pub async fn freshness_of(&self, listed: &Listed) -> Result<Freshness, ContainerError> {
        self.judge(&listed.fingerprint, listed.base.clone()).await
    }

    async fn judge(&self, fingerprint: &str, base: Option<String>) -> Result<Freshness, ContainerError> {
        // An earlier release did not write down on which of those that it knew.
        let bases = base.as_ref().map_or_else(|| KNOWN_BASES.map(str::to_owned).to_vec(), |base| vec![base.clone()]);
        let mut there = false;
        for name in bases {
            if let Some(digest) = self.find(&name).await? {
                there = true;
                if Plan::of_jobs(name).fingerprint(&digest) == fingerprint {
                    return Ok(Freshness::Current);
                }
            }
        }
        match base {
            Some(base) if !there => Ok(Freshness::Unknown { base }),
            base => Ok(Freshness::Stale { base }),
        }
    }
}
