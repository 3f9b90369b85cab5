//! What the control plane's API answers beside resources: the JSON that `weir-control` writes and `weirctl` reads.
//! Read leniently, so that either side may be the newer.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::FieldError;

/// `GET /apis/weir.dev/v1/proxies`: every proxy that the control plane knows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub struct ProxyList {
    /// Sorted by name.
    pub items: Vec<Proxy>,
}

/// One proxy, as the control plane sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Proxy {
    /// Its workload: `namespace/name`.
    pub name: String,
    /// Whether its stream is open.
    pub connected: bool,
    /// Since when (RFC 3339); absent: it is not connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connected_since: Option<String>,
    /// The program's version.
    pub version: String,
    /// Where its stream comes from.
    pub address: String,
    /// The account of the certificate with which its workload registered; empty: it has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub account: String,
    /// How each of its workload's app ports is entered, by number. None: it is not registered.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ProxyPort>,
    /// To how many resources it is subscribed.
    pub subscribed: u64,
    /// How many of these are in force there as last sent.
    pub in_force: u64,
    /// What was sent and is not in force yet, sorted by type and name.
    pub pending: Vec<Pending>,
    /// What it rejected, sorted by type and name.
    pub rejected: Vec<Rejected>,
    /// The store's revision up to which everything it subscribed to is in force; empty: none yet.
    pub revision: String,
}

/// An app port of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyPort {
    /// Its number.
    pub app_port: u16,
    /// How it is entered: as the MeshConfig says, or `Edge`.
    pub entered: String,
}

/// A type of resource that is sent to proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ConfigType {
    /// A listener (LDS).
    Listener,
    /// A route configuration (RDS).
    Route,
    /// A cluster (CDS).
    Cluster,
    /// A cluster's endpoints (EDS).
    Endpoints,
    /// What holds for the proxy's own workload.
    WorkloadPolicy,
    /// The roots that everybody trusts (SDS).
    TrustRoots,
}

/// What was sent to a proxy and is not in force there yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pending {
    /// Its type.
    #[serde(rename = "type")]
    pub config_type: ConfigType,
    /// Its name.
    pub name: String,
    /// For how long, in seconds.
    pub seconds: f64,
}

/// What a proxy rejected; what it had before stays in force there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rejected {
    /// Its type.
    #[serde(rename = "type")]
    pub config_type: ConfigType,
    /// Its name.
    pub name: String,
    /// Why, in the proxy's words.
    pub reason: String,
    /// The resources it was made from: `HTTPRoute/citizen/portal`.
    #[serde(default)]
    pub sources: Vec<String>,
}

/// `GET {path of a resource}/proxies`: where a resource is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub struct ProxyView {
    /// The resource: `HTTPRoute/citizen/portal`.
    pub object: String,
    /// Its generation.
    pub generation: i64,
    /// All in one word.
    pub state: ViewState,
    /// How many connected proxies are concerned.
    pub subscribers: u64,
    /// Those on which this generation is in force, sorted.
    #[serde(default)]
    pub in_force: Vec<String>,
    /// Those that have not answered yet, sorted.
    #[serde(default)]
    pub pending: Vec<String>,
    /// Those that rejected it, sorted.
    #[serde(default)]
    pub rejected: Vec<Rejection>,
}

/// Whether a resource is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ViewState {
    /// On every proxy concerned.
    InForce,
    /// Not on all yet.
    Progressing,
    /// At least one proxy rejected it.
    Rejected,
    /// No connected proxy is concerned.
    NoSubscribers,
}

/// A proxy that rejected a resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// The proxy: `namespace/name`.
    pub proxy: String,
    /// Why, in its words.
    pub reason: String,
}

/// `GET /traces?limit=20`: the latest traces, newest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TraceList {
    /// Newest first.
    pub items: Vec<TraceSummary>,
}

/// One trace in a line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TraceSummary {
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// The name of its first span; empty: that has not come.
    pub root: String,
    /// Whose span that is.
    pub service: String,
    /// When it began (RFC 3339).
    pub start: String,
    /// From the beginning of its first span to the end of its last, in milliseconds.
    pub duration_millis: f64,
    /// How many spans came.
    pub spans: u64,
    /// How many of them failed.
    pub errors: u64,
}

/// `GET /traces/{id}`: one trace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trace {
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// In the order of the tree: a parent before its children, siblings by start.
    pub spans: Vec<Span>,
}

/// One span.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Span {
    /// 16 hexadecimal digits.
    pub span_id: String,
    /// The span it belongs under; empty: none.
    #[serde(default)]
    pub parent_id: String,
    /// Who made it: `service.name` of its resource.
    pub service: String,
    /// What was done.
    pub name: String,
    /// Which side of the call.
    pub kind: SpanKind,
    /// When it began, in nanoseconds of Unix time.
    pub start_unix_nano: u64,
    /// How long it took, in nanoseconds.
    pub duration_nanos: u64,
    /// How it ended.
    pub status: SpanStatus,
    /// What else is known, by OpenTelemetry's names.
    #[serde(default)]
    pub attributes: serde_json::Map<String, Value>,
}

