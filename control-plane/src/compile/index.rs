//! The store's objects by what they are about, so that one service's configuration is found without looking at the
//! rest of the mesh.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::sync::Arc;

use weir_api::backend_policy::BackendPolicySpec;
use weir_api::backend_tls_policy::BackendTlsPolicySpec;
use weir_api::endpoint_slice::{EndpointSliceBody, TargetRef};
use weir_api::mesh_config::{self, Egress, MeshConfigSpec, MutualTls};
use weir_api::reference_grant::ReferenceGrantSpec;
use weir_api::route_policy::RoutePolicySpec;
use weir_api::service::{SERVICE_NAME_LABEL, ServiceSpec};
use weir_api::telemetry_policy::TelemetryPolicySpec;
use weir_api::workload::WorkloadSpec;
use weir_api::{Key, Kind, Metadata, Object, RouteSpec, Spec};
use weir_policy::names::{ServiceName, WorkloadName};
use weir_policy::spiffe::TrustDomain;

use super::backend_tls;
use super::mutual_tls::{UNSAID, mutual_tls};
use super::references::{is_not_permitted, namespaces_of};
use super::route_policies::service_key;

/// Objects that configuration is made from, found by the service they are about.
#[derive(Debug, Default)]
pub(crate) struct Index {
    trust_domain: TrustDomain,
    /// PEM.
    roots: Option<String>,
    objects: BTreeMap<Key, Arc<Object>>,
    /// Routes, policies and slices by service, whether or not the service exists.
    attached: BTreeMap<ServiceName, BTreeSet<Key>>,
    /// Slices by the workload that one of their endpoints names.
    slices_of: BTreeMap<WorkloadName, BTreeSet<Key>>,
    /// RoutePolicies by what they are for, and BackendTLSPolicies by what they take certificates from, whether or not
    /// it exists.
    policies_for: BTreeMap<Key, BTreeSet<Key>>,
    /// Routes and policies by each namespace other than their own that one of their references names.
    refer_to: BTreeMap<String, BTreeSet<Key>>,
}

/// An object of one kind.
#[derive(Debug)]
pub(crate) struct Of<'a, S> {
    pub(crate) object: &'a Object,
    pub(crate) spec: &'a S,
}

/// A route of either kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attached<'a> {
    pub(crate) object: &'a Object,
    pub(crate) spec: RouteSpec<'a>,
}

/// Which part of a service's configuration a change may touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// All of it.
    Whole,
    /// Its listeners and routes.
    Routes,
    /// Its clusters.
    Clusters,
    /// Its endpoints.
    Endpoints,
}

/// What a change may change.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    /// Parts of services.
    pub(crate) services: BTreeSet<(ServiceName, Part)>,
    /// Workloads for which another policy may hold.
    pub(crate) workloads: BTreeSet<WorkloadName>,
    /// The same, of workloads that have not registered.
    pub(crate) unregistered: Unregistered,
    /// Whether something else may become of names that are none of the mesh's.
    pub(crate) egress: bool,
    /// Whether other trust domains, or others of their roots, are believed.
    pub(crate) trust_domains: bool,
}

/// Workloads that have not registered, and that an index does not know therefore.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Unregistered {
    /// None of them.
    #[default]
    None,
    /// Those of a namespace.
    In(String),
    /// All.
    All,
}

impl Unregistered {
    /// Whether those of a namespace are among them.
    pub(crate) fn has(&self, namespace: &str) -> bool {
        match self {
            Unregistered::None => false,
            Unregistered::In(only) => only == namespace,
            Unregistered::All => true,
        }
    }
}

impl Index {
    /// An empty one, of the mesh whose identities are of this trust domain.
    pub(crate) fn new(trust_domain: TrustDomain) -> Index {
        Index {
            trust_domain,
            ..Index::default()
        }
    }

    /// Of which trust domain the identities of workloads are.
    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The roots that everybody trusts, PEM; `None`: they are not known.
    pub(crate) fn roots(&self) -> Option<&str> {
        self.roots.as_deref()
    }

