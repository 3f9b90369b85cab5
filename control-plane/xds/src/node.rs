//! How a proxy says who it is, in the first request of its stream.

use envoy_types::pb::envoy::config::core::v3::node::UserAgentVersionType;
use weir_policy::model::Locality;
use weir_policy::names::{NameError, WorkloadName};

use crate::envoy;

/// The `user_agent_name` of a weir proxy.
pub const USER_AGENT: &str = "weir-proxy";

/// The feature (`client_features`) that says: understands everything that the `v1` encoder writes. The server sends
/// nothing else to a client without it.
pub const FEATURE_V1: &str = "weir.dev/v1";

/// Who is at the other end of a stream, as it says itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientIdentity {
    /// The workload it stands for.
    pub workload: WorkloadName,
    /// Where it runs.
    pub locality: Locality,
    /// Its version, for people; empty: unknown.
    pub version: String,
    /// What it can do, as it names it: [`FEATURE_V1`] and successors.
    pub features: Vec<String>,
}

/// The node of a weir proxy.
pub fn node(workload: &WorkloadName, locality: &Locality, version: &str) -> envoy::Node {
    envoy::Node {
        id: workload.to_string(),
        locality: Some(envoy::Locality {
            region: locality.region.clone(),
            zone: locality.zone.clone(),
            sub_zone: locality.site.clone(),
        }),
        user_agent_name: USER_AGENT.to_owned(),
        user_agent_version_type: Some(UserAgentVersionType::UserAgentVersion(version.to_owned())),
        client_features: vec![FEATURE_V1.to_owned()],
        ..envoy::Node::default()
    }
}

/// Reads who a client is. Other fields of the node are for other clients and are not looked at.
///
/// # Errors
/// When its id is not the name of a workload.
pub fn read_node(node: &envoy::Node) -> Result<ClientIdentity, NameError> {
    let locality = node.locality.as_ref().map(|locality| Locality {
        region: locality.region.clone(),
        zone: locality.zone.clone(),
        site: locality.sub_zone.clone(),
    });
    let version = match &node.user_agent_version_type {
        Some(UserAgentVersionType::UserAgentVersion(version)) => version.clone(),
        Some(UserAgentVersionType::UserAgentBuildVersion(_)) | None => String::new(),
    };
    Ok(ClientIdentity {
        workload: node.id.parse()?,
        locality: locality.unwrap_or_default(),
        version,
        features: node.client_features.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_read_as_it_named_itself() {
        let workload: WorkloadName = "citizen/health-code-1".parse().expect("a name");
        let locality = Locality {
            region: "zj".to_owned(),
            zone: "hz-a".to_owned(),
            site: "one".to_owned(),
        };
        let read = read_node(&node(&workload, &locality, "0.1.0"));
        let expect = ClientIdentity {
            workload,
            locality,
            version: "0.1.0".to_owned(),
            features: vec!["weir.dev/v1".to_owned()],
        };
        assert_eq!(read, Ok(expect));
    }

    #[test]
    fn a_node_without_a_workloads_name_is_refused() {
        for id in ["", "citizen", "citizen/Health", "a/b/c"] {
            let node = envoy::Node {
                id: id.to_owned(),
                ..envoy::Node::default()
            };
            assert!(read_node(&node).is_err(), "{id}");
        }
    }
}
