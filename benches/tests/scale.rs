//! The measurement of many proxies runs: with few of them, it says what each costs.

#[path = "support/built.rs"]
mod built;

use std::process::Command;

use built::built;

#[test]
fn each_measurement_is_said() {
    built(&["weir-control"]);
    let output = Command::new(env!("CARGO_BIN_EXE_scale"))
        .args(["--proxies", "100", "--services", "50", "--uses", "5", "--changes", "5"])
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    for expect in [
        "100 proxies, 50 services, 5 used by each",
        "connected, 2000 resources in force",
        // 4 of the 49 others for each of 100 proxies.
        "a change of one that few use (9 proxies)",
        "a change of one that all use (100 proxies)",
    ] {
        assert!(said.contains(expect), "no {expect:?} in {said}");
    }
}
