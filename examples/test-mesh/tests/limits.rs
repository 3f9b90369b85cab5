//! What a proxy refuses and cuts off: limits, the breaker, time; and in which words it says so, to gRPC callers as
//! well.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use tokio::sync::watch;
use tokio::task::JoinSet;
use weir_policy::model::AppProtocol;
use weir_proxy::config::Edge;
use weir_test_mesh::{
    Act, Answer, Client, Member, MemberSettings, Peer, Protocol, Script, ScriptedApp, Seen, TestMesh, call, until,
};

/// A mesh with workload `a`, whose app calls; its sidecar has so many workers.
async fn mesh(workers: usize) -> (TestMesh, Member) {
    let mesh = TestMesh::start().await;
    let settings = MemberSettings {
        proxy: Box::new(move |config| config.workers = NonZeroUsize::new(workers).expect("workers")),
        ..MemberSettings::default()
    };
    let a = mesh.service_with("a", Script::answer(200, ""), settings).await;
    (mesh, a)
}

/// Applies a BackendPolicy for `b`.
async fn policy(mesh: &TestMesh, spec: &str) {
    mesh.apply_in_force(&format!(
        "{{apiVersion: weir.dev/v1, kind: BackendPolicy, metadata: {{name: b, namespace: default}}, spec: {{
          targetRefs: [{{group: '', kind: Service, name: b}}], {spec}}}}}"
    ))
    .await;
}

/// Applies an HTTPRoute for `b` with one rule.
async fn route(mesh: &TestMesh, rule: &str) {
    let kind = "apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute";
    let parents = "[{group: '', kind: Service, name: b}]";
    mesh.apply_in_force(&format!(
        "{{{kind}, metadata: {{name: b, namespace: default}}, spec: {{parentRefs: {parents}, rules: [{{
          {rule}, backendRefs: [{{name: b, port: 80}}]}}]}}}}"
    ))
    .await;
}

/// An app that answers when the gate is open, with the status that is set.
struct Gated {
    open: watch::Sender<bool>,
    status: Arc<AtomicU16>,
}

impl Gated {
    fn new(open: bool, status: u16) -> (Gated, Script) {
        let (sender, receiver) = watch::channel(open);
        let status = Arc::new(AtomicU16::new(status));
        let of_script = Arc::clone(&status);
        let script = Script::http(move |_| {
            let (mut gate, status) = (receiver.clone(), Arc::clone(&of_script));
            async move {
                let _ = gate.wait_for(|open| *open).await;
                let mut response = Response::new(Full::default());
                *response.status_mut() = StatusCode::from_u16(status.load(Ordering::SeqCst)).expect("a status");
                response
            }
        });
        (Gated { open: sender, status }, script)
    }
}

/// One request to `b`, while others are under way.
fn ask(a: &Member, method: Method) -> impl Future<Output = Answer> + Send + use<> {
    let to = a.outbound();
    async move {
        let request = Request::builder()
            .method(method)
            .uri("/")
            .header("host", "b")
            .body(Full::default());
        call(to, Protocol::Http1, request.expect("a request"))
            .await
            .expect("an answer")
    }
}

fn grpc(timeout: Option<&str>) -> Request<Full<Bytes>> {
    let mut request = Request::post("http://b/pkg.Service/Method")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::from("\0\0\0\0\0"))
        .expect("a request");
    if let Some(timeout) = timeout {
        request
            .headers_mut()
            .insert("grpc-timeout", timeout.parse().expect("a value"));
    }
    request
}

fn why(answer: &Answer) -> &str {
    answer.header("proxy-status").unwrap_or("nothing: the app answered")
}

/// Waits until so many requests have reached the app.
async fn reached(b: &Member, count: usize) {
    until("requests at the app", || async {
        (b.seen().len() >= count).then_some(())
    })
    .await;
}

async fn refused(a: &Member, reason: &str) -> f64 {
    a.metric("weir_breaker_refused_total", &[&format!("reason=\"{reason}\"")])
        .await
}

