//! The mesh's internal model: what the control plane tells a proxy, as plain data. One model, whatever the wire:
//! `weir-xds` converts it to and from the published protos, the proxy compiles it, tables in tests are written in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use crate::backend_tls::BackendTls;
use crate::context::Priority;
use crate::egress::Egress;
use crate::mutual_tls::MutualTls;
use crate::names::{ClusterName, ListenerName, RouteName, WorkloadName};
use crate::roots::RootsName;
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::telemetry::Telemetry;

/// What an app reaches by one name: answered to a subscription for that name.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// The name asked for.
    pub name: ListenerName,
    /// Where its routes come from.
    pub routes: RouteSource,
}

/// What holds for one workload's own proxy, whatever it carries: answered to a subscription for that workload. One that
/// does not exist leaves what is told to the proxy's flags, its ports to mutual TLS alone, and names outside of the
/// mesh unanswered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadPolicy {
    /// Whose proxy.
    pub workload: WorkloadName,
    /// What it tells of its requests.
    pub telemetry: Telemetry,
    /// How its inbound ports are entered.
    pub mutual_tls: MutualTls,
    /// What becomes of its app's requests for names that are none of the mesh's.
    pub egress: Egress,
}

/// Whom the mesh trusts: the roots that every certificate of it leads to, and those of other trust domains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustRoots {
    /// Its one name.
    pub name: RootsName,
    /// The roots, PEM, one or more; the first is the one below which certificates are signed now.
    pub pem: String,
    /// Of each other trust domain whose workloads may call those of the mesh, its roots, PEM, one or more. They are
    /// believed of nobody else.
    pub others: BTreeMap<TrustDomain, String>,
}

/// Where a listener's routes come from.
#[derive(Clone, Debug, PartialEq)]
pub enum RouteSource {
    /// A route configuration of its own, subscribed to by this name.
    Named(RouteName),
    /// Held by the listener itself: used to refuse a name that leaves its port open.
    Inline(Vec<VirtualHost>),
    /// None: it carries TCP, and each connection goes to this cluster.
    Tcp(ClusterName),
}

/// A route configuration: the routes of one service port for one group of consumers.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteConfig {
    /// Its name.
    pub name: RouteName,
    /// One for each set of hosts; a request uses the most specific that matches its host.
    pub virtual_hosts: Vec<VirtualHost>,
}

/// Routes for a set of hosts.
#[derive(Clone, Debug, PartialEq)]
pub struct VirtualHost {
    /// For people: shown in `explain` and the configuration dump.
    pub name: String,
    /// Which hosts; no two virtual hosts of a configuration share one.
    pub hosts: Vec<HostMatch>,
    /// In order of precedence: the first that matches is taken. [`crate::precedence`] sorts.
    pub routes: Vec<Route>,
}

/// Which hosts a virtual host serves; compared without port and in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostMatch {
    /// Every host (`*`).
    Any,
    /// Hosts that end in `.` and this text and have at least one label before it (`*.example.org`).
    Suffix(String),
    /// Exactly this host.
    Exact(String),
}

/// One match with what becomes of the requests it matches.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Where it was written, for people: `HTTPRoute/citizen/health-code#rules[0].matches[0]`. Unique in the virtual
    /// host; in logs, spans and `explain`.
    pub name: String,
    /// Which requests.
    pub matches: RouteMatch,
    /// Changes to the request's header on its way upstream.
    pub request_headers: HeaderChanges,
    /// Changes to the answer's header on its way downstream.
    pub response_headers: HeaderChanges,
    /// Which pages of other origins may use it; `None`: what the app says of that stands.
    pub cors: Option<Cors>,
    /// How many requests it takes; the others are answered with 429. `None`: all.
    pub rate_limit: Option<RateLimit>,
    /// What happens on purpose to those that it takes; `None`: nothing.
    pub fault: Option<Fault>,
    /// How much they matter, where nobody has said that they matter less; `None`: as they came.
    pub priority: Option<Priority>,
    /// The policy that is in the route, for people; `None`: none is.
    pub policy: Option<HeldPolicy>,
    /// What becomes of the request.
    pub action: Action,
}

/// A policy that holds for a route, for people: what it says is in the route's own fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldPolicy {
    /// The resource, never empty: `RoutePolicy/citizen/health-code`.
    pub name: String,
    /// What it says in place of the route, in the resource's words, none of them empty: `retry`, `mirror`.
    pub fields: Vec<String>,
}

