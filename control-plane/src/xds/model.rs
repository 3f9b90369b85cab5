//! Everything the xDS server knows: the objects, the streams, and for each resource that somebody subscribed to what
//! it is now. No I/O and no tasks: its one owner feeds it, and sends what it returns.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use weir_api::workload::WorkloadSpec;
use weir_api::{Key, Object, Spec};
use weir_policy::names::{ServiceName, WorkloadName};
use weir_xds::ResourceType;
use weir_xds::envoy::Any;
use weir_xds::node::{ClientIdentity, Dialect};

use super::stirred::Stirred;
use super::stream::{
    Asked, Everything, Held, Moment, Nonce, Refusal, Standing, Subscription, Subscriptions, Variant, Wildcards,
    says_all,
};
use crate::compile::index::{Index, Part};
use crate::compile::outbound::{Scope, Table};
use crate::compile::wanted::{self, Computed, Services, Settled, Wanted};
use crate::compile::{self, Version};
use crate::store::{Change, Event, Revision, Stored};
use crate::workloads::registry::StreamId;

/// The objects, the streams and the resources between them.
#[derive(Debug, Default)]
pub(crate) struct Model {
    index: Index,
    seen: Revision,
    streams: BTreeMap<StreamId, Stream>,
    resources: HashMap<Wanted, Resource>,
    by_service: HashMap<ServiceName, BTreeSet<Wanted>>,
    /// Those that depend on every service.
    on_all: BTreeSet<Wanted>,
    /// How often a resource, or the routes of a service in one, was computed, for tests and people.
    computed: u64,
    stirred: Stirred,
}

/// One open stream.
#[derive(Debug)]
pub(crate) struct Stream {
    /// Who is there.
    pub(crate) client: ClientIdentity,
    /// From where.
    pub(crate) address: Option<SocketAddr>,
    /// Since when.
    pub(crate) since: SystemTime,
    /// What it asked for and confirmed.
    pub(crate) subscriptions: Subscriptions,
}

/// A resource that some stream subscribes to.
#[derive(Debug)]
pub(crate) struct Resource {
    now: Computed,
    /// Of [`Wanted::Outbound`]: what it is made from, kept so that a change costs what it touches.
    table: Option<Table>,
    /// The objects whose change led to this version: with a version that is not in force yet they are concerned too,
    /// also where they no longer have a part in it.
    causes: Vec<Key>,
    subscribers: BTreeSet<StreamId>,
    /// Streams that ask for every cluster which these routes name.
    followers: BTreeSet<StreamId>,
}

impl Resource {
    /// Whether an object has a part in what is there now, or in the change to it.
    pub(crate) fn concerns(&self, key: &Key) -> bool {
        self.concerned().any(|concerned| concerned == key)
    }

    /// The objects that it concerns.
    pub(super) fn concerned(&self) -> impl Iterator<Item = &Key> {
        self.sources().chain(&self.causes)
    }

    /// What it was made from.
    pub(crate) fn sources(&self) -> impl Iterator<Item = &Key> {
        self.now.sources.iter().map(|(key, _)| key)
    }

    /// What of its sources this kind of client can't be told: whose, and what.
    pub(crate) fn not_sent(&self) -> &[(Key, String)] {
        &self.now.not_sent
    }

    /// The same, of one object.
    pub(crate) fn not_sent_of(&self, key: &Key) -> impl Iterator<Item = &str> {
        let of_this = self.now.not_sent.iter().filter(move |(whose, _)| whose == key);
        of_this.map(|(_, what)| what.as_str())
    }

    fn held(&self) -> Held {
        held(&self.now)
    }
}

/// An answer to be sent on a stream.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Told {
    /// Of which type.
    pub(crate) of: ResourceType,
    /// Its number.
    pub(crate) nonce: Nonce,
    /// What it says.
    pub(crate) items: Vec<Item>,
}

/// One resource in an answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Item {
    /// Its name.
    pub(crate) name: String,
    /// `None`: it does not exist.
    pub(crate) resource: Option<(Any, Version)>,
}

/// What is to be said, by stream, each in the order in which it must be sent.
pub(crate) type Pushes = BTreeMap<StreamId, Vec<Told>>;

/// What may have to be said on one stream.
type Due = BTreeMap<ResourceType, BTreeSet<String>>;

/// What a change touches of a resource.
#[derive(Debug, Default)]
struct Touch {
    causes: Vec<Key>,
    services: BTreeSet<ServiceName>,
}

impl Model {
    /// Up to where the store's changes are taken in.
    pub(crate) fn seen(&self) -> Revision {
        self.seen
    }

    /// How often a resource, or the routes of a service in one, was computed.
    #[cfg(test)]
    pub(crate) fn computed(&self) -> u64 {
        self.computed
    }

    /// A client opens a stream. Of several with one workload's name the newest tells how the workload stands; the
    /// others are served on, so that two processes with one name can't throw each other out for ever.
    pub(crate) fn open(
        &mut self,
        id: StreamId,
        client: ClientIdentity,
        variant: Variant,
        address: Option<SocketAddr>,
        now: SystemTime,
    ) {
        let wildcards = match &client.dialect {
            Dialect::Weir | Dialect::Grpc => Wildcards::No,
            Dialect::Envoy(_) => Wildcards::Served,
        };
        let stream = Stream {
            client,
            address,
            since: now,
            subscriptions: Subscriptions::new(variant, wildcards),
        };
        // Those that told how the workload stands no longer do.
        self.stir_workload(&stream.client.workload);
        self.streams.insert(id, stream);
    }

