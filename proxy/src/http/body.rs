//! Bodies on their way through: a request's, which an attempt may have to send again, and an answer's, whose end is the
//! end of the exchange.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::exchange::Exchange;
use crate::http::copy::{BodyCopy, CopyFeed, CopyState, Fed};
use crate::http::h1;
use crate::http::h1::violation::Violation;
use crate::http::head::{FORWARDED_CLIENT_CERT, strip_own};
use crate::http::upstream::Wire;
use crate::tunnel::GoesOn;

/// How much of one request's body is kept for another attempt. Past it the request can only be sent once. Chunks are
/// kept by reference count, not copied.
pub(crate) const REPLAY_BYTES_MAX: u64 = 64 * 1024;

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The peer that sends it broke off.
    #[error("broke off: {0}")]
    Peer(#[from] hyper::Error),
    /// The same, on an HTTP/1 connection of a downstream.
    #[error("broke off: {0}")]
    Broken(h1::Break),
    /// A newer attempt reads the request's body now.
    #[error("another attempt took over")]
    Superseded,
    /// The time for the whole exchange ran out.
    #[error("the time for the request ran out")]
    OutOfTime,
    /// A copy can't be completed.
    #[error("the copy was given up")]
    GivenUp,
}

/// Why a request's body did not come whole.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum BodyFailure {
    /// It ended before its end.
    #[error("broke off: {0}")]
    BrokeOff(String),
    /// It is not framed as it must be, or too slow.
    #[error("is refused: {0}")]
    Refused(Violation),
}

/// The body of a request as a connection gives it.
pub(crate) enum DownstreamBody {
    /// There is none, on an HTTP/1 connection.
    Http1Nothing(h1::body::NoBody),
    Http1(h1::body::Body),
    Http2(Incoming),
}

impl Body for DownstreamBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            DownstreamBody::Http1Nothing(_) => Poll::Ready(None),
            DownstreamBody::Http1(body) => Pin::new(body).poll_frame(cx),
            DownstreamBody::Http2(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::Peer),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            DownstreamBody::Http1Nothing(_) => true,
            DownstreamBody::Http1(body) => body.is_end_stream(),
            DownstreamBody::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            DownstreamBody::Http1Nothing(_) => SizeHint::with_exact(0),
            DownstreamBody::Http1(body) => body.size_hint(),
            DownstreamBody::Http2(body) => body.size_hint(),
        }
    }
}

/// A downstream request's body, read by one attempt at a time, each from its start.
#[derive(Clone)]
pub(crate) struct Replay(Rc<RefCell<Source>>);

struct Source {
    incoming: DownstreamBody,
    hint: SizeHint,
    kept: Kept,
    ended: bool,
    /// The attempt that reads now; what an older one asks for is refused.
    attempt: u32,
    received_bytes: u64,
    failure: Option<BodyFailure>,
    /// Copies for mirrors; empty for most requests.
    copies: Vec<CopyFeed>,
}

/// What has been read so far, for another attempt.
enum Kept {
    Whole {
        parts: Vec<Part>,
        size_bytes: u64,
    },
    /// No further attempt can be made; what the last one has not sent yet is kept until it has.
    Last {
        parts: Vec<Part>,
    },
}

/// What a body is made of.
#[derive(Clone)]
pub(crate) enum Part {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Replay {
    pub(crate) fn new(incoming: DownstreamBody) -> Replay {
        Replay(Rc::new(RefCell::new(Source {
            hint: incoming.size_hint(),
            ended: incoming.is_end_stream(),
            incoming,
            kept: Kept::Whole {
                parts: Vec::new(),
                size_bytes: 0,
            },
            attempt: 0,
            received_bytes: 0,
            failure: None,
            copies: Vec::new(),
        })))
    }

    /// The body for a new attempt, from its start; the attempt before can read no more. Only right while
    /// [`Replay::is_whole`].
    pub(crate) fn attempt(&self) -> RequestBody {
        let mut source = self.0.borrow_mut();
        source.attempt += 1;
        let nothing_to_send = source.ended && matches!(&source.kept, Kept::Whole { parts, .. } if parts.is_empty());
        RequestBody(if nothing_to_send {
            Reading::Nothing
        } else {
            Reading::Attempt {
                source: self.clone(),
                attempt: source.attempt,
                next_part: 0,
                sent_bytes: 0,
            }
        })
    }

