//! A request of our own app, from its head to its answer's head: identify ▸ plan ▸ limit ▸ admit ▸ choose ▸ connect ▸
//! send ▸ (again?) ▸ answer. What follows, to the answer's end, is [`Exchange`].

use std::num::NonZeroU16;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tokio::time::timeout_at;
use weir_policy::breaker::Outcome;
use weir_policy::deadline::Deadline;
use weir_policy::egress::{Egress, Outside};
use weir_policy::fault::{Injected, injected};
use weir_policy::model::{AppProtocol, Fault, Peer};
use weir_policy::names::{ListenerName, ServiceName};
use weir_policy::retry::{AttemptFacts, Decision, Replayable, RetryKind, Sent, decide};
use weir_policy::time::Time;

use crate::answer;
use crate::attempt::{self, Failed};
use crate::calls::{self, Call};
use crate::egress::dns::DnsError;
use crate::egress::{self, Closed, LOOK_UP_WAIT};
use crate::endpoints::Endpoint;
use crate::error::ProxyError;
use crate::exchange::{self, Attempt, Exchange, InFlight};
use crate::http::body::{DownstreamBody, Replay, RequestBody, ResponseBody};
use crate::http::head::{Grpc, Head, Over, strip_hop_by_hop, strip_own};
use crate::http::upstream::{Lease, Reuse, Target, Wire};
use crate::mesh::Unavailable;
use crate::mirror;
use crate::plan::{self, ForwardPlan, Planned, RequestPlan};
use crate::record::{Direction, DownstreamAddr, ResponseFlag};
use crate::snapshot::{Cluster, Service};
use crate::tls::Security;
use crate::tunnel;
use crate::worker::Worker;

/// How long a request for a name nobody has asked for yet waits for the control plane's answer: some round trips and a
/// busy control plane, but less than what a person waits for a page.
pub(crate) const CONFIG_WAIT: Duration = Duration::from_secs(5);

/// A success to an extended CONNECT says that it is connected (RFC 9113 section 8.5), and to us it is not.
const NO_TUNNEL_HERE: ProxyError = ProxyError::NotCarried("an extended CONNECT where a route answers with a success");

/// Carries one request; `inside`: it came within a CONNECT to that service.
///
/// # Cancel safety
/// Dropped when the downstream leaves: the attempt under way is reset, and the request recorded as abandoned.
pub(crate) async fn serve(
    worker: &Rc<Worker>,
    downstream: DownstreamAddr,
    inside: Option<&ListenerName>,
    request: Request<DownstreamBody>,
) -> Response<ResponseBody> {
    let (parts, body) = request.into_parts();
    let grpc = Grpc::of(&parts.method, &parts.headers);
    let began = worker.clock.now();
    let (call, told) = calls::outbound(worker, &parts.headers, parts.uri.path(), began);
    let record = calls::record(
        Direction::Outbound,
        Arc::clone(&worker.no_service),
        &parts,
        downstream,
        &call,
        told,
    );
    let mut exchange = Box::new(Exchange::new(
        record,
        Rc::clone(&worker.recorder),
        worker.clock,
        began,
        grpc,
        None,
    ));
    let extended = parts.method == Method::CONNECT && parts.version == Version::HTTP_2;
    let carried = if parts.method == Method::CONNECT && parts.version < Version::HTTP_2 {
        Box::pin(connect(worker, &mut exchange, &call, parts, inside)).await
    } else {
        match Head::read(parts, Over::Cleartext) {
            Ok(mut head) => match stays(worker, inside, &head) {
                Ok(()) => carry(worker, &mut exchange, &call, &mut head, Replay::new(body)).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        }
    };
    let cors = exchange.says();
    let carried = match carried {
        Ok(Carried::Direct(response)) if extended && response.status().is_success() => Err(NO_TUNNEL_HERE),
        Err(error) if extended && error.status().is_success() => Err(NO_TUNNEL_HERE),
        carried => carried,
    };
    let mut response = match carried {
        Ok(Carried::Upstream {
            response,
            attempt,
            until,
        }) => tunnel::answer(exchange, response, attempt, until),
        Ok(Carried::Direct(response)) => {
            exchange.note(|record| {
                record.flag = ResponseFlag::Direct;
                record.status = response.status().as_u16();
            });
            response
        }
        Err(error) => calls::refuse(worker, &mut exchange, &error),
    };
    // Also on answers that are made here: a page could not tell one that it may not read from none at all.
    if let Some(cors) = cors {
        cors.apply(response.headers_mut());
    }
    response
}

/// How a request was answered.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are of the large one, which a box would cost an allocation for each request"
)]
enum Carried {
    /// By the upstream.
    Upstream {
        response: Response<Incoming>,
        attempt: Attempt,
        /// When the answer must have ended.
        until: Deadline,
    },
    /// By a route.
    Direct(Response<ResponseBody>),
}

