//! A connection to a port of our own app that carries TCP: TLS or not ▸ admit ▸ limit ▸ connect ▸ carry.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use weir_policy::breaker::Outcome;
use weir_policy::health_check::Found;
use weir_policy::mutual_tls::Mode;

use super::{Connection, keep_alive};
use crate::config::Edge;
use crate::drain::Drain;
use crate::error::ProxyError;
use crate::http::head::Over;
use crate::http::io::Io;
use crate::inbound::{CONNECT_TIMEOUT, InboundApp, admit};
use crate::metrics::Side;
use crate::record::{Direction, DownstreamAddr};
use crate::tls::{self, Carries, Entered, Silence};
use crate::worker::{Downstream, Worker};

/// How long a peer may say nothing until it is taken for one in cleartext whose server speaks first, as MySQL's does,
/// at a port where both kinds come. A sidecar speaks at once; a second is time for its first bytes to be lost twice.
/// Such a client waits that long for its greeting, as long as the port is permissive.
const SERVER_FIRST_AFTER: Silence = Silence(Duration::from_secs(1));

/// How long it may say nothing where it has to come by TLS.
const TLS_WITHIN: Silence = Silence(Duration::from_secs(10));

/// Carries one connection.
///
/// # Cancel safety
/// Dropped, both sides are closed, and it is recorded as ended by the proxy's stop.
pub(crate) async fn serve(
    worker: &Worker,
    app: &InboundApp,
    from: DownstreamAddr,
    stream: TcpStream,
    mut drain: Drain,
) {
    keep_alive(&stream);
    let Some((downstream, io)) = enter(worker, app, from, stream, drain.clone()).await else {
        return;
    };
    let peer = downstream.peer.as_ref();
    if peer.is_some_and(|peer| peer.is_tcp_check) {
        return answer_check(worker, app, io).await;
    }
    let mut connection = Connection::begin(worker, Direction::Inbound, &app.label, from);
    connection.record.peer_identity = peer.map(|peer| Arc::clone(&peer.id));
    let admitted = admit(worker, app, &downstream).and_then(|()| {
        let refused = |refusal| worker.refused(&app.label, refusal);
        let permit = app.breaker.admit(worker.clock.now()).map_err(refused)?;
        let slot = app.breaker.admit_connection().map_err(refused)?;
        Ok((permit, slot))
    });
    let (permit, _slot) = match admitted {
        Ok(admitted) => admitted,
        Err(error) => return connection.refuse(&io, &error),
    };
    connection.record.endpoint = Some(app.address);
    let upstream = match connect(worker, app).await {
        Ok(upstream) => upstream,
        Err(error) => {
            connection.attempt_failed(app.address);
            permit.finish(Outcome::Failure, worker.clock.now());
            return connection.refuse(&io, &error);
        }
    };
    connection.connected();
    let _counted = worker.recorder.metrics().connection(Direction::Inbound, Side::Upstream);
    connection.carry(io, upstream, &mut drain, || {}).await;
    permit.finish(Outcome::Success, worker.clock.now());
}

/// Finds out how the peer comes; `None`: it doesn't, which has been counted.
async fn enter(
    worker: &Worker,
    app: &InboundApp,
    from: DownstreamAddr,
    stream: TcpStream,
    drain: Drain,
) -> Option<(Downstream, Io)> {
    let came = |over, peer| Downstream {
        address: from,
        over,
        peer,
    };
    let silence = match (app.edge, &worker.edge_tls, worker.entered_by(app.port)) {
        // Whoever comes there comes in cleartext, or is not to be told apart from who does: what it says first is the
        // app's, be it TLS.
        (Edge::Yes, None, _) | (Edge::No, _, Mode::Off) => None,
        (Edge::Yes, Some(_), _) | (Edge::No, _, Mode::Permissive) => Some(SERVER_FIRST_AFTER),
        (Edge::No, _, Mode::Strict) => Some(TLS_WITHIN),
    };
    let door = silence.zip(worker.door(app.edge, Carries::Tcp));
    let Some((silence, door)) = door else {
        return Some((came(Over::Cleartext, None), Io::Tcp(stream)));
    };
    let metrics = worker.recorder.metrics();
    match Box::pin(tls::enter(stream, &door, silence, drain)).await {
        Ok(Entered::Cleartext(stream, _) | Entered::Silent(stream)) => {
            Some((came(Over::Cleartext, None), Io::Tcp(stream)))
        }
        Ok(Entered::Outside(io, session, _)) => {
            metrics.handshake(session);
            Some((came(Over::Tls, None), io))
        }
        Ok(Entered::Mutual(io, peer, _)) => {
            metrics.handshake(peer.session);
            Some((came(Over::Tls, Some(Rc::new(peer))), io))
        }
        Ok(Entered::Nobody) => None,
        Err(error) => {
            worker.not_entered(from, &error);
            None
        }
    }
}

/// Says whether the app takes connections, by how this one ends.
async fn answer_check(worker: &Worker, app: &InboundApp, mut io: Io) {
    let connected = match app.checks.admit_connection() {
        Ok(_permit) => connect(worker, app).await.is_ok(),
        Err(_) => false,
    };
    let found = if connected { Found::Passed } else { Found::Failed };
    worker.recorder.metrics().health_check_answered(found);
    // One that can't be told any more has left.
    if !connected || io.shutdown().await.is_err() {
        io.end_with_reset();
    }
}

/// A connection to the app. One that it does not take has its port checked at once, so that callers hear of it.
async fn connect(worker: &Worker, app: &InboundApp) -> Result<Io, ProxyError> {
    let connected = open(app).await;
    if connected.is_err() {
        worker.health.refused(app.port);
    }
    connected
}

async fn open(app: &InboundApp) -> Result<Io, ProxyError> {
    let endpoint = app.address;
    let failed = |source| ProxyError::Connect { endpoint, source };
    let stream = match timeout(CONNECT_TIMEOUT, TcpStream::connect(endpoint)).await {
        Ok(connected) => connected.map_err(failed)?,
        Err(_) => {
            return Err(ProxyError::ConnectTimeout {
                endpoint,
                limit: CONNECT_TIMEOUT,
            });
        }
    };
    stream.set_nodelay(true).map_err(failed)?;
    Ok(Io::Tcp(stream))
}
