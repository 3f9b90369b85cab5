//! Peers that mean no good: the API answers or closes, and goes on serving others.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weir_control::ControlConfig;

use super::client::{JSON, PATIENCE};
use super::{SERVICES, in_memory, run, service};

pub(crate) async fn open(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.expect("a connection")
}

/// A server that has closed already is no failure.
pub(crate) async fn write(stream: &mut TcpStream, bytes: &[u8]) {
    let _ = stream.write_all(bytes).await;
}

/// Reads until the server closes.
async fn read(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // Closed by a reset, which data that the server did not read makes, is closed too.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .expect("an end in time");
    String::from_utf8_lossy(&answer).into_owned()
}

pub(crate) async fn read_until(stream: &mut TcpStream, text: &str) {
    let mut answer = Vec::new();
    while !String::from_utf8_lossy(&answer).contains(text) {
        let byte = tokio::time::timeout(PATIENCE, stream.read_u8())
            .await
            .expect("an answer in time");
        answer.push(byte.expect("more of the answer"));
    }
}

/// Sends bytes as they are and reads until the server closes.
pub(crate) async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = open(address).await;
    write(&mut stream, bytes).await;
    read(&mut stream).await
}

/// Bytes that look like nothing, the same in each run.
fn noise() -> Vec<u8> {
    let mut state = 1_u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..100_000).map(next).collect()
}

const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
const TLS_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

#[tokio::test]
async fn garbage_is_answered_with_400_or_closed() {
    let (control, client) = in_memory().await;
    let noise = noise();
    let header = format!(
        "GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n",
        "y".repeat(200_000)
    );
    let headers = format!("GET / HTTP/1.1\r\nhost: localhost\r\n{}\r\n", "x: y\r\n".repeat(10_000));
    let smuggled = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx";
    for bytes in [
        noise.as_slice(),
        header.as_bytes(),
        headers.as_bytes(),
        TLS_HELLO,
        H2_PREFACE,
        smuggled,
        b"\r\n\r\n\r\n\0\0",
    ] {
        let mut stream = open(client.address).await;
        write(&mut stream, bytes).await;
        stream.shutdown().await.unwrap_or_default();
        let answer = read(&mut stream).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    client.post(SERVICES, &service("portal")).await.expect(201);
    control.shutdown().await;
}

#[tokio::test]
async fn garbage_on_the_xds_port_is_closed() {
    let (control, client) = in_memory().await;
    let noise = noise();
    let framed = [H2_PREFACE, noise.as_slice()].concat();
    for bytes in [
        noise.as_slice(),
        TLS_HELLO,
        b"GET / HTTP/1.1\r\n\r\n",
        framed.as_slice(),
    ] {
        let mut stream = open(control.xds_addr().expect("it is on")).await;
        write(&mut stream, bytes).await;
        stream.shutdown().await.unwrap_or_default();
        read(&mut stream).await;
    }
    // Others are served: the settings that begin a connection come.
    let mut good = open(control.xds_addr().expect("it is on")).await;
    write(&mut good, H2_PREFACE).await;
    let settings = tokio::time::timeout(PATIENCE, async {
        let mut head = [0; 9];
        good.read_exact(&mut head).await.map(|_| head[3])
    });
    assert_eq!(settings.await.expect("in time").expect("a frame"), 4);
    drop(good);
    client.get("/healthz").await;
    control.shutdown().await;
}

#[tokio::test]
async fn a_request_cut_off_anywhere_changes_nothing() {
    let (control, client) = in_memory().await;
    let body = service("portal").to_string();
    let request = format!(
        "POST {SERVICES} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {JSON}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let before = control.store().all();
    for end in (0..request.len()).step_by(7) {
        let mut stream = open(client.address).await;
        write(&mut stream, &request.as_bytes()[..end]).await;
        stream.shutdown().await.expect("half closed");
        let answer = read(&mut stream).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 400 "),
            "{end}: {answer}"
        );
    }
    assert_eq!(control.store().all(), before);
    control.shutdown().await;
}

#[tokio::test]
async fn slow_peers_are_not_waited_for() {
    let mut config = ControlConfig::in_memory();
    config.api_limits.header_timeout = Duration::from_millis(50);
    config.api_limits.request_timeout = Duration::from_millis(50);
    let (control, client) = run(config).await;
    let mut slow_header = open(client.address).await;
    write(&mut slow_header, b"GET /healthz HTTP/1.1\r\nhost: loc").await;
    let answer = read(&mut slow_header).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
    let mut slow_body = open(client.address).await;
    let head = format!("POST /api/v1/namespaces HTTP/1.1\r\nhost: localhost\r\ncontent-type: {JSON}\r\n");
    write(&mut slow_body, format!("{head}content-length: 10\r\n\r\n{{").as_bytes()).await;
    let answer = read(&mut slow_body).await;
    assert!(
        answer.starts_with("HTTP/1.1 408 ") && answer.contains("\"Timeout\""),
        "{answer}"
    );
    client.get("/healthz").await;
    control.shutdown().await;
}

#[tokio::test]
async fn an_end_waits_for_no_peer_that_says_nothing() {
    let mut config = ControlConfig::in_memory();
    config.api_limits.drain_timeout = Duration::from_millis(50);
    let (control, client) = run(config).await;
    let mut idle = open(client.address).await;
    let mut half = open(client.address).await;
    write(
        &mut half,
        b"POST /api/v1/namespaces HTTP/1.1\r\nhost: localhost\r\ncontent-le",
    )
    .await;
    client.get("/healthz").await;
    tokio::time::timeout(PATIENCE, control.shutdown()).await.expect("ended");
    assert_eq!(read(&mut idle).await, "");
    read(&mut half).await;
}
