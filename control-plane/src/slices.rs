//! EndpointSlices from Workloads: which workloads stand behind which service. [`solve`] is pure and idempotent, the
//! task writes what it says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use weir_api::endpoint_slice::{
    AddressType, Conditions, EndpointSliceBody, SliceEndpoint, SlicePort, TargetRef as EndpointTarget,
};
use weir_api::service::{AppProtocol, SERVICE_NAME_LABEL, ServicePort, ServiceSpec, TargetPort, TransportProtocol};
use weir_api::workload::{WorkloadPort, WorkloadSpec, WorkloadStatus};
use weir_api::{Key, Kind, Object, Spec};

use crate::by_namespace::{Chore, Round};
use crate::compile::Version;
use crate::store::{Event, Op, Precondition, Revision, Store, Stored, WriteError};

/// The label that says who writes a slice (Kubernetes, EndpointSlice "Management").
pub(crate) const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
/// Its value for slices written here; others are left alone.
pub(crate) const MANAGED_BY: &str = "weir-control";

/// The writes that make the slices of one namespace what its services and workloads say. `existing` holds all its
/// slices. Doing them and solving again gives none.
///
/// A slice's ports are those of each of its endpoints, and so is nothing of an endpoint but its conditions as a whole:
/// workloads with other inbound ports, and app ports that are not as ready as others, get slices of their own.
pub(crate) fn solve(services: &[Arc<Stored>], workloads: &[Arc<Stored>], existing: &[Arc<Stored>]) -> Vec<Op> {
    let mut wanted: BTreeMap<Key, Object> = BTreeMap::new();
    for service in services {
        if let Spec::Service(spec) = &service.object.spec {
            let slices = slices_of(&service.object, spec, workloads);
            wanted.extend(slices.into_iter().map(|slice| (slice.key(), slice)));
        }
    }
    let mut ops = Vec::new();
    for held in existing {
        let key = held.object.key();
        let ours = is_ours(&held.object);
        let precondition = Precondition::Revision(held.revision);
        match wanted.remove(&key) {
            // Somebody else has a slice of that name: it is not ours to change.
            Some(_) if !ours => {}
            Some(object) if same(&object, &held.object) => {}
            Some(object) => ops.push(Op::Replace { object, precondition }),
            None if ours => ops.push(Op::Delete { key, precondition }),
            None => {}
        }
    }
    ops.extend(wanted.into_values().map(Op::Create));
    ops
}

fn is_ours(slice: &Object) -> bool {
    slice
        .metadata
        .labels
        .get(MANAGED_BY_LABEL)
        .is_some_and(|by| by == MANAGED_BY)
}

fn same(wanted: &Object, held: &Object) -> bool {
    wanted.spec == held.spec
        && wanted.metadata.labels == held.metadata.labels
        && wanted.metadata.annotations == held.metadata.annotations
}

/// What the endpoints of one slice have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    family: Family,
    /// By the service port's name (empty: none), the inbound port.
    ports: BTreeMap<String, NonZeroU16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    V4,
    V6,
}

fn slices_of(service: &Object, spec: &ServiceSpec, workloads: &[Arc<Stored>]) -> Vec<Object> {
    // Kubernetes: without a selector the slices are somebody else's.
    if spec.selector.is_empty() {
        return Vec::new();
    }
    let mut groups: BTreeMap<Group, Vec<SliceEndpoint>> = BTreeMap::new();
    for workload in workloads {
        let object = &workload.object;
        let selected = |(name, value): (&String, &String)| object.metadata.labels.get(name) == Some(value);
        let Spec::Workload(workload) = &object.spec else {
            continue;
        };
        if object.metadata.namespace != service.metadata.namespace || !spec.selector.iter().all(selected) {
            continue;
        }
        let status = WorkloadStatus::of(object);
        for (ready, ports) in ports_by_readiness(spec, workload, &status) {
            let group = Group {
                family: match workload.address {
                    IpAddr::V4(_) => Family::V4,
                    IpAddr::V6(_) => Family::V6,
                },
                ports,
            };
            groups
                .entry(group)
                .or_default()
                .push(endpoint(object, workload, ready, &status));
        }
    }
    let slices = groups.into_iter().flat_map(|(group, mut endpoints)| {
        endpoints.sort_by(|a, b| (&a.addresses, target_name(a)).cmp(&(&b.addresses, target_name(b))));
        let chunks: Vec<Vec<SliceEndpoint>> = endpoints.chunks(ENDPOINTS_MAX).map(<[_]>::to_vec).collect();
        let numbered = chunks.into_iter().enumerate();
        numbered
            .map(|(number, endpoints)| slice(service, &group, number, endpoints))
            .collect::<Vec<_>>()
    });
    slices.collect()
}

