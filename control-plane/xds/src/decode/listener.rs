//! Listeners.

use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::config::listener::v3::{ApiListener, Filter, FilterChain, Listener};
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::Cors;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_filter,
};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier;
use weir_policy::model;
use weir_policy::model::RouteSource;

use super::at::{At, Fault, take};
use super::checks::{equal, from_ads, name, unpack};
use super::route;
use crate::meaning::{CORS_FILTER, ROUTER_FILTER, TCP_FILTER};
use crate::rejection::Problem;

pub(super) fn listener(at: &At<'_>, wire: Listener) -> Result<model::Listener, Fault> {
    take!(at, wire, Listener {
        name, api_listener, filter_chains;
        address, additional_addresses, stat_prefix, stats_matcher, fcds_config, filter_chain_matcher,
        use_original_dst, default_filter_chain, per_connection_buffer_limit_bytes,
        per_connection_buffer_high_watermark_timeout, metadata, deprecated_v1, drain_type, listener_filters,
        listener_filters_timeout, continue_on_listener_filters_timeout, transparent, freebind, socket_options,
        tcp_fast_open_queue_length, traffic_direction, udp_listener_config, connection_balance_config, reuse_port,
        enable_reuse_port, access_log, tcp_backlog_size, max_connections_to_accept_per_socket_event, bind_to_port,
        enable_mptcp, ignore_global_conn_limit, bypass_overload_manager, tcp_keepalive, listener_specifier,
    });
    let listener_name = self::name(&at.field("name"), &name)?;
    if api_listener.is_none() && !filter_chains.is_empty() {
        return Ok(model::Listener {
            name: listener_name,
            routes: tcp_chain(&at.field("filter_chains"), filter_chains, &name)?,
        });
    }
    at.refuse("filter_chains", &filter_chains)?;
    let at = at.field("api_listener");
    take!(at, at.need(api_listener)?, ApiListener { api_listener; });
    let at = at.field("api_listener");
    let manager = unpack(&at, &at.need(api_listener)?, "an HttpConnectionManager")?;
    Ok(model::Listener {
        name: listener_name,
        routes: connection_manager(&at, manager, &name)?,
    })
}

/// One chain of one filter, which carries bytes to one cluster.
fn tcp_chain(at: &At<'_>, chains: Vec<FilterChain>, listener: &str) -> Result<RouteSource, Fault> {
    let chain = only(at, chains)?;
    let at = at.index(0);
    take!(at, chain, FilterChain {
        filters;
        filter_chain_match, use_proxy_proto, metadata, transport_socket, transport_socket_connect_timeout, name,
    });
    let at = at.field("filters");
    let filter = only(&at, filters)?;
    let at = at.index(0);
    take!(at, filter, Filter { name, config_type; });
    equal(&at.field("name"), &name, TCP_FILTER)?;
    let any = match config_type {
        Some(ConfigType::TypedConfig(any)) => any,
        Some(ConfigType::ConfigDiscovery(_)) => {
            let expected = "typed_config";
            return Err(at
                .field("config_discovery")
                .fault("", Problem::Unsupported { expected }));
        }
        None => return Err(at.field("typed_config").fault("", Problem::Missing)),
    };
    let at = at.field("typed_config");
    take!(at, unpack::<TcpProxy>(&at, &any, "a TcpProxy")?, TcpProxy {
        stat_prefix, cluster_specifier;
        on_demand, metadata_match, idle_timeout, downstream_idle_timeout, upstream_idle_timeout, access_log,
        max_connect_attempts, backoff_options, hash_policy, tunneling_config, max_downstream_connection_duration,
        max_downstream_connection_duration_jitter_percentage, access_log_flush_interval,
        flush_access_log_on_connected, access_log_options, proxy_protocol_tlvs, proxy_protocol_tlv_merge_policy,
        upstream_connect_mode, max_early_data_bytes, check_drain_close,
    });
    equal(&at.field("stat_prefix"), &stat_prefix, listener)?;
    match cluster_specifier {
        Some(ClusterSpecifier::Cluster(cluster)) => Ok(RouteSource::Tcp(self::name(&at.field("cluster"), &cluster)?)),
        Some(ClusterSpecifier::WeightedClusters(_)) => {
            let expected = "cluster";
            Err(at
                .field("weighted_clusters")
                .fault("", Problem::Unsupported { expected }))
        }
        None => Err(at.field("cluster").fault("", Problem::Missing)),
    }
}

/// The one of a list that must have one.
fn only<T>(at: &At<'_>, list: Vec<T>) -> Result<T, Fault> {
    let mut list = list.into_iter();
    match (list.next(), list.next()) {
        (Some(only), None) => Ok(only),
        (Some(_), Some(_)) => Err(at.index(1).fault("", Problem::WithoutEffect)),
        (None, _) => Err(at.index(0).fault("", Problem::Missing)),
    }
}

