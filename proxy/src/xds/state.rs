//! What a proxy subscribes to and what it does with the answers, as a pure state machine: inputs and the time go in,
//! requests, parts of a snapshot and things to keep come out.
//!
//! The policy of this proxy's own workload is always subscribed to, and in force as soon as it can be read.
//! A demand for a name subscribes to its listener; the listener names a route configuration, its routes name clusters,
//! and each cluster has endpoints under the same name. What is no longer named is let go.
//!
//! **In force.** A cluster and its endpoints are in force, and acknowledged, when they can be read. A route
//! configuration or a listener first waits: until each cluster it names was answered, and each that requests would move
//! to has an endpoint that takes them or does not exist; or until a time-out. Meanwhile the version before it stays in
//! force. It is acknowledged when it is in force, so "acknowledged" means "requests go by it". What can't be read is
//! refused at once, and what was in force stays.
//!
//! **Invariant:** no I/O, no clock, no task.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use weir_policy::backend_tls::{Authorities, BackendTls, Validation};
use weir_policy::egress::Egress;
use weir_policy::model::{self, EndpointHealth, RouteSource, VirtualHost};
use weir_policy::mutual_tls::MutualTls;
use weir_policy::names::{ClusterName, ListenerName, RouteName, WorkloadName};
use weir_policy::roots::RootsName;
use weir_policy::telemetry;
use weir_policy::time::Time;
use weir_xds::envoy::{Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};
use weir_xds::{ResourceType, decode};

use super::table::{self, Admission, Answer, Held, Received, Refusal, Table, Tracked};
use crate::config::{AccessLog, Xds};
use crate::identity::roots::Roots;
use crate::last_good::Kept;
use crate::mesh::{Connected, LinkStatus, RefusedResource, RejectedVersion, ResourceStatus};
use crate::snapshot::{ClusterPart, CompiledRoutes, LastUsed, Parts, ServicePart};
use crate::telemetry_policy::TelemetryPolicy;
use crate::tls::backend;

/// The times and bounds of a [`State`].
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// How long a service is kept after its last use. 10 minutes: longer than the pause between two runs of most
    /// timers, and an idle service costs only memory.
    pub(crate) idle: Duration,
    /// How long a route waits for its clusters and their first endpoints. 5 seconds: the answer is one round trip away,
    /// and who moves traffic to a service that is just being started sees it move when it can. Where nothing comes, a
    /// route without one of its clusters does more of what was asked for than no change at all.
    pub(crate) clusters_wait: Duration,
    /// How long it is believed that a name does not exist. A second: a service that is just being made is found soon,
    /// and a caller in a loop asks once a second.
    pub(crate) absent: Duration,
    /// How many names an app may use at once, per process. Names beyond are not asked for.
    pub(crate) names_max: usize,
    /// How answers are read.
    pub(crate) xds: Xds,
    /// Names that are asked for from the start and kept, whether they are used or not.
    pub(crate) pinned: BTreeSet<ListenerName>,
    /// Whose policy is asked for. `None`: nobody's, since no control plane but Weir's has any.
    pub(crate) own: Option<Own>,
    /// Whether the roots that everybody trusts are asked for.
    pub(crate) roots: AsksForRoots,
}

/// Whether the roots that everybody trusts are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AsksForRoots {
    /// By who has an identity.
    Yes,
    /// Nobody here believes certificates.
    No,
}

/// This proxy, as far as its own policy asks.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    /// The workload that it stands for.
    pub(crate) workload: WorkloadName,
    /// Where its access log goes.
    pub(crate) access_log: AccessLog,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            idle: Duration::from_secs(600),
            clusters_wait: Duration::from_secs(5),
            absent: Duration::from_secs(1),
            names_max: 4096,
            xds: Xds::Strict,
            pinned: BTreeSet::new(),
            own: None,
            roots: AsksForRoots::No,
        }
    }
}

/// What happens to a [`State`].
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// Requests wait for these names.
    Demands(Vec<ListenerName>),
    /// A stream to the control plane is open.
    Opened,
    /// It is gone.
    Closed,
    /// A response came on it.
    Response(DeltaDiscoveryResponse),
    /// These roots, which were put out, are trusted.
    Trusted(Arc<Roots>),
    /// The time is that of [`State::next`], or later.
    Tick,
}

