//! Clusters.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CommonLbConfig, DiscoveryType, EdsClusterConfig, LbPolicy,
};
use envoy_types::pb::envoy::config::cluster::v3::{CircuitBreakers, Cluster};
use envoy_types::pb::envoy::config::core::v3::{
    Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions as CommonProtocolOptions,
};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions,
};
use envoy_types::pb::google::protobuf::{Any, UInt32Value};
use weir_policy::model;
use weir_policy::model::{
    AppProtocol, Balancing, ConnectionPool, FailureBreaker, Limits, LocalityPreference, RetryBudget,
};

use super::at::{At, Fault, take};
use super::checks::{equal, from_ads, name, number_or, own_metadata, percent, positive, texts, unpack, whole_percent};
use super::{backend_tls, health_check, lb_config, outlier};
use crate::meaning::{
    DEFAULT_CONNECT_TIMEOUT, DEFAULT_IDLE_TIMEOUT, DEFAULT_PANIC_PERCENT, HTTP_OPTIONS, METADATA_KEY,
};
use crate::rejection::Problem;
use crate::v1;

pub(super) fn cluster(at: &At<'_>, wire: Cluster) -> Result<model::Cluster, Fault> {
    take!(at, wire, Cluster {
        name, cluster_discovery_type, eds_cluster_config, connect_timeout, lb_policy, circuit_breakers,
        outlier_detection, health_checks, common_lb_config, lb_config, typed_extension_protocol_options, metadata,
        transport_socket;
        transport_socket_matches, transport_socket_matcher, alt_stat_name, stats_matcher,
        per_connection_buffer_limit_bytes, per_connection_buffer_high_watermark_timeout, load_assignment,
        max_requests_per_connection, upstream_http_protocol_options, common_http_protocol_options,
        http_protocol_options, http2_protocol_options, dns_refresh_rate, dns_jitter, dns_failure_refresh_rate,
        respect_dns_ttl, dns_lookup_family, dns_resolvers, use_tcp_for_dns_lookups, dns_resolution_config,
        typed_dns_resolver_config, wait_for_warm_on_init, cleanup_interval, upstream_bind_config,
        lb_subset_config, protocol_selection, upstream_connection_options,
        close_connections_on_host_health_failure, ignore_health_on_host_removal, filters, load_balancing_policy,
        lrs_server, lrs_report_endpoint_metrics, track_timeout_budgets, upstream_config, track_cluster_stats,
        preconnect_policy, connection_pool_per_downstream_connection, queuing_policies,
    });
    let cluster_name = self::name(&at.field("name"), &name)?;
    by_eds(at, cluster_discovery_type, eds_cluster_config, &name)?;
    let connect_timeout = match connect_timeout {
        Some(wire) => positive(&at.field("connect_timeout"), wire)?,
        None => DEFAULT_CONNECT_TIMEOUT,
    };
    let limits = limits(&at.field("circuit_breakers"), circuit_breakers)?;
    let (at_metadata, expected) = (at.field("metadata"), "a weir.v1.ClusterPolicy");
    let policy = own_metadata(&at_metadata, metadata, expected)?;
    let at_typed = at_metadata.field("typed_filter_metadata");
    let at_policy = at_typed.key(METADATA_KEY);
    take!(at_policy, at_policy.need(policy)?, v1::ClusterPolicy {
        breaker, balancing, retry_budget, grpc, locality, sources, max_concurrent_streams, closed, tcp;
    });
    let at_options = at.field("typed_extension_protocol_options");
    let (protocol, pool) = if tcp {
        at.refuse("typed_extension_protocol_options", &typed_extension_protocol_options)?;
        (AppProtocol::Tcp, ConnectionPool::default())
    } else {
        protocol(&at_options, typed_extension_protocol_options)?
    };
    let pool = ConnectionPool {
        max_concurrent_streams: match protocol {
            // What other clients are told of streams is nothing here: they speak HTTP/1.1.
            AppProtocol::Http1 => Some(max_concurrent_streams).filter(|limit| *limit > 0),
            AppProtocol::Http2 | AppProtocol::Grpc | AppProtocol::Tcp => {
                at_policy.refuse("max_concurrent_streams", &max_concurrent_streams)?;
                pool.max_concurrent_streams
            }
        },
        ..pool
    };
    let balancing = self::balancing(&at_policy.field("balancing"), balancing)?;
    balanced_alike(&at.field("lb_policy"), lb_policy, &balancing)?;
    let slow_start = lb_config::slow_start(at, &balancing, lb_config)?;
    let protocol = match (protocol, grpc) {
        (protocol, false) => protocol,
        (AppProtocol::Http2 | AppProtocol::Grpc, true) => AppProtocol::Grpc,
        (AppProtocol::Http1 | AppProtocol::Tcp, true) => {
            let expected = "false for a cluster that does not speak HTTP/2";
            return Err(at_policy.field("grpc").fault("true", Problem::Unsupported { expected }));
        }
    };
    Ok(model::Cluster {
        name: cluster_name,
        protocol,
        connect_timeout,
        balancing,
        limits,
        breaker: match breaker {
            Some(wire) => Some(self::breaker(&at_policy.field("breaker"), wire)?),
            None => None,
        },
        outlier_detection: match outlier_detection {
            Some(wire) => Some(outlier::outlier_detection(&at.field("outlier_detection"), wire)?),
            None => None,
        },
        health_check: health_check::health_check(&at.field("health_checks"), health_checks, protocol)?,
        slow_start,
        locality: match locality {
            Some(wire) => Some(self::locality(&at_policy.field("locality"), wire)?),
            None => None,
        },
        pool,
        panic_percent: panic_percent(&at.field("common_lb_config"), common_lb_config)?,
        retry_budget: self::retry_budget(&at_policy.field("retry_budget"), retry_budget)?,
        backend_tls: backend_tls::backend_tls(
            &at.field("transport_socket"),
            transport_socket,
            &at_policy,
            closed,
            protocol,
        )?,
        sources: texts(&at_policy.field("sources"), sources)?,
    })
}

