//! What git's complaints mean. They are in English, because every command runs with `LC_ALL=C`.
//!
//! Nothing else looks at git's words; where they tell nothing known, their end is passed on.

use super::Remote;
use super::error::GitError;

/// A failure of a command that talks to a remote.
pub(super) fn network(remote: &Remote, action: &str, stderr: &str) -> GitError {
    let has = |needles: &[&str]| needles.iter().any(|needle| stderr.contains(needle));
    if disk_is_full(stderr) && !remote_says(stderr).contains("No space left") {
        return GitError::DiskFull { action: action.to_owned() };
    }
    let remote_ = remote.clone();
    if has(&[
        "could not read Username",
        "could not read Password",
        "Authentication failed",
        "Permission denied (",
        "error: 401",
        "error: 403",
    ]) {
        GitError::NeedsPassword { remote: remote_, detail: detail(stderr) }
    } else if has(&["dubious ownership"]) {
        let detail = format!("{remote} belongs to another user; name it in git.safe_directories");
        GitError::Command { action: action.to_owned(), detail }
    } else if has(&[
        "does not appear to be a git repository",
        "epository not found",
        "' not found",
        "could not be found",
        "no such repository",
    ]) {
        GitError::RemoteMissing { remote: remote_ }
    } else {
        GitError::Unreachable { remote: remote_, detail: detail(stderr) }
    }
}

/// A failure of a command on local files.
pub(super) fn local(action: &str, code: Option<i32>, stderr: &str) -> GitError {
    if disk_is_full(stderr) {
        return GitError::DiskFull { action: action.to_owned() };
    }
    let mut detail = detail(stderr);
    if detail.is_empty() {
        detail = code.map_or_else(|| "git was killed".to_owned(), |code| format!("git ended with status {code}"));
    }
    GitError::Command { action: action.to_owned(), detail }
}

pub(super) fn disk_is_full(stderr: &str) -> bool {
    stderr.contains("No space left on device") || stderr.contains("Disk quota exceeded")
}

/// What the far end said: git marks its lines.
pub(super) fn remote_says(stderr: &str) -> String {
    let lines: Vec<&str> =
        stderr.lines().filter_map(|line| line.strip_prefix("remote:")).map(str::trim).filter(|line| !line.is_empty()).collect();
    cut(&lines.join("; "))
}

/// Why a remote refused a ref: git's word for it, and what the far end said.
pub(super) fn why_refused(reason: String, stderr: &str) -> String {
    let said = remote_says(stderr);
    if said.is_empty() { reason } else { format!("{reason}: {said}") }
}

/// The lock file that was in the way, which whoever holds it removes.
pub(super) fn lock_in_the_way(stderr: &str) -> Option<&str> {
    let before = &stderr[..stderr.find(".lock': File exists")? + ".lock".len()];
    Some(&before[before.rfind('\'')? + 1..])
}

/// The lines that say why, joined: those marked as errors, or else the last.
pub(super) fn detail(stderr: &str) -> String {
    let lines: Vec<&str> = stderr.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty()).collect();
    let marked = |line: &&&str| ["fatal:", "error:", "remote:", "ssh:", "ERROR:"].iter().any(|mark| line.starts_with(mark));
    let errors: Vec<&str> = lines.iter().filter(marked).copied().collect();
    cut(&if errors.is_empty() { lines.last().copied().unwrap_or_default().to_owned() } else { errors.join("; ") })
}

fn cut(text: &str) -> String {
    text.chars().take(2_000).collect()
}

/// Why git would not add something, from what `git add` printed: the path as far as it is named, and a sentence.
pub(super) fn refusal(stderr: &str) -> Option<(String, String)> {
    stderr.lines().find_map(refusal_in_line)
}

/// The paths of nested repositories without a commit, which `git add` stumbles over.
pub(super) fn unborn_repositories(stderr: &str) -> Vec<&str> {
    stderr
        .lines()
        .filter_map(|line| line.strip_prefix("error: '")?.strip_suffix("' does not have a commit checked out"))
        .map(|path| path.trim_end_matches('/'))
        .collect()
}

