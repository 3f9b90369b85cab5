//! The endpoints of a service port, from its EndpointSlices.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use weir_api::Key;
use weir_api::endpoint_slice::{Conditions, SliceEndpoint};
use weir_policy::model::{ClusterEndpoints, Endpoint, EndpointHealth, Locality, Peer};
use weir_policy::names::{ClusterName, WorkloadName};

use super::index::{Index, workload_target};
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
            let behind = behind(endpoint, &slice.object.metadata.namespace, *address, port.port, index);
            sources.extend(behind.source);
            let compiled = Endpoint {
                address: SocketAddr::new(*address, port.port.get()),
                health,
                locality: behind.locality,
                workload: behind.workload,
                peer: behind.peer,
                identity: None,
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
    source: Option<(Key, i64)>,
}

/// Who answers at an endpoint. A workload is believed to be there only where it says so itself: a slice written by
/// hand can't lend its identity to another address.
fn behind(endpoint: &SliceEndpoint, own: &str, address: IpAddr, port: NonZeroU16, index: &Index) -> Behind {
    let plain = || Behind {
        locality: Locality {
            zone: endpoint.zone.clone().unwrap_or_default(),
            ..Locality::default()
        },
        workload: None,
        peer: Peer::Plain,
        source: None,
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
    let takes = workload.spec.ports.iter().any(|taken| taken.inbound_port == port);
    if workload.spec.address != address || !takes {
        return plain();
    }
    let locality = &workload.spec.locality;
    Behind {
        locality: Locality {
            region: locality.region.clone(),
            zone: locality.zone.clone(),
            site: locality.site.clone(),
        },
        workload: Some(name),
        peer: Peer::WeirProxy,
        source: Some(source(workload.object)),
    }
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
