//! What is said of routes and policies, as tables; and that saying it once is enough.

mod task;

use std::num::NonZeroU16;
use std::sync::Arc;

use proptest::prelude::*;
use weir_api::backend_policy::{
    BackendPolicySpec, CHECK_INTERVAL, CHECK_TIMEOUT, HealthCheck, HealthCheckType, TargetRef,
};
use weir_api::http_route::{
    BackendRef, HeaderModifier, HttpMethod, HttpRouteFilter, HttpRouteRule, ObjectRef, RequestMirror, RequestRedirect,
    Retry, RouteTimeouts,
};
use weir_api::route_policy::RouteRetry;
use weir_api::telemetry_policy::{AccessLog, TelemetryPolicySpec, WorkloadSelector};
use weir_api::views::Rejection;
use weir_api::{BackendKind, Object, RefKind};

use super::*;
use crate::compile::fixture::{self, spec_of};

const T1: &str = "2026-01-01T00:00:01Z";
const T2: &str = "2026-01-01T00:00:02Z";

/// An index, and the standings of all in it where every extent stands like this.
fn standings(index: &Index, summary: &Summary) -> BTreeMap<Key, Standings> {
    let of = |object: &Object| {
        let extents = extents(object, index).into_iter();
        Standings(extents.map(|extent| (extent, summary.clone())).collect())
    };
    let objects = index.objects().iter();
    objects.map(|(key, object)| (key.clone(), of(object))).collect()
}

fn in_force_on(proxies: usize) -> Summary {
    Summary {
        in_force: proxies,
        ..Summary::default()
    }
}

/// The status of an object where all is in force on one proxy.
#[track_caller]
fn status_of(index: &Index, key: &Key) -> Value {
    let solved = solve(index, &standings(index, &in_force_on(1)), T1);
    let found = solved.into_iter().find(|(of, _)| of == key);
    found.unwrap_or_else(|| panic!("nothing is said of {key}")).1
}

/// `type=status/reason: message` for each condition of the entry at `path`.
fn shown(status: &Value, path: &str) -> Vec<String> {
    let conditions = status.pointer(path).and_then(|entry| entry["conditions"].as_array());
    let conditions = conditions.unwrap_or_else(|| panic!("no {path} in {status:#}"));
    let text = |condition: &Value, field: &str| condition[field].as_str().expect("a text").to_owned();
    let line = |condition: &Value| {
        let [kind, status, reason, message] =
            ["type", "status", "reason", "message"].map(|field| text(condition, field));
        format!("{kind}={status}/{reason}: {message}")
    };
    conditions.iter().map(line).collect()
}

/// The condition of this type of a route's first parent, or a policy's first target, without the type.
#[track_caller]
fn says(objects: &[Object], of: &Object, condition: &str, expect: &str) {
    let status = status_of(&fixture::index(objects.to_vec()), &of.key());
    let path = match of.kind() {
        Kind::HttpRoute | Kind::GrpcRoute => "/parents/0",
        _ => "/ancestors/0",
    };
    let all = shown(&status, path);
    let found = all.iter().find_map(|line| line.strip_prefix(&format!("{condition}=")));
    assert_eq!(found.unwrap_or("-"), expect, "{all:#?}");
}

fn portal() -> Object {
    fixture::service("citizen", "portal", &[("http", 80), ("grpc", 90)])
}

fn route(name: &str) -> Object {
    fixture::route("citizen", name, "citizen", "portal")
}

fn with(mut route: Object, change: impl FnOnce(&mut weir_api::http_route::HttpRouteSpec)) -> Object {
    change(spec_of(&mut route));
    route
}

fn created(mut object: Object, second: u32) -> Object {
    object.metadata.creation_timestamp = Some(format!("2026-01-01T00:00:{second:02}Z"));
    object
}

fn policy(name: &str, targets: &[(&str, Option<&str>)]) -> Object {
    let targets = targets.iter().map(|(service, section)| TargetRef {
        kind: RefKind::Service,
        name: (*service).to_owned(),
        section_name: section.map(str::to_owned),
    });
    let spec = BackendPolicySpec {
        target_refs: targets.collect(),
        ..BackendPolicySpec::default()
    };
    Object::new("citizen", name, Spec::BackendPolicy(spec))
}

#[test]
fn a_route_has_an_entry_for_each_parent_as_the_spec_names_it() {
    let both = with(route("r"), |spec| {
        let mut other = spec.parent_refs[0].clone();
        other.namespace = None;
        other.name = "identity".to_owned();
        other.port = NonZeroU16::new(80);
        spec.parent_refs.push(other);
    });
    let mut both = both;
    both.metadata.generation = 7;
    let index = fixture::index([portal(), both.clone()]);
    let status = status_of(&index, &both.key());
    let portal = serde_json::json!({"group": "", "kind": "Service", "namespace": "citizen", "name": "portal"});
    let identity = serde_json::json!({"group": "", "kind": "Service", "name": "identity", "port": 80});
    assert_eq!(status.pointer("/parents/0/parentRef"), Some(&portal));
    assert_eq!(status.pointer("/parents/1/parentRef"), Some(&identity));
    assert_eq!(status["parents"].as_array().map(Vec::len), Some(2));
    let expect = [
        "Accepted=True/Accepted: callers of Service citizen/portal go by it, save those with routes in their own \
         namespace",
        "ResolvedRefs=True/ResolvedRefs: every backend is there",
        "weir.dev/InForce=True/InForce: in force on 1 of 1",
    ];
    assert_eq!(shown(&status, "/parents/0"), expect);
    let expect = [
        "Accepted=False/NoMatchingParent: there is no Service citizen/identity",
        "ResolvedRefs=True/ResolvedRefs: every backend is there",
        "weir.dev/InForce=False/NotAccepted: it is not accepted, so that no proxy is told of it",
    ];
    assert_eq!(shown(&status, "/parents/1"), expect);
    for path in ["/parents/0", "/parents/1"] {
        assert_eq!(status.pointer(path).expect("there")["controllerName"], CONTROLLER);
        let conditions = status.pointer(path).expect("there")["conditions"]
            .as_array()
            .expect("a list");
        for condition in conditions {
            assert_eq!(condition["observedGeneration"], 7);
            assert_eq!(condition["lastTransitionTime"], T1);
        }
    }
}

