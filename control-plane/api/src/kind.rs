//! The kinds of resource that Weir knows.

use std::fmt;

use serde::{Serialize, Serializer};

/// A kind of resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `v1` Namespace: what owns names. First in order, so that a sorted set of resources can be applied in order.
    Namespace,
    /// `weir.dev/v1` MeshConfig: settings of the whole mesh.
    MeshConfig,
    /// `v1` ConfigMap: texts by name. Before the policies that take certificates from it.
    ConfigMap,
    /// `gateway.networking.k8s.io/v1` BackendTLSPolicy: TLS with what answers behind a Service. Before the Services, so
    /// that none is reached in cleartext for a moment.
    BackendTlsPolicy,
    /// `v1` Service: a name with ports.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice: the only source of endpoints.
    EndpointSlice,
    /// `weir.dev/v1` Workload: what one proxy told of itself.
    Workload,
    /// `weir.dev/v1` BackendPolicy: how a service's endpoints are used.
    BackendPolicy,
    /// `weir.dev/v1` RoutePolicy: what becomes of the requests that routes take. Before the routes, so that none is in
    /// force without it.
    RoutePolicy,
    /// `weir.dev/v1` TelemetryPolicy: what proxies tell of the requests that they carry.
    TelemetryPolicy,
    /// `gateway.networking.k8s.io/v1` ReferenceGrant: who may refer to what is in a namespace. Before the routes, so
    /// that a door is open when a route goes through it.
    ReferenceGrant,
    /// `gateway.networking.k8s.io/v1` HTTPRoute: where requests go.
    HttpRoute,
    /// `gateway.networking.k8s.io/v1` GRPCRoute: where gRPC calls go.
    GrpcRoute,
}

/// Whether resources of a kind live in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// They don't; their namespace is empty.
    Cluster,
    /// They do.
    Namespaced,
}

/// Whether users write a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// They do.
    Writable,
    /// Only the control plane itself does.
    ReadOnly,
}

/// Whether resources of a kind carry a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusPart {
    /// They do; only the control plane writes it.
    Kept,
    /// They don't.
    None,
}

/// A format of patches (the media type of a PATCH).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchFormat {
    /// JSON merge patch (RFC 7396).
    Merge,
    /// JSON patch (RFC 6902).
    Json,
    /// Kubernetes' strategic merge patch: lists are merged by a key.
    Strategic,
}

impl PatchFormat {
    /// Its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            PatchFormat::Merge => "application/merge-patch+json",
            PatchFormat::Json => "application/json-patch+json",
            PatchFormat::Strategic => "application/strategic-merge-patch+json",
        }
    }
}

impl Kind {
    /// Every kind, in the order in which they are applied.
    pub const ALL: &[Kind] = &[
        Kind::Namespace,
        Kind::MeshConfig,
        Kind::ConfigMap,
        Kind::BackendTlsPolicy,
        Kind::Service,
        Kind::EndpointSlice,
        Kind::Workload,
        Kind::BackendPolicy,
        Kind::RoutePolicy,
        Kind::TelemetryPolicy,
        Kind::ReferenceGrant,
        Kind::HttpRoute,
        Kind::GrpcRoute,
    ];

