//! What a RoutePolicy adds to routes, with real sidecars.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use weir_api::{Key, Kind};
use weir_policy::model::AppProtocol;
use weir_test_mesh::{Act, Answer, Member, MemberSettings, Peer, Protocol, Script, TestMesh, until};

const IN_FORCE: &str = "weir.dev/InForce";

fn request(method: Method, url: &str) -> Request<Full<Bytes>> {
    let builder = Request::builder().method(method).uri(url);
    builder.body(Full::from("pay")).expect("a request")
}

fn policy(name: &str, target: &str, fields: &str) -> String {
    format!(
        "{{apiVersion: weir.dev/v1, kind: RoutePolicy, metadata: {{name: {name}, namespace: default}}, spec: {{
           targetRefs: [{{{target}}}], {fields}}}}}"
    )
}

const SERVICE: &str = "group: '', kind: Service, name: b";
const ROUTE: &str = "group: gateway.networking.k8s.io, kind: HTTPRoute, name: b";

/// An HTTPRoute for `b` with two rules: `pay` for `/pay`, and one without a name for the rest.
const RULES: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: b, namespace: default}
spec:
  parentRefs: [{group: '', kind: Service, name: b}]
  rules:
  - name: pay
    matches: [{path: {type: PathPrefix, value: /pay}}]
    backendRefs: [{name: b, port: 80}]
  - backendRefs: [{name: b, port: 80}]
    retry: {codes: [503], attempts: 1, backoff: 1ms}
";

fn key(kind: Kind, name: &str) -> Key {
    Key {
        kind,
        namespace: "default".to_owned(),
        name: name.to_owned(),
    }
}

/// `status reason: message` of a condition of a policy's first target.
async fn says(mesh: &TestMesh, policy: &str, condition: &str) -> Option<String> {
    let object = mesh
        .api(Method::GET, &key(Kind::RoutePolicy, policy).path(), None)
        .await
        .json();
    let conditions = object.pointer("/status/ancestors/0/conditions")?.as_array()?;
    let found = conditions.iter().find(|held| held["type"] == condition)?;
    let text = |field: &str| found[field].as_str().unwrap_or("?").to_owned();
    Some(format!("{} {}: {}", text("status"), text("reason"), text("message")))
}

async fn until_says(mesh: &TestMesh, policy: &str, condition: &str, expect: &str) {
    until(&format!("{policy} to say {condition} {expect}"), || async {
        (says(mesh, policy, condition).await.as_deref() == Some(expect)).then_some(())
    })
    .await;
}

/// A peer as the only endpoint of `b` that answers 500 to every request but each third.
async fn each_third(mesh: &TestMesh) -> Peer {
    let act = |number: usize| Act::Answer(if number.is_multiple_of(3) { 200 } else { 500 });
    let peer = Peer::http1(act).await;
    mesh.plain_service("b", AppProtocol::Http1, &[peer.address()]).await;
    peer
}

async fn caller(mesh: &TestMesh) -> Member {
    mesh.service("a", Script::answer(200, "")).await
}

