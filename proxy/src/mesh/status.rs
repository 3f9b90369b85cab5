//! What the admin port shows of the mesh: everything in force, sorted, and how each subscription stands.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU16;

use http::header::{self, HeaderName};
use serde::Serialize;
use weir_policy::backend_tls::{Authorities, BackendTls};
use weir_policy::breaker::BreakerState;
use weir_policy::egress::Egress;
use weir_policy::health_check::Verdict;
use weir_policy::model::{
    self, Action, AppProtocol, Balancing, EndpointHealth, PathMatch, Peer, RouteMatch, ValueMatch,
};
use weir_policy::mutual_tls::{Mode, MutualTls};
use weir_policy::names::{ClusterName, ListenerName};
use weir_policy::telemetry::{AccessLog, ExcludedPath, Telemetry};
use weir_policy::time::Time;

use super::LinkStatus;
use crate::endpoints::Levels;
use crate::snapshot::{Backend, Cluster, Lookup, Service, Snapshot};

/// Everything in force and how it came there. Sorted throughout.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Status {
    /// Which publication this is, counted from 1 in this process.
    pub(crate) snapshot: u64,
    /// The link to the control plane.
    #[serde(flatten)]
    pub(crate) link: LinkStatus,
    /// Names that the app uses.
    pub(crate) services: Vec<ServiceStatus>,
    /// Clusters that their routes name.
    pub(crate) clusters: Vec<ClusterStatus>,
    /// What the policy of this proxy's workload says of telemetry; none where there is no policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    telemetry: Option<TelemetryStatus>,
    /// How inbound ports are entered, as far as somebody has said.
    #[serde(skip_serializing_if = "Option::is_none")]
    mutual_tls: Option<MutualTlsStatus>,
    /// What becomes of names that are none of the mesh's, as far as somebody has said.
    #[serde(skip_serializing_if = "Option::is_none")]
    egress: Option<&'static str>,
}

/// How inbound ports are entered.
#[derive(Clone, Debug, Serialize)]
struct MutualTlsStatus {
    /// Those that are not in `ports`.
    mode: &'static str,
    /// Single ones, by app port.
    ports: BTreeMap<NonZeroU16, &'static str>,
}

/// What a policy says of telemetry; what it leaves out is as the flags say.
#[derive(Clone, Debug, Serialize)]
struct TelemetryStatus {
    #[serde(skip_serializing_if = "Option::is_none")]
    access_log: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sampling_percent: Option<f64>,
    /// `attribute = field`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    /// `= path`, `under path`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    excluded_paths: Vec<String>,
}

/// A name that the app uses.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ServiceStatus {
    name: String,
    exists: bool,
    /// Why it has nothing in force, where what came of it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
    /// The route configuration; none where the listener holds its routes itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    routes_from: Option<String>,
    /// In order of precedence within each host.
    routes: Vec<RouteStatus>,
    /// The cluster that its connections go to, where it carries TCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp: Option<String>,
}

/// A route.
#[derive(Clone, Debug, Serialize)]
struct RouteStatus {
    name: String,
    matches: String,
    action: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    backends: Vec<BackendStatus>,
}

/// A route's share for a cluster.
#[derive(Clone, Debug, Serialize)]
struct BackendStatus {
    cluster: String,
    weight: u32,
}

/// A cluster.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ClusterStatus {
    name: String,
    state: &'static str,
    #[serde(flatten)]
    known: Option<KnownCluster>,
}

/// What is known of a cluster that exists.
#[derive(Clone, Debug, Serialize)]
struct KnownCluster {
    protocol: &'static str,
    balancing: &'static str,
    connect_timeout_ms: u128,
    breaker: &'static str,
    breaker_opened_total: u64,
    retry_budget: RetryBudgetStatus,
    /// What it is made from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sources: Vec<String>,
    /// How those endpoints are reached that have no identity; absent: in cleartext.
    #[serde(skip_serializing_if = "Option::is_none")]
    backend_tls: Option<BackendTlsStatus>,
    /// Where near endpoints are preferred: the share of each level, in percent.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    levels: BTreeMap<&'static str, u8>,
    /// So few endpoints can be used that all are.
    panic: bool,
    connections: Count,
    pending: Count,
    requests: Count,
    endpoints: Vec<EndpointStatus>,
    /// How many more there are.
    #[serde(skip_serializing_if = "is_zero")]
    endpoints_left_out: usize,
}

/// How endpoints without an identity are reached.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum BackendTlsStatus {
    /// By TLS.
    Verified {
        hostname: String,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        subject_alt_names: Vec<String>,
        /// Whose word counts.
        authorities: String,
    },
    /// Not at all, and why.
    Closed(String),
}

