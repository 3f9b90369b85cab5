//! Mutual TLS between sidecars: who gets in by which mode, what is taken from whom, and certificates that change while
//! requests are under way.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType, date_time_ymd,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use weir_control::store::Location;
use weir_control::{AuthorityConfig, CaFiles, ControlConfig};
use weir_policy::model::AppProtocol;
use weir_proxy::config::{Edge, EdgeTlsFiles};
use weir_test_mesh::{Answer, Client, Member, MemberSettings, Protocol, Script, TestMesh, call, until, until_within};

const XFCC: &str = "x-forwarded-client-cert";

fn spiffe(account: &str) -> String {
    format!("spiffe://cluster.local/ns/default/sa/{account}")
}

fn get(host: &str) -> Request<Full<Bytes>> {
    let request = Request::get(format!("http://{host}/")).header("host", host);
    request.body(Full::default()).expect("a request")
}

/// Says how ports are entered, and waits until the member goes by it.
async fn enter_by(mesh: &TestMesh, member: &Member, mode: &str) {
    set_mode(mesh, mode).await;
    until(&format!("the proxy to go by {mode}"), || async {
        let config = member.config().await;
        let now = config["mesh"]["mutual_tls"]["mode"].as_str()?.to_owned();
        now.eq_ignore_ascii_case(mode).then_some(())
    })
    .await;
}

async fn set_mode(mesh: &TestMesh, mode: &str) {
    let config = json!({
        "apiVersion": "weir.dev/v1", "kind": "MeshConfig", "metadata": {"name": "mesh"},
        "spec": {"mutualTls": {"mode": mode}},
    });
    mesh.apply(&config.to_string()).await;
}

/// Whether a caller's sidecar is told who is at the only endpoint of this cluster.
async fn until_told(caller: &Member, cluster: &str, expect: Option<&str>) {
    until("the caller to be told who is there", || async {
        let config = caller.config().await;
        let clusters = config["mesh"]["clusters"].as_array()?.clone();
        let cluster = clusters
            .iter()
            .find(|one| one["name"].as_str().is_some_and(|name| name.starts_with(cluster)))?;
        let told = &cluster["endpoints"][0];
        (told.is_object() && told["identity"].as_str() == expect).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_request_goes_by_mutual_tls_and_both_ends_know_it() {
    let mesh = TestMesh::secured().await;
    let b = mesh.service("b", Script::answer(200, "from b")).await;
    let a = mesh.service("a", Script::answer(200, "from a")).await;
    let mut request = get("b");
    // An app can't say who somebody is.
    request.headers_mut().insert(
        XFCC,
        "URI=spiffe://cluster.local/ns/default/sa/king".parse().expect("one"),
    );
    let answer = a.call(request).await;
    assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, "from b"));
    let [seen] = b.seen().try_into().expect("one request");
    let expect = format!("By={};URI={}", spiffe("b"), spiffe("a"));
    assert_eq!(seen.header(XFCC), Some(expect.as_str()));
    until_told(&a, "b.default", Some(&spiffe("b"))).await;
    assert_eq!(b.metric("weir_tls_handshakes_total", &["kind=\"full\""]).await, 1.0);
    assert_eq!(
        b.metric("weir_cleartext_requests_total", &["outcome=\"admitted\""])
            .await,
        0.0
    );
    let (_, [a_log]) = stopped(a).await;
    let (_, [b_log]) = stopped(b).await;
    assert_eq!(a_log["weir.peer.identity"], spiffe("b"), "{a_log}");
    assert_eq!(b_log["weir.peer.identity"], spiffe("a"), "{b_log}");
}

async fn stopped<const LINES: usize>(member: Member) -> (weir_proxy::Drained, [Value; LINES]) {
    let (drained, lines) = member.stop().await;
    let lines = lines.try_into().unwrap_or_else(|lines: Vec<Value>| panic!("{lines:?}"));
    (drained, lines)
}

/// An operator's authority, of which this has the key: it signs what Weir's own would not.
struct Operator {
    folder: TempDir,
    root: CertificateDer<'static>,
    intermediate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with what is above it, and its key.
type Shown = (Vec<CertificateDer<'static>>, KeyPair);

fn key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

impl Operator {
    fn new() -> Operator {
        let authority = |name: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
            params
        };
        let (root, root_key) = (authority("root"), key());
        let root_certificate = root.self_signed(&root_key).expect("a root");
        let (params, signs) = (authority("intermediate"), key());
        let intermediate = params
            .signed_by(&signs, &Issuer::new(root, root_key))
            .expect("an intermediate");
        let folder = tempfile::tempdir().expect("a folder");
        for (name, pem) in [
            ("cert.pem", intermediate.pem()),
            ("key.pem", signs.serialize_pem()),
            ("roots.pem", root_certificate.pem()),
        ] {
            let path = folder.path().join(name);
            fs::write(&path, pem).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set");
        }
        Operator {
            folder,
            root: root_certificate.der().clone(),
            intermediate: intermediate.der().clone(),
            issuer: Issuer::new(params, signs),
        }
    }

    async fn mesh(&self) -> TestMesh {
        let mut config = ControlConfig::in_memory();
        config.xds_tls = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        config.authority = AuthorityConfig {
            files: Some(CaFiles {
                cert: self.folder.path().join("cert.pem"),
                key: self.folder.path().join("key.pem"),
                roots: self.folder.path().join("roots.pem"),
            }),
            ..AuthorityConfig::default()
        };
        TestMesh::with(config).await
    }

    fn sign(&self, id: &str, change: impl FnOnce(&mut CertificateParams)) -> Shown {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.try_into().expect("ASCII"))];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = key();
        let end = params.signed_by(&key, &self.issuer).expect("a certificate");
        (vec![end.der().clone(), self.intermediate.clone()], key)
    }
}

