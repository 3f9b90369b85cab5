//! The Gateway API's routes for Services, across real sidecars. Each case has the name of the project's own conformance
//! test (`conformance/tests` of kubernetes-sigs/gateway-api); resources and expectations are ours.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use weir_api::{Key, Kind};
use weir_policy::model::AppProtocol;
use weir_test_mesh::{Answer, Member, MemberSettings, Protocol, Script, Seen, TestMesh, until};

/// Answers with what reached it, in the field `x-saw`.
fn tells(name: &'static str) -> Script {
    Script::http(move |seen| async move {
        let names = seen.head.headers.keys().map(|name| name.as_str());
        let headers: BTreeMap<&str, String> = names
            .map(|name| {
                let values = seen.head.headers.get_all(name).iter();
                let values = values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
                (name, values.collect::<Vec<_>>().join(","))
            })
            .collect();
        let saw = json!({
            "backend": name, "method": seen.head.method.as_str(), "target": seen.head.uri.to_string(),
            "headers": headers,
        });
        let mut response = Response::new(Full::default());
        let saw = saw.to_string().parse().expect("a header's value");
        response.headers_mut().insert("x-saw", saw);
        if seen.header("content-type") == Some("application/grpc") {
            // An answer of trailers alone, which are its header (gRPC, PROTOCOL-HTTP2.md, "Trailers-Only").
            let headers = response.headers_mut();
            headers.insert("content-type", HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", HeaderValue::from_static("0"));
        }
        response
    })
}

/// A mesh with a caller and the backends `v1` and `v2`, for any number of cases: each has a Service of its own.
struct World {
    mesh: TestMesh,
    caller: Member,
    backends: [Member; 2],
    protocol: AppProtocol,
    cases: AtomicU32,
}

impl World {
    async fn start() -> World {
        World::of(AppProtocol::Http1).await
    }

    /// A world whose backends speak this.
    async fn of(protocol: AppProtocol) -> World {
        let mesh = TestMesh::start().await;
        let settings = || MemberSettings {
            protocol,
            ..MemberSettings::default()
        };
        let v1 = mesh.service_with("v1", tells("v1"), settings()).await;
        let v2 = mesh.service_with("v2", tells("v2"), settings()).await;
        let caller = mesh.service("caller", Script::answer(200, "")).await;
        World {
            mesh,
            caller,
            backends: [v1, v2],
            protocol,
            cases: AtomicU32::new(0),
        }
    }

    /// Applies the resources of a case and checks its calls. Where a text says `ECHO`, the case's own Service is
    /// meant, whose endpoints are those of v1.
    async fn case(&self, name: &str, resources: &str, calls: Vec<Call>) {
        let echo = self.prepare(resources).await;
        for call in calls {
            call.check(name, &self.caller, &echo).await;
        }
    }

    /// Applies the resources of a case, and returns the name of its Service.
    async fn prepare(&self, resources: &str) -> String {
        let number = self.cases.fetch_add(1, Ordering::Relaxed);
        let echo = format!("echo-{number}");
        self.mesh.apply_service(&echo, "v1", self.protocol).await;
        self.mesh.apply_in_force(&resources.replace("ECHO", &echo)).await;
        echo
    }

    /// The share of requests that v1 gets is this, and v2 gets the others. Of 500 draws the share is within a tenth but
    /// once in a million times.
    async fn shares(&self, name: &str, echo: &str, call: Call, expect: f64) {
        let mut of_v1 = 0.0;
        for _ in 0..500 {
            let answer = call.send(&self.caller, echo).await;
            assert_eq!(answer.status, StatusCode::OK, "{name}: {}", answer.text());
            match saw(&answer)["backend"].as_str() {
                Some("v1") => of_v1 += 1.0 / 500.0,
                other => assert_eq!(other, Some("v2"), "{name}"),
            }
        }
        assert!((of_v1 - expect).abs() < 0.1, "{name}: {of_v1}");
    }
}

/// What the backend saw; `null`: none answered.
fn saw(answer: &Answer) -> Value {
    match answer.header("x-saw") {
        Some(saw) => serde_json::from_str(saw).expect("JSON"),
        None => Value::Null,
    }
}

/// A call and what must come of it.
struct Call {
    spoken: Protocol,
    method: Method,
    url: &'static str,
    headers: &'static [(&'static str, &'static str)],
    status: u16,
    backend: Option<&'static str>,
    /// Pointers into what the backend saw.
    saw: Vec<(&'static str, Value)>,
    /// Fields of the answer; `None`: must not be there.
    answer: Vec<(&'static str, Option<&'static str>)>,
}

fn get(url: &'static str) -> Call {
    call(Method::GET, url, &[])
}

/// A gRPC call, as gRPC's clients make it.
fn grpc(url: &'static str) -> Call {
    const GRPC: &[(&str, &str)] = &[("content-type", "application/grpc"), ("te", "trailers")];
    Call {
        spoken: Protocol::Http2,
        ..call(Method::POST, url, GRPC)
    }
}

fn call(method: Method, url: &'static str, headers: &'static [(&'static str, &'static str)]) -> Call {
    Call {
        spoken: Protocol::Http1,
        method,
        url,
        headers,
        status: 200,
        backend: None,
        saw: Vec::new(),
        answer: Vec::new(),
    }
}

impl Call {
    fn reaches(mut self, backend: &'static str) -> Call {
        self.backend = Some(backend);
        self
    }

    fn status(mut self, status: u16) -> Call {
        self.status = status;
        self
    }

    /// The backend sees this target.
    fn target(mut self, target: &'static str) -> Call {
        self.saw.push(("/target", json!(target)));
        self
    }

    /// The backend sees this field; several of one name are joined.
    fn sees(mut self, field: &'static str, value: &'static str) -> Call {
        self.saw.push((field, json!(value)));
        self
    }

    /// The backend does not see this field.
    fn misses(mut self, field: &'static str) -> Call {
        self.saw.push((field, Value::Null));
        self
    }

    fn answers(mut self, field: &'static str, value: &'static str) -> Call {
        self.answer.push((field, Some(value)));
        self
    }

    fn answers_without(mut self, field: &'static str) -> Call {
        self.answer.push((field, None));
        self
    }

    async fn send(&self, from: &Member, echo: &str) -> Answer {
        let url = self.url.replace("ECHO", echo);
        let mut request = Request::builder().method(self.method.clone()).uri(url);
        for (name, value) in self.headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::default()).expect("a request");
        match self.spoken {
            Protocol::Http1 => from.call(request).await,
            Protocol::Http2 => weir_test_mesh::call(from.outbound(), Protocol::Http2, request)
                .await
                .expect("an answer of the sidecar"),
        }
    }

    async fn check(&self, name: &str, from: &Member, echo: &str) {
        let what = format!("{name}: {} {} {:?}", self.method, self.url, self.headers);
        let answer = self.send(from, echo).await;
        assert_eq!(answer.status.as_u16(), self.status, "{what}: {}", answer.text());
        let saw = saw(&answer);
        if let Some(backend) = self.backend {
            assert_eq!(saw["backend"], backend, "{what}");
        }
        for (place, expect) in &self.saw {
            let held = match place.strip_prefix('/') {
                Some(place) => &saw[place],
                None => &saw["headers"][*place],
            };
            assert_eq!(held, expect, "{what}: {place} of {saw}");
        }
        for (field, expect) in &self.answer {
            let held = answer.header(field).map(|value| value.replace("ECHO", echo));
            let expect = expect.map(|expect| expect.replace("ECHO", echo));
            assert_eq!(held, expect, "{what}: {field}");
        }
    }
}

/// A route of the case's Service with these rules, as a YAML list in flow style.
fn route(rules: &str) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: ECHO, namespace: default}}
spec:
  parentRefs: [{{group: '', kind: Service, name: ECHO}}]
  rules:
{rules}
"
    )
}

