//! Whom this proxy trusts: the roots that the control plane tells of. They come into force for everything at once, are
//! kept on disk, and each is shown to be trusted by a handshake with the control plane; then they are acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::Endpoint;
use weir_policy::names::WorkloadName;
use weir_policy::roots::{Proof, RootId};
use weir_policy::spiffe::TrustDomain;

use super::joining::Credential;
use super::trust::{self, Trust};
use super::{Held, Identity, Place, Trusting, again};
use crate::tls;

/// Whom this proxy trusts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Roots {
    /// One or more; the first is the one below which certificates are signed now.
    own: Vec<CertificateDer<'static>>,
    /// Of each other trust domain those that its workloads are believed by, one or more.
    others: BTreeMap<TrustDomain, Vec<CertificateDer<'static>>>,
}

/// Why a text holds no roots.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RootsError {
    #[error("holds no certificate")]
    None,
    #[error("holds more than {ROOTS_MAX} roots")]
    TooMany,
    #[error("holds something that is no certificate of an authority")]
    Malformed,
    #[error("for the trust domain {domain}: {error}")]
    Other {
        domain: TrustDomain,
        error: Box<RootsError>,
    },
}

impl Roots {
    /// These of the mesh, and no other trust domain's.
    pub(crate) fn of_the_mesh(own: Vec<CertificateDer<'static>>) -> Roots {
        Roots {
            own,
            others: BTreeMap::new(),
        }
    }

    /// Reads PEM: of the mesh, and of each other trust domain.
    ///
    /// # Errors
    /// When of one there is none, or one can't be read.
    pub(crate) fn read(own: &str, others: &BTreeMap<TrustDomain, String>) -> Result<Roots, RootsError> {
        let other = |(domain, pem): (&TrustDomain, &String)| match read(pem) {
            Ok(roots) => Ok((domain.clone(), roots)),
            Err(error) => Err(RootsError::Other {
                domain: domain.clone(),
                error: Box::new(error),
            }),
        };
        Ok(Roots {
            own: read(own)?,
            others: others.iter().map(other).collect::<Result<_, _>>()?,
        })
    }

    /// Those of the mesh.
    pub(crate) fn own(&self) -> &[CertificateDer<'static>] {
        &self.own
    }

    /// Those of other trust domains.
    pub(crate) fn others(&self) -> &BTreeMap<TrustDomain, Vec<CertificateDer<'static>>> {
        &self.others
    }

    /// These of the mesh, beside those of other trust domains that stand there.
    pub(super) fn beside_others_of(&self, there: &Roots) -> Roots {
        Roots {
            own: self.own.clone(),
            others: there.others.clone(),
        }
    }

    /// Whether they are of one mesh: any of its own are among the own of these.
    pub(super) fn share(&self, others: &Roots) -> bool {
        self.own.iter().any(|root| others.own.contains(root))
    }

    /// Whether a certificate is below another of them than those that are signed now.
    pub(super) fn are_ahead_of(&self, own: &Credential) -> bool {
        let first = self.own.first();
        first.is_some_and(|first| !is_below(own, std::slice::from_ref(first)))
    }

    /// Whether a certificate is below one of them.
    pub(super) fn are_above(&self, own: &Credential) -> bool {
        is_below(own, &self.own)
    }
}

fn read(pem: &str) -> Result<Vec<CertificateDer<'static>>, RootsError> {
    let all: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let all = all.map_err(|_| RootsError::Malformed)?;
    if all.is_empty() {
        return Err(RootsError::None);
    }
    if all.len() > ROOTS_MAX {
        return Err(RootsError::TooMany);
    }
    let is_read = |root: &CertificateDer<'_>| webpki::anchor_from_trusted_cert(root).is_ok();
    match all.iter().all(is_read) {
        true => Ok(all),
        false => Err(RootsError::Malformed),
    }
}

