//! What a reference may point to.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

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
