//! Single endpoints that fail are left alone for a while, and come back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::Value;
use weir_policy::model::AppProtocol;
use weir_test_mesh::{Act, ClosedPort, Member, MemberSettings, Peer, Protocol, Script, TestMesh, call, until};

/// A mesh with workload `a`, whose app calls.
async fn mesh() -> (TestMesh, Member) {
    let mesh = TestMesh::start().await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    (mesh, a)
}

/// Applies a BackendPolicy for `b`, whose endpoints are used one after the other.
async fn policy(mesh: &TestMesh, spec: &str) {
    mesh.apply_in_force(&format!(
        "{{apiVersion: weir.dev/v1, kind: BackendPolicy, metadata: {{name: b, namespace: default}}, spec: {{
          targetRefs: [{{group: '', kind: Service, name: b}}], balancing: {{type: RoundRobin}}, {spec}}}}}"
    ))
    .await;
}

async fn post(a: &Member) -> u16 {
    let request = Request::post("http://b/").body(Full::default()).expect("a request");
    a.call(request).await.status.as_u16()
}

/// How an endpoint of `b` stands in the sidecar of `a`.
async fn endpoint(a: &Member, address: SocketAddr) -> Value {
    let config = a.config().await;
    let clusters = config["mesh"]["clusters"].as_array().expect("clusters");
    let cluster = clusters
        .iter()
        .find(|cluster| cluster["name"] == "b.default:80")
        .expect("b");
    let endpoints = cluster["endpoints"].as_array().expect("endpoints");
    let found = endpoints
        .iter()
        .find(|endpoint| endpoint["address"] == address.to_string());
    found.expect("the endpoint").clone()
}

async fn ejections(a: &Member, cause: &str) -> f64 {
    let labels = ["cluster=\"b.default:80\"", &format!("cause=\"{cause}\"")];
    a.metric("weir_outlier_ejections_total", &labels).await
}

#[tokio::test]
async fn an_endpoint_that_fails_again_and_again_is_left_alone_and_comes_back() {
    let (mesh, a) = mesh().await;
    let status = Arc::new(AtomicU16::new(500));
    let of_peer = Arc::clone(&status);
    let bad = Peer::http1(move |_| Act::Answer(of_peer.load(Ordering::SeqCst))).await;
    let good = Peer::http1(|_| Act::Answer(200)).await;
    mesh.plain_service("b", AppProtocol::Http1, &[bad.address(), good.address()])
        .await;
    policy(
        &mesh,
        "outlierDetection: {consecutive5xxErrors: 3, baseEjectionTime: 1h}",
    )
    .await;
    let mut failed = 0;
    for _ in 0..40 {
        failed += usize::from(post(&a).await == 500);
    }
    assert_eq!((failed, bad.saw().len(), good.saw().len()), (3, 3, 37));
    assert_eq!(ejections(&a, "consecutive_5xx_errors").await, 1.0);
    let labels = ["cluster=\"b.default:80\"", "state=\"ejected\""];
    assert_eq!(a.metric("weir_cluster_endpoints", &labels).await, 1.0);
    let stands = endpoint(&a, bad.address()).await;
    assert_eq!(stands["used"], false);
    assert!(
        stands["ejected_for_ms"].as_u64().expect("a time") > 3_000_000,
        "{stands}"
    );
    assert_eq!(stands["health"], "healthy", "the control plane says nothing else");

    // Under other rules it begins anew; ejected for a short time, it comes back by itself.
    policy(
        &mesh,
        "outlierDetection: {consecutive5xxErrors: 1, baseEjectionTime: 100ms}",
    )
    .await;
    while ejections(&a, "consecutive_5xx_errors").await == 0.0 {
        post(&a).await;
    }
    status.store(200, Ordering::SeqCst);
    let before = bad.saw().len();
    until("the endpoint to be used again", || async {
        assert_eq!(post(&a).await, 200);
        (bad.saw().len() > before).then_some(())
    })
    .await;
    assert_eq!(endpoint(&a, bad.address()).await["ejected_for_ms"], Value::Null);
    assert_eq!(a.metric("weir_cluster_endpoints", &labels).await, 0.0);
}

#[tokio::test]
async fn the_last_endpoint_is_never_ejected() {
    let (mesh, a) = mesh().await;
    let one = Peer::http1(|_| Act::Answer(503)).await;
    let two = Peer::http1(|_| Act::Answer(503)).await;
    mesh.plain_service("b", AppProtocol::Http1, &[one.address(), two.address()])
        .await;
    let rules = "consecutiveGatewayErrors: 1, baseEjectionTime: 1h, maxEjectionPercent: 100";
    policy(&mesh, &format!("outlierDetection: {{{rules}}}")).await;
    for _ in 0..20 {
        assert_eq!(post(&a).await, 503);
    }
    assert_eq!(one.saw().len() + two.saw().len(), 20, "the app's own answers");
    assert_eq!(one.saw().len().min(two.saw().len()), 1);
    assert_eq!(ejections(&a, "consecutive_gateway_errors").await, 1.0);
}

#[tokio::test]
async fn an_endpoint_that_takes_no_connections_is_left_alone() {
    let (mesh, a) = mesh().await;
    let good = Peer::http1(|_| Act::Answer(200)).await;
    let closed = ClosedPort::any();
    let dead = closed.address();
    mesh.plain_service("b", AppProtocol::Http1, &[dead, good.address()])
        .await;
    let rules = "consecutiveLocalOriginFailures: 2, baseEjectionTime: 1h";
    policy(&mesh, &format!("outlierDetection: {{{rules}}}")).await;
    // A request that reached nobody goes to another endpoint at once: the app sees none of it.
    for _ in 0..20 {
        assert_eq!(post(&a).await, 200);
    }
    assert_eq!(ejections(&a, "consecutive_local_origin_failures").await, 1.0);
    let failed = ["outcome=\"connect_failed\""];
    assert_eq!(a.metric("weir_upstream_attempts_total", &failed).await, 2.0);
    assert_eq!(endpoint(&a, dead).await["used"], false);
}

#[tokio::test]
async fn a_grpc_status_that_speaks_of_the_server_counts_through_sidecars() {
    let (mesh, a) = mesh().await;
    let settings = || MemberSettings {
        protocol: AppProtocol::Grpc,
        ..MemberSettings::default()
    };
    let answers = |status: &'static str| {
        Script::http(move |_| async move {
            let response = Response::builder()
                .header("content-type", "application/grpc")
                .header("grpc-status", status);
            response.body(Full::default()).expect("an answer")
        })
    };
    mesh.apply_service("b", "b", AppProtocol::Grpc).await;
    let bad = mesh.workload("b-1", "b", answers("14"), settings()).await;
    let good = mesh.workload("b-2", "b", answers("5"), settings()).await;
    policy(
        &mesh,
        "outlierDetection: {consecutive5xxErrors: 2, baseEjectionTime: 1h}",
    )
    .await;
    for _ in 0..20 {
        let request = Request::builder()
            .method(Method::POST)
            .uri("http://b/pkg.Service/Method")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::from("\0\0\0\0\0"))
            .expect("a request");
        let answer = call(a.outbound(), Protocol::Http2, request).await.expect("an answer");
        assert_eq!(answer.status, StatusCode::OK);
    }
    assert_eq!(
        (bad.seen().len(), good.seen().len()),
        (2, 18),
        "NOT_FOUND speaks of the request"
    );
    assert_eq!(ejections(&a, "consecutive_5xx_errors").await, 1.0);
}