const CONTROLLER: &str = "weir.dev/weir-control";

#[test]
fn a_route_is_accepted_where_its_parent_has_what_it_names() {
    let accepted = |objects: &[Object], route: &Object, expect: &str| says(objects, route, "Accepted", expect);
    let consumer = fixture::route("police", "r", "citizen", "portal");
    let expect = "True/Accepted: callers of Service citizen/portal in namespace police go by it";
    accepted(&[portal(), consumer.clone()], &consumer, expect);
    let no_parent = "False/NoMatchingParent: there is no Service citizen/portal";
    accepted(&[route("r")], &route("r"), no_parent);
    let port = |number| with(route("r"), |spec| spec.parent_refs[0].port = NonZeroU16::new(number));
    let no_port = "False/NoMatchingParent: Service citizen/portal has no port 81, only 80 (http), 90 (grpc)";
    accepted(&[portal(), port(81)], &port(81), no_port);
    let section = |section: &str, number| {
        with(port(number), |spec| {
            spec.parent_refs[0].section_name = Some(section.to_owned())
        })
    };
    let not_so = |named: &str| {
        format!("False/NoMatchingParent: Service citizen/portal has no port{named}, only 80 (http), 90 (grpc)")
    };
    accepted(
        &[portal(), section("web", 0)],
        &section("web", 0),
        &not_so(" named \"web\""),
    );
    accepted(
        &[portal(), section("grpc", 80)],
        &section("grpc", 80),
        &not_so(" 80 named \"grpc\""),
    );
    let fine = "True/Accepted: callers of Service citizen/portal go by it, save those with routes in their own \
                namespace";
    accepted(&[portal(), port(90)], &port(90), fine);
    accepted(&[portal(), section("grpc", 0)], &section("grpc", 0), fine);
    // Admission refuses it; an older control plane may have taken it.
    let unusable = with(route("r"), |spec| {
        spec.rules[0].retry = Some(Retry {
            codes: vec![7],
            attempts: None,
            backoff: None,
        });
    });
    let expect = "False/UnsupportedValue: it can't be used and answers with 500: spec.rules[0].retry.codes[0]: 7 is no \
                  status";
    accepted(&[portal(), unusable.clone()], &unusable, expect);
}

#[test]
fn a_backend_resolves_where_it_is_there_and_permitted() {
    let to = |backends: &[(Option<&str>, &str, u16)]| {
        with(route("r"), |spec| {
            let refs = backends.iter().map(|(namespace, name, port)| BackendRef {
                kind: BackendKind::service(),
                namespace: namespace.map(str::to_owned),
                name: (*name).to_owned(),
                port: Some(fixture::port(*port)),
                weight: 1,
                filters: Vec::new(),
            });
            spec.rules[0].backend_refs = refs.collect();
        })
    };
    let resolved = |backends: &[(Option<&str>, &str, u16)], expect: &str| {
        let secret = fixture::service("police", "secret", &[("", 80)]);
        let route = to(backends);
        says(&[portal(), secret, route.clone()], &route, "ResolvedRefs", expect);
    };
    resolved(&[(None, "portal", 80)], "True/ResolvedRefs: every backend is there");
    resolved(
        &[(Some("citizen"), "portal", 90)],
        "True/ResolvedRefs: every backend is there",
    );
    let abroad = to(&[(Some("police"), "secret", 80)]);
    let secret = fixture::service("police", "secret", &[("", 80)]);
    let grant = fixture::grant("police", "g", "citizen", Some("secret"));
    let permitted = "True/ResolvedRefs: every backend is there";
    says(
        &[portal(), secret, grant, abroad.clone()],
        &abroad,
        "ResolvedRefs",
        permitted,
    );
    let missing = "False/BackendNotFound: its share is answered with 500: rules[0].backendRefs[1]: there is no Service \
                   citizen/gone";
    resolved(&[(None, "portal", 80), (None, "gone", 80)], missing);
    let port = "False/BackendNotFound: its share is answered with 500: rules[0].backendRefs[0]: Service citizen/portal \
                has no port 81, only 80 (http), 90 (grpc)";
    resolved(&[(None, "portal", 81)], port);
    let refused = "False/RefNotPermitted: its share is answered with 500: rules[0].backendRefs[0]: no ReferenceGrant in \
                   police permits Service police/secret; rules[0].backendRefs[1]: there is no Service citizen/a; \
                   rules[0].backendRefs[2]: there is no Service citizen/b and 1 more";
    resolved(
        &[
            (Some("police"), "secret", 80),
            (None, "a", 1),
            (None, "b", 1),
            (None, "c", 1),
        ],
        refused,
    );
}

#[test]
fn a_backend_of_another_kind_than_a_service_is_told() {
    let of = |group: &str, kind: &str| BackendKind {
        group: group.to_owned(),
        kind: kind.to_owned(),
    };
    let resolved = |backends: Vec<BackendRef>, filters: Vec<HttpRouteFilter>, expect: &str| {
        let route = with(route("r"), |spec| {
            spec.rules[0].backend_refs = backends;
            spec.rules[0].filters = filters;
        });
        says(&[portal(), route.clone()], &route, "ResolvedRefs", expect);
    };
    let to = |kind: BackendKind| BackendRef {
        kind,
        ..fixture::backend("portal")
    };
    let right = "to which nothing can be sent; a Service is right (group \"\", kind Service)";
    let expect = format!(
        "False/InvalidKind: its share is answered with 500: rules[0].backendRefs[0]: it is a \
         NonExistent.unknown.example named \"portal\", {right}"
    );
    let unknown = || vec![to(of("unknown.example", "NonExistent")), fixture::backend("portal")];
    resolved(unknown(), Vec::new(), &expect);
    // No grant opens anything for it: its kind is what is wrong.
    let mut abroad = unknown();
    abroad[0].namespace = Some("police".to_owned());
    resolved(abroad, Vec::new(), &expect);
    let mut portless = to(of("", "Secret"));
    portless.port = None;
    let secret = format!(
        "False/InvalidKind: its share is answered with 500: rules[0].backendRefs[0]: it is a Secret named \
         \"portal\", {right}"
    );
    resolved(vec![portless], Vec::new(), &secret);
    let mirror = HttpRouteFilter::RequestMirror(RequestMirror {
        backend_ref: ObjectRef {
            kind: of("unknown.example", "Service"),
            namespace: None,
            name: "portal".to_owned(),
            port: None,
        },
        percent: None,
        fraction: None,
    });
    let uncopied = format!(
        "False/InvalidKind: no copies are sent: rules[0].filters[0]: it is a Service.unknown.example named \
         \"portal\", {right}"
    );
    resolved(vec![fixture::backend("portal")], vec![mirror], &uncopied);
}

