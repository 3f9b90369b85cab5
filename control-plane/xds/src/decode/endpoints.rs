//! Endpoints.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::socket_address::{PortSpecifier, Protocol};
use envoy_types::pb::envoy::config::core::v3::{Address, HealthStatus, Locality, SocketAddress, address};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints};
use weir_policy::model;
use weir_policy::model::{ClusterEndpoints, EndpointHealth, Peer};
use weir_policy::names::WorkloadName;
use weir_policy::spiffe::SpiffeId;

use super::at::{At, Fault, take};
use super::checks::{bounded, name, own_metadata};
use crate::meaning::{METADATA_KEY, canonical_order};
use crate::rejection::Problem;
use crate::v1;

pub(super) fn cluster_endpoints(at: &At<'_>, wire: ClusterLoadAssignment) -> Result<ClusterEndpoints, Fault> {
    take!(at, wire, ClusterLoadAssignment { cluster_name, endpoints; named_endpoints, policy });
    let cluster = name(&at.field("cluster_name"), &cluster_name)?;
    let mut all = Vec::new();
    let mut addresses = HashSet::new();
    let mut identities = Identities::default();
    for (i, wire) in endpoints.into_iter().enumerate() {
        let at = at.field("endpoints");
        let at = at.index(i);
        take!(at, wire, LocalityLbEndpoints {
            locality, lb_endpoints;
            metadata, load_balancing_weight, priority, proximity, lb_config
        });
        let locality = self::locality(&at.field("locality"), locality)?;
        for (i, wire) in lb_endpoints.into_iter().enumerate() {
            let at = at.field("lb_endpoints");
            let at = at.index(i);
            let endpoint = lb_endpoint(&at, wire, locality.clone(), &mut identities)?;
            if !addresses.insert(endpoint.address) {
                return Err(at.fault(endpoint.address, Problem::Duplicate));
            }
            all.push(endpoint);
        }
    }
    all.sort_by(canonical_order);
    Ok(ClusterEndpoints {
        cluster,
        endpoints: all,
    })
}

/// An endpoint whose health is not said is healthy (`HealthStatus.UNKNOWN`).
fn lb_endpoint(
    at: &At<'_>,
    wire: LbEndpoint,
    locality: model::Locality,
    identities: &mut Identities,
) -> Result<model::Endpoint, Fault> {
    take!(at, wire, LbEndpoint { host_identifier, health_status, metadata; load_balancing_weight });
    let at_health = at.field("health_status");
    let health = match at_health.known(health_status)? {
        HealthStatus::Unknown | HealthStatus::Healthy => EndpointHealth::Healthy,
        HealthStatus::Unhealthy => EndpointHealth::Unhealthy,
        HealthStatus::Draining => EndpointHealth::Draining,
        other @ (HealthStatus::Timeout | HealthStatus::Degraded) => {
            let expected = "HEALTHY, UNHEALTHY or DRAINING";
            return Err(at_health.fault(other.as_str_name(), Problem::Unsupported { expected }));
        }
    };
    let at_endpoint = at.field("endpoint");
    let endpoint = match at_endpoint.need(host_identifier)? {
        HostIdentifier::Endpoint(endpoint) => endpoint,
        HostIdentifier::EndpointName(name) => {
            return Err(at
                .field("endpoint_name")
                .fault(format_args!("{name:?}"), Problem::WithoutEffect));
        }
    };
    take!(at_endpoint, endpoint, Endpoint {
        address;
        health_check_config, hostname, additional_addresses, observability_name
    });
    let address = socket_address(&at_endpoint.field("address"), address)?;

    let at_metadata = at.field("metadata");
    let identity = own_metadata(&at_metadata, metadata, "a weir.v1.EndpointIdentity")?.unwrap_or_default();
    let at_typed = at_metadata.field("typed_filter_metadata");
    let at_identity = at_typed.key(METADATA_KEY);
    take!(at_identity, identity, v1::EndpointIdentity { workload, weir_proxy, spiffe_id; });
    let workload: Option<WorkloadName> = match workload.as_str() {
        "" => None,
        workload => Some(name(&at_identity.field("workload"), workload)?),
    };
    let peer = if weir_proxy { Peer::WeirProxy } else { Peer::Plain };
    let identity = match spiffe_id.as_str() {
        "" => None,
        id => {
            let id = name(&at_identity.field("spiffe_id"), id)?;
            fits(&at_identity, &id, workload.as_ref(), peer)?;
            Some(identities.one(id))
        }
    };
    Ok(model::Endpoint {
        address,
        health,
        locality,
        workload,
        peer,
        identity,
    })
}

