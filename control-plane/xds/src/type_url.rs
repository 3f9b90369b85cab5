//! The types of resource that Weir's control plane hands out.

use std::fmt;

/// A type of xDS resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceType {
    /// A cluster (CDS).
    Cluster,
    /// A cluster's endpoints (EDS).
    Endpoints,
    /// A listener (LDS).
    Listener,
    /// A route configuration (RDS).
    Route,
    /// What holds for a workload's own proxy. Weir's own type.
    WorkloadPolicy,
    /// The roots that everybody trusts (SDS).
    TrustRoots,
}

impl ResourceType {
    /// Every type, in the order in which changes are sent so that nothing refers to what has not arrived: make before
    /// break (xDS protocol, "Eventual consistency considerations").
    pub const ALL: [ResourceType; 6] = [
        ResourceType::Cluster,
        ResourceType::Endpoints,
        ResourceType::Listener,
        ResourceType::Route,
        ResourceType::WorkloadPolicy,
        ResourceType::TrustRoots,
    ];

    /// The type's URL, as in requests, responses and `Any`.
    pub fn url(self) -> &'static str {
        match self {
            ResourceType::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            ResourceType::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            ResourceType::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            ResourceType::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            ResourceType::WorkloadPolicy => "type.googleapis.com/weir.v1.WorkloadPolicy",
            ResourceType::TrustRoots => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        }
    }

    /// The type with this URL; `None`: one that Weir does not hand out.
    pub fn from_url(url: &str) -> Option<Self> {
        ResourceType::ALL.into_iter().find(|kind| kind.url() == url)
    }
}

/// For people: `listener`, `route`, `cluster`, `endpoints`, `policy`, `roots`.
impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ResourceType::Cluster => "cluster",
            ResourceType::Endpoints => "endpoints",
            ResourceType::Listener => "listener",
            ResourceType::Route => "route",
            ResourceType::WorkloadPolicy => "policy",
            ResourceType::TrustRoots => "roots",
        })
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::cluster::v3::Cluster;
    use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
    use envoy_types::pb::envoy::config::listener::v3::Listener;
    use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
    use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
    use prost::Name;

    use super::*;
    use crate::v1;

    #[test]
    fn urls_are_those_of_the_messages() {
        for kind in ResourceType::ALL {
            let url = match kind {
                ResourceType::Cluster => Cluster::type_url(),
                ResourceType::Endpoints => ClusterLoadAssignment::type_url(),
                ResourceType::Listener => Listener::type_url(),
                ResourceType::Route => RouteConfiguration::type_url(),
                ResourceType::WorkloadPolicy => v1::WorkloadPolicy::type_url(),
                ResourceType::TrustRoots => Secret::type_url(),
            };
            assert_eq!(kind.url(), url);
            assert_eq!(ResourceType::from_url(&url), Some(kind));
        }
        assert_eq!(ResourceType::from_url("envoy.config.cluster.v3.Cluster"), None);
    }
}
