//! Namespace: what owns names.

use serde::Serialize;

/// What a Namespace asks for: nothing yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NamespaceSpec {}
