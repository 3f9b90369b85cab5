//! Service: a name with ports.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use crate::decode::{Errors, Node, port};
use crate::names;
use crate::object::{LABELS_MAX, read_labels};
use crate::schema::texts::{Label, LabelOrEmpty, LabelValue};

/// The label of an EndpointSlice that names its Service (Kubernetes, EndpointSlice "Ownership").
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// A name with ports that others call, and which workloads stand behind it.
///
/// Rule: its name is a DNS label: at most 63 characters, no dot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    /// Labels that a workload must have to stand behind the service. Default: none, and EndpointSlices are written by
    /// hand.
    ///
    /// Rule: keys are those of labels: up to 63 letters, digits, '-', '_' and '.', before them a DNS name and '/'.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(
        with = "BTreeMap<String, LabelValue>",
        default,
        extend("maxProperties" = LABELS_MAX, "x-kubernetes-map-type" = "atomic")
    )]
    pub selector: BTreeMap<String, String>,
    /// Its ports.
    ///
    /// Rule: numbers and names occur once; each of several ports has a name.
    #[schemars(
        length(min = 1, max = PORTS_MAX),
        extend(
            "x-kubernetes-list-type" = "map",
            "x-kubernetes-list-map-keys" = ["port", "protocol"],
            "x-kubernetes-patch-merge-key" = "port",
            "x-kubernetes-patch-strategy" = "merge",
        )
    )]
    pub ports: Vec<ServicePort>,
    /// How it is reached.
    #[serde(rename = "type")]
    #[schemars(default)]
    pub service_type: ServiceType,
    /// Kept as given. The mesh routes by name and gives services no addresses.
    #[serde(rename = "clusterIP", skip_serializing_if = "Option::is_none")]
    pub cluster_ip: Option<ClusterIp>,
    /// Kept as given, as `clusterIP` is.
    #[serde(rename = "clusterIPs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(default, length(max = FAMILIES_MAX), extend("x-kubernetes-list-type" = "atomic"))]
    pub cluster_ips: Vec<ClusterIp>,
    /// Kept as given, without effect: endpoints say their own family.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default, length(max = FAMILIES_MAX), extend("x-kubernetes-list-type" = "atomic"))]
    pub ip_families: Vec<IpFamily>,
    /// Kept as given, without effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_family_policy: Option<IpFamilyPolicy>,
    /// Kept as given: the mesh ties no caller to an endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_affinity: Option<SessionAffinity>,
    /// Kept as given: calls go to endpoints on any node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub internal_traffic_policy: Option<InternalTrafficPolicy>,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Its name. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<LabelOrEmpty>")]
    pub name: Option<String>,
    /// The transport protocol.
    #[schemars(default)]
    pub protocol: TransportProtocol,
    /// Its number, as callers name it.
    pub port: NonZeroU16,
    /// The workload's app port behind it. Default: the one with the number of `port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_port: Option<TargetPort>,
    /// What the app speaks there. Default: what the port's name says, or what stands in it before a `-`: `grpc`;
    /// `http2` or `h2c`; TCP for `tcp`, `amqp`, `kafka`, `ldap`, `memcached`, `mongo`, `mongodb`, `mqtt`, `mysql`,
    /// `mssql`, `postgres`, `postgresql` and `redis`; else HTTP/1.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<AppProtocol>,
}

/// A workload's app port, by number or by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(
    rename = "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
    extend("format" = "int-or-string", "x-kubernetes-int-or-string" = true)
)]
pub enum TargetPort {
    /// By number.
    Number(NonZeroU16),
    /// By name.
    Name(#[schemars(with = "Label")] String),
}

/// What an app speaks on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, JsonSchema)]
pub enum AppProtocol {
    /// HTTP/1.1.
    #[schemars(rename = "http")]
    Http1,
    /// HTTP/1.1 that goes on as WebSockets: it is carried as `http` is, where WebSockets are opened as well.
    #[schemars(rename = "kubernetes.io/ws")]
    WebSocket,
    /// HTTP/2 in cleartext by prior knowledge.
    #[schemars(rename = "kubernetes.io/h2c")]
    Http2,
    /// gRPC.
    #[schemars(rename = "grpc")]
    Grpc,
    /// Anything on TCP.
    #[schemars(rename = "tcp")]
    Tcp,
}

impl AppProtocol {
    /// Every one.
    pub const ALL: &[AppProtocol] = &[
        AppProtocol::Http1,
        AppProtocol::WebSocket,
        AppProtocol::Http2,
        AppProtocol::Grpc,
        AppProtocol::Tcp,
    ];

