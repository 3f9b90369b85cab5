//! Objects for tests, as short as they can be written.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Arc;

use weir_api::backend_policy::TargetRef;
use weir_api::backend_tls_policy::{BackendTlsPolicySpec, CaCertificateRef, Validation};
use weir_api::config_map::ConfigMapBody;
use weir_api::endpoint_slice::{
    AddressType, Conditions, EndpointSliceBody, SliceEndpoint, SlicePort, TargetRef as EndpointTarget,
};
use weir_api::grpc_route::{GrpcRouteRule, GrpcRouteSpec};
use weir_api::http_route::{
    BackendRef, HttpRouteMatch, HttpRouteRule, HttpRouteSpec, ObjectRef, ParentRef, PathMatch, RequestMirror,
};
use weir_api::mesh_config;
use weir_api::reference_grant::{GrantFrom, GrantTo, ReferenceGrantSpec};
use weir_api::route_policy::{RoutePolicySpec, RouteTargetRef};
use weir_api::service::{self, SERVICE_NAME_LABEL, ServicePort, ServiceSpec};
use weir_api::workload::{WorkloadLocality, WorkloadPort, WorkloadSpec};
use weir_api::{BackendKind, Kind, Object, RefKind, Spec, yaml};
use weir_policy::names::ServiceName;

use super::index::Index;

pub(crate) fn port(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).expect("not zero")
}

/// A service without selector; ports with an empty name have none.
pub(crate) fn service(namespace: &str, name: &str, ports: &[(&str, u16)]) -> Object {
    let ports = ports.iter().map(|(name, number)| ServicePort {
        name: (!name.is_empty()).then(|| (*name).to_owned()),
        protocol: service::TransportProtocol::Tcp,
        port: port(*number),
        target_port: None,
        app_protocol: None,
    });
    let spec = ServiceSpec {
        ports: ports.collect(),
        ..ServiceSpec::default()
    };
    Object::new(namespace, name, Spec::Service(spec))
}

/// A service of workloads with the label `app` of its name.
pub(crate) fn selecting(mut service: Object) -> Object {
    let name = service.metadata.name.clone();
    if let Spec::Service(spec) = &mut service.spec {
        spec.selector = BTreeMap::from([("app".to_owned(), name)]);
    }
    service
}

/// A route in `namespace` for a service, whose only rule sends every path to `parent` in the route's own namespace.
pub(crate) fn route(namespace: &str, name: &str, parent_namespace: &str, parent: &str) -> Object {
    let spec = HttpRouteSpec {
        parent_refs: vec![ParentRef {
            kind: RefKind::Service,
            namespace: Some(parent_namespace.to_owned()),
            name: parent.to_owned(),
            section_name: None,
            port: None,
        }],
        hostnames: Vec::new(),
        rules: vec![rule("/", &[parent])],
    };
    Object::new(namespace, name, Spec::HttpRoute(spec))
}

/// A route for gRPC calls, whose only rule sends every call to `parent` in the route's own namespace.
pub(crate) fn grpc_route(namespace: &str, name: &str, parent_namespace: &str, parent: &str) -> Object {
    let http = route(namespace, name, parent_namespace, parent);
    let parents = weir_api::RouteSpec::of(&http).expect("a route").parent_refs();
    let spec = GrpcRouteSpec {
        parent_refs: parents.to_vec(),
        hostnames: Vec::new(),
        rules: vec![GrpcRouteRule {
            backend_refs: vec![backend(parent)],
            ..GrpcRouteRule::default()
        }],
    };
    Object::new(namespace, name, Spec::GrpcRoute(spec))
}

pub(crate) fn grpc_spec_of(route: &mut Object) -> &mut GrpcRouteSpec {
    match &mut route.spec {
        Spec::GrpcRoute(spec) => spec,
        other => panic!("no GRPCRoute: {other:?}"),
    }
}

