//! Weir's pure decisions: which route a request takes, which endpoint serves it, whether a breaker lets it through,
//! whether it may be sent again. No I/O, no runtime, no protobuf: time and randomness are passed in, so the proxy,
//! `explain`, replay and a simulator decide alike.

pub mod model;
pub mod names;
