//! Identities over real sockets: certificates under openssl's eyes, joining, and who may do what by TLS.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use weir_control::{AuthorityConfig, CaFiles, ControlConfig, RunningControl};
use weir_policy::model::Locality;
use weir_xds::ResourceType;
use weir_xds::envoy::{AggregatedDiscoveryServiceClient, DeltaDiscoveryRequest};
use weir_xds::istio::IstioCertificateRequest;
use weir_xds::istio::istio_certificate_service_client::IstioCertificateServiceClient;
use weir_xds::v1::workload_message::Message;
use weir_xds::v1::workloads_client::WorkloadsClient;
use weir_xds::{node, v1};

use super::client::Client;
use super::program::Program;
use super::proxy::{hello, within};

pub(crate) async fn start(authority: AuthorityConfig) -> (RunningControl, Client) {
    let config = ControlConfig {
        xds_tls: Some(([127, 0, 0, 1], 0).into()),
        authority,
        ..ControlConfig::in_memory()
    };
    let (control, client) = super::run(config).await;
    for name in ["citizen", "police"] {
        client
            .post("/api/v1/namespaces", &super::namespace(name))
            .await
            .expect(201);
    }
    (control, client)
}

/// A key, and a certificate for it.
pub(crate) struct Credential {
    pub(crate) key: KeyPair,
    pub(crate) chain: Vec<CertificateDer<'static>>,
}

impl Credential {
    fn new(key: KeyPair, pem: &[String]) -> Credential {
        let read = |pem: &String| CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate");
        let chain = pem.iter().map(read).collect();
        Credential { key, chain }
    }
}

fn csr(key: &KeyPair) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let csr = params.serialize_request(key).expect("a request");
    csr.pem().expect("as text")
}

fn key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

/// From the API, as `weirctl cert` gets one.
pub(crate) async fn certificate(client: Client, namespace: &str, account: &str) -> Credential {
    let key = key();
    let request = json!({"namespace": namespace, "account": account, "csr": csr(&key)});
    let issued = client.post("/authority/certificates", &request).await.expect(200);
    Credential::new(key, &texts(&issued["chain"]))
}

fn texts(of: &Value) -> Vec<String> {
    let texts = of.as_array().expect("a list").iter();
    texts.map(|text| text.as_str().expect("text").to_owned()).collect()
}

async fn token(client: Client, account: &str, uses: u32) -> String {
    let request = json!({
        "namespace": "citizen", "account": account, "labels": {"app": account}, "ttl": "1h", "uses": uses,
    });
    let issued = client.post("/authority/tokens", &request).await.expect(200);
    issued["token"].as_str().expect("a token").to_owned()
}

/// Takes a server for the control plane by its roots; who it is, is the proxy's tests' to look at.
#[derive(Debug)]
pub(crate) struct ByRoot(pub(crate) RootCertStore);