pub(crate) fn rule(prefix: &str, backends: &[&str]) -> HttpRouteRule {
    let backends = backends.iter().map(|name| backend(name));
    HttpRouteRule {
        name: None,
        matches: vec![HttpRouteMatch {
            path: PathMatch::PathPrefix(prefix.to_owned()),
            headers: Vec::new(),
            query_params: Vec::new(),
            method: None,
        }],
        filters: Vec::new(),
        backend_refs: backends.collect(),
        timeouts: None,
        retry: None,
    }
}

/// Port 80 of a service in the route's namespace.
pub(crate) fn backend(name: &str) -> BackendRef {
    BackendRef {
        kind: BackendKind::service(),
        namespace: None,
        name: name.to_owned(),
        port: Some(port(80)),
        weight: 1,
        filters: Vec::new(),
    }
}

/// A grant in `namespace` for HTTPRoutes of `from` to one service or to all.
pub(crate) fn grant(namespace: &str, name: &str, from: &str, to: Option<&str>) -> Object {
    grant_for(Kind::HttpRoute, namespace, name, from, to)
}

/// The same for another kind.
pub(crate) fn grant_for(kind: Kind, namespace: &str, name: &str, from: &str, to: Option<&str>) -> Object {
    let spec = ReferenceGrantSpec {
        from: vec![GrantFrom {
            kind,
            namespace: from.to_owned(),
        }],
        to: vec![GrantTo {
            kind: RefKind::Service,
            name: to.map(str::to_owned),
        }],
    };
    Object::new(namespace, name, Spec::ReferenceGrant(spec))
}

/// A RoutePolicy of `citizen` for these: kind, name, rule.
pub(crate) fn route_policy(name: &str, targets: &[(Kind, &str, Option<&str>)]) -> Object {
    let targets = targets.iter().map(|(kind, name, rule)| RouteTargetRef {
        kind: *kind,
        name: (*name).to_owned(),
        section_name: rule.map(str::to_owned),
    });
    let spec = RoutePolicySpec {
        target_refs: targets.collect(),
        ..RoutePolicySpec::default()
    };
    Object::new("citizen", name, Spec::RoutePolicy(spec))
}

/// All requests are copied to port 80 of a service.
pub(crate) fn mirror(namespace: Option<&str>, name: &str) -> RequestMirror {
    RequestMirror {
        backend_ref: ObjectRef {
            kind: BackendKind::service(),
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
            port: Some(port(80)),
        },
        percent: None,
        fraction: None,
    }
}

/// What a RoutePolicy asks for, to be changed.
pub(crate) fn route_policy_spec_of(policy: &mut Object) -> &mut RoutePolicySpec {
    match &mut policy.spec {
        Spec::RoutePolicy(spec) => spec,
        other => panic!("a RoutePolicy: {other:?}"),
    }
}

pub(crate) fn spec_of(route: &mut Object) -> &mut HttpRouteSpec {
    match &mut route.spec {
        Spec::HttpRoute(spec) => spec,
        other => panic!("no route: {other:?}"),
    }
}

/// A workload in zone `hz-a`, with (app port, inbound port).
pub(crate) fn workload(namespace: &str, name: &str, address: &str, ports: &[(u16, u16)]) -> Object {
    let ports = ports.iter().map(|(app, inbound)| WorkloadPort {
        app_port: port(*app),
        inbound_port: port(*inbound),
        protocol: service::AppProtocol::Http1,
        edge: false,
    });
    let spec = WorkloadSpec {
        address: address.parse().expect("an address"),
        ports: ports.collect(),
        locality: WorkloadLocality {
            region: "zj".to_owned(),
            zone: "hz-a".to_owned(),
            site: String::new(),
        },
        instance: 1,
        version: String::new(),
        account: String::new(),
    };
    Object::new(namespace, name, Spec::Workload(spec))
}

/// A workload with a certificate of this account.
pub(crate) fn with_account(mut workload: Object, account: &str) -> Object {
    if let Spec::Workload(spec) = &mut workload.spec {
        spec.account = account.to_owned();
    }
    workload
}

/// The MeshConfig with this `mutualTls`, in YAML.
pub(crate) fn mesh_config(mutual_tls: &str) -> Object {
    mesh_config_of(&format!("{{mutualTls: {mutual_tls}}}"))
}

