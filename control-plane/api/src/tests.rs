//! Resources as people write them, good and bad, through the whole way from text to types.

use serde_json::Value;

use crate::yaml::{self, Sourced};
use crate::{Key, Kind, Object, Spec};

/// Reads a text with one resource that is right, and that its JSON reads back the same.
#[track_caller]
pub(crate) fn good(text: &str) -> Object {
    let objects = match yaml::read_objects(text, "test.yaml", None) {
        Ok(objects) => objects,
        Err(errors) => panic!("{}", list(&errors)),
    };
    let [Sourced { object, .. }] = objects.as_slice() else {
        panic!("{} resources", objects.len());
    };
    assert_eq!(Object::parse(object.to_value()).as_ref(), Ok(object), "reads back");
    object.clone()
}

/// Reads a text that is wrong: each of `expect` begins one of the errors, in order.
#[track_caller]
pub(crate) fn bad(text: &str, expect: &[&str]) {
    let errors = yaml::read_objects(text, "f", None).expect_err(text);
    let matching = errors.len() == expect.len()
        && errors
            .iter()
            .zip(expect)
            .all(|(error, expect)| error.to_string().starts_with(expect));
    assert!(matching, "got\n{}\nexpected\n{}", list(&errors), expect.join("\n"));
}

fn list(errors: &[yaml::SourceError]) -> String {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

const HEAD: &str =
    "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: citizen}\n";
const PARENT: &str = "parentRefs: [{group: '', kind: Service, name: a}]";

/// A route with the fields of one rule; they begin at line 7.
fn rule(fields: &str) -> String {
    let mut text = format!("{HEAD}spec:\n  {PARENT}\n  rules:\n  - name: x\n");
    for line in fields.lines() {
        text.push_str(&format!("    {line}\n"));
    }
    text
}

#[test]
fn a_route_reads_whole() {
    let object = good(
        r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: nucleic-acid-test
  namespace: citizen
  labels: {app.kubernetes.io/part-of: health-code}
  creationTimestamp: null
  managedFields: [{manager: kubectl}]
spec:
  parentRefs:
  - {group: "", kind: Service, name: nat, port: 80}
  - {group: "", kind: Service, name: nat, port: 81}
  hostnames: [nat.example.org, "*.example.com"]
  rules:
  - name: slow
    matches:
    - path: {type: Exact, value: /v1/results}
      method: POST
      headers: [{name: X-Site, value: north}, {name: x-v, type: RegularExpression, value: "[0-9]+"}]
      queryParams: [{name: q, value: 1%}]
    - path: {type: RegularExpression, value: "/v[0-9]+/.*"}
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: a, value: b}], add: [{name: A, value: c}], remove: [x]}
    - type: ResponseHeaderModifier
      responseHeaderModifier: {remove: [server]}
    - type: URLRewrite
      urlRewrite: {hostname: b.example.org, path: {type: ReplaceFullPath, replaceFullPath: /x}}
    backendRefs:
    - {name: nat-v1, port: 80, weight: 90}
    - {name: nat-v2, namespace: labs, port: 80}
    timeouts: {request: 2s, backendRequest: 500ms}
    retry: {codes: [502, 503], attempts: 2, backoff: 10ms}
  - matches: [{path: {value: /old}}]
    filters:
    - type: RequestRedirect
      requestRedirect: {scheme: https, port: 8443, statusCode: 308, path: {type: ReplacePrefixMatch, replacePrefixMatch: ""}}
  - backendRefs: [{name: nat-v1, port: 80}]
    timeouts: {request: 0s, backendRequest: 1s}
status: {}
"#,
    );
    assert_eq!(object.key().to_string(), "HTTPRoute/citizen/nucleic-acid-test");
    assert_eq!(object.status, None);
    let Spec::HttpRoute(spec) = &object.spec else {
        panic!("a route")
    };
    let weights: Vec<u32> = spec.rules[0].backend_refs.iter().map(|b| b.weight).collect();
    assert_eq!(weights, [90, 1]);
    assert_eq!(spec.rules[2].matches, [Default::default()]);
    let timeouts = spec.rules[2].timeouts.expect("given");
    assert_eq!(
        (timeouts.request, timeouts.backend_request.map(|t| t.as_secs())),
        (None, Some(1))
    );
    let value = object.to_value();
    assert_eq!(value["spec"]["rules"][0]["timeouts"]["backendRequest"], "500ms");
    assert_eq!(
        value["spec"]["rules"][1]["filters"][0]["requestRedirect"]["path"]["replacePrefixMatch"],
        ""
    );
    assert_eq!(value["spec"]["parentRefs"][0]["group"], "");
}

#[test]
fn all_that_is_wrong_in_a_route_is_said_at_once() {
    bad(
        &rule(
            "matches: [{path: {type: Exact, value: a}}]\nbackendRefs:\n- name: A\n  port: 0\n  weight: -1\n  wieght: 3\nx: 1",
        ),
        &[
            "f:8: spec.rules[0].matches[0].path.value: \"a\" does not begin with '/'",
            "f:10: spec.rules[0].backendRefs[0].name: \"A\" is no name; ",
            "f:11: spec.rules[0].backendRefs[0].port: 0 is out of range; a whole number from 1 to 65535 is right",
            "f:12: spec.rules[0].backendRefs[0].weight: -1 is out of range; a whole number from 0 to 1000000 is right",
            "f:13: spec.rules[0].backendRefs[0].wieght: 3 stands in an unknown field; did you mean weight? known here: ",
            "f:14: spec.rules[0].x: 1 stands in an unknown field; known here: name, matches, ",
        ],
    );
}

/// A GRPCRoute with one rule of these fields, in flow style.
fn grpc_rule(fields: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {{name: a, namespace: citizen}}
spec: {{{PARENT}, rules: [{{{fields}}}]}}"
    )
}

#[test]
fn rules_of_calls() {
    let matching = |method: &str| grpc_rule(&format!("matches: [{{method: {method}}}]"));
    let refused = |fields: &str, expect: &str| bad(&grpc_rule(fields), &[&format!("f:4: spec.rules[0].{expect}")]);
    good(&grpc_rule(""));
    good(&grpc_rule("matches: [{}, {headers: [{name: x-site, value: a}]}]"));
    for method in [
        "{service: a.b_1.C}",
        "{service: .a.b}",
        "{method: Get}",
        "{type: Exact, service: a, method: Get}",
        "{type: RegularExpression, service: 'a/b|c-d'}",
        "{type: RegularExpression, method: '[0-9].*'}",
    ] {
        good(&matching(method));
    }
    let at = "f:4: spec.rules[0].matches[0].method";
    for (method, expect) in [
        ("{}", ": {} takes every call"),
        ("{type: Exact}", ": "),
        ("{type: Prefix, service: a}", ".type: \"Prefix\" "),
        ("{service: a-b}", ".service: \"a-b\" is no such name"),
        ("{service: ''}", ".service: \"\" is no such name"),
        ("{service: a, method: b.c}", ".method: \"b.c\" is no such name"),
        ("{type: RegularExpression, service: ''}", ".service: \"\" "),
        ("{service: a, path: b}", ".path: \"b\" stands in an unknown field"),
    ] {
        bad(&matching(method), &[&format!("{at}{expect}")]);
    }
    refused("matches: [{path: {value: /a}}]", "matches[0].path: ");
    refused(
        "matches: [{headers: [{name: Content-Type, value: a}]}]",
        "matches[0].headers[0]: ",
    );
    refused("timeouts: {request: 1s}", "timeouts: ");
    refused("sessionPersistence: {type: Cookie}", "sessionPersistence: ");
    let redirect = "filters: [{type: RequestRedirect, requestRedirect: {port: 81}}]";
    let expect = "filters[0].type: \"RequestRedirect\" is no type of a GRPCRoute's filter";
    refused(redirect, expect);
    refused(
        "filters: [{type: ExtensionRef}]",
        "filters[0].type: \"ExtensionRef\" is not supported",
    );
    let backend = format!(
        "backendRefs: [{{name: a, port: 90, {}}}]",
        redirect.replace("RequestRedirect", "URLRewrite")
    );
    refused(
        &backend,
        "backendRefs[0].filters[0].type: \"URLRewrite\" is no type of a GRPCRoute's filter",
    );
    let twins = grpc_rule("name: one}, {name: one");
    bad(&twins, &["f:4: spec.rules[1]: "]);
    // Of an item that can't be read nobody knows what it would be beside the others: it alone is named.
    refused(
        "matches: [{headers: [{name: 'a b', value: a}, {name: content-type, value: a}]}]",
        "matches[0].headers[0].name: ",
    );
}

