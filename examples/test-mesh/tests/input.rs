//! What a hostile or broken peer sends to any port: a refusal or a closed connection, never a crash, a guess, or memory
//! without bound.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Method, Request, StatusCode};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use weir_policy::model::AppProtocol;
use weir_test_mesh::{
    Act, MemberSettings, PATIENCE, Peer, Processes, Protocol, Running, Script, ScriptedApp, TestMesh, call, frame,
    free_port, until,
};

/// Sends, ends the sending side, and reads what comes back until the peer closes. What can't be sent because the peer
/// has closed already need not be sent.
async fn say(to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let said = async {
        let stream = TcpStream::connect(to).await.expect("a connection");
        let (mut read, mut write) = stream.into_split();
        let bytes = bytes.to_vec();
        let writing = tokio::spawn(async move {
            let _ = write.write_all(&bytes).await;
            let _ = write.shutdown().await;
            write
        });
        let mut answer = Vec::new();
        // A reset is an end as well.
        let _ = read.read_to_end(&mut answer).await;
        writing.abort();
        answer
    };
    let said = tokio::time::timeout(PATIENCE, said).await;
    said.unwrap_or_else(|_| {
        panic!(
            "{to} neither answers nor closes: {}",
            bytes[..bytes.len().min(80)].escape_ascii()
        )
    })
}

/// Sends, and reads an answer's head before it ends the sending side; then as [`say`].
async fn ask(to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let asked = async {
        let mut stream = TcpStream::connect(to).await.expect("a connection");
        stream.write_all(bytes).await.expect("written");
        let mut answer = Vec::new();
        while !answer.windows(4).any(|four| four == b"\r\n\r\n") {
            if !matches!(stream.read_buf(&mut answer).await, Ok(1..)) {
                return answer;
            }
        }
        let _ = stream.shutdown().await;
        let _ = stream.read_to_end(&mut answer).await;
        answer
    };
    tokio::time::timeout(PATIENCE, asked)
        .await
        .expect("an answer or an end")
}

