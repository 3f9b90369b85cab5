//! The model in the terms of gRPC's own xDS clients (gRFC A27 and successors).
//!
//! gRPC ignores most fields that it does not know. So what it can't do is not written beside what it can: a call that
//! would need it fails with UNAVAILABLE (gRFC A36, "non-forwarding action"), and [`NotSent`] says so.

use std::collections::BTreeSet;
use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbPolicy,
};
use envoy_types::pb::envoy::config::cluster::v3::{CircuitBreakers, Cluster};
use envoy_types::pb::envoy::config::core::v3::transport_socket::ConfigType;
use envoy_types::pb::envoy::config::core::v3::{HealthStatus, TransportSocket};
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, LocalityLbEndpoints};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateProviderPluginInstance, CertificateValidationContext, CommonTlsContext, UpstreamTlsContext,
};
use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::google::protobuf::Any;
use weir_policy::model;
use weir_policy::model::{AppProtocol, Balancing, EndpointHealth, RouteSource};
use weir_policy::spiffe::SpiffeId;

use super::not_sent::{NotSent, Notes, Place, PolicyField, Sent};
use super::{api_listener, by_locality, filters, grpc_route, in_order, number, outlier, over_ads, pack};
use crate::meaning::TLS_SOCKET;
use crate::node::CERTIFICATE_PROVIDER;

/// A listener under the name that was asked for, whatever the spelling (gRFC A27, "LDS").
///
/// # Errors
/// When it carries nothing that a gRPC client could speak.
pub fn listener(listener: &model::Listener, called: &str) -> Result<Sent, NotSent> {
    let model::Listener { name: _, routes } = listener;
    let mut notes = Notes::default();
    let routes = match routes {
        RouteSource::Named(route) => super::rds(route.to_string()),
        RouteSource::Inline(hosts) => {
            // Only such as leave their port open hold routes themselves: whatever their port, it is refused.
            let configuration = grpc_route::configuration(called.to_owned(), hosts, None, &mut notes);
            super::RouteSpecifier::RouteConfig(configuration)
        }
        RouteSource::Tcp(_) => return Err(carries_tcp()),
    };
    // gRFC A33; a client that does not know it passes over it.
    let fault = HttpFilter {
        is_optional: true,
        ..filters::fault_filter()
    };
    Ok(notes.with(api_listener(called.to_owned(), vec![fault], routes)))
}

fn carries_tcp() -> NotSent {
    NotSent {
        place: Place::Protocol,
        problem: "is TCP: a gRPC client can't speak to it".to_owned(),
    }
}

/// A route configuration.
pub fn route_config(config: &model::RouteConfig) -> Sent {
    let model::RouteConfig { name, virtual_hosts } = config;
    let mut notes = Notes::default();
    let port = Some(name.cluster.port);
    let message = grpc_route::configuration(name.to_string(), virtual_hosts, port, &mut notes);
    notes.with(in_order::pack_routes(message))
}

/// A cluster, balanced by round robin: of what Weir has it is the one way that each of gRPC's clients has.
///
/// Where `peers` are given, its endpoints are called by mutual TLS, and each must be one of them: gRPC has no identity
/// for a single endpoint (gRFC A29). They are for a client alone that says that it has certificates
/// ([`crate::node::GrpcSecurity::MutualTls`]).
///
/// # Errors
/// When its endpoints speak nothing that a gRPC client could, or TLS.
pub fn cluster(cluster: &model::Cluster, peers: &BTreeSet<Arc<SpiffeId>>) -> Result<Sent, NotSent> {
    let model::Cluster {
        name,
        protocol,
        connect_timeout: _,
        balancing,
        limits,
        breaker,
        outlier_detection,
        health_check,
        slow_start,
        locality,
        pool,
        panic_percent: _,
        retry_budget: _,
        backend_tls,
        // Its metadata is shown nowhere.
        sources: _,
    } = cluster;
    match protocol {
        AppProtocol::Http2 | AppProtocol::Grpc => {}
        AppProtocol::Http1 => {
            return Err(NotSent {
                place: Place::Protocol,
                problem: "is HTTP/1.1: a gRPC client can't speak to it".to_owned(),
            });
        }
        AppProtocol::Tcp => return Err(carries_tcp()),
    }
    if backend_tls.is_some() {
        return Err(NotSent {
            place: Place::BackendTls,
            problem: "is not known to a gRPC client, whose calls fail: its TLS is set up where it starts (gRFC A29)"
                .to_owned(),
        });
    }
    let mut notes = Notes::default();
    match balancing {
        Balancing::RoundRobin => {}
        Balancing::PeakEwma { .. } => notes.policy(PolicyField::Balancing, "is round robin at a gRPC client"),
    }
    notes.policy(PolicyField::ConnectTimeout, "is not known to a gRPC client");
    notes.policy(PolicyField::RetryBudget, "is not known to a gRPC client");
    let model::Limits {
        max_connections,
        max_pending,
        max_requests,
    } = limits;
    let default = model::Limits::default();
    if *max_connections != default.max_connections {
        notes.policy(PolicyField::MaxConnections, "is not known to a gRPC client");
    }
    if *max_pending != default.max_pending {
        notes.policy(PolicyField::MaxPendingRequests, "is not known to a gRPC client");
    }
    if breaker.is_some() {
        notes.policy(PolicyField::Failures, "is not known to a gRPC client");
    }
    if health_check.is_some() {
        notes.policy(PolicyField::HealthCheck, "is not known to a gRPC client");
    }
    if slow_start.is_some() {
        notes.policy(PolicyField::SlowStart, "is not known to a gRPC client");
    }
    if locality.is_some() {
        notes.policy(PolicyField::Locality, "is not known to a gRPC client");
    }
    if *pool != model::ConnectionPool::default() {
        notes.policy(PolicyField::ConnectionPool, "is not known to a gRPC client");
    }
    notes.policy(PolicyField::PanicPercent, "is not known to a gRPC client");
    // gRFC A50: of the rules that Weir has it knows this one.
    let by_share = outlier_detection.filter(|detection| detection.failure_percentage.is_some());
    if outlier_detection.is_some_and(counts_in_a_row) {
        notes.policy(
            PolicyField::OutlierDetection,
            "counts errors one after the other, which a gRPC client does not",
        );
    }
    Ok(notes.with(pack(&Cluster {
        name: name.to_string(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(over_ads()),
            service_name: String::new(),
        }),
        lb_policy: LbPolicy::RoundRobin.into(),
        // gRFC A32: of the thresholds this one counts.
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![Thresholds {
                max_requests: Some(number(*max_requests)),
                ..Thresholds::default()
            }],
            per_host_thresholds: Vec::new(),
        }),
        outlier_detection: by_share.as_ref().map(outlier::outlier_detection),
        transport_socket: (!peers.is_empty()).then(|| mutual_tls(peers)),
        ..Cluster::default()
    })))
}

