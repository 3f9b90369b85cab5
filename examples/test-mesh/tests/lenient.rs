//! A sidecar under a control plane that is not Weir's: a delta ADS server on the published types, which sets what such
//! servers set.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbPolicy,
};
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, SocketAddress, TransportSocket, address,
};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints};
use envoy_types::pb::envoy::config::listener::v3::{ApiListener, Listener};
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{
    HeaderMatcher, RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_filter,
};
use envoy_types::pb::google::protobuf::{self, Any, BoolValue, UInt32Value};
use http::{Request, StatusCode};
use http_body_util::Full;
use prost::{Message, Name};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Response, Status, Streaming};
use weir_policy::model::AppProtocol;
use weir_proxy::Proxy;
use weir_proxy::config::{AppPort, Edge, OutboundAddr, ProxyConfig, Xds};
use weir_test_mesh::{Answer, Protocol, Script, ScriptedApp, call, until};
use weir_xds::envoy::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer, DeltaDiscoveryRequest, DeltaDiscoveryResponse,
    DiscoveryRequest, DiscoveryResponse, Resource,
};

/// Answers each subscription once, from a table by type and name.
#[derive(Clone, Default)]
struct Foreign {
    resources: Arc<HashMap<(String, String), Any>>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Foreign {
    type StreamAggregatedResourcesStream = Answers<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Answers<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _: tonic::Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("delta only"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: tonic::Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let mut requests = request.into_inner();
        let (answers, answering) = mpsc::channel(64);
        let resources = Arc::clone(&self.resources);
        tokio::spawn(async move {
            let mut nonce = 0;
            while let Ok(Some(request)) = requests.message().await {
                for name in request.resource_names_subscribe {
                    nonce += 1;
                    let mut response = DeltaDiscoveryResponse {
                        type_url: request.type_url.clone(),
                        nonce: nonce.to_string(),
                        ..DeltaDiscoveryResponse::default()
                    };
                    match resources.get(&(request.type_url.clone(), name.clone())) {
                        Some(any) => response.resources.push(Resource {
                            name,
                            version: "1".to_owned(),
                            resource: Some(any.clone()),
                            ..Resource::default()
                        }),
                        None => response.removed_resources.push(name),
                    }
                    if answers.send(Ok(response)).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answering))))
    }
}

fn any<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}

fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

fn seconds(seconds: i64) -> Option<protobuf::Duration> {
    Some(protobuf::Duration { seconds, nanos: 0 })
}

fn ads() -> Option<ConfigSource> {
    Some(ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        initial_fetch_timeout: seconds(5),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    })
}

fn filter(name: &str, message: Any) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        is_optional: name != "router",
        config_type: Some(http_filter::ConfigType::TypedConfig(message)),
        ..HttpFilter::default()
    }
}

/// Whatever it says, nobody here knows it.
fn unknown(type_name: &str) -> Any {
    Any {
        type_url: format!("type.googleapis.com/{type_name}"),
        value: Vec::new(),
    }
}

fn listener(name: &str, route: &str, more: Vec<HttpFilter>) -> Listener {
    let router = Router {
        suppress_envoy_headers: true,
        ..Router::default()
    };
    let manager = HttpConnectionManager {
        stat_prefix: "foreign".to_owned(),
        stream_idle_timeout: seconds(300),
        http_filters: more.into_iter().chain([filter("router", any(&router))]).collect(),
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: ads(),
            route_config_name: route.to_owned(),
        })),
        ..HttpConnectionManager::default()
    };
    Listener {
        name: name.to_owned(),
        tcp_backlog_size: number(128),
        api_listener: Some(ApiListener {
            api_listener: Some(any(&manager)),
        }),
        ..Listener::default()
    }
}

