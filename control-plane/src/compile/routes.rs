//! The routes of a service port for a group of consumers, merged from all HTTPRoutes that name it as a parent.

use std::collections::BTreeSet;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use weir_api::http_route::{
    BackendRef, HeaderModifier, HttpRouteFilter, HttpRouteMatch, HttpRouteRule, HttpRouteSpec, ParentRef, PathMatch,
    PathModifier, RETRY_ATTEMPTS, RETRY_BACKOFF, RedirectScheme, RequestRedirect, Retry, ValueMatch,
};
use weir_api::service::ServicePort;
use weir_api::{FieldError, Object};
use weir_policy::model;
use weir_policy::names::{ClusterName, Consumers, Label, RouteName};
use weir_policy::precedence;
use weir_policy::route::{CompileError, RouteTable};

use super::index::{Index, Of};
use super::references::{References, grants_for};
use super::{Compiled, source};

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
    let routes = match own.as_slice() {
        [] => routes_of(&name.cluster, &name.cluster.service.namespace, index),
        _ => own,
    };
    let mut sources = vec![source(service.object)];
    sources.extend(routes.iter().map(|route| source(route.object)));
    let grants = routes.iter().map(|route| grants_for(route.object, route.spec, index));
    sources.extend(grants.flatten().collect::<BTreeSet<_>>());
    let virtual_hosts = match routes.as_slice() {
        [] => vec![to_own_cluster(&name.cluster)],
        routes => virtual_hosts(routes, index),
    };
    let resource = model::RouteConfig {
        name: name.clone(),
        virtual_hosts,
    };
    Some(Compiled { resource, sources })
}

/// The routes that clients of this namespace have for a service port of another one, oldest first.
pub(crate) fn consumer_routes<'a>(of: &ClusterName, client: &Label, index: &'a Index) -> Vec<Of<'a, HttpRouteSpec>> {
    if of.service.namespace == *client {
        return Vec::new();
    }
    routes_of(of, client, index)
}

/// Converts one HTTPRoute and compiles its matches with the proxy's own compiler.
///
/// # Errors
/// All that is wrong, by field.
pub(crate) fn check(object: &Object, spec: &HttpRouteSpec) -> Result<(), Vec<FieldError>> {
    // Where references lead is no matter of the object alone.
    let index = Index::default();
    let references = References::of(object, &spec.parent_refs, &index);
    for (number, rule) in spec.rules.iter().enumerate() {
        expand(&references, number, rule).map_err(|error| vec![error])?;
    }
    let hosts = virtual_hosts(&[Of { object, spec }], &index);
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

fn routes_of<'a>(of: &ClusterName, written_in: &Label, index: &'a Index) -> Vec<Of<'a, HttpRouteSpec>> {
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
        own == written_in.as_str() && route.spec.parent_refs.iter().any(claims)
    });
    routes
}

/// What holds without any HTTPRoute: every request goes to the service port itself.
fn to_own_cluster(cluster: &ClusterName) -> model::VirtualHost {
    let service = &cluster.service;
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
    model::VirtualHost {
        name: cluster.to_string(),
        hosts: vec![model::HostMatch::Any],
        routes: vec![model::Route {
            name: format!("Service/{}/{}", service.namespace, service.service),
            matches: every_path(),
            request_headers: model::HeaderChanges::default(),
            response_headers: model::HeaderChanges::default(),
            action: model::Action::Forward(forward),
        }],
    }
}

/// Merges routes, oldest first, into one virtual host for each host that any of them names.
///
/// A request uses the virtual host of the most specific host and never falls back to another one. By the Gateway API,
/// though, a request that no rule of a more specific host matches is matched against those of less specific ones
/// (HTTPRouteSpec.hostnames: specificity only orders). So each virtual host holds the routes of every host that covers
/// its own, the most specific first, each group by precedence.
fn virtual_hosts(oldest_first: &[Of<'_, HttpRouteSpec>], index: &Index) -> Vec<model::VirtualHost> {
    let named = oldest_first.iter().flat_map(|route| hosts(route.spec));
    let distinct: BTreeSet<Host> = named.collect();
    let of_host = |host: &Host| {
        let mut routes = Vec::new();
        for cover in distinct.iter().filter(|cover| cover.covers(host)) {
            let mut group = Vec::new();
            for route in oldest_first {
                // Of several hosts of one HTTPRoute the most specific decides, so that its rules are here once.
                let closest = hosts(route.spec).filter(|own| own.covers(host)).min();
                if closest.as_ref() == Some(cover) {
                    group.extend(expand_all(route, index));
                }
            }
            precedence::sort(&mut group);
            routes.append(&mut group);
        }
        model::VirtualHost {
            name: host.to_string(),
            hosts: vec![host.to_model()],
            routes,
        }
    };
    distinct.iter().map(of_host).collect()
}

/// A host that routes are for; the more specific sorts first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Host {
    Exact(String),
    /// The number of characters, in reverse, stands first so that the longest sorts first.
    Suffix(std::cmp::Reverse<usize>, String),
    Any,
}

