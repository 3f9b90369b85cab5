//! What weir proxies are told of the policies for their own workloads.

use proptest::prelude::*;
use weir_api::telemetry_policy::{AccessLog, TelemetryPolicySpec, WorkloadSelector};

use super::*;
use crate::proxies::Extent;

const OF: ResourceType = ResourceType::WorkloadPolicy;

fn edge() -> BTreeMap<String, String> {
    BTreeMap::from([("tier".to_owned(), "edge".to_owned())])
}

#[test]
fn a_policy_is_told_to_everybody_and_by_labels_once_they_are_known() {
    let spec = TelemetryPolicySpec {
        selector: Some(WorkloadSelector { match_labels: edge() }),
        access_log: Some(AccessLog::Errors),
        ..TelemetryPolicySpec::default()
    };
    let policy = Object::new("citizen", "p", Spec::TelemetryPolicy(spec));
    let mut workload = fixture::workload("citizen", "w", "10.0.0.1", &[(8080, 15006)]);
    workload.metadata.labels = edge();
    let mut world = World::new([policy.clone()]);
    world.open(1, "citizen/w");
    assert_eq!(world.subscribe(1, OF, &["citizen/w"]), ["1 1 policy citizen/w"]);
    assert_eq!(
        world.subscribe(1, OF, &["citizen/x"]),
        ["1 2 -policy citizen/x"],
        "another's"
    );
    assert_eq!(world.view(&policy.key()), "NoSubscribers [0, 0, 0]");
    assert_eq!(world.put(workload.clone()), ["1 3 policy citizen/w"]);
    assert_eq!(world.view(&policy.key()), "Progressing [0, 1, 0]");
    world.answer(1, OF, 3, None);
    assert_eq!(world.view(&policy.key()), "InForce [1, 0, 0]");
    let workloads = [(policy.key(), vec![Extent::Workloads("citizen".to_owned())])];
    let summary = proxies::summaries(&world.model, &workloads).of.remove(0).remove(0);
    assert_eq!(summary.in_force, 1);
    assert_eq!(
        world.delete(&workload),
        ["1 4 policy citizen/w"],
        "whatever its labels are"
    );
    assert_eq!(world.put(workload.clone()), ["1 5 policy citizen/w"]);
    assert_eq!(world.delete(&policy), ["1 6 policy citizen/w"]);
    assert_eq!(world.delete(&workload), [""; 0], "it makes no difference");
    world.model.close(StreamId(1));
    assert!(world.model.policies_in.is_empty() && world.model.resources.is_empty());
}

/// A door that labels may close is closed until they are known.
#[test]
fn how_ports_are_entered_is_told_to_those_who_have_not_registered() {
    let config = |mutual_tls: &str| fixture::mesh_config(mutual_tls);
    let mut workload = fixture::workload("citizen", "w", "10.0.0.1", &[(8080, 15006)]);
    let elsewhere = fixture::workload("police", "w", "10.0.0.2", &[(8080, 15006)]);
    let mut world = World::new([elsewhere]);
    for (id, workload) in [(1, "citizen/w"), (2, "police/w")] {
        world.open(id, workload);
        assert_eq!(
            world.subscribe(id, OF, &[workload]),
            [format!("{id} 1 policy {workload}")]
        );
    }
    let computed = world.model.computed();
    let for_edge = "{overrides: [{namespaces: [citizen], selector: {matchLabels: {tier: edge}}, mode: Strict}]}";
    let now = config(for_edge);
    assert_eq!(world.put(now.clone()), ["1 2 policy citizen/w"]);
    assert_eq!(world.model.computed() - computed, 2, "police's has it as a source");
    assert_eq!(world.view(&now.key()), "Progressing [0, 2, 0]");
    world.answer(1, OF, 2, None);
    world.answer(2, OF, 1, None);
    assert_eq!(world.view(&now.key()), "InForce [2, 0, 0]");
    assert_eq!(
        world.put(workload.clone()),
        ["1 3 policy citizen/w"],
        "its labels say no"
    );
    workload.metadata.labels = edge();
    assert_eq!(world.put(workload.clone()), ["1 4 policy citizen/w"], "they say yes");
    let computed = world.model.computed();
    assert_eq!(
        world.put(config("{overrides: [{namespaces: [citizen], mode: Strict}]}")),
        [""; 0]
    );
    assert_eq!(world.model.computed(), computed, "nobody's ports are entered otherwise");
    assert_eq!(
        world.put(config(
            "{mode: Strict, overrides: [{namespaces: [citizen], mode: Strict}]}"
        )),
        ["2 2 policy police/w"]
    );
    assert_eq!(world.model.computed() - computed, 1);
    world.delete(&now);
    assert_eq!(world.view(&workload.key()), "NoSubscribers [0, 0, 0]");
}

#[test]
fn the_list_of_proxies_says_how_ports_are_entered() {
    let mut workload = fixture::workload("citizen", "w", "10.0.0.1", &[(9090, 1), (8080, 2), (7070, 3)]);
    if let Spec::Workload(spec) = &mut workload.spec {
        spec.ports[2].edge = true;
    }
    let workload = fixture::with_account(workload, "portal");
    let config = fixture::mesh_config("{mode: Strict, overrides: [{ports: [9090], mode: 'Off'}]}");
    let mut world = World::new([workload, config]);
    // Of which nothing is registered.
    world.open(1, "citizen/x");
    let list = |world: &World| {
        let list = proxies::list(&world.model, world.now).items.into_iter();
        let shown = list.map(|proxy| {
            let ports = proxy.ports.into_iter();
            let ports: Vec<String> = ports
                .map(|port| format!("{} {}", port.app_port, port.entered))
                .collect();
            (proxy.name, proxy.connected, proxy.account, ports.join(", "))
        });
        shown.collect::<Vec<_>>()
    };
    let shown = |name: &str, connected, account: &str, ports: &str| {
        (name.to_owned(), connected, account.to_owned(), ports.to_owned())
    };
    let entered = "7070 Edge, 8080 Strict, 9090 Off";
    let other = shown("citizen/x", true, "", "");
    assert_eq!(
        list(&world),
        [shown("citizen/w", false, "portal", entered), other.clone()]
    );
    world.open(2, "citizen/w");
    assert_eq!(list(&world), [shown("citizen/w", true, "portal", entered), other]);
}

