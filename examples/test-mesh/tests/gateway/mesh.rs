//! `conformance/tests/mesh`: which requests a route takes, whose they are, and what it changes.

use http::{Method, Request};
use http_body_util::Full;
use weir_test_mesh::{MemberSettings, Protocol, Script};

use crate::world::{TWO_PORTS, World, call, get, route};

/// `conformance/tests/mesh`: what holds without a route, and which requests a route takes.
#[tokio::test]
async fn mesh_matching() {
    let world = World::start().await;
    world
        .case("MeshBasic", "", vec![get("http://ECHO/").reaches("v1")])
        .await;
    let simple = route("  - backendRefs: [{name: v2, port: 80}]");
    world
        .case(
            "MeshHTTPRouteSimpleSameNamespace",
            &simple,
            vec![get("http://ECHO/").reaches("v2")],
        )
        .await;
    let split = route(
        "  - {matches: [{path: {type: Exact, value: /one}}], backendRefs: [{name: v1, port: 80}]}
  - {matches: [{path: {type: Exact, value: /two}}], backendRefs: [{name: v2, port: 80}]}",
    );
    let calls = vec![
        get("http://ECHO/one").reaches("v1"),
        get("http://ECHO/two").reaches("v2"),
        get("http://ECHO/two/").status(404),
    ];
    world.case("MeshTrafficSplit", &split, calls).await;
    let matching = route(
        "  - matches: [{path: {type: PathPrefix, value: /}}, {headers: [{name: stage, value: old}]}]
    backendRefs: [{name: v1, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /new}}, {headers: [{name: stage, value: new}]}]
    backendRefs: [{name: v2, port: 80}]",
    );
    let calls = vec![
        get("http://ECHO/").reaches("v1"),
        get("http://ECHO/a").reaches("v1"),
        call(Method::GET, "http://ECHO/", &[("stage", "old")]).reaches("v1"),
        call(Method::GET, "http://ECHO/", &[("Stage", "new")]).reaches("v2"),
        get("http://ECHO/new").reaches("v2"),
        get("http://ECHO/new/").reaches("v2"),
        get("http://ECHO/new/a").reaches("v2"),
        get("http://ECHO/newer").reaches("v1"),
        get("http://ECHO/a/new").reaches("v1"),
    ];
    world.case("MeshHTTPRouteMatching", &matching, calls).await;
    let query = route(
        "  - {matches: [{queryParams: [{name: kind, value: full}]}], backendRefs: [{name: v1, port: 80}]}
  - {matches: [{queryParams: [{name: kind, value: short}]}], backendRefs: [{name: v2, port: 80}]}
  - matches:
    - {path: {value: /a}, queryParams: [{name: kind, value: short}]}
    - {path: {value: /b}, headers: [{name: stage, value: new}], queryParams: [{name: kind, value: long}]}
    backendRefs: [{name: v1, port: 80}]
  - matches: [{headers: [{name: stage, value: new}], queryParams: [{name: kind, value: full}]}]
    backendRefs: [{name: v2, port: 80}]
  - {matches: [{path: {value: /first}}], backendRefs: [{name: v1, port: 80}]}
  - {matches: [{queryParams: [{name: kind, value: last}]}], backendRefs: [{name: v2, port: 80}]}",
    );
    let staged = |url| call(Method::GET, url, &[("stage", "new")]);
    let calls = vec![
        get("http://ECHO/?kind=full").reaches("v1"),
        get("http://ECHO/?x=1&kind=full").reaches("v1"),
        get("http://ECHO/?kind=short&x=1").reaches("v2"),
        get("http://ECHO/?kind=shortfull").status(404),
        get("http://ECHO/?other=full").status(404),
        get("http://ECHO/").status(404),
        get("http://ECHO/a?kind=short").reaches("v1"),
        staged("http://ECHO/?kind=full").reaches("v2"),
        staged("http://ECHO/b?kind=long").reaches("v1"),
        get("http://ECHO/b?kind=long").status(404),
        get("http://ECHO/?kind=long").status(404),
        get("http://ECHO/first?kind=last").reaches("v1"),
    ];
    world.case("MeshHTTPRouteQueryParamMatching", &query, calls).await;
    let named = route(
        "  - {name: first, matches: [{path: {value: /named}}], backendRefs: [{name: v1, port: 80}]}
  - {matches: [{path: {value: /other}}], backendRefs: [{name: v2, port: 80}]}",
    );
    let calls = vec![
        get("http://ECHO/named").reaches("v1").target("/named"),
        get("http://ECHO/other").reaches("v2").target("/other"),
    ];
    world.case("MeshHTTPRouteNamedRule", &named, calls).await;
    let weights = route("  - backendRefs: [{name: v1, port: 80, weight: 70}, {name: v2, port: 80, weight: 30}]");
    let echo = world.prepare(&weights).await;
    world
        .shares("MeshHTTPRouteWeight", &echo, get("http://ECHO/"), 0.7)
        .await;

    let (_, log) = world.caller.stop().await;
    let logged = |target: &str| log.iter().find(|line| line["url.path"] == target);
    let route = logged("/named").and_then(|line| line["weir.route"].as_str());
    let named = route.is_some_and(|route| route.ends_with("#rules[0:first].matches[0]"));
    assert!(named, "MeshHTTPRouteNamedRule: {route:?}");
}