fn refusal_in_line(line: &str) -> Option<(String, String)> {
    let between = |start: &str, end: &str| {
        let rest = line.strip_prefix(start)?;
        Some(rest[..rest.find(end)?].to_owned())
    };
    let found = |path: String, why: &str| Some((path.trim_end_matches('/').to_owned(), why.to_owned()));
    if let Some(path) = between("error: '", "' does not have a commit checked out") {
        return found(path, "it is a repository of its own; remove its .git to deliver its files");
    }
    if let Some(path) = between("error: open(\"", "\"): Permission denied") {
        return found(path, "it cannot be read: permission denied");
    }
    if let Some(path) = between("warning: could not open directory '", "': Permission denied") {
        return found(path, "the directory cannot be read: permission denied");
    }
    if let Some(path) = between("error: ", ": can only add regular files, symbolic links or git-directories") {
        return found(path, "it is neither a file, a link nor a directory");
    }
    if let Some(path) = between("error: invalid path '", "'") {
        return found(path, "git does not allow this name");
    }
    if let Some(path) = between("fatal: failed to encode '", "'") {
        return found(path, "it cannot be converted as its working-tree-encoding attribute asks");
    }
    if let Some(path) = between("fatal: unable to stat '", "': Permission denied") {
        return found(path, "it cannot be read: permission denied");
    }
    if line.starts_with("fatal: BOM is")
        || line.starts_with("error: failed to encode")
        || line.starts_with("fatal: failed to encode")
    {
        return found(String::new(), line);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_about_the_remote_has_a_meaning() {
        let remote: Remote = "https://example.com/a.git".parse().expect("a remote");
        let check = |stderr: &str, expected: &str| assert_eq!(network(&remote, "fetch", stderr).to_string(), expected);
        check(
            "fatal: could not read Username for 'https://example.com': terminal prompts disabled\n",
            "cannot read https://example.com/a.git: it wants credentials; use ssh, or put a token into the address as in https://USER:TOKEN@HOST/PATH (fatal: could not read Username for 'https://example.com': terminal prompts disabled)",
        );
        check(
            "remote: Repository not found.\nfatal: repository 'https://example.com/a.git/' not found\n",
            "cannot read https://example.com/a.git: there is no repository; check the address, and that this worker may see it",
        );
        check(
            "fatal: unable to access 'https://example.com/a.git/': Could not resolve host: example.com\n",
            "cannot reach https://example.com/a.git: fatal: unable to access 'https://example.com/a.git/': Could not resolve host: example.com",
        );
        check("fatal: write error: No space left on device\n", "cannot fetch: no space left on the disk");
    }

    #[test]
    fn a_lock_in_the_way_is_named() {
        let said = "remote: error: cannot lock ref 'refs/heads/busy': Unable to create '/srv/a b/./refs/heads/busy.lock': File exists.        \nremote: \n";
        assert_eq!(lock_in_the_way(said), Some("/srv/a b/./refs/heads/busy.lock"));
        assert_eq!(lock_in_the_way("remote: error: cannot lock ref 'refs/heads/busy': is at 1 but expected 2\n"), None);
    }

    #[test]
    fn a_refusal_names_the_path() {
        let check = |line: &str, path: &str| assert_eq!(refusal(line).map(|found| found.0).as_deref(), Some(path), "{line}");
        check("error: 'sub/' does not have a commit checked out\nfatal: adding files failed", "sub");
        check("error: open(\"a b\"): Permission denied\nerror: unable to index file 'a b'", "a b");
        check("warning: could not open directory 'x/': Permission denied", "x");
        check("error: f: can only add regular files, symbolic links or git-directories", "f");
        check("error: invalid path 'GIT~1'", "GIT~1");
        assert_eq!(refusal("fatal: adding files failed"), None);
    }
}
