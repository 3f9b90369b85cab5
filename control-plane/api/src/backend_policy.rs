//! BackendPolicy: how a service's endpoints are used.

use std::time::Duration;

use schemars::JsonSchema;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::decode::{Errors, Node};
use crate::duration;
use crate::http_route::read::read_path;
use crate::names;
use crate::reference::{self, RefKind};
use crate::schema::texts::{Label, Millis, Path, Printable, Subdomain};

/// How the endpoints of some services are used: how one is chosen, how much is asked of them, when they are left alone,
/// how much retries may add. Of two policies for one port the older holds; one for a named port goes before one for
/// the whole service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendPolicySpec {
    /// Which services it is for, all of its own namespace.
    ///
    /// Rule: none is there twice.
    #[schemars(length(min = 1, max = reference::TARGETS_MAX), extend("x-kubernetes-list-type" = "atomic"))]
    pub target_refs: Vec<TargetRef>,
    /// How an endpoint is chosen. Default: PeakEwma with its default decay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balancing: Option<Balancing>,
    /// What is refused for the endpoints' sake. Default: as if given, with its own defaults.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreaker>,
    /// When a single endpoint is left alone because it fails. Default: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outlier_detection: Option<OutlierDetection>,
    /// How each proxy finds out by itself whether an endpoint works, beside what is said of it and what becomes of
    /// requests. Default: it doesn't.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<Box<HealthCheck>>,
    /// How an endpoint that has just come gets its full share of requests. Default: at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<SlowStart>,
    /// Given, endpoints in the caller's own zone are preferred to those in its region, and these to all others.
    /// Default: all alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locality: Option<LocalityPreference>,
    /// How connections are kept. Default: as if given, with its own defaults.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_pool: Option<ConnectionPool>,
    /// If less than this share of the endpoints could be used, in percent, then all of them are, whatever is said of
    /// them. Default: 1, so that those that can be used are used down to the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub panic_percent: Option<u8>,
    /// How much retries may add. Default: as if given, with its own defaults.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_budget: Option<RetryBudget>,
    /// How long opening a connection may take. Default: 1s.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "duration::serialize_option"
    )]
    #[schemars(with = "Option<Millis<1, 60_000>>")]
    pub connect_timeout: Option<Duration>,
}

/// Inside a government's own network a handshake that takes longer than this does not come; Linkerd's published
/// default for its outbound side.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How fast peak EWMA forgets: Finagle's and Linkerd's published default.
pub const PEAK_EWMA_DECAY: Duration = Duration::from_secs(10);

/// Envoy's published default of [`SlowStart::aggression_percent`].
pub const AGGRESSION_PERCENT: u16 = 100;

/// Envoy's published default of [`SlowStart::min_weight_percent`].
pub const MIN_WEIGHT_PERCENT: u8 = 10;

/// How many failures one after the other are too many where nothing is said: Envoy's published default.
pub const CONSECUTIVE: u32 = 5;

/// The longest ejection where nothing is said, unless the first is longer: Envoy's published default.
pub const MAX_EJECTION_TIME: Duration = Duration::from_secs(300);

/// Healthy endpoints alone are used down to the last one (of a hundred): a service of three has none to give away.
pub const PANIC_PERCENT: u8 = 1;

/// What a policy is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    /// Always a Service.
    #[serde(flatten)]
    #[schemars(with = "reference::Explicit")]
    pub kind: RefKind,
    /// The name of a Service in the policy's own namespace.
    #[schemars(with = "Label")]
    pub name: String,
    /// The name of one of its ports. Default: all of its ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Label>")]
    pub section_name: Option<String>,
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(tag = "type")]
pub enum Balancing {
    /// The better of two drawn at random, by peak-EWMA latency times requests in flight.
    PeakEwma {
        /// How fast a measured latency is forgotten.
        #[schemars(with = "Millis<100, 600_000>", default = "peak_ewma_decay")]
        decay: Duration,
    },
    /// One after the other.
    RoundRobin,
}

impl Default for Balancing {
    fn default() -> Self {
        Balancing::PeakEwma { decay: PEAK_EWMA_DECAY }
    }
}

