//! Whatever happens in whatever order, clients of every kind were last told what a computation of everything from the
//! beginning gives: nothing that depends on a change is forgotten, and nothing is said that nobody needs.

use std::net::SocketAddr;

use proptest::prelude::*;
use weir_api::Kind;
use weir_api::route_policy::RouteRetry;
use weir_xds::encode::envoy::OUTBOUND;
use weir_xds::node::GrpcSecurity;
use weir_xds::{EnvoyNode, InboundPort, InboundProtocol};

use super::client::{Anew, Client, STAR, unsaid};
use super::*;

#[derive(Clone, Debug)]
enum Step {
    Write(Box<Object>),
    Delete(Key),
    /// By one of [`clients`].
    Ask(usize, ResourceType, String),
    LetGo(usize, ResourceType, String),
    /// An Envoy asks for everything of a type no longer, or again.
    Everything(usize, ResourceType),
    /// The newest answer of a type is confirmed, or rejected with a reason.
    Judge(usize, ResourceType, Option<&'static str>),
    Reconnect(usize),
}

const NAMESPACES: [&str; 2] = ["citizen", "police"];
const SERVICES: [&str; 2] = ["portal", "identity"];

/// One of each kind, and several where they share something.
fn clients() -> Vec<(&'static str, Dialect, Variant)> {
    use Variant::{Delta, StateOfTheWorld};
    let app = InboundPort {
        app: fixture::port(8080),
        protocol: InboundProtocol::Http1,
    };
    let all = EnvoyNode::default();
    let with_app = EnvoyNode {
        inbound: BTreeMap::from([(SocketAddr::from(([0, 0, 0, 0], 15006)), app)]),
        ..EnvoyNode::default()
    };
    let named = EnvoyNode {
        services: Some(["portal.citizen", "identity.police"].map(fixture::service_named).into()),
        ..EnvoyNode::default()
    };
    let calls_nobody = EnvoyNode {
        services: Some(BTreeSet::new()),
        ..with_app.clone()
    };
    vec![
        ("citizen", Dialect::Weir, Delta),
        ("police", Dialect::Weir, Delta),
        ("citizen", Dialect::Grpc(GrpcSecurity::Cleartext), StateOfTheWorld),
        ("police", Dialect::Grpc(GrpcSecurity::Cleartext), Delta),
        ("citizen", Dialect::Grpc(GrpcSecurity::MutualTls), StateOfTheWorld),
        ("citizen", Dialect::Envoy(all), Delta),
        ("citizen", Dialect::Envoy(with_app), StateOfTheWorld),
        ("police", Dialect::Envoy(named.clone()), Delta),
        ("police", Dialect::Envoy(named), StateOfTheWorld),
        ("police", Dialect::Envoy(calls_nobody), StateOfTheWorld),
    ]
}

fn one_of<T: Clone + std::fmt::Debug + 'static>(these: &[T]) -> impl Strategy<Value = T> + use<T> {
    prop::sample::select(these.to_vec())
}

fn route() -> impl Strategy<Value = Object> {
    let parent = (one_of(&NAMESPACES), one_of(&SERVICES), prop::option::of(80..82_u16));
    let backend = (prop::option::of(one_of(&NAMESPACES)), one_of(&SERVICES), 80..82_u16);
    let own = (one_of(&NAMESPACES), one_of(&["r", "s"]));
    (own, parent, backend, any::<bool>()).prop_map(|((namespace, name), parent, backend, grpc)| {
        let (parent_namespace, parent, port) = parent;
        let mut route = match grpc {
            true => fixture::grpc_route(namespace, name, parent_namespace, parent),
            false => fixture::route(namespace, name, parent_namespace, parent),
        };
        let (parents, backends) = match &mut route.spec {
            Spec::HttpRoute(spec) => (&mut spec.parent_refs, &mut spec.rules[0].backend_refs),
            Spec::GrpcRoute(spec) => (&mut spec.parent_refs, &mut spec.rules[0].backend_refs),
            other => panic!("no route: {other:?}"),
        };
        parents[0].port = port.map(fixture::port);
        backends[0].namespace = backend.0.map(str::to_owned);
        backends[0].name = backend.1.to_owned();
        backends[0].port = Some(fixture::port(backend.2));
        route
    })
}

