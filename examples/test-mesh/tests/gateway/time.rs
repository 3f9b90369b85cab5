//! `conformance/tests` of HTTPRoute: how long requests may take, and when they are sent again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::sync::Semaphore;
use weir_policy::model::AppProtocol;
use weir_proxy::config::Edge;
use weir_test_mesh::{Member, MemberSettings, Protocol, Script, ScriptedApp, TestMesh, until};

use crate::world::{World, reached, route};

/// Answers at once; what asks to wait, when it is let go on.
fn waits(go_on: Arc<Semaphore>) -> Script {
    Script::http(move |seen| {
        let go_on = Arc::clone(&go_on);
        async move {
            if seen.head.uri.query() == Some("wait") {
                go_on.acquire().await.expect("it is open").forget();
            }
            Response::new(Full::default())
        }
    })
}

#[tokio::test]
async fn timeouts() {
    let world = World::start().await;
    let caller = &world.caller;
    for (name, service, field) in [
        ("HTTPRouteTimeoutRequest", "slow-request", "request"),
        ("HTTPRouteTimeoutBackendRequest", "slow-backend", "backendRequest"),
    ] {
        let go_on = Arc::new(Semaphore::new(0));
        let slow = world.mesh.service(service, waits(Arc::clone(&go_on))).await;
        let rule = |path: &str, limit: &str| {
            format!(
                "  - {{matches: [{{path: {{value: {path}}}}}], timeouts: {{{field}: {limit}}}, \
                 backendRefs: [{{name: {service}, port: 80}}]}}"
            )
        };
        let rules = [rule("/short", "500ms"), rule("/long", "5m"), rule("/none", "0s")];
        let echo = world.prepare(&route(&rules.join("\n"))).await;
        let get = |path: &'static str| {
            let url = format!("http://{echo}{path}");
            async move { caller.get(&url).await.status }
        };
        assert_eq!(get("/long").await, StatusCode::OK, "{name}");
        // What has no limit begins before the other one, and ends after it.
        let short = async {
            until("the request without limit to arrive", || async {
                (reached(&slow, "/none?wait") == 1).then_some(())
            })
            .await;
            let status = get("/short?wait").await;
            // For whichever of them the app still has.
            go_on.add_permits(2);
            status
        };
        let (none, short) = tokio::join!(get("/none?wait"), short);
        assert_eq!((short, none), (StatusCode::GATEWAY_TIMEOUT, StatusCode::OK), "{name}");
    }
}

/// Answers the first requests of each target with what it asks for: `?503,2` is two times 503. `wait` instead of a
/// status never answers.
fn recovers() -> Script {
    let counts: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
    Script::http(move |seen| {
        let target = seen.head.uri.to_string();
        let asked = seen.head.uri.query().and_then(|query| query.split_once(','));
        let (what, times) = asked.expect("what to do, and how often");
        let (what, times) = (what.to_owned(), times.parse::<usize>().expect("a number"));
        let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(target).or_default();
        *count += 1;
        let fails = *count <= times;
        async move {
            let mut answer = Response::new(Full::default());
            match (fails, what.parse()) {
                (false, _) => {}
                (true, Ok(status)) => *answer.status_mut() = status,
                (true, Err(_)) => std::future::pending().await,
            }
            answer
        }
    })
}

async fn retried(world: &World, of: &Member, echo: &str, target: &str, status: u16, requests: usize) {
    let answer = world.caller.get(&format!("http://{echo}{target}")).await;
    assert_eq!(answer.status.as_u16(), status, "{target}: {}", answer.text());
    assert_eq!(reached(of, target), requests, "{target}");
}

#[tokio::test]
async fn retries() {
    let world = World::start().await;
    let shaky = world.mesh.service("shaky", recovers()).await;
    let rules = route(
        "  - matches: [{path: {value: /some}}]
    retry: {codes: [500], attempts: 3}
    backendRefs: [{name: shaky, port: 80}]
  - matches: [{path: {value: /all}}]
    retry: {codes: [500, 502, 503, 504], attempts: 2, backoff: 1ms}
    backendRefs: [{name: shaky, port: 80}]
  - matches: [{path: {value: /attempt}}]
    retry: {attempts: 2}
    timeouts: {backendRequest: 3s}
    backendRefs: [{name: shaky, port: 80}]
  - matches: [{path: {value: /never}}]
    retry: {attempts: 2}
    timeouts: {backendRequest: 100ms}
    backendRefs: [{name: shaky, port: 80}]
  - matches: [{path: {value: /none}}]
    backendRefs: [{name: shaky, port: 80}]",
    );
    let echo = world.prepare(&rules).await;
    for (target, status, requests) in [
        // HTTPRouteRetry
        ("/some?500,2", 200, 3),
        ("/some?500,4", 500, 4),
        ("/some?503,2", 503, 1),
        ("/all?500,1", 200, 2),
        ("/all?502,1", 200, 2),
        ("/all?503,1", 200, 2),
        ("/all?504,1", 200, 2),
        ("/all?500,3", 500, 3),
        ("/all?502,3", 502, 3),
        ("/all?503,3", 503, 3),
        ("/all?504,3", 504, 3),
        ("/none?503,1", 503, 1),
        // HTTPRouteRetryWithTimeouts
        ("/attempt?wait,1", 200, 2),
    ] {
        retried(&world, &shaky, &echo, target, status, requests).await;
    }
    let by_policy = || world.caller.metric("weir_retries_total", &["kind=\"policy\""]);
    let before = by_policy().await;
    let answer = world.caller.get(&format!("http://{echo}/never?wait,9")).await;
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(by_policy().await - before, 2.0);
}