/// What a [`State`] wants done.
#[derive(Debug)]
pub(crate) struct Outputs {
    /// To be sent on the stream, in this order.
    pub(crate) requests: Vec<DeltaDiscoveryRequest>,
    /// What the next snapshot is made of; `None`: nothing in force changed.
    pub(crate) parts: Option<Parts>,
    /// Roots that are to be trusted; [`Input::Trusted`] says that they are.
    pub(crate) roots: Option<Arc<Roots>>,
    /// How things stand.
    pub(crate) status: LinkStatus,
    /// Whether [`State::kept`] changed.
    pub(crate) keep: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct State {
    settings: Settings,
    node: Node,
    connected: Connected,
    /// Whether the node was said on the stream that is open: only its first request carries it.
    introduced: bool,
    /// Whether anything in force changed since the last snapshot.
    changed: bool,
    uses: BTreeMap<ListenerName, Use>,
    listeners: Table<ListenerName, ListenerRoutes>,
    routes: Table<RouteName, Arc<CompiledRoutes>>,
    clusters: Table<ClusterName, Arc<model::Cluster>>,
    /// Those of which the latest message asks for TLS, whether or not it is refused.
    ask_for_tls: BTreeSet<ClusterName>,
    endpoints: Table<ClusterName, Arc<model::ClusterEndpoints>>,
    /// At most that of this proxy's own workload.
    policies: Table<WorkloadName, Arc<TelemetryPolicy>>,
    /// They are acknowledged when they are trusted, and kept by who trusts them.
    roots: Table<RootsName, Arc<Roots>>,
    /// Which were put out last to be trusted.
    to_trust: Option<Arc<Roots>>,
    /// What the latest of these says of traffic, also one that is refused for what else it says.
    traffic: Option<Traffic>,
    /// Of a route configuration that does not exist; always there.
    no_routes: Option<Arc<CompiledRoutes>>,
    /// What was skipped of resources that are subscribed to, by type and name; at most [`SKIPPED_SHOWN_MAX`] of each.
    skipped: BTreeMap<(String, String), Vec<String>>,
    skipped_total: u64,
}

/// How an app uses a name.
#[derive(Debug)]
struct Use {
    last_used: Arc<LastUsed>,
    /// While the name does not exist: until when that is believed.
    absent_until: Option<Time>,
}

/// Where a listener's routes come from, compiled.
#[derive(Debug)]
enum ListenerRoutes {
    Named(RouteName),
    Inline(Arc<CompiledRoutes>),
}

impl State {
    /// Knows nothing yet.
    pub(crate) fn new(settings: Settings, node: Node) -> State {
        State {
            settings,
            node,
            connected: Connected::No,
            introduced: false,
            changed: false,
            uses: BTreeMap::new(),
            listeners: Table::new(ResourceType::Listener),
            routes: Table::new(ResourceType::Route),
            clusters: Table::new(ResourceType::Cluster),
            ask_for_tls: BTreeSet::new(),
            endpoints: Table::new(ResourceType::Endpoints),
            policies: Table::new(ResourceType::WorkloadPolicy),
            roots: Table::new(ResourceType::TrustRoots),
            to_trust: None,
            traffic: None,
            no_routes: CompiledRoutes::compile(&[]).ok().map(Arc::new),
            skipped: BTreeMap::new(),
            skipped_total: 0,
        }
    }

    /// Puts in force what was kept by an earlier life of this process. Returns what could not be read beside what is
    /// to be done; the rest is in force.
    pub(crate) fn restore(&mut self, now: Time, kept: Vec<Kept>) -> (Vec<(String, Refusal)>, Outputs) {
        let mut refused = Vec::new();
        for resource in kept {
            let name = resource.name.clone();
            if let Err(refusal) = self.restore_one(now, resource) {
                refused.push((name, refusal));
            }
        }
        self.changed = true;
        (refused, self.settle(now, Vec::new()))
    }

    /// Takes one input, at a time that never goes back.
    pub(crate) fn handle(&mut self, now: Time, input: Input) -> Outputs {
        let mut answers = Vec::new();
        match input {
            Input::Demands(names) => names.into_iter().for_each(|name| self.demand(now, name)),
            Input::Opened => {
                self.close();
                self.connected = Connected::Yes;
                for name in self.settings.pinned.clone() {
                    self.demand(now, name);
                }
            }
            Input::Closed => self.close(),
            Input::Response(response) => answers.extend(self.receive(now, response)),
            Input::Trusted(roots) => self.trusted(&roots),
            Input::Tick => self.let_go(now),
        }
        self.settle(now, answers)
    }

    /// Those that wait to be trusted; or those that were before, where others were put out since and are taken back.
    fn roots_to_trust(&mut self) -> Option<Arc<Roots>> {
        let tracked = self.roots.entries.get(&RootsName)?;
        let candidate = tracked.candidate.as_ref().map(|candidate| &candidate.held.value);
        let before = tracked
            .answer
            .value()
            .filter(|before| self.to_trust.as_ref() != Some(before));
        let roots = Arc::clone(candidate.or(before)?);
        self.to_trust = Some(Arc::clone(&roots));
        Some(roots)
    }

