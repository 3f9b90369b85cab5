//! Who gets through a handshake, and who does not: over real sockets, with certificates made here.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType, date_time_ymd,
};
use rustls::NamedGroup;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::drain;
use crate::http::h1::HEAD_TIMEOUT;
use crate::identity::tests::identity_of;

const PORTAL: &str = "spiffe://mesh.gov/ns/citizen/sa/portal";
const RECORDS: &str = "spiffe://mesh.gov/ns/police/sa/records";

/// An authority as Weir's: a root, and an intermediate that signs.
struct Ca {
    root: CertificateDer<'static>,
    intermediate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A chain, the end first, and the end's key.
type Chain = (Vec<CertificateDer<'static>>, KeyPair);

fn key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

fn authority(name: &str, depth: BasicConstraints) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(depth);
    params
}

impl Ca {
    fn new() -> Ca {
        let (root, root_key) = (authority("root", BasicConstraints::Constrained(1)), key());
        let root_certificate = root.self_signed(&root_key).expect("a root");
        let (params, intermediate_key) = (authority("intermediate", BasicConstraints::Constrained(0)), key());
        let intermediate = params.signed_by(&intermediate_key, &Issuer::new(root, root_key));
        Ca {
            root: root_certificate.der().clone(),
            intermediate: intermediate.expect("an intermediate").der().clone(),
            issuer: Issuer::new(params, intermediate_key),
        }
    }

    fn sign(&self, params: &CertificateParams) -> Chain {
        let key = key();
        let end = params.signed_by(&key, &self.issuer).expect("a certificate");
        (vec![end.der().clone(), self.intermediate.clone()], key)
    }

    /// As the one with this chain, who trusts this authority.
    fn tls(&self, id: &str, (chain, key): Chain) -> Tls {
        let later = SystemTime::now() + Duration::from_secs(60 * 60);
        Tls::new(
            id.parse().expect("an id"),
            later,
            chain,
            der(&key),
            &Roots::of_the_mesh(vec![self.root.clone()]),
        )
        .expect("it fits")
    }