fn routes(name: &str, cluster: &str, domains: &[&str]) -> RouteConfiguration {
    let to = |headers: Vec<HeaderMatcher>, cluster: &str| Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
            headers,
            ..RouteMatch::default()
        }),
        action: Some(Action::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
            idle_timeout: seconds(60),
            retry_policy: Some(RetryPolicy {
                retry_on: "5xx,http3-post-connect-failure".to_owned(),
                num_retries: number(2),
                ..RetryPolicy::default()
            }),
            ..RouteAction::default()
        })),
        ..Route::default()
    };
    #[allow(deprecated, reason = "what older servers write")]
    let condition = HeaderMatcher {
        name: "x-to".to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::ExactMatch("nowhere".to_owned())),
        ..HeaderMatcher::default()
    };
    RouteConfiguration {
        name: name.to_owned(),
        validate_clusters: Some(BoolValue { value: false }),
        virtual_hosts: vec![VirtualHost {
            name: "all".to_owned(),
            domains: domains.iter().map(|domain| (*domain).to_owned()).collect(),
            routes: vec![to(vec![condition], "nowhere.default:80"), to(Vec::new(), cluster)],
            ..VirtualHost::default()
        }],
        ..RouteConfiguration::default()
    }
}

fn cluster(name: &str) -> Cluster {
    Cluster {
        name: name.to_owned(),
        alt_stat_name: "foreign".to_owned(),
        lb_policy: LbPolicy::LeastRequest.into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: ads(),
            service_name: String::new(),
        }),
        ..Cluster::default()
    }
}

fn endpoints(name: &str, at: SocketAddr) -> ClusterLoadAssignment {
    let address = Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: at.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(at.port().into())),
            ..SocketAddress::default()
        })),
    };
    ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: vec![LocalityLbEndpoints {
            load_balancing_weight: number(1),
            lb_endpoints: vec![LbEndpoint {
                load_balancing_weight: number(1),
                host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
                    address: Some(address),
                    hostname: "b-1".to_owned(),
                    ..Endpoint::default()
                })),
                ..LbEndpoint::default()
            }],
            ..LocalityLbEndpoints::default()
        }],
        ..ClusterLoadAssignment::default()
    }
}

/// Of these services `b` is usual, `tls` wants a transport socket and `guarded` a filter that authorizes.
async fn foreign(app: SocketAddr) -> SocketAddr {
    let mut resources = HashMap::new();
    let mut put = |name: &str, message: Any| {
        resources.insert((message.type_url.clone(), name.to_owned()), message);
    };
    for service in ["b", "tls", "guarded"] {
        let name = format!("{service}.default.svc.cluster.local");
        let (route, cluster_name) = (format!("{service}.default:80/*"), format!("{service}.default:80"));
        let rbac = unknown("envoy.extensions.filters.http.rbac.v3.RBAC");
        let more = match service {
            "guarded" => vec![filter("envoy.filters.http.rbac", rbac)],
            _ => vec![filter(
                "stats",
                unknown("envoy.extensions.filters.http.grpc_stats.v3.FilterConfig"),
            )],
        };
        put(&name, any(&listener(&name, &route, more)));
        let domains = [format!("{service}.default"), format!("{service}.default:80")];
        put(&route, any(&routes(&route, &cluster_name, &[&domains[0], &domains[1]])));
        let mut cluster = cluster(&cluster_name);
        if service == "tls" {
            cluster.transport_socket = Some(TransportSocket {
                name: "envoy.transport_sockets.tls".to_owned(),
                ..TransportSocket::default()
            });
        }
        put(&cluster_name, any(&cluster));
        put(&cluster_name, any(&endpoints(&cluster_name, app)));
    }
    let listening = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listening.local_addr().expect("its address");
    let server = Foreign {
        resources: Arc::new(resources),
    };
    let serving = tonic::transport::Server::builder()
        .add_service(AggregatedDiscoveryServiceServer::new(server))
        .serve_with_incoming(TcpListenerStream::new(listening));
    tokio::spawn(serving);
    address
}

async fn sidecar(control_plane: SocketAddr, app: SocketAddr, xds: Xds) -> Proxy {
    let port = AppPort {
        app_port: app.port().try_into().expect("a port"),
        protocol: AppProtocol::Http1,
        inbound: SocketAddr::from(([127, 0, 0, 1], 0)),
        edge: Edge::No,
    };
    let mut config = ProxyConfig::new("default/a".parse().expect("a name"), vec![port]);
    config.control_plane = Some(format!("http://{control_plane}").parse().expect("a URL"));
    config.xds = xds;
    Proxy::start(config).await.expect("a sidecar")
}

async fn get(to: SocketAddr, host: &str, path: &str) -> Answer {
    let request = Request::get(path).header("host", host).body(Full::default());
    let answer = call(to, Protocol::Http1, request.expect("a request")).await;
    answer.expect("an answer")
}

