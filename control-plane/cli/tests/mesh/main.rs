//! The program itself against a control plane and sidecars that run.

mod check;
mod explain;
mod resources;
mod support;
