//! Active health checks: endpoints that don't work are found without a request and left alone until they do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::sync::watch;
use weir_api::{Key, Kind};
use weir_policy::model::AppProtocol;
use weir_proxy::config::Edge;
use weir_test_mesh::{Act, ClosedPort, Member, MemberSettings, Peer, Protocol, Script, Seen, TestMesh, call, until};

/// Checks often, and a check has as long as a busy machine may take: what hangs is found after two of these.
const OFTEN: &str = "interval: 100ms, timeout: 3s, unhealthyThreshold: 2, healthyThreshold: 2";

async fn mesh() -> (TestMesh, Member) {
    let mesh = TestMesh::start().await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    (mesh, a)
}

/// Applies a BackendPolicy for `b`, whose endpoints are used one after the other, with this check. A first request
/// makes `a` use the service, or there would be nothing to check.
async fn check(mesh: &TestMesh, a: &Member, check: &str) {
    mesh.apply_in_force(&format!(
        "{{apiVersion: weir.dev/v1, kind: BackendPolicy, metadata: {{name: b, namespace: default}}, spec: {{
          targetRefs: [{{group: '', kind: Service, name: b}}], balancing: {{type: RoundRobin}},
          healthCheck: {{{check}, {OFTEN}}}}}}}"
    ))
    .await;
    a.get("http://b/").await;
}

/// How an endpoint of `b` stands in the sidecar of `a`.
async fn endpoint(a: &Member, address: SocketAddr) -> Value {
    let config = a.config().await;
    let clusters = config["mesh"]["clusters"].as_array().expect("clusters");
    let cluster = clusters.iter().find(|cluster| cluster["name"] == "b.default:80");
    let endpoints = cluster.expect("b")["endpoints"].as_array().expect("endpoints");
    let found = endpoints
        .iter()
        .find(|endpoint| endpoint["address"] == address.to_string());
    found.expect("the endpoint").clone()
}

/// Waits until an endpoint of `b` is, or is not, used, and what its checks found says so.
async fn until_stands(a: &Member, address: SocketAddr, used: bool, checks: &str) -> Value {
    until(&format!("{address} to be used: {used}, {checks}"), || async {
        let stands = endpoint(a, address).await;
        let says = stands["checks"].as_str().is_some_and(|said| said.contains(checks));
        (says && stands["used"] == used).then_some(stands)
    })
    .await
}

async fn checks(member: &Member, metric: &str, result: &str) -> f64 {
    member.metric(metric, &[&format!("result=\"{result}\"")]).await
}

async fn failing(a: &Member) -> f64 {
    let labels = ["cluster=\"b.default:80\"", "state=\"failing_checks\""];
    a.metric("weir_cluster_endpoints", &labels).await
}

fn is_check(seen: &Seen) -> bool {
    seen.head.uri.path() == "/healthz"
}

#[tokio::test]
async fn an_app_that_hangs_is_left_alone_until_it_answers_again() {
    let (mesh, a) = mesh().await;
    let (hangs, hung) = watch::channel(false);
    let hanging = Script::http(move |_| {
        let mut hung = hung.clone();
        async move {
            let _ = hung.wait_for(|hangs| !hangs).await;
            Response::new(Full::from("one"))
        }
    });
    mesh.apply_service("b", "b", AppProtocol::Http1).await;
    let one = mesh.workload("b-1", "b", hanging, MemberSettings::default()).await;
    let settings = MemberSettings::default();
    let two = mesh.workload("b-2", "b", Script::answer(200, "two"), settings).await;
    check(&mesh, &a, "type: Http, http: {path: /healthz}").await;
    until_stands(&a, one.inbound(), true, "passed").await;

    hangs.send_replace(true);
    let stands = until_stands(&a, one.inbound(), false, "checks failed").await;
    let why = stands["why"].as_str().expect("a reason");
    assert!(
        why.starts_with("it is unhealthy: ") && why.ends_with(" checks failed: no answer within 3s"),
        "{why}"
    );
    assert_eq!(stands["health"], "healthy", "the control plane says nothing else");
    assert_eq!(failing(&a).await, 1.0);
    for _ in 0..6 {
        assert_eq!(a.get("http://b/").await.text(), "two");
    }

    hangs.send_replace(false);
    until_stands(&a, one.inbound(), true, "passed").await;
    assert_eq!(failing(&a).await, 0.0);
    until("the app to get requests again", || async {
        (a.get("http://b/").await.text() == "one").then_some(())
    })
    .await;

    // A check is a request of nobody's: counted apart, not traced, and only logged where it failed.
    let seen = two.seen();
    let seen = seen.iter().find(|seen| is_check(seen)).expect("a check");
    assert_eq!(seen.header("host"), Some("b.default:80"));
    assert!(
        seen.header("user-agent")
            .is_some_and(|agent| agent.ends_with("health-check"))
    );
    assert!(seen.header("traceparent").is_some_and(|parent| parent.ends_with("-00")));
    assert_eq!((seen.header("weir-check"), seen.header("weir-context")), (None, None));
    assert!(checks(&a, "weir_health_checks_total", "failed").await >= 2.0);
    until("checks to be counted", || async {
        (checks(&two, "weir_health_checks_answered_total", "passed").await >= 5.0).then_some(())
    })
    .await;
    assert_eq!(checks(&two, "weir_health_checks_answered_total", "failed").await, 0.0);
    let calls = two.seen().iter().filter(|seen| !is_check(seen)).count();
    let counted = ["direction=\"inbound\""];
    until("the calls to be counted, and no check", || async {
        (two.metric("weir_requests_total", &counted).await == calls as f64).then_some(())
    })
    .await;
    until("the checks that failed to be counted", || async {
        (checks(&one, "weir_health_checks_answered_total", "failed").await >= 2.0).then_some(())
    })
    .await;
    let logged = |lines: Vec<Value>| lines.iter().filter(|line| line["weir.health_check"] == true).count();
    assert!(logged(one.stop().await.1) >= 2);
    // One may have been under way when the endpoint left.
    assert!(logged(two.stop().await.1) <= 1);
}