    fn trusted(&mut self, roots: &Roots) {
        for tracked in self.roots.entries.values_mut() {
            if tracked
                .candidate
                .as_ref()
                .is_some_and(|candidate| *candidate.held.value == *roots)
            {
                tracked.promote();
            }
        }
    }

    /// When to [`Input::Tick`] next; `None`: there is nothing to wait for.
    pub(crate) fn next(&self) -> Option<Time> {
        let listeners = self.listeners.entries.values().filter_map(|tracked| {
            let candidate = tracked.candidate.as_ref()?;
            match candidate.held.value {
                // Without its routes it can't be in force, so it waits as long as it takes.
                ListenerRoutes::Named(_) => None,
                ListenerRoutes::Inline(_) => Some(candidate.deadline),
            }
        });
        let routes = self.routes.entries.values();
        let routes = routes.filter_map(|tracked| Some(tracked.candidate.as_ref()?.deadline));
        let pinned = &self.settings.pinned;
        let uses = self.uses.iter().filter(|(name, _)| !pinned.contains(name));
        let uses = uses.map(|(_, usage)| usage.ends(self.settings.idle));
        listeners.chain(routes).chain(uses).min()
    }

    /// Everything in force, to be kept on disk.
    pub(crate) fn kept(&self) -> Vec<Kept> {
        fn keep<K: ToString, T>(kind: ResourceType, name: &K, held: &Held<T>) -> Kept {
            Kept {
                kind,
                name: name.to_string(),
                version: held.version.clone(),
                resource: Arc::clone(&held.resource),
            }
        }
        let listeners = self.listeners.in_force();
        let listeners = listeners.map(|(name, held)| keep(ResourceType::Listener, name, held));
        let routes = self.routes.in_force();
        let routes = routes.map(|(name, held)| keep(ResourceType::Route, name, held));
        let clusters = self.clusters.in_force();
        let clusters = clusters.map(|(name, held)| keep(ResourceType::Cluster, name, held));
        let endpoints = self.endpoints.in_force();
        let endpoints = endpoints.map(|(name, held)| keep(ResourceType::Endpoints, name, held));
        let accepted = self.policies.in_force().next().map(|(_, held)| &held.resource);
        let policies = self.policies.in_force();
        let policies = policies.map(|(name, held)| keep(ResourceType::WorkloadPolicy, name, held));
        // After the one that was accepted, so that it holds.
        let traffic = self.traffic.iter().map(|traffic| &traffic.kept);
        let traffic = traffic.filter(|kept| accepted != Some(&kept.resource)).cloned();
        let all = clusters.chain(endpoints).chain(listeners).chain(routes);
        all.chain(policies).chain(traffic).collect()
    }

    fn restore_one(&mut self, now: Time, kept: Kept) -> Result<(), Refusal> {
        let Kept {
            kind,
            name,
            version,
            resource,
        } = kept;
        match kind {
            ResourceType::Listener => {
                let name: ListenerName = name.parse()?;
                let value = accept_listener(&name, &resource)?;
                self.uses.insert(name.clone(), Use::new(now));
                self.listeners.restore(name, Held::new(value, version, resource));
            }
            ResourceType::Route => {
                let name: RouteName = name.parse()?;
                let value = accept_route(&name, &resource)?;
                self.routes.restore(name, Held::new(value, version, resource));
            }
            ResourceType::Cluster => {
                let name: ClusterName = name.parse()?;
                let value = accept_cluster(&name, &resource)?;
                self.clusters.restore(name, Held::new(value, version, resource));
            }
            ResourceType::Endpoints => {
                let name: ClusterName = name.parse()?;
                let value = accept_endpoints(&name, &resource)?;
                self.endpoints.restore(name, Held::new(value, version, resource));
            }
            ResourceType::WorkloadPolicy => {
                let name: WorkloadName = name.parse()?;
                let own = self.settings.own.as_ref();
                Traffic::take(&mut self.traffic, own, &version, &resource);
                if self.policies.in_force().any(|(held, _)| *held == name) {
                    // A later one, which was refused for what else it says.
                    return Ok(());
                }
                let value = accept_policy(&name, &resource, own)?;
                self.policies.restore(name, Held::new(value, version, resource));
            }
            // Kept with the identity, by who trusts them.
            ResourceType::TrustRoots => {}
        }
        Ok(())
    }

