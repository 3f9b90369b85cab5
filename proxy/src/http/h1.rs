//! An HTTP/1 connection of a downstream: one request after the other, each read when the answer before is written.
//!
//! Between requests it holds its socket, a timer and nothing else. A head is read whole, one way or not at all
//! ([`parse`]); a body is read as far as somebody asks for it ([`body`]); an answer is written as its body comes
//! ([`encode`]). What can't be read is answered with the rule it breaks ([`violation`]), and the connection ends.

pub(crate) mod alarm;
pub(crate) mod body;
pub(crate) mod chunks;
mod encode;
pub(crate) mod interim;
mod outbox;
pub(crate) mod parse;
mod stream;
#[cfg(test)]
mod tests;
pub(crate) mod violation;

pub(crate) use stream::Break;

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use http::{HeaderMap, Response, StatusCode};
use http_body::{Body as _, Frame};
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use crate::drain::Drain;
use crate::http::body::{DownstreamBody, ResponseBody};
use crate::http::downstream::Service;
use crate::http::h1::alarm::Alarm;
use crate::http::h1::body::{Body, NoBody};
use crate::http::h1::encode::{After, Broken, Framing};
use crate::http::h1::outbox::Outbox;
use crate::http::h1::parse::{Asked, Parsed, RequestHead};
use crate::http::h1::stream::{GoOn, Part, Reading, Stream};
use crate::http::h1::violation::{Refused, Violation};
use crate::http::io::Io;
use crate::tls::HANDSHAKE_RECORD;
use crate::tunnel::GoesOn;

/// How long a head may take to come, from its first byte; it is also how long an idle connection is kept. Longer than
/// what callers keep theirs, so that it is they who close.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(75);

/// How long a head that has begun may take to complete when a drain begins. Without it a peer that sends half a head
/// would hold up the drain to its end.
pub(crate) const HEAD_IN_DRAIN: Duration = Duration::from_secs(1);

/// How long a peer may take none of what is written to it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a peer that has ended its side gets nothing of its answer until it is taken for gone. Whether it still
/// reads can only be told by writing to it, and in the middle of an answer there is nothing to write but the answer.
const SILENCE_AFTER_END: Duration = Duration::from_secs(30);

/// What is read and forgotten of a body whose answer has ended, so that the connection can be used again. More costs
/// more than a new connection.
const DISCARD_BYTES_MAX: usize = 64 * 1024;
/// How long that may take.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a connection that ends is read from, so that what the peer still sends does not make the system take back
/// the answer (RFC 9112 section 9.6). At most so long: the peer may never end its side.
const LINGER: Duration = Duration::from_secs(2);

/// What a client that speaks HTTP/2 by prior knowledge sends first (RFC 9113 section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What says to a peer that speaks TLS that there is none here: a fatal alert, handshake_failure (RFC 8446 section 6).
const HANDSHAKE_FAILURE: &[u8] = &[21, 3, 3, 0, 2, 2, 40];

/// How a connection went.
pub(crate) enum Served {
    /// It has ended.
    Ended,
    /// It began with the preface of HTTP/2: see [`Connection::into_rest`].
    Http2,
    /// An answer has been written after which it goes on as something else: see [`Connection::into_rest`].
    GoesOn,
}

/// A connection of a downstream.
pub(crate) struct Connection {
    /// Shared with the body of the request under way.
    stream: Rc<RefCell<Stream>>,
    outbox: Outbox,
    alarm: Alarm,
    drain: Drain,
    requests: Requests,
    /// Rings when a peer that had ended its side turns out to be gone. Boxed twice, as it is seldom there.
    failed: Option<Box<Pin<Box<dyn Future<Output = ()>>>>>,
    /// How it goes on after its last answer, if it does.
    goes_on: Option<Box<GoesOn>>,
}

/// What is left of a connection that is not, or no longer, one of HTTP/1.
pub(crate) struct Rest {
    pub(crate) io: Io,
    /// What has been read of it.
    pub(crate) ahead: BytesMut,
    pub(crate) drain: Drain,
    /// How it goes on after the answer that was written; `None`: it is HTTP/2.
    pub(crate) goes_on: Option<Box<GoesOn>>,
}

/// Whether a connection has carried a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Requests {
    None,
    Some,
}

/// What a connection brings next.
enum Next {
    Head(RequestHead),
    Refused(Refused),
    Http2,
    Ended,
}

/// How an exchange left its connection.
enum Exchanged {
    /// Ready for the next request.
    Next,
    /// The answer was written, and is the last.
    Close,
    /// The peer has left, or its answer is cut off.
    Gone,
    /// The answer was written, and what follows is no request.
    GoesOn,
}

