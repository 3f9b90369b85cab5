//! Connections to upstreams: opened, pooled for one worker, and lent to one request at a time (HTTP/1.1) or shared by
//! many (HTTP/2). hyper is behind this; what a failure says about whether the peer may have seen the request is decided
//! here and nowhere else.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use foldhash::fast::RandomState;
use http::header::TRANSFER_ENCODING;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;
use weir_policy::breaker::{Breaker, ConnectionPermit, Refusal};
use weir_policy::model::ConnectionPool;
use weir_policy::retry::{Reused, Sent};
use weir_policy::spiffe::SpiffeId;

use crate::http::body::RequestBody;
use crate::http::h1::parse::elements;
use crate::http::io::{Begun, CountedIo, Crossed, Io, TunnelIo};
use crate::identity::Identity;
use crate::metrics::{ConnectionGuard, Side, WorkerMetrics};
use crate::record::Direction;
use crate::tls::backend::Client;
use crate::tls::{self, Security, TlsFailure};

mod streams;
#[cfg(test)]
mod tests;

use streams::{Driven, Expects, Http2Connection, Http2Connections};

/// The most a peer's header block may hold, per connection.
pub(crate) const HEAD_BYTES_MAX: usize = 64 * 1024;

/// How long a connection that was given back may take until it can carry the next request. One that can't after this
/// has a peer that answered and does not read the rest of what it was sent: closed, it costs no request its connect
/// timeout.
const READY_WITHIN: Duration = Duration::from_millis(10);

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Wire {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 in cleartext, by prior knowledge.
    Http2,
}

impl Wire {
    pub(crate) fn version(self) -> Version {
        match self {
            Wire::Http1 => Version::HTTP_11,
            Wire::Http2 => Version::HTTP_2,
        }
    }
}

/// Where a connection leads, and under whose limits it stands.
pub(crate) struct Target<'a> {
    pub(crate) address: SocketAddr,
    pub(crate) wire: Wire,
    pub(crate) breaker: &'a Arc<Breaker>,
    /// Toward which side, for the count of connections.
    pub(crate) direction: Direction,
    pub(crate) connect_timeout: Duration,
    /// How its connections are kept.
    pub(crate) keep: ConnectionPool,
    /// How it is reached, and who must be there.
    pub(crate) security: &'a Security,
    /// Whether it may have carried requests before.
    pub(crate) reuse: Reuse,
}

/// Whether a request may go by an HTTP/1.1 connection that has carried others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reuse {
    /// It may.
    Allowed,
    /// It may not: it ends with the connection, and one that the peer has just closed as idle would cost it.
    No,
}

/// Why there is no connection.
#[derive(Clone, Debug)]
pub(crate) enum ConnectError {
    /// A limit of the cluster.
    Refused(Refusal),
    /// It took longer than the connect timeout.
    TimedOut,
    /// The system said no.
    Failed(io::ErrorKind, String),
    /// TLS said no.
    Tls(TlsFailure, String),
}

/// Why an attempt on a connection has no answer.
#[derive(Debug)]
pub(crate) struct SendError {
    /// Whether the peer may have seen the request.
    pub(crate) sent: Sent,
    /// What kind of end it was.
    pub(crate) end: End,
    /// What hyper or h2 said.
    pub(crate) detail: String,
}

/// How a connection or stream ended without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Closed or reset by the peer, or by the system.
    Closed,
    /// What came back was not HTTP.
    NotHttp,
}

/// The connections of one worker.
pub(crate) struct Upstreams {
    metrics: Arc<WorkerMetrics>,
    /// Who we are; `None`: all is in cleartext.
    own: Option<Identity>,
    pools: RefCell<HashMap<PoolKey, Rc<Pool>, RandomState>>,
}

/// Pools are apart by breaker, not only by address: two clusters may share an endpoint and have limits of their own.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct PoolKey {
    /// The breaker's address: unique for as long as the pool holds the breaker.
    breaker: *const Breaker,
    address: SocketAddr,
    wire: Wire,
}

