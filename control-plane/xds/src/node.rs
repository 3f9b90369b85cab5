//! How a client says who it is, in the first request of its stream.

use envoy_types::pb::envoy::config::core::v3::node::UserAgentVersionType;
use envoy_types::pb::envoy::r#type::v3::SemanticVersion;
use envoy_types::pb::google::protobuf::Struct;
use envoy_types::pb::google::protobuf::value::Kind;
use weir_policy::model::Locality;
use weir_policy::names::{Label, NameError, WorkloadName};

use crate::envoy;
use crate::envoy_node::{EnvoyNode, EnvoyNodeError};
use crate::meaning::METADATA_KEY;

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
    /// What is said to it, and how.
    pub dialect: Dialect,
}

/// What a client understands; chosen by what its node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Everything that [`crate::encode`] writes. By `client_features`.
    Weir,
    /// What gRPC's own xDS clients understand (gRFC A27 and successors). By `user_agent_name`.
    Grpc(GrpcSecurity),
    /// What Envoy understands. By `user_agent_name`.
    Envoy(EnvoyNode),
}

/// How a gRPC client calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GrpcSecurity {
    /// In cleartext.
    Cleartext,
    /// By mutual TLS where that can be (gRFC A29): its bootstrap has a provider of certificates that is called
    /// [`CERTIFICATE_PROVIDER`], and its node says so. Told of one that it does not have, a client takes no cluster.
    MutualTls,
}

/// What a gRPC client's bootstrap calls the provider of its certificates, and of the roots that it trusts.
pub const CERTIFICATE_PROVIDER: &str = "weir";