/// The same of kind GRPCRoute.
fn grpc_route(rules: &str) -> String {
    route(rules).replace("kind: HTTPRoute", "kind: GRPCRoute")
}

#[tokio::test]
async fn a_grant_opens_a_door_and_its_end_closes_it() {
    let mesh = TestMesh::start().await;
    let labs = MemberSettings {
        namespace: "labs",
        ..MemberSettings::default()
    };
    let _backend = mesh.service_with("results", tells("results"), labs).await;
    let a = mesh.service("a", Script::answer(200, "")).await;
    mesh.apply_service("b", "a", AppProtocol::Http1).await;
    let to_labs = route("  - backendRefs: [{name: results, namespace: labs, port: 80}]").replace("ECHO", "b");
    mesh.apply_in_force(&to_labs).await;
    let answer = a.get("http://b/").await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR, "{}", answer.text());

    let grant = "
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: from-default, namespace: labs}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}]
  to: [{group: '', kind: Service, name: results}]
";
    mesh.apply_in_force(grant).await;
    let answer = a.get("http://b/").await;
    assert_eq!(answer.status, StatusCode::OK, "in force: {}", answer.text());

    let key = Key {
        kind: Kind::ReferenceGrant,
        namespace: "labs".to_owned(),
        name: "from-default".to_owned(),
    };
    mesh.delete(&key).await;
    until("the door to be closed", || async {
        let answer = a.get("http://b/").await;
        match answer.status {
            // Made before broken: one or the other, nothing between.
            StatusCode::OK => None,
            StatusCode::INTERNAL_SERVER_ERROR => Some(()),
            other => panic!("{other}: {}", answer.text()),
        }
    })
    .await;
}

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
    world.case("MeshGRPCRouteRequestMirror", &named, calls).await;
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

    let two_ports = "
