//! Workers: threads that share nothing on the request path. Each runs its own runtime with its own connections, pools
//! and counters; listeners hand accepted connections to the one that has fewest.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::num::NonZeroU16;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use foldhash::fast::RandomState;
use futures_util::future::Either;
use http::{HeaderMap, Request, Response};
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio::time::{Instant, MissedTickBehavior};
use weir_policy::breaker::Refusal;
use weir_policy::model::{AbortAnswer, AppProtocol};
use weir_policy::mutual_tls::Mode;
use weir_policy::names::{ListenerName, WorkloadName};
use weir_policy::time::Time;
use weir_policy::trace::TraceParent;

use crate::app_health::AppHealth;
use crate::calls::{self, Caller};
use crate::cleartext::CleartextCallers;
use crate::clock::Clock;
use crate::config::Edge;
use crate::contexts::Contexts;
use crate::drain::Drain;
use crate::egress::{Egress, Exit};
use crate::error::ProxyError;
use crate::http::body::{DownstreamBody, ResponseBody};
use crate::http::downstream;
use crate::http::h1::HEAD_TIMEOUT;
use crate::http::h1::violation::{Refused, Violation};
use crate::http::head::{FORWARDED_CLIENT_CERT, Over};
use crate::http::io::Io;
use crate::http::upstream::{HTTP2_CONNECTION_WINDOW_BYTES, HTTP2_STRANGER_WINDOW_BYTES, Upstreams};
use crate::identity::Identity;
use crate::inbound::{self, InboundApp};
use crate::mesh::Mesh;
use crate::metrics::{Cleartext, ConnectionGuard, Side};
use crate::outbound;
use crate::record::{Direction, DownstreamAddr, Recorder, Sampled, Sampler, TraceIds};
use crate::snapshot::{Limit, Service};
use crate::tcp;
use crate::tcp::outbound::TcpService;
use crate::telemetry::Telemetry;
use crate::tls::{self, Carries, Door, EdgeTls, Entered, Silence, TlsError, TlsPeer};

/// Connections that wait to be taken over by one worker. When all workers' queues are full, listeners stop accepting
/// and the kernel's own queue bounds what waits.
const HANDED_OVER_MAX: usize = 256;

/// How often unused upstream connections are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// Names that a worker remembers the service of; an app that asks for more is served all the same, only slower.
const NAMES_MAX: usize = 4096;

/// Requests that wait by faults of their routes at once, per worker. Each may wait for ten minutes, and stands under no
/// cluster's limit until it is sent.
const DELAYED_MAX: usize = 1024;

/// What all workers have in common; immutable, or safe to share and seldom touched.
#[derive(Clone)]
pub(crate) struct WorkerParts {
    pub(crate) workload: Arc<WorkloadName>,
    pub(crate) clock: Clock,
    pub(crate) mesh: Mesh,
    pub(crate) contexts: Arc<Contexts>,
    pub(crate) telemetry: Telemetry,
    pub(crate) health: AppHealth,
    pub(crate) drain: Drain,
    /// Who we are; `None`: all is in cleartext.
    pub(crate) identity: Option<Identity>,
    /// How those outside of the mesh come by TLS; `None`: not at all.
    pub(crate) edge_tls: Option<EdgeTls>,
    pub(crate) cleartext: CleartextCallers,
    /// The way out of the mesh.
    pub(crate) exit: Exit,
}

