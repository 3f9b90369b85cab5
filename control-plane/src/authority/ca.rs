//! What certificates are signed with: an intermediate with its key, and the roots above it. No files, no clock: both
//! are passed in.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use time::OffsetDateTime;
use weir_policy::roots::RootId;
use weir_policy::spiffe::{SpiffeId, TrustDomain};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::x509::{self, LABELS_OID, Labels};

/// An authority that can sign: it was checked that what it signs is trusted by whoever trusts its roots.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    /// The intermediate first, then whatever is between it and a root.
    chain: Vec<CertificateDer<'static>>,
    /// The one above what signs first.
    roots: Vec<CertificateDer<'static>>,
    not_before: SystemTime,
    /// The end of the first of the chain that ends.
    not_after: SystemTime,
    /// The root, signed by the one before it: shown behind the chain, so that who trusts that one alone believes it.
    cross: Option<CertificateDer<'static>>,
    /// What leads from roots of the past to the one of now, for those who join by a token that knows no other.
    bridges: Vec<CertificateDer<'static>>,
    /// What is to sign next; until then it is shown to be trusted, and signs for nobody else.
    next: Option<Box<Ca>>,
}

/// Whom a certificate is for.
pub(crate) struct Leaf<'a, K> {
    /// Its one URI name.
    pub(crate) id: &'a SpiffeId,
    /// A name beside it, for clients that know servers by their DNS names alone.
    pub(crate) dns: Option<&'static str>,
    /// The labels that it carries.
    pub(crate) labels: &'a Labels,
    /// The key that it is for.
    pub(crate) key: &'a K,
    /// For how long.
    pub(crate) ttl: Duration,
}

/// A certificate that was signed.
#[derive(Clone, Debug)]
pub(crate) struct Signed {
    /// The certificate, then what is between it and a root.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// Until when it is good.
    pub(crate) not_after: SystemTime,
}

/// Why nothing can be signed with a key and certificates, with what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CaProblem {
    #[error("holds no certificate; PEM blocks \"CERTIFICATE\" are right")]
    NoCertificate,
    #[error("holds a certificate that can't be read")]
    Malformed,
    #[error("holds no private key that can be read; a PEM block \"PRIVATE KEY\" (PKCS #8), unencrypted, is right")]
    Key,
    #[error(
        "is no authority's: its basicConstraints do not say CA, or its keyUsage lacks keyCertSign; give an intermediate"
    )]
    NotCa,
    #[error("is not the key of the first certificate in the other file; give the two that belong together")]
    OtherKey,
    #[error("holds {subject:?}, which is good only from {from} on; is this host's clock right?")]
    NotYet { subject: String, from: String },
    #[error("holds {subject:?}, which ended at {at}; renew it")]
    Ended { subject: String, at: String },
    #[error(
        "does not lead to any of the roots, or may not sign for workloads ({0}); give the intermediates up to a root, and that root"
    )]
    Chain(String),
    #[error("the system gives no key or random number: {0}")]
    System(String),
}

impl Ca {
    /// An authority of these: `chain` begins with what signs.
    ///
    /// # Errors
    /// When a certificate signed with it would not be believed, or not now.
    pub(crate) fn new(
        chain: Vec<CertificateDer<'static>>,
        key: KeyPair,
        roots: Vec<CertificateDer<'static>>,
        now: SystemTime,
    ) -> Result<Ca, CaProblem> {
        let first = chain.first().ok_or(CaProblem::NoCertificate)?;
        let parsed = parse(first)?;
        let signs = match parsed.key_usage() {
            Ok(Some(usage)) => usage.value.key_cert_sign(),
            Ok(None) => true,
            Err(_) => return Err(CaProblem::Malformed),
        };
        if !parsed.is_ca() || !signs {
            return Err(CaProblem::NotCa);
        }
        if *parsed.public_key().subject_public_key.data != *key.der_bytes() {
            return Err(CaProblem::OtherKey);
        }
        let (mut not_before, mut not_after) = validity(first, now)?;
        for certificate in chain.iter().skip(1) {
            let (from, until) = validity(certificate, now)?;
            (not_before, not_after) = (not_before.max(from), not_after.min(until));
        }
        let issuer = Issuer::from_ca_cert_der(first, key).map_err(|_| CaProblem::Malformed)?;
        let mut ca = Ca {
            issuer,
            chain,
            roots,
            not_before,
            not_after,
            cross: None,
            bridges: Vec::new(),
            next: None,
        };
        let above = ca.prove(now)?;
        if let Some(beginning) = ca.roots.get_mut(..=above) {
            beginning.rotate_right(1);
        }
        Ok(ca)
    }

