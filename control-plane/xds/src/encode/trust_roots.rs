//! The roots that everybody trusts, as the published secret.

use envoy_types::pb::envoy::config::core::v3::DataSource;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{CertificateValidationContext, Secret};
use envoy_types::pb::google::protobuf::Any;
use weir_policy::model::TrustRoots;

use super::pack;

/// Roots, as `envoy.extensions.transport_sockets.tls.v3.Secret` with a validation context.
pub fn trust_roots(roots: &TrustRoots) -> Any {
    let source = DataSource {
        specifier: Some(Specifier::InlineString(roots.pem.clone())),
        ..DataSource::default()
    };
    pack(&Secret {
        name: roots.name.to_string(),
        r#type: Some(Type::ValidationContext(CertificateValidationContext {
            trusted_ca: Some(source),
            ..CertificateValidationContext::default()
        })),
    })
}
