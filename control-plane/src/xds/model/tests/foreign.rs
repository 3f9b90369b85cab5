//! What a change costs where gRPC's clients and Envoys have streams: it computes and sends what depends on it.

use weir_policy::names::ClusterName;
use weir_xds::EnvoyNode;
use weir_xds::encode::envoy::OUTBOUND;
use weir_xds::node::GrpcSecurity;

use super::*;
use crate::compile::outbound::SERVICES_MAX;

fn services(count: usize) -> impl Iterator<Item = Object> {
    (0..count).map(|n| fixture::service("citizen", &service(n), &[("http2", 80)]))
}

fn service(n: usize) -> String {
    format!("s{n:04}")
}

fn grpc() -> ClientIdentity {
    identity("citizen/g", Dialect::Grpc(GrpcSecurity::Cleartext))
}

/// An Envoy that calls these; `None`: every service of the mesh.
fn envoy(services: Option<&[&str]>) -> ClientIdentity {
    let named = |services: &[&str]| services.iter().map(|name| fixture::service_named(name)).collect();
    let node = EnvoyNode {
        services: services.map(named),
        ..EnvoyNode::default()
    };
    identity("citizen/e", Dialect::Envoy(node))
}

impl World {
    /// Asks for these beside what it asks for; in the state of the world `all` are all that it asks for.
    fn asks(&mut self, id: u64, of: ResourceType, all: &[&str]) {
        let stream = self.model.stream(StreamId(id)).expect("an open stream");
        let asked = match stream.subscriptions.variant() {
            Variant::Delta => delta(all, &[]),
            Variant::StateOfTheWorld => Asked {
                names: Names::All(all.iter().map(|name| (*name).to_owned()).collect()),
                ..Asked::default()
            },
        };
        self.model.ask(StreamId(id), of, asked, self.now).expect("few names");
    }

    /// All that an Envoy asks for, with the endpoints of these clusters.
    fn asks_as_envoy(&mut self, id: u64, endpoints: &[&str]) {
        self.asks(id, ResourceType::Cluster, &["*"]);
        self.asks(id, ResourceType::Endpoints, endpoints);
        self.asks(id, ResourceType::Listener, &["*"]);
        self.asks(id, ResourceType::Route, &[OUTBOUND]);
    }

    /// Writes, and returns how much was computed and what was said.
    fn costs(&mut self, object: Object) -> (u64, Vec<String>) {
        let before = self.model.computed();
        let event = self.event(object.key(), Some(object));
        let pushes = self.model.changed(&[event], self.now);
        let lines = pushes
            .iter()
            .flat_map(|(id, told)| told.iter().map(|told| line(id.0, told)));
        (self.model.computed() - before, lines.collect())
    }
}

/// `stream type`, and the names in it, of which `-` are gone, or how many.
fn line(id: u64, told: &Told) -> String {
    let gone = |item: &Item| if item.resource.is_none() { "-" } else { "" };
    let names = told.items.iter().map(|item| format!("{}{}", gone(item), item.name));
    let names: Vec<String> = names.collect();
    match names.len() {
        0..3 => format!("{id} {} {}", told.of, names.join(" ")),
        many => format!("{id} {} {many}", told.of),
    }
}

fn said<const N: usize>(lines: [&str; N]) -> Vec<String> {
    lines.map(str::to_owned).to_vec()
}

#[test]
fn of_five_thousand_services_a_grpc_client_has_only_what_it_asked_for_computed() {
    for variant in [Variant::Delta, Variant::StateOfTheWorld] {
        let mut world = World::new(services(5_000));
        for id in [1, 2] {
            world.open_as(id, grpc(), variant);
            world.asks(id, ResourceType::Listener, &["s0001:80", "s0002:80"]);
            world.asks(id, ResourceType::Route, &["s0001.citizen:80/*"]);
            world.asks(id, ResourceType::Cluster, &["s0001.citizen:80"]);
            world.asks(id, ResourceType::Endpoints, &["s0001.citizen:80"]);
        }
        assert_eq!(world.model.computed(), 5, "once for both");
        let slice = |service, address| fixture::slice("citizen", service, "http2", 1, &[(address, None)]);
        assert_eq!(world.costs(slice("s0002", "10.0.0.1")), (0, vec![]));
        let endpoints = said(["1 endpoints s0001.citizen:80", "2 endpoints s0001.citizen:80"]);
        assert_eq!(world.costs(slice("s0001", "10.0.0.1")), (1, endpoints));
        assert_eq!(world.costs(slice("s0001", "10.0.0.1")), (0, vec![]), "nothing differs");
        assert_eq!(world.costs(policy("citizen", "other", "s0003", 1)), (0, vec![]));
        let clusters = said(["1 cluster s0001.citizen:80", "2 cluster s0001.citizen:80"]);
        assert_eq!(world.costs(policy("citizen", "p", "s0001", 1)), (1, clusters));
        let route = fixture::route("citizen", "r", "citizen", "s0001");
        let routes = said(["1 route s0001.citizen:80/*", "2 route s0001.citizen:80/*"]);
        assert_eq!(world.costs(route), (2, routes), "the listener stays as it is");
        world.model.close(StreamId(1));
        world.model.close(StreamId(2));
        assert!(world.model.resources.is_empty() && world.model.by_service.is_empty());
    }
}

