//! What the control plane told, compiled: immutable tables that a request reads without a lock.
//!
//! A request takes one [`Snapshot`] and keeps it, so a change is never half in force for it. What must outlive a change
//! (breakers, budgets, measured latencies, spent limits) is in handles that the next snapshot takes over: [`States`].

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::Guard;
use dashmap::DashMap;
use weir_policy::balance::RoundRobin;
use weir_policy::breaker::Breaker;
use weir_policy::context::Priority;
use weir_policy::egress::Egress;
use weir_policy::model::{self, Action, AppProtocol, EndpointHealth, Locality, Peer, VirtualHost};
use weir_policy::mutual_tls::MutualTls;
use weir_policy::names::{ClusterName, ListenerName, RouteName};
use weir_policy::outlier::{Detector, Seen};
use weir_policy::rate_limit::{Rate, RateLimiter};
use weir_policy::retry::Budget;
use weir_policy::route::{CompileError, RouteId, RouteTable};
use weir_policy::split::Split;
use weir_policy::spread::Distance;
use weir_policy::time::Time;

use crate::clock::Clock;
use crate::endpoints::{Changes, Endpoint, EndpointState, InUse, Levels};
use crate::error::ProxyError;
use crate::health_check::{Checked, ClusterChecks};
use crate::http::upstream::Wire;
use crate::mesh::RefusedResource;
use crate::outbound;
use crate::telemetry_policy::TelemetryPolicy;
use crate::tls::Security;
use crate::tls::backend::BackendTls;

/// Everything in force at one moment. Immutable.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// Counts publications in this process, from 1; 0: nothing was published yet.
    pub(crate) version: u64,
    services: HashMap<ListenerName, Lookup>,
    clusters: HashMap<ClusterName, Backend>,
    telemetry: Arc<TelemetryPolicy>,
    mutual_tls: Option<MutualTls>,
    egress: Option<Egress>,
}

impl Snapshot {
    /// What becomes of our app's requests for names that are none of the mesh's; `None`: nobody has said.
    pub(crate) fn egress(&self) -> Option<Egress> {
        self.egress
    }

    /// How our inbound ports are entered; `None`: nobody has said.
    pub(crate) fn mutual_tls(&self) -> Option<&MutualTls> {
        self.mutual_tls.as_ref()
    }

    /// What is told of requests.
    pub(crate) fn telemetry(&self) -> &TelemetryPolicy {
        &self.telemetry
    }

    /// What is known of a name; `None`: nothing yet, it has to be asked for.
    pub(crate) fn service(&self, name: &ListenerName) -> Option<&Lookup> {
        self.services.get(name)
    }

    /// All services and refused names, in no order: for the configuration dump.
    pub(crate) fn services(&self) -> impl Iterator<Item = (&ListenerName, &Lookup)> {
        self.services.iter()
    }

    /// All clusters that a route in force names, in no order: for the configuration dump and for gauges.
    pub(crate) fn clusters(&self) -> impl Iterator<Item = (&ClusterName, &Backend)> {
        self.clusters.iter()
    }
}

/// What is known of a name that an app asked for.
#[derive(Clone, Debug)]
pub(crate) enum Lookup {
    /// It exists.
    Service(Arc<Service>),
    /// The control plane said that it does not exist.
    NoSuchService {
        /// When to ask again.
        until: Time,
    },
    /// What the control plane said of it was refused here, and nothing was in force before.
    Refused(Arc<RefusedResource>),
}

/// A service as an app reaches it by one name.
#[derive(Debug)]
pub(crate) struct Service {
    /// The name asked for.
    pub(crate) name: ListenerName,
    /// The same as text, for metrics and logs; one for as long as the service is in force.
    pub(crate) label: Arc<str>,
    /// The route configuration in force; `None`: the listener holds its routes itself.
    pub(crate) routes_name: Option<RouteName>,
    /// Which route a request takes.
    pub(crate) table: Arc<RouteTable>,
    routes: Vec<ServiceRoute>,
    /// Where each connection goes, if it carries TCP; then there are no routes. `None`: it carries requests.
    pub(crate) tcp: Option<Backend>,
    last_used: Arc<LastUsed>,
}

impl Service {
    /// Where a route's requests go. `None` only for an id of another table.
    pub(crate) fn route(&self, id: RouteId) -> Option<&ServiceRoute> {
        self.routes.get(id.index())
    }

    /// Notes that the service is in use, so that it is not let go.
    pub(crate) fn touch(&self, now: Time) {
        self.last_used.touch(now);
    }
}

/// Where a route's requests go. Empty where the route does not forward.
#[derive(Debug)]
pub(crate) struct ServiceRoute {
    /// The route's name, for metrics and logs; one for as long as its route configuration is in force.
    pub(crate) name: Arc<str>,
    /// Draws an index of `backends` by weight.
    pub(crate) split: Split,
    /// In the order of the route's own list.
    pub(crate) backends: Vec<Backend>,
    /// Where copies go: the route's own, and those of its backends.
    pub(crate) mirrors: Vec<MirrorTo>,
    /// How many requests it takes.
    pub(crate) limit: Option<Limit>,
    /// What happens to these on purpose.
    pub(crate) fault: Option<model::Fault>,
    /// How much these matter.
    pub(crate) priority: Option<Priority>,
}

/// A limit on the rate of requests.
#[derive(Debug)]
pub(crate) struct Limit {
    pub(crate) config: model::RateLimit,
    rate: Rate,
    limiter: Arc<RateLimiter>,
}

impl Limit {
    /// Admits one more request, or says how long until one is.
    ///
    /// # Errors
    /// The wait.
    pub(crate) fn admit(&self, now: Time) -> Result<(), Duration> {
        self.limiter.admit(self.rate, now)
    }

    /// The same without a request.
    ///
    /// # Errors
    /// The wait.
    pub(crate) fn would_admit(&self, now: Time) -> Result<(), Duration> {
        self.limiter.would_admit(self.rate, now)
    }
}

/// Where copies of a route's requests go.
#[derive(Debug)]
pub(crate) struct MirrorTo {
    /// Only of requests for this one of the route's backends; `None`: of all.
    pub(crate) of: Option<usize>,
    /// How many in a million.
    pub(crate) parts_per_million: u32,
    /// The cluster.
    pub(crate) backend: Backend,
}

/// A route's cluster, as far as it is known.
#[derive(Clone, Debug)]
pub(crate) enum Backend {
    /// It exists.
    Cluster(Arc<Cluster>),
    /// The control plane said that it does not exist: answered with 500 (Gateway API, HTTPRouteRule.backendRefs).
    Missing(ClusterName),
    /// The control plane named it and then did not tell of it in time: answered with 503.
    Unanswered(ClusterName),
    /// What the control plane told of it first was refused here: answered with 503.
    Refused(ClusterName, Arc<RefusedResource>),
}

impl Backend {
    /// Which cluster it is.
    pub(crate) fn name(&self) -> &ClusterName {
        match self {
            Backend::Cluster(cluster) => &cluster.config.name,
            Backend::Missing(name) | Backend::Unanswered(name) | Backend::Refused(name, _) => name,
        }
    }

