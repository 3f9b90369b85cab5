//! Processes that are killed: what goes on without them, and what they know when they are back.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use weir_test_mesh::{Answer, Api, Client, Processes, Protocol, ProxyProcess, Script, ScriptedApp, call, until};

fn request(host: &str) -> Request<Full<Bytes>> {
    let request = Request::get("/").header("host", host);
    request.body(Full::default()).expect("a request")
}

async fn get(from: &ProxyProcess, host: &str) -> Answer {
    call(from.outbound, Protocol::Http1, request(host))
        .await
        .expect("an answer of the sidecar")
}

/// A Service of workloads with this name as label `app`, and a route of it that marks answers.
fn service(name: &str, mark: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec:
  selector: {{app: {name}}}
  ports: [{{name: web, port: 80, targetPort: http, appProtocol: http}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: default}}
spec:
  parentRefs: [{{group: '', kind: Service, name: {name}}}]
  rules:
  - filters:
    - type: ResponseHeaderModifier
      responseHeaderModifier: {{set: [{{name: x-mark, value: '{mark}'}}]}}
    backendRefs: [{{name: {name}, port: 80}}]
"
    )
}

/// A mesh of processes, on one data directory.
struct Mesh {
    processes: Processes,
    data: tempfile::TempDir,
    timeout: &'static str,
}

impl Mesh {
    fn new() -> Mesh {
        Mesh {
            processes: Processes::of_this_build(),
            data: tempfile::tempdir().expect("a directory"),
            timeout: "60s",
        }
    }

    async fn control(&self, more: &[&str]) -> weir_test_mesh::ControlProcess {
        let data = text(self.data.path());
        let mut args = vec!["--data-dir", &data, "--unconfirmed-timeout", self.timeout];
        args.extend(more);
        self.processes.control(&args).await
    }

    async fn proxy(&self, name: &str, app: &ScriptedApp, xds: SocketAddr, more: &[&str]) -> ProxyProcess {
        let control_plane = format!("http://{xds}");
        let mut args = vec!["--control-plane", &control_plane];
        args.extend(more);
        self.processes.proxy(name, app.address(), &args).await
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

/// The state of a workload; `None`: it is not there.
async fn state(api: Api, workload: &str) -> Option<String> {
    let path = format!("/apis/weir.dev/v1/namespaces/default/workloads/{workload}");
    let answer = api.request(Method::GET, &path, None).await;
    if answer.status == StatusCode::NOT_FOUND {
        return None;
    }
    let state = answer.json()["status"]["state"].as_str().map(str::to_owned);
    Some(state.expect("a state"))
}

async fn has_state(api: Api, workload: &str, expect: Option<&str>) {
    until(&format!("{workload} to be {expect:?}"), || async {
        (state(api, workload).await.as_deref() == expect).then_some(())
    })
    .await;
}

/// The workloads behind a Service's endpoints that take requests, sorted.
async fn endpoints(api: Api, service: &str) -> Vec<String> {
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let list = api.request(Method::GET, slices, None).await.json();
    let slices = list["items"].as_array().expect("items");
    let of_service = |slice: &&Value| slice["metadata"]["labels"]["kubernetes.io/service-name"] == service;
    let endpoints = slices
        .iter()
        .filter(of_service)
        .flat_map(|slice| slice["endpoints"].as_array().expect("endpoints"));
    let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true);
    let mut names: Vec<String> = ready
        .map(|endpoint| endpoint["targetRef"]["name"].as_str().expect("a workload").to_owned())
        .collect();
    names.sort();
    names
}

async fn has_endpoints(api: Api, service: &str, expect: &[&str]) {
    until(&format!("{service} to have {expect:?}"), || async {
        (endpoints(api, service).await == expect).then_some(())
    })
    .await;
}

/// Resources as somebody wrote them: without the status, which the control plane writes when it has something to say,
/// and without the version that comes with it.
async fn as_written(api: Api, kind: &str) -> Vec<Value> {
    let listed = api.request(Method::GET, kind, None).await.json();
    let mut items = listed["items"].as_array().expect("a list").clone();
    for item in &mut items {
        let object = item.as_object_mut().expect("a resource");
        object.remove("status");
        let metadata = object["metadata"].as_object_mut().expect("metadata");
        metadata.remove("resourceVersion");
    }
    items
}

/// Requests to Service b until it is stopped.
struct Traffic {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    callers: JoinSet<Vec<Answer>>,
}

impl Traffic {
    fn start(from: &ProxyProcess) -> Traffic {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut callers = JoinSet::new();
        for _ in 0..2 {
            let (stop, done, to) = (Arc::clone(&stop), Arc::clone(&done), from.outbound);
            callers.spawn(async move {
                let mut client = Client::connect(to, Protocol::Http1).await.expect("a connection");
                let mut answers = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    answers.push(client.send(request("b")).await.expect("an answer"));
                    done.fetch_add(1, Ordering::Relaxed);
                }
                answers
            });
        }
        Traffic { stop, done, callers }
    }