impl ServerCertVerifier for ByRoot {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let end = ParsedCertificate::try_from(end)?;
        let algorithms = default_provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&end, &self.0, others, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        unreachable!("TLS 1.3 alone is asked for")
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// By TLS, as the holder of a certificate or as nobody.
pub(crate) async fn connect(control: &RunningControl, client: Client, own: Option<&Credential>) -> Channel {
    connect_to(control.xds_tls_addr().expect("it is on"), client, own).await
}

async fn connect_to(address: SocketAddr, client: Client, own: Option<&Credential>) -> Channel {
    let status = client.get("/authority").await.expect(200);
    let mut roots = RootCertStore::empty();
    let pem = status["roots"][0]["pem"].as_str().expect("PEM");
    roots
        .add(CertificateDer::from_pem_slice(pem.as_bytes()).expect("a root"))
        .expect("a root");
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ByRoot(roots)));
    let mut config = match own {
        None => config.with_no_client_auth(),
        Some(own) => {
            let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own.key.serialize_der()));
            config
                .with_client_auth_cert(own.chain.clone(), key)
                .expect("they belong together")
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let config = Arc::new(config);
    let connector = tower::service_fn(move |_| {
        let config = Arc::clone(&config);
        async move {
            let stream = TcpStream::connect(address).await?;
            let name = ServerName::from(address.ip());
            let stream = TlsConnector::from(config).connect(name, stream).await?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    endpoint.connect_with_connector(connector).await.expect("a handshake")
}

/// Asks for a certificate for `key`.
async fn ask(channel: Channel, request: IstioCertificateRequest, token: Option<&str>) -> Result<Vec<String>, Status> {
    let mut request = Request::new(request);
    if let Some(token) = token {
        let bearer = format!("Bearer {token}").parse().expect("a header's value");
        request.metadata_mut().insert("authorization", bearer);
    }
    let mut client = IstioCertificateServiceClient::new(channel);
    let answer = within("a certificate", client.create_certificate(request)).await?;
    Ok(answer.into_inner().cert_chain)
}

fn request(key: &KeyPair) -> IstioCertificateRequest {
    IstioCertificateRequest {
        csr: csr(key),
        validity_duration: 0,
        metadata: None,
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, expect: &str) {
    let status = result.expect_err("it is refused");
    assert_eq!(status.code(), code, "{status}");
    assert!(status.message().contains(expect), "{status}");
}

#[tokio::test]
async fn a_token_gives_a_certificate_and_that_the_next_one() {
    let (control, client) = start(AuthorityConfig::default()).await;
    let stranger = connect(&control, client, None).await;
    let token = token(client, "portal", 1).await;
    let own = key();
    let chain = ask(stranger.clone(), request(&own), Some(&token))
        .await
        .expect("let in");
    assert_eq!(chain.len(), 3, "certificate, intermediate, root");
    let root = client.get("/authority").await.expect(200);
    assert_eq!(root["roots"][0]["pem"], chain[2].as_str());
    // An answer that was lost is asked for again with the same key; with another key the token is used up.
    ask(stranger.clone(), request(&own), Some(&token))
        .await
        .expect("the same use");
    let stolen = ask(stranger.clone(), request(&key()), Some(&token)).await;
    refused(
        stolen,
        Code::Unauthenticated,
        "the token was used 1 times, as often as it may",
    );
    let member = Credential::new(own, &chain[..2]);
    let next = key();
    let member = connect(&control, client, Some(&member)).await;
    let renewed = ask(member, request(&next), None).await.expect("renewed");
    let renewed = Credential::new(next, &renewed[..2]);
    let third = connect(&control, client, Some(&renewed)).await;
    ask(third, request(&key()), None).await.expect("and again");
    control.shutdown().await;
}

#[tokio::test]
async fn who_shows_nothing_right_gets_nothing_and_is_told_why() {
    let (control, client) = start(AuthorityConfig::default()).await;
    let stranger = connect(&control, client, None).await;
    let good = token(client, "portal", 1).await;
    let (other, other_client) = start(AuthorityConfig::default()).await;
    let foreign = token(other_client, "portal", 1).await;
    let ask = |token: Option<String>, request| {
        let stranger = stranger.clone();
        async move { ask(stranger, request, token.as_deref()).await }
    };
    let own = key();
    refused(
        ask(None, request(&own)).await,
        Code::Unauthenticated,
        "shows a join token",
    );
    let (head, signature) = good.rsplit_once('.').expect("three parts");
    let unsigned = format!(
        "{}.{}.",
        "eyJhbGciOiJub25lIn0",
        head.split_once('.').expect("two parts").1
    );
    for wrong in [
        foreign,
        unsigned,
        format!("{head}.{}", "A".repeat(signature.len())),
        "nonsense".to_owned(),
    ] {
        let answer = ask(Some(wrong), request(&own)).await;
        refused(
            answer,
            Code::Unauthenticated,
            "the token is no join token of this control plane",
        );
    }
    // What they ask for is not looked at before it is known who they are.
    let nonsense = || IstioCertificateRequest {
        csr: "nonsense".to_owned(),
        ..request(&own)
    };
    refused(ask(None, nonsense()).await, Code::Unauthenticated, "shows a join token");
    refused(
        ask(Some("nonsense".to_owned()), nonsense()).await,
        Code::Unauthenticated,
        "the token is no join token of this control plane",
    );
    let page = client.get("/metrics").await.text();
    assert!(
        page.contains("weir_control_refused_total{what=\"token\"} 5\n"),
        "{page}"
    );
    let with = |change: &dyn Fn(&mut IstioCertificateRequest)| {
        let mut request = request(&own);
        change(&mut request);
        request
    };
    let invalid = Code::InvalidArgument;
    let no_csr = with(&|request| request.csr = String::new());
    refused(ask(Some(good.clone()), no_csr).await, invalid, "the csr can't be read");
    for seconds in [-1, 59] {
        let short = with(&|request| request.validity_duration = seconds);
        refused(
            ask(Some(good.clone()), short).await,
            invalid,
            "60 seconds or more are right",
        );
    }
    let more = with(&|request| {
        request.metadata = Some(Default::default());
        let fields = &mut request.metadata.as_mut().expect("just set").fields;
        fields.insert("ImpersonatedIdentity".to_owned(), Default::default());
    });
    refused(
        ask(Some(good.clone()), more).await,
        invalid,
        "metadata.ImpersonatedIdentity is not known here",
    );
    // None of these counted as a use.
    ask(Some(good), request(&own)).await.expect("let in");
    let long = with(&|request| request.csr = "x".repeat(100_000));
    assert!(ask(None, long).await.is_err());
    other.shutdown().await;
    control.shutdown().await;
}

/// By TLS, as one that joined with a token: its certificate has the label `app`, which is the account.
pub(crate) async fn joined(control: &RunningControl, client: Client, account: &str) -> Channel {
    let own = key();
    let token = token(client, account, 1).await;
    let stranger = connect(control, client, None).await;
    let chain = ask(stranger, request(&own), Some(&token)).await.expect("let in");
    let joined = Credential::new(own, &chain[..2]);
    connect(control, client, Some(&joined)).await
}

/// The first thing that an ADS stream answers, or how it ends.
async fn first_answer(channel: Channel, workload: &str) -> Result<(), Status> {
    let node = node::node(&workload.parse().expect("a workload"), &Locality::default(), "0.1.0");
    let request = DeltaDiscoveryRequest {
        node: Some(node),
        type_url: ResourceType::Listener.url().to_owned(),
        resource_names_subscribe: vec!["nobody.citizen.svc.cluster.local:80".to_owned()],
        ..DeltaDiscoveryRequest::default()
    };
    let (requests, outgoing) = mpsc::channel(1);
    requests.send(request).await.expect("there is room");
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    let answers = within(
        "a stream",
        client.delta_aggregated_resources(ReceiverStream::new(outgoing)),
    )
    .await;
    within("an answer", answers?.into_inner().message()).await.map(drop)
}

/// A workload's stream after its first message; dropped, it is lost.
struct Stream {
    _messages: mpsc::Sender<v1::WorkloadMessage>,
    replies: tonic::Streaming<v1::WorkloadReply>,
}

async fn register(channel: Channel, hello: v1::Hello) -> Result<Stream, Status> {
    let (messages, outgoing) = mpsc::channel(1);
    let hello = v1::WorkloadMessage {
        message: Some(Message::Hello(hello)),
    };
    messages.send(hello).await.expect("there is room");
    let mut client = WorkloadsClient::new(channel);
    let replies = within("a stream", client.register(ReceiverStream::new(outgoing))).await;
    let mut replies = replies?.into_inner();
    within("a welcome", replies.message()).await?;
    Ok(Stream {
        _messages: messages,
        replies,
    })
}

#[tokio::test]
async fn by_tls_a_proxy_is_who_its_certificate_names_and_no_other() {
    let (control, client) = start(AuthorityConfig::default()).await;
    let stranger = connect(&control, client, None).await;
    let needed = "a client certificate of this mesh";
    refused(
        first_answer(stranger.clone(), "citizen/portal-1").await,
        Code::Unauthenticated,
        needed,
    );
    let bare = |name: &str| v1::Hello {
        labels: Default::default(),
        ..hello(name, 5)
    };
    let unknown = register(stranger, bare("portal-1")).await.map(drop);
    refused(unknown, Code::Unauthenticated, needed);
    let portal = joined(&control, client, "portal").await;
    first_answer(portal.clone(), "citizen/portal-1")
        .await
        .expect("an answer");
    let denied = Code::PermissionDenied;
    let other_namespace = "and the client's certificate is of spiffe://cluster.local/ns/citizen/sa/portal";
    refused(
        first_answer(portal.clone(), "police/portal-1").await,
        denied,
        other_namespace,
    );
    let police = v1::Hello {
        namespace: "police".to_owned(),
        ..bare("portal-1")
    };
    refused(
        register(portal.clone(), police).await.map(drop),
        denied,
        other_namespace,
    );
    let labelled = register(portal.clone(), hello("portal-1", 5)).await.map(drop);
    refused(
        labelled,
        Code::InvalidArgument,
        "labels: by TLS they come with the join token",
    );
    let _registered = register(portal, bare("portal-1")).await.expect("registered");
    let workload = client
        .get("/apis/weir.dev/v1/namespaces/citizen/workloads/portal-1")
        .await
        .expect(200);
    assert_eq!(workload["spec"]["account"], "portal");
    assert_eq!(
        workload["metadata"]["labels"],
        json!({"app": "portal", "weir.dev/workload": "portal-1"})
    );
    // Neither another account of the same namespace, nor somebody in cleartext takes the name away.
    let other = certificate(client, "citizen", "other").await;
    let other = connect(&control, client, Some(&other)).await;
    let newer = |hello: v1::Hello| v1::Hello { instance: 9, ..hello };
    let taken = "this workload is registered by account \"portal\"";
    refused(
        register(other.clone(), newer(bare("portal-1"))).await.map(drop),
        denied,
        taken,
    );
    let cleartext = super::proxy::channel(&control).await;
    refused(
        register(cleartext, newer(hello("portal-1", 9))).await.map(drop),
        denied,
        taken,
    );
    register(other, bare("other-1")).await.expect("its own name");
    control.shutdown().await;
}

/// An operator's own authority, in files.
fn operators(folder: &Path) -> CaFiles {
    let params = || {
        let mut params = CertificateParams::default();
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    };
    let (root_key, intermediate_key) = (key(), key());
    let mut root = params();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.distinguished_name.push(DnType::CommonName, "the operator's root");
    let root_pem = root.self_signed(&root_key).expect("signed").pem();
    let root = Issuer::new(root, root_key);
    let mut intermediate = params();
    intermediate.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    intermediate
        .distinguished_name
        .push(DnType::CommonName, "the operator's intermediate");
    let intermediate = intermediate.signed_by(&intermediate_key, &root).expect("signed");
    let write = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("written");
        // As an operator has to, who keeps the key from others.
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("ours");
        path
    };
    CaFiles {
        cert: write("cert.pem", intermediate.pem()),
        key: write("key.pem", intermediate_key.serialize_pem()),
        roots: write("roots.pem", root_pem),
    }
}

/// Under one root of an operator's a certificate may be right in every way but for its trust domain.
#[tokio::test]
async fn a_certificate_of_another_trust_domain_opens_nothing_also_under_our_root() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = operators(folder.path());
    let of = |trust_domain: &str| AuthorityConfig {
        trust_domain: trust_domain.parse().expect("a trust domain"),
        files: Some(files.clone()),
        ..AuthorityConfig::default()
    };
    let (control, client) = start(of("mesh.gov")).await;
    let (other, other_client) = start(of("other.gov")).await;
    let own = certificate(client, "citizen", "portal").await;
    let channel = connect(&control, client, Some(&own)).await;
    first_answer(channel, "citizen/portal-1").await.expect("ours");
    let refused = r#"weir_control_refused_total{what="connection"}"#;
    let page = client.get("/metrics").await.text();
    assert!(page.contains(&format!("{refused} 0\n")), "{page}");
    let foreign = certificate(other_client, "citizen", "portal").await;
    let channel = connect(&control, client, Some(&foreign)).await;
    assert!(first_answer(channel, "citizen/portal-1").await.is_err());
    let page = client.get("/metrics").await.text();
    assert!(!page.contains(&format!("{refused} 0\n")), "{page}");
    other.shutdown().await;
    control.shutdown().await;
}

/// A certificate of a root with the same name.
#[tokio::test]
async fn a_certificate_that_we_did_not_sign_opens_nothing() {
    let (control, client) = start(AuthorityConfig::default()).await;
    let (other, other_client) = start(AuthorityConfig::default()).await;
    let foreign = certificate(other_client, "citizen", "portal").await;
    let channel = connect(&control, client, Some(&foreign)).await;
    // By TLS 1.3 a client learns after its own handshake that its certificate is not taken.
    assert!(first_answer(channel, "citizen/portal-1").await.is_err());
    other.shutdown().await;
    control.shutdown().await;
}

#[tokio::test]
async fn a_connection_ends_with_the_certificate_that_opened_it() {
    let authority = AuthorityConfig {
        cert_ttl: std::time::Duration::from_secs(8),
        ..AuthorityConfig::default()
    };
    let (control, client) = start(authority).await;
    let own = certificate(client, "citizen", "portal").await;
    let channel = connect(&control, client, Some(&own)).await;
    let bare = v1::Hello {
        labels: Default::default(),
        ..hello("portal-1", 5)
    };
    let mut stream = register(channel, bare).await.expect("registered");
    let ended = within("the end of the stream", stream.replies.message()).await;
    assert!(ended.is_err(), "{ended:?}");
    control.shutdown().await;
}

fn openssl(args: &[&str], folder: &Path) -> Output {
    let mut command = Command::new("openssl");
    command.args(args).current_dir(folder).stdin(Stdio::null());
    command.output().expect("openssl; `./dev setup` installs it")
}

#[track_caller]
fn says(output: &Output, expect: &str) {
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains(expect), "{expect:?} is not in\n{said}");
}