/// One worker, as a request sees it.
pub(crate) struct Worker {
    pub(crate) workload: Arc<WorkloadName>,
    pub(crate) clock: Clock,
    pub(crate) mesh: Mesh,
    pub(crate) contexts: Arc<Contexts>,
    pub(crate) recorder: Rc<Recorder>,
    pub(crate) upstreams: Upstreams,
    pub(crate) health: AppHealth,
    /// Who we are; `None`: all is in cleartext.
    pub(crate) identity: Option<Identity>,
    /// How those outside of the mesh come by TLS; `None`: not at all.
    pub(crate) edge_tls: Option<EdgeTls>,
    pub(crate) cleartext: CleartextCallers,
    /// The way out of the mesh.
    pub(crate) egress: Egress,
    /// The service of requests whose service is not known: metrics need a name for it.
    pub(crate) no_service: Arc<str>,
    /// As the flag says, where no policy does.
    pub(crate) sampler: Sampler,
    random: RefCell<fastrand::Rng>,
    names: RefCell<Names>,
    told_of_handshakes: Cell<Option<Instant>>,
    handshakes_untold: Cell<u64>,
    /// Requests that wait by faults of their routes.
    delayed: Cell<usize>,
}

/// Services by the authority that apps write, as far as one snapshot knows them.
#[derive(Default)]
struct Names {
    snapshot_version: u64,
    services: HashMap<Box<str>, Arc<Service>, RandomState>,
}

/// A request that waits by a fault of its route.
pub(crate) struct Delayed<'a>(&'a Cell<usize>);

impl Drop for Delayed<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl Worker {
    fn new(parts: &WorkerParts) -> Worker {
        let recorder = parts.telemetry.recorder();
        Worker {
            workload: Arc::clone(&parts.workload),
            clock: parts.clock,
            mesh: parts.mesh.clone(),
            contexts: Arc::clone(&parts.contexts),
            upstreams: Upstreams::new(Arc::clone(recorder.metrics()), parts.identity.clone()),
            identity: parts.identity.clone(),
            edge_tls: parts.edge_tls.clone(),
            cleartext: parts.cleartext.clone(),
            egress: Egress::new(parts.exit.clone()),
            recorder: Rc::new(recorder),
            no_service: Arc::from("unknown"),
            sampler: parts.telemetry.sampler(),
            random: RefCell::new(fastrand::Rng::new()),
            names: RefCell::default(),
            told_of_handshakes: Cell::default(),
            handshakes_untold: Cell::default(),
            delayed: Cell::new(0),
            health: parts.health.clone(),
        }
    }

    /// A random number for draws, backoffs and ids; not for secrets.
    pub(crate) fn random(&self) -> u64 {
        self.random.borrow_mut().u64(..)
    }

    /// The service that an authority means, if a request has asked for it under the snapshot in force.
    pub(crate) fn known_service(&self, authority: &str, now: Time) -> Option<Arc<Service>> {
        let names = self.names.borrow();
        if names.snapshot_version != self.mesh.current().version {
            return None;
        }
        let service = names.services.get(authority)?;
        service.touch(now);
        Some(Arc::clone(service))
    }

    /// Remembers what an authority means, for as long as the snapshot in force stays.
    pub(crate) fn remember_service(&self, authority: &str, service: &Arc<Service>) {
        let snapshot = self.mesh.current();
        // What was found under an older snapshot is not to be found under this one.
        let current = match snapshot.service(&service.name) {
            Some(crate::snapshot::Lookup::Service(current)) => Arc::ptr_eq(current, service),
            Some(crate::snapshot::Lookup::NoSuchService { .. } | crate::snapshot::Lookup::Refused(_)) | None => false,
        };
        if !current {
            return;
        }
        let mut names = self.names.borrow_mut();
        if names.snapshot_version != snapshot.version {
            names.snapshot_version = snapshot.version;
            names.services.clear();
        }
        if names.services.len() < NAMES_MAX {
            names.services.insert(authority.into(), Arc::clone(service));
        }
    }

    /// The place in its trace of a request whose caller said this. `sampler` decides of a trace that begins here.
    pub(crate) fn trace_ids(&self, parent: Option<&TraceParent>, sampler: Sampler) -> TraceIds {
        let mut random = self.random.borrow_mut();
        // Ids of zero mean "none" (W3C Trace Context section 3.2.2.3).
        let span_id = random.u64(1..).to_be_bytes();
        match parent {
            Some(parent) => {
                let decided = if parent.sampled { Sampled::Yes } else { Sampled::No };
                TraceIds {
                    trace_id: parent.trace_id,
                    span_id,
                    parent_id: Some(parent.parent_id),
                    sampled: sampler.decide(Some(decided), &parent.trace_id),
                }
            }
            None => {
                let trace_id = random.u128(1..).to_be_bytes();
                TraceIds {
                    trace_id,
                    span_id,
                    parent_id: None,
                    sampled: sampler.decide(None, &trace_id),
                }
            }
        }
    }

