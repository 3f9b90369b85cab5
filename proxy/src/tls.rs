//! TLS at inbound ports and toward other sidecars. Between sidecars it is TLS 1.3, where each end shows the certificate
//! that the control plane gave it, and knows the other by a root of its own and by a SPIFFE id. What a connection is
//! called in the DNS doesn't matter.

pub(crate) mod backend;
mod callers;
mod edge;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::HeaderValue;
use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{Ticketer, default_provider, kx_group};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, HandshakeKind, OtherError, ServerConfig, ServerConnection,
};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use weir_policy::spiffe::SpiffeId;

use callers::Callers;
pub(crate) use edge::EdgeTls;

use crate::drain::Drain;
use crate::http::h1::HEAD_IN_DRAIN;
use crate::http::io::Io;
use crate::http::upstream::Wire;
use crate::identity::Identity;
use crate::identity::roots::Roots;
use crate::identity::trust::{self, Trust, Untrusted};

/// How long a handshake may take that somebody else began.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// HTTP/2 by a weir proxy: it says nothing of the mesh's own that it was not itself told or has made. What else speaks
/// HTTP/2 passes on what its app says. (ALPN, RFC 7301: the name is Weir's own.)
const WEIR_H2: &[u8] = b"weir-h2";
/// The same, of HTTP/1.1: what goes on as something else than HTTP has a connection of its own.
const WEIR_HTTP11: &[u8] = b"weir-http/1.1";
/// TCP between two sidecars: bytes of the app, as they are.
const WEIR_TCP: &[u8] = b"weir-tcp";
/// Whether the app behind a sidecar takes connections: told by the end of this one, which carries nothing else.
const WEIR_TCP_CHECK: &[u8] = b"weir-tcp-check";
const H2: &[u8] = b"h2";
const HTTP11: &[u8] = b"http/1.1";

/// The first byte of a connection that begins with a TLS handshake (RFC 8446 section 5.1: the record's type). No method
/// of HTTP/1 begins so, nor does the preface of HTTP/2.
pub(crate) const HANDSHAKE_RECORD: u8 = 22;

/// How this proxy speaks TLS with others, for as long as one certificate of its own holds.
pub(crate) struct Tls {
    /// Who it is.
    id: SpiffeId,
    not_after: SystemTime,
    roots: Roots,
    shown: Arc<SingleCertAndKey>,
    provider: Arc<CryptoProvider>,
    server: Arc<ServerConfig>,
    /// For app ports that carry TCP.
    tcp_server: Arc<ServerConfig>,
    /// By whom is expected, since sessions are resumed with that one alone.
    clients: Mutex<HashMap<Expected, Arc<ClientConfig>>>,
}

/// Who is expected at the other end, and what is spoken with them.
type Expected = (Arc<SpiffeId>, Inside);

/// What is spoken within TLS toward another sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Inside {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// What the app speaks on TCP.
    Tcp,
    /// Nothing: it is asked whether the app takes connections.
    TcpCheck,
}

impl From<Wire> for Inside {
    fn from(wire: Wire) -> Inside {
        match wire {
            Wire::Http1 => Inside::Http1,
            Wire::Http2 => Inside::Http2,
        }
    }
}

/// What an inbound port carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carries {
    /// Requests.
    Http,
    /// TCP.
    Tcp,
}

/// How long a connection to an inbound port may say nothing at its begin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Silence(pub(crate) Duration);

/// Without the key.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Who is at the other end of a connection, by its certificate.
#[derive(Debug)]
pub(crate) struct TlsPeer {
    /// Its SPIFFE id.
    pub(crate) id: Arc<SpiffeId>,
    /// Whether it is of our trust domain.
    pub(crate) is_ours: bool,
    /// Whether it is a weir proxy of this mesh.
    pub(crate) is_weir: bool,
    /// Whether it only asks if the app takes connections.
    pub(crate) is_tcp_check: bool,
    /// The same for the app, as the field `X-Forwarded-Client-Cert` of Envoy: who we are, and who it is.
    pub(crate) forwarded: HeaderValue,
    /// Whether it was here before.
    pub(crate) session: Session,
    /// When one of the two certificates ends.
    ends: Instant,
}

/// Whether a connection goes on with the keys of an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Session {
    /// It doesn't.
    New,
    /// It does: no certificate was shown again.
    Resumed,
}

/// How an endpoint is reached.
#[derive(Clone, Debug)]
pub(crate) enum Security {
    /// In cleartext.
    Cleartext,
    /// By mutual TLS with the one that has this identity. In a mesh without identities in cleartext.
    Mutual(Arc<SpiffeId>),
    /// By TLS as its cluster's policy says.
    Backend(Arc<backend::Client>),
}

