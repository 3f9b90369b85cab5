//! One event for each request: metric, log line and span are all made of it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use foldhash::fast::RandomState;
use http::{Method, Version};
use weir_policy::context::Priority;
use weir_policy::health_check::Found;
use weir_policy::names::WorkloadName;
use weir_policy::spiffe::SpiffeId;
use weir_policy::telemetry::Ended;

use crate::access_log::LogBuffer;
use crate::calls::Call;
use crate::exchange::is_failure;
use crate::metrics::{Track, TrackLabels, TrackPlace, WorkerMetrics};
use crate::otlp::SpanSink;
use crate::tcp::TcpRecord;
use crate::telemetry_policy::Told;

/// Which way a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Direction {
    /// Toward our own app.
    Inbound,
    /// From our own app.
    Outbound,
}

impl Direction {
    /// As in metrics, logs and spans.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        }
    }
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
    /// The service asked for (outbound), or the app port (inbound). Shared: made when configuration is compiled, so
    /// that metrics find their counters by its address.
    pub(crate) service: Arc<str>,
    /// The route it took.
    pub(crate) route: Option<Arc<str>>,
    /// The cluster it was sent to.
    pub(crate) cluster: Option<Arc<str>>,
    /// The endpoint that answered, or was tried last.
    pub(crate) endpoint: Option<SocketAddr>,
    /// The workload at the other side, where it is known: upstream's for outbound, downstream's for inbound.
    pub(crate) peer_workload: Option<Arc<WorkloadName>>,
    /// Who is at the other side by its certificate: the upstream for outbound, the downstream for inbound. `None`: it
    /// was spoken to in cleartext, or not at all.
    pub(crate) peer_identity: Option<Arc<SpiffeId>>,
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
    /// How much it matters, as far as somebody has said.
    pub(crate) priority: Option<Priority>,
    /// What it was made for.
    pub(crate) purpose: Purpose,
    /// What is told of it beside metrics.
    pub(crate) told: Told,
}

/// What a request is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// For somebody who wants its answer.
    Call,
    /// To find out whether our app works.
    HealthCheck,
}

impl RequestRecord {
    /// Notes which mesh request it belongs to.
    pub(crate) fn belongs_to(&mut self, call: &Call) {
        self.context_id = call.context.map(|context| context.id.0);
        self.priority = call.context.and_then(|context| context.priority);
    }

    /// The path without a query, should one have slipped in.
    pub(crate) fn path_only(&self) -> &str {
        self.path
            .split_once('?')
            .map_or(self.path.as_str(), |(path, _query)| path)
    }

    /// What a check found, as far as this side can tell: which answers are expected the other side knows.
    fn found(&self) -> Found {
        let unflagged = matches!(self.flag, ResponseFlag::None | ResponseFlag::Direct);
        match (self.status, self.grpc_status) {
            (200..=399, None | Some(0)) if unflagged => Found::Passed,
            _ => Found::Failed,
        }
    }

    /// What became of it, as far as the access log asks. A route's redirect or own answer is what was meant.
    pub(crate) fn ended(&self) -> Ended {
        let as_meant = matches!(self.flag, ResponseFlag::None | ResponseFlag::Direct);
        match as_meant && !is_failure(self.status, self.grpc_status) {
            true => Ended::Well,
            false => Ended::Failed,
        }
    }

    /// The authority as host and port. Brackets of an IPv6 address are not part of the host.
    pub(crate) fn server(&self) -> (&str, Option<u16>) {
        let authority = self.authority.as_str();
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().ok()),
            Some(_) | None => (authority, None),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        (bare.unwrap_or(host), port)
    }
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

impl AttemptOutcome {
    /// As in logs and spans; the status is not in it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            AttemptOutcome::Answered(_) => "answered",
            AttemptOutcome::ConnectFailed => "connect failed",
            AttemptOutcome::Unprocessed => "unprocessed",
            AttemptOutcome::Reset => "reset",
            AttemptOutcome::TimedOut => "timed out",
            AttemptOutcome::Abandoned => "abandoned",
        }
    }
}

