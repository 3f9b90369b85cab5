//! A proxy from start to end: ports bound, what was kept in force, workers and tasks started; then drained and stopped.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::json;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use weir_policy::health_check::Found;
use weir_policy::outlier::Cause;

use crate::admin::readiness::{Condition, Readiness};
use crate::admin::{self, AdminParts};
use crate::app_health::AppHealth;
use crate::cleartext::CleartextCallers;
use crate::clock::Clock;
use crate::config::{OutboundAddr, ProxyConfig, Xds};
use crate::contexts::Contexts;
use crate::drain::{self, Drain, DrainControl};
use crate::egress::{Exit, dns};
use crate::endpoints::Endpoint;
use crate::explain::Explainer;
use crate::health_check::Checker;
use crate::identity::{self, Identity};
use crate::inbound::InboundApp;
use crate::last_good::LastGood;
use crate::mesh::{Connected, LinkStatus, Mesh};
use crate::metrics::{self, Observed, ObservedCluster};
use crate::outbound;
use crate::process_log::LogControl;
use crate::snapshot::Backend;
use crate::tcp::outbound::TcpService;
use crate::telemetry::Telemetry;
use crate::tls::EdgeTls;
use crate::worker::{self, Accepted, AcceptedStream, ListenerKind, WorkerParts, WorkerThreads, Workers};
use crate::workloads::{self, AnnouncedPort, Announcement, Answers, Registration, Standing};
use crate::xds::{AsksForRoots, ControlPlane, ControlPlaneError, Link, Own, Settings};

/// How long a listener waits after the system refused to accept (no file descriptors, no memory): the cause passes when
/// connections end, and asking again at once would only burn the CPU.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// How long byte streams have to end when a drain's time is over: to record that takes a worker no longer, even with
/// all of them at once.
const CUT_OFF_WAIT: Duration = Duration::from_secs(1);

/// How long the end waits for the control plane to hear of it.
const DEREGISTER_WAIT: Duration = Duration::from_secs(2);

/// Why a proxy does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port can't be had.
    #[error("{flag} {address}: {source}; choose another with {flag}, or stop what holds it")]
    Bind {
        /// The flag that chooses it.
        flag: &'static str,
        /// What was asked for.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The control plane's URL.
    #[error("--control-plane: {0}")]
    ControlPlane(String),
    /// The state directory.
    #[error("--state-dir: {0}")]
    StateDir(String),
    /// Certificate and key of the edge.
    #[error("{0}")]
    EdgeTls(String),
    /// The access log, or the way to the collector.
    #[error("{0}")]
    Telemetry(String),
    /// Threads or event queues.
    #[error("the system gives no thread or event queue for a worker: {0}")]
    Worker(io::Error),
}

/// A proxy that runs.
#[derive(Debug)]
pub struct Proxy {
    addresses: Addresses,
    drain: DrainControl,
    drain_asked: Arc<Notify>,
    readiness: Readiness,
    drain_timeout: Duration,
    registration: Option<Registration>,
    workers: WorkerThreads,
    /// Listeners, the link, the registrar, checks, admin: ended when dropped.
    tasks: JoinSet<()>,
    telemetry: JoinSet<()>,
    stop_telemetry: watch::Sender<bool>,
    _outbound_socket: Option<SocketFile>,
}

/// Where a proxy listens: with port 0 the system chose.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// The app's calls.
    pub outbound: OutboundAddr,
    /// Others' calls, by app port, in the order of the configuration.
    pub inbound: Vec<(NonZeroU16, SocketAddr)>,
    /// Where the app reaches services that carry TCP, in the order of the configuration.
    pub listens: Vec<SocketAddr>,
    /// Admin.
    pub admin: SocketAddr,
    /// Metrics.
    pub metrics: SocketAddr,
    /// Health.
    pub health: SocketAddr,
}