apiVersion: v1
kind: Service
metadata: {name: ECHO, namespace: default}
spec:
  selector: {app: v1}
  ports:
  - {name: web, port: 80, targetPort: http, appProtocol: http}
  - {name: alt, port: 8080, targetPort: http, appProtocol: http}
---";
    let one_port = route(ANSWER_SET).replace("kind: Service, name: ECHO", "kind: Service, name: ECHO, port: 80");
    let calls = vec![
        get("http://ECHO/").answers("x-set", "set"),
        get("http://ECHO:8080/").answers_without("x-set"),
    ];
    world.case("MeshPorts", &format!("{two_ports}{one_port}"), calls).await;
    let by_name = one_port.replace("name: ECHO, port: 80", "name: ECHO, sectionName: alt");
    let calls = vec![
        get("http://ECHO/").answers_without("x-set"),
        get("http://ECHO:8080/").answers("x-set", "set"),
    ];
    world
        .case("MeshPorts, by name", &format!("{two_ports}{by_name}"), calls)
        .await;
    let calls = vec![
        get("http://ECHO/").answers("x-set", "set"),
        get("http://ECHO:8080/").answers("x-set", "set"),
    ];
    world
        .case(
            "MeshPorts, none given",
            &format!("{two_ports}{}", route(ANSWER_SET)),
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

/// `conformance/tests`: what is done for one backend of a rule.
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

/// How many requests for this target reached a backend.
fn reached(backend: &Member, target: &str) -> usize {
    let seen = backend.seen();
    let is_it = |seen: &&Seen| seen.head.uri.path_and_query().is_some_and(|held| held == target);
    seen.iter().filter(is_it).count()
}

/// `conformance/tests`: copies, and what they must not do to the request.
#[tokio::test]
async fn mirrors() {
    let world = World::start().await;
    let [v1, v2] = &world.backends;
    let v3 = world.mesh.service("v3", tells("v3")).await;
    let caller = &world.caller;
    let mirror = |to: &str, share: &str| {
        format!("{{type: RequestMirror, requestMirror: {{backendRef: {{name: {to}, port: 80}}{share}}}}}")
    };
    let rules = format!(
        "
  - matches: [{{path: {{value: /one}}}}]
    filters:
    - {{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: x-a, value: rule}}]}}}}
    - {}
    backendRefs: [{{name: v1, port: 80}}]
  - matches: [{{path: {{value: /two}}}}]
    filters: [{}, {}]
    backendRefs: [{{name: v1, port: 80, filters: [{}]}}]
  - matches: [{{path: {{value: /half}}}}]
    filters: [{}, {}]
    backendRefs: [{{name: v1, port: 80}}]",
        mirror("v2", ""),
        mirror("v2", ""),
        mirror("gone", ""),
        mirror("v3", ""),
        mirror("v2", ", fraction: {numerator: 1, denominator: 2}"),
        mirror("v3", ", percent: 0"),
    );
    let echo = world.prepare(&route(&rules)).await;
    let url = |path: &str| format!("http://{echo}{path}");
    let post = Request::post(url("/one?q=1"))
        .body(Full::from("a body that both get"))
        .expect("a request");
    assert_eq!(saw(&caller.call(post).await)["backend"], "v1", "HTTPRouteRequestMirror");
    until("the copy", || async { (reached(v2, "/one?q=1") == 1).then_some(()) }).await;
    let seen = v2.seen();
    let copy = seen.last().expect("it came");
    assert_eq!(copy.body, "a body that both get");
    assert_eq!(
        (copy.header("x-a"), copy.header("host")),
        (Some("rule"), Some(echo.as_str()))
    );

    caller.get(&url("/two")).await;
    until("HTTPRouteRequestMultipleMirrors", || async {
        let copies = (reached(v1, "/two"), reached(v2, "/two"), reached(&v3, "/two"));
        (copies == (1, 1, 1)).then_some(())
    })
    .await;
    let refused = caller.metric("weir_mirrored_total", &["outcome=\"refused\""]).await;
    assert_eq!(refused, 1.0, "a mirror that does not exist");

    for _ in 0..500 {
        caller.get(&url("/half")).await;
    }
    until("HTTPRouteRequestPercentageMirror", || async {
        (reached(v2, "/half") > 200).then_some(())
    })
    .await;
    until("every copy to have ended", || async {
        let answered = caller.metric("weir_mirrored_total", &["outcome=\"answered\""]).await;
        (answered == 3.0 + reached(v2, "/half") as f64).then_some(())
    })
    .await;
    assert!(reached(v2, "/half") < 300, "{}", reached(v2, "/half"));
    assert_eq!(reached(&v3, "/half"), 0);
}

