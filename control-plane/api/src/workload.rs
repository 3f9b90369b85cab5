//! Workload: what one proxy told of itself. Written by the control plane alone.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU16;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::decode::{Errors, Node, boolean, port};
use crate::names;
use crate::object::Object;
use crate::schema::texts::{Label, LabelValue, Printable};
use crate::service::{AppProtocol, read_app_protocol};

/// One proxy with the apps beside it, as it told of itself. Written by the control plane alone. Services select it by
/// the labels of its metadata.
///
/// Rule: its name is a DNS label: at most 63 characters, no dot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadSpec {
    /// The IP address at which others reach its inbound ports.
    pub address: IpAddr,
    /// Its app ports.
    ///
    /// Rule: each `appPort` occurs once.
    #[schemars(
        length(max = PORTS_MAX),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["appPort"])
    )]
    pub ports: Vec<WorkloadPort>,
    /// Where it runs. Default: unknown.
    #[serde(skip_serializing_if = "WorkloadLocality::is_empty")]
    #[schemars(default)]
    pub locality: WorkloadLocality,
    /// When this instance started, in microseconds of Unix time: a newer one takes the place of an older.
    pub instance: u64,
    /// The proxy's version, for people. Default: unknown.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(with = "Printable", default)]
    pub version: String,
    /// The account that its certificate is of: it is `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT`, and sidecars that
    /// call it expect exactly that. Default: it came in cleartext, from the control plane's own host, nobody knows who
    /// it is, and it is called in cleartext.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(with = "Label", default)]
    pub account: String,
}

/// An app port of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadPort {
    /// The port on which the app listens.
    pub app_port: NonZeroU16,
    /// The port on which the proxy takes requests for it.
    pub inbound_port: NonZeroU16,
    /// What the app speaks.
    pub protocol: AppProtocol,
    /// Whether requests enter the mesh here, as its proxy was started: then whoever calls this port comes in cleartext
    /// or by ordinary TLS, also sidecars of the mesh, whatever the MeshConfig says of mutual TLS.
    #[schemars(default)]
    pub edge: bool,
}

/// Where a workload runs; empty text: unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[schemars(default)]
pub struct WorkloadLocality {
    /// The region.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(with = "LabelValue")]
    pub region: String,
    /// The zone in it.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(with = "LabelValue")]
    pub zone: String,
    /// The site in that.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(with = "LabelValue")]
    pub site: String,
}

/// What became of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadStatus {
    /// How sure the control plane is of it.
    pub state: State,
    /// App ports that take connections.
    pub ready_app_ports: BTreeSet<NonZeroU16>,
}

/// How sure the control plane is of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "WorkloadState")]
pub enum State {
    /// Its stream is open.
    Confirmed,
    /// Its stream was lost, or it has not registered since this control plane started.
    Unconfirmed,
    /// It asked for no new requests.
    Draining,
}

impl WorkloadStatus {
    /// The status of a stored workload. One that can't be read is as of a workload that takes nothing: it says so
    /// anew when it registers.
    pub fn of(workload: &Object) -> WorkloadStatus {
        let status = workload.status.as_ref();
        let read = status.and_then(|status| WorkloadStatus::deserialize(status).ok());
        read.unwrap_or_else(|| WorkloadStatus {
            state: State::Unconfirmed,
            ready_app_ports: BTreeSet::new(),
        })
    }

    /// As it is stored.
    pub fn to_value(&self) -> Value {
        serde_json::to_value(self).expect("ports and words have no fallible parts")
    }

    /// Whether it asked for no new requests.
    pub fn is_draining(&self) -> bool {
        match self.state {
            State::Draining => true,
            State::Confirmed | State::Unconfirmed => false,
        }
    }
}

impl WorkloadLocality {
    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.region.is_empty() && self.zone.is_empty() && self.site.is_empty()
    }
}