#[test]
fn rules_without_effect_are_named_with_what_takes_their_requests() {
    let rules = |name: &str, paths: &[&str]| {
        with(route(name), |spec| {
            spec.rules = paths.iter().map(|path| fixture::rule(path, &["portal"])).collect();
        })
    };
    let old = created(rules("old", &["/a", "/b"]), 1);
    let new = |paths: &[&str]| created(rules("new", paths), 2);
    let ineffective = |new: Object, expect: &str| {
        let objects = [portal(), old.clone(), new.clone()];
        says(&objects, &new, "weir.dev/Ineffective", expect);
        says(&objects, &old, "weir.dev/Ineffective", "-");
    };
    ineffective(new(&["/c", "/a/b"]), "-");
    let taken = "True/RulesUnreachable: rules[1] takes no request, since HTTPRoute/citizen/old rules[0] takes all of its \
                 requests";
    ineffective(new(&["/c", "/a"]), taken);
    let own = "True/RulesUnreachable: rules[1] takes no request, since rules[0] takes all of its requests";
    ineffective(new(&["/c", "/c/"]), own);
    // One match of a rule that takes requests is enough, and so is one port or one host.
    let two_matches = with(new(&["/a"]), |spec| {
        let more = fixture::rule("/d", &["portal"]).matches;
        spec.rules[0].matches.extend(more);
    });
    ineffective(two_matches, "-");
    ineffective(
        with(new(&["/a"]), |spec| spec.hostnames = vec!["a.example.org".to_owned()]),
        "-",
    );
    ineffective(
        with(new(&["/a"]), |spec| {
            spec.rules[0].matches[0].method = Some(HttpMethod::Get)
        }),
        "-",
    );
    let on_one_port = with(old.clone(), |spec| spec.parent_refs[0].port = NonZeroU16::new(80));
    let on_both = new(&["/a"]);
    says(
        &[portal(), on_one_port, on_both.clone()],
        &on_both,
        "weir.dev/Ineffective",
        "-",
    );
    // A consumer's routes are a world of their own.
    let consumer = with(fixture::route("police", "r", "citizen", "portal"), |spec| {
        spec.rules = vec![fixture::rule("/a", &["portal"])];
    });
    says(
        &[portal(), old.clone(), consumer.clone()],
        &consumer,
        "weir.dev/Ineffective",
        "-",
    );
    let bare = with(new(&["/c"]), |spec| spec.rules[0].backend_refs.clear());
    says(&[portal(), bare.clone()], &bare, "weir.dev/Ineffective", "-");
    let mut calls = fixture::grpc_route("citizen", "calls", "citizen", "portal");
    fixture::grpc_spec_of(&mut calls).rules[0].backend_refs[0].weight = 0;
    says(
        &[portal(), calls.clone()],
        &calls,
        "weir.dev/Ineffective",
        "True/WeightsZero: rules[0] answers with UNAVAILABLE, since all its weights are 0",
    );
    let weightless = with(new(&["/c"]), |spec| spec.rules[0].backend_refs[0].weight = 0);
    ineffective(
        weightless,
        "True/WeightsZero: rules[0] answers with 500, since all its weights are 0",
    );
}

#[test]
fn a_policy_for_routes_is_accepted_where_its_target_is() {
    let for_one = |name: &str, kind, target: &str, rule| fixture::route_policy(name, &[(kind, target, rule)]);
    let held = [portal(), named("r", &["a", ""])];
    let accepted = |kind, target: &str, rule, expect: &str| {
        let policy = for_one("p", kind, target, rule);
        let mut objects = held.to_vec();
        objects.push(policy.clone());
        says(&objects, &policy, "Accepted", expect);
    };
    use Kind::{GrpcRoute, HttpRoute, Service};
    accepted(
        Service,
        "portal",
        None,
        "True/Accepted: it holds for the routes of Service citizen/portal",
    );
    accepted(HttpRoute, "r", None, "True/Accepted: it holds for HTTPRoute citizen/r");
    accepted(
        HttpRoute,
        "r",
        Some("a"),
        "True/Accepted: it holds for rule \"a\" of HTTPRoute citizen/r",
    );
    accepted(
        GrpcRoute,
        "r",
        None,
        "False/TargetNotFound: there is no GRPCRoute citizen/r",
    );
    accepted(
        Service,
        "gone",
        None,
        "False/TargetNotFound: there is no Service citizen/gone",
    );
    let no_rule = "False/TargetNotFound: HTTPRoute citizen/r has no rule named \"b\"; it has \"a\"";
    accepted(HttpRoute, "r", Some("b"), no_rule);

    let older = created(for_one("z", HttpRoute, "r", Some("a")), 1);
    let newer = created(for_one("a", HttpRoute, "r", Some("a")), 2);
    let conflicted = "False/Conflicted: RoutePolicy/citizen/z and RoutePolicy/citizen/a both claim rule \"a\" of \
                      HTTPRoute citizen/r; RoutePolicy/citizen/z, the older, holds";
    let mut objects = held.to_vec();
    objects.extend([older.clone(), newer.clone()]);
    says(&objects, &newer, "Accepted", conflicted);
    says(&objects, &older, "weir.dev/InForce", "True/InForce: in force on 1 of 1");
    // What goes before it everywhere, and what does not.
    let whole = for_one("whole", HttpRoute, "r", None);
    let service = for_one("service", Service, "portal", None);
    objects.extend([whole.clone(), service.clone()]);
    says(&objects, &whole, "weir.dev/InForce", "True/InForce: in force on 1 of 1");
    let of_routes = "False/Overridden: each of its routes has a policy of its own, which goes before this one: \
                     RoutePolicy/citizen/z, RoutePolicy/citizen/whole";
    says(&objects, &service, "weir.dev/InForce", of_routes);
    let all_named = named("r", &["a"]);
    let objects = [portal(), all_named, older, whole.clone(), service.clone()];
    let of_rules =
        "False/Overridden: each rule has a policy of its own, which goes before this one: RoutePolicy/citizen/z";
    says(&objects, &whole, "weir.dev/InForce", of_rules);
    says(
        &[portal(), service.clone()],
        &service,
        "weir.dev/InForce",
        "True/InForce: in force on 1 of 1",
    );
}

