//! What a door takes of peers that say nothing, and that its certificate is renewed beside those that speak.

use std::net::IpAddr;

use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;

use super::*;
use crate::authority::{AuthorityConfig, csr};
use crate::drain::{self, Drainer};
use crate::store::{Location, Store, StoreTask};

/// Fails a test that waits for what will not come.
const PATIENCE: Duration = Duration::from_secs(60);

struct Opened {
    address: SocketAddr,
    authority: Authority,
    refusals: Arc<Refusals>,
    connections: mpsc::Receiver<io::Result<PeerIo>>,
    renewed: watch::Receiver<Arc<Current>>,
    drainer: Drainer,
    task: tokio::task::JoinHandle<()>,
    store: StoreTask,
}

async fn open(limits: Limits, config: AuthorityConfig) -> Opened {
    let (store, store_task) = Store::open(Location::Memory).expect("a store");
    let (authority, _keeper) = Authority::open(config, None, store).expect("an authority");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let (drainer, drain) = drain::channel();
    let refusals = Arc::new(Refusals::default());
    let door = Door::new(authority.clone(), limits, Arc::clone(&refusals)).expect("a certificate");
    let renewed = door.current.subscribe();
    let (connections, task) = door.open(listener, drain);
    Opened {
        address,
        authority,
        refusals,
        connections,
        renewed,
        drainer,
        task: tokio::spawn(task),
        store: store_task,
    }
}

impl Opened {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("it is open")
    }

    /// From another address of this host.
    async fn connect_from(&self, host: [u8; 4]) -> TcpStream {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((host, 0).into()).expect("loopback is a /8");
        socket.connect(self.address).await.expect("it is open")
    }

    /// A connection that the door has taken, from both sides.
    async fn taken(&mut self, own: Own, stream: TcpStream) -> (ClientStream, PeerIo) {
        let (client, taken) = tokio::join!(shake_hands(own, stream), within(self.connections.recv()));
        (client, taken.expect("open").expect("a connection"))
    }

    /// Shakes hands and is closed.
    async fn refused(&self, own: Own, stream: TcpStream) {
        let before = self.refusals.total();
        let mut client = shake_hands(own, stream).await;
        // By TLS 1.3 the client is done before the door is.
        let _ = within(client.read_to_end(&mut Vec::new())).await;
        assert_eq!(self.refusals.total(), before + 1);
    }

    /// A certificate of this namespace, and its key.
    fn member(&self, namespace: &str) -> Own {
        let key = KeyPair::generate().expect("a key");
        let request = rcgen::CertificateParams::default().serialize_request(&key);
        let csr = csr::read(&request.expect("a request").pem().expect("as text")).expect("it is right");
        let id = self.authority.id(namespace, "portal").expect("an id");
        let signed = self.authority.issue(&id, &Default::default(), &csr, None);
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Some((signed.expect("signed").chain, key))
    }

    async fn end(self) {
        self.drainer.begin();
        self.task.await.expect("no panic");
        self.store.stop().await.expect("no panic");
    }
}

async fn within<T>(come: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, come).await.expect("it comes in time")
}

/// Until the other side closes; how much came before.
async fn closed(mut stream: TcpStream) -> usize {
    let mut all = Vec::new();
    // A reset says the same as an end.
    let _ = within(stream.read_to_end(&mut all)).await;
    all.len()
}

#[tokio::test]
async fn one_that_says_nothing_is_closed_and_makes_place_for_the_next() {
    let limits = Limits {
        handshakes: Room { all: 1, each: 1 },
        handshake_timeout: Duration::from_millis(50),
        ..Limits::default()
    };
    let door = open(limits, AuthorityConfig::default()).await;
    let silent = door.connect().await;
    let waits = door.connect().await;
    assert_eq!(closed(silent).await, 0);
    assert_eq!(closed(waits).await, 0, "it had its turn");
    let mut garbage = door.connect().await;
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("written");
    closed(garbage).await;
    door.end().await;
}

/// As long as a test takes, and longer.
const FOR_EVER: Duration = Duration::from_secs(24 * 60 * 60);
/// Over before anything else is.
const AT_ONCE: Duration = Duration::from_millis(50);

#[tokio::test]
async fn a_host_that_only_begins_handshakes_keeps_nobody_else_out() {
    let limits = Limits {
        handshakes: Room { all: 3, each: 2 },
        handshake_timeout: FOR_EVER,
        ..Limits::default()
    };
    let mut door = open(limits, AuthorityConfig::default()).await;
    let _silent = [door.connect().await, door.connect().await];
    // They are taken in the order in which they came: this is one too many, and closed although its time is long.
    for _ in 0..3 {
        assert_eq!(closed(door.connect().await).await, 0);
    }
    assert_eq!(door.refusals.total(), 3);
    let other = door.connect_from([127, 0, 0, 2]).await;
    door.taken(door.member("citizen"), other).await;
    door.end().await;
}