    /// Has what the upstream says before its answer passed on, where that can be: by HTTP/1.1, from end to end.
    pub(crate) fn pass_interims<B>(&self, wire: Wire, request: &mut Request<B>) {
        if wire != Wire::Http1 {
            return;
        }
        let interims = match &self.0.borrow().incoming {
            DownstreamBody::Http1(body) => body.interims(),
            DownstreamBody::Http1Nothing(none) => none.interims(),
            DownstreamBody::Http2(_) => None,
        };
        if let Some(interims) = interims {
            interims.hear(request);
        }
    }

    /// A copy of the body for a mirror, which gets what attempts read, when they read it. Only right before the first
    /// attempt.
    pub(crate) fn copy(&self) -> (RequestBody, CopyState) {
        let mut source = self.0.borrow_mut();
        if source.ended {
            return (RequestBody(Reading::Nothing), CopyState::whole());
        }
        let (feed, copy, state) = CopyFeed::new(source.hint.exact());
        source.copies.push(feed);
        (RequestBody(Reading::Copy(copy)), state)
    }

    /// Whether everything read so far is still kept.
    pub(crate) fn is_whole(&self) -> bool {
        matches!(self.0.borrow().kept, Kept::Whole { .. })
    }

    /// No further attempt will be made: what is kept is freed as soon as the last one has sent it, which may have had
    /// its answer before.
    pub(crate) fn keep_no_more(&self) {
        self.0.borrow_mut().keep_no_more();
    }

    /// Whether the body has been read to its end: nothing more of it will be sent.
    pub(crate) fn is_spent(&self) -> bool {
        let source = self.0.borrow();
        source.ended || source.incoming.is_end_stream()
    }

    /// Bytes of the body that have come from downstream.
    pub(crate) fn received_bytes(&self) -> u64 {
        self.0.borrow().received_bytes
    }

    /// What went wrong while reading from downstream, if anything did.
    pub(crate) fn failure(&self) -> Option<BodyFailure> {
        self.0.borrow().failure.clone()
    }
}

/// One attempt's reading of a request's body.
pub(crate) struct RequestBody(Reading);

enum Reading {
    Nothing,
    Copy(BodyCopy),
    Attempt {
        source: Replay,
        attempt: u32,
        next_part: usize,
        sent_bytes: u64,
    },
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let (source, attempt, next_part, sent_bytes) = match &mut self.0 {
            Reading::Nothing => return Poll::Ready(None),
            Reading::Copy(copy) => return copy.poll_frame(cx),
            Reading::Attempt {
                source,
                attempt,
                next_part,
                sent_bytes,
            } => (source, attempt, next_part, sent_bytes),
        };
        let mut source = source.0.borrow_mut();
        if source.attempt != *attempt {
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        let part = match source.kept_part(*next_part) {
            Some(part) => part,
            None => match source.poll_next(cx) {
                Poll::Ready(Some(Ok(part))) => part,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            },
        };
        *next_part += 1;
        if let Part::Data(data) = &part {
            *sent_bytes += data.len() as u64;
        }
        Poll::Ready(Some(Ok(part.into_frame())))
    }

    /// Known as soon as it is so: the end then goes with the last of the data, and not as a frame of its own. Servers
    /// count small frames that are no end (h2: DATA frame budget).
    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Reading::Nothing => true,
            Reading::Copy(_) => false,
            Reading::Attempt {
                source,
                attempt,
                next_part,
                ..
            } => {
                let source = source.0.borrow();
                source.attempt == *attempt && source.ended && source.kept_part(*next_part).is_none()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Reading::Nothing => SizeHint::with_exact(0),
            Reading::Copy(copy) => copy.size_hint(),
            Reading::Attempt { source, sent_bytes, .. } => match source.0.borrow().hint.exact() {
                Some(whole) => SizeHint::with_exact(whole.saturating_sub(*sent_bytes)),
                None => SizeHint::default(),
            },
        }
    }
}

impl Part {
    pub(crate) fn into_frame(self) -> Frame<Bytes> {
        match self {
            Part::Data(data) => Frame::data(data),
            Part::Trailers(trailers) => Frame::trailers(trailers),
        }
    }
}