    /// Whether both are the very same state of the same cluster.
    fn same(&self, other: &Backend) -> bool {
        match (self, other) {
            (Backend::Cluster(a), Backend::Cluster(b)) => Arc::ptr_eq(a, b),
            (Backend::Missing(a), Backend::Missing(b)) | (Backend::Unanswered(a), Backend::Unanswered(b)) => a == b,
            (Backend::Refused(a, a_why), Backend::Refused(b, b_why)) => a == b && a_why == b_why,
            (Backend::Cluster(_) | Backend::Missing(_) | Backend::Unanswered(_) | Backend::Refused(..), _) => false,
        }
    }
}

/// A cluster and its endpoints.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// Its name as text, for metrics and logs; one for as long as the cluster is known.
    pub(crate) label: Arc<str>,
    /// What the control plane said of it.
    pub(crate) config: Arc<model::Cluster>,
    /// What outlives changes of configuration.
    pub(crate) state: Arc<ClusterState>,
    /// Those that don't drain.
    pub(crate) endpoints: Vec<Endpoint>,
    /// Which of these take requests now.
    in_use: InUse,
    /// All of them, as told: for the configuration dump.
    pub(crate) all: Arc<model::ClusterEndpoints>,
}

impl Cluster {
    /// Why there is none that takes requests.
    pub(crate) fn no_endpoint(&self) -> ProxyError {
        let cluster = self.label.to_string();
        match self.state.backend_tls.as_ref().map(|tls| &tls.client) {
            Some(Err(why)) => ProxyError::TlsClosed {
                cluster,
                why: Arc::clone(why),
            },
            Some(Ok(_)) | None => ProxyError::NoEndpoint { cluster },
        }
    }

    /// One that no control plane told of: addresses where nothing of the mesh answers.
    pub(crate) fn of_addresses(
        config: Arc<model::Cluster>,
        state: Arc<ClusterState>,
        addresses: &[SocketAddr],
        now: Time,
    ) -> Cluster {
        let endpoint = |address: &SocketAddr| Endpoint {
            address: *address,
            health: EndpointHealth::Healthy,
            distance: Distance::between(&Locality::default(), &Locality::default()),
            peer: Peer::Plain,
            security: Security::Cleartext,
            workload: None,
            state: Arc::new(EndpointState::new(None, None, now)),
        };
        Cluster {
            label: Arc::clone(&state.label),
            endpoints: addresses.iter().map(endpoint).collect(),
            in_use: InUse::new(state.changes.clone()),
            all: Arc::new(model::ClusterEndpoints {
                cluster: config.name.clone(),
                endpoints: Vec::new(),
            }),
            config,
            state,
        }
    }

    /// The endpoints that take requests at `now`.
    pub(crate) fn in_use(&self, now: Time) -> Guard<Arc<Levels>> {
        self.in_use.at(now, &self.endpoints, &self.config)
    }

    /// Counts what became of an attempt at an endpoint, which is left alone for a while if that was too much.
    pub(crate) fn saw(&self, address: SocketAddr, endpoint: &Arc<EndpointState>, seen: Seen, now: Time) {
        let (Some(detector), Some(host)) = (&self.state.detector, &endpoint.host) else {
            return;
        };
        // Among those that could be used: one that is unhealthy makes no room for an ejection.
        let counts = |other: &&Endpoint| other.is_healthy() || Arc::ptr_eq(&other.state, endpoint);
        let hosts = self
            .endpoints
            .iter()
            .filter(counts)
            .filter_map(|other| other.state.host.as_deref());
        if let Some(ejection) = detector.report(host, seen, now, hosts) {
            self.state.changes.add();
            tracing::warn!(
                cluster = %self.label,
                endpoint = %address,
                cause = ejection.cause.as_str(),
                ejected_for = ?ejection.ejected_for,
                times = ejection.times,
                "an endpoint is left alone"
            );
        }
    }
}

/// What of a cluster outlives changes of configuration; shared by all workers. A part is made anew only where its own
/// configuration changed.
#[derive(Debug)]
pub(crate) struct ClusterState {
    label: Arc<str>,
    /// Limits and failure breaker. Permits handed out by a replaced breaker count in that one until they end.
    pub(crate) breaker: Arc<Breaker>,
    /// How much may be tried again.
    pub(crate) budget: Arc<Budget>,
    /// Whose turn it is.
    pub(crate) round_robin: Arc<RoundRobin>,
    /// Which endpoints are left alone; `None`: none ever is.
    pub(crate) detector: Option<Arc<Detector>>,
    /// How endpoints are checked; `None`: they aren't.
    pub(crate) checks: Option<Arc<ClusterChecks>>,
    /// How those are reached that have no identity; `None`: in cleartext.
    pub(crate) backend_tls: Option<Arc<BackendTls>>,
    changes: Changes,
    retry_budget: model::RetryBudget,
}

impl ClusterState {
    pub(crate) fn new(config: &model::Cluster) -> ClusterState {
        ClusterState::labelled(config, config.name.to_string().into())
    }

    /// The same, called otherwise in metrics and logs.
    pub(crate) fn labelled(config: &model::Cluster, label: Arc<str>) -> ClusterState {
        ClusterState {
            label,
            breaker: Arc::new(Breaker::new(config.limits, config.breaker)),
            budget: Arc::new(Budget::new(config.retry_budget)),
            round_robin: Arc::new(RoundRobin::default()),
            detector: config.outlier_detection.map(|config| Arc::new(Detector::new(config))),
            checks: new_checks(config),
            backend_tls: new_backend_tls(config, None),
            changes: Changes::default(),
            retry_budget: config.retry_budget,
        }
    }

