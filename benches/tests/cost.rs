//! The comparison runs: with the shortest turns, it gives a row for each case.

#[path = "support/built.rs"]
mod built;

use std::process::Command;

use built::built;

#[test]
fn each_case_gives_a_row() {
    built(&["weir-proxy", "weir-control"]);
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
