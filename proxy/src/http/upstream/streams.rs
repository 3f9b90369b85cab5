//! The HTTP/2 connections of one pool: which of them takes one more request, and when another one is needed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use weir_policy::model::ConnectionPool;

use super::{ConnectError, LocalExecutor};
use crate::http::body::RequestBody;
use crate::http::io::CountedIo;

/// An open connection. A clone is another handle to it; it ends with the last one and the requests on it.
#[derive(Clone)]
pub(super) struct Http2Connection {
    pub(super) sender: http2::SendRequest<RequestBody>,
    carries: Rc<Carries>,
}

struct Carries {
    /// Requests that it was lent to.
    requests: Cell<u32>,
    /// Those of them that are under way.
    streams: Cell<usize>,
    driven: Driven,
    /// When the last of its requests ended.
    last_used: Cell<Instant>,
    /// When a certificate by which it was opened ends; `None`: there is none.
    ends: Option<Instant>,
}

/// hyper's side of a connection, for the task that drives it, and for what it knows of the peer; `None` once it has
/// ended: as long as it is there, requests are taken for it.
pub(super) type Driven = Rc<RefCell<Option<http2::Connection<TokioIo<CountedIo>, RequestBody, LocalExecutor>>>>;

/// What came of opening a connection; `None`: nothing yet.
pub(super) type Opening = watch::Receiver<Option<Result<Http2Connection, ConnectError>>>;

/// The connections of a pool.
#[derive(Default)]
pub(super) struct Http2Connections {
    /// The oldest first: it is filled first, so that those opened in a rush can age out after it.
    open: RefCell<Vec<Http2Connection>>,
    opening: RefCell<Vec<Expected>>,
    /// Rings when a connection may take one more request.
    room: Notify,
}

struct Expected {
    outcome: Opening,
    /// Requests that wait for it.
    by: usize,
}

/// One request that counts on a connection that is being opened, for as long as this lives.
pub(super) struct Expects<'a> {
    connections: &'a Http2Connections,
    pub(super) outcome: Opening,
}

impl Http2Connection {
    pub(super) fn new(
        sender: http2::SendRequest<RequestBody>,
        driven: Driven,
        ends: Option<Instant>,
    ) -> Http2Connection {
        Http2Connection {
            sender,
            carries: Rc::new(Carries {
                requests: Cell::new(0),
                streams: Cell::new(0),
                driven,
                last_used: Cell::new(Instant::now()),
                ends,
            }),
        }
    }

    /// Takes one request more. Returns how many there were before.
    pub(super) fn begin(&self) -> u32 {
        let Carries { requests, streams, .. } = &*self.carries;
        let before = requests.get();
        requests.set(before.saturating_add(1));
        streams.set(streams.get().saturating_add(1));
        before
    }

    /// A request has ended. Returns how many are left.
    pub(super) fn end(&self) -> usize {
        let Carries { streams, last_used, .. } = &*self.carries;
        streams.set(streams.get().saturating_sub(1));
        last_used.set(Instant::now());
        streams.get()
    }

    /// Whether the peer has said that it takes extended CONNECT (RFC 8441 section 3).
    pub(super) fn takes_extended_connect(&self) -> bool {
        let driven = self.carries.driven.borrow();
        driven
            .as_ref()
            .is_some_and(http2::Connection::is_extended_connect_protocol_enabled)
    }

    fn is_unused(&self) -> bool {
        self.carries.streams.get() == 0
    }

    /// Whether it may be lent again at all, now or later.
    fn is_of_use(&self, keep: &ConnectionPool, now: Instant) -> bool {
        let spent = keep
            .max_requests_per_connection
            .is_some_and(|limit| self.carries.requests.get() >= limit);
        let idle = now.saturating_duration_since(self.carries.last_used.get());
        let stale = self.is_unused() && idle >= keep.idle_timeout;
        let over = self.carries.ends.is_some_and(|ends| now >= ends);
        !(self.sender.is_closed() || spent || stale || over)
    }

