//! Where things are within a container: the same in all of them, so that what a build remembers of its paths stays right.

/// What the job sees of its slot, and nothing else of the host.
pub const WORKSPACE: &str = "/workspace";

/// A place of the supervisor's own, which the job's user cannot enter.
pub(in super::super) const PRIVATE: &str = "/run/sawmill";

/// The supervisor's directory: the same as on the host.
pub(in super::super) const SUPERVISOR_DIR: &str = "/run/sawmill/sup";

/// What the supervisor's program consists of, to be read only. Jobs may read it too: agents are run by it.
pub(in super::super) const PROGRAM_DIR: &str = "/usr/libexec/sawmill";

/// This executable.
pub(in super::super) const EXECUTABLE: &str = "/usr/libexec/sawmill/sawmill";

/// The loader that starts it, where it is not linked statically.
pub(in super::super) const LOADER: &str = "/usr/libexec/sawmill/ld.so";

/// The supervisor's own user id: nobody's, and another than the job's.
pub(in super::super) const fn supervisor_uid(job: u32) -> u32 {
    if job == 65_533 { 65_532 } else { 65_533 }
}
