//! Who this proxy is: a key made here, a certificate for it from the control plane, renewed for as long as the proxy
//! runs.
//!
//! The first certificate is got with a join token, each next one with the one before. Without an answer from the
//! control plane what is there stays, for as long as it is good; requests go on either way.

mod joining;
mod kept;
pub(crate) mod token;
pub(crate) mod trust;

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
use weir_policy::spiffe::SpiffeId;

use crate::admin::readiness::Condition;
use crate::config::{Joining, KeepIdentity};
use crate::tls::Tls;
use joining::{AsWhom, Credential, Exchange, JoinError};
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
        let tls = Arc::new(Tls::new(
            id.clone(),
            *not_after,
            chain.clone(),
            key.clone_key(),
            roots.clone(),
        )?);
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
    file: Option<PathBuf>,
    condition: Condition,
    /// The key of an attempt that failed: it is tried again with the same. A token's use is counted by key, so that an
    /// answer that was lost costs none.
    key: Option<KeyPair>,
}

/// An identity that there is nothing of yet, and its keeper. What an earlier run kept in `state_dir` is there at once,
/// if it is still good.
pub(crate) fn start(
    endpoint: Endpoint,
    joining: Joining,
    workload: WorkloadName,
    state_dir: Option<PathBuf>,
    condition: Condition,
) -> (Identity, Keeper) {
    let identity = Identity {
        shared: Arc::new(Shared {
            state: watch::Sender::default(),
            wanted: Notify::new(),
            trouble: Mutex::default(),
        }),
    };
    let file = match joining.keep {
        KeepIdentity::Yes => state_dir.map(|directory| directory.join(kept::FILE)),
        KeepIdentity::No => None,
    };
    let keeper = Keeper {
        identity: identity.clone(),
        endpoint,
        joining,
        workload,
        file,
        condition,
        key: None,
    };
    keeper.restore();
    (identity, keeper)
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
        let Some(file) = &self.file else { return };
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
        let held = self.identity.shared.state.borrow().0.clone();
        if let (Some(file), Some(held)) = (&self.file, held)
            && let Err(error) = kept::write(file, &held.credential)
        {
            tracing::error!(file = %file.display(), %error, "can't keep the identity on disk");
        }
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

    /// What makes a peer the control plane: a file's roots where one is given, else those that the token names, or
    /// those that came with the certificate so far.
    fn trust(&self, token: Option<&Token>, holder: Option<&Credential>) -> Result<Trust, JoinError> {
        let id = token.map(|token| &token.id).or(holder.map(|holder| &holder.id));
        let id = id
            .ok_or_else(|| JoinError::Local("nobody is known".to_owned()))?
            .trust_domain
            .control_plane();
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
            return Ok(Trust { roots, pins, id });
        }
        Ok(Trust {
            roots: holder.map(|holder| holder.roots.clone()).unwrap_or_default(),
            pins: token.map(|token| token.pins.clone()).unwrap_or_default(),
            id,
        })
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
        let held = Held::new(credential, trust)?;
        self.identity.shared.state.send_replace(State(Some(Arc::new(held))));
        Ok(())
    }
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
        self.identity.shared.wanted.notified().await;
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

const RENEWAL_MIN: Duration = Duration::from_secs(1);
const AGAIN_FIRST: Duration = Duration::from_secs(1);
const AGAIN_LONGEST: Duration = Duration::from_secs(60);

#[cfg(test)]
pub(crate) mod tests;
