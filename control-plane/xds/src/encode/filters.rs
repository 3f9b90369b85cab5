//! What routes say to HTTP filters: which pages may use them, how many requests come through, and what happens to
//! these on purpose.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::RuntimeFractionalPercent;
use envoy_types::pb::envoy::config::route::v3::FilterConfig;
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::FaultDelay;
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::fault_delay::FaultDelaySecifier;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::fault_abort::ErrorType;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault};
use envoy_types::pb::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{HttpFilter, http_filter};
use envoy_types::pb::envoy::r#type::v3::fractional_percent::DenominatorType;
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, TokenBucket};
use envoy_types::pb::google::protobuf::Any;
use prost::{Message, Name};
use weir_policy::model;

use super::{duration, number, pack};
use crate::meaning::{CORS_FILTER, FAULT_FILTER, METADATA_KEY, RATE_LIMIT_FILTER, WHOLE_PARTS};
use crate::v1;

/// The filters of a listener that routes of it may configure, in order. By themselves they do nothing.
pub(super) fn of_listener() -> Vec<HttpFilter> {
    let rate_limit = LocalRateLimit {
        // Envoy wants one.
        stat_prefix: "weir".to_owned(),
        ..LocalRateLimit::default()
    };
    vec![filter(RATE_LIMIT_FILTER, &rate_limit), fault_filter()]
}

/// The filter that injects faults, by itself none (gRFC A33 for gRPC's clients).
pub(super) fn fault_filter() -> HttpFilter {
    filter(FAULT_FILTER, &HttpFault::default())
}

/// What a route says to filters.
pub(super) fn of_route(route: &model::Route) -> HashMap<String, Any> {
    let mut configs = of_route_but_cors(route);
    configs.extend(own_of_route(route));
    match &route.cors {
        Some(cors) => with_cors(configs, cors),
        None => configs,
    }
}

/// What Envoy has no field for.
fn own_of_route(route: &model::Route) -> Option<(String, Any)> {
    let extras = v1::RouteExtras {
        priority: route.priority.map(|priority| priority.level().into()),
        policy: route.policy.as_ref().map(|policy| v1::HeldPolicy {
            name: policy.name.clone(),
            fields: policy.fields.clone(),
        }),
    };
    if extras == v1::RouteExtras::default() {
        return None;
    }
    let optional = FilterConfig {
        config: Some(pack(&extras)),
        is_optional: true,
        disabled: false,
    };
    Some((METADATA_KEY.to_owned(), pack(&optional)))
}

/// What of that Envoy knows, without its CORS.
pub(super) fn of_route_but_cors(route: &model::Route) -> HashMap<String, Any> {
    let rate_limit = route.rate_limit.as_ref().map(|limit| pack(&rate_limit(limit)));
    let rate_limit = rate_limit.map(|config| (RATE_LIMIT_FILTER.to_owned(), config));
    rate_limit.into_iter().chain(fault_of_route(route)).collect()
}

/// These with CORS.
pub(super) fn with_cors(mut configs: HashMap<String, Any>, cors: &model::Cors) -> HashMap<String, Any> {
    configs.insert(CORS_FILTER.to_owned(), super::cors::policy(cors));
    configs
}

/// What a route says to [`fault_filter`].
pub(super) fn fault_of_route(route: &model::Route) -> Option<(String, Any)> {
    let config = route.fault.as_ref().map(|one| pack(&fault(one)));
    config.map(|config| (FAULT_FILTER.to_owned(), config))
}

fn fault(fault: &model::Fault) -> HttpFault {
    let model::Fault { delay, abort } = fault;
    HttpFault {
        delay: delay.map(|delay| FaultDelay {
            percentage: Some(parts_per_million(delay.parts_per_million)),
            fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(duration(delay.duration))),
        }),
        abort: abort.map(|abort| FaultAbort {
            percentage: Some(parts_per_million(abort.parts_per_million)),
            response_body: String::new(),
            error_type: Some(match abort.answer {
                model::AbortAnswer::Http(status) => ErrorType::HttpStatus(status.as_u16().into()),
                model::AbortAnswer::Grpc(code) => ErrorType::GrpcStatus(code),
            }),
        }),
        ..HttpFault::default()
    }
}

fn rate_limit(limit: &model::RateLimit) -> LocalRateLimit {
    let model::RateLimit {
        name,
        requests,
        per,
        burst,
    } = limit;
    let all = RuntimeFractionalPercent {
        default_value: Some(parts_per_million(WHOLE_PARTS)),
        runtime_key: String::new(),
    };
    LocalRateLimit {
        stat_prefix: name.clone(),
        token_bucket: Some(TokenBucket {
            max_tokens: *burst,
            tokens_per_fill: Some(number(*requests)),
            fill_interval: Some(duration(*per)),
        }),
        // Unset both are none.
        filter_enabled: Some(all.clone()),
        filter_enforced: Some(all),
        rate_limited_as_resource_exhausted: true,
        enable_retry_after_header: true,
        ..LocalRateLimit::default()
    }
}

fn parts_per_million(numerator: u32) -> FractionalPercent {
    FractionalPercent {
        numerator,
        denominator: DenominatorType::Million.into(),
    }
}

fn filter<M: Message + Name>(name: &str, config: &M) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(pack(config))),
        ..HttpFilter::default()
    }
}
