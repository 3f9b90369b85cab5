//! One check of one endpoint, over a connection of its own: so it shows as well that the endpoint takes new ones.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::header::{CONNECTION, CONTENT_TYPE, HOST, TE, USER_AGENT};
use http::uri::Scheme;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version, request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use weir_policy::model::{HealthCheck, HealthCheckKind, Peer};

use super::mark::{Asks, CHECK_HEADER, GRPC_CHECK};
use crate::exchange::grpc_status;
use crate::http::io::Io;
use crate::http::upstream::{HEAD_BYTES_MAX, Wire};
use crate::identity::Identity;
use crate::tls::{self, Carries, Inside, Security, TlsError};

/// What is asked, and of whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    pub(super) address: SocketAddr,
    pub(super) peer: Peer,
    /// How it is reached, and who must be there.
    pub(super) security: &'a Security,
    /// Who we are.
    pub(super) own: Option<&'a Identity>,
    pub(super) wire: Wire,
    pub(super) carries: Carries,
    pub(super) check: &'a HealthCheck,
    /// The authority where the check names none.
    pub(super) authority: &'a str,
}

/// Why an endpoint is not well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No connection: what the system said.
    Connect(io::ErrorKind),
    /// It is not who it should be, or does not believe who we are.
    Tls(String),
    /// It took too long.
    TimedOut(Duration),
    /// The connection ended before the answer did, or what came back is not HTTP.
    Broken(String),
    /// An answer with a status that is not one of those expected.
    Status(StatusCode),
    /// An answer with a gRPC status other than OK.
    Grpc(u32),
    /// `grpc.health.v1.HealthCheckResponse.status` is not SERVING but this.
    NotServing(i32),
    /// What came back is no answer of `grpc.health.v1`.
    NoHealthAnswer,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Connect(kind) => write!(f, "{kind}"),
            Failure::Tls(detail) => f.write_str(detail),
            Failure::TimedOut(limit) => write!(f, "no answer within {limit:?}"),
            Failure::Broken(detail) => write!(f, "no answer: {detail}"),
            Failure::Status(status) => write!(f, "status {}", status.as_u16()),
            Failure::Grpc(status) => write!(f, "grpc-status {status}"),
            Failure::NotServing(NOT_SERVING) => f.write_str("NOT_SERVING"),
            Failure::NotServing(SERVICE_UNKNOWN) => f.write_str("SERVICE_UNKNOWN"),
            Failure::NotServing(other) => write!(f, "serving status {other}"),
            Failure::NoHealthAnswer => f.write_str("its answer is none of grpc.health.v1"),
        }
    }
}

/// Checks once, within the check's time.
///
/// # Errors
/// What is wrong with the endpoint.
///
/// # Cancel safety
/// Dropped, the connection is closed.
pub(super) async fn probe(question: &Question<'_>) -> Result<(), Failure> {
    let limit = question.check.timeout;
    match tokio::time::timeout(limit, ask(question)).await {
        Ok(found) => found,
        Err(_) => Err(Failure::TimedOut(limit)),
    }
}