struct Pool {
    metrics: Arc<WorkerMetrics>,
    direction: Direction,
    breaker: Arc<Breaker>,
    address: SocketAddr,
    wire: Wire,
    /// How its connections are secured; `None`: not at all.
    secured: Option<Secured>,
    /// HTTP/1.1 connections with nothing under way, the last used at the end.
    idle: RefCell<Vec<Idle>>,
    /// Rings when a connection under the same breaker becomes idle or ends; all such pools have it in common.
    freed: Rc<Notify>,
    http2: Http2Connections,
    /// As the last request wanted it.
    keep: Cell<ConnectionPool>,
    /// Requests that hold a lease or wait for one.
    in_use: Cell<usize>,
    /// When one of them last ended.
    last_used: Cell<Instant>,
}

/// Who we are on a pool's connections, and who must be at the other end.
enum Secured {
    /// A workload of the mesh.
    Mutual {
        own: Identity,
        /// Another handle to the same after a change of endpoints.
        peer: RefCell<Arc<SpiffeId>>,
    },
    /// Whom a policy names.
    Backend(Arc<Client>),
}

struct Idle {
    connection: Http1Connection,
    since: Instant,
}

struct Http1Connection {
    sender: http1::SendRequest<RequestBody>,
    crossed: Crossed,
    /// Requests that it was lent to.
    requests: u32,
    /// When a certificate by which it was opened ends; `None`: there is none.
    ends: Option<Instant>,
    heir: Heir,
}

/// Who gets the stream of an HTTP/1.1 connection that goes on as something else; otherwise it is closed.
type Heir = Rc<RefCell<Option<oneshot::Sender<(Begun, Open)>>>>;

/// A connection lent to one request. Dropped, an HTTP/1.1 connection is closed; [`Lease::release`] gives it back.
pub(crate) struct Lease {
    connection: Connection,
    reused: Reused,
    in_use: InUse,
    /// Boxed, as few have one.
    switched: Option<Box<Switched>>,
}

enum Connection {
    Http1(Http1Connection),
    Http2(Http2Stream),
}

/// A place on an HTTP/2 connection, given back when dropped.
struct Http2Stream {
    connection: Http2Connection,
    pool: Rc<Pool>,
}

impl Upstreams {
    /// None yet. `own`: who we are where an identity is expected; without, all is in cleartext.
    pub(crate) fn new(metrics: Arc<WorkerMetrics>, own: Option<Identity>) -> Upstreams {
        Upstreams {
            metrics,
            own,
            pools: RefCell::default(),
        }
    }

    /// A connection to the target: one that is idle or shared, or a new one. Waits at most the target's connect
    /// timeout.
    ///
    /// # Cancel safety
    /// Dropped while it waits, it leaves nothing behind; an HTTP/2 connection that others wait for is opened all the
    /// same.
    pub(crate) async fn lease(&self, target: &Target<'_>) -> Result<Lease, ConnectError> {
        let in_use = InUse::enter(&self.pool(target));
        // What is there is lent at once. To wait and to connect takes a large future, which every request would carry
        // and copy: only those that need it pay for it, with a box.
        match target.wire {
            Wire::Http1 => match in_use.0.take_ready(target.reuse) {
                Some(connection) => Ok(Lease::http1(connection, Reused::Yes, in_use)),
                None => Box::pin(self.lease_http1(in_use, target)).await,
            },
            Wire::Http2 => match in_use.0.http2.with_room(&target.keep) {
                Some(connection) => Ok(Lease::http2(connection, in_use)),
                None => Box::pin(self.lease_http2(in_use, target)).await,
            },
        }
    }

    /// Closes what has been idle too long or is dead, and forgets pools without use. Called now and then.
    pub(crate) fn sweep(&self, now: Instant) {
        self.pools.borrow_mut().retain(|_, pool| {
            let idle_max = pool.keep.get().idle_timeout;
            pool.idle.borrow_mut().retain(|idle| {
                !idle.connection.sender.is_closed() && now.saturating_duration_since(idle.since) < idle_max
            });
            pool.http2.sweep(&pool.keep.get(), now);
            let unused = now.saturating_duration_since(pool.last_used.get()) >= idle_max;
            // Nothing but this pool knows its breaker: the cluster is gone, or changed so much that it got a new one.
            let orphan = Arc::strong_count(&pool.breaker) == 1;
            pool.in_use.get() > 0 || !(unused || orphan)
        });
    }

