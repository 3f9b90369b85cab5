//! How a proxy ends: requests under way end whole or are cut off in time, callers are told to go elsewhere, and nobody
//! finds the workload any more.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use weir_proxy::Drained;
use weir_test_mesh::{Client, Member, MemberSettings, Protocol, Script, TestMesh, call, frame, until};

/// An app that answers "whole" once the gate is open.
fn gated() -> (watch::Sender<bool>, Script) {
    let (sender, receiver) = watch::channel(false);
    let script = Script::http(move |_| {
        let mut gate = receiver.clone();
        async move {
            let _ = gate.wait_for(|open| *open).await;
            Response::new(Full::from("whole"))
        }
    });
    (sender, script)
}

fn drains_within(timeout: Duration) -> MemberSettings {
    MemberSettings {
        proxy: Box::new(move |config| config.drain_timeout = timeout),
        ..MemberSettings::default()
    }
}

async fn slices(mesh: &TestMesh) -> serde_json::Value {
    let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    mesh.api(Method::GET, path, None).await.json()
}

/// The conditions of the endpoints that the control plane has of a workload.
async fn conditions(mesh: &TestMesh, workload: &str) -> Vec<serde_json::Value> {
    let slices = slices(mesh).await;
    let of_workload = slices["items"].as_array().into_iter().flatten().flat_map(|slice| {
        let endpoints = slice["endpoints"].as_array().cloned().unwrap_or_default();
        endpoints
            .into_iter()
            .filter(|endpoint| endpoint["targetRef"]["name"] == workload)
            .map(|endpoint| endpoint["conditions"].clone())
    });
    of_workload.collect()
}