/// The peer is gone.
struct Gone;

impl Connection {
    /// One that was just accepted.
    pub(crate) fn new(io: Io, drain: Drain) -> Connection {
        Connection {
            stream: Rc::new(RefCell::new(Stream::new(io))),
            outbox: Outbox::default(),
            alarm: Alarm::default(),
            drain,
            requests: Requests::None,
            failed: None,
            goes_on: None,
        }
    }

    /// One on which others have been served, up to `ahead`.
    pub(crate) fn begun(io: Io, ahead: BytesMut, drain: Drain) -> Connection {
        let connection = Connection::new(io, drain);
        connection.stream.borrow_mut().ahead = ahead;
        connection
    }

    /// Serves it to its end.
    ///
    /// # Cancel safety
    /// Dropped, and the connection with it, the connection is closed and its request ends as if the downstream had
    /// left.
    pub(crate) async fn serve<S: Service>(&mut self, service: &S) -> Served {
        let mut drain = self.drain.clone();
        let mut begun = pin!(drain.begun());
        loop {
            match self.next(begun.as_mut()).await {
                // Boxed, as these are there only while a request is.
                Next::Head(head) => match Box::pin(self.exchange(head, service)).await {
                    Exchanged::Next => {}
                    Exchanged::Close => break Box::pin(self.close()).await,
                    Exchanged::Gone => break,
                    Exchanged::GoesOn => return Served::GoesOn,
                },
                Next::Refused(refused) => break Box::pin(self.refuse(refused, service)).await,
                Next::Http2 => return Served::Http2,
                Next::Ended => break,
            }
        }
        Served::Ended
    }

    /// Gives up a connection that goes on as something else; `None`: a request of it is under way.
    pub(crate) fn into_rest(self) -> Option<Rest> {
        let stream = Rc::into_inner(self.stream)?.into_inner();
        Some(Rest {
            io: stream.io,
            ahead: stream.ahead,
            drain: self.drain,
            goes_on: self.goes_on,
        })
    }