/// How many requests come through, by proxy. Limits of one name are one, wherever it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Whose it is, for people: that of a rule, `HTTPRoute/citizen/health-code#rules[0]`.
    pub name: String,
    /// So many, from 1.
    pub requests: u32,
    /// In this time, longer than 0, in the long run.
    pub per: Duration,
    /// So many at once, from 1, if none came before.
    pub burst: u32,
}

/// What happens to requests on purpose, so that it is seen how callers bear it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Some wait first.
    pub delay: Option<FaultDelay>,
    /// Some are answered instead of being sent; after their wait, if they wait.
    pub abort: Option<FaultAbort>,
}

/// Which requests wait, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultDelay {
    /// How many in a million; at most all.
    pub parts_per_million: u32,
    /// How long, more than 0.
    pub duration: Duration,
}

/// Which requests are answered, and with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultAbort {
    /// How many in a million; at most all.
    pub parts_per_million: u32,
    /// With what.
    pub answer: AbortAnswer,
}

/// The answer of a fault; a caller of the other kind gets what it means there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortAnswer {
    /// This status, 200 to 599.
    Http(StatusCode),
    /// This gRPC status, 1 to 16.
    Grpc(u32),
}

/// Which requests a route takes: all conditions hold.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteMatch {
    /// On the path, without the query.
    pub path: PathMatch,
    /// On the method; `None`: any.
    pub method: Option<Method>,
    /// On fields of the header; a name occurs once.
    pub headers: Vec<HeaderMatch>,
    /// On parameters of the query; a name occurs once.
    pub query: Vec<QueryMatch>,
}

/// A condition on the path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathMatch {
    /// The whole path, case-sensitive.
    Exact(String),
    /// Whole segments from the start, case-sensitive: `/abc` takes `/abc` and `/abc/d`, not `/abcd`; a trailing `/`
    /// is ignored (Gateway API, HTTPPathMatch). `/` takes every path.
    Prefix(String),
    /// A regular expression (RE2 syntax) that takes the whole path.
    Regex(String),
}

/// A condition on a header field. Several fields of one name are joined with `,` first (RFC 9110 section 5.3).
#[derive(Clone, Debug, PartialEq)]
pub struct HeaderMatch {
    /// The field.
    pub name: HeaderName,
    /// Its value.
    pub value: ValueMatch,
}

/// A condition on a parameter of the query; of several with one name the first counts (Gateway API,
/// HTTPQueryParamMatch). Compared after percent-decoding.
#[derive(Clone, Debug, PartialEq)]
pub struct QueryMatch {
    /// The parameter, case-sensitive.
    pub name: String,
    /// Its value.
    pub value: ValueMatch,
}

/// A condition on a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ValueMatch {
    /// The whole value, case-sensitive.
    Exact(String),
    /// A regular expression (RE2 syntax) that takes the whole value.
    Regex(String),
}

/// Changes to a header, in the order remove, set, add.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeaderChanges {
    /// Fields taken out.
    pub remove: Vec<HeaderName>,
    /// Fields that replace all of their name.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Fields put beside those of their name.
    pub add: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderChanges {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Changes a header.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }

    /// One set of changes that does what these do and then `next`.
    pub fn then(&self, next: &HeaderChanges) -> HeaderChanges {
        // What the next ones remove or set, these need not touch.
        let stays = |name: &HeaderName| !next.remove.contains(name) && !next.set.iter().any(|(set, _)| set == name);
        let fields = |own: &[(HeaderName, HeaderValue)], next: &[(HeaderName, HeaderValue)]| {
            let own = own.iter().filter(|(name, _)| stays(name));
            own.chain(next).cloned().collect()
        };
        let remove = self.remove.iter().filter(|name| stays(name));
        HeaderChanges {
            remove: remove.chain(&next.remove).cloned().collect(),
            set: fields(&self.set, &next.set),
            add: fields(&self.add, &next.add),
        }
    }
}

/// What becomes of a matched request.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Sent to a backend.
    Forward(Forward),
    /// Answered with a redirect.
    Redirect(Redirect),
    /// Answered with this.
    Respond(DirectResponse),
}

