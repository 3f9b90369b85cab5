//! Who this proxy is: a key made here, a certificate for it from the control plane, renewed for as long as the proxy
//! runs.
//!
//! The first certificate is got with a join token, each next one with the one before. Without an answer from the
//! control plane what is there stays, for as long as it is good; requests go on either way.

mod joining;
mod kept;
pub(crate) mod roots;
pub(crate) mod token;
pub(crate) mod trust;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rcgen::KeyPair;
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tonic::transport::{Channel, Endpoint};
use weir_policy::names::WorkloadName;
use weir_policy::roots::RootId;
use weir_policy::spiffe::{SpiffeId, TrustDomain};

use crate::admin::readiness::Condition;
use crate::config::{Joining, KeepIdentity};
use crate::tls::Tls;
use joining::{AsWhom, Credential, Exchange, JoinError};
use roots::{Offer, Roots, Taker};
use token::Token;
use trust::Trust;

/// The proxy's identity, for everything that connects as it. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: watch::Sender<State>,
    /// Somebody needs another certificate now.
    wanted: Notify,
    trouble: Mutex<Option<String>>,
    /// The roots that the control plane told of; `None`: it has not yet, and those that came with the certificate hold.
    /// Held while [`Shared::state`] is replaced, by a certificate or by roots.
    told: Mutex<Option<Arc<Roots>>>,
    /// What the link says of roots.
    offers: watch::Sender<Offer>,
    /// The roots that are in force, kept and shown to be trusted.
    taken: watch::Sender<Option<Arc<Roots>>>,
    roots_trouble: Mutex<Option<String>>,
}

/// What there is.
#[derive(Clone, Default)]
struct State(Option<Arc<Held>>);

struct Held {
    credential: Credential,
    /// Toward the control plane.
    config: Arc<ClientConfig>,
    /// Toward other proxies.
    tls: Arc<Tls>,
}

impl Held {
    /// With `trust` as what makes a peer the control plane.
    fn new(credential: Credential, trust: Trust) -> Result<Held, rustls::Error> {
        let Credential {
            id,
            chain,
            roots,
            key,
            not_after,
        } = &credential;
        let config = Arc::new(trust.client_config(Some((chain.clone(), key.clone_key())))?);
        let tls = Arc::new(Tls::new(id.clone(), *not_after, chain.clone(), key.clone_key(), roots)?);
        Ok(Held {
            credential,
            config,
            tls,
        })
    }
}

/// Without the key.
impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let held = self
            .0
            .as_ref()
            .map(|held| (&held.credential.id, held.credential.not_after));
        f.debug_tuple("State").field(&held).finish()
    }
}

/// The task that keeps the certificate good.
#[derive(Debug)]
pub(crate) struct Keeper {
    identity: Identity,
    endpoint: Endpoint,
    joining: Joining,
    workload: WorkloadName,
    place: Place,
    condition: Condition,
    /// The root for which the certificate was renewed before its time: once for each.
    renewed_for: Mutex<Option<RootId>>,
    /// The key of an attempt that failed: it is tried again with the same. A token's use is counted by key, so that an
    /// answer that was lost costs none.
    key: Option<KeyPair>,
}

/// Where the identity is kept on disk; `None`: it is not.
#[derive(Clone, Debug)]
struct Place(Option<PathBuf>);

impl Place {
    /// Keeps what is in force. Blocks until it is on the disk.
    fn keep(&self, identity: &Identity) {
        // One write at a time, and none of what is no longer in force.
        let _told = identity.told();
        let held = identity.shared.state.borrow().0.clone();
        if let (Some(file), Some(held)) = (&self.0, held)
            && let Err(error) = kept::write(file, &held.credential)
        {
            tracing::error!(file = %file.display(), %error, "can't keep the identity on disk");
        }
    }
}

/// An identity that there is nothing of yet, its keeper, and who takes roots for it. What an earlier run kept in
/// `state_dir` is there at once, if it is still good.
pub(crate) fn start(
    endpoint: Endpoint,
    joining: Joining,
    workload: WorkloadName,
    state_dir: Option<PathBuf>,
    condition: Condition,
) -> (Identity, Keeper, Taker) {
    let identity = Identity {
        shared: Arc::new(Shared {
            state: watch::Sender::default(),
            wanted: Notify::new(),
            trouble: Mutex::default(),
            told: Mutex::default(),
            offers: watch::Sender::default(),
            taken: watch::Sender::default(),
            roots_trouble: Mutex::default(),
        }),
    };
    let file = match joining.keep {
        KeepIdentity::Yes => state_dir.map(|directory| directory.join(kept::FILE)),
        KeepIdentity::No => None,
    };
    let place = Place(file);
    let taker = Taker {
        identity: identity.clone(),
        endpoint: endpoint.clone(),
        workload: workload.clone(),
        place: place.clone(),
    };
    let keeper = Keeper {
        identity: identity.clone(),
        endpoint,
        joining,
        workload,
        place,
        condition,
        renewed_for: Mutex::default(),
        key: None,
    };
    keeper.restore();
    (identity, keeper, taker)
}

