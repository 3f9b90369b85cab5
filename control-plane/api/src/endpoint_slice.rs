//! EndpointSlice: the only source of endpoints.

use std::net::IpAddr;
use std::num::NonZeroU16;

use schemars::JsonSchema;
use serde::Serialize;

use crate::decode::{Errors, Fields, Node, boolean, port};
use crate::names;
use crate::schema::texts::{KindName, Label, LabelOrEmpty, LabelValue, Subdomain};
use crate::service::{AppProtocol, TransportProtocol, read_app_protocol, read_transport};

/// Endpoints of one Service: the one that the label `kubernetes.io/service-name` names. For Services with a selector
/// the control plane writes them from Workloads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSliceBody {
    /// The family of its addresses.
    pub address_type: AddressType,
    /// Its endpoints.
    #[schemars(default, length(max = ENDPOINTS_MAX), extend("x-kubernetes-list-type" = "atomic"))]
    pub endpoints: Vec<SliceEndpoint>,
    /// The ports that each of its endpoints has.
    ///
    /// Rule: each name occurs once.
    #[schemars(default, length(max = PORTS_MAX), extend("x-kubernetes-list-type" = "atomic"))]
    pub ports: Vec<SlicePort>,
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema)]
pub enum AddressType {
    /// IPv4.
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Endpoint")]
pub struct SliceEndpoint {
    /// Its IP addresses; they are the same endpoint, and the first is used (Kubernetes says of further ones that
    /// consumers may ignore them).
    ///
    /// Rule: each is of the slice's `addressType`, and one that can be connected to: not `0.0.0.0` or `::`, no
    /// multicast.
    #[schemars(length(min = 1, max = ADDRESSES_MAX), extend("x-kubernetes-list-type" = "set"))]
    pub addresses: Vec<IpAddr>,
    /// Whether requests may go there. Default: they may.
    #[schemars(default)]
    pub conditions: Conditions,
    /// Its host's name. Kept as given, without effect. Default: unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Label>")]
    pub hostname: Option<String>,
    /// The node it runs on. Kept as given, without effect. Default: unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Subdomain>")]
    pub node_name: Option<String>,
    /// The zone it runs in. Default: unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<LabelValue>", length(min = 1))]
    pub zone: Option<String>,
    /// The Workload or Pod behind it; a Workload's name goes along to callers. Default: unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetRef>,
}

/// Whether requests may go to an endpoint. What is left out is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "EndpointConditions")]
pub struct Conditions {
    /// Whether it takes new requests; unknown counts as yes (Kubernetes, EndpointConditions).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// Whether it answers while it is `terminating`; unknown counts as `ready`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving: Option<bool>,
    /// Whether it is ending; unknown counts as no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating: Option<bool>,
}

/// What stands behind an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "io.k8s.api.core.v1.ObjectReference", extend("x-properties" = {
    "apiVersion": {"type": "string", "description": "Written by Kubernetes; without effect, and not kept."},
    "fieldPath": {"type": "string", "description": "Written by Kubernetes; without effect, and not kept."},
    "resourceVersion": {"type": "string", "description": "Written by Kubernetes; without effect, and not kept."},
    "uid": {"type": "string", "description": "Written by Kubernetes; without effect, and not kept."},
}))]
pub struct TargetRef {
    /// Its kind: `Workload`, `Pod`.
    #[schemars(with = "KindName")]
    pub kind: String,
    /// Its namespace. Default: the slice's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Label>")]
    pub namespace: Option<String>,
    /// Its name.
    #[schemars(with = "Subdomain")]
    pub name: String,
}

/// A port that each endpoint of a slice has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EndpointPort")]
pub struct SlicePort {
    /// The name of the Service's port it stands behind; empty if that has none.
    #[schemars(with = "LabelOrEmpty", default)]
    pub name: String,
    /// The number of the port on which it listens.
    pub port: NonZeroU16,
    /// The transport protocol.
    #[schemars(default)]
    pub protocol: TransportProtocol,
    /// What is spoken there. Kept as given, without effect: the Service's port says it for all endpoints. Default:
    /// unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<AppProtocol>,
}

/// Reads the fields at the top of the resource.
pub(crate) fn read(fields: &mut Fields<'_>, errors: &mut Errors) -> Option<EndpointSliceBody> {
    let address_type = fields.required("addressType", errors, |node, errors| {
        node.choice(errors, &[("IPv4", AddressType::V4), ("IPv6", AddressType::V6)])
    });
    let endpoints = fields.optional("endpoints", errors, |node, errors| {
        node.list(errors, ENDPOINTS_MAX, |node, errors| {
            read_endpoint(node, address_type, errors)
        })
    });
    let ports = fields.optional("ports", errors, read_ports);
    Some(EndpointSliceBody {
        address_type: address_type?,
        endpoints: endpoints.unwrap_or_default(),
        ports: ports.unwrap_or_default(),
    })
}