#[test]
fn of_an_envoys_thousand_services_only_what_a_change_touches_is_computed() {
    let count = 1_000;
    let mut world = World::new(services(count));
    world.open_as(1, envoy(None), Variant::Delta);
    world.asks_as_envoy(1, &["s0001.citizen:80"]);
    // The routes and the cluster of each, the endpoints of one, and the listener.
    let once = 2 * count as u64 + 2;
    assert_eq!(world.model.computed(), once);
    world.open_as(2, envoy(None), Variant::StateOfTheWorld);
    world.asks_as_envoy(2, &["s0001.citizen:80"]);
    assert_eq!(world.model.computed(), once, "once for both");

    let slice = |service, address| fixture::slice("citizen", service, "http2", 1, &[(address, None)]);
    assert_eq!(world.costs(slice("s0002", "10.0.0.1")), (0, vec![]));
    let endpoints = said(["1 endpoints s0001.citizen:80", "2 endpoints s0001.citizen:80"]);
    assert_eq!(world.costs(slice("s0001", "10.0.0.1")), (1, endpoints));
    let route = fixture::route("citizen", "r", "citizen", "s0001");
    let routes = said(["1 route weir-outbound", "2 route weir-outbound"]);
    assert_eq!(world.costs(route), (1, routes));
    // With a cluster its endpoints come again; of the state of the world all clusters do.
    let cluster = said([
        "1 cluster s0001.citizen:80",
        "1 endpoints s0001.citizen:80",
        "2 cluster 1000",
        "2 endpoints s0001.citizen:80",
    ]);
    assert_eq!(world.costs(policy("citizen", "p", "s0001", 1)), (1, cluster));
    // Another port: the routes of the service, its new cluster, the old one and its endpoints.
    let ports = fixture::service("citizen", "s0001", &[("http2", 80), ("more", 81)]);
    let (computed, said) = world.costs(ports);
    assert_eq!(computed, 3, "{said:?}");
    assert_eq!(
        said,
        ["1 route weir-outbound", "2 route weir-outbound"],
        "no route goes there"
    );
}

#[test]
fn an_envoy_that_names_its_services_is_told_of_no_other() {
    let mut world = World::new(services(5_000));
    world.open_as(1, envoy(Some(&["s0001.citizen", "s0002.citizen"])), Variant::Delta);
    world.asks_as_envoy(1, &["s0001.citizen:80", "s0002.citizen:80"]);
    assert_eq!(world.model.computed(), 2 * 2 + 2 + 1);
    let slice = |service| fixture::slice("citizen", service, "http2", 1, &[("10.0.0.1", None)]);
    let route = |service| fixture::route("citizen", "r", "citizen", service);
    assert_eq!(world.costs(slice("s0003")), (0, vec![]));
    assert_eq!(world.costs(route("s0003")), (0, vec![]));
    assert_eq!(world.costs(slice("s0002")), (1, said(["1 endpoints s0002.citizen:80"])));
    let moved = world.costs(route("s0002"));
    assert_eq!(moved, (1, said(["1 route weir-outbound"])));
    let mut elsewhere = route("s0001");
    fixture::spec_of(&mut elsewhere).rules[0].backend_refs = vec![fixture::backend("s0009")];
    let moved = said([
        "1 cluster s0009.citizen:80",
        "1 route weir-outbound",
        "1 cluster -s0001.citizen:80",
    ]);
    assert_eq!(
        world.costs(elsewhere),
        (3, moved),
        "both services' routes, and the new cluster"
    );
}