    fn pool(&self, target: &Target<'_>) -> Rc<Pool> {
        let key = PoolKey {
            breaker: Arc::as_ptr(target.breaker),
            address: target.address,
            wire: target.wire,
        };
        let mut pools = self.pools.borrow_mut();
        if pools
            .get(&key)
            .is_some_and(|pool| !pool.is_secured(self.own.as_ref(), target.security))
        {
            // Somebody else is there now: what is under way with who was before ends by itself.
            pools.remove(&key);
        }
        if let Some(pool) = pools.get(&key) {
            if pool.keep.replace(target.keep) != target.keep {
                pool.http2.kept_otherwise();
            }
            return Rc::clone(pool);
        }
        let sibling = pools.values().find(|pool| Arc::ptr_eq(&pool.breaker, target.breaker));
        let freed = sibling.map_or_else(Rc::default, |pool| Rc::clone(&pool.freed));
        let pool = pools.entry(key).or_insert_with(|| {
            Rc::new(Pool {
                metrics: Arc::clone(&self.metrics),
                direction: target.direction,
                breaker: Arc::clone(target.breaker),
                address: target.address,
                wire: target.wire,
                secured: match (target.security, &self.own) {
                    (Security::Cleartext, _) | (Security::Mutual(_), None) => None,
                    (Security::Mutual(peer), Some(own)) => Some(Secured::Mutual {
                        own: own.clone(),
                        peer: RefCell::new(Arc::clone(peer)),
                    }),
                    (Security::Backend(client), _) => Some(Secured::Backend(Arc::clone(client))),
                },
                idle: RefCell::default(),
                freed,
                http2: Http2Connections::default(),
                keep: Cell::new(target.keep),
                in_use: Cell::new(0),
                last_used: Cell::new(Instant::now()),
            })
        });
        Rc::clone(pool)
    }

    async fn lease_http1(&self, in_use: InUse, target: &Target<'_>) -> Result<Lease, ConnectError> {
        let pool = Rc::clone(&in_use.0);
        let deadline = Instant::now() + target.connect_timeout;
        if let Some(connection) = pool.take_idle(target.reuse).await {
            return Ok(Lease::http1(connection, Reused::Yes, in_use));
        }
        let _pending = target.breaker.admit_pending().map_err(ConnectError::Refused)?;
        loop {
            let freed = pool.freed.notified();
            if let Some(connection) = pool.take_idle(target.reuse).await {
                return Ok(Lease::http1(connection, Reused::Yes, in_use));
            }
            match pool.slot() {
                Ok(slot) => {
                    let connection = within(deadline, open_http1(&pool, slot)).await?;
                    return Ok(Lease::http1(connection, Reused::No, in_use));
                }
                Err(refusal) => {
                    self.close_unused(target.breaker);
                    if tokio::time::timeout_at(deadline, freed).await.is_err() {
                        return Err(ConnectError::Refused(refusal));
                    }
                }
            }
        }
    }

    async fn lease_http2(&self, in_use: InUse, target: &Target<'_>) -> Result<Lease, ConnectError> {
        let pool = Rc::clone(&in_use.0);
        // Before anything is opened for it: one that may not wait leaves no connection behind that nobody asked for.
        let _pending = target.breaker.admit_pending().map_err(ConnectError::Refused)?;
        let deadline = Instant::now() + target.connect_timeout;
        let mut rung = false;
        loop {
            let (room, freed) = (pool.http2.room(), pool.freed.notified());
            if let Some(connection) = pool.http2.with_room(&target.keep) {
                pool.pass_on(&mut rung);
                return Ok(Lease::http2(connection, in_use));
            }
            let opening = pool.http2_opening(target.connect_timeout, &mut rung);
            pool.pass_on(&mut rung);
            let full = match opening {
                Ok(expects) => {
                    pool.http2_opened(expects, deadline).await?;
                    continue;
                }
                Err(full) => full,
            };
            let waits_for_a_place = match full {
                Full::Connections(_) => {
                    self.close_unused(target.breaker);
                    true
                }
                // Another connection would take no more.
                Full::Peer => false,
            };
            // Both bells are cancel safe: who is dropped with one that rang for it passes it on.
            tokio::select! {
                () = room => {}
                () = freed, if waits_for_a_place => rung = true,
                () = tokio::time::sleep_until(deadline) => {
                    return Err(match full {
                        Full::Connections(refusal) => ConnectError::Refused(refusal),
                        Full::Peer => ConnectError::TimedOut,
                    });
                }
            }
        }
    }

