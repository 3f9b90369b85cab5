//! Weir's sidecar.

pub(crate) mod access_log;
pub(crate) mod clock;
pub mod config;
pub(crate) mod last_good;
pub(crate) mod mesh;
pub(crate) mod metrics;
pub(crate) mod otlp;
pub(crate) mod record;
pub(crate) mod snapshot;
pub(crate) mod telemetry;
#[cfg(test)]
mod test_golden;
pub(crate) mod xds;