impl Host {
    fn read(text: &str) -> Host {
        match text.strip_prefix("*.") {
            Some(suffix) => Host::Suffix(std::cmp::Reverse(suffix.len()), suffix.to_owned()),
            None => Host::Exact(text.to_owned()),
        }
    }

    /// Whether every request for `other` is one for this host.
    fn covers(&self, other: &Host) -> bool {
        match (self, other) {
            (Host::Any, _) => true,
            (Host::Exact(own), Host::Exact(other)) => own == other,
            (Host::Suffix(_, own), Host::Suffix(_, other)) => own == other || below(other, own),
            (Host::Suffix(_, own), Host::Exact(other)) => below(other, own),
            (Host::Exact(_), Host::Suffix(..) | Host::Any) | (Host::Suffix(..), Host::Any) => false,
        }
    }

    fn to_model(&self) -> model::HostMatch {
        match self {
            Host::Exact(host) => model::HostMatch::Exact(host.clone()),
            Host::Suffix(_, suffix) => model::HostMatch::Suffix(suffix.clone()),
            Host::Any => model::HostMatch::Any,
        }
    }
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Host::Exact(host) => f.write_str(host),
            Host::Suffix(_, suffix) => write!(f, "*.{suffix}"),
            Host::Any => f.write_str("*"),
        }
    }
}

