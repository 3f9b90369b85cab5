//! What is signed, and with what nothing is.

use super::*;
use crate::authority::files::in_memory;
use crate::authority::x509::identity;

fn trust_domain() -> TrustDomain {
    "mesh.gov".parse().expect("a trust domain")
}

fn portal() -> SpiffeId {
    "spiffe://mesh.gov/ns/citizen/sa/portal".parse().expect("an id")
}

fn now() -> SystemTime {
    // To the second, as certificates have it.
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn sign(ca: &Ca, labels: &Labels, ttl: Duration, now: SystemTime) -> Result<Signed, CaProblem> {
    let leaf = Leaf {
        id: &portal(),
        dns: None,
        labels,
        key: &new_key().expect("a key"),
        ttl,
    };
    ca.sign(&leaf, now)
}

#[test]
fn a_certificate_says_who_and_nothing_that_it_need_not() {
    let ca = in_memory(&trust_domain(), now()).expect("an authority");
    let day = Duration::from_secs(DAY);
    let signed = sign(&ca, &Labels::new(), day, now()).expect("signed");
    assert_eq!(signed.not_after, now() + day);
    assert_eq!(signed.chain.len(), 2, "the root is the peers' own");
    let leaf = parse(&signed.chain[0]).expect("a certificate");
    assert_eq!(times(&signed.chain[0]), Ok((now() - BACKDATED, now() + day)));
    assert!(!leaf.is_ca());
    let usage = leaf.key_usage().expect("readable").expect("there");
    assert_eq!(usage.value.flags, 1, "digitalSignature alone");
    assert!(usage.critical);
    let extended = leaf.extended_key_usage().expect("readable").expect("there").value;
    assert!(extended.server_auth && extended.client_auth && !extended.any && extended.other.is_empty());
    let names = leaf.subject_alternative_name().expect("readable").expect("there");
    assert_eq!(names.value.general_names.len(), 1);
    let who = identity(&signed.chain[0]).expect("an identity");
    assert_eq!((who.id, who.labels), (portal(), Labels::new()));
    let other = sign(&ca, &Labels::new(), day, now()).expect("signed");
    let serial = |signed: &Signed| parse(&signed.chain[0]).expect("a certificate").raw_serial().to_vec();
    assert_ne!(serial(&signed), serial(&other));
    assert_eq!(serial(&signed).len(), 16);
}

#[test]
fn labels_are_carried_as_they_are() {
    let ca = in_memory(&trust_domain(), now()).expect("an authority");
    let labels: Labels = (0..16)
        .map(|n| (format!("gov.example/label-{n}"), "x".repeat(63)))
        .collect();
    let signed = sign(&ca, &labels, Duration::from_secs(60), now()).expect("signed");
    assert_eq!(identity(&signed.chain[0]).expect("an identity").labels, labels);
}

#[test]
fn nothing_is_good_longer_than_what_signed_it() {
    let ca = in_memory(&trust_domain(), now()).expect("an authority");
    let hour = Duration::from_secs(3600);
    let late = ca.not_after() - hour;
    let signed = sign(&ca, &Labels::new(), 24 * hour, late).expect("signed");
    assert_eq!(signed.not_after, ca.not_after());
    let ended = sign(&ca, &Labels::new(), hour, ca.not_after());
    assert!(matches!(ended, Err(CaProblem::Ended { .. })), "{ended:?}");
}

#[test]
fn the_authoritys_own_certificates_may_do_what_they_must_and_no_more() {
    let root = Pair::root(&trust_domain(), now()).expect("a root");
    let intermediate = root.intermediate(&trust_domain(), now()).expect("an intermediate");
    for (pair, path_length) in [(&root, 5), (&intermediate, 0)] {
        let parsed = parse(&pair.certificate).expect("a certificate");
        let constraints = parsed.basic_constraints().expect("readable").expect("there");
        assert!(constraints.critical && constraints.value.ca);
        assert_eq!(constraints.value.path_len_constraint, Some(path_length));
        let usage = parsed.key_usage().expect("readable").expect("there").value;
        assert!(usage.key_cert_sign() && usage.crl_sign() && !usage.digital_signature());
    }
}

#[test]
fn an_authority_whose_certificates_nobody_would_believe_is_refused() {
    let root = Pair::root(&trust_domain(), now()).expect("a root");
    let stranger = Pair::root(&trust_domain(), now()).expect("a root");
    let intermediate = || root.intermediate(&trust_domain(), now()).expect("an intermediate");
    let roots = || vec![root.certificate.clone()];
    let refused = |chain: Vec<CertificateDer<'static>>, key: KeyPair, roots, at| {
        Ca::new(chain, key, roots, at).map(|_| ()).expect_err("it is wrong")
    };
    let Pair { certificate, key } = intermediate();
    assert_eq!(refused(Vec::new(), key, roots(), now()), CaProblem::NoCertificate);
    let other = new_key().expect("a key");
    assert_eq!(
        refused(vec![certificate.clone()], other, roots(), now()),
        CaProblem::OtherKey
    );
    let Pair { certificate, key } = intermediate();
    let foreign = refused(vec![certificate], key, vec![stranger.certificate.clone()], now());
    assert!(matches!(foreign, CaProblem::Chain(_)), "{foreign}");
    let Pair { certificate, key } = intermediate();
    let late = refused(vec![certificate.clone()], key, roots(), now() + INTERMEDIATE_TTL);
    assert!(matches!(late, CaProblem::Ended { .. }), "{late}");
    let Pair { certificate, key } = intermediate();
    let early = refused(
        vec![certificate],
        key,
        roots(),
        now() - BACKDATED - Duration::from_secs(1),
    );
    assert!(matches!(early, CaProblem::NotYet { .. }), "{early}");
    // One that its own length of path forbids to sign for an authority, but not for workloads, would do; a workload's
    // does not.
    let ca = in_memory(&trust_domain(), now()).expect("an authority");
    let key = new_key().expect("a key");
    let leaf = Leaf {
        id: &portal(),
        dns: None,
        labels: &Labels::new(),
        key: &key,
        ttl: Duration::from_secs(60),
    };
    let signed = ca.sign(&leaf, now()).expect("signed");
    assert_eq!(refused(signed.chain, key, ca.roots().to_vec(), now()), CaProblem::NotCa);
}

#[test]
fn it_is_due_when_a_third_is_left() {
    let root = Pair::root(&trust_domain(), now()).expect("a root");
    let Pair { certificate, key } = root.intermediate(&trust_domain(), now()).expect("an intermediate");
    let ca = Ca::new(vec![certificate], key, vec![root.certificate], now()).expect("an authority");
    let days = |days: u64| now() + Duration::from_secs(days * DAY);
    assert!(!ca.is_due(days(243)));
    assert!(ca.is_due(days(244)));
    assert!(ca.is_due(days(400)));
}

#[test]
fn no_key_is_shown() {
    let ca = in_memory(&trust_domain(), now()).expect("an authority");
    let shown = format!("{ca:?}");
    assert!(
        shown.starts_with("Ca { subject: \"O=mesh.gov, CN=Weir intermediate\""),
        "{shown}"
    );
    assert!(!shown.contains("issuer"), "{shown}");
}
