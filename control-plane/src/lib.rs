//! Weir's control plane: the API, the store, the xDS server, the trace view.

pub mod store;
