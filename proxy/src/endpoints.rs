//! The endpoints of a cluster: what is known of each, and which of them take requests at this moment.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use weir_policy::balance::EndpointLoad;
use weir_policy::model::{self, EndpointHealth, Peer};
use weir_policy::names::WorkloadName;
use weir_policy::outlier::Host;
use weir_policy::slow_start;
use weir_policy::spread::{Distance, Level, Shares, Spread, spread};
use weir_policy::time::Time;

use crate::health_check::Checked;
use crate::identity::Identity;
use crate::tls::Security;

/// An endpoint that may take new requests.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// Where.
    pub(crate) address: SocketAddr,
    /// What the control plane says of it; never that it drains.
    pub(crate) health: EndpointHealth,
    /// How far it is from here.
    pub(crate) distance: Distance,
    /// What answers there.
    pub(crate) peer: Peer,
    /// How it is reached, and who it must be.
    pub(crate) security: Security,
    /// Which workload it is.
    pub(crate) workload: Option<Arc<WorkloadName>>,
    /// What this proxy knows of it; shared by all workers, outlives changes of configuration.
    pub(crate) state: Arc<EndpointState>,
}

impl Endpoint {
    /// Whether nobody says that it is unhealthy: neither the control plane nor our own checks.
    pub(crate) fn is_healthy(&self) -> bool {
        self.health == EndpointHealth::Healthy && !self.state.is_failing()
    }

    /// Whether our sidecar and the one there say to each other what is theirs alone: only where both know who they are,
    /// or the mesh has no identities. `own`: who we are.
    pub(crate) fn is_sidecar_to(&self, own: Option<&Identity>) -> bool {
        self.peer == Peer::WeirProxy && matches!(self.security, Security::Mutual(_)) == own.is_some()
    }

    /// Whether requests may go there at `now`, as far as it alone is concerned.
    pub(crate) fn is_usable(&self, now: Time) -> bool {
        let ejected = self.state.host.as_ref().is_some_and(|host| host.is_ejected(now));
        self.is_healthy() && !ejected
    }
}

/// What one proxy knows of an endpoint.
#[derive(Debug)]
pub(crate) struct EndpointState {
    /// Its measured latency and its requests in flight.
    pub(crate) load: Arc<EndpointLoad>,
    /// Its results; `None`: the cluster ejects none.
    pub(crate) host: Option<Arc<Host>>,
    /// What checks have shown; `None`: the cluster's endpoints are not checked.
    pub(crate) checked: Option<Arc<Checked>>,
    /// Since when it may take requests, in nanoseconds.
    since: AtomicU64,
}

impl EndpointState {
    /// Of one that nothing is known of and that comes now.
    pub(crate) fn new(host: Option<Arc<Host>>, checked: Option<Arc<Checked>>, now: Time) -> EndpointState {
        EndpointState {
            load: Arc::default(),
            host,
            checked,
            since: AtomicU64::new(now.as_nanos()),
        }
    }

    /// The same one under other rules.
    pub(crate) fn under(&self, host: Option<Arc<Host>>, checked: Option<Arc<Checked>>) -> EndpointState {
        EndpointState {
            load: Arc::clone(&self.load),
            host,
            checked,
            since: AtomicU64::new(self.since().as_nanos()),
        }
    }

    /// Whether our own checks say that it is unhealthy.
    pub(crate) fn is_failing(&self) -> bool {
        self.checked.as_ref().is_some_and(|checked| checked.is_failing())
    }

    /// It is well again: it begins anew to get its share.
    pub(crate) fn came_back(&self, now: Time) {
        self.since.store(now.as_nanos(), Ordering::Relaxed);
    }

    fn since(&self) -> Time {
        Time::from_nanos(self.since.load(Ordering::Relaxed))
    }
}

/// Counts what changes the use of a cluster's endpoints between changes of configuration: ejections, and what checks
/// find.
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
    /// In the order of [`Distance::ALL`] where near ones are preferred, else there is one level. `None`: panic, and
    /// there is one level of all.
    shares: Option<Shares>,
    /// Places of endpoints that can be used, by level.
    members: Vec<Vec<usize>>,
    /// Since when the oldest of them is there, while any of them starts slowly.
    oldest: Option<Time>,
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
                oldest: None,
            }),
        }
    }

    /// The endpoints in use at `now`. `endpoints` and `config` are always the same for the same cluster.
    pub(crate) fn at(&self, now: Time, endpoints: &[Endpoint], config: &model::Cluster) -> Guard<Arc<Levels>> {
        let levels = self.now.load();
        if now < levels.until && levels.as_of == self.changes.count() {
            return levels;
        }
        // Counted before anything is looked at: what changes meanwhile makes it old at once.
        let as_of = self.changes.count();
        self.now.store(Arc::new(Levels::compute(as_of, now, endpoints, config)));
        self.now.load()
    }
}

