//! Route configurations: hosts, routes and what becomes of a request.

use std::collections::HashSet;

use envoy_types::pb::envoy::config::core::v3::DataSource;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use envoy_types::pb::envoy::config::route::v3::retry_policy::RetryBackOff;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::{
    ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier,
};
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, RedirectAction, RetryPolicy, Route, RouteAction, RouteConfiguration, VirtualHost,
    WeightedCluster,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, RegexMatcher};
use http::StatusCode;
use weir_policy::model;
use weir_policy::model::{HostMatch, PathMatch, PathRewrite, Scheme, Timeouts, WeightedBackend};

use super::at::{At, Fault, take};
use super::checks::{duration, name, number_or, own_metadata, positive, text, unpack};
use super::matches::{path_text, route_match};
use super::{headers, hosts};
use crate::meaning::{
    DEFAULT_BACKOFF, DEFAULT_TIMEOUT, METADATA_KEY, PathChange, RETRY_ON, WHOLE_PATH, longest_backoff, path_change,
};
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
        response_headers_to_remove, action;
        decorator, typed_per_filter_config, tracing, per_request_buffer_limit_bytes, stat_prefix,
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

fn forward(at: &At<'_>, path: &PathMatch, wire: RouteAction) -> Result<model::Forward, Fault> {
    take!(at, wire, RouteAction {
        cluster_specifier, cluster_not_found_response_code, prefix_rewrite, regex_rewrite, timeout, retry_policy,
        host_rewrite_specifier;
        metadata_match, path_rewrite_policy, path_rewrite, append_x_forwarded_host, idle_timeout, flush_timeout,
        early_data_policy, retry_policy_typed_config, request_mirror_policies, priority, rate_limits,
        include_vh_rate_limits, hash_policy, cors, max_grpc_timeout, grpc_timeout_offset, upgrade_configs,
        internal_redirect_policy, internal_redirect_action, max_internal_redirects, hedge_policy,
        max_stream_duration
    });
    let at_code = at.field("cluster_not_found_response_code");
    match at_code.known(cluster_not_found_response_code)? {
        ClusterNotFoundResponseCode::InternalServerError => {}
        other @ (ClusterNotFoundResponseCode::ServiceUnavailable | ClusterNotFoundResponseCode::NotFound) => {
            let expected = "INTERNAL_SERVER_ERROR";
            return Err(at_code.fault(other.as_str_name(), Problem::Unsupported { expected }));
        }
    }
    let request = match timeout {
        // Published: 0 is none.
        Some(wire) => Some(duration(&at.field("timeout"), wire)?).filter(|timeout| !timeout.is_zero()),
        None => Some(DEFAULT_TIMEOUT),
    };
    let retries = retries(&at.field("retry_policy"), retry_policy)?;
    Ok(model::Forward {
        backends: backends(at, cluster_specifier)?,
        rewrite: model::Rewrite {
            host: rewritten_host(at, host_rewrite_specifier)?,
            path: rewritten_path(at, path, prefix_rewrite, regex_rewrite)?,
        },
        timeouts: Timeouts {
            request,
            backend_request: retries.per_try_timeout,
        },
        retry: retries.policy,
    })
}

