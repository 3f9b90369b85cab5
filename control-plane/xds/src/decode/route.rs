//! Route configurations: hosts, routes, and answers that the mesh makes.

use std::collections::HashSet;

use envoy_types::pb::envoy::config::core::v3::DataSource;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::{DirectResponseAction, Route, RouteConfiguration, VirtualHost};
use http::StatusCode;
use weir_policy::model;
use weir_policy::model::{HostMatch, PathMatch};

use super::at::{At, Fault, take};
use super::checks::{own_metadata, status, text, unpack};
use super::filters::filters;
use super::forward::{forward, shares};
use super::matches::route_match;
use super::redirect::redirect;
use super::{headers, hosts};
use crate::meaning::METADATA_KEY;
use crate::rejection::Problem;
use crate::v1;

/// A route configuration whose name is yet to be read, since a listener's own has another kind of name.
pub(super) struct Configuration {
    pub(super) name: String,
    pub(super) virtual_hosts: Vec<model::VirtualHost>,
}

pub(super) fn configuration(at: &At<'_>, wire: RouteConfiguration) -> Result<Configuration, Fault> {
    take!(at, wire, RouteConfiguration {
        name, virtual_hosts, ignore_port_in_host_matching;
        vhds, internal_only_headers, response_headers_to_add, response_headers_to_remove, request_headers_to_add,
        request_headers_to_remove, most_specific_header_mutations_wins, validate_clusters,
        max_direct_response_body_size_bytes, cluster_specifier_plugins, request_mirror_policies, vhost_header,
        ignore_path_parameters_in_path_matching, typed_per_filter_config, metadata, route_specifiers
    });
    if !ignore_port_in_host_matching {
        let expected = "true: hosts are compared without port";
        return Err(at
            .field("ignore_port_in_host_matching")
            .fault("false", Problem::Unsupported { expected }));
    }
    let mut taken = HashSet::new();
    let mut hosts = Vec::with_capacity(virtual_hosts.len());
    for (i, wire) in virtual_hosts.into_iter().enumerate() {
        let at = at.field("virtual_hosts");
        hosts.push(virtual_host(&at.index(i), wire, &mut taken)?);
    }
    Ok(Configuration {
        name,
        virtual_hosts: hosts,
    })
}

fn virtual_host(at: &At<'_>, wire: VirtualHost, taken: &mut HashSet<HostMatch>) -> Result<model::VirtualHost, Fault> {
    take!(at, wire, VirtualHost {
        name, domains, routes;
        matcher, require_tls, virtual_clusters, rate_limits, request_headers_to_add, request_headers_to_remove,
        response_headers_to_add, response_headers_to_remove, cors, typed_per_filter_config,
        include_request_attempt_count, include_attempt_count_in_response, retry_policy, retry_policy_typed_config,
        hedge_policy, include_is_timeout_retry_header, per_request_buffer_limit_bytes, request_body_buffer_limit,
        request_mirror_policies, metadata, route_specifiers
    });
    let at_domains = at.field("domains");
    if domains.is_empty() {
        return Err(at_domains.fault("", Problem::Missing));
    }
    let mut hosts = Vec::with_capacity(domains.len());
    for (i, domain) in domains.iter().enumerate() {
        let at = at_domains.index(i);
        let host = hosts::host(&at, domain)?;
        if !taken.insert(host.clone()) {
            return Err(at.fault(format_args!("{domain:?}"), Problem::Duplicate));
        }
        hosts.push(host);
    }
    let at_routes = at.field("routes");
    let mut names = HashSet::new();
    let mut read = Vec::with_capacity(routes.len());
    for (i, wire) in routes.into_iter().enumerate() {
        let at = at_routes.index(i);
        let route = route(&at, wire)?;
        if !names.insert(route.name.clone()) {
            return Err(at
                .field("name")
                .fault(format_args!("{:?}", route.name), Problem::Duplicate));
        }
        read.push(route);
    }
    Ok(model::VirtualHost {
        name: text(&at.field("name"), name)?,
        hosts,
        routes: read,
    })
}