#[tokio::test]
async fn only_the_statuses_that_are_expected_are_well() {
    let (mesh, a) = mesh().await;
    let status = Arc::new(AtomicU16::new(204));
    let answers = Arc::clone(&status);
    let one = Peer::http1(move |_| Act::Answer(answers.load(Ordering::SeqCst))).await;
    let two = Peer::http1(|_| Act::Answer(204)).await;
    mesh.plain_service("b", AppProtocol::Http1, &[one.address(), two.address()])
        .await;
    let http = "{path: /healthz, host: health.example, expectedStatuses: [204]}";
    check(&mesh, &a, &format!("type: Http, http: {http}")).await;
    until_stands(&a, one.address(), true, "passed").await;
    status.store(200, Ordering::SeqCst);
    until_stands(&a, one.address(), false, "failed: status 200").await;
    status.store(204, Ordering::SeqCst);
    until_stands(&a, one.address(), true, "passed").await;
    let saw = two.saw();
    let head = &saw
        .iter()
        .find(|saw| saw.head.starts_with("get /healthz"))
        .expect("a check")
        .head;
    assert!(head.contains("\r\nhost: health.example\r\n"), "{head}");
    assert!(!head.contains("\r\nweir-"), "nothing of the mesh's own: {head}");
}

#[tokio::test]
async fn where_no_connection_can_be_opened_no_request_goes() {
    let (mesh, a) = mesh().await;
    let good = Peer::http1(|_| Act::Answer(200)).await;
    let closed = ClosedPort::any();
    let dead = closed.address();
    mesh.plain_service("b", AppProtocol::Http1, &[dead, good.address()])
        .await;
    check(&mesh, &a, "type: Tcp").await;
    until_stands(&a, dead, false, "failed: connection refused").await;
    until_stands(&a, good.address(), true, "passed").await;
    for _ in 0..6 {
        assert_eq!(a.get("http://b/").await.status, StatusCode::OK);
    }
    assert!(
        good.saw().iter().all(|saw| saw.head.starts_with("get / ")),
        "a connection is all that is asked for"
    );

    // Without checks nothing is known of it.
    let policy = Key {
        kind: Kind::BackendPolicy,
        namespace: "default".to_owned(),
        name: "b".to_owned(),
    };
    mesh.delete(&policy).await;
    until("the end of the checks", || async {
        endpoint(&a, dead).await["checks"].is_null().then_some(())
    })
    .await;
    assert_eq!(failing(&a).await, 0.0);
    assert_eq!(endpoint(&a, dead).await["used"], true);
    let (_, lines) = a.stop().await;
    let attempts = lines
        .iter()
        .rev()
        .take(6)
        .map(|line| line["weir.attempts"].as_array().map(Vec::len));
    assert_eq!(
        attempts.collect::<Vec<_>>(),
        [Some(1); 6],
        "none was tried at the dead one"
    );
}

