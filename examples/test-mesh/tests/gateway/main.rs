//! The Gateway API's routes for Services, across real sidecars. Each case has the name of the project's own conformance
//! test (`conformance/tests` of kubernetes-sigs/gateway-api); resources and expectations are ours.

mod backend_filters;
mod cors;
mod grants;
mod grpc;
mod mesh;
mod mirrors;
mod world;
