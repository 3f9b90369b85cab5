//! The workloads' stream: proxies register here, and stay known for as long as the rules of [`registry`] say. One task
//! owns the registry and writes it to the store as Workload objects.

mod hello;
mod namespaces;
mod questions;
pub(crate) mod registry;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::{self as streams, Stream};
use prost::Message as _;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};
use weir_api::workload::WorkloadStatus;
use weir_api::{Key, Kind, Object, Spec};
use weir_policy::names::WorkloadName;
use weir_xds::v1;
use weir_xds::v1::question::Question;
use weir_xds::v1::workload_message::Message;
use weir_xds::v1::workload_reply::Reply;
use weir_xds::v1::workloads_server::WorkloadsServer;

use crate::compile::index::name_of;
use crate::door::caller::{Caller, Entry, first_message};
use crate::drain::Drain;
use crate::places::{self, Places, Room};
use crate::store::{Op, Precondition, Store, WriteError};
use crate::xds::Ended;
use crate::xds::outbox::{Bounds, Outbox, Outgoing, Weighed, outbox};
use namespaces::Namespaces;
pub(crate) use questions::AskError;
use questions::{Abilities, Questions};
use registry::{Record, Registration, Registry, StreamId, Taken};

/// What an open stream says.
#[derive(Debug)]
enum Event {
    Hello {
        id: StreamId,
        name: WorkloadName,
        registration: Box<Registration>,
        abilities: Abilities,
        replies: Outbox<v1::WorkloadReply>,
    },
    Health {
        id: StreamId,
        ready: BTreeSet<NonZeroU16>,
    },
    Draining(StreamId),
    Deregister(StreamId),
}

/// The gRPC service's front; clones share one registry.
#[derive(Clone, Debug)]
pub(crate) struct Workloads {
    shared: Arc<Shared>,
    entry: Entry,
}

#[derive(Debug)]
struct Shared {
    events: mpsc::Sender<Event>,
    ended: Ended,
    next_id: AtomicU64,
    streams: Places,
    questions: Questions,
}

/// The service over a store: its front, and the task that its owner runs until it drains. Workloads that the store
/// holds are unconfirmed until they register again.
pub(crate) fn server(
    store: Store,
    unconfirmed_timeout: Duration,
    drain: Drain,
) -> (Workloads, impl Future<Output = ()> + Send + 'static) {
    let (events, received) = mpsc::channel(EVENTS_QUEUED_MAX);
    let shared = Arc::new(Shared {
        events,
        ended: Ended::default(),
        next_id: AtomicU64::new(1),
        streams: Places::new(STREAMS),
        questions: Questions::default(),
    });
    let task = Task {
        namespaces: Namespaces::new(store.clone()),
        store,
        registry: Registry::new(unconfirmed_timeout),
        replies: BTreeMap::new(),
        unanswered: Vec::new(),
        shared: Arc::clone(&shared),
    };
    let entry = Entry::Loopback;
    (Workloads { shared, entry }, task.run(received, drain))
}

impl Workloads {
    /// The gRPC service, for those who come by this door.
    pub(crate) fn service(&self, entry: Entry) -> WorkloadsServer<Workloads> {
        let shared = Arc::clone(&self.shared);
        WorkloadsServer::new(Workloads { shared, entry }).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Asks a proxy on its stream, and waits for what it answers.
    ///
    /// # Errors
    /// See [`AskError`].
    ///
    /// # Cancel safety
    /// Dropped, the proxy is told that nobody waits any more.
    pub(crate) async fn ask(&self, workload: &WorkloadName, question: Question) -> Result<Box<RawValue>, AskError> {
        self.shared.questions.ask(workload, question).await
    }
}

#[tonic::async_trait]
impl v1::workloads_server::Workloads for Workloads {
    type RegisterStream = Pin<Box<dyn Stream<Item = Result<v1::WorkloadReply, Status>> + Send>>;

