//! Whether what users write has an effect: every field of the sample documents, which hold every field that there is
//! (weir-api's tests see to that), changes what a proxy is sent when it is changed or left out, or stands below with
//! why it does not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};
use weir_api::http_route::BackendRef;
use weir_api::service::TargetPort;
use weir_api::{FieldError, Key, Kind, Object, Spec, schema, yaml};
use weir_policy::names::{ClusterName, Consumers, Label, ListenerName, RouteName, ServiceName, WorkloadName};
use weir_policy::roots::RootsName;

use super::index::{Index, name_of, service_name};
use super::wanted::{Terms, Wanted, computed};
use super::{Version, fixture};
use crate::slices;
use crate::store::{Op, Revision, Stored};

/// Fields that change nothing that a proxy is sent, and why.
const WITHOUT: &[(&str, &str)] = &[
    ("ConfigMap binaryData.empty", "kept as given: certificates are text"),
    ("ConfigMap binaryData.logo.png", "kept as given: certificates are text"),
    ("ConfigMap binaryData.one", "kept as given: certificates are text"),
    ("ConfigMap data.note", "kept as given: certificates are in ca.crt"),
    ("ConfigMap immutable", "says whether it can be changed"),
    (
        "EndpointSlice endpoints[].hostname",
        "kept as given: callers use addresses",
    ),
    (
        "EndpointSlice endpoints[].nodeName",
        "kept as given: the zone says where it is",
    ),
    (
        "EndpointSlice ports[].appProtocol",
        "kept as given: the Service's port says it",
    ),
    ("Service spec.clusterIP", "kept as given: services have no addresses"),
    ("Service spec.clusterIPs[]", "kept as given, as clusterIP is"),
    (
        "Service spec.internalTrafficPolicy",
        "kept as given: Cluster, what the mesh does",
    ),
    (
        "Service spec.ipFamilies[]",
        "kept as given: endpoints say their own family",
    ),
    (
        "Service spec.ipFamilyPolicy",
        "kept as given: endpoints say their own family",
    ),
    (
        "Service spec.sessionAffinity",
        "kept as given: None, what the mesh does",
    ),
    ("Workload spec.instance", "decides which of two registrations holds"),
    ("Workload spec.version", "shown to people"),
];

/// Fields of which only one value is taken, besides those that say of what sort the object is that they stand in.
const FIXED: &[(&str, &str)] = &[
    (
        "BackendTLSPolicy spec.validation.wellKnownCACertificates",
        "System is all there is",
    ),
    ("EndpointSlice addressType", "goes with the addresses"),
    (
        "EndpointSlice endpoints[].targetRef.apiVersion",
        "not kept: Kubernetes writes it",
    ),
    (
        "EndpointSlice endpoints[].targetRef.fieldPath",
        "not kept: Kubernetes writes it",
    ),
    (
        "EndpointSlice endpoints[].targetRef.resourceVersion",
        "not kept: Kubernetes writes it",
    ),
    (
        "EndpointSlice endpoints[].targetRef.uid",
        "not kept: Kubernetes writes it",
    ),
    ("Namespace spec.finalizers[]", "kubernetes is all there is"),
];

/// What says of what sort an object is: the rest of it goes with that.
const SORTS: [&str; 4] = ["group", "kind", "protocol", "type"];