async fn carry(
    worker: &Rc<Worker>,
    exchange: &mut Exchange,
    call: &Call,
    head: &mut Head,
    body: Replay,
) -> Result<Carried, ProxyError> {
    let service = match identify(worker, exchange, call.deadline, head).await? {
        Destination::Service(service) => service,
        Destination::Outside(cluster) => {
            let plan = worker.egress.exit().plan(&cluster);
            prepare(head, &plan, call);
            egress::strip(&mut head.headers);
            return Box::pin(forward(worker, exchange, call, &plan, head, body)).await;
        }
    };
    exchange.note(|record| record.service = Arc::clone(&service.label));
    if service.tcp.is_some() {
        let name = service.name.to_string();
        return Err(ProxyError::CarriesTcp { name });
    }
    let Planned { cors, plan } = plan::plan(head, &service, worker.random());
    exchange.will_say(cors);
    let plan = plan?;
    exchange.note(|record| record.route = Some(Arc::clone(&plan.route().name)));
    if let Some(limit) = plan.uses().and_then(|route| route.limit.as_ref()) {
        limit
            .admit(worker.clock.now())
            .map_err(|wait| worker.rate_limited(limit, wait))?;
    }
    if let Some(fault) = plan.uses().and_then(|route| route.fault.as_ref()) {
        let within = plan.deadline(exchange.began()).earliest(call.deadline);
        Box::pin(meet(worker, exchange, &plan.route().name, fault, within)).await?;
    }
    match plan {
        RequestPlan::Preflight(_) => {
            let response = answer::direct(StatusCode::NO_CONTENT, HeaderMap::new(), String::new());
            Ok(Carried::Direct(response))
        }
        RequestPlan::Answer(answer) => {
            let response = answer::direct(answer.status, answer.headers, answer.body.to_owned());
            Ok(Carried::Direct(response))
        }
        RequestPlan::Forward(plan) => {
            let call = &call.on_route(plan.route, || worker.random());
            exchange.note(|record| {
                record.cluster = Some(Arc::clone(&plan.cluster.label));
                record.belongs_to(call);
            });
            prepare(head, &plan, call);
            let own = Deadline::after(exchange.began(), plan.timeouts.request);
            mirror::send_copies(worker, &plan, head, call, &body, own.earliest(call.deadline));
            forward(worker, exchange, call, &plan, head, body).await
        }
    }
}

