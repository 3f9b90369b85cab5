//! Compiles Weir's own protos, and Istio's certificate service, without `protoc`: protox is a compiler in Rust.

use std::io;

const PROTOS: [&str; 3] = [
    "proto/istio/v1/auth/ca.proto",
    "proto/weir/v1/policy.proto",
    "proto/weir/v1/workloads.proto",
];

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"]).map_err(io::Error::other)?;
    let mut config = tonic_prost_build::Config::new();
    // So that our messages go into an `Any` like the published ones.
    config
        .enable_type_names()
        .type_name_domain(["."], "type.googleapis.com");
    tonic_prost_build::configure()
        // The same well-known types as in the envoy messages, so that there is one `Duration` and one `Any`.
        .compile_well_known_types(true)
        .extern_path(".google.protobuf", "::envoy_types::pb::google::protobuf")
        .compile_fds_with_config(descriptors, config)
}
