//! The door to the network: xDS, the workloads' stream and certificates over TLS 1.3. Whoever has no certificate of
//! ours can do one thing here: ask for one, with a join token.

pub(crate) mod caller;
pub(crate) mod certificates;
mod peer;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use std::{fmt, io};

use rcgen::KeyPair;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use weir_policy::names::WorkloadName;
use weir_policy::roots::Proof;
use weir_policy::spiffe::{SpiffeId, TrustDomain};

use crate::authority::ca::rfc3339;
use crate::authority::{Authority, Refused, x509};
use crate::drain::Drain;
use crate::places::{Full, Holder, Places, Room};
use crate::refusals::{Refusals, Untold};
use peer::{Peer, PeerIo, Term};

/// What a door takes at most.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Connections that shake hands, by host: more of all wait to be accepted, more of one host are closed.
    pub(crate) handshakes: Room,
    /// Connections without a certificate, by host, from their handshake on; more are closed.
    pub(crate) strangers: Room,
    /// Connections with a certificate, by its namespace; more are closed.
    pub(crate) members: Room,
    /// For a handshake.
    pub(crate) handshake_timeout: Duration,
    /// For a connection without a certificate, from its handshake on: as long as getting one takes.
    pub(crate) stranger_timeout: Duration,
    /// For the other side to take what it is sent.
    pub(crate) write_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            handshakes: Room { all: 512, each: 64 },
            strangers: Room { all: 512, each: 64 },
            members: Room {
                all: 10_000,
                each: 2_500,
            },
            handshake_timeout: Duration::from_secs(10),
            stranger_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
        }
    }
}

/// Why the door can't be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DoorError {
    #[error("the control plane gets no certificate: {0}")]
    Certificate(#[from] Refused),
    #[error("the system gives no key: {0}")]
    Key(#[from] rcgen::Error),
    #[error("TLS can't be set up: {0}")]
    Tls(String),
}

/// What a connection is taken with; the current one is used for the next.
struct Current {
    config: Arc<ServerConfig>,
    not_after: SystemTime,
}

/// A door that is about to be opened.
pub(crate) struct Door {
    authority: Authority,
    limits: Limits,
    refusals: Arc<Refusals>,
    current: watch::Sender<Arc<Current>>,
}

impl Door {
    /// A door with a certificate of this authority. `refusals` counts the connections that are closed.
    ///
    /// # Errors
    /// When it gives none.
    pub(crate) fn new(authority: Authority, limits: Limits, refusals: Arc<Refusals>) -> Result<Door, DoorError> {
        let current = Current::new(&authority)?;
        Ok(Door {
            authority,
            limits,
            refusals,
            current: watch::Sender::new(Arc::new(current)),
        })
    }

    /// Connections whose handshake is done, and the task that takes them until drained. Dropped, the receiver ends it.
    pub(crate) fn open(
        self,
        listener: TcpListener,
        drain: Drain,
    ) -> (
        mpsc::Receiver<io::Result<PeerIo>>,
        impl Future<Output = ()> + Send + 'static,
    ) {
        let (done, connections) = mpsc::channel(HANDED_OVER_MAX);
        let Door {
            authority,
            limits,
            refusals,
            current,
        } = self;
        let welcome = Welcome {
            trust_domain: authority.trust_domain().clone(),
            authority: authority.clone(),
            strangers: Places::new(limits.strangers),
            members: Places::new(limits.members),
            limits,
        };
        let taking = take(
            listener,
            Arc::new(welcome),
            refusals,
            current.subscribe(),
            done,
            drain.clone(),
        );
        let tasks = async move {
            tokio::select! {
                () = taking => {}
                () = keep(authority, current, drain) => {}
            }
        };
        (connections, tasks)
    }
}

impl Current {
    /// A new key and a certificate for it, and the roots that clients' certificates must lead to.
    fn new(authority: &Authority) -> Result<Current, DoorError> {
        let key = KeyPair::generate()?;
        let signed = authority.issue_own(&key)?;
        let ca = authority.ca().borrow().clone();
        let tls = |error: rustls::Error| DoorError::Tls(error.to_string());
        let provider = Arc::new(default_provider());
        let roots = Arc::new(ca.trusted().map_err(tls)?);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .map_err(|error| DoorError::Tls(error.to_string()))?;
        // The root goes along: a proxy that joins knows its fingerprint and nothing else.
        // So does what leads to it from roots of the past, which an older token names.
        let chain = signed
            .chain
            .iter()
            .chain(ca.roots())
            .chain(ca.bridges())
            .cloned()
            .collect();
        let shown = Shown {
            own: certified(chain, &key, &provider).map_err(tls)?,
            authority: authority.clone(),
            key,
            provider: Arc::clone(&provider),
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(tls)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(shown));
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A resumed session would bring a certificate that is looked at no more.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Current {
            config: Arc::new(config),
            not_after: signed.not_after,
        })
    }
}

