//! RoutePolicy: what becomes of the requests that routes take, beyond what a route itself can say.

use std::borrow::Cow;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::json;

use crate::decode::{Errors, Node};
use crate::duration;
use crate::http_route::filters::FILTERS_MAX;
use crate::http_route::read::{ATTEMPTS_MAX, CODES_MAX, TWIN, TWIN_REMEDY};
use crate::http_route::{Reference, RequestMirror, read_mirror};
use crate::kind::Kind;
use crate::names;
use crate::object::Key;
use crate::reference;
use crate::schema::texts::{Millis, Subdomain};

/// What becomes of the requests that rules of routes take. Of all policies that are for a rule one holds, whole: one
/// for the rule by name goes before one for its route, that before one for the Service, and of two for the same the
/// older holds. A policy for a Service is for the routes in the Service's own namespace that have it as a parent; and
/// where it has none, for all requests to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RoutePolicySpec {
    /// What it is for, all of its own namespace.
    ///
    /// Rule: none is there twice.
    #[schemars(length(min = 1, max = reference::TARGETS_MAX), extend("x-kubernetes-list-type" = "atomic"))]
    pub target_refs: Vec<RouteTargetRef>,
    /// When a request is sent again. Each field that is given holds in place of the rule's own `retry` and
    /// `timeouts.backendRequest`; what is left out stays as it is there. Default: as the rule has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<RouteRetry>,
    /// How many requests come through. What is over is answered with 429 and `Retry-After`, a gRPC call with
    /// RESOURCE_EXHAUSTED and `grpc-retry-pushback-ms`. Default: all come through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RouteRateLimit>,
    /// What happens to requests on purpose, so that it is seen how callers bear it. Default: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<RouteFault>,
    /// How much requests matter, from 0 (most) to 7 (least), as RFC 9218 numbers urgency. It is set where nobody has
    /// said so before, as where requests enter the mesh; what a request came with from inside is only lowered. It
    /// travels with the request between weir proxies, and stands in their access logs and spans; nothing else acts on
    /// it yet. Default: as they came, else 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 7))]
    pub priority: Option<u8>,
    /// Where copies of requests go, in place of all RequestMirror filters of the rule and of its backends; an empty
    /// list: nowhere. Nobody waits for a copy or sees its answer. A mirror that can't be used (no such Service or port,
    /// no Service, or in another namespace without a ReferenceGrant there for RoutePolicies of this one) gets no
    /// copies; requests go their way all the same, and `ResolvedRefs` in the status says why. Default: as the rule has
    /// it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = FILTERS_MAX), extend("x-kubernetes-list-type" = "atomic"))]
    pub mirror: Option<Vec<RequestMirror>>,
}

impl RoutePolicySpec {
    /// The fields that are given, by name: what holds in place of what a rule says.
    pub fn given(&self) -> impl Iterator<Item = &'static str> {
        let RoutePolicySpec {
            target_refs: _,
            retry,
            rate_limit,
            fault,
            priority,
            mirror,
        } = self;
        let fields = [
            ("retry", retry.is_some()),
            ("rateLimit", rate_limit.is_some()),
            ("fault", fault.is_some()),
            ("priority", priority.is_some()),
            ("mirror", mirror.is_some()),
        ];
        fields.into_iter().filter_map(|(name, given)| given.then_some(name))
    }

    /// Where its copies go, in the order of `mirror`.
    pub fn references(&self) -> impl Iterator<Item = Reference<'_>> {
        self.mirror
            .iter()
            .flatten()
            .map(|mirror| mirror.backend_ref.reference())
    }
}

/// What a policy is for: a route, a rule of it, or a Service.
///
/// Rule: the group is empty for a Service, and gateway.networking.k8s.io for a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteTargetRef {
    /// HTTPRoute, GRPCRoute or Service.
    #[schemars(flatten, with = "TargetKind")]
    pub kind: Kind,
    /// The name, in the policy's own namespace.
    #[schemars(with = "Subdomain")]
    pub name: String,
    /// The name of one of the route's rules. Default: all of its rules.
    ///
    /// Rule: a Service has none.
    #[schemars(with = "Option<Subdomain>")]
    pub section_name: Option<String>,
}

impl Serialize for RouteTargetRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("group", self.kind.group())?;
        map.serialize_entry("kind", self.kind.kind())?;
        map.serialize_entry("name", &self.name)?;
        if let Some(section_name) = &self.section_name {
            map.serialize_entry("sectionName", section_name)?;
        }
        map.end()
    }
}

impl RouteTargetRef {
    /// The resource that it names, for a policy in this namespace.
    pub fn key(&self, namespace: &str) -> Key {
        Key {
            kind: self.kind,
            namespace: namespace.to_owned(),
            name: self.name.clone(),
        }
    }
}