/// The status of each HTTP/1.1 answer.
fn statuses(answer: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(answer);
    let lines = text.split("HTTP/1.1 ").skip(1);
    lines.map(|rest| rest.chars().take(3).collect()).collect()
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Messages that are wrong whoever gets them, with a name for the message of a failing test.
fn wrong_everywhere() -> Vec<(&'static str, Vec<u8>)> {
    let text = |text: &str| text.as_bytes().to_vec();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = |bytes: usize| -> Vec<u8> {
        let next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random as u8
        };
        std::iter::repeat_with(next).take(bytes).collect()
    };
    let h2 = |frames: &[Vec<u8>]| [PREFACE.to_vec(), frame(4, 0, 0, &[]), frames.concat()].concat();
    let field = "x: y\r\n";
    vec![
        ("nothing", text("")),
        ("a line's begin", text("GET / HT")),
        ("a head's begin", text("GET / HTTP/1.1\r\nhost: a")),
        ("no HTTP", text("hello\r\n\r\n")),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
        ("zeros", vec![0; 100_000]),
        ("noise", noise(64)),
        ("more noise", noise(100_000)),
        ("noise in HTTP/2", [PREFACE.to_vec(), noise(10_000)].concat()),
        ("HTTP/9.9", text("GET / HTTP/9.9\r\nhost: a\r\n\r\n")),
        (
            "a bare LF in a value",
            text("GET / HTTP/1.1\r\nhost: a\r\nx: a\nb\r\n\r\n"),
        ),
        ("NUL in a value", text("GET / HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n")),
        ("a space before the colon", text("GET / HTTP/1.1\r\nhost : a\r\n\r\n")),
        ("a folded line", text("GET / HTTP/1.1\r\nhost: a\r\nx: a\r\n b\r\n\r\n")),
        (
            "two lengths",
            text("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab"),
        ),
        (
            "a list as length",
            text("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1, 1\r\n\r\na"),
        ),
        (
            "a signed length",
            text("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +1\r\n\r\na"),
        ),
        (
            "a length past u64",
            text("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999999999999\r\n\r\na"),
        ),
        (
            "an unknown coding",
            text("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: zip\r\n\r\na"),
        ),
        (
            "chunked, but not last",
            text("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
        ),
        (
            "HTTP/1.0 with chunks",
            text("POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        ),
        (
            "a long target",
            text(&format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(200_000))),
        ),
        (
            "a long value",
            text(&format!(
                "GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n",
                "a".repeat(200_000)
            )),
        ),
        (
            "10,000 fields",
            text(&format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", field.repeat(10_000))),
        ),
        (
            "a head without end",
            text(&format!("GET / HTTP/1.1\r\nhost: a\r\n{}", field.repeat(1_000_000))),
        ),
        // HTTP/2: a frame over the limit of 16 KiB; DATA on stream 0; HEADERS on an even stream; HPACK that is none; a
        // window of 0; a window past 2^31; CONTINUATION without HEADERS; a table size past the limit.
        ("a frame too large", h2(&[frame(0, 0, 1, &[0; 20_000])])),
        ("DATA on stream 0", h2(&[frame(0, 0, 0, b"x")])),
        ("an even stream", h2(&[frame(1, 5, 2, b"\x82\x86\x84\x41\x01a")])),
        ("no HPACK", h2(&[frame(1, 5, 1, &[0xff; 100])])),
        ("no window", h2(&[frame(8, 0, 0, &[0; 4])])),
        ("a window too large", h2(&[frame(8, 0, 0, &[0x7f, 0xff, 0xff, 0xff])])),
        ("CONTINUATION alone", h2(&[frame(9, 4, 1, b"\x82")])),
        (
            "a table too large",
            h2(&[frame(1, 5, 1, b"\x3f\xff\xff\xff\x7f\x82\x86\x84\x41\x01a")]),
        ),
        ("a length no multiple", h2(&[frame(4, 0, 0, &[0; 5])])),
        (
            "a head of CONTINUATION without end",
            h2(&[
                vec![frame(1, 1, 1, b"\x82\x86\x84\x41\x01a")],
                vec![frame(9, 0, 1, &[0; 10_000]); 2_000],
            ]
            .concat()),
        ),
        // One field of 4 KiB in the dynamic table, and then 16,000 references to it: 64 MiB for 20 KiB.
        (
            "an HPACK bomb",
            h2(&[frame(
                1,
                5,
                1,
                &[
                    &b"\x82\x86\x84\x41\x01a\x40\x01x\x7f\xa1\x1e"[..],
                    &[b'v'; 4000],
                    &[0xbe; 12_000],
                ]
                .concat(),
            )]),
        ),
        (
            "streams that are reset at once",
            h2(&(0..5_000_u32)
                .flat_map(|n| {
                    let id = n * 2 + 1;
                    [
                        frame(1, 5, id, b"\x82\x86\x84\x41\x01a"),
                        frame(3, 0, id, &8_u32.to_be_bytes()),
                    ]
                })
                .collect::<Vec<_>>()),
        ),
        ("PING without end", h2(&vec![frame(6, 0, 0, &[0; 8]); 20_000])),
        ("SETTINGS without end", h2(&vec![frame(4, 0, 0, &[]); 20_000])),
    ]
}

/// Nothing of it may be answered with success.
async fn refuse_all(port: &str, to: SocketAddr) {
    for (name, message) in wrong_everywhere() {
        let answer = say(to, &message).await;
        let statuses = statuses(&answer);
        assert!(
            statuses.iter().all(|status| status.starts_with('4') || status == "505"),
            "{port}, {name}: {}",
            answer[..answer.len().min(400)].escape_ascii()
        );
    }
}

#[tokio::test]
async fn garbage_on_any_port_is_refused_and_the_next_request_served() {
    let mesh = TestMesh::start().await;
    let a = mesh.service("a", Script::answer(200, "well")).await;
    let addresses = a.addresses().clone();
    let api = mesh.control().api_addr();
    let before = a.seen().len();
    for (port, to) in [
        ("outbound", a.outbound()),
        ("inbound", a.inbound()),
        ("admin", addresses.admin),
        ("metrics", addresses.metrics),
        ("health", addresses.health),
        ("API", api),
        ("xDS", mesh.control().xds_addr().expect("it is on")),
    ] {
        refuse_all(port, to).await;
        // Whoever behaves is served as before.
        assert_eq!(a.get("http://a/").await.text(), "well", "after garbage on {port}");
    }
    let reached: Vec<_> = a.seen()[before..]
        .iter()
        .map(|seen| seen.head.uri.path().to_owned())
        .collect();
    assert_eq!(reached, ["/"; 7], "only the good requests reached the app");
    let health = Request::get("/healthz/ready")
        .header("host", "localhost")
        .body(Full::default());
    let answer = call(addresses.health, Protocol::Http1, health.expect("a request"))
        .await
        .expect("an answer");
    assert_eq!(answer.status, StatusCode::OK);
    assert!(a.config().await.is_object());
    let services = mesh.api(Method::GET, "/api/v1/namespaces/default/services", None).await;
    assert_eq!(services.status, StatusCode::OK);
    // The xDS port as well: a service nobody has asked for yet is learnt.
    let _b = mesh.service("b", Script::answer(200, "learnt")).await;
    assert_eq!(a.get("http://b/").await.text(), "learnt");
}

#[tokio::test]
async fn two_readings_of_a_request_are_never_both_taken() {
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: b\r\n\r\n";
    for (name, message, refused) in [
        (
            "two hosts",
            format!("GET / HTTP/1.1\r\nhost: b\r\nhost: a\r\n\r\n{smuggled}"),
            true,
        ),
        ("no host", "GET / HTTP/1.1\r\n\r\n".to_owned(), true),
        (
            "user information",
            "GET / HTTP/1.1\r\nhost: x@b\r\n\r\n".to_owned(),
            true,
        ),
        (
            "a host of two words",
            "GET / HTTP/1.1\r\nhost: a b\r\n\r\n".to_owned(),
            true,
        ),
        (
            "a relative target",
            "GET x HTTP/1.1\r\nhost: b\r\n\r\n".to_owned(),
            true,
        ),
        (
            "a CONNECT with a length",
            format!(
                "CONNECT b:80 HTTP/1.1\r\nhost: b:80\r\ncontent-length: {}\r\n\r\n{smuggled}",
                smuggled.len()
            ),
            true,
        ),
        (
            "an upgrade with a length",
            format!(
                "GET / HTTP/1.1\r\nhost: b\r\nconnection: upgrade\r\nupgrade: websocket\r\ncontent-length: {}\r\n\r\n\
                 {smuggled}",
                smuggled.len()
            ),
            false,
        ),
        (
            "a length and chunks",
            format!(
                "POST / HTTP/1.1\r\nhost: b\r\ncontent-length: {}\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}",
                5 + smuggled.len()
            ),
            true,
        ),
        (
            "chunks and a length",
            format!(
                "POST / HTTP/1.1\r\nhost: b\r\ntransfer-encoding: chunked\r\ncontent-length: {}\r\n\r\n0\r\n\r\n{smuggled}",
                5 + smuggled.len()
            ),
            true,
        ),
        (
            "a length that Connection names",
            format!(
                "POST / HTTP/1.1\r\nhost: b\r\nconnection: content-length\r\ncontent-length: {}\r\n\r\n{smuggled}",
                smuggled.len()
            ),
            false,
        ),
        (
            "a chunk's length that is none",
            "POST / HTTP/1.1\r\nhost: b\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\nabc\r\n0\r\n\r\n".to_owned(),
            true,
        ),
        (
            "a chunk longer than its length",
            "POST / HTTP/1.1\r\nhost: b\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n".to_owned(),
            true,
        ),
        (
            "a body's begin",
            "POST / HTTP/1.1\r\nhost: b\r\ncontent-length: 10\r\n\r\nabc".to_owned(),
            true,
        ),
    ] {
        let mesh = TestMesh::start().await;
        let a = mesh.service("a", Script::answer(200, "")).await;
        // It reads what it gets by the letter, and does not know that a sidecar stands before it.
        let peer = Peer::http1(|_| Act::Answer(200)).await;
        mesh.plain_service("b", AppProtocol::Http1, &[peer.address()]).await;
        assert_eq!(a.get("http://b/first").await.status, StatusCode::OK);
        let answer = match refused {
            true => say(a.outbound(), message.as_bytes()).await,
            false => ask(a.outbound(), message.as_bytes()).await,
        };
        let statuses = statuses(&answer);
        let saw = peer.saw();
        assert!(saw[0].head.starts_with("get /first "));
        for seen in &saw[1..] {
            let framings = ["content-length:", "transfer-encoding:"];
            let framed = framings.iter().filter(|field| seen.head.contains(**field)).count();
            assert!(framed <= 1, "{name}: {}", seen.head);
        }
        if refused {
            assert!(!saw[1..].iter().any(|seen| seen.ended), "{name}: {saw:#?}");
            assert!(
                statuses.iter().all(|status| status.starts_with(['4', '5'])),
                "{name}: {statuses:?}"
            );
        } else {
            assert!(!statuses.is_empty(), "{name}: no answer");
        }
        assert_eq!(a.get("http://b/last").await.status, StatusCode::OK, "{name}");
        // What reached the app is what the sidecar took it for: each of its requests is one of the sidecar's.
        let at_app = peer.saw().iter().filter(|saw| saw.ended).count();
        let (_, log) = a.stop().await;
        assert!(at_app <= log.len(), "{name}: {at_app} reached the app: {log:#?}");
    }
}

#[tokio::test]
async fn a_refusal_is_answered_counted_and_logged() {
    let mesh = TestMesh::start().await;
    let a = mesh.service("a", Script::answer(200, "well")).await;
    let smuggling =
        b"POST /p?secret HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    for to in [a.outbound(), a.inbound()] {
        let answer = String::from_utf8(say(to, smuggling).await).expect("text");
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
        let rule = "it has Content-Length and Transfer-Encoding (RFC 9112 section 6.3)";
        let status = format!("error=http_request_error; details=\"the request is refused: {rule}\"");
        assert!(answer.contains(&status), "{answer}");
        let text = format!("the request is refused: {rule}; frame the body by one Content-Length or by ");
        assert!(answer.contains(&text), "{answer}");
    }
    say(a.outbound(), b"nonsense\r\n\r\n").await;
    for (rule, count) in [("length_and_coding", 2.0), ("request_line", 1.0)] {
        let rule = format!("rule=\"{rule}\"");
        assert_eq!(a.metric("weir_http1_refused_total", &[&rule]).await, count, "{rule}");
    }
    assert!(a.seen().is_empty());
    let (_, log) = a.stop().await;
    let lines: Vec<_> = log
        .iter()
        .map(|line| {
            let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            assert_eq!(line["http.response.status_code"], 400);
            assert_eq!(line["weir.flag"], "bad_request");
            (text("weir.direction"), text("http.request.method"), text("url.path"))
        })
        .collect();
    let expect = [
        ("outbound", "POST", "/p"),
        ("inbound", "POST", "/p"),
        ("outbound", "_OTHER", ""),
    ];
    for (line, expect) in lines.iter().zip(expect) {
        assert_eq!((line.0.as_str(), line.1.as_str(), line.2.as_str()), expect);
    }
    assert_eq!(lines.len(), 3, "{log:#?}");
}

#[tokio::test]
async fn an_answer_that_is_no_http_is_a_bad_gateway() {
    let big = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "a".repeat(200_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(10_000));
    for answer in [
        "hello\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx\0: y\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        // Codings of one hop, which the next can't be told of; and an upgrade that nobody asked for.
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nx",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        &big,
        &many,
    ] {
        let mesh = TestMesh::start().await;
        let a = mesh.service("a", Script::answer(200, "")).await;
        let bytes = answer.as_bytes().to_vec();
        let peer = Peer::http1(move |_| Act::Bytes(bytes.clone())).await;
        mesh.plain_service("b", AppProtocol::Http1, &[peer.address()]).await;
        let got = a.get("http://b/").await;
        assert_eq!(
            got.status,
            StatusCode::BAD_GATEWAY,
            "{}",
            &answer[..answer.len().min(60)]
        );
        assert!(got.header("proxy-status").is_some_and(|why| why.contains("error=")));
        assert_eq!(peer.saw().len(), 1);
    }
    // With both framings it is read by its chunks, and only those are passed on.
    let mesh = TestMesh::start().await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    let both = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n";
    let peer = Peer::http1(move |_| Act::Bytes(both.to_vec())).await;
    mesh.plain_service("b", AppProtocol::Http1, &[peer.address()]).await;
    let request = Request::get("/").header("host", "b").body(Full::default());
    match call(a.outbound(), Protocol::Http1, request.expect("a request")).await {
        Ok(answer) if answer.status == StatusCode::OK => {
            assert_eq!(
                (answer.text().as_str(), answer.header("content-length")),
                ("whole", None)
            );
        }
        Ok(answer) => assert_eq!(answer.status, StatusCode::BAD_GATEWAY),
        Err(_) => {}
    }
}

/// A proxy in a process of its own, in front of an app.
struct Spawned {
    running: Running,
    outbound: SocketAddr,
    inbound: SocketAddr,
    others: Vec<SocketAddr>,
}

impl Spawned {
    async fn start(mesh: &TestMesh, name: &str, app: &ScriptedApp) -> Spawned {
        Spawned::start_with(mesh, name, ("http", app), &[]).await
    }

    /// With an app that speaks this, and more arguments.
    async fn start_with(mesh: &TestMesh, name: &str, (speaks, app): (&str, &ScriptedApp), more: &[&str]) -> Spawned {
        let loopback = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let ports: Vec<SocketAddr> = (0..5).map(|_| loopback(free_port())).collect();
        let text: Vec<String> = ports.iter().map(SocketAddr::to_string).collect();
        let app_port = format!("{}={speaks}@{}", app.address().port(), ports[1].port());
        let (control, labels) = (
            format!("http://{}", mesh.control().xds_addr().expect("it is on")),
            format!("app={name}"),
        );
        let args = [
            ["--workload", name],
            ["--namespace", "default"],
            ["--control-plane", &control],
            ["--app", &app_port],
            ["--inbound-address", "127.0.0.1"],
            ["--labels", &labels],
            ["--outbound", &text[0]],
            ["--admin", &text[2]],
            ["--metrics", &text[3]],
            ["--health", &text[4]],
            ["--access-log", "off"],
            ["--log-level", "off"],
        ];
        let args = [&args.concat(), more].concat();
        let running = Processes::of_this_build().start("weir-proxy", &args);
        until("a spawned proxy to be ready", || async {
            let request = Request::get("/healthz/ready")
                .header("host", "localhost")
                .body(Full::default());
            let answer = call(ports[4], Protocol::Http1, request.expect("a request")).await;
            answer.ok().filter(|answer| answer.status == StatusCode::OK)
        })
        .await;
        Spawned {
            running,
            outbound: ports[0],
            inbound: ports[1],
            others: ports[2..].to_vec(),
        }
    }

    /// Its resident memory, in KiB.
    fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.running.pid())).expect("it runs");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("Linux tells it");
        let kib = line.split_whitespace().next().and_then(|kib| kib.parse().ok());
        kib.expect("a number")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_input_takes_no_memory() {
    let mesh = TestMesh::start().await;
    mesh.apply_service("a", "a", AppProtocol::Http1).await;
    let app = ScriptedApp::start(Script::answer(200, "well")).await;
    let proxy = Spawned::start(&mesh, "a", &app).await;
    let good = async || {
        let request = Request::get("/").header("host", "a").body(Full::default());
        call(proxy.outbound, Protocol::Http1, request.expect("a request"))
            .await
            .expect("an answer")
            .status
    };
    until("the proxy to know its service", || async {
        (good().await == StatusCode::OK).then_some(())
    })
    .await;
    let ports: Vec<SocketAddr> = [vec![proxy.outbound, proxy.inbound], proxy.others.clone()].concat();
    // Once, so that what any first use takes is there already.
    for to in &ports {
        refuse_all("a first time", *to).await;
    }
    let before = proxy.memory_kib();
    for _ in 0..3 {
        let mut hostile = JoinSet::new();
        for to in ports.clone() {
            hostile.spawn(async move { refuse_all("again", to).await });
        }
        while let Some(refused) = hostile.join_next().await {
            refused.expect("all refused");
        }
        assert_eq!(good().await, StatusCode::OK);
    }
    let after = proxy.memory_kib();
    assert!(after < before + 16 * 1024, "from {before} to {after} KiB");
}

/// Waits until a sender is held back: the count of what it got rid of stands still, and is more than `before`.
async fn held_back(sent: &AtomicUsize, before: usize) -> usize {
    let (mut last, mut still) = (0, 0);
    until("the sender to be held back", || {
        let now = sent.load(Ordering::SeqCst);
        still = if now == last && now > before { still + 1 } else { 0 };
        last = now;
        std::future::ready((still > 40).then_some(now))
    })
    .await
}

/// Two sidecars, between a sender of [`SENT_BYTES`] and one who stops reading four times until nothing moves any more:
/// what is on its way then is what the sockets of three connections hold, all arrives, and neither sidecar's memory
/// grows with it.
///
/// `begin`: what the reader says first; `head`: what the sender says before the bytes.
async fn stalls(protocol: AppProtocol, begin: &'static [u8], head: &'static str) {
    const SENT_BYTES: usize = 1 << 30;
    const STALL_EVERY: usize = SENT_BYTES / 4;
    const MEMORY_KIB_MAX: u64 = 2 * 1024;
    let mesh = TestMesh::start().await;
    mesh.apply_service("a", "a", AppProtocol::Http1).await;
    mesh.apply_service("b", "b", protocol).await;
    let sent = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&sent);
    let large = Script::raw(move |mut stream| {
        let counts = Arc::clone(&counts);
        async move {
            let mut asked = [0; 4096];
            let large = match stream.read(&mut asked).await {
                Ok(bytes @ 1..) => asked[..bytes].starts_with(b"GET /large"),
                Ok(0) | Err(_) => return,
            };
            // The first request learns the way, and warms it: buffers that any connection has are there afterwards.
            let bytes = if large { SENT_BYTES } else { WARM_BYTES };
            let head = head.replace("LENGTH", &bytes.to_string());
            let _ = stream.write_all(head.as_bytes()).await;
            let part = vec![b'x'; 1 << 16];
            for _ in 0..bytes / part.len() {
                if stream.write_all(&part).await.is_err() {
                    return;
                }
                if large {
                    counts.fetch_add(part.len(), Ordering::SeqCst);
                }
            }
        }
    });
    let app_a = ScriptedApp::start(Script::answer(200, "")).await;
    let app_b = ScriptedApp::start(large).await;
    let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let listens = format!("{listen}=b.default:80");
    let (speaks, way, port): (_, &[&str], _) = match protocol {
        AppProtocol::Tcp => ("tcp", &["--listen", &listens], Some(listen)),
        AppProtocol::Http1 | AppProtocol::Http2 | AppProtocol::Grpc => ("http", &[], None),
    };
    let a = Spawned::start_with(&mesh, "a", ("http", &app_a), way).await;
    let b = Spawned::start_with(&mesh, "b", (speaks, &app_b), &[]).await;
    let to = port.unwrap_or(a.outbound);
    let open = async |path: &str| {
        let mut stream = TcpStream::connect(to).await.ok()?;
        let request = [b"GET ", path.as_bytes(), begin].concat();
        stream.write_all(&request).await.ok()?;
        Some(stream)
    };
    until("a to know b", || async {
        let mut stream = open("/small").await?;
        let mut whole = Vec::new();
        stream.read_to_end(&mut whole).await.ok()?;
        (whole.len() >= WARM_BYTES).then_some(())
    })
    .await;
    let on_their_way_max = 3 * socket_bytes_max();
    let before = (a.memory_kib(), b.memory_kib());
    let mut most = before;
    let mut stream = open("/large").await.expect("a connection");
    let (mut received, mut next_stall) = (0, 0);
    let mut part = vec![0; 1 << 16];
    loop {
        if received >= next_stall && received < SENT_BYTES {
            next_stall += STALL_EVERY;
            let ahead = held_back(&sent, received).await.saturating_sub(received);
            assert!(
                ahead < on_their_way_max,
                "{ahead} bytes are on their way to a reader that does not read"
            );
            most = (most.0.max(a.memory_kib()), most.1.max(b.memory_kib()));
        }
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut part)).await;
        match read.expect("it goes on").expect("what was sent") {
            0 => break,
            bytes => received += bytes,
        }
    }
    let head_bytes = head.replace("LENGTH", &SENT_BYTES.to_string()).len();
    assert!(
        received >= SENT_BYTES && received < SENT_BYTES + head_bytes + 1024,
        "{received} bytes"
    );
    most = (most.0.max(a.memory_kib()), most.1.max(b.memory_kib()));
    assert!(
        most.0 < before.0 + MEMORY_KIB_MAX,
        "a: from {} to {} KiB",
        before.0,
        most.0
    );
    assert!(
        most.1 < before.1 + MEMORY_KIB_MAX,
        "b: from {} to {} KiB",
        before.1,
        most.1
    );
}