    async fn register(
        &self,
        request: Request<Streaming<v1::WorkloadMessage>>,
    ) -> Result<Response<Self::RegisterStream>, Status> {
        let (caller, _) = self.entry.caller(&request)?;
        let taken = self.shared.streams.take(caller.holder());
        let taken = taken.map_err(|full| Status::resource_exhausted(format!("of the streams of workloads {full}")))?;
        let conversation = Conversation {
            caller,
            incoming: request.into_inner(),
            place: Place {
                id: StreamId(self.shared.next_id.fetch_add(1, Ordering::Relaxed)),
                shared: Arc::clone(&self.shared),
                _taken: taken,
            },
            outgoing: None,
            over: Over::No,
        };
        let replies = streams::unfold(conversation, async |mut conversation| {
            conversation.next().await.map(|item| (item, conversation))
        });
        Ok(Response::new(Box::pin(replies)))
    }
}

/// One stream from its client's side.
struct Conversation {
    caller: Caller,
    incoming: Streaming<v1::WorkloadMessage>,
    /// Set by Hello.
    outgoing: Option<Outgoing<v1::WorkloadReply>>,
    place: Place,
    over: Over,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    No,
    Yes,
}

/// A stream's place in the registry; given back when the stream is dropped, however that comes.
struct Place {
    id: StreamId,
    shared: Arc<Shared>,
    _taken: places::Place,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.questions.lost(self.id);
        self.shared.ended.push(self.id);
    }
}

impl Conversation {
    async fn next(&mut self) -> Option<Result<v1::WorkloadReply, Status>> {
        if self.over == Over::Yes {
            return None;
        }
        let next = self.reply().await;
        if !matches!(next, Ok(Some(_))) {
            self.over = Over::Yes;
        }
        next.transpose()
    }

    async fn reply(&mut self) -> Result<Option<v1::WorkloadReply>, Status> {
        loop {
            let message = match &mut self.outgoing {
                // Both arms are cancel safe: tonic's `message` polls a decoder that keeps what it has, an outbox gives
                // an item only when it returns it.
                Some(outgoing) => tokio::select! {
                    reply = outgoing.next() => return reply,
                    message = self.incoming.message() => message.unwrap_or(None),
                },
                None => first_message(&mut self.incoming).await?,
            };
            // The proxy closed its side, or its connection is lost: nobody is there to be told anything.
            let Some(message) = message else {
                return Ok(None);
            };
            self.take(message).await?;
        }
    }

    async fn take(&mut self, message: v1::WorkloadMessage) -> Result<(), Status> {
        let message = message
            .message
            .ok_or_else(|| Status::invalid_argument("a message is empty or of no known kind"))?;
        let id = self.place.id;
        let event = match (message, self.outgoing.is_some()) {
            (Message::Hello(hello), false) => {
                let abilities = Abilities {
                    takes: hello.questions.iter().copied().collect(),
                    version: hello.version.clone(),
                };
                let (name, registration) = hello::read(hello, &self.caller).map_err(|error| {
                    tracing::warn!(%error, "workload refused");
                    Status::invalid_argument(error.to_string())
                })?;
                let speaks = self.caller.speaks_for("namespace", &name.namespace);
                speaks.inspect_err(
                    |status| tracing::warn!(workload = %name, why = status.message(), "workload refused"),
                )?;
                let (replies, outgoing) = outbox(REPLIES);
                self.outgoing = Some(outgoing);
                Event::Hello {
                    id,
                    name,
                    registration: Box::new(registration),
                    abilities,
                    replies,
                }
            }
            (Message::Hello(_), true) => {
                return Err(Status::invalid_argument("Hello comes once, as the first message"));
            }
            (_, false) => return Err(Status::invalid_argument("the first message must be Hello")),
            (Message::Health(v1::Health { ready_app_ports }), true) => Event::Health {
                id,
                ready: hello::ports(&ready_app_ports).map_err(|error| Status::invalid_argument(error.to_string()))?,
            },
            (Message::Draining(v1::Draining {}), true) => Event::Draining(id),
            (Message::Deregister(v1::Deregister {}), true) => Event::Deregister(id),
            (Message::Answer(answer), true) => {
                self.place.shared.questions.answered(id, answer);
                return Ok(());
            }
            // For people only: what a proxy subscribes to is seen on its ADS stream.
            (Message::Demand(v1::Demand { listeners }), true) => {
                tracing::debug!(stream = id.0, listeners = listeners.len(), "demand");
                return Ok(());
            }
        };
        let events = &self.place.shared.events;
        events.send(event).await.map_err(|_| Status::unavailable(CLOSED))
    }
}