impl Serialize for Balancing {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Balancing::PeakEwma { decay } => {
                map.serialize_entry("type", "PeakEwma")?;
                map.serialize_entry("decay", &duration::format(*decay))?;
            }
            Balancing::RoundRobin => map.serialize_entry("type", "RoundRobin")?,
        }
        map.end()
    }
}

/// What one proxy refuses, so that a service is not overrun. Limits are by proxy and service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(default)]
pub struct CircuitBreaker {
    /// How many connections may be open.
    #[schemars(range(min = 1, max = COUNT_MAX))]
    pub max_connections: u32,
    /// How many requests may wait for a connection.
    #[schemars(range(max = COUNT_MAX))]
    pub max_pending_requests: u32,
    /// How many requests may be under way.
    #[schemars(range(min = 1, max = COUNT_MAX))]
    pub max_requests: u32,
    /// When the service is left alone because it fails. Default: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures: Option<Failures>,
}

impl Default for CircuitBreaker {
    /// Envoy's published defaults.
    fn default() -> Self {
        CircuitBreaker {
            max_connections: 1024,
            max_pending_requests: 1024,
            max_requests: 1024,
            failures: None,
        }
    }
}

/// When a failing service is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(default)]
pub struct Failures {
    /// The share of failed requests, in percent, at which the breaker opens.
    #[schemars(range(min = 1, max = 100))]
    pub percent: u8,
    /// With fewer requests than this in the window it never opens.
    #[schemars(range(min = 1, max = COUNT_MAX))]
    pub min_requests: u32,
    /// Over which time failures are counted.
    #[serde(serialize_with = "duration::serialize")]
    #[schemars(with = "Millis<100, 600_000>")]
    pub window: Duration,
    /// How long it stays open.
    #[serde(serialize_with = "duration::serialize")]
    #[schemars(with = "Millis<100, 600_000>")]
    pub open_for: Duration,
    /// How many requests it then admits as probes; it closes when all of them succeed.
    #[schemars(range(min = 1, max = 1000))]
    pub half_open_requests: u32,
}

impl Default for Failures {
    /// Half of at least twenty requests within ten seconds (resilience4j's rate; Hystrix's number of requests and
    /// window); then five seconds of rest, and three probes.
    fn default() -> Self {
        Failures {
            percent: 50,
            min_requests: 20,
            window: Duration::from_secs(10),
            open_for: Duration::from_secs(5),
            half_open_requests: 3,
        }
    }
}

/// When single endpoints are left alone for a while, by proxy and service port. With no rule given there are two:
/// consecutive5xxErrors and consecutiveLocalOriginFailures, each 5; with one given, there are only those given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(default)]
pub struct OutlierDetection {
    /// How many answers with a 5xx one after the other are too many; gRPC statuses that speak of the server are read as
    /// the 5xx that they stand for. Default: 5 if no rule is given, otherwise no such rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub consecutive_5xx_errors: Option<u32>,
    /// How many answers of 502, 503 or 504 one after the other are too many. Default: no such rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub consecutive_gateway_errors: Option<u32>,
    /// How many attempts without an answer one after the other are too many: not reached, broken off, out of time.
    /// Default: 5 if no rule is given, otherwise no such rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub consecutive_local_origin_failures: Option<u32>,
    /// Which share of failures is too much. Default: no such rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_percentage: Option<FailurePercentage>,
    /// Over which time shares are counted, and how long an endpoint must be in use to be forgiven one ejection.
    #[serde(serialize_with = "duration::serialize")]
    #[schemars(with = "Millis<100, 600_000>")]
    pub interval: Duration,
    /// How long the first ejection takes; each that follows takes this much longer.
    #[serde(serialize_with = "duration::serialize")]
    #[schemars(with = "Millis<100, 3_600_000>")]
    pub base_ejection_time: Duration,
    /// The longest ejection. Default: 5m, or baseEjectionTime if that is longer.
    ///
    /// Rule: it is not shorter than baseEjectionTime.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "duration::serialize_option"
    )]
    #[schemars(with = "Option<Millis<100, 3_600_000>>")]
    pub max_ejection_time: Option<Duration>,
    /// Which share of the endpoints may be left alone at once, in percent. The last one never is.
    #[schemars(range(min = 1, max = 100))]
    pub max_ejection_percent: u8,
}