/// Why the mesh answered a request or ended it: closed, for metrics and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum ResponseFlag {
    /// The upstream's own answer, whole; or both sides of a connection ended what they sent.
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
    /// The name is none of the mesh's, and leads to where nothing that passes through may go.
    ProhibitedAddress,
    /// The name is none of the mesh's, and has no address.
    NotResolved,
    /// The control plane has not answered about the name.
    NoConfig,
    /// What the control plane said of the name or its cluster was refused here.
    ConfigRefused,
    /// No rule of the service's routes matches.
    NoRoute,
    /// A preflight asks for a page that may not use the route.
    OriginNotAllowed,
    /// The rule has no backend that exists and has weight.
    NoBackend,
    /// The route has taken as many requests as its limit allows.
    RateLimited,
    /// The route answers with a fault on purpose.
    Fault,
    /// It came in cleartext where mutual TLS is asked for.
    CleartextRefused,
    /// It came from a trust domain that is believed no more.
    CallerNotTrusted,
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
    /// No TLS with the endpoint: one of the two does not believe the other, or we have no certificate.
    TlsFailed,
    /// TLS is asked for with the cluster's endpoints, and there is nothing to go by.
    TlsClosed,
    /// The endpoint ended the stream or connection.
    UpstreamReset,
    /// What the endpoint answered is not HTTP.
    UpstreamProtocol,
    /// The time for the last attempt ran out.
    AttemptTimeout,
    /// The time for the whole request ran out.
    RequestTimeout,
    /// No byte came for as long as is allowed.
    IdleTimeout,
    /// The proxy is stopping.
    Draining,
    /// A fault of the proxy's own.
    Internal,
}

impl ResponseFlag {
    /// Every flag, each at the place of its number.
    pub(crate) const ALL: [ResponseFlag; 31] = [
        ResponseFlag::None,
        ResponseFlag::Direct,
        ResponseFlag::BadRequest,
        ResponseFlag::NotCarried,
        ResponseFlag::DownstreamReset,
        ResponseFlag::UnknownDestination,
        ResponseFlag::ProhibitedAddress,
        ResponseFlag::NotResolved,
        ResponseFlag::NoConfig,
        ResponseFlag::ConfigRefused,
        ResponseFlag::NoRoute,
        ResponseFlag::OriginNotAllowed,
        ResponseFlag::NoBackend,
        ResponseFlag::RateLimited,
        ResponseFlag::Fault,
        ResponseFlag::CleartextRefused,
        ResponseFlag::CallerNotTrusted,
        ResponseFlag::NoEndpoint,
        ResponseFlag::LimitReached,
        ResponseFlag::BreakerOpen,
        ResponseFlag::ConnectFailed,
        ResponseFlag::ConnectTimeout,
        ResponseFlag::TlsFailed,
        ResponseFlag::TlsClosed,
        ResponseFlag::UpstreamReset,
        ResponseFlag::UpstreamProtocol,
        ResponseFlag::AttemptTimeout,
        ResponseFlag::RequestTimeout,
        ResponseFlag::IdleTimeout,
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
            ResponseFlag::ProhibitedAddress => "prohibited_address",
            ResponseFlag::NotResolved => "not_resolved",
            ResponseFlag::NoConfig => "no_config",
            ResponseFlag::ConfigRefused => "config_refused",
            ResponseFlag::NoRoute => "no_route",
            ResponseFlag::OriginNotAllowed => "origin_not_allowed",
            ResponseFlag::NoBackend => "no_backend",
            ResponseFlag::RateLimited => "rate_limited",
            ResponseFlag::Fault => "fault",
            ResponseFlag::CleartextRefused => "cleartext_refused",
            ResponseFlag::CallerNotTrusted => "caller_not_trusted",
            ResponseFlag::NoEndpoint => "no_endpoint",
            ResponseFlag::LimitReached => "limit_reached",
            ResponseFlag::BreakerOpen => "breaker_open",
            ResponseFlag::ConnectFailed => "connect_failed",
            ResponseFlag::ConnectTimeout => "connect_timeout",
            ResponseFlag::TlsFailed => "tls_failed",
            ResponseFlag::TlsClosed => "tls_closed",
            ResponseFlag::UpstreamReset => "upstream_reset",
            ResponseFlag::UpstreamProtocol => "upstream_protocol",
            ResponseFlag::AttemptTimeout => "attempt_timeout",
            ResponseFlag::RequestTimeout => "request_timeout",
            ResponseFlag::IdleTimeout => "idle_timeout",
            ResponseFlag::Draining => "draining",
            ResponseFlag::Internal => "internal",
        }
    }
}

/// A request's place in its trace (W3C Trace Context). What was received as parent-id is `parent_id`; what we send on
/// is `span_id`.
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

/// Decides whether a trace is recorded: a trace begun elsewhere keeps its caller's decision, one begun here is decided
/// by its id, so that every proxy with the same ratio decides alike.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sampler {
    /// Ids whose random part is below this are sampled; 2^56 takes all.
    below: u64,
}

