//! How a request is sent on: to which clusters, how long, how often.

use std::collections::BTreeSet;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::RuntimeFractionalPercent;
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::retry_policy::RetryBackOff;
use envoy_types::pb::envoy::config::route::v3::route_action::{
    ClusterNotFoundResponseCode, ClusterSpecifier, RequestMirrorPolicy,
};
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::{ClusterWeight, cluster_weight};
use envoy_types::pb::envoy::config::route::v3::{HeaderMatcher, RetryPolicy, RouteAction, WeightedCluster};
use weir_policy::model;
use weir_policy::model::{
    BackendFilters, Backoff, Cors, Mirror, PathMatch, PathRewrite, Redirect, RetryMethods, RetryOn, Rewrite, Timeouts,
    WeightedBackend,
};

use super::at::{At, Fault, take};
use super::checks::{duration, name, number_or, own_filter_config, parts_per_million, positive, status, unpack};
use super::rewrite::{rewritten_host, rewritten_path};
use super::{cors, headers, hosts, redirect};
use crate::meaning::{
    DEFAULT_BACKOFF, DEFAULT_TIMEOUT, METADATA_KEY, METHOD, RETRIABLE_STATUS_CODES, WHOLE_PARTS, longest_backoff,
};
use crate::rejection::Problem;
use crate::v1;

pub(super) fn forward(at: &At<'_>, path: &PathMatch, wire: RouteAction) -> Result<model::Forward, Fault> {
    take!(at, wire, RouteAction {
        cluster_specifier, cluster_not_found_response_code, prefix_rewrite, regex_rewrite, timeout, retry_policy,
        host_rewrite_specifier, request_mirror_policies;
        metadata_match, path_rewrite_policy, path_rewrite, append_x_forwarded_host, idle_timeout, flush_timeout,
        early_data_policy, retry_policy_typed_config, priority, rate_limits,
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
        backends: backends(at, path, cluster_specifier)?,
        mirrors: mirrors(&at.field("request_mirror_policies"), request_mirror_policies)?,
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

pub(super) fn shares(backends: &[WeightedBackend]) -> u64 {
    // Each weight is below 2^32, and no message has 2^32 of them.
    backends.iter().map(|backend| u64::from(backend.weight)).sum()
}

fn backends(at: &At<'_>, path: &PathMatch, specifier: Option<ClusterSpecifier>) -> Result<Vec<WeightedBackend>, Fault> {
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
                filters: BackendFilters::default(),
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
            name, weight, request_headers_to_add, request_headers_to_remove, response_headers_to_add,
            response_headers_to_remove, typed_per_filter_config, host_rewrite_specifier;
            cluster_header, metadata_match
        });
        let at_config = at.field("typed_per_filter_config");
        let more = own_filter_config::<v1::BackendFilters>(&at_config, typed_per_filter_config, OWN_FILTERS)?;
        let more = backend_filters(&at_config.key(METADATA_KEY), path, more.unwrap_or_default())?;
        let host = match host_rewrite_specifier {
            None => None,
            Some(cluster_weight::HostRewriteSpecifier::HostRewriteLiteral(host)) => {
                hosts::literal(&at.field("host_rewrite_literal"), &host)?;
                Some(host)
            }
        };
        let changes = |add, remove, at_add: &'static str, at_remove: &'static str| {
            headers::changes(&at.field(at_add), add, &at.field(at_remove), remove)
        };
        backends.push(WeightedBackend {
            cluster: self::name(&at.field("name"), &name)?,
            weight: at.field("weight").need(weight)?.value,
            filters: BackendFilters {
                request_headers: changes(
                    request_headers_to_add,
                    request_headers_to_remove,
                    "request_headers_to_add",
                    "request_headers_to_remove",
                )?,
                response_headers: changes(
                    response_headers_to_add,
                    response_headers_to_remove,
                    "response_headers_to_add",
                    "response_headers_to_remove",
                )?,
                rewrite: Rewrite { host, path: more.path },
                redirect: more.redirect,
                mirrors: more.mirrors,
                cors: more.cors,
            },
        });
    }
    let sum = shares(&backends);
    if u32::try_from(sum).is_err() {
        let allowed = "a sum of weights of at most 4294967295";
        return Err(at_clusters.fault(sum, Problem::OutOfRange { allowed }));
    }
    Ok(backends)
}