/// What the system holds at most of one connection, at both its ends (tcp(7), tcp_rmem and tcp_wmem).
fn socket_bytes_max() -> usize {
    let most = |of: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{of}")).expect("Linux tells it");
        let most = text
            .split_whitespace()
            .nth(2)
            .and_then(|most| most.parse::<usize>().ok());
        most.expect("three numbers")
    };
    most("tcp_rmem") + most("tcp_wmem")
}

/// So much as fills every buffer on its way once.
const WARM_BYTES: usize = 64 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_of_an_answer_holds_back_the_app_and_not_the_memory() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: LENGTH\r\nconnection: close\r\n\r\n";
    let begin = b" HTTP/1.1\r\nhost: b\r\nconnection: close\r\n\r\n";
    stalls(AppProtocol::Http1, begin, head).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_reader_of_a_tcp_connection_holds_back_the_app_and_not_the_memory() {
    stalls(AppProtocol::Tcp, b"\n", "").await;
}

#[tokio::test]
async fn a_peer_that_says_nothing_holds_nobody_up() {
    let mesh = TestMesh::start().await;
    let settings = MemberSettings {
        proxy: Box::new(|config| config.drain_timeout = Duration::from_secs(30)),
        ..MemberSettings::default()
    };
    let a = mesh.service_with("a", Script::answer(200, "well"), settings).await;
    let mut silent = Vec::new();
    for begin in [&b""[..], b"GET", b"GET / HTTP/1.1\r\nhost:", PREFACE] {
        for to in [a.outbound(), a.inbound()] {
            for _ in 0..20 {
                let mut stream = TcpStream::connect(to).await.expect("a connection");
                stream.write_all(begin).await.expect("written");
                silent.push(stream);
            }
        }
    }
    assert_eq!(a.get("http://a/").await.text(), "well");
    // Nor the end of the proxy.
    let (drained, log) = a.stop().await;
    assert_eq!(drained, weir_proxy::Drained::Whole);
    assert_eq!(log.len(), 2, "one request, both ways: {log:#?}");
}