/// A route whose rules have these names; empty: none.
fn named(name: &str, rules: &[&str]) -> Object {
    with(route(name), |spec| {
        spec.rules = rules.iter().map(|_| fixture::rule("/", &["portal"])).collect();
        for (rule, name) in spec.rules.iter_mut().zip(rules) {
            rule.name = (!name.is_empty()).then(|| (*name).to_owned());
        }
    })
}

#[test]
fn a_policy_says_which_of_its_fields_a_redirect_leaves_without_effect() {
    const INEFFECTIVE: &str = "weir.dev/Ineffective";
    let redirects = |rules: &[usize]| {
        with(named("r", &["a", "b"]), |spec| {
            for at in rules {
                spec.rules[*at].backend_refs.clear();
                spec.rules[*at].filters = vec![redirect()];
            }
        })
    };
    let policy = |name: &str, section: Option<&str>, retries: bool, priority: Option<u8>| {
        let mut policy = fixture::route_policy(name, &[(Kind::HttpRoute, "r", section)]);
        let spec = fixture::route_policy_spec_of(&mut policy);
        spec.retry = retries.then(RouteRetry::default);
        spec.priority = priority;
        policy
    };
    let check = |rules: &[usize], policy: &Object, expect: &str| {
        says(
            &[portal(), redirects(rules), policy.clone()],
            policy,
            INEFFECTIVE,
            expect,
        );
    };
    let mut all = policy("p", None, true, Some(1));
    fixture::route_policy_spec_of(&mut all).mirror = Some(vec![fixture::mirror(None, "portal")]);
    let none = "True/RulesRedirect: retry, priority and mirror have no effect there, since rules[1] of \
                HTTPRoute/citizen/r redirects";
    check(&[1], &all, none);
    fixture::route_policy_spec_of(&mut all).mirror = Some(Vec::new());
    let but_mirrors = "True/RulesRedirect: retry and priority have no effect there, since rules[1] of \
                       HTTPRoute/citizen/r redirects";
    check(&[1], &all, but_mirrors);
    let both = policy("p", None, true, Some(1));
    check(&[], &both, "-");
    let one =
        "True/RulesRedirect: retry and priority have no effect there, since rules[1] of HTTPRoute/citizen/r redirects";
    check(&[1], &both, one);
    let two = "True/RulesRedirect: retry has no effect there, since rules[0] of HTTPRoute/citizen/r, rules[1] of \
               HTTPRoute/citizen/r redirect";
    check(&[0, 1], &policy("p", None, true, None), two);
    check(&[0, 1], &policy("p", None, false, None), "-");
    check(&[1], &policy("p", Some("a"), true, None), "-");
    let own = "True/RulesRedirect: priority has no effect there, since rules[1] of HTTPRoute/citizen/r redirects";
    check(&[1], &policy("p", Some("b"), false, Some(0)), own);
    let service = {
        let mut policy = fixture::route_policy("s", &[(Kind::Service, "portal", None)]);
        fixture::route_policy_spec_of(&mut policy).priority = Some(3);
        policy
    };
    check(&[1], &service, own);
    // A rule for which another holds is that one's.
    let for_b = policy("p", Some("b"), false, Some(0));
    says(
        &[portal(), redirects(&[1]), for_b, service.clone()],
        &service,
        INEFFECTIVE,
        "-",
    );
}

/// A filter that answers with a redirect.
fn redirect() -> HttpRouteFilter {
    HttpRouteFilter::RequestRedirect(RequestRedirect {
        scheme: None,
        hostname: Some("www.example.org".to_owned()),
        path: None,
        port: None,
        status_code: 302,
    })
}

#[test]
fn a_route_says_what_it_asks_for_in_vain_where_no_request_is_sent() {
    let asks = |rule: &mut HttpRouteRule| {
        rule.retry = Some(Retry::default());
        rule.timeouts = Some(RouteTimeouts {
            request: Some(Duration::from_secs(1)),
            backend_request: None,
        });
    };
    let check = |change: &dyn Fn(&mut HttpRouteRule), expect: &str| {
        let route = with(named("r", &["a"]), |spec| change(&mut spec.rules[0]));
        says(&[portal(), route.clone()], &route, "weir.dev/Ineffective", expect);
    };
    let redirects = |rule: &mut HttpRouteRule| {
        rule.backend_refs.clear();
        rule.filters.push(redirect());
    };
    check(&redirects, "-");
    let in_vain = "True/RulesRedirect: rules[0] redirects: its timeouts and retry have no effect";
    check(
        &|rule| {
            redirects(rule);
            asks(rule);
        },
        in_vain,
    );
    // The same by each of its backends; of one by which requests are sent, it is for those.
    check(
        &|rule| {
            rule.backend_refs[0].filters = vec![redirect()];
            asks(rule);
        },
        in_vain,
    );
    check(
        &|rule| {
            rule.backend_refs.push(rule.backend_refs[0].clone());
            rule.backend_refs[0].filters = vec![redirect()];
            asks(rule);
        },
        "-",
    );
    check(
        &|rule| {
            redirects(rule);
            rule.timeouts = Some(RouteTimeouts::default());
            rule.filters
                .push(HttpRouteFilter::RequestMirror(fixture::mirror(None, "portal")));
        },
        "True/RulesRedirect: rules[0] redirects: its RequestMirror has no effect",
    );
    check(
        &|rule| {
            redirects(rule);
            rule.filters
                .push(HttpRouteFilter::ResponseHeaderModifier(HeaderModifier::default()));
            rule.filters
                .push(HttpRouteFilter::RequestHeaderModifier(HeaderModifier::default()));
        },
        "True/RulesRedirect: rules[0] redirects: its RequestHeaderModifier has no effect",
    );
    check(
        &|rule| {
            rule.backend_refs.clear();
            rule.retry = Some(Retry::default());
        },
        "True/NoBackends: rules[0] answers with 500, since it has no backendRefs: its retry has no effect",
    );
    check(
        &|rule| {
            rule.backend_refs[0].weight = 0;
            asks(rule);
        },
        "True/WeightsZero: rules[0] answers with 500, since all its weights are 0: its timeouts and retry have no effect",
    );
    // Of several the reason is that of the worst, and the message has all.
    let both = with(named("r", &["a", "b"]), |spec| {
        redirects(&mut spec.rules[0]);
        asks(&mut spec.rules[0]);
        spec.rules[1].matches = vec![fixture::rule("/b", &[]).matches[0].clone()];
        spec.rules[1].backend_refs[0].weight = 0;
    });
    let all = "True/WeightsZero: rules[0] redirects: its timeouts and retry have no effect; rules[1] answers with 500, \
               since all its weights are 0";
    says(&[portal(), both.clone()], &both, "weir.dev/Ineffective", all);
    let callers =
        "True/Accepted: callers of Service citizen/portal go by it, save those with routes in their own namespace";
    says(&[portal(), both.clone()], &both, "Accepted", callers);
}