    /// These are the roots from now on, PEM.
    pub(crate) fn set_roots(&mut self, pem: String) {
        self.roots = Some(pem);
    }

    /// Takes in an object as it is now (`None`: it is gone), and returns what that may change. `None`: nothing is asked
    /// for otherwise than before. What only became of an object changes nothing: no configuration is made from a
    /// status.
    pub(crate) fn apply(&mut self, key: &Key, object: Option<Arc<Object>>) -> Option<Touched> {
        if let (Some(before), Some(after)) = (self.objects.get_mut(key), &object)
            && asks_the_same(before, after)
        {
            *before = Arc::clone(after);
            return None;
        }
        let before = self.objects.remove(key);
        let mut touched = self.workloads_touched(before.as_deref(), object.as_deref());
        if let Some(before) = before {
            touched.services.append(&mut self.touches(&before));
            self.detach(key, &before);
        }
        if let Some(after) = object {
            self.attach(key, &after);
            touched.services.append(&mut self.touches(&after));
            self.objects.insert(key.clone(), after);
        }
        Some(touched)
    }

    /// A service; never the one that stands for a reference that may not be followed.
    pub(crate) fn service(&self, name: &ServiceName) -> Option<Of<'_, ServiceSpec>> {
        if is_not_permitted(name) {
            return None;
        }
        let object = self.objects.get(&service_key(name))?;
        match &object.spec {
            Spec::Service(spec) => Some(Of { object, spec }),
            _ => None,
        }
    }

    /// The routes that name this service as a parent, oldest first, then by namespace and name.
    pub(crate) fn routes(&self, of: &ServiceName) -> Vec<Attached<'_>> {
        let routes = self.attached(of).filter_map(|object| {
            let spec = RouteSpec::of(object)?;
            Some(Attached { object, spec })
        });
        let mut routes: Vec<Attached<'_>> = routes.collect();
        routes.sort_by(|a, b| by_age(a.object, b.object));
        routes
    }

    /// The policies that target this service, oldest first, then by namespace and name.
    pub(crate) fn policies(&self, of: &ServiceName) -> Vec<Of<'_, BackendPolicySpec>> {
        let policies = self.attached(of).filter_map(|object| match &object.spec {
            Spec::BackendPolicy(spec) => Some(Of { object, spec }),
            _ => None,
        });
        oldest_first(policies.collect())
    }

    /// The BackendTLSPolicies that target this service, oldest first, then by namespace and name.
    pub(crate) fn backend_tls_policies(&self, of: &ServiceName) -> Vec<Of<'_, BackendTlsPolicySpec>> {
        let policies = self.attached(of).filter_map(|object| match &object.spec {
            Spec::BackendTlsPolicy(spec) => Some(Of { object, spec }),
            _ => None,
        });
        oldest_first(policies.collect())
    }

    /// The policies for a route or a service that name it, oldest first, then by namespace and name.
    pub(crate) fn route_policies(&self, of: &Key) -> Vec<Of<'_, RoutePolicySpec>> {
        let keys = self.policies_for.get(of).into_iter().flatten();
        let policies = keys.filter_map(|key| {
            let object: &Object = self.objects.get(key)?;
            match &object.spec {
                Spec::RoutePolicy(spec) => Some(Of { object, spec }),
                _ => None,
            }
        });
        oldest_first(policies.collect())
    }

    /// What holds for the whole mesh, if that was said.
    pub(crate) fn mesh_config(&self) -> Option<Of<'_, MeshConfigSpec>> {
        let key = Key {
            kind: Kind::MeshConfig,
            namespace: String::new(),
            name: mesh_config::NAME.to_owned(),
        };
        let object = self.objects.get(&key)?;
        match &object.spec {
            Spec::MeshConfig(spec) => Some(Of { object, spec }),
            _ => None,
        }
    }

    /// What becomes of requests for names that are none of the mesh's.
    pub(crate) fn egress(&self) -> Egress {
        self.mesh_config().map(|config| config.spec.egress).unwrap_or_default()
    }

    /// How inbound ports are entered.
    pub(crate) fn mutual_tls(&self) -> &MutualTls {
        self.mesh_config().map_or(&UNSAID, |config| &config.spec.mutual_tls)
    }

    /// The policies for the workloads of a namespace, oldest first, then by name.
    pub(crate) fn telemetry_policies(&self, namespace: &str) -> Vec<Of<'_, TelemetryPolicySpec>> {
        let policies = self.of_namespace(Kind::TelemetryPolicy, namespace);
        let policies = policies.filter_map(|object| match &object.spec {
            Spec::TelemetryPolicy(spec) => Some(Of { object, spec }),
            _ => None,
        });
        oldest_first(policies.collect())
    }

    /// The workloads of a namespace, by name.
    pub(crate) fn workloads(&self, namespace: &str) -> impl Iterator<Item = &Object> {
        self.of_namespace(Kind::Workload, namespace)
    }

    /// The slices of this service, by name.
    pub(crate) fn slices(&self, of: &ServiceName) -> impl Iterator<Item = Of<'_, EndpointSliceBody>> {
        self.attached(of).filter_map(|object| match &object.spec {
            Spec::EndpointSlice(spec) => Some(Of { object, spec }),
            _ => None,
        })
    }

    /// The grants of a namespace, by name.
    pub(crate) fn grants(&self, namespace: &str) -> impl Iterator<Item = Of<'_, ReferenceGrantSpec>> {
        let grants = self.of_namespace(Kind::ReferenceGrant, namespace);
        grants.filter_map(|object| match &object.spec {
            Spec::ReferenceGrant(spec) => Some(Of { object, spec }),
            _ => None,
        })
    }

    /// A workload.
    pub(crate) fn workload(&self, name: &WorkloadName) -> Option<Of<'_, WorkloadSpec>> {
        let key = Key {
            kind: Kind::Workload,
            namespace: name.namespace.as_str().to_owned(),
            name: name.name.as_str().to_owned(),
        };
        let object = self.objects.get(&key)?;
        match &object.spec {
            Spec::Workload(spec) => Some(Of { object, spec }),
            _ => None,
        }
    }

    /// The routes and policies of other namespaces that refer to something in this one.
    pub(crate) fn referring_to(&self, namespace: &str) -> impl Iterator<Item = &Key> {
        self.refer_to.get(namespace).into_iter().flatten()
    }

    /// Every object held, by key.
    pub(crate) fn objects(&self) -> &BTreeMap<Key, Arc<Object>> {
        &self.objects
    }

    fn of_namespace(&self, kind: Kind, namespace: &str) -> impl Iterator<Item = &Object> {
        let first = Key {
            kind,
            namespace: namespace.to_owned(),
            name: String::new(),
        };
        let from = self.objects.range(first.clone()..);
        let same = move |key: &Key| key.kind == first.kind && key.namespace == first.namespace;
        from.take_while(move |(key, _)| same(key)).map(|(_, object)| &**object)
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Object> {
        let first = Key {
            kind,
            namespace: String::new(),
            name: String::new(),
        };
        let from = self.objects.range(first..);
        from.take_while(move |(key, _)| key.kind == kind)
            .map(|(_, object)| &**object)
    }

    fn attached(&self, to: &ServiceName) -> impl Iterator<Item = &Object> {
        let keys = self.attached.get(to).into_iter().flatten();
        keys.filter_map(|key| self.objects.get(key).map(|object| &**object))
    }

    fn attach(&mut self, key: &Key, object: &Object) {
        for (service, part) in about(object) {
            if part != Part::Whole {
                self.attached.entry(service).or_default().insert(key.clone());
            }
        }
        for workload in workloads_of(object) {
            self.slices_of.entry(workload).or_default().insert(key.clone());
        }
        for target in policy_targets(object) {
            self.policies_for.entry(target).or_default().insert(key.clone());
        }
        for namespace in namespaces_of(object) {
            self.refer_to.entry(namespace).or_default().insert(key.clone());
        }
    }

    fn detach(&mut self, key: &Key, object: &Object) {
        for (service, _) in about(object) {
            remove(&mut self.attached, &service, key);
        }
        for workload in workloads_of(object) {
            remove(&mut self.slices_of, &workload, key);
        }
        for target in policy_targets(object) {
            remove(&mut self.policies_for, &target, key);
        }
        for namespace in namespaces_of(object) {
            remove(&mut self.refer_to, &namespace, key);
        }
    }

    /// What a change of an object may change for workloads, beside the endpoints that they are.
    fn workloads_touched(&self, before: Option<&Object>, after: Option<&Object>) -> Touched {
        let states = || before.into_iter().chain(after);
        let Some(object) = states().next() else {
            return Touched::default();
        };
        match object.kind() {
            Kind::Workload => {
                let labels = |object: Option<&Object>| object.map(|object| object.metadata.labels.clone());
                let touched = labels(before) != labels(after);
                Touched {
                    workloads: touched.then(|| name_of(object)).flatten().into_iter().collect(),
                    ..Touched::default()
                }
            }
            Kind::TelemetryPolicy => {
                let specs = || {
                    states().filter_map(|object| match &object.spec {
                        Spec::TelemetryPolicy(spec) => Some(spec),
                        _ => None,
                    })
                };
                let selects = |workload: &&Object| specs().any(|spec| spec.selects(&workload.metadata.labels));
                let namespace = &object.metadata.namespace;
                let workloads = self.workloads(namespace).filter(selects);
                let for_all = specs().any(|spec| spec.selector.is_none());
                Touched {
                    workloads: workloads.filter_map(name_of).collect(),
                    unregistered: match for_all {
                        true => Unregistered::In(namespace.clone()),
                        false => Unregistered::None,
                    },
                    ..Touched::default()
                }
            }
            Kind::MeshConfig => self.settings_changed(before, after),
            Kind::Namespace
            | Kind::ConfigMap
            | Kind::BackendTlsPolicy
            | Kind::Service
            | Kind::EndpointSlice
            | Kind::BackendPolicy
            | Kind::RoutePolicy
            | Kind::ReferenceGrant
            | Kind::HttpRoute
            | Kind::GrpcRoute => Touched::default(),
        }
    }

    /// The workloads for which the MeshConfig says something else after a change, or the same while it begins or ends
    /// to have a part in that; the endpoints that those are whose ports are entered otherwise; and whom everybody
    /// trusts.
    fn settings_changed(&self, before: Option<&Object>, after: Option<&Object>) -> Touched {
        let spec = |object: Option<&'_ Object>| match object.map(|object| &object.spec) {
            Some(Spec::MeshConfig(spec)) => (spec.mutual_tls.clone(), spec.egress),
            _ => (UNSAID.clone(), Egress::default()),
        };
        fn trust_domains(object: Option<&Object>) -> &[mesh_config::TrustDomain] {
            match object.map(|object| &object.spec) {
                Some(Spec::MeshConfig(spec)) => &spec.trust_domains,
                _ => &[],
            }
        }
        let ((before_spec, before_egress), (after_spec, after_egress)) = (spec(before), spec(after));
        let is_other = before.is_some() != after.is_some();
        let mut touched = Touched {
            egress: before_egress != after_egress,
            trust_domains: trust_domains(before) != trust_domains(after),
            ..Touched::default()
        };
        if !is_other && !touched.egress && before_spec == after_spec {
            return touched;
        }
        touched.unregistered = Unregistered::All;
        for object in self.of_kind(Kind::Workload) {
            let (Spec::Workload(spec), Some(name)) = (&object.spec, name_of(object)) else {
                continue;
            };
            let of = |mesh: &MutualTls| mutual_tls(mesh, &object.metadata.namespace, Some(&object.metadata.labels));
            let (old, new) = (of(&before_spec), of(&after_spec));
            if !is_other && !touched.egress && old == new {
                continue;
            }
            let differs = |port: NonZeroU16| is_other || old.at(port) != new.at(port);
            let mut inside = spec.ports.iter().filter(|port| !port.edge);
            if inside.any(|port| differs(port.app_port)) {
                let slices = self.slices_of.get(&name).into_iter().flatten();
                let slices = slices.filter_map(|key| self.objects.get(key));
                touched.services.extend(slices.flat_map(|slice| about(slice)));
            }
            touched.workloads.insert(name);
        }
        touched
    }

    fn touches(&self, object: &Object) -> BTreeSet<(ServiceName, Part)> {
        let others = match &object.spec {
            Spec::RoutePolicy(_) => {
                let routes = policy_targets(object);
                let routes = routes.iter().filter_map(|target| self.objects.get(target));
                let routes = routes.filter(|target| RouteSpec::of(target).is_some());
                return routes.flat_map(|route| about(route)).chain(about(object)).collect();
            }
            Spec::Workload(_) => name_of(object).and_then(|name| self.slices_of.get(&name)),
            Spec::ReferenceGrant(_) => self.refer_to.get(&object.metadata.namespace),
            Spec::ConfigMap(_) => self.policies_for.get(&object.key()),
            Spec::Namespace(_)
            | Spec::MeshConfig(_)
            | Spec::BackendTlsPolicy(_)
            | Spec::Service(_)
            | Spec::EndpointSlice(_)
            | Spec::BackendPolicy(_)
            | Spec::TelemetryPolicy(_)
            | Spec::HttpRoute(_)
            | Spec::GrpcRoute(_) => return about(object),
        };
        let others = others.into_iter().flatten().filter_map(|key| self.objects.get(key));
        others.flat_map(|other| self.touches(other)).collect()
    }
}

