//! The rotation that is under way, and the one task that carries it out: what was asked for is on disk before it is
//! done, so that a process that is killed anywhere goes on where it was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;
use tokio::sync::Notify;
use tokio::time::Instant;
use weir_api::identity::{ProxyBehind, RotationStatus};
use weir_api::{Kind, Spec};
use weir_policy::names::WorkloadName;
use weir_policy::roots::{Proof, RootId};

use super::ca::rfc3339;
use super::files::AuthorityError;
use super::rotation::{Below, Facts, Next, Proxy, Roots, Rotation, Start, Step, Waiting, Why, solve};
use super::shown::{Full, Shown};
use super::{Authority, Shared, Source, unix_seconds, x509};
use crate::compile::index::name_of;
use crate::drain::Drain;
use crate::refusals::{Refusals, Untold};
use crate::store::Store;
use crate::xds::Xds;

/// What is known of the rotation that is under way, and of who is behind.
#[derive(Debug)]
pub(super) struct Rotating {
    /// Held while the authority's files are written: one who changes them at a time. Only by threads that may block.
    files: Mutex<()>,
    /// Never held over work with files: who serves others asks for it.
    rotation: Mutex<Option<Arc<Rotation>>>,
    shown: Mutex<Shown>,
    /// Proofs that there was no place for.
    too_many: Refusals,
    behind: Mutex<Behind>,
    wake: Notify,
}

/// Who is waited for.
#[derive(Debug, Default)]
struct Behind {
    waiting: Waiting,
    /// Since when, of each.
    since: BTreeMap<WorkloadName, (Why, SystemTime)>,
}

/// Why a rotation is not begun, or not aborted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RotationError {
    #[error(
        "the authority signs with an operator's files, so that its root is changed by these: 1. put the new root beside the \
         old one into --ca-roots, and wait until `weirctl ca status` names no proxy that is behind; 2. replace --ca-cert \
         and --ca-key by an intermediate below the new root, and wait for as long as certificates are good; 3. take the \
         old root out of --ca-roots"
    )]
    OperatorsRoot,
    #[error(
        "the authority signs with an operator's files: replace those of --ca-cert and --ca-key, which are taken anew"
    )]
    OperatorsIntermediate,
    #[error("the authority is in memory, and ends with the process; start weir-control with --data-dir")]
    Memory,
    #[error("a rotation is under way, at the step {0}; `weirctl ca status` says what it waits for")]
    UnderWay(Step),
    #[error("no rotation is under way")]
    NotUnderWay,
    #[error(
        "the rotation is at the step {0}: certificates are below the new root already, and going back would shut their \
         holders out; let it end, and rotate once more"
    )]
    TooLate(Step),
    #[error("{0}")]
    Files(#[from] AuthorityError),
}

