//! Weir's wire: protos, and both conversions between them and the model.
//!
//! [`encode`] turns the model into the published `envoy.*` messages, [`decode`] turns them back and refuses whatever
//! it would not honour, naming the place. What the published messages can't say travels as `weir.v1` messages in
//! typed metadata under `weir.dev`; a client that does not know these still has a working standard configuration.
//!
//! **Invariant:** `decode(encode(x)) == x` for every model value that [`decode`] would accept, up to the canonical
//! forms that [`encode`] names.

pub mod decode;
pub mod encode;
mod envoy_node;
mod meaning;
pub mod node;
pub mod pem;
mod rejection;
mod type_url;

pub use envoy_node::{EnvoyNode, EnvoyNodeError, InboundPort, InboundProtocol};
pub use rejection::{Problem, Rejection};
pub use type_url::ResourceType;

/// Weir's own messages and services, generated from `proto/weir/v1`.
#[allow(missing_docs, clippy::all)]
pub mod v1 {
    tonic::include_proto!("weir.v1");
}

/// Istio's certificate service, generated from `proto/istio/v1/auth`.
#[allow(missing_docs, clippy::all)]
pub mod istio {
    tonic::include_proto!("istio.v1.auth");
}

/// How long a join token may be, in bytes: beside names and labels of the longest it has room for thirty roots. It
/// travels in a header, and all headers of a request have 16 KiB.
pub const JOIN_TOKEN_BYTES_MAX: usize = 12 * 1024;

/// The published messages and services that other crates of Weir touch.
pub mod envoy {
    pub use envoy_types::pb::envoy::config::core::v3::{ControlPlane, Locality, Node};
    pub use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
    pub use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
        AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
    };
    pub use envoy_types::pb::envoy::service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
    };
    pub use envoy_types::pb::google::protobuf::{Any, Duration};
    pub use envoy_types::pb::google::rpc::Status;
}
