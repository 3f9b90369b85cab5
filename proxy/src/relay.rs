//! Bytes carried both ways between two streams, until both directions have ended.
//!
//! Each direction reads at most [`BUFFER_BYTES`] ahead of its reader, onto the stack: only what the reader does not
//! take at once is kept, and no longer than that. A relay without traffic holds no buffer.

use std::future::{Future as _, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::drain::Drain;
use crate::http::h1::alarm::Alarm;

/// The most that one direction holds of what its reader did not take yet.
const BUFFER_BYTES: usize = 16 * 1024;

/// How many reads one direction makes before the other has its turn: who sends without a pause must not keep the other
/// from being heard, nor other connections of the worker.
const READS_IN_TURN: usize = 8;

/// What a relay carried, and how it ended.
#[derive(Debug)]
pub(crate) struct Relayed {
    /// Bytes that the upstream's stream took, in the downstream's order.
    pub(crate) from_downstream: u64,
    /// Bytes that the downstream's stream took, in the upstream's order.
    pub(crate) to_downstream: u64,
    pub(crate) end: RelayEnd,
}

/// How a relay ended.
#[derive(Debug)]
pub(crate) enum RelayEnd {
    /// Both sides ended what they sent, and all of it was passed on.
    Finished,
    /// No byte went either way for as long as is allowed.
    Idle,
    /// The time of a drain was over.
    Drained,
    /// The downstream's stream failed.
    DownstreamLost(io::Error),
    /// The upstream's stream failed.
    UpstreamLost(io::Error),
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    FromDownstream,
    ToDownstream,
}

/// Carries bytes both ways. The end of what one side sends is passed on as the end of what the other gets, while the
/// other direction goes on. What a side that takes nothing any more still says is passed on as far as it is there.
///
/// `idle`: the longest time without a byte in either direction; `None`: any. `passed` hears of each part that was
/// passed on, so that a relay that lasts for days is seen before its end.
///
/// Neither stream is closed here. Unless the end is [`RelayEnd::Finished`], what a side got may not be the whole of
/// what it was sent, and the caller must not let it look so.
///
/// # Cancel safety
/// Dropped, at most [`BUFFER_BYTES`] each way are lost that were read and not passed on.
pub(crate) async fn relay<D, U>(
    downstream: &mut D,
    upstream: &mut U,
    idle: Option<Duration>,
    drain: &mut Drain,
    mut passed: impl FnMut(Way, u64),
) -> Relayed
where
    D: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let mut relay = Relay::default();
    let mut rest = idle.map(Rest::of);
    let mut over = pin!(drain.over());
    let end = poll_fn(|cx| {
        let before = (relay.up.passed, relay.down.passed);
        let end = relay.poll(cx, downstream, upstream);
        let news = [
            (Way::FromDownstream, relay.up.passed - before.0),
            (Way::ToDownstream, relay.down.passed - before.1),
        ];
        let mut went = false;
        for (way, bytes) in news.into_iter().filter(|(_, bytes)| *bytes > 0) {
            went = true;
            passed(way, bytes);
        }
        if end.is_ready() {
            return end;
        }
        if over.as_mut().poll(cx).is_ready() {
            return Poll::Ready(RelayEnd::Drained);
        }
        match &mut rest {
            Some(rest) => rest.poll(cx, went).map(|()| RelayEnd::Idle),
            None => Poll::Pending,
        }
    })
    .await;
    Relayed {
        from_downstream: relay.up.passed,
        to_downstream: relay.down.passed,
        end,
    }
}

/// Both directions.
#[derive(Default)]
struct Relay {
    /// From the downstream to the upstream.
    up: Pump,
    down: Pump,
    /// Whose turn is first. They take turns in that as well: the runtime lets a task do only so much at a time.
    down_first: bool,
    /// The direction whose reader takes nothing any more, and why. What that side still says is passed on.
    blocked: Option<(Way, io::Error)>,
}