/// Why a node is none that anything could be said to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// Its id is not the name of a workload.
    #[error("node.id {0}; namespace/name is right")]
    Id(#[from] NameError),
    /// A weir proxy that speaks another version.
    #[error("node.client_features lacks {FEATURE_V1:?}: this client would not understand what is sent here")]
    Features,
    /// None of the clients that are known.
    #[error("node.user_agent_name {held:?} is none of \"{USER_AGENT}\", \"envoy\", \"gRPC …\"")]
    UserAgent {
        /// The name.
        held: String,
    },
    /// An Envoy that asks for something that can't be.
    #[error(transparent)]
    Envoy(#[from] EnvoyNodeError),
    /// A gRPC client that asks for something that can't be.
    #[error("node.metadata[\"weir.dev\"]{path}: {problem}")]
    Grpc {
        /// Where: `.mutualTls`.
        path: String,
        /// What is wrong there, and what would be right.
        problem: &'static str,
    },
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

/// Reads who a client is. Fields of the node that its kind of client has no use for are not looked at.
///
/// # Errors
/// When its id is not the name of a workload, or nothing can be said to it.
pub fn read_node(node: &envoy::Node) -> Result<ClientIdentity, NodeError> {
    let locality = node.locality.as_ref().map(|locality| Locality {
        region: locality.region.clone(),
        zone: locality.zone.clone(),
        site: locality.sub_zone.clone(),
    });
    let version = match &node.user_agent_version_type {
        Some(UserAgentVersionType::UserAgentVersion(version)) => version.clone(),
        Some(UserAgentVersionType::UserAgentBuildVersion(build)) => build
            .version
            .as_ref()
            .map(|version| {
                let SemanticVersion {
                    major_number,
                    minor_number,
                    patch,
                } = version;
                format!("{major_number}.{minor_number}.{patch}")
            })
            .unwrap_or_default(),
        None => String::new(),
    };
    let workload: WorkloadName = node.id.parse()?;
    Ok(ClientIdentity {
        locality: locality.unwrap_or_default(),
        version,
        dialect: dialect(node, &workload.namespace)?,
        workload,
    })
}

/// A client that speaks as a weir proxy does needs no name; the others are known by theirs: Envoy sets `envoy`, gRPC's
/// clients `gRPC` and their language (gRFC A27, "Node proto").
fn dialect(node: &envoy::Node, own: &Label) -> Result<Dialect, NodeError> {
    if node.client_features.iter().any(|feature| feature == FEATURE_V1) {
        return Ok(Dialect::Weir);
    }
    match node.user_agent_name.as_str() {
        USER_AGENT => Err(NodeError::Features),
        "envoy" => Ok(Dialect::Envoy(EnvoyNode::read(node.metadata.as_ref(), own)?)),
        name if name.to_ascii_lowercase().starts_with("grpc") => {
            Ok(Dialect::Grpc(grpc_security(node.metadata.as_ref())?))
        }
        name => Err(NodeError::UserAgent {
            held: name.chars().take(64).collect(),
        }),
    }
}

/// Under `weir.dev` in the node's metadata; other metadata is for others and is not looked at.
fn grpc_security(metadata: Option<&Struct>) -> Result<GrpcSecurity, NodeError> {
    let wrong = |path: String, problem| NodeError::Grpc { path, problem };
    let Some(value) = metadata.and_then(|metadata| metadata.fields.get(METADATA_KEY)) else {
        return Ok(GrpcSecurity::Cleartext);
    };
    let Some(Kind::StructValue(settings)) = &value.kind else {
        return Err(wrong(String::new(), "is no map"));
    };
    let mut security = GrpcSecurity::Cleartext;
    for (name, value) in &settings.fields {
        let name: String = name.chars().take(64).collect();
        security = match (name.as_str(), &value.kind) {
            ("mutualTls", Some(Kind::BoolValue(true))) => GrpcSecurity::MutualTls,
            ("mutualTls", Some(Kind::BoolValue(false))) => GrpcSecurity::Cleartext,
            ("mutualTls", _) => return Err(wrong(".mutualTls".to_owned(), "is neither true nor false")),
            _ => return Err(wrong(format!(".{name}"), "is not known here; mutualTls is")),
        };
    }
    Ok(security)
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
            dialect: Dialect::Weir,
        };
        assert_eq!(read, Ok(expect));
    }

    #[test]
    fn a_client_is_spoken_to_as_what_it_says_it_is() {
        let read = |user_agent: &str, feature: Option<&str>| {
            let node = envoy::Node {
                id: "citizen/a".to_owned(),
                user_agent_name: user_agent.to_owned(),
                client_features: feature.map(str::to_owned).into_iter().collect(),
                ..envoy::Node::default()
            };
            read_node(&node).map(|client| client.dialect)
        };
        let overprovisioning = Some("envoy.lb.does_not_support_overprovisioning");
        assert_eq!(read("weir-proxy", Some(FEATURE_V1)), Ok(Dialect::Weir));
        assert_eq!(
            read("gRPC C-core linux", overprovisioning),
            Ok(Dialect::Grpc(GrpcSecurity::Cleartext))
        );
        assert_eq!(read("gRPC Go", None), Ok(Dialect::Grpc(GrpcSecurity::Cleartext)));
        assert_eq!(read("grpc-java", None), Ok(Dialect::Grpc(GrpcSecurity::Cleartext)));
        assert_eq!(read("envoy", None), Ok(Dialect::Envoy(EnvoyNode::default())));
        assert_eq!(read("weir-proxy", None), Err(NodeError::Features));
        for name in ["", "Envoy Gateway", "curl"] {
            let refused = NodeError::UserAgent { held: name.to_owned() };
            assert_eq!(read(name, None), Err(refused));
        }
    }

    #[test]
    fn a_node_without_a_workloads_name_is_refused() {
        for id in ["", "citizen", "citizen/Health", "a/b/c"] {
            let node = envoy::Node {
                id: id.to_owned(),
                client_features: vec![FEATURE_V1.to_owned()],
                ..envoy::Node::default()
            };
            assert!(matches!(read_node(&node), Err(NodeError::Id(_))), "{id}");
        }
    }

    #[test]
    fn a_grpc_client_says_that_it_has_certificates() {
        let map = |fields: &[(&str, Kind)]| {
            let fields = fields.iter().map(|(name, kind)| {
                let kind = Some(kind.clone());
                ((*name).to_owned(), envoy_types::pb::google::protobuf::Value { kind })
            });
            Struct {
                fields: fields.collect(),
            }
        };
        let read = |settings: Kind| {
            let metadata = map(&[("weir.dev", settings), ("others", Kind::BoolValue(true))]);
            grpc_security(Some(&metadata))
        };
        let says = |fields: &[(&str, Kind)]| read(Kind::StructValue(map(fields)));
        assert_eq!(
            grpc_security(Some(&map(&[("other", Kind::BoolValue(true))]))),
            Ok(GrpcSecurity::Cleartext)
        );
        assert_eq!(says(&[]), Ok(GrpcSecurity::Cleartext));
        assert_eq!(
            says(&[("mutualTls", Kind::BoolValue(false))]),
            Ok(GrpcSecurity::Cleartext)
        );
        assert_eq!(
            says(&[("mutualTls", Kind::BoolValue(true))]),
            Ok(GrpcSecurity::MutualTls)
        );
        for (said, place) in [
            (read(Kind::BoolValue(true)), "node.metadata[\"weir.dev\"]: is no map"),
            (
                says(&[("mutualTls", Kind::StringValue("true".to_owned()))]),
                "node.metadata[\"weir.dev\"].mutualTls: is neither true nor false",
            ),
            (
                says(&[("mutualTLS", Kind::BoolValue(true))]),
                "node.metadata[\"weir.dev\"].mutualTLS: is not known here; mutualTls is",
            ),
        ] {
            assert_eq!(said.expect_err(place).to_string(), place);
        }
    }
}
