//! The endpoints of a service port, from its EndpointSlices.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use weir_api::Key;
use weir_api::endpoint_slice::{Conditions, SliceEndpoint};
use weir_api::workload::{WorkloadPort, WorkloadSpec};
use weir_policy::model::{ClusterEndpoints, Endpoint, EndpointHealth, Locality, Peer};
use weir_policy::mutual_tls::Mode;
use weir_policy::names::{ClusterName, WorkloadName};
use weir_policy::spiffe::SpiffeId;

use super::index::{Index, Of, workload_target};
use super::mutual_tls::mutual_tls;
use super::{Compiled, source};

/// The endpoints of a service port, by locality and address. `None`: no such service or port.
///
/// A service behind several slices may have an address twice (Kubernetes, EndpointSlices "Duplicate endpoints"): the
/// better word for it counts, since slices move an endpoint by adding it before they take it out.
pub(crate) fn endpoints(name: &ClusterName, index: &Index) -> Option<Compiled<ClusterEndpoints>> {
    let service = index.service(&name.service)?;
    let port = service.spec.ports.iter().find(|port| port.port == name.port)?;
    let port_name = port.name.as_deref().unwrap_or("");
    let mut sources = vec![source(service.object)];
    let mut found: BTreeMap<SocketAddr, Endpoint> = BTreeMap::new();
    for slice in index.slices(&name.service) {
        let Some(port) = slice.spec.ports.iter().find(|port| port.name == port_name) else {
            continue;
        };
        sources.push(source(slice.object));
        for endpoint in &slice.spec.endpoints {
            let (Some(address), Some(health)) = (endpoint.addresses.first(), health(endpoint.conditions)) else {
                continue;
            };
            let address = SocketAddr::new(*address, port.port.get());
            let behind = behind(endpoint, &slice.object.metadata.namespace, address, index);
            sources.extend(behind.sources);
            let compiled = Endpoint {
                address,
                health,
                locality: behind.locality,
                workload: behind.workload,
                peer: behind.peer,
                identity: behind.identity,
            };
            let held = found.entry(compiled.address).or_insert_with(|| compiled.clone());
            if rank(compiled.health) < rank(held.health) {
                *held = compiled;
            }
        }
    }
    let mut endpoints: Vec<Endpoint> = found.into_values().collect();
    endpoints.sort_by(|a, b| {
        let order = |e: &Endpoint| {
            (
                e.locality.region.clone(),
                e.locality.zone.clone(),
                e.locality.site.clone(),
            )
        };
        order(a).cmp(&order(b)).then_with(|| a.address.cmp(&b.address))
    });
    let resource = ClusterEndpoints {
        cluster: name.clone(),
        endpoints,
    };
    Some(Compiled { resource, sources })
}

/// How many of some endpoints are entered by mutual TLS alone.
pub(crate) fn strict(of: &ClusterEndpoints, index: &Index) -> usize {
    let is_strict = |endpoint: &&Endpoint| {
        let name = endpoint.workload.as_ref();
        let taken = name.and_then(|name| {
            let workload = index.workload(name)?;
            let port = port_taken(&workload, endpoint.address)?;
            (!port.edge).then(|| mode(name, &workload, port, index))
        });
        taken == Some(Mode::Strict)
    };
    of.endpoints.iter().filter(is_strict).count()
}

/// Kubernetes, EndpointConditions: `ready` unknown is ready, `serving` unknown is as `ready`, `terminating` unknown
/// is no. `None`: nothing answers there.
fn health(conditions: Conditions) -> Option<EndpointHealth> {
    let ready = conditions.ready.unwrap_or(true);
    let serving = conditions.serving.unwrap_or(ready);
    let terminating = conditions.terminating.unwrap_or(false);
    match (terminating, ready, serving) {
        (true, _, true) => Some(EndpointHealth::Draining),
        (false, true, _) => Some(EndpointHealth::Healthy),
        (false, false, true) => Some(EndpointHealth::Unhealthy),
        (true, _, false) | (false, false, false) => None,
    }
}

fn rank(health: EndpointHealth) -> u8 {
    match health {
        EndpointHealth::Healthy => 0,
        EndpointHealth::Unhealthy => 1,
        EndpointHealth::Draining => 2,
    }
}

struct Behind {
    locality: Locality,
    workload: Option<WorkloadName>,
    peer: Peer,
    identity: Option<Arc<SpiffeId>>,
    sources: Vec<(Key, i64)>,
}