/// An identity is a workload's, of its namespace, and a weir proxy is who shows it.
fn fits(at: &At<'_>, id: &SpiffeId, workload: Option<&WorkloadName>, peer: Peer) -> Result<(), Fault> {
    let Some(workload) = workload else {
        return Err(at.field("workload").fault("", Problem::Missing));
    };
    if workload.namespace != id.namespace {
        let expected = format!(
            "spiffe://{}/ns/{}/sa/{}",
            id.trust_domain, workload.namespace, id.account
        );
        let at = at.field("spiffe_id");
        return Err(at.fault(format_args!("\"{id}\""), Problem::Mismatch { expected }));
    }
    match peer {
        Peer::WeirProxy => Ok(()),
        Peer::Plain => {
            let expected = "true where there is a spiffe_id";
            Err(at.field("weir_proxy").fault("false", Problem::Unsupported { expected }))
        }
    }
}

/// The identities of a cluster, each held once: its endpoints are many, and have mostly the same.
#[derive(Default)]
struct Identities(HashSet<Arc<SpiffeId>>);

impl Identities {
    fn one(&mut self, id: SpiffeId) -> Arc<SpiffeId> {
        if let Some(held) = self.0.get(&id) {
            return Arc::clone(held);
        }
        let held = Arc::new(id);
        self.0.insert(Arc::clone(&held));
        held
    }
}

fn locality(at: &At<'_>, wire: Option<Locality>) -> Result<model::Locality, Fault> {
    take!(at, wire.unwrap_or_default(), Locality { region, zone, sub_zone; });
    Ok(model::Locality {
        region: bounded(&at.field("region"), region)?,
        zone: bounded(&at.field("zone"), zone)?,
        site: bounded(&at.field("sub_zone"), sub_zone)?,
    })
}

fn socket_address(at: &At<'_>, wire: Option<Address>) -> Result<SocketAddr, Fault> {
    take!(at, at.need(wire)?, Address { address; });
    let at = at.field("socket_address");
    let unsupported = |held: &str| {
        let expected = "a TCP address with the number of a port";
        at.fault(held, Problem::Unsupported { expected })
    };
    let wire = match at.need(address)? {
        address::Address::SocketAddress(wire) => wire,
        address::Address::Pipe(pipe) => return Err(unsupported(&pipe.path)),
        address::Address::EnvoyInternalAddress(_) => return Err(unsupported("envoy_internal_address")),
    };
    take!(at, wire, SocketAddress {
        protocol, address, port_specifier;
        resolver_name, ipv4_compat, network_namespace_filepath
    });
    match at.field("protocol").known(protocol)? {
        Protocol::Tcp => {}
        Protocol::Udp => return Err(unsupported("UDP")),
    }
    let ip: IpAddr = address
        .parse()
        .map_err(|_| at.field("address").malformed(&address, "is not an IP address"))?;
    let at_port = at.field("port_value");
    match at_port.need(port_specifier)? {
        PortSpecifier::PortValue(port) => match u16::try_from(port) {
            Ok(port) if port != 0 => Ok(SocketAddr::new(ip, port)),
            Ok(_) | Err(_) => Err(at_port.fault(port, Problem::OutOfRange { allowed: "1 to 65535" })),
        },
        PortSpecifier::NamedPort(name) => Err(unsupported(&name)),
    }
}