    /// Who may come by TLS to an inbound port; `None`: it is not spoken there.
    pub(crate) fn door(&self, edge: Edge, carries: Carries) -> Option<Door> {
        match (edge, &self.edge_tls, &self.identity) {
            (Edge::Yes, Some(edge), _) => Some(Door::Edge(edge.clone(), carries)),
            (Edge::Yes, None, Some(identity)) | (Edge::No, _, Some(identity)) => {
                Some(Door::Mesh(identity.clone(), carries))
            }
            (Edge::Yes, None, None) | (Edge::No, _, None) => None,
        }
    }

    /// A request is let in that [`Mode::Strict`] would refuse.
    pub(crate) fn came_in_cleartext(&self, from: DownstreamAddr, app_port: NonZeroU16) {
        self.recorder.metrics().cleartext(Cleartext::Admitted);
        if let DownstreamAddr::Tcp(address) = from {
            self.cleartext.count(address.ip(), app_port, self.clock.now());
        }
    }

    /// A connection to an inbound port began a handshake that failed: counted; of those of a second one is told.
    pub(crate) fn not_entered(&self, from: DownstreamAddr, error: &TlsError) {
        self.recorder.metrics().handshake_failed(error.failure());
        let now = Instant::now();
        let told = self.told_of_handshakes.get();
        let untold = self.handshakes_untold.get();
        if told.is_some_and(|told| now.duration_since(told) < Duration::from_secs(1)) {
            self.handshakes_untold.set(untold + 1);
            return;
        }
        self.told_of_handshakes.set(Some(now));
        self.handshakes_untold.set(0);
        let DownstreamAddr::Tcp(address) = from else { return };
        tracing::info!(%address, %error, untold, "a TLS handshake at an inbound port failed");
    }

    /// Whether who opened a connection by mutual TLS is believed still. Of our own mesh whoever got through a handshake
    /// is.
    pub(crate) fn trusts(&self, peer: &TlsPeer) -> bool {
        let by_identity = |identity: &Identity| identity.trusts(&peer.id.trust_domain);
        peer.is_ours || self.identity.as_ref().is_some_and(by_identity)
    }

    /// How an app port is entered. Until somebody has said: by mutual TLS alone, where that can be.
    pub(crate) fn entered_by(&self, app_port: NonZeroU16) -> Mode {
        match (self.mesh.current().mutual_tls(), &self.identity) {
            (Some(told), Some(_)) => told.at(app_port),
            (Some(told), None) => match told.at(app_port) {
                // Nobody can come otherwise: to count them would tell nothing.
                Mode::Permissive => Mode::Off,
                mode @ (Mode::Strict | Mode::Off) => mode,
            },
            (None, Some(_)) => Mode::Strict,
            (None, None) => Mode::Off,
        }
    }