#[tokio::test]
async fn a_mirror_neither_holds_up_nor_is_tried_again() {
    let world = World::start().await;
    let caller = &world.caller;
    let stuck = weir_test_mesh::ScriptedApp::start(Script::raw(|stream| async move {
        let _open = stream;
        std::future::pending::<()>().await;
    }))
    .await;
    let failing = weir_test_mesh::ScriptedApp::start(Script::answer(503, "")).await;
    for (name, app) in [("stuck", &stuck), ("failing", &failing)] {
        let endpoint = [app.address()];
        world.mesh.plain_service(name, AppProtocol::Http1, &endpoint).await;
    }
    let mirror = |path: &str, to: &str| {
        format!(
            "  - matches: [{{path: {{value: {path}}}}}]
    filters: [{{type: RequestMirror, requestMirror: {{backendRef: {{name: {to}, port: 80}}}}}}]
    backendRefs: [{{name: v1, port: 80}}]
    retry: {{codes: [503], attempts: 3}}"
        )
    };
    let rules = format!("{}\n{}", mirror("/stuck", "stuck"), mirror("/failing", "failing"));
    let echo = world.prepare(&route(&rules)).await;
    let mirrored = |outcome: &'static str| async move {
        let label = format!("outcome=\"{outcome}\"");
        caller.metric("weir_mirrored_total", &[label.as_str()]).await
    };

    caller.get(&format!("http://{echo}/failing")).await;
    until("the copy to have ended", || async {
        (mirrored("answered").await == 1.0).then_some(())
    })
    .await;
    assert_eq!(failing.seen().len(), 1);

    // More than what the system holds for a peer that does not read.
    let large = vec![0_u8; 32 << 20];
    let post = Request::post(format!("http://{echo}/stuck"))
        .body(Full::from(large.clone()))
        .expect("a request");
    assert_eq!(caller.call(post).await.status, StatusCode::OK);
    let arrived = world.backends[0].seen().last().map(|seen| seen.body.len());
    assert_eq!(arrived, Some(large.len()));
    until("the copy to be given up", || async {
        (mirrored("behind").await == 1.0).then_some(())
    })
    .await;
}
