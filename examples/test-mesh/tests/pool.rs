//! How the connections to a service are kept: how many requests one carries in all and at once, and how long an unused
//! one stays.

use std::convert::Infallible;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::{Barrier, Semaphore};
use tokio::task::JoinSet;
use weir_policy::model::AppProtocol;
use weir_test_mesh::{Act, Answer, Member, Peer, Protocol, Script, ScriptedApp, TestMesh, call, until};

/// A mesh in which `a` calls `b`, a peer without a sidecar, under this connection pool.
async fn mesh(protocol: AppProtocol, pool: &str) -> (TestMesh, Member, Peer) {
    let mesh = TestMesh::start().await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    let b = match protocol {
        AppProtocol::Http1 => Peer::http1(|_| Act::Answer(200)).await,
        AppProtocol::Http2 | AppProtocol::Grpc | AppProtocol::Tcp => Peer::http2(|_| Act::Answer(200)).await,
    };
    mesh.plain_service("b", protocol, &[b.address()]).await;
    apply(&mesh, pool).await;
    (mesh, a, b)
}

async fn apply(mesh: &TestMesh, pool: &str) {
    mesh.apply_in_force(&format!(
        "{{apiVersion: weir.dev/v1, kind: BackendPolicy, metadata: {{name: b, namespace: default}}, spec: {{
          targetRefs: [{{group: '', kind: Service, name: b}}], connectionPool: {{{pool}}}}}}}"
    ))
    .await;
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
    assert_eq!(statuses(ask(&a, 10)).await, [200; 10]);
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

/// Asks `b` so often at once.
fn ask(a: &Member, times: usize) -> JoinSet<Answer> {
    let mut asked = JoinSet::new();
    for _ in 0..times {
        let to = a.outbound();
        asked.spawn(async move {
            let request = Request::post("/").header("host", "b").body(Full::default());
            let answer = call(to, Protocol::Http1, request.expect("a request")).await;
            answer.expect("an answer")
        });
    }
    asked
}

async fn statuses(asked: JoinSet<Answer>) -> Vec<u16> {
    let answers = asked.join_all().await;
    answers.iter().map(|answer| answer.status.as_u16()).collect()
}

/// A server that speaks HTTP/2 and answers each request when it is told to.
struct Server {
    app: ScriptedApp,
    /// The connection of each request, from 1.
    carried: Arc<Mutex<Vec<usize>>>,
}

impl Server {
    /// One that takes so many requests at once on a connection.
    async fn start<F>(streams: u32, told: impl Fn() -> F + Clone + Send + Sync + 'static) -> Server
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (connections, carried) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::default()));
        let carries = Arc::clone(&carried);
        let script = Script::raw(move |stream| {
            let connection = connections.fetch_add(1, Ordering::Relaxed) + 1;
            let (told, carries): (_, Arc<Mutex<Vec<usize>>>) = (told.clone(), Arc::clone(&carries));
            async move {
                let service = service_fn(move |_| {
                    carries.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
                    let told = told();
                    async move {
                        told.await;
                        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
                    }
                });
                let mut serving = http2::Builder::new(TokioExecutor::new());
                let _ = serving
                    .max_concurrent_streams(streams)
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            }
        });
        let app = ScriptedApp::start(script).await;
        Server { app, carried }
    }

    /// A mesh in which `a` calls this as `b`, under this connection pool.
    async fn mesh(&self, pool: &str) -> (TestMesh, Member) {
        let mesh = TestMesh::start().await;
        let a = mesh.service("a", Script::answer(200, "")).await;
        mesh.plain_service("b", AppProtocol::Http2, &[self.app.address()]).await;
        apply(&mesh, pool).await;
        (mesh, a)
    }

    /// How many requests each connection has carried, the busiest first.
    fn loads(&self) -> Vec<usize> {
        let carried = self.carried.lock().unwrap_or_else(PoisonError::into_inner);
        let each = 1..=carried.iter().copied().max().unwrap_or(0);
        let mut loads: Vec<usize> = each
            .map(|connection| carried.iter().filter(|used| **used == connection).count())
            .collect();
        loads.sort_unstable_by(|a, b| b.cmp(a));
        loads
    }
}

