//! A request to our own app, from its head to its answer's head: identify ▸ admit ▸ connect ▸ send ▸ answer. What
//! follows, to the answer's end, is [`Exchange`].

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::net::TcpStream;
use tokio::time::{timeout, timeout_at};
use weir_policy::breaker::{Breaker, Outcome};
use weir_policy::deadline::Deadline;
use weir_policy::model::{AppProtocol, ConnectionPool, Limits};
use weir_policy::mutual_tls::{self, Came};
use weir_policy::retry::{AttemptFacts, Decision, MethodNamed, Replayable, RetryKind, decide};
use weir_policy::trace::TRACESTATE_HEADER;

use crate::answer;
use crate::attempt;
use crate::calls::{self, Call, Caller};
use crate::config::Edge;
use crate::error::ProxyError;
use crate::exchange::{Attempt, Exchange};
use crate::health_check::Asks;
use crate::http::body::{DownstreamBody, Replay, ResponseBody};
use crate::http::head::{Grpc, Head, strip_hop_by_hop, strip_own};
use crate::http::upstream::{Reuse, Target, Wire};
use crate::metrics::Cleartext;
use crate::record::{AttemptOutcome, Direction, Purpose, ResponseFlag};
use crate::tls::Security;
use crate::tunnel;
use crate::worker::{Downstream, Worker};
use http::uri::Scheme;

/// How long connecting to the app may take: it is on this host, so longer means that it does not take connections.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How many checks of a port of the app are under way at once, per process, over all callers; a connection for each, at
/// most. One that is refused is answered with 503, and counts as failed where it came from: an app that so many at once
/// wait for does not answer them.
const CHECKS_MAX: Limits = Limits {
    max_connections: 128,
    max_pending: 128,
    max_requests: 128,
};

/// One port of the app, as its inbound listener knows it.
#[derive(Debug)]
pub(crate) struct InboundApp {
    /// `app:PORT`, for metrics and logs.
    pub(crate) label: Arc<str>,
    /// Where the app listens.
    pub(crate) port: NonZeroU16,
    /// The same, on loopback.
    pub(crate) address: SocketAddr,
    /// What it speaks.
    pub(crate) protocol: AppProtocol,
    /// Whether requests enter the mesh here.
    pub(crate) edge: Edge,
    pub(crate) breaker: Arc<Breaker>,
    /// For checks: those that callers' requests have no place left for would say of a busy app that it does not work,
    /// and callers would leave it.
    pub(crate) checks: Arc<Breaker>,
}

impl InboundApp {
    pub(crate) fn new(port: NonZeroU16, protocol: AppProtocol, edge: Edge) -> InboundApp {
        InboundApp {
            label: format!("app:{port}").into(),
            port,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port.get())),
            protocol,
            edge,
            // No failure breaker: one that opened here would hide the app from callers whose own breakers decide.
            breaker: Arc::new(Breaker::new(Limits::default(), None)),
            checks: Arc::new(Breaker::new(CHECKS_MAX, None)),
        }
    }
}

/// Carries one request.
///
/// # Cancel safety
/// Dropped when the downstream leaves: the request to the app is reset, and recorded as abandoned.
pub(crate) async fn serve(
    worker: &Worker,
    app: &InboundApp,
    downstream: Downstream,
    request: Request<DownstreamBody>,
) -> Response<ResponseBody> {
    let (parts, body) = request.into_parts();
    let grpc = Grpc::of(&parts.method, &parts.headers);
    let caller = Caller::of(worker, app, &downstream);
    let check = Asks::of(&parts, &body).filter(|_| caller == Caller::Sidecar);
    let path = parts.uri.path();
    let began = worker.clock.now();
    let (call, told) = match check {
        Some(_) => calls::check(worker, &parts.headers, path),
        None => calls::inbound(worker, &parts.headers, path, caller, began),
    };
    let label = Arc::clone(&app.label);
    let mut record = calls::record(Direction::Inbound, label, &parts, downstream.address, &call, told);
    record.peer_identity = downstream.peer.as_ref().map(|peer| Arc::clone(&peer.id));
    if check.is_some() {
        record.purpose = Purpose::HealthCheck;
    }
    let contexts = &worker.contexts;
    let open = call
        .context
        .and_then(|context| contexts.open(context, call.deadline, call.place()));
    let mut exchange = Box::new(Exchange::new(
        record,
        Rc::clone(&worker.recorder),
        worker.clock,
        began,
        grpc,
        open,
    ));
    let admitted = admit(worker, app, &downstream);
    if check == Some(Asks::Connection) && admitted.is_ok() {
        return connectable(worker, app, &mut exchange).await;
    }
    let carried = match admitted.and_then(|()| Head::read(parts, downstream.over)) {
        Ok(mut head) => {
            downstream.introduce(&mut head.headers);
            let breaker = if check.is_some() { &app.checks } else { &app.breaker };
            carry(worker, app, breaker, &mut exchange, &call, head, body).await
        }
        Err(error) => Err(error),
    };
    match carried {
        Ok((response, attempt)) => tunnel::answer(exchange, response, attempt, call.deadline),
        Err(error) => {
            let mut response = calls::refuse(worker, &mut exchange, &error);
            // Nothing of the mesh's own leaves it.
            if caller == Caller::Sidecar {
                calls::write_verdict(response.headers_mut(), &error);
            }
            response
        }
    }
}

