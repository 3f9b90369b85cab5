//! A resource: what every kind has, and its own part.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::backend_policy::{self, BackendPolicySpec};
use crate::backend_tls_policy::{self, BackendTlsPolicySpec};
use crate::config_map::{self, ConfigMapBody};
use crate::decode::{Errors, Fields, Node};
use crate::endpoint_slice::{self, EndpointSliceBody};
use crate::error::FieldError;
use crate::grpc_route::{self, GrpcRouteSpec};
use crate::http_route::{self, HttpRouteSpec};
use crate::kind::{Kind, Scope};
use crate::mesh_config::{self, MeshConfigSpec};
use crate::names;
use crate::namespace::{self, NamespaceSpec};
use crate::reference_grant::{self, ReferenceGrantSpec};
use crate::route_policy::{self, RoutePolicySpec};
use crate::schema::texts::{LabelOrEmpty, LabelValue, Subdomain};
use crate::service::{self, ServiceSpec};
use crate::telemetry_policy::{self, TelemetryPolicySpec};
use crate::workload::{self, WorkloadSpec};

/// What names a resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty for kinds of the whole cluster.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// `HTTPRoute/citizen/portal`, or `Namespace/citizen`.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{}/{}", self.kind, self.name)
        } else {
            write!(f, "{}/{}/{}", self.kind, self.namespace, self.name)
        }
    }
}

impl Key {
    /// Where it is in the API: `/apis/gateway.networking.k8s.io/v1/namespaces/citizen/httproutes/portal`. Names that
    /// [`Object::parse`] takes need no escaping.
    pub fn path(&self) -> String {
        let namespace = Some(self.namespace.as_str()).filter(|namespace| !namespace.is_empty());
        format!("{}/{}", self.kind.path(namespace), self.name)
    }
}

/// What every resource carries beside its own part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ObjectMeta", extend("x-properties" = {
    "managedFields": {
        "type": "array",
        "items": {"type": "object"},
        "description": "Written by tools; without effect, and not kept.",
    },
    "selfLink": {"type": "string", "description": "Written by tools; without effect, and not kept."},
}))]
pub struct Metadata {
    /// Its name, unique by kind and namespace.
    #[schemars(with = "Subdomain")]
    pub name: String,
    /// Its namespace; empty for kinds of the whole cluster. Default: where it was sent to, or `default`.
    ///
    /// Rule: a kind of the whole cluster has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(with = "LabelOrEmpty", default)]
    pub namespace: String,
    /// What selectors look at.
    ///
    /// Rule: keys have up to 63 letters, digits, '-', '_' and '.', a letter or digit first and last; before them may
    /// stand a DNS name and '/'.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, LabelValue>", default, extend("maxProperties" = LABELS_MAX))]
    pub labels: BTreeMap<String, String>,
    /// Notes for people and tools.
    ///
    /// Rule: keys are as those of labels; keys and values have at most 262144 bytes in all.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(default, extend("maxProperties" = ANNOTATIONS_MAX))]
    pub annotations: BTreeMap<String, String>,
    /// Tells this resource from an earlier one of the same name. Given by the store, empty before.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(default)]
    pub uid: String,
    /// The store's revision at its last change. Sent with a change: the change is refused with 409 if there was another
    /// one meanwhile. Empty: not stored yet, or no matter.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(default)]
    pub resource_version: String,
    /// Counts changes of the spec, from 1. Given by the store; 0: not stored yet.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(default, range(min = 0))]
    pub generation: i64,
    /// When it was created (RFC 3339). Given by the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<String>,
    /// Since when it is being deleted (RFC 3339); given by the store. Only a Namespace stays for a while then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<String>,
}

/// A resource. Serializes as Kubernetes has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// What every resource has.
    pub metadata: Metadata,
    /// What it asks for.
    pub spec: Spec,
    /// What became of it: written by the control plane alone.
    pub status: Option<Value>,
}

