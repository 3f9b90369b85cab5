//! Where the authority's keys are on disk: a directory of its own, or files of an operator's.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use weir_policy::roots::RootId;
use weir_policy::spiffe::TrustDomain;

use super::ca::{self, Ca, CaProblem, Pair};
use super::rotation::{Rotation, Step};
use super::tokens::TokenKey;
use super::{unix_seconds, x509};

/// An operator's own intermediate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaFiles {
    /// The intermediate, and whatever is between it and a root, PEM.
    pub cert: PathBuf,
    /// Its private key, PEM; mode 0600, or 0640 where root owns it.
    pub key: PathBuf,
    /// The roots that workloads trust, PEM.
    pub roots: PathBuf,
}

/// Why the authority's files can't be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file can't be read or made.
    #[error("{}: {source}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What a file holds can't be used.
    #[error("{} {problem}", .path.display())]
    Wrong {
        /// Which.
        path: PathBuf,
        /// What is wrong with it, and what would be right; a sentence that begins with the file.
        problem: String,
    },
}

impl AuthorityError {
    fn wrong(path: &Path, problem: impl ToString) -> AuthorityError {
        AuthorityError::Wrong {
            path: path.to_owned(),
            problem: problem.to_string(),
        }
    }
}

/// The authority's own directory, which is this process's alone.
#[derive(Clone, Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// Whether there was no authority in it.
    is_new: bool,
}

