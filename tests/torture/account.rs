//! The account at the end, from outside: database, remotes, disk and processes, against what each job was to do.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use futures_util::StreamExt;
use sawmill::ids::{JobId, ObjectId};
use sawmill::job::{AttemptRecord, Completion, Job, JobState, LogVerdict, OutcomeClass, Stage, StageRecord, Stream};
use sawmill::store::{CompletionFilter, JobFilter};

use super::orders::Order;
use crate::delivery::host::Host;
use crate::delivery::leftovers::git_locks;
use crate::delivery::remote::{fsck, refs};

/// What the account found.
#[derive(Default)]
pub(super) struct Account {
    /// What is not as it must be, by job where it is one's.
    faults: Vec<(Option<JobId>, String)>,
    /// How many jobs took so many attempts.
    pub(super) attempts: BTreeMap<usize, u32>,
    /// How many attempts ended so.
    pub(super) classes: BTreeMap<&'static str, u32>,
    /// How many jobs ended so.
    pub(super) states: BTreeMap<&'static str, u32>,
    /// Branches of jobs that were cancelled after an attempt had pushed, and died before it could say so.
    pub(super) orphaned_branches: u32,
    /// Salvages that a supervisor made in the absence of a daemon that came back in time, and delivered.
    pub(super) needless_salvages: u32,
    pub(super) log_bytes: u64,
    pub(super) salvages: usize,
    /// What infrastructure is said to have failed attempts by.
    pub(super) failures: BTreeMap<String, u32>,
}

/// What is on record of one job.
struct Record<'a> {
    order: &'a Order,
    job: Job,
    attempts: Vec<AttemptRecord>,
    /// The logs of the attempts, by stream.
    logs: Vec<Vec<String>>,
    completion: Option<Completion>,
}

impl Account {
    /// Takes the account of all jobs.
    pub(super) async fn take(host: &Host, orders: &BTreeMap<JobId, Order>, remotes: &[PathBuf]) -> Self {
        let mut account = Self::default();
        let completions = account.completions(host).await;
        let jobs = jobs(host).await;
        if jobs.keys().collect::<BTreeSet<_>>() != orders.keys().collect::<BTreeSet<_>>() {
            account.fault(None, format!("{} jobs are on record, {} were asked for", jobs.len(), orders.len()));
        }
        let read = jobs.into_iter().filter_map(|(id, job)| Some((orders.get(&id)?, job))).map(|(order, job)| {
            let completion = completions.get(&job.id).cloned();
            read_record(host, order, job, completion)
        });
        let records: Vec<Record<'_>> = futures_util::stream::iter(read).buffer_unordered(8).collect().await;
        for record in &records {
            account.judge_record(record);
            account.judge_log(record);
        }
        for remote in remotes {
            let of_remote: Vec<&Record<'_>> = records.iter().filter(|record| record.order.remote() == remote).collect();
            account.judge_remote(remote, &of_remote);
        }
        account.judge_mirrors(host);
        account
    }

    /// Fails, with everything that is needed to understand, unless all is as it must be. The faults come last: of a long output
    /// it is the end that is kept.
    pub(super) async fn assert_clean(&self, host: &Host, about: &str) {
        if self.faults.is_empty() {
            return;
        }
        let logs = host.logs();
        let told: BTreeSet<JobId> = self.faults.iter().filter_map(|(job, _)| *job).take(3).collect();
        for id in told {
            println!("\n{:#?}", host.job(id).await);
            for attempt in host.attempts(id).await {
                println!("{attempt:#?}");
                let system = host.log(id, attempt.attempt.0, Stream::System).await;
                println!("its log of the worker's:\n{system}");
            }
            let id = id.to_string();
            let lines = logs.lines().filter(|line| line.starts_with("--- ") || line.contains(&id));
            println!("the daemons said of it:\n{}", with_headings(lines));
        }
        let faults: Vec<String> = self.faults.iter().take(40).map(|(_, fault)| format!("- {fault}")).collect();
        panic!("{} faults; {about}\n{}", self.faults.len(), faults.join("\n"));
    }

    pub(super) fn fault(&mut self, job: Option<JobId>, fault: String) {
        let fault = job.map_or(fault.clone(), |job| format!("job {job}: {fault}"));
        self.faults.push((job, fault));
    }

