//! Names of services, workloads and what the control plane hands out about them: one canonical form each.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

/// The suffix of every canonical service name.
pub const MESH_SUFFIX: &str = "svc.cluster.local";

/// One DNS label as RFC 1123 section 2.1 and Kubernetes have it: 1 to 63 of `a-z`, `0-9` and `-`, neither first nor
/// last a `-`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Label(String);

impl Label {
    /// The label as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Label {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = |problem| NameError {
            held: text.to_owned(),
            problem,
        };
        if text.is_empty() {
            return Err(wrong("is empty"));
        }
        if text.len() > 63 {
            return Err(wrong("is longer than 63 characters"));
        }
        if text.bytes().any(|b| !matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-')) {
            return Err(wrong("may hold only a-z, 0-9 and '-'"));
        }
        if text.starts_with('-') || text.ends_with('-') {
            return Err(wrong("may not begin or end with '-'"));
        }
        Ok(Label(text.to_owned()))
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A service of the mesh, without a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    /// The namespace it lives in.
    pub namespace: Label,
    /// Its own name.
    pub service: Label,
}

/// `service.namespace.svc.cluster.local`.
impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{MESH_SUFFIX}", self.service, self.namespace)
    }
}

/// What an app asked for: a service, and a port where it named one. The name of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerName {
    /// The service asked for.
    pub service: ServiceName,
    /// The port asked for; `None`: 80 if the service has it, else its only port.
    pub port: Option<NonZeroU16>,
}

impl ListenerName {
    /// Reads the authority of a request as a mesh name, as seen from `own` namespace: `service`, `service.namespace`,
    /// `service.namespace.svc` or the canonical form, each with an optional port. Case is folded and one trailing dot
    /// dropped (RFC 9110 section 4.2.3, RFC 1034 section 3.1).
    ///
    /// # Errors
    /// When the text can't be a service of the mesh (an IP address, a name of another shape): the caller decides
    /// whether it is a name outside the mesh.
    pub fn from_authority(authority: &str, own: &Label) -> Result<Self, NameError> {
        let lower = authority.to_ascii_lowercase();
        let (host, port) = match lower.rsplit_once(':') {
            Some((host, port)) => (host, Some(parse_port(port, authority)?)),
            None => (lower.as_str(), None),
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        if host.parse::<std::net::Ipv4Addr>().is_ok() {
            return Err(NameError {
                held: authority.to_owned(),
                problem: "is an address, not a name",
            });
        }
        let short = host.strip_suffix(MESH_SUFFIX).and_then(|rest| rest.strip_suffix('.'));
        let short = short.or_else(|| host.strip_suffix(".svc")).unwrap_or(host);
        let in_full = short.len() != host.len();
        let (service, namespace) = match short.split_once('.') {
            Some((service, namespace)) => (service.parse()?, namespace.parse()?),
            None if in_full => {
                return Err(NameError {
                    held: authority.to_owned(),
                    problem: "lacks a namespace before '.svc'",
                });
            }
            None => (short.parse()?, own.clone()),
        };
        Ok(ListenerName {
            service: ServiceName { namespace, service },
            port,
        })
    }
}

/// `service.namespace.svc.cluster.local`, and `:port` where one is given.
impl fmt::Display for ListenerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.service),
            None => write!(f, "{}", self.service),
        }
    }
}

impl FromStr for ListenerName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(parse_port(port, text)?)),
            None => (text, None),
        };
        let parts = host.strip_suffix(MESH_SUFFIX).and_then(|rest| rest.strip_suffix('.'));
        let Some((service, namespace)) = parts.and_then(|parts| parts.split_once('.')) else {
            return Err(NameError {
                held: text.to_owned(),
                problem: "is not of the form service.namespace.svc.cluster.local",
            });
        };
        Ok(ListenerName {
            service: ServiceName {
                namespace: namespace.parse()?,
                service: service.parse()?,
            },
            port,
        })
    }
}

/// A port of a service, and so a cluster: `service.namespace:port`. Also the name of its endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterName {
    /// The service.
    pub service: ServiceName,
    /// Its port.
    pub port: NonZeroU16,
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}:{}", self.service.service, self.service.namespace, self.port)
    }
}

impl FromStr for ClusterName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let shape = || NameError {
            held: text.to_owned(),
            problem: "is not of the form service.namespace:port",
        };
        let (host, port) = text.split_once(':').ok_or_else(shape)?;
        let (service, namespace) = host.split_once('.').ok_or_else(shape)?;
        Ok(ClusterName {
            service: ServiceName {
                namespace: namespace.parse()?,
                service: service.parse()?,
            },
            port: parse_port(port, text)?,
        })
    }
}