fn route(at: &At<'_>, wire: Route) -> Result<model::Route, Fault> {
    take!(at, wire, Route {
        name, r#match, metadata, request_headers_to_add, request_headers_to_remove, response_headers_to_add,
        response_headers_to_remove, typed_per_filter_config, action;
        decorator, tracing, per_request_buffer_limit_bytes, stat_prefix,
        request_body_buffer_limit, route_specifiers
    });
    let at_match = at.field("match");
    let matches = route_match(&at_match, at_match.need(r#match)?)?;
    let at_metadata = at.field("metadata");
    let without_backend = own_metadata::<v1::NoBackend>(&at_metadata, metadata, "a weir.v1.NoBackend")?;
    let unexpected = |noted: Option<v1::NoBackend>| at.refuse("metadata", &noted);
    let action = match action {
        Some(Action::Route(wire)) => {
            unexpected(without_backend)?;
            let at = at.field("route");
            let forward = forward(&at, &matches.path, wire)?;
            if shares(&forward.backends) == 0 {
                let allowed = "a sum of weights of 1 and more";
                return Err(at
                    .field("weighted_clusters")
                    .fault("0", Problem::OutOfRange { allowed }));
            }
            model::Action::Forward(forward)
        }
        Some(Action::Redirect(wire)) => {
            unexpected(without_backend)?;
            model::Action::Redirect(redirect(&at.field("redirect"), &matches.path, wire)?)
        }
        Some(Action::DirectResponse(wire)) => {
            let response = direct_response(&at.field("direct_response"), wire)?;
            match without_backend {
                None => model::Action::Respond(response),
                Some(noted) => {
                    let at_typed = at_metadata.field("typed_filter_metadata");
                    let at = at_typed.key(METADATA_KEY);
                    model::Action::Forward(no_backend(&at, &matches.path, noted, &response)?)
                }
            }
        }
        Some(Action::FilterAction(_)) => return Err(at.field("filter_action").fault("", Problem::WithoutEffect)),
        Some(Action::NonForwardingAction(_)) => {
            return Err(at.field("non_forwarding_action").fault("", Problem::WithoutEffect));
        }
        None => return Err(at.field("route").fault("", Problem::Missing)),
    };
    let filters = filters(&at.field("typed_per_filter_config"), typed_per_filter_config)?;
    Ok(model::Route {
        name: text(&at.field("name"), name)?,
        matches,
        request_headers: headers::changes(
            &at.field("request_headers_to_add"),
            request_headers_to_add,
            &at.field("request_headers_to_remove"),
            request_headers_to_remove,
        )?,
        response_headers: headers::changes(
            &at.field("response_headers_to_add"),
            response_headers_to_add,
            &at.field("response_headers_to_remove"),
            response_headers_to_remove,
        )?,
        cors: filters.cors,
        rate_limit: filters.rate_limit,
        fault: filters.fault,
        priority: filters.priority,
        policy: filters.policy,
        action,
    })
}

/// What a route without backends was asked to do; its standard part must answer as the model says such routes do.
fn no_backend(
    at: &At<'_>,
    path: &PathMatch,
    noted: v1::NoBackend,
    standard: &model::DirectResponse,
) -> Result<model::Forward, Fault> {
    take!(at, noted, v1::NoBackend { route; });
    let at_route = at.field("route");
    let asked = unpack(&at_route, &at_route.need(route)?, "a RouteAction")?;
    let forward = forward(&at_route, path, asked)?;
    let sum = shares(&forward.backends);
    if sum != 0 {
        let allowed = "a sum of weights of 0";
        let at = at_route.field("weighted_clusters");
        return Err(at.fault(sum, Problem::OutOfRange { allowed }));
    }
    if standard.status != StatusCode::INTERNAL_SERVER_ERROR || !standard.body.is_empty() {
        let expected = "beside a direct response of 500 without a body";
        return Err(at.fault(standard.status, Problem::Unsupported { expected }));
    }
    Ok(forward)
}

/// Envoy, too, takes 200 to 599 here.
fn direct_response(at: &At<'_>, wire: DirectResponseAction) -> Result<model::DirectResponse, Fault> {
    take!(at, wire, DirectResponseAction { status, body; body_format });
    let status = self::status(&at.field("status"), status, 200..=599, "200 to 599")?;
    let at = at.field("body");
    let body = match body {
        None => String::new(),
        Some(wire) => {
            take!(at, wire, DataSource { specifier; watched_directory });
            match specifier {
                Some(Specifier::InlineString(body)) => body,
                Some(Specifier::Filename(_) | Specifier::InlineBytes(_) | Specifier::EnvironmentVariable(_)) | None => {
                    let expected = "an inline_string";
                    return Err(at.fault("", Problem::Unsupported { expected }));
                }
            }
        }
    };
    if body.len() > BODY_BYTES_MAX {
        let allowed = "at most 4096 bytes";
        return Err(at.fault(format_args!("{} bytes", body.len()), Problem::OutOfRange { allowed }));
    }
    Ok(model::DirectResponse { status, body })
}

/// The longest body of a direct response, in bytes: Envoy's published default (`max_direct_response_body_size_bytes`).
const BODY_BYTES_MAX: usize = 4096;
