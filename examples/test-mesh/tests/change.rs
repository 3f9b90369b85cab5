//! Changes under traffic: never half in force, made before broken, and shown where they are in force.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use weir_api::{Key, Kind};
use weir_policy::model::AppProtocol;
use weir_test_mesh::{Answer, Client, Member, MemberSettings, Protocol, Script, ScriptedApp, TestMesh, call, until};

/// Answers with what the route put in `x-route`.
fn tells_route() -> Script {
    Script::http(|seen| async move { told(seen.header("x-route")) })
}

fn told(route: Option<&str>) -> Response<Full<Bytes>> {
    Response::new(Full::from(route.unwrap_or("none").to_owned()))
}

/// A route of Service b that goes to `to`, marking requests and answers with `mark`.
fn route(to: &str, mark: usize) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: b, namespace: default}}
spec:
  parentRefs: [{{group: '', kind: Service, name: b}}]
  rules:
  - filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {{set: [{{name: x-route, value: '{mark}'}}]}}
    - type: ResponseHeaderModifier
      responseHeaderModifier: {{set: [{{name: x-answer, value: '{mark}'}}]}}
    backendRefs: [{{name: {to}, port: 80}}]
"
    )
}

/// A Service whose endpoints are written by hand.
async fn apply_plain_service(mesh: &TestMesh, name: &str) {
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"ports": [{"name": "web", "port": 80, "appProtocol": "http"}]},
    });
    mesh.apply(&service.to_string()).await;
}

/// Its endpoints, without a sidecar.
async fn apply_endpoints(mesh: &TestMesh, service: &str, at: SocketAddr) {
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": service, "namespace": "default",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [at.ip()], "conditions": {"ready": true}}],
        "ports": [{"name": "web", "port": at.port(), "protocol": "TCP"}],
    });
    mesh.apply(&slice.to_string()).await;
}

fn key(kind: Kind, name: &str) -> Key {
    Key {
        kind,
        namespace: "default".to_owned(),
        name: name.to_owned(),
    }
}

fn request(host: &str, path: &str) -> Request<Full<Bytes>> {
    let request = Request::get(path).header("host", host);
    request.body(Full::default()).expect("a request")
}

/// Requests to Service b, one after the other on connections of their own, until it is stopped.
struct Traffic {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    callers: JoinSet<Vec<Answer>>,
}