impl Default for OutlierDetection {
    /// Envoy's published defaults, but for the share: its 10 % would eject none of a service's first nine endpoints.
    fn default() -> Self {
        OutlierDetection {
            consecutive_5xx_errors: None,
            consecutive_gateway_errors: None,
            consecutive_local_origin_failures: None,
            failure_percentage: None,
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: None,
            max_ejection_percent: 50,
        }
    }
}

impl OutlierDetection {
    /// The same with what is left open filled in: the rules where there are none, and the longest ejection, which is
    /// always there then.
    pub fn filled(self) -> Self {
        let consecutive = [
            self.consecutive_5xx_errors,
            self.consecutive_gateway_errors,
            self.consecutive_local_origin_failures,
        ];
        let given = self.failure_percentage.is_some() || consecutive.iter().any(Option::is_some);
        let by_default = (!given).then_some(CONSECUTIVE);
        let longest = self
            .max_ejection_time
            .unwrap_or(MAX_EJECTION_TIME)
            .max(self.base_ejection_time);
        OutlierDetection {
            consecutive_5xx_errors: self.consecutive_5xx_errors.or(by_default),
            consecutive_local_origin_failures: self.consecutive_local_origin_failures.or(by_default),
            max_ejection_time: Some(longest),
            ..self
        }
    }
}

/// Which share of failures is too much: of answers those with a 5xx, of attempts those without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(default)]
pub struct FailurePercentage {
    /// The share, in percent, from which on an endpoint is left alone.
    #[schemars(range(min = 1, max = 100))]
    pub threshold: u8,
    /// With fewer requests than this to the endpoint in the interval its share says nothing.
    #[schemars(range(min = 1, max = COUNT_MAX))]
    pub min_requests: u32,
    /// With fewer endpoints than this that had so many requests there is nothing to compare with.
    #[schemars(range(min = 1, max = 1000))]
    pub min_hosts: u32,
}

impl Default for FailurePercentage {
    /// Envoy's published defaults.
    fn default() -> Self {
        FailurePercentage {
            threshold: 85,
            min_requests: 50,
            min_hosts: 5,
        }
    }
}

/// How each proxy finds out by itself whether an endpoint works. It checks the endpoints of the services that its app
/// uses, over a connection of its own for each check. An endpoint is healthy until so many checks have failed; it stays
/// unhealthy as long as it is said to be, whatever the checks find.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    /// What is asked of an endpoint. Http: an answer to GET with an expected status. Grpc: SERVING, as
    /// grpc.health.v1.Health/Check answers it; for ports that speak gRPC or HTTP/2. Tcp: that a connection can be
    /// opened; before a sidecar, to the app behind it.
    #[serde(rename = "type")]
    pub kind: HealthCheckType,
    /// What an Http check asks for.
    ///
    /// Rule: it is there exactly for type Http.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpCheck>,
    /// What a Grpc check asks for. Default: how the server is as a whole.
    ///
    /// Rule: it is there for type Grpc only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcCheck>,
    /// How often a check of an endpoint begins; up to a tenth more, so that proxies don't check together. The first
    /// comes within one interval.
    #[serde(serialize_with = "duration::serialize")]
    #[schemars(with = "Millis<100, 3_600_000>", default = "check_interval")]
    pub interval: Duration,
    /// How long a check may take.
    #[serde(serialize_with = "duration::serialize")]
    #[schemars(with = "Millis<10, 60_000>", default = "check_timeout")]
    pub timeout: Duration,
    /// How many checks have to fail one after the other until an endpoint is unhealthy.
    #[schemars(range(min = 1, max = 1000), default = "unhealthy_threshold")]
    pub unhealthy_threshold: u32,
    /// How many checks have to pass one after the other until it is healthy again.
    #[schemars(range(min = 1, max = 1000), default = "healthy_threshold")]
    pub healthy_threshold: u32,
}

