//! What is taken out of a foreign control plane's messages, or adapted, is said by its place; what is left can be read.

use std::collections::HashMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig};
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::health_check::{HealthChecker, HttpHealthCheck};
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, HealthCheck, HealthStatus, Http2ProtocolOptions,
    SocketAddress, address,
};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints};
use envoy_types::pb::envoy::config::listener::v3::{ApiListener, Listener};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::{ClusterNotFoundResponseCode, ClusterSpecifier};
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{
    RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
};
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::FaultDelay;
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::fault_delay::FaultDelaySecifier;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::HttpFault;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_filter,
};
use envoy_types::pb::envoy::r#type::v3::fractional_percent::DenominatorType;
use envoy_types::pb::envoy::r#type::v3::{CodecClientType, FractionalPercent, Int64Range};
use envoy_types::pb::google::protobuf::{Any, BoolValue, Duration as WireDuration, UInt32Value};
use prost::{Message, Name};
use weir_policy::model;
use weir_xds::decode::lenient::{Softened, soften};
use weir_xds::{Rejection, ResourceType, decode};

/// What is changed in a message that has nothing to be taken out, and what is said of it then.
struct Row<M>(fn(&mut M), &'static [&'static str]);

/// Returns what is left, by row.
#[track_caller]
fn check<M: Message + Name + Default + Clone, R>(
    kind: ResourceType,
    base: M,
    rows: &[Row<M>],
    decode: fn(&Any) -> Result<R, Rejection>,
) -> Vec<R> {
    let mut read = Vec::new();
    for (at, Row(change, expect)) in rows.iter().enumerate() {
        let mut message = base.clone();
        change(&mut message);
        let Softened { message, mut skipped } = soften(kind, &pack(&message));
        skipped.sort();
        assert_eq!(skipped, *expect, "row {at}");
        read.push(decode(&message).unwrap_or_else(|problem| panic!("row {at}: {problem}")));
    }
    read
}

fn pack<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}

fn seconds(seconds: i64) -> Option<WireDuration> {
    Some(WireDuration { seconds, nanos: 0 })
}

fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

fn ads() -> Option<ConfigSource> {
    Some(ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    })
}

fn filter<M: Message + Name>(name: &str, message: &M) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(pack(message))),
        ..HttpFilter::default()
    }
}

const FAULT: &str = "envoy.filters.http.fault";

fn a_fault() -> HttpFault {
    HttpFault {
        delay: Some(FaultDelay {
            percentage: Some(FractionalPercent {
                numerator: 100,
                denominator: DenominatorType::Hundred.into(),
            }),
            fault_delay_secifier: seconds(1).map(FaultDelaySecifier::FixedDelay),
        }),
        ..HttpFault::default()
    }
}

fn listener() -> Listener {
    let manager = HttpConnectionManager {
        stat_prefix: "for-people".to_owned(),
        http_filters: vec![filter("envoy.filters.http.router", &Router::default())],
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: ads(),
            route_config_name: "b.default:80/*".to_owned(),
        })),
        ..HttpConnectionManager::default()
    };
    Listener {
        name: "b.default.svc.cluster.local:80".to_owned(),
        api_listener: Some(ApiListener {
            api_listener: Some(pack(&manager)),
        }),
        ..Listener::default()
    }
}

fn manager(listener: &mut Listener, change: impl FnOnce(&mut HttpConnectionManager)) {
    let any = listener.api_listener.as_mut().and_then(|api| api.api_listener.as_mut());
    let any = any.expect("a manager");
    let mut manager = HttpConnectionManager::decode(any.value.as_slice()).expect("a manager");
    change(&mut manager);
    *any = pack(&manager);
}

/// With this filter before the others.
fn first(listener: &mut Listener, filter: HttpFilter) {
    manager(listener, |manager| manager.http_filters.insert(0, filter));
}

fn optional(filter: HttpFilter) -> HttpFilter {
    HttpFilter {
        is_optional: true,
        ..filter
    }
}

