//! What the image of jobs is built on: an image of a registry or, where none can be asked, one made of Debian's packages here.

use std::process::Stdio;

use anyhow::{Context, bail};
use futures_util::StreamExt;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio_util::io::ReaderStream;

use crate::sandbox::container::{BASE_OF_PACKAGES, BASE_OF_REGISTRY, Images, KNOWN_BASES};

/// Has the engine have a base, and names it. `progress` hears what is being done.
pub(super) async fn ready(images: &Images, named: Option<&str>, mut progress: impl FnMut(&str)) -> anyhow::Result<String> {
    if let Some(name) = named {
        if images.find(name).await?.is_none() {
            images.pull(name, &mut progress).await?;
        }
        return Ok(name.to_owned());
    }
    for name in KNOWN_BASES {
        if images.find(name).await?.is_some() {
            return Ok(name.to_owned());
        }
    }
    let refused = match images.pull(BASE_OF_REGISTRY, &mut progress).await {
        Ok(()) => return Ok(BASE_OF_REGISTRY.to_owned()),
        Err(error) => error,
    };
    progress(&format!("{refused}; making a base of Debian packages instead"));
    make(images, &mut progress).await.with_context(|| refused.to_string())?;
    Ok(BASE_OF_PACKAGES.to_owned())
}

/// Makes a base with debootstrap.
async fn make(images: &Images, mut progress: impl FnMut(&str)) -> anyhow::Result<()> {
    let dir = tempfile::Builder::new().prefix("sawmill-base-").tempdir().context("cannot make a directory for the base")?;
    let root = dir.path().join("root");
    let mut debootstrap = Command::new("debootstrap");
    debootstrap.args(["--variant=minbase", "--include=ca-certificates", "trixie"]).arg(&root);
    let started = debootstrap.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn();
    let mut child = started.context("cannot run debootstrap; install it, or name a base with --base")?;
    let mut last = String::new();
    if let Some(output) = child.stdout.take() {
        let mut lines = BufReader::new(output).lines();
        while let Some(line) = lines.next_line().await? {
            progress(&line);
            last = line;
        }
    }
    let status = child.wait().await?;
    if !status.success() {
        bail!("debootstrap, which needs root, made no base ({status}): {last}; name one with --base");
    }
    progress("importing the base");
    let archive = dir.path().join("base.tar");
    let mut tar = Command::new("tar");
    // Lists and archives of packages are of no use in an image.
    tar.args(["--exclude=./var/cache/apt/archives/*", "--exclude=./var/lib/apt/lists/*", "--one-file-system", "-C"]);
    tar.arg(&root).arg("-cf").arg(&archive).arg(".").stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let packed = tar.output().await.context("cannot run tar")?;
    if !packed.status.success() {
        bail!("tar did not pack the base: {}", String::from_utf8_lossy(&packed.stderr).trim());
    }
    // What cannot be read is missing at the end of the archive, and the engine refuses one that is cut.
    let file = tokio::fs::File::open(&archive).await.context("cannot read the base")?;
    let pieces = ReaderStream::with_capacity(file, 256 * 1024).take_while(|read| std::future::ready(read.is_ok()));
    images.import(BASE_OF_PACKAGES, pieces.filter_map(|read| std::future::ready(read.ok())), progress).await?;
    Ok(())
}