/// Lets a request in as its connection came, or not. By request and not by connection, so that a change of mode, or of
/// the trust domains that are believed, holds at once for those that are open; by connection where that carries TCP.
pub(crate) fn admit(worker: &Worker, app: &InboundApp, downstream: &Downstream) -> Result<(), ProxyError> {
    let came = match (&downstream.peer, app.edge) {
        (Some(peer), _) if worker.trusts(peer) => return Ok(()),
        (Some(peer), _) => {
            let caller = Arc::clone(&peer.id);
            return Err(ProxyError::CallerNotTrusted { caller });
        }
        (None, Edge::Yes) => Came::FromOutside,
        (None, Edge::No) => Came::Cleartext,
    };
    match worker.entered_by(app.port).evaluate(came) {
        mutual_tls::Decision::Admit => Ok(()),
        mutual_tls::Decision::AdmitAndCount => {
            worker.came_in_cleartext(downstream.address, app.port);
            Ok(())
        }
        mutual_tls::Decision::Refuse => {
            worker.recorder.metrics().cleartext(Cleartext::Refused);
            Err(ProxyError::CleartextRefused { app_port: app.port })
        }
    }
}

/// Answers a check that asks whether the app takes connections.
async fn connectable(worker: &Worker, app: &InboundApp, exchange: &mut Exchange) -> Response<ResponseBody> {
    let endpoint = app.address;
    let _permit = match app.checks.admit_connection() {
        Ok(permit) => permit,
        Err(refusal) => return calls::refuse(worker, exchange, &worker.refused(&app.label, refusal)),
    };
    let error = match timeout(CONNECT_TIMEOUT, TcpStream::connect(endpoint)).await {
        Ok(Ok(_)) => {
            let response = answer::direct(StatusCode::OK, HeaderMap::new(), String::new());
            exchange.note(|record| {
                record.flag = ResponseFlag::Direct;
                record.status = response.status().as_u16();
            });
            return response;
        }
        Ok(Err(source)) => ProxyError::Connect { endpoint, source },
        Err(_) => ProxyError::ConnectTimeout {
            endpoint,
            limit: CONNECT_TIMEOUT,
        },
    };
    worker.health.refused(app.port);
    calls::refuse(worker, exchange, &error)
}

