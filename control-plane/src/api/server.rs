//! Connections to the API: HTTP/1.1, bounded in number, in the time a header takes and in the time an end takes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tower::ServiceExt as _;

use super::ApiLimits;
use crate::drain::Drain;

/// Where a request came from, for handlers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientAddr(pub(crate) SocketAddr);

/// Serves until the process ends; then takes no more, lets requests end for as long as the limits say,
/// and closes the rest.
pub(crate) async fn serve(listener: TcpListener, router: Router, limits: ApiLimits, drain: Drain) {
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let mut connections = JoinSet::new();
    let mut draining = drain.clone();
    loop {
        // Cancel safe: a permit that is not used goes back, `accept` loses no connection, `join_next` no result.
        tokio::select! {
            biased;
            () = draining.begun() => break,
            Some(ended) = connections.join_next() => report(ended),
            accepted = accept(&listener, &places) => match accepted {
                Ok((stream, client, permit)) => {
                    let service = router.clone();
                    let served = serve_connection(stream, client, service, limits.header_timeout, drain.clone(), permit);
                    connections.spawn(served);
                }
                Err(error) => {
                    tracing::warn!(%error, "the API can't accept a connection");
                    // Out of file descriptors, most likely: without a pause this would spin.
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let all = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    if tokio::time::timeout(limits.drain_timeout, all).await.is_err() {
        tracing::warn!(
            left = connections.len(),
            "closing connections to the API that did not end in time"
        );
    }
    connections.shutdown().await;
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, ClientAddr, OwnedSemaphorePermit)> {
    let permit = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, client) = listener.accept().await?;
    // Only slower without.
    let _ = stream.set_nodelay(true);
    Ok((stream, ClientAddr(client), permit))
}

async fn serve_connection(
    stream: TcpStream,
    client: ClientAddr,
    router: Router,
    header_timeout: Duration,
    mut drain: Drain,
    _permit: OwnedSemaphorePermit,
) {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(HEADER_BYTES_MAX);
    let router = router.map_request(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(client);
        request
    });
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    // Cancel safe: the connection is polled on below, `begun` loses nothing.
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = drain.begun() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the API ended badly");
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection to the API panicked");
    }
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const HEADER_BYTES_MAX: usize = 64 * 1024;