impl Sampler {
    /// Samples this share of the traces begun here.
    pub(crate) fn new(ratio: crate::config::Ratio) -> Sampler {
        // W3C Trace Context level 2 makes the rightmost 7 bytes of a trace id random. The product is at most 2^56,
        // which an f64 holds exactly.
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
    /// Counters by where the labels lie; the labels are held so that nothing else can come to lie there.
    tracks: RefCell<HashMap<TrackPlace, (TrackLabels, Arc<Track>), RandomState>>,
    log: Option<LogBuffer>,
    spans: Option<SpanSink>,
}

impl Recorder {
    /// Records into these; `None`: not at all.
    pub(crate) fn new(metrics: Arc<WorkerMetrics>, log: Option<LogBuffer>, spans: Option<SpanSink>) -> Recorder {
        Recorder {
            metrics,
            tracks: RefCell::default(),
            log,
            spans,
        }
    }

    /// The worker's own metrics, for what is not a request.
    pub(crate) fn metrics(&self) -> &Arc<WorkerMetrics> {
        &self.metrics
    }

    /// Counts, logs and exports a request, as far as each is on and the policy tells of it. Never blocks: what the log
    /// or the exporter can't take now is dropped and counted.
    pub(crate) fn record(&self, record: RequestRecord) {
        match record.purpose {
            Purpose::Call => self.count(&record),
            Purpose::HealthCheck => {
                let found = record.found();
                self.metrics.health_check_answered(found);
                // They come by the thousand, and say the same.
                if found == Found::Passed {
                    return;
                }
            }
        }
        if let Some(log) = &self.log
            && record.told.log.takes(record.ended())
        {
            log.write(&record);
        }
        match (&self.spans, record.told.span) {
            (Some(spans), Sampled::Yes) => spans.offer(record),
            (Some(_), Sampled::No) | (None, _) => {}
        }
    }

    /// Logs a TCP connection that has ended, as far as that is on and the policy tells of it.
    pub(crate) fn record_tcp(&self, record: &TcpRecord) {
        if let Some(log) = &self.log
            && record.log.takes(record.ended())
        {
            log.write_tcp(record);
        }
    }

    fn count(&self, record: &RequestRecord) {
        let place = TrackLabels::place(record);
        let mut tracks = self.tracks.borrow_mut();
        if let Some((_, track)) = tracks.get(&place) {
            track.count(record);
            return;
        }
        // Labels of configurations long replaced go with the rest; those in use come back at once.
        if tracks.len() >= CACHED_TRACKS_MAX {
            tracks.clear();
        }
        let labels = TrackLabels::of(record);
        let track = self.metrics.track(&labels);
        track.count(record);
        tracks.insert(place, (labels, track));
    }
}

/// Combinations of labels whose counters a worker finds without hashing text.
const CACHED_TRACKS_MAX: usize = 1_024;

#[cfg(test)]
pub(crate) mod tests {
    use weir_policy::telemetry::AccessLog;

    use super::*;
    use crate::config::Ratio;
    use crate::metrics::Metrics;

    /// A request that went well.
    pub(crate) fn record() -> RequestRecord {
        let endpoint = "10.0.0.7:15006".parse().expect("an address");
        let started = SystemTime::UNIX_EPOCH + Duration::from_micros(1_767_323_045_678_901);
        RequestRecord {
            direction: Direction::Outbound,
            started,
            method: Method::GET,
            authority: "identity.police:8080".to_owned(),
            path: "/v1/people".to_owned(),
            downstream_version: Version::HTTP_11,
            upstream_version: Some(Version::HTTP_2),
            service: Arc::from("identity.police:80"),
            route: Some(Arc::from("HTTPRoute/police/identity#rules[0]")),
            cluster: Some(Arc::from("identity.police:80")),
            endpoint: Some(endpoint),
            peer_workload: "police/identity-1".parse().ok().map(Arc::new),
            peer_identity: "spiffe://mesh.gov/ns/police/sa/identity".parse().ok().map(Arc::new),
            downstream: DownstreamAddr::Tcp("127.0.0.1:40000".parse().expect("an address")),
            status: 200,
            grpc_status: None,
            flag: ResponseFlag::None,
            error: None,
            attempts: vec![AttemptEvent {
                endpoint,
                outcome: AttemptOutcome::Answered(200),
                at: Duration::from_micros(2_500),
            }],
            duration: Duration::from_micros(3_250),
            upstream_first_byte: Some(Duration::from_micros(2_500)),
            request_bytes: 0,
            response_bytes: 42,
            trace: TraceIds {
                trace_id: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
                span_id: [0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18],
                parent_id: Some([0x21; 8]),
                sampled: Sampled::Yes,
            },
            context_id: Some(255),
            priority: Priority::from_level(2),
            purpose: Purpose::Call,
            told: Told {
                log: AccessLog::All,
                span: Sampled::Yes,
                tags: Vec::new(),
            },
        }
    }