#[test]
fn of_listeners() {
    let rows: &[Row<Listener>] = &[
        Row(|_| {}, &[]),
        Row(|l| l.tcp_backlog_size = number(1), &["tcp_backlog_size"]),
        Row(
            |l| manager(l, |m| m.stream_idle_timeout = seconds(1)),
            &["api_listener.api_listener.stream_idle_timeout"],
        ),
        Row(
            |l| first(l, optional(filter("x", &Listener::default()))),
            &["api_listener.api_listener.http_filters: \"x\""],
        ),
        // What routes say to it is in force without it.
        Row(|l| first(l, filter(FAULT, &HttpFault::default())), &[]),
        Row(|l| first(l, optional(filter(FAULT, &HttpFault::default()))), &[]),
        // What it does to routes that say nothing is not.
        Row(
            |l| first(l, optional(filter(FAULT, &a_fault()))),
            &["api_listener.api_listener.http_filters: \"envoy.filters.http.fault\", where routes say nothing to it"],
        ),
        // Routes don't mean it.
        Row(
            |l| first(l, optional(filter("x", &HttpFault::default()))),
            &["api_listener.api_listener.http_filters: \"x\""],
        ),
    ];
    check(ResourceType::Listener, listener(), rows, decode::listener);
}

#[test]
fn a_filter_that_harms_every_route_stays_and_is_refused_unless_it_is_optional() {
    let mut listener = listener();
    first(&mut listener, filter(FAULT, &a_fault()));
    let Softened { message, skipped } = soften(ResourceType::Listener, &pack(&listener));
    assert_eq!(skipped, [""; 0]);
    let rejection = decode::listener(&message).expect_err("it is refused");
    assert!(rejection.to_string().contains("http_filters[0]"), "{rejection}");
}

fn routes() -> RouteConfiguration {
    let route = Route {
        name: "r".to_owned(),
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
            ..RouteMatch::default()
        }),
        action: Some(Action::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster("b.default:80".to_owned())),
            cluster_not_found_response_code: ClusterNotFoundResponseCode::InternalServerError.into(),
            ..RouteAction::default()
        })),
        ..Route::default()
    };
    RouteConfiguration {
        name: "b.default:80/*".to_owned(),
        virtual_hosts: vec![VirtualHost {
            name: "all".to_owned(),
            domains: vec!["b.default".to_owned()],
            routes: vec![route],
            ..VirtualHost::default()
        }],
        ..RouteConfiguration::default()
    }
}

fn host(config: &mut RouteConfiguration) -> &mut VirtualHost {
    &mut config.virtual_hosts[0]
}

fn forward(config: &mut RouteConfiguration) -> &mut RouteAction {
    match &mut host(config).routes[0].action {
        Some(Action::Route(action)) => action,
        other => panic!("a forward: {other:?}"),
    }
}

#[test]
fn of_routes() {
    let rows: &[Row<RouteConfiguration>] = &[
        Row(|_| {}, &[]),
        Row(|c| c.ignore_port_in_host_matching = true, &[]),
        Row(
            |c| host(c).domains.push("b.default:80".to_owned()),
            &["virtual_hosts[0].domains: \"b.default:80\", its port"],
        ),
        Row(
            |c| c.validate_clusters = Some(BoolValue { value: true }),
            &["validate_clusters"],
        ),
        Row(
            |c| forward(c).idle_timeout = seconds(1),
            &["virtual_hosts[0].routes[0].route.idle_timeout"],
        ),
        Row(
            |c| forward(c).cluster_not_found_response_code = ClusterNotFoundResponseCode::ServiceUnavailable.into(),
            &["virtual_hosts[0].routes[0].route.cluster_not_found_response_code"],
        ),
        Row(
            |c| {
                forward(c).retry_policy = Some(RetryPolicy {
                    retry_on: "5xx,reset-before-request,envoy-ratelimited".to_owned(),
                    ..RetryPolicy::default()
                });
            },
            &["virtual_hosts[0].routes[0].route.retry_policy.retry_on: \"envoy-ratelimited\""],
        ),
    ];
    check(ResourceType::Route, routes(), rows, decode::route_config);
}

#[test]
fn what_routes_say_to_the_filter_for_faults_is_in_force() {
    let rows: &[Row<RouteConfiguration>] = &[Row(
        |c| {
            let of_route = (FAULT.to_owned(), pack(&a_fault()));
            host(c).routes[0].typed_per_filter_config = HashMap::from([of_route]);
        },
        &[],
    )];
    let read = check(ResourceType::Route, routes(), rows, decode::route_config);
    let delay = model::FaultDelay {
        parts_per_million: 1_000_000,
        duration: Duration::from_secs(1),
    };
    let fault = model::Fault {
        delay: Some(delay),
        abort: None,
    };
    assert_eq!(read[0].virtual_hosts[0].routes[0].fault, Some(fault));
}

