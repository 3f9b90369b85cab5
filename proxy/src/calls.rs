//! What both hops do with a request's trace and context: read them, decide what is ours, write them on.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body::Body as _;
use weir_policy::context::{CONTEXT_HEADER, Context, ContextId, VERDICT_HEADER, Verdict};
use weir_policy::deadline::Deadline;
use weir_policy::retry::{Reused, Sent};
use weir_policy::time::Time;
use weir_policy::trace::{self, TRACEPARENT_HEADER, TRACESTATE_HEADER, TraceParent};

use crate::answer;
use crate::config::{Edge, Ratio};
use crate::contexts::Place;
use crate::error::ProxyError;
use crate::exchange::Exchange;
use crate::http::body::ResponseBody;
use crate::http::h1::violation::Refused;
use crate::http::head::{GRPC_TIMEOUT, Grpc};
use crate::inbound::InboundApp;
use crate::record::{Direction, DownstreamAddr, Purpose, RequestRecord, ResponseFlag, Sampled, Sampler, TraceIds};
use crate::snapshot::ServiceRoute;
use crate::telemetry_policy::{Excluded, Told};
use crate::worker::{Downstream, Worker};

/// A request's place among others: its trace, and the mesh's own context.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) trace: TraceIds,
    /// What comes next has as its parent: our span, or the caller's if we have none.
    passed_on: [u8; 8],
    pub(crate) context: Option<Context>,
    /// When nobody waits for its answer any more.
    pub(crate) deadline: Deadline,
}

/// For a call of our app: its context is that of the request the app works on.
pub(crate) fn outbound(worker: &Worker, headers: &HeaderMap, path: &str, now: Time) -> (Call, Told) {
    let parent = parent(headers);
    let id = text(headers, &TRACESTATE_HEADER).and_then(trace::weir_id);
    let found = worker.contexts.find(id, parent.as_ref());
    let (trace, passed_on, told) = place(worker, parent.as_ref(), headers, path);
    let call = Call {
        trace,
        passed_on,
        context: found.map(|found| found.context),
        deadline: grpc_deadline(headers, now).earliest(found.map_or(Deadline::NONE, |found| found.deadline)),
    };
    (call, told)
}

/// Who calls our app, as far as it matters what may be taken of what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Somebody outside of the mesh: nothing.
    Outside,
    /// A sidecar of the mesh: all.
    Sidecar,
    /// Somebody in the mesh: not what sidecars say to each other.
    Other,
}

impl Caller {
    /// Who is at the other end of an inbound connection. A mesh without identities has nothing to tell sidecars by.
    pub(crate) fn of(worker: &Worker, app: &InboundApp, downstream: &Downstream) -> Caller {
        match (app.edge, &downstream.peer) {
            (Edge::Yes, _) => Caller::Outside,
            (Edge::No, Some(peer)) if peer.is_weir => Caller::Sidecar,
            (Edge::No, None) if worker.identity.is_none() => Caller::Sidecar,
            (Edge::No, _) => Caller::Other,
        }
    }
}

/// For a request to our app. Where it enters the mesh the context is made, and the trace begins: nothing of either is
/// taken from outside.
pub(crate) fn inbound(worker: &Worker, headers: &HeaderMap, path: &str, caller: Caller, now: Time) -> (Call, Told) {
    let (parent, context) = match caller {
        Caller::Outside => (None, Some(Context::new(ContextId(worker.random())))),
        Caller::Other => (parent(headers), None),
        Caller::Sidecar => {
            let context = headers.get(CONTEXT_HEADER);
            // Half a context is worse than none: what can't be read is as if it weren't there.
            let context = context.and_then(|value| Context::from_header_value(value).ok());
            (parent(headers), context)
        }
    };
    let left = context.and_then(|context| context.deadline_left);
    let (trace, passed_on, told) = place(worker, parent.as_ref(), headers, path);
    let call = Call {
        trace,
        passed_on,
        context,
        deadline: Deadline::after(now, left).earliest(grpc_deadline(headers, now)),
    };
    (call, told)
}

/// A request's place in its trace, the span that what comes next has as its parent, and what is told of the request: as
/// the policy says that is in force now.
fn place(worker: &Worker, parent: Option<&TraceParent>, headers: &HeaderMap, path: &str) -> (TraceIds, [u8; 8], Told) {
    let snapshot = worker.mesh.current();
    let policy = snapshot.telemetry();
    match policy.excludes(path) {
        Excluded::No => {
            let trace = worker.trace_ids(parent, policy.sampler(worker.sampler));
            (trace, trace.span_id, policy.told(trace.sampled, headers))
        }
        // Where there is no span of ours, none may be named as a parent: the caller's own is passed on, and what begins
        // here is recorded by nobody.
        Excluded::Yes => {
            let trace = worker.trace_ids(parent, Sampler::new(Ratio::NONE));
            (trace, trace.parent_id.unwrap_or(trace.span_id), Told::NOTHING)
        }
    }
}