/// What a health check asks of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub enum HealthCheckType {
    /// An answer to GET with an expected status.
    Http,
    /// SERVING, as `grpc.health.v1.Health/Check` answers it.
    Grpc,
    /// That a connection can be opened.
    Tcp,
}

/// What an Http check asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpCheck {
    /// The path, without a query.
    ///
    /// Rule: it has no empty segment, none that is `.` or `..`, and no escaped slash.
    #[schemars(with = "Path")]
    pub path: String,
    /// The host. Default: `SERVICE.NAMESPACE:PORT` of the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Subdomain>")]
    pub host: Option<String>,
    /// The statuses that are well.
    ///
    /// Rule: none is there twice.
    #[schemars(
        default = "expected_statuses",
        inner(range(min = 100, max = 599)),
        length(min = 1, max = STATUSES_MAX),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub expected_statuses: Vec<u16>,
}

/// What a Grpc check asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(default)]
pub struct GrpcCheck {
    /// The service asked about. Default: none, for the server as a whole.
    #[schemars(with = "Printable")]
    pub service: String,
}

/// How often endpoints are checked where nothing is said: Kubernetes' published default for probes.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// How long a check may take where nothing is said: Kubernetes' published default for probes.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// How many checks have to fail where nothing is said: the published default of Kubernetes and HAProxy.
pub const UNHEALTHY_THRESHOLD: u32 = 3;

/// How many checks have to pass where nothing is said: HAProxy's published default. One could be chance.
pub const HEALTHY_THRESHOLD: u32 = 2;

/// How an endpoint that has just come gets its full share of requests little by little.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SlowStart {
    /// How long it takes.
    #[serde(serialize_with = "duration::serialize")]
    #[schemars(with = "Millis<1_000, 3_600_000>")]
    pub window: Duration,
    /// 100: the share grows evenly with time. More: it grows fast at first; less: slowly at first.
    #[schemars(range(min = 10, max = 1000), default = "aggression_percent")]
    pub aggression_percent: u16,
    /// The share to begin with, in percent of the full one.
    #[schemars(range(min = 1, max = 100), default = "min_weight_percent")]
    pub min_weight_percent: u8,
}

/// How strongly what is near is preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(default)]
pub struct LocalityPreference {
    /// How much of their usual share the endpoints that are left of a level may get, in percent of it, before requests
    /// go to the next one. With 140, two in seven may be lost before.
    #[schemars(range(min = 100, max = 1000))]
    pub overprovisioning_percent: u32,
}

impl Default for LocalityPreference {
    /// Envoy's published default.
    fn default() -> Self {
        LocalityPreference {
            overprovisioning_percent: 140,
        }
    }
}

/// How the connections to an endpoint are kept, by proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(default)]
pub struct ConnectionPool {
    /// How long a connection that nobody uses is kept.
    #[serde(serialize_with = "duration::serialize")]
    #[schemars(with = "Millis<1_000, 3_600_000>")]
    pub idle_timeout: Duration,
    /// How many requests a connection carries before another takes its place. Default: as many as come.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = COUNT_MAX))]
    pub max_requests_per_connection: Option<u32>,
    /// How many requests an HTTP/2 connection carries at once before another is opened beside it, as long as
    /// circuitBreaker.maxConnections allows; between sidecars it is HTTP/2 whatever the app speaks. A peer that takes
    /// fewer gets no more. Default: as many as the peer takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = COUNT_MAX))]
    pub max_concurrent_streams: Option<u32>,
}

impl Default for ConnectionPool {
    /// Shorter than what common servers keep theirs, so that it is usually us who close first.
    fn default() -> Self {
        ConnectionPool {
            idle_timeout: Duration::from_secs(55),
            max_requests_per_connection: None,
            max_concurrent_streams: None,
        }
    }
}

