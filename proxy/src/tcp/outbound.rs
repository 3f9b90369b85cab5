//! A connection of our own app to a service that carries TCP: name ▸ limit ▸ choose ▸ connect (another endpoint, where
//! that failed: nothing was sent) ▸ carry.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::timeout;
use weir_policy::breaker::{ConnectionPermit, Outcome, RequestPermit};
use weir_policy::names::ListenerName;

use super::{Broke, Connection, keep_alive};
use crate::drain::Drain;
use crate::endpoints::Endpoint;
use crate::error::ProxyError;
use crate::exchange::InFlight;
use crate::http::io::Io;
use crate::metrics::{ConnectionGuard, Side};
use crate::outbound::CONFIG_WAIT;
use crate::plan;
use crate::record::{AttemptOutcome, Direction, DownstreamAddr};
use crate::snapshot::{Backend, Cluster};
use crate::tls::{self, Inside, Security, TlsError, With};
use crate::worker::Worker;

/// How many endpoints are tried for one connection.
const ATTEMPTS_MAX: usize = 3;

/// The service that a port of `--listen` is for.
#[derive(Debug)]
pub(crate) struct TcpService {
    name: ListenerName,
    /// The same as text, for metrics and logs.
    label: Arc<str>,
}

impl TcpService {
    pub(crate) fn new(name: ListenerName) -> TcpService {
        TcpService {
            label: name.to_string().into(),
            name,
        }
    }
}

/// Carries one connection.
///
/// # Cancel safety
/// Dropped, both sides are closed, and it is recorded as ended by the proxy's stop.
pub(crate) async fn serve(
    worker: &Worker,
    service: &TcpService,
    from: DownstreamAddr,
    downstream: Io,
    mut drain: Drain,
) {
    let mut connection = Connection::begin(worker, Direction::Outbound, &service.label, from);
    if let Io::Tcp(stream) = &downstream {
        keep_alive(stream);
    }
    let opened = tokio::select! {
        opened = open(worker, service, &mut connection) => opened,
        () = drain.over() => return downstream.end_with_reset(),
    };
    let Opened {
        upstream,
        mut in_flight,
        permit,
        _slot,
        _counted,
    } = match opened {
        Ok(opened) => opened,
        Err(error) => return connection.refuse(&downstream, &error),
    };
    let mut spoke = false;
    let broke = connection.carry(downstream, upstream, &mut drain, || {
        if !spoke {
            spoke = true;
            in_flight.spoke();
        }
    });
    let broke = broke.await;
    if !spoke && broke == Broke::Upstream {
        in_flight.broke_off();
    }
    permit.finish(Outcome::Success, worker.clock.now());
}

/// A connection to an endpoint, and what it holds until its end.
struct Opened {
    upstream: Io,
    in_flight: InFlight,
    permit: RequestPermit,
    _slot: ConnectionPermit,
    _counted: ConnectionGuard,
}

