//! What is to become of a request: decided without I/O from its head and the snapshot, and then carried out by
//! `outbound.rs`.

use http::header::LOCATION;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use weir_policy::model::{self, Action, Balancing, DirectResponse, HeaderChanges, PathMatch, Redirect, Route, Scheme};
use weir_policy::retry::MethodNamed;
use weir_policy::route::{self, RequestFacts};

use crate::error::ProxyError;
use crate::http::head::Head;
use crate::snapshot::{Backend, Cluster, Endpoint, Service, ServiceRoute};
use std::net::SocketAddr;
use std::sync::Arc;
use weir_policy::time::Time;

/// What is to become of a request.
#[derive(Debug)]
pub(crate) enum RequestPlan<'a> {
    /// A route answers it.
    Answer(Answer<'a>),
    /// It is sent to a cluster.
    Forward(ForwardPlan<'a>),
}

/// An answer that a route makes.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    pub(crate) route: &'a ServiceRoute,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: &'a str,
}

/// How a request is sent on.
#[derive(Debug)]
pub(crate) struct ForwardPlan<'a> {
    pub(crate) route: &'a ServiceRoute,
    pub(crate) cluster: &'a Arc<Cluster>,
    /// The target to ask for, where it changes.
    pub(crate) target: Option<PathAndQuery>,
    /// The authority to ask, where it changes.
    pub(crate) authority: Option<Authority>,
    pub(crate) request_headers: &'a HeaderChanges,
    pub(crate) response_headers: &'a HeaderChanges,
    pub(crate) timeouts: model::Timeouts,
    pub(crate) retry: Option<&'a model::RetryPolicy>,
    pub(crate) method_named: MethodNamed,
}

/// Decides. `random` draws the backend.
///
/// # Errors
/// When no route takes the request, or its route leads nowhere.
pub(crate) fn plan<'a>(head: &Head, service: &'a Service, random: u64) -> Result<RequestPlan<'a>, ProxyError> {
    let host = head.host();
    let facts = RequestFacts {
        host: &host,
        path: head.target.path(),
        query: head.target.query(),
        method: &head.method,
        headers: &head.headers,
    };
    let no_route = || ProxyError::NoRoute {
        service: service.name.to_string(),
    };
    let id = service.table.find(&facts).ok_or_else(no_route)?;
    let route = service.table.route(id);
    let compiled = service.route(id).ok_or_else(no_route)?;
    match &route.action {
        Action::Respond(DirectResponse { status, body }) => {
            let mut headers = HeaderMap::new();
            apply(&route.response_headers, &mut headers);
            Ok(RequestPlan::Answer(Answer {
                route: compiled,
                status: *status,
                headers,
                body,
            }))
        }
        Action::Redirect(redirect) => {
            let mut headers = HeaderMap::new();
            let location = location(redirect, &route.matches.path, head);
            if let Ok(location) = HeaderValue::try_from(location) {
                headers.insert(LOCATION, location);
            }
            apply(&route.response_headers, &mut headers);
            Ok(RequestPlan::Answer(Answer {
                route: compiled,
                status: redirect.status,
                headers,
                body: "",
            }))
        }
        Action::Forward(forward) => forward_plan(head, route, compiled, forward, random).map(RequestPlan::Forward),
    }
}