    /// The API group; empty for Kubernetes' core group.
    pub fn group(self) -> &'static str {
        self.facts().group
    }

    /// The version in the group in which its resources are written.
    pub fn version(self) -> &'static str {
        "v1"
    }

    /// Every version in which its resources are read, [`Kind::version`] first; all have the same fields.
    pub fn versions(self) -> &'static [&'static str] {
        match self {
            // The CRD serves both; v1beta1 is what the most people have written.
            Kind::ReferenceGrant => &["v1", "v1beta1"],
            Kind::Namespace
            | Kind::MeshConfig
            | Kind::ConfigMap
            | Kind::BackendTlsPolicy
            | Kind::Service
            | Kind::EndpointSlice
            | Kind::Workload
            | Kind::BackendPolicy
            | Kind::RoutePolicy
            | Kind::TelemetryPolicy
            | Kind::HttpRoute
            | Kind::GrpcRoute => &["v1"],
        }
    }

    /// What `apiVersion` says: `v1` or `group/v1`.
    pub fn api_version(self) -> &'static str {
        self.facts().api_version
    }

    /// What `kind` says: `HTTPRoute`.
    pub fn kind(self) -> &'static str {
        self.facts().kind
    }

    /// What stands in URLs: `httproutes`.
    pub fn plural(self) -> &'static str {
        self.facts().plural
    }

    /// What the command line prints: `httproute`.
    pub fn singular(self) -> &'static str {
        self.facts().singular
    }

    /// Short names that the command line takes beside singular and plural: `svc`.
    pub fn short_names(self) -> &'static [&'static str] {
        self.facts().short
    }

    /// Whether its resources live in a namespace.
    pub fn scope(self) -> Scope {
        match self {
            Kind::Namespace | Kind::MeshConfig => Scope::Cluster,
            Kind::ConfigMap
            | Kind::BackendTlsPolicy
            | Kind::Service
            | Kind::EndpointSlice
            | Kind::Workload
            | Kind::BackendPolicy
            | Kind::RoutePolicy
            | Kind::TelemetryPolicy
            | Kind::ReferenceGrant
            | Kind::HttpRoute
            | Kind::GrpcRoute => Scope::Namespaced,
        }
    }

    /// Whether users write it.
    pub fn access(self) -> Access {
        match self {
            Kind::Workload => Access::ReadOnly,
            Kind::Namespace
            | Kind::MeshConfig
            | Kind::ConfigMap
            | Kind::BackendTlsPolicy
            | Kind::Service
            | Kind::EndpointSlice
            | Kind::BackendPolicy
            | Kind::RoutePolicy
            | Kind::TelemetryPolicy
            | Kind::ReferenceGrant
            | Kind::HttpRoute
            | Kind::GrpcRoute => Access::Writable,
        }
    }

    /// Whether its resources carry a status.
    pub fn status_part(self) -> StatusPart {
        match self {
            Kind::ConfigMap | Kind::Service | Kind::EndpointSlice | Kind::ReferenceGrant => StatusPart::None,
            Kind::Namespace
            | Kind::MeshConfig
            | Kind::BackendTlsPolicy
            | Kind::Workload
            | Kind::BackendPolicy
            | Kind::RoutePolicy
            | Kind::TelemetryPolicy
            | Kind::HttpRoute
            | Kind::GrpcRoute => StatusPart::Kept,
        }
    }

    /// Groups of kinds that the command line takes in the place of a kind: `kubectl get weir`.
    pub fn categories(self) -> &'static [&'static str] {
        match (self, self.group()) {
            (Kind::Service, _) => &["all"],
            (_, "weir.dev") => &["weir"],
            (_, "gateway.networking.k8s.io") => &["gateway-api"],
            (_, _) => &[],
        }
    }

    /// What the API does with its resources, by Kubernetes' names, sorted. Namespaces go one at a time: with each goes
    /// all that it holds.
    pub fn verbs(self) -> &'static [&'static str] {
        match (self.access(), self) {
            (Access::ReadOnly, _) => &["get", "list", "watch"],
            (Access::Writable, Kind::Namespace) => &["create", "delete", "get", "list", "patch", "update", "watch"],
            (Access::Writable, _) => &[
                "create",
                "delete",
                "deletecollection",
                "get",
                "list",
                "patch",
                "update",
                "watch",
            ],
        }
    }

    /// The formats in which its resources are patched. As in Kubernetes, strategic merge patches are for the kinds that
    /// are built in there: `kubectl` knows their merge keys.
    pub fn patch_formats(self) -> &'static [PatchFormat] {
        match self.group() {
            "" | "discovery.k8s.io" => &[PatchFormat::Json, PatchFormat::Merge, PatchFormat::Strategic],
            _ => &[PatchFormat::Json, PatchFormat::Merge],
        }
    }

    /// Every group, core (empty) first, in the order of [`Kind::ALL`].
    pub fn groups() -> impl Iterator<Item = &'static str> {
        let is_first = |(at, kind): &(usize, &Kind)| Kind::ALL.iter().take(*at).all(|k| k.group() != kind.group());
        let firsts = Kind::ALL.iter().enumerate().filter(is_first);
        firsts.map(|(_, kind)| kind.group())
    }

    /// Every group with each of its versions, the one that resources are written in first.
    pub fn group_versions() -> Vec<(&'static str, &'static str)> {
        let mut all = Vec::new();
        for group in Kind::groups() {
            let kinds = Kind::ALL.iter().filter(|kind| kind.group() == group);
            for version in kinds.flat_map(|kind| kind.versions()) {
                if !all.contains(&(group, *version)) {
                    all.push((group, *version));
                }
            }
        }
        all
    }

    /// Where its resources are in the API: `/api/v1/namespaces`, `/apis/weir.dev/v1/namespaces/citizen/workloads`.
    /// `namespace`: one to look into; `None`: all, and for kinds of the whole cluster.
    pub fn path(self, namespace: Option<&str>) -> String {
        self.path_in(self.version(), namespace)
    }

    /// The same in one of [`Kind::versions`].
    pub fn path_in(self, version: &str, namespace: Option<&str>) -> String {
        let root = match self.group() {
            "" => format!("/api/{version}"),
            group => format!("/apis/{group}/{version}"),
        };
        let plural = self.plural();
        match namespace {
            Some(namespace) => format!("{root}/namespaces/{namespace}/{plural}"),
            None => format!("{root}/{plural}"),
        }
    }

    /// The kind that a resource's `apiVersion` and `kind` name.
    pub fn of(api_version: &str, kind: &str) -> Option<Kind> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let named = |k: &&Kind| k.kind() == kind && k.group() == group && k.versions().contains(&version);
        Kind::ALL.iter().find(named).copied()
    }

    /// The kind that a URL's group (empty: core), version and plural name.
    pub fn of_plural(group: &str, version: &str, plural: &str) -> Option<Kind> {
        let named = |k: &&Kind| k.plural() == plural && k.group() == group && k.versions().contains(&version);
        Kind::ALL.iter().find(named).copied()
    }

    /// The kind that a person named: `HTTPRoute`, `httproute`, `httproutes` or a short name, in any case, with or
    /// without `.group` behind the plural.
    pub fn of_name(name: &str) -> Option<Kind> {
        let name = name.to_ascii_lowercase();
        let named = |k: &&Kind| {
            let facts = k.facts();
            let plain = name == facts.plural || name == facts.singular || facts.short.contains(&name.as_str());
            plain || name.split_once('.') == Some((facts.plural, facts.group))
        };
        Kind::ALL.iter().find(named).copied()
    }

    fn facts(self) -> Facts {
        match self {
            Kind::Namespace => Facts {
                group: "",
                api_version: "v1",
                kind: "Namespace",
                plural: "namespaces",
                singular: "namespace",
                short: &["ns"],
            },
            Kind::MeshConfig => Facts {
                group: "weir.dev",
                api_version: "weir.dev/v1",
                kind: "MeshConfig",
                plural: "meshconfigs",
                singular: "meshconfig",
                short: &[],
            },
            Kind::ConfigMap => Facts {
                group: "",
                api_version: "v1",
                kind: "ConfigMap",
                plural: "configmaps",
                singular: "configmap",
                short: &["cm"],
            },
            Kind::BackendTlsPolicy => Facts {
                group: "gateway.networking.k8s.io",
                api_version: "gateway.networking.k8s.io/v1",
                kind: "BackendTLSPolicy",
                plural: "backendtlspolicies",
                singular: "backendtlspolicy",
                short: &["btlspolicy"],
            },
            Kind::Service => Facts {
                group: "",
                api_version: "v1",
                kind: "Service",
                plural: "services",
                singular: "service",
                short: &["svc"],
            },
            Kind::EndpointSlice => Facts {
                group: "discovery.k8s.io",
                api_version: "discovery.k8s.io/v1",
                kind: "EndpointSlice",
                plural: "endpointslices",
                singular: "endpointslice",
                short: &["eps"],
            },
            Kind::Workload => Facts {
                group: "weir.dev",
                api_version: "weir.dev/v1",
                kind: "Workload",
                plural: "workloads",
                singular: "workload",
                short: &["wl"],
            },
            Kind::BackendPolicy => Facts {
                group: "weir.dev",
                api_version: "weir.dev/v1",
                kind: "BackendPolicy",
                plural: "backendpolicies",
                singular: "backendpolicy",
                short: &["bp"],
            },
            Kind::RoutePolicy => Facts {
                group: "weir.dev",
                api_version: "weir.dev/v1",
                kind: "RoutePolicy",
                plural: "routepolicies",
                singular: "routepolicy",
                short: &["rp"],
            },
            Kind::TelemetryPolicy => Facts {
                group: "weir.dev",
                api_version: "weir.dev/v1",
                kind: "TelemetryPolicy",
                plural: "telemetrypolicies",
                singular: "telemetrypolicy",
                short: &["tp"],
            },
            Kind::ReferenceGrant => Facts {
                group: "gateway.networking.k8s.io",
                api_version: "gateway.networking.k8s.io/v1",
                kind: "ReferenceGrant",
                plural: "referencegrants",
                singular: "referencegrant",
                short: &["refgrant"],
            },
            Kind::HttpRoute => Facts {
                group: "gateway.networking.k8s.io",
                api_version: "gateway.networking.k8s.io/v1",
                kind: "HTTPRoute",
                plural: "httproutes",
                singular: "httproute",
                short: &[],
            },
            Kind::GrpcRoute => Facts {
                group: "gateway.networking.k8s.io",
                api_version: "gateway.networking.k8s.io/v1",
                kind: "GRPCRoute",
                plural: "grpcroutes",
                singular: "grpcroute",
                short: &[],
            },
        }
    }
}

