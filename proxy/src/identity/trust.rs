//! Who somebody is: by a root that is trusted, and by an exact SPIFFE id. What a host is called in the DNS doesn't
//! matter.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs::default_provider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use weir_policy::spiffe::SpiffeId;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// What makes a peer who it should be: the control plane, or a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trust {
    /// Roots that are known.
    pub(crate) roots: Vec<CertificateDer<'static>>,
    /// SHA-256 of roots (the whole certificate) that are known by nothing else; the peer brings the root itself.
    pub(crate) pins: Vec<[u8; 32]>,
    /// Who it must be.
    pub(crate) id: SpiffeId,
}

/// What a chain that is believed says beside who its holder is: other roots that those which are trusted have signed.
#[derive(Debug, Default)]
pub(crate) struct Vouched(Vec<Vouching>);

#[derive(Debug, PartialEq, Eq)]
struct Vouching {
    subject: Vec<u8>,
    key: Vec<u8>,
}

impl Vouched {
    /// Whether a root has name and key of an authority that the chain goes by.
    pub(crate) fn is_for(&self, root: &CertificateDer<'_>) -> bool {
        is_self_issued(root) && vouching(root).is_some_and(|root| self.0.contains(&root))
    }
}

fn vouching(certificate: &CertificateDer<'_>) -> Option<Vouching> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(Vouching {
        subject: parsed.subject().as_raw().to_vec(),
        key: parsed.public_key().raw.to_vec(),
    })
}

/// Why a certificate is not who it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Untrusted {
    #[error("none of the roots that are trusted here is above it")]
    NoRoot,
    #[error("it can't be read")]
    Malformed,
    #[error("{0}")]
    Chain(String),
    #[error("it is {held:?}, not {expect}")]
    Other { held: String, expect: String },
}

impl Trust {
    /// Whether `chain`, the end first, is of `id`, by a root that is trusted; returns whom that root vouches for.
    ///
    /// # Errors
    /// See [`Untrusted`].
    pub(crate) fn check(
        &self,
        chain: &[CertificateDer<'_>],
        id: &SpiffeId,
        now: UnixTime,
    ) -> Result<Vouched, Untrusted> {
        let (end, others) = chain.split_first().ok_or(Untrusted::Malformed)?;
        let pinned = others
            .iter()
            .filter(|certificate| self.pins.contains(&sha256(certificate)));
        let roots: Vec<&CertificateDer<'_>> = self.roots.iter().chain(pinned).collect();
        let anchors = roots.iter().map(|root| anchor_from_trusted_cert(root));
        let anchors = anchors
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| Untrusted::Malformed)?;
        if anchors.is_empty() {
            return Err(Untrusted::NoRoot);
        }
        let end = EndEntityCert::try_from(end).map_err(|_| Untrusted::Malformed)?;
        let usage = KeyUsage::server_auth();
        let verified = end.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, others, now, usage, None, None);
        let verified = verified.map_err(|error| match error {
            webpki::Error::UnknownIssuer => Untrusted::NoRoot,
            error => Untrusted::Chain(error.to_string()),
        })?;
        let names: Vec<&str> = end.valid_uri_names().collect();
        let expect = id.to_string();
        if names != [expect.as_str()] {
            let held = names.join(", ");
            return Err(Untrusted::Other { held, expect });
        }
        let between = verified.intermediate_certificates();
        let vouched = between.filter_map(|certificate| vouching(&CertificateDer::from(certificate.der().to_vec())));
        Ok(Vouched(vouched.collect()))
    }

    /// Takes the certificate of a server that is [`Trust::id`].
    pub(crate) fn verifier(self, provider: Arc<CryptoProvider>) -> Arc<dyn ServerCertVerifier> {
        Arc::new(ExactPeer { trust: self, provider })
    }

    /// How TLS is spoken to the control plane, as `own`: a chain and its key.
    ///
    /// # Errors
    /// When the key is none, or not the certificate's.
    pub(crate) fn client_config(
        self,
        own: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    ) -> Result<ClientConfig, rustls::Error> {
        let provider = Arc::new(default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(self.verifier(provider));
        let mut config = match own {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        // The next connection shows the certificate of then.
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

#[derive(Debug)]
struct ExactPeer {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ExactPeer {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _dns: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain: Vec<CertificateDer<'_>> = std::iter::once(end).chain(others).cloned().collect();
        match self.trust.check(&chain, &self.trust.id, now) {
            Ok(_) => Ok(ServerCertVerified::assertion()),
            Err(untrusted) => Err(rustls::Error::InvalidCertificate(CertificateError::Other(
                rustls::OtherError(Arc::new(untrusted)),
            ))),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Until when a certificate is good, and whose it says it is.
///
/// # Errors
/// When it can't be read, or has not one SPIFFE id.
pub(crate) fn read(certificate: &CertificateDer<'_>) -> Result<(SystemTime, SpiffeId), Untrusted> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| Untrusted::Malformed)?;
    let end = EndEntityCert::try_from(certificate).map_err(|_| Untrusted::Malformed)?;
    let names: Vec<&str> = end.valid_uri_names().collect();
    let [name] = names.as_slice() else {
        return Err(Untrusted::Malformed);
    };
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).map_err(|_| Untrusted::Malformed)?;
    let id = name.parse().map_err(|_| Untrusted::Malformed)?;
    Ok((SystemTime::UNIX_EPOCH + Duration::from_secs(seconds), id))
}

/// Whether it names itself as its issuer, as roots do.
pub(crate) fn is_self_issued(certificate: &CertificateDer<'_>) -> bool {
    let parsed = X509Certificate::from_der(certificate);
    parsed.is_ok_and(|(_, parsed)| parsed.subject().as_raw() == parsed.issuer().as_raw())
}

/// SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// The time as certificates are checked by it.
pub(crate) fn unix_time(now: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
pub(in crate::identity) mod tests;