/// Of the oldest object first; what was created in one second is told apart by namespace and name (Gateway API,
/// HTTPRouteRule "precedence", and Weir's rule for policies).
fn oldest_first<S>(mut objects: Vec<Of<'_, S>>) -> Vec<Of<'_, S>> {
    objects.sort_by(|a, b| by_age(a.object, b.object));
    objects
}

fn by_age(a: &Object, b: &Object) -> Ordering {
    let (a, b) = (&a.metadata, &b.metadata);
    let by_age = a.creation_timestamp.cmp(&b.creation_timestamp);
    by_age.then_with(|| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)))
}

/// Whether two states of an object differ in their status alone, and in the revision that came with it.
fn asks_the_same(before: &Object, after: &Object) -> bool {
    let Metadata {
        name,
        namespace,
        labels,
        annotations,
        uid,
        resource_version: _,
        generation,
        creation_timestamp,
        deletion_timestamp,
    } = &before.metadata;
    let metadata = &after.metadata;
    before.spec == after.spec
        && (name, namespace, uid) == (&metadata.name, &metadata.namespace, &metadata.uid)
        && (labels, annotations) == (&metadata.labels, &metadata.annotations)
        && (generation, creation_timestamp) == (&metadata.generation, &metadata.creation_timestamp)
        && *deletion_timestamp == metadata.deletion_timestamp
}