fn backends(at: &At<'_>, specifier: Option<ClusterSpecifier>) -> Result<Vec<WeightedBackend>, Fault> {
    let (at_cluster, at_weighted) = (at.field("cluster"), at.field("weighted_clusters"));
    let unsupported = |field: &'static str| {
        let expected = "cluster or weighted_clusters";
        Err(at.field(field).fault("", Problem::Unsupported { expected }))
    };
    let weighted = match at_cluster.need(specifier)? {
        ClusterSpecifier::Cluster(cluster) => {
            return Ok(vec![WeightedBackend {
                cluster: name(&at_cluster, &cluster)?,
                weight: 1,
            }]);
        }
        ClusterSpecifier::WeightedClusters(weighted) => weighted,
        ClusterSpecifier::ClusterHeader(_) => return unsupported("cluster_header"),
        ClusterSpecifier::ClusterSpecifierPlugin(_) => return unsupported("cluster_specifier_plugin"),
        ClusterSpecifier::InlineClusterSpecifierPlugin(_) => return unsupported("inline_cluster_specifier_plugin"),
    };
    take!(at_weighted, weighted, WeightedCluster {
        clusters;
        total_weight, runtime_key_prefix, random_value_specifier
    });
    let at_clusters = at_weighted.field("clusters");
    let mut backends = Vec::with_capacity(clusters.len());
    for (i, wire) in clusters.into_iter().enumerate() {
        let at = at_clusters.index(i);
        take!(at, wire, ClusterWeight {
            name, weight;
            cluster_header, metadata_match, request_headers_to_add, request_headers_to_remove,
            response_headers_to_add, response_headers_to_remove, typed_per_filter_config, host_rewrite_specifier
        });
        backends.push(WeightedBackend {
            cluster: self::name(&at.field("name"), &name)?,
            weight: at.field("weight").need(weight)?.value,
        });
    }
    let sum = shares(&backends);
    if u32::try_from(sum).is_err() {
        let allowed = "a sum of weights of at most 4294967295";
        return Err(at_clusters.fault(sum, Problem::OutOfRange { allowed }));
    }
    Ok(backends)
}

fn shares(backends: &[WeightedBackend]) -> u64 {
    // Each weight is below 2^32, and no message has 2^32 of them.
    backends.iter().map(|backend| u64::from(backend.weight)).sum()
}

fn rewritten_host(at: &At<'_>, specifier: Option<HostRewriteSpecifier>) -> Result<Option<String>, Fault> {
    let unsupported = |field: &'static str| Err(at.field(field).fault("", Problem::WithoutEffect));
    match specifier {
        None => Ok(None),
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => {
            let at = at.field("host_rewrite_literal");
            hosts::literal(&at, &host)?;
            Ok(Some(host))
        }
        Some(HostRewriteSpecifier::AutoHostRewrite(_)) => unsupported("auto_host_rewrite"),
        Some(HostRewriteSpecifier::HostRewriteHeader(_)) => unsupported("host_rewrite_header"),
        Some(HostRewriteSpecifier::HostRewritePathRegex(_)) => unsupported("host_rewrite_path_regex"),
        Some(HostRewriteSpecifier::HostRewrite(_)) => unsupported("host_rewrite"),
    }
}

fn rewritten_path(
    at: &At<'_>,
    path: &PathMatch,
    prefix: String,
    regex: Option<RegexMatchAndSubstitute>,
) -> Result<Option<PathRewrite>, Fault> {
    let (at_prefix, at_regex) = (at.field("prefix_rewrite"), at.field("regex_rewrite"));
    match (prefix.is_empty(), regex) {
        (true, None) => Ok(None),
        (false, None) => new_prefix(&at_prefix, path, prefix).map(Some),
        (true, Some(wire)) => {
            let (pattern, substitution) = substitution(&at_regex, wire)?;
            if pattern == WHOLE_PATH {
                path_text(&at_regex.field("substitution"), &substitution)?;
                return Ok(Some(PathRewrite::Full(substitution)));
            }
            joined_prefix(&at_regex, path, pattern, substitution).map(Some)
        }
        (false, Some(_)) => Err(at_prefix.fault(format_args!("{prefix:?}"), Problem::WithoutEffect)),
    }
}

/// `prefix_rewrite`: only where joining old and new as they are is what the Gateway API means.
fn new_prefix(at: &At<'_>, path: &PathMatch, prefix: String) -> Result<PathRewrite, Fault> {
    path_text(at, &prefix)?;
    let rewrite = PathRewrite::Prefix(prefix.clone());
    if !matches!(path, PathMatch::Prefix(_)) || path_change(path, &rewrite) != PathChange::Prefix(prefix.clone()) {
        let expected = "a prefix without '/' at its end, where the route matches a prefix other than '/'";
        return Err(at.fault(format_args!("{prefix:?}"), Problem::Unsupported { expected }));
    }
    Ok(rewrite)
}

