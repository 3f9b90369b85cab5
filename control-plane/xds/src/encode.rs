//! From the model to the published messages.

use envoy_types::pb::google::protobuf::Any;
use weir_policy::model;

/// A listener, as `envoy.config.listener.v3.Listener` with an API listener.
pub fn listener(listener: &model::Listener) -> Any {
    let _ = listener;
    todo!()
}

/// A route configuration, as `envoy.config.route.v3.RouteConfiguration`.
pub fn route_config(config: &model::RouteConfig) -> Any {
    let _ = config;
    todo!()
}

/// A cluster, as `envoy.config.cluster.v3.Cluster`.
pub fn cluster(cluster: &model::Cluster) -> Any {
    let _ = cluster;
    todo!()
}

/// A cluster's endpoints, as `envoy.config.endpoint.v3.ClusterLoadAssignment`.
pub fn endpoints(endpoints: &model::ClusterEndpoints) -> Any {
    let _ = endpoints;
    todo!()
}
