//! Requests of every kind of key, changed and cut.

use proptest::prelude::*;
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::pki_types::pem::PemObject as _;

use super::*;

fn request(key: &KeyPair) -> String {
    let csr = CertificateParams::default().serialize_request(key).expect("a request");
    csr.pem().expect("as text")
}

fn to_pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n")
}

fn der(pem: &str) -> Vec<u8> {
    CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
        .expect("PEM")
        .to_vec()
}

#[test]
fn keys_on_p256_and_p384_are_taken_and_no_others() {
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384] {
        let key = KeyPair::generate_for(algorithm).expect("a key");
        let csr = read(&request(&key)).expect("it is right");
        assert_eq!(rcgen::PublicKeyData::der_bytes(&csr.key), key.public_key_raw());
        assert_eq!(
            csr.key_sha256,
            sha256(&rcgen::PublicKeyData::subject_public_key_info(&key))
        );
    }
    for algorithm in [
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
        &rcgen::PKCS_ECDSA_P521_SHA256,
    ] {
        let key = KeyPair::generate_for(algorithm).expect("a key");
        assert_eq!(read(&request(&key)).map(|_| ()), Err(CsrError::Key), "{algorithm:?}");
    }
}

#[test]
fn what_it_asks_for_beside_a_key_changes_nothing() {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(["weir-control.example".to_owned()]).expect("a name");
    let control = "spiffe://cluster.local/ns/weir-system/sa/weir-control";
    params
        .subject_alt_names
        .push(SanType::URI(control.try_into().expect("ASCII")));
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let greedy = params
        .serialize_request(&key)
        .and_then(|csr| csr.pem())
        .expect("a request");
    let (greedy, plain) = (read(&greedy).expect("a key"), read(&request(&key)).expect("a key"));
    assert_eq!((greedy.key, greedy.key_sha256), (plain.key, plain.key_sha256));
}

#[test]
fn a_request_must_be_signed_with_its_own_key() {
    let (one, other) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
    // The same but for the key within and the signature, both of which have places of fixed length.
    let (mine, theirs) = (der(&request(&one)), one.public_key_raw());
    let place = mine
        .windows(theirs.len())
        .position(|part| part == theirs)
        .expect("its key is in it");
    let mut swapped = mine.clone();
    swapped[place..place + theirs.len()].copy_from_slice(other.public_key_raw());
    assert_eq!(read(&to_pem(&swapped)).map(|_| ()), Err(CsrError::Signature));
    // What is changed is refused, or it was around what is signed: the key is the same.
    let mut refused = 0;
    for place in 0..mine.len() {
        for bit in [0x01, 0x80] {
            let mut changed = mine.clone();
            changed[place] ^= bit;
            match read(&to_pem(&changed)) {
                Ok(csr) => assert_eq!(
                    rcgen::PublicKeyData::der_bytes(&csr.key),
                    one.public_key_raw(),
                    "byte {place}"
                ),
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 2 * mine.len() - 8, "{refused} of {}", 2 * mine.len());
    for length in 0..mine.len() {
        assert!(read(&to_pem(&mine[..length])).is_err(), "{length} bytes");
    }
    let mut longer = mine;
    longer.push(0);
    assert!(read(&to_pem(&longer)).is_err());
}

#[test]
fn what_is_no_request_is_refused() {
    let key = KeyPair::generate().expect("a key");
    let good = request(&key);
    for text in [
        "",
        "csr",
        &key.serialize_pem(),
        &good.replace("REQUEST", "X"),
        &good[..good.len() / 2],
    ] {
        assert_eq!(read(text).map(|_| ()), Err(CsrError::Malformed), "{text}");
    }
    let long = format!("{}{good}", "x".repeat(CSR_BYTES_MAX));
    assert_eq!(read(&long).map(|_| ()), Err(CsrError::TooLong));
}

proptest! {
    #[test]
    fn no_bytes_break_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..256), text in any::<String>()) {
        prop_assert!(read(&to_pem(&bytes)).is_err());
        prop_assert!(read(&text).is_err());
    }
}