    /// At the limit of a breaker's connections, those that nobody uses make room: they may lead to other endpoints than
    /// the one that is asked for. Their end rings [`Pool::freed`].
    fn close_unused(&self, breaker: &Arc<Breaker>) {
        let pools = self.pools.borrow();
        for pool in pools.values().filter(|pool| Arc::ptr_eq(&pool.breaker, breaker)) {
            pool.idle.borrow_mut().clear();
            pool.http2.close_unused();
        }
    }
}

/// What is wrong with an answer that hyper has read; `asked`: an interim status that the request asks for as its
/// answer.
fn unfit(answer: &Response<Incoming>, asked: Option<StatusCode>) -> Option<&'static str> {
    let status = answer.status();
    if status.is_informational() && asked != Some(status) {
        // RFC 9110 section 15.2.2: a server switches to what it was asked for.
        return Some("it switches protocols, and nobody asked for it");
    }
    // Of other codings than chunked the content would keep the coding and lose the field that names it (RFC 9112
    // section 6.1): the coding is of this hop.
    let values = answer.headers().get_all(TRANSFER_ENCODING).iter();
    let mut codings = values.flat_map(|value| elements(value.as_bytes()));
    match (codings.next(), codings.next()) {
        (None, _) => None,
        (Some(only), None) if only.eq_ignore_ascii_case(b"chunked") => None,
        (Some(_), _) => Some("its Transfer-Encoding is another than chunked alone"),
    }
}