/// For routes by those names, for a service, or both; it asks for so many retries, and for copies.
fn route_policy() -> impl Strategy<Value = Object> {
    let targets = [
        (Kind::HttpRoute, "r"),
        (Kind::GrpcRoute, "r"),
        (Kind::HttpRoute, "s"),
        (Kind::Service, "portal"),
    ];
    let targets = prop::sample::subsequence(targets.to_vec(), 1..=3);
    let mirror = (prop::option::weighted(0.8, one_of(&["police"])), one_of(&SERVICES));
    let mirrors = prop::option::weighted(0.9, prop::collection::vec(mirror, 0..3));
    (one_of(&["p", "q"]), targets, 1..3_u32, mirrors).prop_map(|(name, targets, attempts, mirrors)| {
        let targets: Vec<(Kind, &str, Option<&str>)> =
            targets.into_iter().map(|(kind, name)| (kind, name, None)).collect();
        let mut policy = fixture::route_policy(name, &targets);
        let spec = fixture::route_policy_spec_of(&mut policy);
        spec.retry = Some(RouteRetry {
            attempts: Some(attempts),
            ..RouteRetry::default()
        });
        let mirror = |(namespace, name): (Option<&str>, &str)| fixture::mirror(namespace, name);
        spec.mirror = mirrors.map(|mirrors| mirrors.into_iter().map(mirror).collect());
        policy
    })
}

fn object() -> impl Strategy<Value = Object> {
    let namespace = || one_of(&NAMESPACES);
    let service = || one_of(&SERVICES);
    let ports = prop::sample::subsequence(vec![("http", 80), ("grpc", 81)], 1..=2);
    let of_service = (namespace(), service(), ports).prop_map(|(ns, name, ports)| fixture::service(ns, name, &ports));
    let of_policy = (namespace(), one_of(&["p", "q"]), service(), 1..3_u32);
    let of_policy = of_policy.prop_map(|(ns, name, target, max_requests)| policy(ns, name, target, max_requests));
    let slice = (
        namespace(),
        service(),
        one_of(&["http", "grpc"]),
        1..3_u16,
        any::<bool>(),
    );
    let slice = slice.prop_map(|(ns, service, port, number, known)| {
        fixture::slice(ns, service, port, number, &[("10.0.0.1", known.then_some("w"))])
    });
    let workload = (namespace(), 1..3_u16, any::<bool>(), any::<bool>()).prop_map(|(ns, port, certified, edge)| {
        let mut workload = fixture::workload(ns, "w", "10.0.0.1", &[(8080, port)]);
        if let Spec::Workload(spec) = &mut workload.spec {
            spec.ports[0].edge = edge;
            spec.account = if certified { "w" } else { "" }.to_owned();
        }
        workload
    });
    let mesh = one_of(&[
        "{}",
        "{mode: Strict}",
        "{mode: 'Off', overrides: [{namespaces: [police], mode: Permissive}]}",
        "{overrides: [{namespaces: [citizen], ports: [8080], mode: 'Off'}]}",
    ]);
    let domains = one_of(&["", ", trustDomains: [{name: a.gov, roots: PEM}]"]);
    let mesh = (mesh, domains)
        .prop_map(|(mutual_tls, domains)| fixture::mesh_config_of(&format!("{{mutualTls: {mutual_tls}{domains}}}")));
    let grant = (namespace(), namespace(), prop::option::of(service()));
    let grant = grant.prop_map(|(ns, from, to)| fixture::grant(ns, "g", from, to));
    // Policies are of one namespace, and their mirrors in the other.
    let policies_grant = prop::option::of(service());
    let policies_grant =
        policies_grant.prop_map(|to| fixture::grant_for(Kind::RoutePolicy, "police", "p", "citizen", to));
    prop_oneof![4 => of_service, 4 => route(), 2 => of_policy, 2 => slice, 2 => workload, 2 => grant, 2 => policies_grant, 3 => route_policy(), 1 => mesh]
}

