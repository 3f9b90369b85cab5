//! The way out of the mesh: where a name that is none of the mesh's leads, and what may not be reached by it.

pub(crate) mod dns;

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use weir_policy::egress::{Host, Outside, Prohibited, prohibited};
use weir_policy::model::{
    self, AppProtocol, BackendFilters, Balancing, ConnectionPool, HeaderChanges, Limits, RetryBudget, Timeouts,
};
use weir_policy::names::{ClusterName, ServiceName, WorkloadName};
use weir_policy::retry::MethodNamed;
use weir_policy::split::Split;
use weir_policy::time::Time;
use weir_policy::trace::{self, TRACESTATE_HEADER};

use crate::error::ProxyError;
use crate::http::head::{FORWARDED_CLIENT_CERT, strip_own};
use crate::http::upstream::Wire;
use crate::plan::ForwardPlan;
use crate::proxy::Addresses;
use crate::snapshot::{Cluster, ClusterState, ServiceRoute};

use dns::{Dns, DnsError};

/// How long a look-up may take.
pub(crate) const LOOK_UP_WAIT: Duration = Duration::from_secs(5);

/// What metrics, logs and spans call everything that passes through: names are many, and apps choose them.
const LABEL: &str = "passthrough";

/// The way out, for all workers and for `explain`. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Exit {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dns: Dns,
    /// Ports of this proxy.
    own_ports: BTreeSet<u16>,
    label: Arc<str>,
    /// Limits and budget of all that passes through this proxy together.
    state: Arc<ClusterState>,
    http1: Arc<model::Cluster>,
    http2: Arc<model::Cluster>,
    route: ServiceRoute,
    filters: BackendFilters,
    unchanged: HeaderChanges,
}

/// The way out, for one worker.
#[derive(Debug)]
pub(crate) struct Egress {
    exit: Exit,
    known: RefCell<HashMap<Outside, Known>>,
}

/// A place outside that a request was sent to.
#[derive(Clone, Debug)]
struct Known {
    addresses: Vec<SocketAddr>,
    until: Time,
    http1: Arc<Cluster>,
    http2: Arc<Cluster>,
}

/// Addresses that may be sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reachable {
    /// At least one.
    pub(crate) addresses: Vec<SocketAddr>,
    valid_for: Duration,
}

/// Why nothing is sent to a place outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// None of its addresses may be reached; the first of them.
    Prohibited(SocketAddr, Prohibited),
    /// It has none.
    Dns(DnsError),
}

impl Closed {
    /// What the caller is told.
    pub(crate) fn error(self, authority: &str) -> ProxyError {
        let authority = authority.to_owned();
        match self {
            Closed::Prohibited(address, why) => ProxyError::ProhibitedAddress {
                authority,
                address,
                why,
            },
            Closed::Dns(why) => ProxyError::NotResolved { authority, why },
        }
    }
}

impl Exit {
    /// For the proxy of this workload that listens there.
    pub(crate) fn new(dns: Dns, workload: &WorkloadName, addresses: &Addresses) -> Exit {
        let label: Arc<str> = Arc::from(LABEL);
        let config = |protocol| Arc::new(cluster(workload, protocol));
        let http1 = config(AppProtocol::Http1);
        Exit {
            shared: Arc::new(Shared {
                dns,
                own_ports: addresses.ports().collect(),
                state: Arc::new(ClusterState::labelled(&http1, Arc::clone(&label))),
                http1,
                http2: config(AppProtocol::Http2),
                route: ServiceRoute {
                    name: Arc::clone(&label),
                    split: Split::new(&[]),
                    backends: Vec::new(),
                    mirrors: Vec::new(),
                    limit: None,
                    fault: None,
                    priority: None,
                },
                label,
                filters: BackendFilters::default(),
                unchanged: HeaderChanges::default(),
            }),
        }
    }

    /// Looks up what a name is in DNS, whether or not it may be reached.
    ///
    /// # Errors
    /// As [`Dns::look_up`].
    ///
    /// # Cancel safety
    /// As [`Dns::look_up`].
    pub(crate) async fn look_up(&self, host: &Host, wait: Duration) -> Result<dns::Found, DnsError> {
        match host {
            Host::Address(address) => Ok(dns::Found {
                addresses: vec![address.to_canonical()],
                valid_for: FOR_EVER,
            }),
            Host::Name(name) => self.shared.dns.look_up(name, wait.min(LOOK_UP_WAIT)).await,
        }
    }

    /// Of the addresses of a place those that may be reached: what is connected to is what was looked at here, never
    /// what another look-up says.
    ///
    /// # Errors
    /// When none may be, or there is none.
    pub(crate) fn reachable(&self, found: Result<dns::Found, DnsError>, port: u16) -> Result<Reachable, Closed> {
        let found = found.map_err(Closed::Dns)?;
        let (mut addresses, mut first) = (Vec::with_capacity(found.addresses.len()), None);
        for address in found.addresses {
            let whole = SocketAddr::new(address, port);
            match self.prohibited(address, port) {
                None => addresses.push(whole),
                Some(why) => first = first.or(Some(Closed::Prohibited(whole, why))),
            }
        }
        match (addresses.is_empty(), first) {
            (false, _) => Ok(Reachable {
                addresses,
                valid_for: found.valid_for,
            }),
            (true, Some(closed)) => Err(closed),
            (true, None) => Err(Closed::Dns(DnsError::NoAddress)),
        }
    }