/// With whom a connection by TLS was to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum With {
    /// A workload of the mesh.
    Mesh,
    /// What a BackendTLSPolicy is for.
    Backend,
}

/// Why there is no connection by TLS.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// This proxy has no certificate that is good now.
    #[error("this proxy has no certificate that is good now")]
    NoCertificate,
    /// The other end did not go on.
    #[error("the TLS handshake took longer than {0:?}")]
    TimedOut(Duration),
    /// As TLS, or the system, says.
    #[error("the TLS handshake failed: {}", Said(.0))]
    Handshake(#[source] io::Error),
    /// The other end's certificate names nobody.
    #[error("its certificate is of nobody: {0}")]
    Nobody(Untrusted),
    /// It has ended; the connection resumed an earlier one.
    #[error("its certificate has ended")]
    Ended,
    /// It speaks TLS, and not HTTP/2 in it.
    #[error("it did not agree to speak HTTP/2 (ALPN h2), which the service's port is said to speak")]
    NoHttp2,
    /// It is of another mesh, which ours does not let in.
    #[error("it is {0}, of a trust domain that is not trusted here")]
    OtherDomain(SpiffeId),
}

/// What kind of failure of TLS it is, by the words of RFC 9209 section 2.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TlsFailure {
    /// Our own certificate is missing.
    Own,
    /// The other's certificate is not who it should be, or not to be trusted.
    Certificate,
    /// The other end refuses us.
    Alert,
    /// All else.
    Protocol,
}

impl TlsError {
    /// What kind it is.
    pub(crate) fn failure(&self) -> TlsFailure {
        match self {
            TlsError::NoCertificate => TlsFailure::Own,
            TlsError::Nobody(_) | TlsError::Ended | TlsError::OtherDomain(_) => TlsFailure::Certificate,
            TlsError::TimedOut(_) | TlsError::NoHttp2 => TlsFailure::Protocol,
            TlsError::Handshake(error) => match rustls_error(error) {
                Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
                    TlsFailure::Certificate
                }
                Some(rustls::Error::AlertReceived(_)) => TlsFailure::Alert,
                Some(_) | None => TlsFailure::Protocol,
            },
        }
    }
}

/// What TLS says of a handshake; of our own doubts of a certificate in our own words.
pub(crate) struct Said<'a>(pub(crate) &'a io::Error);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match rustls_error(self.0) {
            Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(doubt)))) => {
                write!(f, "its certificate is not to be trusted: {doubt}")
            }
            Some(_) | None => self.0.fmt(f),
        }
    }
}

/// Whether the other end of a handshake ended it because it has no certificate for the name that was asked for.
pub(crate) fn is_refused(error: &io::Error) -> bool {
    matches!(
        rustls_error(error),
        Some(rustls::Error::AlertReceived(AlertDescription::AccessDenied))
    )
}

fn rustls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn provider() -> CryptoProvider {
    let mut provider = default_provider();
    // What is recorded today is not to be read by the quantum computers of later.
    provider.kx_groups = vec![
        kx_group::X25519MLKEM768,
        kx_group::X25519,
        kx_group::SECP256R1,
        kx_group::SECP384R1,
    ];
    provider
}

fn session(connection: &ServerConnection) -> Session {
    match connection.handshake_kind() {
        Some(HandshakeKind::Resumed) => Session::Resumed,
        Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest) | None => Session::New,
    }
}

