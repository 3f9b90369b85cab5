//! What leaves HTTP on its way: WebSockets and other upgrades through sidecars, byte for byte, however they end.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weir_policy::model::AppProtocol;
use weir_proxy::Drained;
use weir_test_mesh::{
    Member, MemberSettings, PATIENCE, Script, TestMesh, Through, WebSocketApp, call_web_sockets, until,
};

/// RFC 6455 section 1.3's example.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The head of a WebSocket's handshake, for `b`.
fn handshake() -> String {
    format!(
        "GET /chat?room=1 HTTP/1.1\r\nHost: b\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
    )
}

/// RFC 6455 section 4.2.2.
fn accept_of(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    base64::engine::general_purpose::STANDARD.encode(hash)
}

/// A head, in lower case, and what came with it.
async fn head(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let (head, rest) = head_as_it_came(stream).await?;
    Some((head.to_ascii_lowercase(), rest))
}

/// An app that says 101 to whatever asks for a protocol, and then does `then`; to other requests it says 404. It keeps
/// the heads that it saw.
#[derive(Clone, Default)]
struct Upgrading {
    heads: Arc<Mutex<Vec<String>>>,
}

impl Upgrading {
    fn script<F>(&self, then: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> Script
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let heads = Arc::clone(&self.heads);
        let then = Arc::new(then);
        Script::raw(move |mut stream| {
            let (heads, then) = (Arc::clone(&heads), Arc::clone(&then));
            async move {
                while let Some((head, _)) = head(&mut stream).await {
                    let asked = head
                        .lines()
                        .find_map(|line| line.strip_prefix("upgrade: "))
                        .map(str::to_owned);
                    heads.lock().unwrap_or_else(PoisonError::into_inner).push(head);
                    let Some(asked) = asked else {
                        let answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone";
                        stream.write_all(answer).await.expect("written");
                        continue;
                    };
                    let answer = format!(
                        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {asked}\r\n\
                         Sec-WebSocket-Accept: {ACCEPT}\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
                    );
                    stream.write_all(answer.as_bytes()).await.expect("written");
                    return then(stream).await;
                }
            }
        })
    }

