//! Why the proxy, and not the app, answered a request. One value from which the status, `Proxy-Status`, the gRPC
//! status, the metric's flag and the log line are all made.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode};
use weir_policy::breaker::Refusal;
use weir_policy::context::Fault;
use weir_policy::egress::Prohibited;
use weir_policy::model::{AbortAnswer, RateLimit, Route};
use weir_policy::names::ClusterName;
use weir_policy::spiffe::SpiffeId;
use weir_xds::ResourceType;

use crate::egress::dns::DnsError;
use crate::http::body::BodyFailure;
use crate::http::h1::violation::Violation;
use crate::http::upgrade::{NotAsked, NotSwitched};
use crate::mesh::{RefusedResource, Unavailable};
use crate::record::ResponseFlag;
use crate::tls::{TlsFailure, With};

/// Why a request ended at the proxy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyError {
    /// The request can't be read as one request to one place.
    #[error("the request is refused: {0}")]
    BadRequest(&'static str),
    /// The request asks for what this proxy does not do.
    #[error("{0} is not carried by this proxy")]
    NotCarried(&'static str),
    /// An HTTP request for what carries TCP.
    #[error("{name} carries TCP, and this is a request of HTTP")]
    CarriesTcp {
        /// The service or cluster.
        name: String,
    },
    /// A connection of TCP for what carries requests.
    #[error("{name} carries HTTP, and this port is for TCP")]
    CarriesHttp {
        /// The service.
        name: String,
    },
    /// The name asked for is no service of the mesh.
    #[error("{authority:?} is no service of the mesh: {why}")]
    UnknownDestination {
        /// The authority as the app wrote it.
        authority: String,
        /// What is known about why.
        why: String,
    },
    /// A name that is none of the mesh's leads to where nothing that passes through may go.
    #[error(
        "{authority:?} is none of the mesh's, and leads to {address}, {why}: nothing that passes through goes there"
    )]
    ProhibitedAddress {
        /// The authority as the app wrote it.
        authority: String,
        /// What it leads to.
        address: SocketAddr,
        /// What that is.
        why: Prohibited,
    },
    /// A name that is none of the mesh's has no address.
    #[error("{authority:?} is none of the mesh's, and DNS has no address for it: {why}")]
    NotResolved {
        /// The authority as the app wrote it.
        authority: String,
        /// Why.
        why: DnsError,
    },
    /// The control plane has not answered about this name.
    #[error("no configuration for {authority:?}: {why}")]
    NoConfig {
        /// The authority as the app wrote it.
        authority: String,
        /// How the wait ended.
        why: Unavailable,
    },
    /// What the control plane said was refused by this proxy, and nothing was in force before.
    #[error(transparent)]
    ConfigRefused(Arc<RefusedResource>),
    /// No rule of the routes matches.
    #[error("no rule of the routes of {service} matches this request")]
    NoRoute {
        /// The service asked for.
        service: String,
    },
    /// A preflight asks for a page that may not use the route.
    #[error("route {route} is not for pages of {origin:?}")]
    OriginNotAllowed {
        /// The route.
        route: String,
        /// The page's origin.
        origin: String,
    },
    /// The rule that matches has no backend to send to.
    #[error("route {route} has no backend of weight above 0")]
    NoBackend {
        /// The route.
        route: String,
    },
    /// The backend drawn does not exist.
    #[error("route {route} names backend {cluster}, which does not exist")]
    MissingBackend {
        /// The route.
        route: String,
        /// The cluster it names.
        cluster: ClusterName,
    },
    /// The backend drawn carries TCP.
    #[error("route {route} names backend {cluster}, which carries TCP, and this is a request of HTTP")]
    TcpBackend {
        /// The route.
        route: String,
        /// The cluster it names.
        cluster: ClusterName,
    },
    /// The route has taken as many requests as its limit allows.
    #[error("{} takes {} requests in {:?} and has had them", limit.name, limit.requests, limit.per)]
    RateLimited {
        /// The limit.
        limit: RateLimit,
        /// How long until the next one is taken.
        retry_after: Duration,
    },
    /// The route answers with a fault on purpose.
    #[error("a fault that is injected by the policy of {route}")]
    Injected {
        /// The route.
        route: String,
        /// What it answers with.
        answer: AbortAnswer,
    },
    /// No endpoint may take the request.
    #[error("{cluster} has no endpoint that takes requests")]
    NoEndpoint {
        /// The cluster.
        cluster: String,
    },
    /// A limit or the breaker of the cluster refuses.
    #[error("{cluster}: {refusal}")]
    Refused {
        /// The cluster.
        cluster: String,
        /// Which limit.
        refusal: Refusal,
    },
    /// No connection could be opened.
    #[error("connecting to {endpoint} failed: {source}")]
    Connect {
        /// Where to.
        endpoint: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Opening a connection took too long.
    #[error("connecting to {endpoint} took longer than {limit:?}")]
    ConnectTimeout {
        /// Where to.
        endpoint: SocketAddr,
        /// The cluster's connect timeout.
        limit: Duration,
    },
    /// Both ends of a connection did not come to trust each other.
    #[error("no TLS with {endpoint}: {detail}")]
    Tls {
        /// Where to.
        endpoint: SocketAddr,
        /// With whom it was to be.
        with: With,
        /// What kind of failure it is.
        failure: TlsFailure,
        /// What TLS said.
        detail: String,
    },
    /// TLS is asked for, and there is nothing to go by.
    #[error("nothing is sent to {cluster}: {why}")]
    TlsClosed {
        /// The cluster.
        cluster: String,
        /// Which policy asks for it, and what it lacks.
        why: Arc<str>,
    },
    /// It came in cleartext to a port that takes mutual TLS alone.
    #[error("app port {app_port} takes requests by mutual TLS alone, and this one came in cleartext")]
    CleartextRefused {
        /// The port.
        app_port: NonZeroU16,
    },
    /// Its connection was opened by a workload of a trust domain that is believed no more.
    #[error("{caller} is of a trust domain that is not trusted any more")]
    CallerNotTrusted {
        /// Who it is.
        caller: Arc<SpiffeId>,
    },
    /// The connection ended before the answer began.
    #[error("{endpoint} closed the connection before it answered: {detail}")]
    Reset {
        /// Where to.
        endpoint: SocketAddr,
        /// What hyper or h2 said.
        detail: String,
    },
    /// The endpoint refused the stream unprocessed (REFUSED_STREAM, or above GOAWAY's last stream).
    #[error("{endpoint} refused the request unprocessed: {detail}")]
    Unprocessed {
        /// Where to.
        endpoint: SocketAddr,
        /// What hyper or h2 said.
        detail: String,
    },
    /// What came back is not HTTP.
    #[error("{endpoint} answered with what is not HTTP: {detail}")]
    Protocol {
        /// Where to.
        endpoint: SocketAddr,
        /// What hyper or h2 said.
        detail: String,
    },
    /// The upgrade that was asked for can't be had there.
    #[error("the upgrade fails at {endpoint}: {why}")]
    Upgrade {
        /// Where to.
        endpoint: SocketAddr,
        /// Why.
        why: UpgradeFailure,
    },
    /// What is within a CONNECT asks for another place than that.
    #[error("{authority:?} is asked for on a connection to {connected}")]
    Misdirected {
        /// The authority as the app wrote it.
        authority: String,
        /// What CONNECT asked for.
        connected: String,
    },
    /// One attempt took too long.
    #[error("{endpoint} did not answer within {limit:?}")]
    AttemptTimeout {
        /// Where to.
        endpoint: SocketAddr,
        /// The route's limit for one attempt.
        limit: Duration,
    },
    /// The request as a whole took too long.
    #[error("no answer within {limit:?}")]
    RequestTimeout {
        /// The time that was given.
        limit: Duration,
    },
    /// The body that came from downstream did not come whole.
    #[error("the request's body {0}")]
    RequestBody(BodyFailure),
    /// What came on an HTTP/1 connection is no request.
    #[error("the request is refused: {0}")]
    Violation(Violation),
}

