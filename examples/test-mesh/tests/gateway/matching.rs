//! `conformance/tests` of HTTPRoute: which requests a route takes. What `conformance/tests/mesh` asks of that as well
//! is in `mesh.rs`.

use http::Method;

use crate::world::{World, call, get, route};

#[tokio::test]
async fn paths_headers_and_methods() {
    let world = World::start().await;
    let exact = route(
        "  - {matches: [{path: {type: Exact, value: /one}}], backendRefs: [{name: v1, port: 80}]}
  - {matches: [{path: {type: Exact, value: /two}}], backendRefs: [{name: v2, port: 80}]}",
    );
    let calls = vec![
        get("http://ECHO/one").reaches("v1"),
        get("http://ECHO/one?q=1").reaches("v1"),
        get("http://ECHO/two").reaches("v2"),
        get("http://ECHO/").status(404),
        get("http://ECHO/one/").status(404),
        get("http://ECHO/one/more").status(404),
        get("http://ECHO/ONE").status(404),
        get("http://ECHO/ones").status(404),
    ];
    world.case("HTTPRouteExactPathMatching", &exact, calls).await;

    let order = route(
        "  - {matches: [{path: {type: Exact, value: /m}}], backendRefs: [{name: v1, port: 80}]}
  - {matches: [{path: {type: Exact, value: /m/exact}}], backendRefs: [{name: v2, port: 80}]}
  - {matches: [{path: {type: Exact, value: /m/exact/one}}], backendRefs: [{name: v1, port: 80}]}
  - {matches: [{path: {value: /m/}}], backendRefs: [{name: v2, port: 80}]}
  - {matches: [{path: {value: /m/prefix/}}], backendRefs: [{name: v1, port: 80}]}
  - {matches: [{path: {value: /m/prefix/one}}], backendRefs: [{name: v2, port: 80}]}",
    );
    let calls = vec![
        get("http://ECHO/m").reaches("v1"),
        get("http://ECHO/m/any").reaches("v2"),
        get("http://ECHO/m/exact").reaches("v2"),
        get("http://ECHO/m/exact/one").reaches("v1"),
        get("http://ECHO/m/exact/two").reaches("v2"),
        get("http://ECHO/m/prefix/any").reaches("v1"),
        get("http://ECHO/m/prefix/one/any").reaches("v2"),
    ];
    world.case("HTTPRoutePathMatchOrder", &order, calls).await;

    let headers = route(
        "  - {matches: [{headers: [{name: stage, value: new}]}], backendRefs: [{name: v1, port: 80}]}
  - {matches: [{headers: [{name: stage, value: old}]}], backendRefs: [{name: v2, port: 80}]}
  - {matches: [{headers: [{name: stage, value: old}, {name: site, value: north}]}], backendRefs: [{name: v1, port: 80}]}
  - {matches: [{headers: [{name: site, value: south}]}, {headers: [{name: site, value: west}]}], backendRefs: [{name: v1, port: 80}]}
  - {matches: [{headers: [{name: site, value: east}]}, {headers: [{name: site, value: sea}]}], backendRefs: [{name: v2, port: 80}]}",
    );
    let with = |headers| call(Method::GET, "http://ECHO/", headers);
    let calls = vec![
        with(&[("stage", "new")]).reaches("v1"),
        with(&[("Stage", "old")]).reaches("v2"),
        with(&[("stage", "old"), ("site", "north")]).reaches("v1"),
        // Equal numbers of headers: the first in order.
        with(&[("stage", "old"), ("site", "south")]).reaches("v2"),
        with(&[("site", "south")]).reaches("v1"),
        with(&[("site", "west")]).reaches("v1"),
        with(&[("site", "east")]).reaches("v2"),
        with(&[("site", "sea")]).reaches("v2"),
        with(&[("site", "north")]).status(404),
        with(&[("stage", "NEW")]).status(404),
        with(&[("other", "new")]).status(404),
    ];
    world.case("HTTPRouteHeaderMatching", &headers, calls).await;

    let methods = route(
        "  - {matches: [{method: POST}], backendRefs: [{name: v1, port: 80}]}
  - {matches: [{method: GET}], backendRefs: [{name: v2, port: 80}]}
  - {matches: [{path: {value: /a}, method: GET}], backendRefs: [{name: v1, port: 80}]}
  - {matches: [{headers: [{name: stage, value: new}], method: PUT}], backendRefs: [{name: v2, port: 80}]}
  - {matches: [{path: {value: /b}, headers: [{name: stage, value: old}], method: POST}], backendRefs: [{name: v2, port: 80}]}
  - matches:
    - {path: {value: /c}, method: PATCH}
    - {path: {value: /d}, headers: [{name: stage, value: new}], method: DELETE}
    backendRefs: [{name: v1, port: 80}]
  - {matches: [{path: {value: /e}}], backendRefs: [{name: v1, port: 80}]}
  - {matches: [{method: PATCH}], backendRefs: [{name: v2, port: 80}]}
  - {matches: [{headers: [{name: stage, value: last}]}], backendRefs: [{name: v1, port: 80}]}",
    );
    let calls = vec![
        call(Method::POST, "http://ECHO/", &[]).reaches("v1"),
        get("http://ECHO/").reaches("v2"),
        call(Method::HEAD, "http://ECHO/", &[]).status(404),
        get("http://ECHO/a").reaches("v1"),
        call(Method::PUT, "http://ECHO/", &[("stage", "new")]).reaches("v2"),
        call(Method::PUT, "http://ECHO/", &[]).status(404),
        call(Method::POST, "http://ECHO/b", &[("stage", "old")]).reaches("v2"),
        call(Method::POST, "http://ECHO/b", &[]).reaches("v1"),
        call(Method::PATCH, "http://ECHO/c", &[]).reaches("v1"),
        call(Method::DELETE, "http://ECHO/d", &[("stage", "new")]).reaches("v1"),
        call(Method::DELETE, "http://ECHO/d", &[]).status(404),
        // Precedence: path, then method, then headers.
        call(Method::PATCH, "http://ECHO/e", &[]).reaches("v1"),
        call(Method::PATCH, "http://ECHO/", &[("stage", "last")]).reaches("v2"),
    ];
    world.case("HTTPRouteMethodMatching", &methods, calls).await;
}