#[tokio::test]
async fn what_is_under_way_ends_whole_and_nothing_new_comes() {
    let mesh = TestMesh::start().await;
    let (gate, script) = gated();
    let b = mesh.service("b", script).await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    let outbound = a.outbound();
    let health = a.addresses().health;

    let mut under_way = Client::connect(outbound, Protocol::Http1).await.expect("a connection");
    let request = |host: &str| {
        Request::get("/")
            .header("host", host)
            .body(Full::default())
            .expect("a request")
    };
    let first = request("b");
    let first = tokio::spawn(async move { under_way.send(first).await });
    until("the request at the app", || async { b.seen().first().map(|_| ()) }).await;
    // And one that has nothing under way, and one that has not said a word.
    let mut idle = Client::connect(outbound, Protocol::Http1).await.expect("a connection");
    assert_eq!(idle.send(request("a")).await.expect("an answer").status, StatusCode::OK);
    let mut silent = TcpStream::connect(outbound).await.expect("a connection");
    until("three connections", || async {
        let downstream = [r#"direction="outbound",side="downstream""#];
        (a.metric("weir_connections", &downstream).await == 3.0).then_some(())
    })
    .await;

    let draining = tokio::spawn(a.stop());
    assert_eq!(silent.read(&mut [0; 1]).await.expect("an end"), 0, "closed");
    until("new connections to be refused", || async {
        TcpStream::connect(outbound).await.is_err().then_some(())
    })
    .await;
    assert!(idle.send(request("a")).await.is_err(), "an idle connection is closed");
    let request = Request::get("/healthz/ready")
        .header("host", "localhost")
        .body(Full::default());
    let ready = call(health, Protocol::Http1, request.expect("a request"))
        .await
        .expect("an answer");
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE, "probes see it");
    until("callers to be told", || async {
        let conditions = conditions(&mesh, "a").await;
        conditions.iter().all(|one| one["ready"] == false).then_some(())
    })
    .await;
    assert!(!draining.is_finished(), "one request is under way");
    assert!(!first.is_finished());

    gate.send_replace(true);
    let answer = first.await.expect("the request's task").expect("an answer");
    assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, "whole"));
    assert_eq!(answer.header("connection"), Some("close"), "send no more here");
    let (drained, log) = draining.await.expect("the drain");
    assert_eq!(drained, Drained::Whole);
    // What was recorded last is written out.
    let whole = log
        .iter()
        .find(|line| line["weir.service"] == "b.default.svc.cluster.local:80");
    let whole = whole.or_else(|| log.iter().find(|line| line["server.address"] == "b"));
    assert_eq!(
        whole.map(|line| &line["http.response.status_code"]),
        Some(&200.into()),
        "{log:#?}"
    );
    until("the control plane to have no endpoint of it", || async {
        conditions(&mesh, "a").await.is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn http2_callers_get_goaway_and_the_rest_of_their_answers() {
    let mesh = TestMesh::start().await;
    let (gate, script) = gated();
    let b = mesh.service("b", script).await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    let mut stream = TcpStream::connect(a.outbound()).await.expect("a connection");
    // GET / of http://b: three fields of HPACK's static table, and :authority as a literal (RFC 7541 appendix A).
    let head = b"\x82\x86\x84\x41\x01b";
    let begin = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(SETTINGS, 0, 0, &[]),
        frame(HEADERS, END_STREAM | END_HEADERS, 1, head),
    ];
    stream.write_all(&begin.concat()).await.expect("written");
    until("the request at the app", || async { b.seen().first().map(|_| ()) }).await;
    let draining = tokio::spawn(a.stop());
    // First a GOAWAY that allows for what is on its way, then, after a PING, the one that counts (RFC 9113 section
    // 6.8).
    loop {
        let (kind, flags, _, payload) = read_frame(&mut stream).await;
        match kind {
            PING if flags & ACK == 0 => {
                let pong = frame(PING, ACK, 0, &payload);
                stream.write_all(&pong).await.expect("written");
            }
            GOAWAY if payload.starts_with(&1_u32.to_be_bytes()) => break,
            _ => {}
        }
    }
    let late = frame(HEADERS, END_STREAM | END_HEADERS, 3, head);
    stream.write_all(&late).await.expect("written");
    gate.send_replace(true);
    let mut content = Vec::new();
    loop {
        let (kind, flags, id, payload) = read_frame(&mut stream).await;
        match (kind, id) {
            (HEADERS, 1) => {}
            (DATA, 1) => content.extend(payload),
            (HEADERS | DATA, _) => panic!("an answer on stream {id}, which is above the last"),
            _ => {}
        }
        if matches!((kind, id), (HEADERS | DATA, 1)) && flags & END_STREAM != 0 {
            break;
        }
    }
    assert_eq!(content, b"whole");
    assert_eq!(draining.await.expect("the drain").0, Drained::Whole);
    assert_eq!(b.seen().len(), 1);
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// A frame: its type, flags, stream and payload.
async fn read_frame(stream: &mut TcpStream) -> (u8, u8, u32, Vec<u8>) {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.expect("a frame");
    let [a, b, c, kind, flags, id @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    stream.read_exact(&mut payload).await.expect("its payload");
    (kind, flags, u32::from_be_bytes(id), payload)
}

#[tokio::test]
async fn callers_elsewhere_lose_nothing_when_an_endpoint_drains() {
    let mesh = TestMesh::start().await;
    let b = mesh.service("b", Script::answer(200, "one")).await;
    let other = mesh
        .workload("b-2", "b", Script::answer(200, "two"), MemberSettings::default())
        .await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    let (stop, stopped) = watch::channel(false);
    let outbound = a.outbound();
    let load = tokio::spawn(async move {
        let mut client = Client::connect(outbound, Protocol::Http1).await.expect("a connection");
        let mut sent = 0;
        while !*stopped.borrow() {
            let request = Request::post("/")
                .header("host", "b")
                .body(Full::default())
                .expect("a request");
            let answer = client.send(request).await.expect("an answer");
            assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.header("proxy-status"));
            sent += 1;
        }
        sent
    });
    until("both to be used", || async {
        (!b.seen().is_empty() && !other.seen().is_empty()).then_some(())
    })
    .await;
    let (drained, _) = b.stop().await;
    assert_eq!(drained, Drained::Whole);
    let so_far = other.seen().len();
    until("requests after the drain", || async {
        (other.seen().len() > so_far + 20).then_some(())
    })
    .await;
    stop.send_replace(true);
    assert!(load.await.expect("every POST has its answer") > 20);
}

#[tokio::test]
async fn what_takes_too_long_is_cut_off() {
    let mesh = TestMesh::start().await;
    let (_gate, script) = gated();
    let b = mesh.service("b", script).await;
    let a = mesh
        .service_with("a", Script::answer(200, ""), drains_within(Duration::from_millis(50)))
        .await;
    let request = Request::get("/")
        .header("host", "b")
        .body(Full::default())
        .expect("a request");
    let first = tokio::spawn(call(a.outbound(), Protocol::Http1, request));
    until("the request at the app", || async { b.seen().first().map(|_| ()) }).await;
    let (drained, log) = a.stop().await;
    assert_eq!(drained, Drained::CutOff);
    assert!(
        first.await.expect("the request's task").is_err(),
        "no answer is made up"
    );
    assert_eq!(log.len(), 1, "what was cut off is recorded: {log:#?}");
    assert_eq!(log[0]["http.response.status_code"], 0);
    // The other sidecar hears of it: its own drain has nothing to wait for.
    assert_eq!(b.stop().await.0, Drained::Whole);
}

#[tokio::test]
async fn an_answer_that_streams_is_cut_off_as_broken() {
    let mesh = TestMesh::start().await;
    let script = Script::raw(|mut stream| async move {
        let mut head = [0; 1024];
        let _ = stream.read(&mut head).await;
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n")
            .await;
        while !matches!(stream.read(&mut head).await, Ok(0) | Err(_)) {}
    });
    let b = mesh.service("b", script).await;
    let a = mesh
        .service_with("a", Script::answer(200, ""), drains_within(Duration::from_millis(50)))
        .await;
    let mut stream = TcpStream::connect(a.outbound()).await.expect("a connection");
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: b\r\n\r\n")
        .await
        .expect("written");
    let mut answer = Vec::new();
    while !answer.ends_with(b"half\r\n") {
        assert_ne!(
            stream.read_buf(&mut answer).await.expect("an answer"),
            0,
            "{}",
            answer.escape_ascii()
        );
    }
    let (drained, log) = a.stop().await;
    assert_eq!(drained, Drained::CutOff);
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "looks whole: {}", rest.escape_ascii());
    assert_eq!(log.len(), 1, "{log:#?}");
    assert_eq!(b.stop().await.0, Drained::Whole);
}

#[tokio::test]
async fn a_body_that_still_comes_is_waited_for() {
    let mesh = TestMesh::start().await;
    let echo = Script::http(|seen| async move { Response::new(Full::from(seen.body)) });
    let b: Arc<Member> = Arc::new(mesh.service("b", echo).await);
    let a = mesh.service("a", Script::answer(200, "")).await;
    let mut stream = TcpStream::connect(a.outbound()).await.expect("a connection");
    stream
        .write_all(b"POST / HTTP/1.1\r\nhost: b\r\ncontent-length: 8\r\n\r\nhalf")
        .await
        .expect("written");
    until("the request at the other sidecar", || async {
        let open = [r#"direction="inbound",side="downstream""#];
        (b.metric("weir_connections", &open).await >= 1.0).then_some(())
    })
    .await;
    let draining = tokio::spawn(a.stop());
    stream.write_all(b"half").await.expect("written");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an answer and an end");
    let answer = String::from_utf8_lossy(&answer).to_ascii_lowercase();
    assert!(
        answer.starts_with("http/1.1 200 ") && answer.ends_with("\r\n\r\nhalfhalf"),
        "{answer}"
    );
    assert_eq!(draining.await.expect("the drain").0, Drained::Whole);
}