    fn of(&self, id: &str) -> Tls {
        self.tls(id, self.sign(&end(&[id])))
    }
}

fn der(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(key.serialize_der()).into()
}

fn end(names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    let uri = |name: &&str| SanType::URI((*name).try_into().expect("ASCII"));
    params.subject_alt_names = names.iter().map(uri).collect();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// The two ends of a connection.
async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
    (client.expect("connected"), server.expect("accepted").0)
}

/// A handshake, and a byte from the server to the client; what each of the two makes of it.
async fn shake(client: &Tls, server: &Tls, expect: &str) -> (Result<(), TlsError>, Result<TlsPeer, TlsError>) {
    shake_by(client, server, expect, Wire::Http2).await
}

async fn shake_by(
    client: &Tls,
    server: &Tls,
    expect: &str,
    wire: Wire,
) -> (Result<(), TlsError>, Result<TlsPeer, TlsError>) {
    let (near, far) = sockets().await;
    let expect = Arc::new(expect.parse().expect("an id"));
    let to = near.peer_addr().expect("an address").ip();
    let connected = async {
        let (mut io, _) = client.connect(near, to, &expect, wire.into()).await?;
        // A server says only now what it thinks of our certificate; with its first byte come tickets for later.
        io.read_u8().await.map_err(TlsError::Handshake).map(drop)
    };
    let accepted = async {
        let (mut io, peer) = server.accept(far, Carries::Http).await?;
        io.write_u8(1).await.map_err(TlsError::Handshake)?;
        io.flush().await.map_err(TlsError::Handshake)?;
        Ok(peer)
    };
    tokio::join!(connected, accepted)
}

#[tokio::test]
async fn both_ends_know_who_the_other_is() {
    let ca = Ca::new();
    let (portal, records) = (ca.of(PORTAL), ca.of(RECORDS));
    let (connected, accepted) = shake(&portal, &records, RECORDS).await;
    connected.expect("it is who it should be");
    let peer = accepted.expect("it is one of us");
    assert_eq!((peer.id.to_string().as_str(), peer.is_weir), (PORTAL, true));
    assert_eq!(peer.forwarded, format!("By={RECORDS};URI={PORTAL}"));
    assert_eq!(peer.session, Session::New);

    let (connected, accepted) = shake_by(&portal, &records, RECORDS, Wire::Http1).await;
    connected.expect("it is who it should be");
    assert!(accepted.expect("it is one of us").is_weir, "by HTTP/1.1 as well");
}

#[tokio::test]
async fn a_connection_is_for_no_longer_than_either_certificate() {
    let ca = Ca::new();
    let minute = Duration::from_secs(60);
    let soon = |id: &str| {
        let (chain, key) = ca.sign(&end(&[id]));
        let ends = SystemTime::now() + minute;
        Tls::new(
            id.parse().expect("an id"),
            ends,
            chain,
            der(&key),
            &Roots::of_the_mesh(vec![ca.root.clone()]),
        )
        .expect("it fits")
    };
    for (portal, records) in [(soon(PORTAL), ca.of(RECORDS)), (ca.of(PORTAL), soon(RECORDS))] {
        let (near, far) = sockets().await;
        let (expect, to) = (
            Arc::new(RECORDS.parse().expect("an id")),
            near.peer_addr().expect("one").ip(),
        );
        let (connected, accepted) = tokio::join!(
            portal.connect(near, to, &expect, Inside::Http2),
            records.accept(far, Carries::Http)
        );
        let (connected, accepted) = (connected.expect("it is").1, accepted.expect("it is").1.ends);
        let latest = Instant::now() + minute;
        // Each end knows when its own certificate ends; in these all others' end much later.
        assert!(connected.min(accepted) <= latest, "{connected:?}, {accepted:?}");
        assert!(connected.max(accepted) > latest, "{connected:?}, {accepted:?}");
    }
}

#[tokio::test]
async fn keys_are_agreed_on_so_that_quantum_computers_do_not_learn_them() {
    let ca = Ca::new();
    let (portal, records) = (ca.of(PORTAL), ca.of(RECORDS));
    let (near, far) = sockets().await;
    let (expect, to) = (
        Arc::new(RECORDS.parse().expect("an id")),
        near.peer_addr().expect("one").ip(),
    );
    let (connected, accepted) = tokio::join!(
        portal.connect(near, to, &expect, Inside::Http2),
        records.accept(far, Carries::Http)
    );
    accepted.expect("it is one of us");
    let (Io::Tls(stream), _) = connected.expect("it is who it should be") else {
        panic!("it is TLS");
    };
    let (_, connection) = stream.get_ref();
    assert_eq!(connection.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    let group = connection.negotiated_key_exchange_group().map(|group| group.name());
    assert_eq!(group, Some(NamedGroup::X25519MLKEM768));
}

/// Chains that are not to be trusted, each with who it is of.
fn bad_chains(ca: &Ca) -> Vec<(&'static str, Chain)> {
    let with = |change: fn(&mut CertificateParams)| {
        let mut params = end(&[PORTAL]);
        change(&mut params);
        ca.sign(&params)
    };
    let own = {
        let key = key();
        let end = end(&[PORTAL]).self_signed(&key).expect("a certificate");
        (vec![end.der().clone()], key)
    };
    // One that is no authority, or may have none below it, signs.
    let below = |params: CertificateParams| {
        let (mut chain, signer) = ca.sign(&params);
        let key = key();
        let end = end(&[PORTAL])
            .signed_by(&key, &Issuer::new(params, signer))
            .expect("a certificate");
        chain.insert(0, end.der().clone());
        (chain, key)
    };
    vec![
        ("another authority's", Ca::new().sign(&end(&[PORTAL]))),
        ("self-signed", own),
        (
            "over",
            with(|end| (end.not_before, end.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1))),
        ),
        (
            "to come",
            with(|end| (end.not_before, end.not_after) = (date_time_ymd(2090, 1, 1), date_time_ymd(2091, 1, 1))),
        ),
        (
            "for e-mail",
            with(|end| end.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection]),
        ),
        ("below a workload's", below(end(&[PORTAL]))),
        (
            "below what may have nothing below it",
            below(authority("deeper", BasicConstraints::Unconstrained)),
        ),
        ("with two ids", ca.sign(&end(&[PORTAL, RECORDS]))),
        ("without an id", ca.sign(&end(&[]))),
        ("of another form", ca.sign(&end(&["spiffe://mesh.gov/portal"]))),
        (
            "with a DNS name that looks right",
            with(|end| {
                let name = "portal.citizen.svc.cluster.local".try_into().expect("a name");
                end.subject_alt_names = vec![SanType::DnsName(name)];
            }),
        ),
    ]
}