    fn echo(&self) -> Script {
        self.script(|mut stream| async move {
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        })
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A connection to a sidecar's outbound port on which this was said, the answer's head, and what came with it.
async fn ask(to: SocketAddr, head_text: &str) -> (TcpStream, String, Vec<u8>) {
    let mut stream = TcpStream::connect(to).await.expect("a connection");
    stream.write_all(head_text.as_bytes()).await.expect("written");
    let (answer, rest) = within(head(&mut stream)).await.expect("an answer");
    (stream, answer, rest)
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("in time")
}

/// Says this and waits until it has come back.
async fn echoed(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).await.expect("written");
    let mut back = vec![0; text.len()];
    within(stream.read_exact(&mut back)).await.expect("its echo");
    assert!(back == text, "{}", back.escape_ascii());
}

async fn until_tunnels(member: &Member, count: f64) {
    until(&format!("{count} tunnels"), || async {
        (member.metric("weir_tunnels", &[]).await == count).then_some(())
    })
    .await;
}

/// The one line of a log whose answer is 101.
fn switched(log: &[Value]) -> &Value {
    let mut lines = log.iter().filter(|line| line["http.response.status_code"] == 101);
    match (lines.next(), lines.next()) {
        (Some(line), None) => line,
        _ => panic!("one line: {log:#?}"),
    }
}

/// Through both sidecars and back, with its heads, its bytes, its metrics and its lines in the access logs.
async fn crosses(mesh: TestMesh) {
    let app = Upgrading::default();
    let b = mesh.service("b", app.echo()).await;
    let a = mesh.service("a", Script::answer(200, "")).await;

    let (mut stream, answer, rest) = ask(a.outbound(), &handshake()).await;
    assert!(answer.starts_with("http/1.1 101 switching protocols\r\n"), "{answer}");
    let accept = ACCEPT.to_ascii_lowercase();
    for field in [
        "connection: upgrade",
        "upgrade: websocket",
        &format!("sec-websocket-accept: {accept}"),
        "sec-websocket-protocol: chat",
    ] {
        assert!(answer.lines().any(|line| line == field), "{field}: {answer}");
    }
    assert!(
        !answer.contains("content-length") && !answer.contains("transfer-encoding"),
        "{answer}"
    );
    assert!(rest.is_empty());
    echoed(&mut stream, b"ping").await;
    // More than all buffers on the way hold, so that it is carried while it is written.
    let much: Vec<u8> = (0..3_000_000_u32).map(|number| number.to_le_bytes()[1]).collect();
    let (mut read, mut write) = stream.split();
    let mut back = vec![0; much.len()];
    let both = async { tokio::join!(write.write_all(&much), read.read_exact(&mut back)) };
    let (wrote, came) = within(both).await;
    wrote.expect("written");
    came.expect("its echo");
    assert!(back == much, "the same bytes");
    until_tunnels(&a, 1.0).await;
    until_tunnels(&b, 1.0).await;

    // Our end passes, and the app's comes back.
    stream.shutdown().await.expect("ended");
    assert_eq!(within(stream.read(&mut [0; 1])).await.expect("a clean end"), 0);
    until_tunnels(&a, 0.0).await;
    until_tunnels(&b, 0.0).await;

    let heads = app.heads();
    let [head] = heads.as_slice() else {
        panic!("one head: {heads:?}")
    };
    assert!(head.starts_with("get /chat?room=1 http/1.1\r\n"), "{head}");
    let key = KEY.to_ascii_lowercase();
    for field in [
        "host: b",
        "connection: upgrade",
        "upgrade: websocket",
        &format!("sec-websocket-key: {key}"),
        "sec-websocket-version: 13",
        "sec-websocket-protocol: chat",
    ] {
        assert!(head.lines().any(|line| line == field), "{field}: {head}");
    }
    assert!(!head.contains("weir-context"), "{head}");
    assert!(head.contains("traceparent: "), "{head}");

    for member in [a, b] {
        let (drained, log) = member.stop().await;
        assert_eq!(drained, Drained::Whole);
        let line = switched(&log);
        assert_eq!(line["http.request.body.size"], 3_000_004, "{line}");
        assert_eq!(line["http.response.body.size"], 3_000_004, "{line}");
        assert_eq!(line["weir.flag"], "none", "{line}");
    }
}

#[tokio::test]
async fn a_websocket_crosses_in_cleartext() {
    crosses(TestMesh::start().await).await;
}

#[tokio::test]
async fn a_websocket_crosses_by_mutual_tls() {
    crosses(TestMesh::secured().await).await;
}

#[tokio::test]
async fn an_app_that_dies_is_a_reset_at_the_other_end_and_no_clean_end() {
    for mesh in [TestMesh::start().await, TestMesh::secured().await] {
        let app = Upgrading::default();
        // At the first byte.
        let script = app.script(|mut stream| async move {
            let _ = stream.read(&mut [0; 1]).await;
            stream.set_zero_linger().expect("set");
        });
        let b = mesh.service("b", script).await;
        let a = mesh.service("a", Script::answer(200, "")).await;
        let (mut stream, answer, _) = ask(a.outbound(), &handshake()).await;
        assert!(answer.starts_with("http/1.1 101 "), "{answer}");
        stream.write_all(b"x").await.expect("written");
        let end = within(stream.read(&mut [0; 1])).await;
        let end = end.map_err(|error| error.kind());
        assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset));
        until_tunnels(&a, 0.0).await;
        for member in [a, b] {
            let (_, log) = member.stop().await;
            assert_eq!(switched(&log)["weir.flag"], "upstream_reset", "{log:#?}");
        }
    }
}

#[tokio::test]
async fn a_client_that_dies_is_a_reset_at_the_app() {
    for mesh in [TestMesh::start().await, TestMesh::secured().await] {
        let app = Upgrading::default();
        let (tell, mut ended) = tokio::sync::mpsc::channel(8);
        let script = app.script(move |mut stream| {
            let tell = tell.clone();
            async move {
                let end = stream.read(&mut [0; 1]).await;
                let _ = tell.send(end.map_err(|error| error.kind())).await;
            }
        });
        let _b = mesh.service("b", script).await;
        let a = mesh.service("a", Script::answer(200, "")).await;
        let (stream, answer, _) = ask(a.outbound(), &handshake()).await;
        assert!(answer.starts_with("http/1.1 101 "), "{answer}");
        stream.set_zero_linger().expect("set");
        drop(stream);
        let end = within(ended.recv()).await.expect("an end");
        assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset));
        let (_, log) = a.stop().await;
        assert_eq!(switched(&log)["weir.flag"], "downstream_reset", "{log:#?}");
    }
}

