//! The least that can stand between a client and an origin: a hyper server and a hyper client, one connection upstream
//! for each downstream, one thread. What a sidecar costs is told beside it. Either side may be mutual TLS, as two
//! relays have it between them. Prints `ready` when it takes connections.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Parser, ValueEnum};
use http::Request;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use weir_bench::certificates::{Identity, server_name};

/// Passes requests on, and does nothing else.
#[derive(Parser)]
struct Args {
    /// Where clients come in.
    #[arg(long)]
    listen: SocketAddr,
    /// Where their requests go.
    #[arg(long)]
    to: SocketAddr,
    /// What both sides speak.
    #[arg(long, value_enum)]
    protocol: Protocol,
    /// Which side is mutual TLS; without, none.
    #[arg(long, value_enum, requires = "identity")]
    tls: Option<Tls>,
    /// Where the certificate is by which that is spoken: see `weir_bench::certificates`.
    #[arg(long)]
    identity: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Tls {
    Downstream,
    Upstream,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Protocol {
    Http1,
    Http2,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(serve(args))
}

/// How both sides are spoken to.
#[derive(Clone)]
enum Sides {
    Plain,
    Downstream(TlsAcceptor),
    Upstream(TlsConnector),
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let identity = args.identity.as_deref().map(Identity::read).transpose()?;
    let sides = match (args.tls, identity) {
        (Some(Tls::Downstream), Some(identity)) => {
            Sides::Downstream(TlsAcceptor::from(Arc::new(identity.server(args.protocol.alpn())?)))
        }
        (Some(Tls::Upstream), Some(identity)) => {
            Sides::Upstream(TlsConnector::from(Arc::new(identity.client(args.protocol.alpn())?)))
        }
        (_, _) => Sides::Plain,
    };
    let listener = TcpListener::bind(args.listen).await?;
    println!("ready");
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let (downstream, _) = listener.accept().await?;
        downstream.set_nodelay(true)?;
        let sides = sides.clone();
        connections.spawn(async move {
            // A connection that breaks fails the client's request, and so the run.
            let _ = connect(downstream, args.to, sides, args.protocol).await;
        });
    }
}

async fn connect(downstream: TcpStream, to: SocketAddr, sides: Sides, protocol: Protocol) -> anyhow::Result<()> {
    let upstream = TcpStream::connect(to).await?;
    upstream.set_nodelay(true)?;
    match sides {
        Sides::Plain => relay(downstream, upstream, protocol).await,
        Sides::Downstream(acceptor) => relay(acceptor.accept(downstream).await?, upstream, protocol).await,
        Sides::Upstream(connector) => {
            relay(downstream, connector.connect(server_name(), upstream).await?, protocol).await
        }
    }
}

async fn relay(
    downstream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    upstream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    protocol: Protocol,
) -> anyhow::Result<()> {
    match protocol {
        Protocol::Http1 => relay_http1(downstream, upstream).await,
        Protocol::Http2 => relay_http2(downstream, upstream).await,
    }
}

async fn relay_http1(
    downstream: impl AsyncRead + AsyncWrite + Unpin,
    upstream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> anyhow::Result<()> {
    let (sender, driver) = http1::handshake(TokioIo::new(upstream)).await?;
    // HTTP/1.1 has one request at a time, so this is never waited for.
    let sender = &Mutex::new(sender);
    let service = service_fn(move |request: Request<Incoming>| async move {
        let mut sender = sender.lock().await;
        sender.ready().await?;
        sender.send_request(request).await
    });
    let server = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(downstream), service);
    tokio::try_join!(server, driver)?;
    Ok(())
}

async fn relay_http2(
    downstream: impl AsyncRead + AsyncWrite + Unpin,
    upstream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> anyhow::Result<()> {
    let (sender, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(upstream)).await?;
    let service = service_fn(move |request: Request<Incoming>| {
        let mut sender = sender.clone();
        async move {
            sender.ready().await?;
            sender.send_request(request).await
        }
    });
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(downstream), service);
    tokio::try_join!(server, driver)?;
    Ok(())
}

impl Protocol {
    fn alpn(self) -> &'static str {
        match self {
            Protocol::Http1 => "http/1.1",
            Protocol::Http2 => "h2",
        }
    }
}