/// How a request is sent on.
#[derive(Clone, Debug, PartialEq)]
pub struct Forward {
    /// One is drawn by weight. None, or all of weight 0: answered with 500 (Gateway API, HTTPRouteRule.backendRefs).
    pub backends: Vec<WeightedBackend>,
    /// Where copies of the request go, whichever backend it goes to.
    pub mirrors: Vec<Mirror>,
    /// How the path and host change.
    pub rewrite: Rewrite,
    /// How long it may take.
    pub timeouts: Timeouts,
    /// When it is sent again beyond what is safe for every request; `None`: only what is safe.
    pub retry: Option<RetryPolicy>,
}

/// A route's weighted reference to a cluster. A cluster that does not exist is answered with 500, in its share.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightedBackend {
    /// The cluster.
    pub cluster: ClusterName,
    /// Its share of the sum of weights.
    pub weight: u32,
    /// What is done to requests that are sent there, beside what the route does.
    pub filters: BackendFilters,
}

/// What is done to the requests for one backend of a route.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BackendFilters {
    /// Changes to the request's header, made before the route's, as Envoy does.
    pub request_headers: HeaderChanges,
    /// Changes to the answer's header, made before the route's.
    pub response_headers: HeaderChanges,
    /// How the target changes; each part that is given holds instead of the route's.
    pub rewrite: Rewrite,
    /// Answered with this redirect instead of being sent.
    pub redirect: Option<Redirect>,
    /// Where copies of the request go, beside those of the route.
    pub mirrors: Vec<Mirror>,
    /// Which pages of other origins may use it; holds instead of the route's.
    pub cors: Option<Cors>,
}

impl BackendFilters {
    /// Whether nothing is done.
    pub fn is_empty(&self) -> bool {
        *self == BackendFilters::default()
    }
}

/// Where copies of requests go. Nobody waits for what becomes of a copy, and it is never sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The cluster. One that does not exist gets none.
    pub cluster: ClusterName,
    /// How many in a million requests are copied; at most all.
    pub parts_per_million: u32,
}

/// How a request's target changes on its way upstream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rewrite {
    /// The new host (`Host`, `:authority`).
    pub host: Option<String>,
    /// The new path.
    pub path: Option<PathRewrite>,
}

/// How a path changes; the query stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRewrite {
    /// The whole path becomes this.
    Full(String),
    /// The prefix that matched becomes this.
    Prefix(String),
}

/// How long a request may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the request's head to the end of the answer, over all attempts. `None`: as long as the caller waits.
    pub request: Option<Duration>,
    /// For one attempt, to the end of its answer. `None`: as `request`.
    pub backend_request: Option<Duration>,
}

/// When a request is sent again because a route says so (Gateway API, GEP-1731).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How often at most, beside the first attempt.
    pub attempts: u32,
    /// What is tried again, beside `codes`.
    pub on: BTreeSet<RetryOn>,
    /// Statuses that are tried again.
    pub codes: Vec<StatusCode>,
    /// How long each retry waits.
    pub backoff: Backoff,
    /// Of which methods a request is sent again that may have been processed.
    pub methods: RetryMethods,
}

/// What is tried again, in Envoy's words (`x-envoy-retry-on`, `x-envoy-retry-grpc-on`) and with their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RetryOn {
    /// An answer with a 5xx, or none: what [`RetryOn::Reset`] takes.
    ServerError,
    /// An answer of 502, 503 or 504, or none: what [`RetryOn::Reset`] takes.
    GatewayError,
    /// No answer: reset, not connected, refused, out of the time for one attempt.
    Reset,
    /// No connection.
    ConnectFailure,
    /// The peer says that it did not process the request (REFUSED_STREAM).
    RefusedStream,
    /// The gRPC status CANCELLED. Of these statuses those count that stand in an answer's head: what follows messages
    /// came too late.
    Cancelled,
    /// The gRPC status DEADLINE_EXCEEDED.
    DeadlineExceeded,
    /// The gRPC status INTERNAL.
    Internal,
    /// The gRPC status RESOURCE_EXHAUSTED.
    ResourceExhausted,
    /// The gRPC status UNAVAILABLE.
    Unavailable,
}