/// How much retries may add to a service's load, by proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(default)]
pub struct RetryBudget {
    /// How many retries are allowed for a hundred requests of the last `window`.
    #[schemars(range(max = 100))]
    pub percent: u8,
    /// How many retries per second are allowed beside these, however few requests there are.
    #[schemars(range(max = COUNT_MAX))]
    pub min_per_second: u32,
    /// Over which time requests count.
    #[serde(serialize_with = "duration::serialize")]
    #[schemars(with = "Millis<1_000, 600_000>")]
    pub window: Duration,
}

impl Default for RetryBudget {
    /// Finagle's and Linkerd's published defaults.
    fn default() -> Self {
        RetryBudget {
            percent: 20,
            min_per_second: 10,
            window: Duration::from_secs(10),
        }
    }
}

/// As it stands in a policy.
fn peak_ewma_decay() -> String {
    duration::format(PEAK_EWMA_DECAY)
}

fn check_interval() -> Duration {
    CHECK_INTERVAL
}

fn check_timeout() -> Duration {
    CHECK_TIMEOUT
}

fn unhealthy_threshold() -> u32 {
    UNHEALTHY_THRESHOLD
}

fn healthy_threshold() -> u32 {
    HEALTHY_THRESHOLD
}

/// Envoy's published default.
fn expected_statuses() -> Vec<u16> {
    vec![200]
}

fn aggression_percent() -> u16 {
    AGGRESSION_PERCENT
}

fn min_weight_percent() -> u8 {
    MIN_WEIGHT_PERCENT
}

pub(crate) fn read(node: &Node<'_>, errors: &mut Errors) -> Option<BackendPolicySpec> {
    let mut fields = node.fields(errors)?;
    let target_refs = fields.required("targetRefs", errors, |node, errors| {
        reference::policy_targets(node, errors, "a policy is for at least one Service", read_target)
    });
    let balancing = fields.optional("balancing", errors, read_balancing);
    let circuit_breaker = fields.optional("circuitBreaker", errors, read_circuit_breaker);
    let outlier_detection = fields.optional("outlierDetection", errors, read_outlier_detection);
    let health_check = fields.optional("healthCheck", errors, read_health_check);
    let slow_start = fields.optional("slowStart", errors, read_slow_start);
    let locality = fields.optional("locality", errors, read_locality);
    let connection_pool = fields.optional("connectionPool", errors, read_connection_pool);
    let panic_percent = fields.optional("panicPercent", errors, percent);
    let retry_budget = fields.optional("retryBudget", errors, read_retry_budget);
    let connect_timeout = fields.optional("connectTimeout", errors, |node, errors| {
        node.duration(errors, Duration::from_millis(1)..=Duration::from_secs(60))
    });
    fields.finish(errors);
    Some(BackendPolicySpec {
        target_refs: target_refs?,
        balancing,
        circuit_breaker,
        outlier_detection,
        health_check: health_check.map(Box::new),
        slow_start,
        locality,
        connection_pool,
        panic_percent,
        retry_budget,
        connect_timeout,
    })
}

pub(crate) fn read_target(node: &Node<'_>, errors: &mut Errors) -> Option<TargetRef> {
    let mut fields = node.fields(errors)?;
    let kind = reference::explicit_service(&mut fields, errors, "nothing");
    let name = fields.required("name", errors, names::label);
    let section_name = fields.optional("sectionName", errors, names::port_name);
    fields.refused(
        "namespace",
        errors,
        "is not supported",
        "a policy is for Services of its own namespace",
    );
    fields.finish(errors);
    Some(TargetRef {
        kind: kind?,
        name: name?,
        section_name,
    })
}

fn read_balancing(node: &Node<'_>, errors: &mut Errors) -> Option<Balancing> {
    let mut fields = node.fields(errors)?;
    let kind = fields.required("type", errors, |node, errors| {
        let round_robin = ("RoundRobin", Balancing::RoundRobin);
        node.choice(errors, &[("PeakEwma", Balancing::default()), round_robin])
    });
    let decay = fields.get("decay");
    fields.finish(errors);
    match (kind?, decay) {
        (Balancing::PeakEwma { .. }, Some(decay)) => {
            let decay = decay.duration(errors, SHORTEST..=LONGEST)?;
            Some(Balancing::PeakEwma { decay })
        }
        (Balancing::RoundRobin, Some(decay)) => {
            decay.refuse(errors, "would be without effect", "it belongs to type: PeakEwma");
            None
        }
        (balancing, None) => Some(balancing),
    }
}

