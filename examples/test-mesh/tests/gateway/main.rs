//! The Gateway API's routes for Services, across real sidecars. Each case has the name of the project's own conformance
//! test (`conformance/tests` of kubernetes-sigs/gateway-api); resources and expectations are ours.

mod backend_filters;
mod backends;
mod changes;
mod cors;
mod grants;
mod grpc;
mod matching;
mod mesh;
mod mirrors;
mod time;
mod world;