/// As `kind` says it: `HTTPRoute`.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.kind())
    }
}

struct Facts {
    group: &'static str,
    api_version: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short: &'static [&'static str],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_each_of_its_names() {
        for &kind in Kind::ALL {
            assert_eq!(Kind::of(kind.api_version(), kind.kind()), Some(kind));
            assert_eq!(Kind::of_plural(kind.group(), "v1", kind.plural()), Some(kind));
            let mut names = vec![kind.kind(), kind.plural(), kind.singular()];
            names.extend(kind.short_names());
            for name in names {
                assert_eq!(Kind::of_name(name), Some(kind), "{name}");
            }
        }
        assert_eq!(Kind::of_name("workloads.weir.dev"), Some(Kind::Workload));
        assert_eq!(Kind::of_name("services.weir.dev"), None);
        assert_eq!(Kind::of("v1", "Pod"), None);
        assert_eq!(Kind::of("v2", "Service"), None);
        assert_eq!(Kind::of("v1beta1", "Service"), None);
        let beta = "gateway.networking.k8s.io/v1beta1";
        assert_eq!(Kind::of(beta, "ReferenceGrant"), Some(Kind::ReferenceGrant));
        assert_eq!(Kind::of(beta, "HTTPRoute"), None);
        assert_eq!(Kind::of_plural("", "v1", "httproutes"), None);
    }

    #[test]
    fn paths_are_those_of_kubernetes() {
        assert_eq!(Kind::Namespace.path(None), "/api/v1/namespaces");
        assert_eq!(Kind::Service.path(Some("a")), "/api/v1/namespaces/a/services");
        let key = crate::Key {
            kind: Kind::HttpRoute,
            namespace: "a".to_owned(),
            name: "b".to_owned(),
        };
        assert_eq!(
            key.path(),
            "/apis/gateway.networking.k8s.io/v1/namespaces/a/httproutes/b"
        );
        let key = crate::Key {
            kind: Kind::MeshConfig,
            namespace: String::new(),
            name: "mesh".to_owned(),
        };
        assert_eq!(key.path(), "/apis/weir.dev/v1/meshconfigs/mesh");
    }

    #[test]
    fn groups_are_told_once() {
        let groups: Vec<&str> = Kind::groups().collect();
        assert_eq!(
            groups,
            ["", "weir.dev", "gateway.networking.k8s.io", "discovery.k8s.io"]
        );
    }

    #[test]
    fn verbs_are_sorted_and_those_that_access_allows() {
        for &kind in Kind::ALL {
            let verbs = kind.verbs();
            assert!(verbs.is_sorted(), "{kind}");
            assert_eq!(verbs.contains(&"patch"), kind.access() == Access::Writable, "{kind}");
        }
    }

    #[test]
    fn all_is_sorted_and_whole() {
        assert!(Kind::ALL.is_sorted());
        assert_eq!(Kind::ALL.len(), 13);
    }
}