/// What a resource asks for, by kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Spec {
    /// Of a Namespace.
    Namespace(NamespaceSpec),
    /// Of the MeshConfig.
    MeshConfig(MeshConfigSpec),
    /// Of a ConfigMap, whose fields stand at the top of the resource.
    ConfigMap(ConfigMapBody),
    /// Of a BackendTLSPolicy.
    BackendTlsPolicy(BackendTlsPolicySpec),
    /// Of a Service.
    Service(ServiceSpec),
    /// Of an EndpointSlice, whose fields stand at the top of the resource.
    EndpointSlice(EndpointSliceBody),
    /// Of a Workload.
    Workload(WorkloadSpec),
    /// Of a BackendPolicy.
    BackendPolicy(BackendPolicySpec),
    /// Of a RoutePolicy.
    RoutePolicy(RoutePolicySpec),
    /// Of a TelemetryPolicy.
    TelemetryPolicy(TelemetryPolicySpec),
    /// Of a ReferenceGrant.
    ReferenceGrant(ReferenceGrantSpec),
    /// Of an HTTPRoute.
    HttpRoute(HttpRouteSpec),
    /// Of a GRPCRoute.
    GrpcRoute(GrpcRouteSpec),
}

impl Spec {
    /// Whose it is.
    pub fn kind(&self) -> Kind {
        match self {
            Spec::Namespace(_) => Kind::Namespace,
            Spec::MeshConfig(_) => Kind::MeshConfig,
            Spec::ConfigMap(_) => Kind::ConfigMap,
            Spec::BackendTlsPolicy(_) => Kind::BackendTlsPolicy,
            Spec::Service(_) => Kind::Service,
            Spec::EndpointSlice(_) => Kind::EndpointSlice,
            Spec::Workload(_) => Kind::Workload,
            Spec::BackendPolicy(_) => Kind::BackendPolicy,
            Spec::RoutePolicy(_) => Kind::RoutePolicy,
            Spec::TelemetryPolicy(_) => Kind::TelemetryPolicy,
            Spec::ReferenceGrant(_) => Kind::ReferenceGrant,
            Spec::HttpRoute(_) => Kind::HttpRoute,
            Spec::GrpcRoute(_) => Kind::GrpcRoute,
        }
    }
}

impl Object {
    /// A resource that is not stored yet; `namespace` is empty for kinds of the whole cluster. Not validated: for
    /// what the control plane writes itself.
    pub fn new(namespace: &str, name: &str, spec: Spec) -> Object {
        Object {
            metadata: Metadata {
                name: name.to_owned(),
                namespace: namespace.to_owned(),
                ..Metadata::default()
            },
            spec,
            status: None,
        }
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.spec.kind()
    }

    /// What names it.
    pub fn key(&self) -> Key {
        Key {
            kind: self.spec.kind(),
            namespace: self.metadata.namespace.clone(),
            name: self.metadata.name.clone(),
        }
    }

    /// The resource as JSON, with defaults filled in; [`Object::parse`] reads it back.
    pub fn to_value(&self) -> Value {
        serde_json::to_value(self).expect("resource types have text as keys and no fallible parts")
    }

    /// Reads a resource strictly and whole: unknown fields are wrong, defaults are filled in, every rule of its kind
    /// is checked. `null` counts as absent, as in Kubernetes. A namespaced resource without a namespace is in
    /// `default`.
    ///
    /// # Errors
    /// All that is wrong (up to 50 fields), in the order in which it was found.
    pub fn parse(value: Value) -> Result<Object, Vec<FieldError>> {
        Object::parse_in(value, None)
    }