    fn demand(&mut self, now: Time, name: ListenerName) {
        if let Some(usage) = self.uses.get_mut(&name) {
            usage.last_used.touch(now);
            if usage.absent_until.is_some_and(|until| until <= now) {
                usage.absent_until = None;
                self.listeners.ask_again(&name);
                self.changed = true;
            }
            return;
        }
        if self.uses.len() >= self.settings.names_max {
            // Names that don't exist make room first: they are what an app that tries names leaves behind. If there
            // is none, this one is not asked for, and who waits for it runs into his time-out.
            let pinned = &self.settings.pinned;
            let mut uses = self.uses.iter();
            let absent = uses.find(|(name, usage)| usage.absent_until.is_some() && !pinned.contains(name));
            let Some(absent) = absent.map(|(name, _)| name.clone()) else {
                return;
            };
            self.uses.remove(&absent);
        }
        self.uses.insert(name, Use::new(now));
    }

    fn close(&mut self) {
        self.connected = Connected::No;
        self.introduced = false;
        self.listeners.close();
        self.routes.close();
        self.clusters.close();
        self.endpoints.close();
        self.policies.close();
        self.roots.close();
    }

    /// Returns the NACK, if it comes to that.
    fn receive(&mut self, now: Time, mut response: DeltaDiscoveryResponse) -> Option<DeltaDiscoveryRequest> {
        if self.settings.xds == Xds::Lenient {
            self.soften(&mut response);
        }
        let when_ready = Admission::WhenReady(now + self.settings.clusters_wait);
        let Received { changed, nack } = match ResourceType::from_url(&response.type_url) {
            Some(ResourceType::Listener) => self.listeners.receive(response, when_ready, accept_listener),
            Some(ResourceType::Route) => self.routes.receive(response, when_ready, accept_route),
            Some(ResourceType::Cluster) => self.receive_clusters(response),
            Some(ResourceType::Endpoints) => self.endpoints.receive(response, Admission::AtOnce, accept_endpoints),
            Some(ResourceType::WorkloadPolicy) => {
                let own = self.settings.own.as_ref();
                for told in &response.resources {
                    if let Some(resource) = &told.resource {
                        self.changed |= Traffic::take(&mut self.traffic, own, &told.version, resource);
                    }
                }
                let is_own = |name: &String| own.is_some_and(|own| own.workload.to_string() == *name);
                if response.removed_resources.iter().any(is_own) {
                    self.traffic = None;
                    self.changed = true;
                }
                let accept = |name: &WorkloadName, resource: &Any| accept_policy(name, resource, own);
                self.policies.receive(response, Admission::AtOnce, accept)
            }
            Some(ResourceType::TrustRoots) => self.roots.receive(response, when_ready, accept_roots),
            None => {
                let reason = "resources of this type were not asked for".to_owned();
                return Some(table::nack(&response.type_url, response.nonce, reason));
            }
        };
        self.changed |= changed;
        nack
    }

    /// What is refused leaves what was before, but for one thing: where TLS is asked for that this proxy can't do,
    /// nothing goes on in cleartext.
    fn receive_clusters(&mut self, response: DeltaDiscoveryResponse) -> Received {
        let before = self.closed().count();
        let mut told = BTreeSet::new();
        for resource in &response.resources {
            let Ok(name) = resource.name.parse::<ClusterName>() else {
                continue;
            };
            let asks = resource.resource.as_ref().is_some_and(decode::asks_for_tls);
            match asks {
                true => self.ask_for_tls.insert(name.clone()),
                false => self.ask_for_tls.remove(&name),
            };
            told.insert(name);
        }
        let Received { changed, nack } = self.clusters.receive(response, Admission::AtOnce, accept_cluster);
        let closed_now = self.closed().any(|(name, _)| told.contains(name));
        Received {
            changed: changed || closed_now || self.closed().count() != before,
            nack,
        }
    }

    /// Clusters in force in cleartext of which a later version asks for TLS and is refused, with why.
    fn closed(&self) -> impl Iterator<Item = (&ClusterName, &RejectedVersion)> {
        let entries = &self.clusters.entries;
        self.ask_for_tls.iter().filter_map(|name| {
            let tracked = entries.get(name)?;
            let in_force = tracked.answer.value()?;
            let rejected = tracked.rejected.as_ref()?;
            in_force.backend_tls.is_none().then_some((name, rejected))
        })
    }

    /// Takes out what a control plane that is not Weir's sets to no effect here.
    fn soften(&mut self, response: &mut DeltaDiscoveryResponse) {
        let Some(kind) = ResourceType::from_url(&response.type_url) else {
            return;
        };
        for resource in &mut response.resources {
            let Some(message) = &mut resource.resource else {
                continue;
            };
            let decode::lenient::Softened {
                message: softened,
                mut skipped,
            } = decode::lenient::soften(kind, message);
            *message = softened;
            for (field, set) in [
                ("aliases", !std::mem::take(&mut resource.aliases).is_empty()),
                ("cache_control", resource.cache_control.take().is_some()),
                ("metadata", resource.metadata.take().is_some()),
            ] {
                if set {
                    skipped.push(format!("the resource's {field}"));
                }
            }
            self.skipped_total = self
                .skipped_total
                .saturating_add(u64::try_from(skipped.len()).unwrap_or(u64::MAX));
            skipped.truncate(SKIPPED_SHOWN_MAX);
            self.skipped.insert((kind.to_string(), resource.name.clone()), skipped);
        }
    }