#[tokio::test]
async fn requests_under_way_are_limited() {
    let (mesh, a) = mesh(1).await;
    let (app, script) = Gated::new(false, 200);
    let b = mesh.service("b", script).await;
    policy(&mesh, "circuitBreaker: {maxRequests: 1}").await;
    let first = tokio::spawn(ask(&a, Method::GET));
    reached(&b, 1).await;
    let second = a.get("http://b/").await;
    assert_eq!(second.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        why(&second)
            .contains("error=connection_limit_reached; details=\"b.default:80: the limit of 1 requests under way"),
        "{}",
        why(&second)
    );
    assert_eq!(second.header("retry-after"), Some("1"));
    let grpc = call(a.outbound(), Protocol::Http2, grpc(None))
        .await
        .expect("an answer");
    assert_eq!((grpc.status, grpc.header("grpc-status")), (StatusCode::OK, Some("8")));
    assert_eq!(refused(&a, "requests").await, 2.0);
    app.open.send_replace(true);
    assert_eq!(first.await.expect("the first").status, StatusCode::OK);
    assert_eq!(a.get("http://b/").await.status, StatusCode::OK, "there is room again");
    assert_eq!(b.seen().len(), 2);
    let (_, log) = a.stop().await;
    assert_eq!(
        log.iter().filter(|line| line["weir.flag"] == "limit_reached").count(),
        2,
        "{log:#?}"
    );
}

#[tokio::test]
async fn connections_are_limited_and_waited_for() {
    for (connect_timeout, gets_it) in [("50ms", false), ("20s", true)] {
        let (mesh, a) = mesh(1).await;
        let (app, script) = Gated::new(false, 200);
        let plain = ScriptedApp::start(script).await;
        mesh.plain_service("b", AppProtocol::Http1, &[plain.address()]).await;
        let spec = format!("circuitBreaker: {{maxConnections: 1}}, connectTimeout: {connect_timeout}");
        policy(&mesh, &spec).await;
        let first = tokio::spawn(ask(&a, Method::GET));
        until("the first", || async { plain.seen().first().map(|_| ()) }).await;
        let second = tokio::spawn(ask(&a, Method::GET));
        if gets_it {
            let cluster = ["cluster=\"b.default:80\"", "kind=\"pending\""];
            until("the second to wait", || async {
                (a.metric("weir_cluster_active", &cluster).await == 1.0).then_some(())
            })
            .await;
            app.open.send_replace(true);
            assert_eq!(second.await.expect("the second").status, StatusCode::OK);
        } else {
            let second = second.await.expect("the second");
            assert_eq!(second.status, StatusCode::SERVICE_UNAVAILABLE);
            let expect =
                "error=connection_limit_reached; details=\"b.default:80: the limit of 1 connections is reached\"";
            assert!(why(&second).contains(expect), "{}", why(&second));
            assert_eq!(refused(&a, "connections").await, 1.0);
            app.open.send_replace(true);
        }
        assert_eq!(first.await.expect("the first").status, StatusCode::OK);
        assert_eq!(plain.connections(), 1);
        let open = ["cluster=\"b.default:80\"", "kind=\"requests\""];
        assert_eq!(a.metric("weir_cluster_active", &open).await, 0.0);
    }
}

#[tokio::test]
async fn an_idle_connection_makes_room_for_another_endpoint() {
    for protocol in [AppProtocol::Http1, AppProtocol::Http2] {
        let (mesh, a) = mesh(1).await;
        let peers = match protocol {
            AppProtocol::Http1 => [
                Peer::http1(|_| Act::Answer(200)).await,
                Peer::http1(|_| Act::Answer(200)).await,
            ],
            AppProtocol::Http2 | AppProtocol::Grpc | AppProtocol::Tcp => [
                Peer::http2(|_| Act::Answer(200)).await,
                Peer::http2(|_| Act::Answer(200)).await,
            ],
        };
        let endpoints = [peers[0].address(), peers[1].address()];
        mesh.plain_service("b", protocol, &endpoints).await;
        policy(
            &mesh,
            "circuitBreaker: {maxConnections: 1}, balancing: {type: RoundRobin}",
        )
        .await;
        for number in 1..=4 {
            let answer = a.get("http://b/").await;
            assert_eq!(answer.status, StatusCode::OK, "{protocol} {number}: {}", why(&answer));
        }
        assert_eq!((peers[0].saw().len(), peers[1].saw().len()), (2, 2));
    }
}

