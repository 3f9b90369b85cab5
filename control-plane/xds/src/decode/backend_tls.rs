//! TLS with endpoints that have no identity of the mesh. Of the many ways in which an Envoy can be told of it there is
//! one here; others are refused by name.

use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::transport_socket::ConfigType;
use envoy_types::pb::envoy::config::core::v3::{DataSource, TransportSocket};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::certificate_validation_context::{
    SystemRootCerts, TrustChainVerification,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, SubjectAltNameMatcher, TlsParameters, UpstreamTlsContext,
};
use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use weir_policy::backend_tls::{Authorities, BackendTls, Certificate, SubjectAltName, Validation};
use weir_policy::model::AppProtocol;

use super::at::{At, Fault, take};
use super::checks::{equal, text, unpack};
use crate::encode::backend_tls::{alpn, closed};
use crate::meaning::{NO_CERTIFICATE, TLS_SOCKET};
use crate::pem;
use crate::rejection::Problem;

/// How the endpoints of a cluster that speaks this are secured. `why`: why it is closed, at `at_why`; empty: it isn't.
pub(super) fn backend_tls(
    at: &At<'_>,
    wire: Option<TransportSocket>,
    at_why: &At<'_>,
    why: String,
    protocol: AppProtocol,
) -> Result<Option<BackendTls>, Fault> {
    let Some(wire) = wire else {
        at_why.refuse("closed", &why)?;
        return Ok(None);
    };
    take!(at, wire, TransportSocket { name, config_type; });
    equal(&at.field("name"), &name, TLS_SOCKET)?;
    let at = at.field("typed_config");
    let ConfigType::TypedConfig(any) = at.need(config_type)?;
    take!(at, unpack(&at, &any, "an UpstreamTlsContext")?, UpstreamTlsContext {
        common_tls_context, sni;
        auto_host_sni, auto_sni_san_validation, allow_renegotiation, max_session_keys, enforce_rsa_key_usage,
    });
    let at_common = at.field("common_tls_context");
    take!(at_common, at_common.need(common_tls_context)?, CommonTlsContext {
        tls_params, alpn_protocols, validation_context_type;
        tls_certificates, tls_certificate_sds_secret_configs, tls_certificate_provider_instance,
        custom_tls_certificate_selector, tls_certificate_certificate_provider,
        tls_certificate_certificate_provider_instance, custom_handshaker, key_log,
    });
    versions(&at_common.field("tls_params"), tls_params)?;
    let at_alpn = at_common.field("alpn_protocols");
    equal(&at_alpn, &alpn_protocols.join(","), &alpn(protocol).join(","))?;
    let at_context = at_common.field("validation_context");
    let context = match at_context.need(validation_context_type)? {
        ValidationContextType::ValidationContext(context) => context,
        ValidationContextType::ValidationContextSdsSecretConfig(_)
        | ValidationContextType::CombinedValidationContext(_)
        | ValidationContextType::ValidationContextCertificateProvider(_)
        | ValidationContextType::ValidationContextCertificateProviderInstance(_) => {
            let expected = "in the message itself";
            return Err(at_context.fault("another source", Problem::Unsupported { expected }));
        }
    };
    if !why.is_empty() {
        at.refuse("sni", &sni)?;
        if context != closed() {
            let expected = "a hash that no certificate has, since the cluster is closed";
            return Err(at_context.fault("", Problem::Unsupported { expected }));
        }
        let why = text(&at_why.field("closed"), why)?;
        return Ok(Some(BackendTls::Closed { why }));
    }
    let hostname = text(&at.field("sni"), sni)?;
    let (authorities, names) = validation(&at_context, context)?;
    let own = [SubjectAltName::Dns(hostname.clone())];
    Ok(Some(BackendTls::Verified(Validation {
        subject_alt_names: if names == own { Vec::new() } else { names },
        hostname: dns_name(&at.field("sni"), hostname)?,
        authorities,
    })))
}

fn versions(at: &At<'_>, wire: Option<TlsParameters>) -> Result<(), Fault> {
    take!(at, at.need(wire)?, TlsParameters {
        tls_minimum_protocol_version, tls_maximum_protocol_version;
        cipher_suites, ecdh_curves, signature_algorithms, compliance_policies,
    });
    for (field, held, expected) in [
        (
            "tls_minimum_protocol_version",
            tls_minimum_protocol_version,
            TlsProtocol::TlSv12,
        ),
        (
            "tls_maximum_protocol_version",
            tls_maximum_protocol_version,
            TlsProtocol::TlSv13,
        ),
    ] {
        let at = at.field(field);
        equal(
            &at,
            at.known::<TlsProtocol>(held)?.as_str_name(),
            expected.as_str_name(),
        )?;
    }
    Ok(())
}

