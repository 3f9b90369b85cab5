//! Weir's sidecar.

pub(crate) mod access_log;
pub(crate) mod admin;
pub(crate) mod answer;
pub(crate) mod app_health;
pub(crate) mod attempt;
pub(crate) mod calls;
pub(crate) mod cleartext;
pub mod cli;
pub(crate) mod clock;
pub mod config;
pub(crate) mod contexts;
pub(crate) mod drain;
pub(crate) mod egress;
pub(crate) mod endpoints;
pub(crate) mod error;
pub(crate) mod exchange;
pub(crate) mod explain;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub(crate) mod health_check;
mod http;
pub(crate) mod identity;
pub(crate) mod inbound;
pub(crate) mod last_good;
pub(crate) mod mesh;
pub(crate) mod metrics;
mod mirror;
pub(crate) mod otlp;
pub(crate) mod outbound;
pub(crate) mod plan;
pub mod process_log;
pub mod proxy;
pub(crate) mod record;
pub(crate) mod relay;
pub(crate) mod snapshot;
pub(crate) mod tcp;
pub(crate) mod telemetry;
pub(crate) mod telemetry_policy;
#[cfg(test)]
mod test_golden;
pub(crate) mod tls;
pub(crate) mod tunnel;
pub(crate) mod worker;
pub(crate) mod workloads;
pub(crate) mod xds;

pub use proxy::{Addresses, Drained, Proxy, StartError};
