//! EndpointSlice: the only source of endpoints.

use std::net::IpAddr;
use std::num::NonZeroU16;

use serde::Serialize;

use crate::service::{AppProtocol, TransportProtocol};

/// Endpoints of one Service, which the label [`crate::service::SERVICE_NAME_LABEL`] names. The fields stand at the
/// top of the resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSliceBody {
    /// The family of its addresses.
    pub address_type: AddressType,
    /// Its endpoints, at most 1000.
    pub endpoints: Vec<SliceEndpoint>,
    /// The ports that each of its endpoints has, at most 100; names are unique.
    pub ports: Vec<SlicePort>,
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum AddressType {
    /// IPv4
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6
    #[serde(rename = "IPv6")]
    V6,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SliceEndpoint {
    /// Its addresses, 1 to 100, of the slice's family; they are the same endpoint, and the first is used (Kubernetes
    /// says of further ones that consumers may ignore them).
    pub addresses: Vec<IpAddr>,
    /// Whether requests may go there.
    pub conditions: Conditions,
    /// Its host's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The node it runs on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// The zone it runs in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The Workload or Pod behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetRef>,
}

/// Whether requests may go to an endpoint; `None`: unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Conditions {
    /// It takes new requests; unknown counts as yes (Kubernetes, EndpointConditions).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// It answers; unknown counts as `ready`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving: Option<bool>,
    /// It is ending; unknown counts as no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating: Option<bool>,
}

/// What stands behind an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TargetRef {
    /// Its kind: `Workload`, `Pod`.
    pub kind: String,
    /// Its namespace; default: the slice's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

/// A port that each endpoint of a slice has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SlicePort {
    /// The name of the Service's port it stands behind; empty if that has none.
    pub name: String,
    /// Where it listens.
    pub port: NonZeroU16,
    /// Always TCP.
    pub protocol: TransportProtocol,
    /// What is spoken there; default: as the Service says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<AppProtocol>,
}
