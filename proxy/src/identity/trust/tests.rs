//! Who is taken for the control plane, and who is not.

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};

use super::*;

/// A root; a chain under it with an intermediate and the root, the end first; the end's key; its SPIFFE id.
pub(in crate::identity) fn chain(
    id: &str,
) -> (CertificateDer<'static>, Vec<CertificateDer<'static>>, KeyPair, SpiffeId) {
    let key = || KeyPair::generate().expect("a key");
    let authority = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    };
    let root = authority("root");
    let root_key = key();
    let root_certificate = root.self_signed(&root_key).expect("a root");
    let root_issuer = Issuer::new(root, root_key);
    let intermediate = authority("intermediate");
    let intermediate_key = key();
    let intermediate_certificate = intermediate
        .signed_by(&intermediate_key, &root_issuer)
        .expect("an intermediate");
    let issuer = Issuer::new(intermediate, intermediate_key);
    let (mut end, end_key) = (end(&[id], ExtendedKeyUsagePurpose::ServerAuth), key());
    end.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    let end = end.signed_by(&end_key, &issuer).expect("a certificate");
    let chain = vec![end.der().clone(), intermediate_certificate.der().clone()];
    (
        root_certificate.der().clone(),
        chain,
        end_key,
        id.parse().expect("an id"),
    )
}

fn end(names: &[&str], usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = CertificateParams::default();
    let uri = |name: &&str| SanType::URI((*name).try_into().expect("ASCII"));
    params.subject_alt_names = names.iter().map(uri).collect();
    params.extended_key_usages = vec![usage];
    params
}

pub(in crate::identity) const CONTROL: &str = "spiffe://mesh.gov/ns/weir-system/sa/weir-control";

fn now() -> UnixTime {
    unix_time(SystemTime::now())
}

#[test]
fn a_root_is_known_by_itself_or_by_its_fingerprint() {
    let (root, chain, _, id) = chain(CONTROL);
    let with_root: Vec<_> = chain.iter().chain([&root]).cloned().collect();
    let trust = |roots: &[&CertificateDer<'static>], pins: &[[u8; 32]]| Trust {
        roots: roots.iter().copied().cloned().collect(),
        pins: pins.to_vec(),
        id: id.clone(),
    };
    let pin = sha256(&root);
    assert_eq!(trust(&[&root], &[]).check(&chain, &id, now()).map(drop), Ok(()));
    assert_eq!(trust(&[], &[pin]).check(&with_root, &id, now()).map(drop), Ok(()));
    let no_root = Err(Untrusted::NoRoot);
    assert_eq!(
        trust(&[], &[pin]).check(&chain, &id, now()).map(drop),
        no_root,
        "the root is not there"
    );
    let mut other = pin;
    other[31] ^= 1;
    assert_eq!(trust(&[], &[other]).check(&with_root, &id, now()).map(drop), no_root);
    assert_eq!(trust(&[], &[]).check(&with_root, &id, now()).map(drop), no_root);
    let (stranger, ..) = self::chain(CONTROL);
    let strangers = trust(&[&stranger], &[sha256(&stranger)]);
    assert!(
        strangers.check(&with_root, &id, now()).is_err(),
        "it has the same name and another key"
    );
    // A root of which the fingerprint is known, beside a chain that it is not above.
    let (_, foreign, ..) = self::chain(CONTROL);
    let mixed: Vec<_> = foreign.iter().chain([&root]).cloned().collect();
    assert!(trust(&[], &[pin]).check(&mixed, &id, now()).is_err());
    // The end itself, whose fingerprint somebody knows, is no root.
    let own = sha256(&chain[0]);
    assert_eq!(trust(&[], &[own]).check(&with_root, &id, now()).map(drop), no_root);
    assert_eq!(
        trust(&[&root], &[]).check(&[], &id, now()).map(drop),
        Err(Untrusted::Malformed)
    );
}