impl Addresses {
    /// All ports that are the proxy's own.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        let Addresses {
            outbound,
            inbound,
            listens,
            admin,
            metrics,
            health,
        } = self;
        let outbound = match outbound {
            OutboundAddr::Tcp(address) => Some(address),
            OutboundAddr::Unix(_) => None,
        };
        let all = [admin, metrics, health].into_iter().chain(outbound).chain(listens);
        all.chain(inbound.iter().map(|(_, address)| address))
            .map(SocketAddr::port)
    }
}

impl Proxy {
    /// Starts a proxy. Tasks beside the data path run on the caller's runtime; workers have threads of their own. What
    /// `state_dir` holds is in force when this returns.
    ///
    /// # Errors
    /// When a port, the state directory, the edge's certificate or the access log can't be had. Nothing is left
    /// running.
    pub async fn start(config: ProxyConfig) -> Result<Proxy, StartError> {
        let clock = Clock::start();
        let workload = Arc::new(config.workload.clone());
        let control_plane = config.control_plane.as_ref().map(ControlPlane::new).transpose();
        let mut control_plane =
            control_plane.map_err(|error: ControlPlaneError| StartError::ControlPlane(error.to_string()))?;
        let kept = config
            .state_dir
            .as_deref()
            .map(|directory| LastGood::start(directory, &config.workload));
        let kept = kept
            .transpose()
            .map_err(|error| StartError::StateDir(error.to_string()))?;
        let had_state = kept.as_ref().is_some_and(|(_, kept)| !kept.is_empty());
        let edge_tls = config.edge_tls.clone().map(EdgeTls::open).transpose();
        let edge_tls = edge_tls.map_err(StartError::EdgeTls)?;
        let listeners = Listeners::bind(&config)?;
        let telemetry = Telemetry::start(&config).map_err(|error| StartError::Telemetry(error.to_string()))?;
        let (telemetry, carried_out) = telemetry;
        let addresses = listeners.addresses.clone();

        let mut tasks = JoinSet::new();
        let readiness = Readiness::default();
        let identity = control_plane
            .as_mut()
            .filter(|there| there.is_secured())
            .map(|control_plane| {
                let condition = readiness.condition("a certificate from the control plane");
                if had_state {
                    condition.met();
                }
                let (joining, state_dir) = (config.joining.clone(), config.state_dir.clone());
                let endpoint = control_plane.endpoint().clone();
                let (identity, keeper, taker) =
                    identity::start(endpoint, joining, config.workload.clone(), state_dir, condition);
                control_plane.secure(identity.clone());
                tasks.spawn(keeper.run());
                tasks.spawn(taker.run());
                identity
            });

        let (mesh, feed) = Mesh::new(clock, config.locality.clone());
        let node = weir_xds::node::node(&config.workload, &config.locality, VERSION);
        // No control plane but Weir's knows workloads.
        let own = (config.xds == Xds::Strict).then(|| Own {
            workload: config.workload.clone(),
            access_log: config.access_log.clone(),
        });
        let settings = Settings {
            xds: config.xds,
            roots: match (&own, &identity) {
                (Some(_), Some(_)) => AsksForRoots::Yes,
                (None, _) | (_, None) => AsksForRoots::No,
            },
            own,
            pinned: config.listens.iter().map(|listen| listen.service.clone()).collect(),
            ..Settings::default()
        };
        let link = Link::new(control_plane.clone(), identity.clone(), node, settings, feed, kept);
        let (health, checks) = AppHealth::new(config.apps.iter().map(|app| app.app_port), clock);
        let (drain_control, drain) = drain::pair();
        let cleartext = CleartextCallers::default();
        let (dns, look_ups) = dns::start(config.dns.clone());
        let exit = Exit::new(dns, &workload, &addresses);
        tasks.spawn(look_ups.run());
        let parts = WorkerParts {
            workload: Arc::clone(&workload),
            clock,
            mesh: mesh.clone(),
            contexts: Arc::new(Contexts::default()),
            telemetry: telemetry.clone(),
            health: health.clone(),
            drain: drain.clone(),
            identity: identity.clone(),
            edge_tls: edge_tls.clone(),
            cleartext: cleartext.clone(),
            exit: exit.clone(),
        };
        let (workers, threads) = worker::start(config.workers.get(), &parts).map_err(StartError::Worker)?;

        let given = match &control_plane {
            Some(_) => ControlPlaneGiven::Yes,
            None => ControlPlaneGiven::No,
        };
        let (observer, observed_identity) = (mesh.clone(), identity.clone());
        telemetry.metrics().observe(move || Observed {
            certificate_left: observed_identity
                .as_ref()
                .and_then(|identity| identity.seconds_left(SystemTime::now())),
            ..observed(&observer, clock, given)
        });

        if let Some(edge_tls) = edge_tls {
            tasks.spawn(edge_tls.keep());
        }
        tasks.spawn(link.run());
        tasks.spawn(checks.run());
        let checker = Checker::new(mesh.clone(), identity.clone(), Arc::clone(telemetry.metrics().shared()));
        tasks.spawn(checker.run(drain.clone()));
        let apps = config.apps.iter().map(|app| {
            let condition = readiness.condition(format!("the app to take connections on port {}", app.app_port));
            (app.app_port, condition)
        });
        tasks.spawn(watch_app(health.ready(), apps.collect()));
        let config_dump = config_dump(
            config.clone(),
            addresses.clone(),
            mesh.clone(),
            identity.clone(),
            cleartext,
        );
        let explainer = Explainer::new(mesh.clone(), Arc::clone(&workload), exit);
        // Only Weir's own takes workloads.
        let registrar = control_plane.filter(|_| config.xds == Xds::Strict);
        if given == ControlPlaneGiven::Yes && registrar.is_none() {
            let condition = readiness.condition("a stream to the control plane");
            if had_state {
                condition.met();
            }
            tasks.spawn(watch_link(mesh.link(), condition));
        }
        let registration = registrar.map(|control_plane| {
            let announcement = announcement(&config, &addresses);
            let answers = Answers {
                config: Arc::clone(&config_dump),
                explainer: explainer.clone(),
                mesh: mesh.clone(),
            };
            let (registration, registrar) = workloads::register(announcement, control_plane, answers, health.ready());
            let (told, secured) = (mesh.clone(), identity.is_some());
            tasks.spawn(async move {
                if secured {
                    // Callers come as soon as we are known, some of them in cleartext: whether that is well is to be
                    // known by then. Of a control plane that doesn't say, none of these is let in.
                    let _ = timeout(outbound::CONFIG_WAIT, told.entry_told()).await;
                }
                registrar.run().await;
            });
            let condition = readiness.condition("the control plane to register this workload");
            if had_state {
                condition.met();
            }
            tasks.spawn(watch_standing(registration.standing(), condition));
            registration
        });
        let drain_asked = Arc::new(Notify::new());
        let asked = Arc::clone(&drain_asked);
        let admin_parts = AdminParts {
            readiness: readiness.clone(),
            identity,
            config: config_dump,
            explainer,
            drain: Arc::new(move || asked.notify_one()),
            log: LogControl::installed(),
        };
        let Listeners {
            outbound,
            inbound,
            listens,
            admin: admin_listener,
            metrics: metrics_listener,
            health: health_listener,
            ..
        } = listeners;
        let metrics = Arc::clone(telemetry.metrics());
        tasks.spawn(admin::serve::serve(
            admin_listener,
            admin::admin(admin_parts, addresses.admin.ip()),
            std::future::pending(),
        ));
        tasks.spawn(admin::serve::serve(
            metrics_listener,
            admin::metrics(metrics),
            std::future::pending(),
        ));
        tasks.spawn(admin::serve::serve(
            health_listener,
            admin::health(readiness.clone()),
            std::future::pending(),
        ));
        for (listener, app) in inbound.into_iter().zip(&config.apps) {
            let to = ListenerKind::Inbound(Arc::new(InboundApp::new(app.app_port, app.protocol, app.edge)));
            tasks.spawn(accept_tcp(listener, to, workers.clone(), drain.clone()));
        }
        for (listener, listen) in listens.into_iter().zip(&config.listens) {
            let to = ListenerKind::Tcp(Arc::new(TcpService::new(listen.service.clone())));
            tasks.spawn(accept_tcp(listener, to, workers.clone(), drain.clone()));
        }
        let socket = match outbound {
            Outbound::Tcp(listener) => {
                tasks.spawn(accept_tcp(listener, ListenerKind::Outbound, workers, drain));
                None
            }
            Outbound::Unix(listener, file) => {
                tasks.spawn(accept_unix(listener, ListenerKind::Outbound, workers, drain));
                Some(file)
            }
        };
        let (stop_telemetry, mut stopped) = watch::channel(false);
        let mut carrying = JoinSet::new();
        carrying.spawn(async move {
            let stop = async {
                let _ = stopped.wait_for(|stop| *stop).await;
            };
            carried_out.run(stop).await;
        });
        Ok(Proxy {
            addresses,
            drain: drain_control,
            drain_asked,
            readiness,
            drain_timeout: config.drain_timeout,
            registration,
            workers: threads,
            tasks,
            telemetry: carrying,
            stop_telemetry,
            _outbound_socket: socket,
        })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Returns when a drain is asked for on the admin port.
    ///
    /// # Cancel safety
    /// What was asked stays asked.
    pub async fn drain_asked(&self) {
        self.drain_asked.notified().await;
    }

    /// Ends it: callers are told to send no more, requests under way have until the drain timeout, the control plane
    /// hears that the workload is gone, and what was recorded is written out.
    ///
    /// # Cancel safety
    /// Dropped, what is left is ended at once.
    pub async fn drain(mut self) -> Drained {
        // Never met again: probes see that no request should come.
        let _draining = self.readiness.condition("the drain to end");
        if let Some(registration) = &self.registration {
            registration.draining();
        }
        self.drain.begin();
        let drained = match timeout(self.drain_timeout, self.drain.ended()).await {
            Ok(()) => Drained::Whole,
            Err(_) => {
                // Byte streams end now, and tell of it.
                self.drain.over();
                let _ = timeout(CUT_OFF_WAIT, self.drain.ended()).await;
                Drained::CutOff
            }
        };
        if let Some(registration) = &self.registration {
            registration.deregister(DEREGISTER_WAIT).await;
        }
        self.tasks.shutdown().await;
        let workers = self.workers;
        // Joining waits for the threads to notice: not on a thread that serves others.
        let _ = tokio::task::spawn_blocking(move || workers.stop()).await;
        self.stop_telemetry.send_replace(true);
        while self.telemetry.join_next().await.is_some() {}
        drained
    }
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every request had its answer.
    Whole,
    /// The time was over; what was under way was cut off.
    CutOff,
}

fn config_dump(
    config: ProxyConfig,
    addresses: Addresses,
    mesh: Mesh,
    identity: Option<Identity>,
    cleartext: CleartextCallers,
) -> Arc<dyn Fn() -> serde_json::Value + Send + Sync> {
    Arc::new(move || {
        json!({
            "version": VERSION,
            "config": config.dump(),
            "addresses": {
                "outbound": addresses.outbound.to_string(),
                "inbound": addresses.inbound.iter().map(|(_, inbound)| inbound).collect::<Vec<_>>(),
                "listens": addresses.listens,
                "admin": addresses.admin,
                "metrics": addresses.metrics,
                "health": addresses.health,
            },
            "identity": identity.as_ref().map(|identity| identity.status(SystemTime::now())),
            "cleartextCallers": cleartext.shown(mesh.clock()),
            "mesh": mesh.status(),
        })
    })
}

/// The version that the control plane and people are told.
const VERSION: &str = env!("CARGO_PKG_VERSION");

fn announcement(config: &ProxyConfig, addresses: &Addresses) -> Announcement {
    let ports = config
        .apps
        .iter()
        .zip(&addresses.inbound)
        .filter_map(|(app, (_, inbound))| {
            Some(AnnouncedPort {
                app_port: app.app_port,
                inbound_port: NonZeroU16::new(inbound.port())?,
                protocol: app.protocol,
                edge: app.edge,
            })
        });
    Announcement {
        workload: config.workload.clone(),
        started: SystemTime::now(),
        address: config.advertise,
        ports: ports.collect(),
        labels: config.labels.clone(),
        locality: config.locality.clone(),
        version: VERSION.to_owned(),
    }
}

/// All ports of the data path, bound before anything runs: a proxy has all of them or does not start.
struct Listeners {
    addresses: Addresses,
    outbound: Outbound,
    /// In the order of the configuration's app ports.
    inbound: Vec<TcpListener>,
    /// In the order of the configuration.
    listens: Vec<TcpListener>,
    admin: TcpListener,
    metrics: TcpListener,
    health: TcpListener,
}

enum Outbound {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// A unix socket's file, removed at the end.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listeners {
    fn bind(config: &ProxyConfig) -> Result<Listeners, StartError> {
        let (outbound, outbound_address) = match &config.outbound {
            OutboundAddr::Tcp(address) => {
                let (listener, bound) = bind("--outbound", *address)?;
                (Outbound::Tcp(listener), OutboundAddr::Tcp(bound))
            }
            OutboundAddr::Unix(path) => {
                let (listener, file) = bind_unix(path)?;
                (Outbound::Unix(listener, file), OutboundAddr::Unix(path.clone()))
            }
        };
        let mut inbound = Vec::with_capacity(config.apps.len());
        let mut inbound_addresses = Vec::with_capacity(config.apps.len());
        for app in &config.apps {
            let (listener, bound) = bind("--app", app.inbound)?;
            inbound.push(listener);
            inbound_addresses.push((app.app_port, bound));
        }
        let mut listens = Vec::with_capacity(config.listens.len());
        let mut listen_addresses = Vec::with_capacity(config.listens.len());
        for listen in &config.listens {
            let (listener, bound) = bind("--listen", listen.address)?;
            listens.push(listener);
            listen_addresses.push(bound);
        }
        let (admin, admin_address) = bind("--admin", config.admin)?;
        let (metrics, metrics_address) = bind("--metrics", config.metrics)?;
        let (health, health_address) = bind("--health", config.health)?;
        Ok(Listeners {
            addresses: Addresses {
                outbound: outbound_address,
                inbound: inbound_addresses,
                listens: listen_addresses,
                admin: admin_address,
                metrics: metrics_address,
                health: health_address,
            },
            outbound,
            inbound,
            listens,
            admin,
            metrics,
            health,
        })
    }
}

/// Binds without sharing: a port that another process has is an error, never half of its connections.
fn bind(flag: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Bind {
        flag,
        address: address.to_string(),
        source,
    };
    let listener = std::net::TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let listener = TcpListener::from_std(listener).map_err(failed)?;
    Ok((listener, bound))
}

/// Binds a unix socket. A file left by a proxy that was killed is replaced; one that something listens at is not.
fn bind_unix(path: &Path) -> Result<(UnixListener, SocketFile), StartError> {
    let failed = |source| StartError::Bind {
        flag: "--outbound",
        address: path.display().to_string(),
        source,
    };
    let left_over = match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => return Err(failed(io::ErrorKind::AddrInUse.into())),
        Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
    };
    if left_over {
        std::fs::remove_file(path).map_err(failed)?;
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    Ok((listener, SocketFile(path.to_owned())))
}

/// Accepts until the drain begins, handing each connection to a worker.
async fn accept_tcp(listener: TcpListener, to: ListenerKind, workers: Workers, mut drain: Drain) {
    loop {
        // Both arms are cancel safe: a connection not accepted stays in the kernel's queue.
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.begun() => return,
        };
        let stream = accepted.and_then(|(stream, peer)| Ok(AcceptedStream::Tcp(stream.into_std()?, peer)));
        hand_over(stream, &to, &workers).await;
    }
}