    /// Waits for the next head.
    async fn next(&mut self, mut drain_begun: Pin<&mut impl Future<Output = ()>>) -> Next {
        let mut due = None;
        let mut due_in_drain = None;
        poll_fn(|cx| {
            let mut stream = self.stream.borrow_mut();
            let has_begun = loop {
                if let Some(next) = self.requests.read(&mut stream.ahead) {
                    return Poll::Ready(next);
                }
                let has_begun = !stream.ahead.is_empty();
                match stream.poll_fill(cx) {
                    Poll::Ready(Ok(1..)) if has_begun => {}
                    // The time for the head begins.
                    Poll::Ready(Ok(1..)) => due = None,
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Next::Ended),
                    Poll::Pending => break has_begun,
                }
            };
            // The future may not be polled again once it is ready; then this is so.
            let drains = self.drain.has_begun() || drain_begun.as_mut().poll(cx).is_ready();
            if drains && !has_begun {
                return Poll::Ready(Next::Ended);
            }
            if drains {
                let in_drain = *due_in_drain.get_or_insert_with(|| Instant::now() + HEAD_IN_DRAIN);
                if self.alarm.poll(in_drain, cx).is_ready() {
                    return Poll::Ready(Next::Ended);
                }
            }
            let due = *due.get_or_insert_with(|| Instant::now() + HEAD_TIMEOUT);
            let violation = Violation::HeadTime;
            match self.alarm.poll(due, cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(()) if has_begun => Poll::Ready(Next::Refused(Refused { violation, line: None })),
                Poll::Ready(()) => Poll::Ready(Next::Ended),
            }
        })
        .await
    }

    /// Carries a request.
    async fn exchange<S: Service>(&mut self, head: RequestHead, service: &S) -> Exchanged {
        let RequestHead {
            request,
            framing,
            asked,
        } = head;
        self.requests = Requests::Some;
        self.stream.borrow_mut().begin(framing, asked.expects_continue);
        let body = match framing {
            parse::Framing::None => DownstreamBody::Http1Nothing(NoBody::new(&self.stream)),
            parse::Framing::Length(_) | parse::Framing::Chunked => {
                DownstreamBody::Http1(Body::new(&self.stream, framing))
            }
        };
        let answered = {
            // It holds what was needed to come by the answer: it goes before the answer is sent, which may take hours.
            let answer = pin!(service.answer(request.map(|()| body)));
            self.wait_for(answer, asked).await
        };
        let Some(mut response) = answered else {
            return Exchanged::Gone;
        };
        if !asked.http10 {
            // They came before it.
            poll_fn(|cx| {
                write_interims(&self.stream.borrow(), &mut self.outbox, cx);
                Poll::Ready(())
            })
            .await;
        }
        if let Some(how) = response.body_mut().take_goes_on() {
            return self.go_on(response, how).await;
        }
        let sent = self.send(response, asked, self.after(asked)).await;
        // An idle connection keeps nothing of its last exchange.
        self.failed = None;
        self.outbox = Outbox::default();
        {
            let mut stream = self.stream.borrow_mut();
            // Whoever still reads the body of this request reads no more.
            stream.request = stream.request.wrapping_add(1);
            stream.interims = None;
            if let Reading::Broken(Break::Refused(violation)) = stream.reading {
                service.refused_body(violation);
            }
        }
        match sent {
            Ok(After::KeepAlive) => self.discard().await,
            Ok(After::Close) => Exchanged::Close,
            Err(Gone) => Exchanged::Gone,
        }
    }

    /// Waits for a request's answer; `None`: the peer has left.
    async fn wait_for<F>(&mut self, mut answer: Pin<&mut F>, asked: Asked) -> Option<Response<ResponseBody>>
    where
        F: Future<Output = Response<ResponseBody>>,
    {
        poll_fn(|cx| match answer.as_mut().poll(cx) {
            Poll::Ready(response) => Poll::Ready(Some(response)),
            Poll::Pending => self.poll_beside(asked, cx).map(|Gone| None),
        })
        .await
    }

    /// What there is to do while an answer is waited for. Ready once the peer has left.
    fn poll_beside(&mut self, asked: Asked, cx: &mut Context<'_>) -> Poll<Gone> {
        let mut stream = self.stream.borrow_mut();
        if stream.go_on == GoOn::Wanted {
            stream.go_on = GoOn::Said;
            encode::interim(StatusCode::CONTINUE, &HeaderMap::new(), self.outbox.small());
        }
        if !asked.http10 {
            write_interims(&stream, &mut self.outbox, cx);
        }
        match stream.poll_end(cx) {
            Poll::Ready(Ok(())) => {
                // It may still read, or be gone: the end of its side looks the same. An interim answer means nothing to
                // a client that waits (RFC 9110 section 15.2.1), and the system of one that is gone answers with a
                // reset.
                if !asked.http10 {
                    encode::interim(StatusCode::CONTINUE, &HeaderMap::new(), self.outbox.small());
                }
                if let Some(failed) = stream.io.failed() {
                    self.failed = Some(Box::new(Box::pin(failed)));
                }
            }
            Poll::Ready(Err(_)) => return Poll::Ready(Gone),
            Poll::Pending => {}
        }
        if !self.outbox.is_empty()
            && let Poll::Ready(Err(_)) = self.outbox.poll_send(&mut stream.io, cx, || {})
        {
            return Poll::Ready(Gone);
        }
        if let Some(failed) = &mut self.failed
            && failed.as_mut().as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Gone);
        }
        if !matches!(stream.reading, Reading::Done) {
            stream.connection = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Writes the head of an answer after which the connection goes on as something else.
    async fn go_on(&mut self, response: Response<ResponseBody>, how: Box<GoesOn>) -> Exchanged {
        let (parts, _) = response.into_parts();
        encode::goes_on(&parts, how.protocol(), self.outbox.small());
        self.failed = None;
        let due = Instant::now() + WRITE_TIMEOUT;
        let sent = poll_fn(|cx| {
            let mut stream = self.stream.borrow_mut();
            match self.outbox.poll_send(&mut stream.io, cx, || {}) {
                Poll::Ready(sent) => Poll::Ready(sent.is_ok()),
                Poll::Pending => self.alarm.poll(due, cx).map(|()| false),
            }
        });
        match sent.await {
            true => {
                self.goes_on = Some(how);
                Exchanged::GoesOn
            }
            false => Exchanged::Gone,
        }
    }

    /// Whether the connection may carry another request after an answer that begins now.
    fn after(&self, asked: Asked) -> After {
        let stream = self.stream.borrow();
        let body_will_come = match (&stream.reading, stream.go_on) {
            (Reading::Done, _) | (Reading::Length(_) | Reading::Chunked(_), GoOn::Unasked | GoOn::Said) => true,
            // Of a client that was not told to go on, nobody knows whether it will.
            (Reading::Length(_) | Reading::Chunked(_), GoOn::Asked | GoOn::Wanted) | (Reading::Broken(_), _) => false,
        };
        let can = asked.keep_alive
            && body_will_come
            && !self.drain.has_begun()
            && !(stream.peer_ended && stream.ahead.is_empty());
        if can { After::KeepAlive } else { After::Close }
    }

    /// Writes an answer, as its body comes.
    async fn send(&mut self, response: Response<ResponseBody>, asked: Asked, after: After) -> Result<After, Gone> {
        let (parts, body) = response.into_parts();
        let (framing, after) = encode::head(&parts, &body.size_hint(), asked, after, self.outbox.small());
        drop(parts);
        let mut sending = Sending {
            to_come: match framing {
                Framing::None => ToCome::Nothing,
                Framing::Length(0) if body.is_end_stream() => ToCome::Nothing,
                Framing::Length(_) | Framing::Chunked | Framing::UntilClose => ToCome::Frames,
            },
            body,
            framing,
            trailers: asked.trailers,
            due: None,
        };
        let sent = poll_fn(|cx| self.poll_answer(&mut sending, cx)).await;
        if let (Err(Gone), Framing::UntilClose) = (&sent, sending.framing) {
            self.stream.borrow().io.end_with_reset();
        }
        sent.map(|()| after)
    }

    fn poll_answer(&mut self, sending: &mut Sending, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        loop {
            sending.gather(&mut self.outbox, cx);
            let stream = &mut *self.stream.borrow_mut();
            if self.outbox.is_empty() {
                match sending.to_come {
                    ToCome::Nothing => return Poll::Ready(Ok(())),
                    ToCome::CutOff => return Poll::Ready(Err(Gone)),
                    ToCome::Frames => {}
                }
                // A peer that is gone for certain is not waited for.
                if let Poll::Ready(Err(_)) = stream.poll_end(cx) {
                    return Poll::Ready(Err(Gone));
                }
                if stream.peer_ended {
                    let due = *sending.due.get_or_insert_with(|| Instant::now() + SILENCE_AFTER_END);
                    return self.alarm.poll(due, cx).map(|()| Err(Gone));
                }
                return Poll::Pending;
            }
            match self.outbox.poll_send(&mut stream.io, cx, || sending.due = None) {
                Poll::Ready(Ok(())) => sending.due = None,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Gone)),
                Poll::Pending => {
                    let due = *sending.due.get_or_insert_with(|| Instant::now() + WRITE_TIMEOUT);
                    return self.alarm.poll(due, cx).map(|()| Err(Gone));
                }
            }
        }
    }

    /// After an answer: what is left of the request's body is read and forgotten, if it is little.
    async fn discard(&mut self) -> Exchanged {
        if let Reading::Done = self.stream.borrow().reading {
            return Exchanged::Next;
        }
        let due = Instant::now() + DISCARD_TIMEOUT;
        let mut bytes = 0;
        poll_fn(|cx| {
            let mut stream = self.stream.borrow_mut();
            loop {
                match stream.poll_part(cx) {
                    Poll::Ready(Some(Ok(Part::Data(data)))) => bytes += data.len(),
                    Poll::Ready(Some(Ok(Part::Trailers(_)))) => {}
                    Poll::Ready(Some(Err(_))) => return Poll::Ready(Exchanged::Close),
                    Poll::Ready(None) => return Poll::Ready(Exchanged::Next),
                    Poll::Pending => return self.alarm.poll(due, cx).map(|()| Exchanged::Close),
                }
                if bytes > DISCARD_BYTES_MAX {
                    return Poll::Ready(Exchanged::Close);
                }
            }
        })
        .await
    }

    /// Answers what is no request, and ends the connection.
    async fn refuse<S: Service>(&mut self, refused: Refused, service: &S) {
        let asked = Asked {
            http10: false,
            head_only: false,
            keep_alive: false,
            trailers: false,
            expects_continue: false,
        };
        // What follows can't be told apart.
        self.stream.borrow_mut().reading = Reading::Broken(Break::Ended);
        let answer = service.refuse(&refused);
        if refused.violation == Violation::Tls {
            // An answer in HTTP would be noise to its peer.
            self.outbox.small().extend_from_slice(HANDSHAKE_FAILURE);
            let due = Instant::now() + LINGER;
            let told = poll_fn(|cx| {
                let mut stream = self.stream.borrow_mut();
                match self.outbox.poll_send(&mut stream.io, cx, || {}) {
                    Poll::Pending => self.alarm.poll(due, cx),
                    Poll::Ready(_) => Poll::Ready(()),
                }
            });
            told.await;
            return self.close().await;
        }
        if self.send(answer, asked, After::Close).await.is_ok() {
            self.close().await;
        }
    }

    /// Ends the connection after its last answer, so that the answer arrives.
    async fn close(&mut self) {
        let mut ended = Ended::NotYet;
        let due = Instant::now() + LINGER;
        poll_fn(|cx| {
            let mut stream = self.stream.borrow_mut();
            if let Ended::NotYet = ended {
                match Pin::new(&mut stream.io).poll_shutdown(cx) {
                    Poll::Ready(Ok(())) => ended = Ended::OurSide,
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => return self.alarm.poll(due, cx),
                }
            }
            // Nothing is on its way from a client that has sent its request and waits.
            let waits = matches!(stream.reading, Reading::Done) && stream.ahead.is_empty();
            if waits || stream.peer_ended {
                return Poll::Ready(());
            }
            loop {
                match stream.poll_discard(cx) {
                    // A peer that sends faster than it is read never leaves the alarm its turn.
                    Poll::Ready(Ok(1..)) if Instant::now() < due => {}
                    Poll::Ready(Ok(_) | Err(_)) => return Poll::Ready(()),
                    Poll::Pending => return self.alarm.poll(due, cx),
                }
            }
        })
        .await;
    }
}