#[tokio::test]
async fn a_sidecar_says_whether_its_app_takes_connections() {
    let (mesh, a) = mesh().await;
    let mut b = mesh.service("b", Script::answer(200, "")).await;
    check(&mesh, &a, "type: Tcp").await;
    until_stands(&a, b.inbound(), true, "passed").await;
    assert!(
        b.seen().iter().all(|seen| seen.head.uri.path() == "/"),
        "it gets no request for it"
    );
    b.close_app().await;
    // Its sidecar takes connections as before.
    until("the app to be found gone", || async {
        let stands = endpoint(&a, b.inbound()).await;
        let says = stands["checks"]
            .as_str()
            .is_some_and(|said| said.contains("failed: status 502"));
        says.then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_check_that_a_port_can_not_be_asked_for_is_not_accepted() {
    let (mesh, _a) = mesh().await;
    mesh.apply_service("b", "b", AppProtocol::Http1).await;
    mesh.apply(
        "{apiVersion: weir.dev/v1, kind: BackendPolicy, metadata: {name: b, namespace: default}, spec: {
          targetRefs: [{group: '', kind: Service, name: b}], healthCheck: {type: Grpc}}}",
    )
    .await;
    until("its status", || async {
        let path = format!("{}/b", Kind::BackendPolicy.path(Some("default")));
        let policy = mesh.api(Method::GET, &path, None).await.json();
        let conditions = policy["status"]["ancestors"][0]["conditions"].as_array()?;
        let accepted = conditions.iter().find(|condition| condition["type"] == "Accepted")?;
        let message = accepted["message"].as_str()?;
        let invalid = accepted["status"] == "False" && accepted["reason"] == "Invalid";
        (invalid && message.contains("Grpc can't be asked of port \"web\", which speaks HTTP/1.1")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn nobody_else_makes_a_request_a_check() {
    let (mesh, a) = mesh().await;
    let settings = MemberSettings {
        edge: Edge::Yes,
        ..MemberSettings::default()
    };
    let edge = mesh.service_with("edge", Script::answer(200, ""), settings).await;
    let inside = mesh.service("inside", Script::answer(200, "")).await;
    // Neither who comes from outside of the mesh nor an app.
    let marked = |url: &str| {
        Request::get(url)
            .header("host", "edge")
            .header("weir-check", "connection")
    };
    let outside = marked("/").body(Full::default()).expect("a request");
    let answer = call(edge.inbound(), Protocol::Http1, outside).await.expect("an answer");
    assert_eq!(answer.status, StatusCode::OK);
    let from_app = marked("http://inside/").body(Full::default()).expect("a request");
    assert_eq!(a.call(from_app).await.status, StatusCode::OK);
    for b in [&edge, &inside] {
        let seen = b.seen();
        assert_eq!(seen.len(), 1, "it reached the app");
        assert_eq!(seen[0].header("weir-check"), None);
        let counted = ["direction=\"inbound\""];
        until("the request to be counted", || async {
            (b.metric("weir_requests_total", &counted).await == 1.0).then_some(())
        })
        .await;
        assert_eq!(b.metric("weir_health_checks_answered_total", &[]).await, 0.0);
    }
}

/// What no sidecar asks is a request, whatever stands in its header: counted, logged, limited.
#[tokio::test]
async fn what_no_sidecar_asks_is_no_check() {
    let mesh = TestMesh::start().await;
    let b = mesh.service("b", Script::answer(200, "")).await;
    let marked = |method: Method, path: &str, mark: &str, body: &'static str| {
        let request = Request::builder().method(method).uri(path).header("host", "b");
        let request = request.header("weir-check", mark).body(Full::from(body));
        let inbound = b.inbound();
        async move {
            let answer = call(inbound, Protocol::Http1, request.expect("a request")).await;
            assert_eq!(answer.expect("an answer").status, StatusCode::OK);
        }
    };
    for (method, path, mark, body) in [
        (Method::DELETE, "/records", "request", ""),
        (Method::POST, "/records", "request", "x"),
        (Method::GET, "/records", "request", "x"),
        (Method::POST, "/", "connection", ""),
    ] {
        marked(method, path, mark, body).await;
    }
    marked(Method::GET, "/", "request", "").await;
    marked(Method::GET, "/", "connection", "").await;
    let seen = b.seen();
    assert_eq!(seen.len(), 5, "all but the last reached the app");
    assert!(seen.iter().all(|seen| seen.header("weir-check").is_none()));
    let counted = ["direction=\"inbound\""];
    until("the checks to be counted", || async {
        (b.metric("weir_health_checks_answered_total", &[]).await == 2.0).then_some(())
    })
    .await;
    until("the requests to be counted", || async {
        (b.metric("weir_requests_total", &counted).await == 4.0).then_some(())
    })
    .await;
    let (_, log) = b.stop().await;
    assert_eq!(log.len(), 4, "{log:#?}");
}

/// As many of them at once as a port has, and then some.
#[tokio::test]
async fn checks_have_limits_of_their_own() {
    const REQUESTS_MAX: usize = 1024;
    const CHECKS_MAX: usize = 128;
    let mesh = TestMesh::start().await;
    let (open, gate) = watch::channel(false);
    let script = Script::http(move |seen: Seen| {
        let mut gate = gate.clone();
        async move {
            if seen.head.uri.path() == "/hangs" {
                let _ = gate.wait_for(|open| *open).await;
            }
            Response::new(Full::default())
        }
    });
    // Over HTTP/2, so that a thousand requests are a few connections.
    let settings = MemberSettings {
        protocol: AppProtocol::Http2,
        ..MemberSettings::default()
    };
    let b = mesh.service_with("b", script, settings).await;
    let request = |path: &str, mark: Option<&str>| {
        let mut request = Request::get(format!("http://b{path}"));
        if let Some(mark) = mark {
            request = request.header("weir-check", mark);
        }
        request.body(Full::<Bytes>::default()).expect("a request")
    };
    let status = |path: &str, mark: Option<&str>| {
        let answer = call(b.inbound(), Protocol::Http2, request(path, mark));
        async move { answer.await.expect("an answer").status.as_u16() }
    };
    let mut held = tokio::task::JoinSet::new();
    let mut hold = async |count: usize, mark: Option<&str>| {
        let before = b.seen().len();
        for _ in 0..count / 64 {
            let stream = tokio::net::TcpStream::connect(b.inbound()).await.expect("a connection");
            let (sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                    .await
                    .expect("HTTP/2");
            held.spawn(async move {
                connection.await.expect("a good end");
                StatusCode::OK
            });
            for _ in 0..64 {
                let answer = sender.clone().send_request(request("/hangs", mark));
                held.spawn(async move { answer.await.expect("an answer").status() });
            }
        }
        until("the requests at the app", || async {
            (b.seen().len() - before == count).then_some(())
        })
        .await;
    };
    hold(REQUESTS_MAX, None).await;
    assert_eq!(status("/", None).await, 503);
    assert_eq!(status("/", Some("request")).await, 200, "the app answers");
    assert_eq!(status("/", Some("connection")).await, 200);
    hold(CHECKS_MAX, Some("request")).await;
    assert_eq!(status("/", Some("request")).await, 503);
    open.send_replace(true);
    let ended = held.join_all().await;
    assert!(ended.iter().all(|status| *status == StatusCode::OK));
}

/// A server that answers `grpc.health.v1.Health/Check` with this status, and anything else with UNIMPLEMENTED.
fn health_server(serving: Arc<AtomicU16>) -> Script {
    Script::streamed(move |request| {
        let status = u8::try_from(serving.load(Ordering::SeqCst)).expect("a status");
        async move {
            let check = request.uri().path() == "/grpc.health.v1.Health/Check";
            let asked = request.into_body().collect().await.expect("a request").to_bytes();
            let known = asked == Bytes::from_static(b"\0\0\0\0\x05\x0a\x03pkg");
            let (code, content) = match (check, known) {
                (true, true) => ("0", Bytes::from(vec![0, 0, 0, 0, 2, 8, status])),
                (true, false) => ("5", Bytes::new()),
                (false, _) => ("12", Bytes::new()),
            };
            let trailers = http::HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                http::HeaderValue::from_static(code),
            )]);
            let body = Full::new(content).with_trailers(async { Some(Ok(trailers)) });
            let response = Response::builder().header("content-type", "application/grpc");
            response.body(BodyExt::boxed(body)).expect("an answer")
        }
    })
}

#[tokio::test]
async fn a_grpc_server_says_itself_how_it_is() {
    let (mesh, a) = mesh().await;
    let serving = Arc::new(AtomicU16::new(1));
    let settings = || MemberSettings {
        protocol: AppProtocol::Grpc,
        ..MemberSettings::default()
    };
    mesh.apply_service("b", "b", AppProtocol::Grpc).await;
    let one = mesh
        .workload("b-1", "b", health_server(Arc::clone(&serving)), settings())
        .await;
    let always = health_server(Arc::new(AtomicU16::new(1)));
    let two = mesh.workload("b-2", "b", always, settings()).await;
    check(&mesh, &a, "type: Grpc, grpc: {service: pkg}").await;
    until_stands(&a, one.inbound(), true, "passed").await;
    serving.store(2, Ordering::SeqCst);
    until_stands(&a, one.inbound(), false, "failed: NOT_SERVING").await;
    until_stands(&a, two.inbound(), true, "passed").await;
    serving.store(1, Ordering::SeqCst);
    until_stands(&a, one.inbound(), true, "passed").await;

    // Of a service that the servers don't know they say so; with all endpoints unhealthy all are used.
    check(&mesh, &a, "type: Grpc").await;
    until_stands(&a, one.inbound(), true, "failed: grpc-status 5").await;
    until_stands(&a, two.inbound(), true, "failed: grpc-status 5").await;
    until("a panic", || async {
        let panics = a.metric("weir_cluster_panic", &["cluster=\"b.default:80\""]).await;
        (panics == 1.0).then_some(())
    })
    .await;
}