/// A client that talks to whoever is there: what counts is whether that one talks to it.
#[derive(Debug)]
struct Trusting(Arc<CryptoProvider>);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 is asked for".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// How somebody comes to an inbound port.
enum Comes {
    InCleartext,
    ByTls(Option<Shown>),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection of somebody who comes so.
async fn connect(to: SocketAddr, comes: &Comes, alpn: &str) -> anyhow::Result<Box<dyn Stream>> {
    let stream = TcpStream::connect(to).await?;
    match comes {
        Comes::InCleartext => Ok(Box::new(stream)),
        Comes::ByTls(shown) => {
            let provider = Arc::new(default_provider());
            let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(&[&rustls::version::TLS13])?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Trusting(provider)));
            let mut config = match shown {
                Some((chain, key)) => {
                    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
                    config.with_client_auth_cert(chain.clone(), key)?
                }
                None => config.with_no_client_auth(),
            };
            config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
            let name = ServerName::IpAddress(to.ip().into());
            let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
            Ok(Box::new(stream))
        }
    }
}

/// The answer to a request that comes so.
async fn answer(
    to: SocketAddr,
    comes: &Comes,
    protocol: Protocol,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<Answer> {
    let alpn = match protocol {
        Protocol::Http1 => "http/1.1",
        Protocol::Http2 => "h2",
    };
    let stream = connect(to, comes, alpn).await?;
    Client::over(stream, protocol).await?.send(request).await
}

/// What a request is.
#[derive(Clone, Copy, Debug)]
enum Spoken {
    Http1,
    Http2,
    Grpc,
}

impl Spoken {
    fn request(self) -> (Protocol, Request<Full<Bytes>>) {
        let mut request = get("b");
        match self {
            Spoken::Http1 => (Protocol::Http1, request),
            Spoken::Http2 => (Protocol::Http2, request),
            Spoken::Grpc => {
                *request.method_mut() = Method::POST;
                let headers = request.headers_mut();
                headers.insert("content-type", "application/grpc".parse().expect("a type"));
                headers.insert("te", "trailers".parse().expect("a coding"));
                (Protocol::Http2, request)
            }
        }
    }
}

/// Who gets in, by how he comes, the port's mode, and what he speaks.
#[tokio::test]
async fn the_matrix() {
    let operator = Operator::new();
    let mesh = operator.mesh().await;
    let b = mesh.service("b", Script::answer(200, "from b")).await;
    let as_is = |_: &mut CertificateParams| {};
    let portal = spiffe("portal");
    let past = |params: &mut CertificateParams| {
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    };
    let future = |params: &mut CertificateParams| {
        (params.not_before, params.not_after) = (date_time_ymd(2090, 1, 1), date_time_ymd(2091, 1, 1));
    };
    let tls = |shown| Comes::ByTls(Some(shown));
    // In cleartext the mode decides; by TLS the certificate does.
    let rows = [
        ("in cleartext", Comes::InCleartext, [false, true, true]),
        ("no certificate", Comes::ByTls(None), [false; 3]),
        ("wrong CA", tls(Operator::new().sign(&portal, as_is)), [false; 3]),
        (
            "wrong trust domain",
            tls(operator.sign("spiffe://other.gov/ns/default/sa/portal", as_is)),
            [false; 3],
        ),
        ("expired", tls(operator.sign(&portal, past)), [false; 3]),
        ("not yet valid", tls(operator.sign(&portal, future)), [false; 3]),
        ("right", tls(operator.sign(&portal, as_is)), [true; 3]),
    ];
    for (mode, place) in [("Strict", 0), ("Permissive", 1), ("Off", 2)] {
        enter_by(&mesh, &b, mode).await;
        for (what, comes, gets_in) in &rows {
            for spoken in [Spoken::Http1, Spoken::Http2, Spoken::Grpc] {
                let before = b.seen().len();
                let (protocol, request) = spoken.request();
                let answered = answer(b.inbound(), comes, protocol, request).await;
                let case = format!("{what}, {mode}, {spoken:?}: {answered:?}");
                assert_eq!(b.seen().len() - before, usize::from(gets_in[place]), "{case}");
                match (comes, gets_in[place]) {
                    (_, true) => assert_eq!(answered.expect(&case).status, StatusCode::OK, "{case}"),
                    // Who comes in cleartext is told why.
                    (Comes::InCleartext, false) => refused(&answered.expect(&case), spoken),
                    (Comes::ByTls(_), false) => assert!(answered.is_err(), "{case}"),
                }
            }
        }
    }
    // Each kind of failure is counted, and no more.
    for (reason, expect) in [("certificate", 5.0 * 3.0 * 3.0), ("own", 0.0), ("protocol", 0.0)] {
        let label = format!("reason=\"{reason}\"");
        assert_eq!(
            b.metric("weir_tls_handshakes_failed_total", &[&label]).await,
            expect,
            "{reason}"
        );
    }
    drop(operator.root);
}

fn refused(answer: &Answer, spoken: Spoken) {
    let status = answer.header("proxy-status").unwrap_or_default();
    assert!(
        status.contains("http_request_denied") && status.contains("mutual TLS alone"),
        "{status}"
    );
    match spoken {
        Spoken::Http1 | Spoken::Http2 => assert_eq!(answer.status, StatusCode::FORBIDDEN),
        Spoken::Grpc => assert_eq!(answer.header("grpc-status"), Some("7"), "PERMISSION_DENIED"),
    }
}

/// Who gets in where TCP is carried: by connection, and whoever speaks first.
#[tokio::test]
async fn the_matrix_of_tcp() {
    let operator = Operator::new();
    let mesh = operator.mesh().await;
    // It speaks first, as MySQL does.
    let greets = Script::raw(|mut stream| async move {
        let _ = stream.write_all(b"hi").await;
        let mut said = [0; 1];
        if stream.read_exact(&mut said).await.is_ok() {
            let _ = stream.write_all(&said).await;
        }
    });
    let settings = MemberSettings {
        protocol: AppProtocol::Tcp,
        ..MemberSettings::default()
    };
    let b = mesh.service_with("b", greets, settings).await;
    let as_is = |_: &mut CertificateParams| {};
    let tls = |shown| Comes::ByTls(Some(shown));
    let right = || tls(operator.sign(&spiffe("portal"), as_is));
    // Where it is off nobody is looked at: what comes goes to the app, which knows no TLS.
    let rows = [
        ("in cleartext", Comes::InCleartext, "", [false, true, true]),
        ("no certificate", Comes::ByTls(None), "weir-tcp", [false; 3]),
        (
            "wrong CA",
            tls(Operator::new().sign(&spiffe("portal"), as_is)),
            "weir-tcp",
            [false; 3],
        ),
        (
            "wrong trust domain",
            tls(operator.sign("spiffe://other.gov/ns/default/sa/portal", as_is)),
            "weir-tcp",
            [false; 3],
        ),
        ("for requests", right(), "h2", [false; 3]),
        ("right", right(), "weir-tcp", [true, true, false]),
    ];
    let talk = async |comes: &Comes, alpn: &str, first: bool| -> anyhow::Result<()> {
        let mut stream = connect(b.inbound(), comes, alpn).await?;
        let (mut greeting, mut echoed) = ([0; 2], [0; 1]);
        if first {
            stream.write_all(b"x").await?;
        }
        stream.read_exact(&mut greeting).await?;
        if !first {
            stream.write_all(b"x").await?;
        }
        stream.read_exact(&mut echoed).await?;
        anyhow::ensure!((&greeting, &echoed) == (b"hi", b"x"), "{greeting:?} {echoed:?}");
        Ok(())
    };
    for (mode, place) in [("Strict", 0), ("Permissive", 1), ("Off", 2)] {
        enter_by(&mesh, &b, mode).await;
        for (what, comes, alpn, gets_in) in &rows {
            for first in [true, false] {
                // A silent client of a strict port is let wait for as long as a handshake may take.
                if matches!((mode, comes, first), ("Strict", Comes::InCleartext, false)) {
                    continue;
                }
                let talked = talk(comes, alpn, first).await;
                let case = format!("{what}, {mode}, client first: {first}: {talked:?}");
                assert_eq!(talked.is_ok(), gets_in[place], "{case}");
            }
        }
    }
    let callers = b.config().await["cleartextCallers"].clone();
    assert_eq!(callers[0]["requests"], 2, "of the permissive port: {callers}");
    let refused = ["outcome=\"refused\""];
    assert_eq!(b.metric("weir_cleartext_requests_total", &refused).await, 1.0);
    let (_, lines) = b.stop().await;
    let by_name = lines
        .iter()
        .filter(|line| line["weir.peer.identity"] == spiffe("portal"))
        .count();
    assert_eq!(by_name, 4, "{lines:?}");
    let refused = lines
        .iter()
        .filter(|line| line["weir.flag"] == "cleartext_refused")
        .count();
    assert_eq!(refused, 1, "{lines:?}");
}

/// Ports are strict, and these trust domains are let in, each by the roots of this authority: in force at the members.
async fn let_in(mesh: &TestMesh, members: &[&Member], domains: &[(&str, &Operator)]) {
    let spec = |(name, of): &(&str, &Operator)| json!({"name": name, "roots": weir_xds::pem::to_pem(&of.root)});
    let config = json!({
        "apiVersion": "weir.dev/v1", "kind": "MeshConfig", "metadata": {"name": "mesh"},
        "spec": {"mutualTls": {"mode": "Strict"}, "trustDomains": domains.iter().map(spec).collect::<Vec<_>>()},
    });
    mesh.apply(&config.to_string()).await;
    for member in members {
        until("the proxy to let in these trust domains", || async {
            let config = member.config().await;
            let trusted = config["identity"]["trustDomains"].as_object()?;
            let trusted: Vec<&str> = trusted.keys().map(String::as_str).collect();
            let names: Vec<&str> = domains.iter().map(|(name, _)| *name).collect();
            let strict = config["mesh"]["mutual_tls"]["mode"]
                .as_str()?
                .eq_ignore_ascii_case("Strict");
            (strict && trusted == names).then_some(())
        })
        .await;
    }
}

/// An app that gives back each byte of a connection.
fn echoes() -> Script {
    Script::raw(|mut stream| async move {
        let mut said = [0; 1];
        while stream.read_exact(&mut said).await.is_ok() && stream.write_all(&said).await.is_ok() {}
    })
}

async fn echoed(stream: &mut Box<dyn Stream>) -> anyhow::Result<()> {
    let mut echoed = [0; 1];
    stream.write_all(b"x").await?;
    stream.read_exact(&mut echoed).await?;
    anyhow::ensure!(echoed == *b"x");
    Ok(())
}

const PARTNER: &str = "spiffe://partner.gov/ns/default/sa/portal";

/// Workloads of another mesh, whose roots the MeshConfig has: whoever is believed by the wrong roots gets in nowhere.
#[tokio::test]
async fn another_trust_domain_is_let_in_by_its_own_roots_alone() {
    let (ours, partner, bank) = (Operator::new(), Operator::new(), Operator::new());
    let mesh = ours.mesh().await;
    let b = mesh.service("b", Script::answer(200, "from b")).await;
    let tcp = MemberSettings {
        protocol: AppProtocol::Tcp,
        ..MemberSettings::default()
    };
    let t = mesh.service_with("t", echoes(), tcp).await;
    let as_is = |_: &mut CertificateParams| {};
    let past = |params: &mut CertificateParams| {
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    };
    let portal = spiffe("portal");
    // Whether one gets in: before the domains are there, while they are, and when the partner is gone again.
    let rows = [
        ("of ours", &portal, ours.sign(&portal, as_is), [true; 3]),
        (
            "the partner's, by its root",
            &PARTNER.to_owned(),
            partner.sign(PARTNER, as_is),
            [false, true, false],
        ),
        (
            "the partner's, ended",
            &PARTNER.to_owned(),
            partner.sign(PARTNER, past),
            [false; 3],
        ),
        (
            "the partner's, by our root",
            &PARTNER.to_owned(),
            ours.sign(PARTNER, as_is),
            [false; 3],
        ),
        (
            "the partner's, by the bank's root",
            &PARTNER.to_owned(),
            bank.sign(PARTNER, as_is),
            [false; 3],
        ),
        (
            "ours, by the partner's root",
            &portal,
            partner.sign(&portal, as_is),
            [false; 3],
        ),
    ];
    let rows = rows.map(|(what, id, shown, gets_in)| (what, id, Comes::ByTls(Some(shown)), gets_in));
    let stages: [&[(&str, &Operator)]; 3] = [
        &[],
        &[("bank.example", &bank), ("partner.gov", &partner)],
        &[("bank.example", &bank)],
    ];
    for (stage, domains) in stages.into_iter().enumerate() {
        let_in(&mesh, &[&b, &t], domains).await;
        for (what, id, comes, gets_in) in &rows {
            for spoken in [Spoken::Http1, Spoken::Http2] {
                let before = b.seen().len();
                let (protocol, request) = spoken.request();
                let answered = answer(b.inbound(), comes, protocol, request).await;
                let case = format!("{what}, {stage}, {spoken:?}: {answered:?}");
                let seen = b.seen();
                assert_eq!(seen.len() - before, usize::from(gets_in[stage]), "{case}");
                if gets_in[stage] {
                    assert_eq!(answered.expect(&case).status, StatusCode::OK, "{case}");
                    let expect = format!("By={};URI={id}", spiffe("b"));
                    assert_eq!(seen[before].header(XFCC), Some(expect.as_str()), "{case}");
                } else {
                    assert!(answered.is_err(), "{case}");
                }
            }
            let talked = async { echoed(&mut connect(t.inbound(), comes, "weir-tcp").await?).await };
            let talked = talked.await;
            assert_eq!(talked.is_ok(), gets_in[stage], "{what}, {stage}, TCP: {talked:?}");
        }
    }
    for member in [b, t] {
        let (_, lines) = member.stop().await;
        let named = lines
            .iter()
            .filter(|line| line["weir.peer.identity"] == PARTNER)
            .count();
        assert!(named > 0, "{lines:?}");
    }
}

/// What is open when a trust domain goes is refused by request; the rest of the mesh goes on.
#[tokio::test]
async fn a_trust_domain_that_is_removed_is_refused_at_once() {
    let (ours, partner) = (Operator::new(), Operator::new());
    let mesh = ours.mesh().await;
    let b = mesh.service("b", Script::answer(200, "from b")).await;
    let a = mesh.service("a", Script::answer(200, "from a")).await;
    let_in(&mesh, &[&b], &[("partner.gov", &partner)]).await;
    let comes = Comes::ByTls(Some(partner.sign(PARTNER, |_| {})));
    let mut open = Vec::new();
    for (protocol, alpn) in [(Protocol::Http1, "http/1.1"), (Protocol::Http2, "h2")] {
        let stream = connect(b.inbound(), &comes, alpn).await.expect("it is let in");
        let mut client = Client::over(stream, protocol).await.expect("it speaks");
        assert_eq!(client.send(get("b")).await.expect("an answer").status, StatusCode::OK);
        open.push(client);
    }
    assert_eq!(a.get("http://b/").await.status, StatusCode::OK);
    let before = b.seen().len();
    let_in(&mesh, &[&b], &[]).await;
    for client in &mut open {
        let answer = client.send(get("b")).await.expect("an answer");
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
        let status = answer.header("proxy-status").unwrap_or_default();
        assert!(
            status.contains("http_request_denied") && status.contains(PARTNER),
            "{status}"
        );
    }
    assert_eq!(b.seen().len(), before, "the app saw none of it");
    assert_eq!(a.get("http://b/").await.status, StatusCode::OK);
    // It comes back, and with it who is still there.
    let_in(&mesh, &[&b], &[("partner.gov", &partner)]).await;
    for client in &mut open {
        assert_eq!(client.send(get("b")).await.expect("an answer").status, StatusCode::OK);
    }
    let (_, lines) = b.stop().await;
    let refused = lines
        .iter()
        .filter(|line| line["weir.flag"] == "caller_not_trusted")
        .count();
    assert_eq!(refused, 2, "{lines:?}");
}

/// What sidecars say to each other is taken from our own alone, whatever another mesh's says that it speaks.
#[tokio::test]
async fn nothing_of_the_meshs_own_is_taken_from_another_trust_domain() {
    let (ours, partner) = (Operator::new(), Operator::new());
    let mesh = ours.mesh().await;
    let b = mesh.service("b", Script::answer(200, "from b")).await;
    let tcp = MemberSettings {
        protocol: AppProtocol::Tcp,
        ..MemberSettings::default()
    };
    let t = mesh.service_with("t", echoes(), tcp).await;
    let_in(&mesh, &[&b, &t], &[("partner.gov", &partner)]).await;
    for (comes, believed) in [
        (partner.sign(PARTNER, |_| {}), false),
        (ours.sign(&spiffe("portal"), |_| {}), true),
    ] {
        let comes = Comes::ByTls(Some(comes));
        let before = b.seen().len();
        for (alpn, protocol) in [("weir-http/1.1", Protocol::Http1), ("weir-h2", Protocol::Http2)] {
            let stream = connect(b.inbound(), &comes, alpn).await.expect("it is let in");
            let mut client = Client::over(stream, protocol).await.expect("it speaks");
            let mut request = get("b");
            let context = "1;i=00000000000000aa;d=60000;p=7;r=0;a=1".parse().expect("a value");
            request.headers_mut().insert("weir-context", context);
            client.send(request).await.expect("an answer");
            let mut check = get("b");
            check
                .headers_mut()
                .insert("weir-check", "connection".parse().expect("a value"));
            client.send(check).await.expect("an answer");
        }
        let seen = b.seen();
        // A check that is believed is answered by the sidecar itself.
        assert_eq!(seen.len() - before, if believed { 2 } else { 4 }, "{believed}");
        for seen in &seen[before..] {
            let state = seen.header("tracestate").unwrap_or_default();
            assert_eq!(state.contains("weir=00000000000000aa"), believed, "{state}");
            assert_eq!(seen.header("weir-check"), None, "it never goes on");
        }
        // A check of TCP is told by how its connection ends: one that is not believed is the app's.
        let mut stream = connect(t.inbound(), &comes, "weir-tcp-check")
            .await
            .expect("it is let in");
        assert_eq!(echoed(&mut stream).await.is_ok(), !believed);
    }
}

/// Other trust domains come with the mesh's roots, and take no part in a rotation of these.
#[tokio::test]
async fn a_rotation_goes_on_while_trust_domains_change() {
    let data = tempfile::tempdir().expect("a folder");
    let mut config = ControlConfig::in_memory();
    config.xds_tls = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    config.location = Location::Directory(data.path().to_owned());
    let mesh = TestMesh::with(config).await;
    let b = mesh.service("b", Script::answer(200, "from b")).await;
    let a = mesh.service("a", Script::answer(200, "from a")).await;
    let (partner, bank) = (Operator::new(), Operator::new());
    let roots = async |member: &Member| {
        member.config().await["identity"]["roots"]
            .as_array()
            .map_or(0, Vec::len)
    };
    let_in(&mesh, &[&a, &b], &[("partner.gov", &partner)]).await;
    let asked = json!({"action": "Root"});
    let begun = mesh.api(Method::POST, "/authority/rotation", Some(&asked)).await;
    assert!(begun.status.is_success(), "{}", begun.text());
    until("both roots to be trusted", || async {
        (roots(&a).await == 2 && roots(&b).await == 2).then_some(())
    })
    .await;
    let_in(&mesh, &[&a, &b], &[("bank.example", &bank), ("partner.gov", &partner)]).await;
    until("the rotation to be beyond its first step", || async {
        let status = mesh.api(Method::GET, "/authority", None).await.json();
        (status["rotation"]["step"] == "Sign").then_some(())
    })
    .await;
    let_in(&mesh, &[&a, &b], &[("bank.example", &bank)]).await;
    assert_eq!(roots(&a).await, 2, "the mesh's own are as before");
    assert_eq!(a.get("http://b/").await.status, StatusCode::OK);
    let comes = Comes::ByTls(Some(bank.sign("spiffe://bank.example/ns/default/sa/teller", |_| {})));
    let answered = answer(b.inbound(), &comes, Protocol::Http1, get("b")).await;
    assert_eq!(answered.expect("an answer").status, StatusCode::OK);
}

#[tokio::test]
async fn who_still_comes_in_cleartext_is_shown_before_a_port_is_made_strict() {
    let mesh = TestMesh::secured().await;
    let b = mesh.service("b", Script::answer(200, "from b")).await;
    enter_by(&mesh, &b, "Permissive").await;
    let mut client = Client::connect(b.inbound(), Protocol::Http1).await.expect("connected");
    for _ in 0..2 {
        assert_eq!(client.send(get("b")).await.expect("an answer").status, StatusCode::OK);
    }
    let callers = b.config().await["cleartextCallers"].clone();
    assert_eq!(callers[0]["address"], "127.0.0.1", "{callers}");
    assert_eq!(callers[0]["requests"], 2, "{callers}");
    assert_eq!(
        b.metric("weir_cleartext_requests_total", &["outcome=\"admitted\""])
            .await,
        2.0
    );
    // A change holds at once, also for a connection that is open.
    enter_by(&mesh, &b, "Strict").await;
    refused(&client.send(get("b")).await.expect("an answer"), Spoken::Http1);
    assert_eq!(
        b.metric("weir_cleartext_requests_total", &["outcome=\"refused\""])
            .await,
        1.0
    );
    enter_by(&mesh, &b, "Off").await;
    assert_eq!(client.send(get("b")).await.expect("an answer").status, StatusCode::OK);
    assert_eq!(
        b.metric("weir_cleartext_requests_total", &["outcome=\"admitted\""])
            .await,
        2.0,
        "nobody asked"
    );
}

/// Where nobody has a certificate nobody could come otherwise.
#[tokio::test]
async fn a_mesh_without_identities_counts_nobody() {
    let mesh = TestMesh::start().await;
    let b = mesh.service("b", Script::answer(200, "from b")).await;
    enter_by(&mesh, &b, "Permissive").await;
    let answered = answer(b.inbound(), &Comes::InCleartext, Protocol::Http1, get("b")).await;
    assert_eq!(answered.expect("an answer").status, StatusCode::OK);
    assert_eq!(b.metric("weir_cleartext_requests_total", &[]).await, 0.0);
    enter_by(&mesh, &b, "Strict").await;
    let answered = answer(b.inbound(), &Comes::InCleartext, Protocol::Http1, get("b")).await;
    refused(&answered.expect("an answer"), Spoken::Http1);
}

#[tokio::test]
async fn callers_go_in_cleartext_where_it_is_off_and_no_request_fails_on_the_way() {
    let mesh = TestMesh::secured().await;
    let b = mesh.service("b", Script::answer(200, "from b")).await;
    let a = mesh.service("a", Script::answer(200, "from a")).await;
    assert_eq!(a.get("http://b/").await.status, StatusCode::OK);
    until_told(&a, "b.default", Some(&spiffe("b"))).await;
    for (mode, identity) in [
        ("Off", None),
        ("Strict", Some(spiffe("b"))),
        ("Off", None),
        ("Permissive", Some(spiffe("b"))),
        ("Strict", Some(spiffe("b"))),
    ] {
        set_mode(&mesh, mode).await;
        until(&format!("{mode} to be in force at both"), || async {
            // All the while.
            let answer = a.get("http://b/").await;
            assert_eq!(answer.status, StatusCode::OK, "{mode}: {}", answer.text());
            let (config, told) = (b.config().await, a.config().await);
            let now = config["mesh"]["mutual_tls"]["mode"].as_str()?;
            let clusters = told["mesh"]["clusters"].as_array()?;
            let cluster = clusters
                .iter()
                .find(|one| one["name"].as_str().is_some_and(|name| name.starts_with("b.")))?;
            let there = cluster["endpoints"][0]["identity"].as_str();
            (now.eq_ignore_ascii_case(mode) && there == identity.as_deref()).then_some(())
        })
        .await;
        let before = b.seen().len();
        assert_eq!(a.get("http://b/").await.status, StatusCode::OK);
        let seen = b.seen();
        let by_tls = seen[before].header(XFCC).is_some();
        assert_eq!(by_tls, identity.is_some(), "{mode}");
    }
}

/// What sidecars say to each other is taken from sidecars alone.
#[tokio::test]
async fn a_context_is_taken_from_sidecars_alone() {
    let operator = Operator::new();
    let mesh = operator.mesh().await;
    let b = mesh.service("b", Script::answer(200, "from b")).await;
    enter_by(&mesh, &b, "Permissive").await;
    // Its app calls b while it answers, and passes on what it was given.
    let outbound = Arc::new(OnceLock::new());
    let where_to = Arc::clone(&outbound);
    let script = Script::http(move |seen| {
        let to = *where_to.get().expect("it runs");
        async move {
            let mut request = get("b");
            if let Some(state) = seen.head.headers.get("tracestate") {
                request.headers_mut().insert("tracestate", state.clone());
            }
            let answer = call(to, Protocol::Http1, request).await.expect("an answer");
            Response::new(Full::new(answer.body))
        }
    });
    let settings = MemberSettings {
        edge: Edge::Yes,
        ..MemberSettings::default()
    };
    let a = mesh.service_with("a", script, settings).await;
    outbound.set(a.outbound()).expect("it is new");

    // One at a time: a check opens no context.
    let forged = |name: &'static str, value: &'static str| {
        let mut request = get("b");
        request.headers_mut().insert(name, value.parse().expect("one"));
        request
    };
    let stranger = Comes::ByTls(Some(operator.sign(&spiffe("envoy"), |_| {})));
    for comes in [&Comes::InCleartext, &stranger] {
        for protocol in [Protocol::Http1, Protocol::Http2] {
            for (name, value) in [
                ("weir-context", "1;i=00000000000000ff;d=60000;a=1"),
                ("weir-check", "request"),
            ] {
                let before = b.seen().len();
                let answered = answer(b.inbound(), comes, protocol, forged(name, value)).await;
                assert_eq!(answered.expect("an answer").status, StatusCode::OK);
                let seen = &b.seen()[before];
                assert_eq!(seen.header("tracestate"), None, "no context was opened");
                assert_eq!(seen.header(name), None);
            }
        }
    }
    let none = b
        .metric("weir_health_checks_answered_total", &["result=\"passed\""])
        .await;
    assert_eq!(none, 0.0, "nobody else can mark a request as a check");

    // From a sidecar it is taken: what was made at its edge is there at b.
    let before = b.seen().len();
    let answered = answer(a.inbound(), &Comes::InCleartext, Protocol::Http1, get("a")).await;
    assert_eq!(answered.expect("an answer").text(), "from b");
    let (at_a, at_b) = (a.seen(), &b.seen()[before]);
    let made = at_a
        .last()
        .and_then(|seen| seen.header("tracestate"))
        .expect("a context");
    assert_eq!(at_b.header("tracestate"), Some(made));
    assert!(at_b.header(XFCC).is_some());
}

/// An edge takes citizens in cleartext, however strict the mesh is.
#[tokio::test]
async fn an_edge_is_open_in_a_strict_mesh() {
    let mesh = TestMesh::secured().await;
    let settings = MemberSettings {
        edge: Edge::Yes,
        ..MemberSettings::default()
    };
    let edge = mesh
        .service_with("edge", Script::answer(200, "welcome"), settings)
        .await;
    enter_by(&mesh, &edge, "Strict").await;
    let answered = answer(edge.inbound(), &Comes::InCleartext, Protocol::Http1, get("edge")).await;
    assert_eq!(answered.expect("an answer").status, StatusCode::OK);
    let callers = edge.config().await["cleartextCallers"].clone();
    assert_eq!(callers, json!([]), "they are none of the mesh");
}

/// With an operator's certificate an edge takes them by ordinary TLS as well, from those who have none. Nothing
/// that they say of the mesh's own is taken.
#[tokio::test]
async fn an_edge_takes_ordinary_tls() {
    let folder = tempfile::tempdir().expect("a folder");
    let made = rcgen::generate_simple_self_signed(["portal.gov".to_owned()]).expect("a certificate");
    let files = EdgeTlsFiles {
        cert: folder.path().join("cert.pem"),
        key: folder.path().join("key.pem"),
    };
    fs::write(&files.cert, made.cert.pem()).expect("written");
    fs::write(&files.key, made.signing_key.serialize_pem()).expect("written");
    let mesh = TestMesh::secured().await;
    let settings = MemberSettings {
        edge: Edge::Yes,
        proxy: Box::new(move |config| config.edge_tls = Some(files)),
        ..MemberSettings::default()
    };
    let edge = mesh
        .service_with("edge", Script::answer(200, "welcome"), settings)
        .await;
    enter_by(&mesh, &edge, "Strict").await;
    for comes in [Comes::ByTls(None), Comes::InCleartext] {
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let before = edge.seen().len();
            let mut request = get("portal.gov");
            if matches!((&comes, protocol), (Comes::ByTls(_), Protocol::Http2)) {
                *request.uri_mut() = "https://portal.gov/".parse().expect("a URL");
            }
            let forged = "1;i=00000000000000ff;d=1;a=1".parse().expect("one");
            request.headers_mut().insert("weir-context", forged);
            request.headers_mut().insert(
                XFCC,
                "URI=spiffe://cluster.local/ns/default/sa/king".parse().expect("one"),
            );
            let answered = answer(edge.inbound(), &comes, protocol, request)
                .await
                .expect("an answer");
            assert_eq!(answered.status, StatusCode::OK);
            let seen = &edge.seen()[before];
            assert_eq!(seen.header(XFCC), None);
            let state = seen.header("tracestate").expect("a context is made here");
            assert!(
                state.starts_with("weir=") && !state.contains("00000000000000ff"),
                "{state}"
            );
        }
    }
    assert_eq!(edge.metric("weir_tls_handshakes_total", &[]).await, 2.0);
}

