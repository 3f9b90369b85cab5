//! The roots that everybody trusts, as the published secret.

use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::{DataSource, TypedExtensionConfig};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::spiffe_cert_validator_config::TrustDomain;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, SpiffeCertValidatorConfig,
};
use envoy_types::pb::google::protobuf::Any;
use weir_policy::model::TrustRoots;

use super::pack;
use crate::meaning::SPIFFE_VALIDATOR;

/// Roots, as `envoy.extensions.transport_sockets.tls.v3.Secret` with a validation context. Those of other trust domains
/// stand in it as Envoy's validator of SPIFFE ids has them.
pub fn trust_roots(roots: &TrustRoots) -> Any {
    let others = roots.others.iter().map(|(name, pem)| TrustDomain {
        name: name.to_string(),
        trust_bundle: Some(inline(pem)),
        ..TrustDomain::default()
    });
    let others = (!roots.others.is_empty()).then(|| TypedExtensionConfig {
        name: SPIFFE_VALIDATOR.to_owned(),
        typed_config: Some(pack(&SpiffeCertValidatorConfig {
            trust_domains: others.collect(),
            ..SpiffeCertValidatorConfig::default()
        })),
    });
    pack(&Secret {
        name: roots.name.to_string(),
        r#type: Some(Type::ValidationContext(CertificateValidationContext {
            trusted_ca: Some(inline(&roots.pem)),
            custom_validator_config: others,
            ..CertificateValidationContext::default()
        })),
    })
}

fn inline(pem: &str) -> DataSource {
    DataSource {
        specifier: Some(Specifier::InlineString(pem.to_owned())),
        ..DataSource::default()
    }
}