#[test]
fn what_holds_for_the_mesh_says_where_it_is_in_force() {
    let mut config = fixture::mesh_config("{mode: Strict}");
    config.metadata.generation = 3;
    let index = fixture::index([config.clone()]);
    let status = status_of(&index, &config.key());
    let expect = [
        "Accepted=True/Accepted: it holds for the mesh",
        "weir.dev/InForce=True/InForce: in force on 1 of 1",
    ];
    assert_eq!(shown(&status, ""), expect);
    assert_eq!(status["conditions"][1]["observedGeneration"], 3);
    // Nothing more is to be said, until proxies come.
    config.status = Some(status);
    let index = fixture::index([config.clone()]);
    let solve = |summary: &Summary| solve(&index, &standings(&index, summary), T2);
    assert_eq!(solve(&in_force_on(1)), []);
    let [(_, told)] = solve(&in_force_on(2)).try_into().expect("one");
    assert_eq!(told["conditions"][1]["message"], "in force on 2 of 2");
    assert_eq!(told["conditions"][1]["lastTransitionTime"], T1);
    let [(_, told)] = solve(&Summary::default()).try_into().expect("one");
    assert_eq!(
        shown(&told, "")[1],
        "weir.dev/InForce=Unknown/NoSubscribers: no connected proxy uses it"
    );
}

#[test]
fn of_two_policies_that_claim_the_same_the_older_holds_and_both_are_named() {
    let older = created(policy("z", &[("portal", None)]), 1);
    let newer = created(policy("a", &[("portal", None)]), 2);
    let objects = [portal(), older.clone(), newer.clone()];
    says(
        &objects,
        &older,
        "Accepted",
        "True/Accepted: it holds for Service citizen/portal",
    );
    let conflicted = "False/Conflicted: BackendPolicy/citizen/z and BackendPolicy/citizen/a both claim Service \
                      citizen/portal; BackendPolicy/citizen/z, the older, holds";
    says(&objects, &newer, "Accepted", conflicted);
    let nowhere = "False/NotAccepted: it is not accepted, so that no proxy is told of it";
    says(&objects, &newer, "weir.dev/InForce", nowhere);
    says(
        &[portal(), newer.clone()],
        &newer,
        "Accepted",
        "True/Accepted: it holds for Service citizen/portal",
    );
    let of_one_age = "False/Conflicted: BackendPolicy/citizen/a and BackendPolicy/citizen/z both claim Service \
                      citizen/portal; BackendPolicy/citizen/a, of two of one age the first by name, holds";
    let (a, z) = (policy("a", &[("portal", None)]), policy("z", &[("portal", None)]));
    says(&[portal(), a, z.clone()], &z, "Accepted", of_one_age);
    // A port by name is another claim than the whole Service.
    let by_port = created(policy("port", &[("portal", Some("http"))]), 3);
    let objects = [portal(), older.clone(), by_port.clone()];
    let holds = "True/Accepted: it holds for port \"http\" of Service citizen/portal";
    says(&objects, &by_port, "Accepted", holds);
    says(&objects, &older, "weir.dev/InForce", "True/InForce: in force on 1 of 1");
    let other_port = created(policy("port-2", &[("portal", Some("grpc"))]), 4);
    let overridden = "False/Overridden: each port has a policy of its own, which goes before this one: \
                      BackendPolicy/citizen/port, BackendPolicy/citizen/port-2";
    says(
        &[portal(), older.clone(), by_port, other_port],
        &older,
        "weir.dev/InForce",
        overridden,
    );
}

#[test]
fn a_policy_that_can_not_hold_stands_in_nobodys_way() {
    let mut misfit = created(policy("misfit", &[("portal", Some("http"))]), 1);
    if let Spec::BackendPolicy(spec) = &mut misfit.spec {
        spec.health_check = Some(Box::new(grpc_check()));
    }
    let fits = created(policy("fits", &[("portal", Some("http"))]), 2);
    let wide = created(policy("wide", &[("portal", None)]), 3);
    let objects = [portal(), misfit.clone(), fits.clone(), wide.clone()];
    let invalid = "False/Invalid: healthCheck.type: Grpc can't be asked of port \"http\", which speaks HTTP/1.1: set its \
                   appProtocol, or name another port in sectionName (port \"http\" of Service citizen/portal)";
    says(&objects, &misfit, "Accepted", invalid);
    let holds = "True/Accepted: it holds for port \"http\" of Service citizen/portal";
    says(&objects, &fits, "Accepted", holds);
    says(&objects, &fits, "weir.dev/InForce", "True/InForce: in force on 1 of 1");
    let objects = [portal(), misfit, wide.clone()];
    says(&objects, &wide, "weir.dev/InForce", "True/InForce: in force on 1 of 1");
}