    fn has_room(&self, keep: &ConnectionPool) -> bool {
        self.carries.streams.get() < streams_max(keep).min(self.peer_max())
    }

    /// How many requests the peer takes at once: SETTINGS_MAX_CONCURRENT_STREAMS (RFC 9113 section 6.5.2), which it may
    /// change as it likes. That it was raised is noticed when a request begins or ends.
    fn peer_max(&self) -> usize {
        let driven = self.carries.driven.borrow();
        driven.as_ref().map_or(0, http2::Connection::current_max_send_streams)
    }
}

impl Http2Connections {
    /// One that takes another request now. Those that are of no use any more are let go: at the limit of connections,
    /// their end makes room for others.
    pub(super) fn with_room(&self, keep: &ConnectionPool) -> Option<Http2Connection> {
        let now = Instant::now();
        let mut open = self.open.borrow_mut();
        match open.first() {
            Some(first) if first.is_of_use(keep, now) && first.has_room(keep) => Some(first.clone()),
            Some(_) => {
                open.retain(|connection| connection.is_of_use(keep, now));
                open.iter().find(|connection| connection.has_room(keep)).cloned()
            }
            None => None,
        }
    }

    /// How many requests at once a new connection is likely to take: of the peer nothing is known before there is one.
    pub(super) fn likely_room(&self, keep: &ConnectionPool) -> usize {
        let requests = keep.max_requests_per_connection.map_or(usize::MAX, count);
        let newest = self.open.borrow().last().map(Http2Connection::peer_max);
        streams_max(keep).min(requests).min(newest.unwrap_or(usize::MAX))
    }

    /// One that is being opened already and is likely to have room for one request more, which counts on it from now.
    pub(super) fn expect(&self, keep: &ConnectionPool) -> Option<Expects<'_>> {
        let room = self.likely_room(keep);
        let mut opening = self.opening.borrow_mut();
        let expected = opening.iter_mut().find(|expected| expected.by < room)?;
        expected.by += 1;
        Some(Expects {
            connections: self,
            outcome: expected.outcome.clone(),
        })
    }

    /// Another one begins to be opened, for one request so far.
    pub(super) fn opens(&self, outcome: Opening) -> Expects<'_> {
        self.opening.borrow_mut().push(Expected {
            outcome: outcome.clone(),
            by: 1,
        });
        Expects {
            connections: self,
            outcome,
        }
    }

    /// That came to an end.
    pub(super) fn opened(&self, outcome: &Opening, connection: Option<Http2Connection>) {
        let mut opening = self.opening.borrow_mut();
        opening.retain(|expected| !expected.outcome.same_channel(outcome));
        if let Some(connection) = connection {
            self.open.borrow_mut().push(connection);
            self.room.notify_waiters();
        }
    }

    /// Returns when a connection may take one more request.
    pub(super) fn room(&self) -> Notified<'_> {
        self.room.notified()
    }

    /// There is room for one request more.
    pub(super) fn made_room(&self) {
        self.room.notify_one();
    }

    /// There may be room for several, since connections are kept otherwise from now on.
    pub(super) fn kept_otherwise(&self) {
        self.room.notify_waiters();
    }

    /// Closes what nobody uses.
    pub(super) fn close_unused(&self) {
        self.open.borrow_mut().retain(|connection| !connection.is_unused());
    }

    /// Closes what nobody used for so long, or is of no use any more.
    pub(super) fn sweep(&self, keep: &ConnectionPool, now: Instant) {
        let mut open = self.open.borrow_mut();
        open.retain(|connection| connection.is_of_use(keep, now));
    }
}

impl Drop for Expects<'_> {
    fn drop(&mut self) {
        let mut opening = self.connections.opening.borrow_mut();
        let expected = opening
            .iter_mut()
            .find(|expected| expected.outcome.same_channel(&self.outcome));
        if let Some(expected) = expected {
            expected.by = expected.by.saturating_sub(1);
        }
    }
}

fn streams_max(keep: &ConnectionPool) -> usize {
    keep.max_concurrent_streams.map_or(usize::MAX, count)
}

fn count(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}
