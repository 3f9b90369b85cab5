//! What proxies tell of the requests that they carry, before a TelemetryPolicy, under it, and when it is gone.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Map, Value};
use tokio::sync::{Barrier, watch};
use weir_api::{Key, Kind};
use weir_proxy::config::{AccessLog, Edge};
use weir_test_mesh::{Api, Member, MemberSettings, Processes, Protocol, Script, ScriptedApp, TestMesh, call, until};

fn key(name: &str) -> Key {
    Key {
        kind: Kind::TelemetryPolicy,
        namespace: "default".to_owned(),
        name: name.to_owned(),
    }
}

fn policy(name: &str, spec: &str) -> String {
    format!("apiVersion: weir.dev/v1\nkind: TelemetryPolicy\nmetadata: {{name: {name}}}\nspec: {spec}")
}

/// Applies a policy that is there already or not, and waits until so many proxies have it in force and no other is
/// concerned. Proxies that have just started may not have asked for theirs yet.
async fn in_force_on(api: Api, yaml: &str, proxies: usize) {
    for key in api.apply(yaml).await {
        until_in_force_on(api, &key, proxies).await;
    }
}

async fn until_in_force_on(api: Api, key: &Key, proxies: usize) {
    until(&format!("{key} to be in force on {proxies}"), || async {
        let view = api.in_force(key).await;
        let all = view["subscribers"] == proxies && view["state"] == "InForce";
        all.then_some(())
    })
    .await;
}

/// `status reason: message` of a condition of a policy.
async fn says(api: Api, key: &Key, condition: &str) -> Option<String> {
    let object = api.request(Method::GET, &key.path(), None).await.json();
    let entry = object.pointer("/status/ancestors/0")?;
    assert_eq!(entry["ancestorRef"]["kind"], "Namespace", "{entry}");
    let conditions = entry["conditions"].as_array()?.iter();
    let found = conditions.into_iter().find(|held| held["type"] == condition)?;
    let text = |field: &str| found[field].as_str().unwrap_or("?").to_owned();
    Some(format!("{} {}: {}", text("status"), text("reason"), text("message")))
}

async fn until_says(api: Api, key: &Key, condition: &str, expect: &str) {
    until(&format!("{key} to say {condition} {expect}"), || async {
        let said = says(api, key, condition).await?;
        said.starts_with(expect).then_some(())
    })
    .await;
}

async fn until_flags_hold(members: &[&Member]) {
    for member in members {
        until("no policy to say anything", || async {
            let config = member.config().await;
            let says_nothing = config["mesh"]["telemetry"].as_object().is_none_or(Map::is_empty);
            says_nothing.then_some(())
        })
        .await;
    }
}

/// An app that fails where the path says so.
fn fails_where_asked() -> Script {
    Script::http(|seen| {
        let mut response = Response::new(Full::default());
        if seen.head.uri.path().contains("fail") {
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        }
        async move { response }
    })
}