fn grpc_check() -> HealthCheck {
    HealthCheck {
        kind: HealthCheckType::Grpc,
        http: None,
        grpc: None,
        interval: CHECK_INTERVAL,
        timeout: CHECK_TIMEOUT,
        unhealthy_threshold: 1,
        healthy_threshold: 1,
    }
}

/// A policy for the workloads with these labels, or for all.
fn telemetry(name: &str, second: u32, labels: &[(&str, &str)]) -> Object {
    let match_labels = labels
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let spec = TelemetryPolicySpec {
        selector: (!labels.is_empty()).then(|| WorkloadSelector {
            match_labels: match_labels.collect(),
        }),
        access_log: Some(AccessLog::Errors),
        ..TelemetryPolicySpec::default()
    };
    created(Object::new("citizen", name, Spec::TelemetryPolicy(spec)), second)
}

fn workload(name: &str, labels: &[(&str, &str)]) -> Object {
    let mut workload = fixture::workload("citizen", name, "10.0.0.1", &[(8080, 15006)]);
    let labels = labels
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    workload.metadata.labels = labels.collect();
    workload
}

#[test]
fn a_policy_for_workloads_says_for_which_it_holds_and_who_holds_instead() {
    let (a, b) = (
        workload("a", &[("app", "a"), ("tier", "edge")]),
        workload("b", &[("app", "b")]),
    );
    let all = telemetry("all", 1, &[]);
    let status = status_of(&fixture::index([all.clone()]), &all.key());
    let namespace = serde_json::json!({"group": "", "kind": "Namespace", "name": "citizen"});
    assert_eq!(status.pointer("/ancestors/0/ancestorRef"), Some(&namespace));
    let holds = "True/Accepted: it holds for the workloads of Namespace citizen";
    says(std::slice::from_ref(&all), &all, "Accepted", holds);
    says(
        std::slice::from_ref(&all),
        &all,
        "weir.dev/InForce",
        "True/InForce: in force on 1 of 1",
    );
    // One that asks for all of them as well, though no workload is there yet.
    let later = telemetry("a-later", 2, &[]);
    let conflicted = "False/Conflicted: TelemetryPolicy/citizen/all and TelemetryPolicy/citizen/a-later both claim the \
                      workloads of Namespace citizen; TelemetryPolicy/citizen/all, the older, holds";
    says(&[all.clone(), later.clone()], &later, "Accepted", conflicted);
    let nowhere = "False/NotAccepted: it is not accepted, so that no proxy is told of it";
    says(&[all.clone(), later.clone()], &later, "weir.dev/InForce", nowhere);
    says(std::slice::from_ref(&later), &later, "Accepted", holds);
    // One with a selector goes before one without.
    let edge = telemetry("edge", 3, &[("tier", "edge")]);
    let objects = [a.clone(), b.clone(), all.clone(), edge.clone()];
    let holds_for_edge = "True/Accepted: it holds for the workloads of Namespace citizen with tier=edge";
    says(&objects, &edge, "Accepted", holds_for_edge);
    says(&objects, &all, "weir.dev/InForce", "True/InForce: in force on 1 of 1");
    let overridden = "False/Overridden: each workload has a policy with a selector, which goes before this one: \
                      TelemetryPolicy/citizen/edge";
    says(
        &[a.clone(), all.clone(), edge.clone()],
        &all,
        "weir.dev/InForce",
        overridden,
    );
    // Of two with a selector the older, workload by workload.
    let app = telemetry("app", 4, &[("app", "a")]);
    let lost = "False/Conflicted: TelemetryPolicy/citizen/edge and TelemetryPolicy/citizen/app both claim the workloads \
                of Namespace citizen with app=a; TelemetryPolicy/citizen/edge, the older, holds";
    says(&[a.clone(), edge.clone(), app.clone()], &app, "Accepted", lost);
    let core = workload("c", &[("app", "a")]);
    let partly = "True/PartlyConflicted: it holds for some of the workloads of Namespace citizen with app=a; for others \
                  TelemetryPolicy/citizen/edge, the older, holds";
    let objects = [a, core, edge, app.clone()];
    says(&objects, &app, "Accepted", partly);
    says(&objects, &app, "weir.dev/InForce", "True/InForce: in force on 1 of 1");
}

