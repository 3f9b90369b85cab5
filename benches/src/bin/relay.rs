//! The least that can stand between a client and an origin: a hyper server and a hyper client, one connection upstream
//! for each downstream, one thread. What a sidecar costs is told beside it. Prints `ready` when it takes connections.

use std::net::SocketAddr;

use clap::{Parser, ValueEnum};
use http::Request;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

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

async fn serve(args: Args) -> anyhow::Result<()> {
    let listener = TcpListener::bind(args.listen).await?;
    println!("ready");
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let (downstream, _) = listener.accept().await?;
        downstream.set_nodelay(true)?;
        connections.spawn(async move {
            // A connection that breaks fails the client's request, and so the run.
            let _ = match args.protocol {
                Protocol::Http1 => relay_http1(downstream, args.to).await,
                Protocol::Http2 => relay_http2(downstream, args.to).await,
            };
        });
    }
}

async fn relay_http1(downstream: TcpStream, to: SocketAddr) -> anyhow::Result<()> {
    let upstream = TcpStream::connect(to).await?;
    upstream.set_nodelay(true)?;
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

async fn relay_http2(downstream: TcpStream, to: SocketAddr) -> anyhow::Result<()> {
    let upstream = TcpStream::connect(to).await?;
    upstream.set_nodelay(true)?;
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