    /// A request on a stream; returns what to answer.
    ///
    /// # Errors
    /// When the stream has to end.
    pub(crate) fn ask(
        &mut self,
        id: StreamId,
        of: ResourceType,
        asked: Asked,
        now: Instant,
    ) -> Result<Vec<Told>, Refusal> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(Vec::new());
        };
        let effect = stream.subscriptions.ask(of, asked)?;
        for name in &effect.judged {
            self.stir(id, of, name);
        }
        for name in &effect.let_go {
            let still_covered = self.subscription(id, of, name).is_some_and(Subscription::is_wanted);
            if !still_covered {
                self.unsubscribe(id, of, name);
            }
        }
        let mut due = Due::from([(of, BTreeSet::new())]);
        match effect.everything {
            Everything::AsBefore => {}
            Everything::Asked => self.cover(id, of, &mut due),
            Everything::LetGo => self.uncover(id, of),
        }
        for name in &effect.wanted {
            self.subscribe(id, of, name);
        }
        due.entry(of).or_default().extend(effect.wanted);
        Ok(self.say(id, due, now))
    }

    /// A stream is over.
    pub(crate) fn close(&mut self, id: StreamId) {
        let Some(stream) = self.streams.remove(&id) else {
            return;
        };
        for (of, name, _) in stream.subscriptions.iter() {
            if let Some(wanted) = Wanted::read(of, name, &stream.client) {
                self.release(id, &wanted);
            }
        }
        if let Some(scope) = scope(&stream.client) {
            self.unfollow(id, scope);
        }
        // Another one may tell from now on.
        self.stir_workload(&stream.client.workload);
    }

    /// Takes in changes of the store, in their order, and returns what that changes for whom.
    pub(crate) fn changed(&mut self, events: &[Arc<Event>], now: Instant) -> Pushes {
        let mut touched: BTreeMap<Wanted, Touch> = BTreeMap::new();
        for event in events {
            let object = match &event.change {
                Change::Added { after } | Change::Modified { after, .. } => Some(Arc::clone(&after.object)),
                Change::Deleted { .. } => None,
            };
            self.apply(&event.key, object, &mut touched);
            self.seen = self.seen.max(event.revision);
        }
        self.recompute(touched, now)
    }

    /// Takes in the whole store anew, at the start or after changes were missed.
    pub(crate) fn reset(&mut self, all: &[Arc<Stored>], revision: Revision, now: Instant) -> Pushes {
        let mut touched = BTreeMap::new();
        let kept: BTreeSet<Key> = all.iter().map(|stored| stored.object.key()).collect();
        let gone: Vec<Key> = self
            .index
            .objects()
            .keys()
            .filter(|key| !kept.contains(key))
            .cloned()
            .collect();
        for key in gone {
            self.apply(&key, None, &mut touched);
        }
        for stored in all {
            self.apply(&stored.object.key(), Some(Arc::clone(&stored.object)), &mut touched);
        }
        self.seen = revision;
        self.recompute(touched, now)
    }

    /// The newest stream of each workload that has one.
    pub(crate) fn newest_streams(&self) -> BTreeMap<&WorkloadName, (StreamId, &Stream)> {
        // In the order of ids, so that a newer one takes the place of an older.
        self.streams
            .iter()
            .map(|(id, stream)| (&stream.client.workload, (*id, stream)))
            .collect()
    }

    /// A stream.
    pub(crate) fn stream(&self, id: StreamId) -> Option<&Stream> {
        self.streams.get(&id)
    }

    /// The streams that subscribe to a resource.
    pub(crate) fn subscribers(&self, wanted: &Wanted) -> impl Iterator<Item = StreamId> {
        let resource = self.resources.get(wanted);
        resource
            .into_iter()
            .flat_map(|resource| resource.subscribers.iter().copied())
    }

    /// What this is now, if somebody subscribes to it.
    pub(crate) fn resource_of(&self, wanted: &Wanted) -> Option<&Resource> {
        self.resources.get(wanted)
    }

    /// What somebody subscribes to of a service.
    pub(crate) fn resources_of(&self, service: &ServiceName) -> impl Iterator<Item = (&Wanted, &Resource)> {
        let subscribed = self.by_service.get(service).into_iter().flatten();
        let subscribed = subscribed.chain(&self.on_all);
        subscribed.filter_map(|wanted| self.resources.get_key_value(wanted))
    }

    /// The objects that may stand otherwise than when they were last taken. Never more than there are, and what was
    /// deleted since.
    pub(crate) fn take_stirred(&mut self) -> BTreeSet<Key> {
        let resources = &self.resources;
        self.stirred.take(|wanted| resources.get(wanted))
    }

    /// Whether there is something to take.
    pub(crate) fn has_stirred(&self) -> bool {
        !self.stirred.is_empty()
    }

    /// Every workload of the mesh.
    pub(crate) fn workloads(&self) -> impl Iterator<Item = (WorkloadName, &WorkloadSpec)> {
        self.index.objects().values().filter_map(|object| match &object.spec {
            Spec::Workload(spec) => compile::index::name_of(object).map(|name| (name, spec)),
            _ => None,
        })
    }

    /// What a stream's subscription is for; `None`: for something that can't exist.
    pub(crate) fn resource(&self, stream: &Stream, of: ResourceType, name: &str) -> Option<&Resource> {
        let wanted = Wanted::read(of, name, &stream.client)?;
        self.resources.get(&wanted)
    }

    fn subscription(&self, id: StreamId, of: ResourceType, name: &str) -> Option<&Subscription> {
        self.streams.get(&id)?.subscriptions.subscription(of, name)
    }

    fn apply(&mut self, key: &Key, object: Option<Arc<Object>>, touched: &mut BTreeMap<Wanted, Touch>) {
        for (service, part) in self.index.apply(key, object) {
            for wanted in self.dependents(&service, part) {
                let touch = touched.entry(wanted).or_default();
                touch.services.insert(service.clone());
                if !touch.causes.contains(key) {
                    touch.causes.push(key.clone());
                }
            }
        }
    }

    fn dependents(&self, service: &ServiceName, part: Part) -> Vec<Wanted> {
        let of_this = self.by_service.get(service).into_iter().flatten();
        let all = of_this.chain(&self.on_all);
        all.filter(|wanted| wanted.depends_on(part)).cloned().collect()
    }

    fn recompute(&mut self, touched: BTreeMap<Wanted, Touch>, now: Instant) -> Pushes {
        let mut due: BTreeMap<StreamId, Due> = BTreeMap::new();
        for (wanted, touch) in touched {
            let Some(resource) = self.resources.get_mut(&wanted) else {
                continue;
            };
            // Also who has no part in it any more stands otherwise.
            self.stirred.objects(resource);
            let before = resource.held();
            match &mut resource.table {
                Some(table) => {
                    let computed = table.computed_services();
                    table.update(&touch.services, &self.index);
                    self.computed += table.computed_services() - computed;
                    resource.now = table.computed(&self.index);
                }
                None => {
                    self.computed += 1;
                    resource.now = wanted::computed(&wanted, &self.index);
                }
            }
            self.stirred.resource(&wanted, resource);
            if resource.held() == before {
                continue;
            }
            let (of, name) = wanted.subscription();
            let behind = |id: &StreamId| {
                let stream = self.streams.get(id);
                let subscription = stream.and_then(|stream| stream.subscriptions.subscription(of, &name));
                subscription.is_some_and(|subscription| subscription.standing() != Standing::InForce)
            };
            // A change that is not in force everywhere yet stays a cause beside the new one.
            if resource.causes.len() >= CAUSES_MAX || !resource.subscribers.iter().any(behind) {
                resource.causes.clear();
            }
            resource.causes.extend(touch.causes);
            self.stirred.resource(&wanted, resource);
            for id in &resource.subscribers {
                due.entry(*id).or_default().entry(of).or_default().insert(name.clone());
            }
            for follower in resource.followers.clone() {
                self.cover_clusters(follower, due.entry(follower).or_default());
            }
        }
        let mut pushes = Pushes::new();
        for (id, due) in due {
            let told = self.say(id, due, now);
            if !told.is_empty() {
                pushes.insert(id, told);
            }
        }
        pushes
    }

    fn stir(&mut self, id: StreamId, of: ResourceType, name: &str) {
        let client = self.streams.get(&id).map(|stream| &stream.client);
        let wanted = client.and_then(|client| Wanted::read(of, name, client));
        if let Some((wanted, resource)) = wanted.and_then(|wanted| self.resources.get_key_value(&wanted)) {
            self.stirred.resource(wanted, resource);
        }
    }

    /// All that the streams of a workload subscribe to.
    fn stir_workload(&mut self, workload: &WorkloadName) {
        let streams = self
            .streams
            .values()
            .filter(|stream| stream.client.workload == *workload);
        let subscribed = streams.flat_map(|stream| {
            let all = stream.subscriptions.iter();
            all.map(|(of, name, _)| (&stream.client, of, name))
        });
        for (client, of, name) in subscribed {
            let wanted = Wanted::read(of, name, client);
            let held = wanted.and_then(|wanted| self.resources.get_key_value(&wanted));
            if let Some((wanted, resource)) = held {
                self.stirred.resource(wanted, resource);
            }
        }
    }

    /// Answers what is due on a stream. Make before break ("Eventual consistency considerations"): clusters, their
    /// endpoints, listeners, routes; what goes away goes last, and not before what may refer to it: a service that is
    /// deleted does not exist from one moment to the next.
    fn say(&mut self, id: StreamId, mut due: Due, now: Instant) -> Vec<Told> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Vec::new();
        };
        let at = Moment {
            time: now,
            revision: self.seen,
        };
        let mut saying = Saying {
            stream,
            resources: &self.resources,
            at,
            told: Vec::new(),
        };
        for of in ResourceType::ALL {
            let Some(names) = due.get(&of).cloned() else {
                continue;
            };
            let held = saying.held(of, &names);
            let exist = held.iter().filter(|(_, held)| *held != Held::Absent);
            let changed: Vec<(&str, Held)> = exist.copied().collect();
            let again = saying.warm(of, &changed);
            saying.say(of, &changed);
            if !again.is_empty() {
                due.entry(ResourceType::Endpoints).or_default().extend(again);
            }
        }
        let mut left = Vec::new();
        for of in [
            ResourceType::Listener,
            ResourceType::Route,
            ResourceType::Cluster,
            ResourceType::Endpoints,
        ] {
            let Some(names) = due.get(&of) else {
                continue;
            };
            let held = saying.held(of, names);
            let gone: Vec<(&str, Held)> = held.into_iter().filter(|(_, held)| *held == Held::Absent).collect();
            saying.say(of, &gone);
            left.extend(gone.iter().map(|(name, _)| (of, (*name).to_owned())));
        }
        let told = saying.told;
        for (of, name) in left {
            if !self.subscription(id, of, &name).is_some_and(Subscription::is_wanted) {
                self.unsubscribe(id, of, &name);
            }
        }
        told
    }

    /// An Envoy asks for everything of a type: what there is for it, and all of it is to be answered.
    fn cover(&mut self, id: StreamId, of: ResourceType, due: &mut Due) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if of == ResourceType::Cluster {
            if let Some(scope) = scope(&stream.client) {
                self.follow(id, scope);
            }
            self.cover_clusters(id, due);
        } else if let Dialect::Envoy(node) = &stream.client.dialect {
            let names = Settled::of(node, of).iter().map(Settled::name).collect();
            stream.subscriptions.cover(of, &names);
            for name in &names {
                self.subscribe(id, of, name);
            }
            due.entry(of).or_default().extend(names);
        }
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        for name in due.get(&of).into_iter().flatten() {
            stream.subscriptions.owe(of, name);
        }
    }

    /// Every cluster that the routes of an Envoy name, and its app ports.
    fn cover_clusters(&mut self, id: StreamId, due: &mut Due) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let Dialect::Envoy(node) = &stream.client.dialect else {
            return;
        };
        let of = ResourceType::Cluster;
        let own = Settled::of(node, of);
        let mut names: BTreeSet<String> = own.iter().map(Settled::name).collect();
        let routes = scope(&stream.client).and_then(|scope| self.resources.get(&Wanted::Outbound(scope)));
        if let Some(table) = routes.and_then(|routes| routes.table.as_ref()) {
            names.extend(table.clusters().into_iter().map(ToString::to_string));
        }
        let covered = stream.subscriptions.cover(of, &names);
        for name in &covered.added {
            self.subscribe(id, of, name);
        }
        let due = due.entry(of).or_default();
        due.extend(covered.added);
        due.extend(covered.left);
    }

    /// An Envoy asks for everything of a type no longer.
    fn uncover(&mut self, id: StreamId, of: ResourceType) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let scope = scope(&stream.client).filter(|_| of == ResourceType::Cluster);
        let left = stream.subscriptions.cover(of, &BTreeSet::new()).left;
        for name in &left {
            stream.subscriptions.forget(of, name);
        }
        for name in left {
            self.unsubscribe(id, of, &name);
        }
        if let Some(scope) = scope {
            self.unfollow(id, scope);
        }
    }

    fn follow(&mut self, id: StreamId, scope: Scope) {
        self.held(Wanted::Outbound(scope)).followers.insert(id);
    }

    fn unfollow(&mut self, id: StreamId, scope: Scope) {
        let wanted = Wanted::Outbound(scope);
        if let Some(resource) = self.resources.get_mut(&wanted) {
            resource.followers.remove(&id);
        }
        self.drop_unused(&wanted);
    }

    fn subscribe(&mut self, id: StreamId, of: ResourceType, name: &str) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        if let Some(wanted) = Wanted::read(of, name, &stream.client) {
            self.held(wanted).subscribers.insert(id);
            self.stir(id, of, name);
        }
    }

    fn unsubscribe(&mut self, id: StreamId, of: ResourceType, name: &str) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        if let Some(wanted) = Wanted::read(of, name, &stream.client) {
            self.release(id, &wanted);
        }
    }

    fn release(&mut self, id: StreamId, wanted: &Wanted) {
        if let Some(resource) = self.resources.get_mut(wanted) {
            resource.subscribers.remove(&id);
            self.stirred.resource(wanted, resource);
        }
        self.drop_unused(wanted);
    }

    /// The resource, computed if nobody asked for it yet.
    fn held(&mut self, wanted: Wanted) -> &mut Resource {
        if !self.resources.contains_key(&wanted) {
            for set in self.dependencies(&wanted) {
                set.insert(wanted.clone());
            }
        }
        self.resources.entry(wanted).or_insert_with_key(|wanted| {
            let table = match wanted {
                Wanted::Outbound(scope) => Some(Table::new(scope.clone(), &self.index)),
                _ => None,
            };
            self.computed += table.as_ref().map_or(1, Table::computed_services);
            let now = match &table {
                Some(table) => table.computed(&self.index),
                None => wanted::computed(wanted, &self.index),
            };
            Resource {
                now,
                table,
                causes: Vec::new(),
                subscribers: BTreeSet::new(),
                followers: BTreeSet::new(),
            }
        })
    }

    fn drop_unused(&mut self, wanted: &Wanted) {
        let unused = |resource: &Resource| resource.subscribers.is_empty() && resource.followers.is_empty();
        let Some(resource) = self.resources.get(wanted).filter(|resource| unused(resource)) else {
            return;
        };
        self.stirred.objects(resource);
        self.resources.remove(wanted);
        for set in self.dependencies(wanted) {
            set.remove(wanted);
        }
        match wanted.services() {
            Services::One(service) => self.drop_empty(service),
            Services::Some(services) => services.iter().for_each(|service| self.drop_empty(service)),
            Services::All | Services::None => {}
        }
    }

    fn drop_empty(&mut self, service: &ServiceName) {
        if self.by_service.get(service).is_some_and(BTreeSet::is_empty) {
            self.by_service.remove(service);
        }
    }

    /// Where a resource is noted so that changes of its services find it.
    fn dependencies(&mut self, wanted: &Wanted) -> Vec<&mut BTreeSet<Wanted>> {
        match wanted.services() {
            Services::One(service) => vec![self.by_service.entry(service.clone()).or_default()],
            Services::Some(services) => {
                for service in services {
                    self.by_service.entry(service.clone()).or_default();
                }
                let sets = self.by_service.iter_mut();
                sets.filter(|(service, _)| services.contains(*service))
                    .map(|(_, set)| set)
                    .collect()
            }
            Services::All => vec![&mut self.on_all],
            Services::None => Vec::new(),
        }
    }
}