/// For a check of our app: nothing of it is traced, and what the app does for it is no part of any request. Who asks
/// says by leaving how long it waits.
pub(crate) fn check(worker: &Worker, headers: &HeaderMap, path: &str) -> (Call, Told) {
    let snapshot = worker.mesh.current();
    let policy = snapshot.telemetry();
    let told = match policy.excludes(path) {
        Excluded::No => policy.told(Sampled::No, headers),
        Excluded::Yes => Told::NOTHING,
    };
    let trace = worker.trace_ids(None, Sampler::new(Ratio::NONE));
    let call = Call {
        trace,
        passed_on: trace.span_id,
        context: None,
        deadline: Deadline::NONE,
    };
    (call, told)
}

impl Call {
    /// The same on a route of the caller's: with what that says of its priority. Where there is no context yet one
    /// begins with it, called by what `random` gives: what is said has to be carried.
    pub(crate) fn on_route(&self, route: &ServiceRoute, random: impl FnOnce() -> u64) -> Call {
        let Some(priority) = route.priority else {
            return *self;
        };
        let context = self.context.unwrap_or_else(|| Context::new(ContextId(random())));
        Call {
            context: Some(context.on_route(priority)),
            ..*self
        }
    }

    /// Where in its trace it is.
    pub(crate) fn place(&self) -> Place {
        Place {
            trace_id: self.trace.trace_id,
            span_id: self.trace.span_id,
            passed_on: self.passed_on,
        }
    }

    /// Writes the parent of what comes next.
    pub(crate) fn write_trace(&self, headers: &mut HeaderMap) {
        let parent = TraceParent {
            trace_id: self.trace.trace_id,
            parent_id: self.passed_on,
            sampled: self.trace.sampled == Sampled::Yes,
        };
        headers.insert(TRACEPARENT_HEADER, parent.to_header_value());
    }

    /// Writes the context's id where apps pass it on.
    pub(crate) fn write_tracestate(&self, headers: &mut HeaderMap) {
        let Some(context) = &self.context else { return };
        let state = trace::with_weir(text(headers, &TRACESTATE_HEADER), context.id);
        if let Ok(state) = HeaderValue::try_from(state) {
            headers.insert(TRACESTATE_HEADER, state);
        }
    }

    /// Writes the context for the sidecar at the other end: the time that is left now, and which attempt this is.
    pub(crate) fn write_context(&self, headers: &mut HeaderMap, attempt: u32, until: Deadline, now: Time) {
        if let Some(context) = &self.context {
            let context = Context {
                deadline_left: until.remaining(now),
                attempt,
                ..*context
            };
            headers.insert(CONTEXT_HEADER, context.to_header_value());
        }
    }
}

/// Tells the sidecar of a caller that the app gave no answer, if it is that: its answer is made here.
pub(crate) fn write_verdict(headers: &mut HeaderMap, error: &ProxyError) {
    let reason = error.flag();
    if !UNANSWERED.iter().any(|(unanswered, _)| *unanswered == reason) {
        return;
    }
    if let Ok(verdict) = Verdict::new(error.fault(), None, reason.as_str()) {
        headers.insert(VERDICT_HEADER, verdict.to_header_value());
    }
}

/// How far a request came whose app gave no answer, as its sidecar says; `None`: it says nothing of that.
pub(crate) fn unanswered(headers: &HeaderMap) -> Option<Sent> {
    let verdict = Verdict::from_header_value(headers.get(VERDICT_HEADER)?).ok()?;
    let mut reasons = UNANSWERED.into_iter();
    let (_, sent) = reasons.find(|(reason, _)| reason.as_str() == verdict.reason())?;
    Some(sent)
}

/// Why an app gave no answer, and how far the request came then. What was sent to the app twice and failed to connect
/// the second time is of a method that may be repeated: a sidecar sends nothing else again.
const UNANSWERED: [(ResponseFlag, Sent); 3] = [
    (ResponseFlag::ConnectFailed, Sent::No),
    (ResponseFlag::ConnectTimeout, Sent::No),
    (ResponseFlag::UpstreamReset, Sent::Maybe { reused: Reused::No }),
];