#[test]
fn rules_of_parents_and_hosts() {
    let spec = |fields: &str| format!("{HEAD}spec: {{{fields}, rules: [{{}}]}}");
    let parents = |parents: &str| spec(&format!("parentRefs: [{parents}]"));
    let a = "group: '', kind: Service, name: a";
    good(&parents(&format!("{{{a}}}, {{{a}, namespace: other}}")));
    let at = "f:4: spec.parentRefs[0]";
    bad(&parents(""), &["f:4: spec.parentRefs: [] is empty"]);
    bad(
        &parents("{name: a}"),
        &[
            &format!("{at}.group: is missing; group: \"\" is right"),
            &format!("{at}.kind: is missing; kind: Service is right"),
        ],
    );
    bad(
        &parents("{group: '', kind: Gateway, name: a}"),
        &[&format!("{at}.kind: \"Gateway\" is not supported")],
    );
    let section = |section: &str, port: &str| format!("{{{a}, sectionName: {section}{port}}}");
    good(&parents(&format!(
        "{}, {}",
        section("http", ""),
        section("grpc", ", port: 1")
    )));
    bad(
        &parents(&section("Http", "")),
        &[&format!("{at}.sectionName: \"Http\" ")],
    );
    for other in [
        section("http", ", port: 1"),
        format!("{{{a}, port: 1}}"),
        format!("{{{a}}}"),
    ] {
        let twins = parents(&format!("{}, {other}", section("http", "")));
        bad(&twins, &["f:4: spec.parentRefs[1]: "]);
    }
    bad(
        &parents(&format!("{{{a}}}, {{{a}, namespace: citizen}}")),
        &["f:4: spec.parentRefs[1]: "],
    );
    bad(
        &parents(&format!("{{{a}, port: 1}}, {{{a}}}")),
        &["f:4: spec.parentRefs[1]: "],
    );
    bad(
        &format!("{HEAD}spec: {{rules: [{{}}]}}"),
        &["f:4: spec.parentRefs: is missing"],
    );
    bad(
        &format!("{HEAD}spec: {{{PARENT}, rules: []}}"),
        &["f:4: spec.rules: [] is empty"],
    );
    bad(HEAD, &["f:1: spec: is missing"]);
    for host in [
        "A.b", "*", "*.", "a.*", "10.0.0.1", "a:80", "a..b", "''", "'*.*.a'", "1",
    ] {
        bad(
            &spec(&format!("{PARENT}, hostnames: [{host}]")),
            &["f:4: spec.hostnames[0]: "],
        );
    }
    bad(
        &spec(&format!("{PARENT}, hostnames: [a, a]")),
        &["f:4: spec.hostnames[1]: \"a\" is there already"],
    );
    let many = vec!["{}"; 17].join(",");
    bad(
        &format!("{HEAD}spec: {{{PARENT}, rules: [{many}]}}"),
        &["f:4: spec.rules: a list of 17 is too long"],
    );
    let crowded = vec![format!("{{matches: [{}]}}", vec!["{}"; 64].join(",")); 3].join(",");
    bad(
        &format!("{HEAD}spec: {{{PARENT}, rules: [{crowded}]}}"),
        &["f:4: spec.rules: [{\"matches\":"],
    );
    bad(
        &format!("{HEAD}spec: {{{PARENT}, rules: [{{name: a}}, {{name: a}}]}}"),
        &["f:4: spec.rules[1]: {\"name\":\"a\"} has the name of an earlier rule"],
    );
}

#[test]
fn rules_of_matches() {
    let at = "f:8: spec.rules[0].matches[0]";
    let one = |fields: &str| rule(&format!("matches: [{{{fields}}}]"));
    for fields in [
        "path: {value: /}",
        "path: {type: Exact}",
        "path: {type: RegularExpression, value: 'no slash'}",
        "method: PATCH",
        "headers: [{name: a, value: 中}]",
        "queryParams: [{name: a, value: b}, {name: A, value: b}]",
    ] {
        good(&one(fields));
    }
    for (path, problem) in [
        ("''", "does not begin"),
        ("a", "does not begin"),
        ("//", "holds '//'"),
        ("/a/../b", "holds a segment"),
        ("/a/.", "holds a segment"),
        ("/a%2fb", "holds an escaped slash"),
        ("'/a#b'", "holds '#'"),
        ("/a?b", "holds '?'"),
        ("/中", "holds characters that stand in no path"),
    ] {
        let held = serde_json::Value::from(path.trim_matches('\'')).to_string();
        bad(
            &one(&format!("path: {{value: {path}}}")),
            &[&format!("{at}.path.value: {held} {problem}")],
        );
    }
    bad(
        &one("path: {type: Prefix, value: /}"),
        &[&format!("{at}.path.type: \"Prefix\" is not supported; \"Exact\" or ")],
    );
    bad(&one("path: /a"), &[&format!("{at}.path: \"/a\" is not an object")]);
    bad(
        &one("path: {type: RegularExpression, value: ''}"),
        &[&format!("{at}.path.value: \"\" can't be compared")],
    );
    let long = "a".repeat(1025);
    bad(
        &one(&format!("path: {{type: RegularExpression, value: {long}}}")),
        &[&format!("{at}.path.value: ")],
    );
    bad(
        &one("method: get"),
        &[&format!("{at}.method: \"get\" is not supported; \"GET\" or ")],
    );
    bad(
        &one("headers: [{name: 'a b', value: x}]"),
        &[&format!("{at}.headers[0].name: \"a b\" is no name")],
    );
    bad(
        &one("headers: [{name: ':path', value: x}]"),
        &[&format!("{at}.headers[0].name: ")],
    );
    bad(
        &one("headers: [{name: a}]"),
        &[&format!("{at}.headers[0].value: is missing")],
    );
    bad(
        &one("headers: [{name: a, value: x}, {name: A, value: y}]"),
        &[&format!("{at}.headers[1]: ")],
    );
    bad(
        &one("queryParams: [{name: a, value: x}, {name: a, value: y}]"),
        &[&format!("{at}.queryParams[1]: ")],
    );
    bad(
        &one("queryParams: [{name: a, value: 1}]"),
        &[&format!("{at}.queryParams[0].value: 1 is not text")],
    );
    bad(
        &one("headers: [{name: a, value: \"x\\n\"}]"),
        &[&format!("{at}.headers[0].value: ")],
    );
    let many = vec!["{}"; 65].join(",");
    bad(
        &rule(&format!("matches: [{many}]")),
        &["f:8: spec.rules[0].matches: a list of 65 is too long"],
    );
}