/// `regex_rewrite`: only as [`path_change`] writes a prefix that needs one `/` where it joins.
fn joined_prefix(at: &At<'_>, path: &PathMatch, pattern: String, substitution: String) -> Result<PathRewrite, Fault> {
    path_text(&at.field("substitution"), &substitution)?;
    let rewrite = PathRewrite::Prefix(match substitution.strip_suffix('/') {
        Some("") | None => substitution.clone(),
        Some(prefix) => prefix.to_owned(),
    });
    let change = PathChange::Regex { pattern, substitution };
    if !matches!(path, PathMatch::Prefix(_)) || path_change(path, &rewrite) != change {
        let (PathChange::Regex { pattern, .. } | PathChange::Prefix(pattern)) = change;
        let expected = "an expression that takes the whole path, or the prefix of the route";
        return Err(at
            .field("pattern")
            .fault(format_args!("{pattern:?}"), Problem::Unsupported { expected }));
    }
    Ok(rewrite)
}

fn substitution(at: &At<'_>, wire: RegexMatchAndSubstitute) -> Result<(String, String), Fault> {
    take!(at, wire, RegexMatchAndSubstitute { pattern, substitution; });
    let at = at.field("pattern");
    take!(at, at.need(pattern)?, RegexMatcher { regex; engine_type });
    Ok((regex, substitution))
}

struct Retries {
    policy: Option<model::RetryPolicy>,
    per_try_timeout: Option<std::time::Duration>,
}

fn retries(at: &At<'_>, wire: Option<RetryPolicy>) -> Result<Retries, Fault> {
    let Some(wire) = wire else {
        return Ok(Retries {
            policy: None,
            per_try_timeout: None,
        });
    };
    take!(at, wire, RetryPolicy {
        retry_on, num_retries, per_try_timeout, retriable_status_codes, retry_back_off;
        per_try_idle_timeout, retry_priority, retry_host_predicate, retry_options_predicates,
        host_selection_retry_max_attempts, rate_limited_retry_back_off, retriable_headers,
        retriable_request_headers, refresh_cluster_on_retry
    });
    let per_try_timeout = match per_try_timeout {
        Some(wire) => Some(positive(&at.field("per_try_timeout"), wire)?),
        None => None,
    };
    if retry_on.is_empty() {
        // Nothing is retried, so only the timeout of the one attempt has an effect.
        at.refuse("num_retries", &num_retries)?;
        at.refuse("retriable_status_codes", &retriable_status_codes)?;
        at.refuse("retry_back_off", &retry_back_off)?;
        return Ok(Retries {
            policy: None,
            per_try_timeout,
        });
    }
    retried_on(&at.field("retry_on"), &retry_on)?;
    let mut codes = Vec::with_capacity(retriable_status_codes.len());
    for (i, code) in retriable_status_codes.into_iter().enumerate() {
        let at = at.field("retriable_status_codes");
        codes.push(status(&at.index(i), code, 400..=599, "400 to 599")?);
    }
    Ok(Retries {
        policy: Some(model::RetryPolicy {
            attempts: number_or(num_retries, 1),
            codes,
            backoff: backoff(&at.field("retry_back_off"), retry_back_off)?,
        }),
        per_try_timeout,
    })
}

/// The conditions must be just those that the model's retries have.
fn retried_on(at: &At<'_>, held: &str) -> Result<(), Fault> {
    let tokens: HashSet<&str> = held.split(',').map(str::trim).collect();
    let expected: HashSet<&str> = RETRY_ON.into_iter().collect();
    if tokens != expected {
        let expected = "connect-failure,refused-stream,reset,retriable-status-codes";
        return Err(at.fault(format_args!("{held:?}"), Problem::Unsupported { expected }));
    }
    Ok(())
}

fn backoff(at: &At<'_>, wire: Option<RetryBackOff>) -> Result<std::time::Duration, Fault> {
    let Some(wire) = wire else { return Ok(DEFAULT_BACKOFF) };
    take!(at, wire, RetryBackOff { base_interval, max_interval; });
    let (at_base, at_longest) = (at.field("base_interval"), at.field("max_interval"));
    let base = positive(&at_base, at_base.need(base_interval)?)?;
    if let Some(wire) = max_interval {
        let longest = positive(&at_longest, wire)?;
        if longest != longest_backoff(base) {
            let expected = "ten times base_interval";
            return Err(at_longest.fault(format_args!("{longest:?}"), Problem::Unsupported { expected }));
        }
    }
    Ok(base)
}