#[test]
fn every_field_has_an_effect_or_says_why_it_has_none() {
    let mut effects: BTreeMap<String, Effect> = BTreeMap::new();
    for &kind in Kind::ALL {
        for document in samples(kind) {
            let object = read(&document).unwrap_or_else(|wrong| panic!("{kind}: {wrong:?}: {document:#}"));
            let mut mesh = Mesh::around(object.clone());
            for (place, changed) in changes(kind, &document) {
                let known = effects.entry(format!("{kind} {place}")).or_insert(Effect::Refused);
                if *known != Effect::Some
                    && let Ok(changed) = read(&changed)
                    && changed != object
                {
                    *known = mesh.changes_with(changed);
                }
            }
        }
    }
    let is_sort = |place: &str| SORTS.iter().any(|name| place.ends_with(&format!(".{name}")));
    effects.retain(|place, effect| *effect != Effect::Refused || !is_sort(place));
    let of = |wanted: Effect| -> BTreeSet<&str> {
        let found = effects.iter().filter(|(_, effect)| **effect == wanted);
        found.map(|(place, _)| place.as_str()).collect()
    };
    let listed = |list: &[(&'static str, &str)]| -> BTreeSet<&str> { list.iter().map(|(place, _)| *place).collect() };
    assert_eq!(of(Effect::None), listed(WITHOUT), "without effect");
    assert_eq!(of(Effect::Refused), listed(FIXED), "can't be changed");
}

/// What came of changing a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// No change of it was taken.
    Refused,
    /// Proxies are sent the same.
    None,
    /// They are sent something else.
    Some,
}

fn samples(kind: Kind) -> Vec<Value> {
    let name = format!("api/tests/testdata/samples/{}.yaml", kind.singular());
    let text = std::fs::read_to_string(&name).unwrap_or_else(|error| panic!("{name}: {error}"));
    let documents = yaml::read(&text, &name).unwrap_or_else(|wrong| panic!("{wrong:?}"));
    documents.into_iter().map(|document| document.value).collect()
}

/// A document with one value changed or left out, and where that is, items without number: `spec.rules[].name`.
fn changes(kind: Kind, document: &Value) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for (pointer, place) in places(document) {
        let outside = ["apiVersion", "kind", "metadata", "status"];
        if outside
            .iter()
            .any(|part| place == *part || place.starts_with(&format!("{part}.")))
        {
            continue;
        }
        let held = document.pointer(&pointer).expect("it is there");
        if held.is_object() || held.is_array() {
            continue;
        }
        for other in others(held).into_iter().chain(words(kind, &place)) {
            let mut changed = document.clone();
            *changed.pointer_mut(&pointer).expect("it is there") = other;
            found.push((place.clone(), changed));
        }
        let (parent, last) = pointer.rsplit_once('/').expect("a field");
        let mut changed = document.clone();
        match changed.pointer_mut(parent).expect("it is there") {
            Value::Object(fields) => {
                fields.remove(&last.replace("~1", "/").replace("~0", "~"));
            }
            Value::Array(items) => {
                items.remove(last.parse().expect("an item's number"));
            }
            other => panic!("{parent} has nothing in it: {other}"),
        }
        found.push((place, changed));
    }
    found
}

/// All that is in a document: as a JSON pointer, and as a place.
fn places(document: &Value) -> Vec<(String, String)> {
    fn go(pointer: &str, place: &str, value: &Value, found: &mut Vec<(String, String)>) {
        for (name, value) in value.as_object().into_iter().flatten() {
            let pointer = format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"));
            let place = if place.is_empty() {
                name.clone()
            } else {
                format!("{place}.{name}")
            };
            found.push((pointer.clone(), place.clone()));
            go(&pointer, &place, value, found);
        }
        for (index, value) in value.as_array().into_iter().flatten().enumerate() {
            let (pointer, place) = (format!("{pointer}/{index}"), format!("{place}[]"));
            found.push((pointer.clone(), place.clone()));
            go(&pointer, &place, value, found);
        }
    }
    let mut found = Vec::new();
    go("", "", document, &mut found);
    found
}

/// Values unlike this one of which some may be taken in its place.
fn others(held: &Value) -> Vec<Value> {
    match held {
        Value::Bool(held) => vec![json!(!held)],
        Value::Number(held) => {
            let Some(held) = held.as_i64() else {
                return vec![json!(held.as_f64().map(|held| held / 2.0))];
            };
            [held + 1, held - 1, held * 2, 90].map(Value::from).to_vec()
        }
        Value::String(held) => {
            let texts = [
                format!("{held}x"),
                format!("x{held}"),
                format!("{held}/x"),
                // A name that is there too, a time, an address.
                "labs".to_owned(),
                "other".to_owned(),
                "y".to_owned(),
                "7s".to_owned(),
                "25ms".to_owned(),
                "10.9.9.9".to_owned(),
                "2001:db8::9".to_owned(),
            ];
            texts.into_iter().filter(|text| text != held).map(Value::from).collect()
        }
        Value::Null | Value::Array(_) | Value::Object(_) => Vec::new(),
    }
}