fn by_eds(
    at: &At<'_>,
    discovery: Option<ClusterDiscoveryType>,
    eds: Option<EdsClusterConfig>,
    cluster: &str,
) -> Result<(), Fault> {
    let at_type = at.field("type");
    let unsupported = |held: &str| at_type.fault(held, Problem::Unsupported { expected: "EDS" });
    match discovery {
        Some(ClusterDiscoveryType::Type(kind)) => match at_type.known(kind)? {
            DiscoveryType::Eds => {}
            other @ (DiscoveryType::Static
            | DiscoveryType::StrictDns
            | DiscoveryType::LogicalDns
            | DiscoveryType::OriginalDst) => return Err(unsupported(other.as_str_name())),
        },
        Some(ClusterDiscoveryType::ClusterType(custom)) => return Err(unsupported(&custom.name)),
        None => return Err(at_type.fault("", Problem::Missing)),
    }
    let at = at.field("eds_cluster_config");
    take!(at, at.need(eds)?, EdsClusterConfig { eds_config, service_name; });
    from_ads(&at.field("eds_config"), eds_config)?;
    if !service_name.is_empty() {
        equal(&at.field("service_name"), &service_name, cluster)?;
    }
    Ok(())
}

/// What is not set is 1024, Envoy's published default.
fn limits(at: &At<'_>, wire: Option<CircuitBreakers>) -> Result<Limits, Fault> {
    let Some(wire) = wire else { return Ok(Limits::default()) };
    take!(at, wire, CircuitBreakers { thresholds; per_host_thresholds });
    let mut limits = None;
    for (i, wire) in thresholds.into_iter().enumerate() {
        let at = at.field("thresholds");
        let at = at.index(i);
        take!(at, wire, Thresholds {
            max_connections, max_pending_requests, max_requests;
            priority, max_retries, retry_budget, track_remaining, max_connection_pools
        });
        if limits.is_some() {
            return Err(at.fault("", Problem::Duplicate));
        }
        let default = Limits::default();
        limits = Some(Limits {
            max_connections: number_or(max_connections, default.max_connections),
            max_pending: number_or(max_pending_requests, default.max_pending),
            max_requests: number_or(max_requests, default.max_requests),
        });
    }
    Ok(limits.unwrap_or_default())
}

