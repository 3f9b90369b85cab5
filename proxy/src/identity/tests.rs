//! When certificates are renewed, under virtual time; what is kept on disk.

use std::collections::VecDeque;
use std::os::unix::fs::PermissionsExt as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tonic::{Code, Request, Response, Status};
use weir_xds::istio::istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer};
use weir_xds::istio::{IstioCertificateRequest, IstioCertificateResponse};

use super::*;
use crate::admin::readiness::Readiness;

/// Attempts that come to what is written down, and then to nothing more.
struct Scripted {
    began: Instant,
    outcomes: VecDeque<Option<u64>>,
    /// When each was made, in milliseconds from the start.
    made: mpsc::Sender<u128>,
    wanted: Arc<Notify>,
}

impl Source for Scripted {
    async fn obtain(&mut self) -> Option<Duration> {
        let made = self.began.elapsed().as_millis();
        self.made.send(made).await.expect("it is read");
        match self.outcomes.pop_front() {
            Some(outcome) => outcome.map(Duration::from_secs),
            None => std::future::pending().await,
        }
    }

    async fn wanted(&self) {
        self.wanted.notified().await;
    }
}

fn scripted(outcomes: &[Option<u64>]) -> (Scripted, mpsc::Receiver<u128>) {
    let (made, seen) = mpsc::channel(16);
    let source = Scripted {
        began: Instant::now(),
        outcomes: outcomes.iter().copied().collect(),
        made,
        wanted: Arc::default(),
    };
    (source, seen)
}

/// When each attempt was made, the one after the last outcome as well.
async fn attempts(good_for: Option<Duration>, random: fn() -> f64, outcomes: &[Option<u64>]) -> Vec<u128> {
    let (mut source, mut seen) = scripted(outcomes);
    let all = async {
        let mut made = Vec::new();
        while made.len() <= outcomes.len() {
            made.push(seen.recv().await.expect("it goes on"));
        }
        made
    };
    tokio::select! {
        () = keep(&mut source, good_for, random) => Vec::new(),
        made = all => made,
    }
}

const LEAST: fn() -> f64 = || 0.0;
const MIDDLE: fn() -> f64 = || 0.5;
const MOST: fn() -> f64 = || 1.0;