/// HTTPRouteRetryWithTimeouts: retries end with the time of the whole request, which here is less than the first waits.
#[tokio::test]
async fn retries_end_with_the_request() {
    let world = World::start().await;
    let shaky = world.mesh.service("shaky", recovers()).await;
    let rules = route(
        "  - retry: {codes: [500], attempts: 5, backoff: 60s}
    timeouts: {request: 30s}
    backendRefs: [{name: shaky, port: 80}]",
    );
    let echo = world.prepare(&rules).await;
    retried(&world, &shaky, &echo, "/?500,9", 504, 1).await;
}

/// Closes the connection of each target's first requests without a word: `/2` is two times.
fn hangs_up(counts: Arc<Mutex<HashMap<String, usize>>>) -> Script {
    Script::raw(move |stream| {
        let counts = Arc::clone(&counts);
        async move {
            let mut stream = BufReader::new(stream);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if stream.read_line(&mut head).await.unwrap_or(0) == 0 {
                    return;
                }
            }
            let target = head.split(' ').nth(1).expect("a target").to_owned();
            let times: usize = target.trim_start_matches('/').parse().expect("a number");
            let count = {
                let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
                let count = counts.entry(target).or_default();
                *count += 1;
                *count
            };
            if count > times {
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                let _ = stream.write_all(answer).await;
            }
        }
    })
}

/// HTTPRouteRetryConnectionError: also where it is the app's sidecar that meets the error.
#[tokio::test]
async fn retries_after_connection_errors() {
    let world = World::start().await;
    let behind_sidecar = Arc::default();
    let _member = world.mesh.service("shaky", hangs_up(Arc::clone(&behind_sidecar))).await;
    let without_sidecar = Arc::default();
    let plain = ScriptedApp::start(hangs_up(Arc::clone(&without_sidecar))).await;
    world
        .mesh
        .plain_service("plain", AppProtocol::Http1, &[plain.address()])
        .await;
    for (service, counts) in [("shaky", behind_sidecar), ("plain", without_sidecar)] {
        let rules = route(&format!(
            "  - {{retry: {{attempts: 3, backoff: 1ms}}, backendRefs: [{{name: {service}, port: 80}}]}}"
        ));
        let echo = world.prepare(&rules).await;
        for (times, status, requests) in [(2, 200, 3), (4, 502, 4)] {
            let answer = world.caller.get(&format!("http://{echo}/{times}")).await;
            assert_eq!(answer.status.as_u16(), status, "{service} {times}: {}", answer.text());
            let counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
            assert_eq!(counts.get(&format!("/{times}")), Some(&requests), "{service} {times}");
            assert_eq!(answer.header("weir-verdict"), None);
        }
        // A route that does not say so sends nothing again.
        let plain = route(&format!("  - backendRefs: [{{name: {service}, port: 80}}]"));
        let echo = world.prepare(&plain).await;
        let answer = world.caller.get(&format!("http://{echo}/1")).await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{service}");
    }
}

/// What a sidecar says of its app is for sidecars: at the edge it says nothing.
#[tokio::test]
async fn that_an_app_gave_no_answer_is_said_within_the_mesh() {
    let mesh = TestMesh::start().await;
    for (name, edge, expect) in [
        ("inner", Edge::No, Some("1;f=upstream;r=upstream_reset")),
        ("outer", Edge::Yes, None),
    ] {
        let settings = MemberSettings {
            edge,
            ..MemberSettings::default()
        };
        let member = mesh.service_with(name, hangs_up(Arc::default()), settings).await;
        let request = Request::get("/9").header("host", name).body(Full::default());
        let answer = weir_test_mesh::call(member.inbound(), Protocol::Http1, request.expect("a request")).await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{name}");
        assert_eq!(answer.header("weir-verdict"), expect, "{name}");
    }
}
