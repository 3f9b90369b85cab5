//! Why a resource is refused: what a NACK says.

use std::fmt;

use crate::ResourceType;

/// A resource that is refused: which, where in it, what was held there, and what is wrong with that. The resource's
/// earlier accepted version stays in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{resource} {name:?}{}{path}: {problem}{}", if path.is_empty() { "" } else { ", " }, Holding(held))]
pub struct Rejection {
    /// The type of the resource.
    pub resource: ResourceType,
    /// The resource's name as far as it is known; else empty.
    pub name: String,
    /// The place in the message, as in `virtual_hosts[0].routes[2].route.timeout`; empty: the whole.
    pub path: String,
    /// What was held there, for people, shortened; empty: nothing.
    pub held: String,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with a value on the wire.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The bytes are not a message of the type they are said to be.
    #[error("is not a message of its type")]
    Undecodable,
    /// The bytes hold more than the known fields, or a field twice: newer than this program, or hostile.
    #[error("holds a field that this version does not know")]
    UnknownField,
    /// A message of a type that has no meaning there.
    #[error("is of a type that is not understood here; expected {expected}")]
    UnknownType {
        /// The type's URL, or what kinds there are.
        expected: &'static str,
    },
    /// A number that is no value of the enum.
    #[error("is not a known value")]
    UnknownValue,
    /// A field that must be set is not.
    #[error("must be set")]
    Missing,
    /// A field that would be without effect is set: to ignore it could open a door.
    #[error("is set, and has no effect here")]
    WithoutEffect,
    /// A value that means something else than what is done here.
    #[error("must be {expected}")]
    Unsupported {
        /// What it may be.
        expected: &'static str,
    },
    /// A value outside of what is allowed.
    #[error("is out of range; allowed is {allowed}")]
    OutOfRange {
        /// What is allowed, with the unit.
        allowed: &'static str,
    },
    /// A text that is not what it is read as.
    #[error("{problem}")]
    Malformed {
        /// What is wrong with it, as the end of a sentence that begins with the text.
        problem: &'static str,
    },
    /// Something that may occur once is there again.
    #[error("is there already")]
    Duplicate,
    /// A value that differs from the one elsewhere that it must be equal to.
    #[error("must be {expected:?}")]
    Mismatch {
        /// What it must be.
        expected: String,
    },
}

struct Holding<'a>(&'a str);

impl fmt::Display for Holding<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(f, "; it holds {}", self.0)
    }
}