impl RetryOn {
    /// Every word.
    pub const ALL: [RetryOn; 10] = [
        RetryOn::ServerError,
        RetryOn::GatewayError,
        RetryOn::Reset,
        RetryOn::ConnectFailure,
        RetryOn::RefusedStream,
        RetryOn::Cancelled,
        RetryOn::DeadlineExceeded,
        RetryOn::Internal,
        RetryOn::ResourceExhausted,
        RetryOn::Unavailable,
    ];

    /// What HTTPRoute's `retry` takes beside its codes: whatever has no answer (GEP-1731).
    pub fn no_answer() -> BTreeSet<RetryOn> {
        BTreeSet::from([RetryOn::Reset, RetryOn::ConnectFailure, RetryOn::RefusedStream])
    }

    /// The word.
    pub fn word(self) -> &'static str {
        match self {
            RetryOn::ServerError => "5xx",
            RetryOn::GatewayError => "gateway-error",
            RetryOn::Reset => "reset",
            RetryOn::ConnectFailure => "connect-failure",
            RetryOn::RefusedStream => "refused-stream",
            RetryOn::Cancelled => "cancelled",
            RetryOn::DeadlineExceeded => "deadline-exceeded",
            RetryOn::Internal => "internal",
            RetryOn::ResourceExhausted => "resource-exhausted",
            RetryOn::Unavailable => "unavailable",
        }
    }

    /// What a word says.
    pub fn of_word(word: &str) -> Option<RetryOn> {
        RetryOn::ALL.into_iter().find(|on| on.word() == word)
    }

    /// The gRPC status that it takes (gRPC, statuscodes.md).
    pub fn grpc_status(self) -> Option<u32> {
        match self {
            RetryOn::Cancelled => Some(1),
            RetryOn::DeadlineExceeded => Some(4),
            RetryOn::ResourceExhausted => Some(8),
            RetryOn::Internal => Some(13),
            RetryOn::Unavailable => Some(14),
            RetryOn::ServerError
            | RetryOn::GatewayError
            | RetryOn::Reset
            | RetryOn::ConnectFailure
            | RetryOn::RefusedStream => None,
        }
    }
}

/// How long retries wait: the first `base`, each that follows twice as long, none longer than `max`, of which chance
/// takes the upper half. A `base` of zero: none waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first.
    pub base: Duration,
    /// The longest, not shorter than the first.
    pub max: Duration,
}

impl Backoff {
    /// From `base` up to ten times itself, Envoy's published default.
    pub fn tenfold(base: Duration) -> Backoff {
        Backoff {
            base,
            max: base.saturating_mul(10),
        }
    }
}

/// Of which methods a request is sent again that may have been processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RetryMethods {
    /// Of idempotent ones, and of one that the route matches by name: RFC 9110 section 9.2.2 forbids a proxy to do it
    /// to others unasked.
    Idempotent,
    /// Of every one: who wrote it knows that the app can take it twice.
    Any,
}

/// A redirect (Gateway API, HTTPRequestRedirectFilter); what is `None` stays as it was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<Scheme>,
    /// The host.
    pub host: Option<String>,
    /// The port; `None`: the scheme's own if the scheme is given, else as asked for.
    pub port: Option<NonZeroU16>,
    /// The path.
    pub path: Option<PathRewrite>,
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
}

/// A scheme of a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `http`
    Http,
    /// `https`
    Https,
}

impl Scheme {
    /// As it stands in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    /// The port of a URL that names none.
    pub fn port(self) -> NonZeroU16 {
        const HTTP: NonZeroU16 = NonZeroU16::MIN.saturating_add(80 - 1);
        const HTTPS: NonZeroU16 = NonZeroU16::MIN.saturating_add(443 - 1);
        match self {
            Scheme::Http => HTTP,
            Scheme::Https => HTTPS,
        }
    }
}

/// Which pages of other origins may use a route, and how (CORS: Fetch standard, section 3.3; Gateway API, GEP-1767).
/// [`crate::cors`] decides by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Pages of which origins.
    pub origins: Listed<OriginMatch>,
    /// Whether their requests may carry cookies, certificates and the like.
    pub credentials: bool,
    /// Which methods they may use, beside GET, HEAD and POST.
    pub methods: Listed<Method>,
    /// Which fields their requests may have, beside those that a browser lets every page set.
    pub request_fields: Listed<HeaderName>,
    /// Which fields of answers they may read, beside those that a browser lets every page read.
    pub exposed_fields: Listed<HeaderName>,
    /// How many seconds a browser may keep the answer to a preflight, from 1.
    pub max_age_seconds: u32,
}

