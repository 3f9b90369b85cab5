//! Who calls a service, by the door that they came through.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use tokio::time::timeout;
use tonic::{Request, Status, Streaming};

use super::peer::Peer;
use crate::authority::x509::Identity;
use crate::places::Holder;
use weir_policy::names::Label;

/// By which door requests come to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// In cleartext, from this host only: they are what they say.
    Loopback,
    /// By TLS: they are what their certificate says.
    Tls,
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Somebody on this host.
    Local,
    /// Somebody with a certificate of ours.
    Known(Identity),
}

impl Entry {
    /// Who sent a request, and from where.
    ///
    /// # Errors
    /// When they came by TLS without a certificate of ours that is still good.
    pub(crate) fn caller<T>(self, request: &Request<T>) -> Result<(Caller, Option<SocketAddr>), Status> {
        match self {
            Entry::Loopback => Ok((Caller::Local, request.remote_addr())),
            Entry::Tls => {
                let peer = request.extensions().get::<Peer>();
                let address = peer.map(|peer| peer.address);
                let identity = peer.and_then(|peer| peer.identity(SystemTime::now()));
                let identity = identity.ok_or_else(|| Status::unauthenticated(NO_CERTIFICATE))?;
                Ok((Caller::Known(identity.clone()), address))
            }
        }
    }
}

impl Caller {
    /// Whose share of the places it takes; `None`: on this host nobody has one.
    pub(crate) fn holder(&self) -> Option<Holder> {
        match self {
            Caller::Local => None,
            Caller::Known(Identity { id, .. }) => Some(Holder::Namespace(id.namespace.clone())),
        }
    }

    /// Lets only those speak for a namespace who are of it. `field` is where they said so.
    ///
    /// # Errors
    /// When they are of another.
    pub(crate) fn speaks_for(&self, field: &str, namespace: &Label) -> Result<(), Status> {
        match self {
            Caller::Local => Ok(()),
            Caller::Known(Identity { id, .. }) if id.namespace == *namespace => Ok(()),
            Caller::Known(Identity { id, .. }) => Err(Status::permission_denied(format!(
                "{field} says namespace {namespace}, and the client's certificate is of {id}: one of namespace {namespace} \
                 is needed"
            ))),
        }
    }
}

/// The first message of a stream: one without any would hold its place for nothing. `None`: the client closed its
/// side.
///
/// # Errors
/// When it does not come in time, can't be read, or the connection is lost.
pub(crate) async fn first_message<T>(incoming: &mut Streaming<T>) -> Result<Option<T>, Status> {
    match timeout(FIRST_MESSAGE_TIMEOUT, incoming.message()).await {
        Ok(first) => first,
        Err(_) => Err(Status::deadline_exceeded(format!(
            "the first message did not come within {FIRST_MESSAGE_TIMEOUT:?}"
        ))),
    }
}

/// Clients open a stream with something to say.
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);
const NO_CERTIFICATE: &str = "a client certificate of this mesh that is still good is needed here; weir-proxy gets one by \
                              --token-file, others by `weirctl cert`";

#[cfg(test)]
pub(crate) mod samples {
    use std::convert::Infallible;
    use std::marker::PhantomData;

    use bytes::Bytes;
    use futures_util::stream;
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use tonic::codec::{DecodeBuf, Decoder};

    use super::*;

    /// A stream by TLS, on which one of this namespace never says anything.
    pub(crate) fn silent<T: Send + 'static>(namespace: &str) -> Request<Streaming<T>> {
        let body = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
        let mut request = Request::new(Streaming::new_request(Nothing(PhantomData), body, None, None));
        request.extensions_mut().insert(Peer::of(namespace));
        request
    }

    struct Nothing<T>(PhantomData<fn() -> T>);

    impl<T: Send + 'static> Decoder for Nothing<T> {
        type Item = T;
        type Error = Status;

        fn decode(&mut self, _: &mut DecodeBuf<'_>) -> Result<Option<T>, Status> {
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(text: &str) -> Label {
        text.parse().expect("a label")
    }

    #[test]
    fn a_caller_speaks_for_its_own_namespace() {
        let known = Caller::Known(Identity {
            id: "spiffe://mesh.gov/ns/citizen/sa/portal".parse().expect("an id"),
            labels: Default::default(),
        });
        assert!(known.speaks_for("node.id", &label("citizen")).is_ok());
        assert!(Caller::Local.speaks_for("node.id", &label("police")).is_ok());
        let refused = known.speaks_for("node.id", &label("police")).expect_err("another's");
        assert_eq!(refused.code(), tonic::Code::PermissionDenied);
        assert!(
            refused.message().starts_with("node.id says namespace police, and "),
            "{refused}"
        );
    }

    #[test]
    fn by_tls_nobody_is_known_without_a_certificate() {
        let stranger = Peer::stranger(SocketAddr::from(([10, 0, 0, 1], 1)));
        let mut request = Request::new(());
        assert_eq!(Entry::Loopback.caller(&request).expect("anybody").0, Caller::Local);
        for _ in 0..2 {
            let refused = Entry::Tls.caller(&request).expect_err("a stranger");
            assert_eq!(refused.code(), tonic::Code::Unauthenticated);
            request.extensions_mut().insert(stranger.clone());
        }
    }
}