async fn open_http1(pool: &Rc<Pool>, slot: Slot) -> Result<Http1Connection, ConnectError> {
    let Connected { io, crossed, ends } = connect(pool).await?;
    let (sender, mut connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .handshake(TokioIo::new(io))
        .await
        .map_err(|error| ConnectError::Failed(io::ErrorKind::Other, error.to_string()))?;
    let open = Open {
        _slot: slot,
        _counted: pool.metrics.connection(pool.direction, Side::Upstream),
    };
    let heir = Heir::default();
    let inherits = Rc::clone(&heir);
    tokio::task::spawn_local(async move {
        // How it ended is told to the request that was on it; an idle connection's end is nobody's loss.
        let ended = poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
        let http1::Parts { io, read_buf, .. } = connection.into_parts();
        let mut io = io.into_inner().into_inner();
        match (ended, inherits.take()) {
            (Ok(()), Some(heir)) => {
                let ahead = BytesMut::from(read_buf);
                let _ = heir.send((Begun::new(ahead, io), open));
            }
            (Ok(()), None) => {
                let _ = io.shutdown().await;
                drop(open);
            }
            (Err(_), _) => drop(open),
        }
    });
    Ok(Http1Connection {
        sender,
        crossed,
        requests: 0,
        ends,
        heir,
    })
}

/// What an open connection holds: its place under the limit, and its count.
#[derive(Debug)]
pub(crate) struct Open {
    _slot: Slot,
    _counted: ConnectionGuard,
}

/// The upstream's side of what goes on as something else than HTTP.
pub(crate) struct Switched {
    /// What it goes on as, in the words of HTTP/1.1.
    pub(crate) protocol: HeaderValue,
    /// The connection as a whole, or a stream of it.
    pub(crate) io: TunnelIo,
    /// For as long as a connection as a whole is open.
    _open: Option<Open>,
}

/// Why a request has to wait for others to end.
enum Full {
    /// No more connections may be opened.
    Connections(Refusal),
    /// The peer takes no request at all on a connection, as things stand.
    Peer,
}

impl Pool {
    /// Whether its connections are secured so.
    fn is_secured(&self, own: Option<&Identity>, expect: &Security) -> bool {
        let (held, peer) = match (&self.secured, expect) {
            (None, Security::Cleartext) => return true,
            (None, Security::Mutual(_)) => return own.is_none(),
            (Some(Secured::Mutual { own: _, peer: held }), Security::Mutual(peer)) => (held, peer),
            // One for as long as the policy says the same.
            (Some(Secured::Backend(held)), Security::Backend(client)) => return Arc::ptr_eq(held, client),
            (None, Security::Backend(_))
            | (Some(Secured::Mutual { .. }), Security::Cleartext | Security::Backend(_))
            | (Some(Secured::Backend(_)), Security::Cleartext | Security::Mutual(_)) => return false,
        };
        let mut held = held.borrow_mut();
        if Arc::ptr_eq(&held, peer) {
            return true;
        }
        let same = *held == *peer;
        if same {
            // The next comparison is one of addresses again.
            *held = Arc::clone(peer);
        }
        same
    }

    /// Of the idle connections that are ready the one used last: it is the likeliest to be open still, and the others
    /// can age out.
    fn take_ready(&self, reuse: Reuse) -> Option<Http1Connection> {
        if reuse == Reuse::No {
            return None;
        }
        let mut idle = self.idle.borrow_mut();
        if self.secured.is_some() {
            let now = Instant::now();
            idle.retain(|idle| idle.connection.ends.is_none_or(|ends| now < ends));
        }
        let ready = idle.iter().rposition(|idle| idle.connection.sender.is_ready())?;
        let idle_max = self.keep.get().idle_timeout;
        if idle.get(ready).is_some_and(|idle| idle.since.elapsed() >= idle_max) {
            // Those before it have been idle longer.
            idle.drain(..=ready);
            return None;
        }
        Some(idle.remove(ready).connection)
    }

    /// As [`Pool::take_ready`]; one whose answer has just been read may need a moment more.
    async fn take_idle(&self, reuse: Reuse) -> Option<Http1Connection> {
        loop {
            if let Some(connection) = self.take_ready(reuse) {
                return Some(connection);
            }
            if reuse == Reuse::No {
                return None;
            }
            let mut connection = self.idle.borrow_mut().pop()?.connection;
            if let Ok(Ok(())) = tokio::time::timeout(READY_WITHIN, connection.sender.ready()).await {
                return Some(connection);
            }
        }
    }

    fn slot(&self) -> Result<Slot, Refusal> {
        Ok(Slot {
            permit: Some(self.breaker.admit_connection()?),
            freed: Rc::clone(&self.freed),
        })
    }

    /// A place was free and is not taken by the request that the bell rang for: whoever waits for one is told instead.
    fn pass_on(&self, rung: &mut bool) {
        if std::mem::take(rung) {
            self.freed.notify_one();
        }
    }

    /// An HTTP/2 connection that is being opened and is likely to have room. Where there is none, one begins to be
    /// opened by a task of its own, since several requests of the worker will share it and the first to ask may leave.
    /// `rung`: a place was free; no longer, if one was asked for.
    fn http2_opening(self: &Rc<Self>, connect_timeout: Duration, rung: &mut bool) -> Result<Expects<'_>, Full> {
        let keep = self.keep.get();
        if self.http2.likely_room(&keep) == 0 {
            return Err(Full::Peer);
        }
        if let Some(expects) = self.http2.expect(&keep) {
            return Ok(expects);
        }
        *rung = false;
        let slot = self.slot().map_err(Full::Connections)?;
        let (tell, outcome) = watch::channel(None);
        let (pool, opening) = (Rc::clone(self), outcome.clone());
        tokio::task::spawn_local(async move {
            let opened = within(Instant::now() + connect_timeout, open_http2(&pool, slot)).await;
            pool.http2.opened(&opening, opened.as_ref().ok().cloned());
            pool.last_used.set(Instant::now());
            tell.send_replace(Some(opened));
        });
        Ok(self.http2.opens(outcome))
    }

    /// Waits for a connection that is being opened, until `deadline`.
    async fn http2_opened(&self, mut expects: Expects<'_>, deadline: Instant) -> Result<(), ConnectError> {
        let opened = expects.outcome.wait_for(Option::is_some);
        let outcome = match tokio::time::timeout_at(deadline, opened).await {
            Ok(Ok(outcome)) => outcome.clone(),
            // The task that opens it ended without a word: the worker is stopping.
            Ok(Err(_)) => Some(Err(ConnectError::Failed(
                io::ErrorKind::ConnectionAborted,
                "the proxy is stopping".to_owned(),
            ))),
            Err(_) => Some(Err(ConnectError::TimedOut)),
        };
        match outcome {
            Some(Err(error)) => Err(error),
            // To open another one here would never end with a peer that accepts and hangs up, whatever becomes of the
            // others that it has; how often it is tried is decided where all attempts are counted.
            Some(Ok(connection)) if connection.sender.is_closed() => Err(ConnectError::Failed(
                io::ErrorKind::ConnectionReset,
                "the connection was closed as soon as it was opened".to_owned(),
            )),
            Some(Ok(_)) | None => Ok(()),
        }
    }
}