#[tokio::test]
async fn a_refused_upgrade_is_an_ordinary_answer_on_a_connection_that_stays() {
    let mesh = TestMesh::start().await;
    let heads = Upgrading::default();
    let seen = Arc::clone(&heads.heads);
    let script = Script::raw(move |mut stream| {
        let seen = Arc::clone(&seen);
        async move {
            while let Some((head, _)) = head(&mut stream).await {
                seen.lock().unwrap_or_else(PoisonError::into_inner).push(head);
                let answer = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno";
                stream.write_all(answer).await.expect("written");
            }
        }
    });
    let _b = mesh.service("b", script).await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    let mut stream = TcpStream::connect(a.outbound()).await.expect("a connection");
    for _ in 0..2 {
        stream.write_all(handshake().as_bytes()).await.expect("written");
        let (answer, mut rest) = within(head(&mut stream)).await.expect("an answer");
        assert!(answer.starts_with("http/1.1 403 "), "{answer}");
        while rest.len() < 2 {
            assert_ne!(within(stream.read_buf(&mut rest)).await.expect("more"), 0);
        }
        assert_eq!(rest, b"no");
    }
    assert_eq!(heads.heads().len(), 2);
    assert_eq!(a.metric("weir_tunnels", &[]).await, 0.0);
}

/// RFC 9110 section 7.8: what is not an upgrade for the app is an ordinary request.
#[tokio::test]
async fn what_is_no_upgrade_for_the_app_does_not_reach_it() {
    let mesh = TestMesh::start().await;
    let app = Upgrading::default();
    let _b = mesh.service("b", app.echo()).await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    for fields in [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        "Connection: Upgrade\r\nUpgrade: TLS/1.2\r\n",
        "Upgrade: websocket\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n",
    ] {
        let (_, answer, _) = ask(a.outbound(), &format!("GET / HTTP/1.1\r\nHost: b\r\n{fields}\r\nabc")).await;
        // By the app, or by the rule against two framings.
        assert!(
            answer.starts_with("http/1.1 404 ") || answer.starts_with("http/1.1 400 "),
            "{fields}: {answer}"
        );
    }
    let (_, answer, _) = ask(
        a.outbound(),
        "GET / HTTP/1.0\r\nHost: b\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n",
    )
    .await;
    assert!(answer.contains(" 404 "), "{answer}");
    for head in app.heads() {
        assert!(!head.contains("upgrade") && !head.contains("http2-settings"), "{head}");
    }
}

#[tokio::test]
async fn other_protocols_pass_too_and_none_that_was_not_offered() {
    let mesh = TestMesh::start().await;
    let app = Upgrading::default();
    let _b = mesh.service("b", app.echo()).await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    let head = "POST /attach HTTP/1.1\r\nHost: b\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n";
    let (mut stream, answer, _) = ask(a.outbound(), head).await;
    assert!(
        answer.starts_with("http/1.1 101 ") && answer.contains("\r\nupgrade: tcp\r\n"),
        "{answer}"
    );
    echoed(&mut stream, b"bytes").await;

    let other = Script::raw(|mut stream| async move {
        if head_of(&mut stream).await {
            let answer = b"HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n";
            let _ = stream.write_all(answer).await;
            let _ = stream.read(&mut [0; 1]).await;
        }
    });
    let _c = mesh.service("c", other).await;
    let (_, answer, _) = ask(a.outbound(), &handshake().replace("Host: b", "Host: c")).await;
    assert!(answer.starts_with("http/1.1 502 "), "{answer}");
    assert!(answer.contains("error=http_upgrade_failed"), "{answer}");
}

async fn head_of(stream: &mut TcpStream) -> bool {
    head(stream).await.is_some()
}

