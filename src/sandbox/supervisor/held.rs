//! Files that were deleted and that processes hold open: they take room on the disk, and no walk through directories meets them.
//!
//! Only descriptors are looked at. Not seen is what is only mapped into memory, or on its way in a socket's message, and what a process has
//! open that does not let itself be looked at.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::super::command::Held;
use super::descendants;

/// How many descriptors are looked at: the supervisor does nothing else meanwhile.
const DESCRIPTORS_MAX: usize = 100_000;

/// What those take that were below a directory. Each is counted once, however many processes hold it.
pub(super) fn below(place: &Path) -> Held {
    let processes = descendants::all().into_iter().filter(|process| !process.stat.has_ended());
    let tables = processes.map(|process| format!("/proc/{}/fd", process.name.pid));
    let descriptors = tables.flat_map(|table| fs::read_dir(table).into_iter().flatten().flatten()).map(|entry| entry.path());
    let (mut held, mut met) = (Held::default(), HashSet::new());
    for descriptor in descriptors.take(DESCRIPTORS_MAX) {
        let Ok(about) = descriptor.metadata() else { continue };
        // One that has a name yet is met by whoever walks, and one of the base, over which the worktree is mounted, has its name there.
        if about.is_file()
            && about.nlink() == 0
            && descriptor.read_link().is_ok_and(|name| name.starts_with(place))
            && met.insert((about.dev(), about.ino()))
        {
            held.bytes += about.blocks() * 512;
            held.files += 1;
        }
    }
    held
}
