//! ConfigMap (`v1`): texts by name. A BackendTLSPolicy takes certificates from it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::decode::{Errors, Fields, Node, boolean};
use crate::error::FieldError;
use crate::schema::texts::Base64;

/// Texts by name. What Weir reads of it are the certificates that a BackendTLSPolicy refers to, under `ca.crt`; the
/// rest is kept as given, without effect. It is no place for what is secret: whoever reads resources reads it.
///
/// Rule: what `data` and `binaryData` hold, names and all, has at most 1048576 bytes, and a name stands in one of them
/// only once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapBody {
    /// Texts by name.
    ///
    /// Rule: names are of 1 to 253 letters, digits, '-', '_' and '.'.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(default)]
    pub data: BTreeMap<String, String>,
    /// Bytes by name, in base64. Kept as given, without effect.
    ///
    /// Rule: names are of 1 to 253 letters, digits, '-', '_' and '.'.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, Base64>", default)]
    pub binary_data: BTreeMap<String, String>,
    /// Given as true, `data` and `binaryData` stay as they are for as long as the ConfigMap is there, and so does this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub immutable: Option<bool>,
}

impl ConfigMapBody {
    /// Whether this may stand in the place of `held`, which may be immutable.
    ///
    /// # Errors
    /// What of it may not change.
    pub fn replaces(&self, held: &ConfigMapBody) -> Result<(), FieldError> {
        if held.immutable != Some(true) {
            return Ok(());
        }
        let fields = [
            ("immutable", self.immutable == held.immutable),
            ("data", self.data == held.data),
            ("binaryData", self.binary_data == held.binary_data),
        ];
        match fields.iter().find(|(_, same)| !same) {
            None => Ok(()),
            Some((field, _)) => Err(FieldError::new(
                *field,
                &Value::Null,
                "can't be changed: the ConfigMap is immutable",
                "delete it and create it anew, or create another one",
            )),
        }
    }
}

/// Reads the fields at the top of the resource.
pub(crate) fn read(fields: &mut Fields<'_>, errors: &mut Errors) -> Option<ConfigMapBody> {
    let data = fields.optional("data", errors, |node, errors| {
        read_entries(node, errors, |node, errors| node.text(errors).map(str::to_owned))
    });
    let data = data.unwrap_or_default();
    let binary_data = fields.optional("binaryData", errors, |node, errors| {
        read_entries(node, errors, |node, errors| {
            let text = node.text(errors)?;
            if is_base64(text) {
                return Some(text.to_owned());
            }
            node.refuse(
                errors,
                "is not base64",
                "base64 with its padding is right (RFC 4648 section 4)",
            );
            None
        })
    });
    let binary_data = binary_data.unwrap_or_default();
    let immutable = fields.optional("immutable", errors, boolean);
    if let Some(node) = fields.get("binaryData")
        && let Some(twin) = binary_data.keys().find(|name| data.contains_key(*name))
    {
        node.refuse(
            errors,
            format!("holds {twin:?}, which data holds as well"),
            "each name stands once",
        );
    }
    let held = |entries: &BTreeMap<String, String>, size: fn(&str) -> usize| -> usize {
        entries.iter().map(|(name, value)| name.len() + size(value)).sum()
    };
    let bytes = held(&data, str::len) + held(&binary_data, decoded_bytes);
    if bytes > BYTES_MAX {
        fields.node().refuse(
            errors,
            format!("holds {bytes} bytes"),
            format!("at most {BYTES_MAX} are right in data and binaryData"),
        );
    }
    Some(ConfigMapBody {
        data,
        binary_data,
        immutable,
    })
}

fn read_entries(
    node: &Node<'_>,
    errors: &mut Errors,
    read: impl Fn(&Node<'_>, &mut Errors) -> Option<String>,
) -> Option<BTreeMap<String, String>> {
    let mut entries = BTreeMap::new();
    node.entries(errors, usize::MAX, |name, node, errors| {
        if !is_name(name) {
            node.refuse(errors, "stands under a name that is none", NAME_REMEDY);
        }
        entries.extend(read(node, errors).map(|value| (name.to_owned(), value)));
    });
    Some(entries)
}

/// Kubernetes, IsConfigMapKey.
fn is_name(name: &str) -> bool {
    let right = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=253).contains(&name.len()) && name.bytes().all(right) && name != "." && !name.starts_with("..")
}

