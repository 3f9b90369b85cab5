//! What a request costs in a sidecar, beside what it costs in the least that could be there: a bare hyper relay.
//!
//! Three programs: `origin` answers, `relay` passes on, `cost` runs the comparison. Both sides of a comparison take
//! turns within one run, many times, so that what else the machine does falls on both alike; each turn gives one
//! ratio, and the ratios give the interval. Programs of others take their turns with them where asked for (`beside`).
//!
//! And what a proxy costs the control plane: `scale`, with thousands of simulated ones; what a connection by mutual TLS
//! costs, beside a bare relay's and Envoy's: `handshake`; how many instructions a request takes: `instructions`.

pub mod beside;
pub mod callgrind;
pub mod certificates;
pub mod fleet;
pub mod load;
pub mod mesh;
pub mod process;
pub mod stats;