    /// A request is to wait by a fault of its route, for as long as what is returned lives; `None`: too many do.
    /// Counted either way.
    pub(crate) fn delayed_on_purpose(&self) -> Option<Delayed<'_>> {
        let metrics = self.recorder.metrics();
        if self.delayed.get() >= DELAYED_MAX {
            metrics.delay_left_out();
            return None;
        }
        self.delayed.set(self.delayed.get() + 1);
        metrics.delayed_on_purpose();
        Some(Delayed(&self.delayed))
    }

    /// A route's limit is reached: counted, and as an error.
    pub(crate) fn rate_limited(&self, limit: &Limit, retry_after: Duration) -> ProxyError {
        self.recorder.metrics().rate_limited();
        ProxyError::RateLimited {
            limit: limit.config.clone(),
            retry_after,
        }
    }

    /// A route's fault answers: counted, and as an error.
    pub(crate) fn aborted_on_purpose(&self, route: &str, answer: AbortAnswer) -> ProxyError {
        self.recorder.metrics().aborted_on_purpose();
        ProxyError::Injected {
            route: route.to_owned(),
            answer,
        }
    }

    /// A limit or breaker refuses: counted, and as an error.
    pub(crate) fn refused(&self, cluster: &str, refusal: Refusal) -> ProxyError {
        self.recorder.metrics().refused(&refusal);
        ProxyError::Refused {
            cluster: cluster.to_owned(),
            refusal,
        }
    }
}

impl Downstream {
    /// Tells the app who calls, in the place of whatever is said there.
    pub(crate) fn introduce(&self, headers: &mut HeaderMap) {
        headers.remove(FORWARDED_CLIENT_CERT);
        if let Some(peer) = &self.peer {
            headers.insert(FORWARDED_CLIENT_CERT, peer.forwarded.clone());
        }
    }
}

/// A connection that a listener accepted.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) stream: AcceptedStream,
    pub(crate) to: ListenerKind,
}

/// The stream of an accepted connection, registered with no runtime yet.
#[derive(Debug)]
pub(crate) enum AcceptedStream {
    Tcp(std::net::TcpStream, std::net::SocketAddr),
    Unix(std::os::unix::net::UnixStream),
}

/// Which listener accepted a connection.
#[derive(Clone, Debug)]
pub(crate) enum ListenerKind {
    /// The app's own calls.
    Outbound,
    /// Others' calls to a port of the app.
    Inbound(Arc<InboundApp>),
    /// The app's own connections to one service.
    Tcp(Arc<TcpService>),
}

/// All workers, as listeners see them.
#[derive(Clone, Debug)]
pub(crate) struct Workers(Arc<[Handle]>);

#[derive(Debug)]
struct Handle {
    queue: mpsc::Sender<Accepted>,
    connections: Arc<AtomicUsize>,
}

/// The workers' threads; ended by [`WorkerThreads::stop`].
#[derive(Debug)]
pub(crate) struct WorkerThreads {
    threads: Vec<JoinHandle<()>>,
    stop: tokio::sync::watch::Sender<bool>,
}

/// Starts the workers.
///
/// # Errors
/// When the system gives no thread or no event queue.
pub(crate) fn start(count: usize, parts: &WorkerParts) -> io::Result<(Workers, WorkerThreads)> {
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut handles = Vec::with_capacity(count);
    let mut threads = Vec::with_capacity(count);
    for number in 0..count {
        let (queue, accepted) = mpsc::channel(HANDED_OVER_MAX);
        let connections = Arc::new(AtomicUsize::new(0));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let parts = parts.clone();
        let counter = Arc::clone(&connections);
        let mut stopped = stopped.clone();
        let run = move || {
            let local = LocalSet::new();
            let work = work(parts, accepted, counter);
            local.block_on(&runtime, async {
                tokio::select! {
                    () = work => {}
                    _ = stopped.wait_for(|stop| *stop) => {}
                }
            });
            // Tasks that are left are dropped with the set: their connections close.
        };
        threads.push(
            std::thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(run)?,
        );
        handles.push(Handle { queue, connections });
    }
    Ok((Workers(handles.into()), WorkerThreads { threads, stop }))
}