async fn carry(
    worker: &Worker,
    app: &InboundApp,
    breaker: &Arc<Breaker>,
    exchange: &mut Exchange,
    call: &Call,
    mut head: Head,
    body: DownstreamBody,
) -> Result<(Response<Incoming>, Attempt), ProxyError> {
    strip_own(&mut head.headers);
    if app.edge == Edge::Yes {
        // It belongs to the trace that was not continued.
        head.headers.remove(TRACESTATE_HEADER);
    }
    call.write_trace(&mut head.headers);
    call.write_tracestate(&mut head.headers);
    let body = Replay::new(body);
    exchange.reads(body.clone());
    let target = Target {
        address: app.address,
        wire: wire(app.protocol),
        breaker,
        direction: Direction::Inbound,
        connect_timeout: CONNECT_TIMEOUT,
        keep: ConnectionPool::default(),
        security: &Security::Cleartext,
        reuse: match head.upgrade {
            Some(_) => Reuse::No,
            None => Reuse::Allowed,
        },
    };
    let mut attempts = 0;
    let mut unprocessed_resends = 0;
    let mut safe_resends = 0;
    loop {
        let permit = breaker.admit(worker.clock.now());
        let permit = permit.map_err(|refusal| worker.refused(&app.label, refusal))?;
        attempts += 1;
        exchange.attempts(app.address);
        let request = || {
            let mut request = head.request(target.wire, Scheme::HTTP, body.attempt());
            body.pass_interims(target.wire, &mut request);
            request
        };
        // Pinned here, so that it is in this future once and not once for each way to wait for it.
        let mut sending = pin!(attempt::send(
            &worker.upstreams,
            &target,
            &app.label,
            head.upgrade.as_deref(),
            request
        ));
        let tried = match call.deadline.time() {
            None => sending.await,
            Some(until) => match timeout_at(worker.clock.instant(until), sending.as_mut()).await {
                Ok(tried) => tried,
                Err(_) => {
                    exchange.attempt_failed(app.address, None, AttemptOutcome::TimedOut);
                    permit.finish(Outcome::Failure, worker.clock.now());
                    return Err(out_of_time(exchange, &call.deadline));
                }
            },
        };
        let failed = match tried {
            Ok((mut response, lease)) => {
                exchange.attempt_answered(app.address, None, lease.wire(), &response, worker.clock.now());
                *response.version_mut() = http::Version::HTTP_11;
                strip_hop_by_hop(response.headers_mut());
                strip_own(response.headers_mut());
                if let Some(upgrade) = head.upgrade.as_ref().filter(|_| lease.has_switched()) {
                    upgrade.answer(lease.wire(), &mut response);
                    exchange.note(|record| record.status = response.status().as_u16());
                }
                let attempt = Attempt {
                    permit: Some(permit),
                    in_flight: None,
                    lease,
                };
                return Ok((response, attempt));
            }
            Err(failed) => failed,
        };
        exchange.attempt_failed(app.address, None, failed.outcome());
        if let Some(failure) = body.failure() {
            return Err(ProxyError::RequestBody(failure));
        }
        if let ProxyError::Refused { refusal, .. } = failed.error {
            return Err(worker.refused(&app.label, refusal));
        }
        if let ProxyError::Upgrade { .. } = failed.error {
            // The app is well: it speaks something else.
            return Err(failed.error);
        }
        permit.finish(Outcome::Failure, worker.clock.now());
        if matches!(
            failed.error,
            ProxyError::Connect { .. } | ProxyError::ConnectTimeout { .. }
        ) {
            // There is one app and it takes no connections: to ask again at once would not help.
            worker.health.refused(app.port);
            return Err(failed.error);
        }
        let facts = AttemptFacts {
            method: head.method_to_repeat(),
            sent: failed.sent,
            grpc_status: None,
            attempts_made: attempts,
            unprocessed_resends,
            safe_resends,
            replayable: if body.is_whole() {
                Replayable::Yes
            } else {
                Replayable::No
            },
            method_named: MethodNamed::No,
            policy: None,
        };
        match decide(&facts, worker.random()) {
            Decision::Retry {
                kind: kind @ RetryKind::Unprocessed,
                ..
            } => {
                unprocessed_resends += 1;
                worker.recorder.metrics().retried(kind);
            }
            Decision::Retry {
                kind: kind @ RetryKind::SafeResend,
                ..
            } => {
                safe_resends += 1;
                worker.recorder.metrics().retried(kind);
            }
            // Routes, and so their policies, are the callers'.
            Decision::Retry {
                kind: RetryKind::Policy,
                ..
            }
            | Decision::Respond(_) => return Err(failed.error),
        }
    }
}

fn wire(protocol: AppProtocol) -> Wire {
    match protocol {
        AppProtocol::Http1 => Wire::Http1,
        AppProtocol::Http2 | AppProtocol::Grpc => Wire::Http2,
        // Requests don't come to such a port.
        AppProtocol::Tcp => Wire::Http1,
    }
}

fn out_of_time(exchange: &Exchange, deadline: &Deadline) -> ProxyError {
    let limit = deadline
        .time()
        .map_or(Duration::ZERO, |until| until.saturating_since(exchange.began()));
    ProxyError::RequestTimeout { limit }
}
