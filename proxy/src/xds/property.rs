//! Whatever order answers come in, nothing half-known is in force.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use weir_xds::ResourceType;

use super::scenario::{Scenario, cluster, endpoints, garbage, listener, listener_name, resource, response, route};
use super::state::{Input, Settings};
use crate::mesh::RefusedResource;
use crate::snapshot::{Backend, Lookup};

const SERVICES: [&str; 3] = ["a", "b", "c"];
const CLUSTERS: [&str; 4] = ["w.n:80", "x.n:80", "y.n:80", "z.n:80"];

#[derive(Clone, Debug)]
enum Step {
    Demand(usize),
    /// One of the answers under way arrives.
    Deliver(usize),
    /// A service's route goes to the clusters whose bits are set.
    Route(usize, u8),
    /// A cluster comes or goes.
    Flip(usize),
    /// A cluster has this many endpoints; `None`: there is no answer on any.
    Endpoints(usize, Option<u8>),
    /// Something unreadable arrives in place of an answer.
    Garbage(usize),
    Reconnect,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..SERVICES.len()).prop_map(Step::Demand),
        12 => any::<usize>().prop_map(Step::Deliver),
        3 => (0..SERVICES.len(), 0..16_u8).prop_map(|(service, clusters)| Step::Route(service, clusters)),
        2 => (0..CLUSTERS.len()).prop_map(Step::Flip),
        2 => (0..CLUSTERS.len(), prop::option::of(0..3_u8)).prop_map(|(name, count)| Step::Endpoints(name, count)),
        1 => any::<usize>().prop_map(Step::Garbage),
        1 => Just(Step::Reconnect),
        1 => (1..50_u64).prop_map(Step::Pass),
    ]
}

type Name = (ResourceType, String);

/// What the control plane has, and what it told.
struct Server {
    routes: BTreeMap<String, u8>,
    /// For each cluster: whether it exists, and how many endpoints it has.
    clusters: BTreeMap<String, (bool, Option<u8>)>,
    subscribed: BTreeSet<Name>,
    under_way: Vec<Name>,
    /// What each cluster and its endpoints were told to be, in short.
    told: BTreeMap<Name, Option<Vec<String>>>,
    /// Clusters that were once told not to exist, or in a way that nobody can read, while subscribed to: routes
    /// that name them may be in force before their endpoints are told.
    once_without: BTreeSet<String>,
    /// What it told last that nobody can read.
    garbled: BTreeSet<Name>,
    nonce: u64,
    unanswered: BTreeSet<String>,
}

impl Server {
    fn touch(&mut self, name: Name) {
        if self.subscribed.contains(&name) && !self.under_way.contains(&name) {
            self.under_way.push(name);
        }
    }

    fn hear(&mut self, lines: &[String]) {
        for line in lines {
            let mut words = line.split(' ');
            let kind = words.next().expect("a kind");
            let kind = ResourceType::ALL
                .into_iter()
                .find(|known| known.to_string() == kind)
                .expect("known");
            for word in words {
                if let Some(name) = word.strip_prefix('+') {
                    self.subscribed.insert((kind, name.to_owned()));
                    self.touch((kind, name.to_owned()));
                } else if let Some(name) = word.strip_prefix('-') {
                    self.subscribed.remove(&(kind, name.to_owned()));
                    self.under_way.retain(|under_way| *under_way != (kind, name.to_owned()));
                    self.told.remove(&(kind, name.to_owned()));
                    self.garbled.remove(&(kind, name.to_owned()));
                    self.once_without.remove(name);
                } else if let Some(nonce) = word.strip_prefix("ack:").or_else(|| word.strip_prefix("nack:")) {
                    assert!(self.unanswered.remove(nonce), "{nonce} was answered twice");
                }
            }
        }
    }

    fn has_garbled(&self, refused: &RefusedResource) -> bool {
        self.garbled.contains(&(refused.kind, refused.name.clone()))
    }

    fn next_nonce(&mut self) -> String {
        self.nonce += 1;
        let nonce = self.nonce.to_string();
        self.unanswered.insert(nonce.clone());
        nonce
    }

