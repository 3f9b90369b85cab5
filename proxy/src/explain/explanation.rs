//! What is said of a request. Pure: made of the snapshot, by the matcher that serves requests.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, StatusCode};
use serde::Serialize;
use weir_policy::breaker::{BreakerState, Refusal};
use weir_policy::context::Priority;
use weir_policy::cors::{self, Next};
use weir_policy::egress::{Egress, Outside};
use weir_policy::model::{
    Action, BackendFilters, Cors, DirectResponse, Fault, Forward, HeaderChanges, HeldPolicy, HostMatch, Listed, Mirror,
    OriginMatch, PathRewrite, RateLimit, Redirect, RetryMethods, RetryPolicy, Rewrite, Route, Timeouts,
    WeightedBackend,
};
use weir_policy::names::{ListenerName, WorkloadName};
use weir_policy::route::{self, HostEntry, RequestFacts, RouteId, RouteTable, Unmet};
use weir_policy::split::draws;
use weir_policy::time::Time;
use weir_xds::ResourceType;

use crate::egress::{Closed, Reachable};
use crate::error::ProxyError;
use crate::explain::question::Asks;
use crate::explain::{PublicDns, Question};
use crate::http::head::Head;
use crate::mesh::status::{self, ClusterStatus, Matches};
use crate::mesh::{Connected, LinkStatus, ResourceStatus, Unavailable};
use crate::outbound::{CONFIG_WAIT, no_such_port};
use crate::plan::{self, RequestPlan};
use crate::snapshot::{Backend, Cluster, Lookup, Service, ServiceRoute, Snapshot};

/// What is known when a request is explained.
pub(super) struct Facts<'a> {
    pub(super) workload: &'a WorkloadName,
    pub(super) snapshot: &'a Snapshot,
    pub(super) link: &'a LinkStatus,
    pub(super) now: Time,
    /// What came of asking for the name, if it was asked for in vain.
    pub(super) waited: Option<ProxyError>,
    pub(super) public_dns: Option<PublicDns>,
    /// What of that may be reached, where it was looked up.
    pub(super) outside: Option<Result<Reachable, Closed>>,
}

/// Which way a request would go, and why. What the way does not come to is absent.
#[derive(Debug, Serialize)]
pub(crate) struct Explanation {
    proxy: ProxyPart,
    request: RequestPart,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<NamePart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    listener: Option<ResourceStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route_configuration: Option<ResourceStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    virtual_host: Option<VirtualHostPart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    passed_over: Option<PassedOver>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<RoutePart>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    backends: Vec<BackendPart>,
    outcome: Outcome,
}

#[derive(Debug, Serialize)]
struct ProxyPart {
    workload: String,
    /// Which publication it is made of, counted from 1 in the proxy's process; 0: nothing is in force.
    snapshot: u64,
    connected: Connected,
}

/// The request as it was understood; values of fields are not repeated.
#[derive(Debug, Serialize)]
struct RequestPart {
    method: String,
    url: String,
    headers: Vec<String>,
}

/// What the authority means.
#[derive(Debug, Serialize)]
struct NamePart {
    asked: String,
    /// The mesh name that it became; absent: it can't be one.
    #[serde(skip_serializing_if = "Option::is_none")]
    canonical: Option<String>,
    because: Vec<String>,
    /// What the name would be outside the mesh, where that was looked up. A mesh name wins.
    #[serde(skip_serializing_if = "Option::is_none")]
    public_dns: Option<PublicDns>,
}

#[derive(Debug, Serialize)]
struct VirtualHostPart {
    name: String,
    hosts: Vec<String>,
}

/// Routes that come before the one taken.
#[derive(Debug, Serialize)]
struct PassedOver {
    total: usize,
    /// In order of precedence; if there are many, those whose path matches before others.
    routes: Vec<PassedRoute>,
}

#[derive(Debug, Serialize)]
struct PassedRoute {
    name: String,
    matches: String,
    why: String,
}

#[derive(Debug, Serialize)]
struct RoutePart {
    name: String,
    /// The resource it was written in: `HTTPRoute/citizen/portal`.
    source: String,
    /// The policy that holds for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<PolicyPart>,
    matches: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    request_headers: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    response_headers: Vec<String>,
    /// Which pages may use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    cors: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_limit: Option<RateLimitPart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<FaultPart>,
    /// How much its requests matter, 0 to 7, where they did not come as mattering less.
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<u8>,
    #[serde(flatten)]
    forward: Option<ForwardPart>,
}

