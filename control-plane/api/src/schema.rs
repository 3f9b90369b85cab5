//! What each kind looks like, as Kubernetes' OpenAPI v3 has it: made from the types and their doc comments.
//!
//! The schemas say what the reader takes. What they can't say (that a name occurs once, that two fields exclude each
//! other) stands in the description of the type, in a paragraph that begins with `Rule:`.
//!
//! Beyond OpenAPI 3.0 and Kubernetes' own extensions: `x-weir-minimum` and `x-weir-maximum` bound a duration,
//! `x-weir-form` names a pattern.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema, json_schema};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::backend_policy::BackendPolicySpec;
use crate::backend_tls_policy::BackendTlsPolicySpec;
use crate::config_map::ConfigMapBody;
use crate::endpoint_slice::EndpointSliceBody;
use crate::grpc_route::GrpcRouteSpec;
use crate::http_route::HttpRouteSpec;
use crate::kind::Kind;
use crate::mesh_config::MeshConfigSpec;
use crate::namespace::{NamespaceSpec, NamespaceStatus};
use crate::object::Metadata;
use crate::reference_grant::ReferenceGrantSpec;
use crate::route_policy::RoutePolicySpec;
use crate::service::ServiceSpec;
use crate::status::{MeshStatus, PolicyStatus, RouteStatus};
use crate::telemetry_policy::TelemetryPolicySpec;
use crate::views;
use crate::workload::{WorkloadSpec, WorkloadStatus};

mod plain;
pub(crate) mod texts;

use plain::Plain;

/// Every schema that the OpenAPI document of a group (empty: core) needs, by the name under which it stands in
/// `#/components/schemas/`: its kinds, their lists and parts, and what `meta/v1` has of all kinds. References stay
/// within the map. Empty for a group without kinds.
pub fn components(group: &str) -> &'static Map<String, Value> {
    static NONE: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
    ALL.get(group).unwrap_or(&NONE)
}

/// The schema of a kind; what it refers to is in the [`components`] of its group.
pub fn of(kind: Kind) -> &'static Value {
    let component = components(kind.group()).get(&name(kind));
    component.expect("a component is made for every kind")
}

/// The name of a kind's component: `io.k8s.api.core.v1.Service`.
pub fn name(kind: Kind) -> String {
    format!("{}.{}", prefix(kind.group()), kind.kind())
}

/// The name of the component of a kind's list: `io.k8s.api.core.v1.ServiceList`.
pub fn list_name(kind: Kind) -> String {
    format!("{}List", name(kind))
}

/// The name of a component of `meta/v1`: `ObjectMeta`, `ListMeta`, `Status`, `WatchEvent`, `Patch`, `DeleteOptions`.
pub fn meta_name(name: &str) -> String {
    format!("{META}.{name}")
}

static ALL: LazyLock<BTreeMap<&'static str, Map<String, Value>>> = LazyLock::new(|| {
    let meta = meta_components();
    let mut groups: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for group in Kind::ALL.iter().map(|kind| kind.group()) {
        groups.entry(group).or_insert_with(|| {
            let mut components = meta.clone();
            components.append(&mut group_components(group));
            components
        });
    }
    groups
});

/// The kinds of a group, their lists, and the types that these are made of.
fn group_components(group: &str) -> Map<String, Value> {
    let mut generator = generator();
    let kinds = Kind::ALL.iter().copied().filter(|kind| kind.group() == group);
    let mut whole: Vec<(String, Value)> = Vec::new();
    for kind in kinds {
        whole.push((name(kind), resource(kind, &mut generator)));
        whole.push((list_name(kind), list(kind)));
    }
    finish(generator, prefix(group), whole)
}

fn meta_components() -> Map<String, Value> {
    let mut generator = generator();
    generator.subschema_for::<Metadata>();
    generator.subschema_for::<views::ListMetadata>();
    generator.subschema_for::<views::Status>();
    generator.subschema_for::<views::WatchEvent>();
    let status = json!([{"group": "", "version": "v1", "kind": "Status"}]);
    let by_hand = vec![
        (meta_name("Patch"), json!({"type": "object", "description": PATCH})),
        (meta_name("DeleteOptions"), delete_options()),
    ];
    let mut components = finish(generator, META, by_hand);
    if let Some(Value::Object(component)) = components.get_mut(&meta_name("Status")) {
        component.insert(GVK.to_owned(), status);
    }
    components
}

