//! Reads what a proxy says of itself, strictly.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU16;

use weir_api::service::AppProtocol;
use weir_api::workload::{WorkloadLocality, WorkloadPort, WorkloadSpec};
use weir_policy::names::{NameError, WorkloadName};
use weir_xds::v1;

use super::registry::Registration;
use crate::authority::x509::Identity;
use crate::door::caller::Caller;

/// The label that every workload has, with its own name.
pub(crate) const WORKLOAD_LABEL: &str = "weir.dev/workload";

/// What is wrong with a Hello or a Health.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HelloError {
    #[error("namespace: {0}")]
    Namespace(NameError),
    #[error("workload: {0}")]
    Workload(NameError),
    #[error("instance: 0 is no start time; it is the microsecond of Unix time when this instance started")]
    Instance,
    #[error("address: {0:?} is no IP address that others could reach")]
    Address(String),
    #[error("ports: {0} of them; at most {PORTS_MAX} are right")]
    TooManyPorts(usize),
    #[error("{field}: {held} is no port from 1 to 65535")]
    Port { field: &'static str, held: u32 },
    #[error("{field}: {held} is there twice")]
    Twice { field: &'static str, held: NonZeroU16 },
    #[error("ports[{app_port}].protocol: {held} is none of HTTP1 (1), HTTP2 (2) and GRPC (3)")]
    Protocol { app_port: NonZeroU16, held: i32 },
    #[error("labels: {0} of them; at most {LABELS_MAX} are right")]
    TooManyLabels(usize),
    #[error("labels: by TLS they come with the join token; none are right here")]
    LabelsByTls,
    #[error("labels: {0:?} is no name of a label")]
    LabelName(String),
    #[error("labels: {value:?} of {name:?} is no value of a label")]
    LabelValue { name: String, value: String },
    #[error("{field}: is longer than {TEXT_BYTES_MAX} bytes or holds control characters")]
    Text { field: &'static str },
}

/// The workload and what it registers as: in cleartext as it says, by TLS with account and labels of its certificate.
///
/// # Errors
/// The first thing that is wrong.
pub(super) fn read(hello: v1::Hello, caller: &Caller) -> Result<(WorkloadName, Registration), HelloError> {
    let v1::Hello {
        namespace,
        workload,
        instance,
        address,
        ports,
        mut labels,
        locality,
        version,
        // Read by the caller: they are no part of the Workload.
        questions: _,
    } = hello;
    let name = WorkloadName {
        namespace: namespace.parse().map_err(HelloError::Namespace)?,
        name: workload.parse().map_err(HelloError::Workload)?,
    };
    if instance == 0 {
        return Err(HelloError::Instance);
    }
    let usable = |address: &IpAddr| !address.is_unspecified() && !address.is_multicast();
    let address = address
        .parse()
        .ok()
        .filter(usable)
        .ok_or(HelloError::Address(shortened(&address)))?;
    let ports = app_ports(&ports)?;
    let account = match caller {
        Caller::Local => String::new(),
        Caller::Known(_) if !labels.is_empty() => return Err(HelloError::LabelsByTls),
        Caller::Known(Identity { id, labels: certified }) => {
            labels = certified.clone().into_iter().collect();
            id.account.to_string()
        }
    };
    labels.insert(WORKLOAD_LABEL.to_owned(), name.name.to_string());
    let v1::Locality { region, zone, site } = locality.unwrap_or_default();
    let locality = WorkloadLocality {
        region: text("locality.region", region)?,
        zone: text("locality.zone", zone)?,
        site: text("locality.site", site)?,
    };
    let spec = WorkloadSpec {
        address,
        ports,
        locality,
        instance,
        version: text("version", version)?,
        account,
    };
    let labels = read_labels(labels.into_iter().collect())?;
    Ok((name, Registration { spec, labels }))
}

/// App ports that take connections.
///
/// # Errors
/// When one is no port, or there are more than a workload may have.
pub(super) fn ports(ports: &[u32]) -> Result<BTreeSet<NonZeroU16>, HelloError> {
    if ports.len() > PORTS_MAX {
        return Err(HelloError::TooManyPorts(ports.len()));
    }
    ports.iter().map(|number| port("ready_app_ports", *number)).collect()
}

fn app_ports(given: &[v1::AppPort]) -> Result<Vec<WorkloadPort>, HelloError> {
    if given.len() > PORTS_MAX {
        return Err(HelloError::TooManyPorts(given.len()));
    }
    let mut ports: Vec<WorkloadPort> = Vec::with_capacity(given.len());
    for own in given {
        let app_port = port("ports.app_port", own.app_port)?;
        let inbound_port = port("ports.inbound_port", own.inbound_port)?;
        let twice = |field, held| Err(HelloError::Twice { field, held });
        if ports.iter().any(|other| other.app_port == app_port) {
            return twice("ports.app_port", app_port);
        }
        if ports.iter().any(|other| other.inbound_port == inbound_port) {
            return twice("ports.inbound_port", inbound_port);
        }
        let protocol = match v1::Protocol::try_from(own.protocol) {
            Ok(v1::Protocol::Http1) => AppProtocol::Http1,
            Ok(v1::Protocol::Http2) => AppProtocol::Http2,
            Ok(v1::Protocol::Grpc) => AppProtocol::Grpc,
            Ok(v1::Protocol::Tcp) => AppProtocol::Tcp,
            Ok(v1::Protocol::Unspecified) | Err(_) => {
                return Err(HelloError::Protocol {
                    app_port,
                    held: own.protocol,
                });
            }
        };
        ports.push(WorkloadPort {
            app_port,
            inbound_port,
            protocol,
            edge: own.edge,
        });
    }
    Ok(ports)
}

fn port(field: &'static str, number: u32) -> Result<NonZeroU16, HelloError> {
    let port = u16::try_from(number).ok().and_then(NonZeroU16::new);
    port.ok_or(HelloError::Port { field, held: number })
}

fn read_labels(labels: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, HelloError> {
    if labels.len() > LABELS_MAX {
        return Err(HelloError::TooManyLabels(labels.len()));
    }
    for (name, value) in &labels {
        if !is_label_name(name) {
            return Err(HelloError::LabelName(shortened(name)));
        }
        if !value.is_empty() && !is_label_text(value) {
            return Err(HelloError::LabelValue {
                name: name.clone(),
                value: shortened(value),
            });
        }
    }
    Ok(labels)
}

/// Kubernetes, "Labels and Selectors", syntax: an optional DNS subdomain and `/`, then up to 63 characters.
fn is_label_name(name: &str) -> bool {
    let (prefix, name) = match name.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, name),
    };
    let is_label = |label: &str| label.parse::<weir_policy::names::Label>().is_ok();
    let prefix_fits = prefix.is_none_or(|prefix| prefix.len() <= 253 && prefix.split('.').all(is_label));
    prefix_fits && is_label_text(name)
}

fn is_label_text(text: &str) -> bool {
    let inside = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let at_end = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    text.len() <= 63 && text.bytes().all(inside) && at_end(text.bytes().next()) && at_end(text.bytes().next_back())
}

fn text(field: &'static str, text: String) -> Result<String, HelloError> {
    if text.len() > TEXT_BYTES_MAX || text.chars().any(char::is_control) {
        return Err(HelloError::Text { field });
    }
    Ok(text)
}

fn shortened(text: &str) -> String {
    text.chars().take(TEXT_BYTES_MAX).collect()
}

const PORTS_MAX: usize = 64;
const LABELS_MAX: usize = 64;
const TEXT_BYTES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> v1::Hello {
        v1::Hello {
            namespace: "citizen".to_owned(),
            workload: "portal-1".to_owned(),
            instance: 7,
            address: "127.0.0.1".to_owned(),
            ports: vec![v1::AppPort {
                app_port: 8080,
                inbound_port: 15006,
                protocol: v1::Protocol::Http1.into(),
                edge: true,
            }],
            labels: [("app".to_owned(), "portal".to_owned())].into(),
            locality: Some(v1::Locality {
                region: "zj".to_owned(),
                zone: "hz-a".to_owned(),
                site: String::new(),
            }),
            version: "0.1.0".to_owned(),
            questions: Vec::new(),
        }
    }

    #[test]
    fn a_hello_is_read_whole() {
        let mut given = hello();
        given
            .labels
            .insert(WORKLOAD_LABEL.to_owned(), "somebody-else".to_owned());
        let (name, registration) = read(given, &Caller::Local).expect("it is right");
        assert_eq!(name.to_string(), "citizen/portal-1");
        assert_eq!(
            registration.labels[WORKLOAD_LABEL], "portal-1",
            "its own name, whatever it says"
        );
        assert_eq!(registration.labels["app"], "portal");
        assert_eq!(registration.spec.ports[0].inbound_port.get(), 15006);
        assert_eq!(registration.spec.account, "", "nobody knows");
        assert_eq!(registration.spec.locality.zone, "hz-a");
        assert!(registration.spec.ports[0].edge);
    }

    #[test]
    fn by_tls_account_and_labels_are_those_of_the_certificate() {
        let caller = Caller::Known(Identity {
            id: "spiffe://mesh.gov/ns/citizen/sa/portal".parse().expect("an id"),
            labels: [
                ("app".to_owned(), "portal".to_owned()),
                (WORKLOAD_LABEL.to_owned(), "other".to_owned()),
            ]
            .into(),
        });
        let mut given = hello();
        assert_eq!(read(given.clone(), &caller), Err(HelloError::LabelsByTls));
        given.labels.clear();
        let (_, registration) = read(given, &caller).expect("it is right");
        assert_eq!(registration.spec.account, "portal");
        let expect = [("app", "portal"), (WORKLOAD_LABEL, "portal-1")];
        let expect = expect.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(registration.labels, expect.into());
    }

    #[track_caller]
    fn refused(change: impl FnOnce(&mut v1::Hello), expect: &str) {
        let mut given = hello();
        change(&mut given);
        let error = read(given, &Caller::Local).expect_err("it is wrong").to_string();
        assert!(error.starts_with(expect), "{error}");
    }

    #[test]
    fn what_is_wrong_is_refused_by_field() {
        refused(|hello| hello.namespace = "Citizen".into(), "namespace: \"Citizen\"");
        refused(|hello| hello.workload = String::new(), "workload: \"\" is empty");
        refused(|hello| hello.instance = 0, "instance:");
        for address in ["", "localhost", "127.0.0.1:80", "0.0.0.0", "::", "224.0.0.1"] {
            refused(|hello| hello.address = address.into(), "address:");
        }
        refused(|hello| hello.ports[0].app_port = 0, "ports.app_port: 0");
        refused(
            |hello| hello.ports[0].inbound_port = 65_536,
            "ports.inbound_port: 65536",
        );
        refused(|hello| hello.ports[0].protocol = 0, "ports[8080].protocol: 0");
        refused(|hello| hello.ports[0].protocol = 9, "ports[8080].protocol: 9");
        refused(
            |hello| hello.ports.push(hello.ports[0]),
            "ports.app_port: 8080 is there twice",
        );
        let same_inbound = |hello: &mut v1::Hello| {
            hello.ports.push(v1::AppPort {
                app_port: 1,
                ..hello.ports[0]
            });
        };
        refused(same_inbound, "ports.inbound_port: 15006 is there twice");
        let many = |hello: &mut v1::Hello| {
            let port = hello.ports[0];
            let numbered = (1..=65).map(|n| v1::AppPort {
                app_port: n,
                inbound_port: n,
                ..port
            });
            hello.ports = numbered.collect();
        };
        refused(many, "ports: 65 of them");
        for name in ["", "a b", "/a", "A.b/c", "-a", &"a".repeat(64)] {
            refused(
                |hello| drop(hello.labels.insert(name.to_owned(), String::new())),
                "labels: ",
            );
        }
        refused(
            |hello| drop(hello.labels.insert("a".into(), "b!".into())),
            "labels: \"b!\" of \"a\"",
        );
        refused(
            |hello| hello.labels.extend((0..64).map(|n| (format!("l{n}"), String::new()))),
            "labels: 66 of them",
        );
        refused(|hello| hello.version = "x".repeat(65), "version:");
        refused(
            |hello| {
                hello.locality = Some(v1::Locality {
                    zone: "a\nb".into(),
                    ..Default::default()
                })
            },
            "locality.zone:",
        );
        assert!(ports(&[8080, 8080]).expect("twice says no more than once").len() == 1);
        assert!(ports(&[0]).is_err() && ports(&[70_000]).is_err() && ports(&[1; 65]).is_err());
    }
}
