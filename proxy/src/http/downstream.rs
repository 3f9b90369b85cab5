//! Connections from downstreams: HTTP/1.1 or HTTP/2, told apart by the first bytes, until they end or are drained.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;

use crate::drain::Drain;
use crate::http::body::ResponseBody;
use crate::http::io::Io;
use crate::http::upstream::{HEAD_BYTES_MAX, HTTP2_CONNECTION_WINDOW_BYTES, HTTP2_STREAM_WINDOW_BYTES, LocalExecutor};

/// How long a head may take to come, per request on an HTTP/1.1 connection; it is also how long an idle connection is
/// kept. Longer than what callers keep theirs, so that it is they who close.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);

/// How long a connection that has carried no request yet may take, when a drain begins, to complete its first head.
/// Without it a peer that sends half a head would hold up the drain to its end.
const FIRST_HEAD_IN_DRAIN: Duration = Duration::from_secs(1);

/// Requests under way on one HTTP/2 connection: what two sidecars share between them is one connection, so it has to be
/// large; hyper's own default is 200.
const HTTP2_STREAMS_MAX: u32 = 1024;

/// Serves a connection until its end. When a drain begins, it is told to send no new requests (GOAWAY, or
/// `Connection: close`), and ends when those under way have.
///
/// # Cancel safety
/// Dropped, the connection is closed and its requests end as if the downstream had left.
pub(crate) async fn serve<S, F>(io: Io, mut drain: Drain, service: S)
where
    S: Fn(Request<Incoming>) -> F + 'static,
    F: Future<Output = Response<ResponseBody>> + 'static,
{
    let mut builder = auto::Builder::new(LocalExecutor);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(20));
    let carried = Rc::new(Cell::new(Carried::Nothing));
    let carries = Rc::clone(&carried);
    let answer = service_fn(move |request| {
        carries.set(Carried::Requests);
        let response = service(request);
        async move { Ok::<_, Infallible>(response.await) }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), answer));
    // How a connection ends is told by its requests; one that never carried one is nobody's loss.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = drain.begun() => {
            connection.as_mut().graceful_shutdown();
            let ended = tokio::time::timeout(FIRST_HEAD_IN_DRAIN, connection.as_mut()).await;
            match (ended, carried.get()) {
                (Ok(_), _) | (Err(_), Carried::Nothing) => {}
                (Err(_), Carried::Requests) => {
                    let _ = connection.await;
                }
            }
        }
    }
}

/// Whether a connection has carried anything.
#[derive(Clone, Copy)]
enum Carried {
    Nothing,
    Requests,
}