#[tokio::test]
async fn a_caller_with_a_bad_chain_is_not_let_in() {
    let ca = Ca::new();
    let records = ca.of(RECORDS);
    for (what, chain) in bad_chains(&ca) {
        let (connected, accepted) = shake(&ca.tls(PORTAL, chain), &records, RECORDS).await;
        let error = accepted.expect_err(what);
        assert_eq!(error.failure(), TlsFailure::Certificate, "{what}: {error}");
        assert!(connected.is_err(), "{what}");
    }
    let stranger = "spiffe://other.gov/ns/citizen/sa/portal";
    let (_, accepted) = shake(&ca.of(stranger), &records, RECORDS).await;
    let error = accepted.expect_err("it is of another trust domain");
    assert_eq!(
        error.to_string(),
        format!("it is {stranger}, of a trust domain that is not trusted here")
    );
}

#[tokio::test]
async fn an_endpoint_with_a_bad_chain_gets_no_request() {
    let ca = Ca::new();
    let records = ca.of(RECORDS);
    for (what, chain) in bad_chains(&ca) {
        let (connected, accepted) = shake(&records, &ca.tls(PORTAL, chain), PORTAL).await;
        let error = connected.expect_err(what);
        assert_eq!(error.failure(), TlsFailure::Certificate, "{what}: {error}");
        assert!(accepted.is_err(), "{what}");
    }
    // One of the same mesh, and somebody else than is expected.
    for other in [
        "spiffe://mesh.gov/ns/citizen/sa/portal2",
        "spiffe://mesh.gov/ns/citizen/sa/porta",
        "spiffe://mesh.gov/ns/police/sa/portal",
        "spiffe://other.gov/ns/citizen/sa/portal",
    ] {
        let (connected, _) = shake(&records, &ca.of(other), PORTAL).await;
        let error = connected.expect_err("it is somebody else");
        assert_eq!(error.failure(), TlsFailure::Certificate, "{error}");
        assert!(error.to_string().contains(other), "{error}");
    }
}

#[tokio::test]
async fn a_caller_without_a_certificate_is_not_let_in() {
    let ca = Ca::new();
    let records = ca.of(RECORDS);
    let trust = Trust {
        roots: vec![ca.root.clone()],
        pins: Vec::new(),
        id: RECORDS.parse().expect("an id"),
    };
    let bare = trust.client_config(None).expect("it is right");
    let (near, far) = sockets().await;
    let name = ServerName::IpAddress(near.peer_addr().expect("one").ip().into());
    let connecting = TlsConnector::from(Arc::new(bare)).connect(name, near);
    let (_, accepted) = tokio::join!(connecting, records.accept(far, Carries::Http));
    let error = accepted.expect_err("it shows nobody");
    assert_eq!(error.failure(), TlsFailure::Certificate, "{error}");
}