fn read_circuit_breaker(node: &Node<'_>, errors: &mut Errors) -> Option<CircuitBreaker> {
    let mut fields = node.fields(errors)?;
    let default = CircuitBreaker::default();
    let mut limit = |name, from| fields.optional(name, errors, |node, errors| node.integer(errors, from..=COUNT_MAX));
    let max_connections = limit("maxConnections", 1);
    let max_pending_requests = limit("maxPendingRequests", 0);
    let max_requests = limit("maxRequests", 1);
    let failures = fields.optional("failures", errors, read_failures);
    fields.finish(errors);
    Some(CircuitBreaker {
        max_connections: max_connections.unwrap_or(default.max_connections),
        max_pending_requests: max_pending_requests.unwrap_or(default.max_pending_requests),
        max_requests: max_requests.unwrap_or(default.max_requests),
        failures,
    })
}

fn read_failures(node: &Node<'_>, errors: &mut Errors) -> Option<Failures> {
    let mut fields = node.fields(errors)?;
    let default = Failures::default();
    let percent = fields.optional("percent", errors, percent);
    let min_requests = fields.optional("minRequests", errors, |node, errors| {
        node.integer(errors, 1..=COUNT_MAX)
    });
    let time = |node: &Node<'_>, errors: &mut Errors| node.duration(errors, SHORTEST..=LONGEST);
    let window = fields.optional("window", errors, time);
    let open_for = fields.optional("openFor", errors, time);
    let half_open = fields.optional("halfOpenRequests", errors, |node, errors| {
        node.integer(errors, 1..=1000)
    });
    fields.finish(errors);
    Some(Failures {
        percent: percent.unwrap_or(default.percent),
        min_requests: min_requests.unwrap_or(default.min_requests),
        window: window.unwrap_or(default.window),
        open_for: open_for.unwrap_or(default.open_for),
        half_open_requests: half_open.unwrap_or(default.half_open_requests),
    })
}

fn read_outlier_detection(node: &Node<'_>, errors: &mut Errors) -> Option<OutlierDetection> {
    let mut fields = node.fields(errors)?;
    let default = OutlierDetection::default();
    let mut consecutive = |name| fields.optional(name, errors, |node, errors| node.integer(errors, 1..=1000));
    let consecutive_5xx_errors = consecutive("consecutive5xxErrors");
    let consecutive_gateway_errors = consecutive("consecutiveGatewayErrors");
    let consecutive_local_origin_failures = consecutive("consecutiveLocalOriginFailures");
    let failure_percentage = fields.optional("failurePercentage", errors, read_failure_percentage);
    let interval = fields.optional("interval", errors, |node, errors| {
        node.duration(errors, SHORTEST..=LONGEST)
    });
    let base = fields.optional("baseEjectionTime", errors, |node, errors| {
        node.duration(errors, SHORTEST..=LONGEST_EJECTION)
    });
    let base_ejection_time = base.unwrap_or(default.base_ejection_time);
    let max_ejection_time = fields.optional("maxEjectionTime", errors, |node, errors| {
        let longest = node.duration(errors, SHORTEST..=LONGEST_EJECTION)?;
        if longest < base_ejection_time {
            node.refuse(
                errors,
                "is shorter than baseEjectionTime",
                format!("at least {} is right", duration::format(base_ejection_time)),
            );
            return None;
        }
        Some(longest)
    });
    let max_ejection_percent = fields.optional("maxEjectionPercent", errors, percent);
    fields.finish(errors);
    Some(OutlierDetection {
        consecutive_5xx_errors,
        consecutive_gateway_errors,
        consecutive_local_origin_failures,
        failure_percentage,
        interval: interval.unwrap_or(default.interval),
        base_ejection_time,
        max_ejection_time,
        max_ejection_percent: max_ejection_percent.unwrap_or(default.max_ejection_percent),
    })
}