#[test]
fn rules_of_filters() {
    let at = "f:8: spec.rules[0].filters[0]";
    let one = |fields: &str| rule(&format!("filters: [{{{fields}}}]"));
    for unsupported in ["ExternalAuth", "ExtensionRef"] {
        bad(
            &one(&format!("type: {unsupported}, requestMirror: {{}}")),
            &[&format!(
                "{at}.type: \"{unsupported}\" is not supported yet; supported are RequestHeaderModifier, "
            )],
        );
    }
    bad(
        &one("type: Rewrite"),
        &[&format!("{at}.type: \"Rewrite\" is no type of filter")],
    );
    bad(&one("urlRewrite: {hostname: a}"), &[&format!("{at}.type: is missing")]);
    bad(
        &one("type: URLRewrite, requestRedirect: {port: 1}"),
        &[
            &format!("{at}.urlRewrite: is missing"),
            &format!("{at}.requestRedirect: {{\"port\":1}} stands in an unknown field"),
        ],
    );
    let modifier = |fields: &str| {
        one(&format!(
            "type: RequestHeaderModifier, requestHeaderModifier: {{{fields}}}"
        ))
    };
    let at_modifier = format!("{at}.requestHeaderModifier");
    for (name, problem) in [
        ("Host", "can't be changed as a field; use a URLRewrite"),
        ("Transfer-Encoding", "can't be changed: how messages are framed"),
        ("content-length", "can't be changed: how messages are framed"),
        ("Weir-Context", "can't be changed: it is the mesh's own"),
        (":authority", "is no name of a field"),
    ] {
        let expect = format!("\"{name}\" {problem}");
        bad(
            &modifier(&format!("set: [{{name: '{name}', value: a}}]")),
            &[&format!("{at_modifier}.set[0].name: {expect}")],
        );
        bad(
            &modifier(&format!("remove: ['{name}']")),
            &[&format!("{at_modifier}.remove[0]: {expect}")],
        );
    }
    bad(
        &modifier("set: [{name: a, value: \"b\\r\\nc: d\"}]"),
        &[&format!("{at_modifier}.set[0].value: \"b\\r\\nc: d\" is no value")],
    );
    bad(
        &modifier("add: [{name: a, value: b}, {name: A, value: c}]"),
        &[&format!("{at_modifier}.add[1]: ")],
    );
    bad(&modifier("remove: [a, A]"), &[&format!("{at_modifier}.remove[1]: ")]);
    let redirect = |fields: &str| one(&format!("type: RequestRedirect, requestRedirect: {{{fields}}}"));
    let at_redirect = format!("{at}.requestRedirect");
    bad(
        &redirect("statusCode: 301"),
        &[&format!(
            "{at_redirect}: {{\"statusCode\":301}} redirects to the request's own URL"
        )],
    );
    bad(
        &redirect("port: 1, statusCode: 300"),
        &[&format!("{at_redirect}.statusCode: 300 is no status")],
    );
    bad(
        &redirect("scheme: ftp"),
        &[&format!("{at_redirect}.scheme: \"ftp\" is not supported")],
    );
    bad(&redirect("hostname: '*.a'"), &[&format!("{at_redirect}.hostname: ")]);
    let rewrite = |fields: &str| format!("type: URLRewrite, urlRewrite: {{{fields}}}");
    bad(&one(&rewrite("")), &[&format!("{at}.urlRewrite: {{}} changes nothing")]);
    let prefix = rewrite("path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}");
    good(&one(&prefix));
    good(&rule(&format!(
        "matches: [{{path: {{value: /a}}}}]\nfilters: [{{{prefix}}}]"
    )));
    for matches in [
        "[{path: {type: Exact, value: /a}}]",
        "[{path: {value: /a}}, {path: {value: /b}}]",
    ] {
        let text = rule(&format!("matches: {matches}\nfilters: [{{{prefix}}}]"));
        bad(&text, &["f:9: spec.rules[0].filters[0]: {"]);
    }
    bad(
        &one(&rewrite("path: {type: ReplaceFullPath, replacePrefixMatch: /b}")),
        &[
            &format!("{at}.urlRewrite.path.replaceFullPath: is missing"),
            &format!("{at}.urlRewrite.path.replacePrefixMatch: "),
        ],
    );
    let both = format!(
        "filters: [{{type: RequestRedirect, requestRedirect: {{port: 1}}}}, {{{}}}]",
        rewrite("hostname: a")
    );
    bad(&rule(&both), &["f:8: spec.rules[0].filters[1]: "]);
    let twice = format!("filters: [{{{0}}}, {{{0}}}]", rewrite("hostname: a"));
    bad(&rule(&twice), &["f:8: spec.rules[0].filters[1]: "]);
    bad(
        &rule("filters: [{type: RequestRedirect, requestRedirect: {port: 1}}]\nbackendRefs: [{name: a, port: 1}]"),
        &["f:9: spec.rules[0].backendRefs: [{\"name\":\"a\",\"port\":1}] stands beside a RequestRedirect"],
    );
}

#[test]
fn an_item_that_can_not_be_read_moves_no_blame_to_another() {
    let prefix = "{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}";
    let exact = "matches: [{path: {type: Exact, value: /a}}]";
    let of_cors = "{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [Access-Control-Max-Age]}}";
    let cors = "{type: CORS, cors: {}}";
    let bogus = "{type: Bogus}";
    let redirect = "{type: RequestRedirect, requestRedirect: {port: 81}}";
    let rewrite = "{type: URLRewrite, urlRewrite: {hostname: a}}";
    for (fields, expect) in [
        (
            format!("{exact}\nfilters: [{bogus}, {prefix}]"),
            "9: spec.rules[0].filters[0].type: \"Bogus\"",
        ),
        (
            format!("{exact}\nbackendRefs: [{{port: 80}}, {{name: a, port: 80, filters: [{prefix}]}}]"),
            "9: spec.rules[0].backendRefs[0].name: is missing",
        ),
        (
            format!("filters: [{bogus}, {redirect}, {rewrite}]"),
            "8: spec.rules[0].filters[0].type: \"Bogus\"",
        ),
        (
            format!("filters: [{bogus}, {cors}, {of_cors}]"),
            "8: spec.rules[0].filters[0].type: \"Bogus\"",
        ),
        (
            format!("filters: [{cors}]\nbackendRefs: [{{port: 80}}, {{name: a, port: 80, filters: [{of_cors}]}}]"),
            "9: spec.rules[0].backendRefs[0].name: is missing",
        ),
    ] {
        bad(&rule(&fields), &[&format!("f:{expect}")]);
    }
}

#[test]
fn rules_of_cors() {
    let at = "f:8: spec.rules[0].filters[0]";
    let one = |fields: &str| rule(&format!("filters: [{{type: CORS, cors: {{{fields}}}}}]"));
    let object = good(&one("allowOrigins: ['https://*.a.org']"));
    assert_eq!(
        object.to_value()["spec"]["rules"][0]["filters"][0]["cors"],
        serde_json::json!({"allowOrigins": ["https://*.a.org"], "allowCredentials": false, "maxAge": 5})
    );
    bad(&rule("filters: [{type: CORS}]"), &[&format!("{at}.cors: is missing")]);
    bad(
        &one("allowOrigin: [https://a]"),
        &[&format!(
            "{at}.cors.allowOrigin: [\"https://a\"] stands in an unknown field"
        )],
    );
    bad(
        &one("allowOrigins: [a.org, 'https://a:0', '*']"),
        &[
            &format!("{at}.cors.allowOrigins[0]: \"a.org\" is no origin; "),
            &format!("{at}.cors.allowOrigins[1]: \"https://a:0\" is no origin; "),
            &format!("{at}.cors.allowOrigins[2]: \"*\" stands beside others; "),
        ],
    );
    bad(
        &one("allowOrigins: ['https://*', '*', 'https://a', 'https://A:443']"),
        &[
            &format!("{at}.cors.allowOrigins[3]: \"https://A:443\" is there already; "),
            &format!("{at}.cors.allowOrigins[1]: \"*\" stands beside others; "),
        ],
    );
    bad(
        &one(
            "allowMethods: [get], allowHeaders: [X-A, x-a], exposeHeaders: ['a b'], maxAge: 0, allowCredentials: 'true'",
        ),
        &[
            &format!("{at}.cors.allowCredentials: \"true\" is not true or false; "),
            &format!("{at}.cors.allowMethods[0]: \"get\" is "),
            &format!("{at}.cors.allowHeaders[1]: \"x-a\" is there already; "),
            &format!("{at}.cors.exposeHeaders[0]: \"a b\" is no name of a field; "),
            &format!("{at}.cors.maxAge: 0 is out of range; "),
        ],
    );
    bad(
        &one("allowMethods: [PUT, '*'], allowHeaders: ['*', x-a]"),
        &[
            &format!("{at}.cors.allowMethods[1]: \"*\" stands beside others; "),
            &format!("{at}.cors.allowHeaders[0]: \"*\" stands beside others; "),
        ],
    );
    let changes = "{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [Access-Control-Max-Age]}}";
    good(&rule(&format!("filters: [{changes}]")));
    bad(
        &rule(&format!("filters: [{{type: CORS, cors: {{}}}}, {changes}]")),
        &["f:8: spec.rules[0].filters[1]: "],
    );
    bad(
        &rule(&format!(
            "filters: [{changes}]
backendRefs:
- {{name: a, port: 80, filters: [{{type: CORS, cors: {{}}}}]}}
- {{name: b, port: 80, filters: [{changes}]}}"
        )),
        &[
            "f:8: spec.rules[0].filters[0]: ",
            "f:11: spec.rules[0].backendRefs[1]: ",
        ],
    );
}