/// Answers a CONNECT (RFC 9110 section 9.3.6): what comes within it is served here as well, as a connection to the
/// service that it names.
async fn connect(
    worker: &Worker,
    exchange: &mut Exchange,
    call: &Call,
    parts: Parts,
    inside: Option<&ListenerName>,
) -> Result<Carried, ProxyError> {
    if inside.is_some() {
        return Err(ProxyError::NotCarried("CONNECT within a CONNECT"));
    }
    let length = parts.headers.get(CONTENT_LENGTH).map(HeaderValue::as_bytes);
    if parts.headers.contains_key(TRANSFER_ENCODING) || length.is_some_and(|length| length != b"0") {
        return Err(ProxyError::BadRequest("it is a CONNECT and has a body"));
    }
    let authority = parts
        .uri
        .authority()
        .filter(|authority| !authority.as_str().contains('@'));
    // RFC 9112 section 3.2.3: the port is a part of the authority form. Host says nothing here (section 3.3).
    let Some(authority) = authority.filter(|authority| authority.port_u16().is_some()) else {
        return Err(ProxyError::BadRequest("it is a CONNECT to what is not HOST:PORT"));
    };
    let service = identify_in_mesh(worker, exchange, call.deadline, authority.as_str()).await?;
    exchange.note(|record| record.service = Arc::clone(&service.label));
    if service.tcp.is_some() {
        let name = service.name.to_string();
        return Err(ProxyError::CarriesTcp { name });
    }
    let name = place(worker, authority.as_str()).ok_or(ProxyError::NotCarried("CONNECT to no service of the mesh"))?;
    Ok(Carried::Direct(tunnel::inside(name)))
}

/// Lets a request be whose connection leads anywhere, or to where it goes.
fn stays(worker: &Worker, inside: Option<&ListenerName>, head: &Head) -> Result<(), ProxyError> {
    match inside {
        Some(connected) if place(worker, head.authority.as_str()).as_ref() != Some(connected) => {
            Err(ProxyError::Misdirected {
                authority: head.authority.to_string(),
                connected: connected.to_string(),
            })
        }
        Some(_) | None => Ok(()),
    }
}

/// The service and port that an authority names, where the port of `http` is not written.
fn place(worker: &Worker, authority: &str) -> Option<ListenerName> {
    const HTTP: NonZeroU16 = NonZeroU16::new(80).expect("it is not 0");
    let name = ListenerName::from_authority(authority, &worker.workload.namespace).ok()?;
    let port = name.port.or(Some(HTTP));
    Some(ListenerName { port, ..name })
}

/// What a fault does to the request: nothing, a wait within the request's time, or an answer in place of the
/// upstream's. No upstream has a part in that, so that neither breaker nor outlier detector hears of it.
async fn meet(
    worker: &Worker,
    exchange: &Exchange,
    route: &str,
    fault: &Fault,
    within: Deadline,
) -> Result<(), ProxyError> {
    let Injected { delay, abort } = injected(fault, [worker.random(), worker.random()]);
    if let Some(delay) = delay
        && let Some(_waits) = worker.delayed_on_purpose()
    {
        let end = worker.clock.now() + delay;
        let until = within.earliest(Deadline::at(end)).time().unwrap_or(end);
        tokio::time::sleep_until(worker.clock.instant(until)).await;
        if within.has_passed(worker.clock.now()) {
            return Err(ProxyError::RequestTimeout {
                limit: exchange.elapsed(),
            });
        }
    }
    match abort {
        Some(answer) => Err(worker.aborted_on_purpose(route, answer)),
        None => Ok(()),
    }
}

/// Where a request goes.
enum Destination {
    /// To a service of the mesh.
    Service(Arc<Service>),
    /// Out of it.
    Outside(Arc<Cluster>),
}

/// Where the name leads that the app asked for; waited for if nobody has asked for it yet, within the call's time.
async fn identify(
    worker: &Worker,
    exchange: &mut Exchange,
    within: Deadline,
    head: &Head,
) -> Result<Destination, ProxyError> {
    let authority = head.authority.as_str();
    if let Some(service) = worker.known_service(authority, exchange.began()) {
        return Ok(Destination::Service(service));
    }
    let found = Box::pin(async {
        match in_mesh(worker, within, authority).await? {
            Named::Service(service) => Ok(Destination::Service(service)),
            Named::NoService(why) => outside(worker, exchange, within, head, why)
                .await
                .map(Destination::Outside),
        }
    });
    found
        .await
        .map_err(|error| of_identify(worker, exchange, within, error))
}

