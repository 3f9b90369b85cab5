//! Connections to the API: HTTP/1.1, bounded in number, in the time a header takes and in the time an end takes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::ApiLimits;
use crate::drain::Drain;

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
                Ok((stream, permit)) => {
                    let service = router.clone();
                    connections.spawn(serve_connection(stream, service, limits.header_timeout, drain.clone(), permit));
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

async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    // Only slower without.
    let _ = stream.set_nodelay(true);
    Ok((stream, permit))
}

async fn serve_connection(
    stream: TcpStream,
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