/// A policy that holds for a route.
#[derive(Debug, Serialize)]
struct PolicyPart {
    /// The resource: `RoutePolicy/citizen/portal`.
    name: String,
    /// What it says in place of the route, in the resource's words.
    fields: Vec<String>,
}

/// How many requests come through.
#[derive(Debug, Serialize)]
struct RateLimitPart {
    /// Whose limit it is.
    name: String,
    requests: u32,
    per_ms: u128,
    burst: u32,
}

/// What happens to requests on purpose.
#[derive(Debug, Serialize)]
struct FaultPart {
    #[serde(skip_serializing_if = "Option::is_none")]
    delay: Option<DelayPart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    abort: Option<AbortPart>,
}

#[derive(Debug, Serialize)]
struct DelayPart {
    percent: f64,
    duration_ms: u128,
}

#[derive(Debug, Serialize)]
struct AbortPart {
    percent: f64,
    status: u16,
    grpc_status: u32,
}

/// The policies of a route that forwards.
#[derive(Debug, Serialize)]
struct ForwardPart {
    /// Where copies go: `1 % to b.n:80`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mirrors: Vec<String>,
    /// The target asked for upstream, where it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    rewritten_target: Option<String>,
    /// The host asked for upstream, where it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    rewritten_host: Option<String>,
    timeouts: TimeoutsPart,
    /// Absent: only what is safe for every request is sent again.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<RetryPart>,
}

/// In milliseconds; absent: none of the route's own.
#[derive(Debug, Serialize)]
struct TimeoutsPart {
    #[serde(skip_serializing_if = "Option::is_none")]
    request_ms: Option<u128>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend_request_ms: Option<u128>,
}

#[derive(Debug, Serialize)]
struct RetryPart {
    attempts: u32,
    /// What is tried again beside these codes, in Envoy's words.
    on: Vec<&'static str>,
    codes: Vec<u16>,
    backoff_ms: u128,
    max_backoff_ms: u128,
    /// Of which methods a request is sent again that may have been processed: `Idempotent` or `Any`.
    methods: &'static str,
}

#[derive(Debug, Serialize)]
struct BackendPart {
    #[serde(flatten)]
    cluster: ClusterStatus,
    weight: u32,
    /// Of the requests that the route takes.
    share_percent: f64,
    /// What is done for requests that are sent here, beside what the route does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    filters: Vec<String>,
    /// What a request that is sent here would be answered with instead; absent: nothing stands in its way.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Outcome>,
    /// The cluster and its endpoints as the control plane told of them.
    resources: Vec<ResourceStatus>,
}

/// What becomes of the request.
#[derive(Debug, Serialize)]
struct Outcome {
    /// `forward`, `redirect`, `respond`, `refuse`; `pass_through`: it is sent out of the mesh; `ask`: the control plane
    /// would be asked for the name first.
    action: &'static str,
    /// Of the answer, where this proxy makes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// As in the access log.
    #[serde(skip_serializing_if = "Option::is_none")]
    flag: Option<&'static str>,
    why: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'static str>,
}

impl Explanation {
    /// Explains a request whose head was read, or could not be.
    pub(super) fn new(facts: &Facts<'_>, question: &Question, head: Result<Head, ProxyError>) -> Explanation {
        let mut explanation = Explanation {
            proxy: ProxyPart {
                workload: facts.workload.to_string(),
                snapshot: facts.snapshot.version,
                connected: facts.link.connected,
            },
            request: RequestPart {
                method: question.method.to_string(),
                url: question.url.to_string(),
                headers: question.headers.keys().map(HeaderName::to_string).collect(),
            },
            name: None,
            listener: None,
            route_configuration: None,
            virtual_host: None,
            passed_over: None,
            route: None,
            backends: Vec::new(),
            outcome: Outcome::ask(),
        };
        let followed = head.and_then(|head| explanation.follow(facts, &head, question.asks()));
        explanation.outcome = followed.unwrap_or_else(|error| Outcome::refuse(&error));
        explanation
    }