fn panic_percent(at: &At<'_>, wire: Option<CommonLbConfig>) -> Result<u8, Fault> {
    let Some(wire) = wire else {
        return Ok(DEFAULT_PANIC_PERCENT);
    };
    take!(at, wire, CommonLbConfig {
        healthy_panic_threshold;
        update_merge_window, ignore_new_hosts_until_first_hc, close_connections_on_host_set_change,
        consistent_hashing_lb_config, override_host_status, locality_config_specifier,
    });
    match healthy_panic_threshold {
        Some(wire) => whole_percent(&at.field("healthy_panic_threshold"), &wire),
        None => Ok(DEFAULT_PANIC_PERCENT),
    }
}

fn protocol(at: &At<'_>, options: HashMap<String, Any>) -> Result<(AppProtocol, ConnectionPool), Fault> {
    let mut protocol = None;
    for (key, any) in options {
        if key != HTTP_OPTIONS {
            return Err(at.fault(format_args!("{key:?}"), Problem::WithoutEffect));
        }
        let at = at.key(HTTP_OPTIONS);
        protocol = Some(http_options(&at, unpack(&at, &any, "an HttpProtocolOptions")?)?);
    }
    at.key(HTTP_OPTIONS).need(protocol)
}

fn http_options(at: &At<'_>, wire: HttpProtocolOptions) -> Result<(AppProtocol, ConnectionPool), Fault> {
    take!(at, wire, HttpProtocolOptions {
        upstream_protocol_options, common_http_protocol_options;
        upstream_http_protocol_options, http_filters, header_validation_config,
        outlier_detection, request_mirror_policies, hash_policy, retry_policy
    });
    let kept = connection_pool(&at.field("common_http_protocol_options"), common_http_protocol_options)?;
    let pool = |streams: Option<UInt32Value>| ConnectionPool {
        max_concurrent_streams: streams.map(|UInt32Value { value }| value),
        ..kept
    };
    let at = at.field("explicit_http_config");
    let unsupported = |held: &str| {
        let expected = "an explicit HTTP/1.1 or HTTP/2";
        at.fault(held, Problem::Unsupported { expected })
    };
    let explicit = match at.need(upstream_protocol_options)? {
        UpstreamProtocolOptions::ExplicitHttpConfig(explicit) => explicit,
        UpstreamProtocolOptions::UseDownstreamProtocolConfig(_) => {
            return Err(unsupported("use_downstream_protocol_config"));
        }
        UpstreamProtocolOptions::AutoConfig(_) => return Err(unsupported("auto_config")),
    };
    take!(at, explicit, ExplicitHttpConfig { protocol_config; });
    match at.need(protocol_config)? {
        ProtocolConfig::HttpProtocolOptions(wire) => {
            let at = at.field("http_protocol_options");
            take!(at, wire, Http1ProtocolOptions {
                ;
                allow_absolute_url, accept_http_10, default_host_for_http_10, header_key_format, enable_trailers,
                allow_chunked_length, override_stream_error_on_invalid_http_message, send_fully_qualified_url,
                use_balsa_parser, allow_custom_methods, ignore_http_11_upgrade
            });
            Ok((AppProtocol::Http1, pool(None)))
        }
        ProtocolConfig::Http2ProtocolOptions(wire) => {
            let at = at.field("http2_protocol_options");
            take!(at, wire, Http2ProtocolOptions {
                max_concurrent_streams;
                hpack_table_size, initial_stream_window_size, initial_connection_window_size,
                allow_connect, allow_metadata, max_outbound_frames, max_outbound_control_frames,
                max_consecutive_inbound_frames_with_empty_payload, max_inbound_priority_frames_per_stream,
                max_inbound_window_update_frames_per_data_frame_sent, stream_error_on_invalid_http_messaging,
                override_stream_error_on_invalid_http_message, custom_settings_parameters, connection_keepalive,
                use_oghttp2_codec, max_metadata_size, enable_huffman_encoding, max_header_field_size_kb,
                disallow_obs_text, stream_reset_burst, stream_reset_rate
            });
            if let Some(UInt32Value { value: 0 }) = max_concurrent_streams {
                let allowed = "1 and more";
                return Err(at
                    .field("max_concurrent_streams")
                    .fault(0, Problem::OutOfRange { allowed }));
            }
            Ok((AppProtocol::Http2, pool(max_concurrent_streams)))
        }
        ProtocolConfig::Http3ProtocolOptions(_) => Err(unsupported("http3_protocol_options")),
    }
}