/// What is shown to who connects: the door's own certificate; and one that leads to a single root, to those who are to
/// show that they trust it.
struct Shown {
    own: Arc<CertifiedKey>,
    authority: Authority,
    key: KeyPair,
    provider: Arc<CryptoProvider>,
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let Some(proof) = hello.server_name().and_then(|name| name.parse::<Proof>().ok()) else {
            return Some(Arc::clone(&self.own));
        };
        // Made for this handshake, so that it is right at any time: it costs a signature, as the handshake does.
        let signed = self.authority.issue_own_below(proof.root, &self.key)?;
        let signed = signed.inspect_err(|error| tracing::error!(%error, root = %proof.root, "can't show a root"));
        certified(signed.ok()?.chain, &self.key, &self.provider).ok()
    }
}

/// Without the key.
impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shown").finish_non_exhaustive()
    }
}

fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: &KeyPair,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, rustls::Error> {
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    CertifiedKey::from_der(chain, key, provider).map(Arc::new)
}

/// Renews the door's certificate at two thirds of its time, and when another authority signs. Connections that are open
/// stay as they are.
async fn keep(authority: Authority, current: watch::Sender<Arc<Current>>, mut drain: Drain) {
    let mut ca = authority.ca();
    ca.mark_unchanged();
    let mut made = SystemTime::now();
    loop {
        let not_after = current.borrow().not_after;
        let due = made + not_after.duration_since(made).unwrap_or_default() * 2 / 3;
        let left = due.duration_since(SystemTime::now()).unwrap_or_default();
        // The system's clock is looked at again and again: it may be set, or the machine sleep.
        let wait = left.clamp(RENEW_AGAIN, LOOK_AGAIN);
        // Each arm is cancel safe: a change that was not taken is still there.
        tokio::select! {
            () = drain.begun() => return,
            changed = ca.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(wait) => if SystemTime::now() < due { continue },
        }
        match Current::new(&authority) {
            Ok(new) => {
                made = SystemTime::now();
                tracing::info!(
                    not_after = rfc3339(new.not_after),
                    "renewed the certificate of the TLS port"
                );
                current.send_replace(Arc::new(new));
            }
            Err(error) => tracing::error!(%error, "the TLS port goes on with the certificate that it has"),
        }
    }
}

