//! How a proxy makes its workload known: a stream beside ADS that is held for as long as the proxy runs.
//!
//! The stream says who is there, which of the app's ports take connections, when no new requests should come, and
//! which services the app uses; the control plane may ask questions on it. A stream that is lost is opened again and
//! begins anew.

mod answering;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use weir_policy::model::{AppProtocol, Locality};
use weir_policy::names::WorkloadName;
use weir_xds::v1;
use weir_xds::v1::workload_message::Message;
use weir_xds::v1::workload_reply::Reply;
use weir_xds::v1::workloads_client::WorkloadsClient;

use answering::Answering;
pub(crate) use answering::Answers;

use crate::config::Edge;
use crate::mesh::Mesh;
use crate::snapshot::Lookup;
use crate::xds::{Calling, Closed, Connection, ControlPlane, Event};

/// How long a change of what the app uses may wait to be told: it is for people, and changes come in bursts.
const DEMAND_WAIT: Duration = Duration::from_secs(1);

/// What a proxy says of its workload.
#[derive(Clone, Debug)]
pub(crate) struct Announcement {
    /// Who it is.
    pub(crate) workload: WorkloadName,
    /// When this proxy started: a newer instance takes the place of an older one.
    pub(crate) started: SystemTime,
    /// Where others reach its inbound ports; `None`: at the local address of the way to the control plane.
    pub(crate) address: Option<IpAddr>,
    /// The app's ports.
    pub(crate) ports: Vec<AnnouncedPort>,
    /// The workload's labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Where it runs.
    pub(crate) locality: Locality,
    /// The proxy's version, for people.
    pub(crate) version: String,
}

/// A port of the app, and where others reach it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AnnouncedPort {
    /// Where the app listens.
    pub(crate) app_port: NonZeroU16,
    /// Where the proxy takes requests for it.
    pub(crate) inbound_port: NonZeroU16,
    /// What the app speaks.
    pub(crate) protocol: AppProtocol,
    /// Whether requests enter the mesh there.
    pub(crate) edge: Edge,
}

/// A workload that is being made known.
#[derive(Debug)]
pub(crate) struct Registration {
    phase: watch::Sender<Phase>,
    standing: watch::Receiver<Standing>,
}

/// How a workload stands with the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is not known there, or the stream was lost.
    Unknown,
    /// The control plane welcomed it.
    Registered,
    /// It was taken out.
    Deregistered,
}

/// Whether the control plane heard that a workload is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deregistered {
    /// It did.
    Yes,
    /// Not within the time: the workload stays there, unconfirmed, until its time-out.
    TimedOut,
}

impl Registration {
    /// Says that no new requests should come.
    pub(crate) fn draining(&self) {
        self.advance(Phase::Draining);
    }

    /// Says that the workload is gone, and waits until that was heard.
    ///
    /// # Cancel safety
    /// It is being said, whether it is waited for or not.
    pub(crate) async fn deregister(&self, timeout: Duration) -> Deregistered {
        self.advance(Phase::Leaving);
        let mut standing = self.standing.clone();
        let heard = standing.wait_for(|standing| *standing == Standing::Deregistered);
        match tokio::time::timeout(timeout, heard).await {
            Ok(Ok(_)) => Deregistered::Yes,
            Ok(Err(_)) | Err(_) => Deregistered::TimedOut,
        }
    }

    /// How the workload stands.
    pub(crate) fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    /// Phases only go forward.
    fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let forward = *phase < to;
            *phase = (*phase).max(to);
            forward
        });
    }
}

/// What a workload is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    Draining,
    Leaving,
}

/// The task that makes a workload known.
pub(crate) struct Registrar {
    announcement: Announcement,
    control_plane: ControlPlane,
    mesh: Mesh,
    ready: watch::Receiver<BTreeSet<NonZeroU16>>,
    phase: watch::Receiver<Phase>,
    standing: watch::Sender<Standing>,
    answering: Answering,
}

