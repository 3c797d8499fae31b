//! Puts the git revision into the binary, for `sawmill --version`.

use std::process::Command;

fn main() {
    let revision = git(&["rev-parse", "--short=10", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=SAWMILL_REVISION={revision}");
    // A commit changes one of these; without a repository there is nothing to watch.
    for name in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", name]) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    pack_relocations();
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=migrations");
}

/// Has the loader read a tenth of what it reads otherwise at each start: a worker starts this program once for each of its slots.
/// The C library can do that since 2.36, and a program that is linked so starts with no older one.
fn pack_relocations() {
    let here = |name: &str| std::env::var(name).unwrap_or_default();
    if here("TARGET") != here("HOST") || here("CARGO_CFG_TARGET_ENV") != "gnu" {
        return;
    }
    let Ok(output) = Command::new("getconf").arg("GNU_LIBC_VERSION").output() else { return };
    let version = String::from_utf8_lossy(&output.stdout).trim().rsplit_once('.').and_then(|(_, minor)| minor.parse().ok());
    if version.is_some_and(|minor: u32| minor >= 36) {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
