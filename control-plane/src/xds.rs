//! The xDS server: ADS in both variants, on demand. One task owns the [`Model`]; whatever wakes it is one [`Event`] or
//! a change of the store.

pub(crate) mod model;
pub(crate) mod outbox;
mod stirred;
pub(crate) mod stream;
pub(crate) mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use futures_util::stream::{self as streams, Stream};
use rustls::pki_types::CertificateDer;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};
use weir_api::Key;
use weir_api::views::{ProxyList, ProxyView};
use weir_policy::names::WorkloadName;
use weir_policy::spiffe::TrustDomain;
use weir_xds::envoy::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer, DeltaDiscoveryRequest, DeltaDiscoveryResponse,
    DiscoveryRequest, DiscoveryResponse,
};
use weir_xds::node::{self, ClientIdentity, Dialect};
use weir_xds::{ResourceType, envoy};

use crate::authority::rotation::{ProxyKind, Roots};
use crate::authority::x509::to_pem;
use crate::door::caller::{Caller, Entry, first_message};
use crate::drain::Drain;
use crate::places::{self, Places, Room};
use crate::proxies::{self, Extent, Summaries};
use crate::store::{self, Revision, Store, WatchEnded};
use crate::workloads::registry::StreamId;
use model::{Model, Pushes, Told};
use outbox::{Bounds, Outbox, Outgoing, Weighed};
use stream::{Asked, Names, Standing, Variant};
use wire::{Delta, Wire, World};

/// Whatever wakes the task that owns the model, beside the store and ended streams.
#[derive(Debug)]
enum Event {
    /// A client said who it is.
    Opened {
        id: StreamId,
        client: ClientIdentity,
        variant: Variant,
        entry: Entry,
        address: Option<SocketAddr>,
        outbox: Outbox<Outbound>,
    },
    /// A request of an open stream.
    Asked {
        id: StreamId,
        of: ResourceType,
        asked: Asked,
    },
    /// Somebody wants to see.
    Query(Query),
}

impl Event {
    /// Whether it has to be answered by the store as it is now. The others must not hurry changes along: an ACK for
    /// each would undo their being taken in together.
    fn wants_latest(&self) -> bool {
        match self {
            Event::Opened { .. } => false,
            Event::Asked { asked, .. } => match &asked.names {
                Names::Delta { subscribe, .. } => !subscribe.is_empty(),
                // Each ACK lists all names; which of them are new is known later.
                Names::All(_) => asked.response_nonce.is_empty(),
            },
            Event::Query(_) => true,
        }
    }
}

/// An answer that waits to be sent, with what the store held when it was made.
#[derive(Debug)]
struct Outbound {
    told: Told,
    revision: Revision,
}

/// What can be seen.
#[derive(Debug)]
enum Query {
    Proxies(oneshot::Sender<ProxyList>),
    Object {
        key: Key,
        generation: i64,
        revision: Revision,
        answer: oneshot::Sender<ProxyView>,
    },
    Stirred(oneshot::Sender<BTreeSet<Key>>),
    Roots(oneshot::Sender<RootsView>),
    Summaries {
        of: Vec<(Key, Vec<Extent>)>,
        answer: oneshot::Sender<Summaries>,
    },
}

/// How proxies stand with the roots.
#[derive(Debug)]
pub(crate) struct RootsView {
    /// The roots that are sent now.
    pub(crate) roots: Vec<CertificateDer<'static>>,
    /// Each that is connected by TLS.
    pub(crate) proxies: Vec<(WorkloadName, ProxyKind, Roots)>,
}

/// The xDS server's front: the gRPC service and the views ask through it. Clones share one server.
#[derive(Clone, Debug)]
pub(crate) struct Xds {
    shared: Arc<Shared>,
    entry: Entry,
}

#[derive(Debug)]
struct Shared {
    events: mpsc::Sender<Event>,
    ended: Ended,
    next_id: AtomicU64,
    streams: Places,
    counts: Counts,
    /// There is something in [`Model::take_stirred`].
    stirred: Notify,
}

/// What happened, counted over the life of the process and told in the log.
#[derive(Debug, Default)]
struct Counts {
    slow: AtomicU64,
    refused: AtomicU64,
    rejected: AtomicU64,
}

