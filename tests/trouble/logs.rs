//! What a job writes: bytes come back as they are, secrets never do.

use std::fs;

use super::site::Site;

#[test]
fn output_that_is_binary_comes_back_byte_for_byte() {
    let site = Site::new();
    let mut state = 7_u32;
    let mut bytes: Vec<u8> = (0..=255).collect();
    bytes.extend((0..300_000).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    }));
    site.remote("binary.git", |seed| fs::write(seed.join("blob.bin"), &bytes).expect("a file"));
    let _worker = site.worker();
    let id = site.enqueue(&["--repo", "binary.git", "--changes", "none", "--", "cat blob.bin"]);
    insta::assert_snapshot!(site.fate_of(&id), @r#"
    exit 0
    [job] succeeded: done without a change
    "#);
    assert!(site.log(&[&id, "--stream", "stdout"]) == bytes, "the log is what the job wrote");
    assert!(site.log(&[&id, "--stream", "stdout", "-f"]) == bytes, "the log that is followed is too");
}

#[test]
fn secrets_never_reach_the_log() {
    let site = Site::new();
    let _worker = site.worker();
    let secret = "s3cr3t/pass+word?for=app&more";
    let script = r#"
        echo "raw: $API_TOKEN."
        printf '%s' "$API_TOKEN" | base64
        printf 'url: '; printf '%s' "$API_TOKEN" | sed 's|/|%2F|g; s|+|%2B|g; s|?|%3F|g; s|=|%3D|g; s|&|%26|g'; echo .
        printf 'split: %s' "${API_TOKEN%??????????}"; sleep 0.3; printf '%s.\n' "${API_TOKEN#???????????????????}"
        printf 'shape: ghp_'; sleep 0.3; printf 'abcdefghij%s.\n' "ABCDEFGHIJ0123456789abcdef"
        echo "to stderr: $API_TOKEN." >&2
        echo 'and this is no secret.'
    "#;
    let id = site.enqueue(&["--project", "app", "--changes", "none", "--env", &format!("API_TOKEN={secret}"), "--", script]);
    insta::assert_snapshot!(site.fate_of(&id), @r#"
    exit 0
    [job] succeeded: done without a change
    "#);
    let written = String::from_utf8(site.log(&[&id])).expect("text");
    for part in ["s3cr3t", "pass+word", "pass%2Bword", "czNjcjN0", "ghp_", "ABCDEFGHIJ"] {
        assert!(!written.contains(part), "{part} reached the log:\n{written}");
    }
    let out = String::from_utf8(site.log(&[&id, "--stream", "stdout"])).expect("text");
    insta::assert_snapshot!(out, @r#"
    raw: [redacted].
    [redacted]U=
    url: [redacted].
    split: [redacted].
    shape: [redacted].
    and this is no secret.
    "#);
    insta::assert_snapshot!(String::from_utf8(site.log(&[&id, "--stream", "stderr"])).expect("text"), @"to stderr: [redacted].");
}
