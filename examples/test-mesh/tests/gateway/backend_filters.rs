//! `conformance/tests`: what is done for one backend of a rule.

use http::Method;

use crate::world::{World, call, get, route};

#[tokio::test]
async fn backend_filters() {
    let world = World::start().await;
    let rules = "
  - matches: [{path: {value: /set}}]
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-a, value: rule}, {name: x-b, value: rule}], add: [{name: x-c, value: rule}]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-d, value: rule}], add: [{name: x-e, value: rule}]}}
    backendRefs:
    - name: v1
      port: 80
      filters:
      - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-a, value: backend}], add: [{name: x-c, value: backend}], remove: [x-f]}}
      - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-d, value: backend}], remove: [x-e]}}
    - {name: v2, port: 80, weight: 0}";
    const GIVEN: &[(&str, &str)] = &[("x-c", "caller"), ("x-f", "caller")];
    let calls = vec![
        call(Method::GET, "http://ECHO/set", GIVEN)
            .reaches("v1")
            .sees("x-a", "backend")
            .sees("x-b", "rule")
            .sees("x-c", "caller,rule,backend")
            .misses("x-f")
            .answers("x-d", "backend")
            .answers_without("x-e"),
    ];
    let names = "MeshHTTPRouteBackendRequestHeaderModifier, HTTPRouteResponseHeaderModifier";
    world.case(names, &route(rules), calls).await;

    let rules = "
  - matches: [{path: {value: /whole}}]
    backendRefs:
    - name: v1
      port: 80
      filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /new}}}]
  - matches: [{path: {value: /old}}]
    backendRefs:
    - name: v1
      port: 80
      filters:
      - {type: RequestRedirect, requestRedirect: {statusCode: 301, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}
      - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-d, value: backend}]}}";
    let calls = vec![
        get("http://ECHO/whole/a")
            .status(302)
            .answers("location", "http://ECHO/new"),
        get("http://ECHO/old/a")
            .status(301)
            .answers("location", "http://ECHO/new/a")
            .answers("x-d", "backend"),
    ];
    world
        .case("HTTPRouteBackendRequestRedirect", &route(rules), calls)
        .await;

    let rules = "
  - matches: [{path: {value: /whole}}]
    filters: [{type: URLRewrite, urlRewrite: {hostname: rule.example, path: {type: ReplaceFullPath, replaceFullPath: /rule}}}]
    backendRefs:
    - name: v1
      port: 80
      filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /new}}}]
  - matches: [{path: {value: /old}}]
    backendRefs:
    - name: v2
      port: 80
      filters:
      - {type: URLRewrite, urlRewrite: {hostname: inner.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}";
    let calls = vec![
        get("http://ECHO/whole/a").target("/new").sees("host", "rule.example"),
        get("http://ECHO/old/a?q=1")
            .reaches("v2")
            .target("/new/a?q=1")
            .sees("host", "inner.example"),
    ];
    world.case("HTTPRouteBackendURLRewrite", &route(rules), calls).await;
}
