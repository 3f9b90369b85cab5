//! Simulated proxies: delta ADS streams that confirm whatever they are told. They share connections as no proxies do,
//! so that thousands fit into one process; the control plane sees streams.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use weir_policy::model::Locality;
use weir_xds::envoy::{AggregatedDiscoveryServiceClient, DeltaDiscoveryRequest, Node};
use weir_xds::{ResourceType, node};

/// The namespace of the proxies and of what they use.
pub const NAMESPACE: &str = "bench";

/// Proxies with their streams; dropped, they are gone.
pub struct Fleet {
    told: mpsc::Receiver<Told>,
    streams: JoinSet<anyhow::Result<()>>,
}

/// A proxy was told of one resource, and said that it has it in force.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// Which proxy.
    pub proxy: usize,
    /// When its ACK was given to its connection.
    pub at: Instant,
}

/// What one of a service's ports comes to on the wire.
const RESOURCES_OF_A_SERVICE: usize = 4;

impl Fleet {
    /// Opens a stream for each list of services, which it subscribes to, and waits until all of that is in force. One
    /// connection after the other: who simulates all of them on one processor must keep up with each.
    ///
    /// # Errors
    /// When the control plane is not reached, or as for [`Fleet::told`].
    pub async fn open(xds: &str, uses: &[Vec<String>]) -> anyhow::Result<Fleet> {
        let (news, told) = mpsc::channel(TOLD_MAX);
        let mut fleet = Fleet {
            told,
            streams: JoinSet::new(),
        };
        let mut proxies = uses.iter().enumerate();
        for together in uses.chunks(STREAMS_ON_A_CONNECTION) {
            let endpoint = Endpoint::from_shared(xds.to_owned())?.tcp_nodelay(true);
            let channel = endpoint
                .connect()
                .await
                .with_context(|| format!("{xds} is not reached"))?;
            for (proxy, services) in proxies.by_ref().take(together.len()) {
                fleet
                    .streams
                    .spawn(follow(channel.clone(), proxy, services.clone(), news.clone()));
            }
            fleet
                .told(together.iter().map(|services| told_at_first(services.len())).sum())
                .await?;
        }
        Ok(fleet)
    }

    /// Waits until proxies were told this many things, and gives them in the order in which they were.
    ///
    /// # Errors
    /// When a stream ends, or after [`PATIENCE`].
    pub async fn told(&mut self, count: usize) -> anyhow::Result<Vec<Told>> {
        let mut all = Vec::with_capacity(count);
        let come = async {
            while all.len() < count {
                tokio::select! {
                    Some(told) = self.told.recv() => all.push(told),
                    Some(ended) = self.streams.join_next() => {
                        ended??;
                        bail!("a stream ended");
                    }
                }
            }
            Ok(())
        };
        match tokio::time::timeout(PATIENCE, come).await {
            Ok(came) => came.map(|()| all),
            Err(_) => bail!("only {} of {count} came within {PATIENCE:?}", all.len()),
        }
    }

    /// Says whether somebody was told something that nobody waited for.
    pub fn is_quiet(&self) -> bool {
        self.told.is_empty()
    }
}

/// How many things a proxy with so many services is told at first.
pub fn told_at_first(services: usize) -> usize {
    services * RESOURCES_OF_A_SERVICE
}

async fn follow(channel: Channel, proxy: usize, services: Vec<String>, news: mpsc::Sender<Told>) -> anyhow::Result<()> {
    let workload = format!("{NAMESPACE}/proxy-{proxy}").parse()?;
    let mut node: Option<Node> = Some(node::node(&workload, &Locality::default(), "0.1.0"));
    let (requests, outgoing) = mpsc::channel(REQUESTS_MAX);
    for (of, suffix) in [
        (ResourceType::Listener, ".svc.cluster.local:80"),
        (ResourceType::Route, ":80/*"),
        (ResourceType::Cluster, ":80"),
        (ResourceType::Endpoints, ":80"),
    ] {
        let names = services.iter().map(|service| format!("{service}.{NAMESPACE}{suffix}"));
        let request = DeltaDiscoveryRequest {
            node: node.take(),
            type_url: of.url().to_owned(),
            resource_names_subscribe: names.collect(),
            ..DeltaDiscoveryRequest::default()
        };
        requests.send(request).await?;
    }
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    let answers = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await?;
    let mut answers = answers.into_inner();
    while let Some(answer) = answers.message().await? {
        let ack = DeltaDiscoveryRequest {
            type_url: answer.type_url,
            response_nonce: answer.nonce,
            ..DeltaDiscoveryRequest::default()
        };
        requests.send(ack).await?;
        let at = Instant::now();
        news.send(Told { proxy, at }).await?;
    }
    bail!("the control plane ended the stream of proxy {proxy}")
}

/// Fewer than the control plane allows on a connection.
const STREAMS_ON_A_CONNECTION: usize = 30;
/// The four subscriptions at first, and ACKs until the connection takes them.
const REQUESTS_MAX: usize = 64;
/// What waits to be counted; streams wait for a place.
const TOLD_MAX: usize = 65_536;
/// How long something may take that must come.
pub const PATIENCE: Duration = Duration::from_secs(120);
