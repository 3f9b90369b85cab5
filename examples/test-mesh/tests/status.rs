//! What resources say of themselves when real sidecars have them in force.

use http::{Method, StatusCode};
use weir_api::{Key, Kind};
use weir_test_mesh::{Member, Script, TestMesh, until};

const IN_FORCE: &str = "weir.dev/InForce";

fn key(kind: Kind, name: &str) -> Key {
    Key {
        kind,
        namespace: "default".to_owned(),
        name: name.to_owned(),
    }
}

/// `status reason: message` of a condition in the first entry of a resource's status, or of its own.
async fn says(mesh: &TestMesh, key: &Key, condition: &str) -> Option<String> {
    let object = mesh.api(Method::GET, &key.path(), None).await.json();
    let status = &object["status"];
    let entry = status
        .pointer("/parents/0")
        .or_else(|| status.pointer("/ancestors/0"))
        .unwrap_or(status);
    let conditions = entry["conditions"].as_array()?.iter();
    let found = conditions.into_iter().find(|held| held["type"] == condition)?;
    assert_eq!(
        found["observedGeneration"].as_i64().map(|held| held >= 1),
        Some(true),
        "{found}"
    );
    let text = |field: &str| found[field].as_str().unwrap_or("?").to_owned();
    Some(format!("{} {}: {}", text("status"), text("reason"), text("message")))
}

async fn until_says(mesh: &TestMesh, key: &Key, condition: &str, expect: &str) {
    until(&format!("{key} to say {condition} {expect}"), || async {
        (says(mesh, key, condition).await.as_deref() == Some(expect)).then_some(())
    })
    .await;
}

/// The view's numbers: in force, pending, rejected.
async fn view(mesh: &TestMesh, key: &Key) -> [usize; 3] {
    let view = mesh.control_api().in_force(key).await;
    ["inForce", "pending", "rejected"].map(|list| view[list].as_array().map_or(0, Vec::len))
}

async fn callers(mesh: &TestMesh, count: usize) -> Vec<Member> {
    let mut callers = Vec::new();
    for number in 0..count {
        let caller = mesh.service(&format!("caller-{number}"), Script::answer(200, "")).await;
        assert_eq!(caller.get("http://b/").await.text(), "b");
        callers.push(caller);
    }
    callers
}

fn route(path: &str, backend: &str) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: r, namespace: default}}
spec:
  parentRefs: [{{group: '', kind: Service, name: b}}]
  rules:
  - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]
    backendRefs: [{{name: {backend}, port: 80}}]
"
    )
}

fn policy(name: &str, max_requests: u32) -> String {
    format!(
        "
apiVersion: weir.dev/v1
kind: BackendPolicy
metadata: {{name: {name}, namespace: default}}
spec:
  targetRefs: [{{group: '', kind: Service, name: b}}]
  circuitBreaker: {{maxRequests: {max_requests}}}
"
    )
}

