//! Images that a later one has replaced: which of them may go, and removing them.
//!
//! The one rule: an image goes by the name that it was built under, and only where that names it alone. What somebody has built on it, given
//! another name, or has a container of, stays.

use std::collections::BTreeSet;
use std::time::Duration;

use bollard::query_parameters::{ListContainersOptionsBuilder, RemoveImageOptionsBuilder};

use super::error::ContainerError;
use super::images::{Images, Listed};
use crate::clock::{Timestamp, human};
use crate::janitor::{Fate, Finding, Kind, Lease, Mode};

/// What is known of the images in use.
struct InUse {
    /// What `latest` is, and since when.
    latest: Option<(String, Timestamp)>,
    /// What the configuration names.
    configured: Option<String>,
    /// Those of which there are containers.
    of_containers: BTreeSet<String>,
}

impl Images {
    /// The images that were built under this name, by the tags that their content has, each with what explains that it stays, or why it goes.
    async fn superseded(
        &self,
        name: &str,
        configured: &str,
        ttl: Duration,
    ) -> Result<Vec<(String, Listed, Lease)>, ContainerError> {
        let listed = self.list().await?;
        let latest = format!("{name}:latest");
        let latest = listed.iter().find(|image| image.tags.contains(&latest));
        let in_use = InUse {
            latest: latest.map(|image| (image.digest.clone(), Timestamp(image.created.saturating_mul(1000)))),
            configured: self.find(configured).await?,
            of_containers: self.of_containers().await?,
        };
        let now = Timestamp::now();
        let judged = listed.into_iter().filter_map(|image| {
            // Who builds on one of ours has the label too, and another name.
            let tag = format!("{name}:{}", image.fingerprint);
            let lease = image.tags.contains(&tag).then(|| judge(&image, &in_use, ttl, now))?;
            Some((tag, image, lease))
        });
        Ok(judged.collect())
    }

    /// What becomes of the images that were built under this name, and why: one goes when another has been the latest for longer than `ttl`,
    /// and it is neither `configured` nor has any container. Removes those that go where that is wanted.
    ///
    /// # Errors
    /// The engine does not say what there is.
    pub async fn clear_superseded(
        &self,
        name: &str,
        configured: &str,
        ttl: Duration,
        mode: Mode,
    ) -> Result<Vec<Finding>, ContainerError> {
        let mut found = Vec::new();
        for (tag, image, lease) in self.superseded(name, configured, ttl).await? {
            let (fate, why) = match lease {
                Lease::Held(why) | Lease::Unknown(why) => (Fate::Stays, why),
                Lease::Over(why) if mode == Mode::List => (Fate::Goes, why),
                Lease::Over(why) => match self.remove(&tag).await {
                    Ok(()) => (Fate::Removed, why),
                    Err(error) => (Fate::Failed, error.to_string()),
                },
            };
            let owner = "sawmill images build".to_owned();
            found.push(Finding { kind: Kind::Image, name: tag, owner, fate, why, bytes: Some(image.bytes) });
        }
        Ok(found)
    }

    async fn of_containers(&self) -> Result<BTreeSet<String>, ContainerError> {
        let options = ListContainersOptionsBuilder::default().all(true).build();
        let listed = self.engine().docker().list_containers(Some(options)).await;
        let listed = listed.map_err(|error| self.engine().failed("list containers".to_owned(), &error))?;
        Ok(listed.into_iter().filter_map(|container| container.image_id).collect())
    }

    /// Takes a tag from an image, which goes with its last one. The engine does not where something uses the image.
    async fn remove(&self, tag: &str) -> Result<(), ContainerError> {
        let options = RemoveImageOptionsBuilder::default().build();
        let removed = self.engine().docker().remove_image(tag, Some(options), None).await;
        removed.map(drop).map_err(|error| self.engine().failed(format!("remove image {tag}"), &error))
    }
}

fn judge(image: &Listed, in_use: &InUse, ttl: Duration, now: Timestamp) -> Lease {
    let held = |why: &str| Lease::Held(why.to_owned());
    let Some((latest, built)) = &in_use.latest else { return held("none is the latest") };
    if image.digest == *latest {
        return held("it is the latest");
    }
    if in_use.configured.as_ref() == Some(&image.digest) {
        return held("container.image names it");
    }
    if in_use.of_containers.contains(&image.digest) {
        return held("there are containers of it");
    }
    if image.tags.len() > 1 {
        return held("it has another name, too");
    }
    let until = *built + ttl;
    if until > now {
        return Lease::Held(format!("it stays until {until} (container.image_ttl)"));
    }
    Lease::Over(format!("another has been the latest for {} (container.image_ttl)", human::format(ttl)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_goes_once_another_is_the_latest_and_nobody_has_it() {
        let now = Timestamp(1_000_000_000_000);
        let ttl = Duration::from_secs(3600);
        let in_use = |built: Timestamp| InUse {
            latest: Some(("latest".to_owned(), built)),
            configured: Some("configured".to_owned()),
            of_containers: ["runs".to_owned()].into(),
        };
        let image = |digest: &str, tags: &[&str]| Listed {
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            digest: digest.to_owned(),
            fingerprint: "f".to_owned(),
            base: None,
            created: 0,
            bytes: 1,
        };
        let goes = |image: Listed, built: Timestamp| matches!(judge(&image, &in_use(built), ttl, now), Lease::Over(_));
        assert!(goes(image("old", &["a:f"]), now - ttl));
        assert!(!goes(image("old", &["a:f"]), now - ttl / 2), "it was replaced lately");
        assert!(!goes(image("old", &["a:f", "mine:1"]), now - ttl));
        for used in ["latest", "configured", "runs"] {
            assert!(!goes(image(used, &["a:f"]), now - ttl), "{used}");
        }
        let nothing = InUse { latest: None, ..in_use(now) };
        assert!(matches!(judge(&image("old", &["a:f"]), &nothing, ttl, now), Lease::Held(_)));
    }
}
