//! Service: a name with ports.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use serde::{Serialize, Serializer};

/// The label of an EndpointSlice that names its Service (Kubernetes, EndpointSlice "Ownership").
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// A name with ports, and which workloads stand behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    /// Labels that a workload must have to stand behind the service; empty: EndpointSlices are written by hand.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub selector: BTreeMap<String, String>,
    /// Its ports, at least one; number and name are unique. Named if there are several.
    pub ports: Vec<ServicePort>,
    /// Always `ClusterIP`.
    #[serde(rename = "type")]
    pub service_type: ServiceType,
    /// Kept as given: empty or `None` (a virtual address is not needed: the mesh routes by name).
    #[serde(rename = "clusterIP", skip_serializing_if = "Option::is_none")]
    pub cluster_ip: Option<ClusterIp>,
    /// Kept as given.
    #[serde(rename = "clusterIPs", skip_serializing_if = "Vec::is_empty")]
    pub cluster_ips: Vec<ClusterIp>,
    /// Kept as given; without effect: endpoints say their own family.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ip_families: Vec<IpFamily>,
    /// Kept as given; without effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_family_policy: Option<IpFamilyPolicy>,
    /// Kept as given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_affinity: Option<SessionAffinity>,
    /// Kept as given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub internal_traffic_policy: Option<InternalTrafficPolicy>,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Its name; needed if the service has several ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Always TCP.
    pub protocol: TransportProtocol,
    /// Its number, as callers name it.
    pub port: NonZeroU16,
    /// The workload's port behind it; default: `port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_port: Option<TargetPort>,
    /// What the app speaks there; default: HTTP/1.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<AppProtocol>,
}

/// A workload's app port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(untagged)]
pub enum TargetPort {
    /// By number.
    Number(NonZeroU16),
    /// By name.
    Name(String),
}

/// What an app speaks on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AppProtocol {
    /// HTTP/1.1: `http`.
    Http1,
    /// HTTP/2 in cleartext by prior knowledge: `kubernetes.io/h2c`.
    Http2,
    /// gRPC: `grpc`.
    Grpc,
}

impl AppProtocol {
    /// Every one.
    pub const ALL: &[AppProtocol] = &[AppProtocol::Http1, AppProtocol::Http2, AppProtocol::Grpc];

    /// As it stands in `appProtocol`.
    pub fn as_str(self) -> &'static str {
        match self {
            AppProtocol::Http1 => "http",
            AppProtocol::Http2 => "kubernetes.io/h2c",
            AppProtocol::Grpc => "grpc",
        }
    }
}

impl Serialize for AppProtocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum TransportProtocol {
    /// TCP.
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
}

/// How a service is reached from outside: not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum ServiceType {
    /// Only from inside.
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
}

/// What `clusterIP` may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum ClusterIp {
    /// Empty: left to the control plane, which gives none.
    #[serde(rename = "")]
    Unset,
    /// Headless.
    None,
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum IpFamily {
    /// IPv4
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6
    #[serde(rename = "IPv6")]
    V6,
}

/// How many families of addresses a service has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum IpFamilyPolicy {
    /// One.
    SingleStack,
    /// Two if there are.
    PreferDualStack,
    /// Two.
    RequireDualStack,
}

/// Whether one caller stays at one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum SessionAffinity {
    /// No.
    None,
}

/// Which endpoints traffic from inside goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum InternalTrafficPolicy {
    /// All.
    Cluster,
}
