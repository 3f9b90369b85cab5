//! What the control plane says of a resource in its `status`: conditions as Kubernetes has them (meta/v1 Condition), in
//! the places that the Gateway API gives them. Read leniently, so that either side may be the newer.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backend_policy::TargetRef;
use crate::http_route::ParentRef;
use crate::reference::RefKind;
use crate::route_policy::RouteTargetRef;

/// Who writes what is said in entries of a status (`controllerName`).
pub const CONTROLLER_NAME: &str = "weir.dev/weir-control";

/// Types of conditions.
pub mod condition {
    /// What it refers to takes it. Gateway API, RouteConditionAccepted and PolicyConditionAccepted.
    pub const ACCEPTED: &str = "Accepted";
    /// What a route or a policy sends requests or copies to, or a policy takes certificates from, is there and may be
    /// used. Gateway API, RouteConditionResolvedRefs and BackendTLSPolicyConditionResolvedRefs.
    pub const RESOLVED_REFS: &str = "ResolvedRefs";
    /// It is in force on every connected proxy that it concerns.
    pub const IN_FORCE: &str = "weir.dev/InForce";
    /// Part of it is without effect, or with none that anybody wants. Only there where it is true.
    pub const INEFFECTIVE: &str = "weir.dev/Ineffective";
}

/// Something that is so, is not, or is unknown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.k8s.apimachinery.pkg.apis.meta.v1.Condition")]
pub struct Condition {
    /// What is so.
    #[serde(rename = "type")]
    pub condition_type: String,
    /// Whether it is so.
    pub status: ConditionStatus,
    /// The generation of the resource of which this is said.
    pub observed_generation: i64,
    /// Since when `status` is what it is (RFC 3339, whole seconds).
    pub last_transition_time: String,
    /// Why, in one word, for programs.
    pub reason: String,
    /// Why, for people.
    pub message: String,
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    /// It does.
    True,
    /// It doesn't.
    False,
    /// Nobody can say.
    Unknown,
}

/// A reference as it stands in the resource's spec, with the same fields given and left out (Gateway API,
/// ParentReference).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ParentReference {
    /// The API group; empty for Kubernetes' core group.
    #[serde(default)]
    pub group: String,
    /// The kind.
    pub kind: String,
    /// The namespace. Default: the resource's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
    /// The part of it, by name. Default: all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// The port of it. Default: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

impl ParentReference {
    /// A namespace: what a policy for workloads is attached to.
    pub fn namespace(name: &str) -> ParentReference {
        ParentReference {
            group: String::new(),
            kind: "Namespace".to_owned(),
            namespace: None,
            name: name.to_owned(),
            section_name: None,
            port: None,
        }
    }
}

impl From<&ParentRef> for ParentReference {
    fn from(parent: &ParentRef) -> ParentReference {
        let ParentRef {
            kind,
            namespace,
            name,
            section_name,
            port,
        } = parent;
        ParentReference {
            namespace: namespace.clone(),
            section_name: section_name.clone(),
            port: port.map(|port| port.get()),
            ..of_kind(*kind, name)
        }
    }
}

impl From<&TargetRef> for ParentReference {
    fn from(target: &TargetRef) -> ParentReference {
        let TargetRef {
            kind,
            name,
            section_name,
        } = target;
        ParentReference {
            section_name: section_name.clone(),
            ..of_kind(*kind, name)
        }
    }
}

impl From<&RouteTargetRef> for ParentReference {
    fn from(target: &RouteTargetRef) -> ParentReference {
        let RouteTargetRef {
            kind,
            name,
            section_name,
        } = target;
        ParentReference {
            group: kind.group().to_owned(),
            kind: kind.kind().to_owned(),
            namespace: None,
            name: name.clone(),
            section_name: section_name.clone(),
            port: None,
        }
    }
}

fn of_kind(kind: RefKind, name: &str) -> ParentReference {
    let kind = match kind {
        RefKind::Service => "Service",
    };
    ParentReference {
        group: String::new(),
        kind: kind.to_owned(),
        namespace: None,
        name: name.to_owned(),
        section_name: None,
        port: None,
    }
}

/// The status of a route (Gateway API, RouteStatus).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RouteStatus {
    /// One entry for each parent, in the order of the spec.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub parents: Vec<RouteParentStatus>,
}

/// A route as one of its parents has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteParentStatus {
    /// Which parent.
    pub parent_ref: ParentReference,
    /// Who says so: `weir.dev/weir-control`.
    pub controller_name: String,
    /// What is so, by type:
    ///
    /// - `Accepted`: the parent is there and takes the route. Otherwise the reason is NoMatchingParent,
    ///   NotAllowedByListeners (the port carries TCP), UnsupportedValue, or Conflicted: an older route of the other
    ///   kind holds.
    /// - `ResolvedRefs`: every backend is there and may be used. Otherwise the reason is InvalidKind, BackendNotFound,
    ///   UnsupportedProtocol (its port carries TCP) or RefNotPermitted.
    /// - `weir.dev/InForce`: it is in force on every connected proxy that it concerns. Otherwise the reason is
    ///   Rejected, Pending, NoSubscribers or NotAccepted.
    /// - `weir.dev/Ineffective`: some of it never takes a request or has no effect on those that it takes, and only
    ///   there if it is so; the reason is RulesUnreachable, WeightsZero, NoBackends or RulesRedirect.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// The status of what holds for the whole mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MeshStatus {
    /// What is so, by type:
    ///
    /// - `Accepted`: it holds for the mesh. What does not is refused when it is written.
    /// - `weir.dev/InForce`: it is in force on every connected proxy that it concerns. Otherwise the reason is
    ///   Rejected, Pending or NoSubscribers.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// The status of a policy (Gateway API, PolicyStatus; GEP-713).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyStatus {
    /// One entry for each target, in the order of the spec; of a policy for workloads one, for their Namespace.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub ancestors: Vec<PolicyAncestorStatus>,
}

/// A policy as one of its targets has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyAncestorStatus {
    /// Which target.
    pub ancestor_ref: ParentReference,
    /// Who says so: `weir.dev/weir-control`.
    pub controller_name: String,
    /// What is so, by type:
    ///
    /// - `Accepted`: the target is there and takes the policy; with the reason PartlyConflicted, for some workloads an
    ///   older one holds. Otherwise the reason is TargetNotFound, Invalid: it can't be in force there, Conflicted: an
    ///   older policy holds, or NoValidCACertificate: a BackendTLSPolicy has none to go by, and closes its target.
    /// - `ResolvedRefs`, of a BackendTLSPolicy: each of its references leads to certificates. Otherwise the reason is
    ///   InvalidKind or InvalidCACertificateRef. Of a RoutePolicy with mirrors: each is there and may be used.
    ///   Otherwise some get no copies, and the reason is InvalidKind, BackendNotFound, UnsupportedProtocol (its port
    ///   carries TCP) or RefNotPermitted.
    /// - `weir.dev/InForce`: it is in force on every connected proxy that it concerns. Otherwise the reason is
    ///   Rejected, Pending, NoSubscribers, NotAccepted or Overridden.
    /// - `weir.dev/Ineffective`: some of it has no effect on some rules, and only there if it is so; the reason is
    ///   RulesRedirect.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
