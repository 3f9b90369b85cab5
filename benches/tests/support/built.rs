//! Weir's own programs, built as the test is.

use std::process::{Command, Stdio};

/// Builds the programs of these packages.
pub(crate) fn built(packages: &[&str]) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let mut build = Command::new(cargo);
    build.args(["build", "--manifest-path", manifest]);
    build.args(packages.iter().flat_map(|package| ["-p", package]));
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    assert!(build.stdin(Stdio::null()).status().expect("cargo starts").success());
}
