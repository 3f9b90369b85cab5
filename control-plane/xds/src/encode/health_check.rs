//! Active health checks.

use envoy_types::pb::envoy::config::core::v3::HealthCheck;
use envoy_types::pb::envoy::config::core::v3::health_check::{
    GrpcHealthCheck, HealthChecker, HttpHealthCheck, TcpHealthCheck,
};
use envoy_types::pb::envoy::r#type::v3::{CodecClientType, Int64Range};
use envoy_types::pb::google::protobuf::BoolValue;
use http::StatusCode;
use weir_policy::health_check::JITTER_PERCENT;
use weir_policy::model;
use weir_policy::model::{AppProtocol, HealthCheckKind};

use super::{duration, number};
use crate::meaning::{STATUS_END, STATUS_START};

/// A cluster's health check, said so that an Envoy does the same: what it does otherwise unless told is told.
pub(super) fn health_check(check: &model::HealthCheck, protocol: AppProtocol) -> HealthCheck {
    let model::HealthCheck {
        kind,
        interval,
        timeout,
        unhealthy_threshold,
        healthy_threshold,
    } = check;
    let checker = match kind {
        HealthCheckKind::Http { host, path, expected } => HealthChecker::HttpHealthCheck(HttpHealthCheck {
            host: host.clone().unwrap_or_default(),
            path: path.clone(),
            expected_statuses: ranges(expected),
            // Without these a single status of another kind is enough to be unhealthy.
            retriable_statuses: vec![every_status()],
            codec_client_type: codec(protocol).into(),
            ..HttpHealthCheck::default()
        }),
        HealthCheckKind::Grpc { service } => HealthChecker::GrpcHealthCheck(GrpcHealthCheck {
            service_name: service.clone(),
            ..GrpcHealthCheck::default()
        }),
        HealthCheckKind::Tcp => HealthChecker::TcpHealthCheck(TcpHealthCheck::default()),
    };
    HealthCheck {
        timeout: Some(duration(*timeout)),
        interval: Some(duration(*interval)),
        interval_jitter_percent: JITTER_PERCENT,
        unhealthy_threshold: Some(number(*unhealthy_threshold)),
        healthy_threshold: Some(number(*healthy_threshold)),
        reuse_connection: Some(BoolValue { value: false }),
        no_traffic_interval: Some(duration(*interval)),
        health_checker: Some(checker),
        ..HealthCheck::default()
    }
}

/// What a cluster's checks speak.
pub(crate) fn codec(protocol: AppProtocol) -> CodecClientType {
    match protocol {
        // TCP has no check in HTTP.
        AppProtocol::Http1 | AppProtocol::Tcp => CodecClientType::Http1,
        AppProtocol::Http2 | AppProtocol::Grpc => CodecClientType::Http2,
    }
}

/// All that a status can be.
pub(crate) fn every_status() -> Int64Range {
    Int64Range {
        start: STATUS_START,
        end: STATUS_END,
    }
}

/// Statuses that follow one another as one range, without its end.
fn ranges(statuses: &[StatusCode]) -> Vec<Int64Range> {
    let mut ranges: Vec<Int64Range> = Vec::new();
    for status in statuses.iter().map(|status| i64::from(status.as_u16())) {
        match ranges.last_mut() {
            Some(last) if last.end == status => last.end += 1,
            Some(_) | None => ranges.push(Int64Range {
                start: status,
                end: status + 1,
            }),
        }
    }
    ranges
}