    /// Follows the request as `outbound.rs` does: identify, plan, and what admission would say.
    fn follow(&mut self, facts: &Facts<'_>, head: &Head, asks: Asks) -> Result<Outcome, ProxyError> {
        let authority = head.authority.as_str();
        let name = ListenerName::from_authority(authority, &facts.workload.namespace);
        let named = self.name.insert(NamePart {
            asked: authority.to_owned(),
            canonical: name.as_ref().ok().map(ToString::to_string),
            because: Vec::new(),
            public_dns: facts.public_dns.clone(),
        });
        let name = match name {
            Ok(name) => name,
            Err(error) => {
                named.because.push(format!("it is no name of the mesh: {error}"));
                return outside(facts, head, None, error.to_string());
            }
        };
        named.because = expansion(head, &name);
        self.listener = resource(facts.link, ResourceType::Listener, &name.to_string());
        let service = match (facts.snapshot.service(&name), &facts.waited) {
            (Some(Lookup::Service(service)), _) => service,
            (Some(Lookup::NoSuchService { .. }), _) => {
                return outside(facts, head, Some(&name), Unavailable::NoSuchService.to_string());
            }
            (Some(Lookup::Refused(refused)), _) => return Err(ProxyError::ConfigRefused(Arc::clone(refused))),
            (None, Some(ProxyError::NoConfig { why, .. })) => return Err(ProxyError::of_name(authority, why.clone())),
            (None, _) => return Ok(Outcome::ask()),
        };
        match (&service.tcp, asks) {
            (Some(to), _) => return self.connect(facts, to, asks),
            (None, Asks::Connection) => {
                let name = service.name.to_string();
                return Err(ProxyError::CarriesHttp { name });
            }
            (None, Asks::Request) => {}
        }
        if let Some(routes) = &service.routes_name {
            if name.port.is_none() {
                let port = routes.cluster.port;
                named
                    .because
                    .push(format!("no port is given, and the control plane chose {port}"));
            }
            self.route_configuration = resource(facts.link, ResourceType::Route, &routes.to_string());
        }
        self.find_route(facts, head, service)
    }

    /// Follows a connection as `tcp/outbound.rs` does; a request that comes that far goes no further.
    fn connect(&mut self, facts: &Facts<'_>, to: &Backend, asks: Asks) -> Result<Outcome, ProxyError> {
        let name = to.name().to_string();
        let problem = match to {
            Backend::Cluster(cluster) => admission(cluster, facts.now),
            Backend::Missing(cluster) | Backend::Unanswered(cluster) => Err(ProxyError::NoEndpoint {
                cluster: cluster.to_string(),
            }),
            Backend::Refused(_, refused) => Err(ProxyError::ConfigRefused(Arc::clone(refused))),
        };
        let resources = [ResourceType::Cluster, ResourceType::Endpoints].into_iter();
        self.backends.push(BackendPart {
            cluster: status::cluster(to.name(), to, facts.now).shortened(ENDPOINTS_SHOWN_MAX),
            weight: 1,
            share_percent: 100.0,
            filters: Vec::new(),
            problem: problem.as_ref().err().map(Outcome::refuse),
            resources: resources.filter_map(|of| resource(facts.link, of, &name)).collect(),
        });
        match asks {
            Asks::Request => Err(ProxyError::CarriesTcp { name }),
            Asks::Connection => problem.map(|()| Outcome::forward(format!("the connection goes to {name}"))),
        }
    }