fn cluster() -> Cluster {
    let http = HttpHealthCheck {
        path: "/healthz".to_owned(),
        retriable_statuses: vec![Int64Range { start: 100, end: 600 }],
        codec_client_type: CodecClientType::Http1.into(),
        ..HttpHealthCheck::default()
    };
    Cluster {
        name: "b.default:80".to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: ads(),
            service_name: String::new(),
        }),
        health_checks: vec![HealthCheck {
            timeout: seconds(1),
            interval: seconds(10),
            interval_jitter_percent: 10,
            unhealthy_threshold: number(3),
            healthy_threshold: number(2),
            reuse_connection: Some(BoolValue { value: false }),
            no_traffic_interval: seconds(10),
            health_checker: Some(HealthChecker::HttpHealthCheck(http)),
            ..HealthCheck::default()
        }],
        ..Cluster::default()
    }
}

fn health_check(cluster: &mut Cluster) -> &mut HealthCheck {
    &mut cluster.health_checks[0]
}

fn by_http(cluster: &mut Cluster) -> &mut HttpHealthCheck {
    match &mut health_check(cluster).health_checker {
        Some(HealthChecker::HttpHealthCheck(http)) => http,
        other => panic!("a check by HTTP: {other:?}"),
    }
}

#[test]
#[allow(deprecated, reason = "what older servers write")]
fn of_clusters() {
    let rows: &[Row<Cluster>] = &[
        Row(|_| {}, &[]),
        Row(|c| c.alt_stat_name = "x".to_owned(), &["alt_stat_name"]),
        Row(
            |c| {
                c.http2_protocol_options = Some(Http2ProtocolOptions::default());
                by_http(c).codec_client_type = CodecClientType::Http2.into();
            },
            &[],
        ),
        Row(
            |c| {
                c.http2_protocol_options = Some(Http2ProtocolOptions {
                    max_concurrent_streams: number(1),
                    ..Http2ProtocolOptions::default()
                });
                by_http(c).codec_client_type = CodecClientType::Http2.into();
            },
            &["http2_protocol_options"],
        ),
        Row(
            |c| health_check(c).interval_jitter_percent = 0,
            &["health_checks[0].interval_jitter_percent"],
        ),
        Row(
            |c| health_check(c).interval_jitter = seconds(1),
            &["health_checks[0].interval_jitter"],
        ),
        Row(
            |c| health_check(c).reuse_connection = None,
            &["health_checks[0].reuse_connection"],
        ),
        Row(
            |c| health_check(c).no_traffic_interval = None,
            &["health_checks[0].no_traffic_interval"],
        ),
        Row(
            |c| by_http(c).retriable_statuses.clear(),
            &["health_checks[0].http_health_check.retriable_statuses"],
        ),
        Row(
            |c| by_http(c).codec_client_type = CodecClientType::Http2.into(),
            &["health_checks[0].http_health_check.codec_client_type"],
        ),
        // One that can't be made so.
        Row(|c| health_check(c).alt_port = number(1), &["health_checks[0]"]),
    ];
    let read = check(ResourceType::Cluster, cluster(), rows, decode::cluster);
    let (last, others) = read.split_last().expect("rows");
    assert!(others.iter().all(|cluster| cluster.health_check.is_some()));
    assert_eq!(last.health_check, None);
}

fn endpoints() -> ClusterLoadAssignment {
    let address = address::Address::SocketAddress(SocketAddress {
        address: "10.0.0.1".to_owned(),
        port_specifier: Some(PortSpecifier::PortValue(80)),
        ..SocketAddress::default()
    });
    let endpoint = Endpoint {
        address: Some(Address { address: Some(address) }),
        ..Endpoint::default()
    };
    ClusterLoadAssignment {
        cluster_name: "b.default:80".to_owned(),
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints: vec![LbEndpoint {
                host_identifier: Some(HostIdentifier::Endpoint(endpoint)),
                ..LbEndpoint::default()
            }],
            ..LocalityLbEndpoints::default()
        }],
        ..ClusterLoadAssignment::default()
    }
}

fn endpoint(message: &mut ClusterLoadAssignment) -> &mut LbEndpoint {
    &mut message.endpoints[0].lb_endpoints[0]
}

#[test]
fn of_endpoints() {
    let rows: &[Row<ClusterLoadAssignment>] = &[
        Row(|_| {}, &[]),
        Row(
            |e| endpoint(e).load_balancing_weight = number(1),
            &["endpoints[0].lb_endpoints[0].load_balancing_weight"],
        ),
        // No answer in time is no health.
        Row(|e| endpoint(e).health_status = HealthStatus::Timeout.into(), &[]),
        Row(
            |e| endpoint(e).health_status = HealthStatus::Degraded.into(),
            &["endpoints[0].lb_endpoints[0].health_status"],
        ),
    ];
    check(ResourceType::Endpoints, endpoints(), rows, decode::endpoints);
}
