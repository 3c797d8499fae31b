//! Images for jobs: built by the engine from a Dockerfile, named by what went into them, and listed.
//!
//! The one rule: an image is built once. Its tag is made of its Dockerfile and its base, so one that is there is the one that would be
//! built, and one whose tag is another is stale.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};

use bollard::models::{BuildInfo, CreateImageInfo, ErrorDetail};
use bollard::query_parameters::{
    BuildImageOptionsBuilder, CreateImageOptionsBuilder, ListImagesOptionsBuilder, TagImageOptionsBuilder,
};
use bollard::{body_full, body_stream};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};

use super::engine::Engine;
use super::error::ContainerError;
use crate::fingerprint;

/// The label by which an image of ours is known; its value is what [`Plan::fingerprint`] gave.
const LABEL: &str = "sawmill.image";
/// The label with the name of its base.
const BASE: &str = "sawmill.image.base";

/// The name of the default image; the configured default is its latest.
pub const AGENT_IMAGE: &str = "sawmill-agent";

/// How much of what a build said last is told of one that failed: lines, and characters of each.
const LAST_LINES: usize = 12;
const LAST_WIDTH: usize = 300;

/// What an image is to be built of.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its name, without a tag.
    pub name: String,
    /// The text of its Dockerfile, which takes its base from the argument `BASE`.
    pub dockerfile: String,
    /// The base: an image that the engine has.
    pub base: String,
    /// The certificates that this host trusts, in one file, for a build that fetches through what this host does: it is `ca.crt` of the
    /// build, or empty where there is none. It is no part of what the image is made of, and is not to come into it.
    pub certificates: Option<PathBuf>,
}

/// An image of ours, as the engine has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its tags.
    pub tags: Vec<String>,
    /// Its digest.
    pub digest: String,
    /// What it was built of.
    pub fingerprint: String,
    /// The name of what it was built on, where that was written down.
    pub base: Option<String>,
    /// When it was built, in seconds since the epoch.
    pub created: i64,
    /// Its size, in bytes.
    pub bytes: u64,
}

/// A build that has succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The tag that names this content.
    pub tag: String,
    /// Its digest.
    pub digest: String,
    /// Whether it was there already.
    pub was_there: bool,
}

/// The images of an engine.
#[derive(Debug, Clone)]
pub struct Images {
    engine: Engine,
}