/// What the generator collected and what was made with it, as components.
fn finish(mut generator: SchemaGenerator, prefix: &str, whole: Vec<(String, Value)>) -> Map<String, Value> {
    let definitions = generator.take_definitions(false);
    let plain = Plain::new(&definitions, prefix);
    let mut components = plain.components();
    for (name, raw) in whole {
        components.insert(name, plain.schema(&raw));
    }
    components
}

fn generator() -> SchemaGenerator {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    settings.into_generator()
}

/// A kind's own part.
struct Body {
    /// What the kind is for.
    description: Value,
    /// The fields beside `apiVersion`, `kind`, `metadata` and `status`.
    properties: Map<String, Value>,
    /// Those that have to be there.
    required: Vec<Value>,
}

/// Whoever adds a kind says here which type it is made of.
fn body(kind: Kind, generator: &mut SchemaGenerator) -> Body {
    match kind {
        Kind::Namespace => optional_spec::<NamespaceSpec>(generator),
        Kind::MeshConfig => optional_spec::<MeshConfigSpec>(generator),
        Kind::ConfigMap => top::<ConfigMapBody>(generator),
        Kind::BackendTlsPolicy => spec::<BackendTlsPolicySpec>(generator),
        Kind::Service => spec::<ServiceSpec>(generator),
        Kind::EndpointSlice => top::<EndpointSliceBody>(generator),
        Kind::Workload => spec::<WorkloadSpec>(generator),
        Kind::BackendPolicy => spec::<BackendPolicySpec>(generator),
        Kind::RoutePolicy => spec::<RoutePolicySpec>(generator),
        Kind::TelemetryPolicy => spec::<TelemetryPolicySpec>(generator),
        Kind::ReferenceGrant => spec::<ReferenceGrantSpec>(generator),
        Kind::HttpRoute => spec::<HttpRouteSpec>(generator),
        Kind::GrpcRoute => spec::<GrpcRouteSpec>(generator),
    }
}

/// A kind that asks for something in `spec`.
fn spec<T: JsonSchema>(generator: &mut SchemaGenerator) -> Body {
    let description = T::json_schema(generator).get("description").cloned();
    let mut spec = generator.subschema_for::<T>();
    spec.insert("description".to_owned(), "What it asks for.".into());
    Body {
        description: description.unwrap_or_default(),
        properties: Map::from_iter([("spec".to_owned(), spec.to_value())]),
        required: vec!["spec".into()],
    }
}

/// A kind that may go without `spec`.
fn optional_spec<T: JsonSchema + Default + Serialize>(generator: &mut SchemaGenerator) -> Body {
    let mut body = spec::<T>(generator);
    let default = serde_json::to_value(T::default()).expect("specs have text as keys and no fallible parts");
    if let Some(Value::Object(spec)) = body.properties.get_mut("spec") {
        spec.insert("default".to_owned(), default);
    }
    body.required.clear();
    body
}

/// A kind whose fields stand at the top of the resource.
fn top<T: JsonSchema>(generator: &mut SchemaGenerator) -> Body {
    let mut schema = T::json_schema(generator);
    Body {
        description: schema.remove("description").unwrap_or_default(),
        properties: match schema.remove("properties") {
            Some(Value::Object(properties)) => properties,
            _ => Map::new(),
        },
        required: match schema.remove("required") {
            Some(Value::Array(required)) => required,
            _ => Vec::new(),
        },
    }
}

/// A whole resource.
fn resource(kind: Kind, generator: &mut SchemaGenerator) -> Value {
    let mut body = body(kind, generator);
    let metadata = json!({"$ref": reference(&meta_name("ObjectMeta")), "description": METADATA});
    body.properties.extend([
        ("apiVersion".to_owned(), api_version(kind)),
        ("kind".to_owned(), word(kind.kind(), KIND)),
        ("metadata".to_owned(), metadata),
        ("status".to_owned(), status(kind, generator).to_value()),
    ]);
    let mut required = vec!["apiVersion".into(), "kind".into(), "metadata".into()];
    required.append(&mut body.required);
    json!({
        "type": "object",
        "description": body.description,
        "properties": body.properties,
        "required": required,
        GVK: named(kind, kind.kind()),
    })
}

