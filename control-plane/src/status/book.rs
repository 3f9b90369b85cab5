//! Which resources' statuses have to be looked at, and when: pure bookkeeping, the clock is passed in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use weir_api::{Key, Kind, Object};
use weir_policy::names::ServiceName;

use super::says_in_force;
use crate::compile::index::{Index, Part};
use crate::compile::references::services_of;
use crate::compile::route_policies::service_key;
use crate::store::{Change, Event, Stored};

/// The resources that statuses are made from, and those whose status may be another one by now.
#[derive(Debug, Default)]
pub(super) struct Book {
    index: Index,
    /// Routes and policies by the services that they send requests or copies to.
    senders: BTreeMap<ServiceName, BTreeSet<Key>>,
    dirty: BTreeSet<Key>,
    /// Not to be written before: those that were written a moment ago. Never more than are written within
    /// [`INTERVAL`].
    not_before: BTreeMap<Key, Instant>,
    /// Those that have a status of an earlier run, until when it is left alone if nothing happens to them.
    inherited: Option<(BTreeSet<Key>, Instant)>,
}

impl Book {
    /// All that the store holds. A status that is there was written by an earlier run, whose proxies will be back in a
    /// moment: until `back_by` it is left alone if nothing happens.
    pub(super) fn open(all: &[Arc<Stored>], back_by: Instant) -> Book {
        let mut book = Book::default();
        for stored in all {
            book.apply(&stored.object.key(), Some(Arc::clone(&stored.object)));
        }
        let has_status = |key: &Key| {
            book.index
                .objects()
                .get(key)
                .is_some_and(|object| object.status.is_some())
        };
        let inherited: BTreeSet<Key> = book.dirty.iter().filter(|key| has_status(key)).cloned().collect();
        book.dirty.retain(|key| !inherited.contains(key));
        book.inherited = Some((inherited, back_by));
        book
    }

    /// All that the store holds, after changes were missed: everything is looked at.
    pub(super) fn reset(&mut self, all: &[Arc<Stored>]) {
        let kept: BTreeSet<Key> = all.iter().map(|stored| stored.object.key()).collect();
        let held = self.index.objects().keys();
        let gone: Vec<Key> = held.filter(|key| !kept.contains(key)).cloned().collect();
        for key in gone {
            self.apply(&key, None);
        }
        for stored in all {
            let key = stored.object.key();
            self.apply(&key, Some(Arc::clone(&stored.object)));
            self.stir(&key);
        }
    }

    /// Takes in a change of the store.
    pub(super) fn changed(&mut self, event: &Event) {
        let object = match &event.change {
            Change::Added { after } | Change::Modified { after, .. } => Some(Arc::clone(&after.object)),
            Change::Deleted { .. } => None,
        };
        self.apply(&event.key, object);
    }

    /// Something happened to a resource that its status may have to say.
    pub(super) fn stir(&mut self, key: &Key) {
        if says_in_force(key.kind) && self.index.objects().contains_key(key) {
            self.mark(key.clone());
        }
    }

    /// The resources, for solving.
    pub(super) fn index(&self) -> &Index {
        &self.index
    }

    /// A resource.
    pub(super) fn object(&self, key: &Key) -> Option<&Arc<Object>> {
        self.index.objects().get(key)
    }