/// Answers once so many requests wait for it: until then each holds its stream.
async fn together(requests: usize, streams: u32) -> Server {
    let all = Arc::new(Barrier::new(requests));
    Server::start(streams, move || {
        let all = Arc::clone(&all);
        async move {
            all.wait().await;
        }
    })
    .await
}

/// Answers as many requests as there are permits.
async fn held(streams: u32) -> (Server, Arc<Semaphore>) {
    let permits = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&permits);
    let server = Server::start(streams, move || {
        let held = Arc::clone(&held);
        async move { held.acquire().await.expect("is never closed").forget() }
    });
    (server.await, permits)
}

async fn pending(a: &Member) -> f64 {
    let labels = ["cluster=\"b.default:80\"", "kind=\"pending\""];
    a.metric("weir_cluster_active", &labels).await
}

#[tokio::test]
async fn another_connection_is_opened_when_one_carries_all_that_it_may_at_once() {
    // As the policy says, as the peer says, and the smaller of both.
    for (pool, streams) in [
        ("maxConcurrentStreams: 2", 100),
        ("", 2),
        ("maxConcurrentStreams: 5", 2),
        ("maxConcurrentStreams: 2", 5),
    ] {
        let b = together(6, streams).await;
        let (_mesh, a) = b.mesh(pool).await;
        assert_eq!(statuses(ask(&a, 6)).await, [200; 6], "{pool} {streams}");
        assert_eq!(b.loads(), [2, 2, 2], "{pool} {streams}");
    }
}

#[tokio::test]
async fn as_long_as_there_is_room_all_share_one_connection() {
    let b = together(20, 20).await;
    let (_mesh, a) = b.mesh("").await;
    assert_eq!(statuses(ask(&a, 20)).await, [200; 20]);
    assert_eq!(b.loads(), [20]);
}

#[tokio::test]
async fn at_the_limit_of_connections_requests_wait_for_a_stream() {
    let (b, permits) = held(2).await;
    let pool = "}, connectTimeout: 60s, circuitBreaker: {maxConnections: 2";
    let (_mesh, a) = b.mesh(pool).await;
    let asked = ask(&a, 10);
    until("six requests to wait", || async {
        (pending(&a).await == 6.0 && b.loads() == [2, 2]).then_some(())
    })
    .await;
    permits.add_permits(10);
    assert_eq!(statuses(asked).await, [200; 10]);
    assert_eq!(b.loads().len(), 2, "there was no third connection");
    until("nobody to wait", || async { (pending(&a).await == 0.0).then_some(()) }).await;
}

#[tokio::test]
async fn one_that_gets_no_stream_in_time_is_refused_and_says_why() {
    let (b, permits) = held(1).await;
    let (_mesh, a) = b
        .mesh("}, connectTimeout: 100ms, circuitBreaker: {maxConnections: 1")
        .await;
    let first = ask(&a, 1);
    until("the first request", || async { (b.loads() == [1]).then_some(()) }).await;
    let refused = ask(&a, 1).join_all().await.remove(0);
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    let why = refused.header("proxy-status").expect("a reason");
    assert!(why.contains("error=connection_limit_reached"), "{why}");
    assert!(why.contains("the limit of 1 connections"), "{why}");
    permits.add_permits(1);
    assert_eq!(statuses(first).await, [200]);
}

#[tokio::test]
async fn a_peer_that_takes_no_stream_gets_no_flood_of_connections() {
    let (b, _permits) = held(0).await;
    let (_mesh, a) = b.mesh("}, connectTimeout: 100ms, circuitBreaker: {").await;
    let refused = ask(&a, 1).join_all().await.remove(0);
    assert_eq!(refused.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(b.app.connections(), 1);
}

#[tokio::test]
async fn a_limit_on_streams_holds_between_sidecars_whatever_the_app_speaks() {
    let mesh = TestMesh::start().await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    let all = Arc::new(Barrier::new(4));
    let script = Script::http(move |_| {
        let all = Arc::clone(&all);
        async move {
            all.wait().await;
            Response::new(Full::default())
        }
    });
    let b = mesh.service("b", script).await;
    apply(&mesh, "maxConcurrentStreams: 1").await;
    assert_eq!(statuses(ask(&a, 4)).await, [200; 4]);
    let open = ["direction=\"inbound\"", "side=\"downstream\""];
    assert_eq!(b.metric("weir_connections", &open).await, 4.0);
}