    fn prohibited(&self, address: IpAddr, port: u16) -> Option<Prohibited> {
        let own = || self.shared.own_ports.contains(&port) && is_here(address);
        prohibited(address).or_else(|| own().then_some(Prohibited::OwnPort))
    }

    /// A request as it came, to a place outside.
    pub(crate) fn plan<'a>(&'a self, cluster: &'a Arc<Cluster>) -> ForwardPlan<'a> {
        ForwardPlan {
            route: &self.shared.route,
            drawn: 0,
            cluster,
            target: None,
            authority: None,
            backend: &self.shared.filters,
            request_headers: &self.shared.unchanged,
            response_headers: &self.shared.unchanged,
            timeouts: Timeouts::default(),
            retry: None,
            method_named: MethodNamed::No,
        }
    }

    /// What metrics, logs and spans call it.
    pub(crate) fn label(&self) -> &Arc<str> {
        &self.shared.label
    }
}

/// Whether an address is one of this host: only there can a socket be bound. Where the system lets sockets be bound to
/// any address (`ip_nonlocal_bind`), every one counts as here: too much is refused, not too little.
fn is_here(address: IpAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(address, 0)).is_ok()
}

impl Egress {
    /// Nothing is known yet.
    pub(crate) fn new(exit: Exit) -> Egress {
        Egress {
            exit,
            known: RefCell::default(),
        }
    }

    /// The way out.
    pub(crate) fn exit(&self) -> &Exit {
        &self.exit
    }

    /// The endpoints of a place outside, as requests in this protocol reach them; looked up if that was not done
    /// lately.
    ///
    /// # Errors
    /// When there is none that may be reached, or none is told within `wait`.
    ///
    /// # Cancel safety
    /// As [`Dns::look_up`].
    pub(crate) async fn cluster(
        &self,
        outside: Outside,
        wire: Wire,
        now: Time,
        wait: Duration,
    ) -> Result<Arc<Cluster>, Closed> {
        if let Some(known) = self.known.borrow().get(&outside).filter(|known| now < known.until) {
            return Ok(known.in_protocol(wire));
        }
        let found = self.exit.look_up(&outside.host, wait).await;
        let reachable = self.exit.reachable(found, outside.port.get())?;
        Ok(self.remember(outside, reachable, now).in_protocol(wire))
    }

    fn remember(&self, outside: Outside, reachable: Reachable, now: Time) -> Known {
        let Reachable { addresses, valid_for } = reachable;
        let until = now + valid_for;
        let mut all = self.known.borrow_mut();
        if let Some(known) = all.get_mut(&outside)
            && known.addresses == addresses
        {
            // What is measured of them stays.
            known.until = until;
            return known.clone();
        }
        let Shared {
            state, http1, http2, ..
        } = &*self.exit.shared;
        let cluster = |config: &Arc<model::Cluster>| {
            let cluster = Cluster::of_addresses(Arc::clone(config), Arc::clone(state), &addresses, now);
            Arc::new(cluster)
        };
        let known = Known {
            http1: cluster(http1),
            http2: cluster(http2),
            addresses,
            until,
        };
        if all.len() >= PLACES_MAX {
            all.retain(|_, known| now < known.until);
        }
        // Those in use come back at once.
        if all.len() >= PLACES_MAX {
            all.clear();
        }
        all.insert(outside, known.clone());
        known
    }
}

impl Known {
    fn in_protocol(&self, wire: Wire) -> Arc<Cluster> {
        Arc::clone(match wire {
            Wire::Http1 => &self.http1,
            Wire::Http2 => &self.http2,
        })
    }
}

/// Takes out of a request's head what is the mesh's own; its trace goes on.
pub(crate) fn strip(headers: &mut HeaderMap) {
    strip_own(headers);
    headers.remove(FORWARDED_CLIENT_CERT);
    let Some(state) = headers.get(TRACESTATE_HEADER) else {
        return;
    };
    let left = state.to_str().ok().and_then(trace::without_weir);
    match left.and_then(|left| HeaderValue::try_from(left).ok()) {
        Some(left) => headers.insert(TRACESTATE_HEADER, left),
        None => headers.remove(TRACESTATE_HEADER),
    };
}

/// Nobody told of it, so that nobody finds it by its name: it has that of whom it is for.
fn cluster(workload: &WorkloadName, protocol: AppProtocol) -> model::Cluster {
    model::Cluster {
        name: ClusterName {
            service: ServiceName {
                namespace: workload.namespace.clone(),
                service: workload.name.clone(),
            },
            port: std::num::NonZeroU16::MIN,
        },
        protocol,
        connect_timeout: CONNECT_TIMEOUT,
        balancing: Balancing::PeakEwma { decay: DECAY },
        limits: Limits::default(),
        breaker: None,
        outlier_detection: None,
        health_check: None,
        slow_start: None,
        locality: None,
        pool: ConnectionPool::default(),
        panic_percent: 1,
        retry_budget: RetryBudget::default(),
        sources: Vec::new(),
        backend_tls: None,
    }
}

