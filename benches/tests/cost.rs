//! The comparison runs: with the shortest turns, it gives a row for each case.

use std::process::{Command, Stdio};

#[test]
fn each_case_gives_a_row() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let mut build = Command::new(cargo);
    build.args([
        "build",
        "--manifest-path",
        manifest,
        "-p",
        "weir-proxy",
        "-p",
        "weir-control",
    ]);
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    assert!(build.stdin(Stdio::null()).status().expect("cargo starts").success());
    let output = Command::new(env!("CARGO_BIN_EXE_cost"))
        .args(["--rounds", "1", "--seconds", "0.1", "--markdown"])
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let rows = said
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains(" µs | "));
    assert_eq!(rows.count(), 6, "{said}");
    assert!(said.contains("Resident memory at start"), "{said}");
}
