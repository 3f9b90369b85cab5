//! The change from one root to the next, step by step: what is kept of it, and what comes next. No files, no clock, no
//! network: what is known is passed in, and one task carries out what is said here.
//!
//! **Trust**: both roots are published, the old one signs. **Sign**: the new one signs, both are trusted. **Forget**:
//! only the new one is trusted; then the key of the old one is removed.
//!
//! **Invariant:** nobody has a certificate that somebody else does not believe yet, or no longer. Before the new root
//! signs each connected proxy has shown that it trusts it; before the old one is forgotten no certificate below it is
//! good any more. For who is not connected, what the new root signs is also below the old one, by a certificate of it.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use weir_policy::names::WorkloadName;
use weir_policy::spiffe::TrustDomain;

use super::ca::{self, Ca, CaProblem, Pair};
use super::{files, unix_seconds, x509};

/// How far a rotation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Step {
    /// The new root is made trusted.
    Trust,
    /// The new root signs.
    Sign,
    /// The old root is no longer trusted.
    Forget,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Trust => "Trust",
            Step::Sign => "Sign",
            Step::Forget => "Forget",
        })
    }
}

/// A rotation that is under way, as it is kept on disk. It holds keys.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Rotation {
    /// How far it is.
    pub(crate) step: Step,
    /// When it began, seconds of Unix time.
    pub(crate) began: u64,
    /// When its step began, seconds of Unix time.
    pub(crate) since: u64,
    /// Until when certificates below the old root are good, seconds of Unix time; known from the step Sign on.
    pub(crate) old_given_until: Option<u64>,
    /// Proxies that are not waited for.
    #[serde(default)]
    pub(crate) despite: BTreeSet<String>,
    /// The old root, PEM, without its key.
    old_root: String,
    /// The new root and its key, PEM.
    pub(super) root: String,
    /// The intermediate below it and its key, PEM.
    pub(super) intermediate: String,
    /// The new root, signed by the old one, PEM; made anew for the step Sign.
    cross: String,
}

/// Without the keys.
impl fmt::Debug for Rotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rotation")
            .field("step", &self.step)
            .finish_non_exhaustive()
    }
}

impl Rotation {
    /// A new root and an intermediate below it, to follow `old`.
    pub(super) fn begin(old: &Pair, trust_domain: &TrustDomain, now: SystemTime) -> Result<Rotation, CaProblem> {
        let root = Pair::root(trust_domain, now)?;
        let intermediate = root.intermediate(trust_domain, now)?;
        let cross = old.cross(&root, trust_domain, CROSS_TTL, now)?;
        Ok(Rotation {
            step: Step::Trust,
            began: unix_seconds(now),
            since: unix_seconds(now),
            old_given_until: None,
            despite: BTreeSet::new(),
            old_root: x509::to_pem(&old.certificate),
            root: root.to_pem(),
            intermediate: intermediate.to_pem(),
            cross: x509::to_pem(&cross),
        })
    }

    /// With what the old root says of the new one said anew: it is good from when it is needed, however long ago the
    /// rotation began.
    pub(super) fn crossed_by(
        self,
        old: &Pair,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Rotation, CaProblem> {
        let (_, new) = self.new_pair()?;
        let cross = x509::to_pem(&old.cross(&new, trust_domain, CROSS_TTL, now)?);
        Ok(Rotation { cross, ..self })
    }

    /// Goes on to another step.
    pub(super) fn at(&self, step: Step, now: SystemTime) -> Rotation {
        Rotation {
            step,
            since: unix_seconds(now),
            ..self.clone()
        }
    }

    /// What signs at the step Trust: what did before, with both roots.
    pub(super) fn before(&self, intermediate: Pair, root: &Pair, now: SystemTime) -> Result<Ca, CaProblem> {
        let Pair { certificate, key } = intermediate;
        let (_, new) = self.new_pair()?;
        let roots = vec![root.certificate.clone(), new.certificate];
        Ok(Ca::new(vec![certificate], key, roots, now)?.followed(self.after(now)?))
    }

    /// What signs at the step Sign: the new intermediate, with both roots, also for those who trust the old one alone.
    pub(super) fn signing(&self, now: SystemTime) -> Result<Ca, CaProblem> {
        let (Pair { certificate, key }, root) = self.new_pair()?;
        let roots = vec![root.certificate, one(&self.old_root)?];
        Ok(Ca::new(vec![certificate], key, roots, now)?.crossed(one(&self.cross)?))
    }

    /// What signs from the step Forget on.
    pub(super) fn after(&self, now: SystemTime) -> Result<Ca, CaProblem> {
        let (intermediate, root) = self.new_pair()?;
        files::assemble(intermediate, &root, now)
    }

    /// What leads from the old root to the new one.
    pub(super) fn bridges(&self) -> Result<Vec<CertificateDer<'static>>, CaProblem> {
        Ok(vec![one(&self.cross)?, one(&self.old_root)?])
    }