#[tokio::test]
async fn the_breaker_opens_once_and_spares_the_app() {
    let (mesh, a) = mesh(3).await;
    let (_app, script) = Gated::new(true, 500);
    let b = mesh.service("b", script).await;
    let failures = "{percent: 50, minRequests: 10, window: 10s, openFor: 10m, halfOpenRequests: 2}";
    policy(&mesh, &format!("circuitBreaker: {{failures: {failures}}}")).await;
    let mut callers = JoinSet::new();
    for _ in 0..12 {
        let to = a.outbound();
        callers.spawn(async move {
            let mut client = Client::connect(to, Protocol::Http1).await.expect("a connection");
            let mut spared = 0;
            for _ in 0..20 {
                let request = Request::get("/").header("host", "b").body(Full::default());
                let answer = client.send(request.expect("a request")).await.expect("an answer");
                match answer.status {
                    StatusCode::INTERNAL_SERVER_ERROR => {}
                    StatusCode::SERVICE_UNAVAILABLE => {
                        assert!(
                            why(&answer).contains("error=destination_unavailable"),
                            "{}",
                            why(&answer)
                        );
                        spared += 1;
                    }
                    other => panic!("{other}: {}", why(&answer)),
                }
            }
            spared
        });
    }
    let spared: usize = callers.join_all().await.into_iter().sum();
    let opened = a
        .metric("weir_breaker_opened_total", &["cluster=\"b.default:80\""])
        .await;
    assert_eq!(opened, 1.0, "once, though three workers saw it fail");
    // Ten open it; what was on its way by then comes on top.
    let reached = b.seen().len();
    assert_eq!(reached + spared, 240);
    assert!((10..=10 + 12).contains(&reached), "{reached} reached the app");
    assert_eq!(refused(&a, "breaker_open").await, spared as f64);

    let answer = a.get("http://b/").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    let after: u64 = answer
        .header("retry-after")
        .and_then(|wait| wait.parse().ok())
        .expect("a time");
    assert!((500..=600).contains(&after), "{after}");
    let answer = call(a.outbound(), Protocol::Http2, grpc(None))
        .await
        .expect("an answer");
    assert_eq!(answer.header("grpc-status"), Some("14"));
    let pushback: u64 = answer
        .header("grpc-retry-pushback-ms")
        .and_then(|wait| wait.parse().ok())
        .expect("a time");
    assert!((500_000..=600_000).contains(&pushback), "{pushback}");
    assert_eq!(b.seen().len(), reached);
}