async fn open(worker: &Worker, service: &TcpService, connection: &mut Connection) -> Result<Opened, ProxyError> {
    let cluster = lead(worker, service).await?;
    connection.record.cluster = Some(Arc::clone(&cluster.label));
    let breaker = &cluster.state.breaker;
    let refused = |refusal| worker.refused(&cluster.label, refusal);
    let mut permit = breaker.admit(worker.clock.now()).map_err(refused)?;
    let slot = breaker.admit_connection().map_err(refused)?;
    let _pending = breaker.admit_pending().map_err(refused)?;
    let mut tried: Vec<SocketAddr> = Vec::with_capacity(ATTEMPTS_MAX);
    let mut last = None;
    loop {
        let Some(endpoint) = choose(worker, &cluster, &tried) else {
            // Those that were tried may be out of use by now: how they failed says more than that none is left.
            return Err(match last {
                Some(error) => {
                    permit.finish(Outcome::Failure, worker.clock.now());
                    error
                }
                None => cluster.no_endpoint(),
            });
        };
        let mut in_flight = InFlight::begin(&cluster, endpoint, worker.clock, worker.clock.now());
        connection.record.endpoint = Some(endpoint.address);
        connection.record.peer_workload.clone_from(&endpoint.workload);
        match connect(worker, &cluster, endpoint).await {
            Ok(upstream) => {
                in_flight.connected();
                permit.report(Outcome::Success, worker.clock.now());
                connection.connected();
                if let (Some(_), Security::Mutual(peer)) = (&worker.identity, &endpoint.security) {
                    connection.record.peer_identity = Some(Arc::clone(peer));
                }
                let metrics = worker.recorder.metrics();
                return Ok(Opened {
                    upstream,
                    in_flight,
                    permit,
                    _slot: slot,
                    _counted: metrics.connection(Direction::Outbound, Side::Upstream),
                });
            }
            Err(error) => {
                connection.attempt_failed(endpoint.address);
                in_flight.failed(AttemptOutcome::ConnectFailed);
                tried.push(endpoint.address);
                if tried.len() >= ATTEMPTS_MAX.min(cluster.endpoints.len()) {
                    permit.finish(Outcome::Failure, worker.clock.now());
                    return Err(error);
                }
                last = Some(error);
            }
        }
    }
}

/// The cluster that the service's connections go to.
async fn lead(worker: &Worker, service: &TcpService) -> Result<Arc<Cluster>, ProxyError> {
    let found = worker.mesh.service(&service.name, CONFIG_WAIT).await;
    let found = found.map_err(|why| ProxyError::of_name(&service.label, why))?;
    match &found.tcp {
        Some(Backend::Cluster(cluster)) => Ok(Arc::clone(cluster)),
        Some(Backend::Missing(cluster) | Backend::Unanswered(cluster)) => Err(ProxyError::NoEndpoint {
            cluster: cluster.to_string(),
        }),
        Some(Backend::Refused(_, refused)) => Err(ProxyError::ConfigRefused(Arc::clone(refused))),
        None => Err(ProxyError::CarriesHttp {
            name: service.label.to_string(),
        }),
    }
}

/// An endpoint, one that was not tried yet where the draw finds it.
fn choose<'a>(worker: &Worker, cluster: &'a Cluster, tried: &[SocketAddr]) -> Option<&'a Endpoint> {
    let now = worker.clock.now();
    let chosen = plan::choose(cluster, tried.last().copied(), now, || worker.random())?;
    if !tried.contains(&chosen.address) {
        return Some(chosen);
    }
    let in_use = cluster.in_use(now);
    let mut others = in_use.taking().filter_map(|place| cluster.endpoints.get(place));
    Some(others.find(|other| !tried.contains(&other.address)).unwrap_or(chosen))
}

async fn connect(worker: &Worker, cluster: &Cluster, to: &Endpoint) -> Result<Io, ProxyError> {
    let (endpoint, limit) = (to.address, cluster.config.connect_timeout);
    let failed = |source| ProxyError::Connect { endpoint, source };
    let connecting = async {
        let stream = TcpStream::connect(endpoint).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        keep_alive(&stream);
        let refused = |with| {
            move |error: TlsError| ProxyError::Tls {
                endpoint,
                with,
                failure: error.failure(),
                detail: error.to_string(),
            }
        };
        match (&to.security, &worker.identity) {
            (Security::Cleartext, _) | (Security::Mutual(_), None) => Ok(Io::Tcp(stream)),
            (Security::Mutual(peer), Some(own)) => {
                let connected = tls::connect(stream, own, peer, Inside::Tcp).await;
                Ok(connected.map_err(refused(With::Mesh))?.0)
            }
            (Security::Backend(client), _) => client.connect(stream).await.map_err(refused(With::Backend)),
        }
    };
    match timeout(limit, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(ProxyError::ConnectTimeout { endpoint, limit }),
    }
}