/// The server is gone; it ends only with the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the xDS server is shut down")]
pub(crate) struct Closed;

/// The server over a store, of the mesh whose identities are of this trust domain and below these roots: its front, and
/// the task that its owner runs until it drains.
pub(crate) fn server(
    store: Store,
    trust_domain: TrustDomain,
    roots: watch::Receiver<Vec<CertificateDer<'static>>>,
    drain: Drain,
) -> (Xds, impl Future<Output = ()> + Send + 'static) {
    let (events, received) = mpsc::channel(EVENTS_QUEUED_MAX);
    let shared = Arc::new(Shared {
        events,
        ended: Ended::default(),
        next_id: AtomicU64::new(1),
        streams: Places::new(STREAMS),
        counts: Counts::default(),
        stirred: Notify::new(),
    });
    let task = Task {
        store,
        model: Model::new(trust_domain),
        roots,
        sent_roots: Vec::new(),
        outboxes: BTreeMap::new(),
        shared: Arc::clone(&shared),
    };
    let entry = Entry::Loopback;
    (Xds { shared, entry }, task.run(received, drain))
}

impl Xds {
    /// The gRPC service, for those who come by this door.
    pub(crate) fn service(&self, entry: Entry) -> AggregatedDiscoveryServiceServer<Xds> {
        let shared = Arc::clone(&self.shared);
        AggregatedDiscoveryServiceServer::new(Xds { shared, entry })
    }

    /// Every proxy, as it stands.
    ///
    /// # Errors
    /// When the server is shut down.
    pub(crate) async fn proxies(&self) -> Result<ProxyList, Closed> {
        let (answer, answered) = oneshot::channel();
        self.query(Query::Proxies(answer), answered).await
    }

    /// Where an object is in force; `revision` is that of its last change.
    ///
    /// # Errors
    /// When the server is shut down.
    pub(crate) async fn proxies_of(&self, key: Key, generation: i64, revision: Revision) -> Result<ProxyView, Closed> {
        let (answer, answered) = oneshot::channel();
        let query = Query::Object {
            key,
            generation,
            revision,
            answer,
        };
        self.query(query, answered).await
    }

    /// Waits until objects may stand otherwise than when [`Xds::take_stirred`] was last asked. For one caller.
    ///
    /// # Cancel safety
    /// Safe: what is waited for is remembered.
    pub(crate) async fn stirred(&self) {
        self.shared.stirred.notified().await;
    }

    /// The objects that may stand otherwise than when this was last asked, and of which the status says it.
    ///
    /// # Errors
    /// When the server is shut down.
    pub(crate) async fn take_stirred(&self) -> Result<BTreeSet<Key>, Closed> {
        let (answer, answered) = oneshot::channel();
        self.query(Query::Stirred(answer), answered).await
    }

    /// Where objects are in force, in each of their extents. Looking at them takes the model's task: ask for some
    /// dozens at a time.
    ///
    /// # Errors
    /// When the server is shut down.
    pub(crate) async fn summaries(&self, of: Vec<(Key, Vec<Extent>)>) -> Result<Summaries, Closed> {
        let (answer, answered) = oneshot::channel();
        self.query(Query::Summaries { of, answer }, answered).await
    }

    /// How proxies stand with the roots.
    ///
    /// # Errors
    /// When the server is shut down.
    pub(crate) async fn roots(&self) -> Result<RootsView, Closed> {
        let (answer, answered) = oneshot::channel();
        self.query(Query::Roots(answer), answered).await
    }

