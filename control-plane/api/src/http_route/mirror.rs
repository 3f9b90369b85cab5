//! RequestMirror (GEP-3171 for its share).

use super::read::read_object_ref;
use super::*;
use crate::decode::{Errors, Node};

/// Sends a copy of requests to another backend, whose answers nobody sees.
///
/// Rule: only one of `percent` and `fraction` is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "HTTPRequestMirrorFilter")]
pub struct RequestMirror {
    /// Where the copies go.
    pub backend_ref: ObjectRef,
    /// How many in a hundred requests are copied. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub percent: Option<u32>,
    /// Which part of requests is copied. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fraction: Option<Fraction>,
}

/// A part of a whole.
///
/// Rule: `numerator` is at most `denominator`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Fraction {
    /// So many of `denominator`.
    #[schemars(range(max = FRACTION_MAX))]
    pub numerator: u32,
    /// How many are the whole.
    #[schemars(default = "hundred", range(min = 1, max = FRACTION_MAX))]
    pub denominator: u32,
}

impl RequestMirror {
    /// How many in a million requests are copied, rounded to the nearest; at least one, unless none are asked for.
    pub fn parts_per_million(&self) -> u32 {
        const WHOLE: u64 = 1_000_000;
        let (part, of) = match (self.percent, self.fraction) {
            (Some(percent), _) => (percent, 100),
            (None, Some(fraction)) => (fraction.numerator, fraction.denominator),
            (None, None) => (1, 1),
        };
        let (part, of) = (u64::from(part), u64::from(of).max(1));
        let parts = (part * WHOLE + of / 2) / of;
        u32::try_from(parts.clamp(part.min(1), WHOLE)).unwrap_or(u32::MAX)
    }
}

pub(crate) fn read(node: &Node<'_>, errors: &mut Errors) -> Option<RequestMirror> {
    let mut fields = node.fields(errors)?;
    let backend_ref = fields.required("backendRef", errors, |node, errors| {
        let mut fields = node.fields(errors)?;
        let read = read_object_ref(&mut fields, errors);
        fields.finish(errors);
        read
    });
    let percent = fields.optional("percent", errors, |node, errors| node.integer(errors, 0..=100));
    let fraction = fields.optional("fraction", errors, read_fraction);
    if let (Some(_), Some(fraction)) = (fields.get("percent"), fields.get("fraction")) {
        fraction.refuse(errors, "stands beside percent", "leave one of the two out");
    }
    fields.finish(errors);
    Some(RequestMirror {
        backend_ref: backend_ref?,
        percent,
        fraction,
    })
}

fn read_fraction(node: &Node<'_>, errors: &mut Errors) -> Option<Fraction> {
    let mut fields = node.fields(errors)?;
    let numerator = fields.required("numerator", errors, |node, errors| {
        node.integer(errors, 0..=FRACTION_MAX)
    });
    let denominator = fields.optional("denominator", errors, |node, errors| {
        node.integer(errors, 1..=FRACTION_MAX)
    });
    fields.finish(errors);
    let fraction = Fraction {
        numerator: numerator?,
        denominator: denominator.unwrap_or_else(hundred),
    };
    if fraction.numerator > fraction.denominator {
        node.refuse(
            errors,
            "is more than the whole",
            "a numerator of at most the denominator is right",
        );
        return None;
    }
    Some(fraction)
}

/// What `denominator` is where it is left out.
fn hundred() -> u32 {
    100
}

/// The CRD's integers are signed, of 32 bits.
const FRACTION_MAX: u64 = i32::MAX as u64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_in_parts_of_a_million() {
        let fraction = |numerator, denominator| Some(Fraction { numerator, denominator });
        for (percent, fraction, expect) in [
            (None, None, 1_000_000),
            (Some(0), None, 0),
            (Some(7), None, 70_000),
            (Some(100), None, 1_000_000),
            (None, fraction(1, 3), 333_333),
            (None, fraction(2, 3), 666_667),
            (None, fraction(5, 1000), 5_000),
            (None, fraction(i32::MAX as u32, i32::MAX as u32), 1_000_000),
            (None, fraction(1, i32::MAX as u32), 1),
            (None, fraction(0, i32::MAX as u32), 0),
        ] {
            let mirror = RequestMirror {
                backend_ref: ObjectRef {
                    kind: BackendKind::service(),
                    namespace: None,
                    name: "a".to_owned(),
                    port: Some(NonZeroU16::MIN),
                },
                percent,
                fraction,
            };
            assert_eq!(mirror.parts_per_million(), expect, "{percent:?} {fraction:?}");
        }
    }
}