/// Makes a workload known: a handle, and the task to run. `ready` are the app's ports that take connections.
pub(crate) fn register(
    announcement: Announcement,
    control_plane: ControlPlane,
    answers: Answers,
    ready: watch::Receiver<BTreeSet<NonZeroU16>>,
) -> (Registration, Registrar) {
    let (phase, phases) = watch::channel(Phase::Serving);
    let (standings, standing) = watch::channel(Standing::Unknown);
    let registrar = Registrar {
        announcement,
        control_plane,
        mesh: answers.mesh.clone(),
        ready,
        phase: phases,
        standing: standings,
        answering: Answering::new(answers),
    };
    (Registration { phase, standing }, registrar)
}

impl Registrar {
    /// Runs until the workload was deregistered, or this is dropped.
    ///
    /// # Cancel safety
    /// The stream ends; the control plane then holds the workload for unconfirmed.
    pub(crate) async fn run(mut self) {
        let mut connection = Connection::new(self.control_plane.clone(), call);
        let mut published = self.mesh.published();
        // When to look at what the app uses; `None`: nothing changed.
        let mut look = None;
        let mut told: Option<Told> = None;
        loop {
            let looks = async {
                match look {
                    Some(time) => tokio::time::sleep_until(time).await,
                    None => std::future::pending().await,
                }
            };
            // Every arm is cancel safe: the watches keep what is unseen, the connection keeps what is under way.
            let event = tokio::select! {
                event = connection.next() => Some(event),
                true = changed(&mut self.ready) => None,
                true = changed(&mut self.phase) => None,
                true = changed(&mut published), if look.is_none() => {
                    look = Some(Instant::now() + DEMAND_WAIT);
                    continue;
                }
                () = looks => None,
                answer = self.answering.next() => {
                    connection.send([message(Message::Answer(answer))]);
                    continue;
                }
            };
            match event {
                None => {}
                Some(Event::Opened) => {
                    let hello = match self.hello().await {
                        Ok(hello) => hello,
                        Err(error) => {
                            tracing::warn!(%error, "can't tell by which address others reach this workload");
                            connection.retry_later();
                            continue;
                        }
                    };
                    connection.send([message(Message::Hello(hello))]);
                    told = Some(Told::default());
                    look = Some(Instant::now());
                }
                Some(Event::Message(v1::WorkloadReply { reply: Some(reply) })) => {
                    self.on_reply(reply, &mut connection);
                }
                // A reply newer than this proxy, which it need not understand.
                Some(Event::Message(v1::WorkloadReply { reply: None })) => {}
                Some(Event::Closed(closed)) => {
                    self.answering.cancel_all();
                    let left = told.take().is_some_and(|told| told.phase == Phase::Leaving);
                    if left && closed == Closed::Ended {
                        self.standing.send_replace(Standing::Deregistered);
                        return;
                    }
                    self.standing.send_replace(Standing::Unknown);
                }
            }
            let Some(told) = &mut told else { continue };
            let listeners = match look {
                Some(time) if time <= Instant::now() => {
                    look = None;
                    Some(used(&self.mesh))
                }
                Some(_) | None => None,
            };
            let ready = self.ready.borrow().clone();
            let phase = *self.phase.borrow();
            // After Deregister this side stays open until the control plane ends the stream: it does so once that is
            // durable. To close first could look like a lost stream.
            connection.send(told.tell(ready, phase, listeners));
        }
    }

    fn on_reply(&mut self, reply: Reply, connection: &mut Connection<v1::WorkloadMessage, v1::WorkloadReply>) {
        match reply {
            Reply::Welcome(v1::Welcome { version }) => {
                tracing::info!(workload = %self.announcement.workload, version, "registered");
                self.standing.send_replace(Standing::Registered);
            }
            Reply::Question(question) => {
                let refused = self.answering.begin(question);
                connection.send(refused.map(|answer| message(Message::Answer(answer))));
            }
            Reply::Cancel(v1::CancelQuestion { id }) => self.answering.cancel(id),
        }
    }

    async fn hello(&self) -> io::Result<v1::Hello> {
        let announcement = &self.announcement;
        let address = match announcement.address {
            Some(address) => address,
            None => local_address(self.control_plane.authority()).await?,
        };
        let started = announcement.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(v1::Hello {
            namespace: announcement.workload.namespace.to_string(),
            workload: announcement.workload.name.to_string(),
            instance: u64::try_from(started.as_micros()).unwrap_or(u64::MAX),
            address: address.to_string(),
            ports: announcement
                .ports
                .iter()
                .copied()
                .map(AnnouncedPort::to_proto)
                .collect(),
            labels: announcement.labels.clone().into_iter().collect(),
            locality: Some(v1::Locality {
                region: announcement.locality.region.clone(),
                zone: announcement.locality.zone.clone(),
                site: announcement.locality.site.clone(),
            }),
            version: announcement.version.clone(),
            questions: Answering::kinds(),
        })
    }
}