impl Source {
    fn kept_part(&self, index: usize) -> Option<Part> {
        match &self.kept {
            Kept::Whole { parts, .. } | Kept::Last { parts } => parts.get(index).cloned(),
        }
    }

    fn keep_no_more(&mut self) {
        if let Kept::Whole { parts, .. } = &mut self.kept {
            let parts = std::mem::take(parts);
            self.kept = Kept::Last { parts };
        }
    }

    /// The part behind all that is kept.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Part, BodyError>>> {
        if let Kept::Last { parts } = &mut self.kept {
            *parts = Vec::new();
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None) => {
                self.ended = true;
                self.end_copies();
                return Poll::Ready(None);
            }
            Poll::Ready(Some(Err(error))) => {
                self.failure = Some(match &error {
                    BodyError::Broken(h1::Break::Refused(violation)) => BodyFailure::Refused(*violation),
                    BodyError::Broken(how) => BodyFailure::BrokeOff(how.to_string()),
                    BodyError::Peer(error) => BodyFailure::BrokeOff(error.to_string()),
                    BodyError::Superseded | BodyError::OutOfTime | BodyError::GivenUp => {
                        BodyFailure::BrokeOff(error.to_string())
                    }
                });
                return Poll::Ready(Some(Err(error)));
            }
            Poll::Ready(Some(Ok(frame))) => frame,
        };
        let part = match frame.into_data() {
            Ok(data) => {
                self.received_bytes += data.len() as u64;
                self.ended = self.incoming.is_end_stream();
                Part::Data(data)
            }
            Err(frame) => match frame.into_trailers() {
                Ok(mut trailers) => {
                    strip_own(&mut trailers);
                    // The head alone says who calls.
                    trailers.remove(FORWARDED_CLIENT_CERT);
                    Part::Trailers(trailers)
                }
                // A frame is data or trailers; what a later version may add has no meaning to us.
                Err(_) => Part::Data(Bytes::new()),
            },
        };
        self.keep(&part);
        self.copies.retain_mut(|copy| copy.push(&part) == Fed::Yes);
        if self.ended {
            self.end_copies();
        }
        Poll::Ready(Some(Ok(part)))
    }

    fn end_copies(&mut self) {
        self.copies.drain(..).for_each(CopyFeed::end);
    }

    fn keep(&mut self, part: &Part) {
        let Kept::Whole { parts, size_bytes } = &mut self.kept else {
            return;
        };
        if let Part::Data(data) = part {
            *size_bytes += data.len() as u64;
        }
        if *size_bytes > REPLAY_BYTES_MAX {
            // The attempt that reads this has sent all before it.
            self.kept = Kept::Last { parts: Vec::new() };
        } else {
            parts.push(part.clone());
        }
    }
}

/// An answer's body on its way downstream. Its end, or its being dropped before, ends the exchange.
pub(crate) struct ResponseBody {
    content: Content,
    exchange: Option<Box<Exchange>>,
}

enum Content {
    Nothing,
    Text(Bytes),
    Streamed(Incoming),
    /// Something else than HTTP comes in its place.
    GoesOn(Box<GoesOn>),
    /// For tests of connections, without an upstream.
    #[cfg(test)]
    Scripted(Pin<Box<dyn Body<Data = Bytes, Error = BodyError>>>),
}

impl ResponseBody {
    /// The upstream's body; `exchange` learns of its end.
    pub(crate) fn streamed(body: Incoming, exchange: Box<Exchange>) -> ResponseBody {
        ResponseBody::of(Content::Streamed(body), exchange)
    }

    /// A body that has ended already is never read (HEAD, 204, `Content-Length: 0`): its exchange ends here, so that a
    /// client that has its answer finds what the request held given back.
    fn of(content: Content, exchange: Box<Exchange>) -> ResponseBody {
        let mut body = ResponseBody {
            content,
            exchange: Some(exchange),
        };
        if body.is_end_stream() {
            body.finish();
        }
        body
    }

    /// A text of the mesh's own; empty: no body at all.
    pub(crate) fn text(text: String) -> ResponseBody {
        ResponseBody {
            content: if text.is_empty() {
                Content::Nothing
            } else {
                Content::Text(text.into())
            },
            exchange: None,
        }
    }