/// `conformance/tests/mesh`: what a route changes.
#[tokio::test]
async fn mesh_filters() {
    let world = World::start().await;
    let filter = "RequestHeaderModifier, requestHeaderModifier";
    let rules = [
        ("/set", "{set: [{name: X-Stage, value: new}]}"),
        ("/add", "{add: [{name: X-Stage, value: new}]}"),
        ("/remove", "{remove: [X-Stage]}"),
        (
            "/all",
            "{set: [{name: X-A, value: a1}, {name: x-b, value: b1}], add: [{name: X-C, value: c1}, {name: x-d, value: d1}], \
             remove: [X-E, x-f]}",
        ),
    ];
    let rules = rules.map(|(path, modifier)| {
        format!(
            "  - {{matches: [{{path: {{value: {path}}}}}], filters: [{{type: {filter}: {modifier}}}], \
             backendRefs: [{{name: v1, port: 80}}]}}"
        )
    });
    const STAGED: &[(&str, &str)] = &[("x-stage", "old"), ("x-other", "kept")];
    const MANY: &[(&str, &str)] = &[("X-B", "b"), ("X-D", "d"), ("X-E", "e"), ("X-F", "f")];
    let calls = vec![
        get("http://ECHO/set").sees("x-stage", "new"),
        call(Method::GET, "http://ECHO/set", STAGED)
            .sees("x-stage", "new")
            .sees("x-other", "kept"),
        get("http://ECHO/add").sees("x-stage", "new"),
        call(Method::GET, "http://ECHO/add", STAGED).sees("x-stage", "old,new"),
        call(Method::GET, "http://ECHO/remove", STAGED)
            .misses("x-stage")
            .sees("x-other", "kept"),
        call(Method::GET, "http://ECHO/all", MANY)
            .sees("x-a", "a1")
            .sees("x-b", "b1")
            .sees("x-c", "c1")
            .sees("x-d", "d,d1")
            .misses("x-e")
            .misses("x-f"),
    ];
    world
        .case("MeshHTTPRouteRequestHeaderModifier", &route(&rules.join("\n")), calls)
        .await;

    let rewrite = |path: &str, modifier: &str| {
        format!(
            "  - {{matches: [{{path: {{value: {path}}}}}], filters: [{{type: URLRewrite, urlRewrite: {{path: {modifier}}}}}], \
             backendRefs: [{{name: v1, port: 80}}]}}"
        )
    };
    let rules = [
        rewrite("/old/a", "{type: ReplacePrefixMatch, replacePrefixMatch: /new}"),
        rewrite("/strip", "{type: ReplacePrefixMatch, replacePrefixMatch: /}"),
        rewrite("/whole", "{type: ReplaceFullPath, replaceFullPath: /new}"),
    ];
    let calls = vec![
        get("http://ECHO/old/a/b?q=1").target("/new/b?q=1"),
        get("http://ECHO/old/a").target("/new"),
        get("http://ECHO/strip/b").target("/b"),
        get("http://ECHO/strip").target("/"),
        get("http://ECHO/whole/a/b?q=1").target("/new?q=1"),
    ];
    world
        .case("MeshHTTPRouteRewritePath", &route(&rules.join("\n")), calls)
        .await;

    let redirect = |path: &str, to: &str| {
        format!(
            "  - {{matches: [{{path: {{value: {path}}}}}], filters: [{{type: RequestRedirect, requestRedirect: {to}}}]}}"
        )
    };
    let to = |url, status, location| get(url).status(status).answers("location", location);
    let cases = [
        (
            "MeshHTTPRouteRedirectHostAndStatus",
            vec![
                redirect("/host", "{hostname: other.example}"),
                redirect("/both", "{hostname: other.example, statusCode: 301}"),
            ],
            vec![
                to("http://ECHO/host", 302, "http://other.example/host"),
                to("http://ECHO/both?q=1", 301, "http://other.example/both?q=1"),
            ],
        ),
        (
            "MeshHTTPRouteRedirectPath",
            vec![
                redirect("/old", "{path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}"),
                redirect("/whole/a", "{path: {type: ReplaceFullPath, replaceFullPath: /all}}"),
                redirect(
                    "/far",
                    "{hostname: other.example, statusCode: 301, path: {type: ReplaceFullPath, replaceFullPath: /all}}",
                ),
            ],
            vec![
                to("http://ECHO/old/a", 302, "http://ECHO/new/a"),
                to("http://ECHO/whole/a/b", 302, "http://ECHO/all"),
                to("http://ECHO/far/a", 301, "http://other.example/all"),
            ],
        ),
        (
            "MeshHTTPRouteRedirectPort",
            vec![
                redirect("/port", "{port: 8083}"),
                redirect("/far", "{hostname: other.example, port: 8083, statusCode: 301}"),
            ],
            vec![
                to("http://ECHO/port", 302, "http://ECHO:8083/port"),
                to("http://ECHO/far", 301, "http://other.example:8083/far"),
            ],
        ),
        (
            "MeshHTTPRouteSchemeRedirect",
            vec![
                redirect("/tls", "{scheme: https}"),
                redirect("/far", "{scheme: https, hostname: other.example, statusCode: 301}"),
            ],
            vec![
                to("http://ECHO/tls", 302, "https://ECHO/tls"),
                to("http://ECHO/far", 301, "https://other.example/far"),
            ],
        ),
        (
            "MeshHTTPRoute303Redirect, MeshHTTPRoute307Redirect, MeshHTTPRoute308Redirect",
            [303, 307, 308]
                .map(|code| redirect(&format!("/{code}"), &format!("{{port: 81, statusCode: {code}}}")))
                .into(),
            vec![
                to("http://ECHO/303", 303, "http://ECHO:81/303"),
                to("http://ECHO/307", 307, "http://ECHO:81/307"),
                to("http://ECHO/308", 308, "http://ECHO:81/308"),
            ],
        ),
    ];
    for (name, rules, calls) in cases {
        world.case(name, &route(&rules.join("\n")), calls).await;
    }
}