/// What a backend's own filter configuration says.
struct OwnFilters {
    path: Option<PathRewrite>,
    redirect: Option<Redirect>,
    mirrors: Vec<Mirror>,
    cors: Option<Cors>,
}

fn backend_filters(at: &At<'_>, path: &PathMatch, wire: v1::BackendFilters) -> Result<OwnFilters, Fault> {
    take!(at, wire, v1::BackendFilters { route, redirect, cors; });
    let (at_route, at_redirect) = (at.field("route"), at.field("redirect"));
    let own_cors = cors.map(|any| cors::policy(&at.field("cors"), &any)).transpose()?;
    let redirect = match redirect {
        None => None,
        Some(any) => Some(redirect::redirect(
            &at_redirect,
            path,
            unpack(&at_redirect, &any, "a RedirectAction")?,
        )?),
    };
    let at = at_route;
    let wire = match route {
        None => RouteAction::default(),
        Some(any) => unpack(&at, &any, "a RouteAction")?,
    };
    take!(at, wire, RouteAction {
        prefix_rewrite, regex_rewrite, request_mirror_policies;
        cluster_specifier, cluster_not_found_response_code, timeout, retry_policy, host_rewrite_specifier,
        metadata_match, path_rewrite_policy, path_rewrite, append_x_forwarded_host, idle_timeout, flush_timeout,
        early_data_policy, retry_policy_typed_config, priority, rate_limits, include_vh_rate_limits, hash_policy, cors,
        max_grpc_timeout, grpc_timeout_offset, upgrade_configs, internal_redirect_policy, internal_redirect_action,
        max_internal_redirects, hedge_policy, max_stream_duration
    });
    Ok(OwnFilters {
        path: rewritten_path(&at, path, prefix_rewrite, regex_rewrite)?,
        redirect,
        cors: own_cors,
        mirrors: mirrors(&at.field("request_mirror_policies"), request_mirror_policies)?,
    })
}

fn mirrors(at: &At<'_>, wire: Vec<RequestMirrorPolicy>) -> Result<Vec<Mirror>, Fault> {
    let mirrors = wire.into_iter().enumerate();
    mirrors.map(|(i, wire)| mirror(&at.index(i), wire)).collect()
}

fn mirror(at: &At<'_>, wire: RequestMirrorPolicy) -> Result<Mirror, Fault> {
    take!(at, wire, RequestMirrorPolicy {
        cluster, runtime_fraction, disable_shadow_host_suffix_append;
        cluster_header, trace_sampled, request_headers_mutations, host_rewrite_literal
    });
    if !disable_shadow_host_suffix_append {
        let expected = "true: a copy asks for the same host";
        return Err(at
            .field("disable_shadow_host_suffix_append")
            .fault("false", Problem::Unsupported { expected }));
    }
    let parts_per_million = match runtime_fraction {
        // Published: unset is every request.
        None => WHOLE_PARTS,
        Some(wire) => {
            let at = at.field("runtime_fraction");
            take!(at, wire, RuntimeFractionalPercent { default_value; runtime_key });
            parts_per_million(
                &at.field("default_value"),
                at.field("default_value").need(default_value)?,
            )?
        }
    };
    Ok(Mirror {
        cluster: name(&at.field("cluster"), &cluster)?,
        parts_per_million,
    })
}

const OWN_FILTERS: &str = "a weir.v1.BackendFilters";

struct Retries {
    policy: Option<model::RetryPolicy>,
    per_try_timeout: Option<Duration>,
}