/// Who answers at an endpoint. A workload is believed to be there only where it says so itself: a slice written by
/// hand can't lend its identity to another address.
fn behind(endpoint: &SliceEndpoint, own: &str, address: SocketAddr, index: &Index) -> Behind {
    let plain = || Behind {
        locality: Locality {
            zone: endpoint.zone.clone().unwrap_or_default(),
            ..Locality::default()
        },
        workload: None,
        peer: Peer::Plain,
        identity: None,
        sources: Vec::new(),
    };
    let Some(name) = endpoint
        .target_ref
        .as_ref()
        .and_then(|target| workload_target(target, own))
    else {
        return plain();
    };
    let Some(workload) = index.workload(&name) else {
        return plain();
    };
    let Some(taken) = port_taken(&workload, address) else {
        return plain();
    };
    let mut sources = vec![source(workload.object)];
    let identity = match taken.edge {
        true => None,
        false => {
            sources.extend(index.mesh_config().map(|config| source(config.object)));
            identity(&name, &workload, taken, index)
        }
    };
    let locality = &workload.spec.locality;
    Behind {
        locality: Locality {
            region: locality.region.clone(),
            zone: locality.zone.clone(),
            site: locality.site.clone(),
        },
        workload: Some(name),
        peer: Peer::WeirProxy,
        identity,
        sources,
    }
}

/// Whose certificate callers are to expect at a port that is no edge. `None`: it is entered in cleartext, as the
/// MeshConfig says or because the workload has no certificate.
fn identity(
    name: &WorkloadName,
    workload: &Of<'_, WorkloadSpec>,
    port: &WorkloadPort,
    index: &Index,
) -> Option<Arc<SpiffeId>> {
    let account = workload.spec.account.parse().ok()?;
    match mode(name, workload, port, index) {
        Mode::Strict | Mode::Permissive => Some(Arc::new(SpiffeId {
            trust_domain: index.trust_domain().clone(),
            namespace: name.namespace.clone(),
            account,
        })),
        Mode::Off => None,
    }
}

/// How a port is entered that is no edge.
fn mode(name: &WorkloadName, workload: &Of<'_, WorkloadSpec>, port: &WorkloadPort, index: &Index) -> Mode {
    let labels = Some(&workload.object.metadata.labels);
    mutual_tls(index.mutual_tls(), name.namespace.as_str(), labels).at(port.app_port)
}

/// The app port for which a workload takes requests at an address.
fn port_taken<'a>(workload: &Of<'a, WorkloadSpec>, address: SocketAddr) -> Option<&'a WorkloadPort> {
    let mut ports = workload.spec.ports.iter();
    let port = ports.find(|port| port.inbound_port.get() == address.port());
    port.filter(|_| workload.spec.address == address.ip())
}

#[cfg(test)]
mod tests {
    use weir_api::Spec;

    use super::*;
    use crate::compile::fixture;

    #[track_caller]
    fn conditions(given: [Option<bool>; 3], expect: Option<EndpointHealth>) {
        let [ready, serving, terminating] = given;
        let given = Conditions {
            ready,
            serving,
            terminating,
        };
        assert_eq!(health(given), expect, "{given:?}");
    }

    #[test]
    fn conditions_read_as_kubernetes_has_them() {
        use EndpointHealth::{Draining, Healthy, Unhealthy};
        let (yes, no) = (Some(true), Some(false));
        conditions([None, None, None], Some(Healthy));
        conditions([yes, None, None], Some(Healthy));
        conditions([no, None, None], None);
        conditions([no, yes, None], Some(Unhealthy));
        conditions([no, yes, no], Some(Unhealthy));
        conditions([no, yes, yes], Some(Draining));
        conditions([no, no, yes], None);
        conditions([yes, yes, yes], Some(Draining));
        conditions([None, None, yes], Some(Draining));
        conditions([None, no, yes], None);
    }

    fn compiled(index: &Index, name: &str) -> Vec<(String, Option<String>, Peer, String)> {
        let compiled = endpoints(&name.parse().expect("a cluster"), index).expect("the service is there");
        let endpoints = compiled.resource.endpoints.into_iter();
        let shown = endpoints.map(|endpoint| {
            let workload = endpoint.workload.map(|workload| workload.to_string());
            (
                endpoint.address.to_string(),
                workload,
                endpoint.peer,
                endpoint.locality.zone,
            )
        });
        shown.collect()
    }