    /// With this behind its chain; see [`Ca::sign`].
    pub(super) fn crossed(self, cross: CertificateDer<'static>) -> Ca {
        Ca {
            cross: Some(cross),
            ..self
        }
    }

    /// With what leads here from roots of the past.
    pub(super) fn bridged(self, bridges: Vec<CertificateDer<'static>>) -> Ca {
        Ca { bridges, ..self }
    }

    /// With one that is to sign next.
    pub(super) fn followed(self, next: Ca) -> Ca {
        Ca {
            next: Some(Box::new(next)),
            ..self
        }
    }

    /// Signs.
    ///
    /// # Errors
    /// When the authority's own certificates have ended, or the system fails.
    pub(crate) fn sign<K: PublicKeyData>(&self, leaf: &Leaf<'_, K>, now: SystemTime) -> Result<Signed, CaProblem> {
        let end = now
            .checked_add(leaf.ttl)
            .map_or(self.not_after, |end| end.min(self.not_after));
        if end <= now {
            return Err(CaProblem::Ended {
                subject: self.subject(),
                at: rfc3339(self.not_after),
            });
        }
        // To the second, as certificates have it.
        let not_after = OffsetDateTime::from(end)
            .replace_nanosecond(0)
            .unwrap_or_else(|_| end.into());
        let begin = now
            .checked_sub(BACKDATED)
            .map_or(self.not_before, |begin| begin.max(self.not_before));
        let mut params = CertificateParams::default();
        params.not_before = begin.into();
        params.not_after = not_after;
        params.serial_number = Some(serial()?);
        params.distinguished_name = name("Weir", None);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let uri = leaf.id.to_string().try_into().map_err(system)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        if let Some(dns) = leaf.dns {
            let dns = dns.try_into().map_err(system)?;
            params.subject_alt_names.push(SanType::DnsName(dns));
        }
        if !leaf.labels.is_empty() {
            let labels = serde_json::to_string(leaf.labels).map_err(system)?;
            let extension = CustomExtension::from_oid_content(&LABELS_OID, x509::utf8_string(&labels));
            params.custom_extensions.push(extension);
        }
        let certificate = params.signed_by(leaf.key, &self.issuer).map_err(system)?;
        let mut chain = vec![certificate.der().clone()];
        chain.extend(self.chain.iter().chain(&self.cross).cloned());
        Ok(Signed {
            chain,
            not_after: not_after.into(),
        })
    }

    /// The same, by the authority of now or the next one that is below this root, so that nothing but this root is
    /// above it; `None`: neither is.
    pub(crate) fn sign_below<K: PublicKeyData>(
        &self,
        root: RootId,
        leaf: &Leaf<'_, K>,
        now: SystemTime,
    ) -> Option<Result<Signed, CaProblem>> {
        let both = [Some(self), self.next.as_deref()];
        let below = both.into_iter().flatten().find(|ca| ca.root() == Some(root))?;
        let signed = below.sign(leaf, now).map(|mut signed| {
            signed.chain.retain(|one| below.cross.as_ref() != Some(one));
            signed
        });
        Some(signed)
    }

    /// Which root it is below.
    pub(crate) fn root(&self) -> Option<RootId> {
        self.roots.first().map(|root| RootId::of(x509::sha256(root)))
    }

