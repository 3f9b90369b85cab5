//! TLS with endpoints that have no identity of the mesh: who answers must be whom the cluster's policy names, by the
//! word of those whom it names (Gateway API, BackendTLSPolicy).

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::client::verify_server_name;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::version::{TLS12, TLS13};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, TlsStream};
use webpki::EndEntityCert;
use weir_policy::backend_tls::{self, Authorities, SubjectAltName, Validation};

use super::{H2, HTTP11, TlsError};
use crate::http::io::Io;
use crate::http::upstream::Wire;

/// How the endpoints of a cluster are reached that have no identity. Made anew when the cluster's configuration of it
/// changes, and with it every connection: what was verified by other rules says nothing about the new.
#[derive(Debug)]
pub(crate) struct BackendTls {
    config: backend_tls::BackendTls,
    /// What is spoken within; `None`: whatever goes over TCP.
    wire: Option<Wire>,
    /// As whom we call.
    ///
    /// # Errors
    /// Why nothing may be sent.
    pub(crate) client: Result<Arc<Client>, Arc<str>>,
}

impl BackendTls {
    /// What a cluster's configuration says, for what is spoken on this wire. May read the certificates of the system,
    /// once.
    pub(crate) fn new(config: &backend_tls::BackendTls, wire: Option<Wire>) -> BackendTls {
        let client = match config {
            backend_tls::BackendTls::Verified(validation) => Client::new(validation, wire).map(Arc::new),
            backend_tls::BackendTls::Closed { why } => Err(why.clone()),
        };
        BackendTls {
            config: config.clone(),
            wire,
            client: client.map_err(Arc::from),
        }
    }

    /// Whether it is what this says, and need not be made anew. What failed is tried again: the system may have got the
    /// certificates that it lacked.
    pub(crate) fn is(&self, config: &backend_tls::BackendTls, wire: Option<Wire>) -> bool {
        self.wire == wire && self.config == *config && !self.may_get_better()
    }

    /// Whether it failed for what may change without its configuration.
    pub(crate) fn may_get_better(&self) -> bool {
        self.client.is_err() && matches!(self.config, backend_tls::BackendTls::Verified(_))
    }
}

/// What calls are made with.
pub(crate) struct Client {
    config: Arc<ClientConfig>,
    /// Who is asked for.
    name: ServerName<'static>,
    wire: Option<Wire>,
}

/// Without what TLS keeps.
impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// For one who is verified so.
    ///
    /// # Errors
    /// Why nothing may be sent.
    pub(crate) fn new(validation: &Validation, wire: Option<Wire>) -> Result<Client, String> {
        let name = ServerName::try_from(validation.hostname.clone())
            .map_err(|_| format!("{:?} is no name to ask for", validation.hostname))?;
        // As it comes: what is better against the quantum computers of later makes the first message longer than some
        // old systems take, and is used with those who ask for it.
        let provider = Arc::new(default_provider());
        let verifier = Verifier {
            roots: roots(&validation.authorities)?,
            names: validation.names(),
            provider: Arc::clone(&provider),
        };
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13, &TLS12]);
        let mut config = config
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = match wire {
            Some(Wire::Http1) => vec![HTTP11.to_vec()],
            Some(Wire::Http2) => vec![H2.to_vec()],
            None => Vec::new(),
        };
        Ok(Client {
            config: Arc::new(config),
            name,
            wire,
        })
    }

    /// Shakes hands with an endpoint.
    ///
    /// # Cancel safety
    /// Dropped, the connection is closed.
    pub(crate) async fn connect(&self, stream: TcpStream) -> Result<Io, TlsError> {
        let connecting = TlsConnector::from(Arc::clone(&self.config)).connect(self.name.clone(), stream);
        let stream = connecting.await.map_err(TlsError::Handshake)?;
        // RFC 9113 section 3.2: HTTP/2 over TLS is agreed on by ALPN. HTTP/1.1 is what there was before that.
        match (self.wire, stream.get_ref().1.alpn_protocol()) {
            (Some(Wire::Http2), Some(H2)) | (Some(Wire::Http1) | None, _) => {
                Ok(Io::Tls(Box::new(TlsStream::Client(stream))))
            }
            (Some(Wire::Http2), _) => Err(TlsError::NoHttp2),
        }
    }
}