    async fn completions(&mut self, host: &Host) -> BTreeMap<JobId, Completion> {
        let mut found = BTreeMap::new();
        let mut filter = CompletionFilter { limit: 500, ..CompletionFilter::default() };
        loop {
            let page = host.store.completions(&filter).await.expect("completions can be read");
            filter.before = page.items.last().map(|entry| entry.completion.id);
            for entry in page.items {
                let job = entry.completion.job;
                if found.insert(job, entry.completion).is_some() {
                    self.fault(Some(job), "it has two completions".to_owned());
                }
            }
            if !page.more {
                return found;
            }
        }
    }

    /// The job, its attempts and its completion, against each other and against what was asked.
    fn judge_record(&mut self, record: &Record<'_>) {
        let Record { order, job, attempts, completion, .. } = record;
        let id = Some(job.id);
        *self.attempts.entry(attempts.len()).or_default() += 1;
        *self.states.entry(job.state.as_str()).or_default() += 1;
        let class = job.outcome.as_ref().map(|outcome| outcome.class);
        if !order.ends().iter().any(|(state, of)| (*state, Some(*of)) == (job.state, class)) {
            self.fault(id, format!("a job that is {:?} ended as {}: {:?}", order.kind, job.state, job.outcome));
        }
        let numbers: Vec<u32> = attempts.iter().map(|attempt| attempt.attempt.0).collect();
        let last = job.attempt.map_or(0, |attempt| attempt.0);
        if numbers != (1..=last).collect::<Vec<_>>() {
            self.fault(id, format!("it is at attempt {last}, and these are on record: {numbers:?}"));
        }
        let classes: Vec<OutcomeClass> = attempts.iter().filter_map(|one| Some(one.outcome.as_ref()?.class)).collect();
        for outcome in attempts.iter().filter_map(|one| one.outcome.as_ref()) {
            if outcome.class == OutcomeClass::Infrastructure {
                *self.failures.entry(outcome.message.clone()).or_default() += 1;
            }
        }
        for class in &classes {
            *self.classes.entry(class.as_str()).or_default() += 1;
        }
        let resets = |class: &&OutcomeClass| matches!(class, OutcomeClass::Infrastructure | OutcomeClass::LeaseLost);
        let used = classes.iter().filter(|class| !resets(class) && **class != OutcomeClass::Released).count();
        if (job.resets as usize, job.attempts_used as usize) != (classes.iter().filter(resets).count(), used) {
            self.fault(id, format!("{} resets and {} attempts charged for {classes:?}", job.resets, job.attempts_used));
        }
        let successes = classes.iter().filter(|class| **class == OutcomeClass::Succeeded).count();
        let should = usize::from(job.state == JobState::Succeeded);
        if successes != should || (should == 1 && classes.last() != Some(&OutcomeClass::Succeeded)) {
            self.fault(id, format!("{} jobs have one success, their last attempt: {classes:?}", job.state));
        }
        match (job.state, completion) {
            (JobState::Succeeded, Some(completion)) => {
                if Some(completion.attempt) != job.attempt || completion.commit != job.commit {
                    self.fault(id, format!("its completion is of another attempt or commit: {completion:?}"));
                }
            }
            (JobState::Succeeded, None) => self.fault(id, "it succeeded without a completion".to_owned()),
            (_, Some(completion)) => self.fault(id, format!("it has not succeeded, and has a completion: {completion:?}")),
            (_, None) => {}
        }
    }

