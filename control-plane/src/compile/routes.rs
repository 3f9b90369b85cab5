//! The routes of a service port for a group of consumers, merged from all HTTPRoutes or GRPCRoutes that name it as a
//! parent.

use std::collections::BTreeSet;

use http::StatusCode;
use weir_api::http_route::ParentRef;
use weir_api::route_policy::RoutePolicySpec;
use weir_api::service::ServicePort;
use weir_api::{FieldError, Kind, Object, RouteSpec};
use weir_policy::model;
use weir_policy::names::{ClusterName, Consumers, Label, RouteName, ServiceName};
use weir_policy::precedence;
use weir_policy::route::{CompileError, RouteTable};

use super::hosts::{Host, hosts, intersect};
use super::index::{Attached, Index, Of, service_name};
use super::references::{References, grants_for};
use super::route_policies::RoutePolicies;
use super::rules::{Done, wrong};
use super::{Compiled, grpc_route, http_route, source};

/// The routes of a service port. `None`: no such service or port.
///
/// Consumers of a namespace have the routes that were written there for this port; where there are none, they have what
/// everybody has: the routes of the service's own namespace (GEP-1294, producer and consumer routes). So a client that
/// still asks for routes of its own after the last of them went loses nothing while its listener changes.
pub(crate) fn route_config(name: &RouteName, index: &Index) -> Option<Compiled<model::RouteConfig>> {
    let service = index.service(&name.cluster.service)?;
    service.spec.ports.iter().find(|port| port.port == name.cluster.port)?;
    let own = match &name.consumers {
        Consumers::Any => Vec::new(),
        Consumers::Namespace(namespace) => consumer_routes(&name.cluster, namespace, index),
    };
    let attached = match own.as_slice() {
        [] => routes_of(&name.cluster, &name.cluster.service.namespace, index),
        _ => own,
    };
    let routes = accepted(attached).routes;
    let mut sources = vec![source(service.object)];
    sources.extend(routes.iter().map(|route| source(route.object)));
    let at = &name.cluster.service;
    let mut holding: Vec<&Object> = Vec::new();
    let virtual_hosts = match routes.as_slice() {
        [] => {
            let policies = RoutePolicies::without_routes(at, index);
            let policy = policies.for_rule(None);
            holding.extend(policy.map(|policy| policy.object));
            vec![to_own_cluster(&name.cluster, policy, index)]
        }
        routes => {
            let policies = routes.iter();
            let policies = policies.flat_map(|route| RoutePolicies::of(route.object, at, index).holding(route.spec));
            holding.extend(policies);
            virtual_hosts(routes, Some(at), index)
        }
    };
    sources.extend(holding.iter().map(|policy| source(policy)).collect::<BTreeSet<_>>());
    let referring = routes.iter().map(|route| route.object).chain(holding);
    let grants = referring.flat_map(|object| grants_for(object, index));
    sources.extend(grants.collect::<BTreeSet<_>>());
    let resource = model::RouteConfig {
        name: name.clone(),
        virtual_hosts,
    };
    Some(Compiled { resource, sources })
}

/// The routes that clients of this namespace have for a service port of another one, oldest first.
pub(crate) fn consumer_routes<'a>(of: &ClusterName, client: &Label, index: &'a Index) -> Vec<Attached<'a>> {
    if of.service.namespace == *client {
        return Vec::new();
    }
    routes_of(of, client, index)
}

/// Which routes of a port hold, and which don't because an older one of the other kind is for some of the same hosts
/// (Gateway API, GRPCRouteSpec.hostnames).
pub(crate) struct Accepted<'a> {
    /// Those that hold, oldest first.
    pub(crate) routes: Vec<Attached<'a>>,
    /// Those that don't, each with the one that holds instead.
    pub(crate) displaced: Vec<(&'a Object, &'a Object)>,
}

/// Decides between the routes of one port and one group of consumers.
pub(crate) fn accepted(oldest_first: Vec<Attached<'_>>) -> Accepted<'_> {
    let mut accepted = Accepted {
        routes: Vec::with_capacity(oldest_first.len()),
        displaced: Vec::new(),
    };
    for route in oldest_first {
        let clashes = |older: &&Attached<'_>| {
            older.object.kind() != route.object.kind() && intersect(older.spec.hostnames(), route.spec.hostnames())
        };
        match accepted.routes.iter().find(clashes) {
            Some(older) => accepted.displaced.push((route.object, older.object)),
            None => accepted.routes.push(route),
        }
    }
    accepted
}