/// An edge that carries TCP takes it in cleartext and, with an operator's certificate, by ordinary TLS, whatever is
/// said to be spoken within.
#[tokio::test]
async fn an_edge_takes_tcp_by_ordinary_tls() {
    let folder = tempfile::tempdir().expect("a folder");
    let made = rcgen::generate_simple_self_signed(["data.gov".to_owned()]).expect("a certificate");
    let files = EdgeTlsFiles {
        cert: folder.path().join("cert.pem"),
        key: folder.path().join("key.pem"),
    };
    fs::write(&files.cert, made.cert.pem()).expect("written");
    fs::write(&files.key, made.signing_key.serialize_pem()).expect("written");
    let mesh = TestMesh::secured().await;
    let settings = MemberSettings {
        protocol: AppProtocol::Tcp,
        edge: Edge::Yes,
        proxy: Box::new(move |config| config.edge_tls = Some(files)),
        ..MemberSettings::default()
    };
    let echo = Script::raw(|mut stream| async move {
        let (mut reads, mut writes) = stream.split();
        let _ = tokio::io::copy(&mut reads, &mut writes).await;
        let _ = writes.shutdown().await;
    });
    let edge = mesh.service_with("edge", echo, settings).await;
    enter_by(&mesh, &edge, "Strict").await;
    let rows = [
        (Comes::InCleartext, ""),
        (Comes::ByTls(None), "postgresql"),
        (Comes::ByTls(None), "h2"),
    ];
    for (comes, alpn) in rows {
        let mut stream = connect(edge.inbound(), &comes, alpn).await.expect("it is open to all");
        stream.write_all(b"hello").await.expect("written");
        stream.shutdown().await.expect("ended");
        let mut said = Vec::new();
        stream.read_to_end(&mut said).await.expect("an end");
        assert_eq!(said, b"hello", "{alpn}");
    }
    assert_eq!(edge.metric("weir_tls_handshakes_total", &[]).await, 2.0);
    let (_, lines) = edge.stop().await;
    assert_eq!(lines.len(), 3, "{lines:?}");
    for line in lines {
        assert_eq!(line["weir.peer.identity"], Value::Null, "{line}");
        assert_eq!(line["weir.flag"], "none", "{line}");
    }
}