async fn accept_unix(listener: UnixListener, to: ListenerKind, workers: Workers, mut drain: Drain) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.begun() => return,
        };
        let stream = accepted.and_then(|(stream, _)| Ok(AcceptedStream::Unix(stream.into_std()?)));
        hand_over(stream, &to, &workers).await;
    }
}

async fn hand_over(stream: io::Result<AcceptedStream>, to: &ListenerKind, workers: &Workers) {
    match stream {
        Ok(stream) => {
            let to = to.clone();
            workers.hand_over(Accepted { stream, to }).await;
        }
        Err(error) => {
            tracing::warn!(%error, "a connection was not accepted");
            tokio::time::sleep(ACCEPT_AGAIN).await;
        }
    }
}

/// Keeps what `/ready` and the health port say of the app's ports.
async fn watch_app(mut ready: watch::Receiver<BTreeSet<NonZeroU16>>, conditions: Vec<(NonZeroU16, Condition)>) {
    loop {
        {
            let ready = ready.borrow_and_update();
            for (port, condition) in &conditions {
                if ready.contains(port) {
                    condition.met();
                } else {
                    condition.unmet();
                }
            }
        }
        if ready.changed().await.is_err() {
            return;
        }
    }
}

/// Meets the condition once the control plane knows the workload; after that a lost stream does not matter to requests.
async fn watch_standing(mut standing: watch::Receiver<Standing>, condition: Condition) {
    if standing
        .wait_for(|standing| *standing == Standing::Registered)
        .await
        .is_ok()
    {
        condition.met();
    }
}

