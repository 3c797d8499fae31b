//! Repositories of a given number of files, always the same, without ever being checked out.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::{git, git_command};

/// A bare repository, and its files as they would be checked out.
pub(crate) struct Sample {
    pub(crate) place: PathBuf,
    pub(crate) remote: PathBuf,
    pub(crate) files: Vec<(String, Vec<u8>)>,
}

impl Sample {
    pub(crate) fn make(place: &Path, count: usize) -> Self {
        let remote = Self::remote_in(place);
        std::fs::create_dir_all(&remote).expect("made");
        git(&remote, &["init", "--quiet", "--bare", "--initial-branch=main"]);
        let mut files: Vec<_> = (0..count).map(file).collect();
        files.push((".gitignore".to_owned(), b"/target/\n*.tmp\n".to_vec()));
        import(&remote, &files);
        go_on(&remote, &files);
        git(&remote, &["repack", "-adq"]);
        Self { place: place.to_owned(), remote, files }
    }

    /// The repository of the sample in a place.
    pub(crate) fn remote_in(place: &Path) -> PathBuf {
        place.join("remote.git")
    }

    /// The file that a small job changes.
    pub(crate) fn changed(&self) -> String {
        self.files[self.files.len() / 2].0.clone()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.files.iter().map(|(_, contents)| contents.len()).sum()
    }
}

/// Twenty commits on top, on a branch of their own, each of which changes three files.
fn go_on(remote: &Path, files: &[(String, Vec<u8>)]) {
    let mut text = Vec::new();
    for commit in 0..20 {
        let header = "commit refs/heads/later\ncommitter bench <bench@localhost> 1700000000 +0000\ndata 5\nlater\n";
        text.extend_from_slice(header.as_bytes());
        if commit == 0 {
            text.extend_from_slice(b"from refs/heads/main^0\n");
        }
        for number in 0..3 {
            let (path, _) = &files[(commit * 3 + number) * files.len() / 60];
            let contents = format!("changed by commit {commit}\n");
            text.extend_from_slice(format!("M 100644 inline {path}\ndata {}\n{contents}\n", contents.len()).as_bytes());
        }
    }
    fast_import(remote, |input| input.write_all(&text));
}

/// A source-like text of some hundred bytes to some kilobytes, in directories of about forty.
fn file(number: usize) -> (String, Vec<u8>) {
    let path = format!("part-{:03}/unit-{:02}/file-{number}.txt", number / 1_600, number / 40 % 40);
    let mut state = number as u64 + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    let lines = 4 + next() % 56;
    let text: String =
        (0..lines).map(|line| format!("let value_{line} = compute({}, {});\n", next() % 1_000, next() % 97)).collect();
    (path, text.into_bytes())
}

fn import(remote: &Path, files: &[(String, Vec<u8>)]) {
    fast_import(remote, |input| {
        input.write_all(b"commit refs/heads/main\ncommitter bench <bench@localhost> 1700000000 +0000\ndata 6\nfiles\n\n")?;
        for (path, contents) in files {
            input.write_all(format!("M 100644 inline {path}\ndata {}\n", contents.len()).as_bytes())?;
            input.write_all(contents)?;
            input.write_all(b"\n")?;
        }
        Ok(())
    });
}

fn fast_import(remote: &Path, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) {
    let mut child = git_command(remote, &["fast-import", "--quiet"]).stdin(Stdio::piped()).spawn().expect("git runs");
    let mut input = std::io::BufWriter::new(child.stdin.take().expect("a pipe"));
    write(&mut input).and_then(|()| input.flush()).expect("written");
    drop(input);
    assert!(child.wait().expect("an end").success(), "git imports");
}