/// The words that a kind lists for a place.
fn words(kind: Kind, place: &str) -> Vec<Value> {
    fn resolved(kind: Kind, schema: &Value) -> &Value {
        let target = schema["$ref"].as_str().or_else(|| schema["allOf"][0]["$ref"].as_str());
        match target.and_then(|target| target.strip_prefix("#/components/schemas/")) {
            Some(name) => &schema::components(kind.group())[name],
            None => schema,
        }
    }
    let mut schema = schema::of(kind);
    for step in place.split('.') {
        let name = step.trim_end_matches("[]");
        schema = &resolved(kind, schema)["properties"][name];
        for _ in 0..step.matches("[]").count() {
            schema = &resolved(kind, schema)["items"];
        }
    }
    resolved(kind, schema)["enum"].as_array().cloned().unwrap_or_default()
}

fn read(document: &Value) -> Result<Object, Vec<FieldError>> {
    let object = match document["metadata"]["namespace"].as_str() {
        Some(_) => Object::parse(document.clone()),
        None => Object::parse_in(document.clone(), Some("citizen")),
    }?;
    super::check(&object)?;
    Ok(object)
}

/// What was written, and what proxies are sent for it.
struct Mesh {
    written: BTreeMap<Key, Object>,
    index: Index,
    sent: BTreeMap<About, BTreeMap<String, Version>>,
}

/// What proxies are sent something about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum About {
    Service(ServiceName),
    Workload(WorkloadName),
    Roots,
}

impl Mesh {
    /// With a resource, and with what it refers to.
    fn around(object: Object) -> Mesh {
        let mut written: BTreeMap<Key, Object> = BTreeMap::new();
        for object in surroundings(object.kind()).into_iter().chain([object]) {
            written.insert(object.key(), object);
        }
        let mut index = fixture::index(with_slices(&written).into_values());
        index.set_roots("PEM".to_owned());
        let named = written.values().filter_map(|object| match object.kind() {
            Kind::Service => service_name(&object.metadata.namespace, &object.metadata.name).map(About::Service),
            Kind::Workload => name_of(object).map(About::Workload),
            _ => None,
        });
        let about = named.chain([About::Roots]);
        let sent = about.map(|about| (about.clone(), sent(&about, &index))).collect();
        Mesh { written, index, sent }
    }

    /// What it would come to if a resource were written again so.
    fn changes_with(&mut self, object: Object) -> Effect {
        let (before, mut written) = (with_slices(&self.written), self.written.clone());
        written.insert(object.key(), object);
        let after = with_slices(&written);
        let differs = |key: &&Key| before.get(*key) != after.get(*key);
        let changed: BTreeSet<&Key> = before.keys().chain(after.keys()).filter(differs).collect();
        let put = |index: &mut Index, objects: &BTreeMap<Key, Object>| -> BTreeSet<About> {
            let object = |key| objects.get(key).cloned().map(Arc::new);
            let touched = changed.iter().filter_map(|key| index.apply(key, object(*key)));
            let about = touched.flat_map(|touched| {
                let services = touched.services.into_iter().map(|(service, _)| About::Service(service));
                let roots = touched.trust_domains.then_some(About::Roots);
                let workloads = touched.workloads.into_iter().map(About::Workload);
                services.chain(workloads).chain(roots)
            });
            about.collect()
        };
        let touched = put(&mut self.index, &after);
        let is_same = |about: &About| self.sent.get(about) == Some(&sent(about, &self.index));
        let effect = if touched.iter().all(is_same) {
            Effect::None
        } else {
            Effect::Some
        };
        put(&mut self.index, &before);
        effect
    }
}

