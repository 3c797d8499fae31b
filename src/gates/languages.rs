//! How languages say what is a test: in which files their runners look, by which lines a test begins, is left out, and asserts.
//!
//! The one rule: these are patterns of lines and of paths, and nothing here judges. A language is a row of the table.

use std::sync::LazyLock;

use regex::Regex as Text;
use regex::bytes::Regex;

use crate::git::Line;

/// How a language says what is a test.
pub(super) struct Language {
    extensions: &'static [&'static str],
    /// The files in which its runners look for tests; none where any file may have some.
    collected: Option<Text>,
    /// The line that begins a test.
    pub(super) test: Regex,
    /// The name of a test, on that line or one of the next.
    pub(super) name: Regex,
    pub(super) skip: Regex,
    pub(super) assertion: Regex,
}

/// The same, as it is written down.
struct Patterns {
    extensions: &'static [&'static str],
    collected: &'static str,
    test: &'static str,
    name: &'static str,
    skip: &'static str,
    assertion: &'static str,
}

const PATTERNS: [Patterns; 6] = [
    Patterns {
        extensions: &["rs"],
        collected: "",
        test: r"^\s*#\[(?:\w+::)*(?:test|rstest|test_case)\b",
        name: r"\bfn\s+(\w+)",
        skip: r"#\[ignore\b",
        assertion: r"\bassert(?:_\w+)?!",
    },
    Patterns {
        extensions: &["py"],
        collected: r"(?:^|/)(?:test_[^/]*|[^/]*_test|tests)\.py$",
        test: r"^\s*(?:async\s+)?def\s+test\w*\s*\(",
        name: r"\bdef\s+(\w+)",
        skip: r"(?x)\bmark\.(?:skip|skipif|xfail)\b | \bunittest\.(?:skip\w*|expectedFailure|SkipTest)\b
            | \bpytest\.(?:skip|xfail)\( | \.skipTest\( | ^\s*__test__\s*=\s*False",
        assertion: r"^\s*assert\b|\.assert\w+\(|pytest\.raises\(",
    },
    Patterns {
        extensions: &["js", "jsx", "ts", "tsx", "mjs", "cjs", "mts", "cts"],
        collected: r"(?:^|/)__tests__/|\.(?:test|spec)\.[cm]?[jt]sx?$",
        test: r"^\s*(?:it|test)(?:\.\w+)*\s*\(",
        name: r#"\(\s*["'`]([^"'`]*)"#,
        skip: r"\b(?:it|test|describe)\.(?:skip|todo|only|fails)\b|\b(?:xit|xtest|xdescribe|fit|fdescribe)\s*\(",
        assertion: r"\bexpect\s*\(|\bassert(?:\.\w+)*\s*\(",
    },
    Patterns {
        extensions: &["go"],
        collected: r"_test\.go$",
        test: r"^func\s+(?:Test|Fuzz|Example)\w*\s*\(",
        name: r"\bfunc\s+(\w+)",
        skip: r"\b[tb]\.Skip(?:f|Now)?\(",
        assertion: r"\bt\.(?:Error|Fatal)f?\(|\b(?:assert|require)\.\w+\(",
    },
    Patterns {
        extensions: &["java", "kt"],
        collected: r"(?:^|/)(?:Test[^/]*|[^/]*(?:Tests?|TestCase|IT|Spec))\.(?:java|kt)$",
        test: r"^\s*@(?:Test|ParameterizedTest)\b",
        name: r"\b(?:void|fun)\s+(\w+|`[^`]*`)",
        skip: r"@(?:Ignore|Disabled)\b",
        assertion: r"\bassert\w*\(",
    },
    Patterns {
        extensions: &["rb"],
        collected: r"(?:^|/)test_[^/]*\.rb$|_(?:spec|test)\.rb$",
        test: r#"^\s*(?:it|test)\s+["']|^\s*def\s+test_"#,
        name: r#"["']([^"']*)|\bdef\s+(\w+)"#,
        skip: r"^\s*(?:xit|skip|pending)\b",
        assertion: r"\bassert\w*\b|\bexpect\b",
    },
];

pub(super) static LANGUAGES: LazyLock<Vec<Language>> = LazyLock::new(|| PATTERNS.iter().map(Language::of).collect());

impl Language {
    fn of(patterns: &Patterns) -> Self {
        let regex = |pattern: &str| Regex::new(pattern).expect("the patterns are constants, and a test compiles them");
        let text = |pattern: &str| Text::new(pattern).expect("the patterns are constants, and a test compiles them");
        Self {
            extensions: patterns.extensions,
            collected: Some(patterns.collected).filter(|pattern| !pattern.is_empty()).map(text),
            test: regex(patterns.test),
            name: regex(patterns.name),
            skip: regex(patterns.skip),
            assertion: regex(patterns.assertion),
        }
    }

    /// Whether a line that skips tests has some to skip: one that says of a class or module that it is no test is as often true.
    pub(super) fn has_some_to_skip(&self, line: &Line, text: &[u8]) -> bool {
        !NO_TEST.is_match(&line.text) || block(text, line.number).any(|line| self.test.is_match(line))
    }
}

/// The line by which a class or a module of Python says that it is no test.
static NO_TEST: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^\s*__test__\s*=").expect("the pattern is a constant, and a test compiles it"));

/// Paths that are of tests only.
static TEST_PATH: LazyLock<Text> = LazyLock::new(|| {
    let pattern = r"(?x)(?:^|/)(?:tests?|__tests__|specs?)/
        | (?:^|/)(?:test_[^/]*|[^/]*_test|conftest)\.py$ | _test\.go$ | _(?:spec|test)\.rb$
        | \.(?:test|spec)\.[cm]?[jt]sx?$ | Tests?\.(?:java|kt)$ | (?:^|/)tests\.rs$";
    Text::new(pattern).expect("the pattern is a constant, and a test compiles it")
});

/// The language of a file, by its name: its row in [`LANGUAGES`].
pub(super) fn language_of(path: &str) -> Option<usize> {
    let extension = path.rsplit('/').next().and_then(|name| name.rsplit_once('.')).map_or("", |(_, extension)| extension);
    LANGUAGES.iter().position(|language| language.extensions.contains(&extension))
}

/// Whether a runner finds tests in a file of this path.
pub(super) fn is_collected(path: &str) -> bool {
    match language_of(path).map(|at| &LANGUAGES[at].collected) {
        Some(Some(pattern)) => pattern.is_match(path),
        Some(None) => true,
        None => is_test_path(path),
    }
}

/// Whether a file has nothing but tests and what they need, by its path.
pub(super) fn is_test_path(path: &str) -> bool {
    TEST_PATH.is_match(path)
}

/// The lines about one, of which none is indented less: in Python its class, or the module.
fn block(text: &[u8], number: u32) -> impl Iterator<Item = &[u8]> {
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    let at = usize::try_from(number).unwrap_or(0).saturating_sub(1).min(lines.len());
    let (above, below) = (lines[..at].to_vec(), lines[at..].to_vec());
    let depth = |line: &[u8]| line.len() - line.trim_ascii_start().len();
    let least = below.first().map_or(0, |line| depth(line));
    let within = move |line: &&[u8]| line.trim_ascii().is_empty() || depth(line) >= least;
    below.into_iter().take_while(within).chain(above.into_iter().rev().take_while(within))
}
