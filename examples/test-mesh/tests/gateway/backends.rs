//! `conformance/tests` of HTTPRoute: backends that are there, and those that are not or may not be used.

use http::{Method, StatusCode};
use serde_json::{Value, json};
use weir_api::{Key, Kind};
use weir_policy::model::AppProtocol;
use weir_test_mesh::{
    MemberSettings, Protocol, Script, ScriptedApp, TestMesh, Through, WebSocketApp, call_web_sockets, until,
};

use crate::world::{Call, World, get, route, saw, tells};

fn route_key(name: &str) -> Key {
    Key {
        kind: Kind::HttpRoute,
        namespace: "default".to_owned(),
        name: name.to_owned(),
    }
}

/// What the route's status says of its references, once it does.
async fn resolved(mesh: &TestMesh, name: &str) -> (Value, Value) {
    let path = route_key(name).path();
    until("the route to be judged", || async {
        let route = mesh.api(Method::GET, &path, None).await.json();
        let conditions = route["status"]["parents"][0]["conditions"].as_array()?.clone();
        let resolved = conditions.into_iter().find(|one| one["type"] == "ResolvedRefs")?;
        let of_now = resolved["observedGeneration"] == route["metadata"]["generation"];
        of_now.then(|| (resolved["status"].clone(), resolved["reason"].clone()))
    })
    .await
}

#[tokio::test]
async fn backends_that_lead_nowhere() {
    let world = World::start().await;
    let labs = MemberSettings {
        namespace: "labs",
        ..MemberSettings::default()
    };
    let _results = world.mesh.service_with("results", tells("results"), labs).await;
    let _samples = world
        .mesh
        .service_with(
            "samples",
            tells("samples"),
            MemberSettings {
                namespace: "labs",
                ..MemberSettings::default()
            },
        )
        .await;

    let gone = route("  - backendRefs: [{name: gone, namespace: default, port: 80}]");
    let echo = world.prepare(&gone).await;
    let failed = get("http://ECHO/").status(500);
    failed
        .check("HTTPRouteInvalidNonExistentBackendRef", &world.caller, &echo)
        .await;
    let expect = (json!("False"), json!("BackendNotFound"));
    assert_eq!(resolved(&world.mesh, &echo).await, expect);

    let foreign = route("  - backendRefs: [{name: results, namespace: labs, port: 80}]");
    let echo = world.prepare(&foreign).await;
    failed
        .check("HTTPRouteInvalidCrossNamespaceBackendRef", &world.caller, &echo)
        .await;
    let expect = (json!("False"), json!("RefNotPermitted"));
    assert_eq!(resolved(&world.mesh, &echo).await, expect);

    // Grants that are not for this: from the wrong namespace or kind, to another Service, in the wrong namespace. Of a
    // group or kind that no route has, they are refused.
    let grant = |name: &str, namespace: &str, from: &str, to: &str| {
        format!(
            "
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{from: [{from}], to: [{to}]}}
---"
        )
    };
    let of = |kind: &str, namespace: &str| {
        format!("{{group: gateway.networking.k8s.io, kind: {kind}, namespace: {namespace}}}")
    };
    let (here, service) = (of("HTTPRoute", "default"), "{group: '', kind: Service, name: results}");
    let wrong = [
        grant("wrong-namespace", "default", &here, service),
        grant("wrong-from", "labs", &of("HTTPRoute", "elsewhere"), service),
        grant("wrong-kind", "labs", &of("GRPCRoute", "default"), service),
        grant(
            "wrong-service",
            "labs",
            &here,
            "{group: '', kind: Service, name: samples}",
        ),
    ];
    world.mesh.apply_in_force(&wrong.concat()).await;
    failed
        .check("HTTPRouteInvalidReferenceGrant", &world.caller, &echo)
        .await;
    assert_eq!(resolved(&world.mesh, &echo).await, expect);

    // Of which one is for the other backend of this route.
    let partly = route(
        "  - {matches: [{path: {value: /new}}], backendRefs: [{name: results, namespace: labs, port: 80}]}
  - backendRefs: [{name: samples, namespace: labs, port: 80}]",
    );
    let echo = world.prepare(&partly).await;
    let name = "HTTPRoutePartiallyInvalidViaInvalidReferenceGrant";
    get("http://ECHO/new")
        .status(500)
        .check(name, &world.caller, &echo)
        .await;
    get("http://ECHO/")
        .reaches("samples")
        .check(name, &world.caller, &echo)
        .await;
    assert_eq!(resolved(&world.mesh, &echo).await, expect, "{name}");

    let omitted = route(
        "  - {matches: [{path: {type: Exact, value: /omitted}}]}
  - {matches: [{path: {type: Exact, value: /empty}}], backendRefs: []}
  - backendRefs: [{name: v1, port: 80}]",
    );
    let calls = vec![
        get("http://ECHO/omitted").status(500),
        get("http://ECHO/empty").status(500),
        get("http://ECHO/").reaches("v1"),
    ];
    world.case("HTTPRouteOmittedBackendRefs", &omitted, calls).await;
}