/// An HTTP/2 connection is open once the peer's own preface has come (RFC 9113 section 3.4): a process that dies while
/// the kernel still accepts for it has then provably seen no request, and the request goes elsewhere.
async fn open_http2(pool: &Rc<Pool>, slot: Slot) -> Result<Http2Connection, ConnectError> {
    let Connected { io, crossed, ends } = connect(pool).await?;
    let (sender, connection) = http2::Builder::new(LocalExecutor)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
        .timer(hyper_util::rt::TokioTimer::new())
        // A peer that is gone without a word is noticed even while nothing else would be sent.
        .keep_alive_interval(Some(Duration::from_secs(10)))
        .keep_alive_timeout(Duration::from_secs(10))
        .handshake(TokioIo::new(io))
        .await
        .map_err(|error| ConnectError::Failed(io::ErrorKind::Other, error.to_string()))?;
    let counted = pool.metrics.connection(pool.direction, Side::Upstream);
    let (tell, ended) = oneshot::channel();
    let driven: Driven = Rc::new(RefCell::new(Some(connection)));
    let drives = Rc::clone(&driven);
    tokio::task::spawn_local(async move {
        let ended = poll_fn(|cx| match &mut *drives.borrow_mut() {
            Some(connection) => Pin::new(connection).poll(cx),
            None => Poll::Ready(Ok(())),
        })
        .await;
        drop(drives.take());
        drop((slot, counted));
        // After the peer's preface nobody asks: requests are told themselves.
        let _ = tell.send(ended);
    });
    tokio::select! {
        () = crossed.first_received() => Ok(Http2Connection::new(sender, driven, ends)),
        ended = ended => Err(match ended {
            // A server tells by TLS that it refuses our certificate when the handshake is over for us.
            Ok(Err(error)) if pool.secured.is_some() && tls::ended(&error) => {
                ConnectError::Tls(TlsFailure::Alert, in_full(&error))
            }
            Ok(_) | Err(_) => ConnectError::Failed(
                io::ErrorKind::ConnectionReset,
                "the connection was closed before the peer's preface".to_owned(),
            ),
        }),
    }
}

/// A stream to an endpoint that is who it should be.
struct Connected {
    io: CountedIo,
    crossed: Crossed,
    /// When a certificate by which it was opened ends.
    ends: Option<Instant>,
}

async fn connect(pool: &Pool) -> Result<Connected, ConnectError> {
    let failed = |error: io::Error| ConnectError::Failed(error.kind(), error.to_string());
    let stream = TcpStream::connect(pool.address).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let (io, ends) = match &pool.secured {
        None => (Io::Tcp(stream), None),
        Some(Secured::Backend(client)) => {
            let connected = client.connect(stream).await;
            let io = connected.map_err(|error| ConnectError::Tls(error.failure(), error.to_string()))?;
            (io, None)
        }
        Some(Secured::Mutual { own, peer }) => {
            let peer = Arc::clone(&peer.borrow());
            let connected = tls::connect(stream, own, &peer, pool.wire.into()).await;
            let (io, ends) = connected.map_err(|error| ConnectError::Tls(error.failure(), error.to_string()))?;
            (io, Some(ends))
        }
    };
    let (io, crossed) = CountedIo::new(io);
    Ok(Connected { io, crossed, ends })
}

async fn within<T>(
    deadline: Instant,
    future: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, ConnectError> {
    match tokio::time::timeout_at(deadline, future).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError::TimedOut),
    }
}

impl Lease {
    fn http1(mut connection: Http1Connection, reused: Reused, in_use: InUse) -> Lease {
        connection.requests = connection.requests.saturating_add(1);
        Lease {
            connection: Connection::Http1(connection),
            reused,
            in_use,
            switched: None,
        }
    }

    fn http2(connection: Http2Connection, in_use: InUse) -> Lease {
        let before = connection.begin();
        let stream = Http2Stream {
            connection,
            pool: Rc::clone(&in_use.0),
        };
        Lease {
            connection: Connection::Http2(stream),
            reused: if before == 0 { Reused::No } else { Reused::Yes },
            in_use,
            switched: None,
        }
    }

    /// Which identity of the mesh is at the other end, by its certificate; `None`: there is none.
    pub(crate) fn peer(&self) -> Option<Arc<SpiffeId>> {
        match self.in_use.0.secured.as_ref()? {
            Secured::Mutual { own: _, peer } => Some(Arc::clone(&peer.borrow())),
            Secured::Backend(_) => None,
        }
    }

