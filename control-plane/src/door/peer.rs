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
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Sleep, sleep};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use weir_policy::spiffe::SpiffeId;

use crate::authority::ca;
use crate::authority::x509::{self, Identity, IdentityError};

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
    pub(super) fn member(address: SocketAddr, certificate: &CertificateDer<'_>) -> Result<Peer, IdentityError> {
        let (_, not_after) = ca::times(certificate).map_err(|_| IdentityError::Malformed)?;
        let identity = x509::identity(certificate)?;
        Ok(Peer {
            address,
            member: Some(Arc::new(Member { identity, not_after })),
        })
    }

    /// Who it is at `now`; `None`: nobody knows.
    pub(crate) fn identity(&self, now: SystemTime) -> Option<&Identity> {
        let member = self.member.as_deref().filter(|member| now < member.not_after)?;
        Some(&member.identity)
    }

    /// Whose certificate it showed.
    pub(super) fn id(&self) -> Option<&SpiffeId> {
        self.member.as_ref().map(|member| &member.identity.id)
    }

    /// For how long its certificate is good.
    pub(super) fn left(&self, now: SystemTime) -> Duration {
        let member = self.member.as_deref();
        member
            .and_then(|member| member.not_after.duration_since(now).ok())
            .unwrap_or_default()
    }
}

/// A connection by TLS that ends with what it was taken for: the certificate's time, or the time to get one.
pub(crate) struct PeerIo {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    ends: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl PeerIo {
    pub(super) fn new(stream: TlsStream<TcpStream>, peer: Peer, left: Duration, place: OwnedSemaphorePermit) -> PeerIo {
        PeerIo {
            stream,
            peer,
            ends: Box::pin(sleep(left)),
            _place: place,
        }
    }
}

impl Connected for PeerIo {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for PeerIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ends.as_mut().poll(cx).is_ready() {
            let ended = io::Error::new(
                io::ErrorKind::TimedOut,
                "the peer's certificate, or its time without one, has ended",
            );
            return Poll::Ready(Err(ended));
        }
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for PeerIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