    #[track_caller]
    fn check_server(authority: &str, host: &str, port: Option<u16>) {
        let mut asked = record();
        asked.authority = authority.to_owned();
        assert_eq!(asked.server(), (host, port), "{authority}");
    }

    #[test]
    fn an_authority_comes_apart() {
        check_server("a.b:80", "a.b", Some(80));
        check_server("a.b", "a.b", None);
        check_server("[::1]:80", "::1", Some(80));
        check_server("[::1]", "::1", None);
        check_server("a:99999", "a", None);
        check_server("", "", None);
    }

    #[track_caller]
    fn ends(expect: Ended, change: impl FnOnce(&mut RequestRecord)) {
        let mut ended = record();
        change(&mut ended);
        let RequestRecord {
            flag,
            status,
            grpc_status,
            ..
        } = &ended;
        assert_eq!(ended.ended(), expect, "{flag:?} {status} {grpc_status:?}");
    }

    #[test]
    fn what_failed_is_the_upstreams_or_the_meshs_doing_or_was_left() {
        use Ended::{Failed, Well};
        for (status, expect) in [
            (200, Well),
            (302, Well),
            (404, Well),
            (429, Well),
            (500, Failed),
            (503, Failed),
        ] {
            ends(expect, |record| record.status = status);
            ends(expect, |record| {
                record.status = status;
                record.flag = ResponseFlag::Direct;
            });
        }
        for (grpc_status, expect) in [
            (0, Well),
            (5, Well),
            (8, Well),
            (2, Failed),
            (4, Failed),
            (13, Failed),
            (14, Failed),
        ] {
            ends(expect, |record| record.grpc_status = Some(grpc_status));
        }
        let silent = [ResponseFlag::None, ResponseFlag::Direct];
        for flag in ResponseFlag::ALL.into_iter().filter(|flag| !silent.contains(flag)) {
            ends(Failed, |record| record.flag = flag);
        }
    }

    #[test]
    fn labels_that_lie_elsewhere_are_counted_as_the_same() {
        let metrics = Metrics::default();
        let recorder = Recorder::new(metrics.worker(), None, None);
        // Each record has labels of its own making, more than the cache holds.
        for _ in 0..CACHED_TRACKS_MAX + 10 {
            recorder.record(record());
        }
        let shared = record();
        for _ in 0..10 {
            recorder.record(shared.clone());
        }
        assert!(recorder.tracks.borrow().len() <= CACHED_TRACKS_MAX);
        let page = metrics.page().expect("the page");
        let counted: Vec<&str> = page
            .lines()
            .filter(|line| line.starts_with("weir_requests_total"))
            .collect();
        assert_eq!(counted.len(), 1, "{page}");
        assert!(counted[0].ends_with(&format!(" {}", CACHED_TRACKS_MAX + 20)), "{page}");
    }

    #[test]
    fn a_callers_decision_is_kept() {
        let (none, all) = (Sampler::new(Ratio::NONE), Sampler::new(Ratio::ALL));
        let id = record().trace.trace_id;
        assert_eq!(none.decide(Some(Sampled::Yes), &id), Sampled::Yes);
        assert_eq!(all.decide(Some(Sampled::No), &id), Sampled::No);
        assert_eq!(none.decide(None, &[0; 16]), Sampled::No);
        assert_eq!(all.decide(None, &[0xff; 16]), Sampled::Yes);
    }

    #[test]
    fn a_trace_begun_here_is_decided_by_its_id() {
        let sampler = Sampler::new(Ratio::new(0.25).expect("a ratio"));
        let mut random = fastrand::Rng::with_seed(7);
        let sampled = (0..10_000).filter(|_| {
            let id = random.u128(..).to_be_bytes();
            let decided = sampler.decide(None, &id);
            assert_eq!(sampler.decide(None, &id), decided);
            decided == Sampled::Yes
        });
        let sampled = sampled.count();
        assert!((2_300..2_700).contains(&sampled), "{sampled}");
    }
}