    /// What is spoken on it.
    pub(crate) fn wire(&self) -> Wire {
        match &self.connection {
            Connection::Http1(_) => Wire::Http1,
            Connection::Http2(_) => Wire::Http2,
        }
    }

    /// Sends a request, whose head is right for [`Lease::wire`], and waits for the answer's head.
    ///
    /// # Cancel safety
    /// Dropped while it waits, the stream is reset (HTTP/2) or the connection closed (HTTP/1.1).
    pub(crate) async fn send(&mut self, request: Request<RequestBody>) -> Result<Response<Incoming>, SendError> {
        let reused = self.reused;
        match &mut self.connection {
            Connection::Http1(connection) => {
                let before = (connection.crossed.sent_bytes(), connection.crossed.received_bytes());
                // Who goes on as something else gets the stream before the answer is here.
                let asked = connection.heir.borrow().is_some();
                let sending = connection.sender.try_send_request(request);
                let answered = sending.await.map_err(|failed| {
                    let crossed = &connection.crossed;
                    let untouched = failed.message().is_some() || crossed.sent_bytes() == before.0;
                    let sent = match (untouched, crossed.received_bytes() == before.1) {
                        (true, _) => Sent::No,
                        (false, true) => Sent::Maybe { reused },
                        // Part of an answer came: the peer has seen the request, however the connection was used
                        // before.
                        (false, false) => Sent::Maybe { reused: Reused::No },
                    };
                    SendError::new(sent, failed.error())
                })?;
                match unfit(&answered, asked.then_some(StatusCode::SWITCHING_PROTOCOLS)) {
                    None => Ok(answered),
                    Some(why) => Err(SendError {
                        sent: Sent::Maybe { reused: Reused::No },
                        end: End::NotHttp,
                        detail: why.to_owned(),
                    }),
                }
            }
            Connection::Http2(stream) => {
                let sending = stream.connection.sender.try_send_request(request);
                sending.await.map_err(|failed| {
                    let sent = match (failed.message().is_some(), h2_end(failed.error())) {
                        (true, _) => Sent::No,
                        (false, Http2End::Unprocessed) => Sent::Refused,
                        // The peer took the request and gave it up; its connection is well, so that it was being closed
                        // as idle is no excuse.
                        (false, Http2End::StreamReset) => Sent::Maybe { reused: Reused::No },
                        (false, Http2End::Connection) => Sent::Maybe { reused },
                    };
                    SendError::new(sent, failed.error())
                })
            }
        }
    }

    /// Whether the peer takes extended CONNECT (RFC 8441 section 3); an HTTP/1.1 connection needs none.
    pub(crate) fn takes_extended_connect(&self) -> bool {
        match &self.connection {
            Connection::Http1(_) => true,
            Connection::Http2(stream) => stream.connection.takes_extended_connect(),
        }
    }

    /// Sends a request that asks to go on as something else, as [`Lease::send`]. `goes_on` tells whether an answer
    /// does, and as what; then the stream is kept for [`Lease::take_switched`].
    pub(crate) async fn send_upgrade<E>(
        &mut self,
        request: Request<RequestBody>,
        goes_on: impl FnOnce(&Response<Incoming>) -> Result<Option<HeaderValue>, E>,
    ) -> Result<Response<Incoming>, UpgradeError<E>> {
        let mut inherits = None;
        if let Connection::Http1(connection) = &self.connection {
            let (heir, inherited) = oneshot::channel();
            connection.heir.replace(Some(heir));
            inherits = Some(inherited);
        }
        let mut response = self.send(request).await.map_err(UpgradeError::Send)?;
        let goes_on = goes_on(&response);
        if !matches!(goes_on, Ok(Some(_)))
            && let Connection::Http1(connection) = &self.connection
        {
            connection.heir.take();
        }
        let Some(protocol) = goes_on.map_err(UpgradeError::Answer)? else {
            return Ok(response);
        };
        let (io, open) = match inherits {
            Some(inherited) => {
                let inherited = inherited.await;
                let (io, open) = inherited.map_err(|_| UpgradeError::Ended("it is closed".to_owned()))?;
                (TunnelIo::Connection(io), Some(open))
            }
            None => {
                let stream = hyper::upgrade::on(&mut response).await;
                let stream = stream.map_err(|error| UpgradeError::Ended(in_full(&error)))?;
                (TunnelIo::Stream(TokioIo::new(stream), None), None)
            }
        };
        self.switched = Some(Box::new(Switched {
            protocol,
            io,
            _open: open,
        }));
        Ok(response)
    }

