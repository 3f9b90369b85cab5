//! The byte stream of a connection, and where in a request's body it is: what the connection and the body of its
//! request have in common, since whoever sends the body on reads it from here.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use tokio::io::{AsyncRead, ReadBuf};

use crate::http::h1::chunks;
use crate::http::h1::interim::Interims;
use crate::http::h1::parse::Framing;
use crate::http::h1::violation::Violation;
use crate::http::io::Io;

/// The most that is read at once. It is read onto the stack and copied as far as it came, so that a connection that
/// waits holds no buffer, and a small part of a body no large one.
pub(super) const READ_BYTES_MAX: usize = 32 * 1024;

/// One side's view of the peer: what came and was not taken yet, what the body under way still needs.
pub(super) struct Stream {
    pub(super) io: Io,
    /// Read and not taken: the begin of a head, or what follows a body.
    pub(super) ahead: BytesMut,
    /// The peer has ended its side; it may wait for an answer all the same (RFC 9112 section 9.6).
    pub(super) peer_ended: bool,
    /// Which request is under way; a body of another one reads nothing any more. By then that is gone, should this have
    /// come round.
    pub(super) request: u32,
    pub(super) reading: Reading,
    pub(super) go_on: GoOn,
    /// What the upstream says before its answer, where it can say so.
    pub(super) interims: Option<Interims>,
    /// The connection's task: woken when it has something to do for the body.
    pub(super) connection: Option<Waker>,
}

/// What is left of the body of the request under way.
pub(super) enum Reading {
    /// Nothing.
    Done,
    /// So many bytes; at least 1.
    Length(u64),
    /// Chunks.
    Chunked(chunks::Decoder),
    /// It can't be known.
    Broken(Break),
}

/// How a body broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Break {
    /// The peer ended its side in the middle.
    #[error("the peer ended it before its end")]
    Ended,
    /// The connection failed.
    #[error("{0}")]
    Failed(io::ErrorKind),
    /// It is malformed, or too slow.
    #[error("{0}")]
    Refused(Violation),
}

/// Whether the peer has to be told to send its body (RFC 9110 section 10.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GoOn {
    /// It sends without being told.
    Unasked,
    /// It waits, and nobody has asked for the body yet.
    Asked,
    /// Somebody has: the connection writes it.
    Wanted,
    /// It has been written, or is not needed any more.
    Said,
}

/// A part of a body.
#[derive(Debug)]
pub(super) enum Part {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Stream {
    pub(super) fn new(io: Io) -> Stream {
        Stream {
            io,
            ahead: BytesMut::new(),
            peer_ended: false,
            request: 0,
            reading: Reading::Done,
            go_on: GoOn::Unasked,
            interims: None,
            connection: None,
        }
    }

    /// A request begins; its body is framed so.
    pub(super) fn begin(&mut self, framing: Framing, expects_continue: bool) {
        self.request = self.request.wrapping_add(1);
        self.reading = match framing {
            Framing::None => Reading::Done,
            Framing::Length(bytes) => Reading::Length(bytes),
            Framing::Chunked => Reading::Chunked(chunks::Decoder::new()),
        };
        // Who has begun to send its body does not wait.
        self.go_on = if expects_continue && self.ahead.is_empty() {
            GoOn::Asked
        } else {
            GoOn::Unasked
        };
    }

    /// Reads what has come to `ahead`; ready with nothing: the peer has ended its side.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = [const { MaybeUninit::uninit() }; READ_BYTES_MAX];
        let mut read = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
        let came = read.filled();
        self.peer_ended |= came.is_empty();
        self.ahead.extend_from_slice(came);
        Poll::Ready(Ok(came.len()))
    }

