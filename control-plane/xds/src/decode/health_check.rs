//! Active health checks. Of the many ways in which Envoy can make them there is one here; others are refused by name.

use std::collections::BTreeSet;

use envoy_types::pb::envoy::config::core::v3::health_check::{
    GrpcHealthCheck, HealthChecker, HttpHealthCheck, TcpHealthCheck,
};
use envoy_types::pb::envoy::config::core::v3::{HealthCheck, RequestMethod};
use envoy_types::pb::envoy::r#type::v3::{CodecClientType, Int64Range};
use envoy_types::pb::google::protobuf::{BoolValue, UInt32Value};
use http::StatusCode;
use http::uri::{Authority, PathAndQuery};
use weir_policy::health_check::JITTER_PERCENT;
use weir_policy::model;
use weir_policy::model::{AppProtocol, HealthCheckKind};

use super::at::{At, Fault, take};
use super::checks::{bounded, equal, positive, text};
use crate::encode::health_check::{codec, every_status};
use crate::meaning::{STATUS_END, STATUS_START};
use crate::rejection::Problem;

/// The health checks of a cluster that speaks this; at most one.
pub(super) fn health_check(
    at: &At<'_>,
    wire: Vec<HealthCheck>,
    protocol: AppProtocol,
) -> Result<Option<model::HealthCheck>, Fault> {
    let mut all = wire.into_iter();
    let Some(only) = all.next() else { return Ok(None) };
    if all.next().is_some() {
        return Err(at.index(1).fault("", Problem::Duplicate));
    }
    one(&at.index(0), only, protocol).map(Some)
}

fn one(at: &At<'_>, wire: HealthCheck, protocol: AppProtocol) -> Result<model::HealthCheck, Fault> {
    take!(at, wire, HealthCheck {
        timeout, interval, interval_jitter_percent, unhealthy_threshold, healthy_threshold, reuse_connection,
        no_traffic_interval, health_checker;
        initial_jitter, interval_jitter, alt_port, no_traffic_healthy_interval, unhealthy_interval,
        unhealthy_edge_interval, healthy_edge_interval, event_log_path, event_logger, event_service,
        always_log_health_check_failures, always_log_health_check_success, tls_options,
        transport_socket_match_criteria,
    });
    if reuse_connection != Some(BoolValue { value: false }) {
        let expected = "false: each check has a connection of its own";
        return Err(at
            .field("reuse_connection")
            .fault("true", Problem::Unsupported { expected }));
    }
    if interval_jitter_percent != JITTER_PERCENT {
        let at = at.field("interval_jitter_percent");
        return Err(at.fault(interval_jitter_percent, Problem::Unsupported { expected: "10" }));
    }
    if no_traffic_interval != interval {
        let expected = "as interval is: what is in use is checked, whether there are requests or not";
        let at = at.field("no_traffic_interval");
        return Err(at.fault(
            format_args!("{no_traffic_interval:?}"),
            Problem::Unsupported { expected },
        ));
    }
    let (at_interval, at_timeout) = (at.field("interval"), at.field("timeout"));
    let threshold = |field, wire: Option<UInt32Value>| {
        let at = at.field(field);
        match at.need(wire)? {
            UInt32Value { value: 0 } => Err(at.fault(0, Problem::OutOfRange { allowed: "1 and more" })),
            UInt32Value { value } => Ok(value),
        }
    };
    Ok(model::HealthCheck {
        interval: positive(&at_interval, at_interval.need(interval)?)?,
        timeout: positive(&at_timeout, at_timeout.need(timeout)?)?,
        unhealthy_threshold: threshold("unhealthy_threshold", unhealthy_threshold)?,
        healthy_threshold: threshold("healthy_threshold", healthy_threshold)?,
        kind: kind(at, health_checker, protocol)?,
    })
}