impl Tls {
    /// With this certificate and its key, for peers below these roots; callers of other trust domains below those of
    /// theirs.
    ///
    /// # Errors
    /// When they don't fit together.
    pub(crate) fn new(
        id: SpiffeId,
        not_after: SystemTime,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        roots: &Roots,
    ) -> Result<Tls, rustls::Error> {
        let provider = Arc::new(provider());
        let shown = Arc::new(SingleCertAndKey::from(CertifiedKey::from_der(chain, key, &provider)?));
        let verifier = Arc::new(Callers::new(&id.trust_domain, roots, &provider)?);
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::clone(&shown) as Arc<_>);
        server.alpn_protocols = [WEIR_H2, WEIR_HTTP11, H2, HTTP11].map(<[u8]>::to_vec).into();
        // Sessions are resumed without memory for each; they end with this certificate, since the next has keys of its
        // own for them.
        server.ticketer = Ticketer::new()?;
        let mut tcp_server = server.clone();
        tcp_server.alpn_protocols = [WEIR_TCP, WEIR_TCP_CHECK].map(<[u8]>::to_vec).into();
        // What was shown for requests is not taken up again for something else.
        tcp_server.ticketer = Ticketer::new()?;
        Ok(Tls {
            id,
            not_after,
            roots: roots.clone(),
            shown,
            provider,
            tcp_server: Arc::new(tcp_server),
            server: Arc::new(server),
            clients: Mutex::default(),
        })
    }

    /// Whether its certificate is good.
    pub(crate) fn is_good(&self, now: SystemTime) -> bool {
        now < self.not_after
    }

    fn ends(&self, now: SystemTime) -> Instant {
        Instant::now() + self.not_after.duration_since(now).unwrap_or_default()
    }

    /// Shakes hands with whoever connected. It must show a certificate.
    async fn accept(&self, stream: TcpStream, carries: Carries) -> Result<(Io, TlsPeer), TlsError> {
        let server = match carries {
            Carries::Http => &self.server,
            Carries::Tcp => &self.tcp_server,
        };
        let accepting = timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(Arc::clone(server)).accept(stream)).await;
        let stream = accepting
            .map_err(|_| TlsError::TimedOut(HANDSHAKE_TIMEOUT))?
            .map_err(TlsError::Handshake)?;
        let (_, connection) = stream.get_ref();
        let now = SystemTime::now();
        let (id, ends) = shown(connection.peer_certificates(), now)?;
        let is_ours = id.trust_domain == self.id.trust_domain;
        if !is_ours && !self.roots.others().contains_key(&id.trust_domain) {
            return Err(TlsError::OtherDomain(id));
        }
        // A sidecar of another mesh says nothing to ours but what its app says.
        let alpn = connection.alpn_protocol().filter(|_| is_ours);
        let peer = TlsPeer {
            is_ours,
            is_weir: alpn.is_some_and(|alpn| [WEIR_H2, WEIR_HTTP11, WEIR_TCP, WEIR_TCP_CHECK].contains(&alpn)),
            is_tcp_check: alpn == Some(WEIR_TCP_CHECK),
            forwarded: forwarded(&self.id, &id),
            id: Arc::new(id),
            session: session(connection),
            ends: ends.min(self.ends(now)),
        };
        Ok((Io::Tls(Box::new(TlsStream::Server(stream))), peer))
    }

    /// Shakes hands with an endpoint that must be `peer`. Also returns until when the connection is to be used: until
    /// one of the two certificates ends.
    async fn connect(
        &self,
        stream: TcpStream,
        to: IpAddr,
        peer: &Arc<SpiffeId>,
        inside: Inside,
    ) -> Result<(Io, Instant), TlsError> {
        let config = self
            .client(peer, inside)
            .map_err(|error| TlsError::Handshake(io::Error::other(error)))?;
        let name = ServerName::IpAddress(to.into());
        let stream = TlsConnector::from(config).connect(name, stream).await;
        let stream = stream.map_err(TlsError::Handshake)?;
        let now = SystemTime::now();
        let (_, ends) = shown(stream.get_ref().1.peer_certificates(), now)?;
        let stream = Io::Tls(Box::new(TlsStream::Client(stream)));
        Ok((stream, ends.min(self.ends(now))))
    }

    fn client(&self, peer: &Arc<SpiffeId>, inside: Inside) -> Result<Arc<ClientConfig>, rustls::Error> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (Arc::clone(peer), inside);
        if let Some(config) = clients.get(&key) {
            return Ok(Arc::clone(config));
        }
        let trust = Trust {
            roots: self.roots.own().to_vec(),
            pins: Vec::new(),
            id: SpiffeId::clone(peer),
        };
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(trust.verifier(Arc::clone(&self.provider)))
            .with_client_cert_resolver(Arc::clone(&self.shown) as Arc<_>);
        config.alpn_protocols = match inside {
            Inside::Http1 => [WEIR_HTTP11, HTTP11].map(<[u8]>::to_vec).into(),
            Inside::Http2 => [WEIR_H2, H2].map(<[u8]>::to_vec).into(),
            Inside::Tcp => vec![WEIR_TCP.to_vec()],
            Inside::TcpCheck => vec![WEIR_TCP_CHECK.to_vec()],
        };
        config.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(SESSIONS_MAX)));
        let config = Arc::new(config);
        if clients.len() >= CLIENTS_MAX {
            clients.clear();
        }
        clients.insert(key, Arc::clone(&config));
        Ok(config)
    }
}

/// Hosts for which sessions with one identity are kept.
const SESSIONS_MAX: usize = 64;

/// Identities that are remembered; with more, sessions are begun anew now and then.
const CLIENTS_MAX: usize = 1024;