/// The schema of a [`Kind`] that a policy for routes may be for.
enum TargetKind {}

impl JsonSchema for TargetKind {
    fn schema_name() -> Cow<'static, str> {
        "RouteTargetKind".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let groups = GROUPS.map(Kind::group);
        let group = json!({"type": "string", "enum": groups, "description": "The group of `kind`."});
        let kinds = TARGETS.map(Kind::kind);
        let kind = json!({"type": "string", "enum": kinds, "description": "The kind of what it is for."});
        let properties = json!({"group": group, "kind": kind});
        json_schema!({"type": "object", "properties": properties, "required": ["group", "kind"]})
    }
}

/// When a request is sent again. What is provably unprocessed is sent again in any case, and `retryBudget` of the
/// Service's BackendPolicy bounds the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteRetry {
    /// How often at most. Default: as the rule's `retry` has it, else 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = ATTEMPTS_MAX))]
    pub attempts: Option<u32>,
    /// What is tried again, in Envoy's words:
    ///
    /// - `5xx`: an answer with such a status, or none;
    /// - `gateway-error`: an answer of 502, 503 or 504, or none;
    /// - `reset`: no answer: reset, not connected, refused, out of perTryTimeout;
    /// - `connect-failure`: no connection;
    /// - `refused-stream`: the other side said that it did not process the request;
    /// - `cancelled`, `deadline-exceeded`, `internal`, `resource-exhausted`, `unavailable`: an answer without messages
    ///   and with this gRPC status.
    ///
    /// Default: reset, connect-failure and refused-stream, as HTTPRoute's `retry` does.
    ///
    /// Rule: each stands once.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = WORDS), extend("x-kubernetes-list-type" = "atomic"))]
    pub on: Option<Vec<RetryOn>>,
    /// Statuses of answers that are tried again beside that. Default: as the rule's `retry` has them, else none.
    ///
    /// Rule: each stands once.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        inner(range(min = 400, max = 599)),
        length(max = CODES_MAX),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub codes: Option<Vec<u16>>,
    /// How long one attempt may take. Default: as the rule's `timeouts.backendRequest` has it.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "duration::serialize_option"
    )]
    #[schemars(with = "Option<Millis<1, 3_600_000>>")]
    pub per_try_timeout: Option<Duration>,
    /// How long retries wait. Default: as the rule's `retry` has it, else from 25ms to 250ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<RetryBackoff>,
    /// Of which methods a request is sent again that may have been processed. Default: Idempotent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub methods: Option<RetryMethods>,
}

/// What is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RetryOn {
    /// `5xx`
    #[serde(rename = "5xx")]
    ServerError,
    /// `gateway-error`
    GatewayError,
    /// `reset`
    Reset,
    /// `connect-failure`
    ConnectFailure,
    /// `refused-stream`
    RefusedStream,
    /// `cancelled`
    Cancelled,
    /// `deadline-exceeded`
    DeadlineExceeded,
    /// `internal`
    Internal,
    /// `resource-exhausted`
    ResourceExhausted,
    /// `unavailable`
    Unavailable,
}

/// How long retries wait: the first `base`, each that follows twice as long, none longer than `max`; chance takes up to
/// half of it away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetryBackoff {
    /// The first.
    #[serde(serialize_with = "duration::serialize")]
    #[schemars(with = "Millis<1, 60_000>")]
    pub base: Duration,
    /// The longest. Default: ten times the first.
    ///
    /// Rule: it is not shorter than base.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "duration::serialize_option"
    )]
    #[schemars(with = "Option<Millis<1, 600_000>>")]
    pub max: Option<Duration>,
}

/// Of which methods a request is sent again that may have been processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema)]
pub enum RetryMethods {
    /// Of those that RFC 9110 section 9.2.2 calls idempotent, and of one that the rule matches by name. Every rule of a
    /// GRPCRoute names POST by that.
    Idempotent,
    /// Of every method, POST too: the app has to be able to take a request twice.
    Any,
}

/// How many requests come through, counted by proxy and rule: by the caller's own proxy, so that what it allows all
/// callers together is as many times that as there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteRateLimit {
    /// So many.
    #[schemars(range(min = 1, max = REQUESTS_MAX))]
    pub requests: u32,
    /// In this time. They come evenly: a third of the time allows a third of them.
    #[serde(serialize_with = "duration::serialize")]
    #[schemars(with = "Millis<1_000, 3_600_000>", default = "one_second")]
    pub per: Duration,
    /// So many at once after a pause. Default: as many as `requests`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = REQUESTS_MAX))]
    pub burst: Option<u32>,
}