/// As [`identify`], for what may not leave the mesh.
async fn identify_in_mesh(
    worker: &Worker,
    exchange: &Exchange,
    within: Deadline,
    authority: &str,
) -> Result<Arc<Service>, ProxyError> {
    if let Some(service) = worker.known_service(authority, exchange.began()) {
        return Ok(service);
    }
    let found = match in_mesh(worker, within, authority).await {
        Ok(Named::Service(service)) => return Ok(service),
        Ok(Named::NoService(why)) => ProxyError::UnknownDestination {
            authority: authority.to_owned(),
            why,
        },
        Err(error) => error,
    };
    Err(of_identify(worker, exchange, within, found))
}

/// Why a name leads nowhere, counted.
fn of_identify(worker: &Worker, exchange: &Exchange, within: Deadline, error: ProxyError) -> ProxyError {
    match error {
        ProxyError::NoConfig {
            why: Unavailable::NoAnswer { .. },
            ..
        } if within.has_passed(worker.clock.now()) => ProxyError::RequestTimeout {
            limit: exchange.elapsed(),
        },
        ProxyError::UnknownDestination { .. } => {
            worker.recorder.metrics().unknown_destination();
            error
        }
        error => error,
    }
}

/// What a name is in the mesh.
enum Named {
    Service(Arc<Service>),
    /// None of it, and why. That is certain.
    NoService(String),
}

async fn in_mesh(worker: &Worker, within: Deadline, authority: &str) -> Result<Named, ProxyError> {
    let name = match ListenerName::from_authority(authority, &worker.workload.namespace) {
        Ok(name) => name,
        Err(error) => return Ok(Named::NoService(error.to_string())),
    };
    match worker.mesh.service(&name, config_wait(worker, within)).await {
        Ok(service) => {
            worker.remember_service(authority, &service);
            Ok(Named::Service(service))
        }
        Err(why @ Unavailable::NoSuchService) => Ok(Named::NoService(why.to_string())),
        Err(why) => Err(ProxyError::of_name(authority, why)),
    }
}

/// The place outside of the mesh to which a name leads that is none of it.
async fn outside(
    worker: &Worker,
    exchange: &mut Exchange,
    within: Deadline,
    head: &Head,
    why: String,
) -> Result<Arc<Cluster>, ProxyError> {
    let authority = head.authority.as_str();
    let unknown = |why: String| ProxyError::UnknownDestination {
        authority: authority.to_owned(),
        why,
    };
    let unanswered = |why: Unavailable| ProxyError::of_name(authority, why);
    let told = worker.mesh.egress(config_wait(worker, within)).await;
    match told.map_err(unanswered)? {
        Egress::Refuse => return Err(unknown(why)),
        Egress::Passthrough => {}
    }
    // A service of the mesh goes before what is outside also on the ports that it lacks.
    let name = ListenerName::from_authority(authority, &worker.workload.namespace).ok();
    if let Some(ListenerName {
        service,
        port: Some(port),
    }) = name
    {
        let there = worker.mesh.has_service(&service, config_wait(worker, within)).await;
        if there.map_err(unanswered)? {
            return Err(unknown(no_such_port(&service, port)));
        }
    }
    let place = Outside::of(&head.authority).map_err(|error| unknown(error.to_string()))?;
    let label = worker.egress.exit().label();
    exchange.note(|record| {
        record.service = Arc::clone(label);
        record.cluster = Some(Arc::clone(label));
    });
    let wire = match exchange.downstream_version() {
        Some(Version::HTTP_2) => Wire::Http2,
        _ => Wire::Http1,
    };
    let now = worker.clock.now();
    let left = within.remaining(now).unwrap_or(LOOK_UP_WAIT);
    let cluster = worker.egress.cluster(place, wire, now, left).await;
    cluster.map_err(|closed| match closed {
        Closed::Dns(DnsError::Timeout(_)) if within.has_passed(worker.clock.now()) => ProxyError::RequestTimeout {
            limit: exchange.elapsed(),
        },
        closed => closed.error(authority),
    })
}

/// Why a service of the mesh is not reached by a port.
pub(crate) fn no_such_port(service: &ServiceName, port: NonZeroU16) -> String {
    format!("{service} has no port {port}")
}

