//! The roots that everybody trusts: a secret that is a validation context, of which its authorities count, and those of
//! other trust domains.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::{DataSource, TypedExtensionConfig};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::spiffe_cert_validator_config as spiffe;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, SpiffeCertValidatorConfig,
};
use weir_policy::model::TrustRoots;
use weir_policy::spiffe::TrustDomain;

use super::at::{At, Fault, take};
use super::checks::{self, unpack};
use crate::meaning::SPIFFE_VALIDATOR;
use crate::rejection::Problem;

pub(super) fn trust_roots(at: &At<'_>, wire: Secret) -> Result<TrustRoots, Fault> {
    let Secret { name: own, r#type } = wire;
    let at_type = at.field("validation_context");
    let other = |field, what: &'static str| at.field(field).fault("", Problem::Unsupported { expected: what });
    let context = match at_type.need(r#type)? {
        Type::ValidationContext(context) => context,
        Type::TlsCertificate(_) => return Err(other("tls_certificate", ONLY)),
        Type::SessionTicketKeys(_) => return Err(other("session_ticket_keys", ONLY)),
        Type::GenericSecret(_) => return Err(other("generic_secret", ONLY)),
    };
    let name = checks::name(&at.field("name"), &own)?;
    let (pem, others) = authorities(&at_type, context)?;
    Ok(TrustRoots { name, pem, others })
}

/// A condition that we would not look at is refused: it would be one that lets others in.
fn authorities(
    at: &At<'_>,
    wire: CertificateValidationContext,
) -> Result<(String, BTreeMap<TrustDomain, String>), Fault> {
    take!(at, wire, CertificateValidationContext {
        trusted_ca,
        custom_validator_config;
        ca_certificate_provider_instance,
        system_root_certs,
        watched_directory,
        verify_certificate_spki,
        verify_certificate_hash,
        match_typed_subject_alt_names,
        match_subject_alt_names,
        require_signed_certificate_timestamp,
        crl,
        allow_expired_certificate,
        trust_chain_verification,
        only_verify_leaf_cert_crl,
        max_verify_depth,
        suppress_client_ca_list,
    });
    let own = inline(&at.field("trusted_ca"), trusted_ca)?;
    let others = custom_validator_config.map(|config| domains(&at.field("custom_validator_config"), config));
    Ok((own, others.transpose()?.unwrap_or_default()))
}

/// The roots of other trust domains, as Envoy's validator of SPIFFE ids has them.
fn domains(at: &At<'_>, wire: TypedExtensionConfig) -> Result<BTreeMap<TrustDomain, String>, Fault> {
    let TypedExtensionConfig {
        name: called,
        typed_config,
    } = wire;
    if called != SPIFFE_VALIDATOR {
        let expected = SPIFFE_VALIDATOR.to_owned();
        let held = format_args!("{called:?}").to_string();
        return Err(at.field("name").fault(held, Problem::Mismatch { expected }));
    }
    let at = at.field("typed_config");
    let config: SpiffeCertValidatorConfig = unpack(&at, &at.need(typed_config)?, "a SPIFFECertValidatorConfig")?;
    take!(at, config, SpiffeCertValidatorConfig { trust_domains; trust_bundles });
    let at = at.field("trust_domains");
    if trust_domains.is_empty() {
        return Err(at.fault("", Problem::Missing));
    }
    let mut domains = BTreeMap::new();
    for (i, wire) in trust_domains.into_iter().enumerate() {
        let at = at.index(i);
        take!(at, wire, spiffe::TrustDomain { name, trust_bundle; workload_trust_domain });
        let at_name = at.field("name");
        let domain = checks::name(&at_name, &name)?;
        let roots = inline(&at.field("trust_bundle"), trust_bundle)?;
        if domains.insert(domain, roots).is_some() {
            return Err(at_name.fault(format_args!("{name:?}"), Problem::Duplicate));
        }
    }
    Ok(domains)
}

/// A text that stands in the message.
fn inline(at: &At<'_>, wire: Option<DataSource>) -> Result<String, Fault> {
    let wire = at.need(wire)?;
    take!(at, wire, DataSource { specifier; watched_directory });
    let (at, text) = match at.need(specifier)? {
        Specifier::InlineString(text) => (at.field("inline_string"), Ok(text)),
        Specifier::InlineBytes(bytes) => (at.field("inline_bytes"), String::from_utf8(bytes)),
        Specifier::Filename(file) => return Err(at.field("filename").malformed(&file, INLINE)),
        Specifier::EnvironmentVariable(name) => {
            return Err(at.field("environment_variable").malformed(&name, INLINE));
        }
    };
    let text = text.map_err(|_| at.malformed("", "is no text"))?;
    match text.is_empty() {
        true => Err(at.fault("", Problem::Missing)),
        false => Ok(text),
    }
}

const ONLY: &str = "validation_context";
const INLINE: &str = "is of another host: inline_string is right";
