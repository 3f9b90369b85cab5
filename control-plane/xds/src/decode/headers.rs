//! Names of header fields, and changes to them.

use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use http::HeaderName;
use weir_policy::model::HeaderChanges;

use super::at::{At, Fault, take};
use crate::rejection::Problem;

/// Changes in the order that the model has: removals, then what is set, then what is added.
pub(super) fn changes(
    at_add: &At<'_>,
    add: Vec<HeaderValueOption>,
    at_remove: &At<'_>,
    remove: Vec<String>,
) -> Result<HeaderChanges, Fault> {
    let mut changes = HeaderChanges::default();
    for (i, name) in remove.iter().enumerate() {
        changes.remove.push(header_name(&at_remove.index(i), name)?);
    }
    for (i, wire) in add.into_iter().enumerate() {
        let at = at_add.index(i);
        take!(at, wire, HeaderValueOption { header, append_action, keep_empty_value; append });
        let at_header = at.field("header");
        take!(at_header, at_header.need(header)?, HeaderValue { key, value, raw_value; });
        let name = header_name(&at_header.field("key"), &key)?;
        let value = header_value(&at_header, &value, &raw_value)?;
        if value.is_empty() != keep_empty_value {
            let expected = "true if the value is empty, else false";
            return Err(at
                .field("keep_empty_value")
                .fault(keep_empty_value, Problem::Unsupported { expected }));
        }
        let at_action = at.field("append_action");
        match at_action.known(append_action)? {
            HeaderAppendAction::OverwriteIfExistsOrAdd if changes.add.is_empty() => changes.set.push((name, value)),
            HeaderAppendAction::AppendIfExistsOrAdd => changes.add.push((name, value)),
            other @ HeaderAppendAction::OverwriteIfExistsOrAdd => {
                let expected = "before those that add: fields are set first";
                return Err(at_action.fault(other.as_str_name(), Problem::Unsupported { expected }));
            }
            other @ (HeaderAppendAction::AddIfAbsent | HeaderAppendAction::OverwriteIfExists) => {
                let expected = "APPEND_IF_EXISTS_OR_ADD or OVERWRITE_IF_EXISTS_OR_ADD";
                return Err(at_action.fault(other.as_str_name(), Problem::Unsupported { expected }));
            }
        }
    }
    Ok(changes)
}

/// The name of a field; a pseudo-header (`:path`) is none.
pub(super) fn header_name(at: &At<'_>, name: &str) -> Result<HeaderName, Fault> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| at.malformed(name, "is not the name of a header field"))
}

/// A value, of which Envoy's format commands are not part: `%%` is a `%`, and a single one is refused.
fn header_value(at: &At<'_>, text: &str, raw: &[u8]) -> Result<http::HeaderValue, Fault> {
    let (at, format) = match (text.as_bytes(), raw) {
        (text, []) => (at.field("value"), text),
        ([], raw) => (at.field("raw_value"), raw),
        (_, _) => return Err(at.field("raw_value").fault("", Problem::WithoutEffect)),
    };
    let held = || String::from_utf8_lossy(format).into_owned();
    let mut value = Vec::with_capacity(format.len());
    let mut bytes = format.iter();
    while let Some(byte) = bytes.next() {
        if *byte == b'%' && bytes.next() != Some(&b'%') {
            return Err(at.malformed(&held(), "holds a format command; a '%' is written '%%'"));
        }
        value.push(*byte);
    }
    http::HeaderValue::from_bytes(&value).map_err(|_| at.malformed(&held(), "is not a header's value"))
}
