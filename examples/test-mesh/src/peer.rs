//! Peers that speak HTTP byte by byte, for what no library lets an app do: to refuse a stream, to close in the middle
//! of an answer, to name the last stream it took.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;

use crate::script::{Script, ScriptedApp};

/// An address at which nobody listens, and nobody else can, as long as this is there.
#[derive(Debug)]
pub struct ClosedPort {
    bound: TcpSocket,
}

impl ClosedPort {
    /// Any such address of this host.
    ///
    /// # Panics
    /// When there is none.
    pub fn any() -> ClosedPort {
        let bound = TcpSocket::new_v4().expect("a socket");
        bound.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
        ClosedPort { bound }
    }

    /// Which it is.
    ///
    /// # Panics
    /// When the system does not say.
    pub fn address(&self) -> SocketAddr {
        self.bound.local_addr().expect("its address")
    }
}

/// What a peer does with one request.
#[derive(Clone, Debug)]
pub enum Act {
    /// A whole answer with this status and no content.
    Answer(u16),
    /// These bytes, whatever they are (HTTP/2: they stand behind the frames that were sent), then the end of the
    /// connection.
    Bytes(Vec<u8>),
    /// The end of the connection.
    Close,
    /// RST_STREAM with this code, at the request's end. HTTP/2 only.
    Reset(u32),
    /// RST_STREAM with REFUSED_STREAM, once so much of the body has come. HTTP/2 only.
    Refuse {
        /// 0: at the request's head.
        after_bytes: usize,
        /// The window that streams begin with from then on.
        next_window: u32,
    },
    /// GOAWAY with this last stream at the request's head, then the end of the connection. HTTP/2 only.
    GoAway {
        /// Streams above it were not processed.
        last_stream: u32,
    },
    /// An answer's head and some of its content, then RST_STREAM. HTTP/2 only.
    Broken,
    /// An answer's head at the request's head; when this is told, a window of a million bytes; and the answer's end at
    /// the request's end. HTTP/2 only.
    Early(Arc<Notify>),
    /// Nothing.
    Wait,
}

/// A request as such a peer saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerSaw {
    /// Which of its connections carried it, from 1.
    pub connection: usize,
    /// HTTP/1.1: its head.
    pub head: String,
    /// So much of its body as came.
    pub body: Vec<u8>,
    /// Whether it was there to its end.
    pub ended: bool,
    /// HTTP/2: the code with which the sender gave its stream up.
    pub reset: Option<u32>,
}

/// A peer that runs; ended when dropped.
pub struct Peer {
    app: ScriptedApp,
    notes: Notes,
}

#[derive(Clone)]
struct Notes {
    connections: Arc<AtomicUsize>,
    saw: Arc<Mutex<Vec<PeerSaw>>>,
    act: Arc<dyn Fn(usize) -> Act + Send + Sync>,
}

impl Peer {
    /// One that speaks HTTP/1.1; `act` is asked for each request by its number, from 1.
    pub async fn http1(act: impl Fn(usize) -> Act + Send + Sync + 'static) -> Peer {
        let notes = Notes::new(act);
        let shared = notes.clone();
        let script = Script::raw(move |stream| {
            let notes = shared.clone();
            async move {
                let _ = http1(stream, &notes).await;
            }
        });
        let app = ScriptedApp::start(script).await;
        Peer { app, notes }
    }

    /// One that speaks HTTP/2 in cleartext; `act` is asked for each stream by its number over all connections, from 1.
    pub async fn http2(act: impl Fn(usize) -> Act + Send + Sync + 'static) -> Peer {
        Peer::http2_with_window(65_535, act).await
    }

    /// The same, where each stream and each connection begins with such a window, in bytes.
    pub async fn http2_with_window(window: u32, act: impl Fn(usize) -> Act + Send + Sync + 'static) -> Peer {
        let notes = Notes::new(act);
        let shared = notes.clone();
        let script = Script::raw(move |stream| {
            let notes = shared.clone();
            async move {
                let _ = http2(stream, window, &notes).await;
            }
        });
        let app = ScriptedApp::start(script).await;
        Peer { app, notes }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.app.address()
    }