impl Rotating {
    pub(super) fn new(rotation: Option<Rotation>) -> Rotating {
        Rotating {
            files: Mutex::default(),
            rotation: Mutex::new(rotation.map(Arc::new)),
            shown: Mutex::default(),
            too_many: Refusals::default(),
            behind: Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// To change the authority's files, and what is kept of them here. Blocks for as long as the disk takes.
    pub(super) fn files(&self) -> MutexGuard<'_, ()> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rotation that is under way; held only while what signs, or the rotation, is taken or replaced, so that both
    /// are of one moment.
    pub(super) fn rotation(&self) -> MutexGuard<'_, Option<Arc<Rotation>>> {
        self.rotation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn under_way(&self) -> Option<Arc<Rotation>> {
        self.rotation().clone()
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn behind(&self) -> MutexGuard<'_, Behind> {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Authority {
    /// Begins a rotation of the root; of one that is under way only says for whom it does not wait. Blocks on the disk.
    ///
    /// # Errors
    /// When there can be none, or it is under way already.
    pub(crate) fn rotate(&self, despite: BTreeSet<String>) -> Result<(), RotationError> {
        let Source::Directory(directory) = &self.shared.source else {
            return Err(self.no_rotation(RotationError::OperatorsRoot));
        };
        let now = SystemTime::now();
        let rotating = &self.shared.rotating;
        let _files = rotating.files();
        match rotating.under_way() {
            Some(under_way) if despite.is_empty() => return Err(RotationError::UnderWay(under_way.step)),
            Some(under_way) => {
                let mut rotation = Rotation::clone(&under_way);
                tracing::warn!(?despite, "the rotation of the root does not wait for these proxies");
                rotation.despite.extend(despite);
                directory.keep(&rotation)?;
                *rotating.rotation() = Some(Arc::new(rotation));
            }
            None => {
                let (rotation, ca) = directory.begin(despite, &self.shared.trust_domain, now)?;
                tracing::info!(step = %rotation.step, "the rotation of the root begins");
                self.publish(ca, Some(rotation));
            }
        }
        rotating.wake.notify_one();
        Ok(())
    }

    /// Goes back to the old root, as long as nobody has a certificate below the new one. Blocks on the disk.
    ///
    /// # Errors
    /// When no rotation is under way, or it is too late.
    pub(crate) fn abort_rotation(&self) -> Result<(), RotationError> {
        let Source::Directory(directory) = &self.shared.source else {
            return Err(self.no_rotation(RotationError::OperatorsRoot));
        };
        let rotating = &self.shared.rotating;
        let _files = rotating.files();
        match rotating.under_way().map(|rotation| rotation.step) {
            None => return Err(RotationError::NotUnderWay),
            Some(Step::Trust) => {}
            Some(step @ (Step::Sign | Step::Forget)) => return Err(RotationError::TooLate(step)),
        }
        // What may fail comes before what is written: what is said to have failed has not happened.
        let ca = directory.ca(None, &self.shared.trust_domain, SystemTime::now())?;
        directory.abort()?;
        self.publish(ca, None);
        rotating.shown().clear();
        tracing::info!("the rotation of the root is aborted");
        rotating.wake.notify_one();
        Ok(())
    }

    /// Signs with a new intermediate below the same root from now on. Blocks on the disk.
    ///
    /// # Errors
    /// When the intermediate is an operator's, or the root is rotated, which brings another.
    pub(crate) fn renew_intermediate(&self) -> Result<(), RotationError> {
        let Source::Directory(directory) = &self.shared.source else {
            return Err(self.no_rotation(RotationError::OperatorsIntermediate));
        };
        let now = SystemTime::now();
        let _files = self.shared.rotating.files();
        if let Some(rotation) = self.shared.rotating.under_way() {
            return Err(RotationError::UnderWay(rotation.step));
        }
        directory.renew_intermediate(&self.shared.trust_domain, now)?;
        self.publish(directory.ca(None, &self.shared.trust_domain, now)?, None);
        tracing::info!("the authority signs with another intermediate, as it was asked for");
        Ok(())
    }

    fn no_rotation(&self, operators: RotationError) -> RotationError {
        match &self.shared.source {
            Source::Files(_) => operators,
            Source::Memory | Source::Directory(_) => RotationError::Memory,
        }
    }

    /// A proxy shook hands under a root, with this chain of its own. Of any but the one that a rotation leads to it
    /// says nothing.
    pub(crate) fn showed(&self, proof: &Proof, chain: &[CertificateDer<'_>]) {
        let rotating = &self.shared.rotating;
        let new = rotating.under_way().and_then(|rotation| rotation.new_root().ok());
        let Some(new) = new.filter(|root| RootId::of(x509::sha256(root)) == proof.root) else {
            return;
        };
        let certificate = match leads_to(chain, &new) {
            true => Below::New,
            false => Below::Old,
        };
        match rotating.shown().put(&proof.workload, proof.root, certificate) {
            Ok(()) => rotating.wake.notify_one(),
            Err(Full) => {
                if let Some(Untold(untold)) = rotating.too_many.count(std::time::Instant::now()) {
                    tracing::warn!(
                        workload = %proof.workload,
                        untold,
                        "a proxy trusts the new root, and is one too many to be remembered: the rotation waits for it"
                    );
                }
            }
        }
    }

    /// How a rotation stands.
    pub(super) fn rotation_status(&self, rotation: &Rotation, now: SystemTime) -> RotationStatus {
        let time = |seconds: u64| rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let until = self.shared.rotating.behind().waiting.until;
        RotationStatus {
            step: rotation.step.to_string(),
            began: time(rotation.began),
            since: time(rotation.since),
            waits_until: until.filter(|until| *until >= now).map(rfc3339).unwrap_or_default(),
            can_abort: rotation.step == Step::Trust,
            despite: rotation.despite.iter().cloned().collect(),
        }
    }

    /// Proxies that are waited for, each with why.
    pub(super) fn behind(&self) -> Vec<ProxyBehind> {
        let behind = self.shared.rotating.behind();
        let all = behind.since.iter();
        all.map(|(workload, (why, since))| ProxyBehind {
            workload: workload.to_string(),
            why: why.to_string(),
            since: rfc3339(*since),
            remedy: why.remedy().to_owned(),
        })
        .collect()
    }

    /// The step of the rotation that is under way, and how many proxies are waited for.
    pub(crate) fn rotation_progress(&self) -> (Option<Step>, usize) {
        let step = self.shared.rotating.under_way().map(|rotation| rotation.step);
        (step, self.shared.rotating.behind().since.len())
    }

    /// Carries rotations out, until drained.
    pub(crate) async fn turn(self, xds: Xds, store: Store, mut drain: Drain) {
        let began = Instant::now();
        loop {
            // Cancel safe: a wake-up that was not taken stays.
            tokio::select! {
                () = drain.begun() => return,
                () = self.shared.rotating.wake.notified() => {}
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
            let start = match began.elapsed() < BACK_WITHIN && !self.is_new() {
                true => Start::Recent,
                false => Start::Over,
            };
            let Some(facts) = self.facts(&xds, &store, start).await else {
                continue;
            };
            let authority = self.clone();
            // It writes files: not on a thread that serves others.
            let turned = tokio::task::spawn_blocking(move || authority.advance(&facts)).await;
            match turned {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "the rotation of the root can't go on; trying again"),
                Err(error) => {
                    tracing::error!(%error, "rotations are no longer carried out");
                    return;
                }
            }
        }
    }

    /// Whether nobody can have been connected to a process before this one.
    fn is_new(&self) -> bool {
        match &self.shared.source {
            Source::Directory(directory) => directory.is_new(),
            Source::Memory => true,
            Source::Files(_) => false,
        }
    }

    /// `None`: the mesh is not up to date with what is published, or shut down.
    async fn facts(&self, xds: &Xds, store: &Store, start: Start) -> Option<Facts> {
        let published = self.shared.roots.borrow().clone();
        let view = xds.roots().await.ok()?;
        if view.roots != published {
            return None;
        }
        let new = self.shared.rotating.under_way().map(|rotation| rotation.new_root());
        let new = new.and_then(Result::ok).map(|root| RootId::of(x509::sha256(&root)));
        let mut shown = self.shared.rotating.shown();
        shown.connected(&view.proxies.iter().map(|(workload, ..)| workload).collect());
        let proxies: Vec<Proxy> = view
            .proxies
            .into_iter()
            .map(|(workload, kind, roots)| Proxy {
                shown: new.and_then(|new| shown.of(&workload, new)),
                workload,
                kind,
                roots,
            })
            .collect();
        drop(shown);
        let awaited = match start {
            Start::Recent => missing(store, &proxies),
            Start::Over => Vec::new(),
        };
        let now = SystemTime::now();
        Some(Facts {
            now,
            roots: published,
            proxies,
            awaited,
            start,
        })
    }

    pub(super) fn advance(&self, facts: &Facts) -> Result<(), AuthorityError> {
        let Shared {
            trust_domain,
            rotating,
            source,
            ..
        } = &*self.shared;
        let _files = rotating.files();
        // A rotation was begun or aborted while it was asked or waited here: who was not behind then may be now.
        if *self.shared.roots.borrow() != facts.roots {
            return Ok(());
        }
        let (Source::Directory(directory), Some(rotation)) = (source, rotating.under_way()) else {
            let behind = facts.proxies.iter().filter_map(|proxy| {
                let why = match &proxy.roots {
                    Roots::Pending => Why::Outdated,
                    Roots::Rejected(reason) => Why::Rejected(reason.clone()),
                    Roots::InForce | Roots::NotAsked => return None,
                };
                Some((proxy.workload.clone(), why))
            });
            let behind = behind.collect();
            self.wait(Waiting { behind, until: None }, facts.now);
            return Ok(());
        };
        match solve(&rotation, facts) {
            Next::Wait(waiting) => self.wait(waiting, facts.now),
            Next::Go(step) => {
                let mut next = match step {
                    Step::Sign => directory.at_sign(&rotation, trust_domain, facts.now)?,
                    Step::Trust | Step::Forget => rotation.at(step, facts.now),
                };
                // Held until the other signs: whatever is given before is below the old one, and counted.
                let mut given = self.given();
                if step == Step::Sign {
                    next.old_given_until = Some(unix_seconds(given.until) + 1);
                }
                let ca = directory.ca(Some(&next), trust_domain, facts.now)?;
                directory.keep(&next)?;
                if step == Step::Sign
                    && let Some(root) = ca.root()
                {
                    (given.until, given.written) = (facts.now, facts.now);
                    // Without it the longest time would be assumed after a restart.
                    if let Err(error) = directory.set_given_until(root, facts.now) {
                        tracing::error!(%error, "can't write down until when certificates are good");
                    }
                }
                self.publish(ca, Some(next));
                tracing::info!(%step, "the rotation of the root goes on");
                rotating.behind().since.clear();
                rotating.wake.notify_one();
            }
            Next::Finish => {
                directory.finish(&rotation, facts.now)?;
                self.publish(directory.ca(None, trust_domain, facts.now)?, None);
                rotating.shown().clear();
                self.wait(Waiting::default(), facts.now);
                tracing::info!("the rotation of the root is done: the key of the old one is gone");
            }
        }
        Ok(())
    }

    fn wait(&self, waiting: Waiting, now: SystemTime) {
        let mut behind = self.shared.rotating.behind();
        let mut since = BTreeMap::new();
        for (workload, why) in &waiting.behind {
            let before = behind.since.get(workload).filter(|(before, _)| before == why);
            let from = before.map_or(now, |(_, since)| *since);
            since.insert(workload.clone(), (why.clone(), from));
        }
        *behind = Behind { waiting, since };
    }
}

/// Workloads by TLS that the store has from before, and that have no stream.
fn missing(store: &Store, here: &[Proxy]) -> Vec<WorkloadName> {
    let here: BTreeSet<&WorkloadName> = here.iter().map(|proxy| &proxy.workload).collect();
    let all = store.list(Kind::Workload, None).0;
    let by_tls = all.iter().filter_map(|stored| match &stored.object.spec {
        Spec::Workload(spec) if !spec.account.is_empty() => name_of(&stored.object),
        _ => None,
    });
    by_tls.filter(|name| !here.contains(name)).collect()
}

/// Whether a chain leads to this root alone.
pub(super) fn leads_to(chain: &[CertificateDer<'_>], root: &CertificateDer<'static>) -> bool {
    let Some((leaf, between)) = chain.split_first() else {
        return false;
    };
    let Ok(leaf) = ParsedCertificate::try_from(leaf) else {
        return false;
    };
    let mut store = RootCertStore::empty();
    let algorithms = default_provider().signature_verification_algorithms.all;
    store.add(root.clone()).is_ok()
        && verify_server_cert_signed_by_trust_anchor(&leaf, &store, between, UnixTime::now(), algorithms).is_ok()
}

/// How long proxies have to come back after a start: their longest wait between two attempts, twice.
const BACK_WITHIN: Duration = Duration::from_secs(20);
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
