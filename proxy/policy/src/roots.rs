//! What the mesh's roots are called: as a resource, and where one of them is shown to be trusted.

use std::fmt;
use std::str::FromStr;

use crate::names::{NameError, WorkloadName};

/// The resource of all roots: there is one, called as Istio calls its own, `ROOTCA`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RootsName;

impl fmt::Display for RootsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ROOTS)
    }
}

impl FromStr for RootsName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text == ROOTS {
            true => Ok(RootsName),
            false => Err(NameError {
                held: text.to_owned(),
                problem: "is no set of roots; ROOTCA is the one that there is",
            }),
        }
    }
}

/// Which root: the first half of the SHA-256 of its certificate, as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RootId([u8; 16]);

impl RootId {
    /// By the SHA-256 of the whole certificate (DER).
    pub fn of(sha256: [u8; 32]) -> RootId {
        let mut half = [0; 16];
        for (half, byte) in half.iter_mut().zip(sha256) {
            *half = byte;
        }
        RootId(half)
    }
}

impl fmt::Display for RootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for RootId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = || NameError {
            held: text.to_owned(),
            problem: "is not of 32 hexadecimal digits",
        };
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 32 || !text.bytes().all(is_digit) {
            return Err(wrong());
        }
        let whole = u128::from_str_radix(text, 16).map_err(|_| wrong())?;
        Ok(RootId(whole.to_be_bytes()))
    }
}

/// A handshake with the control plane by which a workload's proxy shows that it trusts one root: to this name of a
/// server (RFC 6066 section 3) the control plane answers with a certificate that leads to that root alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Proof {
    /// Which root.
    pub root: RootId,
    /// Whose proxy.
    pub workload: WorkloadName,
}

/// As the name of a server: `ROOT.WORKLOAD.NAMESPACE.root.weir.internal`. That domain is nobody's (ICANN, 2024).
impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let WorkloadName { namespace, name } = &self.workload;
        write!(f, "{}.{name}.{namespace}.{DOMAIN}", self.root)
    }
}

impl FromStr for Proof {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = || NameError {
            held: text.to_owned(),
            problem: "is not of the form ROOT.WORKLOAD.NAMESPACE.root.weir.internal",
        };
        let own = text.strip_suffix(DOMAIN).and_then(|rest| rest.strip_suffix('.'));
        let parts: Vec<&str> = own.ok_or_else(wrong)?.split('.').collect();
        let [root, name, namespace] = parts.as_slice() else {
            return Err(wrong());
        };
        Ok(Proof {
            root: root.parse()?,
            workload: WorkloadName {
                namespace: namespace.parse()?,
                name: name.parse()?,
            },
        })
    }
}

const ROOTS: &str = "ROOTCA";
const DOMAIN: &str = "root.weir.internal";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_read_as_it_is_written() {
        let proof = Proof {
            root: RootId::of([0xab; 32]),
            workload: "citizen/portal-7".parse().expect("a workload"),
        };
        let text = "abababababababababababababababab.portal-7.citizen.root.weir.internal";
        assert_eq!(proof.to_string(), text);
        assert_eq!(text.parse(), Ok(proof));
    }

    #[test]
    fn other_names_are_no_proofs() {
        for text in [
            "",
            "root.weir.internal",
            ".root.weir.internal",
            "abababababababababababababababab.portal.root.weir.internal",
            "abababababababababababababababab.a.portal.citizen.root.weir.internal",
            "ababababababababababababababab.portal.citizen.root.weir.internal",
            "ABABABABABABABABABABABABABABABAB.portal.citizen.root.weir.internal",
            "+bababababababababababababababab.portal.citizen.root.weir.internal",
            "abababababababababababababababab.por_tal.citizen.root.weir.internal",
            "abababababababababababababababab.portal.citizen.root.weir.external",
            "weir-control.weir-system.svc",
        ] {
            assert!(text.parse::<Proof>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn roots_have_one_name() {
        assert_eq!("ROOTCA".parse(), Ok(RootsName));
        assert_eq!(RootsName.to_string(), "ROOTCA");
        for other in ["", "rootca", "default", "ROOTCA "] {
            assert!(other.parse::<RootsName>().is_err(), "{other:?}");
        }
    }
}
