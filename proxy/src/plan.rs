//! What is to become of a request: decided without I/O from its head and the snapshot, and then carried out by
//! `outbound.rs`.

use std::net::SocketAddr;
use std::sync::Arc;

use http::header::LOCATION;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use weir_policy::cors::{self, AnswerFields, Next};
use weir_policy::deadline::Deadline;
use weir_policy::model::{
    self, Action, AppProtocol, BackendFilters, Balancing, DirectResponse, HeaderChanges, PathMatch, Redirect, Route,
    Scheme,
};
use weir_policy::retry::MethodNamed;
use weir_policy::route::{self, RequestFacts};
use weir_policy::slow_start;
use weir_policy::time::Time;

use crate::endpoints::{Endpoint, Levels};
use crate::error::ProxyError;
use crate::http::head::Head;
use crate::snapshot::{Backend, Cluster, Service, ServiceRoute};

/// What is decided of a request.
#[derive(Debug)]
pub(crate) struct Planned<'a> {
    /// What its answer says of CORS, whoever makes it.
    pub(crate) cors: Option<Box<AnswerFields>>,
    /// What is to become of it; or that no route takes it, or its route leads nowhere.
    pub(crate) plan: Result<RequestPlan<'a>, ProxyError>,
}

/// What is to become of a request.
#[derive(Debug)]
pub(crate) enum RequestPlan<'a> {
    /// A page asks whether it may use the route, and it may. That is no use of it yet.
    Preflight(&'a ServiceRoute),
    /// A route answers it.
    Answer(Answer<'a>),
    /// It is sent to a cluster.
    Forward(ForwardPlan<'a>),
}

impl<'a> RequestPlan<'a> {
    /// The route that takes the request.
    pub(crate) fn route(&self) -> &'a ServiceRoute {
        match self {
            RequestPlan::Preflight(route) => route,
            RequestPlan::Answer(answer) => answer.route,
            RequestPlan::Forward(plan) => plan.route,
        }
    }

    /// The route that the request is a use of: one that counts against its limit, and that meets its faults.
    pub(crate) fn uses(&self) -> Option<&'a ServiceRoute> {
        match self {
            RequestPlan::Preflight(_) => None,
            RequestPlan::Answer(_) | RequestPlan::Forward(_) => Some(self.route()),
        }
    }

    /// Until when a request that began then may take, by its route.
    pub(crate) fn deadline(&self, began: Time) -> Deadline {
        match self {
            RequestPlan::Preflight(_) | RequestPlan::Answer(_) => Deadline::NONE,
            RequestPlan::Forward(plan) => Deadline::after(began, plan.timeouts.request),
        }
    }
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
    /// Which of the route's backends was drawn.
    pub(crate) drawn: usize,
    pub(crate) cluster: &'a Arc<Cluster>,
    /// The target to ask for, where it changes.
    pub(crate) target: Option<PathAndQuery>,
    /// The authority to ask, where it changes.
    pub(crate) authority: Option<Authority>,
    /// Whose changes to headers come before those of the route.
    pub(crate) backend: &'a BackendFilters,
    pub(crate) request_headers: &'a HeaderChanges,
    pub(crate) response_headers: &'a HeaderChanges,
    pub(crate) timeouts: model::Timeouts,
    pub(crate) retry: Option<&'a model::RetryPolicy>,
    pub(crate) method_named: MethodNamed,
}

/// Decides. `random` draws the backend.
pub(crate) fn plan<'a>(head: &Head, service: &'a Service, random: u64) -> Planned<'a> {
    let (route, compiled) = match find(head, service) {
        Ok(found) => found,
        Err(error) => {
            let plan = Err(error);
            return Planned { cors: None, plan };
        }
    };
    let drawn = compiled.split.pick(random);
    let Some(cors) = cors_of(route, drawn) else {
        let plan = carried_out(head, route, compiled, drawn);
        return Planned { cors: None, plan };
    };
    let decision = cors::evaluate(cors, &head.method, &head.headers);
    let plan = match decision.request {
        Next::Continue => carried_out(head, route, compiled, drawn),
        Next::Allow => Ok(RequestPlan::Preflight(compiled)),
        Next::Deny => Err(ProxyError::origin_not_allowed(route, &head.headers)),
    };
    let cors = Some(Box::new(decision.answer));
    Planned { cors, plan }
}

/// The route that takes a request.
fn find<'a>(head: &Head, service: &'a Service) -> Result<(&'a Route, &'a ServiceRoute), ProxyError> {
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
    Ok((route, compiled))
}

