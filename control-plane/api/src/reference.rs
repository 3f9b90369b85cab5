//! What a reference may point to.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::json;

use crate::decode::{Errors, Fields, Node};
use crate::http_route::read::TWIN;
use crate::kind::Kind;
use crate::names;
use crate::schema::texts::{KindName, SubdomainOrEmpty};

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

/// The kind of resource that a backend or a mirror is. The Gateway API takes any: of another than a Service the status
/// says that it can't be used.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema)]
pub struct BackendKind {
    /// The group of `kind`: empty for a Service.
    #[schemars(with = "SubdomainOrEmpty", default)]
    pub group: String,
    /// A Service. Nothing is sent to another kind: a backend's share of requests is answered as if it was not there, a
    /// mirror gets no copy, and the status says `InvalidKind`.
    #[schemars(with = "KindName", default = "service_kind")]
    pub kind: String,
}

impl BackendKind {
    /// A Service's.
    pub fn service() -> BackendKind {
        BackendKind {
            group: String::new(),
            kind: service_kind(),
        }
    }

    /// Whether it is a Service's, which alone can be used.
    pub fn is_service(&self) -> bool {
        self.group.is_empty() && self.kind == Kind::Service.kind()
    }
}

/// `Bucket.storage.example`; of the core group `Secret`.
impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind)?;
        match self.group.as_str() {
            "" => Ok(()),
            group => write!(f, ".{group}"),
        }
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

/// Reads the group of a kind that was read before it, if that one could be read. `groups`: a kind of each group that
/// is right somewhere.
pub(crate) fn group_of<const N: usize>(
    kind: Option<Kind>,
    groups: &[Kind; N],
    node: &Node<'_>,
    errors: &mut Errors,
) -> Option<()> {
    let group = node.choice(errors, &groups.map(|kind| (kind.group(), kind.group())))?;
    match kind {
        Some(kind) if kind.group() != group => {
            let remedy = format!("{:?} is right for {kind}", kind.group());
            node.refuse(errors, format!("is not the group of {kind}"), remedy);
            None
        }
        Some(_) | None => Some(()),
    }
}

/// How many targets a policy may have, as many as the Gateway API's BackendTLSPolicy.
pub(crate) const TARGETS_MAX: usize = 16;

/// The schema of a [`RefKind`] where absent means something else than a Service.
pub(crate) enum Explicit {}

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

/// Reads `group` and `kind` of a backend, where absent means `""` and `Service`.
pub(crate) fn backend_kind(fields: &mut Fields<'_>, errors: &mut Errors) -> Option<BackendKind> {
    let group = match fields.get("group") {
        Some(node) => {
            let is_right = |group: &str| group.is_empty() || names::is_subdomain(group);
            names::checked(&node, errors, is_right, "is no group", "\"\" is right, for a Service")
        }
        None => Some(String::new()),
    };
    let kind = match fields.get("kind") {
        Some(node) => names::kind(&node, errors, "Service is right"),
        None => Some(service_kind()),
    };
    Some(BackendKind {
        group: group?,
        kind: kind?,
    })
}

/// What `kind` of a backend is where it is left out.
fn service_kind() -> String {
    Kind::Service.kind().to_owned()
}

fn service(fields: &mut Fields<'_>, errors: &mut Errors) -> Option<RefKind> {
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
