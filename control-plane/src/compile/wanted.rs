//! What a subscription is for, and what it is now: computed from the [`Index`], in the terms of who asks.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use weir_api::backend_policy::BackendPolicySpec;
use weir_api::route_policy::RoutePolicySpec;
use weir_api::{Key, Kind, Spec};
use weir_policy::model::{ClusterEndpoints, Endpoint, TrustRoots};
use weir_policy::names::{ClusterName, Consumers, Label, ListenerName, RouteName, ServiceName, WorkloadName};
use weir_policy::roots::RootsName;
use weir_policy::spiffe::SpiffeId;
use weir_xds::encode::envoy::{INBOUND, OUTBOUND};
use weir_xds::encode::{self, NotSent, Place, PolicyField, RouteField, Sent};
use weir_xds::envoy::Any;
use weir_xds::node::{ClientIdentity, Dialect, GrpcSecurity};
use weir_xds::{EnvoyNode, InboundPort, ResourceType};

use super::index::{Index, Part};
use super::outbound::{Scope, Table};
use super::workload_policy::workload_policy;
use super::{Compiled, Version, cluster, endpoints, listener, route_policies, routes, trust_domains};

/// What is computed for a subscription: what was asked for, and by whom where that matters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Wanted {
    /// The routes of all services that an Envoy asks for. In this order it comes before the clusters, which it names.
    Outbound(Scope),
    /// A cluster.
    Cluster(Terms, ClusterName),
    /// A cluster's endpoints.
    Endpoints(Terms, ClusterName),
    /// A listener for clients of a namespace.
    Listener(ListenerName, Label),
    /// The same for gRPC clients, under the name that they asked for.
    ApiListener {
        /// As it was asked for.
        called: String,
        /// What that means.
        name: ListenerName,
        /// The client's namespace.
        client: Label,
    },
    /// A route configuration.
    Route(Terms, RouteName),
    /// What an Envoy's node alone decides.
    Settled(Settled),
    /// What holds for a workload's own proxy.
    WorkloadPolicy(WorkloadName),
    /// The roots that everybody trusts; weir proxies are told of other trust domains' as well.
    TrustRoots(Terms, RootsName),
}

/// In whose terms something is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Terms {
    /// In those of weir proxies.
    Weir,
    /// In those of gRPC's clients.
    Grpc,
    /// The same, of those that call by mutual TLS.
    GrpcByTls,
    /// In Envoy's.
    Envoy,
}

/// What an Envoy's node alone decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Settled {
    /// The listener where its app sends its calls.
    OutboundListener(SocketAddr),
    /// A listener for others' calls.
    InboundListener(SocketAddr, InboundPort),
    /// An app port.
    InboundCluster(InboundPort),
}