/// The CORS of the backend that was drawn, if it has its own, else of the route.
fn cors_of(route: &Route, drawn: Option<usize>) -> Option<&model::Cors> {
    let own = match &route.action {
        Action::Forward(forward) => drawn.and_then(|drawn| forward.backends.get(drawn)?.filters.cors.as_ref()),
        Action::Redirect(_) | Action::Respond(_) => None,
    };
    own.or(route.cors.as_ref())
}

fn carried_out<'a>(
    head: &Head,
    route: &'a Route,
    compiled: &'a ServiceRoute,
    drawn: Option<usize>,
) -> Result<RequestPlan<'a>, ProxyError> {
    match &route.action {
        Action::Respond(DirectResponse { status, body }) => {
            let mut headers = HeaderMap::new();
            route.response_headers.apply(&mut headers);
            Ok(RequestPlan::Answer(Answer {
                route: compiled,
                status: *status,
                headers,
                body,
            }))
        }
        Action::Redirect(redirect) => {
            let answer = redirected(redirect, route, compiled, head, &HeaderChanges::default());
            Ok(RequestPlan::Answer(answer))
        }
        Action::Forward(forward) => forward_plan(head, route, compiled, forward, drawn),
    }
}

/// The answer of a redirect; `changes` come before the route's own.
fn redirected<'a>(
    redirect: &Redirect,
    route: &Route,
    compiled: &'a ServiceRoute,
    head: &Head,
    changes: &HeaderChanges,
) -> Answer<'a> {
    let mut headers = HeaderMap::new();
    if let Ok(location) = HeaderValue::try_from(location(redirect, &route.matches.path, head)) {
        headers.insert(LOCATION, location);
    }
    changes.apply(&mut headers);
    route.response_headers.apply(&mut headers);
    Answer {
        route: compiled,
        status: redirect.status,
        headers,
        body: "",
    }
}

fn forward_plan<'a>(
    head: &Head,
    route: &'a Route,
    compiled: &'a ServiceRoute,
    forward: &'a model::Forward,
    drawn: Option<usize>,
) -> Result<RequestPlan<'a>, ProxyError> {
    let no_backend = || ProxyError::NoBackend {
        route: route.name.clone(),
    };
    let drawn = drawn.ok_or_else(no_backend)?;
    let backend = &forward.backends.get(drawn).ok_or_else(no_backend)?.filters;
    if let Some(redirect) = &backend.redirect {
        let answer = redirected(redirect, route, compiled, head, &backend.response_headers);
        return Ok(RequestPlan::Answer(answer));
    }
    let cluster = drawn_cluster(route, compiled.backends.get(drawn))?;
    let target = match backend.rewrite.path.as_ref().or(forward.rewrite.path.as_ref()) {
        None => None,
        Some(rewrite) => {
            let path = route::rewrite_path(rewrite, &route.matches.path, head.target.path());
            Some(with_query(&path, head.target.query())?)
        }
    };
    let authority = match backend.rewrite.host.as_ref().or(forward.rewrite.host.as_ref()) {
        None => None,
        Some(host) => Some(
            Authority::try_from(host.as_str())
                .map_err(|_| ProxyError::BadRequest("the route's new host is no host"))?,
        ),
    };
    Ok(RequestPlan::Forward(ForwardPlan {
        route: compiled,
        drawn,
        cluster,
        target,
        authority,
        backend,
        request_headers: &route.request_headers,
        response_headers: &route.response_headers,
        timeouts: forward.timeouts,
        retry: forward.retry.as_ref(),
        method_named: method_named(route, &head.method),
    }))
}

/// The cluster of the backend that was drawn, if any was.
///
/// # Errors
/// When there is none, or it is no cluster to send to.
pub(crate) fn drawn_cluster<'a>(route: &Route, drawn: Option<&'a Backend>) -> Result<&'a Arc<Cluster>, ProxyError> {
    match drawn {
        Some(Backend::Cluster(cluster)) if cluster.config.protocol == AppProtocol::Tcp => Err(ProxyError::TcpBackend {
            route: route.name.clone(),
            cluster: cluster.config.name.clone(),
        }),
        Some(Backend::Cluster(cluster)) => Ok(cluster),
        Some(Backend::Missing(cluster)) => Err(ProxyError::MissingBackend {
            route: route.name.clone(),
            cluster: cluster.clone(),
        }),
        Some(Backend::Unanswered(cluster)) => Err(ProxyError::NoEndpoint {
            cluster: cluster.to_string(),
        }),
        Some(Backend::Refused(_, refused)) => Err(ProxyError::ConfigRefused(Arc::clone(refused))),
        None => Err(ProxyError::NoBackend {
            route: route.name.clone(),
        }),
    }
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