    /// What leads to its root from those of the past.
    pub(crate) fn bridges(&self) -> &[CertificateDer<'static>] {
        &self.bridges
    }

    /// What others trust; first the one above what it signs.
    pub(crate) fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// What signs.
    pub(crate) fn intermediate(&self) -> Option<&CertificateDer<'static>> {
        self.chain.first()
    }

    /// Until when it can sign.
    pub(crate) fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether less than a third of its time is left.
    pub(crate) fn is_due(&self, now: SystemTime) -> bool {
        let whole = self.not_after.duration_since(self.not_before).unwrap_or_default();
        let left = self.not_after.duration_since(now).unwrap_or_default();
        left < whole / 3
    }

    /// The roots as rustls takes them.
    pub(crate) fn trusted(&self) -> Result<RootCertStore, rustls::Error> {
        let mut store = RootCertStore::empty();
        for root in &self.roots {
            store.add(root.clone())?;
        }
        Ok(store)
    }

    fn subject(&self) -> String {
        self.intermediate().map(subject).unwrap_or_default()
    }

    /// Signs for nobody, and looks at it as both ends of a connection would. Returns which of the roots is above it.
    fn prove(&self, now: SystemTime) -> Result<usize, CaProblem> {
        let key = new_key()?;
        let nobody: SpiffeId = "spiffe://nobody/ns/nobody/sa/nobody".parse().map_err(system)?;
        let leaf = Leaf {
            id: &nobody,
            dns: None,
            labels: &Labels::new(),
            key: &key,
            ttl: Duration::from_secs(60),
        };
        let signed = self.sign(&leaf, now)?;
        let Some((leaf, between)) = signed.chain.split_first() else {
            return Err(CaProblem::NoCertificate);
        };
        let wrong = |error: rustls::Error| CaProblem::Chain(error.to_string());
        let roots = Arc::new(self.trusted().map_err(wrong)?);
        let provider = default_provider();
        let algorithms = provider.signature_verification_algorithms.all;
        let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let at = UnixTime::since_unix_epoch(since_epoch);
        let parsed = ParsedCertificate::try_from(leaf).map_err(wrong)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, between, at, algorithms).map_err(wrong)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.into()).build();
        let verifier = verifier.map_err(|error| CaProblem::Chain(error.to_string()))?;
        verifier.verify_client_cert(leaf, between, at).map_err(wrong)?;
        let is_above = |root: &CertificateDer<'static>| {
            let mut one = RootCertStore::empty();
            let added = one.add(root.clone()).is_ok();
            added && verify_server_cert_signed_by_trust_anchor(&parsed, &one, between, at, algorithms).is_ok()
        };
        let above = self.roots.iter().position(is_above);
        above.ok_or_else(|| CaProblem::Chain("no single root is above it".to_owned()))
    }
}

/// Without its key.
impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca")
            .field("subject", &self.subject())
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// A certificate of ours with its key, as one PEM text: written and read as a whole.
pub(crate) struct Pair {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) key: KeyPair,
}

impl Pair {
    /// A new root.
    pub(super) fn root(trust_domain: &TrustDomain, now: SystemTime) -> Result<Pair, CaProblem> {
        let key = new_key()?;
        // A name of its own: one that another root has signed is told from it by that.
        let mut mark = [0; 4];
        random(&mut mark)?;
        let params = authority_params(
            &format!("Weir root {}", x509::hex(&mark)),
            trust_domain,
            ROOT_TTL,
            BasicConstraints::Constrained(ROOT_PATH_MAX),
            now,
        )?;
        let certificate = params.self_signed(&key).map_err(system)?;
        Ok(Pair {
            certificate: certificate.der().clone(),
            key,
        })
    }

    /// A new intermediate under this root, for a year: it is renewed by itself.
    pub(super) fn intermediate(&self, trust_domain: &TrustDomain, now: SystemTime) -> Result<Pair, CaProblem> {
        self.intermediate_for(INTERMEDIATE_TTL, trust_domain, now)
    }