/// All that weir proxies of any namespace are sent about it.
fn sent(about: &About, index: &Index) -> BTreeMap<String, Version> {
    let mut sent = BTreeMap::new();
    let mut send = |wanted: Wanted| {
        let message = computed(&wanted, index).message;
        sent.extend(message.map(|(_, version)| (format!("{wanted:?}"), version)));
    };
    let service = match about {
        About::Service(service) => service,
        About::Workload(workload) => {
            send(Wanted::WorkloadPolicy(workload.clone()));
            return sent;
        }
        About::Roots => {
            send(Wanted::TrustRoots(Terms::Weir, RootsName));
            return sent;
        }
    };
    let clients = ["citizen", "labs", "portal"].map(|namespace| namespace.parse::<Label>().expect("a label"));
    let spec = index.service(service).map(|service| service.spec);
    let ports = spec.into_iter().flat_map(|spec| &spec.ports).map(|port| port.port);
    for port in ports.map(Some).chain([None]) {
        for client in &clients {
            let service = service.clone();
            send(Wanted::Listener(ListenerName { service, port }, client.clone()));
        }
        let Some(port) = port else { continue };
        let cluster = ClusterName {
            service: service.clone(),
            port,
        };
        send(Wanted::Cluster(Terms::Weir, cluster.clone()));
        send(Wanted::Endpoints(Terms::Weir, cluster.clone()));
        for consumers in clients
            .iter()
            .cloned()
            .map(Consumers::Namespace)
            .chain([Consumers::Any])
        {
            let cluster = cluster.clone();
            send(Wanted::Route(Terms::Weir, RouteName { cluster, consumers }));
        }
    }
    sent
}

