//! Tokens are masked by their shape, and ordinary output is left alone.

use super::redacted;

fn masks(text: &str, expected: &str) {
    assert_eq!(redacted(&[], text), expected, "for {text:?}");
}

fn leaves_alone(text: &str) {
    assert_eq!(redacted(&[], text), text);
}

const A36: &str = "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8";
const JWT: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U";

#[test]
fn tokens_are_masked_by_their_prefix() {
    for prefix in ["ghp_", "gho_", "ghs_", "ghu_", "ghr_", "npm_", "glpat-", "sk-", "sk-ant-api03-", "sk-proj-", "sk_live_"] {
        masks(&format!("token={prefix}{A36} done"), "token=[redacted] done");
        masks(&format!("{prefix}{A36}"), "[redacted]");
        masks(&format!("{{\"t\":\"a\\n{prefix}{A36}\\n\"}}"), "{\"t\":\"a\\n[redacted]\\n\"}");
    }
    masks(&format!("github_pat_11ABCDEFG0_{A36}{A36}!"), "[redacted]!");
    masks("id AKIAIOSFODNN7EXAMPLE, ok", "id [redacted], ok");
    masks("ASIAIOSFODNN7EXAMPLE", "[redacted]");
    masks("xoxb-123456789012-abcdefABCDEF", "[redacted]");
    masks("?key%3Dsk-a1B2c3D4e5F6g7H8i9J0k1", "?key%3D[redacted]");
}

#[test]
fn a_json_web_token_is_masked_as_a_whole() {
    masks(&format!("jwt {JWT}\n"), "jwt [redacted]\n");
    masks(&format!("{JWT}. Next"), "[redacted]. Next");
}

#[test]
fn the_value_of_an_authorization_header_is_masked() {
    masks("Authorization: Bearer abc123def456", "Authorization: Bearer [redacted]");
    masks("> authorization: basic dXNlcjpwYXNzd29yZDE=\r\n", "> authorization: basic [redacted]\r\n");
    masks(r#"{"Authorization": "Bearer abc123def456"}"#, r#"{"Authorization": "Bearer [redacted]"}"#);
    masks(r#"{\"Authorization\":\"token abc123def456\"}"#, r#"{\"Authorization\":\"token [redacted]\"}"#);
    masks(&format!("AUTHORIZATION: Bearer {JWT}"), "AUTHORIZATION: Bearer [redacted]");
}

#[test]
fn the_password_in_a_url_is_masked() {
    masks("postgres://app:hunter2@db:5432/x", "postgres://app:[redacted]@db:5432/x");
    masks("redis://:hunter2@cache", "redis://:[redacted]@cache");
    masks("https://x-access-token:abc@github.com/a/b", "https://x-access-token:[redacted]@github.com/a/b");
    masks("https://a1B2c3D4e5F6g7H8i9J0@host/", "https://[redacted]@host/");
    masks("https://u:p@w:d@host/", "https://u:[redacted]@host/");
}

#[test]
fn a_private_key_is_masked_however_its_lines_are_joined() {
    let line = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj";
    for kind in ["", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED "] {
        for join in ["\n", "\r\n", "\\n", " ", "\\\\n"] {
            let key = format!(
                "-----BEGIN {kind}PRIVATE KEY-----{join}{line}{join}{line}{join}QUJD{join}-----END {kind}PRIVATE KEY-----"
            );
            masks(&format!("key: {key}\nnext"), "key: [redacted]\nnext");
        }
    }
    let headed = format!(
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,AB01\n\n{line}\n-----END RSA PRIVATE KEY-----\n"
    );
    masks(&headed, "[redacted]\n");
    masks(&format!("-----BEGIN PRIVATE KEY-----\n{line}\n{line}\nthe end, it was cut"), "[redacted] end, it was cut");
    masks(&format!("-----BEGIN PRIVATE KEY-----\n{line}\n{line}"), "[redacted]");
}

#[test]
fn ordinary_output_is_left_alone() {
    for text in [
        "commit 3f786850e387550fdab836ed7e6dc881de23001b",
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "job 0190a6e2-7c6b-7f3e-8b1a-3c2d1e0f9a8b started",
        "/home/user/.cargo/registry/src/index.crates.io-6f17d22bba15001f/tokio-1.54.1/src/lib.rs:12:34",
        "task-a1b2c3d4e5f6a7b8c9d0e1f2 disk-0123456789abcdef0123456789 risk-averse",
        "sk-learn sk-something-very-long-and-kebab-cased-1 ask-me",
        "npm_config_registry=x ghp_short glpat-short AKIA AKIAshort ASIAPACIFIC XAKIAIOSFODNN7EXAMPLE",
        "Authorization failed for Bearer of bad news",
        "Authorization: Bearer $TOKEN",
        "Authorization: Bearer <token>",
        "https://example.com:8443/a@b?c=d@e http://localhost:3000 ssh://git@github.com/a/b",
        "docker://alpine:3.19@sha256:e3b0c44298fc1c149afbf4c8996fb924",
        "mail://someone user@example.com a::b://c",
        "eyJ is how a token begins; eyJhbGciOiJIUzI1NiJ9 alone is none; eyJmb28.bar",
        "-----BEGIN CERTIFICATE-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\n-----END CERTIFICATE-----",
        "looks for \"-----BEGIN PRIVATE KEY-----\" and \"-----END PRIVATE KEY-----\" in text",
        "-----BEGIN PRIVATE KEY-----\nthis is prose about keys",
        "test result: ok. 123 passed; 0 failed; finished in 1.23s",
    ] {
        leaves_alone(text);
    }
}

#[test]
fn a_known_secret_is_masked_in_its_forms_and_nothing_beside_it() {
    let secret = "tr0ub4dor&3";
    for form in ["tr0ub4dor&3", "tr0ub4dor%263", "tr0ub4dor\\u00263", "74723075623464 6f722633".replace(' ', "").as_str()] {
        assert_eq!(redacted(&[secret], &format!("<{form}>")), "<[redacted]>");
    }
    assert_eq!(redacted(&[secret], "tr0ub4dor&4 tr0ub4dor"), "tr0ub4dor&4 tr0ub4dor");
    assert_eq!(redacted(&["one-two-three", "three-four"], "one-two-three-four."), "[redacted].");
    assert_eq!(redacted(&["abcabc"], "abcabcabcabc-abcab"), "[redacted]-abcab");
}

#[test]
fn each_line_of_a_secret_of_several_lines_is_masked() {
    let secret = "-----BEGIN X-----\nfirstline0\nsecondline1\n-----END X-----\n";
    let text = "a | -----BEGIN X-----\na | firstline0\na | secondline1\n";
    assert_eq!(redacted(&[secret], text), "a | -----BEGIN X-----\na | [redacted]\na | [redacted]\n");
}
