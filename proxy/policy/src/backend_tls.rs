//! TLS with endpoints that have no identity of the mesh: who must answer there (Gateway API, BackendTLSPolicy).

use std::fmt;

/// How the endpoints of a cluster are reached that have no identity of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendTls {
    /// By TLS, if who answers is who it should be.
    Verified(Validation),
    /// Not at all: TLS is asked for, and there is nothing to go by.
    Closed {
        /// Whose word it is and what that lacks, for people. Not empty.
        why: String,
    },
}

/// Who must answer, and by whose word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validation {
    /// The name that is asked for (SNI, RFC 6066 section 3): in lower case, no address.
    pub hostname: String,
    /// Who signs for it.
    pub authorities: Authorities,
    /// The certificate must be for one of these; none: for `hostname`.
    pub subject_alt_names: Vec<SubjectAltName>,
}

impl Validation {
    /// The names of which the certificate must have one.
    pub fn names(&self) -> Vec<SubjectAltName> {
        match self.subject_alt_names.as_slice() {
            [] => vec![SubjectAltName::Dns(self.hostname.clone())],
            given => given.to_vec(),
        }
    }
}

/// Who signs for an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorities {
    /// Those that the system of the proxy trusts.
    System,
    /// Those with these certificates; at least one.
    Given(Vec<Certificate>),
}

/// A certificate of somebody who signs, in DER.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate(pub Vec<u8>);

/// By its size: the bytes tell nobody anything.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({} bytes)", self.0.len())
    }
}

/// A name in a certificate (RFC 5280 section 4.2.1.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubjectAltName {
    /// A DNS name, in lower case. A certificate may have `*` in place of its first label. One that begins with `*.` is
    /// in a certificate only as it stands.
    Dns(String),
    /// A URI, exactly.
    Uri(String),
}

/// For people: the name as it stands.
impl fmt::Display for SubjectAltName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SubjectAltName::Dns(name) | SubjectAltName::Uri(name) => f.write_str(name),
        }
    }
}
