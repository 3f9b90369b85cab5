//! Active health checks: the proxy finds out by itself whether the endpoints of a cluster work, where the cluster's
//! configuration asks for it. One task checks those of all clusters that are in use.

use std::collections::HashMap;
use std::fmt;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::sleep_until;
use weir_policy::health_check::{Found, Standing, Verdict};
use weir_policy::model::{AppProtocol, HealthCheck, Peer};
use weir_policy::time::Time;

use crate::clock::Clock;
use crate::drain::Drain;
use crate::endpoints::EndpointState;
use crate::http::upstream::Wire;
use crate::identity::Identity;
use crate::mesh::Mesh;
use crate::metrics;
use crate::outbound;
use crate::snapshot::{Backend, ClusterState, Snapshot};
use crate::tls::{Carries, Security};

mod agenda;
mod mark;
mod probe;

use agenda::{Agenda, Begun, Key};
use probe::{Failure, Question, probe};

pub(crate) use mark::{Asks, CHECK_HEADER};

/// How the endpoints of a cluster are checked, and how often that was done. Made anew when the configuration changes:
/// what was found under other rules says nothing about the new.
#[derive(Debug)]
pub(crate) struct ClusterChecks {
    config: HealthCheck,
    passed: AtomicU64,
    failed: AtomicU64,
}

impl ClusterChecks {
    /// None made yet.
    pub(crate) fn new(config: HealthCheck) -> ClusterChecks {
        ClusterChecks {
            config,
            passed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// How they are checked.
    pub(crate) fn config(&self) -> &HealthCheck {
        &self.config
    }

    /// Checks so far that found this.
    pub(crate) fn total(&self, found: Found) -> u64 {
        self.counter(found).load(Ordering::Relaxed)
    }

    fn counter(&self, found: Found) -> &AtomicU64 {
        match found {
            Found::Passed => &self.passed,
            Found::Failed => &self.failed,
        }
    }
}

/// What the checks of one endpoint have shown: written by the task that checks, read where endpoints are chosen.
#[derive(Debug)]
pub(crate) struct Checked {
    checks: Arc<ClusterChecks>,
    failing: AtomicBool,
    latest: Mutex<Latest>,
}

#[derive(Clone, Debug, Default)]
struct Latest {
    standing: Standing,
    /// Why a check failed last.
    failure: Option<Failure>,
}

impl Checked {
    /// Of an endpoint that was not checked yet.
    pub(crate) fn new(checks: &Arc<ClusterChecks>) -> Checked {
        Checked {
            checks: Arc::clone(checks),
            failing: AtomicBool::new(false),
            latest: Mutex::default(),
        }
    }

    /// Whether too many checks have failed. Takes no lock.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Acquire)
    }

    /// What the latest checks found, for people; `None`: there was none yet.
    pub(crate) fn shown(&self) -> Option<CheckedNow> {
        let Latest { standing, failure } = self.latest().clone();
        let (found, in_a_row) = standing.latest()?;
        Some(CheckedNow {
            verdict: standing.verdict(),
            found,
            in_a_row,
            healthy_threshold: self.checks.config.healthy_threshold,
            failure,
        })
    }

    /// Takes a result. Returns the verdict if that is another one now.
    fn take(&self, result: Result<(), Failure>) -> Option<Verdict> {
        let (found, failure) = match result {
            Ok(()) => (Found::Passed, None),
            Err(failure) => (Found::Failed, Some(failure)),
        };
        self.checks.counter(found).fetch_add(1, Ordering::Relaxed);
        let mut latest = self.latest();
        latest.failure = failure.or(latest.failure.take());
        let changed = latest.standing.found(found, &self.checks.config)?;
        self.failing.store(changed == Verdict::Failing, Ordering::Release);
        Some(changed)
    }

    fn latest(&self) -> std::sync::MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the latest checks of an endpoint found.
#[derive(Clone, Debug)]
pub(crate) struct CheckedNow {
    pub(crate) verdict: Verdict,
    found: Found,
    in_a_row: u32,
    healthy_threshold: u32,
    failure: Option<Failure>,
}

impl fmt::Display for CheckedNow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let checks = match self.in_a_row {
            1 => "check",
            _ => "checks",
        };
        match (self.found, self.verdict) {
            (Found::Failed, _) => write!(f, "{} {checks} failed", self.in_a_row)?,
            (Found::Passed, Verdict::Well) => return write!(f, "{} {checks} passed", self.in_a_row),
            (Found::Passed, Verdict::Failing) => {
                write!(
                    f,
                    "{} of {} checks passed since some failed",
                    self.in_a_row, self.healthy_threshold
                )?;
            }
        }
        match &self.failure {
            Some(failure) => write!(f, ": {failure}"),
            None => Ok(()),
        }
    }
}