/// What is being said on one stream.
struct Saying<'a> {
    stream: &'a mut Stream,
    resources: &'a HashMap<Wanted, Resource>,
    at: Moment,
    told: Vec<Told>,
}

impl Saying<'_> {
    fn computed(&self, of: ResourceType, name: &str) -> Option<&Computed> {
        let wanted = Wanted::read(of, name, &self.stream.client)?;
        self.resources.get(&wanted).map(|resource| &resource.now)
    }

    /// What is to be said of these now. What the client no longer asks for is gone for it.
    fn held<'n>(&self, of: ResourceType, names: &'n BTreeSet<String>) -> Vec<(&'n str, Held)> {
        let held = |name: &str| {
            let subscription = self.stream.subscriptions.subscription(of, name);
            match subscription.is_some_and(Subscription::is_wanted) {
                true => self.computed(of, name).map_or(Held::Absent, held),
                false => Held::Absent,
            }
        };
        names.iter().map(|name| (name.as_str(), held(name))).collect()
    }

    /// "Resource warming": Envoy holds a changed cluster back until its endpoints come again. Returns whose.
    fn warm(&mut self, of: ResourceType, changed: &[(&str, Held)]) -> Vec<String> {
        if of != ResourceType::Cluster || !matches!(self.stream.client.dialect, Dialect::Envoy(_)) {
            return Vec::new();
        }
        let subscriptions = &mut self.stream.subscriptions;
        let names = changed.iter().map(|(name, _)| *name);
        names
            .filter(|name| subscriptions.owe(ResourceType::Endpoints, name))
            .map(str::to_owned)
            .collect()
    }

    fn say(&mut self, of: ResourceType, now: &[(&str, Held)]) {
        // A weir proxy has each resource in an answer of its own, so that its ACK or NACK speaks for that one alone.
        match self.stream.client.dialect {
            Dialect::Weir => now.iter().for_each(|one| self.answer(of, std::slice::from_ref(one))),
            Dialect::Grpc | Dialect::Envoy(_) => self.answer(of, now),
        }
    }

    fn answer(&mut self, of: ResourceType, now: &[(&str, Held)]) {
        let Some(answer) = self.stream.subscriptions.tell(of, now, self.at) else {
            return;
        };
        let variant = self.stream.subscriptions.variant();
        let names: BTreeSet<String> = if says_all(variant, of) {
            let subscribed = self.stream.subscriptions.iter();
            let subscribed = subscribed.filter(|(type_of, _, held)| *type_of == of && held.is_there());
            subscribed.map(|(_, name, _)| name.to_owned()).collect()
        } else {
            answer.names
        };
        let absent: BTreeSet<&str> = now
            .iter()
            .filter_map(|(name, held)| (*held == Held::Absent).then_some(*name))
            .collect();
        let items = names.into_iter().map(|name| {
            let resource = self.computed(of, &name).filter(|_| !absent.contains(name.as_str()));
            let resource = resource.and_then(|computed| computed.message.clone());
            Item { name, resource }
        });
        self.told.push(Told {
            of,
            nonce: answer.nonce,
            items: items.collect(),
        });
    }
}

