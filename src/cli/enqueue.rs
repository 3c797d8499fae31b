//! `sawmill enqueue`: asking for a job, and waiting for what becomes of it.
//!
//! The one rule: a document given with `--spec` is sent as it is, so that what is wrong with it is said once, by the server.

use std::path::Path;
use std::time::{Duration, Instant};

use super::client::{Client, to_json};
use super::enqueue_args::{EnqueueArgs, document, read};
use super::error::{CliError, Exit};
use super::output::{Output, talk};
use super::{forecast, jobs, logs, workers};
use crate::api::Kind;
use crate::api::wire::JobAnswer;
use crate::clock::Timestamp;
use crate::job::JobState;

/// Asks for a job, and waits for its end where that is wanted.
pub(super) async fn run(client: &Client, out: &Output, args: EnqueueArgs) -> Result<Exit, CliError> {
    let (wait, follow) = (args.wait, args.follow);
    let patience = args.wait_for_room.unwrap_or_default();
    let spec = args.spec.clone();
    let bytes = match &spec {
        Some(path) => read(path)?,
        None => to_json(&document(args)?)?,
    };
    let answer = ask(client, bytes, patience).await.map_err(|error| with_file(error, spec.as_deref()))?;
    let job = &answer.job;
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
        out.document(&answer)?;
    } else {
        out.line(&job.id.to_string())?;
        talk(&format!("on branch {}; watch it with: sawmill logs -f {}", job.branch, job.id));
    }
    match &answer.forecast {
        Some(forecast) if forecast.slots > 0 => talk(&forecast::sentence(forecast, Timestamp::now())),
        forecast if job.state == JobState::Queued && !workers::hint_at_none(client).await => {
            let why = forecast.as_ref().map(|forecast| forecast::sentence(forecast, Timestamp::now()));
            why.into_iter().for_each(|why| talk(&format!("{why}; see: sawmill job explain {}", job.id)));
        }
        _ => {}
    }
    Ok(Exit::Done)
}

/// What is wrong with a document, with the file that it is in.
fn with_file(error: CliError, file: Option<&Path>) -> CliError {
    match (error, file) {
        (CliError::Refused(mut problem), Some(file)) if problem.status == 422 || problem.is(Kind::MalformedJson) => {
            let name = if file == Path::new("-") { "standard input".to_owned() } else { file.display().to_string() };
            problem.detail = format!("{name}: {}", problem.detail);
            CliError::Refused(problem)
        }
        (error, _) => error,
    }
}

/// Asks for a job, and where there is no room, again when the server says, until `patience` is over. A refusal is certain: nothing
/// was enqueued.
async fn ask(client: &Client, document: Vec<u8>, patience: Duration) -> Result<JobAnswer, CliError> {
    let until = Instant::now() + patience;
    loop {
        let refused = match client.post_bytes("/v1/jobs", document.clone()).await {
            Err(CliError::Refused(problem)) if problem.is(Kind::QueueFull) => problem,
            answered => return answered,
        };
        let left = until.saturating_duration_since(Instant::now());
        let wait = Duration::from_secs(refused.retry_after_s.unwrap_or(1));
        if left.is_zero() {
            return Err(CliError::Refused(refused));
        }
        talk(&refused.detail);
        tokio::time::sleep(spread(wait).min(left)).await;
    }
}

/// A wait of up to a quarter more, so that those who were refused together do not come back together.
fn spread(wait: Duration) -> Duration {
    wait.mul_f64(1.0 + rand::random::<f64>() / 4.0)
}