#[test]
fn rules_of_backends_timeouts_and_retries() {
    let at = "f:8: spec.rules[0]";
    let backend = |fields: &str| rule(&format!("backendRefs: [{{name: a, {fields}}}]"));
    good(&backend("port: 65535, weight: 1000000"));
    good(&backend("port: 1, weight: 0, group: '', kind: Service"));
    bad(
        &backend("weight: 1"),
        &[&format!("{at}.backendRefs[0].port: is missing")],
    );
    bad(
        &backend("port: 65536"),
        &[&format!("{at}.backendRefs[0].port: 65536 is out of range")],
    );
    bad(
        &backend("port: '80'"),
        &[&format!("{at}.backendRefs[0].port: \"80\" is not a number")],
    );
    bad(
        &backend("port: 1, weight: 1000001"),
        &[&format!("{at}.backendRefs[0].weight: 1000001 is out of range")],
    );
    bad(
        &backend("port: 1, weight: 0.5"),
        &[&format!("{at}.backendRefs[0].weight: 0.5 is not a whole number")],
    );
    // The Gateway API takes any kind; the route's status says that it can't be used.
    good(&backend("port: 1, kind: ServiceImport"));
    good(&backend("group: unknown.example, kind: Other"));
    good(&rule("backendRefs: [{name: a.b, kind: Secret}]"));
    bad(
        &rule("backendRefs: [{name: a.b, port: 1}]"),
        &[&format!("{at}.backendRefs[0].name: \"a.b\" is no name")],
    );
    bad(
        &backend("port: 1, kind: A/B"),
        &[&format!(
            "{at}.backendRefs[0].kind: \"A/B\" is no kind; Service is right"
        )],
    );
    bad(
        &backend("port: 1, group: a_b"),
        &[&format!(
            "{at}.backendRefs[0].group: \"a_b\" is no group; \"\" is right"
        )],
    );
    bad(
        &backend("port: 1, filters: [{type: ExtensionRef}]"),
        &[&format!("{at}.backendRefs[0].filters[0].type: ")],
    );
    good(&backend("port: 1, filters: []"));
    let timeouts = |fields: &str| rule(&format!("timeouts: {{{fields}}}"));
    good(&timeouts("request: 1s, backendRequest: 1000ms"));
    good(&timeouts("request: 0s, backendRequest: 1h"));
    bad(
        &timeouts("request: 1s, backendRequest: 1001ms"),
        &[&format!("{at}.timeouts.backendRequest: \"1001ms\" is longer")],
    );
    bad(
        &timeouts("request: 10"),
        &[&format!("{at}.timeouts.request: 10 is not text")],
    );
    bad(
        &timeouts("request: 1.5s"),
        &[&format!("{at}.timeouts.request: \"1.5s\" is not a duration")],
    );
    let retry = |fields: &str| rule(&format!("retry: {{{fields}}}"));
    good(&retry(""));
    good(&retry("codes: [400, 599], attempts: 0"));
    bad(
        &retry("codes: [399, 600]"),
        &[
            &format!("{at}.retry.codes[0]: 399"),
            &format!("{at}.retry.codes[1]: 600"),
        ],
    );
    bad(
        &retry("codes: [503, 503]"),
        &[&format!("{at}.retry.codes[1]: 503 is there already")],
    );
    bad(
        &retry("attempts: 11"),
        &[&format!("{at}.retry.attempts: 11 is out of range")],
    );
    bad(
        &retry("backoff: 0s"),
        &[&format!(
            "{at}.retry.backoff: \"0s\" is out of range; a duration from 1ms to 1m is right"
        )],
    );
    bad(
        &rule("sessionPersistence: {type: Cookie}"),
        &[&format!("{at}.sessionPersistence: ")],
    );
}

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n";

#[test]
fn services() {
    let spec = |fields: &str| format!("{SERVICE}spec: {{{fields}}}");
    let object = good(&spec(
        "selector: {app: a}, type: ClusterIP, clusterIP: None, clusterIPs: [None], ipFamilies: [IPv4], \
         ipFamilyPolicy: SingleStack, sessionAffinity: None, internalTrafficPolicy: Cluster, \
         publishNotReadyAddresses: false, externalIPs: [], \
         ports: [{name: http, protocol: TCP, port: 80, targetPort: 8080, appProtocol: http}, \
         {name: grpc, port: 90, targetPort: rpc, appProtocol: grpc}, {name: h2, port: 91, appProtocol: kubernetes.io/h2c}]",
    ));
    assert_eq!(object.metadata.namespace, "default");
    let value = object.to_value();
    assert_eq!(value["spec"]["ports"][1]["targetPort"], "rpc");
    assert_eq!(value["spec"]["ports"][0]["targetPort"], 8080);
    assert_eq!(value["spec"]["clusterIP"], "None");
    good(&spec("ports: [{port: 80, name: ''}], clusterIP: ''"));
    bad(&spec("ports: []"), &["f:4: spec.ports: [] is empty"]);
    bad(&spec("selector: {a: b}"), &["f:4: spec.ports: is missing"]);
    bad(
        &spec("ports: [{port: 80, protocol: UDP}]"),
        &["f:4: spec.ports[0].protocol: \"UDP\" is not supported; \"TCP\" is right"],
    );
    bad(
        &spec("ports: [{port: 80, appProtocol: https}]"),
        &["f:4: spec.ports[0].appProtocol: \"https\" is not supported; \"http\" or "],
    );
    bad(
        &spec("ports: [{port: 80, nodePort: 30000}]"),
        &["f:4: spec.ports[0].nodePort: 30000 would be without effect"],
    );
    bad(
        &spec("ports: [{port: 80}, {port: 81, name: b}]"),
        &["f:4: spec.ports: "],
    );
    bad(
        &spec("ports: [{port: 80, name: a}, {port: 81, name: a}]"),
        &["f:4: spec.ports[1]: {\"name\":\"a\",\"port\":81} has the name"],
    );
    bad(
        &spec("ports: [{port: 80, name: a}, {port: 80, name: b}]"),
        &["f:4: spec.ports[1]: {\"name\":\"b\",\"port\":80} has the number"],
    );
    for (fields, held) in [
        (
            "type: LoadBalancer",
            "type: \"LoadBalancer\" is not supported; \"ClusterIP\" is right",
        ),
        ("type: ExternalName", "type: \"ExternalName\" is not supported"),
        ("clusterIP: 10.0.0.1", "clusterIP: \"10.0.0.1\" would be without effect"),
        (
            "externalIPs: [1.2.3.4]",
            "externalIPs: [\"1.2.3.4\"] would be without effect",
        ),
        (
            "sessionAffinity: ClientIP",
            "sessionAffinity: \"ClientIP\" is not supported",
        ),
        (
            "internalTrafficPolicy: Local",
            "internalTrafficPolicy: \"Local\" is not supported",
        ),
        (
            "publishNotReadyAddresses: true",
            "publishNotReadyAddresses: true would be without effect",
        ),
        ("selector: {a: '-'}", "selector.a: \"-\" is no value of a label"),
    ] {
        bad(
            &spec(&format!("ports: [{{port: 80}}], {fields}")),
            &[&format!("f:4: spec.{held}")],
        );
    }
}

#[test]
fn endpoint_slices() {
    let head = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                metadata: {name: a-1, namespace: n, labels: {kubernetes.io/service-name: a}}\n";
    let object = good(&format!(
        "{head}addressType: IPv4
endpoints:
- addresses: [127.0.0.1]
  conditions: {{ready: true, serving: null, terminating: false}}
  hostname: h
  nodeName: n1.example.org
  zone: cn-south_1
  targetRef: {{kind: Workload, namespace: n, name: a-1, uid: x}}
ports: [{{name: '', port: 8080}}, {{name: grpc, port: 1, protocol: TCP, appProtocol: grpc}}]"
    ));
    assert_eq!(object.to_value()["endpoints"][0]["targetRef"]["name"], "a-1");
    good(&format!("{head}addressType: IPv6\nendpoints: [{{addresses: ['::1']}}]"));
    bad(head, &["f:1: addressType: is missing"]);
    bad(
        &format!("{head}addressType: FQDN"),
        &["f:4: addressType: \"FQDN\" is not supported"],
    );
    let endpoint = |fields: &str| format!("{head}addressType: IPv4\nendpoints: [{{{fields}}}]");
    let at = "f:5: endpoints[0]";
    bad(&endpoint("addresses: []"), &[&format!("{at}.addresses: [] is empty")]);
    bad(
        &endpoint("addresses: ['::1']"),
        &[&format!("{at}.addresses[0]: \"::1\" is not of the slice's addressType")],
    );
    bad(
        &endpoint("addresses: [a.b]"),
        &[&format!("{at}.addresses[0]: \"a.b\" is not an IP address")],
    );
    bad(
        &endpoint("addresses: [0.0.0.0]"),
        &[&format!("{at}.addresses[0]: \"0.0.0.0\" is no address of an endpoint")],
    );
    bad(
        &endpoint("addresses: [127.0.0.1], conditions: {ready: 'yes'}"),
        &[&format!("{at}.conditions.ready: \"yes\" is not true or false")],
    );
    bad(
        &endpoint("addresses: [127.0.0.1], conditions: {ready: yes}"),
        &[&format!("{at}.conditions.ready: \"yes\" is not true or false")],
    );
    bad(
        &endpoint("addresses: [127.0.0.1], deprecatedTopology: {zone: a}"),
        &[&format!("{at}.deprecatedTopology: ")],
    );
    bad(
        &endpoint("addresses: [127.0.0.1], hints: {forZones: [{name: a}]}"),
        &[&format!("{at}.hints: ")],
    );
    bad(
        &format!("{head}addressType: IPv4\nports: [{{port: 1}}, {{port: 2}}]"),
        &["f:5: ports[1]: {\"port\":2} has the name"],
    );
    bad(
        &format!("{head}addressType: IPv4\nspec: {{}}"),
        &["f:5: spec: {} stands in an unknown field"],
    );
}

