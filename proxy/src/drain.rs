//! Draining: no new connections, no new requests on those there are, an end to those under way or to the time for it.
//! What ends by itself only in days, like a byte stream, hears of the end of that time and ends then.

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Tells every listener and connection when the drain begins. Cloned for each of them; the drain is over when all
/// clones are gone.
#[derive(Clone, Debug)]
pub(crate) struct Drain {
    told: watch::Receiver<Stage>,
    seen: Seen,
    /// When it has begun for this one, whether the others go on or not.
    /// Boxed, as most have none.
    at: Option<Box<Instant>>,
}

/// Whether [`Drain::begun`] has returned: it takes the change for seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    No,
    Yes,
}

/// Begins the drain, and waits for its end.
#[derive(Debug)]
pub(crate) struct DrainControl(watch::Sender<Stage>);

/// How far a drain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Stage {
    NotBegun,
    Begun,
    /// Its time is over.
    Over,
}

/// A drain that can be begun.
pub(crate) fn pair() -> (DrainControl, Drain) {
    let (sender, told) = watch::channel(Stage::NotBegun);
    let drain = Drain {
        told,
        seen: Seen::No,
        at: None,
    };
    (DrainControl(sender), drain)
}

impl Drain {
    /// The same, which begins at this time at the latest: a connection that is not to be used for longer.
    pub(crate) fn until(self, at: Instant) -> Drain {
        Drain {
            at: Some(Box::new(at)),
            ..self
        }
    }

    /// Returns once the drain has begun, or its control is gone.
    ///
    /// # Cancel safety
    /// Nothing is lost when dropped.
    pub(crate) async fn begun(&mut self) {
        let told = self.told.wait_for(|stage| *stage >= Stage::Begun);
        match &self.at {
            None => drop(told.await),
            Some(at) => {
                let time = Box::pin(sleep_until(**at));
                tokio::select! {
                    _ = told => {}
                    () = time => return,
                }
            }
        }
        self.seen = Seen::Yes;
    }

    /// Returns once the time of the drain is over, or its control is gone. A time of its own, as by [`Drain::until`],
    /// has no part in that.
    ///
    /// # Cancel safety
    /// Nothing is lost when dropped.
    pub(crate) async fn over(&mut self) {
        let _ = self.told.wait_for(|stage| *stage == Stage::Over).await;
        self.seen = Seen::Yes;
    }

    /// Whether it has begun, or its control is gone. Takes no lock: the first change there is is the begin.
    pub(crate) fn has_begun(&self) -> bool {
        let told = self.seen == Seen::Yes || self.told.has_changed().unwrap_or(true);
        told || self.at.as_deref().is_some_and(|at| *at <= Instant::now())
    }
}

impl DrainControl {
    /// Begins it; again does nothing.
    pub(crate) fn begin(&self) {
        self.0.send_if_modified(|stage| {
            let first = *stage == Stage::NotBegun;
            if first {
                *stage = Stage::Begun;
            }
            first
        });
    }

    /// Its time is over: what listens for that ends now.
    pub(crate) fn over(&self) {
        self.0.send_replace(Stage::Over);
    }

    /// Waits until everything that holds a [`Drain`] has ended.
    pub(crate) async fn ended(&self) {
        self.0.closed().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_that_has_a_time_begins_by_itself() {
        let (control, drain) = pair();
        let mut alone = drain.clone().until(Instant::now() + Duration::from_secs(60));
        assert!(!alone.has_begun());
        alone.begun().await;
        assert!(alone.has_begun() && !drain.has_begun());
        let mut told = drain.until(Instant::now() + Duration::from_secs(60));
        control.begin();
        let asked = Instant::now();
        told.begun().await;
        assert_eq!(asked.elapsed(), Duration::ZERO, "the others' begin is its own");
    }

    #[tokio::test(start_paused = true)]
    async fn that_its_time_is_over_is_heard_by_those_who_listen_for_it() {
        let (control, drain) = pair();
        let mut other = drain.clone().until(Instant::now() + Duration::from_secs(60));
        let waiting = tokio::spawn(async move { other.over().await });
        control.begin();
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert!(
            !waiting.is_finished(),
            "neither the begin nor a time of its own is the end"
        );
        control.over();
        waiting.await.expect("the waiter saw it end");
        control.begin();
        assert!(drain.has_begun());
        drain.clone().over().await;
    }

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