    /// Whether the root that is to go is good no longer.
    pub(super) fn old_root_has_ended(&self, now: SystemTime) -> Result<bool, CaProblem> {
        match ca::validity(&one(&self.old_root)?, now) {
            Ok(_) => Ok(false),
            Err(CaProblem::Ended { .. }) => Ok(true),
            Err(problem) => Err(problem),
        }
    }

    /// The root that is to stay.
    pub(super) fn new_root(&self) -> Result<CertificateDer<'static>, CaProblem> {
        one(&self.root)
    }

    fn new_pair(&self) -> Result<(Pair, Pair), CaProblem> {
        let root = Pair::from_pem(self.root.as_bytes())?;
        Ok((Pair::from_pem(self.intermediate.as_bytes())?, root))
    }
}

fn one(pem: &str) -> Result<CertificateDer<'static>, CaProblem> {
    let all = ca::certificates(pem.as_bytes())?;
    all.into_iter().next().ok_or(CaProblem::NoCertificate)
}

/// What is known when it is asked what comes next.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// The time.
    pub(crate) now: SystemTime,
    /// The roots that were published when it was asked: of others it says nothing.
    pub(crate) roots: Vec<CertificateDer<'static>>,
    /// Each proxy that is connected by TLS.
    pub(crate) proxies: Vec<Proxy>,
    /// Those that were connected before this process began, and have not come back.
    pub(crate) awaited: Vec<WorkloadName>,
    /// Whether others may still come back, of whom nothing is known.
    pub(crate) start: Start,
}

/// How long this process has been here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Who was connected to the one before may not be back yet.
    Recent,
    /// All are back who come.
    Over,
}

/// A proxy that is connected.
#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    /// Whose.
    pub(crate) workload: WorkloadName,
    /// What it is.
    pub(crate) kind: ProxyKind,
    /// How it stands with the roots that are published now.
    pub(crate) roots: Roots,
    /// What it showed of the new root; `None`: nothing.
    pub(crate) shown: Option<Below>,
}

/// What a proxy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProxyKind {
    /// It shows that it trusts a root before it acknowledges it.
    Weir,
    /// It can't show it.
    Other,
}

/// How a proxy stands with the roots that are published now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Roots {
    /// It trusts them.
    InForce,
    /// It has not said so yet.
    Pending,
    /// It rejected them, for this reason.
    Rejected(String),
    /// It never asked for them.
    NotAsked,
}

/// Of which root a certificate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Below {
    /// The old one.
    Old,
    /// The new one.
    New,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Next {
    /// Nothing yet.
    Wait(Waiting),
    /// This step.
    Go(Step),
    /// The end.
    Finish,
}

/// What is waited for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Waiting {
    /// Proxies, with why.
    pub(crate) behind: Vec<(WorkloadName, Why)>,
    /// The end of certificates below the old root that were given.
    pub(crate) until: Option<SystemTime>,
}