    /// Whether an answer has come that goes on as something else.
    pub(crate) fn has_switched(&self) -> bool {
        self.switched.is_some()
    }

    /// The stream that goes on, after an answer that does.
    pub(crate) fn take_switched(&mut self) -> Option<Box<Switched>> {
        self.switched.take()
    }

    /// Gives the connection back after an answer that was read to its end and a request that was sent to its end: an
    /// HTTP/1.1 connection is then idle, or about to be.
    pub(crate) fn release(self) {
        let pool = self.in_use.0.clone();
        if let Connection::Http1(connection) = self.connection {
            let limit = pool.keep.get().max_requests_per_connection;
            let spent = limit.is_some_and(|limit| connection.requests >= limit);
            if !connection.sender.is_closed() && !spent {
                pool.idle.borrow_mut().push(Idle {
                    connection,
                    since: Instant::now(),
                });
            }
            pool.freed.notify_one();
        }
    }
}

/// Why an attempt to go on as something else has no answer.
#[derive(Debug)]
pub(crate) enum UpgradeError<E> {
    /// As with any request.
    Send(SendError),
    /// The answer is none to what was asked.
    Answer(E),
    /// It is, and the connection is gone.
    Ended(String),
}

impl SendError {
    fn new(sent: Sent, error: &hyper::Error) -> SendError {
        SendError {
            sent,
            end: if error.is_parse() { End::NotHttp } else { End::Closed },
            detail: in_full(error),
        }
    }
}

/// How a request on an HTTP/2 connection ended without an answer.
enum Http2End {
    /// The peer said that it did not process it: REFUSED_STREAM (RFC 9113 section 8.7), or a GOAWAY whose last stream
    /// is below it (section 6.8; h2 gives the peer's GOAWAY to just those streams).
    Unprocessed,
    /// The peer reset its stream.
    StreamReset,
    /// With its connection, or by our own side.
    Connection,
}

fn h2_end(error: &hyper::Error) -> Http2End {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            let refused = error.reason() == Some(h2::Reason::REFUSED_STREAM);
            return match (error.is_remote(), error.is_reset(), error.is_go_away()) {
                (true, true, _) if refused => Http2End::Unprocessed,
                (true, true, _) => Http2End::StreamReset,
                (true, false, true) => Http2End::Unprocessed,
                (true, false, false) | (false, _, _) => Http2End::Connection,
            };
        }
        source = error.source();
    }
    Http2End::Connection
}

/// An error with its causes.
fn in_full(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// The place of a connection under its breaker's limit. Dropped, one that waits for a place is told, however the
/// connection ended or failed to begin.
#[derive(Debug)]
struct Slot {
    permit: Option<ConnectionPermit>,
    freed: Rc<Notify>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        drop(self.permit.take());
        self.freed.notify_one();
    }
}

/// Counts a request as using a pool for as long as it lives.
struct InUse(Rc<Pool>);

impl InUse {
    fn enter(pool: &Rc<Pool>) -> InUse {
        pool.in_use.set(pool.in_use.get() + 1);
        InUse(Rc::clone(pool))
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.in_use.set(self.0.in_use.get() - 1);
        self.0.last_used.set(Instant::now());
    }
}

impl Drop for Http2Stream {
    fn drop(&mut self) {
        let left = self.connection.end();
        self.pool.http2.made_room();
        // A connection that nobody uses any more makes room for one to another endpoint.
        if left == 0 {
            self.pool.freed.notify_one();
        }
    }
}

/// Runs a connection's tasks on the worker's own thread; the worker's `LocalSet` owns them and ends them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

/// How much one stream may send ahead of its reader: the most a stalled reader costs.
pub(crate) const HTTP2_STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// The same for all streams of a connection, which two sidecars have in common: so many stalled readers as have room in
/// it stall nobody else. h2 derives from it how many small frames may wait to be read, and ends the connection of a
/// peer that sends more: half of it, where a frame of less than 256 bytes counts as much as it lacks to that.
pub(crate) const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// The same where it is no sidecar that sends, who may want to fill our memory.
pub(crate) const HTTP2_STRANGER_WINDOW_BYTES: u32 = 1024 * 1024;