/// The older route of the other kind that holds instead of this one at a port of this parent; `None`: it holds at all
/// of them.
pub(crate) fn displaced<'a>(object: &Object, parent: &ParentRef, index: &'a Index) -> Option<&'a Object> {
    let own = object.metadata.namespace.as_str();
    let service = service_name(parent.namespace.as_deref().unwrap_or(own), &parent.name)?;
    let written_in: Label = own.parse().ok()?;
    let ports = index.service(&service)?.spec.ports.iter();
    let mut ports = ports.filter(|port| is_for(parent, port));
    ports.find_map(|port| {
        let cluster = ClusterName {
            service: service.clone(),
            port: port.port,
        };
        let displaced = accepted(routes_of(&cluster, &written_in, index)).displaced;
        let mut displaced = displaced.into_iter();
        displaced.find_map(|(route, by)| (route.key() == object.key()).then_some(by))
    })
}

/// The virtual hosts of one route alone.
#[cfg(test)]
pub(crate) fn hosts_of(object: &Object, index: &Index) -> Vec<model::VirtualHost> {
    let spec = RouteSpec::of(object).expect("a route");
    virtual_hosts(&[Attached { object, spec }], None, index)
}

/// Converts one route and compiles its matches with the proxy's own compiler.
///
/// # Errors
/// All that is wrong, by field.
pub(crate) fn check(object: &Object, spec: RouteSpec<'_>) -> Result<(), Vec<FieldError>> {
    // Where references lead is no matter of the object alone.
    let index = Index::default();
    let references = References::of(object, &index);
    expand(&references, &RoutePolicies::default(), spec).map_err(|error| vec![error])?;
    let hosts = virtual_hosts(&[Attached { object, spec }], None, &index);
    let Err(wrong) = RouteTable::compile(&hosts) else {
        return Ok(());
    };
    let mut errors: Vec<FieldError> = Vec::new();
    for error in wrong.iter().map(field_error) {
        // A route with several hosts is compiled once for each.
        if !errors.contains(&error) {
            errors.push(error);
        }
    }
    Err(errors)
}

/// Whether a reference to a service is for this port of it.
pub(crate) fn is_for(parent: &ParentRef, port: &ServicePort) -> bool {
    let number = parent.port.is_none_or(|number| number == port.port);
    number && (parent.section_name.is_none() || parent.section_name == port.name)
}

/// What the name of a route says of where it was written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Origin<'a> {
    /// The resource: `HTTPRoute/citizen/portal`.
    pub(crate) object: &'a str,
    /// The rule, by number.
    pub(crate) rule: usize,
    /// What of the rule: `.matches[0]`.
    pub(crate) part: &'a str,
}

impl<'a> Origin<'a> {
    /// Takes a name apart; `None`: no rule of a resource has it.
    pub(crate) fn of(route: &'a str) -> Option<Origin<'a>> {
        let (object, place) = route.split_once("#rules[")?;
        let (rule, part) = place.split_once(']')?;
        let number = rule.split_once(':').map_or(rule, |(number, _)| number);
        let rule = number.parse().ok()?;
        Some(Origin { object, rule, part })
    }
}

/// Takes every path.
pub(crate) fn every_path() -> model::RouteMatch {
    model::RouteMatch {
        path: model::PathMatch::Prefix("/".to_owned()),
        method: None,
        headers: Vec::new(),
        query: Vec::new(),
    }
}

fn routes_of<'a>(of: &ClusterName, written_in: &Label, index: &'a Index) -> Vec<Attached<'a>> {
    let mut routes = index.routes(&of.service);
    let service = index.service(&of.service);
    let mut ports = service.iter().flat_map(|service| &service.spec.ports);
    let Some(port) = ports.find(|port| port.port == of.port) else {
        return Vec::new();
    };
    routes.retain(|route| {
        let own = route.object.metadata.namespace.as_str();
        let claims = |parent: &ParentRef| {
            let namespace = parent.namespace.as_deref().unwrap_or(own);
            let service = parent.name == of.service.service.as_str() && namespace == of.service.namespace.as_str();
            service && is_for(parent, port)
        };
        own == written_in.as_str() && route.spec.parent_refs().iter().any(claims)
    });
    routes
}