#[tokio::test]
async fn openssl_finds_our_certificates_right_and_speaks_with_our_port() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path();
    let program = Program::start_with(
        &place.join("data"),
        &["--xds-tls", "127.0.0.1:0", "--trust-domain", "mesh.gov"],
    );
    let key = key();
    let request = json!({"namespace": "citizen", "account": "portal", "csr": csr(&key), "ttl": "2h"});
    let issued = program
        .client
        .post("/authority/certificates", &request)
        .await
        .expect(200);
    let write = |name: &str, text: String| std::fs::write(place.join(name), text).expect("written");
    write("key.pem", key.serialize_pem());
    write("cert.pem", texts(&issued["chain"]).concat());
    write("ca.pem", texts(&issued["roots"]).concat());
    for purpose in ["sslserver", "sslclient"] {
        let args = [
            "verify",
            "-x509_strict",
            "-purpose",
            purpose,
            "-CAfile",
            "ca.pem",
            "-untrusted",
            "cert.pem",
            "cert.pem",
        ];
        says(&openssl(&args, place), "cert.pem: OK");
    }
    let shown = openssl(&["x509", "-in", "cert.pem", "-noout", "-text"], place);
    for expect in [
        "URI:spiffe://mesh.gov/ns/citizen/sa/portal",
        "X509v3 Key Usage: critical\n                Digital Signature\n",
        "TLS Web Server Authentication, TLS Web Client Authentication",
        "CA:FALSE",
        "ecdsa-with-SHA256",
    ] {
        says(&shown, expect);
    }
    assert!(
        openssl(&["x509", "-in", "cert.pem", "-noout", "-checkend", "7100"], place)
            .status
            .success()
    );
    assert!(
        !openssl(&["x509", "-in", "cert.pem", "-noout", "-checkend", "7300"], place)
            .status
            .success()
    );
    let port = program
        .ready
        .split("xds-tls https://")
        .nth(1)
        .expect("its port")
        .trim()
        .to_owned();
    let connect = [
        "s_client",
        "-connect",
        &port,
        "-CAfile",
        "ca.pem",
        "-alpn",
        "h2",
        "-verify_return_error",
    ];
    let member = [
        &connect[..],
        &[
            "-tls1_3",
            "-cert",
            "cert.pem",
            "-key",
            "key.pem",
            "-cert_chain",
            "cert.pem",
        ],
    ]
    .concat();
    let spoken = openssl(&member, place);
    for expect in ["Verification: OK", "TLSv1.3", "ALPN protocol: h2"] {
        says(&spoken, expect);
    }
    let old = openssl(&[&connect[..], &["-tls1_2"]].concat(), place);
    assert!(!old.status.success());
    says(&old, "alert protocol version");
    assert!(program.terminate().success());
}

