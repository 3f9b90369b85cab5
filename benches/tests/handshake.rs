//! The measurement of handshakes runs: with few of them, it gives a row for each way to begin a connection.

#[path = "support/built.rs"]
mod built;

use std::process::Command;

use built::built;

#[test]
fn each_beginning_gives_a_row() {
    built(&["weir-proxy", "weir-control"]);
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
