//! A proxy as the control plane sees it: one ADS stream, one workload stream.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use weir_control::RunningControl;
use weir_policy::model::Locality;
use weir_xds::decode::Resource;
use weir_xds::envoy::{self, AggregatedDiscoveryServiceClient, DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use weir_xds::v1::workload_message::Message;
use weir_xds::v1::workloads_client::WorkloadsClient;
use weir_xds::{ResourceType, node, v1};

use super::client::PATIENCE;

pub(crate) async fn within<T>(what: &str, come: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, come).await {
        Ok(came) => came,
        Err(_) => panic!("waited {PATIENCE:?} in vain for {what}"),
    }
}

pub(crate) async fn channel(control: &RunningControl) -> Channel {
    let address = format!("http://{}", control.xds_addr().expect("it is on"));
    let endpoint = Endpoint::from_shared(address).expect("an address");
    endpoint.connect().await.expect("the xds port answers")
}

/// One delta ADS stream.
pub(crate) struct Ads {
    node: Option<envoy::Node>,
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

/// One answer: which resource, in which version (`None`: it does not exist), and its nonce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) of: ResourceType,
    pub(crate) name: String,
    pub(crate) version: Option<String>,
    pub(crate) nonce: String,
}

impl Ads {
    pub(crate) async fn open(control: &RunningControl, workload: &str) -> Ads {
        let workload = workload.parse().expect("a workload");
        Ads::open_as(control, node::node(&workload, &Locality::default(), "0.1.0")).await
    }

    pub(crate) async fn open_as(control: &RunningControl, node: envoy::Node) -> Ads {
        Ads::over(channel(control).await, node).await
    }

    pub(crate) async fn over(channel: Channel, node: envoy::Node) -> Ads {
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let (requests, outgoing) = mpsc::channel(64);
        let responses = client.delta_aggregated_resources(ReceiverStream::new(outgoing));
        Ads {
            node: Some(node),
            requests,
            responses: responses.await.expect("a stream").into_inner(),
        }
    }

    pub(crate) async fn send(&mut self, of: &str, mut request: DeltaDiscoveryRequest) {
        request.node = self.node.take();
        request.type_url = of.to_owned();
        self.requests.send(request).await.expect("the stream is open");
    }

    pub(crate) async fn subscribe(&mut self, of: ResourceType, names: &[&str]) {
        let request = DeltaDiscoveryRequest {
            resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
            ..DeltaDiscoveryRequest::default()
        };
        self.send(of.url(), request).await;
    }

    /// Subscribes as a proxy that reconnects, with what it has.
    pub(crate) async fn resume(&mut self, of: ResourceType, has: &[(&str, &str)]) {
        let owned = has
            .iter()
            .map(|(name, version)| ((*name).to_owned(), (*version).to_owned()));
        let request = DeltaDiscoveryRequest {
            resource_names_subscribe: has.iter().map(|(name, _)| (*name).to_owned()).collect(),
            initial_resource_versions: owned.collect(),
            ..DeltaDiscoveryRequest::default()
        };
        self.send(of.url(), request).await;
    }

    pub(crate) async fn ack(&mut self, answer: &Answer) {
        let request = DeltaDiscoveryRequest {
            response_nonce: answer.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        };
        self.send(answer.of.url(), request).await;
    }

    pub(crate) async fn nack(&mut self, answer: &Answer, reason: &str) {
        let request = DeltaDiscoveryRequest {
            response_nonce: answer.nonce.clone(),
            error_detail: Some(envoy::Status {
                message: reason.to_owned(),
                ..envoy::Status::default()
            }),
            ..DeltaDiscoveryRequest::default()
        };
        self.send(answer.of.url(), request).await;
    }

    /// The next answer, read with the proxy's own decoder.
    pub(crate) async fn answer(&mut self) -> Answer {
        self.read().await.0
    }

    /// The same, with what it says.
    pub(crate) async fn read(&mut self) -> (Answer, Option<Resource>) {
        let response = within("an answer", self.responses.message()).await;
        let response = response.expect("the stream is well").expect("the stream is open");
        let of = ResourceType::from_url(&response.type_url).expect("a type of ours");
        let (name, version, read) = match (response.resources.as_slice(), response.removed_resources.as_slice()) {
            ([resource], []) => {
                let message = resource.resource.as_ref().expect("a message");
                let read = weir_xds::decode::decode(of, &resource.name, message).expect("the proxy takes it");
                (resource.name.clone(), Some(resource.version.clone()), Some(read))
            }
            ([], [name]) => (name.clone(), None, None),
            other => panic!("one resource or one removal: {other:?}"),
        };
        let answer = Answer {
            of,
            name,
            version,
            nonce: response.nonce,
        };
        (answer, read)
    }

    /// How the server ends the stream.
    pub(crate) async fn end(&mut self) -> Result<(), Status> {
        let ended = async {
            loop {
                match self.responses.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return Ok(()),
                    Err(status) => return Err(status),
                }
            }
        };
        within("the end of the stream", ended).await
    }
}

/// One workload stream.
pub(crate) struct Registered {
    messages: mpsc::Sender<v1::WorkloadMessage>,
    replies: Streaming<v1::WorkloadReply>,
}

pub(crate) fn hello(name: &str, instance: u64) -> v1::Hello {
    v1::Hello {
        namespace: "citizen".to_owned(),
        workload: name.to_owned(),
        instance,
        address: "127.0.0.1".to_owned(),
        ports: vec![v1::AppPort {
            app_port: 8080,
            inbound_port: 15006,
            protocol: v1::Protocol::Http1.into(),
            edge: false,
        }],
        labels: [("app".to_owned(), "portal".to_owned())].into(),
        locality: None,
        version: "0.1.0".to_owned(),
        questions: Vec::new(),
    }
}

impl Registered {
    /// Opens the stream and says the first thing.
    pub(crate) async fn begin(control: &RunningControl, first: Message) -> Registered {
        Registered::begin_over(channel(control).await, first).await
    }

    async fn begin_over(channel: Channel, first: Message) -> Registered {
        let mut client = WorkloadsClient::new(channel);
        let (messages, outgoing) = mpsc::channel(8);
        let replies = client.register(ReceiverStream::new(outgoing)).await;
        let registered = Registered {
            messages,
            replies: replies.expect("a stream").into_inner(),
        };
        registered.say(first).await;
        registered
    }

    /// Registers and is welcomed.
    pub(crate) async fn open(control: &RunningControl, hello: v1::Hello) -> Registered {
        Registered::over(channel(control).await, hello).await
    }

    pub(crate) async fn over(channel: Channel, hello: v1::Hello) -> Registered {
        let mut registered = Registered::begin_over(channel, Message::Hello(hello)).await;
        let reply = registered.reply().await.expect("the stream is well");
        assert!(reply.is_some_and(|reply| reply.reply.is_some()), "a welcome");
        registered
    }

    pub(crate) async fn say(&self, message: Message) {
        let message = v1::WorkloadMessage { message: Some(message) };
        self.messages.send(message).await.expect("the stream is open");
    }

    pub(crate) async fn reply(&mut self) -> Result<Option<v1::WorkloadReply>, Status> {
        within("a reply", self.replies.message()).await
    }
}