#[tokio::test]
async fn a_session_is_resumed_with_the_same_peer_alone_and_ends_with_the_certificate() {
    let ca = Ca::new();
    let (portal, records) = (ca.of(PORTAL), ca.of(RECORDS));
    let session = async |client: &Tls, server: &Tls| {
        let (connected, accepted) = shake(client, server, RECORDS).await;
        connected.expect("it is who it should be");
        let peer = accepted.expect("it is one of us");
        assert_eq!(peer.id.to_string(), PORTAL, "also where no certificate is shown again");
        peer.session
    };
    assert_eq!(session(&portal, &records).await, Session::New);
    assert_eq!(session(&portal, &records).await, Session::Resumed);
    // Whoever took the address has no keys of the sessions before.
    let renewed = ca.of(RECORDS);
    assert_eq!(session(&portal, &renewed).await, Session::New);
    assert_eq!(session(&ca.of(PORTAL), &renewed).await, Session::New);
    // As somebody else nothing of it counts.
    let (connected, _) = shake(&portal, &renewed, PORTAL).await;
    connected.expect_err("it is not the portal");
}

#[test]
fn a_certificate_that_was_shown_in_an_earlier_session_may_have_ended_since() {
    let (chain, _) = Ca::new().sign(&end(&[PORTAL]));
    let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let (not_after, _) = trust::read(&chain[0]).expect("one of ours");
    let ends = not_after
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("later")
        .as_secs();
    shown(Some(&chain), at(ends - 1)).expect("it is good");
    let error = shown(Some(&chain), at(ends + 1)).expect_err("it has ended");
    assert!(matches!(error, TlsError::Ended), "{error}");
    assert!(matches!(shown(None, at(0)), Err(TlsError::Nobody(_))));
}

