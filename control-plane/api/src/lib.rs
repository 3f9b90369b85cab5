//! Weir's resource types, their YAML and their validation: what a user writes, read strictly and whole. What is wrong
//! is refused with the field's path, what it held and what would be right; an unknown field is wrong.
//!
//! No I/O, no runtime and no protobuf: the control plane, the command line and tests read alike.

pub mod backend_policy;
pub mod backend_tls_policy;
pub mod config_map;
mod decode;
pub mod duration;
pub mod endpoint_slice;
mod error;
pub mod grpc_route;
pub mod http_route;
pub mod identity;
mod kind;
pub mod mesh_config;
pub mod names;
pub mod namespace;
mod object;
pub mod patch;
mod reference;
pub mod reference_grant;
mod route;
pub mod route_policy;
pub mod schema;
pub mod service;
pub mod status;
pub mod table;
pub mod telemetry_policy;
pub mod views;
pub mod workload;
pub mod yaml;

pub use error::FieldError;
pub use kind::{Access, Kind, PatchFormat, Scope, StatusPart};
pub use object::{Key, Metadata, Object, Spec};
pub use reference::{BackendKind, RefKind};
pub use route::{RouteRule, RouteSpec};

#[cfg(test)]
mod tests;