#[test]
fn backend_policies() {
    let head = "apiVersion: weir.dev/v1\nkind: BackendPolicy\nmetadata: {name: p, namespace: n}\n";
    let target = "targetRefs: [{group: '', kind: Service, name: a}]";
    let spec = |fields: &str| format!("{head}spec: {{{target}, {fields}}}");
    let object = good(&spec(
        "balancing: {type: PeakEwma}, circuitBreaker: {maxRequests: 5, failures: {percent: 30}}, \
         retryBudget: {percent: 0}, connectTimeout: 250ms",
    ));
    let Spec::BackendPolicy(policy) = &object.spec else {
        panic!("a policy")
    };
    let breaker = policy.circuit_breaker.expect("given");
    assert_eq!((breaker.max_requests, breaker.max_connections), (5, 1024));
    assert_eq!(breaker.failures.map(|f| (f.percent, f.min_requests)), Some((30, 20)));
    assert_eq!(object.to_value()["spec"]["balancing"]["decay"], "10s");
    assert_eq!(object.to_value()["spec"]["circuitBreaker"]["failures"]["openFor"], "5s");
    good(&spec("balancing: {type: RoundRobin}"));
    let object = good(&spec("healthCheck: {type: Http, http: {path: /healthz}}"));
    let expect = serde_json::json!({
        "type": "Http", "http": {"path": "/healthz", "expectedStatuses": [200]},
        "interval": "10s", "timeout": "1s", "unhealthyThreshold": 3, "healthyThreshold": 2,
    });
    assert_eq!(object.to_value()["spec"]["healthCheck"], expect);
    good(&spec("healthCheck: {type: Grpc}"));
    good(&spec("healthCheck: {type: Grpc, grpc: {service: pkg.Service}}"));
    good(&spec("healthCheck: {type: Tcp, interval: 500ms, timeout: 50ms}"));
    let object = good(&spec(
        "slowStart: {window: 30s, aggressionPercent: 150}, locality: {}, connectionPool: {}",
    ));
    let value = object.to_value();
    let expect = serde_json::json!({"window": "30s", "aggressionPercent": 150, "minWeightPercent": 10});
    assert_eq!(value["spec"]["slowStart"], expect);
    assert_eq!(value["spec"]["locality"]["overprovisioningPercent"], 140);
    assert_eq!(
        value["spec"]["connectionPool"],
        serde_json::json!({"idleTimeout": "55s"})
    );
    good(&format!(
        "{head}spec: {{targetRefs: [{{group: '', kind: Service, name: a, sectionName: http}}]}}"
    ));
    bad(
        &format!("{head}spec: {{targetRefs: []}}"),
        &["f:4: spec.targetRefs: [] is empty"],
    );
    let twice = "{group: '', kind: Service, name: a}";
    bad(
        &format!("{head}spec: {{targetRefs: [{twice}, {twice}]}}"),
        &["f:4: spec.targetRefs[1]: "],
    );
    bad(
        &format!("{head}spec: {{targetRefs: [{{group: '', kind: Service, name: a, namespace: b}}]}}"),
        &["f:4: spec.targetRefs[0].namespace: \"b\" is not supported"],
    );
    for (fields, held) in [
        (
            "balancing: {type: Random}",
            "balancing.type: \"Random\" is not supported; \"PeakEwma\" or \"RoundRobin\" is right",
        ),
        (
            "balancing: {type: RoundRobin, decay: 1s}",
            "balancing.decay: \"1s\" would be without effect",
        ),
        (
            "balancing: {type: PeakEwma, decay: 1ms}",
            "balancing.decay: \"1ms\" is out of range; a duration from 100ms to 10m",
        ),
        (
            "circuitBreaker: {maxRequests: 0}",
            "circuitBreaker.maxRequests: 0 is out of range",
        ),
        (
            "circuitBreaker: {maxConnections: 4294967296}",
            "circuitBreaker.maxConnections: 4294967296 is out of range",
        ),
        (
            "circuitBreaker: {failures: {percent: 101}}",
            "circuitBreaker.failures.percent: 101 is out of range",
        ),
        (
            "circuitBreaker: {failures: {window: 1}}",
            "circuitBreaker.failures.window: 1 is not text",
        ),
        (
            "circuitBreaker: {failures: {halfOpenRequests: 0}}",
            "circuitBreaker.failures.halfOpenRequests: 0 is out",
        ),
        (
            "retryBudget: {percent: 101}",
            "retryBudget.percent: 101 is out of range",
        ),
        (
            "retryBudget: {window: 1ms}",
            "retryBudget.window: \"1ms\" is out of range",
        ),
        ("connectTimeout: 0s", "connectTimeout: \"0s\" is out of range"),
        ("healthCheck: {}", "healthCheck.type: is missing"),
        (
            "healthCheck: {type: Ping}",
            "healthCheck.type: \"Ping\" is not supported; \"Http\" or \"Grpc\" or \"Tcp\" is right",
        ),
        (
            "healthCheck: {type: Http}",
            "healthCheck.http: is missing; a check of type Http needs a path to ask for",
        ),
        (
            "healthCheck: {type: Tcp, http: {path: /}}",
            "healthCheck.http: {\"path\":\"/\"} would be without effect; it belongs to type: Http",
        ),
        (
            "healthCheck: {type: Http, http: {path: /}, grpc: {}}",
            "healthCheck.grpc: {} would be without effect; it belongs to type: Grpc",
        ),
        (
            "healthCheck: {type: Http, http: {path: healthz}}",
            "healthCheck.http.path: \"healthz\" ",
        ),
        (
            "healthCheck: {type: Http, http: {path: /, host: A_B}}",
            "healthCheck.http.host: \"A_B\" ",
        ),
        (
            "healthCheck: {type: Http, http: {path: /, expectedStatuses: []}}",
            "healthCheck.http.expectedStatuses: [] is empty; at least one status is right",
        ),
        (
            "healthCheck: {type: Http, http: {path: /, expectedStatuses: [600]}}",
            "healthCheck.http.expectedStatuses[0]: 600 is out of range; a whole number from 100 to 599 is right",
        ),
        (
            "healthCheck: {type: Http, http: {path: /, expectedStatuses: [200, 200]}}",
            "healthCheck.http.expectedStatuses[1]: 200 is there already",
        ),
        (
            "healthCheck: {type: Http, http: {path: /, method: HEAD}}",
            "healthCheck.http.method: \"HEAD\" stands in an unknown field",
        ),
        (
            "healthCheck: {type: Grpc, grpc: {service: \"a\\tb\"}}",
            "healthCheck.grpc.service: \"a\\tb\" is no name of a service",
        ),
        (
            "healthCheck: {type: Tcp, interval: 10ms}",
            "healthCheck.interval: \"10ms\" is out of range; a duration from 100ms to 1h is right",
        ),
        (
            "healthCheck: {type: Tcp, timeout: 2m}",
            "healthCheck.timeout: \"2m\" is out of range; a duration from 10ms to 1m is right",
        ),
        (
            "healthCheck: {type: Tcp, unhealthyThreshold: 0}",
            "healthCheck.unhealthyThreshold: 0 is out of range",
        ),
        (
            "healthCheck: {type: Tcp, healthyThreshold: 1001}",
            "healthCheck.healthyThreshold: 1001 is out of range",
        ),
        ("slowStart: {}", "slowStart.window: is missing"),
        (
            "slowStart: {window: 500ms}",
            "slowStart.window: \"500ms\" is out of range; a duration from 1s to 1h is right",
        ),
        (
            "slowStart: {window: 30s, aggressionPercent: 0}",
            "slowStart.aggressionPercent: 0 is out of range; a whole number from 10 to 1000 is right",
        ),
        (
            "slowStart: {window: 30s, minWeightPercent: 0}",
            "slowStart.minWeightPercent: 0 is out of range",
        ),
        (
            "locality: {overprovisioningPercent: 99}",
            "locality.overprovisioningPercent: 99 is out of range; a whole number from 100 to 1000 is right",
        ),
        (
            "connectionPool: {idleTimeout: 10ms}",
            "connectionPool.idleTimeout: \"10ms\" is out of range",
        ),
        (
            "connectionPool: {maxRequestsPerConnection: 0}",
            "connectionPool.maxRequestsPerConnection: 0 is out of range",
        ),
        (
            "connectionPool: {maxConcurrentStreams: 0}",
            "connectionPool.maxConcurrentStreams: 0 is out of range; a whole number from 1 to 1000000 is right",
        ),
        (
            "connectionPool: {connectTimeout: 1s}",
            "connectionPool.connectTimeout: \"1s\" stands in an unknown field",
        ),
        (
            "outlierDetection: {consecutive5xxErrors: 0}",
            "outlierDetection.consecutive5xxErrors: 0 is out of range; a whole number from 1 to 1000 is right",
        ),
        (
            "outlierDetection: {consecutive5xx: 5}",
            "outlierDetection.consecutive5xx: 5 stands in an unknown field",
        ),
        (
            "outlierDetection: {failurePercentage: {threshold: 101}}",
            "outlierDetection.failurePercentage.threshold: 101 is out of range",
        ),
        (
            "outlierDetection: {failurePercentage: {minHosts: 0}}",
            "outlierDetection.failurePercentage.minHosts: 0 is out of range",
        ),
        (
            "outlierDetection: {maxEjectionPercent: 0}",
            "outlierDetection.maxEjectionPercent: 0 is out of range",
        ),
        (
            "outlierDetection: {baseEjectionTime: 1m, maxEjectionTime: 30s}",
            "outlierDetection.maxEjectionTime: \"30s\" is shorter than baseEjectionTime; at least 1m is right",
        ),
        (
            "outlierDetection: {interval: 1ms}",
            "outlierDetection.interval: \"1ms\" is out of range",
        ),
        (
            "panicPercent: 0",
            "panicPercent: 0 is out of range; a whole number from 1 to 100",
        ),
    ] {
        bad(&spec(fields), &[&format!("f:4: spec.{held}")]);
    }
}