impl Images {
    /// Those of the engine at this socket.
    ///
    /// # Errors
    /// No engine answers there.
    pub async fn connect(socket: &Path) -> Result<Self, ContainerError> {
        Ok(Self { engine: Engine::at(socket)?.greet().await? })
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The digest of an image, where the engine has it.
    ///
    /// # Errors
    /// The engine does not say.
    pub async fn find(&self, name: &str) -> Result<Option<String>, ContainerError> {
        match self.engine.image(name).await {
            Ok(image) => Ok(Some(image.digest)),
            Err(ContainerError::NoImage { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All that were built by [`Images::build`].
    ///
    /// # Errors
    /// The engine does not say.
    pub async fn list(&self) -> Result<Vec<Listed>, ContainerError> {
        let filters = HashMap::from([("label".to_owned(), vec![LABEL.to_owned()])]);
        let options = ListImagesOptionsBuilder::default().filters(&filters).build();
        let listed = self.engine.docker().list_images(Some(options)).await;
        let listed = listed.map_err(|error| self.engine.failed("list images".to_owned(), &error))?;
        let images = listed.into_iter().map(|image| Listed {
            fingerprint: image.labels.get(LABEL).cloned().unwrap_or_default(),
            base: image.labels.get(BASE).cloned(),
            tags: image.repo_tags,
            digest: image.id,
            created: image.created,
            bytes: u64::try_from(image.size).unwrap_or(0),
        });
        Ok(images.collect())
    }

    /// Of what an image was built by [`Images::build`], and on which base where that was written down; nothing where it was not.
    pub(super) async fn made_of(&self, name: &str) -> Result<Option<(String, Option<String>)>, ContainerError> {
        let labels = self.engine.image(name).await?.labels;
        Ok(labels.get(LABEL).map(|fingerprint| (fingerprint.clone(), labels.get(BASE).cloned())))
    }

    /// Fetches an image from its registry. `progress` hears what is being done.
    ///
    /// # Errors
    /// It cannot be had from there.
    pub async fn pull(&self, name: &str, progress: impl FnMut(&str)) -> Result<(), ContainerError> {
        let (image, tag) = in_parts(name);
        let options = CreateImageOptionsBuilder::default().from_image(image).tag(tag).build();
        let pulling = self.engine.docker().create_image(Some(options), None, None);
        self.follow(format!("fetch image {name}"), pulling.map(|step| step.map(Step::from)), progress).await
    }

    /// Makes an image of an archive of files, as `tar` writes it, under this name.
    ///
    /// # Errors
    /// The engine does not take it.
    pub async fn import(
        &self,
        name: &str,
        archive: impl Stream<Item = Bytes> + Send + 'static,
        mut progress: impl FnMut(&str),
    ) -> Result<(), ContainerError> {
        let (repo, tag) = in_parts(name);
        let options = CreateImageOptionsBuilder::default().from_src("-").repo(repo).tag(tag).build();
        let importing = self.engine.docker().create_image(Some(options), Some(body_stream(archive)), None);
        let mut digest = String::new();
        let keep = |line: &str| {
            line.trim().clone_into(&mut digest);
            progress(line);
        };
        self.follow(format!("import image {name}"), importing.map(|step| step.map(Step::from)), keep).await?;
        // Podman 4 takes the archive and leaves out its name; the last that both say is the digest.
        if self.find(name).await?.is_none() {
            let options = TagImageOptionsBuilder::default().repo(repo).tag(tag).build();
            let tagged = self.engine.docker().tag_image(&digest, Some(options)).await;
            tagged.map_err(|error| self.engine.failed(format!("tag image {digest} as {name}"), &error))?;
        }
        Ok(())
    }

    /// Builds an image, unless it is there, and gives it the tag `latest` beside its own.
    ///
    /// # Errors
    /// The base is missing, or a step of the Dockerfile fails.
    pub async fn build(&self, plan: &Plan, progress: impl FnMut(&str)) -> Result<Built, ContainerError> {
        let base = self.engine.image(&plan.base).await?.digest;
        let fingerprint = plan.fingerprint(&base);
        let tag = format!("{}:{fingerprint}", plan.name);
        let there = self.find(&tag).await?;
        if there.is_none() {
            let options = BuildImageOptionsBuilder::default()
                .t(&tag)
                .rm(true)
                .forcerm(true)
                .networkmode("host")
                .buildargs(&HashMap::from([("BASE", plan.base.as_str())]))
                .labels(&HashMap::from([(LABEL, fingerprint.as_str()), (BASE, plan.base.as_str())]))
                .build();
            let context = context(plan)
                .map_err(|error| ContainerError::Engine { what: format!("build image {tag}"), why: error.to_string() })?;
            let building = self.engine.docker().build_image(options, None, Some(body_full(context.into())));
            self.follow(format!("build image {tag}"), building.map(|step| step.map(Step::from)), progress).await?;
        }
        let options = TagImageOptionsBuilder::default().repo(&plan.name).tag("latest").build();
        let tagged = self.engine.docker().tag_image(&tag, Some(options)).await;
        tagged.map_err(|error| self.engine.failed(format!("tag image {tag}"), &error))?;
        let digest = self.engine.image(&tag).await?.digest;
        Ok(Built { tag, digest, was_there: there.is_some() })
    }

    async fn follow(
        &self,
        what: String,
        steps: impl Stream<Item = Result<Step, bollard::errors::Error>>,
        mut progress: impl FnMut(&str),
    ) -> Result<(), ContainerError> {
        let mut steps = std::pin::pin!(steps);
        let mut last = VecDeque::new();
        while let Some(step) = steps.next().await {
            let failed = match step {
                Ok(Step { error: Some(why), .. }) => ContainerError::Engine { what: what.clone(), why },
                Err(error) => self.engine.failed(what.clone(), &error),
                Ok(Step { said, .. }) => {
                    for line in said.lines().filter(|line| !line.trim().is_empty()) {
                        progress(line);
                        last.push_back(line.chars().take(LAST_WIDTH).collect());
                        if last.len() > LAST_LINES {
                            last.pop_front();
                        }
                    }
                    continue;
                }
            };
            // The engine says which command failed, and not of what.
            let said: String = last.iter().flat_map(|line: &String| ["\n  ", line]).collect();
            return Err(match failed {
                ContainerError::Engine { what, why } => ContainerError::Engine { what, why: why + &said },
                other => other,
            });
        }
        Ok(())
    }
}

impl Plan {
    /// What names the content of the image on this base. Nobody gains by making two alike: who writes the Dockerfile runs what is in
    /// the image.
    #[must_use]
    pub fn fingerprint(&self, base_digest: &str) -> String {
        fingerprint::of(self.dockerfile.bytes().chain(base_digest.bytes()))
    }
}

/// A name in its two parts: where the image is, a registry with its port included, and which of those that are there; by its digest
/// where that is named.
fn in_parts(name: &str) -> (&str, &str) {
    if let Some((place, digest)) = name.split_once('@') {
        // A digest says more than a tag beside it.
        return (before_tag(place).0, digest);
    }
    let (place, tag) = before_tag(name);
    (place, tag.unwrap_or("latest"))
}

fn before_tag(name: &str) -> (&str, Option<&str>) {
    match name.rsplit_once(':') {
        Some((place, tag)) if !tag.contains('/') => (place, Some(tag)),
        _ => (name, None),
    }
}

/// What the engine says of a step.
struct Step {
    said: String,
    error: Option<String>,
}

impl From<BuildInfo> for Step {
    fn from(info: BuildInfo) -> Self {
        Self { said: info.stream.or(info.status).unwrap_or_default(), error: info.error_detail.map(sentence) }
    }
}

impl From<CreateImageInfo> for Step {
    fn from(info: CreateImageInfo) -> Self {
        Self { said: info.status.unwrap_or_default(), error: info.error_detail.map(sentence) }
    }
}

fn sentence(detail: ErrorDetail) -> String {
    detail.message.unwrap_or_else(|| format!("code {}", detail.code.unwrap_or_default()))
}

/// The files that a build gets: its Dockerfile, and certificates.
fn context(plan: &Plan) -> std::io::Result<Vec<u8>> {
    let certificates = plan.certificates.as_ref().map_or_else(|| Ok(Vec::new()), std::fs::read)?;
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in [("Dockerfile", plan.dockerfile.as_bytes()), ("ca.crt", &certificates)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, content)?;
    }
    archive.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_of_a_registry_is_no_tag_and_a_digest_is_one_whole() {
        let check = |name: &str, expected: (&str, &str)| assert_eq!(in_parts(name), expected, "{name}");
        check("debian", ("debian", "latest"));
        check("debian:trixie-slim", ("debian", "trixie-slim"));
        check("localhost:5000/x", ("localhost:5000/x", "latest"));
        check("localhost:5000/team/x:2", ("localhost:5000/team/x", "2"));
        check("x@sha256:0a1b", ("x", "sha256:0a1b"));
        check("localhost:5000/x:2@sha256:0a1b", ("localhost:5000/x", "sha256:0a1b"));
    }
}
