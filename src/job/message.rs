//! The message of a delivered commit.

use super::claim::Claim;
use super::spec::JobSpec;

/// The longest subject, in characters.
const SUBJECT_MAX: usize = 72;

/// The message for what an attempt delivers: the first line of `summary`, or the job's title, as its subject; the rest of the
/// summary as its body; then the trailers by which job and attempt are found again.
#[must_use]
pub fn commit_message(claim: &Claim, spec: &JobSpec, backend: &str, summary: Option<&str>) -> String {
    let text = summary.map(str::trim).filter(|text| !text.is_empty()).map_or_else(|| spec.title(), str::to_owned);
    let mut lines = text.lines();
    let first = lines.next().unwrap_or("sawmill job").trim();
    let subject: String = first.chars().take(SUBJECT_MAX).collect();
    let rest: Vec<&str> = if first.chars().count() > SUBJECT_MAX { text.lines().collect() } else { lines.collect() };
    let body = rest.join("\n").trim().to_owned();

    let mut message = subject;
    if !body.is_empty() {
        message.push_str("\n\n");
        message.push_str(&body);
    }
    message.push_str("\n\n");
    for (key, value) in trailers(claim, spec, backend) {
        message.push_str(&format!("{key}: {}\n", value.replace(['\n', '\r'], " ")));
    }
    message
}

fn trailers(claim: &Claim, spec: &JobSpec, backend: &str) -> Vec<(&'static str, String)> {
    let mut trailers = vec![
        ("Sawmill-Job", claim.job.to_string()),
        ("Sawmill-Attempt", claim.attempt.to_string()),
        ("Sawmill-Backend", backend.to_owned()),
    ];
    trailers.extend(spec.execution.id.clone().map(|id| ("Sawmill-Execution", id)));
    trailers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{AttemptNo, ClaimToken, JobId, WorkerId};
    use crate::job::spec::{Execution, Task};

    #[test]
    fn the_summary_becomes_subject_and_body_and_the_trailers_follow() {
        let claim = Claim {
            job: "0190a5a0-0000-7000-8000-0000000000aa".parse::<JobId>().expect("an id"),
            attempt: AttemptNo(2),
            token: ClaimToken::generate(),
            worker: WorkerId::new("w"),
        };
        let spec = JobSpec {
            execution: Execution { id: Some("plan-7".to_owned()), ..Execution::default() },
            task: Task { instruction: Some("Fix the parser".to_owned()), ..Task::default() },
            ..JobSpec::default()
        };
        insta::assert_snapshot!(commit_message(&claim, &spec, "shell", Some("Fix it\nBecause it was broken.\n")), @r"
        Fix it

        Because it was broken.

        Sawmill-Job: 0190a5a0-0000-7000-8000-0000000000aa
        Sawmill-Attempt: 2
        Sawmill-Backend: shell
        Sawmill-Execution: plan-7
        ");
        let plain = commit_message(&claim, &spec, "shell", None);
        assert!(plain.starts_with("Fix the parser\n\nSawmill-Job: "), "{plain}");
    }
}
