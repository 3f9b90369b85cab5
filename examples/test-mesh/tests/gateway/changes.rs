//! `conformance/tests` of HTTPRoute: what a route changes. What `conformance/tests/mesh` asks of that as well is in
//! `mesh.rs`.

use http::{Method, Response};
use http_body_util::Full;
use weir_test_mesh::Script;

use crate::world::{TWO_PORTS, World, call, get, route};

#[tokio::test]
async fn answers_headers() {
    let world = World::start().await;
    let _loud = world
        .mesh
        .service(
            "loud",
            Script::http(|_| async {
                let fields = ["x-set", "x-add", "x-remove", "x-gone", "x-kept"];
                let answer = fields
                    .iter()
                    .fold(Response::builder(), |answer, name| answer.header(*name, "own"));
                answer.body(Full::default()).expect("an answer")
            }),
        )
        .await;
    let rule = |path: &str, modifier: &str| {
        format!(
            "  - matches: [{{path: {{value: {path}}}}}]
    filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {modifier}}}]
    backendRefs: [{{name: loud, port: 80}}]"
        )
    };
    let rules = [
        rule("/set", "{set: [{name: X-Set, value: set}]}"),
        rule(
            "/add",
            "{add: [{name: X-Add, value: added}, {name: x-new, value: added}]}",
        ),
        rule("/remove", "{remove: [X-Remove]}"),
        rule(
            "/all",
            "{set: [{name: x-set, value: s1}, {name: x-new, value: s2}], add: [{name: X-ADD, value: a1}], \
             remove: [x-remove, X-Gone, x-none]}",
        ),
    ];
    let calls = vec![
        get("http://ECHO/set").answers("x-set", "set").answers("x-kept", "own"),
        get("http://ECHO/add")
            .answers("x-add", "own,added")
            .answers("x-new", "added"),
        get("http://ECHO/remove")
            .answers_without("x-remove")
            .answers("x-gone", "own"),
        get("http://ECHO/all")
            .answers("x-set", "s1")
            .answers("x-new", "s2")
            .answers("x-add", "own,a1")
            .answers_without("x-remove")
            .answers_without("x-gone")
            .answers("x-kept", "own"),
    ];
    world
        .case("HTTPRouteResponseHeaderModifier", &route(&rules.join("\n")), calls)
        .await;
}

#[tokio::test]
async fn rewrites() {
    let world = World::start().await;
    let modify = "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: new}], \
                  add: [{name: x-add, value: new}], remove: [x-remove]}}";
    let hosts = format!(
        "  - matches: [{{path: {{value: /one}}}}]
    filters: [{{type: URLRewrite, urlRewrite: {{hostname: one.example}}}}]
    backendRefs: [{{name: v1, port: 80}}]
  - matches: [{{path: {{value: /two}}}}]
    filters: [{{type: URLRewrite, urlRewrite: {{hostname: two.example}}}}, {modify}]
    backendRefs: [{{name: v2, port: 80}}]"
    );
    const GIVEN: &[(&str, &str)] = &[("x-set", "old"), ("x-add", "old"), ("x-remove", "old")];
    let calls = vec![
        get("http://ECHO/one/a?q=1")
            .reaches("v1")
            .target("/one/a?q=1")
            .sees("host", "one.example"),
        call(Method::GET, "http://ECHO/two", GIVEN)
            .reaches("v2")
            .sees("host", "two.example")
            .sees("x-set", "new")
            .sees("x-add", "old,new")
            .misses("x-remove"),
    ];
    world.case("HTTPRouteRewriteHost", &route(&hosts), calls).await;

    let path = |path: &str, modifier: &str, more: &str| {
        format!(
            "  - matches: [{{path: {{value: {path}}}}}]
    filters: [{{type: URLRewrite, urlRewrite: {{path: {modifier}}}}}{more}]
    backendRefs: [{{name: v1, port: 80}}]"
        )
    };
    let more = format!(", {modify}");
    let paths = [
        path("/old/a", "{type: ReplacePrefixMatch, replacePrefixMatch: /a}", ""),
        path("/strip", "{type: ReplacePrefixMatch, replacePrefixMatch: /}", ""),
        path("/whole/a", "{type: ReplaceFullPath, replaceFullPath: /a}", ""),
        path("/whole/b", "{type: ReplaceFullPath, replaceFullPath: /b}", &more),
        path("/old/b", "{type: ReplacePrefixMatch, replacePrefixMatch: /new}", &more),
    ];
    let calls = vec![
        get("http://ECHO/old/a/b").target("/a/b"),
        get("http://ECHO/strip/b").target("/b"),
        get("http://ECHO/strip").target("/"),
        get("http://ECHO/whole/a/b").target("/a"),
        call(Method::GET, "http://ECHO/whole/b/c", GIVEN)
            .target("/b")
            .sees("x-set", "new")
            .sees("x-add", "old,new")
            .misses("x-remove"),
        call(Method::GET, "http://ECHO/old/b/c", GIVEN)
            .target("/new/c")
            .sees("x-set", "new")
            .sees("x-add", "old,new")
            .misses("x-remove"),
    ];
    world
        .case("HTTPRouteRewritePath", &route(&paths.join("\n")), calls)
        .await;
}