/// The services that something depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Services<'a> {
    /// This one.
    One(&'a ServiceName),
    /// These.
    Some(&'a BTreeSet<ServiceName>),
    /// Every one that there is or will be.
    All,
    /// None.
    None,
}

impl Terms {
    fn of(dialect: &Dialect) -> Terms {
        match dialect {
            Dialect::Weir => Terms::Weir,
            Dialect::Grpc(GrpcSecurity::Cleartext) => Terms::Grpc,
            Dialect::Grpc(GrpcSecurity::MutualTls) => Terms::GrpcByTls,
            Dialect::Envoy(_) => Terms::Envoy,
        }
    }
}

impl Wanted {
    /// What a client's subscription is for; `None`: nothing that could ever exist. Only the canonical spelling of a
    /// name is one: otherwise two subscriptions of a client could mean the same. (gRPC's clients alone may spell a
    /// listener as their apps do.)
    pub(crate) fn read(of: ResourceType, name: &str, client: &ClientIdentity) -> Option<Wanted> {
        let own = &client.workload.namespace;
        match &client.dialect {
            dialect if of == ResourceType::TrustRoots => {
                let terms = Terms::of(dialect);
                canonical(name).map(|name| Wanted::TrustRoots(terms, name))
            }
            // What holds for others is none of its business.
            Dialect::Weir if of == ResourceType::WorkloadPolicy => {
                let name: WorkloadName = canonical(name)?;
                (name == client.workload).then_some(Wanted::WorkloadPolicy(name))
            }
            Dialect::Weir => Wanted::by_name(of, name, Terms::Weir, own),
            Dialect::Grpc(_) if of == ResourceType::Listener => Some(Wanted::ApiListener {
                called: name.to_owned(),
                name: ListenerName::from_authority(name, own).ok()?,
                client: own.clone(),
            }),
            Dialect::Grpc(_) => Wanted::by_name(of, name, Terms::of(&client.dialect), own),
            Dialect::Envoy(node) => match of {
                ResourceType::Route => Some(Wanted::Outbound(Scope::of(node, own))).filter(|_| name == OUTBOUND),
                ResourceType::Listener | ResourceType::Cluster if Settled::is_name(name) => {
                    let settled = Settled::of(node, of).into_iter().find(|settled| settled.name() == name);
                    settled.map(Wanted::Settled)
                }
                ResourceType::Listener | ResourceType::WorkloadPolicy | ResourceType::TrustRoots => None,
                ResourceType::Cluster | ResourceType::Endpoints => Wanted::by_name(of, name, Terms::Envoy, own),
            },
        }
    }

    fn by_name(of: ResourceType, name: &str, terms: Terms, own: &Label) -> Option<Wanted> {
        let wanted = match of {
            ResourceType::Cluster => Wanted::Cluster(terms, canonical(name)?),
            ResourceType::Endpoints => Wanted::Endpoints(terms, canonical(name)?),
            ResourceType::Listener => Wanted::Listener(canonical(name)?, own.clone()),
            // What holds for the consumers of another namespace is that one's business.
            ResourceType::Route => match canonical::<RouteName>(name)? {
                RouteName {
                    consumers: Consumers::Namespace(other),
                    ..
                } if other != *own => return None,
                name => Wanted::Route(terms, name),
            },
            // Weir proxies' alone, and nobody's in particular.
            ResourceType::WorkloadPolicy | ResourceType::TrustRoots => return None,
        };
        Some(wanted)
    }

    /// The services it is about.
    pub(crate) fn services(&self) -> Services<'_> {
        match self {
            Wanted::Cluster(_, name) | Wanted::Endpoints(_, name) => Services::One(&name.service),
            Wanted::Listener(name, _) | Wanted::ApiListener { name, .. } => Services::One(&name.service),
            Wanted::Route(_, name) => Services::One(&name.cluster.service),
            Wanted::Outbound(scope) => scope.services.as_ref().map_or(Services::All, Services::Some),
            Wanted::Settled(_) | Wanted::WorkloadPolicy(_) | Wanted::TrustRoots(..) => Services::None,
        }
    }

    /// What a client subscribes to for it.
    pub(crate) fn subscription(&self) -> (ResourceType, String) {
        match self {
            Wanted::Cluster(_, name) => (ResourceType::Cluster, name.to_string()),
            Wanted::Endpoints(_, name) => (ResourceType::Endpoints, name.to_string()),
            Wanted::Listener(name, _) => (ResourceType::Listener, name.to_string()),
            Wanted::ApiListener { called, .. } => (ResourceType::Listener, called.clone()),
            Wanted::Route(_, name) => (ResourceType::Route, name.to_string()),
            Wanted::Outbound(_) => (ResourceType::Route, OUTBOUND.to_owned()),
            Wanted::Settled(settled) => (settled.of_type(), settled.name()),
            Wanted::WorkloadPolicy(name) => (ResourceType::WorkloadPolicy, name.to_string()),
            Wanted::TrustRoots(_, name) => (ResourceType::TrustRoots, name.to_string()),
        }
    }

    /// Whether a change to this part of one of its services may change it.
    pub(crate) fn depends_on(&self, part: Part) -> bool {
        match (part, self) {
            (Part::Whole, _)
            | (
                Part::Routes,
                Wanted::Listener(..) | Wanted::ApiListener { .. } | Wanted::Route(..) | Wanted::Outbound(_),
            )
            | (Part::Clusters, Wanted::Cluster(..))
            // It says who the endpoints are.
            | (Part::Endpoints, Wanted::Cluster(Terms::GrpcByTls, _))
            | (Part::Endpoints, Wanted::Endpoints(..)) => true,
            (Part::Routes | Part::Clusters | Part::Endpoints, _) => false,
        }
    }
}

