//! Where in a message a reader is, and how a message is taken apart there.

use std::collections::HashMap;
use std::fmt::{self, Write as _};

use crate::rejection::Problem;

/// What a message holds that is refused; the resource is added by who knows it.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) path: String,
    pub(super) held: String,
    pub(super) problem: Problem,
}

/// A place in a message: a list of steps on the stack, written out only when something is refused there.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    parent: Option<&'a At<'a>>,
    step: Step,
}

#[derive(Clone, Copy)]
enum Step {
    Root,
    Field(&'static str),
    Index(usize),
    Key(&'static str),
}

impl At<'_> {
    pub(super) const ROOT: At<'static> = At {
        parent: None,
        step: Step::Root,
    };

    pub(super) fn field(&self, name: &'static str) -> At<'_> {
        self.step(Step::Field(name))
    }

    pub(super) fn index(&self, index: usize) -> At<'_> {
        self.step(Step::Index(index))
    }

    pub(super) fn key(&self, key: &'static str) -> At<'_> {
        self.step(Step::Key(key))
    }

    fn step(&self, step: Step) -> At<'_> {
        At {
            parent: Some(self),
            step,
        }
    }

    /// What is wrong here, with what is held, for people.
    pub(super) fn fault(&self, held: impl fmt::Display, problem: Problem) -> Fault {
        Fault {
            path: self.to_string(),
            held: shortened(&held),
            problem,
        }
    }

    /// A text is held that can't be read as what it should be.
    pub(super) fn malformed(&self, held: &str, problem: &'static str) -> Fault {
        self.fault(format_args!("{held:?}"), Problem::Malformed { problem })
    }

    /// A field that must be set.
    pub(super) fn need<T>(&self, field: Option<T>) -> Result<T, Fault> {
        field.ok_or_else(|| self.fault("", Problem::Missing))
    }

    /// A value of an enum that is known.
    pub(super) fn known<E: TryFrom<i32>>(&self, value: i32) -> Result<E, Fault> {
        E::try_from(value).map_err(|_| self.fault(value, Problem::UnknownValue))
    }

    /// A field that may not be set.
    pub(super) fn refuse<T: Held>(&self, field: &'static str, value: &T) -> Result<(), Fault> {
        match value.held() {
            Some(held) => Err(self.field(field).fault(held, Problem::WithoutEffect)),
            None => Ok(()),
        }
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        let first = self.parent.is_none_or(|parent| matches!(parent.step, Step::Root));
        match self.step {
            Step::Root => Ok(()),
            Step::Field(name) if first => f.write_str(name),
            Step::Field(name) => write!(f, ".{name}"),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => write!(f, "[{key:?}]"),
        }
    }
}

/// Takes a message apart: the fields before the `;` become variables, those after it are refused when set. Together
/// they must be all, so that a field that a newer version of the message has can't be overlooked.
macro_rules! take {
    ($at:expr, $message:expr, $kind:path { $($used:ident),* ; $($refused:ident),* $(,)? }) => {
        let $kind { $($used,)* $($refused,)* } = $message;
        $( $at.refuse(stringify!($refused), &$refused)?; )*
    };
}
pub(super) use take;

/// Whether a field is set, and what it holds.
pub(super) trait Held {
    /// What a set field holds, for people; `None`: it is not set.
    fn held(&self) -> Option<String>;
}

impl Held for bool {
    fn held(&self) -> Option<String> {
        self.then(|| "true".to_owned())
    }
}

impl Held for i32 {
    fn held(&self) -> Option<String> {
        (*self != 0).then(|| self.to_string())
    }
}

impl Held for u32 {
    fn held(&self) -> Option<String> {
        (*self != 0).then(|| self.to_string())
    }
}

impl Held for i64 {
    fn held(&self) -> Option<String> {
        (*self != 0).then(|| self.to_string())
    }
}

impl Held for String {
    fn held(&self) -> Option<String> {
        (!self.is_empty()).then(|| shortened(&format_args!("{self:?}")))
    }
}

impl<T: fmt::Debug> Held for Option<T> {
    fn held(&self) -> Option<String> {
        self.as_ref().map(|value| shortened(&format_args!("{value:?}")))
    }
}

impl<T: fmt::Debug> Held for Vec<T> {
    fn held(&self) -> Option<String> {
        self.first().map(|value| shortened(&format_args!("{value:?}")))
    }
}

impl<T> Held for HashMap<String, T> {
    fn held(&self) -> Option<String> {
        self.keys().min().map(|key| shortened(&format_args!("{key:?}")))
    }
}

/// At most [`HELD_BYTES_MAX`] of a text, so that a refusal stays small whatever is refused.
fn shortened(value: &dyn fmt::Display) -> String {
    let mut short = Short {
        text: String::new(),
        cut: false,
    };
    // The writer stops the formatting once it is full: a large message is not written out in whole.
    if write!(short, "{value}").is_err() || short.cut {
        short.text.push('…');
    }
    short.text
}

struct Short {
    text: String,
    cut: bool,
}

impl fmt::Write for Short {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if self.text.len() + c.len_utf8() > HELD_BYTES_MAX {
                self.cut = true;
                return Err(fmt::Error);
            }
            self.text.push(c);
        }
        Ok(())
    }
}

const HELD_BYTES_MAX: usize = 120;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_written_as_people_write_it() {
        let (hosts, metadata) = (At::ROOT.field("virtual_hosts"), At::ROOT.field("metadata"));
        let (first, ours) = (hosts.index(0), metadata.key("weir.dev"));
        assert_eq!(At::ROOT.to_string(), "");
        assert_eq!(first.field("name").to_string(), "virtual_hosts[0].name");
        assert_eq!(ours.field("grpc").to_string(), "metadata[\"weir.dev\"].grpc");
    }

    #[test]
    fn what_is_held_is_shortened() {
        let long = "字".repeat(1000);
        let held = long.held().expect("it is set");
        assert!(
            held.len() <= HELD_BYTES_MAX + '…'.len_utf8() && held.ends_with('…'),
            "{held}"
        );
        assert_eq!("short".to_owned().held().as_deref(), Some("\"short\""));
        assert_eq!(String::new().held(), None);
    }
}
