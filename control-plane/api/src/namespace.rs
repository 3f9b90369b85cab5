//! Namespace: what owns names.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::decode::{Errors, Node};

/// What owns names: services, workloads, routes and policies are in one.
///
/// Rule: its name is a DNS label: at most 63 characters, no dot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(extend("x-properties" = {"finalizers": {
    "type": "array",
    "maxItems": 1,
    "items": {"type": "string", "enum": ["kubernetes"]},
    "description": "Written by Kubernetes; without effect, and not kept.",
}}))]
pub struct NamespaceSpec {}

/// What became of a namespace (Kubernetes, NamespaceStatus).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NamespaceStatus {
    /// Whether it takes resources.
    pub phase: Phase,
}

/// Whether a namespace takes resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "NamespacePhase")]
pub enum Phase {
    /// It does.
    Active,
    /// It is being deleted: it takes none, and goes when all that is in it is gone.
    Terminating,
}

pub(crate) fn read(node: &Node<'_>, errors: &mut Errors) -> Option<NamespaceSpec> {
    let mut fields = node.fields(errors)?;
    // Kubernetes writes ["kubernetes"] there, which asks for nothing here.
    fields.optional("finalizers", errors, |node, errors| {
        node.list(errors, 1, |node, errors| node.choice(errors, &[("kubernetes", ())]))
    });
    fields.finish(errors);
    Some(NamespaceSpec {})
}