fn held(computed: &Computed) -> Held {
    computed
        .message
        .as_ref()
        .map_or(Held::Absent, |(_, version)| Held::Version(*version))
}

/// Whose routes an Envoy has.
fn scope(client: &ClientIdentity) -> Option<Scope> {
    match &client.dialect {
        Dialect::Envoy(node) => Some(Scope::of(node, &client.workload.namespace)),
        Dialect::Weir | Dialect::Grpc => None,
    }
}

/// Of one resource, while a subscriber is behind; beyond that the newest change counts alone.
const CAUSES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use proptest::prelude::*;
    use weir_api::RefKind;
    use weir_api::backend_policy::{BackendPolicySpec, CircuitBreaker, TargetRef};
    use weir_policy::model::Locality;

    use super::super::stream::Names;
    use super::*;
    use crate::compile::fixture;
    use crate::proxies::{self, Attachment};

    /// A model with its own little store.
    struct World {
        model: Model,
        revision: u64,
        held: BTreeMap<Key, Arc<Stored>>,
        now: Instant,
    }

    impl World {
        fn new(objects: impl IntoIterator<Item = Object>) -> World {
            let mut world = World {
                model: Model::default(),
                revision: 0,
                held: BTreeMap::new(),
                now: Instant::now(),
            };
            for object in objects {
                world.put(object);
            }
            world
        }

        fn event(&mut self, key: Key, object: Option<Object>) -> Arc<Event> {
            self.revision += 1;
            let revision = Revision(self.revision);
            let after = object.map(|object| {
                Arc::new(Stored {
                    object: Arc::new(object),
                    revision,
                })
            });
            let before = match &after {
                Some(after) => self.held.insert(key.clone(), Arc::clone(after)),
                None => self.held.remove(&key),
            };
            let change = match (before, after) {
                (None, Some(after)) => Change::Added { after },
                (Some(before), Some(after)) => Change::Modified { before, after },
                (Some(before), None) => Change::Deleted { before },
                (None, None) => panic!("{key} is not held"),
            };
            Arc::new(Event { key, change, revision })
        }

        fn put(&mut self, object: Object) -> Vec<String> {
            let event = self.event(object.key(), Some(object));
            shown(&self.model.changed(&[event], self.now))
        }

        fn delete(&mut self, object: &Object) -> Vec<String> {
            let event = self.event(object.key(), None);
            shown(&self.model.changed(&[event], self.now))
        }

        fn open(&mut self, id: u64, workload: &str) {
            let client = ClientIdentity {
                workload: workload.parse().expect("a workload"),
                locality: Locality::default(),
                version: "0.1.0".to_owned(),
                dialect: Dialect::Weir,
            };
            self.open_as(id, client, Variant::Delta);
        }

        fn open_as(&mut self, id: u64, client: ClientIdentity, variant: Variant) {
            self.model
                .open(StreamId(id), client, variant, None, SystemTime::UNIX_EPOCH);
        }

        fn ask(&mut self, id: u64, of: ResourceType, asked: Asked) -> Vec<String> {
            let told = self.model.ask(StreamId(id), of, asked, self.now).expect("few names");
            shown(&BTreeMap::from([(StreamId(id), told)]))
        }

        fn subscribe(&mut self, id: u64, of: ResourceType, names: &[&str]) -> Vec<String> {
            self.ask(id, of, delta(names, &[]))
        }

        fn answer(&mut self, id: u64, of: ResourceType, nonce: u64, error: Option<&str>) {
            let asked = Asked {
                response_nonce: nonce.to_string(),
                error: error.map(str::to_owned),
                ..Asked::default()
            };
            assert!(self.ask(id, of, asked).is_empty());
        }

        /// `state in-force/pending/rejected` of an object.
        fn view(&self, key: &Key) -> String {
            let stored = &self.held[key];
            let view = proxies::of_object(&self.model, key, stored.object.metadata.generation, stored.revision);
            let lists = [view.in_force.len(), view.pending.len(), view.rejected.len()];
            assert_eq!(lists.iter().sum::<usize>() as u64, view.subscribers);
            format!("{:?} {lists:?}", view.state)
        }
    }

    /// `stream nonce [-]type name`, in the order of sending.
    fn shown(pushes: &Pushes) -> Vec<String> {
        let told = pushes
            .iter()
            .flat_map(|(id, told)| told.iter().map(move |told| (id, told)));
        let lines = told.map(|(id, told)| {
            let [item] = told.items.as_slice() else {
                panic!("one resource in an answer: {told:?}");
            };
            let gone = if item.resource.is_none() { "-" } else { "" };
            format!("{} {} {gone}{} {}", id.0, told.nonce, told.of, item.name)
        });
        lines.collect()
    }

    fn delta(subscribe: &[&str], unsubscribe: &[&str]) -> Asked {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Asked {
            names: Names::Delta {
                subscribe: owned(subscribe),
                unsubscribe: owned(unsubscribe),
                initial_versions: BTreeMap::new(),
            },
            ..Asked::default()
        }
    }

    fn portal() -> Object {
        fixture::service("citizen", "portal", &[("http", 80)])
    }

    const LISTENER: &str = "portal.citizen.svc.cluster.local";
    const CLUSTER: &str = "portal.citizen:80";
    const ROUTE: &str = "portal.citizen:80/*";

    fn all_of_portal(world: &mut World, id: u64) {
        world.subscribe(id, ResourceType::Listener, &[LISTENER]);
        world.subscribe(id, ResourceType::Route, &[ROUTE]);
        world.subscribe(id, ResourceType::Cluster, &[CLUSTER]);
        world.subscribe(id, ResourceType::Endpoints, &[CLUSTER]);
    }

    #[test]
    fn of_five_thousand_services_only_the_three_asked_for_are_computed() {
        let services = (0..5_000).map(|n| fixture::service("citizen", &format!("s{n}"), &[("", 80)]));
        let mut world = World::new(services);
        assert_eq!(world.model.computed(), 0);
        world.open(1, "citizen/a");
        world.open(2, "citizen/b");
        let names = ["s1.citizen:80", "s2.citizen:80", "s3.citizen:80"];
        for id in [1, 2] {
            assert_eq!(world.subscribe(id, ResourceType::Cluster, &names).len(), 3);
        }
        assert_eq!(world.model.computed(), 3, "once for both");
        world.put(fixture::slice("citizen", "s4", "", 1, &[]));
        world.put(fixture::slice("citizen", "s1", "", 1, &[]));
        assert_eq!(world.model.computed(), 3, "no cluster depends on endpoints");
        world.put(fixture::service("citizen", "s1", &[("", 81)]));
        assert_eq!(world.model.computed(), 4);
        assert_eq!(world.model.resources.len(), 3);
        world.model.close(StreamId(1));
        world.model.close(StreamId(2));
        assert!(world.model.resources.is_empty() && world.model.by_service.is_empty());
    }

    #[test]
    fn a_push_makes_before_it_breaks() {
        let mut world = World::new([]);
        world.open(1, "citizen/a");
        all_of_portal(&mut world, 1);
        let made = ["1 5 cluster portal.citizen:80", "1 8 endpoints portal.citizen:80"];
        let pushed = world.put(portal());
        assert_eq!(pushed.len(), 4);
        let kinds: Vec<&str> = pushed.iter().filter_map(|line| line.split(' ').nth(2)).collect();
        assert_eq!(
            kinds,
            ["cluster", "endpoints", "listener", "route"],
            "{made:?} {pushed:?}"
        );
        let mixed = world.put(fixture::service("citizen", "portal", &[("http", 81)]));
        let kinds: Vec<&str> = mixed.iter().filter_map(|line| line.split(' ').nth(2)).collect();
        assert_eq!(
            kinds,
            ["listener", "-route", "-cluster", "-endpoints"],
            "what is gone goes last: {mixed:?}"
        );
        let gone = world.delete(&portal());
        assert_eq!(gone, [format!("1 13 -listener {LISTENER}")], "the rest is gone already");
    }

    #[test]
    fn only_what_differs_is_pushed_and_only_to_who_asked() {
        let mut world = World::new([portal()]);
        world.open(1, "citizen/a");
        world.open(2, "citizen/b");
        all_of_portal(&mut world, 1);
        world.subscribe(2, ResourceType::Cluster, &[CLUSTER]);
        assert!(world.put(portal()).is_empty(), "nothing differs");
        let pushed = world.put(fixture::slice(
            "citizen",
            "portal",
            "http",
            15006,
            &[("10.0.0.1", None)],
        ));
        assert_eq!(pushed, ["1 5 endpoints portal.citizen:80"]);
        world.model.close(StreamId(1));
        let pushed = world.delete(&portal());
        assert_eq!(pushed, ["2 2 -cluster portal.citizen:80"]);
    }

    #[test]
    fn a_listener_differs_by_the_clients_namespace() {
        let mut world = World::new([portal()]);
        world.open(1, "citizen/a");
        world.open(2, "police/b");
        for id in [1, 2] {
            world.subscribe(id, ResourceType::Listener, &[LISTENER]);
        }
        let route = fixture::route("police", "own", "citizen", "portal");
        let pushed = world.put(route.clone());
        assert_eq!(pushed, [format!("2 2 listener {LISTENER}")]);
        assert_eq!(world.view(&route.key()), "Progressing [0, 1, 0]");
        world.answer(2, ResourceType::Listener, 2, None);
        assert_eq!(world.view(&route.key()), "InForce [1, 0, 0]");
    }

    #[test]
    fn an_object_is_in_force_when_every_subscriber_has_confirmed_it() {
        let mut world = World::new([portal()]);
        let mut route = fixture::route("citizen", "r", "citizen", "portal");
        world.put(route.clone());
        assert_eq!(world.view(&route.key()), "NoSubscribers [0, 0, 0]");
        for id in [1, 2] {
            world.open(id, &format!("citizen/w{id}"));
            all_of_portal(&mut world, id);
        }
        assert_eq!(world.view(&route.key()), "Progressing [0, 2, 0]");
        world.answer(1, ResourceType::Route, 2, None);
        assert_eq!(world.view(&route.key()), "Progressing [1, 1, 0]");
        world.answer(2, ResourceType::Route, 2, Some("no such thing"));
        assert_eq!(world.view(&route.key()), "Rejected [1, 0, 1]");
        let list = proxies::list(&world.model, world.now);
        assert_eq!(list.items[1].rejected[0].reason, "no such thing");
        assert_eq!(
            list.items[1].rejected[0].sources,
            ["Service/citizen/portal", "HTTPRoute/citizen/r"]
        );
        assert_eq!(list.items[0].in_force, 1);

        fixture::spec_of(&mut route).rules[0].backend_refs[0].port = NonZeroU16::new(81).expect("not zero");
        assert_eq!(world.put(route.clone()).len(), 2);
        assert_eq!(world.view(&route.key()), "Progressing [0, 2, 0]");
        for id in [1, 2] {
            world.answer(id, ResourceType::Route, 5, None);
        }
        assert_eq!(world.view(&route.key()), "InForce [2, 0, 0]");
        // Moved to another service: who still has it in force is concerned until it confirmed that it is gone.
        if let Spec::HttpRoute(spec) = &mut route.spec {
            spec.parent_refs[0].name = "other".to_owned();
        }
        world.put(route.clone());
        assert_eq!(world.view(&route.key()), "Progressing [0, 2, 0]");
        for id in [1, 2] {
            world.answer(id, ResourceType::Route, 6, None);
        }
        assert_eq!(world.view(&route.key()), "InForce [2, 0, 0]");
    }

    /// What a status is made from and the view say the same, by numbers and names.
    #[test]
    fn a_summary_says_what_the_view_says() {
        let route = fixture::route("citizen", "r", "citizen", "portal");
        let mut world = World::new([portal(), route.clone()]);
        let key = route.key();
        let attachment = |service: &str, port: u16| Attachment {
            service: fixture::service_named(service),
            port: NonZeroU16::new(port),
        };
        let agree = |world: &World| {
            let stored = &world.held[&key];
            let view = proxies::of_object(&world.model, &key, 1, stored.revision);
            let of = [(key.clone(), vec![[attachment("portal.citizen", 0)].into()])];
            let summary = proxies::summaries(&world.model, &of).of.remove(0).remove(0);
            assert_eq!(summary.in_force, view.in_force.len());
            assert_eq!(
                (summary.pending, summary.rejected),
                (view.pending.len(), view.rejected.len())
            );
            let first = |count: usize| count.min(proxies::NAMED_MAX);
            assert_eq!(summary.first_pending, view.pending[..first(view.pending.len())]);
            assert_eq!(summary.first_rejected, view.rejected[..first(view.rejected.len())]);
        };
        agree(&world);
        for id in 1..=9 {
            world.open(id, &format!("citizen/w{id}"));
            all_of_portal(&mut world, id);
            agree(&world);
        }
        for id in 1..=8 {
            world.answer(id, ResourceType::Route, 2, (id > 4).then_some("no such thing"));
            agree(&world);
        }
        // Of two streams of one workload the newer tells.
        world.open(10, "citizen/w1");
        agree(&world);
        world.subscribe(10, ResourceType::Route, &[ROUTE]);
        agree(&world);
        world.model.close(StreamId(10));
        agree(&world);
        for (service, port, concerned) in [
            ("portal.citizen", 80, 9),
            ("portal.citizen", 81, 0),
            ("x.citizen", 0, 0),
        ] {
            let of = [(key.clone(), vec![[attachment(service, port)].into()])];
            let summary = proxies::summaries(&world.model, &of).of.remove(0).remove(0);
            assert_eq!(
                summary.in_force + summary.pending + summary.rejected,
                concerned,
                "{service}:{port}"
            );
        }
    }

    #[test]
    fn what_may_stand_otherwise_is_told_once() {
        let route = fixture::route("citizen", "r", "citizen", "portal");
        let mut world = World::new([portal(), route.clone()]);
        let stirred = |world: &mut World| {
            assert_eq!(world.model.has_stirred(), !world.model.stirred.is_empty());
            let keys: Vec<String> = world.model.take_stirred().iter().map(Key::to_string).collect();
            assert!(!world.model.has_stirred());
            keys
        };
        let r = ["HTTPRoute/citizen/r"];
        assert_eq!(stirred(&mut world), [""; 0], "nobody is concerned");
        world.open(1, "citizen/a");
        world.subscribe(1, ResourceType::Cluster, &[CLUSTER]);
        assert_eq!(stirred(&mut world), [""; 0], "the route has no part in the cluster");
        world.subscribe(1, ResourceType::Route, &[ROUTE]);
        assert_eq!(stirred(&mut world), r);
        world.answer(1, ResourceType::Cluster, 1, None);
        assert_eq!(stirred(&mut world), [""; 0]);
        world.answer(1, ResourceType::Route, 2, None);
        assert_eq!(stirred(&mut world), r);
        // A newer stream tells, then the older one again.
        world.open(2, "citizen/a");
        assert_eq!(stirred(&mut world), r);
        world.model.close(StreamId(2));
        assert_eq!(stirred(&mut world), r);
        let mut newer = fixture::route("citizen", "s", "citizen", "portal");
        world.put(newer.clone());
        assert_eq!(stirred(&mut world), ["HTTPRoute/citizen/r", "HTTPRoute/citizen/s"]);
        // It goes to another service: it had a part until now.
        fixture::spec_of(&mut newer).parent_refs[0].name = "other".to_owned();
        world.put(newer);
        assert_eq!(stirred(&mut world), ["HTTPRoute/citizen/r", "HTTPRoute/citizen/s"]);
        world.model.close(StreamId(1));
        assert_eq!(stirred(&mut world), ["HTTPRoute/citizen/r", "HTTPRoute/citizen/s"]);
    }

    #[test]
    fn a_status_computes_and_sends_nothing() {
        let mut route = fixture::route("citizen", "r", "citizen", "portal");
        let mut world = World::new([portal(), route.clone()]);
        world.open(1, "citizen/a");
        all_of_portal(&mut world, 1);
        let (computed, seen) = (world.model.computed(), world.model.seen());
        world.model.take_stirred();
        route.status = Some(serde_json::json!({"parents": []}));
        assert!(world.put(route.clone()).is_empty());
        assert_eq!(world.model.computed(), computed);
        assert!(!world.model.has_stirred());
        assert!(world.model.seen() > seen, "it is seen, though");
        fixture::spec_of(&mut route).rules.clear();
        world.put(route);
        assert!(world.model.computed() > computed);
    }

    #[test]
    fn what_is_not_taken_in_yet_is_in_force_nowhere() {
        let mut world = World::new([portal()]);
        world.open(1, "citizen/a");
        world.subscribe(1, ResourceType::Cluster, &[CLUSTER]);
        world.answer(1, ResourceType::Cluster, 1, None);
        assert_eq!(world.view(&portal().key()), "InForce [1, 0, 0]");
        let event = world.event(portal().key(), Some(portal()));
        assert_eq!(world.view(&portal().key()), "Progressing [0, 1, 0]");
        world.model.changed(&[event], world.now);
        assert_eq!(world.view(&portal().key()), "InForce [1, 0, 0]");
        let other = fixture::service("citizen", "other", &[("", 80)]);
        world.event(other.key(), Some(other.clone()));
        assert_eq!(
            world.view(&other.key()),
            "Progressing [0, 0, 0]",
            "somebody may turn out to be concerned"
        );
    }

    #[test]
    fn the_newer_stream_of_a_workload_tells_how_it_stands() {
        let mut world = World::new([portal()]);
        world.open(1, "citizen/a");
        world.open(2, "citizen/a");
        for id in [1, 2] {
            world.subscribe(id, ResourceType::Cluster, &[CLUSTER]);
        }
        world.answer(2, ResourceType::Cluster, 1, None);
        assert_eq!(world.view(&portal().key()), "InForce [1, 0, 0]");
        world.model.close(StreamId(2));
        assert_eq!(
            world.view(&portal().key()),
            "Progressing [0, 1, 0]",
            "the older one still runs"
        );
        world.model.close(StreamId(1));
        let connected = |world: &World| {
            let items = proxies::list(&world.model, world.now).items;
            items.iter().map(|proxy| proxy.connected).collect::<Vec<_>>()
        };
        assert!(connected(&world).is_empty(), "nobody knows of it any more");
        let workload = fixture::workload("citizen", "a", "10.0.0.1", &[]);
        world.put(workload.clone());
        assert_eq!(connected(&world), [false]);
        world.open(3, "citizen/a");
        assert_eq!(connected(&world), [true]);
    }

    #[test]
    fn after_missed_changes_the_whole_store_is_taken_in() {
        let mut world = World::new([portal(), fixture::route("citizen", "r", "citizen", "portal")]);
        world.open(1, "citizen/a");
        all_of_portal(&mut world, 1);
        let later = fixture::service("citizen", "portal", &[("http", 80), ("grpc", 81)]);
        let stored = Arc::new(Stored {
            object: Arc::new(later),
            revision: Revision(99),
        });
        let pushes = world.model.reset(&[stored], Revision(99), world.now);
        assert_eq!(shown(&pushes), ["1 5 route portal.citizen:80/*"], "its route is gone");
        assert_eq!(world.model.seen(), Revision(99));
    }

    #[test]
    fn a_proxy_is_in_force_up_to_before_what_it_has_not_confirmed() {
        let mut world = World::new([portal()]);
        world.open(1, "citizen/a");
        let revision = |world: &World| proxies::list(&world.model, world.now).items[0].revision.clone();
        assert_eq!(revision(&world), "1");
        world.subscribe(1, ResourceType::Endpoints, &[CLUSTER]);
        world.answer(1, ResourceType::Endpoints, 1, None);
        for (n, address) in ["10.0.0.1", "10.0.0.2"].into_iter().enumerate() {
            world.put(fixture::slice("citizen", "portal", "http", 15006, &[(address, None)]));
            assert_eq!(revision(&world), "1", "after {n}");
        }
        world.answer(1, ResourceType::Endpoints, 3, None);
        assert_eq!(revision(&world), "3");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Put(Box<Object>),
        Delete(Key),
        Subscribe(u64, ResourceType, String),
        LetGo(u64, ResourceType, String),
        Reconnect(u64),
    }

    const NAMESPACES: [&str; 2] = ["citizen", "police"];

    fn namespace() -> impl Strategy<Value = &'static str> {
        prop::sample::select(NAMESPACES.to_vec())
    }

    fn name() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["portal", "identity"])
    }

    fn object() -> impl Strategy<Value = Object> {
        let ports = prop::sample::subsequence(vec![("http", 80), ("grpc", 81)], 1..=2);
        let service = (namespace(), name(), ports).prop_map(|(ns, name, ports)| fixture::service(ns, name, &ports));
        let route = (namespace(), name(), namespace(), name(), prop::option::of(80..82_u16));
        let route = route.prop_map(|(ns, own, parent_ns, parent, port)| {
            let mut route = fixture::route(ns, own, parent_ns, parent);
            fixture::spec_of(&mut route).parent_refs[0].port = port.and_then(NonZeroU16::new);
            route
        });
        let policy = (namespace(), name(), name(), 1..3_u32).prop_map(|(ns, own, target, max_requests)| {
            let target = TargetRef {
                kind: RefKind::Service,
                name: target.to_owned(),
                section_name: None,
            };
            let spec = BackendPolicySpec {
                target_refs: vec![target],
                circuit_breaker: Some(CircuitBreaker {
                    max_requests,
                    ..CircuitBreaker::default()
                }),
                ..BackendPolicySpec::default()
            };
            Object::new(ns, own, Spec::BackendPolicy(spec))
        });
        let slice = (namespace(), name(), 1..3_u16, any::<bool>());
        let slice = slice.prop_map(|(ns, service, port, known)| {
            fixture::slice(ns, service, "http", port, &[("10.0.0.1", known.then_some("w"))])
        });
        let workload =
            (namespace(), 1..3_u16).prop_map(|(ns, port)| fixture::workload(ns, "w", "10.0.0.1", &[(8080, port)]));
        prop_oneof![service, route, policy, slice, workload]
    }

    fn subscription() -> impl Strategy<Value = (ResourceType, String)> {
        let of = prop::sample::select(ResourceType::ALL.to_vec());
        let consumers = prop::sample::select(vec!["*", "citizen", "police"]);
        let port = 79..82_u16;
        (of, namespace(), name(), port, consumers).prop_map(|(of, ns, service, port, consumers)| {
            let name = match (of, port) {
                (ResourceType::Cluster | ResourceType::Endpoints, port) => format!("{service}.{ns}:{port}"),
                (ResourceType::Listener, 79) => format!("{service}.{ns}.svc.cluster.local"),
                (ResourceType::Listener, port) => format!("{service}.{ns}.svc.cluster.local:{port}"),
                (ResourceType::Route, port) => format!("{service}.{ns}:{port}/{consumers}"),
            };
            (of, name)
        })
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => object().prop_map(|object| Step::Put(Box::new(object))),
            2 => object().prop_map(|object| Step::Delete(object.key())),
            6 => (1..3_u64, subscription()).prop_map(|(id, (of, name))| Step::Subscribe(id, of, name)),
            1 => (1..3_u64, subscription()).prop_map(|(id, (of, name))| Step::LetGo(id, of, name)),
            1 => (1..3_u64).prop_map(Step::Reconnect),
        ]
    }

    proptest! {
        /// Whatever happens in whatever order, each client was last told of each subscription what a computation of
        /// everything from the beginning gives: nothing that depends on a change is forgotten.
        #[test]
        fn what_is_pushed_is_what_is_computed_anew(steps in prop::collection::vec(step(), 1..60)) {
            let mut world = World::new([]);
            let mut told: BTreeMap<(u64, ResourceType, String), Option<Version>> = BTreeMap::new();
            for id in [1, 2] {
                world.open(id, &format!("{}/w", NAMESPACES[id as usize - 1]));
            }
            for step in steps {
                let now = world.now;
                let pushes = match step {
                    Step::Put(object) => {
                        let event = world.event(object.key(), Some(*object));
                        world.model.changed(&[event], now)
                    }
                    Step::Delete(key) if !world.held.contains_key(&key) => continue,
                    Step::Delete(key) => {
                        let event = world.event(key, None);
                        world.model.changed(&[event], now)
                    }
                    Step::Subscribe(id, of, name) => {
                        let asked = delta(&[&name], &[]);
                        let answers = world.model.ask(StreamId(id), of, asked, now).expect("few names");
                        prop_assert_eq!(answers.len(), 1, "each subscription is answered");
                        BTreeMap::from([(StreamId(id), answers)])
                    }
                    Step::LetGo(id, of, name) => {
                        let asked = delta(&[], &[&name]);
                        let answers = world.model.ask(StreamId(id), of, asked, now).expect("few names");
                        prop_assert!(answers.is_empty());
                        told.remove(&(id, of, name));
                        continue;
                    }
                    Step::Reconnect(id) => {
                        world.model.close(StreamId(id));
                        world.open(id, &format!("{}/w", NAMESPACES[id as usize - 1]));
                        told.retain(|(of_stream, ..), _| *of_stream != id);
                        continue;
                    }
                };
                for (id, answers) in pushes {
                    for answer in answers {
                        for item in answer.items {
                            let version = item.resource.map(|(_, version)| version);
                            told.insert((id.0, answer.of, item.name), version);
                        }
                    }
                }
                let mut anew = Index::default();
                for (key, stored) in &world.held {
                    anew.apply(key, Some(Arc::clone(&stored.object)));
                }
                for ((id, of, name), version) in &told {
                    let client = &world.model.streams[&StreamId(*id)].client;
                    let wanted = Wanted::read(*of, name, client).expect("canonical");
                    let expect = wanted::computed(&wanted, &anew).message.map(|(_, version)| version);
                    prop_assert_eq!(*version, expect, "stream {} {} {}", id, of, name);
                }
                let subscribed: usize = world.model.streams.values().map(|s| s.subscriptions.iter().count()).sum();
                prop_assert_eq!(subscribed, told.len());
                let held: usize = world.model.resources.values().map(|resource| resource.subscribers.len()).sum();
                prop_assert_eq!(held, told.len(), "nothing is kept that nobody asked for");
            }
        }
    }
}
