//! Outlier detection. A rule is enforced always or never: by chance would be a third thing.

use envoy_types::pb::envoy::config::cluster::v3::OutlierDetection;
use envoy_types::pb::google::protobuf::{BoolValue, UInt32Value};
use weir_policy::model;

use super::at::{At, Fault, take};
use super::checks::{number_or, percent, positive};
use crate::meaning::{
    DEFAULT_BASE_EJECTION_TIME, DEFAULT_CONSECUTIVE, DEFAULT_FAILURE_PERCENTAGE, DEFAULT_MAX_EJECTION_PERCENT,
    DEFAULT_MAX_EJECTION_TIME, DEFAULT_OUTLIER_INTERVAL,
};
use crate::rejection::Problem;

/// What is not set is Envoy's published default.
pub(super) fn outlier_detection(at: &At<'_>, wire: OutlierDetection) -> Result<model::OutlierDetection, Fault> {
    take!(at, wire, OutlierDetection {
        consecutive_5xx, enforcing_consecutive_5xx, consecutive_gateway_failure, enforcing_consecutive_gateway_failure,
        split_external_local_origin_errors, consecutive_local_origin_failure,
        enforcing_consecutive_local_origin_failure, failure_percentage_threshold, failure_percentage_request_volume,
        failure_percentage_minimum_hosts, enforcing_failure_percentage, enforcing_failure_percentage_local_origin,
        enforcing_success_rate, enforcing_local_origin_success_rate, interval, base_ejection_time, max_ejection_time,
        max_ejection_percent, successful_active_health_check_uneject_host;
        success_rate_minimum_hosts, success_rate_request_volume, success_rate_stdev_factor, max_ejection_time_jitter,
        monitors, always_eject_one_host, detect_degraded_hosts,
    });
    if !split_external_local_origin_errors {
        let expected = "true: failures of the connection are counted apart";
        let at = at.field("split_external_local_origin_errors");
        return Err(at.fault("false", Problem::Unsupported { expected }));
    }
    if successful_active_health_check_uneject_host != Some(BoolValue { value: false }) {
        let expected = "false: a health check ends no ejection";
        let at = at.field("successful_active_health_check_uneject_host");
        return Err(at.fault("true", Problem::Unsupported { expected }));
    }
    for (field, enforcing) in [
        ("enforcing_success_rate", enforcing_success_rate),
        (
            "enforcing_local_origin_success_rate",
            enforcing_local_origin_success_rate,
        ),
    ] {
        let at = at.field(field);
        if enforced(&at, enforcing, 100)? {
            let expected = "0: success rates are not compared";
            return Err(at.fault(100, Problem::Unsupported { expected }));
        }
    }
    let rule = |field, enforcing_field, limit, enforcing, default| {
        let enforced = enforced(&at.field(enforcing_field), enforcing, default)?;
        consecutive(&at.field(field), limit, enforced)
    };
    let consecutive_5xx_errors = rule(
        "consecutive_5xx",
        "enforcing_consecutive_5xx",
        consecutive_5xx,
        enforcing_consecutive_5xx,
        100,
    )?;
    let consecutive_gateway_errors = rule(
        "consecutive_gateway_failure",
        "enforcing_consecutive_gateway_failure",
        consecutive_gateway_failure,
        enforcing_consecutive_gateway_failure,
        0,
    )?;
    let consecutive_local_origin_failures = rule(
        "consecutive_local_origin_failure",
        "enforcing_consecutive_local_origin_failure",
        consecutive_local_origin_failure,
        enforcing_consecutive_local_origin_failure,
        100,
    )?;

    let by_percentage = enforced(
        &at.field("enforcing_failure_percentage"),
        enforcing_failure_percentage,
        0,
    )?;
    let at_local = at.field("enforcing_failure_percentage_local_origin");
    if enforced(&at_local, enforcing_failure_percentage_local_origin, 0)? != by_percentage {
        let expected = "as enforcing_failure_percentage is";
        return Err(at_local.fault(if by_percentage { 0 } else { 100 }, Problem::Unsupported { expected }));
    }
    let parts = [
        ("failure_percentage_threshold", failure_percentage_threshold),
        ("failure_percentage_request_volume", failure_percentage_request_volume),
        ("failure_percentage_minimum_hosts", failure_percentage_minimum_hosts),
    ];
    let failure_percentage = match by_percentage {
        true => {
            let default = DEFAULT_FAILURE_PERCENTAGE;
            let at_threshold = at.field("failure_percentage_threshold");
            let threshold = number_or(failure_percentage_threshold, default.threshold.into());
            Some(model::FailurePercentage {
                threshold: percent(&at_threshold, threshold)?,
                min_requests: number_or(failure_percentage_request_volume, default.min_requests),
                min_hosts: number_or(failure_percentage_minimum_hosts, default.min_hosts),
            })
        }
        false => {
            for (field, value) in parts {
                at.refuse(field, &value)?;
            }
            None
        }
    };

    let time = |field, wire: Option<_>, default| match wire {
        Some(wire) => positive(&at.field(field), wire),
        None => Ok(default),
    };
    let base_ejection_time = time("base_ejection_time", base_ejection_time, DEFAULT_BASE_EJECTION_TIME)?;
    let longest_by_default = DEFAULT_MAX_EJECTION_TIME.max(base_ejection_time);
    let longest = time("max_ejection_time", max_ejection_time, longest_by_default)?;
    if longest < base_ejection_time {
        let allowed = "base_ejection_time and longer";
        let at = at.field("max_ejection_time");
        return Err(at.fault(format_args!("{longest:?}"), Problem::OutOfRange { allowed }));
    }
    let at_percent = at.field("max_ejection_percent");
    Ok(model::OutlierDetection {
        consecutive_5xx_errors,
        consecutive_gateway_errors,
        consecutive_local_origin_failures,
        failure_percentage,
        interval: time("interval", interval, DEFAULT_OUTLIER_INTERVAL)?,
        base_ejection_time,
        max_ejection_time: longest,
        max_ejection_percent: percent(
            &at_percent,
            number_or(max_ejection_percent, DEFAULT_MAX_EJECTION_PERCENT),
        )?,
    })
}

fn enforced(at: &At<'_>, wire: Option<UInt32Value>, default: u32) -> Result<bool, Fault> {
    match number_or(wire, default) {
        0 => Ok(false),
        100 => Ok(true),
        other => Err(at.fault(other, Problem::Unsupported { expected: "0 or 100" })),
    }
}

fn consecutive(at: &At<'_>, limit: Option<UInt32Value>, enforced: bool) -> Result<Option<u32>, Fault> {
    match (limit, enforced) {
        (Some(UInt32Value { value: 0 }), true) => Err(at.fault(0, Problem::OutOfRange { allowed: "1 and more" })),
        (limit, true) => Ok(Some(number_or(limit, DEFAULT_CONSECUTIVE))),
        (Some(UInt32Value { value }), false) => Err(at.fault(value, Problem::WithoutEffect)),
        (None, false) => Ok(None),
    }
}
