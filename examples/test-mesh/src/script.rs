//! Apps that do as they are told, and count what reaches them.

use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body_util::channel::Channel;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Http = dyn Fn(Seen) -> Boxed<Response<Full<Bytes>>> + Send + Sync;
type Streamed = dyn Fn(Request<Incoming>) -> Boxed<Response<BoxBody<Bytes, Infallible>>> + Send + Sync;
type Raw = dyn Fn(TcpStream) -> Boxed<()> + Send + Sync;

/// What an app does with what it gets.
#[derive(Clone)]
pub struct Script(Kind);

#[derive(Clone)]
enum Kind {
    Http(Arc<Http>),
    Streamed(Arc<Streamed>),
    Raw(Arc<Raw>),
}

/// A request as an app saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Which of its requests it is, from 1.
    pub number: usize,
    /// Its head.
    pub head: Arc<Parts>,
    /// Its body.
    pub body: Bytes,
}

impl Seen {
    /// A field of its header, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name)?.to_str().ok()
    }
}

impl Script {
    /// Always this answer.
    pub fn answer(status: u16, body: &str) -> Script {
        let body = Bytes::from(body.to_owned());
        Script::http(move |_| {
            let mut response = Response::new(Full::new(body.clone()));
            *response.status_mut() = http::StatusCode::from_u16(status).expect("a status");
            async move { response }
        })
    }

    /// An answer to each request, once its body has been read. HTTP/1.1 and HTTP/2.
    pub fn http<F>(answer: impl Fn(Seen) -> F + Send + Sync + 'static) -> Script
    where
        F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        Script(Kind::Http(Arc::new(move |seen| Box::pin(answer(seen)))))
    }

    /// An answer to each request, both streamed.
    pub fn streamed<F>(answer: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static) -> Script
    where
        F: Future<Output = Response<BoxBody<Bytes, Infallible>>> + Send + 'static,
    {
        Script(Kind::Streamed(Arc::new(move |request| Box::pin(answer(request)))))
    }

    /// `begin end` in two parts, the second one on `/long` only when `ended` says so.
    pub fn begin_and_end(ended: watch::Receiver<bool>) -> Script {
        Script::streamed(move |request| {
            let mut ended = ended.clone();
            async move {
                let (mut sender, body) = Channel::new(1);
                let long = request.uri().path() == "/long";
                tokio::spawn(async move {
                    let _ = sender.send_data(Bytes::from_static(b"begin ")).await;
                    if long {
                        let _ = ended.wait_for(|ended| *ended).await;
                    }
                    let _ = sender.send_data(Bytes::from_static(b"end")).await;
                });
                Response::new(BoxBody::new(body))
            }
        })
    }

    /// Whatever it likes with each connection.
    pub fn raw<F>(serve: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> Script
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Script(Kind::Raw(Arc::new(move |stream| Box::pin(serve(stream)))))
    }
}

/// An app that runs; ended when dropped.
pub struct ScriptedApp {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
    tasks: JoinSet<()>,
}

impl ScriptedApp {
    /// Starts it on loopback.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn start(script: Script) -> ScriptedApp {
        ScriptedApp::start_at(IpAddr::V4(Ipv4Addr::LOCALHOST), script).await
    }

    /// Starts it at an address of this host.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn start_at(address: IpAddr, script: Script) -> ScriptedApp {
        let listener = TcpListener::bind((address, 0)).await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        let sees = Arc::clone(&seen);
        let accepted = Arc::new(AtomicUsize::new(0));
        let counts = Arc::clone(&accepted);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let _ = stream.set_nodelay(true);
                counts.fetch_add(1, Ordering::Relaxed);
                connections.spawn(serve(stream, script.clone(), Arc::clone(&sees)));
                while connections.try_join_next().is_some() {}
            }
        });
        ScriptedApp {
            address,
            seen,
            connections: accepted,
            tasks,
        }
    }

    /// Ends it before its time: connections to it are refused from now on.
    pub async fn close(&mut self) {
        self.tasks.shutdown().await;
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections it has accepted, the sidecar's own checks of the port among them.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// The requests that reached it, in the order in which their bodies ended. Of raw and streamed scripts: none.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn serve(stream: TcpStream, script: Script, seen: Arc<Mutex<Vec<Seen>>>) {
    let builder = auto::Builder::new(TokioExecutor::new());
    match script.0 {
        Kind::Raw(raw) => raw(stream).await,
        Kind::Http(answer) => {
            let service = service_fn(move |request: Request<Incoming>| {
                let (answer, seen) = (Arc::clone(&answer), Arc::clone(&seen));
                async move {
                    let (head, body) = request.into_parts();
                    let body = body.collect().await?.to_bytes();
                    let saw = {
                        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                        let saw = Seen {
                            number: seen.len() + 1,
                            head: Arc::new(head),
                            body,
                        };
                        seen.push(saw.clone());
                        saw
                    };
                    Ok::<_, hyper::Error>(answer(saw).await)
                }
            });
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        }
        Kind::Streamed(answer) => {
            let service = service_fn(move |request| {
                let answer = Arc::clone(&answer);
                async move { Ok::<_, Infallible>(answer(request).await) }
            });
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        }
    }
}
