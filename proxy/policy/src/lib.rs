//! Weir's pure decisions: which route a request takes, which endpoint serves it, whether a breaker lets it through,
//! whether it may be sent again. No I/O, no runtime, no protobuf: time and randomness are passed in, so the proxy,
//! `explain`, replay and a simulator decide alike.

pub mod backend_tls;
pub mod balance;
pub mod breaker;
pub mod context;
pub mod cors;
pub mod deadline;
pub mod egress;
pub mod fault;
pub mod health_check;
pub mod model;
pub mod mutual_tls;
pub mod names;
pub mod outlier;
pub mod precedence;
pub mod rate_limit;
pub mod retry;
pub mod roots;
pub mod route;
pub mod slow_start;
pub mod spiffe;
pub mod split;
pub mod spread;
pub mod telemetry;
pub mod time;
pub mod trace;
mod window;
