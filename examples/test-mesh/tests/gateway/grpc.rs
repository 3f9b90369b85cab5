//! GRPCRoutes: `conformance/tests/mesh` and `conformance/tests`.

use http::Method;
use serde_json::json;
use weir_api::{Key, Kind};
use weir_policy::model::AppProtocol;
use weir_test_mesh::until;

use crate::world::{Call, World, get, grpc, grpc_route, reached, route};

/// What the mesh answers a gRPC call, by the texts of GRPCRoute's `rules` and `backendRefs`.
#[tokio::test]
async fn grpc_calls_without_a_backend_end_with_a_status_of_grpc() {
    let world = World::start().await;
    let rules = route(
        "  - {matches: [{path: {value: /gone.Service}}], backendRefs: [{name: gone, port: 80}]}
  - {matches: [{path: {value: /no.Service}}]}",
    );
    let calls = vec![
        grpc("http://ECHO/gone.Service/Call").answers("grpc-status", "14"),
        grpc("http://ECHO/no.Service/Call").answers("grpc-status", "14"),
        grpc("http://ECHO/other.Service/Call").answers("grpc-status", "12"),
        get("http://ECHO/gone.Service/Call").status(500),
    ];
    world.case("gRPC without a backend", &rules, calls).await;
}

/// `conformance/tests/mesh` and `conformance/tests` of GRPCRoute.
#[tokio::test]
async fn grpc_routes() {
    let world = World::of(AppProtocol::Grpc).await;
    let weights = grpc_route("  - backendRefs: [{name: v1, port: 80, weight: 70}, {name: v2, port: 80, weight: 30}]");
    let echo = world.prepare(&weights).await;
    let any = grpc("http://ECHO/pkg.Echo/Any");
    world.shares("MeshGRPCRouteWeight", &echo, any, 0.7).await;

    let matching = grpc_route(
        "  - matches: [{method: {service: pkg.Echo, method: One}}]
    backendRefs: [{name: v1, port: 80}]
  - matches: [{method: {service: pkg.Echo}}]
    backendRefs: [{name: v2, port: 80}]
  - matches: [{method: {method: Three}}, {method: {type: RegularExpression, service: 'other[.].*'}}]
    backendRefs: [{name: v1, port: 80}]",
    );
    let unmatched = |url| grpc(url).answers("grpc-status", "12");
    let calls = vec![
        grpc("http://ECHO/pkg.Echo/One")
            .reaches("v1")
            .answers("grpc-status", "0"),
        grpc("http://ECHO/pkg.Echo/Two").reaches("v2"),
        grpc("http://ECHO/pkg.Echo/Three").reaches("v2"),
        grpc("http://ECHO/any.Name/Three").reaches("v1"),
        grpc("http://ECHO/other.Name/Four").reaches("v1"),
        unmatched("http://ECHO/pkg.EchoTwo/One"),
        unmatched("http://ECHO/any.Name/Four"),
        get("http://ECHO/pkg.Echo/One").status(404),
    ];
    world.case("GRPCExactMethodMatching", &matching, calls).await;

    let headers = grpc_route(
        "  - matches: [{headers: [{name: version, value: one}]}]
    backendRefs: [{name: v1, port: 80}]
  - name: both
    matches: [{method: {service: pkg.Echo}, headers: [{name: version, type: RegularExpression, value: 't.*'}]}]
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-a, value: rule}]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-d, value: rule}]}}
    backendRefs:
    - name: v2
      port: 80
      filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-b, value: backend}]}}]
  - {matches: [{method: {service: no.Backend}}]}
  - {matches: [{method: {service: gone.Backend}}], backendRefs: [{name: gone, port: 80}]}",
    );
    const ONE: &[(&str, &str)] = &[("content-type", "application/grpc+proto"), ("version", "one")];
    const TWO: &[(&str, &str)] = &[("content-type", "application/grpc"), ("version", "two")];
    let with = |url, headers| Call { headers, ..grpc(url) };
    let calls = vec![
        with("http://ECHO/pkg.Echo/One", ONE).reaches("v1").misses("x-a"),
        with("http://ECHO/pkg.Echo/One", TWO)
            .reaches("v2")
            .sees("x-a", "rule")
            .sees("x-b", "backend")
            .answers("x-d", "rule"),
        unmatched("http://ECHO/pkg.Echo/One"),
        grpc("http://ECHO/no.Backend/Any").answers("grpc-status", "14"),
        grpc("http://ECHO/gone.Backend/Any").answers("grpc-status", "14"),
    ];
    world
        .case(
            "GRPCRouteHeaderMatching, MeshGRPCRouteRequestHeaderModifier",
            &headers,
            calls,
        )
        .await;

    let named = grpc_route(
        "  - matches: [{method: {service: pkg.Echo}}]
    filters: [{type: RequestMirror, requestMirror: {backendRef: {name: v2, port: 80}}}]
    backendRefs: [{name: v1, port: 80}]",
    )
    .replace("spec:", "spec:\n  hostnames: [ECHO.default.svc.cluster.local, ECHO]")
    .replace(
        "kind: Service, name: ECHO",
        "kind: Service, name: ECHO, sectionName: web",
    );
    let calls = vec![grpc("http://ECHO/pkg.Echo/Mirrored").reaches("v1")];
    world.case("a copy of a call", &named, calls).await;
    let v2 = &world.backends[1];
    until("the copy", || async {
        (reached(v2, "/pkg.Echo/Mirrored") == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn of_two_kinds_of_routes_the_older_holds() {
    let world = World::of(AppProtocol::Grpc).await;
    let older = grpc_route("  - backendRefs: [{name: v1, port: 80}]");
    let echo = world.prepare(&older).await;
    // Of one age, if both come in one second, the first by name holds.
    let younger = route("  - backendRefs: [{name: v2, port: 80}]")
        .replace("metadata: {name: ECHO", "metadata: {name: ECHO-younger")
        .replace("ECHO", &echo);
    let [younger] = world.mesh.apply(&younger).await.try_into().expect("one resource");
    let said = until("the younger one to be judged", || async {
        let answer = world.mesh.api(Method::GET, &younger.path(), None).await;
        let conditions = answer.json()["status"]["parents"][0]["conditions"].clone();
        let accepted = conditions
            .as_array()?
            .iter()
            .find(|held| held["type"] == "Accepted")?
            .clone();
        Some(accepted)
    })
    .await;
    assert_eq!(
        (&said["status"], &said["reason"]),
        (&json!("False"), &json!("Conflicted")),
        "{said}"
    );
    grpc("http://ECHO/pkg.Echo/One")
        .reaches("v1")
        .check("older", &world.caller, &echo)
        .await;
    get("http://ECHO/")
        .status(404)
        .check("older", &world.caller, &echo)
        .await;

    let older = Key {
        kind: Kind::GrpcRoute,
        name: echo.clone(),
        ..younger.clone()
    };
    world.mesh.delete(&older).await;
    world.mesh.control_api().in_force(&younger).await;
    grpc("http://ECHO/pkg.Echo/One")
        .reaches("v2")
        .check("alone", &world.caller, &echo)
        .await;
    get("http://ECHO/")
        .reaches("v2")
        .check("alone", &world.caller, &echo)
        .await;
}
