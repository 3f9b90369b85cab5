//! Who is at the other end of a connection by TLS.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use weir_policy::spiffe::SpiffeId;

use crate::authority::ca;
use crate::authority::x509::{self, Identity, IdentityError};
use crate::places::Place;

/// Who is there; every request of the connection carries it.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// Where it comes from.
    pub(crate) address: SocketAddr,
    /// What its certificate says; `None`: it showed none.
    member: Option<Arc<Member>>,
}

#[derive(Debug)]
struct Member {
    identity: Identity,
    not_after: SystemTime,
}

impl Peer {
    /// One that showed no certificate.
    pub(super) fn stranger(address: SocketAddr) -> Peer {
        Peer { address, member: None }
    }

    /// One with a certificate, which the handshake has verified.
    ///
    /// # Errors
    /// When it is nobody's.
    pub(super) fn member(
        address: SocketAddr,
        certificate: &CertificateDer<'_>,
    ) -> Result<(SpiffeId, Peer), IdentityError> {
        let (_, not_after) = ca::times(certificate).map_err(|_| IdentityError::Malformed)?;
        let identity = x509::identity(certificate)?;
        let id = identity.id.clone();
        let member = Some(Arc::new(Member { identity, not_after }));
        Ok((id, Peer { address, member }))
    }

    /// Who it is at `now`; `None`: nobody knows.
    pub(crate) fn identity(&self, now: SystemTime) -> Option<&Identity> {
        let member = self.member.as_deref().filter(|member| now < member.not_after)?;
        Some(&member.identity)
    }

    /// For how long its certificate is good.
    pub(super) fn left(&self, now: SystemTime) -> Duration {
        let member = self.member.as_deref();
        member
            .and_then(|member| member.not_after.duration_since(now).ok())
            .unwrap_or_default()
    }
}

#[cfg(test)]
impl Peer {
    /// One of a namespace, whose certificate is good for long.
    pub(super) fn of(namespace: &str) -> Peer {
        let id = format!("spiffe://mesh.gov/ns/{namespace}/sa/portal");
        let identity = Identity {
            id: id.parse().expect("an id"),
            labels: Default::default(),
        };
        let not_after = SystemTime::now() + Duration::from_secs(24 * 60 * 60);
        Peer {
            address: SocketAddr::from(([10, 0, 0, 1], 1)),
            member: Some(Arc::new(Member { identity, not_after })),
        }
    }
}

/// What a connection is taken for.
pub(super) struct Term {
    /// For how long.
    pub(super) left: Duration,
    /// For how long the peer may take nothing of what is sent.
    pub(super) write_timeout: Duration,
    /// Given back with its end.
    pub(super) place: Place,
}

/// A connection by TLS that ends with what it was taken for: the certificate's time, or the time to get one. Whatever
/// is done with it looks at that: of a peer that takes nothing, HTTP/2 reads nothing.
pub(crate) struct PeerIo {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    ends: Pin<Box<Sleep>>,
    write_timeout: Duration,
    /// Since the peer takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
    _place: Place,
}

impl PeerIo {
    pub(super) fn new(stream: TlsStream<TcpStream>, peer: Peer, term: Term) -> PeerIo {
        PeerIo {
            stream,
            peer,
            ends: Box::pin(sleep(term.left)),
            write_timeout: term.write_timeout,
            stalled: None,
            _place: term.place,
        }
    }

    fn in_time(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.ends.as_mut().poll(cx) {
            Poll::Ready(()) => Err(timed_out("the peer's certificate, or its time without one, has ended")),
            Poll::Pending => Ok(()),
        }
    }

    /// Writes, as long as the peer takes it.
    fn write<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TlsStream<TcpStream>>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        self.in_time(cx)?;
        let written = write(Pin::new(&mut self.stream), cx);
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let timeout = self.write_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(timeout)));
        stalled
            .as_mut()
            .poll(cx)
            .map(|()| Err(timed_out("the peer takes nothing of what it is sent")))
    }
}

fn timed_out(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, why)
}

impl Connected for PeerIo {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for PeerIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.in_time(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

/// Vectored writes are the trait's own, by way of `poll_write`.
impl AsyncWrite for PeerIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        self.write(cx, |stream, cx| stream.poll_write(cx, from))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(cx, AsyncWrite::poll_flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(cx, AsyncWrite::poll_shutdown)
    }
}
