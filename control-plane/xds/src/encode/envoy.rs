//! The model in Envoy's terms: socket listeners, one route configuration over all services, clusters, endpoints.
//!
//! What exists only between weir proxies does not go along: of Weir's metadata only what a cluster is made from, for
//! people; `weir-context` and `weir-verdict` are taken out of what passes.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::thresholds::RetryBudget;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CommonLbConfig, DiscoveryType, EdsClusterConfig, LbPolicy,
};
use envoy_types::pb::envoy::config::cluster::v3::{CircuitBreakers, Cluster};
use envoy_types::pb::envoy::config::core::v3::{Http2ProtocolOptions, Metadata, TrafficDirection};
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints};
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener};
use envoy_types::pb::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    RouteSpecifier, ServerHeaderTransformation, UpgradeConfig,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter,
};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::UpstreamProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Any, ListValue, Struct, UInt32Value, Value};
use weir_policy::context;
use weir_policy::model;
use weir_policy::model::{Balancing, EndpointHealth};

pub use super::envoy_route::Buckets;
use super::not_sent::{NotSent, Notes, Place, PolicyField, Sent};
use super::{
    by_locality, duration, envoy_cors, envoy_route, filters, health_status, host, http_options, in_order, lb_config,
    number, outlier, over_ads, pack, rds, router_filter, socket,
};
use crate::envoy_node::{InboundPort, InboundProtocol};
use crate::meaning::{HTTP_OPTIONS, METADATA_KEY};

/// The name of the listener where an Envoy's app sends its calls, and of its routes.
pub const OUTBOUND: &str = "weir-outbound";

/// What the names of listeners and clusters for others' calls begin with.
pub const INBOUND: &str = "weir-inbound/";

/// Virtual hosts as an Envoy has them: those of one service, or of several put together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hosts {
    hosts: Vec<VirtualHost>,
    buckets: Buckets,
    not_sent: Vec<NotSent>,
}

impl Hosts {
    /// Puts those of others behind.
    pub fn extend(&mut self, others: Hosts) {
        self.hosts.extend(others.hosts);
        self.buckets.extend(&others.buckets);
        self.not_sent.extend(others.not_sent);
    }

    /// What of the model they do not say, at an Envoy whose virtual hosts have these [`buckets`] in all.
    pub fn not_sent(&self, all: &Buckets) -> Vec<NotSent> {
        let mut notes = Notes::default();
        self.buckets.note(all, &mut notes);
        let own = self.not_sent.iter().cloned();
        own.chain(notes.into_list()).collect()
    }
}

/// The listener where the app of an Envoy sends its calls. Its routes are [`outbound_routes`].
pub fn outbound_listener(listen: SocketAddr) -> Any {
    let routes = rds(OUTBOUND.to_owned());
    let mut filters = vec![envoy_cors::filter()];
    filters.extend(filters::of_listener());
    filters.push(router_filter());
    listener(OUTBOUND.to_owned(), listen, TrafficDirection::Outbound, filters, routes)
}

/// The name of the listener for others' calls at this address.
pub fn inbound_name(listen: SocketAddr) -> String {
    format!("{INBOUND}{listen}")
}

/// The listener for others' calls to an app port. It takes HTTP/1.1 and HTTP/2 by the first bytes.
pub fn inbound_listener(listen: SocketAddr, port: InboundPort) -> Any {
    let name = inbound_name(listen);
    let configuration = RouteConfiguration {
        name: name.clone(),
        virtual_hosts: vec![envoy_route::to_app(inbound_cluster_name(port))],
        ..without_our_own()
    };
    let routes = RouteSpecifier::RouteConfig(configuration);
    listener(name, listen, TrafficDirection::Inbound, vec![router_filter()], routes)
}

/// The name of an app port's cluster.
pub fn inbound_cluster_name(port: InboundPort) -> String {
    let InboundPort { app, protocol } = port;
    let protocol = match protocol {
        InboundProtocol::Http1 => "http",
        InboundProtocol::Http2 => "http2",
        InboundProtocol::Grpc => "grpc",
    };
    format!("{INBOUND}{app}={protocol}")
}

/// An app port on loopback.
pub fn inbound_cluster(port: InboundPort) -> Any {
    let name = inbound_cluster_name(port);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.app.get()));
    let endpoint = LbEndpoint {
        host_identifier: Some(host(address)),
        ..LbEndpoint::default()
    };
    pack(&Cluster {
        name: name.clone(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into())),
        connect_timeout: Some(duration(APP_CONNECT_TIMEOUT)),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: name,
            endpoints: vec![LocalityLbEndpoints {
                lb_endpoints: vec![endpoint],
                ..LocalityLbEndpoints::default()
            }],
            ..ClusterLoadAssignment::default()
        }),
        typed_extension_protocol_options: protocol_options(port.protocol.app_protocol(), None),
        ..Cluster::default()
    })
}

