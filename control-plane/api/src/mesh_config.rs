//! MeshConfig: settings of the whole mesh.

use schemars::JsonSchema;
use serde::Serialize;

use crate::decode::{Errors, Node};

/// The name of the only MeshConfig there is.
pub const NAME: &str = "mesh";

/// Settings of the whole mesh.
///
/// Rule: there is one MeshConfig, named `mesh`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(default)]
pub struct MeshConfigSpec {
    /// What becomes of requests for names that are none of the mesh's.
    pub egress: Egress,
}

/// What becomes of requests for names that are none of the mesh's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub enum Egress {
    /// They are refused.
    #[default]
    Refuse,
}

pub(crate) fn read(node: &Node<'_>, errors: &mut Errors) -> Option<MeshConfigSpec> {
    let mut fields = node.fields(errors)?;
    let egress = fields.optional("egress", errors, |node, errors| {
        node.choice(errors, &[("Refuse", Egress::Refuse)])
    });
    fields.finish(errors);
    Some(MeshConfigSpec {
        egress: egress.unwrap_or_default(),
    })
}
