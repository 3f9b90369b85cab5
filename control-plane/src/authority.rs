//! The certificate authority: who is who in the mesh is what it signed. Its keys are in a directory of its own, in
//! files of an operator's, or in memory; certificates of workloads are short-lived and nobody keeps a list of them.

pub(crate) mod ca;
pub(crate) mod csr;
mod files;
mod rotating;
pub(crate) mod rotation;
mod shown;
pub(crate) mod tokens;
pub(crate) mod x509;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rcgen::PublicKeyData;
use rustls::pki_types::CertificateDer;
use tokio::sync::{Semaphore, watch};
use weir_api::identity::{AuthorityStatus, CertificateStatus, IssuedToken, TOKEN_TTL_MAX_SECONDS, TOKEN_USES_MAX};
use weir_policy::roots::RootId;
use weir_policy::spiffe::{SpiffeId, TrustDomain};
use weir_xds::JOIN_TOKEN_BYTES_MAX;

use crate::drain::Drain;
use crate::refusals::{Refusals, Untold};
use crate::store::{Store, UseError};
use ca::{Ca, CaProblem, Leaf, Signed, rfc3339};
use csr::Csr;
pub use files::{AuthorityError, CaFiles};
use files::{CaBytes, Directory};
use rotating::Rotating;
pub(crate) use rotating::RotationError;
use rotation::Rotation;
use tokens::{AUDIENCE, Claims, Grant, TokenError, TokenKey};
use x509::{Labels, hex, sha256, to_pem};

/// What an authority runs with.
#[derive(Clone, Debug)]
pub struct AuthorityConfig {
    /// Whose identities it gives.
    pub trust_domain: TrustDomain,
    /// How long certificates of workloads are good for, at most.
    pub cert_ttl: Duration,
    /// An operator's own intermediate; `None`: root and intermediate are made.
    pub files: Option<CaFiles>,
}

impl Default for AuthorityConfig {
    /// `cluster.local`, 24 hours, keys of its own.
    fn default() -> AuthorityConfig {
        AuthorityConfig {
            trust_domain: TrustDomain::default(),
            cert_ttl: Duration::from_secs(24 * 60 * 60),
            files: None,
        }
    }
}

/// The authority's front; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Authority {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    trust_domain: TrustDomain,
    cert_ttl: Duration,
    source: Source,
    ca: watch::Sender<Arc<Ca>>,
    /// What everybody is to trust, of what signs now.
    roots: watch::Sender<Vec<CertificateDer<'static>>>,
    /// Held while it is written: only by threads that may block.
    given: Mutex<Given>,
    /// A disk that hangs must not take all threads that may block.
    signing: Arc<Semaphore>,
    rotating: Rotating,
    tokens: TokenKey,
    store: Store,
    /// Why the operator's files, as they are now, are not in use.
    trouble: Mutex<Option<String>>,
    wrong_tokens: Refusals,
    /// Apart: these may have been stolen, and others don't hide that.
    used_up_tokens: Refusals,
}

/// Until when certificates are good that were given below the root that signs now.
#[derive(Debug)]
struct Given {
    until: SystemTime,
    /// What the disk has of it, which is never less, so that a process that is killed takes no knowledge along.
    written: SystemTime,
}

/// Where the keys are.
#[derive(Debug)]
enum Source {
    Memory,
    Directory(Directory),
    Files(CaFiles),
}