    fn find_route(&mut self, facts: &Facts<'_>, head: &Head, service: &Service) -> Result<Outcome, ProxyError> {
        let host = head.host();
        let request = RequestFacts {
            host: &host,
            path: head.target.path(),
            query: head.target.query(),
            method: &head.method,
            headers: &head.headers,
        };
        let found = service.table.explain(&request);
        self.virtual_host = found.virtual_host.map(virtual_host);
        self.passed_over = Some(passed_over(&service.table, &found.passed_over, &head.headers));
        let no_route = || ProxyError::NoRoute {
            service: service.name.to_string(),
        };
        let id = found.taken.ok_or_else(no_route)?;
        let route = service.table.route(id);
        let shown = self.route.insert(RoutePart::new(route));
        if let Some(outcome) = preflight(route, head)? {
            return Ok(outcome);
        }
        let compiled = service.route(id);
        in_the_way(route, compiled, facts.now)?;
        match &route.action {
            Action::Respond(DirectResponse { status, body: _ }) => Ok(Outcome::answer(
                "respond",
                status.as_u16(),
                "the route answers".to_owned(),
            )),
            Action::Redirect(Redirect { status, .. }) => {
                let location = match plan::plan(head, service, 0).plan? {
                    RequestPlan::Answer(answer) => answer.headers.get(http::header::LOCATION).cloned(),
                    RequestPlan::Preflight(_) | RequestPlan::Forward(_) => None,
                };
                let location = location.as_ref().and_then(|location| location.to_str().ok());
                let why = format!("the route redirects to {}", location.unwrap_or("nowhere"));
                Ok(Outcome::answer("redirect", status.as_u16(), why))
            }
            Action::Forward(forward) => {
                shown.forward = Some(ForwardPart::new(forward, route, head));
                let backends = compiled.map(|compiled| compiled.backends.as_slice());
                self.draw_backend(facts, route, forward, backends.unwrap_or_default())
            }
        }
    }

    fn draw_backend(
        &mut self,
        facts: &Facts<'_>,
        route: &Route,
        forward: &Forward,
        compiled: &[Backend],
    ) -> Result<Outcome, ProxyError> {
        let sum: u64 = forward.backends.iter().map(|backend| u64::from(backend.weight)).sum();
        let (mut open, mut first_problem) = (Vec::new(), None);
        for (weighted, backend) in forward.backends.iter().zip(compiled) {
            let WeightedBackend {
                cluster,
                weight,
                filters,
            } = weighted;
            let problem = match filters.redirect {
                // It answers by itself.
                Some(_) => None,
                None => problem(route, backend, facts.now).err(),
            };
            if self.backends.len() < BACKENDS_SHOWN_MAX {
                let name = cluster.to_string();
                let resources = [ResourceType::Cluster, ResourceType::Endpoints].into_iter();
                self.backends.push(BackendPart {
                    cluster: status::cluster(cluster, backend, facts.now).shortened(ENDPOINTS_SHOWN_MAX),
                    weight: *weight,
                    filters: backend_filters(filters),
                    share_percent: f64::from(*weight) * 100.0 / (sum.max(1) as f64),
                    problem: problem.as_ref().map(Outcome::refuse),
                    resources: resources.filter_map(|of| resource(facts.link, of, &name)).collect(),
                });
            }
            match problem {
                _ if *weight == 0 => {}
                Some(problem) => first_problem = first_problem.or(Some(problem)),
                None => open.push(cluster.to_string()),
            }
        }
        match (open.as_slice(), first_problem) {
            ([], problem) => Err(problem.unwrap_or_else(|| ProxyError::NoBackend {
                route: route.name.clone(),
            })),
            ([only], None) => Ok(Outcome::forward(format!("it is sent to {only}"))),
            (_, None) => Ok(Outcome::forward(
                "it is sent to one of the backends, by weight".to_owned(),
            )),
            (_, Some(_)) => Ok(Outcome::forward(
                "it is sent to one of the backends, by weight; some would not take it".to_owned(),
            )),
        }
    }
}

impl Outcome {
    fn forward(why: String) -> Outcome {
        Outcome {
            action: "forward",
            status: None,
            flag: None,
            why,
            hint: None,
        }
    }

    fn answer(action: &'static str, status: u16, why: String) -> Outcome {
        Outcome {
            action,
            status: Some(status),
            flag: Some("direct"),
            why,
            hint: None,
        }
    }

    fn refuse(error: &ProxyError) -> Outcome {
        Outcome {
            action: "refuse",
            status: Some(error.status().as_u16()),
            flag: Some(error.flag().as_str()),
            why: error.to_string(),
            hint: Some(error.hint()),
        }
    }

    fn ask() -> Outcome {
        Outcome {
            action: "ask",
            status: None,
            flag: None,
            why: format!(
                "nobody has used this name here lately: a request would ask the control plane for it and wait up to {CONFIG_WAIT:?}"
            ),
            hint: Some("ask by POST, and the explanation does the same"),
        }
    }
}

