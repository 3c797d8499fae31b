//! `sawmill job artifacts`: the files that are kept of a job, listed, or one of them written.

use std::fs::File;
use std::io::Write as _;

use bytesize::ByteSize;
use futures_util::TryStreamExt as _;

use super::args::ArtifactsArgs;
use super::client::{Client, escape};
use super::error::{CliError, Exit};
use super::output::{Output, talk};
use super::table::Cell;
use crate::api::wire::Page;
use crate::job::Artifact;

/// Lists them, or writes the one that is named.
pub(super) async fn run(client: &Client, out: &Output, args: ArtifactsArgs) -> Result<Exit, CliError> {
    let ArtifactsArgs { id, name, attempt, output } = args;
    let attempt = attempt.map(|attempt| format!("?attempt={attempt}")).unwrap_or_default();
    let Some(name) = name else {
        return list(out, &client.get(&format!("/v1/jobs/{id}/artifacts{attempt}")).await?);
    };
    let mut pieces = client.open_pieces(&format!("/v1/jobs/{id}/artifacts/{}{attempt}", escape(&name))).await?;
    let mut file = match &output {
        Some(path) => {
            Some(File::create(path).map_err(|error| CliError::Usage(format!("cannot write {}: {error}", path.display())))?)
        }
        None => None,
    };
    while let Some(piece) = pieces.try_next().await.map_err(|broken| client.broken(broken))? {
        match &mut file {
            Some(file) => file.write_all(&piece)?,
            None => out.bytes(&piece)?,
        }
    }
    Ok(Exit::Done)
}

fn list(out: &Output, page: &Page<Artifact>) -> Result<Exit, CliError> {
    if out.is_json() {
        out.document(page)?;
        return Ok(Exit::Done);
    }
    if page.items.is_empty() {
        talk("nothing is kept of it yet");
        return Ok(Exit::Done);
    }
    let row = |artifact: &Artifact| {
        let kept = artifact.kept.as_ref();
        vec![
            Cell::new(artifact.attempt),
            Cell::new(&artifact.name),
            Cell::state(artifact.state),
            Cell::maybe(kept.map(|kept| ByteSize(kept.bytes))),
            Cell::maybe(
                artifact
                    .reason
                    .clone()
                    .or_else(|| kept.filter(|kept| kept.redacted).map(|_| "secrets were taken out".to_owned())),
            ),
        ]
    };
    out.rows(&["ATTEMPT", "NAME", "STATE", "SIZE", "NOTE"], &page.items.iter().map(row).collect::<Vec<_>>())?;
    Ok(Exit::Done)
}
