//! Whether tests assert less than before.
//!
//! The one rule: what a new test asserts makes up for nothing that another one asserted. Tests are known by their names; an assertion that is
//! still there, word for word, is not lost wherever it is now; and a test that was renamed may have been written anew.

use std::collections::{BTreeMap, BTreeSet};

use super::languages::{Language, is_test_path};
use crate::git::ChangedFile;

/// How many lines after the one that begins a test may have its name: attributes stand between.
const NAME_WITHIN: usize = 8;

/// The assertions of a file by the name of their test; those before the first test have none.
type ByTest<'a> = BTreeMap<Vec<u8>, Vec<&'a [u8]>>;

/// By how many assertions the tests that a file had assert less than before, where they do. `files` are all that changed: what is in
/// another one of them now was moved.
pub(super) fn fewer(language: &Language, file: &ChangedFile, files: &[ChangedFile]) -> Option<usize> {
    let (before, after) = (by_test(language, &file.before), by_test(language, &file.after));
    let only_in = |one: &ByTest<'_>, other: &ByTest<'_>| -> BTreeSet<Vec<u8>> {
        one.keys().filter(|name| !name.is_empty() && !other.contains_key(*name)).cloned().collect()
    };
    let (gone, new) = (only_in(&before, &after), only_in(&after, &before));

    // In a file that has other code, what is before its tests is that code, which may do without an assertion.
    let only_tests = is_test_path(&file.path);
    let mut missing = count(before.iter().filter(|(name, _)| only_tests || !name.is_empty()).flat_map(|(_, asserted)| asserted));
    // What tests asserted that are not here any more is told by their number, unless others are there in their place.
    if new.len() < gone.len() {
        take(&mut missing, gone.iter().flat_map(|name| &before[name]));
    }
    take(&mut missing, after.values().flatten());
    let others = files.iter().filter(|other| other.path != file.path);
    let moved: Vec<&[u8]> = others.flat_map(|other| other.added.iter().map(|line| line.text.trim_ascii())).collect();
    take(&mut missing, moved.iter());

    let mut fresh: BTreeMap<&[u8], usize> = BTreeMap::new();
    for (name, asserted) in after.iter().filter(|(name, _)| !new.contains(*name)) {
        let mut own = count(asserted.iter());
        take(&mut own, before.get(name).into_iter().flatten());
        add(&mut fresh, own);
    }
    // Those that may be what others were are the ones that say most.
    let mut renamed: Vec<&Vec<&[u8]>> = new.iter().map(|name| &after[name]).collect();
    renamed.sort_by_key(|asserted| std::cmp::Reverse(asserted.len()));
    renamed.iter().take(gone.len()).for_each(|asserted| add(&mut fresh, count(asserted.iter())));
    // What was there before is new only as far as there is more of it now.
    let (had, has) = (count(before.values().flatten()), count(after.values().flatten()));
    let more = |line: &[u8]| has.get(line).copied().unwrap_or(0).saturating_sub(had.get(line).copied().unwrap_or(0));
    fresh.iter_mut().for_each(|(line, number)| *number = (*number).min(more(line)));

    let (missing, fresh) = (missing.values().sum::<usize>(), fresh.values().sum::<usize>());
    missing.checked_sub(fresh).filter(|fewer| *fewer > 0)
}

fn by_test<'a>(language: &Language, text: &'a [u8]) -> ByTest<'a> {
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    let (mut tests, mut name) = (ByTest::new(), Vec::new());
    for (at, line) in lines.iter().enumerate() {
        if language.test.is_match(line) {
            let named = lines[at..].iter().take(NAME_WITHIN).find_map(|line| language.name.captures(line));
            let found = named.and_then(|found| found.iter().skip(1).flatten().next().map(|name| name.as_bytes().to_vec()));
            name = found.unwrap_or_else(|| line.trim_ascii().to_vec());
            tests.entry(name.clone()).or_default();
        }
        if language.assertion.is_match(line) {
            tests.entry(name.clone()).or_default().push(line.trim_ascii());
        }
    }
    tests
}

fn count<'a, 'b: 'a>(lines: impl Iterator<Item = &'a &'b [u8]>) -> BTreeMap<&'b [u8], usize> {
    let mut counts = BTreeMap::new();
    lines.for_each(|line| *counts.entry(*line).or_default() += 1);
    counts
}

