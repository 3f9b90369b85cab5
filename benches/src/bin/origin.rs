//! The app behind what is measured: answers `GET /bytes/N` with N bytes and a gRPC call with its own message, over
//! HTTP/1.1 and cleartext HTTP/2 on one port. Prints `ready` when it takes connections.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use clap::Parser;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Answers requests of the benchmark.
#[derive(Parser)]
struct Args {
    /// Where.
    #[arg(long)]
    listen: SocketAddr,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(serve(args))
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let listener = TcpListener::bind(args.listen).await?;
    println!("ready");
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        connections.spawn(async move {
            let service = service_fn(|request| async { Ok::<_, Infallible>(answer(request).await) });
            // A connection that breaks fails the client's request, and so the run.
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(request: Request<Incoming>) -> Response<Whole> {
    if let Some(bytes) = request
        .uri()
        .path()
        .strip_prefix("/bytes/")
        .and_then(|bytes| bytes.parse().ok())
    {
        return Response::new(Whole::new(BYTES.get(..bytes).map(Bytes::from_static), None));
    }
    if request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
    {
        let message = request.into_body().collect().await.map(|body| body.to_bytes());
        let status = if message.is_ok() { "0" } else { "13" };
        let trailers = HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static(status))]);
        let mut answer = Response::new(Whole::new(message.ok(), Some(trailers)));
        answer
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        return answer;
    }
    let mut answer = Response::new(Whole::new(None, None));
    *answer.status_mut() = StatusCode::NOT_FOUND;
    answer
}

/// A body that is there from the beginning, with trailers where there are any.
struct Whole {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Whole {
    fn new(data: Option<Bytes>, trailers: Option<HeaderMap>) -> Self {
        Whole {
            data: data.filter(|data| !data.is_empty()),
            trailers,
        }
    }
}

impl Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = match self.data.take() {
            Some(data) => Some(Frame::data(data)),
            None => self.trailers.take().map(Frame::trailers),
        };
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.data, &self.trailers) {
            // gRPC servers send no content-length.
            (_, Some(_)) => SizeHint::default(),
            (Some(data), None) => SizeHint::with_exact(data.len() as u64),
            (None, None) => SizeHint::with_exact(0),
        }
    }
}

const GRPC_STATUS: http::HeaderName = http::HeaderName::from_static("grpc-status");
static BYTES: [u8; 1 << 20] = [b'x'; 1 << 20];