async fn ask(question: &Question<'_>) -> Result<(), Failure> {
    let stream = TcpStream::connect(question.address).await;
    let stream = stream.map_err(|error| Failure::Connect(error.kind()))?;
    let refused = |error: TlsError| Failure::Tls(error.to_string());
    let stream = match (question.security, question.own) {
        (Security::Cleartext, _) | (Security::Mutual(_), None) => Io::Tcp(stream),
        (Security::Mutual(peer), Some(own)) => {
            let inside = match question.carries {
                Carries::Http => question.wire.into(),
                Carries::Tcp => Inside::TcpCheck,
            };
            let connected = tls::connect(stream, own, peer, inside).await;
            connected.map_err(refused)?.0
        }
        (Security::Backend(client), _) => client.connect(stream).await.map_err(refused)?,
    };
    if question.carries == Carries::Tcp {
        return match (question.security, question.own) {
            (Security::Mutual(_), Some(_)) => ends_well(stream).await,
            // Whoever else it is can be asked nothing but whether it takes connections.
            (Security::Cleartext | Security::Mutual(_) | Security::Backend(_), _) => Ok(()),
        };
    }
    match (&question.check.kind, question.peer) {
        (HealthCheckKind::Tcp, Peer::Plain) => Ok(()),
        // A sidecar takes connections whether its app does or not: it is asked to try.
        (HealthCheckKind::Tcp, Peer::WeirProxy) => {
            let request = head(question, Method::GET, "/", None, Asks::Connection)?;
            let answer = exchange(question.wire, stream, with_content(request, Bytes::new())?).await?;
            answer.expect(&[StatusCode::OK])
        }
        (HealthCheckKind::Http { host, path, expected }, _) => {
            let request = head(question, Method::GET, path, host.as_deref(), Asks::Request)?;
            let answer = exchange(question.wire, stream, with_content(request, Bytes::new())?).await?;
            answer.expect(expected)
        }
        (HealthCheckKind::Grpc { service }, _) => {
            let request = head(question, Method::POST, GRPC_CHECK, None, Asks::Request)?
                .header(CONTENT_TYPE, "application/grpc")
                .header(TE, "trailers");
            let request = with_content(request, health_request(service))?;
            let answer = exchange(question.wire, stream, request).await?;
            answer.expect(&[StatusCode::OK])?;
            match grpc_status(&answer.headers) {
                Some(0) => health_answer(&answer.content),
                Some(status) => Err(Failure::Grpc(status)),
                None => Err(Failure::NoHealthAnswer),
            }
        }
    }
}

/// A sidecar that could connect to its app ends the connection in good order, without a word.
async fn ends_well(mut stream: Io) -> Result<(), Failure> {
    match stream.read(&mut [0; 1]).await {
        Ok(0) => Ok(()),
        Ok(_) => Err(broken("it said something that was not asked for")),
        Err(error) => Err(broken(error)),
    }
}

fn head(
    question: &Question<'_>,
    method: Method,
    path: &str,
    host: Option<&str>,
    asks: Asks,
) -> Result<request::Builder, Failure> {
    let authority = host.unwrap_or(question.authority);
    let request = Request::builder().method(method).header(USER_AGENT, AGENT);
    let request = match question.wire {
        Wire::Http1 => request.uri(path).header(HOST, authority).header(CONNECTION, "close"),
        Wire::Http2 => {
            let scheme = match question.security {
                Security::Backend(_) => Scheme::HTTPS,
                Security::Cleartext | Security::Mutual(_) => Scheme::HTTP,
            };
            let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(path);
            request.uri(uri.build().map_err(broken)?).version(Version::HTTP_2)
        }
    };
    Ok(match question.peer {
        Peer::WeirProxy => request.header(CHECK_HEADER, asks.as_str()),
        Peer::Plain => request,
    })
}

fn with_content(request: request::Builder, content: Bytes) -> Result<Request<Full<Bytes>>, Failure> {
    request.body(Full::new(content)).map_err(broken)
}

struct Answer {
    status: StatusCode,
    /// With the trailers.
    headers: HeaderMap,
    content: Vec<u8>,
}

impl Answer {
    fn expect(&self, expected: &[StatusCode]) -> Result<(), Failure> {
        match expected.contains(&self.status) {
            true => Ok(()),
            false => Err(Failure::Status(self.status)),
        }
    }
}

async fn exchange(wire: Wire, stream: Io, request: Request<Full<Bytes>>) -> Result<Answer, Failure> {
    let io = TokioIo::new(stream);
    match wire {
        Wire::Http1 => {
            let connecting = http1::Builder::new().max_buf_size(HEAD_BYTES_MAX).handshake(io);
            let (mut sender, connection) = connecting.await.map_err(broken)?;
            let answer = async move { read(sender.send_request(request).await.map_err(broken)?).await };
            while_driven(answer, connection).await
        }
        Wire::Http2 => {
            let tasks = Tasks::default();
            let connecting = http2::Builder::new(tasks.clone())
                .max_header_list_size(HEAD_BYTES_MAX as u32)
                .handshake(io);
            let _ended_with_this = Ending(&tasks);
            let (mut sender, connection) = connecting.await.map_err(broken)?;
            let answer = async move { read(sender.send_request(request).await.map_err(broken)?).await };
            while_driven(answer, connection).await
        }
    }
}