/// Two routes for some of the same hosts are one list, in which the more specific match holds.
#[tokio::test]
async fn matches_of_several_routes() {
    let world = World::start().await;
    let of_hosts = |rules: &str, hosts: &str| route(rules).replace("spec:", &format!("spec:\n  hostnames: {hosts}"));
    let first = of_hosts(
        "  - matches: [{path: {value: /}}, {headers: [{name: stage, value: old}]}]
    backendRefs: [{name: v1, port: 80}]",
        "[ECHO, ECHO.default]",
    );
    let second = of_hosts(
        "  - matches: [{path: {value: /new}}, {headers: [{name: stage, value: new}]}]
    backendRefs: [{name: v2, port: 80}]",
        "[ECHO.default]",
    );
    let second = second.replace("metadata: {name: ECHO,", "metadata: {name: ECHO-second,");
    let staged = |url, headers| call(Method::GET, url, headers);
    let calls = vec![
        get("http://ECHO.default/").reaches("v1"),
        get("http://ECHO.default/a").reaches("v1"),
        staged("http://ECHO.default/", &[("stage", "old")]).reaches("v1"),
        staged("http://ECHO.default/", &[("stage", "new")]).reaches("v2"),
        get("http://ECHO.default/new").reaches("v2"),
        get("http://ECHO.default/new/a").reaches("v2"),
        get("http://ECHO.default/newer").reaches("v1"),
        // The second one is for the other host only.
        get("http://ECHO/new").reaches("v1"),
        staged("http://ECHO/", &[("stage", "new")]).reaches("v1"),
        // A host of neither.
        get("http://ECHO.default.svc.cluster.local/").status(404),
    ];
    let both = format!("{first}---{second}");
    world.case("HTTPRouteMatchingAcrossRoutes", &both, calls).await;
}
