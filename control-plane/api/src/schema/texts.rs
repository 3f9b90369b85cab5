//! What texts may look like, for schemas. The types hold nothing: a field says `with = "Label"`.
//!
//! The rules are those of `names.rs` and `duration.rs`; tests/schema.rs holds both against each other.

use std::borrow::Cow;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::duration;

/// Makes a type for each form of text: its pattern, and from how many to how many characters it has.
macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident = $pattern:expr, $from:literal to $to:literal;)*) => {$(
        $(#[$doc])*
        pub(crate) enum $name {}

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string", "pattern": $pattern, "minLength": $from, "maxLength": $to})
            }
        }
    )*};
}

texts! {
    /// A DNS label.
    Label = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", 1 to 63;
    /// A DNS label, or nothing.
    LabelOrEmpty = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$", 0 to 63;
    /// A DNS name.
    Subdomain = SUBDOMAIN, 1 to 253;
    /// A DNS name, the first label of which may be `*`.
    Host = format!(r"^(\*\.)?{}", SUBDOMAIN.trim_start_matches('^')), 1 to 253;
    /// The value of a label.
    LabelValue = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$", 0 to 63;
    /// The name of a header field (RFC 9110 section 5.1), or of a parameter of the query.
    FieldName = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$", 1 to 256;
    /// The value of a header field that is set (RFC 9110 section 5.5).
    FieldValue = r"^[!-~]([\t -~]*[!-~])?$", 1 to 4096;
    /// A path (RFC 3986 section 3.3).
    Path = PATH, 1 to 1024;
    /// A path, or nothing.
    PathOrEmpty = format!("^({})?$", PATH.trim_start_matches('^').trim_end_matches('$')), 0 to 1024;
    /// What a path is compared with: a path or a regular expression.
    PathPattern = PRINTABLE, 1 to 1024;
    /// What a header field is compared with.
    FieldPattern = PRINTABLE, 1 to 4096;
    /// What a parameter of the query is compared with.
    ParameterPattern = PRINTABLE, 1 to 1024;
    /// The name of a kind.
    KindName = "^[A-Za-z0-9]+$", 1 to 63;
    /// Anything that can be printed, or nothing.
    Printable = r"^[^\x00-\x1f\x7f-\x9f]*$", 0 to 256;
}

/// A duration (GEP-2257) from `FROM` to `TO` milliseconds.
pub(crate) enum Millis<const FROM: u64, const TO: u64> {}

impl<const FROM: u64, const TO: u64> JsonSchema for Millis<FROM, TO> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn schema_id() -> Cow<'static, str> {
        format!("Duration from {FROM} to {TO}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$",
            "x-weir-minimum": duration::format(Duration::from_millis(FROM)),
            "x-weir-maximum": duration::format(Duration::from_millis(TO)),
        })
    }
}

const SUBDOMAIN: &str = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$";
const PATH: &str = r"^/([A-Za-z0-9/._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*$";
const PRINTABLE: &str = r"^[^\x00-\x08\x0a-\x1f\x7f-\x9f]+$";
