//! The link against a real gRPC server on a port of its own.

use std::collections::HashMap;
use std::net::TcpListener;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};
use weir_policy::model::Locality;
use weir_policy::names::WorkloadName;
use weir_xds::envoy::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer, Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse,
    DiscoveryRequest, DiscoveryResponse,
};
use weir_xds::{ResourceType, node};

use super::scenario::{Killable, cluster, endpoints, line, listener, listener_name, resource, response, route, within};
use super::{ControlPlane, Link, Settings};
use crate::clock::Clock;
use crate::last_good::LastGood;
use crate::mesh::{Connected, Mesh, Unavailable};
use crate::snapshot::{Backend, Service};

/// How long a request waits; it takes no part of it.
const LONG: Duration = Duration::from_secs(10);

/// A server that answers what it is asked for from a table, and notes what it hears.
#[derive(Clone)]
struct Server {
    resources: Arc<Mutex<HashMap<(ResourceType, String), Any>>>,
    heard: mpsc::Sender<String>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Server {
    type StreamAggregatedResourcesStream = Answers<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Answers<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("delta only"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let mut requests = request.into_inner();
        // Like servers that begin their answer only when they have something to say.
        let first = requests
            .message()
            .await?
            .ok_or_else(|| Status::invalid_argument("nothing said"))?;
        let (answers, answering) = mpsc::channel(64);
        let server = self.clone();
        tokio::spawn(async move {
            let mut next = Some(first);
            let mut nonce = 0;
            while let Some(request) = next {
                if server.heard.send(line(&request)).await.is_err() {
                    return;
                }
                for name in &request.resource_names_subscribe {
                    nonce += 1;
                    let answer = server.answer(&request.type_url, name, nonce);
                    if answers.send(Ok(answer)).await.is_err() {
                        return;
                    }
                }
                next = requests.message().await.ok().flatten();
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answering))))
    }
}

impl Server {
    fn answer(&self, type_url: &str, name: &str, nonce: u32) -> DeltaDiscoveryResponse {
        let kind = ResourceType::from_url(type_url).expect("a known type");
        let resources = self.resources.lock().expect("not poisoned");
        match resources.get(&(kind, name.to_owned())) {
            Some(any) => response(kind, &nonce.to_string(), vec![resource(name, "1", any.clone())], &[]),
            None => response(kind, &nonce.to_string(), Vec::new(), &[name]),
        }
    }

    fn serve(&self, listener: TcpListener) -> Killable {
        Killable::serve(
            Routes::new(AggregatedDiscoveryServiceServer::new(self.clone())),
            listener,
        )
    }
}

/// A server with service `a`, what it hears, and its URL.
fn server_with_a() -> (Server, mpsc::Receiver<String>, TcpListener, ControlPlane) {
    let resources = [
        (
            ResourceType::Listener,
            "a.n.svc.cluster.local:80",
            listener("a:80", "a.n:80/*"),
        ),
        (ResourceType::Route, "a.n:80/*", route("a.n:80/*", &["a.n:80"])),
        (ResourceType::Cluster, "a.n:80", cluster("a.n:80")),
        (ResourceType::Endpoints, "a.n:80", endpoints("a.n:80", &["10.0.0.1:80"])),
    ];
    let resources = resources
        .into_iter()
        .map(|(kind, name, any)| ((kind, name.to_owned()), any));
    let (heard, hearing) = mpsc::channel(256);
    let server = Server {
        resources: Arc::new(Mutex::new(resources.collect())),
        heard,
    };
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let control_plane = ControlPlane::new(&url.parse().expect("a URL")).expect("cleartext");
    (server, hearing, listener, control_plane)
}

fn workload() -> WorkloadName {
    "n/caller".parse().expect("a name")
}

fn link(control_plane: Option<ControlPlane>, state: Option<&std::path::Path>) -> (Mesh, JoinHandle<()>) {
    let (mesh, feed) = Mesh::new(Clock::start(), Locality::default());
    let node = node::node(&workload(), &Locality::default(), "0");
    let last_good = state.map(|path| LastGood::start(path, &workload()).expect("opens"));
    let link = Link::new(control_plane, None, node, Settings::default(), feed, last_good);
    (mesh, tokio::spawn(link.run()))
}

fn addresses(service: &Service) -> Vec<String> {
    let mut addresses = Vec::new();
    for (id, _) in service.table.routes() {
        for backend in &service.route(id).expect("a route of this table").backends {
            match backend {
                Backend::Cluster(cluster) => {
                    addresses.extend(cluster.endpoints.iter().map(|endpoint| endpoint.address.to_string()));
                }
                Backend::Missing(name) | Backend::Unanswered(name) | Backend::Refused(name, _) => {
                    addresses.push(name.to_string())
                }
            }
        }
    }
    addresses
}