impl Weighed for v1::WorkloadReply {
    fn bytes(&self) -> usize {
        size_of::<v1::WorkloadReply>() + self.encoded_len()
    }
}

/// The owner of the registry.
struct Task {
    store: Store,
    namespaces: Namespaces,
    registry: Registry,
    /// Each held here alone, but for the moment in which something is asked on it: its end ends the stream.
    replies: BTreeMap<StreamId, Arc<Outbox<v1::WorkloadReply>>>,
    /// Streams whose registration or end is not on disk yet.
    unanswered: Vec<(StreamId, Answer)>,
    shared: Arc<Shared>,
}

/// What a stream is told once its change is on disk.
#[derive(Clone, Copy, Debug)]
enum Answer {
    Welcome,
    Goodbye,
}

/// Whether the store has everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrote {
    All,
    TryAgain,
    StoreClosed,
}

impl Task {
    async fn run(mut self, mut events: mpsc::Receiver<Event>, mut drain: Drain) {
        self.restore();
        let shared = Arc::clone(&self.shared);
        loop {
            let now = Instant::now();
            self.registry.expire(now.into_std());
            let due = match self.write().await {
                // What came due while it was written is due at once.
                Wrote::All => self.registry.next_expiry(now.into_std()).map(Instant::from_std),
                Wrote::TryAgain => Some(Instant::now() + RETRY_AFTER),
                Wrote::StoreClosed => break,
            };
            // Each arm is cancel safe: receiving, following namespaces, taking ended streams and sleeping lose nothing.
            tokio::select! {
                () = drain.begun() => break,
                closed = self.namespaces.closed() => self.leave(&closed),
                event = events.recv() => match event {
                    Some(event) => self.on(event),
                    None => break,
                },
                ended = shared.ended.take() => {
                    // What a stream said before it ended is queued by now, and comes first: a workload that registers
                    // after the end of its stream would be confirmed for ever.
                    for _ in 0..events.len() {
                        if let Ok(event) = events.try_recv() {
                            self.on(event);
                        }
                    }
                    self.lost(ended);
                }
                () = sleep_until(due) => {}
            }
            // What came meanwhile goes into the same write.
            for _ in 0..TOGETHER_MAX {
                match events.try_recv() {
                    Ok(event) => self.on(event),
                    Err(_) => break,
                }
            }
        }
        for replies in self.replies.values() {
            replies.end(Status::unavailable(CLOSED));
        }
    }

    fn restore(&mut self) {
        let now = Instant::now().into_std();
        for stored in self.store.list(Kind::Workload, None).0 {
            let object = &stored.object;
            let (Some(name), Spec::Workload(spec)) = (name_of(object), &object.spec) else {
                continue;
            };
            let status = WorkloadStatus::of(object);
            let record = Record {
                registration: Registration {
                    spec: spec.clone(),
                    labels: object.metadata.labels.clone(),
                },
                ready: status.ready_app_ports,
                state: status.state,
            };
            self.registry.restore(name, record, now);
        }
    }

