//! Connections from downstreams: HTTP/1 or HTTP/2, told apart by the first bytes, until they end or are drained.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::drain::Drain;
use crate::http::body::{DownstreamBody, ResponseBody};
use crate::http::h1;
use crate::http::h1::violation::{Refused, Violation};
use crate::http::io::Io;
use crate::http::upstream::{HEAD_BYTES_MAX, HTTP2_STREAM_WINDOW_BYTES, LocalExecutor};

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
            h1::Served::Http2 => {
                if let Some((io, ahead, drain)) = connection.into_http2() {
                    // Boxed: an idle HTTP/1 connection is not as large as an HTTP/2 one.
                    Box::pin(serve_http2(Begun { ahead, io }, drain, service)).await;
                }
            }
        }
    }
}

async fn serve_http2<S: Service>(io: Begun, mut drain: Drain, service: S) {
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(service.window_bytes())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(20));
    let carried = Rc::new(Cell::new(Carried::Nothing));
    let carries = Rc::clone(&carried);
    let answer = service_fn(move |request: Request<Incoming>| {
        carries.set(Carried::Requests);
        let response = service.answer(request.map(DownstreamBody::Http2));
        async move { Ok::<_, Infallible>(response.await) }
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

/// Whether a connection has carried anything.
#[derive(Clone, Copy)]
enum Carried {
    Nothing,
    Requests,
}

/// A byte stream whose begin has been read already.
struct Begun {
    ahead: BytesMut,
    io: Io,
}

impl AsyncRead for Begun {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let count = self.ahead.len().min(buf.remaining());
        buf.put_slice(self.ahead.get(..count).unwrap_or_default());
        self.ahead.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Begun {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