/// An endpoint that is checked.
#[derive(Clone, Debug)]
struct Target {
    checked: Arc<Checked>,
    endpoint: Arc<EndpointState>,
    cluster: Arc<ClusterState>,
    address: SocketAddr,
    peer: Peer,
    /// How it is reached, and who it must be.
    security: Security,
    /// Who we are; `None`: nobody, and identities do not count.
    own: Option<Identity>,
    wire: Wire,
    carries: Carries,
    /// The cluster's name, for logs, and as the authority of requests.
    label: Arc<str>,
}

impl Target {
    fn check(&self) -> &HealthCheck {
        &self.checked.checks.config
    }

    async fn probe(&self) -> Result<(), Failure> {
        let question = Question {
            address: self.address,
            peer: self.peer,
            security: &self.security,
            own: self.own.as_ref(),
            wire: self.wire,
            carries: self.carries,
            check: self.check(),
            authority: &self.label,
        };
        probe(&question).await
    }

    /// Draws the consequences of a result.
    fn found(&self, result: Result<(), Failure>, now: Time) {
        let Some(verdict) = self.checked.take(result) else {
            return;
        };
        let (cluster, endpoint) = (&self.label, self.address);
        let checks = self.checked.shown().map(|shown| shown.to_string()).unwrap_or_default();
        match verdict {
            Verdict::Failing => tracing::warn!(%cluster, %endpoint, %checks, "an endpoint is unhealthy by its checks"),
            Verdict::Well => {
                self.endpoint.came_back(now);
                tracing::info!(%cluster, %endpoint, %checks, "an endpoint is healthy again by its checks");
            }
        }
        self.cluster.endpoint_changed();
    }
}

/// All endpoints that are to be checked under a snapshot.
fn targets<'a>(snapshot: &'a Snapshot, own: Option<&'a Identity>) -> impl Iterator<Item = (Key, Target)> + 'a {
    let clusters = snapshot.clusters().filter_map(|(name, backend)| match backend {
        Backend::Cluster(cluster) => Some((name, cluster)),
        Backend::Missing(_) | Backend::Unanswered(_) | Backend::Refused(..) => None,
    });
    clusters.flat_map(move |(name, cluster)| {
        cluster.endpoints.iter().filter_map(move |endpoint| {
            let target = Target {
                checked: Arc::clone(endpoint.state.checked.as_ref()?),
                endpoint: Arc::clone(&endpoint.state),
                cluster: Arc::clone(&cluster.state),
                address: endpoint.address,
                // A sidecar that does not believe the mark on a check takes it for a request.
                peer: match endpoint.is_sidecar_to(own) {
                    true => Peer::WeirProxy,
                    false => Peer::Plain,
                },
                security: endpoint.security.clone(),
                own: own.cloned(),
                wire: outbound::wire(cluster.config.protocol, endpoint.peer),
                carries: match cluster.config.protocol {
                    AppProtocol::Http1 | AppProtocol::Http2 | AppProtocol::Grpc => Carries::Http,
                    AppProtocol::Tcp => Carries::Tcp,
                },
                label: Arc::clone(&cluster.label),
            };
            Some(((name.clone(), endpoint.address), target))
        })
    })
}

/// The task that checks.
#[derive(Debug)]
pub(crate) struct Checker {
    mesh: Mesh,
    /// Who we are; `None`: all is in cleartext.
    own: Option<Identity>,
    clock: Clock,
    metrics: Arc<metrics::Shared>,
    agenda: Agenda,
    /// Checks under way.
    running: JoinSet<Result<(), Failure>>,
    /// Those of them whose result is of use.
    keys: HashMap<Id, Key>,
    handles: HashMap<Key, AbortHandle>,
}

impl Checker {
    /// Checks nothing yet.
    pub(crate) fn new(mesh: Mesh, own: Option<Identity>, metrics: Arc<metrics::Shared>) -> Checker {
        Checker {
            own,
            clock: mesh.clock(),
            mesh,
            metrics,
            agenda: Agenda::default(),
            running: JoinSet::new(),
            keys: HashMap::new(),
            handles: HashMap::new(),
        }
    }

    /// Checks until the drain begins: what is under way has its endpoints by then.
    ///
    /// # Cancel safety
    /// What was found stays; checks under way are dropped.
    pub(crate) async fn run(mut self, mut drain: Drain) {
        let mut published = self.mesh.published();
        // Of what was in force before this began.
        published.mark_changed();
        loop {
            while let Some(begun) = self.agenda.begin(self.clock.now()) {
                self.begin(begun);
            }
            let next = self.agenda.next().map(|at| self.clock.instant(at));
            let due = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            // Each is cancel safe.
            tokio::select! {
                changed = published.changed() => match changed {
                    Ok(()) => self.follow(),
                    Err(_) => break,
                },
                Some(ended) = self.running.join_next_with_id() => self.ended(ended),
                () = due => {}
                () = drain.begun() => break,
            }
        }
        self.running.shutdown().await;
    }