/// Meets the condition once a stream to the control plane is open; after that a lost one does not matter to requests.
async fn watch_link(mut link: watch::Receiver<LinkStatus>, condition: Condition) {
    if link.wait_for(|link| link.connected == Connected::Yes).await.is_ok() {
        condition.met();
    }
}

/// What others hold, for the metrics page.
fn observed(mesh: &Mesh, clock: Clock, control_plane: ControlPlaneGiven) -> Observed {
    let now = clock.now();
    let snapshot = mesh.current();
    let clusters = snapshot.clusters().filter_map(|(_, backend)| match backend {
        Backend::Cluster(cluster) => {
            let breaker = &cluster.state.breaker;
            let counts = breaker.counts();
            let in_use = cluster.in_use(now);
            let ejections = cluster.state.detector.iter().flat_map(|detector| {
                let total = |cause| (cause, detector.ejections_total(cause));
                Cause::ALL.map(total)
            });
            let ejected = |endpoint: &&Endpoint| endpoint.state.host.as_ref().is_some_and(|host| host.is_ejected(now));
            let checks = cluster.state.checks.iter().flat_map(|checks| {
                let total = |found| (found, checks.total(found));
                [Found::Passed, Found::Failed].map(total)
            });
            let failing = |endpoint: &&Endpoint| endpoint.state.is_failing();
            let count = |endpoints: usize| u32::try_from(endpoints).unwrap_or(u32::MAX);
            Some(ObservedCluster {
                name: cluster.label.to_string(),
                breaker: breaker.state(now),
                opened: breaker.opened_total(),
                ejections: ejections.collect(),
                ejected: count(cluster.endpoints.iter().filter(ejected).count()),
                checks: checks.collect(),
                failing: count(cluster.endpoints.iter().filter(failing).count()),
                in_use: count(in_use.taking().count()),
                levels: in_use.percents().collect(),
                panic: in_use.is_panic(),
                connections: counts.connections,
                pending: counts.pending,
                requests: counts.requests,
            })
        }
        Backend::Missing(_) | Backend::Unanswered(_) | Backend::Refused(..) => None,
    });
    Observed {
        control_plane: match (control_plane, mesh.connected()) {
            (ControlPlaneGiven::No, _) => None,
            (ControlPlaneGiven::Yes, Connected::Yes) => Some(metrics::Link::Connected),
            (ControlPlaneGiven::Yes, Connected::No) => Some(metrics::Link::Lost),
        },
        clusters: clusters.collect(),
        certificate_left: None,
    }
}

/// Whether the proxy has a control plane at all.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ControlPlaneGiven {
    Yes,
    No,
}