/// Of a redirect's port: what it says, else the scheme's own if it gives one, else the one asked for.
#[tokio::test]
async fn redirects() {
    let world = World::start().await;
    let rule = |path: &str, to: &str| {
        format!(
            "  - {{matches: [{{path: {{value: {path}}}}}], filters: [{{type: RequestRedirect, requestRedirect: {to}}}]}}"
        )
    };
    let to = |url, status, location| get(url).status(status).answers("location", location);
    let ports = [
        rule("/nil-nil", "{hostname: other.example}"),
        rule("/nil-80", "{hostname: other.example, port: 80}"),
        rule("/nil-8080", "{hostname: other.example, port: 8080}"),
        rule("/https-nil", "{hostname: other.example, scheme: https}"),
        rule("/https-443", "{hostname: other.example, scheme: https, port: 443}"),
        rule("/https-8443", "{hostname: other.example, scheme: https, port: 8443}"),
        rule("/http-nil", "{hostname: other.example, scheme: http}"),
    ];
    let calls = vec![
        to("http://ECHO/nil-nil", 302, "http://other.example/nil-nil"),
        to("http://ECHO/nil-80", 302, "http://other.example/nil-80"),
        to("http://ECHO/nil-8080", 302, "http://other.example:8080/nil-8080"),
        to("http://ECHO/https-nil", 302, "https://other.example/https-nil"),
        to("http://ECHO/https-443", 302, "https://other.example/https-443"),
        to("http://ECHO/https-8443", 302, "https://other.example:8443/https-8443"),
        to("http://ECHO:8080/nil-nil", 302, "http://other.example:8080/nil-nil"),
        to("http://ECHO:8080/nil-80", 302, "http://other.example/nil-80"),
        to("http://ECHO:8080/https-nil", 302, "https://other.example/https-nil"),
        to("http://ECHO:8080/http-nil", 302, "http://other.example/http-nil"),
    ];
    let resources = format!("{TWO_PORTS}{}", route(&ports.join("\n")));
    world.case("HTTPRouteRedirectPortAndScheme", &resources, calls).await;

    let prefix = "path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}";
    let whole = "path: {type: ReplaceFullPath, replaceFullPath: /all}";
    let paths = [
        rule("/a", &format!("{{hostname: other.example, {prefix}}}")),
        rule("/b", &format!("{{{prefix}, statusCode: 301}}")),
        rule("/c", &format!("{{hostname: other.example, {whole}}}")),
        rule("/d", &format!("{{{whole}, statusCode: 301}}")),
    ];
    let calls = vec![
        to("http://ECHO/a/x?q=1", 302, "http://other.example/new/x?q=1"),
        to("http://ECHO/b/x", 301, "http://ECHO/new/x"),
        to("http://ECHO/c/x", 302, "http://other.example/all"),
        to("http://ECHO/d/x", 301, "http://ECHO/all"),
    ];
    world
        .case("HTTPRouteRedirectPath", &route(&paths.join("\n")), calls)
        .await;
}
