//! `sawmill images`: building the image that jobs run in, and listing those that were built.
//!
//! How the engine is asked is the sandbox room's affair; here is what is asked for, and what a person sees of it.

mod base;

use std::path::PathBuf;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::cli::{Cell, Exit, ImagesCommand, Output};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::sandbox::container::{AGENT_IMAGE, Built, Images, Listed, Plan};

/// The default image.
const DOCKERFILE: &str = include_str!("../../docker/Dockerfile");

/// What this host trusts, where Debian and its like keep it: it may reach registries only through a proxy with a certificate of its own.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Does what a command asks for.
///
/// # Errors
/// The engine does not answer, an image cannot be built, or the output cannot be written.
pub async fn run(command: &ImagesCommand, config: &Config, out: &Output) -> anyhow::Result<Exit> {
    let images = Images::connect(&config.container.socket).await?;
    match command {
        ImagesCommand::Build { base } => build(&images, base.as_deref(), out).await?,
        ImagesCommand::List => list(&images, out).await?,
    }
    Ok(Exit::Done)
}

fn plan(base: String) -> Plan {
    Plan { name: AGENT_IMAGE.to_owned(), dockerfile: DOCKERFILE.to_owned(), base, certificates: None }
}

async fn build(images: &Images, base: Option<&str>, out: &Output) -> anyhow::Result<()> {
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template("{spinner} {wide_msg}")?);
    bar.enable_steady_tick(Duration::from_millis(100));
    let base = base::ready(images, base, |line| bar.set_message(line.to_owned())).await?;
    let certificates = Some(PathBuf::from(CERTIFICATES)).filter(|path| path.exists());
    let plan = Plan { certificates, ..plan(base) };
    let built = images.build(&plan, |line| bar.set_message(line.to_owned())).await;
    bar.finish_and_clear();
    let Built { tag, digest, was_there } = built?;
    if out.is_json() {
        out.document(&serde_json::json!({ "tag": tag, "digest": digest, "base": plan.base, "was_there": was_there }))?;
    } else {
        let how = if was_there { "is there already" } else { "is built" };
        out.line(&format!("{tag} {how}, on {}: {digest}", plan.base))?;
    }
    Ok(())
}

#[derive(Serialize)]
struct Row {
    tags: Vec<String>,
    digest: String,
    state: &'static str,
    size_bytes: u64,
    created_at: Timestamp,
}

async fn list(images: &Images, out: &Output) -> anyhow::Result<()> {
    let mut current = Vec::new();
    for base in base::KNOWN {
        if let Some(digest) = images.find(base).await? {
            current.push(plan(base.to_owned()).fingerprint(&digest));
        }
    }
    let state = |image: &Listed| if current.contains(&image.fingerprint) { "current" } else { "stale" };
    let rows: Vec<Row> = images
        .list()
        .await?
        .into_iter()
        .map(|image| Row {
            state: state(&image),
            tags: image.tags,
            digest: image.digest,
            size_bytes: image.bytes,
            created_at: Timestamp(image.created * 1000),
        })
        .collect();
    if out.is_json() {
        return Ok(out.document(&rows)?);
    }
    let cells: Vec<Vec<Cell>> = rows
        .iter()
        .map(|row| {
            let tags = row.tags.join(", ");
            let size = bytesize::ByteSize(row.size_bytes);
            vec![Cell::new(tags), Cell::state(row.state), Cell::new(&row.digest), Cell::new(size), Cell::new(row.created_at)]
        })
        .collect();
    Ok(out.rows(&["TAGS", "STATE", "DIGEST", "SIZE", "BUILT"], &cells)?)
}
