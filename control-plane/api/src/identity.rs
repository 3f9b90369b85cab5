//! What is said of the certificate authority and asked of it over the API: the JSON that `weir-control` and `weirctl`
//! exchange. Answers are read leniently, so that either side may be the newer; requests strictly.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Where the authority is: `GET` says how it stands.
pub const AUTHORITY: &str = "/authority";
/// `POST` a [`CertificateRequest`] here.
pub const CERTIFICATES: &str = "/authority/certificates";
/// `POST` a [`TokenRequest`] here.
pub const TOKENS: &str = "/authority/tokens";

/// `POST` a [`RotationRequest`] here.
pub const ROTATION: &str = "/authority/rotation";

/// The longest time a join token is good for: 30 days.
pub const TOKEN_TTL_MAX_SECONDS: u64 = 30 * 24 * 60 * 60;
/// How often a join token may be used at most.
pub const TOKEN_USES_MAX: u32 = 1_000;

/// How the authority stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthorityStatus {
    /// Of which trust domain.
    pub trust_domain: String,
    /// Where its keys are, for people.
    pub source: String,
    /// How long certificates of workloads are good for, as `24h`.
    pub cert_ttl: String,
    /// What others trust.
    pub roots: Vec<CertificateStatus>,
    /// What certificates are signed with.
    pub intermediate: CertificateStatus,
    /// Why the operator's files, as they are now, are not in use; the ones before are. Empty: nothing is wrong.
    pub trouble: String,
    /// The rotation of the root that is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotation: Option<RotationStatus>,
    /// Proxies that don't have yet what the authority waits for, or the roots as they are now.
    pub behind: Vec<ProxyBehind>,
}

/// How far a rotation of the root is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RotationStatus {
    /// `Trust`: proxies are told to trust the new root; `Sign`: it signs, and both are trusted; `Forget`: the old one
    /// is no longer trusted.
    pub step: String,
    /// When it began, RFC 3339.
    pub began: String,
    /// When its step began, RFC 3339.
    pub since: String,
    /// Until when certificates below the old root are good, which the step waits for, RFC 3339; empty: for none.
    pub waits_until: String,
    /// Whether it can be aborted.
    pub can_abort: bool,
    /// Proxies that are not waited for.
    pub despite: Vec<String>,
}

/// A proxy that is waited for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyBehind {
    /// Whose, as `NAMESPACE/NAME`.
    pub workload: String,
    /// Why.
    pub why: String,
    /// Since when, RFC 3339.
    pub since: String,
    /// What to do about it.
    pub remedy: String,
}

/// Asks for a rotation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RotationRequest {
    /// What is to be done.
    pub action: RotationAction,
    /// Proxies that are not to be waited for, as `NAMESPACE/NAME`; with `Root` alone.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub despite: Vec<String>,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RotationAction {
    /// Begin a rotation of the root; with `despite`, also go on with the one that is under way.
    Root,
    /// Sign with a new intermediate.
    Intermediate,
    /// Go back to the old root.
    Abort,
}

/// A certificate of the authority.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CertificateStatus {
    /// Its subject.
    pub subject: String,
    /// SHA-256 of the whole certificate (DER), 64 hexadecimal digits.
    pub sha256: String,
    /// From when it is good, RFC 3339.
    pub not_before: String,
    /// Until when, RFC 3339.
    pub not_after: String,
    /// Whole days until then; negative: since then.
    pub days_left: i64,
    /// The certificate itself, PEM.
    pub pem: String,
}

/// Asks for a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificateRequest {
    /// The namespace of whom it is for.
    pub namespace: String,
    /// The account of whom it is for.
    pub account: String,
    /// The certificate signing request (PKCS #10), PEM. Only its key is taken from it.
    pub csr: String,
    /// How long it should be good for, as `24h`; absent: as for workloads.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ttl: Option<String>,
}

/// A certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IssuedCertificate {
    /// Whose it is.
    pub spiffe_id: String,
    /// The certificate and the intermediates up to a root, which is not there; PEM.
    pub chain: Vec<String>,
    /// The roots, PEM.
    pub roots: Vec<String>,
    /// Until when it is good, RFC 3339.
    pub not_after: String,
}

/// Asks for a join token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenRequest {
    /// The namespace of whom it is for.
    pub namespace: String,
    /// The account of whom it is for.
    pub account: String,
    /// The labels that its workloads have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub labels: BTreeMap<String, String>,
    /// How long it may be used, as `1h`.
    pub ttl: String,
    /// How often.
    pub uses: u32,
}

/// A join token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IssuedToken {
    /// The token itself: whoever has it can join.
    pub token: String,
    /// What logs call it.
    pub id: String,
    /// Whom it lets in.
    pub spiffe_id: String,
    /// Until when, RFC 3339.
    pub expires: String,
}

/// Without the token.
impl fmt::Debug for IssuedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedToken")
            .field("id", &self.id)
            .field("spiffe_id", &self.spiffe_id)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}
