//! A small HTTP/1.1 client over keep-alive connections, for the apps' calls, the citizens and the stage.

use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Mutex;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// A header's value, where it is there and text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Why a call had no answer.
#[derive(Debug)]
pub(crate) enum CallError {
    /// No connection.
    Connect(std::io::Error),
    /// A connection, but no whole answer on it.
    Exchange(hyper::Error),
    /// The answer's body ended early or was longer than [`BODY_BYTES_MAX`].
    Body(String),
    /// Not within this time.
    TimedOut(Duration),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::Connect(error) => write!(f, "no connection: {error}"),
            CallError::Exchange(error) => write!(f, "no answer: {error}"),
            CallError::Body(problem) => write!(f, "no whole answer: {problem}"),
            CallError::TimedOut(limit) => write!(f, "no answer within {} ms", limit.as_millis()),
        }
    }
}

impl std::error::Error for CallError {}

/// A client of one address that keeps its connections. At most [`IDLE_MAX`] wait to be used again.
pub(crate) struct Client {
    address: SocketAddr,
    idle: Mutex<Vec<Connection>>,
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Client {
            address,
            idle: Mutex::new(Vec::new()),
        }
    }

    /// Sends a GET and reads its answer whole; sent once more on a new connection where a kept one had been closed,
    /// which is safe for GET alone (RFC 9110 section 9.2.2).
    ///
    /// # Errors
    /// When there is no whole answer within `limit`.
    ///
    /// # Cancel safety
    /// The connection is closed with the future.
    pub(crate) async fn get(
        &self,
        host: &str,
        path: &str,
        headers: &HeaderMap,
        limit: Duration,
    ) -> Result<Answer, CallError> {
        let request = || {
            let mut request = Request::new(Full::default());
            *request.uri_mut() = path
                .parse()
                .map_err(|e| CallError::Body(format!("path {path:?}: {e}")))?;
            *request.headers_mut() = headers.clone();
            let host = host
                .parse()
                .map_err(|e| CallError::Body(format!("host {host:?}: {e}")))?;
            request.headers_mut().insert(http::header::HOST, host);
            Ok(request)
        };
        let exchange = async {
            if let Some(mut connection) = self.kept().await
                && let Ok(answer) = connection.exchange(request()?).await
            {
                self.keep(connection);
                return Ok(answer);
            }
            let mut connection = Connection::open(self.address).await?;
            let answer = connection.exchange(request()?).await?;
            self.keep(connection);
            Ok(answer)
        };
        match tokio::time::timeout(limit, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(CallError::TimedOut(limit)),
        }
    }

    /// A connection that waits and has not been closed meanwhile.
    async fn kept(&self) -> Option<Connection> {
        loop {
            let mut connection = self.idle.lock().ok()?.pop()?;
            if connection.alive().await {
                return Some(connection);
            }
        }
    }

    fn keep(&self, connection: Connection) {
        if connection.sender.is_closed() {
            return;
        }
        if let Ok(mut idle) = self.idle.lock()
            && idle.len() < IDLE_MAX
        {
            idle.push(connection);
        }
    }
}

/// Sends a POST without a body on a connection of its own; for the stage's own calls.
///
/// # Errors
/// When there is no whole answer within `limit`.
pub(crate) async fn post(address: SocketAddr, path: &str, limit: Duration) -> Result<Answer, CallError> {
    let mut request = Request::new(Full::default());
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = path
        .parse()
        .map_err(|e| CallError::Body(format!("path {path:?}: {e}")))?;
    let host = address
        .to_string()
        .parse()
        .map_err(|e| CallError::Body(format!("host: {e}")))?;
    request.headers_mut().insert(http::header::HOST, host);
    let exchange = async { Connection::open(address).await?.exchange(request).await };
    match tokio::time::timeout(limit, exchange).await {
        Ok(answer) => answer,
        Err(_) => Err(CallError::TimedOut(limit)),
    }
}

/// A connection together with what drives it: it is driven while somebody waits for an answer, so no task is needed.
struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    driver: http1::Connection<TokioIo<TcpStream>, Full<Bytes>>,
}

impl Connection {
    async fn open(address: SocketAddr) -> Result<Self, CallError> {
        let stream = TcpStream::connect(address).await.map_err(CallError::Connect)?;
        stream.set_nodelay(true).map_err(CallError::Connect)?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(CallError::Exchange)?;
        Ok(Connection { sender, driver })
    }

    /// Looks once whether the peer has closed it.
    async fn alive(&mut self) -> bool {
        poll_fn(|cx| Poll::Ready(Future::poll(Pin::new(&mut self.driver), cx).is_pending())).await
            && !self.sender.is_closed()
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Answer, CallError> {
        let sender = &mut self.sender;
        let mut answer = pin!(async move {
            sender.ready().await.map_err(CallError::Exchange)?;
            let answer = sender.send_request(request).await.map_err(CallError::Exchange)?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
            Ok(Answer {
                status: head.status,
                headers: head.headers,
                body: body.map_err(|e| CallError::Body(e.to_string()))?.to_bytes(),
            })
        });
        tokio::select! {
            // The answer first: when both are done, the driver's end is only the connection's.
            biased;
            answer = &mut answer => answer,
            _ = &mut self.driver => answer.await,
        }
    }
}

const IDLE_MAX: usize = 256;
const BODY_BYTES_MAX: usize = 8 << 20;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

    /// Reads one request without a body.
    async fn request(stream: &mut TcpStream) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a request is sent"));
        }
    }

    #[tokio::test]
    async fn a_kept_connection_is_used_again_and_a_closed_one_replaced() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let client = Client::new(listener.local_addr().expect("it is bound"));
        let server = async {
            let (mut first, _) = listener.accept().await.expect("the client connects");
            for _ in 0..2 {
                request(&mut first).await;
                first.write_all(ANSWER).await.expect("the client reads");
            }
            // Closed only once the third request is there, so that the client can't have seen it before.
            request(&mut first).await;
            drop(first);
            let (mut second, _) = listener.accept().await.expect("the client connects again");
            request(&mut second).await;
            second.write_all(ANSWER).await.expect("the client reads");
        };
        let calls = async {
            for _ in 0..3 {
                let answer = client.get("x", "/", &HeaderMap::new(), Duration::from_secs(10)).await;
                assert_eq!(answer.expect("it is answered").body, "ok");
            }
        };
        tokio::join!(server, calls);
    }

    #[tokio::test]
    async fn an_answer_that_does_not_come_is_waited_for_no_longer_than_said() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let client = Client::new(listener.local_addr().expect("it is bound"));
        let error = client
            .get("x", "/", &HeaderMap::new(), Duration::from_millis(20))
            .await
            .err();
        assert!(matches!(error, Some(CallError::TimedOut(_))), "{error:?}");
    }
}