/// Who showed this, and when it ends. That it is below a root was checked when it was shown first.
fn shown(chain: Option<&[CertificateDer<'_>]>, now: SystemTime) -> Result<(SpiffeId, Instant), TlsError> {
    let certificate = chain.and_then(<[_]>::first);
    let certificate = certificate.ok_or(TlsError::Nobody(Untrusted::Malformed))?;
    let (not_after, id) = trust::read(certificate).map_err(TlsError::Nobody)?;
    let left = not_after.duration_since(now).map_err(|_| TlsError::Ended)?;
    Ok((id, Instant::now() + left))
}

/// Envoy's documentation, HTTP header manipulation, x-forwarded-client-cert: `By` and `URI`. No character of a SPIFFE
/// id has to be quoted there.
fn forwarded(own: &SpiffeId, peer: &SpiffeId) -> HeaderValue {
    let text = format!("By={own};URI={peer}");
    HeaderValue::try_from(text).expect("ids are of letters, digits and marks")
}

/// Who may come to an inbound port by TLS.
pub(crate) enum Door {
    /// Those who have a certificate of the mesh; what the port carries.
    Mesh(Identity, Carries),
    /// Everybody; what the port carries.
    Edge(EdgeTls, Carries),
}

/// How a connection to an inbound port came.
pub(crate) enum Entered {
    /// In cleartext.
    Cleartext(TcpStream, Drain),
    /// By TLS, from outside of the mesh.
    Outside(Io, Session, Drain),
    /// By mutual TLS; it is drained when one of the two certificates ends.
    Mutual(Io, TlsPeer, Drain),
    /// It said nothing for as long as it may.
    Silent(TcpStream),
    /// It ended, or the drain began, before it said anything.
    Nobody,
}

/// Finds out how a connection to an inbound port comes, by its first byte, and shakes hands. A sidecar speaks first,
/// whatever the app speaks.
///
/// # Errors
/// When it began a handshake that failed.
///
/// # Cancel safety
/// Dropped, the connection is closed.
pub(crate) async fn enter(
    stream: TcpStream,
    door: &Door,
    Silence(silence): Silence,
    mut drain: Drain,
) -> Result<Entered, TlsError> {
    let mut first = [0];
    let peeked = tokio::select! {
        peeked = timeout(silence, stream.peek(&mut first)) => peeked,
        () = drain.begun() => return Ok(Entered::Nobody),
    };
    match (peeked, first) {
        (Ok(Ok(1..)), [HANDSHAKE_RECORD]) => {
            // One that has begun does not hold up a drain, as a head does not.
            let mut told = drain.clone();
            let drained = async {
                told.begun().await;
                sleep(HEAD_IN_DRAIN).await;
            };
            tokio::select! {
                entered = shake_hands(stream, door, drain) => entered,
                () = drained => Ok(Entered::Nobody),
            }
        }
        (Ok(Ok(1..)), _) => Ok(Entered::Cleartext(stream, drain)),
        (Err(_), _) => Ok(Entered::Silent(stream)),
        (Ok(Ok(0) | Err(_)), _) => Ok(Entered::Nobody),
    }
}

async fn shake_hands(stream: TcpStream, door: &Door, drain: Drain) -> Result<Entered, TlsError> {
    match door {
        Door::Mesh(identity, carries) => {
            let tls = identity.tls().ok_or(TlsError::NoCertificate)?;
            let (io, peer) = tls.accept(stream, *carries).await?;
            let drain = drain.until(peer.ends);
            Ok(Entered::Mutual(io, peer, drain))
        }
        Door::Edge(edge, carries) => {
            let (io, session) = edge.accept(stream, *carries).await?;
            Ok(Entered::Outside(io, session, drain))
        }
    }
}

/// Shakes hands as this proxy with an endpoint that must be `peer`; see [`Tls::connect`]. A certificate of our own that
/// is on its way is waited for a moment.
///
/// # Cancel safety
/// Dropped, the connection is closed.
pub(crate) async fn connect(
    stream: TcpStream,
    identity: &Identity,
    peer: &Arc<SpiffeId>,
    inside: Inside,
) -> Result<(Io, Instant), TlsError> {
    let to = stream.peer_addr().map_err(TlsError::Handshake)?.ip();
    let tls = match identity.tls() {
        Some(tls) => tls,
        None => timeout(OWN_WAIT, identity.tls_to_come())
            .await
            .map_err(|_| TlsError::NoCertificate)?,
    };
    tls.connect(stream, to, peer, inside).await
}

/// Whether it was one end's TLS that ended the connection: the peer's certificate is not believed here, or ours there,
/// of which the first read after the handshake tells. tokio-rustls has this one kind for it, and no other reason.
pub(crate) fn ended(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.any(|cause| {
        let by_http = cause.downcast_ref::<h2::Error>().and_then(h2::Error::get_io);
        let io = by_http.or(cause.downcast_ref::<std::io::Error>());
        io.is_some_and(|io| io.kind() == std::io::ErrorKind::InvalidData)
    })
}

/// How long a call waits for our own certificate: at a start the control plane is being asked for it.
const OWN_WAIT: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests;