/// Why an upgrade failed.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum UpgradeFailure {
    /// It can't be asked for.
    #[error("{0}")]
    NotAsked(#[from] NotAsked),
    /// The answer is none to what was asked.
    #[error("{0}")]
    NotSwitched(#[from] NotSwitched),
    /// The connection was gone with the answer.
    #[error("its connection ended with the answer: {0}")]
    Ended(String),
}

/// Where a request went wrong, as seen from this proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hop {
    /// Before a service was known.
    Listener,
    /// While a route was looked for.
    Route,
    /// While an endpoint was chosen.
    Cluster,
    /// At the endpoint.
    Endpoint,
}

impl Hop {
    /// As in answers and logs.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Hop::Listener => "listener",
            Hop::Route => "route",
            Hop::Cluster => "cluster",
            Hop::Endpoint => "endpoint",
        }
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl ProxyError {
    /// Why a name of the mesh leads nowhere.
    pub(crate) fn of_name(authority: &str, why: Unavailable) -> ProxyError {
        let authority = authority.to_owned();
        match why {
            Unavailable::NoSuchService => ProxyError::UnknownDestination {
                authority,
                why: why.to_string(),
            },
            Unavailable::NoAnswer { .. } | Unavailable::Overloaded => ProxyError::NoConfig { authority, why },
            Unavailable::Refused(refused) => ProxyError::ConfigRefused(refused),
        }
    }

    /// A preflight of this header asks for a page that may not use this route.
    pub(crate) fn origin_not_allowed(route: &Route, headers: &HeaderMap) -> ProxyError {
        let origin = headers.get(http::header::ORIGIN).map(HeaderValue::as_bytes);
        let origin = String::from_utf8_lossy(origin.unwrap_or_default());
        ProxyError::OriginNotAllowed {
            route: route.name.clone(),
            // As long as one that a filter can name.
            origin: origin.chars().take(253).collect(),
        }
    }

    /// Whose fault it is.
    pub(crate) fn fault(&self) -> Fault {
        match self {
            ProxyError::BadRequest(_)
            | ProxyError::NotCarried(_)
            | ProxyError::CarriesTcp { .. }
            | ProxyError::CarriesHttp { .. }
            | ProxyError::UnknownDestination { .. }
            | ProxyError::ProhibitedAddress { .. }
            | ProxyError::RequestBody(_)
            | ProxyError::Misdirected { .. }
            | ProxyError::CleartextRefused { .. }
            | ProxyError::CallerNotTrusted { .. }
            | ProxyError::Violation(_) => Fault::Downstream,
            // Who gives certificates gave none.
            ProxyError::Tls {
                failure: TlsFailure::Own,
                ..
            } => Fault::ControlPlane,
            ProxyError::NoConfig { .. } | ProxyError::ConfigRefused(_) => Fault::ControlPlane,
            ProxyError::NoRoute { .. }
            | ProxyError::OriginNotAllowed { .. }
            | ProxyError::NoBackend { .. }
            | ProxyError::MissingBackend { .. }
            | ProxyError::TlsClosed { .. }
            | ProxyError::TcpBackend { .. }
            | ProxyError::RateLimited { .. }
            | ProxyError::Injected { .. }
            | ProxyError::Refused {
                refusal: Refusal::Connections { .. } | Refusal::Pending { .. } | Refusal::Requests { .. },
                ..
            } => Fault::Policy,
            // An open breaker is the mirror of an upstream that failed.
            ProxyError::Refused {
                refusal: Refusal::Open { .. },
                ..
            }
            | ProxyError::NotResolved { .. }
            | ProxyError::NoEndpoint { .. }
            | ProxyError::Connect { .. }
            | ProxyError::ConnectTimeout { .. }
            | ProxyError::Tls {
                failure: TlsFailure::Certificate | TlsFailure::Alert | TlsFailure::Protocol,
                ..
            }
            | ProxyError::Reset { .. }
            | ProxyError::Unprocessed { .. }
            | ProxyError::Protocol { .. }
            | ProxyError::Upgrade { .. }
            | ProxyError::AttemptTimeout { .. }
            | ProxyError::RequestTimeout { .. } => Fault::Upstream,
        }
    }

    /// Where it went wrong.
    pub(crate) fn hop(&self) -> Hop {
        match self {
            ProxyError::BadRequest(_)
            | ProxyError::NotCarried(_)
            | ProxyError::CarriesTcp { .. }
            | ProxyError::CarriesHttp { .. }
            | ProxyError::UnknownDestination { .. }
            | ProxyError::RequestBody(_)
            | ProxyError::Violation(_)
            | ProxyError::Misdirected { .. }
            | ProxyError::CleartextRefused { .. }
            | ProxyError::CallerNotTrusted { .. }
            | ProxyError::NoConfig { .. } => Hop::Listener,
            ProxyError::ConfigRefused(refused) => match refused.kind {
                // No request waits for a policy.
                ResourceType::Listener | ResourceType::WorkloadPolicy | ResourceType::TrustRoots => Hop::Listener,
                ResourceType::Route => Hop::Route,
                ResourceType::Cluster | ResourceType::Endpoints => Hop::Cluster,
            },
            ProxyError::NoRoute { .. }
            | ProxyError::OriginNotAllowed { .. }
            | ProxyError::NoBackend { .. }
            | ProxyError::MissingBackend { .. }
            | ProxyError::TcpBackend { .. }
            | ProxyError::RateLimited { .. }
            | ProxyError::Injected { .. } => Hop::Route,
            ProxyError::ProhibitedAddress { .. }
            | ProxyError::NotResolved { .. }
            | ProxyError::NoEndpoint { .. }
            | ProxyError::TlsClosed { .. }
            | ProxyError::Refused { .. } => Hop::Cluster,
            ProxyError::Connect { .. }
            | ProxyError::ConnectTimeout { .. }
            | ProxyError::Tls { .. }
            | ProxyError::Reset { .. }
            | ProxyError::Unprocessed { .. }
            | ProxyError::Protocol { .. }
            | ProxyError::Upgrade { .. }
            | ProxyError::AttemptTimeout { .. }
            | ProxyError::RequestTimeout { .. } => Hop::Endpoint,
        }
    }

    /// The status of the answer. Where RFC 9209 section 2.3 recommends one for the error, it is that one.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            ProxyError::BadRequest(_) | ProxyError::RequestBody(BodyFailure::BrokeOff(_)) => StatusCode::BAD_REQUEST,
            ProxyError::Violation(violation) | ProxyError::RequestBody(BodyFailure::Refused(violation)) => {
                violation.status()
            }
            ProxyError::NotCarried(_) | ProxyError::CarriesTcp { .. } | ProxyError::CarriesHttp { .. } => {
                StatusCode::NOT_IMPLEMENTED
            }
            // RFC 9110 section 15.5.20.
            ProxyError::Misdirected { .. } => StatusCode::MISDIRECTED_REQUEST,
            ProxyError::NoRoute { .. } => StatusCode::NOT_FOUND,
            // GEP-1767 allows it beside 200 and 204, and people see what happened.
            ProxyError::OriginNotAllowed { .. }
            | ProxyError::CleartextRefused { .. }
            | ProxyError::CallerNotTrusted { .. } => StatusCode::FORBIDDEN,
            // RFC 6585 section 4; RFC 9209 has 403 for every request that a policy denies.
            ProxyError::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
            ProxyError::Injected { answer, .. } => answer.status(),
            // Gateway API, HTTPRouteRule.backendRefs: an invalid backend is answered with 500.
            ProxyError::NoBackend { .. }
            | ProxyError::MissingBackend { .. }
            | ProxyError::TlsClosed { .. }
            | ProxyError::TcpBackend { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            ProxyError::UnknownDestination { .. }
            | ProxyError::ProhibitedAddress { .. }
            | ProxyError::NotResolved {
                why: DnsError::NoAddress | DnsError::Failed(_),
                ..
            }
            | ProxyError::Connect { .. }
            | ProxyError::Tls {
                failure: TlsFailure::Certificate | TlsFailure::Alert | TlsFailure::Protocol,
                ..
            }
            | ProxyError::Reset { .. }
            | ProxyError::Unprocessed { .. }
            | ProxyError::Upgrade { .. }
            | ProxyError::Protocol { .. } => StatusCode::BAD_GATEWAY,
            ProxyError::NoConfig { .. }
            | ProxyError::Tls {
                failure: TlsFailure::Own,
                ..
            }
            | ProxyError::ConfigRefused(_)
            | ProxyError::NoEndpoint { .. }
            | ProxyError::Refused { .. } => StatusCode::SERVICE_UNAVAILABLE,
            ProxyError::NotResolved {
                why: DnsError::Timeout(_),
                ..
            }
            | ProxyError::ConnectTimeout { .. }
            | ProxyError::AttemptTimeout { .. }
            | ProxyError::RequestTimeout { .. } => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The error type of `Proxy-Status` (RFC 9209 section 2.3).
    pub(crate) fn proxy_status_error(&self) -> &'static str {
        match self {
            ProxyError::BadRequest(_)
            | ProxyError::RequestBody(_)
            | ProxyError::Violation(_)
            | ProxyError::Misdirected { .. }
            | ProxyError::NotCarried(_)
            | ProxyError::CarriesTcp { .. }
            | ProxyError::CarriesHttp { .. } => "http_request_error",
            ProxyError::Upgrade { .. } => "http_upgrade_failed",
            ProxyError::UnknownDestination { .. } | ProxyError::NoRoute { .. } => "destination_not_found",
            ProxyError::ProhibitedAddress { .. } => "destination_ip_prohibited",
            ProxyError::NotResolved { why, .. } => match why {
                DnsError::Timeout(_) => "dns_timeout",
                DnsError::NoAddress | DnsError::Failed(_) => "dns_error",
            },
            ProxyError::OriginNotAllowed { .. }
            | ProxyError::CleartextRefused { .. }
            | ProxyError::CallerNotTrusted { .. }
            | ProxyError::RateLimited { .. } => "http_request_denied",
            ProxyError::Tls { failure, .. } => match failure {
                TlsFailure::Own => "proxy_internal_error",
                TlsFailure::Certificate => "tls_certificate_error",
                TlsFailure::Alert => "tls_alert_received",
                TlsFailure::Protocol => "tls_protocol_error",
            },
            ProxyError::Injected { .. } => "proxy_internal_response",
            ProxyError::NoConfig { .. }
            | ProxyError::ConfigRefused(_)
            | ProxyError::NoBackend { .. }
            | ProxyError::TlsClosed { .. }
            | ProxyError::TcpBackend { .. }
            | ProxyError::MissingBackend { .. } => "proxy_configuration_error",
            ProxyError::NoEndpoint { .. }
            | ProxyError::Refused {
                refusal: Refusal::Open { .. },
                ..
            } => "destination_unavailable",
            ProxyError::Refused {
                refusal: Refusal::Connections { .. } | Refusal::Pending { .. } | Refusal::Requests { .. },
                ..
            } => "connection_limit_reached",
            ProxyError::Connect { .. } => "connection_refused",
            ProxyError::ConnectTimeout { .. } => "connection_timeout",
            ProxyError::Reset { .. } | ProxyError::Unprocessed { .. } => "connection_terminated",
            ProxyError::Protocol { .. } => "http_protocol_error",
            ProxyError::AttemptTimeout { .. } | ProxyError::RequestTimeout { .. } => "http_response_timeout",
        }
    }

    /// The status a gRPC caller gets, by the code's own meaning (gRPC, statuscodes.md).
    pub(crate) fn grpc_status(&self) -> u32 {
        const INVALID_ARGUMENT: u32 = 3;
        const DEADLINE_EXCEEDED: u32 = 4;
        const PERMISSION_DENIED: u32 = 7;
        const RESOURCE_EXHAUSTED: u32 = 8;
        const UNIMPLEMENTED: u32 = 12;
        const INTERNAL: u32 = 13;
        const UNAVAILABLE: u32 = 14;
        match self {
            ProxyError::BadRequest(_)
            | ProxyError::Misdirected { .. }
            | ProxyError::RequestBody(_)
            | ProxyError::Violation(_) => INVALID_ARGUMENT,
            ProxyError::NotCarried(_)
            | ProxyError::CarriesTcp { .. }
            | ProxyError::CarriesHttp { .. }
            | ProxyError::NoRoute { .. } => UNIMPLEMENTED,
            ProxyError::OriginNotAllowed { .. }
            | ProxyError::ProhibitedAddress { .. }
            | ProxyError::CleartextRefused { .. }
            | ProxyError::CallerNotTrusted { .. } => PERMISSION_DENIED,
            ProxyError::Protocol { .. } | ProxyError::Upgrade { .. } => INTERNAL,
            ProxyError::Injected { answer, .. } => answer.grpc_status(),
            ProxyError::RateLimited { .. }
            | ProxyError::Refused {
                refusal: Refusal::Connections { .. } | Refusal::Pending { .. } | Refusal::Requests { .. },
                ..
            } => RESOURCE_EXHAUSTED,
            ProxyError::AttemptTimeout { .. } | ProxyError::RequestTimeout { .. } => DEADLINE_EXCEEDED,
            // Gateway API, GRPCRouteRule.backendRefs: a call whose backend is invalid ends with UNAVAILABLE.
            ProxyError::NoBackend { .. }
            | ProxyError::MissingBackend { .. }
            | ProxyError::TlsClosed { .. }
            | ProxyError::TcpBackend { .. }
            | ProxyError::UnknownDestination { .. }
            | ProxyError::NotResolved { .. }
            | ProxyError::NoConfig { .. }
            | ProxyError::ConfigRefused(_)
            | ProxyError::NoEndpoint { .. }
            | ProxyError::Refused {
                refusal: Refusal::Open { .. },
                ..
            }
            | ProxyError::Connect { .. }
            | ProxyError::ConnectTimeout { .. }
            | ProxyError::Tls { .. }
            | ProxyError::Reset { .. }
            | ProxyError::Unprocessed { .. } => UNAVAILABLE,
        }
    }

    /// The closed label for metrics and logs.
    pub(crate) fn flag(&self) -> ResponseFlag {
        match self {
            ProxyError::BadRequest(_) | ProxyError::Misdirected { .. } => ResponseFlag::BadRequest,
            ProxyError::NotCarried(_) | ProxyError::CarriesTcp { .. } | ProxyError::CarriesHttp { .. } => {
                ResponseFlag::NotCarried
            }
            ProxyError::UnknownDestination { .. } => ResponseFlag::UnknownDestination,
            ProxyError::ProhibitedAddress { .. } => ResponseFlag::ProhibitedAddress,
            ProxyError::NotResolved { .. } => ResponseFlag::NotResolved,
            ProxyError::NoConfig { .. } => ResponseFlag::NoConfig,
            ProxyError::ConfigRefused(_) => ResponseFlag::ConfigRefused,
            ProxyError::NoRoute { .. } => ResponseFlag::NoRoute,
            ProxyError::OriginNotAllowed { .. } => ResponseFlag::OriginNotAllowed,
            ProxyError::NoBackend { .. } | ProxyError::MissingBackend { .. } | ProxyError::TcpBackend { .. } => {
                ResponseFlag::NoBackend
            }
            ProxyError::RateLimited { .. } => ResponseFlag::RateLimited,
            ProxyError::Injected { .. } => ResponseFlag::Fault,
            ProxyError::NoEndpoint { .. } => ResponseFlag::NoEndpoint,
            ProxyError::Refused {
                refusal: Refusal::Open { .. },
                ..
            } => ResponseFlag::BreakerOpen,
            ProxyError::Refused {
                refusal: Refusal::Connections { .. } | Refusal::Pending { .. } | Refusal::Requests { .. },
                ..
            } => ResponseFlag::LimitReached,
            ProxyError::Connect { .. } => ResponseFlag::ConnectFailed,
            ProxyError::ConnectTimeout { .. } => ResponseFlag::ConnectTimeout,
            ProxyError::Tls { .. } => ResponseFlag::TlsFailed,
            ProxyError::TlsClosed { .. } => ResponseFlag::TlsClosed,
            ProxyError::CleartextRefused { .. } => ResponseFlag::CleartextRefused,
            ProxyError::CallerNotTrusted { .. } => ResponseFlag::CallerNotTrusted,
            ProxyError::Reset { .. } | ProxyError::Unprocessed { .. } => ResponseFlag::UpstreamReset,
            ProxyError::Protocol { .. } | ProxyError::Upgrade { .. } => ResponseFlag::UpstreamProtocol,
            ProxyError::AttemptTimeout { .. } => ResponseFlag::AttemptTimeout,
            ProxyError::RequestTimeout { .. } => ResponseFlag::RequestTimeout,
            ProxyError::RequestBody(BodyFailure::BrokeOff(_)) => ResponseFlag::DownstreamReset,
            ProxyError::Violation(_) | ProxyError::RequestBody(BodyFailure::Refused(_)) => ResponseFlag::BadRequest,
        }
    }

    /// How long the caller should wait before it asks again, where that is known.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            ProxyError::RateLimited { retry_after, .. }
            | ProxyError::Refused {
                refusal: Refusal::Open { retry_after },
                ..
            } => Some(*retry_after),
            ProxyError::Refused { .. } | ProxyError::NoConfig { .. } | ProxyError::NoEndpoint { .. } => {
                Some(Duration::from_secs(1))
            }
            ProxyError::BadRequest(_)
            | ProxyError::NotCarried(_) | ProxyError::CarriesTcp { .. } | ProxyError::CarriesHttp { .. }
            | ProxyError::UnknownDestination { .. }
            | ProxyError::ProhibitedAddress { .. }
            | ProxyError::NotResolved { .. }
            // Only another version helps, and nobody knows when it comes.
            | ProxyError::ConfigRefused(_)
            | ProxyError::Injected { .. }
            | ProxyError::NoRoute { .. }
            | ProxyError::OriginNotAllowed { .. }
            | ProxyError::NoBackend { .. }
            | ProxyError::MissingBackend { .. } | ProxyError::TcpBackend { .. }
            | ProxyError::Connect { .. }
            | ProxyError::ConnectTimeout { .. }
            | ProxyError::Tls { .. }
            | ProxyError::TlsClosed { .. }
            | ProxyError::CleartextRefused { .. }
            | ProxyError::CallerNotTrusted { .. }
            | ProxyError::Reset { .. }
            | ProxyError::Unprocessed { .. }
            | ProxyError::Protocol { .. }
            | ProxyError::Upgrade { .. }
            | ProxyError::Misdirected { .. }
            | ProxyError::AttemptTimeout { .. }
            | ProxyError::RequestTimeout { .. }
            | ProxyError::RequestBody(_)
            | ProxyError::Violation(_) => None,
        }
    }

    /// What to do about it, as the end of the text that a person reads.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            ProxyError::BadRequest(_) => "send one Host and an absolute path",
            ProxyError::NotCarried(_) => "call it without this feature",
            ProxyError::CarriesTcp { .. } => {
                "connect to a port of --listen that is for it; if it speaks HTTP, set appProtocol in its Service"
            }
            ProxyError::CarriesHttp { .. } => {
                "send requests to --outbound; if it speaks something else, set appProtocol: tcp in its Service"
            }
            ProxyError::UnknownDestination { .. } => {
                "call a service as NAME, NAME.NAMESPACE or NAME.NAMESPACE.svc.cluster.local, with :PORT where it has several"
            }
            ProxyError::ProhibitedAddress { .. } => {
                "make what listens there a Service of the mesh, or call it without the sidecar"
            }
            ProxyError::NotResolved { .. } => "look whether the name is right, and at the name servers of this host",
            ProxyError::NoConfig { .. } => "see that weir-control runs and this proxy reaches it (`weirctl status`)",
            ProxyError::ConfigRefused(_) => {
                "correct what the text names; if nobody wrote it, update the older one of weir-control and this proxy"
            }
            ProxyError::NoRoute { .. } => "look at the service's routes: none covers this path, method and header",
            ProxyError::OriginNotAllowed { .. } => {
                "if it should be, name the origin in allowOrigins of the route's CORS filter"
            }
            ProxyError::NoBackend { .. } | ProxyError::MissingBackend { .. } | ProxyError::TcpBackend { .. } => {
                "correct the route's backendRefs: the Service and its port must exist, and carry HTTP"
            }
            ProxyError::RateLimited { .. } => "send fewer, or change the RoutePolicy's rateLimit",
            ProxyError::Injected { .. } => "take fault out of the RoutePolicy when it has shown what it should",
            ProxyError::NoEndpoint { .. } => "see that a workload of the service runs and is ready (`weirctl status`)",
            ProxyError::Refused { .. } => "wait, or change the BackendPolicy's circuitBreaker",
            ProxyError::Connect { .. } | ProxyError::ConnectTimeout { .. } => "see that the workload there runs",
            ProxyError::Tls {
                failure: TlsFailure::Own,
                ..
            } => "see what the proxy's log says of its certificate, and that it reaches weir-control",
            ProxyError::Tls {
                with: With::Backend, ..
            } => {
                "compare its certificate with validation of the BackendTLSPolicy (`weirctl describe backendtlspolicy`)"
            }
            ProxyError::TlsClosed { .. } => {
                "give the policy what it lacks; its status says the same (`weirctl describe backendtlspolicy`). What \
                 this proxy's system lacks is looked for again when its configuration changes or it starts"
            }
            ProxyError::Tls { .. } => "look at the certificates of both (`weirctl proxy config`), and at both clocks",
            ProxyError::CleartextRefused { .. } => {
                "call through a sidecar that joined by TLS (`weirctl token create`), or see mutualTls of the MeshConfig"
            }
            ProxyError::CallerNotTrusted { .. } => "see trustDomains of the MeshConfig",
            ProxyError::Reset { .. } | ProxyError::Unprocessed { .. } | ProxyError::Protocol { .. } => {
                "look at the log of the workload there"
            }
            ProxyError::Upgrade { .. } => "see what the app there speaks, and the appProtocol of its port",
            ProxyError::Misdirected { .. } => "open a connection for each name, or send it without CONNECT",
            ProxyError::AttemptTimeout { .. } | ProxyError::RequestTimeout { .. } => {
                "look for what is slow behind it, or allow more time in the route's timeouts"
            }
            ProxyError::RequestBody(BodyFailure::BrokeOff(_)) => "send the whole body",
            ProxyError::Violation(violation) | ProxyError::RequestBody(BodyFailure::Refused(violation)) => {
                violation.hint()
            }
        }
    }
}