/// Which side of a call a span is (OpenTelemetry, SpanKind).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SpanKind {
    /// Of no call.
    Internal,
    /// The called side.
    Server,
    /// The calling side.
    Client,
    /// Put something in a queue.
    Producer,
    /// Took something from a queue.
    Consumer,
}

/// How a span ended (OpenTelemetry, Status).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SpanStatus {
    /// Nothing was said.
    Unset,
    /// Well.
    Ok,
    /// It failed.
    Error,
}

/// A list of resources of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectList {
    /// Of the items.
    pub api_version: String,
    /// That of the items, and `List`: `HTTPRouteList`.
    pub kind: String,
    /// At which revision.
    pub metadata: ListMetadata,
    /// The resources, sorted by namespace and name.
    pub items: Vec<Value>,
}

/// What is said of a list as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(rename = "ListMeta")]
pub struct ListMetadata {
    /// The store's revision; a watch begins after it.
    pub resource_version: String,
    /// Where the next page begins; empty: this is the last.
    #[serde(rename = "continue", skip_serializing_if = "String::is_empty")]
    pub next: String,
    /// How many resources come after this page; absent: not known, or none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining_item_count: Option<u64>,
}

/// One line of a watch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WatchEvent {
    /// What happened.
    #[serde(rename = "type")]
    pub event_type: WatchEventType,
    /// The resource as it is now (Deleted: as it was); for Bookmark only its metadata's resourceVersion; for Error a
    /// Status.
    #[schemars(with = "serde_json::Map<String, Value>")]
    pub object: Value,
}

/// What a watch tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum WatchEventType {
    /// A resource is new.
    Added,
    /// It changed.
    Modified,
    /// It is gone.
    Deleted,
    /// Nothing happened up to this revision.
    Bookmark,
    /// The watch ends.
    Error,
}

/// Why the API did not do what it was asked for, or that it did (Kubernetes, meta/v1 Status).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Always `v1`.
    #[serde(default)]
    pub api_version: String,
    /// Always `Status`.
    pub kind: String,
    /// Where to go on.
    #[serde(default)]
    pub metadata: StatusMetadata,
    /// Whether it did.
    pub status: Outcome,
    /// What happened, for people.
    #[serde(default)]
    pub message: String,
    /// What happened, for programs; absent on success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// More of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
    /// The HTTP status.
    #[serde(default)]
    pub code: u16,
}

impl Status {
    /// A failure; the HTTP status follows from the reason.
    pub fn failure(reason: Reason, message: impl Into<String>) -> Status {
        Status {
            api_version: "v1".to_owned(),
            kind: "Status".to_owned(),
            metadata: StatusMetadata::default(),
            status: Outcome::Failure,
            message: message.into(),
            reason: Some(reason),
            details: None,
            code: reason.code(),
        }
    }

    /// A success.
    pub fn success(message: impl Into<String>) -> Status {
        Status {
            status: Outcome::Success,
            reason: None,
            code: 200,
            ..Status::failure(Reason::Unknown, message)
        }
    }

    /// The same with a cause for each field that is wrong.
    pub fn because(mut self, errors: &[FieldError]) -> Status {
        let causes = errors.iter().map(|error| Cause {
            reason: "FieldValueInvalid".to_owned(),
            field: error.path.clone(),
            message: error.message(),
        });
        self.details.get_or_insert_default().causes.extend(causes);
        self
    }

    /// The same with what it is about.
    pub fn about(mut self, key: &crate::object::Key) -> Status {
        let details = self.details.get_or_insert_default();
        details.name = key.name.clone();
        details.group = key.kind.group().to_owned();
        details.kind = key.kind.plural().to_owned();
        self
    }
}

/// What is said of a status as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct StatusMetadata {
    /// Where a list whose state is forgotten goes on in the latest state; empty: nowhere.
    #[serde(rename = "continue", skip_serializing_if = "String::is_empty")]
    pub next: String,
}

/// Whether a request did what it was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Outcome {
    /// It did.
    Success,
    /// It did not.
    Failure,
}

/// Why a request failed (Kubernetes, meta/v1 StatusReason).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Reason {
    /// The request itself is wrong: 400.
    BadRequest,
    /// It is not allowed: 403.
    Forbidden,
    /// There is no such resource: 404.
    NotFound,
    /// Not with this method: 405.
    MethodNotAllowed,
    /// Not in what the client accepts: 406.
    NotAcceptable,
    /// There is one already: 409.
    AlreadyExists,
    /// It changed meanwhile: 409.
    Conflict,
    /// The revision is too old: 410.
    Expired,
    /// The body is too large: 413.
    RequestEntityTooLarge,
    /// Not in this content type: 415.
    UnsupportedMediaType,
    /// A field is wrong: 422.
    Invalid,
    /// Too much at once: 429.
    TooManyRequests,
    /// The control plane failed: 500.
    InternalError,
    /// Not now: 503.
    ServiceUnavailable,
    /// It took too long: 504.
    Timeout,
    /// One that this program does not know.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

