//! CONNECT at a sidecar's outbound port, for clients that take it for an HTTP proxy: what is within is served as a
//! connection to that name alone.

use std::future::Future;
use std::net::SocketAddr;

use http::{Method, Request, StatusCode};
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use weir_policy::model::AppProtocol;
use weir_test_mesh::{Answer, Member, PATIENCE, Protocol, Script, TestMesh, call, finish, until};

async fn mesh() -> (TestMesh, Member, Member) {
    let mesh = TestMesh::start().await;
    let b = mesh.service("b", Script::answer(200, "from b")).await;
    let a = mesh.service("a", Script::answer(200, "from a")).await;
    (mesh, a, b)
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("in time")
}

/// Says this, and reads what comes until it ends so.
async fn say(stream: &mut TcpStream, text: &str, until: &str) -> String {
    stream.write_all(text.as_bytes()).await.expect("written");
    let mut came = Vec::new();
    while !came.ends_with(until.as_bytes()) {
        let read = within(stream.read_buf(&mut came)).await.expect("more");
        assert_ne!(read, 0, "{}", came.escape_ascii());
    }
    String::from_utf8(came).expect("text")
}

/// A connection within a CONNECT to this.
async fn connected(to: SocketAddr, authority: &str) -> TcpStream {
    let mut stream = TcpStream::connect(to).await.expect("a connection");
    let asks = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    let answer = say(&mut stream, &asks, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    // RFC 9110 section 9.3.6: nothing that frames a body.
    assert!(
        !answer.contains("content-length") && !answer.contains("transfer-encoding"),
        "{answer}"
    );
    stream
}

/// What a request that is said so is answered with, to the connection's end.
async fn refused(to: SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(to).await.expect("a connection");
    stream.write_all(text.as_bytes()).await.expect("written");
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.expect("an answer");
    answer
}

#[tokio::test]
async fn curl_goes_through_a_tunnel() {
    let (_mesh, a, b) = mesh().await;
    let mut curl = Command::new("curl");
    let proxy = format!("http://{}", a.outbound());
    curl.args([
        "--silent",
        "--show-error",
        "--fail",
        "--proxytunnel",
        "--proxy",
        &proxy,
        "http://b.default/",
    ]);
    let finished = finish(curl, b"").await;
    assert_eq!(
        (finished.success, finished.stdout.as_str()),
        (true, "from b"),
        "{finished:?}"
    );
    assert_eq!(b.seen().len(), 1);
    let (_, log) = a.stop().await;
    let [connect, get] = log.as_slice() else {
        panic!("two lines: {log:#?}")
    };
    for (line, method) in [(connect, "CONNECT"), (get, "GET")] {
        assert_eq!(line["http.request.method"], method, "{line}");
        let service = line["weir.service"].as_str().expect("a name");
        assert!(service.starts_with("b.default.svc.cluster.local"), "{line}");
    }
}

#[tokio::test]
async fn what_is_within_is_a_connection_to_that_name_alone() {
    let (_mesh, a, b) = mesh().await;
    let mut stream = connected(a.outbound(), "b.default.svc:80").await;
    // As often as one likes, by each name of the same place.
    for host in ["b", "b.default", "b.default.svc.cluster.local:80"] {
        let answer = say(
            &mut stream,
            &format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            "from b",
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    assert_eq!(b.seen().len(), 3);
    // And nowhere else, however it is said.
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\n",
        "GET / HTTP/1.1\r\nHost: b:8080\r\n",
        "GET / HTTP/1.1\r\nHost: b.other\r\n",
        "GET http://a/ HTTP/1.1\r\nHost: b\r\n",
    ] {
        let mut stream = connected(a.outbound(), "b:80").await;
        let request = format!("{request}Connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("written");
        let mut answer = String::new();
        within(stream.read_to_string(&mut answer)).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 421 "), "{request}: {answer}");
        assert!(answer.contains("error=http_request_error"), "{answer}");
    }
    let mut stream = connected(a.outbound(), "b:80").await;
    stream
        .write_all(b"CONNECT b:80 HTTP/1.1\r\nHost: b:80\r\n\r\n")
        .await
        .expect("written");
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 501 "), "{answer}");
    assert_eq!((a.seen().len(), b.seen().len()), (0, 3));
}

#[tokio::test]
async fn http2_is_spoken_within_as_well() {
    let (_mesh, a, _b) = mesh().await;
    let stream = connected(a.outbound(), "b:80").await;
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let request = |uri: &str| {
        Request::get(uri)
            .body(Full::<bytes::Bytes>::default())
            .expect("a request")
    };
    let answer = within(sender.send_request(request("http://b/")))
        .await
        .expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    let answer = within(sender.send_request(request("http://a/")))
        .await
        .expect("an answer");
    assert_eq!(answer.status(), StatusCode::MISDIRECTED_REQUEST);
    connection.abort();
}

/// RFC 9110 section 9.3.6, RFC 9112 section 3.2.3.
#[tokio::test]
async fn a_connect_that_can_not_be_read_in_one_way_is_refused() {
    let (mesh, a, b) = mesh().await;
    mesh.plain_service("tcp", AppProtocol::Tcp, &[]).await;
    for (request, status) in [
        ("CONNECT b HTTP/1.1\r\nHost: b\r\n\r\n", 400),
        ("CONNECT http://b/ HTTP/1.1\r\nHost: b\r\n\r\n", 400),
        ("CONNECT /b:80 HTTP/1.1\r\nHost: b\r\n\r\n", 400),
        ("CONNECT user@b:80 HTTP/1.1\r\nHost: b\r\n\r\n", 400),
        ("CONNECT b:0x50 HTTP/1.1\r\nHost: b\r\n\r\n", 400),
        ("CONNECT b:80 HTTP/1.1\r\n\r\n", 400),
        ("CONNECT b:80 HTTP/1.1\r\nHost: b\r\nContent-Length: 3\r\n\r\nabc", 400),
        (
            "CONNECT b:80 HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        // As a request for it.
        ("CONNECT nobody:80 HTTP/1.1\r\nHost: nobody\r\n\r\n", 502),
        ("CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n", 502),
        ("CONNECT 127.0.0.1:80 HTTP/1.1\r\nHost: b\r\n\r\n", 502),
        ("CONNECT b:81 HTTP/1.1\r\nHost: b\r\n\r\n", 502),
        // What is within would be refused: it is requests, and that is for TCP.
        ("CONNECT tcp:80 HTTP/1.1\r\nHost: tcp:80\r\n\r\n", 501),
    ] {
        let answer = refused(a.outbound(), request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request}: {answer}"
        );
    }
    // What an app's own sidecar does for it, others' don't do for anybody.
    let answer = refused(b.inbound(), "CONNECT b:80 HTTP/1.1\r\nHost: b:80\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 501 "), "{answer}");
    for to in [a.outbound(), b.inbound()] {
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri("b:80")
            .body(Full::default());
        let answer: Answer = call(to, Protocol::Http2, request.expect("a request"))
            .await
            .expect("an answer");
        assert_eq!(answer.status, StatusCode::NOT_IMPLEMENTED, "{}", answer.text());
    }
    assert!(b.seen().is_empty());
}

#[tokio::test]
async fn tls_within_is_refused_in_its_own_words() {
    let (_mesh, a, _b) = mesh().await;
    let mut stream = connected(a.outbound(), "b:80").await;
    // The begin of a ClientHello.
    stream
        .write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc])
        .await
        .expect("written");
    let mut answer = Vec::new();
    within(stream.read_to_end(&mut answer)).await.expect("an end");
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, 40], "a fatal alert, handshake_failure");
    let mut curl = Command::new("curl");
    let proxy = format!("http://{}", a.outbound());
    curl.args([
        "--silent",
        "--show-error",
        "--insecure",
        "--proxytunnel",
        "--proxy",
        &proxy,
        "https://b:80/",
    ]);
    let finished = finish(curl, b"").await;
    assert!(
        !finished.success && finished.stderr.contains("handshake failure"),
        "{finished:?}"
    );
    until("both to be counted", || async {
        (a.metric("weir_http1_refused_total", &[r#"rule="tls""#]).await == 2.0).then_some(())
    })
    .await;
    let (_, log) = a.stop().await;
    let told = log.iter().filter(|line| {
        line["error.message"]
            .as_str()
            .is_some_and(|why| why.contains("TLS handshake"))
    });
    assert_eq!(told.count(), 2, "{log:#?}");
}