/// Accepts, shakes hands, and hands over.
async fn take(
    listener: TcpListener,
    welcome: Arc<Welcome>,
    refusals: Arc<Refusals>,
    current: watch::Receiver<Arc<Current>>,
    done: mpsc::Sender<io::Result<PeerIo>>,
    mut drain: Drain,
) {
    let places = Places::new(welcome.limits.handshakes);
    let mut handshakes = JoinSet::new();
    let refuse = move |address: SocketAddr, why: &NotWelcome| {
        if let Some(Untold(untold)) = refusals.count(Instant::now()) {
            tracing::info!(%address, %why, untold, "a connection to the TLS port is refused");
        }
    };
    loop {
        // Cancel safe: a permit that is not used goes back, `accept` loses no connection, `join_next` no result.
        tokio::select! {
            () = drain.begun() => return,
            () = done.closed() => return,
            Some(ended) = handshakes.join_next() => if let Err(error) = ended {
                tracing::error!(%error, "a TLS handshake ended badly");
            },
            accepted = accept(&listener, &places) => match accepted {
                Ok((stream, address, free)) => {
                    // At once and not when there is a place: those of one host don't keep others waiting.
                    let place = match places.place(free, Some(Holder::at(address.ip()))) {
                        Ok(place) => place,
                        Err(full) => {
                            refuse(address, &NotWelcome::Handshakes(full));
                            continue;
                        }
                    };
                    let config = Arc::clone(&current.borrow().config);
                    let (welcome, done, refuse) = (Arc::clone(&welcome), done.clone(), refuse.clone());
                    handshakes.spawn(async move {
                        let shaken = welcome.shake_hands(config, stream, address).await;
                        // From here on it has a place of its kind.
                        drop(place);
                        match shaken {
                            // The server has gone, and what is left of it with it.
                            Ok(Taken::In(io)) => drop(done.send(Ok(*io)).await),
                            Ok(Taken::Showed) => {}
                            Err(why) => refuse(address, &why),
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the TLS port can't accept a connection");
                    // Out of file descriptors, most likely: without a pause this would spin.
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

async fn accept(listener: &TcpListener, places: &Places) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let free = places.free().await.ok_or(io::ErrorKind::NotConnected)?;
    let (stream, address) = listener.accept().await?;
    // Only slower without.
    let _ = stream.set_nodelay(true);
    Ok((stream, address, free))
}

/// What became of a connection.
enum Taken {
    /// It is to be served.
    In(Box<PeerIo>),
    /// It was made to show that a root is trusted, and is done.
    Showed,
}

/// Why a connection is refused.
#[derive(Debug, thiserror::Error)]
enum NotWelcome {
    #[error("of those that shake hands {0}")]
    Handshakes(Full),
    #[error("the handshake took longer than {0:?}")]
    TooSlow(Duration),
    #[error("{0}")]
    Handshake(#[from] io::Error),
    #[error("{0}")]
    Identity(#[from] x509::IdentityError),
    #[error("{0} is of another trust domain")]
    OtherDomain(SpiffeId),
    #[error("{0} can't show that workload {1} trusts a root")]
    OtherNamespace(SpiffeId, WorkloadName),
    #[error("nobody shows by it that a root is trusted: there is no certificate")]
    Nobody,
    #[error("of those without a certificate {0}")]
    Strangers(Full),
    #[error("of those with a certificate {0}")]
    Members(Full),
}

/// What connections are taken by.
struct Welcome {
    trust_domain: TrustDomain,
    authority: Authority,
    limits: Limits,
    strangers: Places,
    /// Apart: strangers can't take the places of those who are known.
    members: Places,
}

impl Welcome {
    async fn shake_hands(
        &self,
        config: Arc<ServerConfig>,
        stream: TcpStream,
        address: SocketAddr,
    ) -> Result<Taken, NotWelcome> {
        let Limits {
            handshake_timeout,
            stranger_timeout,
            write_timeout,
            ..
        } = self.limits;
        let shaken = timeout(handshake_timeout, TlsAcceptor::from(config).accept(stream)).await;
        let mut stream = shaken.map_err(|_| NotWelcome::TooSlow(handshake_timeout))??;
        let (_, connection) = stream.get_ref();
        if let Some(proof) = connection.server_name().and_then(|name| name.parse().ok()) {
            self.showed(&proof, connection.peer_certificates().unwrap_or_default(), address)?;
            // In order, by which the other side sees that it was seen; one that doesn't take it asks again.
            let _ = timeout(handshake_timeout, stream.shutdown()).await;
            return Ok(Taken::Showed);
        }
        let certificate = connection.peer_certificates().and_then(<[_]>::first);
        let Some(certificate) = certificate else {
            let holder = Holder::at(address.ip());
            let term = Term {
                left: stranger_timeout,
                write_timeout,
                place: self.strangers.take(Some(holder)).map_err(NotWelcome::Strangers)?,
            };
            return Ok(Taken::In(Box::new(PeerIo::new(stream, Peer::stranger(address), term))));
        };
        let (id, peer) = Peer::member(address, certificate)?;
        if id.trust_domain != self.trust_domain {
            return Err(NotWelcome::OtherDomain(id));
        }
        let holder = Holder::Namespace(id.namespace);
        let term = Term {
            left: peer.left(SystemTime::now()),
            write_timeout,
            place: self.members.take(Some(holder)).map_err(NotWelcome::Members)?,
        };
        Ok(Taken::In(Box::new(PeerIo::new(stream, peer, term))))
    }

    /// The handshake is over: who is there has believed a certificate that leads to this root alone.
    fn showed(&self, proof: &Proof, chain: &[CertificateDer<'_>], address: SocketAddr) -> Result<(), NotWelcome> {
        let (id, _) = Peer::member(address, chain.first().ok_or(NotWelcome::Nobody)?)?;
        if id.trust_domain != self.trust_domain {
            return Err(NotWelcome::OtherDomain(id));
        }
        // As on its streams: within its namespace it may be any workload.
        if id.namespace != proof.workload.namespace {
            return Err(NotWelcome::OtherNamespace(id, proof.workload.clone()));
        }
        self.authority.showed(proof, chain);
        Ok(())
    }
}

/// Connections that the server has not looked at yet; more wait, each in its own task.
const HANDED_OVER_MAX: usize = 16;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The bounds of a wait for the certificate's renewal.
const RENEW_AGAIN: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