    /// Lets go of names that are not used any more.
    fn let_go(&mut self, now: Time) {
        let idle = self.settings.idle;
        let pinned = &self.settings.pinned;
        self.uses
            .retain(|name, usage| pinned.contains(name) || usage.ends(idle) > now);
    }

    /// Draws the consequences of an input.
    fn settle(&mut self, now: Time, answers: Vec<DeltaDiscoveryRequest>) -> Outputs {
        loop {
            self.follow();
            if !self.advance(now) {
                break;
            }
            self.changed = true;
        }
        for (name, usage) in &mut self.uses {
            let answer = self.listeners.entries.get(name).map(|tracked| &tracked.answer);
            match (answer, usage.absent_until) {
                (Some(Answer::Absent), None) => usage.absent_until = Some(now + self.settings.absent),
                (Some(Answer::Absent), Some(_)) => {}
                (Some(Answer::None | Answer::Held(_)) | None, _) => usage.absent_until = None,
            }
        }
        let requests = self.requests(answers);
        let changed = std::mem::take(&mut self.changed);
        Outputs {
            roots: self.roots_to_trust(),
            requests,
            parts: changed.then(|| self.parts()),
            status: self.status(),
            keep: changed,
        }
    }

    /// Subscribes to exactly what is used: names, what they name, what that names.
    fn follow(&mut self) {
        let wanted = self.uses.keys().cloned().collect();
        self.changed |= self.listeners.follow(&wanted);
        let mut routes = BTreeSet::new();
        let mut clusters = BTreeSet::new();
        for source in self.listeners.entries.values().flat_map(|tracked| tracked.values()) {
            match source {
                ListenerRoutes::Named(name) => {
                    routes.insert(name.clone());
                }
                ListenerRoutes::Inline(routes) => clusters.extend(routes.clusters.iter().cloned()),
            }
        }
        self.changed |= self.routes.follow(&routes);
        for routes in self.routes.entries.values().flat_map(|tracked| tracked.values()) {
            clusters.extend(routes.clusters.iter().cloned());
        }
        self.changed |= self.clusters.follow(&clusters);
        self.ask_for_tls.retain(|name| clusters.contains(name));
        self.changed |= self.endpoints.follow(&clusters);
        let own = self.settings.own.iter().map(|own| own.workload.clone());
        self.changed |= self.policies.follow(&own.collect());
        let roots = match self.settings.roots {
            AsksForRoots::Yes => BTreeSet::from([RootsName]),
            AsksForRoots::No => BTreeSet::new(),
        };
        self.roots.follow(&roots);
    }

    /// Puts in force what has all that it refers to, or has waited long enough. Returns whether anything was.
    fn advance(&mut self, now: Time) -> bool {
        let mut advanced = false;
        let moving = self.moving();
        for (name, tracked) in &mut self.routes.entries {
            let Some(candidate) = &tracked.candidate else { continue };
            let serving = tracked.answer.value().map(|routes| &routes.clusters);
            let serving = serving.or_else(|| moving.get(name));
            if candidate.deadline <= now || ready(&candidate.held.value, serving, &self.clusters, &self.endpoints) {
                tracked.promote();
                advanced = true;
            }
        }
        for tracked in self.listeners.entries.values_mut() {
            let Some(candidate) = &tracked.candidate else { continue };
            let ready = match &candidate.held.value {
                ListenerRoutes::Named(name) => {
                    let routes = self.routes.entries.get(name);
                    routes.is_some_and(|tracked| tracked.answer.is_there())
                }
                ListenerRoutes::Inline(routes) => {
                    let serving = serving(tracked, &self.routes);
                    candidate.deadline <= now || ready(routes, serving, &self.clusters, &self.endpoints)
                }
            };
            if ready {
                tracked.promote();
                advanced = true;
            }
        }
        advanced
    }

    /// Clusters that serve now under listeners that are about to move to other routes, by the name of these.
    fn moving(&self) -> BTreeMap<RouteName, BTreeSet<ClusterName>> {
        let mut moving: BTreeMap<RouteName, BTreeSet<ClusterName>> = BTreeMap::new();
        for tracked in self.listeners.entries.values() {
            let to = tracked.candidate.as_ref().map(|candidate| &candidate.held.value);
            if let (Some(ListenerRoutes::Named(to)), Some(serving)) = (to, serving(tracked, &self.routes)) {
                moving.entry(to.clone()).or_default().extend(serving.iter().cloned());
            }
        }
        moving
    }