impl BackendTlsStatus {
    fn of(cluster: &Cluster) -> Option<BackendTlsStatus> {
        if let Some(Err(why)) = cluster.state.backend_tls.as_ref().map(|tls| &tls.client) {
            return Some(BackendTlsStatus::Closed(why.to_string()));
        }
        match cluster.config.backend_tls.as_ref()? {
            BackendTls::Verified(validation) => Some(BackendTlsStatus::Verified {
                hostname: validation.hostname.clone(),
                subject_alt_names: validation.subject_alt_names.iter().map(ToString::to_string).collect(),
                authorities: match &validation.authorities {
                    Authorities::System => "those that this proxy's system trusts".to_owned(),
                    Authorities::Given(certificates) => match certificates.len() {
                        1 => "1 certificate of the policy".to_owned(),
                        count => format!("{count} certificates of the policy"),
                    },
                },
            }),
            BackendTls::Closed { why } => Some(BackendTlsStatus::Closed(why.clone())),
        }
    }
}

/// How much of a limit is used.
#[derive(Clone, Copy, Debug, Serialize)]
struct Count {
    open: u32,
    limit: u32,
}

/// How much retries may add.
#[derive(Clone, Copy, Debug, Serialize)]
struct RetryBudgetStatus {
    percent: u8,
    min_per_second: u32,
    window_ms: u128,
}

/// An endpoint.
#[derive(Clone, Debug, Serialize)]
struct EndpointStatus {
    address: String,
    health: &'static str,
    /// Whether new requests may go there.
    used: bool,
    /// Why they may or may not.
    why: Cow<'static, str>,
    /// What the latest checks found.
    #[serde(skip_serializing_if = "Option::is_none")]
    checks: Option<String>,
    /// While it starts slowly: its weight beside that of the oldest one, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    weight_percent: Option<f64>,
    /// For how long it is left alone yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    ejected_for_ms: Option<u128>,
    peer: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    workload: Option<String>,
    /// Who it must be, by mutual TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    /// Whose name it is asked for, by TLS as a policy says; it has no identity of the mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<String>,
    /// `region/zone/site`.
    locality: String,
    requests: u32,
    /// What balancing compares: the decayed latency times the requests in flight with one more; absent where balancing
    /// does not measure, or nothing was measured lately.
    #[serde(skip_serializing_if = "Option::is_none")]
    cost_ms: Option<f64>,
}

impl ClusterStatus {
    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Leaves out endpoints beyond `endpoints_max`, those that take no requests first, and says how many.
    pub(crate) fn shortened(mut self, endpoints_max: usize) -> ClusterStatus {
        if let Some(known) = &mut self.known
            && known.endpoints.len() > endpoints_max
        {
            known.endpoints.sort_by_key(|endpoint| !endpoint.used);
            known.endpoints_left_out = known.endpoints.len() - endpoints_max;
            known.endpoints.truncate(endpoints_max);
        }
        self
    }
}

impl Status {
    /// What is in force at `now`.
    pub(super) fn new(snapshot: &Snapshot, link: LinkStatus, now: Time) -> Status {
        let mut services: Vec<(&ListenerName, &Lookup)> = snapshot.services().collect();
        services.sort_by_key(|(name, _)| *name);
        let mut clusters: Vec<(&ClusterName, &Backend)> = snapshot.clusters().collect();
        clusters.sort_by_key(|(name, _)| *name);
        Status {
            snapshot: snapshot.version,
            link,
            services: services
                .into_iter()
                .map(|(name, lookup)| service(name, lookup))
                .collect(),
            clusters: clusters
                .into_iter()
                .map(|(name, backend)| cluster(name, backend, now))
                .collect(),
            telemetry: snapshot.telemetry().source.as_ref().map(telemetry),
            mutual_tls: snapshot.mutual_tls().map(mutual_tls),
            egress: snapshot.egress().map(Egress::as_str),
        }
    }
}

fn mutual_tls(policy: &MutualTls) -> MutualTlsStatus {
    let mode = |mode: Mode| match mode {
        Mode::Strict => "strict",
        Mode::Permissive => "permissive",
        Mode::Off => "off",
    };
    MutualTlsStatus {
        mode: mode(policy.mode),
        ports: policy.ports.iter().map(|(port, of)| (*port, mode(*of))).collect(),
    }
}

fn telemetry(policy: &Telemetry) -> TelemetryStatus {
    let excluded = |excluded: &ExcludedPath| match excluded {
        ExcludedPath::Exact(path) => format!("= {path}"),
        ExcludedPath::Prefix(path) => format!("under {path}"),
    };
    let tags = policy.tags.iter();
    TelemetryStatus {
        access_log: policy.access_log.map(|log| match log {
            AccessLog::All => "all",
            AccessLog::Errors => "errors",
            AccessLog::Off => "off",
        }),
        sampling_percent: policy
            .sampling_parts_per_ten_thousand
            .map(|parts| f64::from(parts) / 100.0),
        tags: tags.map(|tag| format!("{} = {}", tag.name, tag.header)).collect(),
        excluded_paths: policy.excluded_paths.iter().map(excluded).collect(),
    }
}

