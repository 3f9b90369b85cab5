//! What waits to be sent on one stream: bounded, filled without waiting, ended at once by either side.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tonic::Status;

/// An item's share of an [`Outbox`]'s bound.
pub(crate) trait Weighed {
    /// Its size in bytes, roughly.
    fn bytes(&self) -> usize;
}

/// How much may wait on one stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Items.
    pub(crate) items_max: usize,
    /// The sum of their sizes.
    pub(crate) bytes_max: usize,
}

/// The filling end. Dropped, it ends the stream after what waits.
#[derive(Debug)]
pub(crate) struct Outbox<T> {
    shared: Arc<Shared<T>>,
    bounds: Bounds,
}

/// The sending end.
#[derive(Debug)]
pub(crate) struct Outgoing<T> {
    shared: Arc<Shared<T>>,
}

/// The other side does not read: what waited is dropped, the stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer does not read what it is sent")]
pub(crate) struct Full;

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    news: Notify,
}

#[derive(Debug)]
struct State<T> {
    queue: VecDeque<T>,
    bytes: usize,
    end: Option<End>,
}

#[derive(Debug)]
enum End {
    Ok,
    With(Status),
}

/// Both ends of an empty outbox.
pub(crate) fn outbox<T>(bounds: Bounds) -> (Outbox<T>, Outgoing<T>) {
    let state = State {
        queue: VecDeque::new(),
        bytes: 0,
        end: None,
    };
    let shared = Arc::new(Shared {
        state: Mutex::new(state),
        news: Notify::new(),
    });
    let outgoing = Outgoing {
        shared: Arc::clone(&shared),
    };
    (Outbox { shared, bounds }, outgoing)
}

impl<T: Weighed> Outbox<T> {
    /// Puts items behind those that wait.
    ///
    /// # Errors
    /// When too much waits; the stream is ended then.
    pub(crate) fn push(&self, items: impl IntoIterator<Item = T>) -> Result<(), Full> {
        {
            let mut state = self.shared.lock();
            for item in items {
                state.bytes += item.bytes();
                state.queue.push_back(item);
                if state.queue.len() > self.bounds.items_max || state.bytes > self.bounds.bytes_max {
                    state.queue = VecDeque::new();
                    state.bytes = 0;
                    state.end = Some(End::With(Status::resource_exhausted(Full.to_string())));
                    self.shared.news.notify_one();
                    return Err(Full);
                }
            }
        }
        self.shared.news.notify_one();
        Ok(())
    }
}

impl<T> Outbox<T> {
    /// Ends the stream with a status; what waits is dropped.
    pub(crate) fn end(&self, status: Status) {
        {
            let mut state = self.shared.lock();
            state.queue = VecDeque::new();
            state.bytes = 0;
            state.end = Some(End::With(status));
        }
        self.shared.news.notify_one();
    }
}

impl<T> Drop for Outbox<T> {
    fn drop(&mut self) {
        self.shared.lock().end.get_or_insert(End::Ok);
        self.shared.news.notify_one();
    }
}

impl<T: Weighed> Outgoing<T> {
    /// The next item; `Ok(None)`: the stream is over.
    ///
    /// # Errors
    /// The status that ends the stream.
    ///
    /// # Cancel safety
    /// Safe: an item is taken only when it is returned.
    pub(crate) async fn next(&mut self) -> Result<Option<T>, Status> {
        loop {
            {
                let mut state = self.shared.lock();
                if let Some(item) = state.queue.pop_front() {
                    state.bytes -= item.bytes();
                    return Ok(Some(item));
                }
                match state.end.take() {
                    Some(End::With(status)) => {
                        state.end = Some(End::Ok);
                        return Err(status);
                    }
                    Some(End::Ok) => {
                        state.end = Some(End::Ok);
                        return Ok(None);
                    }
                    None => {}
                }
            }
            // A notification that came after the lock was released is kept for this wait.
            self.shared.news.notified().await;
        }
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Each change under the lock is whole before anything in it can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Weighed for &'static str {
        fn bytes(&self) -> usize {
            self.len()
        }
    }

    const BOUNDS: Bounds = Bounds {
        items_max: 3,
        bytes_max: 10,
    };

    #[tokio::test]
    async fn items_come_in_order_and_then_the_end() {
        let (outbox, mut outgoing) = outbox(BOUNDS);
        outbox.push(["a", "b"]).expect("there is room");
        assert_eq!(outgoing.next().await.expect("open"), Some("a"));
        drop(outbox);
        assert_eq!(outgoing.next().await.expect("one waits"), Some("b"));
        assert_eq!(outgoing.next().await.expect("ended well"), None);
        assert_eq!(outgoing.next().await.expect("still"), None);
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_is_ended_and_costs_nothing() {
        for items in [["a", "b", "c", "d"].as_slice(), &["0123456789", "x"]] {
            let (outbox, mut outgoing) = outbox(BOUNDS);
            assert_eq!(outbox.push(items.iter().copied()), Err(Full));
            let status = outgoing.next().await.expect_err("ended");
            assert_eq!(status.code(), tonic::Code::ResourceExhausted);
            assert_eq!(outgoing.next().await.expect("over"), None);
        }
    }

    #[tokio::test]
    async fn what_was_read_makes_room() {
        let (outbox, mut outgoing) = outbox(BOUNDS);
        for _ in 0..100 {
            outbox.push(["abc", "abc"]).expect("the last were read");
            outgoing.next().await.expect("open");
            outgoing.next().await.expect("open");
        }
    }

    #[tokio::test]
    async fn an_end_wakes_who_waits() {
        let (outbox, mut outgoing) = outbox::<&'static str>(BOUNDS);
        let waits = tokio::spawn(async move { outgoing.next().await });
        tokio::task::yield_now().await;
        outbox.end(Status::unavailable("over"));
        let ended = waits.await.expect("no panic").expect_err("a status");
        assert_eq!(ended.code(), tonic::Code::Unavailable);
    }
}