#[tokio::test]
async fn those_without_a_certificate_take_no_place_of_those_with_one() {
    let limits = Limits {
        strangers: Room { all: 2, each: 1 },
        stranger_timeout: FOR_EVER,
        ..Limits::default()
    };
    let mut door = open(limits, AuthorityConfig::default()).await;
    let stream = door.connect().await;
    let (_client, first) = door.taken(None, stream).await;
    door.refused(None, door.connect().await).await;
    let stream = door.connect_from([127, 0, 0, 2]).await;
    let (_client, _second) = door.taken(None, stream).await;
    // All places are taken now, this host's as well.
    door.refused(None, door.connect_from([127, 0, 0, 3]).await).await;
    let stream = door.connect().await;
    door.taken(door.member("citizen"), stream).await;
    // A place is free again with the end of its connection.
    drop(first);
    let stream = door.connect().await;
    door.taken(None, stream).await;
    door.end().await;
}

#[tokio::test]
async fn a_namespace_has_its_share_of_the_connections() {
    let limits = Limits {
        members: Room { all: 2, each: 1 },
        ..Limits::default()
    };
    let mut door = open(limits, AuthorityConfig::default()).await;
    let stream = door.connect().await;
    let (_client, _citizen) = door.taken(door.member("citizen"), stream).await;
    door.refused(door.member("citizen"), door.connect().await).await;
    let stream = door.connect().await;
    let (_client, _police) = door.taken(door.member("police"), stream).await;
    door.refused(door.member("data"), door.connect().await).await;
    door.end().await;
}

#[tokio::test]
async fn one_without_a_certificate_has_as_long_as_getting_one_takes() {
    let limits = Limits {
        stranger_timeout: AT_ONCE,
        ..Limits::default()
    };
    let mut door = open(limits, AuthorityConfig::default()).await;
    let stream = door.connect().await;
    let (_client, mut taken) = door.taken(None, stream).await;
    let ended = within(taken.read_u8()).await.expect_err("nothing was sent");
    assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
    // Nothing else is done with it either.
    for ended in [
        within(taken.write_all(b"x")).await,
        within(taken.flush()).await,
        within(taken.shutdown()).await,
    ] {
        assert_eq!(ended.expect_err("it has ended").kind(), io::ErrorKind::TimedOut);
    }
    door.end().await;
}

/// Of a peer that reads nothing, a server of HTTP/2 reads nothing either: it waits to write.
#[tokio::test]
async fn one_that_takes_nothing_ends_with_its_time_and_before() {
    for (stranger_timeout, write_timeout) in [(AT_ONCE, FOR_EVER), (FOR_EVER, AT_ONCE)] {
        let limits = Limits {
            stranger_timeout,
            write_timeout,
            ..Limits::default()
        };
        let mut door = open(limits, AuthorityConfig::default()).await;
        let stream = door.connect().await;
        let (_client, mut taken) = door.taken(None, stream).await;
        let more = [0; 64 * 1024];
        let ended = loop {
            if let Err(ended) = within(taken.write_all(&more)).await {
                break ended;
            }
        };
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
        door.end().await;
    }
}

#[tokio::test]
async fn the_certificate_is_renewed_and_connections_stay() {
    let config = AuthorityConfig {
        cert_ttl: Duration::from_secs(2),
        ..AuthorityConfig::default()
    };
    let mut door = open(Limits::default(), config).await;
    let stream = door.connect().await;
    let (first, mut taken) = door.taken(None, stream).await;
    let serial = |stream: &ClientStream| {
        let chain = stream.get_ref().1.peer_certificates().expect("it has shown some");
        chain.first().expect("its own").to_vec()
    };
    let before = serial(&first);
    let mut first = first;
    // One that was renewed before it was shown is not meant.
    door.renewed.mark_unchanged();
    within(door.renewed.changed()).await.expect("the door is open");
    let stream = door.connect().await;
    let (next, _other) = door.taken(None, stream).await;
    assert_ne!(serial(&next), before);
    // The first one is as it was.
    within(first.write_all(b"x")).await.expect("written");
    assert_eq!(within(taken.read_u8()).await.expect("it came"), b'x');
    door.end().await;
}

/// What a client shows; `None`: nothing.
type Own = Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>;
type ClientStream = tokio_rustls::client::TlsStream<TcpStream>;

/// As a client that believes everything: who the door is, the proxy's tests look at.
async fn shake_hands(own: Own, stream: TcpStream) -> ClientStream {
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let config = match own {
        None => config.with_no_client_auth(),
        Some((chain, key)) => config.with_client_auth_cert(chain, key).expect("they belong together"),
    };
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = IpAddr::from([127, 0, 0, 1]).into();
    within(connector.connect(name, stream)).await.expect("a handshake")
}

#[derive(Debug)]
struct Anybody;

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        unreachable!("TLS 1.3 alone is asked for")
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}