fn read_failure_percentage(node: &Node<'_>, errors: &mut Errors) -> Option<FailurePercentage> {
    let mut fields = node.fields(errors)?;
    let default = FailurePercentage::default();
    let threshold = fields.optional("threshold", errors, percent);
    let min_requests = fields.optional("minRequests", errors, |node, errors| {
        node.integer(errors, 1..=COUNT_MAX)
    });
    let min_hosts = fields.optional("minHosts", errors, |node, errors| node.integer(errors, 1..=1000));
    fields.finish(errors);
    Some(FailurePercentage {
        threshold: threshold.unwrap_or(default.threshold),
        min_requests: min_requests.unwrap_or(default.min_requests),
        min_hosts: min_hosts.unwrap_or(default.min_hosts),
    })
}

fn read_health_check(node: &Node<'_>, errors: &mut Errors) -> Option<HealthCheck> {
    let mut fields = node.fields(errors)?;
    let kind = fields.required("type", errors, |node, errors| {
        let choices = [
            ("Http", HealthCheckType::Http),
            ("Grpc", HealthCheckType::Grpc),
            ("Tcp", HealthCheckType::Tcp),
        ];
        node.choice(errors, &choices)
    });
    let http = fields.get("http");
    let grpc = fields.get("grpc");
    let interval = fields.optional("interval", errors, |node, errors| {
        node.duration(errors, SHORTEST..=Duration::from_secs(3600))
    });
    let timeout = fields.optional("timeout", errors, |node, errors| {
        node.duration(errors, Duration::from_millis(10)..=Duration::from_secs(60))
    });
    let mut threshold = |name| fields.optional(name, errors, |node, errors| node.integer(errors, 1..=1000));
    let unhealthy_threshold = threshold("unhealthyThreshold");
    let healthy_threshold = threshold("healthyThreshold");
    fields.finish(errors);
    let kind = kind?;
    let mut without_effect = |given: &Option<Node<'_>>, only: &str| {
        if let Some(given) = given {
            let remedy = format!("it belongs to type: {only}");
            given.refuse(errors, "would be without effect", remedy);
        }
    };
    match kind {
        HealthCheckType::Http => without_effect(&grpc, "Grpc"),
        HealthCheckType::Grpc => without_effect(&http, "Http"),
        HealthCheckType::Tcp => {
            without_effect(&http, "Http");
            without_effect(&grpc, "Grpc");
        }
    }
    let (http, grpc) = match kind {
        HealthCheckType::Http => match http {
            Some(http) => (Some(read_http_check(&http, errors)?), None),
            None => {
                node.missing(errors, "http", "a check of type Http needs a path to ask for");
                return None;
            }
        },
        HealthCheckType::Grpc => match grpc {
            Some(grpc) => (None, Some(read_grpc_check(&grpc, errors)?)),
            None => (None, None),
        },
        HealthCheckType::Tcp => (None, None),
    };
    Some(HealthCheck {
        kind,
        http,
        grpc,
        interval: interval.unwrap_or(CHECK_INTERVAL),
        timeout: timeout.unwrap_or(CHECK_TIMEOUT),
        unhealthy_threshold: unhealthy_threshold.unwrap_or(UNHEALTHY_THRESHOLD),
        healthy_threshold: healthy_threshold.unwrap_or(HEALTHY_THRESHOLD),
    })
}

fn read_http_check(node: &Node<'_>, errors: &mut Errors) -> Option<HttpCheck> {
    let mut fields = node.fields(errors)?;
    let path = fields.required("path", errors, read_path);
    let host = fields.optional("host", errors, names::subdomain);
    let statuses = fields.optional("expectedStatuses", errors, |node, errors| {
        let statuses = node.list(errors, STATUSES_MAX, |node, errors| node.integer(errors, 100..=599))?;
        node.refuse_empty(errors, "at least one status is right");
        node.refuse_twins(
            errors,
            &statuses,
            |a: &u16, b| a == b,
            "is there already",
            "each status stands once",
        );
        Some(statuses)
    });
    fields.finish(errors);
    Some(HttpCheck {
        path: path?,
        host,
        expected_statuses: statuses.unwrap_or_else(expected_statuses),
    })
}