/// What holds without any route: every request goes to the service port itself.
fn to_own_cluster(
    cluster: &ClusterName,
    policy: Option<&Of<'_, RoutePolicySpec>>,
    index: &Index,
) -> model::VirtualHost {
    let service = &cluster.service;
    let name = format!("Service/{}/{}", service.namespace, service.service);
    let forward = model::Forward {
        backends: vec![model::WeightedBackend {
            cluster: cluster.clone(),
            weight: 1,
            filters: model::BackendFilters::default(),
        }],
        mirrors: Vec::new(),
        rewrite: model::Rewrite::default(),
        timeouts: model::Timeouts::default(),
        retry: None,
    };
    let own = Done::only(model::Action::Forward(forward));
    let done = match policy {
        Some(policy) => own.under(policy.spec, &References::of(policy.object, index), &name),
        None => Ok(own),
    };
    let route = match done {
        Ok(done) => done.route(name, every_path()),
        Err(error) => unusable(name, &error),
    };
    model::VirtualHost {
        name: cluster.to_string(),
        hosts: vec![model::HostMatch::Any],
        routes: vec![route],
    }
}

/// Merges routes, oldest first, into one virtual host for each host that any of them names.
///
/// A request uses the virtual host of the most specific host and never falls back to another one. By the Gateway API,
/// though, a request that no rule of a more specific host matches is matched against those of less specific ones
/// (HTTPRouteSpec.hostnames: specificity only orders). So each virtual host holds the routes of every host that covers
/// its own, the most specific first, each group by precedence.
///
/// `service`: whose callers they are for; `None`: policies are left out.
fn virtual_hosts(
    oldest_first: &[Attached<'_>],
    service: Option<&ServiceName>,
    index: &Index,
) -> Vec<model::VirtualHost> {
    let named = oldest_first.iter().flat_map(|route| hosts(route.spec.hostnames()));
    let distinct: BTreeSet<Host> = named.collect();
    let of_host = |host: &Host| {
        let mut routes = Vec::new();
        for cover in distinct.iter().filter(|cover| cover.covers(host)) {
            let mut group = Expanded::default();
            for route in oldest_first {
                // Of several hosts of one route the most specific decides, so that its rules are here once.
                let closest = hosts(route.spec.hostnames()).filter(|own| own.covers(host)).min();
                if closest.as_ref() == Some(cover) {
                    group.append(expand_all(route, service, index));
                }
            }
            routes.append(&mut group.sorted());
        }
        model::VirtualHost {
            name: host.to_string(),
            hosts: vec![host.to_model()],
            routes,
        }
    };
    distinct.iter().map(of_host).collect()
}

/// All routes of a route object, in its own order. One that can't be converted, which admission should have refused,
/// answers its requests with 500: part of it would be something else than what was written.
fn expand_all(route: &Attached<'_>, service: Option<&ServiceName>, index: &Index) -> Expanded {
    let references = References::of(route.object, index);
    let policies = service.map(|service| RoutePolicies::of(route.object, service, index));
    expand(&references, &policies.unwrap_or_default(), route.spec).unwrap_or_else(|error| Expanded {
        http: vec![unusable(route.object.key().to_string(), &error)],
        grpc: Vec::new(),
    })
}

/// Stands for what can't be converted.
fn unusable(name: String, error: &FieldError) -> model::Route {
    let respond = model::DirectResponse {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        body: format!("{name} can't be used: {error}\n"),
    };
    Done::only(model::Action::Respond(respond)).route(name, every_path())
}

/// Routes of the model; those of the two kinds are never merged.
#[derive(Default)]
struct Expanded {
    http: Vec<model::Route>,
    grpc: Vec<(grpc_route::Precedence, model::Route)>,
}

impl Expanded {
    fn append(&mut self, mut other: Expanded) {
        self.http.append(&mut other.http);
        self.grpc.append(&mut other.grpc);
    }

    /// In order of precedence; ties keep the order they came in.
    fn sorted(mut self) -> Vec<model::Route> {
        precedence::sort(&mut self.http);
        self.grpc.sort_by(|(a, _), (b, _)| a.cmp(b));
        let grpc = self.grpc.into_iter().map(|(_, route)| route);
        self.http.into_iter().chain(grpc).collect()
    }
}

fn expand(
    references: &References<'_>,
    policies: &RoutePolicies<'_>,
    spec: RouteSpec<'_>,
) -> Result<Expanded, FieldError> {
    Ok(match spec {
        RouteSpec::Http(spec) => Expanded {
            http: http_route::expand(references, policies, spec)?,
            grpc: Vec::new(),
        },
        RouteSpec::Grpc(spec) => Expanded {
            http: Vec::new(),
            grpc: grpc_route::expand(references, policies, spec)?,
        },
    })
}

/// The field of the resource that a field of the model was made from.
fn field_error(error: &CompileError) -> FieldError {
    let origin = error.route.as_deref().and_then(Origin::of);
    let path = match (origin, error.field.strip_prefix("matches.")) {
        (Some(Origin { object, rule, part }), Some(field)) if is_grpc(object) && field.starts_with("path.") => {
            format!("spec.rules[{rule}]{part}.method")
        }
        // The resource has one field for a path's text, whatever its type.
        (Some(Origin { rule, part, .. }), Some(field)) if field.starts_with("path.") => {
            format!("spec.rules[{rule}]{part}.path.value")
        }
        (Some(Origin { rule, part, .. }), Some(field)) => format!("spec.rules[{rule}]{part}.{field}"),
        (Some(Origin { rule, .. }), None) => format!("spec.rules[{rule}].{}", error.field),
        (None, _) => "spec.hostnames".to_owned(),
    };
    wrong(path, &error.held, &error.problem.to_string())
}

/// Whether the object of this key, as text, is a GRPCRoute.
fn is_grpc(object: &str) -> bool {
    let kind = object.split_once('/').map_or(object, |(kind, _)| kind);
    kind == Kind::GrpcRoute.kind()
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue, Method};
    use weir_api::Spec;
    use weir_api::grpc_route::{GrpcMethodCompare, GrpcMethodMatch, GrpcRouteMatch};
    use weir_api::http_route::{
        HeaderField, HeaderMatch, HeaderModifier, HttpMethod, HttpRouteFilter, HttpRouteSpec, PathMatch, PathModifier,
        RETRY_ATTEMPTS, RETRY_BACKOFF, Retry, RouteTimeouts, UrlRewrite, ValueMatch,
    };
    use weir_policy::route::RequestFacts;

    use super::*;
    use crate::compile::fixture::{self, spec_of};

    fn named(name: &str) -> RouteName {
        name.parse().expect("a route's name")
    }

    /// Which route (by its name's end) a GET for host and path takes.
    #[track_caller]
    fn takes(index: &Index, name: &str, cases: &[(&str, &str, Option<&str>)]) {
        let config = route_config(&named(name), index)
            .expect("the service is there")
            .resource;
        let table = RouteTable::compile(&config.virtual_hosts).expect("what is compiled is right");
        for (host, path, expect) in cases {
            let facts = RequestFacts {
                host,
                path,
                query: None,
                method: &Method::GET,
                headers: &http::HeaderMap::new(),
            };
            let taken = table.find(&facts).map(|id| table.route(id).name.clone());
            let end = taken
                .as_deref()
                .map(|name| name.rsplit_once('/').map_or(name, |(_, end)| end));
            assert_eq!(end, *expect, "{host}{path}");
        }
    }

    fn with_paths(mut route: Object, paths: &[&str]) -> Object {
        let spec = spec_of(&mut route);
        spec.rules = paths.iter().map(|path| fixture::rule(path, &["portal"])).collect();
        route
    }

    fn with_hosts(mut route: Object, hosts: &[&str]) -> Object {
        spec_of(&mut route).hostnames = hosts.iter().map(|host| (*host).to_owned()).collect();
        route
    }

    fn created(mut object: Object, second: u32) -> Object {
        object.metadata.creation_timestamp = Some(format!("2026-01-01T00:00:{second:02}Z"));
        object
    }

    fn portal() -> Object {
        fixture::service("citizen", "portal", &[("http", 80), ("grpc", 90)])
    }

    #[test]
    fn without_routes_every_request_goes_to_the_service_port() {
        let index = fixture::index([portal()]);
        let compiled = route_config(&named("portal.citizen:90/*"), &index).expect("there");
        let [host] = compiled.resource.virtual_hosts.as_slice() else {
            panic!("one virtual host: {compiled:?}")
        };
        let model::Action::Forward(forward) = &host.routes[0].action else {
            panic!("forwarded: {host:?}")
        };
        assert_eq!(forward.backends[0].cluster.to_string(), "portal.citizen:90");
        takes(&index, "portal.citizen:80/police", &[("portal", "/x", Some("portal"))]);
        for missing in ["portal.citizen:81/*", "other.citizen:80/*", "portal.police:80/*"] {
            assert!(route_config(&named(missing), &index).is_none(), "{missing}");
        }
    }

    #[test]
    fn routes_are_merged_by_precedence_then_age_then_name() {
        let index = fixture::index([
            portal(),
            created(
                with_paths(fixture::route("citizen", "b", "citizen", "portal"), &["/x", "/only-b"]),
                1,
            ),
            created(
                with_paths(fixture::route("citizen", "a", "citizen", "portal"), &["/x", "/x/long"]),
                2,
            ),
            created(
                with_paths(fixture::route("citizen", "aa", "citizen", "portal"), &["/y"]),
                3,
            ),
            created(
                with_paths(fixture::route("citizen", "ab", "citizen", "portal"), &["/y"]),
                3,
            ),
        ]);
        let cases = [
            ("portal", "/x", Some("b#rules[0].matches[0]")),
            ("portal", "/x/long", Some("a#rules[1].matches[0]")),
            ("portal", "/only-b", Some("b#rules[1].matches[0]")),
            ("portal", "/y", Some("aa#rules[0].matches[0]")),
            ("portal", "/z", None),
        ];
        takes(&index, "portal.citizen:80/*", &cases);
        let sources = route_config(&named("portal.citizen:80/*"), &index)
            .expect("there")
            .sources;
        let sources: Vec<String> = sources.iter().map(|(key, _)| key.to_string()).collect();
        let expect = ["Service/citizen/portal", "HTTPRoute/citizen/b", "HTTPRoute/citizen/a"];
        assert_eq!(sources[..3], expect);
    }

    #[test]
    fn a_parent_port_limits_a_route_to_it() {
        let mut route = with_paths(fixture::route("citizen", "r", "citizen", "portal"), &["/x"]);
        spec_of(&mut route).parent_refs[0].port = std::num::NonZeroU16::new(90);
        let index = fixture::index([portal(), route]);
        takes(
            &index,
            "portal.citizen:90/*",
            &[("portal", "/x", Some("r#rules[0].matches[0]"))],
        );
        takes(&index, "portal.citizen:80/*", &[("portal", "/x", Some("portal"))]);
    }

    #[test]
    fn a_parent_section_limits_a_route_to_the_port_of_that_name() {
        let of_90 = Some("r#rules[0].matches[0]");
        for (section, number, at_80, at_90) in [
            ("grpc", None, Some("portal"), of_90),
            ("grpc", Some(90), Some("portal"), of_90),
            ("grpc", Some(80), Some("portal"), Some("portal")),
            ("gone", None, Some("portal"), Some("portal")),
        ] {
            let mut route = with_paths(fixture::route("citizen", "r", "citizen", "portal"), &["/x"]);
            let parent = &mut spec_of(&mut route).parent_refs[0];
            parent.section_name = Some(section.to_owned());
            parent.port = number.and_then(std::num::NonZeroU16::new);
            let index = fixture::index([portal(), route]);
            takes(&index, "portal.citizen:80/*", &[("portal", "/x", at_80)]);
            takes(&index, "portal.citizen:90/*", &[("portal", "/x", at_90)]);
        }
    }

    #[test]
    fn a_rules_name_is_in_the_names_of_its_routes_and_in_no_path() {
        let mut route = with_paths(fixture::route("citizen", "r", "citizen", "portal"), &["/y", "/x"]);
        spec_of(&mut route).rules[1].name = Some("search".to_owned());
        let index = fixture::index([portal(), route]);
        let taken = "r#rules[1:search].matches[0]";
        takes(&index, "portal.citizen:80/*", &[("portal", "/x", Some(taken))]);
        let origin = Origin {
            object: "r",
            rule: 1,
            part: ".matches[0]",
        };
        assert_eq!(Origin::of(taken), Some(origin));
        for none in [
            "Service/citizen/portal",
            "r#rules[search]",
            "r#rules[1",
            "HTTPRoute/citizen/r",
        ] {
            assert_eq!(Origin::of(none), None, "{none}");
        }
        let named = |spec: &mut HttpRouteSpec| {
            spec.rules[0].name = Some("search".to_owned());
            spec.rules[0].matches[0].path = PathMatch::RegularExpression("/(".into());
        };
        refused(named, &["spec.rules[0].matches[0].path.value"]);
    }

    #[test]
    fn of_two_kinds_for_one_host_of_a_port_the_older_holds() {
        let http = |second| {
            created(
                with_paths(fixture::route("citizen", "http", "citizen", "portal"), &["/"]),
                second,
            )
        };
        let grpc = |second, hosts: &[&str], port| {
            let mut route = fixture::grpc_route("citizen", "grpc", "citizen", "portal");
            let spec = fixture::grpc_spec_of(&mut route);
            spec.hostnames = hosts.iter().map(|host| (*host).to_owned()).collect();
            spec.parent_refs[0].port = std::num::NonZeroU16::new(port);
            created(route, second)
        };
        let hosted = with_hosts(http(1), &["a.example.org"]);
        for (http, grpc, at_80, at_90, displaced) in [
            (http(1), grpc(2, &[], 0), "http", "http", "grpc"),
            (http(2), grpc(1, &[], 0), "grpc", "grpc", "http"),
            (http(1), grpc(1, &[], 0), "grpc", "grpc", "http"),
            (http(1), grpc(2, &[], 90), "http", "http", "grpc"),
            (http(2), grpc(1, &[], 90), "http", "grpc", "http"),
            (
                hosted.clone(),
                grpc(2, &["a.example.org", "b.example.org"], 0),
                "http",
                "http",
                "grpc",
            ),
            (hosted.clone(), grpc(2, &["*.example.org"], 0), "http", "http", "grpc"),
            (hosted, grpc(2, &["b.example.org"], 0), "grpc http", "grpc http", ""),
        ] {
            let index = fixture::index([portal(), http.clone(), grpc.clone()]);
            let what = format!("{http:?} {grpc:?}");
            for (port, expect) in [(80, at_80), (90, at_90)] {
                let name = named(&format!("portal.citizen:{port}/*"));
                let sources = route_config(&name, &index).expect("there").sources;
                let mut routes: Vec<&str> = sources[1..].iter().map(|(key, _)| key.name.as_str()).collect();
                routes.sort_unstable();
                assert_eq!(routes.join(" "), expect, "{port}: {what}");
            }
            for route in [&http, &grpc] {
                let parent = &RouteSpec::of(route).expect("a route").parent_refs()[0];
                let other = super::displaced(route, parent, &index);
                assert_eq!(other.is_some(), route.metadata.name == displaced, "{what}");
            }
        }
    }

    #[test]
    fn a_call_pattern_that_can_not_be_used_is_refused_by_its_field() {
        let of = |service: Option<&str>, method: Option<&str>| GrpcMethodMatch {
            compare: GrpcMethodCompare::RegularExpression,
            service: service.map(str::to_owned),
            method: method.map(str::to_owned),
        };
        for (method, field, held) in [
            (of(Some("a)|(b"), None), "service", "a)|(b"),
            (of(Some("a.*"), Some("Get(")), "method", "Get("),
        ] {
            let mut route = fixture::grpc_route("citizen", "r", "citizen", "portal");
            fixture::grpc_spec_of(&mut route).rules[0].matches = vec![GrpcRouteMatch {
                method: Some(method),
                headers: Vec::new(),
            }];
            let errors = crate::compile::check(&route).expect_err("refused");
            let [error] = errors.as_slice() else {
                panic!("one: {errors:?}")
            };
            assert_eq!(error.path, format!("spec.rules[0].matches[0].method.{field}"));
            assert!(error.to_string().contains(held), "{error}");
        }
    }

    #[test]
    fn consumer_routes_replace_producer_routes_for_their_namespace_only() {
        let index = fixture::index([
            portal(),
            with_paths(fixture::route("citizen", "producer", "citizen", "portal"), &["/"]),
            with_paths(fixture::route("police", "consumer", "citizen", "portal"), &["/x"]),
        ]);
        let producer = Some("producer#rules[0].matches[0]");
        let consumer = Some("consumer#rules[0].matches[0]");
        takes(&index, "portal.citizen:80/*", &[("portal", "/x", producer)]);
        takes(
            &index,
            "portal.citizen:80/police",
            &[("portal", "/x", consumer), ("portal", "/y", None)],
        );
        takes(&index, "portal.citizen:80/travel", &[("portal", "/x", producer)]);
        takes(&index, "portal.citizen:80/citizen", &[("portal", "/x", producer)]);
        let listens = |client: &str| {
            let name = "portal.citizen.svc.cluster.local:80".parse().expect("a listener");
            let compiled = crate::compile::listener(&name, &client.parse().expect("a label"), &index).expect("there");
            let concerned = compiled.sources.iter().any(|(key, _)| key.name == "consumer");
            match compiled.resource.routes {
                model::RouteSource::Named(name) => (name.to_string(), concerned),
                model::RouteSource::Inline(_) | model::RouteSource::Tcp(_) => panic!("it has port 80, for HTTP"),
            }
        };
        assert_eq!(listens("police"), ("portal.citizen:80/police".to_owned(), true));
        assert_eq!(listens("travel"), ("portal.citizen:80/*".to_owned(), false));
        assert_eq!(listens("citizen"), ("portal.citizen:80/*".to_owned(), false));
    }

    #[test]
    fn hosts_are_matched_from_the_most_specific_and_fall_back() {
        let own = |name: &str| fixture::route("citizen", name, "citizen", "portal");
        let index = fixture::index([
            portal(),
            with_paths(own("any"), &["/any", "/all"]),
            with_hosts(with_paths(own("wide"), &["/wide", "/all"]), &["*.example.org"]),
            with_hosts(with_paths(own("narrow"), &["/narrow", "/all"]), &["*.a.example.org"]),
            with_hosts(
                with_paths(own("exact"), &["/exact", "/all"]),
                &["x.a.example.org", "*.example.org"],
            ),
        ]);
        let cases = [
            ("portal", "/all", Some("any#rules[1].matches[0]")),
            ("portal", "/wide", None),
            ("b.example.org", "/wide", Some("wide#rules[0].matches[0]")),
            ("b.example.org", "/exact", Some("exact#rules[0].matches[0]")),
            ("b.example.org", "/any", Some("any#rules[0].matches[0]")),
            ("b.a.example.org", "/all", Some("narrow#rules[1].matches[0]")),
            ("b.a.example.org", "/wide", Some("wide#rules[0].matches[0]")),
            ("b.a.example.org", "/none", None),
            ("x.a.example.org", "/all", Some("exact#rules[1].matches[0]")),
            ("x.a.example.org", "/narrow", Some("narrow#rules[0].matches[0]")),
            ("x.a.example.org", "/any", Some("any#rules[0].matches[0]")),
            ("example.org", "/wide", None),
        ];
        takes(&index, "portal.citizen:80/*", &cases);
    }

    #[test]
    fn a_rule_is_converted_whole() {
        let mut object = fixture::route("citizen", "r", "citizen", "portal");
        let modifier = HeaderModifier {
            set: vec![HeaderField {
                name: "X-Set".into(),
                value: "1".into(),
            }],
            add: vec![HeaderField {
                name: "x-add".into(),
                value: "2".into(),
            }],
            remove: vec!["x-gone".into()],
        };
        let rule = &mut spec_of(&mut object).rules[0];
        rule.matches[0].method = Some(HttpMethod::Post);
        rule.matches[0].path = PathMatch::RegularExpression("/[a-z]+".into());
        rule.matches[0].headers = vec![HeaderMatch {
            name: "X-Version".into(),
            value: ValueMatch::Exact("2".into()),
        }];
        rule.filters = vec![
            HttpRouteFilter::RequestHeaderModifier(modifier.clone()),
            HttpRouteFilter::ResponseHeaderModifier(modifier),
            HttpRouteFilter::UrlRewrite(UrlRewrite {
                hostname: Some("inner".into()),
                path: Some(PathModifier::ReplaceFullPath("/new".into())),
            }),
        ];
        rule.timeouts = Some(RouteTimeouts {
            request: Some(std::time::Duration::from_secs(2)),
            backend_request: Some(std::time::Duration::from_secs(1)),
        });
        rule.retry = Some(Retry {
            codes: vec![503],
            attempts: None,
            backoff: None,
        });
        let Spec::HttpRoute(spec) = &object.spec else {
            panic!("a route")
        };
        let index = Index::default();
        let references = References::of(&object, &index);
        let routes = http_route::expand(&references, &RoutePolicies::default(), spec).expect("it converts");
        let changes = model::HeaderChanges {
            remove: vec![HeaderName::from_static("x-gone")],
            set: vec![(HeaderName::from_static("x-set"), HeaderValue::from_static("1"))],
            add: vec![(HeaderName::from_static("x-add"), HeaderValue::from_static("2"))],
        };
        let expect = model::Route {
            name: "HTTPRoute/citizen/r#rules[0].matches[0]".to_owned(),
            matches: model::RouteMatch {
                path: model::PathMatch::Regex("/[a-z]+".to_owned()),
                method: Some(Method::POST),
                headers: vec![model::HeaderMatch {
                    name: HeaderName::from_static("x-version"),
                    value: model::ValueMatch::Exact("2".to_owned()),
                }],
                query: Vec::new(),
            },
            request_headers: changes.clone(),
            response_headers: changes,
            cors: None,
            rate_limit: None,
            fault: None,
            priority: None,
            policy: None,
            action: model::Action::Forward(model::Forward {
                backends: vec![model::WeightedBackend {
                    cluster: "portal.citizen:80".parse().expect("a cluster"),
                    weight: 1,
                    filters: model::BackendFilters::default(),
                }],
                mirrors: Vec::new(),
                rewrite: model::Rewrite {
                    host: Some("inner".to_owned()),
                    path: Some(model::PathRewrite::Full("/new".to_owned())),
                },
                timeouts: model::Timeouts {
                    request: Some(std::time::Duration::from_secs(2)),
                    backend_request: Some(std::time::Duration::from_secs(1)),
                },
                retry: Some(model::RetryPolicy {
                    attempts: RETRY_ATTEMPTS,
                    on: model::RetryOn::no_answer(),
                    codes: vec![StatusCode::SERVICE_UNAVAILABLE],
                    backoff: model::Backoff::tenfold(RETRY_BACKOFF),
                    methods: model::RetryMethods::Idempotent,
                }),
            }),
        };
        assert_eq!(routes, [expect]);
    }

    /// What becomes of a rule's changes to headers where one of its two backends has some of its own: those of the
    /// backends, and those of the rule for requests and for answers.
    fn changed_after_a_backend(own: fn(HeaderModifier) -> HttpRouteFilter) -> (model::Forward, [Vec<HeaderValue>; 2]) {
        let mut object = fixture::route("citizen", "r", "citizen", "portal");
        let set = |value: &str| HeaderModifier {
            set: vec![HeaderField {
                name: "x-a".into(),
                value: value.into(),
            }],
            ..HeaderModifier::default()
        };
        let rule = &mut spec_of(&mut object).rules[0];
        rule.filters = vec![
            HttpRouteFilter::RequestHeaderModifier(set("rule")),
            HttpRouteFilter::ResponseHeaderModifier(set("rule")),
        ];
        rule.backend_refs.push(fixture::backend("other"));
        rule.backend_refs[1].filters = vec![own(set("backend"))];
        let Spec::HttpRoute(spec) = &object.spec else {
            panic!("a route")
        };
        let index = Index::default();
        let references = References::of(&object, &index);
        let routes = http_route::expand(&references, &RoutePolicies::default(), spec).expect("it converts");
        let model::Action::Forward(forward) = &routes[0].action else {
            panic!("forwarded")
        };
        let of_rule = [&routes[0].request_headers, &routes[0].response_headers];
        (forward.clone(), of_rule.map(set_to))
    }

    fn set_to(changes: &model::HeaderChanges) -> Vec<HeaderValue> {
        changes.set.iter().map(|(_, value)| value.clone()).collect()
    }

    #[test]
    fn a_backends_changes_come_after_those_of_its_rule() {
        let (forward, [requests, answers]) = changed_after_a_backend(HttpRouteFilter::RequestHeaderModifier);
        let backends = forward.backends.iter();
        let of_backends: Vec<_> = backends
            .map(|backend| set_to(&backend.filters.request_headers))
            .collect();
        assert_eq!(of_backends, [["rule"], ["backend"]]);
        assert!(requests.is_empty());
        assert_eq!(answers, ["rule"]);
        let (forward, [requests, answers]) = changed_after_a_backend(HttpRouteFilter::ResponseHeaderModifier);
        let backends = forward.backends.iter();
        let of_backends: Vec<_> = backends
            .map(|backend| set_to(&backend.filters.response_headers))
            .collect();
        assert_eq!(of_backends, [["rule"], ["backend"]]);
        assert!(answers.is_empty());
        assert_eq!(requests, ["rule"]);
    }

    /// The paths of the errors of a route.
    #[track_caller]
    fn refused(mut change: impl FnMut(&mut HttpRouteSpec), expect: &[&str]) {
        let mut object = fixture::route("citizen", "r", "citizen", "portal");
        change(spec_of(&mut object));
        let errors = crate::compile::check(&object).err().unwrap_or_default();
        let paths: Vec<&str> = errors.iter().map(|error| error.path.as_str()).collect();
        assert_eq!(paths, expect, "{errors:?}");
    }

    #[test]
    fn what_no_proxy_could_use_is_refused_by_field() {
        refused(|_| {}, &[]);
        let bad_regex = |spec: &mut HttpRouteSpec| {
            spec.hostnames = vec!["a.example.org".into(), "b.example.org".into()];
            spec.rules[0].matches[0].path = PathMatch::RegularExpression("/(".into());
        };
        refused(bad_regex, &["spec.rules[0].matches[0].path.value"]);
        let bad_header = |spec: &mut HttpRouteSpec| {
            spec.rules[0].matches[0].headers = vec![HeaderMatch {
                name: "a b".into(),
                value: ValueMatch::Exact("2".into()),
            }];
        };
        refused(bad_header, &["spec.rules[0].matches[0].headers[0].name"]);
    }

    #[test]
    fn a_stored_route_that_can_not_be_converted_answers_500_and_spares_the_others() {
        let mut broken = with_paths(fixture::route("citizen", "broken", "citizen", "portal"), &["/x"]);
        spec_of(&mut broken).rules[0].retry = Some(Retry {
            codes: vec![7],
            attempts: None,
            backoff: None,
        });
        let fine = with_paths(fixture::route("citizen", "fine", "citizen", "portal"), &["/y"]);
        let index = fixture::index([portal(), broken, fine]);
        let cases = [
            ("portal", "/x", Some("broken")),
            ("portal", "/y", Some("fine#rules[0].matches[0]")),
        ];
        takes(&index, "portal.citizen:80/*", &cases);
    }
}