    /// This state under another configuration: the same where nothing but limits changed, which change in place.
    fn under(self: &Arc<Self>, config: &model::Cluster) -> Arc<ClusterState> {
        let breaker = if self.breaker.failure() == config.breaker {
            self.breaker.set_limits(config.limits);
            Arc::clone(&self.breaker)
        } else {
            Arc::new(Breaker::new(config.limits, config.breaker))
        };
        let same_detector =
            self.detector.as_ref().map(|detector| detector.config()) == config.outlier_detection.as_ref();
        let same_checks = self.checks.as_ref().map(|checks| checks.config()) == config.health_check.as_ref();
        let same_budget = self.retry_budget == config.retry_budget;
        let same_tls = match (&self.backend_tls, &config.backend_tls) {
            (Some(held), Some(told)) => held.is(told, wire_within(config)),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if self.breaker.failure() == config.breaker && same_detector && same_checks && same_budget && same_tls {
            return Arc::clone(self);
        }
        let budget = if same_budget {
            Arc::clone(&self.budget)
        } else {
            Arc::new(Budget::new(config.retry_budget))
        };
        let detector = match same_detector {
            true => self.detector.clone(),
            false => config.outlier_detection.map(|config| Arc::new(Detector::new(config))),
        };
        let checks = match same_checks {
            true => self.checks.clone(),
            false => new_checks(config),
        };
        Arc::new(ClusterState {
            label: Arc::clone(&self.label),
            breaker,
            budget,
            round_robin: Arc::clone(&self.round_robin),
            detector,
            checks,
            backend_tls: match same_tls {
                true => self.backend_tls.clone(),
                false => new_backend_tls(config, self.backend_tls.as_deref()),
            },
            changes: self.changes.clone(),
            retry_budget: config.retry_budget,
        })
    }

    /// Another use of its endpoints begins: one has become unhealthy, or healthy again.
    pub(crate) fn endpoint_changed(&self) {
        self.changes.add();
    }
}

fn new_checks(config: &model::Cluster) -> Option<Arc<ClusterChecks>> {
    let check = config.health_check.clone()?;
    Some(Arc::new(ClusterChecks::new(check)))
}

/// What is spoken to a cluster's endpoints that have no identity; `None`: whatever goes over TCP.
fn wire_within(config: &model::Cluster) -> Option<Wire> {
    match config.protocol {
        AppProtocol::Http1 | AppProtocol::Http2 | AppProtocol::Grpc => {
            Some(outbound::wire(config.protocol, Peer::Plain))
        }
        AppProtocol::Tcp => None,
    }
}

/// `before`: what it was, of which nothing is said twice.
fn new_backend_tls(config: &model::Cluster, before: Option<&BackendTls>) -> Option<Arc<BackendTls>> {
    let tls = BackendTls::new(config.backend_tls.as_ref()?, wire_within(config));
    let said = before.and_then(|before| before.client.as_ref().err());
    if let Err(why) = &tls.client
        && said != Some(why)
    {
        tracing::warn!(cluster = %config.name, %why, "nothing is sent to endpoints without an identity");
    }
    Some(Arc::new(tls))
}

/// Whether both are one, or there is neither.
fn same<T>(a: Option<&Arc<T>>, b: Option<&Arc<T>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// The states of clusters, endpoints and limits by their names: touched when configuration changes, never by a request.
/// Held weakly: what no snapshot holds any more is gone.
#[derive(Debug)]
pub(crate) struct States {
    clock: Clock,
    /// Where this proxy is.
    own: Locality,
    by_cluster: DashMap<ClusterName, StateEntry>,
    /// What is spent of limits on rates, by their names.
    limiters: DashMap<String, Weak<RateLimiter>>,
}

#[derive(Debug, Default)]
struct StateEntry {
    state: Weak<ClusterState>,
    endpoints: HashMap<SocketAddr, KnownEndpoint>,
}

/// What is known of an endpoint that was told.
#[derive(Debug)]
struct KnownEndpoint {
    state: Weak<EndpointState>,
    /// As it was told last.
    health: EndpointHealth,
}

impl States {
    /// None yet, for a proxy that is there.
    pub(crate) fn new(clock: Clock, own: Locality) -> States {
        States {
            clock,
            own,
            by_cluster: DashMap::new(),
            limiters: DashMap::new(),
        }
    }

    fn cluster(&self, config: Arc<model::Cluster>, all: Arc<model::ClusterEndpoints>) -> Cluster {
        let mut entry = self.by_cluster.entry(config.name.clone()).or_default();
        let before = entry.state.upgrade();
        let state = match &before {
            Some(state) => state.under(&config),
            None => Arc::new(ClusterState::new(&config)),
        };
        entry.state = Arc::downgrade(&state);
        let before = before.as_deref();
        let same_detector = before.is_some_and(|before| same(before.detector.as_ref(), state.detector.as_ref()));
        let same_checks = before.is_some_and(|before| same(before.checks.as_ref(), state.checks.as_ref()));
        let host = || state.detector.as_ref().map(|detector| Arc::new(detector.host()));
        let checked = || state.checks.as_ref().map(|checks| Arc::new(Checked::new(checks)));
        let now = self.clock.now();
        let tls = state.backend_tls.as_ref().map(|tls| tls.client.clone());
        // What is not told any more is forgotten: should it come again, it is new.
        let mut known = std::mem::take(&mut entry.endpoints);
        let mut endpoints = Vec::new();
        for endpoint in all
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.health != EndpointHealth::Draining)
        {
            let before = known.remove(&endpoint.address);
            let security = match (&endpoint.identity, &tls) {
                (Some(identity), _) => Security::Mutual(Arc::clone(identity)),
                (None, Some(Ok(client))) => Security::Backend(Arc::clone(client)),
                (None, None) => Security::Cleartext,
                // Nothing may be sent there.
                (None, Some(Err(_))) => continue,
            };
            let well_again = before.as_ref().is_some_and(|before| {
                (before.health, endpoint.health) == (EndpointHealth::Unhealthy, EndpointHealth::Healthy)
            });
            let state = match before.and_then(|before| before.state.upgrade()) {
                Some(state) if same_detector && same_checks => state,
                Some(state) => {
                    let host = if same_detector { state.host.clone() } else { host() };
                    let checked = if same_checks { state.checked.clone() } else { checked() };
                    Arc::new(state.under(host, checked))
                }
                None => Arc::new(EndpointState::new(host(), checked(), now)),
            };
            if well_again {
                state.came_back(now);
            }
            let told = KnownEndpoint {
                state: Arc::downgrade(&state),
                health: endpoint.health,
            };
            entry.endpoints.insert(endpoint.address, told);
            endpoints.push(Endpoint {
                address: endpoint.address,
                health: endpoint.health,
                distance: Distance::between(&self.own, &endpoint.locality),
                // What a policy is for is spoken to as what it is for everybody.
                peer: match security {
                    Security::Backend(_) => Peer::Plain,
                    Security::Cleartext | Security::Mutual(_) => endpoint.peer,
                },
                security,
                workload: endpoint.workload.clone().map(Arc::new),
                state,
            });
        }
        drop(entry);
        Cluster {
            label: Arc::clone(&state.label),
            in_use: InUse::new(state.changes.clone()),
            config,
            state,
            endpoints,
            all,
        }
    }

    fn limit(&self, config: &model::RateLimit) -> Limit {
        let mut held = self.limiters.entry(config.name.clone()).or_default();
        let limiter = held.upgrade().unwrap_or_default();
        *held = Arc::downgrade(&limiter);
        Limit {
            rate: Rate::new(config),
            config: config.clone(),
            limiter,
        }
    }

    /// Forgets what nobody holds.
    fn sweep(&self) {
        self.limiters.retain(|_, limiter| limiter.strong_count() > 0);
        self.by_cluster.retain(|_, entry| {
            entry.endpoints.retain(|_, known| known.state.strong_count() > 0);
            entry.state.strong_count() > 0
        });
    }
}

/// When a service was last used; written by workers, read when it is decided what to let go.
#[derive(Debug)]
pub(crate) struct LastUsed(AtomicU64);

impl LastUsed {
    pub(crate) fn new(now: Time) -> LastUsed {
        LastUsed(AtomicU64::new(now.as_nanos()))
    }

    /// Written at most once a second, so that workers don't fight for the cache line.
    pub(crate) fn touch(&self, now: Time) {
        const STEP: Duration = Duration::from_secs(1);
        if now.saturating_since(self.at()) >= STEP {
            self.0.store(now.as_nanos(), Ordering::Relaxed);
        }
    }