    fn answer(&mut self, (kind, name): Name) -> Input {
        let nonce = self.next_nonce();
        self.garbled.remove(&(kind, name.clone()));
        let any = match kind {
            ResourceType::Listener => {
                let short = name.split('.').next().expect("a service");
                Some(listener(&format!("{short}:80"), &format!("{short}.n:80/*")))
            }
            ResourceType::Route => Some(route(&name, &chosen(self.routes[&name]))),
            ResourceType::Cluster => {
                let exists = self.clusters[&name].0.then(|| cluster(&name));
                if exists.is_none() {
                    self.once_without.insert(name.clone());
                }
                self.told
                    .insert((kind, name.clone()), exists.as_ref().map(|_| Vec::new()));
                exists
            }
            ResourceType::Endpoints => {
                let addresses = self.clusters[&name].1.map(addresses);
                self.told.insert((kind, name.clone()), addresses.clone());
                let addresses = addresses
                    .as_ref()
                    .map(|addresses| addresses.iter().map(String::as_str).collect());
                addresses.map(|addresses: Vec<&str>| endpoints(&name, &addresses))
            }
            ResourceType::WorkloadPolicy | ResourceType::TrustRoots => panic!("they are not asked for"),
        };
        Input::Response(match any {
            Some(any) => response(kind, &nonce, vec![resource(&name, &nonce, any)], &[]),
            None => response(kind, &nonce, Vec::new(), &[&name]),
        })
    }
}

fn chosen(bits: u8) -> Vec<&'static str> {
    CLUSTERS
        .into_iter()
        .enumerate()
        .filter(|(index, _)| bits & (1 << index) != 0)
        .map(|(_, name)| name)
        .collect()
}

fn addresses(count: u8) -> Vec<String> {
    (0..count).map(|index| format!("10.0.0.{index}:80")).collect()
}

/// Where names go of which nothing is refused or unanswered.
fn in_force(scenario: &Scenario) -> Vec<String> {
    let mut lines = scenario.services();
    lines.retain(|line| !line.contains("refused") && !line.contains("unanswered"));
    lines
}

/// Each backend in the snapshot is exactly what was last told of it.
fn check(scenario: &Scenario, server: &Server) {
    for (name, lookup) in scenario.snapshot.services() {
        let service = match lookup {
            Lookup::Service(service) => service,
            Lookup::Refused(refused) => {
                assert!(server.has_garbled(refused), "{name}: {refused}");
                continue;
            }
            Lookup::NoSuchService { .. } => panic!("{name} exists"),
        };
        for (id, _) in service.table.routes() {
            for backend in &service.route(id).expect("a route of this table").backends {
                let (cluster, seen) = match backend {
                    Backend::Unanswered(cluster) => {
                        let (cluster, kind) = (cluster.to_string(), ResourceType::Endpoints);
                        assert!(
                            server.once_without.contains(&cluster),
                            "{name} goes to {cluster} too early"
                        );
                        assert!(!server.told.contains_key(&(kind, cluster)));
                        continue;
                    }
                    Backend::Missing(cluster) => (cluster.to_string(), None),
                    Backend::Refused(cluster, refused) => {
                        assert!(server.has_garbled(refused), "{name}: {cluster}: {refused}");
                        continue;
                    }
                    Backend::Cluster(cluster) => {
                        let endpoints = cluster.endpoints.iter().map(|endpoint| endpoint.address.to_string());
                        (cluster.config.name.to_string(), Some(endpoints.collect::<Vec<_>>()))
                    }
                };
                let told = server
                    .told
                    .get(&(ResourceType::Cluster, cluster.clone()))
                    .expect("was told");
                let endpoints = server.told.get(&(ResourceType::Endpoints, cluster.clone()));
                let expect = told.as_ref().map(|_| endpoints.cloned().flatten().unwrap_or_default());
                assert_eq!(seen, expect, "{name}: {cluster}");
            }
        }
    }
}

