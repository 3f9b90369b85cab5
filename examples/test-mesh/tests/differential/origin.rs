//! The origin behind a program: it takes what comes by the letter, writes it down, and answers with the bytes that it
//! is told.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weir_test_mesh::{Script, ScriptedApp};

/// The path of the request that follows each case; answered with [`NEXT_ANSWER`].
pub(crate) const NEXT: &str = "/next";
/// The answer to it.
pub(crate) const NEXT_ANSWER: &str = "HTTP/1.1 200 OK\r\nX-Origin: next\r\nContent-Length: 4\r\n\r\nnext";

/// What the origin answers to a case's request.
#[derive(Clone, Copy)]
pub(crate) struct Says {
    /// These bytes.
    pub(crate) bytes: &'static [u8],
    /// And then.
    pub(crate) then: Then,
}

/// What becomes of a connection after an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// The next request is taken.
    GoesOn,
    /// It is closed.
    Closes,
}

/// A request as it arrived.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arrived {
    /// Method and target.
    pub(crate) line: String,
    /// The header, names in small letters, in the order of arrival.
    pub(crate) fields: Vec<(String, String)>,
    /// The content, without its framing.
    pub(crate) body: Vec<u8>,
    /// After the last chunk.
    pub(crate) trailers: Vec<String>,
    /// Whether its end came.
    pub(crate) ended: bool,
}

impl Arrived {
    /// The values of a field.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        let fields = self.fields.iter().filter(|(field, _)| field == name);
        fields.map(|(_, value)| value.as_str()).collect()
    }

    /// Whether it is the one that follows a case.
    pub(crate) fn is_next(&self) -> bool {
        self.line.ends_with(NEXT)
    }
}

/// An origin that runs; ended when dropped.
pub(crate) struct Origin {
    app: ScriptedApp,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    says: Says,
    arrived: Vec<Arrived>,
}

impl Origin {
    /// Starts it on loopback.
    pub(crate) async fn start() -> Origin {
        let shared = Arc::new(Mutex::new(Shared {
            says: ANSWERS,
            arrived: Vec::new(),
        }));
        let of_script = Arc::clone(&shared);
        let script = Script::raw(move |stream| {
            let shared = Arc::clone(&of_script);
            async move {
                // A connection that breaks ends what was written down of it.
                let _ = serve(stream, &shared).await;
            }
        });
        Origin {
            app: ScriptedApp::start(script).await,
            shared,
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.app.address()
    }

    /// Forgets what has arrived, and answers so from now on.
    pub(crate) fn begin(&self, says: Says) {
        let mut shared = lock(&self.shared);
        shared.says = says;
        shared.arrived.clear();
    }

    /// What has arrived since.
    pub(crate) fn arrived(&self) -> Vec<Arrived> {
        lock(&self.shared).arrived.clone()
    }
}

/// What is answered to a request unless a case says otherwise.
pub(crate) const ANSWERS: Says = Says {
    bytes: b"HTTP/1.1 200 OK\r\nX-Origin: case\r\nContent-Length: 4\r\n\r\ncase",
    then: Then::GoesOn,
};
/// The same to HEAD.
const ANSWERS_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nX-Origin: case\r\nContent-Length: 4\r\n\r\n";

fn lock(shared: &Mutex<Shared>) -> std::sync::MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(mut stream: TcpStream, shared: &Mutex<Shared>) -> std::io::Result<()> {
    let mut held = Vec::new();
    loop {
        let head = take(&mut stream, &mut held, b"\r\n\r\n").await?;
        let arrived = parse(&head);
        let (method, next) = (arrived.line.clone(), arrived.is_next());
        let place = {
            let mut shared = lock(shared);
            shared.arrived.push(arrived.clone());
            shared.arrived.len() - 1
        };
        let change = |change: &dyn Fn(&mut Arrived)| {
            // What has been forgotten is of an earlier case.
            if let Some(arrived) = lock(shared).arrived.get_mut(place) {
                change(arrived);
            }
        };
        if !arrived.values("expect").is_empty() {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let chunked = arrived
            .values("transfer-encoding")
            .iter()
            .any(|coding| coding.eq_ignore_ascii_case("chunked"));
        if chunked {
            loop {
                let size = take(&mut stream, &mut held, b"\r\n").await?;
                let size = String::from_utf8_lossy(&size);
                let digits = size.split([';', '\r']).next().unwrap_or_default().trim();
                let Ok(size) = usize::from_str_radix(digits, 16) else {
                    return Ok(());
                };
                if size == 0 {
                    break;
                }
                let data = take_bytes(&mut stream, &mut held, size + 2).await?;
                change(&|arrived| arrived.body.extend(&data[..size]));
            }
            loop {
                let line = take(&mut stream, &mut held, b"\r\n").await?;
                if line == b"\r\n" {
                    break;
                }
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                change(&|arrived| arrived.trailers.push(line.clone()));
            }
        } else if let Some(length) = arrived.values("content-length").first() {
            let Ok(mut left) = length.parse::<usize>() else {
                return Ok(());
            };
            while left > 0 {
                let some = take_bytes(&mut stream, &mut held, 1).await?;
                left -= some.len();
                change(&|arrived| arrived.body.extend(&some));
            }
        }
        change(&|arrived| arrived.ended = true);
        let says = lock(shared).says;
        if next {
            stream.write_all(NEXT_ANSWER.as_bytes()).await?;
            continue;
        }
        let bytes = match method.starts_with("HEAD ") && says.bytes == ANSWERS.bytes {
            true => ANSWERS_HEAD,
            false => says.bytes,
        };
        stream.write_all(bytes).await?;
        if says.then == Then::Closes {
            return stream.shutdown().await;
        }
    }
}

/// Takes what is there up to and with `end`.
async fn take(stream: &mut TcpStream, held: &mut Vec<u8>, end: &[u8]) -> std::io::Result<Vec<u8>> {
    loop {
        if let Some(at) = held.windows(end.len()).position(|window| window == end) {
            return Ok(held.drain(..at + end.len()).collect());
        }
        if stream.read_buf(held).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn take_bytes(stream: &mut TcpStream, held: &mut Vec<u8>, count: usize) -> std::io::Result<Vec<u8>> {
    while held.len() < count {
        if stream.read_buf(held).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(held.drain(..count).collect())
}

fn parse(head: &[u8]) -> Arrived {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.trim_end().split("\r\n");
    let line = lines.next().unwrap_or_default();
    let line = line.rsplit_once(' ').map_or(line, |(line, _)| line).to_owned();
    let fields = lines.map(field).collect();
    Arrived {
        line,
        fields,
        ..Arrived::default()
    }
}

/// A line of a header: its name in small letters, and its value without blanks around.
pub(crate) fn field(line: &str) -> (String, String) {
    let (name, value) = line.split_once(':').unwrap_or((line, ""));
    (name.trim().to_ascii_lowercase(), value.trim().to_owned())
}
