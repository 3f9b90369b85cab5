//! What proxies and people see of the mesh beside the API's resources: xDS, the workloads' stream, certificates, the
//! receiver of traces, the views, and the tasks behind them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::service::{Routes, RoutesBuilder};
use tonic::transport::Server;
use tonic::transport::server::Connected;
use weir_policy::spiffe::TrustDomain;

use crate::authority::Authority;
use crate::door::Door;
use crate::door::caller::Entry;
use crate::door::certificates::Certificates;
use crate::drain::Drain;
use crate::refusals::Refusals;
use crate::store::Store;
use crate::traces::{Bounds, Traces};
use crate::workloads::{self, Workloads};
use crate::xds::{self, Xds};
use crate::{by_namespace, slices, status, views};

/// The mesh's servers over one store; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Mesh {
    store: Store,
    xds: Xds,
    workloads: Workloads,
    traces: Traces,
}

/// What a mesh runs with.
#[derive(Clone, Debug)]
pub(crate) struct MeshConfig {
    /// Of which the identities of its workloads are.
    pub(crate) trust_domain: TrustDomain,
    /// Whom it trusts.
    pub(crate) roots: watch::Receiver<Vec<CertificateDer<'static>>>,
    /// After this time a workload whose stream is lost leaves, while most of its zone is confirmed.
    pub(crate) unconfirmed_timeout: Duration,
}

/// The mesh over a store: its front, and its tasks in one, for its owner to run. They end when drained, or when the
/// store is shut down.
pub(crate) fn start(
    store: Store,
    config: MeshConfig,
    drain: &Drain,
) -> (Mesh, impl Future<Output = ()> + Send + 'static) {
    let (xds, serve_xds) = xds::server(store.clone(), config.trust_domain, config.roots, drain.clone());
    let (workloads, keep_workloads) = workloads::server(store.clone(), config.unconfirmed_timeout, drain.clone());
    let keep_slices = by_namespace::keep(store.clone(), slices::Slices, drain.clone());
    let mesh = Mesh {
        store,
        xds,
        workloads,
        traces: Traces::new(Bounds::default()),
    };
    let tasks = async move {
        tokio::join!(serve_xds, keep_workloads, keep_slices);
    };
    (mesh, tasks)
}

impl Mesh {
    /// The views, for the API's router. `connections_refused` are those of the TLS port.
    pub(crate) fn views(&self, authority: Authority, connections_refused: Arc<Refusals>) -> Router {
        views::router(
            self.store.clone(),
            self.xds.clone(),
            self.traces.clone(),
            self.workloads.clone(),
            authority,
            connections_refused,
        )
    }

    /// Writes statuses until drained. Apart from the tasks of [`start`], which it must not hold up.
    pub(crate) fn keep_statuses(&self, drain: Drain) -> impl Future<Output = ()> + Send + 'static {
        status::keep(self.store.clone(), self.xds.clone(), drain)
    }

    /// Carries rotations of the root out until drained.
    pub(crate) fn turn(&self, authority: Authority, drain: Drain) -> impl Future<Output = ()> + Send + 'static {
        authority.turn(self.xds.clone(), self.store.clone(), drain)
    }

    /// Serves xDS, the workloads' stream and the receiver of traces in cleartext until drained. The tasks of [`start`]
    /// end the streams then; connections that stay open all the same are cut after a while.
    pub(crate) fn serve(&self, listener: TcpListener, drain: Drain) -> impl Future<Output = ()> + Send + 'static {
        let mut routes = RoutesBuilder::default();
        routes.add_service(self.xds.service(Entry::Loopback));
        routes.add_service(self.workloads.service(Entry::Loopback));
        routes.add_service(self.traces.service());
        // A connection that is lost while it is accepted is its own trouble, not the listener's.
        let incoming = TcpListenerStream::new(listener).filter(Result::is_ok);
        serve("xds", incoming, routes.routes(), drain)
    }

    /// The same by TLS: xDS and the workloads' stream for those with a certificate, certificates for those with a
    /// token.
    pub(crate) fn serve_tls(
        &self,
        listener: TcpListener,
        door: Door,
        certificates: Certificates,
        drain: Drain,
    ) -> impl Future<Output = ()> + Send + 'static {
        let mut routes = RoutesBuilder::default();
        routes.add_service(self.xds.service(Entry::Tls));
        routes.add_service(self.workloads.service(Entry::Tls));
        routes.add_service(certificates.service());
        let (connections, task) = door.open(listener, drain.clone());
        let serve = serve("xds-tls", ReceiverStream::new(connections), routes.routes(), drain);
        async move {
            tokio::join!(task, serve);
        }
    }
}

async fn serve<S, IO>(port: &'static str, incoming: S, routes: Routes, drain: Drain)
where
    S: Stream<Item = io::Result<IO>>,
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let (mut begun, mut patient) = (drain.clone(), drain);
    let serve = Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, async move { begun.begun().await });
    let cut = async move {
        patient.begun().await;
        tokio::time::sleep(DRAIN_TIMEOUT).await;
    };
    tokio::select! {
        served = serve => if let Err(error) = served {
            tracing::error!(port, %error, "the port is no longer served");
        },
        () = cut => tracing::warn!(port, "connections to the port were cut"),
    }
}

/// A proxy that is gone without a word is noticed within the sum of both.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// A proxy needs one for ADS, one for its workload, and a few for traces.
const STREAMS_PER_CONNECTION_MAX: u32 = 32;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