/// It travels in a header, and headers have a limit of their own; its labels travel on in the certificate.
#[tokio::test]
async fn a_token_with_all_the_labels_that_it_may_have_is_taken() {
    let (control, client) = start(AuthorityConfig::default()).await;
    let prefix = ["p".repeat(63).as_str(); 3].join(".");
    let labels: Value = (0..16)
        .map(|n| (format!("{prefix}.{}/{n:0>63}", "p".repeat(61)), json!("v".repeat(63))))
        .collect();
    let request = json!({
        "namespace": "citizen", "account": "a".repeat(63), "labels": labels, "ttl": "1h", "uses": 1,
    });
    let issued = client.post("/authority/tokens", &request).await.expect(200);
    let token = issued["token"].as_str().expect("a token");
    assert!(token.len() > 8_192, "{}", token.len());
    let stranger = connect(&control, client, None).await;
    let longest = "A".repeat(weir_xds::JOIN_TOKEN_BYTES_MAX);
    let read = ask(stranger.clone(), self::request(&key()), Some(&longest)).await;
    refused(
        read,
        Code::Unauthenticated,
        "the token is no join token of this control plane",
    );
    let own = key();
    let chain = ask(stranger, self::request(&own), Some(token)).await.expect("let in");
    let member = Credential::new(own, &chain[..2]);
    let member = connect(&control, client, Some(&member)).await;
    ask(member, self::request(&key()), None)
        .await
        .expect("by the certificate");
    control.shutdown().await;
}