/// Whom a cluster's policy believes.
///
/// # Errors
/// Why there is nobody.
pub(crate) fn roots(authorities: &Authorities) -> Result<Arc<RootCertStore>, String> {
    let certificates = match authorities {
        Authorities::System => return system_roots(),
        Authorities::Given(certificates) => certificates,
    };
    let mut roots = RootCertStore::empty();
    for (i, certificate) in certificates.iter().enumerate() {
        let added = roots.add(CertificateDer::from_slice(&certificate.0).into_owned());
        added.map_err(|error| format!("certificate {} of those who sign can't be read: {error}", i + 1))?;
    }
    Ok(Arc::new(roots))
}

/// Whom the system believes: read when it is asked for first, by the task that takes configuration into force.
fn system_roots() -> Result<Arc<RootCertStore>, String> {
    static READ: Mutex<Option<Arc<RootCertStore>>> = Mutex::new(None);
    let mut read = READ.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(roots) = &*read {
        return Ok(Arc::clone(roots));
    }
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Systems have old ones that TLS of today does not read; the others count.
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let errors: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        return Err(format!(
            "this proxy's system has no certificates that it trusts (on Debian the package ca-certificates has them) {}",
            errors.join("; ")
        ));
    }
    let roots = Arc::new(roots);
    *read = Some(Arc::clone(&roots));
    Ok(roots)
}

/// Believes a certificate that is for one of some names.
#[derive(Debug)]
struct Verifier {
    roots: Arc<RootCertStore>,
    names: Vec<SubjectAltName>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn is_for(&self, end: &CertificateDer<'_>, parsed: &ParsedCertificate<'_>) -> Result<bool, rustls::Error> {
        let presented = EndEntityCert::try_from(end).map_err(|_| CertificateError::BadEncoding)?;
        let has = |name: &SubjectAltName| match name {
            SubjectAltName::Dns(name) if name.starts_with("*.") => {
                presented.valid_dns_names().any(|held| held.eq_ignore_ascii_case(name))
            }
            SubjectAltName::Dns(name) => {
                let name = ServerName::try_from(name.as_str());
                name.is_ok_and(|name| verify_server_name(parsed, &name).is_ok())
            }
            SubjectAltName::Uri(uri) => presented.valid_uri_names().any(|held| held == uri),
        };
        Ok(self.names.iter().any(has))
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(end)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, others, now, algorithms)?;
        match self.is_for(end, &parsed)? {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(
                Arc::new(OtherNames::new(end, &self.names)),
            )))),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A certificate is for somebody else.
#[derive(Debug, thiserror::Error)]
#[error("it is for {held}, and should be for {expected}")]
struct OtherNames {
    held: String,
    expected: String,
}

impl OtherNames {
    fn new(end: &CertificateDer<'_>, expected: &[SubjectAltName]) -> OtherNames {
        let expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
        let presented = EndEntityCert::try_from(end);
        let mut held: Vec<String> = Vec::new();
        if let Ok(presented) = &presented {
            let names = presented.valid_dns_names().chain(presented.valid_uri_names());
            // They are a peer's: a few tell enough.
            held.extend(names.take(NAMES_MAX).map(|name| name.chars().take(253).collect()));
        }
        OtherNames {
            held: if held.is_empty() {
                "nobody".to_owned()
            } else {
                held.join(", ")
            },
            expected: expected.join(" or "),
        }
    }
}

/// Of a certificate's names in an error.
const NAMES_MAX: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_made_anew_and_what_is_closed_or_works_is_not() {
        let verified = backend_tls::BackendTls::Verified(Validation {
            hostname: "bank.gov".to_owned(),
            authorities: Authorities::Given(Vec::new()),
            subject_alt_names: Vec::new(),
        });
        let works = BackendTls::new(&verified, Some(Wire::Http1));
        assert!(works.client.is_ok() && works.is(&verified, Some(Wire::Http1)));
        assert!(!works.is(&verified, None), "something else is spoken within");
        let failed = BackendTls {
            client: Err("no certificates".into()),
            ..works
        };
        assert!(!failed.is(&verified, Some(Wire::Http1)));
        let closed = backend_tls::BackendTls::Closed {
            why: "it names none".to_owned(),
        };
        assert!(BackendTls::new(&closed, None).is(&closed, None));
    }
}