    /// What the name of a port says of it, or what stands in the name before a `-`, as is the custom in meshes; `None`:
    /// nothing.
    pub fn by_name(name: &str) -> Option<AppProtocol> {
        match name.split_once('-').map_or(name, |(first, _)| first) {
            "http" => Some(AppProtocol::Http1),
            "http2" | "h2c" => Some(AppProtocol::Http2),
            "grpc" => Some(AppProtocol::Grpc),
            "tcp" | "amqp" | "kafka" | "ldap" | "memcached" | "mongo" | "mongodb" | "mqtt" | "mysql" | "mssql"
            | "postgres" | "postgresql" | "redis" => Some(AppProtocol::Tcp),
            _ => None,
        }
    }

    /// As it stands in `appProtocol`.
    pub fn as_str(self) -> &'static str {
        match self {
            AppProtocol::Http1 => "http",
            AppProtocol::WebSocket => "kubernetes.io/ws",
            AppProtocol::Http2 => "kubernetes.io/h2c",
            AppProtocol::Grpc => "grpc",
            AppProtocol::Tcp => "tcp",
        }
    }
}

impl Serialize for AppProtocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub enum TransportProtocol {
    /// TCP.
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
}

/// How a service is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub enum ServiceType {
    /// Only from inside the mesh.
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
}

/// What `clusterIP` may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub enum ClusterIp {
    /// Empty: left to the control plane, which gives none.
    #[serde(rename = "")]
    Unset,
    /// No address.
    None,
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub enum IpFamily {
    /// IPv4.
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
}

/// How many families of addresses a service has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub enum IpFamilyPolicy {
    /// One.
    SingleStack,
    /// Two if there are.
    PreferDualStack,
    /// Two.
    RequireDualStack,
}

/// Whether one caller stays at one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub enum SessionAffinity {
    /// It does not.
    None,
}

/// Which endpoints traffic from inside goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub enum InternalTrafficPolicy {
    /// Those on any node.
    Cluster,
}

pub(crate) fn read(node: &Node<'_>, errors: &mut Errors) -> Option<ServiceSpec> {
    let mut fields = node.fields(errors)?;
    let selector = fields.optional("selector", errors, read_labels);
    let ports = fields.required("ports", errors, read_ports);
    let service_type = fields.optional("type", errors, |node, errors| {
        node.choice(errors, &[("ClusterIP", ServiceType::ClusterIp)])
    });
    let cluster_ip = fields.optional("clusterIP", errors, read_cluster_ip);
    let cluster_ips = fields.optional("clusterIPs", errors, |node, errors| {
        node.list(errors, FAMILIES_MAX, read_cluster_ip)
    });
    let ip_families = fields.optional("ipFamilies", errors, |node, errors| {
        let families = [("IPv4", IpFamily::V4), ("IPv6", IpFamily::V6)];
        node.list(errors, FAMILIES_MAX, |node, errors| node.choice(errors, &families))
    });
    let ip_family_policy = fields.optional("ipFamilyPolicy", errors, |node, errors| {
        let policies = [
            ("SingleStack", IpFamilyPolicy::SingleStack),
            ("PreferDualStack", IpFamilyPolicy::PreferDualStack),
            ("RequireDualStack", IpFamilyPolicy::RequireDualStack),
        ];
        node.choice(errors, &policies)
    });
    let session_affinity = fields.optional("sessionAffinity", errors, |node, errors| {
        node.choice(errors, &[("None", SessionAffinity::None)])
    });
    let internal_traffic_policy = fields.optional("internalTrafficPolicy", errors, |node, errors| {
        node.choice(errors, &[("Cluster", InternalTrafficPolicy::Cluster)])
    });
    for (name, remedy) in REFUSED {
        fields.refused(name, errors, "would be without effect in the mesh", remedy);
    }
    fields.finish(errors);
    Some(ServiceSpec {
        selector: selector.unwrap_or_default(),
        ports: ports?,
        service_type: service_type.unwrap_or_default(),
        cluster_ip,
        cluster_ips: cluster_ips.unwrap_or_default(),
        ip_families: ip_families.unwrap_or_default(),
        ip_family_policy,
        session_affinity,
        internal_traffic_policy,
    })
}