    /// The same for as long as the root, of which the key is not kept.
    pub(super) fn only_intermediate(&self, trust_domain: &TrustDomain, now: SystemTime) -> Result<Pair, CaProblem> {
        self.intermediate_for(ROOT_TTL, trust_domain, now)
    }

    fn intermediate_for(&self, ttl: Duration, trust_domain: &TrustDomain, now: SystemTime) -> Result<Pair, CaProblem> {
        let (_, root_end) = validity(&self.certificate, now)?;
        let key = new_key()?;
        let left = root_end.duration_since(now).unwrap_or_default();
        let ttl = ttl.min(left);
        let constraints = BasicConstraints::Constrained(0);
        let params = authority_params("Weir intermediate", trust_domain, ttl, constraints, now)?;
        // Only borrowed by rcgen for as long as it signs.
        let issuer = Issuer::from_ca_cert_der(&self.certificate, &self.key).map_err(|_| CaProblem::Malformed)?;
        let certificate = params.signed_by(&key, &issuer).map_err(system)?;
        Ok(Pair {
            certificate: certificate.der().clone(),
            key,
        })
    }

    /// Another root, signed by this one for at most `ttl`: who trusts this one alone believes what is below the other.
    pub(super) fn cross(
        &self,
        other: &Pair,
        trust_domain: &TrustDomain,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, CaProblem> {
        let (_, ends) = validity(&self.certificate, now)?;
        let ttl = ttl.min(ends.duration_since(now).unwrap_or_default());
        // Room for the one that follows the other, and so on, as long as they are good.
        let constraints = BasicConstraints::Constrained(CROSS_PATH_MAX);
        let parsed = parse(&other.certificate)?;
        let common_name = parsed.subject().iter_common_name().next();
        let common_name = common_name
            .and_then(|name| name.as_str().ok())
            .ok_or(CaProblem::Malformed)?;
        let params = authority_params(common_name, trust_domain, ttl, constraints, now)?;
        let issuer = Issuer::from_ca_cert_der(&self.certificate, &self.key).map_err(|_| CaProblem::Malformed)?;
        let certificate = params.signed_by(&other.key, &issuer).map_err(system)?;
        Ok(certificate.der().clone())
    }

    pub(super) fn to_pem(&self) -> String {
        let certificate = x509::to_pem(&self.certificate);
        format!("{certificate}{}", self.key.serialize_pem())
    }

    pub(super) fn from_pem(pem: &[u8]) -> Result<Pair, CaProblem> {
        let certificate = certificates(pem)?.into_iter().next().ok_or(CaProblem::NoCertificate)?;
        let pair = Pair {
            certificate,
            key: private_key(pem)?,
        };
        if *parse(&pair.certificate)?.public_key().subject_public_key.data != *pair.key.der_bytes() {
            return Err(CaProblem::OtherKey);
        }
        Ok(pair)
    }
}

fn authority_params(
    common_name: &str,
    trust_domain: &TrustDomain,
    ttl: Duration,
    constraints: BasicConstraints,
    now: SystemTime,
) -> Result<CertificateParams, CaProblem> {
    let mut params = CertificateParams::default();
    params.not_before = now.checked_sub(BACKDATED).unwrap_or(now).into();
    params.not_after = (now + ttl).into();
    params.serial_number = Some(serial()?);
    params.distinguished_name = name(&trust_domain.to_string(), Some(common_name));
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    // X.509-SVID, section 3.2: an authority's own id is its trust domain.
    let uri = format!("spiffe://{trust_domain}").try_into().map_err(system)?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    Ok(params)
}

fn name(organization: &str, common_name: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, organization);
    if let Some(common_name) = common_name {
        name.push(DnType::CommonName, common_name);
    }
    name
}

/// 127 random bits: positive, and never twice (RFC 5280 section 4.1.2.2).
fn serial() -> Result<SerialNumber, CaProblem> {
    let mut serial = [0; 16];
    random(&mut serial)?;
    serial[0] = serial[0] & 0x3f | 0x40;
    Ok(SerialNumber::from_slice(&serial))
}