#[test]
fn a_policy_says_what_its_mirrors_lead_to_and_holds_all_the_same() {
    let mut policy = fixture::route_policy("p", &[(Kind::HttpRoute, "r", None), (Kind::Service, "gone", None)]);
    let mut mirrored = |mirrors: Vec<RequestMirror>| {
        fixture::route_policy_spec_of(&mut policy).mirror = Some(mirrors);
        policy.clone()
    };
    let shadow = fixture::service("citizen", "shadow", &[("", 80)]);
    let good = mirrored(vec![fixture::mirror(None, "shadow")]);
    let resolves = "True/ResolvedRefs: every mirror is there";
    says(
        &[portal(), route("r"), shadow.clone(), good.clone()],
        &good,
        "ResolvedRefs",
        resolves,
    );
    let missing = "False/BackendNotFound: no copies are sent: mirror[0]: there is no Service citizen/shadow";
    let objects = [portal(), route("r"), good.clone()];
    says(&objects, &good, "ResolvedRefs", missing);
    says(
        &objects,
        &good,
        "Accepted",
        "True/Accepted: it holds for HTTPRoute citizen/r",
    );
    says(&objects, &good, "weir.dev/InForce", "True/InForce: in force on 1 of 1");
    // Of each target, as the policy is the same everywhere.
    let status = status_of(&fixture::index(objects), &good.key());
    assert_eq!(shown(&status, "/ancestors/1")[1], format!("ResolvedRefs={missing}"));
    let mut bucket = fixture::mirror(None, "b");
    bucket.backend_ref.kind = BackendKind {
        group: "storage.example".to_owned(),
        kind: "Bucket".to_owned(),
    };
    bucket.backend_ref.port = None;
    let mut wrong_port = fixture::mirror(None, "shadow");
    wrong_port.backend_ref.port = NonZeroU16::new(81);
    let wrong = mirrored(vec![bucket, wrong_port, fixture::mirror(Some("labs"), "lab")]);
    let all = "False/InvalidKind: no copies are sent: mirror[0]: it is a Bucket.storage.example named \"b\", to which \
               nothing can be sent; a Service is right (group \"\", kind Service); mirror[1]: Service citizen/shadow has \
               no port 81, only 80; mirror[2]: no ReferenceGrant in labs permits Service labs/lab";
    let objects = [portal(), route("r"), shadow, wrong.clone()];
    says(&objects, &wrong, "ResolvedRefs", all);
    let abroad = mirrored(vec![fixture::mirror(Some("labs"), "lab")]);
    let lab = fixture::service("labs", "lab", &[("", 80)]);
    let of_routes = fixture::grant("labs", "routes", "citizen", None);
    let closed = "False/RefNotPermitted: no copies are sent: mirror[0]: no ReferenceGrant in labs permits Service \
                  labs/lab";
    let objects = [portal(), route("r"), lab.clone(), of_routes, abroad.clone()];
    says(&objects, &abroad, "ResolvedRefs", closed);
    let of_policies = fixture::grant_for(Kind::RoutePolicy, "labs", "policies", "citizen", None);
    let objects = [portal(), route("r"), lab, of_policies, abroad.clone()];
    says(&objects, &abroad, "ResolvedRefs", resolves);
    // One without any says nothing of them.
    for without in [None, Some(Vec::new())] {
        let mut policy = policy.clone();
        fixture::route_policy_spec_of(&mut policy).mirror = without;
        says(&[portal(), route("r"), policy.clone()], &policy, "ResolvedRefs", "-");
    }
}

#[test]
fn a_policy_has_an_entry_for_each_target_and_says_which_is_missing() {
    let own = policy(
        "p",
        &[("portal", Some("grpc")), ("gone", None), ("portal", Some("web"))],
    );
    let status = status_of(&fixture::index([portal(), own.clone()]), &own.key());
    let first = serde_json::json!({"group": "", "kind": "Service", "name": "portal", "sectionName": "grpc"});
    assert_eq!(status.pointer("/ancestors/0/ancestorRef"), Some(&first));
    let accepted = |number: usize| shown(&status, &format!("/ancestors/{number}"))[0].clone();
    assert_eq!(
        accepted(0),
        "Accepted=True/Accepted: it holds for port \"grpc\" of Service citizen/portal"
    );
    assert_eq!(
        accepted(1),
        "Accepted=False/TargetNotFound: there is no Service citizen/gone"
    );
    let no_port = "Accepted=False/TargetNotFound: Service citizen/portal has no port named \"web\"; it has \"http\", \
                   \"grpc\"";
    assert_eq!(accepted(2), no_port);
}

#[test]
fn what_an_earlier_run_or_somebody_else_wrote_is_put_right() {
    let right = status_of(&fixture::index([portal(), route("r")]), &route("r").key());
    for wrong in [
        serde_json::json!({}),
        serde_json::json!("in force everywhere"),
        serde_json::json!({"parents": "many"}),
        serde_json::json!({"parents": [{"parentRef": {"kind": "Gateway", "name": "g"}, "controllerName": "x"}]}),
        serde_json::json!({"parents": [], "more": 1}),
    ] {
        let mut held = route("r");
        held.status = Some(wrong);
        assert_eq!(status_of(&fixture::index([portal(), held]), &route("r").key()), right);
    }
}

#[test]
fn the_time_of_a_transition_outlives_another_number_of_proxies() {
    let mut held = route("r");
    held.status = Some(status_of(&fixture::index([portal(), held.clone()]), &held.key()));
    let index = fixture::index([portal(), held.clone()]);
    let solve = |summary: &Summary| solve(&index, &standings(&index, summary), T2);
    assert_eq!(solve(&in_force_on(1)), [], "nothing else is to be said");
    let times = |summary: &Summary| {
        let solved = solve(summary);
        let conditions = solved[0]
            .1
            .pointer("/parents/0/conditions")
            .expect("conditions")
            .clone();
        let times = conditions.as_array().expect("a list").iter();
        let times = times.map(|condition| condition["lastTransitionTime"].as_str().expect("a time").to_owned());
        times.collect::<Vec<_>>()
    };
    assert_eq!(times(&in_force_on(2)), [T1, T1, T1]);
    assert_eq!(times(&Summary::default()), [T1, T1, T2]);
}

fn some_objects() -> impl Strategy<Value = Vec<Object>> {
    let name = || prop::sample::select(vec!["a", "b", "c"]);
    let namespace = || prop::sample::select(vec!["citizen", "police"]);
    let service = (
        namespace(),
        name(),
        prop::sample::subsequence(vec![("http", 80), ("grpc", 81)], 1..=2),
    );
    let service = service.prop_map(|(namespace, name, ports)| fixture::service(namespace, name, &ports));
    let route = (namespace(), name(), namespace(), name(), 0..3_u16, name(), 0..2_u32);
    let route = route.prop_map(|(namespace, own, parent_namespace, parent, port, backend, weight)| {
        let mut route = fixture::route(namespace, own, parent_namespace, parent);
        let spec = spec_of(&mut route);
        spec.parent_refs[0].port = NonZeroU16::new(port).and_then(|port| port.checked_add(79));
        spec.rules = vec![fixture::rule("/", &[backend]), fixture::rule("/x", &[backend])];
        spec.rules[0].backend_refs[0].weight = weight;
        created(route, u32::from(port))
    });
    let claims = (
        name(),
        name(),
        prop::option::of(prop::sample::select(vec!["http", "grpc"])),
        0..3_u32,
    );
    let policy = claims.prop_map(|(own, target, section, age)| created(policy(own, &[(target, section)]), age));
    let mirrors = prop::collection::vec((prop::option::of(namespace()), name()), 0..3);
    let route_policy = (name(), name(), mirrors).prop_map(|(own, target, mirrors)| {
        let targets = [(Kind::HttpRoute, target, None), (Kind::Service, target, None)];
        let mut policy = fixture::route_policy(own, &targets);
        let mirrors = mirrors
            .into_iter()
            .map(|(namespace, name)| fixture::mirror(namespace, name));
        fixture::route_policy_spec_of(&mut policy).mirror = Some(mirrors.collect());
        policy
    });
    let mesh = Just(fixture::mesh_config("{mode: Strict}"));
    prop::collection::vec(
        prop_oneof![3 => service, 3 => route, 3 => policy, 2 => route_policy, 1 => mesh],
        0..16,
    )
}