/// Somebody else of the mesh has come to an endpoint's address: no request reaches him.
#[tokio::test]
async fn no_request_goes_to_somebody_else_at_the_address() {
    let mesh = TestMesh::secured().await;
    let b = mesh.service("b", Script::answer(200, "from b")).await;
    let a = mesh.service("a", Script::answer(200, "from a")).await;
    assert_eq!(a.get("http://b/").await.status, StatusCode::OK);
    let inbound = b.inbound();
    // It dies without a word, and is believed to be there still.
    drop(b);
    until("its port to be free", || async {
        TcpStream::connect(inbound).await.err()
    })
    .await;
    let there = MemberSettings {
        proxy: Box::new(move |config| config.apps.iter_mut().for_each(|app| app.inbound = inbound)),
        ..MemberSettings::default()
    };
    let c = mesh.service_with("c", Script::answer(200, "from c"), there).await;
    let answer = until("the call to reach whoever is there", || async {
        let answer = a.get("http://b/").await;
        let status = answer.header("proxy-status")?;
        status.contains("tls_certificate_error").then_some(answer)
    })
    .await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    let said = answer.header("proxy-status").unwrap_or_default();
    assert!(said.contains(&spiffe("c")) && said.contains(&spiffe("b")), "{said}");
    assert_eq!(c.seen().len(), 0, "it saw nothing of it");
    assert_eq!(a.get("http://c/").await.text(), "from c", "it is itself all the same");
}

