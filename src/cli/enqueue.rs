//! `sawmill enqueue`: asking for a job, and waiting for what becomes of it.
//!
//! The one rule: a document given with `--spec` is sent as it is, so that what is wrong with it is said once, by the server.

use super::client::Client;
use super::enqueue_args::{EnqueueArgs, document, read};
use super::error::{CliError, Exit};
use super::output::{Output, talk};
use super::{jobs, logs, workers};
use crate::job::{Job, JobState};

/// Asks for a job, and waits for its end where that is wanted.
pub(super) async fn run(client: &Client, out: &Output, args: EnqueueArgs) -> Result<Exit, CliError> {
    let (wait, follow) = (args.wait, args.follow);
    let job: Job = match &args.spec {
        Some(path) => client.post_bytes("/v1/jobs", read(path)?).await?,
        None => client.post("/v1/jobs", &document(args)?).await?,
    };
    if follow {
        talk(&format!("job {} on branch {}", job.id, job.branch));
        logs::follow(client, out, job.id, logs::Wanted::default()).await?;
        return jobs::wait(client, out, job.id, None).await;
    }
    if wait {
        talk(&format!("job {} on branch {}", job.id, job.branch));
        return jobs::wait(client, out, job.id, None).await;
    }
    if out.is_json() {
        out.document(&job)?;
    } else {
        out.line(&job.id.to_string())?;
        talk(&format!("on branch {}; watch it with: sawmill logs -f {}", job.branch, job.id));
    }
    if job.state == JobState::Queued {
        workers::hint_at_none(client).await;
    }
    Ok(Exit::Done)
}