fn target_name(endpoint: &SliceEndpoint) -> Option<&str> {
    endpoint.target_ref.as_ref().map(|target| target.name.as_str())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ready {
    Yes,
    No,
}

/// The inbound ports behind the service's ports, apart by whether their app port takes connections.
fn ports_by_readiness(
    service: &ServiceSpec,
    workload: &WorkloadSpec,
    status: &WorkloadStatus,
) -> BTreeMap<Ready, BTreeMap<String, NonZeroU16>> {
    let mut found: BTreeMap<Ready, BTreeMap<String, NonZeroU16>> = BTreeMap::new();
    for port in &service.ports {
        if let Some(behind) = behind(port, &workload.ports) {
            let ready = match status.ready_app_ports.contains(&behind.app_port) {
                true => Ready::Yes,
                false => Ready::No,
            };
            let name = port.name.clone().unwrap_or_default();
            found.entry(ready).or_default().insert(name, behind.inbound_port);
        }
    }
    found
}

/// The app port that a service port names: by number, or, as a workload's ports have no names of their own, by what it
/// speaks (`http`, `h2c` or `http2`, `grpc`, `tcp`, `postgres` …) where exactly one port speaks that.
fn behind<'a>(port: &ServicePort, ports: &'a [WorkloadPort]) -> Option<&'a WorkloadPort> {
    let by_number = |number: NonZeroU16| ports.iter().find(|own| own.app_port == number);
    match &port.target_port {
        None => by_number(port.port),
        Some(TargetPort::Number(number)) => by_number(*number),
        Some(TargetPort::Name(name)) => {
            let speaks: &[AppProtocol] = match AppProtocol::by_name(name)? {
                AppProtocol::Http1 | AppProtocol::WebSocket => &[AppProtocol::Http1, AppProtocol::WebSocket],
                AppProtocol::Http2 => &[AppProtocol::Http2],
                AppProtocol::Grpc => &[AppProtocol::Grpc],
                AppProtocol::Tcp => &[AppProtocol::Tcp],
            };
            let mut speaking = ports.iter().filter(|own| speaks.contains(&own.protocol));
            let first = speaking.next();
            if speaking.next().is_some() { None } else { first }
        }
    }
}

fn endpoint(object: &Object, workload: &WorkloadSpec, ready: Ready, status: &WorkloadStatus) -> SliceEndpoint {
    let takes = ready == Ready::Yes;
    let terminating = status.is_draining();
    SliceEndpoint {
        addresses: vec![workload.address],
        // Kubernetes, EndpointConditions: what is terminating is never ready; serving says that it answers all the
        // same.
        conditions: Conditions {
            ready: Some(takes && !terminating),
            serving: Some(takes),
            terminating: Some(terminating),
        },
        hostname: None,
        node_name: None,
        zone: Some(workload.locality.zone.clone()).filter(|zone| !zone.is_empty()),
        target_ref: Some(EndpointTarget {
            kind: Kind::Workload.kind().to_owned(),
            namespace: Some(object.metadata.namespace.clone()),
            name: object.metadata.name.clone(),
        }),
    }
}

fn slice(service: &Object, group: &Group, number: usize, endpoints: Vec<SliceEndpoint>) -> Object {
    let ports = group.ports.iter().map(|(name, port)| SlicePort {
        name: name.clone(),
        port: *port,
        protocol: TransportProtocol::Tcp,
        app_protocol: None,
    });
    let body = EndpointSliceBody {
        address_type: match group.family {
            Family::V4 => AddressType::V4,
            Family::V6 => AddressType::V6,
        },
        endpoints,
        ports: ports.collect(),
    };
    let name = slice_name(&service.metadata.name, group, number);
    let mut slice = Object::new(&service.metadata.namespace, &name, Spec::EndpointSlice(body));
    let labels = [
        (SERVICE_NAME_LABEL, service.metadata.name.as_str()),
        (MANAGED_BY_LABEL, MANAGED_BY),
    ];
    slice.metadata.labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    slice
}

/// `portal-1a2b3c4d5e6f`: the same for the same ports, so that a slice keeps its name while endpoints come and go.
fn slice_name(service: &str, group: &Group, number: usize) -> String {
    let what = format!("{service} {group:?} {number}");
    let hash = Version::of(what.as_bytes()).to_string();
    let hash: String = hash.chars().take(12).collect();
    format!("{service}-{hash}")
}

/// Writes the slices of every namespace whenever something they depend on changes: what others change in them is put
/// right as well.
pub(crate) struct Slices;