impl Directory {
    /// Takes the directory, making it if it is missing.
    pub(super) fn open(path: PathBuf) -> Result<Directory, AuthorityError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(at(&path))?;
        only_ours(&path, "700")?;
        let is_new = !path.join(ROOT).exists();
        Ok(Directory { path, is_new })
    }

    /// What signs now, by root, intermediate and the rotation that is under way.
    pub(super) fn ca(
        &self,
        rotation: Option<&Rotation>,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Ca, AuthorityError> {
        let ca = match rotation {
            None => self.settled(trust_domain, now)?,
            Some(rotation) => {
                let wrong = |problem| AuthorityError::wrong(&self.file(ROTATION), problem);
                match rotation.step {
                    Step::Trust => {
                        let (root, intermediate) = self.pairs(trust_domain, now)?;
                        rotation.before(intermediate, &root, now).map_err(wrong)?
                    }
                    Step::Sign => rotation.signing(now).map_err(wrong)?,
                    Step::Forget => rotation.after(now).map_err(wrong)?,
                }
            }
        };
        let mut bridges = match rotation.filter(|rotation| rotation.step == Step::Forget) {
            Some(rotation) => rotation
                .bridges()
                .map_err(|problem| AuthorityError::wrong(&self.file(ROTATION), problem))?,
            None => Vec::new(),
        };
        bridges.extend(self.bridges(now)?);
        Ok(ca.bridged(bridges))
    }

    fn settled(&self, trust_domain: &TrustDomain, now: SystemTime) -> Result<Ca, AuthorityError> {
        let (root, intermediate) = self.pairs(trust_domain, now)?;
        assemble(intermediate, &root, now).map_err(|problem| AuthorityError::wrong(&self.file(INTERMEDIATE), problem))
    }

    /// Root and intermediate, made where both are missing. An intermediate that is missing or due for renewal is made
    /// of the root, which is what a start that was cut off leaves; a root can't be made of anything.
    fn pairs(&self, trust_domain: &TrustDomain, now: SystemTime) -> Result<(Pair, Pair), AuthorityError> {
        let (root_path, path) = (self.file(ROOT), self.file(INTERMEDIATE));
        let root = match read_if_there(&root_path)? {
            Some(pem) => Pair::from_pem(&pem).map_err(|problem| AuthorityError::wrong(&root_path, problem))?,
            None if path.exists() => {
                let problem = format!(
                    "is missing beside {INTERMEDIATE}: restore it from a copy, or remove {INTERMEDIATE} as well for a new \
                     authority, under which every proxy has to join anew"
                );
                return Err(AuthorityError::wrong(&root_path, problem));
            }
            None => {
                let root =
                    Pair::root(trust_domain, now).map_err(|problem| AuthorityError::wrong(&root_path, problem))?;
                self.write(ROOT, root.to_pem().as_bytes())?;
                tracing::info!(file = %root_path.display(), "made a root certificate");
                root
            }
        };
        let wrong = |problem| AuthorityError::wrong(&path, problem);
        if let Some(pem) = read_if_there(&path)? {
            let held = Pair::from_pem(&pem).map_err(wrong)?;
            match assemble(held, &root, now) {
                Ok(ca) if !ca.is_due(now) => {
                    let held = Pair::from_pem(&pem).map_err(wrong)?;
                    return Ok((root, held));
                }
                // Ours to renew.
                Ok(_) | Err(CaProblem::Ended { .. }) => {}
                Err(problem) => return Err(wrong(problem)),
            }
        }
        let new = self.renew(&root, trust_domain, now)?;
        Ok((root, new))
    }

    fn renew(&self, root: &Pair, trust_domain: &TrustDomain, now: SystemTime) -> Result<Pair, AuthorityError> {
        let path = self.file(INTERMEDIATE);
        let new = root
            .intermediate(trust_domain, now)
            .map_err(|problem| AuthorityError::wrong(&self.file(ROOT), problem))?;
        self.write(INTERMEDIATE, new.to_pem().as_bytes())?;
        tracing::info!(file = %path.display(), "made an intermediate certificate");
        Ok(new)
    }

    /// Makes the next intermediate before its time.
    pub(super) fn renew_intermediate(&self, trust_domain: &TrustDomain, now: SystemTime) -> Result<(), AuthorityError> {
        let (root, _) = self.pairs(trust_domain, now)?;
        self.renew(&root, trust_domain, now).map(drop)
    }

    /// The rotation that is under way.
    pub(super) fn rotation(&self) -> Result<Option<Rotation>, AuthorityError> {
        let path = self.file(ROTATION);
        let Some(bytes) = read_if_there(&path)? else {
            return Ok(None);
        };
        let read = serde_json::from_slice(&bytes);
        let problem = "is damaged: restore it from a copy; or, if `weirctl ca status` said that it is at the step Trust, \
                       remove it, and the root of before stays";
        read.map(Some).map_err(|_| AuthorityError::wrong(&path, problem))
    }

    /// Begins a rotation that doesn't wait for `despite`: a new root, its intermediate, and what the root of now says
    /// of it. Also what signs then. After an error none has begun.
    pub(super) fn begin(
        &self,
        despite: BTreeSet<String>,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<(Rotation, Ca), AuthorityError> {
        let (root, _) = self.pairs(trust_domain, now)?;
        let mut rotation = Rotation::begin(&root, trust_domain, now)
            .map_err(|problem| AuthorityError::wrong(&self.file(ROOT), problem))?;
        rotation.despite = despite;
        let kept = self.keep(&rotation);
        match kept.and_then(|()| self.ca(Some(&rotation), trust_domain, now)) {
            Ok(ca) => Ok((rotation, ca)),
            Err(error) => {
                // Or the next start would go on with what was said to have failed.
                if let Err(left) = self.abort() {
                    tracing::error!(error = %left, "a rotation that failed to begin is left: remove this file");
                }
                Err(error)
            }
        }
    }

    /// A rotation at the step Sign, as it is to be kept: below the old root for a time that begins now. One whose old
    /// root has ended goes on without: nobody believes that any more.
    pub(super) fn at_sign(
        &self,
        rotation: &Rotation,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Rotation, AuthorityError> {
        let wrong = |problem| AuthorityError::wrong(&self.file(ROTATION), problem);
        if rotation.old_root_has_ended(now).map_err(wrong)? {
            return Ok(rotation.at(Step::Sign, now));
        }
        let (old, _) = self.pairs(trust_domain, now)?;
        let next = rotation.at(Step::Sign, now).crossed_by(&old, trust_domain, now);
        next.map_err(wrong)
    }

    /// Writes how far a rotation is.
    pub(super) fn keep(&self, rotation: &Rotation) -> Result<(), AuthorityError> {
        let text = serde_json::to_vec_pretty(rotation).map_err(|error| at(&self.file(ROTATION))(error.into()))?;
        self.write(ROTATION, &text)
    }

    /// Ends a rotation as if it had not begun.
    pub(super) fn abort(&self) -> Result<(), AuthorityError> {
        self.remove(ROTATION)
    }

    /// Ends a rotation: the new root takes the place of the old one, whose key is gone then. Cut off anywhere, it can
    /// be done again.
    pub(super) fn finish(&self, rotation: &Rotation, now: SystemTime) -> Result<(), AuthorityError> {
        let wrong = |problem| AuthorityError::wrong(&self.file(ROTATION), problem);
        let mut bridges = rotation.bridges().map_err(wrong)?;
        for bridge in self.bridges(now)? {
            if !bridges.contains(&bridge) {
                bridges.push(bridge);
            }
        }
        let text: String = bridges.iter().map(x509::to_pem).collect();
        self.write(BRIDGES, text.as_bytes())?;
        self.write(INTERMEDIATE, rotation.intermediate.as_bytes())?;
        self.write(ROOT, rotation.root.as_bytes())?;
        self.remove(ROTATION)
    }

    /// What leads here from roots of the past, as long as it is good: a root of which nothing leads here any more is
    /// only one more certificate in each handshake.
    fn bridges(&self, now: SystemTime) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
        let path = self.file(BRIDGES);
        let Some(pem) = read_if_there(&path)? else {
            return Ok(Vec::new());
        };
        let held = ca::certificates(&pem).map_err(|problem| AuthorityError::wrong(&path, problem))?;
        let good = held.into_iter().filter(|one| ca::validity(one, now).is_ok());
        let named: Result<Vec<_>, CaProblem> = good.map(|one| Ok((ca::names(&one)?, one))).collect();
        let named = named.map_err(|problem| AuthorityError::wrong(&path, problem))?;
        let issuers: BTreeSet<Vec<u8>> = named
            .iter()
            .filter(|(names, _)| !names.is_own())
            .map(|(names, _)| names.issuer.clone())
            .collect();
        let leads = named
            .into_iter()
            .filter(|(names, _)| !names.is_own() || issuers.contains(&names.subject));
        Ok(leads.map(|(_, one)| one).collect())
    }

    /// Until when certificates are good that were given below this root; `None`: nobody wrote it down.
    pub(super) fn given_until(&self, root: RootId) -> Result<Option<SystemTime>, AuthorityError> {
        let path = self.file(GIVEN);
        let Some(bytes) = read_if_there(&path)? else {
            return Ok(None);
        };
        let given: Given = serde_json::from_slice(&bytes)
            .map_err(|_| AuthorityError::wrong(&path, "is damaged: remove it, and the longest time is assumed"))?;
        let until = SystemTime::UNIX_EPOCH + Duration::from_secs(given.until_unix_seconds);
        Ok((given.root == root.to_string()).then_some(until))
    }

    /// Writes that down.
    pub(super) fn set_given_until(&self, root: RootId, until: SystemTime) -> Result<(), AuthorityError> {
        let given = Given {
            root: root.to_string(),
            until_unix_seconds: unix_seconds(until),
        };
        let text = serde_json::to_vec(&given).map_err(|error| at(&self.file(GIVEN))(error.into()))?;
        self.write(GIVEN, &text)
    }

    fn remove(&self, name: &str) -> Result<(), AuthorityError> {
        let path = self.file(name);
        let removed = match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
        removed
            .and_then(|()| File::open(&self.path)?.sync_all())
            .map_err(at(&path))
    }

    /// The key that join tokens are signed with, made where it is missing.
    pub(super) fn token_key(&self) -> Result<TokenKey, AuthorityError> {
        let path = self.file(TOKEN_KEY);
        let wrong = |problem| AuthorityError::wrong(&path, problem);
        match read_if_there(&path)? {
            Some(pem) => ca::private_key(&pem).and_then(TokenKey::new).map_err(wrong),
            None => {
                let key = ca::new_key().map_err(wrong)?;
                self.write(TOKEN_KEY, key.serialize_pem().as_bytes())?;
                TokenKey::new(key).map_err(wrong)
            }
        }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there was no authority in it when it was opened: nobody has a certificate of it yet.
    pub(super) fn is_new(&self) -> bool {
        self.is_new
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Whole or not at all, also if the machine loses power.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), AuthorityError> {
        let (path, new) = (self.file(name), self.file(&format!("{name}.new")));
        let written = (|| {
            match fs::remove_file(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create_new(true).mode(0o600).open(&new)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.path)?.sync_all()
        })();
        written.map_err(at(&path))
    }
}

/// Until when certificates are good that were given, at least.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Given {
    /// Below which root.
    root: String,
    until_unix_seconds: u64,
}

/// An authority in memory.
pub(super) fn in_memory(trust_domain: &TrustDomain, now: SystemTime) -> Result<Ca, CaProblem> {
    let root = Pair::root(trust_domain, now)?;
    assemble(root.only_intermediate(trust_domain, now)?, &root, now)
}

pub(super) fn assemble(intermediate: Pair, root: &Pair, now: SystemTime) -> Result<Ca, CaProblem> {
    let Pair { certificate, key } = intermediate;
    Ca::new(vec![certificate], key, vec![root.certificate.clone()], now)
}

impl CaFiles {
    /// Reads all three.
    pub(super) fn read(&self) -> Result<CaBytes, AuthorityError> {
        let read = |path: &Path| fs::read(path).map_err(at(path));
        Ok(CaBytes {
            cert: read(&self.cert)?,
            key: self.read_key()?,
            roots: read(&self.roots)?,
        })
    }

    fn read_key(&self) -> Result<Vec<u8>, AuthorityError> {
        let path = &self.key;
        let mut file = File::open(path).map_err(at(path))?;
        let held = file.metadata().map_err(at(path))?;
        let mode = held.mode() & 0o777;
        if mode & forbidden(held.uid()) != 0 {
            let problem = format!(
                "has mode {mode:o}, so that others can reach the key: 600 is right, or 640 where root owns it; and ask \
                 who has read it"
            );
            return Err(AuthorityError::wrong(path, problem));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(at(path))?;
        Ok(bytes)
    }

    /// The authority that they hold.
    pub(super) fn ca(&self, bytes: &CaBytes, now: SystemTime) -> Result<Ca, AuthorityError> {
        let in_cert = |problem| AuthorityError::wrong(&self.cert, problem);
        let in_key = |problem| AuthorityError::wrong(&self.key, problem);
        let in_roots = |problem| AuthorityError::wrong(&self.roots, problem);
        let chain = ca::certificates(&bytes.cert).map_err(in_cert)?;
        let key = ca::private_key(&bytes.key).map_err(in_key)?;
        let roots = ca::certificates(&bytes.roots).map_err(in_roots)?;
        for root in &roots {
            ca::validity(root, now).map_err(in_roots)?;
        }
        // Peers bring no root of their own; one at the end of the chain is no part of it.
        let chain: Vec<CertificateDer<'static>> = chain.into_iter().filter(|one| !roots.contains(one)).collect();
        if chain.is_empty() {
            let problem = "holds only what --ca-roots holds: give an intermediate, signed by that root";
            return Err(AuthorityError::wrong(&self.cert, problem));
        }
        Ca::new(chain, key, roots, now).map_err(|problem| match problem {
            CaProblem::OtherKey => in_key(problem),
            problem => in_cert(problem),
        })
    }
}

/// What the three files of an operator hold.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct CaBytes {
    cert: Vec<u8>,
    key: Vec<u8>,
    roots: Vec<u8>,
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, AuthorityError> {
    match fs::read(path) {
        Ok(bytes) => {
            only_ours(path, "600")?;
            Ok(Some(bytes))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(at(path)(source)),
    }
}

/// A key that others can read is no secret any more: better to stop than to go on as if it were.
fn only_ours(path: &Path, mode: &str) -> Result<(), AuthorityError> {
    let held = fs::metadata(path).map_err(at(path))?.mode() & 0o777;
    if held & 0o077 == 0 {
        return Ok(());
    }
    let problem = format!("has mode {held:o}, so that others can reach keys: chmod {mode}, and ask who has read them");
    Err(AuthorityError::wrong(path, problem))
}

/// What may not be in the mode of an operator's key. Where root owns it, a group that may read it is how a process that
/// is not root gets it: so a Secret of Kubernetes is mounted for one with `fsGroup`.
fn forbidden(owner: u32) -> u32 {
    const ROOT: u32 = 0;
    if owner == ROOT { 0o037 } else { 0o077 }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> AuthorityError {
    let path = path.to_owned();
    move |source| AuthorityError::File { path, source }
}

const ROOT: &str = "root.pem";
const INTERMEDIATE: &str = "intermediate.pem";
const TOKEN_KEY: &str = "token-key.pem";
const ROTATION: &str = "rotation.json";
const BRIDGES: &str = "bridges.pem";
const GIVEN: &str = "given.json";

#[cfg(test)]
mod tests;