#[test]
fn route_policies() {
    let head = "apiVersion: weir.dev/v1\nkind: RoutePolicy\nmetadata: {name: p, namespace: n}\n";
    let target = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: a.b, sectionName: c}";
    let spec = |fields: &str| format!("{head}spec: {{targetRefs: [{target}], {fields}}}");
    let object = good(&spec("retry: {on: [5xx, unavailable], backoff: {base: 10ms}}"));
    let Spec::RoutePolicy(policy) = &object.spec else {
        panic!("a policy")
    };
    assert_eq!(policy.target_refs[0].key("n").to_string(), "HTTPRoute/n/a.b");
    let retry = policy.retry.as_ref().expect("given");
    let words = [
        crate::route_policy::RetryOn::ServerError,
        crate::route_policy::RetryOn::Unavailable,
    ];
    assert_eq!(retry.on.as_deref(), Some(&words[..]));
    let value = object.to_value()["spec"]["retry"].clone();
    let expect = serde_json::json!({"on": ["5xx", "unavailable"], "backoff": {"base": "10ms"}});
    assert_eq!(value, expect, "what is left out is the rule's own");
    good(&spec("retry: {}"));
    let mirrors = good(&spec(
        "mirror: [{backendRef: {name: b, port: 80}, percent: 5}, {backendRef: {group: x.y, kind: Z, name: b}}]",
    ));
    let value = mirrors.to_value()["spec"]["mirror"].clone();
    let service = serde_json::json!({"group": "", "kind": "Service", "name": "b", "port": 80});
    let other = serde_json::json!({"group": "x.y", "kind": "Z", "name": "b"});
    let expect = serde_json::json!([{"backendRef": service, "percent": 5}, {"backendRef": other}]);
    assert_eq!(value, expect);
    let none = good(&spec("mirror: []")).to_value();
    assert_eq!(
        none["spec"]["mirror"],
        serde_json::json!([]),
        "it is not left out: no copies are asked for"
    );
    bad(
        &spec(
            "mirror: [{backendRef: {name: b}, percent: 101}, {percent: 1, fraction: {numerator: 2, denominator: 1}}]",
        ),
        &[
            "f:4: spec.mirror[0].backendRef.port: is missing",
            "f:4: spec.mirror[0].percent: 101 is out of range",
            "f:4: spec.mirror[1].backendRef: is missing",
            "f:4: spec.mirror[1].fraction: {\"denominator\":1,\"numerator\":2} is more than the whole",
            "f:4: spec.mirror[1].fraction: {\"denominator\":1,\"numerator\":2} stands beside percent",
        ],
    );
    let targets = |targets: &str| format!("{head}spec: {{targetRefs: [{targets}]}}");
    bad(&targets(""), &["f:4: spec.targetRefs: [] is empty"]);
    bad(
        &targets(&format!("{target}, {target}")),
        &["f:4: spec.targetRefs[1]: {"],
    );
    bad(
        &targets("{group: '', kind: HTTPRoute, name: a}"),
        &["f:4: spec.targetRefs[0].group: \"\" is not the group of HTTPRoute"],
    );
    bad(
        &targets("{group: '', kind: Service, name: a, sectionName: b}"),
        &["f:4: spec.targetRefs[0].sectionName: \"b\" would be without effect for a Service"],
    );
    bad(
        &targets("{group: '', kind: Service, name: a, namespace: b}"),
        &["f:4: spec.targetRefs[0].namespace: \"b\" is not supported"],
    );
    bad(
        &targets("{kind: Gateway, name: a}"),
        &[
            "f:4: spec.targetRefs[0].kind: \"Gateway\" is not supported",
            "f:4: spec.targetRefs[0].group: ",
        ],
    );
    for (retry, wrong) in [
        ("on: [4xx]", "on[0]: \"4xx\" is not supported"),
        ("on: [reset, reset]", "on[1]: \"reset\" is there already"),
        ("codes: [200]", "codes[0]: 200 is out of range"),
        ("codes: [503, 503]", "codes[1]: 503 is there already"),
        ("attempts: 11", "attempts: 11 is out of range"),
        ("perTryTimeout: 0s", "perTryTimeout: \"0s\" is out of range"),
        ("backoff: {max: 1s}", "backoff.base: "),
        (
            "backoff: {base: 2s, max: 1s}",
            "backoff.max: \"1s\" is shorter than base",
        ),
        ("methods: All", "methods: \"All\" is not supported"),
        ("budget: 1", "budget: 1 stands in an unknown field"),
    ] {
        let expect = format!("f:4: spec.retry.{wrong}");
        bad(&spec(&format!("retry: {{{retry}}}")), &[&expect]);
    }
    let object = good(&spec("rateLimit: {requests: 5}"));
    assert_eq!(
        object.to_value()["spec"]["rateLimit"],
        serde_json::json!({"requests": 5, "per": "1s"})
    );
    for (limit, wrong) in [
        ("requests: 0", "requests: 0 is out of range"),
        ("requests: 1, per: 500ms", "per: \"500ms\" is out of range"),
        ("requests: 1, burst: 0", "burst: 0 is out of range"),
        ("per: 1s", "requests: "),
    ] {
        let expect = format!("f:4: spec.rateLimit.{wrong}");
        bad(&spec(&format!("rateLimit: {{{limit}}}")), &[&expect]);
    }
    good(&spec(
        "fault: {delay: {percent: 0, duration: 1ms}, abort: {percent: 100, status: 500}}",
    ));
    good(&spec("fault: {abort: {percent: 50, grpcStatus: 16}}"));
    for (fault, wrong) in [
        ("", ": {} holds no fault"),
        ("delay: {percent: 1}", ".delay.duration: "),
        (
            "delay: {percent: 101, duration: 1s}",
            ".delay.percent: 101 is out of range",
        ),
        (
            "delay: {percent: 1, duration: 11m}",
            ".delay.duration: \"11m\" is out of range",
        ),
        ("abort: {percent: 1}", ".abort: {\"percent\":1} answers with nothing"),
        (
            "abort: {percent: 1, status: 503, grpcStatus: 14}",
            ".abort.grpcStatus: 14 stands beside status",
        ),
        ("abort: {percent: 1, status: 200}", ".abort.status: 200 is out of range"),
        (
            "abort: {percent: 1, grpcStatus: 0}",
            ".abort.grpcStatus: 0 is out of range",
        ),
        ("abort: {status: 500}", ".abort.percent: "),
    ] {
        let expect = format!("f:4: spec.fault{wrong}");
        bad(&spec(&format!("fault: {{{fault}}}")), &[&expect]);
    }
    for later in ["mirror: {}", "timeout: 1s"] {
        bad(&spec(later), &["f:4: spec."]);
    }
}