fn below(host: &str, suffix: &str) -> bool {
    host.strip_suffix(suffix)
        .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

fn hosts(spec: &HttpRouteSpec) -> impl Iterator<Item = Host> {
    let any = spec.hostnames.is_empty().then_some(Host::Any);
    spec.hostnames.iter().map(|host| Host::read(host)).chain(any)
}

/// All routes of an HTTPRoute. One that can't be converted, which admission should have refused, answers its requests
/// with 500: part of it would be something else than what was written.
fn expand_all(route: &Of<'_, HttpRouteSpec>, index: &Index) -> Vec<model::Route> {
    let references = References::of(route.object, &route.spec.parent_refs, index);
    let mut all = Vec::new();
    for (number, rule) in route.spec.rules.iter().enumerate() {
        match expand(&references, number, rule) {
            Ok(mut routes) => all.append(&mut routes),
            Err(error) => {
                let respond = model::DirectResponse {
                    status: StatusCode::INTERNAL_SERVER_ERROR,
                    body: format!("{} can't be used: {error}\n", route.object.key()),
                };
                return vec![model::Route {
                    name: route.object.key().to_string(),
                    matches: every_path(),
                    request_headers: model::HeaderChanges::default(),
                    response_headers: model::HeaderChanges::default(),
                    action: model::Action::Respond(respond),
                }];
            }
        }
    }
    all
}

/// One route for each match of a rule.
fn expand(references: &References<'_>, number: usize, rule: &HttpRouteRule) -> Result<Vec<model::Route>, FieldError> {
    let path = format!("spec.rules[{number}]");
    let mut filters = filters(references, &path, &rule.filters)?;
    let mut backends = Vec::with_capacity(rule.backend_refs.len());
    for (at, backend) in rule.backend_refs.iter().enumerate() {
        backends.push(weighted_backend(
            references,
            &format!("{path}.backendRefs[{at}]"),
            backend,
        )?);
    }
    rule_before_backend(&mut filters, &mut backends);
    let action = match filters.redirect {
        Some(redirect) => model::Action::Redirect(redirect),
        None => model::Action::Forward(model::Forward {
            backends,
            mirrors: filters.mirrors,
            rewrite: filters.rewrite,
            timeouts: rule
                .timeouts
                .map_or_else(model::Timeouts::default, |timeouts| model::Timeouts {
                    request: timeouts.request,
                    backend_request: timeouts.backend_request,
                }),
            retry: rule
                .retry
                .as_ref()
                .map(|retry| retry_policy(&path, retry))
                .transpose()?,
        }),
    };
    // A rule with a name has it behind its number: `HTTPRoute/citizen/portal#rules[0:search].matches[0]`.
    let named = rule.name.as_ref().map(|name| format!(":{name}")).unwrap_or_default();
    let route = |matches: model::RouteMatch, at: usize| model::Route {
        name: format!("{}#rules[{number}{named}].matches[{at}]", references.key()),
        matches,
        request_headers: filters.request.clone(),
        response_headers: filters.response.clone(),
        action: action.clone(),
    };
    if rule.matches.is_empty() {
        return Ok(vec![route(every_path(), 0)]);
    }
    let matches = rule.matches.iter().enumerate();
    let routes = matches.map(|(at, given)| route_match(&format!("{path}.matches[{at}]"), given).map(|m| route(m, at)));
    routes.collect()
}

fn route_match(path: &str, given: &HttpRouteMatch) -> Result<model::RouteMatch, FieldError> {
    let mut headers = Vec::with_capacity(given.headers.len());
    for (at, header) in given.headers.iter().enumerate() {
        headers.push(model::HeaderMatch {
            name: header_name(&format!("{path}.headers[{at}].name"), &header.name)?,
            value: value_match(&header.value),
        });
    }
    let query = given.query_params.iter().map(|parameter| model::QueryMatch {
        name: parameter.name.clone(),
        value: value_match(&parameter.value),
    });
    let method = given.method.map(|method| {
        let wrong = |_| wrong(format!("{path}.method"), method.as_str(), "is no method");
        Method::from_bytes(method.as_str().as_bytes()).map_err(wrong)
    });
    Ok(model::RouteMatch {
        path: match &given.path {
            PathMatch::Exact(path) => model::PathMatch::Exact(path.clone()),
            PathMatch::PathPrefix(path) => model::PathMatch::Prefix(path.clone()),
            PathMatch::RegularExpression(pattern) => model::PathMatch::Regex(pattern.clone()),
        },
        method: method.transpose()?,
        headers,
        query: query.collect(),
    })
}

fn value_match(given: &ValueMatch) -> model::ValueMatch {
    match given {
        ValueMatch::Exact(value) => model::ValueMatch::Exact(value.clone()),
        ValueMatch::RegularExpression(pattern) => model::ValueMatch::Regex(pattern.clone()),
    }
}

#[derive(Default)]
struct Filters {
    request: model::HeaderChanges,
    response: model::HeaderChanges,
    redirect: Option<model::Redirect>,
    rewrite: model::Rewrite,
    mirrors: Vec<model::Mirror>,
}

fn weighted_backend(
    references: &References<'_>,
    path: &str,
    backend: &BackendRef,
) -> Result<model::WeightedBackend, FieldError> {
    let filters = filters(references, path, &backend.filters)?;
    Ok(model::WeightedBackend {
        cluster: references.cluster(backend.reference()),
        weight: backend.weight,
        filters: model::BackendFilters {
            request_headers: filters.request,
            response_headers: filters.response,
            rewrite: filters.rewrite,
            redirect: filters.redirect,
            mirrors: filters.mirrors,
        },
    })
}

/// A rule's changes to headers come before those of its backends. The wire has it the other way round, as Envoy does
/// it: where a backend has changes of its own, those of the rule become part of each backend's.
fn rule_before_backend(rule: &mut Filters, backends: &mut [model::WeightedBackend]) {
    if backends
        .iter()
        .any(|backend| !backend.filters.request_headers.is_empty())
    {
        for model::WeightedBackend { filters, .. } in backends.iter_mut() {
            filters.request_headers = rule.request.then(&filters.request_headers);
        }
        rule.request = model::HeaderChanges::default();
    }
    if backends
        .iter()
        .any(|backend| !backend.filters.response_headers.is_empty())
    {
        for model::WeightedBackend { filters, .. } in backends {
            filters.response_headers = rule.response.then(&filters.response_headers);
        }
        rule.response = model::HeaderChanges::default();
    }
}

fn filters(references: &References<'_>, path: &str, given: &[HttpRouteFilter]) -> Result<Filters, FieldError> {
    let mut filters = Filters::default();
    for (at, filter) in given.iter().enumerate() {
        let path = format!("{path}.filters[{at}]");
        match filter {
            HttpRouteFilter::RequestHeaderModifier(modifier) => {
                filters.request = header_changes(&format!("{path}.requestHeaderModifier"), modifier)?;
            }
            HttpRouteFilter::ResponseHeaderModifier(modifier) => {
                filters.response = header_changes(&format!("{path}.responseHeaderModifier"), modifier)?;
            }
            HttpRouteFilter::RequestRedirect(given) => {
                filters.redirect = Some(redirect(&format!("{path}.requestRedirect"), given)?);
            }
            HttpRouteFilter::UrlRewrite(rewrite) => {
                filters.rewrite = model::Rewrite {
                    host: rewrite.hostname.clone(),
                    path: rewrite.path.as_ref().map(path_rewrite),
                };
            }
            HttpRouteFilter::RequestMirror(mirror) => filters.mirrors.push(model::Mirror {
                cluster: references.cluster(mirror.backend_ref.reference()),
                parts_per_million: mirror.parts_per_million(),
            }),
        }
    }
    Ok(filters)
}

fn header_changes(path: &str, modifier: &HeaderModifier) -> Result<model::HeaderChanges, FieldError> {
    let fields = |list: &str, fields: &[weir_api::http_route::HeaderField]| {
        let fields = fields.iter().enumerate();
        let read = fields.map(|(at, field)| {
            let name = header_name(&format!("{path}.{list}[{at}].name"), &field.name)?;
            let value = HeaderValue::from_str(&field.value);
            let value = value.map_err(|_| wrong(format!("{path}.{list}[{at}].value"), &field.value, "is no value"))?;
            Ok((name, value))
        });
        read.collect::<Result<Vec<_>, FieldError>>()
    };
    let remove = modifier.remove.iter().enumerate();
    let remove = remove.map(|(at, name)| header_name(&format!("{path}.remove[{at}]"), name));
    Ok(model::HeaderChanges {
        remove: remove.collect::<Result<_, _>>()?,
        set: fields("set", &modifier.set)?,
        add: fields("add", &modifier.add)?,
    })
}

fn redirect(path: &str, given: &RequestRedirect) -> Result<model::Redirect, FieldError> {
    Ok(model::Redirect {
        scheme: given.scheme.map(|scheme| match scheme {
            RedirectScheme::Http => model::Scheme::Http,
            RedirectScheme::Https => model::Scheme::Https,
        }),
        host: given.hostname.clone(),
        port: given.port,
        path: given.path.as_ref().map(path_rewrite),
        status: status(&format!("{path}.statusCode"), given.status_code)?,
    })
}

fn path_rewrite(given: &PathModifier) -> model::PathRewrite {
    match given {
        PathModifier::ReplaceFullPath(path) => model::PathRewrite::Full(path.clone()),
        PathModifier::ReplacePrefixMatch(prefix) => model::PathRewrite::Prefix(prefix.clone()),
    }
}

fn retry_policy(path: &str, retry: &Retry) -> Result<model::RetryPolicy, FieldError> {
    let codes = retry.codes.iter().enumerate();
    let codes = codes.map(|(at, code)| status(&format!("{path}.retry.codes[{at}]"), *code));
    Ok(model::RetryPolicy {
        attempts: retry.attempts.unwrap_or(RETRY_ATTEMPTS),
        codes: codes.collect::<Result<_, _>>()?,
        backoff: retry.backoff.unwrap_or(RETRY_BACKOFF),
    })
}

fn header_name(path: &str, name: &str) -> Result<HeaderName, FieldError> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong(path.to_owned(), name, "is no field name"))
}