/// Some of a kind, or all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed<T> {
    /// All (`*`).
    Any,
    /// These; none twice.
    These(Vec<T>),
}

/// Origins of pages (RFC 6454 section 4): all three parts are the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OriginMatch {
    /// The scheme.
    pub scheme: Scheme,
    /// The host, in lower case.
    pub host: HostMatch,
    /// The port; the scheme's own where an origin names none.
    pub port: NonZeroU16,
}

/// As the Gateway API writes it: `https://*.example.org:8443`.
impl fmt::Display for OriginMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OriginMatch { scheme, host, port } = self;
        write!(f, "{}://", scheme.as_str())?;
        match host {
            HostMatch::Any => f.write_str("*")?,
            HostMatch::Suffix(suffix) => write!(f, "*.{suffix}")?,
            HostMatch::Exact(host) => f.write_str(host)?,
        }
        if *port == scheme.port() {
            return Ok(());
        }
        write!(f, ":{port}")
    }
}

/// An answer made by the mesh.
#[derive(Clone, Debug, PartialEq)]
pub struct DirectResponse {
    /// Its status.
    pub status: StatusCode,
    /// Its body, as plain text.
    pub body: String,
}

/// A named group of endpoints, and how they are used.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Its name, and that of its endpoints.
    pub name: ClusterName,
    /// What its endpoints speak.
    pub protocol: AppProtocol,
    /// How long opening a connection may take.
    pub connect_timeout: Duration,
    /// How an endpoint is chosen.
    pub balancing: Balancing,
    /// What one proxy may have open to the cluster at once.
    pub limits: Limits,
    /// When the whole cluster is left alone; `None`: never.
    pub breaker: Option<FailureBreaker>,
    /// When a single endpoint is left alone; `None`: never.
    pub outlier_detection: Option<OutlierDetection>,
    /// How the proxy finds out by itself whether each endpoint works; `None`: it doesn't.
    pub health_check: Option<HealthCheck>,
    /// How an endpoint that has just come gets its full share; `None`: at once.
    pub slow_start: Option<SlowStart>,
    /// How what is near is preferred; `None`: it isn't.
    pub locality: Option<LocalityPreference>,
    /// How connections are kept.
    pub pool: ConnectionPool,
    /// If less than this share of the endpoints could be used, in percent (1 to 100), then all of them are: what is
    /// said to be wrong with so many may be wrong itself. Endpoints that drain are none in this count.
    pub panic_percent: u8,
    /// How much retries may add.
    pub retry_budget: RetryBudget,
    /// How those of its endpoints are reached that have no identity; `None`: in cleartext.
    pub backend_tls: Option<BackendTls>,
    /// The resources that it is made from, as `KIND/NAMESPACE/NAME`: for people, without any effect. None is empty.
    pub sources: Vec<String>,
}

/// What an app port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AppProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, in cleartext by prior knowledge.
    Http2,
    /// gRPC: HTTP/2, and answers made by the mesh are gRPC statuses.
    Grpc,
    /// Anything on TCP: a stream of bytes each way. A connection counts as one request of its cluster.
    Tcp,
}

/// As on the command line and for people.
impl fmt::Display for AppProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AppProtocol::Http1 => "http",
            AppProtocol::Http2 => "http2",
            AppProtocol::Grpc => "grpc",
            AppProtocol::Tcp => "tcp",
        })
    }
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Balancing {
    /// The better of two drawn at random, by peak-EWMA latency times requests in flight.
    PeakEwma {
        /// How fast a measured latency is forgotten: its weight falls to 1/e in this time.
        decay: Duration,
    },
    /// One after the other.
    RoundRobin,
}

/// What one proxy may have open to a cluster at once; what is over is refused, not queued without bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections.
    pub max_connections: u32,
    /// Requests that wait for a connection.
    pub max_pending: u32,
    /// Requests under way.
    pub max_requests: u32,
}

impl Default for Limits {
    /// Envoy's published defaults (1024 each): enough for a sidecar's app, and bounded.
    fn default() -> Self {
        Limits {
            max_connections: 1024,
            max_pending: 1024,
            max_requests: 1024,
        }
    }
}

