//! The roots that everybody trusts: a secret that is a validation context, of which nothing but its authorities counts.

use envoy_types::pb::envoy::config::core::v3::DataSource;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{CertificateValidationContext, Secret};
use weir_policy::model::TrustRoots;

use super::at::{At, Fault, take};
use super::checks::name;
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
    Ok(TrustRoots {
        name: name(&at.field("name"), &own)?,
        pem: authorities(&at_type, context)?,
    })
}

/// A condition that we would not look at is refused: it would be one that lets others in.
fn authorities(at: &At<'_>, wire: CertificateValidationContext) -> Result<String, Fault> {
    take!(at, wire, CertificateValidationContext {
        trusted_ca;
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
        custom_validator_config,
        only_verify_leaf_cert_crl,
        max_verify_depth,
        suppress_client_ca_list,
    });
    let at = at.field("trusted_ca");
    let wire = at.need(trusted_ca)?;
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
