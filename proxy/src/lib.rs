//! Weir's sidecar.

pub(crate) mod clock;
pub mod config;
pub(crate) mod mesh;
pub(crate) mod metrics;
pub(crate) mod record;
pub(crate) mod snapshot;
pub(crate) mod telemetry;