/// What the samples of a kind refer to, and what is written for them to have an effect on.
fn surroundings(kind: Kind) -> Vec<Object> {
    let mut objects = Vec::new();
    let ports = [("http", 80), ("h2c", 81), ("grpc", 90), ("more", 91)];
    for namespace in ["citizen", "labs"] {
        for name in ["nucleic-acid-test", "vaccination", "other", "labs"] {
            objects.push(fixture::service(namespace, name, &ports));
        }
        let versions = (1..=7).map(|version| format!("nat-v{version}"));
        for name in versions.chain(["vaccination-v1".to_owned(), "vaccination-v2".to_owned()]) {
            objects.push(fixture::service(namespace, &name, &[("http", 80), ("grpc", 90)]));
        }
    }
    match kind {
        Kind::ReferenceGrant => {
            let abroad = |to: &str| {
                ["nat-v2", "nat-v3"].map(|name| BackendRef {
                    namespace: Some(to.to_owned()),
                    ..fixture::backend(name)
                })
            };
            for (from, to) in [("citizen", "labs"), ("portal", "citizen")] {
                let mut route = fixture::route(from, "http", to, "other");
                fixture::spec_of(&mut route).rules[0].backend_refs = abroad(to).to_vec();
                objects.push(route);
                let mut route = fixture::grpc_route(from, "grpc", to, "vaccination");
                fixture::grpc_spec_of(&mut route).rules[0].backend_refs = abroad(to).to_vec();
                objects.push(route);
            }
            let mut policy = fixture::route_policy("copies", &[(Kind::Service, "other", None)]);
            let mirror = fixture::mirror(Some("labs"), "nat-v2");
            fixture::route_policy_spec_of(&mut policy).mirror = Some(vec![mirror]);
            objects.push(policy);
        }
        Kind::HttpRoute | Kind::GrpcRoute => {
            for from in ["citizen", "labs"] {
                for to in ["citizen", "labs"] {
                    let name = format!("from-{from}");
                    objects.push(fixture::grant_for(kind, to, &name, from, None));
                }
            }
        }
        Kind::Service | Kind::Workload | Kind::EndpointSlice => {
            let mut service = fixture::service("citizen", "health-code", &[("http", 80), ("h2c", 81), ("grpc", 82)]);
            if let Spec::Service(spec) = &mut service.spec {
                spec.ports[0].target_port = Some(TargetPort::Name("http".to_owned()));
                spec.ports[1].target_port = Some(TargetPort::Number(fixture::port(8081)));
                spec.ports[2].target_port = Some(TargetPort::Number(fixture::port(9090)));
            }
            // A slice of the control plane's own would say the same again.
            objects.push(match kind {
                Kind::EndpointSlice => service,
                _ => fixture::selecting(service),
            });
            let policy = json!({
                "apiVersion": "weir.dev/v1", "kind": "BackendPolicy",
                "metadata": {"name": "of-a-port", "namespace": "citizen"},
                "spec": {
                    "targetRefs": [{"group": "", "kind": "Service", "name": "health-code", "sectionName": "http"}],
                    "connectTimeout": "3s",
                },
            });
            objects.push(Object::parse(policy).expect("a policy"));
            let mut workload =
                fixture::workload("citizen", "health-code-1", "10.1.2.3", &[(8080, 15006), (9090, 15007)]);
            workload
                .metadata
                .labels
                .insert("app".to_owned(), "health-code".to_owned());
            workload.status = Some(json!({"state": "Confirmed", "readyAppPorts": [8080, 9090]}));
            objects.push(workload);
        }
        Kind::RoutePolicy => {
            let mut route = fixture::route("citizen", "health.code", "citizen", "nucleic-acid-test");
            fixture::spec_of(&mut route).rules[0].name = Some("read".to_owned());
            objects.push(route);
            objects.push(fixture::grpc_route("citizen", "vaccination", "citizen", "vaccination"));
            objects.push(fixture::service("citizen", "portal", &[("http", 80)]));
            objects.push(fixture::route("citizen", "portal", "citizen", "portal"));
            objects.push(fixture::grant_for(kind, "labs", "from-citizen", "citizen", None));
        }
        Kind::TelemetryPolicy => {
            let mut workload = fixture::workload("citizen", "portal-1", "10.1.2.3", &[(8080, 15006)]);
            for (name, value) in [("app", "portal"), ("tier", "edge")] {
                workload.metadata.labels.insert(name.to_owned(), value.to_owned());
            }
            objects.push(workload);
        }
        // Health checks by gRPC are for ports that speak it.
        Kind::BackendPolicy => objects.push(fixture::service("citizen", "vaccination", &[("grpc", 90)])),
        Kind::MeshConfig => {
            for namespace in ["citizen", "labs", "legacy"] {
                let ports = [(7070, 15005), (8080, 15006), (9090, 15007)];
                let mut workload = fixture::workload(namespace, "portal-1", "10.1.2.3", &ports);
                for (name, value) in [("app", "portal"), ("tier", "edge")] {
                    workload.metadata.labels.insert(name.to_owned(), value.to_owned());
                }
                objects.push(workload);
            }
        }
        Kind::BackendTlsPolicy | Kind::ConfigMap => {
            for (namespace, names) in [
                ("registers", ["land-register", "archive", "labs"].as_slice()),
                ("citizen", &["weather"]),
            ] {
                for name in names {
                    objects.push(fixture::service(namespace, name, &[("https", 443), ("labs", 444)]));
                }
            }
            for (name, of) in [("land-register-ca", "a"), ("labs", "b")] {
                let mut map = fixture::config_map(name, "ca.crt", &fixture::certificate(of).pem());
                map.metadata.namespace = "registers".to_owned();
                objects.push(map);
            }
            let mut policy = fixture::tls_policy("of-a-port", 1, Some("https"), &["land-register-ca"]);
            policy.metadata.namespace = "registers".to_owned();
            fixture::tls_spec_of(&mut policy).target_refs[0].name = "labs".to_owned();
            objects.push(policy);
        }
        Kind::Namespace => {}
    }
    objects
}

/// With the slices that the control plane writes for them.
fn with_slices(written: &BTreeMap<Key, Object>) -> BTreeMap<Key, Object> {
    let of = |kind: Kind| -> Vec<Arc<Stored>> {
        let objects = written.values().filter(|object| object.kind() == kind);
        let stored = objects.map(|object| Stored {
            object: Arc::new(object.clone()),
            revision: Revision(1),
        });
        stored.map(Arc::new).collect()
    };
    let writes = slices::solve(&of(Kind::Service), &of(Kind::Workload), &of(Kind::EndpointSlice));
    let slices = writes.into_iter().map(|write| match write {
        Op::Create(slice) => (slice.key(), slice),
        other => panic!("there were none: {other:?}"),
    });
    written.clone().into_iter().chain(slices).collect()
}