fn redirect(at: &At<'_>, path: &PathMatch, wire: RedirectAction) -> Result<model::Redirect, Fault> {
    take!(at, wire, RedirectAction {
        host_redirect, port_redirect, response_code, scheme_rewrite_specifier, path_rewrite_specifier;
        strip_query
    });
    let host = match host_redirect.as_str() {
        "" => None,
        host => {
            hosts::literal(&at.field("host_redirect"), host)?;
            Some(host_redirect)
        }
    };
    let port = u16::try_from(port_redirect).map_err(|_| {
        let allowed = "1 to 65535";
        at.field("port_redirect")
            .fault(port_redirect, Problem::OutOfRange { allowed })
    })?;
    let status = match at.field("response_code").known(response_code)? {
        RedirectResponseCode::MovedPermanently => StatusCode::MOVED_PERMANENTLY,
        RedirectResponseCode::Found => StatusCode::FOUND,
        RedirectResponseCode::SeeOther => StatusCode::SEE_OTHER,
        RedirectResponseCode::TemporaryRedirect => StatusCode::TEMPORARY_REDIRECT,
        RedirectResponseCode::PermanentRedirect => StatusCode::PERMANENT_REDIRECT,
    };
    Ok(model::Redirect {
        scheme: scheme(at, scheme_rewrite_specifier)?,
        host,
        port: std::num::NonZeroU16::new(port),
        path: redirected_path(at, path, path_rewrite_specifier)?,
        status,
    })
}

fn scheme(at: &At<'_>, specifier: Option<SchemeRewriteSpecifier>) -> Result<Option<Scheme>, Fault> {
    match specifier {
        None => Ok(None),
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Ok(Some(Scheme::Https)),
        Some(SchemeRewriteSpecifier::HttpsRedirect(false)) => {
            Err(at.field("https_redirect").fault("false", Problem::WithoutEffect))
        }
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => match scheme.as_str() {
            "http" => Ok(Some(Scheme::Http)),
            "https" => Ok(Some(Scheme::Https)),
            other => {
                let expected = "http or https";
                let held = format_args!("{other:?}");
                Err(at
                    .field("scheme_redirect")
                    .fault(held, Problem::Unsupported { expected }))
            }
        },
    }
}

fn redirected_path(
    at: &At<'_>,
    path: &PathMatch,
    specifier: Option<PathRewriteSpecifier>,
) -> Result<Option<PathRewrite>, Fault> {
    match specifier {
        None => Ok(None),
        Some(PathRewriteSpecifier::PathRedirect(whole)) => {
            path_text(&at.field("path_redirect"), &whole)?;
            Ok(Some(PathRewrite::Full(whole)))
        }
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => {
            new_prefix(&at.field("prefix_rewrite"), path, prefix).map(Some)
        }
        Some(PathRewriteSpecifier::RegexRewrite(wire)) => {
            let at = at.field("regex_rewrite");
            let (pattern, substitution) = substitution(&at, wire)?;
            joined_prefix(&at, path, pattern, substitution).map(Some)
        }
        Some(PathRewriteSpecifier::PathRewrite(_)) => Err(at.field("path_rewrite").fault("", Problem::WithoutEffect)),
    }
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

fn status(
    at: &At<'_>,
    code: u32,
    range: std::ops::RangeInclusive<u16>,
    allowed: &'static str,
) -> Result<StatusCode, Fault> {
    let narrow = u16::try_from(code).ok().filter(|code| range.contains(code));
    let status = narrow.and_then(|code| StatusCode::from_u16(code).ok());
    status.ok_or_else(|| at.fault(code, Problem::OutOfRange { allowed }))
}

/// The longest body of a direct response, in bytes: Envoy's published default (`max_direct_response_body_size_bytes`).
const BODY_BYTES_MAX: usize = 4096;
