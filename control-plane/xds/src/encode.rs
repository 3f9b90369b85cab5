//! From the model to the published messages.
//!
//! Equal values give equal bytes, in every process, so that a hash of these can stand for a version: the maps of a
//! message, whose order is open, have one entry at the most, but for what routes say to filters, which is written in
//! the order of their names. What the model allows in several forms is written in one: endpoints sorted by locality,
//! then by address; prefixes of paths without a trailing `/`; names of a certificate that are the hostname alone as
//! none.
//! Nothing is checked: a value that the model's own rules exclude is refused by [`crate::decode`].

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CommonLbConfig, DiscoveryType, EdsClusterConfig, LbPolicy,
};
use envoy_types::pb::envoy::config::cluster::v3::{CircuitBreakers, Cluster};
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::socket_address::{PortSpecifier, Protocol};
use envoy_types::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, HealthStatus, Http1ProtocolOptions,
    Http2ProtocolOptions, HttpProtocolOptions as CommonProtocolOptions, Locality, Metadata, SocketAddress, address,
};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints};
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::config::listener::v3::{ApiListener, Filter, FilterChain, Listener};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_filter,
};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions,
};
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf;
use envoy_types::pb::google::protobuf::{Any, UInt32Value};
use prost::{Message, Name};
use weir_policy::backend_tls::BackendTls;
use weir_policy::model;
use weir_policy::model::{AppProtocol, Balancing, EndpointHealth, Peer, RouteSource};

use crate::meaning::{DURATION_MAX, HTTP_OPTIONS, METADATA_KEY, ROUTER_FILTER, TCP_FILTER, canonical_order};
use crate::v1;

pub(crate) mod backend_tls;
mod cors;
pub mod envoy;
mod envoy_cors;
mod envoy_route;
mod filters;
pub mod grpc;
mod grpc_route;
pub(crate) mod health_check;
mod in_order;
mod lb_config;
mod not_sent;
mod outlier;
mod re2;
mod route;
mod trust_roots;
mod workload_policy;

pub use not_sent::{NotSent, Place, PolicyField, RouteField, Sent};
pub use trust_roots::trust_roots;
pub use workload_policy::workload_policy;

/// A listener, as `envoy.config.listener.v3.Listener`: with an API listener (gRFC A27, "LDS Proto"), or, for TCP, with
/// one chain of one filter, a `TcpProxy`.
pub fn listener(listener: &model::Listener) -> Any {
    let name = listener.name.to_string();
    let routes = match &listener.routes {
        RouteSource::Named(route) => rds(route.to_string()),
        RouteSource::Inline(hosts) => RouteSpecifier::RouteConfig(route::configuration(name.clone(), hosts)),
        RouteSource::Tcp(cluster) => return tcp_listener(name, cluster.to_string()),
    };
    api_listener(name, Vec::new(), routes)
}

fn tcp_listener(name: String, cluster: String) -> Any {
    let proxy = TcpProxy {
        stat_prefix: name.clone(),
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster)),
        ..TcpProxy::default()
    };
    let filter = Filter {
        name: TCP_FILTER.to_owned(),
        config_type: Some(ConfigType::TypedConfig(pack(&proxy))),
    };
    pack(&Listener {
        name,
        filter_chains: vec![FilterChain {
            filters: vec![filter],
            ..FilterChain::default()
        }],
        ..Listener::default()
    })
}

fn router_filter() -> HttpFilter {
    HttpFilter {
        name: ROUTER_FILTER.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(pack(&Router::default()))),
        ..HttpFilter::default()
    }
}

fn rds(route_config_name: String) -> RouteSpecifier {
    RouteSpecifier::Rds(Rds {
        config_source: Some(over_ads()),
        route_config_name,
    })
}

fn api_listener(name: String, filters: Vec<HttpFilter>, routes: RouteSpecifier) -> Any {
    let manager = HttpConnectionManager {
        stat_prefix: name.clone(),
        http_filters: filters.into_iter().chain([router_filter()]).collect(),
        route_specifier: Some(routes),
        ..HttpConnectionManager::default()
    };
    pack(&Listener {
        name,
        api_listener: Some(ApiListener {
            api_listener: Some(in_order::pack_manager(manager)),
        }),
        ..Listener::default()
    })
}

/// A route configuration, as `envoy.config.route.v3.RouteConfiguration`.
///
/// A route without backends, or with only those of weight 0, can't be said in Envoy's terms: it is written as a direct
/// response of 500, which is what it does, and as a `weir.v1.NoBackend` in the metadata of the route.
pub fn route_config(config: &model::RouteConfig) -> Any {
    in_order::pack_routes(route::configuration(config.name.to_string(), &config.virtual_hosts))
}

