//! A state machine, the snapshots made from it, and short ways to say what goes in and what comes out.

use std::sync::Arc;
use std::time::Duration;

use weir_policy::egress::Egress;
use weir_policy::model::{
    Action, AppProtocol, Balancing, Cluster, ClusterEndpoints, ConnectionPool, Endpoint, EndpointHealth, Forward,
    HostMatch, Limits, Listener, Locality, PathMatch, Peer, RetryBudget, Rewrite, Route, RouteConfig, RouteMatch,
    RouteSource, Timeouts, VirtualHost, WeightedBackend, WorkloadPolicy,
};
use weir_policy::mutual_tls::{Mode, MutualTls};
use weir_policy::names::{ClusterName, ListenerName};
use weir_policy::telemetry::{AccessLog, Telemetry};
use weir_policy::time::Time;
use weir_xds::envoy::{Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use weir_xds::{ResourceType, encode, node};

use super::state::{Input, Outputs, Settings, State};
use crate::clock::Clock;
use crate::identity::roots::Roots;
use crate::mesh::LinkStatus;
use crate::snapshot::{self, Backend, Lookup, Snapshot, States};

/// The listener of service `a` on port 80, by its name.
pub(crate) fn listener_name(short: &str) -> ListenerName {
    let own = "n".parse().expect("a label");
    ListenerName::from_authority(short, &own).expect("a name")
}

pub(crate) fn cluster_name(name: &str) -> ClusterName {
    name.parse().expect("a cluster's name")
}

/// A listener whose routes are in a route configuration.
pub(crate) fn listener(short: &str, routes: &str) -> Any {
    encode::listener(&Listener {
        name: listener_name(short),
        routes: RouteSource::Named(routes.parse().expect("a route's name")),
    })
}

/// A listener that holds its routes itself: evenly to these clusters.
pub(crate) fn inline_listener(short: &str, clusters: &[&str]) -> Any {
    encode::listener(&Listener {
        name: listener_name(short),
        routes: RouteSource::Inline(vec![forward_all(clusters)]),
    })
}

/// A listener whose connections go to this cluster.
pub(crate) fn tcp_listener(short: &str, cluster: &str) -> Any {
    encode::listener(&Listener {
        name: listener_name(short),
        routes: RouteSource::Tcp(cluster_name(cluster)),
    })
}

/// A route configuration that sends all evenly to these clusters.
pub(crate) fn route(name: &str, clusters: &[&str]) -> Any {
    encode::route_config(&RouteConfig {
        name: name.parse().expect("a route's name"),
        virtual_hosts: vec![forward_all(clusters)],
    })
}

/// One that can be read and not compiled.
pub(crate) fn uncompilable_route(name: &str) -> Any {
    encode::route_config(&RouteConfig {
        name: name.parse().expect("a route's name"),
        virtual_hosts: vec![to(PathMatch::Regex("/(".to_owned()), &["x.n:80"])],
    })
}

/// A virtual host that sends all evenly to these clusters.
pub(crate) fn forward_all(clusters: &[&str]) -> VirtualHost {
    to(PathMatch::Prefix("/".to_owned()), clusters)
}

fn to(path: PathMatch, clusters: &[&str]) -> VirtualHost {
    let backend = |name: &&str| WeightedBackend {
        cluster: cluster_name(name),
        weight: 1,
        filters: Default::default(),
    };
    VirtualHost {
        name: "all".to_owned(),
        hosts: vec![HostMatch::Any],
        routes: vec![Route {
            name: "only".to_owned(),
            matches: RouteMatch {
                path,
                method: None,
                headers: Vec::new(),
                query: Vec::new(),
            },
            request_headers: Default::default(),
            response_headers: Default::default(),
            cors: None,
            rate_limit: None,
            priority: None,
            policy: None,
            fault: None,
            action: Action::Forward(Forward {
                backends: clusters.iter().map(backend).collect(),
                mirrors: Vec::new(),
                rewrite: Rewrite::default(),
                timeouts: Timeouts::default(),
                retry: None,
            }),
        }],
    }
}

/// A cluster as the model has it.
pub(crate) fn cluster_model(name: &str) -> Cluster {
    Cluster {
        name: cluster_name(name),
        protocol: AppProtocol::Http1,
        connect_timeout: Duration::from_secs(1),
        balancing: Balancing::RoundRobin,
        limits: Limits::default(),
        breaker: None,
        outlier_detection: None,
        health_check: None,
        slow_start: None,
        locality: None,
        pool: ConnectionPool::default(),
        panic_percent: 1,
        retry_budget: RetryBudget::default(),
        backend_tls: None,
        sources: Vec::new(),
    }
}

pub(crate) fn cluster(name: &str) -> Any {
    encode::cluster(&cluster_model(name))
}

/// Healthy endpoints as the model has them.
pub(crate) fn endpoints_model(name: &str, addresses: &[&str]) -> ClusterEndpoints {
    let endpoint = |address: &&str| Endpoint {
        address: address.parse().expect("an address"),
        health: EndpointHealth::Healthy,
        locality: Locality::default(),
        workload: None,
        peer: Peer::Plain,
        identity: None,
    };
    ClusterEndpoints {
        cluster: cluster_name(name),
        endpoints: addresses.iter().map(endpoint).collect(),
    }
}

/// A policy that asks for some lines in the access log.
pub(crate) fn policy(workload: &str, access_log: Option<AccessLog>) -> Any {
    policy_with_mode(workload, access_log, Mode::Permissive)
}

/// The same, by which ports are entered so.
pub(crate) fn policy_with_mode(workload: &str, access_log: Option<AccessLog>, mode: Mode) -> Any {
    policy_of_traffic(workload, access_log, mode, Egress::Refuse)
}

/// The same, by which this becomes of names that are none of the mesh's.
pub(crate) fn policy_of_traffic(workload: &str, access_log: Option<AccessLog>, mode: Mode, egress: Egress) -> Any {
    encode::workload_policy(&WorkloadPolicy {
        workload: workload.parse().expect("a name"),
        telemetry: Telemetry {
            access_log,
            ..Telemetry::default()
        },
        mutual_tls: MutualTls::everywhere(mode),
        egress,
    })
}

pub(crate) fn endpoints(name: &str, addresses: &[&str]) -> Any {
    encode::endpoints(&endpoints_model(name, addresses))
}

/// What is no resource at all.
pub(crate) fn garbage(kind: ResourceType) -> Any {
    Any {
        type_url: kind.url().to_owned(),
        value: vec![0xff; 7],
    }
}

/// A resource in a response, under a short name for a listener's.
pub(crate) fn resource(name: &str, version: &str, any: Any) -> Resource {
    Resource {
        name: name.to_owned(),
        version: version.to_owned(),
        resource: Some(any),
        ..Resource::default()
    }
}

/// A response.
pub(crate) fn response(
    kind: ResourceType,
    nonce: &str,
    resources: Vec<Resource>,
    removed: &[&str],
) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: kind.url().to_owned(),
        nonce: nonce.to_owned(),
        resources,
        removed_resources: removed.iter().map(ToString::to_string).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

/// A request in one line: `route +subscribed -unsubscribed known@version ack:nonce nack:nonce`, with `hello` where it
/// says who we are.
pub(crate) fn line(request: &DeltaDiscoveryRequest) -> String {
    let kind = ResourceType::from_url(&request.type_url);
    let mut line = kind.map_or_else(|| request.type_url.clone(), |kind| kind.to_string());
    if request.node.is_some() {
        line += " hello";
    }
    for name in &request.resource_names_subscribe {
        line += &format!(" +{name}");
    }
    for name in &request.resource_names_unsubscribe {
        line += &format!(" -{name}");
    }
    let mut versions: Vec<_> = request.initial_resource_versions.iter().collect();
    versions.sort();
    for (name, version) in versions {
        line += &format!(" {name}@{version}");
    }
    if !request.response_nonce.is_empty() {
        let verdict = if request.error_detail.is_some() { "nack" } else { "ack" };
        line += &format!(" {verdict}:{}", request.response_nonce);
    }
    line
}

/// A server on a runtime and a thread of its own, so that it can be killed with all its connections.
pub(crate) struct Killable {
    kill: tokio::sync::oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Killable {
    /// Serves these routes on a port that is bound and not yet in use.
    pub(crate) fn serve(routes: tonic::service::Routes, listener: std::net::TcpListener) -> Killable {
        let (kill, killed) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                listener.set_nonblocking(true).expect("a socket");
                let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
                let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
                let serving = tonic::transport::Server::builder().add_routes(routes);
                tokio::select! {
                    served = serving.serve_with_incoming(incoming) => served.expect("serves"),
                    _ = killed => {}
                }
            });
        });
        Killable { kill, thread }
    }

    /// Ends it without a word to anybody.
    pub(crate) fn kill(self) {
        let _ = self.kill.send(());
        self.thread.join().expect("ends");
    }
}

