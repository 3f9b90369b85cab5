//! Certificate signing requests (PKCS #10, RFC 2986). Nothing is taken from one but its key: who asks is known by how
//! they authenticated.

use rcgen::SubjectPublicKeyInfo;
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509CertificationRequest};
use x509_parser::public_key::PublicKey;

use super::x509::sha256;

/// A request whose sender has the private key.
#[derive(Debug)]
pub(crate) struct Csr {
    /// The key to be certified.
    pub(crate) key: SubjectPublicKeyInfo,
    /// SHA-256 of that key (SubjectPublicKeyInfo, DER).
    pub(crate) key_sha256: [u8; 32],
}

/// Why nothing is signed for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CsrError {
    #[error("the csr is longer than {CSR_BYTES_MAX} bytes")]
    TooLong,
    #[error("the csr can't be read; one PEM block \"CERTIFICATE REQUEST\" (PKCS #10) is right")]
    Malformed,
    #[error("the csr's key is none that is taken here; an EC key on P-256 or P-384 is right")]
    Key,
    #[error("the csr is not signed with its own key")]
    Signature,
}

/// Reads a request.
///
/// # Errors
/// See [`CsrError`].
pub(crate) fn read(pem: &str) -> Result<Csr, CsrError> {
    if pem.len() > CSR_BYTES_MAX {
        return Err(CsrError::TooLong);
    }
    let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).map_err(|_| CsrError::Malformed)?;
    let (rest, csr) = X509CertificationRequest::from_der(&der).map_err(|_| CsrError::Malformed)?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed);
    }
    let info = &csr.certification_request_info.subject_pki;
    match info.parsed() {
        // 256 and 384 bits; other curves of these sizes are refused by name below.
        Ok(PublicKey::EC(point)) if matches!(point.key_size(), 256 | 384) => {}
        Ok(_) | Err(_) => return Err(CsrError::Key),
    }
    csr.verify_signature().map_err(|_| CsrError::Signature)?;
    Ok(Csr {
        key: SubjectPublicKeyInfo::from_der(info.raw).map_err(|_| CsrError::Key)?,
        key_sha256: sha256(info.raw),
    })
}

/// One with the longest names and several signatures is a quarter of it.
const CSR_BYTES_MAX: usize = 16 * 1024;

#[cfg(test)]
mod tests;
