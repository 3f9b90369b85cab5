//! Weir's sidecar.