/// The services that an object itself is about. Names that can be no service's are about none.
fn about(object: &Object) -> BTreeSet<(ServiceName, Part)> {
    let own = object.metadata.namespace.as_str();
    let named = |namespace: &str, name: &str, part: Part| service_name(namespace, name).map(|name| (name, part));
    match &object.spec {
        // For which services its certificates are, the policies know.
        Spec::Namespace(_)
        | Spec::MeshConfig(_)
        | Spec::ConfigMap(_)
        | Spec::Workload(_)
        | Spec::TelemetryPolicy(_)
        | Spec::ReferenceGrant(_) => BTreeSet::new(),
        Spec::Service(_) => named(own, &object.metadata.name, Part::Whole).into_iter().collect(),
        Spec::EndpointSlice(_) => {
            let service = object.metadata.labels.get(SERVICE_NAME_LABEL);
            let service = service.and_then(|service| named(own, service, Part::Endpoints));
            service.into_iter().collect()
        }
        Spec::BackendPolicy(BackendPolicySpec { target_refs, .. })
        | Spec::BackendTlsPolicy(BackendTlsPolicySpec { target_refs, .. }) => {
            let targets = target_refs.iter();
            targets
                .filter_map(|target| named(own, &target.name, Part::Clusters))
                .collect()
        }
        // Which services its routes are for, they know.
        Spec::RoutePolicy(spec) => {
            let services = spec.target_refs.iter().filter(|target| target.kind == Kind::Service);
            services
                .filter_map(|target| named(own, &target.name, Part::Routes))
                .collect()
        }
        Spec::HttpRoute(_) | Spec::GrpcRoute(_) => {
            let parents = RouteSpec::of(object).map_or(&[][..], RouteSpec::parent_refs).iter();
            let parents = parents.filter_map(|parent| {
                let namespace = parent.namespace.as_deref().unwrap_or(own);
                named(namespace, &parent.name, Part::Routes)
            });
            parents.collect()
        }
    }
}

