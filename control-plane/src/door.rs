//! The door to the network: xDS, the workloads' stream and certificates over TLS 1.3. Whoever has no certificate of
//! ours can do one thing here: ask for one, with a join token.

pub(crate) mod caller;
pub(crate) mod certificates;
mod peer;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rcgen::KeyPair;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use weir_policy::spiffe::{SpiffeId, TrustDomain};

use crate::authority::ca::rfc3339;
use crate::authority::{Authority, Refused, x509};
use crate::drain::Drain;
use crate::refusals::{Refusals, Untold};
use peer::{Peer, PeerIo};

/// What a door takes at most.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Connections without a certificate, those still shaking hands included; more wait to be accepted.
    pub(crate) strangers_max: usize,
    /// Connections with a certificate; more are closed.
    pub(crate) members_max: usize,
    /// For a handshake.
    pub(crate) handshake_timeout: Duration,
    /// For a connection without a certificate, from its handshake on: as long as getting one takes.
    pub(crate) stranger_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            strangers_max: 512,
            members_max: 10_000,
            handshake_timeout: Duration::from_secs(10),
            stranger_timeout: Duration::from_secs(30),
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
        let taking = take(
            listener,
            authority.trust_domain().clone(),
            limits,
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
        let chain = signed.chain.iter().chain(ca.roots()).cloned().collect();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(tls)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(tls)?;
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
    trust_domain: TrustDomain,
    limits: Limits,
    refusals: Arc<Refusals>,
    current: watch::Receiver<Arc<Current>>,
    done: mpsc::Sender<io::Result<PeerIo>>,
    mut drain: Drain,
) {
    let strangers = Arc::new(Semaphore::new(limits.strangers_max));
    let members = Arc::new(Semaphore::new(limits.members_max));
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
            accepted = accept(&listener, &strangers) => match accepted {
                Ok((stream, address, stranger)) => {
                    let config = Arc::clone(&current.borrow().config);
                    let welcome = Welcome {
                        trust_domain: trust_domain.clone(),
                        limits: limits.clone(),
                        config,
                        members: Arc::clone(&members),
                        stranger,
                    };
                    let (done, refuse) = (done.clone(), refuse.clone());
                    handshakes.spawn(async move {
                        match welcome.shake_hands(stream, address).await {
                            // The server has gone, and what is left of it with it.
                            Ok(io) => drop(done.send(Ok(io)).await),
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

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, address) = listener.accept().await?;
    // Only slower without.
    let _ = stream.set_nodelay(true);
    Ok((stream, address, place))
}

/// Why a connection is refused.
#[derive(Debug, thiserror::Error)]
enum NotWelcome {
    #[error("the handshake took longer than {0:?}")]
    TooSlow(Duration),
    #[error("{0}")]
    Handshake(#[from] io::Error),
    #[error("{0}")]
    Identity(#[from] x509::IdentityError),
    #[error("{0} is of another trust domain")]
    OtherDomain(SpiffeId),
    #[error("as many connections are open as there may be")]
    Full,
}

struct Welcome {
    trust_domain: TrustDomain,
    limits: Limits,
    config: Arc<ServerConfig>,
    members: Arc<Semaphore>,
    stranger: OwnedSemaphorePermit,
}

impl Welcome {
    async fn shake_hands(self, stream: TcpStream, address: SocketAddr) -> Result<PeerIo, NotWelcome> {
        let patience = self.limits.handshake_timeout;
        let shaken = timeout(patience, TlsAcceptor::from(self.config).accept(stream)).await;
        let stream = shaken.map_err(|_| NotWelcome::TooSlow(patience))??;
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let Some(certificate) = certificate else {
            let until = self.limits.stranger_timeout;
            return Ok(PeerIo::new(stream, Peer::stranger(address), until, self.stranger));
        };
        let peer = Peer::member(address, certificate)?;
        let (id, left) = (peer.id(), peer.left(SystemTime::now()));
        if let Some(id) = id.filter(|id| id.trust_domain != self.trust_domain) {
            return Err(NotWelcome::OtherDomain(id.clone()));
        }
        // Strangers can't take the places of those who are known.
        let place = self.members.try_acquire_owned().map_err(|_| NotWelcome::Full)?;
        Ok(PeerIo::new(stream, peer, left, place))
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