fn outbound(proxy: &Proxy) -> SocketAddr {
    match &proxy.addresses().outbound {
        OutboundAddr::Tcp(address) => *address,
        OutboundAddr::Unix(path) => panic!("outbound is {}", path.display()),
    }
}

async fn config(proxy: &Proxy) -> Value {
    get(proxy.addresses().admin, "localhost", "/config").await.json()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_harmless_is_skipped_and_shown_and_what_guards_is_refused() {
    let app = ScriptedApp::start(Script::answer(200, "b")).await;
    let control_plane = foreign(app.address()).await;
    let proxy = sidecar(control_plane, app.address(), Xds::Lenient).await;
    until("it to be ready, though nobody registers it", || async {
        let answer = get(proxy.addresses().health, "localhost", "/healthz/ready").await;
        (answer.status == StatusCode::OK).then_some(())
    })
    .await;
    let answer = get(outbound(&proxy), "b.default", "/").await;
    assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, "b"));
    let parts = [
        "\"xds\":\"lenient\"",
        "tcp_backlog_size",
        "stream_idle_timeout",
        "http_filters: \\\"stats\\\"",
        "http_filters[0].typed_config",
        "initial_fetch_timeout",
        "validate_clusters",
        "routes[0].route.idle_timeout",
        "retry_on: \\\"http3-post-connect-failure\\\"",
        "alt_stat_name",
        "lb_endpoints[0].load_balancing_weight",
        "lb_endpoints[0].endpoint.hostname",
    ];
    // How a resource stands is shown a moment after it is in force.
    let dump = until("all that was skipped to be shown", || async {
        let dump = config(&proxy).await.to_string();
        parts.iter().all(|part| dump.contains(part)).then_some(dump)
    })
    .await;
    assert!(!dump.contains("\"skipped_total\":0"), "{dump}");
    for (host, resource, guard) in [
        ("tls.default", "cluster tls.default:80", "transport_socket"),
        (
            "guarded.default",
            "listener guarded.default.svc.cluster.local",
            "http_filters[0]",
        ),
    ] {
        refused_at_once(&proxy, host, &[resource, guard]).await;
        let dump = until(&format!("{guard} to be refused"), || async {
            let dump = config(&proxy).await.to_string();
            dump.contains(guard).then_some(dump)
        })
        .await;
        let refused = dump.contains("is set, and has no effect here") || dump.contains("must be");
        assert!(refused, "{guard}: {dump}");
    }
    assert_eq!(app.seen().len(), 1, "no request went round a guard");
}

/// Asks for what the sidecar refused the first version of: the answer says so, and what of it, without waiting for
/// another version.
async fn refused_at_once(proxy: &Proxy, host: &str, parts: &[&str]) {
    let answer = get(outbound(proxy), host, "/").await;
    let text = answer.text();
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{text}");
    assert!(text.contains("fault: control-plane"), "{text}");
    let proxy_status = answer.header("proxy-status").expect("a reason");
    assert!(
        proxy_status.contains("error=proxy_configuration_error"),
        "{proxy_status}"
    );
    for part in ["this proxy refused"].iter().chain(parts) {
        assert!(text.contains(part) && proxy_status.contains(part), "{part}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strictly_read_nothing_of_it_comes_into_force() {
    let app = ScriptedApp::start(Script::answer(200, "b")).await;
    let control_plane = foreign(app.address()).await;
    let proxy = sidecar(control_plane, app.address(), Xds::Strict).await;
    let listener = "listener b.default.svc.cluster.local";
    refused_at_once(&proxy, "b.default", &[listener, "tcp_backlog_size"]).await;
    let explain = "/explain?url=http://b.default/";
    let explained = get(proxy.addresses().admin, "localhost", explain).await.json();
    assert_eq!(explained["outcome"]["flag"], "config_refused", "{explained}");
    let metrics = get(proxy.addresses().metrics, "localhost", "/metrics").await.text();
    assert!(metrics.contains("flag=\"config_refused\""), "{metrics}");
    until("the listener to be refused", || async {
        config(&proxy)
            .await
            .to_string()
            .contains("tcp_backlog_size")
            .then_some(())
    })
    .await;
    assert!(app.seen().is_empty());
}