impl Levels {
    fn compute(as_of: u64, now: Time, endpoints: &[Endpoint], config: &model::Cluster) -> Levels {
        let levels: &[&[Distance]] = match config.locality {
            Some(_) => &[&[Distance::Zone], &[Distance::Region], &[Distance::Elsewhere]],
            None => &[&Distance::ALL],
        };
        let (mut counts, mut members) = (Vec::new(), Vec::new());
        for level in levels {
            let here = |endpoint: &Endpoint| level.contains(&endpoint.distance);
            let usable = places(endpoints, |endpoint| here(endpoint) && endpoint.is_usable(now));
            counts.push(Level {
                all: endpoints.iter().filter(|endpoint| here(endpoint)).count(),
                usable: usable.len(),
            });
            members.push(usable);
        }
        let overprovisioning = config
            .locality
            .map_or(100, |locality| locality.overprovisioning_percent);
        let (shares, members) = match spread(&counts, overprovisioning, config.panic_percent) {
            Spread::Shares(shares) => (Some(shares), members),
            Spread::Panic => (None, vec![places(endpoints, |_| true)]),
        };
        let mut until = Time::from_nanos(u64::MAX);
        for endpoint in endpoints {
            // An ejection ends by itself.
            if let Some(end) = endpoint.state.host.as_ref().and_then(|host| host.ejected_until(now)) {
                until = until.min(end);
            }
        }
        let since = |place: &usize| endpoints.get(*place).map(|endpoint| endpoint.state.since());
        let used = || members.iter().flatten().filter_map(since);
        let starts = |window: Duration| {
            used()
                .map(|since| since + window)
                .filter(|through| now < *through)
                .max()
        };
        // So does a slow start.
        let through = config.slow_start.and_then(|slow_start| starts(slow_start.window));
        if let Some(through) = through {
            until = until.min(through);
        }
        Levels {
            as_of,
            until,
            shares,
            oldest: through.and_then(|_| used().min()),
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

    /// The places of all that can be used, the nearest first, also of levels that have no share as long as nearer ones
    /// carry everything.
    pub(crate) fn usable(&self) -> impl Iterator<Item = usize> {
        self.members.iter().flatten().copied()
    }

    /// The places of all that take requests.
    pub(crate) fn taking(&self) -> impl Iterator<Item = usize> {
        let shared = |level: usize| {
            self.shares
                .as_ref()
                .is_none_or(|shares| shares.percents().get(level) != Some(&0))
        };
        let levels = self.members.iter().enumerate();
        levels
            .filter(move |(level, _)| shared(*level))
            .flat_map(|(_, members)| members.iter().copied())
    }

    /// The share of each level, where near ones are preferred and it is no panic.
    pub(crate) fn percents(&self) -> impl Iterator<Item = (Distance, u8)> {
        let percents = self
            .shares
            .as_ref()
            .map(Shares::percents)
            .filter(|percents| percents.len() > 1);
        Distance::ALL
            .into_iter()
            .zip(percents.unwrap_or_default().iter().copied())
    }

    /// The weight of an endpoint beside the oldest, in its slow start; 1 where none starts slowly.
    pub(crate) fn weight(&self, endpoint: &Endpoint, config: &model::Cluster, now: Time) -> f64 {
        let (Some(oldest), Some(slow_start)) = (self.oldest, &config.slow_start) else {
            return 1.0;
        };
        let weight = |since: Time| slow_start::weight(slow_start, now.saturating_since(since));
        weight(endpoint.state.since()) / weight(oldest)
    }
}

fn places(endpoints: &[Endpoint], which: impl Fn(&Endpoint) -> bool) -> Vec<usize> {
    let all = endpoints.iter().enumerate();
    all.filter(|(_, endpoint)| which(endpoint))
        .map(|(place, _)| place)
        .collect()
}
