//! Namespace: what owns names.

use serde::Serialize;

use crate::decode::{Errors, Node};

/// What a Namespace asks for: nothing yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NamespaceSpec {}

pub(crate) fn read(node: &Node<'_>, errors: &mut Errors) -> Option<NamespaceSpec> {
    let mut fields = node.fields(errors)?;
    // Kubernetes writes ["kubernetes"] there, which asks for nothing here.
    fields.optional("finalizers", errors, |node, errors| {
        node.list(errors, 1, |node, errors| node.choice(errors, &[("kubernetes", ())]))
    });
    fields.finish(errors);
    Some(NamespaceSpec {})
}