/// Taken as it is, told by the status, its share answered with 500; the other backends get theirs.
#[tokio::test]
async fn backends_of_a_kind_that_is_no_service() {
    let world = World::start().await;
    let failed = get("http://ECHO/").status(500);
    let name = "HTTPRouteInvalidBackendRefUnknownKind";
    let expect = (json!("False"), json!("InvalidKind"));
    for backend in [
        "{group: unknown.example, kind: NonExistent, name: v1, port: 80}",
        "{kind: Secret, name: v1}",
    ] {
        let echo = world.prepare(&route(&format!("  - backendRefs: [{backend}]"))).await;
        failed.check(name, &world.caller, &echo).await;
        assert_eq!(resolved(&world.mesh, &echo).await, expect, "{backend}");
    }

    let partly = route(
        "  - matches: [{path: {value: /unknown}}]
    backendRefs:
    - {group: unknown.example, kind: NonExistent, name: v1, port: 80}
    - {name: v2, port: 80, weight: 0}
  - backendRefs:
    - {group: unknown.example, kind: NonExistent, name: v1, port: 80, weight: 0}
    - {name: v2, port: 80}",
    );
    let echo = world.prepare(&partly).await;
    get("http://ECHO/unknown")
        .status(500)
        .check(name, &world.caller, &echo)
        .await;
    get("http://ECHO/")
        .reaches("v2")
        .check(name, &world.caller, &echo)
        .await;
    assert_eq!(resolved(&world.mesh, &echo).await, expect);

    // What was written is what is read, the kind as well.
    let route = world.mesh.api(Method::GET, &route_key(&echo).path(), None).await.json();
    let written = &route["spec"]["rules"][0]["backendRefs"][0];
    assert_eq!(written["group"], "unknown.example");
    assert_eq!(written["kind"], "NonExistent");
}

#[tokio::test]
async fn shares_of_backends() {
    let world = World::start().await;
    let weights = route(
        "  - backendRefs:
    - name: v1
      port: 80
      weight: 10
      filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-for, value: v1}]}}]
    - name: v2
      port: 80
      weight: 10
      filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-for, value: v2}]}}]",
    );
    let echo = world.prepare(&weights).await;
    let mut backends = std::collections::BTreeSet::new();
    // All to one of them: once in 2^99 times.
    for _ in 0..100 {
        let saw = saw(&world.caller.get(&format!("http://{echo}/")).await);
        assert_eq!(
            saw["backend"], saw["headers"]["x-for"],
            "HTTPRouteRequestHeaderModifierBackendWeights"
        );
        backends.insert(saw["backend"].to_string());
    }
    assert_eq!(backends.len(), 2, "{backends:?}");
    let thirds = route(
        "  - backendRefs: [{name: v1, port: 80, weight: 7}, {name: v2, port: 80, weight: 3}, {name: gone, port: 80, weight: 0}]",
    );
    let echo = world.prepare(&thirds).await;
    world.shares("HTTPRouteWeight", &echo, get("http://ECHO/"), 0.7).await;
}