    #[test]
    fn identity_comes_from_a_workload_that_says_the_same_of_itself() {
        let addresses = [
            ("10.0.0.3", None),
            ("10.0.0.2", Some("portal-1")),
            ("10.0.0.1", Some("portal-1")),
            ("10.0.0.4", Some("unknown")),
        ];
        let index = fixture::index([
            fixture::service("citizen", "portal", &[("", 80)]),
            fixture::workload("citizen", "portal-1", "10.0.0.1", &[(8080, 15006)]),
            fixture::slice("citizen", "portal", "", 15006, &addresses),
        ]);
        let plain = |address: &str| (address.to_owned(), None, Peer::Plain, String::new());
        let known = (
            "10.0.0.1:15006".to_owned(),
            Some("citizen/portal-1".to_owned()),
            Peer::WeirProxy,
            "hz-a".to_owned(),
        );
        let expect = [
            plain("10.0.0.2:15006"),
            plain("10.0.0.3:15006"),
            plain("10.0.0.4:15006"),
            known,
        ];
        assert_eq!(compiled(&index, "portal.citizen:80"), expect);
    }

    #[test]
    fn callers_expect_the_certificate_that_a_workload_registered_with() {
        let ports = [(8080, 15006), (9090, 15007), (7070, 15008)];
        let workload = |name: &str, address: &str| {
            let mut workload = fixture::workload("citizen", name, address, &ports);
            if let Spec::Workload(spec) = &mut workload.spec {
                spec.ports[2].edge = true;
            }
            workload
        };
        let in_cleartext = workload("portal-2", "10.0.0.2");
        let workload = fixture::with_account(workload("portal-1", "10.0.0.1"), "portal");
        let endpoints = [("10.0.0.1", Some("portal-1")), ("10.0.0.2", Some("portal-2"))];
        let service = fixture::service("citizen", "portal", &[("http", 80), ("grpc", 90), ("edge", 70)]);
        let slices = [("http", 15006), ("grpc", 15007), ("edge", 15008)].map(|(port, inbound)| {
            let mut slice = fixture::slice("citizen", "portal", port, inbound, &endpoints);
            slice.metadata.name = port.to_owned();
            slice
        });
        let portal = "spiffe://gov.example/ns/citizen/sa/portal";
        let says = |mutual_tls: &str, expect: [Option<&str>; 3]| {
            let mut index = Index::new("gov.example".parse().expect("a trust domain"));
            let config = (!mutual_tls.is_empty()).then(|| fixture::mesh_config(mutual_tls));
            let objects = [service.clone(), workload.clone(), in_cleartext.clone()];
            for object in objects.into_iter().chain(slices.clone()).chain(config) {
                index.apply(&object.key(), Some(Arc::new(object)));
            }
            for (port, expect) in [80, 90, 70].into_iter().zip(expect) {
                let name = format!("portal.citizen:{port}").parse().expect("a cluster");
                let compiled = super::endpoints(&name, &index).expect("it is there");
                let found: Vec<Option<String>> = compiled
                    .resource
                    .endpoints
                    .iter()
                    .map(|endpoint| endpoint.identity.as_ref().map(ToString::to_string))
                    .collect();
                assert_eq!(found, [expect.map(str::to_owned), None], "{mutual_tls} {port}");
                let by_config = compiled
                    .sources
                    .iter()
                    .any(|(key, _)| key.kind == weir_api::Kind::MeshConfig);
                assert_eq!(by_config, !mutual_tls.is_empty() && port != 70, "{mutual_tls} {port}");
            }
        };
        says("", [Some(portal), Some(portal), None]);
        says("{mode: Strict}", [Some(portal), Some(portal), None]);
        says("{mode: 'Off'}", [None, None, None]);
        says(
            "{overrides: [{ports: [9090, 7070], mode: 'Off'}]}",
            [Some(portal), None, None],
        );
        says(
            "{mode: 'Off', overrides: [{namespaces: [police], mode: Strict}]}",
            [None, None, None],
        );
    }

    #[test]
    fn a_slice_counts_for_the_ports_it_names_and_an_address_once() {
        let mut drained = fixture::slice("citizen", "portal", "http", 15006, &[("10.0.0.1", None)]);
        drained.metadata.name = "older".to_owned();
        if let Spec::EndpointSlice(slice) = &mut drained.spec {
            slice.endpoints[0].conditions.terminating = Some(true);
        }
        let index = fixture::index([
            fixture::service("citizen", "portal", &[("http", 80), ("grpc", 90)]),
            drained,
            fixture::slice("citizen", "portal", "http", 15006, &[("10.0.0.1", None)]),
        ]);
        let name = "portal.citizen:80".parse().expect("a cluster");
        let found = endpoints(&name, &index).expect("it is there").resource.endpoints;
        assert_eq!((found.len(), found[0].health), (1, EndpointHealth::Healthy));
        assert_eq!(compiled(&index, "portal.citizen:90"), []);
        assert!(endpoints(&"portal.citizen:91".parse().expect("a cluster"), &index).is_none());
        assert!(endpoints(&"other.citizen:80".parse().expect("a cluster"), &index).is_none());
    }
}