impl Workers {
    /// Hands a connection to the worker with fewest.
    pub(crate) async fn hand_over(&self, accepted: Accepted) {
        let least = self
            .0
            .iter()
            .min_by_key(|worker| worker.connections.load(Ordering::Relaxed));
        if let Some(worker) = least {
            worker.connections.fetch_add(1, Ordering::Relaxed);
            if worker.queue.send(accepted).await.is_err() {
                worker.connections.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

impl WorkerThreads {
    /// Ends all workers, with what they have under way, and waits for their threads.
    pub(crate) fn stop(self) {
        self.stop.send_replace(true);
        for thread in self.threads {
            // A worker that panicked has said so; there is nothing more to end.
            let _ = thread.join();
        }
    }
}

async fn work(parts: WorkerParts, mut accepted: mpsc::Receiver<Accepted>, connections: Arc<AtomicUsize>) {
    let worker = Rc::new(Worker::new(&parts));
    let mut sweep = tokio::time::interval(SWEEP_EVERY);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            next = accepted.recv() => {
                let Some(next) = next else { break };
                let counted = Counted(Arc::clone(&connections));
                if let Some(serving) = serve(Rc::clone(&worker), next, parts.drain.clone(), counted) {
                    tokio::task::spawn_local(serving);
                }
            }
            _ = sweep.tick() => worker.upstreams.sweep(Instant::now()),
        }
    }
    // Listeners are closed; connections go on until they end or the worker is stopped. The drain waits for those alone.
    drop(parts);
    std::future::pending::<()>().await;
}

/// Serves a connection; `None`: it died between accept and here, which is nobody's loss.
fn serve(
    worker: Rc<Worker>,
    accepted: Accepted,
    drain: Drain,
    counted: Counted,
) -> Option<impl Future<Output = ()> + 'static> {
    let (io, from) = io(accepted.stream).ok()?;
    let direction = match &accepted.to {
        ListenerKind::Outbound | ListenerKind::Tcp(_) => Direction::Outbound,
        ListenerKind::Inbound(_) => Direction::Inbound,
    };
    let open = worker.recorder.metrics().connection(direction, Side::Downstream);
    let to = match (accepted.to, io) {
        (ListenerKind::Outbound, io) => (To::Outbound, io),
        (ListenerKind::Inbound(app), Io::Tcp(stream)) if app.protocol == AppProtocol::Tcp => {
            let serving: Serving = Box::pin(async move {
                let _held = (open, counted);
                tcp::inbound::serve(&worker, &app, from, stream, drain).await;
            });
            return Some(Either::Left(serving));
        }
        (ListenerKind::Inbound(app), io) => (To::Inbound(app), io),
        (ListenerKind::Tcp(service), io) => {
            let serving: Serving = Box::pin(async move {
                let _held = (open, counted);
                tcp::outbound::serve(&worker, &service, from, io, drain).await;
            });
            return Some(Either::Left(serving));
        }
    };
    let (to, io) = to;
    let mut hop = Hop {
        from: Downstream {
            address: from,
            over: Over::Cleartext,
            peer: None,
        },
        to,
        inside: None,
        _open: open,
        _counted: counted,
        worker,
    };
    let door = match &hop.to {
        To::Outbound => None,
        To::Inbound(app) => hop.worker.door(app.edge, Carries::Http),
    };
    let (door, stream) = match (door, io) {
        (Some(door), Io::Tcp(stream)) => (door, stream),
        (_, io) => return Some(Either::Right(Either::Left(downstream::serve(io, drain, hop)))),
    };
    Some(Either::Right(Either::Right(async move {
        // Boxed, as it is over when the connection is idle.
        let (io, drain) = match Box::pin(tls::enter(stream, &door, Silence(HEAD_TIMEOUT), drain)).await {
            Ok(Entered::Cleartext(stream, drain)) => (Io::Tcp(stream), drain),
            Ok(Entered::Outside(io, session, drain)) => {
                hop.worker.recorder.metrics().handshake(session);
                hop.from.over = Over::Tls;
                (io, drain)
            }
            Ok(Entered::Mutual(io, peer, drain)) => {
                hop.worker.recorder.metrics().handshake(peer.session);
                hop.from.over = Over::Tls;
                hop.from.peer = Some(Rc::new(peer));
                (io, drain)
            }
            Ok(Entered::Silent(..) | Entered::Nobody) => return,
            Err(error) => return hop.worker.not_entered(from, &error),
        };
        Box::pin(downstream::serve(io, drain, hop)).await;
    })))
}

/// A connection that carries TCP. Boxed, so that those of HTTP are no larger for it.
type Serving = Pin<Box<dyn Future<Output = ()>>>;

/// Which listener's requests a connection carries.
enum To {
    /// The app's own calls.
    Outbound,
    /// Others' calls to a port of the app.
    Inbound(Arc<InboundApp>),
}

/// What answers the requests of one downstream's connection, for as long as that is open.
struct Hop {
    worker: Rc<Worker>,
    from: Downstream,
    to: To,
    /// The one service that may be called, within a CONNECT to it.
    inside: Option<Rc<ListenerName>>,
    _open: ConnectionGuard,
    _counted: Counted,
}

/// Who is at the other end of a downstream's connection.
#[derive(Clone, Debug)]
pub(crate) struct Downstream {
    pub(crate) address: DownstreamAddr,
    /// How it came.
    pub(crate) over: Over,
    /// Who it is by its certificate; `None`: it has shown none.
    pub(crate) peer: Option<Rc<TlsPeer>>,
}

impl downstream::Service for Hop {
    // Boxed: the runtime moves it several times on its way into a task.
    type Answer = Pin<Box<dyn Future<Output = Response<ResponseBody>>>>;