    /// Whether something happened to a resource since it was last taken out.
    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// When the next status may have to be written; in the past: now. `None`: nothing happened.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let dirty = self
            .dirty
            .iter()
            .map(|key| self.not_before.get(key).copied().unwrap_or(now));
        dirty.chain(self.inherited.as_ref().map(|(_, until)| *until)).min()
    }

    /// Takes out what may be written now.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Key> {
        if let Some((keys, _)) = self.inherited.take_if(|(_, until)| *until <= now) {
            self.dirty.extend(keys);
        }
        self.not_before.retain(|_, until| *until > now);
        let due = self.dirty.iter().filter(|key| !self.not_before.contains_key(key));
        let due: Vec<Key> = due.cloned().collect();
        for key in &due {
            self.dirty.remove(key);
        }
        due
    }

    /// A status was written, or could not be: it is not before a while passed.
    pub(super) fn rest(&mut self, key: Key, now: Instant) {
        self.not_before.insert(key, now + INTERVAL);
    }

    fn apply(&mut self, key: &Key, object: Option<Arc<Object>>) {
        if !is_read(key.kind) {
            return;
        }
        let before: BTreeSet<ServiceName> = self
            .index
            .objects()
            .get(key)
            .map(|held| services_of(held).collect())
            .unwrap_or_default();
        let after: BTreeSet<ServiceName> = object
            .as_ref()
            .map(|object| services_of(object).collect())
            .unwrap_or_default();
        let is_there = object.is_some();
        let Some(touched) = self.index.apply(key, object) else {
            return;
        };
        for service in before.difference(&after) {
            if let Some(senders) = self.senders.get_mut(service) {
                senders.remove(key);
                if senders.is_empty() {
                    self.senders.remove(service);
                }
            }
        }
        for service in after {
            self.senders.entry(service).or_default().insert(key.clone());
        }
        if is_there {
            self.stir(key);
        } else {
            self.dirty.remove(key);
            self.not_before.remove(key);
            self.leave_inheritance(key);
        }
        for (service, part) in touched.services {
            for key in self.affected(&service, part) {
                self.mark(key);
            }
        }
        // One that is gone is none of its services' any more.
        for key in self.policies_of(key) {
            self.mark(key);
        }
        // Also of one that is attached to nothing yet.
        if key.kind == Kind::ReferenceGrant {
            let referring: Vec<Key> = self.index.referring_to(&key.namespace).cloned().collect();
            for key in referring {
                self.mark(key);
            }
        }
        if key.kind == Kind::TelemetryPolicy || !touched.workloads.is_empty() {
            for key in self.policies_in(&key.namespace) {
                self.mark(key);
            }
        }
    }

    /// The resources whose status speaks of this part of a service.
    fn affected(&self, service: &ServiceName, part: Part) -> BTreeSet<Key> {
        let routes = || {
            let routes = self.index.routes(service).into_iter().map(|of| of.object.key());
            let with_policies = routes.flat_map(|route| self.policies_of(&route).into_iter().chain([route]));
            with_policies.chain(self.policies_of(&service_key(service)))
        };
        let policies = || {
            let plain = self.index.policies(service).into_iter().map(|of| of.object.key());
            let tls = self.index.backend_tls_policies(service).into_iter();
            plain.chain(tls.map(|of| of.object.key()))
        };
        let senders = || self.senders.get(service).into_iter().flatten().cloned();
        match part {
            Part::Whole => routes().chain(policies()).chain(senders()).collect(),
            Part::Routes => routes().collect(),
            Part::Clusters => policies().collect(),
            Part::Endpoints => BTreeSet::new(),
        }
    }

    /// The RoutePolicies for a route or a service.
    fn policies_of(&self, target: &Key) -> Vec<Key> {
        let policies = self.index.route_policies(target).into_iter();
        policies.map(|policy| policy.object.key()).collect()
    }

    /// The policies for the workloads of a namespace: of two that are for the same one the other's status speaks, too.
    fn policies_in(&self, namespace: &str) -> Vec<Key> {
        let policies = self.index.telemetry_policies(namespace).into_iter();
        policies.map(|of| of.object.key()).collect()
    }

    fn mark(&mut self, key: Key) {
        self.leave_inheritance(&key);
        self.dirty.insert(key);
    }

    fn leave_inheritance(&mut self, key: &Key) {
        if let Some((inherited, _)) = &mut self.inherited {
            inherited.remove(key);
        }
    }
}

/// Whether statuses are made from a kind.
fn is_read(kind: Kind) -> bool {
    match kind {
        Kind::ConfigMap
        | Kind::BackendTlsPolicy
        | Kind::Service
        | Kind::Workload
        | Kind::BackendPolicy
        | Kind::RoutePolicy
        | Kind::TelemetryPolicy
        | Kind::HttpRoute
        | Kind::GrpcRoute
        | Kind::ReferenceGrant
        | Kind::MeshConfig => true,
        Kind::Namespace | Kind::EndpointSlice => false,
    }
}

