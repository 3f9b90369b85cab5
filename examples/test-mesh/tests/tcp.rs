//! TCP through the mesh: whatever is spoken, it arrives whole or is seen to be cut off.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weir_policy::model::AppProtocol;
use weir_proxy::Drained;
use weir_proxy::config::{ProxyConfig, TcpListen};
use weir_test_mesh::{ClosedPort, Member, MemberSettings, Script, ScriptedApp, TestMesh, until, until_within};

/// Sends back what comes, and ends when that ends.
fn echo() -> Script {
    Script::raw(|mut stream| async move {
        let (mut reads, mut writes) = stream.split();
        let _ = tokio::io::copy(&mut reads, &mut writes).await;
        let _ = writes.shutdown().await;
    })
}

/// The settings of a workload that carries TCP.
fn tcp() -> MemberSettings {
    MemberSettings {
        protocol: AppProtocol::Tcp,
        ..MemberSettings::default()
    }
}

/// One whose app reaches these services by ports of their own.
fn reaches(services: &'static [&'static str]) -> MemberSettings {
    reaches_with(services, |_| {})
}

fn reaches_with(services: &'static [&'static str], change: fn(&mut ProxyConfig)) -> MemberSettings {
    MemberSettings {
        proxy: Box::new(move |config| {
            let listens = services.iter().map(|service| TcpListen {
                address: SocketAddr::from(([127, 0, 0, 1], 0)),
                service: format!("{service}.default.svc.cluster.local:80")
                    .parse()
                    .expect("a name"),
            });
            config.listens = listens.collect();
            change(config);
        }),
        ..MemberSettings::default()
    }
}

async fn connect(member: &Member) -> TcpStream {
    connect_at(member, 0).await
}

async fn connect_at(member: &Member, place: usize) -> TcpStream {
    TcpStream::connect(member.addresses().listens[place])
        .await
        .expect("the sidecar accepts")
}

/// How a connection ended.
async fn end(stream: &mut TcpStream) -> Result<Vec<u8>, io::ErrorKind> {
    let mut said = Vec::new();
    let read = stream.read_to_end(&mut said).await;
    read.map(|_| said).map_err(|error| error.kind())
}

/// Waits until a sidecar has counted an end.
async fn until_ended(member: &Member, flag: &str, times: f64) {
    until(&format!("{times} ends by {flag}"), || async {
        let flag = format!("flag=\"{flag}\"");
        let ended = member.metric("weir_tcp_ended_total", &[&flag]).await;
        (ended == times).then_some(())
    })
    .await;
}

/// The lines of a log that are of TCP.
async fn tcp_lines(member: Member) -> Vec<Value> {
    let (_, lines) = member.stop().await;
    lines
        .into_iter()
        .filter(|line| line["network.transport"] == "tcp")
        .collect()
}

#[tokio::test]
async fn each_side_ends_what_it_says_while_the_other_goes_on() {
    for mesh in [TestMesh::start().await, TestMesh::secured().await] {
        let _echo = mesh.service_with("echo", echo(), tcp()).await;
        // One that speaks first, ends what it says, and hears the other out.
        let greeter = Script::raw(|mut stream| async move {
            let _ = stream.write_all(b"welcome").await;
            let _ = stream.shutdown().await;
            let mut heard = Vec::new();
            let _ = stream.read_to_end(&mut heard).await;
            assert_eq!(heard, b"thank you");
        });
        let _greeter = mesh.service_with("greeter", greeter, tcp()).await;
        let a = mesh
            .service_with("a", Script::answer(200, ""), reaches(&["echo", "greeter"]))
            .await;
        let mut stream = connect_at(&a, 0).await;
        stream.write_all(b"hello").await.expect("written");
        stream.shutdown().await.expect("ended");
        assert_eq!(end(&mut stream).await.as_deref(), Ok(&b"hello"[..]));
        let mut stream = connect_at(&a, 1).await;
        assert_eq!(end(&mut stream).await.as_deref(), Ok(&b"welcome"[..]));
        stream.write_all(b"thank you").await.expect("written");
        stream.shutdown().await.expect("ended");
        until_ended(&a, "none", 2.0).await;
    }
}