    fn answer(&self, request: Request<DownstreamBody>) -> Self::Answer {
        let (worker, from) = (Rc::clone(&self.worker), self.from.clone());
        match &self.to {
            To::Outbound => {
                let inside = self.inside.clone();
                Box::pin(async move { outbound::serve(&worker, from.address, inside.as_deref(), request).await })
            }
            To::Inbound(app) => {
                let app = Arc::clone(app);
                Box::pin(async move { inbound::serve(&worker, &app, from, request).await })
            }
        }
    }

    fn refuse(&self, refused: &Refused) -> Response<ResponseBody> {
        let (unread, now) = (HeaderMap::new(), self.worker.clock.now());
        let path = refused.line.as_ref().map_or("", |(_, uri)| uri.path());
        let (direction, service, (call, told)) = match &self.to {
            To::Outbound => {
                let call = calls::outbound(&self.worker, &unread, path, now);
                (Direction::Outbound, &self.worker.no_service, call)
            }
            To::Inbound(app) => {
                let caller = Caller::of(&self.worker, app, &self.from);
                let call = calls::inbound(&self.worker, &unread, path, caller, now);
                (Direction::Inbound, &app.label, call)
            }
        };
        let record = calls::unread_record(direction, service, self.from.address, refused, &call, told);
        calls::refuse_unread(&self.worker, record, refused)
    }

    fn window_bytes(&self) -> u32 {
        let from_sidecar = match &self.to {
            To::Outbound => false,
            To::Inbound(app) => Caller::of(&self.worker, app, &self.from) == Caller::Sidecar,
        };
        match from_sidecar {
            true => HTTP2_CONNECTION_WINDOW_BYTES,
            false => HTTP2_STRANGER_WINDOW_BYTES,
        }
    }

    fn inside(self, name: ListenerName) -> Hop {
        Hop {
            inside: Some(Rc::new(name)),
            ..self
        }
    }

    fn refused_body(&self, violation: Violation) {
        self.worker.recorder.metrics().violated(violation);
    }
}

fn io(stream: AcceptedStream) -> io::Result<(Io, DownstreamAddr)> {
    match stream {
        AcceptedStream::Tcp(stream, peer) => {
            let stream = tokio::net::TcpStream::from_std(stream)?;
            stream.set_nodelay(true)?;
            Ok((Io::Tcp(stream), DownstreamAddr::Tcp(peer)))
        }
        AcceptedStream::Unix(stream) => {
            let stream = tokio::net::UnixStream::from_std(stream)?;
            Ok((Io::Unix(stream), DownstreamAddr::Unix))
        }
    }
}

/// Counts a connection as a worker's for as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