fn is_base64(text: &str) -> bool {
    let digits = text.trim_end_matches('=');
    let right = |b: u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
    // A last group of one digit says no byte.
    text.len().is_multiple_of(4) && text.len() - digits.len() <= 2 && digits.len() % 4 != 1 && digits.bytes().all(right)
}

fn decoded_bytes(base64: &str) -> usize {
    base64.trim_end_matches('=').len() * 3 / 4
}

/// Kubernetes' limit (MaxSecretSize, which counts for both).
const BYTES_MAX: usize = 1 << 20;

const NAME_REMEDY: &str = "1 to 253 letters, digits, '-', '_' and '.' are right, and neither '.' nor '..' in front";

#[cfg(test)]
mod tests {
    use crate::tests::{bad, good};

    const HEAD: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n";

    #[test]
    fn names_and_values() {
        for right in [
            "",
            "data: {}\n",
            "data: {ca.crt: '', A-b_c.1: x, .dotted: y}\n",
            "binaryData: {a: '', b: AA==, c: AAA=, d: AAAA}\nimmutable: false\n",
        ] {
            good(&format!("{HEAD}{right}"));
        }
        for (wrong, expect) in [
            (
                "data: {a/b: x}",
                "data[\"a/b\"]: \"x\" stands under a name that is none",
            ),
            ("data: {..: x}", "data[\"..\"]: \"x\" stands under a name that is none"),
            ("data: {a: 1}", "data.a: 1 is not text"),
            ("binaryData: {a: A}", "binaryData.a: \"A\" is not base64"),
            ("binaryData: {a: A===}", "binaryData.a: \"A===\" is not base64"),
            ("binaryData: {a: AA=A}", "binaryData.a: \"AA=A\" is not base64"),
            (
                "{data: {a: x}, binaryData: {a: AAAA}}",
                "binaryData: {\"a\":\"AAAA\"} holds \"a\", which data holds as well",
            ),
            ("spec: {}", "spec: {} stands in an unknown field"),
        ] {
            let fields = wrong.strip_prefix('{').and_then(|both| both.strip_suffix('}'));
            let wrong = fields.map_or(wrong.to_owned(), |both| both.replace("}, ", "}\n"));
            let line = 4 + wrong.matches('\n').count();
            bad(&format!("{HEAD}{wrong}\n"), &[&format!("f:{line}: {expect}")]);
        }
    }

    #[test]
    fn one_that_is_immutable_stays_as_it_is() {
        let read = |fields: &str| match good(&format!("{HEAD}{fields}")).spec {
            crate::Spec::ConfigMap(body) => body,
            other => panic!("{other:?}"),
        };
        let held = read("data: {a: x}\nimmutable: true\n");
        assert_eq!(held.replaces(&held), Ok(()));
        for (fields, wrong) in [
            ("data: {a: y}\nimmutable: true\n", "data"),
            ("data: {a: x}\n", "immutable"),
            ("data: {a: x}\nimmutable: true\nbinaryData: {b: AAAA}\n", "binaryData"),
        ] {
            let refused = read(fields).replaces(&held).expect_err("it is immutable");
            assert_eq!(refused.path, wrong);
            assert_eq!(held.replaces(&read("data: {a: z}\n")), Ok(()), "it can become so");
        }
    }

    #[test]
    fn it_is_bounded() {
        let full = |bytes: usize| format!("{HEAD}data: {{a: {}}}\n", "x".repeat(bytes));
        good(&full(super::BYTES_MAX - 1));
        let text = full(super::BYTES_MAX);
        let errors = crate::yaml::read_objects(&text, "f", None).expect_err("too much");
        let said = errors[0].to_string();
        assert!(said.contains("holds 1048577 bytes"), "{}", &said[..200.min(said.len())]);
    }
}
