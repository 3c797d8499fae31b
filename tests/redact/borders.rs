//! Wherever a text is cut, the same bytes come out, and no secret does.

use base64::Engine as _;
use proptest::prelude::*;
use sawmill::redact::{RedactStream, Redactor};

/// What a text may be made of: ordinary words, the beginnings of shapes, whole tokens, and the secrets in their forms.
const PIECES: &[&str] = &[
    "hello ",
    "\n",
    "sk-",
    "task-",
    "ghp_",
    "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8",
    "://",
    "https",
    "user:",
    "pw0rd@",
    "host/",
    "eyJhbGciOiJIUzI1NiJ9",
    ".",
    "Authorization",
    ": ",
    "Bearer ",
    "-----BEGIN ",
    "RSA PRIVATE KEY",
    "-----",
    "-----END ",
    "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSj",
    "\\n",
    "AKIAIOSFODNN7EXAMPLE",
    "xoxb-1234567890-",
    "%3D",
    "\u{0}\u{1}",
    "\"",
    "é",
];

fn text_with(secrets: Vec<String>) -> impl Strategy<Value = (Vec<String>, Vec<u8>)> {
    let forms: Vec<Vec<u8>> = secrets.iter().flat_map(|secret| forms(secret)).collect();
    let piece = prop_oneof![
        4 => prop::sample::select(PIECES).prop_map(|piece| piece.as_bytes().to_vec()),
        3 => prop::sample::select(forms.clone()),
        // The beginning of a form, and its end, which a whole one may follow or precede.
        2 => (prop::sample::select(forms.clone()), any::<prop::sample::Index>()).prop_map(|(f, at)| f[..at.index(f.len())].to_vec()),
        1 => (prop::sample::select(forms), any::<prop::sample::Index>()).prop_map(|(f, at)| f[at.index(f.len())..].to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..8),
    ];
    (Just(secrets), prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat()))
}

fn forms(secret: &str) -> Vec<Vec<u8>> {
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    let base64 = base64::engine::general_purpose::STANDARD.encode(secret);
    [secret.to_owned(), secret.to_owned(), hex, base64].map(String::into_bytes).to_vec()
}

fn secrets() -> impl Strategy<Value = Vec<String>> {
    // Small alphabets make secrets that overlap with themselves and with each other.
    prop::collection::vec(prop_oneof!["[ab]{6,9}", "[a-z0-9/+]{6,40}", "(ab){3,5}c"], 1..4)
}

fn contains(text: &[u8], what: &[u8]) -> bool {
    text.windows(what.len()).any(|window| window == what)
}

/// Pushes a text in pieces that end at the given places.
fn push_in_pieces(
    stream: &mut RedactStream,
    text: &[u8],
    cuts: &[prop::sample::Index],
    mut then: impl FnMut(&mut RedactStream, &mut Vec<u8>),
) -> Vec<u8> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).chain([0, text.len()]).collect();
    cuts.sort_unstable();
    let mut out = Vec::new();
    for pair in cuts.windows(2) {
        stream.push(&text[pair[0]..pair[1]], &mut out);
        then(stream, &mut out);
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn a_text_cut_anywhere_gives_what_the_whole_text_gives(
        (secrets, text) in secrets().prop_flat_map(text_with),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let redactor = Redactor::new(&secrets);
        let whole = redactor.redact(&text);
        let mut stream = RedactStream::new(&redactor);
        let mut pieces = push_in_pieces(&mut stream, &text, &cuts, |_, _| ());
        stream.finish(&mut pieces);
        prop_assert_eq!(stream.settled(), text.len() as u64);
        prop_assert_eq!(pieces, whole.clone());
        for form in secrets.iter().flat_map(|secret| forms(secret)) {
            prop_assert!(!contains(&whole, &form), "{:?} in {:?}", String::from_utf8_lossy(&form), String::from_utf8_lossy(&whole));
        }
    }

    #[test]
    fn a_new_stream_goes_on_where_another_stopped(
        (secrets, text) in secrets().prop_flat_map(text_with),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        stop in any::<prop::sample::Index>(),
    ) {
        let redactor = Redactor::new(&secrets);
        let stop = stop.index(text.len() + 1);
        let mut first = RedactStream::new(&redactor);
        let mut out = push_in_pieces(&mut first, &text[..stop], &cuts, |_, _| ());
        let settled = usize::try_from(first.settled()).unwrap();
        let mut second = RedactStream::after(&redactor, &text[..settled]);
        second.push(&text[settled..], &mut out);
        second.finish(&mut out);
        prop_assert_eq!(out, redactor.redact(&text));
    }

    #[test]
    fn what_is_let_go_early_never_shows_six_bytes_of_a_secret(
        secret in "[a-z0-9]{12,40}",
        before in "[ a-c]{0,12}",
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let redactor = Redactor::new([&secret]);
        let text = format!("{before}{secret} and more");
        let mut stream = RedactStream::new(&redactor);
        let mut out = push_in_pieces(&mut stream, text.as_bytes(), &cuts, RedactStream::release);
        stream.finish(&mut out);
        prop_assert!(!contains(&out, &secret.as_bytes()[secret.len() - 6..]), "{}", String::from_utf8_lossy(&out));
        prop_assert!(!contains(&out, &secret.as_bytes()[..6]), "{}", String::from_utf8_lossy(&out));
        prop_assert!(out.ends_with(b" and more"));
    }
}

#[test]
fn ordinary_text_is_not_held_back() {
    let redactor = Redactor::new(["correct horse battery staple"]);
    let mut stream = RedactStream::new(&redactor);
    let mut out = Vec::new();
    for line in ["Compiling sawmill\n", "see https://example.com/a\n", "warning: unused\n"] {
        stream.push(line.as_bytes(), &mut out);
        assert_eq!(stream.held(), 0, "after {line:?}");
    }
    stream.push(b"Continue? c", &mut out);
    assert_eq!(stream.held(), 1);
    stream.release(&mut out);
    assert_eq!((stream.held(), out.ends_with(b"Continue? c")), (0, true));
}

#[test]
fn a_row_of_overlapping_secrets_does_not_pile_up() {
    let redactor = Redactor::new(["aaaaaa"]);
    let text = vec![b'a'; 1 << 20];
    let mut stream = RedactStream::new(&redactor);
    let mut out = Vec::new();
    for piece in text.chunks(1 << 16) {
        stream.push(piece, &mut out);
        assert!(stream.held() < 1 << 14, "{} bytes are held back", stream.held());
    }
    stream.finish(&mut out);
    assert_eq!(out, redactor.redact(&text));
    assert!(!out.windows(6).any(|window| window == b"aaaaaa"));
}