/// The MeshConfig with this spec.
pub(crate) fn mesh_config_of(spec: &str) -> Object {
    let text = format!(
        "apiVersion: weir.dev/v1\nkind: MeshConfig\nmetadata: {{name: {}}}\nspec: {spec}",
        mesh_config::NAME
    );
    let mut objects = yaml::read_objects(&text, "test", None).expect("a MeshConfig");
    objects.remove(0).object
}

/// A slice of a service with one port and (address, workload).
pub(crate) fn slice(
    namespace: &str,
    service: &str,
    port_name: &str,
    number: u16,
    endpoints: &[(&str, Option<&str>)],
) -> Object {
    let endpoints = endpoints.iter().map(|(address, workload)| SliceEndpoint {
        addresses: vec![address.parse().expect("an address")],
        conditions: Conditions::default(),
        hostname: None,
        node_name: None,
        zone: None,
        target_ref: workload.map(|workload| EndpointTarget {
            kind: "Workload".to_owned(),
            namespace: None,
            name: workload.to_owned(),
        }),
    });
    let body = EndpointSliceBody {
        address_type: AddressType::V4,
        endpoints: endpoints.collect(),
        ports: vec![SlicePort {
            name: port_name.to_owned(),
            port: port(number),
            protocol: service::TransportProtocol::Tcp,
            app_protocol: None,
        }],
    };
    let mut object = Object::new(namespace, &format!("{service}-by-hand"), Spec::EndpointSlice(body));
    object
        .metadata
        .labels
        .insert(SERVICE_NAME_LABEL.to_owned(), service.to_owned());
    object
}

/// `service.namespace`.
pub(crate) fn service_named(name: &str) -> ServiceName {
    let (service, namespace) = name.split_once('.').expect("service.namespace");
    ServiceName {
        namespace: namespace.parse().expect("a label"),
        service: service.parse().expect("a label"),
    }
}

pub(crate) fn index(objects: impl IntoIterator<Item = Object>) -> Index {
    let mut index = Index::default();
    for object in objects {
        index.apply(&object.key(), Some(Arc::new(object)));
    }
    index
}

/// A BackendTLSPolicy for port names of `portal`, or the whole of it, by these ConfigMaps.
pub(crate) fn tls_policy(name: &str, second: u32, section: Option<&str>, config_maps: &[&str]) -> Object {
    let references = config_maps.iter().map(|name| CaCertificateRef {
        group: String::new(),
        kind: "ConfigMap".to_owned(),
        name: (*name).to_owned(),
    });
    let spec = BackendTlsPolicySpec {
        target_refs: vec![TargetRef {
            kind: RefKind::Service,
            name: "portal".to_owned(),
            section_name: section.map(str::to_owned),
        }],
        validation: Validation {
            ca_certificate_refs: references.collect(),
            well_known_ca_certificates: None,
            hostname: "portal.example".to_owned(),
            subject_alt_names: Vec::new(),
        },
    };
    let mut object = Object::new("citizen", name, Spec::BackendTlsPolicy(spec));
    object.metadata.creation_timestamp = Some(format!("2026-01-01T00:00:{second:02}Z"));
    object
}

pub(crate) fn tls_spec_of(policy: &mut Object) -> &mut BackendTlsPolicySpec {
    match &mut policy.spec {
        Spec::BackendTlsPolicy(spec) => spec,
        other => panic!("no BackendTLSPolicy: {other:?}"),
    }
}

/// A ConfigMap with one text.
pub(crate) fn config_map(name: &str, key: &str, text: &str) -> Object {
    let body = ConfigMapBody {
        data: BTreeMap::from([(key.to_owned(), text.to_owned())]),
        ..ConfigMapBody::default()
    };
    Object::new("citizen", name, Spec::ConfigMap(body))
}

/// The certificate of somebody who signs for others.
pub(crate) fn certificate(name: &str) -> rcgen::Certificate {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.self_signed(&key).expect("it is signed")
}