fn kind(at: &At<'_>, wire: Option<HealthChecker>, protocol: AppProtocol) -> Result<HealthCheckKind, Fault> {
    let at_checker = at.field("health_checker");
    match at_checker.need(wire)? {
        HealthChecker::HttpHealthCheck(wire) => {
            let at = at.field("http_health_check");
            if protocol == AppProtocol::Tcp {
                let expected = "that of TCP for a cluster that carries TCP";
                return Err(at.fault("", Problem::Unsupported { expected }));
            }
            http_check(&at, wire, protocol)
        }
        HealthChecker::GrpcHealthCheck(wire) => {
            let at = at.field("grpc_health_check");
            take!(at, wire, GrpcHealthCheck { service_name; authority, initial_metadata });
            if matches!(protocol, AppProtocol::Http1 | AppProtocol::Tcp) {
                let expected = "another one for a cluster that does not speak HTTP/2";
                return Err(at.fault("", Problem::Unsupported { expected }));
            }
            Ok(HealthCheckKind::Grpc {
                service: bounded(&at.field("service_name"), service_name)?,
            })
        }
        HealthChecker::TcpHealthCheck(wire) => {
            let at = at.field("tcp_health_check");
            take!(at, wire, TcpHealthCheck { ; send, receive, proxy_protocol_config });
            Ok(HealthCheckKind::Tcp)
        }
        HealthChecker::CustomHealthCheck(custom) => {
            let expected = "one of HTTP, gRPC or TCP";
            let at = at.field("custom_health_check");
            Err(at.fault(format_args!("{:?}", custom.name), Problem::Unsupported { expected }))
        }
    }
}

fn http_check(at: &At<'_>, wire: HttpHealthCheck, protocol: AppProtocol) -> Result<HealthCheckKind, Fault> {
    take!(at, wire, HttpHealthCheck {
        host, path, expected_statuses, retriable_statuses, codec_client_type, method;
        send, receive, response_buffer_size, request_headers_to_add, request_headers_to_remove, service_name_matcher,
    });
    let at_codec = at.field("codec_client_type");
    let held = at_codec.known::<CodecClientType>(codec_client_type)?;
    equal(&at_codec, held.as_str_name(), codec(protocol).as_str_name())?;
    let at_method = at.field("method");
    match at_method.known(method)? {
        RequestMethod::MethodUnspecified | RequestMethod::Get => {}
        other => return Err(at_method.fault(other.as_str_name(), Problem::Unsupported { expected: "GET" })),
    }
    if retriable_statuses != [every_status()] {
        let expected = "100 to 600: each status that is not expected counts as one failure";
        let held = format_args!("{retriable_statuses:?}");
        return Err(at
            .field("retriable_statuses")
            .fault(held, Problem::Unsupported { expected }));
    }
    let (at_host, at_path) = (at.field("host"), at.field("path"));
    let path = text(&at_path, path)?;
    if !path.starts_with('/') || path.parse::<PathAndQuery>().is_err() {
        return Err(at_path.malformed(&path, "is no path"));
    }
    let host = match host.is_empty() {
        true => None,
        false => Some(bounded(&at_host, host)?),
    };
    if let Some(host) = &host
        && host.parse::<Authority>().is_err()
    {
        return Err(at_host.malformed(host, "is no host"));
    }
    Ok(HealthCheckKind::Http {
        host,
        path,
        expected: statuses(&at.field("expected_statuses"), &expected_statuses)?,
    })
}

/// What is not set is 200, Envoy's published default.
fn statuses(at: &At<'_>, ranges: &[Int64Range]) -> Result<Vec<StatusCode>, Fault> {
    if ranges.is_empty() {
        return Ok(vec![StatusCode::OK]);
    }
    let mut statuses = BTreeSet::new();
    for (i, Int64Range { start, end }) in ranges.iter().enumerate() {
        let at = at.index(i);
        if start >= end || *start < STATUS_START || *end > STATUS_END {
            let allowed = "100 to 600, the end left out";
            return Err(at.fault(format_args!("{start} to {end}"), Problem::OutOfRange { allowed }));
        }
        let codes = (*start..*end).filter_map(|code| StatusCode::from_u16(u16::try_from(code).ok()?).ok());
        statuses.extend(codes);
    }
    Ok(statuses.into_iter().collect())
}