#[tokio::test]
async fn a_half_open_breaker_admits_what_it_says_and_closes_or_opens_again() {
    let (mesh, a) = mesh(3).await;
    let (app, script) = Gated::new(true, 503);
    let b = mesh.service("b", script).await;
    let failures = "{percent: 50, minRequests: 4, window: 10s, openFor: 100ms, halfOpenRequests: 2}";
    policy(&mesh, &format!("circuitBreaker: {{failures: {failures}}}")).await;
    let breaker = async |state: f64| {
        let cluster = ["cluster=\"b.default:80\""];
        until("the breaker's state", || async {
            (a.metric("weir_breaker_open", &cluster).await == state).then_some(())
        })
        .await;
        a.metric("weir_breaker_opened_total", &cluster).await
    };
    for _ in 0..4 {
        assert_eq!(a.get("http://b/").await.status, StatusCode::SERVICE_UNAVAILABLE);
    }
    assert_eq!(b.seen().len(), 4);
    assert_eq!(breaker(0.5).await, 1.0);
    // One trial fails: open again, without waiting for four.
    assert_eq!(
        a.get("http://b/").await.header("proxy-status"),
        None,
        "the app answered"
    );
    assert_eq!(breaker(0.5).await, 2.0);
    assert_eq!(b.seen().len(), 5);

    app.status.store(200, Ordering::SeqCst);
    app.open.send_replace(false);
    let mut callers = JoinSet::new();
    for _ in 0..9 {
        callers.spawn(ask(&a, Method::GET));
    }
    for _ in 0..7 {
        let answer = callers.join_next().await.expect("a caller").expect("its answer");
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(
            why(&answer).contains("error=destination_unavailable"),
            "{}",
            why(&answer)
        );
    }
    reached(&b, 7).await;
    app.open.send_replace(true);
    for answer in callers.join_all().await {
        assert_eq!(answer.status, StatusCode::OK, "a trial: {}", why(&answer));
    }
    assert_eq!(b.seen().len(), 7, "two trials");
    assert_eq!(breaker(0.0).await, 2.0);
    assert_eq!(a.get("http://b/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn what_is_tried_again_counts_as_often_as_it_failed() {
    let (mesh, a) = mesh(1).await;
    let (_app, script) = Gated::new(true, 503);
    let b = mesh.service("b", script).await;
    policy(&mesh, "circuitBreaker: {failures: {minRequests: 4, openFor: 10m}}").await;
    route(&mesh, "retry: {codes: [503], attempts: 1, backoff: 1ms}").await;
    for _ in 0..2 {
        let answer = a.get("http://b/").await;
        assert_eq!(
            (answer.status, answer.header("proxy-status")),
            (StatusCode::SERVICE_UNAVAILABLE, None)
        );
    }
    assert_eq!(b.seen().len(), 4);
    let answer = a.get("http://b/").await;
    assert!(
        why(&answer).contains("error=destination_unavailable"),
        "{}",
        why(&answer)
    );
    assert_eq!(b.seen().len(), 4);
}

#[tokio::test]
async fn an_answer_that_was_held_for_a_retry_is_given_when_the_breaker_opens() {
    let (mesh, a) = mesh(1).await;
    let (_app, script) = Gated::new(true, 503);
    let b = mesh.service("b", script).await;
    policy(&mesh, "circuitBreaker: {failures: {minRequests: 2, openFor: 10m}}").await;
    route(&mesh, "retry: {codes: [503], attempts: 5, backoff: 1ms}").await;
    let answer = a.get("http://b/").await;
    assert_eq!(
        (answer.status, answer.header("proxy-status")),
        (StatusCode::SERVICE_UNAVAILABLE, None)
    );
    assert_eq!(b.seen().len(), 2);
    let open = ["cluster=\"b.default:80\"", "kind=\"requests\""];
    assert_eq!(a.metric("weir_cluster_active", &open).await, 0.0);
}

#[tokio::test]
async fn all_attempts_share_the_requests_time() {
    let (mesh, a) = mesh(1).await;
    let (_app, script) = Gated::new(false, 200);
    let b = mesh.service("b", script).await;
    route(
        &mesh,
        "timeouts: {request: 500ms, backendRequest: 150ms}, retry: {attempts: 10, backoff: 1ms}",
    )
    .await;
    let answer = a.get("http://b/").await;
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
    assert!(why(&answer).contains("error=http_response_timeout"), "{}", why(&answer));
    // At least 150 ms for each.
    let (_, log) = a.stop().await;
    let attempts = log[0]["weir.attempts"].as_array().map_or(0, Vec::len);
    assert!((2..=4).contains(&attempts), "{:#}", log[0]);
    // The last attempt's time may end a little before the request's, with no room for one more.
    let flag = log[0]["weir.flag"].as_str();
    assert!(
        matches!(flag, Some("request_timeout" | "attempt_timeout")),
        "{:#}",
        log[0]
    );
    // Each that was given up is over at the app's own sidecar as well.
    let (drained, lines) = b.stop().await;
    assert_eq!(drained, weir_proxy::Drained::Whole);
    assert!(
        lines.iter().all(|line| line["http.response.status_code"] != 200),
        "{lines:#?}"
    );
}

#[tokio::test]
async fn time_runs_out_within_an_answer_too() {
    let stalls = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf";
    let app = Script::raw(move |mut stream| async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut head = [0; 1024];
        let _ = stream.read(&mut head).await;
        let _ = stream.write_all(stalls).await;
        while !matches!(stream.read(&mut head).await, Ok(0) | Err(_)) {}
    });
    for spoken in [Protocol::Http1, Protocol::Http2] {
        let (mesh, a) = mesh(1).await;
        let plain = ScriptedApp::start(app.clone()).await;
        mesh.plain_service("b", AppProtocol::Http1, &[plain.address()]).await;
        route(&mesh, "timeouts: {request: 300ms}").await;
        let (uri, host) = match spoken {
            Protocol::Http1 => ("/", Some("b")),
            Protocol::Http2 => ("http://b/", None),
        };
        let mut request = Request::get(uri).body(Full::default()).expect("a request");
        if let Some(host) = host {
            request.headers_mut().insert("host", HeaderValue::from_static(host));
        }
        let answer = call(a.outbound(), spoken, request).await;
        assert!(answer.is_err(), "looks whole: {answer:?}");
        let (_, log) = a.stop().await;
        assert_eq!((log.len(), &log[0]["weir.flag"]), (1, &"request_timeout".into()));
        assert_eq!(log[0]["http.response.body.size"], 4);
    }
}

#[tokio::test]
async fn an_answer_without_end_runs_out_of_time() {
    // It always has a next part: there is no pause in which to look at the clock but between parts.
    let app = Script::raw(move |mut stream| async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut head = [0; 1024];
        let _ = stream.read(&mut head).await;
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            .await;
        let part = [&b"10000\r\n"[..], &[b'x'; 0x10000], b"\r\n"].concat();
        while stream.write_all(&part).await.is_ok() {}
    });
    let (mesh, a) = mesh(1).await;
    let plain = ScriptedApp::start(app).await;
    mesh.plain_service("b", AppProtocol::Http1, &[plain.address()]).await;
    route(&mesh, "timeouts: {request: 300ms}").await;
    let request = Request::get("/").header("host", "b").body(Full::default());
    let answer = call(a.outbound(), Protocol::Http1, request.expect("a request")).await;
    assert!(answer.is_err());
    let (_, log) = a.stop().await;
    assert_eq!(log[0]["weir.flag"], "request_timeout");
}