    /// Every attempt's log is what the job wrote: to the end where it came to its end, else to some point.
    fn judge_log(&mut self, record: &Record<'_>) {
        let expected = record.order.output();
        for (attempt, log) in record.attempts.iter().zip(&record.logs) {
            let Some(class) = attempt.outcome.as_ref().map(|outcome| outcome.class) else { continue };
            let ran_to_its_end = matches!(class, OutcomeClass::Succeeded | OutcomeClass::Backend | OutcomeClass::Gate);
            let number = attempt.attempt.0;
            for ((stream, found), expected) in Stream::ALL.iter().zip(log).zip(&expected) {
                self.log_bytes += found.len() as u64;
                if (ran_to_its_end && found != expected) || !expected.starts_with(found) {
                    let (had, has) = (expected.len(), found.len());
                    let at = found.bytes().zip(expected.bytes()).take_while(|(a, b)| a == b).count();
                    let fault =
                        format!("attempt {number} ({class}) wrote {had} bytes to {stream}, its log has {has}, equal up to {at}");
                    self.fault(Some(record.job.id), fault);
                }
            }
            let honest = match (class, attempt.log_verdict) {
                (OutcomeClass::LeaseLost, Some(LogVerdict::Gap { from, to })) => from == to && to == attempt.log_bytes,
                (OutcomeClass::LeaseLost, _) => false,
                (_, verdict) => verdict == Some(LogVerdict::Complete),
            };
            if !honest {
                let fault = format!("attempt {number} ({class}) has the verdict {:?}", attempt.log_verdict);
                self.fault(Some(record.job.id), fault);
            }
        }
    }

    /// A branch for each delivery and for nothing else, each one commit on the base with what the job was to change.
    fn judge_remote(&mut self, remote: &Path, records: &[&Record<'_>]) {
        fsck(remote);
        for lock in git_locks(remote) {
            self.fault(None, format!("left behind: {}", lock.display()));
        }
        let repository = git2::Repository::open_bare(remote).expect("a repository");
        let branches: BTreeMap<String, String> = refs(remote, "refs/heads/").into_iter().collect();
        let base = branches["refs/heads/main"].clone();
        let mut unexplained: BTreeSet<&String> = branches.keys().filter(|name| *name != "refs/heads/main").collect();
        let salvages: BTreeMap<String, String> = refs(remote, "refs/sawmill/salvage/").into_iter().collect();
        self.salvages += salvages.len();
        let mut known = BTreeSet::new();
        for record in records {
            let Record { order, job, attempts, completion, .. } = record;
            let (id, name) = (Some(job.id), format!("refs/heads/{}", order.branch()));
            unexplained.remove(&name);
            let tip = branches.get(&name);
            let delivered = completion.as_ref().and_then(|completion| completion.commit.as_ref());
            match (tip, delivered) {
                (None, None) => {}
                (Some(tip), Some(commit)) if *tip == commit.to_string() => {
                    let attempt = completion.as_ref().map_or(0, |completion| completion.attempt.0);
                    for fault in judge_commit(&repository, tip, &base, order, job.id, attempt) {
                        self.fault(id, fault);
                    }
                }
                (Some(tip), None) if job.state == JobState::Cancelled && pushed_by_a_lost_attempt(&repository, tip, attempts) => {
                    self.orphaned_branches += 1;
                }
                (tip, delivered) => self.fault(id, format!("its branch is at {tip:?}, its completion says {delivered:?}")),
            }
            for attempt in attempts {
                let salvage = format!("refs/sawmill/salvage/{}/{}", job.id, attempt.attempt);
                let on_remote = salvages.get(&salvage);
                let class = attempt.outcome.as_ref().map(|outcome| outcome.class);
                self.needless_salvages += u32::from(class == Some(OutcomeClass::Succeeded) && on_remote.is_some());
                let on_record = attempt.salvage.as_ref().map(ObjectId::to_string);
                let must = matches!(class, Some(OutcomeClass::Backend | OutcomeClass::Gate));
                if (on_record.is_some() && on_record.as_ref() != on_remote) || (must && on_record.is_none()) {
                    self.fault(id, format!("{salvage} is at {on_remote:?} on the remote and {on_record:?} on record"));
                }
                known.insert(salvage);
            }
        }
        for name in unexplained.into_iter().chain(salvages.keys().filter(|name| !known.contains(*name))) {
            self.fault(None, format!("{} has {name}, which is nobody's", remote.display()));
        }
    }

    /// The mirrors of all workers are whole, and no half of one is beside them.
    fn judge_mirrors(&mut self, host: &Host) {
        for entry in std::fs::read_dir(host.root()).expect("the host's directory").flatten() {
            for mirror in std::fs::read_dir(entry.path().join("mirrors")).into_iter().flatten().flatten() {
                let path = mirror.path();
                let name = path.file_name().expect("a name").to_string_lossy();
                if name.ends_with(".git") {
                    fsck(&path);
                } else if name.starts_with(".incoming") {
                    self.fault(None, format!("left behind: {}", path.display()));
                }
            }
        }
    }
}

async fn read_record<'o>(host: &Host, order: &'o Order, job: Job, completion: Option<Completion>) -> Record<'o> {
    let attempts = host.attempts(job.id).await;
    let mut logs = Vec::new();
    for attempt in &attempts {
        logs.push(host.streams(job.id, attempt.attempt.0).await);
    }
    Record { order, job, attempts, logs, completion }
}