    /// Ready once the peer has ended its side, or failed; never, while there is a body to be read, or something came
    /// that is to be read later: then nothing more can be seen without taking it in.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.peer_ended || !self.ahead.is_empty() || !matches!(self.reading, Reading::Done) {
            return Poll::Pending;
        }
        match ready!(self.poll_fill(cx))? {
            0 => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    }

    /// Reads and forgets what comes; ready with nothing: the peer has ended its side.
    pub(super) fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = [const { MaybeUninit::uninit() }; READ_BYTES_MAX];
        let mut read = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
        Poll::Ready(Ok(read.filled().len()))
    }

    /// The next part of the body. Reads no more than was asked for, save what came in the same read.
    pub(super) fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Part, Break>>> {
        loop {
            if let Reading::Broken(how) = &self.reading {
                return Poll::Ready(Some(Err(*how)));
            }
            match self.decode_ahead() {
                Ok(Some(part)) => return Poll::Ready(Some(Ok(part))),
                Ok(None) if matches!(self.reading, Reading::Done) => return Poll::Ready(None),
                Ok(None) => {}
                Err(violation) => {
                    self.broken(Break::Refused(violation));
                    continue;
                }
            }
            match ready!(self.poll_decode(cx)) {
                Ok(Some(part)) => return Poll::Ready(Some(Ok(part))),
                Ok(None) => {}
                Err(how) => self.broken(how),
            }
        }
    }

    /// The body ends here, and so does what can be read of the connection.
    pub(super) fn broken(&mut self, how: Break) {
        self.reading = Reading::Broken(how);
        self.wake_connection();
    }

    /// Where the upstream of the request under way puts what it says before its answer. The connection looks there from
    /// now on.
    pub(super) fn interims(&mut self) -> Interims {
        let interims = self.interims.get_or_insert_default().clone();
        self.wake_connection();
        interims
    }

    pub(super) fn wake_connection(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.wake();
        }
    }

    fn decode_ahead(&mut self) -> Result<Option<Part>, Violation> {
        if self.ahead.is_empty() && !matches!(&self.reading, Reading::Chunked(decoder) if decoder.is_done()) {
            return Ok(None);
        }
        let (part, taken) = self.reading.decode(&self.ahead)?;
        if taken == self.ahead.len() {
            self.ahead = BytesMut::new();
        } else {
            self.ahead.advance(taken);
        }
        if matches!(self.reading, Reading::Done) {
            self.wake_connection();
        }
        Ok(part)
    }

    /// Reads, and decodes from where it was read to.
    fn poll_decode(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Part>, Break>> {
        let mut space = [const { MaybeUninit::uninit() }; READ_BYTES_MAX];
        let mut read = ReadBuf::uninit(&mut space);
        if let Err(error) = ready!(Pin::new(&mut self.io).poll_read(cx, &mut read)) {
            return Poll::Ready(Err(Break::Failed(error.kind())));
        }
        let came = read.filled();
        if came.is_empty() {
            self.peer_ended = true;
            return Poll::Ready(Err(Break::Ended));
        }
        let (part, taken) = match self.reading.decode(came) {
            Ok(decoded) => decoded,
            Err(violation) => return Poll::Ready(Err(Break::Refused(violation))),
        };
        self.ahead.extend_from_slice(came.get(taken..).unwrap_or_default());
        if matches!(self.reading, Reading::Done) {
            self.wake_connection();
        }
        Poll::Ready(Ok(part))
    }
}

impl Reading {
    /// The part that `input` begins with, and how much of it that took.
    fn decode(&mut self, input: &[u8]) -> Result<(Option<Part>, usize), Violation> {
        match self {
            Reading::Done | Reading::Broken(_) => Ok((None, 0)),
            Reading::Length(left) => {
                let taken = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
                *left -= taken as u64;
                if *left == 0 {
                    *self = Reading::Done;
                }
                let data = input.get(..taken).unwrap_or_default();
                Ok((Some(Part::Data(Bytes::copy_from_slice(data))), taken))
            }
            Reading::Chunked(decoder) => {
                let mut data = Vec::new();
                let taken = decoder.decode(input, &mut data)?;
                if !data.is_empty() {
                    // What has ended is seen as such with the next call, after the data.
                    if decoder.is_done() && !decoder.has_trailers() {
                        *self = Reading::Done;
                    }
                    return Ok((Some(Part::Data(data.into())), taken));
                }
                if !decoder.is_done() {
                    return Ok((None, taken));
                }
                let trailers = decoder.take_trailers()?;
                *self = Reading::Done;
                Ok((trailers.map(Part::Trailers), taken))
            }
        }
    }
}
