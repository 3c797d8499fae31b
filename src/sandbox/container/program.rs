//! This program as containers have it: together with everything that it is linked with, so that it starts in any image.
//!
//! The one rule: the supervisor needs nothing of an image, and runs nothing of it. A program that is linked statically is all there is
//! to it. One that is not is started by the very loader that it names on this host, and finds the very libraries that it has here; they are
//! mounted beside it. What an image has for a C library, an older one, another one or none, makes no difference then.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::inside::{EXECUTABLE, LOADER, PROGRAM_DIR};

/// Whether this program needs others to start it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Linkage {
    /// It does not.
    #[default]
    Static,
    /// A loader does that, which finds its libraries for it.
    Dynamic,
}

impl Linkage {
    /// The words by which the program is started in a container, before its own arguments.
    pub(super) fn words(self) -> Vec<String> {
        let words: &[&str] = match self {
            Self::Static => &[EXECUTABLE],
            Self::Dynamic => &[LOADER, "--library-path", PROGRAM_DIR, EXECUTABLE],
        };
        words.iter().copied().map(str::to_owned).collect()
    }
}

/// The files of the program on the host that containers have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program {
    /// Each with the path that it has within.
    pub(super) files: Vec<(PathBuf, String)>,
    pub(super) linkage: Linkage,
}

impl Program {
    /// Gives the program a place in the state directory that only this build has: what containers hold must neither change nor go when
    /// the program, or a library of this host, is upgraded. Those of earlier builds are removed; containers that hold them keep them.
    ///
    /// # Errors
    /// It cannot be written there, its libraries are not found, or it is not a program of this kind of machine.
    pub(super) fn install(executable: &Path, dir: &Path, build: &str) -> io::Result<Self> {
        let place = dir.join(build);
        let loader = loader_of(executable)?;
        let linkage = if loader.is_some() { Linkage::Dynamic } else { Linkage::Static };
        let libraries =
            loader.map(|loader| Libraries::of(executable, loader)).transpose()?.map_or_else(Vec::new, Libraries::files);
        let beside = |name: &str| dir.join(format!("{build}.{name}"));
        let others = libraries.iter().map(|(name, _)| (beside(name), format!("{PROGRAM_DIR}/{name}")));
        let files: Vec<(PathBuf, String)> = [(place.clone(), EXECUTABLE.to_owned())].into_iter().chain(others).collect();
        if !files.iter().all(|(file, _)| file.exists()) {
            remove_files(dir)?;
            libraries.iter().try_for_each(|(name, file)| copy(file, &beside(name)))?;
            link_or_copy(executable, &place)?;
        }
        Ok(Self { files, linkage })
    }
}

/// The name of this build of the program, as a file.
pub(super) fn build_of(executable: &Path) -> io::Result<String> {
    let about = fs::metadata(executable)?;
    Ok(format!("sawmill-{:x}-{:x}-{:x}", about.ino(), about.size(), about.mtime_nsec() ^ about.mtime()))
}

/// What a program that is linked dynamically is linked with.
struct Libraries {
    loader: PathBuf,
    /// By the names that it asks for.
    others: Vec<(String, PathBuf)>,
}

impl Libraries {
    /// Asks the loader what it would load: this is what `ldd` does.
    fn of(executable: &Path, loader: PathBuf) -> io::Result<Self> {
        let file = File::open(executable)?;
        // By the path that it was given it may be another file there: `/proc/self/exe` is the loader itself. And it may not look at
        // what this process has open, which has more rights where it mounts in a namespace of its own.
        let output = Command::new(&loader).arg("--list").arg("/proc/self/fd/0").stdin(file).output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let listed = if output.status.success() { listed(&said) } else { None };
        let others = listed.ok_or_else(|| {
            let why = format!("{} lists as its libraries: {said}{}", loader.display(), String::from_utf8_lossy(&output.stderr));
            io::Error::other(why.trim().to_owned())
        })?;
        Ok(Self { loader, others })
    }

    /// The loader too, by the name that it has in a container.
    fn files(self) -> Vec<(String, PathBuf)> {
        let name = Path::new(LOADER).file_name().unwrap_or_default().to_string_lossy().into_owned();
        [(name, self.loader)].into_iter().chain(self.others).collect()
    }
}

/// The libraries that a loader names with the files that they are; none where one is not found. Beside them it lists itself and what the
/// kernel provides, which are no files of theirs.
fn listed(text: &str) -> Option<Vec<(String, PathBuf)>> {
    let library = |line: &str| {
        let (name, rest) = line.trim().split_once(" => ")?;
        let file = rest.split(" (0x").next().filter(|file| file.starts_with('/'));
        // What the kernel provides has a line without a file; the loader's own, where it has one, says that it is at another path.
        (!name.starts_with("linux-") && !name.starts_with('/')).then(|| file.map(|file| (name.to_owned(), PathBuf::from(file))))
    };
    text.lines().filter_map(library).collect()
}