impl Settled {
    /// All that a node decides, of one type.
    pub(crate) fn of(node: &EnvoyNode, of: ResourceType) -> Vec<Settled> {
        let calls = node.services.as_ref().is_none_or(|services| !services.is_empty());
        let outbound = calls.then_some(Settled::OutboundListener(node.outbound));
        let ports = node.inbound.iter();
        match of {
            ResourceType::Listener => {
                let inbound = ports.map(|(listen, port)| Settled::InboundListener(*listen, *port));
                outbound.into_iter().chain(inbound).collect()
            }
            ResourceType::Cluster => ports.map(|(_, port)| Settled::InboundCluster(*port)).collect(),
            ResourceType::Endpoints | ResourceType::Route | ResourceType::WorkloadPolicy | ResourceType::TrustRoots => {
                Vec::new()
            }
        }
    }

    /// What an Envoy knows it by.
    pub(crate) fn name(&self) -> String {
        match self {
            Settled::OutboundListener(_) => OUTBOUND.to_owned(),
            Settled::InboundListener(listen, _) => encode::envoy::inbound_name(*listen),
            Settled::InboundCluster(port) => encode::envoy::inbound_cluster_name(*port),
        }
    }

    /// Whether a name is of this kind; none of a service's resources is.
    fn is_name(name: &str) -> bool {
        name == OUTBOUND || name.starts_with(INBOUND)
    }

    fn of_type(&self) -> ResourceType {
        match self {
            Settled::OutboundListener(_) | Settled::InboundListener(..) => ResourceType::Listener,
            Settled::InboundCluster(_) => ResourceType::Cluster,
        }
    }

    fn message(&self) -> Any {
        match self {
            Settled::OutboundListener(listen) => encode::envoy::outbound_listener(*listen),
            Settled::InboundListener(listen, port) => encode::envoy::inbound_listener(*listen, *port),
            Settled::InboundCluster(port) => encode::envoy::inbound_cluster(*port),
        }
    }
}

/// A resource as it is sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Computed {
    /// The message, and a hash of it: the same before and after a restart of the control plane. `None`: there is
    /// nothing to be sent.
    pub(crate) message: Option<(Any, Version)>,
    /// See [`Compiled::sources`].
    pub(crate) sources: Vec<(Key, i64)>,
    /// What of its sources this client can't be told: whose, and what.
    pub(crate) not_sent: Vec<(Key, String)>,
}