proptest! {
    #[test]
    fn a_snapshot_never_names_what_was_not_told(steps in prop::collection::vec(step(), 1..120)) {
        let mut scenario = Scenario::new(Settings::default());
        let mut server = Server {
            routes: SERVICES.into_iter().map(|name| (format!("{name}.n:80/*"), 1)).collect(),
            clusters: CLUSTERS.into_iter().map(|name| (name.to_owned(), (true, Some(1)))).collect(),
            subscribed: BTreeSet::new(),
            under_way: Vec::new(),
            told: BTreeMap::new(),
            once_without: BTreeSet::new(),
            garbled: BTreeSet::new(),
            nonce: 0,
            unanswered: BTreeSet::new(),
        };
        server.hear(&scenario.input(Input::Opened));
        for step in steps {
            match step {
                Step::Demand(service) => server.hear(&scenario.demand(&format!("{}:80", SERVICES[service]))),
                Step::Deliver(_) if server.under_way.is_empty() => {}
                Step::Deliver(index) => {
                    let name = server.under_way.swap_remove(index % server.under_way.len());
                    let answer = server.answer(name);
                    server.hear(&scenario.input(answer));
                }
                Step::Route(service, clusters) => {
                    let name = format!("{}.n:80/*", SERVICES[service]);
                    server.routes.insert(name.clone(), clusters);
                    server.touch((ResourceType::Route, name));
                }
                Step::Flip(index) => {
                    let name = CLUSTERS[index].to_owned();
                    server.clusters.entry(name.clone()).and_modify(|(exists, _)| *exists = !*exists);
                    server.touch((ResourceType::Cluster, name));
                }
                Step::Endpoints(index, count) => {
                    let name = CLUSTERS[index].to_owned();
                    server.clusters.entry(name.clone()).and_modify(|(_, endpoints)| *endpoints = count);
                    server.touch((ResourceType::Endpoints, name));
                }
                Step::Garbage(index) => {
                    let subscribed: Vec<Name> = server.subscribed.iter().cloned().collect();
                    if let Some((kind, name)) = subscribed.get(index % subscribed.len().max(1)) {
                        server.garbled.insert((*kind, name.clone()));
                        server.once_without.insert(name.clone());
                        let before = in_force(&scenario);
                        let nonce = server.next_nonce();
                        let bad = vec![resource(name, &nonce, garbage(*kind))];
                        server.hear(&scenario.input(Input::Response(response(*kind, &nonce, bad, &[]))));
                        prop_assert!(!server.unanswered.contains(&nonce), "refused at once");
                        let after = in_force(&scenario);
                        prop_assert!(before.iter().all(|line| after.contains(line)), "{before:?}, then {after:?}");
                    }
                }
                Step::Reconnect => {
                    let before = in_force(&scenario);
                    server.hear(&scenario.input(Input::Closed));
                    prop_assert_eq!(before, in_force(&scenario));
                    server.under_way.clear();
                    server.unanswered.clear();
                    let lines = scenario.input(Input::Opened);
                    // What is not subscribed to again was let go with the stream.
                    server.subscribed.clear();
                    server.hear(&lines);
                    let subscribed = server.subscribed.clone();
                    server.told.retain(|name, _| subscribed.contains(name));
                }
                Step::Pass(millis) => {
                    // Less than five seconds in all.
                    server.hear(&scenario.pass(Duration::from_millis(millis)));
                }
            }
            check(&scenario, &server);
        }
        // Once everything is told, everything is acknowledged and in force after the wait.
        while let Some(name) = server.under_way.pop() {
            let answer = server.answer(name);
            server.hear(&scenario.input(answer));
            check(&scenario, &server);
        }
        // What waits for endpoints that don't come waits no longer than this.
        server.hear(&scenario.pass(Settings::default().clusters_wait));
        check(&scenario, &server);
        prop_assert_eq!(&server.unanswered, &BTreeSet::new());
        for service in SERVICES {
            if let Some(Lookup::Service(found)) = scenario.snapshot.service(&listener_name(&format!("{service}:80"))) {
                let bits = server.routes[&format!("{service}.n:80/*")];
                let (_, first) = found.table.routes().next().expect("one route");
                let weir_policy::model::Action::Forward(forward) = &first.action else { panic!("forwards") };
                let names: Vec<String> = forward.backends.iter().map(|backend| backend.cluster.to_string()).collect();
                prop_assert_eq!(names, chosen(bits));
            } else {
                let name = (ResourceType::Listener, listener_name(&format!("{service}:80")).to_string());
                prop_assert!(!server.subscribed.contains(&name));
            }
        }
    }
}