fn some_summary() -> impl Strategy<Value = Summary> {
    (0..3_usize, 0..3_usize, 0..3_usize).prop_map(|(in_force, pending, rejected)| {
        let name = |n| format!("citizen/w{n}");
        let reason = "no".to_owned();
        Summary {
            in_force,
            pending,
            first_pending: (0..pending).map(name).collect(),
            rejected,
            first_rejected: (0..rejected)
                .map(|n| Rejection {
                    proxy: name(n),
                    reason: reason.clone(),
                })
                .collect(),
        }
    })
}

proptest! {
    /// Where what is to be said is written, there is nothing left to be said, however much time goes by; and what is
    /// said at another time differs in nothing but times.
    #[test]
    fn solving_once_is_enough(objects in some_objects(), first in some_summary(), second in some_summary()) {
        let mut index = fixture::index(objects);
        for (summary, now) in [(&first, T1), (&second, T2)] {
            let held = standings(&index, summary);
            for (key, status) in solve(&index, &held, now) {
                let mut object = (*index.objects()[&key]).clone();
                object.status = Some(status);
                index.apply(&key, Some(Arc::new(object)));
            }
            prop_assert_eq!(solve(&index, &held, "2027-01-01T00:00:00Z"), []);
            for object in index.objects().values().filter(|object| says_in_force(object.kind())) {
                let text = object.status.as_ref().expect("all have one").to_string();
                prop_assert!(text.len() < 32 << 10, "{}", text);
            }
        }
    }
}

#[test]
fn a_policy_for_tls_says_what_its_references_lead_to() {
    let portal = || fixture::service("citizen", "portal", &[("https", 443), ("grpc", 90)]);
    let good = || fixture::config_map("c", "ca.crt", &fixture::certificate("a").pem());
    let policy = fixture::tls_policy("p", 1, None, &["c"]);
    let objects = [portal(), policy.clone(), good()];
    says(
        &objects,
        &policy,
        "Accepted",
        "True/Accepted: it holds for Service citizen/portal",
    );
    says(
        &objects,
        &policy,
        "ResolvedRefs",
        "True/ResolvedRefs: every reference leads to certificates",
    );
    says(
        &objects,
        &policy,
        "weir.dev/InForce",
        "True/InForce: in force on 1 of 1",
    );
    // Closed is in force as well.
    let missing = "caCertificateRefs[0]: there is no ConfigMap/citizen/c";
    let objects = [portal(), policy.clone()];
    let closed = format!(
        "False/NoValidCACertificate: it has no certificate to go by: {missing}; until it has one, nothing is sent to \
         Service citizen/portal"
    );
    says(&objects, &policy, "Accepted", &closed);
    says(
        &objects,
        &policy,
        "ResolvedRefs",
        &format!("False/InvalidCACertificateRef: {missing}"),
    );
    says(
        &objects,
        &policy,
        "weir.dev/InForce",
        "True/InForce: in force on 1 of 1",
    );
    // One of two is enough to go by.
    let two = fixture::tls_policy("p", 1, None, &["c", "d"]);
    let objects = [portal(), two.clone(), good()];
    says(
        &objects,
        &two,
        "Accepted",
        "True/Accepted: it holds for Service citizen/portal",
    );
    let second = "False/InvalidCACertificateRef: caCertificateRefs[1]: there is no ConfigMap/citizen/d";
    says(&objects, &two, "ResolvedRefs", second);
    let mut secret = policy.clone();
    fixture::tls_spec_of(&mut secret).validation.ca_certificate_refs[0].kind = "Secret".to_owned();
    let kind = "False/InvalidKind: caCertificateRefs[0] is a Secret, of which nothing is read: put the certificate, \
                without a key, into ca.crt of a ConfigMap";
    says(&[portal(), secret.clone()], &secret, "ResolvedRefs", kind);
    let mut system = policy.clone();
    let validation = &mut fixture::tls_spec_of(&mut system).validation;
    validation.ca_certificate_refs.clear();
    validation.well_known_ca_certificates = Some(weir_api::backend_tls_policy::WellKnownCaCertificates::System);
    says(
        &[portal(), system.clone()],
        &system,
        "ResolvedRefs",
        "True/ResolvedRefs: every reference leads to certificates",
    );
    let nowhere = "False/TargetNotFound: there is no Service citizen/portal";
    says(&[policy.clone(), good()], &policy, "Accepted", nowhere);
}

#[test]
fn of_two_policies_for_tls_the_older_holds_and_one_for_a_port_goes_before() {
    let portal = fixture::service("citizen", "portal", &[("https", 443)]);
    let older = fixture::tls_policy("z", 1, None, &["missing"]);
    let newer = fixture::tls_policy("a", 2, None, &["missing"]);
    let objects = [portal.clone(), older.clone(), newer.clone()];
    let conflicted = "False/Conflicted: BackendTLSPolicy/citizen/z and BackendTLSPolicy/citizen/a both claim Service \
                      citizen/portal; BackendTLSPolicy/citizen/z, the older, holds";
    says(&objects, &newer, "Accepted", conflicted);
    let nowhere = "False/NotAccepted: it is not accepted, so that no proxy is told of it";
    says(&objects, &newer, "weir.dev/InForce", nowhere);
    let by_port = fixture::tls_policy("port", 3, Some("https"), &["missing"]);
    let overridden = "False/Overridden: each port has a policy of its own, which goes before this one: \
                      BackendTLSPolicy/citizen/port";
    says(
        &[portal, older.clone(), by_port],
        &older,
        "weir.dev/InForce",
        overridden,
    );
}
