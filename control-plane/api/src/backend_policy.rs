//! BackendPolicy: how a service's endpoints are used.

use std::time::Duration;

use schemars::JsonSchema;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::decode::{Errors, Node};
use crate::duration;
use crate::names;
use crate::reference::{self, RefKind};
use crate::schema::texts::{Label, Millis};

/// How the endpoints of some services are used: how one is chosen, how much is asked of them, when they are left alone,
/// how much retries may add. Of two policies for one port the older holds; one for a named port goes before one for
/// the whole service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendPolicySpec {
    /// Which services it is for, all of its own namespace.
    ///
    /// Rule: none is there twice.
    #[schemars(length(min = 1, max = TARGETS_MAX), extend("x-kubernetes-list-type" = "atomic"))]
    pub target_refs: Vec<TargetRef>,
    /// How an endpoint is chosen. Default: PeakEwma with its default decay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balancing: Option<Balancing>,
    /// What is refused for the endpoints' sake. Default: as if given, with its own defaults.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreaker>,
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

pub(crate) fn read(node: &Node<'_>, errors: &mut Errors) -> Option<BackendPolicySpec> {
    let mut fields = node.fields(errors)?;
    let target_refs = fields.required("targetRefs", errors, read_targets);
    let balancing = fields.optional("balancing", errors, read_balancing);
    let circuit_breaker = fields.optional("circuitBreaker", errors, read_circuit_breaker);
    let retry_budget = fields.optional("retryBudget", errors, read_retry_budget);
    let connect_timeout = fields.optional("connectTimeout", errors, |node, errors| {
        node.duration(errors, Duration::from_millis(1)..=Duration::from_secs(60))
    });
    fields.finish(errors);
    Some(BackendPolicySpec {
        target_refs: target_refs?,
        balancing,
        circuit_breaker,
        retry_budget,
        connect_timeout,
    })
}

fn read_targets(node: &Node<'_>, errors: &mut Errors) -> Option<Vec<TargetRef>> {
    let targets = node.list(errors, TARGETS_MAX, read_target)?;
    node.refuse_empty(errors, "a policy is for at least one Service");
    node.refuse_twins(
        errors,
        &targets,
        |a, b| a == b,
        "is there already",
        "each target stands once",
    );
    Some(targets)
}

fn read_target(node: &Node<'_>, errors: &mut Errors) -> Option<TargetRef> {
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
    let percent = fields.optional("percent", errors, |node, errors| node.integer(errors, 1..=100));
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

/// As many targets as Gateway API's policies have.
const TARGETS_MAX: usize = 16;

/// The largest limit on anything that one proxy counts.
const COUNT_MAX: u64 = 1_000_000;

/// The range of times over which something is measured or waited for.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(600);