pub(crate) fn read(node: &Node<'_>, errors: &mut Errors) -> Option<WorkloadSpec> {
    let mut fields = node.fields(errors)?;
    let address = fields.required("address", errors, |node, errors| {
        let address = node.text(errors)?.parse::<IpAddr>();
        if address.is_err() {
            node.refuse(errors, "is not an IP address", "an address like 10.1.2.3 is right");
        }
        address.ok()
    });
    let ports = fields.required("ports", errors, read_ports);
    let locality = fields.optional("locality", errors, read_locality);
    let instance = fields.required("instance", errors, |node, errors| node.integer(errors, 0..=u64::MAX));
    let version = fields.optional("version", errors, |node, errors| {
        let is_right = |version: &str| version.len() <= 256 && !version.chars().any(char::is_control);
        names::checked(
            node,
            errors,
            is_right,
            "is no version",
            "up to 256 printable characters are right",
        )
    });
    let account = fields.optional("account", errors, |node, errors| {
        names::checked(
            node,
            errors,
            names::is_label,
            "is no account",
            "up to 63 of a-z, 0-9 and '-'",
        )
    });
    fields.finish(errors);
    Some(WorkloadSpec {
        address: address?,
        ports: ports?,
        locality: locality.unwrap_or_default(),
        instance: instance?,
        version: version.unwrap_or_default(),
        account: account.unwrap_or_default(),
    })
}

fn read_ports(node: &Node<'_>, errors: &mut Errors) -> Option<Vec<WorkloadPort>> {
    let ports = node.list(errors, PORTS_MAX, read_port)?;
    let same = |a: &WorkloadPort, b: &WorkloadPort| a.app_port == b.app_port;
    node.refuse_twins(
        errors,
        &ports,
        same,
        "names an app port again",
        "each app port stands once",
    );
    Some(ports)
}

fn read_port(node: &Node<'_>, errors: &mut Errors) -> Option<WorkloadPort> {
    let mut fields = node.fields(errors)?;
    let app_port = fields.required("appPort", errors, port);
    let inbound_port = fields.required("inboundPort", errors, port);
    let protocol = fields.required("protocol", errors, read_app_protocol);
    let edge = fields.optional("edge", errors, boolean);
    fields.finish(errors);
    Some(WorkloadPort {
        app_port: app_port?,
        inbound_port: inbound_port?,
        protocol: protocol?,
        edge: edge.unwrap_or(false),
    })
}

fn read_locality(node: &Node<'_>, errors: &mut Errors) -> Option<WorkloadLocality> {
    let mut fields = node.fields(errors)?;
    let part = |node: &Node<'_>, errors: &mut Errors| {
        names::checked(
            node,
            errors,
            names::is_label_value,
            "is no name of a place",
            "up to 63 letters, digits, '-', '_' and '.'",
        )
    };
    let locality = WorkloadLocality {
        region: fields.optional("region", errors, part).unwrap_or_default(),
        zone: fields.optional("zone", errors, part).unwrap_or_default(),
        site: fields.optional("site", errors, part).unwrap_or_default(),
    };
    fields.finish(errors);
    Some(locality)
}

/// More ports than the apps of one workload have.
const PORTS_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::object::Spec;

    #[test]
    fn a_status_reads_back_and_garbage_is_not_ready() {
        let spec = WorkloadSpec {
            address: IpAddr::from([10, 0, 0, 1]),
            ports: Vec::new(),
            locality: WorkloadLocality::default(),
            instance: 1,
            version: String::new(),
            account: String::new(),
        };
        let mut workload = Object::new("a", "b", Spec::Workload(spec));
        let status = WorkloadStatus {
            state: State::Draining,
            ready_app_ports: BTreeSet::from([NonZeroU16::MIN]),
        };
        workload.status = Some(status.to_value());
        assert_eq!(WorkloadStatus::of(&workload), status);
        assert_eq!(status.to_value(), json!({"state": "Draining", "readyAppPorts": [1]}));
        for garbage in [
            None,
            Some(Value::Null),
            Some(json!({"state": "Fine", "readyAppPorts": [0]})),
        ] {
            workload.status = garbage;
            assert!(WorkloadStatus::of(&workload).ready_app_ports.is_empty());
        }
    }
}
