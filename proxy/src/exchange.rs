//! One request and its answer, from the answer's head to its end: what is held until then, and what is recorded.

use std::future::Future;
use std::mem;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response, Version};
use http_body::Frame;
use hyper::body::Incoming;
use tokio::time::Sleep;
use weir_policy::breaker::{Outcome, RequestPermit};
use weir_policy::cors::AnswerFields;
use weir_policy::deadline::Deadline;
use weir_policy::model::Balancing;
use weir_policy::names::WorkloadName;
use weir_policy::outlier::Seen;
use weir_policy::time::Time;

use crate::clock::Clock;
use crate::contexts::OpenContext;
use crate::endpoints::{Endpoint, EndpointState};
use crate::http::body::Replay;
use crate::http::head::{GRPC_STATUS, Grpc};
use crate::http::upstream::{Lease, Wire};
use crate::metrics::TunnelGuard;
use crate::record::{AttemptEvent, AttemptOutcome, Direction, Recorder, RequestRecord, ResponseFlag};
use crate::relay::{RelayEnd, Relayed};
use crate::snapshot::Cluster;

/// A request under way, from its head on. However it ends, it is recorded exactly once: at the end of its answer, or
/// when it is dropped because the downstream left.
pub(crate) struct Exchange {
    /// What is known so far; `None` once recorded.
    record: Option<RequestRecord>,
    recorder: Rc<Recorder>,
    clock: Clock,
    began: Time,
    grpc: Grpc,
    request: Option<Replay>,
    attempt: Option<Attempt>,
    /// Where an attempt is under way that has no answer yet.
    awaits: Option<SocketAddr>,
    out_of_time: Option<Pin<Box<Sleep>>>,
    cors: Option<Box<AnswerFields>>,
    /// The app's own calls find the context for as long as the request is under way.
    open: Option<OpenContext>,
}

/// What an attempt holds until its answer has ended.
pub(crate) struct Attempt {
    /// `None`: given up so that another attempt could be admitted, which then was not.
    pub(crate) permit: Option<RequestPermit>,
    pub(crate) in_flight: Option<InFlight>,
    pub(crate) lease: Lease,
}

impl Exchange {
    pub(crate) fn new(
        record: RequestRecord,
        recorder: Rc<Recorder>,
        clock: Clock,
        began: Time,
        grpc: Grpc,
        open: Option<OpenContext>,
    ) -> Exchange {
        Exchange {
            record: Some(record),
            recorder,
            clock,
            began,
            grpc,
            request: None,
            attempt: None,
            awaits: None,
            out_of_time: None,
            cors: None,
            open,
        }
    }

    /// When the request's head was complete.
    pub(crate) fn began(&self) -> Time {
        self.began
    }

    /// Time since then.
    pub(crate) fn elapsed(&self) -> Duration {
        self.clock.now().saturating_since(self.began)
    }

    /// What the downstream spoke; `None` once recorded.
    pub(crate) fn downstream_version(&self) -> Option<Version> {
        self.record.as_ref().map(|record| record.downstream_version)
    }

    /// Whether a gRPC caller waits.
    pub(crate) fn grpc(&self) -> Grpc {
        self.grpc
    }

    /// What will be recorded; does nothing once it has been.
    pub(crate) fn note(&mut self, change: impl FnOnce(&mut RequestRecord)) {
        if let Some(record) = &mut self.record {
            change(record);
        }
    }

    /// What the answer has to say of CORS, whoever makes it.
    pub(crate) fn will_say(&mut self, cors: Option<Box<AnswerFields>>) {
        self.cors = cors;
    }

    /// The same, for whoever has the answer.
    pub(crate) fn says(&mut self) -> Option<Box<AnswerFields>> {
        self.cors.take()
    }

    /// An attempt begins.
    pub(crate) fn attempts(&mut self, endpoint: SocketAddr) {
        self.awaits = Some(endpoint);
    }

