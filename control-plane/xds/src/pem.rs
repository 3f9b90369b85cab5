//! Certificates as text (RFC 7468).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

/// A certificate in DER as text.
pub fn to_pem(certificate: &[u8]) -> String {
    let encoded = STANDARD.encode(certificate);
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in encoded.as_bytes().chunks(64) {
        text.extend(line.iter().copied().map(char::from));
        text.push('\n');
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

/// All certificates in a text, in DER; what else stands there is passed over. Whether they are such, others see.
///
/// # Errors
/// When one of its sections is broken; says how.
pub fn certificates(text: &str) -> Result<Vec<Vec<u8>>, String> {
    let all = CertificateDer::pem_slice_iter(text.as_bytes());
    all.map(|one| one.map(|one| one.to_vec()).map_err(|error| error.to_string()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let all: Vec<Vec<u8>> = (0..200).map(|size| vec![0x30; size]).collect();
        let text: String = all.iter().map(|one| to_pem(one)).collect();
        assert_eq!(certificates(&text), Ok(all));
        let among = format!(
            "# ours\n-----BEGIN X-----\nAAAA\n-----END X-----\n{}and more",
            to_pem(b"a")
        );
        assert_eq!(certificates(&among), Ok(vec![b"a".to_vec()]));
        assert_eq!(certificates(""), Ok(Vec::new()));
        certificates("-----BEGIN CERTIFICATE-----\nAAAA\n").expect_err("it does not end");
        certificates("-----BEGIN CERTIFICATE-----\nA?AA\n-----END CERTIFICATE-----\n").expect_err("no base64");
    }
}