fn status(path: &str, code: u16) -> Result<StatusCode, FieldError> {
    StatusCode::from_u16(code).map_err(|_| FieldError::new(path, &code.into(), "is no status", ""))
}

fn wrong(path: String, held: &str, problem: &str) -> FieldError {
    FieldError::new(path, &held.into(), problem, "")
}

/// The field of the HTTPRoute that a field of the model was made from.
fn field_error(error: &CompileError) -> FieldError {
    let origin = error.route.as_deref().and_then(Origin::of);
    let path = match (origin, error.field.strip_prefix("matches.")) {
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

#[cfg(test)]
mod tests {
    use weir_api::Spec;
    use weir_api::http_route::{HeaderField, HeaderMatch, HttpMethod, RouteTimeouts, UrlRewrite};
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
                model::RouteSource::Inline(_) => panic!("it has port 80"),
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
        let references = References::of(&object, &spec.parent_refs, &index);
        let routes = expand(&references, 0, &spec.rules[0]).expect("it converts");
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
                    codes: vec![StatusCode::SERVICE_UNAVAILABLE],
                    backoff: RETRY_BACKOFF,
                }),
            }),
        };
        assert_eq!(routes, [expect]);
    }

    #[test]
    fn a_backends_changes_come_after_those_of_its_rule() {
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
        rule.backend_refs[1].filters = vec![HttpRouteFilter::RequestHeaderModifier(set("backend"))];
        let Spec::HttpRoute(spec) = &object.spec else {
            panic!("a route")
        };
        let index = Index::default();
        let references = References::of(&object, &spec.parent_refs, &index);
        let routes = expand(&references, 0, &spec.rules[0]).expect("it converts");
        let values =
            |changes: &model::HeaderChanges| changes.set.iter().map(|(_, value)| value.clone()).collect::<Vec<_>>();
        let model::Action::Forward(forward) = &routes[0].action else {
            panic!("forwarded")
        };
        let of_backends = forward
            .backends
            .iter()
            .map(|backend| values(&backend.filters.request_headers));
        assert_eq!(of_backends.collect::<Vec<_>>(), [["rule"], ["backend"]]);
        assert!(routes[0].request_headers.is_empty());
        assert_eq!(values(&routes[0].response_headers), ["rule"]);
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