#[derive(Clone, Debug)]
enum Step {
    Write(Box<Object>),
    Delete(Key),
    /// Of the workload in this one of the namespaces.
    Reconnect(usize),
}

const NAMESPACES: [&str; 2] = ["citizen", "police"];

fn namespace() -> impl Strategy<Value = &'static str> {
    prop::sample::select(NAMESPACES.to_vec())
}

/// A label, or none.
fn tier() -> impl Strategy<Value = Option<(String, String)>> {
    let tiers = prop::sample::select(vec!["edge", "core"]);
    prop::option::of(tiers.prop_map(|tier| ("tier".to_owned(), tier.to_owned())))
}

fn object() -> impl Strategy<Value = Object> {
    let workload = (namespace(), 1..3_u16, tier());
    let workload = workload.prop_map(|(namespace, port, tier)| {
        let mut workload = fixture::workload(namespace, "w", "10.0.0.1", &[(8080, port)]);
        workload.metadata.labels = tier.into_iter().collect();
        workload
    });
    let mesh = prop::sample::select(MESHES.to_vec()).prop_map(fixture::mesh_config);
    let logs = prop::sample::select(vec![AccessLog::All, AccessLog::Errors, AccessLog::Off]);
    let name = prop::sample::select(vec!["a", "b"]);
    let policy = (namespace(), name, tier(), logs).prop_map(|(namespace, name, tier, log)| {
        let selector = tier.map(|label| WorkloadSelector {
            match_labels: BTreeMap::from([label]),
        });
        let spec = TelemetryPolicySpec {
            selector,
            access_log: Some(log),
            ..TelemetryPolicySpec::default()
        };
        Object::new(namespace, name, Spec::TelemetryPolicy(spec))
    });
    prop_oneof![2 => workload, 4 => policy, 1 => mesh]
}

const MESHES: [&str; 5] = [
    "{mode: Strict}",
    "{overrides: [{namespaces: [police], mode: Strict}]}",
    "{overrides: [{selector: {matchLabels: {tier: edge}}, mode: Strict}, {ports: [8080], mode: 'Off'}]}",
    "{mode: 'Off', overrides: [{selector: {matchLabels: {tier: core}}, ports: [8080], mode: Permissive}]}",
    "{}",
];

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => object().prop_map(|object| Step::Write(Box::new(object))),
        3 => object().prop_map(|object| Step::Delete(object.key())),
        1 => (0..NAMESPACES.len()).prop_map(Step::Reconnect),
    ]
}

/// What each stream was told last; none: nothing yet.
type Said = BTreeMap<u64, Option<Version>>;

fn hear(said: &mut Said, id: u64, told: Vec<Told>) {
    for item in told.into_iter().flat_map(|told| told.items) {
        said.insert(id, item.resource.map(|(_, version)| version));
    }
}

fn connect(world: &mut World, said: &mut Said, id: u64, workload: &str) {
    said.remove(&id);
    world.open(id, workload);
    let asked = delta(&[workload], &[]);
    let told = world.model.ask(StreamId(id), OF, asked, world.now);
    hear(said, id, told.expect("few names"));
}

proptest! {
    /// Whatever happens in whatever order, each proxy was last told what a computation of everything from the beginning
    /// gives, whether or not its workload is there.
    #[test]
    fn what_is_pushed_is_what_is_computed_anew(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new([]);
        let mut said = Said::new();
        let name = |at: usize| format!("{}/w", NAMESPACES[at]);
        for at in 0..NAMESPACES.len() {
            connect(&mut world, &mut said, at as u64, &name(at));
        }
        for step in steps {
            let event = match step {
                Step::Write(object) => Some(world.event(object.key(), Some(*object))),
                Step::Delete(key) if world.held.contains_key(&key) => Some(world.event(key, None)),
                Step::Delete(_) => None,
                Step::Reconnect(at) => {
                    world.model.close(StreamId(at as u64));
                    connect(&mut world, &mut said, at as u64, &name(at));
                    None
                }
            };
            if let Some(event) = event {
                for (id, told) in world.model.changed(&[event], world.now) {
                    hear(&mut said, id.0, told);
                }
            }
            let mut anew = Index::default();
            for (key, stored) in &world.held {
                anew.apply(key, Some(Arc::clone(&stored.object)));
            }
            for at in 0..NAMESPACES.len() {
                let wanted = Wanted::WorkloadPolicy(name(at).parse().expect("a workload"));
                let now = wanted::computed(&wanted, &anew);
                let expect = now.message.map(|(_, version)| version);
                prop_assert!(expect.is_some(), "it is never left without one");
                prop_assert_eq!(said.get(&(at as u64)), Some(&expect), "{}", name(at));
                let sources = |computed: Vec<(Key, i64)>| computed.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
                let held = &world.model.resources[&wanted].now;
                prop_assert_eq!(sources(held.sources.clone()), sources(now.sources), "{}", name(at));
            }
        }
    }
}
