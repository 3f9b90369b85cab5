//! Everything the xDS server knows: the objects, the streams, and for each resource that somebody subscribed to what
//! it is now. No I/O and no tasks: its one owner feeds it, and sends what it returns.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use weir_api::workload::WorkloadSpec;
use weir_api::{Key, Object, Spec};
use weir_policy::mutual_tls::MutualTls;
use weir_policy::names::{ServiceName, WorkloadName};
use weir_policy::roots::RootsName;
use weir_policy::spiffe::TrustDomain;
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
use crate::compile::wanted::{self, Computed, Services, Settled, Terms, Wanted};
use crate::compile::workload_policy::entered;
use crate::compile::{self, Version};
use crate::door::caller::Entry;
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
    /// What holds for workloads, by their namespace.
    policies_in: BTreeMap<String, BTreeSet<Wanted>>,
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
    /// By which door.
    pub(crate) entry: Entry,
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

impl Touch {
    /// An object's change is a cause.
    fn by(&mut self, key: &Key) {
        if !self.causes.contains(key) {
            self.causes.push(key.clone());
        }
    }
}

impl Model {
    /// Of the mesh whose identities are of this trust domain.
    pub(crate) fn new(trust_domain: TrustDomain) -> Model {
        Model {
            index: Index::new(trust_domain),
            ..Model::default()
        }
    }

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
        (entry, address): (Entry, Option<SocketAddr>),
        now: SystemTime,
    ) {
        let wildcards = match &client.dialect {
            Dialect::Weir | Dialect::Grpc(_) => Wildcards::No,
            Dialect::Envoy(_) => Wildcards::Served,
        };
        let stream = Stream {
            client,
            address,
            entry,
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
        let due_of = due.entry(of).or_default();
        due_of.extend(effect.wanted);
        due_of.extend(effect.unsure.iter().cloned());
        let told = self.say(id, due, now);
        // No verdict is waited for: otherwise names that come and go would pile up on a stream that gives none.
        if let Some(stream) = self.streams.get_mut(&id) {
            for name in &effect.unsure {
                stream.subscriptions.forget_unwanted(of, name);
            }
        }
        Ok(told)
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

    /// Everybody is to trust these roots, PEM, from now on.
    pub(crate) fn set_roots(&mut self, pem: String, now: Instant) -> Pushes {
        self.index.set_roots(pem);
        let all = [Terms::Weir, Terms::Grpc, Terms::GrpcByTls, Terms::Envoy];
        let touched = all.map(|terms| (Wanted::TrustRoots(terms, RootsName), Touch::default()));
        self.recompute(touched.into(), now)
    }

    /// How a stream stands with the roots; `None`: it did not ask for them.
    pub(crate) fn roots_of(&self, stream: &Stream) -> Option<Standing> {
        let name = RootsName.to_string();
        let subscription = stream.subscriptions.subscription(ResourceType::TrustRoots, &name);
        Some(subscription.filter(|held| held.is_wanted())?.standing())
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

    /// Whatever somebody subscribes to.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&Wanted, &Resource)> {
        self.resources.iter()
    }

    /// What somebody subscribes to of a service.
    pub(crate) fn resources_of(&self, service: &ServiceName) -> impl Iterator<Item = (&Wanted, &Resource)> {
        let subscribed = self.by_service.get(service).into_iter().flatten();
        let subscribed = subscribed.chain(&self.on_all);
        subscribed.filter_map(|wanted| self.resources.get_key_value(wanted))
    }

    /// What somebody subscribes to of what holds for the workloads of a namespace.
    pub(crate) fn policies_in(&self, namespace: &str) -> impl Iterator<Item = (&Wanted, &Resource)> {
        let subscribed = self.policies_in.get(namespace).into_iter().flatten();
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

    /// How the ports of a workload are entered.
    pub(crate) fn entered(&self, workload: &WorkloadName) -> MutualTls {
        entered(workload, &self.index)
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
        let Some(changed) = self.index.apply(key, object) else {
            return;
        };
        for (service, part) in changed.services {
            for wanted in self.dependents(&service, part) {
                let touch = touched.entry(wanted).or_default();
                touch.services.insert(service.clone());
                touch.by(key);
            }
        }
        if changed.egress {
            let outbound = self.resources.keys();
            for wanted in outbound.filter(|wanted| matches!(wanted, Wanted::Outbound(_))) {
                touched.entry(wanted.clone()).or_default().by(key);
            }
        }
        let roots = changed
            .trust_domains
            .then_some(Wanted::TrustRoots(Terms::Weir, RootsName));
        let workloads = changed.workloads.into_iter().map(Wanted::WorkloadPolicy);
        let unregistered = self.policies_in.iter();
        let unregistered = unregistered.filter(|(namespace, _)| changed.unregistered.has(namespace));
        let unregistered = unregistered
            .flat_map(|(_, policies)| policies)
            .filter(|wanted| match wanted {
                Wanted::WorkloadPolicy(name) => self.index.workload(name).is_none(),
                _ => false,
            });
        for wanted in workloads.chain(unregistered.cloned()).chain(roots) {
            if self.resources.contains_key(&wanted) {
                touched.entry(wanted).or_default().by(key);
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
            let news = saying.say(of, &changed);
            let again = saying.warm(of, news);
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
            ResourceType::WorkloadPolicy,
            ResourceType::TrustRoots,
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
        if let Wanted::WorkloadPolicy(name) = wanted {
            let namespace = name.namespace.as_str();
            if self.policies_in.get(namespace).is_some_and(BTreeSet::is_empty) {
                self.policies_in.remove(namespace);
            }
        }
    }

    fn drop_empty(&mut self, service: &ServiceName) {
        if self.by_service.get(service).is_some_and(BTreeSet::is_empty) {
            self.by_service.remove(service);
        }
    }

    /// Where a resource is noted, so that what concerns it finds it.
    fn dependencies(&mut self, wanted: &Wanted) -> Vec<&mut BTreeSet<Wanted>> {
        if let Wanted::WorkloadPolicy(name) = wanted {
            return vec![self.policies_in.entry(name.namespace.to_string()).or_default()];
        }
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
        let held = |name: &'n String| {
            let subscription = self.stream.subscriptions.subscription(of, name);
            let is_wanted = subscription.is_some_and(Subscription::is_wanted);
            let held = match self.computed(of, name).filter(|_| is_wanted) {
                Some(computed) => held(computed),
                None => Held::Absent,
            };
            (name.as_str(), held)
        };
        names.iter().map(held).collect()
    }

    /// "Resource warming": Envoy holds a changed cluster back until its endpoints come again. Returns whose.
    fn warm(&mut self, of: ResourceType, news: BTreeSet<String>) -> BTreeSet<String> {
        if of != ResourceType::Cluster || !matches!(self.stream.client.dialect, Dialect::Envoy(_)) {
            return BTreeSet::new();
        }
        let subscriptions = &mut self.stream.subscriptions;
        let warming = |name: &String| subscriptions.owe(ResourceType::Endpoints, name);
        news.into_iter().filter(warming).collect()
    }

    /// Returns which of them are news to the client.
    fn say(&mut self, of: ResourceType, now: &[(&str, Held)]) -> BTreeSet<String> {
        // A weir proxy has each resource in an answer of its own, so that its ACK or NACK speaks for that one alone.
        match self.stream.client.dialect {
            Dialect::Weir => {
                let each = now.iter();
                each.flat_map(|one| self.answer(of, std::slice::from_ref(one)))
                    .collect()
            }
            Dialect::Grpc(_) | Dialect::Envoy(_) => self.answer(of, now),
        }
    }

    fn answer(&mut self, of: ResourceType, now: &[(&str, Held)]) -> BTreeSet<String> {
        let Some(answer) = self.stream.subscriptions.tell(of, now, self.at) else {
            return BTreeSet::new();
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
        answer.news
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
        Dialect::Weir | Dialect::Grpc(_) => None,
    }
}

/// Of one resource, while a subscriber is behind; beyond that the newest change counts alone.
const CAUSES_MAX: usize = 256;

#[cfg(test)]
mod tests;