    /// As [`Object::parse`], for a resource that was sent to a namespace: without a namespace of its own it is in
    /// `namespace`, with another one it is refused. `None`: as `parse`.
    ///
    /// # Errors
    /// As [`Object::parse`].
    pub fn parse_in(value: Value, namespace: Option<&str>) -> Result<Object, Vec<FieldError>> {
        let mut errors = Errors::default();
        let read = read_object(&Node::root(&value), namespace, &mut errors);
        errors.into_result(read)
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("apiVersion", self.kind().api_version())?;
        map.serialize_entry("kind", self.kind().kind())?;
        map.serialize_entry("metadata", &self.metadata)?;
        match &self.spec {
            Spec::Namespace(spec) => map.serialize_entry("spec", spec)?,
            Spec::MeshConfig(spec) => map.serialize_entry("spec", spec)?,
            Spec::ConfigMap(body) => {
                let ConfigMapBody {
                    data,
                    binary_data,
                    immutable,
                } = body;
                if !data.is_empty() {
                    map.serialize_entry("data", data)?;
                }
                if !binary_data.is_empty() {
                    map.serialize_entry("binaryData", binary_data)?;
                }
                if let Some(immutable) = immutable {
                    map.serialize_entry("immutable", immutable)?;
                }
            }
            Spec::BackendTlsPolicy(spec) => map.serialize_entry("spec", spec)?,
            Spec::Service(spec) => map.serialize_entry("spec", spec)?,
            Spec::EndpointSlice(body) => {
                map.serialize_entry("addressType", &body.address_type)?;
                map.serialize_entry("endpoints", &body.endpoints)?;
                map.serialize_entry("ports", &body.ports)?;
            }
            Spec::Workload(spec) => map.serialize_entry("spec", spec)?,
            Spec::BackendPolicy(spec) => map.serialize_entry("spec", spec)?,
            Spec::RoutePolicy(spec) => map.serialize_entry("spec", spec)?,
            Spec::TelemetryPolicy(spec) => map.serialize_entry("spec", spec)?,
            Spec::ReferenceGrant(spec) => map.serialize_entry("spec", spec)?,
            Spec::HttpRoute(spec) => map.serialize_entry("spec", spec)?,
            Spec::GrpcRoute(spec) => map.serialize_entry("spec", spec)?,
        }
        if let Some(status) = &self.status {
            map.serialize_entry("status", status)?;
        }
        map.end()
    }
}

fn read_object(node: &Node<'_>, namespace: Option<&str>, errors: &mut Errors) -> Option<Object> {
    let mut fields = node.fields(errors)?;
    let kind = read_kind(&mut fields, errors)?;
    let metadata = fields.required("metadata", errors, |node, errors| {
        read_metadata(node, kind, namespace, errors)
    });
    let own = metadata
        .as_ref()
        .map(|metadata| metadata.namespace.clone())
        .unwrap_or_default();
    let spec = match kind {
        Kind::Namespace => read_or_default(&mut fields, errors, namespace::read).map(Spec::Namespace),
        Kind::MeshConfig => read_or_default(&mut fields, errors, mesh_config::read).map(Spec::MeshConfig),
        Kind::ConfigMap => config_map::read(&mut fields, errors).map(Spec::ConfigMap),
        Kind::BackendTlsPolicy => fields
            .required("spec", errors, backend_tls_policy::read)
            .map(Spec::BackendTlsPolicy),
        Kind::Service => fields.required("spec", errors, service::read).map(Spec::Service),
        Kind::EndpointSlice => endpoint_slice::read(&mut fields, errors).map(Spec::EndpointSlice),
        Kind::Workload => fields.required("spec", errors, workload::read).map(Spec::Workload),
        Kind::BackendPolicy => fields
            .required("spec", errors, backend_policy::read)
            .map(Spec::BackendPolicy),
        Kind::RoutePolicy => fields
            .required("spec", errors, route_policy::read)
            .map(Spec::RoutePolicy),
        Kind::TelemetryPolicy => fields
            .required("spec", errors, telemetry_policy::read)
            .map(Spec::TelemetryPolicy),
        Kind::ReferenceGrant => fields
            .required("spec", errors, reference_grant::read)
            .map(Spec::ReferenceGrant),
        Kind::HttpRoute => {
            let read = |node: &Node<'_>, errors: &mut Errors| http_route::read(node, &own, errors);
            fields.required("spec", errors, read).map(Spec::HttpRoute)
        }
        Kind::GrpcRoute => {
            let read = |node: &Node<'_>, errors: &mut Errors| grpc_route::read(node, &own, errors);
            fields.required("spec", errors, read).map(Spec::GrpcRoute)
        }
    };
    let status = fields.get("status").map(|node| node.value().clone());
    fields.finish(errors);
    Some(Object {
        metadata: metadata?,
        spec: spec?,
        status: status.filter(|status| status.as_object().is_none_or(|fields| !fields.is_empty())),
    })
}