    /// None: after the answer's head the connection goes on so.
    pub(crate) fn goes_on(how: GoesOn) -> ResponseBody {
        ResponseBody {
            content: Content::GoesOn(Box::new(how)),
            exchange: None,
        }
    }

    /// How the connection goes on after the head of this answer, if it does.
    pub(crate) fn take_goes_on(&mut self) -> Option<Box<GoesOn>> {
        match std::mem::replace(&mut self.content, Content::Nothing) {
            Content::GoesOn(how) => Some(how),
            content => {
                self.content = content;
                None
            }
        }
    }

    /// Such a body.
    #[cfg(test)]
    pub(crate) fn scripted(body: impl Body<Data = Bytes, Error = BodyError> + 'static) -> ResponseBody {
        ResponseBody {
            content: Content::Scripted(Box::pin(body)),
            exchange: None,
        }
    }

    fn finish(&mut self) {
        if let Some(exchange) = self.exchange.take() {
            exchange.complete();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let body = match &mut this.content {
            Content::Nothing | Content::GoesOn(_) => return Poll::Ready(None),
            Content::Text(text) => {
                let text = std::mem::take(text);
                this.content = Content::Nothing;
                return Poll::Ready(Some(Ok(Frame::data(text))));
            }
            Content::Streamed(body) => body,
            #[cfg(test)]
            Content::Scripted(body) => return body.as_mut().poll_frame(cx),
        };
        // Before the frame: an answer that always has a next one would never run out of time.
        if let Some(exchange) = &mut this.exchange
            && exchange.poll_out_of_time(cx)
        {
            this.content = Content::Nothing;
            return match this.exchange.take().and_then(|exchange| exchange.ran_out_of_time()) {
                Some(trailers) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                None => Poll::Ready(Some(Err(BodyError::OutOfTime))),
            };
        }
        match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(Some(Ok(mut frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    strip_own(trailers);
                }
                if let Some(exchange) = &mut this.exchange {
                    exchange.passed(&frame);
                }
                if body.is_end_stream() {
                    this.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                this.finish();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                if let Some(exchange) = this.exchange.take() {
                    exchange.upstream_broke_off(&error);
                }
                this.content = Content::Nothing;
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Nothing | Content::GoesOn(_) => true,
            Content::Text(_) => false,
            Content::Streamed(body) => body.is_end_stream(),
            #[cfg(test)]
            Content::Scripted(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Nothing | Content::GoesOn(_) => SizeHint::with_exact(0),
            Content::Text(text) => SizeHint::with_exact(text.len() as u64),
            Content::Streamed(body) => body.size_hint(),
            #[cfg(test)]
            Content::Scripted(body) => body.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        let Some(exchange) = self.exchange.take() else {
            return;
        };
        // Its end may have come since, for which nobody asked any more.
        if self.is_end_stream() {
            exchange.complete();
        } else {
            exchange.downstream_left();
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Empty, Full};

    use super::*;
    use crate::clock::Clock;
    use crate::http::head::Grpc;
    use crate::metrics::Metrics;
    use crate::record::Recorder;
    use crate::record::tests::record;

    #[test]
    fn an_exchange_ends_with_the_last_of_its_answer_not_with_what_carries_it() {
        let recorded = |metrics: &Metrics| {
            let page = metrics.page().expect("the page");
            page.contains("weir_requests_total{")
        };
        let begin = |metrics: &Metrics, content: Content| {
            let recorder = Rc::new(Recorder::new(metrics.worker(), None, None));
            let clock = Clock::start();
            let exchange = Exchange::new(record(), recorder, clock, clock.now(), Grpc::No, None);
            ResponseBody::of(content, Box::new(exchange))
        };

        let metrics = Metrics::default();
        let nothing = Content::Scripted(Box::pin(Empty::new().map_err(|never| match never {})));
        let body = begin(&metrics, nothing);
        assert!(recorded(&metrics), "there is nothing to wait for");
        drop(body);

        let metrics = Metrics::default();
        let some = Content::Scripted(Box::pin(Full::new(Bytes::from("some")).map_err(|never| match never {})));
        let body = begin(&metrics, some);
        assert!(!recorded(&metrics));
        drop(body);
        assert!(recorded(&metrics));
    }
}
