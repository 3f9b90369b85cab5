//! What texts may look like, for schemas. The types hold nothing: a field says `with = "Label"`.
//!
//! The rules are those of `names.rs` and `duration.rs`; tests/schema.rs holds both against each other.

use std::borrow::Cow;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::duration;

/// Makes a type for each form of text: what it is called, its pattern, and from how many to how many characters it has.
macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident = $form:literal, $pattern:expr, $from:literal to $to:literal;)*) => {$(
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
                json_schema!({
                    "type": "string",
                    "pattern": $pattern,
                    "minLength": $from,
                    "maxLength": $to,
                    "x-weir-form": $form,
                })
            }
        }
    )*};
}

texts! {
    /// A DNS label.
    Label = "DNS label", r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", 1 to 63;
    /// A DNS label, or nothing.
    LabelOrEmpty = "DNS label or empty", r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$", 0 to 63;
    /// A DNS name.
    Subdomain = "DNS name", SUBDOMAIN, 1 to 253;
    /// A DNS name, or nothing.
    SubdomainOrEmpty = "DNS name or empty", format!("^({})?$", SUBDOMAIN.trim_start_matches('^').trim_end_matches('$')), 0 to 253;
    /// A DNS name, the first label of which may be `*`.
    Host = "host", format!(r"^(\*\.)?{}", SUBDOMAIN.trim_start_matches('^')), 1 to 253;
    /// The name of a trust domain (SPIFFE-ID, section 2.1).
    TrustDomain = "trust domain", "^[a-z0-9._-]+$", 1 to 255;
    /// The value of a label.
    LabelValue = "label value", r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$", 0 to 63;
    /// The name of a header field (RFC 9110 section 5.1), or of a parameter of the query.
    FieldName = "field name", r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$", 1 to 256;
    /// The value of a header field that is set (RFC 9110 section 5.5).
    FieldValue = "field value", r"^[!-~]([\t -~]*[!-~])?$", 1 to 4096;
    /// A path (RFC 3986 section 3.3).
    Path = "path", PATH, 1 to 1024;
    /// A path, or nothing.
    PathOrEmpty = "path or empty", format!("^({})?$", PATH.trim_start_matches('^').trim_end_matches('$')), 0 to 1024;
    /// What a path is compared with: a path or a regular expression.
    PathPattern = "pattern", PRINTABLE, 1 to 1024;
    /// What a header field is compared with.
    FieldPattern = "pattern", PRINTABLE, 1 to 4096;
    /// What a parameter of the query is compared with.
    ParameterPattern = "pattern", PRINTABLE, 1 to 1024;
    /// An origin of pages, the host of which may be `*` or begin with it; or `*`.
    Origin = "origin", ORIGIN, 1 to 253;
    /// The name of an attribute of spans.
    AttributeName = "attribute name", r"^[A-Za-z][A-Za-z0-9._-]*$", 1 to 128;
    /// A URI with a scheme and an authority (RFC 3986 section 3).
    Uri = "absolute URI", r"^[A-Za-z][A-Za-z0-9+.-]*://[!-~]+$", 1 to 253;
    /// The name of a kind.
    KindName = "kind", "^[A-Za-z0-9]+$", 1 to 63;
    /// Anything that can be printed, or nothing.
    Printable = "printable text", r"^[^\x00-\x1f\x7f-\x9f]*$", 0 to 256;
}

/// Bytes (RFC 4648 section 4), as many as all that they are among may be.
pub(crate) enum Base64 {}

impl JsonSchema for Base64 {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Base64".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$",
            "x-weir-form": "base64",
        })
    }
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
const ORIGIN: &str = concat!(
    r"^(\*|https?://(\*|(\*\.)?[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*)",
    "(:([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?)$"
);
const PATH: &str = r"^/([A-Za-z0-9/._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*$";
const PRINTABLE: &str = r"^[^\x00-\x08\x0a-\x1f\x7f-\x9f]+$";