/// Why a proxy is waited for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Why {
    /// It was here before the control plane began anew.
    #[error("it has not come back since weir-control began")]
    NotBack,
    /// It never asked for roots.
    #[error("it does not take roots from the control plane")]
    NotAsked,
    /// It says nothing.
    #[error("it has not acknowledged the roots")]
    Pending,
    /// The same, where no rotation is under way.
    #[error("it has not acknowledged the roots as they are now")]
    Outdated,
    /// It says no.
    #[error("it rejected the roots: {0}")]
    Rejected(String),
    /// It acknowledged and did not show it.
    #[error("it has not shown by a handshake that it trusts the new root")]
    NotShown,
    /// It was not renewed.
    #[error("its certificate is below the old root")]
    OldCertificate,
}

impl Why {
    /// What to do about it.
    pub(crate) fn remedy(&self) -> &'static str {
        match self {
            Why::NotBack => "wait: it is waited for 20 seconds after a start",
            Why::NotAsked => {
                "give it the new root by hand (`weirctl ca status -o json` has it), and say so by \
                 `weirctl ca rotate --despite NAMESPACE/WORKLOAD`; or end it"
            }
            Why::Pending | Why::NotShown => {
                "look at its log and at `weirctl proxy config`; start it anew, or end it, or go on without it by \
                 `weirctl ca rotate --despite NAMESPACE/WORKLOAD`"
            }
            Why::Outdated => "look at its log and at `weirctl proxy config`; start it anew, or end it",
            Why::Rejected(_) => "bring it to the version of weir-control",
            Why::OldCertificate => "wait for its renewal; its log and /ready say what keeps it",
        }
    }
}

/// What comes next in a rotation, by what is known. The same facts give the same answer, however often they are asked.
pub(crate) fn solve(rotation: &Rotation, facts: &Facts) -> Next {
    let counted = facts
        .proxies
        .iter()
        .filter(|proxy| !rotation.despite.contains(&proxy.workload.to_string()));
    let behind = counted.filter_map(|proxy| Some((proxy.workload.clone(), why(rotation.step, proxy)?)));
    let awaited = facts.awaited.iter().map(|workload| (workload.clone(), Why::NotBack));
    let mut behind: Vec<(WorkloadName, Why)> = behind.chain(awaited).collect();
    behind.sort_by(|(a, _), (b, _)| a.cmp(b));
    let until = rotation.old_given_until.filter(|_| rotation.step == Step::Sign);
    let until = until.map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    let until = until.filter(|until| facts.now <= *until);
    // One that may still come back, and is no workload, as an Envoy, is not to find a root that it was not told of.
    let others = rotation.step == Step::Trust && facts.start == Start::Recent;
    if !behind.is_empty() || until.is_some() || others {
        return Next::Wait(Waiting { behind, until });
    }
    match rotation.step {
        Step::Trust => Next::Go(Step::Sign),
        Step::Sign => Next::Go(Step::Forget),
        Step::Forget => Next::Finish,
    }
}

/// Why the step can't end with this proxy as it is.
fn why(step: Step, proxy: &Proxy) -> Option<Why> {
    let taken = match &proxy.roots {
        Roots::InForce => None,
        Roots::Pending => Some(Why::Pending),
        Roots::Rejected(reason) => Some(Why::Rejected(reason.clone())),
        Roots::NotAsked => Some(Why::NotAsked),
    };
    match (step, proxy.kind) {
        (Step::Trust, ProxyKind::Weir) => taken.or_else(|| proxy.shown.is_none().then_some(Why::NotShown)),
        (Step::Trust, ProxyKind::Other) => taken,
        // Its certificate is not seen; none below the old root is good when the step ends.
        (Step::Sign, ProxyKind::Other) => None,
        (Step::Sign, ProxyKind::Weir) => (proxy.shown != Some(Below::New)).then_some(Why::OldCertificate),
        // One that never asked has the new root by other ways, or is not waited for; that it has the old one as well
        // stops nobody.
        (Step::Forget, ProxyKind::Weir | ProxyKind::Other) => taken.filter(|why| *why != Why::NotAsked),
    }
}

/// How long what the old root says of the new one is good: as long as a join token may be, with room.
const CROSS_TTL: Duration = Duration::from_secs(60 * 24 * 60 * 60);

#[cfg(test)]
mod tests;
