//! What a reference may point to.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::decode::{Errors, Fields};

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