#[test]
fn outlier_rules_are_those_given_or_two_by_default() {
    let head = "apiVersion: weir.dev/v1\nkind: BackendPolicy\nmetadata: {name: p, namespace: n}\n";
    let target = "targetRefs: [{group: '', kind: Service, name: a}]";
    let read = |fields: &str| {
        let object = good(&format!("{head}spec: {{{target}, outlierDetection: {{{fields}}}}}"));
        let value = object.to_value()["spec"]["outlierDetection"].clone();
        match object.spec {
            Spec::BackendPolicy(policy) => (policy.outlier_detection.expect("given"), value),
            other => panic!("{other:?}"),
        }
    };
    let (detection, value) = read("");
    assert_eq!(detection, crate::backend_policy::OutlierDetection::default());
    let written = serde_json::json!({"interval": "10s", "baseEjectionTime": "30s", "maxEjectionPercent": 50});
    assert_eq!(value, written);
    let filled = detection.filled();
    assert_eq!(filled.consecutive_5xx_errors, Some(5));
    assert_eq!(filled.consecutive_gateway_errors, None);
    assert_eq!(filled.consecutive_local_origin_failures, Some(5));
    assert_eq!(filled.max_ejection_time, Some(std::time::Duration::from_secs(300)));
    assert_eq!(filled.filled(), filled);
    let filled = read("consecutiveGatewayErrors: 3, baseEjectionTime: 10m").0.filled();
    assert_eq!(filled.consecutive_5xx_errors, None);
    assert_eq!(filled.consecutive_local_origin_failures, None);
    assert_eq!(filled.consecutive_gateway_errors, Some(3));
    assert_eq!(filled.max_ejection_time, Some(std::time::Duration::from_secs(600)));
    let filled = read("failurePercentage: {}").0.filled();
    let rule = filled.failure_percentage.expect("given");
    assert_eq!((rule.threshold, rule.min_requests, rule.min_hosts), (85, 50, 5));
    assert_eq!(filled.consecutive_5xx_errors, None);
}

#[test]
fn defaults_are_the_models() {
    let limits = weir_policy::model::Limits::default();
    let breaker = crate::backend_policy::CircuitBreaker::default();
    assert_eq!(breaker.max_connections, limits.max_connections);
    assert_eq!(breaker.max_pending_requests, limits.max_pending);
    assert_eq!(breaker.max_requests, limits.max_requests);
    let pool = weir_policy::model::ConnectionPool::default();
    assert_eq!(
        crate::backend_policy::ConnectionPool::default().idle_timeout,
        pool.idle_timeout
    );
    let budget = weir_policy::model::RetryBudget::default();
    let ours = crate::backend_policy::RetryBudget::default();
    assert_eq!(
        (ours.percent, ours.min_per_second, ours.window),
        (budget.percent, budget.min_per_second, budget.window)
    );
}

#[test]
fn namespaces_the_mesh_and_workloads() {
    good("{apiVersion: v1, kind: Namespace, metadata: {name: citizen}}");
    good("{apiVersion: v1, kind: Namespace, metadata: {name: citizen}, spec: {finalizers: [kubernetes]}}");
    bad(
        "{apiVersion: v1, kind: Namespace, metadata: {name: a.b}}",
        &["f:1: metadata.name: \"a.b\" is no name"],
    );
    bad(
        "{apiVersion: v1, kind: Namespace, metadata: {name: a, namespace: b}}",
        &["f:1: metadata.namespace: \"b\" is given, but"],
    );
    let mesh = |name: &str, spec: &str| {
        format!("{{apiVersion: weir.dev/v1, kind: MeshConfig, metadata: {{name: {name}}}, spec: {spec}}}")
    };
    good(&mesh("mesh", "{egress: Refuse}"));
    good(&mesh("mesh", "{egress: Passthrough}"));
    good(&mesh("mesh", "{}"));
    bad(
        &mesh("other", "{egress: Allow}"),
        &[
            "f:1: metadata.name: \"other\" is not the mesh's",
            "f:1: spec.egress: \"Allow\" is not supported",
        ],
    );
    let workload = |spec: &str| {
        format!(
            "{{apiVersion: weir.dev/v1, kind: Workload, metadata: {{name: a-1, namespace: n}}, spec: {{{spec}}}, status: {{phase: Ready}}}}"
        )
    };
    let object = good(&workload(
        "address: 127.0.0.1, ports: [{appPort: 8080, inboundPort: 15006, protocol: grpc, edge: true}], \
         locality: {region: cn}, instance: 1700000000000000, version: 0.1.0",
    ));
    assert_eq!(object.status, Some(serde_json::json!({"phase": "Ready"})));
    bad(
        &workload("address: x, ports: [{appPort: 1, inboundPort: 2, protocol: udp}]"),
        &[
            "f:1: spec.address: \"x\" is not",
            "f:1: spec.ports[0].protocol: \"udp\" is not supported",
            "f:1: spec.instance: is missing",
        ],
    );
}

#[test]
fn what_every_resource_has() {
    bad("[]", &["f:1: [] is not an object"]);
    bad("x", &["f:1: \"x\" is not an object"]);
    bad("{}", &["f:1: apiVersion: is missing", "f:1: kind: is missing"]);
    bad(
        "{apiVersion: v1, kind: Pod}",
        &["f:1: kind: \"Pod\" is not a kind that Weir knows; known are Namespace, MeshConfig, "],
    );
    bad(
        "{apiVersion: v1beta1, kind: Service}",
        &["f:1: apiVersion: \"v1beta1\" is not supported; v1 is right for Service"],
    );
    let with = |metadata: &str| format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: a, {metadata}}}");
    for (metadata, held) in [
        ("finalizers: [x]", "finalizers: [\"x\"] would be without effect"),
        ("ownerReferences: [{}]", "ownerReferences: [{}] would be without effect"),
        (
            "generateName: x",
            "generateName: \"x\" is not a name; give one in metadata.name",
        ),
        (
            "labels: {'a b': c}",
            "labels[\"a b\"]: \"c\" stands under a key that is no label's",
        ),
        ("labels: {a: 1}", "labels.a: 1 is not text"),
        (
            "labels: {app.kubernetes.io/name: '-'}",
            "labels[\"app.kubernetes.io/name\"]: \"-\" is no value of a label",
        ),
        ("annotations: [a]", "annotations: [\"a\"] is not an object"),
        ("generation: -1", "generation: -1 is out of range"),
        ("clusterName: x", "clusterName: \"x\" stands in an unknown field"),
    ] {
        bad(&with(metadata), &[&format!("f:3: metadata.{held}")]);
    }
    good(&with(
        "finalizers: [], ownerReferences: null, selfLink: '', annotations: {note: 中文}",
    ));
    let big = format!("annotations: {{a: {}}}", "x".repeat(256 << 10));
    bad(&with(&big), &["f:3: metadata.annotations: "]);
}

#[test]
fn a_resource_is_where_it_was_sent() {
    let value = |namespace: Value| {
        let metadata = serde_json::json!({"name": "a", "namespace": namespace});
        serde_json::json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [{"port": 1}]}})
    };
    let sent = |namespace: Value| Object::parse_in(value(namespace), Some("citizen")).map(|object| object.key());
    let expect = Key {
        kind: Kind::Service,
        namespace: "citizen".to_owned(),
        name: "a".to_owned(),
    };
    assert_eq!(sent(Value::Null), Ok(expect.clone()));
    assert_eq!(sent("citizen".into()), Ok(expect));
    let errors = sent("other".into()).expect_err("another namespace");
    assert_eq!(errors[0].path, "metadata.namespace");
}