/// A circuit breaker on the rate of failures: closed, open, half-open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailureBreaker {
    /// The share of failed requests, in percent (1 to 100), at which it opens.
    pub failure_percent: u8,
    /// Requests in the window below which it never opens.
    pub min_requests: u32,
    /// The sliding window over which failures are counted.
    pub window: Duration,
    /// How long it stays open.
    pub open_for: Duration,
    /// How many requests it admits half-open; it closes when all of them succeed and opens again when one fails.
    pub half_open_requests: u32,
}

/// How an endpoint that has just come gets its full share of requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowStart {
    /// How long it takes.
    pub window: Duration,
    /// Greater than 0. 1: the share grows evenly with time; more: fast at first; less: slowly at first.
    pub aggression: f64,
    /// The share to begin with, in percent (1 to 100).
    pub min_weight_percent: u8,
}

/// The own zone is preferred to the own region, and that to the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalityPreference {
    /// How much more than their usual share the endpoints left of a level may get, in percent of it (100 and more),
    /// before requests go to the next one.
    pub overprovisioning_percent: u32,
}

/// How the connections to a cluster are kept, by proxy and endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionPool {
    /// How long one that nobody uses is kept.
    pub idle_timeout: Duration,
    /// How many requests one carries, from 1; `None`: as many as come.
    pub max_requests_per_connection: Option<u32>,
    /// How many requests one that is HTTP/2 carries at once, from 1; `None`: as many as the peer takes. A peer that
    /// takes fewer gets no more.
    pub max_concurrent_streams: Option<u32>,
}

impl Default for ConnectionPool {
    /// Shorter than what common servers keep theirs (nginx 75 s, Go 120 s with defaults of its http.Server examples),
    /// so that it is usually us who close first.
    fn default() -> Self {
        ConnectionPool {
            idle_timeout: Duration::from_secs(55),
            max_requests_per_connection: None,
            max_concurrent_streams: None,
        }
    }
}

/// When single endpoints are left alone for a while. Results of attempts are counted by endpoint and proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutlierDetection {
    /// So many answers with a 5xx one after the other, from 1; `None`: not looked at.
    pub consecutive_5xx_errors: Option<u32>,
    /// So many answers of 502, 503 or 504 one after the other, from 1; `None`: not looked at.
    pub consecutive_gateway_errors: Option<u32>,
    /// So many attempts without an answer one after the other, from 1; `None`: not looked at.
    pub consecutive_local_origin_failures: Option<u32>,
    /// Too large a share of failures; `None`: not looked at.
    pub failure_percentage: Option<FailurePercentage>,
    /// Over which time shares are counted; and how long an endpoint must be in use to be forgiven one ejection.
    pub interval: Duration,
    /// How long the first ejection takes. Each one that follows takes this much longer.
    pub base_ejection_time: Duration,
    /// The longest ejection; not shorter than the base.
    pub max_ejection_time: Duration,
    /// The share of endpoints that may be ejected at once, in percent (1 to 100). The last one never is.
    pub max_ejection_percent: u8,
}

/// Which share of failures is too much: of answers those with a 5xx, of attempts those without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailurePercentage {
    /// The share, in percent (1 to 100), from which on an endpoint is ejected.
    pub threshold: u8,
    /// Requests to the endpoint in the interval below which its share says nothing.
    pub min_requests: u32,
    /// Endpoints with that many requests, itself among them, below which there is nothing to compare with.
    pub min_hosts: u32,
}

/// How a proxy finds out by itself whether each endpoint of a cluster works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked of an endpoint.
    pub kind: HealthCheckKind,
    /// So often a check of an endpoint begins, and a little less often, so that proxies don't check together.
    pub interval: Duration,
    /// How long a check may take; longer, it has failed.
    pub timeout: Duration,
    /// So many failed checks one after the other make an endpoint unhealthy, from 1.
    pub unhealthy_threshold: u32,
    /// So many passed checks one after the other make it healthy again, from 1.
    pub healthy_threshold: u32,
}

/// What a health check asks of an endpoint, over a connection of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthCheckKind {
    /// An answer to GET with one of some statuses.
    Http {
        /// The authority that is asked for; `None`: the cluster's name.
        host: Option<String>,
        /// The path, beginning with `/`.
        path: String,
        /// The statuses that are well, 100 to 599: at least one, in order, each once.
        expected: Vec<StatusCode>,
    },
    /// SERVING, from `grpc.health.v1.Health/Check` (gRPC, health-checking.md). Only of what speaks HTTP/2.
    Grpc {
        /// The service asked about; empty: the server as a whole.
        service: String,
    },
    /// That it takes the connection.
    Tcp,
}