/// The virtual hosts for a service's names, all in lower case: of those that a request for such a name would use, each
/// with its names.
pub fn hosts(names: &[String], hosts: &[model::VirtualHost]) -> Hosts {
    let (mut buckets, mut notes) = (Buckets::default(), Notes::default());
    Hosts {
        hosts: envoy_route::hosts(names, hosts, &mut buckets, &mut notes),
        buckets,
        not_sent: notes.into_list(),
    }
}

/// What is to be said of a service port that carries TCP: an Envoy has one listener for the calls of its app, which
/// tells services by their names in HTTP, and TCP has no name.
pub fn no_listener_for_tcp() -> NotSent {
    NotSent {
        place: Place::Protocol,
        problem: "is TCP: an Envoy is sent no listener for it; a weir proxy carries it (--listen)".to_owned(),
    }
}

/// How many limits of rates an Envoy with the virtual hosts of all these services keeps.
pub fn buckets<'a>(services: impl Iterator<Item = &'a Hosts>) -> Buckets {
    let mut all = Buckets::default();
    for service in services {
        all.extend(&service.buckets);
    }
    all
}

/// The routes of all services together, under [`OUTBOUND`]. A name that is no service of the mesh is answered with 502,
/// as a weir proxy does.
pub fn outbound_routes<'a>(services: impl Iterator<Item = &'a Hosts>) -> Any {
    let hosts = services.flat_map(|service| &service.hosts).cloned();
    let virtual_hosts: Vec<VirtualHost> = hosts.chain([envoy_route::unknown_service()]).collect();
    // Envoy refuses all routes for one whose text is longer than this.
    let longest = virtual_hosts.iter().map(envoy_route::longest_text).max();
    let longest = longest.and_then(|bytes| u32::try_from(bytes).ok());
    in_order::pack_routes(RouteConfiguration {
        name: OUTBOUND.to_owned(),
        virtual_hosts,
        max_direct_response_body_size_bytes: longest.filter(|bytes| *bytes > TEXT_BYTES_MAX).map(number),
        ..without_our_own()
    })
}

/// A cluster. Peak EWMA goes as least request: two drawn at random, the one with fewer requests taken.
///
/// # Errors
/// When it carries TCP: an Envoy is told of it by routes alone, and would speak HTTP to it. As it is none, that share
/// of a route's requests is answered by Envoy.
pub fn cluster(cluster: &model::Cluster) -> Result<Sent, NotSent> {
    if cluster.protocol == model::AppProtocol::Tcp {
        return Err(NotSent {
            place: Place::Protocol,
            problem: "is TCP: routes, by which an Envoy is told of it, are for HTTP".to_owned(),
        });
    }
    let model::Cluster {
        name,
        protocol,
        connect_timeout,
        balancing,
        limits,
        breaker,
        outlier_detection,
        health_check,
        slow_start,
        locality,
        pool,
        panic_percent,
        retry_budget,
        backend_tls,
        sources,
    } = cluster;
    let mut notes = Notes::default();
    if *protocol == model::AppProtocol::Http1 && pool.max_concurrent_streams.is_some() {
        notes.policy(
            PolicyField::MaxConcurrentStreams,
            "is without effect at an Envoy, which speaks HTTP/1.1 to this port",
        );
    }
    if breaker.is_some() {
        notes.policy(
            PolicyField::Failures,
            "is not known to Envoy: it has no breaker on a whole cluster",
        );
    }
    if locality.is_some() {
        notes.policy(
            PolicyField::Locality,
            "is not sent to Envoy: to it all endpoints are alike, wherever they are",
        );
    }
    let model::Limits {
        max_connections,
        max_pending,
        max_requests,
    } = limits;
    let model::RetryBudget {
        percent,
        min_per_second,
        window,
    } = retry_budget;
    let thresholds = Thresholds {
        max_connections: Some(number(*max_connections)),
        max_pending_requests: Some(number(*max_pending)),
        max_requests: Some(number(*max_requests)),
        retry_budget: Some(RetryBudget {
            budget_percent: Some(Percent {
                value: f64::from(*percent),
            }),
            budget_interval: Some(duration(*window)),
            // Of retries under way, where Weir counts those of a second: the same for a retry that takes one.
            min_retry_concurrency: Some(UInt32Value { value: *min_per_second }),
        }),
        ..Thresholds::default()
    };
    let lb_policy = match balancing {
        Balancing::PeakEwma { decay: _ } => LbPolicy::LeastRequest,
        Balancing::RoundRobin => LbPolicy::RoundRobin,
    };
    Ok(notes.with(pack(&Cluster {
        name: name.to_string(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(over_ads()),
            service_name: String::new(),
        }),
        connect_timeout: Some(duration(*connect_timeout)),
        lb_policy: lb_policy.into(),
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![thresholds],
            per_host_thresholds: Vec::new(),
        }),
        outlier_detection: outlier_detection.as_ref().map(outlier::outlier_detection),
        health_checks: health_check
            .iter()
            .map(|check| super::health_check::health_check(check, *protocol))
            .collect(),
        common_lb_config: Some(CommonLbConfig {
            healthy_panic_threshold: Some(Percent {
                value: f64::from(*panic_percent),
            }),
            ..CommonLbConfig::default()
        }),
        lb_config: lb_config::lb_config(balancing, slow_start.as_ref()),
        ignore_health_on_host_removal: true,
        typed_extension_protocol_options: protocol_options(*protocol, Some(pool)),
        transport_socket: backend_tls
            .as_ref()
            .map(|tls| super::backend_tls::envoy_socket(tls, *protocol)),
        metadata: shown_sources(sources),
        ..Cluster::default()
    })))
}

