//! Serves a router on a port that is not the data path's: few connections, small heads, little patience.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::error_handling::HandleErrorLayer;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::{BoxError, ServiceBuilder};

/// Connections at once, per port. Probes and scrapers have a handful; the next waits in the system's queue.
const CONNECTIONS_MAX: usize = 64;

/// Requests at once, per port; what is over is answered with 503.
const REQUESTS_MAX: usize = 16;

/// How long an answer may take. All of them are made from memory.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How long a request's head may take, which also ends idle connections.
const HEAD_WITHIN: Duration = Duration::from_secs(60);

/// Bytes of a request's head: many times what curl sends.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// How long a stop waits for answers under way.
const STOP_WITHIN: Duration = Duration::from_secs(1);

/// How long to wait after a failed accept, which is out of file descriptors as a rule.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Serves `router` until `stop`, then lets answers under way end, for a second at most. HTTP/1 only.
pub(crate) async fn serve(listener: TcpListener, router: Router, stop: impl Future<Output = ()>) {
    let router = limited(router);
    let (stopping, stopped) = tokio::sync::watch::channel(());
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let room = connections.len() < CONNECTIONS_MAX;
        tokio::select! {
            // Each arm is cancel safe: a connection is accepted or not, a task joined or not.
            () = &mut stop => break,
            Some(ended) = connections.join_next() => log_panic(ended),
            accepted = listener.accept(), if room => match accepted {
                Ok((stream, _peer)) => {
                    connections.spawn(connection(stream, router.clone(), stopped.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                }
            },
        }
    }
    drop(listener);
    drop(stopping);
    let all = async {
        while let Some(ended) = connections.join_next().await {
            log_panic(ended);
        }
    };
    // What has not ended is ended by the drop of the set.
    let _within = tokio::time::timeout(STOP_WITHIN, all).await;
}

/// Ends with the connection. A peer's misbehaviour ends it too and is not an event: anybody can reach some of these
/// ports.
async fn connection(stream: TcpStream, router: Router, mut stopped: tokio::sync::watch::Receiver<()>) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let _ended = tokio::select! {
        ended = connection.as_mut() => ended,
        // Resolves with an error when the sender is dropped, which is the stop.
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
}

fn limited(router: Router) -> Router {
    let layers = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(|error| async move {
            Ok::<Response, Infallible>(overloaded(error))
        }))
        .load_shed()
        // One semaphore for all routes of the port.
        .layer(GlobalConcurrencyLimitLayer::new(REQUESTS_MAX))
        .timeout(ANSWER_WITHIN);
    router.layer(layers)
}

fn overloaded(error: BoxError) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response()
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task panicked");
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::{Semaphore, oneshot};
    use tokio::task::JoinHandle;

    use super::*;

    async fn start(router: Router) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(serve(listener, router, async { drop(stopped.await) }));
        (address, stop, served)
    }

    async fn say(address: SocketAddr, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        // A peer that stops listening half-way is part of what is tried.
        let _written = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _read = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn hello() -> Router {
        Router::new().route("/", get(|| async { "hello\n" }))
    }

    const ASK: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

    #[tokio::test]
    async fn garbage_is_answered_or_dropped_and_others_are_served() {
        let (address, _stop, _served) = start(hello()).await;
        assert!(
            say(address, b"\x00\xff\x16\x03\x01garbage\r\n\r\n")
                .await
                .starts_with("HTTP/1.1 400")
        );
        let mut oversized = b"GET / HTTP/1.1\r\nx: ".to_vec();
        oversized.resize(10 * HEAD_BYTES_MAX, b'a');
        let answer = say(address, &oversized).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
        let mut cut_off = TcpStream::connect(address).await.expect("it listens");
        cut_off.write_all(b"GET / HT").await.expect("written");
        drop(cut_off);
        let answer = say(address, ASK).await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello\n"),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn what_is_over_the_limit_is_refused_not_queued() {
        let gate = Arc::new(Semaphore::new(0));
        let entered = Arc::new(Semaphore::new(0));
        let (inside, reached) = (Arc::clone(&gate), Arc::clone(&entered));
        let router = Router::new().route(
            "/",
            get(move || async move {
                reached.add_permits(1);
                drop(inside.acquire().await);
                "through\n"
            }),
        );
        let (address, _stop, _served) = start(router).await;
        let mut waiting = JoinSet::new();
        for _ in 0..REQUESTS_MAX {
            waiting.spawn(say(address, ASK));
        }
        let full = u32::try_from(REQUESTS_MAX).expect("a small number");
        entered.acquire_many(full).await.expect("open").forget();
        assert!(say(address, ASK).await.starts_with("HTTP/1.1 503"));
        gate.add_permits(REQUESTS_MAX);
        for answer in waiting.join_all().await {
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
    }

    #[tokio::test]
    async fn connections_are_bounded_and_one_that_ends_makes_room() {
        let (address, _stop, _served) = start(hello()).await;
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            idle.push(TcpStream::connect(address).await.expect("it listens"));
        }
        let waiting = tokio::spawn(say(address, ASK));
        drop(idle.pop());
        assert!(waiting.await.expect("no panic").starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn a_stop_ends_idle_connections() {
        let (address, stop, served) = start(hello()).await;
        let mut idle = TcpStream::connect(address).await.expect("it listens");
        idle.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .expect("written");
        let mut answer = [0; 12];
        idle.read_exact(&mut answer).await.expect("an answer");
        drop(stop);
        served.await.expect("no panic");
        let mut rest = Vec::new();
        idle.read_to_end(&mut rest).await.expect("closed");
        assert!(TcpStream::connect(address).await.is_err());
    }
}