fn validation(at: &At<'_>, wire: CertificateValidationContext) -> Result<(Authorities, Vec<SubjectAltName>), Fault> {
    take!(at, wire, CertificateValidationContext {
        trusted_ca, system_root_certs, match_typed_subject_alt_names, trust_chain_verification,
        verify_certificate_hash;
        ca_certificate_provider_instance, watched_directory, verify_certificate_spki,
        match_subject_alt_names, require_signed_certificate_timestamp, crl, allow_expired_certificate,
        custom_validator_config, only_verify_leaf_cert_crl, max_verify_depth, suppress_client_ca_list,
    });
    if verify_certificate_hash == [NO_CERTIFICATE] {
        let expected = "the hash of a certificate; this one none has, and why it is closed is not said";
        let at = at.field("verify_certificate_hash");
        return Err(at.fault("", Problem::Unsupported { expected }));
    }
    at.refuse("verify_certificate_hash", &verify_certificate_hash)?;
    let at_chain = at.field("trust_chain_verification");
    match at_chain.known(trust_chain_verification)? {
        TrustChainVerification::VerifyTrustChain => {}
        other @ TrustChainVerification::AcceptUntrusted => {
            let expected = "VERIFY_TRUST_CHAIN";
            return Err(at_chain.fault(other.as_str_name(), Problem::Unsupported { expected }));
        }
    }
    let at_trusted = at.field("trusted_ca");
    let authorities = match (trusted_ca, system_root_certs) {
        (trusted, None) => Authorities::Given(given(&at_trusted, at_trusted.need(trusted)?)?),
        (None, Some(SystemRootCerts {})) => Authorities::System,
        (Some(_), Some(SystemRootCerts {})) => {
            return Err(at.field("system_root_certs").fault("", Problem::WithoutEffect));
        }
    };
    let at_names = at.field("match_typed_subject_alt_names");
    if match_typed_subject_alt_names.is_empty() {
        // Anybody with a certificate of such an authority would do.
        return Err(at_names.fault("", Problem::Missing));
    }
    let names = match_typed_subject_alt_names.into_iter().enumerate();
    let names = names.map(|(i, wire)| subject_alt_name(&at_names.index(i), wire));
    Ok((authorities, names.collect::<Result<_, _>>()?))
}

fn given(at: &At<'_>, wire: DataSource) -> Result<Vec<Certificate>, Fault> {
    take!(at, wire, DataSource { specifier; watched_directory });
    let at_text = at.field("inline_string");
    let text = match at_text.need(specifier)? {
        Specifier::InlineString(text) => text,
        Specifier::Filename(_) | Specifier::InlineBytes(_) | Specifier::EnvironmentVariable(_) => {
            let expected = "inline_string";
            return Err(at.fault("another source", Problem::Unsupported { expected }));
        }
    };
    let broken = |problem| at_text.fault("", Problem::Malformed { problem });
    let certificates = pem::certificates(&text).map_err(|_| broken("is no certificates in PEM"))?;
    if certificates.is_empty() {
        return Err(broken("holds no certificate in PEM"));
    }
    Ok(certificates.into_iter().map(Certificate).collect())
}

fn subject_alt_name(at: &At<'_>, wire: SubjectAltNameMatcher) -> Result<SubjectAltName, Fault> {
    take!(at, wire, SubjectAltNameMatcher { san_type, matcher; oid });
    let at_matcher = at.field("matcher");
    take!(at_matcher, at_matcher.need(matcher)?, StringMatcher { match_pattern; ignore_case });
    let at_exact = at_matcher.field("exact");
    let name = match at_exact.need(match_pattern)? {
        MatchPattern::Exact(name) => text(&at_exact, name)?,
        MatchPattern::Prefix(_)
        | MatchPattern::Suffix(_)
        | MatchPattern::SafeRegex(_)
        | MatchPattern::Contains(_)
        | MatchPattern::Custom(_) => {
            let expected = "exact";
            return Err(at_matcher.fault("another match", Problem::Unsupported { expected }));
        }
    };
    let at_type = at.field("san_type");
    match at_type.known(san_type)? {
        SanType::Dns => {
            let under = name.strip_prefix("*.").unwrap_or(&name).to_owned();
            dns_name(&at_exact, under)?;
            Ok(SubjectAltName::Dns(name))
        }
        SanType::Uri => Ok(SubjectAltName::Uri(name)),
        other @ (SanType::Unspecified | SanType::Email | SanType::IpAddress | SanType::OtherName) => {
            let expected = "DNS or URI";
            Err(at_type.fault(other.as_str_name(), Problem::Unsupported { expected }))
        }
    }
}

fn dns_name(at: &At<'_>, name: String) -> Result<String, Fault> {
    let is_lower = !name.bytes().any(|b| b.is_ascii_uppercase());
    match rustls_pki_types::DnsName::try_from(name.as_str()) {
        Ok(_) if is_lower && name.parse::<std::net::IpAddr>().is_err() => Ok(name),
        Ok(_) | Err(_) => Err(at.malformed(&name, "is no name of the DNS in lower case")),
    }
}
