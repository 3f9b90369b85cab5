//! The program itself against a control plane and sidecars that run.

mod check;
mod explain;
mod identity;
mod resources;
mod support;