fn retries(at: &At<'_>, wire: Option<RetryPolicy>) -> Result<Retries, Fault> {
    let Some(wire) = wire else {
        return Ok(Retries {
            policy: None,
            per_try_timeout: None,
        });
    };
    take!(at, wire, RetryPolicy {
        retry_on, num_retries, per_try_timeout, retriable_status_codes, retry_back_off, retriable_request_headers;
        per_try_idle_timeout, retry_priority, retry_host_predicate, retry_options_predicates,
        host_selection_retry_max_attempts, rate_limited_retry_back_off, retriable_headers, refresh_cluster_on_retry
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
        at.refuse("retriable_request_headers", &retriable_request_headers)?;
        return Ok(Retries {
            policy: None,
            per_try_timeout,
        });
    }
    let words = words(&at.field("retry_on"), &retry_on)?;
    match words.by_status {
        ByStatus::Yes if retriable_status_codes.is_empty() => {
            return Err(at.field("retriable_status_codes").fault("", Problem::Missing));
        }
        ByStatus::Yes => {}
        ByStatus::No => at.refuse("retriable_status_codes", &retriable_status_codes)?,
    }
    let mut codes = Vec::with_capacity(retriable_status_codes.len());
    for (i, code) in retriable_status_codes.into_iter().enumerate() {
        let at = at.field("retriable_status_codes");
        codes.push(status(&at.index(i), code, 400..=599, "400 to 599")?);
    }
    Ok(Retries {
        policy: Some(model::RetryPolicy {
            attempts: number_or(num_retries, 1),
            on: words.on,
            codes,
            backoff: backoff(&at.field("retry_back_off"), retry_back_off)?,
            methods: methods(&at.field("retriable_request_headers"), retriable_request_headers)?,
        }),
        per_try_timeout,
    })
}

/// The words of `retry_on`.
struct Words {
    on: BTreeSet<RetryOn>,
    by_status: ByStatus,
}

/// Whether the list of statuses is meant.
enum ByStatus {
    Yes,
    No,
}

fn words(at: &At<'_>, held: &str) -> Result<Words, Fault> {
    let mut words = Words {
        on: BTreeSet::new(),
        by_status: ByStatus::No,
    };
    for word in held.split(',').map(str::trim) {
        match RetryOn::of_word(word) {
            Some(on) => {
                words.on.insert(on);
            }
            None if word == RETRIABLE_STATUS_CODES => words.by_status = ByStatus::Yes,
            None => {
                let expected = "5xx, gateway-error, reset, connect-failure, refused-stream, retriable-status-codes, \
                                cancelled, deadline-exceeded, internal, resource-exhausted or unavailable";
                return Err(at.fault(format_args!("{word:?}"), Problem::Unsupported { expected }));
            }
        }
    }
    Ok(words)
}

/// Nothing, or the one condition that every request fulfils.
fn methods(at: &At<'_>, wire: Vec<HeaderMatcher>) -> Result<RetryMethods, Fault> {
    match wire.as_slice() {
        [] => Ok(RetryMethods::Idempotent),
        [
            HeaderMatcher {
                name,
                invert_match: false,
                treat_missing_header_as_empty: false,
                header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(true)),
            },
        ] if name == METHOD => Ok(RetryMethods::Any),
        [first, ..] => {
            let expected = "left out, or :method with a present_match of true";
            Err(at.fault(format_args!("{:?}", first.name), Problem::Unsupported { expected }))
        }
    }
}

fn backoff(at: &At<'_>, wire: Option<RetryBackOff>) -> Result<Backoff, Fault> {
    let (base, max) = match wire {
        None => (DEFAULT_BACKOFF, None),
        Some(wire) => {
            take!(at, wire, RetryBackOff { base_interval, max_interval; });
            let at_base = at.field("base_interval");
            (positive(&at_base, at_base.need(base_interval)?)?, max_interval)
        }
    };
    let Some(wire) = max else {
        let max = longest_backoff(base);
        return Ok(Backoff { base, max });
    };
    let at = at.field("max_interval");
    let max = duration(&at, wire)?;
    if max < base {
        let allowed = "not shorter than base_interval";
        return Err(at.fault(format_args!("{max:?}"), Problem::OutOfRange { allowed }));
    }
    Ok(Backoff { base, max })
}
