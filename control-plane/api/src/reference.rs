//! What a reference may point to.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::json;

use crate::decode::{Errors, Fields, Node};
use crate::http_route::read::TWIN;

/// The kind of resource that a reference points to. Serializes as the two fields `group` and `kind`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RefKind {
    /// A Service (group empty).
    #[default]
    Service,
}

impl Serialize for RefKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        match self {
            RefKind::Service => {
                map.serialize_entry("group", "")?;
                map.serialize_entry("kind", "Service")?;
            }
        }
        map.end()
    }
}

/// What a policy is for: each target once. `empty` says what is right where there is none.
pub(crate) fn policy_targets<T: PartialEq>(
    node: &Node<'_>,
    errors: &mut Errors,
    empty: &str,
    read: impl FnMut(&Node<'_>, &mut Errors) -> Option<T>,
) -> Option<Vec<T>> {
    let targets = node.list(errors, TARGETS_MAX, read)?;
    node.refuse_empty(errors, empty);
    node.refuse_twins(errors, &targets, |a, b| a == b, TWIN, "each target stands once");
    Some(targets)
}

/// How many targets a policy may have, as many as the Gateway API's BackendTLSPolicy.
pub(crate) const TARGETS_MAX: usize = 16;

/// The schema of a [`RefKind`] where absent means `""` and `Service`.
pub(crate) enum Implied {}

/// The schema of a [`RefKind`] where absent means something else than a Service.
pub(crate) enum Explicit {}

impl JsonSchema for Implied {
    fn schema_name() -> Cow<'static, str> {
        "Implied".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let group = json!({"type": "string", "enum": [""], "default": "", "description": GROUP});
        let kind = json!({"type": "string", "enum": ["Service"], "default": "Service", "description": KIND});
        json_schema!({"type": "object", "properties": {"group": group, "kind": kind}})
    }
}

impl JsonSchema for Explicit {
    fn schema_name() -> Cow<'static, str> {
        "Explicit".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let group = json!({"type": "string", "enum": [""], "description": GROUP});
        let kind = json!({"type": "string", "enum": ["Service"], "description": KIND});
        let properties = json!({"group": group, "kind": kind});
        json_schema!({"type": "object", "properties": properties, "required": ["group", "kind"]})
    }
}

/// Reads `group` and `kind`, where absent means `""` and `Service`.
pub(crate) fn service(fields: &mut Fields<'_>, errors: &mut Errors) -> Option<RefKind> {
    let group = fields.optional("group", errors, |node, errors| node.choice(errors, &[("", ())]));
    let kind = fields.optional("kind", errors, |node, errors| {
        node.choice(errors, &[("Service", RefKind::Service)])
    });
    let _ = group;
    Some(kind.unwrap_or_default())
}

/// Reads `group` and `kind`, where absent means something else than a Service.
pub(crate) fn explicit_service(fields: &mut Fields<'_>, errors: &mut Errors, means: &str) -> Option<RefKind> {
    for (name, remedy) in [
        ("group", "group: \"\" is right, for a Service"),
        ("kind", "kind: Service is right"),
    ] {
        if fields.get(name).is_none() {
            fields.node().missing(
                errors,
                name,
                format!("{remedy}; left out it means {means}, which is not supported"),
            );
        }
    }
    service(fields, errors)
}

const GROUP: &str = "The group of `kind`: empty, as Services are of the core group.";
const KIND: &str = "What is referred to: a Service.";