#[tokio::test]
async fn backends_of_http2() {
    let world = World::of(AppProtocol::Http2).await;
    let calls = [Protocol::Http1, Protocol::Http2].map(|spoken| Call {
        spoken,
        ..get("http://ECHO/").reaches("v2").sees_version("HTTP/2.0")
    });
    let to_v2 = route("  - backendRefs: [{name: v2, port: 80}]");
    world.case("HTTPRouteBackendProtocolH2C", &to_v2, calls.into()).await;
}

/// HTTPRouteBackendProtocolWebSocket.
#[tokio::test]
async fn backends_of_websockets() {
    let mesh = TestMesh::start().await;
    let app = WebSocketApp::start().await;
    let _ws = app.join(&mesh, "ws").await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    mesh.apply(
        "
apiVersion: v1
kind: Service
metadata: {name: ws, namespace: default}
spec: {selector: {app: ws}, ports: [{name: web, port: 80, targetPort: http, appProtocol: kubernetes.io/ws}]}
",
    )
    .await;
    mesh.apply_service("echo", "none", AppProtocol::Http1).await;
    mesh.apply(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: default}
spec:
  parentRefs: [{group: '', kind: Service, name: echo, port: 80}]
  rules:
  - backendRefs: [{name: ws, port: 80}]
",
    )
    .await;
    until("the route to be in force", || async {
        (a.get("http://echo/refuses").await.status == StatusCode::FORBIDDEN).then_some(())
    })
    .await;
    call_web_sockets(a.outbound(), "echo", Through::Requests).await;
}

/// HTTPRouteServiceTypes: endpoints that somebody wrote, and Services without an address.
#[tokio::test]
async fn services_of_every_type() {
    let world = World::start().await;
    let manual = ScriptedApp::start(tells("manual")).await;
    world
        .mesh
        .plain_service("manual", AppProtocol::Http1, &[manual.address()])
        .await;
    world
        .mesh
        .plain_service("headless-manual", AppProtocol::Http1, &[manual.address()])
        .await;
    let headless = |name: &str, selector: &str| {
        format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec: {{clusterIP: None, {selector}ports: [{{name: web, port: 80, targetPort: http, appProtocol: http}}]}}
---"
        )
    };
    let rules = [
        ("/manual", "manual"),
        ("/headless", "headless"),
        ("/both", "headless-manual"),
    ]
    .map(|(path, to)| {
        format!("  - {{matches: [{{path: {{type: Exact, value: {path}}}}}], backendRefs: [{{name: {to}, port: 80}}]}}")
    });
    let resources = [
        headless("headless", "selector: {app: v1}, "),
        headless("headless-manual", ""),
        route(&rules.join("\n")),
    ];
    let calls = vec![
        get("http://ECHO/manual").reaches("manual"),
        get("http://ECHO/headless").reaches("v1"),
        get("http://ECHO/both").reaches("manual"),
    ];
    world.case("HTTPRouteServiceTypes", &resources.concat(), calls).await;
}

/// HTTPRouteObservedGenerationBump: every condition is of the spec that is there.
#[tokio::test]
async fn conditions_are_of_the_latest_spec() {
    let world = World::start().await;
    let echo = world.prepare(&route("  - backendRefs: [{name: v1, port: 80}]")).await;
    let path = route_key(&echo).path();
    let mut generations = Vec::new();
    for to in ["v2", "v1"] {
        let changed = route(&format!("  - backendRefs: [{{name: {to}, port: 80}}]")).replace("ECHO", &echo);
        world.mesh.apply(&changed).await;
        let generation = until("every condition to be of the latest spec", || async {
            let route = world.mesh.api(Method::GET, &path, None).await.json();
            let conditions = route["status"]["parents"][0]["conditions"].as_array()?.clone();
            let generation = route["metadata"]["generation"].clone();
            let all = !conditions.is_empty() && conditions.iter().all(|one| one["observedGeneration"] == generation);
            all.then_some(generation)
        })
        .await;
        generations.push(generation);
    }
    assert_eq!(generations, [json!(2), json!(3)]);
}
