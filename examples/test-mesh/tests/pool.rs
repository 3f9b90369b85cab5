//! How the connections to a service are kept: how many requests one carries, and how long an unused one stays.

use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::task::JoinSet;
use weir_policy::model::AppProtocol;
use weir_test_mesh::{Act, Member, Peer, Protocol, Script, TestMesh, call, until};

/// A mesh in which `a` calls `b`, a peer without a sidecar, under this connection pool.
async fn mesh(protocol: AppProtocol, pool: &str) -> (TestMesh, Member, Peer) {
    let mesh = TestMesh::start().await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    let b = match protocol {
        AppProtocol::Http1 => Peer::http1(|_| Act::Answer(200)).await,
        AppProtocol::Http2 | AppProtocol::Grpc => Peer::http2(|_| Act::Answer(200)).await,
    };
    mesh.plain_service("b", protocol, &[b.address()]).await;
    mesh.apply_in_force(&format!(
        "{{apiVersion: weir.dev/v1, kind: BackendPolicy, metadata: {{name: b, namespace: default}}, spec: {{
          targetRefs: [{{group: '', kind: Service, name: b}}], connectionPool: {{{pool}}}}}}}"
    ))
    .await;
    (mesh, a, b)
}

fn connections(b: &Peer) -> Vec<usize> {
    b.saw().iter().map(|saw| saw.connection).collect()
}

#[tokio::test]
async fn a_connection_carries_so_many_requests() {
    for protocol in [AppProtocol::Http1, AppProtocol::Http2] {
        let (_mesh, a, b) = mesh(protocol, "maxRequestsPerConnection: 2").await;
        for _ in 0..5 {
            assert_eq!(a.get("http://b/").await.status, StatusCode::OK);
        }
        assert_eq!(connections(&b), [1, 1, 2, 2, 3], "{protocol}");
    }
}

#[tokio::test]
async fn a_spent_connection_makes_room_for_its_successor() {
    for protocol in [AppProtocol::Http1, AppProtocol::Http2] {
        let pool = "maxRequestsPerConnection: 1}, circuitBreaker: {maxConnections: 1";
        let (_mesh, a, b) = mesh(protocol, pool).await;
        for _ in 0..3 {
            let answer = a.get("http://b/").await;
            assert_eq!(
                answer.status,
                StatusCode::OK,
                "{protocol}: {:?}",
                answer.header("proxy-status")
            );
        }
        assert_eq!(connections(&b), [1, 2, 3], "{protocol}");
    }
}

#[tokio::test]
async fn requests_at_once_share_no_connection_that_carries_one() {
    let (_mesh, a, b) = mesh(AppProtocol::Http2, "maxRequestsPerConnection: 1").await;
    let mut asked = JoinSet::new();
    for _ in 0..10 {
        let to = a.outbound();
        asked.spawn(async move {
            let request = Request::get("/").header("host", "b").body(Full::default());
            call(to, Protocol::Http1, request.expect("a request")).await
        });
    }
    while let Some(answer) = asked.join_next().await {
        let answer = answer.expect("asked").expect("an answer");
        assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.header("proxy-status"));
    }
    let mut used = connections(&b);
    used.sort_unstable();
    used.dedup();
    assert_eq!(used.len(), 10);
}

#[tokio::test]
async fn an_unused_connection_is_closed_in_time() {
    async fn closes(protocol: AppProtocol) {
        let (_mesh, a, b) = mesh(protocol, "idleTimeout: 1s").await;
        assert_eq!(a.get("http://b/").await.status, StatusCode::OK);
        let open = ["direction=\"outbound\"", "side=\"upstream\""];
        assert_eq!(a.metric("weir_connections", &open).await, 1.0);
        until("the end of the connection", || async {
            (a.metric("weir_connections", &open).await == 0.0).then_some(())
        })
        .await;
        assert_eq!(a.get("http://b/").await.status, StatusCode::OK);
        assert_eq!(connections(&b), [1, 2], "{protocol}");
    }
    tokio::join!(closes(AppProtocol::Http1), closes(AppProtocol::Http2));
}
