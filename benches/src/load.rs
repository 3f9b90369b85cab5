//! Requests: in a closed loop, where each stream sends the next when it has the answer to the last, or paced, whatever
//! becomes of those before.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A GET whose answer has this many bytes.
    Bytes(usize),
    /// A unary gRPC call whose message has this many bytes, and the answer's the same.
    Grpc(usize),
}

/// Over which connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// HTTP/1.1, one request at a time on each.
    Http1 {
        /// How many.
        connections: usize,
    },
    /// HTTP/2 in cleartext by prior knowledge.
    Http2 {
        /// How many.
        connections: usize,
        /// Requests at a time on each.
        streams: usize,
    },
}

/// Where to, and as what.
#[derive(Clone, Debug)]
pub struct Target {
    /// Whom to connect to.
    pub address: SocketAddr,
    /// The request's authority.
    pub authority: String,
}

/// Asks by a POST of JSON; gives the answer's body.
///
/// # Errors
/// When there is no answer, or one that is no success.
pub async fn post(to: SocketAddr, path: &str, json: String) -> anyhow::Result<Bytes> {
    let (mut sender, driver) = http1::handshake(connect(to).await?).await?;
    let mut drivers = JoinSet::new();
    drivers.spawn(driver);
    let request = Request::post(path)
        .header(header::HOST, to.to_string())
        .header(header::CONTENT_TYPE, "application/json");
    let response = sender.send_request(request.body(Full::new(Bytes::from(json)))?).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    ensure!(
        status.is_success(),
        "{path}: {status}: {}",
        String::from_utf8_lossy(&body)
    );
    Ok(body)
}

/// Connections that are ready to carry requests.
pub struct Load {
    streams: Vec<Stream>,
    request: Request<()>,
    body: Bytes,
    expect: Expect,
    /// What drives the connections; ends with this.
    _drivers: JoinSet<()>,
}

enum Stream {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

#[derive(Clone, Copy)]
struct Expect {
    bytes: usize,
    grpc_status: Option<&'static str>,
}

impl Load {
    /// Connects, and sends one request on each stream, so that all is warm and known to work.
    ///
    /// # Errors
    /// When a connection or a request fails.
    pub async fn open(target: &Target, over: Over, ask: Ask) -> anyhow::Result<Load> {
        let mut drivers = JoinSet::new();
        let mut streams = Vec::new();
        match over {
            Over::Http1 { connections } => {
                for _ in 0..connections {
                    let (sender, driver) = http1::handshake(connect(target.address).await?).await?;
                    drivers.spawn(async move {
                        let _ = driver.await;
                    });
                    streams.push(Stream::Http1(sender));
                }
            }
            Over::Http2 {
                connections,
                streams: each,
            } => {
                for _ in 0..connections {
                    let (sender, driver) =
                        http2::handshake(TokioExecutor::new(), connect(target.address).await?).await?;
                    drivers.spawn(async move {
                        let _ = driver.await;
                    });
                    streams.extend((0..each).map(|_| Stream::Http2(sender.clone())));
                }
            }
        }
        let (request, body, expect) = request(target, over, ask)?;
        let mut load = Load {
            streams,
            request,
            body,
            expect,
            _drivers: drivers,
        };
        load.run(Duration::ZERO).await?;
        Ok(load)
    }

    /// Sends requests on all streams for as long as this, and at least one on each; gives how many were answered.
    ///
    /// # Errors
    /// When one has not the answer that it should.
    pub async fn run(&mut self, duration: Duration) -> anyhow::Result<u64> {
        let end = Instant::now() + duration;
        self.until(move |_answered| Instant::now() >= end).await
    }

    /// Sends so many requests, the same number on each stream, and more where they can't be parted so; gives how many
    /// were answered.
    ///
    /// # Errors
    /// When one has not the answer that it should.
    pub async fn send(&mut self, requests: u64) -> anyhow::Result<u64> {
        let each = requests.div_ceil(self.streams.len() as u64);
        self.until(move |answered| answered >= each).await
    }