const ANSWER_SET: &str = "
  - filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Set, value: set}]}}]
    backendRefs: [{name: v1, namespace: default, port: 80}]
";

/// `conformance/tests/mesh`: whose requests a route is for.
#[tokio::test]
async fn mesh_parents() {
    let world = World::start().await;
    let endpoint = world.backends[0].inbound();
    let calls = vec![
        get("http://ECHO/").reaches("v1").answers("x-set", "set"),
        get("http://v1/").reaches("v1").answers_without("x-set"),
    ];
    world.case("MeshFrontend", &route(ANSWER_SET), calls).await;
    // Past the name, straight to an endpoint: no mesh name, so that nothing of the mesh is asked.
    let direct = Request::get("/")
        .header("host", endpoint.to_string())
        .body(Full::default())
        .expect("a request");
    let answer = weir_test_mesh::call(endpoint, Protocol::Http1, direct)
        .await
        .expect("an answer");
    assert_eq!((answer.status.as_u16(), answer.header("x-set")), (200, None));

    let one_port = route(ANSWER_SET).replace("kind: Service, name: ECHO", "kind: Service, name: ECHO, port: 80");
    let calls = vec![
        get("http://ECHO/").answers("x-set", "set"),
        get("http://ECHO:8080/").answers_without("x-set"),
    ];
    world.case("MeshPorts", &format!("{TWO_PORTS}{one_port}"), calls).await;
    let by_name = one_port.replace("name: ECHO, port: 80", "name: ECHO, sectionName: alt");
    let calls = vec![
        get("http://ECHO/").answers_without("x-set"),
        get("http://ECHO:8080/").answers("x-set", "set"),
    ];
    world
        .case("MeshPorts, by name", &format!("{TWO_PORTS}{by_name}"), calls)
        .await;
    let calls = vec![
        get("http://ECHO/").answers("x-set", "set"),
        get("http://ECHO:8080/").answers("x-set", "set"),
    ];
    world
        .case(
            "MeshPorts, none given",
            &format!("{TWO_PORTS}{}", route(ANSWER_SET)),
            calls,
        )
        .await;

    let settings = MemberSettings {
        namespace: "consumer",
        ..MemberSettings::default()
    };
    let consumer = world
        .mesh
        .service_with("caller", Script::answer(200, ""), settings)
        .await;
    let of_consumer = route(ANSWER_SET)
        .replace("name: ECHO, namespace: default", "name: ECHO, namespace: consumer")
        .replace(
            "kind: Service, name: ECHO",
            "kind: Service, name: ECHO, namespace: default",
        )
        .replace("{name: v1, namespace: default", "{name: ECHO, namespace: default");
    let echo = world.prepare(&of_consumer).await;
    let modified = get("http://ECHO.default/").reaches("v1").answers("x-set", "set");
    modified.check("MeshConsumerRoute", &consumer, &echo).await;
    let untouched = get("http://ECHO.default/").reaches("v1").answers_without("x-set");
    untouched.check("MeshConsumerRoute", &world.caller, &echo).await;
}