    /// An attempt has an answer.
    pub(crate) fn attempt_answered(
        &mut self,
        endpoint: SocketAddr,
        workload: Option<&Arc<WorkloadName>>,
        wire: Wire,
        response: &Response<Incoming>,
        now: Time,
    ) {
        let at = now.saturating_since(self.began);
        let status = response.status().as_u16();
        self.attempted(endpoint, workload, AttemptOutcome::Answered(status), at);
        self.note(|record| {
            record.status = status;
            record.grpc_status = grpc_status(response.headers());
            record.upstream_version = Some(wire.version());
            record.upstream_first_byte = Some(at);
        });
    }

    /// An attempt has none.
    pub(crate) fn attempt_failed(
        &mut self,
        endpoint: SocketAddr,
        workload: Option<&Arc<WorkloadName>>,
        outcome: AttemptOutcome,
    ) {
        let at = self.elapsed();
        self.attempted(endpoint, workload, outcome, at);
    }

    fn attempted(
        &mut self,
        endpoint: SocketAddr,
        workload: Option<&Arc<WorkloadName>>,
        outcome: AttemptOutcome,
        at: Duration,
    ) {
        self.awaits = None;
        self.note(|record| {
            record.endpoint = Some(endpoint);
            record.peer_workload = workload.cloned();
            record.attempts.push(AttemptEvent { endpoint, outcome, at });
        });
    }

    /// The request's body, for its count of bytes.
    pub(crate) fn reads(&mut self, request: Replay) {
        self.request = Some(request);
    }

    /// The answer's head has come and will be passed on; what the attempt holds is held until the answer's end, for
    /// which there is time until `until`.
    pub(crate) fn answered(&mut self, attempt: Attempt, until: Deadline) {
        if let Some(request) = &self.request {
            request.keep_no_more();
        }
        self.attempt = Some(attempt);
        self.out_of_time = until
            .time()
            .map(|until| Box::pin(tokio::time::sleep_until(self.clock.instant(until))));
    }

    /// The answer's head will be passed on, and then bytes both ways, for which there is no time set; what the attempt
    /// holds is held to their end.
    pub(crate) fn goes_on(&mut self, attempt: Attempt) -> TunnelGuard {
        // It has no body, and what was kept of that is not needed any more.
        self.request = None;
        self.attempt = Some(attempt);
        if let Some(open) = &mut self.open {
            open.goes_on();
        }
        let direction = self.record.as_ref().map(|record| record.direction);
        self.recorder.metrics().tunnel(direction.unwrap_or(Direction::Outbound))
    }

    /// The bytes both ways have ended; `idle` is how long they might have rested.
    pub(crate) fn relayed(mut self: Box<Self>, relayed: Relayed, idle: Duration) {
        let RelayVerdict {
            outcome,
            seen,
            flag,
            error,
        } = RelayVerdict::of(relayed.end, idle);
        self.end_attempt(outcome, seen);
        self.note(|record| {
            record.request_bytes = relayed.from_downstream;
            record.response_bytes = relayed.to_downstream;
            record.flag = flag;
            record.error = error;
        });
        self.record();
    }

    /// A frame of the answer passes.
    pub(crate) fn passed(&mut self, frame: &Frame<Bytes>) {
        let Some(record) = &mut self.record else { return };
        if let Some(data) = frame.data_ref() {
            record.response_bytes += data.len() as u64;
        }
        if let Some(trailers) = frame.trailers_ref() {
            record.grpc_status = grpc_status(trailers).or(record.grpc_status);
        }
    }

    /// Whether the time is out; the task is woken when it is.
    pub(crate) fn poll_out_of_time(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.out_of_time {
            Some(sleep) => sleep.as_mut().poll(cx) == Poll::Ready(()),
            None => false,
        }
    }