    /// Sends requests on all streams, on each until this is true of the number of its answers; at least one.
    async fn until(&mut self, enough: impl Fn(u64) -> bool + Copy + Send + 'static) -> anyhow::Result<u64> {
        let mut running = JoinSet::new();
        for mut stream in self.streams.drain(..) {
            let (request, body, expect) = (self.request.clone(), self.body.clone(), self.expect);
            running.spawn(async move {
                let mut answered = 0_u64;
                loop {
                    let answer = stream.send(request.clone().map(|()| Full::new(body.clone()))).await?;
                    check(answer, expect).await?;
                    answered += 1;
                    if enough(answered) {
                        return anyhow::Ok((stream, answered));
                    }
                }
            });
        }
        let mut all = 0;
        while let Some(ended) = running.join_next().await {
            let (stream, answered) = ended??;
            self.streams.push(stream);
            all += answered;
        }
        Ok(all)
    }
}

impl Load {
    /// Sends so many requests a second for as long as this, each by a stream that is free; gives how long each took
    /// from the moment at which it was due, so that one that had to wait for a free stream has waited (no coordinated
    /// omission).
    ///
    /// # Errors
    /// When one has not the answer that it should.
    pub async fn paced(&mut self, rate: u32, duration: Duration) -> anyhow::Result<Vec<Duration>> {
        let count = (f64::from(rate) * duration.as_secs_f64()).ceil().max(1.0) as u32;
        let (due, dues) = mpsc::channel(usize::try_from(count)?);
        // A thread, since timers of the runtime tick in milliseconds.
        let pacing = std::thread::spawn(move || {
            let start = std::time::Instant::now();
            for number in 0..count {
                let at = start + Duration::from_secs_f64(f64::from(number) / f64::from(rate));
                std::thread::sleep(at.saturating_duration_since(std::time::Instant::now()));
                // There is room for all; nobody listens any more only after a request that failed.
                if due.blocking_send(at).is_err() {
                    return;
                }
            }
        });
        let dues = Arc::new(Mutex::new(dues));
        let mut running = JoinSet::new();
        for mut stream in self.streams.drain(..) {
            let (request, body, expect) = (self.request.clone(), self.body.clone(), self.expect);
            let dues = Arc::clone(&dues);
            running.spawn(async move {
                let mut took = Vec::new();
                loop {
                    let due = dues.lock().await.recv().await;
                    let Some(due) = due else {
                        return anyhow::Ok((stream, took));
                    };
                    let answer = stream.send(request.clone().map(|()| Full::new(body.clone()))).await?;
                    check(answer, expect).await?;
                    took.push(due.elapsed());
                }
            });
        }
        drop(dues);
        let mut all = Vec::new();
        while let Some(ended) = running.join_next().await {
            let (stream, took) = ended??;
            self.streams.push(stream);
            all.extend(took);
        }
        pacing.join().map_err(|_| anyhow!("the pacing thread panicked"))?;
        Ok(all)
    }
}

impl Stream {
    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Stream::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Stream::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}

async fn connect(address: SocketAddr) -> anyhow::Result<TokioIo<TcpStream>> {
    let stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("connecting to {address}"))?;
    stream.set_nodelay(true)?;
    Ok(TokioIo::new(stream))
}

fn request(target: &Target, over: Over, ask: Ask) -> anyhow::Result<(Request<()>, Bytes, Expect)> {
    let (method, path) = match ask {
        Ask::Bytes(bytes) => (Method::GET, format!("/bytes/{bytes}")),
        Ask::Grpc(_) => (Method::POST, "/weir.bench.Echo/Unary".to_owned()),
    };
    let mut request = Request::new(());
    *request.method_mut() = method;
    match over {
        Over::Http1 { .. } => {
            *request.uri_mut() = path.parse()?;
            request
                .headers_mut()
                .insert(header::HOST, HeaderValue::from_str(&target.authority)?);
        }
        Over::Http2 { .. } => *request.uri_mut() = format!("http://{}{path}", target.authority).parse()?,
    }
    Ok(match ask {
        Ask::Bytes(bytes) => {
            let expect = Expect {
                bytes,
                grpc_status: None,
            };
            (request, Bytes::new(), expect)
        }
        Ask::Grpc(bytes) => {
            request
                .headers_mut()
                .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            request
                .headers_mut()
                .insert(header::TE, HeaderValue::from_static("trailers"));
            let length = u32::try_from(bytes).context("a message longer than 4 GiB")?;
            // Not compressed, this long (gRPC over HTTP/2, "Length-Prefixed-Message").
            let mut body = vec![0];
            body.extend(length.to_be_bytes());
            body.resize(body.len() + bytes, b'x');
            let expect = Expect {
                bytes: body.len(),
                grpc_status: Some("0"),
            };
            (request, Bytes::from(body), expect)
        }
    })
}

async fn check(answer: Response<Incoming>, expect: Expect) -> anyhow::Result<()> {
    let (head, mut body) = answer.into_parts();
    let mut bytes = 0;
    let mut grpc_status = None;
    while let Some(frame) = body.frame().await {
        let frame = frame?;
        if let Some(data) = frame.data_ref() {
            bytes += data.len();
        } else if let Some(trailers) = frame.trailers_ref() {
            grpc_status = trailers.get("grpc-status").cloned();
        }
    }
    ensure!(
        head.status == StatusCode::OK && bytes == expect.bytes,
        "answered {} with {bytes} bytes, not 200 with {}: {:?}",
        head.status,
        expect.bytes,
        head.headers,
    );
    let grpc_status = grpc_status.as_ref().map(HeaderValue::as_bytes);
    ensure!(
        grpc_status == expect.grpc_status.map(str::as_bytes),
        "ended with grpc-status {grpc_status:?}"
    );
    Ok(())
}
