//! SPIFFE ids: who a workload is, as the SPIFFE-ID specification writes it and Istio lays it out.

use std::fmt;
use std::str::FromStr;

use crate::names::{Label, NameError};

/// A trust domain (SPIFFE-ID, section 2.1): 1 to 255 of `a-z`, `0-9`, `.`, `-` and `_`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(String);

impl TrustDomain {
    /// Who the control plane of this trust domain is.
    pub fn control_plane(&self) -> SpiffeId {
        let label = |text: &str| text.parse().expect("the name is a label");
        SpiffeId {
            trust_domain: self.clone(),
            namespace: label(CONTROL_NAMESPACE),
            account: label(CONTROL_ACCOUNT),
        }
    }
}

/// `cluster.local`, as the names of services have it.
impl Default for TrustDomain {
    fn default() -> TrustDomain {
        TrustDomain("cluster.local".to_owned())
    }
}

impl FromStr for TrustDomain {
    type Err = NameError;

    fn from_str(text: &str) -> Result<TrustDomain, NameError> {
        let wrong = |problem| NameError {
            held: text.chars().take(SHOWN_MAX).collect(),
            problem,
        };
        let allowed = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
        match text.len() {
            0 => Err(wrong("is empty")),
            1..=255 if text.bytes().all(allowed) => Ok(TrustDomain(text.to_owned())),
            1..=255 => Err(wrong("may hold only a-z, 0-9, '.', '-' and '_'")),
            _ => Err(wrong("is longer than 255 characters")),
        }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who a workload is. Written `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT`, in this one form: what differs from it
/// in any byte is another id or none.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    /// Whose ids these are.
    pub trust_domain: TrustDomain,
    /// The workload's namespace.
    pub namespace: Label,
    /// Its account: several workloads may share one.
    pub account: Label,
}

impl FromStr for SpiffeId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<SpiffeId, NameError> {
        let wrong = || NameError {
            held: text.chars().take(SHOWN_MAX).collect(),
            problem: "is not of the form spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT",
        };
        let rest = text.strip_prefix("spiffe://").ok_or_else(wrong)?;
        let mut parts = rest.split('/');
        let mut next = || parts.next().ok_or_else(wrong);
        let (trust_domain, ns, namespace, sa, account) = (next()?, next()?, next()?, next()?, next()?);
        if ns != "ns" || sa != "sa" || parts.next().is_some() {
            return Err(wrong());
        }
        Ok(SpiffeId {
            trust_domain: trust_domain.parse().map_err(|_| wrong())?,
            namespace: namespace.parse().map_err(|_| wrong())?,
            account: account.parse().map_err(|_| wrong())?,
        })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts().into_iter().try_for_each(|part| f.write_str(part))
    }
}

impl SpiffeId {
    /// What it is written of, in order. None of it has a character that JSON or a header's value would escape.
    pub fn parts(&self) -> [&str; 6] {
        let SpiffeId {
            trust_domain,
            namespace,
            account,
        } = self;
        let (namespace, account) = (namespace.as_str(), account.as_str());
        ["spiffe://", &trust_domain.0, "/ns/", namespace, "/sa/", account]
    }
}

/// The control plane's own identity: nobody else is given it.
const CONTROL_NAMESPACE: &str = "weir-system";
const CONTROL_ACCOUNT: &str = "weir-control";
/// How much of what is wrong is repeated.
const SHOWN_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_id_is_written_as_it_is_read() {
        let text = "spiffe://cluster.local/ns/citizen/sa/portal";
        let id: SpiffeId = text.parse().expect("an id");
        assert_eq!(id.trust_domain, TrustDomain::default());
        assert_eq!(id.to_string(), text);
        assert_eq!((id.namespace.as_str(), id.account.as_str()), ("citizen", "portal"));
        assert_eq!(
            id.trust_domain.control_plane().to_string(),
            "spiffe://cluster.local/ns/weir-system/sa/weir-control"
        );
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in [
            "",
            "spiffe://",
            "spiffe://cluster.local",
            "spiffe://cluster.local/ns/citizen/sa",
            "spiffe://cluster.local/ns/citizen/sa/",
            "spiffe://cluster.local/ns/citizen/sa/portal/",
            "spiffe://cluster.local/ns/citizen/sa/portal?a",
            "spiffe://cluster.local/ns/citizen/sa/por%74al",
            "spiffe://cluster.local/ns//sa/portal",
            "spiffe://cluster.local/sa/citizen/ns/portal",
            "spiffe://cluster.local:80/ns/citizen/sa/portal",
            "spiffe://user@cluster.local/ns/citizen/sa/portal",
            "spiffe://Cluster.local/ns/citizen/sa/portal",
            "spiffe://cluster.local/ns/Citizen/sa/portal",
            "SPIFFE://cluster.local/ns/citizen/sa/portal",
            "https://cluster.local/ns/citizen/sa/portal",
            " spiffe://cluster.local/ns/citizen/sa/portal",
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text}");
        }
        for text in ["", "A", "a/b", "a:1", "ä", &"a".repeat(256)] {
            assert!(text.parse::<TrustDomain>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_back_byte_for_byte(text in "(spiffe://)?[a-z./:%-]{0,16}(/ns/[a-z/-]{0,6}/sa/[a-z/-]{0,6})?") {
            if let Ok(id) = text.parse::<SpiffeId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
