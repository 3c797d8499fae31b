//! Which control group this process is in.

use std::fs;
use std::path::{Path, PathBuf};

/// The own control group in the unified hierarchy, relative to where that is mounted, by what this directory of processes says (`/proc`, cgroups(7)):
/// empty for the root. Nothing where there is no such hierarchy.
pub(crate) fn unified(proc: &Path) -> Option<PathBuf> {
    let groups = fs::read_to_string(proc.join("self/cgroup")).ok()?;
    groups.lines().find_map(|line| line.strip_prefix("0::/")).map(PathBuf::from)
}