/// A cluster, as `envoy.config.cluster.v3.Cluster` of type EDS, with a `weir.v1.ClusterPolicy` in its metadata.
pub fn cluster(cluster: &model::Cluster) -> Any {
    let lb_policy = match cluster.balancing {
        Balancing::PeakEwma { .. } => LbPolicy::LeastRequest,
        Balancing::RoundRobin => LbPolicy::RoundRobin,
    };
    let http = http_options(cluster.protocol, Some(&cluster.pool));
    let http = http.map(|options| (HTTP_OPTIONS.to_owned(), pack(&options)));
    pack(&Cluster {
        name: cluster.name.to_string(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(over_ads()),
            service_name: String::new(),
        }),
        connect_timeout: Some(duration(cluster.connect_timeout)),
        lb_policy: lb_policy.into(),
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![Thresholds {
                max_connections: Some(number(cluster.limits.max_connections)),
                max_pending_requests: Some(number(cluster.limits.max_pending)),
                max_requests: Some(number(cluster.limits.max_requests)),
                ..Thresholds::default()
            }],
            per_host_thresholds: Vec::new(),
        }),
        outlier_detection: cluster.outlier_detection.as_ref().map(outlier::outlier_detection),
        health_checks: cluster
            .health_check
            .iter()
            .map(|check| health_check::health_check(check, cluster.protocol))
            .collect(),
        common_lb_config: Some(CommonLbConfig {
            healthy_panic_threshold: Some(Percent {
                value: cluster.panic_percent.into(),
            }),
            ..CommonLbConfig::default()
        }),
        lb_config: lb_config::lb_config(&cluster.balancing, cluster.slow_start.as_ref()),
        typed_extension_protocol_options: http.into_iter().collect(),
        transport_socket: cluster
            .backend_tls
            .as_ref()
            .map(|tls| backend_tls::socket(tls, cluster.protocol)),
        metadata: Some(metadata(&cluster_policy(cluster))),
        ..Cluster::default()
    })
}

/// A cluster's endpoints, as `envoy.config.endpoint.v3.ClusterLoadAssignment`, grouped and sorted by locality, and by
/// address in it. An endpoint that is known to be a workload or a weir proxy has a `weir.v1.EndpointIdentity` in its
/// metadata.
pub fn endpoints(endpoints: &model::ClusterEndpoints) -> Any {
    let mut sorted: Vec<&model::Endpoint> = endpoints.endpoints.iter().collect();
    sorted.sort_by(|a, b| canonical_order(a, b));
    let groups = sorted
        .chunk_by(|a, b| a.locality == b.locality)
        .map(|group| LocalityLbEndpoints {
            locality: group.first().map(|endpoint| locality(&endpoint.locality)),
            lb_endpoints: group.iter().map(|endpoint| lb_endpoint(endpoint)).collect(),
            ..LocalityLbEndpoints::default()
        });
    pack(&ClusterLoadAssignment {
        cluster_name: endpoints.cluster.to_string(),
        endpoints: groups.collect(),
        ..ClusterLoadAssignment::default()
    })
}

/// `pool`: how connections are kept; `None`: as by default. What is no HTTP has no options.
fn http_options(protocol: AppProtocol, pool: Option<&model::ConnectionPool>) -> Option<HttpProtocolOptions> {
    let protocol = match protocol {
        AppProtocol::Tcp => return None,
        AppProtocol::Http1 => ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default()),
        AppProtocol::Http2 | AppProtocol::Grpc => ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions {
            max_concurrent_streams: pool.and_then(|pool| pool.max_concurrent_streams).map(number),
            ..Http2ProtocolOptions::default()
        }),
    };
    Some(HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(protocol),
        })),
        common_http_protocol_options: pool.map(|pool| CommonProtocolOptions {
            idle_timeout: Some(duration(pool.idle_timeout)),
            max_requests_per_connection: pool.max_requests_per_connection.map(number),
            ..CommonProtocolOptions::default()
        }),
        ..HttpProtocolOptions::default()
    })
}

/// What a cluster of HTTP speaks, as its options say it.
pub(crate) fn http_options_message(protocol: AppProtocol) -> Any {
    pack(&http_options(protocol, None).unwrap_or_default())
}

/// The part of a cluster that only Weir has, for one that comes from elsewhere.
pub(crate) fn foreign_policy(balancing: Balancing, retry_budget: model::RetryBudget) -> Metadata {
    metadata(&v1::ClusterPolicy {
        balancing: Some(own_balancing(balancing)),
        retry_budget: Some(own_budget(retry_budget)),
        ..v1::ClusterPolicy::default()
    })
}

fn own_balancing(balancing: Balancing) -> v1::Balancing {
    let kind = match balancing {
        Balancing::PeakEwma { decay } => v1::balancing::Kind::PeakEwma(v1::PeakEwma {
            decay: Some(duration(decay)),
        }),
        Balancing::RoundRobin => v1::balancing::Kind::RoundRobin(v1::RoundRobin {}),
    };
    v1::Balancing { kind: Some(kind) }
}