fn forward_plan<'a>(
    head: &Head,
    route: &'a Route,
    compiled: &'a ServiceRoute,
    forward: &'a model::Forward,
    random: u64,
) -> Result<ForwardPlan<'a>, ProxyError> {
    let drawn = compiled
        .split
        .pick(random)
        .and_then(|index| compiled.backends.get(index));
    let cluster = match drawn {
        Some(Backend::Cluster(cluster)) => cluster,
        Some(Backend::Missing(cluster)) => {
            return Err(ProxyError::MissingBackend {
                route: route.name.clone(),
                cluster: cluster.clone(),
            });
        }
        Some(Backend::Unanswered(cluster)) => {
            return Err(ProxyError::NoEndpoint {
                cluster: cluster.to_string(),
            });
        }
        None => {
            return Err(ProxyError::NoBackend {
                route: route.name.clone(),
            });
        }
    };
    let target = match &forward.rewrite.path {
        None => None,
        Some(rewrite) => {
            let path = route::rewrite_path(rewrite, &route.matches.path, head.target.path());
            Some(with_query(&path, head.target.query())?)
        }
    };
    let authority = match &forward.rewrite.host {
        None => None,
        Some(host) => Some(
            Authority::try_from(host.as_str())
                .map_err(|_| ProxyError::BadRequest("the route's new host is no host"))?,
        ),
    };
    Ok(ForwardPlan {
        route: compiled,
        cluster,
        target,
        authority,
        request_headers: &route.request_headers,
        response_headers: &route.response_headers,
        timeouts: forward.timeouts,
        retry: forward.retry.as_ref(),
        method_named: method_named(route, &head.method),
    })
}

fn method_named(route: &Route, method: &Method) -> MethodNamed {
    match &route.matches.method {
        Some(named) if named == method => MethodNamed::Yes,
        Some(_) | None => MethodNamed::No,
    }
}

fn with_query(path: &str, query: Option<&str>) -> Result<PathAndQuery, ProxyError> {
    let text = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    PathAndQuery::try_from(text).map_err(|_| ProxyError::BadRequest("its rewritten path is malformed"))
}

/// Changes a header as a route says: remove, set, add.
pub(crate) fn apply(changes: &HeaderChanges, headers: &mut HeaderMap) {
    for name in &changes.remove {
        headers.remove(name);
    }
    for (name, value) in &changes.set {
        headers.insert(name, value.clone());
    }
    for (name, value) in &changes.add {
        headers.append(name, value.clone());
    }
}

/// The `Location` of a redirect (Gateway API, HTTPRequestRedirectFilter).
fn location(redirect: &Redirect, matched: &PathMatch, head: &Head) -> String {
    let scheme = match redirect.scheme {
        Some(Scheme::Https) => "https",
        Some(Scheme::Http) | None => "http",
    };
    let host = redirect.host.as_deref().unwrap_or(head.authority.host());
    let asked = head.authority.port_u16();
    // Unset, the port is the new scheme's own if there is a new scheme, else the one asked for.
    let port = match (redirect.port, redirect.scheme) {
        (Some(port), _) => Some(port.get()),
        (None, Some(_)) => None,
        (None, None) => asked,
    };
    let port = port.filter(|port| !matches!((scheme, port), ("http", 80) | ("https", 443)));
    let path = match &redirect.path {
        Some(rewrite) => route::rewrite_path(rewrite, matched, head.target.path()),
        None => head.target.path().to_owned(),
    };
    let mut location = format!("{scheme}://{host}");
    if let Some(port) = port {
        location.push_str(&format!(":{port}"));
    }
    location.push_str(&path);
    if let Some(query) = head.target.query() {
        location.push('?');
        location.push_str(query);
    }
    location
}

/// Chooses an endpoint for an attempt, another than the one tried `last` if there is one.
pub(crate) fn choose<'a>(
    cluster: &'a Cluster,
    last: Option<SocketAddr>,
    now: Time,
    random: u64,
) -> Option<&'a Endpoint> {
    let endpoints = &cluster.endpoints;
    match cluster.config.balancing {
        Balancing::RoundRobin => {
            let first = endpoints.get(cluster.state.round_robin.next(endpoints.len())?)?;
            if Some(first.address) != last {
                return Some(first);
            }
            endpoints.get(cluster.state.round_robin.next(endpoints.len())?)
        }
        Balancing::PeakEwma { decay } => {
            let (one, two) = weir_policy::balance::power_of_two(endpoints.len(), random)?;
            let (one, two) = (endpoints.get(one)?, endpoints.get(two)?);
            if Some(one.address) == last {
                return Some(two);
            }
            if Some(two.address) == last {
                return Some(one);
            }
            let cheaper = one.load.cost(now, decay) <= two.load.cost(now, decay);
            Some(if cheaper { one } else { two })
        }
    }
}
