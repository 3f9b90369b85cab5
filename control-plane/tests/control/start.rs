//! Starting and ending.

use std::net::TcpListener;

use serde_json::json;

use super::program::{Program, refused};

#[track_caller]
fn check(flags: &[&str], code: i32, expect: &str) {
    let (exit, said) = refused(flags);
    assert_eq!(exit, Some(code), "{said}");
    assert!(said.contains(expect), "{said}");
}

#[test]
fn a_start_that_can_not_be_is_said_plainly() {
    let busy = TcpListener::bind("127.0.0.1:0").expect("a port");
    let busy = busy.local_addr().expect("an address").to_string();
    fn with(more: [&str; 2]) -> Vec<&str> {
        let free = ["--in-memory", "--api", "127.0.0.1:0", "--xds", "127.0.0.1:0"];
        free.into_iter().chain(more).collect()
    }
    check(
        &[],
        1,
        "say where to keep resources: --data-dir DIR, --in-memory, or --resources DIR",
    );
    check(
        &["--store", "etcd://127.0.0.1:2379"],
        1,
        "--store etcd://127.0.0.1:2379: ",
    );
    check(&["--in-memory", "--nothing"], 2, "--nothing");
    check(
        &["--in-memory", "--api", &busy, "--xds", "127.0.0.1:0"],
        1,
        &format!("--api {busy}: the port is in use by another process"),
    );
    check(
        &["--in-memory", "--api", "127.0.0.1:0", "--xds", &busy],
        1,
        &format!("--xds {busy}: the port is in use by another process"),
    );
    check(
        &["--in-memory", "--api", "127.0.0.1:0", "--xds", "0.0.0.0:0"],
        1,
        "--xds 0.0.0.0:0: proxies are not authenticated and nothing is encrypted there, so only loopback is right \
         (127.0.0.1:15010); for other hosts there is --xds-tls",
    );
    let said = format!("--xds-tls {busy}: the port is in use by another process");
    check(&with(["--xds-tls", &busy]), 1, &said);
    let mut flags = with(["--ca-cert", "/nowhere/cert"]);
    flags.extend(["--ca-key", "/nowhere/key", "--ca-roots", "/nowhere/roots"]);
    check(&flags, 1, "/nowhere/cert: ");
    check(
        &[
            "--data-dir",
            "/dev/null",
            "--api",
            "127.0.0.1:0",
            "--xds",
            "127.0.0.1:0",
        ],
        1,
        "/dev/null",
    );
    check(
        &with(["--resources", "/nowhere/at/all"]),
        1,
        "--resources /nowhere/at/all: ",
    );
    check(&with(["--log", "a=b=c"]), 1, "--log a=b=c");
}

#[tokio::test]
async fn a_directory_in_use_is_said_with_its_user_and_free_again_after_a_kill() {
    let data = tempfile::tempdir().expect("a directory");
    let path = data.path().to_str().expect("a path in UTF-8");
    let mut first = Program::start(data.path());
    let flags = ["--data-dir", path, "--api", "127.0.0.1:0", "--xds", "127.0.0.1:0"];
    check(
        &flags,
        1,
        &format!("{path} is in use by another weir-control (pid {})", first.id()),
    );
    first.kill();
    let second = Program::start(data.path());
    assert!(second.terminate().success());
}

#[tokio::test]
async fn sigterm_ends_it_in_order_with_a_watch_open() {
    let data = tempfile::tempdir().expect("a directory");
    let program = Program::start(data.path());
    assert!(
        program.ready.starts_with("weir-control ready: api http://127.0.0.1:"),
        "{}",
        program.ready
    );
    assert!(program.ready.contains(" xds http://127.0.0.1:"), "{}", program.ready);
    let client = program.client;
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}});
    client.post("/api/v1/namespaces", &body).await.expect(201);
    let mut watch = client.watch("/api/v1/namespaces?watch=1").await;
    assert_eq!(watch.shown(2).await, ["ADDED a", "ADDED default"]);
    assert!(program.terminate().success());
    assert_eq!(watch.next().await, None);
}