/// Puts in what an upstream says before its answer, as far as there is room for more.
fn write_interims(stream: &Stream, out: &mut Outbox, cx: &Context<'_>) {
    let Some(interims) = &stream.interims else { return };
    while !out.is_full()
        && let Some((status, headers)) = interims.next(cx)
    {
        encode::interim(status, &headers, out.small());
    }
}

enum Ended {
    NotYet,
    OurSide,
}

impl Requests {
    /// What the bytes that have come are; `None`: more of them are needed.
    fn read(self, ahead: &mut BytesMut) -> Option<Next> {
        if ahead.is_empty() {
            return None;
        }
        if self == Requests::None {
            if ahead.starts_with(HTTP2_PREFACE) {
                return Some(Next::Http2);
            }
            if HTTP2_PREFACE.starts_with(ahead) {
                return None;
            }
            if ahead.first() == Some(&HANDSHAKE_RECORD) {
                let violation = Violation::Tls;
                return Some(Next::Refused(Refused { violation, line: None }));
            }
        }
        match parse::parse(ahead) {
            Parsed::Incomplete => None,
            Parsed::Head(head) => Some(Next::Head(head)),
            Parsed::Refused(refused) => Some(Next::Refused(refused)),
        }
    }
}

/// An answer on its way.
struct Sending {
    body: ResponseBody,
    framing: Framing,
    /// Whether the client takes trailers; others have no place for them (RFC 9110 section 6.5.1).
    trailers: bool,
    to_come: ToCome,
    /// When it is given up, while it makes no progress.
    due: Option<Instant>,
}

