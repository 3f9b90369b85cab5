//! A resource: what every kind has, and its own part.

use std::collections::BTreeMap;
use std::fmt;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::backend_policy::BackendPolicySpec;
use crate::endpoint_slice::EndpointSliceBody;
use crate::error::FieldError;
use crate::http_route::HttpRouteSpec;
use crate::kind::Kind;
use crate::mesh_config::MeshConfigSpec;
use crate::namespace::NamespaceSpec;
use crate::service::ServiceSpec;
use crate::workload::WorkloadSpec;

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

/// What every resource carries beside its own part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Its name, unique by kind and namespace.
    pub name: String,
    /// Its namespace; empty for kinds of the whole cluster.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// What selectors look at.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Notes for people and tools.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Tells this resource from an earlier one of the same name; given by the store, empty before.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The store's revision at its last change; empty: not stored yet, or no matter.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    /// Counts changes of the spec, from 1; 0: not stored yet.
    #[serde(skip_serializing_if = "is_zero")]
    pub generation: i64,
    /// When it was created (RFC 3339); given by the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<String>,
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
    /// Of a Service.
    Service(ServiceSpec),
    /// Of an EndpointSlice, whose fields stand at the top of the resource.
    EndpointSlice(EndpointSliceBody),
    /// Of a Workload.
    Workload(WorkloadSpec),
    /// Of a BackendPolicy.
    BackendPolicy(BackendPolicySpec),
    /// Of an HTTPRoute.
    HttpRoute(HttpRouteSpec),
}

impl Spec {
    /// Whose it is.
    pub fn kind(&self) -> Kind {
        match self {
            Spec::Namespace(_) => Kind::Namespace,
            Spec::MeshConfig(_) => Kind::MeshConfig,
            Spec::Service(_) => Kind::Service,
            Spec::EndpointSlice(_) => Kind::EndpointSlice,
            Spec::Workload(_) => Kind::Workload,
            Spec::BackendPolicy(_) => Kind::BackendPolicy,
            Spec::HttpRoute(_) => Kind::HttpRoute,
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
        let _ = namespace;
        Err(vec![FieldError::new("", &value, "is not read yet", "")])
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
            Spec::Service(spec) => map.serialize_entry("spec", spec)?,
            Spec::EndpointSlice(body) => {
                map.serialize_entry("addressType", &body.address_type)?;
                map.serialize_entry("endpoints", &body.endpoints)?;
                map.serialize_entry("ports", &body.ports)?;
            }
            Spec::Workload(spec) => map.serialize_entry("spec", spec)?,
            Spec::BackendPolicy(spec) => map.serialize_entry("spec", spec)?,
            Spec::HttpRoute(spec) => map.serialize_entry("spec", spec)?,
        }
        if let Some(status) = &self.status {
            map.serialize_entry("status", status)?;
        }
        map.end()
    }
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}
