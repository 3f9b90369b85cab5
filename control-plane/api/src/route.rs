//! What HTTPRoute and GRPCRoute have in common.

use crate::grpc_route::GrpcRouteSpec;
use crate::http_route::{
    BackendRef, HttpRouteFilter, HttpRouteSpec, ParentRef, Reference, ReferencePlace, Retry, RouteTimeouts, references,
};
use crate::object::{Object, Spec};

/// What a route asks for, whichever of the two it is.
#[derive(Clone, Copy, Debug)]
pub enum RouteSpec<'a> {
    /// An HTTPRoute.
    Http(&'a HttpRouteSpec),
    /// A GRPCRoute.
    Grpc(&'a GrpcRouteSpec),
}

/// A rule of a route, without its matches.
#[derive(Clone, Copy, Debug)]
pub struct RouteRule<'a> {
    /// Its name.
    pub name: Option<&'a str>,
    /// What changes.
    pub filters: &'a [HttpRouteFilter],
    /// Where requests go.
    pub backend_refs: &'a [BackendRef],
    /// How long requests may take.
    pub timeouts: Option<RouteTimeouts>,
    /// When they are sent again.
    pub retry: Option<&'a Retry>,
}

impl RouteRule<'_> {
    /// Whether no request is sent by it, since each is answered with a redirect.
    pub fn redirects(&self) -> bool {
        let redirects = |filters: &[HttpRouteFilter]| {
            let mut filters = filters.iter();
            filters.any(|filter| matches!(filter, HttpRouteFilter::RequestRedirect(_)))
        };
        let mut taken = self.backend_refs.iter().filter(|backend| backend.weight > 0).peekable();
        redirects(self.filters) || (taken.peek().is_some() && taken.all(|backend| redirects(&backend.filters)))
    }
}

impl<'a> RouteSpec<'a> {
    /// What an object asks for; `None`: it is no route.
    pub fn of(object: &'a Object) -> Option<RouteSpec<'a>> {
        match &object.spec {
            Spec::HttpRoute(spec) => Some(RouteSpec::Http(spec)),
            Spec::GrpcRoute(spec) => Some(RouteSpec::Grpc(spec)),
            Spec::Namespace(_)
            | Spec::MeshConfig(_)
            | Spec::ConfigMap(_)
            | Spec::BackendTlsPolicy(_)
            | Spec::Service(_)
            | Spec::EndpointSlice(_)
            | Spec::Workload(_)
            | Spec::BackendPolicy(_)
            | Spec::RoutePolicy(_)
            | Spec::TelemetryPolicy(_)
            | Spec::ReferenceGrant(_) => None,
        }
    }

    /// The services whose callers it is for.
    pub fn parent_refs(self) -> &'a [ParentRef] {
        match self {
            RouteSpec::Http(spec) => &spec.parent_refs,
            RouteSpec::Grpc(spec) => &spec.parent_refs,
        }
    }

    /// Hosts it is for; empty: every host.
    pub fn hostnames(self) -> &'a [String] {
        match self {
            RouteSpec::Http(spec) => &spec.hostnames,
            RouteSpec::Grpc(spec) => &spec.hostnames,
        }
    }

    /// Its rules.
    pub fn rules(self) -> Vec<RouteRule<'a>> {
        match self {
            RouteSpec::Http(spec) => spec
                .rules
                .iter()
                .map(|rule| RouteRule {
                    name: rule.name.as_deref(),
                    filters: &rule.filters,
                    backend_refs: &rule.backend_refs,
                    timeouts: rule.timeouts,
                    retry: rule.retry.as_ref(),
                })
                .collect(),
            RouteSpec::Grpc(spec) => spec
                .rules
                .iter()
                .map(|rule| RouteRule {
                    name: rule.name.as_deref(),
                    filters: &rule.filters,
                    backend_refs: &rule.backend_refs,
                    timeouts: None,
                    retry: None,
                })
                .collect(),
        }
    }

    /// All that it refers to beside its parents, with where that stands.
    pub fn references(self) -> impl Iterator<Item = (ReferencePlace, Reference<'a>)> {
        let rules = self.rules().into_iter().enumerate();
        rules.flat_map(|(number, rule)| references(number, rule.filters, rule.backend_refs))
    }
}
