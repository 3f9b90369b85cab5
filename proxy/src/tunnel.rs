//! What comes after an answer that ends HTTP on its connection or stream: bytes both ways, or what is within a CONNECT.

use std::time::Duration;

use http::{HeaderValue, Response};
use hyper::body::Incoming;
use weir_policy::deadline::Deadline;
use weir_policy::names::ListenerName;

use crate::drain::Drain;
use crate::exchange::{Attempt, Exchange};
use crate::http::body::ResponseBody;
use crate::http::io::TunnelIo;
use crate::http::upstream::Switched;
use crate::metrics::TunnelGuard;
use crate::relay::{RelayEnd, relay};

/// How long nothing may cross a tunnel, either way. An app that means to be silent for longer sends pings, as it has to
/// for every NAT on its way; who is silent for longer is gone without a word.
pub(crate) const IDLE_MAX: Duration = Duration::from_secs(3600);

/// How a connection goes on after an answer.
pub(crate) enum GoesOn {
    /// As bytes both ways.
    Tunnel(Tunnel),
    /// As a connection to this service, and to no other.
    Inside(ListenerName),
}

impl GoesOn {
    /// The protocol that the answer switches to; `None`: it does not say.
    pub(crate) fn protocol(&self) -> Option<&HeaderValue> {
        match self {
            GoesOn::Tunnel(tunnel) => Some(&tunnel.upstream.protocol),
            GoesOn::Inside(_) => None,
        }
    }
}

/// Bytes both ways, as soon as the downstream has its answer. The request is recorded when they end, and what it holds
/// is held as long.
pub(crate) struct Tunnel {
    upstream: Box<Switched>,
    /// `None`: its end is recorded.
    exchange: Option<Box<Exchange>>,
    _counted: TunnelGuard,
}

/// The answer of an attempt as the downstream gets it: with its body, or with the tunnel that comes in its place.
pub(crate) fn answer(
    mut exchange: Box<Exchange>,
    response: Response<Incoming>,
    mut attempt: Attempt,
    until: Deadline,
) -> Response<ResponseBody> {
    let Some(upstream) = attempt.lease.take_switched() else {
        exchange.answered(attempt, until);
        return response.map(|body| ResponseBody::streamed(body, exchange));
    };
    let counted = exchange.goes_on(attempt);
    response.map(|_| {
        ResponseBody::goes_on(GoesOn::Tunnel(Tunnel {
            upstream,
            exchange: Some(exchange),
            _counted: counted,
        }))
    })
}

/// The answer to a CONNECT to that service.
pub(crate) fn inside(name: ListenerName) -> Response<ResponseBody> {
    Response::new(ResponseBody::goes_on(GoesOn::Inside(name)))
}

impl Tunnel {
    /// Carries bytes to and from the downstream until both sides have ended, one breaks off, nothing crosses for
    /// [`IDLE_MAX`], or the time of a drain is over.
    ///
    /// # Cancel safety
    /// Dropped, both sides are closed, and the request is recorded as left by its downstream.
    pub(crate) async fn carry(mut self, mut downstream: TunnelIo, mut drain: Drain) {
        let upstream = &mut self.upstream.io;
        let relayed = relay(&mut downstream, upstream, Some(IDLE_MAX), &mut drain, |_, _| {}).await;
        if !matches!(relayed.end, RelayEnd::Finished) {
            // What was cut off must not look whole, on either side.
            downstream.end_with_reset();
            upstream.end_with_reset();
        }
        if let Some(exchange) = self.exchange.take() {
            exchange.relayed(relayed, IDLE_MAX);
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if let Some(exchange) = self.exchange.take() {
            self.upstream.io.end_with_reset();
            exchange.downstream_left();
        }
    }
}