/// The paths in an access log, sorted.
fn paths(log: &[Value], direction: &str) -> Vec<String> {
    let lines = log.iter().filter(|line| line["weir.direction"] == direction);
    let mut paths: Vec<String> = lines
        .map(|line| line["url.path"].as_str().expect("a path").to_owned())
        .collect();
    paths.sort();
    paths
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_are_written_as_the_policy_of_each_workload_says() {
    let mesh = TestMesh::start().await;
    let api = mesh.control_api();
    let b = mesh.service("b", fails_where_asked()).await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    let c = mesh.service("c", Script::answer(200, "")).await;
    a.get("http://b/1").await;
    c.get("http://b/1-of-c").await;

    let errors = "{selector: {matchLabels: {app: a}}, accessLog: Errors, \
                   excludedPaths: [{type: Exact, value: /healthz}, {value: /probes}]}";
    in_force_on(api, &policy("errors", errors), 1).await;
    let status = |answer: weir_test_mesh::Answer| answer.status.as_u16();
    assert_eq!(status(a.get("http://b/2").await), 200);
    assert_eq!(status(a.get("http://b/2-fails").await), 500);
    assert_eq!(status(a.get("http://nowhere/2-refused").await), 502);
    assert_eq!(status(a.get("http://b/healthz").await), 200);
    assert_eq!(status(a.get("http://b/probes/fail").await), 500);
    c.get("http://b/2-of-c").await;

    in_force_on(api, &policy("quiet", "{accessLog: 'Off'}"), 2).await;
    a.get("http://b/3").await;
    a.get("http://b/3-fails").await;
    c.get("http://b/3-of-c-fails").await;
    until_says(
        api,
        &key("errors"),
        "weir.dev/InForce",
        "True InForce: in force on 1 of 1",
    )
    .await;
    until_says(
        api,
        &key("quiet"),
        "weir.dev/InForce",
        "True InForce: in force on 2 of 2",
    )
    .await;
    until_says(api, &key("quiet"), "Accepted", "True Accepted: ").await;

    // The one without a selector takes over where the other ends.
    mesh.delete(&key("errors")).await;
    until_in_force_on(api, &key("quiet"), 3).await;
    a.get("http://b/4-fails").await;
    mesh.delete(&key("quiet")).await;
    until_flags_hold(&[&a, &b, &c]).await;
    a.get("http://b/5").await;
    c.get("http://b/5-of-c").await;

    // Metrics count them all.
    until("all requests to be counted", || async {
        let counted = a.metric("weir_requests_total", &["direction=\"outbound\""]).await;
        (counted == 10.0).then_some(())
    })
    .await;
    let (_, of_a) = a.stop().await;
    let (_, of_c) = c.stop().await;
    let (_, of_b) = b.stop().await;
    assert_eq!(
        paths(&of_a, "outbound"),
        ["/1", "/2-fails", "/2-refused", "/3-fails", "/5"]
    );
    assert_eq!(paths(&of_c, "outbound"), ["/1-of-c", "/2-of-c", "/5-of-c"]);
    // Where the request goes, that workload's own policy holds.
    let at_b = [
        "/1",
        "/1-of-c",
        "/2",
        "/2-fails",
        "/2-of-c",
        "/5",
        "/5-of-c",
        "/healthz",
        "/probes/fail",
    ];
    assert_eq!(paths(&of_b, "inbound"), at_b);
}

/// Sends a GET with some fields to Service b.
async fn send(from: &Member, path: &str, fields: &[(&str, &str)]) {
    let mut request = Request::get(format!("http://b{path}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let answer = from
        .call(request.body(Full::new(Bytes::new())).expect("a request"))
        .await;
    assert_eq!(answer.status, StatusCode::OK, "{path}");
}

/// The value of `department` in each span, by path and side, once the last request has both of its spans. A proxy's
/// spans come in the order of its requests.
async fn departments(mesh: &TestMesh, last: &str) -> BTreeMap<(String, String), Option<String>> {
    until("the spans of the last request", || async {
        let list = mesh.api(Method::GET, "/traces?limit=1000", None).await.json();
        let mut spans = BTreeMap::new();
        for summary in list["items"].as_array().expect("items") {
            let id = summary["traceId"].as_str().expect("an id");
            let trace = mesh.api(Method::GET, &format!("/traces/{id}"), None).await.json();
            for span in trace["spans"].as_array().expect("spans") {
                let text = |value: &Value| value.as_str().map(str::to_owned);
                let path = text(&span["attributes"]["url.path"]).expect("a path");
                let kind = text(&span["kind"]).expect("a kind");
                spans.insert((path, kind), text(&span["attributes"]["department"]));
            }
        }
        let of_last = spans.keys().filter(|(path, _)| path == last).count();
        (of_last == 2).then_some(spans)
    })
    .await
}

/// A caller's trace that is recorded.
const RECORDED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_are_made_as_the_policy_says_and_show_what_it_asks_for() {
    let mesh = TestMesh::start().await;
    let api = mesh.control_api();
    let collector = mesh.control().xds_addr().expect("it is on");
    let settings = || MemberSettings {
        proxy: Box::new(move |config| {
            config.otlp = Some(format!("http://{collector}").parse().expect("a URL"));
        }),
        ..MemberSettings::default()
    };
    let b = mesh.service_with("b", Script::answer(200, ""), settings()).await;
    let a = mesh.service_with("a", Script::answer(200, ""), settings()).await;
    let department = ("x-department", "health");
    send(&a, "/1-before", &[department]).await;

    let tags = "tags: [{name: department, requestHeader: X-Department}]";
    let none = format!("{{tracing: {{samplingPercent: 0, {tags}}}}}");
    in_force_on(api, &policy("p", &none), 2).await;
    send(&a, "/2-begins-here", &[department]).await;
    send(
        &a,
        "/3-recorded-by-the-caller",
        &[department, ("traceparent", RECORDED)],
    )
    .await;

    let all =
        format!("{{tracing: {{samplingPercent: 100, {tags}}}, excludedPaths: [{{type: Exact, value: /healthz}}]}}");
    in_force_on(api, &policy("p", &all), 2).await;
    send(&a, "/4-begins-here", &[("x-department", &"h".repeat(300))]).await;
    send(&a, "/5-without-the-field", &[]).await;
    send(&a, "/healthz", &[department]).await;
    send(&a, "/healthz", &[department, ("traceparent", RECORDED)]).await;

    mesh.delete(&key("p")).await;
    until_flags_hold(&[&a, &b]).await;
    send(&a, "/6-after", &[department]).await;

    let cut = "h".repeat(256);
    let expect = [
        ("/1-before", None),
        ("/3-recorded-by-the-caller", Some("health")),
        ("/4-begins-here", Some(cut.as_str())),
        ("/5-without-the-field", None),
        ("/6-after", None),
    ];
    let sides = |(path, department): (&str, Option<&str>)| {
        ["Client", "Server"].map(|side| ((path.to_owned(), side.to_owned()), department.map(str::to_owned)))
    };
    let expect: BTreeMap<_, _> = expect.into_iter().flat_map(sides).collect();
    assert_eq!(departments(&mesh, "/6-after").await, expect);

    // What comes next of an excluded request has the caller's own span as its parent, not one that nobody knows; one
    // that begins a trace is recorded by nobody.
    let seen = b.seen();
    let passed_on: Vec<&str> = seen
        .iter()
        .filter(|seen| seen.head.uri.path() == "/healthz")
        .map(|seen| seen.header("traceparent").expect("a trace"))
        .collect();
    let [begun_here, continued] = passed_on.as_slice() else {
        panic!("two: {passed_on:?}")
    };
    assert!(begun_here.ends_with("-00"), "{begun_here}");
    assert_eq!(*continued, RECORDED);
}

/// An app that asks the service `host` and answers with what that answers. `pass` is what its call has of the request
/// that it is made for.
fn asks<const N: usize>(
    outbound: &watch::Receiver<Option<SocketAddr>>,
    host: &'static str,
    pass: [(&'static str, &'static str); N],
) -> Script {
    let outbound = outbound.clone();
    Script::http(move |seen| {
        let outbound = outbound.borrow().expect("its sidecar");
        let mut request = Request::get("/probes").header("host", host);
        for (from, to) in pass {
            request = request.header(to, seen.header(from).expect("it came"));
        }
        async move {
            let request = request.body(Full::default()).expect("a request");
            let answer = call(outbound, Protocol::Http1, request).await.expect("an answer");
            Response::new(Full::from(answer.body))
        }
    })
}

/// Of two requests of one trace that a policy excludes, at once: a call that has nothing but the span that its app was
/// given is made for the request that it was given with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_excluded_requests_find_their_context() {
    let mesh = TestMesh::start().await;
    let both = Arc::new(Barrier::new(2));
    let c = Script::http(move |seen| {
        let both = Arc::clone(&both);
        async move {
            both.wait().await;
            let state = seen.header("tracestate").unwrap_or_default().to_owned();
            Response::new(Full::from(state))
        }
    });
    let _c = mesh.service("c", c).await;
    let (b_outbound, from_b) = watch::channel(None);
    let b = asks(&from_b, "c", [("traceparent", "traceparent")]);
    let b = mesh.service("b", b).await;
    b_outbound.send_replace(Some(b.outbound()));
    let (a_outbound, from_a) = watch::channel(None);
    let a = asks(&from_a, "b", [("x-span", "traceparent"), ("tracestate", "tracestate")]);
    let edge = MemberSettings {
        edge: Edge::Yes,
        ..MemberSettings::default()
    };
    let a = mesh.service_with("a", a, edge).await;
    a_outbound.send_replace(Some(a.outbound()));
    let excluded = policy("p", "{excludedPaths: [{value: /probes}]}");
    in_force_on(mesh.control_api(), &excluded, 3).await;

    let ask = |span: &'static str| {
        let parent = format!("00-0af7651916cd43dd8448eb211c80319c-{span}-01");
        let request = Request::get("/").header("host", "a").header("x-span", parent);
        let request = request.body(Full::default()).expect("a request");
        let inbound = a.inbound();
        async move { call(inbound, Protocol::Http1, request).await.expect("an answer") }
    };
    let (one, two) = tokio::join!(ask("b7ad6b7169203331"), ask("b7ad6b7169203332"));
    let at_a = |span: &str| {
        let seen = a.seen();
        let seen = seen
            .iter()
            .find(|seen| seen.header("x-span").is_some_and(|parent| parent.contains(span)));
        let state = seen.and_then(|seen| seen.header("tracestate"));
        state.expect("a context's id").to_owned()
    };
    assert_eq!(one.text(), at_a("b7ad6b7169203331"));
    assert_eq!(two.text(), at_a("b7ad6b7169203332"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_has_no_log_rejects_a_policy_that_asks_for_lines() {
    let mesh = TestMesh::start().await;
    let api = mesh.control_api();
    let settings = MemberSettings {
        proxy: Box::new(|config| config.access_log = AccessLog::Off),
        ..MemberSettings::default()
    };
    let _a = mesh.service_with("a", Script::answer(200, ""), settings).await;
    let _b = mesh.service("b", Script::answer(200, "")).await;
    api.apply(&policy("p", "{accessLog: Errors}")).await;
    let rejected =
        "False Rejected: in force on 1 of 2; default/a rejected: default/a: telemetry.access_log asks for lines";
    until_says(api, &key("p"), "weir.dev/InForce", rejected).await;
    in_force_on(api, &policy("p", "{accessLog: 'Off'}"), 2).await;
    until_says(api, &key("p"), "weir.dev/InForce", "True InForce: in force on 2 of 2").await;
}

/// Whether a trace that begins at a sidecar is recorded, by what its app is told.
async fn records(inbound: SocketAddr, app: &ScriptedApp) -> bool {
    let before = app.seen().len();
    let request = Request::get("/").header("host", "b").body(Full::new(Bytes::new()));
    let answer = call(inbound, Protocol::Http1, request.expect("a request")).await;
    assert_eq!(answer.expect("an answer").status, StatusCode::OK);
    let seen = app.seen();
    let parent = seen
        .get(before)
        .and_then(|seen| seen.header("traceparent"))
        .expect("a trace");
    parent.ends_with("-01")
}

/// Where others reach the app of a proxy.
async fn inbound(admin: SocketAddr) -> SocketAddr {
    let request = Request::get("/config")
        .header("host", "localhost")
        .body(Full::default());
    let dump = call(admin, Protocol::Http1, request.expect("a request"))
        .await
        .expect("the dump")
        .json();
    let address = dump["addresses"]["inbound"][0].as_str().expect("an address");
    address.parse().expect("an address")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_was_killed_keeps_its_policy_without_a_control_plane() {
    let processes = Processes::of_this_build();
    let (data, state) = (
        tempfile::tempdir().expect("a folder"),
        tempfile::tempdir().expect("a folder"),
    );
    let text = |folder: &tempfile::TempDir| folder.path().to_str().expect("UTF-8").to_owned();
    let (data_dir, state_dir) = (text(&data), text(&state));
    let app = ScriptedApp::start(Script::answer(200, "")).await;
    let control = processes.control(&["--data-dir", &data_dir]).await;
    let xds = control.xds.to_string();
    let url = format!("http://{xds}");
    let by_flag = ["--trace-sampling", "0", "--labels", "app=b", "--state-dir", &state_dir];
    let with_control: Vec<&str> = by_flag.iter().copied().chain(["--control-plane", &url]).collect();

    let b = processes.proxy("b", app.address(), &with_control).await;
    assert!(!records(inbound(b.admin).await, &app).await, "as the flag says");
    let spec = "{selector: {matchLabels: {app: b}}, tracing: {samplingPercent: 100}}";
    in_force_on(control.api, &policy("p", spec), 1).await;
    assert!(records(inbound(b.admin).await, &app).await, "as the policy says");
    until("the policy on disk", || async {
        let file = std::fs::read(state.path().join("last-good")).ok()?;
        let name = b"weir.v1.WorkloadPolicy";
        file.windows(name.len()).any(|bytes| bytes == name).then_some(())
    })
    .await;
    b.running.kill().await;
    control.running.kill().await;

    for args in [with_control.as_slice(), &by_flag] {
        let b = processes.proxy("b", app.address(), args).await;
        assert!(records(inbound(b.admin).await, &app).await, "from the disk");
        b.running.kill().await;
    }

    let control = processes.control(&["--data-dir", &data_dir, "--xds", &xds]).await;
    let b = processes.proxy("b", app.address(), &with_control).await;
    until_in_force_on(control.api, &key("p"), 1).await;
    assert!(records(inbound(b.admin).await, &app).await, "as the control plane says");
}