fn read_kind(fields: &mut Fields<'_>, errors: &mut Errors) -> Option<Kind> {
    let api_version = fields.required("apiVersion", errors, |node, errors| {
        node.text(errors).map(str::to_owned)
    });
    let kind = fields.required("kind", errors, |node, errors| node.text(errors).map(str::to_owned));
    let (api_version, kind) = (api_version?, kind?);
    let found = Kind::of(&api_version, &kind);
    if found.is_none() {
        match Kind::ALL.iter().find(|known| known.kind() == kind) {
            Some(known) => {
                let node = fields.get("apiVersion")?;
                let remedy = format!("{} is right for {known}", known.api_version());
                node.refuse(errors, "is not supported", remedy);
            }
            None => {
                let node = fields.get("kind")?;
                let known: Vec<&str> = Kind::ALL.iter().map(|kind| kind.kind()).collect();
                node.refuse(
                    errors,
                    "is not a kind that Weir knows",
                    format!("known are {}", known.join(", ")),
                );
            }
        }
    }
    found
}

fn read_or_default<T: Default>(
    fields: &mut Fields<'_>,
    errors: &mut Errors,
    read: fn(&Node<'_>, &mut Errors) -> Option<T>,
) -> Option<T> {
    match fields.get("spec") {
        Some(node) => read(&node, errors),
        None => Some(T::default()),
    }
}

fn read_metadata(node: &Node<'_>, kind: Kind, sent_to: Option<&str>, errors: &mut Errors) -> Option<Metadata> {
    let mut fields = node.fields(errors)?;
    let name = fields.required("name", errors, |node, errors| read_name(node, kind, errors));
    let namespace = read_namespace(&mut fields, kind, sent_to, errors);
    let labels = fields.optional("labels", errors, read_labels);
    let annotations = fields.optional("annotations", errors, read_annotations);
    let text = |node: &Node<'_>, errors: &mut Errors| node.text(errors).map(str::to_owned);
    let uid = fields.optional("uid", errors, text);
    let resource_version = fields.optional("resourceVersion", errors, text);
    let generation = fields.optional("generation", errors, |node, errors| {
        node.integer::<i64>(errors, 0..=i64::MAX.unsigned_abs())
    });
    let creation_timestamp = fields.optional("creationTimestamp", errors, text);
    let deletion_timestamp = fields.optional("deletionTimestamp", errors, text);
    // Written by tools unasked, and of no use without the field's managers: dropped.
    fields.optional("managedFields", errors, |node, errors| {
        node.list(errors, usize::MAX, |node, errors| node.fields(errors).map(|_| ()))
    });
    fields.optional("selfLink", errors, text);
    fields.refused(
        "generateName",
        errors,
        "is not a name",
        "give one in metadata.name; only what is created over the API gets one made",
    );
    fields.refused("finalizers", errors, "would be without effect", "leave it out");
    fields.refused("ownerReferences", errors, "would be without effect", "leave it out");
    fields.refused(
        "deletionGracePeriodSeconds",
        errors,
        "would be without effect",
        "leave it out",
    );
    fields.finish(errors);
    Some(Metadata {
        name: name?,
        namespace: namespace?,
        labels: labels.unwrap_or_default(),
        annotations: annotations.unwrap_or_default(),
        uid: uid.unwrap_or_default(),
        resource_version: resource_version.unwrap_or_default(),
        generation: generation.unwrap_or_default(),
        creation_timestamp,
        deletion_timestamp,
    })
}

fn read_name(node: &Node<'_>, kind: Kind, errors: &mut Errors) -> Option<String> {
    match kind {
        // Parts of the mesh's names, each one label of a DNS name.
        Kind::Namespace | Kind::Service | Kind::Workload => names::label(node, errors),
        Kind::ConfigMap
        | Kind::BackendTlsPolicy
        | Kind::EndpointSlice
        | Kind::BackendPolicy
        | Kind::RoutePolicy
        | Kind::TelemetryPolicy
        | Kind::ReferenceGrant
        | Kind::HttpRoute
        | Kind::GrpcRoute => names::subdomain(node, errors),
        Kind::MeshConfig => {
            let is_right = |name: &str| name == mesh_config::NAME;
            names::checked(
                node,
                errors,
                is_right,
                "is not the mesh's",
                "there is one MeshConfig, named \"mesh\"",
            )
        }
    }
}

fn read_namespace(fields: &mut Fields<'_>, kind: Kind, sent_to: Option<&str>, errors: &mut Errors) -> Option<String> {
    let node = fields.get("namespace").filter(|node| node.value().as_str() != Some(""));
    match (kind.scope(), node) {
        (Scope::Cluster, None) => Some(String::new()),
        (Scope::Cluster, Some(node)) => {
            node.refuse(
                errors,
                format!("is given, but a {kind} is in no namespace"),
                "leave it out",
            );
            None
        }
        (Scope::Namespaced, None) => Some(sent_to.unwrap_or(DEFAULT_NAMESPACE).to_owned()),
        (Scope::Namespaced, Some(node)) => {
            let given = names::label(&node, errors)?;
            match sent_to {
                Some(sent_to) if sent_to != given => {
                    let remedy = format!("{sent_to:?} is right here, where it was sent; or leave it out");
                    node.refuse(errors, "is another namespace", remedy);
                    None
                }
                Some(_) | None => Some(given),
            }
        }
    }
}

/// Reads labels: of a resource, or those that a selector asks for.
pub(crate) fn read_labels(node: &Node<'_>, errors: &mut Errors) -> Option<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    node.entries(errors, LABELS_MAX, |key, node, errors| {
        if !names::is_label_key(key) {
            node.refuse(errors, "stands under a key that is no label's", LABEL_REMEDY);
        }
        let value = names::checked(
            node,
            errors,
            names::is_label_value,
            "is no value of a label",
            LABEL_REMEDY,
        );
        labels.insert(key.to_owned(), value.unwrap_or_default());
    });
    Some(labels)
}

