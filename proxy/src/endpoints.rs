//! The endpoints of a cluster: what is known of each, and which of them take requests at this moment.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};
use weir_policy::balance::EndpointLoad;
use weir_policy::model::{EndpointHealth, Peer};
use weir_policy::names::WorkloadName;
use weir_policy::outlier::{Detector, Host};
use weir_policy::spread::{Level, Shares, Spread, spread};
use weir_policy::time::Time;

/// An endpoint that may take new requests.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// Where.
    pub(crate) address: SocketAddr,
    /// What the control plane says of it; never that it drains.
    pub(crate) health: EndpointHealth,
    /// What answers there.
    pub(crate) peer: Peer,
    /// Which workload it is.
    pub(crate) workload: Option<Arc<WorkloadName>>,
    /// What this proxy knows of it; shared by all workers, outlives changes of configuration.
    pub(crate) state: Arc<EndpointState>,
}

impl Endpoint {
    /// Whether requests may go there at `now`, as far as it alone is concerned.
    pub(crate) fn is_usable(&self, now: Time) -> bool {
        let ejected = self.state.host.as_ref().is_some_and(|host| host.is_ejected(now));
        self.health == EndpointHealth::Healthy && !ejected
    }
}

/// What one proxy knows of an endpoint.
#[derive(Debug)]
pub(crate) struct EndpointState {
    /// Its measured latency and its requests in flight.
    pub(crate) load: Arc<EndpointLoad>,
    /// Its results; `None`: the cluster ejects none.
    pub(crate) host: Option<Host>,
}

impl EndpointState {
    /// Of one that nothing is known of but, maybe, its load.
    pub(crate) fn new(load: Arc<EndpointLoad>, detector: Option<&Detector>) -> EndpointState {
        EndpointState {
            load,
            host: detector.map(Detector::host),
        }
    }
}

/// Counts what changes the use of a cluster's endpoints between changes of configuration: ejections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes(Arc<AtomicU64>);

impl Changes {
    /// One more.
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// Which endpoints of a cluster take requests: kept until something changes, and computed anew by the request that
/// finds it old. No request waits for another.
#[derive(Debug)]
pub(crate) struct InUse {
    changes: Changes,
    now: ArcSwap<Levels>,
}

/// The endpoints in use over some time.
#[derive(Debug)]
pub(crate) struct Levels {
    /// The changes counted before this was computed.
    as_of: u64,
    /// When it changes by itself.
    until: Time,
    /// `None`: panic, and there is one level of all.
    shares: Option<Shares>,
    /// Places of endpoints, by level.
    members: Vec<Vec<usize>>,
}

impl InUse {
    pub(crate) fn new(changes: Changes) -> InUse {
        InUse {
            changes,
            now: ArcSwap::from_pointee(Levels {
                as_of: 0,
                until: Time::ZERO,
                shares: None,
                members: Vec::new(),
            }),
        }
    }

    /// The endpoints in use at `now`. `endpoints` and `panic_percent` are always the same for the same cluster.
    pub(crate) fn at(&self, now: Time, endpoints: &[Endpoint], panic_percent: u8) -> Guard<Arc<Levels>> {
        let levels = self.now.load();
        if now < levels.until && levels.as_of == self.changes.count() {
            return levels;
        }
        // Counted before anything is looked at: what changes meanwhile makes it old at once.
        let as_of = self.changes.count();
        self.now
            .store(Arc::new(Levels::compute(as_of, now, endpoints, panic_percent)));
        self.now.load()
    }
}

impl Levels {
    fn compute(as_of: u64, now: Time, endpoints: &[Endpoint], panic_percent: u8) -> Levels {
        let usable: Vec<usize> = places(endpoints, |endpoint| endpoint.is_usable(now));
        let level = Level {
            all: endpoints.len(),
            usable: usable.len(),
        };
        // An ejection ends by itself; nothing else does.
        let ends = |endpoint: &Endpoint| endpoint.state.host.as_ref()?.ejected_until(now);
        let until = endpoints.iter().filter_map(ends).min();
        let (shares, members) = match spread(&[level], 100, panic_percent) {
            Spread::Shares(shares) => (Some(shares), vec![usable]),
            Spread::Panic => (None, vec![places(endpoints, |_| true)]),
        };
        Levels {
            as_of,
            until: until.unwrap_or(Time::from_nanos(u64::MAX)),
            shares,
            members,
        }
    }

    /// Whether so few can be used that all are.
    pub(crate) fn is_panic(&self) -> bool {
        self.shares.is_none()
    }

    /// The places of one level's endpoints, drawn by `random` in the levels' shares.
    pub(crate) fn draw(&self, random: u64) -> &[usize] {
        let level = self.shares.as_ref().map_or(0, |shares| shares.pick(random));
        self.members.get(level).map_or(&[], Vec::as_slice)
    }

    /// The places of all that are in use, those of nearer levels first.
    pub(crate) fn all(&self) -> impl Iterator<Item = usize> {
        self.members.iter().flatten().copied()
    }
}

fn places(endpoints: &[Endpoint], which: impl Fn(&Endpoint) -> bool) -> Vec<usize> {
    let all = endpoints.iter().enumerate();
    all.filter(|(_, endpoint)| which(endpoint))
        .map(|(place, _)| place)
        .collect()
}
