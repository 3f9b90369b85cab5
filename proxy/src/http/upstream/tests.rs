//! Requests that wait for a connection, with peers that speak just enough HTTP/2 to say how much they take.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;
use weir_policy::model::Limits;

use super::*;
use crate::metrics::Metrics;

/// How long a test waits for what must come; only a test that fails waits so long.
const PATIENCE: Duration = Duration::from_secs(60);

fn breaker(max_connections: u32, max_pending: u32) -> Arc<Breaker> {
    let limits = Limits {
        max_connections,
        max_pending,
        ..Limits::default()
    };
    Arc::new(Breaker::new(limits, None))
}

/// The connections of a worker to peers under one breaker.
struct Caller {
    upstreams: Upstreams,
    breaker: Arc<Breaker>,
    keep: ConnectionPool,
}

impl Caller {
    fn new(breaker: Arc<Breaker>, max_concurrent_streams: Option<u32>) -> Caller {
        Caller {
            upstreams: Upstreams::new(Metrics::default().worker(), None),
            breaker,
            keep: ConnectionPool {
                max_concurrent_streams,
                ..ConnectionPool::default()
            },
        }
    }

    async fn lease(&self, server: &Server) -> Result<Lease, ConnectError> {
        let target = Target {
            address: server.0.local_addr().expect("an address"),
            wire: Wire::Http2,
            breaker: &self.breaker,
            direction: Direction::Outbound,
            connect_timeout: PATIENCE * 2,
            keep: self.keep,
            security: &Security::Cleartext,
            reuse: Reuse::Allowed,
        };
        self.upstreams.lease(&target).await
    }

    fn connections(&self) -> u32 {
        self.breaker.counts().connections
    }
}

struct Server(TcpListener);

impl Server {
    async fn start() -> Server {
        Server(TcpListener::bind("127.0.0.1:0").await.expect("a port"))
    }

    /// Takes a connection, and so many requests at once on it.
    async fn takes(&self, streams_max: u32) -> Taken {
        let (stream, _) = self.0.accept().await.expect("a connection");
        let mut taken = Taken {
            stream,
            read: Vec::new(),
        };
        taken.says(streams_max).await;
        taken
    }
}

struct Taken {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Taken {
    /// Says how many requests are taken at once; returns once that is known at the other end.
    async fn says(&mut self, streams_max: u32) {
        let acknowledged = |read: &[u8]| read.windows(9).filter(|frame| *frame == ACK).count();
        let before = acknowledged(&self.read);
        self.stream.write_all(&settings(streams_max)).await.expect("it reads");
        while acknowledged(&self.read) == before {
            let read = self.stream.read_buf(&mut self.read).await.expect("it writes");
            assert!(read > 0, "it hung up");
        }
    }
}

/// SETTINGS with SETTINGS_MAX_CONCURRENT_STREAMS (RFC 9113 section 6.5).
fn settings(streams_max: u32) -> Vec<u8> {
    [&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3], &streams_max.to_be_bytes()[..]].concat()
}

const ACK: [u8; 9] = [0, 0, 0, 4, 1, 0, 0, 0, 0];

/// GOAWAY with no stream and no error (RFC 9113 section 6.8).
const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Lets a request begin, which then waits.
async fn waits<T>(mut request: Pin<&mut impl Future<Output = T>>) {
    poll_fn(|cx| {
        assert!(request.as_mut().poll(cx).is_pending());
        Poll::Ready(())
    })
    .await;
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

#[tokio::test]
async fn a_request_that_may_not_wait_opens_nothing() {
    let tested = async {
        let caller = Caller::new(breaker(10, 1), Some(1));
        let server = Server::start().await;
        let mut first = pin!(caller.lease(&server));
        waits(first.as_mut()).await;
        let second = caller.lease(&server).await.err();
        assert!(matches!(
            second,
            Some(ConnectError::Refused(Refusal::Pending { limit: 1 }))
        ));
        assert_eq!(caller.connections(), 1);
    };
    LocalSet::new().run_until(tested).await;
}

#[tokio::test]
async fn what_is_opened_for_one_that_left_is_the_next_ones() {
    let tested = async {
        let caller = Caller::new(breaker(10, 10), Some(1));
        let server = Server::start().await;
        let mut left = Box::pin(caller.lease(&server));
        waits(left.as_mut()).await;
        drop(left);
        let mut next = pin!(caller.lease(&server));
        waits(next.as_mut()).await;
        assert_eq!(caller.connections(), 1);
        let (lease, _taken) = in_time(async { tokio::join!(next, server.takes(1)) }).await;
        lease.expect("a connection");
        assert_eq!(caller.connections(), 1);
    };
    LocalSet::new().run_until(tested).await;
}

/// Else one request would open connections as fast as the peer closes them, for as long as another one is open.
#[tokio::test]
async fn one_request_opens_one_connection_though_the_peer_hangs_up() {
    let tested = async {
        let caller = Caller::new(breaker(10, 10), None);
        let server = Server::start().await;
        let (held, _taken) = in_time(async { tokio::join!(caller.lease(&server), server.takes(1)) }).await;
        let _held = held.expect("a connection");
        let mut request = pin!(caller.lease(&server));
        waits(request.as_mut()).await;
        let (mut stream, _) = in_time(server.0.accept()).await.expect("a connection");
        stream.write_all(&settings(1)).await.expect("it reads");
        stream.write_all(&GOAWAY).await.expect("it reads");
        let mut read = Vec::new();
        in_time(stream.read_to_end(&mut read)).await.expect("an end");
        tokio::select! {
            biased;
            // It hears that the connection was closed, or gets it before that is known: either way it has its answer.
            _ = request => {}
            _ = server.0.accept() => panic!("another connection"),
        }
    };
    LocalSet::new().run_until(tested).await;
}

/// A place is of use only to those who wait for one, not to a request whose peer takes no more.
#[tokio::test]
async fn a_place_that_became_free_is_told_to_who_can_use_it() {
    let tested = async {
        let caller = Caller::new(breaker(2, 10), None);
        let [x, y, z] = [Server::start().await, Server::start().await, Server::start().await];
        let (at_x, mut taken) = in_time(async { tokio::join!(caller.lease(&x), x.takes(1)) }).await;
        let (at_y, _taken_y) = in_time(async { tokio::join!(caller.lease(&y), y.takes(1)) }).await;
        let _at_x = at_x.expect("a connection");
        let at_y = at_y.expect("a connection");
        in_time(taken.says(0)).await;
        let mut to_x = pin!(caller.lease(&x));
        waits(to_x.as_mut()).await;
        let mut to_z = pin!(caller.lease(&z));
        waits(to_z.as_mut()).await;
        drop(at_y);
        let (at_z, _taken_z) = in_time(async { tokio::join!(to_z, z.takes(1)) }).await;
        at_z.expect("a connection");
        waits(to_x).await;
    };
    LocalSet::new().run_until(tested).await;
}