fn read_annotations(node: &Node<'_>, errors: &mut Errors) -> Option<BTreeMap<String, String>> {
    let mut annotations = BTreeMap::new();
    let mut bytes = 0;
    node.entries(errors, ANNOTATIONS_MAX, |key, node, errors| {
        if !names::is_label_key(key) {
            node.refuse(errors, "stands under a key that is no annotation's", LABEL_REMEDY);
        }
        let value = node.text(errors).unwrap_or_default();
        bytes += key.len() + value.len();
        annotations.insert(key.to_owned(), value.to_owned());
    });
    if bytes > ANNOTATION_BYTES_MAX {
        node.refuse(
            errors,
            format!("has {bytes} bytes"),
            format!("at most {ANNOTATION_BYTES_MAX} are right"),
        );
    }
    Some(annotations)
}

/// Where a namespaced resource is that names no namespace, as in Kubernetes.
const DEFAULT_NAMESPACE: &str = "default";

const LABEL_REMEDY: &str = "up to 63 letters, digits, '-', '_' and '.' are right, a letter or digit first and last; keys may begin with a DNS name and '/'";

/// More labels than people give to one resource.
pub(crate) const LABELS_MAX: usize = 256;

/// More annotations than people give to one resource.
const ANNOTATIONS_MAX: usize = 1024;

/// Kubernetes' limit on annotations, in bytes of all keys and values.
const ANNOTATION_BYTES_MAX: usize = 256 << 10;

fn is_zero(number: &i64) -> bool {
    *number == 0
}