fn subscription() -> impl Strategy<Value = (ResourceType, String)> {
    let asked = (one_of(&NAMESPACES), one_of(&SERVICES), 80..82_u16);
    (one_of(&ResourceType::ALL), asked, 0..4_usize).prop_map(|(of, (ns, service, port), form)| {
        let name = match of {
            ResourceType::Cluster | ResourceType::Endpoints => format!("{service}.{ns}:{port}"),
            ResourceType::Listener => [
                format!("{service}.{ns}.svc.cluster.local"),
                format!("{service}.{ns}.svc.cluster.local:{port}"),
                format!("{service}.{ns}:{port}"),
                service.to_owned(),
            ][form]
                .clone(),
            ResourceType::Route => format!("{service}.{ns}:{port}/{}", [STAR, STAR, "citizen", "police"][form]),
            // Another workload's, which is nothing to it; its own has a property by itself.
            ResourceType::WorkloadPolicy => format!("{ns}/{service}"),
            ResourceType::TrustRoots => "ROOTCA".to_owned(),
        };
        (of, name)
    })
}

fn step() -> impl Strategy<Value = Step> {
    let client = || 0..clients().len();
    let verdict = one_of(&[None, None, Some("no such thing"), Some("portal.citizen:80 is wrong")]);
    prop_oneof![
        8 => object().prop_map(|object| Step::Write(Box::new(object))),
        3 => object().prop_map(|object| Step::Delete(object.key())),
        8 => (client(), subscription()).prop_map(|(at, (of, name))| Step::Ask(at, of, name)),
        1 => (client(), subscription()).prop_map(|(at, (of, name))| Step::LetGo(at, of, name)),
        1 => (client(), one_of(&[ResourceType::Listener, ResourceType::Cluster]))
            .prop_map(|(at, of)| Step::Everything(at, of)),
        4 => (client(), one_of(&ResourceType::ALL), verdict).prop_map(|(at, of, why)| Step::Judge(at, of, why)),
        1 => client().prop_map(Step::Reconnect),
    ]
}

/// Opens the stream of one of [`clients`].
fn open(at: usize, world: &mut World) -> Client {
    let (namespace, dialect, variant) = clients().swap_remove(at);
    let id = at as u64 + 1;
    Client::open(id, identity(&format!("{namespace}/w{id}"), dialect), variant, world)
}

/// What the model keeps for a client.
fn kept(model: &Model, id: StreamId) -> BTreeSet<Wanted> {
    let resources = model.resources.iter();
    let kept = resources.filter(|(_, resource)| resource.subscribers.contains(&id));
    kept.map(|(wanted, _)| wanted.clone()).collect()
}

/// All that happens, and what is known of it.
struct Course {
    world: World,
    present: Vec<Client>,
    anew: Anew,
    /// What each version of an Envoy's routes names.
    named_by: BTreeMap<Version, BTreeSet<String>>,
}

impl Course {
    fn begin() -> Result<Course, TestCaseError> {
        let mut world = World::new([]);
        world.model.set_roots("PEM".to_owned(), world.now);
        let present = (0..clients().len()).map(|at| open(at, &mut world)).collect();
        let mut course = Course {
            anew: Anew::of(&world),
            world,
            present,
            named_by: BTreeMap::new(),
        };
        for at in 0..course.present.len() {
            course.ask_everything(at)?;
        }
        Ok(course)
    }

    fn ask_everything(&mut self, at: usize) -> Result<(), TestCaseError> {
        if self.present[at].is_envoy() {
            for of in [ResourceType::Cluster, ResourceType::Listener] {
                self.ask(at, of, &[STAR], &[])?;
            }
        }
        Ok(())
    }

    fn ask(&mut self, at: usize, of: ResourceType, more: &[&str], less: &[&str]) -> Result<(), TestCaseError> {
        let client = &mut self.present[at];
        let told = client.ask(of, more, less, &mut self.world);
        if client.variant == Variant::Delta {
            let named = |name: &&str| {
                **name == *STAR
                    || told
                        .iter()
                        .any(|answer| answer.items.iter().any(|item| item.name == **name))
            };
            prop_assert!(more.iter().all(named), "{} {:?} is not answered: {:?}", of, more, told);
        }
        self.hear(at, &told)
    }