impl Reason {
    /// The HTTP status it is sent with.
    pub fn code(self) -> u16 {
        match self {
            Reason::BadRequest => 400,
            Reason::Forbidden => 403,
            Reason::NotFound => 404,
            Reason::MethodNotAllowed => 405,
            Reason::NotAcceptable => 406,
            Reason::AlreadyExists | Reason::Conflict => 409,
            Reason::Expired => 410,
            Reason::RequestEntityTooLarge => 413,
            Reason::UnsupportedMediaType => 415,
            Reason::Invalid => 422,
            Reason::TooManyRequests => 429,
            Reason::InternalError | Reason::Unknown => 500,
            Reason::ServiceUnavailable => 503,
            Reason::Timeout => 504,
        }
    }
}

/// What a failure is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(rename = "StatusDetails")]
pub struct Details {
    /// The resource's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Its kind, in the plural (as Kubernetes has it).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Its uid.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// What is wrong, field by field.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// When to try again, in seconds; 0: not said.
    #[serde(skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u64,
}

/// One thing that is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "StatusCause")]
pub struct Cause {
    /// For programs.
    pub reason: String,
    /// The field's path.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::json;

    use super::*;

    /// Reads a view as documented, and that it is written alike.
    #[track_caller]
    fn check<T: Serialize + DeserializeOwned>(shape: Value) {
        let view: T = serde_json::from_value(shape.clone()).expect("reads");
        assert_eq!(serde_json::to_value(view).expect("writes"), shape);
    }

    #[test]
    fn views_have_the_shape_that_is_promised() {
        let proxy = json!({
            "name": "citizen/portal", "connected": true, "connectedSince": "2026-01-01T00:00:00Z", "version": "0.1.0",
            "address": "127.0.0.1:40000", "subscribed": 12, "inForce": 11,
            "pending": [{"type": "Route", "name": "a.citizen:80/*", "seconds": 0.3}],
            "rejected": [{"type": "Endpoints", "name": "a", "reason": "x", "sources": ["HTTPRoute/citizen/x"]}],
            "revision": "41",
        });
        check::<ProxyList>(json!({"kind": "ProxyList", "items": [proxy]}));
        check::<ProxyView>(json!({
            "kind": "ProxyView", "object": "HTTPRoute/citizen/x", "generation": 3, "state": "NoSubscribers",
            "subscribers": 6, "inForce": ["citizen/portal"], "pending": ["a/b"],
            "rejected": [{"proxy": "a/c", "reason": "x"}],
        }));
        check::<TraceList>(json!({"items": [{
            "traceId": "0".repeat(32), "root": "GET /", "service": "portal", "start": "2026-01-01T00:00:00Z",
            "durationMillis": 1.5, "spans": 4, "errors": 1,
        }]}));
        check::<Trace>(json!({"traceId": "0".repeat(32), "spans": [{
            "spanId": "0".repeat(16), "parentId": "", "service": "portal", "name": "GET /", "kind": "Server",
            "startUnixNano": 1_700_000_000_000_000_000u64, "durationNanos": 5, "status": "Error",
            "attributes": {"http.response.status_code": 503},
        }]}));
        check::<WatchEvent>(json!({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "7"}}}));
        check::<ObjectList>(json!({
            "apiVersion": "v1", "kind": "ServiceList", "metadata": {"resourceVersion": "7"}, "items": [{}],
        }));
    }

    #[test]
    fn a_failure_is_kubernetes_status() {
        let key = crate::Key {
            kind: crate::Kind::HttpRoute,
            namespace: "citizen".to_owned(),
            name: "x".to_owned(),
        };
        let status = Status::failure(Reason::NotFound, "HTTPRoute/citizen/x does not exist").about(&key);
        let error = FieldError::new("spec.port", &json!(0), "is out of range", "1 is right");
        let status = status.because(&[error]);
        let expect = json!({
            "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "code": 404,
            "reason": "NotFound", "message": "HTTPRoute/citizen/x does not exist",
            "details": {
                "name": "x", "group": "gateway.networking.k8s.io", "kind": "httproutes",
                "causes": [{
                    "reason": "FieldValueInvalid", "field": "spec.port", "message": "0 is out of range; 1 is right",
                }],
            },
        });
        assert_eq!(serde_json::to_value(&status).expect("writes"), expect);
        check::<Status>(expect);
    }

    #[test]
    fn what_a_newer_side_says_is_read() {
        let status = json!({"kind": "Status", "status": "Failure", "reason": "SomethingNew", "new": 1});
        let status: Status = serde_json::from_value(status).expect("reads");
        assert_eq!(status.reason, Some(Reason::Unknown));
        let proxy: Proxy = serde_json::from_value(json!({"name": "a/b", "new": 1})).expect("reads");
        assert_eq!(proxy.name, "a/b");
    }
}