impl AnnouncedPort {
    fn to_proto(self) -> v1::AppPort {
        let protocol = match self.protocol {
            AppProtocol::Http1 => v1::Protocol::Http1,
            AppProtocol::Http2 => v1::Protocol::Http2,
            AppProtocol::Grpc => v1::Protocol::Grpc,
            AppProtocol::Tcp => v1::Protocol::Tcp,
        };
        v1::AppPort {
            app_port: self.app_port.get().into(),
            inbound_port: self.inbound_port.get().into(),
            protocol: protocol.into(),
            edge: match self.edge {
                Edge::Yes => true,
                Edge::No => false,
            },
        }
    }
}

/// What was told on the stream that is open, after Hello.
#[derive(Debug)]
struct Told {
    /// `None`: nothing yet, which is not the same as that no port is ready.
    ready: Option<BTreeSet<NonZeroU16>>,
    phase: Phase,
    listeners: BTreeSet<String>,
}

impl Default for Told {
    fn default() -> Self {
        Told {
            ready: None,
            phase: Phase::Serving,
            listeners: BTreeSet::new(),
        }
    }
}

impl Told {
    /// The messages that tell what is not told yet. `listeners`: what the app uses, if it is to be told now.
    fn tell(
        &mut self,
        ready: BTreeSet<NonZeroU16>,
        phase: Phase,
        listeners: Option<BTreeSet<String>>,
    ) -> Vec<v1::WorkloadMessage> {
        if self.phase == Phase::Leaving {
            return Vec::new();
        }
        let mut messages = Vec::new();
        if self.ready.as_ref() != Some(&ready) {
            let ports = ready.iter().map(|port| port.get().into()).collect();
            messages.push(Message::Health(v1::Health { ready_app_ports: ports }));
            self.ready = Some(ready);
        }
        if self.phase < Phase::Draining && phase == Phase::Draining {
            messages.push(Message::Draining(v1::Draining {}));
        }
        if let Some(listeners) = listeners
            && listeners != self.listeners
        {
            messages.push(Message::Demand(v1::Demand {
                listeners: listeners.iter().cloned().collect(),
            }));
            self.listeners = listeners;
        }
        if phase == Phase::Leaving {
            messages.push(Message::Deregister(v1::Deregister {}));
        }
        self.phase = self.phase.max(phase);
        messages.into_iter().map(message).collect()
    }
}

fn message(message: Message) -> v1::WorkloadMessage {
    v1::WorkloadMessage { message: Some(message) }
}

fn call(channel: Channel, messages: ReceiverStream<v1::WorkloadMessage>) -> Calling<v1::WorkloadReply> {
    let mut client = WorkloadsClient::new(channel);
    Box::pin(async move { Ok(client.register(messages).await?.into_inner()) })
}

/// Waits for a change; `false` once no more can come.
async fn changed<T>(watched: &mut watch::Receiver<T>) -> bool {
    watched.changed().await.is_ok()
}

/// The services in use, by name.
fn used(mesh: &Mesh) -> BTreeSet<String> {
    let snapshot = mesh.current();
    let services = snapshot.services().filter_map(|(name, lookup)| match lookup {
        Lookup::Service(_) => Some(name.to_string()),
        Lookup::NoSuchService { .. } | Lookup::Refused(_) => None,
    });
    services.collect()
}