#[tokio::test]
async fn no_log_holds_a_token_or_a_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("log");
    let more = ["--xds-tls", "127.0.0.1:0", "--log", "debug"];
    let program = Program::start_logging(&folder.path().join("data"), &more, &log);
    let client = program.client;
    let token = token(client, "portal", 1).await;
    let address: SocketAddr = program
        .ready
        .split("xds-tls https://")
        .nth(1)
        .and_then(|address| address.trim().parse().ok())
        .expect("its port");
    let stranger = connect_to(address, client, None).await;
    ask(stranger.clone(), request(&key()), Some(&token))
        .await
        .expect("let in");
    for wrong in [token.as_str(), &token[..token.len() - 1]] {
        ask(stranger.clone(), request(&key()), Some(wrong))
            .await
            .expect_err("used up, or none");
    }
    assert!(program.terminate().success());
    let log = std::fs::read_to_string(log).expect("a log");
    let name: Value = {
        use base64::Engine as _;
        let claims = token.split('.').nth(1).expect("claims");
        let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD
            .decode(claims)
            .expect("base64");
        serde_json::from_slice(&claims).expect("JSON")
    };
    let name = name["jti"].as_str().expect("its name");
    for expect in [
        "joins by a token",
        "used as often as it may",
        "join token refused",
        name,
    ] {
        assert!(log.contains(expect), "{expect:?} is not in\n{log}");
    }
    for part in token.split('.') {
        assert!(!log.contains(part), "{log}");
    }
    assert!(!log.contains("PRIVATE") && !log.contains("-----BEGIN"), "{log}");
}

