//! Weir's sidecar.

pub mod config;
pub(crate) mod metrics;
pub(crate) mod record;
pub(crate) mod telemetry;
