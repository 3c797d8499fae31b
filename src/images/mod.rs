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
use crate::sandbox::container::{Built, Freshness, Images, Plan};

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

async fn build(images: &Images, base: Option<&str>, out: &Output) -> anyhow::Result<()> {
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template("{spinner} {wide_msg}")?);
    bar.enable_steady_tick(Duration::from_millis(100));
    let base = base::ready(images, base, |line| bar.set_message(line.to_owned())).await?;
    let certificates = Some(PathBuf::from(CERTIFICATES)).filter(|path| path.exists());
    let plan = Plan { certificates, ..Plan::of_jobs(base) };
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
    /// What it was built on, where that was written down.
    base: Option<String>,
    size_bytes: u64,
    created_at: Timestamp,
}

async fn list(images: &Images, out: &Output) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for image in images.list().await? {
        let state = match images.freshness_of(&image).await? {
            Freshness::Current => "current",
            Freshness::Stale { .. } => "stale",
            Freshness::Unknown { .. } => "unknown",
        };
        rows.push(Row {
            state,
            tags: image.tags,
            digest: image.digest,
            base: image.base,
            size_bytes: image.bytes,
            created_at: Timestamp(image.created * 1000),
        });
    }
    if out.is_json() {
        return Ok(out.document(&rows)?);
    }
    let cells: Vec<Vec<Cell>> = rows
        .iter()
        .map(|row| {
            let tags = row.tags.join(", ");
            let size = bytesize::ByteSize(row.size_bytes);
            let built = [Cell::new(size), Cell::new(row.created_at)];
            let mut cells = vec![Cell::new(tags), Cell::state(row.state), Cell::maybe(row.base.as_ref()), Cell::new(&row.digest)];
            cells.extend(built);
            cells
        })
        .collect();
    Ok(out.rows(&["TAGS", "STATE", "BASE", "DIGEST", "SIZE", "BUILT"], &cells)?)
}