#[tokio::test]
async fn what_an_inbound_connection_is_shows_by_its_first_byte() {
    let ca = Ca::new();
    let (chain, key) = ca.sign(&end(&[RECORDS]));
    let id: SpiffeId = RECORDS.parse().expect("an id");
    let identity = Door::Mesh(
        identity_of(id.clone(), chain, der(&key), Roots::of_the_mesh(vec![ca.root.clone()])),
        Carries::Http,
    );
    let (control, drain) = drain::pair();

    for begin in [&b"GET / HTTP/1.1\r\n"[..], b"PRI * HTTP/2.0\r\n", b"\x80\x2e\x01"] {
        let (mut near, far) = sockets().await;
        near.write_all(begin).await.expect("written");
        let Ok(Entered::Cleartext(mut far, _)) = enter(far, &identity, Silence(HEAD_TIMEOUT), drain.clone()).await
        else {
            panic!("{begin:?} is no handshake");
        };
        let mut read = vec![0; begin.len()];
        far.read_exact(&mut read).await.expect("all of it");
        assert_eq!(read, begin, "nothing of it is lost");
    }

    let (near, far) = sockets().await;
    let (portal, to) = (ca.of(PORTAL), near.peer_addr().expect("one").ip());
    let expect = Arc::new(id);
    let (connected, entered) = tokio::join!(
        portal.connect(near, to, &expect, Inside::Http2),
        enter(far, &identity, Silence(HEAD_TIMEOUT), drain.clone())
    );
    connected.expect("it is who it should be");
    assert!(matches!(entered, Ok(Entered::Mutual(..))));

    let (mut near, far) = sockets().await;
    near.write_all(&[HANDSHAKE_RECORD, 3, 1, 0, 5, 1, 0, 0, 1, 0])
        .await
        .expect("written");
    let error = enter(far, &identity, Silence(HEAD_TIMEOUT), drain.clone())
        .await
        .err()
        .expect("it is none");
    assert_eq!(error.failure(), TlsFailure::Protocol, "{error}");

    let (near, far) = sockets().await;
    drop(near);
    assert!(matches!(
        enter(far, &identity, Silence(HEAD_TIMEOUT), drain.clone()).await,
        Ok(Entered::Nobody)
    ));

    // A handshake that has begun holds up no drain.
    let (mut begun, slow) = sockets().await;
    begun.write_all(&[HANDSHAKE_RECORD]).await.expect("written");
    let (_near, far) = sockets().await;
    control.begin();
    assert!(matches!(
        enter(slow, &identity, Silence(HEAD_TIMEOUT), drain.clone()).await,
        Ok(Entered::Nobody)
    ));
    assert!(matches!(
        enter(far, &identity, Silence(HEAD_TIMEOUT), drain).await,
        Ok(Entered::Nobody)
    ));
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_does_not_go_on_ends() {
    let (near, far) = sockets().await;
    let error = Ca::new()
        .of(RECORDS)
        .accept(far, Carries::Http)
        .await
        .expect_err("nobody says anything");
    assert!(matches!(error, TlsError::TimedOut(_)), "{error}");
    drop(near);
}

/// Roots of our own mesh, and of those of others.
fn roots_of(own: &Ca, others: &[(&str, &[&Ca])]) -> Roots {
    let pem = |ca: &&Ca| weir_xds::pem::to_pem(&ca.root);
    let others = others.iter().map(|(name, authorities)| {
        let name = name.parse().expect("a trust domain");
        (name, authorities.iter().map(pem).collect::<String>())
    });
    Roots::read(&pem(&own), &others.collect()).expect("they are right")
}

/// As the one with this chain, who trusts these.
fn trusting(id: &str, (chain, key): Chain, roots: &Roots) -> Tls {
    let later = SystemTime::now() + Duration::from_secs(60 * 60);
    Tls::new(id.parse().expect("an id"), later, chain, der(&key), roots).expect("it fits")
}

/// Each trust domain is believed by its own roots and by none of the others', and what sidecars say to each other is
/// not taken from another's.
#[tokio::test]
async fn another_trust_domain_is_let_in_by_its_own_roots_alone() {
    const PARTNER: &str = "spiffe://partner.gov/ns/citizen/sa/portal";
    const BANK: &str = "spiffe://bank.example/ns/citizen/sa/portal";
    let (ours, partner, next, bank) = (Ca::new(), Ca::new(), Ca::new(), Ca::new());
    let domains = [("partner.gov", &[&partner, &next][..]), ("bank.example", &[&bank])];
    let records = trusting(RECORDS, ours.sign(&end(&[RECORDS])), &roots_of(&ours, &domains));
    let caller = |id: &str, ca: &Ca| {
        // It has to believe whom it calls.
        trusting(id, ca.sign(&end(&[id])), &roots_of(&ours, &[]))
    };
    for (what, id, ca, let_in) in [
        ("the mesh's own", PORTAL, &ours, true),
        ("another's, by its root", PARTNER, &partner, true),
        ("another's, by its next root", PARTNER, &next, true),
        ("a third's, by its root", BANK, &bank, true),
        ("another's, by our root", PARTNER, &ours, false),
        ("another's, by a third's root", PARTNER, &bank, false),
        ("ours, by another's root", PORTAL, &partner, false),
        (
            "one that nobody named, by another's root",
            "spiffe://a.gov/ns/a/sa/a",
            &partner,
            false,
        ),
        (
            "one that nobody named, by our root",
            "spiffe://a.gov/ns/a/sa/a",
            &ours,
            false,
        ),
        (
            "another's, of another form",
            "spiffe://partner.gov/portal",
            &partner,
            false,
        ),
    ] {
        for carries in [Carries::Http, Carries::Tcp] {
            let caller = match id.parse::<SpiffeId>() {
                Ok(_) => caller(id, ca),
                Err(_) => trusting(PARTNER, ca.sign(&end(&[id])), &roots_of(&ours, &[])),
            };
            let accepted = call(&caller, &records, carries).await;
            match (accepted, let_in) {
                (Ok(peer), true) => {
                    assert_eq!(peer.id.to_string(), id, "{what}");
                    assert_eq!(peer.forwarded, format!("By={RECORDS};URI={id}"), "{what}");
                    let is_ours = id == PORTAL;
                    assert_eq!((peer.is_ours, peer.is_weir), (is_ours, is_ours), "{what}");
                }
                (Err(error), false) => assert_eq!(error.failure(), TlsFailure::Certificate, "{what}: {error}"),
                (Ok(peer), false) => panic!("{what}: let in as {}", peer.id),
                (Err(error), true) => panic!("{what}: {error}"),
            }
        }
    }
    // Whatever is said of our own trust domain, the mesh's roots alone are above it.
    let twisted = roots_of(&ours, &[("mesh.gov", &[&partner])]);
    let records = trusting(RECORDS, ours.sign(&end(&[RECORDS])), &twisted);
    let error = call(&caller(PORTAL, &partner), &records, Carries::Http).await;
    assert_eq!(error.expect_err("it is not ours").failure(), TlsFailure::Certificate);
    call(&caller(PORTAL, &ours), &records, Carries::Http)
        .await
        .expect("it is ours");
}

#[tokio::test]
async fn a_check_of_another_meshs_sidecar_is_a_connection_as_any() {
    let (ours, partner) = (Ca::new(), Ca::new());
    let roots = roots_of(&ours, &[("partner.gov", &[&partner])]);
    let records = trusting(RECORDS, ours.sign(&end(&[RECORDS])), &roots);
    for (id, ca, is_check) in [
        (PORTAL, &ours, true),
        ("spiffe://partner.gov/ns/a/sa/a", &partner, false),
    ] {
        let caller = trusting(id, ca.sign(&end(&[id])), &roots_of(&ours, &[]));
        let peer = call_by(&caller, &records, Carries::Tcp, Inside::TcpCheck)
            .await
            .expect("it is let in");
        assert_eq!((peer.is_tcp_check, peer.is_weir), (is_check, is_check), "{id}");
    }
}

/// A session of before does not outlive its trust domain.
#[tokio::test]
async fn a_trust_domain_that_is_removed_resumes_nothing() {
    const PARTNER: &str = "spiffe://partner.gov/ns/citizen/sa/portal";
    let (ours, partner) = (Ca::new(), Ca::new());
    let caller = trusting(PARTNER, partner.sign(&end(&[PARTNER])), &roots_of(&ours, &[]));
    let chain = || ours.sign(&end(&[RECORDS]));
    let records = trusting(RECORDS, chain(), &roots_of(&ours, &[("partner.gov", &[&partner])]));
    let session = async |server: &Tls| shake(&caller, server, RECORDS).await.1.map(|peer| peer.session);
    assert_eq!(session(&records).await.expect("it is let in"), Session::New);
    assert_eq!(session(&records).await.expect("it is let in"), Session::Resumed);
    let without = trusting(RECORDS, chain(), &roots_of(&ours, &[]));
    let error = session(&without).await.expect_err("it is not trusted any more");
    assert_eq!(error.failure(), TlsFailure::Certificate, "{error}");
}

/// What a callee makes of a call at a port that carries this.
async fn call(caller: &Tls, callee: &Tls, carries: Carries) -> Result<TlsPeer, TlsError> {
    let inside = match carries {
        Carries::Http => Inside::Http2,
        Carries::Tcp => Inside::Tcp,
    };
    call_by(caller, callee, carries, inside).await
}

async fn call_by(caller: &Tls, callee: &Tls, carries: Carries, inside: Inside) -> Result<TlsPeer, TlsError> {
    let (near, far) = sockets().await;
    let (expect, to) = (Arc::new(callee.id.clone()), near.peer_addr().expect("an address").ip());
    let (_, accepted) = tokio::join!(caller.connect(near, to, &expect, inside), callee.accept(far, carries));
    accepted.map(|(_, peer)| peer)
}
