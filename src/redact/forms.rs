//! The forms in which a known secret shows up in output.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use super::SHORTEST_SECRET;

/// Pieces of wrapped base64 shorter than this say too little to be looked for.
const SHORTEST_PIECE: usize = 12;

/// Characters per line of wrapped base64: coreutils and MIME use 76, PEM uses 64.
const WRAPS: [usize; 2] = [76, 64];

/// What RFC 3986 calls unreserved stays as it is.
const STRICT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// What `encodeURIComponent` leaves as it is.
const COMPONENT: &AsciiSet = &STRICT.remove(b'!').remove(b'\'').remove(b'(').remove(b')').remove(b'*');

/// Adds every form of `secret` that is long enough to be looked for.
pub(super) fn of_secret(secret: &[u8], into: &mut Vec<Vec<u8>>) {
    let secret = secret.trim_ascii();
    if secret.len() < SHORTEST_SECRET {
        return;
    }
    let from = into.len();
    into.push(secret.to_vec());
    lines(secret, into);
    base64(secret, into);
    url_encoded(secret, into);
    json_escaped(secret, into);
    hexadecimal(secret, into);
    into[from..].sort();
    let mut kept = into.split_off(from);
    kept.dedup();
    kept.retain(|form| form.len() >= SHORTEST_SECRET);
    into.append(&mut kept);
}

/// Each line by itself, for tools that print a key with a prefix on every line. The armour of a PEM block says nothing.
fn lines(secret: &[u8], into: &mut Vec<Vec<u8>>) {
    if secret.contains(&b'\n') {
        let lines = secret.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        into.extend(lines.filter(|line| line.len() >= SHORTEST_SECRET && !line.starts_with(b"-----")).map(<[u8]>::to_vec));
    }
}

/// The characters that depend on the secret alone, for each of the three alignments that it can have within what was
/// encoded. The character at either end that it shares with a neighbour (at most four of its bits) is not covered.
fn base64(secret: &[u8], into: &mut Vec<Vec<u8>>) {
    for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
        for before in 0..3usize {
            let mut padded = vec![0; before];
            padded.extend_from_slice(secret);
            let encoded = engine.encode(&padded).into_bytes();
            let whole = &encoded[(before * 8).div_ceil(6)..padded.len() * 8 / 6];
            if before == 0 {
                for wrap in WRAPS.into_iter().filter(|wrap| whole.len() > *wrap) {
                    into.extend(whole.chunks(wrap).filter(|piece| piece.len() >= SHORTEST_PIECE).map(<[u8]>::to_vec));
                }
            }
            into.push(whole.to_vec());
        }
    }
}

fn url_encoded(secret: &[u8], into: &mut Vec<Vec<u8>>) {
    for set in [STRICT, COMPONENT] {
        let upper: Vec<u8> = percent_encode(secret, set).flat_map(str::bytes).collect();
        into.push(with_lower_escapes(&upper));
        if secret.contains(&b' ') {
            into.push(upper.split(|byte| *byte == b'%').enumerate().fold(Vec::new(), form_encoded));
        }
        into.push(upper);
    }
}

/// Joins the pieces between `%` signs again, with `+` for a space as HTML forms have it.
fn form_encoded(mut text: Vec<u8>, (index, piece): (usize, &[u8])) -> Vec<u8> {
    match piece.strip_prefix(b"20") {
        Some(rest) if index > 0 => {
            text.push(b'+');
            text.extend_from_slice(rest);
        }
        _ => {
            if index > 0 {
                text.push(b'%');
            }
            text.extend_from_slice(piece);
        }
    }
    text
}

/// The same with the digits of each `%XX` in lower case.
fn with_lower_escapes(upper: &[u8]) -> Vec<u8> {
    let mut digits = 0;
    upper
        .iter()
        .map(|byte| {
            if *byte == b'%' {
                digits = 2;
                *byte
            } else if digits > 0 {
                digits -= 1;
                byte.to_ascii_lowercase()
            } else {
                *byte
            }
        })
        .collect()
}

/// As serde writes it, as writers write it that escape the slash, or `<`, `>` and `&`, or all but ASCII; and once more
/// escaped, for JSON in JSON.
fn json_escaped(secret: &[u8], into: &mut Vec<Vec<u8>>) {
    let Ok(text) = std::str::from_utf8(secret) else { return };
    let plain = escape(text);
    let html = plain.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
    let mut ascii = String::new();
    for character in plain.chars() {
        if character.is_ascii() {
            ascii.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                ascii.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    into.push(escape(&plain).into_bytes());
    into.push(plain.replace('/', "\\/").into_bytes());
    into.extend([plain, html, ascii].map(String::into_bytes));
}

/// The text as it stands between the quotes of a JSON string.
fn escape(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

fn hexadecimal(secret: &[u8], into: &mut Vec<Vec<u8>>) {
    into.push(secret.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect());
    into.push(secret.iter().flat_map(|byte| format!("{byte:02X}").into_bytes()).collect());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forms(secret: &str) -> Vec<String> {
        let mut forms = Vec::new();
        of_secret(secret.as_bytes(), &mut forms);
        forms.into_iter().map(|form| String::from_utf8(form).expect("the forms of text are text")).collect()
    }

    #[test]
    fn a_secret_is_known_in_every_common_form() {
        let forms = forms("p@ss/w <1>\"x");
        let expect = [
            "p@ss/w <1>\"x",
            "p%40ss%2Fw%20%3C1%3E%22x",
            "p%40ss%2fw%20%3c1%3e%22x",
            "p%40ss%2Fw+%3C1%3E%22x",
            "p@ss/w <1>\\\"x",
            "p@ss\\/w <1>\\\"x",
            "p@ss/w \\u003c1\\u003e\\\"x",
            "p@ss/w <1>\\\\\\\"x",
            "704073732f77203c313e2278",
            "704073732F77203C313E2278",
            "cEBzcy93IDwxPiJ4",
        ];
        for form in expect {
            assert!(forms.iter().any(|known| known == form), "{form} is missing in {forms:#?}");
        }
    }

    #[test]
    fn base64_is_found_at_every_alignment_and_in_both_alphabets() {
        let secret = "s3cr?t>value~~";
        let forms = forms(secret);
        for before in 0..7 {
            for after in 0..7 {
                let text = format!("{}{secret}{}", "x".repeat(before), "y".repeat(after));
                for encoded in [STANDARD_NO_PAD.encode(&text), URL_SAFE_NO_PAD.encode(&text)] {
                    assert!(forms.iter().any(|form| encoded.contains(form.as_str())), "{encoded}");
                }
            }
        }
    }

    #[test]
    fn what_is_too_short_is_not_looked_for() {
        assert!(forms(" 12345\n").is_empty());
        assert!(!forms("123456").is_empty());
    }
}