/// The limit of requests that a sidecar has in force for Service b.
async fn limit(member: &Member) -> Option<u64> {
    let config = member.config().await;
    let clusters = config["mesh"]["clusters"].as_array()?;
    let cluster = clusters.iter().find(|cluster| cluster["name"] == "b.default:80")?;
    cluster["requests"]["limit"].as_u64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_is_in_force_on_all_of_its_services_callers() {
    let mesh = TestMesh::start().await;
    let _b = mesh.service("b", Script::answer(200, "b")).await;
    let mut callers = callers(&mesh, 3).await;
    let r = key(Kind::HttpRoute, "r");
    mesh.apply(&route("/", "b")).await;
    until_says(&mesh, &r, IN_FORCE, "True InForce: in force on 3 of 3").await;
    assert_eq!(view(&mesh, &r).await, [3, 0, 0]);

    mesh.apply(&route("/x", "gone")).await;
    let missing = "False BackendNotFound: its share is answered with 500: rules[0].backendRefs[0]: there is no Service \
                   default/gone";
    until_says(&mesh, &r, "ResolvedRefs", missing).await;
    // In force is what was written, also where it can't be followed: a 500 by the route, not by accident.
    until_says(&mesh, &r, IN_FORCE, "True InForce: in force on 3 of 3").await;
    for caller in &callers {
        assert_eq!(caller.get("http://b/x").await.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(caller.get("http://b/").await.status, StatusCode::NOT_FOUND);
    }

    callers.pop().expect("three").stop().await;
    until_says(&mesh, &r, IN_FORCE, "True InForce: in force on 2 of 2").await;
    for caller in callers {
        caller.stop().await;
    }
    until_says(&mesh, &r, IN_FORCE, "Unknown NoSubscribers: no connected proxy uses it").await;
    assert_eq!(view(&mesh, &r).await, [0, 0, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newer_of_two_policies_comes_into_force_when_the_older_goes() {
    let mesh = TestMesh::start().await;
    let _b = mesh.service("b", Script::answer(200, "b")).await;
    let callers = callers(&mesh, 2).await;
    let [older, newer] = ["a", "z"].map(|name| key(Kind::BackendPolicy, name));
    mesh.apply(&policy("a", 11)).await;
    until_says(&mesh, &older, IN_FORCE, "True InForce: in force on 2 of 2").await;
    mesh.apply(&policy("z", 22)).await;
    let nowhere = "False NotAccepted: it is not accepted, so that no proxy is told of it";
    until_says(&mesh, &newer, IN_FORCE, nowhere).await;
    let conflict = says(&mesh, &newer, "Accepted").await.expect("a condition");
    let both = "False Conflicted: BackendPolicy/default/a and BackendPolicy/default/z both claim Service default/b;";
    assert!(conflict.starts_with(both), "{conflict}");
    assert_eq!(
        says(&mesh, &older, "Accepted").await.as_deref(),
        Some("True Accepted: it holds for Service default/b")
    );
    for caller in &callers {
        assert_eq!(limit(caller).await, Some(11));
    }
    mesh.delete(&older).await;
    until_says(&mesh, &newer, IN_FORCE, "True InForce: in force on 2 of 2").await;
    assert_eq!(
        says(&mesh, &newer, "Accepted").await.as_deref(),
        Some("True Accepted: it holds for Service default/b")
    );
    for caller in &callers {
        assert_eq!(limit(caller).await, Some(22));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_holds_for_the_mesh_is_in_force_on_every_proxy() {
    let mesh = TestMesh::start().await;
    let _b = mesh.service("b", Script::answer(200, "b")).await;
    let mut callers = callers(&mesh, 2).await;
    let config = Key {
        namespace: String::new(),
        ..key(Kind::MeshConfig, "mesh")
    };
    let with = |egress: &str| {
        format!("{{apiVersion: weir.dev/v1, kind: MeshConfig, metadata: {{name: mesh}}, spec: {{egress: {egress}}}}}")
    };
    mesh.apply(&with("Passthrough")).await;
    until_says(&mesh, &config, IN_FORCE, "True InForce: in force on 3 of 3").await;
    assert_eq!(view(&mesh, &config).await, [3, 0, 0]);
    let accepted = says(&mesh, &config, "Accepted").await;
    assert_eq!(accepted.as_deref(), Some("True Accepted: it holds for the mesh"));
    let observed = |object: serde_json::Value| {
        let told = object.pointer("/status/conditions/1/observedGeneration")?.as_i64()?;
        Some((told, object["metadata"]["generation"].as_i64()?))
    };
    mesh.apply(&with("Refuse")).await;
    until("the next generation to be told of", || async {
        let object = mesh.api(Method::GET, &config.path(), None).await.json();
        (observed(object)? == (2, 2)).then_some(())
    })
    .await;
    until_says(&mesh, &config, IN_FORCE, "True InForce: in force on 3 of 3").await;
    callers.pop().expect("two").stop().await;
    until_says(&mesh, &config, IN_FORCE, "True InForce: in force on 2 of 2").await;
}