impl Chore for Slices {
    const RETRY_AFTER: Duration = Duration::from_secs(1);

    fn first(&self, store: &Store) -> (BTreeSet<String>, Revision) {
        let (all, revision) = store.all();
        let namespaces = all.iter().map(|stored| stored.object.metadata.namespace.clone());
        (namespaces.filter(|namespace| !namespace.is_empty()).collect(), revision)
    }

    fn touched(&self, _: &Store, event: &Event) -> Option<String> {
        touched(event)
    }

    async fn round(&self, store: &Store, dirty: &mut BTreeSet<String>) -> Round {
        write_all(store, dirty).await
    }
}

fn touched(event: &Event) -> Option<String> {
    match event.key.kind {
        Kind::Service | Kind::Workload | Kind::EndpointSlice => Some(event.key.namespace.clone()),
        Kind::Namespace
        | Kind::MeshConfig
        | Kind::ConfigMap
        | Kind::BackendTlsPolicy
        | Kind::BackendPolicy
        | Kind::RoutePolicy
        | Kind::TelemetryPolicy
        | Kind::ReferenceGrant
        | Kind::HttpRoute
        | Kind::GrpcRoute => None,
    }
}

/// Solves each namespace and takes it out of `dirty` when that is written.
async fn write_all(store: &Store, dirty: &mut BTreeSet<String>) -> Round {
    let mut round = Round::Done;
    for namespace in std::mem::take(dirty) {
        let list = |kind| store.list(kind, Some(&namespace)).0;
        let ops = solve(&list(Kind::Service), &list(Kind::Workload), &list(Kind::EndpointSlice));
        if ops.is_empty() {
            continue;
        }
        match store.write(ops).await {
            Ok(_) => {}
            // Somebody wrote one of them in between: the watch says so, and the namespace is solved anew.
            Err(WriteError::Conflict { .. } | WriteError::Exists { .. } | WriteError::NotFound { .. }) => {
                dirty.insert(namespace);
                round = Round::Again;
            }
            Err(WriteError::Closed) => {}
            Err(error @ (WriteError::Storage(_) | WriteError::NotEmpty { .. } | WriteError::Terminating { .. })) => {
                tracing::error!(namespace, %error, "endpoint slices are not written; trying again");
                dirty.insert(namespace);
                round = Round::Again;
            }
        }
    }
    round
}

