//! The comparison runs: with the shortest turns, it gives a row for each case.

#[path = "support/built.rs"]
mod built;

use std::process::Command;

use built::built;

/// Its rows, each with its cells, and all that it said.
fn cost(args: &[&str]) -> (Vec<Vec<String>>, String) {
    built(&["weir-proxy", "weir-control"]);
    let output = Command::new(env!("CARGO_BIN_EXE_cost"))
        .args(["--rounds", "1", "--seconds", "0.1", "--markdown"])
        .args(args)
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
        .filter(|line| line.starts_with("| ") && (line.contains(" µs | ") || line.contains(" /s | ")));
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect();
    (rows.map(cells).collect(), said.into_owned())
}

/// Six of processor time, two of each of two paces, two of workers.
#[test]
fn each_case_gives_a_row() {
    let (rows, said) = cost(&[]);
    assert_eq!(rows.len(), 12, "{said}");
    assert!(rows.iter().all(|cells| cells.len() == 7), "{said}");
    assert!(said.contains("Resident memory at start"), "{said}");
}

#[test]
fn programs_of_others_take_their_turns() {
    let (rows, said) = cost(&["--beside", "nginx,haproxy,envoy,envoy-mesh"]);
    assert_eq!(rows.len(), 12, "{said}");
    for (place, cells) in rows[..10].iter().enumerate() {
        let others: Vec<bool> = cells[6..10].iter().map(|cell| cell != "-").collect();
        let expect = match place {
            // nginx speaks no HTTP/2 with an upstream, but for gRPC.
            2 => [false, true, true, true],
            _ => [true; 4],
        };
        assert_eq!(others, expect, "{cells:?}");
    }
    for name in [
        "nginx / relay",
        "haproxy / relay",
        "Envoy / relay",
        "Envoy as in a mesh / relay",
    ] {
        assert!(said.contains(name), "{name}: {said}");
    }
}

#[test]
fn a_program_that_is_missing_says_how_to_install_it() {
    let output = Command::new(env!("CARGO_BIN_EXE_cost"))
        .args(["--beside", "envoy", "--peers", "nowhere"])
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        said.contains("nowhere/bin/envoy is not there: `./dev setup` installs it"),
        "{said}"
    );
}
