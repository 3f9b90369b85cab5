//! Weir's sidecar.
fn main() {}
