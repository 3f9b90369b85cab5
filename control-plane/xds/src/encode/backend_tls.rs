//! TLS with endpoints that have no identity of the mesh.

use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::transport_socket::ConfigType;
use envoy_types::pb::envoy::config::core::v3::{DataSource, TransportSocket};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::certificate_validation_context::SystemRootCerts;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, SubjectAltNameMatcher, TlsParameters, UpstreamTlsContext,
};
use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use weir_policy::backend_tls::{Authorities, BackendTls, SubjectAltName, Validation};
use weir_policy::model::AppProtocol;

use super::pack;
use crate::meaning::{NO_CERTIFICATE, TLS_SOCKET};
use crate::pem;

/// How connections are secured, for a client that knows the certificates of its own system by a word.
pub(super) fn socket(tls: &BackendTls, protocol: AppProtocol) -> TransportSocket {
    let by_word = CertificateValidationContext {
        system_root_certs: Some(SystemRootCerts {}),
        ..CertificateValidationContext::default()
    };
    written(tls, protocol, by_word)
}

/// The same for an Envoy, which knows them by a file alone.
pub(super) fn envoy_socket(tls: &BackendTls, protocol: AppProtocol) -> TransportSocket {
    let by_file = CertificateValidationContext {
        trusted_ca: Some(DataSource {
            specifier: Some(Specifier::Filename(SYSTEM_FILE.to_owned())),
            ..DataSource::default()
        }),
        ..CertificateValidationContext::default()
    };
    written(tls, protocol, by_file)
}

fn written(tls: &BackendTls, protocol: AppProtocol, system: CertificateValidationContext) -> TransportSocket {
    let (sni, context) = match tls {
        BackendTls::Verified(validation) => (validation.hostname.clone(), verified(validation, system)),
        BackendTls::Closed { why: _ } => (String::new(), closed()),
    };
    let context = UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_params: Some(TlsParameters {
                tls_minimum_protocol_version: TlsProtocol::TlSv12.into(),
                tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
                ..TlsParameters::default()
            }),
            alpn_protocols: alpn(protocol).iter().map(|name| (*name).to_owned()).collect(),
            validation_context_type: Some(ValidationContextType::ValidationContext(context)),
            ..CommonTlsContext::default()
        }),
        sni,
        ..UpstreamTlsContext::default()
    };
    TransportSocket {
        name: TLS_SOCKET.to_owned(),
        config_type: Some(ConfigType::TypedConfig(pack(&context))),
    }
}

fn verified(validation: &Validation, system: CertificateValidationContext) -> CertificateValidationContext {
    let matchers = validation.names().into_iter().map(|name| {
        let (san_type, name) = match name {
            SubjectAltName::Dns(name) => (SanType::Dns, name),
            SubjectAltName::Uri(uri) => (SanType::Uri, uri),
        };
        SubjectAltNameMatcher {
            san_type: san_type.into(),
            matcher: Some(StringMatcher {
                match_pattern: Some(MatchPattern::Exact(name)),
                ..StringMatcher::default()
            }),
            ..SubjectAltNameMatcher::default()
        }
    });
    let context = match &validation.authorities {
        Authorities::System => system,
        Authorities::Given(certificates) => {
            let text = certificates.iter().map(|certificate| pem::to_pem(&certificate.0));
            CertificateValidationContext {
                trusted_ca: Some(DataSource {
                    specifier: Some(Specifier::InlineString(text.collect())),
                    ..DataSource::default()
                }),
                ..CertificateValidationContext::default()
            }
        }
    };
    CertificateValidationContext {
        match_typed_subject_alt_names: matchers.collect(),
        ..context
    }
}

/// What no certificate is: whoever does not know what is closed finds nobody there to trust.
pub(crate) fn closed() -> CertificateValidationContext {
    CertificateValidationContext {
        verify_certificate_hash: vec![NO_CERTIFICATE.to_owned()],
        ..CertificateValidationContext::default()
    }
}

/// What is spoken, as TLS calls it (RFC 7301 section 6); of what goes over TCP nobody knows.
pub(crate) fn alpn(protocol: AppProtocol) -> &'static [&'static str] {
    match protocol {
        AppProtocol::Http1 => &["http/1.1"],
        AppProtocol::Http2 | AppProtocol::Grpc => &["h2"],
        AppProtocol::Tcp => &[],
    }
}

/// Where Debian and those who follow it have the certificates of the system.
const SYSTEM_FILE: &str = "/etc/ssl/certs/ca-certificates.crt";