/// A new key.
pub(super) fn new_key() -> Result<KeyPair, CaProblem> {
    KeyPair::generate().map_err(system)
}

/// Fills with random bytes.
pub(super) fn random(bytes: &mut [u8]) -> Result<(), CaProblem> {
    let filled = SystemRandom::new().fill(bytes);
    filled.map_err(|_| CaProblem::System("its random numbers".to_owned()))
}

/// All certificates of a PEM text.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CaProblem> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|_| CaProblem::Malformed)?;
    if all.is_empty() {
        return Err(CaProblem::NoCertificate);
    }
    Ok(all)
}

/// The private key of a PEM text.
pub(super) fn private_key(pem: &[u8]) -> Result<KeyPair, CaProblem> {
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| CaProblem::Key)?;
    KeyPair::try_from(&key).map_err(|_| CaProblem::Key)
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, CaProblem> {
    let parsed = X509Certificate::from_der(certificate);
    parsed.map(|(_, parsed)| parsed).map_err(|_| CaProblem::Malformed)
}

/// Whom a certificate is of, and whom it is from, as they are encoded.
pub(super) struct Names {
    pub(super) subject: Vec<u8>,
    pub(super) issuer: Vec<u8>,
}

impl Names {
    /// Whether it is a root's, by itself.
    pub(super) fn is_own(&self) -> bool {
        self.subject == self.issuer
    }
}

/// The names of a certificate.
pub(super) fn names(certificate: &CertificateDer<'_>) -> Result<Names, CaProblem> {
    let parsed = parse(certificate)?;
    Ok(Names {
        subject: parsed.subject().as_raw().to_vec(),
        issuer: parsed.issuer().as_raw().to_vec(),
    })
}

/// From when to when a certificate is good.
pub(crate) fn times(certificate: &CertificateDer<'_>) -> Result<(SystemTime, SystemTime), CaProblem> {
    let parsed = parse(certificate)?;
    let validity = parsed.validity();
    let from = validity.not_before.to_datetime().into();
    Ok((from, validity.not_after.to_datetime().into()))
}

/// The same, of a certificate that must be good now.
pub(super) fn validity(
    certificate: &CertificateDer<'_>,
    now: SystemTime,
) -> Result<(SystemTime, SystemTime), CaProblem> {
    let (from, until) = times(certificate)?;
    let subject = subject(certificate);
    if now < from {
        let from = rfc3339(from);
        return Err(CaProblem::NotYet { subject, from });
    }
    if now >= until {
        let at = rfc3339(until);
        return Err(CaProblem::Ended { subject, at });
    }
    Ok((from, until))
}

/// A certificate's subject, for people.
pub(super) fn subject(certificate: &CertificateDer<'_>) -> String {
    parse(certificate)
        .map(|parsed| parsed.subject().to_string())
        .unwrap_or_default()
}

/// A time, for people and JSON.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let time = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::MAX);
    jiff::Timestamp::from_second(time.as_second())
        .unwrap_or(time)
        .to_string()
}

fn system(error: impl fmt::Display) -> CaProblem {
    CaProblem::System(error.to_string())
}

/// Peers whose clocks are behind by this much still believe a new certificate.
pub(crate) const BACKDATED: Duration = Duration::from_secs(5 * 60);
/// Whoever trusts a root has to be told of the next one: not often.
const ROOT_TTL: Duration = Duration::from_secs(3_650 * DAY);
/// Renewed by itself when a third is left.
const INTERMEDIATE_TTL: Duration = Duration::from_secs(365 * DAY);
/// Authorities below a root: the next ones, which it signs, and what is below them.
const ROOT_PATH_MAX: u8 = 5;
/// Authorities below a root that another has signed.
const CROSS_PATH_MAX: u8 = 4;
const DAY: u64 = 24 * 60 * 60;

#[cfg(test)]
mod tests;
