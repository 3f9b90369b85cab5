//! A request's body on its way in. It reads the connection only when it is asked for more.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

use crate::http::body::BodyError;
use crate::http::h1::alarm::Alarm;
use crate::http::h1::interim::Interims;
use crate::http::h1::parse::Framing;
use crate::http::h1::stream::{Break, GoOn, Part, Reading, Stream};
use crate::http::h1::violation::Violation;

/// How long the peer may be waited for at once, and in all before its bytes count: a byte buys it one second. Who sends
/// a byte now and then to hold a request open is out of time after about a minute; a stream with a heartbeat is not.
/// Counted only while the body is asked for: a slow upstream is no fault of the peer's.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(60);

/// A request without a body, which has the connection in common with its answer.
pub(crate) struct NoBody {
    stream: Rc<RefCell<Stream>>,
    request: u32,
}

impl NoBody {
    /// Of the request that has just begun on the stream.
    pub(super) fn new(stream: &Rc<RefCell<Stream>>) -> NoBody {
        NoBody {
            request: stream.borrow().request,
            stream: Rc::clone(stream),
        }
    }

    /// As [`Body::interims`].
    pub(crate) fn interims(&self) -> Option<Interims> {
        let mut stream = self.stream.borrow_mut();
        (stream.request == self.request).then(|| stream.interims())
    }
}

/// The body of the request under way on a connection. Once the answer has ended it reads nothing any more.
pub(crate) struct Body {
    stream: Rc<RefCell<Stream>>,
    request: u32,
    hint: SizeHint,
    received_bytes: u64,
    /// Waited for the peer so far, without the wait under way.
    waited: Duration,
    waits_since: Option<Instant>,
    alarm: Alarm,
}

impl Body {
    /// Of the request that has just begun on the stream; it has a body.
    pub(super) fn new(stream: &Rc<RefCell<Stream>>, framing: Framing) -> Body {
        Body {
            request: stream.borrow().request,
            stream: Rc::clone(stream),
            hint: match framing {
                Framing::None => SizeHint::with_exact(0),
                Framing::Length(bytes) => SizeHint::with_exact(bytes),
                Framing::Chunked => SizeHint::default(),
            },
            received_bytes: 0,
            waited: Duration::ZERO,
            waits_since: None,
            alarm: Alarm::default(),
        }
    }

    /// Where the upstream puts what it says before its answer; `None`: it has answered.
    pub(crate) fn interims(&self) -> Option<Interims> {
        let mut stream = self.stream.borrow_mut();
        (stream.request == self.request).then(|| stream.interims())
    }

    /// Whether the peer has been waited for too long.
    fn poll_too_slow(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.waits_since.get_or_insert_with(Instant::now);
        let in_all = WAIT_MAX.saturating_add(Duration::from_secs(self.received_bytes));
        let left = in_all.saturating_sub(self.waited).min(WAIT_MAX);
        self.alarm.poll(since + left, cx)
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let mut stream = this.stream.borrow_mut();
        if stream.request != this.request {
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        if stream.go_on == GoOn::Asked {
            stream.go_on = GoOn::Wanted;
            stream.wake_connection();
        }
        let polled = stream.poll_part(cx);
        drop(stream);
        let part = match polled {
            Poll::Pending if this.poll_too_slow(cx).is_pending() => return Poll::Pending,
            Poll::Pending => {
                let how = Break::Refused(Violation::BodyTime);
                this.stream.borrow_mut().broken(how);
                return Poll::Ready(Some(Err(BodyError::Broken(how))));
            }
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Ready(Some(Err(how))) => return Poll::Ready(Some(Err(BodyError::Broken(how)))),
            Poll::Ready(Some(Ok(part))) => part,
        };
        if let Some(since) = this.waits_since.take() {
            this.waited += since.elapsed();
        }
        Poll::Ready(Some(Ok(match part {
            Part::Data(data) => {
                this.received_bytes += data.len() as u64;
                Frame::data(data)
            }
            Part::Trailers(trailers) => Frame::trailers(trailers),
        })))
    }

    fn is_end_stream(&self) -> bool {
        let stream = self.stream.borrow();
        stream.request == self.request && matches!(stream.reading, Reading::Done)
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}