    fn requests(&mut self, mut requests: Vec<DeltaDiscoveryRequest>) -> Vec<DeltaDiscoveryRequest> {
        match self.connected {
            Connected::Yes => {}
            Connected::No => return Vec::new(),
        }
        requests.extend(self.roots.acknowledge());
        requests.extend(self.policies.acknowledge());
        requests.extend(self.clusters.acknowledge());
        requests.extend(self.endpoints.acknowledge());
        requests.extend(self.listeners.acknowledge());
        requests.extend(self.routes.acknowledge());
        requests.extend(self.roots.request());
        requests.extend(self.policies.request());
        requests.extend(self.clusters.request());
        requests.extend(self.endpoints.request());
        requests.extend(self.listeners.request());
        requests.extend(self.routes.request());
        if !self.introduced {
            if requests.is_empty() {
                // Says who is there before anything is wanted. Of a type that knows no wildcard, so that it subscribes
                // to nothing (xDS protocol, "How the client specifies what resources to return").
                requests.push(DeltaDiscoveryRequest {
                    type_url: ResourceType::Endpoints.url().to_owned(),
                    ..DeltaDiscoveryRequest::default()
                });
            }
            if let Some(first) = requests.first_mut() {
                first.node = Some(self.node.clone());
            }
            self.introduced = true;
        }
        requests
    }

    fn parts(&self) -> Parts {
        let mut parts = Parts::default();
        for (name, usage) in &self.uses {
            if let Some(until) = usage.absent_until {
                parts.absent.push((name.clone(), until));
                continue;
            }
            if let Some(refused) = self.refused(name) {
                parts.refused.push((name.clone(), refused));
                continue;
            }
            let source = self
                .listeners
                .entries
                .get(name)
                .and_then(|tracked| tracked.answer.value());
            let (routes_name, routes) = match source {
                Some(ListenerRoutes::Inline(routes)) => (None, Some(routes)),
                Some(ListenerRoutes::Named(name)) => {
                    let routes = match self.routes.entries.get(name).map(|tracked| &tracked.answer) {
                        Some(Answer::Held(held)) => Some(&held.value),
                        Some(Answer::Absent) => self.no_routes.as_ref(),
                        Some(Answer::None) | None => None,
                    };
                    (Some(name.clone()), routes)
                }
                None => continue,
            };
            if let Some(routes) = routes {
                parts.services.push(ServicePart {
                    name: name.clone(),
                    routes_name,
                    routes: Arc::clone(routes),
                    last_used: Arc::clone(&usage.last_used),
                });
            }
        }
        parts.clusters = self.cluster_parts();
        if let Some((_, held)) = self.policies.in_force().next() {
            parts.telemetry = Arc::clone(&held.value);
        }
        parts.mutual_tls = self.traffic.as_ref().map(|told| told.mutual_tls.clone());
        parts.egress = match (&self.traffic, &self.settings.own) {
            (Some(told), _) => Some(told.egress),
            (None, Some(_)) => None,
            // A control plane that is not Weir's never says.
            (None, None) => Some(Egress::Refuse),
        };
        parts
    }

    /// Why nothing is in force of a name, if that is because the first version of its listener or of the routes that
    /// this names was refused.
    fn refused(&self, name: &ListenerName) -> Option<RefusedResource> {
        let listener = self.listeners.entries.get(name)?;
        if let Some(rejected) = listener.first_refused() {
            return Some(RefusedResource::new(ResourceType::Listener, name.to_string(), rejected));
        }
        match listener.values().next()? {
            ListenerRoutes::Inline(_) => None,
            ListenerRoutes::Named(routes) => {
                let rejected = self.routes.entries.get(routes)?.first_refused()?;
                Some(RefusedResource::new(ResourceType::Route, routes.to_string(), rejected))
            }
        }
    }

