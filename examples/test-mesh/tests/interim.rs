//! What is said before an answer (RFC 9110 section 15.2): hints of an app, where every hop can carry them, and leave to
//! send a body.

use std::future::Future;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::watch;
use weir_policy::model::AppProtocol;
use weir_test_mesh::{PATIENCE, Script, ScriptedApp, TestMesh, finish};

/// An app that hints, and answers once the gate is open.
fn hinting() -> (watch::Sender<bool>, Script) {
    let (open, gate) = watch::channel(false);
    let script = Script::raw(move |mut stream| {
        let mut gate = gate.clone();
        async move {
            let mut held = Vec::new();
            while !held.ends_with(b"\r\n\r\n") {
                if stream.read_buf(&mut held).await.unwrap_or(0) == 0 {
                    return;
                }
            }
            let hints = "HTTP/1.1 100 Continue\r\n\r\n\
                         HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: x-own\r\nX-Own: 1\r\n\r\n\
                         HTTP/1.1 102 Processing\r\n\r\n";
            stream.write_all(hints.as_bytes()).await.expect("written");
            let _ = gate.wait_for(|open| *open).await;
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\ndone";
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (open, script)
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("in time")
}

async fn until(stream: &mut TcpStream, end: &str) -> String {
    let mut came = Vec::new();
    while !came.ends_with(end.as_bytes()) {
        let read = within(stream.read_buf(&mut came)).await.expect("more");
        assert_ne!(read, 0, "{}", came.escape_ascii());
    }
    String::from_utf8(came).expect("text")
}

async fn ask(to: SocketAddr, host: &str, version: &str) -> TcpStream {
    let mut stream = TcpStream::connect(to).await.expect("a connection");
    let request = format!("GET / {version}\r\nHost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("written");
    stream
}

const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n";

#[tokio::test]
async fn hints_pass_before_the_answer_where_http1_is_spoken_all_the_way() {
    let mesh = TestMesh::start().await;
    let (open, script) = hinting();
    let plain = ScriptedApp::start(script.clone()).await;
    let b = mesh.service("b", script).await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    mesh.plain_service("plain", AppProtocol::Http1, &[plain.address()])
        .await;
    for (to, host) in [(b.inbound(), "b"), (a.outbound(), "plain")] {
        open.send_replace(false);
        let mut stream = ask(to, host, "HTTP/1.1").await;
        // Before the app has answered; of 100 there is none, since nobody waits for it.
        assert_eq!(until(&mut stream, "102 Processing\r\n\r\n").await, HINTS);
        open.send_replace(true);
        let answer = until(&mut stream, "done").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        // RFC 9110 section 15.2: HTTP/1.0 has none.
        let mut stream = ask(to, host, "HTTP/1.0").await;
        let answer = until(&mut stream, "done").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    // Between sidecars HTTP/2 is spoken, where hyper passes none on.
    let mut stream = ask(a.outbound(), "b", "HTTP/1.1").await;
    let answer = until(&mut stream, "done").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

/// RFC 9110 section 10.1.1. This client sends nothing of its body before it may: it would wait for a minute.
#[tokio::test]
async fn a_client_that_waits_for_leave_gets_it() {
    for mesh in [TestMesh::start().await, TestMesh::secured().await] {
        let b = mesh.service("b", Script::answer(200, "taken")).await;
        let a = mesh.service("a", Script::answer(200, "")).await;
        let url = format!("http://{}/", a.outbound());
        let body = "x".repeat(2 * 1024 * 1024);
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--verbose", "--header", "Host: b"]);
        curl.args(["--header", "Expect: 100-continue", "--expect100-timeout", "3600"]);
        curl.args(["--data-binary", "@-", &url]);
        let finished = finish(curl, body.as_bytes()).await;
        assert_eq!(
            (finished.success, finished.stdout.as_str()),
            (true, "taken"),
            "{}",
            finished.stderr
        );
        assert!(finished.stderr.contains("HTTP/1.1 100 Continue"), "{}", finished.stderr);
        assert_eq!(b.seen()[0].body.len(), body.len());
    }
}