/// What is known of a request from its head.
pub(crate) fn record(
    direction: Direction,
    service: Arc<str>,
    parts: &Parts,
    from: DownstreamAddr,
    call: &Call,
    told: Told,
) -> RequestRecord {
    let authority = match parts.uri.authority() {
        Some(authority) => authority.as_str(),
        None => text(&parts.headers, &header::HOST).unwrap_or_default(),
    };
    RequestRecord {
        direction,
        started: SystemTime::now(),
        method: parts.method.clone(),
        authority: authority.to_owned(),
        path: parts.uri.path().to_owned(),
        downstream_version: parts.version,
        upstream_version: None,
        service,
        route: None,
        cluster: None,
        endpoint: None::<SocketAddr>,
        peer_workload: None,
        peer_identity: None,
        downstream: from,
        status: 0,
        grpc_status: None,
        flag: ResponseFlag::None,
        error: None,
        attempts: Vec::new(),
        duration: Duration::ZERO,
        upstream_first_byte: None,
        request_bytes: 0,
        response_bytes: 0,
        trace: call.trace,
        context_id: call.context.map(|context| context.id.0),
        priority: call.context.and_then(|context| context.priority),
        purpose: Purpose::Call,
        told,
    }
}

/// Answers in the mesh's own name, and notes why.
pub(crate) fn refuse(worker: &Worker, exchange: &mut Exchange, error: &ProxyError) -> Response<ResponseBody> {
    let grpc = exchange.grpc();
    let response = answer::refusal(error, grpc, &worker.workload);
    exchange.note(|record| {
        record.flag = error.flag();
        record.status = response.status().as_u16();
        record.grpc_status = crate::exchange::grpc_status(response.headers());
        record.response_bytes = response.body().size_hint().exact().unwrap_or_default();
        record.error = Some(error.to_string());
    });
    response
}

/// What is known of what came on an HTTP/1 connection and is no request, as far as its head could be read.
pub(crate) fn unread_record(
    direction: Direction,
    service: &Arc<str>,
    downstream: DownstreamAddr,
    refused: &Refused,
    call: &Call,
    told: Told,
) -> RequestRecord {
    let mut request = Request::new(());
    if let Some((method, uri)) = &refused.line {
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri.clone();
    } else if let Ok(other) = Method::from_bytes(UNKNOWN_METHOD) {
        *request.method_mut() = other;
    }
    let (parts, ()) = request.into_parts();
    let mut record = record(direction, Arc::clone(service), &parts, downstream, call, told);
    if refused.line.is_none() {
        record.path.clear();
    }
    record
}

/// Answers it; counted and logged as a request.
pub(crate) fn refuse_unread(worker: &Worker, record: RequestRecord, refused: &Refused) -> Response<ResponseBody> {
    let (recorder, clock) = (Rc::clone(&worker.recorder), worker.clock);
    let mut exchange = Exchange::new(record, recorder, clock, clock.now(), Grpc::No, None);
    worker.recorder.metrics().violated(refused.violation);
    refuse(worker, &mut exchange, &ProxyError::Violation(refused.violation))
}

/// OpenTelemetry semantic conventions, `http.request.method`: a method that is none.
const UNKNOWN_METHOD: &[u8] = b"_OTHER";

fn parent(headers: &HeaderMap) -> Option<TraceParent> {
    // W3C Trace Context section 4.3: what can't be read begins a new trace.
    TraceParent::from_header_value(headers.get(TRACEPARENT_HEADER)?).ok()
}

fn text<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The deadline a gRPC caller sets (gRPC, PROTOCOL-HTTP2.md: at most 8 digits and a unit).
fn grpc_deadline(headers: &HeaderMap, now: Time) -> Deadline {
    let timeout = headers
        .get(GRPC_TIMEOUT)
        .and_then(|value| value.to_str().ok())
        .and_then(grpc_timeout);
    Deadline::after(now, timeout)
}

fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count = digits.parse::<u64>().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts_are_read_strictly() {
        for (text, expect) in [
            ("5S", Some(Duration::from_secs(5))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("100m", Some(Duration::from_millis(100))),
            ("7u", Some(Duration::from_micros(7))),
            ("7n", Some(Duration::from_nanos(7))),
            ("2M", Some(Duration::from_secs(120))),
            ("", None),
            ("S", None),
            ("5", None),
            ("-5S", None),
            ("123456789S", None),
            ("5s", None),
            ("5秒", None),
        ] {
            assert_eq!(grpc_timeout(text), expect, "{text:?}");
        }
    }
}
