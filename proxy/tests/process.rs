//! The program as it is run: what it says about a wrong command line or a busy port, and how it ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

fn program(flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir-proxy"));
    // Nothing of the environment of whoever runs the tests.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WEIR_")) {
        command.env_remove(name);
    }
    command.args(flags).stdin(Stdio::null());
    command
}

const ANY_PORTS: [&str; 14] = [
    "--workload",
    "portal-1",
    "--namespace",
    "citizen",
    "--outbound",
    "127.0.0.1:0",
    "--metrics",
    "127.0.0.1:0",
    "--health",
    "127.0.0.1:0",
    "--access-log",
    "off",
    "--log-format",
    "json",
];

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A program that runs; killed if a test ends early.
struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStderr>>,
}

impl Running {
    fn start(flags: &[&str]) -> Running {
        let mut child = program(flags).stderr(Stdio::piped()).spawn().expect("it is built");
        let stderr = child.stderr.take().expect("it is piped");
        Running {
            child,
            lines: BufReader::new(stderr).lines(),
        }
    }

    /// The first event with this message.
    fn event(&mut self, message: &str) -> Value {
        let mut seen = Vec::new();
        for line in self.lines.by_ref() {
            let line = line.expect("text");
            let event: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
            if event["message"] == message {
                return event;
            }
            seen.push(line);
        }
        panic!("it ended without {message:?}: {seen:#?}");
    }

    fn tell(&self, signal: &str) {
        let told = Command::new("kill")
            .args([signal, &self.child.id().to_string()])
            .status();
        assert!(told.expect("kill is there").success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already, unless a test failed.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn address(event: &Value, port: &str) -> SocketAddr {
    event[port].as_str().expect(port).parse().expect(port)
}

fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    write!(
        stream,
        "{request} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"
    )
    .expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn a_wrong_command_line_is_refused_with_all_that_is_wrong() {
    let output = program(&["--workload", "A", "--mode", "transparent"])
        .output()
        .expect("it is built");
    assert_eq!(output.status.code(), Some(2));
    let said = said(&output);
    for problem in [
        "weir-proxy: --mode \"transparent\": is not there yet",
        "weir-proxy: --control-plane: must be given",
        "weir-proxy: --workload \"A\": may hold only",
        "weir-proxy: --namespace: must be given\n",
    ] {
        assert!(said.contains(problem), "{problem}\n{said}");
    }
    let output = program(&["--log-level", "loud"]).output().expect("it is built");
    assert!(said_of(&output, "--log-level: level \"loud\" is not off"), "{output:?}");
}

fn said_of(output: &Output, text: &str) -> bool {
    output.status.code() == Some(2) && said(output).contains(text)
}

#[test]
fn variables_stand_for_flags() {
    let mut program = program(&["--namespace", "citizen"]);
    let output = program.env("WEIR_WORKLOAD", "B").output().expect("it is built");
    assert!(said_of(&output, "--workload \"B\": may hold only"), "{output:?}");
}

#[test]
fn a_busy_port_is_said_with_its_flag() {
    let busy = TcpListener::bind("127.0.0.1:0").expect("a port");
    let busy = busy
        .local_addr()
        .map(|address| (busy, address.to_string()))
        .expect("an address");
    let state = tempfile::tempdir().expect("a directory");
    let state = state.path().display().to_string();
    let flags = [&ANY_PORTS[..], &["--state-dir", &state, "--admin", &busy.1]].concat();
    let output = program(&flags).output().expect("it is built");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        said(&output).contains(&format!("weir-proxy: --admin {}: ", busy.1)),
        "{}",
        said(&output)
    );
}

#[test]
fn it_serves_until_sigterm_and_ends_well() {
    let state = tempfile::tempdir().expect("a directory");
    let state = state.path().display().to_string();
    let flags = [&ANY_PORTS[..], &["--state-dir", &state, "--admin", "127.0.0.1:0"]].concat();
    let mut running = Running::start(&flags);
    let started = running.event("started");
    assert_eq!(started["workload"], "citizen/portal-1");
    assert!(ask(address(&started, "health"), "GET /healthz/live").starts_with("HTTP/1.1 200"));
    assert!(ask(address(&started, "admin"), "GET /ready").starts_with("HTTP/1.1 200"));
    let config = ask(address(&started, "admin"), "GET /config");
    assert!(config.contains("\"workload\":\"citizen/portal-1\""), "{config}");
    assert!(ask(address(&started, "metrics"), "GET /metrics").contains("weir_build_info{version="));
    let log = ask(address(&started, "admin"), "POST /log?level=warn,weir_proxy=debug");
    assert!(log.starts_with("HTTP/1.1 200"), "{log}");
    running.tell("-TERM");
    assert_eq!(running.event("draining")["why"], "SIGTERM");
    assert!(running.child.wait().expect("it ends").success());
}

#[test]
fn the_admin_port_drains() {
    let state = tempfile::tempdir().expect("a directory");
    let state = state.path().display().to_string();
    let flags = [&ANY_PORTS[..], &["--state-dir", &state, "--admin", "127.0.0.1:0"]].concat();
    let mut running = Running::start(&flags);
    let admin = address(&running.event("started"), "admin");
    assert!(ask(admin, "GET /drain").starts_with("HTTP/1.1 405"));
    assert!(ask(admin, "POST /drain").starts_with("HTTP/1.1 202"));
    assert_eq!(running.event("draining")["why"], "the admin port");
    assert!(running.child.wait().expect("it ends").success());
}

/// A connection that has carried a request, whose answer was read and which stays open.
fn idle(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("it listens");
    // Answered by the proxy alone, and framed well: the connection goes on.
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: no host\r\n\r\n")
        .expect("written");
    let mut answer = Vec::new();
    while !answer.ends_with(b"at the listener)\n") {
        let mut part = [0; 1024];
        let count = stream.read(&mut part).expect("an answer");
        assert_ne!(count, 0, "{}", answer.escape_ascii());
        answer.extend_from_slice(&part[..count]);
    }
    stream
}

#[test]
fn an_idle_connection_takes_less_than_two_kib() {
    // Both sides have to keep below the usual limit of 1024 open files.
    const CONNECTIONS: u64 = 800;
    let state = tempfile::tempdir().expect("a directory");
    let state = state.path().display().to_string();
    let flags = [&ANY_PORTS[..], &["--state-dir", &state, "--admin", "127.0.0.1:0"]].concat();
    let mut running = Running::start(&flags);
    let outbound = address(&running.event("started"), "outbound");
    let resident_kib = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", running.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.expect("Linux tells it")
    };
    // What the first ones take is there for all.
    let mut open: Vec<TcpStream> = (0..100).map(|_| idle(outbound)).collect();
    let before = resident_kib();
    open.extend((0..CONNECTIONS).map(|_| idle(outbound)));
    let each_bytes = resident_kib().saturating_sub(before) * 1024 / CONNECTIONS;
    assert!(each_bytes < 2048, "{each_bytes} bytes for a connection that waits");
}