/// Why an identity is given to nobody.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("{0} is the control plane's own identity; give workloads another account")]
    ControlPlane(SpiffeId),
    #[error("{field} {held:?}: {right}")]
    Request {
        field: &'static str,
        held: String,
        right: String,
    },
    #[error("the authority can't sign: it {0}")]
    Authority(#[from] CaProblem),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("the token was used {uses} times, as often as it may; make another one with `weirctl token create`")]
    UsedUp { uses: u32 },
    #[error("the use of the token can't be written down: {0}")]
    Store(UseError),
    #[error(transparent)]
    Rotation(#[from] RotationError),
}

impl Authority {
    /// Opens the authority; `directory` is where its own files are, `None`: in memory. Blocks on the disk.
    ///
    /// # Errors
    /// When its files can't be used; each error names the file and what to do.
    pub(crate) fn open(
        config: AuthorityConfig,
        directory: Option<&Path>,
        store: Store,
    ) -> Result<(Authority, Keeper), AuthorityError> {
        let AuthorityConfig {
            trust_domain,
            cert_ttl,
            files,
        } = config;
        let now = SystemTime::now();
        let directory = directory
            .map(|directory| Directory::open(directory.join(DIRECTORY)))
            .transpose()?;
        let in_memory = |problem: CaProblem| AuthorityError::Wrong {
            path: "the authority in memory".into(),
            problem: problem.to_string(),
        };
        let tokens = match &directory {
            Some(directory) => directory.token_key()?,
            None => ca::new_key().and_then(TokenKey::new).map_err(in_memory)?,
        };
        let mut in_use = None;
        let mut rotation = None;
        let (source, ca) = match (files, directory) {
            (Some(files), _) => {
                let bytes = files.read()?;
                let ca = files.ca(&bytes, now)?;
                in_use = Some(bytes);
                (Source::Files(files), ca)
            }
            (None, Some(directory)) => {
                rotation = directory.rotation()?;
                let ca = directory.ca(rotation.as_ref(), &trust_domain, now)?;
                (Source::Directory(directory), ca)
            }
            (None, None) => (Source::Memory, files::in_memory(&trust_domain, now).map_err(in_memory)?),
        };
        let given = match (&source, ca.root()) {
            (Source::Directory(directory), Some(root)) => Given::open(directory, root, now)?,
            (Source::Memory | Source::Directory(_) | Source::Files(_), _) => Given {
                until: now,
                written: now,
            },
        };
        let shared = Arc::new(Shared {
            trust_domain,
            cert_ttl,
            source,
            roots: watch::Sender::new(ca.roots().to_vec()),
            ca: watch::Sender::new(Arc::new(ca)),
            given: Mutex::new(given),
            signing: Arc::new(Semaphore::new(SIGNING_MAX)),
            rotating: Rotating::new(rotation),
            tokens,
            store,
            trouble: Mutex::default(),
            wrong_tokens: Refusals::default(),
            used_up_tokens: Refusals::default(),
        });
        let authority = Authority { shared };
        let keeper = Keeper {
            authority: authority.clone(),
            in_use,
        };
        Ok((authority, keeper))
    }

    /// Whose identities it gives.
    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        &self.shared.trust_domain
    }

    /// What signs now, and a receiver that is woken when another does.
    pub(crate) fn ca(&self) -> watch::Receiver<Arc<Ca>> {
        self.shared.ca.subscribe()
    }

    /// What everybody is to trust now, the root above what is signed first; a receiver that is woken when it changes.
    pub(crate) fn roots(&self) -> watch::Receiver<Vec<CertificateDer<'static>>> {
        self.shared.roots.subscribe()
    }

    /// Where its keys are, for people.
    pub(crate) fn source(&self) -> String {
        match &self.shared.source {
            Source::Memory => "memory: gone when the process ends".to_owned(),
            Source::Directory(directory) => directory.path().display().to_string(),
            Source::Files(files) => files.cert.display().to_string(),
        }
    }

    /// Does what blocks on the disk on a thread that serves nobody else; no more than [`SIGNING_MAX`] at once, others
    /// wait.
    ///
    /// # Errors
    /// When the process ends.
    ///
    /// # Cancel safety
    /// What has begun goes on to its end.
    pub(crate) async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Authority) -> Result<T, Refused> + Send + 'static,
    ) -> Result<T, Refused> {
        let ended = |error: &dyn std::fmt::Display| Refused::Authority(CaProblem::System(error.to_string()));
        let place = Arc::clone(&self.shared.signing).acquire_owned().await;
        let place = place.map_err(|error| ended(&error))?;
        let authority = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let done = work(&authority);
            drop(place);
            done
        });
        done.await.map_err(|error| ended(&error))?
    }

    /// A certificate for whoever has this key and is known to be `id`. `ttl` is shortened to what the authority gives.
    /// Blocks on the disk: see [`Authority::aside`].
    ///
    /// # Errors
    /// When it is the control plane's own identity, or nothing can be signed now.
    pub(crate) fn issue(
        &self,
        id: &SpiffeId,
        labels: &Labels,
        csr: &Csr,
        ttl: Option<Duration>,
    ) -> Result<Signed, Refused> {
        self.not_ours(id)?;
        let ttl = ttl.map_or(self.shared.cert_ttl, |ttl| ttl.min(self.shared.cert_ttl));
        let key = &csr.key;
        self.give(&Leaf {
            id,
            dns: None,
            labels,
            key,
            ttl,
        })
    }

    /// A certificate that a person asked for over the API, for as long as they said. Blocks on the disk as well.
    ///
    /// # Errors
    /// As for [`Authority::issue`], and when it should last longer than [`CERT_TTL`] allows.
    pub(crate) fn issue_to_person(&self, id: &SpiffeId, csr: &Csr, ttl: Option<&str>) -> Result<Signed, Refused> {
        self.not_ours(id)?;
        let ttl = match ttl {
            None => self.shared.cert_ttl,
            Some(text) => time("ttl", text, *CERT_TTL.end())?,
        };
        let (labels, key) = (&Labels::new(), &csr.key);
        self.give(&Leaf {
            id,
            dns: None,
            labels,
            key,
            ttl,
        })
    }

    /// The control plane's own certificate for this key.
    pub(crate) fn issue_own(&self, key: &impl PublicKeyData) -> Result<Signed, Refused> {
        self.sign(&Leaf {
            id: &self.shared.trust_domain.control_plane(),
            dns: Some(OWN_DNS_NAME),
            labels: &Labels::new(),
            key,
            ttl: self.shared.cert_ttl,
        })
    }

    /// The same below this root and nothing else, by which others see whether they trust it; `None`: nothing here is
    /// below it.
    pub(crate) fn issue_own_below(&self, root: RootId, key: &impl PublicKeyData) -> Option<Result<Signed, Refused>> {
        let ca = self.shared.ca.borrow().clone();
        let leaf = Leaf {
            id: &self.shared.trust_domain.control_plane(),
            dns: None,
            labels: &Labels::new(),
            key,
            ttl: TTL_MIN,
        };
        let signed = ca.sign_below(root, &leaf, SystemTime::now())?;
        Some(signed.map_err(Refused::from))
    }

    /// A join token.
    ///
    /// # Errors
    /// When it would be the control plane's own identity, or something asked for is out of bounds.
    pub(crate) fn token(&self, id: &SpiffeId, labels: Labels, ttl: &str, uses: u32) -> Result<IssuedToken, Refused> {
        self.not_ours(id)?;
        let ttl = time("ttl", ttl, Duration::from_secs(TOKEN_TTL_MAX_SECONDS))?;
        if uses == 0 || uses > TOKEN_USES_MAX {
            return Err(Refused::Request {
                field: "uses",
                held: uses.to_string(),
                right: format!("a number from 1 to {TOKEN_USES_MAX} is right"),
            });
        }
        check_labels(&labels)?;
        let mut name = [0; 16];
        ca::random(&mut name)?;
        let now = SystemTime::now();
        let ends = now + ttl;
        let claims = Claims {
            aud: AUDIENCE.to_owned(),
            sub: id.to_string(),
            labels,
            iat: unix_seconds(now),
            exp: unix_seconds(ends),
            jti: hex(&name),
            uses,
            roots: self
                .shared
                .ca
                .borrow()
                .roots()
                .iter()
                .map(|root| hex(&sha256(root)))
                .collect(),
        };
        let token = self.shared.tokens.sign(&claims)?;
        if token.len() > JOIN_TOKEN_BYTES_MAX {
            return Err(Refused::Request {
                field: "token",
                held: format!("{} bytes", token.len()),
                right: format!(
                    "at most {JOIN_TOKEN_BYTES_MAX} are right; it names {} roots: give --ca-roots fewer, or the token \
                     fewer labels",
                    claims.roots.len()
                ),
            });
        }
        Ok(IssuedToken {
            token,
            id: claims.jti,
            spiffe_id: claims.sub,
            expires: rfc3339(ends),
        })
    }

    /// What a token grants, if it is ours and good now. No use is counted: see [`Authority::use_token`].
    ///
    /// # Errors
    /// When the token is wrong; the log has the reason and the token's name, never the token.
    pub(crate) fn read_token(&self, token: &str) -> Result<Grant, Refused> {
        let now = unix_seconds(SystemTime::now());
        let read = self.shared.tokens.read(token, &self.shared.trust_domain, now);
        read.map_err(|(jti, reason)| {
            if let Some(Untold(untold)) = self.shared.wrong_tokens.count(Instant::now()) {
                tracing::warn!(token = jti.as_deref().unwrap_or("unknown"), %reason, untold, "join token refused");
            }
            reason.into()
        })
    }

    /// Lets the bearer of a token in, with the key of this request. A use is counted before anything is signed; the
    /// same key again is the same use, so that an answer that was lost can be asked for again.
    ///
    /// # Errors
    /// When the token is used up; the log has its name.
    pub(crate) async fn use_token(&self, grant: &Grant, csr: &Csr) -> Result<(), Refused> {
        let Claims { jti, uses, exp, .. } = &grant.claims;
        let key = hex(&csr.key_sha256);
        match self.shared.store.use_token(jti, &key, *uses, *exp).await {
            Ok(()) => Ok(()),
            Err(UseError::UsedUp) => {
                if let Some(Untold(untold)) = self.shared.used_up_tokens.count(Instant::now()) {
                    tracing::warn!(
                        token = jti,
                        uses,
                        untold,
                        "join token refused: it was used as often as it may"
                    );
                }
                Err(Refused::UsedUp { uses: *uses })
            }
            Err(error) => Err(Refused::Store(error)),
        }
    }

    /// How many join tokens were refused.
    pub(crate) fn tokens_refused(&self) -> u64 {
        self.shared.wrong_tokens.total() + self.shared.used_up_tokens.total()
    }

    /// Who somebody is, by namespace and account in our trust domain.
    ///
    /// # Errors
    /// When one of the two is no name.
    pub(crate) fn id(&self, namespace: &str, account: &str) -> Result<SpiffeId, Refused> {
        let label = |field, held: &str| {
            held.parse()
                .map_err(|error: weir_policy::names::NameError| Refused::Request {
                    field,
                    held: held.chars().take(64).collect(),
                    right: error.problem.to_owned(),
                })
        };
        Ok(SpiffeId {
            trust_domain: self.shared.trust_domain.clone(),
            namespace: label("namespace", namespace)?,
            account: label("account", account)?,
        })
    }

    /// How it stands.
    pub(crate) fn status(&self) -> AuthorityStatus {
        // Held for both, so that the step and what signs are of one moment.
        let held = self.shared.rotating.rotation();
        let (rotation, ca) = (held.clone(), self.shared.ca.borrow().clone());
        drop(held);
        let now = SystemTime::now();
        AuthorityStatus {
            trust_domain: self.shared.trust_domain.to_string(),
            source: self.source(),
            cert_ttl: weir_api::duration::format(self.shared.cert_ttl),
            roots: ca.roots().iter().map(|root| certificate_status(root, now)).collect(),
            intermediate: ca
                .intermediate()
                .map(|one| certificate_status(one, now))
                .unwrap_or_default(),
            trouble: self.trouble().clone().unwrap_or_default(),
            rotation: rotation.as_ref().map(|rotation| self.rotation_status(rotation, now)),
            behind: self.behind(),
        }
    }

    /// How many seconds each of its certificates has left; negative: since when it has not.
    pub(crate) fn left(&self, now: SystemTime) -> Vec<(&'static str, i64)> {
        let ca = self.shared.ca.borrow().clone();
        let until = |certificate: &CertificateDer<'_>| ca::times(certificate).map_or(now, |(_, until)| until);
        // Of several roots the last to end counts: new peers trust all of them.
        let root = ca.roots().iter().map(until).max();
        let intermediate = ca.intermediate().map(until);
        let named = [("root", root), ("intermediate", intermediate)];
        let left = |(name, until): (_, Option<SystemTime>)| Some((name, seconds_left(until?, now)));
        named.into_iter().filter_map(left).collect()
    }

    /// What of it ends soon, each with what to do; it is said for a month.
    pub(crate) fn ends_soon(&self, now: SystemTime) -> Vec<String> {
        const DAY: i64 = 24 * 60 * 60;
        let remedy = match (&self.shared.source, self.rotation_progress().0) {
            (_, Some(_)) => "a rotation is under way: `weirctl ca status` says what it waits for",
            (Source::Files(_), None) => "replace the files of --ca-cert, --ca-key and --ca-roots",
            (Source::Directory(_), None) => "`weirctl ca rotate` makes new ones",
            (Source::Memory, None) => "start weir-control anew, with --data-dir",
        };
        let soon = self
            .left(now)
            .into_iter()
            .filter(|(_, left)| *left < ENDS_SOON_DAYS * DAY);
        soon.map(|(name, left)| match left {
            ..0 => format!(
                "the {name} ended {} days ago: nobody can join or renew; {remedy}",
                -left / DAY
            ),
            0.. => format!("the {name} ends in {} days; {remedy}", left / DAY),
        })
        .collect()
    }

    /// Signs for somebody else, and remembers for how long.
    fn give<K: PublicKeyData>(&self, leaf: &Leaf<'_, K>) -> Result<Signed, Refused> {
        // Held while it is signed: what signs next begins with a time of its own.
        let mut given = self.given();
        let signed = self.sign(leaf)?;
        given.until = given.until.max(signed.not_after);
        // Not borrowed while it is written: who takes what signs would wait.
        let root = self.shared.ca.borrow().root();
        if let Source::Directory(directory) = &self.shared.source
            && given.until > given.written
            && let Some(root) = root
        {
            // Ahead, so that it is written seldom.
            let written = given.until + (leaf.ttl / 10).max(WRITTEN_AHEAD_MIN);
            match directory.set_given_until(root, written) {
                Ok(()) => given.written = written,
                // Known to this process all the same.
                Err(error) => tracing::error!(%error, "can't write down until when certificates are good"),
            }
        }
        Ok(signed)
    }

    fn given(&self) -> std::sync::MutexGuard<'_, Given> {
        self.shared.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this signs, and this rotation is under way.
    fn publish(&self, ca: Ca, rotation: Option<Rotation>) {
        let mut held = self.shared.rotating.rotation();
        *held = rotation.map(Arc::new);
        self.sign_with(ca);
    }

    fn sign_with(&self, ca: Ca) {
        let roots = ca.roots().to_vec();
        self.shared.ca.send_replace(Arc::new(ca));
        self.shared.roots.send_if_modified(|held| {
            let is_new = *held != roots;
            *held = roots;
            is_new
        });
    }

    fn sign<K: PublicKeyData>(&self, leaf: &Leaf<'_, K>) -> Result<Signed, Refused> {
        let ca = self.shared.ca.borrow().clone();
        Ok(ca.sign(leaf, SystemTime::now())?)
    }

    fn not_ours(&self, id: &SpiffeId) -> Result<(), Refused> {
        if *id == self.shared.trust_domain.control_plane() {
            return Err(Refused::ControlPlane(id.clone()));
        }
        Ok(())
    }

    fn trouble(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Given {
    /// What an earlier process wrote down; where none did, the longest that there may be.
    fn open(directory: &Directory, root: RootId, now: SystemTime) -> Result<Given, AuthorityError> {
        let until = match directory.given_until(root)? {
            Some(until) => until,
            None if directory.is_new() => {
                directory.set_given_until(root, now)?;
                now
            }
            None => now + *CERT_TTL.end(),
        };
        Ok(Given { until, written: until })
    }
}

/// Keeps the authority good: renews its own intermediate, follows an operator's files.
pub(crate) struct Keeper {
    authority: Authority,
    /// What the operator's files hold that is in use. What was refused is looked at again: time may put it right.
    in_use: Option<CaBytes>,
}

impl Keeper {
    /// Looks every few seconds until drained. Files are read whole rather than watched: that holds for every way in
    /// which they are replaced, also by mounts.
    pub(crate) async fn keep(mut self, mut drain: Drain) {
        let mut warned: Option<Instant> = None;
        loop {
            if warned.is_none_or(|warned| warned.elapsed() >= WARNED_EVERY) {
                for soon in self.authority.ends_soon(SystemTime::now()) {
                    tracing::warn!(soon, "a certificate of the authority ends soon");
                    warned = Some(Instant::now());
                }
            }
            tokio::select! {
                () = drain.begun() => return,
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
            // It reads files, and seldom makes keys: not on a thread that serves others.
            let looked = tokio::task::spawn_blocking(move || {
                self.look(SystemTime::now());
                self
            });
            let looked = tokio::select! {
                // A file whose mount hangs is not waited for.
                () = drain.begun() => return,
                looked = looked => looked,
            };
            match looked {
                Ok(keeper) => self = keeper,
                Err(error) => {
                    tracing::error!(%error, "the authority is no longer kept");
                    return;
                }
            }
        }
    }

    fn look(&mut self, now: SystemTime) {
        let shared = &self.authority.shared;
        let _files;
        let found = match &shared.source {
            Source::Memory => return,
            Source::Directory(directory) => {
                // Held to the end: what a rotation publishes meanwhile must not be undone.
                _files = shared.rotating.files();
                if !shared.ca.borrow().is_due(now) {
                    return;
                }
                let rotation = shared.rotating.rotation().clone();
                directory.ca(rotation.as_deref(), &shared.trust_domain, now)
            }
            // Nothing rotates here, and only this task takes them: nobody has to wait while they are read.
            Source::Files(files) => match files.read() {
                Ok(bytes) if self.in_use.as_ref() == Some(&bytes) => {
                    if self.authority.trouble().take().is_some() {
                        tracing::info!("the authority's files hold again what is in use");
                    }
                    return;
                }
                Ok(bytes) => files.ca(&bytes, now).inspect(|_| self.in_use = Some(bytes)),
                Err(error) => Err(error),
            },
        };
        let mut trouble = self.authority.trouble();
        match found {
            Ok(ca) => {
                *trouble = None;
                tracing::info!(
                    not_after = rfc3339(ca.not_after()),
                    "the authority signs with another intermediate"
                );
                self.authority.sign_with(ca);
            }
            Err(error) => {
                let said = error.to_string();
                // Said once, not at every look.
                if trouble.as_ref() != Some(&said) {
                    tracing::error!(%error, "the authority goes on with what it had");
                    *trouble = Some(said);
                }
            }
        }
    }
}

fn certificate_status(certificate: &CertificateDer<'_>, now: SystemTime) -> CertificateStatus {
    let (from, until) = ca::times(certificate).unwrap_or((now, now));
    CertificateStatus {
        subject: ca::subject(certificate),
        sha256: hex(&sha256(certificate)),
        not_before: rfc3339(from),
        not_after: rfc3339(until),
        days_left: seconds_left(until, now).div_euclid(24 * 60 * 60),
        pem: to_pem(certificate),
    }
}

fn seconds_left(until: SystemTime, now: SystemTime) -> i64 {
    let signed = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
    match until.duration_since(now) {
        Ok(left) => signed(left.as_secs()),
        Err(past) => -signed(past.duration().as_secs()),
    }
}

/// A time that somebody asked for.
fn time(field: &'static str, held: &str, max: Duration) -> Result<Duration, Refused> {
    let read = weir_api::duration::parse(held).ok();
    read.filter(|time| (TTL_MIN..=max).contains(time))
        .ok_or_else(|| Refused::Request {
            field,
            held: held.chars().take(64).collect(),
            right: format!(
                "a time from {} to {} is right, as 1h30m",
                weir_api::duration::format(TTL_MIN),
                weir_api::duration::format(max)
            ),
        })
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Refused> {
    let wrong = |held: String, right: &str| Refused::Request {
        field: "labels",
        held,
        right: right.to_owned(),
    };
    if labels.len() > LABELS_MAX {
        return Err(wrong(labels.len().to_string(), "at most 16 of them are right"));
    }
    for (name, value) in labels {
        if !weir_api::names::is_label_key(name) || !weir_api::names::is_label_value(value) {
            let held = format!("{name}={value}").chars().take(128).collect();
            return Err(wrong(held, "NAME=VALUE as Kubernetes has labels is right"));
        }
    }
    Ok(())
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// How long certificates may be good for: nobody can take one back.
pub const CERT_TTL: RangeInclusive<Duration> = TTL_MIN..=Duration::from_secs(30 * 24 * 60 * 60);
/// The shortest that a certificate or a token may be good for.
const TTL_MIN: Duration = Duration::from_secs(60);
/// Certificates that are made at once: each is a moment's work, on two cores.
const SIGNING_MAX: usize = 8;
/// Every certificate carries them to every peer.
const LABELS_MAX: usize = 16;
/// The control plane's name for clients that know no other than DNS names, as gRPC's.
const OWN_DNS_NAME: &str = "weir-control.weir-system.svc";
/// How far ahead it is written until when certificates are good, at least.
const WRITTEN_AHEAD_MIN: Duration = Duration::from_secs(2);
/// From when on it is said that something ends.
const ENDS_SOON_DAYS: i64 = 30;
const WARNED_EVERY: Duration = Duration::from_secs(24 * 60 * 60);
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
const DIRECTORY: &str = "authority";

#[cfg(test)]
mod tests;