/// Between two writes of one status: often enough for people, and the store has better to do.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use weir_api::Spec;
    use weir_api::telemetry_policy::{AccessLog, TelemetryPolicySpec};

    use super::*;
    use crate::compile::fixture;
    use crate::store::Revision;

    fn stored(object: Object) -> Arc<Stored> {
        Arc::new(Stored {
            object: Arc::new(object),
            revision: Revision(1),
        })
    }

    fn portal() -> Object {
        fixture::service("citizen", "portal", &[("http", 80)])
    }

    fn route(name: &str, backend: &str) -> Object {
        let mut route = fixture::route("citizen", name, "citizen", "portal");
        fixture::spec_of(&mut route).rules = vec![fixture::rule("/", &[backend])];
        route
    }

    fn names(keys: Vec<Key>) -> Vec<String> {
        keys.into_iter().map(|key| key.name).collect()
    }

    /// A book of which everything was looked at.
    fn settled(objects: &[Object], now: Instant) -> Book {
        let all: Vec<Arc<Stored>> = objects.iter().cloned().map(stored).collect();
        let mut book = Book::open(&all, now);
        book.take_due(now);
        assert_eq!(book.due(now), None);
        book
    }

    #[test]
    fn a_change_is_one_to_what_speaks_of_it() {
        let now = Instant::now();
        let identity = fixture::service("citizen", "identity", &[("", 80)]);
        let held = [
            portal(),
            identity.clone(),
            route("own", "portal"),
            route("sends", "identity"),
        ];
        let due_after = |change: &dyn Fn(&mut Book)| {
            let mut book = settled(&held, now);
            change(&mut book);
            let due = names(book.take_due(now));
            assert_eq!(book.due(now), None);
            due
        };
        let put = |object: Object| move |book: &mut Book| book.apply(&object.key(), Some(Arc::new(object.clone())));
        let grown = fixture::service("citizen", "identity", &[("", 81)]);
        assert_eq!(due_after(&put(grown)), ["sends"]);
        assert_eq!(due_after(&|book| book.apply(&portal().key(), None)), ["own", "sends"]);
        assert_eq!(due_after(&put(route("new", "portal"))), ["new", "own", "sends"]);
        assert_eq!(
            due_after(&|book| book.apply(&route("own", "portal").key(), None)),
            ["sends"]
        );
        // A route that moved away no longer hears of what it left.
        let moves = |book: &mut Book| {
            put(route("sends", "portal"))(book);
            book.take_due(now);
            put(fixture::service("citizen", "identity", &[("", 82)]))(book);
        };
        assert_eq!(due_after(&moves), [""; 0]);
        let mut said = route("own", "portal");
        said.status = Some(serde_json::json!({"parents": []}));
        assert_eq!(due_after(&put(said)), [""; 0], "what was said is nothing new");
        let endpoints = fixture::slice("citizen", "portal", "http", 15006, &[]);
        assert_eq!(due_after(&put(endpoints)), [""; 0]);
        let grant = fixture::grant("police", "g", "citizen", None);
        assert_eq!(due_after(&put(grant.clone())), [""; 0], "nobody asks for it");
        let asks = |book: &mut Book| {
            let mut asks = route("own", "portal");
            fixture::spec_of(&mut asks).rules[0].backend_refs[0].namespace = Some("police".to_owned());
            put(asks)(book);
            book.take_due(now);
            put(grant.clone())(book);
        };
        assert_eq!(due_after(&asks), ["own", "sends"]);
        assert_eq!(due_after(&|book| book.stir(&route("own", "portal").key())), ["own"]);
        assert_eq!(
            due_after(&|book| book.stir(&portal().key())),
            [""; 0],
            "no status says it"
        );
        assert_eq!(due_after(&|book| book.stir(&route("gone", "portal").key())), [""; 0]);
    }

    #[test]
    fn a_policys_status_speaks_of_what_it_is_for() {
        let now = Instant::now();
        let for_route = fixture::route_policy("by-route", &[(Kind::HttpRoute, "own", None)]);
        let for_service = fixture::route_policy("by-service", &[(Kind::Service, "portal", None)]);
        let for_nothing = fixture::route_policy("by-nothing", &[(Kind::HttpRoute, "gone", None)]);
        let held = [portal(), route("own", "portal"), for_route.clone(), for_service.clone()];
        let due_after = |key: &Key, object: Option<Object>| {
            let mut book = settled(&held, now);
            book.apply(key, object.map(Arc::new));
            names(book.take_due(now))
        };
        let put = |object: Object| due_after(&object.key(), Some(object));
        assert_eq!(put(for_nothing), ["by-nothing"]);
        let all = ["by-route", "by-service", "own"];
        assert_eq!(put(fixture::service("citizen", "portal", &[("http", 81)])), all);
        assert_eq!(put(route("own", "other")), all);
        assert_eq!(
            due_after(&route("own", "portal").key(), None),
            ["by-route", "by-service"]
        );
        assert_eq!(due_after(&portal().key(), None), all);
        assert_eq!(due_after(&for_route.key(), None), ["by-service", "own"]);
        let mut said = for_service;
        said.status = Some(serde_json::json!({"ancestors": []}));
        assert_eq!(put(said), [""; 0], "what was said is nothing new");
    }

    #[test]
    fn a_policy_hears_of_what_its_copies_go_to() {
        let now = Instant::now();
        let mut near = fixture::route_policy("near", &[(Kind::HttpRoute, "own", None)]);
        fixture::route_policy_spec_of(&mut near).mirror = Some(vec![fixture::mirror(None, "shadow")]);
        // It is for nothing yet, and its status speaks of its references all the same.
        let mut abroad = fixture::route_policy("abroad", &[(Kind::HttpRoute, "gone", None)]);
        fixture::route_policy_spec_of(&mut abroad).mirror = Some(vec![fixture::mirror(Some("labs"), "lab")]);
        let held = [portal(), route("own", "portal"), near.clone(), abroad];
        let due_after = |key: &Key, object: Option<Object>| {
            let mut book = settled(&held, now);
            book.apply(key, object.map(Arc::new));
            names(book.take_due(now))
        };
        let put = |object: Object| due_after(&object.key(), Some(object));
        assert_eq!(put(fixture::service("citizen", "shadow", &[("", 80)])), ["near"]);
        assert_eq!(put(fixture::service("labs", "lab", &[("", 80)])), ["abroad"]);
        assert_eq!(put(fixture::service("labs", "other", &[("", 80)])), [""; 0]);
        let grant = |namespace: &str| fixture::grant_for(Kind::RoutePolicy, namespace, "g", "citizen", None);
        assert_eq!(put(grant("labs")), ["abroad"]);
        assert_eq!(put(grant("police")), [""; 0]);
        let mut book = settled(&held, now);
        book.apply(&near.key(), None);
        book.take_due(now);
        let shadow = fixture::service("citizen", "shadow", &[("", 80)]);
        book.apply(&shadow.key(), Some(Arc::new(shadow)));
        assert_eq!(names(book.take_due(now)), [""; 0], "it is gone");
    }

    #[test]
    fn the_mesh_config_hears_of_itself_and_of_proxies() {
        let now = Instant::now();
        let workload = fixture::workload("citizen", "w", "10.0.0.1", &[(8080, 15006)]);
        let config = fixture::mesh_config("{mode: Strict}");
        let mut book = settled(&[portal(), workload, config.clone()], now);
        let mut put = |object: &Object| {
            book.apply(&object.key(), Some(Arc::new(object.clone())));
            names(book.take_due(now))
        };
        assert_eq!(put(&fixture::mesh_config("{mode: Permissive}")), ["mesh"]);
        assert_eq!(put(&fixture::service("citizen", "portal", &[("http", 81)])), [""; 0]);
        book.stir(&config.key());
        assert_eq!(names(book.take_due(now)), ["mesh"]);
    }

    #[test]
    fn policies_for_workloads_hear_of_each_other_and_of_labels() {
        let now = Instant::now();
        let policy = |name: &str| {
            let spec = TelemetryPolicySpec {
                access_log: Some(AccessLog::Off),
                ..TelemetryPolicySpec::default()
            };
            Object::new("citizen", name, Spec::TelemetryPolicy(spec))
        };
        let workload = fixture::workload("citizen", "w", "10.0.0.1", &[(8080, 15006)]);
        let mut book = settled(&[policy("a"), workload.clone()], now);
        let mut due_after = |object: &Object, is_there: bool| {
            book.apply(&object.key(), is_there.then(|| Arc::new(object.clone())));
            names(book.take_due(now))
        };
        assert_eq!(due_after(&policy("b"), true), ["a", "b"]);
        assert_eq!(due_after(&workload, true), [""; 0]);
        let mut labelled = workload.clone();
        labelled.metadata.labels.insert("tier".to_owned(), "edge".to_owned());
        assert_eq!(due_after(&labelled, true), ["a", "b"]);
        assert_eq!(due_after(&policy("b"), false), ["a"]);
        assert_eq!(due_after(&labelled, false), ["a"]);
        let elsewhere = fixture::workload("police", "w", "10.0.0.2", &[(8080, 15006)]);
        assert_eq!(due_after(&elsewhere, true), [""; 0]);
    }

    #[test]
    fn what_was_written_rests_a_second_and_is_not_forgotten() {
        let now = Instant::now();
        let mut book = settled(&[portal(), route("r", "portal")], now);
        let key = route("r", "portal").key();
        book.rest(key.clone(), now);
        assert_eq!(book.due(now), None, "nothing happened since");
        let soon = now + INTERVAL / 10;
        book.stir(&key);
        assert_eq!(book.due(soon), Some(now + INTERVAL));
        assert_eq!(book.take_due(soon), []);
        assert_eq!(book.take_due(now + INTERVAL), [key]);
        assert!(book.not_before.is_empty() && book.dirty.is_empty());
    }

    #[test]
    fn a_status_of_an_earlier_run_is_left_alone_for_a_while() {
        let now = Instant::now();
        let back_by = now + INTERVAL * 10;
        let said = |name: &str| {
            let mut route = route(name, "portal");
            route.status = Some(serde_json::json!({"parents": []}));
            route
        };
        // Of another service, so that its end is nothing to the others.
        let mut gone = said("gone");
        fixture::spec_of(&mut gone).parent_refs[0].name = "other".to_owned();
        let all = [portal(), said("a"), said("b"), gone.clone(), route("new", "portal")].map(stored);
        let mut book = Book::open(&all, back_by);
        assert_eq!(names(book.take_due(now)), ["new"]);
        book.stir(&said("a").key());
        assert_eq!(names(book.take_due(now)), ["a"], "a proxy is back");
        book.apply(&gone.key(), None);
        assert_eq!(book.due(now), Some(back_by));
        assert_eq!(names(book.take_due(back_by)), ["b"]);
        assert_eq!(book.due(back_by), None);
    }

    #[test]
    fn after_missed_changes_all_is_looked_at() {
        let now = Instant::now();
        let mut book = settled(&[portal(), route("gone", "portal"), route("stays", "portal")], now);
        book.reset(&[portal(), route("stays", "portal")].map(stored));
        assert_eq!(names(book.take_due(now)), ["stays"]);
        assert!(book.object(&route("gone", "portal").key()).is_none());
        book.rest(route("stays", "portal").key(), now);
        book.reset(&[]);
        assert!(book.index.objects().is_empty() && book.senders.is_empty());
        assert!(
            book.dirty.is_empty() && book.not_before.is_empty(),
            "nothing is kept of what is gone"
        );
    }
}