/// The local address of the way to `authority`. Nothing is sent: to connect a datagram socket only asks for the route.
async fn local_address(authority: &str) -> io::Result<IpAddr> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in tokio::net::lookup_host(authority).await? {
        let any: IpAddr = match address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
        match socket.connect(address).await {
            Ok(()) => return Ok(socket.local_addr()?.ip()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::pin::Pin;
    use std::sync::Arc;

    use tokio::sync::mpsc;
    use tokio_stream::Stream;
    use tonic::service::Routes;
    use tonic::{Request, Response, Status, Streaming};
    use weir_xds::v1::workloads_server::{Workloads, WorkloadsServer};

    use super::*;
    use crate::clock::Clock;
    use crate::explain::Explainer;
    use crate::mesh::Feed;
    use crate::snapshot::{self, CompiledRoutes, LastUsed, Parts, ServicePart};
    use crate::xds::scenario::{Killable, within};

    const LONG: Duration = Duration::from_secs(10);

    fn port(number: u16) -> NonZeroU16 {
        NonZeroU16::new(number).expect("not 0")
    }

    fn words(messages: &[v1::WorkloadMessage]) -> Vec<String> {
        messages.iter().map(word).collect()
    }

    fn word(message: &v1::WorkloadMessage) -> String {
        match message.message.as_ref().expect("is set") {
            Message::Hello(hello) => format!("hello {}/{} at {}", hello.namespace, hello.workload, hello.address),
            Message::Health(health) => format!("ready {:?}", health.ready_app_ports),
            Message::Draining(v1::Draining {}) => "draining".to_owned(),
            Message::Deregister(v1::Deregister {}) => "deregister".to_owned(),
            Message::Demand(demand) => format!("uses {:?}", demand.listeners),
            Message::Answer(answer) => format!("answers {}: {:?}", answer.id, answer.result),
        }
    }

    #[test]
    fn each_change_is_told_once() {
        let mut told = Told::default();
        let none = BTreeSet::new();
        let both = BTreeSet::from([port(8080), port(9090)]);
        let uses = BTreeSet::from(["a".to_owned()]);
        let mut tell = |ready: &BTreeSet<_>, phase, uses: Option<&BTreeSet<_>>| {
            words(&told.tell(ready.clone(), phase, uses.cloned()))
        };
        assert_eq!(
            tell(&none, Phase::Serving, Some(&none_used())),
            ["ready []"],
            "even that none is"
        );
        assert_eq!(tell(&none, Phase::Serving, None), [""; 0]);
        assert_eq!(
            tell(&both, Phase::Serving, Some(&uses)),
            ["ready [8080, 9090]", "uses [\"a\"]"]
        );
        assert_eq!(tell(&both, Phase::Serving, Some(&uses)), [""; 0]);
        assert_eq!(tell(&none, Phase::Draining, None), ["ready []", "draining"]);
        assert_eq!(tell(&none, Phase::Draining, None), [""; 0]);
        assert_eq!(
            tell(&none, Phase::Leaving, Some(&none_used())),
            ["uses []", "deregister"]
        );
        assert_eq!(tell(&both, Phase::Leaving, Some(&uses)), [""; 0], "nothing after it");
        // On a stream that begins late.
        let told = Told::default().tell(both, Phase::Draining, None);
        assert_eq!(words(&told), ["ready [8080, 9090]", "draining"]);
    }

    fn none_used() -> BTreeSet<String> {
        BTreeSet::new()
    }

    /// Welcomes everybody, notes what is said, asks who drains for its configuration, and ends a stream when its client
    /// deregisters.
    struct Server {
        heard: mpsc::Sender<String>,
    }

    #[tonic::async_trait]
    impl Workloads for Server {
        type RegisterStream = Pin<Box<dyn Stream<Item = Result<v1::WorkloadReply, Status>> + Send>>;

        async fn register(
            &self,
            request: Request<Streaming<v1::WorkloadMessage>>,
        ) -> Result<Response<Self::RegisterStream>, Status> {
            let (mut messages, heard) = (request.into_inner(), self.heard.clone());
            let (replies, replying) = mpsc::channel(1);
            tokio::spawn(async move {
                while let Ok(Some(message)) = messages.message().await {
                    if matches!(message.message, Some(Message::Hello(_))) {
                        let version = "1".to_owned();
                        let welcome = Reply::Welcome(v1::Welcome { version });
                        let _ = replies.send(Ok(v1::WorkloadReply { reply: Some(welcome) })).await;
                    }
                    let _ = heard.send(word(&message)).await;
                    if let Some(Message::Draining(_)) = message.message {
                        let question = Reply::Question(v1::Question {
                            id: 1,
                            answer_bytes_max: 100,
                            wait_millis: 60_000,
                            question: Some(v1::question::Question::Config(v1::AskConfig {})),
                        });
                        let _ = replies.send(Ok(v1::WorkloadReply { reply: Some(question) })).await;
                    }
                    if matches!(message.message, Some(Message::Deregister(_))) {
                        return;
                    }
                }
            });
            Ok(Response::new(Box::pin(ReceiverStream::new(replying))))
        }
    }

    fn serve(listener: TcpListener, heard: mpsc::Sender<String>) -> Killable {
        Killable::serve(Routes::new(WorkloadsServer::new(Server { heard })), listener)
    }

    async fn hear(heard: &mut mpsc::Receiver<String>, expect: &[&str]) {
        for expect in expect {
            let word = within(heard.recv()).await.expect("a server");
            assert_eq!(word, *expect);
        }
    }

    fn use_service(feed: &Feed, name: &str) {
        let own = "n".parse().expect("a label");
        let name = weir_policy::names::ListenerName::from_authority(name, &own).expect("a name");
        let routes = CompiledRoutes::compile(&[]).expect("nothing is wrong with nothing");
        let last_used = LastUsed::new(feed.clock().now());
        let parts = Parts {
            services: vec![ServicePart {
                name,
                routes_name: None,
                routes: routes.into(),
                last_used: last_used.into(),
            }],
            ..Parts::default()
        };
        feed.publish(snapshot::compile(&feed.current(), feed.states(), parts));
    }

    #[tokio::test]
    async fn a_workload_is_known_from_its_hello_to_its_end() {
        let (sender, mut heard) = mpsc::channel(64);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let serving = serve(listener, sender.clone());
        let url = format!("http://{address}").parse().expect("a URL");
        let control_plane = ControlPlane::new(&url).expect("cleartext");
        let (mesh, feed) = Mesh::new(Clock::start(), Locality::default());
        let (ready, ready_seen) = watch::channel(BTreeSet::new());
        let announcement = Announcement {
            workload: "n/w".parse().expect("a name"),
            started: SystemTime::now(),
            address: None,
            ports: vec![AnnouncedPort {
                app_port: port(8080),
                inbound_port: port(15006),
                protocol: AppProtocol::Http1,
                edge: Edge::No,
            }],
            labels: BTreeMap::new(),
            locality: Locality::default(),
            version: "0".to_owned(),
        };
        let workload = Arc::new(announcement.workload.clone());
        let answers = Answers {
            config: Arc::new(|| serde_json::Value::from(7)),
            explainer: Explainer::new(mesh.clone(), workload, crate::egress::tests::exit()),
            mesh,
        };
        let (registration, registrar) = register(announcement, control_plane, answers, ready_seen);
        let task = tokio::spawn(registrar.run());
        let mut standing = registration.standing();
        within(standing.wait_for(|standing| *standing == Standing::Registered))
            .await
            .expect("runs");
        hear(&mut heard, &["hello n/w at 127.0.0.1", "ready []"]).await;
        ready.send_replace(BTreeSet::from([port(8080)]));
        hear(&mut heard, &["ready [8080]"]).await;
        use_service(&feed, "a:80");
        hear(&mut heard, &["uses [\"a.n.svc.cluster.local:80\"]"]).await;
        registration.draining();
        hear(&mut heard, &["draining", "answers 1: Some(Json(\"7\"))"]).await;

        // The stream is lost and begins anew.
        serving.kill();
        within(standing.wait_for(|standing| *standing == Standing::Unknown))
            .await
            .expect("runs");
        let gone = registration.deregister(Duration::ZERO).await;
        assert_eq!(gone, Deregistered::TimedOut, "nobody there to hear it");
        let serving = serve(TcpListener::bind(address).expect("the same port"), sender);
        assert_eq!(registration.deregister(LONG).await, Deregistered::Yes);
        let words = [
            "hello n/w at 127.0.0.1",
            "ready [8080]",
            "uses [\"a.n.svc.cluster.local:80\"]",
            "deregister",
        ];
        hear(&mut heard, &words).await;
        within(task).await.expect("ends by itself");
        serving.kill();
    }
}