/// What happens to requests on purpose: once for each, however often it is then sent. It counts against neither circuit
/// breaker nor outlierDetection; who is answered is told so by `Proxy-Status`.
///
/// Rule: `delay` or `abort` is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteFault {
    /// Some wait before they are sent, within the time that they have. Default: none waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<RouteFaultDelay>,
    /// Some are answered instead of being sent, after their delay if they have one. Default: none is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abort: Option<RouteFaultAbort>,
}

/// Which requests wait, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct RouteFaultDelay {
    /// How many in a hundred.
    #[schemars(range(max = 100))]
    pub percent: u8,
    /// How long.
    #[serde(serialize_with = "duration::serialize")]
    #[schemars(with = "Millis<1, 600_000>")]
    pub duration: Duration,
}

/// Which requests are answered, and with what.
///
/// Rule: exactly one of `status` and `grpcStatus` is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteFaultAbort {
    /// How many in a hundred.
    #[schemars(range(max = 100))]
    pub percent: u8,
    /// The status of the answer. A gRPC call ends with the status that it means to a gRPC client. Default: as
    /// grpcStatus has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 400, max = 599))]
    pub status: Option<u16>,
    /// The gRPC status of the answer. Other requests get the HTTP status that it stands for. Default: as status has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16))]
    pub grpc_status: Option<u8>,
}

/// What `per` is where it is left out.
fn one_second() -> Duration {
    PER
}

pub(crate) fn read(node: &Node<'_>, errors: &mut Errors) -> Option<RoutePolicySpec> {
    let mut fields = node.fields(errors)?;
    let target_refs = fields.required("targetRefs", errors, |node, errors| {
        reference::policy_targets(
            node,
            errors,
            "a policy is for at least one route or Service",
            read_target,
        )
    });
    let retry = fields.optional("retry", errors, read_retry);
    let rate_limit = fields.optional("rateLimit", errors, read_rate_limit);
    let fault = fields.optional("fault", errors, read_fault);
    let priority = fields.optional("priority", errors, |node, errors| node.integer(errors, 0..=7));
    let mirror = fields.optional("mirror", errors, |node, errors| {
        node.list(errors, FILTERS_MAX, read_mirror)
    });
    fields.finish(errors);
    Some(RoutePolicySpec {
        target_refs: target_refs?,
        retry,
        rate_limit,
        fault,
        priority,
        mirror,
    })
}

fn read_target(node: &Node<'_>, errors: &mut Errors) -> Option<RouteTargetRef> {
    let mut fields = node.fields(errors)?;
    let kind = fields.required("kind", errors, |node, errors| {
        node.choice(errors, &TARGETS.map(|kind| (kind.kind(), kind)))
    });
    let group = fields.required("group", errors, |node, errors| {
        reference::group_of(kind, &GROUPS, node, errors)
    });
    let name = fields.required("name", errors, names::subdomain);
    let section_name = fields.optional("sectionName", errors, |node, errors| {
        let name = names::subdomain(node, errors)?;
        if kind == Some(Kind::Service) {
            let remedy = "leave it out: it names a rule of a route";
            node.refuse(errors, "would be without effect for a Service", remedy);
            return None;
        }
        Some(name)
    });
    fields.refused(
        "namespace",
        errors,
        "is not supported",
        "a policy is for what is in its own namespace",
    );
    fields.finish(errors);
    group?;
    Some(RouteTargetRef {
        kind: kind?,
        name: name?,
        section_name,
    })
}

fn read_retry(node: &Node<'_>, errors: &mut Errors) -> Option<RouteRetry> {
    let mut fields = node.fields(errors)?;
    let attempts = fields.optional("attempts", errors, |node, errors| {
        node.integer(errors, 0..=ATTEMPTS_MAX)
    });
    let on = fields.optional("on", errors, |node, errors| {
        let words = node.list(errors, WORDS, |node, errors| node.choice(errors, RETRY_ON))?;
        node.refuse_twins(errors, &words, |a, b| a == b, TWIN, TWIN_REMEDY);
        Some(words)
    });
    let codes = fields.optional("codes", errors, |node, errors| {
        let codes = node.list(errors, CODES_MAX, |node, errors| node.integer(errors, 400..=599))?;
        node.refuse_twins(errors, &codes, |a: &u16, b| a == b, TWIN, TWIN_REMEDY);
        Some(codes)
    });
    let per_try_timeout = fields.optional("perTryTimeout", errors, |node, errors| {
        node.duration(errors, SHORTEST..=Duration::from_secs(3600))
    });
    let backoff = fields.optional("backoff", errors, read_backoff);
    let methods = fields.optional("methods", errors, |node, errors| {
        let any = ("Any", RetryMethods::Any);
        node.choice(errors, &[("Idempotent", RetryMethods::Idempotent), any])
    });
    fields.finish(errors);
    Some(RouteRetry {
        attempts,
        on,
        codes,
        per_try_timeout,
        backoff,
        methods,
    })
}