/// The loader that a program names, where it names one. The format is that of elf(5), for 64 bits.
fn loader_of(executable: &Path) -> io::Result<Option<PathBuf>> {
    const INTERPRETER: u32 = 3;
    const NAME_MAX: u64 = 4096;
    let file = File::open(executable)?;
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0)?;
    if header[..5] != *b"\x7fELF\x02" {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} is no program for 64 bits", executable.display())));
    }
    let number = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().expect("eight bytes were taken"));
    let half = |bytes: &[u8]| u64::from(u16::from_ne_bytes(bytes.try_into().expect("two bytes were taken")));
    let (table, entry_size, entries) = (number(&header[32..40]), half(&header[54..56]), half(&header[56..58]));
    for at in (0..entries).map(|entry| table + entry * entry_size) {
        let mut entry = [0; 56];
        file.read_exact_at(&mut entry, at)?;
        if entry[..4] == INTERPRETER.to_ne_bytes() {
            let mut name = vec![0; usize::try_from(number(&entry[32..40]).min(NAME_MAX)).unwrap_or(0)];
            file.read_exact_at(&mut name, number(&entry[8..16]))?;
            name.retain(|byte| *byte != 0);
            return Ok(Some(PathBuf::from(String::from_utf8_lossy(&name).into_owned())));
        }
    }
    Ok(None)
}

fn remove_files(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_file() {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn link_or_copy(executable: &Path, place: &Path) -> io::Result<()> {
    // The path may be that of a newer build by now.
    let linked = fs::canonicalize(executable).and_then(|file| match build_of(&file) {
        Ok(build) if place.ends_with(&build) => fs::hard_link(&file, place),
        _ => Err(io::ErrorKind::NotFound.into()),
    });
    // On another filesystem, another user's, or replaced.
    if linked.is_err() { copy(executable, place) } else { Ok(()) }
}

/// A file that has its name has its content, also after the host has crashed: who finds it takes it for complete.
fn copy(file: &Path, place: &Path) -> io::Result<()> {
    let draft = place.with_extension("new");
    fs::copy(file, &draft)?;
    File::open(&draft)?.sync_all()?;
    fs::rename(&draft, place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_loader_lists_is_read_and_what_it_misses_is_no_list() {
        let check = |text: &str, expected: Option<&[(&str, &str)]>| {
            let expected = expected.map(|all| all.iter().map(|(name, file)| ((*name).to_owned(), PathBuf::from(file))).collect());
            assert_eq!(listed(text), expected, "{text}");
        };
        let glibc = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibgcc_s.so.1 => /lib/x86_64-linux-gnu/libgcc_s.so.1 (0x00007f)\n\
                     \tlibc.so.6 => /lib/with a space/libc.so.6 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        check(
            glibc,
            Some(&[("libgcc_s.so.1", "/lib/x86_64-linux-gnu/libgcc_s.so.1"), ("libc.so.6", "/lib/with a space/libc.so.6")]),
        );
        check("\t/lib64/ld-linux-x86-64.so.2 => /nix/store/x/ld-linux-x86-64.so.2 (0x00007f)\n", Some(&[]));
        check("\tlinux-vdso.so.1 =>  (0x00007ffd)\n", Some(&[]));
        check("\tlibc.so.6 => not found\n", None);
    }

    #[test]
    fn the_loader_of_a_program_is_known_and_what_is_no_program_has_none() {
        let own = std::env::current_exe().expect("this program");
        // Tests are linked as the program is.
        assert_eq!(loader_of(&own).expect("a program").is_none(), cfg!(target_feature = "crt-static"));
        assert_eq!(loader_of(Path::new("/bin/busybox")).expect("a program"), None);
        assert!(loader_of(Path::new("/etc/passwd")).is_err());
    }

    #[test]
    fn an_installed_program_starts_with_its_own_libraries_and_stays_when_it_is_installed_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let own = std::env::current_exe().expect("this program");
        let build = build_of(&own).expect("this program");
        fs::write(dir.path().join("sawmill-earlier.libc.so.6"), "").expect("a file");
        let installed = Program::install(&own, dir.path(), &build).expect("installed");
        assert!(!dir.path().join("sawmill-earlier.libc.so.6").exists(), "that of an earlier build stays");
        assert!(installed.files.iter().all(|(file, _)| file.is_file()), "{installed:?}");
        let inodes = || installed.files.iter().map(|(file, _)| fs::metadata(file).expect("a file").ino()).collect::<Vec<_>>();
        let before = inodes();
        assert_eq!(Program::install(&own, dir.path(), &build).expect("installed"), installed);
        assert_eq!(inodes(), before);
    }
}
