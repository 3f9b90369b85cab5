//! Connections from downstreams: HTTP/1 or HTTP/2, told apart by the first bytes, until they end or are drained.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use weir_policy::names::ListenerName;

use crate::drain::Drain;
use crate::http::body::{DownstreamBody, ResponseBody};
use crate::http::h1;
use crate::http::h1::violation::{Refused, Violation};
use crate::http::io::{Begun, Io, SendingTask, TunnelIo};
use crate::http::upstream::{HEAD_BYTES_MAX, HTTP2_STREAM_WINDOW_BYTES};
use crate::tunnel::GoesOn;

/// Requests under way on one HTTP/2 connection: what two sidecars share between them is one connection, so it has to be
/// large; hyper's own default is 200.
const HTTP2_STREAMS_MAX: u32 = 1024;

/// What answers the requests of a connection.
pub(crate) trait Service: 'static {
    /// See [`Service::answer`].
    type Answer: Future<Output = Response<ResponseBody>> + 'static;

    /// Answers a request. Dropped, the request ends as if the downstream had left.
    fn answer(&self, request: Request<DownstreamBody>) -> Self::Answer;

    /// The answer to what came instead of a request; the connection ends with it.
    fn refuse(&self, refused: &Refused) -> Response<ResponseBody>;

    /// How much all streams of a connection may send ahead of their readers, in bytes.
    fn window_bytes(&self) -> u32;

    /// The same, for what is within a CONNECT to this name.
    fn inside(self, name: ListenerName) -> Self;

    /// The body of a request that was answered was refused; the answer may have been given for that, or before.
    fn refused_body(&self, violation: Violation);
}

/// Serves a connection until its end. When a drain begins, it is told to send no new requests (GOAWAY, or
/// `Connection: close`), and ends when those under way have.
///
/// # Cancel safety
/// Dropped, the connection is closed and its requests end as if the downstream had left.
pub(crate) fn serve<S: Service>(io: Io, drain: Drain, service: S) -> impl Future<Output = ()> {
    // Made here and not within: what an `async fn` is given, it holds a second time.
    let mut connection = h1::Connection::new(io, drain);
    async move {
        match connection.serve(&service).await {
            h1::Served::Ended => {}
            h1::Served::Http2 | h1::Served::GoesOn => go_on(connection, service).await,
        }
    }
}

/// Serves what is left of a connection that is not, or no longer, one of HTTP/1. Boxed: an idle one that is should not
/// be as large.
fn go_on<S: Service>(connection: h1::Connection, service: S) -> Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move {
        let Some(h1::Rest {
            io,
            ahead,
            drain,
            goes_on,
        }) = connection.into_rest()
        else {
            return;
        };
        match goes_on.map(|how| *how) {
            None => serve_http2(Begun::new(ahead, io), drain, service).await,
            Some(GoesOn::Tunnel(tunnel)) => {
                tunnel.carry(TunnelIo::Connection(Begun::new(ahead, io)), drain).await;
            }
            Some(GoesOn::Inside(name)) => {
                let service = service.inside(name);
                let mut connection = h1::Connection::begun(io, ahead, drain);
                match connection.serve(&service).await {
                    h1::Served::Ended => {}
                    h1::Served::Http2 | h1::Served::GoesOn => go_on(connection, service).await,
                }
            }
        }
    })
}

async fn serve_http2<S: Service>(io: Begun, mut drain: Drain, service: S) {
    let executor = StreamExecutor::default();
    let upgrades = executor.clone();
    let mut builder = http2::Builder::new(executor);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(service.window_bytes())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .enable_connect_protocol()
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(20));
    let carried = Rc::new(Cell::new(Carried::Nothing));
    let carries = Rc::clone(&carried);
    let drains = drain.clone();
    let answer = service_fn(move |mut request: Request<Incoming>| {
        carries.set(Carried::Requests);
        let goes_on = (request.method() == Method::CONNECT).then(|| (hyper::upgrade::on(&mut request), drains.clone()));
        let response = service.answer(request.map(DownstreamBody::Http2));
        let upgrades = goes_on.as_ref().map(|_| upgrades.clone());
        async move {
            let mut response = response.await;
            if let (Some((goes_on, drain)), Some(upgrades)) = (goes_on, upgrades)
                && let Some(how) = response.body_mut().take_goes_on()
                && let GoesOn::Tunnel(tunnel) = *how
            {
                let task = upgrades.next_sends();
                // Owned by the worker's set of tasks. It ends with its stream, for which the connection waits.
                tokio::task::spawn_local(async move {
                    if let Ok(stream) = goes_on.await {
                        tunnel
                            .carry(TunnelIo::Stream(TokioIo::new(stream), Some(task)), drain)
                            .await;
                    }
                });
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), answer));
    // How a connection ends is told by its requests; one that never carried one is nobody's loss.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = drain.begun() => {
            connection.as_mut().graceful_shutdown();
            let ended = tokio::time::timeout(h1::HEAD_IN_DRAIN, connection.as_mut()).await;
            match (ended, carried.get()) {
                (Ok(_), _) | (Err(_), Carried::Nothing) => {}
                (Err(_), Carried::Requests) => {
                    let _ = connection.await;
                }
            }
        }
    }
}

/// Runs a connection's tasks on the worker's own thread, whose set owns them.
#[derive(Clone, Default)]
struct StreamExecutor {
    /// Where the next task is to be known: it sends on the stream of an upgraded request.
    next: Rc<RefCell<Option<SendingTask>>>,
}

impl StreamExecutor {
    /// The task that begins next: hyper begins it in the same breath as it takes the answer to an upgrade. Should it
    /// not, since the stream is gone, what is told of another task has nobody to hear it.
    fn next_sends(&self) -> SendingTask {
        let task = SendingTask::default();
        self.next.replace(Some(Rc::clone(&task)));
        task
    }
}

impl<F: Future + 'static> hyper::rt::Executor<F> for StreamExecutor {
    fn execute(&self, future: F) {
        let task = tokio::task::spawn_local(async move {
            future.await;
        });
        if let Some(sends) = self.next.take() {
            sends.replace(Some(task.abort_handle()));
        }
    }
}

/// Whether a connection has carried anything.
#[derive(Clone, Copy)]
enum Carried {
    Nothing,
    Requests,
}