/// What became of a resource of a kind. Whoever adds a kind says here what is written there.
fn status(kind: Kind, generator: &mut SchemaGenerator) -> Schema {
    let mut status = match kind {
        Kind::Workload => generator.subschema_for::<WorkloadStatus>(),
        Kind::BackendTlsPolicy | Kind::BackendPolicy | Kind::RoutePolicy | Kind::TelemetryPolicy => {
            generator.subschema_for::<PolicyStatus>()
        }
        Kind::HttpRoute | Kind::GrpcRoute => generator.subschema_for::<RouteStatus>(),
        Kind::Namespace => generator.subschema_for::<NamespaceStatus>(),
        Kind::MeshConfig => generator.subschema_for::<MeshStatus>(),
        Kind::ConfigMap | Kind::Service | Kind::EndpointSlice | Kind::ReferenceGrant => {
            json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
        }
    };
    status.insert("description".to_owned(), STATUS.into());
    status
}

/// The list of a kind's resources.
fn list(kind: Kind) -> Value {
    let list_kind = format!("{kind}List");
    let items = json!({
        "type": "array",
        "description": "The resources, sorted by namespace and name.",
        "items": {"$ref": reference(&name(kind))},
    });
    let metadata = json!({"$ref": reference(&meta_name("ListMeta")), "description": "What is said of the whole list."});
    json!({
        "type": "object",
        "description": format!("Resources of kind {kind}."),
        "properties": {
            "apiVersion": api_version(kind),
            "kind": word(&list_kind, KIND),
            "metadata": metadata,
            "items": items,
        },
        "required": ["apiVersion", "kind", "metadata", "items"],
        GVK: named(kind, &list_kind),
    })
}

/// `apiVersion` of a kind, in every version in which it is read.
fn api_version(kind: Kind) -> Value {
    let of_version = |version: &&str| match kind.group() {
        "" => (*version).to_owned(),
        group => format!("{group}/{version}"),
    };
    let versions: Vec<String> = kind.versions().iter().map(of_version).collect();
    json!({"type": "string", "enum": versions, "description": API_VERSION})
}

/// By what clients find a component.
fn named(kind: Kind, name: &str) -> Value {
    let versions = kind.versions().iter();
    versions
        .map(|version| json!({"group": kind.group(), "version": version, "kind": name}))
        .collect()
}

/// A text that is always the same.
fn word(word: &str, description: &str) -> Value {
    json!({"type": "string", "enum": [word], "description": description})
}

fn reference(name: &str) -> String {
    format!("{REFERENCE}{name}")
}

/// How Kubernetes names the components of a group.
fn prefix(group: &str) -> &'static str {
    match group {
        "" => "io.k8s.api.core.v1",
        "discovery.k8s.io" => "io.k8s.api.discovery.v1",
        "gateway.networking.k8s.io" => "io.k8s.networking.gateway.v1",
        _ => "dev.weir.v1",
    }
}

/// What a client may send with a DELETE (Kubernetes, meta/v1 DeleteOptions), as far as it has a meaning here.
fn delete_options() -> Value {
    let preconditions = json!({
        "type": "object",
        "description": "What must hold of the resource; otherwise it stays, and the answer is 409.",
        "properties": {
            "uid": {"type": "string", "description": "Its uid."},
            "resourceVersion": {"type": "string", "description": "Its resourceVersion.", "pattern": "^[0-9]{1,19}$"},
        },
        "additionalProperties": false,
    });
    let policies = ["Orphan", "Background", "Foreground"];
    json!({
        "type": "object",
        "description": "How a resource is deleted.",
        "properties": {
            "apiVersion": {"type": "string", "description": API_VERSION},
            "kind": {"type": "string", "description": KIND},
            "preconditions": preconditions,
            "dryRun": {
                "type": "array", "maxItems": 1, "items": {"type": "string", "enum": ["All"]},
                "description": "[All]: only what it would do is wanted.",
            },
            "gracePeriodSeconds": {
                "type": "integer", "format": "int64", "minimum": 0, "maximum": u32::MAX,
                "description": "Taken for the clients that send it. Nothing here takes time to end.",
            },
            "propagationPolicy": {
                "type": "string", "enum": policies,
                "description": "Taken for the clients that send it. Nothing here has dependents.",
            },
        },
        "additionalProperties": false,
    })
}

/// Where Kubernetes keeps what all kinds share.
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const GVK: &str = "x-kubernetes-group-version-kind";
const REFERENCE: &str = "#/components/schemas/";

const API_VERSION: &str = "The API group and version that the kind is of.";
const KIND: &str = "The kind.";
const METADATA: &str = "Its name, and what else every resource has.";
const STATUS: &str =
    "What became of it. Written by the control plane alone: what a user writes here is without effect.";
const PATCH: &str = "A change to a resource, in the form that Content-Type names.";