/// For people who read Envoy's `/config_dump`.
fn shown_sources(sources: &[String]) -> Option<Metadata> {
    if sources.is_empty() {
        return None;
    }
    let value = |kind| Value { kind: Some(kind) };
    let values = sources.iter().cloned().map(|source| value(Kind::StringValue(source)));
    let list = value(Kind::ListValue(ListValue {
        values: values.collect(),
    }));
    let shown = Struct {
        fields: HashMap::from([("sources".to_owned(), list)]),
    };
    Some(Metadata {
        filter_metadata: HashMap::from([(METADATA_KEY.to_owned(), shown)]),
        ..Metadata::default()
    })
}

/// A cluster's endpoints but those that drain: in a panic Envoy would use these as well.
pub fn endpoints(endpoints: &model::ClusterEndpoints) -> Any {
    let model::ClusterEndpoints { cluster, endpoints } = endpoints;
    let stay = endpoints
        .iter()
        .filter(|endpoint| endpoint.health != EndpointHealth::Draining);
    let localities = by_locality(stay.collect(), health_status).into_iter();
    let localities = localities.map(|(locality, endpoints)| LocalityLbEndpoints {
        locality: Some(locality),
        lb_endpoints: endpoints,
        ..LocalityLbEndpoints::default()
    });
    pack(&ClusterLoadAssignment {
        cluster_name: cluster.to_string(),
        endpoints: localities.collect(),
        ..ClusterLoadAssignment::default()
    })
}

fn listener(
    name: String,
    at: SocketAddr,
    direction: TrafficDirection,
    filters: Vec<HttpFilter>,
    routes: RouteSpecifier,
) -> Any {
    let manager = HttpConnectionManager {
        stat_prefix: name.clone(),
        http_filters: filters,
        route_specifier: Some(routes),
        // The app's own, not Envoy's.
        server_header_transformation: ServerHeaderTransformation::PassThrough.into(),
        strip_trailing_host_dot: true,
        // As long as both sides wait, so does Weir.
        stream_idle_timeout: Some(duration(Duration::ZERO)),
        // Envoy carries no other upgrade unless it is named.
        upgrade_configs: vec![UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..UpgradeConfig::default()
        }],
        http2_protocol_options: Some(Http2ProtocolOptions {
            allow_connect: true,
            ..Http2ProtocolOptions::default()
        }),
        ..HttpConnectionManager::default()
    };
    pack(&Listener {
        name,
        address: Some(socket(at)),
        traffic_direction: direction.into(),
        filter_chains: vec![FilterChain {
            filters: vec![Filter {
                name: HTTP_FILTER.to_owned(),
                config_type: Some(ConfigType::TypedConfig(in_order::pack_manager(manager))),
            }],
            ..FilterChain::default()
        }],
        ..Listener::default()
    })
}

/// Routes by which nothing of Weir's own passes.
fn without_our_own() -> RouteConfiguration {
    RouteConfiguration {
        request_headers_to_remove: vec![context::CONTEXT_HEADER.to_string()],
        response_headers_to_remove: vec![context::VERDICT_HEADER.to_string()],
        ..RouteConfiguration::default()
    }
}

/// As for weir proxies; and a WebSocket may be asked for by HTTP/2, as an app that speaks it expects (RFC 8441).
fn protocol_options(protocol: model::AppProtocol, pool: Option<&model::ConnectionPool>) -> HashMap<String, Any> {
    let mut options = http_options(protocol, pool);
    let explicit = options
        .as_mut()
        .and_then(|options| options.upstream_protocol_options.as_mut());
    if let Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) = explicit
        && let Some(ProtocolConfig::Http2ProtocolOptions(http2)) = &mut explicit.protocol_config
    {
        http2.allow_connect = true;
    }
    let options = options.map(|options| (HTTP_OPTIONS.to_owned(), pack(&options)));
    options.into_iter().collect()
}

const HTTP_FILTER: &str = "envoy.filters.network.http_connection_manager";
/// Envoy's published default of the longest text that a route answers with.
const TEXT_BYTES_MAX: u32 = 4_096;
/// On loopback: what takes longer does not come.
const APP_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
