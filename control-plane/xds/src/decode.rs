//! From the published messages to the model, strictly.

use envoy_types::pb::google::protobuf::Any;
use weir_policy::model;

use crate::{Rejection, ResourceType};

/// What a resource says, in the model's terms.
#[derive(Clone, Debug, PartialEq)]
pub enum Resource {
    /// A listener.
    Listener(model::Listener),
    /// A route configuration.
    Route(model::RouteConfig),
    /// A cluster.
    Cluster(model::Cluster),
    /// A cluster's endpoints.
    Endpoints(model::ClusterEndpoints),
}

/// Reads a resource that was handed out as `name`.
///
/// # Errors
/// As the function of its type; also when the resource has another name.
pub fn decode(kind: ResourceType, name: &str, any: &Any) -> Result<Resource, Rejection> {
    let _ = name;
    match kind {
        ResourceType::Listener => listener(any).map(Resource::Listener),
        ResourceType::Route => route_config(any).map(Resource::Route),
        ResourceType::Cluster => cluster(any).map(Resource::Cluster),
        ResourceType::Endpoints => endpoints(any).map(Resource::Endpoints),
    }
}

/// Reads a listener.
///
/// # Errors
/// When anything in it would not be honoured.
pub fn listener(any: &Any) -> Result<model::Listener, Rejection> {
    let _ = any;
    todo!()
}

/// Reads a route configuration.
///
/// # Errors
/// When anything in it would not be honoured.
pub fn route_config(any: &Any) -> Result<model::RouteConfig, Rejection> {
    let _ = any;
    todo!()
}

/// Reads a cluster.
///
/// # Errors
/// When anything in it would not be honoured.
pub fn cluster(any: &Any) -> Result<model::Cluster, Rejection> {
    let _ = any;
    todo!()
}

/// Reads a cluster's endpoints; they are sorted by locality, then by address.
///
/// # Errors
/// When anything in it would not be honoured.
pub fn endpoints(any: &Any) -> Result<model::ClusterEndpoints, Rejection> {
    let _ = any;
    todo!()
}