/// Chooses an endpoint for an attempt, another than the one tried `last` if there is one. `random` is drawn from for
/// each choice within.
pub(crate) fn choose(
    cluster: &Cluster,
    last: Option<SocketAddr>,
    now: Time,
    random: impl Fn() -> u64,
) -> Option<&Endpoint> {
    let in_use = cluster.in_use(now);
    let level = in_use.draw(random());
    let at = |place: usize| cluster.endpoints.get(*level.get(place)?);
    let starts_slowly = |endpoint: &Endpoint| {
        let weight = in_use.weight(endpoint, &cluster.config, now);
        weight < 1.0 && !slow_start::takes_part(weight, random())
    };
    match cluster.config.balancing {
        Balancing::RoundRobin => {
            let next = || at(cluster.state.round_robin.next(level.len())?);
            let mut chosen = next()?;
            // Once round at the most: whoever is left then takes it.
            for _ in 1..level.len() {
                if Some(chosen.address) != last && !starts_slowly(chosen) {
                    break;
                }
                chosen = next()?;
            }
            if Some(chosen.address) == last {
                chosen = others(cluster, &in_use, chosen).next().unwrap_or(chosen);
            }
            Some(chosen)
        }
        Balancing::PeakEwma { decay } => {
            let cost = |endpoint: &Endpoint| endpoint.state.load.cost(now, decay);
            let (one, two) = weir_policy::balance::power_of_two(level.len(), random())?;
            if let Some(last) = last {
                // Again: by now it pays to look at all of them. Those that failed lately cost most, so that a request
                // gets through while more endpoints are dead than it may try. Among equals chance decides.
                let (before, from) = level.split_at_checked(one)?;
                let here = from
                    .iter()
                    .chain(before)
                    .filter_map(|place| cluster.endpoints.get(*place));
                let here = here.filter(|other| other.address != last);
                let best = here.min_by(|a, b| cost(a).total_cmp(&cost(b)));
                let one = at(one)?;
                return best.or_else(|| others(cluster, &in_use, one).next()).or(Some(one));
            }
            let (one, two) = (at(one)?, at(two)?);
            match (starts_slowly(one), starts_slowly(two)) {
                (false, true) => Some(one),
                (true, false) => Some(two),
                (true, true) | (false, false) => Some(if cost(one) <= cost(two) { one } else { two }),
            }
        }
    }
}

/// Other endpoints of any level that can be used, for a request that has failed at the only one of its level; the
/// nearest first.
fn others<'a>(cluster: &'a Cluster, in_use: &Levels, but: &Endpoint) -> impl Iterator<Item = &'a Endpoint> {
    let usable = in_use.usable().filter_map(|place| cluster.endpoints.get(place));
    usable.filter(move |other| other.address != but.address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use std::num::NonZeroU16;
    use weir_policy::model::PathRewrite;

    fn head(url: &str) -> Head {
        let (parts, ()) = Request::get(url).body(()).expect("a request").into_parts();
        Head::read(parts, crate::http::head::Over::Cleartext).expect("one place")
    }

    fn redirect() -> Redirect {
        Redirect {
            scheme: None,
            host: None,
            port: None,
            path: None,
            status: StatusCode::FOUND,
        }
    }

    #[track_caller]
    fn leads(redirect: &Redirect, from: &str, to: &str) {
        let matched = PathMatch::Prefix("/old".to_owned());
        assert_eq!(location(redirect, &matched, &head(from)), to);
    }

    #[test]
    fn a_redirect_keeps_what_it_does_not_change() {
        let asked = "http://a:8080/old/x?q=1";
        leads(&redirect(), asked, "http://a:8080/old/x?q=1");
        let to_https = Redirect {
            scheme: Some(Scheme::Https),
            ..redirect()
        };
        leads(&to_https, asked, "https://a/old/x?q=1");
        let elsewhere = Redirect {
            host: Some("b".to_owned()),
            ..redirect()
        };
        leads(&elsewhere, asked, "http://b:8080/old/x?q=1");
        let port = |scheme, port| Redirect {
            scheme,
            port: NonZeroU16::new(port),
            ..redirect()
        };
        leads(&port(None, 80), asked, "http://a/old/x?q=1");
        leads(&port(Some(Scheme::Https), 443), asked, "https://a/old/x?q=1");
        leads(&port(Some(Scheme::Https), 80), asked, "https://a:80/old/x?q=1");
        let prefix = Redirect {
            path: Some(PathRewrite::Prefix("/new".to_owned())),
            ..redirect()
        };
        leads(&prefix, asked, "http://a:8080/new/x?q=1");
        let full = Redirect {
            path: Some(PathRewrite::Full("/all".to_owned())),
            ..redirect()
        };
        leads(&full, asked, "http://a:8080/all?q=1");
    }
}