#[test]
fn only_the_exact_id_is_the_control_plane() {
    for held in [
        "spiffe://mesh.gov/ns/weir-system/sa/weir-contro",
        "spiffe://mesh.gov/ns/weir-system/sa/weir-control2",
        "spiffe://other.gov/ns/weir-system/sa/weir-control",
        "spiffe://mesh.gov/ns/citizen/sa/weir-control",
        "spiffe://mesh.gov/ns/weir-system/sa/portal",
    ] {
        let (root, chain, ..) = chain(held);
        let id: SpiffeId = CONTROL.parse().expect("an id");
        let trust = Trust {
            roots: vec![root],
            pins: Vec::new(),
            id: id.clone(),
        };
        let expect = Untrusted::Other {
            held: held.to_owned(),
            expect: CONTROL.to_owned(),
        };
        assert_eq!(trust.check(&chain, &id, now()).map(drop), Err(expect));
    }
}

#[test]
fn an_end_with_other_names_another_use_or_another_time_is_refused() {
    let root_key = KeyPair::generate().expect("a key");
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_certificate = root.self_signed(&root_key).expect("a root");
    let issuer = Issuer::new(root, root_key);
    let id: SpiffeId = CONTROL.parse().expect("an id");
    let trust = Trust {
        roots: vec![root_certificate.der().clone()],
        pins: Vec::new(),
        id: id.clone(),
    };
    let check = |params: &CertificateParams| {
        let key = KeyPair::generate().expect("a key");
        let end = params.signed_by(&key, &issuer).expect("a certificate");
        trust.check(&[end.der().clone()], &id, now()).map(drop)
    };
    let server = ExtendedKeyUsagePurpose::ServerAuth;
    assert_eq!(check(&end(&[CONTROL], server.clone())), Ok(()));
    let two = check(&end(&[CONTROL, "spiffe://mesh.gov/ns/a/sa/b"], server.clone()));
    assert!(matches!(two, Err(Untrusted::Other { .. })), "{two:?}");
    assert!(matches!(check(&end(&[], server.clone())), Err(Untrusted::Other { .. })));
    let client = check(&end(&[CONTROL], ExtendedKeyUsagePurpose::ClientAuth));
    assert!(matches!(client, Err(Untrusted::Chain(_))), "{client:?}");
    let mut ended = end(&[CONTROL], server.clone());
    ended.not_after = rcgen::date_time_ymd(2020, 1, 1);
    assert!(matches!(check(&ended), Err(Untrusted::Chain(_))));
    let mut early = end(&[CONTROL], server);
    early.not_before = rcgen::date_time_ymd(4000, 1, 1);
    assert!(matches!(check(&early), Err(Untrusted::Chain(_))));
}

/// Whom a trusted root has signed, and nobody who only has that one's name.
#[test]
fn a_root_that_a_trusted_one_has_signed_is_vouched_for() {
    let key = || KeyPair::generate().expect("a key");
    let authority = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    };
    let (old_key, new_key, false_key) = (key(), key(), key());
    let old_certificate = authority("old").self_signed(&old_key).expect("a root");
    let new_certificate = authority("new").self_signed(&new_key).expect("a root");
    let false_certificate = authority("new").self_signed(&false_key).expect("a root");
    let old = Issuer::new(authority("old"), old_key);
    let cross = authority("new")
        .signed_by(&new_key, &old)
        .expect("signed by the old one");
    let new = Issuer::new(authority("new"), new_key);
    let end = end(&[CONTROL], ExtendedKeyUsagePurpose::ServerAuth);
    let end = end.signed_by(&key(), &new).expect("a certificate");
    let id: SpiffeId = CONTROL.parse().expect("an id");
    let trust = |root: &rcgen::Certificate| Trust {
        roots: vec![root.der().clone()],
        pins: Vec::new(),
        id: id.clone(),
    };
    let others = [new_certificate.der(), false_certificate.der(), cross.der(), end.der()];
    let chain: Vec<_> = [end.der()].into_iter().chain(others).cloned().collect();
    let vouched = trust(&old_certificate)
        .check(&chain, &id, now())
        .expect("below the old one");
    assert!(vouched.is_for(new_certificate.der()));
    assert!(!vouched.is_for(false_certificate.der()), "another key");
    assert!(!vouched.is_for(cross.der()), "no root");
    assert!(!vouched.is_for(old_certificate.der()));
    let vouched = trust(&new_certificate)
        .check(&chain, &id, now())
        .expect("below the new one");
    assert!(!vouched.is_for(new_certificate.der()), "it is trusted by itself");
    assert!(trust(&false_certificate).check(&chain, &id, now()).is_err());
}
