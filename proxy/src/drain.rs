//! Draining: no new connections, no new requests on those there are, an end to those under way or to the time for it.

use tokio::sync::watch;

/// Tells every listener and connection when the drain begins. Cloned for each of them; the drain is over when all
/// clones are gone.
#[derive(Clone, Debug)]
pub(crate) struct Drain(watch::Receiver<bool>);

/// Begins the drain, and waits for its end.
#[derive(Debug)]
pub(crate) struct DrainControl(watch::Sender<bool>);

/// A drain that can be begun.
pub(crate) fn pair() -> (DrainControl, Drain) {
    let (sender, receiver) = watch::channel(false);
    (DrainControl(sender), Drain(receiver))
}

impl Drain {
    /// Returns once the drain has begun, or its control is gone.
    ///
    /// # Cancel safety
    /// Nothing is lost when dropped.
    pub(crate) async fn begun(&mut self) {
        let _ = self.0.wait_for(|begun| *begun).await;
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
        let waiting = tokio::spawn(async move { drain.begun().await });
        control.begin();
        waiting.await.expect("the waiter saw it begin");
        control.ended().await;
    }
}
