//! Draining: no new connections, no new requests on those there are, an end to those under way or to the time for it.

use tokio::sync::watch;

/// Tells every listener and connection when the drain begins. Cloned for each of them; the drain is over when all
/// clones are gone.
#[derive(Clone, Debug)]
pub(crate) struct Drain {
    told: watch::Receiver<bool>,
    seen: Seen,
}

/// Whether [`Drain::begun`] has returned: it takes the change for seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    No,
    Yes,
}

/// Begins the drain, and waits for its end.
#[derive(Debug)]
pub(crate) struct DrainControl(watch::Sender<bool>);

/// A drain that can be begun.
pub(crate) fn pair() -> (DrainControl, Drain) {
    let (sender, told) = watch::channel(false);
    (DrainControl(sender), Drain { told, seen: Seen::No })
}

impl Drain {
    /// Returns once the drain has begun, or its control is gone.
    ///
    /// # Cancel safety
    /// Nothing is lost when dropped.
    pub(crate) async fn begun(&mut self) {
        let _ = self.told.wait_for(|begun| *begun).await;
        self.seen = Seen::Yes;
    }

    /// Whether it has begun, or its control is gone. Takes no lock: the only change there is is the begin.
    pub(crate) fn has_begun(&self) -> bool {
        self.seen == Seen::Yes || self.told.has_changed().unwrap_or(true)
    }
}

impl DrainControl {
    /// Begins it; again does nothing.
    pub(crate) fn begin(&self) {
        self.0.send_replace(true);
    }

    /// Waits until everything that holds a [`Drain`] has ended.
    pub(crate) async fn ended(&self) {
        self.0.closed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_ends_when_the_last_that_takes_part_has_ended() {
        let (control, mut drain) = pair();
        let other = drain.clone();
        assert!(!drain.has_begun());
        let waiting = tokio::spawn(async move {
            drain.begun().await;
            assert!(drain.has_begun());
        });
        control.begin();
        assert!(other.has_begun());
        drop(other);
        waiting.await.expect("the waiter saw it begin");
        control.ended().await;
    }
}