/// Computes one resource, but [`Wanted::Outbound`], which a [`Table`] keeps.
pub(crate) fn computed(wanted: &Wanted, index: &Index) -> Computed {
    let computed = match wanted {
        Wanted::Cluster(terms, name) => cluster(name, index).map(|compiled| {
            let cluster = &compiled.resource;
            match terms {
                Terms::Weir => whole(encode::cluster(cluster), compiled.sources),
                Terms::Grpc => said_or_not(
                    encode::grpc::cluster(cluster, &BTreeSet::new()),
                    compiled.sources,
                    index,
                ),
                Terms::GrpcByTls => {
                    let peers = endpoints::endpoints(name, index).map(|compiled| identities(&compiled.resource));
                    let sent = encode::grpc::cluster(cluster, &peers.unwrap_or_default());
                    said_or_not(sent, compiled.sources, index)
                }
                Terms::Envoy => said_or_not(encode::envoy::cluster(cluster), compiled.sources, index),
            }
        }),
        Wanted::Endpoints(terms, name) => endpoints::endpoints(name, index).map(|Compiled { resource, sources }| {
            let (message, not_sent) = match terms {
                Terms::Weir => return whole(encode::endpoints(&resource), sources),
                Terms::GrpcByTls if resource.endpoints.iter().any(has_identity) => {
                    let (reached, left_out) = by_tls(resource);
                    (encode::grpc::endpoints(&reached), left_out)
                }
                Terms::Grpc | Terms::GrpcByTls => {
                    let closed = closed_to_cleartext(&resource, index);
                    (encode::grpc::endpoints(&resource), closed)
                }
                Terms::Envoy => {
                    let closed = closed_to_cleartext(&resource, index);
                    (encode::envoy::endpoints(&resource), closed)
                }
            };
            let not_sent = not_sent.into_iter().collect();
            said(Sent { message, not_sent }, sources, index)
        }),
        Wanted::Listener(name, client) => {
            listener(name, client, index).map(|compiled| whole(encode::listener(&compiled.resource), compiled.sources))
        }
        Wanted::ApiListener { called, name, client } => listener(name, client, index).map(|compiled| {
            said_or_not(
                encode::grpc::listener(&compiled.resource, called),
                compiled.sources,
                index,
            )
        }),
        Wanted::Route(terms, name) => routes::route_config(name, index).map(|Compiled { resource, sources }| {
            match terms {
                Terms::Grpc | Terms::GrpcByTls => said(encode::grpc::route_config(&resource), sources, index),
                // An Envoy has one route configuration, which is no service's.
                Terms::Weir | Terms::Envoy => whole(encode::route_config(&resource), sources),
            }
        }),
        Wanted::Outbound(scope) => Some(Table::new(scope.clone(), index).computed(index)),
        Wanted::Settled(settled) => Some(whole(settled.message(), Vec::new())),
        Wanted::WorkloadPolicy(name) => {
            let Compiled { resource, sources } = workload_policy(name, index);
            Some(whole(encode::workload_policy(&resource), sources))
        }
        Wanted::TrustRoots(terms, name) => index.roots().map(|pem| {
            let Compiled {
                resource: others,
                sources,
            } = match terms {
                Terms::Weir => trust_domains::others(index),
                // In the published terms, as a file of roots would have them.
                Terms::Grpc | Terms::GrpcByTls | Terms::Envoy => Compiled::default(),
            };
            let roots = TrustRoots {
                name: *name,
                pem: pem.to_owned(),
                others,
            };
            whole(encode::trust_roots(&roots), sources)
        }),
    };
    computed.unwrap_or_default()
}

/// A message that says everything.
pub(super) fn whole(message: Any, sources: Vec<(Key, i64)>) -> Computed {
    Computed {
        message: Some((message.clone(), Version::of(&message.value))),
        sources,
        ..Computed::default()
    }
}

fn said(sent: Sent, sources: Vec<(Key, i64)>, index: &Index) -> Computed {
    let Sent { message, not_sent } = sent;
    let not_sent = attributed(not_sent, &sources, index);
    Computed {
        not_sent,
        ..whole(message, sources)
    }
}

fn said_or_not(sent: Result<Sent, NotSent>, sources: Vec<(Key, i64)>, index: &Index) -> Computed {
    match sent {
        Ok(sent) => said(sent, sources, index),
        Err(not_sent) => Computed {
            not_sent: attributed(vec![not_sent], &sources, index),
            sources,
            ..Computed::default()
        },
    }
}

fn has_identity(endpoint: &Endpoint) -> bool {
    endpoint.identity.is_some()
}

/// Who the endpoints of a cluster are.
fn identities(endpoints: &ClusterEndpoints) -> BTreeSet<Arc<SpiffeId>> {
    let all = endpoints.endpoints.iter();
    all.filter_map(|endpoint| endpoint.identity.clone()).collect()
}

/// The endpoints that have an identity: a gRPC client goes to all of a cluster by TLS, or to none (gRFC A29). And what
/// it is not told therefore.
fn by_tls(resource: ClusterEndpoints) -> (ClusterEndpoints, Option<NotSent>) {
    let all = resource.endpoints.len();
    let ClusterEndpoints { cluster, endpoints } = resource;
    let endpoints: Vec<Endpoint> = endpoints.into_iter().filter(has_identity).collect();
    let without = all - endpoints.len();
    let left_out = (without > 0).then(|| NotSent {
        place: Place::MutualTls,
        problem: format!(
            "is not for {without} of {all} endpoints of {cluster}, which have no certificate: a gRPC client that calls \
             the others by TLS does not call these"
        ),
    });
    (ClusterEndpoints { cluster, endpoints }, left_out)
}