    /// The requests whose head came, in that order.
    pub fn saw(&self) -> Vec<PeerSaw> {
        self.notes.saw.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The same, for when the peer has become a workload's app.
    pub fn watch(&self) -> impl Fn() -> Vec<PeerSaw> + use<> {
        let saw = Arc::clone(&self.notes.saw);
        move || saw.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Connections it has accepted.
    pub fn connections(&self) -> usize {
        self.app.connections()
    }

    /// What runs.
    pub fn into_app(self) -> ScriptedApp {
        self.app
    }
}

impl Notes {
    fn new(act: impl Fn(usize) -> Act + Send + Sync + 'static) -> Notes {
        Notes {
            connections: Arc::default(),
            saw: Arc::default(),
            act: Arc::new(act),
        }
    }

    fn begin(&self, connection: usize, head: String) -> (usize, Act) {
        let number = {
            let mut saw = self.saw.lock().unwrap_or_else(PoisonError::into_inner);
            saw.push(PeerSaw {
                connection,
                head,
                ..PeerSaw::default()
            });
            saw.len()
        };
        (number, (self.act)(number))
    }

    fn change(&self, number: usize, change: impl FnOnce(&mut PeerSaw)) {
        let mut saw = self.saw.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut saw[number - 1]);
    }
}

async fn http1(mut stream: TcpStream, notes: &Notes) -> std::io::Result<()> {
    let connection = notes.connections.fetch_add(1, Ordering::Relaxed) + 1;
    let mut held = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = held.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut held).await? == 0 {
                return Ok(());
            }
        };
        let head = String::from_utf8_lossy(&held[..end]).to_ascii_lowercase();
        held.drain(..end);
        let chunked = head.contains("\r\ntransfer-encoding: chunked\r\n");
        let length = head
            .split("\r\n")
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.parse::<usize>().expect("a length"));
        let (number, act) = notes.begin(connection, head);
        let whole = |held: &[u8]| match chunked {
            true => held.ends_with(b"0\r\n\r\n"),
            false => held.len() >= length,
        };
        while !whole(&held) {
            if stream.read_buf(&mut held).await? == 0 {
                return Ok(());
            }
        }
        let body = std::mem::take(&mut held);
        notes.change(number, |saw| {
            saw.body = body;
            saw.ended = true;
        });
        match act {
            Act::Answer(status) => {
                let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await?;
            }
            Act::Bytes(bytes) => {
                stream.write_all(&bytes).await?;
                return stream.shutdown().await;
            }
            Act::Close => return Ok(()),
            Act::Wait => {
                // Until the sender gives up.
                while stream.read_buf(&mut held).await? > 0 {}
                return Ok(());
            }
            Act::Reset(_) | Act::Refuse { .. } | Act::GoAway { .. } | Act::Broken | Act::Early(_) => {
                panic!("{act:?} is HTTP/2's")
            }
        }
    }
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const REFUSED_STREAM: u32 = 7;

/// An HTTP/2 frame (RFC 9113 section 4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// `:status` as HPACK literal without indexing, its name from the static table (RFC 7541 section 6.2.2).
fn status(status: u16) -> Vec<u8> {
    let mut block = vec![0x08, 3];
    block.extend(status.to_string().bytes());
    block
}

/// SETTINGS_INITIAL_WINDOW_SIZE (RFC 9113 section 6.5.2).
fn first_window(bytes: u32) -> Vec<u8> {
    frame(
        SETTINGS,
        0,
        0,
        &[&4_u16.to_be_bytes()[..], &bytes.to_be_bytes()].concat(),
    )
}