async fn hear(heard: &mut mpsc::Receiver<String>, expect: &[&str]) {
    for expect in expect {
        let line = within(heard.recv()).await.expect("a server");
        assert_eq!(line, *expect);
    }
}

#[tokio::test]
async fn a_demand_is_answered_by_a_service() {
    let (server, mut heard, listener, control_plane) = server_with_a();
    let serving = server.serve(listener);
    let (mesh, task) = link(Some(control_plane), None);
    let a = listener_name("a:80");
    // Many at once ask once.
    let many = (0..50).map(|_| mesh.service(&a, LONG));
    let found = futures_util::future::join_all(many).await;
    for service in found {
        assert_eq!(addresses(&service.expect("exists")), ["10.0.0.1:80"]);
    }
    let first = within(heard.recv()).await.expect("a server");
    match first.as_str() {
        // The stream may be open before the demand comes.
        "endpoints hello" => hear(&mut heard, &["listener +a.n.svc.cluster.local:80"]).await,
        first => assert_eq!(first, "listener hello +a.n.svc.cluster.local:80"),
    }
    hear(
        &mut heard,
        &[
            "route +a.n:80/*",
            "cluster +a.n:80",
            "endpoints +a.n:80",
            "cluster ack:3",
            "endpoints ack:4",
        ],
    )
    .await;
    hear(&mut heard, &["listener ack:1", "route ack:2"]).await;
    let gone = mesh.service(&listener_name("gone:80"), LONG).await;
    assert_eq!(gone.err(), Some(Unavailable::NoSuchService));
    let status = serde_json::to_value(mesh.status()).expect("JSON");
    assert_eq!(status["connected"], "yes");
    assert_eq!(status["services"][0]["routes"][0]["matches"], "path under /");
    assert_eq!(status["clusters"][0]["endpoints"][0]["address"], "10.0.0.1:80");
    task.abort();
    serving.kill();
}

#[tokio::test]
async fn a_lost_control_plane_is_found_again_and_what_is_known_stays() {
    let (server, mut heard, listener, control_plane) = server_with_a();
    let address = listener.local_addr().expect("bound");
    let serving = server.serve(listener);
    let (mesh, task) = link(Some(control_plane), None);
    let a = listener_name("a:80");
    mesh.service(&a, LONG).await.expect("exists");
    while within(heard.recv()).await.expect("a server") != "route ack:2" {}

    serving.kill();
    let mut link_status = mesh.link();
    within(link_status.wait_for(|link| link.connected == Connected::No))
        .await
        .expect("notices");
    assert_eq!(
        addresses(&mesh.service(&a, Duration::ZERO).await.expect("stays")),
        ["10.0.0.1:80"]
    );
    let unknown = mesh.service(&listener_name("b:80"), Duration::from_millis(1)).await;
    let no = |error: &Unavailable| {
        matches!(
            error,
            Unavailable::NoAnswer {
                connected: Connected::No,
                ..
            }
        )
    };
    assert!(unknown.as_ref().is_err_and(no), "{unknown:?}");

    let again = TcpListener::bind(address).expect("the same port");
    let serving = server.serve(again);
    hear(
        &mut heard,
        &[
            "cluster hello +a.n:80 a.n:80@1",
            "endpoints +a.n:80 a.n:80@1",
            "listener +a.n.svc.cluster.local:80 +b.n.svc.cluster.local:80 a.n.svc.cluster.local:80@1",
            "route +a.n:80/* a.n:80/*@1",
        ],
    )
    .await;
    task.abort();
    serving.kill();
}

#[tokio::test]
async fn a_proxy_starts_from_what_was_last_in_force() {
    let directory = tempfile::tempdir().expect("a directory");
    let (server, _heard, listener, control_plane) = server_with_a();
    let serving = server.serve(listener);
    let (mesh, task) = link(Some(control_plane), Some(directory.path()));
    let a = listener_name("a:80");
    mesh.service(&a, LONG).await.expect("exists");
    // It is on disk when another process can read it; the lock is this one's, so only the file is looked at.
    let file = directory.path().join("last-good");
    let written = async {
        while !file.exists() {
            tokio::task::yield_now().await;
        }
    };
    within(written).await;
    task.abort();
    let _ = task.await;
    serving.kill();

    // The write's last steps, on a thread of their own, may still hold the lock.
    let free = async {
        while LastGood::open(directory.path(), &workload()).is_err() {
            tokio::task::yield_now().await;
        }
    };
    within(free).await;
    let (mesh, task) = link(None, Some(directory.path()));
    // Before the task ran at all.
    assert_eq!(
        addresses(&mesh.service(&a, Duration::ZERO).await.expect("was kept")),
        ["10.0.0.1:80"]
    );
    task.abort();
}