/// Across the internet a handshake may be lost, and is sent again after one second and three (RFC 6298 section 2).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// As in the mesh.
const DECAY: Duration = Duration::from_secs(10);
/// Places that a worker remembers; an app that goes to more is served all the same, only slower.
const PLACES_MAX: usize = 1024;
/// Of addresses, which nobody looks up.
const FOR_EVER: Duration = Duration::from_secs(300);

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Of a proxy with its usual ports, whose look-ups nobody answers.
    pub(crate) fn exit() -> Exit {
        let port = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let addresses = Addresses {
            outbound: crate::config::OutboundAddr::Tcp(port(15001)),
            listens: Vec::new(),
            inbound: vec![(std::num::NonZeroU16::MIN, port(15006))],
            admin: port(15000),
            metrics: port(15020),
            health: port(15021),
        };
        let (dns, _) = dns::start(Vec::new());
        Exit::new(dns, &"n/w".parse().expect("a name"), &addresses)
    }

    fn found(addresses: &[&str]) -> Result<dns::Found, DnsError> {
        let addresses = addresses.iter().map(|address| address.parse().expect("an address"));
        Ok(dns::Found {
            addresses: addresses.collect(),
            valid_for: Duration::from_secs(60),
        })
    }

    /// The host's own address toward others.
    fn own_address() -> IpAddr {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.connect("198.51.100.1:9").expect("this host has a way to others");
        socket.local_addr().expect("bound").ip()
    }

    #[test]
    fn only_what_may_be_reached_is_left_of_a_name() {
        let exit = exit();
        let reached = |addresses: &[&str]| {
            let reachable = exit.reachable(found(addresses), 80)?;
            let texts = reachable.addresses.iter().map(ToString::to_string);
            Ok::<Vec<String>, Closed>(texts.collect())
        };
        assert_eq!(
            reached(&["127.0.0.1", "203.0.113.7", "169.254.169.254", "2001:db8::7"]),
            Ok(vec!["203.0.113.7:80".to_owned(), "[2001:db8::7]:80".to_owned()])
        );
        let first = Closed::Prohibited("127.0.0.1:80".parse().expect("an address"), Prohibited::Loopback);
        assert_eq!(reached(&["127.0.0.1", "0.0.0.0"]), Err(first));
        assert_eq!(reached(&[]), Err(Closed::Dns(DnsError::NoAddress)));
    }

    #[test]
    fn own_ports_are_those_of_this_host_alone() {
        let exit = exit();
        let own = own_address();
        for port in [15000, 15001, 15006, 15020, 15021] {
            assert_eq!(exit.prohibited(own, port), Some(Prohibited::OwnPort), "{own}:{port}");
            let other = "203.0.113.7".parse().expect("an address");
            assert_eq!(exit.prohibited(other, port), None, "{port}");
        }
        assert_eq!(exit.prohibited(own, 8080), None);
    }

    #[test]
    fn nothing_of_the_meshs_own_leaves() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("weir-context", "1;i=0000000000c0ffee"),
            ("x-forwarded-client-cert", "URI=spiffe://mesh/ns/a/sa/b"),
            ("tracestate", "weir=0000000000c0ffee,rojo=1"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("accept", "*/*"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        strip(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(http::HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "traceparent", "tracestate"]);
        assert_eq!(headers["tracestate"], "rojo=1");
        headers.insert("tracestate", HeaderValue::from_static("weir=0000000000c0ffee"));
        strip(&mut headers);
        assert!(!headers.contains_key("tracestate"));
    }

    #[test]
    fn a_worker_remembers_so_many_places_and_what_it_measured_of_them() {
        let egress = Egress::new(exit());
        let place = |number: usize| Outside {
            host: Host::Name(format!("n{number}.example")),
            port: std::num::NonZeroU16::MIN,
        };
        let remember = |number: usize, address: &str, at: u64| {
            let reachable = egress.exit.reachable(found(&[address]), 80).expect("reachable");
            let now = Time::ZERO + Duration::from_secs(at);
            egress.remember(place(number), reachable, now).http1
        };
        let first = remember(0, "203.0.113.7", 0);
        assert!(Arc::ptr_eq(&first, &remember(0, "203.0.113.7", 70)));
        assert!(!Arc::ptr_eq(&first, &remember(0, "203.0.113.8", 70)));
        for number in 1..PLACES_MAX {
            remember(number, "203.0.113.7", 0);
        }
        assert_eq!(egress.known.borrow().len(), PLACES_MAX);
        remember(PLACES_MAX, "203.0.113.7", 100);
        assert_eq!(egress.known.borrow().len(), 2, "those that are old went");
        for number in 0..2 * PLACES_MAX {
            remember(number, "203.0.113.7", 100);
        }
        assert!(egress.known.borrow().len() <= PLACES_MAX);
    }
}