fn own_budget(budget: model::RetryBudget) -> v1::RetryBudget {
    v1::RetryBudget {
        percent: budget.percent.into(),
        min_per_second: budget.min_per_second,
        window: Some(duration(budget.window)),
    }
}

fn cluster_policy(cluster: &model::Cluster) -> v1::ClusterPolicy {
    v1::ClusterPolicy {
        breaker: cluster.breaker.map(|breaker| v1::FailureBreaker {
            failure_percent: breaker.failure_percent.into(),
            min_requests: breaker.min_requests,
            window: Some(duration(breaker.window)),
            open_for: Some(duration(breaker.open_for)),
            half_open_requests: breaker.half_open_requests,
        }),
        balancing: Some(own_balancing(cluster.balancing)),
        retry_budget: Some(own_budget(cluster.retry_budget)),
        grpc: cluster.protocol == AppProtocol::Grpc,
        locality: cluster.locality.map(|locality| v1::LocalityPreference {
            overprovisioning_percent: locality.overprovisioning_percent,
        }),
        sources: cluster.sources.clone(),
        max_concurrent_streams: match cluster.protocol {
            AppProtocol::Http1 => cluster.pool.max_concurrent_streams.unwrap_or(0),
            AppProtocol::Http2 | AppProtocol::Grpc | AppProtocol::Tcp => 0,
        },
        closed: match &cluster.backend_tls {
            Some(BackendTls::Closed { why }) => why.clone(),
            Some(BackendTls::Verified(_)) | None => String::new(),
        },
        tcp: cluster.protocol == AppProtocol::Tcp,
    }
}

/// Endpoints by locality, without anything of Weir's own.
fn by_locality(
    mut endpoints: Vec<&model::Endpoint>,
    health: fn(EndpointHealth) -> HealthStatus,
) -> Vec<(Locality, Vec<LbEndpoint>)> {
    endpoints.sort_by(|a, b| canonical_order(a, b));
    let groups = endpoints.chunk_by(|a, b| a.locality == b.locality).map(|group| {
        let place = group.first().map(|endpoint| locality(&endpoint.locality));
        let endpoints = group.iter().map(|endpoint| LbEndpoint {
            health_status: health(endpoint.health).into(),
            host_identifier: Some(host(endpoint.address)),
            ..LbEndpoint::default()
        });
        (place.unwrap_or_default(), endpoints.collect())
    });
    groups.collect()
}

fn lb_endpoint(endpoint: &model::Endpoint) -> LbEndpoint {
    let identity = v1::EndpointIdentity {
        workload: endpoint.workload.as_ref().map(ToString::to_string).unwrap_or_default(),
        weir_proxy: endpoint.peer == Peer::WeirProxy,
        spiffe_id: endpoint.identity.as_ref().map(ToString::to_string).unwrap_or_default(),
    };
    let known = identity != v1::EndpointIdentity::default();
    LbEndpoint {
        health_status: health_status(endpoint.health).into(),
        metadata: known.then(|| metadata(&identity)),
        host_identifier: Some(host(endpoint.address)),
        ..LbEndpoint::default()
    }
}

fn health_status(health: EndpointHealth) -> HealthStatus {
    match health {
        EndpointHealth::Healthy => HealthStatus::Healthy,
        EndpointHealth::Unhealthy => HealthStatus::Unhealthy,
        EndpointHealth::Draining => HealthStatus::Draining,
    }
}

fn host(at: SocketAddr) -> HostIdentifier {
    HostIdentifier::Endpoint(Endpoint {
        address: Some(socket(at)),
        ..Endpoint::default()
    })
}

fn socket(at: SocketAddr) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            protocol: Protocol::Tcp.into(),
            address: at.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(at.port().into())),
            ..SocketAddress::default()
        })),
    }
}

fn locality(locality: &model::Locality) -> Locality {
    Locality {
        region: locality.region.clone(),
        zone: locality.zone.clone(),
        sub_zone: locality.site.clone(),
    }
}

fn over_ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    }
}

fn metadata<M: Message + Name>(message: &M) -> Metadata {
    Metadata {
        typed_filter_metadata: HashMap::from([(METADATA_KEY.to_owned(), pack(message))]),
        ..Metadata::default()
    }
}

fn pack<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}

/// A duration; one that is longer than the longest is that.
pub(crate) fn duration(duration: Duration) -> protobuf::Duration {
    let duration = duration.min(DURATION_MAX);
    protobuf::Duration {
        // Neither can fail within that bound.
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(i32::MAX),
    }
}

fn number(value: u32) -> UInt32Value {
    UInt32Value { value }
}