#[tokio::test]
async fn what_is_asked_wrongly_of_the_authority_is_refused_by_name() {
    let (control, client) = start(AuthorityConfig::default()).await;
    let good = json!({"namespace": "citizen", "account": "portal", "ttl": "1h", "uses": 1});
    let with = |field: &str, value: Value| {
        let mut request = good.clone();
        request[field] = value;
        request
    };
    for (request, code, reason, expect) in [
        (
            with("namespace", json!("Citizen")),
            400,
            "BadRequest",
            "namespace \"Citizen\": ",
        ),
        (with("account", json!("")), 400, "BadRequest", "account \"\": is empty"),
        (with("uses", json!(0)), 400, "BadRequest", "uses \"0\": "),
        (with("ttl", json!("1")), 400, "BadRequest", "ttl \"1\": "),
        (with("admin", json!(true)), 400, "BadRequest", "unknown field `admin`"),
    ] {
        let said = client.post("/authority/tokens", &request).await.refused(code, reason);
        assert!(said.contains(expect), "{said}");
    }
    let ours = json!({"namespace": "weir-system", "account": "weir-control", "ttl": "1h", "uses": 1});
    let said = client.post("/authority/tokens", &ours).await.refused(403, "Forbidden");
    assert!(said.contains("is the control plane's own identity"), "{said}");
    let no_csr = json!({"namespace": "citizen", "account": "portal", "csr": "x"});
    let said = client
        .post("/authority/certificates", &no_csr)
        .await
        .refused(400, "BadRequest");
    assert!(said.starts_with("the csr can't be read"), "{said}");
    client.get("/authority/tokens").await.refused(405, "MethodNotAllowed");
    // A page in a browser can send text without asking first, but not JSON.
    let as_text = client.send(
        http::Method::POST,
        "/authority/tokens",
        Some("text/plain"),
        good.to_string(),
    );
    as_text.await.refused(400, "BadRequest");
    let page = client.get("/metrics").await.text();
    for certificate in ["root", "intermediate"] {
        let metric = format!("weir_control_certificate_left_seconds{{certificate=\"{certificate}\"}} ");
        assert!(page.contains(&metric), "{page}");
    }
    control.shutdown().await;
}