    fn cluster_parts(&self) -> HashMap<ClusterName, ClusterPart> {
        let mut parts = HashMap::new();
        for (name, tracked) in &self.clusters.entries {
            let endpoints = self.endpoints.entries.get(name);
            if let Some((kind, rejected)) = cluster_refused(tracked, endpoints) {
                let refused = RefusedResource::new(kind, name.to_string(), rejected);
                parts.insert(name.clone(), ClusterPart::Refused(refused));
                continue;
            }
            let endpoints = endpoints.map(|tracked| &tracked.answer);
            let part = match (&tracked.answer, endpoints) {
                (Answer::Held(config), Some(Answer::Held(endpoints))) => ClusterPart::Held {
                    config: Arc::clone(&config.value),
                    endpoints: Some(Arc::clone(&endpoints.value)),
                },
                (Answer::Held(config), Some(Answer::Absent)) => ClusterPart::Held {
                    config: Arc::clone(&config.value),
                    endpoints: None,
                },
                (Answer::Absent, _) => ClusterPart::Absent,
                (Answer::Held(_), Some(Answer::None) | None) | (Answer::None, _) => continue,
            };
            parts.insert(name.clone(), part);
        }
        for (name, rejected) in self.closed() {
            let refused = RefusedResource::new(ResourceType::Cluster, name.to_string(), rejected);
            parts.insert(name.clone(), ClusterPart::Refused(refused));
        }
        parts
    }

    fn status(&mut self) -> LinkStatus {
        let clusters = self.clusters.statuses().chain(self.endpoints.statuses());
        let listeners = self.listeners.statuses().chain(self.routes.statuses());
        let mut before = std::mem::take(&mut self.skipped);
        let mut resources: Vec<ResourceStatus> = clusters.chain(listeners).collect();
        resources.extend(self.policies.statuses());
        resources.extend(self.roots.statuses());
        for resource in &mut resources {
            let key = (resource.kind.clone(), resource.name.clone());
            // What is not subscribed to any more is dropped here.
            if let Some(skipped) = before.remove(&key) {
                resource.skipped.clone_from(&skipped);
                self.skipped.insert(key, skipped);
            }
        }
        LinkStatus {
            connected: self.connected,
            resources,
            skipped_total: self.skipped_total,
        }
    }
}

impl Use {
    fn new(now: Time) -> Use {
        Use {
            last_used: Arc::new(LastUsed::new(now)),
            absent_until: None,
        }
    }

    /// When it is let go if nothing happens.
    fn ends(&self, idle: Duration) -> Time {
        self.absent_until.unwrap_or_else(|| self.last_used.at() + idle)
    }
}

/// The clusters of the routes in force under a listener; `None`: none are in force.
fn serving<'a>(
    listener: &'a Tracked<ListenerRoutes>,
    routes: &'a Table<RouteName, Arc<CompiledRoutes>>,
) -> Option<&'a BTreeSet<ClusterName>> {
    let routes = match listener.answer.value()? {
        ListenerRoutes::Inline(routes) => routes,
        ListenerRoutes::Named(name) => routes.entries.get(name)?.answer.value()?,
    };
    Some(&routes.clusters)
}

/// Whether routes can come into force: each cluster was answered, and one that requests are about to move to takes
/// them. `serving` are the clusters that requests go to now; `None`: nothing serves them, and there is nothing to keep
/// up.
fn ready(
    routes: &CompiledRoutes,
    serving: Option<&BTreeSet<ClusterName>>,
    clusters: &Table<ClusterName, Arc<model::Cluster>>,
    endpoints: &Table<ClusterName, Arc<model::ClusterEndpoints>>,
) -> bool {
    routes.clusters.iter().all(|name| {
        let (cluster, endpoints) = (clusters.entries.get(name), endpoints.entries.get(name));
        // Where nothing serves them, callers are better told at once than made to wait for what was refused.
        if serving.is_none() && cluster.is_some_and(|cluster| cluster_refused(cluster, endpoints).is_some()) {
            return true;
        }
        let endpoints = endpoints.map(|tracked| &tracked.answer);
        let moves_there = serving.is_some_and(|serving| !serving.contains(name));
        match cluster.map(|tracked| &tracked.answer) {
            Some(Answer::Held(_)) if moves_there => endpoints.and_then(Answer::value).is_some_and(|all| takes(all)),
            Some(Answer::Held(_)) => endpoints.is_some_and(Answer::is_there),
            Some(Answer::Absent) => true,
            Some(Answer::None) | None => false,
        }
    })
}

/// What of a cluster was refused, if nothing is in force of it for that.
fn cluster_refused<'a>(
    cluster: &'a Tracked<Arc<model::Cluster>>,
    endpoints: Option<&'a Tracked<Arc<model::ClusterEndpoints>>>,
) -> Option<(ResourceType, &'a RejectedVersion)> {
    match &cluster.answer {
        Answer::None => Some((ResourceType::Cluster, cluster.first_refused()?)),
        Answer::Held(_) => Some((ResourceType::Endpoints, endpoints?.first_refused()?)),
        // Its endpoints don't matter.
        Answer::Absent => None,
    }
}

/// Whether any endpoint may take new requests.
fn takes(all: &model::ClusterEndpoints) -> bool {
    all.endpoints.iter().any(|endpoint| match endpoint.health {
        EndpointHealth::Healthy | EndpointHealth::Unhealthy => true,
        EndpointHealth::Draining => false,
    })
}