    async fn more(&self, count: usize) {
        let target = self.done.load(Ordering::Relaxed) + count;
        until("more answers", || async {
            (self.done.load(Ordering::Relaxed) >= target).then_some(())
        })
        .await;
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for answer in self.callers.join_all().await.concat() {
            assert_eq!(answer.status, StatusCode::OK, "{:?} {}", answer.headers, answer.text());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_plane_may_be_killed() {
    let mesh = Mesh::new();
    let app = ScriptedApp::start(Script::answer(200, "b")).await;
    let control = mesh.control(&[]).await;
    let (api, xds) = (control.api, control.xds);
    api.apply(&service("b", "one")).await;
    api.apply(&service("other", "one")).await;
    let _b = mesh.proxy("b", &app, xds, &["--labels", "app=b"]).await;
    let a = mesh.proxy("a", &app, xds, &["--labels", "app=a"]).await;
    has_endpoints(api, "b", &["b"]).await;
    assert_eq!(get(&a, "b").await.header("x-mark"), Some("one"));
    let kinds = ["/api/v1/services", "/apis/gateway.networking.k8s.io/v1/httproutes"];
    let mut before = Vec::new();
    for kind in kinds {
        before.push(as_written(api, kind).await);
    }
    let slices = endpoints(api, "b").await;

    let traffic = Traffic::start(&a);
    traffic.more(100).await;
    control.running.kill().await;
    traffic.more(200).await;
    // What it never asked for it can't have: it says so, and whose fault that is.
    let (address, port) = (api.address.to_string(), xds.to_string());
    let control = mesh.control(&["--api", &address, "--xds", &port]).await;
    let api = control.api;
    for (kind, before) in kinds.iter().zip(&before) {
        assert_eq!(as_written(api, kind).await, *before, "{kind}");
    }
    assert_eq!(endpoints(api, "b").await, slices, "nobody is gone because it was");
    traffic.more(100).await;
    for workload in ["a", "b"] {
        has_state(api, workload, Some("Confirmed")).await;
    }
    until("both proxies", || async {
        let proxies = api.request(Method::GET, "/apis/weir.dev/v1/proxies", None).await.json();
        let connected = proxies["items"]
            .as_array()?
            .iter()
            .filter(|proxy| proxy["connected"] == true);
        (connected.count() == 2).then_some(())
    })
    .await;
    api.apply_in_force(&service("b", "two")).await;
    assert_eq!(get(&a, "b").await.header("x-mark"), Some("two"));
    assert_eq!(
        get(&a, "other").await.status,
        StatusCode::SERVICE_UNAVAILABLE,
        "known again"
    );
    traffic.more(100).await;
    traffic.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_was_killed_serves_from_what_was_last_in_force() {
    // Of a debug build on a busy machine; what is promised of a release build is 50 ms.
    const BOUND: Duration = Duration::from_millis(500);
    let mesh = Mesh::new();
    let state = tempfile::tempdir().expect("a directory");
    let directory = text(state.path());
    let app = ScriptedApp::start(Script::answer(200, "b")).await;
    let control = mesh.control(&[]).await;
    control.api.apply(&service("b", "kept")).await;
    let _b = mesh.proxy("b", &app, control.xds, &["--labels", "app=b"]).await;
    has_endpoints(control.api, "b", &["b"]).await;
    let a = mesh.proxy("a", &app, control.xds, &["--state-dir", &directory]).await;
    assert_eq!(get(&a, "b").await.header("x-mark"), Some("kept"));
    until("the configuration on disk", || async {
        let file = std::fs::read(state.path().join("last-good")).ok()?;
        // The route comes last: with it, all is there.
        file.windows(4).any(|bytes| bytes == b"kept").then_some(())
    })
    .await;
    a.running.kill().await;
    let xds = control.xds.to_string();
    control.running.kill().await;

    // With the control plane's address, and without one.
    for control_plane in [Some(format!("http://{xds}")), None] {
        let mut args = vec!["--state-dir", directory.as_str()];
        if let Some(url) = &control_plane {
            args.extend(["--control-plane", url]);
        }
        let began = Instant::now();
        let a = mesh.processes.proxy("a", app.address(), &args).await;
        let answer = get(&a, "b").await;
        let took = began.elapsed();
        assert_eq!((answer.status, answer.header("x-mark")), (StatusCode::OK, Some("kept")));
        println!("from its start to the first answer: {took:?} (control plane: {control_plane:?})");
        assert!(took < BOUND, "{took:?}");
        a.running.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_cut_off_stays_while_most_of_its_zone_is() {
    let mesh = Mesh {
        timeout: "300ms",
        ..Mesh::new()
    };
    let app = ScriptedApp::start(Script::answer(200, "b")).await;
    let control = mesh.control(&[]).await;
    let (api, xds) = (control.api, control.xds);
    api.apply(&service("b", "one")).await;
    let zoned = |zone: &str| {
        [
            "--labels".to_owned(),
            "app=b".to_owned(),
            "--locality".to_owned(),
            format!("cn/{zone}"),
        ]
    };
    let mut east = Vec::new();
    let mut west = Vec::new();
    for (zone, proxies) in [("east", &mut east), ("west", &mut west)] {
        let args = zoned(zone);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        for number in 1..=3 {
            proxies.push(mesh.proxy(&format!("{zone}-{number}"), &app, xds, &args).await);
        }
    }
    let all = ["east-1", "east-2", "east-3", "west-1", "west-2", "west-3"];
    has_endpoints(api, "b", &all).await;

    // A whole zone is cut off: its endpoints stay, however long it takes.
    for proxy in west {
        proxy.running.kill().await;
    }
    for name in ["west-1", "west-2", "west-3"] {
        has_state(api, name, Some("Unconfirmed")).await;
    }
    // One of a zone that is mostly there: it leaves. It was lost after the others, by the same time-out: when it is
    // gone, their time is over as well.
    let lost = east.remove(0);
    lost.running.kill().await;
    has_state(api, "east-1", None).await;
    let left = ["east-2", "east-3", "west-1", "west-2", "west-3"];
    has_endpoints(api, "b", &left).await;
    for name in ["west-1", "west-2", "west-3"] {
        assert_eq!(state(api, name).await.as_deref(), Some("Unconfirmed"), "{name}");
    }

    // One of them is back, as a new instance in the place of the old one: not most of its zone yet. With a second one
    // it is, and the third leaves.
    let args = zoned("west");
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let _first = mesh.proxy("west-1", &app, xds, &args).await;
    has_state(api, "west-1", Some("Confirmed")).await;
    assert_eq!(state(api, "west-3").await.as_deref(), Some("Unconfirmed"));
    let _second = mesh.proxy("west-2", &app, xds, &args).await;
    has_state(api, "west-3", None).await;
    has_endpoints(api, "b", &["east-2", "east-3", "west-1", "west-2"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_survive_an_endpoint_that_was_killed() {
    let mesh = Mesh::new();
    let app = ScriptedApp::start(Script::answer(200, "b")).await;
    let control = mesh.control(&[]).await;
    let (api, xds) = (control.api, control.xds);
    api.apply(&service("b", "one")).await;
    let dying = mesh.proxy("b-1", &app, xds, &["--labels", "app=b"]).await;
    let _other = mesh.proxy("b-2", &app, xds, &["--labels", "app=b"]).await;
    let a = mesh.proxy("a", &app, xds, &[]).await;
    has_endpoints(api, "b", &["b-1", "b-2"]).await;
    let instance = |value: Value| value["spec"]["instance"].as_u64().expect("an instance");
    let path = "/apis/weir.dev/v1/namespaces/default/workloads/b-1";
    let before = instance(api.request(Method::GET, path, None).await.json());
    let traffic = Traffic::start(&a);
    traffic.more(100).await;
    traffic.stop().await;
    // A request that a fresh connection took to it in the moment of its death may have been seen, and is not sent
    // again. Whatever comes after finds it dead, on the connection from before or on none, and goes to the other.
    dying.running.kill().await;
    let traffic = Traffic::start(&a);
    traffic.more(100).await;
    has_state(api, "b-1", Some("Unconfirmed")).await;
    traffic.more(100).await;
    assert_eq!(endpoints(api, "b").await, ["b-1", "b-2"], "it is still listed");
    // It comes back on another port, as a newer instance, and takes requests again.
    let back = mesh.proxy("b-1", &app, xds, &["--labels", "app=b"]).await;
    has_state(api, "b-1", Some("Confirmed")).await;
    has_endpoints(api, "b", &["b-1", "b-2"]).await;
    let workload = api.request(Method::GET, path, None).await.json();
    assert!(instance(workload.clone()) > before);
    traffic.more(200).await;
    traffic.stop().await;
    let config = call(back.admin, Protocol::Http1, {
        let request = Request::get("/config").header("host", "localhost");
        request.body(Full::default()).expect("a request")
    })
    .await
    .expect("the dump")
    .json();
    let inbound = config["addresses"]["inbound"][0].as_str().expect("an address");
    let port = &workload["spec"]["ports"][0]["inboundPort"];
    assert_eq!(
        json!(inbound.rsplit_once(':').map(|(_, port)| port.parse::<u16>().ok())),
        json!(port)
    );
}
