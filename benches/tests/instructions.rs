//! Instructions are counted, and a request takes no more of them than it did: unlike timings they are nearly the same
//! each time, so that what makes each request dearer fails here.

#[path = "support/built.rs"]
mod built;

use std::process::Command;

use built::built;

/// The most instructions that a request may take in weir-proxy over those in the relay, row by row, built as tests are:
/// some 5 % above what was counted when this was written.
const RATIOS_MAX: [f64; 3] = [2.65, 1.67, 1.43];

#[test]
fn a_request_takes_no_more_instructions_than_it_did() {
    built(&["weir-proxy", "weir-control"]);
    let output = Command::new(env!("CARGO_BIN_EXE_instructions"))
        .args(["--requests", "96", "--markdown"])
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let ratios: Vec<f64> = said
        .lines()
        .filter_map(|line| line.strip_suffix(" |")?.rsplit_once(' ')?.1.parse().ok())
        .collect();
    assert_eq!(ratios.len(), RATIOS_MAX.len(), "{said}");
    for (ratio, max) in ratios.into_iter().zip(RATIOS_MAX) {
        assert!(ratio > 1.0 && ratio <= max, "{ratio} where {max} is the most:\n{said}");
    }
}