    /// The answer has been passed on to its end.
    pub(crate) fn complete(mut self: Box<Self>) {
        let statuses = self.record.as_ref().map(|record| (record.status, record.grpc_status));
        let failed = statuses.is_some_and(|(status, grpc_status)| is_failure(status, grpc_status));
        let request_sent = self.request.as_ref().is_none_or(Replay::is_spent);
        let now = self.clock.now();
        if let Some(Attempt {
            permit,
            in_flight,
            lease,
        }) = self.attempt.take()
        {
            let outcome = if failed { Outcome::Failure } else { Outcome::Success };
            finish(permit, outcome, now);
            if let (Some(in_flight), Some((status, grpc_status))) = (in_flight, statuses) {
                in_flight.complete(seen(status, grpc_status), now);
            }
            if request_sent {
                lease.release();
            }
        }
        self.record_at(now);
    }

    /// The upstream ended its answer before its end.
    pub(crate) fn upstream_broke_off(mut self: Box<Self>, error: &hyper::Error) {
        self.end_attempt(Outcome::Failure, Some(Seen::NoAnswer));
        self.note(|record| {
            record.flag = ResponseFlag::UpstreamReset;
            record.error = Some(format!("the upstream ended its answer before its end: {error}"));
        });
    }

    /// The downstream left before the answer's end.
    pub(crate) fn downstream_left(mut self: Box<Self>) {
        self.end_attempt(Outcome::Abandoned, None);
        self.note(|record| record.flag = ResponseFlag::DownstreamReset);
    }

    /// The time ran out before the answer's end. A gRPC caller is told by these trailers; for others the answer breaks
    /// off, so that it doesn't look complete.
    pub(crate) fn ran_out_of_time(mut self: Box<Self>) -> Option<HeaderMap> {
        const DEADLINE_EXCEEDED: u32 = 4;
        self.end_attempt(Outcome::Failure, Some(Seen::NoAnswer));
        let grpc = self.grpc;
        self.note(|record| {
            record.flag = ResponseFlag::RequestTimeout;
            record.error = Some("the time for the request ran out before the answer's end".to_owned());
            if grpc == Grpc::Yes {
                record.grpc_status = Some(DEADLINE_EXCEEDED);
            }
        });
        match grpc {
            Grpc::Yes => {
                let mut trailers = HeaderMap::new();
                trailers.insert(GRPC_STATUS, DEADLINE_EXCEEDED.into());
                trailers.insert(
                    "grpc-message",
                    http::HeaderValue::from_static("the time for the request ran out"),
                );
                Some(trailers)
            }
            Grpc::No => None,
        }
    }

    fn end_attempt(&mut self, outcome: Outcome, seen: Option<Seen>) {
        if let Some(attempt) = self.attempt.take() {
            finish(attempt.permit, outcome, self.clock.now());
            if let (Some(mut in_flight), Some(seen)) = (attempt.in_flight, seen) {
                in_flight.saw(seen);
            }
        }
    }

    fn record(&mut self) {
        self.record_at(self.clock.now());
    }

    fn record_at(&mut self, now: Time) {
        let Some(mut record) = self.record.take() else { return };
        record.duration = now.saturating_since(self.began);
        if let Some(request) = &self.request {
            record.request_bytes = request.received_bytes();
        }
        self.recorder.record(record);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(endpoint) = self.awaits.take() {
            self.attempt_failed(endpoint, None, AttemptOutcome::Abandoned);
        }
        self.note(|record| {
            // Without a status it was dropped before it had an answer: the downstream left.
            if record.status == 0 {
                record.flag = ResponseFlag::DownstreamReset;
            }
        });
        self.record();
    }
}

fn finish(permit: Option<RequestPermit>, outcome: Outcome, now: Time) {
    if let Some(permit) = permit {
        permit.finish(outcome, now);
    }
}

