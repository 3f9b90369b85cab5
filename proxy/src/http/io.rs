//! The byte streams that connections run on.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf as _, BytesMut};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio_rustls::TlsStream;

/// A connected byte stream. An enum, not a box: the data path matches, it does not call through a pointer.
#[derive(Debug)]
pub(crate) enum Io {
    Tcp(TcpStream),
    /// Boxed: what its session needs is far larger than a socket.
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
    /// For tests in virtual time, which sockets have none of.
    #[cfg(test)]
    Memory(tokio::io::DuplexStream),
}

impl Io {
    /// Returns once the connection has failed: the peer's system has answered what we sent with a reset. `None`:
    /// whoever writes to this stream learns of it at once.
    pub(crate) fn failed(&self) -> Option<impl Future<Output = ()> + use<>> {
        let stream = self.tcp()?;
        // A handle of its own, with a place of its own in the runtime's event queue: who waits to read from this one is
        // told only of what can be read.
        let handle = stream.as_fd().try_clone_to_owned().ok()?;
        let handle = TcpStream::from_std(handle.into()).ok()?;
        Some(async move {
            // An error of the wait itself is an end of it as well.
            let _ = handle.ready(Interest::ERROR).await;
        })
    }

    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Io::Tcp(stream) => Some(stream),
            Io::Tls(stream) => Some(stream.get_ref().0),
            Io::Unix(_) => None,
            #[cfg(test)]
            Io::Memory(_) => None,
        }
    }

    /// Makes the connection end with a reset when it is dropped, where it can: the end of an answer that is delimited
    /// by the connection's end must not look like one.
    pub(crate) fn end_with_reset(&self) {
        if let Some(stream) = self.tcp() {
            // Where the system does not let us, it ends as it can.
            let _ = stream.set_zero_linger();
        }
    }
}

/// A byte stream whose begin has been read already.
#[derive(Debug)]
pub(crate) struct Begun {
    ahead: BytesMut,
    io: Io,
}

impl Begun {
    /// `io`, from which `ahead` has been read.
    pub(crate) fn new(ahead: BytesMut, io: Io) -> Begun {
        Begun { ahead, io }
    }

    /// See [`Io::end_with_reset`].
    pub(crate) fn end_with_reset(&self) {
        self.io.end_with_reset();
    }
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

/// One side of what goes on as something else than HTTP.
pub(crate) enum TunnelIo {
    /// A connection, of which some may have been read.
    Connection(Begun),
    /// A stream of an HTTP/2 connection, and the task that sends on it. Where that is not known, hyper ends the stream
    /// as if it were whole, however it is dropped.
    Stream(TokioIo<Upgraded>, Option<SendingTask>),
}

/// The task that sends on a stream, once there is one.
pub(crate) type SendingTask = Rc<RefCell<Option<AbortHandle>>>;

impl TunnelIo {
    /// See [`Io::end_with_reset`].
    pub(crate) fn end_with_reset(&self) {
        match self {
            TunnelIo::Connection(io) => io.end_with_reset(),
            TunnelIo::Stream(_, task) => {
                // With the task and this gone, nobody holds the stream, and h2 resets it.
                if let Some(task) = task.as_ref().and_then(|task| task.take()) {
                    task.abort();
                }
            }
        }
    }
}

impl AsyncRead for TunnelIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            TunnelIo::Connection(io) => Pin::new(io).poll_read(cx, buf),
            TunnelIo::Stream(io, _) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for TunnelIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            TunnelIo::Connection(io) => Pin::new(io).poll_write(cx, buf),
            TunnelIo::Stream(io, _) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            TunnelIo::Connection(io) => Pin::new(io).poll_flush(cx),
            TunnelIo::Stream(io, _) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            TunnelIo::Connection(io) => Pin::new(io).poll_shutdown(cx),
            TunnelIo::Stream(io, _) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

/// What has crossed a connection, read by whoever has to tell whether a request may have been seen by the peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Crossed(Rc<CrossedBytes>);

#[derive(Debug, Default)]
struct CrossedBytes {
    received: Cell<u64>,
    sent: Cell<u64>,
    /// Rings at the first byte received.
    first_received: Notify,
}

impl Crossed {
    /// Bytes read from the peer since the connection began.
    pub(crate) fn received_bytes(&self) -> u64 {
        self.0.received.get()
    }

    /// Returns once the peer has sent something; for one waiter.
    ///
    /// # Cancel safety
    /// Nothing is lost when dropped.
    pub(crate) async fn first_received(&self) {
        while self.received_bytes() == 0 {
            self.0.first_received.notified().await;
        }
    }

    /// Bytes handed to the kernel since the connection began.
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.0.sent.get()
    }
}

/// An [`Io`] that counts what crosses it.
#[derive(Debug)]
pub(crate) struct CountedIo {
    io: Io,
    crossed: Crossed,
}

impl CountedIo {
    pub(crate) fn new(io: Io) -> (CountedIo, Crossed) {
        let crossed = Crossed::default();
        (
            CountedIo {
                io,
                crossed: crossed.clone(),
            },
            crossed,
        )
    }

    /// The stream, which is counted no more.
    pub(crate) fn into_inner(self) -> Io {
        self.io
    }

    fn count_sent(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = &written {
            let sent = &self.crossed.0.sent;
            sent.set(sent.get().saturating_add(*count as u64));
        }
        written
    }
}

impl AsyncRead for CountedIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        let crossed = &self.crossed.0;
        let so_far = crossed.received.get();
        crossed
            .received
            .set(so_far.saturating_add((buf.filled().len() - before) as u64));
        if so_far == 0 && crossed.received.get() > 0 {
            crossed.first_received.notify_one();
        }
        read
    }
}

impl AsyncWrite for CountedIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.count_sent(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.count_sent(written)
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

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Tcp(io) => Pin::new(io).poll_read(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_read(cx, buf),
            Io::Unix(io) => Pin::new(io).poll_read(cx, buf),
            #[cfg(test)]
            Io::Memory(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Io::Tcp(io) => Pin::new(io).poll_write(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_write(cx, buf),
            Io::Unix(io) => Pin::new(io).poll_write(cx, buf),
            #[cfg(test)]
            Io::Memory(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Io::Tcp(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::Unix(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            #[cfg(test)]
            Io::Memory(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Io::Tcp(io) => io.is_write_vectored(),
            Io::Tls(io) => io.is_write_vectored(),
            Io::Unix(io) => io.is_write_vectored(),
            #[cfg(test)]
            Io::Memory(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Tcp(io) => Pin::new(io).poll_flush(cx),
            Io::Tls(io) => Pin::new(io).poll_flush(cx),
            Io::Unix(io) => Pin::new(io).poll_flush(cx),
            #[cfg(test)]
            Io::Memory(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Tcp(io) => Pin::new(io).poll_shutdown(cx),
            Io::Tls(io) => Pin::new(io).poll_shutdown(cx),
            Io::Unix(io) => Pin::new(io).poll_shutdown(cx),
            #[cfg(test)]
            Io::Memory(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