#[tokio::test]
async fn a_drain_leaves_tunnels_its_time_and_then_ends_them() {
    let mesh = TestMesh::start().await;
    let app = Upgrading::default();
    let b = mesh.service("b", app.echo()).await;
    let settings = MemberSettings {
        proxy: Box::new(|config| config.drain_timeout = Duration::from_millis(300)),
        ..MemberSettings::default()
    };
    let a = mesh.service_with("a", Script::answer(200, ""), settings).await;
    let outbound = a.outbound();
    let (mut stream, answer, _) = ask(outbound, &handshake()).await;
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
    let stopping = a.stop();
    let uses = async {
        until("new connections to be refused", || async {
            TcpStream::connect(outbound).await.is_err().then_some(())
        })
        .await;
        // Until the time is over it is carried; then it is cut off, which the app and its client see.
        let end = loop {
            let mut back = [0; 1];
            if let Err(error) = stream.write_all(b"x").await {
                break error;
            }
            match stream.read(&mut back).await {
                Ok(1) => {}
                Ok(_) => panic!("a clean end"),
                Err(error) => break error,
            }
        };
        end.kind()
    };
    let ((drained, log), end) = within(async { tokio::join!(stopping, uses) }).await;
    assert_eq!(end, std::io::ErrorKind::ConnectionReset);
    assert_eq!(drained, Drained::CutOff);
    assert_eq!(switched(&log)["weir.flag"], "draining", "{log:#?}");
    until_tunnels(&b, 0.0).await;
}

#[tokio::test]
async fn a_tunnel_holds_its_place_under_the_limit_and_outlives_the_time_for_its_answer() {
    let mesh = TestMesh::start().await;
    let app = Upgrading::default();
    let b = mesh.service("b", app.echo()).await;
    let slow = Script::raw(|mut stream| async move {
        let _ = head_of(&mut stream).await;
        let _ = stream.read(&mut [0; 1]).await;
    });
    let _slow = mesh.service("slow", slow).await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    for name in ["b", "slow"] {
        mesh.apply(&format!(
            "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: default}}
spec:
  parentRefs: [{{group: '', kind: Service, name: {name}}}]
  rules:
  - timeouts: {{request: 300ms}}
    backendRefs: [{{name: {name}, port: 80}}]
"
        ))
        .await;
    }
    mesh.apply(
        "
apiVersion: weir.dev/v1
kind: BackendPolicy
metadata: {name: b, namespace: default}
spec:
  targetRefs: [{group: '', kind: Service, name: b}]
  circuitBreaker: {maxRequests: 1}
",
    )
    .await;
    let tunnel = until("the policies to be in force", || async {
        let (stream, answer, _) = ask(a.outbound(), &handshake()).await;
        let (_, second, _) = ask(a.outbound(), &handshake()).await;
        (answer.starts_with("http/1.1 101 ") && second.starts_with("http/1.1 503 ")).then_some(stream)
    });
    let mut tunnel = tunnel.await;
    // As long as the time that both routes have.
    until("the time to be over", || async {
        let (_, answer, _) = ask(a.outbound(), &handshake().replace("Host: b", "Host: slow")).await;
        answer.starts_with("http/1.1 504 ").then_some(())
    })
    .await;
    echoed(&mut tunnel, b"still").await;
    // Nor does it end the calls that the app makes from within, with what came in the handshake.
    let heads = app.heads();
    let told = heads.first().expect("the handshake").lines();
    let told = told.filter(|line| line.starts_with("traceparent: ") || line.starts_with("tracestate: "));
    let told: String = told.map(|line| format!("{line}\r\n")).collect();
    assert!(told.contains("traceparent: "), "{heads:?}");
    let (_, answer, _) = ask(b.outbound(), &format!("GET / HTTP/1.1\r\nHost: a\r\n{told}\r\n")).await;
    assert!(answer.starts_with("http/1.1 200 "), "{answer}");
    drop(tunnel);
    until("its place to be free", || async {
        let (_, answer, _) = ask(a.outbound(), &handshake()).await;
        answer.starts_with("http/1.1 101 ").then_some(())
    })
    .await;
    drop(b);
}