impl RoutePart {
    fn new(route: &Route) -> RoutePart {
        let source = route.name.split('#').next().unwrap_or(&route.name);
        RoutePart {
            name: route.name.clone(),
            source: source.to_owned(),
            policy: route.policy.as_ref().map(|HeldPolicy { name, fields }| PolicyPart {
                name: name.clone(),
                fields: fields.clone(),
            }),
            matches: Matches(&route.matches).to_string(),
            request_headers: changes(&route.request_headers),
            response_headers: changes(&route.response_headers),
            cors: route.cors.as_ref().map(pages),
            rate_limit: route.rate_limit.as_ref().map(rate_limit),
            fault: route.fault.as_ref().map(fault),
            priority: route.priority.map(Priority::level),
            forward: None,
        }
    }
}

impl ForwardPart {
    fn new(forward: &Forward, route: &Route, head: &Head) -> ForwardPart {
        let Forward {
            backends: _,
            mirrors,
            rewrite: Rewrite { host, path },
            timeouts,
            retry,
        } = forward;
        let target = path.as_ref().map(|rewrite| {
            let path = route::rewrite_path(rewrite, &route.matches.path, head.target.path());
            match head.target.query() {
                Some(query) => format!("{path}?{query}"),
                None => path,
            }
        });
        let Timeouts {
            request,
            backend_request,
        } = timeouts;
        let retry = retry.as_ref().map(|retry| {
            let RetryPolicy {
                attempts,
                on,
                codes,
                backoff,
                methods,
            } = retry;
            RetryPart {
                attempts: *attempts,
                on: on.iter().map(|on| on.word()).collect(),
                codes: codes.iter().map(|code| code.as_u16()).collect(),
                backoff_ms: backoff.base.as_millis(),
                max_backoff_ms: backoff.max.as_millis(),
                methods: match methods {
                    RetryMethods::Idempotent => "Idempotent",
                    RetryMethods::Any => "Any",
                },
            }
        });
        ForwardPart {
            mirrors: mirrors.iter().map(mirror).collect(),
            rewritten_target: target,
            rewritten_host: host.clone(),
            timeouts: TimeoutsPart {
                request_ms: request.map(|limit| limit.as_millis()),
                backend_request_ms: backend_request.map(|limit| limit.as_millis()),
            },
            retry,
        }
    }
}

fn rate_limit(limit: &RateLimit) -> RateLimitPart {
    let RateLimit {
        name,
        requests,
        per,
        burst,
    } = limit;
    RateLimitPart {
        name: name.clone(),
        requests: *requests,
        per_ms: per.as_millis(),
        burst: *burst,
    }
}

fn fault(fault: &Fault) -> FaultPart {
    let percent = |parts_per_million: u32| f64::from(parts_per_million) / 10_000.0;
    FaultPart {
        delay: fault.delay.map(|delay| DelayPart {
            percent: percent(delay.parts_per_million),
            duration_ms: delay.duration.as_millis(),
        }),
        abort: fault.abort.map(|abort| AbortPart {
            percent: percent(abort.parts_per_million),
            status: abort.answer.status().as_u16(),
            grpc_status: abort.answer.grpc_status(),
        }),
    }
}

/// What becomes of a request for a name that is none of the mesh's; `name`: what it would be there.
fn outside(facts: &Facts<'_>, head: &Head, name: Option<&ListenerName>, why: String) -> Result<Outcome, ProxyError> {
    let authority = head.authority.as_str();
    let unknown = |why: String| ProxyError::UnknownDestination {
        authority: authority.to_owned(),
        why,
    };
    match facts.snapshot.egress() {
        Some(Egress::Passthrough) => {}
        Some(Egress::Refuse) | None => return Err(unknown(why)),
    }
    if let Some(ListenerName {
        service,
        port: Some(port),
    }) = name
    {
        let any_port = ListenerName {
            service: service.clone(),
            port: None,
        };
        match facts.snapshot.service(&any_port) {
            Some(Lookup::Service(_) | Lookup::Refused(_)) => return Err(unknown(no_such_port(service, *port))),
            Some(Lookup::NoSuchService { .. }) => {}
            None => return Ok(Outcome::ask()),
        }
    }
    let place = Outside::of(&head.authority).map_err(|error| unknown(error.to_string()))?;
    let to = match &facts.outside {
        None => format!("what DNS says of {}, port {}", place.host, place.port),
        Some(Ok(reachable)) => {
            let addresses = reachable.addresses.iter().map(ToString::to_string);
            addresses.collect::<Vec<_>>().join(" or ")
        }
        Some(Err(closed)) => return Err(closed.clone().error(authority)),
    };
    Ok(Outcome {
        action: "pass_through",
        status: None,
        flag: None,
        why: format!("it is not a mesh name: it passes through to {to}"),
        hint: None,
    })
}

