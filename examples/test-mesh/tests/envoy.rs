//! A real Envoy under weir-control: its routes and policies, in both variants of the protocol, as caller of sidecars
//! and as called by one.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use weir_policy::model::AppProtocol;
use weir_test_mesh::{
    Answer, Envoy, MemberSettings, Protocol, Script, ScriptedApp, TestMesh, Through, WebSocketApp, bootstrap, call,
    call_web_sockets, until,
};

/// Which variant of the protocol it uses.
const VARIANTS: [&str; 2] = ["DELTA_GRPC", "GRPC"];

/// One of this name whose node asks for this; its outbound port is of the system's choice.
async fn start(mesh: &TestMesh, name: &str, variant: &str, mut asks: Value) -> Envoy {
    asks["outbound"] = json!("127.0.0.1:0");
    let control = mesh.control().xds_addr().expect("it is on");
    Envoy::start(&bootstrap(control, name, variant, asks)).await
}

async fn outbound(envoy: &Envoy) -> SocketAddr {
    envoy.listener("weir-outbound").await
}

/// What a cluster is made from, as Envoy shows it.
async fn made_from(envoy: &Envoy, cluster: &str) -> Value {
    let dump = envoy
        .admin("/config_dump?resource=dynamic_active_clusters")
        .await
        .json();
    let clusters = dump["configs"].as_array().expect("clusters").iter();
    let mut clusters = clusters.map(|found| &found["cluster"]);
    let found = clusters.find(|found| found["name"] == cluster).expect("the cluster");
    found["metadata"]["filter_metadata"]["weir.dev"]["sources"].clone()
}

/// The sum of a counter over all that match its name.
async fn stat(envoy: &Envoy, filter: &str) -> u64 {
    let stats = envoy.admin(&format!("/stats?filter={filter}&format=json")).await.json();
    let values = stats["stats"].as_array().expect("stats").iter();
    values.filter_map(|stat| stat["value"].as_u64()).sum()
}

async fn send(to: SocketAddr, host: &str, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::builder().method(method).uri(path).header("host", host);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::new())).expect("a request");
    call(to, Protocol::Http1, request).await.expect("an answer")
}

async fn get(to: SocketAddr, host: &str, path: &str) -> Answer {
    send(to, host, "GET", path, &[]).await
}

/// Asks until an answer is as expected: Envoy's workers have a change a moment after it is confirmed.
async fn until_answer(to: SocketAddr, host: &str, path: &str, status: u16, text: &str) {
    until(&format!("{host}{path} to answer {status} {text:?}"), || async {
        let answer = get(to, host, path).await;
        (answer.status == status && answer.text() == text).then_some(())
    })
    .await;
}

/// Answers with its name and the path.
fn echo(name: &'static str) -> Script {
    Script::http(move |seen| async move {
        let text = format!("{name}{}", seen.head.uri.path());
        let mut response = Response::new(Full::from(text));
        for (name, value) in &seen.head.headers {
            if name.as_str().starts_with("x-own") {
                response.headers_mut().insert(name.clone(), value.clone());
            }
        }
        response
    })
}

fn route(service: &str, rules: Value) -> String {
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "r", "namespace": "default"},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": service}], "rules": rules},
    });
    route.to_string()
}

fn policy(service: &str, fields: Value) -> String {
    let mut spec = fields;
    spec["targetRefs"] = json!([{"group": "", "kind": "Service", "name": service}]);
    let policy = json!({
        "apiVersion": "weir.dev/v1", "kind": "BackendPolicy",
        "metadata": {"name": "p", "namespace": "default"}, "spec": spec,
    });
    policy.to_string()
}

fn to(service: &str) -> Value {
    json!([{"name": service, "port": 80}])
}

fn prefix(path: &str) -> Value {
    json!([{"path": {"type": "PathPrefix", "value": path}}])
}