/// A stream by extended CONNECT to `b`, on an HTTP/2 connection to this port.
async fn extended_connect(to: SocketAddr, protocol: &str) -> (Response<h2::RecvStream>, h2::SendStream<Bytes>) {
    let stream = TcpStream::connect(to).await.expect("a connection");
    let (sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    let mut sender = sender.ready().await.expect("it is open");
    until("SETTINGS_ENABLE_CONNECT_PROTOCOL", || async {
        sender.is_extended_connect_protocol_enabled().then_some(())
    })
    .await;
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri("http://b/chat?room=1")
        .header("sec-websocket-version", "13")
        .extension(h2::ext::Protocol::from(protocol));
    let (answer, sends) = sender
        .send_request(request.body(()).expect("a request"), false)
        .expect("sent");
    (within(answer).await.expect("an answer"), sends)
}

/// RFC 8441: by HTTP/2 there is no key; the app gets one, and its answer to that is looked at.
#[tokio::test]
async fn an_http2_caller_opens_a_websocket_of_an_http1_app() {
    let mesh = TestMesh::start().await;
    let heads: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&heads);
    let script = Script::raw(move |mut stream| {
        let seen = Arc::clone(&seen);
        async move {
            let Some((head, _)) = head_as_it_came(&mut stream).await else {
                return;
            };
            let key = head
                .lines()
                .find_map(|line| line.strip_prefix("sec-websocket-key: "))
                .unwrap_or_default()
                .to_owned();
            let lies = head.contains("room=2");
            seen.lock().unwrap_or_else(PoisonError::into_inner).push(head);
            let accept = if lies { ACCEPT.to_owned() } else { accept_of(&key) };
            let answer = format!(
                "HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
            );
            stream.write_all(answer.as_bytes()).await.expect("written");
            let mut byte = [0; 1];
            while let Ok(1) = stream.read(&mut byte).await {
                if byte == *b"!" {
                    // Dies.
                    let _ = stream.set_zero_linger();
                    return;
                }
                let _ = stream.write_all(&byte).await;
            }
        }
    });
    let b = mesh.service("b", script).await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    for to in [a.outbound(), b.inbound()] {
        let (answer, mut sends) = extended_connect(to, "websocket").await;
        assert_eq!(answer.status(), StatusCode::OK);
        for gone in ["sec-websocket-accept", "upgrade", "connection", "content-length"] {
            assert!(!answer.headers().contains_key(gone), "{gone}: {:?}", answer.headers());
        }
        let mut comes = answer.into_body();
        sends.send_data(Bytes::from("x"), false).expect("sent");
        assert_eq!(within(comes.data()).await.expect("more").expect("data"), "x");
        // An end is an end on both sides.
        sends.send_data(Bytes::new(), true).expect("sent");
        assert!(
            within(comes.data())
                .await
                .is_none_or(|last| last.is_ok_and(|last| last.is_empty()))
        );

        let (answer, mut sends) = extended_connect(to, "websocket").await;
        let mut comes = answer.into_body();
        sends.send_data(Bytes::from("!"), false).expect("sent");
        let end = within(comes.data()).await.expect("no clean end");
        assert!(end.as_ref().is_err_and(h2::Error::is_reset), "{end:?}");

        let (answer, _) = extended_connect(to, "connect-udp").await;
        assert_eq!(answer.status(), StatusCode::NOT_IMPLEMENTED);
    }
    until_tunnels(&a, 0.0).await;
    until_tunnels(&b, 0.0).await;
    let heads = heads.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert_eq!(heads.len(), 4);
    for head in heads {
        assert!(head.starts_with("GET /chat?room=1 HTTP/1.1\r\n"), "{head}");
        assert!(
            head.contains("\r\nupgrade: websocket\r\n") && head.contains("\r\nconnection: upgrade\r\n"),
            "{head}"
        );
    }
}

/// RFC 9113 section 8.5: by HTTP/2 any success says that the tunnel is open.
#[tokio::test]
async fn an_app_that_ignores_the_upgrade_is_no_open_tunnel_to_an_http2_caller() {
    let mesh = TestMesh::start().await;
    let b = mesh.service("b", Script::answer(200, "a page")).await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    for to in [a.outbound(), b.inbound()] {
        let (answer, _sends) = extended_connect(to, "websocket").await;
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
        let why = answer.headers()["proxy-status"].to_str().expect("text");
        assert!(why.contains("error=http_upgrade_failed"), "{why}");
    }
    // By HTTP/1.1 it is the page.
    let (_, answer, _) = ask(a.outbound(), &handshake()).await;
    assert!(answer.starts_with("http/1.1 200 "), "{answer}");
    // What is refused by a sidecar is refused as well, also where the caller calls itself one of gRPC.
    let stream = TcpStream::connect(a.outbound()).await.expect("a connection");
    let (sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    let mut sender = within(sender.ready()).await.expect("it is open");
    until("SETTINGS_ENABLE_CONNECT_PROTOCOL", || async {
        sender.is_extended_connect_protocol_enabled().then_some(())
    })
    .await;
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri("http://nobody/chat")
        .header("content-type", "application/grpc")
        .extension(h2::ext::Protocol::from("websocket"));
    let (answer, _sends) = sender
        .send_request(request.body(()).expect("a request"), false)
        .expect("sent");
    let answer = within(answer).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
}

/// A head as it came, and what came with it.
async fn head_as_it_came(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut held = Vec::new();
    loop {
        if let Some(end) = held.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = held.split_off(end + 4);
            return Some((String::from_utf8_lossy(&held).into_owned(), rest));
        }
        if stream.read_buf(&mut held).await.ok()? == 0 {
            return None;
        }
    }
}

