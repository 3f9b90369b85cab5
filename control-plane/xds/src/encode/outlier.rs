//! Outlier detection, as `envoy.config.cluster.v3.OutlierDetection`: a rule that is not asked for is enforced on 0 % of
//! the endpoints that break it, one that is on 100 %.

use envoy_types::pb::envoy::config::cluster::v3::OutlierDetection;
use envoy_types::pb::google::protobuf::BoolValue;
use weir_policy::model;

use super::{duration, number};

pub(super) fn outlier_detection(detection: &model::OutlierDetection) -> OutlierDetection {
    let model::OutlierDetection {
        consecutive_5xx_errors,
        consecutive_gateway_errors,
        consecutive_local_origin_failures,
        failure_percentage,
        interval,
        base_ejection_time,
        max_ejection_time,
        max_ejection_percent,
    } = *detection;
    let enforced = |asked: bool| Some(number(if asked { 100 } else { 0 }));
    OutlierDetection {
        consecutive_5xx: consecutive_5xx_errors.map(number),
        enforcing_consecutive_5xx: enforced(consecutive_5xx_errors.is_some()),
        consecutive_gateway_failure: consecutive_gateway_errors.map(number),
        enforcing_consecutive_gateway_failure: enforced(consecutive_gateway_errors.is_some()),
        split_external_local_origin_errors: true,
        consecutive_local_origin_failure: consecutive_local_origin_failures.map(number),
        enforcing_consecutive_local_origin_failure: enforced(consecutive_local_origin_failures.is_some()),
        failure_percentage_threshold: failure_percentage.map(|rule| number(rule.threshold.into())),
        failure_percentage_request_volume: failure_percentage.map(|rule| number(rule.min_requests)),
        failure_percentage_minimum_hosts: failure_percentage.map(|rule| number(rule.min_hosts)),
        enforcing_failure_percentage: enforced(failure_percentage.is_some()),
        enforcing_failure_percentage_local_origin: enforced(failure_percentage.is_some()),
        enforcing_success_rate: enforced(false),
        enforcing_local_origin_success_rate: enforced(false),
        interval: Some(duration(interval)),
        base_ejection_time: Some(duration(base_ejection_time)),
        max_ejection_time: Some(duration(max_ejection_time)),
        max_ejection_percent: Some(number(max_ejection_percent.into())),
        successful_active_health_check_uneject_host: Some(BoolValue { value: false }),
        ..OutlierDetection::default()
    }
}
