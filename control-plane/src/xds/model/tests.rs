//! What streams are told, step by step.

mod anew;
mod client;
mod foreign;
mod policies;

use std::num::NonZeroU16;

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
        self.open_as(id, identity(workload, Dialect::Weir), Variant::Delta);
    }

    fn open_as(&mut self, id: u64, client: ClientIdentity, variant: Variant) {
        self.model.open(
            StreamId(id),
            client,
            variant,
            (Entry::Loopback, None),
            SystemTime::UNIX_EPOCH,
        );
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

fn identity(workload: &str, dialect: Dialect) -> ClientIdentity {
    ClientIdentity {
        workload: workload.parse().expect("a workload"),
        locality: Locality::default(),
        version: "0.1.0".to_owned(),
        dialect,
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

/// A policy for a service of its namespace.
fn policy(namespace: &str, name: &str, service: &str, max_requests: u32) -> Object {
    let spec = BackendPolicySpec {
        target_refs: vec![TargetRef {
            kind: RefKind::Service,
            name: service.to_owned(),
            section_name: None,
        }],
        circuit_breaker: Some(CircuitBreaker {
            max_requests,
            ..CircuitBreaker::default()
        }),
        ..BackendPolicySpec::default()
    };
    Object::new(namespace, name, Spec::BackendPolicy(spec))
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

    fixture::spec_of(&mut route).rules[0].backend_refs[0].port = NonZeroU16::new(81);
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
        let of = [(key.clone(), vec![attachment("portal.citizen", 0).into()])];
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
        let of = [(key.clone(), vec![attachment(service, port).into()])];
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