async fn routes_as_they_say(variant: &str) {
    let mesh = TestMesh::start().await;
    let _a = mesh.service("a", echo("a")).await;
    let _b = mesh.service("b", echo("b")).await;
    let envoy = start(&mesh, "envoy-1", variant, json!({})).await;
    let outbound = outbound(&envoy).await;
    for host in [
        "a",
        "a:80",
        "a.default",
        "a.default.svc",
        "a.default.svc.cluster.local:80",
        "A.Default.",
    ] {
        until_answer(outbound, host, "/x", 200, "a/x").await;
    }
    assert_eq!(get(outbound, "nowhere", "/").await.status, StatusCode::BAD_GATEWAY);

    let header = |value: &str| json!([{"headers": [{"name": "x-to", "value": value}]}]);
    let rules = json!([
        {"matches": prefix("/b"), "backendRefs": to("b")},
        {"matches": [{"path": {"type": "RegularExpression", "value": "/r[0-9]+"}}], "backendRefs": to("b")},
        {"matches": header("b"), "backendRefs": to("b")},
        {"matches": [{"queryParams": [{"name": "to", "value": "b"}]}], "backendRefs": to("b")},
        {"matches": [{"method": "PUT"}], "backendRefs": to("b")},
        {
            "matches": prefix("/split"),
            "backendRefs": [{"name": "a", "port": 80, "weight": 1}, {"name": "b", "port": 80, "weight": 3}],
        },
        {"matches": prefix("/none"), "backendRefs": [{"name": "a", "port": 80, "weight": 0}]},
        {"matches": prefix("/missing"), "backendRefs": to("nowhere")},
        {
            "matches": prefix("/away"),
            "filters": [{"type": "RequestRedirect", "requestRedirect": {
                "scheme": "https", "hostname": "elsewhere.example", "statusCode": 302,
                "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/there"},
            }}],
        },
        {
            "matches": prefix("/old"),
            "filters": [
                {"type": "URLRewrite", "urlRewrite": {
                    "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"},
                }},
                {"type": "RequestHeaderModifier", "requestHeaderModifier": {
                    "set": [{"name": "x-own-set", "value": "50%"}], "remove": ["x-own-gone"],
                }},
                {"type": "ResponseHeaderModifier", "responseHeaderModifier": {
                    "add": [{"name": "x-added", "value": "yes"}],
                }},
            ],
            "backendRefs": to("a"),
        },
        {"backendRefs": to("a")},
    ]);
    let began = Instant::now();
    mesh.apply_in_force(&route("a", rules)).await;
    println!("{variant}: in force at Envoy after {:?}", began.elapsed());
    until_answer(outbound, "a", "/b/x", 200, "b/b/x").await;
    for (path, expect) in [
        ("/bb", "a/bb"),
        ("/r12", "b/r12"),
        ("/r12x", "a/r12x"),
        ("/q?to=b", "b/q"),
    ] {
        assert_eq!(get(outbound, "a", path).await.text(), expect, "{path}");
    }
    assert_eq!(send(outbound, "a", "GET", "/", &[("x-to", "b")]).await.text(), "b/");
    assert_eq!(send(outbound, "a", "PUT", "/", &[]).await.text(), "b/");
    for path in ["/none", "/missing"] {
        assert_eq!(
            get(outbound, "a", path).await.status,
            StatusCode::INTERNAL_SERVER_ERROR,
            "{path}"
        );
    }
    let away = get(outbound, "a", "/away/x").await;
    assert_eq!(away.status, StatusCode::FOUND);
    let location = away.header("location").expect("a location").replace(":443", "");
    assert_eq!(location, "https://elsewhere.example/there/x");
    let old = send(
        outbound,
        "a",
        "GET",
        "/old/x",
        &[("x-own-gone", "1"), ("x-own-kept", "1")],
    )
    .await;
    assert_eq!(old.text(), "a/new/x");
    let header = |name| old.header(name);
    assert_eq!((header("x-own-set"), header("x-own-kept")), (Some("50%"), Some("1")));
    assert_eq!((header("x-own-gone"), header("x-added")), (None, Some("yes")));
    let mut of_b = 0;
    for _ in 0..200 {
        of_b += usize::from(get(outbound, "a", "/split").await.text().starts_with('b'));
    }
    // 150 expected, with a standard deviation of 6.1.
    assert!((110..=190).contains(&of_b), "{of_b} of 200 for a weight of 3 in 4");

    // What comes and goes in the mesh comes and goes at Envoy.
    let began = Instant::now();
    let _c = mesh.service("c", echo("c")).await;
    until_answer(outbound, "c", "/", 200, "c/").await;
    println!(
        "{variant}: a new service and its workload answer after {:?}",
        began.elapsed()
    );
    for key in mesh.apply(&route("a", json!([{"backendRefs": to("c")}]))).await {
        until_answer(outbound, "a", "/b", 200, "c/b").await;
        mesh.delete(&key).await;
    }
    until_answer(outbound, "a", "/b", 200, "a/b").await;
    let key = weir_api::Key {
        kind: weir_api::Kind::Service,
        namespace: "default".to_owned(),
        name: "c".to_owned(),
    };
    mesh.delete(&key).await;
    until("c to be gone", || async {
        (get(outbound, "c", "/").await.status == StatusCode::BAD_GATEWAY).then_some(())
    })
    .await;
    assert_eq!(stat(&envoy, "update_rejected").await, 0, "nothing was refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_as_they_say_by_delta() {
    routes_as_they_say(VARIANTS[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_as_they_say_by_the_state_of_the_world() {
    routes_as_they_say(VARIANTS[1]).await;
}

/// Fails every other request with 503, the first one first.
fn flaky() -> Script {
    Script::http(|seen| async move {
        let mut response = Response::new(Full::default());
        if !seen.number.is_multiple_of(2) {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        response
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_are_carried_out() {
    let mesh = TestMesh::start().await;
    let flaky = mesh.service("flaky", flaky()).await;
    let silent = mesh.service("silent", Script::http(|_| std::future::pending())).await;
    let rules = json!([
        {"matches": [{"method": "PATCH"}], "retry": {"codes": [503], "attempts": 1}, "backendRefs": to("flaky")},
        {"matches": prefix("/slow"), "timeouts": {"request": "200ms"}, "backendRefs": to("silent")},
        {"matches": prefix("/attempt"), "timeouts": {"request": "10s", "backendRequest": "200ms"}, "backendRefs": to("silent")},
        {"retry": {"codes": [503], "attempts": 1, "backoff": "10ms"}, "backendRefs": to("flaky")},
    ]);
    mesh.apply(&route("flaky", rules)).await;
    mesh.apply(&policy("silent", json!({"circuitBreaker": {"maxRequests": 1}})))
        .await;
    let envoy = start(&mesh, "envoy-1", VARIANTS[0], json!({"services": ["flaky", "silent"]})).await;
    let outbound = outbound(&envoy).await;
    let status = async |method, path| send(outbound, "flaky", method, path, &[]).await.status.as_u16();
    until("the routes and their endpoints", || async {
        (status("GET", "/").await == 200).then_some(())
    })
    .await;
    assert_eq!(status("PUT", "/").await, 200, "idempotent: sent again");
    assert_eq!(status("PATCH", "/").await, 200, "named by the route");
    let before = flaky.seen().len();
    assert_eq!(status("POST", "/").await, 503, "not idempotent, not named");
    assert_eq!(flaky.seen().len(), before + 1);
    for path in ["/slow", "/attempt"] {
        let began = Instant::now();
        assert_eq!(status("GET", path).await, 504, "{path}");
        println!("{path}: given up after {:?}", began.elapsed());
    }
    let first = tokio::spawn(async move { get(outbound, "silent", "/first").await });
    until("the first request to be under way", || async {
        silent.seen().iter().any(|seen| seen.head.uri == "/first").then_some(())
    })
    .await;
    let second = get(outbound, "silent", "/").await;
    assert_eq!(
        (second.status.as_u16(), second.header("x-envoy-overloaded")),
        (503, Some("true"))
    );
    first.abort();
    let made_from = made_from(&envoy, "silent.default:80").await;
    assert_eq!(made_from, json!(["Service/default/silent", "BackendPolicy/default/p"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_whose_checks_fail_gets_no_request() {
    let mesh = TestMesh::start().await;
    let good = ScriptedApp::start(Script::answer(200, "good")).await;
    let sick = Script::http(|seen| async move {
        let status = if seen.head.uri.path() == "/healthz" { 503 } else { 200 };
        Response::builder()
            .status(status)
            .body(Full::from("sick"))
            .expect("an answer")
    });
    let sick = ScriptedApp::start(sick).await;
    let check = json!({
        "type": "Http", "http": {"path": "/healthz"},
        "interval": "100ms", "timeout": "3s", "unhealthyThreshold": 2, "healthyThreshold": 1,
    });
    mesh.apply(&policy("mixed", json!({"healthCheck": check}))).await;
    mesh.plain_service("mixed", AppProtocol::Http1, &[good.address(), sick.address()])
        .await;
    let envoy = start(&mesh, "envoy-1", VARIANTS[1], json!({"services": ["mixed"]})).await;
    let outbound = outbound(&envoy).await;
    until("one of both to be healthy", || async {
        let healthy = stat(&envoy, "mixed.default_80.membership_healthy").await;
        let failed = stat(&envoy, "mixed.default_80.health_check.failure").await;
        (healthy == 1 && failed >= 2).then_some(())
    })
    .await;
    for _ in 0..8 {
        assert_eq!(get(outbound, "mixed", "/").await.text(), "good");
    }
    assert!(sick.seen().iter().all(|seen| seen.head.uri.path() == "/healthz"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_fails_is_left_alone() {
    let mesh = TestMesh::start().await;
    let good = ScriptedApp::start(Script::answer(200, "good")).await;
    let bad = ScriptedApp::start(Script::answer(500, "bad")).await;
    let rule = json!({
        "consecutive5xxErrors": 2, "maxEjectionPercent": 50, "baseEjectionTime": "1m", "maxEjectionTime": "5m",
    });
    mesh.apply(&policy("mixed", json!({"outlierDetection": rule}))).await;
    mesh.plain_service("mixed", AppProtocol::Http1, &[good.address(), bad.address()])
        .await;
    let envoy = start(&mesh, "envoy-1", VARIANTS[1], json!({"services": ["mixed"]})).await;
    let outbound = outbound(&envoy).await;
    until("the bad one to be called twice", || async {
        get(outbound, "mixed", "/").await;
        (bad.seen().len() >= 2).then_some(())
    })
    .await;
    until("it to be ejected", || async {
        (stat(&envoy, "mixed.default_80.outlier_detection.ejections_active").await == 1).then_some(())
    })
    .await;
    let before = bad.seen().len();
    for _ in 0..20 {
        assert_eq!(get(outbound, "mixed", "/").await.text(), "good");
    }
    assert_eq!(bad.seen().len(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_policy_is_told_in_its_own_filters() {
    let mesh = TestMesh::start().await;
    let a = mesh.service("a", echo("a")).await;
    let envoy = start(&mesh, "envoy-1", VARIANTS[1], json!({"services": ["a"]})).await;
    let outbound = outbound(&envoy).await;
    until_answer(outbound, "a", "/", 200, "a/").await;
    let policy = |fields: Value| {
        let mut spec = fields;
        spec["targetRefs"] = json!([{"group": "", "kind": "Service", "name": "a"}]);
        let metadata = json!({"name": "p", "namespace": "default"});
        json!({"apiVersion": "weir.dev/v1", "kind": "RoutePolicy", "metadata": metadata, "spec": spec}).to_string()
    };
    let abort = json!({"percent": 100, "status": 418});
    let delay = json!({"percent": 100, "duration": "1ms"});
    mesh.apply(&policy(json!({"fault": {"delay": delay, "abort": abort}})))
        .await;
    until_answer(outbound, "a", "/", 418, "fault filter abort").await;
    let before = a.seen().len();
    let limit = json!({"requests": 1, "per": "1h", "burst": 2});
    let retry = json!({"on": ["5xx", "unavailable"], "backoff": {"base": "10ms", "max": "20ms"}, "methods": "Any"});
    mesh.apply(&policy(json!({"rateLimit": limit, "retry": retry}))).await;
    until_answer(outbound, "a", "/", 429, "local_rate_limited").await;
    assert_eq!(a.seen().len(), before + 2, "a burst of two came through");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_go_where_a_policy_says() {
    let mesh = TestMesh::start().await;
    let a = mesh.service("a", echo("a")).await;
    let shadow = mesh.service("shadow", echo("shadow")).await;
    // It is given what it calls, and with that what copies go to.
    let envoy = start(&mesh, "envoy-1", VARIANTS[0], json!({"services": ["a"]})).await;
    let outbound = outbound(&envoy).await;
    until_answer(outbound, "a", "/", 200, "a/").await;
    assert_eq!(shadow.seen().len(), 0);
    let mirror = |name: &str| json!({"backendRef": {"name": name, "port": 80}});
    let spec = json!({
        "targetRefs": [{"group": "", "kind": "Service", "name": "a"}],
        "mirror": [mirror("gone"), mirror("shadow")],
    });
    let metadata = json!({"name": "p", "namespace": "default"});
    let policy = json!({"apiVersion": "weir.dev/v1", "kind": "RoutePolicy", "metadata": metadata, "spec": spec});
    mesh.apply(&policy.to_string()).await;
    until("a copy to come", || async {
        let answer = get(outbound, "a", "/copied").await;
        assert_eq!(answer.text(), "a/copied", "whatever becomes of copies");
        let copied = shadow.seen().iter().any(|seen| seen.head.uri.path() == "/copied");
        copied.then_some(())
    })
    .await;
    let before = (a.seen().len(), shadow.seen().len());
    for _ in 0..3 {
        get(outbound, "a", "/counted").await;
    }
    until("a copy of each", || async {
        (shadow.seen().len() >= before.1 + 3).then_some(())
    })
    .await;
    assert_eq!(a.seen().len(), before.0 + 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_it_cannot_do_and_what_it_refuses_is_said() {
    let mesh = TestMesh::start().await;
    let _a = mesh.service("a", echo("a")).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken_at = taken.local_addr().expect("its address");
    let inbound = json!([{"listen": taken_at.to_string(), "app": 8080, "protocol": "http"}]);
    let envoy = start(&mesh, "envoy-1", VARIANTS[0], json!({"inbound": inbound})).await;
    let outbound = outbound(&envoy).await;
    until_answer(outbound, "a", "/", 200, "a/").await;
    let failures = json!({"circuitBreaker": {"failures": {"percent": 50}}});
    mesh.apply(&policy("a", failures)).await;
    let path = "/apis/weir.dev/v1/namespaces/default/backendpolicies/p/proxies";
    let view = until("the policy to be seen as not sent", || async {
        let view = mesh.api(Method::GET, path, None).await.json();
        (view["state"] == "Rejected").then_some(view)
    })
    .await;
    let rejected = view["rejected"].as_array().expect("a list");
    let of_envoy = rejected
        .iter()
        .find(|one| one["proxy"] == "default/envoy-1")
        .expect("Envoy");
    let reason = of_envoy["reason"].as_str().expect("a reason");
    assert!(
        reason.starts_with("not sent: circuitBreaker.failures is not known to Envoy"),
        "{reason}"
    );

    // Two expressions: what RE2 reads otherwise is left out; the others come into force.
    let odd = json!([{"path": {"type": "RegularExpression", "value": "/[a-z&&[^b]]+"}}]);
    let rules = json!([{"matches": odd, "backendRefs": to("nowhere")}, {"backendRefs": to("a")}]);
    mesh.apply(&route("a", rules)).await;
    let list = until("the expression and the listener to be said", || async {
        let list = mesh.api(Method::GET, "/apis/weir.dev/v1/proxies", None).await.json();
        let envoy = list["items"]
            .as_array()?
            .iter()
            .find(|proxy| proxy["name"] == "default/envoy-1")?
            .clone();
        (envoy["rejected"].as_array()?.len() == 3).then_some(envoy)
    })
    .await;
    let said = list["rejected"].to_string();
    for part in [
        "HTTPRoute/default/r#rules[0].matches[0] has an operation on classes",
        "cannot bind",
        &taken_at.to_string(),
    ] {
        assert!(
            said.contains(part) || said.to_lowercase().contains(part),
            "{part}: {said}"
        );
    }
    until_answer(outbound, "a", "/c", 200, "a/c").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_calls_an_app_behind_it() {
    let mesh = TestMesh::start().await;
    let app = ScriptedApp::start(echo("app")).await;
    let inbound = json!([{"listen": "127.0.0.1:0", "app": app.address().port(), "protocol": "http"}]);
    let asks = json!({"services": [], "inbound": inbound});
    let envoy = start(&mesh, "envoy-1", VARIANTS[0], asks).await;
    let listen = envoy.listener("weir-inbound/127.0.0.1:0").await;
    mesh.plain_service("behind", AppProtocol::Http1, &[listen]).await;
    let caller = mesh.service("caller", Script::answer(200, "")).await;
    let answer = caller.get("http://behind/x").await;
    assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, "app/x"));
    let context = [("weir-context", "1;i=00000000deadbeef;p=7")];
    assert_eq!(send(listen, "behind", "GET", "/y", &context).await.text(), "app/y");
    let seen = app.seen();
    assert_eq!(seen.len(), 2);
    assert!(
        seen.iter().all(|seen| seen.header("weir-context").is_none()),
        "{seen:?}"
    );
    let all = envoy.admin("/listeners?format=json").await.json();
    let names = all["listener_statuses"].as_array().expect("a list").len();
    assert_eq!(names, 1, "its app calls nobody: {all:#}");
}

/// Fields of an answer that speak of CORS, sorted; without what Envoy adds of its own.
fn cors_of(answer: &Answer) -> Vec<String> {
    let fields = [
        "access-control-allow-credentials",
        "access-control-allow-headers",
        "access-control-allow-methods",
        "access-control-allow-origin",
        "access-control-expose-headers",
        "access-control-max-age",
    ];
    let said = fields
        .iter()
        .filter_map(|name| answer.header(name).map(|value| format!("{name}: {value}")));
    said.collect()
}

/// What a weir proxy answers pages of other origins, Envoy answers them too, but for a status of 200 instead of 204 or
/// 403.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_other_origins_are_answered_as_routes_say() {
    let mesh = TestMesh::start().await;
    let loose = Script::http(|_| async {
        let answer = Response::builder()
            .header("access-control-allow-origin", "*")
            .header("access-control-allow-credentials", "true");
        answer.body(Full::default()).expect("an answer")
    });
    let a = mesh.service("a", loose).await;
    let _b = mesh.service("b", echo("b")).await;
    let envoy = start(&mesh, "envoy-1", VARIANTS[0], json!({})).await;
    let outbound = outbound(&envoy).await;
    let cors = |fields: Value| json!([{"type": "CORS", "cors": fields}]);
    let listed = cors(json!({
        "allowOrigins": ["https://www.page.example", "https://*.pages.example"], "allowMethods": ["PUT", "GET"],
        "allowHeaders": ["x-one", "x-two"], "exposeHeaders": ["x-three"], "allowCredentials": true, "maxAge": 60,
    }));
    let open = cors(json!({"allowOrigins": ["*"], "allowMethods": ["*"], "allowHeaders": ["*"]}));
    let of_backend = cors(json!({"allowOrigins": ["https://b.example"], "maxAge": 9}));
    let rules = json!([
        {"matches": prefix("/listed"), "filters": listed, "backendRefs": to("a")},
        {"matches": prefix("/open"), "filters": open, "backendRefs": to("a")},
        {"matches": prefix("/backends"), "filters": listed, "backendRefs": [
            {"name": "a", "port": 80, "weight": 0}, {"name": "b", "port": 80, "filters": of_backend},
        ]},
        {"matches": prefix("/plain"), "backendRefs": to("a")},
        {"backendRefs": to("b")},
    ]);
    mesh.apply_in_force(&route("a", rules)).await;
    until_answer(outbound, "a", "/x", 200, "b/x").await;

    let preflight = async |path: &str, origin: &str| {
        let asks = [
            ("origin", origin),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "x-one"),
        ];
        let answer = send(outbound, "a", "OPTIONS", path, &asks).await;
        assert_eq!(answer.status, StatusCode::OK, "{path} {origin}");
        cors_of(&answer)
    };
    for origin in [
        "https://www.page.example",
        "https://www.page.example:443",
        "https://deep.www.pages.example",
    ] {
        let expect = [
            "access-control-allow-credentials: true".to_owned(),
            "access-control-allow-headers: x-one, x-two".to_owned(),
            "access-control-allow-methods: PUT, GET".to_owned(),
            format!("access-control-allow-origin: {origin}"),
            "access-control-expose-headers: x-three".to_owned(),
            "access-control-max-age: 60".to_owned(),
        ];
        assert_eq!(preflight("/listed", origin).await, expect);
    }
    for origin in [
        "http://www.page.example",
        "https://www.page.example:8443",
        "https://pages.example",
        "https://www.page.example.evil.example",
    ] {
        let said = preflight("/listed", origin).await;
        assert!(
            !said
                .iter()
                .any(|field| field.starts_with("access-control-allow-origin")),
            "{said:?}"
        );
    }
    let expect = [
        "access-control-allow-headers: x-one",
        "access-control-allow-methods: PUT",
        "access-control-allow-origin: null",
        "access-control-max-age: 5",
    ];
    assert_eq!(preflight("/open", "null").await, expect);
    let expect = [
        "access-control-allow-origin: https://b.example",
        "access-control-max-age: 9",
    ];
    assert_eq!(preflight("/backends", "https://b.example").await, expect);
    let seen = a.seen();
    assert!(
        seen.iter().all(|seen| seen.head.method != Method::OPTIONS),
        "no preflight goes on"
    );

    let page = [("origin", "https://www.page.example")];
    let answer = send(outbound, "a", "GET", "/listed", &page).await;
    let expect = [
        "access-control-allow-credentials: true",
        "access-control-allow-origin: https://www.page.example",
        "access-control-expose-headers: x-three",
    ];
    assert_eq!(
        (cors_of(&answer), answer.header("vary")),
        (expect.map(str::to_owned).into(), Some("Origin"))
    );
    let answer = send(outbound, "a", "GET", "/listed", &[("origin", "https://other.example")]).await;
    assert_eq!((cors_of(&answer), answer.header("vary")), (Vec::new(), Some("Origin")));
    // Where a route says nothing, the app does.
    let answer = send(outbound, "a", "GET", "/plain", &page).await;
    assert_eq!(cors_of(&answer).len(), 2);
    assert_eq!(stat(&envoy, "update_rejected").await, 0, "nothing was refused");
}

/// A GRPCRoute, in calls over HTTP/2 as gRPC's clients make them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_go_as_a_grpc_route_says() {
    let mesh = TestMesh::start().await;
    // An answer of trailers alone, which are its header (gRPC, PROTOCOL-HTTP2.md, "Trailers-Only").
    let served = |name: &'static str| {
        Script::http(move |seen| async move {
            let mut answer = Response::builder()
                .header("content-type", "application/grpc")
                .header("grpc-status", "0")
                .header("x-backend", name)
                .header("x-gone", "own");
            for (name, value) in &seen.head.headers {
                if name.as_str().starts_with("x-own") {
                    answer = answer.header(name, value);
                }
            }
            answer.body(Full::default()).expect("an answer")
        })
    };
    let grpc = || MemberSettings {
        protocol: AppProtocol::Grpc,
        ..MemberSettings::default()
    };
    let _a = mesh.service_with("a", served("a"), grpc()).await;
    let _b = mesh.service_with("b", served("b"), grpc()).await;
    let envoy = start(&mesh, "envoy-1", VARIANTS[0], json!({})).await;
    let outbound = outbound(&envoy).await;
    let call = async |path: &str, headers: &[(&str, &str)]| {
        let mut request = Request::post(format!("http://a{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::new())).expect("a request");
        weir_test_mesh::call(outbound, Protocol::Http2, request)
            .await
            .expect("an answer")
    };
    let modified = json!([
        {"type": "RequestHeaderModifier", "requestHeaderModifier": {
            "set": [{"name": "x-own-set", "value": "route"}], "remove": ["x-own-gone"],
        }},
        {"type": "ResponseHeaderModifier", "responseHeaderModifier": {
            "add": [{"name": "x-added", "value": "route"}], "remove": ["x-gone"],
        }},
    ]);
    let rules = json!([
        {"matches": [{"method": {"service": "pkg.Echo", "method": "One"}}], "backendRefs": to("b")},
        {"matches": [{"method": {"service": "pkg.Changed"}}], "filters": modified, "backendRefs": to("a")},
        {"matches": [{"method": {"type": "RegularExpression", "service": "other[.].*"}}], "backendRefs": to("b")},
        {"matches": [{"headers": [{"name": "stage", "value": "new"}]}], "backendRefs": to("b")},
        {"matches": [{"method": {"service": "pkg.Split"}}], "backendRefs": [
            {"name": "a", "port": 80, "weight": 1}, {"name": "b", "port": 80, "weight": 3},
        ]},
        {"matches": [{"method": {"service": "pkg.Gone"}}], "backendRefs": to("gone")},
        {"matches": [{"method": {"service": "pkg.Echo"}}], "backendRefs": to("a")},
    ]);
    let grpc_route = route("a", rules).replace("HTTPRoute", "GRPCRoute");
    mesh.apply_in_force(&grpc_route).await;
    until("the route to be in force at Envoy's workers", || async {
        let answer = call("/pkg.Echo/One", &[]).await;
        (answer.header("x-backend") == Some("b")).then_some(())
    })
    .await;
    const STAGED: &[(&str, &str)] = &[("stage", "new")];
    for (path, headers, backend) in [
        ("/pkg.Echo/Two", &[][..], "a"),
        ("/other.Name/Any", &[], "b"),
        ("/any.Name/Any", STAGED, "b"),
    ] {
        let answer = call(path, headers).await;
        assert_eq!(answer.header("x-backend"), Some(backend), "{path}");
        assert_eq!(answer.header("grpc-status"), Some("0"), "{path}");
    }
    let answer = call("/pkg.Changed/Any", &[("x-own-gone", "1"), ("x-own-kept", "1")]).await;
    let header = |name| answer.header(name);
    assert_eq!(
        (header("x-own-set"), header("x-own-kept"), header("x-own-gone")),
        (Some("route"), Some("1"), None)
    );
    assert_eq!((header("x-added"), header("x-gone")), (Some("route"), None));
    let mut of_b = 0;
    for _ in 0..200 {
        of_b += usize::from(call("/pkg.Split/Any", &[]).await.header("x-backend") == Some("b"));
    }
    // 150 expected, with a standard deviation of 6.1.
    assert!((110..=190).contains(&of_b), "{of_b} of 200 for a weight of 3 in 4");
    // UNIMPLEMENTED where no rule takes a call, UNAVAILABLE where its backend is not there.
    assert_eq!(call("/any.Name/Any", &[]).await.header("grpc-status"), Some("12"));
    assert_eq!(call("/pkg.Gone/Any", &[]).await.header("grpc-status"), Some("14"));
    // What is no call is not taken.
    assert_eq!(get(outbound, "a", "/pkg.Echo/One").await.status, StatusCode::NOT_FOUND);
    assert_eq!(stat(&envoy, "update_rejected").await, 0, "nothing was refused");
}

#[tokio::test]
async fn websockets_pass_through_it_to_a_sidecar() {
    let mesh = TestMesh::start().await;
    let app = WebSocketApp::start().await;
    let _b = app.join(&mesh, "b").await;
    let envoy = start(&mesh, "envoy-1", "DELTA_GRPC", json!({})).await;
    let outbound = outbound(&envoy).await;
    until("Envoy to know b", || async {
        (get(outbound, "b", "/refuses").await.status == StatusCode::FORBIDDEN).then_some(())
    })
    .await;
    call_web_sockets(outbound, "b", Through::Requests).await;
}