fn read_endpoint(node: &Node<'_>, family: Option<AddressType>, errors: &mut Errors) -> Option<SliceEndpoint> {
    let mut fields = node.fields(errors)?;
    let addresses = fields.required("addresses", errors, |node, errors| {
        let addresses = node.list(errors, ADDRESSES_MAX, |node, errors| read_address(node, family, errors))?;
        node.refuse_empty(errors, "an endpoint has at least one address");
        Some(addresses)
    });
    let conditions = fields.optional("conditions", errors, read_conditions);
    let hostname = fields.optional("hostname", errors, names::label);
    let node_name = fields.optional("nodeName", errors, names::subdomain);
    let zone = fields.optional("zone", errors, |node, errors| {
        let is_right = |zone: &str| !zone.is_empty() && names::is_label_value(zone);
        names::checked(
            node,
            errors,
            is_right,
            "is no name of a zone",
            "up to 63 letters, digits, '-', '_' and '.'",
        )
    });
    let target_ref = fields.optional("targetRef", errors, read_target);
    fields.refused("hints", errors, "would be without effect", "leave it out");
    fields.refused(
        "deprecatedTopology",
        errors,
        "is no longer supported",
        "use nodeName and zone",
    );
    fields.finish(errors);
    Some(SliceEndpoint {
        addresses: addresses?,
        conditions: conditions.unwrap_or_default(),
        hostname,
        node_name,
        zone,
        target_ref,
    })
}

fn read_address(node: &Node<'_>, family: Option<AddressType>, errors: &mut Errors) -> Option<IpAddr> {
    let address: Option<IpAddr> = node.text(errors)?.parse().ok();
    match (address, family) {
        (Some(IpAddr::V4(_)), Some(AddressType::V6)) | (Some(IpAddr::V6(_)), Some(AddressType::V4)) => {
            node.refuse(
                errors,
                "is not of the slice's addressType",
                "one slice holds one family of addresses",
            );
            None
        }
        (Some(address), _) if address.is_unspecified() || address.is_multicast() => {
            node.refuse(
                errors,
                "is no address of an endpoint",
                "an address that can be connected to is right",
            );
            None
        }
        (Some(address), _) => Some(address),
        (None, _) => {
            node.refuse(errors, "is not an IP address", "an address like 10.1.2.3 is right");
            None
        }
    }
}

fn read_conditions(node: &Node<'_>, errors: &mut Errors) -> Option<Conditions> {
    let mut fields = node.fields(errors)?;
    let conditions = Conditions {
        ready: fields.optional("ready", errors, boolean),
        serving: fields.optional("serving", errors, boolean),
        terminating: fields.optional("terminating", errors, boolean),
    };
    fields.finish(errors);
    Some(conditions)
}

fn read_target(node: &Node<'_>, errors: &mut Errors) -> Option<TargetRef> {
    let mut fields = node.fields(errors)?;
    let kind = fields.required("kind", errors, |node, errors| {
        names::kind(node, errors, "Workload or Pod, for instance, is right")
    });
    let namespace = fields.optional("namespace", errors, names::label);
    let name = fields.required("name", errors, names::subdomain);
    // Kubernetes writes them; which Pod it is, is told by the others.
    for name in ["uid", "apiVersion", "resourceVersion", "fieldPath"] {
        fields.optional(name, errors, |node, errors| node.text(errors).map(|_| ()));
    }
    fields.finish(errors);
    Some(TargetRef {
        kind: kind?,
        namespace,
        name: name?,
    })
}

fn read_ports(node: &Node<'_>, errors: &mut Errors) -> Option<Vec<SlicePort>> {
    let ports = node.list(errors, PORTS_MAX, read_port)?;
    let same = |a: &SlicePort, b: &SlicePort| a.name == b.name;
    let remedy = "each port has a name of its own";
    node.refuse_twins(errors, &ports, same, "has the name of an earlier port", remedy);
    Some(ports)
}

fn read_port(node: &Node<'_>, errors: &mut Errors) -> Option<SlicePort> {
    let mut fields = node.fields(errors)?;
    let name = fields.get("name").filter(|node| node.value().as_str() != Some(""));
    let name = name.map(|node| names::port_name(&node, errors));
    let port = fields.required("port", errors, port);
    let protocol = fields.optional("protocol", errors, read_transport);
    let app_protocol = fields.optional("appProtocol", errors, read_app_protocol);
    fields.finish(errors);
    Some(SlicePort {
        name: name.unwrap_or_else(|| Some(String::new()))?,
        port: port?,
        protocol: protocol.unwrap_or_default(),
        app_protocol,
    })
}

/// Kubernetes' limits.
const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 100;