/// The workloads that a slice names.
fn workloads_of(object: &Object) -> BTreeSet<WorkloadName> {
    match &object.spec {
        Spec::EndpointSlice(slice) => {
            let targets = slice
                .endpoints
                .iter()
                .filter_map(|endpoint| endpoint.target_ref.as_ref());
            targets
                .filter_map(|target| workload_target(target, &object.metadata.namespace))
                .collect()
        }
        Spec::Namespace(_)
        | Spec::MeshConfig(_)
        | Spec::ConfigMap(_)
        | Spec::BackendTlsPolicy(_)
        | Spec::Service(_)
        | Spec::Workload(_)
        | Spec::BackendPolicy(_)
        | Spec::RoutePolicy(_)
        | Spec::TelemetryPolicy(_)
        | Spec::ReferenceGrant(_)
        | Spec::HttpRoute(_)
        | Spec::GrpcRoute(_) => BTreeSet::new(),
    }
}

/// What a policy for routes is for, and what one for TLS takes certificates from.
fn policy_targets(object: &Object) -> BTreeSet<Key> {
    let own = &object.metadata.namespace;
    match &object.spec {
        Spec::RoutePolicy(spec) => spec.target_refs.iter().map(|target| target.key(own)).collect(),
        Spec::BackendTlsPolicy(spec) => {
            let references = spec.validation.ca_certificate_refs.iter();
            let read = references.filter(|reference| reference.is_config_map());
            read.map(|reference| backend_tls::key(own, reference)).collect()
        }
        _ => BTreeSet::new(),
    }
}