fn add<'a>(counts: &mut BTreeMap<&'a [u8], usize>, more: BTreeMap<&'a [u8], usize>) {
    more.into_iter().for_each(|(line, number)| *counts.entry(line).or_default() += number);
}

fn take<'a, 'b: 'a>(counts: &mut BTreeMap<&'b [u8], usize>, lines: impl Iterator<Item = &'a &'b [u8]>) {
    for line in lines {
        if let Some(left) = counts.get_mut(line) {
            *left = left.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::weakened;
    use super::*;
    use crate::git::{Line, Presence};

    /// A file of which every line was replaced, as far as the difference says.
    fn changed(path: &str, before: &str, after: &str) -> ChangedFile {
        let lines = |text: &str| (1..).zip(text.lines()).map(|(number, text)| Line { number, text: text.into() }).collect();
        ChangedFile {
            path: path.to_owned(),
            was: Presence::There,
            is: Presence::There,
            removed: lines(before),
            added: lines(after),
            before: before.into(),
            after: after.into(),
            ..ChangedFile::default()
        }
    }

    #[test]
    fn what_a_new_test_asserts_does_not_make_up_for_what_another_one_did() {
        let check = |files: &[ChangedFile], expected: &str| {
            let found: Vec<String> = weakened::check(files).into_iter().map(|one| one.message).collect();
            assert_eq!(found.concat().split(" fewer").next(), Some(expected), "{found:?}");
        };
        let python = |after: &str| changed("test_a.py", "def test_a():\n    assert a == 1\n    assert b\n", after);
        let a = "def test_a():\n    assert a == 1\n";
        check(&[python(&format!("{a}def test_b():\n    assert c\n    assert d\n"))], "1 assertion is");
        check(
            &[python("def test_a():\n    pass\ndef test_b():\n    assert c\ndef test_c():\n    assert d\n")],
            "2 assertions are",
        );
        // Another value, moved to another test or file, a test that is split, or written anew under another name: nothing of it is less.
        check(&[python("def test_a():\n    assert a == 2\n    assert b\ndef test_b():\n    assert c\n")], "");
        check(&[python(&format!("{a}def test_b():\n    assert b\n"))], "");
        check(&[python(a), changed("test_b.py", "", "def test_b():\n    assert b\n")], "");
        check(&[python("def test_z():\n    assert y\n    assert z\ndef test_y():\n    assert x\n")], "");
        let alike = |other: &str| format!("def test_a():\n    assert r == 1\ndef test_b():\n    assert {other}\n");
        check(&[changed("test_a.py", &alike("r == 2"), &alike("r == 1"))], "");
        let lost = "def test_a():\n    pass\ndef test_b():\n    assert r == 1\n";
        check(&[changed("test_a.py", &alike("r == 2"), lost)], "1 assertion is");
        check(&[python("def test_z():\n    assert z\ndef test_y():\n    assert y\n")], "1 assertion is");
        let rust = |body: &str| format!("#[test]\n#[should_panic]\nfn a() {{\n    {body}\n}}\n");
        let new = "#[test]\nfn b() {\n    assert!(true);\n}\n";
        check(&[changed("src/a.rs", &rust("assert_eq!(a, 1);"), &(rust("") + new))], "1 assertion is");
        check(&[changed("src/a.rs", &rust("assert_eq!(a, 1);"), &(rust("assert_eq!(a, 2);") + new))], "");
        // The code itself is no test; what a test asserts with its help is.
        let code = |body: &str| format!("fn c() {{\n    {body}\n}}\n{}", rust("assert_eq!(a, 1);"));
        check(&[changed("src/a.rs", &code("assert!(d);"), &(code("") + new))], "");
        let helped = format!("fn c() {{\n    assert_eq!(b, 1);\n}}\n{}", rust("c();"));
        check(&[changed("src/a.rs", &rust("assert_eq!(a, 1);"), &helped)], "");
        check(&[changed("tests/a.rs", &code("assert!(d);"), &(code("") + new))], "1 assertion is");
        let jest =
            changed("a.test.ts", "it('a', () => {\nexpect(a)\n})\n", "it('a', () => {\n})\nit('b', () => {\nexpect(b)\n})\n");
        check(&[jest], "1 assertion is");
    }
}