/// How much retries may add to a cluster's load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// Retries per hundred requests of the last `window`.
    pub percent: u8,
    /// Retries per second that are always allowed.
    pub min_per_second: u32,
    /// Over which time requests count.
    pub window: Duration,
}

impl Default for RetryBudget {
    /// A fifth more load at the most, and ten a second so that a quiet service can retry at all: Finagle's and
    /// Linkerd's published defaults.
    fn default() -> Self {
        RetryBudget {
            percent: 20,
            min_per_second: 10,
            window: Duration::from_secs(10),
        }
    }
}

/// The endpoints of a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterEndpoints {
    /// The cluster.
    pub cluster: ClusterName,
    /// Its endpoints; an address occurs once.
    pub endpoints: Vec<Endpoint>,
}

/// One address with what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Address and port: they identify the app port.
    pub address: SocketAddr,
    /// Whether new requests may go there.
    pub health: EndpointHealth,
    /// Where it is.
    pub locality: Locality,
    /// Which workload it is, if it is one of the mesh.
    pub workload: Option<WorkloadName>,
    /// What answers there.
    pub peer: Peer,
    /// Whose certificate it has, if it is reached by mutual TLS: exactly this one is expected. `None`: it is reached in
    /// cleartext, as it is at a port where requests enter the mesh, also by sidecars; or as its cluster's `backend_tls`
    /// says.
    pub identity: Option<Arc<SpiffeId>>,
}

/// Whether new requests may go to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointHealth {
    /// Yes.
    Healthy,
    /// Only if there is no healthy one.
    Unhealthy,
    /// No: it ends what it has under way.
    Draining,
}

/// What answers at an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A weir proxy: it takes HTTP/2 and the request's context.
    WeirProxy,
    /// Anything else: it is spoken to in the app's protocol, and nothing of the mesh's own is sent.
    Plain,
}

/// Where something runs; empty text: unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Locality {
    /// The region.
    pub region: String,
    /// The zone in it.
    pub zone: String,
    /// The site in that.
    pub site: String,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn header_changes_are_remove_then_set_then_add() {
        let name = |name: &'static str| http::HeaderName::from_static(name);
        let value = HeaderValue::from_static;
        let changes = HeaderChanges {
            remove: vec![name("gone"), name("again")],
            set: vec![(name("set"), value("new"))],
            add: vec![(name("again"), value("back")), (name("more"), value("two"))],
        };
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("gone", "1"),
            ("set", "a"),
            ("set", "b"),
            ("more", "one"),
            ("again", "x"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        changes.apply(&mut headers);
        let all = |name: &str| {
            headers
                .get_all(name)
                .iter()
                .map(HeaderValue::as_bytes)
                .collect::<Vec<_>>()
        };
        assert!(all("gone").is_empty());
        assert_eq!(all("set"), [b"new"]);
        assert_eq!(all("more"), [&b"one"[..], b"two"]);
        assert_eq!(all("again"), [b"back"]);
    }

    fn changes() -> impl Strategy<Value = HeaderChanges> {
        let name = || (0..4_usize).prop_map(|at| HeaderName::from_static(["a", "b", "c", "d"][at]));
        let value = || (0..4_usize).prop_map(|at| HeaderValue::from_static(["1", "2", "3", "4"][at]));
        let fields = move || prop::collection::vec((name(), value()), 0..4);
        let parts = (prop::collection::vec(name(), 0..4), fields(), fields());
        parts.prop_map(|(remove, set, add)| HeaderChanges { remove, set, add })
    }

    proptest! {
        #[test]
        fn two_changes_as_one_do_what_both_do(first in changes(), second in changes(), before in changes()) {
            let mut one_by_one = HeaderMap::new();
            before.apply(&mut one_by_one);
            let mut at_once = one_by_one.clone();
            first.apply(&mut one_by_one);
            second.apply(&mut one_by_one);
            first.then(&second).apply(&mut at_once);
            prop_assert_eq!(at_once, one_by_one);
        }
    }
}