#[tokio::test(start_paused = true)]
async fn a_certificate_is_renewed_at_two_thirds_with_a_tenth_of_jitter() {
    let day = 24 * 60 * 60;
    let good_for = Some(Duration::from_secs(day));
    // Nothing is there: at once, then at two thirds of each.
    assert_eq!(
        attempts(None, MIDDLE, &[Some(day), Some(60)]).await,
        [0, 57_600_000, 57_640_000]
    );
    assert_eq!(
        attempts(good_for, MIDDLE, &[]).await,
        [57_600_000],
        "what was kept is used first"
    );
    assert_eq!(attempts(good_for, LEAST, &[]).await, [48_960_000]);
    assert_eq!(attempts(good_for, MOST, &[]).await, [66_240_000]);
    assert_eq!(
        attempts(Some(Duration::ZERO), MIDDLE, &[]).await,
        [1_000],
        "never without a pause"
    );
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_it_is_tried_again_with_waits_that_double() {
    let failures = [None; 8];
    let expect = [0, 1, 3, 7, 15, 31, 63, 123, 183].map(|seconds| seconds * 1_000);
    assert_eq!(attempts(None, MOST, &failures).await, expect);
    assert_eq!(attempts(None, LEAST, &failures[..3]).await, [0, 500, 1_500, 3_500]);
    // A success begins anew.
    let mixed = [None, None, Some(60), None];
    assert_eq!(attempts(None, MIDDLE, &mixed).await, [0, 750, 2_250, 42_250, 43_000]);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_wanted_is_not_waited_for() {
    let (mut source, mut seen) = scripted(&[Some(3_600), Some(3_600)]);
    let wanted = Arc::clone(&source.wanted);
    let test = async {
        assert_eq!(seen.recv().await, Some(0));
        tokio::time::sleep(Duration::from_secs(7)).await;
        wanted.notify_one();
        assert_eq!(seen.recv().await, Some(7_000));
        assert_eq!(seen.recv().await, Some(2_407_000));
    };
    tokio::select! {
        () = keep(&mut source, None, MIDDLE) => {}
        () = test => {}
    }
}

const PORTAL: &str = "spiffe://mesh.gov/ns/citizen/sa/portal";

fn credential() -> Credential {
    let (root, chain, key, _) = trust::tests::chain(PORTAL);
    let (not_after, id) = trust::read(&chain[0]).expect("a certificate");
    Credential {
        id,
        chain,
        roots: Roots::of_the_mesh(vec![root]),
        key: PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
        not_after,
    }
}

/// Roots of other trust domains, each with one.
fn beside(domains: &[&str]) -> Roots {
    let root = || pem(&credential().roots.own()[0]);
    let others = domains
        .iter()
        .map(|name| (name.parse().expect("a trust domain"), root()));
    Roots::read(&root(), &others.collect()).expect("they are right")
}

#[test]
fn what_is_kept_reads_back_and_nobody_else_reads_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join(kept::FILE);
    let now = SystemTime::now();
    assert!(kept::read(&path, now).expect("nothing is wrong").is_none());
    let mut held = credential();
    kept::write(&path, &held).expect("written");
    held.roots = held.roots.beside_others_of(&beside(&["a.gov", "b.gov"]));
    kept::write(&path, &held).expect("and again");
    let mode = std::fs::metadata(&path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let read = kept::read(&path, now).expect("it is right").expect("there");
    assert_eq!(
        (&read.id, &read.chain, &read.roots),
        (&held.id, &held.chain, &held.roots)
    );
    assert_eq!(
        (read.key.secret_der(), read.not_after),
        (held.key.secret_der(), held.not_after)
    );
    let refused = |now| kept::read(&path, now).map(|_| ()).expect_err("it is wrong");
    assert_eq!(refused(held.not_after), "its certificate has ended");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("set");
    assert!(refused(now).starts_with("it has mode 640"));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("set");
    let whole = std::fs::read_to_string(&path).expect("text");
    let key_alone: String = whole.split_inclusive("-----END PRIVATE KEY-----\n").take(1).collect();
    let nameless = whole.replace("# trust domain a.gov", "# trust domain A");
    let rootless = format!("{whole}# trust domain c.gov\n");
    for damaged in [
        "",
        "garbage",
        &key_alone,
        &whole[..whole.len() / 2],
        &nameless,
        &rootless,
    ] {
        std::fs::write(&path, damaged).expect("written");
        assert_eq!(refused(now), "it is damaged", "{damaged:?}");
    }
}

#[test]
fn a_root_that_came_along_is_not_trusted_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join(kept::FILE);
    let now = SystemTime::now();
    let (root, chain, key, id) = trust::tests::chain(PORTAL);
    let (other, ..) = trust::tests::chain(PORTAL);
    let answer: Vec<String> = chain.iter().chain([&other, &root]).map(pem).collect();
    let trust = Trust {
        roots: Vec::new(),
        pins: vec![trust::sha256(&root)],
        id: id.trust_domain.control_plane(),
    };
    let held = joining::answered(&answer, &key, &id, &trust, now).expect("it is right");
    assert_eq!((&held.chain, &held.roots), (&chain, &Roots::of_the_mesh(vec![root])));
    kept::write(&path, &held).expect("written");
    let read = kept::read(&path, now).expect("it is right").expect("there");
    assert_eq!((read.chain, read.roots), (held.chain, held.roots));
}

fn pem(certificate: &CertificateDer<'static>) -> String {
    let encoded = base64::engine::general_purpose::STANDARD.encode(certificate);
    format!("-----BEGIN CERTIFICATE-----\n{encoded}\n-----END CERTIFICATE-----\n")
}

/// By what a certificate was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Certificate,
    Token,
}

/// Gives nobody a certificate, and writes down who asked.
struct Refusing {
    code: Code,
    asked: mpsc::Sender<By>,
}

#[tonic::async_trait]
impl IstioCertificateService for Refusing {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let by = match request.metadata().get("authorization") {
            Some(_) => By::Token,
            None => By::Certificate,
        };
        self.asked.send(by).await.expect("it is read");
        Err(Status::new(self.code, "no"))
    }
}