/// Fails a test that hangs. Nothing else waits by this.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(20);
    tokio::time::timeout(limit, future).await.expect("does not hang")
}

/// See the module.
pub(crate) struct Scenario {
    pub(crate) state: State,
    pub(crate) now: Time,
    pub(crate) snapshot: Snapshot,
    pub(crate) states: States,
    pub(crate) status: LinkStatus,
    pub(crate) kept: u32,
    pub(crate) reasons: Vec<String>,
    /// To be trusted.
    pub(crate) roots: Option<Arc<Roots>>,
}

impl Scenario {
    pub(crate) fn new(settings: Settings) -> Scenario {
        let workload = "n/caller".parse().expect("a name");
        let node = node::node(&workload, &Locality::default(), "0");
        Scenario {
            state: State::new(settings, node),
            now: Time::from_nanos(1),
            snapshot: Snapshot::default(),
            states: States::new(Clock::start(), Locality::default()),
            status: LinkStatus::default(),
            kept: 0,
            reasons: Vec::new(),
            roots: None,
        }
    }

    /// With a stream open and `a` in use: its route goes to clusters `a.n:80`, of one endpoint.
    pub(crate) fn with_a() -> Scenario {
        let mut scenario = Scenario::new(Settings::default());
        scenario.input(Input::Opened);
        scenario.demand("a:80");
        let a = "a.n.svc.cluster.local:80";
        scenario.answer(ResourceType::Listener, "l1", a, "1", listener("a:80", "a.n:80/*"));
        scenario.answer(
            ResourceType::Route,
            "r1",
            "a.n:80/*",
            "1",
            route("a.n:80/*", &["a.n:80"]),
        );
        scenario.answer(ResourceType::Cluster, "c1", "a.n:80", "1", cluster("a.n:80"));
        let endpoints = endpoints("a.n:80", &["10.0.0.1:80"]);
        let last = scenario.answer(ResourceType::Endpoints, "e1", "a.n:80", "1", endpoints);
        assert_eq!(last, ["endpoints ack:e1", "listener ack:l1", "route ack:r1"]);
        assert_eq!(scenario.services(), ["a.n.svc.cluster.local:80 -> a.n:80[10.0.0.1:80]"]);
        scenario
    }