/// What is still to come of an answer's body.
#[derive(Clone, Copy)]
enum ToCome {
    Frames,
    Nothing,
    /// It broke off, or is not as long as it said: the peer must not take it for whole.
    CutOff,
}

impl Sending {
    /// Takes in what there is of the body, as far as there is room.
    fn gather(&mut self, out: &mut Outbox, cx: &mut Context<'_>) {
        while let ToCome::Frames = self.to_come
            && !out.is_full()
        {
            let taken = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => return,
                Poll::Ready(Some(Ok(frame))) => self.frame(frame, out),
                Poll::Ready(Some(Err(_))) => {
                    self.to_come = ToCome::CutOff;
                    return;
                }
                Poll::Ready(None) => self.end(None, out),
            };
            if let Err(Broken::TooLong | Broken::TooShort) = taken {
                self.to_come = ToCome::CutOff;
            }
        }
    }

    fn frame(&mut self, frame: Frame<bytes::Bytes>, out: &mut Outbox) -> Result<(), Broken> {
        match frame.into_data() {
            Ok(data) => {
                self.framing.data(data, out)?;
                if self.body.is_end_stream() {
                    self.end(None, out)?;
                }
                Ok(())
            }
            Err(frame) => match frame.into_trailers() {
                Ok(trailers) => self.end(Some(&trailers).filter(|_| self.trailers), out),
                Err(_) => Ok(()),
            },
        }
    }

    fn end(&mut self, trailers: Option<&HeaderMap>, out: &mut Outbox) -> Result<(), Broken> {
        self.framing.end(trailers, out)?;
        self.to_come = ToCome::Nothing;
        Ok(())
    }
}