impl Relay {
    fn poll<D, U>(&mut self, cx: &mut Context<'_>, downstream: &mut D, upstream: &mut U) -> Poll<RelayEnd>
    where
        D: AsyncRead + AsyncWrite + Unpin,
        U: AsyncRead + AsyncWrite + Unpin,
    {
        if self.blocked.is_none() {
            self.down_first = !self.down_first;
            let (up, down) = if self.down_first {
                let down = self.down.turn(cx, upstream, downstream);
                (self.up.turn(cx, downstream, upstream), down)
            } else {
                let up = self.up.turn(cx, downstream, upstream);
                (up, self.down.turn(cx, upstream, downstream))
            };
            match (up, down) {
                (Turn::Ended, Turn::Ended) => return Poll::Ready(RelayEnd::Finished),
                (Turn::NotRead(error), _) => return Poll::Ready(RelayEnd::DownstreamLost(error)),
                (_, Turn::NotRead(error)) => return Poll::Ready(RelayEnd::UpstreamLost(error)),
                (Turn::NotWritten(error), _) => self.blocked = Some((Way::FromDownstream, error)),
                (_, Turn::NotWritten(error)) => self.blocked = Some((Way::ToDownstream, error)),
                (Turn::Ended | Turn::Waits | Turn::Goes, _) => {}
            }
        }
        let rest = match &self.blocked {
            None => return Poll::Pending,
            Some((Way::FromDownstream, _)) => self.down.turn(cx, upstream, downstream),
            Some((Way::ToDownstream, _)) => self.up.turn(cx, downstream, upstream),
        };
        match (rest, self.blocked.take()) {
            (Turn::Goes, blocked) => {
                self.blocked = blocked;
                Poll::Pending
            }
            (Turn::Ended | Turn::Waits | Turn::NotRead(_) | Turn::NotWritten(_), Some((way, error))) => {
                Poll::Ready(match way {
                    Way::FromDownstream => RelayEnd::UpstreamLost(error),
                    Way::ToDownstream => RelayEnd::DownstreamLost(error),
                })
            }
            (_, None) => Poll::Pending,
        }
    }
}

/// One direction.
#[derive(Default)]
struct Pump {
    /// What was read and not taken by the reader yet.
    kept: BytesMut,
    passed: u64,
    /// Whether the reader's stream may hold some of it back.
    unflushed: bool,
    side: Open,
}

/// How far the end of a direction has come.
#[derive(Clone, Copy, Default)]
enum Open {
    #[default]
    Yes,
    /// There is nothing more to come; the reader is to be told.
    Ending,
    No,
}

/// What came of a direction's turn.
enum Turn {
    /// Nothing is there to be passed on.
    Waits,
    /// There is more, for a later turn.
    Goes,
    /// All has been passed on, and the end.
    Ended,
    NotRead(io::Error),
    NotWritten(io::Error),
}

impl Pump {
    fn turn<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Turn
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        for _ in 0..READS_IN_TURN {
            match self.put(cx, to) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Turn::NotWritten(error),
                Poll::Pending => return Turn::Goes,
            }
            if let Open::No = self.side {
                return Turn::Ended;
            }
            let mut space = [const { MaybeUninit::uninit() }; BUFFER_BYTES];
            let mut read = ReadBuf::uninit(&mut space);
            match Pin::new(&mut *from).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Turn::NotRead(error),
                // Only now: who writes much and often has it put together.
                Poll::Pending => {
                    return match self.flush(cx, to) {
                        Poll::Ready(Ok(())) => Turn::Waits,
                        Poll::Ready(Err(error)) => Turn::NotWritten(error),
                        Poll::Pending => Turn::Goes,
                    };
                }
            }
            if let Err(error) = self.take(cx, read.filled(), to) {
                return Turn::NotWritten(error);
            }
        }
        cx.waker().wake_by_ref();
        Turn::Goes
    }

    /// Passes on what came, and keeps what the reader does not take.
    fn take<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, mut came: &[u8], to: &mut W) -> io::Result<()> {
        if came.is_empty() {
            self.side = Open::Ending;
        }
        while !came.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, came) {
                Poll::Ready(written) => came = came.get(self.wrote(written?)?..).unwrap_or_default(),
                Poll::Pending => {
                    self.kept.extend_from_slice(came);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Ready when the reader has taken what is kept for it, and heard of the end if there is one.
    fn put<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<io::Result<()>> {
        while !self.kept.is_empty() {
            let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.kept))?;
            let written = self.wrote(written)?;
            self.kept.advance(written);
        }
        self.kept = BytesMut::new();
        if let Open::Ending = self.side {
            ready!(Pin::new(to).poll_shutdown(cx))?;
            self.side = Open::No;
        }
        Poll::Ready(Ok(()))
    }

    fn flush<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<io::Result<()>> {
        if self.unflushed {
            ready!(Pin::new(to).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn wrote(&mut self, bytes: usize) -> io::Result<usize> {
        if bytes == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.unflushed = true;
        self.passed = self.passed.saturating_add(bytes as u64);
        Ok(bytes)
    }
}

/// The time without a byte.
struct Rest {
    longest: Duration,
    since: Instant,
    alarm: Alarm,
}

impl Rest {
    fn of(longest: Duration) -> Rest {
        Rest {
            longest,
            since: Instant::now(),
            alarm: Alarm::default(),
        }
    }

    /// Ready when it has been long enough; `went`: a byte just went.
    fn poll(&mut self, cx: &mut Context<'_>, went: bool) -> Poll<()> {
        if went {
            self.since = Instant::now();
        }
        self.alarm.poll(self.since + self.longest, cx)
    }
}

#[cfg(test)]
mod tests;
