//! From the published messages to the model, strictly: each message is taken apart whole, and what would not be
//! honoured (a field without effect, an unknown type or value, a value out of range) is refused with its place. A
//! condition that is dropped is an open door.
//!
//! What a message leaves unset means what its published documentation says, where the model can say that.

#![allow(deprecated, reason = "a field is refused when set, deprecated or not")]

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::google::protobuf::Any;
use prost::{Message, Name};
use weir_policy::model;

use crate::rejection::Rejection;
use crate::type_url::ResourceType;

use at::{At, Fault};

mod at;
mod backend_tls;
mod checks;
mod cluster;
mod cors;
mod endpoints;
mod filters;
mod forward;
mod headers;
mod health_check;
mod hosts;
mod lb_config;
pub mod lenient;
mod listener;
mod matches;
mod outlier;
mod redirect;
mod rewrite;
mod route;
mod trust_roots;
mod workload_policy;

/// What a resource says, in the model's terms.
#[derive(Clone, Debug, PartialEq)]
pub enum Resource {
    /// A listener.
    Listener(model::Listener),
    /// A route configuration.
    Route(model::RouteConfig),
    /// A cluster.
    Cluster(Box<model::Cluster>),
    /// A cluster's endpoints.
    Endpoints(model::ClusterEndpoints),
    /// What holds for a workload's own proxy.
    WorkloadPolicy(model::WorkloadPolicy),
    /// The roots that everybody trusts.
    TrustRoots(model::TrustRoots),
}

impl Resource {
    /// The resource's type.
    pub fn kind(&self) -> ResourceType {
        match self {
            Resource::Listener(_) => ResourceType::Listener,
            Resource::Route(_) => ResourceType::Route,
            Resource::Cluster(_) => ResourceType::Cluster,
            Resource::Endpoints(_) => ResourceType::Endpoints,
            Resource::WorkloadPolicy(_) => ResourceType::WorkloadPolicy,
            Resource::TrustRoots(_) => ResourceType::TrustRoots,
        }
    }

    /// The resource's name, as it is subscribed to.
    pub fn name(&self) -> String {
        match self {
            Resource::Listener(listener) => listener.name.to_string(),
            Resource::Route(config) => config.name.to_string(),
            Resource::Cluster(cluster) => cluster.name.to_string(),
            Resource::Endpoints(endpoints) => endpoints.cluster.to_string(),
            Resource::WorkloadPolicy(policy) => policy.workload.to_string(),
            Resource::TrustRoots(roots) => roots.name.to_string(),
        }
    }
}

/// Reads a resource that was handed out as `name`.
///
/// # Errors
/// As the function of its type; also when it names itself otherwise. The rejection always has this name.
pub fn decode(kind: ResourceType, name: &str, any: &Any) -> Result<Resource, Rejection> {
    let read = match kind {
        ResourceType::Listener => listener(any).map(Resource::Listener),
        ResourceType::Route => route_config(any).map(Resource::Route),
        ResourceType::Cluster => cluster(any).map(Box::new).map(Resource::Cluster),
        ResourceType::Endpoints => endpoints(any).map(Resource::Endpoints),
        ResourceType::WorkloadPolicy => workload_policy(any).map(Resource::WorkloadPolicy),
        ResourceType::TrustRoots => trust_roots(any).map(Resource::TrustRoots),
    };
    let resource = read.map_err(|rejection| Rejection {
        name: name.to_owned(),
        ..rejection
    })?;
    checks::equal(&At::ROOT.field(name_field(kind)), &resource.name(), name)
        .map_err(|fault| rejection(kind, name, fault))?;
    Ok(resource)
}

/// Reads a listener.
///
/// # Errors
/// At the first thing in it that would not be honoured.
pub fn listener(any: &Any) -> Result<model::Listener, Rejection> {
    read(ResourceType::Listener, any, |message| &message.name, listener::listener)
}

/// Reads a route configuration.
///
/// # Errors
/// At the first thing in it that would not be honoured. Whether its regular expressions compile is not looked at.
pub fn route_config(any: &Any) -> Result<model::RouteConfig, Rejection> {
    type Wire = envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
    read(
        ResourceType::Route,
        any,
        |message: &Wire| &message.name,
        |at, message| {
            let configuration = route::configuration(at, message)?;
            Ok(model::RouteConfig {
                name: checks::name(&at.field("name"), &configuration.name)?,
                virtual_hosts: configuration.virtual_hosts,
            })
        },
    )
}

/// Reads a cluster.
///
/// # Errors
/// At the first thing in it that would not be honoured.
pub fn cluster(any: &Any) -> Result<model::Cluster, Rejection> {
    read(ResourceType::Cluster, any, |message| &message.name, cluster::cluster)
}

/// Reads a cluster's endpoints; they are sorted by locality (region, zone, site), then by address.
///
/// # Errors
/// At the first thing in it that would not be honoured.
pub fn endpoints(any: &Any) -> Result<model::ClusterEndpoints, Rejection> {
    read(
        ResourceType::Endpoints,
        any,
        |message| &message.cluster_name,
        endpoints::cluster_endpoints,
    )
}

/// Reads what holds for a workload's own proxy.
///
/// # Errors
/// At the first thing in it that would not be honoured.
pub fn workload_policy(any: &Any) -> Result<model::WorkloadPolicy, Rejection> {
    read(
        ResourceType::WorkloadPolicy,
        any,
        |message| &message.name,
        workload_policy::workload_policy,
    )
}

/// Whether a cluster's message asks for TLS with its endpoints, or for whatever else goes around the bytes, be the rest
/// of it right or wrong. Of what is no message nothing is known.
pub fn asks_for_tls(any: &Any) -> bool {
    let read = Cluster::decode(any.value.as_slice());
    read.is_ok_and(|cluster| cluster.transport_socket.is_some() || !cluster.transport_socket_matches.is_empty())
}

/// Reads the roots that everybody trusts. Whether they are certificates is not looked at.
///
/// # Errors
/// At the first thing in it that would not be honoured.
pub fn trust_roots(any: &Any) -> Result<model::TrustRoots, Rejection> {
    read(
        ResourceType::TrustRoots,
        any,
        |message| &message.name,
        trust_roots::trust_roots,
    )
}

fn read<M: Message + Name + Default, T>(
    kind: ResourceType,
    any: &Any,
    name: fn(&M) -> &String,
    convert: impl FnOnce(&At<'_>, M) -> Result<T, Fault>,
) -> Result<T, Rejection> {
    let message = checks::unpack::<M>(&At::ROOT, any, kind.url()).map_err(|fault| rejection(kind, "", fault))?;
    let name = name(&message).clone();
    convert(&At::ROOT, message).map_err(|fault| rejection(kind, &name, fault))
}

fn rejection(resource: ResourceType, name: &str, fault: Fault) -> Rejection {
    let Fault { path, held, problem } = fault;
    Rejection {
        resource,
        name: name.to_owned(),
        path,
        held,
        problem,
    }
}

fn name_field(kind: ResourceType) -> &'static str {
    match kind {
        ResourceType::Listener
        | ResourceType::Route
        | ResourceType::Cluster
        | ResourceType::WorkloadPolicy
        | ResourceType::TrustRoots => "name",
        ResourceType::Endpoints => "cluster_name",
    }
}