async fn jobs(host: &Host) -> BTreeMap<JobId, Job> {
    let mut found = BTreeMap::new();
    let mut filter = JobFilter { limit: 500, ..JobFilter::default() };
    loop {
        let page = host.store.jobs(&filter).await.expect("jobs can be listed");
        filter.before = page.items.last().map(|job| job.id);
        found.extend(page.items.into_iter().map(|job| (job.id, job)));
        if !page.more {
            return found;
        }
    }
}

/// What is wrong with the one commit of a delivery.
fn judge_commit(repository: &git2::Repository, tip: &str, base: &str, order: &Order, job: JobId, attempt: u32) -> Vec<String> {
    let commit = find(repository, tip);
    let mut faults = Vec::new();
    let parents: Vec<String> = commit.parent_ids().map(|id| id.to_string()).collect();
    if parents != [base] {
        faults.push(format!("{tip} has the parents {parents:?}, the base is {base}"));
    }
    let (by_job, by_attempt) = (trailer(&commit, "Sawmill-Job"), trailer(&commit, "Sawmill-Attempt"));
    if (by_job.as_deref(), by_attempt.as_deref()) != (Some(&*job.to_string()), Some(&*attempt.to_string())) {
        faults.push(format!("{tip} says that job {by_job:?} made it in attempt {by_attempt:?}"));
    }
    let (before, after) = (find(repository, base).tree().expect("a tree"), commit.tree().expect("a tree"));
    let diff = repository.diff_tree_to_tree(Some(&before), Some(&after), None).expect("a diff");
    let changed: Vec<PathBuf> = diff.deltas().filter_map(|delta| delta.new_file().path().map(Path::to_owned)).collect();
    let blob = after.get_path(Path::new(&order.path())).ok().and_then(|entry| repository.find_blob(entry.id()).ok());
    if changed != [PathBuf::from(order.path())] || blob.is_none_or(|blob| blob.content() != order.content().as_bytes()) {
        faults.push(format!("{tip} changes {changed:?}"));
    }
    faults
}

/// Whether an attempt made this commit that lost its lease.
fn pushed_by_a_lost_attempt(repository: &git2::Repository, tip: &str, attempts: &[AttemptRecord]) -> bool {
    let by = trailer(&find(repository, tip), "Sawmill-Attempt").and_then(|number| number.parse().ok());
    let attempt = attempts.iter().find(|attempt| Some(attempt.attempt.0) == by);
    // Its worker may have been stopped, and have given the job back at its next start, before the claim was off the record.
    attempt.is_some_and(|attempt| {
        let in_push = |stage: &StageRecord| stage.stage == Stage::Publish && stage.outcome == Some(OutcomeClass::LeaseLost);
        let class = attempt.outcome.as_ref().map(|outcome| outcome.class);
        class == Some(OutcomeClass::LeaseLost) || attempt.stages.iter().any(in_push)
    })
}

fn find<'r>(repository: &'r git2::Repository, id: &str) -> git2::Commit<'r> {
    repository.find_commit(id.parse().expect("an id")).expect("a commit")
}

fn trailer(commit: &git2::Commit<'_>, key: &str) -> Option<String> {
    let message = commit.message().unwrap_or_default();
    message.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": ")).map(str::to_owned)
}

/// Keeps the headings only that something follows.
fn with_headings<'l>(lines: impl Iterator<Item = &'l str>) -> String {
    let mut lines = lines.peekable();
    let mut text = String::new();
    while let Some(line) = lines.next() {
        if !(line.starts_with("--- ") && lines.peek().is_none_or(|next| next.starts_with("--- "))) {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}