#[tokio::test]
async fn a_grpc_caller_gets_a_status_of_its_own() {
    let (mesh, a) = mesh(1).await;
    let (_app, script) = Gated::new(false, 200);
    let settings = MemberSettings {
        protocol: AppProtocol::Grpc,
        ..MemberSettings::default()
    };
    let b = mesh.service_with("b", script, settings).await;
    // Its own time.
    let answer = call(a.outbound(), Protocol::Http2, grpc(Some("300m")))
        .await
        .expect("an answer");
    assert_eq!(
        (answer.status, answer.header("grpc-status")),
        (StatusCode::OK, Some("4"))
    );
    assert!(why(&answer).contains("error=http_response_timeout"), "{}", why(&answer));
    assert_eq!(b.seen()[0].header("te"), Some("trailers"));
    // The route's.
    route(&mesh, "timeouts: {request: 300ms}").await;
    let answer = call(a.outbound(), Protocol::Http2, grpc(Some("1H")))
        .await
        .expect("an answer");
    assert_eq!(answer.header("grpc-status"), Some("4"));
    // Nobody there.
    let mut request = grpc(None);
    *request.uri_mut() = "http://nobody/pkg.Service/Method".parse().expect("a URL");
    let answer = call(a.outbound(), Protocol::Http2, request).await.expect("an answer");
    assert_eq!(answer.header("grpc-status"), Some("14"));
    let (_, log) = a.stop().await;
    let codes: Vec<_> = log.iter().map(|line| line["rpc.grpc.status_code"].as_u64()).collect();
    assert_eq!(codes, [Some(4), Some(4), Some(14)]);
}

#[tokio::test]
async fn a_grpc_stream_that_runs_out_of_time_ends_with_trailers() {
    let (mesh, a) = mesh(1).await;
    let script = Script::streamed(|_| async {
        use http_body_util::BodyExt;
        let (mut sender, body) = http_body_util::channel::Channel::<Bytes, std::convert::Infallible>::new(1);
        tokio::spawn(async move {
            let _ = sender.send_data(Bytes::from_static(b"\0\0\0\0\x01x")).await;
            std::future::pending::<()>().await;
            drop(sender);
        });
        let mut response = Response::new(body.boxed());
        let grpc = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert("content-type", grpc);
        response
    });
    let settings = MemberSettings {
        protocol: AppProtocol::Grpc,
        ..MemberSettings::default()
    };
    let _b = mesh.service_with("b", script, settings).await;
    let answer = call(a.outbound(), Protocol::Http2, grpc(Some("400m")))
        .await
        .expect("whole");
    assert_eq!(answer.body.as_ref(), b"\0\0\0\0\x01x");
    assert_eq!(
        answer.trailers.get("grpc-status").map(HeaderValue::as_bytes),
        Some(&b"4"[..])
    );
}