#[test]
fn an_envoy_is_not_sent_clusters_for_a_backend_that_does_not_exist() {
    for variant in [Variant::Delta, Variant::StateOfTheWorld] {
        let mut world = World::new(services(1));
        world.open_as(1, envoy(None), variant);
        world.asks_as_envoy(1, &["s0000.citizen:80"]);
        let mut route = fixture::route("citizen", "r", "citizen", "s0000");
        fixture::spec_of(&mut route)
            .rules
            .push(fixture::rule("/x", &["nobody"]));
        let routes = said(["1 route weir-outbound"]);
        assert_eq!(
            world.costs(route),
            (2, routes),
            "its routes, and the cluster that is not there"
        );
        let nobody = fixture::service("citizen", "nobody", &[("http2", 80)]);
        let (_, said) = world.costs(nobody);
        let cluster = match variant {
            Variant::Delta => "1 cluster nobody.citizen:80",
            Variant::StateOfTheWorld => "1 cluster nobody.citizen:80 s0000.citizen:80",
        };
        assert_eq!(said, [cluster, "1 route weir-outbound"]);
    }
}

#[test]
fn an_envoy_is_said_not_to_be_sent_what_passes_through() {
    let mut world = World::new(services(1));
    world.open_as(1, envoy(None), Variant::Delta);
    world.asks_as_envoy(1, &["s0000.citizen:80"]);
    let config = |egress: &str| fixture::mesh_config_of(&format!("{{egress: {egress}}}"));
    let rejected = |world: &World| {
        let stored = &world.held[&config("Refuse").key()];
        let view = proxies::of_object(&world.model, &stored.object.key(), 1, stored.revision);
        view.rejected.into_iter().map(|one| one.reason).collect::<Vec<_>>()
    };
    assert_eq!(world.costs(config("Refuse")), (0, vec![]));
    assert_eq!(rejected(&world), [""; 0]);
    assert_eq!(
        world.costs(config("Passthrough")),
        (0, vec![]),
        "its routes are as before"
    );
    let reasons = rejected(&world);
    let [reason] = reasons.as_slice() else {
        panic!("{reasons:?}")
    };
    assert!(
        reason.starts_with("not sent: egress: Passthrough can't be told to an Envoy"),
        "{reason}"
    );
    assert_eq!(world.costs(config("Refuse")), (0, vec![]));
    assert_eq!(rejected(&world), [""; 0]);
}

#[test]
fn an_envoy_that_names_no_service_has_the_first_thousand() {
    let mut world = World::new(services(SERVICES_MAX + 2));
    world.open_as(1, envoy(None), Variant::Delta);
    world.asks_as_envoy(1, &[]);
    let left_out = |world: &World, n: usize| {
        let key = fixture::service("citizen", &service(n), &[]).key();
        let stream = world.model.stream(StreamId(1)).expect("open");
        let routes = world.model.resource(stream, ResourceType::Route, OUTBOUND);
        routes.expect("asked for").not_sent_of(&key).count() == 1
    };
    let beyond = |world: &World| [SERVICES_MAX - 1, SERVICES_MAX, SERVICES_MAX + 1].map(|n| left_out(world, n));
    assert_eq!(beyond(&world), [false, true, true]);
    let first = fixture::service("citizen", &service(0), &[]).key();
    let before = world.model.computed();
    let event = world.event(first, None);
    world.model.changed(&[event], world.now);
    let computed = world.model.computed() - before;
    assert_eq!(
        computed, 3,
        "the routes and the cluster of the next, and the cluster that is gone"
    );
    assert_eq!(beyond(&world), [false, false, true], "the next is the thousandth now");
}