fn connection_manager(at: &At<'_>, wire: HttpConnectionManager, listener: &str) -> Result<RouteSource, Fault> {
    take!(at, wire, HttpConnectionManager {
        stat_prefix, http_filters, route_specifier;
        codec_type, add_user_agent, tracing, common_http_protocol_options, http1_safe_max_connection_duration,
        http_protocol_options, http2_protocol_options, http3_protocol_options, server_name,
        server_header_transformation, scheme_header_transformation, max_request_headers_kb, stream_idle_timeout,
        stream_flush_timeout, request_timeout, request_headers_timeout, drain_timeout, drain_timeout_jitter,
        delayed_close_timeout, access_log, access_log_flush_interval, flush_access_log_on_new_request,
        access_log_options, use_remote_address, xff_num_trusted_hops, original_ip_detection_extensions,
        early_header_mutation_extensions, internal_address_config, skip_xff_append, via, generate_request_id,
        preserve_external_request_id, always_set_request_id_in_response, forward_client_cert_details,
        set_current_client_cert_details, forward_client_cert_matcher, proxy_100_continue,
        represent_ipv4_remote_address_as_ipv4_mapped_ipv6, upgrade_configs, normalize_path, merge_slashes,
        path_with_escaped_slashes_action, request_id_extension, local_reply_config, strip_matching_host_port,
        stream_error_on_invalid_http_message, path_normalization_options, strip_trailing_host_dot,
        proxy_status_config, typed_header_validation_config, append_x_forwarded_port, append_local_overload,
        add_proxy_protocol_connection_state, forward_proto_config, strip_port_mode,
    });
    equal(&at.field("stat_prefix"), &stat_prefix, listener)?;
    filters(&at.field("http_filters"), http_filters)?;
    match route_specifier {
        Some(RouteSpecifier::Rds(wire)) => {
            let at = at.field("rds");
            take!(at, wire, Rds { config_source, route_config_name; });
            from_ads(&at.field("config_source"), config_source)?;
            let route = name(&at.field("route_config_name"), &route_config_name)?;
            Ok(RouteSource::Named(route))
        }
        Some(RouteSpecifier::RouteConfig(wire)) => {
            let at = at.field("route_config");
            let configuration = route::configuration(&at, wire)?;
            equal(&at.field("name"), &configuration.name, listener)?;
            Ok(RouteSource::Inline(configuration.virtual_hosts))
        }
        Some(RouteSpecifier::ScopedRoutes(_)) => {
            let expected = "rds or route_config";
            Err(at.field("scoped_routes").fault("", Problem::Unsupported { expected }))
        }
        None => Err(at.field("rds").fault("", Problem::Missing)),
    }
}

/// The filters must be the router, as it is by default (gRFC A39: it must be there, and last), and before it may be
/// that for CORS, which does what routes say of it.
fn filters(at: &At<'_>, filters: Vec<HttpFilter>) -> Result<(), Fault> {
    let mut routers = 0;
    for (i, filter) in filters.into_iter().enumerate() {
        let at = at.index(i);
        take!(at, filter, HttpFilter { name, config_type; is_optional, disabled });
        if routers > 0 {
            return Err(at.fault(format_args!("{name:?}"), Problem::WithoutEffect));
        }
        let is_cors = i == 0 && name == CORS_FILTER;
        if !is_cors {
            equal(&at.field("name"), &name, ROUTER_FILTER)?;
        }
        let any = match config_type {
            Some(http_filter::ConfigType::TypedConfig(any)) => any,
            Some(http_filter::ConfigType::ConfigDiscovery(_)) => {
                let expected = "typed_config";
                return Err(at
                    .field("config_discovery")
                    .fault("", Problem::Unsupported { expected }));
            }
            None => return Err(at.field("typed_config").fault("", Problem::Missing)),
        };
        let at = at.field("typed_config");
        if is_cors {
            let Cors {} = unpack(&at, &any, "a Cors")?;
            continue;
        }
        take!(at, unpack::<Router>(&at, &any, "a Router")?, Router {
            ;
            dynamic_stats, start_child_span, upstream_log, upstream_log_options, suppress_envoy_headers,
            strict_check_headers, respect_expected_rq_timeout, suppress_grpc_request_failure_code_stats,
            upstream_http_filters, reject_connect_request_early_data,
        });
        routers += 1;
    }
    if routers == 0 {
        return Err(at.fault("", Problem::Missing));
    }
    Ok(())
}