/// The workload that an endpoint of a slice in namespace `own` refers to; `None`: it refers to something else.
pub(crate) fn workload_target(target: &TargetRef, own: &str) -> Option<WorkloadName> {
    if target.kind != Kind::Workload.kind() {
        return None;
    }
    Some(WorkloadName {
        namespace: target.namespace.as_deref().unwrap_or(own).parse().ok()?,
        name: target.name.parse().ok()?,
    })
}

/// The name of a workload's object; `None`: it can be no workload's.
pub(crate) fn name_of(workload: &Object) -> Option<WorkloadName> {
    Some(WorkloadName {
        namespace: workload.metadata.namespace.parse().ok()?,
        name: workload.metadata.name.parse().ok()?,
    })
}

/// The name of a service; `None`: the texts can be no service's.
pub(crate) fn service_name(namespace: &str, name: &str) -> Option<ServiceName> {
    Some(ServiceName {
        namespace: namespace.parse().ok()?,
        service: name.parse().ok()?,
    })
}

fn remove<K: Ord>(map: &mut BTreeMap<K, BTreeSet<Key>>, of: &K, key: &Key) {
    if let Some(keys) = map.get_mut(of) {
        keys.remove(key);
        if keys.is_empty() {
            map.remove(of);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::fixture;

    #[track_caller]
    fn touched(index: &mut Index, object: &Object, expect: &[(&str, Part)]) {
        let touched = index
            .apply(&object.key(), Some(Arc::new(object.clone())))
            .unwrap_or_default();
        let expect: BTreeSet<_> = expect
            .iter()
            .map(|(name, part)| (fixture::service_named(name), *part))
            .collect();
        assert_eq!(touched.services, expect);
    }

    #[test]
    fn a_change_touches_what_it_is_and_was_about() {
        let mut index = Index::default();
        let service = fixture::service("citizen", "portal", &[("", 80)]);
        touched(&mut index, &service, &[("portal.citizen", Part::Whole)]);
        let mut route = fixture::route("police", "r", "citizen", "portal");
        touched(&mut index, &route, &[("portal.citizen", Part::Routes)]);
        if let Spec::HttpRoute(spec) = &mut route.spec {
            spec.parent_refs[0].namespace = None;
        }
        let both = [("portal.citizen", Part::Routes), ("portal.police", Part::Routes)];
        touched(&mut index, &route, &both);
        assert!(index.routes(&fixture::service_named("portal.citizen")).is_empty());
        assert_eq!(index.routes(&fixture::service_named("portal.police")).len(), 1);
        let gone = index.apply(&route.key(), None).expect("it was there");
        assert_eq!(
            gone.services,
            BTreeSet::from([(fixture::service_named("portal.police"), Part::Routes)])
        );
        assert!(index.attached.is_empty());
    }

    #[test]
    fn a_policy_touches_the_services_whose_routes_it_is_for() {
        let mut index = Index::default();
        let targets = [(Kind::HttpRoute, "r", None), (Kind::Service, "portal", None)];
        let policy = fixture::route_policy("p", &targets);
        touched(&mut index, &policy, &[("portal.citizen", Part::Routes)]);
        let route = fixture::route("citizen", "r", "police", "secret");
        touched(&mut index, &route, &[("secret.police", Part::Routes)]);
        let found = index.route_policies(&route.key());
        assert_eq!(found.len(), 1);
        let mut policy = policy;
        fixture::route_policy_spec_of(&mut policy).target_refs.pop();
        let both = [("portal.citizen", Part::Routes), ("secret.police", Part::Routes)];
        touched(&mut index, &policy, &both);
        let gone = index.apply(&policy.key(), None).expect("it was there");
        let expect = (fixture::service_named("secret.police"), Part::Routes);
        assert_eq!(gone.services, BTreeSet::from([expect]));
        index.apply(&route.key(), None);
        assert!(index.policies_for.is_empty() && index.attached.is_empty());
    }

    #[test]
    fn a_workload_touches_the_services_whose_slices_name_it() {
        let mut index = Index::default();
        let workload = fixture::workload("citizen", "portal-1", "10.0.0.1", &[(8080, 15006)]);
        touched(&mut index, &workload, &[]);
        let slice = fixture::slice("citizen", "portal", "", 15006, &[("10.0.0.1", Some("portal-1"))]);
        touched(&mut index, &slice, &[("portal.citizen", Part::Endpoints)]);
        let workload = fixture::workload("citizen", "portal-1", "10.0.0.1", &[(8081, 15006)]);
        touched(&mut index, &workload, &[("portal.citizen", Part::Endpoints)]);
        index.apply(&slice.key(), None);
        assert!(index.slices_of.is_empty() && index.attached.is_empty());
        touched(&mut index, &workload, &[]);
    }

    #[test]
    fn a_status_touches_nothing_and_is_kept() {
        let mut index = Index::default();
        let mut route = fixture::route("citizen", "r", "citizen", "portal");
        touched(&mut index, &route, &[("portal.citizen", Part::Routes)]);
        route.status = Some(serde_json::json!({"parents": []}));
        route.metadata.resource_version = "7".to_owned();
        touched(&mut index, &route, &[]);
        assert_eq!(index.objects()[&route.key()].status, route.status);
        for change in [
            |route: &mut Object| route.metadata.generation += 1,
            |route: &mut Object| route.metadata.uid = "another of that name".to_owned(),
            |route: &mut Object| route.metadata.creation_timestamp = Some("2026-01-01T00:00:00Z".to_owned()),
            |route: &mut Object| fixture::spec_of(route).rules.clear(),
        ] {
            change(&mut route);
            touched(&mut index, &route, &[("portal.citizen", Part::Routes)]);
        }
    }
}