#[test]
fn who_has_no_certificate_is_said_to_be_refused_where_only_mutual_tls_lets_in() {
    let workload = fixture::workload("citizen", "w", "10.0.0.1", &[(8080, 15006)]);
    let addresses = [("10.0.0.1", Some("w")), ("10.0.0.2", None)];
    let strict = fixture::mesh_config("{overrides: [{namespaces: [citizen], mode: Strict}]}");
    let mut world = World::new(services(2).chain([
        fixture::with_account(workload, "w"),
        fixture::slice("citizen", "s0001", "http2", 15006, &addresses),
        fixture::slice("citizen", "s0000", "http2", 15006, &[("10.0.0.2", None)]),
    ]));
    let weir = identity("citizen/w", Dialect::Weir);
    for (id, client) in [
        (1, weir),
        (2, grpc()),
        (3, envoy(Some(&["s0000.citizen", "s0001.citizen"]))),
    ] {
        world.open_as(id, client, Variant::Delta);
        for name in ["s0000.citizen:80", "s0001.citizen:80"] {
            world.asks(id, ResourceType::Endpoints, &[name]);
        }
    }
    let as_ever = fixture::mesh_config("{}");
    assert_eq!(world.costs(as_ever), (3, vec![]), "it has a part in them from now on");
    assert_eq!(
        world.costs(strict.clone()),
        (3, vec![]),
        "where the workload is, as each is told it"
    );
    let rejected = |world: &World| {
        let stored = &world.held[&strict.key()];
        let view = proxies::of_object(&world.model, &strict.key(), 1, stored.revision);
        let rejected = view.rejected.into_iter().map(|one| (one.proxy, one.reason));
        (view.subscribers, rejected.collect::<Vec<_>>())
    };
    let reason = "not sent: mutualTls shuts such a client, which has no certificate, out of 1 of 2 endpoints \
                  of s0001.citizen:80";
    let both = ["citizen/e", "citizen/g"].map(|name| (name.to_owned(), reason.to_owned()));
    assert_eq!(rejected(&world), (3, both.to_vec()));
    let edge = |edge: bool| {
        let mut workload = fixture::workload("citizen", "w", "10.0.0.1", &[(8080, 15006)]);
        if let Spec::Workload(spec) = &mut workload.spec {
            spec.ports[0].edge = edge;
        }
        workload
    };
    world.put(edge(true));
    assert_eq!(rejected(&world), (0, vec![]), "whoever comes there is let in");
    world.put(edge(false));
    assert_eq!(rejected(&world), (3, both.to_vec()), "also if nobody can come");
    let elsewhere = fixture::mesh_config("{overrides: [{namespaces: [police], mode: Strict}]}");
    assert_eq!(world.costs(elsewhere), (3, vec![]));
    assert_eq!(rejected(&world), (3, vec![]));
    let elsewhere = fixture::mesh_config("{overrides: [{namespaces: [health], mode: Strict}]}");
    assert_eq!(
        world.costs(elsewhere),
        (0, vec![]),
        "nothing of this is entered otherwise"
    );
}

/// Whom it must find at the endpoints stands in the cluster of a gRPC client that has certificates.
#[test]
fn a_grpc_client_with_certificates_is_told_anew_who_the_endpoints_are() {
    let workload = |account| {
        let workload = fixture::workload("citizen", "w", "10.0.0.1", &[(8080, 15006)]);
        fixture::with_account(workload, account)
    };
    let endpoints = [("10.0.0.1", Some("w")), ("10.0.0.2", None)];
    let slice = fixture::slice("citizen", "s0000", "http2", 15006, &endpoints);
    let mut world = World::new(services(1).chain([workload("w"), slice]));
    let client = identity("citizen/g", Dialect::Grpc(GrpcSecurity::MutualTls));
    world.open_as(1, client, Variant::StateOfTheWorld);
    world.asks(1, ResourceType::Cluster, &["s0000.citizen:80"]);
    world.asks(1, ResourceType::Endpoints, &["s0000.citizen:80"]);
    let name: ClusterName = "s0000.citizen:80".parse().expect("a cluster");
    let told = |world: &World, wanted: Wanted| {
        let now = &world.model.resource_of(&wanted).expect("it is subscribed to").now;
        let (message, _) = now.message.clone().expect("it is told");
        let not_sent: Vec<String> = now.not_sent.iter().map(|(_, what)| what.clone()).collect();
        (String::from_utf8_lossy(&message.value).into_owned(), not_sent.concat())
    };
    let cluster = |world: &World| told(world, Wanted::Cluster(Terms::GrpcByTls, name.clone())).0;
    let id = |account: &str| format!("spiffe://cluster.local/ns/citizen/sa/{account}");
    assert!(cluster(&world).contains(&id("w")));
    world.put(workload("other"));
    let now = cluster(&world);
    assert!(now.contains(&id("other")) && !now.contains(&id("w")));
    // By TLS it goes to those alone that have a certificate.
    let endpoints = |world: &World| told(world, Wanted::Endpoints(Terms::GrpcByTls, name.clone()));
    world.put(fixture::mesh_config("{}"));
    let (now, not_sent) = endpoints(&world);
    assert!(now.contains("10.0.0.1") && !now.contains("10.0.0.2"), "{now}");
    assert!(
        not_sent.contains("1 of 2 endpoints of s0000.citizen:80, which have no certificate"),
        "{not_sent}"
    );
    world.put(fixture::mesh_config("{mode: 'Off'}"));
    assert!(!cluster(&world).contains("spiffe://"), "in cleartext to all");
    let (now, not_sent) = endpoints(&world);
    assert!(now.contains("10.0.0.1") && now.contains("10.0.0.2"), "{now}");
    assert_eq!(not_sent, "");
}