/// Tells the breaker what the answer's head says of the upstream, where it says it: a stream may go on for hours, and a
/// half-open breaker waits for it. What a gRPC answer is, its trailers say.
pub(crate) fn report(permit: &mut RequestPermit, response: &Response<Incoming>, grpc: Grpc, now: Time) {
    let status = response.status().as_u16();
    let grpc_status = grpc_status(response.headers());
    if is_failure(status, grpc_status) {
        permit.report(Outcome::Failure, now);
    } else if grpc == Grpc::No || grpc_status.is_some() {
        permit.report(Outcome::Success, now);
    }
}

/// Whether an answer counts as the upstream's failure: 5xx, or a gRPC status that says so of the server rather than of
/// the request (gRPC, statuscodes.md: UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS).
pub(crate) fn is_failure(status: u16, grpc_status: Option<u32>) -> bool {
    status >= 500 || matches!(grpc_status, Some(2 | 4 | 13 | 14 | 15))
}

/// The `grpc-status` of a header or of trailers.
pub(crate) fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

/// What an answer says of the endpoint that gave it.
fn seen(status: u16, grpc_status: Option<u32>) -> Seen {
    match grpc_status {
        Some(grpc_status) if status < 500 => Seen::of_grpc_status(grpc_status),
        Some(_) | None => Seen::of_status(status),
    }
}

/// What the end of bytes both ways says.
#[derive(Debug, PartialEq)]
struct RelayVerdict {
    outcome: Outcome,
    /// Of the endpoint; `None`: nothing.
    seen: Option<Seen>,
    flag: ResponseFlag,
    /// What went wrong, where something did.
    error: Option<String>,
}

impl RelayVerdict {
    /// `idle` is how long the bytes might have rested.
    fn of(end: RelayEnd, idle: Duration) -> RelayVerdict {
        let (outcome, seen, flag, error) = match end {
            RelayEnd::Finished => (Outcome::Success, None, ResponseFlag::None, None),
            RelayEnd::DownstreamLost(error) => {
                let error = format!("the downstream broke off: {error}");
                (Outcome::Abandoned, None, ResponseFlag::DownstreamReset, Some(error))
            }
            RelayEnd::UpstreamLost(error) => {
                let error = format!("the upstream broke off: {error}");
                let seen = Some(Seen::NoAnswer);
                (Outcome::Failure, seen, ResponseFlag::UpstreamReset, Some(error))
            }
            RelayEnd::Idle => {
                let error = format!("nothing crossed it for {idle:?}");
                (Outcome::Abandoned, None, ResponseFlag::IdleTimeout, Some(error))
            }
            RelayEnd::Drained => {
                let error = "the proxy stops, and the time for its drain is over".to_owned();
                (Outcome::Abandoned, None, ResponseFlag::Draining, Some(error))
            }
        };
        RelayVerdict {
            outcome,
            seen,
            flag,
            error,
        }
    }
}

/// A request on its way at an endpoint: counted in the endpoint's load until dropped. What became of it is told once,
/// as soon as it is known: a stream may go on for hours.
pub(crate) struct InFlight {
    cluster: Arc<Cluster>,
    address: SocketAddr,
    endpoint: Arc<EndpointState>,
    clock: Clock,
    began: Time,
    latency: Latency,
    told: bool,
}

enum Latency {
    /// Until the answer's head.
    Measured(Duration),
    /// There was no answer.
    Failed,
    /// Nobody waited for it.
    Open,
    /// The load has been told.
    Ended,
}

impl InFlight {
    pub(crate) fn begin(cluster: &Arc<Cluster>, endpoint: &Endpoint, clock: Clock, now: Time) -> InFlight {
        endpoint.state.load.begin();
        InFlight {
            cluster: Arc::clone(cluster),
            address: endpoint.address,
            endpoint: Arc::clone(&endpoint.state),
            clock,
            began: now,
            latency: Latency::Open,
            told: false,
        }
    }

