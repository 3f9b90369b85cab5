//! Whose certificates are believed at inbound ports: each trust domain's by the roots of that one, and of none other.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use weir_policy::spiffe::TrustDomain;

use crate::identity::roots::Roots;
use crate::identity::trust;

/// Verifies that a caller's chain leads to a root of the trust domain that its certificate names. Who may come in, and
/// as whom, [`super::Tls`] says.
#[derive(Debug)]
pub(super) struct Callers {
    /// By the mesh's own roots.
    own: Arc<dyn ClientCertVerifier>,
    /// By those of another trust domain.
    others: BTreeMap<TrustDomain, Arc<dyn ClientCertVerifier>>,
    /// The names of all roots: some clients choose by them which certificate they show.
    hints: Vec<DistinguishedName>,
}

impl Callers {
    /// For callers below these roots. Those of our own trust domain are believed by the mesh's alone, whatever else is
    /// said of it.
    ///
    /// # Errors
    /// When a root can't be read.
    pub(super) fn new(
        ours: &TrustDomain,
        roots: &Roots,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Callers, rustls::Error> {
        let own = below(roots.own(), provider)?;
        let others = roots.others().iter().filter(|(domain, _)| *domain != ours);
        let others = others.map(|(domain, roots)| Ok((domain.clone(), below(roots, provider)?)));
        let others: BTreeMap<TrustDomain, Arc<dyn ClientCertVerifier>> =
            others.collect::<Result<_, rustls::Error>>()?;
        let mut hints = own.root_hint_subjects().to_vec();
        for other in others.values() {
            hints.extend_from_slice(other.root_hint_subjects());
        }
        Ok(Callers { own, others, hints })
    }

    /// By what a certificate is verified: of who is of no trust domain that is known, by the mesh's own roots.
    fn of(&self, end: &CertificateDer<'_>) -> &dyn ClientCertVerifier {
        let named = trust::read(end).ok();
        let other = named.and_then(|(_, id)| self.others.get(&id.trust_domain));
        other.unwrap_or(&self.own).as_ref()
    }
}

fn below(
    roots: &[CertificateDer<'static>],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, rustls::Error> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone())?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider));
    let built = verifier.build();
    built.map_err(|error| rustls::Error::General(error.to_string()))
}

impl ClientCertVerifier for Callers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.of(end).verify_client_cert(end, others, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.own.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.own.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.own.supported_verify_schemes()
    }
}