fn is_below(own: &Credential, roots: &[CertificateDer<'static>]) -> bool {
    let trust = Trust {
        roots: roots.to_vec(),
        pins: Vec::new(),
        id: own.id.clone(),
    };
    let now = trust::unix_time(std::time::SystemTime::now());
    trust.check(&own.chain, &own.id, now).is_ok()
}

/// What root a certificate is called by.
pub(super) fn id(root: &CertificateDer<'_>) -> RootId {
    RootId::of(trust::sha256(root))
}

/// What the link to the control plane says.
#[derive(Clone, Debug, Default)]
pub(super) struct Offer {
    /// The roots that it was told of last.
    pub(super) roots: Option<Arc<Roots>>,
    /// How many streams it opened: what was shown to a control plane counts for the process that saw it.
    pub(super) streams: u64,
}

/// The task that takes roots as they are told.
#[derive(Debug)]
pub(crate) struct Taker {
    pub(super) identity: Identity,
    pub(super) endpoint: Endpoint,
    pub(super) workload: WorkloadName,
    pub(super) place: Place,
}

/// To whom which roots were shown to be trusted, and with which certificate.
#[derive(Debug, Default)]
struct Shown {
    streams: u64,
    certificate: Option<CertificateDer<'static>>,
    roots: BTreeSet<RootId>,
}

/// Why a root is not shown to be trusted.
#[derive(Debug, thiserror::Error)]
enum NotShown {
    #[error("can't connect to the control plane: {0}")]
    Connect(std::io::Error),
    #[error("the handshake under root {root}: {}", tls::Said(.error))]
    Handshake { root: RootId, error: std::io::Error },
    #[error("TLS can't be set up: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the handshake under root {0} is not done within {HANDSHAKE_TIMEOUT:?}")]
    TimedOut(RootId),
}

impl Taker {
    /// Runs until it is dropped.
    pub(crate) async fn run(self) {
        let mut offers = self.identity.shared.offers.subscribe();
        let mut state = self.identity.shared.state.subscribe();
        let mut shown = Shown::default();
        let mut failures = 0;
        loop {
            let offer = offers.borrow_and_update().clone();
            let held = state.borrow_and_update().0.clone();
            let again = match self.take(&offer, held, &mut shown).await {
                Ok(()) => {
                    failures = 0;
                    None
                }
                Err(error) => {
                    failures += 1;
                    tracing::warn!(%error, "new roots are in force, and not shown to be trusted; trying again");
                    *self.identity.roots_trouble() = Some(error.to_string());
                    Some(again(failures, fastrand::f64()))
                }
            };
            // Each arm is cancel safe: what changed and was not taken is still there.
            tokio::select! {
                changed = offers.changed() => if changed.is_err() { return },
                changed = state.changed() => if changed.is_err() { return },
                () = sleep(again) => {}
            }
        }
    }

    async fn take(&self, offer: &Offer, held: Option<Arc<Held>>, shown: &mut Shown) -> Result<(), NotShown> {
        let (Some(roots), Some(held)) = (&offer.roots, held) else {
            return Ok(());
        };
        match self.identity.trust(roots)? {
            Trusting::Anew => {
                tracing::info!(
                    roots = roots.own().len(),
                    trust_domains = roots.others().len(),
                    "other roots are trusted"
                );
                self.place.keep(&self.identity);
            }
            Trusting::AsBefore => {}
            Trusting::NotTheirs => {
                let trouble = "the roots that it was told are not those of its certificate";
                tracing::warn!(trouble, "keeps the roots that it has");
                *self.identity.roots_trouble() = Some(trouble.to_owned());
                return Ok(());
            }
        }
        let own = &held.credential;
        if shown.streams != offer.streams || shown.certificate.as_ref() != own.chain.first() {
            *shown = Shown {
                streams: offer.streams,
                certificate: own.chain.first().cloned(),
                roots: BTreeSet::new(),
            };
        }
        // Of a single one every connection to the control plane shows it.
        let several = roots.own().iter().filter(|_| roots.own().len() > 1);
        for root in several {
            if shown.roots.contains(&id(root)) {
                continue;
            }
            self.show(root, own).await?;
            shown.roots.insert(id(root));
        }
        *self.identity.roots_trouble() = None;
        self.identity.shared.taken.send_replace(Some(Arc::clone(roots)));
        Ok(())
    }

    /// Shakes hands with the control plane trusting this root alone. One for which it has no certificate to show, as of
    /// an operator's that is to come, is not shown.
    async fn show(&self, root: &CertificateDer<'static>, own: &Credential) -> Result<(), NotShown> {
        let proof = Proof {
            root: id(root),
            workload: self.workload.clone(),
        };
        let trust = Trust {
            roots: vec![root.clone()],
            pins: Vec::new(),
            id: own.id.trust_domain.control_plane(),
        };
        let config = Arc::new(trust.client_config(Some((own.chain.clone(), own.key.clone_key())))?);
        let showing = async {
            let stream = open(self.endpoint.uri()).await.map_err(NotShown::Connect)?;
            let failed = |error| NotShown::Handshake {
                root: proof.root,
                error,
            };
            let name = ServerName::try_from(proof.to_string());
            let name = name.map_err(|error| NotShown::Connect(std::io::Error::other(error)))?;
            let mut stream = match TlsConnector::from(config).connect(name, stream).await {
                Ok(stream) => stream,
                Err(error) if tls::is_refused(&error) => return Ok(()),
                Err(error) => return Err(failed(error)),
            };
            // It has seen all of the handshake, our certificate as well, when it ends the connection in order.
            stream.read(&mut [0]).await.map(drop).map_err(failed)
        };
        let shown = tokio::time::timeout(HANDSHAKE_TIMEOUT, showing).await;
        shown.map_err(|_| NotShown::TimedOut(proof.root))?
    }
}

/// A connection to a URL's host.
pub(crate) async fn open(to: &Uri) -> std::io::Result<TcpStream> {
    let wrong = || std::io::Error::from(std::io::ErrorKind::InvalidInput);
    let stream = TcpStream::connect((host(to).ok_or_else(wrong)?, to.port_u16().ok_or_else(wrong)?)).await?;
    // Only slower without.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// A URL's host, without the brackets of IPv6.
pub(crate) fn host(of: &Uri) -> Option<&str> {
    let host = of.host()?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    Some(bare.unwrap_or(host))
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

/// Of the mesh, and of each other trust domain.
const ROOTS_MAX: usize = 64;
/// For name, connection and handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use super::*;

    fn root() -> String {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a root").pem()
    }

    #[test]
    fn roots_are_read_whole_or_not_at_all() {
        let (one, other) = (root(), root());
        let read = |pem: &str| Roots::read(pem, &BTreeMap::new());
        let both = read(&format!("{one}{other}")).expect("two");
        assert_eq!(both.own().len(), 2);
        assert!(both.share(&read(&other).expect("one")));
        assert!(!read(&one).expect("one").share(&read(&other).expect("one")));
        let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (pem, wrong) in [
            ("", RootsError::None),
            (damaged, RootsError::Malformed),
            (&format!("{one}{damaged}"), RootsError::Malformed),
            (&one.repeat(65), RootsError::TooMany),
        ] {
            assert_eq!(read(pem), Err(wrong.clone()));
            // One trust domain's that can't be read take the others with them: what is told is told whole.
            let domain = |name: &str| -> TrustDomain { name.parse().expect("a trust domain") };
            let others = [(domain("a.gov"), other.clone()), (domain("b.gov"), pem.to_owned())];
            let (domain, error) = (domain("b.gov"), Box::new(wrong));
            assert_eq!(
                Roots::read(&one, &others.into()),
                Err(RootsError::Other { domain, error })
            );
        }
        let others = BTreeMap::from([("a.gov".parse().expect("a trust domain"), other.clone())]);
        let all = Roots::read(&one, &others).expect("one of each");
        assert_eq!((all.own().len(), all.others().len()), (1, 1));
        assert!(!all.share(&read(&other).expect("one")), "those of others make no mesh");
    }
}
