//! The demo as an end-to-end test: it plays all its scenes with real processes, and leaves nothing behind, however it
//! ends. The product's programs are those of this build: `cargo build --workspace` makes them.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};

use tempfile::TempDir;

/// One demo at a time: each is a mesh of fifteen processes, and its expectations are about time as well.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The demo, with a temporary folder of its own.
fn demo(temporary: &TempDir, args: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_health-code"))
        .arg("--no-build")
        .args(args)
        .env("TMPDIR", temporary.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the demo starts")
}

/// No process that has the folder in its command line, and nothing in the folder.
#[track_caller]
fn check_nothing_is_left(temporary: &TempDir) {
    let folder = temporary.path().to_str().expect("its name is text");
    let processes = std::fs::read_dir("/proc")
        .expect("there is /proc")
        .flatten()
        .filter_map(|entry| {
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            line.contains(folder).then_some(line)
        });
    assert_eq!(processes.collect::<Vec<_>>(), Vec::<String>::new());
    let files = std::fs::read_dir(temporary.path())
        .expect("the folder is there")
        .flatten();
    assert_eq!(
        files.map(|entry| entry.path()).collect::<Vec<_>>(),
        Vec::<std::path::PathBuf>::new()
    );
}

#[test]
fn all_that_is_asked_for_is_seen() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let temporary = TempDir::new().expect("a temporary folder");
    let demo = demo(&temporary, &["--seconds-per-scene", "3", "--rate", "40", "-o", "json"]);
    let Output { status, stdout, stderr } = demo.wait_with_output().expect("the demo ends");
    let stderr = String::from_utf8_lossy(&stderr);
    let said = String::from_utf8_lossy(&stdout);
    assert!(status.success(), "{status}\n{said}\n{stderr}");
    let report: serde_json::Value = serde_json::from_slice(&stdout).expect("the report is JSON");
    let checks = report["checks"].as_array().expect("it has checks");
    assert!(
        checks.len() > 20 && checks.iter().all(|check| check["ok"] == true),
        "{said}"
    );
    check_nothing_is_left(&temporary);
}

/// Plays until a line has this in it, then ends the demo with a signal; gives how it ended, once all is quiet.
fn end_with(temporary: &TempDir, args: &[&str], line_has: &str, signal: rustix::process::Signal) -> Output {
    let mut demo = demo(temporary, args);
    let mut lines = BufReader::new(demo.stdout.take().expect("it is piped")).lines();
    let mut said = String::new();
    for line in lines.by_ref().map_while(Result::ok) {
        said.push_str(&line);
        said.push('\n');
        if line.contains(line_has) {
            break;
        }
    }
    assert!(said.contains(line_has), "{said}");
    let pid = i32::try_from(demo.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .expect("it has a number");
    rustix::process::kill_process(pid, signal).expect("it runs");
    said.extend(lines.map_while(Result::ok));
    // The warden has the same standard error, so this ends when both have.
    let mut stderr = Vec::new();
    demo.stderr
        .take()
        .expect("it is piped")
        .read_to_end(&mut stderr)
        .expect("it is read");
    let status = demo.wait().expect("it ends");
    Output {
        status,
        stdout: said.into_bytes(),
        stderr,
    }
}

const LONG: [&str; 5] = ["--seconds-per-scene", "60", "--rate", "20", "--plain"];

#[test]
fn kept_it_says_what_to_try_until_it_is_ended() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let temporary = TempDir::new().expect("a temporary folder");
    let args = ["--seconds-per-scene", "2", "--rate", "20", "--keep"];
    let output = end_with(
        &temporary,
        &args,
        "Ctrl-C ends everything",
        rustix::process::Signal::INT,
    );
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for expect in [
        "curl -i 'http://127.0.0.1:",
        " apply --wait -f ",
        " status\n",
        "every process ends when asked to",
    ] {
        assert!(said.contains(expect), "{expect}: {said}");
    }
    check_nothing_is_left(&temporary);
}

#[test]
fn interrupted_it_leaves_nothing_behind() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let temporary = TempDir::new().expect("a temporary folder");
    let output = end_with(&temporary, &LONG, "1 steady", rustix::process::Signal::TERM);
    assert_eq!(
        output.status.code(),
        Some(130),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    check_nothing_is_left(&temporary);
}

#[test]
fn killed_it_leaves_nothing_behind() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let temporary = TempDir::new().expect("a temporary folder");
    let output = end_with(&temporary, &LONG, "1 steady", rustix::process::Signal::KILL);
    assert_eq!(output.status.code(), None);
    check_nothing_is_left(&temporary);
}

#[test]
fn a_missing_program_is_named() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let temporary = TempDir::new().expect("a temporary folder");
    let alone = temporary.path().join("health-code");
    std::fs::copy(Path::new(env!("CARGO_BIN_EXE_health-code")), &alone).expect("it is copied");
    let output = Command::new(&alone).arg("--no-build").output().expect("it starts");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("weir-proxy is not there: build it with cargo build"),
        "{said}"
    );
}