/// TLS with one of these, by the client's own certificate and the roots that it has.
fn mutual_tls(peers: &BTreeSet<Arc<SpiffeId>>) -> TransportSocket {
    let provider = CertificateProviderPluginInstance {
        instance_name: CERTIFICATE_PROVIDER.to_owned(),
        certificate_name: String::new(),
    };
    let exactly = |id: &Arc<SpiffeId>| StringMatcher {
        match_pattern: Some(MatchPattern::Exact(id.to_string())),
        ..StringMatcher::default()
    };
    // Of the two lists of names gRPC looks at this one (gRFC A29, "UpstreamTlsContext").
    #[expect(deprecated, reason = "gRPC's clients know none but the deprecated field")]
    let validation = CertificateValidationContext {
        ca_certificate_provider_instance: Some(provider.clone()),
        match_subject_alt_names: peers.iter().map(exactly).collect(),
        ..CertificateValidationContext::default()
    };
    let context = UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_certificate_provider_instance: Some(provider),
            validation_context_type: Some(ValidationContextType::ValidationContext(validation)),
            ..CommonTlsContext::default()
        }),
        ..UpstreamTlsContext::default()
    };
    TransportSocket {
        name: TLS_SOCKET.to_owned(),
        config_type: Some(ConfigType::TypedConfig(pack(&context))),
    }
}

/// A cluster's endpoints: those that new requests may go to, unhealthy ones only if there is no healthy one. All go as
/// healthy, since gRPC uses no others; a locality weighs as much as it has endpoints: one without a weight would get
/// none (gRFC A27, "EDS").
pub fn endpoints(endpoints: &model::ClusterEndpoints) -> Any {
    let model::ClusterEndpoints { cluster, endpoints } = endpoints;
    let with = |health| endpoints.iter().filter(move |endpoint| endpoint.health == health);
    let mut usable: Vec<&model::Endpoint> = with(EndpointHealth::Healthy).collect();
    if usable.is_empty() {
        usable = with(EndpointHealth::Unhealthy).collect();
    }
    let localities = by_locality(usable, |_| HealthStatus::Healthy).into_iter();
    let localities = localities.map(|(locality, endpoints)| {
        let weight = u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
        LocalityLbEndpoints {
            locality: Some(locality),
            lb_endpoints: endpoints,
            load_balancing_weight: Some(number(weight)),
            ..LocalityLbEndpoints::default()
        }
    });
    pack(&ClusterLoadAssignment {
        cluster_name: cluster.to_string(),
        endpoints: localities.collect(),
        ..ClusterLoadAssignment::default()
    })
}

fn counts_in_a_row(detection: model::OutlierDetection) -> bool {
    let model::OutlierDetection {
        consecutive_5xx_errors,
        consecutive_gateway_errors,
        consecutive_local_origin_failures,
        failure_percentage: _,
        interval: _,
        base_ejection_time: _,
        max_ejection_time: _,
        max_ejection_percent: _,
    } = detection;
    let counts = [
        consecutive_5xx_errors,
        consecutive_gateway_errors,
        consecutive_local_origin_failures,
    ];
    counts.iter().any(Option::is_some)
}