/// Certificates of less than a minute: both sidecars have new ones during the requests, and none fails; nor does one
/// whose answer takes longer than the certificates by which its connection was opened.
#[tokio::test]
async fn certificates_are_renewed_and_no_request_fails() {
    let mut config = ControlConfig::in_memory();
    config.xds_tls = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    // Renewed at two thirds of it: a machine that stands still for seconds doesn't let it end.
    config.authority.cert_ttl = Duration::from_secs(45);
    let mesh = TestMesh::with(config).await;
    let (end, ended) = watch::channel(false);
    let script = Script::begin_and_end(ended);
    let b = mesh.service("b", script).await;
    let a = mesh.service("a", Script::answer(200, "from a")).await;
    enter_by(&mesh, &b, "Strict").await;
    let outbound = a.outbound();
    let long = tokio::spawn(async move {
        let request = Request::get("http://b/long").header("host", "b").body(Full::default());
        call(outbound, Protocol::Http1, request.expect("a request")).await
    });
    // A connection by the new ones is opened when the old ones end.
    until_within(Duration::from_secs(180), "certificates to be renewed", || async {
        for _ in 0..20 {
            let answer = a.get("http://b/").await;
            assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, "begin end"));
        }
        let full = b.metric("weir_tls_handshakes_total", &["kind=\"full\""]).await;
        (full >= 2.0).then_some(())
    })
    .await;
    end.send_replace(true);
    let answer = long.await.expect("no panic").expect("an answer");
    assert_eq!(answer.text(), "begin end", "it was not cut off");
}