fn service(name: &ListenerName, lookup: &Lookup) -> ServiceStatus {
    let (routes_from, routes) = match lookup {
        Lookup::NoSuchService { .. } | Lookup::Refused(_) => (None, Vec::new()),
        Lookup::Service(service) => (service.routes_name.as_ref().map(ToString::to_string), routes(service)),
    };
    ServiceStatus {
        name: name.to_string(),
        exists: !matches!(lookup, Lookup::NoSuchService { .. }),
        refused: match lookup {
            Lookup::Refused(refused) => Some(refused.to_string()),
            Lookup::Service(_) | Lookup::NoSuchService { .. } => None,
        },
        routes_from,
        routes,
        tcp: match lookup {
            Lookup::Service(service) => service.tcp.as_ref().map(|to| to.name().to_string()),
            Lookup::NoSuchService { .. } | Lookup::Refused(_) => None,
        },
    }
}

fn routes(service: &Service) -> Vec<RouteStatus> {
    let route = |(_, route): (_, &model::Route)| {
        let (action, backends) = match &route.action {
            Action::Forward(forward) => ("forward".to_owned(), forward.backends.as_slice()),
            Action::Redirect(redirect) => (format!("redirect {}", redirect.status.as_u16()), [].as_slice()),
            Action::Respond(respond) => (format!("respond {}", respond.status.as_u16()), [].as_slice()),
        };
        let backend = |backend: &model::WeightedBackend| BackendStatus {
            cluster: backend.cluster.to_string(),
            weight: backend.weight,
        };
        RouteStatus {
            name: route.name.clone(),
            matches: Matches(&route.matches).to_string(),
            action,
            backends: backends.iter().map(backend).collect(),
        }
    };
    service.table.routes().map(route).collect()
}

/// A cluster as it stands at `now`, with all its endpoints.
pub(crate) fn cluster(name: &ClusterName, backend: &Backend, now: Time) -> ClusterStatus {
    let (state, known) = match backend {
        Backend::Cluster(cluster) => ("known", Some(known(cluster, now))),
        Backend::Missing(_) => ("missing", None),
        Backend::Unanswered(_) => ("unanswered", None),
        Backend::Refused(..) => ("refused", None),
    };
    ClusterStatus {
        name: name.to_string(),
        state,
        known,
    }
}