/// Why an authority became this name.
fn expansion(head: &Head, name: &ListenerName) -> Vec<String> {
    let host = head.host();
    let service = &name.service;
    let mut because = Vec::new();
    if !host.contains('.') {
        because.push(format!(
            "{host:?} is short: it is looked up in this proxy's own namespace, {}",
            service.namespace
        ));
    } else if host != service.to_string() {
        because.push(format!("{host:?} is short for {service}"));
    }
    because
}

fn resource(link: &LinkStatus, of: ResourceType, name: &str) -> Option<ResourceStatus> {
    let kind = of.to_string();
    let named = |resource: &&ResourceStatus| resource.kind == kind && resource.name == name;
    link.resources.iter().find(named).cloned()
}

fn virtual_host(entry: &HostEntry) -> VirtualHostPart {
    let host = |host: &HostMatch| match host {
        HostMatch::Any => "*".to_owned(),
        HostMatch::Suffix(suffix) => format!("*.{suffix}"),
        HostMatch::Exact(host) => host.clone(),
    };
    VirtualHostPart {
        name: entry.name.to_string(),
        hosts: entry.hosts.iter().take(HOSTS_SHOWN_MAX).map(host).collect(),
    }
}

fn passed_over(table: &RouteTable, all: &[(RouteId, Unmet<'_>)], headers: &HeaderMap) -> PassedOver {
    let is_near = |(_, unmet): &&(RouteId, Unmet<'_>)| *unmet != Unmet::Path;
    let mut chosen: Vec<_> = all.iter().filter(is_near).take(PASSED_SHOWN_MAX).collect();
    let room = PASSED_SHOWN_MAX - chosen.len();
    chosen.extend(all.iter().filter(|passed| !is_near(passed)).take(room));
    chosen.sort_by_key(|(id, _)| *id);
    let routes = chosen.into_iter().map(|(id, unmet)| {
        let route = table.route(*id);
        PassedRoute {
            name: route.name.clone(),
            matches: Matches(&route.matches).to_string(),
            why: match unmet {
                Unmet::Path => "the path is another".to_owned(),
                Unmet::Method(method) => format!("the method is not {method}"),
                Unmet::Header(name) if headers.contains_key(*name) => format!("header {name} holds another value"),
                Unmet::Header(name) => format!("header {name} is absent"),
                Unmet::Query(name) => format!("query parameter {name} is absent or holds another value"),
            },
        }
    });
    PassedOver {
        total: all.len(),
        routes: routes.collect(),
    }
}

/// What of a route's policy stands in the way of a request now: a limit that is reached, a fault that meets all.
fn in_the_way(route: &Route, compiled: Option<&ServiceRoute>, now: Time) -> Result<(), ProxyError> {
    if let Some(limit) = compiled.and_then(|compiled| compiled.limit.as_ref()) {
        limit.would_admit(now).map_err(|retry_after| ProxyError::RateLimited {
            limit: limit.config.clone(),
            retry_after,
        })?;
    }
    match route.fault.and_then(|fault| fault.abort) {
        Some(abort) if draws(abort.parts_per_million, u64::MAX) => Err(ProxyError::Injected {
            route: route.name.clone(),
            answer: abort.answer,
        }),
        Some(_) | None => Ok(()),
    }
}

/// What stands in the way of a request to a backend now, in the order in which it would meet it.
fn problem(route: &Route, backend: &Backend, now: Time) -> Result<(), ProxyError> {
    admission(plan::drawn_cluster(route, Some(backend))?, now)
}

/// What a cluster's limits, breaker and endpoints would say to one more request or connection.
fn admission(cluster: &Cluster, now: Time) -> Result<(), ProxyError> {
    let refused = |refusal| ProxyError::Refused {
        cluster: cluster.label.to_string(),
        refusal,
    };
    let breaker = &cluster.state.breaker;
    let counts = breaker.counts();
    if counts.requests >= counts.limits.max_requests {
        let limit = counts.limits.max_requests;
        return Err(refused(Refusal::Requests { limit }));
    }
    match breaker.state(now) {
        BreakerState::Open { until } => {
            let retry_after = until.saturating_since(now);
            return Err(refused(Refusal::Open { retry_after }));
        }
        BreakerState::Closed | BreakerState::HalfOpen => {}
    }
    if cluster.in_use(now).usable().next().is_none() {
        return Err(cluster.no_endpoint());
    }
    Ok(())
}

/// Changes to a header in words; values are not repeated, they may be secrets.
/// What a backend's own filters do, in words.
fn backend_filters(filters: &BackendFilters) -> Vec<String> {
    let BackendFilters {
        request_headers,
        response_headers,
        rewrite: Rewrite { host, path },
        redirect,
        mirrors,
        cors,
    } = filters;
    let mut all: Vec<String> = Vec::new();
    all.extend(
        changes(request_headers)
            .iter()
            .map(|change| format!("request: {change}")),
    );
    all.extend(
        changes(response_headers)
            .iter()
            .map(|change| format!("answer: {change}")),
    );
    all.extend(host.iter().map(|host| format!("asks for host {host}")));
    all.extend(path.iter().map(|path| match path {
        PathRewrite::Full(path) => format!("asks for path {path}"),
        PathRewrite::Prefix(prefix) => format!("replaces the matched prefix with {prefix}"),
    }));
    all.extend(
        redirect
            .iter()
            .map(|redirect| format!("redirects with {}", redirect.status.as_u16())),
    );
    all.extend(mirrors.iter().map(|copy| format!("copies {}", mirror(copy))));
    all.extend(cors.iter().map(pages));
    all
}

/// What a preflight is answered with, where that does not depend on which backend is drawn.
fn preflight(route: &Route, head: &Head) -> Result<Option<Outcome>, ProxyError> {
    let backends = match &route.action {
        Action::Forward(forward) => forward.backends.as_slice(),
        Action::Redirect(_) | Action::Respond(_) => &[],
    };
    let Some(cors) = &route.cors else { return Ok(None) };
    if backends.iter().any(|backend| backend.filters.cors.is_some()) {
        return Ok(None);
    }
    match cors::evaluate(cors, &head.method, &head.headers).request {
        Next::Continue => Ok(None),
        Next::Deny => Err(ProxyError::origin_not_allowed(route, &head.headers)),
        Next::Allow => {
            let why = "it is a preflight of a page that may use the route".to_owned();
            Ok(Some(Outcome::answer("respond", StatusCode::NO_CONTENT.as_u16(), why)))
        }
    }
}

/// Which pages may use a route, in words.
fn pages(cors: &Cors) -> String {
    let credentials = if cors.credentials { "with" } else { "without" };
    match &cors.origins {
        Listed::Any => format!("pages of every origin may use it, {credentials} credentials"),
        Listed::These(origins) if origins.is_empty() => "no page of another origin may use it".to_owned(),
        Listed::These(origins) => {
            let shown: Vec<String> = origins
                .iter()
                .take(ORIGINS_SHOWN_MAX)
                .map(OriginMatch::to_string)
                .collect();
            let more = match origins.len() - shown.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!(
                "pages of {}{more} may use it, {credentials} credentials",
                shown.join(", ")
            )
        }
    }
}

fn mirror(mirror: &Mirror) -> String {
    format!(
        "{} % to {}",
        f64::from(mirror.parts_per_million) / 10_000.0,
        mirror.cluster
    )
}

fn changes(changes: &HeaderChanges) -> Vec<String> {
    let HeaderChanges { remove, set, add } = changes;
    let removed = remove.iter().map(|name| format!("removes {name}"));
    let set = set.iter().map(|(name, _)| format!("sets {name}"));
    let added = add.iter().map(|(name, _)| format!("adds {name}"));
    removed.chain(set).chain(added).collect()
}

const ORIGINS_SHOWN_MAX: usize = 8;
const PASSED_SHOWN_MAX: usize = 32;
const HOSTS_SHOWN_MAX: usize = 32;
const BACKENDS_SHOWN_MAX: usize = 16;
const ENDPOINTS_SHOWN_MAX: usize = 100;
