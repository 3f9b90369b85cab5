//! The measurement of handshakes runs: with few of them, it gives a row for each way to begin a connection.

use std::process::{Command, Stdio};

#[test]
fn each_beginning_gives_a_row() {
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
    let output = Command::new(env!("CARGO_BIN_EXE_handshake"))
        .args(["--rounds", "1", "--connections", "16", "--idle", "10", "--markdown"])
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    let rows = said
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains(" µs | "));
    assert_eq!(rows.count(), 3, "{said}");
    assert!(
        said.contains("Envoy") && said.contains("Resident memory for each of 10"),
        "{said}"
    );
}