impl Identity {
    /// A connection as this proxy; waits until it has a certificate.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn connect(&self, endpoint: &Endpoint) -> Result<Channel, tonic::transport::Error> {
        let mut state = self.shared.state.subscribe();
        let held = loop {
            let held = state.borrow_and_update().0.clone();
            match held {
                Some(held) if SystemTime::now() < held.credential.not_after => break held,
                // The machine slept, or its clock was set: the keeper's timer doesn't know.
                Some(_) => self.shared.wanted.notify_one(),
                None => {}
            }
            if state.changed().await.is_err() {
                // The keeper has ended, and with it the proxy: nothing more comes.
                std::future::pending::<()>().await;
            }
        };
        joining::connect(endpoint, Arc::clone(&held.config)).await
    }

    /// How TLS is spoken to other proxies; `None`: there is no certificate that is good now, and one is asked for.
    pub(crate) fn tls(&self) -> Option<Arc<Tls>> {
        let held = self.shared.state.borrow().0.clone()?;
        let tls = Some(&held.tls).filter(|tls| tls.is_good(SystemTime::now()));
        if tls.is_none() {
            self.shared.wanted.notify_one();
        }
        tls.cloned()
    }

    /// The same once there is one.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn tls_to_come(&self) -> Arc<Tls> {
        let mut state = self.shared.state.subscribe();
        loop {
            state.mark_unchanged();
            if let Some(tls) = self.tls() {
                return tls;
            }
            if state.changed().await.is_err() {
                // The keeper has ended, and with it the proxy: nothing more comes.
                std::future::pending::<()>().await;
            }
        }
    }

    /// The control plane tells of these roots. Told again, they are nothing new: what can't be shown to be trusted is
    /// tried again in its own time.
    pub(crate) fn offer(&self, roots: Arc<Roots>) {
        self.shared.offers.send_if_modified(|offer| {
            let is_new = offer.roots.as_ref() != Some(&roots);
            offer.roots = Some(roots);
            is_new
        });
    }

    /// A stream to the control plane is open: a process may be there that has not seen yet what is trusted here.
    pub(crate) fn connected(&self) {
        self.shared.offers.send_modify(|offer| offer.streams += 1);
    }

    /// The roots that are in force, kept and shown to be trusted; a receiver that is woken each time that this is so of
    /// what was offered.
    pub(crate) fn taken(&self) -> watch::Receiver<Option<Arc<Roots>>> {
        self.shared.taken.subscribe()
    }

    /// Trusts these roots and no others from now on, for whatever begins. What is open stays. Not so those of a mesh
    /// that was left: none of them is known to whom this proxy joined since.
    fn trust(&self, roots: &Arc<Roots>) -> Result<Trusting, rustls::Error> {
        let mut told = self.told();
        let Some(held) = self.shared.state.borrow().0.clone() else {
            return Ok(Trusting::NotTheirs);
        };
        match &*told {
            Some(_) if held.credential.roots == **roots => return Ok(Trusting::AsBefore),
            // The same authority may be told by another certificate, which ours is below as well.
            None if !roots.share(&held.credential.roots) && !roots.are_above(&held.credential) => {
                return Ok(Trusting::NotTheirs);
            }
            Some(_) | None => {}
        }
        let held = Held::new(held.credential.below(roots), self.beyond(roots, &held.credential.id))?;
        *told = Some(Arc::clone(roots));
        self.shared.state.send_replace(State(Some(Arc::new(held))));
        Ok(Trusting::Anew)
    }

    /// What makes a peer the control plane.
    fn beyond(&self, roots: &Roots, own: &SpiffeId) -> Trust {
        Trust {
            roots: roots.own().to_vec(),
            pins: Vec::new(),
            id: own.trust_domain.control_plane(),
        }
    }

    /// Whether workloads of this trust domain are believed at inbound ports, as far as is known now.
    pub(crate) fn trusts(&self, domain: &TrustDomain) -> bool {
        let state = self.shared.state.borrow();
        let credential = state.0.as_ref().map(|held| &held.credential);
        credential.is_some_and(|own| own.id.trust_domain == *domain || own.roots.others().contains_key(domain))
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Option<Arc<Roots>>> {
        self.shared.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn roots_trouble(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.shared.roots_trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For people: who it is, until when, and what is wrong. Never the key.
    pub(crate) fn status(&self, now: SystemTime) -> Value {
        let held = self.shared.state.borrow().0.clone();
        let credential = held.as_ref().map(|held| &held.credential);
        let not_after = credential.and_then(|credential| jiff::Timestamp::try_from(credential.not_after).ok());
        json!({
            "spiffeId": credential.map(|credential| credential.id.to_string()),
            "notAfter": not_after.map(|time| time.to_string()),
            "daysLeft": self.seconds_left(now).map(days),
            "trouble": *self.trouble(),
            "roots": credential.map(|credential| shown(credential.roots.own())),
            "trustDomains": credential.map(|credential| {
                let others = credential.roots.others().iter();
                others.map(|(name, roots)| (name.to_string(), shown(roots))).collect::<BTreeMap<_, _>>()
            }),
            "rootsTrouble": *self.roots_trouble(),
        })
    }

    /// For how long its certificate is good, negative: since when it is not; `None`: it has none.
    pub(crate) fn seconds_left(&self, now: SystemTime) -> Option<i64> {
        let held = self.shared.state.borrow().0.clone()?;
        let signed = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
        Some(match held.credential.not_after.duration_since(now) {
            Ok(left) => signed(left.as_secs()),
            Err(past) => -signed(past.duration().as_secs()),
        })
    }

    fn trouble(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keeper {
    /// Runs until it is dropped.
    pub(crate) async fn run(mut self) {
        let good_for = self.good_for();
        keep(&mut self, good_for, fastrand::f64).await;
    }

    fn restore(&self) {
        let Some(file) = &self.place.0 else { return };
        let restored = kept::read(file, SystemTime::now()).and_then(|credential| {
            let Some(credential) = credential else { return Ok(()) };
            self.check(&credential.id).map_err(|error| error.to_string())?;
            let trust = self.trust(None, Some(&credential)).map_err(|error| error.to_string())?;
            self.publish(credential, trust).map_err(|error| error.to_string())?;
            self.condition.met();
            Ok(())
        });
        if let Err(error) = restored {
            tracing::warn!(file = %file.display(), error, "a kept identity is not used");
        }
    }

    fn good_for(&self) -> Option<Duration> {
        let held = self.identity.shared.state.borrow().0.clone()?;
        held.credential.not_after.duration_since(SystemTime::now()).ok()
    }

    /// The next certificate, for this key; how long it is good for.
    async fn next(&self, pair: &KeyPair) -> Result<Duration, JoinError> {
        let held = self.identity.shared.state.borrow().0.clone();
        let holder = held
            .as_ref()
            .map(|held| &held.credential)
            .filter(|held| SystemTime::now() < held.not_after);
        let (credential, trust) = match holder {
            None => self.join(pair, None).await?,
            Some(holder) => {
                let trust = self.trust(None, Some(holder))?;
                match self
                    .exchange(&trust, &holder.id, AsWhom::Holder(holder))
                    .run(pair)
                    .await
                {
                    Ok(credential) => (credential, trust),
                    // Another authority, most likely, of which a new token may know.
                    Err(renewal) if renewal.is_of_strangers() && self.joining.token_file.is_some() => {
                        let joined = self.join(pair, Some(&holder.id)).await;
                        joined.map_err(|join| JoinError::Both {
                            renewal: Box::new(renewal),
                            join: Box::new(join),
                        })?
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        let good_for = credential
            .not_after
            .duration_since(SystemTime::now())
            .unwrap_or_default();
        self.publish(credential, trust)?;
        self.place.keep(&self.identity);
        Ok(good_for)
    }

    /// By the token; `as_before`: only as this one.
    async fn join(&self, key: &KeyPair, as_before: Option<&SpiffeId>) -> Result<(Credential, Trust), JoinError> {
        let local = |text: String| JoinError::Local(text);
        let Some(file) = &self.joining.token_file else {
            return Err(local(
                "the certificate has ended and there is no --token-file to join anew with".to_owned(),
            ));
        };
        let token = Token::from_file(file).map_err(|error| local(error.to_string()))?;
        if let Some(mode) = token::open_to_others(file) {
            tracing::warn!(file = %file.display(), mode, "others can read the join token");
        }
        self.check(&token.id)?;
        if as_before.is_some_and(|before| *before != token.id) {
            return Err(local(format!(
                "--token-file {}: is of another identity",
                file.display()
            )));
        }
        let trust = self.trust(Some(&token), None)?;
        let credential = self
            .exchange(&trust, &token.id, AsWhom::Bearer(&token))
            .run(key)
            .await?;
        Ok((credential, trust))
    }

    fn exchange<'a>(&'a self, trust: &'a Trust, id: &'a SpiffeId, as_whom: AsWhom<'a>) -> Exchange<'a> {
        Exchange {
            endpoint: &self.endpoint,
            trust,
            id,
            as_whom,
        }
    }

    /// What makes a peer the control plane. For who has a certificate, the roots that the control plane told of; until
    /// then those that came with it, and those of a file where one is given. For who joins, those of a file, else those
    /// that the token names.
    fn trust(&self, token: Option<&Token>, holder: Option<&Credential>) -> Result<Trust, JoinError> {
        let id = token.map(|token| &token.id).or(holder.map(|holder| &holder.id));
        let id = id
            .ok_or_else(|| JoinError::Local("nobody is known".to_owned()))?
            .trust_domain
            .control_plane();
        if let (Some(told), Some(holder)) = (&*self.identity.told(), holder) {
            return Ok(self.identity.beyond(told, &holder.id));
        }
        if let Some(file) = &self.joining.ca_file {
            let wrong = |error: String| JoinError::Local(format!("--ca-file {}: {error}", file.display()));
            let pem = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
            let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
            let roots = roots.map_err(|error| wrong(error.to_string()))?;
            if roots.is_empty() {
                return Err(wrong(
                    "holds no certificate; PEM blocks \"CERTIFICATE\" are right".to_owned(),
                ));
            }
            let pins = Vec::new();
            let more = holder.map(|holder| holder.roots.own()).unwrap_or_default().iter();
            let more: Vec<_> = more.filter(|root| !roots.contains(root)).cloned().collect();
            let roots = [roots, more].concat();
            return Ok(Trust { roots, pins, id });
        }
        Ok(Trust {
            roots: holder.map(|holder| holder.roots.own().to_vec()).unwrap_or_default(),
            pins: token.map(|token| token.pins.clone()).unwrap_or_default(),
            id,
        })
    }

    /// Waits until certificates are signed below another root than this one is, and then for a while that is drawn, so
    /// that not all proxies come at once. Once for each root: where the renewed one is not below it either, the control
    /// plane says two things, and more of the same would not help.
    async fn overtaken(&self) {
        let mut state = self.identity.shared.state.subscribe();
        loop {
            let held = state.borrow_and_update().0.clone();
            let told = self.identity.told().clone();
            if let (Some(held), Some(told)) = (held, told)
                && let Some(first) = told.own().first().map(roots::id)
                && *self.renewed_for() != Some(first)
                && told.are_ahead_of(&held.credential)
            {
                let left = held.credential.not_after.duration_since(SystemTime::now());
                let spread = (left.unwrap_or_default() / 10).min(OVERTAKEN_SPREAD_MAX);
                tokio::time::sleep(spread.mul_f64(fastrand::f64())).await;
                *self.renewed_for() = Some(first);
                tracing::info!(root = %first, "certificates are signed below another root now: renewing");
                return;
            }
            if state.changed().await.is_err() {
                // The identity has ended, and with it the proxy.
                std::future::pending::<()>().await;
            }
        }
    }

    fn renewed_for(&self) -> std::sync::MutexGuard<'_, Option<RootId>> {
        self.renewed_for.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, id: &SpiffeId) -> Result<(), JoinError> {
        if id.namespace == self.workload.namespace {
            return Ok(());
        }
        Err(JoinError::Local(format!(
            "the identity {id} is of another namespace than --namespace {}; get a token for that one",
            self.workload.namespace
        )))
    }

    fn publish(&self, credential: Credential, trust: Trust) -> Result<(), JoinError> {
        let mut told = self.identity.told();
        // Who joined another mesh's control plane by a token begins anew with what that has.
        let before = told.take();
        let was_told = before.is_some();
        let still = before.filter(|told| told.share(&credential.roots));
        let kept = self.identity.shared.state.borrow().0.clone();
        let held = match (&still, kept) {
            (Some(told), _) => Held::new(credential.below(told), self.identity.beyond(told, &credential.id))?,
            // What was told before a restart holds until it is told again.
            (None, Some(kept)) if !was_told && kept.credential.roots.share(&credential.roots) => {
                let roots = credential.roots.beside_others_of(&kept.credential.roots);
                Held::new(credential.below(&roots), trust)?
            }
            (None, _) => Held::new(credential, trust)?,
        };
        if was_told && still.is_none() {
            // What another mesh's control plane told of is not to be taken up again.
            self.identity.shared.offers.send_modify(|offer| offer.roots = None);
            self.identity.shared.taken.send_replace(None);
        }
        *told = still;
        self.identity.shared.state.send_replace(State(Some(Arc::new(held))));
        Ok(())
    }
}

/// What came of roots that were told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trusting {
    /// They are trusted from now on.
    Anew,
    /// They were before.
    AsBefore,
    /// They are of another mesh than this proxy is in.
    NotTheirs,
}

/// Roots, for people.
fn shown(roots: &[CertificateDer<'_>]) -> Vec<String> {
    roots.iter().map(|root| roots::id(root).to_string()).collect()
}

/// To the hundredth, which is a quarter of an hour.
fn days(seconds: i64) -> f64 {
    (seconds as f64 / 864.0).floor() / 100.0
}

/// Where certificates come from.
trait Source {
    /// The next one; how long it is good for. `None`: there is none now.
    fn obtain(&mut self) -> impl Future<Output = Option<Duration>> + Send;

    /// Waits until one is needed at once.
    ///
    /// # Cancel safety
    /// What is needed stays so until this returns.
    fn wanted(&self) -> impl Future<Output = ()> + Send;
}

impl Source for Keeper {
    async fn obtain(&mut self) -> Option<Duration> {
        let key = self.key.take().map_or_else(KeyPair::generate, Ok);
        let obtained = match &key {
            Ok(key) => self.next(key).await,
            Err(error) => Err(JoinError::Key(error.clone())),
        };
        match &obtained {
            Ok(good_for) => {
                self.condition.met();
                *self.identity.trouble() = None;
                tracing::info!(good_for_seconds = good_for.as_secs(), "has a certificate");
            }
            Err(error) => {
                self.key = key.ok();
                tracing::warn!(%error, "gets no certificate; trying again");
                *self.identity.trouble() = Some(error.to_string());
            }
        }
        obtained.ok()
    }

    async fn wanted(&self) {
        tokio::select! {
            () = self.identity.shared.wanted.notified() => {}
            () = self.overtaken() => {}
        }
    }
}

/// Obtains when there is nothing, at two thirds of what there is, and when it is wanted at once; after a failure again,
/// with waits that double. `good_for`: for how long what there is is good.
async fn keep(source: &mut impl Source, good_for: Option<Duration>, random: fn() -> f64) {
    let mut wait = good_for.map_or(Duration::ZERO, |good_for| renewal(good_for, random()));
    let mut failures = 0;
    loop {
        // Both arms are cancel safe: what is wanted stays so until it is taken.
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = source.wanted(), if failures == 0 => {}
        }
        wait = match source.obtain().await {
            Some(good_for) => {
                failures = 0;
                renewal(good_for, random())
            }
            None => {
                failures += 1;
                again(failures, random())
            }
        };
    }
}

/// When what is good for this long is renewed: at two thirds of it, up to a tenth of it earlier or later, so that many
/// proxies that came at once don't come back at once; never sooner than after a second.
fn renewal(good_for: Duration, random: f64) -> Duration {
    good_for
        .mul_f64(2.0 / 3.0 + (random.clamp(0.0, 1.0) - 0.5) / 5.0)
        .max(RENEWAL_MIN)
}

/// The wait after so many failures: from 1 s, doubled each time, at most 60 s, each drawn between its half and its
/// whole.
fn again(failures: u32, random: f64) -> Duration {
    let whole = AGAIN_FIRST
        .saturating_mul(1 << (failures - 1).min(10))
        .min(AGAIN_LONGEST);
    whole.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
}

/// Over how long the renewals are spread when certificates are signed below another root; sooner where they are short.
const OVERTAKEN_SPREAD_MAX: Duration = Duration::from_secs(10 * 60);
const RENEWAL_MIN: Duration = Duration::from_secs(1);
const AGAIN_FIRST: Duration = Duration::from_secs(1);
const AGAIN_LONGEST: Duration = Duration::from_secs(60);

#[cfg(test)]
pub(crate) mod tests;
