//! CORS in Envoy's terms: a filter that does what routes and their backends say of it.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::HeaderValueOption;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::{Route, RouteAction};
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::Cors;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{HttpFilter, http_filter};
use http::HeaderValue;
use http::header::VARY;
use weir_policy::cors::ANSWER_FIELDS;
use weir_policy::model;
use weir_policy::model::{HeaderChanges, Listed};

use super::not_sent::Notes;
use super::route::{header_options, removed};
use super::{filters, pack};
use crate::meaning::CORS_FILTER;

/// The filter, which does nothing for routes that say nothing of it.
pub(super) fn filter() -> HttpFilter {
    HttpFilter {
        name: CORS_FILTER.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(pack(&Cors::default()))),
        ..HttpFilter::default()
    }
}

/// Which CORS is in force for which backends of a route. An Envoy takes what a backend's own leaves open from the
/// route's: so either all have the same, which is the route's, or each has its own.
pub(super) enum Policies {
    /// Of the route, if it has any.
    OfRoute(Option<model::Cors>),
    /// Of each backend, if it has any.
    OfBackends(Vec<Option<model::Cors>>),
}

impl Policies {
    /// Takes them out of the backends, of which there is one at least.
    pub(super) fn take(of_route: Option<&model::Cors>, backends: &mut [model::WeightedBackend]) -> Policies {
        let own = backends.iter_mut().map(|backend| backend.filters.cors.take());
        let mut policies: Vec<Option<model::Cors>> = own.map(|own| own.or_else(|| of_route.cloned())).collect();
        match policies.iter().all(|policy| Some(policy) == policies.first()) {
            true => Policies::OfRoute(policies.pop().flatten()),
            false => Policies::OfBackends(policies),
        }
    }

    pub(super) fn note(&self, name: &str, notes: &mut Notes) {
        let all = match self {
            Policies::OfRoute(policy) => std::slice::from_ref(policy),
            Policies::OfBackends(policies) => policies,
        };
        let mut all = all.iter().flatten();
        if all.any(|cors| cors.credentials && cors.exposed_fields == Listed::Any) {
            let problem = "exposes every field of answers to pages with credentials, which Envoy can't; \
                           they can read none but those that all may";
            notes.route(name, problem);
        }
    }

    /// Writes them into a route that forwards.
    pub(super) fn write(&self, route: &mut Route) {
        match self {
            Policies::OfRoute(None) => {}
            Policies::OfRoute(Some(cors)) => {
                let configs = std::mem::take(&mut route.typed_per_filter_config);
                route.typed_per_filter_config = filters::with_cors(configs, cors);
                speaks_alone(
                    &mut route.response_headers_to_add,
                    &mut route.response_headers_to_remove,
                );
            }
            Policies::OfBackends(policies) => {
                let Some(Action::Route(RouteAction {
                    cluster_specifier: Some(ClusterSpecifier::WeightedClusters(weighted)),
                    ..
                })) = &mut route.action
                else {
                    return;
                };
                for (cluster, cors) in weighted.clusters.iter_mut().zip(policies) {
                    let Some(cors) = cors else { continue };
                    cluster.typed_per_filter_config = filters::with_cors(HashMap::new(), cors);
                    speaks_alone(
                        &mut cluster.response_headers_to_add,
                        &mut cluster.response_headers_to_remove,
                    );
                }
            }
        }
    }
}

/// Envoy's filter does nothing by routes that don't forward.
pub(super) fn note_own_answer(name: &str, cors: Option<&model::Cors>, notes: &mut Notes) {
    if cors.is_some() {
        let problem = "has CORS for an answer that Envoy itself makes, where it knows none: \
                       pages of other origins can't read it";
        notes.route(name, problem);
    }
}

/// What the app's answers say of CORS is taken out before Envoy's filter writes its own, and `Vary` says that it
/// depends on the origin, which that filter leaves to others.
fn speaks_alone(add: &mut Vec<HeaderValueOption>, remove: &mut Vec<String>) {
    let changes = HeaderChanges {
        remove: ANSWER_FIELDS.to_vec(),
        set: Vec::new(),
        add: vec![(VARY, HeaderValue::from_static("Origin"))],
    };
    add.extend(header_options(&changes));
    remove.extend(removed(&changes));
}