/// How long to wait for the control plane.
fn config_wait(worker: &Worker, within: Deadline) -> Duration {
    let left = within.remaining(worker.clock.now()).unwrap_or(CONFIG_WAIT);
    left.min(CONFIG_WAIT)
}

/// Changes the head as the route says, and puts in the trace.
fn prepare(head: &mut Head, plan: &ForwardPlan<'_>, call: &Call) {
    if let Some(target) = &plan.target {
        head.target = target.clone();
    }
    if let Some(authority) = &plan.authority {
        head.authority = authority.clone();
    }
    plan.backend.request_headers.apply(&mut head.headers);
    plan.request_headers.apply(&mut head.headers);
    // An app can't speak as a sidecar.
    strip_own(&mut head.headers);
    call.write_trace(&mut head.headers);
}

async fn forward(
    worker: &Worker,
    exchange: &mut Exchange,
    call: &Call,
    plan: &ForwardPlan<'_>,
    head: &Head,
    body: Replay,
) -> Result<Carried, ProxyError> {
    let cluster = plan.cluster;
    let label = &cluster.label;
    let deadline = Deadline::after(exchange.began(), plan.timeouts.request).earliest(call.deadline);
    exchange.reads(body.clone());
    cluster.state.budget.deposit(exchange.began());
    let mut counts = Counts::default();
    let mut last = None;
    // What the caller gets if there is no further attempt.
    let mut held = None;
    loop {
        let began = worker.clock.now();
        // An answer that is held has told the breaker what it is; it must not stand in the way of its own retry.
        if let Some(Ok(Carried::Upstream { attempt, .. })) = &mut held {
            attempt.permit = None;
        }
        let mut permit = match cluster.state.breaker.admit(began) {
            Ok(permit) => permit,
            Err(refusal) => return held.unwrap_or_else(|| Err(worker.refused(label, refusal))),
        };
        let Some(endpoint) = plan::choose(cluster, last, began, || worker.random()) else {
            return held.unwrap_or_else(|| Err(cluster.no_endpoint()));
        };
        // Only now is an answer given up that was held: its stream is reset, its connection closed.
        drop(held);
        last = Some(endpoint.address);
        counts.attempts += 1;
        let at = AttemptAt {
            endpoint,
            number: counts.attempts,
            began,
            until: deadline.per_try(began, plan.timeouts.backend_request),
        };
        let mut in_flight = InFlight::begin(cluster, endpoint, worker.clock, began);
        exchange.attempts(endpoint.address);
        let mut grpc_status = None;
        let mut unanswered = None;
        let sent = match attempt_at(worker, head, call, &body, plan, &at).await {
            Ok((mut response, lease)) => {
                let now = worker.clock.now();
                in_flight.answered(&response, exchange.grpc(), now);
                let status = response.status();
                grpc_status = plan.retry.and_then(|_| exchange::grpc_status(response.headers()));
                let (wire, workload) = (lease.wire(), endpoint.workload.as_ref());
                exchange.attempt_answered(endpoint.address, workload, wire, &response, now);
                exchange.note(|record| record.peer_identity = lease.peer());
                exchange::report(&mut permit, &response, exchange.grpc(), now);
                unanswered = match endpoint.is_sidecar_to(worker.identity.as_ref()) {
                    true => calls::unanswered(response.headers()),
                    false => None,
                };
                to_downstream(&mut response, plan);
                if let Some(upgrade) = head.upgrade.as_ref().filter(|_| lease.has_switched()) {
                    upgrade.answer(lease.wire(), &mut response);
                    exchange.note(|record| record.status = response.status().as_u16());
                }
                let attempt = Attempt {
                    permit: Some(permit),
                    in_flight: Some(in_flight),
                    lease,
                };
                held = Some(Ok(Carried::Upstream {
                    response,
                    attempt,
                    until: at.until,
                }));
                Sent::Answered(status)
            }
            Err(failed) => {
                exchange.attempt_failed(endpoint.address, endpoint.workload.as_ref(), failed.outcome());
                if let Some(failure) = body.failure() {
                    return Err(ProxyError::RequestBody(failure));
                }
                if let ProxyError::Refused { refusal, .. } = failed.error {
                    return Err(worker.refused(label, refusal));
                }
                if let ProxyError::Upgrade { .. } = failed.error {
                    // The endpoint is well: it speaks something else.
                    return Err(failed.error);
                }
                permit.finish(Outcome::Failure, worker.clock.now());
                in_flight.failed(failed.outcome());
                if deadline.has_passed(worker.clock.now()) {
                    return Err(ProxyError::RequestTimeout {
                        limit: exchange.elapsed(),
                    });
                }
                held = Some(Err(failed.error));
                failed.sent
            }
        };
        let facts = AttemptFacts {
            method: head.method_to_repeat(),
            sent,
            grpc_status,
            attempts_made: counts.attempts,
            unprocessed_resends: counts.unprocessed_resends,
            safe_resends: counts.safe_resends,
            replayable: if body.is_whole() {
                Replayable::Yes
            } else {
                Replayable::No
            },
            method_named: plan.method_named,
            // The app may have opened what a second one would open again.
            policy: plan.retry.filter(|_| head.upgrade.is_none()),
        };
        let random = worker.random();
        // What a sidecar says of its app decides first: an app that it could not reach is as one that could not be
        // reached from here. Then the answer that the sidecar made of that.
        let by_verdict = unanswered.map(|sent| decide(&AttemptFacts { sent, ..facts }, random));
        let decision = match by_verdict {
            Some(again @ Decision::Retry { .. }) => again,
            Some(Decision::Respond(_)) | None => decide(&facts, random),
        };
        let again = match decision {
            Decision::Retry { kind, backoff } => {
                let wait = backoff.unwrap_or_default();
                let now = worker.clock.now();
                if deadline.allows(now, wait) {
                    (counts.allow(worker, plan, kind) == Budgeted::Yes).then_some(wait)
                } else if kind != RetryKind::Policy {
                    None
                } else if cluster.state.budget.look(now).is_ok() {
                    // The route's retries take longer than the request may: that is what failed, whatever the last one
                    // brought (Gateway API, conformance test HTTPRouteRetryWithTimeouts).
                    return Err(ProxyError::RequestTimeout {
                        limit: exchange.elapsed(),
                    });
                } else {
                    worker.recorder.metrics().retry_budget_spent();
                    None
                }
            }
            Decision::Respond(_) => None,
        };
        match (again, held) {
            (None, Some(held)) => return held,
            // Every attempt leaves something to answer with.
            (None, None) => {
                return Err(ProxyError::NoEndpoint {
                    cluster: label.to_string(),
                });
            }
            (Some(wait), kept) => {
                held = kept;
                if !wait.is_zero() {
                    Box::pin(tokio::time::sleep(wait)).await;
                }
            }
        }
    }
}