/// Whose calls a route configuration is for: consumer routes differ by the caller's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Consumers {
    /// Every namespace without routes of its own.
    Any,
    /// Workloads of this namespace.
    Namespace(Label),
}

/// The name of a route configuration: `service.namespace:port/{client namespace | *}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteName {
    /// The service port it routes.
    pub cluster: ClusterName,
    /// Whose calls.
    pub consumers: Consumers,
}

impl fmt::Display for RouteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.consumers {
            Consumers::Any => write!(f, "{}/*", self.cluster),
            Consumers::Namespace(namespace) => write!(f, "{}/{namespace}", self.cluster),
        }
    }
}

impl FromStr for RouteName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (cluster, consumers) = text.split_once('/').ok_or_else(|| NameError {
            held: text.to_owned(),
            problem: "is not of the form service.namespace:port/{namespace or *}",
        })?;
        let consumers = match consumers {
            "*" => Consumers::Any,
            namespace => Consumers::Namespace(namespace.parse()?),
        };
        Ok(RouteName {
            cluster: cluster.parse()?,
            consumers,
        })
    }
}

/// A workload: one proxy, one identity. Written `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadName {
    /// The namespace it lives in.
    pub namespace: Label,
    /// Its own name, unique in the namespace.
    pub name: Label,
}

impl fmt::Display for WorkloadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for WorkloadName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (namespace, name) = text.split_once('/').ok_or_else(|| NameError {
            held: text.to_owned(),
            problem: "is not of the form namespace/name",
        })?;
        Ok(WorkloadName {
            namespace: namespace.parse()?,
            name: name.parse()?,
        })
    }
}

/// Why a text is not the name it was read as.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{held:?} {problem}")]
pub struct NameError {
    /// What was read.
    pub held: String,
    /// What is wrong with it, as the end of a sentence that begins with the name.
    pub problem: &'static str,
}

fn parse_port(text: &str, whole: &str) -> Result<NonZeroU16, NameError> {
    let digits_only = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let port = if digits_only { text.parse().ok() } else { None };
    port.ok_or_else(|| NameError {
        held: whole.to_owned(),
        problem: "has a port that is not 1 to 65535",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn authority(text: &str, expect: Result<&str, &str>) {
        let own = "citizen".parse().expect("a label");
        let read = ListenerName::from_authority(text, &own);
        let read = read.as_ref().map(ToString::to_string).map_err(|error| error.problem);
        assert_eq!(read.as_deref().map_err(|problem| *problem), expect, "{text}");
    }

    #[test]
    fn authorities_expand_in_the_callers_namespace() {
        authority("health-code", Ok("health-code.citizen.svc.cluster.local"));
        authority("Health-Code:8080", Ok("health-code.citizen.svc.cluster.local:8080"));
        authority("identity.police", Ok("identity.police.svc.cluster.local"));
        authority("identity.police.svc:80", Ok("identity.police.svc.cluster.local:80"));
        authority(
            "identity.police.svc.cluster.local.",
            Ok("identity.police.svc.cluster.local"),
        );
    }

    #[test]
    fn what_is_no_mesh_name_is_said_to_be_none() {
        authority("", Err("is empty"));
        authority("10.0.0.1", Err("is an address, not a name"));
        authority("[::1]:80", Err("may hold only a-z, 0-9 and '-'"));
        authority("a:0", Err("has a port that is not 1 to 65535"));
        authority("a:+80", Err("has a port that is not 1 to 65535"));
        authority("a:65536", Err("has a port that is not 1 to 65535"));
        authority("www.example.com", Err("may hold only a-z, 0-9 and '-'"));
        authority("user@host", Err("may hold only a-z, 0-9 and '-'"));
        authority("identity.svc", Err("lacks a namespace before '.svc'"));
        authority("-a", Err("may not begin or end with '-'"));
    }

    #[test]
    fn names_read_back_as_written() {
        for text in ["a.b:80/*", "health-code.citizen:8080/police"] {
            assert_eq!(text.parse::<RouteName>().expect(text).to_string(), text);
        }
        for text in ["a.b.svc.cluster.local", "a.b.svc.cluster.local:1"] {
            assert_eq!(text.parse::<ListenerName>().expect(text).to_string(), text);
        }
        for text in ["", "a.b", "a:80", "a.b:80", "a.b:80/", "a.b:80/A", "a.b.c:80/*"] {
            assert!(text.parse::<RouteName>().is_err(), "{text}");
        }
    }
}
