//! ReferenceGrant (`gateway.networking.k8s.io/v1` and `v1beta1`, GEP-709): who may refer to what is in its namespace.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::json;

use crate::decode::{Errors, Node};
use crate::kind::Kind;
use crate::names;
use crate::reference::{self, RefKind};
use crate::schema::texts::Label;

/// References from other namespaces that its own namespace allows: each from any of `from` to any of `to`. Without one
/// a route's backend in another namespace gets no requests: its share is answered with 500. Nor does a mirror there get
/// copies, whether a route or a RoutePolicy names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ReferenceGrantSpec {
    /// Whose references are allowed.
    #[schemars(length(min = 1, max = LIST_MAX), extend("x-kubernetes-list-type" = "atomic"))]
    pub from: Vec<GrantFrom>,
    /// To what they may lead.
    #[schemars(length(min = 1, max = LIST_MAX), extend("x-kubernetes-list-type" = "atomic"))]
    pub to: Vec<GrantTo>,
}

/// Resources that may refer to something here.
///
/// Rule: the group is weir.dev for a RoutePolicy, and gateway.networking.k8s.io for a route.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(rename = "ReferenceGrantFrom")]
pub struct GrantFrom {
    /// HTTPRoute, GRPCRoute or RoutePolicy.
    #[schemars(flatten, with = "ReferrerKind")]
    pub kind: Kind,
    /// The namespace that they are in.
    #[schemars(with = "Label")]
    pub namespace: String,
}

impl Serialize for GrantFrom {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("group", self.kind.group())?;
        map.serialize_entry("kind", self.kind.kind())?;
        map.serialize_entry("namespace", &self.namespace)?;
        map.end()
    }
}

/// Services that may be referred to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "ReferenceGrantTo")]
pub struct GrantTo {
    /// Always a Service.
    #[serde(flatten)]
    #[schemars(with = "reference::Explicit")]
    pub kind: RefKind,
    /// The Service's name. Default: all Services of the grant's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Label>")]
    pub name: Option<String>,
}

/// The schema of a [`Kind`] that may refer to Services.
enum ReferrerKind {}

impl JsonSchema for ReferrerKind {
    fn schema_name() -> Cow<'static, str> {
        "ReferrerKind".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let groups = GROUPS.map(Kind::group);
        let group = json!({"type": "string", "enum": groups, "description": "The group of `kind`."});
        let kinds = REFERRERS.map(Kind::kind);
        let kind = json!({"type": "string", "enum": kinds, "description": "The kind of what refers."});
        let properties = json!({"group": group, "kind": kind});
        json_schema!({"type": "object", "properties": properties, "required": ["group", "kind"]})
    }
}

impl ReferenceGrantSpec {
    /// Whether a resource of this kind in this namespace may refer to a Service of the grant's own namespace.
    pub fn allows(&self, kind: Kind, namespace: &str, service: &str) -> bool {
        let mut from = self.from.iter();
        let mut to = self.to.iter();
        from.any(|from| from.kind == kind && from.namespace == namespace)
            && to.any(|to| to.name.as_deref().is_none_or(|name| name == service))
    }
}

pub(crate) fn read(node: &Node<'_>, errors: &mut Errors) -> Option<ReferenceGrantSpec> {
    let mut fields = node.fields(errors)?;
    let from = fields.required("from", errors, |node, errors| {
        let from = node.list(errors, LIST_MAX, read_from)?;
        node.refuse_empty(errors, "a grant is for at least one kind in one namespace");
        Some(from)
    });
    let to = fields.required("to", errors, |node, errors| {
        let to = node.list(errors, LIST_MAX, read_to)?;
        node.refuse_empty(
            errors,
            "{group: \"\", kind: Service} is right, for all Services of the namespace",
        );
        Some(to)
    });
    fields.finish(errors);
    Some(ReferenceGrantSpec { from: from?, to: to? })
}

fn read_from(node: &Node<'_>, errors: &mut Errors) -> Option<GrantFrom> {
    let mut fields = node.fields(errors)?;
    let kind = fields.required("kind", errors, |node, errors| {
        node.choice(errors, &REFERRERS.map(|kind| (kind.kind(), kind)))
    });
    let group = fields.required("group", errors, |node, errors| {
        reference::group_of(kind, &GROUPS, node, errors)
    });
    let namespace = fields.required("namespace", errors, names::label);
    fields.finish(errors);
    group?;
    Some(GrantFrom {
        kind: kind?,
        namespace: namespace?,
    })
}

fn read_to(node: &Node<'_>, errors: &mut Errors) -> Option<GrantTo> {
    let mut fields = node.fields(errors)?;
    let kind = reference::explicit_service(&mut fields, errors, "nothing");
    let name = fields.optional("name", errors, names::label);
    fields.finish(errors);
    Some(GrantTo { kind: kind?, name })
}

/// The kinds that have references to Services of other namespaces.
const REFERRERS: [Kind; 3] = [Kind::HttpRoute, Kind::GrpcRoute, Kind::RoutePolicy];

/// A kind of each group that one of them is of.
const GROUPS: [Kind; 2] = [Kind::HttpRoute, Kind::RoutePolicy];

/// The CRD's limit.
const LIST_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_allows_what_one_of_each_side_names() {
        let from = |namespace: &str| GrantFrom {
            kind: Kind::HttpRoute,
            namespace: namespace.to_owned(),
        };
        let grant = |to: &[Option<&str>]| ReferenceGrantSpec {
            from: vec![from("a"), from("b")],
            to: to
                .iter()
                .map(|name| GrantTo {
                    kind: RefKind::Service,
                    name: name.map(str::to_owned),
                })
                .collect(),
        };
        let named = grant(&[Some("x"), Some("y")]);
        for (kind, namespace, service, expect) in [
            (Kind::HttpRoute, "a", "x", true),
            (Kind::HttpRoute, "b", "y", true),
            (Kind::HttpRoute, "b", "z", false),
            (Kind::HttpRoute, "c", "x", false),
            (Kind::BackendPolicy, "a", "x", false),
            (Kind::RoutePolicy, "a", "x", false),
        ] {
            let allowed = named.allows(kind, namespace, service);
            assert_eq!(allowed, expect, "{kind} {namespace} {service}");
        }
        assert!(grant(&[Some("x"), None]).allows(Kind::HttpRoute, "a", "z"));
    }
}
