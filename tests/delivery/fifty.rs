//! Fifty jobs over four workers in processes of their own, on real repositories.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sawmill::ids::JobId;
use sawmill::job::{Job, JobState};
use sawmill::store::JobFilter;
use serde_json::json;

use super::host::{Host, Lodging, On, PATIENCE, lodging, until_within};
use super::real::Real;
use super::remote::{fsck, git, git_command, refs};

const JOBS: usize = 50;
const WORKERS: [&str; 4] = ["a", "b", "c", "d"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_jobs_over_four_workers_on_one_file() {
    every_job_is_delivered_once(On::Sqlite, lodging()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_jobs_over_four_workers_in_containers() {
    every_job_is_delivered_once(On::Sqlite, Lodging::InContainers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_jobs_over_four_workers_on_postgres() {
    every_job_is_delivered_once(On::Postgres, lodging()).await;
}

/// What a job does to its tree: files changed, removed, renamed, made, made executable and linked, each job others.
fn edit(number: usize) -> String {
    format!(
        "set -e; n={number}
        git ls-files -s | awk -v n=$n '$1 == \"100644\" && NR % 97 == n % 97 && ++found <= 12 {{ sub(/^[^\\t]*\\t/, \"\"); print }}' > ../list
        i=0; while read -r path; do i=$((i + 1)); case $i in
            1) rm \"$path\" ;; 2) mv \"$path\" \"$path.moved\" ;; 3) chmod +x \"$path\" ;; *) echo \"line of job $n\" >> \"$path\" ;;
        esac; done < ../list; rm ../list
        mkdir -p made/by-$n; seq 1 $((n * 10 + 1)) > made/by-$n/numbers; ln -s numbers made/by-$n/link; printf 'x\\r\\n' > \"made/by-$n/a name.txt\""
    )
}

async fn every_job_is_delivered_once(on: On, lodging: Lodging) {
    let host = Host::new(on, Duration::from_secs(30), 2).await.lodge(lodging).await;
    let root = host.root().to_owned();
    let remotes = tokio::task::spawn_blocking(move || Real::get().remotes(&root)).await.expect("repositories");
    let mut jobs: BTreeMap<JobId, usize> = BTreeMap::new();
    // Half of them wait already when the workers come.
    for number in 0..JOBS / 2 {
        jobs.insert(enqueue(&host, &remotes, number), number);
    }
    let mut workers = Vec::new();
    for name in WORKERS {
        workers.push(host.start(name).await);
    }
    for number in JOBS / 2..JOBS {
        jobs.insert(enqueue(&host, &remotes, number), number);
    }
    until_within(2 * PATIENCE, "all jobs have ended", async || all(&host).await.iter().all(|job| job.state.is_final())).await;

    let ended = all(&host).await;
    assert_eq!(ended.iter().map(|job| job.id).collect::<BTreeSet<_>>(), jobs.keys().copied().collect());
    for job in &ended {
        let attempts = host.attempts(job.id).await;
        assert_eq!((job.state, job.attempts_used, job.resets), (JobState::Succeeded, 1, 0), "{attempts:?}");
    }
    assert_recorded_once(&host, &ended).await;
    for remote in &remotes {
        let of_remote: Vec<&Job> = ended.iter().filter(|job| Path::new(&job.repo) == remote).collect();
        assert_as_made(&host, remote, &of_remote, &jobs);
    }
    for repository in remotes.iter().cloned().chain(WORKERS.iter().flat_map(|worker| mirrors(&host.state_dir(worker)))) {
        fsck(&repository);
    }
    host.close(workers).await;
}

fn enqueue(host: &Host, remotes: &[PathBuf], number: usize) -> JobId {
    host.enqueue(&json!({
        "repo": remotes[remote_of(number)],
        "execution": { "id": "fifty", "role": "worker", "slug": format!("job-{number}") },
        "task": { "command": edit(number) },
        "gates": [{ "name": "made", "command": format!("test -s made/by-{number}/numbers") }],
    }))
}

/// The large repositories get ten jobs each: what they cost is the files that are written.
const fn remote_of(number: usize) -> usize {
    match number % 5 {
        0 => 1,
        1 => 2,
        _ => 0,
    }
}

async fn all(host: &Host) -> Vec<Job> {
    host.store.jobs(&JobFilter { limit: 100, ..JobFilter::default() }).await.expect("jobs can be listed").items
}

async fn assert_recorded_once(host: &Host, jobs: &[Job]) {
    let completions = host.completions(None).await;
    assert_eq!(completions.len(), JOBS);
    let by_job: BTreeMap<_, _> = completions.iter().map(|entry| (entry.completion.job, &entry.completion)).collect();
    for job in jobs {
        let completion = by_job[&job.id];
        assert_eq!((&completion.commit, completion.branch.as_deref()), (&job.commit, Some(job.branch.as_str())));
        assert_eq!(host.attempts(job.id).await.len(), 1);
    }
}

/// Every branch is there once, one commit on the base, with the tree that plain git makes of the same edit.
fn assert_as_made(host: &Host, remote: &Path, jobs: &[&Job], numbers: &BTreeMap<JobId, usize>) {
    let branches: BTreeMap<String, String> = refs(remote, "refs/heads/").into_iter().collect();
    let expected: BTreeSet<String> = jobs.iter().map(|job| job.branch.to_ref()).chain(["refs/heads/main".to_owned()]).collect();
    assert_eq!(branches.keys().cloned().collect::<BTreeSet<_>>(), expected);
    assert_eq!(refs(remote, "refs/sawmill/"), []);

    let clone = host.root().join(format!("{}-check", remote.file_name().expect("a name").display()));
    git(host.root(), &["clone", "--quiet", remote.to_str().expect("UTF-8"), clone.to_str().expect("UTF-8")]);
    for job in jobs {
        let tip = &branches[&job.branch.to_ref()];
        assert_eq!(job.commit.as_ref().map(ToString::to_string).as_ref(), Some(tip));
        assert_eq!(git(remote, &["rev-parse", &format!("{tip}^@")]), branches["refs/heads/main"], "one commit on the base");
        let edited = Command::new("sh").args(["-c", &edit(numbers[&job.id])]).current_dir(&clone).status().expect("sh runs");
        assert!(edited.success());
        git(&clone, &["add", "--all"]);
        let tree = git(&clone, &["write-tree"]);
        assert_eq!(git(remote, &["rev-parse", &format!("{tip}^{{tree}}")]), tree, "{} of {}", job.branch, remote.display());
        git(&clone, &["reset", "--quiet", "--hard"]);
        assert!(git_command(&clone, &["clean", "-ffdxq"]).status().expect("git runs").success());
    }
}

fn mirrors(state_dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(state_dir.join("mirrors")).expect("mirrors").flatten().map(|entry| entry.path());
    let found: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|extension| extension == "git")).collect();
    assert!(!found.is_empty());
    found
}