fn known(cluster: &Cluster, now: Time) -> KnownCluster {
    let counts = cluster.state.breaker.counts();
    let in_use = cluster.in_use(now);
    let mut endpoints: Vec<EndpointStatus> = cluster
        .all
        .endpoints
        .iter()
        .map(|told| endpoint(cluster, &in_use, told, now))
        .collect();
    endpoints.sort_by(|a, b| a.address.cmp(&b.address));
    KnownCluster {
        protocol: match cluster.config.protocol {
            AppProtocol::Http1 => "http1",
            AppProtocol::Http2 => "http2",
            AppProtocol::Grpc => "grpc",
            AppProtocol::Tcp => "tcp",
        },
        balancing: match cluster.config.balancing {
            Balancing::PeakEwma { .. } => "peak_ewma",
            Balancing::RoundRobin => "round_robin",
        },
        connect_timeout_ms: cluster.config.connect_timeout.as_millis(),
        breaker: match cluster.state.breaker.state(now) {
            BreakerState::Closed => "closed",
            BreakerState::Open { .. } => "open",
            BreakerState::HalfOpen => "half_open",
        },
        breaker_opened_total: cluster.state.breaker.opened_total(),
        retry_budget: RetryBudgetStatus {
            percent: cluster.config.retry_budget.percent,
            min_per_second: cluster.config.retry_budget.min_per_second,
            window_ms: cluster.config.retry_budget.window.as_millis(),
        },
        sources: cluster.config.sources.clone(),
        backend_tls: BackendTlsStatus::of(cluster),
        levels: in_use
            .percents()
            .map(|(level, share)| (level.as_str(), share))
            .collect(),
        panic: in_use.is_panic(),
        connections: Count {
            open: counts.connections,
            limit: counts.limits.max_connections,
        },
        pending: Count {
            open: counts.pending,
            limit: counts.limits.max_pending,
        },
        requests: Count {
            open: counts.requests,
            limit: counts.limits.max_requests,
        },
        endpoints,
        endpoints_left_out: 0,
    }
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

fn endpoint(cluster: &Cluster, in_use: &Levels, told: &model::Endpoint, now: Time) -> EndpointStatus {
    let place = cluster
        .endpoints
        .iter()
        .position(|endpoint| endpoint.address == told.address);
    let known = place.and_then(|place| cluster.endpoints.get(place));
    let host = known.and_then(|endpoint| endpoint.state.host.as_ref());
    let ejected_until = host.and_then(|host| host.ejected_until(now));
    let weight = known.map(|endpoint| in_use.weight(endpoint, &cluster.config, now));
    let weight = weight.filter(|weight| *weight < 1.0);
    let checks = known.and_then(|endpoint| endpoint.state.checked.as_ref()?.shown());
    let failing = checks.as_ref().filter(|checks| checks.verdict == Verdict::Failing);
    let used = place.is_some_and(|place| in_use.taking().any(|used| used == place));
    let closed = cluster.state.backend_tls.as_ref().map(|tls| &tls.client);
    let locality = &told.locality;
    EndpointStatus {
        address: told.address.to_string(),
        health: match told.health {
            EndpointHealth::Healthy => "healthy",
            EndpointHealth::Unhealthy => "unhealthy",
            EndpointHealth::Draining => "draining",
        },
        used,
        why: match (told.health, known, failing) {
            (EndpointHealth::Draining, _, _) => "it drains: it ends what it has under way".into(),
            (_, None, _) if told.identity.is_none() && closed.is_some_and(Result::is_err) => {
                "TLS is asked for, and there is nothing to go by".into()
            }
            (_, None, _) => "it changes just now".into(),
            (_, Some(_), _) if used && in_use.is_panic() => "too few can be used to be believed, so all are".into(),
            (EndpointHealth::Unhealthy, Some(_), _) => "it is unhealthy, and others are healthy".into(),
            (EndpointHealth::Healthy, Some(_), Some(failing)) => format!("it is unhealthy: {failing}").into(),
            (EndpointHealth::Healthy, Some(_), None) if used => "it is healthy".into(),
            (EndpointHealth::Healthy, Some(_), None) if ejected_until.is_none() => {
                "nearer ones can take everything".into()
            }
            (EndpointHealth::Healthy, Some(_), None) => {
                "it failed here too often, and is left alone for a while".into()
            }
        },
        checks: checks.map(|checks| checks.to_string()),
        weight_percent: weight.map(|weight| (weight * 100.0).round()),
        ejected_for_ms: ejected_until.map(|until| until.saturating_since(now).as_millis()),
        peer: match told.peer {
            Peer::WeirProxy => "weir_proxy",
            Peer::Plain => "plain",
        },
        workload: told.workload.as_ref().map(ToString::to_string),
        identity: told.identity.as_ref().map(ToString::to_string),
        tls: match (&told.identity, &cluster.config.backend_tls) {
            (None, Some(BackendTls::Verified(validation))) => Some(validation.hostname.clone()),
            (None, Some(BackendTls::Closed { .. }) | None) | (Some(_), _) => None,
        },
        locality: format!("{}/{}/{}", locality.region, locality.zone, locality.site),
        requests: known.map_or(0, |endpoint| endpoint.state.load.active()),
        cost_ms: match cluster.config.balancing {
            Balancing::PeakEwma { decay } => known.and_then(|endpoint| endpoint.state.load.measured_cost(now, decay)),
            Balancing::RoundRobin => None,
        }
        .map(|cost| cost.as_secs_f64() * 1e3),
    }
}

/// A route's conditions in one line.
pub(crate) struct Matches<'a>(pub(crate) &'a RouteMatch);

impl fmt::Display for Matches<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RouteMatch {
            path,
            method,
            headers,
            query,
        } = self.0;
        if let Some(method) = method {
            write!(f, "{method} ")?;
        }
        match path {
            PathMatch::Exact(path) => write!(f, "path = {path}")?,
            PathMatch::Prefix(path) => write!(f, "path under {path}")?,
            PathMatch::Regex(regex) => write!(f, "path ~ {regex}")?,
        }
        for header in headers {
            let value = &header.value;
            match SECRET.contains(&header.name) {
                false => write!(f, ", header {} {}", header.name, Value(value))?,
                true => write!(f, ", header {} (a value that is not shown)", header.name)?,
            }
        }
        for parameter in query {
            write!(f, ", query {} {}", parameter.name, Value(&parameter.value))?;
        }
        Ok(())
    }
}

/// Fields whose values let in who knows them.
const SECRET: [HeaderName; 3] = [header::AUTHORIZATION, header::COOKIE, header::PROXY_AUTHORIZATION];

struct Value<'a>(&'a ValueMatch);

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ValueMatch::Exact(value) => write!(f, "= {value}"),
            ValueMatch::Regex(regex) => write!(f, "~ {regex}"),
        }
    }
}