    pub(crate) fn at(&self) -> Time {
        Time::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// Virtual hosts, compiled: made once when they arrive, bound to clusters by each snapshot.
#[derive(Debug)]
pub(crate) struct CompiledRoutes {
    /// The matcher.
    pub(crate) table: Arc<RouteTable>,
    /// Every cluster that a route names, or [`CompiledRoutes::tcp`].
    pub(crate) clusters: BTreeSet<ClusterName>,
    /// Where connections go, if it is TCP that is carried and no requests.
    tcp: Option<ClusterName>,
    /// The routes' names, in the order of their ids.
    names: Vec<Arc<str>>,
}

impl CompiledRoutes {
    /// Compiles virtual hosts.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub(crate) fn compile(hosts: &[VirtualHost]) -> Result<CompiledRoutes, Vec<CompileError>> {
        let table = RouteTable::compile(hosts)?;
        let mut clusters = BTreeSet::new();
        for (_, route) in table.routes() {
            if let Action::Forward(forward) = &route.action {
                clusters.extend(forward.backends.iter().map(|backend| backend.cluster.clone()));
                clusters.extend(mirrors(forward).map(|(_, mirror)| mirror.cluster.clone()));
            }
        }
        Ok(CompiledRoutes {
            names: table.routes().map(|(_, route)| route.name.as_str().into()).collect(),
            table: Arc::new(table),
            clusters,
            tcp: None,
        })
    }

    /// No routes, but connections that go to this cluster.
    ///
    /// # Errors
    /// Never: nothing is wrong with no routes.
    pub(crate) fn tcp(cluster: ClusterName) -> Result<CompiledRoutes, Vec<CompileError>> {
        Ok(CompiledRoutes {
            clusters: BTreeSet::from([cluster.clone()]),
            tcp: Some(cluster),
            ..CompiledRoutes::compile(&[])?
        })
    }
}

/// All mirrors of a route, each with the backend whose requests it is for.
fn mirrors(forward: &model::Forward) -> impl Iterator<Item = (Option<usize>, &model::Mirror)> {
    let own = forward.mirrors.iter().map(|mirror| (None, mirror));
    let backends = forward.backends.iter().enumerate();
    let of_backends = backends.flat_map(|(at, backend)| {
        let mirrors = backend.filters.mirrors.iter();
        mirrors.map(move |mirror| (Some(at), mirror))
    });
    own.chain(of_backends)
}

/// What a snapshot is made of.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    /// Services in force.
    pub(crate) services: Vec<ServicePart>,
    /// Names that don't exist, and until when that is believed.
    pub(crate) absent: Vec<(ListenerName, Time)>,
    /// Names of which something was refused, and nothing is in force.
    pub(crate) refused: Vec<(ListenerName, RefusedResource)>,
    /// What was answered about clusters; one that isn't here wasn't.
    pub(crate) clusters: HashMap<ClusterName, ClusterPart>,
    /// What the policy of this proxy's workload says of telemetry.
    pub(crate) telemetry: Arc<TelemetryPolicy>,
    /// How our inbound ports are entered, as far as somebody has said.
    pub(crate) mutual_tls: Option<MutualTls>,
    /// What becomes of names that are none of the mesh's, as far as somebody has said.
    pub(crate) egress: Option<Egress>,
}

/// A service in force.
#[derive(Debug)]
pub(crate) struct ServicePart {
    pub(crate) name: ListenerName,
    pub(crate) routes_name: Option<RouteName>,
    pub(crate) routes: Arc<CompiledRoutes>,
    pub(crate) last_used: Arc<LastUsed>,
}

/// What was answered about a cluster.
#[derive(Clone, Debug)]
pub(crate) enum ClusterPart {
    /// It exists.
    Held {
        config: Arc<model::Cluster>,
        /// `None`: it has none.
        endpoints: Option<Arc<model::ClusterEndpoints>>,
    },
    /// It does not.
    Absent,
    /// The first that was told of it, or of its endpoints, was refused.
    Refused(RefusedResource),
}

/// The snapshot after `previous`. What did not change is shared with it; states are taken over.
pub(crate) fn compile(previous: &Snapshot, states: &States, parts: Parts) -> Snapshot {
    let mut clusters = HashMap::new();
    for name in parts.services.iter().flat_map(|service| &service.routes.clusters) {
        if !clusters.contains_key(name) {
            let backend = bind_cluster(previous, states, name, parts.clusters.get(name));
            clusters.insert(name.clone(), backend);
        }
    }
    let mut services = HashMap::with_capacity(parts.services.len() + parts.absent.len() + parts.refused.len());
    for (name, until) in parts.absent {
        services.insert(name, Lookup::NoSuchService { until });
    }
    for (name, refused) in parts.refused {
        services.insert(name, Lookup::Refused(Arc::new(refused)));
    }
    for part in parts.services {
        let service = bind_service(previous, states, &clusters, &part);
        services.insert(part.name, Lookup::Service(service));
    }
    states.sweep();
    Snapshot {
        version: previous.version.saturating_add(1),
        services,
        clusters,
        telemetry: parts.telemetry,
        mutual_tls: parts.mutual_tls,
        egress: parts.egress,
    }
}

fn bind_cluster(previous: &Snapshot, states: &States, name: &ClusterName, answered: Option<&ClusterPart>) -> Backend {
    match answered {
        None => Backend::Unanswered(name.clone()),
        Some(ClusterPart::Absent) => Backend::Missing(name.clone()),
        Some(ClusterPart::Refused(refused)) => Backend::Refused(name.clone(), Arc::new(refused.clone())),
        Some(ClusterPart::Held { config, endpoints }) => {
            if let Some(Backend::Cluster(old)) = previous.clusters.get(name)
                && Arc::ptr_eq(&old.config, config)
                && old.state.backend_tls.as_ref().is_none_or(|tls| !tls.may_get_better())
                && match endpoints {
                    Some(endpoints) => Arc::ptr_eq(&old.all, endpoints),
                    None => old.all.endpoints.is_empty(),
                }
            {
                return Backend::Cluster(Arc::clone(old));
            }
            let none = || {
                Arc::new(model::ClusterEndpoints {
                    cluster: name.clone(),
                    endpoints: Vec::new(),
                })
            };
            let endpoints = endpoints.clone().unwrap_or_else(none);
            Backend::Cluster(Arc::new(states.cluster(Arc::clone(config), endpoints)))
        }
    }
}

fn bind_service(
    previous: &Snapshot,
    states: &States,
    clusters: &HashMap<ClusterName, Backend>,
    part: &ServicePart,
) -> Arc<Service> {
    if let Some(Lookup::Service(old)) = previous.services.get(&part.name)
        && Arc::ptr_eq(&old.table, &part.routes.table)
        && Arc::ptr_eq(&old.last_used, &part.last_used)
        && old.routes_name == part.routes_name
        && part.routes.clusters.iter().all(|name| {
            let (now, before) = (clusters.get(name), previous.clusters.get(name));
            now.zip(before).is_some_and(|(now, before)| now.same(before))
        })
    {
        return Arc::clone(old);
    }
    let bind = |name: &ClusterName| {
        let bound = clusters.get(name).cloned();
        bound.unwrap_or_else(|| Backend::Unanswered(name.clone()))
    };
    let mut routes = Vec::new();
    for ((_, route), name) in part.routes.table.routes().zip(&part.routes.names) {
        let forward = match &route.action {
            Action::Forward(forward) => Some(forward),
            Action::Redirect(_) | Action::Respond(_) => None,
        };
        let backends = forward.map_or(&[][..], |forward| &forward.backends);
        let mirrors = forward.into_iter().flat_map(mirrors);
        let mirrors = mirrors.map(|(of, mirror)| MirrorTo {
            of,
            parts_per_million: mirror.parts_per_million,
            backend: bind(&mirror.cluster),
        });
        let weights: Vec<u32> = backends.iter().map(|backend| backend.weight).collect();
        routes.push(ServiceRoute {
            name: Arc::clone(name),
            split: Split::new(&weights),
            backends: backends.iter().map(|backend| bind(&backend.cluster)).collect(),
            mirrors: mirrors.collect(),
            limit: route.rate_limit.as_ref().map(|limit| states.limit(limit)),
            fault: route.fault,
            priority: route.priority,
        });
    }
    let label = match previous.services.get(&part.name) {
        Some(Lookup::Service(old)) => Arc::clone(&old.label),
        Some(Lookup::NoSuchService { .. } | Lookup::Refused(_)) | None => part.name.to_string().into(),
    };
    Arc::new(Service {
        name: part.name.clone(),
        label,
        routes_name: part.routes_name.clone(),
        table: Arc::clone(&part.routes.table),
        routes,
        tcp: part.routes.tcp.as_ref().map(bind),
        last_used: Arc::clone(&part.last_used),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use weir_policy::breaker::Outcome;
    use weir_policy::health_check::Found;
    use weir_policy::model::FailureBreaker;

    use super::*;
    use crate::health_check::tests::{check, report};
    use crate::mesh::{Feed, Mesh};
    use crate::xds::scenario::{cluster_model, cluster_name, endpoints_model, forward_all, listener_name};

    const NAME: &str = "a.n:80";

    fn routes(clusters: &[&str]) -> Arc<CompiledRoutes> {
        Arc::new(CompiledRoutes::compile(&[forward_all(clusters)]).expect("compiles"))
    }

    /// Service `a`, whose route goes to cluster `a.n:80`.
    struct Fixture {
        states: States,
        routes: Arc<CompiledRoutes>,
        last_used: Arc<LastUsed>,
    }

    impl Fixture {
        fn new() -> Fixture {
            Fixture {
                states: States::new(Clock::start(), Locality::default()),
                routes: routes(&[NAME]),
                last_used: Arc::new(LastUsed::new(Time::ZERO)),
            }
        }

        fn parts(&self, config: &Arc<model::Cluster>, endpoints: &Arc<model::ClusterEndpoints>) -> Parts {
            let held = ClusterPart::Held {
                config: Arc::clone(config),
                endpoints: Some(Arc::clone(endpoints)),
            };
            Parts {
                services: vec![ServicePart {
                    name: listener_name("a:80"),
                    routes_name: None,
                    routes: Arc::clone(&self.routes),
                    last_used: Arc::clone(&self.last_used),
                }],
                absent: Vec::new(),
                refused: Vec::new(),
                clusters: HashMap::from([(cluster_name(NAME), held)]),
                telemetry: Arc::default(),
                mutual_tls: None,
                egress: None,
            }
        }

        fn next(
            &self,
            previous: &Snapshot,
            config: &Arc<model::Cluster>,
            endpoints: &Arc<model::ClusterEndpoints>,
        ) -> Snapshot {
            compile(previous, &self.states, self.parts(config, endpoints))
        }
    }

    fn only(snapshot: &Snapshot) -> (Arc<Service>, Arc<Cluster>) {
        let Some(Lookup::Service(service)) = snapshot.service(&listener_name("a:80")) else {
            panic!("a is a service");
        };
        let (id, _) = service.table.routes().next().expect("one route");
        match service.route(id).expect("a route of this table").backends.as_slice() {
            [Backend::Cluster(cluster)] => (Arc::clone(service), Arc::clone(cluster)),
            other => panic!("{other:?}"),
        }
    }

    /// Of those in use.
    fn addresses(cluster: &Cluster) -> Vec<String> {
        let in_use = cluster.in_use(Time::ZERO);
        let address = |place: usize| cluster.endpoints[place].address.to_string();
        in_use.taking().map(address).collect()
    }

    #[test]
    fn what_is_spent_of_a_limit_outlives_its_changes() {
        let mut fixture = Fixture::new();
        let config = Arc::new(cluster_model(NAME));
        let endpoints = Arc::new(endpoints_model(NAME, &["10.0.0.1:80"]));
        let limited = |burst: u32| {
            let mut host = forward_all(&[NAME]);
            host.routes[0].rate_limit = Some(model::RateLimit {
                name: "r".to_owned(),
                requests: 1,
                per: Duration::from_secs(3600),
                burst,
            });
            Arc::new(CompiledRoutes::compile(&[host]).expect("compiles"))
        };
        let admits = |snapshot: &Snapshot| {
            let (service, _) = only(snapshot);
            let (id, _) = service.table.routes().next().expect("one route");
            let limit = service.route(id).expect("a route of this table").limit.as_ref();
            limit.map(|limit| limit.admit(Time::ZERO).is_ok())
        };
        fixture.routes = limited(1);
        let first = fixture.next(&Snapshot::default(), &config, &endpoints);
        assert_eq!([admits(&first), admits(&first)], [Some(true), Some(false)]);
        fixture.routes = limited(2);
        let second = fixture.next(&first, &config, &endpoints);
        assert_eq!([admits(&second), admits(&second)], [Some(true), Some(false)]);
        fixture.routes = routes(&[NAME]);
        let without = fixture.next(&second, &config, &endpoints);
        assert_eq!(admits(&without), None);
        drop((first, second));
        fixture.next(&without, &config, &endpoints);
        assert!(fixture.states.limiters.is_empty(), "nobody holds it any more");
    }

    #[test]
    fn what_did_not_change_is_the_same() {
        let fixture = Fixture::new();
        let config = Arc::new(cluster_model(NAME));
        let endpoints = Arc::new(endpoints_model(NAME, &["10.0.0.1:80"]));
        let first = fixture.next(&Snapshot::default(), &config, &endpoints);
        let second = fixture.next(&first, &config, &endpoints);
        assert_eq!((first.version, second.version), (1, 2));
        assert!(Arc::ptr_eq(&only(&first).0, &only(&second).0));
        let third = fixture.next(&second, &config, &Arc::new(endpoints_model(NAME, &["10.0.0.2:80"])));
        assert!(!Arc::ptr_eq(&only(&second).0, &only(&third).0));
        assert_eq!(
            addresses(&only(&second).1),
            ["10.0.0.1:80"],
            "who holds the old one sees the old one"
        );
        assert_eq!(addresses(&only(&third).1), ["10.0.0.2:80"]);
    }

    /// The system may have got what it lacked, and nothing that is told says so.
    #[test]
    fn tls_that_failed_here_is_tried_again_whatever_changes() {
        use weir_policy::backend_tls::{Authorities, BackendTls, Certificate, Validation};
        let fixture = Fixture::new();
        let config = |backend_tls| {
            let mut config = cluster_model(NAME);
            config.backend_tls = Some(backend_tls);
            Arc::new(config)
        };
        let endpoints = Arc::new(endpoints_model(NAME, &["10.0.0.1:80"]));
        let is_made_anew = |config: &Arc<model::Cluster>| {
            let first = fixture.next(&Snapshot::default(), config, &endpoints);
            let second = fixture.next(&first, config, &endpoints);
            !Arc::ptr_eq(&only(&first).1, &only(&second).1)
        };
        let failing = config(BackendTls::Verified(Validation {
            hostname: "a.example".to_owned(),
            authorities: Authorities::Given(vec![Certificate(vec![1, 2, 3])]),
            subject_alt_names: Vec::new(),
        }));
        assert!(is_made_anew(&failing));
        let why = "it lacks certificates".to_owned();
        assert!(!is_made_anew(&config(BackendTls::Closed { why })));
    }

    #[test]
    fn requests_go_to_healthy_endpoints_else_to_unhealthy_ones_never_to_draining_ones() {
        use EndpointHealth::{Draining, Healthy, Unhealthy};
        let cases: [(&[EndpointHealth], &[&str]); 5] = [
            (
                &[Healthy, Unhealthy, Draining, Healthy],
                &["10.0.0.0:80", "10.0.0.3:80"],
            ),
            (&[Unhealthy, Draining, Unhealthy], &["10.0.0.0:80", "10.0.0.2:80"]),
            (&[Draining], &[]),
            (&[], &[]),
            (&[Draining, Healthy], &["10.0.0.1:80"]),
        ];
        let fixture = Fixture::new();
        let config = Arc::new(cluster_model(NAME));
        for (health, expect) in cases {
            let all: Vec<String> = (0..health.len()).map(|index| format!("10.0.0.{index}:80")).collect();
            let all: Vec<&str> = all.iter().map(String::as_str).collect();
            let mut endpoints = endpoints_model(NAME, &all);
            for (endpoint, health) in endpoints.endpoints.iter_mut().zip(health) {
                endpoint.health = *health;
            }
            let snapshot = fixture.next(&Snapshot::default(), &config, &Arc::new(endpoints));
            let (_, cluster) = only(&snapshot);
            assert_eq!(addresses(&cluster), expect, "{health:?}");
            assert_eq!(cluster.all.endpoints.len(), health.len());
        }
    }

    #[test]
    fn states_outlive_changes_and_are_made_anew_only_where_theirs_changed() {
        let fixture = Fixture::new();
        let breaker = FailureBreaker {
            failure_percent: 50,
            min_requests: 1,
            window: Duration::from_secs(10),
            open_for: Duration::from_secs(5),
            half_open_requests: 1,
        };
        let mut config = cluster_model(NAME);
        config.breaker = Some(breaker);
        let endpoints = Arc::new(endpoints_model(NAME, &["10.0.0.1:80", "10.0.0.2:80"]));
        let first = fixture.next(&Snapshot::default(), &Arc::new(config.clone()), &endpoints);
        let (_, before) = only(&first);
        let permit = before.state.breaker.admit(Time::ZERO).expect("closed");
        permit.finish(Outcome::Failure, Time::ZERO);
        assert_eq!(before.state.breaker.opened_total(), 1);
        before.endpoints[1].state.load.begin();

        // Limits and endpoints change: the open breaker stays open, the measured endpoint stays measured.
        config.limits.max_requests = 7;
        config.connect_timeout = Duration::from_secs(9);
        let endpoints = Arc::new(endpoints_model(NAME, &["10.0.0.2:80", "10.0.0.3:80"]));
        let second = fixture.next(&first, &Arc::new(config.clone()), &endpoints);
        let (_, after) = only(&second);
        assert!(Arc::ptr_eq(&before.state, &after.state));
        assert_eq!(after.state.breaker.opened_total(), 1);
        assert_eq!(after.state.breaker.counts().limits.max_requests, 7);
        assert!(Arc::ptr_eq(&before.endpoints[1].state, &after.endpoints[0].state));
        assert_eq!(after.endpoints[0].state.load.active(), 1);

        // The retry budget changes: the breaker stays.
        config.retry_budget.percent = 1;
        let third = fixture.next(&second, &Arc::new(config.clone()), &endpoints);
        let (_, budget) = only(&third);
        assert!(Arc::ptr_eq(&after.state.breaker, &budget.state.breaker));
        assert!(!Arc::ptr_eq(&after.state.budget, &budget.state.budget));

        // The breaker changes: the budget stays.
        config.breaker = Some(FailureBreaker {
            min_requests: 9,
            ..breaker
        });
        let fourth = fixture.next(&third, &Arc::new(config), &endpoints);
        let (_, anew) = only(&fourth);
        assert!(!Arc::ptr_eq(&budget.state.breaker, &anew.state.breaker));
        assert!(Arc::ptr_eq(&budget.state.budget, &anew.state.budget));
        assert_eq!(anew.state.breaker.opened_total(), 0);
        assert!(Arc::ptr_eq(&after.endpoints[0].state, &anew.endpoints[0].state));
    }

    #[test]
    fn an_ejected_endpoint_is_out_until_its_time_and_known_to_the_next_snapshot() {
        let fixture = Fixture::new();
        let mut config = cluster_model(NAME);
        let detection = model::OutlierDetection {
            consecutive_5xx_errors: Some(1),
            consecutive_gateway_errors: None,
            consecutive_local_origin_failures: None,
            failure_percentage: None,
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_percent: 50,
        };
        config.outlier_detection = Some(detection);
        let endpoints = Arc::new(endpoints_model(NAME, &["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]));
        let first = fixture.next(&Snapshot::default(), &Arc::new(config.clone()), &endpoints);
        let (_, cluster) = only(&first);
        assert_eq!(addresses(&cluster).len(), 3);
        let fail = |cluster: &Cluster, place: usize| {
            let endpoint = &cluster.endpoints[place];
            cluster.saw(endpoint.address, &endpoint.state, Seen::ServerError, Time::ZERO);
        };
        fail(&cluster, 1);
        assert_eq!(addresses(&cluster), ["10.0.0.1:80", "10.0.0.3:80"]);
        fail(&cluster, 0);
        assert_eq!(addresses(&cluster).len(), 2, "no more than half may be out");
        let back = Time::ZERO + detection.base_ejection_time;
        assert_eq!(cluster.in_use(back).taking().count(), 3);

        // Another limit: what was seen is still known.
        config.limits.max_requests = 7;
        let second = fixture.next(&first, &Arc::new(config.clone()), &endpoints);
        let (_, later) = only(&second);
        assert_eq!(addresses(&later), ["10.0.0.1:80", "10.0.0.3:80"]);
        // A request that began before the change ejects for those that begin after it.
        fail(&cluster, 0);
        let after = Time::ZERO + Duration::from_secs(31);
        cluster.saw(
            cluster.endpoints[0].address,
            &cluster.endpoints[0].state,
            Seen::ServerError,
            after,
        );
        assert_eq!(later.in_use(after).taking().collect::<Vec<_>>(), [1, 2]);

        // Other rules: it begins anew, but for the load.
        config.outlier_detection = Some(model::OutlierDetection {
            consecutive_5xx_errors: Some(9),
            ..detection
        });
        let third = fixture.next(&second, &Arc::new(config), &endpoints);
        let (_, anew) = only(&third);
        assert_eq!(addresses(&anew).len(), 3);
        assert!(Arc::ptr_eq(
            &anew.endpoints[0].state.load,
            &later.endpoints[0].state.load
        ));
    }

    #[test]
    fn too_few_healthy_ones_are_not_believed() {
        let fixture = Fixture::new();
        let mut endpoints = endpoints_model(NAME, &["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80"]);
        endpoints.endpoints[1].health = EndpointHealth::Unhealthy;
        endpoints.endpoints[2].health = EndpointHealth::Unhealthy;
        endpoints.endpoints[3].health = EndpointHealth::Draining;
        let endpoints = Arc::new(endpoints);
        for (panic_percent, expect) in [(33, vec![0]), (34, vec![0, 1, 2])] {
            let mut config = cluster_model(NAME);
            config.panic_percent = panic_percent;
            let snapshot = fixture.next(&Snapshot::default(), &Arc::new(config), &endpoints);
            let (_, cluster) = only(&snapshot);
            let in_use = cluster.in_use(Time::ZERO);
            assert_eq!(in_use.taking().collect::<Vec<_>>(), expect, "{panic_percent} %");
            assert_eq!(in_use.is_panic(), panic_percent == 34);
        }
    }

    #[test]
    fn a_cold_endpoint_gets_its_share_slowly_whatever_balances() {
        let window = Duration::from_secs(100);
        let born = Time::ZERO + Duration::from_secs(10_000);
        let all = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80"];
        for balancing in [
            model::Balancing::RoundRobin,
            model::Balancing::PeakEwma { decay: window },
        ] {
            let fixture = Fixture::new();
            let mut config = cluster_model(NAME);
            config.balancing = balancing;
            config.slow_start = Some(model::SlowStart {
                window,
                aggression: 1.0,
                min_weight_percent: 10,
            });
            let endpoints = Arc::new(endpoints_model(NAME, &all));
            let snapshot = fixture.next(&Snapshot::default(), &Arc::new(config), &endpoints);
            let (_, cluster) = only(&snapshot);
            cluster.endpoints[3].state.came_back(born);
            let random = std::cell::RefCell::new(fastrand::Rng::with_seed(7));
            let got = |now: Time| {
                let draw = || random.borrow_mut().u64(..);
                let chosen = (0..10_000).filter_map(|_| crate::plan::choose(&cluster, None, now, draw));
                chosen
                    .filter(|endpoint| endpoint.address == cluster.endpoints[3].address)
                    .count()
            };
            // Of 10,000 among four: at a tenth of its weight, at half, and through.
            let (cold, warmer, through) = (got(born), got(born + window / 2), got(born + window));
            assert!((150..500).contains(&cold), "{balancing:?}: {cold}");
            assert!((1_000..1_700).contains(&warmer), "{balancing:?}: {warmer}");
            assert!((2_300..2_700).contains(&through), "{balancing:?}: {through}");
        }
    }

    #[test]
    fn an_endpoint_that_is_well_again_or_comes_again_starts_slowly() {
        let fixture = Fixture::new();
        let mut config = cluster_model(NAME);
        config.slow_start = Some(model::SlowStart {
            window: Duration::from_secs(1_000),
            aggression: 1.0,
            min_weight_percent: 10,
        });
        let config = Arc::new(config);
        let told = |health: &[(&str, EndpointHealth)]| {
            let all: Vec<&str> = health.iter().map(|(address, _)| *address).collect();
            let mut endpoints = endpoints_model(NAME, &all);
            for (endpoint, (_, health)) in endpoints.endpoints.iter_mut().zip(health) {
                endpoint.health = *health;
            }
            Arc::new(endpoints)
        };
        let (one, two) = ("10.0.0.1:80", "10.0.0.2:80");
        use EndpointHealth::{Healthy, Unhealthy};
        let first = fixture.next(&Snapshot::default(), &config, &told(&[(one, Healthy), (two, Healthy)]));
        let (_, cluster) = only(&first);
        let mark = Arc::clone(&cluster.endpoints[1].state);
        let same = |later: &Snapshot| Arc::ptr_eq(&mark, &only(later).1.endpoints[1].state);
        // The clock of these states stands near 0.
        let late = Time::ZERO + Duration::from_secs(3600);
        cluster.endpoints[1].state.came_back(late);
        let second = fixture.next(&first, &config, &told(&[(one, Healthy), (two, Unhealthy)]));
        let third = fixture.next(&second, &config, &told(&[(one, Healthy), (two, Healthy)]));
        assert!(same(&second) && same(&third));
        let weight = |snapshot: &Snapshot, place: usize| {
            let (_, cluster) = only(snapshot);
            cluster
                .in_use(late)
                .weight(&cluster.endpoints[place], &cluster.config, late)
        };
        assert_eq!(weight(&third, 1), 1.0, "it is well since now, not since the late time");
        // Gone and back, while a request still holds the old one: it is another.
        let fourth = fixture.next(&third, &config, &told(&[(one, Healthy)]));
        let fifth = fixture.next(&fourth, &config, &told(&[(one, Healthy), (two, Healthy)]));
        assert!(!same(&fifth));
    }

    #[test]
    fn near_endpoints_are_preferred_until_too_few_of_them_can_be_used() {
        let place = |zone: &str| Locality {
            region: "zj".to_owned(),
            zone: zone.to_owned(),
            site: String::new(),
        };
        let mut fixture = Fixture::new();
        fixture.states = States::new(Clock::start(), place("a"));
        let mut config = cluster_model(NAME);
        config.locality = Some(model::LocalityPreference {
            overprovisioning_percent: 140,
        });
        let config = Arc::new(config);
        let all = [
            "10.0.0.1:80",
            "10.0.0.2:80",
            "10.0.0.3:80",
            "10.0.0.4:80",
            "10.0.0.5:80",
        ];
        let mut model = endpoints_model(NAME, &all);
        for (endpoint, zone) in model.endpoints.iter_mut().zip(["a", "a", "b", "b", "c"]) {
            endpoint.locality = place(zone);
        }
        model.endpoints[4].locality.region = "js".to_owned();
        let check = |model: &model::ClusterEndpoints, levels: &[(Distance, u8)], taking: &[usize]| {
            let snapshot = fixture.next(&Snapshot::default(), &config, &Arc::new(model.clone()));
            let (_, cluster) = only(&snapshot);
            let in_use = cluster.in_use(Time::ZERO);
            assert_eq!(in_use.percents().collect::<Vec<_>>(), levels);
            assert_eq!(in_use.taking().collect::<Vec<_>>(), taking);
        };
        use Distance::{Elsewhere, Region, Zone};
        check(&model, &[(Zone, 100), (Region, 0), (Elsewhere, 0)], &[0, 1]);
        model.endpoints[0].health = EndpointHealth::Unhealthy;
        check(&model, &[(Zone, 70), (Region, 30), (Elsewhere, 0)], &[1, 2, 3]);
        // One that drains has no place.
        model.endpoints[1].health = EndpointHealth::Draining;
        check(&model, &[(Zone, 0), (Region, 100), (Elsewhere, 0)], &[1, 2]);
        model.endpoints[2].health = EndpointHealth::Unhealthy;
        model.endpoints[3].health = EndpointHealth::Unhealthy;
        check(&model, &[(Zone, 0), (Region, 0), (Elsewhere, 100)], &[3]);
        model.endpoints[4].health = EndpointHealth::Unhealthy;
        check(&model, &[], &[0, 1, 2, 3]);
    }

    #[test]
    fn a_retry_leaves_a_level_whose_only_endpoint_failed() {
        for balancing in [
            model::Balancing::RoundRobin,
            model::Balancing::PeakEwma {
                decay: Duration::from_secs(10),
            },
        ] {
            let mut fixture = Fixture::new();
            let own = Locality {
                zone: "a".to_owned(),
                ..Locality::default()
            };
            fixture.states = States::new(Clock::start(), own.clone());
            let mut config = cluster_model(NAME);
            config.balancing = balancing;
            config.locality = Some(model::LocalityPreference {
                overprovisioning_percent: 140,
            });
            let mut model = endpoints_model(NAME, &["10.0.0.1:80", "10.0.0.2:80"]);
            model.endpoints[0].locality = own;
            let snapshot = fixture.next(&Snapshot::default(), &Arc::new(config), &Arc::new(model));
            let (_, cluster) = only(&snapshot);
            let first = crate::plan::choose(&cluster, None, Time::ZERO, || 7)
                .expect("one")
                .address;
            assert_eq!(first.to_string(), "10.0.0.1:80");
            let again = crate::plan::choose(&cluster, Some(first), Time::ZERO, || 7).expect("the other");
            assert_eq!(again.address.to_string(), "10.0.0.2:80");
        }
    }

    /// A check of one result makes unhealthy, and one healthy again.
    fn checked_model(interval: Duration) -> Arc<model::Cluster> {
        let mut config = cluster_model(NAME);
        config.health_check = Some(model::HealthCheck {
            interval,
            unhealthy_threshold: 1,
            healthy_threshold: 1,
            ..check(model::HealthCheckKind::Tcp)
        });
        config.slow_start = Some(model::SlowStart {
            window: Duration::from_secs(100),
            aggression: 1.0,
            min_weight_percent: 1,
        });
        Arc::new(config)
    }

    #[test]
    fn an_endpoint_is_unhealthy_if_the_control_plane_or_a_check_says_so() {
        let fixture = Fixture::new();
        let config = checked_model(Duration::from_secs(1));
        let (one, two, three) = ("10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80");
        let mut model = endpoints_model(NAME, &[one, two, three]);
        model.endpoints[1].health = EndpointHealth::Unhealthy;
        let first = fixture.next(&Snapshot::default(), &config, &Arc::new(model));
        let (_, cluster) = only(&first);
        assert_eq!(
            addresses(&cluster),
            [one, three],
            "as the control plane says, before any check"
        );
        report(&first, one, Found::Failed, Time::ZERO);
        assert_eq!(addresses(&cluster), [three]);
        report(&first, two, Found::Passed, Time::ZERO);
        assert_eq!(addresses(&cluster), [three]);
        // Now the other way round: two is told to be well, and its checks fail.
        report(&first, two, Found::Failed, Time::ZERO);
        let all = Arc::new(endpoints_model(NAME, &[one, two, three]));
        let second = fixture.next(&first, &config, &all);
        let (_, cluster) = only(&second);
        assert_eq!(addresses(&cluster), [three], "what checks found stays");
        report(&second, two, Found::Passed, Time::ZERO);
        assert_eq!(addresses(&cluster), [two, three]);
        // Under other rules all begin anew.
        let third = fixture.next(&second, &checked_model(Duration::from_secs(2)), &all);
        let (_, cluster) = only(&third);
        assert_eq!(addresses(&cluster), [one, two, three]);
    }

    #[test]
    fn an_endpoint_whose_checks_pass_again_starts_slowly() {
        let fixture = Fixture::new();
        let model = Arc::new(endpoints_model(NAME, &["10.0.0.1:80", "10.0.0.2:80"]));
        let snapshot = fixture.next(&Snapshot::default(), &checked_model(Duration::from_secs(1)), &model);
        let (_, cluster) = only(&snapshot);
        let weight = |place: usize, now| {
            cluster
                .in_use(now)
                .weight(&cluster.endpoints[place], &cluster.config, now)
        };
        let later = Time::ZERO + Duration::from_secs(1000);
        report(&snapshot, "10.0.0.1:80", Found::Failed, later);
        report(&snapshot, "10.0.0.1:80", Found::Passed, later);
        let soon = later + Duration::from_secs(10);
        assert!(weight(0, soon) < 0.2 && weight(1, soon) > 0.99);
    }

    #[test]
    fn states_end_with_the_last_who_holds_them() {
        let fixture = Fixture::new();
        let config = Arc::new(cluster_model(NAME));
        let first = fixture.next(
            &Snapshot::default(),
            &config,
            &Arc::new(endpoints_model(NAME, &["10.0.0.1:80"])),
        );
        let (service, held) = only(&first);
        let second = compile(&first, &fixture.states, Parts::default());
        assert_eq!(fixture.states.by_cluster.len(), 1, "the first snapshot holds it");
        drop((first, service));
        let third = compile(&second, &fixture.states, Parts::default());
        assert_eq!(fixture.states.by_cluster.len(), 1, "a request holds it");
        drop(held);
        compile(&third, &fixture.states, Parts::default());
        assert_eq!(fixture.states.by_cluster.len(), 0);
    }

    /// A change is never half in force: route, cluster and endpoints of what a request took are of one version.
    #[test]
    fn a_thousand_readers_see_one_version_each_over_a_hundred_changes() {
        /// Version `n`: the route goes to cluster `n`, whose limit is `n`, with an endpoint on port `n`.
        fn publish(feed: &Feed, n: u16) {
            let name = format!("c{n}.n:80");
            let mut config = cluster_model(&name);
            config.limits.max_requests = n.into();
            let endpoints = endpoints_model(&name, &[&format!("10.0.0.1:{n}")]);
            let parts = Parts {
                services: vec![ServicePart {
                    name: listener_name("a:80"),
                    routes_name: None,
                    routes: routes(&[&name]),
                    last_used: Arc::new(LastUsed::new(Time::ZERO)),
                }],
                telemetry: Arc::default(),
                mutual_tls: None,
                egress: None,
                absent: Vec::new(),
                refused: Vec::new(),
                clusters: HashMap::from([(
                    cluster_name(&name),
                    ClusterPart::Held {
                        config: Arc::new(config),
                        endpoints: Some(Arc::new(endpoints)),
                    },
                )]),
            };
            feed.publish(compile(&feed.current(), feed.states(), parts));
        }

        let (mesh, feed) = Mesh::new(Clock::start(), Locality::default());
        publish(&feed, 1);
        let changing = AtomicBool::new(true);
        let seen = std::thread::scope(|scope| {
            let readers: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        let mut seen = BTreeSet::new();
                        let mut read = 0;
                        // Each holds 125 at once, as requests in flight do.
                        let mut in_flight = std::collections::VecDeque::new();
                        let mut check = |snapshot: Arc<Snapshot>| {
                            let (service, cluster) = only(&snapshot);
                            let n = snapshot.version;
                            assert!(service.table.routes().len() == 1);
                            assert_eq!(cluster.config.name.to_string(), format!("c{n}.n:80"));
                            assert_eq!(u64::from(cluster.state.breaker.counts().limits.max_requests), n);
                            assert_eq!(addresses(&cluster), [format!("10.0.0.1:{n}")]);
                            seen.insert(n);
                        };
                        while changing.load(Ordering::Acquire) || read < 1000 {
                            read += 1;
                            in_flight.push_back(arc_swap::Guard::into_inner(mesh.current()));
                            if in_flight.len() >= 125 {
                                check(in_flight.pop_front().expect("is full"));
                            }
                        }
                        // What was taken last ends last; after all changes, one more.
                        in_flight.push_back(arc_swap::Guard::into_inner(mesh.current()));
                        in_flight.into_iter().for_each(check);
                        seen
                    })
                })
                .collect();
            for n in 2..=100 {
                publish(&feed, n);
            }
            changing.store(false, Ordering::Release);
            readers
                .into_iter()
                .flat_map(|reader| reader.join().expect("saw no mixture"))
                .collect::<BTreeSet<_>>()
        });
        assert!(seen.contains(&100));
    }
}