    /// The answer's head has come. What a gRPC answer is, its trailers say, unless it is an error already.
    pub(crate) fn answered(&mut self, response: &Response<Incoming>, grpc: Grpc, now: Time) {
        self.latency = Latency::Measured(now.saturating_since(self.began));
        let status = response.status().as_u16();
        let grpc_status = grpc_status(response.headers());
        if grpc == Grpc::No || grpc_status.is_some() || status >= 500 {
            self.saw_at(seen(status, grpc_status), now);
        }
    }

    /// The answer has been passed on to its end.
    fn complete(mut self, seen: Seen, now: Time) {
        self.saw_at(seen, now);
        self.end(now);
    }

    /// A TCP connection is open: what of that took time is known, and the rest is as long as its two ends like.
    pub(crate) fn connected(&mut self) {
        self.latency = Latency::Measured(self.clock.now().saturating_since(self.began));
    }

    /// The other end of a TCP connection has said something, or ended it in good order.
    pub(crate) fn spoke(&mut self) {
        self.saw(Seen::Good);
    }

    /// It broke off. It is the endpoint's fault if it said nothing before: a sidecar takes connections whose app
    /// doesn't.
    pub(crate) fn broke_off(&mut self) {
        self.saw(Seen::NoAnswer);
    }

    /// There will be none. One that the endpoint provably did not work on, because it is leaving, is no fault of it.
    pub(crate) fn failed(&mut self, outcome: AttemptOutcome) {
        self.latency = Latency::Failed;
        match outcome {
            AttemptOutcome::ConnectFailed | AttemptOutcome::Reset | AttemptOutcome::TimedOut => {
                self.saw(Seen::NoAnswer);
            }
            AttemptOutcome::Unprocessed | AttemptOutcome::Abandoned | AttemptOutcome::Answered(_) => {}
        }
    }

    fn saw(&mut self, seen: Seen) {
        self.saw_at(seen, self.clock.now());
    }

    fn saw_at(&mut self, seen: Seen, now: Time) {
        if !self.told {
            self.told = true;
            self.cluster.saw(self.address, &self.endpoint, seen, now);
        }
    }

    /// Takes it out of the endpoint's load, once.
    fn end(&mut self, now: Time) {
        let load = &self.endpoint.load;
        let latency = mem::replace(&mut self.latency, Latency::Ended);
        match (latency, &self.cluster.config.balancing) {
            (Latency::Ended, _) => {}
            (Latency::Measured(latency), Balancing::PeakEwma { decay }) => load.end(Some(latency), now, *decay),
            (Latency::Failed, Balancing::PeakEwma { decay }) => load.end(None, now, *decay),
            (Latency::Open, Balancing::PeakEwma { .. })
            | (Latency::Measured(_) | Latency::Failed | Latency::Open, Balancing::RoundRobin) => load.abandon(),
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !matches!(self.latency, Latency::Ended) {
            self.end(self.clock.now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn the_end_of_a_tunnel_says_whose_it_is() {
        let reset = || io::Error::from(io::ErrorKind::ConnectionReset);
        for (end, outcome, seen, flag) in [
            (RelayEnd::Finished, Outcome::Success, None, ResponseFlag::None),
            (RelayEnd::Idle, Outcome::Abandoned, None, ResponseFlag::IdleTimeout),
            (RelayEnd::Drained, Outcome::Abandoned, None, ResponseFlag::Draining),
            (
                RelayEnd::DownstreamLost(reset()),
                Outcome::Abandoned,
                None,
                ResponseFlag::DownstreamReset,
            ),
            (
                RelayEnd::UpstreamLost(reset()),
                Outcome::Failure,
                Some(Seen::NoAnswer),
                ResponseFlag::UpstreamReset,
            ),
        ] {
            let verdict = RelayVerdict::of(end, Duration::from_secs(3600));
            let error = verdict.error.is_some();
            assert_eq!((verdict.outcome, verdict.seen, verdict.flag), (outcome, seen, flag));
            assert_eq!(error, flag != ResponseFlag::None, "{flag:?}");
        }
    }
}
