//! What we build on: licences that ours allows, crates.io alone, and one crate for one job. Works offline.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Licences that may be combined with ours; the same list as in `deny.toml`.
fn allowed() -> Vec<String> {
    let deny: toml::Table = include_str!("../deny.toml").parse().expect("deny.toml is TOML");
    let list = deny["licenses"]["allow"].as_array().expect("a list of licences");
    list.iter().map(|licence| licence.as_str().expect("a name").to_owned()).collect()
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--locked", "--format-version", "1", "--filter-platform"])
        .arg("x86_64-unknown-linux-gnu")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")
}

/// Whether an SPDX expression can be met: one of the alternatives of every part.
fn is_met(expression: &str, allowed: &[String]) -> bool {
    let plain = expression.replace(['(', ')'], " ").replace('/', " OR ");
    plain.split(" AND ").all(|part| part.split(" OR ").any(|licence| allowed.iter().any(|ok| ok == licence.trim())))
}

/// A package's licence: as it names it, or by the file that it names instead, where that is one we know.
fn licence(package: &Value) -> &str {
    if let Some(expression) = package["license"].as_str() {
        return expression;
    }
    let file = package["license_file"].as_str().zip(package["manifest_path"].as_str());
    let text = file.and_then(|(file, manifest)| std::fs::read_to_string(Path::new(manifest).with_file_name(file)).ok());
    match text {
        Some(text) if text.starts_with("MIT License\n") && text.contains("Permission is hereby granted, free of charge,") => {
            "MIT"
        }
        _ => "(none)",
    }
}

#[test]
fn every_dependency_has_a_licence_that_ours_allows_and_comes_from_crates_io() {
    let (metadata, allowed) = (metadata(), allowed());
    let mut faults = Vec::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("a name");
        let licence = licence(package);
        if !is_met(licence, &allowed) {
            faults.push(format!("{name}: licence {licence}"));
        }
        match package["source"].as_str() {
            None if name == "sawmill" => {}
            Some("registry+https://github.com/rust-lang/crates.io-index") => {}
            other => faults.push(format!("{name}: source {other:?}")),
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn no_two_of_our_own_dependencies_do_one_job() {
    let rivals: [&[&str]; 5] = [
        &["chrono", "time", "jiff"],
        &["native-tls", "openssl", "rustls"],
        &["once_cell", "lazy_static"],
        &["nix", "rustix", "libc"],
        &["log", "tracing"],
    ];
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("packages");
    let own = packages.iter().find(|package| package["name"] == "sawmill").expect("ourselves");
    let names: Vec<&str> = own["dependencies"].as_array().expect("a list").iter().filter_map(|d| d["name"].as_str()).collect();
    for group in rivals {
        let found: Vec<_> = group.iter().filter(|name| names.contains(*name)).collect();
        assert!(found.len() <= 1, "two crates for one job: {found:?}");
    }
}