/// What a client without a certificate can't do with endpoints: get in where only mutual TLS does.
fn closed_to_cleartext(resource: &ClusterEndpoints, index: &Index) -> Option<NotSent> {
    let closed = endpoints::strict(resource, index);
    let all = resource.endpoints.len();
    (closed > 0).then(|| NotSent {
        place: Place::MutualTls,
        problem: format!(
            "shuts such a client, which has no certificate, out of {closed} of {all} endpoints of {}",
            resource.cluster
        ),
    })
}

/// Whose it is that is not sent. A default that nobody asked for is nobody's.
pub(super) fn attributed(not_sent: Vec<NotSent>, sources: &[(Key, i64)], index: &Index) -> Vec<(Key, String)> {
    let keys = || sources.iter().map(|(key, _)| key);
    let route = |name: &str| {
        let object = name.split_once('#').map_or(name, |(object, _)| object);
        keys().find(|key| key.to_string() == object).cloned()
    };
    let owner = |not_sent: &NotSent| match &not_sent.place {
        Place::Route(name) => route(name),
        Place::RouteField(name, field) => {
            let policy = route_policies::holder(name, sources, index);
            let policy = policy.filter(|policy| sets(policy.spec, *field));
            policy.map(|policy| policy.object.key()).or_else(|| route(name))
        }
        Place::Protocol => keys().find(|key| key.kind == Kind::Service).cloned(),
        Place::BackendTls => keys().find(|key| key.kind == Kind::BackendTlsPolicy).cloned(),
        Place::MutualTls => keys().find(|key| key.kind == Kind::MeshConfig).cloned(),
        Place::Policy(field) => {
            let mut keys = keys();
            let policy = keys.find(|key| {
                let object = index.objects().get(key);
                object.is_some_and(|object| match &object.spec {
                    Spec::BackendPolicy(spec) => asks_for(spec, *field),
                    _ => false,
                })
            });
            policy.cloned()
        }
    };
    let owned = not_sent.iter().filter_map(|one| Some((owner(one)?, one.to_string())));
    owned.collect()
}

fn sets(policy: &RoutePolicySpec, field: RouteField) -> bool {
    match field {
        RouteField::Retry => policy.retry.is_some(),
        RouteField::RateLimit => policy.rate_limit.is_some(),
        RouteField::Fault => policy.fault.is_some(),
        RouteField::Priority => policy.priority.is_some(),
        RouteField::Mirror => policy.mirror.is_some(),
    }
}

fn asks_for(policy: &BackendPolicySpec, field: PolicyField) -> bool {
    match field {
        PolicyField::Balancing => policy.balancing.is_some(),
        PolicyField::ConnectTimeout => policy.connect_timeout.is_some(),
        PolicyField::MaxConnections | PolicyField::MaxPendingRequests | PolicyField::Failures => {
            policy.circuit_breaker.is_some()
        }
        PolicyField::OutlierDetection => policy.outlier_detection.is_some(),
        PolicyField::HealthCheck => policy.health_check.is_some(),
        PolicyField::SlowStart => policy.slow_start.is_some(),
        PolicyField::Locality => policy.locality.is_some(),
        PolicyField::ConnectionPool | PolicyField::MaxConcurrentStreams => policy.connection_pool.is_some(),
        PolicyField::PanicPercent => policy.panic_percent.is_some(),
        PolicyField::RetryBudget => policy.retry_budget.is_some(),
    }
}

fn canonical<T: FromStr + fmt::Display>(text: &str) -> Option<T> {
    let read: T = text.parse().ok()?;
    (read.to_string() == text).then_some(read)
}

#[cfg(test)]
mod tests {
    use weir_policy::model::Locality;

    use super::*;