/// The status of the answer, and how many requests the peer saw for it.
async fn tried(a: &Member, peer: &Peer, method: Method, path: &str) -> (u16, usize) {
    let before = peer.saw().len();
    let answer = a.call(request(method, &format!("http://b{path}"))).await;
    (answer.status.as_u16(), peer.saw().len() - before)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_services_policy_sends_again_without_any_route_and_only_methods_that_it_names() {
    let mesh = TestMesh::start().await;
    let peer = each_third(&mesh).await;
    let a = caller(&mesh).await;
    assert_eq!(tried(&a, &peer, Method::GET, "/").await, (500, 1));
    assert_eq!(tried(&a, &peer, Method::GET, "/").await, (500, 1));
    assert_eq!(tried(&a, &peer, Method::GET, "/").await, (200, 1));
    let retry = "retry: {attempts: 2, on: [5xx], backoff: {base: 1ms}}";
    mesh.apply_in_force(&policy("p", SERVICE, retry)).await;
    assert_eq!(tried(&a, &peer, Method::GET, "/").await, (200, 3));
    assert_eq!(
        tried(&a, &peer, Method::POST, "/").await,
        (500, 1),
        "it may have been processed"
    );
    assert_eq!(tried(&a, &peer, Method::PUT, "/").await, (200, 2));
    let any = "retry: {attempts: 2, on: [5xx], backoff: {base: 1ms}, methods: Any}";
    mesh.apply_in_force(&policy("p", SERVICE, any)).await;
    assert_eq!(tried(&a, &peer, Method::POST, "/").await, (200, 3));
    assert!(
        peer.saw().iter().all(|saw| saw.body == b"pay"),
        "with its body each time"
    );
    // Some tries of those that came back are the policy's.
    assert_eq!(a.metric("weir_retries_total", &["kind=\"policy\""]).await, 5.0);
    mesh.delete(&key(Kind::RoutePolicy, "p")).await;
    until("nothing to be sent again", || async {
        (tried(&a, &peer, Method::GET, "/").await == (500, 1)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rules_policy_goes_before_its_routes_and_says_what_it_overrides() {
    let mesh = TestMesh::start().await;
    let peer = each_third(&mesh).await;
    let a = caller(&mesh).await;
    mesh.apply_in_force(RULES).await;
    // The rule's own retry is for 503 alone.
    assert_eq!(tried(&a, &peer, Method::GET, "/").await, (500, 1));
    mesh.apply_in_force(&policy("route", ROUTE, "retry: {codes: [500]}"))
        .await;
    assert_eq!(
        tried(&a, &peer, Method::GET, "/").await,
        (200, 2),
        "once, and after a wait as short as the rule says"
    );
    assert_eq!(tried(&a, &peer, Method::GET, "/pay").await, (500, 2));
    let rule = format!("{ROUTE}, sectionName: pay");
    mesh.apply_in_force(&policy("rule", &rule, "retry: {attempts: 0}"))
        .await;
    assert_eq!(tried(&a, &peer, Method::GET, "/pay").await, (200, 1));
    assert_eq!(tried(&a, &peer, Method::GET, "/pay").await, (500, 1));
    until_says(
        &mesh,
        "rule",
        "Accepted",
        "True Accepted: it holds for rule \"pay\" of HTTPRoute default/b",
    )
    .await;
    until_says(&mesh, "rule", IN_FORCE, "True InForce: in force on 1 of 1").await;
    until_says(&mesh, "route", IN_FORCE, "True InForce: in force on 1 of 1").await;
    mesh.apply(&policy("service", SERVICE, "retry: {}")).await;
    let overridden = "False Overridden: each of its routes has a policy of its own, which goes before this one: \
                      RoutePolicy/default/rule, RoutePolicy/default/route";
    until_says(&mesh, "service", IN_FORCE, overridden).await;
    let newer = policy("z", &rule, "retry: {attempts: 5}");
    mesh.apply(&newer).await;
    until_says(
        &mesh,
        "z",
        IN_FORCE,
        "False NotAccepted: it is not accepted, so that no proxy is told of it",
    )
    .await;
    let why = says(&mesh, "z", "Accepted").await.expect("a condition");
    let both = "False Conflicted: RoutePolicy/default/rule and RoutePolicy/default/z both claim rule \"pay\" of \
                HTTPRoute default/b;";
    assert!(why.starts_with(both), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_takes_longer_than_its_time_is_made_anew() {
    let mesh = TestMesh::start().await;
    let peer = Peer::http1(|number| if number == 1 { Act::Wait } else { Act::Answer(200) }).await;
    mesh.plain_service("b", AppProtocol::Http1, &[peer.address()]).await;
    let a = caller(&mesh).await;
    let retry = "retry: {perTryTimeout: 250ms, attempts: 10, on: [reset], backoff: {base: 1ms}}";
    mesh.apply_in_force(&policy("p", SERVICE, retry)).await;
    let answer = a.call(request(Method::GET, "http://b/")).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(peer.saw().len() > 1);
}

/// Each request that waits holds memory, and stands under no cluster's limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_requests_wait_by_a_delay_than_a_worker_holds() {
    const DELAYED_MAX: usize = 1024;
    let mesh = TestMesh::start().await;
    let _b = mesh.service("b", Script::answer(200, "b")).await;
    let a = caller(&mesh).await;
    let delay = "fault: {delay: {percent: 100, duration: 10m}}";
    mesh.apply_in_force(&policy("p", SERVICE, delay)).await;
    let delayed = async |count: usize| {
        until("requests that wait", || async {
            let delayed = a.metric("weir_faults_injected_total", &["kind=\"delay\""]).await;
            (delayed == count as f64).then_some(())
        })
        .await;
    };
    let mut waiting = tokio::task::JoinSet::new();
    let stream = tokio::net::TcpStream::connect(a.outbound())
        .await
        .expect("a connection");
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .expect("HTTP/2");
    waiting.spawn(async move { drop(connection.await) });
    for _ in 0..DELAYED_MAX {
        let mut sender = sender.clone();
        waiting.spawn(async move { drop(sender.send_request(request(Method::GET, "http://b/")).await) });
    }
    delayed(DELAYED_MAX).await;
    assert_eq!(a.get("http://b/").await.status, StatusCode::OK, "without a delay");
    assert_eq!(a.metric("weir_fault_delays_left_out_total", &[]).await, 1.0);
    // Those that leave make room.
    waiting.shutdown().await;
    drop(sender);
    until("the requests' ends", || async {
        let ended = a.metric("weir_requests_total", &["direction=\"outbound\""]).await;
        (ended == 1.0 + DELAYED_MAX as f64).then_some(())
    })
    .await;
    let to = a.outbound();
    let next =
        tokio::spawn(async move { weir_test_mesh::call(to, Protocol::Http2, request(Method::GET, "http://b/")).await });
    delayed(DELAYED_MAX + 1).await;
    assert_eq!(a.metric("weir_fault_delays_left_out_total", &[]).await, 1.0);
    next.abort();
}

/// Trailers-Only: a status and no message (gRPC, PROTOCOL-HTTP2.md).
fn status(code: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from_static(code));
    response
}

async fn call(a: &Member, method: &str) -> Answer {
    let request = Request::post(format!("http://b{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::from(&b"\0\0\0\0\x02hi"[..]))
        .expect("a request");
    let answer = weir_test_mesh::call(a.outbound(), Protocol::Http2, request).await;
    answer.expect("an answer of the sidecar")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_made_again_on_the_statuses_that_a_policy_names() {
    let mesh = TestMesh::start().await;
    let grpc = MemberSettings {
        protocol: AppProtocol::Grpc,
        ..MemberSettings::default()
    };
    // UNAVAILABLE, then INTERNAL, then well, and so on.
    let script = Script::http(|seen| async move { status(["0", "14", "13"][seen.number % 3]) });
    let b = mesh.service_with("b", script, grpc).await;
    let a = caller(&mesh).await;
    mesh.apply_in_force(
        "{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {name: b, namespace: default}, spec: {
           parentRefs: [{group: '', kind: Service, name: b}], rules: [{backendRefs: [{name: b, port: 80}]}]}}",
    )
    .await;
    let grpc_route = "group: gateway.networking.k8s.io, kind: GRPCRoute, name: b";
    let retry = |on: &str| format!("retry: {{attempts: 3, on: [{on}], backoff: {{base: 1ms}}}}");
    mesh.apply_in_force(&policy("p", grpc_route, &retry("unavailable")))
        .await;
    let answer = call(&a, "/echo.Echo/Say").await;
    assert_eq!((answer.header("grpc-status"), b.seen().len()), (Some("13"), 2));
    mesh.apply_in_force(&policy("p", grpc_route, &retry("unavailable, internal")))
        .await;
    let answer = call(&a, "/echo.Echo/Say").await;
    assert_eq!((answer.header("grpc-status"), b.seen().len()), (Some("0"), 3));
    let answer = call(&a, "/echo.Echo/Say").await;
    assert_eq!((answer.header("grpc-status"), b.seen().len()), (Some("0"), 6));
}

fn why(answer: &Answer) -> &str {
    answer.header("proxy-status").unwrap_or("nothing: the app answered")
}

/// The statuses of so many answers.
async fn statuses(a: &Member, url: &str, count: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..count {
        statuses.push(a.get(url).await.status.as_u16());
    }
    statuses
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_over_a_limit_is_told_when_to_come_again() {
    let mesh = TestMesh::start().await;
    let b = mesh.service("b", Script::answer(200, "b")).await;
    let a = caller(&mesh).await;
    mesh.apply_in_force(&policy("p", SERVICE, "rateLimit: {requests: 1, per: 1h, burst: 3}"))
        .await;
    assert_eq!(statuses(&a, "http://b/", 5).await, [200, 200, 200, 429, 429]);
    let over = a.get("http://b/").await;
    let wait: u64 = over.header("retry-after").expect("a field").parse().expect("seconds");
    assert!((1_000..=3_600).contains(&wait), "{wait}");
    let said = "weir/default/a; error=http_request_denied; details=\"Service/default/b takes 1 requests in 3600s";
    assert!(why(&over).starts_with(said), "{}", why(&over));
    assert!(
        over.text().contains("change the RoutePolicy's rateLimit"),
        "{}",
        over.text()
    );
    // By another name for it, too.
    assert_eq!(
        a.get("http://b.default:80/").await.status,
        StatusCode::TOO_MANY_REQUESTS
    );
    assert_eq!(b.seen().len(), 3);
    // What is spent stays spent, whatever becomes of the policy.
    let more = "rateLimit: {requests: 1, per: 1h, burst: 4}, retry: {attempts: 2}";
    mesh.apply_in_force(&policy("p", SERVICE, more)).await;
    assert_eq!(statuses(&a, "http://b/", 2).await, [200, 429]);
    assert_eq!(a.metric("weir_rate_limited_total", &[]).await, 5.0);
    let call = call(&a, "/echo.Echo/Say").await;
    assert_eq!((call.status, call.header("grpc-status")), (StatusCode::OK, Some("8")));
    let pushback = call.header("grpc-retry-pushback-ms").expect("a field");
    assert!(pushback.parse::<u64>().is_ok_and(|wait| wait > 1_000_000), "{pushback}");
    let (_, log) = a.stop().await;
    let limited = log.iter().filter(|line| line["weir.flag"] == "rate_limited");
    assert_eq!(limited.count(), 6, "{log:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_rule_has_a_limit_of_its_own() {
    let mesh = TestMesh::start().await;
    let _b = mesh.service("b", Script::answer(200, "b")).await;
    let a = caller(&mesh).await;
    mesh.apply_in_force(RULES).await;
    mesh.apply_in_force(&policy("p", ROUTE, "rateLimit: {requests: 1, per: 1h, burst: 2}"))
        .await;
    assert_eq!(statuses(&a, "http://b/pay", 3).await, [200, 200, 429]);
    assert_eq!(statuses(&a, "http://b/", 3).await, [200, 200, 429]);
    let question = "/explain?url=http://b/pay";
    let said = a.admin(Method::POST, question).await.json();
    assert_eq!(said["route"]["rate_limit"]["name"], "HTTPRoute/default/b#rules[0:pay]");
    assert_eq!(
        (&said["outcome"]["status"], &said["outcome"]["flag"]),
        (&429.into(), &"rate_limited".into())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pages_question_whether_it_may_is_no_use_of_a_rule() {
    let mesh = TestMesh::start().await;
    let _b = mesh.service("b", Script::answer(200, "b")).await;
    let a = caller(&mesh).await;
    mesh.apply_in_force(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: b, namespace: default}
spec:
  parentRefs: [{group: '', kind: Service, name: b}]
  rules:
  - filters: [{type: CORS, cors: {allowOrigins: ['https://www.page.example'], allowMethods: ['*']}}]
    backendRefs: [{name: b, port: 80}]
",
    )
    .await;
    let limited = "rateLimit: {requests: 1, per: 1h, burst: 1}, fault: {abort: {percent: 100, status: 500}}";
    mesh.apply_in_force(&policy("p", ROUTE, limited)).await;
    for (method, status) in [
        (Method::OPTIONS, 204),
        (Method::GET, 500),
        (Method::GET, 429),
        (Method::OPTIONS, 204),
    ] {
        let mut request = request(method.clone(), "http://b/");
        let headers = request.headers_mut();
        headers.insert("origin", HeaderValue::from_static("https://www.page.example"));
        if method == Method::OPTIONS {
            headers.insert("access-control-request-method", HeaderValue::from_static("GET"));
        }
        let answer = a.call(request).await;
        assert_eq!(answer.status.as_u16(), status, "{method}");
        let origin = answer.header("access-control-allow-origin");
        assert_eq!(
            origin,
            Some("https://www.page.example"),
            "the page can read each of these"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_answers_in_the_upstreams_place_and_counts_against_nobody() {
    let mesh = TestMesh::start().await;
    let b = mesh.service("b", Script::answer(200, "b")).await;
    let a = caller(&mesh).await;
    mesh.apply(
        "{apiVersion: weir.dev/v1, kind: BackendPolicy, metadata: {name: b, namespace: default}, spec: {
           targetRefs: [{group: '', kind: Service, name: b}],
           circuitBreaker: {failures: {percent: 1, minRequests: 1, openFor: 10m}},
           outlierDetection: {consecutive5xxErrors: 1, maxEjectionPercent: 100}}}",
    )
    .await;
    // Nobody is sent to, so that there is nothing to send again either.
    let retry = "retry: {on: [5xx], attempts: 3}";
    let fault = |percent: u8| format!("{retry}, fault: {{abort: {{percent: {percent}, status: 503}}}}");
    mesh.apply_in_force(&policy("p", SERVICE, &fault(100))).await;
    assert_eq!(statuses(&a, "http://b/", 5).await, [503; 5]);
    let answer = a.get("http://b/").await;
    let said = "weir/default/a; error=proxy_internal_response; details=\"a fault that is injected by the policy of \
                Service/default/b\"";
    assert_eq!(why(&answer), said);
    // What 503 means to a gRPC client.
    assert_eq!(call(&a, "/echo.Echo/Say").await.header("grpc-status"), Some("14"));
    assert_eq!(b.seen().len(), 0);
    assert_eq!(a.metric("weir_faults_injected_total", &["kind=\"abort\""]).await, 7.0);
    mesh.apply_in_force(&policy("p", SERVICE, &fault(0))).await;
    assert_eq!(statuses(&a, "http://b/", 5).await, [200; 5]);
    assert_eq!(a.metric("weir_faults_injected_total", &["kind=\"abort\""]).await, 7.0);
    assert_eq!(a.metric("weir_breaker_opened_total", &[]).await, 0.0);
    assert_eq!(a.metric("weir_outlier_ejections_total", &[]).await, 0.0);
    assert_eq!(a.metric("weir_retries_total", &[]).await, 0.0);
    let (_, log) = a.stop().await;
    assert_eq!(
        log.iter().filter(|line| line["weir.flag"] == "fault").count(),
        7,
        "{log:#?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delay_is_within_the_requests_time_and_goes_before_an_answer() {
    let mesh = TestMesh::start().await;
    let b = mesh.service("b", Script::answer(200, "b")).await;
    let a = caller(&mesh).await;
    let delays = |duration: &str| format!("fault: {{delay: {{percent: 100, duration: {duration}}}}}");
    mesh.apply_in_force(&policy("p", SERVICE, &delays("1ms"))).await;
    assert_eq!(a.get("http://b/").await.status, StatusCode::OK);
    assert_eq!(a.metric("weir_faults_injected_total", &["kind=\"delay\""]).await, 1.0);
    // Ten minutes, of which the request has a tenth of a second.
    let within = |time: &str| {
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: b, namespace: default}}, \
               spec: {{parentRefs: [{{group: '', kind: Service, name: b}}], rules: [{{timeouts: {{request: {time}}}, \
               backendRefs: [{{name: b, port: 80}}]}}]}}}}"
        )
    };
    mesh.apply_in_force(&within("100ms")).await;
    let both = "fault: {delay: {percent: 100, duration: 10m}, abort: {percent: 100, grpcStatus: 5}}";
    mesh.apply_in_force(&policy("p", SERVICE, both)).await;
    let late = a.get("http://b/").await;
    assert_eq!(late.status, StatusCode::GATEWAY_TIMEOUT);
    assert!(why(&late).contains("error=http_response_timeout"), "{}", why(&late));
    assert_eq!(b.seen().len(), 1);
    mesh.apply_in_force(&within("5m")).await;
    let soon = "fault: {delay: {percent: 100, duration: 1ms}, abort: {percent: 100, grpcStatus: 5}}";
    mesh.apply_in_force(&policy("p", SERVICE, soon)).await;
    // What NOT_FOUND is over HTTP.
    assert_eq!(a.get("http://b/").await.status, StatusCode::NOT_FOUND);
    assert_eq!(a.metric("weir_faults_injected_total", &["kind=\"delay\""]).await, 3.0);
    assert_eq!(a.metric("weir_faults_injected_total", &["kind=\"abort\""]).await, 1.0);
}

/// An app that has another service called for each request, in the name of it: `/c` has `c` called.
fn passes_on(outbound: Arc<OnceLock<SocketAddr>>) -> Script {
    Script::http(move |seen| {
        let outbound = *outbound.get().expect("it is known by now");
        async move {
            let to = seen.head.uri.path().trim_start_matches('/').to_owned();
            let mut onward = Request::get("/")
                .header("host", to)
                .body(Full::default())
                .expect("a request");
            for name in ["traceparent", "tracestate"] {
                let value = seen.head.headers.get(name).expect("the sidecar says it");
                onward.headers_mut().insert(name, value.clone());
            }
            let answer = weir_test_mesh::call(outbound, Protocol::Http1, onward)
                .await
                .expect("an answer");
            let mut response = Response::new(Full::new(answer.body));
            *response.status_mut() = answer.status;
            response
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_priority_is_set_where_nobody_said_one_and_then_only_lowered() {
    let mesh = TestMesh::start().await;
    let of_b = Arc::new(OnceLock::new());
    let b = mesh.service("b", passes_on(Arc::clone(&of_b))).await;
    of_b.set(b.outbound()).expect("once");
    let c = mesh.service("c", Script::answer(200, "c")).await;
    let d = mesh.service("d", Script::answer(200, "d")).await;
    let e = mesh.service("e", Script::answer(200, "e")).await;
    let a = caller(&mesh).await;
    for (name, priority) in [("b", 2), ("c", 0), ("d", 5)] {
        let target = format!("group: '', kind: Service, name: {name}");
        let policy = policy(name, &target, &format!("priority: {priority}"));
        mesh.apply(&policy).await;
    }
    for path in ["/c", "/d", "/e"] {
        assert_eq!(a.get(&format!("http://b{path}")).await.status, StatusCode::OK);
    }
    // What nobody sent has none.
    assert_eq!(a.get("http://e/").await.status, StatusCode::OK);
    let explained = a.admin(Method::POST, "/explain?url=http://d/").await.json();
    assert_eq!(explained["route"]["priority"], 5, "{explained:#}");
    let mut of = Vec::new();
    for member in [a, b, c, d, e] {
        let (_, lines) = member.stop().await;
        let lines = lines.into_iter().filter(|line| line["weir.direction"] == "inbound");
        of.push(lines.map(|line| line["weir.priority"].as_u64()).collect::<Vec<_>>());
    }
    let [_, b, c, d, e] = of.as_slice() else {
        panic!("{of:?}")
    };
    assert_eq!(*b, [Some(2); 3]);
    assert_eq!(*c, [Some(2)], "it is not raised");
    assert_eq!(*d, [Some(5)]);
    assert_eq!(*e, [Some(2), None], "it travels where no policy is");
}

/// An HTTPRoute for `b` whose rule has requests copied to `own`.
const COPIES: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: b, namespace: default}
spec:
  parentRefs: [{group: '', kind: Service, name: b}]
  rules:
  - filters: [{type: RequestMirror, requestMirror: {backendRef: {name: own, port: 80}}}]
    backendRefs: [{name: b, port: 80}]
";

fn copied(member: &Member, path: &str) -> usize {
    member.seen().iter().filter(|seen| seen.head.uri.path() == path).count()
}

async fn until_copied(member: &Member, path: &str) {
    until(&format!("a copy of {path}"), || async {
        (copied(member, path) == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_go_where_a_policy_says_in_place_of_where_its_rule_does() {
    let mesh = TestMesh::start().await;
    let _b = mesh.service("b", Script::answer(200, "b")).await;
    let own = mesh.service("own", Script::answer(500, "")).await;
    let shadow = mesh.service("shadow", Script::answer(500, "")).await;
    let a = caller(&mesh).await;
    let call = async |path: &str| assert_eq!(a.get(&format!("http://b{path}")).await.text(), "b", "{path}");
    mesh.apply_in_force(COPIES).await;
    call("/own").await;
    until_copied(&own, "/own").await;
    let to_shadow = "mirror: [{backendRef: {name: shadow, port: 80}}]";
    mesh.apply_in_force(&policy("p", ROUTE, to_shadow)).await;
    call("/policy").await;
    until_copied(&shadow, "/policy").await;
    assert_eq!(copied(&own, "/policy"), 0, "in its place");
    until_says(&mesh, "p", "ResolvedRefs", "True ResolvedRefs: every mirror is there").await;
    let explained = a.admin(Method::POST, "/explain?url=http://b/").await.json();
    let route = &explained["route"];
    assert_eq!(route["mirrors"], serde_json::json!(["100 % to shadow.default:80"]));
    let held = serde_json::json!({"name": "RoutePolicy/default/p", "fields": ["mirror"]});
    assert_eq!(route["policy"], held);
    // The Service's own policy is for it where there is no route.
    mesh.delete(&key(Kind::HttpRoute, "b")).await;
    mesh.apply_in_force(&policy("p", SERVICE, to_shadow)).await;
    call("/service").await;
    until_copied(&shadow, "/service").await;
    mesh.apply_in_force(COPIES).await;
    mesh.apply_in_force(&policy("p", SERVICE, "mirror: []")).await;
    call("/none").await;
    mesh.apply_in_force(&policy("p", SERVICE, "priority: 1")).await;
    call("/again").await;
    until_copied(&own, "/again").await;
    // Each copy is sent before its request is answered, on this worker's connections in their order.
    assert_eq!((copied(&own, "/none"), copied(&shadow, "/none")), (0, 0));
    // A copy is counted when its answer has been read, which is after its receiver has seen it.
    until("four copies to be answered", || async {
        let answered = a.metric("weir_mirrored_total", &["outcome=\"answered\""]).await;
        (answered == 4.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_that_cannot_be_used_gets_no_copy_and_stops_no_request() {
    let mesh = TestMesh::start().await;
    let _b = mesh.service("b", Script::answer(200, "b")).await;
    let shadow = mesh.service("shadow", Script::answer(200, "")).await;
    let labs = MemberSettings {
        namespace: "labs",
        ..MemberSettings::default()
    };
    let lab = mesh.service_with("lab", Script::answer(200, ""), labs).await;
    let a = caller(&mesh).await;
    let call = async |path: &str| assert_eq!(a.get(&format!("http://b{path}")).await.text(), "b", "{path}");
    let wrong = "mirror: [
      {backendRef: {name: gone, port: 80}},
      {backendRef: {name: shadow, port: 81}},
      {backendRef: {group: storage.example, kind: Bucket, name: c}},
      {backendRef: {name: lab, namespace: labs, port: 80}},
      {backendRef: {name: shadow, port: 80}}]";
    mesh.apply_in_force(&policy("p", SERVICE, wrong)).await;
    call("/one").await;
    until_copied(&shadow, "/one").await;
    let refused = async || a.metric("weir_mirrored_total", &["outcome=\"refused\""]).await;
    assert_eq!(refused().await, 4.0);
    let said = "False BackendNotFound: no copies are sent: mirror[0]: there is no Service default/gone; mirror[1]: \
                Service default/shadow has no port 81, only 80 (web); mirror[2]: it is a Bucket.storage.example named \"c\", to \
                which nothing can be sent; a Service is right (group \"\", kind Service) and 1 more";
    until_says(&mesh, "p", "ResolvedRefs", said).await;
    until_says(&mesh, "p", IN_FORCE, "True InForce: in force on 1 of 1").await;

    let abroad = "mirror: [{backendRef: {name: lab, namespace: labs, port: 80}}]";
    mesh.apply_in_force(&policy("p", SERVICE, abroad)).await;
    let closed =
        "False RefNotPermitted: no copies are sent: mirror[0]: no ReferenceGrant in labs permits Service labs/lab";
    until_says(&mesh, "p", "ResolvedRefs", closed).await;
    let grant = |kind: &str| {
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: ReferenceGrant, metadata: {{name: g, namespace: labs}},
               spec: {{from: [{{{kind}, namespace: default}}], to: [{{group: '', kind: Service}}]}}}}"
        )
    };
    mesh.apply_in_force(&grant("group: gateway.networking.k8s.io, kind: HTTPRoute"))
        .await;
    call("/closed").await;
    assert_eq!(refused().await, 5.0, "a grant for routes is none for policies");
    mesh.apply_in_force(&grant("group: weir.dev, kind: RoutePolicy")).await;
    call("/open").await;
    until_copied(&lab, "/open").await;
    until_says(&mesh, "p", "ResolvedRefs", "True ResolvedRefs: every mirror is there").await;
    let grant = Key {
        namespace: "labs".to_owned(),
        ..key(Kind::ReferenceGrant, "g")
    };
    mesh.delete(&grant).await;
    until_says(&mesh, "p", "ResolvedRefs", closed).await;
    until("the door to be closed", || async {
        call("/closing").await;
        (refused().await >= 6.0).then_some(())
    })
    .await;
    assert_eq!(copied(&lab, "/closed"), 0);
}
