//! What must not be in lines that a result adds: what a merge left, and secrets.

use super::Found;
use crate::git::{ChangedFile, Presence};
use crate::job::checks::Rule;
use crate::redact::Redactor;

/// Lines that are added and are what a merge left, as git writes them.
pub(super) fn conflict_markers(files: &[ChangedFile]) -> Vec<Found> {
    let lines = files.iter().flat_map(|file| file.added.iter().map(move |line| (file, line)));
    let marked = lines.filter_map(|(file, line)| Some((file, line.number, marker(&line.text)?)));
    let found = marked.map(|(file, number, marker)| Found {
        path: Some(file.path.clone()),
        line: Some(number),
        rule: Rule::ConflictMarker,
        message: format!("the line is a conflict marker ({marker}); resolve the conflict"),
    });
    found.collect()
}

/// The marker that a line is. The one between the sides is also a heading in some formats, and never comes alone.
fn marker(line: &[u8]) -> Option<&'static str> {
    let markers = ["<<<<<<<", "|||||||", ">>>>>>>"];
    markers.into_iter().find(|marker| {
        let rest = line.strip_prefix(marker.as_bytes());
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b' ' | b'\r')))
    })
}

/// What looks like a secret in lines that are added, and in binary files.
pub(super) fn secrets(files: &[ChangedFile], redactor: &Redactor) -> Vec<Found> {
    let mut found = Vec::new();
    for file in files {
        let mut blocks: Vec<(Option<u32>, Vec<u8>)> = Vec::new();
        if file.binary {
            blocks.push((None, file.after.clone()));
        }
        // Lines that stand together are looked at together: a private key has several.
        let mut next = 0;
        for line in &file.added {
            match blocks.last_mut() {
                Some((Some(_), text)) if line.number == next => {
                    text.push(b'\n');
                    text.extend_from_slice(&line.text);
                }
                _ => blocks.push((Some(line.number), line.text.clone())),
            }
            next = line.number + 1;
        }
        for (first, text) in blocks {
            found.extend(places(redactor, &text).into_iter().map(|lines_before| Found {
                path: Some(file.path.clone()),
                line: first.map(|first| first + lines_before),
                rule: Rule::Secret,
                message: "it has what looks like a secret; take it out, have the program read it from its environment, and revoke it if \
                          it is real"
                    .to_owned(),
            }));
        }
    }
    found
}

/// How many lines are before each line of a text in which something would be masked; of those that one secret covers, the first.
fn places(redactor: &Redactor, text: &[u8]) -> Vec<u32> {
    let count = |text: &[u8]| u32::try_from(text.iter().filter(|byte| **byte == b'\n').count()).unwrap_or(u32::MAX);
    let masked = redactor.redact(text);
    if masked == text {
        return Vec::new();
    }
    // Most secrets are on a line of their own; only what goes over several is found as a whole alone.
    let lines = text.split(|byte| *byte == b'\n').enumerate();
    let found: Vec<u32> = lines
        .filter(|(_, line)| redactor.redact(line) != *line)
        .map(|(number, _)| u32::try_from(number).unwrap_or(u32::MAX))
        .collect();
    if !found.is_empty() {
        return found;
    }
    let same = text.iter().zip(&masked).take_while(|(one, other)| one == other).count();
    vec![count(&text[..same])]
}

/// Files that could not be looked through.
pub(super) fn unread(files: &[ChangedFile]) -> Vec<Found> {
    let unread = files.iter().filter(|file| file.unread && file.is == Presence::There);
    let found = unread.map(|file| Found {
        path: Some(file.path.clone()),
        line: None,
        rule: Rule::Unread,
        message: "it is too large to be looked through for secrets and conflict markers".to_owned(),
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::Line;

    fn file(lines: &[(u32, &str)]) -> Vec<ChangedFile> {
        let added = lines.iter().map(|(number, text)| Line { number: *number, text: text.as_bytes().to_vec() }).collect();
        vec![ChangedFile { path: "f".to_owned(), added, ..ChangedFile::default() }]
    }

    fn lines(found: &[Found]) -> Vec<u32> {
        found.iter().filter_map(|one| one.line).collect()
    }

    #[test]
    fn a_marker_is_one_at_the_beginning_of_a_line_only() {
        let text = [
            (3, "<<<<<<< HEAD"),
            (4, "a"),
            (5, "======="),
            (6, ">>>>>>> theirs"),
            (7, " <<<<<<< x"),
            (8, "<<<<<<<<"),
            (9, "|||||||\r"),
        ];
        assert_eq!(lines(&conflict_markers(&file(&text))), [3, 6, 9]);
    }

    #[test]
    fn a_secret_is_found_by_its_shape_or_because_the_job_knows_it_on_its_line() {
        let token = format!("token = \"ghp_{}\"", "a1B2".repeat(9));
        let key = [
            "-----BEGIN RSA PRIVATE KEY-----",
            &"MIIEpAIBAAKCAQEA".repeat(4),
            &"c3VwZXIgc2VjcmV0".repeat(4),
            "-----END RSA PRIVATE KEY-----",
        ];
        let mut text = vec![(1, "fine"), (2, token.as_str()), (3, "also fine"), (9, "my hunter2hunter2 pass")];
        text.extend((20..).zip(key));
        let found = lines(&secrets(&file(&text), &Redactor::new(["hunter2hunter2"])));
        assert!(
            found.starts_with(&[2, 9]) && found[2..].iter().all(|line| (20..24).contains(line)) && found.len() > 2,
            "{found:?}"
        );
        assert!(secrets(&file(&[(1, "my hunter2hunter2 pass")]), &Redactor::new([""; 0])).is_empty());
    }
}