    pub(crate) fn input(&mut self, input: Input) -> Vec<String> {
        let outputs = self.state.handle(self.now, input);
        self.take(outputs)
    }

    pub(crate) fn take(&mut self, outputs: Outputs) -> Vec<String> {
        if let Some(parts) = outputs.parts {
            self.snapshot = snapshot::compile(&self.snapshot, &self.states, parts);
        }
        if outputs.keep {
            self.kept += 1;
        }
        self.status = outputs.status;
        self.roots = outputs.roots;
        let errors = outputs
            .requests
            .iter()
            .filter_map(|request| request.error_detail.as_ref());
        self.reasons.extend(errors.map(|error| error.message.clone()));
        outputs.requests.iter().map(line).collect()
    }

    pub(crate) fn demand(&mut self, short: &str) -> Vec<String> {
        self.input(Input::Demands(vec![listener_name(short)]))
    }

    /// Answers with one resource.
    pub(crate) fn answer(
        &mut self,
        kind: ResourceType,
        nonce: &str,
        name: &str,
        version: &str,
        any: Any,
    ) -> Vec<String> {
        let resources = vec![resource(name, version, any)];
        self.input(Input::Response(response(kind, nonce, resources, &[])))
    }

    /// Answers that something does not exist.
    pub(crate) fn remove(&mut self, kind: ResourceType, nonce: &str, name: &str) -> Vec<String> {
        self.input(Input::Response(response(kind, nonce, Vec::new(), &[name])))
    }

    /// Lets time pass without anything happening but ticks.
    pub(crate) fn pass(&mut self, time: Duration) -> Vec<String> {
        let end = self.now + time;
        let mut requests = Vec::new();
        while let Some(next) = self.state.next().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            requests.extend(self.input(Input::Tick));
            assert!(
                self.state.next() > Some(self.now) || self.state.next().is_none(),
                "a tick changes nothing"
            );
        }
        self.now = end;
        requests
    }

    /// The snapshot, a line for each name, sorted: where it goes.
    pub(crate) fn services(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (name, lookup) in self.snapshot.services() {
            let service = match lookup {
                Lookup::Service(service) => service,
                Lookup::NoSuchService { .. } => {
                    lines.push(format!("{name} does not exist"));
                    continue;
                }
                Lookup::Refused(refused) => {
                    lines.push(format!("{name}: {} {} was refused", refused.kind, refused.name));
                    continue;
                }
            };
            let mut line = format!("{name} ->");
            for (id, _) in service.table.routes() {
                for backend in &service.route(id).expect("a route of this table").backends {
                    line += &match backend {
                        Backend::Missing(name) => format!(" {name}(missing)"),
                        Backend::Unanswered(name) => format!(" {name}(unanswered)"),
                        Backend::Refused(name, refused) => format!(" {name}({} refused)", refused.kind),
                        Backend::Cluster(cluster) => {
                            let endpoints = cluster.endpoints.iter().map(|endpoint| endpoint.address.to_string());
                            format!(" {}[{}]", cluster.config.name, endpoints.collect::<Vec<_>>().join(","))
                        }
                    };
                }
            }
            lines.push(line);
        }
        lines.sort();
        lines
    }
}