    fn write(&mut self, event: Arc<Event>) -> Result<(), TestCaseError> {
        self.anew = Anew::of(&self.world);
        let mut pushes = self.world.model.changed(&[event], self.world.now);
        for at in 0..self.present.len() {
            let told = pushes.remove(&self.present[at].id).unwrap_or_default();
            self.present[at].needs(&told)?;
            self.hear(at, &told)?;
        }
        prop_assert!(pushes.is_empty());
        Ok(())
    }

    /// Part by part: at no moment do an Envoy's routes name a cluster that exists and that it does not have.
    fn hear(&mut self, at: usize, told: &[Told]) -> Result<(), TestCaseError> {
        let client = &mut self.present[at];
        for answer in told {
            client.hear(answer);
            let Some(scope) = scope(&client.identity) else {
                continue;
            };
            if let Some(now) = self.anew.version(ResourceType::Route, OUTBOUND, &client.identity) {
                let clusters = self.anew.clusters(scope).clone();
                self.named_by.insert(now, clusters);
            }
            let routes = client.told.get(&(ResourceType::Route, OUTBOUND.to_owned()));
            let (Some(Some(routes)), true) = (routes, client.asks(ResourceType::Cluster, STAR)) else {
                continue;
            };
            for cluster in &self.named_by[routes] {
                let exists = self
                    .anew
                    .version(ResourceType::Cluster, cluster, &client.identity)
                    .is_some();
                let has = client.has(ResourceType::Cluster, cluster);
                prop_assert!(has || !exists, "its routes name {} before it has it", cluster);
            }
        }
        Ok(())
    }

    fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        let is_to_name = |client: &Client, of| !client.is_envoy() || of == ResourceType::Cluster;
        match step {
            Step::Write(object) => {
                let event = self.world.event(object.key(), Some(*object));
                self.write(event)?;
            }
            Step::Delete(key) if self.world.held.contains_key(&key) => {
                let event = self.world.event(key, None);
                self.write(event)?;
            }
            Step::Ask(at, of, name) if is_to_name(&self.present[at], of) => self.ask(at, of, &[&name], &[])?,
            Step::LetGo(at, of, name) if is_to_name(&self.present[at], of) => self.ask(at, of, &[], &[&name])?,
            Step::Everything(at, of) if self.present[at].is_envoy() => match self.present[at].asks(of, STAR) {
                true => self.ask(at, of, &[], &[STAR])?,
                false => self.ask(at, of, &[STAR], &[])?,
            },
            Step::Judge(at, of, error) => {
                let told = self.present[at].judge(of, error, &mut self.world);
                self.hear(at, &told)?;
            }
            Step::Reconnect(at) => {
                self.world.model.close(self.present[at].id);
                self.present[at] = open(at, &mut self.world);
                self.ask_everything(at)?;
            }
            Step::Delete(_) | Step::Ask(..) | Step::LetGo(..) | Step::Everything(..) => {}
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        for at in 0..self.present.len() {
            let told = self.present[at].follow(&mut self.world);
            self.hear(at, &told)?;
            let client = &mut self.present[at];
            client.check(&mut self.anew)?;
            client.finds_out(&mut self.anew);
            let subscribed = client.subscribed(&mut self.anew);
            let expect = subscribed
                .iter()
                .filter_map(|(of, name)| Wanted::read(*of, name, &client.identity));
            let expect: BTreeSet<Wanted> = expect.collect();
            prop_assert_eq!(
                kept(&self.world.model, client.id),
                expect,
                "{}",
                client.identity.workload
            );
        }
        for (wanted, resource) in &self.world.model.resources {
            if let Wanted::Endpoints(..) = wanted {
                prop_assert_eq!(unsaid(&resource.now), self.anew.unsaid(wanted), "{:?}", wanted);
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_pushed_is_what_is_computed_anew(steps in prop::collection::vec(step(), 1..80)) {
        let mut course = Course::begin()?;
        for step in steps {
            course.take(step)?;
            course.check()?;
        }
        for client in &course.present {
            course.world.model.close(client.id);
        }
        let Model { resources, by_service, on_all, .. } = &course.world.model;
        prop_assert!(resources.is_empty() && by_service.is_empty() && on_all.is_empty(), "nothing is kept for nobody");
    }
}