/// A control plane's door on loopback: under a root of its own, it believes certificates of `members`.
async fn refusing(code: Code, members: &CertificateDer<'static>) -> (Endpoint, CertificateDer<'static>, Asked) {
    let (root, mut chain, key, _) = trust::tests::chain(trust::tests::CONTROL);
    chain.push(root.clone());
    let mut roots = RootCertStore::empty();
    roots.add(members.clone()).expect("a root");
    let provider = Arc::new(default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .expect("a verifier");
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .expect("its certificate");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let (asked, by) = mpsc::channel(16);
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let (acceptor, asked) = (acceptor.clone(), asked.clone());
            connections.spawn(async move {
                // What is wrong with one is the client's to see.
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let service = IstioCertificateServiceServer::new(Refusing { code, asked });
                let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
                    .await;
            });
        }
    });
    let endpoint = Endpoint::from_shared(format!("https://{address}")).expect("a URL");
    (endpoint, root, Asked { by, _server: server })
}

/// Who asked; the server runs as long as this is there.
struct Asked {
    by: mpsc::Receiver<By>,
    _server: JoinSet<()>,
}

/// A renewal by one who has a token as well: by what it was asked for, and how it ended. `change` is given the
/// certificate, whose roots are the control plane's if none are set, and the root by which the control plane knows it.
async fn renewed(
    code: Code,
    change: impl FnOnce(&mut Credential, &mut CertificateDer<'static>),
) -> (Vec<By>, JoinError) {
    let mut held = credential();
    let mut members = held.roots.own()[0].clone();
    held.roots = Roots::of_the_mesh(Vec::new());
    change(&mut held, &mut members);
    let (endpoint, root, mut asked) = refusing(code, &members).await;
    if held.roots.own().is_empty() {
        held.roots = Roots::of_the_mesh(vec![root.clone()]);
    }
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("token");
    let pin: String = trust::sha256(&root).iter().map(|byte| format!("{byte:02x}")).collect();
    let claims = URL_SAFE_NO_PAD.encode(json!({"sub": PORTAL, "roots": [pin]}).to_string());
    std::fs::write(&file, format!("e30.{claims}.c2lnbmVk")).expect("written");
    let joining = Joining {
        token_file: Some(file),
        ca_file: None,
        keep: KeepIdentity::No,
    };
    let workload = WorkloadName {
        namespace: "citizen".parse().expect("a name"),
        name: "portal-1".parse().expect("a name"),
    };
    let condition = Readiness::default().condition("has a certificate");
    let (_identity, keeper, _taker) = start(endpoint, joining, workload, None, condition);
    let trust = keeper.trust(None, Some(&held)).expect("known roots");
    keeper.publish(held, trust).expect("it is right");
    let error = keeper
        .next(&KeyPair::generate().expect("a key"))
        .await
        .expect_err("nobody gets one");
    let mut all = Vec::new();
    while let Ok(by) = asked.by.try_recv() {
        all.push(by);
    }
    (all, error)
}

/// What the control plane tells of roots counts for more than what comes with a certificate, or stands in a file; but
/// not for who joined another mesh.
#[test]
fn roots_that_were_told_hold_until_another_mesh_is_joined() {
    let (held, renewed, elsewhere) = (credential(), credential(), credential());
    let (other, file) = (credential(), credential());
    let directory = tempfile::tempdir().expect("a directory");
    let ca_file = directory.path().join("roots.pem");
    std::fs::write(&ca_file, pem(&file.roots.own()[0])).expect("written");
    let joining = Joining {
        token_file: None,
        ca_file: Some(ca_file),
        keep: KeepIdentity::No,
    };
    let endpoint = Endpoint::from_static("https://127.0.0.1:1");
    let workload = "citizen/portal-1".parse().expect("a workload");
    let condition = Readiness::default().condition("has a certificate");
    let (identity, keeper, _taker) = start(endpoint, joining, workload, None, condition);
    let trusted = || {
        let state = identity.shared.state.borrow().0.clone();
        state.expect("there is one").credential.roots.clone()
    };
    let own = held.roots.own()[0].clone();
    let both = [file.roots.own()[0].clone(), own.clone()];
    let before = keeper.trust(None, Some(&held)).expect("known roots");
    assert_eq!(
        before.roots, both,
        "the file's and those that came with the certificate"
    );
    keeper.publish(held, before).expect("it is right");
    assert_eq!(trusted(), Roots::of_the_mesh(vec![own.clone()]));

    let told = [own.clone(), other.roots.own()[0].clone()];
    let roots = Arc::new(Roots::of_the_mesh(told.to_vec()));
    assert_eq!(identity.trust(&roots), Ok(Trusting::Anew));
    assert_eq!(identity.trust(&roots), Ok(Trusting::AsBefore));
    assert_eq!(trusted(), *roots);
    let renewed = renewed.below(&Roots::of_the_mesh(vec![own]));
    let after = keeper.trust(None, Some(&renewed)).expect("known roots");
    assert_eq!(after.roots, told, "not the file's");
    keeper.publish(renewed, after.clone()).expect("it is right");
    assert_eq!(trusted(), *roots, "not only what came along");

    identity.offer(Arc::clone(&roots));
    let theirs = elsewhere.roots.clone();
    keeper.publish(elsewhere, after).expect("it is right");
    assert_eq!(trusted(), theirs);
    // What was told before is neither offered any more nor taken, by whoever had it in hand.
    assert!(identity.shared.offers.borrow().roots.is_none());
    assert_eq!(identity.trust(&roots), Ok(Trusting::NotTheirs));
    assert_eq!(trusted(), theirs);
}

/// A root that was issued anew, with the key that it had, is another certificate: what is below one is below the other.
#[test]
fn a_root_that_was_issued_anew_is_taken() {
    let (mut held, other) = (credential(), credential());
    let (anew, stranger) = (Arc::new(held.roots.clone()), Arc::new(credential().roots));
    held.roots.clone_from(&other.roots);
    let (identity, keeper, _taker) = without_files();
    let trust = Trust {
        roots: held.roots.own().to_vec(),
        pins: Vec::new(),
        id: held.id.clone(),
    };
    keeper.publish(held, trust).expect("it is right");
    assert_eq!(identity.trust(&stranger), Ok(Trusting::NotTheirs));
    assert_eq!(identity.trust(&anew), Ok(Trusting::Anew));
}

/// Trust domains are taken with the roots, and go when they are told no more; those that were kept hold from a start to
/// the first that is told.
#[test]
fn other_trust_domains_hold_as_long_as_they_are_told() {
    let (held, elsewhere) = (credential(), credential());
    let (identity, keeper, _taker) = without_files();
    let own = held.roots.clone();
    let both = own.beside_others_of(&beside(&["a.gov", "b.gov"]));
    let trusts = || ["a.gov", "b.gov", "mesh.gov"].map(|name| identity.trusts(&name.parse().expect("a trust domain")));
    assert_eq!(trusts(), [false; 3], "there is no identity");
    let trust = keeper.trust(None, Some(&held)).expect("known roots");
    keeper.publish(held.below(&both), trust.clone()).expect("it is right");
    assert_eq!(trusts(), [true; 3]);
    keeper.publish(held.below(&own), trust.clone()).expect("it is right");
    assert_eq!(trusts(), [true; 3], "renewed before anything was told");

    let one = Arc::new(own.beside_others_of(&beside(&["b.gov"])));
    assert_eq!(
        identity.trust(&one),
        Ok(Trusting::Anew),
        "the same roots of the mesh, and another domain"
    );
    assert_eq!(trusts(), [false, true, true]);
    assert_eq!(identity.trust(&one), Ok(Trusting::AsBefore));
    keeper.publish(held.below(&own), trust.clone()).expect("it is right");
    assert_eq!(trusts(), [false, true, true], "renewed");
    let changed = Arc::new(own.beside_others_of(&beside(&["b.gov"])));
    assert_eq!(identity.trust(&changed), Ok(Trusting::Anew), "by another root");
    assert_eq!(identity.trust(&Arc::new(own)), Ok(Trusting::Anew));
    assert_eq!(trusts(), [false, false, true]);

    assert_eq!(identity.trust(&changed), Ok(Trusting::Anew));
    keeper.publish(elsewhere, trust).expect("it is right");
    assert_eq!(trusts(), [false, false, true], "those of a mesh that was left");
}

fn without_files() -> (Identity, Keeper, Taker) {
    let joining = Joining {
        token_file: None,
        ca_file: None,
        keep: KeepIdentity::No,
    };
    let endpoint = Endpoint::from_static("https://127.0.0.1:1");
    let condition = Readiness::default().condition("has a certificate");
    let workload = "citizen/portal-1".parse().expect("a workload");
    start(endpoint, joining, workload, None, condition)
}

#[test]
fn roots_that_are_told_again_wake_nobody() {
    let one = Arc::new(credential().roots);
    let same = Arc::new(Roots::clone(&one));
    let (identity, ..) = without_files();
    let mut offers = identity.shared.offers.subscribe();
    identity.offer(one);
    assert!(offers.has_changed().expect("it is there"));
    offers.mark_unchanged();
    identity.offer(same);
    assert!(!offers.has_changed().expect("it is there"));
}

#[tokio::test]
async fn a_token_is_spent_on_a_renewal_only_where_nothing_else_helps() {
    for code in [Code::Unavailable, Code::Internal, Code::PermissionDenied, Code::Unknown] {
        let (asked, error) = renewed(code, |_, _| {}).await;
        assert_eq!(asked, [By::Certificate], "{code:?}");
        assert!(
            matches!(&error, JoinError::Refused(status) if status.code() == code),
            "{error}"
        );
    }
    let (asked, error) = renewed(Code::Unauthenticated, |_, _| {}).await;
    assert_eq!(asked, [By::Certificate, By::Token]);
    let said = "the control plane refuses: no (Unauthenticated)";
    assert_eq!(
        error.to_string(),
        format!("{said}; and by the token: {said}"),
        "both are told"
    );
    // Neither may be trusted by the other any more.
    let (stranger, ..) = trust::tests::chain(PORTAL);
    let (asked, error) = renewed(Code::Unavailable, |held, _| {
        held.roots = Roots::of_the_mesh(vec![stranger])
    })
    .await;
    assert_eq!(asked, [By::Token]);
    assert!(
        error.to_string().contains("its certificate is not to be trusted"),
        "{error}"
    );
    let (stranger, ..) = trust::tests::chain(PORTAL);
    let (asked, error) = renewed(Code::Unavailable, |_, members| *members = stranger).await;
    assert_eq!(asked, [By::Token], "{error}");
    assert!(matches!(error, JoinError::Both { .. }), "{error}");
}

#[test]
fn a_control_plane_that_does_not_answer_is_no_stranger() {
    for error in [
        JoinError::TimedOut,
        JoinError::Connect("refused".to_owned()),
        JoinError::Local("no".to_owned()),
    ] {
        assert!(!error.is_of_strangers(), "{error}");
    }
}

/// That of who has this.
fn identity(credential: Credential) -> Identity {
    let trust = Trust {
        roots: credential.roots.own().to_vec(),
        pins: Vec::new(),
        id: credential.id.trust_domain.control_plane(),
    };
    let held = Held::new(credential, trust).expect("it is right");
    Identity {
        shared: Arc::new(Shared {
            state: watch::Sender::new(State(Some(Arc::new(held)))),
            wanted: Notify::new(),
            trouble: Mutex::default(),
            told: Mutex::default(),
            offers: watch::Sender::default(),
            taken: watch::Sender::default(),
            roots_trouble: Mutex::default(),
        }),
    }
}

/// That of who has this chain and key, for an hour; `roots` are trusted.
pub(crate) fn identity_of(
    id: SpiffeId,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Roots,
) -> Identity {
    identity(Credential {
        id,
        chain,
        roots,
        key,
        not_after: SystemTime::now() + Duration::from_secs(60 * 60),
    })
}

#[test]
fn a_key_is_shown_nowhere() {
    let held = credential();
    let secret = format!("{:?}", held.key.secret_der());
    let identity = identity(held);
    let shown = format!("{identity:?} {}", identity.status(SystemTime::now()));
    assert!(shown.contains("spiffe://mesh.gov/ns/citizen/sa/portal"), "{shown}");
    assert!(!shown.contains(&secret) && !shown.contains("PRIVATE"), "{shown}");
}