fn read_grpc_check(node: &Node<'_>, errors: &mut Errors) -> Option<GrpcCheck> {
    let mut fields = node.fields(errors)?;
    let service = fields.optional("service", errors, |node, errors| {
        let is_right = |text: &str| text.chars().count() <= 256 && !text.chars().any(char::is_control);
        let remedy = "at most 256 characters are right, no control characters";
        names::checked(node, errors, is_right, "is no name of a service", remedy)
    });
    fields.finish(errors);
    Some(GrpcCheck {
        service: service.unwrap_or_default(),
    })
}

fn read_slow_start(node: &Node<'_>, errors: &mut Errors) -> Option<SlowStart> {
    let mut fields = node.fields(errors)?;
    let window = fields.required("window", errors, |node, errors| {
        node.duration(errors, Duration::from_secs(1)..=Duration::from_secs(3600))
    });
    let aggression_percent = fields.optional("aggressionPercent", errors, |node, errors| {
        node.integer(errors, 10..=1000)
    });
    let min_weight_percent = fields.optional("minWeightPercent", errors, percent);
    fields.finish(errors);
    Some(SlowStart {
        window: window?,
        aggression_percent: aggression_percent.unwrap_or(AGGRESSION_PERCENT),
        min_weight_percent: min_weight_percent.unwrap_or(MIN_WEIGHT_PERCENT),
    })
}

fn read_locality(node: &Node<'_>, errors: &mut Errors) -> Option<LocalityPreference> {
    let mut fields = node.fields(errors)?;
    let overprovisioning = fields.optional("overprovisioningPercent", errors, |node, errors| {
        node.integer(errors, 100..=1000)
    });
    fields.finish(errors);
    let default = LocalityPreference::default();
    Some(LocalityPreference {
        overprovisioning_percent: overprovisioning.unwrap_or(default.overprovisioning_percent),
    })
}

fn read_connection_pool(node: &Node<'_>, errors: &mut Errors) -> Option<ConnectionPool> {
    let mut fields = node.fields(errors)?;
    let idle_timeout = fields.optional("idleTimeout", errors, |node, errors| {
        node.duration(errors, Duration::from_secs(1)..=Duration::from_secs(3600))
    });
    let mut limit = |name| fields.optional(name, errors, |node, errors| node.integer(errors, 1..=COUNT_MAX));
    let max_requests_per_connection = limit("maxRequestsPerConnection");
    let max_concurrent_streams = limit("maxConcurrentStreams");
    fields.finish(errors);
    Some(ConnectionPool {
        idle_timeout: idle_timeout.unwrap_or(ConnectionPool::default().idle_timeout),
        max_requests_per_connection,
        max_concurrent_streams,
    })
}

/// A share of which there is some.
fn percent(node: &Node<'_>, errors: &mut Errors) -> Option<u8> {
    node.integer(errors, 1..=100)
}

fn read_retry_budget(node: &Node<'_>, errors: &mut Errors) -> Option<RetryBudget> {
    let mut fields = node.fields(errors)?;
    let default = RetryBudget::default();
    let percent = fields.optional("percent", errors, |node, errors| node.integer(errors, 0..=100));
    let min_per_second = fields.optional("minPerSecond", errors, |node, errors| {
        node.integer(errors, 0..=COUNT_MAX)
    });
    let window = fields.optional("window", errors, |node, errors| {
        node.duration(errors, Duration::from_secs(1)..=LONGEST)
    });
    fields.finish(errors);
    Some(RetryBudget {
        percent: percent.unwrap_or(default.percent),
        min_per_second: min_per_second.unwrap_or(default.min_per_second),
        window: window.unwrap_or(default.window),
    })
}

/// More statuses than this would be hard to read, and hold some that say something else.
const STATUSES_MAX: usize = 16;

/// The largest limit on anything that one proxy counts.
const COUNT_MAX: u64 = 1_000_000;

/// The range of times over which something is measured or waited for.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(600);

/// The longest that an endpoint is left alone without being tried.
const LONGEST_EJECTION: Duration = Duration::from_secs(3600);
