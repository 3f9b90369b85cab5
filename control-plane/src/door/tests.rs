//! What a door takes of peers that say nothing, and that its certificate is renewed beside those that speak.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::authority::AuthorityConfig;
use crate::drain::{self, Drainer};
use crate::store::{Location, Store, StoreTask};

/// Fails a test that waits for what will not come.
const PATIENCE: Duration = Duration::from_secs(60);

struct Opened {
    address: SocketAddr,
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
    let door = Door::new(authority, limits, Arc::default()).expect("a certificate");
    let renewed = door.current.subscribe();
    let (connections, task) = door.open(listener, drain);
    Opened {
        address,
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
        strangers_max: 1,
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

#[tokio::test]
async fn one_without_a_certificate_has_as_long_as_getting_one_takes() {
    let limits = Limits {
        stranger_timeout: Duration::from_millis(50),
        ..Limits::default()
    };
    let mut door = open(limits, AuthorityConfig::default()).await;
    let (client, taken) = tokio::join!(shake_hands(door.address), within(door.connections.recv()));
    let mut taken = taken.expect("open").expect("a connection");
    let ended = within(taken.read_u8()).await.expect_err("nothing was sent");
    assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
    drop(client);
    door.end().await;
}

#[tokio::test]
async fn the_certificate_is_renewed_and_connections_stay() {
    let config = AuthorityConfig {
        cert_ttl: Duration::from_secs(2),
        ..AuthorityConfig::default()
    };
    let mut door = open(Limits::default(), config).await;
    let (first, taken) = tokio::join!(shake_hands(door.address), within(door.connections.recv()));
    let mut taken = taken.expect("open").expect("a connection");
    let serial = |stream: &tokio_rustls::client::TlsStream<TcpStream>| {
        let chain = stream.get_ref().1.peer_certificates().expect("it has shown some");
        chain.first().expect("its own").to_vec()
    };
    let before = serial(&first);
    let mut first = first;
    // One that was renewed before it was shown is not meant.
    door.renewed.mark_unchanged();
    within(door.renewed.changed()).await.expect("the door is open");
    let (next, other) = tokio::join!(shake_hands(door.address), within(door.connections.recv()));
    other.expect("open").expect("a connection");
    assert_ne!(serial(&next), before);
    // The first one is as it was.
    within(first.write_all(b"x")).await.expect("written");
    assert_eq!(within(taken.read_u8()).await.expect("it came"), b'x');
    door.end().await;
}

/// As a client that believes everything: who the door is, the proxy's tests look at.
async fn shake_hands(address: SocketAddr) -> tokio_rustls::client::TlsStream<TcpStream> {
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.expect("it is open");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    within(connector.connect(address.ip().into(), stream))
        .await
        .expect("a handshake")
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