/// Kubernetes' bound of one slice.
const ENDPOINTS_MAX: usize = 1_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weir_api::workload::State;

    use super::*;
    use crate::compile::fixture;

    fn stored(object: Object) -> Arc<Stored> {
        Arc::new(Stored {
            object: Arc::new(object),
            revision: Revision(1),
        })
    }

    /// What a namespace holds after the writes.
    fn after(existing: &[Arc<Stored>], ops: Vec<Op>) -> Vec<Arc<Stored>> {
        let mut held: BTreeMap<Key, Arc<Stored>> = existing
            .iter()
            .map(|stored| (stored.object.key(), Arc::clone(stored)))
            .collect();
        for op in ops {
            match op {
                Op::Create(object) => {
                    assert!(held.insert(object.key(), stored(object)).is_none(), "it existed");
                }
                Op::Replace { object, .. } => {
                    assert!(held.insert(object.key(), stored(object)).is_some(), "it did not exist");
                }
                Op::Delete { key, .. } => assert!(held.remove(&key).is_some(), "it did not exist"),
                other => panic!("not of slices: {other:?}"),
            }
        }
        held.into_values().collect()
    }

    fn workload(name: &str, app: &str, address: &str, ports: &[(u16, u16)], ready: &[u16], state: State) -> Object {
        let mut workload = fixture::workload("citizen", name, address, ports);
        workload.metadata.labels.insert("app".to_owned(), app.to_owned());
        let status = WorkloadStatus {
            state,
            ready_app_ports: ready.iter().copied().map(fixture::port).collect(),
        };
        workload.status = Some(status.to_value());
        workload
    }

    /// Endpoints as `ports -> address ready/serving/terminating`, sorted.
    fn shown(slices: &[Arc<Stored>]) -> Vec<String> {
        let mut lines = Vec::new();
        for slice in slices {
            let Spec::EndpointSlice(body) = &slice.object.spec else {
                panic!("a slice")
            };
            let ports: Vec<String> = body
                .ports
                .iter()
                .map(|port| format!("{}={}", port.name, port.port))
                .collect();
            for endpoint in &body.endpoints {
                let Conditions {
                    ready,
                    serving,
                    terminating,
                } = endpoint.conditions;
                let flags = [(ready, 'r'), (serving, 's'), (terminating, 't')];
                let flags: String = flags
                    .iter()
                    .filter(|(on, _)| *on == Some(true))
                    .map(|(_, flag)| flag)
                    .collect();
                lines.push(format!("{} -> {} {flags}", ports.join(","), endpoint.addresses[0]));
            }
        }
        lines.sort();
        lines
    }

    #[track_caller]
    fn check(services: &[Object], workloads: &[Object], expect: &[&str]) {
        let services: Vec<_> = services.iter().cloned().map(stored).collect();
        let workloads: Vec<_> = workloads.iter().cloned().map(stored).collect();
        let slices = after(&[], solve(&services, &workloads, &[]));
        assert_eq!(shown(&slices), expect);
        assert_eq!(solve(&services, &workloads, &slices), [], "solving again");
    }

    fn portal() -> Object {
        fixture::selecting(fixture::service("citizen", "portal", &[("", 8080)]))
    }

    #[test]
    fn workloads_stand_behind_the_services_that_select_them() {
        use State::{Confirmed, Draining, Unconfirmed};
        let one = |name: &str, app: &str, address: &str, ready: &[u16], state| {
            workload(name, app, address, &[(8080, 15006)], ready, state)
        };
        let workloads = [
            one("a", "portal", "10.0.0.1", &[8080], Confirmed),
            one("b", "portal", "10.0.0.2", &[8080], Unconfirmed),
            one("c", "portal", "10.0.0.3", &[8080], Draining),
            one("d", "portal", "10.0.0.4", &[], Confirmed),
            one("e", "other", "10.0.0.5", &[8080], Confirmed),
            one("f", "portal", "fd00::1", &[8080], Confirmed),
        ];
        let expect = [
            "=15006 -> 10.0.0.1 rs",
            "=15006 -> 10.0.0.2 rs",
            "=15006 -> 10.0.0.3 st",
            "=15006 -> 10.0.0.4 ",
            "=15006 -> fd00::1 rs",
        ];
        check(&[portal()], &workloads, &expect);
        check(&[fixture::service("citizen", "portal", &[("", 8080)])], &workloads, &[]);
        let elsewhere = fixture::selecting(fixture::service("police", "portal", &[("", 8080)]));
        check(&[elsewhere], &workloads, &[]);
    }

    #[test]
    fn workloads_with_other_ports_get_slices_of_their_own() {
        let workloads = [
            workload("a", "portal", "127.0.0.1", &[(8080, 15006)], &[8080], State::Confirmed),
            workload("b", "portal", "127.0.0.1", &[(8080, 15016)], &[8080], State::Confirmed),
            workload("c", "portal", "127.0.0.1", &[(9999, 15026)], &[9999], State::Confirmed),
        ];
        check(
            &[portal()],
            &workloads,
            &["=15006 -> 127.0.0.1 rs", "=15016 -> 127.0.0.1 rs"],
        );
    }

    #[test]
    fn app_ports_are_ready_each_for_itself() {
        let mut service = fixture::selecting(fixture::service("citizen", "portal", &[("http", 80), ("grpc", 90)]));
        if let Spec::Service(spec) = &mut service.spec {
            spec.ports[0].target_port = Some(TargetPort::Number(fixture::port(8080)));
            spec.ports[1].target_port = Some(TargetPort::Name("grpc".to_owned()));
        }
        let mut both = workload(
            "a",
            "portal",
            "10.0.0.1",
            &[(8080, 1), (9090, 2)],
            &[8080, 9090],
            State::Confirmed,
        );
        let mut half = workload(
            "b",
            "portal",
            "10.0.0.2",
            &[(8080, 1), (9090, 2)],
            &[8080],
            State::Confirmed,
        );
        for workload in [&mut both, &mut half] {
            if let Spec::Workload(spec) = &mut workload.spec {
                spec.ports[1].protocol = AppProtocol::Grpc;
            }
        }
        let expect = [
            "grpc=2 -> 10.0.0.2 ",
            "grpc=2,http=1 -> 10.0.0.1 rs",
            "http=1 -> 10.0.0.2 rs",
        ];
        check(&[service], &[both, half], &expect);
    }

    #[test]
    fn slices_of_others_are_left_alone_and_ours_are_put_right() {
        let services = [stored(portal())];
        let ready = workload("a", "portal", "10.0.0.1", &[(8080, 15006)], &[8080], State::Confirmed);
        let workloads = [stored(ready)];
        let by_hand = stored(fixture::slice("citizen", "portal", "", 1, &[("10.9.9.9", None)]));
        let first = after(
            &[Arc::clone(&by_hand)],
            solve(&services, &workloads, std::slice::from_ref(&by_hand)),
        );
        assert_eq!(first.len(), 2);
        assert!(first.contains(&by_hand));

        let ours = first
            .iter()
            .find(|stored| is_ours(&stored.object))
            .expect("one is ours");
        let mut changed = (*ours.object).clone();
        if let Spec::EndpointSlice(body) = &mut changed.spec {
            body.endpoints.clear();
        }
        let ops = solve(&services, &workloads, &[stored(changed)]);
        assert!(matches!(ops.as_slice(), [Op::Replace { .. }]), "{ops:?}");

        let mut taken = (*ours.object).clone();
        taken.metadata.labels.remove(MANAGED_BY_LABEL);
        assert_eq!(
            solve(&services, &workloads, &[stored(taken)]),
            [],
            "the name is somebody else's"
        );

        let gone = solve(&[], &workloads, &first);
        assert!(matches!(gone.as_slice(), [Op::Delete { .. }]), "{gone:?}");
    }

    #[test]
    fn a_slice_holds_at_most_a_thousand_endpoints() {
        let workloads: Vec<_> = (0..2_500_u32)
            .map(|n| {
                let address = IpAddr::from((0x0a00_0000 + n).to_be_bytes()).to_string();
                stored(workload(
                    &format!("w{n}"),
                    "portal",
                    &address,
                    &[(8080, 15006)],
                    &[8080],
                    State::Confirmed,
                ))
            })
            .collect();
        let services = [stored(portal())];
        let slices = after(&[], solve(&services, &workloads, &[]));
        let sizes: Vec<usize> = slices
            .iter()
            .map(|slice| match &slice.object.spec {
                Spec::EndpointSlice(body) => body.endpoints.len(),
                other => panic!("a slice: {other:?}"),
            })
            .collect();
        assert_eq!(
            (sizes.len(), sizes.iter().sum::<usize>(), sizes.iter().max()),
            (3, 2_500, Some(&1_000))
        );
        assert_eq!(solve(&services, &workloads, &slices), []);
    }

    fn any_workload() -> impl Strategy<Value = (u8, u8, u8, bool, u8)> {
        (0..3_u8, 0..4_u8, 0..3_u8, any::<bool>(), 0..3_u8)
    }

    proptest! {
        /// From whatever slices there are, one solution is enough, and every endpoint is a workload that a service of
        /// that namespace selects, once for each service and port.
        #[test]
        fn solving_twice_is_solving_once(
            before in proptest::collection::vec(any_workload(), 0..12),
            now in proptest::collection::vec(any_workload(), 0..12),
        ) {
            let services: Vec<_> = ["a0", "a1"]
                .map(|name| stored(fixture::selecting(fixture::service("citizen", name, &[("x", 1), ("y", 2)]))))
                .to_vec();
            let build = |given: &[(u8, u8, u8, bool, u8)]| -> Vec<Arc<Stored>> {
                let numbered = given.iter().enumerate();
                numbered.map(|(n, (app, ports, inbound, ready, state))| {
                    let ports: &[(u16, u16)] = match ports {
                        0 => &[],
                        1 => &[(1, 11)],
                        2 => &[(2, 12)],
                        _ => &[(1, 11), (2, 12)],
                    };
                    let ports: Vec<_> =
                        ports.iter().map(|(own, out)| (*own, *out + u16::from(*inbound) * 100)).collect();
                    let ready: &[u16] = if *ready { &[1, 2] } else { &[2] };
                    let state = [State::Confirmed, State::Unconfirmed, State::Draining][usize::from(*state)];
                    let address = format!("10.0.0.{n}");
                    stored(workload(&format!("w{n}"), &format!("a{app}"), &address, &ports, ready, state))
                }).collect()
            };
            let existing = after(&[], solve(&services, &build(&before), &[]));
            let workloads = build(&now);
            let slices = after(&existing, solve(&services, &workloads, &existing));
            prop_assert_eq!(solve(&services, &workloads, &slices), []);
            let fresh = after(&[], solve(&services, &workloads, &[]));
            prop_assert_eq!(shown(&slices), shown(&fresh), "history does not matter");
            let selected: usize = workloads.iter().map(|workload| match &workload.object.spec {
                Spec::Workload(spec) if workload.object.metadata.labels["app"] != "a2" => spec.ports.len(),
                _ => 0,
            }).sum();
            let ports_shown: usize = slices.iter().map(|slice| match &slice.object.spec {
                Spec::EndpointSlice(body) => body.endpoints.len() * body.ports.len(),
                _ => 0,
            }).sum();
            prop_assert_eq!(ports_shown, selected);
        }
    }
}