    fn follow(&mut self) {
        let snapshot = self.mesh.current();
        let ended = self
            .agenda
            .follow(targets(&snapshot, self.own.as_ref()), self.clock.now(), || {
                fastrand::u64(..)
            });
        for key in ended {
            if let Some(handle) = self.handles.remove(&key) {
                self.keys.remove(&handle.id());
                handle.abort();
            }
        }
    }

    fn begin(&mut self, begun: Begun) {
        let Begun { key, target, late } = begun;
        if late {
            self.metrics.health_check_late();
        }
        let handle = self.running.spawn(async move { target.probe().await });
        self.keys.insert(handle.id(), key.clone());
        self.handles.insert(key, handle);
    }

    fn ended(&mut self, ended: Result<(Id, Result<(), Failure>), JoinError>) {
        let (id, result) = match ended {
            Ok(ended) => ended,
            Err(error) => (error.id(), Err(Failure::Broken("the check itself failed".to_owned()))),
        };
        // Of one that was given up nobody wants to know.
        let Some(key) = self.keys.remove(&id) else { return };
        self.handles.remove(&key);
        let now = self.clock.now();
        if let Some(target) = self.agenda.ended(key, now, fastrand::u64(..)) {
            target.found(result, now);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io;
    use std::time::Duration;

    use weir_policy::model::{HealthCheckKind, Locality};

    use super::*;
    use crate::drain;
    use crate::xds::scenario::{cluster_model, cluster_name, within};

    const NAME: &str = "a.n:80";

    /// Every 10 s, for 1 s; three failures make unhealthy, two passes healthy again.
    pub(crate) fn check(kind: HealthCheckKind) -> HealthCheck {
        HealthCheck {
            kind,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            unhealthy_threshold: 3,
            healthy_threshold: 2,
        }
    }

    /// An endpoint of a cluster that is checked like this, of which nothing is known.
    pub(super) fn target(check: &HealthCheck, port: u16) -> (Key, Target) {
        let mut config = cluster_model(NAME);
        config.health_check = Some(check.clone());
        let cluster = Arc::new(ClusterState::new(&config));
        let checks = cluster.checks.as_ref().expect("it is asked for");
        let checked = Arc::new(Checked::new(checks));
        let address = SocketAddr::from(([10, 0, 0, 1], port));
        let target = Target {
            endpoint: Arc::new(EndpointState::new(None, Some(Arc::clone(&checked)), Time::ZERO)),
            checked,
            cluster,
            address,
            peer: Peer::Plain,
            security: Security::Cleartext,
            own: None,
            wire: Wire::Http1,
            carries: Carries::Http,
            label: NAME.into(),
        };
        ((cluster_name(NAME), address), target)
    }

    /// An endpoint is checked, and this is found.
    pub(crate) fn report(snapshot: &Snapshot, endpoint: &str, found: Found, now: Time) {
        let address: SocketAddr = endpoint.parse().expect("an address");
        let mut all = targets(snapshot, None);
        let (_, target) = all.find(|(key, _)| key.1 == address).expect("it is checked");
        let result = match found {
            Found::Passed => Ok(()),
            Found::Failed => Err(Failure::Connect(io::ErrorKind::ConnectionRefused)),
        };
        target.found(result, now);
    }

    #[test]
    fn what_checks_found_is_said_in_words() {
        let (_, target) = target(&check(HealthCheckKind::Tcp), 80);
        let refused = || Err(Failure::Connect(io::ErrorKind::ConnectionRefused));
        let said = |result| {
            target.found(result, Time::ZERO);
            let shown = target.checked.shown().expect("there was one").to_string();
            (target.endpoint.is_failing(), shown)
        };
        assert!(target.checked.shown().is_none() && !target.endpoint.is_failing());
        assert_eq!(said(Ok(())), (false, "1 check passed".to_owned()));
        assert_eq!(
            said(refused()),
            (false, "1 check failed: connection refused".to_owned())
        );
        assert_eq!(said(Ok(())), (false, "1 check passed".to_owned()));
        said(refused());
        assert_eq!(
            said(refused()),
            (false, "2 checks failed: connection refused".to_owned())
        );
        let late = Err(Failure::TimedOut(Duration::from_millis(500)));
        assert_eq!(said(late), (true, "3 checks failed: no answer within 500ms".to_owned()));
        let half = "1 of 2 checks passed since some failed: no answer within 500ms";
        assert_eq!(said(Ok(())), (true, half.to_owned()));
        assert_eq!(said(Ok(())), (false, "2 checks passed".to_owned()));
        let total = |found| target.checked.checks.total(found);
        assert_eq!((total(Found::Passed), total(Found::Failed)), (4, 4));
    }

    #[tokio::test]
    async fn it_ends_with_the_drain() {
        let (mesh, _feed) = Mesh::new(Clock::start(), Locality::default());
        let (control, drain) = drain::pair();
        let checker = tokio::spawn(Checker::new(mesh, None, Arc::default()).run(drain));
        control.begin();
        within(checker).await.expect("it has ended");
        within(control.ended()).await;
    }
}