fn accept_listener(name: &ListenerName, resource: &Any) -> Result<ListenerRoutes, Refusal> {
    let listener = decode::listener(resource)?;
    same_name(name, &listener.name)?;
    match listener.routes {
        RouteSource::Named(routes) => Ok(ListenerRoutes::Named(routes)),
        RouteSource::Inline(hosts) => compile(&hosts).map(ListenerRoutes::Inline),
        RouteSource::Tcp(cluster) => {
            let carried = CompiledRoutes::tcp(cluster).map_err(Refusal::Routes)?;
            Ok(ListenerRoutes::Inline(Arc::new(carried)))
        }
    }
}

fn accept_route(name: &RouteName, resource: &Any) -> Result<Arc<CompiledRoutes>, Refusal> {
    let config = decode::route_config(resource)?;
    same_name(name, &config.name)?;
    compile(&config.virtual_hosts)
}

fn accept_cluster(name: &ClusterName, resource: &Any) -> Result<Arc<model::Cluster>, Refusal> {
    let cluster = decode::cluster(resource)?;
    same_name(name, &cluster.name)?;
    if let Some(BackendTls::Verified(Validation {
        authorities: given @ Authorities::Given(_),
        ..
    })) = &cluster.backend_tls
    {
        backend::roots(given).map_err(Refusal::Certificates)?;
    }
    Ok(Arc::new(cluster))
}

fn accept_endpoints(name: &ClusterName, resource: &Any) -> Result<Arc<model::ClusterEndpoints>, Refusal> {
    let endpoints = decode::endpoints(resource)?;
    same_name(name, &endpoints.cluster)?;
    Ok(Arc::new(endpoints))
}

fn accept_roots(name: &RootsName, resource: &Any) -> Result<Arc<Roots>, Refusal> {
    let roots = decode::trust_roots(resource)?;
    same_name(name, &roots.name)?;
    Ok(Arc::new(Roots::read(&roots.pem, &roots.others)?))
}

/// How our ports are entered and what may leave by them, and the policy that says so.
#[derive(Debug)]
struct Traffic {
    mutual_tls: MutualTls,
    egress: Egress,
    kept: Kept,
}

impl Traffic {
    /// Takes what our own policy says of it, if it can be read. That comes into force also where the policy is refused
    /// for what else it says: who is let in or out does not wait for a log. Returns whether it is new.
    fn take(held: &mut Option<Traffic>, own: Option<&Own>, version: &str, resource: &Any) -> bool {
        let policy = decode::workload_policy(resource).ok();
        let policy = policy.filter(|policy| own.is_some_and(|own| own.workload == policy.workload));
        let Some(policy) = policy else { return false };
        let is_same = |held: &Traffic| held.mutual_tls == policy.mutual_tls && held.egress == policy.egress;
        let is_new = !held.as_ref().is_some_and(is_same);
        *held = Some(Traffic {
            mutual_tls: policy.mutual_tls,
            egress: policy.egress,
            kept: Kept {
                kind: ResourceType::WorkloadPolicy,
                name: policy.workload.to_string(),
                version: version.to_owned(),
                resource: Arc::new(resource.clone()),
            },
        });
        is_new
    }
}

/// `own` is there: nobody else's policy is asked for, and one that is not asked for is not looked at.
fn accept_policy(name: &WorkloadName, resource: &Any, own: Option<&Own>) -> Result<Arc<TelemetryPolicy>, Refusal> {
    let policy = decode::workload_policy(resource)?;
    same_name(name, &policy.workload)?;
    let asks_for_lines = match policy.telemetry.access_log {
        Some(telemetry::AccessLog::All | telemetry::AccessLog::Errors) => true,
        Some(telemetry::AccessLog::Off) | None => false,
    };
    if asks_for_lines && own.is_some_and(|own| own.access_log == AccessLog::Off) {
        return Err(Refusal::NoAccessLog);
    }
    Ok(Arc::new(TelemetryPolicy::compile(policy.telemetry)))
}

fn compile(hosts: &[VirtualHost]) -> Result<Arc<CompiledRoutes>, Refusal> {
    let routes = CompiledRoutes::compile(hosts).map_err(Refusal::Routes)?;
    Ok(Arc::new(routes))
}

fn same_name<K: PartialEq + ToString>(asked: &K, inside: &K) -> Result<(), Refusal> {
    match asked == inside {
        true => Ok(()),
        false => Err(Refusal::OtherName {
            held: inside.to_string(),
        }),
    }
}

/// Of one resource; beyond that they are only counted.
const SKIPPED_SHOWN_MAX: usize = 32;