/// Waits for the answer. The connection may end before: what it has read then is the answer's all the same.
async fn while_driven(
    answer: impl Future<Output = Result<Answer, Failure>>,
    connection: impl Future,
) -> Result<Answer, Failure> {
    match select(pin!(answer), pin!(connection)).await {
        Either::Left((answer, _)) => answer,
        Either::Right((_, answer)) => answer.await,
    }
}

async fn read(response: Response<Incoming>) -> Result<Answer, Failure> {
    let (head, mut body) = response.into_parts();
    let mut answer = Answer {
        status: head.status,
        headers: head.headers,
        content: Vec::new(),
    };
    while let Some(frame) = body.frame().await {
        match frame.map_err(broken)?.into_data() {
            Ok(data) => answer.content.extend_from_slice(&data),
            Err(other) => answer.headers.extend(other.into_trailers().unwrap_or_default()),
        }
        if answer.content.len() > CONTENT_BYTES_MAX {
            break;
        }
    }
    Ok(answer)
}

fn broken(error: impl fmt::Display) -> Failure {
    Failure::Broken(error.to_string())
}

/// `grpc.health.v1.HealthCheckRequest`
#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`
#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// A message as gRPC sends it: not compressed, its length in front (gRPC, PROTOCOL-HTTP2.md).
fn health_request(service: &str) -> Bytes {
    let message = HealthCheckRequest {
        service: service.to_owned(),
    };
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0][..], &length.to_be_bytes(), &message].concat().into()
}

fn health_answer(content: &[u8]) -> Result<(), Failure> {
    let message = match content {
        [0, a, b, c, d, message @ ..] => {
            let length = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX);
            message
                .get(..length)
                .and_then(|message| HealthCheckResponse::decode(message).ok())
        }
        _ => None,
    };
    match message.ok_or(Failure::NoHealthAnswer)?.status {
        SERVING => Ok(()),
        status => Err(Failure::NotServing(status)),
    }
}

/// What a connection does beside the check: ended with it.
#[derive(Clone, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, future: F) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.spawn(async move {
            future.await;
        });
    }
}

/// Ends the tasks when dropped: one of them may hold a handle to all.
struct Ending<'a>(&'a Tasks);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
}

/// `grpc.health.v1.HealthCheckResponse.ServingStatus`
const SERVING: i32 = 1;
const NOT_SERVING: i32 = 2;
const SERVICE_UNKNOWN: i32 = 3;

/// Whom apps see in their logs.
const AGENT: &str = concat!("weir-proxy/", env!("CARGO_PKG_VERSION"), " health-check");

/// The most that is read of an answer's content: for longer ones the head has to do.
const CONTENT_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_a_grpc_server_is_well_or_says_why_not() {
        for (content, expect) in [
            (&b"\0\0\0\0\x02\x08\x01"[..], Ok(())),
            (b"\0\0\0\0\x02\x08\x02", Err(Failure::NotServing(2))),
            (b"\0\0\0\0\x00", Err(Failure::NotServing(0))),
            // Compressed, cut short, no message, nothing.
            (b"\x01\0\0\0\x02\x08\x01", Err(Failure::NoHealthAnswer)),
            (b"\0\0\0\0\x03\x08\x01", Err(Failure::NoHealthAnswer)),
            (b"\0\0\0\0\x02\xff\xff", Err(Failure::NoHealthAnswer)),
            (b"\0\xff\xff\xff\xff\x08\x01", Err(Failure::NoHealthAnswer)),
            (b"", Err(Failure::NoHealthAnswer)),
        ] {
            assert_eq!(health_answer(content), expect, "{content:?}");
        }
        assert_eq!(health_request("pkg"), &b"\0\0\0\0\x05\x0a\x03pkg"[..]);
        assert_eq!(health_request(""), &b"\0\0\0\0\0"[..]);
    }
}