    async fn query<T>(&self, query: Query, answered: oneshot::Receiver<T>) -> Result<T, Closed> {
        self.shared.events.send(Event::Query(query)).await.map_err(|_| Closed)?;
        answered.await.map_err(|_| Closed)
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Xds {
    type StreamAggregatedResourcesStream = Answers<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Answers<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Answers<DiscoveryResponse>>, Status> {
        self.converse::<World>(request)
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Answers<DeltaDiscoveryResponse>>, Status> {
        self.converse::<Delta>(request)
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Xds {
    fn converse<W: Wire>(
        &self,
        request: Request<Streaming<W::Request>>,
    ) -> Result<Response<Answers<W::Response>>, Status> {
        let (caller, address) = self.entry.caller(&request)?;
        let taken = self.shared.streams.take(caller.holder()).map_err(|full| {
            self.shared.counts.refused.fetch_add(1, Ordering::Relaxed);
            Status::resource_exhausted(format!("of the streams of xDS {full}"))
        })?;
        let conversation = Conversation::<W> {
            caller,
            entry: self.entry,
            address,
            incoming: request.into_inner(),
            place: Place {
                id: StreamId(self.shared.next_id.fetch_add(1, Ordering::Relaxed)),
                shared: Arc::clone(&self.shared),
                _taken: taken,
            },
            outgoing: None,
            over: Over::No,
        };
        let answers = streams::unfold(conversation, async |mut conversation| {
            conversation.next().await.map(|item| (item, conversation))
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

/// One stream from its client's side: as long as its answers are polled, its requests are read. A client that does not
/// read its answers is not read either.
struct Conversation<W: Wire> {
    incoming: Streaming<W::Request>,
    outgoing: Option<Outgoing<Outbound>>,
    caller: Caller,
    entry: Entry,
    address: Option<SocketAddr>,
    place: Place,
    over: Over,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    No,
    Yes,
}

/// A stream's place in the server; given back when the stream is dropped, however that comes.
struct Place {
    id: StreamId,
    shared: Arc<Shared>,
    _taken: places::Place,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.ended.push(self.id);
    }
}

impl<W: Wire> Conversation<W> {
    async fn next(&mut self) -> Option<Result<W::Response, Status>> {
        if self.over == Over::Yes {
            return None;
        }
        let next = self.answer().await;
        if !matches!(next, Ok(Some(_))) {
            self.over = Over::Yes;
        }
        next.transpose()
    }

    /// Reads requests until there is something to answer.
    async fn answer(&mut self) -> Result<Option<W::Response>, Status> {
        loop {
            let request = match &mut self.outgoing {
                // Both arms are cancel safe: tonic's `message` polls a decoder that keeps what it has, an outbox gives
                // an item only when it returns it.
                Some(outgoing) => tokio::select! {
                    answer = outgoing.next() => {
                        return answer.map(|next| next.map(|next| W::response(next.told, next.revision)));
                    }
                    request = self.incoming.message() => request.unwrap_or(None),
                },
                None => first_message(&mut self.incoming).await?,
            };
            // The client closed its side, or its connection is lost: nobody is there to be told anything.
            let Some(request) = request else {
                return Ok(None);
            };
            self.take(request).await?;
        }
    }

    async fn take(&mut self, request: W::Request) -> Result<(), Status> {
        if self.outgoing.is_none() {
            let client = self.identify(W::node(&request))?;
            let (outbox, outgoing) = outbox::outbox(OUTBOX);
            self.outgoing = Some(outgoing);
            let opened = Event::Opened {
                id: self.place.id,
                client,
                variant: W::VARIANT,
                entry: self.entry,
                address: self.address,
                outbox,
            };
            self.send(opened).await?;
        }
        let (of, asked) = W::read(request)?;
        let id = self.place.id;
        self.send(Event::Asked { id, of, asked }).await
    }

    /// xDS protocol, "DeltaDiscoveryRequest.node": only the first request of a stream has to carry it.
    fn identify(&self, node: Option<&envoy::Node>) -> Result<ClientIdentity, Status> {
        let log = |problem: &str| {
            let total = 1 + self.place.shared.counts.refused.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(address = ?self.address, problem, total, "xds stream refused");
        };
        let refuse = |problem: String| {
            log(&problem);
            Status::invalid_argument(problem)
        };
        let node = node.ok_or_else(|| refuse("the first request must carry a node".to_owned()))?;
        let client = node::read_node(node).map_err(|error| refuse(error.to_string()))?;
        let speaks = self.caller.speaks_for("node.id", &client.workload.namespace);
        speaks.inspect_err(|status| log(status.message()))?;
        if client.dialect == Dialect::Weir && W::VARIANT == Variant::StateOfTheWorld {
            return Err(refuse("a weir proxy uses DeltaAggregatedResources".to_owned()));
        }
        Ok(client)
    }

    async fn send(&self, event: Event) -> Result<(), Status> {
        let events = &self.place.shared.events;
        events
            .send(event)
            .await
            .map_err(|_| Status::unavailable(Closed.to_string()))
    }
}

/// Streams that ended, until the model's task takes note. Never more than there are streams, so pushing never waits:
/// it is done while a stream is dropped.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    ids: Mutex<Vec<StreamId>>,
    news: Notify,
}

impl Ended {
    /// A stream is over.
    pub(crate) fn push(&self, id: StreamId) {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).push(id);
        self.news.notify_one();
    }

    /// Waits until some ended, and takes them.
    ///
    /// # Cancel safety
    /// Safe: none is taken unless it is returned.
    pub(crate) async fn take(&self) -> Vec<StreamId> {
        loop {
            let ids = std::mem::take(&mut *self.ids.lock().unwrap_or_else(PoisonError::into_inner));
            if !ids.is_empty() {
                return ids;
            }
            self.news.notified().await;
        }
    }
}

impl Weighed for Outbound {
    fn bytes(&self) -> usize {
        let messages = self.told.items.iter().filter_map(|item| item.resource.as_ref());
        size_of::<Outbound>() + messages.map(|(message, _)| message.value.len()).sum::<usize>()
    }
}

/// The owner of the model.
struct Task {
    store: Store,
    model: Model,
    roots: watch::Receiver<Vec<CertificateDer<'static>>>,
    /// What of these is sent.
    sent_roots: Vec<CertificateDer<'static>>,
    outboxes: BTreeMap<StreamId, Outbox<Outbound>>,
    shared: Arc<Shared>,
}

/// Changes of the store that wait to be taken in together.
struct Batch {
    events: Vec<Arc<store::Event>>,
    first: Instant,
    last: Instant,
}

impl Batch {
    /// When they are taken in: when none came for a while, but not much later than the first.
    fn due(&self) -> Instant {
        (self.last + QUIET).min(self.first + DELAY_MAX)
    }
}

impl Batch {
    fn add(batch: &mut Option<Batch>, changes: Vec<Arc<store::Event>>) {
        let now = Instant::now();
        let batch = batch.get_or_insert(Batch {
            events: Vec::new(),
            first: now,
            last: now,
        });
        batch.last = now;
        batch.events.extend(changes);
    }
}

impl Task {
    async fn run(mut self, mut events: mpsc::Receiver<Event>, mut drain: Drain) {
        self.take_roots();
        let mut watch = self.resync();
        let mut batch: Option<Batch> = None;
        let shared = Arc::clone(&self.shared);
        loop {
            let due = batch.as_ref().map(Batch::due);
            // Each arm is cancel safe: receiving, watching, taking ended streams and sleeping lose nothing.
            tokio::select! {
                () = drain.begun() => break,
                event = events.recv() => match event {
                    Some(event) => {
                        if event.wants_latest() {
                            self.catch_up(&mut watch, &mut batch);
                        }
                        self.on(event);
                    }
                    None => break,
                },
                ended = shared.ended.take() => {
                    // What a stream said before it ended is queued by now, and comes first: a stream that is opened
                    // after its end would never end.
                    for _ in 0..events.len() {
                        if let Ok(event) = events.try_recv() {
                            self.on(event);
                        }
                    }
                    self.close(ended);
                }
                changes = watch.next() => match changes {
                    Ok(changes) => Batch::add(&mut batch, changes),
                    Err(WatchEnded::Compacted(compacted)) => {
                        tracing::warn!(%compacted, "the xds server fell behind the store and lists anew");
                        batch = None;
                        watch = self.resync();
                    }
                    Err(WatchEnded::Closed) => break,
                },
                () = sleep_until(due) => self.take_in(&mut batch),
                () = changed(&mut self.roots) => self.take_roots(),
            }
            if self.model.has_stirred() {
                shared.stirred.notify_one();
            }
        }
        for outbox in self.outboxes.values() {
            outbox.end(Status::unavailable(Closed.to_string()));
        }
    }

    /// Takes in what the store has now, so that who writes and then asks is answered by what was written.
    fn catch_up(&mut self, watch: &mut store::Watch, batch: &mut Option<Batch>) {
        if self.store.revision() == self.model.seen() {
            return;
        }
        // An end of the watch is met again, and dealt with, where it is awaited.
        while let Some(Ok(changes)) = watch.next().now_or_never() {
            Batch::add(batch, changes);
        }
        self.take_in(batch);
    }

    fn take_in(&mut self, batch: &mut Option<Batch>) {
        if let Some(batch) = batch.take() {
            let pushes = self.model.changed(&batch.events, Instant::now().into_std());
            self.push(pushes);
        }
    }

    /// Sends the roots as they are now.
    fn take_roots(&mut self) {
        self.sent_roots = self.roots.borrow_and_update().clone();
        if !self.sent_roots.is_empty() {
            let pem = self.sent_roots.iter().map(to_pem).collect();
            let pushes = self.model.set_roots(pem, Instant::now().into_std());
            self.push(pushes);
        }
    }

    fn roots_view(&self) -> RootsView {
        let streams = self.model.newest_streams().into_iter();
        let by_tls = streams.filter(|(_, (_, stream))| stream.entry == Entry::Tls);
        let proxies = by_tls.map(|(workload, (_, stream))| {
            let kind = match stream.client.dialect {
                Dialect::Weir => ProxyKind::Weir,
                Dialect::Grpc(_) | Dialect::Envoy(_) => ProxyKind::Other,
            };
            let roots = match self.model.roots_of(stream) {
                None => Roots::NotAsked,
                Some(Standing::InForce) => Roots::InForce,
                Some(Standing::Pending) => Roots::Pending,
                Some(Standing::Rejected(reason)) => Roots::Rejected(reason),
            };
            (workload.clone(), kind, roots)
        });
        RootsView {
            roots: self.sent_roots.clone(),
            proxies: proxies.collect(),
        }
    }

    /// Lists the store, and returns a watch from there.
    fn resync(&mut self) -> store::Watch {
        loop {
            let (all, revision) = self.store.all();
            // Only when more changes were made between these two lines than the store remembers is it compacted.
            if let Ok(watch) = self.store.watch(revision) {
                let pushes = self.model.reset(&all, revision, Instant::now().into_std());
                self.push(pushes);
                return watch;
            }
        }
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Opened {
                id,
                client,
                variant,
                entry,
                address,
                outbox,
            } => {
                let speaks = match client.dialect {
                    Dialect::Weir => "weir",
                    Dialect::Grpc(_) => "grpc",
                    Dialect::Envoy(_) => "envoy",
                };
                tracing::info!(workload = %client.workload, speaks, version = client.version, ?address, "proxy connected");
                self.model
                    .open(id, client, variant, (entry, address), SystemTime::now());
                self.outboxes.insert(id, outbox);
            }
            Event::Asked { id, of, asked } => {
                if let Some(reason) = &asked.error {
                    let total = 1 + self.shared.counts.rejected.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(stream = id.0, kind = %of, reason, total, "proxy rejected a resource");
                }
                match self.model.ask(id, of, asked, Instant::now().into_std()) {
                    Ok(told) => self.send(id, told),
                    Err(refusal) => self.end(id, Status::resource_exhausted(refusal.to_string())),
                }
            }
            // An error says that who asked has gone.
            Event::Query(Query::Proxies(answer)) => {
                let _ = answer.send(proxies::list(&self.model, Instant::now().into_std()));
            }
            Event::Query(Query::Object {
                key,
                generation,
                revision,
                answer,
            }) => {
                let _ = answer.send(proxies::of_object(&self.model, &key, generation, revision));
            }
            Event::Query(Query::Stirred(answer)) => {
                let _ = answer.send(self.model.take_stirred());
            }
            Event::Query(Query::Roots(answer)) => {
                let _ = answer.send(self.roots_view());
            }
            Event::Query(Query::Summaries { of, answer }) => {
                let _ = answer.send(proxies::summaries(&self.model, &of));
            }
        }
    }

    fn close(&mut self, ended: Vec<StreamId>) {
        for id in ended {
            self.outboxes.remove(&id);
            self.model.close(id);
        }
    }

    fn push(&mut self, pushes: Pushes) {
        for (id, told) in pushes {
            self.send(id, told);
        }
    }

    fn send(&mut self, id: StreamId, told: Vec<Told>) {
        let Some(outbox) = self.outboxes.get(&id) else {
            return;
        };
        let revision = self.model.seen();
        if let Err(full) = outbox.push(told.into_iter().map(|told| Outbound { told, revision })) {
            let total = 1 + self.shared.counts.slow.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(stream = id.0, total, "xds client is too slow");
            self.end(id, Status::resource_exhausted(full.to_string()));
        }
    }

    fn end(&mut self, id: StreamId, status: Status) {
        tracing::warn!(stream = id.0, reason = status.message(), "xds stream ended");
        if let Some(outbox) = self.outboxes.remove(&id) {
            outbox.end(status);
        }
        self.model.close(id);
    }
}

/// Waits for other roots; for ever when nobody says them any more.
async fn changed(roots: &mut watch::Receiver<Vec<CertificateDer<'static>>>) {
    if roots.changed().await.is_err() {
        std::future::pending().await
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// What one stream may have waiting: twice what all its subscriptions need at once, and far above a push.
const OUTBOX: Bounds = Bounds {
    items_max: 2 * stream::SUBSCRIPTIONS_MAX,
    bytes_max: 64 << 20,
};
/// Streams of one process, and of one namespace by TLS; a mesh beyond that needs a second control plane.
const STREAMS: Room = Room {
    all: 10_000,
    each: 2_500,
};
/// Requests and queries that wait for the model's task; senders wait for a place.
const EVENTS_QUEUED_MAX: usize = 1_024;
/// Of writes that come together, as of `weirctl apply -f DIR`, only the last state is computed and sent.
const QUIET: Duration = Duration::from_millis(5);
/// A stream of changes without a pause does not hold back the first one for longer.
const DELAY_MAX: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;
    use weir_policy::model::Locality;

    use super::*;
    use crate::compile::fixture;
    use crate::door::caller::samples;
    use crate::drain;
    use crate::store::{Location, Op, StoreTask};

    fn store() -> (Store, StoreTask) {
        Store::open(Location::Memory).expect("a store in memory")
    }

    fn no_roots() -> watch::Receiver<Vec<CertificateDer<'static>>> {
        watch::channel(Vec::new()).1
    }

    fn client() -> ClientIdentity {
        ClientIdentity {
            workload: "citizen/a".parse().expect("a workload"),
            locality: Locality::default(),
            version: String::new(),
            dialect: Dialect::Weir,
        }
    }

    fn opened(id: u64, bounds: Bounds) -> (Event, Outgoing<Outbound>) {
        let (outbox, outgoing) = outbox::outbox(bounds);
        let event = Event::Opened {
            id: StreamId(id),
            client: client(),
            variant: Variant::Delta,
            entry: Entry::Loopback,
            address: None,
            outbox,
        };
        (event, outgoing)
    }

    fn subscribes(id: u64, names: &[&str]) -> Event {
        Event::Asked {
            id: StreamId(id),
            of: ResourceType::Cluster,
            asked: Asked {
                names: Names::Delta {
                    subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
                    unsubscribe: Vec::new(),
                    initial_versions: BTreeMap::new(),
                },
                ..Asked::default()
            },
        }
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_closed_and_counted() {
        let (store, store_task) = store();
        let (xds, task) = server(store.clone(), TrustDomain::default(), no_roots(), drain::channel().1);
        drop(task);
        let mut task = Task {
            store,
            model: Model::default(),
            roots: no_roots(),
            sent_roots: Vec::new(),
            outboxes: BTreeMap::new(),
            shared: Arc::clone(&xds.shared),
        };
        let small = Bounds { items_max: 2, ..OUTBOX };
        let (event, mut outgoing) = opened(1, small);
        task.on(event);
        task.on(subscribes(1, &["a.b:1", "a.b:2"]));
        assert_eq!(xds.shared.counts.slow.load(Ordering::Relaxed), 0, "as much as may wait");
        task.on(subscribes(1, &["a.b:3"]));
        assert_eq!(xds.shared.counts.slow.load(Ordering::Relaxed), 1);
        assert!(task.outboxes.is_empty());
        assert!(task.model.newest_streams().is_empty());
        let status = outgoing.next().await.expect_err("closed");
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        drop((task, xds));
        store_task.stop().await.expect("no panic");
    }

    /// Of virtual time.
    const FOR_EVER: Duration = Duration::from_secs(24 * 60 * 60);

    #[tokio::test(start_paused = true)]
    async fn a_namespace_has_its_share_of_the_streams_and_one_that_says_nothing_ends() {
        let (store, store_task) = store();
        let (Xds { shared, .. }, task) = server(store, TrustDomain::default(), no_roots(), drain::channel().1);
        let entry = Entry::Tls;
        let xds = Xds { shared, entry };
        let open = |namespace| xds.converse::<Delta>(samples::silent(namespace));
        let citizen: Vec<_> = (0..STREAMS.each).map(|_| open("citizen").expect("a place")).collect();
        let refused = open("citizen").err().expect("a share");
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert!(
            refused.message().contains("namespace citizen has 2500 open"),
            "{refused}"
        );
        let mut police = open("police").expect("the others have theirs").into_inner();
        let ended = tokio::time::timeout(FOR_EVER, police.next()).await.expect("in time");
        let ended = ended.expect("an end").expect_err("nothing was asked");
        assert_eq!(ended.code(), tonic::Code::DeadlineExceeded);
        assert!(police.next().await.is_none());
        drop(citizen);
        open("citizen").expect("given back");
        drop((task, xds, police));
        store_task.stop().await.expect("no panic");
    }

    #[tokio::test]
    async fn a_stream_that_ended_before_it_was_looked_at_is_not_kept() {
        // Which of the two the task sees first is left to chance: several rounds see both.
        for _ in 0..10 {
            let (store, store_task) = store();
            let (drainer, drain) = drain::channel();
            let (xds, task) = server(store, TrustDomain::default(), no_roots(), drain);
            for id in 1..=16 {
                let (event, _) = opened(id, OUTBOX);
                xds.shared.events.send(event).await.expect("there is room");
                xds.shared.ended.push(StreamId(id));
            }
            let task = tokio::spawn(task);
            let none = async {
                while !xds.proxies().await.expect("the task runs").items.is_empty() {
                    tokio::task::yield_now().await;
                }
            };
            let patience = Duration::from_secs(20);
            tokio::time::timeout(patience, none)
                .await
                .expect("all streams are over");
            drainer.begin();
            task.await.expect("no panic");
            store_task.stop().await.expect("no panic");
        }
    }

    /// Writes that come one after the other within the pause are one push; a stream of writes is cut after a while.
    #[test]
    fn changes_are_taken_in_together_but_not_late() {
        let start = Instant::now();
        let batch = |first: u64, last: u64| Batch {
            events: Vec::new(),
            first: start + Duration::from_millis(first),
            last: start + Duration::from_millis(last),
        };
        let due = |batch: Batch| batch.due() - start;
        assert_eq!(due(batch(0, 0)), Duration::from_millis(5));
        assert_eq!(due(batch(0, 4)), Duration::from_millis(9));
        assert_eq!(due(batch(0, 47)), Duration::from_millis(50));
        assert_eq!(due(batch(0, 200)), Duration::from_millis(50));
    }

    #[tokio::test]
    async fn writes_of_one_moment_are_one_push() {
        let (store, store_task) = store();
        let (drainer, drain) = drain::channel();
        let (xds, task) = server(store.clone(), TrustDomain::default(), no_roots(), drain);
        let task = tokio::spawn(task);
        let (event, mut outgoing) = opened(1, OUTBOX);
        let send = |event| xds.shared.events.send(event);
        send(event).await.expect("the task runs");
        send(subscribes(1, &["portal.citizen:80"]))
            .await
            .expect("the task runs");
        outgoing.next().await.expect("open").expect("it is not there yet");
        for port in [81, 82, 83, 80] {
            let service = fixture::service("citizen", "portal", &[("", port)]);
            let precondition = store::Precondition::Any;
            let op = match store.get(&service.key()) {
                None => Op::Create(service),
                Some(_) => Op::Replace {
                    object: service,
                    precondition,
                },
            };
            store.write(vec![op]).await.expect("memory takes it");
        }
        let response = outgoing.next().await.expect("open").expect("a push");
        assert_eq!(response.told.items.len(), 1);
        assert_eq!(
            response.told.nonce.to_string(),
            "2",
            "the ports in between made no difference to anybody"
        );
        drainer.begin();
        task.await.expect("no panic");
        assert_eq!(
            outgoing.next().await.expect_err("over").code(),
            tonic::Code::Unavailable
        );
        store_task.stop().await.expect("no panic");
    }
}
