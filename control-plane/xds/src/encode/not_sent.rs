//! What a client that is no weir proxy can't be told: it is said to people instead, never left out in silence.

use std::fmt;

use envoy_types::pb::google::protobuf::Any;

/// A resource in a client's own terms.
#[derive(Clone, Debug, PartialEq)]
pub struct Sent {
    /// The message.
    pub message: Any,
    /// What of the model it does not say.
    pub not_sent: Vec<NotSent>,
}

/// Something of the model that a client can't be told.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NotSent {
    /// Where it was written.
    pub place: Place,
    /// Why not, and what becomes of it, as the end of a sentence that begins with the place.
    pub problem: String,
}

impl fmt::Display for NotSent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.place, self.problem)
    }
}

/// Where something was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// In the route of this name, which begins with its resource: `HTTPRoute/citizen/r#rules[0].matches[0]`.
    Route(String),
    /// In a policy for the route of this name, or in the route itself.
    RouteField(String, RouteField),
    /// In the service: what its port speaks.
    Protocol,
    /// In a policy for the cluster.
    Policy(PolicyField),
    /// In the BackendTLSPolicy for the cluster.
    BackendTls,
    /// In the settings of the mesh: how inbound ports are entered.
    MutualTls,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Route(name) | Place::RouteField(name, _) => f.write_str(name),
            Place::Protocol => f.write_str("appProtocol"),
            Place::Policy(field) => field.fmt(f),
            Place::BackendTls => f.write_str("validation"),
            Place::MutualTls => f.write_str("mutualTls"),
        }
    }
}

/// Of a route's priority, to clients other than weir proxies.
pub(super) const PRIORITY: &str =
    "gives its requests a priority, which travels among weir proxies alone; those of this client come without one";

/// A field of a policy for routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteField {
    /// `retry`
    Retry,
    /// `rateLimit`
    RateLimit,
    /// `fault`
    Fault,
    /// `priority`
    Priority,
    /// `mirror`
    Mirror,
}

/// A field of a policy for a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PolicyField {
    /// `balancing`
    Balancing,
    /// `connectTimeout`
    ConnectTimeout,
    /// `circuitBreaker.maxConnections`
    MaxConnections,
    /// `circuitBreaker.maxPendingRequests`
    MaxPendingRequests,
    /// `circuitBreaker.failures`
    Failures,
    /// `outlierDetection`
    OutlierDetection,
    /// `healthCheck`
    HealthCheck,
    /// `slowStart`
    SlowStart,
    /// `locality`
    Locality,
    /// `connectionPool`
    ConnectionPool,
    /// `connectionPool.maxConcurrentStreams`
    MaxConcurrentStreams,
    /// `panicPercent`
    PanicPercent,
    /// `retryBudget`
    RetryBudget,
}

impl fmt::Display for PolicyField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PolicyField::Balancing => "balancing",
            PolicyField::ConnectTimeout => "connectTimeout",
            PolicyField::MaxConnections => "circuitBreaker.maxConnections",
            PolicyField::MaxPendingRequests => "circuitBreaker.maxPendingRequests",
            PolicyField::Failures => "circuitBreaker.failures",
            PolicyField::OutlierDetection => "outlierDetection",
            PolicyField::HealthCheck => "healthCheck",
            PolicyField::SlowStart => "slowStart",
            PolicyField::Locality => "locality",
            PolicyField::ConnectionPool => "connectionPool",
            PolicyField::MaxConcurrentStreams => "connectionPool.maxConcurrentStreams",
            PolicyField::PanicPercent => "panicPercent",
            PolicyField::RetryBudget => "retryBudget",
        })
    }
}

/// What was met while a resource is written.
#[derive(Debug, Default)]
pub(super) struct Notes(Vec<NotSent>);

impl Notes {
    pub(super) fn route(&mut self, name: &str, problem: impl Into<String>) {
        self.0.push(NotSent {
            place: Place::Route(name.to_owned()),
            problem: problem.into(),
        });
    }

    pub(super) fn route_field(&mut self, name: &str, field: RouteField, problem: impl Into<String>) {
        self.0.push(NotSent {
            place: Place::RouteField(name.to_owned(), field),
            problem: problem.into(),
        });
    }

    pub(super) fn policy(&mut self, field: PolicyField, problem: &str) {
        self.0.push(NotSent {
            place: Place::Policy(field),
            problem: problem.to_owned(),
        });
    }

    pub(super) fn into_list(self) -> Vec<NotSent> {
        self.0
    }

    pub(super) fn with(self, message: Any) -> Sent {
        Sent {
            message,
            not_sent: self.0,
        }
    }
}