    fn on(&mut self, event: Event) {
        if let Event::Hello { name, replies, .. } = &event
            && let Err(why) = self.namespaces.check(&name.namespace.to_string())
        {
            tracing::warn!(workload = %name, why = why.message(), "workload refused");
            replies.end(why);
            return;
        }
        match event {
            Event::Hello {
                id,
                name,
                registration,
                abilities,
                replies,
            } => match self.registry.register(id, name.clone(), *registration) {
                Ok(replaced) => {
                    tracing::info!(workload = %name, "workload registered");
                    if let Some(replaced) = replaced.and_then(|replaced| self.replies.remove(&replaced)) {
                        replaced.end(Status::aborted("the workload registered anew on another stream"));
                    }
                    let replies = Arc::new(replies);
                    self.shared.questions.connected(name, id, abilities, &replies);
                    self.replies.insert(id, replies);
                    self.unanswered.push((id, Answer::Welcome));
                }
                Err(taken) => {
                    tracing::warn!(workload = %name, %taken, "workload refused");
                    replies.end(match taken {
                        Taken::Newer { .. } => Status::already_exists(taken.to_string()),
                        Taken::OtherAccount { .. } => Status::permission_denied(taken.to_string()),
                    });
                }
            },
            Event::Health { id, ready } => self.registry.health(id, &ready),
            Event::Draining(id) => self.registry.draining(id),
            Event::Deregister(id) => {
                self.registry.deregister(id);
                self.unanswered.push((id, Answer::Goodbye));
            }
        }
    }

    fn lost(&mut self, ended: Vec<StreamId>) {
        let now = Instant::now().into_std();
        for id in ended {
            self.replies.remove(&id);
            self.registry.lost(id, now);
        }
    }

    /// The workloads of these namespaces are gone; their proxies are told why.
    fn leave(&mut self, namespaces: &BTreeSet<String>) {
        for namespace in namespaces {
            let why = self.namespaces.check(namespace).err();
            let why = why.unwrap_or_else(|| Status::aborted("the namespace was deleted and created again"));
            for stream in self.registry.leave(namespace) {
                if let Some(replies) = self.replies.remove(&stream) {
                    replies.end(why.clone());
                }
            }
        }
    }

    /// Writes what changed, and then answers those whose change it was.
    async fn write(&mut self) -> Wrote {
        let changes = self.registry.take_changes();
        if !changes.is_empty() {
            let ops = changes
                .iter()
                .flat_map(|(name, record)| self.ops(name, record.as_ref()))
                .collect();
            if let Err(error) = self.store.write(ops).await {
                for (name, _) in changes {
                    self.registry.keep_change(name);
                }
                return match error {
                    WriteError::Closed => Wrote::StoreClosed,
                    WriteError::Exists { .. }
                    | WriteError::NotFound { .. }
                    | WriteError::Conflict { .. }
                    | WriteError::NotEmpty { .. }
                    | WriteError::Terminating { .. }
                    | WriteError::Storage(_) => {
                        tracing::error!(%error, "workloads are not written; trying again");
                        Wrote::TryAgain
                    }
                };
            }
        }
        for (id, answer) in std::mem::take(&mut self.unanswered) {
            match answer {
                Answer::Welcome => {
                    let version = env!("CARGO_PKG_VERSION").to_owned();
                    let welcome = v1::WorkloadReply {
                        reply: Some(Reply::Welcome(v1::Welcome { version })),
                    };
                    // A stream without room for it is ended by the attempt.
                    let _ = self.replies.get(&id).map(|replies| replies.push([welcome]));
                }
                Answer::Goodbye => {
                    self.replies.remove(&id);
                }
            }
        }
        Wrote::All
    }

