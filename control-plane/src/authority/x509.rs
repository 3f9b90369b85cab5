//! Certificates as bytes: PEM, fingerprints, what is read of one.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use weir_policy::spiffe::SpiffeId;
use x509_parser::asn1_rs::{FromDer as _, Oid, Utf8String};
use x509_parser::prelude::{GeneralName, X509Certificate};

/// Where a certificate carries the labels of its workload: a non-critical extension, a UTF8String that holds a JSON
/// object of strings. The number is one that anybody may draw under 2.25 (X.667, section 7).
pub(crate) const LABELS_OID: [u64; 3] = [2, 25, 6_417_295_880_317_446_213];

/// Labels of a workload.
pub(crate) type Labels = BTreeMap<String, String>;

/// Who a certificate says its holder is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Its one URI name.
    pub(crate) id: SpiffeId,
    /// The labels that its join token gave it.
    pub(crate) labels: Labels,
}

/// Why a certificate is nobody's here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error("the certificate can't be read")]
    Malformed,
    #[error("the certificate has {0} URI names; an X.509-SVID has one")]
    UriNames(usize),
    #[error("the certificate's URI name {0}")]
    Name(#[from] weir_policy::names::NameError),
    #[error("the certificate's labels can't be read")]
    Labels,
}

/// Who a certificate's holder is. Whether it is to be believed is for others to say.
///
/// # Errors
/// When it has not exactly one SPIFFE id (X.509-SVID, section 2), or labels that are none.
pub(crate) fn identity(certificate: &CertificateDer<'_>) -> Result<Identity, IdentityError> {
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| IdentityError::Malformed)?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| IdentityError::Malformed)?;
    let names = names.map_or(&[][..], |names| names.value.general_names.as_slice());
    let uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let uris: Vec<&str> = uris.collect();
    let [uri] = uris.as_slice() else {
        return Err(IdentityError::UriNames(uris.len()));
    };
    let oid = Oid::from(&LABELS_OID).map_err(|_| IdentityError::Labels)?;
    let held = certificate
        .get_extension_unique(&oid)
        .map_err(|_| IdentityError::Labels)?;
    let labels = match held {
        None => Labels::new(),
        Some(extension) => {
            let (_, text) = Utf8String::from_der(extension.value).map_err(|_| IdentityError::Labels)?;
            serde_json::from_str(text.as_ref()).map_err(|_| IdentityError::Labels)?
        }
    };
    Ok(Identity {
        id: uri.parse()?,
        labels,
    })
}

/// A text as a DER UTF8String.
pub(super) fn utf8_string(text: &str) -> Vec<u8> {
    use x509_parser::asn1_rs::ToDer as _;
    // It fails only where writing to memory fails.
    Utf8String::new(text).to_der_vec().unwrap_or_default()
}

/// SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// As hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // A String takes whatever is written.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// A certificate as text (RFC 7468).
pub(crate) fn to_pem(certificate: &CertificateDer<'_>) -> String {
    weir_xds::pem::to_pem(certificate)
}