fn read_ports(node: &Node<'_>, errors: &mut Errors) -> Option<Vec<ServicePort>> {
    let ports = node.list(errors, PORTS_MAX, read_port)?;
    node.refuse_empty(errors, "a service has at least one port");
    let number = "each port has a number of its own";
    node.refuse_twins(
        errors,
        &ports,
        |a, b| a.port == b.port,
        "has the number of an earlier port",
        number,
    );
    let same_name = |a: &ServicePort, b: &ServicePort| a.name.is_some() && a.name == b.name;
    let name = "each port has a name of its own";
    node.refuse_twins(errors, &ports, same_name, "has the name of an earlier port", name);
    if ports.len() > 1 && ports.iter().any(|port| port.name.is_none()) {
        node.refuse(
            errors,
            "holds a port without a name",
            "each of several ports has a name",
        );
    }
    Some(ports)
}

fn read_port(node: &Node<'_>, errors: &mut Errors) -> Option<ServicePort> {
    let mut fields = node.fields(errors)?;
    let name = fields.get("name").filter(|node| node.value().as_str() != Some(""));
    let name = name.and_then(|node| names::port_name(&node, errors));
    let protocol = fields.optional("protocol", errors, read_transport);
    let port = fields.required("port", errors, port);
    let target_port = fields.optional("targetPort", errors, read_target_port);
    let app_protocol = fields.optional("appProtocol", errors, read_app_protocol);
    fields.refused(
        "nodePort",
        errors,
        "would be without effect in the mesh",
        "leave it out",
    );
    fields.finish(errors);
    Some(ServicePort {
        name,
        protocol: protocol.unwrap_or_default(),
        port: port?,
        target_port,
        app_protocol,
    })
}

fn read_target_port(node: &Node<'_>, errors: &mut Errors) -> Option<TargetPort> {
    if node.value().is_string() {
        return names::port_name(node, errors).map(TargetPort::Name);
    }
    port(node, errors).map(TargetPort::Number)
}

pub(crate) fn read_transport(node: &Node<'_>, errors: &mut Errors) -> Option<TransportProtocol> {
    node.choice(errors, &[("TCP", TransportProtocol::Tcp)])
}

pub(crate) fn read_app_protocol(node: &Node<'_>, errors: &mut Errors) -> Option<AppProtocol> {
    let choices: Vec<(&str, AppProtocol)> = AppProtocol::ALL.iter().map(|p| (p.as_str(), *p)).collect();
    node.choice(errors, &choices)
}

fn read_cluster_ip(node: &Node<'_>, errors: &mut Errors) -> Option<ClusterIp> {
    match node.text(errors)? {
        "" => Some(ClusterIp::Unset),
        "None" => Some(ClusterIp::None),
        _ => {
            let problem = "would be without effect: the mesh gives services no addresses";
            node.refuse(errors, problem, "leave it out; callers use the service's name");
            None
        }
    }
}

/// More ports than a service has.
const PORTS_MAX: usize = 100;

/// As many families of addresses as there are.
const FAMILIES_MAX: usize = 2;

/// Fields of Kubernetes' Service that would be ignored, and what to do instead.
const REFUSED: [(&str, &str); 12] = [
    ("externalIPs", "leave it out; an edge port lets requests into the mesh"),
    ("externalName", "leave it out; a name outside the mesh needs no Service"),
    ("externalTrafficPolicy", "leave it out"),
    ("healthCheckNodePort", "leave it out"),
    (
        "loadBalancerIP",
        "leave it out; an edge port lets requests into the mesh",
    ),
    ("loadBalancerClass", "leave it out"),
    ("loadBalancerSourceRanges", "leave it out"),
    ("allocateLoadBalancerNodePorts", "leave it out"),
    (
        "publishNotReadyAddresses",
        "leave it out: only ready endpoints get requests",
    ),
    ("sessionAffinityConfig", "leave it out"),
    ("trafficDistribution", "leave it out"),
    ("topologyKeys", "leave it out"),
];
