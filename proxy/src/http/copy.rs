//! A copy of a request's body for a mirror: fed by whoever reads the body, bounded, and given up rather than waited
//! for.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::http::body::{BodyError, Part};

/// How far the body may be ahead of one copy's reader; a mirror that is slower is given up. As much as one HTTP/2
/// stream may send ahead of its reader. Chunks are held by reference count.
const AHEAD_BYTES_MAX: u64 = 256 * 1024;

/// Where what is read of the body goes in. Dropped before the body's end, it breaks the copy off.
pub(crate) struct CopyFeed(Weak<RefCell<Shared>>);

/// The copy as it is sent.
pub(crate) struct BodyCopy(Rc<RefCell<Shared>>);

/// What has become of a copy, for whoever sends it.
pub(crate) struct CopyState(Option<Rc<RefCell<Shared>>>);

/// How a copy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// More may come.
    Open,
    /// All has come.
    Whole,
    /// The reader was too slow.
    Behind,
    /// The body broke off, or nobody read it to its end.
    BrokenOff,
}

/// Whether a copy is to be fed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fed {
    Yes,
    /// Nobody reads it any more, or it had to be given up.
    NoMore,
}

struct Shared {
    parts: VecDeque<Part>,
    held_bytes: u64,
    /// Bytes that are still to be read, where that is known.
    left: Option<u64>,
    standing: Standing,
    reader: Option<Waker>,
    /// Who waits for the copy to be given up: a reader that is stuck does not ask for more.
    watcher: Option<Waker>,
}

impl CopyFeed {
    /// A copy of a body of this length, where it is known.
    pub(crate) fn new(length: Option<u64>) -> (CopyFeed, BodyCopy, CopyState) {
        let shared = Rc::new(RefCell::new(Shared {
            parts: VecDeque::new(),
            held_bytes: 0,
            left: length,
            standing: Standing::Open,
            reader: None,
            watcher: None,
        }));
        let feed = CopyFeed(Rc::downgrade(&shared));
        (feed, BodyCopy(Rc::clone(&shared)), CopyState(Some(shared)))
    }

    /// Puts in what comes next.
    pub(crate) fn push(&mut self, part: &Part) -> Fed {
        let Some(shared) = self.0.upgrade() else {
            return Fed::NoMore;
        };
        let mut shared = shared.borrow_mut();
        if let Part::Data(data) = part {
            shared.held_bytes += data.len() as u64;
        }
        if shared.held_bytes > AHEAD_BYTES_MAX {
            shared.parts = VecDeque::new();
            shared.stand(Standing::Behind);
            return Fed::NoMore;
        }
        shared.parts.push_back(part.clone());
        shared.wake();
        Fed::Yes
    }

    /// The body is at its end.
    pub(crate) fn end(self) {
        if let Some(shared) = self.0.upgrade() {
            shared.borrow_mut().stand(Standing::Whole);
        }
    }
}

impl Drop for CopyFeed {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            let mut shared = shared.borrow_mut();
            if shared.standing == Standing::Open {
                shared.stand(Standing::BrokenOff);
            }
        }
    }
}

impl BodyCopy {
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut shared = self.0.borrow_mut();
        if let Some(part) = shared.parts.pop_front() {
            if let Part::Data(data) = &part {
                let bytes = data.len() as u64;
                shared.held_bytes -= bytes;
                shared.left = shared.left.map(|left| left.saturating_sub(bytes));
            }
            return Poll::Ready(Some(Ok(part.into_frame())));
        }
        match shared.standing {
            Standing::Whole => Poll::Ready(None),
            Standing::Behind | Standing::BrokenOff => Poll::Ready(Some(Err(BodyError::GivenUp))),
            Standing::Open => {
                shared.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        let left = self.0.borrow().left;
        left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl CopyState {
    /// Of a body without content.
    pub(crate) fn whole() -> CopyState {
        CopyState(None)
    }

    pub(crate) fn standing(&self) -> Standing {
        let shared = self.0.as_ref();
        shared.map_or(Standing::Whole, |shared| shared.borrow().standing)
    }

    /// Waits until the copy is given up, if it ever is.
    ///
    /// # Cancel safety
    /// Dropped, it leaves nothing behind.
    pub(crate) async fn given_up(&self) {
        std::future::poll_fn(|cx| match self.standing() {
            Standing::Behind | Standing::BrokenOff => Poll::Ready(()),
            Standing::Open | Standing::Whole => {
                if let Some(shared) = &self.0 {
                    shared.borrow_mut().watcher = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        })
        .await;
    }

    /// Whether all of it has been sent.
    pub(crate) fn is_spent(&self) -> bool {
        self.0.as_ref().is_none_or(|shared| {
            let shared = shared.borrow();
            shared.standing == Standing::Whole && shared.parts.is_empty()
        })
    }
}

impl Shared {
    fn stand(&mut self, standing: Standing) {
        self.standing = standing;
        self.wake();
        if let Some(watcher) = self.watcher.take() {
            watcher.wake();
        }
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(bytes: u64) -> Part {
        Part::Data(Bytes::from(vec![0; usize::try_from(bytes).expect("few")]))
    }

    /// How a copy ended.
    #[derive(Debug, PartialEq)]
    enum End {
        NotYet,
        Whole,
        Short,
    }

    /// Reads what is there now: the number of bytes, and the end.
    fn read(copy: &mut BodyCopy) -> (u64, End) {
        let mut cx = Context::from_waker(Waker::noop());
        let mut bytes = 0;
        loop {
            match copy.poll_frame(&mut cx) {
                Poll::Pending => return (bytes, End::NotYet),
                Poll::Ready(None) => return (bytes, End::Whole),
                Poll::Ready(Some(Err(_))) => return (bytes, End::Short),
                Poll::Ready(Some(Ok(frame))) => bytes += frame.data_ref().map_or(0, |data| data.len() as u64),
            }
        }
    }

    #[test]
    fn a_reader_that_keeps_up_gets_all() {
        let (mut feed, mut copy, state) = CopyFeed::new(Some(2 * AHEAD_BYTES_MAX));
        for _ in 0..2 {
            assert_eq!(feed.push(&data(AHEAD_BYTES_MAX)), Fed::Yes);
            assert_eq!(read(&mut copy), (AHEAD_BYTES_MAX, End::NotYet));
        }
        assert_eq!(copy.size_hint().exact(), Some(0));
        assert_eq!((state.standing(), state.is_spent()), (Standing::Open, false));
        feed.end();
        assert_eq!(read(&mut copy), (0, End::Whole));
        assert!(state.is_spent());
    }

    #[test]
    fn a_reader_that_falls_behind_is_given_up() {
        let (mut feed, mut copy, state) = CopyFeed::new(None);
        assert_eq!(feed.push(&data(AHEAD_BYTES_MAX)), Fed::Yes);
        assert_eq!(feed.push(&data(1)), Fed::NoMore);
        drop(feed);
        assert_eq!(read(&mut copy), (0, End::Short));
        assert_eq!(state.standing(), Standing::Behind);
    }

    #[test]
    fn a_body_that_breaks_off_breaks_the_copy_off() {
        let (mut feed, mut copy, state) = CopyFeed::new(None);
        assert_eq!(feed.push(&data(3)), Fed::Yes);
        drop(feed);
        assert_eq!(read(&mut copy), (3, End::Short));
        assert_eq!(state.standing(), Standing::BrokenOff);
    }

    #[test]
    fn without_a_reader_nothing_is_held() {
        let (mut feed, copy, state) = CopyFeed::new(None);
        drop((copy, state));
        assert_eq!(feed.push(&data(1)), Fed::NoMore);
    }
}
