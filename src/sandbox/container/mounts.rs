//! Whether what is mounted on the host later can be seen in a container that runs already.

use std::fs;
use std::path::Path;

/// Whether mounts below `path` propagate into containers that hold it: the mount that it is on is shared, or the slave of one that is.
#[must_use]
pub fn propagates(path: &Path) -> bool {
    fs::read_to_string("/proc/self/mountinfo").is_ok_and(|table| is_shared(&table, path))
}

/// The format is that of proc_pid_mountinfo(5): the fifth field is where, and optional fields follow the sixth, up to a dash.
fn is_shared(table: &str, path: &Path) -> bool {
    let on_it = table.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let place = fields.get(4)?.replace("\\040", " ");
        let optional = fields.iter().skip(6).take_while(|field| **field != "-");
        let shared = optional.into_iter().any(|field| field.starts_with("shared:") || field.starts_with("master:"));
        path.starts_with(&place).then_some((place.len(), shared))
    });
    // Of several at one place the last one hides the others.
    on_it.max_by_key(|(length, _)| *length).is_some_and(|(_, shared)| shared)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_that_a_path_is_on_decides() {
        let table = "22 1 8:1 / / rw shared:1 - ext4 /dev/sda rw\n\
                     23 22 8:2 / /srv rw - ext4 /dev/sdb rw\n\
                     24 23 8:3 / /srv/a\\040b rw master:7 - ext4 /dev/sdc rw\n";
        let check = |path: &str, expected: bool| assert_eq!(is_shared(table, Path::new(path)), expected, "{path}");
        check("/var/lib", true);
        check("/srv/x", false);
        check("/srv/a b/slots", true);
        check("/srvx", true);
    }
}