/// How often a request has been sent, and why again.
#[derive(Default)]
struct Counts {
    attempts: u32,
    unprocessed_resends: u32,
    safe_resends: u32,
}

impl Counts {
    /// Counts one more retry, if the budget has it.
    fn allow(&mut self, worker: &Worker, plan: &ForwardPlan<'_>, kind: RetryKind) -> Budgeted {
        let metrics = worker.recorder.metrics();
        match kind {
            RetryKind::Unprocessed => self.unprocessed_resends += 1,
            RetryKind::SafeResend => self.safe_resends += 1,
            RetryKind::Policy => {
                if plan.cluster.state.budget.withdraw(worker.clock.now()).is_err() {
                    metrics.retry_budget_spent();
                    return Budgeted::No;
                }
            }
        }
        metrics.retried(kind);
        Budgeted::Yes
    }
}

/// Whether the budget has one more retry.
#[derive(PartialEq, Eq)]
enum Budgeted {
    Yes,
    No,
}

/// One attempt at an endpoint, within its time.
async fn attempt_at(
    worker: &Worker,
    head: &Head,
    call: &Call,
    body: &Replay,
    plan: &ForwardPlan<'_>,
    at: &AttemptAt<'_>,
) -> Result<(Response<Incoming>, Lease), Failed> {
    let cluster = plan.cluster;
    let target = Target {
        address: at.endpoint.address,
        wire: match (&head.upgrade, at.endpoint.peer) {
            (Some(_), Peer::WeirProxy) => Wire::Http1,
            (Some(_) | None, peer) => wire(cluster.config.protocol, peer),
        },
        breaker: &cluster.state.breaker,
        direction: Direction::Outbound,
        connect_timeout: cluster.config.connect_timeout,
        keep: cluster.config.pool,
        security: &at.endpoint.security,
        reuse: match head.upgrade {
            Some(_) => Reuse::No,
            None => Reuse::Allowed,
        },
    };
    let request = || {
        let mut request = request_at(worker, head, call, target.wire, body.attempt(), at);
        body.pass_interims(target.wire, &mut request);
        request
    };
    // Pinned here, so that it is in this future once and not once for each way to wait for it.
    let mut sending = pin!(attempt::send(
        &worker.upstreams,
        &target,
        &cluster.label,
        head.upgrade.as_deref(),
        request
    ));
    let Some(until) = at.until.time() else {
        return sending.await;
    };
    match timeout_at(worker.clock.instant(until), sending.as_mut()).await {
        Ok(tried) => tried,
        Err(_) => Err(attempt::timed_out(&target, until.saturating_since(at.began))),
    }
}