#[tokio::test]
async fn both_ends_tell_of_a_connection() {
    let mesh = TestMesh::secured().await;
    let b = mesh.service_with("b", echo(), tcp()).await;
    let a = mesh.service_with("a", Script::answer(200, ""), reaches(&["b"])).await;
    let inbound = b.inbound().to_string();
    let mut stream = connect(&a).await;
    stream.write_all(b"hello").await.expect("written");
    let mut said = [0; 5];
    stream.read_exact(&mut said).await.expect("it comes back");
    let labels = ["direction=\"outbound\"", "service=\"b.default.svc.cluster.local:80\""];
    assert_eq!(a.metric("weir_tcp_open", &labels).await, 1.0);
    let up = [labels[0], "way=\"from_downstream\""];
    assert_eq!(
        a.metric("weir_tcp_passed_bytes_total", &up).await,
        5.0,
        "seen before its end"
    );
    stream.shutdown().await.expect("ended");
    assert_eq!(end(&mut stream).await.as_deref(), Ok(&b""[..]));
    until_ended(&a, "none", 1.0).await;
    until_ended(&b, "none", 1.0).await;
    assert_eq!(a.metric("weir_tcp_open", &[]).await, 0.0);
    let config = a.config().await;
    assert_eq!(
        config["config"]["listens"][0]["service"],
        "b.default.svc.cluster.local:80"
    );
    let service = &config["mesh"]["services"];
    assert!(
        service.to_string().contains(r#""tcp":"b.default:80""#),
        "what its connections go to is shown: {service}"
    );
    let [of_a] = tcp_lines(a).await.try_into().expect("one line");
    let [of_b] = tcp_lines(b).await.try_into().expect("one line");
    let identity = |name: &str| format!("spiffe://cluster.local/ns/default/sa/{name}");
    for (line, direction, peer) in [(&of_a, "outbound", "b"), (&of_b, "inbound", "a")] {
        assert_eq!(line["weir.direction"], direction, "{line}");
        assert_eq!(line["weir.flag"], "none", "{line}");
        assert_eq!(line["weir.from_downstream_bytes"], 5, "{line}");
        assert_eq!(line["weir.to_downstream_bytes"], 5, "{line}");
        assert_eq!(line["weir.peer.identity"], identity(peer), "{line}");
        assert!(line["weir.upstream.connected_ms"].is_number(), "{line}");
    }
    assert_eq!(of_a["weir.endpoint"], inbound, "{of_a}");
    assert_eq!(of_a["weir.cluster"], "b.default:80", "{of_a}");
    assert_eq!(of_a["weir.peer.workload"], "default/b", "{of_a}");
}

#[tokio::test]
async fn much_arrives_whole_both_ways_at_once() {
    const BYTES: usize = 64 * 1024 * 1024;
    let mesh = TestMesh::secured().await;
    let _b = mesh.service_with("b", echo(), tcp()).await;
    let a = mesh.service_with("a", Script::answer(200, ""), reaches(&["b"])).await;
    let (mut reads, mut writes) = connect(&a).await.into_split();
    // Of no period that a buffer's size has a part in.
    let byte = |at: usize| (at % 65_521).to_le_bytes()[0] ^ (at / 65_521).to_le_bytes()[0];
    let writing = tokio::spawn(async move {
        let mut at = 0;
        while at < BYTES {
            let part: Vec<u8> = (at..(at + 1_000_003).min(BYTES)).map(byte).collect();
            writes.write_all(&part).await.expect("written");
            at += part.len();
        }
        writes.shutdown().await.expect("ended");
    });
    let (mut at, mut part) = (0, vec![0; 256 * 1024]);
    loop {
        let count = reads.read(&mut part).await.expect("it comes back");
        if count == 0 {
            break;
        }
        let as_sent = part[..count]
            .iter()
            .enumerate()
            .all(|(place, held)| *held == byte(at + place));
        assert!(as_sent, "within {count} bytes from {at}");
        at += count;
    }
    assert_eq!(at, BYTES);
    writing.await.expect("all was written");
}

#[tokio::test]
async fn a_reset_is_passed_on_as_one_and_says_whose_it_is() {
    let mesh = TestMesh::secured().await;
    // Half of what it has to say, and gone.
    let broken = Script::raw(|mut stream| async move {
        let _ = stream.write_all(b"half").await;
        let mut more = [0; 4];
        let _ = stream.read_exact(&mut more).await;
        let _ = stream.set_zero_linger();
    });
    let b = mesh.service_with("b", broken, tcp()).await;
    let a = mesh.service_with("a", Script::answer(200, ""), reaches(&["b"])).await;
    let mut stream = connect(&a).await;
    let mut said = [0; 4];
    stream.read_exact(&mut said).await.expect("half");
    stream.write_all(b"more").await.expect("written");
    assert_eq!(end(&mut stream).await, Err(io::ErrorKind::ConnectionReset));
    until_ended(&a, "upstream_reset", 1.0).await;
    until_ended(&b, "upstream_reset", 1.0).await;

    // The other way: the app that called is gone.
    let mut stream = connect(&a).await;
    stream.read_exact(&mut said).await.expect("half");
    stream.set_zero_linger().expect("set");
    drop(stream);
    until_ended(&a, "downstream_reset", 1.0).await;
    until_ended(&b, "downstream_reset", 1.0).await;
    let lines = tcp_lines(a).await;
    let faults: Vec<_> = lines
        .iter()
        .map(|line| line["weir.fault"].as_str().expect("one"))
        .collect();
    assert_eq!(faults, ["upstream", "downstream"], "{lines:?}");
    assert!(lines[0]["weir.hint"].is_string(), "{lines:?}");
}

#[tokio::test]
async fn an_endpoint_that_refuses_costs_no_connection() {
    let mesh = TestMesh::start().await;
    let (dead, live) = (ClosedPort::any(), ScriptedApp::start(echo()).await);
    mesh.plain_service("b", AppProtocol::Tcp, &[dead.address(), live.address()])
        .await;
    let a = mesh.service_with("a", Script::answer(200, ""), reaches(&["b"])).await;
    for _ in 0..20 {
        let mut stream = connect(&a).await;
        stream.write_all(b"hello").await.expect("written");
        stream.shutdown().await.expect("ended");
        assert_eq!(end(&mut stream).await.as_deref(), Ok(&b"hello"[..]));
    }
    let lines = tcp_lines(a).await;
    assert_eq!(lines.len(), 20);
    let again = lines.iter().filter(|line| line["weir.attempts"].is_array()).count();
    assert!(again >= 1, "one was tried that refuses: {lines:?}");
    assert!(
        lines
            .iter()
            .all(|line| line["weir.endpoint"] == live.address().to_string()),
        "{lines:?}"
    );
}

/// A sidecar takes connections whose app doesn't: one that is cut off so is the last.
#[tokio::test]
async fn an_app_that_refuses_is_looked_at_at_once() {
    let mesh = TestMesh::start().await;
    let mut b = mesh.service_with("b", echo(), tcp()).await;
    let a = mesh.service_with("a", Script::answer(200, ""), reaches(&["b"])).await;
    let mut stream = connect(&a).await;
    stream.write_all(b"x").await.expect("written");
    stream.shutdown().await.expect("ended");
    assert_eq!(end(&mut stream).await.as_deref(), Ok(&b"x"[..]));
    b.close_app().await;
    assert_eq!(end(&mut connect(&a).await).await, Err(io::ErrorKind::ConnectionReset));
    // Without that it is looked at every five seconds.
    until_within(Duration::from_secs(3), "the endpoint to be gone", || async {
        let _ = end(&mut connect(&a).await).await;
        let gone = a.metric("weir_tcp_ended_total", &["flag=\"no_endpoint\""]).await;
        (gone > 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn where_nobody_is_the_app_sees_a_reset_and_the_log_says_why() {
    let mesh = TestMesh::start().await;
    let dead = ClosedPort::any();
    mesh.plain_service("dead", AppProtocol::Tcp, &[dead.address()]).await;
    mesh.plain_service("empty", AppProtocol::Tcp, &[]).await;
    let _web = mesh.service("web", Script::answer(200, "")).await;
    let settings = reaches(&["dead", "empty", "web", "later"]);
    let a = mesh.service_with("a", Script::answer(200, ""), settings).await;
    let expect = [
        ("connect_failed", "upstream"),
        ("no_endpoint", "upstream"),
        ("not_carried", "downstream"),
        ("unknown_destination", "downstream"),
    ];
    for (place, (flag, _)) in expect.into_iter().enumerate() {
        let mut stream = connect_at(&a, place).await;
        assert_eq!(end(&mut stream).await, Err(io::ErrorKind::ConnectionReset), "{flag}");
        until_ended(&a, flag, 1.0).await;
    }
    // Asked for all the while: it is there as soon as it is.
    let _later = mesh.service_with("later", echo(), tcp()).await;
    until("the new service", || async {
        let mut stream = connect_at(&a, 3).await;
        stream.write_all(b"x").await.ok()?;
        stream.shutdown().await.ok()?;
        (end(&mut stream).await.as_deref() == Ok(b"x")).then_some(())
    })
    .await;
    let lines = tcp_lines(a).await;
    for (line, (flag, fault)) in lines.iter().zip(expect) {
        assert_eq!(
            (line["weir.flag"].as_str(), line["weir.fault"].as_str()),
            (Some(flag), Some(fault))
        );
        assert!(
            line["error.message"].is_string() && line["weir.hint"].is_string(),
            "{line}"
        );
    }
}

#[tokio::test]
async fn a_request_for_what_carries_tcp_is_refused_with_what_is_right() {
    let mesh = TestMesh::start().await;
    let _b = mesh.service_with("b", echo(), tcp()).await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    let answer = a.get("http://b/").await;
    assert_eq!(answer.status, StatusCode::NOT_IMPLEMENTED);
    assert!(answer.text().contains("carries TCP"), "{}", answer.text());
    assert!(answer.text().contains("--listen"), "{}", answer.text());
    let explained = a.admin(Method::POST, "/explain?url=tcp://b:80").await.json();
    assert_eq!(explained["outcome"]["action"], "forward", "{explained}");
    assert_eq!(explained["backends"][0]["name"], "b.default:80", "{explained}");
    assert_eq!(explained["backends"][0]["protocol"], "tcp", "{explained}");
    let explained = a.admin(Method::GET, "/explain?url=http://b").await.json();
    assert_eq!(explained["outcome"]["status"], 501, "{explained}");
    let explained = a.admin(Method::POST, "/explain?url=tcp://a:80").await.json();
    assert_eq!(explained["outcome"]["action"], "refuse", "{explained}");
}

#[tokio::test]
async fn connections_over_the_limit_are_reset_and_the_others_go_on() {
    let mesh = TestMesh::secured().await;
    let _b = mesh.service_with("b", echo(), tcp()).await;
    mesh.apply(
        &json!({
            "apiVersion": "weir.dev/v1", "kind": "BackendPolicy",
            "metadata": {"name": "b", "namespace": "default"},
            "spec": {
                "targetRefs": [{"group": "", "kind": "Service", "name": "b"}],
                "circuitBreaker": {"maxConnections": 1},
            },
        })
        .to_string(),
    )
    .await;
    let a = mesh.service_with("a", Script::answer(200, ""), reaches(&["b"])).await;
    until("the limit", || async {
        let config = a.config().await;
        let clusters = config["mesh"]["clusters"].as_array()?.clone();
        let b = clusters.into_iter().find(|one| one["name"] == "b.default:80")?;
        (b["connections"]["limit"] == 1).then_some(())
    })
    .await;
    let mut said = [0; 1];
    let mut first = connect(&a).await;
    first.write_all(b"1").await.expect("written");
    first.read_exact(&mut said).await.expect("it comes back");
    let mut second = connect(&a).await;
    assert_eq!(end(&mut second).await, Err(io::ErrorKind::ConnectionReset));
    until_ended(&a, "limit_reached", 1.0).await;
    first.write_all(b"2").await.expect("written");
    first.read_exact(&mut said).await.expect("it comes back");
    first.shutdown().await.expect("ended");
    assert_eq!(end(&mut first).await.as_deref(), Ok(&b""[..]));
    until_ended(&a, "none", 1.0).await;
    let mut third = connect(&a).await;
    third.write_all(b"3").await.expect("written");
    third.read_exact(&mut said).await.expect("there is a place again");
}

#[tokio::test]
async fn a_drain_lets_connections_go_on_until_its_time_is_over() {
    let mesh = TestMesh::secured().await;
    let b = mesh.service_with("b", echo(), tcp()).await;
    let settings = reaches_with(&["b"], |config| config.drain_timeout = Duration::from_secs(2));
    let a = mesh.service_with("a", Script::answer(200, ""), settings).await;
    let listen = a.addresses().listens[0];
    let mut stream = connect(&a).await;
    let mut said = [0; 1];
    stream.write_all(b"1").await.expect("written");
    stream.read_exact(&mut said).await.expect("it comes back");
    let draining = tokio::spawn(a.stop());
    until("new connections to be refused", || async {
        TcpStream::connect(listen).await.is_err().then_some(())
    })
    .await;
    stream.write_all(b"2").await.expect("written");
    stream.read_exact(&mut said).await.expect("it goes on");
    assert_eq!(end(&mut stream).await, Err(io::ErrorKind::ConnectionReset));
    let (drained, lines) = draining.await.expect("the drain");
    assert_eq!(drained, Drained::CutOff);
    let line = lines.iter().find(|line| line["network.transport"] == "tcp");
    let line = line.expect("it is recorded");
    assert_eq!(
        (&line["weir.flag"], &line["weir.to_downstream_bytes"]),
        (&json!("draining"), &json!(2))
    );
    until_ended(&b, "downstream_reset", 1.0).await;
}

#[tokio::test]
async fn a_check_of_a_sidecar_asks_for_its_app() {
    let mesh = TestMesh::secured().await;
    let b = mesh.service_with("b", echo(), tcp()).await;
    mesh.apply(
        &json!({
            "apiVersion": "weir.dev/v1", "kind": "BackendPolicy",
            "metadata": {"name": "b", "namespace": "default"},
            "spec": {
                "targetRefs": [{"group": "", "kind": "Service", "name": "b"}],
                "healthCheck": {"type": "Tcp", "interval": "100ms", "timeout": "5s"},
            },
        })
        .to_string(),
    )
    .await;
    let a = mesh.service_with("a", Script::answer(200, ""), reaches(&["b"])).await;
    let answered = async |result: &'static str| {
        let of = format!("result=\"{result}\"");
        b.metric("weir_health_checks_answered_total", &[&of]).await
    };
    until("checks that pass", || async {
        (answered("passed").await >= 2.0).then_some(())
    })
    .await;
    let passed = ["cluster=\"b.default:80\"", "result=\"passed\""];
    until("the same at the caller", || async {
        (a.metric("weir_health_checks_total", &passed).await >= 1.0).then_some(())
    })
    .await;
    let failed = ["cluster=\"b.default:80\"", "result=\"failed\""];
    assert_eq!(a.metric("weir_health_checks_total", &failed).await, 0.0);
    assert_eq!(
        b.metric("weir_tcp_opened_total", &[]).await,
        0.0,
        "a check is no connection"
    );
}

#[tokio::test]
async fn a_route_for_tcp_is_told_why_it_does_nothing() {
    let mesh = TestMesh::start().await;
    mesh.apply_service("b", "b", AppProtocol::Tcp).await;
    mesh.apply_service("web", "web", AppProtocol::Http1).await;
    let route = |name: &str, parent: &str, backend: &str| {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "parentRefs": [{"group": "", "kind": "Service", "name": parent}],
                "rules": [{"backendRefs": [{"name": backend, "port": 80}]}],
            },
        })
        .to_string()
    };
    mesh.apply(&route("onto", "b", "web")).await;
    mesh.apply(&route("into", "web", "b")).await;
    for (name, kind, reason) in [
        ("onto", "Accepted", "NotAllowedByListeners"),
        ("into", "ResolvedRefs", "UnsupportedProtocol"),
    ] {
        until(&format!("the status of {name}"), || async {
            let path = format!("/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes/{name}");
            let route = mesh.api(Method::GET, &path, None).await.json();
            let conditions = route["status"]["parents"][0]["conditions"].as_array()?.clone();
            let one = conditions.iter().find(|one| one["type"] == kind)?;
            (one["reason"] == reason && one["message"].as_str()?.contains("TCP")).then_some(())
        })
        .await;
    }
    // And a caller of the service that sends its requests there gets what is right.
    let a = mesh.service("a", Script::answer(200, "")).await;
    let request = Request::get("http://web/")
        .body(Full::<Bytes>::default())
        .expect("a request");
    let answer = a.call(request).await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR, "{}", answer.text());
    assert!(answer.text().contains("carries TCP"), "{}", answer.text());
}