fn read_backoff(node: &Node<'_>, errors: &mut Errors) -> Option<RetryBackoff> {
    let mut fields = node.fields(errors)?;
    let base = fields.required("base", errors, |node, errors| {
        node.duration(errors, SHORTEST..=Duration::from_secs(60))
    });
    let max = fields.optional("max", errors, |node, errors| {
        let max = node.duration(errors, SHORTEST..=Duration::from_secs(600))?;
        let base = base.filter(|base| max < *base);
        if let Some(base) = base {
            let remedy = format!("at least {} is right", duration::format(base));
            node.refuse(errors, "is shorter than base", remedy);
            return None;
        }
        Some(max)
    });
    fields.finish(errors);
    Some(RetryBackoff { base: base?, max })
}

fn read_rate_limit(node: &Node<'_>, errors: &mut Errors) -> Option<RouteRateLimit> {
    let mut fields = node.fields(errors)?;
    let count = |node: &Node<'_>, errors: &mut Errors| node.integer(errors, 1..=REQUESTS_MAX);
    let requests = fields.required("requests", errors, count);
    let per = fields.optional("per", errors, |node, errors| {
        node.duration(errors, Duration::from_secs(1)..=Duration::from_secs(3600))
    });
    let burst = fields.optional("burst", errors, count);
    fields.finish(errors);
    Some(RouteRateLimit {
        requests: requests?,
        per: per.unwrap_or(PER),
        burst,
    })
}

fn read_fault(node: &Node<'_>, errors: &mut Errors) -> Option<RouteFault> {
    let mut fields = node.fields(errors)?;
    let is_given = ["delay", "abort"].map(|name| fields.get(name).is_some());
    if is_given == [false, false] {
        node.refuse(errors, "holds no fault", "delay or abort is right");
    }
    let delay = fields.optional("delay", errors, |node, errors| {
        let mut fields = node.fields(errors)?;
        let percent = fields.required("percent", errors, read_percent);
        let duration = fields.required("duration", errors, |node, errors| {
            node.duration(errors, SHORTEST..=Duration::from_secs(600))
        });
        fields.finish(errors);
        Some(RouteFaultDelay {
            percent: percent?,
            duration: duration?,
        })
    });
    let abort = fields.optional("abort", errors, read_abort);
    fields.finish(errors);
    Some(RouteFault { delay, abort })
}

fn read_abort(node: &Node<'_>, errors: &mut Errors) -> Option<RouteFaultAbort> {
    let mut fields = node.fields(errors)?;
    let percent = fields.required("percent", errors, read_percent);
    let has_status = fields.get("status").is_some();
    let status = fields.optional("status", errors, |node, errors| node.integer(errors, 400..=599));
    match (has_status, fields.get("grpcStatus")) {
        (true, Some(node)) => node.refuse(errors, "stands beside status", "one of both is right"),
        (false, None) => node.refuse(errors, "answers with nothing", "status or grpcStatus is right"),
        (true, None) | (false, Some(_)) => {}
    }
    let grpc_status = fields.optional("grpcStatus", errors, |node, errors| node.integer(errors, 1..=16));
    fields.finish(errors);
    Some(RouteFaultAbort {
        percent: percent?,
        status,
        grpc_status,
    })
}

/// A share of which there may be none.
fn read_percent(node: &Node<'_>, errors: &mut Errors) -> Option<u8> {
    node.integer(errors, 0..=100)
}

/// What a policy may be for.
const TARGETS: [Kind; 3] = [Kind::HttpRoute, Kind::GrpcRoute, Kind::Service];

/// A kind of each group that one of them is of.
const GROUPS: [Kind; 2] = [Kind::Service, Kind::HttpRoute];

const RETRY_ON: &[(&str, RetryOn)] = &[
    ("5xx", RetryOn::ServerError),
    ("gateway-error", RetryOn::GatewayError),
    ("reset", RetryOn::Reset),
    ("connect-failure", RetryOn::ConnectFailure),
    ("refused-stream", RetryOn::RefusedStream),
    ("cancelled", RetryOn::Cancelled),
    ("deadline-exceeded", RetryOn::DeadlineExceeded),
    ("internal", RetryOn::Internal),
    ("resource-exhausted", RetryOn::ResourceExhausted),
    ("unavailable", RetryOn::Unavailable),
];
const WORDS: usize = RETRY_ON.len();

/// The most requests of a limit: one in a microsecond.
const REQUESTS_MAX: u64 = 1_000_000;

/// What `per` is where it is left out.
const PER: Duration = Duration::from_secs(1);

/// The shortest of what is waited for.
const SHORTEST: Duration = Duration::from_millis(1);
