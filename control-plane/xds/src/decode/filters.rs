//! What routes say to HTTP filters: which pages may use them, how many requests come through, and what happens to
//! these on purpose.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::RuntimeFractionalPercent;
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::FaultDelay;
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::fault_delay::FaultDelaySecifier;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::fault_abort::ErrorType;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault};
use envoy_types::pb::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use envoy_types::pb::envoy::r#type::v3::TokenBucket;
use envoy_types::pb::google::protobuf::Any;
use weir_policy::context::Priority;
use weir_policy::model;

use super::at::{At, Fault, take};
use super::checks::{number_or, own_filter_config, parts_per_million, positive, status, text, texts, unpack};
use super::cors;
use crate::meaning::{CORS_FILTER, FAULT_FILTER, METADATA_KEY, RATE_LIMIT_FILTER, WHOLE_PARTS};
use crate::rejection::Problem;
use crate::v1;

/// What a route says to filters.
#[derive(Default)]
pub(super) struct Filters {
    pub(super) cors: Option<model::Cors>,
    pub(super) rate_limit: Option<model::RateLimit>,
    pub(super) fault: Option<model::Fault>,
    pub(super) priority: Option<Priority>,
    pub(super) policy: Option<model::HeldPolicy>,
}

pub(super) fn filters(at: &At<'_>, configs: HashMap<String, Any>) -> Result<Filters, Fault> {
    let mut filters = Filters::default();
    for (key, any) in configs {
        match key.as_str() {
            CORS_FILTER => filters.cors = Some(cors::policy(&at.key(CORS_FILTER), &any)?),
            RATE_LIMIT_FILTER => {
                let at = at.key(RATE_LIMIT_FILTER);
                filters.rate_limit = Some(rate_limit(&at, unpack(&at, &any, "a LocalRateLimit")?)?);
            }
            FAULT_FILTER => {
                let at = at.key(FAULT_FILTER);
                filters.fault = Some(fault(&at, unpack(&at, &any, "an HTTPFault")?)?);
            }
            METADATA_KEY => {
                let own = HashMap::from([(key, any)]);
                if let Some(extras) = own_filter_config::<v1::RouteExtras>(at, own, "a weir.v1.RouteExtras")? {
                    let at = at.key(METADATA_KEY);
                    take!(at, extras, v1::RouteExtras { priority, policy; });
                    if (&priority, &policy) == (&None, &None) {
                        return Err(at.fault("", Problem::WithoutEffect));
                    }
                    filters.priority = priority
                        .map(|level| self::priority(&at.field("priority"), level))
                        .transpose()?;
                    filters.policy = policy.map(|wire| held_policy(&at.field("policy"), wire)).transpose()?;
                }
            }
            _ => return Err(at.fault(format_args!("{key:?}"), Problem::WithoutEffect)),
        }
    }
    Ok(filters)
}

fn held_policy(at: &At<'_>, wire: v1::HeldPolicy) -> Result<model::HeldPolicy, Fault> {
    take!(at, wire, v1::HeldPolicy { name, fields; });
    Ok(model::HeldPolicy {
        name: text(&at.field("name"), name)?,
        fields: texts(&at.field("fields"), fields)?,
    })
}

fn priority(at: &At<'_>, level: u32) -> Result<Priority, Fault> {
    let priority = u8::try_from(level).ok().and_then(Priority::from_level);
    priority.ok_or_else(|| at.fault(level, Problem::OutOfRange { allowed: "0 to 7" }))
}

fn rate_limit(at: &At<'_>, wire: LocalRateLimit) -> Result<model::RateLimit, Fault> {
    take!(at, wire, LocalRateLimit {
        stat_prefix, token_bucket, filter_enabled, filter_enforced, rate_limited_as_resource_exhausted,
        enable_retry_after_header;
        status, request_headers_to_add_when_not_enforced, response_headers_to_add, descriptors, stage,
        local_rate_limit_per_downstream_connection, local_cluster_rate_limit, enable_x_ratelimit_headers,
        vh_rate_limits, always_consume_default_token_bucket, rate_limits, max_dynamic_descriptors
    });
    always(&at.field("filter_enabled"), filter_enabled)?;
    always(&at.field("filter_enforced"), filter_enforced)?;
    let said = [
        (
            "rate_limited_as_resource_exhausted",
            rate_limited_as_resource_exhausted,
            "true: to gRPC callers it is RESOURCE_EXHAUSTED",
        ),
        (
            "enable_retry_after_header",
            enable_retry_after_header,
            "true: the answer says when to come again",
        ),
    ];
    for (field, held, expected) in said {
        if !held {
            return Err(at.field(field).fault("false", Problem::Unsupported { expected }));
        }
    }
    let at_bucket = at.field("token_bucket");
    take!(at_bucket, at_bucket.need(token_bucket)?, TokenBucket {
        max_tokens, tokens_per_fill, fill_interval;
    });
    let at_interval = at_bucket.field("fill_interval");
    Ok(model::RateLimit {
        name: text(&at.field("stat_prefix"), stat_prefix)?,
        // Published: unset is one.
        requests: from_one(&at_bucket.field("tokens_per_fill"), number_or(tokens_per_fill, 1))?,
        per: positive(&at_interval, at_interval.need(fill_interval)?)?,
        burst: from_one(&at_bucket.field("max_tokens"), max_tokens)?,
    })
}