#[test]
fn lists_and_duplicates() {
    let service = |name: &str| {
        format!("{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{ports: [{{port: 1}}]}}}}")
    };
    let text = format!(
        "apiVersion: v1\nkind: List\nitems:\n- {}\n- {}\n---\n{}",
        service("a"),
        service("b"),
        service("c")
    );
    let objects = yaml::read_objects(&text, "f", None).expect("right");
    let lines: Vec<(String, u32)> = objects
        .iter()
        .map(|o| (o.object.metadata.name.clone(), o.line))
        .collect();
    assert_eq!(lines, [("a".to_owned(), 4), ("b".to_owned(), 5), ("c".to_owned(), 7)]);
    let text = format!("{}\n---\n{}", service("a"), service("a"));
    bad(
        &text,
        &["f:3: metadata.name: \"a\" names Service/default/a a second time; it stands at line 1 already"],
    );
    bad(
        "apiVersion: v1\nkind: List\nitems:\n- {}\n- {apiVersion: v1, kind: Pod}",
        &[
            "f:4: items[0].apiVersion: is missing",
            "f:4: items[0].kind: is missing",
            "f:5: items[1].kind: \"Pod\" is not a kind",
        ],
    );
    bad(
        "apiVersion: v2\nkind: List\nitems: []\nspec: 1",
        &[
            "f:1: apiVersion: \"v2\" is not supported",
            "f:4: spec: 1 stands in an unknown field",
        ],
    );
}

/// A route with a bit of everything, as JSON.
fn route() -> Value {
    let text = rule(
        "matches: [{path: {value: /a}, method: GET, headers: [{name: a, value: b}], queryParams: [{name: q, value: v}]}]\n\
         filters: [{type: URLRewrite, urlRewrite: {hostname: b, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]\n\
         backendRefs: [{name: a, port: 1, weight: 2}]\ntimeouts: {request: 2s}\nretry: {codes: [503], backoff: 1s}",
    );
    good(&text).to_value()
}

/// How many values are in a value, itself included.
fn size(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(size).sum::<usize>(),
        Value::Object(fields) => 1 + fields.values().map(size).sum::<usize>(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 1,
    }
}

/// Puts something in the place of the value at a position.
fn replace(value: &mut Value, position: &mut usize, with: &Value) {
    if *position == 0 {
        *value = with.clone();
    }
    *position = position.wrapping_sub(1);
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| replace(item, position, with)),
        Value::Object(fields) => fields.values_mut().for_each(|field| replace(field, position, with)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

proptest::proptest! {
    /// Whatever stands in a place of a route: it is refused with a path, or reads back the same.
    #[test]
    fn anything_anywhere_is_refused_or_reads_back(position in 0..1000usize, which in 0..12usize) {
        let odd = [
            Value::Null, Value::Bool(true), 0.into(), (-1).into(), u64::MAX.into(), 0.5.into(), "".into(), "/".into(), "0s".into(),
            serde_json::json!([]), serde_json::json!({}), serde_json::json!([{"name": "a", "x": [{}]}, null]),
        ];
        let mut value = route();
        let mut position = position % size(&value);
        replace(&mut value, &mut position, &odd[which]);
        match Object::parse(value) {
            Ok(object) => proptest::prop_assert_eq!(Object::parse(object.to_value()), Ok(object)),
            Err(errors) => proptest::prop_assert!(!errors.is_empty()),
        }
    }
}

#[test]
fn grants_are_read_in_both_versions_and_written_in_one() {
    let grant = |version: &str, spec: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/{version}\nkind: ReferenceGrant\n\
             metadata: {{name: g, namespace: citizen}}\nspec: {spec}\n"
        )
    };
    let from = "from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: police}]";
    for version in ["v1", "v1beta1"] {
        let spec = format!("{{{from}, to: [{{group: '', kind: Service, name: a}}, {{group: '', kind: Service}}]}}");
        let value = good(&grant(version, &spec)).to_value();
        assert_eq!(value["apiVersion"], "gateway.networking.k8s.io/v1");
        assert_eq!(value["spec"]["from"][0]["group"], "gateway.networking.k8s.io");
        assert_eq!(value["spec"]["to"][1].as_object().map(serde_json::Map::len), Some(2));
    }
    bad(
        &grant("v1", &format!("{{{from}}}")),
        &["f:4: spec.to: is missing; it has to be given"],
    );
    bad(
        &grant("v1", "{from: [], to: [{kind: Service}]}"),
        &[
            "f:4: spec.from: [] is empty; a grant is for at least one kind in one namespace",
            "f:4: spec.to[0].group: is missing; ",
        ],
    );
    let others = "{from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: a}], \
                  to: [{group: '', kind: Secret, nam: b}]}";
    bad(
        &grant("v1beta1", others),
        &[
            "f:4: spec.from[0].kind: \"Gateway\" is not supported; \"HTTPRoute\" or \"GRPCRoute\" or \"RoutePolicy\" is \
             right",
            "f:4: spec.to[0].kind: \"Secret\" is not supported; \"Service\" is right",
            "f:4: spec.to[0].nam: \"b\" stands in an unknown field; ",
        ],
    );
    let of_policies = |group: &str| {
        format!(
            "{{from: [{{group: {group}, kind: RoutePolicy, namespace: police}}], to: [{{group: '', kind: Service}}]}}"
        )
    };
    let value = good(&grant("v1", &of_policies("weir.dev"))).to_value();
    assert_eq!(value["spec"]["from"][0]["group"], "weir.dev");
    bad(
        &grant("v1", &of_policies("gateway.networking.k8s.io")),
        &[
            "f:4: spec.from[0].group: \"gateway.networking.k8s.io\" is not the group of RoutePolicy; \"weir.dev\" is right \
             for RoutePolicy",
        ],
    );
    bad(
        &grant("v1alpha2", "{}"),
        &[
            "f:1: apiVersion: \"gateway.networking.k8s.io/v1alpha2\" is not supported; gateway.networking.k8s.io/v1 is right",
        ],
    );
}

#[test]
fn backends_have_filters_of_their_own() {
    let text = rule(
        "matches: [{path: {value: /a}}]
filters:
- {type: RequestMirror, requestMirror: {backendRef: {name: m, namespace: labs, port: 80}, percent: 5}}
- {type: RequestMirror, requestMirror: {backendRef: {name: m, port: 81}, fraction: {numerator: 1}}}
backendRefs:
- name: a
  port: 80
  filters:
  - {type: RequestHeaderModifier, requestHeaderModifier: {remove: [x]}}
  - {type: ResponseHeaderModifier, responseHeaderModifier: {remove: [x]}}
  - {type: RequestMirror, requestMirror: {backendRef: {name: n, port: 80}}}
  - {type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}
- {name: b, port: 80, filters: [{type: RequestRedirect, requestRedirect: {port: 81}}]}",
    );
    let object = good(&text);
    let places = crate::RouteSpec::of(&object)
        .into_iter()
        .flat_map(crate::RouteSpec::references)
        .map(|(at, to)| {
            let port = to.port.map(|port| port.to_string()).unwrap_or_default();
            format!("{at}: {}.{}:{port}", to.name, to.namespace.unwrap_or("-"))
        });
    let places: Vec<String> = places.collect();
    assert_eq!(
        places,
        [
            "rules[0].backendRefs[0]: a.-:80",
            "rules[0].backendRefs[0].filters[2]: n.-:80",
            "rules[0].backendRefs[1]: b.-:80",
            "rules[0].filters[0]: m.labs:80",
            "rules[0].filters[1]: m.-:81",
        ]
    );
    bad(
        &rule(
            "matches: [{path: {type: Exact, value: /a}}]
backendRefs:
- name: a
  port: 80
  filters:
  - {type: RequestHeaderModifier, requestHeaderModifier: {remove: [x]}}
  - {type: RequestHeaderModifier, requestHeaderModifier: {remove: [y]}}
- {name: b, port: 80, filters: [{type: ExternalAuth}]}
- name: c
  port: 80
  filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}]",
        ),
        &[
            "f:14: spec.rules[0].backendRefs[0].filters[1]: ",
            "f:15: spec.rules[0].backendRefs[1].filters[0].type: \"ExternalAuth\" is not supported yet; supported are ",
            "f:16: spec.rules[0].backendRefs[2]: ",
        ],
    );
    let mirror = |fields: &str| {
        rule(&format!(
            "filters: [{{type: RequestMirror, requestMirror: {{{fields}}}}}]"
        ))
    };
    bad(
        &mirror("percent: 101"),
        &[
            "f:8: spec.rules[0].filters[0].requestMirror.backendRef: is missing; ",
            "f:8: spec.rules[0].filters[0].requestMirror.percent: 101 is out of range; ",
        ],
    );
    bad(
        &mirror("backendRef: {name: a}, percent: 1, fraction: {numerator: 3, denominator: 2}"),
        &[
            "f:8: spec.rules[0].filters[0].requestMirror.backendRef.port: is missing; ",
            "f:8: spec.rules[0].filters[0].requestMirror.fraction: ",
            "f:8: spec.rules[0].filters[0].requestMirror.fraction: ",
        ],
    );
}
