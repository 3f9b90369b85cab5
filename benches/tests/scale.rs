//! The measurement of many proxies runs: with few of them, it says what each costs.

use std::process::{Command, Stdio};

#[test]
fn each_measurement_is_said() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let mut build = Command::new(cargo);
    build.args(["build", "--manifest-path", manifest, "-p", "weir-control"]);
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    assert!(build.stdin(Stdio::null()).status().expect("cargo starts").success());
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