    fn client(dialect: Dialect) -> ClientIdentity {
        ClientIdentity {
            workload: "citizen/a".parse().expect("a workload"),
            locality: Locality::default(),
            version: String::new(),
            dialect,
        }
    }

    #[test]
    fn only_the_canonical_spelling_of_a_name_is_one() {
        let read = |of, name: &str| Wanted::read(of, name, &client(Dialect::Weir)).is_some();
        assert!(read(ResourceType::Cluster, "portal.citizen:80"));
        assert!(read(ResourceType::Route, "portal.citizen:80/*"));
        assert!(read(ResourceType::Listener, "portal.citizen.svc.cluster.local"));
        for name in [
            "",
            "*",
            "portal.citizen:080",
            "Portal.citizen:80",
            "portal:80",
            "portal.citizen:80 ",
        ] {
            assert!(!read(ResourceType::Cluster, name), "{name}");
        }
    }

    #[test]
    fn consumer_routes_are_told_to_their_own_namespace_alone() {
        for dialect in [Dialect::Weir, Dialect::Grpc(GrpcSecurity::Cleartext)] {
            let read = |name: &str| Wanted::read(ResourceType::Route, name, &client(dialect.clone())).is_some();
            assert!(read("portal.police:80/citizen") && read("portal.police:80/*"));
            assert!(!read("portal.police:80/police"));
        }
    }

    #[test]
    fn a_policy_is_told_to_the_workloads_own_weir_proxy_alone() {
        let read = |name: &str, dialect| Wanted::read(ResourceType::WorkloadPolicy, name, &client(dialect));
        let own = Wanted::WorkloadPolicy("citizen/a".parse().expect("a workload"));
        assert_eq!(read("citizen/a", Dialect::Weir), Some(own));
        for other in ["citizen/b", "police/a", "a", ""] {
            assert_eq!(read(other, Dialect::Weir), None, "{other}");
        }
        assert_eq!(read("citizen/a", Dialect::Grpc(GrpcSecurity::Cleartext)), None);
        assert_eq!(read("citizen/a", Dialect::Envoy(EnvoyNode::default())), None);
    }

    #[test]
    fn a_grpc_client_is_answered_under_the_name_it_used() {
        for name in ["portal:80", "portal.citizen:80", "portal.citizen.svc.cluster.local:80"] {
            let wanted = Wanted::read(
                ResourceType::Listener,
                name,
                &client(Dialect::Grpc(GrpcSecurity::Cleartext)),
            );
            let wanted = wanted.expect("a service of the mesh");
            assert_eq!(wanted.subscription(), (ResourceType::Listener, name.to_owned()));
        }
        let elsewhere = Wanted::read(
            ResourceType::Listener,
            "example.org.uk",
            &client(Dialect::Grpc(GrpcSecurity::Cleartext)),
        );
        assert_eq!(elsewhere, None);
    }

    #[test]
    fn an_envoy_finds_again_what_its_node_decides() {
        let port = InboundPort {
            app: std::num::NonZeroU16::new(8080).expect("not zero"),
            protocol: weir_xds::InboundProtocol::Http1,
        };
        let node = EnvoyNode {
            inbound: [("0.0.0.0:15006".parse().expect("an address"), port)].into(),
            ..EnvoyNode::default()
        };
        let envoy = client(Dialect::Envoy(node.clone()));
        for of in [ResourceType::Listener, ResourceType::Cluster] {
            for settled in Settled::of(&node, of) {
                assert_eq!(
                    Wanted::read(of, &settled.name(), &envoy),
                    Some(Wanted::Settled(settled))
                );
            }
        }
        let others = client(Dialect::Envoy(EnvoyNode::default()));
        let name = encode::envoy::inbound_cluster_name(port);
        assert_eq!(Wanted::read(ResourceType::Cluster, &name, &others), None);
        let silent = EnvoyNode {
            services: Some(BTreeSet::new()),
            ..EnvoyNode::default()
        };
        assert_eq!(Settled::of(&silent, ResourceType::Listener), [], "its app calls nobody");
    }
}