impl Traffic {
    fn start(from: &Member, callers: usize) -> Traffic {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut tasks = JoinSet::new();
        for _ in 0..callers {
            let (stop, done, to) = (Arc::clone(&stop), Arc::clone(&done), from.outbound());
            tasks.spawn(async move {
                let mut client = Client::connect(to, Protocol::Http1).await.expect("a connection");
                let mut answers = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    answers.push(client.send(request("b", "/")).await.expect("an answer"));
                    done.fetch_add(1, Ordering::Relaxed);
                }
                answers
            });
        }
        Traffic {
            stop,
            done,
            callers: tasks,
        }
    }

    /// Waits for this many more answers.
    async fn more(&self, count: usize) {
        let target = self.done.load(Ordering::Relaxed) + count;
        until("more answers", || async {
            (self.done.load(Ordering::Relaxed) >= target).then_some(())
        })
        .await;
    }

    /// Stops it and gives every answer, by caller, in order; each must be well.
    async fn stop(self) -> Vec<Vec<Answer>> {
        self.stop.store(true, Ordering::Relaxed);
        let answers = self.callers.join_all().await;
        for answer in answers.iter().flatten() {
            assert_eq!(answer.status, StatusCode::OK, "{:?} {}", answer.headers, answer.text());
        }
        answers
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_never_half_in_force() {
    const CHANGES: usize = 100;
    const HELD: usize = 10;
    let mesh = TestMesh::start().await;
    let (release, released) = watch::channel(0);
    let held = Arc::new(AtomicUsize::new(0));
    let holds = Arc::clone(&held);
    // A request to /held is answered when the route after its own is in force.
    let script = Script::http(move |seen| {
        let (mut released, holds) = (released.clone(), Arc::clone(&holds));
        async move {
            let route = seen.header("x-route").map(str::to_owned);
            if seen.head.uri.path() == "/held" {
                holds.fetch_add(1, Ordering::Relaxed);
                let own: usize = route.as_deref().expect("a route").parse().expect("a number");
                released.wait_for(|released| *released > own).await.expect("a test");
            }
            told(route.as_deref())
        }
    });
    let _b = mesh.service("b", script).await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    assert_eq!(a.get("http://b/").await.text(), "none");
    mesh.apply_in_force(&route("b", 0)).await;

    let traffic = Traffic::start(&a, 2);
    let mut in_flight = 0;
    for change in 0..CHANGES {
        let mut waiting = JoinSet::new();
        for _ in 0..HELD {
            let to = a.outbound();
            waiting.spawn(async move { call(to, Protocol::Http1, request("b", "/held")).await });
        }
        in_flight += HELD;
        until("requests in flight", || async {
            (held.load(Ordering::Relaxed) == in_flight).then_some(())
        })
        .await;
        mesh.apply_in_force(&route("b", change + 1)).await;
        release.send_replace(change + 1);
        for answer in waiting.join_all().await {
            let answer = answer.expect("an answer");
            let of = change.to_string();
            assert_eq!(
                (answer.text(), answer.header("x-answer")),
                (of.clone(), Some(of.as_str()))
            );
        }
        // In force means that from now on requests go by it.
        let now = (change + 1).to_string();
        let answer = a.get("http://b/").await;
        assert_eq!(
            (answer.text(), answer.header("x-answer")),
            (now.clone(), Some(now.as_str()))
        );
    }
    assert_eq!(in_flight, 1000);
    let answers = traffic.stop().await;
    let mut seen = BTreeSet::new();
    for answers in answers {
        let mut before = 0;
        for answer in answers {
            assert_eq!(Some(answer.text().as_str()), answer.header("x-answer"));
            let mark: usize = answer.text().parse().expect("a number");
            assert!(mark >= before, "{mark} after {before}: changes come in their order");
            before = mark;
            seen.insert(mark);
        }
    }
    assert!(
        seen.len() > CHANGES / 2,
        "the traffic saw {} of {CHANGES} changes",
        seen.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traffic_moves_without_a_gap() {
    let mesh = TestMesh::start().await;
    let _b = mesh.service("b", tells_route()).await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    assert_eq!(a.get("http://b/").await.text(), "none");
    let traffic = Traffic::start(&a, 4);
    let mut apps = Vec::new();
    for number in 0..10 {
        // A Service that this sidecar has never used, with endpoints.
        let name = format!("new-{number}");
        let app = ScriptedApp::start(Script::answer(200, &name)).await;
        apply_plain_service(&mesh, &name).await;
        apply_endpoints(&mesh, &name, app.address()).await;
        mesh.apply_in_force(&route(&name, number)).await;
        assert_eq!(a.get("http://b/").await.text(), name);
        traffic.more(20).await;
        apps.push(app);
    }
    for number in 0..5 {
        // One whose endpoints come after the route.
        let name = format!("later-{number}");
        let app = ScriptedApp::start(Script::answer(200, &name)).await;
        apply_plain_service(&mesh, &name).await;
        let keys = mesh.apply(&route(&name, number)).await;
        until("the route to wait at the sidecar", || async {
            let config = a.config().await;
            let resources = config["mesh"]["resources"].as_array()?;
            let waits = |resource: &Value| resource["kind"] == "route" && resource["waiting"].is_string();
            resources.iter().any(waits).then_some(())
        })
        .await;
        let view = mesh.control_api().in_force(&keys[0]).await;
        assert_eq!(
            (&view["state"], &view["pending"]),
            (&json!("Progressing"), &json!(["default/a"]))
        );
        traffic.more(20).await;
        apply_endpoints(&mesh, &name, app.address()).await;
        mesh.apply_in_force(&route(&name, number)).await;
        assert_eq!(a.get("http://b/").await.text(), name);
        traffic.more(20).await;
        apps.push(app);
    }
    // And back: without its route a Service is itself again.
    mesh.delete(&key(Kind::HttpRoute, "b")).await;
    until("b to answer itself", || async {
        (a.get("http://b/").await.text() == "none").then_some(())
    })
    .await;
    traffic.more(20).await;
    traffic.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_it_in_force_is_counted_and_who_rejected_it_says_why() {
    let mesh = TestMesh::start().await;
    let b = mesh.service("b", tells_route()).await;
    let names = ["a-1", "a-2", "a-3"];
    let mut callers = Vec::new();
    for name in names {
        callers.push(mesh.service(name, Script::answer(200, "")).await);
    }
    let api = mesh.control_api();
    let key = mesh.apply(&route("b", 1)).await.remove(0);
    let view = until("the control plane to take it in", || async {
        let view = api.in_force(&key).await;
        (view["state"] != "Progressing").then_some(view)
    })
    .await;
    assert_eq!(
        (&view["state"], &view["subscribers"]),
        (&json!("NoSubscribers"), &json!(0))
    );
    for (count, caller) in callers.iter().enumerate() {
        assert_eq!(caller.get("http://b/").await.text(), "1");
        let view = until("the sidecar's word", || async {
            let view = api.in_force(&key).await;
            (view["state"] == "InForce" && view["subscribers"] == count + 1).then_some(view)
        })
        .await;
        let expect: Vec<String> = names[..=count].iter().map(|name| format!("default/{name}")).collect();
        assert_eq!(view["inForce"], json!(expect));
    }

    // 512 regular expressions are well, twice as many are more than a sidecar takes for one service: the API can't know
    // which of two routes is one too many.
    let many = |name: &str| {
        let header = |at: usize| json!({"type": "RegularExpression", "name": format!("x-{at}"), "value": "PLACE"});
        let matches = |number: usize| {
            let headers: Vec<Value> = (0..16).map(header).collect();
            json!({"path": {"type": "PathPrefix", "value": format!("/{name}/{number}")}, "headers": headers})
        };
        let rules: Vec<Value> = (0..2)
            .map(|rule| {
                let matches: Vec<Value> = (rule * 16..rule * 16 + 16).map(matches).collect();
                json!({"matches": matches, "backendRefs": [{"name": "b", "port": 80}]})
            })
            .collect();
        let mut text = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "b"}], "rules": rules},
        })
        .to_string();
        // Each one its own.
        for number in 0..512 {
            text = text.replacen("PLACE", &format!("{name}-{number}"), 1);
        }
        text
    };
    mesh.apply_in_force(&many("first")).await;
    let second = mesh.apply(&many("second")).await.remove(0);
    let view = until("three rejections", || async {
        let view = api.in_force(&second).await;
        (view["rejected"].as_array()?.len() == 3).then_some(view)
    })
    .await;
    assert_eq!(view["state"], "Rejected");
    assert_eq!(view["rejected"][0]["proxy"], "default/a-1");
    let reason = view["rejected"][0]["reason"].as_str().expect("a reason");
    assert!(reason.contains("one regular expression too many"), "{reason}");
    let proxies = api.request(Method::GET, "/apis/weir.dev/v1/proxies", None).await.json();
    let listed = proxies["items"].as_array().expect("proxies");
    let first = listed.iter().find(|proxy| proxy["name"] == "default/a-1").expect("a-1");
    let sources = first["rejected"][0]["sources"].as_array().expect("sources");
    assert!(sources.contains(&json!("HTTPRoute/default/second")), "{sources:?}");
    // What was in force before stays so, and other services' changes are not held up.
    assert_eq!(callers[0].get("http://b/").await.text(), "1");
    let other = route("b", 2).replace("name: b, namespace", "name: a-2, namespace");
    mesh.apply_in_force(&other.replace("kind: Service, name: b", "kind: Service, name: a-2"))
        .await;
    assert_eq!(callers[0].get("http://a-2/").await.text(), "2");
    mesh.delete(&second).await;
    mesh.apply_in_force(&route("b", 3)).await;
    for caller in &callers {
        assert_eq!(caller.get("http://b/").await.text(), "3");
    }
    drop(b);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_gone_is_no_longer_called() {
    let mesh = TestMesh::start().await;
    mesh.apply_service("b", "b", AppProtocol::Http1).await;
    let first = mesh
        .workload("b-1", "b", Script::answer(200, "first"), MemberSettings::default())
        .await;
    let second = mesh
        .workload("b-2", "b", Script::answer(200, "second"), MemberSettings::default())
        .await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    until("both to be called", || async {
        a.get("http://b/").await;
        (!first.seen().is_empty() && !second.seen().is_empty()).then_some(())
    })
    .await;
    let traffic = Traffic::start(&a, 2);
    traffic.more(50).await;
    // It leaves in order: nobody notices.
    first.stop().await;
    traffic.more(50).await;
    traffic.stop().await;
    assert_eq!(a.get("http://b/").await.text(), "second");

    mesh.delete(&key(Kind::Service, "b")).await;
    let answer = until("b to be gone", || async {
        let answer = a.get("http://b/").await;
        // It exists or it does not: there is no third.
        match answer.status {
            StatusCode::OK => None,
            _ => Some(answer),
        }
    })
    .await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{}", answer.text());
    let why = answer.header("proxy-status").expect("a reason");
    assert!(why.contains("error=destination_not_found"), "{why}");
}