fn fault(at: &At<'_>, wire: HttpFault) -> Result<model::Fault, Fault> {
    take!(at, wire, HttpFault {
        delay, abort;
        upstream_cluster, headers, downstream_nodes, max_active_faults, response_rate_limit, delay_percent_runtime,
        abort_percent_runtime, delay_duration_runtime, abort_http_status_runtime, max_active_faults_runtime,
        response_rate_limit_percent_runtime, abort_grpc_status_runtime, disable_downstream_cluster_stats,
        filter_metadata
    });
    let (at_delay, at_abort) = (at.field("delay"), at.field("abort"));
    Ok(model::Fault {
        delay: delay.map(|wire| fault_delay(&at_delay, wire)).transpose()?,
        abort: abort.map(|wire| fault_abort(&at_abort, wire)).transpose()?,
    })
}

fn fault_delay(at: &At<'_>, wire: FaultDelay) -> Result<model::FaultDelay, Fault> {
    take!(at, wire, FaultDelay { percentage, fault_delay_secifier; });
    let at_percentage = at.field("percentage");
    let fixed = match fault_delay_secifier {
        Some(FaultDelaySecifier::FixedDelay(fixed)) => fixed,
        Some(FaultDelaySecifier::HeaderDelay(_)) => {
            let expected = "fixed_delay";
            return Err(at.field("header_delay").fault("", Problem::Unsupported { expected }));
        }
        None => return Err(at.field("fixed_delay").fault("", Problem::Missing)),
    };
    Ok(model::FaultDelay {
        parts_per_million: parts_per_million(&at_percentage, at_percentage.need(percentage)?)?,
        duration: positive(&at.field("fixed_delay"), fixed)?,
    })
}

fn fault_abort(at: &At<'_>, wire: FaultAbort) -> Result<model::FaultAbort, Fault> {
    take!(at, wire, FaultAbort { percentage, error_type; response_body });
    let at_percentage = at.field("percentage");
    let answer = match error_type {
        Some(ErrorType::HttpStatus(code)) => {
            let at = at.field("http_status");
            model::AbortAnswer::Http(status(&at, code, 200..=599, "200 to 599")?)
        }
        Some(ErrorType::GrpcStatus(code @ 1..=16)) => model::AbortAnswer::Grpc(code),
        Some(ErrorType::GrpcStatus(code)) => {
            let allowed = "1 to 16";
            return Err(at.field("grpc_status").fault(code, Problem::OutOfRange { allowed }));
        }
        Some(ErrorType::HeaderAbort(_)) => {
            let expected = "http_status or grpc_status";
            return Err(at.field("header_abort").fault("", Problem::Unsupported { expected }));
        }
        None => return Err(at.field("http_status").fault("", Problem::Missing)),
    };
    Ok(model::FaultAbort {
        parts_per_million: parts_per_million(&at_percentage, at_percentage.need(percentage)?)?,
        answer,
    })
}

/// A share of requests that must be all of them.
fn always(at: &At<'_>, wire: Option<RuntimeFractionalPercent>) -> Result<(), Fault> {
    take!(at, at.need(wire)?, RuntimeFractionalPercent { default_value; runtime_key });
    let at = at.field("default_value");
    let parts = parts_per_million(&at, at.need(default_value)?)?;
    if parts != WHOLE_PARTS {
        let expected = "all requests";
        return Err(at.fault(format_args!("{parts} in a million"), Problem::Unsupported { expected }));
    }
    Ok(())
}

fn from_one(at: &At<'_>, value: u32) -> Result<u32, Fault> {
    if value == 0 {
        let allowed = "1 and more";
        return Err(at.fault(value, Problem::OutOfRange { allowed }));
    }
    Ok(value)
}
