//! The program itself against a control plane and sidecars that run.

mod explain;
mod support;
