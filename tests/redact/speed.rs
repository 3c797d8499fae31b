//! The redactor keeps up with a flood. Run by hand in release: `cargo test --release redactor_throughput -- --ignored --nocapture`.

use std::time::Instant;

use sawmill::redact::{RedactStream, Redactor};

/// Lines as a build writes them: paths, hashes, times, words that begin like tokens.
fn build_log(bytes: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(bytes + 200);
    let mut n = 0u64;
    while text.len() < bytes {
        n += 1;
        let hash = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        text.extend_from_slice(
            format!("   Compiling task-{n} v0.{}.1 (/home/ci/.cargo/registry/src/index-{hash:016x}/lib.rs)\n", n % 97).as_bytes(),
        );
        text.extend_from_slice(
            format!(
                "2026-01-02T03:04:05.{:03}Z INFO request done status=200 took={}us path=/api/v1/items/{n}\n",
                n % 1000,
                n % 7919
            )
            .as_bytes(),
        );
    }
    text
}

#[test]
#[ignore = "a measurement, to be run in release"]
fn redactor_throughput() {
    let secrets: Vec<String> = (0..20).map(|n: u64| format!("s3cret-{:x}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15))).collect();
    let redactor = Redactor::new(&secrets);
    let text = build_log(64 << 20);
    for (name, repeat) in [("warm-up", 1), ("ordinary text", 4)] {
        let begun = Instant::now();
        let mut total = 0;
        for _ in 0..repeat {
            let mut stream = RedactStream::new(&redactor);
            let mut out = Vec::with_capacity(1 << 17);
            for piece in text.chunks(1 << 16) {
                out.clear();
                stream.push(piece, &mut out);
                total += out.len();
            }
        }
        let rate = total as f64 / 1e6 / begun.elapsed().as_secs_f64();
        println!("{name}: {rate:.0} MB/s ({redactor:?})");
    }
}