/// The request as an endpoint gets it.
pub(crate) fn request_at(
    worker: &Worker,
    head: &Head,
    call: &Call,
    wire: Wire,
    body: RequestBody,
    at: &AttemptAt<'_>,
) -> Request<RequestBody> {
    let scheme = match at.endpoint.security {
        Security::Backend(_) => Scheme::HTTPS,
        // Between sidecars it is what the app said.
        Security::Cleartext | Security::Mutual(_) => Scheme::HTTP,
    };
    let mut request = head.request(wire, scheme, body);
    if at.endpoint.is_sidecar_to(worker.identity.as_ref()) {
        call.write_context(request.headers_mut(), at.number, at.until, worker.clock.now());
    }
    request
}

/// Which attempt, where, and until when.
pub(crate) struct AttemptAt<'a> {
    pub(crate) endpoint: &'a Endpoint,
    /// From 1.
    pub(crate) number: u32,
    pub(crate) began: Time,
    pub(crate) until: Deadline,
}

/// Between sidecars HTTP/2, whatever the app speaks; to others the app's own protocol.
pub(crate) fn wire(protocol: AppProtocol, peer: Peer) -> Wire {
    match (peer, protocol) {
        (Peer::WeirProxy, _) | (Peer::Plain, AppProtocol::Http2 | AppProtocol::Grpc) => Wire::Http2,
        // No request is sent to what carries TCP: a plan for one has no such cluster.
        (Peer::Plain, AppProtocol::Http1 | AppProtocol::Tcp) => Wire::Http1,
    }
}

/// Takes out of an answer's head what is not for the app, and changes it as the route says.
fn to_downstream(response: &mut Response<Incoming>, plan: &ForwardPlan<'_>) {
    *response.version_mut() = http::Version::HTTP_11;
    let headers = response.headers_mut();
    strip_hop_by_hop(headers);
    strip_own(headers);
    plan.backend.response_headers.apply(headers);
    plan.response_headers.apply(headers);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_bytes<F: Future>(
        _: impl FnOnce(&'static Rc<Worker>, DownstreamAddr, Option<&'static ListenerName>, Request<DownstreamBody>) -> F,
    ) -> usize {
        size_of::<F>()
    }

    /// It is allocated and copied once for each request: what is only needed now and then has a box of its own.
    #[test]
    fn a_request_carries_a_small_future() {
        let size_bytes = size_bytes(serve);
        assert!(size_bytes <= 3584, "{size_bytes}");
    }
}