/// An HTTP/2 app that takes extended CONNECT, or does not say that it does.
fn http2_app(takes: bool) -> Script {
    Script::raw(move |stream| async move {
        let service = service_fn(|mut request: Request<Incoming>| async move {
            let asked = request
                .extensions()
                .get::<hyper::ext::Protocol>()
                .map(|asked| asked.as_str() == "websocket");
            let keyless = !request.headers().contains_key("sec-websocket-key");
            let mut answer = Response::new(Empty::<Bytes>::new());
            if asked != Some(true) || !keyless || request.method() != Method::CONNECT {
                *answer.status_mut() = StatusCode::BAD_REQUEST;
                return Ok::<_, std::convert::Infallible>(answer);
            }
            tokio::spawn(async move {
                let stream = hyper::upgrade::on(&mut request).await.expect("a stream");
                let (mut read, mut write) = tokio::io::split(TokioIo::new(stream));
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
            Ok(answer)
        });
        let mut builder = http2::Builder::new(TokioExecutor::new());
        if takes {
            builder.enable_connect_protocol();
        }
        let _ = builder.serve_connection(TokioIo::new(stream), service).await;
    })
}

#[tokio::test]
async fn an_http2_app_is_asked_by_extended_connect_if_it_says_that_it_takes_it() {
    let mesh = TestMesh::start().await;
    let settings = || MemberSettings {
        protocol: AppProtocol::Http2,
        ..MemberSettings::default()
    };
    let _b = mesh.service_with("b", http2_app(true), settings()).await;
    let _c = mesh.service_with("c", http2_app(false), settings()).await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    let (mut stream, answer, _) = ask(a.outbound(), &handshake()).await;
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
    // The app made none: the sidecar did.
    assert!(
        answer.contains(&format!("sec-websocket-accept: {}", ACCEPT.to_ascii_lowercase())),
        "{answer}"
    );
    echoed(&mut stream, b"ping").await;
    stream.shutdown().await.expect("ended");
    assert_eq!(within(stream.read(&mut [0; 1])).await.expect("a clean end"), 0);

    let to_c = handshake().replace("Host: b", "Host: c");
    let (_, answer, _) = ask(a.outbound(), &to_c).await;
    assert!(answer.starts_with("http/1.1 502 "), "{answer}");
    assert!(
        answer.contains("error=http_upgrade_failed") && answer.contains("rfc 8441"),
        "{answer}"
    );
    // RFC 8441 is for WebSockets alone.
    let other = handshake().replace("Upgrade: websocket", "Upgrade: other");
    let (_, answer, _) = ask(a.outbound(), &other).await;
    assert!(answer.starts_with("http/1.1 502 "), "{answer}");
}

/// aiohttp as the app, websocket-client and aiohttp as its clients: fragments, 8 MiB in one message, pings, both sides'
/// close handshakes, an app that dies, an HTTP proxy by CONNECT and by the absolute form.
#[tokio::test]
async fn libraries_of_others_speak_through_it() {
    for mesh in [TestMesh::start().await, TestMesh::secured().await] {
        let app = WebSocketApp::start().await;
        let b = app.join(&mesh, "b").await;
        let a = mesh.service("a", Script::answer(200, "")).await;
        call_web_sockets(a.outbound(), "b", Through::Proxy).await;
        until_tunnels(&a, 0.0).await;
        until_tunnels(&b, 0.0).await;
    }
}