async fn http2(mut stream: TcpStream, window: u32, notes: &Notes) -> std::io::Result<()> {
    let connection = notes.connections.fetch_add(1, Ordering::Relaxed) + 1;
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await?;
    stream.write_all(&first_window(window)).await?;
    if let Some(more) = window.checked_sub(65_535).filter(|more| *more > 0) {
        stream
            .write_all(&frame(WINDOW_UPDATE, 0, 0, &more.to_be_bytes()))
            .await?;
    }
    let mut open: Vec<(u32, usize, Act)> = Vec::new();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, id @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).await?;
        let id = u32::from_be_bytes(id);
        match kind {
            SETTINGS if flags & ACK == 0 => stream.write_all(&frame(SETTINGS, ACK, 0, &[])).await?,
            PING if flags & ACK == 0 => stream.write_all(&frame(PING, ACK, 0, &payload)).await?,
            HEADERS if !open.iter().any(|(other, ..)| *other == id) => {
                let (number, act) = notes.begin(connection, String::new());
                match &act {
                    Act::GoAway { last_stream } => {
                        let payload = [last_stream.to_be_bytes(), [0; 4]].concat();
                        stream.write_all(&frame(GOAWAY, 0, 0, &payload)).await?;
                        stream.shutdown().await?;
                        // What was on its way is read, so that the system does not reset the connection.
                        while stream.read(&mut [0; 1024]).await? > 0 {}
                        return Ok(());
                    }
                    Act::Early(go_on) => {
                        let window = 1_000_000_u32.to_be_bytes();
                        stream.write_all(&frame(HEADERS, END_HEADERS, id, &status(200))).await?;
                        go_on.notified().await;
                        stream.write_all(&frame(WINDOW_UPDATE, 0, id, &window)).await?;
                    }
                    _ => {}
                }
                open.push((id, number, act));
            }
            DATA if !payload.is_empty() => {
                let bytes = u32::try_from(payload.len()).expect("a frame").to_be_bytes();
                stream.write_all(&frame(WINDOW_UPDATE, 0, 0, &bytes)).await?;
                if let Some((_, number, act)) = open.iter().find(|(other, ..)| *other == id) {
                    notes.change(*number, |saw| saw.body.extend(&payload));
                    if !matches!(act, Act::Refuse { .. }) && flags & END_STREAM == 0 {
                        stream.write_all(&frame(WINDOW_UPDATE, 0, id, &bytes)).await?;
                    }
                }
            }
            RST_STREAM => {
                let code = payload.try_into().map_or(0, u32::from_be_bytes);
                if let Some((_, number, _)) = open.iter().find(|(other, ..)| *other == id) {
                    notes.change(*number, |saw| saw.reset = Some(code));
                }
            }
            _ => {}
        }
        let Some((_, number, act)) = open.iter().find(|(other, ..)| *other == id) else {
            continue;
        };
        let refuse = match act {
            Act::Refuse { after_bytes, .. } => {
                matches!(kind, HEADERS | DATA) && notes.body_bytes(*number) >= *after_bytes
            }
            _ => false,
        };
        let ended = matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0;
        if ended {
            notes.change(*number, |saw| saw.ended = true);
        }
        if !(ended || refuse) {
            continue;
        }
        match act {
            Act::Answer(code) => {
                let flags = END_STREAM | END_HEADERS;
                stream.write_all(&frame(HEADERS, flags, id, &status(*code))).await?;
            }
            Act::Bytes(bytes) => {
                stream.write_all(bytes).await?;
                return stream.shutdown().await;
            }
            Act::Close => return Ok(()),
            Act::Reset(code) => stream.write_all(&frame(RST_STREAM, 0, id, &code.to_be_bytes())).await?,
            Act::Refuse { next_window, .. } => {
                let reset = frame(RST_STREAM, 0, id, &REFUSED_STREAM.to_be_bytes());
                stream.write_all(&[first_window(*next_window), reset].concat()).await?;
            }
            Act::Broken => {
                let answer = [
                    frame(HEADERS, END_HEADERS, id, &status(200)),
                    frame(DATA, 0, id, b"half"),
                    frame(RST_STREAM, 0, id, &2_u32.to_be_bytes()),
                ];
                stream.write_all(&answer.concat()).await?;
            }
            Act::Early(_) => stream.write_all(&frame(DATA, END_STREAM, id, b"end")).await?,
            Act::GoAway { .. } | Act::Wait => {}
        }
    }
}

impl Notes {
    fn body_bytes(&self, number: usize) -> usize {
        let saw = self.saw.lock().unwrap_or_else(PoisonError::into_inner);
        saw[number - 1].body.len()
    }
}