/// Also for a name that nobody has asked for before, while no control plane is there to say what it is.
#[tokio::test]
async fn a_call_waits_for_configuration_no_longer_than_its_time() {
    let (mesh, a) = mesh(1).await;
    mesh.stop_control().await;
    for timeout in [Some("300m"), Some("0m")] {
        let answer = call(a.outbound(), Protocol::Http2, grpc(timeout)).await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.header("grpc-status"), Some("4"), "{timeout:?}: {}", why(&answer));
    }
}

#[tokio::test]
async fn a_deadline_is_carried_through_two_hops() {
    let mesh = TestMesh::start().await;
    let (_app, hangs) = Gated::new(false, 200);
    let c = mesh.service("c", hangs).await;
    // Each app passes on what OpenTelemetry would, and goes on though its own caller has left: what ends its call is
    // the deadline, nothing else.
    let forward = |to: watch::Receiver<Option<std::net::SocketAddr>>, host: &'static str| {
        Script::http(move |seen: Seen| {
            let to = *to.borrow();
            let mut request = Request::get("/")
                .header("host", host)
                .body(Full::default())
                .expect("a request");
            for name in ["traceparent", "tracestate"] {
                if let Some(value) = seen.head.headers.get(name) {
                    request.headers_mut().insert(name, value.clone());
                }
            }
            let asked = tokio::spawn(async move { call(to.expect("its sidecar"), Protocol::Http1, request).await });
            async move {
                let answer = asked.await.expect("the call").expect("an answer");
                let mut response = Response::new(Full::default());
                *response.status_mut() = answer.status;
                response
            }
        })
    };
    let (b_outbound, to_c) = watch::channel(None);
    let b = mesh.service("b", forward(to_c, "c")).await;
    b_outbound.send_replace(Some(b.outbound()));
    let (a_outbound, to_b) = watch::channel(None);
    let edge = MemberSettings {
        edge: Edge::Yes,
        ..MemberSettings::default()
    };
    let a = mesh.service_with("a", forward(to_b, "b"), edge).await;
    a_outbound.send_replace(Some(a.outbound()));
    route(&mesh, "timeouts: {request: 600ms}").await;

    let request = Request::get("/").header("host", "a").body(Full::default());
    let answer = call(a.inbound(), Protocol::Http1, request.expect("a request"))
        .await
        .expect("an answer");
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(c.seen().len(), 1, "it got as far as c");
    assert!(
        c.seen()[0]
            .header("tracestate")
            .is_some_and(|state| state.contains("weir="))
    );
    let open = ["cluster=\"c.default:80\"", "kind=\"requests\""];
    until("b's call to end", || async {
        (b.metric("weir_cluster_active", &open).await == 0.0).then_some(())
    })
    .await;

    let (_, of_a) = a.stop().await;
    let (_, of_b) = b.stop().await;
    let (_, of_c) = c.stop().await;
    let line = |log: &[serde_json::Value], direction: &str| {
        log.iter()
            .find(|line| line["weir.direction"] == direction)
            .cloned()
            .unwrap_or_else(|| panic!("no {direction} line in {log:#?}"))
    };
    let ends = [
        line(&of_a, "outbound"),
        line(&of_b, "inbound"),
        line(&of_b, "outbound"),
        line(&of_c, "inbound"),
    ];
    assert_eq!(
        ends[2]["weir.flag"], "request_timeout",
        "no route to c has a limit: {:#}",
        ends[2]
    );
    let id = &ends[0]["weir.context_id"];
    assert!(id.is_string(), "{:#}", ends[0]);
    for end in &ends {
        assert_eq!(&end["weir.context_id"], id, "{end:#}");
        assert_eq!(end["trace_id"], ends[0]["trace_id"]);
    }
}