    fn ops(&self, name: &WorkloadName, record: Option<&Record>) -> Vec<Op> {
        let key = Key {
            kind: Kind::Workload,
            namespace: name.namespace.to_string(),
            name: name.name.to_string(),
        };
        let held = self.store.get(&key);
        let precondition = Precondition::Any;
        let Some(record) = record else {
            return held.map(|_| Op::Delete { key, precondition }).into_iter().collect();
        };
        let mut object = Object::new(
            &key.namespace,
            &key.name,
            Spec::Workload(record.registration.spec.clone()),
        );
        object.metadata.labels = record.registration.labels.clone();
        let status = WorkloadStatus {
            state: record.state,
            ready_app_ports: record.ready.clone(),
        };
        let status = status.to_value();
        match held {
            None => {
                object.status = Some(status);
                vec![Op::Create(object)]
            }
            Some(_) => {
                let status = Op::Status {
                    key,
                    status,
                    precondition,
                };
                vec![Op::Replace { object, precondition }, status]
            }
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

const CLOSED: &str = "the control plane is shutting down";
/// Streams of one process, and of one namespace by TLS.
const STREAMS: Room = Room {
    all: 10_000,
    each: 2_500,
};
/// Messages that wait for the registry's task; senders wait for a place.
const EVENTS_QUEUED_MAX: usize = 1_024;
/// Messages of one write at most.
const TOGETHER_MAX: usize = 256;
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// The largest message there can be is an Answer, with its frame.
const MESSAGE_BYTES_MAX: usize = questions::ANSWER_BYTES_MAX as usize + (4 << 10);
/// One Welcome, and a few questions with their ends: a proxy that reads them keeps this nearly empty.
const REPLIES: Bounds = Bounds {
    items_max: 32,
    bytes_max: 256 << 10,
};

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;
    use weir_api::workload::State;
    use weir_xds::v1::workloads_server::Workloads as _;

    use super::*;
    use crate::door::caller::samples;
    use crate::drain;
    use crate::store::{Location, Revision};

    fn hello(name: &str) -> (WorkloadName, Box<Registration>) {
        let hello = v1::Hello {
            namespace: "citizen".to_owned(),
            workload: name.to_owned(),
            instance: 1,
            address: "127.0.0.1".to_owned(),
            ..v1::Hello::default()
        };
        let (name, registration) = hello::read(hello, &Caller::Local).expect("it is right");
        (name, Box::new(registration))
    }

    fn no_questions() -> Abilities {
        Abilities {
            takes: BTreeSet::new(),
            version: String::new(),
        }
    }

    #[tokio::test]
    async fn a_stream_that_was_lost_before_its_hello_was_looked_at_is_unconfirmed() {
        // Which of the two the task sees first is left to chance: several rounds see both.
        for _ in 0..20 {
            let (store, store_task) = Store::open(Location::Memory).expect("a store in memory");
            let citizen = Op::Create(crate::store::samples::namespace("citizen"));
            store.write(vec![citizen]).await.expect("written");
            let (drainer, drain) = drain::channel();
            let (workloads, task) = server(store.clone(), Duration::from_secs(60), drain);
            for number in 1..=16 {
                let (name, registration) = hello(&format!("w{number}"));
                let event = Event::Hello {
                    id: StreamId(number),
                    name,
                    registration,
                    abilities: no_questions(),
                    replies: outbox(REPLIES).0,
                };
                workloads.shared.events.send(event).await.expect("there is room");
                workloads.shared.ended.push(StreamId(number));
            }
            let mut watch = store.watch(store.revision()).expect("now");
            let task = tokio::spawn(task);
            let unconfirmed = |store: &Store| {
                let all = store.list(Kind::Workload, None).0;
                let states = all.iter().map(|stored| WorkloadStatus::of(&stored.object).state);
                states.filter(|state| *state == State::Unconfirmed).count()
            };
            let all = async {
                while unconfirmed(&store) < 16 {
                    watch.next().await.expect("the store is open");
                }
            };
            let patience = Duration::from_secs(20);
            tokio::time::timeout(patience, all)
                .await
                .expect("none is confirmed for ever");
            drainer.begin();
            task.await.expect("no panic");
            store_task.stop().await.expect("no panic");
        }
    }

    /// Of virtual time.
    const FOR_EVER: Duration = Duration::from_secs(24 * 60 * 60);

    #[tokio::test(start_paused = true)]
    async fn a_namespace_has_its_share_of_the_streams_and_one_that_says_nothing_ends() {
        let (store, store_task) = Store::open(Location::Memory).expect("a store in memory");
        let (Workloads { shared, .. }, task) = server(store, Duration::from_secs(60), drain::channel().1);
        let entry = Entry::Tls;
        let workloads = Workloads { shared, entry };
        let open = |namespace| workloads.register(samples::silent(namespace));
        let mut citizen = Vec::new();
        for _ in 0..STREAMS.each {
            citizen.push(open("citizen").await.expect("a place"));
        }
        let refused = open("citizen").await.err().expect("a share");
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert!(
            refused.message().contains("namespace citizen has 2500 open"),
            "{refused}"
        );
        let mut police = open("police").await.expect("the others have theirs").into_inner();
        let ended = tokio::time::timeout(FOR_EVER, police.next()).await.expect("in time");
        let ended = ended.expect("an end").expect_err("nothing was said");
        assert_eq!(ended.code(), tonic::Code::DeadlineExceeded);
        assert!(police.next().await.is_none());
        drop(citizen);
        open("citizen").await.expect("given back");
        drop((task, workloads, police));
        store_task.stop().await.expect("no panic");
    }

    /// Under virtual time: of three workloads one is lost, and leaves after the time-out without anything else
    /// happening; then both that are left are lost, and stay: a zone that is cut off is not deleted.
    #[tokio::test(start_paused = true)]
    async fn a_lost_workload_leaves_after_the_time_out_while_most_of_its_zone_is_here() {
        let (store, store_task) = Store::open(Location::Memory).expect("a store in memory");
        let citizen = Op::Create(crate::store::samples::namespace("citizen"));
        store.write(vec![citizen]).await.expect("written");
        let (drainer, drain) = drain::channel();
        let timeout = Duration::from_secs(60);
        let (workloads, task) = server(store.clone(), timeout, drain);
        let task = tokio::spawn(task);
        let shared = &workloads.shared;
        let mut outgoing = Vec::new();
        for (number, name) in (1..).zip(["a", "b", "c"]) {
            let (name, registration) = hello(name);
            let (replies, mut outbox) = outbox(REPLIES);
            let event = Event::Hello {
                id: StreamId(number),
                name,
                registration,
                abilities: no_questions(),
                replies,
            };
            shared.events.send(event).await.expect("the task runs");
            outbox.next().await.expect("open").expect("a welcome");
            outgoing.push(outbox);
        }
        let state = |name: &str| {
            let key = Key {
                kind: Kind::Workload,
                namespace: "citizen".to_owned(),
                name: name.to_owned(),
            };
            store.get(&key).map(|stored| WorkloadStatus::of(&stored.object).state)
        };
        let mut watch = store.watch(store.revision()).expect("now");
        shared.ended.push(StreamId(3));
        watch.next().await.expect("the store is open");
        assert_eq!(state("c"), Some(State::Unconfirmed));
        let lost = Instant::now();
        watch.next().await.expect("the store is open");
        assert_eq!(state("c"), None);
        assert!(
            lost.elapsed() >= timeout - Duration::from_secs(1),
            "after {:?}",
            lost.elapsed()
        );

        shared.ended.push(StreamId(1));
        shared.ended.push(StreamId(2));
        let unconfirmed = Some(State::Unconfirmed);
        while (state("a"), state("b")) != (unconfirmed, unconfirmed) {
            watch.next().await.expect("the store is open");
        }
        let seen: Revision = store.revision();
        tokio::time::sleep(timeout * 100).await;
        assert_eq!((state("a"), state("b")), (unconfirmed, unconfirmed));
        assert_eq!(store.revision(), seen);
        drainer.begin();
        task.await.expect("no panic");
        store_task.stop().await.expect("no panic");
    }
}
