//! The decisions as the proxy meets them, from outside the crate.

mod breaker;
mod precedence;
mod routes;
mod support;