/// Checks of endpoints go the way of requests.
#[tokio::test]
async fn endpoints_are_checked_by_mutual_tls() {
    let mesh = TestMesh::secured().await;
    let b = mesh.service("b", Script::answer(200, "from b")).await;
    let a = mesh.service("a", Script::answer(200, "from a")).await;
    enter_by(&mesh, &b, "Strict").await;
    let policy = "
apiVersion: weir.dev/v1
kind: BackendPolicy
metadata: {name: b, namespace: default}
spec:
  targetRefs: [{group: '', kind: Service, name: b}]
  healthCheck: {type: Http, http: {path: /healthz}, interval: 100ms, timeout: 3s}
";
    mesh.apply(policy).await;
    assert_eq!(a.get("http://b/").await.status, StatusCode::OK);
    until("two checks to pass", || async {
        let passed = a.metric("weir_health_checks_total", &["result=\"passed\""]).await;
        (passed >= 2.0).then_some(())
    })
    .await;
    let mut checks = b.seen().into_iter().filter(|seen| seen.head.uri.path() == "/healthz");
    assert!(checks.all(|seen| seen.header(XFCC).is_some_and(|by| by.ends_with(&spiffe("a")))));
}

/// A sidecar that does not believe the mark is not asked by it: it would hand the check to the app as a request.
#[tokio::test]
async fn a_check_of_connections_is_no_request_where_callers_go_in_cleartext() {
    let mesh = TestMesh::secured().await;
    let b = mesh.service("b", Script::answer(404, "nothing here")).await;
    let a = mesh.service("a", Script::answer(200, "from a")).await;
    enter_by(&mesh, &b, "Off").await;
    let policy = "
apiVersion: weir.dev/v1
kind: BackendPolicy
metadata: {name: b, namespace: default}
spec:
  targetRefs: [{group: '', kind: Service, name: b}]
  healthCheck: {type: Tcp, interval: 100ms, timeout: 10s}
";
    assert_eq!(a.get("http://b/").await.status, StatusCode::NOT_FOUND);
    until_told(&a, "b.default", None).await;
    let before = b.seen().len();
    mesh.apply(policy).await;
    until("two checks to pass", || async {
        let passed = a.metric("weir_health_checks_total", &["result=\"passed\""]).await;
        (passed >= 2.0).then_some(())
    })
    .await;
    assert_eq!(b.seen().len(), before);
}