/// What is not set is Envoy's published default. What of it is HTTP/2's stands elsewhere.
fn connection_pool(at: &At<'_>, wire: Option<CommonProtocolOptions>) -> Result<ConnectionPool, Fault> {
    take!(at, wire.unwrap_or_default(), CommonProtocolOptions {
        idle_timeout, max_requests_per_connection;
        max_connection_duration, max_connection_duration_jitter, max_headers_count, max_response_headers_kb,
        max_stream_duration, headers_with_underscores_action,
    });
    Ok(ConnectionPool {
        idle_timeout: match idle_timeout {
            Some(wire) => positive(&at.field("idle_timeout"), wire)?,
            None => DEFAULT_IDLE_TIMEOUT,
        },
        // 0 is no limit, as it is said there.
        max_requests_per_connection: Some(number_or(max_requests_per_connection, 0)).filter(|limit| *limit > 0),
        max_concurrent_streams: None,
    })
}

fn locality(at: &At<'_>, wire: v1::LocalityPreference) -> Result<LocalityPreference, Fault> {
    take!(at, wire, v1::LocalityPreference { overprovisioning_percent; });
    if overprovisioning_percent < 100 {
        let allowed = "100 and more";
        let at = at.field("overprovisioning_percent");
        return Err(at.fault(overprovisioning_percent, Problem::OutOfRange { allowed }));
    }
    Ok(LocalityPreference {
        overprovisioning_percent,
    })
}

fn balancing(at: &At<'_>, wire: Option<v1::Balancing>) -> Result<Balancing, Fault> {
    take!(at, at.need(wire)?, v1::Balancing { kind; });
    match at.need(kind)? {
        v1::balancing::Kind::PeakEwma(wire) => {
            let at = at.field("peak_ewma");
            take!(at, wire, v1::PeakEwma { decay; });
            let at = at.field("decay");
            Ok(Balancing::PeakEwma {
                decay: positive(&at, at.need(decay)?)?,
            })
        }
        v1::balancing::Kind::RoundRobin(v1::RoundRobin {}) => Ok(Balancing::RoundRobin),
    }
}

/// The standard field must be the nearest that there is to our own, so that no client balances quite differently.
fn balanced_alike(at: &At<'_>, lb_policy: i32, own: &Balancing) -> Result<(), Fault> {
    let expected = match own {
        Balancing::PeakEwma { .. } => LbPolicy::LeastRequest,
        Balancing::RoundRobin => LbPolicy::RoundRobin,
    };
    equal(
        at,
        at.known::<LbPolicy>(lb_policy)?.as_str_name(),
        expected.as_str_name(),
    )
}

fn breaker(at: &At<'_>, wire: v1::FailureBreaker) -> Result<FailureBreaker, Fault> {
    take!(at, wire, v1::FailureBreaker { failure_percent, min_requests, window, open_for, half_open_requests; });
    let (at_window, at_open) = (at.field("window"), at.field("open_for"));
    if half_open_requests == 0 {
        let allowed = "1 and more: with none it would never close again";
        return Err(at.field("half_open_requests").fault(0, Problem::OutOfRange { allowed }));
    }
    Ok(FailureBreaker {
        failure_percent: percent(&at.field("failure_percent"), failure_percent)?,
        min_requests,
        window: positive(&at_window, at_window.need(window)?)?,
        open_for: positive(&at_open, at_open.need(open_for)?)?,
        half_open_requests,
    })
}

fn retry_budget(at: &At<'_>, wire: Option<v1::RetryBudget>) -> Result<RetryBudget, Fault> {
    take!(at, at.need(wire)?, v1::RetryBudget { percent, min_per_second, window; });
    let at_window = at.field("window");
    let checked = u8::try_from(percent).ok().filter(|percent| *percent <= 100);
    Ok(RetryBudget {
        percent: checked.ok_or_else(|| {
            let allowed = "0 to 100";
            at.field("percent").fault(percent, Problem::OutOfRange { allowed })
        })?,
        min_per_second,
        window: positive(&at_window, at_window.need(window)?)?,
    })
}
